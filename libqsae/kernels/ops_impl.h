/* SPDX-License-Identifier: BSD-2-Clause */
/* Body of ops.h at one level; OPS is the name of the table. See lanes.h. */
#include "kernels/lanes.h"

#define ELEMENTWISE(name, expression) \
    static void name(const float *src, float *dst, int64_t n) \
    { \
        int64_t i = 0; \
        for (; i + LANES <= n; i += LANES) { \
            const v16 x = v_load(src + i); \
            v_store(dst + i, (expression)); \
        } \
        if (i < n) { \
            const v16 x = v_load_part(src + i, n - i, 0.0f); \
            v_store_part(dst + i, (expression), n - i); \
        } \
    }

INLINE v16 v_gelu_tanh(v16 x)
{
    const v16 inner = 0.79788456080286541f * (x + 0.044715f * (x * x * x));
    return 0.5f * x * (1.0f + v_tanh(inner));
}

/* torch's GELU: two factors, 0.5 x and 1 + erf. */
INLINE v16 v_gelu(v16 x)
{
    return x * 0.5f * (1.0f + v_erf(x * 0.70710678118654752f));
}

/* x x, x^3, its multiple, sum, multiple, tanh, sum with 1, half of x and the product, each
 * rounded. */
INLINE v16 v_gelu_new_bf16(v16 x)
{
    const v16 cube = v_round_bf16(v_round_bf16(x * x) * x);
    const v16 sum = v_round_bf16(x + v_round_bf16(0.044715f * cube));
    const v16 t = v_round_bf16(v_tanh(v_round_bf16(0.79788456080286541f * sum)));
    return v_round_bf16(v_round_bf16(0.5f * x) * v_round_bf16(1.0f + t));
}

ELEMENTWISE(op_exp, v_exp(x))
ELEMENTWISE(op_tanh, v_tanh(x))
ELEMENTWISE(op_silu, x / (1.0f + v_exp(-x)))
ELEMENTWISE(op_gelu_tanh, v_gelu_tanh(x))
ELEMENTWISE(op_erf, v_erf(x))
ELEMENTWISE(op_gelu, v_gelu(x))
ELEMENTWISE(gelu_new_bf16, v_gelu_new_bf16(x))
ELEMENTWISE(op_round_copy, v_round_bf16(x))

static void op_gelu_new(const float *x, float *y, int64_t n, int32_t bf16)
{
    (bf16 ? gelu_new_bf16 : op_gelu_tanh)(x, y, n);
}

static void op_round_bf16(float *x, int64_t n)
{
    op_round_copy(x, x, n);
}

static void op_widen_bf16(const void *src, float *dst, int64_t n)
{
    const char *p = src;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        v_store(dst + i, v_load_bf16(p + 2 * i));
    for (; i < n; i++) {
        uint16_t h;
        memcpy(&h, p + 2 * i, sizeof h);
        dst[i] = qsae__bf16_to_f32(h);
    }
}

static float op_max(const float *x, int64_t n)
{
    v16 m = v_set(-__builtin_inff());
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const v16 v = v_load(x + i);
        m = v_select(v_less(m, v), v, m);
    }
    if (i < n) {
        const v16 v = v_load_part(x + i, n - i, -__builtin_inff());
        m = v_select(v_less(m, v), v, m);
    }
    float best = -__builtin_inff();
    for (int l = 0; l < LANES; l++)
        best = m[l] > best ? m[l] : best;
    return best;
}

static float op_exp_sum(const float *x, float m, float *y, int64_t n)
{
    v16 sum = v_set(0.0f);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const v16 e = v_exp(v_load(x + i) - m);
        v_store(y + i, e);
        sum += e;
    }
    if (i < n) {
        const v16 e = v_exp(v_load_part(x + i, n - i, -__builtin_inff()) - m);
        v_store_part(y + i, e, n - i);
        v16 t = v_set(0.0f); /* lanes beyond n: exp(-inf - m), NaN if m is -inf too */
        memcpy(&t, &e, (size_t)(n - i) * sizeof(float));
        sum += t;
    }
    return v_fold(sum);
}

static double op_sum_exp(const float *x, float m, int64_t n)
{
    d16 sum = { 0 };
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        sum += __builtin_convertvector(v_exp(v_load(x + i) - m), d16);
    if (i < n) {
        const v16 e = v_exp(v_load_part(x + i, n - i, -__builtin_inff()) - m);
        v16 t = v_set(0.0f);
        memcpy(&t, &e, (size_t)(n - i) * sizeof(float));
        sum += __builtin_convertvector(t, d16);
    }
    return d_fold(sum);
}

