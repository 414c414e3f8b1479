/* SPDX-License-Identifier: BSD-2-Clause */
/* The tiny checkpoints of tests/data/models against transformers. */
#include "model_test.h"

struct fixture {
    char path[600];
    qsae__tensors *tensors;
    json_t *report;
    int32_t *ids;
    int64_t n_seq, n_tokens;
};

static void fixture_open(qsae_context *ctx, const char *name, struct fixture *f)
{
    char path[700];
    snprintf(f->path, sizeof f->path, "%s", test_model_path(name));
    snprintf(path, sizeof path, "%s/reference.safetensors", f->path);
    OK(qsae__tensors_load(ctx, path, &f->tensors));
    snprintf(path, sizeof path, "%s/reference.json", f->path);
    OK(qsae__json_load(ctx, path, &f->report));
    const qsae__tensor *ids = qsae__tensors_find(f->tensors, "ids");
    assert_non_null(ids);
    f->n_seq = ids->shape[0];
    f->n_tokens = ids->shape[1];
    f->ids = malloc((size_t)ids->bytes);
    assert_non_null(f->ids);
    memcpy(f->ids, ids->data, (size_t)ids->bytes);
}

static void fixture_close(struct fixture *f)
{
    free(f->ids);
    json_decref(f->report);
    qsae__tensors_unref(&f->tensors);
}

/* report[table][attention][tensor].rms, 0 if it is not there */
static double reported(const struct fixture *f, const char *table, const char *attention,
                       const char *tensor)
{
    const json_t *o = json_object_get(f->report, table);
    if (attention)
        o = json_object_get(o, attention);
    return json_number_value(json_object_get(json_object_get(o, tensor), "rms"));
}

/* rms distance of `got` from reference tensor run.name; nll lacks each sequence's last position. */
static double distance(const struct fixture *f, const char *run, const char *name, const float *got)
{
    char key[64];
    int64_t n;
    snprintf(key, sizeof key, "%s.%s", run, name);
    double *want = test_values(f->tensors, key, &n), *have = malloc((size_t)n * sizeof *have);
    assert_non_null(have);
    const bool nll = !strcmp(name, "nll");
    for (int64_t i = 0; i < n; i++)
        have[i] = (double)(nll ? got[i + i / (f->n_tokens - 1)] : got[i]);
    const double d = test_rms(have, want, n);
    free(have);
    free(want);
    return d;
}

/* f32 within twice the error of torch's own f32 run, both against binary64. */
static void check_f32(struct fixture *f, const char *name, qsae_context *ctx)
{
    qsae_model *m = test_model(ctx, f->path, NULL, QSAE_COMPUTE_F32, QSAE_ATTN_SDPA);
    struct test_result r;
    test_run(m, f->ids, f->n_seq, f->n_tokens, &r);
    for (int64_t i = -2; i < r.layers; i++) {
        char key[32];
        snprintf(key, sizeof key, i == -2 ? "logits" : i == -1 ? "nll" : "resid.%d", (int)i);
        const float *got = i == -2 ? r.logits : i == -1 ? r.nll : r.resid[i];
        const double mine = distance(f, "oracle", key, got);
        const double torch = reported(f, "f32_error", "sdpa", key);
        assert_true(torch > 0);
        if (!(mine <= 2 * torch))
            fail_msg("%s %s: rms error %g, torch %g", name, key, mine, torch);
    }
    for (int64_t s = 0; s < f->n_seq; s++)
        assert_true(isnan(r.nll[(s + 1) * f->n_tokens - 1]));
    test_result_free(&r);
    qsae_model_close(&m);
}

/*
 * bf16 within 1.5 times what torch's own runs differ by, for threads, oneDNN and order of
 * summation. Where torch shows none (few roundings are near a tie in models this small), one
 * flipped rounding is allowed: an eighth of the distance between its two attention kernels; two
 * where all products are of bf16 values in an order of their own.
 */
static void check_bf16(struct fixture *f, const char *name, qsae_context *ctx,
                       const char *attention, int mode)
{
    char run[32];
    qsae_model *m = test_model(ctx, f->path, "none@compute=bf16", 0, mode);
    struct test_result r;
    snprintf(run, sizeof run, "bf16.%s", attention);
    test_run(m, f->ids, f->n_seq, f->n_tokens, &r);
    const char *const keys[] = { "logits", "nll" };
    for (int i = 0; i < 2; i++) {
        const double d = distance(f, run, keys[i], i ? r.nll : r.logits);
        const double spread = fmax(reported(f, "bf16_spread", attention, keys[i]),
                                   reported(f, "bf16_reordered", attention, keys[i]));
        const double modes = reported(f, "bf16_sdpa_eager", NULL, keys[i]);
        assert_true(modes > 0);
        const double flips = qsae__packed_get(ctx)->bf16 ? 2 : 1;
        if (!(d <= fmax(1.5 * spread, flips * modes / 8)))
            fail_msg("%s %s %s: rms distance %g, torch %g, between kernels %g", name, run, keys[i],
                     d, spread, modes);
    }
    for (int64_t i = 0; i < r.rows * r.vocab; i++)
        assert_true(r.logits[i] == qsae__round_bf16(r.logits[i]));
    test_result_free(&r);
    qsae_model_close(&m);
}

static void test_reference(void **state)
{
    const bool more = qsae__cpu_level() > QSAE__LEVEL_AVX512; /* bf16 in f32 products as well */
    qsae_context *ctx = test_context(2, NULL), *f32 = more ? test_context(2, "avx512") : NULL;
    (void)state;
    for (int i = 0; i < n_test_models; i++) {
        struct fixture f;
        fixture_open(ctx, test_models[i], &f);
        check_f32(&f, test_models[i], ctx);
        check_bf16(&f, test_models[i], ctx, "eager", QSAE_ATTN_EAGER);
        check_bf16(&f, test_models[i], ctx, "sdpa", QSAE_ATTN_SDPA);
        if (more)
            check_bf16(&f, test_models[i], f32, "sdpa", QSAE_ATTN_SDPA);
        fixture_close(&f);
    }
    qsae_context_close(&f32);
    qsae_context_close(&ctx);
}

/* Nothing rounded inside attention: nearer to binary64 than eager attention is, in bf16. */
static void test_fp32_attention(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    struct fixture f;
    (void)state;
    double sum[2] = { 0, 0 };
    for (int i = 0; i < n_test_models; i++) {
        fixture_open(ctx, test_models[i], &f);
        for (int k = 0; k < 2; k++) {
            qsae_model *m = test_model(ctx, f.path, NULL, QSAE_COMPUTE_BF16,
                                       k ? QSAE_ATTN_FP32 : QSAE_ATTN_EAGER);
            struct test_result r;
            test_run(m, f.ids, f.n_seq, f.n_tokens, &r);
            sum[k] += distance(&f, "oracle", "resid.0", r.resid[0]);
            test_result_free(&r);
            qsae_model_close(&m);
        }
        fixture_close(&f);
    }
    assert_true(sum[1] < sum[0]);
    qsae_context_close(&ctx);
}

const struct CMUnitTest reference_tests[] = {
    cmocka_unit_test(test_reference),
    cmocka_unit_test(test_fp32_attention),
};
const size_t n_reference_tests = sizeof reference_tests / sizeof reference_tests[0];
