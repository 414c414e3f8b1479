/* SPDX-License-Identifier: BSD-2-Clause */
/* GGUF files as models: names, undone changes and keys; results against transformers; refusals. */
#include "gguf_file.h"

#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#include "codecs/stored.h"

static const char *const models[] = { "gguf_llama_mixed", "gguf_llama_q4_k_m", "gguf_llama_rope3",
                                      "gguf_gemma3", "gguf_gemma3_new", "gguf_gemma2",
                                      "gguf_qwen3", "gguf_neox", "gguf_neox_sequential",
                                      "gguf_gpt2" };
#define N_MODELS ((int)(sizeof models / sizeof models[0]))

static void open_model(qsae_context *ctx, const char *path, json_t **config, qsae__tensors **t)
{
    qsae__tensors *raw = NULL;
    OK(qsae__tensors_load(ctx, path, &raw));
    OK(qsae__gguf_model(ctx, raw, config, t));
    qsae__tensors_unref(&raw); /* the renamed set keeps it */
}

static const char *file_of(const char *name)
{
    static char path[600];
    snprintf(path, sizeof path, "%s/model.gguf", test_model_path(name));
    return path;
}

/* FNV-1a of the f32 values. */
static uint64_t hash_values(qsae_context *ctx, qsae__tensors *t, const qsae__tensor *x)
{
    const int64_t cols = x->shape[x->rank - 1], rows = x->rank == 2 ? x->shape[0] : 1;
    float *const row = malloc((size_t)cols * sizeof *row);
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    qsae_qmatrix *q = NULL;
    assert_non_null(row);
    if (x->rank == 2)
        OK(qsae__ggml_open(ctx, t, x, &q));
    else
        assert_true(qsae__to_f32(x->dtype, x->data, cols, row));
    for (int64_t r = 0; r < rows; r++) {
        if (q)
            q->ops->decode(q, r, 0, cols, QSAE_F32, row);
        for (size_t i = 0; i < (size_t)cols * sizeof *row; i++)
            h = (h ^ ((const uint8_t *)row)[i]) * UINT64_C(0x100000001b3);
    }
    qsae__qmatrix_unref(&q);
    free(row);
    return h;
}

/* Every tensor is the checkpoint's, bit for bit, as the gguf package decodes it. */
static void test_tensors(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    (void)state;
    for (int i = 0; i < N_MODELS; i++) {
        char path[700], text[20];
        json_t *config = NULL, *report = NULL, *value;
        const char *key;
        qsae__tensors *t = NULL;
        open_model(ctx, file_of(models[i]), &config, &t);
        snprintf(path, sizeof path, "%s/reference.json", test_model_path(models[i]));
        OK(qsae__json_load(ctx, path, &report));
        const json_t *const fnv = json_object_get(report, "fnv");
        assert_true(json_object_size(fnv) > 10);
        assert_int_equal(qsae__tensors_len(t), json_object_size(fnv));
        json_object_foreach((json_t *)(uintptr_t)fnv, key, value) {
            const qsae__tensor *const x = qsae__tensors_find(t, key);
            if (!x)
                fail_msg("%s: %s is missing", models[i], key);
            snprintf(text, sizeof text, "%016" PRIx64, hash_values(ctx, t, x));
            if (strcmp(text, json_string_value(value)) != 0)
                fail_msg("%s: %s (%s) differs", models[i], key, qsae_dtype_name(x->dtype));
        }
        json_decref(report);
        json_decref(config);
        qsae__tensors_unref(&t);
    }
    qsae_context_close(&ctx);
}

