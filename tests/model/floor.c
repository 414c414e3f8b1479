/* SPDX-License-Identifier: BSD-2-Clause */
/* control:floor: the same weights, sums over the inputs of linear layers the other way round. */
#include "model_test.h"

#define N_SEQ 2
#define N_TOKENS 24

static const char *const stored[] = { "stored_gptq", "stored_awq", "stored_fp8", "stored_w8a8",
                                      "stored_int4_group", "stored_nvfp4", "bnb_nf4", "bnb_int8",
                                      "gguf_llama_q4_k_m/model.gguf", "gguf_gemma3/model.gguf",
                                      "gpt2_nf4" };

static void run(qsae_weights *w, const char *condition, int compute, int memory,
                struct test_result *r)
{
    int32_t ids[N_SEQ * N_TOKENS];
    qsae_model_settings s;
    qsae_model *m;
    for (int i = 0; i < N_SEQ * N_TOKENS; i++)
        ids[i] = 3 + i * 7 % 29;
    qsae_model_settings_init(&s, sizeof s);
    s.condition = condition;
    s.compute = compute;
    s.memory = memory;
    OK(qsae_model_open(w, &s, &m));
    test_run(m, ids, N_SEQ, N_TOKENS, r);
    qsae_model_close(&m);
}

/* Distance of the logits relative to their size. */
static double distance(const struct test_result *a, const struct test_result *b)
{
    double sum = 0, size = 0;
    for (int64_t i = 0; i < a->rows * a->vocab; i++) {
        const double d = (double)a->logits[i] - b->logits[i];
        sum += d * d;
        size += (double)a->logits[i] * a->logits[i];
    }
    return sqrt(sum / size);
}

/* Adds one to *differs where a run in f32 has other bits. (The bf16 sums of such small layers are
 * mostly exact.) */
static void check(qsae_context *ctx, const char *name, int compute, int *differs)
{
    /* Rows that a layer quantizes turn a last bit into a step of their code. */
    const bool codes = strstr(name, "w8a8") || strstr(name, "nvfp4") || strstr(name, "int8");
    const double most = compute == QSAE_COMPUTE_BF16 || codes ? 0.05 : 2e-5;
    struct test_result want, have, again;
    qsae_weights *w;
    OK(qsae_weights_open(ctx, test_model_path(name), &w));
    run(w, NULL, compute, QSAE_MEMORY_DEFAULT, &want);
    run(w, "control:floor", compute, QSAE_MEMORY_DEFAULT, &have);
    run(w, "control:floor", compute, QSAE_MEMORY_STREAMED, &again);
    const double d = distance(&want, &have);
    if (!(d <= most))
        fail_msg("%s, compute %d: distance %g", name, compute, d);
    if (!test_result_equal(&have, &again))
        fail_msg("%s, compute %d: streamed gives other bits", name, compute);
    *differs += compute == QSAE_COMPUTE_F32 && !test_result_equal(&want, &have);
    test_result_free(&again);
    run(w, NULL, compute, QSAE_MEMORY_DEFAULT, &again); /* a packed copy is not taken over */
    assert_true(test_result_equal(&want, &again));
    test_result_free(&want);
    test_result_free(&have);
    test_result_free(&again);
    qsae_weights_close(&w);
}

static void test_floor(void **state)
{
    static const char *const levels[] = { NULL, "avx2", "c" };
    (void)state;
    for (int level = 0; level < 3; level++) {
        qsae_context *ctx = test_context(2, levels[level]);
        int n = 0, differs = 0;
        for (int i = level; i < n_test_models; i += level ? 5 : 1) {
            n += i % 2;
            check(ctx, test_models[i], i % 2 ? QSAE_COMPUTE_F32 : QSAE_COMPUTE_BF16, &differs);
        }
        for (size_t i = 0; i < sizeof stored / sizeof stored[0]; i += level ? 3 : 1, n++)
            for (int c = QSAE_COMPUTE_F32; c <= QSAE_COMPUTE_BF16; c++)
                check(ctx, stored[i], c, &differs);
        /* LLM.int8's integers have no order, and two compute in bf16. */
        assert_true(differs >= n - 3);
        qsae_context_close(&ctx);
    }
}

static void test_strings(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    qsae_weights *w;
    qsae_model *m;
    qsae_model_settings s;
    qsae_model_cost cost = { .struct_size = sizeof cost };
    static const char *const bad[] = { "control:floor@only=mlp", "control:floor:seed=1",
                                       "control:floor(nf4)", "control:shuffle:seed=1",
                                       "control:flor" };
    (void)state;
    OK(qsae_weights_open(ctx, test_model_path("llama_gqa"), &w));
    qsae_model_settings_init(&s, sizeof s);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        s.condition = bad[i];
        REFUSED(qsae_model_open(w, &s, &m), QSAE_EINVAL, "control");
    }
    s.condition = "control:floor@compute=bf16+kv:k=f16";
    OK(qsae_model_open(w, &s, &m));
    OK(qsae_model_get_cost(m, &cost));
    assert_non_null(strstr(cost.condition, "control:floor@compute=bf16+kv:k=f16"));
    assert_int_equal(cost.quantized_tensors, 0);
    qsae_model_close(&m);
    qsae_weights_close(&w);
    qsae_context_close(&ctx);
}

const struct CMUnitTest floor_tests[] = { cmocka_unit_test(test_floor),
                                          cmocka_unit_test(test_strings) };
const size_t n_floor_tests = sizeof floor_tests / sizeof floor_tests[0];
