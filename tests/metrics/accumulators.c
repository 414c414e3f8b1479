/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Means and variances of long streams against whole numbers, and one row that is not finite among
 * many. QSAE_LONG_TESTS=1: 10^7 and 10^6 rows; else 10^5 and 2 * 10^4.
 */
#include "metrics_test.h"

#include "metrics/llama.h"
#include "metrics/mass.h"

/* ---- means and variances ---- */

/*
 * Values centre + k UNIT with whole k, sum of three 14-bit numbers, whose standard deviation is 1:
 * exact in f32 below 2048, and so are the sums of k and k^2 in 64 bits.
 */
#define UNIT 0x1p-13
#define WIDTH 3    /* of rows */
#define CHUNK 5000 /* rows of an update: leaves and batches are cut in all places */

typedef struct exact {
    int64_t n, sum, squares;
} exact;

static int64_t draw(uint32_t *s)
{
    return (int64_t)(next_random(s) >> 18) + (next_random(s) >> 18) + (next_random(s) >> 18) -
           (3 << 13);
}

static float value(exact *e, double centre, int64_t k)
{
    const double v = centre + (double)k * UNIT;
    e->n++;
    e->sum += k;
    e->squares += k * k;
    assert_true((double)(float)v == v);
    return (float)v;
}

static double mean_of(const exact *e, double centre)
{
    return (double)((long double)centre + (long double)e->sum / (long double)e->n * UNIT);
}

/* sum (x - mean)^2 */
static double m2_of(const exact *e)
{
    const long double sum = (long double)e->sum, n = (long double)e->n;
    return (double)(((long double)e->squares - sum * sum / n) * (UNIT * UNIT));
}

static int64_t stream_length(void)
{
    return full_length() ? 10000000 : 100000;
}

static double worst_error; /* relative, of one test */

static void near(const char *what, double ratio, double found, double wanted)
{
    const double error = fabs(found - wanted) / fabs(wanted);
    worst_error = fmax(worst_error, error);
    if (!(error <= 1e-12))
        fail_msg("mean/sd %g: %s: expected %.17g, found %.17g, relative error %.1e", ratio, what,
                 wanted, found, error);
}

static qsae_metric_settings lean(void)
{
    qsae_metric_settings s = test_settings();
    s.memory = (uint64_t)64 << 10; /* no samples of single rows to speak of */
    return s;
}

/* Cross-entropy, rise of the loss and KL, all of the same values. */
static void test_scalars(void **state)
{
    static const double centres[] = { 1, 10, 100, 1000 };
    qsae_context *ctx = open_context(NULL, 2);
    const qsae_metric_settings s = lean();
    const int64_t n = stream_length();
    static float x[CHUNK], zero[CHUNK];
    (void)state;
    worst_error = 0;
    for (size_t c = 0; c < sizeof centres / sizeof centres[0]; c++) {
        uint32_t seed = 15 + (uint32_t)c;
        const double centre = centres[c];
        exact e = { 0 };
        qsae_metric *ce = open_kind(ctx, 0, &s), *divergence = open_kind(ctx, 1, &s);
        for (int64_t at = 0; at < n; at += CHUNK) {
            const qsae_divergence_rows d = { .struct_size = sizeof d, .n = CHUNK, .nll_r = zero,
                                             .nll_q = x, .kl = x };
            for (int64_t i = 0; i < CHUNK; i++)
                x[i] = value(&e, centre, draw(&seed));
            assert_ok(qsae_metric_update_cross_entropy(ce, NULL, CHUNK, x));
            assert_ok(qsae_metric_update_divergence(divergence, NULL, &d));
        }
        const double mean = mean_of(&e, centre), m2 = m2_of(&e), rows_n = (double)e.n;
        const double se2 = m2 / rows_n / (rows_n - 1);
        const struct {
            qsae_metric *m;
            const char *mean, *se;
        } list[] = { { ce, "ce", "ce_se" }, { divergence, "dce", "dce_se" },
                     { divergence, "kl_mean", "kl_se" } };
        for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
            const double se = result(list[i].m, list[i].se);
            near(list[i].mean, centre, result(list[i].m, list[i].mean), mean);
            near(list[i].se, centre, se * se, se2);
        }
        assert_true(result(ce, "predicted") == rows_n);
        qsae_metric_close(&ce);
        qsae_metric_close(&divergence);
    }
    print_message("scalars: %lld rows, largest relative error %.1e\n", (long long)n, worst_error);
    qsae_context_close(&ctx);
}

