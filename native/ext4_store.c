#include "ext4_store.h"
#include "ext4_source.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGE_BLOCKS 32768u
#define SCAN_BLOCKS 64u  // blocks compared per read
#define FETCH_BLOCKS 64u // most blocks asked of the source at once; what follows a block is fetched along

static const uint8_t zeros[EXT4_BLOCK];

int ext4_set_open(struct block_set *set, uint64_t blocks)
{
    set->page_count = (blocks + PAGE_BLOCKS - 1) / PAGE_BLOCKS;
    set->pages = calloc(set->page_count, sizeof *set->pages);
    return set->pages ? 0 : -ENOMEM;
}

static void set_clear(struct block_set *set)
{
    for (uint64_t i = 0; set->pages && i < set->page_count; i++) {
        free(set->pages[i]);
        set->pages[i] = NULL;
    }
}

void ext4_set_close(struct block_set *set)
{
    set_clear(set);
    free(set->pages);
    set->pages = NULL;
}

int ext4_set_has(const struct block_set *set, uint64_t block)
{
    const uint8_t *page = set->pages[block / PAGE_BLOCKS];
    return page && (page[block % PAGE_BLOCKS / 8] >> (block % 8) & 1);
}

int ext4_set_add(struct block_set *set, uint64_t block)
{
    uint8_t **page = &set->pages[block / PAGE_BLOCKS];
    if (!*page && !(*page = calloc(1, PAGE_BLOCKS / 8)))
        return -ENOMEM;
    (*page)[block % PAGE_BLOCKS / 8] |= (uint8_t)(1u << (block % 8));
    return 0;
}

static void set_remove(struct block_set *set, uint64_t block)
{
    uint8_t *page = set->pages[block / PAGE_BLOCKS];
    if (page)
        page[block % PAGE_BLOCKS / 8] &= (uint8_t) ~(1u << (block % 8));
}

// `into` becomes the union; `from` is emptied.
static void set_absorb(struct block_set *into, struct block_set *from)
{
    for (uint64_t i = 0; i < from->page_count; i++) {
        if (!from->pages[i])
            continue;
        if (!into->pages[i]) {
            into->pages[i] = from->pages[i];
        } else {
            for (size_t b = 0; b < PAGE_BLOCKS / 8; b++)
                into->pages[i][b] |= from->pages[i][b];
            free(from->pages[i]);
        }
        from->pages[i] = NULL;
    }
}

static int temporary(const char *dir)
{
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL))
        return fd >= 0 ? fd : -errno;
    char *path = NULL;
    if (asprintf(&path, "%s/obd-ext4-XXXXXX", dir) < 0)
        return -ENOMEM;
    fd = mkostemp(path, O_CLOEXEC);
    int error = errno;
    if (fd >= 0)
        unlink(path);
    free(path);
    return fd >= 0 ? fd : -error;
}

int ext4_store_open(struct ext4_store *s, const char *dir, uint64_t size)
{
    memset(s, 0, sizeof *s);
    s->size = size;
    s->undo_fd = s->source_fd = -1;
    int e = s->fd = temporary(dir);
    if (e >= 0)
        e = s->undo_fd = temporary(dir);
    if (e >= 0)
        e = ext4_set_open(&s->ever, size / EXT4_BLOCK);
    if (e >= 0)
        e = ext4_set_open(&s->dirty, size / EXT4_BLOCK);
    if (e >= 0)
        e = ext4_set_open(&s->away, size / EXT4_BLOCK);
    if (e >= 0)
        e = ext4_set_open(&s->forced, size / EXT4_BLOCK);
    if (e >= 0 && ftruncate(s->fd, (off_t)size))
        e = -errno;
    if (e < 0)
        ext4_store_close(s);
    return e < 0 ? e : 0;
}

void ext4_store_close(struct ext4_store *s)
{
    if (s->fd >= 0)
        close(s->fd);
    if (s->undo_fd >= 0)
        close(s->undo_fd);
    if (s->source_fd >= 0)
        close(s->source_fd);
    s->fd = s->undo_fd = s->source_fd = -1;
    ext4_set_close(&s->lazy);
    ext4_set_close(&s->ever);
    ext4_set_close(&s->dirty);
    ext4_set_close(&s->away);
    ext4_set_close(&s->forced);
}

