#include "tcmu_ring.h"
#include "tcmu_uapi.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(offsetof(struct tcmu_mailbox, cmdr_off) == 4 &&
                   offsetof(struct tcmu_mailbox, cmd_head) == 12 &&
                   offsetof(struct tcmu_mailbox, cmd_tail) == 64,
               "mailbox");
_Static_assert(offsetof(struct tcmu_cmd_entry, rsp.sense_buffer) == 16, "entry");
_Static_assert(TCMU_SENSE_LENGTH == TCMU_SENSE_BUFFERSIZE, "sense");
_Static_assert(sizeof(struct linux_iovec) == 16, "64-bit kernel ABI");

// The header is the law. (Its inner structs are not packed: the CDB's offset is at 24, not at 20.)
enum {
    ID_OFFSET = 4,
    UFLAGS_OFFSET = 7,
    IOV_COUNT_OFFSET = offsetof(struct tcmu_cmd_entry, req.iov_cnt),
    CDB_OFFSET = offsetof(struct tcmu_cmd_entry, req.cdb_off),
    IOV_OFFSET = offsetof(struct tcmu_cmd_entry, req.iov),
    IOV_SIZE = sizeof(struct linux_iovec),
    STATUS_OFFSET = offsetof(struct tcmu_cmd_entry, rsp.scsi_status),
    SENSE_OFFSET = offsetof(struct tcmu_cmd_entry, rsp.sense_buffer),
    RESPONSE_SIZE = SENSE_OFFSET + TCMU_SENSE_LENGTH,
};
_Static_assert(ID_OFFSET == offsetof(struct tcmu_cmd_entry_hdr, cmd_id) &&
                   UFLAGS_OFFSET == offsetof(struct tcmu_cmd_entry_hdr, uflags),
               "header");

static uint32_t load32(const void *p)
{
    return __atomic_load_n((const uint32_t *)p, __ATOMIC_RELAXED);
}

// Entries are aligned to 8 bytes, their 64-bit fields to 4.
static uint64_t load64(const unsigned char *p)
{
    uint32_t low = load32(p), high = load32(p + 4); // little-endian, as every host we build for
    return (uint64_t)high << 32 | low;
}

static struct tcmu_mailbox *mailbox(struct tcmu_ring *ring)
{
    return (struct tcmu_mailbox *)ring->map;
}

int tcmu_ring_init(struct tcmu_ring *ring, void *map, size_t map_size)
{
    memset(ring, 0, sizeof *ring);
    ring->map = map;
    ring->map_size = map_size;
    if (map_size < sizeof(struct tcmu_mailbox))
        return -EPROTO;
    const struct tcmu_mailbox *mb = map;
    if (__atomic_load_n(&mb->version, __ATOMIC_RELAXED) != 2)
        return -EPROTO;
    ring->ring_offset = load32(&mb->cmdr_off);
    ring->ring_size = load32(&mb->cmdr_size);
    ring->done = ring->next = load32(&mb->cmd_tail);
    if (ring->ring_offset < sizeof(struct tcmu_mailbox) || ring->ring_offset % 8 || ring->ring_size % 8 ||
        ring->ring_size == 0 || ring->ring_offset > map_size ||
        ring->ring_size > map_size - ring->ring_offset || ring->done >= ring->ring_size || ring->done % 8)
        return -EPROTO;
    return 0;
}

// The entry at an offset of the ring, of which `available` bytes are ours to look at (up to the head, or up
// to what was read). Its length and op, or -EPROTO.
static int entry_at(struct tcmu_ring *ring, uint32_t at, uint32_t available, uint32_t *length, uint32_t *op)
{
    uint32_t len_op = load32(ring->map + ring->ring_offset + at);
    *length = len_op & ~7u;
    *op = len_op & 7u;
    if (*length < 8 || *length > ring->ring_size - at || *length > available)
        return -EPROTO;
    if (*op == TCMU_OP_CMD && *length < RESPONSE_SIZE)
        return -EPROTO;
    return 0;
}

static uint32_t distance(const struct tcmu_ring *ring, uint32_t from, uint32_t to)
{
    return to >= from ? to - from : to + ring->ring_size - from;
}

