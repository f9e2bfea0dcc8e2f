// The native data path without JavaScript, for the sanitizers (test/native/sanitizers.test.ts compiles and
// runs it): an I/O loop that plans, parks, answers by hand and lies at random, against a fake kernel that
// checks every byte, and against one that breaks the protocol.
//
//   stress FILE SEED        FILE is written to and equals the device
#include "block_cache.h"
#include "codec.h"
#include "crc32c.h"
#include "executor.h"
#include "fake_ring.h"
#include "io_loop.h"
#include "scsi.h"
#include "segment_merge.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { SIZE = 4 << 20, EVENTS = 64, PLAN = 4096 };

static uint64_t state;
static int file, twin; // twin: another descriptor of file
static int written; // the packed files are no longer as the device is
static int closed;  // queues that the loop has let go of

static uint64_t rnd(void)
{
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return state >> 33;
}

static void check(int ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "stress: %s\n", what);
        exit(1);
    }
}

static void answer_by_hand(struct io_loop *loop, const struct io_event *e)
{
    char *data = malloc((size_t)e->length);
    check(pread(file, data, (size_t)e->length, (off_t)e->offset) == (ssize_t)e->length, "pread");
    check(io_loop_complete_read(loop, e->id, data, (size_t)e->length) == 0, "complete_read");
    check(io_loop_complete_read(loop, e->id, data, (size_t)e->length) == -ENOENT, "completed twice");
    free(data);
}

static double nonsense(void)
{
    static const double values[] = {-1, 0, 0.5, 1, 4096, 1e9, 9007199254740992.0, 1e300, -1e300};
    uint64_t bits = rnd() << 32 | rnd();
    double d;
    memcpy(&d, &bits, sizeof d);
    return rnd() % 2 ? values[rnd() % 9] : d;
}

// The device once more, in packed blocks one after another.
static struct packed {
    int fd, twin, codec, block, checked;
    uint32_t at[SIZE / 4096 + 1];
} packed[] = {
    {.codec = READ_LZ4, .block = 4096, .checked = 1},   {.codec = READ_LZ4, .block = 32768, .checked = 1},
    {.codec = READ_LZ4, .block = 32768, .checked = 0},  {.codec = READ_ZSTD, .block = 4096, .checked = 1},
    {.codec = READ_ZSTD, .block = 65536, .checked = 0}, {.codec = READ_RAW, .block = 8192, .checked = 1},
};
enum { PACKED = sizeof packed / sizeof packed[0] };

static void pack(struct packed *p, const char *path)
{
    char *name, plain[65536], stored[80000];
    check(asprintf(&name, "%s.%d-%d-%d", path, p->codec, p->block, p->checked) > 0, "asprintf");
    p->fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    p->twin = dup(p->fd);
    free(name);
    for (int b = 0; b < SIZE / p->block; b++) {
        check(pread(file, plain, (size_t)p->block, (off_t)b * p->block) == p->block, "pread");
        int64_t n =
            obd_compress((enum obd_codec)p->codec, plain, (size_t)p->block, stored, sizeof stored - 4);
        check(n > 0, "compress");
        if (p->checked) {
            uint32_t crc = obd_crc32c(stored, (size_t)n, 100007);
            memcpy(stored + n, &crc, 4);
            n += 4;
        }
        check(pwrite(p->fd, stored, (size_t)n, p->at[b]) == n, "pwrite");
        p->at[b + 1] = p->at[b] + (uint32_t)n;
    }
    fsync(p->fd);
}

// Descriptors of a range; their number.
static size_t plan_packed(const struct packed *p, uint64_t offset, uint64_t length, struct read_descriptor *d)
{
    size_t n = 0;
    for (uint64_t at = offset, end = offset + length; at < end;) {
        uint64_t b = at / (uint64_t)p->block, skip = at % (uint64_t)p->block;
        uint64_t part = (uint64_t)p->block - skip < end - at ? (uint64_t)p->block - skip : end - at;
        if (rnd() % 16 == 0 && part > 512)
            part = 512; // two descriptors of one block
        d[n++] = (struct read_descriptor){b % 7 == 3 ? p->twin : p->fd,
                                          p->at[b],
                                          p->at[b + 1] - p->at[b],
                                          p->codec + (p->checked ? READ_CRC_CHECKED : 0),
                                          p->block,
                                          (double)skip,
                                          (double)part,
                                          (double)(at - offset)};
        at += part;
    }
    return n;
}

