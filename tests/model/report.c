/* SPDX-License-Identifier: BSD-2-Clause */
/* The error report of a checkpoint's matrices, against encoding each of them by itself. */
#include "folders.h"

static qsae_weight_error error_at(qsae_weights *a, qsae_weights *b, const char *condition,
                                  int64_t i)
{
    qsae_weight_error e = { .struct_size = sizeof e };
    OK(qsae_weights_error(a, b, condition, i, &e));
    return e;
}

static void same_error(const qsae_weight_error *a, const qsae_weight_error *b)
{
    assert_int_equal(a->rows, b->rows);
    assert_int_equal(a->cols, b->cols);
    assert_int_equal(a->nonfinite, b->nonfinite);
    assert_int_equal(a->bytes, b->bytes);
    assert_true(a->bits_per_weight == b->bits_per_weight);
    assert_true(a->frobenius_relative == b->frobenius_relative);
    assert_true(a->sqnr_db == b->sqnr_db);
    assert_true(a->max_abs == b->max_abs && a->mean_abs == b->mean_abs && a->zeros == b->zeros);
}

/* The matrix of a module in its own dtype, read through the public interface. */
static qsae_rows rows_of(const qsae_weights *w, const char *module, int32_t dtype)
{
    qsae_qmatrix *q = NULL;
    OK(qsae_weights_matrix(w, module, &q));
    qsae_rows r = { .struct_size = sizeof r, .n_rows = qsae_qmatrix_rows(q),
                    .n_cols = qsae_qmatrix_cols(q), .row_stride = qsae_qmatrix_cols(q),
                    .dtype = dtype };
    r.data = malloc((size_t)(r.n_rows * r.n_cols) * sizeof(float));
    assert_non_null(r.data);
    OK(qsae_qmatrix_decode(q, &r));
    qsae_qmatrix_close(&q);
    return r;
}

/* Matrices of the blocks, and what Gemma 4 has before them. */
static int64_t count_linears(const qsae_weights *w)
{
    char blocks[300];
    int64_t n = 0;
    snprintf(blocks, sizeof blocks, "%s%s.", w->prefix, qsae__family_layers(w->config.family));
    for (int64_t i = 0; i < qsae__tensors_len(w->tensors); i++) {
        const qsae__tensor *const t = qsae__tensors_at(w->tensors, i);
        n += t->rank == 2 && (!strncmp(t->name, blocks, strlen(blocks)) ||
                              strstr(t->name, "per_layer_model_projection"));
    }
    return n;
}

/* Every matrix of a model under a codec is reported as that matrix under the quantizer, and the
 * bytes are those the model counts. */
