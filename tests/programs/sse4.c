/* SSE3, SSSE3, SSE4.1 and SSE4.2, each if CPUID has it. */
#include "check.h"
#include <cpuid.h>
#include <smmintrin.h>

typedef union {
    __m128i i;
    uint64_t q[2];
    uint32_t u[4];
    float s[4];
    double g[2];
} Vector;

#include "vectors.h"

static void sse3(void) {
    OP_OF(addsubps, SINGLES) OP_OF(haddps, SINGLES) OP_OF(hsubps, SINGLES) OP_OF(addsubpd, DOUBLES) OP_OF(haddpd, DOUBLES) OP_OF(hsubpd, DOUBLES)
    OP_OF(movshdup, SINGLES) OP_OF(movsldup, SINGLES) OP_OF(movddup, DOUBLES)
    uint8_t bytes[40];
    memset(bytes, 0xa7, sizeof bytes);
    for (int i = 0; i < 24; i++) {
        Vector a;
        asm volatile("lddqu %[m], %[a]" : [a] "=x"(a.i) : [m] "m"(bytes[i]));
        mix_bytes(&a, 16);
        bytes[i] ^= i * 5;
    }
    for (size_t i = 0; i < COUNT(DOUBLES); i++) { /* fisttp truncates whatever the rounding mode */
        int64_t wide;
        int32_t narrow;
        int16_t word;
        asm volatile("fldl %[d]\n fisttpll %[w]\n fldl %[d]\n fisttpl %[n]\n fldl %[d]\n fisttps %[h]"
                     : [w] "=m"(wide), [n] "=m"(narrow), [h] "=m"(word) : [d] "m"(DOUBLES[i].g[0]));
        mix(wide), mix(narrow), mix(word);
    }
    topic("sse3");
}

static void ssse3(void) {
    OP(pshufb) OP(phaddw) OP(phaddd) OP(phaddsw) OP(phsubw) OP(phsubd) OP(phsubsw) OP(pmaddubsw) OP(pmulhrsw)
    OP(psignb) OP(psignw) OP(psignd) OP(pabsb) OP(pabsw) OP(pabsd)
    IMMEDIATE(palignr) IMMEDIATE_OF(palignr, 3, INTEGERS) IMMEDIATE_OF(palignr, 17, INTEGERS) topic("palignr further");
}

static void blends(void) {
    for (size_t i = 0; i < COUNT(INTEGERS); i++)
        for (size_t j = 0; j < COUNT(INTEGERS); j++) {
            Vector a = INTEGERS[i], b = INTEGERS[j];
            asm volatile("movdqa %[c], %%xmm0\n pblendvb %%xmm0, %[b], %[a]\n blendvps %%xmm0, %[a], %[b]\n blendvpd %%xmm0, %[b], %[a]"
                         : [a] "+x"(a.i), [b] "+x"(b.i) : [c] "m"(INTEGERS[(i + j) % COUNT(INTEGERS)].i) : "xmm0");
            mix_bytes(&a, 16), mix_bytes(&b, 16);
            uint64_t flags;
            asm volatile("ptest %[b], %[a]\n pushfq\n pop %[f]" : [f] "=&r"(flags) : [a] "x"(a.i), [b] "x"(b.i) : "cc");
            mix(flags & 0x8d5);
        }
    topic("blendv ptest");
}

static void sse41(void) {
    OP(pmuldq) OP(pmulld) OP(pminsb) OP(pmaxsb) OP(pminuw) OP(pmaxuw) OP(pminsd) OP(pmaxsd) OP(pminud) OP(pmaxud)
    OP(pcmpeqq) OP(packusdw) OP(phminposuw)
    OP(pmovsxbw) OP(pmovsxbd) OP(pmovsxbq) OP(pmovsxwd) OP(pmovsxwq) OP(pmovsxdq)
    OP(pmovzxbw) OP(pmovzxbd) OP(pmovzxbq) OP(pmovzxwd) OP(pmovzxwq) OP(pmovzxdq)
    IMMEDIATE(mpsadbw) IMMEDIATE(pblendw) IMMEDIATES_OF(blendps, SINGLES) IMMEDIATES_OF(blendpd, DOUBLES)
    IMMEDIATES_OF(dpps, SINGLES) IMMEDIATES_OF(dppd, DOUBLES) IMMEDIATES_OF(insertps, SINGLES)
    IMMEDIATES_OF(roundps, SINGLES) IMMEDIATES_OF(roundpd, DOUBLES) IMMEDIATES_OF(roundss, SINGLES) IMMEDIATES_OF(roundsd, DOUBLES)
    INSERT(pinsrb) INSERT(pinsrd) EXTRACT(pextrb) EXTRACT(pextrd) EXTRACT(extractps)
    for (size_t i = 0; i < COUNT(INTEGERS); i++) {
        Vector a = INTEGERS[i];
        uint64_t out;
        asm volatile("pinsrq $1, %[v], %[a]\n pextrq $0, %[a], %[o]\n movntdqa %[m], %%xmm1\n paddq %%xmm1, %[a]"
                     : [a] "+x"(a.i), [o] "=m"(out) : [v] "r"(0x1122334455667788), [m] "m"(INTEGERS[(i + 1) % COUNT(INTEGERS)].i) : "xmm1");
        mix_bytes(&a, 16), mix(out);
    }
    topic("pinsrq pextrq movntdqa");
    blends();
}

