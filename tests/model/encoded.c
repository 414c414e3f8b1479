/* SPDX-License-Identifier: BSD-2-Clause */
/* A condition on a checkpoint is the checkpoint with those matrices replaced by what the codec
 * makes of them, bit for bit: which ones, embedding and head included, is said here once more. */
#include "model_test.h"

#include <jansson.h>

#include "codecs/condition.h"

struct change {
    const char *condition;
    bool (*selects)(int64_t layer, const char *module);
    bool embed, head;
};

static bool all(int64_t layer, const char *module)
{
    (void)layer;
    (void)module;
    return true;
}

static bool none(int64_t layer, const char *module)
{
    (void)layer;
    (void)module;
    return false;
}

static bool first_mlp(int64_t layer, const char *module)
{
    return layer == 0 && strstr(module, "proj") && strstr("gate_proj up_proj down_proj", module);
}

static bool not_down(int64_t layer, const char *module)
{
    (void)layer;
    return strcmp(module, "down_proj") != 0;
}

static bool second_q(int64_t layer, const char *module)
{
    return layer == 1 && !strcmp(module, "q_proj");
}

static const struct change changes[] = {
    { "nf4@with=embed|head", all, true, true },
    { "nf4:block=32,double=0@with=head", all, false, true },
    { "fp4@with=embed@only=/layers\\.0\\.mlp/", first_mlp, true, false },
    { "ggml:q4_0@skip=down_proj", not_down, false, false },
    { "rtn:bits=5,sym=0@with=embed@skip=/./", none, true, false },
    { "none+prune:sparsity=0.3@with=head", all, false, true },
    { "rtn:bits=4,group=8+prune:pattern=2:4", all, false, false },
    { "control:gauss(rtn:bits=4@with=embed|head)", all, true, true },
    { "control:permute(nf4@only=q_proj@layers=1):seed=5", second_q, false, false },
};

/* dst[rows, cols] = the matrix, by the codec of c if that is not NULL, in the compute dtype. */
static void decoded(const qsae_weights *w, const qsae__matrix *m, const qsae__condition *c,
                    int64_t heads, uint64_t stream, int32_t dtype, float *dst)
{
    qsae__source src = qsae__matrix_source(w, m, dtype);
    src.stream = stream;
    if (!c) {
        for (int64_t i = 0; i < m->rows; i++)
            qsae__source_row(&src, i, 0, m->cols, dst + i * m->cols);
        return;
    }
    qsae_qmatrix *q;
    OK(qsae__qmatrix_encode(w->ctx, c, &src, heads, &q));
    for (int64_t i = 0; i < m->rows; i++)
        q->ops->decode(q, i, 0, m->cols, dtype, dst + i * m->cols);
    qsae__qmatrix_unref(&q);
}

struct copy {
    qsae__tensor list[128];
    int64_t n;
};

static void add(struct copy *c, const char *name, int64_t rows, int64_t cols, float *values)
{
    qsae__tensor *const t = &c->list[c->n++];
    assert_true(c->n <= (int64_t)(sizeof c->list / sizeof c->list[0]));
    *t = (qsae__tensor){ .name = name, .data = values, .dtype = QSAE_F32, .rank = rows ? 2 : 1,
                         .shape = { rows ? rows : cols, rows ? cols : 0 } };
    t->bytes = (uint64_t)((rows ? rows : 1) * cols) * sizeof(float);
}

static void add_vector(struct copy *c, const qsae__tensor *t)
{
    if (!t)
        return;
    float *const x = malloc((size_t)t->shape[0] * sizeof *x);
    assert_non_null(x);
    assert_true(qsae__to_f32(t->dtype, t->data, t->shape[0], x));
    add(c, t->name, 0, t->shape[0], x);
}

static void add_matrix(struct copy *c, const qsae_weights *w, const qsae__matrix *m,
                       const char *name, const qsae__condition *codec, int64_t heads,
                       uint64_t stream, int32_t dtype)
{
    float *const x = malloc((size_t)(m->rows * m->cols) * sizeof *x);
    assert_non_null(x);
    decoded(w, m, codec, heads, stream, dtype, x);
    add(c, name, m->rows, m->cols, x);
}