static void test_codecs(void **state)
{
    static const char *const specs[] = { "nf4", "llm.int8", "rtn:bits=3,axis=tl",
                                         "rtn:bits=4,group=16,arith=weight", "ggml:q8_0" };
    qsae_context *ctx = test_context(2, NULL);
    (void)state;
    for (int m = 0; m < n_test_models; m++) {
        qsae_weights *w = NULL;
        qsae_model_info info = { .struct_size = offsetof(qsae_model_info, hash) };
        OK(qsae_weights_open(ctx, test_model_path(test_models[m]), &w));
        OK(qsae_weights_get_info(w, &info));
        const int64_t n = qsae_weights_matrix_count(w, NULL);
        assert_int_equal(n, count_linears(w) + (info.tied ? 1 : 2));
        for (size_t s = 0; s < sizeof specs / sizeof specs[0]; s++) {
            qsae_quantizer *z = NULL;
            qsae_model *model = NULL;
            qsae_model_cost cost = { .struct_size = sizeof cost };
            qsae_model_settings settings;
            uint64_t bytes = 0;
            qsae_model_settings_init(&settings, sizeof settings);
            settings.condition = specs[s];
            if (qsae_model_open(w, &settings, &model))
                continue; /* inputs that are no whole blocks */
            OK(qsae_model_get_cost(model, &cost));
            qsae_model_close(&model);
            OK(qsae_quantizer_open(ctx, specs[s], &z));
            for (int64_t i = 0; i < n - (info.tied ? 1 : 2); i++) {
                const qsae_weight_error e = error_at(w, NULL, specs[s], i);
                const bool q = strstr(e.module, "q_proj"), kv = strstr(e.module, "k_proj") ||
                                                                strstr(e.module, "v_proj");
                const bool fused = strstr(e.module, "query_key_value");
                char path[200];
                qsae_qmatrix *encoded = NULL;
                qsae_weight_error want = { .struct_size = sizeof want };
                if (!w->config.shapes)
                    assert_int_equal(e.layer, i / qsae__projs(&w->config));
                if (strstr(e.module, "c_attn") && strstr(specs[s], "axis=tl")) {
                    bytes += e.bytes; /* a quantizer knows one matrix of heads only */
                    continue;
                }
                if (e.layer < 0)
                    snprintf(path, sizeof path, "%s%s", w->prefix, e.module);
                else
                    snprintf(path, sizeof path, "%s%s.%d.%s", w->prefix,
                             qsae__family_layers(w->config.family), (int)e.layer, e.module);
                const qsae_rows r = rows_of(w, path, info.dtype);
                const int64_t kv_heads =
                    kv ? qsae__layer_shape_of(&w->config, e.layer).kv_heads : 0;
                OK(qsae_quantizer_encode(z, &r, q || fused ? info.heads : kv_heads, 0, &encoded));
                OK(qsae_qmatrix_error(encoded, &r, &want));
                same_error(&e, &want);
                assert_true(e.frobenius_relative > 0);
                bytes += e.bytes;
                qsae_qmatrix_close(&encoded);
                free(r.data);
            }
            assert_int_equal(bytes, cost.quantized_bytes);
            qsae_quantizer_close(&z);
        }
        qsae_weights_close(&w);
    }
    qsae_context_close(&ctx);
}

/* What a condition leaves alone is exact, in the dtype of the file. */
static void test_selectors(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    qsae_weights *w = NULL;
    (void)state;
    OK(qsae_weights_open(ctx, test_model_path("llama_gqa"), &w));
    const int64_t n = qsae_weights_matrix_count(w, NULL);
    for (int64_t i = 0; i < n; i++) {
        const qsae_weight_error e = error_at(w, NULL, "nf4@layers=1@skip=down_proj", i);
        const bool encoded = e.layer == 1 && !strstr(e.module, "down_proj");
        assert_string_equal(e.format, encoded ? "nf4" : error_at(w, NULL, NULL, i).format);
        if (!encoded) {
            assert_true(e.frobenius_relative == 0 && isinf(e.sqnr_db) && e.max_abs == 0);
            assert_int_equal(e.nonfinite, 0);
        } else {
            assert_true(e.frobenius_relative > 0.05 && e.frobenius_relative < 0.15);
            assert_true(fabs(e.sqnr_db + 20 * log10(e.frobenius_relative)) < 1e-9);
        }
        if (i == n - 1)
            assert_true(error_at(w, NULL, "nf4@with=embed|head", i).frobenius_relative > 0);
    }
    qsae_weights_close(&w);
    qsae_context_close(&ctx);
}

/* A folder that bitsandbytes wrote is its source under the same rules; one matrix may be compared
 * across formats. */