/* rows[i] = base[i] + shift + noise, noise of at most `bits` bits in units; e: per column the noise,
 * squares: of all of it together with the shift, if it is wanted. */
static void shifted(const float *base, float *out, double shift, uint32_t bits, uint32_t *seed,
                    exact *e, int64_t *squares)
{
    for (int64_t i = 0; i < CHUNK * WIDTH; i++) {
        const int64_t k = (int64_t)(next_random(seed) >> (32 - bits));
        const int64_t whole = k + (int64_t)(shift / UNIT);
        const double v = (double)base[i] + shift + (double)k * UNIT;
        out[i] = (float)v;
        assert_true((double)out[i] == v);
        e[i % WIDTH].n++;
        e[i % WIDTH].sum += k;
        e[i % WIDTH].squares += k * k;
        if (squares)
            *squares += whole * whole;
    }
}

static double m2_of_all(const exact e[WIDTH])
{
    double sum = 0;
    for (int i = 0; i < WIDTH; i++)
        sum += m2_of(&e[i]);
    return sum;
}

/* FVU with one mean per dimension and one for all; drift and residual about their means. */
static void test_rows(void **state)
{
    static const double centres[] = { 1, 30, 1000 };
    static float x_r[CHUNK * WIDTH], x_q[CHUNK * WIDTH], y_r[CHUNK * WIDTH], y_q[CHUNK * WIDTH];
    qsae_context *ctx = open_context(NULL, 2);
    const qsae_metric_settings s = lean();
    const int64_t n = stream_length();
    (void)state;
    worst_error = 0;
    for (size_t c = 0; c < sizeof centres / sizeof centres[0]; c++) {
        uint32_t seed = 77 + (uint32_t)c;
        const double centre = centres[c];
        exact x[WIDTH] = { { 0 } }, residual[WIDTH] = { { 0 } }, delta[WIDTH] = { { 0 } },
              residual_q[WIDTH] = { { 0 } }, all = { 0 };
        int64_t sse = 0;
        qsae_metric *fvu = NULL, *drift = NULL;
        assert_ok(qsae_metric_open_reconstruction(ctx, WIDTH, 0, &s, &fvu));
        assert_ok(qsae_metric_open_drift(ctx, WIDTH, &s, &drift));
        for (int64_t at = 0; at < n; at += CHUNK) {
            const qsae_rows rows_of[] = {
                { sizeof(qsae_rows), x_r, CHUNK, WIDTH, WIDTH, QSAE_F32, 0 },
                { sizeof(qsae_rows), y_r, CHUNK, WIDTH, WIDTH, QSAE_F32, 0 },
                { sizeof(qsae_rows), x_q, CHUNK, WIDTH, WIDTH, QSAE_F32, 0 },
                { sizeof(qsae_rows), y_q, CHUNK, WIDTH, WIDTH, QSAE_F32, 0 },
            };
            for (int64_t i = 0; i < CHUNK * WIDTH; i++) {
                const int64_t k = draw(&seed);
                x_r[i] = value(&x[i % WIDTH], centre, k);
                (void)value(&all, centre, k);
            }
            shifted(x_r, y_r, 0, 8, &seed, residual, &sse);
            shifted(x_r, x_q, centre, 15, &seed, delta, NULL);
            shifted(x_r, y_q, 0, 9, &seed, residual_q, NULL);
            assert_ok(qsae_metric_update_reconstruction(fvu, NULL, &rows_of[0], &rows_of[1], NULL));
            assert_ok(qsae_metric_update_drift(drift, NULL, &rows_of[0], &rows_of[2], &rows_of[1],
                                               &rows_of[3]));
        }
        const double p = result(drift, "P_centered");
        near("fvu_dim", centre, result(fvu, "fvu_dim"), (double)sse * UNIT * UNIT / m2_of_all(x));
        near("fvu_scalar", centre, result(fvu, "fvu_scalar"),
             (double)sse * UNIT * UNIT / m2_of(&all));
        near("fvu_centered_residual", centre, result(fvu, "fvu_centered_residual"),
             m2_of_all(residual) / m2_of_all(x));
        near("P_centered", centre, p * p, m2_of_all(delta) / m2_of_all(x));
        qsae_metric_close(&fvu);
        qsae_metric_close(&drift);
    }
    print_message("rows: %lld rows of %d, largest relative error %.1e\n", (long long)n, WIDTH,
                  worst_error);
    qsae_context_close(&ctx);
}

