// Directories in use: read from the disk, kept in memory, their inodes written back.
#include "ext4_dir.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define CACHE_BYTES                                                                                          \
    (64u << 20) // of content and index; a directory larger than this is still kept while in use

int ext4_dir_write(struct ext4_image *image, const struct dir *d, uint32_t block)
{
    return ext4_store_put(image, d->physical[block], d->data + (size_t)block * EXT4_BLOCK, 1);
}

static void unlink_recent(struct ext4_image *image, struct dir *d)
{
    *(d->newer ? &d->newer->older : &image->newest) = d->older;
    *(d->older ? &d->older->newer : &image->oldest) = d->newer;
}

static void push_recent(struct ext4_image *image, struct dir *d)
{
    d->newer = NULL;
    d->older = image->newest;
    *(image->newest ? &image->newest->newer : &image->oldest) = d;
    image->newest = d;
}

static void free_dir(struct dir *d)
{
    free(d->data);
    free(d->physical);
    free(d->gaps);
    free(d->table);
    free(d);
}

static struct dir *cached(struct ext4_image *image, uint32_t inode)
{
    struct dir *d = image->dirs[inode % DIR_BUCKETS];
    while (d && d->inode != inode)
        d = d->next_in_bucket;
    return d;
}

void ext4_dir_drop(struct ext4_image *image, struct dir *d)
{
    struct dir **p = &image->dirs[d->inode % DIR_BUCKETS];
    while (*p != d)
        p = &(*p)->next_in_bucket;
    *p = d->next_in_bucket;
    unlink_recent(image, d);
    image->dir_bytes -= bytes_of(d);
    free_dir(d);
}

void ext4_dir_keep(struct ext4_image *image, struct dir *d)
{
    d->next_in_bucket = image->dirs[d->inode % DIR_BUCKETS];
    image->dirs[d->inode % DIR_BUCKETS] = d;
    push_recent(image, d);
    image->dir_bytes += bytes_of(d);
}

int ext4_dir_sync_one(struct ext4_image *image, struct dir *d)
{
    if (!d->map_changed && !d->inode_changed)
        return 0;
    struct ext2_inode_large inode;
    struct extent_list list = {0}, old = {0};
    int e = ext4_get_inode(image, d->inode, &inode);
    if (!e && d->map_changed) {
        e = ext4_extent_load(image, d->inode, &inode, &old, 1);
        for (uint32_t i = 0; i < d->blocks && !e; i++)
            e = ext4_extent_add(image, &list, i, d->physical[i], 1);
        if (!e)
            e = ext4_extent_build(image, &inode, &list);
        uint64_t size = (uint64_t)d->blocks * EXT4_BLOCK;
        inode.i_size = (uint32_t)size;
        inode.i_size_high = (uint32_t)(size >> 32);
    }
    ext4_extent_free(&list);
    ext4_extent_free(&old);
    if (e)
        return e;
    // The index of a hashed directory is not kept up: its nodes read as empty entries of a plain one.
    inode.i_flags &= ~EXT2_INDEX_FL;
    inode.i_links_count = (uint16_t)(d->subdirs + 2 > LINK_MAX_EXT4 ? 1 : d->subdirs + 2);
    e = ext4_put_inode(image, d->inode, &inode);
    if (!e)
        d->map_changed = d->inode_changed = 0;
    return e;
}

int ext4_dir_trim(struct ext4_image *image, const struct dir *d)
{
    while (image->dir_bytes > CACHE_BYTES && image->oldest && image->oldest != d) {
        int e = ext4_dir_sync_one(image, image->oldest);
        if (e)
            return e;
        ext4_dir_drop(image, image->oldest);
    }
    return 0;
}

static int load_entries(struct ext4_image *image, struct dir *d)
{
    for (uint32_t block = 0; block < d->blocks; block++) {
        uint32_t o = block * EXT4_BLOCK, end = o + EXT4_BLOCK;
        while (o < end) {
            const struct entry *e = at(d, o);
            if (end - o < 12 || e->length < 12 || e->length % 4 || e->length > end - o ||
                (e->inode && needs(e->name_length) > e->length))
                return ext4_fail(image, EUCLEAN, "Directory %u is damaged at byte %u", d->inode, o);
            int dots = block == 0 && e->name[0] == '.' &&
                       (e->name_length == 1 || (e->name_length == 2 && e->name[1] == '.'));
            if (e->inode && !dots) {
                int error = ext4_dir_index(d, o);
                if (error)
                    return ext4_fail(image, -error, "Directory %u cannot be indexed at byte %u", d->inode, o);
                d->subdirs += e->type == EXT2_FT_DIR;
            }
            o += e->length;
        }
        ext4_dir_measure(d, block);
    }
    return 0;
}

int ext4_dir_get(struct ext4_image *image, uint32_t inode, struct dir **out)
{
    struct dir *d = cached(image, inode);
    if (d) {
        if (image->newest != d) {
            unlink_recent(image, d);
            push_recent(image, d);
        }
        *out = d;
        return 0;
    }
    struct ext2_inode_large content;
    int e = ext4_get_inode(image, inode, &content);
    if (e)
        return e;
    if (!S_ISDIR(content.i_mode))
        return ext4_fail(image, ENOTDIR, "Inode %u is not a directory", inode);
    struct extent_list list = {0};
    e = ext4_extent_load(image, inode, &content, &list, 0);
    d = e ? NULL : calloc(1, sizeof *d);
    if (d) {
        d->inode = inode;
        d->first_room = UINT32_MAX;
        uint64_t blocks = EXT2_I_SIZE(&content) / EXT4_BLOCK;
        // A size that lies must not take memory: no directory is larger than the disk, none of ours than 4
        // GiB.
        e = blocks > image->store.size / EXT4_BLOCK ? -EUCLEAN
            : blocks >= 1u << 20                    ? -EFBIG
                                                    : ext4_dir_grow(d, (uint32_t)blocks);
        for (size_t i = 0; i < list.count && !e; i++) {
            const struct extent *x = &list.at[i];
            if (x->logical != d->blocks || d->blocks + x->length > blocks) {
                e = -EUCLEAN;
                break;
            }
            for (uint32_t b = 0; b < x->length; b++)
                d->physical[d->blocks + b] = x->physical + b;
            e = ext4_store_get(image, x->physical, d->data + (size_t)d->blocks * EXT4_BLOCK, x->length);
            d->blocks += x->length;
        }
        if (!e && (blocks == 0 || d->blocks != blocks))
            e = -EUCLEAN;
        if (e)
            ext4_fail(image, -e, "Directory %u has no sound block map", inode);
        else
            e = load_entries(image, d);
        if (e)
            free_dir(d);
    } else if (!e) {
        e = ext4_fail(image, ENOMEM, "No memory for directory %u", inode);
    }
    ext4_extent_free(&list);
    if (e)
        return e;
    ext4_dir_keep(image, d);
    *out = d;
    return ext4_dir_trim(image, d);
}

int ext4_dir_sync(struct ext4_image *image, uint32_t directory)
{
    struct dir *d = cached(image, directory);
    return d ? ext4_dir_sync_one(image, d) : 0;
}

int ext4_dir_sync_all(struct ext4_image *image)
{
    int e = 0;
    for (struct dir *d = image->oldest; d && !e; d = d->newer)
        e = ext4_dir_sync_one(image, d);
    return e;
}

void ext4_dir_close_all(struct ext4_image *image)
{
    while (image->oldest)
        ext4_dir_drop(image, image->oldest);
}
