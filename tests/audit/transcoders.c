/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Audits with SAEs that write another place than they read: transcoders, one of a single attention
 * head, all layers of a cross-layer transcoder and a crosscoder. golden.json has what transformers
 * and f64 formulas say (tests/reference/transcoders.py).
 */
#include <unistd.h>

#include "broken.h"

#define FILES QSAE_TEST_DATA "/transcoders"

static const char *const saes[] = {
    FILES "/skip", FILES "/skip@4:resid_pre:resid_post", FILES "/head", FILES "/clt",
    FILES "/gemma-scope-2/crosscoder/layers",
};
#define N_SAES (sizeof saes / sizeof saes[0])

static void settings(qsae_audit_settings *s)
{
    qsae_audit_settings_init(s, sizeof *s);
    s->model = DATA "/tiny-gemma3";
    s->text = FILES "/text.txt";
    s->compute = QSAE_COMPUTE_F32;
    s->bos_policy = QSAE_BOS_NONE;
    s->context = 32;
    s->max_tokens = 128;
    s->saes = saes;
    s->n_saes = N_SAES;
    s->splice = 1;
}

static void compare_splice(const char *what, const json_t *got, const json_t *want)
{
    static const char *const keys[] = { "ce", "ce_sae", "ce_zero", "ce_mean" };
    for (size_t i = 0; i < 4; i++) {
        char name[160];
        snprintf(name, sizeof name, "%s %s", what, keys[i]);
        near(name, at(got, keys[i]), at(want, keys[i]), 2e-6 * at(want, keys[i]));
    }
}

static void compare_sae(const char *what, const json_t *got, const json_t *want)
{
    near(what, at(got, "fvu_dim"), at(want, "fvu_dim"), 1e-5 * at(want, "fvu_dim"));
    near(what, at(got, "l0"), at(want, "l0"), 1e-9);
    assert_int_equal(at(got, "layer"), at(want, "layer"));
    assert_int_equal(at(got, "input_layer"), at(want, "input_layer"));
    assert_string_equal(text_at(got, "site"), text_at(want, "site"));
    assert_string_equal(text_at(got, "input_site"), text_at(want, "input_site"));
}

static void test_golden(void **state)
{
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    json_error_t error;
    json_t *golden = json_load_file(FILES "/golden.json", 0, &error);
    size_t i, k, n = 0;
    const json_t *want, *one;
    (void)state;
    assert_non_null(golden);
    settings(&s);
    json_t *result = run(ctx, &s);
    const json_t *const reference = json_object_get(result, "reference"),
                 *const list = json_object_get(reference, "saes");
    json_array_foreach(json_object_get(golden, "saes"), i, want) {
        const json_t *const got = json_array_get(list, n++);
        compare_sae(text_at(want, "name"), got, want);
        compare_splice(text_at(want, "name"), json_object_get(got, "splice"),
                       json_object_get(want, "splice"));
    }
    assert_int_equal(at(json_array_get(list, 2), "head"), 2);
    assert_true(null_at(json_array_get(list, 0), "head"));
    json_array_foreach(json_object_get(golden, "layers"), i, want) {
        const json_t *const got = json_array_get(json_object_get(reference, "sae_layers"), i);
        assert_string_equal(text_at(got, "kind"), text_at(want, "kind"));
        assert_int_equal(at(got, "first"), n);
        assert_int_equal(at(got, "features"), at(want, "features"));
        assert_true(json_equal(json_object_get(got, "layers"), json_object_get(want, "layers")));
        near("fvu_dim", at(got, "fvu_dim"), at(want, "fvu_dim"), 1e-5 * at(want, "fvu_dim"));
        near("l0", at(got, "l0"), at(want, "l0"), 1e-9);
        compare_splice(text_at(want, "kind"), json_object_get(got, "splice"),
                       json_object_get(want, "splice"));
        json_array_foreach(json_object_get(want, "saes"), k, one) {
            assert_true(null_at(json_array_get(list, n), "splice"));
            compare_sae(text_at(want, "kind"), json_array_get(list, n++), one);
        }
    }
    assert_int_equal(json_array_size(list), n);
    json_decref(golden);
    json_decref(result);
    qsae_context_close(&ctx);
}

/* A condition that shares the first layers, one that shares none, resident, streamed, and stopped
 * after every batch: one document. */
