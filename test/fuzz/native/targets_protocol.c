// What the other side of a ring or connection may say: TCMU's shared memory, SCSI commands, FUSE requests.
#include "fuse_handler.h"
#include "fuse_protocol.h"
#include "fuzz.h"
#include "scsi.h"
#include "tcmu_ring.h"
#include "tcmu_uapi.h"
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { RING_OFFSET = 128, RING_SIZE = 2048, RING_MAP = 8192, ENTRY = 128, DEVICE_BLOCKS = 1 << 20 };

static void check_result(const struct scsi_device *d, const struct scsi_result *r, uint64_t capacity)
{
    if (r->op == IO_READ || r->op == IO_WRITE || r->op == IO_DISCARD) {
        fuzz_promise(r->offset <= d->blocks * SCSI_BLOCK && r->length <= d->blocks * SCSI_BLOCK - r->offset,
                     "a command stays on the device");
        fuzz_promise(r->length > 0, "a command has a length");
        fuzz_promise(r->op == IO_DISCARD || r->length <= capacity, "data fits what the initiator gave");
        fuzz_promise(!(d->read_only && r->op != IO_READ), "a read-only device is not written");
    } else
        fuzz_promise(r->op == 0 || r->op == IO_FLUSH, "an operation that exists");
    fuzz_promise(r->data_length <= SCSI_ANSWER_MAX, "an answer fits");
}

static const uint8_t cdbs[][16] = {{0x00},
                                   {0x03, 0, 0, 0, 18},
                                   {0x12, 0, 0, 0, 96},
                                   {0x12, 1, 0, 0, 255},
                                   {0x12, 1, 0x80, 0, 255},
                                   {0x12, 1, 0x83, 0, 255},
                                   {0x12, 1, 0xb0, 0, 64},
                                   {0x12, 1, 0xb2, 0, 64},
                                   {0x25},
                                   {0x9e, 0x10, [13] = 32},
                                   {0x1a, 0, 0x3f, 0, 255},
                                   {0x5a, 0, 0x3f, 0, 0, 0, 0, 1, 0},
                                   {0x15, 0x10, 0, 0, 24},
                                   {0x55, 0x10, 0, 0, 0, 0, 0, 0, 24},
                                   {0x28, 0, 0, 0, 0, 8, 0, 0, 1},
                                   {0x2a, 0, 0, 0, 0, 8, 0, 0, 1},
                                   {0x88, [9] = 8, [13] = 1},
                                   {0x8a, [9] = 8, [13] = 1},
                                   {0x08, 0, 0, 8, 1},
                                   {0xa8, 0, 0, 0, 0, 8, 0, 0, 0, 1},
                                   {0x35},
                                   {0x91},
                                   {0x42, 0, 0, 0, 0, 0, 0, 0, 24},
                                   {0x41, 8, 0, 0, 0, 8, 0, 0, 1},
                                   {0x93, 8, [9] = 8, [13] = 1},
                                   {0xa0, [9] = 16},
                                   {0xa3, 0x0c, [9] = 16}};
enum { CDBS = sizeof cdbs / sizeof cdbs[0] };

// ---- ring: the input is the start of the shared memory; after each command taken, an answer is given.

static void put32le(uint8_t *p, uint32_t v)
{
    memcpy(p, &v, sizeof v);
}

static size_t ring_seed(unsigned n, uint8_t *out, size_t capacity)
{
    if (n >= CDBS)
        return 0;
    memset(out, 0, RING_MAP);
    out[0] = 2;
    put32le(out + 4, RING_OFFSET);
    put32le(out + 8, RING_SIZE);
    const uint32_t entries = 1 + n % 6, tail = n % 3 ? 0 : RING_SIZE - 2 * ENTRY;
    put32le(out + 12, (tail + entries * ENTRY) % RING_SIZE);
    put32le(out + 64, tail);
    for (uint32_t i = 0; i < entries; i++) {
        uint8_t *e = out + RING_OFFSET + (tail + i * ENTRY) % RING_SIZE;
        const size_t iovs = offsetof(struct tcmu_cmd_entry, req.iov);
        put32le(e, ENTRY | (i == 2 ? TCMU_OP_PAD : TCMU_OP_CMD));
        e[4] = (uint8_t)i;
        put32le(e + offsetof(struct tcmu_cmd_entry, req.iov_cnt), 1 + i % 3);
        put32le(e + offsetof(struct tcmu_cmd_entry, req.cdb_off), 3072 + 16 * i);
        for (size_t v = 0; v < 1 + i % 3; v++) {
            put32le(e + iovs + 16 * v, 4096 + 512 * (uint32_t)v);
            put32le(e + iovs + 16 * v + 8, 512);
        }
        memcpy(out + 3072 + 16 * i, cdbs[(n + i) % CDBS], 16);
    }
    return RING_MAP;
}

