#include "scsi_internal.h"
#include <errno.h>
#include <string.h>

static void fixed_sense(uint8_t *sense, int code)
{
    memset(sense, 0, SCSI_SENSE_LENGTH);
    sense[0] = 0x70;
    sense[2] = (uint8_t)(code >> 16);
    sense[7] = 0x0a;
    sense[12] = (uint8_t)(code >> 8);
    sense[13] = (uint8_t)code;
}

void scsi_fail(struct scsi_result *r, int code)
{
    r->op = 0;
    r->status = SCSI_CHECK_CONDITION;
    r->data_length = 0;
    fixed_sense(r->sense, code);
}

void scsi_answer(struct scsi_result *r, size_t length, size_t allocation)
{
    r->data_length = length < allocation ? length : allocation;
}

uint8_t scsi_status(int op, int error, uint8_t *sense)
{
    int code;
    switch (-error) {
    case 0:
        return SCSI_GOOD;
    case EBUSY:
    case ETIMEDOUT:
        return SCSI_BUSY;
    case EAGAIN:
    case ENOMEM:
        return SCSI_TASK_SET_FULL;
    case EROFS:
        code = READ_ONLY;
        break;
    case ENOSPC:
        code = SPACE_ALLOCATION_FAILED;
        break;
    case ERANGE:
        code = LBA_OUT_OF_RANGE;
        break;
    default:
        code = op == IO_READ ? READ_ERROR : WRITE_ERROR;
    }
    fixed_sense(sense, code);
    return SCSI_CHECK_CONDITION;
}

char *scsi_clean_serial(char *text)
{
    char *colon = strstr(text, ": ");
    char *serial = colon ? colon + 2 : text;
    serial[strcspn(serial, "\n")] = 0;
    return serial;
}

static void read_capacity(const struct scsi_device *d, const uint8_t *cdb, struct scsi_result *r)
{
    uint64_t last = d->blocks - 1;
    uint8_t *p = r->data;
    if (cdb[0] == 0x25) {
        put32(p, last > 0xfffffffe ? 0xffffffff : (uint32_t)last);
        put32(p + 4, SCSI_BLOCK);
        scsi_answer(r, 8, 8);
        return;
    }
    put32(p, (uint32_t)(last >> 32));
    put32(p + 4, (uint32_t)last);
    put32(p + 8, SCSI_BLOCK);
    p[14] = 0xc0; // LBPME, LBPRZ
    scsi_answer(r, 32, get32(cdb + 10));
}

static void request_sense(const uint8_t *cdb, struct scsi_result *r)
{
    if (cdb[1] & 1) { // descriptor format
        r->data[0] = 0x72;
        scsi_answer(r, 8, cdb[4]);
        return;
    }
    fixed_sense(r->data, NO_SENSE);
    scsi_answer(r, SCSI_SENSE_LENGTH, cdb[4]);
}

// A range of blocks as a command, or as an answer if it is empty or leaves the device.
static void range(const struct scsi_device *d, int op, uint64_t lba, uint64_t count, struct scsi_result *r)
{
    if (lba > d->blocks || count > d->blocks - lba) {
        scsi_fail(r, LBA_OUT_OF_RANGE);
        return;
    }
    if ((op == IO_WRITE || op == IO_DISCARD) && d->read_only) {
        scsi_fail(r, READ_ONLY);
        return;
    }
    if (count == 0 && op != IO_FLUSH)
        return;
    r->op = op;
    r->offset = lba * SCSI_BLOCK;
    r->length = count * SCSI_BLOCK;
}

static void transfer(const struct scsi_device *d, int op, const uint8_t *cdb, uint64_t capacity,
                     struct scsi_result *r)
{
    uint64_t lba, count;
    switch (cdb[0] >> 5) {
    case 0: // 6 bytes: 21 bits of address, and 0 means 256
        lba = (uint32_t)(cdb[1] & 0x1f) << 16 | get16(cdb + 2);
        count = cdb[4] ? cdb[4] : 256;
        break;
    case 1:
        lba = get32(cdb + 2);
        count = get16(cdb + 7);
        break;
    case 5:
        lba = get32(cdb + 2);
        count = get32(cdb + 6);
        break;
    default:
        lba = get64(cdb + 2);
        count = get32(cdb + 10);
    }
    range(d, op, lba, count, r);
    if (r->op && r->length > capacity)
        scsi_fail(r, INVALID_FIELD_IN_CDB);
}

