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

__attribute__((target("sse4.2"))) static uint32_t crc_sse42(const unsigned char *p, size_t n, uint32_t crc)
{
    uint64_t c = crc;
    while (n >= 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        c = _mm_crc32_u64(c, word);
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
    if (__builtin_cpu_supports("sse4.2"))
        implementation = crc_sse42;
#endif
}

uint32_t obd_crc32c(const void *data, size_t length, uint32_t seed)
{
    return implementation(data, length, seed);
}
