// Carries out read plans: which stored bytes, in which codec, make up one command's data.
//
// TypeScript writes descriptors of eight doubles (src/blob/read-plan.ts has the same layout); obd_check_steps
// turns them into checked steps, obd_execute reads, checks, unpacks and places them. Stored blocks that lie
// one after another in a file are fetched with one pread; a wholly wanted block is unpacked straight into the
// command's memory.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

// As written by TypeScript; see src/blob/read-plan.ts for the fields.
struct read_descriptor {
    double fd, file_offset, stored_length, codec, plain_length, skip, length, destination;
};
enum { PLAN_STRIDE = sizeof(struct read_descriptor) / sizeof(double) };
#ifdef __cplusplus
static_assert(sizeof(struct read_descriptor) == 64, "one descriptor is eight doubles");
#else
_Static_assert(sizeof(struct read_descriptor) == 64, "one descriptor is eight doubles");
#endif

enum { READ_RAW = 0, READ_LZ4 = 1, READ_ZSTD = 2, READ_ZERO = 3, READ_CRC_CHECKED = 16 };
enum { READ_CRC_LENGTH = 4 }; // bytes behind a packed block

// The same, checked.
struct read_step {
    uint64_t file_offset;
    uint64_t destination;
    int fd;
    uint32_t codec;  // with READ_CRC_CHECKED
    uint32_t stored; // bytes in the file, crc included
    uint32_t plain;
    uint32_t skip;
    uint32_t length;
};

enum {
    EXECUTE_MAX_BLOCK = 1 << 20,                         // most plain bytes of one packed block
    EXECUTE_MAX_STORED = EXECUTE_MAX_BLOCK + (64 << 10), // most bytes of one read of packed blocks
    EXECUTE_MAX_COMMAND = 64 << 20,                      // most bytes of one command
};

enum execute_result {
    EXECUTE_DONE = 0,
    EXECUTE_WOULD_BLOCK = 1, // something is not in the page cache; only with scratch->speeds
    EXECUTE_BAD = 2,         // short read, I/O error, crc mismatch, corrupt block: ask again the general way
};

// Working memory of one thread. Zero it before first use; pages are touched only when needed.
struct execute_scratch {
    unsigned char *stored; // EXECUTE_MAX_STORED
    unsigned char *plain;  // EXECUTE_MAX_BLOCK
    // What is known of the files' speed (file_speed.h); NULL on threads that may wait.
    struct file_speeds *speeds;
    // Blocks wanted in part, kept for the next part (block_cache.h); NULL: none are kept.
    struct block_cache *cache;
    int waited; // set when a read took as long as one that waits for a disk
    int kept;   // set when a block of the cache was used
};
int obd_scratch_init(struct execute_scratch *s); // 0 or -ENOMEM
void obd_scratch_free(struct execute_scratch *s);

// Checks count descriptors that must cover [0, length) of a command in ascending order, and converts them.
// 0, or -EINVAL when a field is no integer, out of bounds, or the cover has a gap or an overlap. Any thread.
int obd_check_steps(const struct read_descriptor *in, size_t count, uint64_t length, struct read_step *out);

// Fills the part of a command's memory that the steps make up. The iovecs are the whole command's. With
// scratch->speeds it does not wait for a disk (see file_speed.h). Memory of the command is unspecified unless
// EXECUTE_DONE. Any thread, each with its own scratch.
enum execute_result obd_execute(const struct read_step *steps, size_t count, const struct iovec *iov,
                                int iov_count, struct execute_scratch *scratch);

// The parts of obd_execute, for who reads by himself (io_stage.h). A run is as many steps as are done in one
// go: zeroes, a block that was kept, or one read of a file.
enum read_run_kind { RUN_ZEROES, RUN_KEPT, RUN_RAW, RUN_PACKED };
struct read_run {
    size_t count; // steps
    enum read_run_kind kind;
    uint64_t bytes; // to be read from the first step's file_offset on, of RUN_RAW and RUN_PACKED
};
// The run that begins with steps[0]; its number of steps.
size_t obd_next_run(const struct read_step *steps, size_t count, struct execute_scratch *scratch,
                    struct read_run *run);
// What is left to do when its bytes are read: those of RUN_RAW into their place in the command's memory,
// those of RUN_PACKED to `stored`. Moves the cursor over the run. EXECUTE_BAD also for a block that is kept
// no more.
struct cursor;
enum execute_result obd_finish_run(const struct read_step *steps, const struct read_run *run,
                                   const unsigned char *stored, struct cursor *c,
                                   struct execute_scratch *scratch);

// Copies between a flat buffer and iovecs, at most length bytes from their start; returns the bytes copied.
size_t obd_scatter(const struct iovec *iov, int iov_count, const void *from, size_t length);
size_t obd_gather(const struct iovec *iov, int iov_count, void *into, size_t length);

#ifdef __cplusplus
}
#endif
