// FUSE server, data side. See fuse_handler.h for what it shows.
//
// Life of a request: one readv() of /dev/fuse; it is answered at once, or takes a slot and is handed out;
// complete() answers it with one writev() and frees the slot. Every request that wants an answer gets exactly
// one: the slot holds `unique` until then, and nothing else remembers it.
//
// Memory. A slot's data lies in a page-aligned buffer from a small pool (classes of a power of two, 4 KiB to
// 1 MiB). When all slots are taken, or more than IN_FLIGHT_BYTES of buffers are, the connection is not polled
// until a completion makes room; the kernel then queues on its side. What is handed out never exceeds
// IN_FLIGHT_BYTES + 1 MiB per device; an idle device keeps at most POOL_KEEP bytes and, if writable, the
// buffer that the next WRITE is read into.
//
// poll_fd is an epoll descriptor that holds the connection, so that "not polled" is one epoll_ctl here and
// the loop above need know nothing of it. Thread: all runs on the loop thread, except fuse_buffers().
#include "fuse_handler.h"
#include "fuse_protocol.h"
#include <assert.h>
#include <errno.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define SECTOR 512u
#define SLOTS 128                   // the depth of a loop device's queue
#define IN_FLIGHT_BYTES (16u << 20) // 128 requests of 128 KiB
#define POOL_KEEP (4u << 20)        // free buffers kept for the next requests: four of the largest
#define HEAD_BYTES (sizeof(struct fuse_in_header) + OBD_FUSE_ARGS)
#define CLASSES 9 // 4 KiB << 0..8
#define CLASS_BYTES(c) ((size_t)4096 << (c))

static_assert(CLASS_BYTES(CLASSES - 1) == OBD_FUSE_MAX_IO, "largest class is the largest request");
static_assert(sizeof(struct fuse_fallocate_in) <= OBD_FUSE_ARGS, "arguments fit the head");

struct slot {
    uint64_t unique;
    uint32_t op; // 0: free
    int class_;  // of `iov.iov_base`; -1: no buffer
    struct iovec iov;
    uint64_t length;
};

struct free_buffer {
    struct free_buffer *next;
};

struct fuse_queue {
    struct io_queue base;
    struct fuse_peer peer;
    int armed; // the connection is in poll_fd's set
    struct slot slots[SLOTS];
    int free_slots[SLOTS]; // stack
    int free_count;
    size_t in_flight; // bytes of buffers held by slots
    struct free_buffer *pool[CLASSES];
    size_t pooled;
    // A request is read into head, and what is longer into body: a WRITE's data is then page-aligned.
    struct {
        struct fuse_in_header header;
        unsigned char args[OBD_FUSE_ARGS];
    } head;
    unsigned char *body;
    size_t body_size;
};

static struct fuse_queue *self(struct io_queue *q)
{
    return (struct fuse_queue *)q;
}

// ---- buffers

static int class_of(size_t length)
{
    int c = 0;
    while (CLASS_BYTES(c) < length)
        c++;
    return c;
}

// Returned memory is the caller's until buffer_put. NULL: no memory.
static void *buffer_get(struct fuse_queue *q, int c)
{
    struct free_buffer *b = q->pool[c];
    if (b) {
        q->pool[c] = b->next;
        q->pooled -= CLASS_BYTES(c);
        return b;
    }
    return aligned_alloc(4096, CLASS_BYTES(c));
}

static void buffer_put(struct fuse_queue *q, void *memory, int c)
{
    if (q->pooled + CLASS_BYTES(c) > POOL_KEEP) {
        free(memory);
        return;
    }
    struct free_buffer *b = memory;
    b->next = q->pool[c];
    q->pool[c] = b;
    q->pooled += CLASS_BYTES(c);
}

// ---- commands

// Takes a slot for a data request. There is one: fetch looked.
static void hand_out(struct fuse_queue *q, uint64_t unique, uint32_t op, uint64_t offset, uint64_t length,
                     void *buffer, int c, struct io_command *out)
{
    int id = q->free_slots[--q->free_count];
    q->slots[id] = (struct slot){unique, op, c, {buffer, length}, length};
    if (c >= 0)
        q->in_flight += CLASS_BYTES(c);
    *out = (struct io_command){(uint32_t)id, op, offset, length};
}

// 1 if a command was handed out, 0 if the request was answered here.
static int take_read(struct fuse_queue *q, const struct fuse_in_header *h, const struct fuse_read_in *in,
                     struct io_command *out)
{
    uint64_t size = q->base.size, length = in->size;
    if (h->nodeid != OBD_FUSE_FILE_INO || in->offset % SECTOR || length % SECTOR ||
        length > OBD_FUSE_MAX_IO) {
        obd_fuse_reply(&q->peer, h->unique, -EINVAL, NULL, 0);
        return 0;
    }
    if (in->offset >= size || length == 0) {
        obd_fuse_reply(&q->peer, h->unique, 0, NULL, 0);
        return 0;
    }
    if (length > size - in->offset)
        length = size - in->offset;
    int c = class_of(length);
    void *buffer = buffer_get(q, c);
    if (!buffer) {
        obd_fuse_reply(&q->peer, h->unique, -ENOMEM, NULL, 0);
        return 0;
    }
    hand_out(q, h->unique, IO_READ, in->offset, length, buffer, c, out);
    return 1;
}

