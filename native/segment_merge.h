// What a reader of stacked layers sees, as one sorted list of segments. src/lsmt/segment.ts has their layout.
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// 16 bytes, as in memory: 50 bits of start, 14 of length; 44 bits of place in the file, 11 of tag, zeroed.
struct segment {
    uint64_t where, what;
};

// Merges layers given bottom to top, each sorted and disjoint, tags as they are. The result is malloc'ed. Its
// length, or -ENOMEM, -E2BIG if it could exceed `most`, -EINVAL if a layer is out of order. Any thread.
int64_t obd_merge_segments(const struct segment *const *layers, const size_t *counts, size_t layer_count,
                           size_t most, struct segment **out);

#ifdef __cplusplus
}
#endif
