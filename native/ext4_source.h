// The way to what lies below an image that is opened rather than formatted: a socket, at whose other end
// somebody reads the layers. One question at a time, answered in full before the next.
//
//   question  offset, length: two uint64_t of this machine
//   answer    int64_t: the length, followed by that many bytes; or a negative errno
//
// Thread: one at a time, any. Blocks until the answer is there; an end of the other side is -EPIPE.
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Makes both ends, close-on-exec. The caller owns them.
int ext4_source_pair(int ends[2]);
// Reads all of [offset, offset+length). 0 or -errno.
int ext4_source_read(int fd, uint64_t offset, void *into, size_t length);

#ifdef __cplusplus
}
#endif
