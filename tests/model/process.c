/* SPDX-License-Identifier: BSD-2-Clause */
/* Weight processing against TransformerLens (tests/reference/process.py), and what it may not
 * change. */
#include "model_test.h"

#include <stdatomic.h>

static const char *const fixtures[] = { "gpt2_small", "neox_parallel", "llama_gqa", "gemma2_cap" };
#define N_FIXTURES (sizeof fixtures / sizeof fixtures[0])

static qsae_weights *processed(qsae_context *ctx, const char *name, const char *what)
{
    qsae_weights *stored = NULL, *w = NULL;
    OK(qsae_weights_open(ctx, test_model_path(name), &stored));
    OK(qsae_weights_process(stored, what, &w));
    qsae_weights_close(&stored); /* what it was made of stays as long as it is needed */
    return w;
}

static qsae_model *model_of(qsae_weights *w, const char *condition)
{
    qsae_model_settings s;
    qsae_model *m = NULL;
    qsae_model_settings_init(&s, sizeof s);
    s.condition = condition;
    OK(qsae_model_open(w, &s, &m));
    return m;
}

/* Largest difference relative to the largest of `want`, which must be there if must is set. */
static void near_tensor(const qsae__tensors *all, const char *model, const char *key,
                        const float *got, int64_t n, int *seen)
{
    char name[200];
    int64_t count;
    snprintf(name, sizeof name, "%s/%s", model, key);
    if (!qsae__tensors_find(all, name))
        return;
    float *const want = test_floats(all, name, &count);
    double worst = 0, most = 0;
    assert_int_equal(count, n);
    for (int64_t i = 0; i < n; i++) {
        worst = fmax(worst, fabs((double)got[i] - (double)want[i]));
        most = fmax(most, fabs((double)want[i]));
    }
    if (!(worst <= 2e-7 * most))
        fail_msg("%s: differs by %g of %g", name, worst, most);
    free(want);
    (*seen)++;
}

/* Rows of a matrix in f32, outputs first. */
static float *values_of(const qsae_weights *w, const qsae__matrix *m)
{
    const qsae__source src = qsae__matrix_source(w, m, 0);
    float *const x = malloc((size_t)(m->rows * m->cols) * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < m->rows; i++)
        qsae__source_row(&src, i, 0, m->cols, x + i * m->cols);
    return x;
}

static void near_matrix(const qsae__tensors *all, const char *model, const char *key,
                        const qsae_weights *w, const qsae__matrix *m, int *seen)
{
    float *const x = values_of(w, m);
    near_tensor(all, model, key, x, m->rows * m->cols, seen);
    free(x);
}

static void same_codes(const qsae__tensors *all, const char *model, const char *key,
                       const qsae_weights *w, const qsae__matrix *m, int64_t heads, int *seen)
{
    const qsae__source src = qsae__matrix_source(w, m, 0);
    char name[200];
    qsae__condition c;
    qsae_qmatrix *q = NULL;
    qsae_field f = { .struct_size = sizeof f };
    snprintf(name, sizeof name, "codes/%s/%s", model, key);
    const qsae__tensor *const want = qsae__tensors_find(all, name);
    assert_non_null(want);
    OK(qsae__condition_parse(w->ctx, "rtn:bits=6,axis=tl,arith=f32", &c));
    OK(qsae__qmatrix_encode(w->ctx, &c, &src, heads, &q));
    OK(qsae_qmatrix_field(q, 0, &f));
    assert_string_equal(f.name, "codes");
    assert_int_equal(f.bytes, want->bytes);
    if (memcmp(f.data, want->data, (size_t)f.bytes) != 0)
        fail_msg("%s: other codes", name);
    qsae__qmatrix_unref(&q);
    qsae__condition_free(w->ctx, &c);
    (*seen)++;
}

