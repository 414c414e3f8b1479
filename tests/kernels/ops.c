/* SPDX-License-Identifier: BSD-2-Clause */
/* Vector operations: against double libm, equal bits at every level, in any lane and in tails. */
#include <math.h>
#include <stdlib.h>

#include "../support.h"
#include "kernels.h"

#include "kernels/kernels.h"

#define N 4099

static double ulp_error(float got, double want)
{
    if ((double)got == want)
        return 0;
    const float near = (float)want;
    const double spacing =
        fmax((double)(nextafterf(fabsf(near), INFINITY) - fabsf(near)), 0x1p-149);
    return fabs((double)got - want) / spacing;
}

static double gelu(double x)
{
    return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

static double silu(double x)
{
    return x / (1 + exp(-x));
}

void test_ops_accuracy(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 1);
    const qsae__ops *ops = qsae__ops_get(ctx);
    float x[N], y[N];
    uint32_t seed = 7;
    double worst_exp = 0, worst_tanh = 0, worst_silu = 0, worst_gelu = 0, worst_erf = 0;
    double worst_exact = 0;
    for (int round = 0; round < 200; round++) {
        const float scale = (float[]){ 0.001f, 0.1f, 1, 10, 87 }[round % 5];
        for (int i = 0; i < N; i++)
            x[i] = next_float(&seed) * scale;
        ops->exp(x, y, N);
        for (int i = 0; i < N; i++)
            worst_exp = fmax(worst_exp, ulp_error(y[i], exp((double)x[i])));
        ops->tanh(x, y, N);
        for (int i = 0; i < N; i++)
            worst_tanh = fmax(worst_tanh, ulp_error(y[i], tanh((double)x[i])));
        ops->erf(x, y, N);
        for (int i = 0; i < N; i++)
            worst_erf = fmax(worst_erf, ulp_error(y[i], erf((double)x[i])));
        ops->gelu(x, y, N);
        for (int i = 0; i < N; i++) { /* 1 + erf cancels as below */
            const double want = 0.5 * (double)x[i] * (1 + erf((double)x[i] * sqrt(0.5)));
            worst_exact = fmax(worst_exact, fmin(ulp_error(y[i], want),
                                                 fabs((double)y[i] - want) /
                                                     (0x1p-24 * fabs((double)x[i]) + 1e-300)));
        }
        ops->silu(x, y, N);
        for (int i = 0; i < N; i++)
            worst_silu = fmax(worst_silu, ulp_error(y[i], silu((double)x[i])));
        ops->gelu_tanh(x, y, N);
        for (int i = 0; i < N; i++) /* cancels in the far tail: bound relative to |x| as well */
            worst_gelu = fmax(worst_gelu, fmin(ulp_error(y[i], gelu((double)x[i])),
                                               fabs((double)y[i] - gelu((double)x[i])) /
                                                   (0x1p-24 * fabs((double)x[i]) + 1e-300)));
    }
    assert_true(worst_exp < 2);
    assert_true(worst_tanh < 2.5);
    assert_true(worst_erf < 2);
    assert_true(worst_exact < 4);
    assert_true(worst_silu < 4);
    assert_true(worst_gelu < 5);
    qsae_context_close(&ctx);
}

typedef void (*unary)(const float *, float *, int64_t);

/* Everything an operation table computes from x, z, w, into one buffer. */
static int64_t all_ops(const qsae__ops *ops, const float *x, const float *z, const float *w,
                       int64_t n, float *out)
{
    float *o = out;
    const unary list[] = { ops->exp, ops->tanh, ops->silu, ops->gelu_tanh, ops->erf, ops->gelu };
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++, o += n)
        list[i](x, o, n);
    for (int32_t bf16 = 0; bf16 < 2; bf16++) {
        ops->mul(x, z, o, n, bf16);
        ops->add(x, z, o + n, n, bf16);
        ops->norm_gemma(x, 0.37f, w, o + 2 * n, n, bf16);
        ops->norm_llama(x, 0.37f, w, o + 3 * n, n, bf16);
        ops->norm_layer(x, 0.3f, 1.7f, w, z, o + 4 * n, n, bf16);
        ops->gelu_new(x, o + 5 * n, n, bf16);
        o += 6 * n;
        if (n % 2 == 0) {
            ops->rope(x, z, w, o, n / 2, bf16);
            o += n;
        }
    }
    memcpy(o, x, sizeof *x * (size_t)n);
    ops->round_bf16(o, n);
    o += n;
    ops->scale(x, 1.7f, o, n);
    o += n;
    o[n] = ops->exp_sum(x, 1.5f, o, n);
    o += n + 1;
    *o++ = ops->max(x, n);
    *o++ = ops->sum_sq(x, n);
    if (n > 0)
        ops->moments(x, n, o, o + 1);
    else
        o[0] = o[1] = 0;
    o += 2;
    const double sums[2] = { ops->sum_exp(x, 1.5f, n), ops->sum_exp_diff(x, 1.5f, z, n) };
    memcpy(o, sums, sizeof sums);
    return o - out + 4;
}

