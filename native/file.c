#include "file.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

static int lock_once(int fd, int kind)
{
    static const int operation[] = {
        [FILE_UNLOCK] = LOCK_UN,
        [FILE_LOCK_SHARED] = LOCK_SH | LOCK_NB,
        [FILE_LOCK_EXCLUSIVE] = LOCK_EX | LOCK_NB,
    };
    if (kind < FILE_UNLOCK || kind > FILE_LOCK_EXCLUSIVE)
        return -EINVAL;
    int result;
    do
        result = flock(fd, operation[kind]);
    while (result != 0 && errno == EINTR);
    return result == 0 ? 0 : -errno;
}

int obd_file_lock(int fd, int kind, int previous)
{
    int result = lock_once(fd, kind);
    if (result == -EWOULDBLOCK && previous != FILE_UNLOCK && lock_once(fd, previous) != 0)
        return -ENOLCK;
    return result;
}

int obd_file_punch(int fd, int64_t offset, int64_t length)
{
    int result;
    do
        result = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
    while (result != 0 && errno == EINTR);
    return result == 0 ? 0 : -errno;
}

int64_t obd_file_seek(int fd, int64_t offset, int hole)
{
    off_t at = lseek(fd, offset, hole ? SEEK_HOLE : SEEK_DATA);
    return at >= 0 ? at : -errno;
}
