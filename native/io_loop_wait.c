// The second half of a round: wait, fetch, tell JavaScript what is new.
#include "io_loop_internal.h"
#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>

// What a command counts as unless a read turns out to be quicker.
static uint16_t cause_of(uint32_t op)
{
    switch (op) {
    case IO_WRITE:
        return CAUSE_WRITE;
    case IO_DISCARD:
        return CAUSE_DISCARD;
    case IO_FLUSH:
        return CAUSE_FLUSH;
    default:
        return CAUSE_GENERAL;
    }
}

// Takes new commands of one queue into events[0..max).
static int fetch(struct io_loop *loop, uint32_t index, struct io_event *events, int max)
{
    struct served *s = loop->queues[index];
    struct io_command commands[FETCH_AT_ONCE];
    int room = IO_QUEUE_DEPTH - s->in_flight;
    int want = max < room ? max : room;
    if (want > FETCH_AT_ONCE)
        want = FETCH_AT_ONCE;
    if (want == 0) {
        if (room == 0) { // full: wait for our own answers, not for more questions
            io_loop_set_hot(loop, s, 0);
            io_loop_set_polled(loop, s, index, 0);
        }
        return 0;
    }
    int n = s->queue->ops->fetch(s->queue, commands, want);
    if (n < 0) {
        s->dead = 1;
        io_loop_set_hot(loop, s, 0);
        io_loop_set_polled(loop, s, index, 0);
        loop->dead[loop->dead_count].index = index;
        loop->dead[loop->dead_count++].error = -n;
        return 0;
    }
    io_loop_set_polled(loop, s, index, 1);
    io_loop_set_hot(loop, s, n == want || !s->polled);
    if (n == 0)
        return 0;
    const uint64_t began = file_speed_ticks();
    io_clock_check(&loop->clock, began);
    for (int i = 0; i < n; i++) {
        uint16_t free_slot = s->free_slot;
        struct slot *slot = &s->slots[free_slot];
        s->free_slot = slot->next_free;
        s->in_flight++;
        slot->command = commands[i];
        slot->state = WITH_JS;
        slot->began = began;
        slot->cause = cause_of(commands[i].op);
        events[i] = (struct io_event){
            .kind = commands[i].op,
            .queue = index,
            .id = io_loop_id(index, free_slot, slot->generation),
            .offset = (double)commands[i].offset,
            .length = (double)commands[i].length,
        };
    }
    if (s->meter)
        s->meter->in_flight = s->in_flight;
    return n;
}

// What waits to be told that is no new command.
static int report(struct io_loop *loop, struct io_event *events, int max)
{
    int n = 0;
    while (n < max && loop->retry_count > 0) {
        // Its queue is still there: a queue is not destroyed while a command is in flight.
        uint32_t which = loop->retries[--loop->retry_count];
        uint32_t index = which / IO_QUEUE_DEPTH, number = which % IO_QUEUE_DEPTH;
        struct slot *slot = &loop->queues[index]->slots[number];
        slot->state = WITH_JS;
        events[n++] = (struct io_event){EVENT_RETRY_READ, index, io_loop_id(index, number, slot->generation),
                                        (double)slot->command.offset, (double)slot->command.length};
    }
    while (n < max && loop->dead_count > 0) {
        loop->dead_count--;
        events[n++] = (struct io_event){.kind = EVENT_QUEUE_DEAD,
                                        .queue = loop->dead[loop->dead_count].index,
                                        .length = loop->dead[loop->dead_count].error};
    }
    while (n < max && loop->closed_count > 0)
        events[n++] =
            (struct io_event){.kind = EVENT_QUEUE_CLOSED, .queue = loop->closed[--loop->closed_count]};
    return n;
}

// Looks for commands for a short time. True: a queue has some, and is hot.
static int look(struct io_loop *loop, uint64_t began)
{
    for (;;) {
        for (uint32_t i = 0; i < loop->queue_end; i++) {
            struct served *s = loop->queues[i];
            if (s && s->polled && s->queue->ops->waits && s->queue->ops->waits(s->queue)) {
                io_loop_set_hot(loop, s, 1);
                return 1;
            }
        }
        if (io_clock_ns(&loop->clock, file_speed_ticks() - began) >= IO_SPIN_NS)
            return 0;
        io_spin_relax();
    }
}

// Sleeps until there is something to do, or finds it before (io_spin.h). As epoll_wait.
static int sleep_or_look(struct io_loop *loop, struct epoll_event *ready, int timeout_ms)
{
    // With commands in the pool the processors have something better to do.
    const int asked = timeout_ms != 0 && loop->answered && !loop->oldest;
    const uint64_t began = file_speed_ticks();
    if (timeout_ms != 0)
        loop->answered = 0;
    int found = 0;
    if (asked && io_spin_begin(&loop->spin)) {
        found = look(loop, began);
        io_spin_end();
    }
    if (found)
        io_spin_came(&loop->spin, io_clock_ns(&loop->clock, file_speed_ticks() - began));
    int count = epoll_wait(loop->epoll_fd, ready, READY_AT_ONCE, found ? 0 : timeout_ms);
    if (asked && !found && count > 0 && ready[0].data.u32 < IO_MAX_QUEUES)
        io_spin_came(&loop->spin, io_clock_ns(&loop->clock, file_speed_ticks() - began));
    return count;
}

int io_loop_wait(struct io_loop *loop, struct io_event *events, int max, int timeout_ms)
{
    struct epoll_event ready[READY_AT_ONCE];
    io_loop_kick(loop);
    if (loop->hot_count > 0 || loop->retry_count > 0 || loop->dead_count > 0 || loop->closed_count > 0)
        timeout_ms = 0;
    if (timeout_ms != 0 && loop->oldest && !io_pool_may_sleep(loop->pool))
        timeout_ms = 0;
    int count = sleep_or_look(loop, ready, timeout_ms);
    if (count < 0 && errno != EINTR)
        return -errno;
    int n = 0;
    for (int i = 0; i < count; i++) {
        if (ready[i].data.u32 == KEY_WAKE) {
            uint64_t value;
            if (read(loop->wake_fd, &value, sizeof value) == sizeof value) {
                if (value >> 32 >= STOP)
                    loop->stopped = 1;
                if (n < max)
                    events[n++] = (struct io_event){.kind = EVENT_WOKEN};
            }
        } else if (ready[i].data.u32 == KEY_POOL) {
            uint64_t ended;
            ssize_t r = read(loop->done_fd, &ended, sizeof ended);
            (void)r; // it was readable
        } else if (loop->queues[ready[i].data.u32]) {
            io_loop_set_hot(loop, loop->queues[ready[i].data.u32], 1);
        }
    }
    if (loop->stopped)
        return -ECANCELED;
    if (loop->oldest)
        io_loop_drain_pool(loop);
    n += report(loop, events + n, max - n);
    // One round over the queues with something to fetch, beginning where the last one stopped.
    for (uint32_t turn = 0, end = loop->queue_end; turn < end && loop->hot_count > 0 && n < max; turn++) {
        uint32_t index = (loop->next_hot + turn) % end;
        if (loop->queues[index] && loop->queues[index]->hot)
            n += fetch(loop, index, events + n, max - n);
        if (n == max)
            loop->next_hot = index + 1;
    }
    io_loop_kick(loop); // what the pool finished, and what queues answered by themselves
    return n;
}
