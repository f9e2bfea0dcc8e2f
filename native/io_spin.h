// Whether a loop looks for more commands for some microseconds before it sleeps.
//
// A program that reads one block after the other asks for the next soon after it has its answer. Where to
// sleep and to be woken takes longer than that (40 us on an idle processor of a virtual machine), looking
// saves most of it. Where it takes little, or the other side needs this very processor, looking is lost. So
// nothing is assumed: the loop keeps how long it was, lately, from its answers to the next command, when it
// looked and when it slept, and looks while that is clearly less. Now and then it does the other thing, to
// know; the less often, the longer that changes nothing.
//
//   commands are late or rare:  looking is followed by sleep and no quicker; it stops after a few times
//   nothing was answered:       not asked at all; an idle loop sleeps
//   one processor, or all but one are used for looking: sleep
//
// Thread: the loop's own. The number of those who look is shared by the loops of the process.
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    IO_SPIN_NS = 30000,      // looks for at most so long
    IO_SPIN_CAP_NS = 100000, // longer waits count as this
    IO_SPIN_FIRST = 16,      // waits until the other thing is tried,
    IO_SPIN_LAST = 1024,     // and at most so many
};

struct io_spin {
    int others;           // loops that may look at one time; 0: this one never looks
    uint32_t looked_ns;   // moving averages of the times to the next command
    uint32_t slept_ns;    //
    uint16_t interval;    // waits between two trials
    uint16_t until_trial; // waits until the next
    uint8_t trial, looks; // this wait
};

// processors: how many the thread may run on.
void io_spin_init(struct io_spin *spin, int processors);
// A wait begins. Whether to look before the sleep; if so, io_spin_end follows.
int io_spin_begin(struct io_spin *spin);
// The look is over.
void io_spin_end(void);
// The wait's first command came so long after the answers. Not called if something else ended the wait.
void io_spin_came(struct io_spin *spin, uint64_t ns);

// Tells the processor that this is a loop that waits for memory.
static inline void io_spin_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#ifdef __cplusplus
}
#endif