static int copy_request(struct tcmu_ring *ring, const unsigned char *entry, uint32_t length,
                        struct tcmu_request *r)
{
    uint32_t count = load32(entry + IOV_COUNT_OFFSET);
    uint64_t cdb = load64(entry + CDB_OFFSET);
    if (count > (length - IOV_OFFSET) / IOV_SIZE || count > TCMU_MAX_IOVS || cdb >= ring->map_size)
        return -EPROTO;
    r->id = __atomic_load_n((const uint16_t *)(entry + ID_OFFSET), __ATOMIC_RELAXED);
    size_t room = ring->map_size - cdb;
    memset(r->cdb, 0, sizeof r->cdb);
    memcpy(r->cdb, ring->map + cdb, room < sizeof r->cdb ? room : sizeof r->cdb);
    if (count > TCMU_INLINE_IOVS && count > r->iov_room) {
        struct iovec *grown = malloc(count * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        tcmu_request_free(r);
        r->iov = grown;
        r->iov_room = count;
    } else if (r->iov_room == 0) {
        r->iov = r->inline_iov;
    }
    r->iov_count = count;
    r->length = 0;
    const uint64_t data = (uint64_t)ring->ring_offset + ring->ring_size;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t base = load64(entry + IOV_OFFSET + i * IOV_SIZE);
        uint64_t size = load64(entry + IOV_OFFSET + i * IOV_SIZE + 8);
        if (base < data || base > ring->map_size || size > ring->map_size - base)
            return -EPROTO;
        r->iov[i].iov_base = ring->map + base;
        r->iov[i].iov_len = size;
        r->length += size; // at most TCMU_MAX_IOVS mappings: no overflow
    }
    return 0;
}

int tcmu_ring_waits(const struct tcmu_ring *ring)
{
    return load32(&((const struct tcmu_mailbox *)ring->map)->cmd_head) != ring->next;
}

int tcmu_ring_next(struct tcmu_ring *ring, struct tcmu_request *request)
{
    for (;;) {
        uint32_t head = __atomic_load_n(&mailbox(ring)->cmd_head, __ATOMIC_ACQUIRE);
        if (head == ring->next)
            return 0;
        if (head >= ring->ring_size)
            return -EPROTO;
        uint32_t length, op;
        unsigned char *entry = ring->map + ring->ring_offset + ring->next;
        int r = entry_at(ring, ring->next, distance(ring, ring->next, head), &length, &op);
        if (r < 0)
            return r;
        if (op == TCMU_OP_CMD) {
            r = copy_request(ring, entry, length, request);
            if (r < 0)
                return r;
        } else if (op != TCMU_OP_PAD && op != TCMU_OP_TMR) {
            entry[UFLAGS_OFFSET] |= TCMU_UFLAG_UNKNOWN_OP;
        }
        ring->next = (ring->next + length) % ring->ring_size;
        if (op == TCMU_OP_CMD)
            return 1;
    }
}

int tcmu_ring_complete(struct tcmu_ring *ring, uint16_t id, uint8_t scsi_status, const uint8_t *sense)
{
    uint32_t length, op;
    unsigned char *entry;
    for (;;) {
        if (ring->done == ring->next)
            return -EPROTO; // more answers than commands
        entry = ring->map + ring->ring_offset + ring->done;
        int r = entry_at(ring, ring->done, distance(ring, ring->done, ring->next), &length, &op);
        if (r < 0)
            return r;
        if (op == TCMU_OP_CMD)
            break;
        ring->done = (ring->done + length) % ring->ring_size;
    }
    memcpy(entry + ID_OFFSET, &id, sizeof id);
    entry[UFLAGS_OFFSET] = 0;
    memset(entry + STATUS_OFFSET, 0, SENSE_OFFSET - STATUS_OFFSET);
    entry[STATUS_OFFSET] = scsi_status;
    if (sense)
        memcpy(entry + SENSE_OFFSET, sense, TCMU_SENSE_LENGTH);
    ring->done = (ring->done + length) % ring->ring_size;
    __atomic_store_n(&mailbox(ring)->cmd_tail, ring->done, __ATOMIC_RELEASE);
    return 0;
}

void tcmu_request_free(struct tcmu_request *request)
{
    if (request->iov_room > 0)
        free(request->iov);
    request->iov = NULL;
    request->iov_room = request->iov_count = 0;
}
