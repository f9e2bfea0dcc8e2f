// Threads beside the loop's own, for reads that would make it wait: bytes that are not in the page cache, and
// unpacking that more than one processor can share. Owned by one loop. Threads start when a job needs them.
//
// Jobs that wait for a disk each take a thread, up to IO_POOL_WAITERS. Jobs that only compute are for as many
// threads as there are processors beside the loop's (IO_POOL_HELPERS at most), and the loop takes its share
// of them itself; on a machine of one processor there are none.
#pragma once
#include "executor.h"
#include "io_queue.h"

enum { IO_POOL_WAITERS = 32, IO_POOL_HELPERS = 3 };

// A run of one command's steps.
struct io_job {
    struct io_job *next;          // in the pool's lists
    struct io_job *older, *newer; // in flight, by age; the loop's thread only
    struct io_queue *queue;
    uint64_t seq; // 1, 2, 3...
    uint32_t queue_index, slot, command;
    uint32_t count;
    int waited; // it took as long as a disk does
    enum execute_result result;
    struct read_step steps[];
};

struct io_pool;

// Processors that this thread may run on.
int io_pool_processors(void);

// done_fd: an eventfd that the pool adds 1 to when a job ends and the loop sleeps. 0 or -errno.
int io_pool_create(int done_fd, struct io_pool **out);
void io_pool_destroy(struct io_pool *pool); // ends the threads; jobs not begun are dropped with the rest
// Number of threads that may compute beside the loop's; constant.
int io_pool_helpers(const struct io_pool *pool);

// Both take jobs (malloc'ed by the caller) until they come back. A list is linked by next, in order.
// 0, or -errno if no thread can be had: the job is still the caller's.
int io_pool_wait_for(struct io_pool *pool, struct io_job *job);
void io_pool_compute(struct io_pool *pool, struct io_job *list);
// A job of io_pool_compute that nobody has begun, for the loop to carry out; NULL if there is none.
struct io_job *io_pool_take_compute(struct io_pool *pool);

// All jobs that ended since the last call, linked by next; the caller frees them.
struct io_job *io_pool_take_done(struct io_pool *pool);
// Says that the loop is going to sleep, so that the next end is told through done_fd. False if some have
// ended already: it must not sleep. Not to be said again while it holds.
int io_pool_may_sleep(struct io_pool *pool);
void io_pool_awake(struct io_pool *pool);
