#include "codec.h"
#include <errno.h>
#include <limits.h>
#include <lz4.h>
#include <pthread.h>
#include <string.h>
#include <zstd.h>

#define ZSTD_LEVEL 3 // what the reference writes (formats.md 4.2)

// zstd contexts cost ~100 KiB and 10 us to make; each thread keeps one of each, freed when the thread ends.
struct contexts {
    ZSTD_CCtx *compress;
    ZSTD_DCtx *decompress;
};
static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static __thread struct contexts contexts;

static void free_contexts(void *unused)
{
    ZSTD_freeCCtx(contexts.compress);
    ZSTD_freeDCtx(contexts.decompress);
    memset(&contexts, 0, sizeof contexts);
}

static void make_key(void)
{
    pthread_key_create(&key, free_contexts);
}

static void remember_thread(void)
{
    pthread_once(&once, make_key);
    pthread_setspecific(key, &contexts);
}

const char *obd_zstd_version(void)
{
    return ZSTD_versionString();
}

size_t obd_codec_bound(enum obd_codec codec, size_t length)
{
    switch (codec) {
    case OBD_CODEC_RAW:
        return length;
    case OBD_CODEC_LZ4:
        return length > LZ4_MAX_INPUT_SIZE ? 0 : (size_t)LZ4_compressBound((int)length);
    case OBD_CODEC_ZSTD:
        return ZSTD_compressBound(length);
    }
    return 0;
}

int64_t obd_compress(enum obd_codec codec, const void *in, size_t length, void *out, size_t capacity)
{
    if (length > INT_MAX || capacity > INT_MAX)
        return -EINVAL;
    switch (codec) {
    case OBD_CODEC_RAW:
        if (length > capacity)
            return -EBADMSG;
        memcpy(out, in, length);
        return (int64_t)length;
    case OBD_CODEC_LZ4: {
        int n = LZ4_compress_default(in, out, (int)length, (int)capacity);
        return n > 0 ? n : -EBADMSG;
    }
    case OBD_CODEC_ZSTD: {
        if (!contexts.compress) {
            contexts.compress = ZSTD_createCCtx();
            remember_thread();
        }
        size_t n = ZSTD_compressCCtx(contexts.compress, out, capacity, in, length, ZSTD_LEVEL);
        return ZSTD_isError(n) ? -EBADMSG : (int64_t)n;
    }
    }
    return -EINVAL;
}

int64_t obd_decompress(enum obd_codec codec, const void *in, size_t length, void *out, size_t capacity)
{
    if (length > INT_MAX || capacity > INT_MAX)
        return -EINVAL;
    switch (codec) {
    case OBD_CODEC_RAW:
        if (length > capacity)
            return -EBADMSG;
        memcpy(out, in, length);
        return (int64_t)length;
    case OBD_CODEC_LZ4: {
        int n = LZ4_decompress_safe(in, out, (int)length, (int)capacity);
        return n >= 0 ? n : -EBADMSG;
    }
    case OBD_CODEC_ZSTD: {
        if (!contexts.decompress) {
            contexts.decompress = ZSTD_createDCtx();
            remember_thread();
        }
        size_t n = ZSTD_decompressDCtx(contexts.decompress, out, capacity, in, length);
        return ZSTD_isError(n) ? -EBADMSG : (int64_t)n;
    }
    }
    return -EINVAL;
}

int64_t obd_decompress_start(enum obd_codec codec, const void *in, size_t length, void *out, size_t wanted,
                             size_t capacity)
{
    if (codec != OBD_CODEC_LZ4 || wanted >= capacity)
        return obd_decompress(codec, in, length, out, capacity);
    if (length > INT_MAX || capacity > INT_MAX)
        return -EINVAL;
    int n = LZ4_decompress_safe_partial(in, out, (int)length, (int)wanted, (int)capacity);
    return n >= 0 ? n : -EBADMSG;
}
