/* SPDX-License-Identifier: BSD-2-Clause */
/* Gemma 4: its configuration, tensors and conditions; its numbers are in reference.c. */
#include "folders.h"

#include "codecs/bnb.h"
#include "model/extras.h"

#define TEXT "{\"model_type\":\"gemma4_text\""

static void read_config(qsae_context *ctx, const char *json, qsae__config *c)
{
    json_t *top = NULL;
    OK(qsae__json_parse(json, strlen(json), "config.json", &top));
    OK(qsae__config_read(ctx, top, "config.json", c));
    json_decref(top);
}

static void test_defaults(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    qsae__config c;
    (void)state;
    read_config(ctx, TEXT "}", &c);
    assert_true(c.vocab == 262144 && c.width == 2304 && c.mlp_width == 9216 && c.layers == 30);
    assert_true(c.heads == 8 && c.kv_heads == 4 && c.head_dim == 256 && c.window == 512);
    assert_true(c.eps == 1e-6 && c.tied && c.attn_scale == 1 && c.final_cap == 0 && !c.experts);
    assert_true(c.ple_width == 256 && c.ple_vocab == 262144 && c.bos == 2 && c.eos == 1);
    assert_true(c.max_positions == 131072 && !c.attention_bias);
    for (int64_t n = 0; n < c.layers; n++) {
        const qsae__layer_shape s = qsae__layer_shape_of(&c, n);
        assert_int_equal(c.sliding[n], (n + 1) % 6 != 0);
        assert_int_equal(s.head_dim, c.sliding[n] ? 256 : 512);
        assert_true(s.kv_heads == 4 && s.mlp_width == 9216 && s.kv_layer == n);
        assert_true(!s.kept && !s.no_v);
    }
    const qsae__rope *const full = &c.rope[QSAE__FULL], *const local = &c.rope[QSAE__SLIDING];
    assert_true(full->type == QSAE__ROPE_PROPORTIONAL && full->theta == 1e6 && full->dim == 512);
    assert_true(full->rotated == 64 && full->factor == 1);
    assert_true(local->type == QSAE__ROPE_DEFAULT && local->theta == 1e4 && local->dim == 256);
    qsae__config_free(ctx, &c);
    /* the last layer is full; keys of 26B-A4B; wrapper */
    read_config(ctx,
         "{\"model_type\":\"gemma4\",\"tie_word_embeddings\":false,\"text_config\":{"
         "\"num_hidden_layers\":4,\"attention_k_eq_v\":true,\"num_global_key_value_heads\":2,"
         "\"hidden_size_per_layer_input\":0,\"enable_moe_block\":true,\"num_experts\":128,"
         "\"top_k_experts\":8,\"moe_intermediate_size\":704,\"final_logit_softcapping\":30.0}}",
         &c);
    assert_true(!c.tied && c.final_cap == 30 && c.ple_width == 0);
    assert_true(c.experts == 128 && c.top_experts == 8 && c.expert_width == 704);
    for (int64_t n = 0; n < 4; n++) {
        const qsae__layer_shape s = qsae__layer_shape_of(&c, n);
        assert_true(c.sliding[n] == (n < 3) && s.no_v == (n == 3));
        assert_int_equal(s.kv_heads, n == 3 ? 2 : 4);
    }
    qsae__config_free(ctx, &c);
    qsae_context_close(&ctx);
}

static void test_sharing(void **state)
{
    static const int64_t from[] = { 0, 1, 2, 3, 2, 3 };
    qsae_context *ctx = test_context(1, NULL);
    qsae__config c;
    (void)state;
    read_config(ctx,
         TEXT ",\"num_hidden_layers\":6,\"num_kv_shared_layers\":2,\"use_double_wide_mlp\":true,"
         "\"layer_types\":[\"sliding_attention\",\"full_attention\",\"sliding_attention\","
         "\"full_attention\",\"sliding_attention\",\"full_attention\"],"
         "\"per_layer_config\":{\"01\":{\"head_dim\":64,\"num_key_value_heads\":1},"
         "\"3\":{\"num_key_value_heads\":1,\"head_dim\":64,\"skip\":[]},"
         "\"5\":{\"head_dim\":64,\"num_key_value_heads\":1}},\"global_head_dim\":32}",
         &c);
    for (int64_t n = 0; n < 6; n++) {
        const qsae__layer_shape s = qsae__layer_shape_of(&c, n);
        assert_int_equal(s.kv_layer, from[n]);
        assert_int_equal(s.kept, n == 2 || n == 3);
        assert_int_equal(s.mlp_width, n < 4 ? 9216 : 18432);
        assert_int_equal(s.head_dim, n % 2 ? 64 : 256);
        assert_int_equal(s.kv_heads, n % 2 ? 1 : 4);
        assert_int_equal(qsae__has_proj(&c, n, QSAE__K_PROJ), n < 4);
        assert_int_equal(qsae__norm_size(&c, n, QSAE__NORM_K), n >= 4 ? 0 : s.head_dim);
    }
    assert_true(c.rope[QSAE__FULL].dim == 64 && c.rope[QSAE__FULL].rotated == 8);
    qsae__config_free(ctx, &c);
    qsae_context_close(&ctx);
}

