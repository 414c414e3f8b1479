/* SPDX-License-Identifier: BSD-2-Clause */
/* Metrics of every kind: results, and the bytes of the state. */
#include <math.h>
#include <unistd.h>

#include "same.h"

enum { CROSS_ENTROPY, DIVERGENCE, RECONSTRUCTION, FEATURES, DRIFT, DIVERGENCE_LOGITS,
       CROSS_ENTROPY_LOGITS, LLAMA_CPP, KINDS };
static const char *const names[KINDS] = {
    "metric:cross_entropy", "metric:divergence", "metric:reconstruction", "metric:features",
    "metric:drift", "metric:divergence_logits", "metric:cross_entropy_logits", "metric:llama_cpp"
};
static const int kinds[KINDS] = { 0, 1, 2, 3, 4, 5, 6, 7 };

#define D 19
#define F 53
#define VOCAB 37
#define CHUNK 32 /* of llama.cpp's report */

typedef struct inputs {
    int64_t n;
    int64_t *document, *indptr[2];
    uint8_t *mask;
    float *x[4], *nll[2], *kl, *logits[2], *values[2];
    int32_t *top[2], *label, *indices[2];
} inputs;

static void sparse(same_run *r, uint32_t *seed, inputs *in, int side)
{
    int64_t n = 0;
    in->indptr[side] = same_array(r, in->n + 1, sizeof(int64_t));
    in->indices[side] = same_array(r, in->n * F, sizeof(int32_t));
    in->values[side] = same_array(r, in->n * F, sizeof(float));
    for (int64_t t = 0; t < in->n; t++) {
        in->indptr[side][t] = n;
        for (int32_t f = 0; f < F; f++)
            if (next_random(seed) % 97 < (uint32_t)f + 1) {
                in->indices[side][n] = f;
                in->values[side][n++] = same_number(seed, 0) + 1.0f + 0x1p-23f;
            }
    }
    in->indptr[side][in->n] = n;
}

static void make(same_run *r, inputs *in)
{
    uint32_t seed = 63;
    const int64_t n = in->n;
    in->document = same_array(r, n, sizeof *in->document);
    in->mask = same_array(r, n, 1);
    in->label = same_array(r, n, sizeof *in->label);
    in->kl = same_array(r, n, sizeof *in->kl);
    for (int k = 0; k < 4; k++) {
        in->x[k] = same_array(r, n * D, sizeof(float));
        same_numbers(&seed, in->x[k], n * D, k % 2 ? 1 : 2, true);
    }
    for (int k = 0; k < 2; k++) {
        in->nll[k] = same_array(r, n, sizeof(float));
        in->top[k] = same_array(r, n, sizeof(int32_t));
        in->logits[k] = same_array(r, n * VOCAB, sizeof(float));
        same_numbers(&seed, in->logits[k], n * VOCAB, 3, false);
        sparse(r, &seed, in, k);
    }
    for (int64_t t = 0, document = 0; t < n; t++) {
        document += next_random(&seed) % 23 == 0;
        in->document[t] = document;
        in->mask[t] = (uint8_t)((next_random(&seed) % 37 == 0 ? QSAE_MASK_SPECIAL : 0) |
                                (t % 128 == 0 ? QSAE_MASK_FIRST : 0) |
                                (t % 500 == 7 ? QSAE_MASK_EXCLUDED : 0));
        for (int k = 0; k < 2; k++) {
            in->nll[k][t] = same_number(&seed, 1) + 2.0f;
            in->top[k][t] = (int32_t)(next_random(&seed) % 5);
        }
        in->kl[t] = same_number(&seed, -3) + 0.125f;
        in->label[t] = (int32_t)(next_random(&seed) % 5);
    }
}

static int32_t open_kind(qsae_context *ctx, int kind, qsae_metric **m)
{
    qsae_metric_settings s;
    qsae_metric_settings_init(&s, sizeof s);
    s.batch_rows = kind == LLAMA_CPP ? CHUNK : 100;
    s.fingerprint = "same";
    s.seed = 3;
    if (kind == FEATURES) {
        s.top = 5;
        s.documents_per_block = same_full ? 25 : 2; /* at most 32 blocks */
    }
    switch (kind) {
    case CROSS_ENTROPY:
    case CROSS_ENTROPY_LOGITS: return qsae_metric_open_cross_entropy(ctx, &s, m);
    case DIVERGENCE:
    case DIVERGENCE_LOGITS: return qsae_metric_open_divergence(ctx, &s, m);
    case RECONSTRUCTION: return qsae_metric_open_reconstruction(ctx, D, F, &s, m);
    case FEATURES: return qsae_metric_open_features(ctx, F, &s, m);
    case LLAMA_CPP: return qsae_metric_open_llama_cpp(ctx, &s, m);
    default: return qsae_metric_open_drift(ctx, D, &s, m);
    }
}