/* The checkpoint after the change, with a head of its own. */
static void write_changed(const qsae_weights *w, const struct change *h, int32_t dtype)
{
    qsae_context *const ctx = w->ctx;
    const uint64_t stream = (uint64_t)(w->config.layers * QSAE__GATED_COUNT);
    const bool tied = w->config.tied;
    struct copy copy = { .n = 0 };
    char path[600];
    qsae__condition c;
    OK(qsae__condition_parse(ctx, h->condition, &c));
    add_matrix(&copy, w, &w->embed, w->embed.name, h->embed ? &c : NULL, 0, stream, dtype);
    add_matrix(&copy, w, qsae__weights_head(w), "lm_head.weight", h->head ? &c : NULL, 0,
               tied ? stream : stream + 1, dtype);
    add_vector(&copy, w->norm);
    for (int64_t i = 0; i < w->config.layers; i++) {
        const qsae__layer_tensors *const l = &w->layers[i];
        for (int p = 0; p < QSAE__GATED_COUNT; p++) {
            const bool changed = h->selects(i, qsae__proj_slots[p].module);
            add_matrix(&copy, w, &l->weight[p], l->weight[p].name, changed ? &c : NULL,
                       p == QSAE__Q_PROJ ? w->config.heads : p <= QSAE__V_PROJ ? w->config.kv_heads
                                                                               : 0,
                       (uint64_t)(i * QSAE__GATED_COUNT + p), dtype);
            add_vector(&copy, l->bias[p]);
        }
        for (int k = 0; k < QSAE__NORM_COUNT; k++)
            add_vector(&copy, l->norm[k]);
    }
    snprintf(path, sizeof path, "%s/model.safetensors", test_folder());
    OK(qsae__safetensors_write(ctx, path, copy.list, copy.n));
    for (int64_t i = 0; i < copy.n; i++)
        free((void *)(uintptr_t)copy.list[i].data);
    qsae__condition_free(ctx, &c);

    snprintf(path, sizeof path, "%s/config.json", w->path);
    json_t *json = json_load_file(path, 0, NULL);
    assert_non_null(json);
    json_object_set_new(json, "tie_word_embeddings", json_false());
    char *text = json_dumps(json, 0);
    test_write("config.json", text, strlen(text));
    free(text);
    json_decref(json);
}

static void compare(qsae_context *ctx, const char *name, const struct change *h, int32_t compute)
{
    int32_t ids[24];
    struct test_result a, b;
    qsae_weights *w;
    OK(qsae_weights_open(ctx, test_model_path(name), &w));
    write_changed(w, h, compute == QSAE_COMPUTE_BF16 ? QSAE_BF16 : QSAE_F32);
    qsae_model *m = test_model(ctx, w->path, h->condition, compute, 0);
    qsae_model *n = test_model(ctx, test_folder(), NULL, compute, 0);
    for (int i = 0; i < 24; i++)
        ids[i] = i * 37 % 91;
    test_run(m, ids, 2, 12, &a);
    test_run(n, ids, 2, 12, &b);
    if (!test_result_equal(&a, &b))
        fail_msg("%s: %s differs from the decoded checkpoint", name, h->condition);
    test_result_free(&a);
    test_result_free(&b);
    qsae_model_close(&m);
    qsae_model_close(&n);
    qsae_weights_close(&w);
}

static void test_decoded(void **state)
{
    static const char *const names[] = { "llama_gqa", "llama_bias", "gemma3_types", "gemma3_cap" };
    static const int32_t widths[] = { 32, 36, 40, 24 };
    (void)state;
    for (int two = 0; two < 2; two++) {
        qsae_context *ctx = test_context(1 + two, two ? NULL : "avx2");
        for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
            for (size_t h = 0; h < sizeof changes / sizeof changes[0]; h++) {
                if (strstr(changes[h].condition, "ggml") && widths[i] % 32)
                    continue;
                compare(ctx, names[i], &changes[h], QSAE_COMPUTE_F32);
                compare(ctx, names[i], &changes[h], QSAE_COMPUTE_BF16);
            }
        qsae_context_close(&ctx);
    }
}

