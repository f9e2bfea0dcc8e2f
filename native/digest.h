// sha256 and sha512 by the OpenSSL that Node.js has in it and gives to addons: off the JavaScript thread,
// which node:crypto does not offer.
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct obd_digest;

// `name` is "sha256" or "sha512"; NULL if there is no such digest or no memory.
struct obd_digest *obd_digest_new(const char *name);
// Thread: any, one at a time. 0 or -EIO.
int obd_digest_update(struct obd_digest *d, const void *data, size_t length);
// Hashes `length` bytes of a file from `offset` on. 0 or -errno; -ENODATA if the file ends before.
int obd_digest_file(struct obd_digest *d, int fd, uint64_t offset, uint64_t length);
// Writes the hex digits and a NUL, at most 129 bytes. Afterwards nothing can be added.
int obd_digest_end(struct obd_digest *d, char *hex, size_t capacity);
void obd_digest_free(struct obd_digest *d);

#ifdef __cplusplus
}
#endif
