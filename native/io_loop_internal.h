// Inside of the I/O loop, shared by io_loop.c (queues, commands), io_loop_plan.c (plans and the pool) and
// io_loop_wait.c (waiting, fetching, telling).
#pragma once
#include "block_cache.h"
#include "file_speed.h"
#include "io_loop.h"
#include "io_pool.h"
#include "io_spin.h"

// STAGED: one of a few reads that are about to be made; RETRIED: to be handed back at the next report
enum { FREE = 0, WITH_JS, STAGED, IN_POOL, RETRIED };
enum {
    STOP = 1,              // added to the wake descriptor, times 2^32
    FETCH_AT_ONCE = 64,    // commands of one queue before its neighbours get their turn
    READY_AT_ONCE = 64,    // epoll events of one wait
    STEPS = 1024,          // descriptors of one command; a command of more is answered the general way
    KEY_WAKE = 0x7fffffff, // epoll keys that are no queue index
    KEY_POOL = 0x7ffffffe,
};
#define IDS_PER_GENERATION ((uint64_t)IO_MAX_QUEUES * IO_QUEUE_DEPTH)
_Static_assert(IDS_PER_GENERATION << 32 < 1ull << 53, "an id is an exact double");

struct slot {
    struct io_command command;
    uint32_t generation; // counts uses, so that a late answer finds nobody
    uint16_t state, next_free;
    uint16_t parts; // IN_POOL: jobs that are not back
    uint16_t bad;   // IN_POOL: one of them failed
    uint16_t cause; // enum io_cause
    uint64_t began; // ticks
};

struct served {
    struct io_queue *queue;
    struct io_meter *meter; // or NULL
    uint16_t free_slot;     // head of the free list; IO_QUEUE_DEPTH when none is left
    uint16_t in_flight;
    uint8_t polled;  // in the epoll set
    uint8_t hot;     // fetch may find more without polling
    uint8_t touched; // completed something since the last kick
    uint8_t closing, dead;
    struct slot slots[IO_QUEUE_DEPTH];
};

struct io_loop {
    int epoll_fd, wake_fd, done_fd;
    int stopped;
    struct io_pool *pool;
    struct execute_scratch scratch;
    struct read_step steps[STEPS];
    struct served *queues[IO_MAX_QUEUES];
    uint32_t queue_end; // indexes in use are below
    uint32_t touched[IO_MAX_QUEUES], touched_count;
    uint32_t hot_count;
    uint32_t next_hot; // where the round of hot queues goes on
    // RETRIED slots, as index * IO_QUEUE_DEPTH + slot; there is room for every slot of every queue.
    uint32_t *retries;
    size_t retry_count, retry_room;
    uint32_t closed[IO_MAX_QUEUES], closed_count; // destroyed, not reported yet
    struct {
        uint32_t index;
        int error;
    } dead[IO_MAX_QUEUES]; // found dead, not reported yet
    uint32_t dead_count;
    struct stage *stage;            // io_stage.h; NULL: reads are made one by one
    struct io_job *oldest, *newest; // in the pool, by age
    uint64_t pool_seq;
    struct io_loop_stats stats;
    struct io_clock clock;
    struct io_spin spin;
    int answered; // a command of a queue that can be looked at, since the last wait
};

// io_loop.c
int io_loop_watch(struct io_loop *loop, int fd, uint32_t key);
void io_loop_set_hot(struct io_loop *loop, struct served *s, int hot);
void io_loop_set_polled(struct io_loop *loop, struct served *s, uint32_t index, int polled);
double io_loop_id(uint32_t index, uint32_t slot, uint32_t generation);
// The slot that an id of JavaScript names, if it is WITH_JS.
struct slot *io_loop_find(struct io_loop *loop, double id, uint32_t *index);
// Completes a command and frees its slot.
void io_loop_end(struct io_loop *loop, uint32_t index, struct slot *slot, int status);
// Tells the other sides of what was completed since the last call.
void io_loop_kick(struct io_loop *loop);

// io_loop_plan.c
// Completes what the pool has finished, and marks for telling what it could not.
void io_loop_drain_pool(struct io_loop *loop);
// Carries out a command's steps here and now, or as much of it as can be done without waiting.
void io_loop_execute_here(struct io_loop *loop, uint32_t index, struct slot *slot,
                          const struct read_step *steps, size_t count, const struct iovec *iov,
                          int iov_count);
// Has threads that may wait carry out a command's steps.
void io_loop_execute_elsewhere(struct io_loop *loop, uint32_t index, struct slot *slot,
                               const struct read_step *steps, size_t count);
// File descriptors may name other files from now on.
void io_loop_forget_files(struct io_loop *loop);
