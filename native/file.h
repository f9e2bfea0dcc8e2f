// File operations that Node has no name for: advisory locks, holes. Linux only.
// All return 0 or a value on success, -errno on failure, never touch errno for the caller, and hold no state.
// Any thread; each says whether it may wait for the disk.
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum file_lock { FILE_UNLOCK = 0, FILE_LOCK_SHARED = 1, FILE_LOCK_EXCLUSIVE = 2 };

// Takes, converts or drops the advisory lock of the whole file (an open file description lock, fcntl
// F_OFD_SETLK). Never waits for another holder: -EAGAIN if one stands in the way, and the lock held before is
// still held, without a gap: that is why it is not flock(2), whose conversion lets go first. A shared lock
// wants a descriptor open for reading, an exclusive one for writing (-EBADF).
int obd_file_lock(int fd, int kind);

// Gives [offset, offset + length) back to the file system; it reads as zeroes, the file's size stays.
// -EOPNOTSUPP where the file system has no holes. May wait for the disk.
int obd_file_punch(int fd, int64_t offset, int64_t length);

// First byte at or after `offset` that is data (or in a hole, if `hole`); -ENXIO if there is none: the rest
// of the file is a hole (or `offset` is at its end). Where the file system knows no holes all is data.
int64_t obd_file_seek(int fd, int64_t offset, int hole);

// Copies bytes between files, inside the kernel where it can. -ENODATA if the source ends before. May wait
// for the disk.
int obd_file_copy(int from_fd, int64_t from, int to_fd, int64_t to, int64_t length);

#ifdef __cplusplus
}
#endif
