/* SPDX-License-Identifier: BSD-2-Clause */
/* Noise controls: the numeric floor, rows of other documents, what they say about conditions. */
#include "document.h"

#define CONTEXT 128
#define CHUNKS 4
#define WIDTH 128

static const json_t *sae_of(const json_t *entry)
{
    return json_array_get(json_object_get(entry, "saes"), 0);
}

static const json_t *labeled(const json_t *result, const char *label)
{
    size_t i;
    json_t *c;
    json_array_foreach(json_object_get(result, "conditions"), i, c)
        if (strcmp(text_at(c, "label"), label) == 0)
            return c;
    fail_msg("no condition %s", label);
    return NULL;
}

static void settings_of(qsae_audit_settings *s, int64_t tokens)
{
    defaults(s);
    s->profile = QSAE_PROFILE_DEFAULT;
    s->context = CONTEXT;
    s->max_tokens = tokens;
    s->controls = 1;
}

/* Every condition has its own controls, and the run the others. */
static void test_list(void **state)
{
    (void)state;
    static const char *const conditions[] = { "rtn:bits=3@only=mlp", "none+kv:k=q8_0",
                                              "nf4@compute=bf16", "control:null" };
    static const char *const labels[] = {
        "control:gauss(rtn:bits=3,axis=row,group=0,sym=1,arith=f32@only=mlp)",
        "control:permute(rtn:bits=3,axis=row,group=0,sym=1,arith=f32@only=mlp)",
        "control:gauss(nf4:block=64,double=1,compute=model,rules=cuda)@compute=bf16",
        "control:permute(nf4:block=64,double=1,compute=model,rules=cuda)@compute=bf16",
        "control:floor", "control:shuffle"
    };
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    settings_of(&s, 512);
    s.conditions = conditions;
    s.n_conditions = 4;
    json_t *result = run(ctx, &s);
    assert_int_equal(json_array_size(json_object_get(result, "conditions")), 10);
    for (size_t i = 0; i < 6; i++)
        assert_string_equal(text_at(condition_at(result, 4 + i), "label"), labels[i]);
    const json_t *c = json_object_get(condition_at(result, 0), "controls");
    assert_string_equal(text_at(json_object_get(c, "gauss"), "label"), labels[0]);
    assert_string_equal(text_at(json_object_get(c, "permute"), "label"), labels[1]);
    near("dce", at(json_object_get(c, "gauss"), "dce"), at(labeled(result, labels[0]), "dce"), 0);
    c = json_object_get(condition_at(result, 1), "controls"); /* changes no weights */
    assert_true(null_at(c, "gauss") && null_at(c, "permute"));
    assert_string_equal(text_at(json_object_get(c, "floor"), "label"), "control:floor");
    assert_true(null_at(condition_at(result, 3), "controls"));
    /* Verdicts are about what is no control. */
    const json_t *v = json_array_get(json_object_get(result, "verdicts"), 0);
    assert_true(at(v, "min_ratio") > 0);
    json_decref(result);
    s.sweep = QSAE_SWEEP_LAYERS;
    qsae_audit *audit;
    assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_EINVAL, "controls");
    qsae_context_close(&ctx);
}

/* null is nothing, floor next to nothing, and a coarse code beyond both. */
static void test_figures(void **state)
{
    (void)state;
    static const char *const conditions[] = { "rtn:bits=3", "rtn:bits=8@only=down_proj@layers=5" };
    qsae_context *ctx = open_context(NULL, 2);
    for (int32_t compute = QSAE_COMPUTE_F32; compute <= QSAE_COMPUTE_BF16; compute++) {
        qsae_audit_settings s;
        settings_of(&s, 4096);
        s.context = 256;
        s.compute = compute;
        s.conditions = conditions;
        s.n_conditions = 2;
        json_t *result = run(ctx, &s);
        const json_t *c = condition_at(result, 0), *null = labeled(result, "control:null"),
                     *floor = labeled(result, "control:floor"),
                     *shuffle = labeled(result, "control:shuffle");
        near("null: kl", at(null, "kl_max"), 0, 0);
        near("null: dce", at(null, "dce"), 0, 0);
        near("null: r", at(json_object_get(sae_of(null), "survival"), "min_r"), 1, 0);
        near("null: P", at(json_object_get(sae_of(null), "noise"), "p"), 0, 0);
        const double kl = at(floor, "kl_mean"),
                     p = at(json_object_get(sae_of(floor), "noise"), "p"),
                     below = compute == QSAE_COMPUTE_F32 ? 1e6 : 100;
        assert_true(kl != 0 && fabs(kl) < at(c, "kl_mean") / below);
        assert_true(p > 0 && p < (compute == QSAE_COMPUTE_F32 ? 1e-5 : 3e-2));
        near("shuffle: kl", at(shuffle, "kl_max"), 0, 0);
        near("shuffle: fvu", at(sae_of(shuffle), "dfvu_dim"), 0, 0);
        const json_t *survival = json_object_get(sae_of(shuffle), "survival");
        assert_true(fabs(at(survival, "median_r")) < 0.02 && at(survival, "mean_r") < 0.05);
        near("shuffle: survived", at(survival, "survived"), 0, 0);
        const json_t *controls = json_object_get(c, "controls"),
                     *beyond = json_object_get(controls, "beyond_floor"),
                     *of_sae = json_array_get(json_object_get(beyond, "saes"), 0);
        assert_true(json_is_true(json_object_get(beyond, "kl_mean")));
        assert_true(json_is_true(json_object_get(of_sae, "survived_percent")));
        assert_true(json_is_true(json_object_get(of_sae, "dfvu_dim")));
        /* The last layer's rounding to eight bits reaches no SAE below. */
        of_sae = json_array_get(json_object_get(json_object_get(json_object_get(
            condition_at(result, 1), "controls"), "beyond_floor"), "saes"), 0);
        assert_true(json_is_false(json_object_get(of_sae, "survived_percent")));
        assert_true(json_is_false(json_object_get(of_sae, "dfvu_dim")));
        json_decref(result);
    }
    qsae_context_close(&ctx);
}

