// Life of a command: tcmu_ring_next copies it out of the ring; scsi_decode makes it an answer (completed
// here) or a byte range (handed to the loop, in a slot until the loop completes it); tcmu_ring_complete
// answers in the ring; one write to the UIO descriptor tells the kernel of all answers since the last.
#include "tcmu_handler.h"
#include "executor.h"
#include "io_loop.h"
#include "scsi.h"
#include "tcmu_ring.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct tcmu_slot {
    struct tcmu_request request;
    int op; // enum io_op; 0: free
    int next_free;
    int trimmed; // iovecs in use
};

struct tcmu_queue {
    struct io_queue base; // poll_fd is the UIO descriptor
    struct tcmu_ring ring;
    int broken; // -errno that every later fetch gives
    int free_slot;
    char config[256];
    char serial_path[PATH_MAX]; // "": no serial
    struct scsi_result result;  // scratch of fetch
    struct tcmu_slot slots[IO_QUEUE_DEPTH];
};

static void answer(struct tcmu_queue *t, uint16_t id, uint8_t status, const uint8_t *sense)
{
    uint8_t padded[TCMU_SENSE_LENGTH] = {0};
    if (status == SCSI_CHECK_CONDITION)
        memcpy(padded, sense, SCSI_SENSE_LENGTH);
    int r = t->broken
                ? t->broken
                : tcmu_ring_complete(&t->ring, id, status, status == SCSI_CHECK_CONDITION ? padded : NULL);
    if (r < 0)
        t->broken = r;
}

static void kick(struct io_queue *q)
{
    uint32_t any = 0;
    ssize_t n;
    do
        n = write(q->poll_fd, &any, sizeof any);
    while (n < 0 && errno == EINTR);
    // Other failures mean that the device is going away; the next fetch says so.
}

