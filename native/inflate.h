// Raw deflate decoding that can start in the middle of a stream, for random access into gzip files.
// One decoder is used by one thread at a time, whichever it is.
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct obd_inflate; // owned by the caller from obd_inflate_new to obd_inflate_free

// NULL when out of memory. `fast`: by the fastest zlib of the process, for streams read from their beginning;
// otherwise by the zlib that the addon is built with.
struct obd_inflate *obd_inflate_new(int fast);
void obd_inflate_free(struct obd_inflate *d);
// Begins a new stream. `bits` (0-7) top bits of `byte` come before the input's first byte; the dictionary is
// the plain data before the starting point (may be NULL, at most 32768 bytes; copied). 0 or -EINVAL.
int obd_inflate_start(struct obd_inflate *d, int bits, int byte, const void *dictionary, size_t length);

enum obd_inflate_state { OBD_INFLATE_MORE = 0, OBD_INFLATE_END = 1 };
// Decodes from `in` to `out` until one of them is used up or the stream ends; tells how much of each was
// used. Returns a state, or -EBADMSG (not deflate data), -ENOMEM.
int obd_inflate_run(struct obd_inflate *d, const void *in, size_t in_length, void *out, size_t out_length,
                    size_t *in_used, size_t *out_used);

#ifdef __cplusplus
}
#endif
