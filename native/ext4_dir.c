// Directories. libext2fs finds and links names by walking all blocks, which makes a directory of n names cost
// n^2; here a directory that is in use stands in memory with an index by name. Blocks are written through at
// once; the inode (size, blocks, links) when the directory is synced. So a cached directory can be dropped
// after a sync.
#include "ext4_internal.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define CACHE_BYTES                                                                                          \
    (64u << 20) // of content and index; a directory larger than this is still kept while in use
#define GONE UINT32_MAX
#define ENTRY_HEAD 8u
#define LINK_MAX_EXT4 65000u

struct entry { // as on disk
    uint32_t inode;
    uint16_t length;
    uint8_t name_length;
    uint8_t type;
    char name[];
};

struct dir {
    uint32_t inode;
    uint32_t blocks, capacity; // of data, physical and gaps
    uint8_t *data;
    uint64_t *physical;
    uint16_t *gaps;      // largest free space per block
    uint32_t first_room; // no block before it has room for any name
    uint32_t *table;     // open addressing: offset in data, 0 = free (that is "."), GONE = deleted
    uint32_t table_size, table_used, names, subdirs;
    int map_changed, inode_changed;
    struct dir *next_in_bucket, *newer, *older;
};

static const uint8_t type_of_mode[16] = {[S_IFREG >> 12] = EXT2_FT_REG_FILE, [S_IFDIR >> 12] = EXT2_FT_DIR,
                                         [S_IFCHR >> 12] = EXT2_FT_CHRDEV,   [S_IFBLK >> 12] = EXT2_FT_BLKDEV,
                                         [S_IFIFO >> 12] = EXT2_FT_FIFO,     [S_IFSOCK >> 12] = EXT2_FT_SOCK,
                                         [S_IFLNK >> 12] = EXT2_FT_SYMLINK};
static const uint32_t mode_of_type[8] = {0, S_IFREG, S_IFDIR, S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK, S_IFLNK};

static uint32_t needs(size_t name_length)
{
    return (uint32_t)((ENTRY_HEAD + name_length + 3) & ~3u);
}

static struct entry *at(const struct dir *d, uint32_t offset)
{
    return (struct entry *)(d->data + offset);
}

static uint32_t room(const struct entry *e)
{
    return e->inode ? e->length - needs(e->name_length) : e->length;
}

static size_t bytes_of(const struct dir *d)
{
    return sizeof *d + (size_t)d->capacity * (EXT4_BLOCK + 10) + (size_t)d->table_size * 4;
}

static uint32_t hash(const char *name, size_t length)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < length; i++)
        h = (h ^ (uint8_t)name[i]) * 16777619u;
    return h ^ h >> 15;
}

// Slot of a name, or the slot where it would go.
static uint32_t slot_of(const struct dir *d, const char *name, size_t length, int *found)
{
    uint32_t mask = d->table_size - 1, slot = hash(name, length) & mask, free_slot = GONE;
    for (;; slot = (slot + 1) & mask) {
        uint32_t offset = d->table[slot];
        if (offset == 0) {
            *found = 0;
            return free_slot != GONE ? free_slot : slot;
        }
        if (offset == GONE) {
            if (free_slot == GONE)
                free_slot = slot;
            continue;
        }
        const struct entry *e = at(d, offset);
        if (e->name_length == length && memcmp(e->name, name, length) == 0) {
            *found = 1;
            return slot;
        }
    }
}