static void test_keys(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    (void)state;
    for (int i = 0; i < N_MODELS; i++) {
        json_t *config = NULL;
        qsae__tensors *t = NULL;
        qsae__config c;
        open_model(ctx, file_of(models[i]), &config, &t);
        OK(qsae__config_read(ctx, config, "test", &c));
        const qsae__rope *const full = &c.rope[QSAE__FULL], *const local = &c.rope[QSAE__SLIDING];
        assert_true(c.vocab == 64 && c.bos == 2 && c.eos == 1);
        assert_true(c.max_positions == (i == 9 ? 24 : 64));
        assert_true(c.head_dim == (i == 0 || i == 7 || i == 9 ? 8 : 16));
        if (i == 7 || i == 8) {
            assert_true(c.parallel == (i == 7) && c.rotary_dim == (i == 7 ? 2 : 16));
            assert_true(c.attention_bias && c.mlp_bias && !c.tied && c.eps == (double)1e-5f);
            assert_true(full->theta == (i == 7 ? 1e4 : 500) && c.activation == QSAE__ACT_GELU);
            assert_true(i == 7 || (full->type == QSAE__ROPE_LINEAR && full->factor == 4));
        } else if (i == 9) {
            assert_true(c.tied && c.mlp_width == 128 && c.activation == QSAE__ACT_GELU_NEW);
            assert_true(c.rotary_dim == -1 && c.eps == (double)1e-5f);
        } else if (i == 6) {
            assert_true(c.layers == 2 && c.window == 0 && c.heads == 3 && c.kv_heads == 1);
            assert_true(c.eps == (double)1e-5f && c.attn_scale == 0.25 && full->theta == 1e6);
            assert_true(!c.tied && c.attention_bias && !c.mlp_bias && !full->factors);
            assert_string_equal(c.family->name, "qwen3");
        } else if (i < 3) {
            assert_true(c.layers == (i == 1 ? 1 : 2) && c.window == 0 && !c.sliding[0]);
            assert_true(c.eps == (double)1e-5f && c.attn_scale == 1 / sqrt((double)c.head_dim));
            assert_true(c.tied == (i > 0) && c.attention_bias == (i == 2) && !c.mlp_bias);
            assert_true(full->theta == (i == 0 ? 1e4 : 5e5) && !full->factors == (i != 2));
            assert_true(full->type == QSAE__ROPE_DEFAULT && local->factors == NULL);
        } else if (i == 5) {
            assert_true(c.layers == 2 && c.window == 8 && c.sliding[0] && !c.sliding[1]);
            assert_true(c.attn_cap == 2 && c.final_cap == 4 && c.attn_scale == 0.25 && c.tied);
            assert_true(c.heads == 3 && c.kv_heads == 1 && c.eps == (double)1e-6f);
            assert_true(full->theta == 1e4 && local->theta == 1e4);
        } else {
            const int sliding = i == 3 ? 0x5f : 6; /* 7 or 3 layers */
            assert_true(c.layers == (i == 3 ? 7 : 3) && c.window == 8 && c.attn_scale == 0.25);
            assert_true(c.eps == (double)1e-6f && c.tied == (i == 3));
            for (int n = 0; n < c.layers; n++)
                assert_int_equal(c.sliding[n], sliding >> n & 1);
            assert_true(full->theta == (i == 3 ? 1e6 : 5e4));
            assert_true(local->theta == (i == 3 ? 1e4 : 500));
            assert_true(c.final_cap == (i == 3 ? 0 : 5) && local->type == QSAE__ROPE_DEFAULT);
            assert_true(i != 3 || (full->type == QSAE__ROPE_LINEAR && full->factor == 8));
        }
        qsae__config_free(ctx, &c);
        json_decref(config);
        qsae__tensors_unref(&t);
    }
    qsae_context_close(&ctx);
}

/* Logits and nll in f32: within twice the error of torch's own run on the decoded weights, both
 * against binary64. */
