// Making names and writing file content.
#include "ext4_internal.h"
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_FILE (1ULL << 44) // 2^32 blocks
#define LINK_MAX_EXT4 65000u

static int check_name(struct ext4_image *image, const char *name, size_t length)
{
    if (length > EXT2_NAME_LEN)
        return ext4_fail(image, ENAMETOOLONG, "A name of %zu bytes is longer than 255", length);
    if (length == 0 || memchr(name, '/', length) || memchr(name, 0, length) ||
        (length == 1 && name[0] == '.') || (length == 2 && name[0] == '.' && name[1] == '.'))
        return ext4_fail(image, EINVAL, "Not a name that a directory can hold");
    return 0;
}

static int refuse_existing(struct ext4_image *image, uint32_t directory, const char *name, size_t length)
{
    uint32_t inode, type;
    int e = check_name(image, name, length);
    if (!e)
        e = ext4_lookup(image, directory, name, length, &inode, &type);
    if (e == -ENOENT)
        return 0;
    return e ? e : ext4_fail(image, EEXIST, "The name exists");
}

int ext4_make(struct ext4_image *image, uint32_t directory, const char *name, size_t length,
              const struct ext4_attributes *a, uint32_t *inode)
{
    struct ext2_inode_large content;
    int is_dir = S_ISDIR(a->mode);
    if ((S_ISCHR(a->mode) || S_ISBLK(a->mode)) && (a->major >= 1u << 12 || a->minor >= 1u << 20))
        return ext4_fail(image, EINVAL, "Device %u:%u has no ext4 encoding (12 and 20 bits)", a->major,
                         a->minor);
    int e = refuse_existing(image, directory, name, length);
    if (!e)
        e = ext4_alloc_inode(image, is_dir, inode);
    if (e)
        return e;
    ext4_fill_inode(&content, a);
    content.i_links_count = is_dir ? 2 : 1;
    if (S_ISREG(a->mode) || is_dir) {
        struct extent_list none = {0};
        e = ext4_extent_build(image, &content, &none);
    }
    if (!e)
        e = ext4_put_inode(image, *inode, &content);
    if (!e && is_dir)
        e = ext4_dir_create(image, *inode, directory);
    return e ? e : ext4_dir_add(image, directory, name, length, *inode, a->mode);
}

int ext4_symlink(struct ext4_image *image, uint32_t directory, const char *name, size_t length,
                 const char *target, size_t target_length, const struct ext4_attributes *a, uint32_t *inode)
{
    struct ext2_inode_large content;
    if (target_length == 0 || target_length >= EXT4_BLOCK || memchr(target, 0, target_length))
        return ext4_fail(image, EINVAL,
                         "A symbolic link target has 1 to 4095 bytes and no NUL, this one %zu bytes",
                         target_length);
    int e = refuse_existing(image, directory, name, length);
    if (!e)
        e = ext4_alloc_inode(image, 0, inode);
    if (e)
        return e;
    struct ext4_attributes link = *a;
    link.mode = S_IFLNK | (a->mode & 07777);
    ext4_fill_inode(&content, &link);
    content.i_links_count = 1;
    content.i_size = (uint32_t)target_length;
    if (target_length < sizeof content.i_block) {
        memcpy(content.i_block, target, target_length);
    } else {
        uint8_t block[EXT4_BLOCK] = {0};
        struct extent_list list = {0};
        uint64_t physical;
        memcpy(block, target, target_length);
        e = ext4_alloc_meta(image, &physical);
        if (!e)
            e = ext4_store_put(image, physical, block, 1);
        if (!e)
            e = ext4_extent_add(image, &list, 0, physical, 1);
        if (!e)
            e = ext4_extent_build(image, &content, &list);
        ext4_extent_free(&list);
    }
    if (!e)
        e = ext4_put_inode(image, *inode, &content);
    return e ? e : ext4_dir_add(image, directory, name, length, *inode, S_IFLNK);
}

int ext4_link(struct ext4_image *image, uint32_t directory, const char *name, size_t length, uint32_t inode)
{
    struct ext2_inode_large content;
    int e = refuse_existing(image, directory, name, length);
    if (!e)
        e = ext4_get_inode(image, inode, &content);
    if (e)
        return e;
    if (S_ISDIR(content.i_mode) || content.i_links_count == 0)
        return ext4_fail(image, EPERM, "A directory cannot have a hard link");
    if (content.i_links_count >= LINK_MAX_EXT4)
        return ext4_fail(image, EMLINK, "A file cannot have more than %u names", LINK_MAX_EXT4);
    content.i_links_count++;
    e = ext4_put_inode(image, inode, &content);
    return e ? e : ext4_dir_add(image, directory, name, length, inode, content.i_mode);
}

int ext4_file_begin(struct ext4_image *image, uint32_t inode)
{
    struct ext2_inode_large content;
    int e = ext4_get_inode(image, inode, &content);
    if (e)
        return e;
    if (image->file.inode)
        return ext4_fail(image, EBUSY, "Inode %u is still being written", image->file.inode);
    if (!S_ISREG(content.i_mode) || EXT2_I_SIZE(&content) > 0)
        return ext4_fail(image, EINVAL, "Inode %u is not an empty file", inode);
    ext4_extent_free(&image->file.extents);
    image->file.inode = inode;
    image->file.position = 0;
    image->file.tail_used = 0;
    return 0;
}

