// Where blocks and inodes go: next fit, from the start of the disk at the beginning of each layer, so that a
// layer's blocks lie together in the order of its tar and depend on nothing but what is on the disk.
#include "ext4_internal.h"
#include <errno.h>

#define META_RUN 256u // blocks set aside at once for metadata: a cold reader finds neighbours with one fetch
#define MAX_LOOKS 64  // gaps looked at before the largest of them is taken
#define MAX_RUN 524288u // blocks asked for at once (2 GiB)

// First gap of `want` blocks at or after data_next, or the largest of MAX_LOOKS, or of all there are.
static int find(struct ext4_image *image, uint64_t want, uint64_t *start, uint64_t *count)
{
    ext2fs_block_bitmap map = image->fs->block_map;
    uint64_t first = image->fs->super->s_first_data_block;
    uint64_t last = ext2fs_blocks_count(image->fs->super) - 1;
    uint64_t from = image->data_next > last || image->data_next < first ? first : image->data_next;
    int whole = from == first;
    uint64_t best = 0, best_at = 0;
    if (want > MAX_RUN)
        want = MAX_RUN;
    for (int looks = 0; looks < MAX_LOOKS;) {
        blk64_t gap, end;
        errcode_t e = from > last ? ENOENT : ext2fs_find_first_zero_block_bitmap2(map, from, last, &gap);
        if (e == ENOENT) {
            if (best || whole)
                break;
            whole = 1;
            from = first;
            continue;
        }
        if (e)
            return ext4_fail(image, e, "Cannot search the block bitmap");
        uint64_t limit = gap + want - 1 > last ? last : gap + want - 1;
        e = ext2fs_find_first_set_block_bitmap2(map, gap, limit, &end);
        if (e == ENOENT)
            end = limit + 1;
        else if (e)
            return ext4_fail(image, e, "Cannot search the block bitmap");
        if (end - gap > best) {
            best = end - gap;
            best_at = gap;
        }
        if (best >= want)
            break;
        from = end;
        looks++;
    }
    if (!best)
        return ext4_fail(image, ENOSPC, "The image is full: no free block among %llu",
                         (unsigned long long)(last + 1));
    *start = best_at;
    *count = best;
    image->data_next = best_at + best;
    return 0;
}

int ext4_alloc_data(struct ext4_image *image, uint64_t want, uint64_t *start, uint64_t *count)
{
    int e = find(image, want, start, count);
    if (e && image->meta_next < image->meta_end) {
        // The last free blocks are those set aside.
        image->meta_next = image->meta_end = 0;
        e = find(image, want, start, count);
    }
    if (!e)
        ext2fs_block_alloc_stats_range(image->fs, *start, (blk_t)*count, +1);
    return e;
}

// The next block for metadata, not yet marked.
static int peek_meta(struct ext4_image *image, uint64_t *block)
{
    while (image->meta_next < image->meta_end &&
           ext2fs_test_block_bitmap2(image->fs->block_map, image->meta_next))
        image->meta_next++; // data wrapped around into it
    if (image->meta_next >= image->meta_end) {
        uint64_t start, count;
        int e = find(image, META_RUN, &start, &count);
        if (e)
            return e;
        image->meta_next = start;
        image->meta_end = start + count;
    }
    *block = image->meta_next++;
    return 0;
}

int ext4_alloc_meta(struct ext4_image *image, uint64_t *block)
{
    int e = peek_meta(image, block);
    if (!e)
        ext2fs_block_alloc_stats2(image->fs, *block, +1);
    return e;
}

static errcode_t library_wants_block(ext2_filsys fs, blk64_t goal, blk64_t *block)
{
    (void)goal;
    uint64_t b = 0;
    int e = peek_meta(fs->priv_data, &b);
    *block = b;
    return e ? EXT2_ET_BLOCK_ALLOC_FAIL : 0;
}

void ext4_alloc_install(struct ext4_image *image)
{
    image->fs->priv_data = image;
    image->fs->get_alloc_block = library_wants_block;
}

void ext4_alloc_reset(struct ext4_image *image)
{
    image->data_next = 0;
    image->meta_next = image->meta_end = 0;
    image->inode_next = EXT2_FIRST_INODE(image->fs->super);
}

int ext4_alloc_inode(struct ext4_image *image, int directory, uint32_t *inode)
{
    ext2_ino_t first = EXT2_FIRST_INODE(image->fs->super), last = image->fs->super->s_inodes_count, found;
    errcode_t e = ENOENT;
    if (image->inode_next <= last)
        e = ext2fs_find_first_zero_inode_bitmap2(image->fs->inode_map, image->inode_next, last, &found);
    if (e == ENOENT)
        e = ext2fs_find_first_zero_inode_bitmap2(image->fs->inode_map, first, last, &found);
    if (e == ENOENT)
        return ext4_fail(image, ENOSPC, "The image is full: no free inode among %u", last);
    if (e)
        return ext4_fail(image, e, "Cannot search the inode bitmap");
    ext2fs_inode_alloc_stats2(image->fs, found, +1, directory);
    image->inode_next = found + 1;
    *inode = found;
    return 0;
}
