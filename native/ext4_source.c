#include "ext4_source.h"
#include <errno.h>
#include <sys/socket.h>

int ext4_source_pair(int ends[2])
{
    return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) ? -errno : 0;
}

static int receive(int fd, void *into, size_t length)
{
    uint8_t *at = into;
    while (length > 0) {
        ssize_t n = recv(fd, at, length, MSG_WAITALL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EPIPE;
        at += n;
        length -= (size_t)n;
    }
    return 0;
}

int ext4_source_read(int fd, uint64_t offset, void *into, size_t length)
{
    const uint64_t question[2] = {offset, length};
    int64_t answer;
    // 16 bytes on an empty socket: never in parts.
    ssize_t n = send(fd, question, sizeof question, MSG_NOSIGNAL);
    if (n != (ssize_t)sizeof question)
        return n < 0 ? -errno : -EPIPE;
    int e = receive(fd, &answer, sizeof answer);
    if (e)
        return e;
    if (answer < 0)
        return answer < -4095 ? -EIO : (int)answer;
    return (uint64_t)answer != length ? -EPROTO : receive(fd, into, length);
}
