#include "io_loop.h"
#include "io_pool.h"
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { FREE = 0, WITH_JS, IN_POOL, RETRIED }; // RETRIED: to be handed back at the next report
enum {
    STOP = 1,              // added to the wake descriptor, times 2^32
    FETCH_AT_ONCE = 64,    // commands of one queue before its neighbours get their turn
    READY_AT_ONCE = 64,    // epoll events of one wait
    STEPS = 1024,          // descriptors of one command; a command of more is answered the general way
    KEY_WAKE = 0x7fffffff, // epoll keys that are no queue index
    KEY_POOL = 0x7ffffffe,
};
#define IDS_PER_GENERATION ((uint64_t)IO_MAX_QUEUES * IO_QUEUE_DEPTH)
_Static_assert(IDS_PER_GENERATION << 32 < 1ull << 53, "an id is an exact double");

struct slot {
    struct io_command command;
    uint32_t generation; // counts uses, so that a late answer finds nobody
    uint16_t state, next_free;
};

struct served {
    struct io_queue *queue;
    uint16_t free_slot; // head of the free list; IO_QUEUE_DEPTH when none is left
    uint16_t in_flight;
    uint8_t polled;  // in the epoll set
    uint8_t hot;     // fetch may find more without polling
    uint8_t touched; // completed something since the last kick
    uint8_t closing, dead;
    struct slot slots[IO_QUEUE_DEPTH];
};

struct io_loop {
    int epoll_fd, wake_fd, done_fd;
    int stopped;
    struct io_pool *pool;
    struct execute_scratch scratch;
    struct read_step steps[STEPS];
    struct served *queues[IO_MAX_QUEUES];
    uint32_t queue_end; // indexes in use are below
    uint32_t touched[IO_MAX_QUEUES], touched_count;
    uint32_t hot_count;
    uint32_t next_hot; // where the round of hot queues goes on
    // RETRIED slots, as index * IO_QUEUE_DEPTH + slot; there is room for every slot of every queue.
    uint32_t *retries;
    size_t retry_count, retry_room;
    uint32_t closed[IO_MAX_QUEUES], closed_count; // destroyed, not reported yet
    struct {
        uint32_t index;
        int error;
    } dead[IO_MAX_QUEUES]; // found dead, not reported yet
    uint32_t dead_count;
    struct io_job *oldest, *newest; // in the pool, by age
    uint64_t pool_seq;
    struct io_loop_stats stats;
};

static int watch(struct io_loop *loop, int fd, uint32_t key)
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
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    loop->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int r = loop->epoll_fd < 0 || loop->done_fd < 0 ? -errno : 0;
    if (r == 0)
        r = obd_scratch_init(&loop->scratch);
    if (r == 0)
        r = io_pool_create(IO_POOL_THREADS, loop->done_fd, &loop->pool);
    if (r == 0)
        r = watch(loop, wake_fd, KEY_WAKE);
    if (r == 0)
        r = watch(loop, loop->done_fd, KEY_POOL);
    if (r < 0) {
        io_loop_destroy(loop);
        return r;
    }
    *out = loop;
    return 0;
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

int io_loop_add(struct io_loop *loop, struct io_queue *queue)
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
    int r = watch(loop, queue->poll_fd, index);
    if (r < 0) {
        free(s);
        return r;
    }
    s->queue = queue;
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

static void set_hot(struct io_loop *loop, struct served *s, int hot)
{
    if (s->hot != hot) {
        s->hot = (uint8_t)hot;
        loop->hot_count += hot ? 1 : (uint32_t)-1;
    }
}

static void set_polled(struct io_loop *loop, struct served *s, uint32_t index, int polled)
{
    if (s->polled == polled)
        return;
    if (polled) {
        if (watch(loop, s->queue->poll_fd, index) < 0)
            return; // out of memory: it stays hot and is tried again
    } else {
        epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, s->queue->poll_fd, NULL);
    }
    s->polled = (uint8_t)polled;
}

static void kick_touched(struct io_loop *loop)
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
        kick_touched(loop);
    set_hot(loop, s, 0);
    set_polled(loop, s, index, 0);
    s->queue->ops->destroy(s->queue);
    free(s);
    loop->queues[index] = NULL;
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
    set_hot(loop, s, 0);
    set_polled(loop, s, index, 0);
    close_if_idle(loop, index);
    return 0;
}

static double id_of(uint32_t index, uint32_t slot, uint32_t generation)
{
    return (double)((uint64_t)generation * IDS_PER_GENERATION + (uint64_t)index * IO_QUEUE_DEPTH + slot);
}

