// A hostile ext4: an image made by our own code is damaged, opened over its source as overlaybd-apply does,
// walked, read and written to. The input is a list of (offset: 3 bytes, value: 1) in the metadata.
#include "ext4_image.h"
#include "ext4_source.h"
#include "fuzz.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SIZE = 2 << 20, PATCH = 4, MOST_PATCHES = 64, DEPTH = 6, MOST_NAMES = 200 };

static uint8_t *pristine, *damaged;
static char directory[] = "/tmp/obd-fuzz-ext4";

static const void *content_of_xattr(void)
{
    static uint8_t bytes[300];
    memset(bytes, 'x', sizeof bytes);
    return bytes;
}

static void make_pristine(void)
{
    struct ext4_image *image;
    const struct ext4_attributes dir = {.mode = S_IFDIR | 0755}, file = {.mode = S_IFREG | 0644};
    uint32_t inode, sub;
    mkdir(directory, 0700);
    if (ext4_image_create(directory, SIZE, &image) != 0 ||
        ext4_make(image, ext4_root(), "etc", 3, &dir, &sub) != 0)
        abort();
    for (int i = 0; i < 40; i++) {
        char name[32], content[9000];
        const int length = snprintf(name, sizeof name, "file-%d-with-a-name", i);
        memset(content, 'a' + i % 26, sizeof content);
        if (ext4_make(image, i % 2 ? sub : ext4_root(), name, (size_t)length, &file, &inode) != 0 ||
            ext4_file_begin(image, inode) != 0 ||
            ext4_file_write(image, (uint64_t)i * 4096, content, sizeof content, 0) != 0 ||
            ext4_file_end(image, (uint64_t)i * 4096 + sizeof content) != 0)
            abort();
    }
    const struct ext4_xattr xattrs[] = {{"user.one", "1", 1},
                                        {"security.capability", content_of_xattr(), 300}};
    if (ext4_set_xattrs(image, inode, xattrs, 2) != 0 ||
        ext4_symlink(image, sub, "link", 4, "file-1", 6, &file, &inode) != 0 || ext4_image_flush(image) != 0)
        abort();
    pristine = malloc(SIZE);
    damaged = malloc(SIZE);
    if (pread(ext4_image_fd(image), pristine, SIZE, 0) != SIZE)
        abort();
    ext4_image_destroy(image);
}

// Answers questions about the damaged image until the other side hangs up.
static void *serve(void *end)
{
    const int fd = *(int *)end;
    uint64_t question[2];
    while (recv(fd, question, sizeof question, MSG_WAITALL) == (ssize_t)sizeof question) {
        int64_t length = (int64_t)question[1];
        if (question[0] > SIZE || question[1] > SIZE - question[0])
            length = -5;
        if (send(fd, &length, sizeof length, MSG_NOSIGNAL) < 0 ||
            (length > 0 && send(fd, damaged + question[0], (size_t)length, MSG_NOSIGNAL) < 0))
            break;
    }
    return NULL;
}

static size_t ext4_seed(unsigned n, uint8_t *out, size_t capacity)
{
    if (!pristine)
        make_pristine();
    if (n >= 64)
        return 0;
    // Places that hold something, spread over the image: damage there is looked at.
    size_t used = 0;
    uint32_t place = n * 7919;
    for (int tries = 0; used < 6 * PATCH && tries < 100000; tries++) {
        place = (place * 1103515245u + 12345u) % (n % 3 ? SIZE / 4 : 4096);
        if (pristine[place] == 0)
            continue;
        const uint8_t patch[PATCH] = {(uint8_t)place, (uint8_t)(place >> 8), (uint8_t)(place >> 16),
                                      pristine[place]};
        memcpy(out + used, patch, PATCH);
        used += PATCH;
    }
    return used;
}

struct names {
    int count;
    struct {
        uint32_t inode, type;
        size_t length;
        char name[256];
    } at[MOST_NAMES];
};

