// What the fuzz engine (main.c) and its targets (targets_*.c) share. One process runs one target on one
// thread.
#pragma once
#include <stddef.h>
#include <stdint.h>

enum { FUZZ_MAX_INPUT = 64 << 10 };

struct fuzz_target {
    const char *name;
    // Writes well-formed input number `n` (0, 1, ...); its length, 0 when there are no more.
    size_t (*seed)(unsigned n, uint8_t *out, size_t capacity);
    // Must survive any input; aborts if a promise of the code under test is broken.
    void (*run)(const uint8_t *data, size_t size);
};

extern const struct fuzz_target ring_target, scsi_target, fuse_target;       // targets_protocol.c
extern const struct fuzz_target codec_target, plan_target, pack_target;      // targets_data.c
extern const struct fuzz_target inflate_target, unzstd_target, merge_target; // targets_data.c
extern const struct fuzz_target ext4_target;                                 // targets_ext4.c

// Ends the process with a sentence if a promise does not hold.
void fuzz_promise(int holds, const char *what);
// A copy of exactly `size` bytes, so that a sanitizer sees every step beyond; the caller frees it.
void *fuzz_copy(const void *data, size_t size);
uint64_t fuzz_number(const uint8_t *data, size_t size, size_t at,
                     size_t bytes); // little-endian; 0 beyond the end
