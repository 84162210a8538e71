/* The x87 FPU: constants, arithmetic at each precision and rounding, conversions, BCD, transcendental functions,
 * environment and state, unmasked exceptions (SDM volume 1, chapter 8). */
#include "check.h"
#include <setjmp.h>
#include <signal.h>
#include <ucontext.h>

typedef struct { uint64_t significand; uint16_t sign_exponent; } __attribute__((packed)) Extended;

static const Extended VALUES[] = {
    {0, 0}, {0, 0x8000},                                         /* zeros */
    {0x8000000000000000, 0x3fff}, {0xc000000000000000, 0xbfff},  /* 1, -1.5 */
    {0xc90fdaa22168c235, 0x4000}, {0xb17217f7d1cf79ac, 0x3ffe},  /* pi, ln 2 */
    {0x8000000000000001, 0x3fff}, {0xffffffffffffffff, 0x3ffe},  /* next to 1 */
    {0xf424000000000000, 0x4012}, {0x9502f90000000000, 0xc021},  /* 999936 or so, -1e10 */
    {1, 0}, {0x7fffffffffffffff, 0x8000},                        /* denormals */
    {0x8000000000000000, 0x0001}, {0xffffffffffffffff, 0x7ffe},  /* least normal, largest */
    {0x8000000000000000, 0x7fff}, {0x8000000000000000, 0xffff},  /* infinities */
    {0xc000000000000001, 0x7fff}, {0xa000000000000000, 0xffff},  /* quiet and signalling NaN */
};
/* Control words: 24, 53, 64 bits of precision; to nearest, down, up, to zero; all exceptions masked. */
static const uint16_t CONTROLS[] = {0x37f, 0x27f, 0x07f, 0x77f, 0xb7f, 0xf7f, 0x67f, 0xc7f};
enum { CONDITIONS = 0x4700, EXCEPTIONS = 0x7f }; /* of the status word */

static void store(const Extended *x, uint16_t status, uint16_t defined) {
    mix_bytes(x, sizeof *x);
    mix(status & defined);
}

/* Two values on the stack, or one; the result, and of the status word what is defined. */
#define BINARY(text, defined) \
    for (size_t c = 0; c < COUNT(CONTROLS); c++) \
        for (size_t i = 0; i < COUNT(VALUES); i++) \
            for (size_t j = 0; j < COUNT(VALUES); j++) { \
                Extended out; \
                uint16_t status; \
                asm volatile("fninit\n fldcw %[control]\n fldt %[b]\n fldt %[a]\n " text "\n fnstsw %[status]\n fstpt %[out]\n fninit" \
                             : [out] "=m"(out), [status] "=m"(status) \
                             : [a] "m"(VALUES[i]), [b] "m"(VALUES[j]), [control] "m"(CONTROLS[c]) : "cc"); \
                store(&out, status, defined); \
            }
#define UNARY(text, defined) \
    for (size_t c = 0; c < COUNT(CONTROLS); c++) \
        for (size_t i = 0; i < COUNT(VALUES); i++) { \
            Extended out; \
            uint16_t status; \
            asm volatile("fninit\n fldcw %[control]\n fldt %[a]\n " text "\n fnstsw %[status]\n fstpt %[out]\n fninit" \
                         : [out] "=m"(out), [status] "=m"(status) : [a] "m"(VALUES[i]), [control] "m"(CONTROLS[c]) : "cc", "ax"); \
            store(&out, status, defined); \
        }

static void constants(void) {
#define CONSTANT(insn) \
    for (size_t c = 0; c < COUNT(CONTROLS); c++) { \
        Extended out; \
        asm volatile("fninit\n fldcw %[control]\n " insn "\n fstpt %[out]\n fninit" : [out] "=m"(out) : [control] "m"(CONTROLS[c])); \
        mix_bytes(&out, sizeof out); \
    }
    CONSTANT("fld1") CONSTANT("fldz") CONSTANT("fldpi") CONSTANT("fldl2e") CONSTANT("fldl2t") CONSTANT("fldlg2") CONSTANT("fldln2")
    topic("constants");
}

