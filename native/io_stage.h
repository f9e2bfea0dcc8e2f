// The reads of a round, made with a few system calls where a call costs microseconds (User-Mode Linux, some
// sandboxes): small reads of many commands, and the many reads of one command whose bytes lie scattered.
// Linux's asynchronous I/O does that: io_submit carries out buffered reads then and there.
#pragma once
#include "io_loop_internal.h"

// Whether system calls are dear on this machine.
int stage_pays(void);
struct stage *stage_create(void); // NULL: no memory, or the kernel refuses
void stage_destroy(struct stage *stage);
// Takes the first `count` of loop->steps, all of a command. False if they are too many, or not to be read
// here.
int stage_read(struct io_loop *loop, uint32_t index, struct slot *slot, size_t count, const struct iovec *iov,
               int iov_count);
// Makes the reads that were taken and ends their commands.
void stage_execute(struct io_loop *loop);