static void check_weights(const qsae__tensors *all, const char *name, const qsae_weights *w)
{
    const qsae__config *const c = &w->config;
    int seen = 0, codes = 0;
    near_matrix(all, name, "embed", w, &w->embed, &seen);
    near_matrix(all, name, "head", w, &w->head, &seen);
    if (w->head_bias)
        near_tensor(all, name, "head.bias", w->head_bias->data, c->vocab, &seen);
    if (w->positions)
        near_tensor(all, name, "positions", w->positions->data, c->max_positions * c->width, &seen);
    for (int64_t n = 0; n < c->layers; n++)
        for (int p = 0; p < qsae__projs(c); p++) {
            const qsae__layer_tensors *const l = &w->layers[n];
            char key[100];
            snprintf(key, sizeof key, "%d.%s.weight", (int)n, qsae__proj_slot_of(c, p)->path);
            near_matrix(all, name, key, w, &l->weight[p], &seen);
            same_codes(all, name, key, w, &l->weight[p], qsae__proj_heads(c, n, p), &codes);
            snprintf(key, sizeof key, "%d.%s.bias", (int)n, qsae__proj_slot_of(c, p)->path);
            if (l->bias[p])
                near_tensor(all, name, key, l->bias[p]->data, l->weight[p].rows, &seen);
        }
    const bool biases = c->family->norm == QSAE__NORM_LAYER;
    const int64_t vectors = biases ? c->layers * 4 + 1 : 0;
    assert_int_equal(seen, 2 + qsae__projs(c) + vectors + (w->positions != NULL));
    assert_int_equal(codes, c->layers * qsae__projs(c));
}

/* Takes the mean off each row of n. */
static void center(double *x, int64_t rows, int64_t n)
{
    for (int64_t r = 0; r < rows; r++) {
        double sum = 0;
        for (int64_t i = 0; i < n; i++)
            sum += x[r * n + i];
        for (int64_t i = 0; i < n; i++)
            x[r * n + i] -= sum / (double)n;
    }
}

/* f32 within twice TransformerLens' own distance from binary64. */
static void check_run(const json_t *report, const char *name, qsae_weights *w)
{
    char path[700];
    qsae__tensors *t = NULL;
    struct test_result r;
    const bool norm = w->config.family->norm == QSAE__NORM_LAYER;
    int64_t n;
    snprintf(path, sizeof path, "%s/reference.safetensors", test_model_path(name));
    OK(qsae__tensors_load(w->ctx, path, &t));
    const qsae__tensor *const ids = qsae__tensors_find(t, "ids");
    int32_t *const own = malloc((size_t)ids->bytes);
    assert_non_null(own);
    memcpy(own, ids->data, (size_t)ids->bytes);
    qsae_model *m = model_of(w, NULL);
    test_run(m, own, ids->shape[0], ids->shape[1], &r);
    for (int64_t i = -1; i < r.layers; i++) {
        char key[32], oracle[48];
        snprintf(key, sizeof key, i < 0 ? "logits" : "resid.%d", (int)i);
        snprintf(oracle, sizeof oracle, "oracle.%s", key);
        double *const want = test_values(t, oracle, &n), *const got = malloc((size_t)n * 8);
        const float *const x = i < 0 ? r.logits : r.resid[i];
        assert_non_null(got);
        if (i < 0 ? !(w->config.final_cap > 0) : norm)
            center(want, r.rows, i < 0 ? r.vocab : r.width);
        for (int64_t k = 0; k < n; k++)
            got[k] = (double)x[k];
        const double mine = test_rms(got, want, n);
        const double theirs = json_number_value(json_object_get(json_object_get(report, name),
                                                                key));
        assert_true(theirs > 0);
        if (!(mine <= 2 * theirs))
            fail_msg("%s %s: rms error %g, TransformerLens %g", name, key, mine, theirs);
        free(want);
        free(got);
    }
    test_result_free(&r);
    qsae_model_close(&m);
    qsae__tensors_unref(&t);
    free(own);
}