/* Loads and stores of every format; BCD. */
static void conversions(void) {
    for (size_t c = 0; c < COUNT(CONTROLS); c++)
        for (size_t i = 0; i < COUNT(VALUES); i++) {
            float single;
            double twice;
            int16_t word;
            int32_t narrow;
            int64_t wide;
            uint8_t decimal[10];
            Extended back;
            uint16_t status;
#define STORE(insn, to) \
    asm volatile("fninit\n fldcw %[control]\n fldt %[a]\n " insn " %[to_]\n fnstsw %[status]\n fninit" \
                 : [to_] "=m"(to), [status] "=m"(status) : [a] "m"(VALUES[i]), [control] "m"(CONTROLS[c])); \
    mix_bytes(&to, sizeof to), mix(status & EXCEPTIONS);
            STORE("fstps", single) STORE("fstpl", twice) STORE("fistps", word) STORE("fistpl", narrow) STORE("fistpll", wide)
            STORE("fbstp", decimal) STORE("fsts", single) STORE("fstl", twice) STORE("fists", word) STORE("fistl", narrow)
#define LOAD(insn, from) \
    asm volatile("fninit\n fldcw %[control]\n " insn " %[from_]\n fnstsw %[status]\n fstpt %[out]\n fninit" \
                 : [out] "=m"(back), [status] "=m"(status) : [from_] "m"(from), [control] "m"(CONTROLS[c])); \
    store(&back, status, EXCEPTIONS);
            LOAD("flds", single) LOAD("fldl", twice) LOAD("filds", word) LOAD("fildl", narrow) LOAD("fildll", wide)
            if (status == 0 && decimal[9] != 0xff) { /* a packed "indefinite" isn't defined as an operand */
                LOAD("fbld", decimal)
            }
#define MEMORY(insn, from) \
    asm volatile("fninit\n fldcw %[control]\n fldt %[a]\n " insn " %[from_]\n fnstsw %[status]\n fstpt %[out]\n fninit" \
                 : [out] "=m"(back), [status] "=m"(status) : [a] "m"(VALUES[i]), [from_] "m"(from), [control] "m"(CONTROLS[c])); \
    store(&back, status, EXCEPTIONS);
            single = 1.1f, twice = -2.2, word = -7, narrow = 123456789;
            MEMORY("fadds", single) MEMORY("fmull", twice) MEMORY("fisubs", word) MEMORY("fidivrl", narrow) MEMORY("fdivrs", single)
            MEMORY("fsubrl", twice) MEMORY("fiadds", word) MEMORY("fimull", narrow) MEMORY("ficoms", word) MEMORY("fcoml", twice)
        }
    topic("conversions");
}

/* The stack: rotation, exchange, tags, overflow and underflow. */
static void stack(void) {
    Extended out[8];
    uint16_t status;
    asm volatile("fninit\n fld1\n fldpi\n fldl2e\n fldln2\n fldz\n fxch %%st(3)\n fincstp\n fdecstp\n faddp\n fsub %%st(0), %%st(2)\n"
                 "fst %%st(1)\n fld %%st(3)\n fmul %%st(2), %%st\n ffree %%st(4)\n fdivrp %%st, %%st(1)\n"
                 "fstpt (%[o])\n fstpt 10(%[o])\n fstpt 20(%[o])\n fnstsw %[status]\n fstpt 30(%[o])\n fninit"
                 : [status] "=m"(status) : [o] "r"(out) : "memory");
    mix_bytes(out, 40), mix(status & 0x7f7f);
    asm volatile("fninit\n fstpt (%[o])\n fnstsw %[status]\n fninit" : [status] "=m"(status) : [o] "r"(out) : "memory");
    mix_bytes(out, 10), mix(status & (EXCEPTIONS | 0x200)); /* underflow: C1 clear */
    asm volatile("fninit\n fld1\n fld1\n fld1\n fld1\n fld1\n fld1\n fld1\n fld1\n fld1\n fnstsw %[status]\n fstpt (%[o])\n fninit"
                 : [status] "=m"(status) : [o] "r"(out) : "memory");
    mix_bytes(out, 10), mix(status & (EXCEPTIONS | 0x200)); /* overflow: C1 set */
    topic("stack");
}

