#include "fake_ring_internal.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int overlaps(struct fake_ring *f, uint64_t offset, uint32_t length, uint32_t depth)
{
    for (uint32_t i = 1; i <= depth; i++)
        if (f->commands[i].busy && f->commands[i].offset < offset + length &&
            offset < f->commands[i].offset + f->commands[i].length)
            return 1;
    return 0;
}

static int compare(const void *a, const void *b)
{
    const uint32_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

void fake_ring_run(struct fake_ring *f, const struct fake_ring_load *load, struct fake_ring_result *r)
{
    memset(r, 0, sizeof *r);
    uint32_t *samples = malloc(SAMPLES * sizeof *samples);
    uint64_t sample_count = 0, submitted = 0, units = f->options.device_size / load->length, at = 0;
    uint32_t in_flight = 0;
    uint16_t free_ids[MAX_DEPTH];
    uint32_t id_count = 0;
    if (!samples || load->depth > MAX_DEPTH || load->length > MAX_BLOCKS * BLOCK || units == 0) {
        free(samples);
        r->error = -EINVAL;
        return;
    }
    for (uint32_t i = load->depth; i > 0; i--)
        free_ids[id_count++] = (uint16_t)i;
    f->random = load->seed * 2 + 1;
    uint64_t start = fake_ring_now();
    while (r->operations < load->operations && !r->error) {
        int fresh = 0;
        while (id_count > 0 && submitted < load->operations) {
            uint16_t id = free_ids[id_count - 1];
            struct command *c = &f->commands[id];
            c->write = fake_ring_next_random(f) % 100 < load->writes;
            do
                c->offset =
                    (load->sequential ? at++ % units : fake_ring_next_random(f) % units) * load->length;
            while (load->writes && overlaps(f, c->offset, load->length, load->depth));
            c->length = load->length;
            uint8_t cdb[SCSI_CDB_MAX];
            fake_ring_put_cdb(cdb, c->write ? 0x8a : 0x88, c->offset / 512, load->length / 512);
            if (c->write) {
                for (uint32_t i = 0; i < load->length; i += 8) {
                    uint64_t v = fake_ring_next_random(f);
                    memcpy(f->expected + i, &v, 8);
                }
                if (f->options.verify_fd >= 0 &&
                    pwrite(f->options.verify_fd, f->expected, load->length, (off_t)c->offset) != load->length)
                    r->error = -errno;
            }
            if (fake_ring_submit(f, id, cdb, c->write ? f->expected : NULL, load->scatter) < 0)
                break;
            id_count--;
            submitted++;
            in_flight++;
            fresh = 1;
        }
        if (fresh)
            fake_ring_wake(f);
        int reaped = 0, id;
        while ((id = fake_ring_reap(f)) != 0) {
            if (id < 0) {
                r->violations++;
                continue;
            }
            struct command *c = &f->commands[id];
            uint64_t took = (fake_ring_now() - c->started) / 100; // tenths of a microsecond
            samples[sample_count++ % SAMPLES] = took > UINT32_MAX ? UINT32_MAX : (uint32_t)took;
            if (c->status != SCSI_GOOD) {
                r->failed++;
            } else if (!c->write && f->options.verify_fd >= 0) {
                // Block by block, against the file.
                ssize_t n = pread(f->options.verify_fd, f->expected, c->length, (off_t)c->offset);
                int wrong = n != (ssize_t)c->length;
                for (uint32_t i = 0; i < c->block_count; i++) {
                    uint64_t left = c->length - (uint64_t)i * BLOCK;
                    wrong |= memcmp(f->map + f->data_offset + (uint64_t)c->blocks[i] * BLOCK,
                                    f->expected + (uint64_t)i * BLOCK, left < BLOCK ? left : BLOCK) != 0;
                }
                r->wrong += (uint64_t)wrong;
            }
            fake_ring_release(f, c);
            free_ids[id_count++] = (uint16_t)id;
            in_flight--;
            r->operations++;
            reaped = 1;
        }
        if (!reaped && in_flight > 0 && !fake_ring_wait_kick(f))
            r->error = -ETIMEDOUT;
    }
    r->seconds = (double)(fake_ring_now() - start) / 1e9;
    uint64_t n = sample_count < SAMPLES ? sample_count : SAMPLES;
    if (n > 0) {
        qsort(samples, n, sizeof *samples, compare);
        r->p50 = samples[n / 2] / 10.0;
        r->p99 = samples[n - 1 - n / 100] / 10.0;
        r->p999 = samples[n - 1 - n / 1000] / 10.0;
        r->longest = samples[n - 1] / 10.0;
    }
    free(samples);
}
