// Reads and writes a file or block device as fast as a number of commands in flight allows, through the
// kernel's asynchronous I/O (io_submit), and measures. With O_DIRECT this is what a file system does to a
// disk; without, the kernel makes each command synchronous and the depth means nothing.
#pragma once
#include "load_meter.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { FILE_LOAD_MAX_DEPTH = 1024, FILE_LOAD_MAX_LENGTH = 16 << 20, FILE_LOAD_MAX_MEMORY = 256 << 20 };

struct file_load {
    int fd;
    uint32_t depth;
    struct load_places places;
    double seconds;  // stop after so long
    uint32_t writes; // percent; what is written is noise
    uint64_t seed;
};

struct file_load_result {
    uint64_t operations;
    uint64_t failed;   // short, or ended in an error
    int first_failure; // -errno of the first that failed; 0: it was short
    int error;         // of the load itself: -errno; -ETIMEDOUT: no answer for a minute
    struct load_times times;
};

// Any thread; waits for the end. Memory: depth times length.
void file_load_run(const struct file_load *load, struct file_load_result *result);

#ifdef __cplusplus
}
#endif
