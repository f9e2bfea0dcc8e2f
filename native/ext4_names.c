// Finding, adding and removing names.
#include "ext4_dir.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const uint8_t type_of_mode[16] = {[S_IFREG >> 12] = EXT2_FT_REG_FILE, [S_IFDIR >> 12] = EXT2_FT_DIR,
                                         [S_IFCHR >> 12] = EXT2_FT_CHRDEV,   [S_IFBLK >> 12] = EXT2_FT_BLKDEV,
                                         [S_IFIFO >> 12] = EXT2_FT_FIFO,     [S_IFSOCK >> 12] = EXT2_FT_SOCK,
                                         [S_IFLNK >> 12] = EXT2_FT_SYMLINK};
static const uint32_t mode_of_type[8] = {0, S_IFREG, S_IFDIR, S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK, S_IFLNK};

static void put_entry(struct dir *d, uint32_t offset, uint32_t length, uint32_t inode, uint8_t type,
                      const char *name, size_t name_length)
{
    struct entry *e = at(d, offset);
    e->inode = inode;
    e->length = (uint16_t)length;
    e->name_length = (uint8_t)name_length;
    e->type = type;
    memcpy(e->name, name, name_length);
}

// Appends a block that is one free entry.
static int add_block(struct ext4_image *image, struct dir *d)
{
    size_t before = bytes_of(d);
    int e = ext4_dir_grow(d, d->blocks + 1);
    image->dir_bytes += bytes_of(d) - before;
    if (e)
        return ext4_fail(image, -e, "Directory %u cannot grow beyond %u blocks", d->inode, d->blocks);
    e = ext4_alloc_meta(image, &d->physical[d->blocks]);
    if (e)
        return e;
    memset(d->data + (size_t)d->blocks * EXT4_BLOCK, 0, EXT4_BLOCK);
    at(d, d->blocks * EXT4_BLOCK)->length = EXT4_BLOCK;
    d->blocks++;
    ext4_dir_measure(d, d->blocks - 1);
    d->map_changed = 1;
    return 0;
}

int ext4_dir_create(struct ext4_image *image, uint32_t inode, uint32_t parent)
{
    struct dir *d = calloc(1, sizeof *d);
    if (!d)
        return ext4_fail(image, ENOMEM, "No memory for a directory");
    d->inode = inode;
    d->first_room = UINT32_MAX;
    ext4_dir_keep(image, d);
    int e = add_block(image, d);
    if (!e) {
        put_entry(d, 0, 12, inode, EXT2_FT_DIR, ".", 1);
        put_entry(d, 12, EXT4_BLOCK - 12, parent, EXT2_FT_DIR, "..", 2);
        ext4_dir_measure(d, 0);
        e = ext4_dir_write(image, d, 0);
    }
    if (e)
        ext4_dir_drop(image, d);
    return e ? e : ext4_dir_trim(image, d);
}

int ext4_dir_add(struct ext4_image *image, uint32_t directory, const char *name, size_t length,
                 uint32_t inode, uint32_t mode)
{
    struct dir *d;
    int e = ext4_dir_get(image, directory, &d);
    if (e)
        return e;
    uint32_t need = needs(length), block = d->first_room < d->blocks ? d->first_room : d->blocks;
    while (block < d->blocks && d->gaps[block] < need) {
        if (block == d->first_room && d->gaps[block] < needs(1))
            d->first_room++;
        block++;
    }
    if (block == d->blocks && (e = add_block(image, d)))
        return e;
    uint32_t o = block * EXT4_BLOCK;
    while (room(at(d, o)) < need)
        o += at(d, o)->length;
    struct entry *host = at(d, o);
    uint32_t length_left = host->length;
    if (host->inode) {
        uint32_t used = needs(host->name_length);
        host->length = (uint16_t)used;
        length_left -= used;
        o += used;
    }
    uint8_t type = type_of_mode[mode >> 12 & 15];
    put_entry(d, o, length_left, inode, type, name, length);
    ext4_dir_measure(d, block);
    size_t before = bytes_of(d);
    e = ext4_dir_index(d, o);
    image->dir_bytes += bytes_of(d) - before;
    if (e)
        return ext4_fail(image, -e, "Cannot add a name to directory %u", directory);
    if (type == EXT2_FT_DIR)
        d->subdirs++;
    d->inode_changed = 1;
    e = ext4_dir_write(image, d, block);
    return e ? e : ext4_dir_trim(image, d);
}