static void test_fixtures(void **state)
{
    qsae_context *ctx = test_context(2, NULL);
    qsae__tensors *all = NULL;
    json_t *report = NULL;
    (void)state;
    OK(qsae__tensors_load(ctx, QSAE_TEST_DATA "/process/process.safetensors", &all));
    OK(qsae__json_load(ctx, QSAE_TEST_DATA "/process/process.json", &report));
    for (size_t i = 0; i < N_FIXTURES; i++) {
        qsae_weights *w = processed(ctx, fixtures[i], "tl");
        check_weights(all, fixtures[i], w);
        check_run(report, fixtures[i], w);
        qsae_weights_close(&w);
    }
    json_decref(report);
    qsae__tensors_unref(&all);
    qsae_context_close(&ctx);
}

static void run_model(qsae_weights *w, const char *condition, struct test_result *r)
{
    const int32_t ids[12] = { 3, 9, 27, 23, 5, 15, 25, 31, 1, 7, 30, 2 };
    qsae_model *m = model_of(w, condition);
    test_run(m, ids, 2, 6, r);
    qsae_model_close(&m);
}

/* No step changes what the model predicts: every family, one by one and together. */
static void test_predictions(void **state)
{
    static const char *const steps[] = { "fold_ln", "center_writing_weights", "center_unembed",
                                         "fold_value_biases", "tl",
                                         "fold_value_biases,center_writing_weights" };
    qsae_context *ctx = test_context(2, NULL);
    int changed = 0;
    (void)state;
    for (int i = 0; i < n_test_models; i++) {
        qsae_weights *w = processed(ctx, test_models[i], NULL);
        qsae_model_info info = { .struct_size = sizeof info }, other = info;
        struct test_result plain;
        assert_string_equal(qsae_weights_processing(w), "");
        OK(qsae_weights_get_info(w, &info));
        if (!w->config.family->processed) {
            qsae_weights *p;
            assert_int_equal(qsae_weights_process(w, "tl", &p), QSAE_EUNSUPPORTED);
            qsae_weights_close(&w);
            continue;
        }
        run_model(w, NULL, &plain);
        for (size_t s = 0; s < sizeof steps / sizeof steps[0]; s++) {
            qsae_weights *p = processed(ctx, test_models[i], steps[s]);
            struct test_result r;
            OK(qsae_weights_get_info(p, &other));
            const bool any = *qsae_weights_processing(p) != 0;
            assert_int_equal(strcmp(other.hash, info.hash) != 0, any);
            run_model(p, NULL, &r);
            for (int64_t k = 0; k < r.rows; k++)
                if (!isnan(plain.nll[k]) && !(fabsf(r.nll[k] - plain.nll[k]) < 2e-4f))
                    fail_msg("%s: %s: nll %g, it was %g", test_models[i], steps[s],
                             (double)r.nll[k], (double)plain.nll[k]);
            changed += any && !test_result_equal(&r, &plain);
            test_result_free(&r);
            qsae_weights_close(&p);
        }
        test_result_free(&plain);
        qsae_weights_close(&w);
    }
    assert_true(changed > 2 * n_test_models);
    qsae_context_close(&ctx);
}

static void test_names(void **state)
{
    static const struct {
        const char *model, *what, *done;
    } cases[] = {
        { "gpt2_small", "tl", "fold_ln,center_writing_weights,center_unembed,fold_value_biases" },
        { "gpt2_small", "fold_value_biases,fold_ln,fold_ln", "fold_ln,fold_value_biases" },
        { "gpt2_small", "none", "" },
        { "gpt2_small", "", "" },
        { "neox_sequential", "fold_value_biases", "" }, /* it has none */
        { "neox_sequential", "fold_ln,fold_value_biases", "fold_ln,fold_value_biases" },
        { "llama_gqa", "tl", "fold_ln,center_unembed" },
        { "llama_bias", "tl", "fold_ln,center_unembed,fold_value_biases" },
        { "llama_gqa", "center_writing_weights", "" },
        { "gemma2_cap", "tl", "fold_ln" },
    };
    qsae_context *ctx = test_context(1, NULL);
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        qsae_weights *w = processed(ctx, cases[i].model, cases[i].what);
        assert_string_equal(qsae_weights_processing(w), cases[i].done);
        qsae_weights_close(&w);
    }
    assert_string_equal(qsae_weights_processing(NULL), "");
    qsae_context_close(&ctx);
}

