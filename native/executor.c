#include "executor.h"
#include "block_cache.h"
#include "codec.h"
#include "crc32c.h"
#include "cursor.h"
#include "file_speed.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CRC_SEED 100007u // formats.md, ZFile: seed of the block checksum
#define IOV_BATCH 64     // iovecs of one preadv2; more are read in turns

_Static_assert((int)READ_LZ4 == (int)OBD_CODEC_LZ4 && (int)READ_ZSTD == (int)OBD_CODEC_ZSTD &&
                   (int)READ_RAW == (int)OBD_CODEC_RAW,
               "codec numbers agree");

int obd_scratch_init(struct execute_scratch *s)
{
    if (!s->stored)
        s->stored = malloc(EXECUTE_MAX_STORED);
    if (!s->plain)
        s->plain = malloc(EXECUTE_MAX_BLOCK);
    return s->stored && s->plain ? 0 : -ENOMEM;
}

void obd_scratch_free(struct execute_scratch *s)
{
    free(s->stored);
    free(s->plain);
    memset(s, 0, sizeof *s);
}

// Reads all of the iovecs' bytes at the offset. The iovecs are changed.
static enum execute_result read_waiting(int fd, uint64_t offset, struct iovec *iov, int count, size_t want)
{
    while (want > 0) {
        ssize_t n = preadv(fd, iov, count, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n == (ssize_t)want)
            return EXECUTE_DONE;
        if (n <= 0)
            return EXECUTE_BAD;
        offset += (size_t)n;
        want -= (size_t)n;
        while (n > 0) {
            size_t part = (size_t)n < iov->iov_len ? (size_t)n : iov->iov_len;
            iov->iov_base = (char *)iov->iov_base + part;
            iov->iov_len -= part;
            n -= (ssize_t)part;
            if (iov->iov_len == 0) {
                iov++;
                count--;
            }
        }
    }
    return EXECUTE_DONE;
}

// The same, and notes how long it took. With scratch->speeds it does not wait for a disk, as far as the file
// system can tell or its last reads did.
static enum execute_result read_full(int fd, uint64_t offset, struct iovec *iov, int count, size_t want,
                                     struct execute_scratch *scratch)
{
    struct file_speed *speed = NULL;
    if (scratch->speeds) {
        speed = file_speed_of(scratch->speeds, fd);
        if (!speed->cannot_tell) {
            ssize_t n;
            do
                n = preadv2(fd, iov, count, (off_t)offset, RWF_NOWAIT);
            while (n < 0 && errno == EINTR);
            if (n == (ssize_t)want)
                return EXECUTE_DONE;
            // Partly cached, or the end of the file: the pool finds out which.
            if (n >= 0 || errno == EAGAIN)
                return EXECUTE_WOULD_BLOCK;
            if (errno != EOPNOTSUPP)
                return EXECUTE_BAD;
            speed->cannot_tell = 1;
        }
        if (speed->slow)
            return EXECUTE_WOULD_BLOCK;
    }
    uint64_t start = file_speed_ticks();
    enum execute_result r = read_waiting(fd, offset, iov, count, want);
    int waited = file_speed_ticks() - start > FILE_SPEED_WAITED + want * FILE_SPEED_PER_BYTE;
    scratch->waited |= waited;
    if (speed)
        file_speed_read_here(speed, waited);
    return r;
}

// Plain bytes of a file, straight into the command's memory.
static enum execute_result read_plain(int fd, uint64_t offset, size_t want, struct cursor *c,
                                      struct execute_scratch *scratch)
{
    while (want > 0) {
        struct iovec batch[IOV_BATCH];
        int count;
        uint64_t sum = cursor_take(c, want, batch, IOV_BATCH, &count);
        if (sum == 0)
            return EXECUTE_BAD;
        enum execute_result r = read_full(fd, offset, batch, count, sum, scratch);
        if (r != EXECUTE_DONE)
            return r;
        offset += sum;
        want -= sum;
    }
    return EXECUTE_DONE;
}

