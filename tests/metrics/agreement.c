/* SPDX-License-Identifier: BSD-2-Clause */
/* Feature metrics beyond r against dense sums in two passes: ties, constant and silent features,
 * values below 0, rows that are not finite, excluded rows. */
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "../support.h"

#define ROWS 1500
#define FEATURES 40
#define TOP 20

static struct {
    float r[ROWS][FEATURES], q[ROWS][FEATURES];
    bool counted[ROWS];
    uint8_t mask[ROWS];
    int64_t ptr[2][ROWS + 1];
    int32_t index[2][ROWS * FEATURES];
    float value[2][ROWS * FEATURES];
} d;

static void make_sparse(int side)
{
    int64_t n = 0;
    for (int64_t t = 0; t < ROWS; t++) {
        d.ptr[side][t] = n;
        for (int32_t f = 0; f < FEATURES; f++) {
            const float v = side ? d.q[t][f] : d.r[t][f];
            if (v == 0)
                continue;
            d.index[side][n] = f;
            d.value[side][n++] = v;
        }
    }
    d.ptr[side][ROWS] = n;
}

/* Values are multiples of 1/8: many are equal. */
static void make(uint32_t seed)
{
    uint32_t s = seed;
    for (int64_t t = 0; t < ROWS; t++) {
        d.mask[t] = t % 211 == 5 ? QSAE_MASK_EXCLUDED : 0;
        d.counted[t] = !d.mask[t];
        for (int f = 0; f < FEATURES; f++) {
            const bool on = next_random(&s) % 60 <= (uint32_t)f && t % 17;
            float x = on ? 0.125f * (float)(1 + next_random(&s) % 12) : 0, y = x;
            if (next_random(&s) % 5 == 0 && t % 17)
                y = next_random(&s) % 3 ? y + 0.125f * (float)(next_random(&s) % 4) : 0;
            if (f == 3) /* silent in q */
                y = 0;
            if (f == 4) { /* in r */
                y = x;
                x = 0;
            }
            if (f == 6) /* constant where it fires */
                x = y = on ? 0.7f : 0;
            if (f == 7) /* below 0 */
                x = -x;
            if (f == 8) /* rarer */
                y = t % 3 ? 0 : x;
            if (f == 9 && t % 2) /* and commoner */
                x = t % 4 == 1 ? x : 0;
            d.r[t][f] = x;
            d.q[t][f] = y;
        }
        if (t % 300 == 77) {
            d.q[t][1] = t % 600 == 77 ? NAN : INFINITY;
            d.counted[t] = false;
        }
    }
    make_sparse(0);
    make_sparse(1);
}

static qsae_metric *feed(qsae_context *ctx, const int64_t *ends, int n, bool null)
{
    qsae_metric_settings s;
    qsae_metric *m;
    qsae_metric_settings_init(&s, sizeof s);
    s.top = TOP;
    assert_ok(qsae_metric_open_features(ctx, FEATURES, &s, &m));
    for (int i = 0; i < n; i++) {
        const int64_t first = i ? ends[i - 1] : 0;
        const qsae_positions at = { .struct_size = sizeof at, .first_token = first,
                                    .n_rows = ends[i] - first, .mask = d.mask + first };
        const int q_side = null ? 0 : 1;
        const qsae_sparse_rows r = { .struct_size = sizeof r, .n = ends[i] - first,
                                     .indptr = d.ptr[0] + first, .indices = d.index[0],
                                     .values = d.value[0] },
                               q = { .struct_size = sizeof q, .n = ends[i] - first,
                                     .indptr = d.ptr[q_side] + first, .indices = d.index[q_side],
                                     .values = d.value[q_side] };
        assert_ok(qsae_metric_update_features(m, &at, &r, &q));
    }
    return m;
}

static double get(qsae_metric *m, const char *name)
{
    double v;
    assert_ok(qsae_metric_get(m, name, &v));
    return v;
}

static void near(const char *what, double got, double want, double relative)
{
    if (isnan(want) != isnan(got) || !(isnan(want) || fabs(got - want) <= relative * fabs(want)))
        fail_msg("%s: expected %.17g, found %.17g", what, want, got);
}

