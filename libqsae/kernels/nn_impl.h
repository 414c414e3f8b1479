/* SPDX-License-Identifier: BSD-2-Clause */
/* Body of nn.h at one level; OPS is the name of the table. See lanes.h. */
#include "kernels/lanes.h"

#define EXP_LOW (-87.3365478515625f)
#define EXP_HIGH 88.722839355468750f

/*
 * 2^s for s = x log2(e): with the fraction f of s, 2^f - 1 - f = -p(f), so s - p(f) scaled by 2^23
 * and biased is the result's bit pattern. In f32 that pattern is good to 64 units or so.
 */
INLINE v16 v_exp_coarse(v16 x)
{
    v16 c = v_select(v_less(x, v_set(EXP_LOW)), v_set(EXP_LOW), x);
    c = v_select(v_less(v_set(EXP_HIGH), c), v_set(EXP_HIGH), c);
    c = v_select(v_nan(x), v_set(0.0f), c);
    const v16 s = c * 1.44269502162933349609375f;
    const v16 whole = __builtin_convertvector(__builtin_convertvector(s, i16), v16);
    const v16 f = s - v_select(v_less(s, whole), whole - 1.0f, whole);
    v16 p = f * -0.079204240219773236f - 0.22433836478672356f;
    p = p * f + 0.30354260500649682f;
    p = p * f + 0.00010703434948458272f;
    const v16 bits = (s - p) * 8388608.0f + 1065353216.0f; /* 2^23, 127 * 2^23 */
    v16 y = (v16)__builtin_convertvector(bits, i16);
    y = v_select(v_less(x, v_set(EXP_LOW)), v_set(0.0f), y);
    y = v_select(v_less(v_set(EXP_HIGH), x), v_set(__builtin_inff()), y);
    return v_select(v_nan(x), x, y);
}

/*
 * exp good to about 20 units in the last place (PyTorch's exp_u20, Taylor-like polynomial of degree
 * 5 after x = n ln 2 + r with ln 2 in one part), 0 below EXP_LOW.
 */
INLINE v16 v_exp_u20(v16 x)
{
    v16 c = v_select(v_less(v_set(EXP_HIGH), x), v_set(EXP_HIGH), x);
    c = v_select(v_less(c, v_set(EXP_LOW)), v_set(EXP_LOW), c);
    c = v_select(v_nan(x), v_set(0.0f), c);
    const v16 s = v_fma(c, v_set(1.44269502162933349609375f), v_set(0.5f));
    const v16 whole = __builtin_convertvector(__builtin_convertvector(s, i16), v16);
    const v16 n = v_select(v_less(s, whole), whole - 1.0f, whole); /* floor */
    const v16 r = v_fma(-n, v_set(0.693147182464599609375f), c);
    v16 p = v_fma(r, v_set(0.00828929059f), v_set(0.0418978221f));
    p = v_fma(r, p, v_set(0.166676521f));
    p = v_fma(r, p, v_set(0.499991506f));
    p = v_fma(r, p, v_set(0.999999701f));
    p = v_fma(r, p, v_set(1.0f));
    const i16 k = __builtin_convertvector(n, i16);
    v16 y = p * (v16)((k + 126) << 23) * 2.0f; /* 2^128 itself would not fit the exponent */
    y = v_select(v_less(x, v_set(EXP_LOW)), v_set(0.0f), y);
    return v_select(v_nan(x), x, y);
}

/* y = exp(x - m), the first n_coarse (a multiple of 16) by `coarse`, and their sum. */
#define EXP_SUM(name, coarse) \
    static float name(const float *x, float m, float *y, int64_t n, int64_t n_coarse) \
    { \
        v16 sum = v_set(0.0f); \
        int64_t i = 0; \
        for (; i + LANES <= n; i += LANES) { \
            const v16 v = v_load(x + i) - m, e = i < n_coarse ? coarse(v) : v_exp(v); \
            v_store(y + i, e); \
            sum += e; \
        } \
        if (i < n) { \
            const v16 v = v_load_part(x + i, n - i, -__builtin_inff()) - m; \
            const v16 e = i < n_coarse ? coarse(v) : v_exp(v); \
            v_store_part(y + i, e, n - i); \
            v16 t = v_set(0.0f); \
            memcpy(&t, &e, (size_t)(n - i) * sizeof(float)); \
            sum += t; \
        } \
        return v_fold(sum); \
    }

EXP_SUM(nn_exp_sum_coarse, v_exp_coarse)
EXP_SUM(nn_exp_sum_u20, v_exp_u20)

const qsae__nn OPS = {
    .exp_sum_coarse = nn_exp_sum_coarse,
    .exp_sum_u20 = nn_exp_sum_u20,
};
