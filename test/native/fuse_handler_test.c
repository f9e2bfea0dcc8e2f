// The FUSE queue against a fake kernel: the other end of a SOCK_SEQPACKET pair sends requests and reads
// answers, byte for byte as /dev/fuse would. Built and run by fuse-handler.test.ts, with the address
// sanitizer.
#include "fuse_handler.h"
#include "fuse_protocol.h"
#include <errno.h>
#include <linux/falloc.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SIZE (8u << 20)
#define NAME "overlaybd-x"
#define CHECK(what)                                                                                          \
    do {                                                                                                     \
        if (!(what)) {                                                                                       \
            fprintf(stderr, "%s:%d: %s: not so: %s\n", __FILE__, __LINE__, __func__, #what);                 \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

static int kernel; // our end
static struct io_queue *queue;
static uint64_t unique = 2;
static unsigned char answer[2 << 20];
static struct io_command commands[300];

// Sends one request with `length` bytes of arguments; `announced` goes into its header.
static uint64_t send_raw(uint32_t opcode, uint64_t node, const void *args, size_t length, uint32_t announced)
{
    static unsigned char request[2 << 20];
    struct fuse_in_header h = {.len = announced, .opcode = opcode, .unique = unique += 2, .nodeid = node};
    memcpy(request, &h, sizeof h);
    if (length > 0)
        memcpy(request + sizeof h, args, length);
    CHECK(send(kernel, request, sizeof h + length, 0) == (ssize_t)(sizeof h + length));
    return unique;
}

static uint64_t ask(uint32_t opcode, uint64_t node, const void *args, size_t length)
{
    return send_raw(opcode, node, args, length, (uint32_t)(sizeof(struct fuse_in_header) + length));
}

static int fetch(void)
{
    return queue->ops->fetch(queue, commands, 300);
}

// Takes the one answer that must be there; its error. *data is what follows the header.
static int answered(uint64_t to, const void **data, size_t *length)
{
    ssize_t n = recv(kernel, answer, sizeof answer, MSG_DONTWAIT);
    struct fuse_out_header *h = (struct fuse_out_header *)answer;
    CHECK(n >= (ssize_t)sizeof *h);
    CHECK(h->len == (size_t)n && h->unique == to);
    if (data)
        *data = answer + sizeof *h;
    if (length)
        *length = (size_t)n - sizeof *h;
    return h->error;
}

static int silent(void)
{
    return recv(kernel, answer, sizeof answer, MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

static void start(int read_only)
{
    int pair[2], big = 4 << 20;
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair) == 0);
    kernel = pair[0];
    for (int i = 0; i < 2; i++)
        CHECK(setsockopt(pair[i], SOL_SOCKET, SO_SNDBUFFORCE, &big, sizeof big) == 0 ||
              setsockopt(pair[i], SOL_SOCKET, SO_SNDBUF, &big, sizeof big) == 0);
    CHECK(obd_fuse_queue_open(pair[1], NAME, SIZE, read_only, &queue) == 0);
}

static void stop(void)
{
    queue->ops->destroy(queue);
    close(kernel);
}

static void init(void)
{
    struct fuse_init_in in = {7, 41, 1 << 20, ~0u, 0, {0}};
    const struct fuse_init_out *out;
    size_t length;
    uint64_t id = ask(FUSE_INIT, 0, &in, sizeof in);
    CHECK(fetch() == 0);
    CHECK(answered(id, (const void **)&out, &length) == 0 && length == sizeof *out);
    CHECK(out->major == 7 && out->max_pages == 256 && out->max_readahead == 0);
    CHECK((out->flags & (FUSE_ASYNC_DIO | FUSE_MAX_PAGES | FUSE_ASYNC_READ)) ==
          (FUSE_ASYNC_DIO | FUSE_MAX_PAGES | FUSE_ASYNC_READ));
    CHECK((out->flags & FUSE_WRITEBACK_CACHE) == 0);
}

static void negotiates(void)
{
    start(1);
    struct fuse_init_in in = {8, 0, 0, ~0u, 0, {0}}, old = {7, 27, 0, ~0u, 0, {0}};
    struct fuse_open_in open = {0, 0};
    // Nothing but INIT before INIT.
    uint64_t id = ask(FUSE_OPEN, OBD_FUSE_FILE_INO, &open, sizeof open);
    CHECK(fetch() == 0 && answered(id, NULL, NULL) == -EIO);
    // A newer major is told ours, and asks again.
    id = ask(FUSE_INIT, 0, &in, sizeof in);
    CHECK(fetch() == 0 && answered(id, NULL, NULL) == 0);
    id = ask(FUSE_INIT, 0, &old, 16);
    CHECK(fetch() == 0 && answered(id, NULL, NULL) == -EPROTO);
    init();
    stop();
}

static void shows_one_file(void)
{
    start(1);
    init();
    const void *data;
    size_t length;
    uint64_t id = ask(FUSE_LOOKUP, 1, NAME, sizeof NAME);
    CHECK(fetch() == 0 && answered(id, &data, &length) == 0);
    const struct fuse_entry_out *entry = data;
    CHECK(entry->nodeid == OBD_FUSE_FILE_INO && entry->attr.size == SIZE && entry->attr.mode == 0100400);
    id = ask(FUSE_LOOKUP, 1, "overlaybd-", 11);
    CHECK(fetch() == 0 && answered(id, NULL, NULL) == -ENOENT);
    char many[300];
    memset(many, 'a', sizeof many);
    id = ask(FUSE_LOOKUP, 1, many, sizeof many);
    CHECK(fetch() == 0 && answered(id, NULL, NULL) == -ENOENT);
    id = ask(FUSE_LOOKUP, 1, NAME, sizeof NAME - 1); // without its terminator
    CHECK(fetch() == 0 && answered(id, NULL, NULL) == -ENOENT);

    struct fuse_getattr_in getattr = {0};
    id = ask(FUSE_GETATTR, 1, &getattr, sizeof getattr);
    CHECK(fetch() == 0 && answered(id, &data, &length) == 0);
    CHECK(((const struct fuse_attr_out *)data)->attr.mode == 040500);
    id = ask(FUSE_GETATTR, 77, &getattr, sizeof getattr);
    CHECK(fetch() == 0 && answered(id, NULL, NULL) == -ENOENT);

    struct fuse_open_in write = {1, 0}, read = {0, 0};
    id = ask(FUSE_OPEN, OBD_FUSE_FILE_INO, &write, sizeof write);
    CHECK(fetch() == 0 && answered(id, NULL, NULL) == -EROFS);
    id = ask(FUSE_OPEN, OBD_FUSE_FILE_INO, &read, sizeof read);
    CHECK(fetch() == 0 && answered(id, &data, &length) == 0);
    CHECK(((const struct fuse_open_out *)data)->open_flags & FOPEN_DIRECT_IO);

    struct fuse_read_in list = {.size = 4096};
    id = ask(FUSE_READDIR, 1, &list, sizeof list);
    CHECK(fetch() == 0 && answered(id, &data, &length) == 0);
    size_t used = 0, entries = 0;
    for (; used < length; entries++)
        used += FUSE_DIRENT_SIZE((const struct fuse_dirent *)((const char *)data + used));
    CHECK(used == length && entries == 3);
    list.offset = 3;
    id = ask(FUSE_READDIR, 1, &list, sizeof list);
    CHECK(fetch() == 0 && answered(id, &data, &length) == 0 && length == 0);

    id = ask(FUSE_STATFS, 1, NULL, 0);
    CHECK(fetch() == 0 && answered(id, &data, &length) == 0 && length == sizeof(struct fuse_statfs_out));
    uint64_t gone[2] = {1, 0};
    ask(FUSE_FORGET, 2, gone, 8);
    CHECK(fetch() == 0 && silent());
    static const uint32_t fine[] = {FUSE_ACCESS, FUSE_RELEASE, FUSE_FLUSH, FUSE_DESTROY, FUSE_RELEASEDIR};
    for (size_t i = 0; i < sizeof fine / sizeof *fine; i++) {
        id = ask(fine[i], 2, &list, sizeof list);
        CHECK(fetch() == 0 && answered(id, NULL, NULL) == 0);
    }
    static const uint32_t none[] = {FUSE_INTERRUPT, FUSE_GETXATTR, FUSE_IOCTL, FUSE_MKDIR, 52, 9999};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        id = ask(none[i], 2, &list, sizeof list);
        CHECK(fetch() == 0 && answered(id, NULL, NULL) == -ENOSYS);
    }
    stop();
}

static uint64_t ask_read(uint64_t offset, uint32_t size)
{
    struct fuse_read_in in = {.offset = offset, .size = size};
    return ask(FUSE_READ, OBD_FUSE_FILE_INO, &in, sizeof in);
}

static void reads(void)
{
    start(1);
    init();
    const void *data;
    size_t length;
    uint64_t first = ask_read(4096, 8192), second = ask_read(SIZE - 512, 4096);
    CHECK(fetch() == 2);
    CHECK(commands[0].op == IO_READ && commands[0].offset == 4096 && commands[0].length == 8192);
    CHECK(commands[1].offset == SIZE - 512 && commands[1].length == 512); // clipped at the end
    CHECK(commands[0].id != commands[1].id && silent());
    for (int i = 1; i >= 0; i--) { // out of order
        const struct iovec *iov;
        int count;
        CHECK(queue->ops->buffers(queue, commands[i].id, &iov, &count) == 0 && count == 1);
        CHECK(iov->iov_len == commands[i].length && (uintptr_t)iov->iov_base % 4096 == 0);
        memset(iov->iov_base, 'A' + i, iov->iov_len);
        queue->ops->complete(queue, commands[i].id, 0);
        CHECK(answered(i ? second : first, &data, &length) == 0 && length == commands[i].length);
        CHECK(((const char *)data)[0] == 'A' + i && ((const char *)data)[length - 1] == 'A' + i);
    }
    queue->ops->complete(queue, commands[0].id, 0); // a second completion says nothing
    CHECK(silent());
    uint64_t id = ask_read(0, 4096);
    CHECK(fetch() == 1);
    queue->ops->complete(queue, commands[0].id, -EIO);
    CHECK(answered(id, &data, &length) == -EIO && length == 0);
    id = ask_read(SIZE, 4096); // at and past the end: end of file
    CHECK(fetch() == 0 && answered(id, &data, &length) == 0 && length == 0);
    id = ask_read(1ull << 62, 4096);
    CHECK(fetch() == 0 && answered(id, &data, &length) == 0 && length == 0);
    id = ask_read(100, 512);
    CHECK(fetch() == 0 && answered(id, NULL, NULL) == -EINVAL);
    id = ask_read(0, (1 << 20) + 512);
    CHECK(fetch() == 0 && answered(id, NULL, NULL) == -EINVAL);
    stop();
}

static void refuses_malformed(void)
{
    start(1);
    init();
    struct fuse_read_in in = {.size = 4096};
    uint64_t id = send_raw(FUSE_READ, 2, &in, 8, sizeof(struct fuse_in_header) + 8);
    CHECK(fetch() == 0 && answered(id, NULL, NULL) == -EIO);
    id = send_raw(FUSE_READ, 2, &in, sizeof in, 4000);
    CHECK(fetch() == 0 && answered(id, NULL, NULL) == -EIO);
    id = ask(FUSE_LOOKUP, 1, NULL, 0);
    CHECK(fetch() == 0 && answered(id, NULL, NULL) == -EIO);
    CHECK(send(kernel, "short", 5, 0) == 5);
    CHECK(fetch() == -EPROTO); // nobody to answer: the connection is over
    stop();
}

static void changes(void)
{
    static unsigned char request[sizeof(struct fuse_write_in) + (1 << 20)];
    struct fuse_write_in *in = (struct fuse_write_in *)request;
    start(0);
    init();
    *in = (struct fuse_write_in){.offset = 1 << 20, .size = 1 << 20};
    memset(request + sizeof *in, 'w', 1 << 20);
    const void *data;
    uint64_t id = ask(FUSE_WRITE, 2, request, sizeof request);
    CHECK(fetch() == 1 && commands[0].op == IO_WRITE && commands[0].length == 1 << 20);
    const struct iovec *iov;
    int count;
    CHECK(queue->ops->buffers(queue, commands[0].id, &iov, &count) == 0 &&
          (uintptr_t)iov->iov_base % 4096 == 0);
    CHECK(memcmp(iov->iov_base, request + sizeof *in, 1 << 20) == 0);
    queue->ops->complete(queue, commands[0].id, 0);
    CHECK(answered(id, &data, NULL) == 0 && ((const struct fuse_write_out *)data)->size == 1 << 20);
    in->size = 512; // less than was sent
    id = ask(FUSE_WRITE, 2, request, sizeof request);
    CHECK(fetch() == 0 && answered(id, NULL, NULL) == -EINVAL);
    in->offset = SIZE - 512;
    in->size = 1024;
    id = ask(FUSE_WRITE, 2, request, sizeof *in + 1024);
    CHECK(fetch() == 0 && answered(id, NULL, NULL) == -ENOSPC);

    struct fuse_fallocate_in punch = {
        .offset = 512, .length = 1024, .mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE};
    id = ask(FUSE_FALLOCATE, 2, &punch, sizeof punch);
    CHECK(fetch() == 1 && commands[0].op == IO_DISCARD && commands[0].offset == 512 &&
          commands[0].length == 1024);
    CHECK(queue->ops->buffers(queue, commands[0].id, &iov, &count) == -EINVAL);
    queue->ops->complete(queue, commands[0].id, 0);
    CHECK(answered(id, NULL, NULL) == 0);
    punch.mode = 0;
    id = ask(FUSE_FALLOCATE, 2, &punch, sizeof punch);
    CHECK(fetch() == 0 && answered(id, NULL, NULL) == -EOPNOTSUPP);

    struct fuse_fsync_in sync = {0};
    id = ask(FUSE_FSYNC, 2, &sync, sizeof sync);
    CHECK(fetch() == 1 && commands[0].op == IO_FLUSH);
    queue->ops->complete(queue, commands[0].id, 0);
    CHECK(answered(id, NULL, NULL) == 0);
    stop();

    start(1); // the same on a read-only device
    init();
    in->offset = 0;
    in->size = 4096;
    id = ask(FUSE_WRITE, 2, request, sizeof *in + 4096);
    CHECK(fetch() == 0 && answered(id, NULL, NULL) == -EROFS);
    id = ask(FUSE_FALLOCATE, 2, &punch, sizeof punch);
    CHECK(fetch() == 0 && answered(id, NULL, NULL) == -EROFS);
    id = ask(FUSE_FSYNC, 2, &sync, sizeof sync);
    CHECK(fetch() == 0 && answered(id, NULL, NULL) == 0);
    stop();
}

// Is there something to fetch, as the loop would see it?
static int polled(void)
{
    struct pollfd p = {.fd = queue->poll_fd, .events = POLLIN};
    return poll(&p, 1, 0);
}

static void holds_back_when_full(void)
{
    start(1);
    init();
    int in_flight = 0, n;
    for (int i = 0; i < 40; i++) { // 40 MiB asked for, of 16 that may be in flight
        ask_read(0, 1 << 20);
        n = fetch();
        CHECK(n >= 0);
        in_flight += n;
    }
    CHECK(in_flight == 16);
    CHECK(!polled()); // 24 requests wait, and the loop is left alone
    uint32_t held = commands[0].id;
    for (uint32_t id = 0; id < 128 && in_flight == 16; id++) {
        const struct iovec *iov;
        int count;
        if (queue->ops->buffers(queue, id, &iov, &count) == 0)
            held = id, in_flight--;
    }
    queue->ops->complete(queue, held, -EIO);
    CHECK(polled() && fetch() == 1 && !polled());
    stop(); // and with commands in flight
}

static void ends_with_the_connection(void)
{
    start(1);
    init();
    ask_read(0, 4096);
    close(kernel);
    CHECK(polled());
    CHECK(fetch() == 1);
    CHECK(fetch() == -ENODEV);
    queue->ops->complete(queue, commands[0].id, 0); // nobody listens; no signal, no crash
    CHECK(fetch() == -ENODEV);
    kernel = -1;
    queue->ops->destroy(queue);
}

int main(void)
{
    negotiates();
    shows_one_file();
    reads();
    refuses_malformed();
    changes();
    holds_back_when_full();
    ends_with_the_connection();
    puts("ok");
    return 0;
}
