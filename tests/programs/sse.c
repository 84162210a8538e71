/* MMX, SSE, SSE2: moves, integers, floats, doubles, conversions, MXCSR's rounding and sticky flags, denormals.
 * Each instruction by its name, register and memory form. */
#include "check.h"
#include <emmintrin.h>

typedef union {
    __m128i i;
    __m128 f;
    __m128d d;
    uint64_t q[2];
    uint32_t u[4];
    float s[4];
    double g[2];
} Vector;

#include "vectors.h"

enum { FTZ = 0x8000, DAZ = 0x40, MASKED = 0x1f80 };
static const unsigned MODES[] = {MASKED, MASKED | 0x2000, MASKED | 0x4000, MASKED | 0x6000, MASKED | FTZ, MASKED | DAZ, MASKED | FTZ | DAZ};

/* Floating point: every rounding mode, and the flags that it leaves. */
#define FLOAT(insn, table) \
    for (size_t m = 0; m < COUNT(MODES); m++) \
        for (size_t i = 0; i < COUNT(table); i++) \
            for (size_t j = 0; j < COUNT(table); j++) { \
                Vector a = table[i], b = table[j], c = table[i]; \
                unsigned before = MODES[m], after; \
                asm volatile("ldmxcsr %[before]\n " #insn " %[b], %[a]\n " #insn " %[m], %[c]\n stmxcsr %[after]" \
                             : [a] "+x"(a.i), [c] "+x"(c.i), [after] "=m"(after) \
                             : [b] "x"(b.i), [m] "m"(b.i), [before] "m"(before)); \
                mix_bytes(&a, 16), mix_bytes(&c, 16), mix(after); \
            } \
    topic(#insn);

#define COMPARE(insn, table) \
    for (size_t i = 0; i < COUNT(table); i++) \
        for (size_t j = 0; j < COUNT(table); j++) { \
            uint64_t flags; \
            unsigned before = MASKED, after; \
            asm volatile("ldmxcsr %[before]\n " #insn " %[b], %[a]\n pushfq\n pop %[flags]\n stmxcsr %[after]" \
                         : [flags] "=&r"(flags), [after] "=m"(after) \
                         : [a] "x"(table[i].i), [b] "x"(table[j].i), [before] "m"(before) : "cc"); \
            mix(flags & 0x8d5), mix(after); \
        } \
    topic(#insn);

#define PREDICATE(insn, n, table) \
    for (size_t i = 0; i < COUNT(table); i++) \
        for (size_t j = 0; j < COUNT(table); j++) { \
            Vector a = table[i]; \
            asm volatile(#insn " $" #n ", %[b], %[a]" : [a] "+x"(a.i) : [b] "x"(table[j].i)); \
            mix_bytes(&a, 16); \
        }
#define PREDICATES(insn, table) \
    PREDICATE(insn, 0, table) PREDICATE(insn, 1, table) PREDICATE(insn, 2, table) PREDICATE(insn, 3, table) \
    PREDICATE(insn, 4, table) PREDICATE(insn, 5, table) PREDICATE(insn, 6, table) PREDICATE(insn, 7, table) topic(#insn);

/* To a general register, and from one. */
#define TO_INTEGER(insn, table) \
    for (size_t m = 0; m < COUNT(MODES); m++) \
        for (size_t i = 0; i < COUNT(table); i++) { \
            uint64_t narrow = -1ull, wide = -1ull; \
            unsigned before = MODES[m], after; \
            asm volatile("ldmxcsr %[before]\n " #insn " %[a], %k[narrow]\n " #insn " %[a], %q[wide]\n stmxcsr %[after]" \
                         : [narrow] "+r"(narrow), [wide] "+r"(wide), [after] "=m"(after) \
                         : [a] "x"(table[i].i), [before] "m"(before)); \
            mix(narrow), mix(wide), mix(after); \
        } \
    topic(#insn);
#define FROM_INTEGER(insn) \
    for (size_t m = 0; m < COUNT(MODES); m++) \
        for (size_t i = 0; i < COUNT(INTEGERS); i++) { \
            Vector a = SINGLES[0]; \
            unsigned before = MODES[m], after; \
            asm volatile("ldmxcsr %[before]\n " #insn "l %k[n], %[a]\n stmxcsr %[after]" \
                         : [a] "+x"(a.i), [after] "=m"(after) : [n] "r"(INTEGERS[i].q[0]), [before] "m"(before)); \
            mix_bytes(&a, 16), mix(after); \
            asm volatile("ldmxcsr %[before]\n " #insn "q %[n], %[a]\n stmxcsr %[after]" \
                         : [a] "+x"(a.i), [after] "=m"(after) : [n] "m"(INTEGERS[i].q[0]), [before] "m"(before)); \
            mix_bytes(&a, 16), mix(after); \
        } \
    topic(#insn);

static void moves(void) {
    uint8_t memory[64] __attribute__((aligned(16)));
    for (size_t i = 0; i < COUNT(INTEGERS); i++) {
        Vector a = INTEGERS[i], b = INTEGERS[(i + 5) % COUNT(INTEGERS)];
        uint64_t x = a.q[0];
        memset(memory, 0x5a, sizeof memory);
        asm volatile("movaps %[a], %[b]\n movups %[b], 1(%[m])\n movdqu 3(%[m]), %[b]\n movdqa %[b], 32(%[m])\n movupd %[a], 17(%[m])"
                     : [a] "+x"(a.i), [b] "+x"(b.i) : [m] "r"(memory) : "memory");
        mix_bytes(memory, sizeof memory), mix_bytes(&b, 16);
        asm volatile("movss %[a], %[b]\n movsd %[b], %[a]\n movhlps %[a], %[b]\n movlhps %[b], %[a]\n movss 5(%[m]), %[b]\n"
                     "movhps 9(%[m]), %[a]\n movlps %[a], 2(%[m])\n movlpd 7(%[m]), %[a]\n movhpd %[b], 40(%[m])\n movsd 1(%[m]), %[b]\n"
                     "movss %[b], 33(%[m])\n movq %[a], %[b]\n movq %[b], 50(%[m])"
                     : [a] "+x"(a.i), [b] "+x"(b.i) : [m] "r"(memory) : "memory");
        mix_bytes(memory, sizeof memory), mix_bytes(&a, 16), mix_bytes(&b, 16);
        asm volatile("movd %k[x], %[a]\n movq %[x], %[b]\n movd %[b], %k[x]\n paddq %[b], %[a]\n movq %[a], %[x]"
                     : [a] "+x"(a.i), [b] "+x"(b.i), [x] "+r"(x));
        mix_bytes(&a, 16), mix_bytes(&b, 16), mix(x);
        asm volatile("movntps %[a], 16(%[m])\n movntdq %[a], (%[m])\n movnti %[x], 32(%[m])\n movntpd %[a], 48(%[m])\n sfence\n"
                     "movmskps %[a], %k[x]" : [x] "+r"(x) : [a] "x"(INTEGERS[i].i), [m] "r"(memory) : "memory");
        mix_bytes(memory, sizeof memory), mix(x);
        asm volatile("movmskpd %[a], %k[x]" : [x] "=r"(x) : [a] "x"(INTEGERS[i].i));
        mix(x);
        asm volatile("pmovmskb %[a], %k[x]" : [x] "=r"(x) : [a] "x"(INTEGERS[i].i));
        mix(x);
        asm volatile("maskmovdqu %[mask], %[a]" :: [a] "x"(INTEGERS[i].i), [mask] "x"(b.i), "D"(memory + 3) : "memory");
        mix_bytes(memory, sizeof memory);
    }
    topic("moves");
}

/* All sixteen registers, and that a system call or a switch of tasks keeps them, is forks.c's and threads.c's. */
static void registers(void) {
    Vector out[16];
    asm volatile("movdqu %[a], %%xmm0\n movdqa %%xmm0, %%xmm8\n paddd %%xmm0, %%xmm8\n movdqa %%xmm8, %%xmm15\n paddd %%xmm8, %%xmm15\n"
                 "movdqa %%xmm15, %%xmm1\n psubd %%xmm8, %%xmm1\n pxor %%xmm9, %%xmm9\n psubb %%xmm1, %%xmm9\n movdqa %%xmm9, %%xmm14\n"
                 "pslldq $3, %%xmm14\n movdqu %%xmm0, (%[o])\n movdqu %%xmm8, 16(%[o])\n movdqu %%xmm15, 32(%[o])\n movdqu %%xmm9, 48(%[o])\n"
                 "movdqu %%xmm14, 64(%[o])"
                 :: [a] "m"(INTEGERS[3].i), [o] "r"(out) : "memory", "xmm0", "xmm1", "xmm8", "xmm9", "xmm14", "xmm15");
    mix_bytes(out, 80);
    topic("high registers");
}

static void mmx(void) {
    for (size_t i = 0; i < COUNT(INTEGERS); i++) {
        uint64_t a = INTEGERS[i].q[0], b = INTEGERS[i].q[1], out[4];
        asm volatile("movq %[a], %%mm0\n movq %[b], %%mm1\n movq %%mm0, %%mm2\n paddb %%mm1, %%mm2\n pmullw %%mm1, %%mm0\n"
                     "punpcklbw %%mm2, %%mm1\n packsswb %%mm0, %%mm2\n pshufw $0x1b, %%mm1, %%mm3\n psadbw %%mm2, %%mm3\n"
                     "movq %%mm0, (%[o])\n movq %%mm1, 8(%[o])\n movq %%mm2, 16(%[o])\n movntq %%mm3, 24(%[o])\n"
                     "movq2dq %%mm0, %%xmm0\n cvtpi2ps %%mm1, %%xmm0\n movdq2q %%xmm0, %%mm4\n pmovmskb %%mm4, %%eax\n emms"
                     :: [a] "m"(a), [b] "m"(b), [o] "r"(out) : "memory", "eax", "xmm0", "mm0", "mm1", "mm2", "mm3", "mm4");
        mix_bytes(out, sizeof out);
    }
    topic("mmx");
}

int main(int argc, char **argv) {
    begin(argc, argv, "sse");
    unsigned start = _mm_getcsr();
    moves(), registers(), mmx();
    OP(paddb) OP(paddw) OP(paddd) OP(paddq) OP(paddsb) OP(paddsw) OP(paddusb) OP(paddusw)
    OP(psubb) OP(psubw) OP(psubd) OP(psubq) OP(psubsb) OP(psubsw) OP(psubusb) OP(psubusw)
    OP(pmullw) OP(pmulhw) OP(pmulhuw) OP(pmuludq) OP(pmaddwd) OP(psadbw) OP(pavgb) OP(pavgw)
    OP(pminub) OP(pmaxub) OP(pminsw) OP(pmaxsw) OP(pand) OP(pandn) OP(por) OP(pxor)
    OP(pcmpeqb) OP(pcmpeqw) OP(pcmpeqd) OP(pcmpgtb) OP(pcmpgtw) OP(pcmpgtd)
    OP(packsswb) OP(packssdw) OP(packuswb) OP(punpcklbw) OP(punpckhbw) OP(punpcklwd) OP(punpckhwd)
    OP(punpckldq) OP(punpckhdq) OP(punpcklqdq) OP(punpckhqdq) OP(unpcklps) OP(unpckhps) OP(unpcklpd) OP(unpckhpd)
    OP(psllw) OP(pslld) OP(psllq) OP(psrlw) OP(psrld) OP(psrlq) OP(psraw) OP(psrad)
    OP(andps) OP(andnps) OP(orps) OP(xorps) OP(andpd) OP(andnpd) OP(orpd) OP(xorpd)
    IMMEDIATE(pshufd) IMMEDIATE(pshufhw) IMMEDIATE(pshuflw) IMMEDIATE(shufps) IMMEDIATE(shufpd)
    SHIFT(psllw) SHIFT(pslld) SHIFT(psllq) SHIFT(psrlw) SHIFT(psrld) SHIFT(psrlq) SHIFT(psraw) SHIFT(psrad) SHIFT(pslldq) SHIFT(psrldq)
    INSERT(pinsrw) EXTRACT(pextrw)
    FLOAT(addps, SINGLES) FLOAT(subps, SINGLES) FLOAT(mulps, SINGLES) FLOAT(divps, SINGLES) FLOAT(minps, SINGLES) FLOAT(maxps, SINGLES) FLOAT(sqrtps, SINGLES)
    FLOAT(addss, SINGLES) FLOAT(subss, SINGLES) FLOAT(mulss, SINGLES) FLOAT(divss, SINGLES) FLOAT(minss, SINGLES) FLOAT(maxss, SINGLES) FLOAT(sqrtss, SINGLES)
    FLOAT(addpd, DOUBLES) FLOAT(subpd, DOUBLES) FLOAT(mulpd, DOUBLES) FLOAT(divpd, DOUBLES) FLOAT(minpd, DOUBLES) FLOAT(maxpd, DOUBLES) FLOAT(sqrtpd, DOUBLES)
    FLOAT(addsd, DOUBLES) FLOAT(subsd, DOUBLES) FLOAT(mulsd, DOUBLES) FLOAT(divsd, DOUBLES) FLOAT(minsd, DOUBLES) FLOAT(maxsd, DOUBLES) FLOAT(sqrtsd, DOUBLES)
    FLOAT(cvtps2pd, SINGLES) FLOAT(cvtss2sd, SINGLES) FLOAT(cvtps2dq, SINGLES) FLOAT(cvttps2dq, SINGLES)
    FLOAT(cvtpd2ps, DOUBLES) FLOAT(cvtsd2ss, DOUBLES) FLOAT(cvtpd2dq, DOUBLES) FLOAT(cvttpd2dq, DOUBLES)
    FLOAT(cvtdq2ps, INTEGERS) FLOAT(cvtdq2pd, INTEGERS)
    TO_INTEGER(cvtss2si, SINGLES) TO_INTEGER(cvttss2si, SINGLES) TO_INTEGER(cvtsd2si, DOUBLES) TO_INTEGER(cvttsd2si, DOUBLES)
    FROM_INTEGER(cvtsi2ss) FROM_INTEGER(cvtsi2sd)
    COMPARE(ucomiss, SINGLES) COMPARE(comiss, SINGLES) COMPARE(ucomisd, DOUBLES) COMPARE(comisd, DOUBLES)
    PREDICATES(cmpps, SINGLES) PREDICATES(cmpss, SINGLES) PREDICATES(cmppd, DOUBLES) PREDICATES(cmpsd, DOUBLES)
    /* what these give is the processor's own, within 1.5 * 2^-12 */
    OP_OF(rcpps, SINGLES) OP_OF(rsqrtps, SINGLES) OP_OF(rcpss, SINGLES) OP_OF(rsqrtss, SINGLES) topic("approximations");
    mix(start);
    topic("mxcsr of a new process");
    return 0;
}
