/* SPDX-License-Identifier: BSD-2-Clause */
/* Coded keys and values: the models of tests/reference/kv.py against transformers. */
#include "model_test.h"

#define N_SEQ 2
#define N_TOKENS 24

static const char *const models[] = { "kv_llama", "kv_gemma" };

static const struct {
    const char *k, *v;
    int sink;
    double bits[2]; /* of the two models, whose heads are 32 and 64 wide */
} runs[] = {
    { "q8_0", "q4_0", 0, { 6.5, 6.5 } },
    { "q8_0", "q4_0", 4, { 6.5, 6.5 } },
    { "q5_1", "none", 0, { 11, 11 } },
    { "none", "iq4_nl", 1, { 10.25, 10.25 } },
    { "int8", "int8", 0, { 9, 8.5 } },
    { "f16", "bf16", 3, { 16, 16 } },
    { "turbo4", "turbo3", 0, { 4, 3.75 } },
    { "turbo3s", "turbo2", 2, { 3.75, 3.375 } },
    { "q4_0r", "q5_0r", 0, { 5, 5 } }, /* r: with rot=1; only the second model has the tensor */
};
#define N_RUNS ((int)(sizeof runs / sizeof runs[0]))

static const char *condition(int run)
{
    static char text[80];
    const int rot = runs[run].k[strlen(runs[run].k) - 1] == 'r';
    snprintf(text, sizeof text, "none+kv:k=%.*s,v=%.*s,sink=%d,rot=%d",
             (int)strlen(runs[run].k) - rot, runs[run].k, (int)strlen(runs[run].v) - rot,
             runs[run].v, runs[run].sink, rot);
    return text;
}

struct fixture {
    qsae__tensors *tensors;
    int32_t *ids;
    int64_t n; /* logits */
};

static void fixture_open(qsae_context *ctx, const char *model, struct fixture *f)
{
    char path[700];
    snprintf(path, sizeof path, "%s/kv.safetensors", test_model_path(model));
    OK(qsae__tensors_load(ctx, path, &f->tensors));
    const qsae__tensor *ids = qsae__tensors_find(f->tensors, "ids");
    assert_true(ids && ids->shape[0] == N_SEQ && ids->shape[1] == N_TOKENS);
    f->ids = malloc((size_t)ids->bytes);
    assert_non_null(f->ids);
    memcpy(f->ids, ids->data, (size_t)ids->bytes);
}

static void fixture_close(struct fixture *f)
{
    free(f->ids);
    qsae__tensors_unref(&f->tensors);
}

static double *logits_of(struct fixture *f, const char *k, const char *v, int sink)
{
    char name[64];
    snprintf(name, sizeof name, "%s,%s,%d", k, v, sink);
    return test_values(f->tensors, name, &f->n);
}

static double distance(const float *got, const double *want, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
    return sqrt(sum / (double)n);
}

/*
 * Logits stray from those of transformers by a small part of what the code does to them: a key that
 * f32 rounds to the other side of an edge is one code off.
 */
static void test_reference(void **state)
{
    static const int attention[] = { QSAE_ATTN_SDPA, QSAE_ATTN_EAGER, QSAE_ATTN_FP32 };
    qsae_context *ctx = test_context(2, NULL);
    (void)state;
    for (int m = 0; m < 2; m++) {
        struct fixture f;
        fixture_open(ctx, models[m], &f);
        double *plain = logits_of(&f, "none", "none", 0);
        for (int r = 0; r < N_RUNS - (m == 0); r++)
            for (int a = 0; a < 3; a++) {
                double *want = logits_of(&f, runs[r].k, runs[r].v, runs[r].sink);
                qsae_model *model = test_model(ctx, test_model_path(models[m]), condition(r),
                                               QSAE_COMPUTE_F32, attention[a]);
                struct test_result got;
                test_run(model, f.ids, N_SEQ, N_TOKENS, &got);
                const double effect = test_rms(want, plain, f.n);
                const double gap = distance(got.logits, want, f.n);
                if (!(effect > 1e-4) || !(gap <= 0.02 * effect))
                    fail_msg("%s %s: %g from transformers, the code itself %g", models[m],
                             condition(r), gap, effect);
                test_result_free(&got);
                qsae_model_close(&model);
                free(want);
            }
        free(plain);
        fixture_close(&f);
    }
    qsae_context_close(&ctx);
}