#define SMALL TEXT ",\"num_hidden_layers\":2,"
#define ROPE(full) \
    SMALL "\"rope_parameters\":{\"sliding_attention\":{\"rope_type\":\"default\"," \
          "\"rope_theta\":10000.0},\"full_attention\":" full "}}"

static const struct {
    const char *json;
    int32_t status;
    const char *part;
} refused[] = {
    { "{\"model_type\":\"gemma4\"}", QSAE_EFORMAT, "text_config" },
    { "{\"model_type\":\"gemma4_unified\"}", QSAE_EUNSUPPORTED, "\"gemma4_unified\"" },
    { TEXT ",\"use_bidirectional_attention\":\"all\"}", QSAE_EUNSUPPORTED, "bidirectional" },
    { TEXT ",\"sliding_window\":null}", QSAE_EFORMAT, "sliding_window" },
    { TEXT ",\"global_head_dim\":null}", QSAE_EFORMAT, "global_head_dim" },
    { TEXT ",\"global_head_dim\":9}", QSAE_EFORMAT, "head_dim of layer 5" },
    { TEXT ",\"global_head_dim\":8194}", QSAE_EFORMAT, "in 2..8192, found 8194" },
    { TEXT ",\"num_key_value_heads\":3}", QSAE_EFORMAT, "num_attention_heads 8" },
    { TEXT ",\"attention_k_eq_v\":true,\"num_global_key_value_heads\":3}", QSAE_EFORMAT,
      "heads of layer 5" },
    { TEXT ",\"hidden_size_per_layer_input\":null}", QSAE_EFORMAT, "hidden_size_per_layer_input" },
    { TEXT ",\"hidden_size_per_layer_input\":-1}", QSAE_EFORMAT, "hidden_size_per_layer_input" },
    { TEXT ",\"num_kv_shared_layers\":30}", QSAE_EFORMAT, "num_kv_shared_layers" },
    { TEXT ",\"num_kv_shared_layers\":25}", QSAE_EFORMAT, "an earlier full_attention layer" },
    { TEXT ",\"enable_moe_block\":true}", QSAE_EFORMAT, "num_experts" },
    { TEXT ",\"enable_moe_block\":true,\"num_experts\":4,\"top_k_experts\":5,"
           "\"moe_intermediate_size\":8}", QSAE_EFORMAT, "top_k_experts" },
    { TEXT ",\"enable_moe_block\":true,\"num_experts\":4,\"top_k_experts\":4}", QSAE_EFORMAT,
      "moe_intermediate_size" },
    { SMALL "\"layer_types\":[\"chunked_attention\",\"full_attention\"]}", QSAE_EUNSUPPORTED,
      "chunked_attention" },
    { SMALL "\"per_layer_config\":{\"2\":{\"head_dim\":8}}}", QSAE_EFORMAT, "per_layer_config.2" },
    { SMALL "\"per_layer_config\":{\"x\":{\"head_dim\":8}}}", QSAE_EFORMAT, "per_layer_config.x" },
    { SMALL "\"per_layer_config\":{\"1\":8}}", QSAE_EFORMAT, "per_layer_config.1" },
    { SMALL "\"per_layer_config\":{\"1\":{\"sliding_window\":8}}}", QSAE_EUNSUPPORTED,
      "per_layer_config.1.sliding_window" },
    { TEXT ",\"per_layer_config\":{\"5\":{\"head_dim\":8}}}", QSAE_EUNSUPPORTED,
      "layer 11 has other heads than layer 5" },
    { TEXT ",\"per_layer_config\":{\"11\":{\"num_key_value_heads\":2}}}", QSAE_EUNSUPPORTED,
      "layer 11 has other heads than layer 5, both are full_attention" },
    { TEXT ",\"per_layer_config\":{\"7\":{\"head_dim\":8}}}", QSAE_EUNSUPPORTED,
      "layer 7 has other heads than layer 0, both are sliding_attention" },
    { SMALL "\"per_layer_config\":{\"1x\":{\"head_dim\":8}}}", QSAE_EFORMAT,
      "per_layer_config.1x: expected the number of a layer below 2" },
    { SMALL "\"per_layer_config\":{\"99999999999999999999\":{}}}", QSAE_EFORMAT, "below 2" },
    { SMALL "\"per_layer_config\":{\"1\":{\"skip\":[\"mlp\"]}}}", QSAE_EUNSUPPORTED,
      "per_layer_config.1.skip" },
    { SMALL "\"per_layer_config\":{\"1\":{\"skip\":false}}}", QSAE_EUNSUPPORTED,
      "per_layer_config.1.skip" },
    { SMALL "\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":2}}", QSAE_EUNSUPPORTED,
      "rope_scaling" },
    { SMALL "\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":10000.0}}",
      QSAE_EFORMAT, "full_attention" },
    { ROPE("{\"rope_type\":\"proportional\"}"), QSAE_EFORMAT, "full_attention.rope_theta" },
    { ROPE("{\"rope_type\":\"yarn\",\"rope_theta\":10000.0}"), QSAE_EUNSUPPORTED, "yarn" },
    { ROPE("{\"rope_type\":\"proportional\",\"rope_theta\":10000.0,"
           "\"partial_rotary_factor\":1.5}"), QSAE_EFORMAT, "partial_rotary_factor" },
    { ROPE("{\"rope_type\":\"proportional\",\"rope_theta\":10000.0,"
           "\"partial_rotary_factor\":-0.5}"), QSAE_EFORMAT, "expected 0 to 1, found -0.5" },
    { ROPE("{\"rope_type\":\"linear\",\"rope_theta\":10000.0,\"factor\":2.0,"
           "\"partial_rotary_factor\":0.5}"), QSAE_EUNSUPPORTED, "partial_rotary_factor" },
    { "{\"model_type\":\"llama\",\"rope_parameters\":{\"rope_type\":\"proportional\","
      "\"rope_theta\":10000.0}}", QSAE_EUNSUPPORTED, "proportional" },
};

