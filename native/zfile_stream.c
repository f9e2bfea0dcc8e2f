#include "zfile_stream.h"
#include "crc32c.h"
#include "pack.h"
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BATCH (256u << 10) // plain bytes packed at once: a multiple of every block size, fits a core's cache
#define LEAST_BATCHES 12u  // 3 MiB: more than one step is on its way while the next is appended
#define MAX_THREADS 64u
#define LEAST_BLOCK 512u

enum batch_state { FREE, READY, PACKED };

struct batch {
    enum batch_state state; // guarded by the lock
    size_t filled;
    int64_t stored_size; // or -errno
    uint8_t *plain;
    uint8_t *stored;  // what is written; OBD_CODEC_RAW: plain
    uint8_t *lengths; // 4 bytes a block; OBD_CODEC_RAW: none
};

struct zfile_stream {
    int fd;
    uint64_t at; // where the next stored byte goes; only for who writes
    uint64_t start;
    enum obd_codec codec;
    size_t block_size, bound;
    uint64_t plain_size; // only for who appends
    int finished;
    uint8_t *table; // stored lengths of all blocks; only for who writes
    size_t table_size, table_capacity;
    unsigned batch_count, thread_count;
    struct batch *batches;
    pthread_t threads[MAX_THREADS];
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    // Numbers of batches since the beginning; batch n lies at n % batch_count. Guarded by the lock.
    uint64_t filling, packing, writing;
    int is_writing, stopping, error;
};

