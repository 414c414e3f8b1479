/* SPDX-License-Identifier: BSD-2-Clause */
/* Sweeps over layers and modules, searches for a sparsity, null controls. */
#include <unistd.h>

#include "document.h"

static json_t *run_sweep(qsae_context *ctx, qsae_audit_settings *s, const char *condition,
                         int32_t by)
{
    s->conditions = &condition;
    s->n_conditions = 1;
    s->sweep = by;
    json_t *result = run(ctx, s);
    s->sweep = QSAE_SWEEP_NONE;
    return result;
}

/* ---- what a part of a sweep must give: the same model run from the embedding on ---- */

struct whole {
    qsae_sae *sae;
    qsae_metric *reconstruction, *cross_entropy;
    const qsae_positions *at;
};

static int32_t observe(void *cookie, int32_t layer, int32_t site, const qsae_rows *rows)
{
    const struct whole *const w = cookie;
    (void)layer;
    (void)site;
    qsae_rows y = *rows;
    y.row_stride = rows->n_cols;
    y.data = malloc((size_t)(rows->n_rows * rows->n_cols) * sizeof(float));
    assert_non_null(y.data);
    assert_ok(qsae_sae_reconstruct(w->sae, rows, &y));
    assert_ok(qsae_metric_update_reconstruction(w->reconstruction, w->at, rows, &y, NULL));
    free(y.data);
    return 0;
}

/* nll_sum, fvu_dim of a condition by qsae_model_forward, which shares nothing. */
static void run_whole(qsae_context *ctx, const qsae_audit_settings *s, const char *condition,
                      double *nll_sum, double *fvu)
{
    qsae_tokenizer *t;
    qsae_corpus *corpus;
    qsae_corpus_settings cs;
    qsae_corpus_info ci = { .struct_size = sizeof ci };
    qsae_weights *weights;
    qsae_model *model;
    qsae_model_settings ms;
    qsae_metric_settings settings;
    struct whole w = { 0 };
    qsae_corpus_settings_init(&cs, sizeof cs);
    qsae_model_settings_init(&ms, sizeof ms);
    qsae_metric_settings_init(&settings, sizeof settings);
    cs.context = s->context;
    cs.max_tokens = s->max_tokens;
    cs.bos_policy = QSAE_BOS_DOC_START;
    ms.condition = condition;
    ms.compute = s->compute;
    assert_ok(qsae_tokenizer_open(ctx, s->model, &t));
    assert_ok(qsae_corpus_open(ctx, t, s->text, &cs, &corpus));
    assert_ok(qsae_corpus_get_info(corpus, &ci));
    assert_ok(qsae_weights_open(ctx, s->model, &weights));
    assert_ok(qsae_model_open(weights, &ms, &model));
    assert_ok(qsae_sae_open(ctx, sae_path, NULL, &w.sae));
    assert_ok(qsae_metric_open_cross_entropy(ctx, &settings, &w.cross_entropy));
    assert_ok(qsae_metric_open_reconstruction(ctx, 128, 1024, &settings, &w.reconstruction));
    for (int64_t c = 0; c < ci.chunks; c++) {
        const int32_t *ids, *labels;
        const int64_t *document;
        int64_t n;
        float nll[256];
        uint8_t mask[256]; /* sums are kept apart by these flags */
        assert_ok(qsae_corpus_chunk(corpus, c, &ids, &labels, &document, &n));
        for (int64_t i = 0; i < n; i++)
            mask[i] = (uint8_t)((i == 0 ? QSAE_MASK_FIRST : 0) |
                                (qsae_tokenizer_is_special(t, ids[i]) ? QSAE_MASK_SPECIAL : 0));
        const qsae_positions at_rows = { .struct_size = sizeof at_rows,
                                         .first_token = c * s->context,
                                         .document = document,
                                         .mask = mask,
                                         .n_rows = n };
        const qsae_tap tap = { .struct_size = sizeof tap, .layer = 3,
                               .site = QSAE_SITE_RESID_POST, .observe = observe, .cookie = &w };
        qsae_pass p;
        w.at = &at_rows;
        qsae_pass_init(&p, sizeof p);
        p.ids = ids;
        p.labels = labels;
        p.n_seq = 1;
        p.n_tokens = n;
        p.nll = nll;
        p.taps = &tap;
        p.n_taps = 1;
        assert_ok(qsae_model_forward(model, &p));
        assert_ok(qsae_metric_update_cross_entropy(w.cross_entropy, &at_rows, n, nll));
    }
    assert_ok(qsae_metric_get(w.cross_entropy, "nll_sum", nll_sum));
    assert_ok(qsae_metric_get(w.reconstruction, "fvu_dim", fvu));
    qsae_metric_close(&w.cross_entropy);
    qsae_metric_close(&w.reconstruction);
    qsae_sae_close(&w.sae);
    qsae_model_close(&model);
    qsae_weights_close(&weights);
    qsae_corpus_close(&corpus);
    qsae_tokenizer_close(&t);
}