static int fail(struct ext4_store *s, int error)
{
    if (!s->host_error)
        s->host_error = error;
    return error;
}

// Reads all of [offset, offset+length); what lies behind the end of the file is zeros (the undo file is
// short).
static int read_all(struct ext4_store *s, int fd, uint64_t offset, uint8_t *into, size_t length)
{
    while (length > 0) {
        ssize_t n = pread(fd, into, length, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail(s, -errno);
        if (n == 0) {
            memset(into, 0, length);
            return 0;
        }
        into += n;
        offset += (uint64_t)n;
        length -= (size_t)n;
    }
    return 0;
}

static int write_all(struct ext4_store *s, int fd, uint64_t offset, const uint8_t *from, size_t length)
{
    while (length > 0) {
        ssize_t n = pwrite(fd, from, length, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return fail(s, n < 0 ? -errno : -EIO);
        from += n;
        offset += (uint64_t)n;
        length -= (size_t)n;
    }
    return 0;
}

int ext4_store_set_source(struct ext4_store *s, int source_fd, const uint64_t *runs, size_t count)
{
    s->source_fd = source_fd;
    int e = ext4_set_open(&s->lazy, s->size / EXT4_BLOCK);
    for (size_t i = 0; i < count && !e; i++) {
        if (runs[2 * i] > s->size || runs[2 * i + 1] > s->size - runs[2 * i])
            return -EINVAL;
        uint64_t end = (runs[2 * i] + runs[2 * i + 1] + EXT4_BLOCK - 1) / EXT4_BLOCK;
        for (uint64_t block = runs[2 * i] / EXT4_BLOCK; block < end && !e; block++) {
            e = ext4_set_add(&s->lazy, block);
            if (!e)
                e = ext4_set_add(&s->ever, block);
        }
    }
    return e;
}

// Fetches what is missing of the blocks [first, last).
static int fetch(struct ext4_store *s, uint64_t first, uint64_t last)
{
    if (s->source_fd < 0)
        return 0;
    uint8_t *data = NULL;
    int e = 0;
    for (uint64_t block = first; block < last && !e; block++) {
        if (!ext4_set_has(&s->lazy, block))
            continue;
        uint64_t n = 1, blocks = s->size / EXT4_BLOCK;
        while (n < FETCH_BLOCKS && block + n < blocks && ext4_set_has(&s->lazy, block + n))
            n++;
        if (!data && !(data = malloc(FETCH_BLOCKS * EXT4_BLOCK)))
            return -ENOMEM;
        e = ext4_source_read(s->source_fd, block * EXT4_BLOCK, data, n * EXT4_BLOCK);
        if (e)
            fail(s, e);
        else
            e = write_all(s, s->fd, block * EXT4_BLOCK, data, n * EXT4_BLOCK);
        for (uint64_t i = 0; i < n && !e; i++)
            set_remove(&s->lazy, block + i);
    }
    free(data);
    return e;
}

int ext4_store_read(struct ext4_store *s, uint64_t offset, void *into, size_t length)
{
    if (offset > s->size || length > s->size - offset)
        return -EINVAL;
    uint64_t first = offset / EXT4_BLOCK, last = (offset + length + EXT4_BLOCK - 1) / EXT4_BLOCK;
    for (uint64_t block = first; block < last; block++)
        if (ext4_set_has(&s->away, block))
            return -ENODATA;
    int e = fetch(s, first, last);
    return e ? e : read_all(s, s->fd, offset, into, length);
}

static int is_zero(const uint8_t *data, size_t length)
{
    return memcmp(data, zeros, length) == 0;
}

int ext4_store_write(struct ext4_store *s, uint64_t offset, const void *from, size_t length)
{
    if (offset > s->size || length > s->size - offset)
        return -EINVAL;
    const uint8_t *bytes = from;
    uint64_t end = offset + length, start = offset; // [start, position) waits to be written
    uint64_t position = offset;
    while (position < end) {
        uint64_t block = position / EXT4_BLOCK, next = (block + 1) * EXT4_BLOCK;
        if (next > end)
            next = end;
        if (!ext4_set_has(&s->dirty, block)) {
            if (ext4_set_has(&s->away, block)) {
                if (next - position != EXT4_BLOCK)
                    return -ENODATA; // the rest of the block is not here
                set_remove(&s->away, block);
                int e = ext4_set_add(&s->forced, block);
                if (e)
                    return fail(s, e);
            } else if (ext4_set_has(&s->ever, block)) {
                uint8_t old[EXT4_BLOCK];
                int e = ext4_store_read(s, block * EXT4_BLOCK, old, sizeof old);
                if (!e)
                    e = write_all(s, s->undo_fd, block * EXT4_BLOCK, old, sizeof old);
                if (e)
                    return e;
            } else if (is_zero(bytes + (position - offset), next - position)) {
                // Zeros onto a hole: keep the hole.
                int e = write_all(s, s->fd, start, bytes + (start - offset), position - start);
                if (e)
                    return e;
                start = position = next;
                continue;
            }
            int e = ext4_set_add(&s->dirty, block);
            if (e)
                return fail(s, e);
        }
        position = next;
    }
    return write_all(s, s->fd, start, bytes + (start - offset), end - start);
}

int ext4_store_elsewhere(struct ext4_store *s, uint64_t block, uint64_t count)
{
    for (uint64_t end = block + count; block < end; block++) {
        set_remove(&s->dirty, block);
        if (s->source_fd >= 0)
            set_remove(&s->lazy, block);
        int e = ext4_set_add(&s->away, block);
        if (!e)
            e = ext4_set_add(&s->ever, block);
        if (e)
            return e;
    }
    return 0;
}

struct run {
    uint64_t start, end; // blocks; start == end: none
    int kind;
};

int ext4_store_changes(struct ext4_store *s,
                       int (*run)(void *context, uint64_t offset, uint64_t length, int kind), void *context)
{
    uint8_t *now = malloc(SCAN_BLOCKS * EXT4_BLOCK), old[EXT4_BLOCK];
    if (!now)
        return -ENOMEM;
    struct run r = {0, 0, 0};
    int e = 0;
    for (uint64_t page = 0; page < s->dirty.page_count && !e; page++) {
        if (!s->dirty.pages[page])
            continue;
        uint64_t first = page * PAGE_BLOCKS, last = first + PAGE_BLOCKS;
        for (uint64_t block = first; block < last && !e;) {
            unsigned n = 0;
            while (n < SCAN_BLOCKS && block + n < last && ext4_set_has(&s->dirty, block + n))
                n++;
            if (n == 0) {
                block++;
                continue;
            }
            e = read_all(s, s->fd, block * EXT4_BLOCK, now, (size_t)n * EXT4_BLOCK);
            for (unsigned i = 0; i < n && !e; i++, block++) {
                const uint8_t *data = now + (size_t)i * EXT4_BLOCK;
                int forced = ext4_set_has(&s->forced, block), had = forced || ext4_set_has(&s->ever, block),
                    zero = is_zero(data, EXT4_BLOCK);
                if (!had && zero)
                    continue;
                if (had && !forced) {
                    e = read_all(s, s->undo_fd, block * EXT4_BLOCK, old, sizeof old);
                    if (e || memcmp(old, data, EXT4_BLOCK) == 0)
                        continue;
                }
                int kind = zero ? EXT4_RUN_ZERO : EXT4_RUN_DATA;
                if (r.end != block || r.kind != kind) {
                    if (r.end > r.start)
                        e = run(context, r.start * EXT4_BLOCK, (r.end - r.start) * EXT4_BLOCK, r.kind);
                    r = (struct run){block, block, kind};
                }
                r.end = block + 1;
            }
        }
    }
    if (!e && r.end > r.start)
        e = run(context, r.start * EXT4_BLOCK, (r.end - r.start) * EXT4_BLOCK, r.kind);
    free(now);
    return e;
}

int ext4_store_next_layer(struct ext4_store *s)
{
    set_absorb(&s->ever, &s->dirty);
    set_clear(&s->forced);
    return ftruncate(s->undo_fd, 0) ? fail(s, -errno) : 0;
}
