// The part of FUSE's protocol that has nothing to do with data: a root directory with one file in it.
// Thread: the one that owns the connection.
#pragma once
#include <linux/fuse.h>
#include <stddef.h>
#include <stdint.h>

#define OBD_FUSE_FILE_INO 2
// Arguments of a request that are looked at here; what is longer (a name, mostly) is not ours anyway.
#define OBD_FUSE_ARGS sizeof(struct fuse_write_in)

// One connection as seen from the server.
struct fuse_peer {
    int fd;
    uint64_t size; // of the file
    int read_only;
    int ready;     // INIT is done
    int dead;      // -errno that ended the connection, 0 while it lives
    char name[64]; // of the file
};

// Answers one request. `error` is 0 or -errno; `data` only with 0.
void obd_fuse_reply(struct fuse_peer *peer, uint64_t unique, int error, const void *data, size_t length);

// Least bytes of arguments that a request with this opcode comes with.
size_t obd_fuse_args_size(uint32_t opcode);

// Answers a request that is not about data, with `length` bytes of arguments of which the first OBD_FUSE_ARGS
// are at `args`. Opcodes it does not know get -ENOSYS. `length` is at least obd_fuse_args_size().
void obd_fuse_answer(struct fuse_peer *peer, const struct fuse_in_header *header, const void *args,
                     size_t length);
