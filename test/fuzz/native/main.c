// A mutating fuzzer for the native code, to be built with -fsanitize=address,undefined by any compiler:
//
//   fuzz TARGET INPUTS SEED [FILE...]   runs so many mutated inputs, made from the target's seeds and FILEs
//   fuzz TARGET --replay FILE...        runs FILEs as they are
//
// Input number i depends on SEED and i alone. What ends the process leaves the input in crash-TARGET, which
// --replay takes. With -DOBD_LIBFUZZER it is a libFuzzer program for $OBD_FUZZ_TARGET instead.
#include "fuzz.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct fuzz_target *const targets[] = {
    &ring_target,    &scsi_target,   &fuse_target,  &codec_target, &plan_target,
    &inflate_target, &unzstd_target, &merge_target, &pack_target,  &ext4_target};
enum { TARGETS = sizeof targets / sizeof targets[0], MAX_SEEDS = 512, HANG_SECONDS = 20 };

static const struct fuzz_target *target;
static uint8_t input[FUZZ_MAX_INPUT];
static size_t input_size;

void fuzz_promise(int holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "broken promise: %s\n", what);
    abort();
}

void *fuzz_copy(const void *data, size_t size)
{
    void *copy = malloc(size ? size : 1);
    if (!copy)
        abort();
    if (size)
        memcpy(copy, data, size);
    return copy;
}

uint64_t fuzz_number(const uint8_t *data, size_t size, size_t at, size_t bytes)
{
    uint64_t value = 0;
    for (size_t i = 0; i < bytes && at + i < size; i++)
        value |= (uint64_t)data[at + i] << (8 * i);
    return value;
}

static const struct fuzz_target *find(const char *name)
{
    for (int i = 0; name && i < TARGETS; i++)
        if (strcmp(targets[i]->name, name) == 0)
            return targets[i];
    fprintf(stderr, "Unknown target \"%s\", expected one of:", name ? name : "");
    for (int i = 0; i < TARGETS; i++)
        fprintf(stderr, " %s", targets[i]->name);
    fprintf(stderr, "\n");
    exit(2);
}

#ifdef OBD_LIBFUZZER
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!target)
        target = find(getenv("OBD_FUZZ_TARGET"));
    if (size <= FUZZ_MAX_INPUT)
        target->run(data, size);
    return 0;
}
#else

void __sanitizer_set_death_callback(void (*callback)(void));

// Async-signal-safe: also called from handlers.
static void save_input(void)
{
    char name[64] = "crash-";
    strncat(name, target->name, 32);
    int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return;
    if (write(fd, input, input_size) < 0) // nothing more can be done
        _exit(99);
    close(fd);
}

static void on_signal(int number)
{
    save_input();
    signal(number, SIG_DFL);
    raise(number);
}

// ---- mutation

static uint64_t state;

