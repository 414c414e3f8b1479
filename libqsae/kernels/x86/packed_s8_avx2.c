/* SPDX-License-Identifier: BSD-2-Clause */
/* int8 product for AVX2: 4 x 16 sums in registers, codes widened to 16 bits. */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline, unused))
#define KERNEL qsae__packed_s8_avx2
#define WIDTH 8
#define ROWS 4
#define WIDE 2

typedef __m256i vec;

INLINE vec zero(void)
{
    return _mm256_setzero_si256();
}

INLINE vec add32(vec a, vec b)
{
    return _mm256_add_epi32(a, b);
}

INLINE vec load32(const int32_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

INLINE void store32(int32_t *p, vec v)
{
    _mm256_storeu_si256((__m256i *)(void *)p, v);
}

INLINE vec spread(const uint8_t *a)
{
    int32_t x;
    memcpy(&x, a, sizeof x);
    return _mm256_set1_epi32(x);
}

INLINE vec load_right(const uint8_t *p, int half)
{
    const vec v = _mm256_loadu_si256((const __m256i *)(const void *)p);
    return _mm256_srai_epi16(half ? v : _mm256_slli_epi16(v, 8), 8);
}

INLINE vec multiply_add(vec c, vec a, vec w)
{
    c = add32(c, _mm256_madd_epi16(a, w));
    __asm__("" : "+x"(c)); /* or gcc 12 adds products up first, which takes registers it lacks */
    return c;
}

#include "kernels/packed_s8_impl.h"
