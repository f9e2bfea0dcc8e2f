#include "io_pool.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

struct io_pool {
    pthread_mutex_t lock; // guards everything below but done_fd, max and threads[]
    pthread_cond_t work;
    struct io_job *first, **last; // waiting, oldest first
    struct io_job *done;
    int idle, stopping;
    int done_fd;
    int max, started; // started, threads[]: the loop's thread only
    pthread_t threads[];
};

// Thread: one of the pool's.
static void *run(void *arg)
{
    struct io_pool *pool = arg;
    struct execute_scratch scratch = {0};
    int usable = obd_scratch_init(&scratch) == 0;
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        while (!pool->first && !pool->stopping) {
            pool->idle++;
            pthread_cond_wait(&pool->work, &pool->lock);
            pool->idle--;
        }
        if (pool->stopping)
            break;
        struct io_job *job = pool->first;
        pool->first = job->next;
        if (!pool->first)
            pool->last = &pool->first;
        pthread_mutex_unlock(&pool->lock);

        const struct iovec *iov;
        int iov_count;
        job->result = EXECUTE_BAD;
        if (usable && job->queue->ops->buffers(job->queue, job->command, &iov, &iov_count) == 0)
            job->result = obd_execute(job->steps, job->count, iov, iov_count, &scratch, 1);

        pthread_mutex_lock(&pool->lock);
        job->next = pool->done;
        pool->done = job;
        if (!job->next) { // the loop takes all at once, so one signal is enough
            uint64_t one = 1;
            ssize_t n = write(pool->done_fd, &one, sizeof one);
            (void)n; // cannot fail: the counter is far from full
        }
    }
    pthread_mutex_unlock(&pool->lock);
    obd_scratch_free(&scratch);
    return NULL;
}

int io_pool_create(int max_threads, int done_fd, struct io_pool **out)
{
    struct io_pool *pool = calloc(1, sizeof *pool + (size_t)max_threads * sizeof(pthread_t));
    if (!pool)
        return -ENOMEM;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    pool->last = &pool->first;
    pool->done_fd = done_fd;
    pool->max = max_threads;
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
    free_list(pool->first);
    free_list(pool->done);
    pthread_mutex_destroy(&pool->lock);
    pthread_cond_destroy(&pool->work);
    free(pool);
}

int io_pool_submit(struct io_pool *pool, struct io_job *job)
{
    int result = 0;
    job->next = NULL;
    pthread_mutex_lock(&pool->lock);
    *pool->last = job;
    pool->last = &job->next;
    int waiting = 0;
    for (struct io_job *j = pool->first; j && waiting <= pool->idle; j = j->next)
        waiting++;
    int start = waiting > pool->idle && pool->started < pool->max;
    pthread_cond_signal(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    if (start) {
        // Signals are the main thread's business.
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        int e = pthread_create(&pool->threads[pool->started], NULL, run, pool);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        if (e == 0) {
            pool->started++;
        } else if (pool->started == 0) { // nobody will ever run it, so it is still the only one waiting
            pool->first = NULL;
            pool->last = &pool->first;
            result = -e;
        }
    }
    return result;
}

struct io_job *io_pool_take_done(struct io_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    struct io_job *done = pool->done;
    pool->done = NULL;
    pthread_mutex_unlock(&pool->lock);
    return done;
}
