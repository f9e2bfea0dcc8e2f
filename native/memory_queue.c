#include "memory_queue.h"
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { FREE = 0, SUBMITTED, FETCHED, ANSWERED, TAKEN };

struct entry {
    int state, status, next;
    struct io_command command;
    struct iovec iov; // malloc'ed
};

struct memory_queue {
    struct io_queue base;
    pthread_mutex_t lock; // guards all below; base is constant
    void (*notify)(void *);
    void *context;
    int client_gone, server_gone, violations;
    int to_notify; // answers since the last kick
    struct entry entries[MEMORY_QUEUE_DEPTH];
    int free_first;
    int submitted_first, submitted_last, answered_first, answered_last; // -1: empty
};

static void append(struct memory_queue *m, int *first, int *last, int id)
{
    m->entries[id].next = -1;
    if (*first < 0)
        *first = id;
    else
        m->entries[*last].next = id;
    *last = id;
}

static int pop(struct memory_queue *m, int *first)
{
    int id = *first;
    if (id >= 0)
        *first = m->entries[id].next;
    return id;
}

static void answer(struct memory_queue *m, int id, int status)
{
    m->entries[id].state = ANSWERED;
    m->entries[id].status = status;
    append(m, &m->answered_first, &m->answered_last, id);
    m->to_notify = 1;
}

static void free_queue(struct memory_queue *m)
{
    for (int i = 0; i < MEMORY_QUEUE_DEPTH; i++)
        free(m->entries[i].iov.iov_base);
    close(m->base.poll_fd);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

static int fetch(struct io_queue *q, struct io_command *out, int max)
{
    struct memory_queue *m = (struct memory_queue *)q;
    uint64_t count;
    ssize_t r = read(q->poll_fd, &count, sizeof count);
    (void)r; // EAGAIN: looked at without being told
    int n = 0;
    pthread_mutex_lock(&m->lock);
    int gone = m->client_gone;
    while (!gone && n < max) {
        int id = pop(m, &m->submitted_first);
        if (id < 0)
            break;
        m->entries[id].state = FETCHED;
        out[n++] = m->entries[id].command;
    }
    pthread_mutex_unlock(&m->lock);
    return gone ? -ENODEV : n;
}

static int buffers(struct io_queue *q, uint32_t id, const struct iovec **iov, int *count)
{
    struct memory_queue *m = (struct memory_queue *)q;
    if (id >= MEMORY_QUEUE_DEPTH || m->entries[id].state != FETCHED)
        return -EINVAL;
    *iov = &m->entries[id].iov;
    *count = 1;
    return 0;
}

static void complete(struct io_queue *q, uint32_t id, int status)
{
    struct memory_queue *m = (struct memory_queue *)q;
    pthread_mutex_lock(&m->lock);
    if (id >= MEMORY_QUEUE_DEPTH || m->entries[id].state != FETCHED)
        m->violations++;
    else
        answer(m, (int)id, status);
    pthread_mutex_unlock(&m->lock);
}

static void kick(struct io_queue *q)
{
    struct memory_queue *m = (struct memory_queue *)q;
    pthread_mutex_lock(&m->lock);
    if (m->to_notify && !m->client_gone)
        m->notify(m->context); // with the lock held: the client cannot go away meanwhile
    m->to_notify = 0;
    pthread_mutex_unlock(&m->lock);
}

static void destroy(struct io_queue *q)
{
    struct memory_queue *m = (struct memory_queue *)q;
    pthread_mutex_lock(&m->lock);
    m->server_gone = 1;
    int id;
    while ((id = pop(m, &m->submitted_first)) >= 0)
        answer(m, id, -ENODEV);
    for (id = 0; id < MEMORY_QUEUE_DEPTH; id++)
        if (m->entries[id].state == FETCHED)
            answer(m, id, -ENODEV);
    int last = m->client_gone;
    if (!last && m->to_notify)
        m->notify(m->context);
    pthread_mutex_unlock(&m->lock);
    if (last)
        free_queue(m);
}

static const struct io_queue_ops ops = {fetch, buffers, complete, kick, NULL, destroy};

int memory_queue_create(uint64_t size, int read_only, void (*notify)(void *), void *context,
                        struct memory_queue **out)
{
    struct memory_queue *m = calloc(1, sizeof *m);
    if (!m)
        return -ENOMEM;
    m->base = (struct io_queue){&ops, eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), size, read_only};
    if (m->base.poll_fd < 0) {
        free(m);
        return -errno;
    }
    pthread_mutex_init(&m->lock, NULL);
    m->notify = notify;
    m->context = context;
    m->submitted_first = m->answered_first = -1;
    for (int i = 0; i < MEMORY_QUEUE_DEPTH; i++)
        m->entries[i].next = i + 1 < MEMORY_QUEUE_DEPTH ? i + 1 : -1;
    *out = m;
    return 0;
}