// The slot that an id of JavaScript names, if it is WITH_JS.
static struct slot *find(struct io_loop *loop, double id, uint32_t *index)
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

static void complete(struct io_loop *loop, uint32_t index, struct slot *slot, int status)
{
    struct served *s = loop->queues[index];
    s->queue->ops->complete(s->queue, slot->command.id, status);
    slot->state = FREE;
    slot->generation++;
    if (s->free_slot == IO_QUEUE_DEPTH && !s->closing && !s->dead) {
        set_polled(loop, s, index, 1);
        set_hot(loop, s, 1); // it was not looked at while it was full
    }
    slot->next_free = s->free_slot;
    s->free_slot = (uint16_t)(slot - s->slots);
    s->in_flight--;
    if (!s->touched) {
        s->touched = 1;
        loop->touched[loop->touched_count++] = index;
    }
    close_if_idle(loop, index);
}

static void retry(struct io_loop *loop, uint32_t index, struct slot *slot)
{
    slot->state = RETRIED;
    loop->stats.retried_reads++;
    loop->retries[loop->retry_count++] =
        index * IO_QUEUE_DEPTH + (uint32_t)(slot - loop->queues[index]->slots);
}

// Gives loop->steps to the pool. False if that cannot be done now.
static int hand_over(struct io_loop *loop, uint32_t index, struct slot *slot, size_t count)
{
    struct io_job *job = malloc(sizeof *job + count * sizeof job->steps[0]);
    if (!job)
        return 0;
    struct served *s = loop->queues[index];
    job->queue = s->queue;
    job->queue_index = index;
    job->slot = (uint32_t)(slot - s->slots);
    job->command = slot->command.id;
    job->count = (uint32_t)count;
    memcpy(job->steps, loop->steps, count * sizeof job->steps[0]);
    job->seq = loop->pool_seq + 1;
    job->newer = NULL;
    job->older = loop->newest;
    if (io_pool_submit(loop->pool, job) < 0) {
        free(job);
        return 0;
    }
    loop->pool_seq++;
    if (loop->newest)
        loop->newest->newer = job;
    else
        loop->oldest = job;
    loop->newest = job;
    slot->state = IN_POOL;
    loop->stats.pool_reads++;
    return 1;
}

static void drain_pool(struct io_loop *loop)
{
    uint64_t count;
    ssize_t n = read(loop->done_fd, &count, sizeof count);
    (void)n; // EAGAIN when nothing is done
    for (struct io_job *job = io_pool_take_done(loop->pool), *next; job; job = next) {
        next = job->next;
        *(job->older ? &job->older->newer : &loop->oldest) = job->newer;
        *(job->newer ? &job->newer->older : &loop->newest) = job->older;
        struct slot *slot = &loop->queues[job->queue_index]->slots[job->slot];
        if (job->result == EXECUTE_DONE)
            complete(loop, job->queue_index, slot, 0);
        else
            retry(loop, job->queue_index, slot);
        free(job);
    }
}