static int table_add(struct dir *d, uint32_t offset)
{
    if ((d->table_used + 1) * 4 > d->table_size * 3) {
        uint32_t size = 16;
        while (size < (d->names + 1) * 2)
            size *= 2;
        uint32_t *old = d->table, old_size = d->table_size;
        uint32_t *table = calloc(size, sizeof *table);
        if (!table)
            return -ENOMEM;
        d->table = table;
        d->table_size = size;
        d->table_used = d->names;
        for (uint32_t i = 0; i < old_size; i++) {
            int found;
            if (old[i] != 0 && old[i] != GONE)
                d->table[slot_of(d, at(d, old[i])->name, at(d, old[i])->name_length, &found)] = old[i];
        }
        free(old);
    }
    int found;
    uint32_t slot = slot_of(d, at(d, offset)->name, at(d, offset)->name_length, &found);
    if (found)
        return -EEXIST;
    if (d->table[slot] == 0)
        d->table_used++;
    d->table[slot] = offset;
    d->names++;
    return 0;
}

static void measure(struct dir *d, uint32_t block)
{
    uint32_t largest = 0;
    for (uint32_t o = block * EXT4_BLOCK, end = o + EXT4_BLOCK; o < end; o += at(d, o)->length)
        if (room(at(d, o)) > largest)
            largest = room(at(d, o));
    d->gaps[block] = (uint16_t)largest;
    if (largest >= needs(1) && block < d->first_room)
        d->first_room = block;
}

static int grow(struct dir *d, uint32_t blocks)
{
    if (blocks <= d->capacity)
        return 0;
    uint32_t capacity = d->capacity ? d->capacity : 1;
    while (capacity < blocks)
        capacity *= 2;
    if (capacity > UINT32_MAX / EXT4_BLOCK - 1)
        return -EFBIG;
    uint8_t *data = realloc(d->data, (size_t)capacity * EXT4_BLOCK);
    if (data)
        d->data = data;
    uint64_t *physical = realloc(d->physical, (size_t)capacity * sizeof *physical);
    if (physical)
        d->physical = physical;
    uint16_t *gaps = realloc(d->gaps, (size_t)capacity * sizeof *gaps);
    if (gaps)
        d->gaps = gaps;
    if (!data || !physical || !gaps)
        return -ENOMEM;
    d->capacity = capacity;
    return 0;
}

static int write_block(struct ext4_image *image, const struct dir *d, uint32_t block)
{
    return ext4_store_put(image, d->physical[block], d->data + (size_t)block * EXT4_BLOCK, 1);
}

// --- cache ---

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

static void drop(struct ext4_image *image, struct dir *d)
{
    struct dir **p = &image->dirs[d->inode % DIR_BUCKETS];
    while (*p != d)
        p = &(*p)->next_in_bucket;
    *p = d->next_in_bucket;
    unlink_recent(image, d);
    image->dir_bytes -= bytes_of(d);
    free_dir(d);
}

static void keep(struct ext4_image *image, struct dir *d)
{
    d->next_in_bucket = image->dirs[d->inode % DIR_BUCKETS];
    image->dirs[d->inode % DIR_BUCKETS] = d;
    push_recent(image, d);
    image->dir_bytes += bytes_of(d);
}

static int sync_dir(struct ext4_image *image, struct dir *d)
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

// Makes room in the cache; `d`, in use, stays.
static int trim(struct ext4_image *image, const struct dir *d)
{
    while (image->dir_bytes > CACHE_BYTES && image->oldest && image->oldest != d) {
        int e = sync_dir(image, image->oldest);
        if (e)
            return e;
        drop(image, image->oldest);
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
                int error = table_add(d, o);
                if (error)
                    return ext4_fail(image, -error, "Directory %u cannot be indexed at byte %u", d->inode, o);
                d->subdirs += e->type == EXT2_FT_DIR;
            }
            o += e->length;
        }
        measure(d, block);
    }
    return 0;
}

static int get_dir(struct ext4_image *image, uint32_t inode, struct dir **out)
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
        e = blocks > UINT32_MAX / 2 ? -EFBIG : grow(d, (uint32_t)blocks);
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
    keep(image, d);
    *out = d;
    return trim(image, d);
}

int ext4_dir_sync(struct ext4_image *image, uint32_t directory)
{
    struct dir *d = cached(image, directory);
    return d ? sync_dir(image, d) : 0;
}

