/* SPDX-License-Identifier: BSD-2-Clause */
/* Results against straightforward two-pass formulas in f64, written here from the definitions. */
#include "metrics_test.h"

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Linear interpolation at f (n - 1); sorts. */
static double quantile(double *v, int64_t n, double f)
{
    qsort(v, (size_t)n, sizeof *v, compare);
    const double at = f * (double)(n - 1);
    const int64_t i = (int64_t)floor(at);
    return v[i] + (at > (double)i ? (v[i + 1] - v[i]) * (at - (double)i) : 0);
}

static bool counted(int64_t r, int64_t begin, int64_t end, int skip)
{
    return r >= begin && r < end && !(rows.mask[r] & (QSAE_MASK_EXCLUDED | skip));
}

typedef struct block {
    double n, sse, s2, s1, m2, scalar, r2c, mean2, v5, uniform;
    double mean[D];
} block;

/* Sums of the rows begin..end without the masked ones, two passes. */
static block sums(const float *x, const float *y, int64_t begin, int64_t end, int skip)
{
    block b = { 0 };
    double mean_r[D] = { 0 }, m2[D] = { 0 }, r2[D] = { 0 };
    for (int64_t r = begin; r < end; r++)
        for (int64_t i = 0; counted(r, begin, end, skip) && i < D; i++) {
            const double v = x[r * D + i];
            b.n += 1.0 / D;
            b.mean[i] += v;
            mean_r[i] += v - y[r * D + i];
            b.s1 += v;
            b.s2 += v * v;
        }
    b.n = round(b.n);
    for (int64_t i = 0; i < D; i++) {
        b.mean[i] /= b.n;
        mean_r[i] /= b.n;
        b.mean2 += b.mean[i] * b.mean[i];
    }
    for (int64_t r = begin; r < end; r++) {
        double e = 0, c = 0;
        for (int64_t i = 0; counted(r, begin, end, skip) && i < D; i++) {
            const double v = x[r * D + i], d = v - b.mean[i], g = v - b.s1 / (b.n * D);
            const double res = v - y[r * D + i];
            e += res * res;
            c += d * d;
            m2[i] += d * d;
            r2[i] += res * res;
            b.scalar += g * g;
            b.r2c += (res - mean_r[i]) * (res - mean_r[i]);
        }
        b.sse += e;
        b.m2 += c;
        if (counted(r, begin, end, skip))
            b.v5 += e / c;
    }
    for (int64_t i = 0; i < D; i++)
        b.uniform += r2[i] / m2[i] / D;
    return b;
}

static double token_median(const float *x, const float *y, const block *b, int skip)
{
    static double v[N];
    int64_t n = 0;
    for (int64_t r = 0; r < N; r++) {
        double e = 0, c = 0;
        for (int64_t i = 0; i < D; i++) {
            e += ((double)x[r * D + i] - y[r * D + i]) * ((double)x[r * D + i] - y[r * D + i]);
            c += (x[r * D + i] - b->mean[i]) * (x[r * D + i] - b->mean[i]);
        }
        if (counted(r, 0, N, skip))
            v[n++] = e / c;
    }
    return quantile(v, n, 0.5);
}

static void check_mask(qsae_metric *m, const char *prefix, int skip)
{
    const block b = sums(rows.x_r, rows.y_r, 0, N, skip);
    const struct {
        const char *name;
        double value;
    } want[] = {
        { "tokens", b.n },
        { "fvu_dim", b.sse / b.m2 },
        { "fvu_scalar", b.sse / b.scalar },
        { "fvu_raw", b.sse / b.s2 },
        { "mse", b.sse / b.n / D },
        { "mse_token", b.sse / b.n },
        { "fvu_centered_residual", b.r2c / b.m2 },
        { "fvu_tokmedian", token_median(rows.x_r, rows.y_r, &b, skip) },
    };
    double l0 = 0;
    for (int64_t r = 0; r < N; r++)
        for (int64_t f = 0; counted(r, 0, N, skip) && f < F; f++)
            l0 += rows.a_r[r * F + f] != 0;
    char name[64];
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        snprintf(name, sizeof name, "%s%s", prefix, want[i].name);
        assert_near(m, name, want[i].value, 1e-12);
    }
    snprintf(name, sizeof name, "%sl0", prefix);
    assert_near(m, name, l0 / b.n, 1e-14);
}

