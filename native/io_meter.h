// What one queue's commands were and how long each took, from its arrival to its end, counted where it ends.
//
// The numbers are doubles in memory that JavaScript shares between threads (src/native/io-meter.ts has the
// same layout). The loop's thread alone adds to them; anybody reads, and sees each number whole, if not all
// of one moment. Nothing is allocated, and no system call is made.
//
// Times fall into buckets whose width is a quarter of a power of two: a percentile is right to a fifth.
#pragma once
#include "file_speed.h"
#include "io_queue.h"

#ifdef __cplusplus
extern "C" {
#endif

// Kinds of commands, as far as they differ in what makes them slow.
enum io_cause {
    CAUSE_LOCAL,   // a read of local bytes, by the loop or its helpers
    CAUSE_DECODED, // the same, with a block that had been unpacked before
    CAUSE_DISK,    // a read of local bytes that was left to a thread that may wait for a disk
    CAUSE_GENERAL, // a read that JavaScript answered: bytes that were to be fetched, first of all
    CAUSE_WRITE,
    CAUSE_DISCARD,
    CAUSE_FLUSH,
    CAUSES,
};

enum {
    METER_FIRST = 8,     // times below 2^8 ns fall into the first bucket
    METER_QUARTERS = 4,  // buckets of one power of two
    METER_BUCKETS = 128, // the last: from 2^39.75 ns, 15 minutes, on
};

struct io_meter_cause {
    double count;       // commands that ended, errors too
    double errors;      // those with a status other than 0
    double bytes;       // of those that ended well
    double nanoseconds; // of all
    double longest;     // nanoseconds, since a reader last set it to 0
    double spare[3];
    double buckets[METER_BUCKETS];
};

struct io_meter {
    double in_flight;
    double spare[7];
    struct io_meter_cause causes[CAUSES];
};
enum { METER_WORDS = sizeof(struct io_meter) / sizeof(double) };

// Turns ticks (file_speed.h) into nanoseconds. The rate is measured when a loop begins, and again while it
// runs: over a longer time it is more exact.
struct io_clock {
    uint64_t ticks, ns, due; // when it began; when the rate is measured again
    uint64_t rate;           // nanoseconds of 2^24 ticks
};
void io_clock_start(struct io_clock *clock);
void io_clock_measure(struct io_clock *clock, uint64_t now);
static inline void io_clock_check(struct io_clock *clock, uint64_t now)
{
    if (now >= clock->due)
        io_clock_measure(clock, now);
}

// So many ticks in nanoseconds.
static inline uint64_t io_clock_ns(const struct io_clock *clock, uint64_t ticks)
{
    // In two steps, so that an hour does not overflow.
    return (ticks >> 24) * clock->rate + ((ticks & 0xffffff) * clock->rate >> 24);
}

// A time of so many nanoseconds belongs here.
static inline unsigned io_meter_bucket(uint64_t ns)
{
    if (ns < 1u << METER_FIRST)
        return 0;
    unsigned top = 63 - (unsigned)__builtin_clzll(ns), at = 1 + (top - METER_FIRST) * METER_QUARTERS;
    at += (unsigned)(ns >> (top - 2)) & (METER_QUARTERS - 1);
    return at < METER_BUCKETS ? at : METER_BUCKETS - 1;
}

// A command is over. `began` and `now` are ticks; clocks of two processors may disagree a little.
static inline void io_meter_add(struct io_meter *meter, const struct io_clock *clock, enum io_cause cause,
                                uint64_t began, uint64_t now, uint64_t bytes, int status)
{
    uint64_t ticks = now > began ? now - began : 0;
    uint64_t ns = io_clock_ns(clock, ticks);
    struct io_meter_cause *c = &meter->causes[cause];
    c->count++;
    c->nanoseconds += (double)ns;
    c->buckets[io_meter_bucket(ns)]++;
    if ((double)ns > c->longest)
        c->longest = (double)ns;
    if (status == 0)
        c->bytes += (double)bytes;
    else
        c->errors++;
}

#ifdef __cplusplus
}
#endif
