#include "inflate.h"
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <zlib.h>

// What of a zlib is used. There may be two: the one of this addon, and the one inside Node.js, which decodes
// twice as fast on common machines and comes with every Node.js that was not built for a system's zlib.
struct zlib {
    int (*init)(z_streamp, int, const char *, int);
    int (*run)(z_streamp, int);
    int (*reset)(z_streamp);
    int (*prime)(z_streamp, int, int);
    int (*set_dictionary)(z_streamp, const Bytef *, uInt);
    int (*end)(z_streamp);
};

static const struct zlib own = {inflateInit2_,        inflate,   inflateReset, inflatePrime,
                                inflateSetDictionary, inflateEnd};
static struct zlib process;
static const struct zlib *fastest = &own;
static pthread_once_t chosen = PTHREAD_ONCE_INIT;

static void choose(void)
{
    const char *(*version)(void);
    *(void **)&version = dlsym(RTLD_DEFAULT, "zlibVersion");
    *(void **)&process.init = dlsym(RTLD_DEFAULT, "inflateInit2_");
    *(void **)&process.run = dlsym(RTLD_DEFAULT, "inflate");
    *(void **)&process.reset = dlsym(RTLD_DEFAULT, "inflateReset");
    *(void **)&process.prime = dlsym(RTLD_DEFAULT, "inflatePrime");
    *(void **)&process.set_dictionary = dlsym(RTLD_DEFAULT, "inflateSetDictionary");
    *(void **)&process.end = dlsym(RTLD_DEFAULT, "inflateEnd");
    // zlib promises one layout of z_stream for all versions that begin with the same digit.
    if (version && version()[0] == ZLIB_VERSION[0] && process.init && process.run && process.reset &&
        process.prime && process.set_dictionary && process.end)
        fastest = &process;
}

struct obd_inflate {
    const struct zlib *zlib;
    z_stream stream;
};

struct obd_inflate *obd_inflate_new(int fast)
{
    pthread_once(&chosen, choose);
    struct obd_inflate *d = calloc(1, sizeof *d);
    if (!d)
        return NULL;
    d->zlib = fast ? fastest : &own;
    if (d->zlib->init(&d->stream, -MAX_WBITS, ZLIB_VERSION, (int)sizeof d->stream) != Z_OK) {
        free(d);
        return NULL;
    }
    return d;
}

void obd_inflate_free(struct obd_inflate *d)
{
    if (!d)
        return;
    d->zlib->end(&d->stream);
    free(d);
}

int obd_inflate_start(struct obd_inflate *d, int bits, int byte, const void *dictionary, size_t length)
{
    if (bits < 0 || bits > 7 || length > (1u << MAX_WBITS) || d->zlib->reset(&d->stream) != Z_OK)
        return -EINVAL;
    if (bits && d->zlib->prime(&d->stream, bits, (byte & 0xff) >> (8 - bits)) != Z_OK)
        return -EINVAL;
    if (length && d->zlib->set_dictionary(&d->stream, dictionary, (uInt)length) != Z_OK)
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
    int rc = d->zlib->run(s, Z_NO_FLUSH);
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
