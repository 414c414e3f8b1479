/* SPDX-License-Identifier: BSD-2-Clause */
/* int8 product by VPDPBUSD, whose left codes are unsigned: 8 x 32 sums in registers. */
#include <immintrin.h>

#include "kernels/x86/packed_s8_512.h"

#define KERNEL qsae__packed_s8_vnni
#define ROWS 8
#define WIDE 1

INLINE vec load_right(const uint8_t *p, int half)
{
    (void)half;
    return _mm512_loadu_si512(p);
}

INLINE vec multiply_add(vec c, vec a, vec w)
{
    return _mm512_dpbusd_epi32(c, a, w);
}

#include "kernels/packed_s8_impl.h"