struct server {
    int wake;
    struct io_queue *queues[2];
    struct io_meter meters[2];
    int count, dead;
};

// Thread: the loop's.
static void *serve(void *arg)
{
    struct server *s = arg;
    struct io_loop *loop;
    static _Thread_local struct io_event events[EVENTS];
    static _Thread_local struct read_descriptor plan[PLAN];
    struct io_planned batch[EVENTS];
    check(io_loop_create(s->wake, &loop) == 0, "create");
    if (rnd() % 2)
        check(io_loop_group_reads(loop) == 0, "group");
    for (int i = 0; i < s->count; i++)
        check(io_loop_add(loop, s->queues[i], &s->meters[i]) == i, "add");
    for (;;) {
        int n = io_loop_wait(loop, events, 1 + (int)(rnd() % EVENTS), -1);
        if (n == -ECANCELED)
            break;
        check(n >= 0, "wait");
        size_t planned = 0, used = 0;
        for (int i = 0; i < n; i++) {
            struct io_event *e = &events[i];
            switch ((int)e->kind) {
            case IO_READ: {
                unsigned way = (unsigned)(rnd() % 8);
                if (way == 0 || used + 300 > PLAN) {
                    answer_by_hand(loop, e);
                    break;
                }
                batch[planned] = (struct io_planned){e->id, (double)used, 0};
                uint64_t step = 512 * (1 + rnd() % 16);
                if (!written && way > 3)
                    used += plan_packed(&packed[rnd() % PACKED], (uint64_t)e->offset, (uint64_t)e->length,
                                        plan + used);
                else
                    for (uint64_t at = 0; at < (uint64_t)e->length; at += step) {
                        // Pieces of different descriptors are different reads, whatever lies beside what.
                        int fd = way % 2 && at / step % 3 == 0 ? twin : file;
                        double part = at + step > (uint64_t)e->length ? e->length - (double)at : (double)step;
                        plan[used++] = (struct read_descriptor){
                            fd, e->offset + (double)at, part, READ_RAW, part, 0, part, (double)at};
                    }
                batch[planned].count = (double)used - batch[planned].first;
                if (way == 1)
                    for (int field = 0; field < 3; field++) {
                        // Not the descriptor or the offset: another place is no lie that can be seen.
                        double *d = (double *)&plan[used - 1];
                        d[2 + rnd() % 6] = nonsense();
                    }
                planned++;
                break;
            }
            case EVENT_RETRY_READ:
                answer_by_hand(loop, e);
                break;
            case IO_WRITE: {
                char *data = malloc((size_t)e->length);
                check(io_loop_write_data(loop, e->id, data, (size_t)e->length) == 0, "write_data");
                check(pwrite(file, data, (size_t)e->length, (off_t)e->offset) == (ssize_t)e->length,
                      "pwrite");
                free(data);
                check(io_loop_complete(loop, e->id, 0) == 0, "complete");
                break;
            }
            case EVENT_QUEUE_DEAD:
                s->dead++;
                check(io_loop_remove(loop, (uint32_t)e->queue) == 0, "remove");
                break;
            case EVENT_QUEUE_CLOSED:
                __atomic_add_fetch(&closed, 1, __ATOMIC_SEQ_CST);
                break;
            case EVENT_WOKEN:
                for (int q = 0; q < s->count; q++)
                    io_loop_remove(loop, (uint32_t)q); // once each; again is -ENOENT
                break;
            default:
                check(io_loop_complete(loop, e->id, 0) == 0, "complete others");
            }
        }
        check(io_loop_execute(loop, batch, planned, plan, used) == 0, "execute");
        check(io_loop_execute(loop, &(struct io_planned){nonsense(), nonsense(), nonsense()}, 1, plan,
                              used) == -EINVAL,
              "nonsense executed"); // nothing is with us now: all was answered, planned or is to be retried
        io_loop_complete(loop, -5 - (double)(rnd() % 1000), 0);
    }
    io_loop_destroy(loop);
    return NULL;
}

static void tell(struct server *s, uint64_t value)
{
    check(write(s->wake, &value, sizeof value) == sizeof value, "wake");
}

