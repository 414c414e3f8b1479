/* SPDX-License-Identifier: BSD-2-Clause */
#include "core/seed.h"

#include <sys/random.h>
#include <time.h>

/* Spreads what little is known of a clock over all bits (splitmix64). */
static uint64_t spread(uint64_t v)
{
    v = (v ^ v >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    v = (v ^ v >> 27) * UINT64_C(0x94d049bb133111eb);
    return v ^ v >> 31;
}

void qsae__seed_choose(qsae__seed *out)
{
    uint64_t drawn[2] = { 0, 0 };
    struct timespec now = { 0, 0 };

    if (getrandom(drawn, sizeof drawn, GRND_NONBLOCK) != (ssize_t)sizeof drawn) {
        (void)clock_gettime(CLOCK_MONOTONIC, &now);
        drawn[0] = spread((uint64_t)now.tv_nsec ^ (uint64_t)now.tv_sec << 32);
        drawn[1] = spread(drawn[0] ^ (uint64_t)(uintptr_t)out);
    }
    out->add = drawn[0];
    out->odd = drawn[1] | 1;
}
