#include "io_spin.h"
#include <stdatomic.h>

enum { WEIGHT = 8 }; // of what was, against 1 of what is: a few waits change the mind, one does not

static atomic_int looking; // loops of the process that look at this moment

void io_spin_init(struct io_spin *spin, int processors)
{
    *spin = (struct io_spin){
        .others = processors - 1,
        .looked_ns = IO_SPIN_CAP_NS,
        .slept_ns = IO_SPIN_CAP_NS,
        .interval = IO_SPIN_FIRST,
        .until_trial = IO_SPIN_FIRST,
    };
}

static int pays(const struct io_spin *spin)
{
    return spin->looked_ns < spin->slept_ns / 4 * 3;
}

int io_spin_begin(struct io_spin *spin)
{
    spin->looks = 0;
    if (spin->others <= 0)
        return 0;
    if (spin->until_trial > 0)
        spin->until_trial--;
    spin->trial = spin->until_trial == 0;
    if (pays(spin) == spin->trial) // a trial is of what does not pay
        return 0;
    if (atomic_fetch_add_explicit(&looking, 1, memory_order_relaxed) < spin->others)
        return spin->looks = 1;
    io_spin_end();
    spin->trial = 0;
    return 0;
}

void io_spin_end(void)
{
    atomic_fetch_sub_explicit(&looking, 1, memory_order_relaxed);
}

void io_spin_came(struct io_spin *spin, uint64_t ns)
{
    uint32_t *average = spin->looks ? &spin->looked_ns : &spin->slept_ns;
    uint32_t other = spin->looks ? spin->slept_ns : spin->looked_ns;
    uint32_t capped = ns < IO_SPIN_CAP_NS ? (uint32_t)ns : IO_SPIN_CAP_NS;
    *average = (*average * (WEIGHT - 1) + capped) / WEIGHT;
    if (!spin->trial)
        return;
    // What was better than the usual is tried again soon.
    if (capped < other / 4 * 3)
        spin->interval = IO_SPIN_FIRST;
    else if (spin->interval < IO_SPIN_LAST)
        spin->interval *= 2;
    spin->until_trial = spin->interval;
    spin->trial = 0;
}
