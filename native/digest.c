#include "digest.h"
#include <errno.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STEP (256u << 10) // fits a core's cache

struct obd_digest {
    EVP_MD_CTX *context;
};

struct obd_digest *obd_digest_new(const char *name)
{
    const EVP_MD *type = strcmp(name, "sha256") == 0   ? EVP_sha256()
                         : strcmp(name, "sha512") == 0 ? EVP_sha512()
                                                       : NULL;
    struct obd_digest *d = type ? calloc(1, sizeof *d) : NULL;
    if (!d)
        return NULL;
    d->context = EVP_MD_CTX_new();
    if (!d->context || EVP_DigestInit_ex(d->context, type, NULL) != 1) {
        obd_digest_free(d);
        return NULL;
    }
    return d;
}

int obd_digest_update(struct obd_digest *d, const void *data, size_t length)
{
    return EVP_DigestUpdate(d->context, data, length) == 1 ? 0 : -EIO;
}

int obd_digest_file(struct obd_digest *d, int fd, uint64_t offset, uint64_t length)
{
    uint8_t *buffer = malloc(STEP);
    if (!buffer)
        return -ENOMEM;
    int e = 0;
    while (length > 0 && !e) {
        ssize_t n = pread(fd, buffer, length < STEP ? (size_t)length : STEP, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            e = n < 0 ? -errno : -ENODATA;
            break;
        }
        e = obd_digest_update(d, buffer, (size_t)n);
        offset += (uint64_t)n;
        length -= (uint64_t)n;
    }
    free(buffer);
    return e;
}

int obd_digest_end(struct obd_digest *d, char *hex, size_t capacity)
{
    static const char digits[] = "0123456789abcdef";
    uint8_t bytes[EVP_MAX_MD_SIZE];
    unsigned length = 0;
    if (EVP_DigestFinal_ex(d->context, bytes, &length) != 1)
        return -EIO;
    if (capacity < 2 * length + 1)
        return -EINVAL;
    for (unsigned i = 0; i < length; i++) {
        hex[2 * i] = digits[bytes[i] >> 4];
        hex[2 * i + 1] = digits[bytes[i] & 15];
    }
    hex[2 * length] = 0;
    return 0;
}

void obd_digest_free(struct obd_digest *d)
{
    EVP_MD_CTX_free(d->context);
    free(d);
}
