// zstd streams, decoded step by step. One decoder is used by one thread at a time, whichever it is.
#pragma once
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct obd_unzstd; // owned by the caller from obd_unzstd_new to obd_unzstd_free

// NULL when out of memory.
struct obd_unzstd *obd_unzstd_new(void);
void obd_unzstd_free(struct obd_unzstd *d);
// Decodes until `in` is used up, `out` is full, or a frame ends; tells how much of each was used. Returns 1
// if a frame has just ended (the next one may follow), 0 inside of one, -EBADMSG if the bytes are no zstd or
// ask for a window of more than 128 MiB; then obd_unzstd_problem() says what is wrong.
int obd_unzstd_run(struct obd_unzstd *d, const void *in, size_t in_length, void *out, size_t out_length,
                   size_t *in_used, size_t *out_used);
// A sentence of zstd about the last failure; static.
const char *obd_unzstd_problem(const struct obd_unzstd *d);

#ifdef __cplusplus
}
#endif
