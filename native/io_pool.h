// A few threads that carry out reads which would make the loop wait: not in the page cache, or long to
// unpack. Owned by one loop. Threads start when the first job needs them.
#pragma once
#include "executor.h"
#include "io_queue.h"

struct io_job {
    struct io_job *next;          // in the pool's lists
    struct io_job *older, *newer; // in flight, by age; the loop's thread only
    struct io_queue *queue;
    uint64_t seq; // 1, 2, 3...
    uint32_t queue_index, slot, command;
    uint32_t count;
    enum execute_result result;
    struct read_step steps[];
};

struct io_pool;

// done_fd: an eventfd that the pool adds 1 to when a job ends. 0 or -errno.
int io_pool_create(int max_threads, int done_fd, struct io_pool **out);
void io_pool_destroy(struct io_pool *pool); // ends the threads; jobs not begun are dropped with the rest
// Takes the job (malloc'ed by the caller) until it comes back. 0, or -errno if no thread can be had.
int io_pool_submit(struct io_pool *pool, struct io_job *job);
// All jobs that ended since the last call, linked by next; the caller frees them.
struct io_job *io_pool_take_done(struct io_pool *pool);
