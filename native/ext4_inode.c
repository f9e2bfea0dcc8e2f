#include "ext4_internal.h"
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

int ext4_get_inode(struct ext4_image *image, uint32_t inode, struct ext2_inode_large *out)
{
    errcode_t e = ext2fs_read_inode_full(image->fs, inode, (struct ext2_inode *)out, sizeof *out);
    return e ? ext4_fail(image, e, "Cannot read inode %u", inode) : 0;
}

int ext4_put_inode(struct ext4_image *image, uint32_t inode, struct ext2_inode_large *from)
{
    errcode_t e = ext2fs_write_inode_full(image->fs, inode, (struct ext2_inode *)from, sizeof *from);
    return e ? ext4_fail(image, e, "Cannot write inode %u", inode) : 0;
}

// Seconds beyond 2^31 go into the two epoch bits of the extra field, nanoseconds above them.
static void put_time(const struct ext4_time *t, uint32_t *seconds, uint32_t *extra)
{
    int64_t s = t->seconds;
    const int64_t first = INT32_MIN, last = 4 * (1LL << 32) + INT32_MIN - 1;
    s = s < first ? first : s > last ? last : s;
    uint32_t epoch = (uint32_t)((s - (int32_t)(uint32_t)s) >> 32) & 3;
    *seconds = (uint32_t)s;
    *extra = epoch | t->nanoseconds << 2;
}

// Inodes of older makers may end before the extra fields; attributes may lie there.
#define HAS_EXTRA_TIMES(inode) ((inode)->i_extra_isize >= 24)

static struct ext4_time get_time(uint32_t seconds, uint32_t extra)
{
    return (struct ext4_time){(int64_t)(int32_t)seconds + ((int64_t)(extra & 3) << 32), extra >> 2};
}

static void put_attributes(struct ext2_inode_large *inode, const struct ext4_attributes *a)
{
    inode->i_mode = (uint16_t)((inode->i_mode & S_IFMT) | (a->mode & 07777));
    inode->i_uid = (uint16_t)a->uid;
    inode->osd2.linux2.l_i_uid_high = (uint16_t)(a->uid >> 16);
    inode->i_gid = (uint16_t)a->gid;
    inode->osd2.linux2.l_i_gid_high = (uint16_t)(a->gid >> 16);
    uint32_t none;
    int extra = HAS_EXTRA_TIMES(inode);
    put_time(&a->atime, &inode->i_atime, extra ? &inode->i_atime_extra : &none);
    put_time(&a->mtime, &inode->i_mtime, extra ? &inode->i_mtime_extra : &none);
    put_time(&a->ctime, &inode->i_ctime, extra ? &inode->i_ctime_extra : &none);
}

void ext4_fill_inode(struct ext2_inode_large *inode, const struct ext4_attributes *a)
{
    memset(inode, 0, sizeof *inode);
    inode->i_mode = (uint16_t)(a->mode & S_IFMT);
    inode->i_extra_isize = sizeof *inode - EXT2_GOOD_OLD_INODE_SIZE;
    put_attributes(inode, a);
    put_time(&a->mtime, &inode->i_crtime, &inode->i_crtime_extra);
    if (S_ISCHR(a->mode) || S_ISBLK(a->mode)) {
        if (a->major < 256 && a->minor < 256)
            inode->i_block[0] = a->major << 8 | a->minor;
        else
            inode->i_block[1] = (a->minor & 0xff) | a->major << 8 | (a->minor & ~0xffu) << 12;
    }
}

int ext4_set_attributes(struct ext4_image *image, uint32_t inode, const struct ext4_attributes *a)
{
    struct ext2_inode_large content;
    int e = ext4_dir_sync(image, inode);
    if (!e)
        e = ext4_get_inode(image, inode, &content);
    if (e)
        return e;
    put_attributes(&content, a);
    return ext4_put_inode(image, inode, &content);
}