/* Each part alone gives the same bits, and so does a pass that shares no layers. */
static void test_sweep_equals_single(void **state)
{
    (void)state;
    const char *const specs[] = { "nf4", "llm.int8@skip=o_proj", "control:permute(rtn:bits=4)" };
    for (int i = 0; i < 3; i++) {
        qsae_context *ctx = open_context(NULL, 2);
        qsae_audit_settings s;
        defaults(&s);
        s.max_tokens = 2048;
        s.compute = i == 1 ? QSAE_COMPUTE_BF16 : QSAE_COMPUTE_F32;
        json_t *swept = run_sweep(ctx, &s, specs[i], QSAE_SWEEP_LAYERS);
        const json_t *parts = json_object_get(json_object_get(swept, "sweep"), "parts");
        strip(swept);
        assert_int_equal(json_array_size(parts), 6);
        for (size_t n = 0; n < 6; n++) {
            const json_t *part = json_array_get(parts, n), *c = condition_at(swept, n);
            const char *label = text_at(c, "label");
            const json_t *sae = json_array_get(json_object_get(c, "saes"), 0);
            near("condition", at(part, "condition"), (double)n, 0);
            near("layer", at(part, "layer"), (double)n, 0);
            assert_true(null_at(part, "module"));
            assert_true(at(c, "kl_mean") > 0);
            s.conditions = &label;
            json_t *alone = run(ctx, &s), *same = condition_at(alone, 0);
            strip(alone);
            /* Parts of a sweep have no such lists. */
            for (const char *const *k = (const char *const[]){ "worst_tokens", "worst_documents",
                                                               NULL }; *k; k++) {
                assert_true(json_is_null(json_object_get(c, *k)));
                assert_false(json_is_null(json_object_get(same, *k)));
                json_object_set_new(same, *k, json_null());
            }
            assert_true(json_equal(same, c));
            json_decref(alone);
            if (i == 1) /* its outlier columns are those of the batch, not of a chunk */
                continue;
            double nll_sum, fvu;
            run_whole(ctx, &s, label, &nll_sum, &fvu);
            near("nll_sum", at(c, "nll_sum"), nll_sum, 0);
            near("fvu_dim", at(sae, "fvu_dim"), fvu, 0);
        }
        json_decref(swept);
        qsae_context_close(&ctx);
    }
}

static void check_labels(const json_t *result, const char *const *labels, size_t n)
{
    assert_int_equal(json_array_size(json_object_get(result, "conditions")), n);
    for (size_t i = 0; i < n; i++)
        assert_string_equal(text_at(condition_at(result, i), "label"), labels[i]);
}

