// Whether reading a file makes the reader wait for a disk. Where the file system can tell (RWF_NOWAIT) it is
// asked with each read. Where it cannot (overlayfs, FUSE, NFS, tmpfs and hostfs of some kernels) the last
// reads say it: while they are quick, the next is made at once; a few that waited, and the file is left to
// threads that may wait, until their reads are quick again.
//
// A table belongs to one thread. It forgets a file whose place another one needs, and then asks anew.
#pragma once
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <x86intrin.h>
#else
#include <time.h>
#endif

enum {
    FILE_SPEED_PLACES = 1024,   // files remembered
    FILE_SPEED_BAD = 8,         // a read that waited weighs so much more than a quick one,
    FILE_SPEED_LIMIT = 28,      // and four soon after each other are enough
    FILE_SPEED_QUICK_JOBS = 16, // quick reads elsewhere until the file is read here again
};

struct file_speed {
    int fd;              // plus 1; 0: empty
    uint8_t cannot_tell; // the file system has no RWF_NOWAIT
    uint8_t slow;        // left to threads that may wait
    uint8_t score;       // of reads made here
    uint8_t quick;       // quick reads elsewhere, one after another
};

struct file_speeds {
    struct file_speed at[FILE_SPEED_PLACES];
};

// A clock that costs no system call, even where clock_gettime does. Ticks of 0.2 to 1 ns: what is told apart,
// microseconds of copying and a disk's hundreds, lies further apart than that.
#if defined(__x86_64__)
#define FILE_SPEED_WAITED 300000u // ticks that no read of cached bytes takes, unless it was interrupted
#define FILE_SPEED_PER_BYTE 3u
static inline uint64_t file_speed_ticks(void)
{
    return __rdtsc();
}
#else
#define FILE_SPEED_WAITED 100000u
#define FILE_SPEED_PER_BYTE 1u
static inline uint64_t file_speed_ticks(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}
#endif

static inline struct file_speed *file_speed_of(struct file_speeds *speeds, int fd)
{
    struct file_speed *s = &speeds->at[(unsigned)fd % FILE_SPEED_PLACES];
    if (s->fd != fd + 1)
        *s = (struct file_speed){.fd = fd + 1};
    return s;
}

// A read on the table's own thread.
static inline void file_speed_read_here(struct file_speed *s, int waited)
{
    if (waited)
        s->score += FILE_SPEED_BAD;
    else if (s->score > 0)
        s->score--;
    if (s->score >= FILE_SPEED_LIMIT) {
        s->slow = 1;
        s->score = s->quick = 0;
    }
}

// A read of another thread, told on the table's own.
static inline void file_speed_read_elsewhere(struct file_speed *s, int waited)
{
    if (!s->slow)
        return;
    s->quick = waited ? 0 : s->quick + 1;
    if (s->quick >= FILE_SPEED_QUICK_JOBS)
        s->slow = 0;
}

// Descriptors may name other files from now on.
static inline void file_speed_forget(struct file_speeds *speeds)
{
    memset(speeds, 0, sizeof *speeds);
}