static void test_results(void **state)
{
    qsae_context *ctx = test_context(2, NULL);
    (void)state;
    for (int i = 0; i < N_MODELS; i++) {
        const char *const name = models[i];
        const char *const keys[] = { "logits", "nll" };
        char path[700];
        qsae__tensors *want = NULL;
        json_t *report = NULL;
        struct test_result r;
        snprintf(path, sizeof path, "%s/reference.safetensors", test_model_path(name));
        OK(qsae__tensors_load(ctx, path, &want));
        snprintf(path, sizeof path, "%s/reference.json", test_model_path(name));
        OK(qsae__json_load(ctx, path, &report));
        const qsae__tensor *const stored = qsae__tensors_find(want, "ids");
        assert_non_null(stored);
        const int64_t n_seq = stored->shape[0], n_tokens = stored->shape[1];
        int32_t *const ids = malloc((size_t)stored->bytes);
        assert_non_null(ids);
        memcpy(ids, stored->data, (size_t)stored->bytes);
        qsae_model *m = test_model(ctx, file_of(name), NULL, QSAE_COMPUTE_F32, QSAE_ATTN_SDPA);
        test_run(m, ids, n_seq, n_tokens, &r);
        for (int k = 0; k < 2; k++) {
            int64_t n;
            double *const x = test_values(want, keys[k], &n);
            double *const got = malloc((size_t)n * sizeof *got);
            assert_non_null(got);
            for (int64_t j = 0; j < n; j++)
                got[j] = (double)(k ? r.nll[j + j / (n_tokens - 1)] : r.logits[j]);
            const double rms = test_rms(got, x, n);
            const double torch = json_number_value(json_object_get(
                json_object_get(json_object_get(report, "f32_error"), keys[k]), "rms"));
            if (!(rms <= 2 * torch) || !(torch > 0))
                fail_msg("%s %s: rms error %g, torch %g", name, keys[k], rms, torch);
            free(got);
            free(x);
        }
        test_result_free(&r);
        qsae_model_close(&m);
        free(ids);
        json_decref(report);
        qsae__tensors_unref(&want);
    }
    qsae_context_close(&ctx);
}

/* Defaults of keys that old files lack, and what the file must say. */
static void test_made(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    struct file f;
    json_t *config = NULL;
    qsae__tensors *t = NULL;
    qsae__config c;
    qsae_weights *w = NULL;
    qsae_model_info info = { .struct_size = sizeof info };
    (void)state;
    start_llama(&f);
    const char *const path = finish(&f);
    open_model(ctx, path, &config, &t);
    OK(qsae__config_read(ctx, config, "test", &c));
    assert_true(c.layers == 1 && c.width == 4 && c.heads == 2 && c.kv_heads == 1);
    assert_true(c.head_dim == 2 && c.mlp_width == 8 && c.vocab == 6 && c.max_positions == 16);
    assert_true(c.rope[QSAE__FULL].theta == 1e4 && c.bos == -1 && c.eos == -1 && c.tied);
    /* heads of two rows: nothing moves; names are the only change */
    const qsae__tensor *const q = qsae__tensors_find(t, "model.layers.0.self_attn.q_proj.weight");
    assert_true(q && q->rank == 2 && q->shape[0] == 4 && q->shape[1] == 4);
    assert_non_null(qsae__tensors_gguf(t));
    assert_int_equal(qsae__tensors_len(t), 11);
    qsae__config_free(ctx, &c);
    json_decref(config);
    qsae__tensors_unref(&t);
    OK(qsae_weights_open(ctx, path, &w));
    OK(qsae_weights_get_info(w, &info));
    assert_string_equal(info.type, "llama");
    /* its values are plain, its names and rows are not those of a folder */
    REFUSED(qsae_weights_save(w, "none", "/tmp/qsae-never", NULL), QSAE_EUNSUPPORTED,
            "only a Hugging Face folder of plain ones can be saved");
    qsae_weights_close(&w);
    OK(qsae_weights_open(ctx, test_folder(), &w)); /* its one file */
    qsae_weights_close(&w);
    /* sizes per block, if they agree; old linear scaling */
    start_llama(&f);
    f.pairs = 0;
    f.n = 24;
    add_str(&f, "general.architecture", "llama");
    add_int(&f, "llama.block_count", 1);
    add_int(&f, "llama.context_length", 16);
    add_int(&f, "llama.embedding_length", 4);
    add_ints(&f, "llama.feed_forward_length", (const int32_t[]){ 8 }, 1);
    add_ints(&f, "llama.attention.head_count", (const int32_t[]){ 2 }, 1);
    add_ints(&f, "llama.attention.head_count_kv", (const int32_t[]){ 1 }, 1);
    add_f32(&f, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    add_f32(&f, "llama.rope.scale_linear", 4);
    open_model(ctx, finish(&f), &config, &t);
    OK(qsae__config_read(ctx, config, "test", &c));
    assert_true(c.kv_heads == 1 && c.rope[QSAE__FULL].type == QSAE__ROPE_LINEAR);
    assert_true(c.rope[QSAE__FULL].factor == 4);
    qsae__config_free(ctx, &c);
    json_decref(config);
    qsae__tensors_unref(&t);
    qsae_context_close(&ctx);
}

/* Which layers of a Gemma 3 slide, and the scale of the 27B shape. */
static void test_gemma3_keys(void **state)
{
    static const struct {
        int64_t window, period; /* -1: no such key */
        int sliding;            /* bit n: layer n */
    } cases[] = { { 4, -1, 0x1df }, { 4, 1, 0 }, { 4, 2, 0x155 }, { 4, 3, 0xdb }, { 4, 0, 0x1ff },
                  { -1, -1, 0 }, { 0, 6, 0 } };
    qsae_context *ctx = test_context(1, NULL);
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0] + 1; i++) {
        const bool large = i == sizeof cases / sizeof cases[0];
        struct file f;
        json_t *config = NULL;
        qsae__tensors *t = NULL;
        qsae__config c;
        start(&f);
        add_str(&f, "general.architecture", "gemma3");
        add_int(&f, "gemma3.block_count", large ? 62 : 9);
        add_int(&f, "gemma3.context_length", 16);
        add_int(&f, "gemma3.embedding_length", 42);
        add_int(&f, "gemma3.feed_forward_length", 8);
        add_int(&f, "gemma3.attention.head_count", 2);
        add_int(&f, "gemma3.attention.key_length", 16);
        add_f32(&f, "gemma3.attention.layer_norm_rms_epsilon", 1e-6f);
        add_f32(&f, "gemma3.rope.freq_base", 1e6f);
        if (!large && cases[i].window >= 0)
            add_int(&f, "gemma3.attention.sliding_window", (uint32_t)cases[i].window);
        if (!large && cases[i].period >= 0)
            add_int(&f, "gemma3.attention.sliding_window_pattern", (uint32_t)cases[i].period);
        add_tensor(&f, "token_embd.weight", 6, 42);
        open_model(ctx, finish(&f), &config, &t);
        OK(qsae__config_read(ctx, config, "test", &c));
        for (int n = 0; !large && n < 9; n++)
            assert_int_equal(c.sliding[n], cases[i].sliding >> n & 1);
        assert_true(large || c.window == (cases[i].sliding ? 4 : 0));
        assert_true(c.attn_scale == 1 / sqrt(large ? 21.0 : 16.0) && c.kv_heads == 2);
        qsae__config_free(ctx, &c);
        json_decref(config);
        qsae__tensors_unref(&t);
    }
    qsae_context_close(&ctx);
}

