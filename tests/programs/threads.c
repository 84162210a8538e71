/* Threads: mutex, condition, semaphore, futex, atomics, thread-local storage, vector registers over switches of
 * tasks. What is counted is the same whatever the order. */
#include "check.h"
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { THREADS = 8, ROUNDS = 2000 };
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static volatile uint64_t guarded;
static atomic_ullong counter, bits, swapped;
static __thread uint64_t own;
static sem_t semaphore;
static pthread_barrier_t barrier;

static void run(const char *name, void *(*function)(void *)) {
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++)
        expect(!pthread_create(&threads[i], NULL, function, (void *)i));
    for (int i = 0; i < THREADS; i++) {
        void *result;
        pthread_join(threads[i], &result);
        mix((uintptr_t)result);
    }
    mix(guarded), mix(counter), mix(bits), mix(swapped);
    topic(name);
}

static void *locked(void *argument) {
    for (int i = 0; i < ROUNDS; i++) {
        pthread_mutex_lock(&mutex);
        guarded = guarded * 3 - guarded * 2 + (uintptr_t)argument; /* a sum, read three times */
        if (i % 64 == 0)
            sched_yield();
        pthread_mutex_unlock(&mutex);
    }
    return argument;
}

static void *atomics(void *argument) {
    uintptr_t me = (uintptr_t)argument;
    for (int i = 0; i < ROUNDS; i++) {
        atomic_fetch_add(&counter, me + 1);
        atomic_fetch_xor(&bits, 1ull << me);
        unsigned long long seen = atomic_load(&swapped);
        while (!atomic_compare_exchange_weak(&swapped, &seen, seen + me * 3))
            ;
        own += me;
        if (i % 128 == 0)
            sched_yield();
    }
    return (void *)own;
}

/* Each waits for its turn. */
static uintptr_t turn;
static void *in_turn(void *argument) {
    for (int i = 0; i < 100; i++) {
        pthread_mutex_lock(&mutex);
        while (turn % THREADS != (uintptr_t)argument)
            pthread_cond_wait(&changed, &mutex);
        guarded = guarded * 31 + (uintptr_t)argument;
        turn++;
        pthread_cond_broadcast(&changed);
        pthread_mutex_unlock(&mutex);
    }
    return NULL;
}

static void *meet(void *argument) {
    uint64_t lasts = 0;
    for (int i = 0; i < 50; i++) {
        sem_wait(&semaphore);
        guarded += (uintptr_t)argument;
        sem_post(&semaphore);
        lasts += pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD;
    }
    atomic_fetch_add(&counter, lasts); /* one of them each time: which, nobody knows */
    return NULL;
}

/* Two threads of each pair pass a word to and fro with the bare system call. */
static int words[THREADS / 2];
static void *ping_pong(void *argument) {
    uintptr_t me = (uintptr_t)argument;
    int *word = &words[me / 2], mine = me & 1;
    for (int i = 0; i < 200; i++) {
        int seen;
        while (((seen = __atomic_load_n(word, __ATOMIC_ACQUIRE)) & 1) != mine)
            syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
        __atomic_store_n(word, seen + 1, __ATOMIC_RELEASE);
        syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    }
    return (void *)(uintptr_t)(*word > 0);
}

/* Vector, x87 and control registers are each thread's own, also when it is interrupted in the middle. */
static void *vectors(void *argument) {
    uint64_t me = (uintptr_t)argument, x = 0;
    uint16_t control = 0x37f & ~(me & 1 ? 0x300 : 0), seen;
    unsigned mxcsr = 0x1f80 | (me & 3) << 13, seen_mxcsr;
    for (int i = 0; i < 200; i++) {
        uint64_t a = me * 0x0101010101010101, b = 0;
        double d = me, e = 0;
        asm volatile("ldmxcsr %[csr]\n fninit\n fldcw %[cw]\n movq %[a], %%xmm3\n movq %%xmm3, %%xmm12\n fldl %[d]\n"
                     "mov $24, %%eax\n syscall\n" /* sched_yield */
                     "mov $3000, %%ecx\n 1: paddb %%xmm3, %%xmm12\n loop 1b\n"
                     "fstpl %[e]\n movq %%xmm12, %[b]\n fnstcw %[seen]\n stmxcsr %[seen_csr]"
                     : [b] "=&r"(b), [e] "=m"(e), [seen] "=m"(seen), [seen_csr] "=m"(seen_mxcsr)
                     : [a] "r"(a), [d] "m"(d), [cw] "m"(control), [csr] "m"(mxcsr) : "rax", "rcx", "r11", "xmm3", "xmm12", "memory");
        x = x * 31 + b + (uint64_t)e + seen + seen_mxcsr;
    }
    return (void *)x;
}

int main(int argc, char **argv) {
    begin(argc, argv, "threads");
    sem_init(&semaphore, 0, 1);
    pthread_barrier_init(&barrier, NULL, THREADS);
    run("mutex", locked), run("atomics", atomics), run("condition", in_turn), run("semaphore and barrier", meet);
    run("futex", ping_pong), run("vectors", vectors);
    return 0;
}
