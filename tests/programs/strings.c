/* String instructions: all widths, both directions, overlapping, across pages, with every prefix (SDM volume 2,
 * REP/REPE/REPNE). */
#include "check.h"
#include <sys/mman.h>

enum { PAGE = 4096, SIZE = 4 * PAGE };
static uint8_t *area; /* four pages, of which the host's and the guest's may lie anywhere */

static void fill(void) {
    random_state = 7;
    for (int i = 0; i < SIZE; i += 8)
        *(uint64_t *)(area + i) = random64();
}

static const int STARTS[] = {0, 1, 3, 8, 64, PAGE - 9, PAGE - 1, PAGE, 2 * PAGE - 3};
static const int LENGTHS[] = {0, 1, 2, 3, 7, 8, 15, 16, 63, 100, 255, 1024};

/* After it rsi, rdi and rcx stand where the manual says. */
#define STRING(text, width) \
    for (int backward = 0; backward < 2; backward++) \
        for (size_t s = 0; s < COUNT(STARTS); s++) \
            for (size_t d = 0; d < COUNT(STARTS); d++) \
                for (size_t n = 0; n < COUNT(LENGTHS); n++) { \
                    uint8_t *from = area + STARTS[s], *to = area + STARTS[d]; \
                    uint64_t count = LENGTHS[n] / width, a = 0x8877665544332211, after; \
                    if (backward) \
                        from += 8 + count * width, to += 8 + count * width; \
                    asm volatile("test %k[back], %k[back]\n jz 1f\n std\n 1: cmp %%rax, %%rax\n " text \
                                 "\n pushfq\n pop %[after]\n cld" \
                                 : "+S"(from), "+D"(to), "+c"(count), "+a"(a), [after] "=&r"(after) \
                                 : [back] "r"(backward) : "cc", "memory"); \
                    mix(from - area), mix(to - area), mix(count), mix(a), mix(after & 0x8d5); \
                }
#define FOUR(insn) STRING(#insn "b", 1) STRING(#insn "w", 2) STRING(#insn "l", 4) STRING(#insn "q", 8)

#define WRITES(name, insn) fill(); FOUR(insn) mix_bytes(area, SIZE); topic(name);
#define READS(name, insn) fill(); memset(area + 900, 0x11, 600); memset(area + PAGE, 0x11, 100); FOUR(insn) topic(name);

/* A copy over itself by one byte repeats the first one: rep movsb isn't memmove. */
static void overlap(void) {
    fill();
    for (int distance = 1; distance < 40; distance += 3)
        for (int width = 0; width < 4; width++) {
            void *from = area + PAGE - 100, *to = area + PAGE - 100 + distance;
            uint64_t count = 256 >> width;
            if (width == 0)
                asm volatile("rep movsb" : "+S"(from), "+D"(to), "+c"(count)::"memory");
            else if (width == 1)
                asm volatile("rep movsw" : "+S"(from), "+D"(to), "+c"(count)::"memory");
            else if (width == 2)
                asm volatile("rep movsl" : "+S"(from), "+D"(to), "+c"(count)::"memory");
            else
                asm volatile("rep movsq" : "+S"(from), "+D"(to), "+c"(count)::"memory");
            mix_bytes(area + PAGE - 100, 400);
        }
    topic("overlapping copies");
}

/* 32-bit addresses use esi, edi, ecx, and clear their upper halves where they count. */
static void narrow(void) {
    uint8_t *low = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    if (low == MAP_FAILED) {
        absent("32-bit addresses");
        return;
    }
    memcpy(low, "the quick brown fox jumps over the lazy dog", 44);
    uint64_t from = (uintptr_t)low | 0x100000000, to = ((uintptr_t)low + PAGE - 20) | 0x700000000, count = 0x900000000 + 44;
    asm volatile("addr32 rep movsb" : "+S"(from), "+D"(to), "+c"(count)::"memory");
    mix(from - (uintptr_t)low), mix(to - (uintptr_t)low), mix(count);
    mix_bytes(low + PAGE - 20, 44);
    topic("32-bit addresses");
}

/* Large copies and fills, as memcpy and memset do them, over pages that aren't there yet. */
static void large(void) {
    enum { LARGE = 1 << 20 };
    uint8_t *a = mmap(NULL, LARGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint8_t *b = mmap(NULL, LARGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    void *to = a;
    uint64_t count = LARGE / 8;
    asm volatile("rep stosq" : "+D"(to), "+c"(count) : "a"(0x0123456789abcdef) : "memory");
    mix((uint8_t *)to - a), mix(count);
    void *from = a + 1;
    to = b + 3, count = LARGE - 5;
    asm volatile("rep movsb" : "+S"(from), "+D"(to), "+c"(count)::"memory");
    for (int i = 0; i < LARGE; i += 8)
        checksum += *(uint64_t *)(b + i) * (i | 1);
    mix(memcmp(a + 1, b + 3, LARGE - 5) == 0);
    from = a, to = b + 2, count = LARGE - 2;
    asm volatile("repe cmpsb" : "+S"(from), "+D"(to), "+c"(count)::"memory", "cc");
    mix((uint8_t *)from - a), mix(count);
    munmap(a, LARGE), munmap(b, LARGE);
    topic("a megabyte");
}

int main(int argc, char **argv) {
    begin(argc, argv, "strings");
    area = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    WRITES("movs", movs) WRITES("rep movs", rep movs) WRITES("stos", stos) WRITES("rep stos", rep stos)
    READS("lods", lods) READS("rep lods", rep lods) READS("cmps", cmps) READS("repe cmps", repe cmps)
    READS("repne cmps", repne cmps) READS("scas", scas) READS("repe scas", repe scas) READS("repne scas", repne scas)
    overlap(), narrow(), large();
    return 0;
}