static void check_batches(qsae_metric *m)
{
    double n = 0, tokens = 0, v3 = 0, v4 = 0, v5 = 0, r = 0, s = 0, mean[D] = { 0 }, mean2 = 0;
    for (int64_t at = 0; at < N; at += BATCH) {
        const block b = sums(rows.x_r, rows.y_r, at, at + BATCH < N ? at + BATCH : N, 0);
        n++;
        tokens += b.n;
        v3 += b.sse / b.m2;
        v4 += b.r2c / b.m2;
        v5 += b.v5;
        r += b.sse / b.n;
        s += b.s2 / b.n;
        for (int64_t i = 0; i < D; i++)
            mean[i] += b.mean[i];
    }
    for (int64_t i = 0; i < D; i++)
        mean2 += mean[i] / n * (mean[i] / n);
    assert_near(m, "fvu_v3_sparsify", v3 / n, 1e-12);
    assert_near(m, "fvu_v4_dictionary_learning", v4 / n, 1e-12);
    assert_near(m, "fvu_tokmean", v5 / tokens, 1e-12);
    assert_near(m, "fvu_v6_saebench", r / n / (s / n - s / n / D * (s / n / D)), 1e-12);
    assert_near(m, "fvu_v7_saelens", r / n / (s / n - mean2), 1e-12);
}

static void check_norms(qsae_metric *m)
{
    double n = 0, nx = 0, ny = 0, nr = 0, cos = 0, ratio = 0, y2 = 0, xy = 0, v8 = 0, l1 = 0, max =
        0;
    double fire[F] = { 0 }, above[3] = { 0 };
    for (int64_t r = 0; r < N; r++) {
        double a = 0, b = 0, c = 0, e = 0;
        if (!counted(r, 0, N, 0))
            continue;
        for (int64_t i = 0; i < D; i++) {
            const double x = rows.x_r[r * D + i], y = rows.y_r[r * D + i];
            a += x * x;
            b += y * y;
            c += x * y;
            e += (x - y) * (x - y);
        }
        for (int64_t f = 0; f < F; f++) {
            l1 += rows.a_r[r * F + f];
            fire[f] += rows.a_r[r * F + f] > 0;
            max = fmax(max, rows.a_r[r * F + f]);
        }
        n++;
        nx += sqrt(a);
        ny += sqrt(b);
        nr += sqrt(e);
        cos += c / sqrt(a * b);
        ratio += sqrt(b / a);
        y2 += b;
        xy += c;
        v8 += e / a;
    }
    double dead = 0;
    for (int64_t f = 0; f < F; f++) {
        dead += fire[f] == 0;
        above[0] += fire[f] / n > 0.001;
        above[1] += fire[f] / n > 0.01;
        above[2] += fire[f] / n > 0.1;
    }
    assert_near(m, "mean_norm_in", nx / n, 1e-13);
    assert_near(m, "mean_norm_out", ny / n, 1e-13);
    assert_near(m, "mean_residual_norm", nr / n, 1e-13);
    assert_near(m, "cossim", cos / n, 1e-13);
    assert_near(m, "l2_ratio", ratio / n, 1e-13);
    assert_near(m, "relative_reconstruction_bias", y2 / xy, 1e-13);
    assert_near(m, "normalized_mse_openai", v8 / n, 1e-13);
    assert_near(m, "l1", l1 / n, 1e-13);
    assert_near(m, "max_activation", max, 0);
    assert_near(m, "dead_features", dead, 0);
    assert_near(m, "features_rate_above_0p001", above[0], 0);
    assert_near(m, "features_rate_above_0p01", above[1], 0);
    assert_near(m, "features_rate_above_0p1", above[2], 0);
    double got[F];
    assert_ok(qsae_metric_features(m, "fire", got, F));
    assert_memory_equal(got, fire, sizeof fire);
}

/* Leaving out each document, with everything computed anew: the error given leaves out only the
 * shift of the mean. */
