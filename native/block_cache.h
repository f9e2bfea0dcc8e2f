// Unpacked blocks that were wanted in part, kept for the next part: a block of 32 KiB holds eight pages, and
// who reads one soon reads another. Bounded, by bytes and by blocks; least recently used goes first, nearly
// (second chance). Belongs to one thread.
//
// A block is named by where it is stored. The cache knows nothing of files that are closed or of bytes that
// are fetched again: its owner empties it when such things happen.
#pragma once
#include <stddef.h>
#include <stdint.h>

enum {
    BLOCK_CACHE_BLOCKS = 2048,
    BLOCK_CACHE_BYTES = 16 << 20, // of one loop: enough for the hot part of a start, small beside a container
    BLOCK_CACHE_LARGEST = 1 << 18, // a larger block would push out too much
};

struct block_key {
    uint64_t file_offset;
    int fd;
    uint32_t codec, stored, plain;
};

struct block_cache;

struct block_cache *block_cache_create(void); // NULL: no memory
void block_cache_destroy(struct block_cache *cache);

// The first `length` plain bytes of the block, or NULL. Valid until the next call.
const unsigned char *block_cache_get(struct block_cache *cache, const struct block_key *key, uint32_t length);
// Memory of key->plain bytes for the block, in the cache from now on with as many valid bytes as
// block_cache_set says, 0 until then. NULL when it does not fit. Valid until the next call but _set.
unsigned char *block_cache_put(struct block_cache *cache, const struct block_key *key);
void block_cache_set(struct block_cache *cache, uint32_t valid); // of the last block put
// Whether some bytes of the block are there already.
int block_cache_has(struct block_cache *cache, const struct block_key *key);
void block_cache_clear(struct block_cache *cache);
