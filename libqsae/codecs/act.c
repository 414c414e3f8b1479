/* SPDX-License-Identifier: BSD-2-Clause */
#include "codecs/act.h"

#include <float.h>
#include <math.h>

#include "kernels/half.h"
#include "kernels/requant.h"

/* Smallest scales: torch.finfo(dtype).eps where a plain one is 0, 1/8 where an E4M3 one is. */
#define TINY_E4M3 0.125f

static float rounded(int32_t dtype, float v)
{
    return dtype == QSAE_BF16 ? qsae__round_bf16(v) : dtype == QSAE_F16 ? qsae__round_f16(v) : v;
}

/* Keeps NaN. */
static float clamp(float v, float low, float high)
{
    return v < low ? low : v > high ? high : v;
}

/* Half to even, below 2^22. */
static float nearest(float v)
{
    return copysignf((fabsf(v) + 12582912.0f) - 12582912.0f, v);
}

static float to_e4m3(float v)
{
    const uint32_t u = qsae__f32_bits(v), a = u & 0x7fffffffu;
    if (a > 0x7f800000u)
        return v;
    /* Below 2^-6 steps of 2^-9, else three bits of mantissa. */
    const float small = (qsae__f32_from_bits(a) + 0x1.8p14f) - 0x1.8p14f;
    const uint32_t large = (a + 0x7ffffu + ((a >> 20) & 1u)) & ~0xfffffu;
    return copysignf(a < 0x3c800000u ? small : qsae__f32_from_bits(large), v);
}

/* What the values of a group are divided by and moved by. */
struct step {
    float scale, zero;
};

static float largest(const qsae__act *a)
{
    return a->type == QSAE__ACT_FP8 ? 448 : a->type == QSAE__ACT_FP4 ? 6
                                          : (float)(1 << (a->bits - 1)) - 1;
}

static float smallest(const qsae__act *a)
{
    return a->type == QSAE__ACT_INT ? -(float)(1 << (a->bits - 1)) : -largest(a);
}

static float tiny(int32_t dtype)
{
    return dtype == QSAE_BF16 ? 0x1p-7f : dtype == QSAE_F16 ? 0x1p-10f : FLT_EPSILON;
}

/*
 * The power of two next to the largest magnitude, whose mantissa is first rounded to one bit (half
 * up), less the exponent of the type's largest value; as a byte's exponent (OCP MX 6.3,
 * compressed_tensors' generate_mx_scales).
 */
static float power_scale(const qsae__act *a, int32_t dtype, float most)
{
    const int e = a->type == QSAE__ACT_FP8 ? 8 : 2;
    int exponent;
    if (most != most)
        return most;
    if (most == 0) {
        exponent = 0;
    } else if (most > FLT_MAX) {
        exponent = 255;
    } else if (dtype == QSAE_F16) { /* half of the last kept bit of a normal number */
        const uint16_t h = (uint16_t)((qsae__f32_to_f16(most) + 0x100u) & 0xfc00u);
        const float p = qsae__f16_to_f32(h);
        exponent = p == 0 ? 0 : p > FLT_MAX ? 255 : 127 + ilogbf(p) - e;
    } else {
        const float p = qsae__f32_from_bits((qsae__f32_bits(most) + 0x200000u) & 0xff800000u);
        exponent = p == 0 ? 0 : p > FLT_MAX ? 255 : 127 + ilogbf(p) - e;
    }
    exponent = exponent < 0 ? 0 : exponent > 255 ? 255 : exponent;
    return rounded(dtype, ldexpf(1, exponent - 127));
}

/* compressed_tensors' calculate_qparams for one group; low <= 0 <= high, or NaN. */
static struct step step_of(const qsae__act *a, int32_t dtype, float low, float high)
{
    const float top = largest(a), bottom = smallest(a);
    const float range = rounded(dtype, top - bottom);
    struct step s = { 0, 0 };
    if (!a->symmetric) {
        s.scale = rounded(dtype, rounded(dtype, high - low) / range);
        const float at = rounded(dtype, bottom - rounded(dtype, low / s.scale));
        s.zero = nearest(clamp(at, bottom, top));
        s.zero = s.zero != s.zero ? 0 : s.zero + 0.0f; /* an integer: no sign of zero */
        s.scale = s.scale == 0 ? tiny(dtype) : s.scale;
        return s;
    }
    const float most = -low > high ? -low : high;
    if (a->scales == QSAE__ACT_POWER) {
        s.scale = power_scale(a, dtype, most);
        if (s.scale == 0) /* below the dtype's range */
            s.scale = 1;
        return s;
    }
    s.scale = rounded(dtype, most / rounded(dtype, range / 2));
    if (a->scales == QSAE__ACT_E4M3) {
        s.scale = to_e4m3(clamp(a->global * s.scale, -448, 448));
        s.scale = (s.scale == 0 ? TINY_E4M3 : s.scale) / a->global;
        return s;
    }
    s.scale = s.scale == 0 ? tiny(dtype) : s.scale;
    return s;
}

static void apply(const qsae_context *ctx, const qsae__act *a, int32_t dtype, struct step s,
                  int64_t n, float *x)
{
    const qsae__requant r = {
        .type = a->type == QSAE__ACT_FP8 ? QSAE__REQUANT_E4M3
                : a->type == QSAE__ACT_FP4 ? QSAE__REQUANT_E2M1 : QSAE__REQUANT_INT,
        .arith = a->scales == QSAE__ACT_E4M3 ? QSAE_F32 : dtype,
        .dtype = dtype,
        /* A static symmetric scale has no zero point, whose addition would turn -0 into 0. */
        .moves = a->scope != QSAE__ACT_TENSOR || !a->symmetric,
        .scale = s.scale,
        .zero = s.zero,
        .low = smallest(a),
        .high = largest(a),
    };
    qsae__requant_get(ctx)->run(&r, n, x);
}

void qsae__act_row(const qsae_context *ctx, const qsae__act *a, int32_t dtype, int64_t n, float *x)
{
    if (a->scope == QSAE__ACT_TENSOR) {
        const struct step s = { rounded(dtype, a->scale), a->zero };
        apply(ctx, a, dtype, s, n, x);
        return;
    }
    const int64_t group = a->scope == QSAE__ACT_GROUP ? a->group : n;
    for (int64_t i = 0; i < n; i += group) {
        float low, high;
        qsae__requant_get(ctx)->range(x + i, group, &low, &high);
        apply(ctx, a, dtype, step_of(a, dtype, low, high), group, x + i);
    }
}

bool qsae__act_same(const qsae__act *a, const qsae__act *b)
{
    if (!a || !b)
        return a == b;
    return a->type == b->type && a->scope == b->scope && a->scales == b->scales &&
           a->bits == b->bits && a->symmetric == b->symmetric && a->group == b->group &&
           a->scale == b->scale && a->zero == b->zero && a->global == b->global;
}