static void run(const struct fake_ring_options *o, const struct fake_ring_load *load, int attack, int abandon)
{
    struct fake_ring *ring, *victim = NULL;
    static struct server s;
    s = (struct server){.wake = eventfd(0, EFD_NONBLOCK), .count = attack ? 2 : 1};
    check(fake_ring_create(o, &ring, &s.queues[0]) == 0, "fake_ring_create");
    if (attack)
        check(fake_ring_create(o, &victim, &s.queues[1]) == 0, "fake_ring_create");
    pthread_t thread;
    uint64_t seed = rnd();
    closed = 0;
    written |= load->writes > 0;
    check(pthread_create(&thread, NULL, serve, &s) == 0, "thread");
    if (attack)
        fake_ring_attack(victim, attack, seed);
    struct fake_ring_result r;
    posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED); // some of it goes to the pool
    for (int i = 0; i < PACKED; i++)
        if (seed >> i & 1)
            posix_fadvise(packed[i].fd, 0, 0, POSIX_FADV_DONTNEED);
    fake_ring_run(ring, load, &r);
    if (r.error || r.failed || r.wrong || r.violations)
        fprintf(stderr, "error %d, failed %d, wrong %d, violations %d\n", r.error, (int)r.failed,
                (int)r.wrong, (int)r.violations);
    check(r.error == 0 && r.failed == 0 && r.wrong == 0 && r.violations == 0, "bad answers");
    if (!abandon) {
        tell(&s, 1);
        while (__atomic_load_n(&closed, __ATOMIC_SEQ_CST) < s.count)
            usleep(100);
    }
    tell(&s, 1ull << 32);
    pthread_join(thread, NULL);
    check(!attack || attack == ATTACK_GARBAGE || s.dead == 1, "a lying ring was believed");
    fake_ring_destroy(ring);
    if (victim)
        fake_ring_destroy(victim);
    close(s.wake);
}

static void fuzz_scsi(void)
{
    static const uint8_t opcodes[] = {0x12, 0x1a, 0x5a, 0x15, 0x55, 0x42, 0x25,
                                      0x9e, 0x03, 0x41, 0x93, 0x08, 0x88};
    struct scsi_device d = {1000, 0, "overlaybd//config", "serial"};
    struct scsi_result *r = malloc(sizeof *r); // so that ASan sees its ends
    for (int i = 0; i < 200000; i++) {
        uint8_t cdb[SCSI_CDB_MAX], *data;
        size_t length = rnd() % 65;
        data = malloc(length ? length : 1);
        for (int b = 0; b < SCSI_CDB_MAX; b++)
            cdb[b] = (uint8_t)(rnd() % 3 ? rnd() : rnd() % 64);
        for (size_t b = 0; b < length; b++)
            data[b] = (uint8_t)rnd();
        if (rnd() % 4)
            cdb[0] = opcodes[rnd() % sizeof opcodes];
        scsi_decode(&d, cdb, data, length, rnd() % 100000, r);
        check(r->offset + r->length <= 1000 * 512, "range");
        check(r->data_length <= sizeof r->data, "answer");
        free(data);
    }
    free(r);
}

// Segments that no layer has: merging them gives an error or a list, and touches nothing else.
static void fuzz_merge(void)
{
    for (int i = 0; i < 5000; i++) {
        struct segment *layers[4];
        size_t counts[4], sum = 0, n = 1 + rnd() % 4;
        for (size_t l = 0; l < n; l++) {
            counts[l] = rnd() % 8;
            layers[l] = malloc(counts[l] * sizeof **layers + 1); // so that ASan sees its end
            uint64_t at = 0;
            for (size_t s = 0; s < counts[l]; s++) {
                at += rnd() % 30;
                uint64_t length = rnd() % 20;
                layers[l][s] = (struct segment){at | length << 50, rnd() << 24 ^ rnd()};
                if (rnd() % 16)
                    at += length;
                if (rnd() % 64 == 0)
                    layers[l][s].where = rnd() << 33 ^ rnd() << 8;
            }
            sum += counts[l];
        }
        struct segment *out = NULL;
        int64_t r = obd_merge_segments((const struct segment *const *)layers, counts, n, 60, &out);
        check(r == -E2BIG || r == -EINVAL || (r >= 0 && (size_t)r <= 8 * sum), "merge");
        free(out);
        for (size_t l = 0; l < n; l++)
            free(layers[l]);
    }
}

