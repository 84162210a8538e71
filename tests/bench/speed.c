/* Work for tests/bench/translate. `speed NAME…` prints for each: its name, its nanoseconds, and a result that must
 * be the same everywhere. The best of three turns counts, so that a translator has warmed up. */
#include <emmintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, TURNS = 3, POST_PORT = 0x80 };

static uint64_t state;
static uint64_t random64(void) { /* xorshift64* */
    state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
    return state * 0x2545f4914f6cdd1d;
}

/* FIPS 180-4, section 6.2; the constants are the fractions of the first primes' cube roots, section 4.2.2. */
static uint32_t K[64];
static uint32_t rotated(uint32_t x, int n) {
    return x >> n | x << (32 - n);
}

static void make_constants(void) {
    for (int found = 0, n = 2; found < 64; n++) {
        int prime = 1;
        for (int d = 2; d * d <= n; d++)
            prime &= n % d != 0;
        if (!prime)
            continue;
        unsigned __int128 root = 0; /* of n * 2^96, by bits: 32 bits after the point */
        for (int bit = 35; bit >= 0; bit--) {
            unsigned __int128 more = root | (unsigned __int128)1 << bit;
            if (more * more * more <= (unsigned __int128)n << 96)
                root = more;
        }
        K[found++] = (uint32_t)root;
    }
}

static void sha256_block(uint32_t h[8], const uint8_t *block) {
    uint32_t w[64], v[8];
    for (int t = 0; t < 16; t++)
        w[t] = (uint32_t)block[4 * t] << 24 | block[4 * t + 1] << 16 | block[4 * t + 2] << 8 | block[4 * t + 3];
    for (int t = 16; t < 64; t++) {
        uint32_t a = w[t - 15], b = w[t - 2];
        w[t] = (rotated(b, 17) ^ rotated(b, 19) ^ b >> 10) + w[t - 7] + (rotated(a, 7) ^ rotated(a, 18) ^ a >> 3) + w[t - 16];
    }
    memcpy(v, h, sizeof v);
    for (int t = 0; t < 64; t++) {
        uint32_t s1 = rotated(v[4], 6) ^ rotated(v[4], 11) ^ rotated(v[4], 25), s0 = rotated(v[0], 2) ^ rotated(v[0], 13) ^ rotated(v[0], 22);
        uint32_t t1 = v[7] + s1 + ((v[4] & v[5]) ^ (~v[4] & v[6])) + K[t] + w[t];
        uint32_t t2 = s0 + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof *v);
        v[4] += t1, v[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++)
        h[i] += v[i];
}

static uint64_t sha256(void) {
    static uint8_t data[1 << 20];
    uint32_t h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    make_constants();
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = i * 7;
    for (int turn = 0; turn < 6; turn++)
        for (size_t at = 0; at < sizeof data; at += 64)
            sha256_block(h, data + at);
    return (uint64_t)h[0] << 32 | h[1];
}

