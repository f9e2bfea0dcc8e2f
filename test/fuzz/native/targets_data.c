// What images say: packed blocks, plans over them, deflate and zstd streams, indexes of layers.
#include "block_cache.h"
#include "codec.h"
#include "crc32c.h"
#include "executor.h"
#include "fuzz.h"
#include "inflate.h"
#include "pack.h"
#include "segment_merge.h"
#include "unzstd.h"
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

enum { BLOCK = 4096, CRC_SEED = 100007 };

// Plain bytes of various sorts: zeroes, text that repeats, noise.
static void fill_plain(unsigned n, uint8_t *out, size_t size)
{
    uint32_t noise = n + 1;
    for (size_t i = 0; i < size; i++) {
        noise = noise * 1664525u + 1013904223u;
        out[i] = n % 4 == 0   ? 0
                 : n % 4 == 1 ? (uint8_t) "the quick brown fox "[i % 20]
                 : n % 4 == 2 ? noise >> 24
                              : (uint8_t)(i >> (noise >> 30));
    }
}

// ---- codec: codec, two bytes of capacity, two of wanted, then the packed block.

static size_t codec_seed(unsigned n, uint8_t *out, size_t capacity)
{
    if (n >= 16)
        return 0;
    uint8_t plain[BLOCK];
    fill_plain(n, plain, sizeof plain);
    out[0] = (uint8_t)(n < 8 ? OBD_CODEC_LZ4 : OBD_CODEC_ZSTD);
    out[1] = 0, out[2] = BLOCK >> 8, out[3] = 0, out[4] = n & 4 ? 2 : 16;
    int64_t size = obd_compress(out[0], plain, sizeof plain, out + 5, capacity - 5);
    return size < 0 ? 0 : 5 + (size_t)size;
}

static void codec_run(const uint8_t *data, size_t size)
{
    if (size < 5)
        return;
    const size_t capacity = fuzz_number(data, size, 1, 2), wanted = fuzz_number(data, size, 3, 2);
    uint8_t *packed = fuzz_copy(data + 5, size - 5), *plain = malloc(capacity ? capacity : 1);
    int64_t n = obd_decompress(data[0] % 4, packed, size - 5, plain, capacity);
    fuzz_promise(n <= (int64_t)capacity, "no more is unpacked than fits");
    n = obd_decompress_start(data[0] % 4, packed, size - 5, plain, wanted < capacity ? wanted : capacity,
                             capacity);
    fuzz_promise(n <= (int64_t)capacity, "no more is unpacked than fits");
    free(packed);
    free(plain);
}

const struct fuzz_target codec_target = {"codec", codec_seed, codec_run};

// ---- plan: a count of descriptors, two bytes of command length in sectors, descriptors, then the file.

enum { PLAN_HEAD = 3, PLAN_MOST = 16 };
static int plan_fd = -1;

static size_t plan_seed(unsigned n, uint8_t *out, size_t capacity)
{
    if (n >= 12)
        return 0;
    const unsigned count = 1 + n % 5;
    const int codec = n % 4;
    uint8_t plain[BLOCK];
    size_t used = PLAN_HEAD + count * sizeof(struct read_descriptor), file = 0;
    out[0] = (uint8_t)count;
    out[1] = (uint8_t)(8 * count), out[2] = 0;
    for (unsigned i = 0; i < count; i++) {
        fill_plain(n + i, plain, sizeof plain);
        int64_t stored = 0;
        if (codec != READ_ZERO)
            stored = obd_compress(codec == READ_RAW ? OBD_CODEC_RAW : codec, plain, BLOCK, out + used,
                                  capacity - used - 4);
        if (stored < 0)
            return 0;
        const int checked = codec == READ_LZ4 || codec == READ_ZSTD;
        if (checked) {
            uint32_t crc = obd_crc32c(out + used, (size_t)stored, CRC_SEED);
            memcpy(out + used + stored, &crc, 4);
            stored += 4;
        }
        struct read_descriptor d = {0,
                                    (double)file,
                                    (double)stored,
                                    codec + (checked ? READ_CRC_CHECKED : 0),
                                    checked || codec == READ_RAW ? BLOCK : 0,
                                    0,
                                    BLOCK,
                                    BLOCK * i};
        memcpy(out + PLAN_HEAD + i * sizeof d, &d, sizeof d);
        used += (size_t)stored;
        file += (size_t)stored;
    }
    return used;
}