enum { JACCARD, PRECISION, RECALL, RATE, R_ON, ERROR, MEAN, R2, DELTA2, TOPS, NAMES };
static const char *const names[NAMES] = { "cofire_jaccard", "precision", "recall", "rate_ratio",
                                          "r_on", "relative_error", "mean_ratio", "sum_r2",
                                          "sum_delta2", "top_overlap" };

static bool among_top(float (*v)[FEATURES], int f, int64_t t)
{
    int64_t before = 0;
    for (int64_t u = 0; u < ROWS; u++)
        before += d.counted[u] && (v[u][f] > v[t][f] || (v[u][f] == v[t][f] && u < t));
    return d.counted[t] && v[t][f] > 0 && before < TOP;
}

static double top_overlap(int f)
{
    double both = 0, r = 0, q = 0;
    for (int64_t t = 0; t < ROWS; t++) {
        const bool in_r = among_top(d.r, f, t), in_q = among_top(d.q, f, t);
        both += in_r && in_q;
        r += in_r;
        q += in_q;
    }
    return both / fmax(r, q);
}

static double ratio(double a, double b)
{
    return b != 0 ? a / b : NAN;
}

static void expect(int f, double *want)
{
    double n_r = 0, n_q = 0, both = 0, n = 0, mx = 0, my = 0, xx = 0, yy = 0, xy = 0;
    double sum_x = 0, sum_y = 0, r2 = 0, delta2 = 0;
    for (int64_t t = 0; t < ROWS; t++) {
        const double x = d.r[t][f], y = d.q[t][f];
        if (!d.counted[t])
            continue;
        n_r += x > 0;
        n_q += y > 0;
        both += x > 0 && y > 0;
        n += x != 0 || y != 0;
        sum_x += x;
        sum_y += y;
        r2 += x * x;
        delta2 += (y - x) * (y - x);
    }
    mx = sum_x / n;
    my = sum_y / n;
    for (int64_t t = 0; t < ROWS; t++) {
        const double x = d.r[t][f], y = d.q[t][f];
        if (!d.counted[t] || (x == 0 && y == 0))
            continue;
        xx += (x - mx) * (x - mx);
        yy += (y - my) * (y - my);
        xy += (x - mx) * (y - my);
    }
    const bool varies = xx > 1e-9 && yy > 1e-9;
    want[JACCARD] = ratio(both, n_r + n_q - both);
    want[PRECISION] = ratio(both, n_q);
    want[RECALL] = ratio(both, n_r);
    want[RATE] = ratio(n_q, n_r);
    want[R_ON] = varies ? xy / sqrt(xx * yy) : NAN;
    want[ERROR] = ratio(delta2, r2);
    want[MEAN] = ratio(sum_y, sum_x);
    want[R2] = r2;
    want[DELTA2] = delta2;
    want[TOPS] = top_overlap(f);
}

static void test_features(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    double got[NAMES][FEATURES], want[NAMES], suppressed = 0, amplified = 0;
    for (uint32_t seed = 1; seed <= 3; seed++) {
        const int64_t ends[] = { 256 * seed, 1100, ROWS };
        make(seed);
        qsae_metric *m = feed(ctx, ends, 3, false);
        for (int k = 0; k < NAMES; k++)
            assert_ok(qsae_metric_features(m, names[k], got[k], FEATURES));
        suppressed = amplified = 0;
        for (int f = 0; f < FEATURES; f++) {
            expect(f, want);
            for (int k = 0; k < NAMES; k++)
                near(names[k], got[k][f], want[k], 1e-11);
            suppressed += want[RATE] < 0.5;
            amplified += want[RATE] > 2;
        }
        assert_true(isnan(got[R_ON][6]) && isnan(got[JACCARD][7]) == 0 && got[RATE][3] == 0);
        assert_true(suppressed >= 2 && amplified > 0);
        near("suppressed", get(m, "suppressed"), suppressed, 0);
        near("amplified", get(m, "amplified"), amplified, 0);
        qsae_metric_close(&m);
    }
    qsae_context_close(&ctx);
}