/* Conditions, errors and matrices of processed weights; the result does not depend on threads. */
static void test_uses(void **state)
{
    static const char *const conditions[] = { "none@compute=bf16", "nf4", "llm.int8@compute=bf16",
                                              "rtn:bits=4,axis=tl", "rtn:bits=5@with=head|embed",
                                              "none+prune:sparsity=0.3", "none:weights=f16" };
    qsae_context *ctx = test_context(1, NULL), *more = test_context(3, NULL);
    qsae_weights *w = processed(ctx, "gpt2_small", "tl"), *v = processed(more, "gpt2_small", "tl");
    qsae_model_info a = { .struct_size = sizeof a }, b = a;
    qsae_weight_error e = { .struct_size = sizeof e };
    qsae_qmatrix *q = NULL;
    struct test_result plain, r;
    (void)state;
    OK(qsae_weights_get_info(w, &a));
    OK(qsae_weights_get_info(v, &b));
    assert_string_equal(a.hash, b.hash);
    assert_int_equal(a.tied, 0);
    run_model(w, NULL, &plain);
    for (size_t i = 0; i < sizeof conditions / sizeof conditions[0]; i++) {
        run_model(w, conditions[i], &r);
        double difference = 0;
        for (int64_t k = 0; k < r.rows * r.vocab; k++) {
            assert_true(isfinite(r.logits[k]));
            difference = fmax(difference, fabs((double)(r.logits[k] - plain.logits[k])));
        }
        assert_true(difference > 0 && difference < 20);
        for (int64_t k = 0; k < r.rows * r.vocab && !i; k++)
            assert_true(r.logits[k] == qsae__round_bf16(r.logits[k]));
        test_result_free(&r);
    }
    test_result_free(&plain);
    const int64_t n = qsae_weights_matrix_count(w, NULL);
    assert_int_equal(n, 2 * 4 + 2);
    for (int64_t i = 0; i < n; i++) {
        OK(qsae_weights_error(w, NULL, "nf4@with=head|embed", i, &e));
        assert_true(e.frobenius_relative > 0.01 && e.frobenius_relative < 0.3);
    }
    OK(qsae_weights_matrix(w, "lm_head", &q));
    qsae_weights_close(&w); /* the matrix stays */
    assert_int_equal(qsae_qmatrix_rows(q), 64);
    assert_int_equal(qsae_qmatrix_cols(q), 24);
    float *const x = malloc(64 * 24 * sizeof *x);
    qsae_rows rows = { .struct_size = sizeof rows, .data = x, .dtype = QSAE_F32, .n_rows = 64,
                       .n_cols = 24, .row_stride = 24 };
    OK(qsae_qmatrix_decode(q, &rows));
    for (int i = 0; i < 24; i++) {
        double sum = 0;
        for (int k = 0; k < 64; k++)
            sum += (double)x[k * 24 + i];
        assert_true(fabs(sum) < 1e-4);
    }
    free(x);
    qsae__qmatrix_unref(&q);
    qsae_weights_close(&v);
    qsae_context_close(&more);
    qsae_context_close(&ctx);
}

