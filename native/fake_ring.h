// A kernel's side of a TCMU ring, in this process: for tests and benchmarks of the whole data path below SCSI
// without the kernel. It fills a real mailbox, ring and data area as target_core_user does, wakes the handler
// through a socket that stands for the UIO descriptor, checks every answer, and measures.
#pragma once
#include "io_queue.h"
#include "load_meter.h"
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct fake_ring_options {
    uint32_t ring_size;   // bytes, a multiple of 64
    uint32_t data_blocks; // of 4 KiB
    uint64_t device_size; // bytes
    int read_only;
    int verify_fd; // a file equal to the device; reads are compared with it, writes go to both. -1: no check
};

struct fake_ring_load {
    uint32_t depth;      // commands in flight
    uint32_t length;     // bytes of each, a multiple of 512
    uint64_t operations; // stop after so many, if not 0,
    double seconds;      // and after so long, if not 0
    uint32_t writes;     // percent; needs twice as many places as the depth
    int sequential;
    uint64_t window;       // see load_places
    const double *targets; // see load_places; NULL: the whole device
    uint64_t target_count;
    int scatter; // break the memory into single blocks, in disorder
    uint64_t seed;
};

struct fake_ring_result {
    uint64_t operations;
    uint64_t failed;     // not GOOD
    uint64_t wrong;      // wrong bytes
    uint64_t violations; // an answer to no command: the handler has a bug
    struct load_times times;
    int error; // 0; -ETIMEDOUT: no answer for ten seconds
};

// Ways to break the protocol.
enum fake_ring_attack {
    ATTACK_HEAD = 1, // head outside the ring
    ATTACK_LENGTH_ZERO,
    ATTACK_LENGTH_HUGE,
    ATTACK_IOV_OUTSIDE,
    ATTACK_IOV_IN_RING,
    ATTACK_IOV_COUNT,
    ATTACK_CDB_OUTSIDE,
    ATTACK_GARBAGE, // random bytes in ring and mailbox, again and again
};

struct fake_ring;

// Makes the ring and the queue that serves it. The queue is the caller's to give to a loop. 0 or -errno.
int fake_ring_create(const struct fake_ring_options *options, struct fake_ring **out,
                     struct io_queue **queue);
// Runs a load to its end. Any thread, one at a time.
void fake_ring_run(struct fake_ring *ring, const struct fake_ring_load *load,
                   struct fake_ring_result *result);
// Does harm once (ATTACK_GARBAGE: for a while) and wakes the handler.
void fake_ring_attack(struct fake_ring *ring, enum fake_ring_attack attack, uint64_t seed);
// Submits one CDB with one buffer of `length` bytes (at most 64 KiB), which holds what goes and what came
// back. The SCSI status (sense: 18 bytes), or -errno.
int fake_ring_command(struct fake_ring *ring, const uint8_t *cdb, void *data, uint32_t length,
                      uint8_t *sense);
void fake_ring_destroy(struct fake_ring *ring); // the queue lives on by itself

#ifdef __cplusplus
}
#endif