void test_ops_levels(void **state)
{
    (void)state;
    enum { MOST = 133 };
    float x[MOST + 3], z[MOST + 3], w[MOST + 3], *first, *other;
    first = malloc(sizeof(float) * 32 * MOST);
    other = malloc(sizeof(float) * 32 * MOST);
    assert_true(first && other);
    uint32_t seed = 99;
    for (int64_t n = 0; n <= MOST; n++)
        for (int shift = 0; shift < 3; shift++) {
            for (int i = 0; i < MOST + 3; i++) {
                x[i] = next_float(&seed) * 5;
                z[i] = next_float(&seed);
                w[i] = next_float(&seed);
            }
            int64_t used = 0;
            for (int level = 0; level_name(level); level++) {
                qsae_context *ctx = open_context(level_name(level), 1);
                float *out = level ? other : first;
                memset(out, 0x5a, sizeof(float) * 32 * MOST);
                used = all_ops(qsae__ops_get(ctx), x + shift, z + shift, w + shift, n, out);
                assert_int_equal(((unsigned char *)(out + used))[0], 0x5a);
                assert_memory_equal(first, out, sizeof(float) * 32 * MOST);
                qsae_context_close(&ctx);
            }
            /* A lane has the bits it has alone. */
            float alone;
            qsae_context *ctx = open_context(NULL, 1);
            for (int64_t i = 0; i < n; i += 13) {
                qsae__ops_get(ctx)->gelu_tanh(x + shift + i, &alone, 1);
                assert_memory_equal(&alone, first + 3 * n + i, sizeof alone);
            }
            qsae_context_close(&ctx);
        }
    free(first);
    free(other);
}

/* LayerNorm's parts against binary64, and GPT-2's GELU in bf16. */
static void check_layer_norm(const qsae__ops *ops, uint32_t *seed)
{
    float x[133], mean, variance;
    for (int n = 1; n <= 133; n += 11) {
        double m = 0, v = 0;
        for (int i = 0; i < n; i++)
            x[i] = next_float(seed) + 100;
        for (int i = 0; i < n; i++)
            m += (double)x[i] / n;
        for (int i = 0; i < n; i++)
            v += ((double)x[i] - m) * ((double)x[i] - m) / n;
        ops->moments(x, n, &mean, &variance);
        assert_true(ulp_error(mean, m) < 0.51 && fabs((double)variance - v) <= 1e-6 * v + 1e-12);
    }
    const float in[] = { 1.2578125f, -0.76953125f, 3 };
    float out[3];
    ops->gelu_new(in, out, 3, 1);
    for (int i = 0; i < 3; i++) {
        const float rounded = qsae__bf16_to_f32(qsae__f32_to_bf16(out[i]));
        assert_true(out[i] == rounded && fabs((double)out[i] - gelu((double)in[i])) < 0.01);
    }
}

void test_ops_special(void **state)
{
    (void)state;
    for (int level = 0; level_name(level); level++) {
        qsae_context *ctx = open_context(level_name(level), 1);
        const qsae__ops *ops = qsae__ops_get(ctx);
        uint32_t seed = 5;
        check_layer_norm(ops, &seed);
        const float x[] = { -INFINITY, INFINITY, NAN, 0, -0.0f, 88.9f, -103.9f, -200, 200 };
        float y[9];
        ops->exp(x, y, 9);
        assert_true(y[0] == 0 && isinf(y[1]) && isnan(y[2]) && y[3] == 1 && y[4] == 1);
        assert_true(isinf(y[5]) && y[6] >= 0 && y[6] < 3e-45f && y[7] == 0 && isinf(y[8]));
        ops->erf(x, y, 9);
        assert_true(y[0] == -1 && y[1] == 1 && isnan(y[2]) && y[3] == 0 && signbit(y[4]));
        assert_true(y[7] == -1 && y[8] == 1);
        ops->tanh(x, y, 9);
        assert_true(y[0] == -1 && y[1] == 1 && isnan(y[2]) && y[3] == 0 && signbit(y[4]));
        ops->silu(x + 3, y, 6);
        assert_true(y[0] == 0 && y[5] == 200 && y[4] == -0.0f);
        const float pair[2] = { -INFINITY, -INFINITY };
        assert_true(ops->max(pair, 2) == -INFINITY);
        assert_true(ops->max(pair, 0) == -INFINITY);
        const float r[] = { 1.00390625f, 1.01171875f, -1.00390625f, NAN, INFINITY, 3.4e38f };
        float b[6];
        memcpy(b, r, sizeof r);
        ops->round_bf16(b, 6);
        assert_true(b[0] == 1 && b[1] == 1.015625f && b[2] == -1 && isnan(b[3]) && isinf(b[4]));
        assert_true(isinf(b[5]));
        qsae_context_close(&ctx);
    }
}

