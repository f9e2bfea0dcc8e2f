// Queues on their way from the thread that made them to the loop that serves them (io_loop.h).
#include "io_loop.h"
#include <errno.h>
#include <pthread.h>

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