static void ring_run(const uint8_t *data, size_t size)
{
    // Pages, as the kernel's mapping; at its end AddressSanitizer watches.
    unsigned char *map = aligned_alloc(4096, RING_MAP);
    memset(map, 0, RING_MAP);
    memcpy(map, data, size < RING_MAP ? size : RING_MAP);
    struct tcmu_ring ring;
    struct tcmu_request request = {0};
    const struct scsi_device device = {DEVICE_BLOCKS, size & 1, "overlaybd/fuzz", "serial"};
    struct scsi_result *result = malloc(sizeof *result);
    if (tcmu_ring_init(&ring, map, RING_MAP) == 0) {
        for (int i = 0; i < 64 && tcmu_ring_next(&ring, &request) == 1; i++) {
            uint64_t sum = 0;
            for (uint32_t v = 0; v < request.iov_count; v++) {
                const unsigned char *base = request.iov[v].iov_base;
                fuzz_promise(base >= map && request.iov[v].iov_len <= (size_t)(map + RING_MAP - base),
                             "an iovec stays inside the mapping");
                sum += request.iov[v].iov_len;
            }
            fuzz_promise(sum == request.length, "a request's length is that of its iovecs");
            size_t given = request.iov_count > 0 ? request.iov[0].iov_len : 0;
            uint8_t *sent = fuzz_copy(given ? request.iov[0].iov_base : map, given);
            scsi_decode(&device, request.cdb, sent, given, request.length, result);
            check_result(&device, result, request.length);
            free(sent);
            uint8_t sense[TCMU_SENSE_LENGTH] = {0};
            if (i % 4 != 3 &&
                tcmu_ring_complete(&ring, request.id, scsi_status(result->op, -(i % 40), sense), sense))
                break;
        }
        fuzz_promise(ring.next < ring.ring_size && ring.done < ring.ring_size,
                     "the ring's places are in the ring");
    }
    tcmu_request_free(&request);
    free(result);
    free(map);
}

const struct fuzz_target ring_target = {"ring", ring_seed, ring_run};

// ---- scsi: 8 bytes of blocks, 1 of read-only, 4 of capacity, 16 of CDB, the rest is sent data.

static size_t scsi_seed(unsigned n, uint8_t *out, size_t capacity)
{
    if (n >= 2 * CDBS)
        return 0;
    memset(out, 0, 13 + 16 + 40);
    put32le(out, DEVICE_BLOCKS);
    out[8] = n >= CDBS;
    put32le(out + 9, 4096);
    memcpy(out + 13, cdbs[n % CDBS], 16);
    out[29 + 1] = out[29 + 3] = 16; // lengths of UNMAP's list
    out[29 + 1] = 22;
    out[29 + 15] = 8;
    out[29 + 19] = 1;
    return 13 + 16 + 40;
}

static void scsi_run(const uint8_t *data, size_t size)
{
    if (size < 29)
        return;
    const uint64_t blocks = fuzz_number(data, size, 0, 8) % (1ull << 44);
    struct scsi_device device = {blocks ? blocks : 1, data[8] & 1, "overlaybd/fuzz",
                                 data[8] & 2 ? NULL : "serial"};
    const uint64_t capacity = fuzz_number(data, size, 9, 4);
    uint8_t *cdb = fuzz_copy(data + 13, SCSI_CDB_MAX), *sent = fuzz_copy(data + 29, size - 29);
    struct scsi_result *result = malloc(sizeof *result);
    const int wants = scsi_wants_data(cdb);
    scsi_decode(&device, cdb, wants ? sent : NULL, wants ? size - 29 : 0, capacity, result);
    check_result(&device, result, capacity);
    free(result);
    free(cdb);
    free(sent);
}

const struct fuzz_target scsi_target = {"scsi", scsi_seed, scsi_run};

// ---- fuse: requests, each behind two bytes of its length; the handler sees them as the kernel's.

