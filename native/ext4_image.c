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
#define FS_TIME 1 // 0 would mean "now" to libext2fs

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

// --- libext2fs's way to the store ---

// libext2fs hands open() a name only; the store that the calling thread is opening travels beside it.
static __thread struct ext4_store *opening;

static struct struct_io_manager manager;

static errcode_t channel_open(const char *name, int flags, io_channel *out)
{
    (void)flags;
    io_channel channel = calloc(1, sizeof *channel);
    if (!channel || !(channel->name = strdup(name))) {
        free(channel);
        return ENOMEM;
    }
    channel->magic = EXT2_ET_MAGIC_IO_CHANNEL;
    channel->manager = &manager;
    channel->block_size = 1024;
    channel->refcount = 1;
    channel->flags = CHANNEL_FLAGS_DISCARD_ZEROES;
    channel->private_data = opening;
    *out = channel;
    return 0;
}

static errcode_t channel_close(io_channel channel)
{
    if (--channel->refcount > 0)
        return 0;
    free(channel->name);
    free(channel);
    return 0;
}

static errcode_t channel_set_block_size(io_channel channel, int size)
{
    channel->block_size = size;
    return 0;
}

// A negative count is a number of bytes.
static size_t channel_bytes(io_channel channel, int count)
{
    return count < 0 ? (size_t)-count : (size_t)count * (size_t)channel->block_size;
}

static errcode_t channel_read64(io_channel channel, unsigned long long block, int count, void *data)
{
    return -ext4_store_read(channel->private_data, block * (unsigned)channel->block_size, data,
                            channel_bytes(channel, count));
}

static errcode_t channel_write64(io_channel channel, unsigned long long block, int count, const void *data)
{
    return -ext4_store_write(channel->private_data, block * (unsigned)channel->block_size, data,
                             channel_bytes(channel, count));
}

static errcode_t channel_read(io_channel channel, unsigned long block, int count, void *data)
{
    return channel_read64(channel, block, count, data);
}

static errcode_t channel_write(io_channel channel, unsigned long block, int count, const void *data)
{
    return channel_write64(channel, block, count, data);
}

static errcode_t channel_write_byte(io_channel channel, unsigned long offset, int count, const void *data)
{
    return count < 0 ? EINVAL : -ext4_store_write(channel->private_data, offset, data, (size_t)count);
}

static errcode_t channel_flush(io_channel channel)
{
    (void)channel;
    return 0;
}

static errcode_t channel_set_option(io_channel channel, const char *option, const char *argument)
{
    (void)channel, (void)option, (void)argument;
    return 0;
}

static errcode_t channel_zeroout(io_channel channel, unsigned long long block, unsigned long long count)
{
    static const uint8_t zeros[EXT4_BLOCK];
    uint64_t offset = block * (unsigned)channel->block_size, left = count * (unsigned)channel->block_size;
    while (left > 0) {
        size_t n = left < sizeof zeros ? (size_t)left : sizeof zeros;
        int e = ext4_store_write(channel->private_data, offset, zeros, n);
        if (e)
            return -e;
        offset += n;
        left -= n;
    }
    return 0;
}

static struct struct_io_manager manager = {
    .magic = EXT2_ET_MAGIC_IO_MANAGER,
    .name = "obd layer store",
    .open = channel_open,
    .close = channel_close,
    .set_blksize = channel_set_block_size,
    .read_blk = channel_read,
    .write_blk = channel_write,
    .flush = channel_flush,
    .write_byte = channel_write_byte,
    .set_option = channel_set_option,
    .read_blk64 = channel_read64,
    .write_blk64 = channel_write64,
    .zeroout = channel_zeroout,
};

// --- making the file system ---

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
    s->s_mkfs_time = s->s_lastcheck = s->s_wtime = FS_TIME;
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
    opening = &image->store;
    errcode_t e = ext2fs_initialize("obd", EXT2_FLAG_64BITS, &parameters, &manager, &image->fs);
    opening = NULL;
    if (e)
        return ext4_fail(image, e, "Cannot lay out an ext4 of %llu bytes", (unsigned long long)size);
    ext2_filsys fs = image->fs;
    io_channel_set_blksize(fs->io, EXT4_BLOCK);
    fs->now = FS_TIME;
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

int ext4_image_create(const char *dir, uint64_t size, struct ext4_image **out)
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
    return format(image, size);
}

// --- opening one ---

// What the code here, libext2fs or neither has to keep up. All else would be left stale.
#define KNOWN_COMPAT                                                                                         \
    (EXT2_FEATURE_COMPAT_EXT_ATTR | EXT2_FEATURE_COMPAT_RESIZE_INODE | EXT2_FEATURE_COMPAT_DIR_INDEX |       \
     EXT4_FEATURE_COMPAT_SPARSE_SUPER2 | EXT3_FEATURE_COMPAT_HAS_JOURNAL)
#define KNOWN_INCOMPAT                                                                                       \
    (EXT2_FEATURE_INCOMPAT_FILETYPE | EXT3_FEATURE_INCOMPAT_EXTENTS | EXT4_FEATURE_INCOMPAT_64BIT |          \
     EXT4_FEATURE_INCOMPAT_FLEX_BG)
#define KNOWN_RO_COMPAT                                                                                      \
    (EXT2_FEATURE_RO_COMPAT_SPARSE_SUPER | EXT2_FEATURE_RO_COMPAT_LARGE_FILE |                               \
     EXT4_FEATURE_RO_COMPAT_GDT_CSUM | EXT4_FEATURE_RO_COMPAT_HUGE_FILE | EXT4_FEATURE_RO_COMPAT_DIR_NLINK | \
     EXT4_FEATURE_RO_COMPAT_EXTRA_ISIZE)