static void refuse_stored(qsae_context *ctx, const char *name, const char *part)
{
    qsae_weights *w = NULL, *out = NULL;
    OK(qsae_weights_open(ctx, test_model_path(name), &w));
    REFUSED(qsae_weights_process(w, "fold_ln", &out), QSAE_EUNSUPPORTED, part);
    assert_null(out);
    OK(qsae_weights_process(w, NULL, &out));
    qsae_weights_close(&out);
    qsae_weights_close(&w);
}

static void test_refused(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    qsae_weights *w = processed(ctx, "gpt2_small", "fold_ln"), *out = NULL;
    (void)state;
    static const char *const bad[] = { "ln", "fold_ln ", "fold_ln,", ",fold_ln", "tl,,tl", "TL" };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        REFUSED(qsae_weights_process(w, bad[i], &out), QSAE_EINVAL, "fold_value_biases");
    REFUSED(qsae_weights_process(w, "center_unembed", &out), QSAE_EINVAL, "(fold_ln)");
    REFUSED(qsae_weights_process(NULL, "tl", &out), QSAE_EINVAL, "NULL");
    REFUSED(qsae_weights_process(w, "tl", NULL), QSAE_EINVAL, "NULL");
    REFUSED(qsae_weights_save(w, NULL, "/nonexistent-folder/x", NULL), QSAE_EUNSUPPORTED,
            "processed (fold_ln)");
    qsae_weights_close(&w);
    refuse_stored(ctx, "bnb_nf4", "(bitsandbytes)");
    refuse_stored(ctx, "stored_gptq", "(gptq)");
    refuse_stored(ctx, "gguf_llama_mixed/model.gguf", "(gguf)");
    qsae_context_close(&ctx);
}

struct allocator {
    atomic_llong calls, live, fail_at;
};

static void *allocate(void *cookie, size_t size, size_t alignment)
{
    struct allocator *a = cookie;
    if (atomic_fetch_add(&a->calls, 1) == atomic_load(&a->fail_at))
        return NULL;
    void *p = aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
    if (p)
        atomic_fetch_add(&a->live, 1);
    return p;
}

static void release(void *cookie, void *p)
{
    struct allocator *a = cookie;
    if (p)
        atomic_fetch_sub(&a->live, 1);
    free(p);
}

/* Every allocation fails once: a status, nothing leaked, the checkpoint stays usable. */
static void test_memory(void **state)
{
    struct allocator a = { 0 };
    qsae_context_settings s;
    qsae_context *ctx = NULL;
    qsae_weights *w = NULL, *out = NULL;
    (void)state;
    atomic_store(&a.fail_at, -1);
    qsae_context_settings_init(&s, sizeof s);
    s.alloc = allocate;
    s.free = release;
    s.alloc_cookie = &a;
    s.threads = 1;
    OK(qsae_context_open(&s, &ctx));
    OK(qsae_weights_open(ctx, test_model_path("neox_tied"), &w));
    const long long live = atomic_load(&a.live);
    int32_t st = QSAE_ENOMEM;
    long long n = 0;
    for (; st != QSAE_OK; n++) {
        atomic_store(&a.fail_at, atomic_load(&a.calls) + n);
        st = qsae_weights_process(w, "tl", &out);
        if (st != QSAE_OK && (st != QSAE_ENOMEM || atomic_load(&a.live) != live || out))
            fail_msg("allocation %lld: %s: %lld pieces leaked", n, qsae_status_name(st),
                     atomic_load(&a.live) - live);
    }
    assert_true(n > 50);
    qsae_weights_close(&out);
    qsae_weights_close(&w);
    qsae_context_close(&ctx);
    assert_int_equal(atomic_load(&a.live), 0);
}

const struct CMUnitTest process_tests[] = {
    cmocka_unit_test(test_fixtures), cmocka_unit_test(test_predictions),
    cmocka_unit_test(test_names),    cmocka_unit_test(test_uses),
    cmocka_unit_test(test_refused),  cmocka_unit_test(test_memory),
};
const size_t n_process_tests = sizeof process_tests / sizeof process_tests[0];