/* Gemma 2 files of before the keys: what llama.cpp takes for them. */
static void test_gemma2_keys(void **state)
{
    static const struct {
        int64_t blocks, window, period; /* -1: no such key */
        float cap;                      /* 0: no such key */
    } cases[] = { { 4, -1, -1, 0 }, { 4, 5, -1, 2 }, { 4, 5, 3, 2 }, { 4, 0, -1, 3 },
                  { 46, 6, -1, 0 } };
    qsae_context *ctx = test_context(1, NULL);
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0] + 2; i++) {
        const bool bad = i >= sizeof cases / sizeof cases[0];
        const int64_t window = bad ? 4 : cases[i].window, blocks = bad ? 4 : cases[i].blocks;
        const int64_t period = !bad && cases[i].period > 0 ? cases[i].period : 2;
        struct file f;
        json_t *config = NULL;
        qsae__tensors *t = NULL;
        qsae__config c;
        start(&f);
        add_str(&f, "general.architecture", "gemma2");
        add_int(&f, "gemma2.block_count", (uint32_t)blocks);
        add_int(&f, "gemma2.context_length", 16);
        add_int(&f, "gemma2.embedding_length", 42);
        add_int(&f, "gemma2.feed_forward_length", 8);
        add_int(&f, "gemma2.attention.head_count", 2);
        add_int(&f, "gemma2.attention.head_count_kv", 1);
        add_int(&f, "gemma2.attention.key_length", 16);
        add_f32(&f, "gemma2.attention.layer_norm_rms_epsilon", 1e-6f);
        if (window >= 0)
            add_int(&f, "gemma2.attention.sliding_window", (uint32_t)window);
        if (!bad && cases[i].period > 0)
            add_int(&f, "gemma2.attention.sliding_window_pattern", (uint32_t)cases[i].period);
        if (bad || cases[i].cap > 0) {
            add_f32(&f, "gemma2.attn_logit_softcapping", bad ? (float)i - 6 : cases[i].cap);
            add_f32(&f, "gemma2.final_logit_softcapping", bad ? 1 : cases[i].cap + 1);
        }
        add_tensor(&f, "token_embd.weight", 6, 42);
        if (bad) { /* -1, 0 */
            refused(ctx, &f, QSAE_EFORMAT, "gemma2.attn_logit_softcapping: expected a positive");
            continue;
        }
        open_model(ctx, finish(&f), &config, &t);
        OK(qsae__config_read(ctx, config, "test", &c));
        assert_true(c.attn_cap == (cases[i].cap > 0 ? (double)cases[i].cap : 50));
        assert_true(c.final_cap == (cases[i].cap > 0 ? (double)cases[i].cap + 1 : 30));
        assert_true(c.attn_scale == 1 / sqrt(blocks == 46 ? 21.0 : 16.0));
        assert_true(c.window == (window < 0 ? 4096 : window) && c.kv_heads == 1);
        for (int64_t n = 0; n < c.layers; n++)
            assert_int_equal(c.sliding[n], window != 0 && (n + 1) % period != 0);
        qsae__config_free(ctx, &c);
        json_decref(config);
        qsae__tensors_unref(&t);
    }
    qsae_context_close(&ctx);
}

