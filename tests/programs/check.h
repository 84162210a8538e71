/* What the self-checking programs share: a checksum a topic, and one line for each.
 *
 * The host runs a program natively, the guest runs the same file; the lines must be the same. So nothing that
 * goes into a checksum may depend on addresses, times or process numbers, nor on what the manual leaves
 * undefined. `PROGRAM -v` prints each value too, to find the first that differs. */
#pragma once

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FNV_OFFSET 0xcbf29ce484222325 /* FNV-1a, 64 bits */
#define FNV_PRIME 0x100000001b3

static const char *program;
static int verbose;
static uint64_t checksum = FNV_OFFSET;

static inline void begin(int argc, char **argv, const char *name) {
    program = name;
    verbose = argc > 1 && !strcmp(argv[1], "-v");
    setvbuf(stdout, NULL, _IOLBF, 0); /* a crash in the next topic must not take this one's line along */
}

/* Put bytes into the checksum. */
static inline void mix_bytes(const void *data, size_t size) {
    const uint8_t *byte = data;
    for (size_t i = 0; i < size; i++)
        checksum = (checksum ^ byte[i]) * FNV_PRIME;
    if (verbose) {
        printf("   ");
        for (size_t i = 0; i < size && i < 64; i++)
            printf("%s%02x", i % 8 ? "" : " ", byte[i]);
        printf("\n");
    }
}

static inline void mix(uint64_t value) {
    mix_bytes(&value, sizeof value);
}

/* The line of a topic; the next one begins. */
static inline void topic(const char *name) {
    printf("%s: %s %016llx\n", program, name, (unsigned long long)checksum);
    checksum = FNV_OFFSET;
}

/* Instead of a checksum where this CPU lacks what the topic needs. */
static inline void absent(const char *name) {
    printf("%s: %s absent\n", program, name);
    checksum = FNV_OFFSET;
}

/* What must hold on any CPU; the line names what doesn't. */
#define expect(condition) \
    do { \
        if (!(condition)) \
            printf("%s: line %d: not so: %s\n", program, __LINE__, #condition), mix(__LINE__); \
        else \
            mix(1); \
    } while (0)

/* xorshift64*: the same numbers everywhere. */
static uint64_t random_state = 0x9e3779b97f4a7c15;
static inline uint64_t random64(void) {
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return random_state * 0x2545f4914f6cdd1d;
}

#define COUNT(array) (sizeof(array) / sizeof(array)[0])