static int collect(void *context, const char *name, size_t length, uint32_t inode, uint32_t type)
{
    struct names *names = context;
    if (names->count == MOST_NAMES)
        return 0;
    fuzz_promise(length > 0 && length < 256, "a name has 1 to 255 bytes");
    names->at[names->count].inode = inode;
    names->at[names->count].type = type;
    names->at[names->count].length = length;
    memcpy(names->at[names->count++].name, name, length);
    return 0;
}

static int look_xattr(void *context, const char *name, const void *value, size_t length)
{
    uint8_t sum = (uint8_t)strlen(name);
    for (size_t i = 0; i < length; i++)
        sum ^= ((const uint8_t *)value)[i];
    *(uint8_t *)context ^= sum;
    return 0;
}

static int look_extent(void *context, uint64_t offset, uint64_t physical, uint64_t length)
{
    *(uint8_t *)context ^= (uint8_t)(offset + physical + length);
    return 0;
}

static void walk(struct ext4_image *image, uint32_t inode, int depth, int *budget)
{
    struct names *names = calloc(1, sizeof *names);
    if (ext4_readdir(image, inode, collect, names) == 0)
        for (int i = 0; i < names->count && (*budget)-- > 0; i++) {
            struct ext4_stat stat;
            uint8_t sum = 0;
            char *content = malloc(4096);
            size_t got = 0;
            uint32_t found, type;
            const uint32_t child = names->at[i].inode;
            ext4_lookup(image, inode, names->at[i].name, names->at[i].length, &found, &type);
            ext4_stat(image, child, &stat);
            ext4_list_xattrs(image, child, look_xattr, &sum);
            ext4_extents(image, child, look_extent, &sum);
            ext4_read(image, child, (uint64_t)(i % 5) * 4096, content, 4096, &got);
            fuzz_promise(got <= 4096, "no more is read than fits");
            ext4_readlink(image, child, content, 4096, &got);
            free(content);
            if (depth < DEPTH)
                walk(image, child, depth + 1, budget);
        }
    free(names);
}

static void change(struct ext4_image *image, uint32_t in)
{
    const struct ext4_attributes file = {.mode = S_IFREG | 0600}, dir = {.mode = S_IFDIR | 0700};
    uint32_t inode, found, type;
    uint8_t content[5000];
    memset(content, 7, sizeof content);
    if (ext4_make(image, in, "new", 3, &file, &inode) == 0 && ext4_file_begin(image, inode) == 0) {
        ext4_file_write(image, 0, content, sizeof content, 0);
        ext4_file_end(image, sizeof content);
        const struct ext4_xattr xattr = {"user.new", "value", 5};
        ext4_set_xattrs(image, inode, &xattr, 1);
    }
    ext4_make(image, in, "newdir", 6, &dir, &inode);
    if (ext4_lookup(image, in, "file-2-with-a-name", 18, &found, &type) == 0) {
        ext4_set_attributes(image, found, &file);
        ext4_link(image, in, "hard", 4, found);
    }
    ext4_remove(image, in, "etc", 3);
    ext4_remove(image, in, "file-4-with-a-name", 18);
    ext4_image_flush(image);
}

static void ext4_run(const uint8_t *data, size_t size)
{
    if (!pristine)
        make_pristine();
    memcpy(damaged, pristine, SIZE);
    for (size_t at = 0; at + PATCH <= size && at < MOST_PATCHES * PATCH; at += PATCH)
        damaged[fuzz_number(data, size, at, 3) % SIZE] = data[at + 3];
    int ends[2];
    pthread_t server;
    struct ext4_image *image = NULL;
    const uint64_t runs[2] = {0, SIZE};
    if (ext4_source_pair(ends) != 0 || pthread_create(&server, NULL, serve, &ends[1]) != 0)
        abort();
    int budget = 300;
    if (ext4_image_open(directory, SIZE, ends[0], runs, 1, &image) == 0) {
        walk(image, ext4_root(), 0, &budget);
        change(image, ext4_root());
    }
    if (image)
        ext4_image_destroy(image);
    shutdown(ends[1], SHUT_RDWR);
    pthread_join(server, NULL);
    close(ends[1]);
}

const struct fuzz_target ext4_target = {"ext4", ext4_seed, ext4_run};
