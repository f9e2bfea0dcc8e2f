// Small reads of one round, made with one system call where a call costs microseconds (User-Mode Linux, some
// sandboxes). Linux's asynchronous I/O does that: io_submit carries out buffered reads then and there.
#pragma once
#include "io_loop_internal.h"

// Whether system calls are dear on this machine.
int stage_pays(void);
struct stage *stage_create(void); // NULL: no memory, or the kernel refuses
void stage_destroy(struct stage *stage);
// Takes the first `count` of loop->steps, all of a command, if they are one small read. False if not.
int stage_read(struct io_loop *loop, uint32_t index, struct slot *slot, size_t count, const struct iovec *iov,
               int iov_count);
// Makes the reads that were taken and ends their commands.
void stage_execute(struct io_loop *loop);
