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

static float nn_exp_sum_coarse(const float *x, float m, float *y, int64_t n, int64_t n_coarse)
{
    v16 sum = v_set(0.0f);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const v16 v = v_load(x + i) - m, e = i < n_coarse ? v_exp_coarse(v) : v_exp(v);
        v_store(y + i, e);
        sum += e;
    }
    if (i < n) {
        const v16 v = v_load_part(x + i, n - i, -__builtin_inff()) - m;
        const v16 e = i < n_coarse ? v_exp_coarse(v) : v_exp(v);
        v_store_part(y + i, e, n - i);
        v16 t = v_set(0.0f);
        memcpy(&t, &e, (size_t)(n - i) * sizeof(float));
        sum += t;
    }
    return v_fold(sum);
}

const qsae__nn OPS = {
    .exp_sum_coarse = nn_exp_sum_coarse,
};
