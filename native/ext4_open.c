// Opening a file system that exists: only what the code here and libext2fs keep up.
#include "ext4_internal.h"
#include <errno.h>
#include <string.h>
#include <unistd.h>

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
// A bitmap is one block.
#define MAX_PER_GROUP (8 * EXT4_BLOCK)
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
    // libext2fs accepts up to twice as many, and then reads bitmaps beyond a buffer of one block.
    if (s->s_blocks_per_group > MAX_PER_GROUP || s->s_inodes_per_group > MAX_PER_GROUP ||
        s->s_blocks_per_group % 8 || s->s_inodes_per_group % 8)
        return ext4_fail(image, EUCLEAN,
                         "The ext4 has groups of %u blocks and %u inodes: expected multiples of 8 up to %u",
                         s->s_blocks_per_group, s->s_inodes_per_group, MAX_PER_GROUP);
    // Block 0 is the first wherever blocks are larger than 1 KiB; libext2fs takes another, and then writes
    // beyond the end of its block bitmap.
    if (s->s_first_data_block != 0)
        return ext4_fail(image, EUCLEAN, "The ext4 begins at block %u, expected 0", s->s_first_data_block);
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
    errcode_t e = ext2fs_open("obd", EXT2_FLAG_RW | EXT2_FLAG_64BITS, 0, 0,
                              ext4_channel_manager(&image->store), &image->fs);
    if (e) {
        image->fs = NULL;
        return ext4_fail(image, e == EXT2_ET_BAD_MAGIC || e == EXT2_ET_SHORT_READ ? EUCLEAN : e,
                         "The disk holds no ext4 that can be opened: %s", error_message(e));
    }
    int failed = check_super(image);
    if (failed)
        return failed;
    image->fs->now = EXT4_FS_TIME;
    image->fs->flags |= EXT2_FLAG_MASTER_SB_ONLY;
    ext4_alloc_install(image);
    ext4_alloc_reset(image);
    e = ext2fs_read_bitmaps(image->fs);
    return e ? ext4_fail(image, e, "Cannot read the bitmaps") : 0;
}

int ext4_image_open(const char *dir, uint64_t size, int source_fd, const uint64_t *runs, size_t count,
                    struct ext4_image **out)
{
    int e = ext4_image_start(dir, size - size % EXT4_BLOCK, out);
    if (e) {
        close(source_fd);
        return e;
    }
    struct ext4_image *image = *out;
    e = ext4_store_set_source(&image->store, source_fd, runs, count);
    return e ? ext4_fail(image, -e, "Cannot note where the layers below hold data") : open_existing(image);
}
