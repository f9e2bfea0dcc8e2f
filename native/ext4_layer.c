// A layer that is packed while it is applied: file content goes from the caller's buffer into the ZFile
// stream, in the order of the archive, and never into the work file. What the image keeps of it is where it
// went. Metadata is written to the work file, because it changes often, and follows at the layer's end.
//
// The order of data in a layer is free: its index says where each block lies.
#include "ext4_internal.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define COPY_BLOCKS 64u // metadata blocks read at once

static int is_zero(const uint8_t *block)
{
    static const uint8_t zeros[EXT4_BLOCK];
    return memcmp(block, zeros, EXT4_BLOCK) == 0;
}

// Notes that `count` blocks from `block` on lie at `position` of the stream.
static int note(struct ext4_image *image, uint64_t block, uint64_t count, uint64_t position)
{
    struct layer_log *log = &image->log;
    struct layer_run *last = log->count ? &log->at[log->count - 1] : NULL;
    if (last && last->block + last->count == block &&
        (position == EXT4_ZERO
             ? last->position == EXT4_ZERO
             : last->position != EXT4_ZERO && last->position + last->count * EXT4_BLOCK == position)) {
        last->count += count;
        return 0;
    }
    if (log->count == log->capacity) {
        size_t capacity = log->capacity ? log->capacity * 2 : 256;
        struct layer_run *at = realloc(log->at, capacity * sizeof *at);
        if (!at)
            return ext4_fail(image, ENOMEM, "No memory for the index of a layer");
        log->at = at;
        log->capacity = capacity;
    }
    log->at[log->count++] = (struct layer_run){block, count, position};
    return 0;
}

static int stream(struct ext4_image *image, uint64_t block, const uint8_t *data, uint64_t count)
{
    int e = note(image, block, count, zfile_stream_position(image->stream));
    if (e)
        return e;
    e = zfile_stream_append(image->stream, data, count * EXT4_BLOCK);
    return e ? ext4_fail_stream(image, e) : 0;
}

int ext4_put_data(struct ext4_image *image, uint64_t block, const uint8_t *data, uint64_t count)
{
    if (!image->stream)
        return ext4_store_put(image, block, data, (uint32_t)count);
    while (count > 0) {
        int zero = is_zero(data);
        uint64_t n = 1;
        while (n < count && is_zero(data + n * EXT4_BLOCK) == zero)
            n++;
        int e;
        if (zero) {
            // Nothing to pack; the store knows whether there is something to hide.
            e = ext4_store_put(image, block, data, (uint32_t)n);
        } else {
            e = stream(image, block, data, n);
            if (!e && (e = ext4_store_elsewhere(&image->store, block, n)))
                e = ext4_fail(image, -e, "No memory for the book of blocks");
        }
        if (e)
            return e;
        block += n;
        data += n * EXT4_BLOCK;
        count -= n;
    }
    return 0;
}

int ext4_layer_begin(struct ext4_image *image, struct zfile_stream *to)
{
    if (image->stream || image->file.inode)
        return ext4_fail(image, EBUSY, "A layer is being packed already");
    image->stream = to;
    image->log.count = 0;
    return 0;
}

void ext4_layer_abandon(struct ext4_image *image)
{
    image->stream = NULL;
}

static int append_change(void *context, uint64_t offset, uint64_t length, int kind)
{
    struct ext4_image *image = context;
    uint64_t block = offset / EXT4_BLOCK, left = length / EXT4_BLOCK;
    if (kind == EXT4_RUN_ZERO)
        return note(image, block, left, EXT4_ZERO);
    uint8_t *buffer = malloc(COPY_BLOCKS * EXT4_BLOCK);
    int e = buffer ? 0 : ext4_fail(image, ENOMEM, "No memory to copy changed blocks");
    while (left > 0 && !e) {
        uint64_t n = left < COPY_BLOCKS ? left : COPY_BLOCKS;
        e = ext4_store_get(image, block, buffer, (uint32_t)n);
        if (!e)
            e = stream(image, block, buffer, n);
        block += n;
        left -= n;
    }
    free(buffer);
    return e;
}

static int by_block(const void *a, const void *b)
{
    const struct layer_run *x = a, *y = b;
    return x->block < y->block ? -1 : x->block > y->block;
}

// Leaves of each block the last place that was noted, ascending. A block is noted twice only if what was
// there was removed again within the layer.
static int settle(struct ext4_image *image)
{
    struct layer_log old = image->log;
    struct block_set seen;
    int e = ext4_set_open(&seen, image->store.size / EXT4_BLOCK);
    memset(&image->log, 0, sizeof image->log);
    for (size_t i = old.count; i-- > 0 && !e;) {
        const struct layer_run *r = &old.at[i];
        for (uint64_t b = 0; b < r->count && !e; b++) {
            uint64_t block = r->block + b;
            if (ext4_set_has(&seen, block))
                continue;
            e = ext4_set_add(&seen, block);
            if (!e)
                e = note(image, block, 1,
                         r->position == EXT4_ZERO ? EXT4_ZERO : r->position + b * EXT4_BLOCK);
        }
    }
    ext4_set_close(&seen);
    free(old.at);
    if (e)
        return ext4_fail(image, -e, "No memory for the index of a layer");
    qsort(image->log.at, image->log.count, sizeof *image->log.at, by_block);
    return 0;
}

int ext4_layer_end(struct ext4_image *image,
                   int (*run)(void *context, uint64_t offset, uint64_t length, uint64_t position),
                   void *context)
{
    if (!image->stream)
        return ext4_fail(image, EINVAL, "No layer is being packed");
    int e = ext4_image_flush(image);
    if (!e) {
        image->error[0] = 0;
        e = ext4_store_changes(&image->store, append_change, image);
        if (e && !image->error[0])
            e = ext4_fail(image, -e, "Cannot compare the layer with what was before");
    }
    if (!e)
        e = settle(image);
    image->stream = NULL;
    for (size_t i = 0; i < image->log.count && !e; i++) {
        const struct layer_run *r = &image->log.at[i];
        e = run(context, r->block * EXT4_BLOCK, r->count * EXT4_BLOCK, r->position);
    }
    free(image->log.at);
    memset(&image->log, 0, sizeof image->log);
    return e;
}
