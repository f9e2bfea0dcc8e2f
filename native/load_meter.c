#include "load_meter.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SAMPLES = 1 << 20 };

uint64_t load_places_count(const struct load_places *p)
{
    return p->target_count ? p->target_count : p->length ? p->size / p->length : 0;
}

uint64_t load_places_next(struct load_places *p, uint64_t *random)
{
    uint64_t count = load_places_count(p), number = p->taken++, pick;
    if (p->sequential) {
        pick = number % count;
    } else if (p->window) {
        if (number % LOAD_WINDOW_ACCESSES == 0)
            p->first = load_random(random) % count;
        pick = (p->first + load_random(random) % (p->window / p->length + 1)) % count;
    } else {
        pick = load_random(random) % count;
    }
    return p->target_count ? (uint64_t)p->targets[pick] : pick * p->length;
}

int load_places_valid(const struct load_places *p)
{
    if (load_places_count(p) == 0 || p->length > p->size)
        return 0;
    for (uint64_t i = 0; i < p->target_count; i++)
        if (!(p->targets[i] >= 0 && p->targets[i] <= (double)(p->size - p->length)))
            return 0;
    return 1;
}

static uint64_t nanoseconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t load_now(void)
{
    return nanoseconds(CLOCK_MONOTONIC);
}

int load_meter_begin(struct load_meter *m)
{
    memset(m, 0, sizeof *m);
    m->samples = malloc(SAMPLES * sizeof *m->samples);
    if (!m->samples)
        return -ENOMEM;
    m->cpu_started = nanoseconds(CLOCK_THREAD_CPUTIME_ID);
    m->started = load_now();
    return 0;
}

double load_meter_seconds(struct load_meter *m)
{
    return (double)(load_now() - m->started) / 1e9;
}

void load_meter_add(struct load_meter *m, uint64_t took)
{
    took /= 100;
    m->samples[m->count++ % SAMPLES] = took > UINT32_MAX ? UINT32_MAX : (uint32_t)took;
}

static int compare(const void *a, const void *b)
{
    const uint32_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

void load_meter_end(struct load_meter *m, struct load_times *out)
{
    memset(out, 0, sizeof *out);
    out->seconds = load_meter_seconds(m);
    out->cpu_seconds = (double)(nanoseconds(CLOCK_THREAD_CPUTIME_ID) - m->cpu_started) / 1e9;
    uint64_t n = m->count < SAMPLES ? m->count : SAMPLES;
    if (n > 0) {
        qsort(m->samples, n, sizeof *m->samples, compare);
        out->p50 = m->samples[n / 2] / 10.0;
        out->p99 = m->samples[n - 1 - n / 100] / 10.0;
        out->p999 = m->samples[n - 1 - n / 1000] / 10.0;
        out->longest = m->samples[n - 1] / 10.0;
    }
    free(m->samples);
    m->samples = NULL;
}
