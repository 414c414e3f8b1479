/* SPDX-License-Identifier: BSD-2-Clause */
/* The public pass: arguments, taps, editors, cancellation. */
#include "model_test.h"

#define T 6

static const int32_t ids[2 * T] = { 1, 5, 9, 13, 2, 40, 1, 7, 7, 60, 3, 11 };

struct probe {
    qsae_context *ctx;
    qsae_model *m;
    qsae_pass p;
    float nll[2 * T];
};

static void open_probe(struct probe *x, const char *model, int compute)
{
    x->ctx = test_context(2, NULL);
    x->m = test_model(x->ctx, test_model_path(model), NULL, compute, 0);
    qsae_pass_init(&x->p, sizeof x->p);
    x->p.ids = ids;
    x->p.n_seq = 2;
    x->p.n_tokens = T;
    x->p.nll = x->nll;
}

static void close_probe(struct probe *x)
{
    qsae_model_close(&x->m);
    assert_null(x->m);
    qsae_model_close(&x->m);
    qsae_context_close(&x->ctx);
}

static int32_t seen[64];
static int n_seen;

struct note {
    int32_t number, result;
    float add;
    struct probe *x;
};

static int32_t observe(void *cookie, int32_t layer, int32_t site, const qsae_rows *rows)
{
    const struct note *n = cookie;
    assert_int_equal(site, QSAE_SITE_RESID_POST);
    assert_int_equal(rows->n_rows, 2 * T);
    assert_true(n_seen < 64);
    seen[n_seen++] = layer * 100 + n->number;
    return n->result;
}

static int32_t edit(void *cookie, int32_t layer, int32_t site, qsae_rows *rows)
{
    const struct note *n = cookie;
    float *x = rows->data;
    (void)site;
    assert_true(n_seen < 64);
    seen[n_seen++] = layer * 100 + 50 + n->number;
    for (int64_t i = 0; i < rows->n_rows * rows->n_cols; i++)
        x[i] += n->add;
    return n->result;
}

static qsae_tap tap(int32_t layer, struct note *n, bool observes, bool edits)
{
    return (qsae_tap){ .struct_size = sizeof(qsae_tap),
                       .layer = layer,
                       .site = QSAE_SITE_RESID_POST,
                       .observe = observes ? observe : NULL,
                       .edit = edits ? edit : NULL,
                       .cookie = n };
}

static void test_order(void **state)
{
    struct probe x;
    struct note n[4] = { { .number = 0 }, { .number = 1 }, { .number = 2 }, { .number = 3 } };
    (void)state;
    open_probe(&x, "llama_gqa", 0);
    qsae_tap taps[4] = { tap(2, &n[0], true, false), tap(1, &n[1], true, false),
                         tap(1, &n[2], true, true), tap(1, &n[3], false, true) };
    x.p.taps = taps;
    x.p.n_taps = 4;
    n_seen = 0;
    OK(qsae_model_forward(x.m, &x.p));
    const int32_t want[] = { 101, 152, 102, 153, 200 };
    assert_int_equal(n_seen, 5);
    assert_memory_equal(seen, want, sizeof want);
    close_probe(&x);
}

static float kept[2 * T * 64];

static int32_t keep(void *cookie, int32_t layer, int32_t site, const qsae_rows *rows)
{
    (void)cookie;
    (void)layer;
    (void)site;
    memcpy(kept, rows->data, (size_t)(rows->n_rows * rows->n_cols) * sizeof(float));
    return 0;
}

static void test_editor(void **state)
{
    struct probe x;
    struct note n = { .add = 0.3f }, zero = { .add = 0 };
    float plain[2 * T];
    (void)state;
    open_probe(&x, "llama_gqa", QSAE_COMPUTE_BF16);
    OK(qsae_model_forward(x.m, &x.p));
    memcpy(plain, x.nll, sizeof plain);
    qsae_tap taps[2] = { tap(1, &zero, false, true), tap(1, &n, false, false) };
    taps[1].observe = keep;
    x.p.taps = taps;
    x.p.n_taps = 2;
    n_seen = 0;
    OK(qsae_model_forward(x.m, &x.p));
    assert_memory_equal(plain, x.nll, (T - 1) * sizeof(float)); /* an edit that changes nothing */
    taps[0].cookie = &n;
    OK(qsae_model_forward(x.m, &x.p));
    assert_true(fabsf(plain[0] - x.nll[0]) > 1e-4f);
    for (int i = 0; i < 2 * T * 32; i++) /* rounded again in bf16 */
        assert_true(kept[i] == qsae__round_bf16(kept[i]));
    close_probe(&x);
}

