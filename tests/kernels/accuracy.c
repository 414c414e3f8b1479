/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How far kernels are from binary64, at every level: functions of one argument over a scan of all
 * f32 (QSAE_LONG_TESTS=1: every 257th; test_accuracy scan: all of them), norms, softmax, products
 * on the operands that the codec decodes. Seeds are printed, bounds are those of doc/numerics.md.
 */
#include <math.h>
#include <stdlib.h>

#include "../support.h"

#include "kernels/kernels.h"
#include "kernels/softmax.h"

#define MOST_ULP 4.0

static uint32_t scan_stride;

/* The distance of the f32 around x. */
static double ulp_of(double x)
{
    int exponent;
    frexp(x, &exponent);
    return ldexp(1, exponent < -125 ? -149 : exponent - 24);
}

/* |got - want| in units of the last place of want in f32. */
static double ulps(float got, double want)
{
    if ((double)got == want || (isnan(got) && isnan(want)))
        return 0;
    const float near = (float)want;
    if (isinf(near))
        return got == near ? 0 : INFINITY;
    if (!isfinite(got))
        return INFINITY;
    return fabs((double)got - want) / ulp_of(want);
}

/* --- functions of one argument ----------------------------------------------------------------*/

static double silu(double x)
{
    return x / (1 + exp(-x));
}

static double gelu(double x)
{
    return 0.5 * x * erfc(-x * M_SQRT1_2);
}

