/* SPDX-License-Identifier: BSD-2-Clause */
/* Body of softmax.h at one level; OPS is the name of the table. See lanes.h. */
#include "kernels/lanes.h"
#include "kernels/packed.h"
#include "kernels/softmax.h"

#define EXP_LOW (-87.3365478515625f)

typedef uint16_t h16 __attribute__((vector_size(32)));

INLINE v16 v_floor(v16 x)
{
#if defined(__AVX512F__)
    return (v16)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
#else
    const v16 whole = __builtin_convertvector(__builtin_convertvector(x, i16), v16);
    return v_select(v_less(x, whole), whole - 1.0f, whole);
#endif
}

/* max(x, EXP_LOW); what NaN becomes does not matter but for conversions to integers. */
INLINE v16 v_above_low(v16 x)
{
    const v16 c = v_max(v_set(EXP_LOW), x);
#if defined(__AVX512F__)
    return c;
#else
    return v_select(v_nan(x), v_set(0.0f), c);
#endif
}

/* 0 where x < EXP_LOW, x where it is NaN, else y. */
INLINE v16 v_exp_ends(v16 x, v16 y)
{
#if defined(__AVX512F__)
    const __m512 v = (__m512)x;
    const __mmask16 keep = _mm512_cmp_ps_mask(v, _mm512_set1_ps(EXP_LOW), _CMP_NLT_UQ);
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    return (v16)_mm512_mask_mov_ps(_mm512_maskz_mov_ps(keep, (__m512)y), nan, v);
#else
    y = v_select(v_less(x, v_set(EXP_LOW)), v_set(0.0f), y);
    return v_select(v_nan(x), x, y);
#endif
}

/*
 * 2^s for s = x log2(e), x <= 0: with the fraction f of s, 2^f - 1 - f = -p(f), so s - p(f) scaled
 * by 2^23 and biased is the result's bit pattern. In f32 that pattern is good to 64 units or so.
 */
INLINE v16 v_exp_coarse(v16 x)
{
    const v16 s = v_above_low(x) * 1.44269502162933349609375f;
    const v16 f = s - v_floor(s);
    v16 p = f * -0.079204240219773236f - 0.22433836478672356f;
    p = p * f + 0.30354260500649682f;
    p = p * f + 0.00010703434948458272f;
    const v16 bits = (s - p) * 8388608.0f + 1065353216.0f; /* 2^23, 127 * 2^23 */
    return v_exp_ends(x, (v16)__builtin_convertvector(bits, i16));
}

/*
 * exp of x <= 0 good to about 20 units in the last place (PyTorch's exp_u20, Taylor-like polynomial
 * of degree 5 after x = n ln 2 + r with ln 2 in one part), 0 below EXP_LOW.
 */
INLINE v16 v_exp_u20(v16 x)
{
    const v16 c = v_above_low(x);
    const v16 n = v_floor(v_fma(c, v_set(1.44269502162933349609375f), v_set(0.5f)));
    const v16 r = v_fma(-n, v_set(0.693147182464599609375f), c);
    v16 p = v_fma(r, v_set(0.00828929059f), v_set(0.0418978221f));
    p = v_fma(r, p, v_set(0.166676521f));
    p = v_fma(r, p, v_set(0.499991506f));
    p = v_fma(r, p, v_set(0.999999701f));
    p = v_fma(r, p, v_set(1.0f));
    const i16 k = __builtin_convertvector(n, i16);
    return v_exp_ends(x, p * (v16)((k + 126) << 23) * 2.0f); /* 0 for n = -126 */
}

static float soft_max(const float *x, float scale, int64_t n)
{
    v16 m = v_set(-__builtin_inff());
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        m = v_max(v_load(x + i) * scale, m);
    if (i < n) {
        v16 rest = v_set(-__builtin_inff());
        const v16 v = v_load_part(x + i, n - i, 0.0f) * scale;
        memcpy(&rest, &v, (size_t)(n - i) * sizeof(float));
        m = v_max(rest, m);
    }
    return v_fold_max(m);
}