static void test_same_document(void **state)
{
    static const char *const conditions[] = { "rtn:bits=4@layers=3-5", "rtn:bits=5", "none" };
    char path[] = "/tmp/qsae-transcoders-XXXXXX";
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    (void)state;
    settings(&s);
    s.batch = 1;
    s.conditions = conditions;
    s.n_conditions = 3;
    s.memory = QSAE_MEMORY_RESIDENT;
    json_t *want = run(ctx, &s);
    strip(want);
    s.memory = QSAE_MEMORY_STREAMED;
    s.stream_bytes = 1 << 20;
    json_t *streamed = run(ctx, &s);
    strip(streamed);
    assert_true(json_equal(want, streamed));
    /* Nothing changed, nothing drifts. */
    const json_t *const none = json_array_get(json_object_get(condition_at(want, 2), "saes"), 0);
    near("drift of none", at(json_object_get(none, "noise"), "p"), 0, 0);
    const json_t *const set =
        json_array_get(json_object_get(condition_at(want, 2), "sae_layers"), 0);
    assert_true(json_equal(set, json_array_get(json_object_get(
        json_object_get(want, "reference"), "sae_layers"), 0)));

    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    unlink(path);
    qsae_cancel_token *token;
    assert_ok(qsae_cancel_token_open(&token));
    struct stop stop = { .at = 32, .token = token };
    s.state = path;
    s.cancel = token;
    s.progress = stop_at;
    s.progress_cookie = &stop;
    for (int32_t st = QSAE_ECANCELED; st == QSAE_ECANCELED; stop.at += 32) {
        qsae_audit *audit;
        qsae_cancel_token_reset(token);
        assert_ok(qsae_audit_open(ctx, &s, &audit));
        st = qsae_audit_run(audit);
        if (st == QSAE_OK) {
            json_t *resumed = result_of(audit);
            strip(resumed);
            assert_true(json_equal(want, resumed));
            json_decref(resumed);
        } else {
            assert_int_equal(st, QSAE_ECANCELED);
        }
        qsae_audit_close(&audit);
    }
    unlink(path);
    qsae_cancel_token_close(&token);
    json_decref(streamed);
    json_decref(want);
    qsae_context_close(&ctx);
}

static void test_refused(void **state)
{
    static const struct {
        const char *sae;
        int32_t status;
        const char *part;
    } cases[] = {
        { FILES "/skip@4:mlp_in:nothing", QSAE_EUNSUPPORTED, "site nothing" },
        { FILES "/skip@4:mlp_in:mlp_post", QSAE_EMISMATCH, "mlp_post" },
        { FILES "/skip@5", QSAE_EMISMATCH, "layer 6" },
        { FILES "/head@2:resid_pre", QSAE_EUNSUPPORTED, "attention head 2" },
        { FILES "/clt@1", QSAE_EMISMATCH, "layer 6" },
        { FILES "/clt#1", QSAE_EUNSUPPORTED, "cross-layer" },
        { DATA "/tiny-gemma3-sae@2:mlp_in:mlp_out", QSAE_EINVAL, "only transcoders" },
        { FILES "/skip@2:embed>pos_embed", QSAE_EMISMATCH, "embed is at layer 0" },
    };
    qsae_context *ctx = open_context(NULL, 1);
    qsae_audit_settings s;
    qsae_audit *audit;
    (void)state;
    settings(&s);
    s.n_saes = 1;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        s.saes = &cases[i].sae;
        assert_fails(qsae_audit_open(ctx, &s, &audit), cases[i].status, cases[i].part);
        assert_null(audit);
    }
    qsae_context_close(&ctx);
}

/* An output that comes before what it depends on cannot be spliced in live. */
static void test_order(void **state)
{
    static const char *const back = FILES "/clt@0:resid_post:resid_pre";
    qsae_context *ctx = open_context(NULL, 1);
    qsae_audit_settings s;
    qsae_audit *audit;
    (void)state;
    settings(&s);
    s.saes = &back;
    s.n_saes = 1;
    assert_ok(qsae_audit_open(ctx, &s, &audit));
    assert_fails(qsae_audit_run(audit), QSAE_EUNSUPPORTED, "only later");
    qsae_audit_close(&audit);
    s.splice = 0;
    json_t *result = run(ctx, &s);
    json_decref(result);
    qsae_context_close(&ctx);
}

/* A model whose rows are no numbers from layer 3 on: SAEs there have no figures, those before keep
 * theirs, and nothing that is spliced in makes numbers of them. */