static unsigned char byte_of(const struct block_key *k, size_t at)
{
    return (unsigned char)(k->file_offset * 31 + (unsigned)k->fd * 7 + k->plain / 4096 + at / 509);
}

// More blocks than the cache holds, by number and by bytes: what it gives is right, and it keeps what is
// used.
static void fuzz_cache(void)
{
    struct block_cache *cache = block_cache_create();
    check(cache != NULL, "block_cache_create");
    int hits = 0;
    for (int round = 0; round < 3; round++) {
        const uint32_t sizes = round == 1 ? 64 : 1; // pages of the largest block
        const int names = round == 2 ? 64 : 6000;
        hits = 0;
        for (int i = 0; i < (round == 1 ? 4000 : 20000); i++) {
            struct block_key k = {.file_offset = rnd() % (uint64_t)names * 512, .fd = 3 + (int)(rnd() % 2)};
            k.plain = 4096 * (1 + (uint32_t)(k.file_offset / 512) % sizes);
            k.stored = k.plain / 2;
            uint32_t length = 1 + (uint32_t)(rnd() % k.plain);
            const unsigned char *got = block_cache_get(cache, &k, length);
            if (got) {
                check(block_cache_has(cache, &k), "a block that is not there was given");
                check(got[0] == byte_of(&k, 0) && got[length - 1] == byte_of(&k, length - 1) &&
                          got[length / 2] == byte_of(&k, length / 2),
                      "another block's bytes");
                hits++;
                continue;
            }
            unsigned char *into = block_cache_put(cache, &k);
            check(into != NULL, "block_cache_put");
            check(!block_cache_has(cache, &k), "bytes that are not there yet");
            if (rnd() % 8 == 0)
                continue; // it could not be unpacked
            for (size_t at = 0; at < length; at += 509)
                memset(into + at, byte_of(&k, at), length - at < 509 ? length - at : 509);
            block_cache_set(cache, length);
        }
        if (rnd() % 2)
            block_cache_clear(cache);
    }
    check(hits > 5000, "nothing is kept"); // of the last round, where all fits
    struct block_key large = {.plain = BLOCK_CACHE_LARGEST + 1};
    check(!block_cache_put(cache, &large), "too large");
    block_cache_destroy(cache);
}

int main(int argc, char **argv)
{
    check(argc == 3, "usage: stress FILE SEED");
    signal(SIGPIPE, SIG_IGN); // as Node does
    state = strtoull(argv[2], NULL, 10);
    file = open(argv[1], O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    twin = dup(file);
    check(file >= 0 && ftruncate(file, SIZE) == 0, "open");
    for (int i = 0; i < SIZE; i += 8) {
        uint64_t v = rnd() << 32 | rnd();
        if (i / 4096 % 2) // every other page can be packed
            v &= 0x0f000f00000f0fff;
        check(pwrite(file, &v, 8, i) == 8, "fill");
    }
    fsync(file);
    for (int i = 0; i < PACKED; i++)
        pack(&packed[i], argv[1]);
    fuzz_scsi();
    fuzz_merge();
    fuzz_cache();
    struct fake_ring_options options = {32768, 2048, SIZE, 0, file};
    for (int i = 0; i < 12; i++) {
        struct fake_ring_load load = {
            .depth = i % 3 == 0 ? 1 : 1 + (uint32_t)(rnd() % 300),
            .length = 512 * (1 + (uint32_t)(rnd() % (i % 3 == 1 ? 512 : 64))),
            .operations = 400,
            .writes = 0,
            .sequential = i % 4 == 0,
            .scatter = i % 2,
            .seed = rnd(),
        };
        if (i == 8 || i == 10) { // overlapping is avoided, so few at a time
            load.depth = 4;
            load.writes = 40;
        }
        run(&options, &load, 0, i == 11);
    }
    struct fake_ring_load small = {.depth = 8, .length = 4096, .operations = 100, .seed = 3};
    for (int attack = ATTACK_HEAD; attack <= ATTACK_GARBAGE; attack++)
        for (int i = 0; i < (attack == ATTACK_GARBAGE ? 8 : 1); i++)
            run(&options, &small, attack, 0);
    close(file);
    for (int i = 0; i < PACKED; i++)
        close(packed[i].fd);
    puts("done");
    return 0;
}