static int same_block(const struct read_step *a, const struct read_step *b)
{
    return a->fd == b->fd && a->file_offset == b->file_offset && a->stored == b->stored &&
           a->codec == b->codec && a->plain == b->plain;
}

// Unpacks a block, or at least its first `wanted` bytes.
static int unpack(const struct read_step *s, const unsigned char *stored, unsigned char *into,
                  uint32_t wanted)
{
    size_t body = s->stored - (s->codec & READ_CRC_CHECKED ? READ_CRC_LENGTH : 0);
    int64_t n = obd_decompress_start((enum obd_codec)(s->codec & 15), stored, body, into, wanted, s->plain);
    return n >= (int64_t)wanted && n <= (int64_t)s->plain;
}

static struct block_key key_of(const struct read_step *s)
{
    return (struct block_key){s->file_offset, s->fd, s->codec, s->stored, s->plain};
}

// Unpacks a block of which a part is wanted. Where its checksum vouches for it, no more than that part is
// unpacked at first, and the block is kept: when more of it is wanted, all of it is.
static const unsigned char *unpack_part(const struct read_step *s, const unsigned char *stored,
                                        struct execute_scratch *scratch, int all)
{
    uint32_t wanted = s->plain;
    if (!(s->codec & READ_CRC_CHECKED))
        return unpack(s, stored, scratch->plain, wanted) ? scratch->plain : NULL;
    unsigned char *into = NULL;
    struct block_key key = key_of(s);
    if (!all && !(scratch->cache && block_cache_has(scratch->cache, &key)))
        wanted = s->skip + s->length;
    if (scratch->cache)
        into = block_cache_put(scratch->cache, &key);
    if (!into)
        return unpack(s, stored, scratch->plain, wanted) ? scratch->plain : NULL;
    if (!unpack(s, stored, into, wanted))
        return NULL;
    block_cache_set(scratch->cache, wanted);
    return into;
}

// Packed blocks first..last (exclusive), whose stored bytes lie at `bytes` one after another.
static enum execute_result unpack_run(const struct read_step *s, const struct read_step *end,
                                      const unsigned char *bytes, struct cursor *c,
                                      struct execute_scratch *scratch)
{
    const uint64_t start = s->file_offset;
    const struct read_step *whole = NULL; // a block that is unpacked, wholly
    const unsigned char *plain = NULL;    // its bytes
    for (; s < end; s++) {
        if (whole && same_block(whole, s)) {
            if (!cursor_place(c, plain + s->skip, s->length))
                return EXECUTE_BAD;
            continue;
        }
        const unsigned char *stored = bytes + (s->file_offset - start);
        if (s->codec & READ_CRC_CHECKED) {
            uint32_t body = s->stored - READ_CRC_LENGTH, expected;
            memcpy(&expected, stored + body, READ_CRC_LENGTH); // little-endian, as every host we build for
            if (obd_crc32c(stored, body, CRC_SEED) != expected)
                return EXECUTE_BAD;
        }
        const int again = s + 1 < end && same_block(s, s + 1);
        unsigned char *direct = s->length == s->plain && !again ? cursor_contiguous(c, s->length) : NULL;
        if (direct) {
            if (!unpack(s, stored, direct, s->plain))
                return EXECUTE_BAD;
            c->offset += s->length;
            continue;
        }
        plain = s->length == s->plain ? (unpack(s, stored, scratch->plain, s->plain) ? scratch->plain : NULL)
                                      : unpack_part(s, stored, scratch, again);
        if (!plain || !cursor_place(c, plain + s->skip, s->length))
            return EXECUTE_BAD;
        whole = again ? s : NULL;
    }
    return EXECUTE_DONE;
}

// Bytes of a block that was kept; NULL if they were not.
static const unsigned char *kept(const struct read_step *s, struct execute_scratch *scratch)
{
    if (!scratch->cache || s->length == s->plain || !(s->codec & READ_CRC_CHECKED))
        return NULL;
    struct block_key key = key_of(s);
    return block_cache_get(scratch->cache, &key, s->skip + s->length);
}

