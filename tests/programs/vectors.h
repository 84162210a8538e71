/* Values for vector instructions, and the loops over them. Include after the type Vector. */
#pragma once

static const Vector INTEGERS[] = {
    {.q = {0, 0}}, {.q = {-1ull, -1ull}}, {.q = {0x0123456789abcdef, 0xfedcba9876543210}},
    {.q = {0x8000800080008000, 0x7fff7fff7fff7fff}}, {.q = {0x8080808080808080, 0x7f7f7f7f7f7f7f7f}},
    {.q = {0x8000000080000000, 0x7fffffff7fffffff}}, {.q = {5, 0}}, {.q = {17, 3}}, {.q = {40, 0}}, {.q = {64, 1}},
    {.q = {0xff00ff00ff00ff00, 0x00ff00ff00ff00ff}}, {.q = {0x3243f6a8885a308d, 0x313198a2e0370734}},
};
static const Vector SINGLES[] = {
    {.s = {1.0f, -2.5f, 3.1415927f, -0.0f}}, {.s = {0.0f, 1e30f, -1e-30f, 16777217.0f}},
    {.u = {0x7f800000, 0xff800000, 0x7fc00001, 0x00000001}},  /* infinities, a quiet NaN, the least denormal */
    {.u = {0x7f7fffff, 0x00800000, 0x807fffff, 0x3f800001}},  /* the largest, the least normal, the largest denormal */
    {.u = {0xffa00000, 0x4f000000, 0xcf000000, 0x5f000000}},  /* a signalling NaN, the edges of int32 and int64 */
    {.s = {0.5f, 1.5f, 2.5f, -1.5f}}, {.s = {3e38f, 3e38f, -7.25f, 1e-40f}},
};
static const Vector DOUBLES[] = {
    {.g = {1.0, -2.5}}, {.g = {3.141592653589793, -0.0}}, {.g = {0.0, 1e300}}, {.g = {1e-300, -1e-310}},
    {.q = {0x7ff0000000000000, 0xfff0000000000000}}, {.q = {0x7ff8000000000123, 1}}, {.q = {0xfff4000000000000, 0x7fefffffffffffff}},
    {.g = {2147483647.5, -2147483648.5}}, {.g = {9223372036854775808.0, 0.1}}, {.g = {1.5, 2.5}}, {.g = {1e-45, 3.5e38}},
};

/* Register, register; register, memory. */
#define OP_OF(insn, table) \
    for (size_t i = 0; i < COUNT(table); i++) \
        for (size_t j = 0; j < COUNT(table); j++) { \
            Vector a = table[i], b = table[j], c = table[i]; \
            asm volatile(#insn " %[b], %[a]\n " #insn " %[m], %[c]" : [a] "+x"(a.i), [c] "+x"(c.i) : [b] "x"(b.i), [m] "m"(b.i)); \
            mix_bytes(&a, 16), mix_bytes(&c, 16); \
        }
#define OP(insn) OP_OF(insn, INTEGERS) topic(#insn);

#define IMMEDIATE_OF(insn, n, table) \
    for (size_t i = 0; i < COUNT(table); i++) \
        for (size_t j = 0; j < COUNT(table); j++) { \
            Vector a = table[i], b = table[j]; \
            asm volatile(#insn " $" #n ", %[m], %[a]\n " #insn " $" #n ", %[b], %[a]" : [a] "+x"(a.i) : [b] "x"(b.i), [m] "m"(b.i)); \
            mix_bytes(&a, 16); \
        }
#define IMMEDIATES_OF(insn, table) \
    IMMEDIATE_OF(insn, 0, table) IMMEDIATE_OF(insn, 0x1b, table) IMMEDIATE_OF(insn, 0xe4, table) \
    IMMEDIATE_OF(insn, 0x93, table) IMMEDIATE_OF(insn, 0xff, table) IMMEDIATE_OF(insn, 0x0a, table) topic(#insn);
#define IMMEDIATE(insn) IMMEDIATES_OF(insn, INTEGERS)

#define SHIFT_BY(insn, n) \
    for (size_t i = 0; i < COUNT(INTEGERS); i++) { \
        Vector a = INTEGERS[i]; \
        asm volatile(#insn " $" #n ", %[a]" : [a] "+x"(a.i)); \
        mix_bytes(&a, 16); \
    }
#define SHIFT(insn) SHIFT_BY(insn, 0) SHIFT_BY(insn, 1) SHIFT_BY(insn, 7) SHIFT_BY(insn, 15) SHIFT_BY(insn, 33) SHIFT_BY(insn, 200) topic(#insn " by a number");

#define INSERT_AT(insn, n) \
    for (size_t i = 0; i < COUNT(INTEGERS); i++) { \
        Vector a = INTEGERS[i]; \
        uint64_t value = INTEGERS[i].q[1] ^ 0x5a5a5a5a5a5a5a5a; \
        asm volatile(#insn " $" #n ", %[r], %[a]\n " : [a] "+x"(a.i) : [r] "r"((uint32_t)value)); \
        mix_bytes(&a, 16); \
        asm volatile(#insn " $" #n " + 1, %[m], %[a]\n " : [a] "+x"(a.i) : [m] "m"(value)); \
        mix_bytes(&a, 16); \
    }
#define INSERT(insn) INSERT_AT(insn, 0) INSERT_AT(insn, 1) INSERT_AT(insn, 5) topic(#insn);

#define EXTRACT_AT(insn, n) \
    for (size_t i = 0; i < COUNT(INTEGERS); i++) { \
        uint64_t value = -1ull; \
        asm volatile(#insn " $" #n ", %[a], %k[r]" : [r] "+r"(value) : [a] "x"(INTEGERS[i].i)); \
        mix(value); \
    }
#define EXTRACT(insn) EXTRACT_AT(insn, 0) EXTRACT_AT(insn, 1) EXTRACT_AT(insn, 3) EXTRACT_AT(insn, 7) topic(#insn);
