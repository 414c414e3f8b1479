/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Decoding of the types that look points up in a grid at one level: IQ1, IQ2 and IQ3. A code is a
 * point of four or eight coordinates; signs come with it, or a shift of all coordinates. Points and
 * signs are spread to a byte each first.
 */
#include "kernels/ggml_parts.h"
#include "kernels/lanes.h"

/* A block taken apart. */
typedef struct spread {
    uint8_t point[QSAE__SUPER];
    uint8_t negative[QSAE__SUPER]; /* 0 or 1 */
} spread;

INLINE void put64(uint8_t *p, uint64_t v)
{
    for (int i = 0; i < 8; i++)
        p[i] = (uint8_t)(v >> 8 * i);
}

/* Eight fields of two bits to eight bytes. */
INLINE void spread2(uint64_t v, uint8_t *p)
{
    v = (v | v << 24) & 0x000000ff000000ff;
    v = (v | v << 12) & 0x000f000f000f000f;
    put64(p, (v | v << 6) & 0x0303030303030303);
}

/* Two points of four fields of four bits. */
INLINE void spread4(uint64_t low, uint64_t high, uint8_t *p)
{
    uint64_t v = low | high << 32;
    v = (v | v << 8) & 0x00ff00ff00ff00ff;
    put64(p, (v | v << 4) & 0x0f0f0f0f0f0f0f0f);
}

/* Eight bits. */
INLINE void spread1(uint64_t v, uint8_t *p)
{
    v = (v | v << 28) & 0x0000000f0000000f;
    v = (v | v << 14) & 0x0003000300030003;
    put64(p, (v | v << 7) & 0x0101010101010101);
}

/* Seven signs; an eighth makes the number of negative ones even. */
INLINE uint32_t signs7(uint32_t s)
{
    s &= 127;
    return s | (0x6996u >> ((s ^ s >> 4) & 15) & 1) << 7;
}

/* y[n] = d * coordinate, those of IQ2: 8, 25, 43 */
INLINE void values2(const spread *restrict s, int at, int n, float d, float *restrict y)
{
    for (int j = at; j < at + n; j++) {
        const int c = s->point[j];
        y[j] = d * (float)((8 + 17 * c + (c >> 1)) * (1 - 2 * s->negative[j]));
    }
}

static void iq2_xxs(const uint8_t *restrict b, float *restrict y)
{
    const float d = qsae__get_half(b);
    spread s;
    for (int i = 0; i < 32; i++) {
        const uint8_t *q = b + 2 + i / 4 * 8;
        spread2(qsae__iq2xxs_grid[q[i % 4]], s.point + 8 * i);
        spread1(signs7(qsae__get32(q + 4) >> i % 4 * 7), s.negative + 8 * i);
    }
    for (int g = 0; g < 8; g++) {
        const uint32_t scale = b[2 + 8 * g + 7] >> 4;
        values2(&s, 32 * g, 32, d * (0.5f + (float)scale) * 0.25f, y);
    }
}

static void iq2_xs(const uint8_t *restrict b, float *restrict y)
{
    const float d = qsae__get_half(b);
    spread s;
    for (int i = 0; i < 32; i++) {
        const uint16_t q = qsae__get16(b + 2 + 2 * i);
        spread2(qsae__iq2xs_grid[q & 511], s.point + 8 * i);
        spread1(signs7(q >> 9), s.negative + 8 * i);
    }
    for (int g = 0; g < 16; g++) {
        const int scale = b[66 + g / 2] >> g % 2 * 4 & 15;
        values2(&s, 16 * g, 16, d * (0.5f + (float)scale) * 0.25f, y);
    }
}

static void iq2_s(const uint8_t *restrict b, float *restrict y)
{
    const float d = qsae__get_half(b);
    spread s;
    for (int i = 0; i < 32; i++) {
        const int high = b[66 + i / 4] >> i % 4 * 2 & 3;
        spread2(qsae__iq2s_grid[b[2 + i] | high << 8], s.point + 8 * i);
        spread1(b[34 + i], s.negative + 8 * i);
    }
    for (int g = 0; g < 16; g++) {
        const int scale = b[74 + g / 2] >> g % 2 * 4 & 15;
        values2(&s, 16 * g, 16, d * (0.5f + (float)scale) * 0.25f, y);
    }
}

