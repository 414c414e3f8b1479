/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernels/half.h"
#include "kernels/packed_parts.h"

static void round_step(const float *x, uint8_t *dst)
{
    for (int i = 0; i < QSAE__STEP / 2; i++) {
        const uint16_t h = qsae__f32_to_bf16(x[i]);
        memcpy(dst + 2 * i, &h, sizeof h);
    }
}

static void split_step(const float *x, uint8_t *dst, int64_t part)
{
    for (int i = 0; i < QSAE__STEP / 2; i++) {
        const uint32_t u = qsae__f32_bits(x[i]), a = u & 0x7fffffffu;
        uint16_t h[3] = { (uint16_t)(u >> 16), 0, 0 };
        if (a > 0x7f800000u)
            h[0] |= 0x40;
        if (a < 0x7f800000u) { /* both differences are exact */
            const float r1 = x[i] - qsae__bf16_to_f32(h[0]);
            h[1] = (uint16_t)(qsae__f32_bits(r1) >> 16);
            h[2] = (uint16_t)(qsae__f32_bits(r1 - qsae__bf16_to_f32(h[1])) >> 16);
        }
        for (int p = 0; p < 3; p++)
            memcpy(dst + p * part + 2 * i, &h[p], sizeof h[p]);
    }
}

static void transpose_step(const uint8_t *w, int64_t ld, uint8_t *dst)
{
    for (int j = 0; j < 16; j++)
        for (int g = 0; g < QSAE__STEP / 4; g++)
            memcpy(dst + g * 4 * QSAE__COLUMNS + j * 4, w + j * ld + g * 4, 4);
}

static int32_t sum_codes(const int8_t *x, int64_t n)
{
    int32_t sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += x[i];
    return sum;
}

#define PACK_OPS qsae__pack_c
#include "kernels/pack_impl.h"
