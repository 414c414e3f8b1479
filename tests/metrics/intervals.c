/* SPDX-License-Identifier: BSD-2-Clause */
/* Intervals over documents against NumPy and SciPy (tests/reference/intervals.py), and how often
 * they cover the truth. */
#include <math.h>
#include <stdlib.h>

#include "../support.h"
#include "metrics/intervals.h"
#include "metrics/metrics.h"

#define PATH QSAE_TEST_DATA "/metrics/intervals.txt"
#define ROWS 1024
#define WIDTH 2
#define ACTS 8

static struct {
    int64_t document[ROWS], indptr[ROWS + 1];
    int32_t label[ROWS], top_r[ROWS], top_q[ROWS], index[ROWS * ACTS];
    float nll_r[ROWS], nll_q[ROWS], kl[ROWS], acts[ROWS * ACTS], x[4][ROWS * WIDTH];
    int64_t n;
} rows;

static double number(FILE *f)
{
    char text[64];
    char *end;
    assert_int_equal(fscanf(f, "%63s", text), 1);
    const double v = strtod(text, &end);
    assert_true(*end == 0);
    return v;
}

static void read_rows(FILE *f)
{
    rows.n = (int64_t)number(f);
    assert_true(rows.n <= ROWS && number(f) == WIDTH);
    for (int64_t i = 0; i < rows.n; i++) {
        rows.document[i] = (int64_t)number(f);
        rows.label[i] = (int32_t)number(f);
        rows.top_r[i] = (int32_t)number(f);
        rows.top_q[i] = (int32_t)number(f);
        const int64_t l0 = (int64_t)number(f);
        rows.indptr[i + 1] = rows.indptr[i] + l0;
        for (int64_t k = 0; k < l0; k++) {
            rows.index[rows.indptr[i] + k] = (int32_t)k;
            rows.acts[rows.indptr[i] + k] = 1;
        }
        rows.nll_r[i] = (float)number(f);
        rows.nll_q[i] = (float)number(f);
        rows.kl[i] = (float)number(f);
        for (int a = 0; a < 4; a++)
            for (int64_t k = 0; k < WIDTH; k++)
                rows.x[a][i * WIDTH + k] = (float)number(f);
    }
}

#define KINDS 4
static const char *const kinds[KINDS] = { "cross_entropy", "divergence", "reconstruction",
                                          "drift" };

static void open_all(qsae_context *ctx, qsae_metric **m)
{
    assert_ok(qsae_metric_open_cross_entropy(ctx, NULL, &m[0]));
    assert_ok(qsae_metric_open_divergence(ctx, NULL, &m[1]));
    assert_ok(qsae_metric_open_reconstruction(ctx, WIDTH, ACTS, NULL, &m[2]));
    assert_ok(qsae_metric_open_drift(ctx, WIDTH, NULL, &m[3]));
}

static void feed(qsae_metric **m, int64_t a, int64_t n)
{
    static uint8_t mask[ROWS];
    for (int64_t i = 0; i < rows.n; i++)
        mask[i] = (uint8_t)((i % 7 == 0) * QSAE_MASK_SPECIAL +
                            (i % 16 == 0) * QSAE_MASK_FIRST);
    const qsae_positions at = { .struct_size = sizeof at, .first_token = a,
                                .document = rows.document + a, .mask = mask + a, .n_rows = n };
    const qsae_divergence_rows d = { .struct_size = sizeof d, .n = n, .nll_r = rows.nll_r + a,
                                     .nll_q = rows.nll_q + a, .kl = rows.kl + a,
                                     .top_r = rows.top_r + a, .top_q = rows.top_q + a,
                                     .label = rows.label + a };
    const qsae_sparse_rows acts = { sizeof acts, n, rows.indptr + a, rows.index, rows.acts };
    qsae_rows x[4];
    for (int i = 0; i < 4; i++)
        x[i] = (qsae_rows){ sizeof x[i], rows.x[i] + a * WIDTH, n, WIDTH, WIDTH, QSAE_F32, 0 };
    assert_ok(qsae_metric_update_cross_entropy(m[0], &at, n, rows.nll_r + a));
    assert_ok(qsae_metric_update_divergence(m[1], &at, &d));
    assert_ok(qsae_metric_update_reconstruction(m[2], &at, &x[0], &x[2], &acts));
    assert_ok(qsae_metric_update_drift(m[3], &at, &x[0], &x[1], &x[2], &x[3]));
}