static void check_fvu_error(double jackknife_se)
{
    const int64_t documents = 41 - rows.document[N - 1];
    double theta[64], mean = 0, m2 = 0;
    uint8_t mask[N];
    memcpy(mask, rows.mask, sizeof mask);
    for (int64_t d = 0; d < documents; d++) {
        for (int64_t r = 0; r < N; r++)
            rows.mask[r] = mask[r] | (rows.document[r] == 40 - d ? QSAE_MASK_EXCLUDED : 0);
        const block b = sums(rows.x_r, rows.y_r, 0, N, 0);
        theta[d] = b.sse / b.m2;
        mean += theta[d] / (double)documents;
    }
    memcpy(rows.mask, mask, sizeof mask);
    for (int64_t d = 0; d < documents; d++)
        m2 += (theta[d] - mean) * (theta[d] - mean);
    const double se = sqrt(m2 * (double)(documents - 1) / (double)documents);
    assert_true(fabs(jackknife_se - se) < 0.02 * se);
}

static void test_reconstruction(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    const qsae_metric_settings s = test_settings();
    qsae_metric *m = open_kind(ctx, 2, &s);
    make_rows(21);
    assert_ok(feed(m, 0, N, 0));
    check_mask(m, "", 0);
    check_mask(m, "no_specials/", QSAE_MASK_SPECIAL);
    check_mask(m, "no_first_position/", QSAE_MASK_FIRST);
    check_batches(m);
    check_norms(m);
    const block b = sums(rows.x_r, rows.y_r, 0, N, 0), f = sums(rows.x_r, rows.y_r, 0, N, 4);
    assert_near(m, "fvu_dim_uniform", b.uniform, 1e-12);
    assert_near(m, "m2", b.m2, 1e-13);
    assert_near(m, "fvu_v9", f.sse / (f.n * D) / (f.scalar / (f.n * D - 1)), 1e-12);
    assert_near(m, "excluded_tokens", N - b.n, 0);
    assert_near(m, "documents", (double)(41 - rows.document[N - 1]), 0);
    for (int32_t i = 0; i < qsae_metric_count(m); i++) {
        qsae_value v = { .struct_size = sizeof v };
        assert_ok(qsae_metric_value(m, i, &v));
        assert_non_null(v.name);
        assert_true(v.unit[0] && v.description[0]);
        if (isnan(v.value))
            fail_msg("%s is not defined", v.name);
        if (strcmp(v.name, "fvu_dim") == 0)
            check_fvu_error(v.jackknife_se);
    }
    qsae_metric_close(&m);
    qsae_context_close(&ctx);
}

/* Means a thousand times the standard deviation cost no digits, in f64 input neither. */
static void test_large_mean(void **state)
{
    static double x[N * D], y[N * D];
    uint32_t seed = 3;
    double mean[D] = { 0 }, m2 = 0, sse = 0;
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    for (int64_t i = 0; i < N * D; i++) {
        x[i] = 1000.0 * (1 + (double)(i % D)) + next_float(&seed);
        y[i] = x[i] + 0.1 * next_float(&seed);
    }
    x[0] = 0; /* a first row far from all others */
    for (int64_t i = 0; i < N * D; i++)
        mean[i % D] += x[i] - 1000.0 * (1 + (double)(i % D));
    for (int64_t i = 0; i < N * D; i++) {
        const double c = x[i] - 1000.0 * (1 + (double)(i % D)) - mean[i % D] / N;
        m2 += c * c;
        sse += (x[i] - y[i]) * (x[i] - y[i]);
    }
    qsae_metric *m = NULL;
    const qsae_rows rx = { sizeof rx, x, N, D, D, QSAE_F64, 0 };
    qsae_rows ry = rx;
    ry.data = y;
    assert_ok(qsae_metric_open_reconstruction(ctx, D, 0, NULL, &m));
    assert_ok(qsae_metric_update_reconstruction(m, NULL, &rx, &ry, NULL));
    assert_near(m, "m2", m2, 1e-12);
    assert_near(m, "fvu_dim", sse / m2, 1e-12);
    assert_true(isnan(result(m, "l0")));
    assert_true(isnan(result(m, "dead_features")));
    /* FVU_dim does not see a constant added to x and y, FVU_scalar does. */
    const double before = result(m, "fvu_scalar"), dim = result(m, "fvu_dim");
    for (int64_t i = 0; i < N * D; i++) {
        x[i] += 65536.0 * (double)(i % D % 3);
        y[i] += 65536.0 * (double)(i % D % 3);
    }
    qsae_metric_reset(m);
    assert_ok(qsae_metric_update_reconstruction(m, NULL, &rx, &ry, NULL));
    assert_true(result(m, "fvu_scalar") < 0.5 * before);
    assert_near(m, "fvu_dim", dim, 1e-8);
    qsae_metric_close(&m);
    qsae_context_close(&ctx);
}

