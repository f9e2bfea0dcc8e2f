#include "io_pool.h"
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

enum { THREADS = IO_POOL_WAITERS + IO_POOL_HELPERS };

struct list {
    struct io_job *first, **last; // oldest first
};

struct io_pool {
    pthread_mutex_t lock; // guards everything below but done_fd, helpers, started and threads
    pthread_cond_t work;
    struct list waits, computes; // not begun
    struct io_job *done;
    int idle;      // threads that sleep
    int computing; // threads that carry out a job of `computes`
    int loop_sleeps, stopping;
    int done_fd, helpers;
    int started; // with threads: the loop's thread only
    pthread_t threads[THREADS];
};

static struct io_job *pop(struct list *list)
{
    struct io_job *job = list->first;
    if (job) {
        list->first = job->next;
        if (!list->first)
            list->last = &list->first;
    }
    return job;
}

static void push(struct list *list, struct io_job *job)
{
    *list->last = job;
    while (job->next)
        job = job->next;
    list->last = &job->next;
}

// Thread: one of the pool's.
static void *run(void *arg)
{
    struct io_pool *pool = arg;
    struct execute_scratch scratch = {0};
    int usable = obd_scratch_init(&scratch) == 0;
    pthread_mutex_lock(&pool->lock);
    while (!pool->stopping) {
        int compute = pool->computes.first && pool->computing < pool->helpers;
        struct io_job *job = pop(compute ? &pool->computes : &pool->waits);
        if (!job) {
            pool->idle++;
            pthread_cond_wait(&pool->work, &pool->lock);
            pool->idle--;
            continue;
        }
        pool->computing += compute;
        pthread_mutex_unlock(&pool->lock);

        const struct iovec *iov;
        int iov_count;
        job->result = EXECUTE_BAD;
        if (usable && job->queue->ops->buffers(job->queue, job->command, &iov, &iov_count) == 0)
            job->result = obd_execute(job->steps, job->count, iov, iov_count, &scratch);
        job->waited = scratch.waited;

        pthread_mutex_lock(&pool->lock);
        pool->computing -= compute;
        job->next = pool->done;
        pool->done = job;
        if (pool->loop_sleeps) { // it takes all at once, so one signal is enough
            pool->loop_sleeps = 0;
            uint64_t one = 1;
            ssize_t n = write(pool->done_fd, &one, sizeof one);
            (void)n; // cannot fail: the counter is far from full
        }
    }
    pthread_mutex_unlock(&pool->lock);
    obd_scratch_free(&scratch);
    return NULL;
}

int io_pool_processors(void)
{
    cpu_set_t cpus;
    return sched_getaffinity(0, sizeof cpus, &cpus) == 0 ? CPU_COUNT(&cpus) : 1;
}

int io_pool_create(int done_fd, struct io_pool **out)
{
    struct io_pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return -ENOMEM;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    pool->waits.last = &pool->waits.first;
    pool->computes.last = &pool->computes.first;
    pool->done_fd = done_fd;
    int others = io_pool_processors() - 1;
    pool->helpers = others < IO_POOL_HELPERS ? others : IO_POOL_HELPERS;
    *out = pool;
    return 0;
}

static void free_list(struct io_job *job)
{
    while (job) {
        struct io_job *next = job->next;
        free(job);
        job = next;
    }
}

void io_pool_destroy(struct io_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    pool->stopping = 1;
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0; i < pool->started; i++)
        pthread_join(pool->threads[i], NULL);
    free_list(pool->waits.first);
    free_list(pool->computes.first);
    free_list(pool->done);
    pthread_mutex_destroy(&pool->lock);
    pthread_cond_destroy(&pool->work);
    free(pool);
}

int io_pool_helpers(const struct io_pool *pool)
{
    return pool->helpers;
}

// 0 or an errno.
static int start_thread(struct io_pool *pool)
{
    // Signals are the main thread's business.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int e = pthread_create(&pool->threads[pool->started], NULL, run, pool);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (e == 0)
        pool->started++;
    return e;
}

int io_pool_wait_for(struct io_pool *pool, struct io_job *job)
{
    job->next = NULL;
    pthread_mutex_lock(&pool->lock);
    int waiting = 1;
    for (struct io_job *j = pool->waits.first; j && waiting <= pool->idle; j = j->next)
        waiting++;
    int missing = waiting > pool->idle;
    push(&pool->waits, job);
    pthread_cond_signal(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    if (missing && pool->started < THREADS) {
        int e = start_thread(pool);
        if (e && pool->started == 0) { // nobody will ever run it, so it is still the only one waiting
            pool->waits.first = NULL;
            pool->waits.last = &pool->waits.first;
            return -e;
        }
    }
    return 0;
}

void io_pool_compute(struct io_pool *pool, struct io_job *list)
{
    pthread_mutex_lock(&pool->lock);
    int wanted = -1; // one of them is for the loop itself
    for (struct io_job *job = list; job; job = job->next)
        wanted++;
    if (wanted > pool->helpers - pool->computing)
        wanted = pool->helpers - pool->computing;
    int missing = wanted - pool->idle;
    push(&pool->computes, list);
    for (int i = 0; i < wanted && i < pool->idle; i++)
        pthread_cond_signal(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    while (missing-- > 0 && pool->started < THREADS && start_thread(pool) == 0)
        ;
}

struct io_job *io_pool_take_compute(struct io_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    struct io_job *job = pop(&pool->computes);
    pthread_mutex_unlock(&pool->lock);
    return job;
}

struct io_job *io_pool_take_done(struct io_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    struct io_job *done = pool->done;
    pool->done = NULL;
    pthread_mutex_unlock(&pool->lock);
    return done;
}

int io_pool_may_sleep(struct io_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    int may = !pool->done;
    pool->loop_sleeps = may;
    pthread_mutex_unlock(&pool->lock);
    return may;
}

void io_pool_awake(struct io_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    pool->loop_sleeps = 0;
    pthread_mutex_unlock(&pool->lock);
}
