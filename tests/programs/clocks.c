/* Time and system calls: that clocks go forward and agree, sleeps end in their order and not early, timers come. */
#include "check.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

static int64_t now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void nap(int64_t ns) {
    struct timespec t = {ns / 1000000000, ns % 1000000000};
    while (nanosleep(&t, &t) && errno == EINTR)
        ;
}

static void calls(void) {
    int wrong = 0;
    long pid = getpid();
    for (int i = 0; i < 10000; i++)
        wrong += syscall(SYS_getpid) != pid;
    mix(wrong);
    mix(syscall(SYS_getpid + 100000) == -1 && errno == ENOSYS);
    mix(write(-1, "", 1) == -1 && errno == EBADF);
    mix(write(1, (void *)0x800000000000, 1) == -1 && errno == EFAULT); /* an address that isn't the user's */
    mix(read(0, (void *)8, 0) >= 0);
    topic("system calls");
    uint64_t flags, r11, at; /* R11 takes the flags, RCX the next address; both come back (SDM volume 2, SYSCALL) */
    asm volatile("mov $39, %%eax\n cmp %%eax, %%eax\n stc\n lea 1f(%%rip), %[at]\n syscall\n 1: pushfq\n pop %[f]\n sub %%rcx, %[at]\n mov %%r11, %[r11]"
                 : [f] "=&r"(flags), [r11] "=&r"(r11), [at] "=&r"(at)::"rax", "rcx", "r11", "cc", "memory");
    mix(flags & 0x8d5), mix(r11 & 0x8d5), mix(at);
    topic("registers over a system call");
}

static void forward(void) {
    static const clockid_t CLOCKS[] = {CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_MONOTONIC_RAW, CLOCK_BOOTTIME, CLOCK_PROCESS_CPUTIME_ID};
    for (size_t c = 0; c < COUNT(CLOCKS); c++) {
        int64_t last = now(CLOCKS[c]), back = 0, first = last;
        for (int i = 0; i < 5000; i++) {
            int64_t t = now(CLOCKS[c]);
            back += t < last;
            last = t;
        }
        mix(back);
        expect(last > first);
    }
    uint64_t last = __rdtsc(), back = 0;
    for (int i = 0; i < 20000; i++) {
        uint64_t t = __rdtsc();
        back += t < last;
        last = t;
    }
    mix(back);
    int64_t a = now(CLOCK_MONOTONIC), b = now(CLOCK_BOOTTIME), c = now(CLOCK_MONOTONIC);
    nap(50000000);
    int64_t d = now(CLOCK_MONOTONIC), e = now(CLOCK_BOOTTIME), f = now(CLOCK_MONOTONIC);
    expect(e - b >= d - c && e - b <= f - a); /* the one lies between the other */
    topic("clocks go forward");
}

/* Children that sleep for longer are done later. */
static void order(void) {
    int ends[2];
    if (pipe(ends))
        return;
    static const int TENTHS[] = {4, 1, 3, 2, 0};
    for (size_t i = 0; i < COUNT(TENTHS); i++)
        if (fork() == 0) {
            int64_t start = now(CLOCK_MONOTONIC), ns = TENTHS[i] * 200000000ll;
            nap(ns);
            char mark = now(CLOCK_MONOTONIC) - start >= ns ? '0' + TENTHS[i] : 'e'; /* too early */
            _exit(write(ends[1], &mark, 1) != 1);
        }
    char marks[COUNT(TENTHS)];
    for (size_t i = 0; i < COUNT(TENTHS); i++)
        mix(read(ends[0], marks + i, 1));
    mix_bytes(marks, sizeof marks);
    while (wait(NULL) > 0)
        ;
    topic("sleeps end in order");
}

static volatile sig_atomic_t ticks;
static void tick(int signal) {
    (void)signal;
    ticks++;
}

static void timers(void) {
    signal(SIGALRM, tick), signal(SIGVTALRM, tick);
    struct itimerval every = {{0, 10000}, {0, 10000}}, off = {{0, 0}, {0, 0}};
    int64_t start = now(CLOCK_MONOTONIC);
    setitimer(ITIMER_REAL, &every, NULL);
    uint64_t x = 1;
    while (ticks < 10) /* in the middle of a loop that makes no system call */
        x = x * 3 + 1;
    setitimer(ITIMER_REAL, &off, NULL);
    expect(now(CLOCK_MONOTONIC) - start >= 95000000);
    expect(x != 0);
    ticks = 0;
    every.it_value.tv_usec = every.it_interval.tv_usec = 20000;
    setitimer(ITIMER_VIRTUAL, &every, NULL);
    while (ticks < 3)
        x = x * 3 + 1;
    setitimer(ITIMER_VIRTUAL, &off, NULL);
    expect(x != 0);

    int fd = timerfd_create(CLOCK_MONOTONIC, 0);
    struct itimerspec often = {{0, 5000000}, {0, 5000000}};
    start = now(CLOCK_MONOTONIC);
    timerfd_settime(fd, 0, &often, NULL);
    uint64_t expired, total = 0;
    while (total < 20 && read(fd, &expired, sizeof expired) == sizeof expired)
        total += expired;
    expect(total >= 20 && now(CLOCK_MONOTONIC) - start >= 99000000);
    close(fd);
    start = now(CLOCK_MONOTONIC);
    mix(poll(NULL, 0, 30));
    expect(now(CLOCK_MONOTONIC) - start >= 30000000);
    alarm(1);
    ticks = 0;
    pause();
    mix(ticks);
    topic("timers");
}

int main(int argc, char **argv) {
    begin(argc, argv, "clocks");
    calls(), forward(), order(), timers();
    return 0;
}