/* What a condition becomes; parts without a matrix are left out. */
static void test_parts(void **state)
{
    (void)state;
    static const char *const modules[] = {
        "rtn:bits=4,axis=row,group=0,sym=1,arith=f32@layers=1-1@only=k_proj@skip=mlp|q_proj",
        "rtn:bits=4,axis=row,group=0,sym=1,arith=f32@layers=1-1@only=v_proj@skip=mlp|q_proj",
        "rtn:bits=4,axis=row,group=0,sym=1,arith=f32@layers=1-1@only=o_proj@skip=mlp|q_proj",
        "rtn:bits=4,axis=row,group=0,sym=1,arith=f32@only=head@with=head",
    };
    static const char *const kinds[] = {
        "control:gauss(rtn:bits=4,axis=row,group=0,sym=1,arith=f32@layers=0-1@only=q_proj"
        "+prune:sparsity=0.5,scope=tensor,ties=all)",
        "control:gauss(rtn:bits=4,axis=row,group=0,sym=1,arith=f32@layers=0-1@only=down_proj"
        "+prune:sparsity=0.5,scope=tensor,ties=all)",
    };
    static const char *const layers[] = {
        "none@layers=0-0@only=/layers\\.[03]\\./|o_proj+prune:pattern=2:4",
        "none@layers=1-1@only=/layers\\.[03]\\./|o_proj+prune:pattern=2:4",
    };
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    defaults(&s);
    s.max_tokens = 256;
    json_t *r = run_sweep(ctx, &s, "rtn:bits=4@layers=1-1@skip=q_proj|mlp@with=head",
                          QSAE_SWEEP_MODULES);
    const json_t *sweep = json_object_get(r, "sweep"), *parts = json_object_get(sweep, "parts");
    check_labels(r, modules, 4);
    assert_string_equal(text_at(sweep, "by"), "modules");
    assert_string_equal(text_at(json_array_get(parts, 1), "module"), "v_proj");
    near("layer", at(json_array_get(parts, 1), "layer"), 1, 0);
    assert_true(null_at(json_array_get(parts, 3), "layer"));
    json_decref(r);
    r = run_sweep(ctx, &s, "control:gauss(rtn:bits=4@layers=0-1@skip=nothing+prune:sparsity=0.5)",
                  QSAE_SWEEP_KINDS);
    assert_int_equal(json_array_size(json_object_get(r, "conditions")), 7);
    json_decref(r);
    r = run_sweep(ctx, &s, "control:gauss(rtn:bits=4@layers=0-1+prune:sparsity=0.5)",
                  QSAE_SWEEP_KINDS);
    assert_string_equal(text_at(condition_at(r, 0), "label"), kinds[0]);
    assert_string_equal(text_at(condition_at(r, 6), "label"), kinds[1]);
    json_decref(r);
    r = run_sweep(ctx, &s, "none@only=o_proj|/layers\\.[03]\\./@layers=0-1+prune:pattern=2:4",
                  QSAE_SWEEP_LAYERS);
    check_labels(r, layers, 2);
    json_decref(r);
    /* A list of one's own stays; other modules are skipped, parts without a matrix left out. */
    r = run_sweep(ctx, &s, "rtn:bits=4@only=/layers\\.[03]\\.mlp/", QSAE_SWEEP_KINDS);
    assert_int_equal(json_array_size(json_object_get(r, "conditions")), 3);
    near("matrices", at(condition_at(r, 0), "quantized_tensors"), 2, 0);
    json_decref(r);
    r = run_sweep(ctx, &s, "rtn:bits=4@only=/layers\\.[03]\\.mlp/", QSAE_SWEEP_MODULES);
    assert_int_equal(json_array_size(json_object_get(r, "conditions")), 6);
    json_decref(r);
    qsae_context_close(&ctx);
}

static double figure(const json_t *result, const json_t *index, const char *group, const char *key)
{
    const json_t *c = condition_at(result, (size_t)json_integer_value(index));
    if (group)
        c = json_array_get(json_object_get(c, "saes"), 0);
    if (group && *group)
        c = json_object_get(c, group);
    return at(c, key);
}