static void count_last(void *cookie, int32_t level, const char *message)
{
    *(int *)cookie += level == QSAE_LOG_WARNING && strstr(message, "the last layer is a full one");
}

/* The last layer is full whatever layer_types says, with a word about it. */
static void test_last_layer(void **state)
{
    static const char *const types[] = { "\"sliding_attention\"", "\"full_attention\"" };
    int warnings = 0;
    qsae_context_settings s;
    qsae_context *ctx = NULL;
    (void)state;
    qsae_context_settings_init(&s, sizeof s);
    s.threads = 1;
    s.log = count_last;
    s.log_cookie = &warnings;
    OK(qsae_context_open(&s, &ctx));
    for (int i = 0; i < 2; i++) {
        char json[256];
        qsae__config c;
        snprintf(json, sizeof json, "%s\"layer_types\":[%s,%s]}", SMALL, types[0], types[i]);
        warnings = 0;
        read_config(ctx, json, &c);
        assert_true(c.sliding[0] == 1 && c.sliding[1] == 0 && c.window == 512);
        assert_int_equal(warnings, i == 0);
        qsae__config_free(ctx, &c);
    }
    qsae_context_close(&ctx);
}

static void test_refused(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        qsae__config c;
        json_t *top = NULL;
        OK(qsae__json_parse(refused[i].json, strlen(refused[i].json), "config.json", &top));
        const int32_t st = qsae__config_read(ctx, top, "config.json", &c);
        if (st != refused[i].status || !strstr(qsae_error_message(), refused[i].part))
            fail_msg("%s: expected %s with \"%s\", got %s: %s", refused[i].json,
                     qsae_status_name(refused[i].status), refused[i].part, qsae_status_name(st),
                     qsae_error_message());
        json_decref(top);
    }
    qsae_context_close(&ctx);
}

