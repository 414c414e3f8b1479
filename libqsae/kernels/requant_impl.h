/* SPDX-License-Identifier: BSD-2-Clause */
/* Body of requant.h at one level; OPS is the name of the table. */
#include "kernels/half.h"
#include "kernels/lanes.h"

INLINE v16 rounded(v16 x, int32_t dtype)
{
    if (dtype == QSAE_BF16)
        return v_round_bf16(x);
    if (dtype == QSAE_F16)
        for (int i = 0; i < LANES; i++)
            x[i] = qsae__round_f16(x[i]);
    return x;
}

INLINE v16 magnitude(v16 x)
{
    return (v16)((u16v)x & 0x7fffffffu);
}

INLINE v16 with_sign(v16 a, v16 x)
{
    return (v16)((u16v)a | ((u16v)x & 0x80000000u));
}

/* Half to even, below 2^22. */
INLINE v16 nearest(v16 x)
{
    return with_sign((magnitude(x) + 12582912.0f) - 12582912.0f, x);
}

/* Below 2^-6 steps of 2^-9, else three bits of mantissa. */
INLINE v16 to_e4m3(v16 x)
{
    const v16 a = magnitude(x), small = (a + 0x1.8p14f) - 0x1.8p14f;
    const u16v u = (u16v)a, large = (u + 0x7ffffu + ((u >> 20) & 1u)) & ~0xfffffu;
    const v16 r = with_sign(v_select(v_less(a, v_set(0x1p-6f)), small, (v16)large), x);
    return v_select(v_nan(x), x, r);
}

/* step where a > t, or a >= t */
INLINE v16 above(v16 a, float t, bool equal, float step)
{
    const i16 m = equal ? ~v_less(a, v_set(t)) : v_less(v_set(t), a);
    return (v16)((i16)v_set(step) & m);
}

/* 0 0.5 1 1.5 2 3 4 6, ties to the even code. */
INLINE v16 to_e2m1(v16 x)
{
    const v16 a = magnitude(x);
    v16 r = above(a, 0.25f, false, 0.5f) + above(a, 0.75f, true, 0.5f);
    r += above(a, 1.25f, false, 0.5f) + above(a, 1.75f, true, 0.5f);
    r += above(a, 2.5f, false, 1) + above(a, 3.5f, true, 1) + above(a, 5, false, 2);
    return v_select(v_nan(x), x, with_sign(r, x));
}

/* type, arith, dtype are constants at every call. A code less an integer zero is exact in any of
 * the dtypes. */
INLINE v16 step(const qsae__requant *r, int type, int32_t arith, int32_t dtype, v16 x)
{
    const v16 scale = v_set(r->scale), zero = v_set(r->zero);
    const v16 low = v_set(r->low), high = v_set(r->high);
    v16 v = rounded(x / scale, arith);
    if (r->moves)
        v = rounded(v + zero, arith);
    v = v_select(v_less(v, low), low, v_select(v_less(high, v), high, v));
    v = type == QSAE__REQUANT_E4M3   ? to_e4m3(v)
        : type == QSAE__REQUANT_E2M1 ? to_e2m1(v) : nearest(v);
    v = rounded((v - zero) * scale, arith);
    return arith == dtype ? v : rounded(v, dtype);
}

INLINE void run_as(const qsae__requant *r, int type, int32_t arith, int32_t dtype, int64_t n,
                   float *x)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        v_store(x + i, step(r, type, arith, dtype, v_load(x + i)));
    if (i < n)
        v_store_part(x + i, step(r, type, arith, dtype, v_load_part(x + i, n - i, 0)), n - i);
}

INLINE void run_type(const qsae__requant *r, int type, int64_t n, float *x)
{
    if (r->dtype == QSAE_BF16 && r->arith == QSAE_BF16)
        run_as(r, type, QSAE_BF16, QSAE_BF16, n, x);
    else if (r->dtype == QSAE_BF16)
        run_as(r, type, QSAE_F32, QSAE_BF16, n, x);
    else if (r->dtype == QSAE_F32)
        run_as(r, type, QSAE_F32, QSAE_F32, n, x);
    else if (r->arith == QSAE_F16)
        run_as(r, type, QSAE_F16, QSAE_F16, n, x);
    else
        run_as(r, type, QSAE_F32, QSAE_F16, n, x);
}

static void run(const qsae__requant *r, int64_t n, float *x)
{
    if (r->type == QSAE__REQUANT_E4M3)
        run_type(r, QSAE__REQUANT_E4M3, n, x);
    else if (r->type == QSAE__REQUANT_E2M1)
        run_type(r, QSAE__REQUANT_E2M1, n, x);
    else
        run_type(r, QSAE__REQUANT_INT, n, x);
}

static void range(const float *x, int64_t n, float *low, float *high)
{
    v16 most = v_set(0), least = v_set(0); /* least: of the negated */
    i16 nan = { 0 };
    for (int64_t i = 0; i < n; i += LANES) {
        const v16 v = n - i < LANES ? v_load_part(x + i, n - i, 0) : v_load(x + i);
        most = v_max(v, most);
        least = v_max(-v, least);
        nan |= v_nan(v);
    }
    bool any = false;
    for (int i = 0; i < LANES; i++)
        any |= nan[i] != 0;
    *high = any ? NAN : v_fold_max(most);
    *low = any ? NAN : -v_fold_max(least);
}

/* A subnormal is a number of 2^-6 and up, less 2^-6. */
static void e4m3(const uint8_t *codes, int64_t n, float *dst)
{
    for (int64_t i = 0; i < n; i++) {
        const uint32_t c = codes[i], a = c & 0x7f;
        const uint32_t small = a < 8 ? 1 : 0, nan = a == 0x7f ? 0x7fc00000u : 0;
        const uint32_t number = ((a << 20) + 0x3c000000u + (small << 23)) | nan;
        const float v = qsae__f32_from_bits(number) - qsae__f32_from_bits(small * 0x3c800000u);
        dst[i] = qsae__f32_from_bits(qsae__f32_bits(v) | (c & 0x80) << 24);
    }
}

const qsae__requant_ops OPS = { .range = range, .run = run, .e4m3 = e4m3 };