/* Whether feature f is one of the ten largest of a row. */
static bool leads(const float *v, int f)
{
    int before = 0;
    for (int k = 0; k < FEATURES; k++)
        before += v[k] > v[f] || (v[k] == v[f] && k < f);
    return v[f] > 0 && before < 10;
}

static void test_tokens(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    double jaccard = 0, top = 0, cosine = 0, n = 0, n_cosine = 0;
    make(9);
    for (int64_t t = 0; t < ROWS; t++) {
        double both = 0, either = 0, lead_r = 0, lead_q = 0, lead = 0, xx = 0, yy = 0, xy = 0;
        if (!d.counted[t])
            continue;
        for (int f = 0; f < FEATURES; f++) {
            const double x = d.r[t][f], y = d.q[t][f];
            both += x > 0 && y > 0;
            either += x > 0 || y > 0;
            lead_r += leads(d.r[t], f);
            lead_q += leads(d.q[t], f);
            lead += leads(d.r[t], f) && leads(d.q[t], f);
            xx += x * x;
            yy += y * y;
            xy += x * y;
        }
        if (either > 0) {
            n++;
            jaccard += both / either;
            top += lead / fmax(lead_r, lead_q);
        }
        if (xx > 0 && yy > 0) {
            n_cosine++;
            cosine += xy / sqrt(xx) / sqrt(yy);
        }
    }
    const int64_t ends[] = { ROWS };
    qsae_metric *m = feed(ctx, ends, 1, false);
    assert_true(n < ROWS - 50 && jaccard / n < 0.99);
    near("token_jaccard", get(m, "token_jaccard"), jaccard / n, 1e-12);
    near("token_top10", get(m, "token_top10"), top / n, 1e-12);
    near("token_cosine", get(m, "token_cosine"), cosine / n_cosine, 1e-12);
    qsae_metric_close(&m);
    qsae_context_close(&ctx);
}

/* The reference against itself is exact, and cuts change no bit. */
static void test_null(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    const int64_t ends[] = { ROWS }, cuts[] = { 1, 256, 300, 1024, ROWS };
    double got[FEATURES], whole[FEATURES];
    make(4);
    qsae_metric *m = feed(ctx, ends, 1, true), *a = feed(ctx, ends, 1, false),
                *b = feed(ctx, cuts, 5, false);
    near("token_jaccard", get(m, "token_jaccard"), 1, 0);
    near("token_top10", get(m, "token_top10"), 1, 0);
    near("token_cosine", get(m, "token_cosine"), 1, 0);
    near("suppressed", get(m, "suppressed"), 0, 0);
    assert_ok(qsae_metric_features(m, "r_on", got, FEATURES));
    for (int f = 0; f < FEATURES; f++)
        near("r_on", got[f], f == 4 || f == 6 ? NAN : 1, 0);
    assert_ok(qsae_metric_features(m, "sum_delta2", got, FEATURES));
    for (int f = 0; f < FEATURES; f++)
        near("sum_delta2", got[f], 0, 0);
    for (int k = 0; k < NAMES; k++) {
        assert_ok(qsae_metric_features(a, names[k], whole, FEATURES));
        assert_ok(qsae_metric_features(b, names[k], got, FEATURES));
        for (int f = 0; f < FEATURES; f++)
            near(names[k], got[f], whole[f], 0);
    }
    near("token_cosine", get(b, "token_cosine"), get(a, "token_cosine"), 0);
    qsae_metric_close(&m);
    qsae_metric_close(&a);
    qsae_metric_close(&b);
    assert_ok(qsae_metric_open_features(ctx, FEATURES, NULL, &m));
    assert_fails(qsae_metric_features(m, "top_overlap", got, FEATURES), QSAE_ENOENT, "20");
    qsae_metric_close(&m);
    qsae_context_close(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_features),
                                        cmocka_unit_test(test_tokens),
                                        cmocka_unit_test(test_null) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