static qsae_value value_of(qsae_metric *m, const char *name)
{
    for (int32_t i = 0; i < qsae_metric_count(m); i++) {
        qsae_value v = { .struct_size = sizeof v };
        assert_ok(qsae_metric_value(m, i, &v));
        if (strcmp(v.name, name) == 0)
            return v;
    }
    fail_msg("no result %s", name);
    return (qsae_value){ 0 };
}

static void check(const char *name, double found, double want, double width)
{
    if (isnan(want) ? !isnan(found) : !(fabs(found - want) <= 1e-9 * fmax(fabs(want), width)))
        fail_msg("%s: expected %.17g, found %.17g", name, want, found);
}

/* Every figure with an interval is in the file; its bounds are the reference's. */
static void check_figures(FILE *f, qsae_metric **m)
{
    int expected = 0, compared = 0;
    for (int k = 0; k < KINDS; k++)
        for (int32_t i = 0; i < qsae_metric_count(m[k]); i++)
            expected += qsae__metric_has_interval(m[k], i);
    for (char kind[32], name[64]; compared < expected; compared++) {
        assert_int_equal(fscanf(f, "%31s", kind), 1);
        int k = 0;
        while (k < KINDS && strcmp(kinds[k], kind) != 0)
            k++;
        assert_true(k < KINDS && fscanf(f, "%63s", name) == 1);
        const qsae_value v = value_of(m[k], name);
        const double low = number(f), high = number(f), se = number(f);
        check(name, v.low, low, high - low);
        check(name, v.high, high, high - low);
        check(name, v.jackknife_se, se, high - low);
    }
    assert_true(expected >= 35);
}

static void check_bounds(FILE *f, const char *const *names, const qsae__bounds *b, int n)
{
    for (int i = 0; i < n; i++) {
        char name[64];
        assert_int_equal(fscanf(f, "%63s", name), 1);
        assert_string_equal(name, names[i]);
        const double low = number(f), high = number(f), se = number(f);
        check(name, b[i].low, low, high - low);
        check(name, b[i].high, high, high - low);
        check(name, b[i].se, se, high - low);
    }
}

/* Changes between two reconstructions of the same documents. */
static void check_changes(FILE *f, qsae_context *ctx)
{
    static const char *const names[] = { "dfvu_dim", "dfvu_scalar", "dmse", "dl0" };
    static int64_t indptr[ROWS + 1];
    qsae_metric *m[2] = { NULL, NULL };
    qsae__bounds b[QSAE__CHANGES];
    const qsae_positions at = { .struct_size = sizeof at, .document = rows.document,
                                .n_rows = rows.n };
    for (int64_t i = 0; i < rows.n; i++) /* as many in row i as in the i-th but last */
        indptr[i + 1] = indptr[i] + rows.indptr[rows.n - i] - rows.indptr[rows.n - i - 1];
    for (int k = 0; k < 2; k++) {
        static int32_t index[ROWS * ACTS];
        const qsae_sparse_rows acts = { sizeof acts, rows.n, k ? indptr : rows.indptr, index,
                                        rows.acts };
        qsae_rows x = { sizeof x, rows.x[k], rows.n, WIDTH, WIDTH, QSAE_F32, 0 }, y = x;
        y.data = rows.x[2 + k];
        for (int64_t i = 0; i < rows.n; i++)
            for (int64_t e = acts.indptr[i]; e < acts.indptr[i + 1]; e++)
                index[e] = (int32_t)(e - acts.indptr[i]);
        assert_ok(qsae_metric_open_reconstruction(ctx, WIDTH, ACTS, NULL, &m[k]));
        assert_ok(qsae_metric_update_reconstruction(m[k], &at, &x, &y, &acts));
    }
    assert_ok(qsae__reconstruction_changes(m[0], m[1], b));
    check_bounds(f, names, b, QSAE__CHANGES);
    qsae_metric_close(&m[0]);
    qsae_metric_close(&m[1]);
}

