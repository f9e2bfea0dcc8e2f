#include "io_stage.h"
#include <errno.h>
#define io_event kernel_io_event // ours is another
#include <linux/aio_abi.h>
#undef io_event
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum {
    READS = 32,         // of one call
    STEPS_EACH = 8,     // of one command; longer ones are worth a call of their own
    IOVECS_EACH = 16,   // likewise
    BYTES_EACH = 65536, // likewise
    DEAR_NS = 1000,     // a call that costs so much: a page is copied in less
};

struct staged {
    uint32_t index, count;
    struct slot *slot;
    const struct iovec *iov; // the command's memory
    int iov_count;
    struct iovec into[IOVECS_EACH]; // where the file's bytes go
    uint64_t bytes;
    int made; // the bytes are there
    struct read_step steps[STEPS_EACH];
};

struct stage {
    aio_context_t context;
    uint32_t count;
    struct staged reads[READS];
    struct iocb calls[READS], *list[READS];
    struct kernel_io_event ended[READS];
    unsigned char stored[READS][BYTES_EACH];
};

int stage_pays(void)
{
    // The best of a few, so that an interruption does not count.
    int64_t best = INT64_MAX;
    for (int i = 0; i < 8; i++) {
        struct timespec a, b;
        clock_gettime(CLOCK_MONOTONIC, &a);
        for (int n = 0; n < 16; n++)
            syscall(SYS_getppid);
        clock_gettime(CLOCK_MONOTONIC, &b);
        int64_t took = (b.tv_sec - a.tv_sec) * 1000000000LL + b.tv_nsec - a.tv_nsec;
        if (took < best)
            best = took;
    }
    return best / 16 >= DEAR_NS;
}

struct stage *stage_create(void)
{
    struct stage *stage = calloc(1, sizeof *stage);
    if (stage && syscall(SYS_io_setup, READS, &stage->context) < 0) {
        free(stage);
        return NULL;
    }
    return stage;
}

void stage_destroy(struct stage *stage)
{
    if (stage)
        syscall(SYS_io_destroy, stage->context);
    free(stage);
}

// The first `bytes` of a command's memory. How many iovecs that takes, 0 if too many.
static int first_bytes(const struct iovec *iov, int iov_count, uint64_t bytes, struct iovec *out)
{
    for (int i = 0; i < iov_count && i < IOVECS_EACH; i++) {
        out[i] = iov[i];
        if (out[i].iov_len >= bytes) {
            out[i].iov_len = bytes;
            return i + 1;
        }
        bytes -= out[i].iov_len;
    }
    return 0;
}

int stage_read(struct io_loop *loop, uint32_t index, struct slot *slot, size_t count, const struct iovec *iov,
               int iov_count)
{
    struct stage *stage = loop->stage;
    if (count > STEPS_EACH)
        return 0;
    uint64_t bytes = obd_single_read(loop->steps, count, &loop->scratch);
    if (bytes == 0 || bytes > BYTES_EACH)
        return 0;
    const struct read_step *first = &loop->steps[0];
    const struct file_speed *speed = file_speed_of(loop->scratch.speeds, first->fd);
    if (speed->slow)
        return 0;
    struct staged *s = &stage->reads[stage->count];
    int into = 1;
    if (first->codec == READ_RAW)
        into = first_bytes(iov, iov_count, bytes, s->into);
    else
        s->into[0] = (struct iovec){stage->stored[stage->count], bytes};
    if (into == 0)
        return 0;
    s->index = index;
    s->count = (uint32_t)count;
    s->slot = slot;
    s->iov = iov;
    s->iov_count = iov_count;
    s->bytes = bytes;
    s->made = 0;
    memcpy(s->steps, loop->steps, count * sizeof s->steps[0]);
    stage->calls[stage->count] = (struct iocb){
        .aio_data = stage->count,
        .aio_lio_opcode = IOCB_CMD_PREADV,
        .aio_fildes = (uint32_t)first->fd,
        .aio_buf = (uint64_t)(uintptr_t)s->into,
        .aio_nbytes = (uint64_t)into,
        .aio_offset = (int64_t)first->file_offset,
        .aio_rw_flags = speed->cannot_tell ? 0 : RWF_NOWAIT,
    };
    stage->list[stage->count] = &stage->calls[stage->count];
    slot->state = STAGED;
    if (++stage->count == READS)
        stage_execute(loop);
    return 1;
}

// Makes all reads, as far as the kernel does; what is left is made in the ordinary way.
static void make(struct stage *stage, struct file_speeds *speeds)
{
    uint64_t start = file_speed_ticks(), bytes = 0;
    long begun = syscall(SYS_io_submit, stage->context, (long)stage->count, stage->list);
    long left = begun > 0 ? begun : 0;
    while (left > 0) { // all of them have ended, unless a file is read in another way than files are
        long n = syscall(SYS_io_getevents, stage->context, left, left, stage->ended, NULL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            abort(); // they may still write to memory that is not ours any more
        for (long i = 0; i < n; i++) {
            struct staged *s = &stage->reads[stage->ended[i].data];
            s->made = stage->ended[i].res == (int64_t)s->bytes;
            bytes += s->bytes;
        }
        left -= n;
    }
    int waited = file_speed_ticks() - start > FILE_SPEED_WAITED + bytes * FILE_SPEED_PER_BYTE;
    // One of many files is judged at a time; each has its turn.
    struct file_speed *speed = file_speed_of(speeds, stage->reads[0].steps[0].fd);
    if (begun > 0 && speed->cannot_tell)
        file_speed_read_here(speed, waited);
}

void stage_execute(struct io_loop *loop)
{
    struct stage *stage = loop->stage;
    if (stage->count > 2)
        make(stage, loop->scratch.speeds);
    for (uint32_t i = 0; i < stage->count; i++) {
        struct staged *s = &stage->reads[i];
        if (s->made && (s->steps[0].codec == READ_RAW ||
                        obd_unpack_read(s->steps, s->count, stage->stored[i], s->iov, s->iov_count,
                                        &loop->scratch) == EXECUTE_DONE)) {
            loop->stats.inline_reads++;
            io_loop_end(loop, s->index, s->slot, 0);
        } else {
            // Not cached, or a file that ends or is bad: the ordinary way finds out which.
            io_loop_execute_here(loop, s->index, s->slot, s->steps, s->count, s->iov, s->iov_count);
        }
    }
    stage->count = 0;
}