/* Every f16 and bf16 value survives; every midpoint goes to the even neighbour. */
void test_half(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x10000; h++) {
        const float f = qsae__f16_to_f32((uint16_t)h), b = qsae__bf16_to_f32((uint16_t)h);
        const bool nan16 = (h & 0x7fff) > 0x7c00, nanb = (h & 0x7fff) > 0x7f80;
        if (nan16)
            assert_true(isnan(f) && isnan(qsae__f16_to_f32(qsae__f32_to_f16(f))));
        else
            assert_int_equal(qsae__f32_to_f16(f), h);
        if (nanb)
            assert_true(isnan(b) && isnan(qsae__bf16_to_f32(qsae__f32_to_bf16(b))));
        else
            assert_int_equal(qsae__f32_to_bf16(b), h);
        if ((h & 0x7fff) < 0x7bff) {
            const float up = qsae__f16_to_f32((uint16_t)(h + 1)), mid = (f + up) / 2;
            assert_int_equal(qsae__f32_to_f16(mid), h & 1 ? h + 1 : h);
            assert_int_equal(qsae__f32_to_f16(nextafterf(mid, up)), h + 1);
            assert_int_equal(qsae__f32_to_f16(nextafterf(mid, f)), h);
        }
    }
    assert_true(qsae__f16_to_f32(0x3555) == 0.333251953125f);
    assert_true(qsae__f16_to_f32(0x0001) == 0x1p-24f);
    assert_int_equal(qsae__f32_to_f16(65519.99f), 0x7bff);
    assert_int_equal(qsae__f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(qsae__f32_to_bf16(0x1.01p0f), 0x3f80);
    assert_int_equal(qsae__f32_to_bf16(0x1.03p0f), 0x3f82);
}

void test_convert(void **state)
{
    (void)state;
    qsae_rows r = { sizeof r, NULL, 2, 3, 4, QSAE_F32, 0 };
    float data[8] = { 1, 2, 3, 4, 5, 6, 7, 8 }, back[8];
    unsigned char raw[65];
    const uint32_t all = 1u << QSAE_F32 | 1u << QSAE_BF16;
    for (const int32_t *t = (const int32_t[]){ QSAE_F32, QSAE_F16, QSAE_BF16, QSAE_F64, 0 }; *t;
         t++) {
        assert_true(qsae__from_f32(*t, data, 8, raw + 1)); /* odd addresses are fine */
        assert_true(qsae__to_f32(*t, raw + 1, 8, back));
        assert_memory_equal(data, back, sizeof data);
    }
    assert_false(qsae__to_f32(QSAE_F4, raw, 8, back));
    assert_fails(qsae__rows_check(&r, "rows x", all), QSAE_EINVAL, "rows x: data is NULL");
    r.data = data;
    assert_ok(qsae__rows_check(&r, "x", all));
    assert_true(qsae__rows_at(&r, 1) == data + 4);
    r.row_stride = 2;
    assert_fails(qsae__rows_check(&r, "x", all), QSAE_EINVAL, "stride 2");
    r.row_stride = INT64_MAX;
    assert_fails(qsae__rows_check(&r, "x", all), QSAE_EOVERFLOW, "do not fit");
    r.dtype = QSAE_F64;
    assert_fails(qsae__rows_check(&r, "x", all), QSAE_EINVAL, "F64");
    r.struct_size = 1;
    assert_fails(qsae__rows_check(&r, "x", all), QSAE_EINVAL, "struct_size");
    assert_fails(qsae__rows_check(NULL, "x", all), QSAE_EINVAL, "NULL");
}
