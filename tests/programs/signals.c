/* Faults as signals: their number, reason and address, and going on after them, also on another stack. */
#include "check.h"
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

enum { PAGE = 4096, TF = 0x100 };
static uint8_t *area; /* three pages; what may be done with them changes */
static volatile int number, code;
static volatile uint64_t address;
static volatile uint64_t count;
static uintptr_t start_of_code;
static sigjmp_buf escape;

/* The end of a topic, which the next one owes nothing. */
static void done(const char *name) {
    topic(name);
    number = code = address = count = 0;
}

static void handle(int signal, void (*handler)(int, siginfo_t *, void *), int flags) {
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags};
    sigaction(signal, &action, NULL);
}

static void note(int signal, siginfo_t *info) {
    number = signal, code = info->si_code, address = (uintptr_t)info->si_addr;
    count++;
}

/* Makes the page accessible, and goes on with the same instruction. */
static void allow(int signal, siginfo_t *info, void *context) {
    (void)context;
    note(signal, info);
    mprotect((void *)(address & -PAGE), PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
}

static void leave(int signal, siginfo_t *info, void *context) {
    (void)context;
    note(signal, info);
    siglongjmp(escape, 1);
}

/* Skips as many bytes as `skipped` says. */
static volatile int skipped;
static void skip(int signal, siginfo_t *info, void *context) {
    note(signal, info);
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += skipped;
}

static void told(void) {
    mix(number), mix(code), mix(number ? address - (uintptr_t)area : 0), mix(count);
    number = code = address = 0;
}

static void segmentation_faults(void) {
    handle(SIGSEGV, allow, 0);
    for (int protection = 0; protection < 3; protection++) {
        static const int PROTECTIONS[] = {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE};
        for (int offset = PAGE - 9; offset < PAGE + 9; offset++) { /* an access of 8 bytes, also over the edge */
            mprotect(area, 3 * PAGE, PROT_READ | PROT_WRITE);
            *(uint64_t *)(area + offset) = 0x1122334455667788;
            mprotect(area + PAGE, PAGE, PROTECTIONS[protection]);
            uint64_t x = 1, flags;
            asm volatile("stc\n adc %[m], %[x]\n pushfq\n pop %[f]" : [x] "+r"(x), [f] "=&r"(flags) : [m] "m"(*(uint64_t *)(area + offset)) : "cc");
            mix(x), mix(flags & 0x8d5), told();
            asm volatile("lock addq $5, %[m]" : [m] "+m"(*(uint64_t *)(area + offset))::"cc");
            mix(*(uint64_t *)(area + offset)), told();
        }
    }
    done("fix and repeat");
    mprotect(area, 3 * PAGE, PROT_READ | PROT_WRITE);
    mprotect(area + PAGE, PAGE, PROT_NONE);
    for (int i = 0; i < 2 * PAGE; i++)
        area[i < PAGE ? i : i + PAGE] = i;
    void *from = area + 100, *to = area + PAGE - 50; /* in the middle of a repeated copy */
    uint64_t left = 200;
    asm volatile("rep movsb" : "+S"(from), "+D"(to), "+c"(left)::"memory");
    mix((uint8_t *)to - area), mix(left), mix_bytes(area + PAGE - 60, 300), told();
    mprotect(area + PAGE, PAGE, PROT_NONE);
    to = area + 2 * PAGE + 20, left = 30;
    asm volatile("std\n rep stosl\n cld" : "+D"(to), "+c"(left) : "a"(0x31415926) : "memory");
    mix((uint8_t *)to - area), mix_bytes(area + PAGE, 2 * PAGE), told();
    done("faults within string instructions");

    handle(SIGSEGV, leave, SA_NODEFER);
    munmap(area + PAGE, PAGE);
    if (!sigsetjmp(escape, 1))
        *(volatile int *)(area + PAGE + 12) = 1;
    told();
    if (!sigsetjmp(escape, 1))
        ((void (*)(void))(area + 64))(); /* no execution there */
    told();
    if (!sigsetjmp(escape, 1))
        asm volatile("mov (%0), %%eax" ::"r"(0x8000000000000000) : "eax"); /* not canonical: no address is told */
    mix(number), mix(code), mix(address);
    if (!sigsetjmp(escape, 1))
        asm volatile("jmp *%0" ::"r"(0xffff800000000000));
    mix(number), mix(code), mix(address);
    if (!sigsetjmp(escape, 1))
        asm volatile("movaps (%0), %%xmm0" ::"r"(area + 8) : "xmm0"); /* not aligned */
    mix(number), mix(code), mix(address);
    if (!sigsetjmp(escape, 1))
        asm volatile("hlt");
    mix(number), mix(code), mix(address);
    if (!sigsetjmp(escape, 1))
        asm volatile("mov %%cr3, %%rax" ::: "rax");
    mix(number), mix(code), mix(address);
    done("no access");
    mmap(area + PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

/* rdx:rax by rcx, with the quotient where there is one. */
#define DIVIDE(insn, high_, low_, by) \
    if (!sigsetjmp(escape, 1)) { \
        uint64_t low = low_, high = high_; \
        asm volatile(insn : "+a"(low), "+d"(high) : "c"(by) : "cc"); \
        mix(low), mix(high); \
    } \
    mix(number), mix(code); \
    number = code = 0;

static void division(void) {
    handle(SIGFPE, leave, SA_NODEFER);
    DIVIDE("divq %%rcx", 0, 7, 0ull) DIVIDE("idivq %%rcx", 0, 7, 0ull) DIVIDE("divl %%ecx", 0, 7, 0ull)
    DIVIDE("divw %%cx", 0, 7, 0x10000ull) DIVIDE("divb %%cl", 0, 7, 0x100ull) DIVIDE("idivb %%cl", 0, 7, 0x100ull)
    DIVIDE("idivq %%rcx", -1ull, 0x8000000000000000, -1ull) /* INT64_MIN / -1 */
    DIVIDE("idivl %%ecx", 0xffffffff, 0x80000000, -1ull) DIVIDE("idivw %%cx", 0xffff, 0x8000, -1ull) DIVIDE("idivb %%cl", 0, 0xff80, -1ull)
    DIVIDE("divq %%rcx", 5, 0, 5ull) DIVIDE("divq %%rcx", 4, -1ull, 5ull) DIVIDE("divl %%ecx", 1, 0, 1ull) DIVIDE("divb %%cl", 0, 0x1000, 0x10ull)
    DIVIDE("idivb %%cl", 0, 0x80, 1ull) DIVIDE("idivb %%cl", 0, 0xff80, 1ull) DIVIDE("idivw %%cx", 0, 0x8000, 1ull)
    done("division");
}

static void undefined_instructions(void) {
    handle(SIGILL, skip, 0);
    skipped = 2;
    uint64_t x = 5;
    for (int i = 0; i < 20; i++) {
        asm volatile("ud2\n add $3, %[x]" : [x] "+r"(x)::"cc");
        mix(number), mix(code), mix(x);
    }
    asm volatile(".byte 0x0f, 0xff\n nop\n inc %[x]" : [x] "+r"(x)::"cc"); /* ud0; with a ModRM byte on some */
    mix(x);
    skipped = 1;
    asm volatile(".byte 0x06\n inc %[x]" : [x] "+r"(x)::"cc"); /* push es: not in 64-bit mode */
    mix(number), mix(x);
    asm volatile(".byte 0xd6\n inc %[x]" : [x] "+r"(x)::"cc"); /* salc: the same */
    mix(number), mix(x);
    skipped = 5;
    asm volatile(".byte 0xf0, 0x48, 0x8d, 0x40, 0x00\n inc %[x]" : [x] "+r"(x)::"cc"); /* lock lea */
    mix(number), mix(x), mix(count);
    done("undefined instructions");
}

/* With TF each instruction is followed by a trap: where they come is what is checked. */
static void trapped(int signal, siginfo_t *info, void *context) {
    note(signal, info);
    mix(((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] - start_of_code);
    mix(code);
}

static void traps(void) {
    handle(SIGTRAP, trapped, 0);
    uint64_t x = 1;
    asm volatile("lea 1f(%%rip), %%rax\n mov %%rax, %[c]\n 1: int3\n add $1, %[x]\n .byte 0xcd, 3\n nop" /* int $3 */
                 : [c] "=m"(start_of_code), [x] "+b"(x)::"rax", "cc");
    mix(x), mix(count);
    asm volatile("lea 1f(%%rip), %%rax\n mov %%rax, %[c]\n pushfq\n orl $0x100, (%%rsp)\n popfq\n"
                 "1: add $1, %[x]\n mov $3, %%ecx\n 2: add %[x], %[x]\n loop 2b\n push %%rcx\n pop %%rcx\n call 3f\n jmp 4f\n 3: ret\n"
                 "4: lea 5f(%%rip), %%rdx\n jmp *%%rdx\n nop\n 5: mov $39, %%eax\n syscall\n mov $3, %%ecx\n lea %[b], %%rdi\n rep stosb\n"
                 "pushfq\n andl $~0x100, (%%rsp)\n popfq\n nop"
                 : [c] "=m"(start_of_code), [x] "+b"(x), [b] "=m"(*(uint64_t *)area)::"rax", "rcx", "rdx", "rdi", "r11", "cc", "memory");
    mix(x), mix(count);
    done("breakpoints and single steps");
}

/* A handler on a stack of its own, where the program's own can't be used. */
static void on_other_stack(int signal, siginfo_t *info, void *context) {
    note(signal, info);
    uint8_t here;
    mix(&here >= area && &here < area + 3 * PAGE);
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RSP] = ((ucontext_t *)context)->uc_mcontext.gregs[REG_R12];
}

static void other_stack(void) {
    stack_t old, other = {.ss_sp = malloc(65536), .ss_size = 65536};
    sigaltstack(&other, &old);
    handle(SIGSEGV, on_other_stack, SA_ONSTACK);
    for (int i = 0; i < 10; i++)
        asm volatile("mov %%rsp, %%r12\n mov $64, %%esp\n push %%rax\n mov %%r12, %%rsp" ::: "r12", "memory", "cc");
    mix(number), mix(count);
    handle(SIGUSR1, leave, SA_NODEFER);
    for (int i = 0; i < 100; i++)
        if (!sigsetjmp(escape, 1))
            raise(SIGUSR1);
    mix(number), mix(count);
    sigaltstack(&old, NULL);
    done("other stack, siglongjmp");
}

/* Signals keep all registers, SSE's and the flags too; blocked ones wait. */
static void quiet(int signal) {
    count += signal;
    asm volatile("pxor %%xmm0, %%xmm0\n pxor %%xmm15, %%xmm15\n fninit\n fldz" ::: "xmm0", "xmm15");
}

static void kept(void) {
    signal(SIGUSR2, quiet);
    sigset_t set, old, pending;
    sigemptyset(&set), sigaddset(&set, SIGUSR2);
    sigprocmask(SIG_BLOCK, &set, &old);
    raise(SIGUSR2), raise(SIGUSR2);
    sigpending(&pending);
    mix(sigismember(&pending, SIGUSR2)), mix(count);
    sigprocmask(SIG_SETMASK, &old, NULL);
    mix(count);
    uint64_t a = 0x1111111111111111, flags, pid = getpid();
    double x = 1.25, y = 0;
    asm volatile("movq %[a], %%xmm15\n fldl %[x]\n mov $62, %%eax\n mov %[pid], %%rdi\n mov $12, %%esi\n cmp %%esi, %%esi\n stc\n syscall\n pushfq\n pop %[f]\n"
                 "movq %%xmm15, %[a]\n fstpl %[y]"
                 : [a] "+r"(a), [f] "=&r"(flags), [y] "=m"(y) : [x] "m"(x), [pid] "r"(pid)
                 : "rax", "rcx", "rdi", "rsi", "r11", "xmm15", "cc", "memory");
    mix(a), mix(flags & 0x8d5), mix_bytes(&y, 8), mix(count);
    done("registers over a signal");
}

int main(int argc, char **argv) {
    begin(argc, argv, "signals");
    area = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    segmentation_faults(), division(), undefined_instructions(), traps(), other_stack(), kept();
    return 0;
}