// Places whole blocks of data at a block boundary of the file; `ahead` more bytes are to follow.
static int place(struct ext4_image *image, uint64_t offset, const uint8_t *data, uint64_t blocks,
                 uint64_t ahead)
{
    struct extent_list *list = &image->file.extents;
    uint64_t logical = offset / EXT4_BLOCK;
    while (blocks > 0) {
        struct extent *last = list->count ? &list->at[list->count - 1] : NULL;
        uint64_t mapped = last ? (uint64_t)last->logical + last->length : 0;
        if (logical >= mapped) {
            uint64_t start, count, want = blocks + (ahead + EXT4_BLOCK - 1) / EXT4_BLOCK;
            int e = ext4_alloc_data(image, want, &start, &count);
            if (!e)
                e = ext4_extent_add(image, list, logical, start, count);
            if (e)
                return e;
            continue;
        }
        // Within what was allocated ahead: it is the end of the list, but may be several extents.
        size_t i = list->count - 1;
        while (list->at[i].logical > logical)
            i--;
        uint64_t n = (uint64_t)list->at[i].logical + list->at[i].length - logical;
        n = n > blocks ? blocks : n;
        n = n > 1u << 16 ? 1u << 16 : n;
        int e = ext4_put_data(image, list->at[i].physical + (logical - list->at[i].logical), data, n);
        if (e)
            return e;
        logical += n;
        data += n * EXT4_BLOCK;
        blocks -= n;
    }
    return 0;
}

static int flush_tail(struct ext4_image *image, uint64_t ahead)
{
    if (image->file.tail_used == 0)
        return 0;
    memset(image->file.tail + image->file.tail_used, 0, EXT4_BLOCK - image->file.tail_used);
    image->file.tail_used = 0;
    return place(image, image->file.tail_at, image->file.tail, 1, ahead);
}

// Gives back blocks allocated ahead of data that did not come, from file block `used` on.
static void give_back(struct ext4_image *image, uint64_t used)
{
    struct extent_list *list = &image->file.extents;
    while (list->count > 0) {
        struct extent *last = &list->at[list->count - 1];
        uint64_t end = (uint64_t)last->logical + last->length;
        if (end <= used)
            break;
        uint32_t extra = (uint32_t)(end - used < last->length ? end - used : last->length);
        ext2fs_block_alloc_stats_range(image->fs, last->physical + last->length - extra, extra, -1);
        last->length -= extra;
        if (last->length == 0)
            list->count--;
    }
}

int ext4_file_write(struct ext4_image *image, uint64_t offset, const void *data, size_t length, uint64_t more)
{
    const uint8_t *bytes = data;
    if (!image->file.inode || offset < image->file.position)
        return ext4_fail(image, EINVAL, "File content is not given in ascending order");
    if (offset > MAX_FILE || length > MAX_FILE - offset)
        return ext4_fail(image, EFBIG, "A file of more than 16 TiB does not fit ext4");
    if (length > 0 && offset > image->file.position)
        give_back(image, (image->file.position + EXT4_BLOCK - 1) / EXT4_BLOCK);
    image->file.position = offset + length;
    while (length > 0) {
        uint64_t in_block = offset % EXT4_BLOCK, block_at = offset - in_block;
        int e = 0;
        if (image->file.tail_used && image->file.tail_at != block_at)
            e = flush_tail(image, 0);
        if (e)
            return e;
        if (in_block == 0 && length >= EXT4_BLOCK) {
            uint64_t blocks = length / EXT4_BLOCK;
            e = place(image, offset, bytes, blocks, length % EXT4_BLOCK + more);
            if (e)
                return e;
            bytes += blocks * EXT4_BLOCK;
            offset += blocks * EXT4_BLOCK;
            length -= blocks * EXT4_BLOCK;
            continue;
        }
        size_t n = EXT4_BLOCK - in_block < length ? EXT4_BLOCK - in_block : length;
        memset(image->file.tail + image->file.tail_used, 0, in_block - image->file.tail_used);
        memcpy(image->file.tail + in_block, bytes, n);
        image->file.tail_at = block_at;
        image->file.tail_used = in_block + n;
        bytes += n;
        offset += n;
        length -= n;
        if (image->file.tail_used == EXT4_BLOCK && (e = flush_tail(image, length + more)))
            return e;
    }
    return 0;
}

int ext4_file_end(struct ext4_image *image, uint64_t size)
{
    struct ext2_inode_large content;
    uint32_t inode = image->file.inode;
    if (!inode || size < image->file.position || size > MAX_FILE - EXT4_BLOCK)
        return ext4_fail(image, EINVAL, "A file of %llu bytes cannot end here", (unsigned long long)size);
    int e = flush_tail(image, 0);
    if (!e)
        e = ext4_get_inode(image, inode, &content);
    struct extent_list *list = &image->file.extents;
    if (!e)
        give_back(image, (image->file.position + EXT4_BLOCK - 1) / EXT4_BLOCK);
    if (!e)
        e = ext4_extent_build(image, &content, list);
    if (!e) {
        content.i_size = (uint32_t)size;
        content.i_size_high = (uint32_t)(size >> 32);
        e = ext4_put_inode(image, inode, &content);
    }
    image->file.inode = 0;
    ext4_extent_free(list);
    return e;
}
