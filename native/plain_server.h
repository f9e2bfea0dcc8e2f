// The yardstick: a thread that serves a queue (io_queue.h) from a plain file with nothing but C, one blocking
// pread after the other. What JavaScript costs in an I/O loop is the difference to this.
#pragma once
#include "io_queue.h"

#ifdef __cplusplus
extern "C" {
#endif

struct plain_server;

// Owns the queue from now on, even on failure; the descriptor is borrowed until plain_server_stop. 0 or
// -errno.
int plain_server_start(struct io_queue *queue, int fd, struct plain_server **out);
// Ends the thread and the queue. Any thread.
void plain_server_stop(struct plain_server *s);

#ifdef __cplusplus
}
#endif
