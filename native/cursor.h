// A place in a command's memory, which is in pieces; it only moves forward.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>

struct cursor {
    const struct iovec *iov, *end;
    size_t offset; // within *iov
};

static inline void cursor_settle(struct cursor *c)
{
    while (c->iov < c->end && c->offset == c->iov->iov_len) {
        c->iov++;
        c->offset = 0;
    }
}

static inline void cursor_advance(struct cursor *c, uint64_t n)
{
    for (; c->iov < c->end && n >= c->iov->iov_len - c->offset; c->iov++) {
        n -= c->iov->iov_len - c->offset;
        c->offset = 0;
    }
    c->offset += n;
}

// The next n bytes if they are contiguous, else NULL. Does not move.
static inline unsigned char *cursor_contiguous(struct cursor *c, size_t n)
{
    cursor_settle(c);
    if (c->iov == c->end || c->iov->iov_len - c->offset < n)
        return NULL;
    return (unsigned char *)c->iov->iov_base + c->offset;
}

// Passes over at most `want` bytes, and says in at most `room` iovecs where they are. How many bytes.
static inline uint64_t cursor_take(struct cursor *c, uint64_t want, struct iovec *out, int room, int *count)
{
    uint64_t sum = 0;
    *count = 0;
    while (sum < want && *count < room) {
        cursor_settle(c);
        if (c->iov == c->end)
            break;
        size_t left = c->iov->iov_len - c->offset, part = want - sum < left ? (size_t)(want - sum) : left;
        out[(*count)++] = (struct iovec){(char *)c->iov->iov_base + c->offset, part};
        c->offset += part;
        sum += part;
    }
    return sum;
}

// Passes over n bytes, filling them from `from`, or with zeroes if NULL. False when the memory ends early.
static inline int cursor_place(struct cursor *c, const unsigned char *from, size_t n)
{
    while (n > 0) {
        cursor_settle(c);
        if (c->iov == c->end)
            return 0;
        size_t room = c->iov->iov_len - c->offset, part = n < room ? n : room;
        unsigned char *to = (unsigned char *)c->iov->iov_base + c->offset;
        if (from) {
            memcpy(to, from, part);
            from += part;
        } else {
            memset(to, 0, part);
        }
        c->offset += part;
        n -= part;
    }
    return 1;
}
