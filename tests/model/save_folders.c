/* SPDX-License-Identifier: BSD-2-Clause */
/* What a saved folder has beside its matrices: modules that stay plain, tensors of other parts of a
 * model, files; and what no folder can hold. */
#include "folders.h"

#define EXTRA 8

static qsae__tensor small(const char *name, const int64_t *data, int32_t dtype, int32_t rank)
{
    return (qsae__tensor){ .name = name, .data = data, .dtype = dtype, .rank = rank,
                           .bytes = 4 * (uint64_t)qsae_dtype_bits(dtype) / 8,
                           .shape = { rank == 1 ? 4 : 2, 2 } };
}

/* The entries of llm_int8_skip_modules with a blank behind each, or "null". */
static void skipped(const json_t *config, char *text, size_t size)
{
    const json_t *const list = json_object_get(json_object_get(config, "quantization_config"),
                                               "llm_int8_skip_modules");
    size_t i, n = 0;
    json_t *x;
    assert_non_null(list);
    snprintf(text, size, "%s", json_is_null(list) ? "null" : "");
    json_array_foreach(list, i, x)
        n += (size_t)snprintf(text + n, size - n, "%s ", json_string_value(x));
}

static void same_model(qsae_context *ctx, const char *source, const char *condition,
                       const char *out)
{
    const int32_t ids[8] = { 3, 9, 27, 31, 5, 15, 30, 21 };
    struct test_result a, b;
    qsae_model *m = test_model(ctx, source, condition, QSAE_COMPUTE_BF16, 0);
    test_run(m, ids, 1, 8, &a);
    qsae_model_close(&m);
    m = test_model(ctx, out, NULL, QSAE_COMPUTE_BF16, 0);
    test_run(m, ids, 1, 8, &b);
    qsae_model_close(&m);
    if (!test_result_equal(&a, &b))
        fail_msg("%s: %s: the saved model is another", source, condition);
    test_result_free(&a);
    test_result_free(&b);
}

/* Modules that a list keeps plain: towers beside the text model, what the condition leaves alone,
 * the head. */
static void test_skipped(void **state)
{
    static const struct {
        const char *model, *condition, *want;
    } cases[] = {
        { "bnb_source", "nf4:compute=bf16", "null" },
        { "bnb_source", "nf4:compute=bf16@with=head", "" },
        { "bnb_source", "nf4:compute=bf16@with=head@layers=1@skip=attn|mlp.up_proj",
          "model.layers.0.self_attn.q_proj model.layers.0.self_attn.k_proj "
          "model.layers.0.self_attn.v_proj model.layers.0.self_attn.o_proj "
          "model.layers.0.mlp.gate_proj model.layers.0.mlp.up_proj model.layers.0.mlp.down_proj "
          "model.layers.1.self_attn.q_proj model.layers.1.self_attn.k_proj "
          "model.layers.1.self_attn.v_proj model.layers.1.self_attn.o_proj "
          "model.layers.1.mlp.up_proj " },
        { "neox_source", "nf4:compute=bf16@skip=dense",
          "gpt_neox.layers.0.attention.dense gpt_neox.layers.1.attention.dense embed_out "
          "lm_head " },
        { "gemma3_wrapper", "nf4:compute=bf16",
          "multi_modal_projector model.multi_modal_projector vision_tower model.vision_tower "
          "lm_head " },
        { "gemma3_wrapper", "llm.int8:threshold=2@skip=q_proj",
          "multi_modal_projector model.multi_modal_projector vision_tower model.vision_tower "
          "layers.0.self_attn.q_proj layers.1.self_attn.q_proj lm_head " },
        { "gemma3_wrapper_new", "fp4:compute=bf16@only=mlp@skip=down_proj|layers.1.mlp.up_proj",
          "multi_modal_projector model.multi_modal_projector vision_tower model.vision_tower "
          "layers.0.self_attn.q_proj layers.0.self_attn.k_proj layers.0.self_attn.v_proj "
          "layers.0.self_attn.o_proj layers.0.mlp.down_proj layers.1.self_attn.q_proj "
          "layers.1.self_attn.k_proj layers.1.self_attn.v_proj layers.1.self_attn.o_proj "
          "layers.1.mlp.up_proj layers.1.mlp.down_proj lm_head " },
        { "gemma4_shared", "nf4:compute=bf16@skip=per_layer_model_projection",
          "model.per_layer_model_projection lm_head " },
    };
    qsae_context *ctx = test_context(2, NULL);
    char out[600], source[600], text[2048];
    (void)state;
    join(out, test_folder(), "saved");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        snprintf(source, sizeof source, "%s", test_model_path(cases[i].model));
        save(ctx, source, cases[i].condition, out, 0, 0);
        json_t *const config = config_of(ctx, out);
        skipped(config, text, sizeof text);
        if (strcmp(text, cases[i].want) != 0)
            fail_msg("%s, %s: \"%s\"", cases[i].model, cases[i].condition, text);
        json_decref(config);
        same_model(ctx, source, cases[i].condition, out);
        remove_folder(out);
    }
    qsae_context_close(&ctx);
}