/* gemma4_wrapper without a tensor, or with that one's last dimension cut. */
static void write_without(qsae_context *ctx, const char *tensor, bool cut)
{
    char path[512];
    size_t size;
    qsae__tensors *t = NULL;
    qsae__tensor list[128];
    int64_t n = 0;
    OK(qsae__tensors_load(ctx, MODELS "gemma4_wrapper/model.safetensors", &t));
    for (int64_t i = 0; i < qsae__tensors_len(t); i++) {
        const qsae__tensor *const x = qsae__tensors_at(t, i);
        const bool hit = !strcmp(x->name, tensor);
        if (hit && !cut)
            continue;
        assert_true(n < 128);
        list[n] = *x;
        if (hit) {
            list[n].bytes -= list[n].bytes / (uint64_t)x->shape[x->rank - 1];
            list[n].shape[x->rank - 1]--;
        }
        n++;
    }
    assert_int_equal(n, qsae__tensors_len(t) - !cut);
    snprintf(path, sizeof path, "%s/model.safetensors", test_folder());
    OK(qsae__safetensors_write(ctx, path, list, n));
    qsae__tensors_unref(&t);
    char *const text = test_read(MODELS "gemma4_wrapper/config.json", &size);
    test_write("config.json", text, size);
    free(text);
}

/* Every tensor is needed, in its shape; what shared layers would not read is not. */
static void test_tensors(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    qsae__tensors *t = NULL;
    int64_t tried = 0;
    (void)state;
    OK(qsae__tensors_load(ctx, MODELS "gemma4_wrapper/model.safetensors", &t));
    for (int64_t i = 0; i < qsae__tensors_len(t); i++) {
        const qsae__tensor *const x = qsae__tensors_at(t, i);
        const bool embed = strstr(x->name, "embed_tokens.weight");
        const bool head = strstr(x->name, "lm_head");
        for (int cut = 0; cut < 2; cut++) {
            qsae_weights *w = NULL;
            if (head || (cut && x->shape[x->rank - 1] == 1)) /* tied; a scalar */
                continue;
            write_without(ctx, x->name, cut);
            REFUSED(qsae_weights_open(ctx, test_folder(), &w), cut ? QSAE_EMISMATCH : QSAE_ENOENT,
                    embed ? "embed_tokens.weight" : x->name);
            assert_null(w);
            tried++;
        }
    }
    assert_true(tried > 100);
    assert_null(qsae__tensors_find(t, "model.language_model.layers.2.self_attn.k_proj.weight"));
    assert_null(qsae__tensors_find(t, "model.language_model.layers.1.self_attn.v_proj.weight"));
    qsae__tensors_unref(&t);
    qsae_context_close(&ctx);
}

/* Which linear layers a condition takes, and what it counts; experts are never among them. */
static void test_conditions(void **state)
{
    static const struct {
        const char *condition;
        int64_t tensors;
    } cases[] = {
        /* 3 layers of q, o, gate, up, down, two of the per-layer embedding, router; k of two
         * layers, v of one; the projection outside */
        { "rtn:bits=8", 3 * 8 + 2 + 1 + 1 },
        { "rtn:bits=8@skip=per_layer_model_projection", 3 * 8 + 2 + 1 },
        { "rtn:bits=8@only=ple", 3 * 2 + 1 },
        { "rtn:bits=8@only=attn", 3 * 2 + 2 + 1 },
        { "rtn:bits=8@only=mlp", 3 * 4 },
        { "rtn:bits=8@layers=1-2", 2 * 8 + 1 },
    };
    qsae_context *ctx = test_context(2, NULL);
    qsae_weights *w = NULL;
    (void)state;
    OK(qsae_weights_open(ctx, test_model_path("gemma4_wrapper"), &w));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        qsae_model_cost cost = { .struct_size = sizeof cost };
        qsae_model_settings s;
        qsae_model *m = NULL;
        qsae_model_settings_init(&s, sizeof s);
        s.condition = cases[i].condition;
        OK(qsae_model_open(w, &s, &m));
        OK(qsae_model_get_cost(m, &cost));
        assert_int_equal(cost.quantized_tensors, cases[i].tensors);
        assert_int_equal(qsae__model_linears(m), cases[0].tensors);
        qsae_model_close(&m);
    }
    qsae_qmatrix *q = NULL;
    OK(qsae_weights_matrix(w, "model.language_model.per_layer_model_projection", &q));
    qsae_qmatrix_close(&q);
    OK(qsae_weights_matrix(w, "model.language_model.embed_tokens_per_layer", &q));
    qsae_qmatrix_close(&q);
    REFUSED(qsae_weights_matrix(w, "model.language_model.layers.2.self_attn.k_proj", &q),
            QSAE_ENOENT, "layers.2.self_attn.k_proj");
    qsae_weights_close(&w);
    qsae_context_close(&ctx);
}