static void comparisons(void) {
    for (size_t i = 0; i < COUNT(VALUES); i++)
        for (size_t j = 0; j < COUNT(VALUES); j++) {
            uint64_t flags;
            uint16_t a, b, c;
            asm volatile("fninit\n fldt %[x]\n fldt %[y]\n fcomi %%st(1), %%st\n pushfq\n pop %[f]\n fnstsw %[a]\n fucom %%st(1)\n fnstsw %[b]\n"
                         "fcom\n fnstsw %[c]\n fcmovb %%st(1), %%st\n fcmovnu %%st(1), %%st\n fucomip %%st(1), %%st\n fninit"
                         : [f] "=&r"(flags), [a] "=m"(a), [b] "=m"(b), [c] "=m"(c) : [x] "m"(VALUES[i]), [y] "m"(VALUES[j]) : "cc");
            mix(flags & 0x8d5), mix(a & EXCEPTIONS), mix(b & (CONDITIONS | EXCEPTIONS)), mix(c & (CONDITIONS | EXCEPTIONS));
        }
    UNARY("fxam", CONDITIONS | 0x200) UNARY("ftst", CONDITIONS | EXCEPTIONS)
    topic("comparisons");
}

/* fsave and fxsave keep the FPU over whatever comes between. */
static void states(void) {
    static uint8_t old[108], fx[512] __attribute__((aligned(16)));
    Extended out[3];
    uint16_t control = 0x67f, status;
    asm volatile("fninit\n fldcw %[control]\n fldpi\n fld1\n fldl2t\n fxsave %[fx]\n fnsave %[old]\n fldz\n fldz\n fldz\n fninit\n"
                 "fxrstor %[fx]\n fstpt (%[o])\n frstor %[old]\n fstp %%st(0)\n fstpt 10(%[o])\n fstpt 20(%[o])\n fnstsw %[status]\n fninit"
                 : [fx] "+m"(fx), [old] "+m"(old), [status] "=m"(status) : [control] "m"(control), [o] "r"(out) : "memory");
    mix_bytes(out, sizeof out), mix(status & 0x7f7f);
    mix_bytes(fx, 5);            /* control, status, abridged tags */
    mix(*(uint32_t *)(fx + 24)); /* MXCSR */
    for (int i = 0; i < 8; i++)
        mix_bytes(fx + 32 + 16 * i, 10);
    mix_bytes(old, 2), mix_bytes(old + 4, 2), mix_bytes(old + 8, 2); /* control, status, tags */
    mix_bytes(old + 28, 80);
    uint8_t environment[28];
    asm volatile("fninit\n fld1\n fnstenv %[e]\n fldz\n fldenv %[e]\n fnstsw %[status]\n fninit"
                 : [e] "+m"(environment), [status] "=m"(status));
    mix_bytes(environment, 2), mix_bytes(environment + 8, 2), mix(status & 0x7f7f);
    topic("states");
}

static sigjmp_buf escape;
static volatile int code;
static void caught(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)context;
    code = info->si_code;
    siglongjmp(escape, 1);
}

