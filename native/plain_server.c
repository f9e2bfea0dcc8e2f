#include "plain_server.h"
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

enum { BATCH = 64 };

struct plain_server {
    struct io_queue *queue;
    int fd, stop_fd;
    pthread_t thread;
};

static int answer(struct plain_server *s, const struct io_command *c)
{
    const struct iovec *iov;
    int count;
    if (c->op != IO_READ)
        return c->op == IO_FLUSH ? 0 : -EROFS;
    if (s->queue->ops->buffers(s->queue, c->id, &iov, &count) < 0)
        return -EIO;
    return preadv(s->fd, iov, count, (off_t)c->offset) == (ssize_t)c->length ? 0 : -EIO;
}

static void *serve(void *argument)
{
    struct plain_server *s = argument;
    struct io_command commands[BATCH];
    for (;;) {
        int n = s->queue->ops->fetch(s->queue, commands, BATCH);
        for (int i = 0; i < n; i++)
            s->queue->ops->complete(s->queue, commands[i].id, answer(s, &commands[i]));
        if (n > 0)
            s->queue->ops->kick(s->queue);
        struct pollfd p[2] = {{s->stop_fd, POLLIN, 0}, {n < 0 ? -1 : s->queue->poll_fd, POLLIN, 0}};
        if (n <= 0)
            poll(p, 2, -1);
        if (p[0].revents)
            return NULL;
    }
}

int plain_server_start(struct io_queue *queue, int fd, struct plain_server **out)
{
    struct plain_server *s = calloc(1, sizeof *s);
    int r = 0, stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (!s || stop_fd < 0)
        r = s ? -errno : -ENOMEM;
    if (r == 0) {
        *s = (struct plain_server){.queue = queue, .fd = fd, .stop_fd = stop_fd};
        r = -pthread_create(&s->thread, NULL, serve, s);
    }
    if (r < 0) {
        if (stop_fd >= 0)
            close(stop_fd);
        free(s);
        queue->ops->destroy(queue);
        return r;
    }
    *out = s;
    return 0;
}

void plain_server_stop(struct plain_server *s)
{
    uint64_t one = 1;
    ssize_t n = write(s->stop_fd, &one, sizeof one);
    (void)n; // it had room: nobody else writes to it
    pthread_join(s->thread, NULL);
    s->queue->ops->destroy(s->queue);
    close(s->stop_fd);
    free(s);
}