static uint64_t next(void) // splitmix64
{
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static size_t below(size_t limit)
{
    return limit ? (size_t)(next() % limit) : 0;
}

static const uint64_t extremes[] = {
    0,          1,           7,          8,          0x7f,      0x80,       0xff,
    0x1ff,      0x200,       0x7fff,     0xffff,     0x10000,   0x7fffffff, 0x80000000,
    0xffffffff, 0x100000000, 1ull << 52, 1ull << 63, INT64_MAX, UINT64_MAX, UINT64_MAX - 7};

static void put(size_t at, uint64_t value, size_t bytes, int big)
{
    for (size_t i = 0; i < bytes && at + i < input_size; i++)
        input[at + i] = (uint8_t)(value >> (8 * (big ? bytes - 1 - i : i)));
}

struct blob {
    uint8_t *data;
    size_t size;
};
static struct blob seeds[MAX_SEEDS];
static unsigned seed_count;

static void mutate_once(void)
{
    if (input_size == 0) {
        input[input_size++] = (uint8_t)next();
        return;
    }
    // Heads are where lengths are: half of all changes go to the first 128 bytes.
    size_t at = next() & 1 ? below(input_size) : below(input_size < 128 ? input_size : 128);
    size_t width = (size_t)1 << below(4);
    switch (below(9)) {
    case 0:
        input[at] ^= (uint8_t)(1u << below(8));
        break;
    case 1:
        input[at] = (uint8_t)next();
        break;
    case 2: // a length that lies
        put(at & ~(width - 1), extremes[below(sizeof extremes / sizeof extremes[0])], width, next() & 1);
        break;
    case 3: { // a little more or less
        size_t from = at & ~(width - 1);
        put(from, fuzz_number(input, input_size, from, width) + below(33) - 16, width, 0);
        break;
    }
    case 4:
        input_size = at;
        break;
    case 5: { // a piece of the same moves
        size_t from = below(input_size), n = below(64);
        if (n > input_size - from)
            n = input_size - from;
        if (n > input_size - at)
            n = input_size - at;
        memmove(input + at, input + from, n);
        break;
    }
    case 6: { // a piece of another seed
        const struct blob *other = &seeds[below(seed_count)];
        size_t from = below(other->size), n = below(256);
        if (n > other->size - from)
            n = other->size - from;
        if (n > FUZZ_MAX_INPUT - at)
            n = FUZZ_MAX_INPUT - at;
        memcpy(input + at, other->data + from, n);
        if (at + n > input_size)
            input_size = at + n;
        break;
    }
    case 7: { // more of it
        size_t n = below(64);
        if (n > FUZZ_MAX_INPUT - input_size)
            n = FUZZ_MAX_INPUT - input_size;
        memmove(input + at + n, input + at, input_size - at);
        input_size += n;
        break;
    }
    default:
        put(at, next(), width, 0);
    }
}

static size_t read_file(const char *path, uint8_t *into, size_t capacity)
{
    FILE *file = fopen(path, "rb");
    if (!file) {
        fprintf(stderr, "Cannot open \"%s\": %s\n", path, strerror(errno));
        exit(2);
    }
    size_t n = fread(into, 1, capacity, file);
    fclose(file);
    return n;
}

static void run_input(void)
{
    alarm(HANG_SECONDS);
    target->run(input, input_size);
    alarm(0);
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "Usage: fuzz TARGET INPUTS SEED [FILE...] | fuzz TARGET --replay FILE...\n");
        return 2;
    }
    target = find(argv[1]);
    __sanitizer_set_death_callback(save_input);
    signal(SIGABRT, on_signal);
    signal(SIGALRM, on_signal);
    signal(SIGPIPE, SIG_IGN);
    if (strcmp(argv[2], "--replay") == 0) {
        for (int i = 3; i < argc; i++) {
            input_size = read_file(argv[i], input, sizeof input);
            run_input();
        }
        printf("%s: %d inputs\n", target->name, argc - 3);
        return 0;
    }
    const uint64_t inputs = strtoull(argv[2], NULL, 10), seed = strtoull(argv[3], NULL, 10);
    for (unsigned n = 0; seed_count < MAX_SEEDS; n++) {
        size_t size = target->seed(n, input, sizeof input);
        if (size == 0)
            break;
        seeds[seed_count++] = (struct blob){fuzz_copy(input, size), size};
    }
    for (int i = 4; i < argc && seed_count < MAX_SEEDS; i++) {
        size_t size = read_file(argv[i], input, sizeof input);
        seeds[seed_count++] = (struct blob){fuzz_copy(input, size), size};
    }
    fuzz_promise(seed_count > 0, "a target has a seed");
    for (unsigned i = 0; i < seed_count; i++) {
        memcpy(input, seeds[i].data, input_size = seeds[i].size);
        run_input();
    }
    for (uint64_t i = 0; i < inputs; i++) {
        state = seed * 0xd1342543de82ef95u + i;
        const struct blob *from = &seeds[below(seed_count)];
        memcpy(input, from->data, input_size = from->size);
        for (size_t changes = 1 + below(next() & 3 ? 3 : 12); changes > 0; changes--)
            mutate_once();
        run_input();
    }
    for (unsigned i = 0; i < seed_count; i++)
        free(seeds[i].data);
    printf("%s: %llu inputs\n", target->name, (unsigned long long)inputs);
    return 0;
}
#endif
