// Names and gaps of one directory in memory.
#include "ext4_dir.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint32_t hash(const char *name, size_t length)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < length; i++)
        h = (h ^ (uint8_t)name[i]) * 16777619u;
    return h ^ h >> 15;
}

uint32_t ext4_dir_slot(const struct dir *d, const char *name, size_t length, int *found)
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

int ext4_dir_index(struct dir *d, uint32_t offset)
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
                d->table[ext4_dir_slot(d, at(d, old[i])->name, at(d, old[i])->name_length, &found)] = old[i];
        }
        free(old);
    }
    int found;
    uint32_t slot = ext4_dir_slot(d, at(d, offset)->name, at(d, offset)->name_length, &found);
    if (found)
        return -EEXIST;
    if (d->table[slot] == 0)
        d->table_used++;
    d->table[slot] = offset;
    d->names++;
    return 0;
}

void ext4_dir_measure(struct dir *d, uint32_t block)
{
    uint32_t largest = 0;
    for (uint32_t o = block * EXT4_BLOCK, end = o + EXT4_BLOCK; o < end; o += at(d, o)->length)
        if (room(at(d, o)) > largest)
            largest = room(at(d, o));
    d->gaps[block] = (uint16_t)largest;
    if (largest >= needs(1) && block < d->first_room)
        d->first_room = block;
}

int ext4_dir_grow(struct dir *d, uint32_t blocks)
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