/* ---- shuffled rows, paired here by trying every row ---- */

struct taken {
    float x[CHUNKS * CONTEXT][WIDTH];
};

static int32_t observe(void *cookie, int32_t layer, int32_t site, const qsae_rows *rows)
{
    struct taken *const t = cookie;
    const float *const data = rows->data;
    (void)layer;
    (void)site;
    for (int64_t i = 0; i < rows->n_rows; i++)
        memcpy(t->x[i], data + i * rows->row_stride, sizeof t->x[i]);
    return 0;
}

static double expected_delta2(qsae_context *ctx, const qsae_audit_settings *s, double *tokens)
{
    static struct taken t;
    qsae_tokenizer *tokenizer;
    qsae_corpus *corpus;
    qsae_corpus_settings cs;
    qsae_weights *weights;
    qsae_model *model;
    int32_t ids[CHUNKS * CONTEXT];
    int64_t document[CHUNKS * CONTEXT], counted[CHUNKS * CONTEXT], m = 0;
    double sum = 0;
    qsae_corpus_settings_init(&cs, sizeof cs);
    cs.context = CONTEXT;
    cs.max_tokens = s->max_tokens;
    cs.bos_policy = QSAE_BOS_CHUNK_START;
    assert_ok(qsae_tokenizer_open(ctx, s->model, &tokenizer));
    assert_ok(qsae_corpus_open(ctx, tokenizer, s->text, &cs, &corpus));
    for (int64_t c = 0; c < CHUNKS; c++) {
        const int32_t *chunk, *labels;
        const int64_t *documents;
        int64_t n;
        assert_ok(qsae_corpus_chunk(corpus, c, &chunk, &labels, &documents, &n));
        assert_int_equal(n, CONTEXT);
        memcpy(ids + c * CONTEXT, chunk, sizeof *ids * CONTEXT);
        memcpy(document + c * CONTEXT, documents, sizeof *document * CONTEXT);
        for (int64_t i = 1; i < n; i++) /* the first position counts nowhere */
            counted[m++] = c * CONTEXT + i;
    }
    const qsae_tap tap = { .struct_size = sizeof tap, .layer = 3, .site = QSAE_SITE_RESID_POST,
                           .observe = observe, .cookie = &t };
    qsae_pass p;
    qsae_pass_init(&p, sizeof p);
    p.ids = ids;
    p.n_seq = CHUNKS;
    p.n_tokens = CONTEXT;
    p.taps = &tap;
    p.n_taps = 1;
    assert_ok(qsae_weights_open(ctx, s->model, &weights));
    assert_ok(qsae_model_open(weights, NULL, &model));
    assert_ok(qsae_model_forward(model, &p));
    *tokens = 0;
    for (int64_t k = 0; k < m; k++) {
        const int64_t own = document[counted[k]];
        int64_t tries = 0, j = (k + m / 2 + 1) % m;
        for (; tries < m && document[counted[j]] == own; tries++)
            j = (j + 1) % m;
        if (tries == m)
            continue;
        *tokens += 1;
        for (int i = 0; i < WIDTH; i++) {
            const double d = (double)t.x[counted[j]][i] - t.x[counted[k]][i];
            sum += d * d;
        }
    }
    qsae_model_close(&model);
    qsae_weights_close(&weights);
    qsae_corpus_close(&corpus);
    qsae_tokenizer_close(&tokenizer);
    return sum;
}

static void test_shuffle(void **state)
{
    (void)state;
    static const char *const condition = "control:shuffle";
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    double tokens;
    settings_of(&s, CHUNKS * CONTEXT);
    s.controls = 0;
    s.conditions = &condition;
    s.n_conditions = 1;
    for (int k = 0; k < 2; k++) { /* one document alone has nobody to be paired with */
        s.documents_from = k ? 3 : 0;
        s.documents_to = k ? 4 : 0;
        json_t *result = run(ctx, &s);
        const json_t *noise = json_object_get(sae_of(condition_at(result, 0)), "noise");
        if (k) {
            near("tokens", at(noise, "tokens"), 0, 0);
            assert_true(null_at(noise, "p"));
        } else {
            const double want = expected_delta2(ctx, &s, &tokens);
            near("sum_delta2", at(noise, "sum_delta2"), want, 1e-9 * want);
            near("tokens", at(noise, "tokens"), tokens, 0);
            assert_true(tokens == CHUNKS * (CONTEXT - 1));
        }
        json_decref(result);
    }
    qsae_context_close(&ctx);
}

/* Threads, streaming and a stop change nothing. */
static void test_same(void **state)
{
    (void)state;
    static const char *const condition = "rtn:bits=4";
    json_t *first = NULL;
    for (int k = 0; k < 2; k++) {
        qsae_context *ctx = open_context(NULL, k ? 3 : 1);
        qsae_audit_settings s;
        settings_of(&s, 1024);
        s.conditions = &condition;
        s.n_conditions = 1;
        s.memory = k ? QSAE_MEMORY_STREAMED : QSAE_MEMORY_RESIDENT;
        s.stream_bytes = 1;
        json_t *result = run(ctx, &s);
        strip(result);
        assert_true(!first || json_equal(first, result));
        json_decref(first);
        first = result;
        qsae_context_close(&ctx);
    }
    json_decref(first);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_list), cmocka_unit_test(test_figures),
                                        cmocka_unit_test(test_shuffle),
                                        cmocka_unit_test(test_same) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