/* -1 in the lanes whose index i + lane lies in [begin, end). */
INLINE i16 v_inside(int64_t i, int64_t begin, int64_t end)
{
    const i16 lane = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };
    const int32_t b = (int32_t)qsae__max_i64(begin - i, 0);
    const int32_t e = (int32_t)qsae__min_i64(end - i, LANES);
    return ((lane - e) & (b - 1 - lane)) >> 31;
}

enum { TO_F32, TO_BF16, TO_STRIP };

INLINE v16 exp_part(const qsae__softmax_row *s, int64_t i, const int to)
{
    v16 v = v_load(s->x + i) * s->scale - s->max;
    if (i < s->begin || i + LANES > s->end)
        v = v_select(v_inside(i, s->begin, s->end), v, v_set(-__builtin_inff()));
    if (i >= s->n_coarse)
        return v_exp(v);
    return to == TO_F32 ? v_exp_u20(v) : v_exp_coarse(v);
}

INLINE float softmax(const qsae__softmax_row *s, float *y, uint8_t *strip, const int to)
{
    v16 sum = v_set(0.0f);
    for (int64_t i = 0; i < s->n; i += LANES) {
        v16 e = v_set(0.0f);
        if (i + LANES > s->begin && i < s->end) {
            e = exp_part(s, i, to);
            sum += e;
        }
        if (to == TO_STRIP) {
            const h16 h = __builtin_convertvector((u16v)v_round_bf16(e) >> 16, h16);
            memcpy(strip + i / 32 * QSAE__STRIP_STEP + i % 32 * 2, &h, sizeof h);
        } else {
            v_store(y + i, to == TO_BF16 ? v_round_bf16(e) : e);
        }
    }
    return v_fold(sum);
}

static float soft_bf16(const qsae__softmax_row *row, float *y)
{
    return softmax(row, y, NULL, TO_BF16);
}

static float soft_f32(const qsae__softmax_row *row, float *y)
{
    return softmax(row, y, NULL, TO_F32);
}

static float soft_strip(const qsae__softmax_row *row, uint8_t *strip)
{
    const float sum = softmax(row, NULL, strip, TO_STRIP);
    if ((row->n + 15) / 16 % 2) /* the second half of the last step */
        memset(strip + row->n / 32 * QSAE__STRIP_STEP + 32, 0, 32);
    return sum;
}

static void soft_pair(const float *even, const float *odd, int64_t n, uint8_t *panels,
                      int64_t panel)
{
    for (int64_t j = 0; j < n; j += LANES) {
        const int64_t w = qsae__min_i64(n - j, LANES);
        const v16 a = w == LANES ? v_load(even + j) : v_load_part(even + j, w, 0.0f);
        v16 b = v_set(0.0f);
        if (odd)
            b = w == LANES ? v_load(odd + j) : v_load_part(odd + j, w, 0.0f);
        const u16v u = (u16v)v_round_bf16(a) >> 16 | (u16v)v_round_bf16(b);
        memcpy(panels + j / 32 * panel + j % 32 * 4, &u, sizeof u);
    }
}

static void soft_finish(const float *x, float scale, float *y, int64_t n, int32_t bf16)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const v16 v = v_load(x + i) * scale;
        v_store(y + i, bf16 ? v_round_bf16(v) : v);
    }
    if (i < n) {
        const v16 v = v_load_part(x + i, n - i, 0.0f) * scale;
        v_store_part(y + i, bf16 ? v_round_bf16(v) : v, n - i);
    }
}

const qsae__softmax OPS = {
    .max = soft_max,
    .bf16 = soft_bf16,
    .strip = soft_strip,
    .f32 = soft_f32,
    .pair = soft_pair,
    .finish = soft_finish,
};
