// Inside of the fake kernel, shared by fake_ring.c (the ring) and fake_ring_load.c (loads and their
// measurement).
#pragma once
#include "fake_ring.h"
#include "scsi.h"

enum {
    BLOCK = 4096,
    RING_OFFSET = 128, // after the mailbox, as the kernel has it
    MAX_DEPTH = 1024,
    MAX_BLOCKS = 1024, // of one command
    PATIENCE_MS = 10000,
    LOOK_NS = 30000, // looks for an answer so long before it sleeps, if it looks
};

struct command {
    int busy, write;
    uint64_t offset, length, started;
    uint32_t block_count, *blocks;
    uint8_t status;
    uint8_t sense[SCSI_SENSE_LENGTH];
};

struct fake_ring {
    struct fake_ring_options options;
    int fd; // our end of the socket
    unsigned char *map;
    size_t map_size, data_offset;
    uint32_t head, cleaned; // offsets in the ring, ours
    uint32_t *free_blocks, free_count;
    struct command commands[MAX_DEPTH + 1]; // by id; 0 is no id
    uint64_t random;
    unsigned char *expected; // scratch of one command
};

uint64_t fake_ring_next_random(struct fake_ring *f);
void fake_ring_put_cdb(uint8_t *cdb, int opcode, uint64_t lba, uint32_t count); // READ or WRITE of 16 bytes
// Places a command in the ring; 0, or -EAGAIN when ring or data area are full. data: what to write, or NULL.
int fake_ring_submit(struct fake_ring *f, uint16_t id, const uint8_t *cdb, const unsigned char *data,
                     int scatter);
void fake_ring_wake(struct fake_ring *f);
// The next answer: its id, 0 when there is none, -EPROTO for an answer to nothing.
int fake_ring_reap(struct fake_ring *f);
void fake_ring_release(struct fake_ring *f, struct command *c);
int fake_ring_wait_kick(struct fake_ring *f); // false after PATIENCE_MS without one
// Looks for an answer for LOOK_NS. False if there is none yet.
int fake_ring_look(struct fake_ring *f);
