#include "pack.h"
#include "crc32c.h"
#include <errno.h>

#define BLOCK_CRC_SEED 100007 // formats.md 4.2
#define CRC_SIZE 4

static void put_u32(unsigned char *p, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        p[i] = (unsigned char)(value >> (8 * i));
}

size_t obd_pack_bound(enum obd_codec codec, size_t block_size, size_t length)
{
    size_t blocks = (length + block_size - 1) / block_size;
    return blocks * (obd_codec_bound(codec, block_size) + CRC_SIZE);
}

int64_t obd_pack_blocks(enum obd_codec codec, size_t block_size, const void *in, size_t length, void *out,
                        size_t capacity, unsigned char *lengths)
{
    const unsigned char *from = in;
    unsigned char *to = out;
    size_t used = 0;

    for (size_t at = 0; at < length; at += block_size, lengths += 4) {
        size_t take = length - at < block_size ? length - at : block_size;
        if (capacity - used < obd_codec_bound(codec, take) + CRC_SIZE)
            return -EINVAL;
        int64_t n = obd_compress(codec, from + at, take, to + used, capacity - used - CRC_SIZE);
        if (n < 0)
            return n;
        put_u32(to + used + n, obd_crc32c(to + used, (size_t)n, BLOCK_CRC_SEED));
        used += (size_t)n + CRC_SIZE;
        put_u32(lengths, (uint32_t)(n + CRC_SIZE));
    }
    return (int64_t)used;
}
