// The memory that the kernel's TCMU shares with its handler: a mailbox, a ring of entries, a data area.
// Layout: linux/target_core_user.h (specification section A.4). Pure C over memory; the one thread that owns
// it.
//
// The other side may write at any moment, so every shared field is read once, then checked; entries are
// copied before they are used. Anything out of bounds is -EPROTO, and the ring must not be used again.
//
//   mailbox | ... cmdr_off: ring of entries, cmdr_size bytes | data area ...
//             mb.cmd_tail = done           next             mb.cmd_head
//             |-- handed out, unanswered --|-- not looked at --|
//
// Completions come in any order: each answer overwrites the oldest slot and names its command by id.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

struct tcmu_ring {
    unsigned char *map; // the caller's
    size_t map_size;
    uint32_t ring_offset, ring_size;
    uint32_t done, next; // offsets in the ring
};

enum { TCMU_CDB_LENGTH = 16, TCMU_SENSE_LENGTH = 96, TCMU_INLINE_IOVS = 16, TCMU_MAX_IOVS = 65536 };

// A command, copied out. Zero it before first use; iov_free when done with it. iov points into the mapping's
// data.
struct tcmu_request {
    uint16_t id;
    uint8_t cdb[TCMU_CDB_LENGTH]; // what lies beyond the mapping is zero
    struct iovec *iov;            // inline_iov or malloc'ed
    uint32_t iov_count, iov_room;
    uint64_t length; // of all iovecs
    struct iovec inline_iov[TCMU_INLINE_IOVS];
};

// 0, or -EPROTO: not a mailbox of version 2, or one that does not fit its mapping.
int tcmu_ring_init(struct tcmu_ring *ring, void *map, size_t map_size);
// Takes the next command: 1; 0 when there is none; -EPROTO; -ENOMEM. Entries that are no commands are passed
// over.
int tcmu_ring_next(struct tcmu_ring *ring, struct tcmu_request *request);
// True if there is an entry that was not looked at.
int tcmu_ring_waits(const struct tcmu_ring *ring);
// Answers a command. sense: TCMU_SENSE_LENGTH bytes, or NULL unless the status is CHECK CONDITION. 0 or
// -EPROTO.
int tcmu_ring_complete(struct tcmu_ring *ring, uint16_t id, uint8_t scsi_status, const uint8_t *sense);
void tcmu_request_free(struct tcmu_request *request);

#ifdef __cplusplus
}
#endif