static void test_cost(void **state)
{
    (void)state;
    qsae_context *ctx = test_context(1, NULL);
    qsae_model_cost plain = { .struct_size = sizeof plain }, both = plain, head = plain;
    const char *const path = test_model_path("gemma3_types"); /* tied, 128 x 40 */
    qsae_model *m = test_model(ctx, path, "nf4:double=0", 0, 0);
    OK(qsae_model_get_cost(m, &plain));
    qsae_model_close(&m);
    m = test_model(ctx, path, "nf4:double=0@with=embed|head", 0, 0);
    OK(qsae_model_get_cost(m, &both));
    qsae_model_close(&m);
    m = test_model(ctx, path, "nf4:double=0@with=head", 0, 0);
    OK(qsae_model_get_cost(m, &head));
    qsae_model_close(&m);
    const uint64_t encoded = 128 * 40 / 2 + 128 * 40 / 64 * 4;
    assert_int_equal(both.quantized_tensors, plain.quantized_tensors + 1);
    assert_int_equal(both.quantized_weights, plain.quantized_weights + 128 * 40);
    assert_int_equal(both.quantized_bytes, plain.quantized_bytes + encoded);
    assert_int_equal(head.quantized_tensors, plain.quantized_tensors + 1);
    assert_int_equal(head.weight_bytes, plain.weight_bytes + encoded);
    assert_true(both.weight_bytes < plain.weight_bytes);
    qsae_context_close(&ctx);
}

static void test_refused(void **state)
{
    (void)state;
    qsae_context *ctx = test_context(1, NULL);
    qsae_weights *w;
    qsae_model *m;
    qsae_model_settings s;
    qsae_model_settings_init(&s, sizeof s);
    OK(qsae_weights_open(ctx, test_model_path("llama_bias"), &w));
    s.condition = "llm.int8@with=head";
    REFUSED(qsae_model_open(w, &s, &m), QSAE_EUNSUPPORTED, "LLM.int8");
    s.condition = "none+prune:match=(nf4)";
    REFUSED(qsae_model_open(w, &s, &m), QSAE_EINVAL, "prune:match=");
    s.condition = "ggml:q4_k";
    REFUSED(qsae_model_open(w, &s, &m), QSAE_EINVAL, "q_proj");
    s.condition = "none+prune:pattern=3:5";
    REFUSED(qsae_model_open(w, &s, &m), QSAE_EINVAL, "pattern");
    qsae_weights_close(&w);
    qsae_context_close(&ctx);
}

/* Matrices by name, as they are stored. */
static void test_matrix(void **state)
{
    (void)state;
    qsae_context *ctx = test_context(1, NULL);
    qsae_weights *w;
    qsae_qmatrix *q;
    OK(qsae_weights_open(ctx, test_model_path("llama_gqa"), &w));
    REFUSED(qsae_weights_matrix(w, "model.layers.3.mlp.up_proj", &q), QSAE_ENOENT, "up_proj");
    REFUSED(qsae_weights_matrix(w, "model.layers.0.mlp", &q), QSAE_ENOENT, "mlp");
    REFUSED(qsae_weights_matrix(w, NULL, &q), QSAE_EINVAL, "NULL");
    OK(qsae_weights_matrix(w, "model.layers.2.mlp.up_proj", &q));
    float *const x = malloc(48 * 32 * sizeof *x), *const y = malloc(48 * 32 * sizeof *y);
    decoded(w, &w->layers[2].weight[QSAE__UP_PROJ], NULL, 0, 0, QSAE_F32, y);
    qsae_weights_close(&w);
    qsae_rows rows = { sizeof rows, x, 48, 32, 32, QSAE_F32, 0 };
    OK(qsae_qmatrix_decode(q, &rows));
    assert_memory_equal(x, y, 48 * 32 * sizeof *x);
    free(x);
    free(y);
    qsae__qmatrix_unref(&q);
    qsae_context_close(&ctx);
}

const struct CMUnitTest encoded_tests[] = {
    cmocka_unit_test(test_decoded),
    cmocka_unit_test(test_cost),
    cmocka_unit_test(test_refused),
    cmocka_unit_test(test_matrix),
};
const size_t n_encoded_tests = sizeof encoded_tests / sizeof encoded_tests[0];