// Body holds the data; it goes to the slot and a new one takes its place. As take_read.
static int take_write(struct fuse_queue *q, const struct fuse_in_header *h, const struct fuse_write_in *in,
                      size_t data, struct io_command *out)
{
    int error = 0;
    void *next = NULL;
    if (q->base.read_only)
        error = -EROFS;
    else if (h->nodeid != OBD_FUSE_FILE_INO || in->size != data || in->size == 0 || in->offset % SECTOR ||
             in->size % SECTOR)
        error = -EINVAL;
    else if (in->offset > q->base.size || in->size > q->base.size - in->offset)
        error = -ENOSPC;
    else if (!(next = buffer_get(q, CLASSES - 1)))
        error = -ENOMEM;
    if (error) {
        obd_fuse_reply(&q->peer, h->unique, error, NULL, 0);
        return 0;
    }
    hand_out(q, h->unique, IO_WRITE, in->offset, in->size, q->body, CLASSES - 1, out);
    q->body = next;
    return 1;
}

static int take_fallocate(struct fuse_queue *q, const struct fuse_in_header *h,
                          const struct fuse_fallocate_in *in, struct io_command *out)
{
    const uint32_t mode = in->mode & ~(uint32_t)FALLOC_FL_KEEP_SIZE;
    int error = 0;
    if (q->base.read_only)
        error = -EROFS;
    else if (h->nodeid != OBD_FUSE_FILE_INO || (mode != FALLOC_FL_PUNCH_HOLE && mode != FALLOC_FL_ZERO_RANGE))
        error = -EOPNOTSUPP;
    else if (in->length == 0 || in->offset % SECTOR || in->length % SECTOR)
        error = -EINVAL;
    else if (in->offset > q->base.size || in->length > q->base.size - in->offset)
        error = -ENOSPC;
    if (error) {
        obd_fuse_reply(&q->peer, h->unique, error, NULL, 0);
        return 0;
    }
    hand_out(q, h->unique, IO_DISCARD, in->offset, in->length, NULL, -1, out);
    return 1;
}

static int take_fsync(struct fuse_queue *q, const struct fuse_in_header *h, struct io_command *out)
{
    if (q->base.read_only || h->nodeid != OBD_FUSE_FILE_INO) {
        obd_fuse_reply(&q->peer, h->unique, 0, NULL, 0);
        return 0;
    }
    hand_out(q, h->unique, IO_FLUSH, 0, 0, NULL, -1, out);
    return 1;
}

// One whole request of `n` bytes in head and body. 1 if a command was handed out.
static int take_request(struct fuse_queue *q, size_t n, struct io_command *out)
{
    const struct fuse_in_header *h = &q->head.header;
    const void *args = q->head.args;
    const size_t length = n - sizeof *h;
    const int sound = h->len == n && length >= obd_fuse_args_size(h->opcode);
    if (!sound || (!q->peer.ready && h->opcode != FUSE_INIT)) {
        obd_fuse_reply(&q->peer, h->unique, -EIO, NULL, 0);
        return 0;
    }
    switch (h->opcode) {
    case FUSE_READ:
        return take_read(q, h, args, out);
    case FUSE_WRITE:
        return take_write(q, h, args, n - HEAD_BYTES, out);
    case FUSE_FALLOCATE:
        return take_fallocate(q, h, args, out);
    case FUSE_FSYNC:
        return take_fsync(q, h, out);
    default:
        obd_fuse_answer(&q->peer, h, args, length);
        return 0;
    }
}

// ---- io_queue

// Out of the set rather than in it without events: an aborted connection would still make poll_fd readable.
static int arm(struct fuse_queue *q, int on)
{
    if (q->armed == on)
        return 0;
    struct epoll_event event = {.events = EPOLLIN};
    if (epoll_ctl(q->base.poll_fd, on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, q->peer.fd, &event) != 0)
        return -errno;
    q->armed = on;
    return 0;
}

static int has_room(const struct fuse_queue *q)
{
    return q->free_count > 0 && q->in_flight < IN_FLIGHT_BYTES;
}