static void check_recovered(FILE *f, qsae_context *ctx)
{
    static const char *const names[] = { "ce_recovered", "ce_recovered_mean", "kl_recovered" };
    static float nll[3][ROWS], kl[3][ROWS];
    qsae_metric *m[3] = { NULL, NULL, NULL };
    qsae__bounds b[QSAE__RECOVERED];
    const qsae_positions at = { .struct_size = sizeof at, .document = rows.document,
                                .n_rows = rows.n };
    for (int64_t i = 0; i < rows.n; i++) {
        nll[0][i] = rows.nll_q[i];
        nll[1][i] = 2 * rows.nll_q[i] + 3;
        nll[2][i] = rows.nll_q[i] + 1;
        kl[0][i] = kl[2][i] = rows.kl[i];
        kl[1][i] = 4 * rows.kl[i] + 1;
    }
    for (int k = 0; k < 3; k++) {
        const qsae_divergence_rows d = { .struct_size = sizeof d, .n = rows.n,
                                         .nll_r = rows.nll_r, .nll_q = nll[k], .kl = kl[k] };
        assert_ok(qsae_metric_open_divergence(ctx, NULL, &m[k]));
        assert_ok(qsae_metric_update_divergence(m[k], &at, &d));
    }
    assert_ok(qsae__divergence_recovered(m[0], m[1], m[2], b));
    check_bounds(f, names, b, QSAE__RECOVERED);
    for (int k = 0; k < 3; k++)
        qsae_metric_close(&m[k]);
}

static void check_weights(FILE *f)
{
    int64_t id[5];
    uint8_t w[40], tail[8];
    char word[16];
    assert_int_equal(fscanf(f, "%15s", word), 1);
    assert_string_equal(word, "weights");
    for (int i = 0; i < 5; i++)
        id[i] = (int64_t)number(f);
    for (int i = 0; i < 10; i++) {
        const uint64_t seed = i < 5 ? 0 : 12345678901;
        qsae__poisson_weights(seed, id[i % 5], 0, 40, w);
        qsae__poisson_weights(seed, id[i % 5], 32, 8, tail);
        for (int b = 0; b < 40; b++)
            assert_int_equal(w[b], (int)number(f));
        assert_memory_equal(w + 32, tail, sizeof tail);
    }
}

static void check_t(FILE *f)
{
    char word[8];
    assert_int_equal(fscanf(f, "%7s", word), 1);
    assert_string_equal(word, "t");
    for (int i = 0; i < 10; i++) {
        const double v = number(f), want = number(f), t = qsae__t975(v);
        if (!(fabs(t - want) < 1e-11 * want))
            fail_msg("t of %g: expected %.17g, found %.17g", v, want, t);
    }
}

/* Rows in three parts, the middle one last and merged in; other threads. */
static void test_reference(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2), *one = open_context(NULL, 1);
    qsae_metric *m[KINDS], *part[KINDS], *whole[KINDS];
    FILE *const f = fopen(PATH, "r");
    assert_non_null(f);
    read_rows(f);
    open_all(ctx, m);
    open_all(ctx, part);
    open_all(one, whole);
    feed(m, 0, 100);
    feed(m, 256, rows.n - 256);
    feed(part, 100, 156);
    feed(whole, 0, rows.n);
    for (int k = 0; k < KINDS; k++) {
        assert_ok(qsae_metric_merge(m[k], part[k]));
        for (int32_t i = 0; i < qsae_metric_count(m[k]); i++) {
            qsae_value v = { .struct_size = sizeof v }, w = v;
            assert_ok(qsae_metric_value(m[k], i, &v));
            assert_ok(qsae_metric_value(whole[k], i, &w));
            check(v.name, v.low, w.low, fabs(w.value));
        }
    }
    check_figures(f, m);
    check_changes(f, ctx);
    check_recovered(f, ctx);
    check_weights(f);
    check_t(f);
    fclose(f);
    for (int k = 0; k < KINDS; k++) {
        qsae_metric_close(&m[k]);
        qsae_metric_close(&part[k]);
        qsae_metric_close(&whole[k]);
    }
    qsae_context_close(&ctx);
    qsae_context_close(&one);
}

