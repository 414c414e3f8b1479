/* SPDX-License-Identifier: BSD-2-Clause */
/* Opening folders: what is taken for the embedding and the head, where a compressed folder says how
 * it is stored, and what embedding and head cannot be. */
#include "folders.h"

static int warnings;

static void count_warnings(void *cookie, int32_t level, const char *message)
{
    (void)cookie;
    warnings += level == QSAE_LOG_WARNING && strstr(message, "differs from the embedding");
}

static qsae_context *warned_context(void)
{
    qsae_context_settings s;
    qsae_context *ctx = NULL;
    qsae_context_settings_init(&s, sizeof s);
    s.threads = 1;
    s.log = count_warnings;
    OK(qsae_context_open(&s, &ctx));
    return ctx;
}

static void remove_source(void)
{
    char path[600];
    join(path, test_folder(), "from");
    remove_folder(path);
}

static void hash_of(qsae_context *ctx, const char *path, char out[QSAE__HASH_SIZE])
{
    qsae_weights *w = NULL;
    qsae_model_info info = { .struct_size = sizeof info };
    OK(qsae_weights_open(ctx, path, &w));
    OK(qsae_weights_get_info(w, &info));
    snprintf(out, QSAE__HASH_SIZE, "%s", info.hash);
    qsae_weights_close(&w);
}

/* A tied model with a head: silence only if it is the embedding, byte for byte. */
static void test_tied_head(void **state)
{
    qsae_context *ctx = warned_context();
    char from[600], want[QSAE__HASH_SIZE], got[QSAE__HASH_SIZE];
    (void)state;
    hash_of(ctx, test_model_path("llama_bias"), want);
    qsae__tensors *t = load(ctx, test_model_path("llama_bias"), "model.safetensors");
    const qsae__tensor embed = *qsae__tensors_find(t, "model.embed_tokens.weight");
    float *const changed = malloc((size_t)embed.bytes);
    assert_non_null(changed);
    memcpy(changed, embed.data, (size_t)embed.bytes);
    changed[embed.bytes / sizeof *changed - 1] += 1;
    for (int i = 0; i < 5; i++) {
        qsae__tensor head = embed;
        head.name = "lm_head.weight";
        if (i == 1) {
            head.data = changed;
        } else if (i == 2) { /* the bytes of other numbers */
            head.dtype = QSAE_I32;
        } else if (i == 3) {
            head.shape[0]--;
            head.bytes -= embed.bytes / (uint64_t)embed.shape[0];
        } else if (i == 4) {
            head.name = "my_embed_tokens.weight"; /* no module of that name */
        }
        make_source(ctx, "llama_bias", config_of(ctx, test_model_path("llama_bias")), &head, 1,
                    from);
        warnings = 0;
        hash_of(ctx, from, got);
        assert_string_equal(got, want); /* the embedding is used */
        assert_int_equal(warnings, i >= 1 && i <= 3);
        remove_source();
    }
    free(changed);
    qsae__tensors_unref(&t);
    qsae_context_close(&ctx);
}

/* Early GPTQ and AWQ folders: a file of its own, without the name of the method. */
static void test_own_files(void **state)
{
    static const struct {
        const char *model, *file, *text;
    } cases[] = {
        { "stored_gptq", "quantize_config.json",
          "{\"bits\":4,\"group_size\":16,\"desc_act\":true,\"sym\":true}" },
        { "stored_gptq", "quantize_config.json",
          "{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":16,\"desc_act\":true}" },
        { "stored_gptq", "quant_config.json",
          "{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":16,\"desc_act\":true}" },
        { "stored_awq", "quant_config.json",
          "{\"w_bit\":4,\"q_group_size\":16,\"zero_point\":true,\"version\":\"GEMM\"}" },
    };
    qsae_context *ctx = test_context(1, NULL);
    qsae_weights *w = NULL;
    char from[600], want[QSAE__HASH_SIZE], got[QSAE__HASH_SIZE], name[64];
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        json_t *const config = config_of(ctx, test_model_path(cases[i].model));
        assert_int_equal(json_object_del(config, "quantization_config"), 0);
        hash_of(ctx, test_model_path(cases[i].model), want);
        make_source(ctx, cases[i].model, config, NULL, 0, from);
        snprintf(name, sizeof name, "from/%s", cases[i].file);
        test_write(name, cases[i].text, strlen(cases[i].text));
        hash_of(ctx, from, got);
        assert_string_equal(got, want);
        test_write(name, "[4]", 3);
        REFUSED(qsae_weights_open(ctx, from, &w), QSAE_EFORMAT, cases[i].file);
        test_write(name, "{", 1);
        REFUSED(qsae_weights_open(ctx, from, &w), QSAE_EFORMAT, cases[i].file);
        remove_source();
    }
    qsae_context_close(&ctx);
}

