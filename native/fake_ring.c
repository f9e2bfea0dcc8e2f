#include "fake_ring_internal.h"
#include "io_spin.h"
#include "tcmu_handler.h"
#include "tcmu_uapi.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

uint64_t fake_ring_next_random(struct fake_ring *f)
{
    return load_random(&f->random);
}

static struct tcmu_mailbox *mailbox(struct fake_ring *f)
{
    return (struct tcmu_mailbox *)f->map;
}

int fake_ring_create(const struct fake_ring_options *o, struct fake_ring **out, struct io_queue **queue)
{
    struct fake_ring *f = calloc(1, sizeof *f);
    int memory = memfd_create("fake-ring", MFD_CLOEXEC), sockets[2] = {-1, -1}, r = 0;
    if (!f || memory < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sockets) < 0)
        r = -errno;
    if (r == 0) {
        f->options = *o;
        f->fd = sockets[0];
        f->data_offset = (RING_OFFSET + (size_t)o->ring_size + BLOCK - 1) / BLOCK * BLOCK;
        f->map_size = f->data_offset + (size_t)o->data_blocks * BLOCK;
        f->free_blocks = malloc(o->data_blocks * sizeof *f->free_blocks);
        f->expected = malloc((size_t)MAX_BLOCKS * BLOCK);
        if (!f->free_blocks || !f->expected || ftruncate(memory, (off_t)f->map_size) < 0)
            r = -ENOMEM;
    }
    void *theirs = MAP_FAILED;
    if (r == 0) {
        f->map = mmap(NULL, f->map_size, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
        theirs = mmap(NULL, f->map_size, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
        if (f->map == MAP_FAILED || theirs == MAP_FAILED)
            r = -ENOMEM;
    }
    if (r == 0) {
        struct tcmu_mailbox *mb = mailbox(f);
        mb->version = 2;
        mb->flags = TCMU_MAILBOX_FLAG_CAP_OOOC;
        mb->cmdr_off = RING_OFFSET;
        mb->cmdr_size = o->ring_size;
        for (uint32_t i = 0; i < o->data_blocks; i++)
            f->free_blocks[f->free_count++] = o->data_blocks - 1 - i;
        struct tcmu_options options = {o->device_size, o->read_only, "overlaybd//fake", NULL};
        r = tcmu_queue_create(sockets[1], theirs, f->map_size, &options, queue);
        sockets[1] = -1; // its, even on failure
    }
    if (memory >= 0)
        close(memory);
    if (r < 0) {
        if (sockets[1] >= 0)
            close(sockets[1]);
        if (f)
            fake_ring_destroy(f);
        return r;
    }
    *out = f;
    return 0;
}

void fake_ring_destroy(struct fake_ring *f)
{
    if (f->fd > 0)
        close(f->fd);
    if (f->map && f->map != MAP_FAILED)
        munmap(f->map, f->map_size);
    for (int i = 0; i <= MAX_DEPTH; i++)
        free(f->commands[i].blocks);
    free(f->free_blocks);
    free(f->expected);
    free(f);
}

void fake_ring_wake(struct fake_ring *f)
{
    uint32_t one = 1;
    ssize_t n = write(f->fd, &one, sizeof one);
    (void)n; // a full socket has woken it already
}

static void publish_head(struct fake_ring *f)
{
    __atomic_store_n(&mailbox(f)->cmd_head, f->head, __ATOMIC_RELEASE);
}

// As target_core_user: an entry never wraps, a PAD fills the end of the ring. NULL when there is no room.
static unsigned char *reserve(struct fake_ring *f, uint32_t length)
{
    uint32_t size = f->options.ring_size, tail = f->cleaned;
    uint32_t to_end = size - f->head, need = length <= to_end ? length : length + to_end;
    uint32_t used = f->head >= tail ? f->head - tail : f->head + size - tail;
    if (size - used <= need) // full is not empty
        return NULL;
    unsigned char *ring = f->map + RING_OFFSET;
    if (length > to_end) {
        memset(ring + f->head, 0, 8);
        uint32_t pad = to_end | TCMU_OP_PAD;
        memcpy(ring + f->head, &pad, 4);
        f->head = 0;
    }
    return ring + f->head;
}

// Places a command in the ring; 0, or -EAGAIN when ring or data area are full. data: what to write, or NULL.
int fake_ring_submit(struct fake_ring *f, uint16_t id, const uint8_t *cdb, const unsigned char *data,
                     int scatter)
{
    struct command *c = &f->commands[id];
    uint32_t blocks = (uint32_t)((c->length + BLOCK - 1) / BLOCK);
    if (blocks > f->free_count)
        return -EAGAIN;
    uint32_t length =
        (uint32_t)(offsetof(struct tcmu_cmd_entry, req.iov) + blocks * sizeof(struct linux_iovec));
    if (length < sizeof(struct tcmu_cmd_entry))
        length = sizeof(struct tcmu_cmd_entry);
    length = (length + SCSI_CDB_MAX + 7) / 8 * 8; // the CDB lies behind the iovecs
    unsigned char *at = reserve(f, length);
    if (!at)
        return -EAGAIN;
    memset(at, 0, length);
    struct tcmu_cmd_entry *e = (struct tcmu_cmd_entry *)at;
    e->hdr.len_op = length | TCMU_OP_CMD;
    e->hdr.cmd_id = id;
    e->req.cdb_off = (uint64_t)(at - f->map) + length - SCSI_CDB_MAX;
    memcpy(at + length - SCSI_CDB_MAX, cdb, SCSI_CDB_MAX);
    uint64_t left = c->length;
    struct linux_iovec *iov = (struct linux_iovec *)(at + offsetof(struct tcmu_cmd_entry, req.iov));
    uint32_t count = 0;
    c->block_count = blocks;
    if (blocks > 0) {
        free(c->blocks);
        c->blocks = malloc(blocks * sizeof *c->blocks);
    }
    for (uint32_t i = 0; i < blocks; i++) {
        uint32_t pick = scatter ? (uint32_t)(fake_ring_next_random(f) % f->free_count) : f->free_count - 1;
        uint32_t block = f->free_blocks[pick];
        f->free_blocks[pick] = f->free_blocks[--f->free_count];
        c->blocks[i] = block;
        uint64_t base = f->data_offset + (uint64_t)block * BLOCK, part = left < BLOCK ? left : BLOCK;
        if (data)
            memcpy(f->map + base, data + (c->length - left), part);
        else
            memset(f->map + base, 0xa5, 64); // so that an untouched block shows
        if (!scatter && count > 0 &&
            (uint64_t)(uintptr_t)iov[count - 1].iov_base + iov[count - 1].iov_len == base) {
            iov[count - 1].iov_len += part;
        } else {
            iov[count].iov_base = (void *)(uintptr_t)base;
            iov[count++].iov_len = part;
        }
        left -= part;
    }
    e->req.iov_cnt = count;
    c->busy = 1;
    c->started = load_now();
    f->head = (f->head + length) % f->options.ring_size;
    publish_head(f);
    return 0;
}

static void copy_back(struct fake_ring *f, struct command *c, unsigned char *into)
{
    for (uint32_t i = 0; i < c->block_count; i++) {
        uint64_t left = c->length - (uint64_t)i * BLOCK;
        memcpy(into + (uint64_t)i * BLOCK, f->map + f->data_offset + (uint64_t)c->blocks[i] * BLOCK,
               left < BLOCK ? left : BLOCK);
    }
}

// The next answer: its id, 0 when there is none, -EPROTO for an answer to nothing.
int fake_ring_reap(struct fake_ring *f)
{
    for (;;) {
        uint32_t tail = __atomic_load_n(&mailbox(f)->cmd_tail, __ATOMIC_ACQUIRE);
        if (f->cleaned == tail)
            return 0;
        unsigned char *at = f->map + RING_OFFSET + f->cleaned;
        const struct tcmu_cmd_entry *e = (const struct tcmu_cmd_entry *)at;
        uint32_t length = e->hdr.len_op & ~7u, op = e->hdr.len_op & 7u;
        f->cleaned = (f->cleaned + length) % f->options.ring_size;
        if (op != TCMU_OP_CMD)
            continue;
        uint16_t id = e->hdr.cmd_id;
        if (id == 0 || id > MAX_DEPTH || !f->commands[id].busy)
            return -EPROTO;
        struct command *c = &f->commands[id];
        c->status = e->rsp.scsi_status;
        memcpy(c->sense, e->rsp.sense_buffer, sizeof c->sense);
        c->busy = 0;
        return id;
    }
}

void fake_ring_release(struct fake_ring *f, struct command *c)
{
    for (uint32_t i = 0; i < c->block_count; i++)
        f->free_blocks[f->free_count++] = c->blocks[i];
    c->block_count = 0;
}

// Waits for the handler's kick. False after PATIENCE_MS without one.
int fake_ring_wait_kick(struct fake_ring *f)
{
    struct pollfd p = {f->fd, POLLIN, 0};
    if (poll(&p, 1, PATIENCE_MS) <= 0)
        return 0;
    char any[256];
    ssize_t n = read(f->fd, any, sizeof any);
    return n > 0;
}

int fake_ring_look(struct fake_ring *f)
{
    const uint64_t end = load_now() + LOOK_NS;
    do {
        if (f->cleaned != __atomic_load_n(&mailbox(f)->cmd_tail, __ATOMIC_ACQUIRE)) {
            // Its kick may be on the way; those that came are taken, so that there is room for more.
            char any[256];
            ssize_t n = recv(f->fd, any, sizeof any, MSG_DONTWAIT);
            (void)n;
            return 1;
        }
        io_spin_relax();
    } while (load_now() < end);
    return 0;
}

void fake_ring_put_cdb(uint8_t *cdb, int opcode, uint64_t lba, uint32_t count)
{
    memset(cdb, 0, SCSI_CDB_MAX);
    cdb[0] = (uint8_t)opcode;
    for (int i = 0; i < 8; i++)
        cdb[2 + i] = (uint8_t)(lba >> (56 - 8 * i));
    for (int i = 0; i < 4; i++)
        cdb[10 + i] = (uint8_t)(count >> (24 - 8 * i));
}

int fake_ring_command(struct fake_ring *f, const uint8_t *cdb, void *data, uint32_t length, uint8_t *sense)
{
    struct command *c = &f->commands[1];
    c->offset = 0;
    c->length = length;
    c->write = 0;
    if (length > 65536)
        return -EINVAL;
    int r = fake_ring_submit(f, 1, cdb, data, 1);
    if (r < 0)
        return r;
    fake_ring_wake(f);
    while ((r = fake_ring_reap(f)) == 0)
        if (!fake_ring_wait_kick(f))
            return -ETIMEDOUT;
    if (r < 0)
        return r;
    copy_back(f, c, data);
    memcpy(sense, c->sense, sizeof c->sense);
    fake_ring_release(f, c);
    return c->status;
}

void fake_ring_attack(struct fake_ring *f, enum fake_ring_attack attack, uint64_t seed)
{
    f->random = seed * 2 + 1;
    uint8_t cdb[SCSI_CDB_MAX];
    fake_ring_put_cdb(cdb, 0x88, 0, 8);
    struct command *c = &f->commands[1];
    c->length = BLOCK;
    uint32_t before = f->head;
    uint32_t hidden = mailbox(f)->cmd_head;
    if (fake_ring_submit(f, 1, cdb, NULL, 0) < 0)
        return;
    __atomic_store_n(&mailbox(f)->cmd_head, hidden, __ATOMIC_RELEASE); // nobody was woken yet
    struct tcmu_cmd_entry *e = (struct tcmu_cmd_entry *)(f->map + RING_OFFSET + before);
    switch (attack) {
    case ATTACK_HEAD:
        f->head = f->options.ring_size + 64;
        break;
    case ATTACK_LENGTH_ZERO:
        e->hdr.len_op = TCMU_OP_CMD;
        break;
    case ATTACK_LENGTH_HUGE:
        e->hdr.len_op = 0xfffffff8 | TCMU_OP_CMD;
        break;
    case ATTACK_IOV_OUTSIDE:
        e->req.iov[0].iov_base = (void *)(uintptr_t)(f->map_size - 8);
        break;
    case ATTACK_IOV_IN_RING:
        e->req.iov[0].iov_base = (void *)(uintptr_t)RING_OFFSET;
        break;
    case ATTACK_IOV_COUNT:
        e->req.iov_cnt = 0x40000000;
        break;
    case ATTACK_CDB_OUTSIDE:
        e->req.cdb_off = f->map_size;
        break;
    case ATTACK_GARBAGE:
        for (int round = 0; round < 200; round++) {
            for (int i = 0; i < 64; i++) {
                uint64_t v = fake_ring_next_random(f);
                uint32_t where = (uint32_t)(fake_ring_next_random(f) % (f->options.ring_size - 8)) & ~7u;
                if (i % 4 == 0) // plausible headers get further
                    v = (v & 0xffffffff00000000) | (64 + (v & 0x1f8)) | TCMU_OP_CMD;
                memcpy(f->map + RING_OFFSET + where, &v, 8);
            }
            f->head = (uint32_t)(fake_ring_next_random(f) % f->options.ring_size) & ~7u;
            publish_head(f);
            fake_ring_wake(f);
            struct timespec pause = {0, 200000};
            nanosleep(&pause, NULL);
        }
        return;
    }
    publish_head(f);
    fake_ring_wake(f);
}
