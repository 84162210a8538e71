/* Code that changes: patched, overwritten in front of itself, over two pages, by another mapping, by unmapping;
 * jumps into the middle of an instruction (SDM volume 3, 8.1.3 and 11.6: on one processor the next jump sees it). */
#include "check.h"
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, RWX = PROT_READ | PROT_WRITE | PROT_EXEC };
typedef uint64_t (*Function)(uint64_t);

static uint8_t *pages(int count) {
    return mmap(NULL, count * PAGE, RWX, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

/* lea VALUE(%rdi), %rax; ret */
static void put_add(uint8_t *at, uint32_t value) {
    static const uint8_t LEA[] = {0x48, 0x8d, 0x87};
    memcpy(at, LEA, 3), memcpy(at + 3, &value, 4), at[7] = 0xc3;
}

static void immediates(void) {
    uint8_t *code = pages(1);
    put_add(code, 0);
    uint64_t x = 0;
    for (uint32_t i = 0; i < 3000; i++) {
        *(uint32_t *)(code + 3) = i * 7;
        x = ((Function)code)(x);
    }
    mix(x);
    for (int i = 0; i < 300; i++) /* a byte of it only; and data that lies in the same page as the code */
        code[3] = i, code[200 + i] = i, x += ((Function)code)(x) ^ code[100 + i];
    mix(x);
    topic("immediates");
    for (int i = 0; i < 200; i++) { /* the instruction itself: add, sub, xor, ... of eax and edi */
        static const uint8_t OPS[] = {0x01, 0x29, 0x31, 0x09, 0x21};
        const uint8_t text[] = {0x89, 0xf8, 0xc1, 0xe0, i & 15, OPS[i % 5], 0xf8, 0xc3};
        memcpy(code, text, sizeof text);
        mix(((Function)code)(i * 12345));
    }
    topic("instructions");
}

/* The patched instruction is the next one, in the same straight run of code. */
static void next_instruction(void) {
    uint8_t *code = pages(1);
    /* movl $VALUE, 3(%rip) -> the immediate of: mov $0, %eax; ret */
    static const uint8_t TEXT[] = {0xc7, 0x05, 0x01, 0, 0, 0, 0, 0, 0, 0, 0xb8, 0, 0, 0, 0, 0xc3};
    memcpy(code, TEXT, sizeof TEXT);
    for (uint32_t i = 1; i < 200; i++) {
        memcpy(code + 6, &i, 4);
        mix(((Function)code)(0));
    }
    /* movb $0x90, over int3s that follow, in turn; then back by the caller */
    for (int i = 0; i < 50; i++) {
        uint8_t *at = code + 256;
        for (int k = 0; k < 8; k++) {
            const uint8_t store[] = {0xc6, 0x05, 0, 0, 0, 0, 0x90, 0xcc}; /* movb $nop, (next instruction) */
            memcpy(at, store, sizeof store), at += sizeof store;
        }
        const uint8_t end[] = {0x8d, 0x47, i, 0xc3};
        memcpy(at, end, sizeof end);
        mix(((Function)(code + 256))(i));
    }
    topic("next instruction");
    /* a loop whose body turns from inc to dec when half is done: the patch lies behind in the loop */
    for (int i = 1; i < 40; i++) {
        /* 0: xor eax,eax; mov ecx,2*i; loop: inc eax; cmp ecx,i; jne +7; movb $0xc8, inc's modrm; dec ecx; jnz loop; ret */
        uint8_t text[] = {0x31, 0xc0, 0xb9, 2 * i, 0, 0, 0, 0xff, 0xc0, 0x83, 0xf9, i, 0x75, 7, 0xc6, 0x05, 0xf3, 0xff, 0xff, 0xff, 0xc8,
                          0xff, 0xc9, 0x75, 0xee, 0xc3};
        memcpy(code + 1024, text, sizeof text);
        mix(((Function)(code + 1024))(0));
    }
    topic("a loop that changes itself");
}

static void two_pages(void) {
    uint8_t *code = pages(3);
    for (int start = PAGE - 8; start <= PAGE; start++) { /* the instruction lies across the edge */
        for (uint32_t i = 0; i < 20; i++) {
            if (i & 1)
                code[start + 5] = i; /* in one of the pages only */
            else
                put_add(code + start, i << 16 | i);
            mix(((Function)(code + start))(1000));
        }
    }
    for (int i = 0; i < 100; i++) { /* code in one page, called from the other, data in the third */
        put_add(code + PAGE + 64, i);
        const uint8_t call[] = {0xe8, 0, 0, 0, 0, 0xff, 0xc0, 0xc3};
        int32_t distance = PAGE + 64 - (128 + 5);
        memcpy(code + 128, call, sizeof call), memcpy(code + 129, &distance, 4);
        mix(((Function)(code + 128))(i));
        code[2 * PAGE + i] = i;
    }
    topic("two pages");
    for (int i = 0; i < 50; i++) {
        mprotect(code, PAGE, PROT_READ | PROT_WRITE);
        put_add(code, i * 3);
        mprotect(code, PAGE, PROT_READ | PROT_EXEC);
        mix(((Function)code)(5));
        if (i % 10 == 9) { /* another page at the same address */
            mmap(code, PAGE, RWX, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
            put_add(code, i * 5);
            mix(((Function)code)(6));
        }
    }
    topic("mprotect and mmap");
}

/* Two views of one page: what is written through one runs through the other. */
static void two_mappings(void) {
    char name[] = "/tmp/pykvm-XXXXXX";
    int fd = mkstemp(name);
    unlink(name);
    if (fd < 0 || ftruncate(fd, 2 * PAGE)) {
        absent("two mappings");
        return;
    }
    uint8_t *writable = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    uint8_t *code = mmap(NULL, 2 * PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    if (code == MAP_FAILED) {
        absent("two mappings");
        return;
    }
    for (uint32_t i = 0; i < 500; i++) {
        put_add(writable + 16, i);
        mix(((Function)(code + 16))(i));
        put_add(writable + PAGE - 3, i * 9);
        mix(((Function)(code + PAGE - 3))(i));
    }
    for (uint32_t i = 0; i < 50; i++) { /* by the system: read() and pwrite() into the page */
        uint8_t text[8];
        put_add(text, i * 11);
        mix(pwrite(fd, text, 8, 512));
        mix(((Function)(code + 512))(i));
    }
    int pipes[2];
    uint8_t *mine = pages(1);
    if (pipe(pipes))
        return;
    for (uint32_t i = 0; i < 50; i++) {
        uint8_t text[8];
        put_add(text, i * 13);
        mix(write(pipes[1], text, 8)), mix(read(pipes[0], mine, 8));
        mix(((Function)mine)(i));
    }
    topic("two mappings");
}

/* The same bytes from two starting points. */
static void middle(void) {
    uint8_t *code = pages(1);
    for (int i = 0; i < 64; i++) {
        /* mov $X, %eax; ret, where X from its second byte on is: lea i(%rdi), %eax; ret */
        const uint8_t text[] = {0x89, 0xf8, 0xb9, 0x90, 0x8d, 0x47, i, 0xc3};
        memcpy(code, text, sizeof text);
        mix(((Function)code)(i * 3));
        for (int start = 3; start < 5; start++)
            mix(((Function)(code + start))(i * 3));
        /* eb ff c0: jmp into its own second byte, which is inc eax */
        const uint8_t own[] = {0x31, 0xc0, 0xeb, 0xff, 0xc0, 0x83, 0xc0, i, 0xc3};
        memcpy(code + 64, own, sizeof own);
        mix(((Function)(code + 64))(0));
    }
    topic("middle of an instruction");
}

/* Many small functions, made, run and freed, more than a translator may wish to keep. */
static void many(void) {
    enum { MANY = 64 };
    uint64_t x = 1;
    for (int round = 0; round < 10; round++) {
        uint8_t *code = pages(MANY);
        for (int i = 0; i < MANY * PAGE / 64; i++) {
            put_add(code + 64 * i, i * (round + 1));
            x = ((Function)(code + 64 * i))(x);
        }
        mix(x);
        munmap(code, MANY * PAGE);
    }
    topic("many functions");
}

int main(int argc, char **argv) {
    begin(argc, argv, "selfmod");
    immediates(), next_instruction(), two_pages(), two_mappings(), middle(), many();
    return 0;
}
