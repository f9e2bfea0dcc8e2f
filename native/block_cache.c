#include "block_cache.h"
#include <stdlib.h>
#include <string.h>

enum { BUCKETS = BLOCK_CACHE_BLOCKS * 2, NONE = 0xffff };

struct block {
    struct block_key key;
    unsigned char *bytes; // room of them; NULL: the place is free
    uint32_t room, valid;
    uint16_t next; // in the bucket
    uint8_t used;  // since the hand came by
};

struct block_cache {
    uint16_t buckets[BUCKETS];
    uint16_t hand, last; // last: of block_cache_put
    size_t total;
    struct block blocks[BLOCK_CACHE_BLOCKS];
};

static void empty(struct block_cache *c)
{
    memset(c->buckets, 0xff, sizeof c->buckets);
    c->total = 0;
    c->last = NONE;
}

struct block_cache *block_cache_create(void)
{
    struct block_cache *c = calloc(1, sizeof *c);
    if (c)
        empty(c);
    return c;
}

void block_cache_clear(struct block_cache *c)
{
    if (c->total == 0)
        return;
    for (int i = 0; i < BLOCK_CACHE_BLOCKS; i++) {
        free(c->blocks[i].bytes);
        c->blocks[i].bytes = NULL;
    }
    empty(c);
}

void block_cache_destroy(struct block_cache *c)
{
    if (c)
        block_cache_clear(c);
    free(c);
}

static uint16_t *bucket_of(struct block_cache *c, const struct block_key *k)
{
    uint64_t h = (k->file_offset ^ (uint64_t)(unsigned)k->fd << 48) * 0x9e3779b97f4a7c15u;
    return &c->buckets[(h >> 32) % BUCKETS];
}

static int same(const struct block_key *a, const struct block_key *b)
{
    return a->file_offset == b->file_offset && a->fd == b->fd && a->codec == b->codec &&
           a->stored == b->stored && a->plain == b->plain;
}

static struct block *find(struct block_cache *c, const struct block_key *k)
{
    for (uint16_t i = *bucket_of(c, k); i != NONE; i = c->blocks[i].next)
        if (same(&c->blocks[i].key, k))
            return &c->blocks[i];
    return NULL;
}

const unsigned char *block_cache_get(struct block_cache *c, const struct block_key *k, uint32_t length)
{
    struct block *b = find(c, k);
    if (!b || b->valid < length)
        return NULL;
    b->used = 1;
    return b->bytes;
}

int block_cache_has(struct block_cache *c, const struct block_key *k)
{
    struct block *b = find(c, k);
    return b && b->valid > 0;
}

// Takes a block out of its bucket; its memory stays.
static void unlink_block(struct block_cache *c, struct block *b)
{
    uint16_t *at = bucket_of(c, &b->key);
    while (&c->blocks[*at] != b)
        at = &c->blocks[*at].next;
    *at = b->next;
    c->total -= b->room;
}

// A place whose block may go: the first from the hand on that was not used since the last round.
static struct block *next_victim(struct block_cache *c)
{
    for (;;) {
        struct block *b = &c->blocks[c->hand];
        c->hand = (c->hand + 1) % BLOCK_CACHE_BLOCKS;
        if (!b->bytes || !b->used)
            return b;
        b->used = 0;
    }
}

unsigned char *block_cache_put(struct block_cache *c, const struct block_key *k)
{
    if (k->plain > BLOCK_CACHE_LARGEST)
        return NULL;
    struct block *b = find(c, k);
    if (!b) {
        do {
            b = next_victim(c);
            if (b->bytes) {
                unlink_block(c, b);
                if (c->total + k->plain > BLOCK_CACHE_BYTES || b->room != k->plain) {
                    free(b->bytes);
                    b->bytes = NULL;
                }
            }
        } while (c->total + k->plain > BLOCK_CACHE_BYTES);
        if (!b->bytes)
            b->bytes = malloc(k->plain);
        if (!b->bytes)
            return NULL;
        b->key = *k;
        b->room = k->plain;
        c->total += b->room;
        uint16_t *bucket = bucket_of(c, k);
        b->next = *bucket;
        *bucket = (uint16_t)(b - c->blocks);
    }
    b->valid = 0;
    b->used = 0; // a block that is read once goes before one that is read again
    c->last = (uint16_t)(b - c->blocks);
    return b->bytes;
}

void block_cache_set(struct block_cache *c, uint32_t valid)
{
    c->blocks[c->last].valid = valid;
}
