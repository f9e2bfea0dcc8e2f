#include "file.h"
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

int obd_file_lock(int fd, int kind)
{
    static const short type[] = {
        [FILE_UNLOCK] = F_UNLCK,
        [FILE_LOCK_SHARED] = F_RDLCK,
        [FILE_LOCK_EXCLUSIVE] = F_WRLCK,
    };
    if (kind < FILE_UNLOCK || kind > FILE_LOCK_EXCLUSIVE)
        return -EINVAL;
    // Start 0 and length 0: all bytes, also those beyond the end.
    struct flock lock = {.l_type = type[kind], .l_whence = SEEK_SET};
    int result;
    do
        result = fcntl(fd, F_OFD_SETLK, &lock);
    while (result != 0 && errno == EINTR);
    if (result == 0)
        return 0;
    return errno == EACCES ? -EAGAIN : -errno;
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
