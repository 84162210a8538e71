/* Integer instructions in all widths, with the flags they take and leave (SDM volume 2; undefined flags are
 * masked out). */
#include "check.h"
#include <cpuid.h>

enum { CF = 1, PF = 4, AF = 0x10, ZF = 0x40, SF = 0x80, OF = 0x800 };
enum { ALL = CF | PF | AF | ZF | SF | OF, LOGIC = ALL & ~AF, ROTATE = ALL & ~OF, MUL = CF | OF };

static const uint64_t VALUES[] = {
    0, 1, 2, 0x0f, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff, 0x10000, 0x7fffffff, 0x80000000,
    0xffffffff, 0x100000000, 0x123456789abcdef0, 0x7fffffffffffffff, 0x8000000000000000, 0xfffffffffffffffe, -1,
};
static const uint64_t FLAGS[] = {2, 2 | CF, 2 | ALL};
static uint64_t mask; /* of flags that the instruction defines */

#define EACH_FLAGS for (size_t k = 0; k < COUNT(FLAGS); k++)
#define EACH_VALUE(name) for (size_t name##i = 0, name; name##i < COUNT(VALUES) && (name = VALUES[name##i], 1); name##i++)
#define SET_FLAGS "push %[flags]\n popfq\n"
#define GET_FLAGS "\n pushfq\n pop %[after]"

static void result(uint64_t value, uint64_t flags) {
    mix(value);
    mix(flags & mask);
}

/* Register, register; memory, register; register, memory. */
#define TWO_WIDTH(insn, w) \
    EACH_FLAGS EACH_VALUE(a) EACH_VALUE(b) { \
        uint64_t x = a, m = a, y = a, after; \
        asm volatile(SET_FLAGS #insn " %" #w "[b], %" #w "[x]" GET_FLAGS \
                     : [x] "+r"(x), [after] "=&r"(after) : [b] "r"(b), [flags] "r"(FLAGS[k]) : "cc"); \
        result(x, after); \
        asm volatile(SET_FLAGS #insn " %" #w "[b], %[m]" GET_FLAGS \
                     : [m] "+m"(m), [after] "=&r"(after) : [b] "r"(b), [flags] "r"(FLAGS[k]) : "cc"); \
        result(m, after); \
        asm volatile(SET_FLAGS #insn " %[m], %" #w "[y]" GET_FLAGS \
                     : [y] "+r"(y), [after] "=&r"(after) : [m] "m"(b), [flags] "r"(FLAGS[k]) : "cc"); \
        result(y, after); \
    }
