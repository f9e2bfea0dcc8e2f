// Plans are carried out: here, or with the help of the pool's threads.
//
// What is quick to do is done here at once. A round's work that takes longer is cut into parts, which the
// pool's helpers and this thread take in turns until none is left. A part that would wait for a disk goes to
// the pool's other threads.
#include "io_loop_internal.h"
#include "io_stage.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// Work is counted in plain bytes of LZ4, of which a processor unpacks one to three in a nanosecond.
enum {
    ZSTD_WEIGHT = 4,        // zstd takes about as many times longer
    COPY_SHARE = 8,         // copying is about as many times quicker
    PART_WORK = 96 << 10,   // of one part: long against handing it over, short against a command's latency
    SHARED_WORK = 224 << 10 // of a round, from which on it is shared
};

static uint32_t work_of(const struct read_step *s)
{
    switch (s->codec & 15) {
    case READ_LZ4:
        return s->plain;
    case READ_ZSTD:
        return s->plain * ZSTD_WEIGHT;
    default:
        return s->length / COPY_SHARE;
    }
}

static void retry(struct io_loop *loop, uint32_t index, struct slot *slot)
{
    slot->state = RETRIED;
    slot->cause = CAUSE_GENERAL;
    loop->stats.retried_reads++;
    loop->retries[loop->retry_count++] =
        index * IO_QUEUE_DEPTH + (uint32_t)(slot - loop->queues[index]->slots);
}

static struct io_job *make_job(struct io_loop *loop, uint32_t index, const struct slot *slot,
                               const struct read_step *steps, size_t count)
{
    struct io_job *job = malloc(sizeof *job + count * sizeof job->steps[0]);
    if (!job)
        return NULL;
    struct served *s = loop->queues[index];
    job->next = NULL;
    job->queue = s->queue;
    job->queue_index = index;
    job->slot = (uint32_t)(slot - s->slots);
    job->command = slot->command.id;
    job->count = (uint32_t)count;
    memcpy(job->steps, steps, count * sizeof job->steps[0]);
    return job;
}

// The pool has the job, or will have: its slot waits for it.
static void given(struct io_loop *loop, struct slot *slot, struct io_job *job)
{
    if (slot->state != IN_POOL) {
        slot->state = IN_POOL;
        slot->parts = slot->bad = 0;
        slot->cause = CAUSE_LOCAL;
        loop->stats.pool_reads++;
    }
    slot->parts++;
    job->seq = ++loop->pool_seq;
    job->newer = NULL;
    job->older = loop->newest;
    *(loop->newest ? &loop->newest->newer : &loop->oldest) = job;
    loop->newest = job;
}

// A job is over, wherever it ran.
static void taken_back(struct io_loop *loop, struct io_job *job)
{
    *(job->older ? &job->older->newer : &loop->oldest) = job->newer;
    *(job->newer ? &job->newer->older : &loop->newest) = job->older;
    struct slot *slot = &loop->queues[job->queue_index]->slots[job->slot];
    slot->bad |= job->result != EXECUTE_DONE;
    if (--slot->parts == 0) {
        if (slot->bad)
            retry(loop, job->queue_index, slot);
        else
            io_loop_end(loop, job->queue_index, slot, 0);
    }
    free(job);
}

void io_loop_drain_pool(struct io_loop *loop)
{
    for (struct io_job *job = io_pool_take_done(loop->pool), *next; job; job = next) {
        next = job->next;
        for (uint32_t i = 0; i < job->count; i++)
            if (job->steps[i].codec != READ_ZERO && (i == 0 || job->steps[i].fd != job->steps[i - 1].fd))
                file_speed_read_elsewhere(file_speed_of(loop->scratch.speeds, job->steps[i].fd), job->waited);
        if (job->waited)
            loop->queues[job->queue_index]->slots[job->slot].cause = CAUSE_DISK;
        taken_back(loop, job);
    }
}

// Lets a thread that may wait carry out a job that has been `given`.
static void wait_elsewhere(struct io_loop *loop, struct io_job *job)
{
    loop->queues[job->queue_index]->slots[job->slot].cause = CAUSE_DISK;
    if (io_pool_wait_for(loop->pool, job) < 0) {
        job->result = EXECUTE_BAD;
        taken_back(loop, job);
    }
}

void io_loop_execute_elsewhere(struct io_loop *loop, uint32_t index, struct slot *slot,
                               const struct read_step *steps, size_t count)
{
    struct io_job *job = make_job(loop, index, slot, steps, count);
    if (job) {
        given(loop, slot, job);
        wait_elsewhere(loop, job);
    } else {
        retry(loop, index, slot);
    }
}

void io_loop_execute_here(struct io_loop *loop, uint32_t index, struct slot *slot,
                          const struct read_step *steps, size_t count, const struct iovec *iov, int iov_count)
{
    switch (obd_execute(steps, count, iov, iov_count, &loop->scratch)) {
    case EXECUTE_DONE:
        loop->stats.inline_reads++;
        slot->cause = loop->scratch.kept ? CAUSE_DECODED : CAUSE_LOCAL;
        io_loop_end(loop, index, slot, 0);
        break;
    case EXECUTE_WOULD_BLOCK:
        io_loop_execute_elsewhere(loop, index, slot, steps, count);
        break;
    case EXECUTE_BAD:
        retry(loop, index, slot);
    }
}

