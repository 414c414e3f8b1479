/* SPDX-License-Identifier: BSD-2-Clause */
/* int8 product for AVX-512 BW without VNNI: 8 x 32 sums in registers, codes widened to 16 bits. */
#include <immintrin.h>

#include "kernels/x86/packed_s8_512.h"

#define KERNEL qsae__packed_s8_avx512
#define ROWS 8
#define WIDE 2

INLINE vec load_right(const uint8_t *p, int half)
{
    const vec v = _mm512_loadu_si512(p);
    return _mm512_srai_epi16(half ? v : _mm512_slli_epi16(v, 8), 8);
}

INLINE vec multiply_add(vec c, vec a, vec w)
{
    c = add32(c, _mm512_madd_epi16(a, w));
    __asm__("" : "+v"(c)); /* or gcc 12 adds products up first, which takes registers it lacks */
    return c;
}

#include "kernels/packed_s8_impl.h"