static void run_one(const char *model, const char *text, int compute, int threads, const char *cpu,
                    const int32_t *ids, int64_t n_seq, int64_t n_tokens, struct test_result *r)
{
    qsae_context *ctx = test_context(threads, cpu);
    qsae_model *m = test_model(ctx, test_model_path(model), text, compute, QSAE_ATTN_SDPA);
    test_run(m, ids, n_seq, n_tokens, r);
    qsae_model_close(&m);
    qsae_context_close(&ctx);
}

/* The same bits for any number of threads, at any level whose products have them, and for a
 * sequence alone or a prefix of it. 200 tokens of two heads are four tiles of keys. */
static void test_invariance(void **state)
{
    enum { SEQ = 3, TOKENS = 208, PART = 96 };
    static int32_t ids[SEQ * TOKENS];
    (void)state;
    for (int i = 0; i < SEQ * TOKENS; i++)
        ids[i] = (i * 7 + i / 13) % 40;
    for (int m = 0; m < 2; m++)
        for (int r = 0; r < N_RUNS; r++)
            for (int compute = QSAE_COMPUTE_F32; compute <= QSAE_COMPUTE_BF16; compute++) {
                const char *const text = condition(r);
                struct test_result all, other;
                run_one(models[m], text, compute, 1, NULL, ids, SEQ, TOKENS, &all);
                run_one(models[m], text, compute, 3, NULL, ids, SEQ, TOKENS, &other);
                if (!test_result_equal(&all, &other))
                    fail_msg("%s %s: 3 threads differ from 1", models[m], text);
                test_result_free(&other);
                run_one(models[m], text, compute, 2, NULL, ids + 2 * TOKENS, 1, TOKENS, &other);
                assert_memory_equal(other.logits, all.logits + 2 * TOKENS * all.vocab,
                                    (size_t)(TOKENS * all.vocab) * sizeof(float));
                test_result_free(&other);
                run_one(models[m], text, compute, 2, NULL, ids, 1, PART, &other);
                assert_memory_equal(other.logits, all.logits,
                                    (size_t)(PART * all.vocab) * sizeof(float));
                test_result_free(&other);
                test_result_free(&all);
                if (compute == QSAE_COMPUTE_BF16)
                    continue;
                run_one(models[m], text, compute, 2, "c", ids, 1, 40, &all);
                for (int k = 0; k < 2 && strcmp(qsae_cpu_best(), "c") != 0; k++) {
                    if (k == 1 && !strcmp(qsae_cpu_best(), "avx2"))
                        break;
                    run_one(models[m], text, compute, 2, k ? "avx512" : "avx2", ids, 1, 40, &other);
                    if (!test_result_equal(&all, &other))
                        fail_msg("%s %s: levels differ", models[m], text);
                    test_result_free(&other);
                }
                test_result_free(&all);
            }
}

/*
 * A sink as long as the sequence is a cache in f16; up to there, positions do not know of the code;
 * without any code there is no sink, and with one only the coded side has it.
 */