// Cuts loop->steps into jobs and appends them to a list. False, and nothing done, if there is no memory.
static int cut(struct io_loop *loop, uint32_t index, struct slot *slot, size_t count, struct io_job ***last)
{
    struct io_job **before = *last, **at = before;
    for (size_t first = 0, end; first < count; first = end) {
        uint32_t work = 0;
        for (end = first; end < count && work < PART_WORK; end++)
            work += work_of(&loop->steps[end]);
        struct io_job *job = make_job(loop, index, slot, loop->steps + first, end - first);
        if (!job) {
            while ((job = *before)) {
                *before = job->next;
                free(job);
            }
            return 0;
        }
        *at = job;
        at = &job->next;
    }
    for (struct io_job *job = *before; job; job = job->next)
        given(loop, slot, job);
    *last = at;
    return 1;
}

// Takes part in the work that the pool was given, until none is left that nobody has begun.
static void help(struct io_loop *loop)
{
    uint32_t untold = 0; // work done since the other sides were told
    for (struct io_job *job; (job = io_pool_take_compute(loop->pool));) {
        for (uint32_t i = 0; i < job->count; i++)
            untold += work_of(&job->steps[i]);
        const struct iovec *iov;
        int iov_count;
        job->result = EXECUTE_BAD;
        if (job->queue->ops->buffers(job->queue, job->command, &iov, &iov_count) == 0)
            job->result = obd_execute(job->steps, job->count, iov, iov_count, &loop->scratch);
        if (job->result == EXECUTE_WOULD_BLOCK)
            wait_elsewhere(loop, job);
        else
            taken_back(loop, job);
        if (untold >= PART_WORK) {
            io_loop_drain_pool(loop);
            io_loop_kick(loop);
            untold = 0;
        }
    }
}

// Checks one command of a batch: loop->steps are its steps, or it is handed back. 0 if it is to be carried
// out, 1 if not, -EINVAL if it is not the caller's to plan.
static int prepare(struct io_loop *loop, struct io_planned p, const struct read_descriptor *plan,
                   size_t plan_count, uint32_t *index, struct slot **slot, const struct iovec **iov,
                   int *iov_count)
{
    *slot = io_loop_find(loop, p.id, index);
    if (!*slot || (*slot)->command.op != IO_READ || !(p.first >= 0 && p.count >= 0) ||
        p.first + p.count > (double)plan_count)
        return -EINVAL;
    size_t first = (size_t)p.first, count = (size_t)p.count;
    struct io_queue *q = loop->queues[*index]->queue;
    if (count > STEPS || obd_check_steps(plan + first, count, (*slot)->command.length, loop->steps) < 0 ||
        q->ops->buffers(q, (*slot)->command.id, iov, iov_count) < 0) {
        loop->stats.refused_plans++;
        retry(loop, *index, *slot);
        return 1;
    }
    return 0;
}

// The work of a batch, as far as its descriptors can be believed; nothing is done on its account but to
// share.
static int worth_sharing(const struct io_planned *batch, size_t batch_count,
                         const struct read_descriptor *plan, size_t plan_count)
{
    double work = 0;
    for (size_t i = 0; i < batch_count; i++)
        for (double at = batch[i].first; at >= 0 && at < batch[i].first + batch[i].count && at < plan_count;
             at++) {
            const struct read_descriptor *d = &plan[(size_t)at];
            int codec = d->codec >= 0 && d->codec < 32 ? (int)d->codec & 15 : 0;
            work += codec == READ_ZSTD  ? d->plain_length * ZSTD_WEIGHT
                    : codec == READ_LZ4 ? d->plain_length
                                        : d->length / COPY_SHARE;
            if (work >= SHARED_WORK)
                return 1;
        }
    return 0;
}

int io_loop_execute(struct io_loop *loop, const struct io_planned *batch, size_t batch_count,
                    const struct read_descriptor *plan, size_t plan_count)
{
    const int share = io_pool_helpers(loop->pool) > 0 && worth_sharing(batch, batch_count, plan, plan_count);
    struct io_job *list = NULL, **last = &list;
    int result = 0;
    for (size_t i = 0; i < batch_count && result >= 0; i++) {
        uint32_t index;
        struct slot *slot;
        const struct iovec *iov;
        int iov_count;
        result = prepare(loop, batch[i], plan, plan_count, &index, &slot, &iov, &iov_count);
        size_t count = (size_t)batch[i].count;
        if (result != 0 || (share && cut(loop, index, slot, count, &last)) ||
            (loop->stage && !share && stage_read(loop, index, slot, count, iov, iov_count)))
            continue;
        io_loop_execute_here(loop, index, slot, loop->steps, count, iov, iov_count);
    }
    if (loop->stage)
        stage_execute(loop);
    if (list) {
        io_pool_compute(loop->pool, list);
        help(loop);
    }
    return result < 0 ? result : 0;
}

void io_loop_forget_files(struct io_loop *loop)
{
    file_speed_forget(loop->scratch.speeds);
    block_cache_clear(loop->scratch.cache);
}
