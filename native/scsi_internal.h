// Inside of the SCSI decoder, shared by scsi.c (commands) and scsi_identity.c (what a device says about
// itself).
#pragma once
#include "scsi.h"

// Sense key, additional sense code and qualifier in one number.
#define SENSE(key, asc, ascq) ((key) << 16 | (asc) << 8 | (ascq))
enum {
    NO_SENSE = 0,
    READ_ERROR = SENSE(3, 0x11, 0x00),
    WRITE_ERROR = SENSE(3, 0x0c, 0x00),
    HARDWARE_ERROR = SENSE(4, 0x44, 0x00),
    PARAMETER_LIST_LENGTH = SENSE(5, 0x1a, 0x00),
    INVALID_COMMAND = SENSE(5, 0x20, 0x00),
    LBA_OUT_OF_RANGE = SENSE(5, 0x21, 0x00),
    INVALID_FIELD_IN_CDB = SENSE(5, 0x24, 0x00),
    INVALID_FIELD_IN_PARAMETERS = SENSE(5, 0x26, 0x00),
    READ_ONLY = SENSE(5, 0x30, 0x05),
    SAVING_NOT_SUPPORTED = SENSE(5, 0x39, 0x00),
    SPACE_ALLOCATION_FAILED = SENSE(7, 0x27, 0x07),
};

// One UNMAP takes one descriptor of at most 4 GiB; VPD page B0 says so.
enum { UNMAP_MAX_BLOCKS = 8 << 20, UNMAP_MAX_DESCRIPTORS = 1 };

static inline uint32_t get16(const uint8_t *p)
{
    return (uint32_t)p[0] << 8 | p[1];
}

static inline uint32_t get32(const uint8_t *p)
{
    return get16(p) << 16 | get16(p + 2);
}

static inline uint64_t get64(const uint8_t *p)
{
    return (uint64_t)get32(p) << 32 | get32(p + 4);
}

static inline void put16(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static inline void put32(uint8_t *p, uint32_t v)
{
    put16(p, v >> 16);
    put16(p + 2, v);
}

void scsi_fail(struct scsi_result *r, int code);
// Answers with the first length bytes of r->data, cut to what was asked for.
void scsi_answer(struct scsi_result *r, size_t length, size_t allocation);

// scsi_identity.c
void scsi_inquiry(const struct scsi_device *d, const uint8_t *cdb, struct scsi_result *r);
void scsi_mode_sense(const struct scsi_device *d, const uint8_t *cdb, struct scsi_result *r);
void scsi_mode_select(const struct scsi_device *d, const uint8_t *cdb, const uint8_t *data, size_t given,
                      struct scsi_result *r);