/* Coordinates 4, 12, ..., 52, 62. */
static void iq3_xxs(const uint8_t *restrict b, float *restrict y)
{
    const float d = qsae__get_half(b);
    spread s;
    for (int i = 0; i < 32; i++) {
        const uint8_t *q = b + 2 + 2 * i;
        spread4(qsae__iq3xxs_grid[q[0]], qsae__iq3xxs_grid[q[1]], s.point + 8 * i);
        spread1(signs7(qsae__get32(b + 66 + i / 4 * 4) >> i % 4 * 7), s.negative + 8 * i);
    }
    for (int g = 0; g < 8; g++) {
        const float dl = d * (0.5f + (float)(b[66 + 4 * g + 3] >> 4)) * 0.5f;
        for (int j = 32 * g; j < 32 * g + 32; j++) {
            const int c = s.point[j];
            y[j] = dl * (float)((4 + 8 * c + ((c + 1) >> 3) * 2) * (1 - 2 * s.negative[j]));
        }
    }
}

/* Coordinates 1, 3, ..., 15. */
static void iq3_s(const uint8_t *restrict b, float *restrict y)
{
    const float d = qsae__get_half(b);
    spread s;
    for (int i = 0; i < 32; i++) {
        const uint8_t *q = b + 2 + 2 * i;
        const int high = b[66 + i / 4] >> i % 4 * 2;
        spread4(qsae__iq3s_grid[q[0] | (high & 1) << 8], qsae__iq3s_grid[q[1] | (high & 2) << 7],
                s.point + 8 * i);
        spread1(b[74 + i], s.negative + 8 * i);
    }
    for (int g = 0; g < 8; g++) {
        const float dl = d * (float)(1 + 2 * (b[106 + g / 2] >> g % 2 * 4 & 15));
        for (int j = 32 * g; j < 32 * g + 32; j++)
            y[j] = dl * (float)((1 + 2 * s.point[j]) * (1 - 2 * s.negative[j]));
    }
}

/* y[8] = d * (coordinate + shift), coordinates -1, 0, 1 */
INLINE void values1(uint16_t p, float shift, float d, float *restrict y)
{
    uint8_t point[8];
    spread2(p, point);
    ROLLED
    for (int j = 0; j < 8; j++)
        y[j] = d * ((float)(point[j] - 1) + shift);
}

static void iq1_s(const uint8_t *restrict b, float *restrict y)
{
    const float d = qsae__get_half(b);
    for (int i = 0; i < 32; i++) {
        const int high = qsae__get16(b + 34 + i / 4 * 2);
        values1(qsae__iq1_grid[b[2 + i] | (high >> i % 4 * 3 & 7) << 8],
                high & 0x8000 ? -0.125f : 0.125f, d * (float)(2 * (high >> 12 & 7) + 1), y + 8 * i);
    }
}

/* The f16 scale lies in the highest four bits of the four words of scales. */
static void iq1_m(const uint8_t *restrict b, float *restrict y)
{
    const uint8_t *s = b + 48;
    const float d = qsae__f16_to_f32((uint16_t)(s[1] >> 4 | (s[3] & 0xf0) | (s[5] >> 4) << 8 |
                                                (s[7] & 0xf0) << 8));
    for (int i = 0; i < 32; i++) {
        const int scale = qsae__get16(s + i / 8 * 2) >> i % 8 / 2 * 3 & 7;
        const int high = b[32 + i / 2] >> i % 2 * 4;
        values1(qsae__iq1_grid[b[i] | (high & 7) << 8], high & 8 ? -0.125f : 0.125f,
                d * (float)(2 * scale + 1), y + 8 * i);
    }
}
