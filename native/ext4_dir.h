// One directory in memory, for the files that keep it (ext4_dir.c), find names in it (ext4_dir_index.c) and
// change it (ext4_names.c). Not for others.
//
// libext2fs finds and links names by walking all blocks, which makes a directory of n names cost n^2; here a
// directory that is in use stands in memory with an index by name. Blocks are written through at once; the
// inode (size, blocks, links) when the directory is synced. So a cached directory can be dropped after a
// sync.
#pragma once
#include "ext4_internal.h"

#define GONE UINT32_MAX
#define ENTRY_HEAD 8u
#define LINK_MAX_EXT4 65000u

struct entry { // as on disk
    uint32_t inode;
    uint16_t length;
    uint8_t name_length;
    uint8_t type;
    char name[];
};

struct dir {
    uint32_t inode;
    uint32_t blocks, capacity; // of data, physical and gaps
    uint8_t *data;
    uint64_t *physical;
    uint16_t *gaps;      // largest free space per block
    uint32_t first_room; // no block before it has room for any name
    uint32_t *table;     // open addressing: offset in data, 0 = free (that is "."), GONE = deleted
    uint32_t table_size, table_used, names, subdirs;
    int map_changed, inode_changed;
    struct dir *next_in_bucket, *newer, *older;
};

static inline uint32_t needs(size_t name_length)
{
    return (uint32_t)((ENTRY_HEAD + name_length + 3) & ~3u);
}

static inline struct entry *at(const struct dir *d, uint32_t offset)
{
    return (struct entry *)(d->data + offset);
}

static inline uint32_t room(const struct entry *e)
{
    return e->inode ? e->length - needs(e->name_length) : e->length;
}

static inline size_t bytes_of(const struct dir *d)
{
    return sizeof *d + (size_t)d->capacity * (EXT4_BLOCK + 10) + (size_t)d->table_size * 4;
}

// --- ext4_dir_index.c ---

// Slot of a name, or the slot where it would go.
uint32_t ext4_dir_slot(const struct dir *d, const char *name, size_t length, int *found);
// Adds the entry at `offset`. -EEXIST, -ENOMEM.
int ext4_dir_index(struct dir *d, uint32_t offset);
// Notes the largest gap of a block.
void ext4_dir_measure(struct dir *d, uint32_t block);
// Makes room for `blocks` blocks. -EFBIG, -ENOMEM.
int ext4_dir_grow(struct dir *d, uint32_t blocks);

// --- ext4_dir.c ---

// A directory, from the cache or the disk; valid until the next call that may trim the cache.
int ext4_dir_get(struct ext4_image *image, uint32_t inode, struct dir **out);
void ext4_dir_keep(struct ext4_image *image, struct dir *d);
void ext4_dir_drop(struct ext4_image *image, struct dir *d);
int ext4_dir_sync_one(struct ext4_image *image, struct dir *d);
// Makes room in the cache; `d`, in use, stays.
int ext4_dir_trim(struct ext4_image *image, const struct dir *d);
int ext4_dir_write(struct ext4_image *image, const struct dir *d, uint32_t block);