static void test_other(void **state)
{
    static const char *const pairs[][3] = {
        { "bnb_source", "bnb_nf4", "nf4:rules=torch" },
        { "bnb_source", "bnb_int8", "llm.int8:rules=torch" },
    };
    qsae_context *ctx = test_context(2, NULL);
    (void)state;
    for (int p = 0; p < 2; p++) {
        qsae_weights *a = NULL, *b = NULL;
        OK(qsae_weights_open(ctx, test_model_path(pairs[p][0]), &a));
        OK(qsae_weights_open(ctx, test_model_path(pairs[p][1]), &b));
        const int64_t n = qsae_weights_matrix_count(a, b);
        for (int64_t i = 0; i < n; i++) {
            const qsae_weight_error got = error_at(a, b, NULL, i);
            const qsae_weight_error want = error_at(a, NULL, pairs[p][2], i);
            assert_string_equal(got.module, want.module);
            if (got.layer < 0)
                continue; /* kept plain by both, if in another dtype */
            assert_string_equal(got.format, want.format);
            same_error(&got, &want);
            assert_true(got.frobenius_relative > 0);
            /* and against itself there is none */
            assert_true(error_at(b, b, NULL, i).frobenius_relative == 0);
        }
        qsae_weights_close(&a);
        qsae_weights_close(&b);
    }
    qsae_context_close(&ctx);
}

/* Pruning and controls, by what defines them. */
static void test_changes(void **state)
{
    qsae_context *ctx = test_context(2, NULL);
    qsae_weights *w = NULL;
    (void)state;
    OK(qsae_weights_open(ctx, test_model_path("llama_gqa"), &w));
    for (int64_t i = 0; i < 14; i++) {
        qsae_weight_error e = error_at(w, NULL, "none+prune:pattern=2:4", i);
        assert_true(e.zeros == 0.5);
        e = error_at(w, NULL, "none+prune:sparsity=0.25,ties=first", i);
        assert_true(e.zeros == 0.25);
        const double codec = error_at(w, NULL, "nf4@compute=f32", i).frobenius_relative;
        e = error_at(w, NULL, "control:gauss(nf4)@compute=f32", i);
        assert_true(fabs(e.frobenius_relative / codec - 1) < 1e-5);
        e = error_at(w, NULL, "control:permute(nf4)@compute=f32", i);
        assert_true(fabs(e.frobenius_relative / codec - 1) < 1e-5);
    }
    qsae_weights_close(&w);
    qsae_context_close(&ctx);
}

static void test_refused(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    qsae_weights *a = NULL, *b = NULL;
    qsae_weight_error e = { .struct_size = sizeof e };
    (void)state;
    OK(qsae_weights_open(ctx, test_model_path("llama_gqa"), &a));
    OK(qsae_weights_open(ctx, test_model_path("gemma3_types"), &b));
    const int64_t n = qsae_weights_matrix_count(a, NULL);
    assert_int_equal(qsae_weights_matrix_count(NULL, NULL), 0);
    REFUSED(qsae_weights_error(a, NULL, NULL, n, &e), QSAE_EINVAL, "there are 0 to");
    REFUSED(qsae_weights_error(a, NULL, NULL, -1, &e), QSAE_EINVAL, "matrix -1");
    REFUSED(qsae_weights_error(a, NULL, "nf5", 0, &e), QSAE_EINVAL, "nf5");
    REFUSED(qsae_weights_error(a, NULL, "none+prune:match=20", 0, &e), QSAE_EINVAL, "match");
    REFUSED(qsae_weights_error(NULL, NULL, NULL, 0, &e), QSAE_EINVAL, "NULL");
    REFUSED(qsae_weights_error(a, NULL, NULL, 0, NULL), QSAE_EINVAL, "NULL");
    REFUSED(qsae_weights_error(a, b, NULL, 0, &e), QSAE_EMISMATCH, "expected");
    qsae_weights_close(&a);
    qsae_weights_close(&b);
    qsae_context_close(&ctx);
}

/* An embedding that is the head too is changed where either is, by the part that is asked for the
 * embedding first. */