/* Biases that some projections have and others lack: those are zero. */
static void test_biases(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    struct file f;
    json_t *config = NULL;
    qsae__tensors *t = NULL;
    (void)state;
    start_llama(&f);
    add_tensor(&f, "blk.0.attn_v.bias", 2, 0);
    open_model(ctx, finish(&f), &config, &t);
    assert_true(json_is_true(json_object_get(config, "attention_bias")));
    assert_true(json_is_false(json_object_get(config, "mlp_bias")));
    const char *const zero[] = { "q", "k", "o" };
    for (int i = 0; i < 3; i++) {
        char name[64];
        snprintf(name, sizeof name, "model.layers.0.self_attn.%s_proj.bias", zero[i]);
        const qsae__tensor *const x = qsae__tensors_find(t, name);
        assert_true(x && x->rank == 1 && x->shape[0] == (i == 1 ? 2 : 4));
        for (uint64_t k = 0; k < x->bytes; k++)
            assert_int_equal(((const uint8_t *)x->data)[k], 0);
    }
    const qsae__tensor *const v = qsae__tensors_find(t, "model.layers.0.self_attn.v_proj.bias");
    assert_true(v && ((const float *)v->data)[0] > 0);
    assert_null(qsae__tensors_find(t, "model.layers.0.mlp.up_proj.bias"));
    json_decref(config);
    qsae__tensors_unref(&t);
    qsae_context_close(&ctx);
}

/* Rotary factors are part of what a checkpoint is. */
static void test_hash(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    char hash[2][64];
    struct file f;
    (void)state;
    for (int i = 0; i < 2; i++) {
        qsae_weights *w = NULL;
        qsae_model_info info = { .struct_size = sizeof info };
        start_llama(&f);
        if (i == 1) /* behind all other tensors, whose values it does not move */
            add_tensor(&f, "rope_freqs.weight", 1, 0);
        OK(qsae_weights_open(ctx, finish(&f), &w));
        OK(qsae_weights_get_info(w, &info));
        snprintf(hash[i], sizeof hash[i], "%s", info.hash);
        qsae_weights_close(&w);
    }
    assert_true(strlen(hash[0]) > 0 && strcmp(hash[0], hash[1]) != 0);
    qsae_context_close(&ctx);
}

