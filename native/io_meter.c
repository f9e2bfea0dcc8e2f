#include "io_meter.h"
#include <time.h>

enum {
    RATE_BITS = 24,
    FIRST_NS = 100000,         // measured over so long, the rate is right to a thousandth
    FIRST_WAIT_TICKS = 1 << 30 // measured again after about so long, and then after twice as long each time
};

_Static_assert(sizeof(struct io_meter) == (8 + CAUSES * (8 + METER_BUCKETS)) * sizeof(double),
               "src/native/io-meter.ts counts the same doubles");

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void io_clock_measure(struct io_clock *clock, uint64_t now)
{
    uint64_t ticks = now - clock->ticks, ns = now_ns() - clock->ns;
    if (ticks > 0 && ns > 0)
        clock->rate = (uint64_t)((double)ns / (double)ticks * (double)(1u << RATE_BITS));
    clock->due = now + (ticks > FIRST_WAIT_TICKS ? ticks : FIRST_WAIT_TICKS);
}

void io_clock_start(struct io_clock *clock)
{
    clock->ns = now_ns();
    clock->ticks = file_speed_ticks();
    while (now_ns() - clock->ns < FIRST_NS)
        ;
    io_clock_measure(clock, file_speed_ticks());
}
