/* SPDX-License-Identifier: BSD-2-Clause */
/* Read before every file of builds whose tests are to run as on a lesser CPU (-include): with
 * QSAE_TEST_LEVEL=c, avx2 or avx512 in the environment the library finds no instructions beyond. */
#ifndef TESTS_TOOLS_LEVEL_H
#define TESTS_TOOLS_LEVEL_H

#if defined(__x86_64__)
#include <cpuid.h>

/* No header of the C library: what files define before they include one has to count. */
char *getenv(const char *name);

static inline int level_get_cpuid_count(unsigned leaf, unsigned sub, unsigned *a, unsigned *b,
                                        unsigned *c, unsigned *d)
{
    const int known = __get_cpuid_count(leaf, sub, a, b, c, d);
    const char *const most = getenv("QSAE_TEST_LEVEL");
    if (!known || !most || leaf != 7)
        return known;
    if (__builtin_strcmp(most, "c") == 0)
        *b &= ~(1u << 5); /* AVX2 */
    if (__builtin_strcmp(most, "c") == 0 || __builtin_strcmp(most, "avx2") == 0)
        *b &= ~(1u << 16); /* AVX-512F */
    if (sub == 1)
        *a &= ~(1u << 5); /* AVX512_BF16 */
    return known;
}
#define __get_cpuid_count level_get_cpuid_count
#endif

#endif
