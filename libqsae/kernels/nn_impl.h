/* SPDX-License-Identifier: BSD-2-Clause */
/* Body of nn.h at one level; OPS is the name of the table. See lanes.h. */
#include "kernels/lanes.h"

#define UNIT (4 * LANES)

/* Vectors worked on side by side: as many as registers and latencies ask for. */
#if defined(__AVX512F__)
#define ABREAST 4
#else
#define ABREAST 1
#endif

/*
 * x <- exp(x) for sums, x in [-86, 0]: x = n ln 2 + r as in v_exp, then the polynomial of degree 6
 * whose relative error is least (3.6e-9) among those that start 1 + r; n is added to the exponent's
 * bits.
 */
INLINE void exp_terms(v16 *x, const int count)
{
    static const float c[] = { 0.00836874545f, 0.041668389f, 0.166665211f, 0.49999994f, 1, 1 };
    const v16 magic = v_set(12582912.0f);
    v16 t[4], n[4], p[4];
    for (int k = 0; k < count; k++)
        t[k] = v_fma(x[k], v_set(1.44269504088896341f), magic);
    for (int k = 0; k < count; k++)
        n[k] = t[k] - magic;
    for (int k = 0; k < count; k++)
        x[k] = v_fma(n[k], v_set(-0.693145751953125f), x[k]);
    for (int k = 0; k < count; k++)
        x[k] = v_fma(n[k], v_set(-1.428606765330187045e-06f), x[k]);
    for (int k = 0; k < count; k++)
        p[k] = v_set(0.00138145406f);
    for (int i = 0; i < 6; i++)
        for (int k = 0; k < count; k++)
            p[k] = v_fma(p[k], x[k], v_set(c[i]));
    for (int k = 0; k < count; k++)
        x[k] = (v16)((u16v)p[k] + ((u16v)t[k] << 23));
}

/* Sums of squares overflow from here on; NaN never compares below. */
#define SQUARES 3.0e38f

/* Accumulators of two v16 in registers of the level's width: gcc 12 keeps wider ones in memory. */
#define MAX_PARTS (128 / NATIVE)

static float nn_logit_max(const float *x, int64_t n, int32_t *tame)
{
    vn m[MAX_PARTS], s[MAX_PARTS];
    v16 most[2], square[2];
    int64_t i = 0;
    for (int k = 0; k < MAX_PARTS; k++) {
        s[k] = (vn){ 0 };
        m[k] = s[k] - __builtin_inff();
    }
    for (; i + 2 * LANES <= n; i += 2 * LANES)
        for (int k = 0; k < MAX_PARTS; k++) {
            vn a;
            memcpy(&a, x + i + k * (NATIVE / 4), sizeof a);
            m[k] = n_max(a, m[k]);
            s[k] += a * a;
        }
    memcpy(most, m, sizeof most);
    memcpy(square, s, sizeof square);
    for (; i < n; i += LANES) {
        const v16 a = v_load_part(x + i, n - i < LANES ? n - i : LANES, x[i]);
        most[0] = v_max(a, most[0]);
        square[0] += a * a;
    }
    *tame = v_fold(square[0] + square[1]) < SQUARES;
    return v_fold_max(v_max(most[0], most[1]));
}

/* exp(max(x - m, -86)) of count vectors, x rounded before. */
INLINE void logit_terms(v16 *x, v16 *e, float m, const int bf16, const int count)
{
    for (int k = 0; k < count; k++) {
        if (bf16)
            x[k] = v_round_bf16_number(x[k]);
        e[k] = v_max(x[k] - m, v_set(-86.0f));
    }
    exp_terms(e, count);
}

/* exp(x - m) (x - m), the argument as logit_terms has it. */
INLINE v16 over_term(v16 x, v16 t, float m)
{
    return t * v_max(x - m, v_set(-86.0f));
}

INLINE double logit_sum(float *x, float m, int64_t n, float *e, double *over, const int bf16,
                        const int keep, const int both)
{
    d_lanes sum = { { { 0 } } }, more = { { { 0 } } };
    int64_t i = 0;
    for (; i + UNIT <= n; i += UNIT) {
        v16 v[4], t[4];
        for (int k = 0; k < 4; k++)
            v[k] = v_load(x + i + k * LANES);
        for (int k = 0; k < 4; k += ABREAST)
            logit_terms(v + k, t + k, m, bf16, ABREAST);
        for (int k = 0; k < 4; k++) {
            if (bf16)
                v_store(x + i + k * LANES, v[k]);
            if (keep)
                v_store(e + i + k * LANES, t[k]);
        }
        d_add(&sum, (t[0] + t[1]) + (t[2] + t[3]));
        for (int k = 0; k < 4 && both; k++)
            v[k] = over_term(v[k], t[k], m);
        if (both)
            d_add(&more, (v[0] + v[1]) + (v[2] + v[3]));
    }
    for (; i < n; i += LANES) {
        const int64_t w = n - i < LANES ? n - i : LANES;
        v16 v = v_load_part(x + i, w, m), t, rest = v_set(0.0f);
        logit_terms(&v, &t, m, bf16, 1);
        if (bf16)
            v_store_part(x + i, v, w);
        if (keep)
            v_store_part(e + i, t, w);
        memcpy(&rest, &t, (size_t)w * sizeof(float));
        d_add(&sum, rest);
        if (both)
            d_add(&more, over_term(v, rest, m));
    }
    if (both)
        *over = d_fold_lanes(more);
    return d_fold_lanes(sum);
}

static double nn_logit_sum(float *x, float m, int64_t n, int32_t bf16, float *e)
{
    if (bf16)
        return e ? logit_sum(x, m, n, e, NULL, 1, 1, 0) : logit_sum(x, m, n, e, NULL, 1, 0, 0);
    return e ? logit_sum(x, m, n, e, NULL, 0, 1, 0) : logit_sum(x, m, n, e, NULL, 0, 0, 0);
}

static double nn_logit_sums(float *x, float m, int64_t n, int32_t bf16, float *e, double *over)
{
    if (bf16)
        return e ? logit_sum(x, m, n, e, over, 1, 1, 1) : logit_sum(x, m, n, e, over, 1, 0, 1);
    return e ? logit_sum(x, m, n, e, over, 0, 1, 1) : logit_sum(x, m, n, e, over, 0, 0, 1);
}

static double nn_logit_diff(const float *e, const float *x, const float *y, int64_t n)
{
    d_lanes sum = { { { 0 } } };
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        d_add_product(&sum, v_load(e + i), v_load(x + i) - v_load(y + i));
    if (i < n) {
        const v16 d = v_load_part(x + i, n - i, 0.0f) - v_load_part(y + i, n - i, 0.0f);
        d_add_product(&sum, v_load_part(e + i, n - i, 0.0f), d);
    }
    return d_fold_lanes(sum);
}

static int64_t nn_find(const float *x, float value, int64_t n)
{
    const v16 v = v_set(value);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const uint32_t bits = v_equal_bits(v_load(x + i), v);
        if (bits)
            return i + __builtin_ctz(bits);
    }
    while (i < n && !(x[i] == value))
        i++;
    return i;
}

const qsae__nn OPS = {
    .logit_max = nn_logit_max,
    .logit_sum = nn_logit_sum,
    .logit_sums = nn_logit_sums,
    .logit_diff = nn_logit_diff,
    .find = nn_find,
};