static void plan_run(const uint8_t *data, size_t size)
{
    if (size < PLAN_HEAD)
        return;
    if (plan_fd < 0)
        plan_fd = memfd_create("plan", MFD_CLOEXEC);
    size_t count = data[0] % (PLAN_MOST + 1);
    const uint64_t length = fuzz_number(data, size, 1, 2) % 512 * 512;
    if (count > (size - PLAN_HEAD) / sizeof(struct read_descriptor))
        count = (size - PLAN_HEAD) / sizeof(struct read_descriptor);
    struct read_descriptor *in = fuzz_copy(data + PLAN_HEAD, count * sizeof *in);
    for (size_t i = 0; i < count; i++)
        if (in[i].fd >= 0 && in[i].fd < 100)
            in[i].fd = plan_fd;
    const size_t file = PLAN_HEAD + count * sizeof *in;
    if (ftruncate(plan_fd, 0) != 0 || pwrite(plan_fd, data + file, size - file, 0) < 0)
        abort();
    struct read_step *steps = malloc((count ? count : 1) * sizeof *steps);
    if (obd_check_steps(in, count, length, steps) == 0 && count > 0) {
        uint8_t *memory = malloc(length ? length : 1);
        const struct iovec iov[2] = {{memory, length / 3}, {memory + length / 3, length - length / 3}};
        static struct execute_scratch scratch;
        if (!scratch.stored && obd_scratch_init(&scratch) != 0)
            abort();
        // Once with kept blocks, once without: files change between inputs, so what is kept is let go.
        for (int cached = 0; cached < 2; cached++) {
            static struct block_cache *cache;
            if (!cache)
                cache = block_cache_create();
            scratch.cache = cached ? cache : NULL;
            obd_execute(steps, count, iov, 2, &scratch);
            obd_execute(steps, count, iov, 2, &scratch);
            block_cache_clear(cache);
        }
        free(memory);
    }
    free(steps);
    free(in);
}

const struct fuzz_target plan_target = {"plan", plan_seed, plan_run};

// ---- pack: codec, log2 of the block size, plain bytes; what is packed comes back.

static size_t pack_seed(unsigned n, uint8_t *out, size_t capacity)
{
    if (n >= 8)
        return 0;
    out[0] = n & 1 ? OBD_CODEC_LZ4 : OBD_CODEC_ZSTD;
    out[1] = (uint8_t)(n % 4);
    fill_plain(n, out + 2, 3000 + 100 * n);
    return 2 + 3000 + 100 * n;
}

static void pack_run(const uint8_t *data, size_t size)
{
    if (size < 3)
        return;
    const enum obd_codec codec = data[0] & 1 ? OBD_CODEC_LZ4 : OBD_CODEC_ZSTD;
    const size_t block = 512u << (data[1] % 8), length = size - 2,
                 bound = obd_pack_bound(codec, block, length);
    const size_t blocks = (length + block - 1) / block;
    uint8_t *in = fuzz_copy(data + 2, length), *out = malloc(bound), *lengths = malloc(4 * blocks);
    int64_t n = obd_pack_blocks(codec, block, in, length, out, bound, lengths);
    fuzz_promise(n > 0 && (size_t)n <= bound, "packing succeeds within its bound");
    uint8_t *back = malloc(block);
    size_t at = 0;
    for (size_t i = 0; i < blocks; i++) {
        const size_t stored = fuzz_number(lengths, 4 * blocks, 4 * i, 4),
                     take = length - i * block < block ? length - i * block : block;
        fuzz_promise(obd_decompress(codec, out + at, stored - 4, back, block) == (int64_t)take &&
                         memcmp(back, in + i * block, take) == 0,
                     "what was packed comes back");
        at += stored;
    }
    fuzz_promise(at == (size_t)n, "lengths add up");
    free(back);
    free(in);
    free(out);
    free(lengths);
}

const struct fuzz_target pack_target = {"pack", pack_seed, pack_run};

// ---- inflate: bits, the byte before, a byte of dictionary pages, steps of input and output, the stream.

static size_t inflate_seed(unsigned n, uint8_t *out, size_t capacity)
{
    if (n >= 12)
        return 0;
    uint8_t plain[6000];
    fill_plain(n, plain, sizeof plain);
    z_stream z = {0};
    if (deflateInit2(&z, 1 + (int)(n % 9), Z_DEFLATED, -15, 8, n % 3 ? Z_DEFAULT_STRATEGY : Z_FIXED) != Z_OK)
        return 0;
    out[0] = 0, out[1] = 0, out[2] = n & 4 ? 8 : 0, out[3] = (uint8_t)(n * 20), out[4] = (uint8_t)(n * 21);
    z.next_in = plain;
    z.avail_in = sizeof plain;
    z.next_out = out + 5;
    z.avail_out = (uInt)capacity - 5;
    deflate(&z, Z_FINISH);
    const size_t size = 5 + z.total_out;
    deflateEnd(&z);
    return size;
}

