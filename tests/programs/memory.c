/* Storms of page faults: mapping, unmapping, protection, growth; accesses over the edge of two pages that are no
 * neighbours in physical memory. */
#include "check.h"
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096 };

static uint8_t *map(int pages) {
    return mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void storm(void) {
    uint64_t sum = 0;
    for (int round = 0; round < 200; round++) {
        uint8_t *area = map(64);
        for (int i = 0; i < 64; i++) {
            sum = sum * 31 + area[i * PAGE + i]; /* zero: also where the page was another's before */
            area[i * PAGE + i] = round ^ i;
        }
        for (int i = 0; i < 64; i++)
            sum = sum * 31 + area[i * PAGE + i];
        munmap(area, 64 * PAGE);
    }
    mix(sum);
    topic("mmap and munmap");
    uint8_t *area = map(32);
    for (int round = 0; round < 200; round++) {
        mprotect(area, 32 * PAGE, PROT_READ);
        for (int i = 0; i < 32; i++)
            sum = sum * 31 + area[i * PAGE];
        mprotect(area + (round % 8) * PAGE, 8 * PAGE, PROT_READ | PROT_WRITE);
        for (int i = round % 8; i < round % 8 + 8; i++)
            area[i * PAGE] += round;
        if (round % 16 == 0)
            madvise(area + 3 * PAGE, 5 * PAGE, MADV_DONTNEED);
    }
    mix(sum);
    topic("mprotect and madvise");
    uint8_t *moved = map(16);
    for (int i = 0; i < 16; i++)
        moved[i * PAGE + 5] = i;
    for (int size = 16; size < 64; size += 7) {
        moved = mremap(moved, (size == 16 ? 16 : size - 7) * PAGE, size * PAGE, MREMAP_MAYMOVE);
        for (int i = 0; i < size; i++)
            mix(moved[i * PAGE + 5]);
        moved[(size - 1) * PAGE + 5] = size;
    }
    topic("mremap");
}

/* Every access size at every offset about the edge of two pages that are mapped in the other order. */
static void edges(void) {
    char name[] = "/tmp/pykvm-XXXXXX";
    int fd = mkstemp(name);
    unlink(name);
    if (fd < 0 || ftruncate(fd, 2 * PAGE)) {
        absent("edges of pages");
        return;
    }
    uint8_t *area = map(2);
    mmap(area, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, PAGE);
    mmap(area + PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    for (int i = 0; i < 2 * PAGE; i++)
        area[i] = i * 7 + i / PAGE;
    for (int offset = PAGE - 17; offset <= PAGE + 1; offset++) {
        uint8_t *at = area + offset;
        uint64_t x = 0, cf;
        uint8_t vector[16];
        asm volatile("movw (%[m]), %w[x]\n addl (%[m]), %k[x]\n xorq (%[m]), %[x]\n addw %w[x], (%[m])\n lock xaddl %k[x], (%[m])\n"
                     "rolq $5, (%[m])\n movdqu (%[m]), %%xmm0\n paddb %%xmm0, %%xmm0\n movdqu %%xmm0, (%[m])\n movups %%xmm0, %[v]\n"
                     "btsq $63, (%[m])\n setc %b[cf]\n fldt (%[m])\n fstpt (%[m])\n pushq (%[m])\n popq 1(%[m])\n notq (%[m])\n"
                     "xchgq %[x], (%[m])"
                     : [x] "+r"(x), [v] "=m"(vector), [cf] "=&r"(cf) : [m] "r"(at) : "cc", "memory", "xmm0");
        mix(x), mix(cf & 1), mix_bytes(vector, 16), mix_bytes(area + PAGE - 32, 64);
    }
    uint8_t file[64];
    mix(pread(fd, file, 32, 0)), mix(pread(fd, file + 32, 32, 2 * PAGE - 32)); /* where the bytes really went */
    mix_bytes(file, sizeof file);
    topic("edges of pages");
}

/* Deep recursion lets the stack grow; brk grows and shrinks. */
static __attribute__((noinline)) uint64_t deep(int n) {
    volatile uint8_t page[PAGE];
    page[n % PAGE] = n;
    return n == 0 ? 1 : deep(n - 1) * 3 + page[n % PAGE];
}

static void growth(void) {
    mix(deep(1000));
    uint64_t sum = 0;
    for (int i = 1; i < 50; i++) {
        uint8_t *old = sbrk(i * PAGE);
        for (int k = 0; k < i; k++)
            sum = sum * 31 + old[k * PAGE + 7], old[k * PAGE + 7] = k;
        if (i % 3 == 0)
            sbrk(-i * PAGE);
    }
    mix(sum);
    topic("stack and brk");
}

int main(int argc, char **argv) {
    begin(argc, argv, "memory");
    storm(), edges(), growth();
    return 0;
}