static void test_tap_errors(void **state)
{
    struct probe x;
    struct note n = { .number = 1 };
    (void)state;
    open_probe(&x, "llama_gqa", 0);
    qsae_tap t[2] = { tap(0, &n, true, false), tap(0, &n, true, false) };
    x.p.taps = t;
    x.p.n_taps = 2;
    t[1].layer = 3;
    REFUSED(qsae_model_forward(x.m, &x.p), QSAE_EINVAL, "tap 1: layer 3");
    t[1].layer = -1;
    REFUSED(qsae_model_forward(x.m, &x.p), QSAE_EINVAL, "tap 1: layer -1");
    t[1] = tap(0, &n, true, false);
    t[1].site = 99;
    REFUSED(qsae_model_forward(x.m, &x.p), QSAE_EINVAL, "site 99");
    t[1] = tap(0, &n, false, false);
    REFUSED(qsae_model_forward(x.m, &x.p), QSAE_EINVAL, "neither");
    t[1] = tap(0, &n, true, false);
    t[0].struct_size = t[1].struct_size = 0;
    REFUSED(qsae_model_forward(x.m, &x.p), QSAE_EINVAL, "struct_size is 0");
    t[1].struct_size = sizeof t[1];
    t[0].struct_size = 9;
    REFUSED(qsae_model_forward(x.m, &x.p), QSAE_EINVAL, "tap 0: struct_size is 9");
    t[0].struct_size = sizeof t[0];
    t[1].struct_size = 8;
    REFUSED(qsae_model_forward(x.m, &x.p), QSAE_EINVAL, "tap 1: struct_size");
    x.p.taps = NULL;
    REFUSED(qsae_model_forward(x.m, &x.p), QSAE_EINVAL, "n_taps");
    x.p.taps = t;
    x.p.n_taps = -1;
    REFUSED(qsae_model_forward(x.m, &x.p), QSAE_EINVAL, "n_taps");
    /* a callback's value ends the pass and comes back unchanged */
    n.result = 77;
    x.p.n_taps = 1;
    assert_int_equal(qsae_model_forward(x.m, &x.p), 77);
    n.result = 0;
    OK(qsae_model_forward(x.m, &x.p));
    close_probe(&x);
}

static void test_arguments(void **state)
{
    struct probe x;
    int32_t bad[2 * T];
    int32_t labels[2 * T];
    (void)state;
    open_probe(&x, "llama_gqa", 0);
    memcpy(bad, ids, sizeof bad);
    bad[T + 2] = 96;
    x.p.ids = bad;
    REFUSED(qsae_model_forward(x.m, &x.p), QSAE_EINVAL, "96 at sequence 1, position 2");
    bad[T + 2] = -1;
    REFUSED(qsae_model_forward(x.m, &x.p), QSAE_EINVAL, "-1 at sequence 1, position 2");
    x.p.ids = NULL;
    REFUSED(qsae_model_forward(x.m, &x.p), QSAE_EINVAL, "ids");
    x.p.ids = ids;
    memcpy(labels, ids, sizeof labels);
    labels[3] = 96;
    x.p.labels = labels;
    REFUSED(qsae_model_forward(x.m, &x.p), QSAE_EINVAL, "label 96 at sequence 0, position 3");
    labels[3] = -100;
    OK(qsae_model_forward(x.m, &x.p));
    assert_true(isnan(x.nll[3]) && !isnan(x.nll[T - 1]) && x.nll[0] > 0);
    x.p.labels = NULL;
    OK(qsae_model_forward(x.m, &x.p));
    assert_true(isnan(x.nll[T - 1]) && isnan(x.nll[2 * T - 1]) && !isnan(x.nll[3]));
    x.p.n_seq = 0;
    REFUSED(qsae_model_forward(x.m, &x.p), QSAE_EINVAL, "n_seq");
    x.p.n_seq = INT64_MAX / 2;
    REFUSED(qsae_model_forward(x.m, &x.p), QSAE_EINVAL, "n_seq");
    x.p.n_seq = 2;
    x.p.n_tokens = 0;
    REFUSED(qsae_model_forward(x.m, &x.p), QSAE_EINVAL, "n_tokens 0");
    x.p.n_tokens = (1 << 24) + 1; /* no ids are read */
    REFUSED(qsae_model_forward(x.m, &x.p), QSAE_EINVAL, "at most 16777216 tokens");
    x.p.n_tokens = T;
    for (int i = 0; i < 3; i++) { /* logits fit in an int64, buffers do not */
        x.p.n_seq = INT64_MAX / 96 / T >> i;
        assert_int_equal(qsae_model_forward(x.m, &x.p), QSAE_EOVERFLOW);
    }
    x.p.n_seq = 2;
    OK(qsae_model_forward(x.m, &x.p));
    labels[3] = -1;
    x.p.labels = labels;
    REFUSED(qsae_model_forward(x.m, &x.p), QSAE_EINVAL, "label -1 at sequence 0, position 3");
    x.p.labels = NULL;
    x.p.stop_layer = -1;
    REFUSED(qsae_model_forward(x.m, &x.p), QSAE_EINVAL, "stop_layer: -1");
    x.p.stop_layer = 3; /* all */
    OK(qsae_model_forward(x.m, &x.p));
    x.p.stop_layer = 1;
    REFUSED(qsae_model_forward(x.m, &x.p), QSAE_EINVAL, "stop_layer");
    x.p.stop_layer = 9;
    REFUSED(qsae_model_forward(x.m, &x.p), QSAE_EINVAL, "stop_layer");
    REFUSED(qsae_model_forward(NULL, &x.p), QSAE_EINVAL, "NULL");
    REFUSED(qsae_model_forward(x.m, NULL), QSAE_EINVAL, "NULL");
    x.p.struct_size = 3;
    REFUSED(qsae_model_forward(x.m, &x.p), QSAE_EINVAL, "struct_size");
    close_probe(&x);
}