static void test_undefined(void **state)
{
    static const char *const all[] = { FILES "/clt", DATA "/tiny-gemma3-sae@3:resid_post",
                                       FILES "/skip@1:mlp_in:mlp_out" };
    char broken[64] = "/tmp/qsae-broken-XXXXXX/model";
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    json_t *results[2];
    size_t i;
    const json_t *sae;
    (void)state;
    char *const slash = strrchr(broken, '/');
    *slash = 0;
    assert_non_null(mkdtemp(broken));
    *slash = '/';
    make_broken(broken, "model.layers.3.input_layernorm.weight");
    settings(&s);
    s.saes = all;
    s.n_saes = 3;
    for (int k = 0; k < 2; k++) {
        results[k] = run(ctx, &s);
        s.model = broken;
    }
    const json_t *const good = json_object_get(results[0], "reference"),
                 *const bad = json_object_get(results[1], "reference");
    assert_true(null_at(bad, "ce"));
    const double rows = at(json_array_get(json_object_get(good, "saes"), 0), "tokens");
    json_array_foreach(json_object_get(bad, "saes"), i, sae) {
        const json_t *const like = json_array_get(json_object_get(good, "saes"), i);
        const bool lost = at(sae, "layer") >= 3;
        near("tokens", at(sae, "tokens"), lost ? 0 : rows, 0);
        near("nonfinite", at(sae, "nonfinite_rows"), lost ? rows : 0, 0);
        near("of the other", at(like, "nonfinite_rows"), 0, 0);
        if (lost)
            assert_true(null_at(sae, "fvu_dim") && null_at(sae, "l0"));
        else
            near("fvu", at(sae, "fvu_dim"), at(like, "fvu_dim"), 0);
    }
    assert_int_equal(i, 6 + 2);
    const json_t *const set = json_array_get(json_object_get(bad, "sae_layers"), 0);
    assert_true(null_at(set, "l0"));
    assert_true(null_at(json_object_get(set, "splice"), "ce_sae"));
    assert_true(null_at(json_object_get(json_array_get(json_object_get(bad, "saes"), 7), "splice"),
                        "ce_sae"));
    json_decref(results[0]);
    json_decref(results[1]);
    remove_broken(broken);
    *slash = 0;
    rmdir(broken);
    qsae_context_close(&ctx);
}

/* The rows at a transcoder's output, and what takes their place with the error kept. */
struct kept {
    qsae_sae *sae;
    float *x;
    qsae_feature_edit edit;
    int64_t n_edits;
};

static int32_t read_input(void *cookie, int32_t layer, int32_t site, qsae_rows *rows)
{
    const struct kept *const k = cookie;
    (void)layer;
    (void)site;
    for (int64_t r = 0; r < rows->n_rows; r++)
        memcpy(k->x + r * rows->n_cols, (float *)rows->data + r * rows->row_stride,
               (size_t)rows->n_cols * sizeof(float));
    return 0;
}

static int32_t put_output(void *cookie, int32_t layer, int32_t site, qsae_rows *rows)
{
    const struct kept *const k = cookie;
    const qsae_rows x = { .struct_size = sizeof x, .data = k->x, .n_rows = rows->n_rows,
                          .n_cols = rows->n_cols, .row_stride = rows->n_cols, .dtype = QSAE_F32 };
    (void)layer;
    (void)site;
    return qsae_sae_intervene(k->sae, &x, &k->edit, k->n_edits, 2, rows);
}

static void test_error_kept(void **state)
{
    enum { N = 24, V = 2048 };
    int32_t ids[N];
    qsae_context *ctx = open_context(NULL, 2);
    qsae_weights *weights;
    qsae_model *model;
    struct kept k = { .edit = { .struct_size = sizeof k.edit, .operation = QSAE_FEATURE_ADD,
                                .value = 3 } };
    float *const logits[3] = { malloc(sizeof(float) * N * V), malloc(sizeof(float) * N * V),
                               malloc(sizeof(float) * N * V) };
    (void)state;
    assert_true(logits[0] && logits[1] && logits[2] && (k.x = malloc(sizeof(float) * N * 128)));
    for (int i = 0; i < N; i++)
        ids[i] = 3 + 61 * i % 2000;
    assert_ok(qsae_weights_open(ctx, DATA "/tiny-gemma3", &weights));
    assert_ok(qsae_model_open(weights, NULL, &model));
    assert_ok(qsae_sae_open(ctx, FILES "/skip", NULL, &k.sae));
    for (int i = 0; i < 3; i++) {
        const qsae_tap taps[2] = {
            { .struct_size = sizeof taps[0], .layer = 2, .site = QSAE_SITE_MLP_IN,
              .edit = read_input, .cookie = &k },
            { .struct_size = sizeof taps[0], .layer = 3, .site = QSAE_SITE_MLP_OUT,
              .edit = put_output, .cookie = &k },
        };
        qsae_pass pass;
        qsae_pass_init(&pass, sizeof pass);
        pass.ids = ids;
        pass.n_seq = 1;
        pass.n_tokens = N;
        pass.logits = logits[i];
        pass.taps = taps;
        pass.n_taps = i ? 2 : 0;
        k.n_edits = i == 2;
        assert_ok(qsae_model_forward(model, &pass));
    }
    assert_memory_equal(logits[0], logits[1], sizeof(float) * N * V);
    assert_memory_not_equal(logits[0], logits[2], sizeof(float) * N * V);
    for (int i = 0; i < 3; i++)
        free(logits[i]);
    free(k.x);
    qsae_sae_close(&k.sae);
    qsae_model_close(&model);
    qsae_weights_close(&weights);
    qsae_context_close(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),  cmocka_unit_test(test_same_document),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_order),
        cmocka_unit_test(test_error_kept), cmocka_unit_test(test_undefined),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
