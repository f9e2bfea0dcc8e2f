#include "unzstd.h"
#include <errno.h>
#include <stdlib.h>
#include <zstd.h>

struct obd_unzstd {
    ZSTD_DCtx *context; // with zstd's own limit of the window: 2^27 bytes
    const char *problem;
};

struct obd_unzstd *obd_unzstd_new(void)
{
    struct obd_unzstd *d = calloc(1, sizeof *d);
    if (d && !(d->context = ZSTD_createDCtx())) {
        free(d);
        return NULL;
    }
    return d;
}

void obd_unzstd_free(struct obd_unzstd *d)
{
    if (!d)
        return;
    ZSTD_freeDCtx(d->context);
    free(d);
}

int obd_unzstd_run(struct obd_unzstd *d, const void *in, size_t in_length, void *out, size_t out_length,
                   size_t *in_used, size_t *out_used)
{
    ZSTD_inBuffer from = {in, in_length, 0};
    ZSTD_outBuffer to = {out, out_length, 0};
    size_t left = 1;
    // One call may stop at the end of an inner block.
    do {
        size_t before = from.pos + to.pos;
        left = ZSTD_decompressStream(d->context, &to, &from);
        if (ZSTD_isError(left)) {
            d->problem = ZSTD_getErrorName(left);
            return -EBADMSG;
        }
        if (left == 0 || from.pos + to.pos == before)
            break;
    } while (to.pos < to.size && from.pos < from.size);
    *in_used = from.pos;
    *out_used = to.pos;
    return left == 0;
}

const char *obd_unzstd_problem(const struct obd_unzstd *d)
{
    return d->problem ? d->problem : "";
}