static void compare_runs(qsae_context *ctx, const char *path, const char *condition,
                         const char *other, const char *other_condition, bool equal)
{
    int32_t ids[2 * 20];
    struct test_result a, b;
    for (int i = 0; i < 40; i++)
        ids[i] = (i * 7 + i / 20) % 64;
    qsae_model *m = test_model(ctx, path, condition, QSAE_COMPUTE_BF16, 0);
    qsae_model *n = test_model(ctx, other, other_condition, QSAE_COMPUTE_BF16, 0);
    test_run(m, ids, 2, 20, &a);
    test_run(n, ids, 2, 20, &b);
    assert_int_equal(test_result_equal(&a, &b), equal);
    test_result_free(&a);
    test_result_free(&b);
    qsae_model_close(&m);
    qsae_model_close(&n);
}

/* A saved model is the one that runs: under a codec, and stored by bitsandbytes' rules. */
static void test_save(void **state)
{
    static const char *const conditions[] = { "rtn:bits=4", "nf4:rules=torch",
                                              "nf4@skip=proj|per_layer_model_projection",
                                              "rtn:bits=3@only=ple" };
    static const char *const files[] = { "config.json", "model.safetensors", "reference.json" };
    char source[600], folder[600], path[700];
    qsae_context *ctx = test_context(2, NULL);
    (void)state;
    snprintf(source, sizeof source, "%s", test_model_path("gemma4_wrapper"));
    snprintf(folder, sizeof folder, "%s/saved", test_folder());
    for (size_t i = 0; i < sizeof conditions / sizeof conditions[0]; i++) {
        qsae_weights *w = NULL;
        OK(qsae_weights_open(ctx, source, &w));
        OK(qsae_weights_save(w, conditions[i], folder, NULL));
        qsae_weights_close(&w);
        compare_runs(ctx, folder, NULL, source, conditions[i], true);
        compare_runs(ctx, folder, NULL, source, NULL, false);
        for (size_t k = 0; k < sizeof files / sizeof files[0]; k++) {
            snprintf(path, sizeof path, "%s/%s", folder, files[k]);
            unlink(path);
        }
        assert_int_equal(rmdir(folder), 0);
    }
    qsae_context_close(&ctx);
}

/* A table of per-layer embeddings that a folder stores compressed is what it decodes to, and no
 * folder of plain weights has one, whether or not config.json speaks of it. */