int io_loop_execute(struct io_loop *loop, const struct io_planned *batch, size_t batch_count,
                    const struct read_descriptor *plan, size_t plan_count)
{
    for (size_t i = 0; i < batch_count; i++) {
        struct io_planned p = batch[i];
        uint32_t index;
        struct slot *slot = find(loop, p.id, &index);
        if (!slot || slot->command.op != IO_READ || !(p.first >= 0 && p.count >= 0) ||
            p.first + p.count > (double)plan_count)
            return -EINVAL;
        size_t first = (size_t)p.first, count = (size_t)p.count;
        struct io_queue *q = loop->queues[index]->queue;
        const struct iovec *iov;
        int iov_count;
        if (count > STEPS || obd_check_steps(plan + first, count, slot->command.length, loop->steps) < 0 ||
            q->ops->buffers(q, slot->command.id, &iov, &iov_count) < 0) {
            loop->stats.refused_plans++;
            retry(loop, index, slot);
            continue;
        }
        switch (obd_execute(loop->steps, count, iov, iov_count, &loop->scratch, 0)) {
        case EXECUTE_DONE:
            loop->stats.inline_reads++;
            complete(loop, index, slot, 0);
            break;
        case EXECUTE_WOULD_BLOCK:
            if (hand_over(loop, index, slot, count))
                break;
            // fall through
        case EXECUTE_BAD:
            retry(loop, index, slot);
            break;
        }
    }
    return 0;
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
            set_hot(loop, s, 0);
            set_polled(loop, s, index, 0);
        }
        return 0;
    }
    int n = s->queue->ops->fetch(s->queue, commands, want);
    if (n < 0) {
        s->dead = 1;
        set_hot(loop, s, 0);
        set_polled(loop, s, index, 0);
        loop->dead[loop->dead_count].index = index;
        loop->dead[loop->dead_count++].error = -n;
        return 0;
    }
    set_polled(loop, s, index, 1);
    set_hot(loop, s, n == want || !s->polled);
    for (int i = 0; i < n; i++) {
        uint16_t free_slot = s->free_slot;
        struct slot *slot = &s->slots[free_slot];
        s->free_slot = slot->next_free;
        s->in_flight++;
        slot->command = commands[i];
        slot->state = WITH_JS;
        events[i] = (struct io_event){
            .kind = commands[i].op,
            .queue = index,
            .id = id_of(index, free_slot, slot->generation),
            .offset = (double)commands[i].offset,
            .length = (double)commands[i].length,
        };
    }
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
        events[n++] = (struct io_event){EVENT_RETRY_READ, index, id_of(index, number, slot->generation),
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

int io_loop_wait(struct io_loop *loop, struct io_event *events, int max, int timeout_ms)
{
    struct epoll_event ready[READY_AT_ONCE];
    kick_touched(loop);
    if (loop->hot_count > 0 || loop->retry_count > 0 || loop->dead_count > 0 || loop->closed_count > 0)
        timeout_ms = 0;
    int count = epoll_wait(loop->epoll_fd, ready, READY_AT_ONCE, timeout_ms);
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
            drain_pool(loop);
        } else if (loop->queues[ready[i].data.u32]) {
            set_hot(loop, loop->queues[ready[i].data.u32], 1);
        }
    }
    if (loop->stopped)
        return -ECANCELED;
    n += report(loop, events + n, max - n);
    // One round over the queues with something to fetch, beginning where the last one stopped.
    for (uint32_t turn = 0, end = loop->queue_end; turn < end && loop->hot_count > 0 && n < max; turn++) {
        uint32_t index = (loop->next_hot + turn) % end;
        if (loop->queues[index] && loop->queues[index]->hot)
            n += fetch(loop, index, events + n, max - n);
        if (n == max)
            loop->next_hot = index + 1;
    }
    kick_touched(loop); // what the pool finished, and what queues answered by themselves
    return n;
}

int io_loop_complete(struct io_loop *loop, double id, int status)
{
    uint32_t index;
    struct slot *slot = find(loop, id, &index);
    if (!slot)
        return -ENOENT;
    if (status == 0 && slot->command.op == IO_READ)
        return -EINVAL; // a read ends well only with its data
    complete(loop, index, slot, status);
    return 0;
}

int io_loop_complete_read(struct io_loop *loop, double id, const void *data, size_t length)
{
    uint32_t index;
    struct slot *slot = find(loop, id, &index);
    if (!slot)
        return -ENOENT;
    struct io_queue *q = loop->queues[index]->queue;
    const struct iovec *iov;
    int iov_count;
    if (slot->command.op != IO_READ || length != slot->command.length ||
        q->ops->buffers(q, slot->command.id, &iov, &iov_count) < 0 ||
        obd_scatter(iov, iov_count, data, length) != length)
        return -EINVAL;
    complete(loop, index, slot, 0);
    return 0;
}

int io_loop_write_data(struct io_loop *loop, double id, void *into, size_t length)
{
    uint32_t index;
    struct slot *slot = find(loop, id, &index);
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

// Published queues. Guarded by the lock; shared by all threads.
enum { HANDLES = 256 }; // queues on their way between two threads at one time
static pthread_mutex_t handles_lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    struct io_queue *queue;
    int handle;
} handles[HANDLES];
static int last_handle;

int io_queue_publish(struct io_queue *queue)
{
    int handle = -EMFILE;
    pthread_mutex_lock(&handles_lock);
    for (int i = 0; i < HANDLES; i++)
        if (!handles[i].queue) {
            last_handle = last_handle == 0x7fffffff ? 1 : last_handle + 1;
            handles[i].queue = queue;
            handles[i].handle = handle = last_handle;
            break;
        }
    pthread_mutex_unlock(&handles_lock);
    return handle;
}

struct io_queue *io_queue_take(int handle)
{
    struct io_queue *queue = NULL;
    pthread_mutex_lock(&handles_lock);
    for (int i = 0; i < HANDLES; i++)
        if (handles[i].queue && handles[i].handle == handle) {
            queue = handles[i].queue;
            handles[i].queue = NULL;
            break;
        }
    pthread_mutex_unlock(&handles_lock);
    return queue;
}
