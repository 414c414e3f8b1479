/* SPDX-License-Identifier: BSD-2-Clause */
/* What the files behind ggml.h share. One block unless a count is given. */
#ifndef QSAE_KERNELS_GGML_PARTS_H
#define QSAE_KERNELS_GGML_PARTS_H

#include "kernels/ggml.h"
#include "kernels/kernels.h"

/* Elements of a super-block. */
#define QSAE__SUPER 256

/* Values of 4-bit codes: IQ4_NL and IQ4_XS; MXFP4 and NVFP4 (e2m1 twice as large). */
extern const int8_t qsae__iq4_values[16], qsae__e2m1_values[16];

/* The scales of MXFP4 and NVFP4, half as large for that. */
float qsae__e8m0_half(uint8_t e);
float qsae__ue4m3_half(uint8_t e);

/* Points of the grids, two or three bits a coordinate, the first lowest (gguf's tables). */
extern const uint16_t qsae__iq2xxs_grid[256], qsae__iq2xs_grid[512], qsae__iq2s_grid[1024],
    qsae__iq1_grid[2048], qsae__iq3xxs_grid[256], qsae__iq3s_grid[512];

static inline uint16_t qsae__get16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static inline uint32_t qsae__get32(const uint8_t *p)
{
    return qsae__get16(p) | (uint32_t)qsae__get16(p + 2) << 16;
}

static inline void qsae__put16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static inline float qsae__get_half(const uint8_t *p)
{
    return qsae__f16_to_f32(qsae__get16(p));
}

/* A scale of finite values that overflowed is NaN, whose sign is set on x86 and clear on ARM: here
 * it is set everywhere, as in what ggml writes on x86. */
static inline void qsae__put_half(uint8_t *p, float v)
{
#if defined(__x86_64__)
    const uint16_t sign = 0; /* the sign of a NaN among the values is kept, too */
#else
    const uint16_t sign = v != v ? 0x8000 : 0;
#endif
    qsae__put16(p, qsae__f32_to_f16(v) | sign);
}

/* Scale and minimum j of the eight pairs of six bits in Q4_K and Q5_K. */
static inline uint8_t qsae__k4_scale(const uint8_t *s, int j)
{
    return (uint8_t)(j < 4 ? s[j] & 63 : (s[j + 4] & 15) | s[j - 4] >> 6 << 4);
}

static inline uint8_t qsae__k4_min(const uint8_t *s, int j)
{
    return (uint8_t)(j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | s[j] >> 6 << 4);
}

/* Scale j of the sixteen of six bits in Q3_K, less 32. */
static inline int qsae__k3_scale(const uint8_t *s, int j)
{
    const int low = j < 8 ? s[j] & 15 : s[j - 8] >> 4;
    return (low | (s[8 + j % 4] >> 2 * (j / 4) & 3) << 4) - 32;
}

#endif
