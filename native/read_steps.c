// Plans come from JavaScript: each number is looked at before it is believed.
#include "executor.h"
#include <errno.h>

// True if d is an integer in [0, max]; max < 2^53. NaN fails every comparison.
static int integer(double d, double max, uint64_t *out)
{
    if (!(d >= 0 && d <= max))
        return 0;
    *out = (uint64_t)d;
    return (double)*out == d;
}

int obd_check_steps(const struct read_descriptor *in, size_t count, uint64_t length, struct read_step *out)
{
    const double offset_max = 9007199254740991.0;
    uint64_t at = 0;
    for (size_t i = 0; i < count; i++) {
        struct read_descriptor d = in[i];
        uint64_t fd = 0, file_offset = 0, stored = 0, codec, plain, skip, n, destination;
        if (!integer(d.codec, READ_ZERO | READ_CRC_CHECKED, &codec) ||
            !integer(d.length, EXECUTE_MAX_COMMAND, &n) ||
            !integer(d.destination, EXECUTE_MAX_COMMAND, &destination) ||
            !integer(d.skip, EXECUTE_MAX_BLOCK, &skip) ||
            !integer(d.plain_length, EXECUTE_MAX_COMMAND, &plain))
            return -EINVAL;
        if (destination != at || n == 0 || skip + n > plain)
            return -EINVAL;
        if (codec != READ_ZERO) {
            uint32_t crc = codec & READ_CRC_CHECKED ? READ_CRC_LENGTH : 0;
            if (!integer(d.fd, 1 << 30, &fd) || !integer(d.file_offset, offset_max, &file_offset) ||
                !integer(d.stored_length, EXECUTE_MAX_COMMAND, &stored))
                return -EINVAL;
            if (codec == READ_RAW) {
                if (stored != n || skip != 0)
                    return -EINVAL;
            } else if (plain > EXECUTE_MAX_BLOCK || stored > EXECUTE_MAX_STORED || stored <= crc ||
                       (codec & 15) > READ_ZSTD ||
                       ((codec & 15) == READ_RAW && stored != plain + READ_CRC_LENGTH)) {
                return -EINVAL;
            }
        }
        out[i] = (struct read_step){
            .fd = (int)fd,
            .file_offset = file_offset,
            .stored = (uint32_t)stored,
            .codec = (uint32_t)codec,
            .plain = (uint32_t)plain,
            .skip = (uint32_t)skip,
            .length = (uint32_t)n,
            .destination = destination,
        };
        at += n;
        if (at > length)
            return -EINVAL;
    }
    return at == length ? 0 : -EINVAL;
}