/* The embedding is no product, and the head's runs in tiles. */
static void test_vocabulary(void **state)
{
    static int8_t codes[48 * 48];
    static float scale[48];
    static uint16_t scale16[48];
    const qsae__tensor int8[4] = {
        { .name = "lm_head.weight", .data = codes, .bytes = 48 * 48, .shape = { 48, 48 },
          .rank = 2, .dtype = QSAE_I8 },
        { .name = "lm_head.SCB", .data = scale, .bytes = sizeof scale, .shape = { 48 }, .rank = 1,
          .dtype = QSAE_F32 },
        { .name = "model.embed_tokens.weight", .data = codes, .bytes = 48 * 48,
          .shape = { 48, 48 }, .rank = 2, .dtype = QSAE_I8 },
        { .name = "model.embed_tokens.SCB", .data = scale, .bytes = sizeof scale,
          .shape = { 48 }, .rank = 1, .dtype = QSAE_F32 },
    };
    const qsae__tensor acts[2] = {
        { .name = "lm_head.weight", .data = codes, .bytes = 48 * 32, .shape = { 48, 32 },
          .rank = 2, .dtype = QSAE_I8 },
        { .name = "lm_head.weight_scale", .data = scale16, .bytes = sizeof scale16,
          .shape = { 48, 1 }, .rank = 2, .dtype = QSAE_BF16 },
    };
    qsae_context *ctx = test_context(1, NULL);
    qsae_weights *w = NULL;
    char from[600];
    (void)state;
    for (int i = 0; i < 2; i++) {
        make_source(ctx, "bnb_int8", config_of(ctx, test_model_path("bnb_int8")), &int8[2 * i], 2,
                    from);
        REFUSED(qsae_weights_open(ctx, from, &w), QSAE_EUNSUPPORTED,
                i ? "model.embed_tokens.weight: stored by LLM.int8"
                  : "lm_head.weight: stored by LLM.int8");
        remove_source();
    }
    for (int i = 0; i < 2; i++) {
        json_t *const config = config_of(ctx, test_model_path("stored_w8a8"));
        json_t *const q = json_object_get(config, "quantization_config");
        json_t *const group = json_object_get(json_object_get(q, "config_groups"), "group_0");
        json_object_set_new(q, "ignore", json_array());
        if (i) /* the weight alone */
            json_object_set_new(group, "input_activations", json_null());
        make_source(ctx, "stored_w8a8", config, acts, 2, from);
        if (i) {
            OK(qsae_weights_open(ctx, from, &w));
            qsae_weights_close(&w);
        } else {
            REFUSED(qsae_weights_open(ctx, from, &w), QSAE_EUNSUPPORTED,
                    "lm_head.weight: stored with quantized activations");
        }
        remove_source();
    }
    qsae_context_close(&ctx);
}

