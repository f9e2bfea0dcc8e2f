// CRC-32C in three ways, chosen once at load: SSE4.2 instruction on x86-64, else slicing by eight tables.
#include "crc32c.h"
#include <string.h>

#define POLYNOMIAL 0x82F63B78u // Castagnoli, reflected (spec: formats.md section 0)

static uint32_t table[8][256];

static uint32_t crc_tables(const unsigned char *p, size_t n, uint32_t crc)
{
    while (n >= 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        word ^= crc;
        crc = table[7][word & 255] ^ table[6][(word >> 8) & 255] ^ table[5][(word >> 16) & 255] ^
              table[4][(word >> 24) & 255] ^ table[3][(word >> 32) & 255] ^ table[2][(word >> 40) & 255] ^
              table[1][(word >> 48) & 255] ^ table[0][word >> 56];
        p += 8;
        n -= 8;
    }
    while (n--)
        crc = table[0][(crc ^ *p++) & 255] ^ (crc >> 8);
    return crc;
}

static uint32_t (*implementation)(const unsigned char *, size_t, uint32_t) = crc_tables;

#if defined(__x86_64__)
#include <nmmintrin.h>

// The instruction takes three cycles but can begin every cycle, so three stretches are summed at once. The
// sum of a stretch is then moved over the bytes after it, which is linear: shift[i][b] is byte i of a sum
// having value b, moved over STRETCH bytes.
enum { STRETCH = 256 };
static uint32_t shift[4][256];

static uint32_t moved(uint32_t crc)
{
    return shift[0][crc & 255] ^ shift[1][(crc >> 8) & 255] ^ shift[2][(crc >> 16) & 255] ^
           shift[3][crc >> 24];
}

static uint64_t word_at(const unsigned char *p)
{
    uint64_t word;
    memcpy(&word, p, 8);
    return word;
}

__attribute__((target("sse4.2"))) static uint32_t crc_sse42(const unsigned char *p, size_t n, uint32_t crc)
{
    for (; n >= 3 * STRETCH; p += 3 * STRETCH, n -= 3 * STRETCH) {
        uint64_t first = crc, second = 0, third = 0;
        for (size_t i = 0; i < STRETCH; i += 8) {
            first = _mm_crc32_u64(first, word_at(p + i));
            second = _mm_crc32_u64(second, word_at(p + STRETCH + i));
            third = _mm_crc32_u64(third, word_at(p + 2 * STRETCH + i));
        }
        crc = moved(moved((uint32_t)first) ^ (uint32_t)second) ^ (uint32_t)third;
    }
    uint64_t c = crc;
    while (n >= 8) {
        c = _mm_crc32_u64(c, word_at(p));
        p += 8;
        n -= 8;
    }
    while (n--)
        c = _mm_crc32_u8((uint32_t)c, *p++);
    return (uint32_t)c;
}
#endif

__attribute__((constructor)) static void choose(void)
{
    for (unsigned i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int bit = 0; bit < 8; bit++)
            c = (c >> 1) ^ ((c & 1) ? POLYNOMIAL : 0);
        table[0][i] = c;
    }
    for (unsigned i = 0; i < 256; i++)
        for (int t = 1; t < 8; t++)
            table[t][i] = table[0][table[t - 1][i] & 255] ^ (table[t - 1][i] >> 8);
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("sse4.2")) {
        static const unsigned char zeroes[STRETCH];
        for (int i = 0; i < 4; i++)
            for (uint32_t b = 0; b < 256; b++)
                shift[i][b] = crc_tables(zeroes, STRETCH, b << (8 * i));
        implementation = crc_sse42;
    }
#endif
}

uint32_t obd_crc32c(const void *data, size_t length, uint32_t seed)
{
    return implementation(data, length, seed);
}