/* ---- one row that is not finite ---- */

/* Where it can stand, per kind. */
static const struct bad_value {
    int kind;
    float *at; /* of `rows`, [N, width] */
    int64_t width;
    float bad;
} bad_values[] = {
    { 0, rows.nll_r, 1, INFINITY },  { 1, rows.nll_r, 1, -INFINITY }, { 1, rows.nll_q, 1, NAN },
    { 1, rows.nll_q, 1, INFINITY },  { 1, rows.kl, 1, NAN },          { 1, rows.kl, 1, -INFINITY },
    { 2, rows.x_r, D, NAN },         { 2, rows.x_r, D, INFINITY },    { 2, rows.y_r, D, NAN },
    { 2, rows.value_r, 0, NAN },     { 3, rows.value_r, 0, NAN },
    { 3, rows.value_q, 0, -INFINITY },
    { 4, rows.x_r, D, NAN },         { 4, rows.x_q, D, INFINITY },    { 4, rows.y_r, D, NAN },
    { 4, rows.y_q, D, NAN },
};

/* Element of row r that becomes bad: the last of its width, or its first sparse entry. */
static int64_t element(const struct bad_value *b, int64_t r)
{
    if (b->width)
        return r * b->width + b->width - 1;
    return b->at == rows.value_r ? rows.ptr_r[r] : rows.ptr_q[r];
}

/* `repeats` times all rows; row `bad` of repeat `when` is not finite, or masked instead. */
static qsae_metric *fed(qsae_context *ctx, const struct bad_value *b, int64_t repeats,
                        int64_t when, int64_t bad, bool masked)
{
    const qsae_metric_settings s = test_settings();
    qsae_metric *m = open_kind(ctx, b->kind, &s);
    float *const at = b->at + element(b, bad);
    for (int64_t i = 0; i < repeats; i++) {
        const float good = *at;
        const uint8_t mask = rows.mask[bad];
        if (i == when && masked)
            rows.mask[bad] |= QSAE_MASK_EXCLUDED;
        else if (i == when)
            *at = b->bad;
        assert_ok(feed(m, 0, N, i * N));
        *at = good;
        rows.mask[bad] = mask;
    }
    return m;
}