/* A head beside the text model is no tower, and names that are no module's are none either. A cast
 * reaches the other parts of the model, in config.json where they name a dtype, but no integers. */
static void test_outside(void **state)
{
    static const int64_t values[4] = { 1, 2, 3, 4 };
    static const char *const parts[] = { "text_config", "vision_config" };
    qsae_context *ctx = test_context(1, NULL);
    char from[600], out[600], text[512], name[300];
    (void)state;
    memset(name, 'a', 280);
    snprintf(name + 280, sizeof name - 280, ".weight");
    json_t *const changed = config_of(ctx, test_model_path("gemma3_wrapper"));
    for (int i = 0; i < 2; i++)
        json_object_set_new(json_object_get(changed, parts[i]), i ? "dtype" : "torch_dtype",
                            json_string("bfloat16"));
    json_object_set_new(changed, "vision_mode", json_object());
    json_object_set_new(changed, "x_config", json_integer(3));
    static float head[96 * 8];
    const qsae__tensor extra[EXTRA] = {
        { .name = "language_model.lm_head.weight", .data = head, .bytes = sizeof head,
          .shape = { 96, 8 }, .rank = 2, .dtype = QSAE_F32 },
        small("probe", values, QSAE_I64, 2), small(".odd.weight", values, QSAE_F32, 2),
        small("a-b.weight", values, QSAE_F32, 2), small(name, values, QSAE_F32, 2),
        small("flat.ids", values, QSAE_I64, 1), small("tower_2.proj", values, QSAE_F16, 2),
        small("model.x.ids", values, QSAE_I32, 2),
    };
    make_source(ctx, "gemma3_wrapper", changed, extra, EXTRA, from);
    join(out, test_folder(), "saved");
    save(ctx, from, "nf4:compute=f32", out, QSAE_F32, 0);
    json_t *const config = config_of(ctx, out);
    skipped(config, text, sizeof text);
    assert_string_equal(text, "x model.x multi_modal_projector model.multi_modal_projector tower_2 "
                              "model.tower_2 vision_tower model.vision_tower lm_head ");
    assert_string_equal(json_string_value(json_object_get(config, "torch_dtype")), "float32");
    assert_null(json_object_get(config, "dtype"));
    for (int i = 0; i < 2; i++)
        assert_string_equal(json_string_value(json_object_get(json_object_get(config, parts[i]),
                                                              i ? "dtype" : "torch_dtype")),
                            "float32");
    assert_int_equal(json_object_size(json_object_get(config, "vision_mode")), 0);
    assert_int_equal(json_integer_value(json_object_get(config, "x_config")), 3);
    json_decref(config);
    qsae__tensors *a = load(ctx, from, "model.safetensors"),
                  *b = load(ctx, out, "model.safetensors");
    int64_t plain = 0;
    for (int64_t i = 0; i < qsae__tensors_len(a); i++) {
        const qsae__tensor *const x = qsae__tensors_at(a, i), *const y =
            qsae__tensors_find(b, x->name);
        if (strstr(x->name, "_proj.weight") && !strstr(x->name, "vision"))
            continue; /* encoded */
        assert_non_null(y);
        const bool real = x->dtype != QSAE_I64 && x->dtype != QSAE_I32;
        assert_int_equal(y->dtype, real ? QSAE_F32 : x->dtype);
        if (!real)
            assert_memory_equal(y->data, x->data, x->bytes);
        plain++;
    }
    assert_int_equal(plain, qsae__tensors_len(a) - 14);
    qsae__tensors_unref(&a);
    qsae__tensors_unref(&b);
    remove_folder(from);
    remove_folder(out);
    qsae_context_close(&ctx);
}