/* One matrix and one bias of all three projections. */
static void test_fused(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    struct file f;
    json_t *config = NULL;
    qsae__tensors *t = NULL;
    qsae_weights *w = NULL;
    (void)state;
    start_llama(&f);
    f.tensors = 0;
    f.n_infos = f.body = 0;
    add_tensor(&f, "token_embd.weight", 6, 4);
    const float first = (float)(f.body / 4 + 1);
    add_tensor(&f, "blk.0.attn_qkv.weight", 8, 4);
    const float bias = (float)(f.body / 4 + 1);
    add_tensor(&f, "blk.0.attn_qkv.bias", 8, 0);
    open_model(ctx, finish(&f), &config, &t);
    assert_true(json_is_true(json_object_get(config, "attention_bias")));
    assert_int_equal(qsae__tensors_len(t), 7);
    for (int i = 0; i < 3; i++) {
        const int64_t rows[] = { 4, 2, 2 }, before[] = { 0, 4, 6 };
        char name[64];
        float v;
        snprintf(name, sizeof name, "model.layers.0.self_attn.%c_proj.weight", "qkv"[i]);
        const qsae__tensor *x = qsae__tensors_find(t, name);
        assert_true(x && x->rank == 2 && x->shape[0] == rows[i] && x->shape[1] == 4);
        memcpy(&v, x->data, sizeof v);
        assert_true(v == first + (float)(before[i] * 4) && x->bytes == (uint64_t)rows[i] * 16);
        snprintf(name, sizeof name, "model.layers.0.self_attn.%c_proj.bias", "qkv"[i]);
        x = qsae__tensors_find(t, name);
        assert_true(x && x->rank == 1 && x->shape[0] == rows[i]);
        assert_true(x->bytes == (uint64_t)rows[i] * 4);
        memcpy(&v, x->data, sizeof v);
        assert_true(v == bias + (float)before[i]);
    }
    json_decref(config);
    qsae__tensors_unref(&t);
    start_llama(&f);
    add_tensor(&f, "blk.0.attn_qkv.weight", 8, 4);
    REFUSED(qsae_weights_open(ctx, finish(&f), &w), QSAE_EFORMAT, "occurs twice");
    start_llama(&f);
    add_tensor(&f, "blk.0.attn_qkv.weight", 9, 4);
    REFUSED(qsae_weights_open(ctx, finish(&f), &w), QSAE_EFORMAT, "expected 8 rows");
    qsae_context_close(&ctx);
}

/* A folder that holds one file, with and without a config.json of the original model. */
static void test_folder_of_one(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    char file[300], folder[300], path[600], hash[64];
    qsae_model_info info = { .struct_size = sizeof info };
    qsae_weights *w = NULL;
    size_t size;
    (void)state;
    char *const data = test_read(file_of("gguf_llama_mixed"), &size);
    OK(qsae_weights_open(ctx, file_of("gguf_llama_mixed"), &w));
    OK(qsae_weights_get_info(w, &info));
    snprintf(hash, sizeof hash, "%s", info.hash);
    qsae_weights_close(&w);
    snprintf(folder, sizeof folder, "%s/one", test_folder());
    assert_int_equal(mkdir(folder, 0700), 0);
    for (int i = 0; i < 3; i++) {
        snprintf(file, sizeof file, "one/%s", i == 1 ? "config.json" : "any.gguf");
        if (i == 1)
            test_write(file, "{\"model_type\":\"llama\"}", 22);
        else
            test_write(file, data, i ? size - 1 : size);
        if (i < 2) {
            OK(qsae_weights_open(ctx, folder, &w));
            OK(qsae_weights_get_info(w, &info));
            assert_string_equal(info.hash, hash);
            assert_string_equal(info.storage, "gguf");
            qsae_weights_close(&w);
        } else {
            REFUSED(qsae_weights_open(ctx, folder, &w), QSAE_EFORMAT, "any.gguf");
        }
    }
    static const char *const names[] = { "/config.json", "/any.gguf", "" };
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s%s", folder, names[i]);
        if (i == 1)
            REFUSED(qsae_weights_open(ctx, folder, &w), QSAE_EFORMAT, "any.gguf");
        assert_int_equal(i < 2 ? unlink(path) : rmdir(path), 0);
    }
    free(data);
    qsae_context_close(&ctx);
}

const struct CMUnitTest gguf_tests[] = {
    cmocka_unit_test(test_tensors),       cmocka_unit_test(test_keys),
    cmocka_unit_test(test_results),       cmocka_unit_test(test_made),
    cmocka_unit_test(test_gemma3_keys),   cmocka_unit_test(test_gemma2_keys),
    cmocka_unit_test(test_biases),        cmocka_unit_test(test_fused),
    cmocka_unit_test(test_hash),          cmocka_unit_test(test_folder_of_one),
};
const size_t n_gguf_tests = sizeof gguf_tests / sizeof gguf_tests[0];