int ext4_dir_sync_all(struct ext4_image *image)
{
    int e = 0;
    for (struct dir *d = image->oldest; d && !e; d = d->newer)
        e = sync_dir(image, d);
    return e;
}

void ext4_dir_close_all(struct ext4_image *image)
{
    while (image->oldest)
        drop(image, image->oldest);
}

// --- changes ---

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
    int e = grow(d, d->blocks + 1);
    image->dir_bytes += bytes_of(d) - before;
    if (e)
        return ext4_fail(image, -e, "Directory %u cannot grow beyond %u blocks", d->inode, d->blocks);
    e = ext4_alloc_meta(image, &d->physical[d->blocks]);
    if (e)
        return e;
    memset(d->data + (size_t)d->blocks * EXT4_BLOCK, 0, EXT4_BLOCK);
    at(d, d->blocks * EXT4_BLOCK)->length = EXT4_BLOCK;
    d->blocks++;
    measure(d, d->blocks - 1);
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
    keep(image, d);
    int e = add_block(image, d);
    if (!e) {
        put_entry(d, 0, 12, inode, EXT2_FT_DIR, ".", 1);
        put_entry(d, 12, EXT4_BLOCK - 12, parent, EXT2_FT_DIR, "..", 2);
        measure(d, 0);
        e = write_block(image, d, 0);
    }
    if (e)
        drop(image, d);
    return e ? e : trim(image, d);
}

int ext4_dir_add(struct ext4_image *image, uint32_t directory, const char *name, size_t length,
                 uint32_t inode, uint32_t mode)
{
    struct dir *d;
    int e = get_dir(image, directory, &d);
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
    measure(d, block);
    size_t before = bytes_of(d);
    e = table_add(d, o);
    image->dir_bytes += bytes_of(d) - before;
    if (e)
        return ext4_fail(image, -e, "Cannot add a name to directory %u", directory);
    if (type == EXT2_FT_DIR)
        d->subdirs++;
    d->inode_changed = 1;
    e = write_block(image, d, block);
    return e ? e : trim(image, d);
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
    measure(d, block);
    return write_block(image, d, block);
}

int ext4_lookup(struct ext4_image *image, uint32_t directory, const char *name, size_t length,
                uint32_t *inode, uint32_t *type)
{
    struct dir *d;
    int e = get_dir(image, directory, &d);
    if (e)
        return e;
    int found = 0;
    uint32_t slot = d->table_size ? slot_of(d, name, length, &found) : 0;
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
    int e = get_dir(image, directory, &d);
    if (!e)
        *parent = at(d, 12)->inode;
    return e;
}

int ext4_readdir(struct ext4_image *image, uint32_t directory,
                 int (*entry)(void *context, const char *name, size_t length, uint32_t inode, uint32_t type),
                 void *context)
{
    struct dir *d;
    int error = get_dir(image, directory, &d);
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
        e = get_dir(image, inode, &d);
        for (uint32_t o = 12; !e && o < d->blocks * EXT4_BLOCK; o += at(d, o)->length) {
            const struct entry *entry = at(d, o);
            if (o == 12 || !entry->inode)
                continue;
            e = entry->type == EXT2_FT_DIR ? push(image, &list, entry->inode)
                                           : drop_name_of(image, entry->inode);
        }
        if (!e)
            e = sync_dir(image, d); // so that the inode knows all its blocks
        if (!e) {
            drop(image, d);
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
    int found = 0, e = get_dir(image, directory, &d);
    if (e)
        return e;
    uint32_t slot = d->table_size ? slot_of(d, name, length, &found) : 0;
    if (!found)
        return -ENOENT;
    uint32_t inode = at(d, d->table[slot])->inode;
    int is_dir = at(d, d->table[slot])->type == EXT2_FT_DIR;
    e = remove_entry(image, d, slot);
    if (e)
        return e;
    return is_dir ? remove_trees(image, inode) : drop_name_of(image, inode);
}