static void test_few_documents(void **state)
{
    static float nll[20 * 4];
    static int64_t document[20 * 4];
    (void)state;
    qsae_context *ctx = open_context("c", 1);
    for (int n = 19; n <= 20; n++) {
        qsae_metric *m = NULL;
        uint32_t seed = 3;
        for (int i = 0; i < 4 * n; i++) {
            document[i] = i / 4;
            nll[i] = 2 + next_float(&seed);
        }
        const qsae_positions at = { .struct_size = sizeof at, .document = document,
                                    .n_rows = 4 * n };
        assert_ok(qsae_metric_open_cross_entropy(ctx, NULL, &m));
        assert_ok(qsae_metric_update_cross_entropy(m, &at, 4 * n, nll));
        const qsae_value v = value_of(m, "ce");
        assert_int_equal(isnan(v.low), n < 20);
        assert_int_equal(isnan(v.high), n < 20);
        assert_int_equal(isnan(v.jackknife_se), n < 20);
        qsae_metric_close(&m);
    }
    qsae_context_close(&ctx);
}

/* ---- blocks of documents ---- */

#define BLOCK_ROWS 600
#define BLOCK_FEATURES 9
#define BLOCK_DOCUMENTS 44

static struct {
    float a[2][BLOCK_ROWS * BLOCK_FEATURES], value[2][BLOCK_ROWS * BLOCK_FEATURES];
    int64_t indptr[2][BLOCK_ROWS + 1], document[BLOCK_ROWS];
    int32_t index[2][BLOCK_ROWS * BLOCK_FEATURES];
} acts;

/* Feature 0 differs by rounding, 1 is equal, 2 never fires, 3 is silent in q, 4 fires in one
 * document alone, 5 spans all exponents of f32. */
static void make_acts(void)
{
    uint32_t seed = 11;
    for (int64_t t = 0; t < BLOCK_ROWS; t++) {
        acts.document[t] = t * BLOCK_DOCUMENTS / BLOCK_ROWS;
        for (int f = 0; f < BLOCK_FEATURES; f++) {
            const bool on = next_random(&seed) % 4 == 0 && f != 2 &&
                            (f != 4 || acts.document[t] == 7);
            const float x = on ? 2 + next_float(&seed) : 0, noise = next_float(&seed);
            const float y = f == 0   ? x * (1 + 1e-6f)
                            : f == 1 ? x
                            : f == 3 ? 0
                                     : x > 0 ? fmaxf(x + 0.2f * (float)f * noise, 0.01f) : 0;
            const float up = f == 5 ? ldexpf(1, (int)(t % 31) - 15) : 1;
            acts.a[0][t * BLOCK_FEATURES + f] = x * up;
            acts.a[1][t * BLOCK_FEATURES + f] = y * up;
        }
    }
    for (int k = 0; k < 2; k++)
        for (int64_t t = 0, n = 0; t < BLOCK_ROWS; t++, acts.indptr[k][t] = n)
            for (int32_t f = 0; f < BLOCK_FEATURES; f++)
                if (acts.a[k][t * BLOCK_FEATURES + f] != 0) {
                    acts.index[k][n] = f;
                    acts.value[k][n++] = acts.a[k][t * BLOCK_FEATURES + f];
                }
}

