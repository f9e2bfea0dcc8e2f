// SCSI block commands as bytes: CDB in, byte range or answer out. Pure functions over memory; any thread.
// Sources: SPC-4, SBC-3; which commands and which values is what the reference's users rely on (specification
// section A.6), its gaps filled as the standards say.
#pragma once
#include "io_queue.h"
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { SCSI_BLOCK = 512, SCSI_CDB_MAX = 16, SCSI_SENSE_LENGTH = 18, SCSI_ANSWER_MAX = 1024 };
enum { SCSI_GOOD = 0x00, SCSI_CHECK_CONDITION = 0x02, SCSI_BUSY = 0x08, SCSI_TASK_SET_FULL = 0x28 };

// What an answer depends on. Strings belong to the caller.
struct scsi_device {
    uint64_t blocks;
    int read_only;
    const char *config; // the device's configuration string, for VPD page 83
    const char *serial; // unit serial number, "" if none was set; NULL if it cannot be read
};

// How a command goes on: as a byte range (op is one of enum io_op), or as an answer (op is 0).
struct scsi_result {
    int op;
    uint64_t offset, length; // bytes, within the device
    uint8_t status;          // of an answer
    uint8_t sense[SCSI_SENSE_LENGTH];
    size_t data_length; // of an answer: bytes of data for the initiator
    uint8_t data[SCSI_ANSWER_MAX];
};

// True if decoding this opcode looks at the data that the initiator sends (MODE SELECT, UNMAP).
int scsi_wants_data(const uint8_t *cdb);
// Decodes a CDB of at least SCSI_CDB_MAX readable bytes. data: what the initiator sent, if scsi_wants_data.
// capacity: bytes the initiator takes (data-in) or gives (data-out); a read or write of another length is
// refused if it needs more.
void scsi_decode(const struct scsi_device *device, const uint8_t *cdb, const uint8_t *data,
                 size_t data_length, uint64_t capacity, struct scsi_result *result);
// The end of a data command: SCSI status of 0 or -errno; fills sense (SCSI_SENSE_LENGTH) for CHECK CONDITION.
uint8_t scsi_status(int op, int error, uint8_t *sense);
// Strips what configfs puts around a unit serial: a label and a newline. In place.
char *scsi_clean_serial(char *text);

#ifdef __cplusplus
}
#endif