static double op_sum_exp_diff(const float *x, float m, const float *y, int64_t n)
{
    d16 sum = { 0 };
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const v16 a = v_load(x + i);
        const d16 e = __builtin_convertvector(v_exp(a - m), d16);
        const d16 d = __builtin_convertvector(a, d16) -
                      __builtin_convertvector(v_load(y + i), d16);
        sum += e * d;
    }
    if (i < n) {
        const v16 a = v_load_part(x + i, n - i, m), b = v_load_part(y + i, n - i, m);
        const d16 e = __builtin_convertvector(v_exp(a - m), d16);
        sum += e * (__builtin_convertvector(a, d16) - __builtin_convertvector(b, d16));
    }
    return d_fold(sum);
}

/*
 * The order of PyTorch's row sum (SumKernel.cpp, vectors of 8 lanes): four vectors side by side;
 * after 16 rounds their sums move up a level, after 256 another; then the four, the tail and the
 * lanes one by one. An RMSNorm with these bits keeps LLM.int8's activation codes where a reference
 * run has them.
 */
static float op_sum_sq(const float *x, int64_t n)
{
    v16 acc[4][2] = { 0 }; /* per level: vectors 0 and 1, vectors 2 and 3 */
    const int64_t vectors = n / 8, rounds = vectors / 4;
    for (int64_t i = 0; i < rounds;) {
        const v16 a = v_load(x + 32 * i), b = v_load(x + 32 * i + 16);
        acc[0][0] += a * a;
        acc[0][1] += b * b;
        i++;
        for (int level = 1; level < 4 && (i & ((1 << 4 * level) - 1)) == 0; level++)
            for (int k = 0; k < 2; k++) {
                acc[level][k] += acc[level - 1][k];
                acc[level - 1][k] = v_set(0.0f);
            }
    }
    for (int level = 1; level < 4; level++)
        for (int k = 0; k < 2; k++)
            acc[0][k] += acc[level][k];
    float part[4][8], sum = 0;
    memcpy(part, acc[0], sizeof part);
    for (int64_t i = 4 * rounds; i < vectors; i++)
        for (int l = 0; l < 8; l++)
            part[0][l] += x[i * 8 + l] * x[i * 8 + l];
    for (int k = 1; k < 4; k++)
        for (int l = 0; l < 8; l++)
            part[0][l] += part[k][l];
    for (int64_t i = vectors * 8; i < n; i++)
        sum += x[i] * x[i];
    for (int l = 0; l < 8; l++)
        sum += part[0][l];
    return sum;
}

/* y = f(x, z) over n; `expression` uses x and z. */
#define BINARY(name, params, expression) \
    static void name params \
    { \
        int64_t i = 0; \
        for (; i + LANES <= n; i += LANES) { \
            const v16 x = v_load(src + i), z = v_load(other + i); \
            v_store(dst + i, (expression)); \
        } \
        if (i < n) { \
            const v16 x = v_load_part(src + i, n - i, 0.0f), \
                      z = v_load_part(other + i, n - i, 0.0f); \
            v_store_part(dst + i, (expression), n - i); \
        } \
    }

#define P2 (const float *src, const float *other, float *dst, int64_t n)
#define PN (const float *src, float r, const float *other, float *dst, int64_t n)

BINARY(mul_f32, P2, x *z)
BINARY(mul_bf16, P2, v_round_bf16(x *z))
BINARY(add_f32, P2, x + z)
BINARY(add_bf16, P2, v_round_bf16(x + z))
BINARY(gemma_f32, PN, (x * r) * (1.0f + z))
BINARY(gemma_bf16, PN, v_round_bf16((x * r) * (1.0f + z)))
BINARY(llama_f32, PN, z *(x *r))
BINARY(llama_bf16, PN, v_round_bf16(z *v_round_bf16(x *r)))

static void op_mul(const float *x, const float *z, float *y, int64_t n, int32_t bf16)
{
    (bf16 ? mul_bf16 : mul_f32)(x, z, y, n);
}

static void op_add(const float *x, const float *z, float *y, int64_t n, int32_t bf16)
{
    (bf16 ? add_bf16 : add_f32)(x, z, y, n);
}