#define NEEDED_INCOMPAT (EXT2_FEATURE_INCOMPAT_FILETYPE | EXT3_FEATURE_INCOMPAT_EXTENTS)

struct feature {
    uint32_t bit;
    const char *name;
};

static const struct feature common_incompat[] = {{EXT3_FEATURE_INCOMPAT_RECOVER, "needs_recovery"},
                                                 {EXT4_FEATURE_INCOMPAT_INLINE_DATA, "inline_data"},
                                                 {EXT4_FEATURE_INCOMPAT_ENCRYPT, "encrypt"},
                                                 {EXT4_FEATURE_INCOMPAT_CSUM_SEED, "metadata_csum_seed"},
                                                 {EXT4_FEATURE_INCOMPAT_CASEFOLD, "casefold"},
                                                 {0, "(incompatible)"}};
static const struct feature common_ro_compat[] = {{EXT4_FEATURE_RO_COMPAT_METADATA_CSUM, "metadata_csum"},
                                                  {EXT4_FEATURE_RO_COMPAT_QUOTA, "quota"},
                                                  {EXT4_FEATURE_RO_COMPAT_BIGALLOC, "bigalloc"},
                                                  {EXT4_FEATURE_RO_COMPAT_VERITY, "verity"},
                                                  {0, "(read-only compatible)"}};
static const struct feature common_compat[] = {{0, "(compatible)"}};

static int refuse_unknown(struct ext4_image *image, uint32_t found, uint32_t known,
                          const struct feature *common)
{
    uint32_t unknown = found & ~known;
    if (!unknown)
        return 0;
    while (common->bit && !(common->bit & unknown))
        common++;
    return ext4_fail(image, EOPNOTSUPP, "The ext4 has features that are not supported here: %s 0x%x",
                     common->name, unknown);
}

static int check_super(struct ext4_image *image)
{
    struct ext2_super_block *s = image->fs->super;
    int e = refuse_unknown(image, s->s_feature_compat, KNOWN_COMPAT, common_compat);
    if (!e)
        e = refuse_unknown(image, s->s_feature_incompat, KNOWN_INCOMPAT, common_incompat);
    if (!e)
        e = refuse_unknown(image, s->s_feature_ro_compat, KNOWN_RO_COMPAT, common_ro_compat);
    if (e)
        return e;
    if ((s->s_feature_incompat & NEEDED_INCOMPAT) != NEEDED_INCOMPAT || image->fs->blocksize != EXT4_BLOCK ||
        EXT2_INODE_SIZE(s) < sizeof(struct ext2_inode_large))
        return ext4_fail(image, EOPNOTSUPP,
                         "The ext4 has blocks of %u and inodes of %u bytes: expected 4096, at least %zu, "
                         "file types and extents",
                         image->fs->blocksize, EXT2_INODE_SIZE(s), sizeof(struct ext2_inode_large));
    if (!(s->s_state & EXT2_VALID_FS) || (s->s_state & EXT2_ERROR_FS) || s->s_last_orphan)
        return ext4_fail(image, EUCLEAN, "The ext4 was not unmounted in order, or has errors: run e2fsck");
    if (ext2fs_blocks_count(s) > image->store.size / EXT4_BLOCK)
        return ext4_fail(image, EUCLEAN, "The ext4 has %llu blocks, the disk only %llu",
                         (unsigned long long)ext2fs_blocks_count(s),
                         (unsigned long long)(image->store.size / EXT4_BLOCK));
    return 0;
}

static int open_existing(struct ext4_image *image)
{
    opening = &image->store;
    errcode_t e = ext2fs_open("obd", EXT2_FLAG_RW | EXT2_FLAG_64BITS, 0, 0, &manager, &image->fs);
    opening = NULL;
    if (e) {
        image->fs = NULL;
        return ext4_fail(image, e == EXT2_ET_BAD_MAGIC || e == EXT2_ET_SHORT_READ ? EUCLEAN : e,
                         "The disk holds no ext4 that can be opened: %s", error_message(e));
    }
    int failed = check_super(image);
    if (failed)
        return failed;
    image->fs->now = FS_TIME;
    image->fs->flags |= EXT2_FLAG_MASTER_SB_ONLY;
    ext4_alloc_install(image);
    ext4_alloc_reset(image);
    e = ext2fs_read_bitmaps(image->fs);
    return e ? ext4_fail(image, e, "Cannot read the bitmaps") : 0;
}

int ext4_image_open(const char *dir, uint64_t size, int source_fd, const uint64_t *runs, size_t count,
                    struct ext4_image **out)
{
    pthread_once(&error_table, initialize_ext2_error_table);
    struct ext4_image *image = *out = calloc(1, sizeof *image);
    if (!image) {
        close(source_fd);
        return -ENOMEM;
    }
    size -= size % EXT4_BLOCK;
    image->store.fd = image->store.undo_fd = image->store.source_fd = -1;
    int e = ext4_store_open(&image->store, dir, size);
    if (e) {
        close(source_fd);
        snprintf(image->error, sizeof image->error, "Cannot make a work file in %.150s: %s", dir,
                 strerror(-e));
        return -EREMOTEIO;
    }
    e = ext4_store_set_source(&image->store, source_fd, runs, count);
    return e ? ext4_fail(image, -e, "Cannot note where the layers below hold data") : open_existing(image);
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
