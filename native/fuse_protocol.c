// See fuse_protocol.h. Nothing here allocates or waits, and every answer is built from the request and the
// peer.
#include "fuse_protocol.h"
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "fuse_handler.h"

#define SECTOR 512u
#define FOREVER 86400u // seconds; nothing here changes while the connection lives
// Direct reads the kernel sends before it queues on its side; a loop device has 128 requests.
#define MAX_BACKGROUND 96

static_assert(sizeof(struct fuse_in_header) == 40, "ABI");
static_assert(sizeof(struct fuse_out_header) == 16, "ABI");
static_assert(sizeof(struct fuse_init_out) == 64, "ABI");
static_assert(sizeof(struct fuse_attr_out) == 104, "ABI");
static_assert(sizeof(struct fuse_entry_out) == 128, "ABI");
static_assert(sizeof(struct fuse_read_in) == 40 && OBD_FUSE_ARGS == 40, "ABI");

void obd_fuse_reply(struct fuse_peer *peer, uint64_t unique, int error, const void *data, size_t length)
{
    struct fuse_out_header out = {.len = (uint32_t)(sizeof out + length), .error = error, .unique = unique};
    struct iovec iov[2] = {{&out, sizeof out}, {(void *)data, length}};
    for (;;) {
        if (writev(peer->fd, iov, length > 0 ? 2 : 1) >= 0 || errno == ENOENT)
            return; // ENOENT: the asker was killed and nobody waits
        if (errno == EINTR)
            continue;
        if (errno == ENODEV || errno == ECONNABORTED || errno == EPIPE) {
            peer->dead = -ENODEV;
            return;
        }
        if (length == 0) {
            peer->dead = -errno; // not even a bare header goes through
            return;
        }
        out.error = -EIO; // the data could not be copied: the asker must still hear
        out.len = sizeof out;
        length = 0;
    }
}

static void refuse(struct fuse_peer *peer, const struct fuse_in_header *h, int error)
{
    obd_fuse_reply(peer, h->unique, error, NULL, 0);
}

static void fill_attr(const struct fuse_peer *peer, uint64_t ino, struct fuse_attr *attr)
{
    memset(attr, 0, sizeof *attr);
    attr->ino = ino;
    attr->blksize = 4096;
    if (ino == FUSE_ROOT_ID) {
        attr->mode = S_IFDIR | 0500;
        attr->nlink = 2;
    } else {
        attr->mode = S_IFREG | (peer->read_only ? 0400 : 0600);
        attr->nlink = 1;
        attr->size = peer->size;
        attr->blocks = peer->size / SECTOR;
    }
}

static void answer_init(struct fuse_peer *peer, const struct fuse_in_header *h, const struct fuse_init_in *in)
{
    struct fuse_init_out out = {.major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION};
    if (in->major > FUSE_KERNEL_VERSION) { // the kernel asks again with our number
        obd_fuse_reply(peer, h->unique, 0, &out, sizeof out);
        return;
    }
    const uint32_t need = FUSE_ASYNC_READ | FUSE_ASYNC_DIO | FUSE_MAX_PAGES;
    if (in->major < FUSE_KERNEL_VERSION || in->minor < 28 || (in->flags & need) != need) {
        refuse(peer, h, -EPROTO); // kernels before 4.20
        return;
    }
    // No readahead: the file is opened for direct I/O, and the loop device above it has its own.
    out.flags = need | (in->flags & (FUSE_BIG_WRITES | FUSE_PARALLEL_DIROPS | FUSE_HANDLE_KILLPRIV));
    out.max_background = MAX_BACKGROUND;
    out.congestion_threshold = MAX_BACKGROUND * 3 / 4;
    out.max_write = peer->read_only ? 4096 : OBD_FUSE_MAX_IO;
    out.time_gran = 1;
    out.max_pages = OBD_FUSE_MAX_IO / 4096;
    peer->ready = 1;
    obd_fuse_reply(peer, h->unique, 0, &out, sizeof out);
}

// `length` counts the terminator; a name that is cut off at OBD_FUSE_ARGS is longer than ours.
static void answer_lookup(struct fuse_peer *peer, const struct fuse_in_header *h, const char *name,
                          size_t length)
{
    if (h->nodeid != FUSE_ROOT_ID || length != strlen(peer->name) + 1 ||
        memcmp(name, peer->name, length) != 0) {
        refuse(peer, h, -ENOENT);
        return;
    }
    struct fuse_entry_out out = {.nodeid = OBD_FUSE_FILE_INO, .entry_valid = FOREVER, .attr_valid = FOREVER};
    fill_attr(peer, OBD_FUSE_FILE_INO, &out.attr);
    obd_fuse_reply(peer, h->unique, 0, &out, sizeof out);
}