/* Costliest first; the smaller share of survivors is the costlier. */
static void test_ranking(void **state)
{
    (void)state;
    static const struct {
        const char *key, *group;
        int sign;
    } lists[] = { { "dce", NULL, 1 }, { "kl_mean", NULL, 1 }, { "fvu_dim", "", 1 },
                  { "ratio", "noise", 1 }, { "survived_percent", "survival", -1 } };
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    defaults(&s);
    s.max_tokens = 2048;
    json_t *r = run_sweep(ctx, &s, "rtn:bits=3", QSAE_SWEEP_LAYERS);
    const json_t *ranking = json_object_get(json_object_get(r, "sweep"), "ranking");
    const json_t *sae = json_array_get(json_object_get(ranking, "saes"), 0);
    for (size_t k = 0; k < sizeof lists / sizeof lists[0]; k++) {
        const json_t *list = json_object_get(lists[k].group ? sae : ranking, lists[k].key);
        unsigned seen = 0;
        assert_int_equal(json_array_size(list), 6);
        for (size_t i = 0; i < 6; i++) {
            const json_t *index = json_array_get(list, i), *next = json_array_get(list, i + 1);
            seen |= 1u << json_integer_value(index);
            if (next)
                assert_true(lists[k].sign * figure(r, index, lists[k].group, lists[k].key) >=
                            lists[k].sign * figure(r, next, lists[k].group, lists[k].key));
        }
        assert_int_equal(seen, 63);
    }
    json_decref(r);
    r = run_sweep(ctx, &s, "rtn:bits=3", QSAE_SWEEP_NONE);
    assert_true(null_at(r, "sweep"));
    json_decref(r);
    qsae_context_close(&ctx);
}

static void test_refused(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    qsae_audit *audit;
    static const struct {
        const char *condition, *part;
    } bad[] = {
        { "none", "changes no weights" },
        { "control:null", "changes no weights" },
        { "none+kv:k=q8_0", "changes no weights" },
        { "none+prune:match=3", "searched for" },
        { "nf4@layers=7-9", "no layer" },
        { "nf5", "nf5" },
    };
    defaults(&s);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        s.conditions = &bad[i].condition;
        s.n_conditions = 1;
        s.sweep = QSAE_SWEEP_LAYERS;
        assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_EINVAL, bad[i].part);
        assert_null(audit);
    }
    s.sweep = 4;
    assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_EINVAL, "sweep");
    qsae_context_close(&ctx);
}

/* ---- runs that are stopped ---- */

static void new_path(char *path)
{
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    unlink(path);
}

/* One run of s in one go, one that is stopped at `at` tokens of a phase and resumed in new handles:
 * the same document. */
static void check_resume(qsae_context *ctx, qsae_audit_settings *s, const char *phase, int64_t at)
{
    char path[] = "/tmp/qsae-sweep-XXXXXX";
    struct stop stop = { .at = at, .phase = phase };
    qsae_audit *audit;
    new_path(path);
    json_t *whole = run(ctx, s);
    assert_ok(qsae_cancel_token_open(&stop.token));
    s->state = path;
    s->cancel = stop.token;
    s->progress = stop_at;
    s->progress_cookie = &stop;
    assert_ok(qsae_audit_open(ctx, s, &audit));
    assert_fails(qsae_audit_run(audit), QSAE_ECANCELED, "canceled");
    json_decref(result_of(audit)); /* a document of what there is */
    qsae_audit_close(&audit);
    qsae_cancel_token_reset(stop.token);
    stop.at = INT64_MAX;
    json_t *resumed = run(ctx, s), *again = run(ctx, s);
    strip(whole);
    strip(resumed);
    strip(again);
    assert_true(json_equal(whole, resumed));
    assert_true(json_equal(whole, again));
    json_decref(whole);
    json_decref(resumed);
    json_decref(again);
    unlink(path);
    s->state = NULL;
    s->cancel = NULL;
    s->progress = NULL;
    qsae_cancel_token_close(&stop.token);
}