static qsae_rows part(float *values, int64_t first, int64_t n, int64_t cols)
{
    return (qsae_rows){ .struct_size = sizeof(qsae_rows), .data = values + first * cols,
                        .n_rows = n, .n_cols = cols, .row_stride = cols, .dtype = QSAE_F32 };
}

static int32_t feed(qsae_metric *m, int kind, const inputs *in, int64_t first, int64_t n)
{
    const qsae_positions at = { .struct_size = sizeof at, .first_token = first, .n_rows = n,
                                .document = in->document + first, .mask = in->mask + first };
    const qsae_divergence_rows d = {
        .struct_size = sizeof d, .n = n, .nll_r = in->nll[0] + first, .nll_q = in->nll[1] + first,
        .kl = in->kl + first, .top_r = in->top[0] + first, .top_q = in->top[1] + first,
        .label = in->label + first
    };
    const qsae_sparse_rows s[2] = {
        { sizeof s[0], n, in->indptr[0] + first, in->indices[0], in->values[0] },
        { sizeof s[0], n, in->indptr[1] + first, in->indices[1], in->values[1] }
    };
    const qsae_rows l[2] = { part(in->logits[0], first, n, VOCAB),
                             part(in->logits[1], first, n, VOCAB) };
    qsae_rows x[4];
    for (int k = 0; k < 4; k++)
        x[k] = part(in->x[k], first, n, D);
    const int32_t *const label = in->label + first;
    switch (kind) {
    case CROSS_ENTROPY: return qsae_metric_update_cross_entropy(m, &at, n, in->nll[0] + first);
    case DIVERGENCE: return qsae_metric_update_divergence(m, &at, &d);
    case RECONSTRUCTION: return qsae_metric_update_reconstruction(m, &at, &x[0], &x[1], &s[0]);
    case FEATURES: return qsae_metric_update_features(m, &at, &s[0], &s[1]);
    case DRIFT: return qsae_metric_update_drift(m, &at, &x[0], &x[1], &x[2], &x[3]);
    case DIVERGENCE_LOGITS:
        return qsae_metric_update_divergence_logits(m, &at, &l[0], &l[1], label);
    case LLAMA_CPP: return qsae_metric_update_llama_cpp_logits(m, &at, &l[0], &l[1], label);
    default: return qsae_metric_update_cross_entropy_logits(m, &at, &l[0], label);
    }
}

static void add_state(same_run *r, const qsae_metric *m)
{
    char path[400];
    snprintf(path, sizeof path, "%s/state", same_folder);
    SAME_CALL(r, qsae_metric_save(m, path));
    FILE *const f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    const long size = ftell(f);
    assert_true(size > 0);
    rewind(f);
    char *const data = malloc((size_t)size);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, (size_t)size, f), size);
    fclose(f);
    unlink(path);
    same_add(r, data, size, 1);
    free(data);
}

static void compute(same_run *r, const void *argument)
{
    const int kind = *(const int *)argument;
    inputs in = { .n = same_full ? 8192 : 704 };
    qsae_metric *m = NULL;
    make(r, &in);
    SAME_CALL(r, open_kind(r->ctx, kind, &m));
    for (int64_t q = 0, n; q < in.n; q += n) {
        n = same_step(r, q, in.n);
        SAME_CALL(r, feed(m, kind, &in, q, n));
    }
    for (int32_t i = 0; i < qsae_metric_count(m); i++) {
        qsae_value v = { .struct_size = sizeof v };
        SAME_CALL(r, qsae_metric_value(m, i, &v));
        const double figures[] = { v.value, v.low, v.high, v.jackknife_se };
        for (int k = 0; k < 4; k++) {
            const double nan = 0; /* in place of a NaN, whose sign is no promise */
            same_add(r, isnan(figures[k]) ? &nan : &figures[k], 1, sizeof nan);
        }
    }
    if (kind == FEATURES) {
        double *const per_feature = same_array(r, F, sizeof *per_feature);
        SAME_CALL(r, qsae_metric_features(m, "r", per_feature, F));
        for (int f = 0; f < F; f++)
            per_feature[f] = isnan(per_feature[f]) ? 0 : per_feature[f];
        same_add(r, per_feature, F, sizeof *per_feature);
    }
    add_state(r, m);
    qsae_metric_close(&m);
}

size_t same_metrics(same_case *cases, size_t most)
{
    assert_true(KINDS <= most);
    for (size_t i = 0; i < KINDS; i++)
        cases[i] = (same_case){ names[i], SAME_F32, compute, &kinds[i] };
    return KINDS;
}