static void test_tied(void **state)
{
    static const struct {
        const char *condition, *same; /* as this one alone; NULL: nothing changes */
    } cases[] = {
        { "rtn:bits=4@with=embed", "rtn:bits=4@with=embed|head" },
        { "rtn:bits=4@with=head", "rtn:bits=4@with=embed|head" },
        { "rtn:bits=4", NULL },
        { "mix(rtn:bits=4)(rtn:bits=3@with=head)", "rtn:bits=3@with=embed|head" },
        { "mix(rtn:bits=4@with=head)(rtn:bits=3@with=embed)", "rtn:bits=3@with=embed|head" },
        { "mix(rtn:bits=4@layers=0)(rtn:bits=3@layers=1)", NULL },
    };
    qsae_context *ctx = test_context(1, NULL);
    qsae_weights *w = NULL;
    (void)state;
    OK(qsae_weights_open(ctx, test_model_path("llama_bias"), &w));
    const int64_t embed = qsae_weights_matrix_count(w, NULL) - 1;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const qsae_weight_error e = error_at(w, NULL, cases[i].condition, embed);
        const qsae_weight_error want = error_at(w, NULL, cases[i].same, embed);
        assert_string_equal(e.module, "embed_tokens");
        assert_int_equal(e.layer, -1);
        same_error(&e, &want);
        assert_true((e.frobenius_relative > 0) == (cases[i].same != NULL));
    }
    qsae_weights_close(&w);
    qsae_context_close(&ctx);
}

/* Of two checkpoints of which one ties its head there is a head to compare; the other's is its
 * embedding. */
static void test_one_tied(void **state)
{
    static const char *const condition = "none";
    qsae_context *ctx = test_context(1, NULL);
    qsae_weights *a = NULL, *b = NULL;
    char from[600];
    (void)state;
    json_t *const config = config_of(ctx, test_model_path("llama_gqa"));
    json_object_set_new(config, "tie_word_embeddings", json_true());
    make_source(ctx, "llama_gqa", config, NULL, 0, from);
    OK(qsae_weights_open(ctx, test_model_path("llama_gqa"), &a));
    OK(qsae_weights_open(ctx, from, &b));
    qsae__tensors *t = load(ctx, from, "model.safetensors");
    int64_t n;
    double *const embed = test_values(t, "model.embed_tokens.weight", &n);
    double *const head = test_values(t, "lm_head.weight", &n);
    const int64_t own = qsae_weights_matrix_count(a, NULL);
    assert_int_equal(qsae_weights_matrix_count(b, NULL), own - 1);
    assert_int_equal(qsae_weights_matrix_count(a, b), own);
    assert_int_equal(qsae_weights_matrix_count(b, a), own);
    double difference = 0, of_embed = 0, of_head = 0;
    for (int64_t i = 0; i < n; i++) {
        difference += (embed[i] - head[i]) * (embed[i] - head[i]);
        of_embed += embed[i] * embed[i];
        of_head += head[i] * head[i];
    }
    assert_true(difference > 0);
    qsae_weight_error e = error_at(a, b, condition, own - 1);
    assert_string_equal(e.module, "lm_head");
    assert_true(fabs(e.frobenius_relative / sqrt(difference / of_head) - 1) < 1e-6);
    e = error_at(b, a, condition, own - 1);
    assert_true(fabs(e.frobenius_relative / sqrt(difference / of_embed) - 1) < 1e-6);
    e = error_at(b, a, condition, own - 2);
    assert_string_equal(e.module, "embed_tokens");
    assert_true(e.frobenius_relative == 0);
    free(embed);
    free(head);
    qsae__tensors_unref(&t);
    qsae_weights_close(&a);
    qsae_weights_close(&b);
    remove_folder(from);
    qsae_context_close(&ctx);
}

/* A condition that computes in bf16 encodes weights that were rounded to it; the error is to those
 * of the file. */