/* weights= is a cast of the whole model, which settings may ask for too. */
static void test_rounded(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    char source[600], out[600], cast[600];
    (void)state;
    snprintf(source, sizeof source, "%s", test_model_path("bnb_source"));
    join(out, test_folder(), "saved");
    join(cast, test_folder(), "cast");
    save(ctx, source, "none", cast, QSAE_F16, 0);
    qsae__tensors *want = load(ctx, cast, "model.safetensors");
    for (int i = 0; i < 2; i++) {
        save(ctx, source, "none:weights=f16", out, i ? QSAE_F16 : 0, 0);
        qsae__tensors *got = load(ctx, out, "model.safetensors");
        assert_int_equal(qsae__tensors_len(got), qsae__tensors_len(want));
        for (int64_t k = 0; k < qsae__tensors_len(got); k++) {
            const qsae__tensor *const x = qsae__tensors_at(got, k), *const y =
                qsae__tensors_at(want, k);
            assert_string_equal(x->name, y->name);
            assert_int_equal(x->dtype, QSAE_F16);
            assert_int_equal(x->bytes, y->bytes);
            assert_memory_equal(x->data, y->data, x->bytes);
        }
        qsae__tensors_unref(&got);
        json_t *const config = config_of(ctx, out);
        assert_string_equal(json_string_value(json_object_get(config, "dtype")), "float16");
        assert_string_equal(json_string_value(json_object_get(config, "qsae_condition")),
                            "none:weights=f16");
        json_decref(config);
        remove_folder(out);
    }
    qsae__tensors_unref(&want);
    remove_folder(cast);
    qsae_context_close(&ctx);
}

/* What goes with a model is copied as it is; other weights, indexes and papers are not. */
static void test_files(void **state)
{
    static const struct {
        const char *name;
        bool copied;
    } files[] = {
        { "tokenizer.json", true },     { "tokenizer.model", true },
        { "chat_template.jinja", true }, { "merges.txt", true },
        { "o200k.tiktoken", true },     { "LICENSE", true },
        { "LICENCE.md", true },         { "NOTICE", true },
        { "COPYING.LESSER", true },     { "USE_POLICY.md", true },
        { "README.md", false },         { "x", false },
        { "json", false },              { "other.safetensors", false },
        { "pytorch_model.bin", false }, { "pytorch_model.bin.index.json", false },
        { "LICENS", false },            { "model.json.bak", false },
    };
    qsae_context *ctx = test_context(1, NULL);
    char from[600], out[600], path[600], slashes[600], name[64];
    (void)state;
    make_source(ctx, "bnb_source", config_of(ctx, test_model_path("bnb_source")), NULL, 0, from);
    int64_t copied = 2;
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        snprintf(name, sizeof name, "from/%s", files[i].name);
        test_write(name, files[i].name, strlen(files[i].name));
        copied += files[i].copied;
    }
    join(out, test_folder(), "saved");
    join(slashes, test_folder(), "saved///"); /* the same folder */
    join(path, from, "other.safetensors");
    unlink(path); /* no tensors: the folder could not be read */
    save(ctx, from, "rtn:bits=4", slashes, 0, 0);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        size_t size;
        join(path, out, files[i].name);
        assert_int_equal(access(path, R_OK), files[i].copied ? 0 : -1);
        if (!files[i].copied)
            continue;
        char *const data = test_read(path, &size);
        assert_string_equal(data, files[i].name);
        free(data);
    }
    assert_int_equal(entries(out), copied);
    remove_folder(from);
    remove_folder(out);
    qsae_context_close(&ctx);
}

