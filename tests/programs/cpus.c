/* What one CPU changes and the others see: code, mappings, data beside code. On one CPU the threads take turns.
 * Code of another CPU's is run as the SDM wants it: told by memory, then an instruction that serializes
 * (volume 3, 8.1.3). */
#include "check.h"
#include <cpuid.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, RWX = PROT_READ | PROT_WRITE | PROT_EXEC, OTHERS = 3, ROUNDS = 400 };
typedef uint64_t (*Function)(uint64_t);

static uint8_t *code, *place;
static atomic_uint turn, seen, wrong;

static uint8_t *pages(int count) {
    return mmap(NULL, count * PAGE, RWX, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

/* lea VALUE(%rdi), %rax; ret */
static void put_add(uint8_t *at, uint32_t value) {
    static const uint8_t LEA[] = {0x48, 0x8d, 0x87};
    memcpy(at, LEA, 3), memcpy(at + 3, &value, 4), at[7] = 0xc3;
}

static void run(void *(*first)(void *), void *(*other)(void *)) {
    pthread_t threads[OTHERS];
    turn = seen = wrong = 0;
    for (uintptr_t i = 0; i < OTHERS; i++)
        expect(!pthread_create(&threads[i], NULL, other, (void *)i));
    first(NULL);
    for (int i = 0; i < OTHERS; i++)
        pthread_join(threads[i], NULL);
    mix(wrong);
}

/* The first begins the next round when all others are done with this one. */
static void next_turn(void) {
    turn++;
    while (seen != turn * OTHERS)
        sched_yield();
}

static void wait_for_turn(unsigned round) {
    unsigned a, b, c, d;
    while (turn < round)
        sched_yield();
    __cpuid(0, a, b, c, d);
}

static void *patches(void *unused) {
    for (uint32_t i = 1; i <= ROUNDS; i++) {
        if (i % 3)
            *(volatile uint32_t *)(code + 3) = i * 7; /* a number in it; or all of it, elsewhere too */
        else
            put_add(code, i * 7), put_add(code + PAGE + 8 * (i % 64), i);
        next_turn();
    }
    return unused;
}

static void *calls(void *me) {
    for (uint32_t i = 1; i <= ROUNDS; i++) {
        wait_for_turn(i);
        uint64_t x = (uintptr_t)me << 20;
        for (int again = 0; again < 20; again++)
            wrong += ((Function)code)(x) != x + i * 7;
        if (i % 3 == 0)
            wrong += ((Function)(code + PAGE + 8 * (i % 64)))(x) != x + i;
        seen++;
    }
    return me;
}

/* All count in the page of the code that they call, which nobody changes. */
static void *counts(void *me) {
    for (int i = 0; i < ROUNDS; i++) {
        wrong += ((Function)code)(i) != (uint64_t)i + 5;
        atomic_fetch_add((atomic_uint *)(code + 256), 3);
        atomic_fetch_xor((atomic_ullong *)(code + 512), 1ull << (i & 63));
        unsigned old = *(volatile unsigned *)(code + 1024);
        while (!atomic_compare_exchange_weak((atomic_uint *)(code + 1024), &old, old * 1 + 1))
            ;
    }
    return me;
}

static void *remaps(void *unused) {
    for (unsigned i = 1; i <= ROUNDS; i++) {
        expect(mmap(place, PAGE, RWX, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == place);
        *(unsigned *)place = i;
        put_add(place + 64, i);
        if (i % 5 == 0)
            mprotect(place, PAGE, PROT_READ | PROT_EXEC);
        next_turn();
    }
    return unused;
}

static void *reads(void *me) {
    for (unsigned i = 1; i <= ROUNDS; i++) {
        wait_for_turn(i);
        wrong += *(volatile unsigned *)place != i;
        wrong += ((Function)(place + 64))(1) != i + 1;
        seen++;
    }
    return me;
}

/* Processes that begin and end on all CPUs, of which each writes to what it shares until then. */
static void forks(void) {
    unsigned *shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    unsigned *own = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int round = 0; round < 12; round++) {
        for (int child = 0; child < 8; child++)
            if (fork() == 0) {
                for (int page = 0; page < 16; page++)
                    own[page * PAGE / 4] += page * child;
                for (int page = 0; page < 16; page++)
                    atomic_fetch_add((atomic_uint *)shared, own[page * PAGE / 4] + 1);
                put_add(code, child);
                _exit(((Function)code)(round) == (uint64_t)(round + child) ? 0 : 1);
            }
        for (int child = 0; child < 8; child++) {
            int status;
            wait(&status);
            mix(status);
        }
        own[round * PAGE / 4]++;
    }
    mix(*shared);
    topic("forks");
}

int main(int argc, char **argv) {
    begin(argc, argv, "cpus");
    code = pages(2), place = pages(1);
    put_add(code, 0);
    run(patches, calls);
    topic("patches");
    put_add(code, 5);
    run(counts, counts);
    mix_bytes(code + 256, 4), mix_bytes(code + 512, 8), mix_bytes(code + 1024, 4);
    topic("counts");
    run(remaps, reads);
    topic("remaps");
    forks();
    return 0;
}
