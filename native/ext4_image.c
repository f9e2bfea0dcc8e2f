#include "ext4_image.h"
#include "ext4_internal.h"
#include <errno.h>
#include <et/com_err.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// Fixed where mke2fs would ask the clock or chance. Not the nil UUID: fsck wants to replace that.
static const uint8_t fs_uuid[16] = {0x6f, 0x76, 0x65, 0x72, 0x6c, 0x61, 0x89, 0x62,
                                    0xa4, 0x6d, 0x74, 0x73, 0x65, 0x78, 0x74, 0x34};

int ext4_fail(struct ext4_image *image, errcode_t e, const char *format, ...)
{
    char what[160];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    if (image->store.host_error) {
        snprintf(image->error, sizeof image->error, "%s: the work file failed: %s", what,
                 strerror(-image->store.host_error));
        return -EREMOTEIO;
    }
    if (e == EXT2_ET_BLOCK_ALLOC_FAIL || e == EXT2_ET_INODE_ALLOC_FAIL) {
        snprintf(image->error, sizeof image->error, "%s: the image is full", what);
        return -ENOSPC;
    }
    if (e > 0 && e < 200) {
        snprintf(image->error, sizeof image->error, "%s", what);
        return -(int)e;
    }
    snprintf(image->error, sizeof image->error, "%s: %s", what, error_message(e));
    return -EUCLEAN;
}

int ext4_fail_stream(struct ext4_image *image, int error)
{
    snprintf(image->error, sizeof image->error, "Cannot write the layer: the work file failed: %s",
             strerror(-error));
    return -EREMOTEIO;
}

const char *ext4_image_error(const struct ext4_image *image)
{
    return image->error;
}

int ext4_store_get(struct ext4_image *image, uint64_t block, void *into, uint32_t count)
{
    int e = ext4_store_read(&image->store, block * EXT4_BLOCK, into, (size_t)count * EXT4_BLOCK);
    return e ? ext4_fail(image, -e, "Cannot read block %llu", (unsigned long long)block) : 0;
}

int ext4_store_put(struct ext4_image *image, uint64_t block, const void *from, uint32_t count)
{
    int e = ext4_store_write(&image->store, block * EXT4_BLOCK, from, (size_t)count * EXT4_BLOCK);
    return e ? ext4_fail(image, -e, "Cannot write block %llu", (unsigned long long)block) : 0;
}

static void set_parameters(struct ext2_super_block *p, uint64_t size)
{
    memset(p, 0, sizeof *p);
    uint64_t blocks = size / EXT4_BLOCK;
    p->s_rev_level = EXT2_DYNAMIC_REV;
    p->s_log_block_size = p->s_log_cluster_size = 2;
    p->s_inode_size = 256;
    p->s_desc_size = 64;
    p->s_blocks_per_group = 32768;
    ext2fs_blocks_count_set(p, blocks);
    ext2fs_r_blocks_count_set(p, blocks / 20);
    uint64_t inodes = size / 16384;
    p->s_inodes_count = inodes > UINT32_MAX - 8192 ? UINT32_MAX - 8192 : (uint32_t)inodes;
    p->s_backup_bgs[0] = 1;
    p->s_backup_bgs[1] = UINT32_MAX; // the last group
    ext2fs_set_feature_xattr(p);
    ext2fs_set_feature_resize_inode(p);
    ext2fs_set_feature_dir_index(p);
    ext2fs_set_feature_sparse_super2(p);
    ext2fs_set_feature_filetype(p);
    ext2fs_set_feature_extents(p);
    ext2fs_set_feature_64bit(p);
    ext2fs_set_feature_flex_bg(p);
    ext2fs_set_feature_sparse_super(p);
    ext2fs_set_feature_large_file(p);
    ext2fs_set_feature_huge_file(p);
    ext2fs_set_feature_dir_nlink(p);
    ext2fs_set_feature_extra_isize(p);
}

static void set_identity(ext2_filsys fs)
{
    struct ext2_super_block *s = fs->super;
    memcpy(s->s_uuid, fs_uuid, sizeof fs_uuid);
    memcpy(s->s_hash_seed, fs_uuid, sizeof fs_uuid);
    s->s_def_hash_version = EXT2_HASH_HALF_MD4;
    s->s_flags |= EXT2_FLAGS_SIGNED_HASH;
    s->s_mkfs_time = s->s_lastcheck = s->s_wtime = EXT4_FS_TIME;
    s->s_mtime = 0;
    s->s_kbytes_written = 1;
    s->s_max_mnt_count = -1;
    s->s_errors = EXT2_ERRORS_CONTINUE;
}

