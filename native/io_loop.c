#include "io_loop_internal.h"
#include "io_stage.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

int io_loop_watch(struct io_loop *loop, int fd, uint32_t key)
{
    struct epoll_event e = {.events = EPOLLIN, .data.u32 = key};
    return epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &e) ? -errno : 0;
}

int io_loop_create(int wake_fd, struct io_loop **out)
{
    struct io_loop *loop = calloc(1, sizeof *loop);
    if (!loop)
        return -ENOMEM;
    loop->wake_fd = wake_fd;
    io_clock_start(&loop->clock);
    io_spin_init(&loop->spin, io_pool_processors());
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    loop->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int r = loop->epoll_fd < 0 || loop->done_fd < 0 ? -errno : 0;
    if (r == 0)
        r = obd_scratch_init(&loop->scratch);
    if (r == 0)
        r = io_pool_create(loop->done_fd, &loop->pool);
    if (r == 0) {
        loop->scratch.speeds = calloc(1, sizeof *loop->scratch.speeds);
        loop->scratch.cache = block_cache_create();
        if (!loop->scratch.speeds || !loop->scratch.cache)
            r = -ENOMEM;
    }
    if (r == 0 && stage_pays())
        loop->stage = stage_create(); // or not
    if (r == 0)
        r = io_loop_watch(loop, wake_fd, KEY_WAKE);
    if (r == 0)
        r = io_loop_watch(loop, loop->done_fd, KEY_POOL);
    if (r < 0) {
        io_loop_destroy(loop);
        return r;
    }
    *out = loop;
    return 0;
}

int io_loop_group_reads(struct io_loop *loop)
{
    if (!loop->stage)
        loop->stage = stage_create();
    return loop->stage ? 0 : -ENOMEM;
}

void io_loop_destroy(struct io_loop *loop)
{
    if (loop->pool)
        io_pool_destroy(loop->pool);
    for (uint32_t i = 0; i < loop->queue_end; i++)
        if (loop->queues[i]) {
            loop->queues[i]->queue->ops->destroy(loop->queues[i]->queue);
            free(loop->queues[i]);
        }
    if (loop->epoll_fd >= 0)
        close(loop->epoll_fd);
    if (loop->done_fd >= 0)
        close(loop->done_fd);
    stage_destroy(loop->stage);
    free(loop->scratch.speeds);
    block_cache_destroy(loop->scratch.cache);
    obd_scratch_free(&loop->scratch);
    free(loop->retries);
    free(loop);
}

// True while JavaScript still takes the index for a queue that is gone.
static int unreported(const struct io_loop *loop, uint32_t index)
{
    for (uint32_t i = 0; i < loop->closed_count; i++)
        if (loop->closed[i] == index)
            return 1;
    return 0;
}

int io_loop_add(struct io_loop *loop, struct io_queue *queue, struct io_meter *meter)
{
    uint32_t index = 0;
    while (index < loop->queue_end && (loop->queues[index] || unreported(loop, index)))
        index++;
    if (index == IO_MAX_QUEUES)
        return -EMFILE;
    size_t room = (size_t)(index < loop->queue_end ? loop->queue_end : index + 1) * IO_QUEUE_DEPTH;
    if (room > loop->retry_room) {
        uint32_t *grown = realloc(loop->retries, room * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        loop->retries = grown;
        loop->retry_room = room;
    }
    struct served *s = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    int r = io_loop_watch(loop, queue->poll_fd, index);
    if (r < 0) {
        free(s);
        return r;
    }
    s->queue = queue;
    s->meter = meter;
    s->polled = 1;
    s->hot = 1; // commands may have arrived before the poll
    loop->hot_count++;
    for (int i = 0; i < IO_QUEUE_DEPTH; i++)
        s->slots[i].next_free = (uint16_t)(i + 1);
    loop->queues[index] = s;
    if (index == loop->queue_end)
        loop->queue_end++;
    return (int)index;
}

void io_loop_set_hot(struct io_loop *loop, struct served *s, int hot)
{
    if (s->hot != hot) {
        s->hot = (uint8_t)hot;
        loop->hot_count += hot ? 1 : (uint32_t)-1;
    }
}

void io_loop_set_polled(struct io_loop *loop, struct served *s, uint32_t index, int polled)
{
    if (s->polled == polled)
        return;
    if (polled) {
        if (io_loop_watch(loop, s->queue->poll_fd, index) < 0)
            return; // out of memory: it stays hot and is tried again
    } else {
        epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, s->queue->poll_fd, NULL);
    }
    s->polled = (uint8_t)polled;
}

void io_loop_kick(struct io_loop *loop)
{
    for (uint32_t i = 0; i < loop->touched_count; i++) {
        struct served *s = loop->queues[loop->touched[i]];
        s->touched = 0;
        s->queue->ops->kick(s->queue);
    }
    loop->touched_count = 0;
}

