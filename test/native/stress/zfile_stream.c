// zfile_stream.c without Node: what is appended comes out whole with any number of threads, closing in the
// middle ends them, and a file that cannot be written is told of. Arguments: a file to write, a seed.
#include "zfile_stream.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SIZE (5u << 20)

static void require(int holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static void require_plain(int fd, const unsigned char *plain)
{
    unsigned char *stored = malloc(SIZE);
    require(stored && pread(fd, stored, SIZE, 512) == (ssize_t)SIZE && memcmp(stored, plain, SIZE) == 0,
            "plain bytes");
    free(stored);
}

static void write_one(const char *path, const unsigned char *plain, enum obd_codec codec, unsigned threads,
                      int finish)
{
    struct zfile_stream *s;
    struct zfile_totals totals;
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    require(fd >= 0, "open");
    require(zfile_stream_open(fd, 512, codec, 4096, threads, &s) == 0, "stream open");
    for (size_t at = 0, n; at < SIZE; at += n) {
        n = (size_t)rand() % 300000;
        n = n > SIZE - at ? SIZE - at : n;
        require(zfile_stream_has_room(s) || zfile_stream_wait(s) == 0, "wait");
        require(zfile_stream_append(s, plain + at, n) == 0, "append");
    }
    require(zfile_stream_position(s) == SIZE, "position");
    if (finish) {
        require(zfile_stream_finish(s, &totals) == 0, "finish");
        require(totals.plain_size == SIZE && totals.blocks == (codec == OBD_CODEC_RAW ? 0 : SIZE / 4096),
                "totals");
        if (codec == OBD_CODEC_RAW)
            require_plain(fd, plain);
        require(lseek(fd, 0, SEEK_END) == (off_t)(512 + totals.stored_size + 4 * totals.blocks), "size");
        require(zfile_stream_append(s, plain, 1) == -EPIPE, "append after the end");
    }
    zfile_stream_close(s);
    close(fd);
}

int main(int argc, char **argv)
{
    unsigned char *plain = malloc(SIZE);
    require(argc == 3 && plain, "arguments");
    srand((unsigned)atoi(argv[2]));
    for (size_t i = 0; i < SIZE; i++)
        plain[i] = (unsigned char)(i * i >> 7);
    for (unsigned threads = 1; threads <= 5; threads++)
        write_one(argv[1], plain, threads % 2 ? OBD_CODEC_LZ4 : OBD_CODEC_ZSTD, threads, threads != 4);
    for (unsigned threads = 1; threads <= 3; threads++)
        write_one(argv[1], plain, OBD_CODEC_RAW, threads, threads != 2);

    struct zfile_stream *s;
    struct zfile_totals totals;
    int fd = open("/dev/full", O_WRONLY), e = 0;
    require(fd >= 0 && zfile_stream_open(fd, 0, OBD_CODEC_LZ4, 4096, 3, &s) == 0, "open of a full file");
    for (int i = 0; i < 30 && !e; i++)
        e = zfile_stream_append(s, plain, 1u << 20);
    require(e == -ENOSPC && zfile_stream_finish(s, &totals) == -ENOSPC, "a full file is told of");
    zfile_stream_close(s);
    close(fd);
    free(plain);
    puts("done");
    return 0;
}