static void feed_acts(qsae_metric *m, int64_t a, int64_t n)
{
    const qsae_positions at = { .struct_size = sizeof at, .first_token = a,
                                .document = acts.document + a, .n_rows = n };
    qsae_sparse_rows s[2];
    for (int k = 0; k < 2; k++)
        s[k] = (qsae_sparse_rows){ sizeof s[k], n, acts.indptr[k] + a, acts.index[k],
                                   acts.value[k] };
    assert_ok(qsae_metric_update_features(m, &at, &s[0], &s[1]));
}

/* r of a feature without a block of two documents (-1: of all). */
static double r_without(int f, int64_t block)
{
    double s[5] = { 0 }, n = 0;
    for (int64_t t = 0; t < BLOCK_ROWS; t++) {
        if (acts.document[t] / 2 == block)
            continue;
        const double x = acts.a[0][t * BLOCK_FEATURES + f], y = acts.a[1][t * BLOCK_FEATURES + f];
        const double add[5] = { x, y, x * x, y * y, x * y };
        for (int i = 0; i < 5; i++)
            s[i] += add[i];
        n++;
    }
    const double cov = s[4] - s[0] * s[1] / n, xx = s[2] - s[0] * s[0] / n,
                 yy = s[3] - s[1] * s[1] / n;
    return fmax(-1, fmin(1, cov / sqrt(fmax(xx * yy, 1e-12))));
}

/* Of survived_percent over replicates in which blocks are drawn as documents of these ids are. */
static double survived_deviation(void)
{
    enum { BLOCKS = BLOCK_DOCUMENTS / 2, REPLICATES = 500 };
    static uint8_t w[BLOCKS][REPLICATES];
    double mean = 0, m2 = 0;
    for (int g = 0; g < BLOCKS; g++)
        qsae__poisson_weights(0, g, 0, REPLICATES, w[g]);
    for (int b = 0; b < REPLICATES; b++) {
        double survived = 0, counted = 0;
        for (int f = 0; f < BLOCK_FEATURES; f++) {
            double s[5] = { 0 }, n = 0;
            for (int64_t t = 0; t < BLOCK_ROWS; t++) {
                const double x = acts.a[0][t * BLOCK_FEATURES + f],
                             y = acts.a[1][t * BLOCK_FEATURES + f],
                             k = w[acts.document[t] / 2][b];
                s[0] += k * x;
                s[1] += k * y;
                s[2] += k * x * x;
                s[3] += k * y * y;
                s[4] += k * x * y;
                n += k;
            }
            const double cov = s[4] - s[0] * s[1] / n, xx = s[2] - s[0] * s[0] / n,
                         yy = s[3] - s[1] * s[1] / n;
            counted += s[2] > 0;
            survived += s[2] > 0 && cov / sqrt(fmax(xx * yy, 1e-12)) > 0.9;
        }
        const double share = 100 * survived / counted, at = share - mean;
        mean += at / (b + 1);
        m2 += at * (share - mean);
    }
    return sqrt(m2 / (REPLICATES - 1));
}

/* Quantile of t for deviations of z [n]: freedom of the rows, or of those that count, if fewer. */
static double t_of(const double *z, int n, double freedom)
{
    double mean = 0, squares = 0, fourth = 0;
    for (int g = 0; g < n; g++)
        mean += z[g] / n;
    for (int g = 0; g < n; g++) {
        squares += pow(z[g] - mean, 2);
        fourth += pow(z[g] - mean, 4);
    }
    const double v = fourth > 0 ? fmax(1, fmin(freedom, squares * squares / fourth)) : 1;
    const double low = qsae__t975(floor(v)), high = qsae__t975(floor(v) + 1);
    return low + (v - floor(v)) * (high - low);
}