static int fuse_fetch(struct io_queue *base, struct io_command *out, int max)
{
    struct fuse_queue *q = self(base);
    int taken = 0;
    // Answers without a command count too: a flood of lookups must not hold the loop.
    for (int i = 0; i < max && !q->peer.dead; i++) {
        if (!has_room(q)) {
            int error = arm(q, 0);
            if (error)
                q->peer.dead = error;
            break;
        }
        struct iovec iov[2] = {{&q->head, HEAD_BYTES}, {q->body, q->body_size}};
        ssize_t n = readv(q->peer.fd, iov, 2);
        if (n < 0 && (errno == EINTR || errno == ENOENT))
            continue; // ENOENT: the request was withdrawn
        if (n < 0 && errno == EAGAIN)
            break;
        if (n <= 0) {
            q->peer.dead = n == 0 || errno == ECONNABORTED ? -ENODEV : -errno;
            break;
        }
        if ((size_t)n < sizeof(struct fuse_in_header)) {
            q->peer.dead = -EPROTO; // no `unique`, so no answer is possible
            break;
        }
        taken += take_request(q, (size_t)n, &out[taken]);
    }
    return taken > 0 ? taken : q->peer.dead;
}

static int fuse_buffers(struct io_queue *base, uint32_t id, const struct iovec **iov, int *count)
{
    struct fuse_queue *q = self(base);
    if (id >= SLOTS || (q->slots[id].op != IO_READ && q->slots[id].op != IO_WRITE))
        return -EINVAL;
    *iov = &q->slots[id].iov;
    *count = 1;
    return 0;
}

static void fuse_complete(struct io_queue *base, uint32_t id, int status)
{
    struct fuse_queue *q = self(base);
    if (id >= SLOTS || q->slots[id].op == 0)
        return;
    struct slot slot = q->slots[id];
    if (status != 0) {
        obd_fuse_reply(&q->peer, slot.unique, status > 0 ? -EIO : status, NULL, 0);
    } else if (slot.op == IO_READ) {
        obd_fuse_reply(&q->peer, slot.unique, 0, slot.iov.iov_base, slot.length);
    } else if (slot.op == IO_WRITE) {
        struct fuse_write_out written = {.size = (uint32_t)slot.length};
        obd_fuse_reply(&q->peer, slot.unique, 0, &written, sizeof written);
    } else {
        obd_fuse_reply(&q->peer, slot.unique, 0, NULL, 0);
    }
    q->slots[id].op = 0;
    q->free_slots[q->free_count++] = (int)id;
    if (slot.class_ >= 0) {
        q->in_flight -= CLASS_BYTES(slot.class_);
        buffer_put(q, slot.iov.iov_base, slot.class_);
    }
    if (has_room(q) && arm(q, 1) != 0)
        q->peer.dead = -EIO;
}

static void fuse_kick(struct io_queue *base)
{
    (void)base; // every answer is its own system call
}

static void fuse_destroy(struct io_queue *base)
{
    struct fuse_queue *q = self(base);
    for (int i = 0; i < SLOTS; i++)
        if (q->slots[i].op != 0 && q->slots[i].class_ >= 0)
            free(q->slots[i].iov.iov_base);
    for (int c = 0; c < CLASSES; c++)
        for (struct free_buffer *b = q->pool[c], *next; b; b = next) {
            next = b->next;
            free(b);
        }
    free(q->body);
    close(base->poll_fd);
    if (q->peer.fd >= 0)
        close(q->peer.fd);
    free(q);
}

void obd_fuse_queue_abandon(struct io_queue *base)
{
    self(base)->peer.fd = -1;
    fuse_destroy(base);
}

static const struct io_queue_ops fuse_ops = {
    .fetch = fuse_fetch,
    .buffers = fuse_buffers,
    .complete = fuse_complete,
    .kick = fuse_kick,
    .destroy = fuse_destroy,
};

int obd_fuse_queue_open(int fd, const char *name, uint64_t size, int read_only, struct io_queue **out)
{
    if (size == 0 || size % SECTOR || *name == 0 || strlen(name) >= OBD_FUSE_ARGS)
        return -EINVAL;
    struct fuse_queue *q = calloc(1, sizeof *q);
    if (!q)
        return -ENOMEM;
    q->base = (struct io_queue){.ops = &fuse_ops, .poll_fd = -1, .size = size, .read_only = read_only};
    q->peer = (struct fuse_peer){.fd = fd, .size = size, .read_only = read_only};
    strcpy(q->peer.name, name);
    q->armed = 1;
    // The kernel refuses to read into less than 8 KiB, or than its largest write.
    q->body_size = read_only ? 2 * FUSE_MIN_READ_BUFFER : OBD_FUSE_MAX_IO;
    q->body = aligned_alloc(4096, q->body_size);
    struct epoll_event event = {.events = EPOLLIN};
    int error = q->body ? 0 : -ENOMEM;
    if (!error && (q->base.poll_fd = epoll_create1(EPOLL_CLOEXEC)) < 0)
        error = -errno;
    if (!error && epoll_ctl(q->base.poll_fd, EPOLL_CTL_ADD, fd, &event) != 0)
        error = -errno;
    if (error) {
        if (q->base.poll_fd >= 0)
            close(q->base.poll_fd);
        free(q->body);
        free(q);
        return error;
    }
    while (q->free_count < SLOTS) {
        q->free_slots[q->free_count] = SLOTS - 1 - q->free_count;
        q->free_count++;
    }
    *out = &q->base;
    return 0;
}
