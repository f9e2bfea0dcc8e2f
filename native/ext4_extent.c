// Extent trees. Files are written once and directories rarely, so a tree is always built whole, bottom up,
// from a list of extents: full nodes, the least depth, nothing to split.
#include "ext4_internal.h"
#include <errno.h>
#include <ext2fs/ext3_extents.h>
#include <stdlib.h>
#include <string.h>

#define ROOT_ENTRIES 4u                         // (60 - 12) / 12 in the inode
#define NODE_ENTRIES ((EXT4_BLOCK - 12u) / 12u) // in a block
#define MAX_LENGTH 32768u                       // blocks of one initialised extent

int ext4_extent_add(struct ext4_image *image, struct extent_list *list, uint64_t logical, uint64_t physical,
                    uint64_t count)
{
    while (count > 0) {
        struct extent *last = list->count ? &list->at[list->count - 1] : NULL;
        uint32_t n;
        if (last && last->logical + last->length == logical && last->physical + last->length == physical &&
            last->length < MAX_LENGTH) {
            n = MAX_LENGTH - last->length;
            n = count < n ? (uint32_t)count : n;
            last->length += n;
        } else {
            if (list->count == list->capacity) {
                size_t capacity = list->capacity ? list->capacity * 2 : 16;
                struct extent *at = realloc(list->at, capacity * sizeof *at);
                if (!at)
                    return ext4_fail(image, ENOMEM, "No memory for %zu extents", capacity);
                list->at = at;
                list->capacity = capacity;
            }
            n = count < MAX_LENGTH ? (uint32_t)count : MAX_LENGTH;
            list->at[list->count++] = (struct extent){(uint32_t)logical, n, physical};
        }
        logical += n;
        physical += n;
        count -= n;
    }
    return 0;
}

void ext4_extent_free(struct extent_list *list)
{
    free(list->at);
    memset(list, 0, sizeof *list);
}

static void put_header(void *node, uint32_t entries, uint32_t max, uint32_t depth)
{
    struct ext3_extent_header *h = node;
    h->eh_magic = ext2fs_cpu_to_le16(EXT3_EXT_MAGIC);
    h->eh_entries = ext2fs_cpu_to_le16((uint16_t)entries);
    h->eh_max = ext2fs_cpu_to_le16((uint16_t)max);
    h->eh_depth = ext2fs_cpu_to_le16((uint16_t)depth);
    h->eh_generation = 0;
}

// Entry i of a node: an extent at depth 0, otherwise a pointer to the node below that begins at its logical
// block.
static void put_entry(void *node, uint32_t i, const struct extent *x, uint32_t depth)
{
    if (depth == 0) {
        struct ext3_extent *e = (struct ext3_extent *)((char *)node + 12) + i;
        e->ee_block = ext2fs_cpu_to_le32(x->logical);
        e->ee_len = ext2fs_cpu_to_le16((uint16_t)x->length);
        e->ee_start = ext2fs_cpu_to_le32((uint32_t)x->physical);
        e->ee_start_hi = ext2fs_cpu_to_le16((uint16_t)(x->physical >> 32));
    } else {
        struct ext3_extent_idx *e = (struct ext3_extent_idx *)((char *)node + 12) + i;
        e->ei_block = ext2fs_cpu_to_le32(x->logical);
        e->ei_leaf = ext2fs_cpu_to_le32((uint32_t)x->physical);
        e->ei_leaf_hi = ext2fs_cpu_to_le16((uint16_t)(x->physical >> 32));
        e->ei_unused = 0;
    }
}