static void inflate_run(const uint8_t *data, size_t size)
{
    if (size < 5)
        return;
    static struct obd_inflate *decoder;
    if (!decoder)
        decoder = obd_inflate_new(data[0] & 8 ? 1 : 0);
    const size_t dictionary_size = (size_t)data[2] * 256;
    uint8_t *dictionary = calloc(1, dictionary_size ? dictionary_size : 1);
    if (obd_inflate_start(decoder, data[0] & 15, data[1], dictionary_size ? dictionary : NULL,
                          dictionary_size) == 0) {
        const size_t in_step = 1 + (size_t)data[3] * 16, out_step = 1 + (size_t)data[4] * 64;
        uint8_t *out = malloc(out_step);
        size_t at = 5, produced = 0;
        for (;;) {
            const size_t give = size - at < in_step ? size - at : in_step;
            size_t used = 0, made = 0;
            uint8_t *in = fuzz_copy(data + at, give);
            int state = obd_inflate_run(decoder, in, give, out, out_step, &used, &made);
            free(in);
            fuzz_promise(state < 0 || (used <= give && made <= out_step),
                         "a step stays within what it was given");
            if (state != OBD_INFLATE_MORE || (used == 0 && made == 0))
                break;
            at += used;
            produced += made;
            if (produced > 1 << 20)
                break;
        }
        free(out);
    }
    free(dictionary);
}

const struct fuzz_target inflate_target = {"inflate", inflate_seed, inflate_run};

// ---- unzstd: steps of input and output, the stream.

static size_t unzstd_seed(unsigned n, uint8_t *out, size_t capacity)
{
    if (n >= 8)
        return 0;
    uint8_t plain[6000];
    fill_plain(n, plain, sizeof plain);
    out[0] = (uint8_t)(n * 30), out[1] = (uint8_t)(n * 31);
    int64_t size = obd_compress(OBD_CODEC_ZSTD, plain, sizeof plain, out + 2, capacity - 2);
    return size < 0 ? 0 : 2 + (size_t)size;
}

static void unzstd_run(const uint8_t *data, size_t size)
{
    if (size < 2)
        return;
    struct obd_unzstd *decoder = obd_unzstd_new();
    const size_t in_step = 1 + (size_t)data[0] * 16, out_step = 1 + (size_t)data[1] * 64;
    uint8_t *out = malloc(out_step);
    size_t at = 2, produced = 0;
    for (;;) {
        const size_t give = size - at < in_step ? size - at : in_step;
        size_t used = 0, made = 0;
        uint8_t *in = fuzz_copy(data + at, give);
        int state = obd_unzstd_run(decoder, in, give, out, out_step, &used, &made);
        free(in);
        fuzz_promise(state < 0 || (used <= give && made <= out_step),
                     "a step stays within what it was given");
        if (state < 0 || (used == 0 && made == 0))
            break;
        at += used;
        produced += made;
        if (produced > 1 << 20)
            break;
    }
    free(out);
    obd_unzstd_free(decoder);
}

const struct fuzz_target unzstd_target = {"unzstd", unzstd_seed, unzstd_run};

// ---- merge: a count of layers, a count of segments each, then segments of 16 bytes.

enum { MERGE_LAYERS = 8 };

static size_t merge_seed(unsigned n, uint8_t *out, size_t capacity)
{
    if (n >= 16)
        return 0;
    const unsigned layers = 1 + n % MERGE_LAYERS, each = 4 + n;
    out[0] = (uint8_t)layers;
    uint8_t *at = out + 1 + MERGE_LAYERS;
    for (unsigned l = 0; l < MERGE_LAYERS; l++)
        out[1 + l] = (uint8_t)each;
    for (unsigned l = 0; l < layers; l++)
        for (unsigned i = 0; i < each; i++, at += 16) {
            const uint64_t length = 1 + (i * 7 + l * 3) % 9;
            struct segment s = {(l * 5 + i * 12) | length << 50, (8 + i * 16) | (uint64_t)(i % 5 == 4) << 55};
            memcpy(at, &s, sizeof s);
        }
    return (size_t)(at - out);
}

static void merge_run(const uint8_t *data, size_t size)
{
    if (size < 1 + MERGE_LAYERS)
        return;
    const size_t layers = data[0] % (MERGE_LAYERS + 1);
    const struct segment *lists[MERGE_LAYERS] = {0};
    size_t counts[MERGE_LAYERS] = {0}, at = 1 + MERGE_LAYERS;
    for (size_t l = 0; l < layers; l++) {
        counts[l] = data[1 + l];
        if (counts[l] > (size - at) / sizeof(struct segment))
            counts[l] = (size - at) / sizeof(struct segment);
        lists[l] = fuzz_copy(data + at, counts[l] * sizeof(struct segment));
        at += counts[l] * sizeof(struct segment);
    }
    struct segment *out = NULL;
    int64_t n = obd_merge_segments(lists, counts, layers, 100000, &out);
    if (n >= 0) {
        uint64_t sum = 0;
        for (int64_t i = 0; i < n; i++)
            sum += out[i].where ^ out[i].what; // every byte of the result is there
        fuzz_promise(n <= 100000 + 1 || sum == 0, "a result stays below its limit");
        free(out);
    }
    for (size_t l = 0; l < layers; l++)
        free((void *)lists[l]);
}

const struct fuzz_target merge_target = {"merge", merge_seed, merge_run};