/* String comparison: index and mask, lengths explicit and by the zero byte, every aggregation. */
#define COMPARE_STRINGS(n) \
    for (size_t i = 0; i < COUNT(texts); i++) \
        for (size_t j = 0; j < COUNT(texts); j++) { \
            Vector a, b, found; \
            memcpy(&a, texts[i], 16), memcpy(&b, texts[j], 16); \
            uint64_t index, flags; \
            asm volatile("pcmpestri $" #n ", %[b], %[a]\n pushfq\n pop %[f]" \
                         : "=&c"(index), [f] "=&r"(flags) : [a] "x"(a.i), [b] "x"(b.i), "a"(i - 3), "d"(j * 2) : "cc"); \
            mix(index), mix(flags & 0x8d5); \
            asm volatile("pcmpistri $" #n ", %[b], %[a]\n pushfq\n pop %[f]" \
                         : "=&c"(index), [f] "=&r"(flags) : [a] "x"(a.i), [b] "m"(b.i) : "cc"); \
            mix(index), mix(flags & 0x8d5); \
            asm volatile("pcmpestrm $" #n " | 0x40, %[b], %[a]\n movdqu %%xmm0, %[o]" \
                         : [o] "=m"(found.i) : [a] "x"(a.i), [b] "x"(b.i), "a"(9), "d"(12) : "cc", "xmm0"); \
            mix_bytes(&found, 16); \
            asm volatile("pcmpistrm $" #n ", %[b], %[a]\n movdqu %%xmm0, %[o]" \
                         : [o] "=m"(found.i) : [a] "x"(a.i), [b] "x"(b.i) : "cc", "xmm0"); \
            mix_bytes(&found, 16); \
        }

static void sse42(void) {
    static const char texts[][17] = {"", "aeiou", "the quick brown", "azAZ09", "needle", "a needle in hay.", "hay needle nee", "\x80\xff\x01\x7f\x81"};
    OP(pcmpgtq)
    COMPARE_STRINGS(0x00) COMPARE_STRINGS(0x04) COMPARE_STRINGS(0x08) COMPARE_STRINGS(0x0c) COMPARE_STRINGS(0x1a)
    COMPARE_STRINGS(0x36) COMPARE_STRINGS(0x01) COMPARE_STRINGS(0x0d) COMPARE_STRINGS(0x18) COMPARE_STRINGS(0x07)
    topic("pcmpestri pcmpistri pcmpestrm pcmpistrm");
    uint64_t crc = 0;
    for (size_t i = 0; i < COUNT(INTEGERS); i++) {
        uint64_t v = INTEGERS[i].q[0];
        asm volatile("crc32b %b[v], %k[c]\n crc32w %w[v], %k[c]\n crc32l %k[v], %k[c]\n crc32q %[v], %[c]\n crc32b %[m], %q[c]"
                     : [c] "+r"(crc) : [v] "r"(v), [m] "m"(v));
        mix(crc);
    }
    topic("crc32");
}

int main(int argc, char **argv) {
    begin(argc, argv, "sse4");
    unsigned a, b, c = 0, d;
    __get_cpuid(1, &a, &b, &c, &d);
    c & bit_SSE3 ? sse3() : absent("sse3");
    c & bit_SSSE3 ? ssse3() : absent("ssse3");
    c & bit_SSE4_1 ? sse41() : absent("sse4.1");
    c & bit_SSE4_2 ? sse42() : absent("sse4.2");
    return 0;
}