static void test_stored_table(void **state)
{
    static const char *const name = "model.language_model.embed_tokens_per_layer";
    static const char *const specs[] = { "nf4", "fp4:double=0", "llm.int8" };
    static const int32_t dtypes[] = { QSAE_F32, QSAE_BF16 };
    qsae_context *ctx = test_context(2, NULL);
    qsae_weights *w = NULL;
    char stored[600], decoded[600], saved[600];
    (void)state;
    qsae__tensors *t = load(ctx, test_model_path("gemma4_wrapper"), "model.safetensors");
    qsae__tensor table = *qsae__tensors_find(
        t, "model.language_model.embed_tokens_per_layer.weight");
    const qsae_rows rows = { .struct_size = sizeof rows, .data = (void *)(uintptr_t)table.data,
                             .n_rows = 70, .n_cols = 12, .row_stride = 12, .dtype = QSAE_BF16 };
    join(stored, test_folder(), "stored");
    join(saved, test_folder(), "saved");
    for (int i = 0; i < 3 * 2; i++) {
        const int32_t dtype = dtypes[i % 2];
        qsae_quantizer *z = NULL;
        qsae_qmatrix *q = NULL;
        qsae__bnb_parts parts;
        qsae__tensor list[QSAE__BNB_PARTS];
        char names[QSAE__BNB_PARTS][128];
        float values[70 * 12];
        uint16_t narrow[70 * 12];
        OK(qsae_quantizer_open(ctx, specs[i / 2], &z));
        OK(qsae_quantizer_encode(z, &rows, 0, 0, &q));
        OK(qsae__bnb_describe(q, &parts));
        for (int32_t k = 0; k < parts.n; k++) {
            const qsae_field *const f = &parts.part[k].field;
            snprintf(names[k], sizeof names[k], "%s%s", name, parts.part[k].suffix);
            list[k] = (qsae__tensor){ .name = names[k], .data = f->data, .dtype = f->dtype,
                                      .rank = f->rank, .bytes = f->bytes,
                                      .shape = { f->shape[0], f->shape[1] } };
        }
        make_source(ctx, "gemma4_wrapper", config_of(ctx, test_model_path("gemma4_wrapper")), list,
                    parts.n, decoded);
        assert_int_equal(rename(decoded, stored), 0);
        for (int64_t r = 0; r < 70; r++)
            q->ops->decode(q, r, 0, 12, dtype, values + 12 * r);
        assert_true(qsae__from_f32(QSAE_BF16, values, 70 * 12, narrow));
        qsae__tensor plain = table;
        plain.data = dtype == QSAE_F32 ? (const void *)values : narrow;
        plain.dtype = dtype;
        plain.bytes = (uint64_t)(70 * 12 * qsae_dtype_bits(dtype) / 8);
        make_source(ctx, "gemma4_wrapper", config_of(ctx, test_model_path("gemma4_wrapper")),
                    &plain, 1, decoded);
        const char *const condition = dtype == QSAE_F32 ? "none@compute=f32" : NULL;
        compare_runs(ctx, stored, condition, decoded, condition, true);
        compare_runs(ctx, stored, condition, test_model_path("gemma4_wrapper"), condition, false);
        OK(qsae_weights_open(ctx, stored, &w));
        REFUSED(qsae_weights_save(w, "none", saved, NULL), QSAE_EUNSUPPORTED, "stored compressed");
        qsae_weights_close(&w);
        remove_folder(stored);
        remove_folder(decoded);
        qsae_qmatrix_close(&q);
        qsae_quantizer_close(&z);
    }
    qsae__tensors_unref(&t);
    qsae_context_close(&ctx);
}

/* Codes of a cache go by the layers that have one, of their own head sizes. */
static void test_cache(void **state)
{
    qsae_context *ctx = test_context(2, NULL);
    const char *const path = test_model_path("gemma4_shared");
    qsae_model_cost cost = { .struct_size = sizeof cost };
    (void)state;
    /* layers 0 (8 values) and 1 (4 values) have keys, 2 to 4 read those */
    qsae_model *m = test_model(ctx, path, "none+kv:k=turbo3,v=f16", 0, 0);
    OK(qsae_model_get_cost(m, &cost));
    const double want = (8 * (3 + 16.0 / 8) + 4 * (3 + 16.0 / 4)) / 12 / 2 + 8;
    assert_true(fabs(cost.kv_bits_per_value - want) < 1e-12);
    qsae_model_close(&m);
    qsae_context_close(&ctx);
}

/* A slab serves models one after the other; one whose layers read more than the residual stream
 * does not begin in the middle. */
static void test_slab(void **state)
{
    qsae_context *ctx = test_context(2, NULL);
    qsae_weights *w = NULL;
    qsae_model_settings s;
    qsae_model *m[2] = { NULL, NULL };
    qsae__slab slab;
    int32_t ids[3 * 20];
    struct test_result r[2];
    (void)state;
    for (int i = 0; i < 60; i++)
        ids[i] = (i * 5 + i / 20) % 64;
    OK(qsae_weights_open(ctx, test_model_path("gemma4_wrapper"), &w));
    for (int i = 0; i < 2; i++) {
        qsae_model_settings_init(&s, sizeof s);
        s.condition = i ? "rtn:bits=3@layers=2-2" : NULL;
        OK(qsae_model_open(w, &s, &m[i]));
        test_run(m[i], ids, 3, 20, &r[i]);
    }
    assert_int_equal(qsae__model_first_changed(m[0], m[1]), 0);
    OK(qsae__slab_open(ctx, m, 2, 4, 20, &slab));
    slab.n_seq = 3;
    for (int round = 0; round < 4; round++) {
        slab.ids = ids;
        OK(qsae__model_embed(m[round % 2], &slab));
        for (int64_t n = 0; n < r[0].layers; n++) {
            OK(qsae__model_step(m[round % 2], n, &slab));
            assert_memory_equal(slab.x, r[round % 2].resid[n],
                                (size_t)(r[0].rows * r[0].width) * sizeof(float));
        }
    }
    /* one that is too small in any respect was opened for another model */
    const size_t least = slab.kept_bytes;
    slab.kept_bytes = (size_t)(3 * 20 * 4);
    REFUSED(qsae__model_step(m[0], 0, &slab), QSAE_EINVAL, "slab was not opened for this model");
    slab.kept_bytes = least;
    slab.scratch_bytes -= slab.scratch_bytes / 2;
    REFUSED(qsae__model_step(m[0], 0, &slab), QSAE_EINVAL, "slab was not opened for this model");
    REFUSED(qsae__model_step(m[0], -1, &slab), QSAE_EINVAL, "layer -1: expected 0..2");
    REFUSED(qsae__model_step(m[0], 3, &slab), QSAE_EINVAL, "layer 3: expected 0..2");
    qsae__slab_close(&slab);
    for (int n = 0; n < 3; n++)
        REFUSED(qsae__slab_open(ctx, m, 2, n == 0 ? 0 : 1, n == 1 ? 0 : (1 << 24) + 1, &slab),
                QSAE_EINVAL, "expected at least 1, at most 16777216 tokens");
    for (int i = 0; i < 2; i++) {
        test_result_free(&r[i]);
        qsae_model_close(&m[i]);
    }
    qsae_weights_close(&w);
    qsae_context_close(&ctx);
}

