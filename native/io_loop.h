// One thread's loop over many queues of block commands (io_queue.h): wait, fetch, execute read plans,
// complete.
//
// A command goes through these states; only the loop's thread changes them, and every transition is checked,
// so that JavaScript cannot complete a command twice or touch memory that is gone:
//
//   FREE --fetch--> WITH_JS --io_loop_execute, all in page cache--> FREE (completed)
//                      |  ^-- EVENT_RETRY_READ -- RETRIED <-- bad data, or a plan that does not fit
//                      |  --io_loop_execute, would block or long to unpack--> IN_POOL, in parts
//                      |         --all parts done--> FREE (completed), or RETRIED
//                      '--io_loop_complete / _read_from--> FREE (completed)
//
// Each queue has IO_QUEUE_DEPTH slots of its own: a queue whose commands all wait (for a registry, say) is
// not polled until one ends, and does not disturb its neighbours.
#pragma once
#include "executor.h"
#include "io_meter.h"
#include "io_queue.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { IO_QUEUE_DEPTH = 256, IO_MAX_QUEUES = 1024 };

// Beside enum io_op, what an event may say.
enum io_event_kind {
    EVENT_RETRY_READ = 5,   // the plan could not be carried out; answer this read the general way
    EVENT_QUEUE_DEAD = 6,   // fetch failed with -length; no more commands from it. Remove it
    EVENT_QUEUE_CLOSED = 7, // a removal is complete: the queue is destroyed and its index free
    EVENT_WOKEN = 8,        // somebody wrote to the wake descriptor
};

struct io_event { // doubles for JavaScript
    double kind, queue, id, offset, length;
};
enum { EVENT_STRIDE = sizeof(struct io_event) / sizeof(double) };

// One command of a batch: its descriptors are [first, first + count) of the plan.
struct io_planned {
    double id, first, count;
};
enum { PLANNED_STRIDE = sizeof(struct io_planned) / sizeof(double) };

struct io_loop_stats {
    uint64_t inline_reads, pool_reads, retried_reads, refused_plans;
};

struct io_loop;

// wake_fd: an eventfd that outlives the loop, owned by the caller. Anybody adds 1 to make io_loop_wait
// return, or 2^32 to make it return -ECANCELED from then on. 0 or -errno.
int io_loop_create(int wake_fd, struct io_loop **out);
// Small reads are made in groups from now on, whether that pays here or not (io_stage.h); for tests. 0 or
// -errno.
int io_loop_group_reads(struct io_loop *loop);
// Waits for the pool, then destroys the queues even if commands are in flight (they are abandoned: the next
// server of the device finds them unanswered).
void io_loop_destroy(struct io_loop *loop);

// The loop owns the queue from now on, and counts its commands in `meter`, which stays the caller's and must
// outlive the queue; NULL: they are not counted. The queue's index, or -errno (-EMFILE: IO_MAX_QUEUES
// reached); on failure the queue is still the caller's.
int io_loop_add(struct io_loop *loop, struct io_queue *queue, struct io_meter *meter);
// No more fetches; once its last command ends the queue is destroyed and EVENT_QUEUE_CLOSED follows. 0 or
// -ENOENT.
int io_loop_remove(struct io_loop *loop, uint32_t index);

// Carries out planned reads. `plan` holds plan_count descriptors. 0, or -EINVAL if an id is not a read that
// is WITH_JS or a range leaves the plan (commands before it are done). A plan that does not fit its command
// becomes a retry.
int io_loop_execute(struct io_loop *loop, const struct io_planned *batch, size_t batch_count,
                    const struct read_descriptor *plan, size_t plan_count);
// Tells the other sides what was completed, then waits up to timeout_ms (-1: for ever) unless there is work.
// Fills events; their number, possibly 0, or -ECANCELED when told to stop, or -errno.
int io_loop_wait(struct io_loop *loop, struct io_event *events, int max, int timeout_ms);

// Ends a command that is WITH_JS: with a status; with a read's data; all 0 or -ENOENT/-EINVAL if it is not
// that.
int io_loop_complete(struct io_loop *loop, double id, int status);
int io_loop_complete_read(struct io_loop *loop, double id, const void *data, size_t length);
// Copies a write's data out. 0 or -ENOENT/-EINVAL. Does not end the command.
int io_loop_write_data(struct io_loop *loop, double id, void *into, size_t length);

// Number of commands given to the pool so far; and whether all of the first `mark` have left it.
uint64_t io_loop_pool_mark(const struct io_loop *loop);
int io_loop_pool_passed(const struct io_loop *loop, uint64_t mark);
struct io_loop_stats io_loop_get_stats(const struct io_loop *loop);

// Hands a queue from the thread that made it to the thread that serves it, as a number that JavaScript can
// post. Any thread. publish: the handle, > 0, or -errno (-EMFILE). take: the queue, once, or NULL.
int io_queue_publish(struct io_queue *queue);
struct io_queue *io_queue_take(int handle);

#ifdef __cplusplus
}
#endif
