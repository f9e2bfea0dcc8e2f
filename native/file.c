#include "file.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
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

#define COPY_STEP (256u << 10)

static int copy_by_hand(int from_fd, int64_t from, int to_fd, int64_t to, int64_t length)
{
    char *buffer = malloc(COPY_STEP);
    if (!buffer)
        return -ENOMEM;
    int e = 0;
    while (length > 0 && !e) {
        ssize_t n = pread(from_fd, buffer, length < COPY_STEP ? (size_t)length : COPY_STEP, from);
        if (n <= 0) {
            if (n < 0 && errno == EINTR)
                continue;
            e = n < 0 ? -errno : -ENODATA;
            break;
        }
        for (ssize_t done = 0; done < n && !e;) {
            ssize_t w = pwrite(to_fd, buffer + done, (size_t)(n - done), to + done);
            if (w > 0)
                done += w;
            else if (w == 0 || errno != EINTR)
                e = w == 0 ? -EIO : -errno;
        }
        from += n;
        to += n;
        length -= n;
    }
    free(buffer);
    return e;
}

int obd_file_copy(int from_fd, int64_t from, int to_fd, int64_t to, int64_t length)
{
    while (length > 0) {
        loff_t in = from, out = to;
        ssize_t n = copy_file_range(from_fd, &in, to_fd, &out, (size_t)length, 0);
        if (n < 0 && errno == EINTR)
            continue;
        // Two kinds of file system, an old kernel, or one that gives up at the end of what it cached.
        if (n <= 0)
            return copy_by_hand(from_fd, from, to_fd, to, length);
        from += n;
        to += n;
        length -= n;
    }
    return 0;
}