static void check_features(qsae_metric *m)
{
    enum { BLOCKS = BLOCK_DOCUMENTS / 2 };
    double low[BLOCK_FEATURES], high[BLOCK_FEATURES], squares = 0, crossing = 0;
    for (int64_t g = 0; g < BLOCKS; g++) {
        double rows_of = 0;
        for (int64_t t = 0; t < BLOCK_ROWS; t++)
            rows_of += acts.document[t] / 2 == g;
        squares += rows_of * rows_of;
    }
    const double freedom = (double)BLOCK_ROWS * BLOCK_ROWS / squares - 1, t = qsae__t975(freedom);
    assert_ok(qsae_metric_features(m, "r_low", low, BLOCK_FEATURES));
    assert_ok(qsae_metric_features(m, "r_high", high, BLOCK_FEATURES));
    for (int f = 0; f < BLOCK_FEATURES; f++) {
        const double most = 0x1.fffffffffffffp-1, r = r_without(f, -1);
        double z[BLOCKS], sum = 0, sq = 0;
        for (int g = 0; g < BLOCKS; g++) {
            const double left = r_without(f, g);
            z[g] = atanh(fmin(left, most));
            sum += z[g] / BLOCKS;
        }
        for (int g = 0; g < BLOCKS; g++)
            sq += (z[g] - sum) * (z[g] - sum);
        const double half = t_of(z, BLOCKS, freedom) * sqrt(sq * (BLOCKS - 1) / BLOCKS),
                     at = atanh(fmin(r, most));
        if (f == 1)
            assert_true(low[f] == 1 && high[f] == 1);
        else if (f == 2)
            assert_true(isnan(low[f]) && isnan(high[f]));
        else if (f != 0) {
            check("r_low", low[f], tanh(at - half), 1);
            check("r_high", high[f], tanh(at + half), 1);
        }
        crossing += f != 2 && low[f] <= 0.9 && high[f] > 0.9;
    }
    assert_true(low[0] > 0.999999 && high[0] <= 1);
    assert_true(low[4] < 0 && high[4] > 0.5); /* one document says little */
    const double per = 100.0 / (BLOCK_FEATURES - 1);
    const qsae_value v = value_of(m, "survived_percent");
    const double half = t * survived_deviation();
    check("low", v.low, fmax(0, v.value - half), 1);
    check("high", v.high, fmin(100, v.value + half), 1);
    assert_true(half > 0 && isnan(v.jackknife_se));
    check("undetermined", value_of(m, "undetermined").value, crossing, 0);
    check("percent", value_of(m, "undetermined_percent").value, per * crossing, 0);
    assert_true(crossing > 0);
}

/* The sums of blocks as they stand in a state file. */
static void write_blocks(const qsae_metric *m, qsae__strbuf *b)
{
    qsae__strbuf_init(b, m->ctx);
    qsae__blocks_write(&m->state.blocks, b);
    assert_int_equal(b->status, QSAE_OK);
}

/* Rows in one update and, elsewhere, one by one from the last to the first in five metrics that are
 * then merged: the same bytes. */