static void answer_getattr(struct fuse_peer *peer, const struct fuse_in_header *h)
{
    struct fuse_attr_out out = {.attr_valid = FOREVER};
    if (h->nodeid != FUSE_ROOT_ID && h->nodeid != OBD_FUSE_FILE_INO) {
        refuse(peer, h, -ENOENT);
        return;
    }
    fill_attr(peer, h->nodeid, &out.attr);
    obd_fuse_reply(peer, h->unique, 0, &out, sizeof out);
}

static void answer_open(struct fuse_peer *peer, const struct fuse_in_header *h, const struct fuse_open_in *in)
{
    // Direct: what the loop device caches must not be cached once more below it.
    struct fuse_open_out out = {.open_flags = FOPEN_DIRECT_IO | FOPEN_NOFLUSH | FOPEN_PARALLEL_DIRECT_WRITES};
    if (h->nodeid != OBD_FUSE_FILE_INO)
        refuse(peer, h, -EISDIR);
    else if (peer->read_only && (in->flags & O_ACCMODE) != O_RDONLY)
        refuse(peer, h, -EROFS);
    else
        obd_fuse_reply(peer, h->unique, 0, &out, sizeof out);
}

static void answer_opendir(struct fuse_peer *peer, const struct fuse_in_header *h)
{
    struct fuse_open_out out = {0};
    if (h->nodeid != FUSE_ROOT_ID)
        refuse(peer, h, -ENOTDIR);
    else
        obd_fuse_reply(peer, h->unique, 0, &out, sizeof out);
}

static void answer_readdir(struct fuse_peer *peer, const struct fuse_in_header *h,
                           const struct fuse_read_in *in)
{
    const struct {
        const char *name;
        uint64_t ino;
        uint32_t type;
    } entries[] = {{".", FUSE_ROOT_ID, S_IFDIR >> 12},
                   {"..", FUSE_ROOT_ID, S_IFDIR >> 12},
                   {peer->name, OBD_FUSE_FILE_INO, S_IFREG >> 12}};
    _Alignas(8) char out[256] = {0}; // 32 + 32 + 24 + 64 at most
    size_t used = 0;
    for (uint64_t i = in->offset; i < sizeof entries / sizeof entries[0]; i++) {
        size_t length = strlen(entries[i].name), size = FUSE_REC_ALIGN(FUSE_NAME_OFFSET + length);
        if (used + size > in->size || used + size > sizeof out)
            break;
        struct fuse_dirent *d = (struct fuse_dirent *)(out + used);
        d->ino = entries[i].ino;
        d->off = i + 1;
        d->namelen = (uint32_t)length;
        d->type = entries[i].type;
        memcpy(d->name, entries[i].name, length);
        used += size;
    }
    obd_fuse_reply(peer, h->unique, 0, out, used);
}

static void answer_statfs(struct fuse_peer *peer, const struct fuse_in_header *h)
{
    struct fuse_statfs_out out = {0};
    out.st.bsize = 4096;
    out.st.frsize = SECTOR;
    out.st.blocks = peer->size / SECTOR;
    out.st.files = 1;
    out.st.namelen = sizeof peer->name - 1;
    obd_fuse_reply(peer, h->unique, 0, &out, sizeof out);
}

size_t obd_fuse_args_size(uint32_t opcode)
{
    switch (opcode) {
    case FUSE_INIT:
        return offsetof(struct fuse_init_in, flags2); // older kernels stop here
    case FUSE_LOOKUP:
        return 1;
    case FUSE_OPEN:
    case FUSE_OPENDIR:
        return sizeof(struct fuse_open_in);
    case FUSE_READ:
    case FUSE_READDIR:
        return sizeof(struct fuse_read_in);
    case FUSE_WRITE:
        return sizeof(struct fuse_write_in);
    case FUSE_FALLOCATE:
        return sizeof(struct fuse_fallocate_in);
    case FUSE_FSYNC:
        return sizeof(struct fuse_fsync_in);
    default:
        return 0;
    }
}

void obd_fuse_answer(struct fuse_peer *peer, const struct fuse_in_header *h, const void *args, size_t length)
{
    switch (h->opcode) {
    case FUSE_INIT:
        answer_init(peer, h, args);
        break;
    case FUSE_LOOKUP:
        answer_lookup(peer, h, args, length <= OBD_FUSE_ARGS ? length : 0);
        break;
    case FUSE_GETATTR:
        answer_getattr(peer, h);
        break;
    case FUSE_OPEN:
        answer_open(peer, h, args);
        break;
    case FUSE_OPENDIR:
        answer_opendir(peer, h);
        break;
    case FUSE_READDIR:
        answer_readdir(peer, h, args);
        break;
    case FUSE_STATFS:
        answer_statfs(peer, h);
        break;
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
        break;        // the only two without an answer; both inodes live as long as the connection
    case FUSE_ACCESS: // the kernel checks modes itself (default_permissions)
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR:
    case FUSE_FLUSH:
    case FUSE_FSYNCDIR:
    case FUSE_DESTROY:
        refuse(peer, h, 0);
        break;
    default: // FUSE_INTERRUPT too: after this answer the kernel sends no more of them
        refuse(peer, h, -ENOSYS);
    }
}