static void op_norm_gemma(const float *x, float r, const float *w, float *y, int64_t n,
                          int32_t bf16)
{
    (bf16 ? gemma_bf16 : gemma_f32)(x, r, w, y, n);
}

static void op_norm_llama(const float *x, float r, const float *w, float *y, int64_t n,
                          int32_t bf16)
{
    (bf16 ? llama_bf16 : llama_f32)(x, r, w, y, n);
}

static void op_moments(const float *x, int64_t n, float *mean, float *variance)
{
    d16 sum = { 0 }, square = { 0 };
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        sum += __builtin_convertvector(v_load(x + i), d16);
    if (i < n)
        sum += __builtin_convertvector(v_load_part(x + i, n - i, 0.0f), d16);
    const double m = d_fold(sum) / (double)n;
    for (i = 0; i + LANES <= n; i += LANES) {
        const d16 d = __builtin_convertvector(v_load(x + i), d16) - m;
        square += d * d;
    }
    double rest = 0;
    for (; i < n; i++)
        rest += ((double)x[i] - m) * ((double)x[i] - m);
    *mean = (float)m;
    *variance = (float)((d_fold(square) + rest) / (double)n);
}

static void op_norm_layer(const float *x, float mean, float r, const float *w, const float *b,
                          float *y, int64_t n, int32_t bf16)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const v16 out = (v_load(x + i) - mean) * r * v_load(w + i) + v_load(b + i);
        v_store(y + i, bf16 ? v_round_bf16(out) : out);
    }
    if (i < n) {
        const int64_t m = n - i;
        const v16 v = v_load_part(x + i, m, 0.0f), g = v_load_part(w + i, m, 0.0f);
        const v16 out = (v - mean) * r * g + v_load_part(b + i, m, 0.0f);
        v_store_part(y + i, bf16 ? v_round_bf16(out) : out, m);
    }
}

static void op_scale(const float *src, float s, float *dst, int64_t n)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        v_store(dst + i, v_load(src + i) * s);
    if (i < n)
        v_store_part(dst + i, v_load_part(src + i, n - i, 0.0f) * s, n - i);
}

/* One pair of vectors; in bf16 each product and the sum are rounded (models.md B.2). */
INLINE void rope_step(v16 a, v16 b, v16 c, v16 s, v16 *ya, v16 *yb, int32_t bf16)
{
    if (bf16) {
        *ya = v_round_bf16(v_round_bf16(a * c) + v_round_bf16(-b * s));
        *yb = v_round_bf16(v_round_bf16(b * c) + v_round_bf16(a * s));
    } else {
        *ya = a * c + (-b) * s;
        *yb = b * c + a * s;
    }
}

static void op_rope(const float *x, const float *c, const float *s, float *y, int64_t half,
                    int32_t bf16)
{
    int64_t i = 0;
    v16 ya, yb;
    for (; i + LANES <= half; i += LANES) {
        rope_step(v_load(x + i), v_load(x + half + i), v_load(c + i), v_load(s + i), &ya, &yb,
                  bf16);
        v_store(y + i, ya);
        v_store(y + half + i, yb);
    }
    if (i < half) {
        const int64_t n = half - i;
        rope_step(v_load_part(x + i, n, 0.0f), v_load_part(x + half + i, n, 0.0f),
                  v_load_part(c + i, n, 0.0f), v_load_part(s + i, n, 0.0f), &ya, &yb, bf16);
        v_store_part(y + i, ya, n);
        v_store_part(y + half + i, yb, n);
    }
}

const qsae__ops OPS = {
    .round_bf16 = op_round_bf16,
    .widen_bf16 = op_widen_bf16,
    .exp = op_exp,
    .tanh = op_tanh,
    .silu = op_silu,
    .gelu_tanh = op_gelu_tanh,
    .erf = op_erf,
    .gelu = op_gelu,
    .gelu_new = op_gelu_new,
    .max = op_max,
    .exp_sum = op_exp_sum,
    .sum_exp = op_sum_exp,
    .sum_exp_diff = op_sum_exp_diff,
    .sum_sq = op_sum_sq,
    .moments = op_moments,
    .scale = op_scale,
    .mul = op_mul,
    .add = op_add,
    .norm_gemma = op_norm_gemma,
    .norm_llama = op_norm_llama,
    .norm_layer = op_norm_layer,
    .rope = op_rope,
};
