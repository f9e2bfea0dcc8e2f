// What the ext4_*.c files share. Not for others.
#pragma once
#include "ext4_image.h"
#include "ext4_store.h"
#include "zfile_stream.h"
#include <ext2fs/ext2fs.h>

struct extent {
    uint32_t logical, length; // blocks
    uint64_t physical;
};

struct extent_list {
    struct extent *at;
    size_t count, capacity;
};

struct dir; // ext4_layer.c
// Writes whole blocks of file content, wherever that goes.
int ext4_put_data(struct ext4_image *image, uint64_t block, const uint8_t *data, uint64_t count);

// ext4_dir.c, ext4_names.c

struct layer_run {
    uint64_t block, count;
    uint64_t position; // of the first byte in the stream, or EXT4_ZERO
};

struct layer_log {
    struct layer_run *at;
    size_t count, capacity;
};

#define DIR_BUCKETS 1024u

struct ext4_image {
    struct ext4_store store;
    ext2_filsys fs;
    blk64_t data_next;           // where the next run is looked for
    blk64_t meta_next, meta_end; // free blocks set aside for directories, extent trees and attributes
    ext2_ino_t inode_next;
    struct dir *dirs[DIR_BUCKETS]; // cached directories by inode
    struct dir *newest, *oldest;   // by last use
    size_t dir_bytes;
    struct {            // the file being written
        uint32_t inode; // 0: none
        struct extent_list extents;
        uint64_t position; // first byte not yet given
        uint64_t tail_at;  // logical byte of the block in `tail`
        size_t tail_used;  // 0: no tail
        uint8_t tail[EXT4_BLOCK];
    } file;
    struct zfile_stream *stream; // where file content goes; NULL: the work file. Borrowed
    struct layer_log log;        // where blocks of the current layer went, in the order of writing
    char error[256];
};

// Puts a sentence for `e` (errcode_t of libext2fs or errno) into image->error and returns -errno.
int ext4_fail(struct ext4_image *image, errcode_t e, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
// The same for a failure of the stream that a layer goes to.
int ext4_fail_stream(struct ext4_image *image, int error);
int ext4_store_get(struct ext4_image *image, uint64_t block, void *into, uint32_t count);
int ext4_store_put(struct ext4_image *image, uint64_t block, const void *from, uint32_t count);

// ext4_channel.c
// For libext2fs to open or initialize on this thread, next: it hands its manager a name only.
io_manager ext4_channel_manager(struct ext4_store *store);

// ext4_image.c
#define EXT4_FS_TIME 1 // 0 would mean "now" to libext2fs
// An image with its store and nothing in it. `*out` is set even on failure, unless memory ran out.
int ext4_image_start(const char *dir, uint64_t size, struct ext4_image **out);

// ext4_alloc.c
// Up to `want` neighbouring blocks, at least one, marked as used.
int ext4_alloc_data(struct ext4_image *image, uint64_t want, uint64_t *start, uint64_t *count);
int ext4_alloc_meta(struct ext4_image *image, uint64_t *block);
void ext4_alloc_reset(struct ext4_image *image);
void ext4_alloc_install(struct ext4_image *image); // for blocks that libext2fs takes by itself
int ext4_alloc_inode(struct ext4_image *image, int directory, uint32_t *inode);

// ext4_inode.c
int ext4_get_inode(struct ext4_image *image, uint32_t inode, struct ext2_inode_large *out);
int ext4_put_inode(struct ext4_image *image, uint32_t inode, struct ext2_inode_large *from);
// A fresh inode with these attributes, no content and no link yet.
void ext4_fill_inode(struct ext2_inode_large *inode, const struct ext4_attributes *a);
// Frees content, attributes block and the inode itself.
int ext4_free_inode(struct ext4_image *image, uint32_t inode, struct ext2_inode_large *content);

// ext4_extent.c
int ext4_extent_add(struct ext4_image *image, struct extent_list *list, uint64_t logical, uint64_t physical,
                    uint64_t count);
void ext4_extent_free(struct extent_list *list);
// Writes the tree of `list` and sets i_block, i_flags and i_blocks; the inode itself is not written.
int ext4_extent_build(struct ext4_image *image, struct ext2_inode_large *inode,
                      const struct extent_list *list);
// Fills `list` with the data of an inode; with `drop_tree` the blocks of the tree itself are freed.
int ext4_extent_load(struct ext4_image *image, uint32_t inode, struct ext2_inode_large *content,
                     struct extent_list *list, int drop_tree);

// ext4_layer.c
// Writes whole blocks of file content, wherever that goes.
int ext4_put_data(struct ext4_image *image, uint64_t block, const uint8_t *data, uint64_t count);

// ext4_dir.c, ext4_names.c
int ext4_dir_create(struct ext4_image *image, uint32_t inode, uint32_t parent);
int ext4_dir_add(struct ext4_image *image, uint32_t directory, const char *name, size_t length,
                 uint32_t inode, uint32_t mode);
int ext4_dir_sync(struct ext4_image *image, uint32_t directory); // its inode, if it changed
int ext4_dir_sync_all(struct ext4_image *image);
void ext4_dir_close_all(struct ext4_image *image);