static void test_one_bad_row(void **state)
{
    qsae_context *ctx = open_context(NULL, 2);
    const int64_t repeats = full_length() ? 301 : 4;
    int64_t bad = 1234;
    (void)state;
    make_rows(3);
    while (isnan(rows.nll_r[bad]) || (rows.mask[bad] & QSAE_MASK_EXCLUDED) ||
           rows.ptr_r[bad] == rows.ptr_r[bad + 1] || rows.ptr_q[bad] == rows.ptr_q[bad + 1])
        bad++;
    for (size_t i = 0; i < sizeof bad_values / sizeof bad_values[0]; i++) {
        const struct bad_value *const b = &bad_values[i];
        qsae_metric *m = fed(ctx, b, repeats, repeats / 2, bad, false),
                    *want = fed(ctx, b, repeats, repeats / 2, bad, true);
        assert_true(result(m, "nonfinite_rows") == 1 && result(want, "nonfinite_rows") == 0);
        assert_true(result(m, "excluded_tokens") + 1 == result(want, "excluded_tokens"));
        for (int32_t k = 0; k < qsae_metric_count(m); k++) {
            qsae_value v = { .struct_size = sizeof v }, w = v;
            assert_ok(qsae_metric_value(m, k, &v));
            assert_ok(qsae_metric_value(want, k, &w));
            if (strcmp(v.name, "nonfinite_rows") == 0 || strcmp(v.name, "excluded_tokens") == 0)
                continue;
            if (memcmp(&v, &w, sizeof v) != 0)
                fail_msg("%s, value %zu: %s: %.17g, without the row %.17g", kind_names[b->kind], i,
                         v.name, v.value, w.value);
        }
        qsae_metric_close(&m);
        qsae_metric_close(&want);
    }
    print_message("one bad row of %lld: %zu places\n", (long long)(repeats * N),
                  sizeof bad_values / sizeof bad_values[0]);
    qsae_context_close(&ctx);
}

/* The same of what has no public update. */
static void test_one_bad_row_inside(void **state)
{
    enum { TOKENS = 1000 };
    static qsae__llama_token tokens[TOKENS];
    static const int64_t indptr[] = { 0, 1, 2, 3 };
    static const int32_t indices[] = { 0, 1, 0 };
    const float values[] = { 2, NAN, 0.5f };
    const qsae_sparse_rows acts = { sizeof acts, 3, indptr, indices, values };
    const qsae_metric_settings s = test_settings();
    qsae_context *ctx = open_context(NULL, 1);
    qsae_metric *bad = NULL, *skipped = NULL, *mass = NULL;
    double sums[2], found, wanted;
    uint32_t seed = 5;
    (void)state;
    for (int i = 0; i < TOKENS; i++)
        tokens[i] = (qsae__llama_token){ .kl = 1 + (double)next_float(&seed),
                                         .nll = 2 + next_float(&seed), .nll_base = 2,
                                         .dp = next_float(&seed) / 4, .same = i % 3 == 0 };
    assert_ok(qsae_metric_open_llama_cpp(ctx, &s, &bad));
    assert_ok(qsae_metric_open_llama_cpp(ctx, &s, &skipped));
    tokens[500].kl = NAN;
    assert_ok(qsae__llama_add(bad, NULL, TOKENS, tokens));
    tokens[500].same = -1;
    assert_ok(qsae__llama_add(skipped, NULL, TOKENS, tokens));
    assert_true(result(bad, "nonfinite_rows") == 1 && result(skipped, "nonfinite_rows") == 0);
    for (int32_t k = 0; k < qsae_metric_count(bad); k++) {
        qsae_value v = { .struct_size = sizeof v };
        assert_ok(qsae_metric_value(bad, k, &v));
        found = v.value;
        wanted = result(skipped, v.name);
        if (strcmp(v.name, "nonfinite_rows") != 0)
            assert_true(found == wanted || (isnan(found) && isnan(wanted)));
    }
    assert_ok(qsae__mass_open(ctx, 2, &s, &mass));
    assert_ok(qsae__mass_update(mass, NULL, &acts));
    qsae__mass_get(mass, sums);
    assert_true(result(mass, "nonfinite_rows") == 1 && result(mass, "tokens") == 2);
    assert_true(sums[0] == 2.5 && sums[1] == 0);
    qsae_metric_close(&bad);
    qsae_metric_close(&skipped);
    qsae_metric_close(&mass);
    qsae_context_close(&ctx);
}

const struct CMUnitTest accumulator_tests[] = {
    cmocka_unit_test(test_scalars), cmocka_unit_test(test_rows), cmocka_unit_test(test_one_bad_row),
    cmocka_unit_test(test_one_bad_row_inside),
};
const size_t n_accumulator_tests = sizeof accumulator_tests / sizeof accumulator_tests[0];