static void test_sink(void **state)
{
    int32_t ids[2 * 40];
    (void)state;
    for (int i = 0; i < 80; i++)
        ids[i] = i * 11 % 40;
    for (int i = 0; i < 4; i++) {
        const char *const model = models[i / 2];
        const int compute = i % 2 ? QSAE_COMPUTE_BF16 : QSAE_COMPUTE_F32;
        struct test_result half, all, some, none;
        run_one(model, "none+kv:k=f16,v=f16", compute, 2, NULL, ids, 2, 40, &half);
        run_one(model, "none+kv:k=turbo1,v=q4_0,sink=40", compute, 2, NULL, ids, 2, 40, &all);
        assert_true(test_result_equal(&half, &all));
        test_result_free(&all);
        run_one(model, "none+kv:k=turbo1,v=q4_0,sink=9", compute, 2, NULL, ids, 2, 40, &some);
        run_one(model, "none+kv:k=turbo1,v=q4_0", compute, 2, NULL, ids, 2, 40, &none);
        for (int64_t at = 0; at < 80; at++) {
            const size_t n = (size_t)half.vocab * sizeof(float);
            const float *const h = half.logits + at * half.vocab;
            const bool same = !memcmp(h, some.logits + at * half.vocab, n);
            if (same != (at % 40 < 9))
                fail_msg("%s: position %d of sequence %d", model, (int)(at % 40), (int)(at / 40));
            assert_memory_not_equal(h, none.logits + at * half.vocab, n);
        }
        test_result_free(&some);
        test_result_free(&none);
        test_result_free(&half);
    }
    struct test_result one, other;
    run_one("kv_gemma", "none+kv:k=q8_0,v=none,sink=40", QSAE_COMPUTE_F32, 2, NULL, ids, 2, 40,
            &one);
    run_one("kv_gemma", "none+kv:k=f16,v=none", QSAE_COMPUTE_F32, 2, NULL, ids, 2, 40, &other);
    assert_true(test_result_equal(&one, &other));
    test_result_free(&one);
    test_result_free(&other);
}

/* Codes lie beside codecs of the weights, and two codes of one model beside each other. */
static void test_together(void **state)
{
    int32_t ids[40];
    struct test_result weights, both, plain, cache;
    (void)state;
    for (int i = 0; i < 40; i++)
        ids[i] = i * 3 % 40;
    run_one("kv_llama", "none", QSAE_COMPUTE_BF16, 2, NULL, ids, 1, 40, &plain);
    run_one("kv_llama", "nf4", QSAE_COMPUTE_BF16, 2, NULL, ids, 1, 40, &weights);
    run_one("kv_llama", "nf4+kv:k=int8,v=turbo4", QSAE_COMPUTE_BF16, 2, NULL, ids, 1, 40, &both);
    run_one("kv_llama", "none+kv:k=int8,v=turbo4", QSAE_COMPUTE_BF16, 2, NULL, ids, 1, 40, &cache);
    assert_false(test_result_equal(&weights, &both) || test_result_equal(&cache, &both));
    assert_false(test_result_equal(&plain, &cache));
    test_result_free(&plain);
    test_result_free(&weights);
    test_result_free(&both);
    test_result_free(&cache);
}

static void test_cost(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    (void)state;
    for (int m = 0; m < 2; m++)
        for (int r = -1; r < N_RUNS; r++) {
            qsae_model *model = test_model(ctx, test_model_path(models[m]),
                                           r < 0 ? "none" : condition(r), QSAE_COMPUTE_BF16,
                                           QSAE_ATTN_SDPA);
            qsae_model_cost cost = { .struct_size = sizeof cost };
            OK(qsae_model_get_cost(model, &cost));
            if (cost.kv_bits_per_value != (r < 0 ? 16 : runs[r].bits[m]))
                fail_msg("%s %s: %g bits", models[m], r < 0 ? "none" : condition(r),
                         cost.kv_bits_per_value);
            qsae_model_close(&model);
        }
    qsae_context_close(&ctx);
}

/* Heads too narrow for a code; nothing is left open. */
static void test_refused(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    qsae_weights *w = NULL;
    qsae_model_settings s;
    qsae_model *m = NULL;
    (void)state;
    OK(qsae_weights_open(ctx, test_model_path("llama_gqa"), &w));
    qsae_model_settings_init(&s, sizeof s);
    s.condition = "none+kv:k=int8,v=q8_0";
    REFUSED(qsae_model_open(w, &s, &m), QSAE_EINVAL, "multiple of 32, found 8");
    assert_null(m);
    s.condition = "none+kv:k=turbo9,v=q8_0";
    REFUSED(qsae_model_open(w, &s, &m), QSAE_EINVAL, "turbo");
    qsae_weights_close(&w);
    qsae_context_close(&ctx);
}

const struct CMUnitTest kv_tests[] = {
    cmocka_unit_test(test_reference), cmocka_unit_test(test_invariance),
    cmocka_unit_test(test_sink),      cmocka_unit_test(test_together),
    cmocka_unit_test(test_cost),      cmocka_unit_test(test_refused),
};
const size_t n_kv_tests = sizeof kv_tests / sizeof kv_tests[0];
