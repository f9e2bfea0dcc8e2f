// The bytes of one ext4 image while layers are applied to it: a sparse unlinked temporary file, plus the book
// of which 4 KiB blocks the current layer wrote and what they held before. A layer's content is what differs
// then. The image may lie over something (ext4_source.h): its blocks are fetched when they are first needed.
//
// Thread: one at a time, any thread; the owner serialises. Nothing is shared between stores.
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EXT4_BLOCK 4096u
#define EXT4_BLOCK_BITS 12

struct block_set { // two-level bitmap: one page covers 32768 blocks and is allocated on first use
    uint8_t **pages;
    uint64_t page_count;
};

struct ext4_store {
    int fd;                // the image; owned
    int undo_fd;           // old content of written blocks, at their own offsets; owned
    uint64_t size;         // bytes, a multiple of EXT4_BLOCK
    struct block_set ever; // blocks that may not be zero as the current layer starts
    struct block_set dirty;
    struct block_set away;   // blocks of which the content was never written here: it is in some layer's blob
    struct block_set forced; // dirty blocks of which the old content was away: they count as changed
    int source_fd;           // what lies below, -1: nothing; owned
    struct block_set lazy;   // blocks that are there and not here yet
    int host_error;          // first -errno of the host's file system, 0 while all is well
};

int ext4_set_open(struct block_set *set, uint64_t blocks); // empty; 0 or -ENOMEM
void ext4_set_close(struct block_set *set);
int ext4_set_has(const struct block_set *set, uint64_t block);
int ext4_set_add(struct block_set *set, uint64_t block);

enum { EXT4_RUN_DATA = 0, EXT4_RUN_ZERO = 1 };

// Makes both temporary files in directory `dir`. On failure nothing is left open.
int ext4_store_open(struct ext4_store *s, const char *dir, uint64_t size);
// Puts an empty store over a source, which it owns from then on, also on failure. `runs` has `count` pairs of
// offset and length in bytes: where the source may hold other bytes than zeros.
int ext4_store_set_source(struct ext4_store *s, int source_fd, const uint64_t *runs, size_t count);
void ext4_store_close(struct ext4_store *s);
int ext4_store_read(struct ext4_store *s, uint64_t offset, void *into, size_t length);
// Notes that the content of these blocks now is what was written elsewhere. They cannot be read here until
// they are written again, whole. 0 or -ENOMEM.
int ext4_store_elsewhere(struct ext4_store *s, uint64_t block, uint64_t count);
int ext4_store_write(struct ext4_store *s, uint64_t offset, const void *from, size_t length);
// Calls `run` for each maximal run of blocks whose content now differs from when the layer began, ascending.
// A nonzero return ends the walk and is returned.
int ext4_store_changes(struct ext4_store *s,
                       int (*run)(void *context, uint64_t offset, uint64_t length, int kind), void *context);
// Forgets the current layer's book: what is there now is the base of the next layer.
int ext4_store_next_layer(struct ext4_store *s);

#ifdef __cplusplus
}
#endif
