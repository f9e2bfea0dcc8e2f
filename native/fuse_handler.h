// A FUSE connection that shows one file, the block device, as an io_queue.
//
// The queue speaks the kernel's protocol itself on the descriptor of /dev/fuse: lookups, attributes, opens
// and the directory are answered here; READ, WRITE, FALLOCATE and FSYNC of the file are handed out as
// commands.
#pragma once
#include "io_queue.h"

#ifdef __cplusplus
extern "C" {
#endif

// Largest read or write of one request, as negotiated: 256 pages.
#define OBD_FUSE_MAX_IO (1u << 20)

// Makes a queue on `fd`, an open /dev/fuse (or, in tests, a SOCK_SEQPACKET socket that plays its part).
// `size` is a multiple of 512. On success the queue owns `fd` and closes it in destroy, which ends the
// connection: whoever still waits gets an error. On failure `fd` stays the caller's. Any thread; afterwards
// the loop thread's.
int obd_fuse_queue_open(int fd, const char *name, uint64_t size, int read_only, struct io_queue **out);

// Undoes obd_fuse_queue_open before the queue was given to a loop: `fd` is the caller's again.
void obd_fuse_queue_abandon(struct io_queue *q);

#ifdef __cplusplus
}
#endif
