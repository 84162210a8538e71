/* Processes: storms of fork, copy on write, pipes, exec, signals between them; single steps by ptrace. */
#include "check.h"
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096 };

static void storm(void) {
    uint64_t sum = 0;
    for (int i = 0; i < 1000; i++) {
        pid_t child = fork();
        if (child == 0)
            _exit(i * 7 & 0xff);
        int status = 0;
        expect(waitpid(child, &status, 0) == child && WIFEXITED(status));
        sum = sum * 31 + WEXITSTATUS(status);
    }
    mix(sum);
    for (int round = 0; round < 5; round++) { /* many at a time */
        pid_t children[50];
        for (int i = 0; i < 50; i++)
            if ((children[i] = fork()) == 0)
                _exit(round + i);
        for (int i = 0; i < 50; i++) {
            int status = 0;
            waitpid(children[i], &status, 0);
            mix(WEXITSTATUS(status));
        }
    }
    topic("fork and exit");
}

/* Parent and child write the same pages; neither sees the other's; what is shared is seen. */
static void copy_on_write(void) {
    enum { PAGES = 64 };
    uint8_t *own = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    volatile uint64_t *shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < PAGES; i++)
        own[i * PAGE] = i;
    for (int round = 0; round < 20; round++) {
        pid_t child = fork();
        if (child == 0) {
            uint64_t sum = 0;
            for (int i = 0; i < PAGES; i++) {
                sum = sum * 31 + own[i * PAGE];
                own[i * PAGE] += round + 1;
                sum = sum * 31 + own[i * PAGE];
            }
            shared[round] = sum;
            _exit(0);
        }
        for (int i = 0; i < PAGES; i += 3)
            own[i * PAGE + 8] = round;
        waitpid(child, NULL, 0);
        mix(shared[round]);
    }
    mix_bytes(own, PAGES * PAGE);
    topic("copy on write");
}

static void pipes(void) {
    int there[2], back[2];
    if (pipe(there) || pipe(back))
        return;
    pid_t child = fork();
    if (child == 0) {
        uint64_t x;
        close(there[1]);
        while (read(there[0], &x, sizeof x) == sizeof x) {
            x = x * 3 + 1;
            if (write(back[1], &x, sizeof x) != sizeof x)
                break;
        }
        _exit(0);
    }
    uint64_t x = 1;
    for (int i = 0; i < 1000; i++) {
        expect(write(there[1], &x, sizeof x) == sizeof x && read(back[0], &x, sizeof x) == sizeof x);
        x ^= i;
    }
    close(there[1]), close(there[0]), close(back[1]);
    waitpid(child, NULL, 0);
    expect(read(back[0], &x, sizeof x) == 0);
    close(back[0]);
    mix(x);
    if (pipe(there)) /* more than a pipe holds, in odd pieces */
        return;
    if ((child = fork()) == 0) {
        static uint8_t block[7777];
        close(there[0]);
        for (int i = 0; i < 100; i++) {
            memset(block, i, sizeof block);
            if (write(there[1], block, sizeof block) < 0)
                _exit(1);
        }
        _exit(0);
    }
    close(there[1]);
    uint8_t block[1000];
    uint64_t sum = 0, total = 0;
    for (ssize_t n; (n = read(there[0], block, sizeof block)) > 0; total += n)
        for (int i = 0; i < n; i++)
            sum = sum * 31 + block[i];
    close(there[0]);
    waitpid(child, NULL, 0);
    mix(sum), mix(total);
    topic("pipes");
}

static void deaths(void) {
    static const int SIGNALS[] = {SIGKILL, SIGTERM, SIGSEGV, SIGABRT, SIGUSR1};
    for (size_t i = 0; i < COUNT(SIGNALS); i++) {
        pid_t child = fork();
        if (child == 0)
            for (;;)
                pause();
        int status = 0;
        kill(child, SIGNALS[i]);
        waitpid(child, &status, 0);
        mix(WIFSIGNALED(status)), mix(WTERMSIG(status));
    }
    for (int i = 0; i < 4; i++) { /* by their own fault */
        pid_t child = fork();
        if (child == 0) {
            if (i == 0)
                asm volatile("movl $1, 8");
            else if (i == 1)
                asm volatile("ud2");
            else if (i == 2)
                asm volatile("div %%ecx" ::"a"(1), "d"(0), "c"(0));
            else
                asm volatile("int3");
            _exit(77);
        }
        int status = 0;
        waitpid(child, &status, 0);
        mix(WIFSIGNALED(status)), mix(WTERMSIG(status));
    }
    topic("deaths");
}

static void executions(char *self) {
    for (int i = 0; i < 20; i++) {
        pid_t child = fork();
        if (child == 0) {
            execl(self, self, "exit", (char *)NULL);
            _exit(1);
        }
        int status = 0;
        waitpid(child, &status, 0);
        mix(status);
    }
    topic("exec");
}

/* The instructions that the child steps through, from the raise to its exit; and its registers seen and changed. */
static void stepped(uint64_t *result) {
    uint64_t x = 3;
    asm volatile("int3\n mov $5, %%ecx\n 1: imul $7, %[x]\n dec %%ecx\n jnz 1b\n push %[x]\n popq %[x]\n int3" : [x] "+b"(x)::"rcx", "cc");
    *result = x;
}

static void steps(void) {
    pid_t child = fork();
    if (child == 0) {
        uint64_t x;
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        stepped(&x);
        _exit(x & 0xff);
    }
    int status = 0;
    struct user_regs_struct registers;
    waitpid(child, &status, 0);
    mix(WIFSTOPPED(status)), mix(WSTOPSIG(status));
    if (!WIFSTOPPED(status)) {
        kill(child, SIGKILL), waitpid(child, &status, 0);
        topic("ptrace");
        return;
    }
    ptrace(PTRACE_GETREGS, child, NULL, &registers);
    uint64_t first = registers.rip;
    for (int i = 0; i < 40; i++) { /* the second int3 ends the steps */
        if (ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) || waitpid(child, &status, 0) != child || !WIFSTOPPED(status))
            break;
        ptrace(PTRACE_GETREGS, child, NULL, &registers);
        mix(registers.rip - first), mix(registers.rbx), mix((uint32_t)registers.rcx);
        if ((ptrace(PTRACE_PEEKTEXT, child, registers.rip - 1, NULL) & 0xff) == 0xcc && registers.rip - first > 5)
            break;
    }
    registers.rbx += 1;
    ptrace(PTRACE_SETREGS, child, NULL, &registers);
    ptrace(PTRACE_CONT, child, NULL, NULL);
    waitpid(child, &status, 0);
    mix(status);
    topic("ptrace");
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "exit"))
        return 42;
    begin(argc, argv, "processes");
    storm(), copy_on_write(), pipes(), deaths(), executions(argv[0]), steps();
    return 0;
}