static void test_drift(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    const qsae_metric_settings s = test_settings();
    qsae_metric *m = open_kind(ctx, 4, &s);
    static double ratio[N];
    double nd = 0, e2 = 0, rest2 = 0, cross = 0, fixed = 0;
    int64_t n = 0;
    make_rows(22);
    assert_ok(feed(m, 0, N, 0));
    for (int64_t r = 0; r < N; r++) {
        double d2 = 0, q2 = 0;
        for (int64_t i = r * D; i < (r + 1) * D && counted(r, 0, N, 0); i++) {
            const double d = (double)rows.x_q[i] - rows.x_r[i], e =
                (double)rows.y_q[i] - rows.y_r[i];
            const double q = (double)rows.x_q[i] - rows.y_q[i], f =
                (double)rows.x_r[i] - rows.y_q[i];
            d2 += d * d;
            q2 += q * q;
            e2 += e * e;
            rest2 += (d - e) * (d - e);
            cross += e * (d - e);
            fixed += f * f;
        }
        nd += sqrt(d2);
        if (counted(r, 0, N, 0))
            ratio[n++] = sqrt(d2) / sqrt(q2);
    }
    const block d = sums(rows.x_r, rows.x_q, 0, N, 0), q = sums(rows.x_q, rows.y_q, 0, N, 0);
    const block r = sums(rows.x_r, rows.y_r, 0, N, 0);
    const double p = sqrt(d.sse / d.s2), rq = sqrt(q.sse / q.s2), rr = sqrt(r.sse / r.s2);
    assert_near(m, "P", p, 1e-12);
    assert_near(m, "P_centered", sqrt(d.r2c / d.m2), 1e-12);
    assert_near(m, "R_q", rq, 1e-12);
    assert_near(m, "R_r", rr, 1e-12);
    assert_near(m, "R_q_centered", sqrt(q.r2c / q.m2), 1e-12);
    assert_near(m, "ratio", p / rq, 1e-12);
    assert_near(m, "ratio_residual_r", p / rr, 1e-12);
    assert_near(m, "ratio_squared", p * p / (rq * rq), 1e-12);
    assert_near(m, "ratio_centered", sqrt(d.r2c / d.m2) / sqrt(q.r2c / q.m2), 1e-12);
    assert_near(m, "ratio_token_median", quantile(ratio, n, 0.5), 1e-13);
    assert_near(m, "mean_delta_norm", nd / d.n, 1e-12);
    assert_near(m, "mse_q", q.sse / q.n / D, 1e-12);
    assert_near(m, "mse_delta", d.sse / d.n / D, 1e-12);
    assert_near(m, "fixed_basis_sse", fixed, 1e-12);
    assert_near(m, "share_E", e2 / d.sse, 1e-12);
    assert_near(m, "share_e", rest2 / d.sse, 1e-12);
    assert_near(m, "share_cross", 2 * cross / d.sse, 1e-12);
    const double shares = result(m, "share_E") + result(m, "share_e") + result(m, "share_cross");
    assert_true(fabs(shares - 1) < 1e-13);
    qsae_metric_close(&m);
    qsae_context_close(&ctx);
}

