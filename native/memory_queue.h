// A queue whose other side is this process: for tests and benchmarks of everything above io_queue.h.
// One client submits, the loop that owns the queue answers. Two owners: the client and the loop; the memory
// goes with the last of them.
#pragma once
#include "io_queue.h"
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { MEMORY_QUEUE_DEPTH = 1024 };

struct memory_queue;

// notify is called by the loop's thread when answers wait to be taken. 0 or -errno. Client's thread, as all
// below.
int memory_queue_create(uint64_t size, int read_only, void (*notify)(void *), void *context,
                        struct memory_queue **out);
// The queue to hand to a loop, once.
struct io_queue *memory_queue_server(struct memory_queue *m);
// data: what to write, copied; else ignored. 0 <= id < MEMORY_QUEUE_DEPTH, or -errno: -EAGAIN when that many
// are in flight, -ERANGE outside the device, -EROFS, -ENODEV after close or when the loop let go of the
// queue.
int memory_queue_submit(struct memory_queue *m, enum io_op op, uint64_t offset, uint64_t length,
                        const void *data);
// One answer: 1, or 0 when there is none. *data is what was read and lies in the queue until
// memory_queue_release(id).
int memory_queue_take(struct memory_queue *m, int *id, int *status, const void **data, size_t *length);
void memory_queue_release(struct memory_queue *m, int id);
// How many answers came for commands that were not in flight. Always 0, or the loop has a bug.
int memory_queue_violations(struct memory_queue *m);
// The client is gone: the loop sees a dead queue. Frees m when the loop has let go too.
void memory_queue_close(struct memory_queue *m);

#ifdef __cplusplus
}
#endif
