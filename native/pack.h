// Packs a run of plain bytes into ZFile's stored blocks. Any thread; no state between calls.
#pragma once
#include "codec.h"

#ifdef __cplusplus
extern "C" {
#endif

// Worst stored size of `length` plain bytes in blocks of block_size, crcs included.
size_t obd_pack_bound(enum obd_codec codec, size_t block_size, size_t length);
// Compresses each block of `in` (the last may be short) to the end of the one before, each followed by its
// crc, and stores the length of each, crc included, little-endian, in lengths[]: 4 bytes per block. The
// caller owns all memory; `out` has at least obd_pack_bound bytes. Returns the bytes written to `out`, or
// -errno.
int64_t obd_pack_blocks(enum obd_codec codec, size_t block_size, const void *in, size_t length, void *out,
                        size_t capacity, unsigned char *lengths);

#ifdef __cplusplus
}
#endif