/* The largest activations of each feature, found by looking at all of them; gain and cosine. */
static void test_top(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    qsae_metric_settings s = test_settings();
    s.documents_per_block = 0;
    qsae_metric *m = open_kind(ctx, 3, &s);
    double gain[F], cosine[F];
    make_rows(29);
    for (int64_t i = 0; i < N * F; i++) { /* ties */
        rows.a_r[i] = floorf(4 * rows.a_r[i]) / 4;
        rows.a_q[i] = floorf(4 * rows.a_q[i]) / 4;
    }
    make_sparse(rows.a_r, rows.ptr_r, rows.index_r, rows.value_r);
    make_sparse(rows.a_q, rows.ptr_q, rows.index_q, rows.value_q);
    assert_ok(feed(m, 0, N, 1000));
    assert_ok(qsae_metric_features(m, "gain", gain, F));
    assert_ok(qsae_metric_features(m, "cosine", cosine, F));
    for (int64_t f = 0; f < F; f++) {
        double xx = 0, yy = 0, xy = 0;
        for (int64_t t = 0; t < N; t++)
            if (counted(t, 0, N, 0)) {
                const double x = rows.a_r[t * F + f], y = rows.a_q[t * F + f];
                xx += x * x;
                yy += y * y;
                xy += x * y;
            }
        assert_true(xx > 0 ? fabs(gain[f] - xy / xx) < 1e-12 : isnan(gain[f]));
        assert_true(xx * yy > 0 ? fabs(cosine[f] - xy / sqrt(xx * yy)) < 1e-12 : isnan(cosine[f]));
        for (int32_t side = 0; side < 2; side++) {
            const float *const a = side ? rows.a_q : rows.a_r;
            int64_t tokens[7], n, last = -1;
            double values[7], bound = INFINITY;
            assert_ok(qsae_metric_top(m, f, side, tokens, values, 7, &n));
            for (int64_t k = 0; k < n; k++) {
                int64_t best = -1; /* next in the order (value down, token up) */
                for (int64_t t = 0; t < N; t++) {
                    const double v = a[t * F + f];
                    if (counted(t, 0, N, 0) && v > 0 && (v < bound || (v == bound && t > last)) &&
                        (best < 0 || v > a[best * F + f]))
                        best = t;
                }
                assert_int_equal(tokens[k], best + 1000);
                assert_true(values[k] == (double)a[best * F + f]);
                bound = values[k];
                last = best;
            }
            if (n < 7) /* all that there are */
                for (int64_t t = 0; t < N; t++)
                    assert_true(!counted(t, 0, N, 0) || a[t * F + f] <= 0 ||
                                a[t * F + f] > bound ||
                                (a[t * F + f] == (float)bound && t <= last));
        }
    }
    int64_t tokens[7], n;
    double values[7];
    assert_fails(qsae_metric_top(m, 2 * F, 0, tokens, values, 7, &n), QSAE_EINVAL, "feature");
    assert_fails(qsae_metric_top(m, 9, 2, tokens, values, 7, &n), QSAE_EINVAL, "side 2");
    assert_fails(qsae_metric_top(m, F - 1, 0, tokens, values, 1, &n), QSAE_ESPACE, "7");
    qsae_metric_close(&m);
    s.top = 0;
    m = open_kind(ctx, 3, &s);
    assert_fails(qsae_metric_top(m, 0, 0, tokens, values, 7, &n), QSAE_ENOENT, "features");
    qsae_metric_close(&m);
    s.top = 1025;
    assert_fails(qsae_metric_open_features(ctx, F, &s, &m), QSAE_EINVAL, "top");
    qsae_context_close(&ctx);
}