/* Shards become one file: their index stays behind. */
static void test_one_of_shards(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    char source[600], out[600], path[600];
    (void)state;
    snprintf(source, sizeof source, "%s", test_model_path("gemma3_sharded"));
    join(out, test_folder(), "saved");
    save(ctx, source, "rtn:bits=4", out, QSAE_BF16, 0);
    join(path, out, "model.safetensors.index.json");
    assert_int_equal(access(path, R_OK), -1);
    join(path, out, "model.safetensors");
    assert_int_equal(access(path, R_OK), 0);
    remove_folder(out);
    qsae_context_close(&ctx);
}

static void test_not_held(void **state)
{
    static const struct {
        const char *model, *condition;
        int32_t status;
        const char *part;
    } bad[] = {
        { "bnb_source", "none+kv:v=f16", QSAE_EUNSUPPORTED, "cached" },
        { "bnb_source", "none+prune:match=(nf4)", QSAE_EUNSUPPORTED, "prune:match" },
        { "bnb_source", "llm.int8@with=head", QSAE_EUNSUPPORTED, "for LLM.int8 every head" },
        { "bnb_source", "fp4@with=embed", QSAE_EUNSUPPORTED, "keep the embedding" },
        { "gpt2_source", "nf4@with=head", QSAE_EUNSUPPORTED, "a head tied to it" },
        { "gpt2_source", "rtn:bits=4@with=head", QSAE_EUNSUPPORTED, "are one tensor of" },
        { "gpt2_source", "rtn:bits=4@with=embed", QSAE_EUNSUPPORTED, "both or none" },
        { "gguf_llama_mixed/model.gguf", "none", QSAE_EUNSUPPORTED, "stored compressed" },
        { "stored_awq", "none", QSAE_EUNSUPPORTED, "stored compressed" },
    };
    qsae_context *ctx = test_context(1, NULL);
    char out[600], from[600];
    qsae_weights *w = NULL, *processed = NULL;
    (void)state;
    join(out, test_folder(), "saved");
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        OK(qsae_weights_open(ctx, test_model_path(bad[i].model), &w));
        REFUSED(qsae_weights_save(w, bad[i].condition, out, NULL), bad[i].status, bad[i].part);
        qsae_weights_close(&w);
    }
    OK(qsae_weights_open(ctx, test_model_path("neox_source"), &w));
    OK(qsae_weights_process(w, "tl", &processed));
    REFUSED(qsae_weights_save(processed, "none", out, NULL), QSAE_EUNSUPPORTED,
            "its weights are processed (");
    qsae_weights_close(&processed);
    qsae_weights_close(&w);
    /* a weight that is no number leaves double=1 without an offset */
    qsae__tensors *t = load(ctx, test_model_path("llama_gqa"), "model.safetensors");
    qsae__tensor x = *qsae__tensors_find(t, "model.layers.1.mlp.up_proj.weight");
    assert_int_equal(x.dtype, QSAE_F32);
    float *const data = malloc((size_t)x.bytes);
    assert_non_null(data);
    memcpy(data, x.data, (size_t)x.bytes);
    data[11] = INFINITY;
    x.data = data;
    make_source(ctx, "llama_gqa", config_of(ctx, test_model_path("llama_gqa")), &x, 1, from);
    qsae__tensors_unref(&t);
    free(data);
    OK(qsae_weights_open(ctx, from, &w));
    REFUSED(qsae_weights_save(w, "nf4", out, NULL), QSAE_ENONFINITE,
            "layers.1.mlp.up_proj.weight");
    assert_non_null(strstr(qsae_error_message(), "holds NaN or infinity"));
    OK(qsae_weights_save(w, "nf4:double=0", out, NULL));
    qsae_weights_close(&w);
    remove_folder(from);
    remove_folder(out);
    assert_int_equal(entries(test_folder()), 0);
    qsae_context_close(&ctx);
}

const struct CMUnitTest save_folder_tests[] = {
    cmocka_unit_test(test_skipped), cmocka_unit_test(test_outside),
    cmocka_unit_test(test_rounded), cmocka_unit_test(test_files),
    cmocka_unit_test(test_one_of_shards), cmocka_unit_test(test_not_held),
};
const size_t n_save_folder_tests = sizeof save_folder_tests / sizeof save_folder_tests[0];
