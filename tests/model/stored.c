/* SPDX-License-Identifier: BSD-2-Clause */
/* Quantized checkpoints against the logits of transformers, which has them decoded by the packages
 * of their formats. */
#include "model_test.h"

#include <jansson.h>

/* Distances are relative to the rms of the logits; f32 = 0: transformers has no such run. Layers
 * that quantize their rows turn a last bit of an activation into a step of its code. */
static const struct {
    const char *name;
    double f32, bf16;
} folders[] = {
    { "stored_gptq", 1e-6, 0.02 },      { "stored_awq", 0, 0.02 },
    { "stored_fp8", 1e-6, 0.02 },       { "stored_int4_group", 1e-6, 0.02 },
    { "stored_w8a8", 5e-3, 0.02 },      { "stored_fp8_tensor", 5e-3, 0.02 },
    { "stored_nvfp4", 0, 0.02 },        { "stored_mxfp4", 0, 0.02 },
};

static void check(qsae_context *ctx, const char *name, const char *key, int compute, double most)
{
    char path[700], file[800];
    qsae__tensors *t;
    int64_t n;
    struct test_result r;
    snprintf(path, sizeof path, "%s", test_model_path(name));
    snprintf(file, sizeof file, "%s/reference.safetensors", path);
    OK(qsae__tensors_load(ctx, file, &t));
    const qsae__tensor *const ids = qsae__tensors_find(t, "ids");
    assert_non_null(ids);
    int32_t *const tokens = malloc((size_t)ids->bytes);
    assert_non_null(tokens);
    memcpy(tokens, ids->data, (size_t)ids->bytes);
    double *const want = test_values(t, key, &n), *const have = malloc((size_t)n * sizeof *have);
    assert_non_null(have);
    qsae_model *m = test_model(ctx, path, compute == QSAE_COMPUTE_F32 ? NULL : "none@compute=bf16",
                               compute, QSAE_ATTN_SDPA);
    test_run(m, tokens, ids->shape[0], ids->shape[1], &r);
    assert_int_equal(r.rows * r.vocab, n);
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        have[i] = (double)r.logits[i];
        sum += want[i] * want[i];
    }
    const double d = test_rms(have, want, n) / sqrt(sum / (double)n);
    if (!(d <= most))
        fail_msg("%s %s: rms distance %g of the logits' size", name, key, d);
    test_result_free(&r);
    qsae_model_close(&m);
    free(have);
    free(want);
    free(tokens);
    qsae__tensors_unref(&t);
}

static void test_stored(void **state)
{
    qsae_context *ctx = test_context(2, NULL);
    (void)state;
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        check(ctx, folders[i].name, "logits.bf16", 0, folders[i].bf16);
        if (folders[i].f32 > 0)
            check(ctx, folders[i].name, "logits.f32", QSAE_COMPUTE_F32, folders[i].f32);
    }
    qsae_context_close(&ctx);
}

/* LLM.int8 of weights that are stored in another code: of their values, as nearly as int8 is. */
static void test_int8_of_stored(void **state)
{
    static const char *const names[] = { "bnb_fp4", "bnb_nf4", "stored_gptq", "stored_fp8" };
    const int32_t ids[] = { 2, 5, 9, 14, 3, 8, 30, 21 };
    qsae_context *ctx = test_context(2, NULL);
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        for (int compute = QSAE_COMPUTE_F32; compute <= QSAE_COMPUTE_BF16; compute++) {
            struct test_result plain, coded;
            qsae_model *m = test_model(ctx, test_model_path(names[i]), NULL, compute, 0);
            test_run(m, ids, 1, 8, &plain);
            qsae_model_close(&m);
            m = test_model(ctx, test_model_path(names[i]), "llm.int8", compute, 0);
            test_run(m, ids, 1, 8, &coded);
            qsae_model_close(&m);
            double gap = 0, size = 0;
            for (int64_t k = 0; k < plain.rows * plain.vocab; k++) {
                const double d = (double)plain.logits[k] - (double)coded.logits[k];
                gap += d * d;
                size += (double)plain.logits[k] * (double)plain.logits[k];
            }
            if (!(gap > 0 && gap < 0.01 * size))
                fail_msg("%s: relative distance of logits %g", names[i], sqrt(gap / size));
            test_result_free(&plain);
            test_result_free(&coded);
        }
    }
    qsae_context_close(&ctx);
}

/* Early folders say how weights are stored in a file of its own. */
static void test_apart(void **state)
{
    qsae_context *ctx = test_context(2, NULL);
    const int32_t ids[8] = { 3, 9, 27, 33, 5, 15, 45, 41 };
    char source[700], path[800];
    size_t size;
    struct test_result a, b;
    (void)state;
    snprintf(source, sizeof source, "%s", test_model_path("stored_gptq"));
    snprintf(path, sizeof path, "%s/model.safetensors", source);
    char *const data = test_read(path, &size);
    test_write("model.safetensors", data, size);
    free(data);
    snprintf(path, sizeof path, "%s/config.json", source);
    json_t *const config = json_load_file(path, 0, NULL);
    assert_non_null(config);
    json_t *const own = json_incref(json_object_get(config, "quantization_config"));
    json_object_del(config, "quantization_config");
    json_object_del(own, "quant_method");
    char *text = json_dumps(config, 0);
    test_write("config.json", text, strlen(text));
    free(text);
    text = json_dumps(own, 0);
    test_write("quantize_config.json", text, strlen(text));
    free(text);
    json_decref(own);
    json_decref(config);
    qsae_model *m = test_model(ctx, source, NULL, QSAE_COMPUTE_BF16, 0);
    test_run(m, ids, 1, 8, &a);
    qsae_model_close(&m);
    m = test_model(ctx, test_folder(), NULL, QSAE_COMPUTE_BF16, 0);
    qsae_model_info info = { .struct_size = sizeof info };
    OK(qsae_model_get_info(m, &info));
    assert_string_equal(info.storage, "gptq");
    test_run(m, ids, 1, 8, &b);
    qsae_model_close(&m);
    assert_true(test_result_equal(&a, &b));
    test_result_free(&a);
    test_result_free(&b);
    test_write("quantize_config.json", "{\"bits\":5}", 10);
    qsae_weights *w = NULL;
    REFUSED(qsae_weights_open(ctx, test_folder(), &w), QSAE_EUNSUPPORTED, "quantize_config.json");
    qsae_context_close(&ctx);
}

const struct CMUnitTest stored_tests[] = {
    cmocka_unit_test(test_stored),
    cmocka_unit_test(test_int8_of_stored),
    cmocka_unit_test(test_apart),
};
const size_t n_stored_tests = sizeof stored_tests / sizeof *stored_tests;