static int compare(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static uint64_t sort(void) {
    enum { NUMBERS = 300000 };
    static uint64_t numbers[NUMBERS];
    for (int i = 0; i < NUMBERS; i++)
        numbers[i] = random64();
    qsort(numbers, NUMBERS, sizeof *numbers, compare);
    return numbers[NUMBERS / 3] ^ numbers[5];
}

struct Node {
    struct Node *next;
    uint64_t value;
};
static uint64_t list(void) {
    enum { NODES = 1 << 15, WALKS = 150 };
    static struct Node nodes[NODES];
    for (uint32_t i = 0; i < NODES; i++) /* all of them in one ring, by a full-period generator */
        nodes[i] = (struct Node){&nodes[(i * 20021u + 12345u) % NODES], i};
    uint64_t sum = 0;
    struct Node *node = nodes;
    for (int i = 0; i < NODES * WALKS; i++)
        sum += node->value, node = node->next;
    return sum;
}

static uint64_t copy(void) {
    static uint8_t from[1 << 20], to[1 << 20];
    for (size_t i = 0; i < sizeof from; i++)
        from[i] = i * 3;
    for (int turn = 0; turn < 30; turn++)
        for (size_t i = 0; i < sizeof from; i++) {
            to[i] = from[i] + turn;
            asm volatile("" ::: "memory"); /* byte by byte: no memcpy, no vectors */
        }
    return to[77777];
}

static uint64_t sse(void) {
    enum { SIZE = 192 };
    static float a[SIZE][SIZE] __attribute__((aligned(16))), b[SIZE][SIZE] __attribute__((aligned(16))), c[SIZE][SIZE] __attribute__((aligned(16)));
    for (int i = 0; i < SIZE; i++)
        for (int j = 0; j < SIZE; j++)
            a[i][j] = i - j, b[i][j] = (i * j) % 7, c[i][j] = 0;
    for (int turn = 0; turn < 8; turn++)
        for (int i = 0; i < SIZE; i++)
            for (int k = 0; k < SIZE; k++) {
                __m128 x = _mm_set1_ps(a[i][k]);
                for (int j = 0; j < SIZE; j += 4)
                    _mm_store_ps(&c[i][j], _mm_add_ps(_mm_load_ps(&c[i][j]), _mm_mul_ps(x, _mm_load_ps(&b[k][j]))));
            }
    __m128i sum = _mm_setzero_si128();
    for (int i = 0; i < SIZE; i++)
        for (int j = 0; j < SIZE; j += 4)
            sum = _mm_add_epi32(sum, _mm_cvtps_epi32(_mm_load_ps(&c[i][j])));
    return _mm_cvtsi128_si64(sum);
}

static uint64_t doubles(void) { /* n bodies on a line, scalar SSE2 */
    double x[16], v[16] = {0};
    for (int i = 0; i < 16; i++)
        x[i] = i * i;
    for (int step = 0; step < 20000; step++) {
        for (int i = 0; i < 16; i++)
            for (int j = 0; j < 16; j++)
                if (i != j) {
                    double d = x[j] - x[i];
                    v[i] += d / (d * d * (d < 0 ? -d : d) + 1.0) * 1e-4;
                }
        for (int i = 0; i < 16; i++)
            x[i] += v[i];
    }
    return (uint64_t)(x[3] * 1e6);
}

static uint64_t x87(void) { /* the Mandelbrot set in extended precision */
    uint64_t sum = 0;
    for (int py = 0; py < 120; py++)
        for (int px = 0; px < 160; px++) {
            long double cx = px / 80.0L - 1.5L, cy = py / 60.0L - 1.0L, x = 0, y = 0;
            int n = 0;
            for (; n < 300 && x * x + y * y < 4; n++) {
                long double t = x * x - y * y + cx;
                y = 2 * x * y + cy, x = t;
            }
            sum += n;
        }
    return sum;
}

static uint64_t getpids(void) {
    uint64_t same = 0;
    long pid = getpid();
    for (int i = 0; i < 100000; i++)
        same += syscall(SYS_getpid) == pid;
    return same;
}

static uint64_t faults(void) {
    enum { PAGES = 10000 };
    uint8_t *area = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint64_t sum = 0;
    for (int i = 0; i < PAGES; i++)
        sum += ++area[i * PAGE];
    munmap(area, PAGES * PAGE);
    return sum;
}

static uint64_t forks(void) {
    uint64_t sum = 0;
    for (int i = 0; i < 1000; i++) {
        pid_t child = fork();
        if (child == 0)
            _exit(i & 1);
        int status = 0;
        waitpid(child, &status, 0);
        sum += WEXITSTATUS(status);
    }
    return sum;
}

static uint64_t ports(void) {
    enum { WRITES = 100000 };
    if (ioperm(POST_PORT, 1, 1))
        return 0;
    for (int i = 0; i < WRITES; i++)
        outb(i, POST_PORT);
    return WRITES;
}

static const struct {
    const char *name;
    uint64_t (*work)(void);
} TABLE[] = {
    {"sha256", sha256}, {"qsort", sort}, {"list", list}, {"copy", copy}, {"sse", sse}, {"doubles", doubles}, {"x87", x87},
    {"getpid", getpids}, {"faults", faults}, {"forks", forks}, {"ports", ports},
};

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

int main(int argc, char **argv) {
    for (int arg = 1; arg < argc; arg++)
        for (size_t i = 0; i < sizeof TABLE / sizeof *TABLE; i++)
            if (!strcmp(argv[arg], TABLE[i].name)) {
                int64_t best = INT64_MAX;
                uint64_t result = 0;
                for (int turn = 0; turn < TURNS; turn++) {
                    state = 42;
                    int64_t start = now();
                    result = TABLE[i].work();
                    int64_t took = now() - start;
                    best = took < best ? took : best;
                }
                printf("%s: %lld ns, result %llx\n", TABLE[i].name, (long long)best, (unsigned long long)result);
                fflush(stdout);
            }
    return 0;
}
