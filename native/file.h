// File operations that Node has no name for: advisory locks, holes. Linux only.
// All return 0 or a value on success, -errno on failure, never touch errno for the caller, and hold no state.
// Any thread; each says whether it may wait for the disk.
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum file_lock { FILE_UNLOCK = 0, FILE_LOCK_SHARED = 1, FILE_LOCK_EXCLUSIVE = 2 };

// flock(2) on the open file description, never waits for another holder: -EWOULDBLOCK if one stands in the
// way. Converting a lock is not atomic in the kernel: when a conversion fails the old lock may be gone, so
// this takes `previous` (an enum file_lock) back in that case, which succeeds unless another process won it
// meanwhile; then the result is -ENOLCK and the caller holds nothing.
int obd_file_lock(int fd, int kind, int previous);

// Gives [offset, offset + length) back to the file system; it reads as zeroes, the file's size stays.
// -EOPNOTSUPP where the file system has no holes. May wait for the disk.
int obd_file_punch(int fd, int64_t offset, int64_t length);

// First byte at or after `offset` that is data (or in a hole, if `hole`); -ENXIO if there is none: the rest
// of the file is a hole (or `offset` is at its end). Where the file system knows no holes all is data.
int64_t obd_file_seek(int fd, int64_t offset, int hole);

#ifdef __cplusplus
}
#endif