int ext4_extent_build(struct ext4_image *image, struct ext2_inode_large *inode,
                      const struct extent_list *list)
{
    uint64_t blocks = inode->i_file_acl || inode->osd2.linux2.l_i_file_acl_high ? 1 : 0;
    for (size_t i = 0; i < list->count; i++)
        blocks += list->at[i].length;
    const struct extent *level = list->at;
    struct extent *made = NULL;
    size_t count = list->count;
    uint32_t depth = 0;
    int e = 0;
    while (count > ROOT_ENTRIES && !e) {
        size_t nodes = (count + NODE_ENTRIES - 1) / NODE_ENTRIES;
        struct extent *above = malloc(nodes * sizeof *above);
        if (!above) {
            e = ext4_fail(image, ENOMEM, "No memory for an extent tree");
            break;
        }
        for (size_t n = 0; n < nodes && !e; n++) {
            uint8_t node[EXT4_BLOCK] = {0};
            size_t first = n * NODE_ENTRIES;
            uint32_t entries = (uint32_t)(count - first < NODE_ENTRIES ? count - first : NODE_ENTRIES);
            put_header(node, entries, NODE_ENTRIES, depth);
            for (uint32_t i = 0; i < entries; i++)
                put_entry(node, i, &level[first + i], depth);
            above[n] = (struct extent){level[first].logical, 0, 0};
            e = ext4_alloc_meta(image, &above[n].physical);
            if (!e)
                e = ext4_store_put(image, above[n].physical, node, 1);
            blocks++;
        }
        free(made);
        level = made = above;
        count = nodes;
        depth++;
    }
    if (!e) {
        memset(inode->i_block, 0, sizeof inode->i_block);
        put_header(inode->i_block, (uint32_t)count, ROOT_ENTRIES, depth);
        for (uint32_t i = 0; i < count; i++)
            put_entry(inode->i_block, i, &level[i], depth);
        inode->i_flags |= EXT4_EXTENTS_FL;
        ext2fs_iblk_set(image->fs, (struct ext2_inode *)inode, blocks);
    }
    free(made);
    return e;
}

struct load {
    struct ext4_image *image;
    struct extent_list *list;
    int drop_tree, error;
};

static int load_block(ext2_filsys fs, blk64_t *block, e2_blkcnt_t logical, blk64_t ref, int ref_offset,
                      void *context)
{
    (void)ref, (void)ref_offset;
    struct load *load = context;
    if (logical >= 0)
        load->error = ext4_extent_add(load->image, load->list, (uint64_t)logical, *block, 1);
    else if (load->drop_tree)
        ext2fs_block_alloc_stats2(fs, *block, -1);
    return load->error ? BLOCK_ABORT : 0;
}

int ext4_extent_load(struct ext4_image *image, uint32_t inode, struct ext2_inode_large *content,
                     struct extent_list *list, int drop_tree)
{
    if (!ext2fs_inode_has_valid_blocks2(image->fs, (struct ext2_inode *)content))
        return 0;
    struct load load = {image, list, drop_tree, 0};
    errcode_t e = ext2fs_block_iterate3(image->fs, inode, BLOCK_FLAG_READ_ONLY, NULL, load_block, &load);
    if (load.error)
        return load.error;
    return e ? ext4_fail(image, e, "Cannot walk the blocks of inode %u", inode) : 0;
}

// The extents of an inode that has a tree; those that are only reserved are skipped.
static int walk_tree(struct ext4_image *image, uint32_t inode,
                     int (*extent)(void *context, uint64_t offset, uint64_t physical, uint64_t length),
                     void *context)
{
    ext2_extent_handle_t handle;
    struct ext2fs_extent x;
    int result = 0;
    errcode_t e = ext2fs_extent_open(image->fs, inode, &handle);
    if (e)
        return ext4_fail(image, e, "Cannot open the extents of inode %u", inode);
    for (e = ext2fs_extent_get(handle, EXT2_EXTENT_ROOT, &x); !e && !result;
         e = ext2fs_extent_get(handle, EXT2_EXTENT_NEXT, &x)) {
        if ((x.e_flags & (EXT2_EXTENT_FLAGS_LEAF | EXT2_EXTENT_FLAGS_UNINIT)) == EXT2_EXTENT_FLAGS_LEAF)
            result =
                extent(context, x.e_lblk * EXT4_BLOCK, x.e_pblk * EXT4_BLOCK, (uint64_t)x.e_len * EXT4_BLOCK);
    }
    ext2fs_extent_free(handle);
    if (result || e == EXT2_ET_EXTENT_NO_NEXT || e == EXT2_ET_NO_CURRENT_NODE)
        return result;
    return e ? ext4_fail(image, e, "Cannot walk the extents of inode %u", inode) : 0;
}

int ext4_extents(struct ext4_image *image, uint32_t inode,
                 int (*extent)(void *context, uint64_t offset, uint64_t physical, uint64_t length),
                 void *context)
{
    struct ext2_inode_large content;
    struct extent_list list = {0};
    int e = ext4_get_inode(image, inode, &content);
    if (e)
        return e;
    if (content.i_flags & EXT4_EXTENTS_FL)
        return walk_tree(image, inode, extent, context);
    e = ext4_extent_load(image, inode, &content, &list, 0);
    for (size_t i = 0; i < list.count && !e; i++)
        e = extent(context, (uint64_t)list.at[i].logical * EXT4_BLOCK, list.at[i].physical * EXT4_BLOCK,
                   (uint64_t)list.at[i].length * EXT4_BLOCK);
    ext4_extent_free(&list);
    return e;
}