#define TWO(insn, defined) \
    mask = defined; \
    TWO_WIDTH(insn, b) TWO_WIDTH(insn, w) TWO_WIDTH(insn, k) TWO_WIDTH(insn, q) topic(#insn);

/* lock: memory, register. */
#define LOCK_WIDTH(insn, w) \
    EACH_VALUE(a) EACH_VALUE(b) { \
        uint64_t m = a, x = b, accumulator = a ^ (b & 1), after; \
        asm volatile(SET_FLAGS "lock " #insn " %" #w "[x], %[m]" GET_FLAGS \
                     : [m] "+m"(m), [x] "+r"(x), "+a"(accumulator), [after] "=&r"(after) : [flags] "r"(FLAGS[1]) : "cc"); \
        result(m, after); \
        mix(x), mix(accumulator); \
    }
#define LOCK(insn) mask = ALL; LOCK_WIDTH(insn, b) LOCK_WIDTH(insn, w) LOCK_WIDTH(insn, k) LOCK_WIDTH(insn, q) topic("lock " #insn);

/* One operand, register and memory (suffix s gives memory its width). */
#define ONE_WIDTH(insn, w, s) \
    EACH_FLAGS EACH_VALUE(a) { \
        uint64_t x = a, m = a, after; \
        asm volatile(SET_FLAGS #insn " %" #w "[x]" GET_FLAGS \
                     : [x] "+r"(x), [after] "=&r"(after) : [flags] "r"(FLAGS[k]) : "cc"); \
        result(x, after); \
        asm volatile(SET_FLAGS #insn #s " %[m]" GET_FLAGS \
                     : [m] "+m"(m), [after] "=&r"(after) : [flags] "r"(FLAGS[k]) : "cc"); \
        result(m, after); \
    }
#define ONE(insn, defined) \
    mask = defined; \
    ONE_WIDTH(insn, b, b) ONE_WIDTH(insn, w, w) ONE_WIDTH(insn, k, l) ONE_WIDTH(insn, q, q) topic(#insn);

/* Shifts and rotates: by cl, by 1 and by an immediate. OF is defined for a count of 1 only, CF (of shl and shr)
 * for counts below the width. */
#define SHIFT_WIDTH(insn, w, s, bits) \
    EACH_FLAGS EACH_VALUE(a) { \
        uint64_t x, after, defined = mask; \
        for (uint64_t n = 0; n < 70; n += n < 34 ? 1 : 5) { \
            unsigned shift = n & (bits == 64 ? 63 : 31); \
            x = a; \
            asm volatile(SET_FLAGS #insn " %%cl, %" #w "[x]" GET_FLAGS \
                         : [x] "+r"(x), [after] "=&r"(after) : "c"(n), [flags] "r"(FLAGS[k]) : "cc"); \
            mask = shift == 0 ? ALL : shift == 1 ? defined | OF : shift < bits ? defined : defined & ~CF; \
            result(x, after); \
        } \
        x = a; \
        mask = defined | OF; \
        asm volatile(SET_FLAGS #insn #s " $1, %[x]" GET_FLAGS \
                     : [x] "+m"(x), [after] "=&r"(after) : [flags] "r"(FLAGS[k]) : "cc"); \
        result(x, after); \
        mask = defined; \
        asm volatile(SET_FLAGS #insn #s " $7, %[x]" GET_FLAGS \
                     : [x] "+m"(x), [after] "=&r"(after) : [flags] "r"(FLAGS[k]) : "cc"); \
        result(x, after); \
    }
#define SHIFT(insn, defined) \
    mask = defined; \
    SHIFT_WIDTH(insn, b, b, 8) SHIFT_WIDTH(insn, w, w, 16) SHIFT_WIDTH(insn, k, l, 32) SHIFT_WIDTH(insn, q, q, 64) topic(#insn);

#define DOUBLE_WIDTH(insn, w, most) \
    EACH_VALUE(a) EACH_VALUE(b) for (uint64_t n = 0; n < most; n += 3) { \
        uint64_t x = a, m = a, after; \
        mask = n == 0 ? ALL : CF | PF | ZF | SF | (n == 1 ? OF : 0); \
        asm volatile(SET_FLAGS #insn " %%cl, %" #w "[b], %" #w "[x]" GET_FLAGS \
                     : [x] "+r"(x), [after] "=&r"(after) : [b] "r"(b), "c"(n), [flags] "r"(FLAGS[0]) : "cc"); \
        result(x, after); \
        mask = CF | PF | ZF | SF; \
        asm volatile(SET_FLAGS #insn " $5, %" #w "[b], %[m]" GET_FLAGS \
                     : [m] "+m"(m), [after] "=&r"(after) : [b] "r"(b), [flags] "r"(FLAGS[2]) : "cc"); \
        result(m, after); \
    }
#define DOUBLE(insn) DOUBLE_WIDTH(insn, w, 16) DOUBLE_WIDTH(insn, k, 32) DOUBLE_WIDTH(insn, q, 64) topic(#insn);

/* rdx:rax by an operand. */
#define MUL_WIDTH(insn, w) \
    EACH_VALUE(a) EACH_VALUE(b) { \
        uint64_t low = a, high = 0x55, after; \
        asm volatile(SET_FLAGS #insn " %" #w "[b]" GET_FLAGS \
                     : "+a"(low), "+d"(high), [after] "=&r"(after) : [b] "r"(b), [flags] "r"(FLAGS[2]) : "cc"); \
        result(low, after); \
        mix(high); \
    }
#define MULTIPLY(insn) mask = MUL; MUL_WIDTH(insn, b) MUL_WIDTH(insn, w) MUL_WIDTH(insn, k) MUL_WIDTH(insn, q) topic(#insn);

/* Dividends are made so that no quotient overflows: high < divisor / 2, positive for idiv. */
#define DIV_WIDTH(insn, w, bits) \
    EACH_VALUE(a) EACH_VALUE(b) { \
        uint64_t most = bits == 64 ? -1ull : (1ull << (bits & 63)) - 1, divisor = b & (most >> 1); \
        if (divisor < 2) \
            continue; \
        uint64_t high = (a ^ 0x5a5a5a5a5a5a5a5a) % (divisor / 2 + 1) / 2, low = a & most; \
        if (bits == 8) \
            low = (low | high << 8) & 0xffff; \
        asm volatile(#insn " %" #w "[b]" : "+a"(low), "+d"(high) : [b] "r"(divisor) : "cc"); \
        mix(low); \
        mix(high); \
    }
#define DIVIDE(insn) DIV_WIDTH(insn, b, 8) DIV_WIDTH(insn, w, 16) DIV_WIDTH(insn, k, 32) DIV_WIDTH(insn, q, 64) topic(#insn);

/* imul r, r and imul r, r, imm; bsf and bsr leave rubbish for 0, so 0 is left out. */
#define IMUL_WIDTH(w) \
    EACH_VALUE(a) EACH_VALUE(b) { \
        uint64_t x = a, y = 0, z = 0, after; \
        asm volatile(SET_FLAGS "imul %" #w "[b], %" #w "[x]" GET_FLAGS \
                     : [x] "+r"(x), [after] "=&r"(after) : [b] "r"(b), [flags] "r"(FLAGS[0]) : "cc"); \
        result(x, after); \
        asm volatile(SET_FLAGS "imul $-77, %" #w "[b], %" #w "[x]" GET_FLAGS \
                     : [x] "+r"(y), [after] "=&r"(after) : [b] "r"(b), [flags] "r"(FLAGS[0]) : "cc"); \
        result(y, after); \
        asm volatile(SET_FLAGS "imul $0x1234, %[b], %" #w "[x]" GET_FLAGS \
                     : [x] "+r"(z), [after] "=&r"(after) : [b] "m"(b), [flags] "r"(FLAGS[0]) : "cc"); \
        result(z, after); \
    }

#define SCAN_WIDTH(insn, w, most) \
    EACH_VALUE(a) EACH_VALUE(b) if (b & most) { \
        uint64_t x = a, after; \
        asm volatile(SET_FLAGS #insn " %" #w "[b], %" #w "[x]" GET_FLAGS \
                     : [x] "+r"(x), [after] "=&r"(after) : [b] "r"(b), [flags] "r"(FLAGS[2]) : "cc"); \
        result(x, after); \
    }
#define SCAN(insn, defined) \
    mask = defined; \
    SCAN_WIDTH(insn, w, 0xffff) SCAN_WIDTH(insn, k, 0xffffffff) SCAN_WIDTH(insn, q, -1ull) topic(#insn);

/* bt and its kin: a register wraps the bit's number, memory reaches beyond the operand, also backwards. */
#define BIT_WIDTH(insn, w, s) \
    EACH_VALUE(a) for (int64_t n = -128; n < 128; n += 7) { \
        uint64_t x = a, m[6] = {a, ~a, a, ~a, a, ~a}, after; \
        asm volatile(SET_FLAGS #insn " %" #w "[n], %" #w "[x]" GET_FLAGS \
                     : [x] "+r"(x), [after] "=&r"(after) : [n] "r"(n), [flags] "r"(FLAGS[0]) : "cc"); \
        result(x, after); \
        asm volatile(SET_FLAGS #insn " %" #w "[n], %[m]" GET_FLAGS \
                     : [m] "+m"(m[3]), [after] "=&r"(after) : [n] "r"(n), [flags] "r"(FLAGS[0]) : "cc", "memory"); \
        result(0, after); \
        mix_bytes(m, sizeof m); \
        asm volatile(SET_FLAGS #insn #s " $13, %[m]" GET_FLAGS \
                     : [m] "+m"(m[2]), [after] "=&r"(after) : [flags] "r"(FLAGS[0]) : "cc"); \
        result(m[2], after); \
    }
#define BIT(insn) mask = CF; BIT_WIDTH(insn, w, w) BIT_WIDTH(insn, k, l) BIT_WIDTH(insn, q, q) topic(#insn);

#define CONDITION(c) \
    for (uint64_t bits = 0; bits < 64; bits++) { \
        uint64_t flags = 2 | (bits & 1) | (bits & 2) << 1 | (bits & 4) << 2 | (bits & 8) << 3 | (bits & 16) << 3 | (bits & 32) << 6; \
        uint64_t set = 0x1111, moved = 0xaaaaaaaaaaaaaaaa, narrow = -1ull, jumped = 0; \
        asm volatile(SET_FLAGS "set" #c " %b[set]\n cmov" #c " %q[b], %q[moved]\n cmov" #c " %k[b], %k[narrow]\n" \
                     "j" #c " 1f\n movb $1, %b[jumped]\n 1:" \
                     : [set] "+r"(set), [moved] "+r"(moved), [narrow] "+r"(narrow), [jumped] "+r"(jumped) \
                     : [b] "r"(0x5555555555555555), [flags] "r"(flags) : "cc"); \
        mix(set), mix(moved), mix(narrow), mix(jumped); \
    }

static void exchanges(void) {
    mask = ALL;
    EACH_VALUE(a) EACH_VALUE(b) {
        uint64_t x = a, y = b, accumulator = b & ~1ull, after;
        asm volatile(SET_FLAGS "cmpxchg %b[y], %b[x]\n cmpxchg %w[y], %w[x]\n cmpxchg %k[y], %k[x]\n cmpxchg %q[y], %q[x]" GET_FLAGS
                     : [x] "+r"(x), "+a"(accumulator), [after] "=&r"(after) : [y] "r"(y), [flags] "r"(FLAGS[0]) : "cc");
        result(x, after);
        mix(accumulator);
        asm volatile("xchg %b[x], %b[y]\n xchg %w[x], %w[y]\n xchg %k[x], %k[y]" : [x] "+r"(x), [y] "+r"(y));
        mix(x), mix(y);
        uint64_t pair = a;
        uint32_t low = b, high = a >> 32;
        uint8_t equal;
        asm volatile("lock cmpxchg8b %[m]\n setz %[equal]"
                     : [m] "+m"(pair), "+a"(low), "+d"(high), [equal] "=q"(equal) : "b"(0x11223344), "c"(0x55667788) : "cc");
        mix(pair), mix(low), mix(high), mix(equal);
    }
    topic("cmpxchg xchg cmpxchg8b");
}

__attribute__((target("cx16"))) static void wide_exchange(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_CMPXCHG16B)) {
        absent("cmpxchg16b");
        return;
    }
    EACH_VALUE(x) EACH_VALUE(y) {
        uint64_t pair[2] __attribute__((aligned(16))) = {x, y}, low = x, high = y ^ (x & 1);
        uint8_t equal;
        asm volatile("lock cmpxchg16b %[m]\n setz %[equal]"
                     : [m] "+m"(pair), "+a"(low), "+d"(high), [equal] "=q"(equal) : "b"(7ull), "c"(9ull) : "cc");
        mix_bytes(pair, sizeof pair), mix(low), mix(high), mix(equal);
    }
    topic("cmpxchg16b");
}

static void counts(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_POPCNT)) {
        absent("popcnt");
        return;
    }
    SCAN(popcnt, ALL)
}

/* Widening, sign extension, the old high-byte registers, addresses. */
static void moves(void) {
    EACH_VALUE(a) {
        uint64_t x = -1ull, d = 0;
#define MOVE(text) asm volatile(text : [x] "+r"(x) : [a] "r"(a), [m] "m"(a)); mix(x);
        MOVE("movzbw %b[a], %w[x]") MOVE("movzbl %b[a], %k[x]") MOVE("movzbq %[m], %q[x]") MOVE("movzwl %w[a], %k[x]")
        MOVE("movzwq %[m], %q[x]") MOVE("movsbw %b[a], %w[x]") MOVE("movsbl %[m], %k[x]") MOVE("movsbq %b[a], %q[x]")
        MOVE("movswl %w[a], %k[x]") MOVE("movswq %[m], %q[x]") MOVE("movslq %k[a], %q[x]") MOVE("movslq %[m], %q[x]")
        MOVE("movb %b[a], %b[x]") MOVE("movw %w[a], %w[x]") MOVE("movl %k[a], %k[x]") MOVE("movq %[a], %[x]")
        MOVE("bswap %k[x]") MOVE("bswap %q[x]") MOVE("lea 5(%[a],%[a],8), %[x]") MOVE("lea -9(%k[a],%k[a],4), %k[x]")
        MOVE("leaw 3(%[a],%[a],2), %w[x]") MOVE("lea (,%[a],4), %[x]") MOVE("mov $-5, %[x]") MOVE("movabs $0x1122334455667788, %[x]")
        x = a;
        asm volatile("cbw\n cwde\n cdqe\n cwd\n cdq\n cqo" : "+a"(x), "+d"(d));
        mix(x), mix(d);
        x = a;
        asm volatile("mov %%ah, %%bl\n add %%al, %%bh\n xchg %%ah, %%al\n sub %%bl, %%ah\n mov %%bh, %%ch\n rol $3, %%dh\n mov %%dh, %%cl"
                     : "+a"(x) : "b"(a * 3), "c"(a * 5), "d"(a * 7) : "cc");
        mix(x);
        uint64_t pushed = 0;
        asm volatile("pushq %[a]\n pushw %w[a]\n pushq $-7\n popq %[x]\n add $2, %%rsp\n popq %[p]\n push %[p]\n popq %[m]"
                     : [x] "+r"(x), [p] "+r"(pushed), [m] "=m"(d) : [a] "r"(a) : "cc");
        mix(x), mix(pushed), mix(d);
        x = a;
        asm volatile("sahf\n mov $0, %%eax\n lahf" : "+a"(x)::"cc");
        mix(x);
        uint8_t table[256];
        for (int i = 0; i < 256; i++)
            table[i] = i * 7 + 3;
        x = a;
        asm volatile("xlat" : "+a"(x) : "b"(table), "m"(table));
        mix(x);
        asm volatile("push %%rbp\n mov %%rsp, %%rbp\n enter $64, $0\n movq %[a], -8(%%rbp)\n movq -8(%%rbp), %[x]\n leave\n pop %%rbp"
                     : [x] "=&a"(x) : [a] "d"(a) : "memory");
        mix(x);
    }
    topic("moves");
}

static void loops(void) {
    mask = CF | ZF;
    for (uint64_t n = 0; n < 40; n++) {
        uint64_t c = n + 1, x = 0, after;
        asm volatile("1: add %[n], %[x]\n loop 1b" : "+c"(c), [x] "+r"(x) : [n] "r"(n));
        mix(x);
        c = 20;
        asm volatile("1: inc %[x]\n cmp %[n], %%rcx\n loopne 1b" : "+c"(c), [x] "+r"(x) : [n] "r"(n) : "cc");
        mix(x), mix(c);
        c = 20;
        asm volatile("1: add $8, %[x]\n test $15, %b[x]\n loope 1b" : "+c"(c), [x] "+r"(x)::"cc");
        mix(x), mix(c);
        c = n & 3;
        asm volatile("jrcxz 1f\n add $100, %[x]\n 1: mov $0x100000000, %%rcx\n jecxz 2f\n inc %[x]\n 2:" : "+c"(c), [x] "+r"(x)::"cc");
        mix(x);
        asm volatile(SET_FLAGS "cmc\n setc %b[x]\n clc\n adc $0, %[x]\n stc\n adc $0, %[x]\n std\n cld" GET_FLAGS
                     : [x] "+r"(x), [after] "=&r"(after) : [flags] "r"(FLAGS[n & 1]) : "cc");
        result(x, after);
    }
    topic("loops");
}

/* Calls and jumps through registers, memory and tables; deep and mutual recursion. */
static uint64_t odd(uint64_t n);
static __attribute__((noinline)) uint64_t even(uint64_t n) {
    asm volatile("" : "+r"(n)); /* a call it shall stay */
    return n == 0 ? 1 : 3 + odd(n - 1);
}
static __attribute__((noinline)) uint64_t odd(uint64_t n) {
    asm volatile("" : "+r"(n));
    return n == 0 ? 0 : 5 * even(n - 1);
}

static uint64_t by_switch(unsigned n, uint64_t x) {
    switch (n & 15) {
    case 0: return x + 1;
    case 1: return x * 3;
    case 2: return x ^ 0x55;
    case 3: return x >> 3;
    case 4: return x << 7;
    case 5: return ~x;
    case 6: return x - 9;
    case 7: return x / 7;
    case 8: return x % 1000003;
    case 9: return __builtin_bswap64(x);
    default: return x * x + n;
    }
}

static void calls(void) {
    uint64_t (*const table[])(uint64_t) = {even, odd, even, even, odd};
    uint64_t x = 1;
    for (unsigned i = 0; i < 2000; i++) {
        x = by_switch(random64() >> 60, x);
        x += table[random64() % COUNT(table)](i % 50);
        mix(x);
    }
    mix(even(20000));
    /* ret imm16 takes an argument off the stack */
    asm volatile("push $41\n call 1f\n jmp 2f\n 1: mov 8(%%rsp), %[x]\n inc %[x]\n ret $8\n 2:" : [x] "=&r"(x)::"cc", "memory");
    mix(x);
    topic("calls");
}

int main(int argc, char **argv) {
    begin(argc, argv, "integer");
    TWO(add, ALL) TWO(adc, ALL) TWO(sub, ALL) TWO(sbb, ALL) TWO(cmp, ALL) TWO(and, LOGIC) TWO(or, LOGIC) TWO(xor, LOGIC)
    mask = LOGIC;
    TWO_WIDTH(test, b) TWO_WIDTH(test, w) TWO_WIDTH(test, k) TWO_WIDTH(test, q) topic("test");
    LOCK(add) LOCK(adc) LOCK(sub) LOCK(sbb) LOCK(xadd) LOCK(cmpxchg) LOCK(xchg)
    ONE(inc, ALL) ONE(dec, ALL) ONE(neg, ALL) ONE(not, ALL)
    SHIFT(shl, LOGIC & ~OF) SHIFT(shr, LOGIC & ~OF) SHIFT(sar, LOGIC & ~OF)
    SHIFT(rol, ROTATE) SHIFT(ror, ROTATE) SHIFT(rcl, ROTATE) SHIFT(rcr, ROTATE)
    DOUBLE(shld) DOUBLE(shrd)
    MULTIPLY(mul) MULTIPLY(imul) DIVIDE(div) DIVIDE(idiv)
    mask = MUL;
    IMUL_WIDTH(w) IMUL_WIDTH(k) IMUL_WIDTH(q) topic("imul of two and three");
    SCAN(bsf, ZF) SCAN(bsr, ZF)
    BIT(bt) BIT(bts) BIT(btr) BIT(btc)
    CONDITION(o) CONDITION(no) CONDITION(b) CONDITION(ae) CONDITION(e) CONDITION(ne) CONDITION(be) CONDITION(a)
    CONDITION(s) CONDITION(ns) CONDITION(p) CONDITION(np) CONDITION(l) CONDITION(ge) CONDITION(le) CONDITION(g)
    topic("conditions");
    exchanges(), wide_exchange(), counts(), moves(), loops(), calls();
    return 0;
}
