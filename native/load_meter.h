// What the makers of load share (fake_ring.h, file_load.h): which places they visit, for how long, and the
// measuring of it.
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Where a load goes: one of `targets` (byte offsets, whole numbers), or if there are none any multiple of
// `length` below `size`. In order and round and round, or at random: anywhere, or within a window that lies
// elsewhere after every LOAD_WINDOW_ACCESSES.
enum { LOAD_WINDOW_ACCESSES = 4096 };
struct load_places {
    const double *targets; // borrowed
    uint64_t target_count;
    uint64_t size;   // of the device in bytes
    uint32_t length; // of each access in bytes
    int sequential;
    uint64_t window;       // bytes, if the places were neighbours; 0: none
    uint64_t taken, first; // how many so far; where the window begins
};

// How many different places there are.
uint64_t load_places_count(const struct load_places *p);
// The next one, in bytes. There is at least one. `random` is the state of load_random.
uint64_t load_places_next(struct load_places *p, uint64_t *random);
// Whether every place is inside the device.
int load_places_valid(const struct load_places *p);

// Repeatable random numbers (xorshift64*); the state is not 0.
static inline uint64_t load_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 2685821657736338717ull;
}

// Latencies of one thread's load. The last million are kept.
struct load_meter {
    uint32_t *samples; // tenths of a microsecond
    uint64_t count, started, cpu_started;
};

struct load_times {
    double seconds, cpu_seconds;    // of the load; of the thread that made it
    double p50, p99, p999, longest; // latency in microseconds
};

uint64_t load_now(void);                         // nanoseconds
int load_meter_begin(struct load_meter *m);      // 0 or -ENOMEM; the clock runs
double load_meter_seconds(struct load_meter *m); // since then
void load_meter_add(struct load_meter *m, uint64_t nanoseconds);
void load_meter_end(struct load_meter *m, struct load_times *out); // once, on the same thread

#ifdef __cplusplus
}
#endif