static int write_all(int fd, uint64_t at, const uint8_t *from, size_t length)
{
    while (length > 0) {
        ssize_t n = pwrite(fd, from, length, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        from += n;
        at += (uint64_t)n;
        length -= (size_t)n;
    }
    return 0;
}

static int remember_lengths(struct zfile_stream *s, const struct batch *b)
{
    if (!b->lengths)
        return 0;
    size_t size = (b->filled + s->block_size - 1) / s->block_size * 4;
    if (s->table_size + size > s->table_capacity) {
        size_t capacity = s->table_capacity ? s->table_capacity * 2 : 64u << 10;
        uint8_t *table = realloc(s->table, capacity);
        if (!table)
            return -ENOMEM;
        s->table = table;
        s->table_capacity = capacity;
    }
    memcpy(s->table + s->table_size, b->lengths, size);
    s->table_size += size;
    return 0;
}

// Writes the packed batches whose turn it is. With the lock, which is given up meanwhile.
static void write_ready(struct zfile_stream *s)
{
    if (s->is_writing)
        return;
    s->is_writing = 1;
    for (;;) {
        struct batch *b = &s->batches[s->writing % s->batch_count];
        if (s->writing == s->filling || b->state != PACKED)
            break;
        int e = s->error;
        pthread_mutex_unlock(&s->lock);
        if (!e && b->stored_size < 0)
            e = (int)b->stored_size;
        if (!e)
            e = write_all(s->fd, s->at, b->stored, (size_t)b->stored_size);
        if (!e)
            e = remember_lengths(s, b);
        if (!e)
            s->at += (uint64_t)b->stored_size;
        pthread_mutex_lock(&s->lock);
        if (e && !s->error)
            s->error = e;
        b->filled = 0;
        b->state = FREE;
        s->writing++;
        pthread_cond_broadcast(&s->done);
    }
    s->is_writing = 0;
}

static void *pack_batches(void *context)
{
    struct zfile_stream *s = context;
    pthread_mutex_lock(&s->lock);
    for (;;) {
        while (!s->stopping && s->packing == s->filling)
            pthread_cond_wait(&s->work, &s->lock);
        if (s->stopping)
            break;
        struct batch *b = &s->batches[s->packing++ % s->batch_count];
        pthread_mutex_unlock(&s->lock);
        b->stored_size = s->codec == OBD_CODEC_RAW
                             ? (int64_t)b->filled
                             : obd_pack_blocks(s->codec, s->block_size, b->plain, b->filled, b->stored,
                                               s->bound, b->lengths);
        pthread_mutex_lock(&s->lock);
        b->state = PACKED;
        write_ready(s);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

static int make_batches(struct zfile_stream *s)
{
    s->batches = calloc(s->batch_count, sizeof *s->batches);
    if (!s->batches)
        return -ENOMEM;
    for (unsigned i = 0; i < s->batch_count; i++) {
        struct batch *b = &s->batches[i];
        b->plain = malloc(BATCH);
        if (s->codec == OBD_CODEC_RAW) {
            b->stored = b->plain;
        } else {
            b->stored = malloc(s->bound);
            b->lengths = malloc(BATCH / s->block_size * 4 + 4);
            if (!b->lengths)
                return -ENOMEM;
        }
        if (!b->plain || !b->stored)
            return -ENOMEM;
    }
    return 0;
}

int zfile_stream_open(int fd, uint64_t at, enum obd_codec codec, size_t block_size, unsigned threads,
                      struct zfile_stream **out)
{
    if (threads < 1 || threads > MAX_THREADS || block_size < LEAST_BLOCK || BATCH % block_size != 0)
        return -EINVAL;
    struct zfile_stream *s = *out = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    s->fd = fd;
    s->at = s->start = at;
    s->codec = codec;
    s->block_size = block_size;
    s->bound = obd_pack_bound(codec, block_size, BATCH);
    s->batch_count = 3 * threads > LEAST_BATCHES ? 3 * threads : LEAST_BATCHES;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->work, NULL);
    pthread_cond_init(&s->done, NULL);
    int e = make_batches(s);
    while (!e && s->thread_count < threads) {
        e = -pthread_create(&s->threads[s->thread_count], NULL, pack_batches, s);
        if (!e)
            s->thread_count++;
    }
    if (e && s->thread_count > 0)
        e = 0; // fewer will do
    if (e) {
        zfile_stream_close(s);
        *out = NULL;
    }
    return e;
}

// Hands over the batch being filled.
static void submit(struct zfile_stream *s)
{
    pthread_mutex_lock(&s->lock);
    s->batches[s->filling % s->batch_count].state = READY;
    s->filling++;
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->lock);
}

// Waits for a batch to fill.
static int next_batch(struct zfile_stream *s, struct batch **out)
{
    struct batch *b = &s->batches[s->filling % s->batch_count];
    pthread_mutex_lock(&s->lock);
    while (b->state != FREE && !s->error)
        pthread_cond_wait(&s->done, &s->lock);
    int e = s->error;
    pthread_mutex_unlock(&s->lock);
    *out = b;
    return e;
}

int zfile_stream_append(struct zfile_stream *s, const void *plain, size_t length)
{
    const uint8_t *from = plain;
    if (s->finished)
        return -EPIPE;
    while (length > 0) {
        struct batch *b;
        int e = next_batch(s, &b);
        if (e)
            return e;
        size_t n = BATCH - b->filled < length ? BATCH - b->filled : length;
        memcpy(b->plain + b->filled, from, n);
        b->filled += n;
        s->plain_size += n;
        from += n;
        length -= n;
        if (b->filled == BATCH)
            submit(s);
    }
    return 0;
}

uint64_t zfile_stream_position(const struct zfile_stream *s)
{
    return s->plain_size;
}

// With the lock.
static int has_room(const struct zfile_stream *s)
{
    return s->error || (s->batch_count - (s->filling - s->writing)) * BATCH >= ZFILE_STREAM_STEP + BATCH;
}

int zfile_stream_has_room(struct zfile_stream *s)
{
    pthread_mutex_lock(&s->lock);
    int room = has_room(s);
    pthread_mutex_unlock(&s->lock);
    return room;
}

int zfile_stream_wait(struct zfile_stream *s)
{
    pthread_mutex_lock(&s->lock);
    while (!has_room(s) && !s->stopping)
        pthread_cond_wait(&s->done, &s->lock);
    int e = s->error;
    pthread_mutex_unlock(&s->lock);
    return e;
}

int zfile_stream_finish(struct zfile_stream *s, struct zfile_totals *totals)
{
    if (s->finished)
        return -EPIPE;
    s->finished = 1;
    if (s->batches[s->filling % s->batch_count].filled > 0 &&
        s->plain_size % BATCH != 0) // a full batch has gone already
        submit(s);
    pthread_mutex_lock(&s->lock);
    while (s->writing != s->filling)
        pthread_cond_wait(&s->done, &s->lock);
    int e = s->error;
    pthread_mutex_unlock(&s->lock);
    if (e)
        return e;
    *totals = (struct zfile_totals){.blocks = s->table_size / 4,
                                    .plain_size = s->plain_size,
                                    .stored_size = s->at - s->start,
                                    .table_crc = obd_crc32c(s->table, s->table_size, 0)};
    e = write_all(s->fd, s->at, s->table, s->table_size);
    if (e)
        s->error = e;
    return e;
}

void zfile_stream_close(struct zfile_stream *s)
{
    pthread_mutex_lock(&s->lock);
    s->stopping = 1;
    pthread_cond_broadcast(&s->work);
    pthread_cond_broadcast(&s->done);
    pthread_mutex_unlock(&s->lock);
    for (unsigned i = 0; i < s->thread_count; i++)
        pthread_join(s->threads[i], NULL);
    for (unsigned i = 0; s->batches && i < s->batch_count; i++) {
        if (s->batches[i].stored != s->batches[i].plain)
            free(s->batches[i].stored);
        free(s->batches[i].plain);
        free(s->batches[i].lengths);
    }
    free(s->batches);
    free(s->table);
    pthread_cond_destroy(&s->work);
    pthread_cond_destroy(&s->done);
    pthread_mutex_destroy(&s->lock);
    free(s);
}
