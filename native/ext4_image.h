// An ext4 file system built in user space through libext2fs, one container layer after the other, with
// nothing from the clock or the host in it: the same calls give the same bytes.
//
// libext2fs keeps super block, groups, bitmaps and inodes. What it does slowly or with a will of its own is
// done here: directories (an index by name in memory), extent trees (built once, bottom up), where blocks go
// (next fit from the start of the disk at each layer), file data (straight to its blocks).
//
// Thread: any, one call at a time per image; nothing is shared between images.
// Result: 0 or -errno, and a sentence in ext4_image_error(). -ENOSPC means the image is full; a failure of
// the host's file system is -EREMOTEIO, because an image whose work file failed cannot be continued.
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct ext4_image;

struct ext4_time {
    int64_t seconds; // clamped to what ext4 can hold, [-2^31, 2^34 - 2^31)
    uint32_t nanoseconds;
};

struct ext4_attributes {
    uint32_t mode; // 12 permission bits; the type where an inode is made
    uint32_t uid, gid;
    uint32_t major, minor; // devices
    struct ext4_time atime, mtime, ctime;
};

struct ext4_stat {
    uint32_t inode, mode, uid, gid, links, major, minor;
    uint64_t size, blocks; // blocks of 512 bytes
    struct ext4_time atime, mtime, ctime;
};

// Formats `size` bytes (a multiple of 4096, at least 1 MiB) in an unlinked sparse file in `dir`. `*out` is
// set even on failure, for its error sentence, unless memory ran out; destroy it.
int ext4_image_create(const char *dir, uint64_t size, struct ext4_image **out);
// Opens the image of `size` bytes that lies behind `source_fd` (ext4_source.h), which it owns from then on,
// also on failure. Its blocks are fetched as they are needed; nothing is written back. `runs` has `count`
// pairs of offset and length: where the source may hold other bytes than zeros. -EUCLEAN if it is no ext4, or
// one that was not unmounted in order; -EOPNOTSUPP if it has features that this code does not keep up.
int ext4_image_open(const char *dir, uint64_t size, int source_fd, const uint64_t *runs, size_t count,
                    struct ext4_image **out);
void ext4_image_destroy(struct ext4_image *image);
const char *ext4_image_error(const struct ext4_image *image);
// The sparse work file that holds the image, complete after ext4_image_flush(). Owned by the image.
int ext4_image_fd(const struct ext4_image *image);

uint32_t ext4_root(void);
// Writes everything kept in memory. Afterwards the image is clean (e2fsck) and ext4_image_changes() is
// complete.
int ext4_image_flush(struct ext4_image *image);
int ext4_image_changes(struct ext4_image *image,
                       int (*run)(void *context, uint64_t offset, uint64_t length, int kind), void *context);

// Packs the current layer while it is applied: the content of files goes to `stream` (borrowed until the end)
// instead of the work file, which from then on lacks it. Begin before the layer's first file.
struct zfile_stream;
#define EXT4_ZERO UINT64_MAX
int ext4_layer_begin(struct ext4_image *image, struct zfile_stream *stream);
// Flushes, appends the changed blocks of metadata to the stream, and tells of each run of the layer: where it
// is in the image, and where its first byte is in the stream (plain bytes), or EXT4_ZERO. Ascending,
// disjoint, whole blocks. Afterwards the stream is no longer used, also on failure.
int ext4_layer_end(struct ext4_image *image,
                   int (*run)(void *context, uint64_t offset, uint64_t length, uint64_t position),
                   void *context);
// Lets go of the stream of a layer that will not be ended. The image is not to be used any more.
void ext4_layer_abandon(struct ext4_image *image);
// Begins the next layer on top of what is there.
int ext4_image_next_layer(struct ext4_image *image);

// -ENOENT if `directory` has no such name, -ENOTDIR.
int ext4_lookup(struct ext4_image *image, uint32_t directory, const char *name, size_t length,
                uint32_t *inode,
                uint32_t *type); // type: S_IFMT bits
int ext4_stat(struct ext4_image *image, uint32_t inode, struct ext4_stat *out);
int ext4_readdir(struct ext4_image *image, uint32_t directory,
                 int (*entry)(void *context, const char *name, size_t length, uint32_t inode, uint32_t type),
                 void *context); // without . and ..; the callback must not call the image
int ext4_readlink(struct ext4_image *image, uint32_t inode, char *into, size_t capacity, size_t *length);
int ext4_read(struct ext4_image *image, uint32_t inode, uint64_t offset, void *into, size_t length,
              size_t *got);
// The stored runs of a file, in bytes, ascending; holes and space that is only reserved are left out. The
// last run may go beyond the file's size.
int ext4_extents(struct ext4_image *image, uint32_t inode,
                 int (*extent)(void *context, uint64_t offset, uint64_t physical, uint64_t length),
                 void *context);
int ext4_parent(struct ext4_image *image, uint32_t directory, uint32_t *parent);

// Makes a file, directory, fifo, socket or device, by the S_IFMT bits of a->mode. -EEXIST.
int ext4_make(struct ext4_image *image, uint32_t directory, const char *name, size_t length,
              const struct ext4_attributes *a, uint32_t *inode);
int ext4_symlink(struct ext4_image *image, uint32_t directory, const char *name, size_t length,
                 const char *target, size_t target_length, const struct ext4_attributes *a, uint32_t *inode);
int ext4_link(struct ext4_image *image, uint32_t directory, const char *name, size_t length, uint32_t inode);
// Removes a name and, with the last name, the inode; a directory with everything in it.
int ext4_remove(struct ext4_image *image, uint32_t directory, const char *name, size_t length);
// Replaces owner, times and the 12 permission bits.
int ext4_set_attributes(struct ext4_image *image, uint32_t inode, const struct ext4_attributes *a);

// File content is written once, right after the file was made, in ascending order; what is skipped is a hole.
// One file at a time: begin, write..., end. `more` says how many bytes will follow without a gap.
int ext4_file_begin(struct ext4_image *image, uint32_t inode);
int ext4_file_write(struct ext4_image *image, uint64_t offset, const void *data, size_t length,
                    uint64_t more);
int ext4_file_end(struct ext4_image *image, uint64_t size);

struct ext4_xattr {
    const char *name; // NUL-terminated, with its namespace: "user.x"
    const void *value;
    size_t length;
};
// Replaces all extended attributes. -E2BIG if they do not fit the inode and one block.
int ext4_set_xattrs(struct ext4_image *image, uint32_t inode, const struct ext4_xattr *list, size_t count);
int ext4_list_xattrs(struct ext4_image *image, uint32_t inode,
                     int (*entry)(void *context, const char *name, const void *value, size_t length),
                     void *context);

#ifdef __cplusplus
}
#endif