static void test_sweep_resume(void **state)
{
    (void)state;
    const char *const conditions[] = { "llm.int8", DATA "/tiny-gemma3" };
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    defaults(&s);
    s.max_tokens = 4096;
    s.conditions = conditions;
    s.n_conditions = 2;
    s.sweep = QSAE_SWEEP_KINDS;
    check_resume(ctx, &s, NULL, 2048);
    qsae_context_close(&ctx);
}

/* ---- matched pruning ---- */

#define SEARCH 2048 /* tokens the search looks at */

static double ppl_of(qsae_context *ctx, const char *condition, int64_t tokens)
{
    qsae_audit_settings s;
    defaults(&s);
    s.n_saes = 0;
    s.max_tokens = tokens;
    s.conditions = &condition;
    s.n_conditions = 1;
    json_t *result = run(ctx, &s);
    const double ppl = at(condition_at(result, 0), "ppl");
    json_decref(result);
    return ppl;
}

/* The search of methods.md 3.3, every step a run of its own. */
static void check_search(qsae_context *ctx, const json_t *condition, double target,
                         const char *format)
{
    const json_t *match = json_object_get(condition, "match");
    const json_t *visited = json_object_get(match, "visited");
    double low = 0, high = 0.8, best = 0, distance = INFINITY;
    near("target", at(match, "target"), target, 0);
    near("tokens", at(match, "tokens"), SEARCH, 0);
    assert_int_equal(json_array_size(visited), 6);
    for (size_t i = 0; i < 6; i++) {
        const json_t *pair = json_array_get(visited, i);
        const double middle = (low + high) / 2,
                     sparsity = json_number_value(json_array_get(pair, 0));
        char text[160];
        near("sparsity", sparsity, middle, 1e-12);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(text, sizeof text, format, middle);
#pragma GCC diagnostic pop
        const double ppl = ppl_of(ctx, text, SEARCH);
        near("ppl", json_number_value(json_array_get(pair, 1)), ppl, 0);
        if (fabs(ppl - target) < distance) {
            distance = fabs(ppl - target);
            best = sparsity;
        }
        low = ppl < target ? middle : low;
        high = ppl < target ? high : middle;
    }
    near("chosen", at(match, "chosen"), best, 0);
    near("sparsity", at(condition, "sparsity"), best, 0);
}

static void test_match(void **state)
{
    (void)state;
    static const char *const conditions[] = {
        "rtn:bits=3",
        "none+prune:match=(rtn:bits=3),tokens=1800", /* the batch that reaches them is whole */
        "rtn:bits=8@only=mlp+prune:match=2.5,scope=row,tokens=2048",
    };
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    defaults(&s);
    s.max_tokens = 3072;
    s.batch = 2;
    s.conditions = conditions;
    s.n_conditions = 3;
    json_t *result = run(ctx, &s);
    const json_t *by_spec = condition_at(result, 1), *by_number = condition_at(result, 2);
    assert_true(null_at(condition_at(result, 0), "match"));
    assert_true(null_at(condition_at(result, 0), "sparsity"));
    check_search(ctx, by_spec, ppl_of(ctx, "rtn:bits=3", SEARCH), "none+prune:sparsity=%.4f");
    check_search(ctx, by_number, 2.5, "rtn:bits=8@only=mlp+prune:sparsity=%.4f,scope=row");
    /* What was found is an ordinary condition. */
    const char *label = text_at(by_spec, "label");
    assert_non_null(strstr(label, "prune:sparsity="));
    assert_non_null(strstr(text_at(json_object_get(by_spec, "match"), "condition"), "match=(rtn"));
    s.conditions = &label;
    s.n_conditions = 1;
    json_t *alone = run(ctx, &s);
    json_t *c = condition_at(alone, 0);
    strip(result);
    strip(alone);
    json_object_set(c, "match", json_object_get(by_spec, "match"));
    assert_true(json_equal(c, by_spec));
    json_decref(alone);
    json_decref(result);
    qsae_context_close(&ctx);
}

