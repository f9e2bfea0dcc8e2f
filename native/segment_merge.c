// Two lists merge in one pass: everything of the upper, and of the lower what shows through its holes. Each
// piece of a lower segment is one maximal run that is not covered, in whatever order lists are merged, so
// many layers merge as a balanced tree of such passes, and the result is that of merging them one by one.
#include "segment_merge.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define START_MASK ((1ull << 50) - 1)
#define LENGTH_SHIFT 50
#define ZEROED (1ull << 55)

struct list {
    struct segment *at;
    size_t count;
    int owned; // at is ours to free
};

static uint64_t start_of(const struct segment *s)
{
    return s->where & START_MASK;
}

static uint64_t end_of(const struct segment *s)
{
    return start_of(s) + (s->where >> LENGTH_SHIFT);
}

// The part [from, to) of a segment.
static struct segment part_of(const struct segment *s, uint64_t from, uint64_t to)
{
    uint64_t cut = from - start_of(s);
    return (struct segment){from | (to - from) << LENGTH_SHIFT, s->what & ZEROED ? s->what : s->what + cut};
}

// The result's length, or -EINVAL. out has room for twice the upper's segments and the lower's: each of the
// upper cuts at most one of the lower in two.
static int64_t merge_two(const struct list *upper, const struct list *lower, struct segment *out)
{
    const struct segment *l = lower->at, *l_end = l + lower->count;
    const struct segment *const room = out + 2 * upper->count + lower->count;
    struct segment *o = out;
    uint64_t done = 0; // what of the lower is before this is dealt with
    uint64_t last = 0; // end of the upper's last, to see that it is in order
    for (size_t i = 0; i < upper->count; i++) {
        const struct segment *u = &upper->at[i];
        const uint64_t start = start_of(u), end = end_of(u);
        if (start < last || end == start)
            return -EINVAL;
        last = end;
        while (l < l_end) {
            uint64_t from = start_of(l) > done ? start_of(l) : done, to = end_of(l);
            if (from >= start)
                break;
            if (to > from) {
                if (o == room)
                    return -EINVAL;
                *o++ = part_of(l, from, to < start ? to : start);
            }
            if (to > start)
                break;
            l++;
        }
        if (o == room)
            return -EINVAL;
        *o++ = *u;
        done = end;
        while (l < l_end && end_of(l) <= end)
            l++;
    }
    for (; l < l_end; l++) {
        uint64_t from = start_of(l) > done ? start_of(l) : done;
        if (end_of(l) <= from)
            return -EINVAL;
        if (o == room)
            return -EINVAL;
        *o++ = part_of(l, from, end_of(l));
    }
    return o - out;
}

static void drop(struct list *list)
{
    if (list->owned)
        free(list->at);
}

// 0 or -errno.
static int merge(const struct segment *const *layers, const size_t *counts, size_t layer_count, size_t most,
                 struct list *out)
{
    if (layer_count == 1) {
        *out = (struct list){(struct segment *)layers[0], counts[0], 0};
        return 0;
    }
    size_t middle = layer_count / 2;
    struct list lower, upper;
    int r = merge(layers, counts, middle, most, &lower);
    if (r < 0)
        return r;
    r = merge(layers + middle, counts + middle, layer_count - middle, most, &upper);
    if (r < 0) {
        drop(&lower);
        return r;
    }
    if (upper.count == 0 || lower.count == 0) {
        struct list *empty = upper.count == 0 ? &upper : &lower;
        *out = upper.count == 0 ? lower : upper;
        drop(empty);
        return 0;
    }
    size_t room = 2 * upper.count + lower.count;
    struct segment *merged = room > most ? NULL : malloc(room * sizeof *merged);
    int64_t n = merged ? merge_two(&upper, &lower, merged) : room > most ? -E2BIG : -ENOMEM;
    drop(&upper);
    drop(&lower);
    if (n < 0) {
        free(merged);
        return (int)n;
    }
    *out = (struct list){merged, (size_t)n, 1};
    return 0;
}

int64_t obd_merge_segments(const struct segment *const *layers, const size_t *counts, size_t layer_count,
                           size_t most, struct segment **out)
{
    struct list result = {NULL, 0, 0};
    int r = layer_count > 0 ? merge(layers, counts, layer_count, most, &result) : 0;
    if (r < 0)
        return r;
    if (!result.owned) {
        struct segment *copy = malloc(result.count * sizeof *copy + 1);
        if (!copy)
            return -ENOMEM;
        if (result.count > 0)
            memcpy(copy, result.at, result.count * sizeof *copy);
        result.at = copy;
    }
    *out = result.at;
    return (int64_t)result.count;
}
