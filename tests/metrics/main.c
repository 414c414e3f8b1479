/* SPDX-License-Identifier: BSD-2-Clause */
#include "metrics_test.h"

data rows;
const char *const kind_names[KINDS] = { "cross_entropy", "divergence", "reconstruction", "features",
                                        "drift" };

void make_sparse(const float *dense, int64_t *ptr, int32_t *index, float *value)
{
    int64_t n = 0;
    for (int64_t r = 0; r < N; r++) {
        ptr[r] = n;
        for (int32_t f = 0; f < F; f++)
            if (dense[r * F + f] != 0) {
                index[n] = f;
                value[n++] = dense[r * F + f];
            }
    }
    ptr[N] = n;
}

static void make_acts(uint32_t *s)
{
    for (int64_t r = 0; r < N; r++)
        for (int64_t f = 0; f < F; f++) {
            const bool on = next_random(s) % 97 < (uint32_t)f + 1;
            const float a = on ? 1.5f + next_float(s) : 0, noise = next_float(s);
            rows.a_r[r * F + f] = f == 3 ? 0 : a;
            rows.a_q[r * F + f] = f == 5 || (on && next_random(s) % 10 == 0) ? 0
                                  : f == 3 ? (a > 0 ? a : 0)
                                           : a > 0 ? a + 0.2f * (float)(f % 7) * noise + 0.01f : 0;
        }
    make_sparse(rows.a_r, rows.ptr_r, rows.index_r, rows.value_r);
    make_sparse(rows.a_q, rows.ptr_q, rows.index_q, rows.value_q);
}

void make_rows(uint32_t seed)
{
    uint32_t s = seed;
    for (int64_t i = 0; i < N * D; i++) {
        rows.x_r[i] = 3 * next_float(&s) * (float)(1 + i % D) + (float)(i % D);
        rows.x_q[i] = rows.x_r[i] + 0.5f * next_float(&s);
        rows.y_r[i] = rows.x_r[i] + next_float(&s) + 0.1f;
        rows.y_q[i] = rows.x_q[i] + next_float(&s) - 0.2f;
    }
    int64_t document = 40;
    for (int64_t i = 0; i < N; i++) {
        document -= next_random(&s) % 90 == 0;
        rows.document[i] = document;
        rows.mask[i] = (uint8_t)((next_random(&s) % 37 == 0 ? QSAE_MASK_SPECIAL : 0) |
                                 (i % 128 == 0 ? QSAE_MASK_FIRST : 0) |
                                 (i % 500 == 7 ? QSAE_MASK_EXCLUDED : 0));
        rows.nll_r[i] = i % 128 == 127 ? NAN : 2 + 2 * next_float(&s);
        rows.nll_q[i] = rows.nll_r[i] + 0.3f * next_float(&s) + 0.02f;
        rows.kl[i] = 0.2f + 0.2f * next_float(&s);
        rows.label[i] = (int32_t)(next_random(&s) % 5);
        rows.top_r[i] = (int32_t)(next_random(&s) % 5);
        rows.top_q[i] = next_random(&s) % 4 ? rows.top_r[i] : (int32_t)(next_random(&s) % 5);
    }
    make_acts(&s);
}

qsae_metric_settings test_settings(void)
{
    qsae_metric_settings s;
    qsae_metric_settings_init(&s, sizeof s);
    s.batch_rows = BATCH;
    s.top = 7; /* of kind features */
    s.documents_per_block = 2;
    s.fingerprint = "test";
    return s;
}

qsae_metric *open_kind(qsae_context *ctx, int kind, const qsae_metric_settings *s)
{
    qsae_metric *m = NULL;
    switch (kind) {
    case 0: assert_ok(qsae_metric_open_cross_entropy(ctx, s, &m)); break;
    case 1: assert_ok(qsae_metric_open_divergence(ctx, s, &m)); break;
    case 2: assert_ok(qsae_metric_open_reconstruction(ctx, D, F, s, &m)); break;
    case 3: assert_ok(qsae_metric_open_features(ctx, F, s, &m)); break;
    default: assert_ok(qsae_metric_open_drift(ctx, D, s, &m)); break;
    }
    assert_string_equal(qsae_metric_kind(m), kind_names[kind]);
    return m;
}

static qsae_rows part(float *values, int64_t first, int64_t n)
{
    return (qsae_rows){ .struct_size = sizeof(qsae_rows), .data = values + first * D, .n_rows = n,
                        .n_cols = D, .row_stride = D, .dtype = QSAE_F32 };
}