/* A token without a row in the table of per-layer embeddings. */
static void test_ids(void **state)
{
    int32_t ids[2] = { 3, 63 };
    float nll[2];
    qsae_context *ctx = test_context(1, NULL);
    qsae_pass p;
    (void)state;
    qsae_model *m = test_model(ctx, test_model_path("gemma4_wrapper"), NULL, 0, 0);
    qsae_pass_init(&p, sizeof p);
    p.ids = ids;
    p.n_seq = 1;
    p.n_tokens = 2;
    p.nll = nll;
    OK(qsae_model_forward(m, &p));
    m->weights->config.ple_vocab = 63;
    REFUSED(qsae_model_forward(m, &p), QSAE_EINVAL, "0..62");
    m->weights->config.ple_vocab = 70;
    qsae_model_close(&m);
    qsae_context_close(&ctx);
}

/* Columns of sites that differ from layer to layer; what the router reads is no site. */
static void test_sites(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    qsae_model *m = test_model(ctx, test_model_path("gemma4_shared"), NULL, 0, 0);
    (void)state;
    for (int32_t n = 0; n < 5; n++) {
        assert_int_equal(qsae_model_site_width_at(m, QSAE_SITE_Z, n), n % 2 ? 12 : 24);
        assert_int_equal(qsae_model_site_width_at(m, QSAE_SITE_MLP_POST, n), n < 2 ? 16 : 32);
        assert_int_equal(qsae_model_site_width_at(m, QSAE_SITE_RESID_POST, n), 12);
    }
    assert_int_equal(qsae_model_site_width(m, QSAE_SITE_Z), 24);
    assert_int_equal(qsae_model_site_width_at(m, QSAE_SITE_EMBED, -1), 12);
    assert_int_equal(qsae_model_site_width_at(m, QSAE_SITE_Z, 5), 0);
    assert_int_equal(qsae_model_site_width_at(m, QSAE_SITE_Z, -1), 0);
    assert_int_equal(qsae_model_site_width_at(NULL, QSAE_SITE_Z, 0), 0);
    assert_int_equal(qsae_model_site(m, "model.layers.1.mlp.down_proj.input", NULL),
                     QSAE_SITE_MLP_POST);
    assert_int_equal(qsae_model_site(m, "model.layers.1.per_layer_input_gate.input", NULL), 0);
    assert_int_equal(qsae_model_site(m, "model.layers.1.router.proj.input", NULL), 0);
    qsae_model_close(&m);
    qsae_context_close(&ctx);
}

const struct CMUnitTest gemma4_tests[] = {
    cmocka_unit_test(test_defaults), cmocka_unit_test(test_sharing),
    cmocka_unit_test(test_refused),  cmocka_unit_test(test_tensors),
    cmocka_unit_test(test_last_layer),
    cmocka_unit_test(test_conditions), cmocka_unit_test(test_save),
    cmocka_unit_test(test_stored_table),
    cmocka_unit_test(test_cache),    cmocka_unit_test(test_slab),
    cmocka_unit_test(test_ids),      cmocka_unit_test(test_sites),
};
const size_t n_gemma4_tests = sizeof gemma4_tests / sizeof gemma4_tests[0];