static void test_compute(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    qsae_weights *w = NULL;
    qsae_quantizer *z = NULL;
    (void)state;
    OK(qsae_weights_open(ctx, test_model_path("llama_gqa"), &w));
    OK(qsae_quantizer_open(ctx, "rtn:bits=8", &z));
    const qsae_rows r = rows_of(w, "model.layers.0.mlp.up_proj", QSAE_F32);
    qsae_rows rounded = r;
    float *const x = malloc((size_t)(r.n_rows * r.n_cols) * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < r.n_rows * r.n_cols; i++)
        x[i] = qsae__round_bf16(((const float *)r.data)[i]);
    rounded.data = x;
    qsae_weight_error want[2];
    for (int i = 0; i < 2; i++) {
        qsae_qmatrix *q = NULL;
        want[i] = (qsae_weight_error){ .struct_size = sizeof want[i] };
        OK(qsae_quantizer_encode(z, i ? &rounded : &r, 0, 0, &q));
        OK(qsae_qmatrix_error(q, &r, &want[i]));
        qsae_qmatrix_close(&q);
        const qsae_weight_error e =
            error_at(w, NULL, i ? "rtn:bits=8@compute=bf16" : "rtn:bits=8@compute=f32", 5);
        assert_string_equal(e.module, "mlp.up_proj");
        same_error(&e, &want[i]);
    }
    assert_true(want[0].frobenius_relative != want[1].frobenius_relative);
    free(x);
    free(r.data);
    qsae_quantizer_close(&z);
    qsae_weights_close(&w);
    qsae_context_close(&ctx);
}

/* The format of a matrix that a checkpoint stores is the checkpoint's. */
static void test_formats(void **state)
{
    static const char *const folders[][2] = {
        { "stored_gptq", "gptq" }, { "stored_awq", "awq" }, { "stored_fp8", "fp8" },
        { "stored_w8a8", "compressed-tensors" }, { "bnb_nf4", "nf4" }, { "bnb_int8", "llm.int8" },
    };
    qsae_context *ctx = test_context(1, NULL);
    (void)state;
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
        qsae_weights *w = NULL;
        OK(qsae_weights_open(ctx, test_model_path(folders[i][0]), &w));
        const qsae_weight_error e = error_at(w, NULL, NULL, 0);
        assert_string_equal(e.format, folders[i][1]);
        assert_true(e.frobenius_relative == 0);
        assert_string_equal(error_at(w, NULL, "rtn:bits=4", 0).format, "rtn");
        qsae_weights_close(&w);
    }
    qsae_context_close(&ctx);
}

/* Checkpoints of other layers. */
static void test_other_layers(void **state)
{
    static const struct {
        const char *reference, *other;
        int64_t i;
        const char *part;
    } cases[] = {
        { "llama_gqa", "bnb_source", 0, "2 layers, expected 3" },
        { "bnb_source", "neox_source", 0, "gpt_neox has other linear layers than" },
        { "gemma4_experts", "gemma4_keys", 0, "gemma4 has other linear layers than" },
        { "bnb_source", "qwen3_flat", 0, "q_proj.weight: [" },
        { "kv_llama", "stored_awq", 6, "down_proj.weight: [32, " },
    };
    qsae_context *ctx = test_context(1, NULL);
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        qsae_weights *a = NULL, *b = NULL;
        qsae_weight_error e = { .struct_size = sizeof e };
        OK(qsae_weights_open(ctx, test_model_path(cases[i].reference), &a));
        OK(qsae_weights_open(ctx, test_model_path(cases[i].other), &b));
        REFUSED(qsae_weights_error(a, b, NULL, cases[i].i, &e), QSAE_EMISMATCH, cases[i].part);
        REFUSED(qsae_weights_error(a, NULL, "none+prune:match=(nf4)", 0, &e), QSAE_EINVAL,
                "a weight takes prune:sparsity=");
        qsae_weights_close(&a);
        qsae_weights_close(&b);
    }
    qsae_context_close(&ctx);
}

const struct CMUnitTest report_tests[] = {
    cmocka_unit_test(test_codecs),  cmocka_unit_test(test_selectors), cmocka_unit_test(test_other),
    cmocka_unit_test(test_changes), cmocka_unit_test(test_refused),
    cmocka_unit_test(test_tied),    cmocka_unit_test(test_one_tied),
    cmocka_unit_test(test_compute), cmocka_unit_test(test_formats),
    cmocka_unit_test(test_other_layers),
};
const size_t n_report_tests = sizeof report_tests / sizeof report_tests[0];