int32_t feed(qsae_metric *m, int64_t first, int64_t n, int64_t shift)
{
    const qsae_positions at = { .struct_size = sizeof at, .first_token = first + shift,
                                .document = rows.document + first, .mask = rows.mask + first,
                                .n_rows = n };
    const qsae_divergence_rows d = {
        .struct_size = sizeof d, .n = n, .nll_r = rows.nll_r + first, .nll_q = rows.nll_q + first,
        .kl = rows.kl + first, .top_r = rows.top_r + first, .top_q = rows.top_q + first,
        .label = rows.label + first
    };
    const qsae_sparse_rows r = { sizeof r, n, rows.ptr_r + first, rows.index_r, rows.value_r };
    const qsae_sparse_rows q = { sizeof q, n, rows.ptr_q + first, rows.index_q, rows.value_q };
    const qsae_rows x_r = part(rows.x_r, first, n), x_q = part(rows.x_q, first, n);
    const qsae_rows y_r = part(rows.y_r, first, n), y_q = part(rows.y_q, first, n);
    switch (qsae_metric_kind(m)[0]) {
    case 'c': return qsae_metric_update_cross_entropy(m, &at, n, rows.nll_r + first);
    case 'r': return qsae_metric_update_reconstruction(m, &at, &x_r, &y_r, &r);
    case 'f': return qsae_metric_update_features(m, &at, &r, &q);
    default: break;
    }
    return qsae_metric_kind(m)[1] == 'i' ? qsae_metric_update_divergence(m, &at, &d)
                                         : qsae_metric_update_drift(m, &at, &x_r, &x_q, &y_r, &y_q);
}

void write_state(const qsae_metric *m, qsae__strbuf *b)
{
    b->size = 0;
    qsae__metric_write(m, b);
    assert_int_equal(b->status, QSAE_OK);
}

void assert_same_state(qsae_metric *a, qsae_metric *b)
{
    qsae_context *ctx = open_context("c", 1);
    qsae__strbuf s[2];
    for (int i = 0; i < 2; i++) {
        qsae__strbuf_init(&s[i], ctx);
        write_state(i ? b : a, &s[i]);
    }
    assert_int_equal(s[0].size, s[1].size);
    assert_memory_equal(s[0].data, s[1].data, (size_t)s[0].size);
    for (int32_t i = 0; i < qsae_metric_count(a); i++) {
        qsae_value v = { .struct_size = sizeof v }, w = v;
        assert_ok(qsae_metric_value(a, i, &v));
        assert_ok(qsae_metric_value(b, i, &w));
        assert_memory_equal(&v, &w, sizeof v);
    }
    qsae__strbuf_free(&s[0]);
    qsae__strbuf_free(&s[1]);
    qsae_context_close(&ctx);
}

double result(qsae_metric *m, const char *name)
{
    double v = 0;
    assert_ok(qsae_metric_get(m, name, &v));
    return v;
}

void assert_near(qsae_metric *m, const char *name, double want, double relative)
{
    const double got = result(m, name);
    if (!(fabs(got - want) <= relative * fabs(want)))
        fail_msg("%s: expected %.17g, found %.17g", name, want, got);
}

int main(int argc, char **argv)
{
    struct CMUnitTest metrics_tests[64];
    size_t n = 0;
    for (size_t i = 0; i < n_value_tests; i++)
        metrics_tests[n++] = value_tests[i];
    for (size_t i = 0; i < n_order_tests; i++)
        metrics_tests[n++] = order_tests[i];
    for (size_t i = 0; i < n_state_tests; i++)
        metrics_tests[n++] = state_tests[i];
    for (size_t i = 0; i < n_input_tests; i++)
        metrics_tests[n++] = input_tests[i];
    for (size_t i = 0; i < n_level_tests; i++)
        metrics_tests[n++] = level_tests[i];
    for (size_t i = 0; i < n_rank_tests; i++)
        metrics_tests[n++] = rank_tests[i];
    for (size_t i = 0; i < n_overlap_tests; i++)
        metrics_tests[n++] = overlap_tests[i];
    for (size_t i = 0; i < n_accumulator_tests; i++)
        metrics_tests[n++] = accumulator_tests[i];
    for (size_t i = 0; i < n_counter_tests; i++)
        metrics_tests[n++] = counter_tests[i];
    for (size_t i = 0; i < n_shard_tests; i++)
        metrics_tests[n++] = shard_tests[i];
    for (size_t i = 0; i < n_forged_tests; i++)
        metrics_tests[n++] = forged_tests[i];
    for (size_t i = 0; i < n_written_tests; i++)
        metrics_tests[n++] = written_tests[i];
    for (size_t i = 0; i < n_edge_tests; i++)
        metrics_tests[n++] = edge_tests[i];
    if (argc > 1) /* only tests whose names match, with * and ? */
        cmocka_set_test_filter(argv[1]);
    return _cmocka_run_group_tests("metrics", metrics_tests, n, NULL, NULL);
}