/* An unmasked exception comes with the next waiting instruction, as SIGFPE with its reason. */
static void exceptions(void) {
    struct sigaction action = {.sa_sigaction = caught, .sa_flags = SA_SIGINFO};
    sigaction(SIGFPE, &action, NULL);
#define RAISE(control_, text) \
    code = 0; \
    if (!sigsetjmp(escape, 1)) { \
        uint16_t control = control_; \
        asm volatile("fninit\n fldcw %[control]\n " text "\n fwait\n fninit" :: [control] "m"(control), [largest] "m"(VALUES[13]), [denormal] "m"(VALUES[10])); \
    } \
    asm volatile("fninit"); \
    mix(code);
    RAISE(0x37b, "fldz\n fld1\n fdiv %%st(1), %%st")  /* zero divide */
    RAISE(0x37e, "fldz\n fldz\n fdivp")               /* invalid */
    RAISE(0x377, "fldt %[largest]\n fadd %%st, %%st") /* overflow */
    RAISE(0x35f, "fldpi\n fld1\n fdivp")              /* inexact */
    RAISE(0x37d, "fldt %[denormal]\n fld1\n faddp")   /* denormal operand */
    RAISE(0x37e, "fstp %%st(0)")                      /* stack underflow */
    RAISE(0x37f, "fldz\n fldz\n fdivp")               /* masked: none */
    /* and of SSE, at once */
#define RAISE_SSE(mask, text) \
    code = 0; \
    if (!sigsetjmp(escape, 1)) { \
        unsigned control = mask; \
        asm volatile("ldmxcsr %[control]\n " text :: [control] "m"(control), [a] "x"(1.0), [b] "x"(0.0) : "xmm0"); \
    } \
    { unsigned normal = 0x1f80; asm volatile("ldmxcsr %0" :: "m"(normal)); } \
    mix(code);
    RAISE_SSE(0x1d80, "movapd %[a], %%xmm0\n divsd %[b], %%xmm0")
    RAISE_SSE(0x1f00, "movapd %[b], %%xmm0\n divsd %[b], %%xmm0")
    RAISE_SSE(0x1f80, "movapd %[b], %%xmm0\n divsd %[b], %%xmm0")
    topic("exceptions");
}

int main(int argc, char **argv) {
    begin(argc, argv, "x87");
    constants();
    BINARY("faddp", EXCEPTIONS) BINARY("fsubp", EXCEPTIONS) BINARY("fsubrp", EXCEPTIONS) topic("add and subtract");
    BINARY("fmulp", EXCEPTIONS) topic("multiply");
    BINARY("fdivp", EXCEPTIONS) BINARY("fdivrp", EXCEPTIONS) topic("divide");
    UNARY("fsqrt", EXCEPTIONS) UNARY("fabs", EXCEPTIONS) UNARY("fchs", EXCEPTIONS) UNARY("frndint", EXCEPTIONS) topic("unary");
    UNARY("fld1\n fxch\n fprem\n fnstsw %%ax\n test $0x400, %%ax\n fstp %%st(1)", EXCEPTIONS) topic("remainder");
    BINARY("fprem", EXCEPTIONS) BINARY("fprem1", EXCEPTIONS) BINARY("fscale", EXCEPTIONS) topic("fprem fscale");
    UNARY("fxtract\n faddp", EXCEPTIONS) topic("fxtract");
    conversions(), stack(), comparisons(), states(), exceptions();
    /* the last bits of these are the processor's own */
    UNARY("fsin", 4) UNARY("fcos", 4) UNARY("fsincos\n fsubp", 4) UNARY("fptan\n fmulp", 4) topic("sine and tangent");
    UNARY("fld1\n fpatan", 0) BINARY("fpatan", 0) topic("arctangent");
    BINARY("fyl2x", 0) UNARY("fld1\n fxch\n fyl2x", 0) topic("logarithm");
    static const double SMALL[] = {0.0, 0.5, -0.5, 0.25, -0.999, 1e-10, 0.29, -0.2};
    for (size_t i = 0; i < COUNT(SMALL); i++) { /* f2xm1 is defined up to 1, fyl2xp1 up to 1 - sqrt(2)/2 */
        Extended out;
        asm volatile("fninit\n fldl %[x]\n f2xm1\n fstpt %[out]" : [out] "=m"(out) : [x] "m"(SMALL[i]));
        mix_bytes(&out, sizeof out);
        double x = SMALL[i] * 0.29;
        asm volatile("fninit\n fldpi\n fldl %[x]\n fyl2xp1\n fstpt %[out]\n fninit" : [out] "=m"(out) : [x] "m"(x));
        mix_bytes(&out, sizeof out);
    }
    topic("exponential");
    return 0;
}