/* The first layer that a condition leaves another than the reference does: those before it need not
 * run again. */
static void test_first_changed(void **state)
{
    static const struct {
        const char *condition;
        int64_t first; /* of three layers */
    } cases[] = {
        { "none", 3 }, { "control:null", 3 }, { "none@compute=f32", 3 }, { "nf4", 0 },
        { "rtn:bits=4@layers=1", 1 }, { "rtn:bits=4@layers=1-2@only=nothing", 3 },
        { "none@layers=2+prune:sparsity=0.5", 2 }, { "rtn:bits=4@layers=1-2@skip=layers.1.mlp", 1 },
        { "rtn:bits=4@only=/layers\\.2\\.mlp/", 2 }, { "rtn:bits=4@layers=2@with=head", 2 },
        { "mix(nf4@layers=2)(fp4@layers=1)", 1 }, { "rtn:bits=4@layers=2@with=embed", 0 },
        { "none@compute=bf16", 0 }, { "none:weights=f16", 0 }, { "none+kv:k=f16", 0 },
        { "none+kv:v=f16", 0 }, { "rtn:bits=4@layers=2+kv:v=f16", 0 }, { "control:floor", 0 },
    };
    static const char *const references[] = { "nf4@layers=2", "none:weights=f16", "none+kv:k=f16",
                                              "none+kv:v=f16" };
    qsae_context *ctx = test_context(1, NULL);
    qsae_weights *w = NULL;
    qsae_model *plain = NULL, *other = NULL;
    qsae_model_settings s;
    (void)state;
    OK(qsae_weights_open(ctx, test_model_path("llama_gqa"), &w));
    OK(qsae_model_open(w, NULL, &plain));
    qsae_model_settings_init(&s, sizeof s);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        s.condition = cases[i].condition;
        OK(qsae_model_open(w, &s, &other));
        if (qsae__model_first_changed(plain, other) != cases[i].first)
            fail_msg("%s: %d", cases[i].condition, (int)qsae__model_first_changed(plain, other));
        qsae_model_close(&other);
    }
    for (size_t i = 0; i < sizeof references / sizeof references[0]; i++) {
        s.condition = references[i]; /* of which nothing is known, not even that it is the same */
        OK(qsae_model_open(w, &s, &other));
        assert_int_equal(qsae__model_first_changed(other, other), 0);
        qsae_model_close(&other);
    }
    s.condition = NULL;
    s.attention = QSAE_ATTN_EAGER;
    OK(qsae_model_open(w, &s, &other));
    assert_int_equal(qsae__model_first_changed(plain, other), 0);
    qsae_model_close(&other);
    other = test_model(ctx, test_model_path("llama_gqa"), NULL, 0, 0); /* read anew */
    assert_int_equal(qsae__model_first_changed(plain, other), 0);
    qsae_model_close(&other);
    qsae_model_close(&plain);
    qsae_weights_close(&w);
    qsae_context_close(&ctx);
}