// The unit serial as configfs has it now; NULL if it cannot be read.
static const char *read_serial(struct tcmu_queue *t, char *text, size_t room)
{
    if (!t->serial_path[0])
        return "";
    int fd = open(t->serial_path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return NULL;
    ssize_t n = read(fd, text, room - 1);
    close(fd);
    if (n < 0)
        return NULL;
    text[n] = 0;
    return scsi_clean_serial(text);
}

// Decodes the slot's request; true if it is now the loop's, false if it was answered.
static int begin(struct tcmu_queue *t, struct tcmu_slot *s)
{
    struct tcmu_request *r = &s->request;
    struct scsi_device device = {t->base.size / SCSI_BLOCK, t->base.read_only, t->config, ""};
    char serial[256];
    uint8_t data[64];
    size_t given = 0;
    if (r->cdb[0] == 0x12)
        device.serial = read_serial(t, serial, sizeof serial);
    if (scsi_wants_data(r->cdb))
        given =
            obd_gather(r->iov, (int)r->iov_count, data, r->length < sizeof data ? r->length : sizeof data);
    scsi_decode(&device, r->cdb, data, given, r->length, &t->result);
    if (!t->result.op) {
        if (t->result.data_length > 0) {
            // What the initiator asked for beyond the answer must not be what the last command left there.
            size_t done = obd_scatter(r->iov, (int)r->iov_count, t->result.data, t->result.data_length);
            size_t skip = done;
            for (uint32_t i = 0; i < r->iov_count; i++) {
                size_t from = skip < r->iov[i].iov_len ? skip : r->iov[i].iov_len;
                memset((char *)r->iov[i].iov_base + from, 0, r->iov[i].iov_len - from);
                skip -= from;
            }
        }
        answer(t, r->id, t->result.status, t->result.sense);
        return 0;
    }
    s->op = t->result.op;
    s->trimmed = 0;
    if (s->op == IO_READ || s->op == IO_WRITE) {
        // The CDB may ask for less than the memory that came with it.
        uint64_t left = t->result.length;
        while (left > 0 && s->trimmed < (int)r->iov_count) {
            struct iovec *v = &r->iov[s->trimmed++];
            if (v->iov_len > left)
                v->iov_len = left;
            left -= v->iov_len;
        }
    }
    return 1;
}

static int fetch(struct io_queue *q, struct io_command *out, int max)
{
    struct tcmu_queue *t = (struct tcmu_queue *)q;
    uint32_t events;
    if (t->broken)
        return t->broken;
    // Readiness first, then the ring: what arrives between the two makes the descriptor ready again.
    if (read(q->poll_fd, &events, sizeof events) < 0 && errno != EAGAIN && errno != EINTR)
        return t->broken = errno == EIO ? -ENODEV : -errno; // EIO: the kernel unregistered the device
    int n = 0, answered = 0;
    while (n < max && t->free_slot >= 0) {
        int id = t->free_slot;
        struct tcmu_slot *s = &t->slots[id];
        int r = tcmu_ring_next(&t->ring, &s->request);
        if (r < 0)
            t->broken = r;
        if (r <= 0)
            break;
        if (!begin(t, s)) {
            answered = 1;
            continue;
        }
        t->free_slot = s->next_free;
        out[n++] = (struct io_command){(uint32_t)id, (uint32_t)s->op, t->result.offset, t->result.length};
    }
    if (answered)
        kick(q);
    return n == 0 && t->broken ? t->broken : n;
}

static int buffers(struct io_queue *q, uint32_t id, const struct iovec **iov, int *count)
{
    struct tcmu_queue *t = (struct tcmu_queue *)q;
    if (id >= IO_QUEUE_DEPTH || !t->slots[id].op)
        return -EINVAL;
    *iov = t->slots[id].request.iov;
    *count = t->slots[id].trimmed;
    return 0;
}

static void complete(struct io_queue *q, uint32_t id, int status)
{
    struct tcmu_queue *t = (struct tcmu_queue *)q;
    struct tcmu_slot *s = &t->slots[id];
    uint8_t sense[SCSI_SENSE_LENGTH];
    uint8_t scsi = scsi_status(s->op, status, sense);
    answer(t, s->request.id, scsi, sense);
    s->op = 0;
    s->next_free = t->free_slot;
    t->free_slot = (int)id;
}

// What has no slot to go to waits for one.
static int waits(struct io_queue *q)
{
    struct tcmu_queue *t = (struct tcmu_queue *)q;
    return t->free_slot >= 0 && tcmu_ring_waits(&t->ring);
}

static void destroy(struct io_queue *q)
{
    struct tcmu_queue *t = (struct tcmu_queue *)q;
    for (int i = 0; i < IO_QUEUE_DEPTH; i++)
        tcmu_request_free(&t->slots[i].request);
    munmap(t->ring.map, t->ring.map_size);
    close(q->poll_fd);
    free(t);
}

static const struct io_queue_ops ops = {fetch, buffers, complete, kick, waits, destroy};

int tcmu_queue_create(int fd, void *map, size_t map_size, const struct tcmu_options *options,
                      struct io_queue **out)
{
    struct tcmu_queue *t = calloc(1, sizeof *t);
    int r = t ? tcmu_ring_init(&t->ring, map, map_size) : -ENOMEM;
    if (r == 0 && options->serial_path && strlen(options->serial_path) >= sizeof t->serial_path)
        r = -ENAMETOOLONG;
    if (r < 0) {
        free(t);
        munmap(map, map_size);
        close(fd);
        return r;
    }
    t->base = (struct io_queue){&ops, fd, options->size, options->read_only};
    strncpy(t->config, options->config, sizeof t->config - 1);
    if (options->serial_path)
        strcpy(t->serial_path, options->serial_path);
    for (int i = 0; i < IO_QUEUE_DEPTH; i++)
        t->slots[i].next_free = i + 1 < IO_QUEUE_DEPTH ? i + 1 : -1;
    *out = &t->base;
    return 0;
}

int tcmu_queue_open(const char *path, size_t map_size, const struct tcmu_options *options,
                    struct io_queue **out)
{
    int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    void *map = mmap(NULL, map_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        int r = -errno;
        close(fd);
        return r;
    }
    return tcmu_queue_create(fd, map, map_size, options, out);
}
