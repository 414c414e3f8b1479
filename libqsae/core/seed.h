/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_CORE_SEED_H
#define QSAE_CORE_SEED_H

#include <stdint.h>

/*
 * Chosen at random with each context, for hash tables over what files hold: whoever writes a file
 * does not know which of its strings or ids will share a slot. Nothing of the order of such a table
 * may be seen in a result, and nothing that is stored may depend on it (that is core/hash.h).
 */
typedef struct qsae__seed {
    uint64_t add;
    uint64_t odd; /* an odd number */
} qsae__seed;

/* From the kernel; where that has nothing to give, from clock and addresses. Cannot fail. */
void qsae__seed_choose(qsae__seed *out);

/* Both halves of a product of 128 bits. */
static inline uint64_t qsae__seed_fold(uint64_t a, uint64_t b)
{
    __extension__ typedef unsigned __int128 wide;
    const wide product = (wide)a * b;

    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Twice: after one product keys at equal distances still lie in runs, which linear probing feels:
 * up to 300 steps a key. */
static inline uint64_t qsae__seed_hash(const qsae__seed *s, uint64_t key)
{
    return qsae__seed_fold(qsae__seed_fold(key ^ s->add, s->odd) ^ s->odd,
                           UINT64_C(0x9e3779b97f4a7c15));
}

#endif