static const struct {
    uint32_t opcode;
    uint64_t node;
    size_t arguments;
} requests[] = {{FUSE_INIT, 0, sizeof(struct fuse_init_in)},
                {FUSE_LOOKUP, 1, 8},
                {FUSE_GETATTR, 2, sizeof(struct fuse_getattr_in)},
                {FUSE_OPEN, 2, sizeof(struct fuse_open_in)},
                {FUSE_OPENDIR, 1, sizeof(struct fuse_open_in)},
                {FUSE_READDIR, 1, sizeof(struct fuse_read_in)},
                {FUSE_READ, 2, sizeof(struct fuse_read_in)},
                {FUSE_WRITE, 2, sizeof(struct fuse_write_in) + 512},
                {FUSE_FALLOCATE, 2, sizeof(struct fuse_fallocate_in)},
                {FUSE_FSYNC, 2, sizeof(struct fuse_fsync_in)},
                {FUSE_STATFS, 1, 0},
                {FUSE_FORGET, 2, sizeof(struct fuse_forget_in)},
                {FUSE_INTERRUPT, 0, sizeof(struct fuse_interrupt_in)}};
enum { REQUESTS = sizeof requests / sizeof requests[0], FUSE_REQUEST_ROOM = 8192 };

static size_t add_request(uint8_t *out, unsigned n)
{
    const size_t size = sizeof(struct fuse_in_header) + requests[n].arguments;
    struct fuse_in_header h = {
        .len = (uint32_t)size, .opcode = requests[n].opcode, .unique = n + 2, .nodeid = requests[n].node};
    uint8_t arguments[1024] = {0};
    if (h.opcode == FUSE_INIT) {
        struct fuse_init_in in = {.major = 7, .minor = 38, .flags = UINT32_MAX};
        memcpy(arguments, &in, sizeof in);
    } else if (h.opcode == FUSE_LOOKUP) {
        memcpy(arguments, "vda1234", 8);
    } else if (h.opcode == FUSE_READ || h.opcode == FUSE_READDIR) {
        struct fuse_read_in in = {.offset = h.opcode == FUSE_READ ? 4096 : 0, .size = 4096};
        memcpy(arguments, &in, sizeof in);
    } else if (h.opcode == FUSE_WRITE) {
        struct fuse_write_in in = {.offset = 4096, .size = 512};
        memcpy(arguments, &in, sizeof in);
    } else if (h.opcode == FUSE_FALLOCATE) {
        struct fuse_fallocate_in in = {.offset = 4096, .length = 4096, .mode = 3};
        memcpy(arguments, &in, sizeof in);
    }
    out[0] = (uint8_t)size;
    out[1] = (uint8_t)(size >> 8);
    memcpy(out + 2, &h, sizeof h);
    memcpy(out + 2 + sizeof h, arguments, requests[n].arguments);
    return 2 + size;
}

static size_t fuse_seed(unsigned n, uint8_t *out, size_t capacity)
{
    if (n >= REQUESTS)
        return 0;
    size_t used = 0;
    out[used++] = n & 1; // read-only
    if (n > 0)
        used += add_request(out + used, 0);
    used += add_request(out + used, n);
    return used + add_request(out + used, (n + 5) % REQUESTS);
}

static void fuse_run(const uint8_t *data, size_t size)
{
    int ends[2];
    struct io_queue *queue;
    if (size < 3 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) != 0)
        return;
    const uint64_t device = 1 << 20;
    if (obd_fuse_queue_open(ends[0], "vda1234", device, data[0] & 1, &queue) != 0)
        abort();
    size_t at = 1;
    int dead = 0;
    for (int i = 0; i < 16 && at + 2 < size && !dead; i++) {
        size_t length = fuzz_number(data, size, at, 2) % FUSE_REQUEST_ROOM;
        at += 2;
        if (length > size - at)
            length = size - at;
        if (length == 0 || send(ends[1], data + at, length, MSG_NOSIGNAL) < 0)
            break;
        at += length;
        struct io_command commands[4];
        int n = queue->ops->fetch(queue, commands, 4);
        dead = n < 0;
        for (int c = 0; c < n; c++) {
            const struct iovec *iov;
            int count;
            fuzz_promise(commands[c].offset <= device && commands[c].length <= device - commands[c].offset,
                         "a command stays on the device");
            fuzz_promise(!(data[0] & 1) || commands[c].op == IO_READ || commands[c].op == IO_FLUSH,
                         "a read-only device is not written");
            if (commands[c].op == IO_READ || commands[c].op == IO_WRITE) {
                if (queue->ops->buffers(queue, commands[c].id, &iov, &count) != 0)
                    abort();
                for (int v = 0; v < count; v++)
                    memset(iov[v].iov_base, 0x5a, iov[v].iov_len);
            }
            queue->ops->complete(queue, commands[c].id, i % 3 ? 0 : -5);
        }
        uint8_t answer[4096];
        while (recv(ends[1], answer, sizeof answer, MSG_DONTWAIT) > 0)
            ;
    }
    queue->ops->destroy(queue);
    close(ends[1]);
}

const struct fuzz_target fuse_target = {"fuse", fuse_seed, fuse_run};
