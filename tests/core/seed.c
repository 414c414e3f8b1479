/* SPDX-License-Identifier: BSD-2-Clause */
#include <stdlib.h>

#include "../support.h"
#include "tests.h"

#include "core/core.h"

#define KEYS 20000
#define SLOTS 32768

/* The families of keys that files choose: pairs of ids, edges of a tree, and what multiplications
 * are weak for. */
static uint64_t key_of(int family, uint64_t i)
{
    switch (family) {
    case 0:
        return i;
    case 1:
        return i << 32;
    case 2:
        return i << 32 | i;
    case 3:
        return (i % 141) << 32 | i / 141;
    case 4:
        return i << 49; /* ends in SLOTS * 2^34: alike below it, up to 2^15 of them */
    case 5:
        return i << 17;
    case 6:
        return i << 8 | 0x61;
    default:
        return i * (UINT64_MAX / SLOTS);
    }
}

/* Slots that are looked at when the keys are put into a table by linear probing. */
static int64_t probes(const qsae__seed *seed, int family, uint64_t n)
{
    static uint8_t taken[SLOTS];
    int64_t looked = 0;
    memset(taken, 0, sizeof taken);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t at = qsae__seed_hash(seed, key_of(family, i)) & (SLOTS - 1);
        for (looked++; taken[at]; looked++)
            at = (at + 1) & (SLOTS - 1);
        taken[at] = 1;
    }
    return looked;
}

/* Of a random function 1.8 a key at this load; keys that share slots make it hundreds. */
void test_seed(void **state)
{
    qsae_context *one = open_context(NULL, 1), *two = open_context(NULL, 1);
    qsae__seed seed[20] = { one->seed, two->seed };
    (void)state;
    assert_true(seed[0].add != seed[1].add && seed[0].odd != seed[1].odd);
    for (int i = 0; i < 20; i++) {
        if (i > 1)
            qsae__seed_choose(&seed[i]);
        assert_true(seed[i].odd & 1);
        for (int family = 0; family < 8; family++) {
            const int64_t n = family == 4 ? SLOTS / 2 : KEYS,
                          found = probes(&seed[i], family, (uint64_t)n);
            if (found > 3 * n)
                fail_msg("family %d: %lld probes for %lld keys (seed %llx, %llx)", family,
                         (long long)found, (long long)n, (unsigned long long)seed[i].add,
                         (unsigned long long)seed[i].odd);
        }
    }
    qsae_context_close(&one);
    qsae_context_close(&two);
}