/* Passes whose logits can be counted and whose buffers cannot: blocks of every kind. */
static void test_too_large(void **state)
{
    static const char *const models[] = { "gemma2_cap", "gemma3_wrapper", "gemma4_experts",
                                          "gemma4_shared", "gemma4_wrapper", "neox_parallel" };
    static const int32_t low[T] = { 1, 5, 9, 13, 2, 4 };
    qsae_context *ctx = test_context(2, NULL);
    (void)state;
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        qsae_model *m = test_model(ctx, test_model_path(models[i]), NULL, 0, 0);
        qsae_model_info info = { .struct_size = offsetof(qsae_model_info, hash) };
        float nll[T];
        qsae_pass p;
        OK(qsae_model_get_info(m, &info));
        assert_true(info.vocab <= 96); /* else there may be an allocation that fails */
        qsae_pass_init(&p, sizeof p);
        p.ids = low;
        p.n_tokens = T;
        p.nll = nll;
        p.n_seq = INT64_MAX / info.vocab / T;
        const int32_t st = qsae_model_forward(m, &p);
        if (st != QSAE_EOVERFLOW)
            fail_msg("%s: %s", models[i], qsae_status_name(st));
        p.n_seq = 1;
        OK(qsae_model_forward(m, &p));
        qsae_model_close(&m);
    }
    qsae_context_close(&ctx);
}

struct counter {
    qsae_cancel_token *token;
    int64_t calls, cancel_at, result_at;
    struct probe *x;
    int32_t nested;
};

static int32_t count(void *cookie, int64_t done, int64_t total, const char *unit, const char *phase)
{
    struct counter *c = cookie;
    assert_string_equal(unit, "layers");
    assert_non_null(phase);
    assert_true(done >= 1 && done <= total);
    c->calls++;
    if (done == c->cancel_at)
        qsae_cancel_token_cancel(c->token);
    if (c->x)
        c->nested = qsae_model_forward(c->x->m, &c->x->p);
    return done == c->result_at ? 5 : 0;
}

static void test_stop_and_cancel(void **state)
{
    struct probe x;
    struct note n = { .number = 0 };
    struct counter c = { .cancel_at = 2 };
    float plain[2 * T];
    (void)state;
    open_probe(&x, "llama_gqa", 0);
    OK(qsae_model_forward(x.m, &x.p));
    memcpy(plain, x.nll, sizeof plain);
    OK(qsae_cancel_token_open(&c.token));
    x.p.progress = count;
    x.p.progress_cookie = &c;
    x.p.cancel = c.token;
    assert_int_equal(qsae_model_forward(x.m, &x.p), QSAE_ECANCELED);
    assert_int_equal(c.calls, 2);
    qsae_cancel_token_reset(c.token);
    c = (struct counter){ .token = c.token, .result_at = 1 };
    assert_int_equal(qsae_model_forward(x.m, &x.p), 5);
    c = (struct counter){ .token = c.token, .x = &x }; /* a pass inside the pass */
    OK(qsae_model_forward(x.m, &x.p));
    assert_int_equal(c.nested, QSAE_EBUSY);
    for (int i = 0; i < 2 * T; i++)
        assert_true(isnan(plain[i]) ? isnan(x.nll[i]) : plain[i] == x.nll[i]);
    /* without outputs only the blocks the taps need are run */
    c = (struct counter){ .token = c.token };
    x.p.nll = NULL;
    OK(qsae_model_forward(x.m, &x.p));
    assert_int_equal(c.calls, 0);
    qsae_tap t = tap(1, &n, true, false);
    x.p.taps = &t;
    x.p.n_taps = 1;
    n_seen = 0;
    OK(qsae_model_forward(x.m, &x.p));
    assert_int_equal(c.calls, 2);
    assert_int_equal(n_seen, 1);
    x.p.stop_layer = 1;
    REFUSED(qsae_model_forward(x.m, &x.p), QSAE_EINVAL, "tap at layer 1");
    x.p.stop_layer = 3;
    c.calls = 0;
    OK(qsae_model_forward(x.m, &x.p));
    assert_int_equal(c.calls, 3);
    qsae_cancel_token_cancel(c.token);
    assert_int_equal(qsae_model_forward(x.m, &x.p), QSAE_ECANCELED);
    qsae_cancel_token_close(&c.token);
    close_probe(&x);
}

const struct CMUnitTest pass_tests[] = {
    cmocka_unit_test(test_order),     cmocka_unit_test(test_editor),
    cmocka_unit_test(test_tap_errors), cmocka_unit_test(test_arguments),
    cmocka_unit_test(test_stop_and_cancel), cmocka_unit_test(test_first_changed),
    cmocka_unit_test(test_too_large),
};
const size_t n_pass_tests = sizeof pass_tests / sizeof pass_tests[0];