static int remove_entry(struct ext4_image *image, struct dir *d, uint32_t slot)
{
    uint32_t offset = d->table[slot], block = offset / EXT4_BLOCK, previous = block * EXT4_BLOCK;
    struct entry *e = at(d, offset);
    d->table[slot] = GONE;
    d->names--;
    d->subdirs -= e->type == EXT2_FT_DIR;
    d->inode_changed = 1;
    uint16_t length = e->length;
    memset(e, 0, needs(e->name_length));
    if (offset == previous) {
        e->length = length;
    } else {
        while (previous + at(d, previous)->length != offset)
            previous += at(d, previous)->length;
        at(d, previous)->length = (uint16_t)(at(d, previous)->length + length);
    }
    ext4_dir_measure(d, block);
    return ext4_dir_write(image, d, block);
}

int ext4_lookup(struct ext4_image *image, uint32_t directory, const char *name, size_t length,
                uint32_t *inode, uint32_t *type)
{
    struct dir *d;
    int e = ext4_dir_get(image, directory, &d);
    if (e)
        return e;
    int found = 0;
    uint32_t slot = d->table_size ? ext4_dir_slot(d, name, length, &found) : 0;
    if (!found)
        return -ENOENT;
    const struct entry *entry = at(d, d->table[slot]);
    *inode = entry->inode;
    *type = mode_of_type[entry->type & 7];
    return 0;
}

int ext4_parent(struct ext4_image *image, uint32_t directory, uint32_t *parent)
{
    struct dir *d;
    int e = ext4_dir_get(image, directory, &d);
    if (!e)
        *parent = at(d, 12)->inode;
    return e;
}

int ext4_readdir(struct ext4_image *image, uint32_t directory,
                 int (*entry)(void *context, const char *name, size_t length, uint32_t inode, uint32_t type),
                 void *context)
{
    struct dir *d;
    int error = ext4_dir_get(image, directory, &d);
    for (uint32_t o = 12; !error && o < d->blocks * EXT4_BLOCK; o += at(d, o)->length) {
        const struct entry *e = at(d, o);
        if (o > 12 && e->inode)
            error = entry(context, e->name, e->name_length, e->inode, mode_of_type[e->type & 7]);
    }
    return error;
}

// --- removal ---

struct inode_list {
    uint32_t *at;
    size_t count, capacity;
};

static int push(struct ext4_image *image, struct inode_list *list, uint32_t inode)
{
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 64;
        uint32_t *at = realloc(list->at, capacity * sizeof *at);
        if (!at)
            return ext4_fail(image, ENOMEM, "No memory to remove a directory");
        list->at = at;
        list->capacity = capacity;
    }
    list->at[list->count++] = inode;
    return 0;
}

static int drop_name_of(struct ext4_image *image, uint32_t inode)
{
    struct ext2_inode_large content;
    int e = ext4_get_inode(image, inode, &content);
    if (e)
        return e;
    if (content.i_links_count > 1) {
        content.i_links_count--;
        return ext4_put_inode(image, inode, &content);
    }
    return ext4_free_inode(image, inode, &content);
}

// Frees directories and all below them. A directory is freed as soon as its children are on the list.
static int remove_trees(struct ext4_image *image, uint32_t root)
{
    struct inode_list list = {0};
    int e = push(image, &list, root);
    while (list.count > 0 && !e) {
        uint32_t inode = list.at[--list.count];
        struct dir *d;
        struct ext2_inode_large content;
        e = ext4_dir_get(image, inode, &d);
        for (uint32_t o = 12; !e && o < d->blocks * EXT4_BLOCK; o += at(d, o)->length) {
            const struct entry *entry = at(d, o);
            if (o == 12 || !entry->inode)
                continue;
            e = entry->type == EXT2_FT_DIR ? push(image, &list, entry->inode)
                                           : drop_name_of(image, entry->inode);
        }
        if (!e)
            e = ext4_dir_sync_one(image, d); // so that the inode knows all its blocks
        if (!e) {
            ext4_dir_drop(image, d);
            e = ext4_get_inode(image, inode, &content);
        }
        if (!e)
            e = ext4_free_inode(image, inode, &content);
    }
    free(list.at);
    return e;
}

int ext4_remove(struct ext4_image *image, uint32_t directory, const char *name, size_t length)
{
    struct dir *d;
    int found = 0, e = ext4_dir_get(image, directory, &d);
    if (e)
        return e;
    uint32_t slot = d->table_size ? ext4_dir_slot(d, name, length, &found) : 0;
    if (!found)
        return -ENOENT;
    uint32_t inode = at(d, d->table[slot])->inode;
    int is_dir = at(d, d->table[slot])->type == EXT2_FT_DIR;
    e = remove_entry(image, d, slot);
    if (e)
        return e;
    return is_dir ? remove_trees(image, inode) : drop_name_of(image, inode);
}
