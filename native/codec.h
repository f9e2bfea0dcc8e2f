// Block codecs of ZFile: one compressed block in, one plain block out. Any thread; no state between calls
// except a per-thread zstd context.
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum obd_codec { OBD_CODEC_RAW = 0, OBD_CODEC_LZ4 = 1, OBD_CODEC_ZSTD = 2 }; // values of ZFile's algo byte

// Version of the zstd that is linked in, such as "1.5.4". Its output differs from version to version.
const char *obd_zstd_version(void);

// Worst stored size of `length` plain bytes, without crc. 0 for an unknown codec.
size_t obd_codec_bound(enum obd_codec codec, size_t length);
// Both return the number of bytes written, or -errno: -EBADMSG when the input is not valid for the codec or
// does not fit `capacity`, -EINVAL for an unknown codec.
int64_t obd_compress(enum obd_codec codec, const void *in, size_t length, void *out, size_t capacity);
int64_t obd_decompress(enum obd_codec codec, const void *in, size_t length, void *out, size_t capacity);
// The same, but the first `wanted` bytes (at most capacity) are enough: an LZ4 block is not looked at beyond
// them. The number of bytes written, at least `wanted` unless the block has fewer, or -errno.
int64_t obd_decompress_start(enum obd_codec codec, const void *in, size_t length, void *out, size_t wanted,
                             size_t capacity);

#ifdef __cplusplus
}
#endif
