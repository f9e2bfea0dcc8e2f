// One TCMU device as a queue of block commands (io_queue.h): a UIO descriptor, its shared memory, SCSI in
// between.
#pragma once
#include "io_queue.h"
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct tcmu_options {
    uint64_t size; // of the image, bytes
    int read_only;
    const char *config; // VPD page 83; copied
    const char *
        serial_path; // configfs file that holds the unit serial, read when asked for; copied; NULL: no serial
};

// Takes over an open, non-blocking descriptor to be read, written (4 bytes each) and polled, and a shared
// mapping of map_size bytes; both are released with the queue, or at once on failure. 0, -EPROTO (not a ring
// of version 2), -ENOMEM.
int tcmu_queue_create(int fd, void *map, size_t map_size, const struct tcmu_options *options,
                      struct io_queue **out);
// Opens and maps /dev/uioN. -EBUSY: somebody else has it.
int tcmu_queue_open(const char *path, size_t map_size, const struct tcmu_options *options,
                    struct io_queue **out);

#ifdef __cplusplus
}
#endif
