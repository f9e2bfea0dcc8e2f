// A queue of block commands from somebody's protocol: a TCMU ring, a FUSE connection, a test's fake kernel.
//
// The I/O loop (io_loop.h) polls many queues on one thread. A queue answers by itself whatever is not data
// (SCSI inquiry, FUSE lookup), and hands out only read, write, discard and flush, as byte ranges already
// checked against the device size. Each handed-out command is completed exactly once, in any order.
//
// Thread: all functions are called by the one loop thread that owns the queue, except where said.
#pragma once
#include <stdint.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

enum io_op { IO_READ = 1, IO_WRITE = 2, IO_DISCARD = 3, IO_FLUSH = 4 };

struct io_command {
    uint32_t id;     // unique among this queue's commands in flight
    uint32_t op;     // enum io_op
    uint64_t offset; // bytes
    uint64_t length; // bytes; for reads and writes the sum of the iovecs
};

struct io_queue;

struct io_queue_ops {
    // Takes up to max new data commands without blocking; returns how many, or -errno when the queue is dead
    // (-ENODEV: the other side is gone, the normal end). Non-data commands met on the way are answered here.
    int (*fetch)(struct io_queue *q, struct io_command *out, int max);
    // Memory of a read's destination or a write's source. Valid until complete(). The sum of lengths is the
    // command's length. Any thread (the pool fills it).
    int (*buffers)(struct io_queue *q, uint32_t id, const struct iovec **iov, int *count);
    // Ends a command: status 0 or -errno (-EIO medium error, -EROFS, -ENOSPC, -EBUSY retry later, ...).
    void (*complete)(struct io_queue *q, uint32_t id, int status);
    // Called once after a batch of completions: tell the other side.
    void (*kick)(struct io_queue *q);
    // Whether fetch would find something, told by one look at memory; NULL where that takes a system call.
    int (*waits)(struct io_queue *q);
    // Releases everything. No command is in flight, unless the loop itself ends: those are then abandoned.
    void (*destroy)(struct io_queue *q);
};

// First member of every queue's own structure.
struct io_queue {
    const struct io_queue_ops *ops;
    int poll_fd;   // readable when fetch may find something
    uint64_t size; // device size in bytes
    int read_only; // writes and discards never reach fetch's caller
};

#ifdef __cplusplus
}
#endif