struct io_queue *memory_queue_server(struct memory_queue *m)
{
    return &m->base;
}

int memory_queue_submit(struct memory_queue *m, enum io_op op, uint64_t offset, uint64_t length,
                        const void *data)
{
    int change = op == IO_WRITE || op == IO_DISCARD;
    if (offset > m->base.size || length > m->base.size - offset)
        return -ERANGE;
    if (change && m->base.read_only)
        return -EROFS;
    void *memory = NULL;
    if (op == IO_READ || op == IO_WRITE) {
        memory = malloc(length ? length : 1);
        if (!memory)
            return -ENOMEM;
        if (op == IO_WRITE)
            memcpy(memory, data, length);
        else
            memset(memory, 0xa5, length); // so that an unfilled byte shows
    }
    pthread_mutex_lock(&m->lock);
    int id = m->client_gone || m->server_gone ? -ENODEV : pop(m, &m->free_first);
    if (id >= 0) {
        struct entry *e = &m->entries[id];
        e->state = SUBMITTED;
        e->command = (struct io_command){(uint32_t)id, op, offset, length};
        e->iov = (struct iovec){memory, memory ? length : 0};
        append(m, &m->submitted_first, &m->submitted_last, id);
    }
    pthread_mutex_unlock(&m->lock);
    if (id < 0) {
        free(memory);
        return id == -1 ? -EAGAIN : id; // an empty list gives -1
    }
    uint64_t one = 1;
    ssize_t r = write(m->base.poll_fd, &one, sizeof one);
    (void)r; // cannot fail: the counter is far from full
    return id;
}

int memory_queue_take(struct memory_queue *m, int *id, int *status, const void **data, size_t *length)
{
    pthread_mutex_lock(&m->lock);
    *id = pop(m, &m->answered_first);
    if (*id >= 0) {
        struct entry *e = &m->entries[*id];
        e->state = TAKEN;
        *status = e->status;
        *data = e->iov.iov_base;
        *length = e->iov.iov_len;
    }
    pthread_mutex_unlock(&m->lock);
    return *id >= 0;
}

void memory_queue_release(struct memory_queue *m, int id)
{
    pthread_mutex_lock(&m->lock);
    struct entry *e = &m->entries[id];
    if (e->state == TAKEN) {
        free(e->iov.iov_base);
        e->iov = (struct iovec){NULL, 0};
        e->state = FREE;
        e->next = m->free_first;
        m->free_first = id;
    }
    pthread_mutex_unlock(&m->lock);
}

int memory_queue_violations(struct memory_queue *m)
{
    pthread_mutex_lock(&m->lock);
    int n = m->violations;
    pthread_mutex_unlock(&m->lock);
    return n;
}

void memory_queue_close(struct memory_queue *m)
{
    pthread_mutex_lock(&m->lock);
    m->client_gone = 1;
    int last = m->server_gone;
    uint64_t one = 1;
    ssize_t r = write(m->base.poll_fd, &one, sizeof one);
    (void)r;
    pthread_mutex_unlock(&m->lock);
    if (last)
        free_queue(m);
}