static void test_features(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    const qsae_metric_settings s = test_settings();
    qsae_metric *m = open_kind(ctx, 3, &s);
    double n = 0, r[F], got[F], active = 0, survived = 0, damaged = 0, sum = 0, both = 0, either =
        0;
    make_rows(23);
    assert_ok(feed(m, 0, N, 0));
    for (int64_t t = 0; t < N; t++)
        n += counted(t, 0, N, 0);
    for (int64_t f = 0; f < F; f++) {
        double mx = 0, my = 0, xx = 0, yy = 0, xy = 0, fire = 0;
        for (int64_t t = 0; t < N; t++)
            if (counted(t, 0, N, 0)) {
                mx += rows.a_r[t * F + f] / n;
                my += rows.a_q[t * F + f] / n;
            }
        for (int64_t t = 0; t < N; t++) {
            const double x = rows.a_r[t * F + f], y = rows.a_q[t * F + f];
            if (!counted(t, 0, N, 0))
                continue;
            xx += (x - mx) * (x - mx);
            yy += (y - my) * (y - my);
            xy += (x - mx) * (y - my);
            fire += x > 0;
            both += x > 0 && y > 0;
            either += x > 0 || y > 0;
        }
        r[f] = xy / sqrt(fmax(xx * yy, 1e-12));
        if (fire / n > 0.001) {
            active++;
            survived += r[f] > 0.9;
            damaged += r[f] < 0.5;
            sum += r[f];
        }
    }
    assert_ok(qsae_metric_features(m, "r", got, F));
    for (int64_t f = 0; f < F; f++)
        assert_true(fabs(got[f] - r[f]) < 1e-12);
    assert_true(survived > 0 && survived < active && damaged > 0);
    assert_near(m, "active", active, 0);
    assert_near(m, "survived", survived, 0);
    assert_near(m, "damaged", damaged, 0);
    assert_near(m, "degraded", active - survived - damaged, 0);
    assert_near(m, "mean_r", sum / active, 1e-12);
    assert_near(m, "survived_percent", 100 * survived / active, 1e-13);
    assert_near(m, "cofire_jaccard_all", both / either, 1e-13);
    assert_near(m, "newly_dead", 1, 0);  /* feature 5 */
    assert_near(m, "newly_alive", 1, 0); /* feature 3 */
    qsae_metric_close(&m);
    qsae_context_close(&ctx);
}

/* The reference against itself: r is 1 exactly, drift 0 exactly. */
static void test_null(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    qsae_metric *f = open_kind(ctx, 3, NULL), *d = open_kind(ctx, 4, NULL);
    make_rows(24);
    const qsae_sparse_rows r = { sizeof r, N, rows.ptr_r, rows.index_r, rows.value_r };
    const qsae_rows x = { sizeof x, rows.x_r, N, D, D, QSAE_F32, 0 };
    qsae_rows y = x;
    y.data = rows.y_r;
    assert_ok(qsae_metric_update_features(f, NULL, &r, &r));
    assert_near(f, "min_r", 1, 0);
    assert_near(f, "mean_r", 1, 0);
    assert_near(f, "survived_percent", 100, 0);
    assert_near(f, "cofire_jaccard_all", 1, 0);
    assert_ok(qsae_metric_update_drift(d, NULL, &x, &x, &y, &y));
    assert_near(d, "P", 0, 0);
    assert_near(d, "ratio", 0, 0);
    assert_near(d, "ratio_token_median", 0, 0);
    assert_near(d, "R_q", result(d, "R_r"), 0);
    qsae_metric_close(&f);
    qsae_metric_close(&d);
    qsae_context_close(&ctx);
}

/* Error by leaving out each document, from the values themselves; an interval about the value. */
static void check_interval(qsae_metric *m, const char *name, const float *a, const float *b)
{
    double low = NAN, high = NAN, value = NAN, found = NAN, theta[64], mean = 0, m2 = 0;
    int64_t documents = 41 - rows.document[N - 1];
    for (int64_t d = 0; d < documents; d++) {
        double sum = 0, n = 0;
        for (int64_t r = 0; r < N; r++)
            if (counted(r, 0, N, 0) && !isnan(rows.nll_r[r]) && rows.document[r] != 40 - d) {
                sum += (double)a[r] - (b ? b[r] : 0);
                n++;
            }
        theta[d] = sum / n;
        mean += theta[d] / (double)documents;
    }
    for (int64_t d = 0; d < documents; d++)
        m2 += (theta[d] - mean) * (theta[d] - mean);
    for (int32_t i = 0; i < qsae_metric_count(m); i++) {
        qsae_value v = { .struct_size = sizeof v };
        assert_ok(qsae_metric_value(m, i, &v));
        if (strcmp(v.name, name) == 0) {
            low = v.low;
            high = v.high;
            value = v.value;
            found = v.jackknife_se;
        }
    }
    const double se = sqrt(m2 * (double)(documents - 1) / (double)documents);
    assert_true(documents >= 20 && se > 0);
    assert_true(fabs(found - se) < 1e-9 * se);
    assert_true(low < value - se && high > value + se && high - low < 6 * se);
}

