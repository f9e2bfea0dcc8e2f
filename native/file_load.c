#include "file_load.h"
#include <errno.h>
#include <linux/aio_abi.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { ALIGNMENT = 4096, PATIENCE_SECONDS = 60 };

struct slot {
    struct iocb iocb;
    uint64_t started;
};

static int reap(aio_context_t context, struct io_event *events, int max)
{
    struct timespec patience = {PATIENCE_SECONDS, 0};
    long n;
    do
        n = syscall(SYS_io_getevents, context, 1L, (long)max, events, &patience);
    while (n < 0 && errno == EINTR);
    return n > 0 ? (int)n : n == 0 ? -ETIMEDOUT : -errno;
}

void file_load_run(const struct file_load *load, struct file_load_result *r)
{
    memset(r, 0, sizeof *r);
    struct load_places places = load->places;
    uint32_t depth = load->depth, length = places.length;
    if (depth == 0 || depth > FILE_LOAD_MAX_DEPTH || length > FILE_LOAD_MAX_LENGTH ||
        (uint64_t)depth * length > FILE_LOAD_MAX_MEMORY || !load_places_valid(&places)) {
        r->error = -EINVAL;
        return;
    }
    uint64_t random = load->seed * 2 + 1;
    unsigned char *memory = NULL;
    struct slot *slots = calloc(depth, sizeof *slots);
    struct iocb **batch = calloc(depth, sizeof *batch);
    struct io_event *events = calloc(depth, sizeof *events);
    aio_context_t context = 0;
    struct load_meter meter = {0};
    if (!slots || !batch || !events || posix_memalign((void **)&memory, ALIGNMENT, (size_t)depth * length))
        r->error = -ENOMEM;
    else if (syscall(SYS_io_setup, (long)depth, &context) < 0)
        r->error = -errno;
    else
        r->error = load_meter_begin(&meter);
    if (r->error)
        goto out;
    for (size_t i = 0; i + 8 <= (size_t)depth * length; i += 8) {
        uint64_t noise = load_random(&random);
        memcpy(memory + i, &noise, 8);
    }
    uint32_t in_flight = 0, idle = depth;
    for (uint32_t i = 0; i < depth; i++)
        batch[i] = &slots[i].iocb;
    for (;;) {
        if (load_meter_seconds(&meter) >= load->seconds)
            idle = 0;
        uint64_t now = load_now();
        for (uint32_t i = 0; i < idle; i++) {
            struct iocb *cb = batch[i];
            struct slot *slot = (struct slot *)cb; // its first member
            int write = load_random(&random) % 100 < load->writes;
            memset(cb, 0, sizeof *cb);
            cb->aio_fildes = (uint32_t)load->fd;
            cb->aio_lio_opcode = write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
            cb->aio_buf = (uint64_t)(uintptr_t)(memory + (size_t)(slot - slots) * length);
            cb->aio_nbytes = length;
            cb->aio_offset = (int64_t)load_places_next(&places, &random);
            slot->started = now;
        }
        for (uint32_t done = 0; done < idle;) {
            long n = syscall(SYS_io_submit, context, (long)(idle - done), batch + done);
            if (n < 0 && errno == EINTR)
                continue;
            if (n <= 0) {
                r->error = n < 0 ? -errno : -EIO;
                break;
            }
            done += (uint32_t)n;
            in_flight += (uint32_t)n;
        }
        idle = 0;
        if (in_flight == 0)
            break;
        int n = reap(context, events, (int)depth);
        if (n < 0) {
            r->error = n;
            break;
        }
        now = load_now();
        for (int i = 0; i < n; i++) {
            struct slot *slot = (struct slot *)(uintptr_t)events[i].obj;
            load_meter_add(&meter, now - slot->started);
            r->operations++;
            if (events[i].res != (int64_t)length) {
                if (r->failed++ == 0)
                    r->first_failure = events[i].res < 0 ? (int)events[i].res : 0;
            }
            batch[idle++] = &slot->iocb;
            in_flight--;
        }
        if (r->error || r->failed) // a device that fails is not measured
            idle = 0;
    }
    load_meter_end(&meter, &r->times);
    if (r->error && in_flight > 0)
        return; // the kernel may still write to this memory: it is left to it
out:
    if (context)
        syscall(SYS_io_destroy, context);
    free(slots);
    free(batch);
    free(events);
    free(memory);
}
