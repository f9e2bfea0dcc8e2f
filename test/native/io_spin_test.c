// When a loop looks before it sleeps, told by the times that it notes. Built and run by io-spin.test.ts.
#include "io_spin.h"
#include <stdio.h>
#include <stdlib.h>

#define CHECK(what)                                                                                          \
    do {                                                                                                     \
        if (!(what)) {                                                                                       \
            fprintf(stderr, "%s:%d: %s: not so: %s\n", __FILE__, __LINE__, __func__, #what);                 \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

static struct io_spin spin;

// So many waits, in which commands come after `gap`, and `wake` later if the loop sleeps by then. How many
// of them it looked in.
static int waits(int count, uint64_t gap, uint64_t wake)
{
    int looks = 0;
    for (int i = 0; i < count; i++) {
        int looked = io_spin_begin(&spin);
        if (looked)
            io_spin_end();
        io_spin_came(&spin, looked && gap <= IO_SPIN_NS ? gap : gap + wake);
        looks += looked;
    }
    return looks;
}

static void looks_where_waking_is_dear(void)
{
    io_spin_init(&spin, 2);
    waits(1000, 10000, 40000);
    CHECK(waits(10000, 10000, 40000) > 9900);
}

static void sleeps_where_waking_is_cheap(void)
{
    io_spin_init(&spin, 2);
    waits(1000, 10000, 3000);
    CHECK(waits(10000, 10000, 3000) < 100);
}

static void gives_up_when_commands_come_late(void)
{
    io_spin_init(&spin, 2);
    CHECK(waits(2000, 10000, 40000) > 1000);
    CHECK(waits(200, 1000000, 40000) < 30);
    CHECK(waits(10000, 1000000, 40000) < 30);
    CHECK(waits(10000, 10000, 40000) > 1000); // and learns that they come soon again
}

static void never_looks_on_one_processor(void)
{
    io_spin_init(&spin, 1);
    CHECK(waits(10000, 1000, 90000) == 0);
}

static void leaves_a_processor_to_the_other_side(void)
{
    io_spin_init(&spin, 2);
    waits(1000, 10000, 40000);
    struct io_spin second = spin;
    CHECK(io_spin_begin(&spin));
    CHECK(!io_spin_begin(&second));
    io_spin_end();
    CHECK(io_spin_begin(&second));
    io_spin_end();
}

int main(void)
{
    looks_where_waking_is_dear();
    sleeps_where_waking_is_cheap();
    gives_up_when_commands_come_late();
    never_looks_on_one_processor();
    leaves_a_processor_to_the_other_side();
    puts("ok");
    return 0;
}
