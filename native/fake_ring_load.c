#include "fake_ring_internal.h"
#include "io_pool.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LUCK = 16 }; // looks that found nothing until they are rare; then one wait in so many looks

static int overlaps(struct fake_ring *f, uint64_t offset, uint32_t length, uint32_t depth)
{
    for (uint32_t i = 1; i <= depth; i++)
        if (f->commands[i].busy && f->commands[i].offset < offset + length &&
            offset < f->commands[i].offset + f->commands[i].length)
            return 1;
    return 0;
}

void fake_ring_run(struct fake_ring *f, const struct fake_ring_load *load, struct fake_ring_result *r)
{
    memset(r, 0, sizeof *r);
    struct load_places places = {load->targets, load->target_count, f->options.device_size,
                                 load->length,  load->sequential,   load->window};
    struct load_meter meter = {0};
    uint64_t submitted = 0, limit = load->operations ? load->operations : UINT64_MAX;
    uint32_t in_flight = 0;
    uint16_t free_ids[MAX_DEPTH];
    uint32_t id_count = 0;
    if (load->depth == 0 || load->depth > MAX_DEPTH || load->length > MAX_BLOCKS * BLOCK ||
        (load->operations == 0 && load->seconds == 0) || !load_places_valid(&places) ||
        (load->writes && load_places_count(&places) < 2 * (uint64_t)load->depth)) {
        r->error = -EINVAL;
        return;
    }
    if ((r->error = load_meter_begin(&meter)))
        return;
    // A sleep adds how long this machine takes to wake a thread, of which the handler's own is enough. Where
    // looking finds nothing, or there is one processor, it is in the way.
    const int may_look = io_pool_processors() > 1;
    int luck = LUCK;
    uint64_t waits = 0;
    for (uint32_t i = load->depth; i > 0; i--)
        free_ids[id_count++] = (uint16_t)i;
    f->random = load->seed * 2 + 1;
    while (r->operations < limit && !r->error) {
        int fresh = 0;
        if (load->seconds > 0 && limit > submitted && load_meter_seconds(&meter) >= load->seconds)
            limit = submitted;
        while (id_count > 0 && submitted < limit) {
            uint16_t id = free_ids[id_count - 1];
            struct command *c = &f->commands[id];
            c->write = fake_ring_next_random(f) % 100 < load->writes;
            do
                c->offset = load_places_next(&places, &f->random);
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
            load_meter_add(&meter, load_now() - c->started);
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
        if (reaped || in_flight == 0)
            continue;
        if (may_look && (luck > 0 || ++waits % LUCK == 0)) {
            if (fake_ring_look(f)) {
                luck = luck < LUCK ? luck + 1 : luck;
                continue;
            }
            luck = luck > 0 ? luck - 1 : luck;
        }
        if (!fake_ring_wait_kick(f))
            r->error = -ETIMEDOUT;
    }
    load_meter_end(&meter, &r->times);
}