// How many of the steps from the first on, which is not of zeroes, are one read of the file, and its bytes.
static size_t run_of(const struct read_step *first, size_t count, uint64_t *bytes)
{
    const int raw = first->codec == READ_RAW;
    uint64_t end = first->file_offset + first->stored;
    size_t i = 1;
    for (; i < count; i++) {
        const struct read_step *s = &first[i];
        if (s->fd != first->fd || s->codec == READ_ZERO || (s->codec == READ_RAW) != raw)
            break;
        if (!raw && same_block(s - 1, s))
            continue;
        if (s->file_offset != end || (!raw && end + s->stored - first->file_offset > EXECUTE_MAX_STORED))
            break;
        end += s->stored;
    }
    *bytes = end - first->file_offset;
    return i;
}

size_t obd_next_run(const struct read_step *steps, size_t count, struct execute_scratch *scratch,
                    struct read_run *run)
{
    run->bytes = 0;
    run->count = 1;
    if (steps[0].codec == READ_ZERO) {
        run->kind = RUN_ZEROES;
    } else if (kept(&steps[0], scratch)) {
        run->kind = RUN_KEPT;
    } else {
        run->kind = steps[0].codec == READ_RAW ? RUN_RAW : RUN_PACKED;
        run->count = run_of(steps, count, &run->bytes);
    }
    return run->count;
}

enum execute_result obd_finish_run(const struct read_step *steps, const struct read_run *run,
                                   const unsigned char *stored, struct cursor *c,
                                   struct execute_scratch *scratch)
{
    switch (run->kind) {
    case RUN_ZEROES:
        return cursor_place(c, NULL, steps->length) ? EXECUTE_DONE : EXECUTE_BAD;
    case RUN_KEPT: {
        const unsigned char *plain = kept(steps, scratch);
        return plain && cursor_place(c, plain + steps->skip, steps->length) ? EXECUTE_DONE : EXECUTE_BAD;
    }
    case RUN_RAW:
        cursor_advance(c, run->bytes);
        return EXECUTE_DONE;
    case RUN_PACKED:
        return unpack_run(steps, steps + run->count, stored, c, scratch);
    }
    return EXECUTE_BAD;
}

enum execute_result obd_execute(const struct read_step *steps, size_t count, const struct iovec *iov,
                                int iov_count, struct execute_scratch *scratch)
{
    struct cursor c = {iov, iov + iov_count, 0};
    if (count > 0)
        cursor_advance(&c, steps[0].destination);
    scratch->waited = scratch->kept = 0;
    for (size_t i = 0; i < count;) {
        const struct read_step *first = &steps[i];
        struct read_run run;
        i += obd_next_run(first, count - i, scratch, &run);
        scratch->kept |= run.kind == RUN_KEPT;
        enum execute_result r = EXECUTE_DONE;
        if (run.kind == RUN_RAW) { // straight to where it belongs
            r = read_plain(first->fd, first->file_offset, run.bytes, &c, scratch);
        } else {
            if (run.kind == RUN_PACKED) {
                struct iovec into = {scratch->stored, run.bytes};
                r = read_full(first->fd, first->file_offset, &into, 1, run.bytes, scratch);
            }
            if (r == EXECUTE_DONE)
                r = obd_finish_run(first, &run, scratch->stored, &c, scratch);
        }
        if (r != EXECUTE_DONE)
            return r;
    }
    return EXECUTE_DONE;
}

size_t obd_scatter(const struct iovec *iov, int iov_count, const void *from, size_t length)
{
    size_t done = 0;
    for (int i = 0; i < iov_count && done < length; i++) {
        size_t part = length - done < iov[i].iov_len ? length - done : iov[i].iov_len;
        memcpy(iov[i].iov_base, (const char *)from + done, part);
        done += part;
    }
    return done;
}

size_t obd_gather(const struct iovec *iov, int iov_count, void *into, size_t length)
{
    size_t done = 0;
    for (int i = 0; i < iov_count && done < length; i++) {
        size_t part = length - done < iov[i].iov_len ? length - done : iov[i].iov_len;
        memcpy((char *)into + done, iov[i].iov_base, part);
        done += part;
    }
    return done;
}