/* 0.5 x (1 + tanh u) without its cancellation: x / (1 + exp(-2 u)). */
static double gelu_tanh(double x)
{
    return x / (1 + exp(-2 * sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

static void run_exp(const qsae__ops *ops, const float *x, float *y, int64_t n)
{
    ops->exp(x, y, n);
}

static void run_tanh(const qsae__ops *ops, const float *x, float *y, int64_t n)
{
    ops->tanh(x, y, n);
}

static void run_erf(const qsae__ops *ops, const float *x, float *y, int64_t n)
{
    ops->erf(x, y, n);
}

static void run_silu(const qsae__ops *ops, const float *x, float *y, int64_t n)
{
    ops->silu(x, y, n);
}

static void run_gelu_tanh(const qsae__ops *ops, const float *x, float *y, int64_t n)
{
    ops->gelu_tanh(x, y, n);
}

static void run_gelu(const qsae__ops *ops, const float *x, float *y, int64_t n)
{
    ops->gelu(x, y, n);
}

static void run_gelu_new(const qsae__ops *ops, const float *x, float *y, int64_t n)
{
    ops->gelu_new(x, y, n, 0);
}

/* cancels: 1 + tanh and 1 + erf cancel for negative x, as in PyTorch, so that there the error is
 * measured in units of the last place of x, the size of what is multiplied by the sum. */
static const struct function {
    const char *name;
    void (*run)(const qsae__ops *ops, const float *x, float *y, int64_t n);
    double (*want)(double x);
    bool cancels;
} functions[] = {
    { "exp", run_exp, exp, false },
    { "tanh", run_tanh, tanh, false },
    { "erf", run_erf, erf, false },
    { "silu", run_silu, silu, false },
    { "gelu_tanh", run_gelu_tanh, gelu_tanh, true },
    { "gelu", run_gelu, gelu, true },
    { "gelu_new", run_gelu_new, gelu_tanh, true },
};
#define FUNCTIONS (sizeof functions / sizeof functions[0])

enum { PART = 1024 };

/* Bit patterns from `first` on; false behind the last. */
static bool fill(uint64_t *next, float *x)
{
    if (*next > UINT32_MAX)
        return false;
    for (int i = 0; i < PART; i++, *next += scan_stride) {
        const uint32_t bits = (uint32_t)(*next > UINT32_MAX ? 0 : *next);
        memcpy(&x[i], &bits, sizeof bits);
    }
    return true;
}

static void scan(const struct function *f, int levels)
{
    static float x[PART], y[5][PART];
    const qsae__ops *ops[5];
    double worst = 0, tail = 0;
    float at = 0, tail_at = 0;
    uint64_t next = scan_stride / 2, count = 0;
    for (int l = 0; l < levels; l++)
        ops[l] = qsae__ops_level(l);
    while (fill(&next, x)) {
        for (int l = 0; l < levels; l++)
            f->run(ops[l], x, y[l], PART);
        for (int i = 0; i < PART; i++) {
            const double want = f->want((double)x[i]);
            double e = ulps(y[0][i], want);
            if (isinf(x[i]) && x[i] < 0) /* -inf * 0 in some, a limit in others: test_ops_special */
                continue;
            if (f->run == run_silu && x[i] < -88) { /* exp(-x) overflows, as in PyTorch: -0 */
                assert_true(fabs((double)y[0][i] - want) < 0x1p-120);
                continue;
            }
            if (f->cancels && x[i] < 0 && e > 1) {
                const double of_x =
                    isinf(e) ? e : fabs((double)y[0][i] - want) / ulp_of((double)x[i]);
                if (of_x > tail)
                    tail_at = x[i], tail = of_x;
                continue;
            }
            if (e > worst)
                worst = e, at = x[i];
        }
        for (int l = 1; l < levels; l++)
            for (int i = 0; i < PART; i++)
                if (memcmp(&y[0][i], &y[l][i], sizeof(float)) != 0 &&
                    !(isnan(y[0][i]) && isnan(y[l][i])))
                    fail_msg("%s(%a): %a at c, %a at %s", f->name, (double)x[i],
                             (double)y[0][i], (double)y[l][i], level_name(l));
        count += PART;
    }
    print_message("%s: worst %.3f ulp at %a", f->name, worst, (double)at);
    if (f->cancels)
        print_message(", negative %.3f ulp of x at %a", tail, (double)tail_at);
    print_message("; %llu values, %d levels of equal bits\n", (unsigned long long)count, levels);
    assert_true(worst <= MOST_ULP);
    assert_true(tail <= MOST_ULP);
}

static int n_levels(void)
{
    int n = 0;
    while (level_name(n))
        n++;
    return n;
}

static void test_functions(void **state)
{
    (void)state;
    for (size_t i = 0; i < FUNCTIONS; i++)
        scan(&functions[i], n_levels());
}

/* --- norms and softmax ------------------------------------------------------------------------*/

/* Sums of rows are f32, as in PyTorch: what they lose grows with the row. */
enum { FEW = 1024, MOST = 4096 };

/* Rows as a residual stream has them: a few columns are large. */
static void make_row(uint32_t *seed, float *x, int n)
{
    for (int i = 0; i < n; i++)
        x[i] = next_float(seed) * (i % 61 == 7 ? 40.0f : 2.0f);
}

/* y against want, in ulp of `size[i]`, the sum of the magnitudes that make it. */
static double worst_of(const float *y, const double *want, const double *size, int n)
{
    double worst = 0;
    for (int i = 0; i < n; i++)
        worst = fmax(worst, fabs((double)y[i] - want[i]) / ulp_of(size[i]));
    return worst;
}

static void norms(const qsae__ops *ops, uint32_t *seed, int n, double *worst)
{
    static float x[MOST], w[MOST], b[MOST], y[MOST];
    static double want[MOST], size[MOST];
    double square = 0, mean = 0, variance = 0;
    make_row(seed, x, n);
    make_row(seed, w, n);
    make_row(seed, b, n);
    for (int i = 0; i < n; i++) {
        square += (double)x[i] * (double)x[i] / n;
        mean += (double)x[i] / n;
    }
    for (int i = 0; i < n; i++)
        variance += ((double)x[i] - mean) * ((double)x[i] - mean) / n;
    const double r = 1 / sqrt(square + (double)1e-6f), d = 1 / sqrt(variance + (double)1e-6f);
    const float fr = 1.0f / sqrtf(ops->sum_sq(x, n) / (float)n + 1e-6f);
    for (int i = 0; i < n; i++) {
        want[i] = (double)x[i] * r * (1 + (double)w[i]);
        size[i] = fabs((double)x[i]) * r * (1 + fabs((double)w[i]));
    }
    ops->norm_gemma(x, fr, w, y, n, 0);
    worst[0] = fmax(worst[0], worst_of(y, want, size, n));
    for (int i = 0; i < n; i++)
        size[i] = fabs(want[i] = (double)x[i] * r * (double)w[i]);
    ops->norm_llama(x, fr, w, y, n, 0);
    worst[1] = fmax(worst[1], worst_of(y, want, size, n));
    float fm, fv;
    ops->moments(x, n, &fm, &fv);
    for (int i = 0; i < n; i++) {
        want[i] = ((double)x[i] - mean) * d * (double)w[i] + (double)b[i];
        size[i] = (fabs((double)x[i]) + fabs(mean)) * d * fabs((double)w[i]) + fabs((double)b[i]);
    }
    ops->norm_layer(x, fm, 1.0f / sqrtf(fv + 1e-6f), w, b, y, n, 0);
    worst[2] = fmax(worst[2], worst_of(y, want, size, n));
}

/* worst[0]: with the differences x - max as f32 has them; worst[1]: with exact ones, of which
 * rounding alone moves an exponential by |x - max| / 2 ulp. */
static void softmax(const qsae__softmax *s, uint32_t *seed, int n, double *worst)
{
    static float x[MOST + 16], y[MOST + 16];
    double sum[2] = { 0 };
    for (int i = 0; i < n + 15; i++)
        x[i] = 12 * next_float(seed);
    qsae__softmax_row row = { .x = x, .n = n, .end = n, .scale = 1 };
    row.max = s->max(x, 1, n);
    const float total = s->f32(&row, y);
    for (int i = 0; i < n; i++) {
        sum[0] += exp((double)(x[i] - row.max));
        sum[1] += exp((double)x[i] - (double)row.max);
    }
    for (int i = 0; i < n; i++) {
        const float p = y[i] / total;
        worst[0] = fmax(worst[0], ulps(p, exp((double)(x[i] - row.max)) / sum[0]));
        worst[1] = fmax(worst[1], ulps(p, exp((double)x[i] - (double)row.max) / sum[1]));
    }
}

static void test_rows(void **state)
{
    const int rounds = full_length() ? 3000 : 30;
    (void)state;
    for (int l = 0; level_name(l); l++) {
        qsae_context *ctx = open_context(level_name(l), 1);
        uint32_t seed = 1234;
        double worst[2][5] = { { 0 } }; /* rows of up to FEW, longer ones */
        for (int round = 0; round < rounds; round++) {
            const int n = 1 + (int)(next_random(&seed) % (round % 2 ? FEW : MOST));
            norms(qsae__ops_get(ctx), &seed, n, worst[n > FEW]);
            softmax(qsae__softmax_get(ctx), &seed, n, worst[n > FEW] + 3);
        }
        for (int side = 0; side < 2; side++) {
            const double *const w = worst[side];
            print_message("level %s, seed 1234, rows of %s%d: RMSNorm %.2f (Gemma) %.2f (Llama), "
                          "LayerNorm %.2f, softmax %.2f (%.1f with exact differences) ulp\n",
                          level_name(l), side ? "up to " : "at most ", side ? MOST : FEW, w[0],
                          w[1], w[2], w[3], w[4]);
            for (int i = 0; i < 3; i++)
                assert_true(w[i] <= (side ? 1.5 * MOST_ULP : MOST_ULP));
            assert_true(w[3] <= (side ? 7 : 4.5)); /* a quotient, its sum in 16 lanes */
        }
        qsae_context_close(&ctx);
    }
}

/* --- products ---------------------------------------------------------------------------------*/

typedef struct product {
    int64_t m, n, k;
    float *x, *w, *decoded, *y; /* [m, k], [n, k], [n, k], [m, n] */
} product;

static qsae_rows rows_of(float *data, int64_t n, int64_t cols)
{
    return (qsae_rows){ .struct_size = sizeof(qsae_rows), .data = data, .n_rows = n,
                        .n_cols = cols, .row_stride = cols, .dtype = QSAE_F32 };
}

static float *floats(int64_t n, uint32_t *seed, float large, int64_t every)
{
    float *const x = malloc((size_t)n * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; seed && i < n; i++)
        x[i] = next_float(seed) * (i % every == 0 ? large : 1.0f);
    return x;
}

static void product_open(product *p, int64_t m, int64_t n, int64_t k, uint32_t seed)
{
    *p = (product){ .m = m, .n = n, .k = k };
    p->x = floats(m * k, &seed, 30, 17);
    p->w = floats(n * k, &seed, 5, 101);
    p->decoded = floats(n * k, NULL, 0, 1);
    p->y = floats(m * n, NULL, 0, 1);
}

static void product_close(product *p)
{
    free(p->x);
    free(p->w);
    free(p->decoded);
    free(p->y);
}

/* NMSE of y against x W^T in f64; *worst: largest error of an element over |a| |b|. */
static double product_error(const product *p, const float *w, double *worst)
{
    double error = 0, size = 0;
    *worst = 0;
    for (int64_t i = 0; i < p->m; i++)
        for (int64_t j = 0; j < p->n; j++) {
            const float *const a = p->x + i * p->k, *const b = w + j * p->k;
            double want = 0, aa = 0, bb = 0;
            for (int64_t t = 0; t < p->k; t++) {
                want += (double)a[t] * (double)b[t];
                aa += (double)a[t] * (double)a[t];
                bb += (double)b[t] * (double)b[t];
            }
            const double off = (double)p->y[i * p->n + j] - want;
            error += off * off;
            size += want * want;
            *worst = fmax(*worst, fabs(off) / sqrt(aa * bb));
        }
    return error / size;
}

/* y of a codec's linear layer; activations are rounded to dtype first, which p->x then holds. */
static void multiply(qsae_context *ctx, product *p, const char *spec, int32_t dtype)
{
    qsae_quantizer *z = NULL;
    qsae_qmatrix *q = NULL;
    const qsae_rows w = rows_of(p->w, p->n, p->k), x = rows_of(p->x, p->m, p->k);
    qsae_rows decoded = rows_of(p->decoded, p->n, p->k), y = rows_of(p->y, p->m, p->n);
    assert_ok(qsae_quantizer_open(ctx, spec, &z));
    assert_ok(qsae_quantizer_encode(z, &w, 0, 0, &q));
    assert_ok(qsae_qmatrix_decode(q, &decoded));
    assert_ok(qsae_qmatrix_linear(q, &x, NULL, dtype, &y));
    qsae_qmatrix_close(&q);
    qsae_quantizer_close(&z);
}

static void test_products(void **state)
{
    static const char *const specs[] = { "none", "none:weights=bf16", "nf4:compute=f32",
                                         "fp4:compute=f32", "rtn:bits=4,group=64", "ggml:q4_k",
                                         "ggml:q8_0", "ggml:q6_k" };
    static const int64_t shapes[][3] = { { 33, 70, 256 }, { 16, 40, 2304 }, { 5, 33, 9216 } };
    const int n_shapes = full_length() ? 3 : 2;
    (void)state;
    for (int l = 0; level_name(l); l++) {
        qsae_context *ctx = open_context(level_name(l), 2);
        double most = 0, furthest = 0;
        for (int s = 0; s < n_shapes; s++) {
            product p;
            product_open(&p, shapes[s][0], shapes[s][1], shapes[s][2], 900 + (uint32_t)s);
            for (size_t i = 0; i < sizeof specs / sizeof specs[0]; i++) {
                double worst;
                multiply(ctx, &p, specs[i], QSAE_F32);
                const double nmse = product_error(&p, p.decoded, &worst);
                if (!(nmse <= 1e-10 && worst <= 1e-6))
                    fail_msg("%s at %s, seed %d, k %lld: NMSE %g, worst %g |a| |b|", specs[i],
                             level_name(l), 900 + s, (long long)p.k, nmse, worst);
                most = fmax(most, nmse);
                furthest = fmax(furthest, worst);
            }
            product_close(&p);
        }
        print_message("level %s, seeds 900..: f32 products NMSE %.2g, worst %.2g |a| |b|\n",
                      level_name(l), most, furthest);
        qsae_context_close(&ctx);
    }
}

/* LLM.int8: the integer sum is exact, so a row of codes times decoded weights is off by rounding
 * only; what quantizing the activations costs is another figure, printed, not bounded by that. */
static void test_int8(void **state)
{
    enum { M = 20, N = 48, K = 1536 };
    (void)state;
    for (int l = 0; level_name(l); l++) {
        qsae_context *ctx = open_context(level_name(l), 2);
        product p;
        static int8_t codes[M * K];
        static float scales[M];
        double worst;
        uint32_t seed = 71;
        product_open(&p, M, N, K, 70);
        for (int64_t i = 0; i < M * K; i++) /* no outliers */
            p.x[i] = qsae__round_f16(3 * next_float(&seed));
        multiply(ctx, &p, "llm.int8:threshold=0", QSAE_F16);
        const double all = product_error(&p, p.decoded, &worst);
        const qsae_rows x = rows_of(p.x, M, K);
        assert_ok(qsae_int8_quantize(ctx, &x, 0, codes, scales, NULL));
        for (int64_t i = 0; i < M * K; i++)
            p.x[i] = (float)codes[i] * (scales[i / K] / 127.0f);
        const double sums = product_error(&p, p.decoded, &worst);
        print_message("level %s, seed 70: LLM.int8 NMSE %.3g on its own codes (results are f16), "
                      "%.3g with the activations' quantization\n", level_name(l), sums, all);
        assert_true(sums <= 1e-7 && all < 1e-3 && all > sums);
        product_close(&p);
        qsae_context_close(&ctx);
    }
}

int main(int argc, char **argv)
{
    const bool all = argc > 1 && strcmp(argv[1], "scan") == 0;
    scan_stride = all ? 1 : full_length() ? 257 : 65521;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_functions),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_products),
        cmocka_unit_test(test_int8),
    };
    return cmocka_run_group_tests_name("accuracy", tests, NULL, NULL);
}
