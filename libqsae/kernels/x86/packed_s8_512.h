/* SPDX-License-Identifier: BSD-2-Clause */
/* Registers of packed_s8_impl.h with AVX-512. */
#ifndef QSAE_KERNELS_X86_PACKED_S8_512_H
#define QSAE_KERNELS_X86_PACKED_S8_512_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline, unused))
#define WIDTH 16

typedef __m512i vec;

INLINE vec zero(void)
{
    return _mm512_setzero_si512();
}

INLINE vec add32(vec a, vec b)
{
    return _mm512_add_epi32(a, b);
}

INLINE vec load32(const int32_t *p)
{
    return _mm512_loadu_si512(p);
}

INLINE void store32(int32_t *p, vec v)
{
    _mm512_storeu_si512(p, v);
}

/* Four bytes to every column. */
INLINE vec spread(const uint8_t *a)
{
    int32_t x;
    memcpy(&x, a, sizeof x);
    return _mm512_set1_epi32(x);
}

#endif