static void test_blocks(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    qsae_metric_settings s;
    qsae_metric *m = NULL, *parts[5] = { NULL };
    double a[BLOCK_FEATURES], b[BLOCK_FEATURES];
    qsae_metric_settings_init(&s, sizeof s);
    s.documents_per_block = 2;
    make_acts();
    assert_ok(qsae_metric_open_features(ctx, BLOCK_FEATURES, &s, &m));
    feed_acts(m, 0, BLOCK_ROWS);
    check_features(m);
    for (int i = 0; i < 5; i++)
        assert_ok(qsae_metric_open_features(ctx, BLOCK_FEATURES, &s, &parts[i]));
    for (int64_t t = BLOCK_ROWS; t-- > 0;)
        feed_acts(parts[t % 5], t, 1);
    for (int i = 1; i < 5; i++)
        assert_ok(qsae_metric_merge(parts[0], parts[i]));
    check_features(parts[0]);
    qsae__strbuf one, many;
    write_blocks(m, &one);
    write_blocks(parts[0], &many);
    assert_int_equal(one.size, many.size);
    assert_memory_equal(one.data, many.data, (size_t)one.size);
    qsae__strbuf_free(&one);
    qsae__strbuf_free(&many);
    assert_ok(qsae_metric_features(m, "r_low", a, BLOCK_FEATURES));
    assert_ok(qsae_metric_features(parts[0], "r_low", b, BLOCK_FEATURES));
    for (int f = 0; f < BLOCK_FEATURES; f++)
        check("r_low", b[f], a[f], 1);
    qsae_metric_reset(m);
    assert_ok(qsae_metric_features(m, "r_low", a, BLOCK_FEATURES));
    assert_true(isnan(a[1]));
    feed_acts(m, 0, BLOCK_ROWS / 2); /* 11 blocks are too few */
    assert_true(isnan(value_of(m, "mean_r").low) && isnan(value_of(m, "undetermined").value));
    feed_acts(m, BLOCK_ROWS / 2, BLOCK_ROWS - BLOCK_ROWS / 2);
    check_features(m);
    for (int i = 0; i < 5; i++)
        qsae_metric_close(&parts[i]);
    qsae_metric_close(&m);
    s.documents_per_block = 1;
    assert_ok(qsae_metric_open_features(ctx, BLOCK_FEATURES, &s, &m));
    const qsae_positions at = { .struct_size = sizeof at, .document = (const int64_t[]){ 32 },
                                .n_rows = 1 };
    const qsae_sparse_rows none = { sizeof none, 1, (const int64_t[]){ 0, 0 }, NULL, NULL };
    assert_fails(qsae_metric_update_features(m, &at, &none, &none), QSAE_EINVAL, "document");
    qsae_metric_close(&m);
    qsae_context_close(&ctx);
}

static double uniform(uint32_t *seed)
{
    return ((double)(next_random(seed) >> 4) + 0.5) / (double)(1 << 28);
}

static double normal(uint32_t *seed)
{
    return sqrt(-2 * log(uniform(seed))) * cos(6.283185307179586 * uniform(seed));
}

static double student5(uint32_t *seed)
{
    double chi = 0;
    for (int i = 0; i < 5; i++) {
        const double z = normal(seed);
        chi += z * z;
    }
    return normal(seed) / sqrt(chi / 5);
}

/* Lognormal lengths (sigma 1.2), effects of documents with Student's t, 5 degrees of freedom.
 * 200 corpora: a true coverage of 95% leaves [88%, 99.5%] once in some 10^4 runs. */
static void test_coverage(void **state)
{
    enum { CORPORA = 200, DOCUMENTS = 30, MOST = 4096 };
    static float nll[MOST];
    static int64_t document[MOST];
    uint32_t seed = 77;
    int covered = 0;
    (void)state;
    qsae_context *ctx = open_context(NULL, 1);
    qsae_metric *m = NULL;
    assert_ok(qsae_metric_open_cross_entropy(ctx, NULL, &m));
    for (int c = 0; c < CORPORA; c++) {
        int64_t n = 0;
        for (int d = 0; d < DOCUMENTS; d++) {
            const double effect = student5(&seed), length = exp(3 + 1.2 * normal(&seed));
            const int64_t most = MOST - (DOCUMENTS - d);
            for (int64_t i = 0; (i == 0 || (double)i < length) && n < most; i++) {
                document[n] = d;
                nll[n++] = (float)(9 + effect + 0.5 * normal(&seed));
            }
        }
        const qsae_positions at = { .struct_size = sizeof at, .document = document, .n_rows = n };
        qsae_metric_reset(m);
        assert_ok(qsae_metric_update_cross_entropy(m, &at, n, nll));
        const qsae_value v = value_of(m, "ce");
        covered += v.low <= 9 && v.high >= 9;
    }
    assert_in_range(covered, 176, 199);
    qsae_metric_close(&m);
    qsae_context_close(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference),
        cmocka_unit_test(test_few_documents),
        cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_coverage),
    };
    return cmocka_run_group_tests_name("intervals", tests, NULL, NULL);
}