int ext4_stat(struct ext4_image *image, uint32_t inode, struct ext4_stat *out)
{
    struct ext2_inode_large content;
    int e = ext4_dir_sync(image, inode);
    if (!e)
        e = ext4_get_inode(image, inode, &content);
    if (e)
        return e;
    memset(out, 0, sizeof *out);
    out->inode = inode;
    out->mode = content.i_mode;
    out->uid = inode_uid(content);
    out->gid = inode_gid(content);
    out->links = content.i_links_count;
    out->size = EXT2_I_SIZE(&content);
    out->blocks = ext2fs_inode_i_blocks(image->fs, (struct ext2_inode *)&content);
    int extra = HAS_EXTRA_TIMES(&content);
    out->atime = get_time(content.i_atime, extra ? content.i_atime_extra : 0);
    out->mtime = get_time(content.i_mtime, extra ? content.i_mtime_extra : 0);
    out->ctime = get_time(content.i_ctime, extra ? content.i_ctime_extra : 0);
    if (S_ISCHR(content.i_mode) || S_ISBLK(content.i_mode)) {
        uint32_t old = content.i_block[0], new = content.i_block[1];
        out->major = old ? old >> 8 & 0xff : new >> 8 & 0xfff;
        out->minor = old ? old & 0xff : (new & 0xff) | (new >> 12 & 0xfff00);
    }
    return 0;
}

static int free_block(ext2_filsys fs, blk64_t *block, e2_blkcnt_t count, blk64_t ref, int ref_offset,
                      void *context)
{
    (void)count, (void)ref, (void)ref_offset, (void)context;
    ext2fs_block_alloc_stats2(fs, *block, -1);
    return 0;
}

int ext4_free_inode(struct ext4_image *image, uint32_t inode, struct ext2_inode_large *content)
{
    ext2_filsys fs = image->fs;
    errcode_t e = 0;
    if (ext2fs_inode_has_valid_blocks2(fs, (struct ext2_inode *)content))
        e = ext2fs_block_iterate3(fs, inode, BLOCK_FLAG_READ_ONLY, NULL, free_block, NULL);
    if (!e)
        e = ext2fs_free_ext_attr(fs, inode, content);
    if (e)
        return ext4_fail(image, e, "Cannot free inode %u", inode);
    ext2fs_inode_alloc_stats2(fs, inode, -1, S_ISDIR(content->i_mode) ? 1 : 0);
    uint8_t empty[EXT4_BLOCK] = {0}; // the whole inode, attributes in it included
    e = ext2fs_write_inode_full(fs, inode, (struct ext2_inode *)empty, EXT2_INODE_SIZE(fs->super));
    return e ? ext4_fail(image, e, "Cannot clear inode %u", inode) : 0;
}

int ext4_readlink(struct ext4_image *image, uint32_t inode, char *into, size_t capacity, size_t *length)
{
    struct ext2_inode_large content;
    int e = ext4_get_inode(image, inode, &content);
    if (e)
        return e;
    uint64_t size = EXT2_I_SIZE(&content);
    if (!S_ISLNK(content.i_mode) || size >= EXT4_BLOCK || size > capacity)
        return ext4_fail(image, EINVAL, "Inode %u is not a symbolic link that can be read", inode);
    *length = size;
    if (ext2fs_inode_has_valid_blocks2(image->fs, (struct ext2_inode *)&content))
        return ext4_read(image, inode, 0, into, size, length);
    memcpy(into, content.i_block, size);
    return 0;
}

int ext4_read(struct ext4_image *image, uint32_t inode, uint64_t offset, void *into, size_t length,
              size_t *got)
{
    ext2_file_t file;
    errcode_t e = ext2fs_file_open2(image->fs, inode, NULL, 0, &file);
    if (e)
        return ext4_fail(image, e, "Cannot open inode %u", inode);
    unsigned done = 0;
    *got = 0;
    e = ext2fs_file_llseek(file, offset, EXT2_SEEK_SET, NULL);
    while (!e && *got < length) {
        size_t piece = length - *got > 1u << 30 ? 1u << 30 : length - *got;
        e = ext2fs_file_read(file, (uint8_t *)into + *got, (unsigned)piece, &done);
        if (done == 0)
            break;
        *got += done;
    }
    ext2fs_file_close(file);
    return e ? ext4_fail(image, e, "Cannot read inode %u at %llu", inode, (unsigned long long)offset) : 0;
}
