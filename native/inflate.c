#include "inflate.h"
#include <errno.h>
#include <stdlib.h>
#include <zlib.h>

struct obd_inflate {
    z_stream stream;
};

struct obd_inflate *obd_inflate_new(void)
{
    struct obd_inflate *d = calloc(1, sizeof *d);
    if (d && inflateInit2(&d->stream, -MAX_WBITS) != Z_OK) {
        free(d);
        return NULL;
    }
    return d;
}

void obd_inflate_free(struct obd_inflate *d)
{
    if (!d)
        return;
    inflateEnd(&d->stream);
    free(d);
}

int obd_inflate_start(struct obd_inflate *d, int bits, int byte, const void *dictionary, size_t length)
{
    if (bits < 0 || bits > 7 || length > (1u << MAX_WBITS) || inflateReset(&d->stream) != Z_OK)
        return -EINVAL;
    if (bits && inflatePrime(&d->stream, bits, (byte & 0xff) >> (8 - bits)) != Z_OK)
        return -EINVAL;
    if (length && inflateSetDictionary(&d->stream, dictionary, (uInt)length) != Z_OK)
        return -EINVAL;
    return 0;
}

int obd_inflate_run(struct obd_inflate *d, const void *in, size_t in_length, void *out, size_t out_length,
                    size_t *in_used, size_t *out_used)
{
    z_stream *s = &d->stream;
    if (in_length > (1u << 30) || out_length > (1u << 30))
        return -EINVAL;
    s->next_in = (Bytef *)in;
    s->avail_in = (uInt)in_length;
    s->next_out = out;
    s->avail_out = (uInt)out_length;
    int rc = inflate(s, Z_NO_FLUSH);
    *in_used = in_length - s->avail_in;
    *out_used = out_length - s->avail_out;
    s->next_in = NULL;
    s->next_out = NULL;
    switch (rc) {
    case Z_OK:
    case Z_BUF_ERROR: // nothing to do without more input or room
        return OBD_INFLATE_MORE;
    case Z_STREAM_END:
        return OBD_INFLATE_END;
    case Z_MEM_ERROR:
        return -ENOMEM;
    default:
        return -EBADMSG;
    }
}
