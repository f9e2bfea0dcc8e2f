// The blocks of a ZFile on their way into a file: plain bytes are gathered into batches, batches are packed
// by threads of the stream's own, and what they make is written in order. The stored bytes do not depend on
// how the plain ones were cut into calls, nor on the number of threads.
//
//   append ──► batch being filled ──► packed by any thread ──► written in turn, by whoever finishes the next
//
// With OBD_CODEC_RAW what is written are the plain bytes themselves, without checksums and table: the data of
// a layer that is not packed.
//
// Memory: a fixed number of batches, plain and packed, and 4 bytes for each block (the jump table).
//
// Thread: one at a time calls append, finish and wait; room may be asked for meanwhile. Result: 0 or -errno;
// after the first failure all calls give it again.
#pragma once
#include "codec.h"
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct zfile_stream;

struct zfile_totals {
    uint64_t blocks, plain_size;
    uint64_t stored_size; // blocks with their checksums, without the table
    uint32_t table_crc;
};

// Most bytes that one append may take without waiting if zfile_stream_room() promised them.
#define ZFILE_STREAM_STEP (1u << 20)

// Blocks are written to `fd` (borrowed) from offset `at` on. `threads` is 1 to 64. -EINVAL, -ENOMEM, -EAGAIN.
int zfile_stream_open(int fd, uint64_t at, enum obd_codec codec, size_t block_size, unsigned threads,
                      struct zfile_stream **out);
// Appends plain bytes; waits while all batches are on their way.
int zfile_stream_append(struct zfile_stream *s, const void *plain, size_t length);
// Plain bytes appended so far.
uint64_t zfile_stream_position(const struct zfile_stream *s);
// 1 if ZFILE_STREAM_STEP more bytes can be appended without waiting, or the stream has failed.
int zfile_stream_has_room(struct zfile_stream *s);
// Waits until there is room.
int zfile_stream_wait(struct zfile_stream *s);
// Packs what is left, waits until all is written, and writes the jump table behind it. Nothing can be
// appended afterwards.
int zfile_stream_finish(struct zfile_stream *s, struct zfile_totals *totals);
// Ends the threads, whatever they are at. The file is left as it is.
void zfile_stream_close(struct zfile_stream *s);

#ifdef __cplusplus
}
#endif
