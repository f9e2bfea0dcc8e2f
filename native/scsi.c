#include "scsi.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

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

static uint32_t get16(const uint8_t *p)
{
    return (uint32_t)p[0] << 8 | p[1];
}

static uint32_t get32(const uint8_t *p)
{
    return get16(p) << 16 | get16(p + 2);
}

static uint64_t get64(const uint8_t *p)
{
    return (uint64_t)get32(p) << 32 | get32(p + 4);
}

static void put16(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static void put32(uint8_t *p, uint32_t v)
{
    put16(p, v >> 16);
    put16(p + 2, v);
}

static void fixed_sense(uint8_t *sense, int code)
{
    memset(sense, 0, SCSI_SENSE_LENGTH);
    sense[0] = 0x70;
    sense[2] = (uint8_t)(code >> 16);
    sense[7] = 0x0a;
    sense[12] = (uint8_t)(code >> 8);
    sense[13] = (uint8_t)code;
}

static void fail(struct scsi_result *r, int code)
{
    r->op = 0;
    r->status = SCSI_CHECK_CONDITION;
    r->data_length = 0;
    fixed_sense(r->sense, code);
}

// Answers with the first length bytes of r->data, cut to what was asked for.
static void answer(struct scsi_result *r, size_t length, size_t allocation)
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

// A designation descriptor of VPD page 83; returns its length. Identifiers are at most 255 bytes.
static size_t designator(uint8_t *p, int code_set, int type, const void *id, size_t length)
{
    if (length > 255)
        length = 255;
    p[0] = (uint8_t)code_set;
    p[1] = (uint8_t)type;
    p[2] = 0;
    p[3] = (uint8_t)length;
    memcpy(p + 4, id, length);
    return 4 + length;
}

// NAA 6: the Linux target's OUI 001405, then the hexadecimal digits of the serial, padded with zeroes.
static void naa6(uint8_t out[16], const char *serial)
{
    memset(out, 0, 16);
    out[0] = 0x60;
    out[1] = 0x01;
    out[2] = 0x40;
    out[3] = 0x50;
    int nibble = 7; // the first after 6001405
    for (; *serial && nibble < 32; serial++) {
        int v;
        if (*serial >= '0' && *serial <= '9')
            v = *serial - '0';
        else if ((*serial | 32) >= 'a' && (*serial | 32) <= 'f')
            v = (*serial | 32) - 'a' + 10;
        else
            continue;
        out[nibble / 2] |= (uint8_t)(nibble % 2 ? v : v << 4);
        nibble++;
    }
}

static void inquiry_page(const struct scsi_device *d, int page, size_t allocation, struct scsi_result *r)
{
    static const uint8_t pages[] = {0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2};
    uint8_t *p = r->data;
    size_t length = 0; // after the 4 bytes of header
    p[1] = (uint8_t)page;
    switch (page) {
    case 0x00:
        memcpy(p + 4, pages, sizeof pages);
        length = sizeof pages;
        break;
    case 0x80:
        if (!d->serial) {
            fail(r, HARDWARE_ERROR);
            return;
        }
        length = strlen(d->serial) < 252 ? strlen(d->serial) : 252;
        memcpy(p + 4, d->serial, length);
        break;
    case 0x83: {
        if (!d->serial) {
            fail(r, HARDWARE_ERROR);
            return;
        }
        char text[256];
        uint8_t naa[16];
        int n = snprintf(text, sizeof text, "LIO-ORG %s", d->serial);
        length = designator(p + 4, 2, 1, text, n < 255 ? (size_t)n : 255);
        naa6(naa, d->serial);
        length += designator(p + 4 + length, 1, 3, naa, sizeof naa);
        length += designator(p + 4 + length, 2, 0, d->config, strlen(d->config));
        break;
    }
    case 0xb0: // block limits
        length = 0x3c;
        p[4] = 0x01;                          // WSNZ
        p[5] = 0x01;                          // maximum compare and write length
        put32(p + 20, UNMAP_MAX_BLOCKS);      // maximum unmap LBA count
        put32(p + 24, UNMAP_MAX_DESCRIPTORS); // maximum unmap block descriptor count
        p[32] = 0x80;                         // UGAVALID, alignment 0
        put32(p + 36, 0);                     // maximum write same length, high half
        put32(p + 40, 0xffffffff);            // and low half
        break;
    case 0xb1: // block device characteristics
        length = 0x3c;
        break;
    case 0xb2: // logical block provisioning
        length = 4;
        p[5] = 0xe4; // LBPU, LBPWS, LBPWS10, LBPRZ
        break;
    default:
        fail(r, INVALID_FIELD_IN_CDB);
        return;
    }
    put16(p + 2, (uint32_t)length);
    answer(r, 4 + length, allocation);
}

static void inquiry(const struct scsi_device *d, const uint8_t *cdb, struct scsi_result *r)
{
    size_t allocation = get16(cdb + 3);
    if (cdb[1] & 1) {
        inquiry_page(d, cdb[2], allocation, r);
        return;
    }
    if (cdb[2]) {
        fail(r, INVALID_FIELD_IN_CDB);
        return;
    }
    uint8_t *p = r->data;
    p[2] = 0x05;
    p[3] = 0x02;
    p[4] = 0x1f;
    p[5] = 0x08;
    p[7] = 0x02;
    memcpy(p + 8, "LIO-ORG ", 8);
    memcpy(p + 16, "TCMU device     ", 16);
    memcpy(p + 32, "0002", 4);
    answer(r, 36, allocation);
}

// Appends one mode page; changeable: the mask of what MODE SELECT may change, which is nothing.
static size_t mode_page(const struct scsi_device *d, int page, int changeable, uint8_t *p)
{
    size_t length = page == 0x08 ? 0x12 : 0x0a;
    memset(p, 0, 2 + length);
    p[0] = (uint8_t)page;
    p[1] = (uint8_t)length;
    if (!changeable && page == 0x08 && !d->read_only)
        p[2] = 0x04; // WCE: writes are durable after a flush, not before
    if (!changeable && page == 0x0a) {
        p[2] = 0x02; // GLTSD
        p[5] = 0x40; // TAS
        put16(p + 8, 0xffff);
    }
    return 2 + length;
}

// Header and pages into p; their length, or 0 if there is no such page.
static size_t mode_data(const struct scsi_device *d, int ten, int page, int changeable, uint8_t *p)
{
    static const uint8_t pages[] = {0x01, 0x08, 0x0a};
    size_t header = ten ? 8 : 4, length = header;
    memset(p, 0, header);
    for (size_t i = 0; i < sizeof pages; i++)
        if (page == pages[i] || page == 0x3f)
            length += mode_page(d, pages[i], changeable, p + length);
    if (length == header)
        return 0;
    if (ten) {
        put16(p, (uint32_t)(length - 2));
        p[3] = d->read_only ? 0x80 : 0;
    } else {
        p[0] = (uint8_t)(length - 1);
        p[2] = d->read_only ? 0x80 : 0;
    }
    return length;
}

static void mode_sense(const struct scsi_device *d, const uint8_t *cdb, struct scsi_result *r)
{
    int ten = cdb[0] == 0x5a, control = cdb[2] >> 6;
    size_t allocation = ten ? get16(cdb + 7) : cdb[4];
    if (control == 3) {
        fail(r, SAVING_NOT_SUPPORTED);
        return;
    }
    size_t length = cdb[3] ? 0 : mode_data(d, ten, cdb[2] & 0x3f, control == 1, r->data);
    if (length == 0)
        fail(r, INVALID_FIELD_IN_CDB);
    else
        // Cut to what is asked for: Linux asks for the header first. (The reference refuses that, and Linux
        // then never learns whether there is a write cache.)
        answer(r, length, allocation);
}

static void mode_select(const struct scsi_device *d, const uint8_t *cdb, const uint8_t *data, size_t given,
                        struct scsi_result *r)
{
    int ten = cdb[0] == 0x55;
    size_t header = ten ? 8 : 4, length = ten ? get16(cdb + 7) : cdb[4];
    if (!(cdb[1] & 0x10) || (cdb[1] & 0x01)) {
        fail(r, INVALID_FIELD_IN_CDB);
        return;
    }
    if (length == 0)
        return;
    if (length > given || length < header + 2) {
        fail(r, PARAMETER_LIST_LENGTH);
        return;
    }
    uint8_t same[64];
    size_t expected = mode_data(d, ten, data[header] & 0x3f, 0, same);
    if (expected == 0 || (ten ? get16(data + 6) : data[3]) != 0) { // no such page; block descriptors
        fail(r, INVALID_FIELD_IN_PARAMETERS);
        return;
    }
    if (length != expected) {
        fail(r, PARAMETER_LIST_LENGTH);
        return;
    }
    if (memcmp(data + header, same + header, expected - header) != 0)
        fail(r, INVALID_FIELD_IN_PARAMETERS);
}

static void read_capacity(const struct scsi_device *d, const uint8_t *cdb, struct scsi_result *r)
{
    uint64_t last = d->blocks - 1;
    uint8_t *p = r->data;
    if (cdb[0] == 0x25) {
        put32(p, last > 0xfffffffe ? 0xffffffff : (uint32_t)last);
        put32(p + 4, SCSI_BLOCK);
        answer(r, 8, 8);
        return;
    }
    put32(p, (uint32_t)(last >> 32));
    put32(p + 4, (uint32_t)last);
    put32(p + 8, SCSI_BLOCK);
    p[14] = 0xc0; // LBPME, LBPRZ
    answer(r, 32, get32(cdb + 10));
}

static void request_sense(const uint8_t *cdb, struct scsi_result *r)
{
    if (cdb[1] & 1) { // descriptor format
        r->data[0] = 0x72;
        answer(r, 8, cdb[4]);
        return;
    }
    fixed_sense(r->data, NO_SENSE);
    answer(r, SCSI_SENSE_LENGTH, cdb[4]);
}

// A range of blocks as a command, or as an answer if it is empty or leaves the device.
static void range(const struct scsi_device *d, int op, uint64_t lba, uint64_t count, struct scsi_result *r)
{
    if (lba > d->blocks || count > d->blocks - lba) {
        fail(r, LBA_OUT_OF_RANGE);
        return;
    }
    if ((op == IO_WRITE || op == IO_DISCARD) && d->read_only) {
        fail(r, READ_ONLY);
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
        fail(r, INVALID_FIELD_IN_CDB);
}

static void write_same(const struct scsi_device *d, const uint8_t *cdb, struct scsi_result *r)
{
    if (!(cdb[1] & 0x08)) { // only UNMAP
        fail(r, INVALID_COMMAND);
        return;
    }
    uint64_t lba = cdb[0] == 0x41 ? get32(cdb + 2) : get64(cdb + 2);
    uint64_t count = cdb[0] == 0x41 ? get16(cdb + 7) : get32(cdb + 10);
    if ((cdb[1] & 0x10) || count == 0) // ANCHOR; WSNZ
        fail(r, INVALID_FIELD_IN_CDB);
    else
        range(d, IO_DISCARD, lba, count, r);
}

static void unmap(const struct scsi_device *d, const uint8_t *cdb, const uint8_t *data, size_t given,
                  struct scsi_result *r)
{
    size_t length = get16(cdb + 7);
    if (cdb[1] & 1) { // ANCHOR
        fail(r, INVALID_FIELD_IN_CDB);
        return;
    }
    if (length == 0)
        return;
    if (length < 8 || length > given) {
        fail(r, PARAMETER_LIST_LENGTH);
        return;
    }
    size_t bytes = get16(data + 2);
    if (bytes > length - 8)
        bytes = length - 8;
    if (bytes / 16 > UNMAP_MAX_DESCRIPTORS) {
        fail(r, INVALID_FIELD_IN_PARAMETERS);
        return;
    }
    if (bytes / 16 == 0)
        return;
    uint32_t count = get32(data + 16);
    if (count > UNMAP_MAX_BLOCKS)
        fail(r, INVALID_FIELD_IN_PARAMETERS);
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
            fail(r, INVALID_FIELD_IN_CDB);
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
        inquiry(d, cdb, r);
        return;
    case 0x1a:
    case 0x5a:
        mode_sense(d, cdb, r);
        return;
    case 0x15:
    case 0x55:
        mode_select(d, cdb, data, given, r);
        return;
    case 0x25:
        read_capacity(d, cdb, r);
        return;
    case 0x9e:
        if ((cdb[1] & 0x1f) == 0x10)
            read_capacity(d, cdb, r);
        else
            fail(r, INVALID_COMMAND);
        return;
    case 0x41:
    case 0x93:
        write_same(d, cdb, r);
        return;
    case 0x42:
        unmap(d, cdb, data, given, r);
        return;
    default: // illegal group codes too: every command gets an answer
        fail(r, INVALID_COMMAND);
    }
}