/* Stopped in the first search, in the second, and while measuring. */
static void test_match_resume(void **state)
{
    (void)state;
    static const char *const conditions[] = { "none+prune:match=2.4,tokens=512",
                                              "none+prune:match=(nf4),tokens=512", "nf4" };
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    defaults(&s);
    s.max_tokens = 3072;
    s.conditions = conditions;
    s.n_conditions = 3;
    check_resume(ctx, &s, "match", 1500);
    check_resume(ctx, &s, "match", 3450); /* more than the first search has in all */
    check_resume(ctx, &s, "measure", 1024);
    qsae_context_close(&ctx);
}

/* The null control runs every layer and is exactly the reference. */
static void test_null(void **state)
{
    (void)state;
    static const char *const conditions[] = { "control:null", "none@compute=bf16" };
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    defaults(&s);
    s.max_tokens = 2048;
    s.conditions = conditions;
    s.n_conditions = 2;
    json_t *result = run(ctx, &s);
    const json_t *c = condition_at(result, 0);
    const json_t *sae = json_array_get(json_object_get(c, "saes"), 0);
    assert_string_equal(text_at(c, "label"), "control:null");
    near("kl", at(c, "kl_max"), 0, 0);
    near("dce", at(c, "dce"), 0, 0);
    near("dnll", at(c, "dnll_max"), 0, 0);
    near("top", at(c, "top1_agreement"), 1, 0);
    near("drift", at(json_object_get(sae, "noise"), "p"), 0, 0);
    near("dfvu", at(sae, "dfvu_dim"), 0, 0);
    near("survived", at(json_object_get(sae, "survival"), "survived_percent"), 100, 0);
    assert_true(null_at(c, "checkpoint"));
    assert_true(at(condition_at(result, 1), "kl_mean") > 0); /* another arithmetic is no control */
    json_decref(result);
    qsae_context_close(&ctx);
}

/* LLM.int8: what each linear layer met, and what the cache takes. */
static void test_layers(void **state)
{
    (void)state;
    static const char *const conditions[] = { "llm.int8@only=down_proj|q_proj",
                                              "nf4+kv:k=q8_0,v=q8_0" };
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    defaults(&s);
    s.max_tokens = 2048;
    s.conditions = conditions;
    s.n_conditions = 2;
    json_t *result = run(ctx, &s);
    const json_t *c = condition_at(result, 0), *layers = json_object_get(c, "layers"), *l;
    size_t i;
    double columns = 0;
    assert_int_equal(json_array_size(layers), 12);
    json_array_foreach(layers, i, l) {
        const double inputs = strstr(text_at(l, "name"), "down_proj") ? 384 : 128;
        near("calls", at(l, "calls"), 2, 0);
        near("share", at(l, "outlier_share"), at(l, "outlier_columns") / 2 / inputs, 1e-15);
        columns += at(l, "outlier_columns");
    }
    near("columns", columns, at(json_object_get(c, "outliers"), "outlier_columns_total"), 0);
    near("kv", at(condition_at(result, 1), "kv_bits_per_value"), 8.5, 0);
    assert_int_equal(json_array_size(json_object_get(condition_at(result, 1), "layers")), 0);
    json_decref(result);
    qsae_context_close(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sweep_equals_single), cmocka_unit_test(test_parts),
        cmocka_unit_test(test_ranking),             cmocka_unit_test(test_refused),
        cmocka_unit_test(test_sweep_resume),        cmocka_unit_test(test_match),
        cmocka_unit_test(test_match_resume),        cmocka_unit_test(test_null),
        cmocka_unit_test(test_layers),
    };
    return cmocka_run_group_tests_name("sweep", tests, NULL, NULL);
}
