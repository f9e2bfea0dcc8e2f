// See loop_device.h. One thread per device; it sleeps on a condition variable all its life but the ends.
//
//   caller: obd_loop_attach --starts--> STARTING --configured--> HELD --detach--> LEAVING --claimed--> GONE
//   <- join
//                                                                 ^------- in use by others ---'
#include "loop_device.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef CLOSE_RANGE_UNSHARE
#define CLOSE_RANGE_UNSHARE (1U << 1)
#endif

#define TRIES 64               // each lost race means that somebody else made progress
#define STACK_BYTES (64 << 10) // the thread only makes system calls

enum state { STARTING, FAILED, HELD, LEAVING, FORCED, GONE };

struct loop {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    enum state state; // under lock
    int result;       // under lock: of the start, or of the last attempt to leave
    int mount_fd, read_only, number;
    char file[LO_NAME_SIZE];
};

static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static struct loop *table[LOOP_MAX]; // handle - 1; entries belong to the table until join

// ---- the keeper thread

// Gives this thread a descriptor table with only `keep` in it.
static int leave_table(int keep)
{
    if (syscall(SYS_close_range, (unsigned)keep + 1, ~0u, CLOSE_RANGE_UNSHARE) != 0)
        return -errno;
    if (keep > 0 && syscall(SYS_close_range, 0u, (unsigned)keep - 1, 0u) != 0)
        return -errno;
    return 0;
}

static int configure(struct loop *l, int file_fd, int loop_fd)
{
    struct loop_config config = {.fd = (uint32_t)file_fd, .block_size = 512};
    config.info.lo_flags = LO_FLAGS_DIRECT_IO | LO_FLAGS_AUTOCLEAR | (l->read_only ? LO_FLAGS_READ_ONLY : 0);
    memcpy(config.info.lo_file_name, l->file, LO_NAME_SIZE);
    return ioctl(loop_fd, LOOP_CONFIGURE, &config) == 0 ? 0 : -errno;
}

// The loop device's descriptor, or -errno.
static int start(struct loop *l)
{
    const int mode = (l->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC;
    int error = leave_table(l->mount_fd), loop_fd = -1;
    if (error)
        return error;
    int file_fd = openat(l->mount_fd, l->file, mode), control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    if (file_fd < 0 || control < 0)
        error = -errno;
    close(l->mount_fd); // this table's; the caller has its own
    for (int i = 0; !error && i < TRIES; i++) {
        char path[32];
        if ((l->number = ioctl(control, LOOP_CTL_GET_FREE)) < 0) {
            error = -errno;
            break;
        }
        snprintf(path, sizeof path, "/dev/loop%d", l->number);
        if ((loop_fd = open(path, mode)) < 0) {
            error = -errno;
            break;
        }
        error = configure(l, file_fd, loop_fd);
        if (error == 0)
            break;
        close(loop_fd);
        loop_fd = -1;
        if (error == -EBUSY && i + 1 < TRIES)
            error = 0; // somebody was quicker
    }
    if (control >= 0)
        close(control);
    if (file_fd >= 0)
        close(file_fd);
    return error ? error : loop_fd;
}

// An exclusive descriptor of the loop device, or -EBUSY.
static int claim(const struct loop *l)
{
    char path[32];
    snprintf(path, sizeof path, "/dev/loop%d", l->number);
    int fd = open(path, O_RDONLY | O_EXCL | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static void *keeper(void *arg)
{
    struct loop *l = arg;
    int fd = start(l);
    pthread_mutex_lock(&l->lock);
    l->state = fd < 0 ? FAILED : HELD;
    l->result = fd < 0 ? fd : 0;
    pthread_cond_broadcast(&l->changed);
    while (fd >= 0) {
        while (l->state == HELD)
            pthread_cond_wait(&l->changed, &l->lock);
        const int force = l->state == FORCED;
        pthread_mutex_unlock(&l->lock);
        // While we hold the claim nobody can mount it any more.
        int claimed = claim(l);
        pthread_mutex_lock(&l->lock);
        l->result = claimed == -EBUSY && !force ? -EBUSY : 0;
        if (l->result != 0) {
            l->state = HELD;
            pthread_cond_broadcast(&l->changed);
            continue;
        }
        l->state = GONE;
        pthread_cond_broadcast(&l->changed);
        pthread_mutex_unlock(&l->lock);
        close(fd);
        if (claimed >= 0)
            close(claimed);
        return NULL;
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

// ---- the callers' side

static void destroy(struct loop *l)
{
    pthread_join(l->thread, NULL);
    pthread_cond_destroy(&l->changed);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

static int run_keeper(struct loop *l)
{
    sigset_t all, before;
    pthread_attr_t attr;
    sigfillset(&all);
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    pthread_sigmask(SIG_SETMASK, &all, &before); // signals are the main thread's business
    int error = pthread_create(&l->thread, &attr, keeper, l);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return -error;
}

static int put(struct loop *l)
{
    int handle = -EMFILE;
    pthread_mutex_lock(&table_lock);
    for (int i = 0; i < LOOP_MAX && handle < 0; i++)
        if (!table[i]) {
            table[i] = l;
            handle = i + 1;
        }
    pthread_mutex_unlock(&table_lock);
    return handle;
}

static struct loop *get(int handle, int take)
{
    struct loop *l = NULL;
    pthread_mutex_lock(&table_lock);
    if (handle > 0 && handle <= LOOP_MAX) {
        l = table[handle - 1];
        if (take)
            table[handle - 1] = NULL;
    }
    pthread_mutex_unlock(&table_lock);
    return l;
}

int obd_loop_attach(int mount_fd, const char *file, int read_only, int *number)
{
    if (strlen(file) >= LO_NAME_SIZE)
        return -ENAMETOOLONG;
    struct loop *l = calloc(1, sizeof *l);
    if (!l)
        return -ENOMEM;
    l->mount_fd = mount_fd;
    l->read_only = read_only;
    strcpy(l->file, file);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->changed, NULL);
    const int handle = put(l);
    int error = handle < 0 ? handle : run_keeper(l);
    if (error) {
        get(handle, 1);
        pthread_cond_destroy(&l->changed);
        pthread_mutex_destroy(&l->lock);
        free(l);
        return error;
    }
    pthread_mutex_lock(&l->lock);
    while (l->state == STARTING)
        pthread_cond_wait(&l->changed, &l->lock);
    error = l->result;
    *number = l->number;
    pthread_mutex_unlock(&l->lock);
    if (error) {
        get(handle, 1);
        destroy(l);
        return error;
    }
    return handle;
}

int obd_loop_detach(int handle, int force)
{
    struct loop *l = get(handle, 0);
    if (!l)
        return -ENOENT;
    pthread_mutex_lock(&l->lock);
    if (l->state == HELD) {
        l->state = force ? FORCED : LEAVING;
        pthread_cond_broadcast(&l->changed);
    }
    while (l->state == LEAVING || l->state == FORCED)
        pthread_cond_wait(&l->changed, &l->lock);
    int result = l->result;
    pthread_mutex_unlock(&l->lock);
    return result;
}

int obd_loop_join(int handle)
{
    struct loop *l = get(handle, 1);
    if (!l)
        return -ENOENT;
    destroy(l);
    return 0;
}

int obd_loop_remove(int number)
{
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    if (control < 0)
        return -errno;
    int error = ioctl(control, LOOP_CTL_REMOVE, number) < 0 ? -errno : 0;
    close(control);
    return error;
}
