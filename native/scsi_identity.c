// INQUIRY, vital product data and mode pages.
#include "scsi_internal.h"
#include <stdio.h>
#include <string.h>

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
            scsi_fail(r, HARDWARE_ERROR);
            return;
        }
        length = strlen(d->serial) < 252 ? strlen(d->serial) : 252;
        memcpy(p + 4, d->serial, length);
        break;
    case 0x83: {
        if (!d->serial) {
            scsi_fail(r, HARDWARE_ERROR);
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
        scsi_fail(r, INVALID_FIELD_IN_CDB);
        return;
    }
    put16(p + 2, (uint32_t)length);
    scsi_answer(r, 4 + length, allocation);
}

void scsi_inquiry(const struct scsi_device *d, const uint8_t *cdb, struct scsi_result *r)
{
    size_t allocation = get16(cdb + 3);
    if (cdb[1] & 1) {
        inquiry_page(d, cdb[2], allocation, r);
        return;
    }
    if (cdb[2]) {
        scsi_fail(r, INVALID_FIELD_IN_CDB);
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
    scsi_answer(r, 36, allocation);
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

void scsi_mode_sense(const struct scsi_device *d, const uint8_t *cdb, struct scsi_result *r)
{
    int ten = cdb[0] == 0x5a, control = cdb[2] >> 6;
    size_t allocation = ten ? get16(cdb + 7) : cdb[4];
    if (control == 3) {
        scsi_fail(r, SAVING_NOT_SUPPORTED);
        return;
    }
    size_t length = cdb[3] ? 0 : mode_data(d, ten, cdb[2] & 0x3f, control == 1, r->data);
    if (length == 0)
        scsi_fail(r, INVALID_FIELD_IN_CDB);
    else
        // Cut to what is asked for: Linux asks for the header first. (The reference refuses that, and Linux
        // then never learns whether there is a write cache.)
        scsi_answer(r, length, allocation);
}

void scsi_mode_select(const struct scsi_device *d, const uint8_t *cdb, const uint8_t *data, size_t given,
                      struct scsi_result *r)
{
    int ten = cdb[0] == 0x55;
    size_t header = ten ? 8 : 4, length = ten ? get16(cdb + 7) : cdb[4];
    if (!(cdb[1] & 0x10) || (cdb[1] & 0x01)) {
        scsi_fail(r, INVALID_FIELD_IN_CDB);
        return;
    }
    if (length == 0)
        return;
    if (length > given || length < header + 2) {
        scsi_fail(r, PARAMETER_LIST_LENGTH);
        return;
    }
    uint8_t same[64];
    size_t expected = mode_data(d, ten, data[header] & 0x3f, 0, same);
    if (expected == 0 || (ten ? get16(data + 6) : data[3]) != 0) { // no such page; block descriptors
        scsi_fail(r, INVALID_FIELD_IN_PARAMETERS);
        return;
    }
    if (length != expected) {
        scsi_fail(r, PARAMETER_LIST_LENGTH);
        return;
    }
    if (memcmp(data + header, same + header, expected - header) != 0)
        scsi_fail(r, INVALID_FIELD_IN_PARAMETERS);
}
