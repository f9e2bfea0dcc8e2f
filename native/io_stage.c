#include "io_stage.h"
#include "cursor.h"
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
    READS = 256,           // of one call
    ALL_STEPS = 2 * STEPS, // of all its commands
    COMMANDS = 64,         // of one call
    IOVECS = 1024,         // of all its reads
    STORED = 4 << 20,      // packed bytes of all its reads
    ENOUGH = 4 << 20,      // plain bytes that are answered together: 1 ms of copying, 7 ms of zstd
    DEAR_NS = 1000,        // a call that costs so much: a page is copied in less
};

struct staged {
    uint32_t index;
    struct slot *slot;
    const struct iovec *iov; // the command's memory
    int iov_count;
    uint32_t first_step, step_count, first_read, read_count;
};

// What is taken so far; also the mark to go back to when a command does not fit.
struct filled {
    uint32_t steps, runs, reads, iovecs;
    uint64_t stored, plain;
};

struct stage {
    aio_context_t context;
    uint32_t count; // of commands
    struct filled filled;
    struct staged commands[COMMANDS];
    struct read_step steps[ALL_STEPS];
    struct read_run runs[ALL_STEPS];
    struct iovec iovecs[IOVECS];
    uint64_t wanted[READS]; // bytes of each read
    uint8_t made[READS];    // the bytes are there
    struct iocb calls[READS], *list[READS];
    struct kernel_io_event ended[READS];
    unsigned char stored[STORED];
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

// Takes one read; false if there is no room for it.
static int take(struct stage *stage, struct file_speeds *speeds, const struct read_step *first,
                const struct read_run *run, struct cursor *c)
{
    struct filled *f = &stage->filled;
    const struct file_speed *speed = file_speed_of(speeds, first->fd);
    struct iovec *into = &stage->iovecs[f->iovecs];
    int count = 1;
    if (speed->slow || f->reads == READS || f->iovecs == IOVECS)
        return 0;
    if (run->kind == RUN_RAW) {
        if (cursor_take(c, run->bytes, into, (int)(IOVECS - f->iovecs), &count) != run->bytes)
            return 0;
    } else {
        if (run->bytes > STORED - f->stored)
            return 0;
        *into = (struct iovec){stage->stored + f->stored, run->bytes};
        f->stored += run->bytes;
        for (size_t i = 0; i < run->count; i++)
            cursor_advance(c, first[i].length);
    }
    struct iocb *call = &stage->calls[f->reads];
    *call = (struct iocb){
        .aio_data = f->reads,
        .aio_lio_opcode = IOCB_CMD_PREADV,
        .aio_fildes = (uint32_t)first->fd,
        .aio_buf = (uint64_t)(uintptr_t)into,
        .aio_nbytes = (uint64_t)count,
        .aio_offset = (int64_t)first->file_offset,
        .aio_rw_flags = speed->cannot_tell ? 0 : RWF_NOWAIT,
    };
    stage->list[f->reads] = call;
    stage->wanted[f->reads] = run->bytes;
    stage->made[f->reads] = 0;
    f->reads++;
    f->iovecs += (uint32_t)count;
    return 1;
}

// Takes a command; false, and nothing taken, if there is no room for all of it.
static int take_all(struct io_loop *loop, struct staged *s, size_t count)
{
    struct stage *stage = loop->stage;
    struct filled *f = &stage->filled, before = *f;
    if (count > ALL_STEPS - f->steps)
        return 0;
    struct cursor c = {s->iov, s->iov + s->iov_count, 0};
    for (size_t i = 0; i < count;) {
        const struct read_step *first = &loop->steps[i];
        struct read_run *run = &stage->runs[f->runs++];
        i += obd_next_run(first, count - i, &loop->scratch, run);
        if (run->bytes == 0) {
            cursor_advance(&c, first->length);
        } else if (!take(stage, loop->scratch.speeds, first, run, &c)) {
            *f = before;
            return 0;
        }
    }
    s->first_step = before.steps;
    s->step_count = (uint32_t)count;
    s->first_read = before.reads;
    s->read_count = f->reads - before.reads;
    memcpy(&stage->steps[before.steps], loop->steps, count * sizeof loop->steps[0]);
    f->steps += (uint32_t)count;
    f->plain += s->slot->command.length;
    return 1;
}

int stage_read(struct io_loop *loop, uint32_t index, struct slot *slot, size_t count, const struct iovec *iov,
               int iov_count)
{
    struct stage *stage = loop->stage;
    struct staged s = {.index = index, .slot = slot, .iov = iov, .iov_count = iov_count};
    if (!take_all(loop, &s, count)) {
        if (stage->count == 0)
            return 0;
        // What was taken may be in the way. loop->steps are not touched by that.
        stage_execute(loop);
        io_loop_kick(loop);
        if (!take_all(loop, &s, count))
            return 0;
    }
    slot->state = STAGED;
    stage->commands[stage->count++] = s;
    if (stage->count == COMMANDS || stage->filled.plain >= ENOUGH) {
        stage_execute(loop);
        io_loop_kick(loop);
    }
    return 1;
}

// Makes all reads, as far as the kernel does; what is left is made in the ordinary way.
static void make(struct stage *stage, struct file_speeds *speeds)
{
    uint64_t start = file_speed_ticks(), bytes = 0;
    long begun = syscall(SYS_io_submit, stage->context, (long)stage->filled.reads, stage->list);
    long left = begun > 0 ? begun : 0;
    while (left > 0) { // all of them have ended, unless a file is read in another way than files are
        long n = syscall(SYS_io_getevents, stage->context, left, left, stage->ended, NULL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            abort(); // they may still write to memory that is not ours any more
        for (long i = 0; i < n; i++) {
            uint64_t read = stage->ended[i].data;
            stage->made[read] = stage->ended[i].res == (int64_t)stage->wanted[read];
            bytes += stage->wanted[read];
        }
        left -= n;
    }
    int waited = file_speed_ticks() - start > FILE_SPEED_WAITED + bytes * FILE_SPEED_PER_BYTE;
    // One of many files is judged at a time; each has its turn.
    struct file_speed *speed = file_speed_of(speeds, (int)stage->calls[0].aio_fildes);
    if (begun > 0 && speed->cannot_tell)
        file_speed_read_here(speed, waited);
}

// Finishes a command if all its reads were made; runs and stored bytes are used up in the order they were
// taken.
static int finish(struct io_loop *loop, const struct staged *s, const struct read_run **run, uint64_t *stored)
{
    struct stage *stage = loop->stage;
    struct cursor c = {s->iov, s->iov + s->iov_count, 0};
    int good = 1;
    for (uint32_t i = 0; i < s->read_count; i++)
        good &= stage->made[s->first_read + i];
    const struct read_step *step = &stage->steps[s->first_step], *end = step + s->step_count;
    for (; step < end; step += (*run)->count, (*run)++) {
        good =
            good && obd_finish_run(step, *run, stage->stored + *stored, &c, &loop->scratch) == EXECUTE_DONE;
        if ((*run)->kind == RUN_PACKED)
            *stored += (*run)->bytes;
    }
    return good;
}

void stage_execute(struct io_loop *loop)
{
    struct stage *stage = loop->stage;
    if (stage->filled.reads > 2)
        make(stage, loop->scratch.speeds);
    const struct read_run *run = stage->runs;
    uint64_t stored = 0;
    for (uint32_t i = 0; i < stage->count; i++) {
        struct staged *s = &stage->commands[i];
        if (finish(loop, s, &run, &stored)) {
            loop->stats.inline_reads++;
            s->slot->cause = CAUSE_LOCAL;
            io_loop_end(loop, s->index, s->slot, 0);
        } else {
            // Not cached, or a file that ends or is bad: the ordinary way finds out which.
            io_loop_execute_here(loop, s->index, s->slot, &stage->steps[s->first_step], s->step_count, s->iov,
                                 s->iov_count);
        }
    }
    stage->count = 0;
    stage->filled = (struct filled){0};
}