static void test_divergence(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    const qsae_metric_settings s = test_settings();
    qsae_metric *m = open_kind(ctx, 1, &s), *c = open_kind(ctx, 0, &s);
    static double kl[N], d[N];
    double nr = 0, nq = 0, sum = 0, dp = 0, dp2 = 0, same = 0, lost = 0, won = 0, batches = 0;
    double batch = 0, count = 0;
    int64_t n = 0;
    make_rows(25);
    assert_ok(feed(m, 0, N, 0));
    assert_ok(feed(c, 0, N, 0));
    for (int64_t r = 0; r < N; r++) {
        if (counted(r, 0, N, 0) && !isnan(rows.nll_r[r])) {
            const double a = rows.nll_r[r], b = rows.nll_q[r], p = exp(-b) - exp(-a);
            nr += a;
            nq += b;
            batch += a;
            count++;
            dp += p;
            dp2 += p * p;
            sum += kl[n] = rows.kl[r];
            same += rows.top_r[r] == rows.top_q[r];
            lost += rows.top_r[r] == rows.label[r] && rows.top_q[r] != rows.label[r];
            won += rows.top_r[r] != rows.label[r] && rows.top_q[r] == rows.label[r];
            d[n++] = b - a;
        }
        if ((r + 1) % BATCH == 0 || r + 1 == N) {
            batches += batch / count / (double)((N + BATCH - 1) / BATCH);
            batch = count = 0;
        }
    }
    const double t = (double)n;
    assert_near(m, "tokens", t, 0);
    assert_near(m, "ce_r", nr / t, 1e-13);
    assert_near(m, "dce", (nq - nr) / t, 1e-11);
    assert_near(m, "dce_percent", 100 * (nq - nr) / nr, 1e-11);
    assert_near(m, "ppl_ratio", exp((nq - nr) / t), 1e-12);
    assert_near(m, "kl_mean", sum / t, 1e-13);
    assert_near(m, "kl_median", quantile(kl, n, 0.5), 1e-14);
    assert_near(m, "kl_q99", quantile(kl, n, 0.99), 1e-14);
    assert_near(m, "kl_q999", quantile(kl, n, 0.999), 1e-14);
    assert_near(m, "kl_max", kl[n - 1], 0);
    assert_near(m, "dnll_q99", quantile(d, n, 0.99), 1e-13);
    assert_near(m, "dnll_max", d[n - 1], 0);
    assert_near(m, "same_top", same / t, 1e-14);
    assert_near(m, "top1_agreement", same / t, 1e-14);
    assert_near(m, "right_to_wrong", lost, 0);
    assert_near(m, "wrong_to_right", won, 0);
    assert_near(m, "dp_mean", dp / t, 1e-12);
    assert_near(m, "dp_rms", sqrt(dp2 / t), 1e-12);
    assert_near(c, "ce", nr / t, 1e-13);
    assert_near(c, "ppl", exp(nr / t), 1e-12);
    assert_near(c, "ce_mean_of_batch_means", batches, 1e-13);
    check_interval(m, "dce", rows.nll_q, rows.nll_r);
    check_interval(m, "kl_mean", rows.kl, NULL);
    check_interval(c, "ce", rows.nll_r, NULL);
    qsae_metric_close(&m);
    qsae_metric_close(&c);
    qsae_context_close(&ctx);
}

const struct CMUnitTest value_tests[] = {
    cmocka_unit_test(test_reconstruction), cmocka_unit_test(test_large_mean),
    cmocka_unit_test(test_drift),          cmocka_unit_test(test_features),
    cmocka_unit_test(test_top),
    cmocka_unit_test(test_null),           cmocka_unit_test(test_divergence),
};
const size_t n_value_tests = sizeof value_tests / sizeof value_tests[0];