/* A matrix that a folder stores is given out as it lies in the file; what is no matrix is not. */
static void test_matrix(void **state)
{
    static const struct {
        const char *model, *field;
    } cases[] = { { "stored_gptq", "qweight" }, { "stored_awq", "qzeros" },
                  { "stored_fp8", "weight_scale_inv" }, { "stored_w8a8", "weight" } };
    static const char *const module = "model.layers.1.self_attn.k_proj";
    qsae_context *ctx = test_context(1, NULL);
    qsae_weights *w = NULL;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        qsae_qmatrix *q = NULL;
        char name[128];
        bool found = false;
        OK(qsae_weights_open(ctx, test_model_path(cases[i].model), &w));
        OK(qsae_weights_matrix(w, module, &q));
        qsae__tensors *t = load(ctx, test_model_path(cases[i].model), "model.safetensors");
        snprintf(name, sizeof name, "%s.%s", module, cases[i].field);
        const qsae__tensor *const x = qsae__tensors_find(t, name);
        assert_non_null(x);
        for (int32_t k = 0; k < qsae_qmatrix_field_count(q); k++) {
            qsae_field f = { .struct_size = sizeof f };
            OK(qsae_qmatrix_field(q, k, &f));
            if (strcmp(f.name, cases[i].field) != 0)
                continue;
            found = true;
            assert_int_equal(f.bytes, x->bytes);
            assert_memory_equal(f.data, x->data, x->bytes);
        }
        assert_true(found);
        qsae__tensors_unref(&t);
        qsae_qmatrix_close(&q);
        REFUSED(qsae_weights_matrix(w, "model.norm", &q), QSAE_ENOENT, "model.norm");
        REFUSED(qsae_weights_matrix(w, NULL, &q), QSAE_EINVAL, "NULL");
        REFUSED(qsae_weights_get_info(w, NULL), QSAE_EINVAL, "info is NULL");
        REFUSED(qsae_weights_save(w, "none", NULL, NULL), QSAE_EINVAL, "NULL");
        qsae_weights_close(&w);
    }
    qsae_context_close(&ctx);
}

/* Tensors without a config.json, and a model beside others that cannot take its place. */
static void test_incomplete(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    qsae_weights *w = NULL;
    char from[600], path[600];
    (void)state;
    make_source(ctx, "llama_gqa", config_of(ctx, test_model_path("llama_gqa")), NULL, 0, from);
    join(path, from, "config.json");
    assert_int_equal(unlink(path), 0);
    REFUSED(qsae_weights_open(ctx, from, &w), QSAE_ENOENT, "config.json: no such file");
    remove_source();
    qsae__slab slab;
    qsae_model *none[2] = { NULL };
    REFUSED(qsae__slab_open(ctx, none, 2, 1, 1, &slab), QSAE_EINVAL, "a slab needs a model");
    none[1] = test_model(ctx, test_model_path("llama_gqa"), NULL, 0, 0);
    OK(qsae__slab_open(ctx, none, 2, 1, 1, &slab)); /* of the one there is */
    assert_int_equal(slab.width, 32);
    qsae__slab_close(&slab);
    qsae_model_close(&none[1]);
    qsae_context_close(&ctx);
}

/* Where config.json says nothing: GPTQ layers are of no use, bitsandbytes' are what they are. */
static void test_silent(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    qsae_weights *w = NULL;
    char from[600];
    (void)state;
    json_t *const config = config_of(ctx, test_model_path("stored_gptq"));
    assert_int_equal(json_object_del(config, "quantization_config"), 0);
    make_source(ctx, "stored_gptq", config, NULL, 0, from);
    REFUSED(qsae_weights_open(ctx, from, &w), QSAE_ENOENT, "self_attn.q_proj.weight");
    remove_source();
    /* bitsandbytes' tensors say it themselves */
    qsae_weights *processed = NULL;
    json_t *const silent = config_of(ctx, test_model_path("neox_nf4"));
    assert_int_equal(json_object_del(silent, "quantization_config"), 0);
    make_source(ctx, "neox_nf4", silent, NULL, 0, from);
    OK(qsae_weights_open(ctx, from, &w));
    REFUSED(qsae_weights_process(w, "tl", &processed), QSAE_EUNSUPPORTED,
            "stored compressed (bitsandbytes); weight processing");
    REFUSED(qsae_weights_save(w, "none", "/tmp/qsae-never", NULL), QSAE_EUNSUPPORTED,
            "stored compressed");
    qsae_weights_close(&w);
    remove_source();
    qsae_context_close(&ctx);
}

const struct CMUnitTest open_tests[] = {
    cmocka_unit_test(test_tied_head),  cmocka_unit_test(test_own_files),
    cmocka_unit_test(test_vocabulary), cmocka_unit_test(test_silent),
    cmocka_unit_test(test_matrix),     cmocka_unit_test(test_incomplete),
};
const size_t n_open_tests = sizeof open_tests / sizeof open_tests[0];