// Destroys a queue that is closing and has nothing left to answer.
static void close_if_idle(struct io_loop *loop, uint32_t index)
{
    struct served *s = loop->queues[index];
    if (!s->closing || s->in_flight > 0)
        return;
    if (s->touched)
        io_loop_kick(loop);
    io_loop_set_hot(loop, s, 0);
    io_loop_set_polled(loop, s, index, 0);
    s->queue->ops->destroy(s->queue);
    free(s);
    loop->queues[index] = NULL;
    io_loop_forget_files(loop);
    for (uint32_t i = 0; i < loop->dead_count; i++)
        if (loop->dead[i].index == index)
            loop->dead[i--] = loop->dead[--loop->dead_count];
    loop->closed[loop->closed_count++] = index;
}

int io_loop_remove(struct io_loop *loop, uint32_t index)
{
    if (index >= loop->queue_end || !loop->queues[index] || loop->queues[index]->closing)
        return -ENOENT;
    struct served *s = loop->queues[index];
    s->closing = 1;
    io_loop_set_hot(loop, s, 0);
    io_loop_set_polled(loop, s, index, 0);
    close_if_idle(loop, index);
    return 0;
}

double io_loop_id(uint32_t index, uint32_t slot, uint32_t generation)
{
    return (double)((uint64_t)generation * IDS_PER_GENERATION + (uint64_t)index * IO_QUEUE_DEPTH + slot);
}

// The slot that an id of JavaScript names, if it is WITH_JS.
struct slot *io_loop_find(struct io_loop *loop, double id, uint32_t *index)
{
    if (!(id >= 0 && id < 9007199254740992.0))
        return NULL;
    uint64_t n = (uint64_t)id;
    if ((double)n != id)
        return NULL;
    uint32_t slot = n % IO_QUEUE_DEPTH;
    *index = (uint32_t)(n % IDS_PER_GENERATION / IO_QUEUE_DEPTH);
    if (*index >= loop->queue_end || !loop->queues[*index])
        return NULL;
    struct slot *s = &loop->queues[*index]->slots[slot];
    return s->state == WITH_JS && s->generation == n / IDS_PER_GENERATION ? s : NULL;
}

void io_loop_end(struct io_loop *loop, uint32_t index, struct slot *slot, int status)
{
    struct served *s = loop->queues[index];
    s->in_flight--;
    loop->answered |= s->queue->ops->waits != NULL;
    if (s->meter) { // first: who sees the answer may look here next
        io_meter_add(s->meter, &loop->clock, slot->cause, slot->began, file_speed_ticks(),
                     slot->command.length, status);
        s->meter->in_flight = s->in_flight;
    }
    s->queue->ops->complete(s->queue, slot->command.id, status);
    slot->state = FREE;
    slot->generation++;
    if (s->free_slot == IO_QUEUE_DEPTH && !s->closing && !s->dead) {
        io_loop_set_polled(loop, s, index, 1);
        io_loop_set_hot(loop, s, 1); // it was not looked at while it was full
    }
    slot->next_free = s->free_slot;
    s->free_slot = (uint16_t)(slot - s->slots);
    if (!s->touched) {
        s->touched = 1;
        loop->touched[loop->touched_count++] = index;
    }
    close_if_idle(loop, index);
}

int io_loop_complete(struct io_loop *loop, double id, int status)
{
    uint32_t index;
    struct slot *slot = io_loop_find(loop, id, &index);
    if (!slot)
        return -ENOENT;
    if (status == 0 && slot->command.op == IO_READ)
        return -EINVAL; // a read ends well only with its data
    io_loop_end(loop, index, slot, status);
    return 0;
}

int io_loop_complete_read(struct io_loop *loop, double id, const void *data, size_t length)
{
    uint32_t index;
    struct slot *slot = io_loop_find(loop, id, &index);
    if (!slot)
        return -ENOENT;
    struct io_queue *q = loop->queues[index]->queue;
    const struct iovec *iov;
    int iov_count;
    if (slot->command.op != IO_READ || length != slot->command.length ||
        q->ops->buffers(q, slot->command.id, &iov, &iov_count) < 0 ||
        obd_scatter(iov, iov_count, data, length) != length)
        return -EINVAL;
    io_loop_end(loop, index, slot, 0);
    return 0;
}

int io_loop_write_data(struct io_loop *loop, double id, void *into, size_t length)
{
    uint32_t index;
    struct slot *slot = io_loop_find(loop, id, &index);
    if (!slot)
        return -ENOENT;
    struct io_queue *q = loop->queues[index]->queue;
    const struct iovec *iov;
    int iov_count;
    if (slot->command.op != IO_WRITE || length != slot->command.length ||
        q->ops->buffers(q, slot->command.id, &iov, &iov_count) < 0 ||
        obd_gather(iov, iov_count, into, length) != length)
        return -EINVAL;
    return 0;
}

uint64_t io_loop_pool_mark(const struct io_loop *loop)
{
    return loop->pool_seq;
}

int io_loop_pool_passed(const struct io_loop *loop, uint64_t mark)
{
    return !loop->oldest || loop->oldest->seq > mark;
}

struct io_loop_stats io_loop_get_stats(const struct io_loop *loop)
{
    return loop->stats;
}