static int make_root(struct ext4_image *image)
{
    const struct ext4_attributes root = {.mode = S_IFDIR | 0755}, found = {.mode = S_IFDIR | 0700};
    struct ext2_inode_large content;
    struct extent_list none = {0};
    uint32_t inode;
    ext4_fill_inode(&content, &root);
    content.i_links_count = 2;
    int e = ext4_extent_build(image, &content, &none);
    if (!e)
        e = ext4_put_inode(image, EXT2_ROOT_INO, &content);
    if (!e)
        e = ext4_dir_create(image, EXT2_ROOT_INO, EXT2_ROOT_INO);
    return e ? e : ext4_make(image, EXT2_ROOT_INO, "lost+found", 10, &found, &inode);
}

static int format(struct ext4_image *image, uint64_t size)
{
    struct ext2_super_block parameters;
    set_parameters(&parameters, size);
    errcode_t e = ext2fs_initialize("obd", EXT2_FLAG_64BITS, &parameters, ext4_channel_manager(&image->store),
                                    &image->fs);
    if (e)
        return ext4_fail(image, e, "Cannot lay out an ext4 of %llu bytes", (unsigned long long)size);
    ext2_filsys fs = image->fs;
    io_channel_set_blksize(fs->io, EXT4_BLOCK);
    fs->now = EXT4_FS_TIME;
    set_identity(fs);
    ext4_alloc_install(image);
    ext4_alloc_reset(image);
    e = ext2fs_allocate_tables(fs);
    if (e)
        return ext4_fail(image, e, "Cannot place the inode tables");
    for (ext2_ino_t i = EXT2_BAD_INO; i < EXT2_FIRST_INODE(fs->super); i++)
        ext2fs_inode_alloc_stats2(fs, i, +1, i == EXT2_ROOT_INO);
    int failed = make_root(image);
    if (failed)
        return failed;
    e = ext2fs_create_resize_inode(fs);
    if (e)
        return ext4_fail(image, e, "Cannot make the resize inode");
    failed = ext4_image_flush(image);
    // From here on the backups stay as they are, as with the kernel.
    fs->flags |= EXT2_FLAG_MASTER_SB_ONLY;
    return failed;
}

static pthread_once_t error_table = PTHREAD_ONCE_INIT;

int ext4_image_start(const char *dir, uint64_t size, struct ext4_image **out)
{
    pthread_once(&error_table, initialize_ext2_error_table);
    struct ext4_image *image = *out = calloc(1, sizeof *image);
    if (!image)
        return -ENOMEM;
    image->store.fd = image->store.undo_fd = image->store.source_fd = -1;
    if (size % EXT4_BLOCK || size < 1u << 20)
        return ext4_fail(image, EINVAL, "An image of %llu bytes: expected a multiple of 4096, at least 1 MiB",
                         (unsigned long long)size);
    int e = ext4_store_open(&image->store, dir, size);
    if (e) {
        snprintf(image->error, sizeof image->error, "Cannot make a work file in %.150s: %s", dir,
                 strerror(-e));
        return -EREMOTEIO;
    }
    return 0;
}

int ext4_image_create(const char *dir, uint64_t size, struct ext4_image **out)
{
    int e = ext4_image_start(dir, size, out);
    return e ? e : format(*out, size);
}

void ext4_image_destroy(struct ext4_image *image)
{
    ext4_dir_close_all(image);
    ext4_extent_free(&image->file.extents);
    if (image->fs)
        ext2fs_free(image->fs);
    ext4_store_close(&image->store);
    free(image);
}

int ext4_image_fd(const struct ext4_image *image)
{
    return image->store.fd;
}

uint32_t ext4_root(void)
{
    return EXT2_ROOT_INO;
}

int ext4_image_flush(struct ext4_image *image)
{
    if (image->file.inode)
        return ext4_fail(image, EBUSY, "Inode %u is still being written", image->file.inode);
    int e = ext4_dir_sync_all(image);
    if (e)
        return e;
    errcode_t error = ext2fs_flush2(image->fs, EXT2_FLAG_FLUSH_NO_SYNC);
    return error ? ext4_fail(image, error, "Cannot write the super block, groups and bitmaps") : 0;
}

int ext4_image_changes(struct ext4_image *image,
                       int (*run)(void *context, uint64_t offset, uint64_t length, int kind), void *context)
{
    int e = ext4_store_changes(&image->store, run, context);
    return e ? ext4_fail(image, -e, "Cannot compare the layer with what was before") : 0;
}

int ext4_image_next_layer(struct ext4_image *image)
{
    int e = ext4_store_next_layer(&image->store);
    if (e)
        return ext4_fail(image, -e, "Cannot begin a layer");
    ext4_alloc_reset(image);
    return 0;
}