static void write_same(const struct scsi_device *d, const uint8_t *cdb, struct scsi_result *r)
{
    if (!(cdb[1] & 0x08)) { // only UNMAP
        scsi_fail(r, INVALID_COMMAND);
        return;
    }
    uint64_t lba = cdb[0] == 0x41 ? get32(cdb + 2) : get64(cdb + 2);
    uint64_t count = cdb[0] == 0x41 ? get16(cdb + 7) : get32(cdb + 10);
    if ((cdb[1] & 0x10) || count == 0) // ANCHOR; WSNZ
        scsi_fail(r, INVALID_FIELD_IN_CDB);
    else
        range(d, IO_DISCARD, lba, count, r);
}

static void unmap(const struct scsi_device *d, const uint8_t *cdb, const uint8_t *data, size_t given,
                  struct scsi_result *r)
{
    size_t length = get16(cdb + 7);
    if (cdb[1] & 1) { // ANCHOR
        scsi_fail(r, INVALID_FIELD_IN_CDB);
        return;
    }
    if (length == 0)
        return;
    if (length < 8 || length > given) {
        scsi_fail(r, PARAMETER_LIST_LENGTH);
        return;
    }
    size_t bytes = get16(data + 2);
    if (bytes > length - 8)
        bytes = length - 8;
    if (bytes / 16 > UNMAP_MAX_DESCRIPTORS) {
        scsi_fail(r, INVALID_FIELD_IN_PARAMETERS);
        return;
    }
    if (bytes / 16 == 0)
        return;
    uint32_t count = get32(data + 16);
    if (count > UNMAP_MAX_BLOCKS)
        scsi_fail(r, INVALID_FIELD_IN_PARAMETERS);
    else
        range(d, IO_DISCARD, get64(data + 8), count, r);
}

int scsi_wants_data(const uint8_t *cdb)
{
    return cdb[0] == 0x15 || cdb[0] == 0x55 || cdb[0] == 0x42;
}

void scsi_decode(const struct scsi_device *d, const uint8_t *cdb, const uint8_t *data, size_t given,
                 uint64_t capacity, struct scsi_result *r)
{
    r->op = 0;
    r->offset = r->length = 0;
    r->status = SCSI_GOOD;
    r->data_length = 0;
    switch (cdb[0]) {
    case 0x08: // READ 6, 10, 12, 16
    case 0x28:
    case 0xa8:
    case 0x88:
        transfer(d, IO_READ, cdb, capacity, r);
        return;
    case 0x0a: // WRITE 6
        transfer(d, IO_WRITE, cdb, capacity, r);
        return;
    case 0x2a: // WRITE 10, 12, 16
    case 0xaa:
    case 0x8a:
        if (cdb[1] & 0x08) // FUA, which the mode data does not offer
            scsi_fail(r, INVALID_FIELD_IN_CDB);
        else
            transfer(d, IO_WRITE, cdb, capacity, r);
        return;
    case 0x35: // SYNCHRONIZE CACHE 10, 16: always the whole image
    case 0x91:
        if (!d->read_only)
            r->op = IO_FLUSH;
        return;
    }
    memset(r->data, 0, sizeof r->data);
    switch (cdb[0]) {
    case 0x00: // TEST UNIT READY
        return;
    case 0x03:
        request_sense(cdb, r);
        return;
    case 0x12:
        scsi_inquiry(d, cdb, r);
        return;
    case 0x1a:
    case 0x5a:
        scsi_mode_sense(d, cdb, r);
        return;
    case 0x15:
    case 0x55:
        scsi_mode_select(d, cdb, data, given, r);
        return;
    case 0x25:
        read_capacity(d, cdb, r);
        return;
    case 0x9e:
        if ((cdb[1] & 0x1f) == 0x10)
            read_capacity(d, cdb, r);
        else
            scsi_fail(r, INVALID_COMMAND);
        return;
    case 0x41:
    case 0x93:
        write_same(d, cdb, r);
        return;
    case 0x42:
        unmap(d, cdb, data, given, r);
        return;
    default: // illegal group codes too: every command gets an answer
        scsi_fail(r, INVALID_COMMAND);
    }
}
