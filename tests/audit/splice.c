/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Editors: the residual rows of layer 2 replaced by SAE(x), by zero and by their mean, against the
 * spliced cross-entropies of golden.json (transformers with a forward hook, SAELens). An audit's
 * own splices against the same, and against editors.
 */
#include <unistd.h>

#include "document.h"

#define SAES QSAE_TEST_SHARED "/data/stories260k-saes"
#define MODEL QSAE_TEST_SHARED "/data/stories260k"
#define LAYER 2

static const struct {
    const char *name, *spec;
} conditions[] = {
    { "f32", "none" },
    { "bf16", "none@compute=bf16" },
    { "int8_cuda_bf16", "llm.int8:threshold=6,rules=cuda@compute=bf16" },
    { "nf4_cuda_f32", "nf4:block=64,double=1,rules=cuda" },
    { "rtn4", "rtn:bits=4" },
};

/* What takes the place of the rows: an SAE's reconstruction, or one vector (NULL: zero). */
struct splice {
    qsae_sae *sae;
    const double *mean;
    double *sum;          /* gathers the rows' sum instead, if set */
};

static int32_t edit(void *cookie, int32_t layer, int32_t site, qsae_rows *rows)
{
    const struct splice *s = cookie;
    float *x = rows->data;
    (void)layer;
    (void)site;
    if (s->sae) { /* a separate output: the input must stay whole while it is read */
        qsae_rows out = *rows;
        out.data = malloc((size_t)(rows->n_rows * rows->n_cols) * sizeof(float));
        out.row_stride = rows->n_cols;
        if (!out.data)
            return QSAE_ENOMEM;
        const int32_t st = qsae_sae_reconstruct(s->sae, rows, &out);
        if (st == QSAE_OK)
            memcpy(x, out.data, (size_t)(rows->n_rows * rows->n_cols) * sizeof(float));
        free(out.data);
        return st;
    }
    for (int64_t r = 0; r < rows->n_rows; r++)
        for (int64_t d = 0; d < rows->n_cols; d++) {
            float *v = x + r * rows->row_stride + d;
            if (s->sum)
                s->sum[d] += (double)*v;
            else
                *v = s->mean ? (float)s->mean[d] : 0.0f;
        }
    return QSAE_OK;
}

/* Cross-entropy over the corpus, batches of four chunks. */
static double cross_entropy(qsae_model *model, const qsae_corpus *corpus, struct splice *splice)
{
    qsae_corpus_info info = { .struct_size = sizeof info };
    assert_ok(qsae_corpus_get_info(corpus, &info));
    int32_t *ids = malloc(4 * 512 * sizeof *ids);
    float *nll = malloc(4 * 512 * sizeof *nll);
    assert_true(ids && nll);
    double sum = 0;
    int64_t count = 0;
    qsae_tap tap = { .struct_size = sizeof tap, .layer = LAYER, .site = QSAE_SITE_RESID_POST,
                     .edit = edit, .cookie = splice };
    for (int64_t c = 0; c < info.chunks; c += 4) {
        qsae_pass pass;
        qsae_pass_init(&pass, sizeof pass);
        pass.n_tokens = 512;
        for (pass.n_seq = 0; pass.n_seq < 4 && c + pass.n_seq < info.chunks; pass.n_seq++) {
            const int32_t *chunk, *labels;
            const int64_t *document;
            int64_t n;
            assert_ok(qsae_corpus_chunk(corpus, c + pass.n_seq, &chunk, &labels, &document, &n));
            assert_int_equal(n, 512);
            memcpy(ids + pass.n_seq * 512, chunk, 512 * sizeof *ids);
        }
        pass.ids = ids;
        pass.nll = nll;
        pass.taps = &tap;
        pass.n_taps = 1;
        assert_ok(qsae_model_forward(model, &pass));
        for (int64_t i = 0; i < pass.n_seq * 512; i++)
            if (!isnan(nll[i])) {
                sum += (double)nll[i];
                count++;
            }
    }
    free(ids);
    free(nll);
    return sum / (double)count;
}

/* Tolerance: golden.json's order-only spread of the condition's own ce, four times, and a floor for
 * a few features next to their threshold; another 1e-4 where the condition rounds activations, as
 * the reconstruction that takes their place passes the same roundings again. */
static void check(const char *name, const char *key, double got, const json_t *condition)
{
    const json_t *values = json_object_get(condition, "values");
    const double want = at(json_object_get(values, "spliced"), key);
    const double spread = at(json_object_get(condition, "spread"), "ce");
    const double tolerance = 4 * spread + 5e-6 * want + (spread > 1e-6 ? 1e-4 : 0);
    if (!(fabs(got - want) <= tolerance))
        fail_msg("%s %s: expected %.9f within %.1e, found %.9f", name, key, want, tolerance, got);
}

static void test_splice(void **state)
{
    (void)state;
    static const char *const names[] = { "jumprelu", "topk", "standard" };
    json_error_t error;
    json_t *golden = json_load_file(SAES "/golden.json", 0, &error);
    if (!golden) {
        printf("skipped: no reference data beside the source tree (shared/data)\n");
        skip();
    }
    qsae_context *ctx = open_context(NULL, 2);
    qsae_tokenizer *tokenizer;
    qsae_corpus *corpus;
    qsae_corpus_settings cs;
    qsae_weights *weights;
    qsae_corpus_settings_init(&cs, sizeof cs);
    cs.bos_policy = QSAE_BOS_DOC_START;
    assert_ok(qsae_tokenizer_open(ctx, MODEL, &tokenizer));
    assert_ok(qsae_corpus_open(ctx, tokenizer, MODEL "/tinystories-valid.txt", &cs, &corpus));
    assert_ok(qsae_weights_open(ctx, MODEL, &weights));
    for (size_t i = 0; i < sizeof conditions / sizeof conditions[0]; i++) {
        const json_t *c =
            json_object_get(json_object_get(golden, "conditions"), conditions[i].name);
        qsae_model *model;
        qsae_model_settings s;
        double mean[64] = { 0 };
        qsae_model_settings_init(&s, sizeof s);
        s.condition = conditions[i].spec;
        assert_ok(qsae_model_open(weights, &s, &model));
        for (int k = 0; k < 3; k++) {
            char path[512], key[32];
            struct splice splice = { 0 };
            if (!full_length() && k != (int)i % 3) /* each SAE, each condition; not all pairs */
                continue;
            snprintf(path, sizeof path, "%s/%s", SAES, names[k]);
            snprintf(key, sizeof key, "ce_sae_%s", names[k]);
            assert_ok(qsae_sae_open(ctx, path, NULL, &splice.sae));
            check(conditions[i].name, key, cross_entropy(model, corpus, &splice), c);
            qsae_sae_close(&splice.sae);
        }
        struct splice gather = { .sum = mean }, zero = { 0 }, middle = { .mean = mean };
        if (!full_length() && i != 0 && i != 2) {
            qsae_model_close(&model);
            continue;
        }
        check(conditions[i].name, "ce_zero", cross_entropy(model, corpus, &zero), c);
        (void)cross_entropy(model, corpus, &gather);
        for (int d = 0; d < 64; d++)
            mean[d] /= 44032;
        check(conditions[i].name, "ce_mean", cross_entropy(model, corpus, &middle), c);
        qsae_model_close(&model);
    }
    qsae_weights_close(&weights);
    qsae_corpus_close(&corpus);
    qsae_tokenizer_close(&tokenizer);
    qsae_context_close(&ctx);
    json_decref(golden);
}

/* What NF4 and INT4 damage in common, as golden.json has it the other way round. */
static void check_overlap(const json_t *result, const json_t *golden)
{
    const json_t *got = json_array_get(json_object_get(result, "overlaps"), 0);
    const json_t *want =
        json_object_get(json_object_get(golden, "overlap_jumprelu"), "rtn4_vs_nf4_cuda_f32");
    const json_t *g = json_object_get(got, "non_survivors"),
                 *w = json_object_get(want, "non_survivors");
    assert_string_equal(text_at(got, "name"), "jumprelu");
    near("a", at(g, "a"), at(w, "b"), 0);
    near("b", at(g, "b"), at(w, "a"), 0);
    near("both", at(g, "both"), at(w, "both"), 0);
    near("union", at(g, "union"), at(w, "union"), 0);
    near("jaccard", at(g, "jaccard"), at(w, "jaccard"), 1e-12);
    near("ceiling", at(g, "ceiling"), at(w, "ceiling"), 1e-12);
    near("chance", at(g, "chance"), at(w, "chance"), 1e-12);
    assert_true(null_at(json_object_get(got, "damaged"), "jaccard"));
    near("pearson", at(got, "damage_pearson"), at(want, "damage_pearson"), 1e-4);
    near("spearman", at(got, "damage_spearman"), at(want, "damage_spearman"), 1e-3);
}

/* The audit's splices on golden.json's data. */
static void test_audit_golden(void **state)
{
    (void)state;
    static const char *const names[] = { "jumprelu", "topk", "standard" };
    static const char *const paths[] = { SAES "/jumprelu", SAES "/topk", SAES "/standard" };
    static const char *const specs[] = { "nf4:block=64,double=1,rules=cuda", "rtn:bits=4" };
    static const char *const keys[] = { "f32", "nf4_cuda_f32", "rtn4" };
    json_error_t error;
    json_t *golden = json_load_file(SAES "/golden.json", 0, &error);
    if (!golden) {
        printf("skipped: no reference data beside the source tree (shared/data)\n");
        skip();
    }
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    qsae_audit_settings_init(&s, sizeof s);
    s.model = MODEL;
    s.text = MODEL "/tinystories-valid.txt";
    s.profile = QSAE_PROFILE_ARTICLE;
    s.compute = QSAE_COMPUTE_F32;
    s.saes = paths;
    s.n_saes = 3;
    s.conditions = specs;
    s.n_conditions = 2;
    s.splice = 1;
    json_t *result = run(ctx, &s);
    for (size_t i = 0; i < 3; i++) {
        const json_t *who = i ? condition_at(result, i - 1) : json_object_get(result, "reference");
        const json_t *c = json_object_get(json_object_get(golden, "conditions"), keys[i]);
        const json_t *want = json_object_get(json_object_get(c, "values"), "spliced");
        for (size_t k = 0; k < 3; k++) {
            const json_t *sae = json_array_get(json_object_get(who, "saes"), k);
            const json_t *got = json_object_get(sae, "splice");
            char key[64];
            snprintf(key, sizeof key, "ce_sae_%s", names[k]);
            check(keys[i], key, at(got, "ce_sae"), c);
            check(keys[i], "ce_zero", at(got, "ce_zero"), c);
            snprintf(key, sizeof key, "loss_recovered_%s", names[k]);
            near(key, at(got, "ce_recovered"), at(want, key), 1e-6);
            near("ce", at(got, "ce"), at(who, "ce"), 1e-12);
            assert_true(at(got, "kl_sae") > 0 && at(got, "kl_sae") < at(got, "kl_zero"));
        }
    }
    check_overlap(result, golden);
    json_decref(result);
    json_decref(golden);
    qsae_context_close(&ctx);
}

/* Chunks of the bundled text whose rows at the SAE's place are replaced as the default profile has
 * it: the first position of a chunk keeps its row, but where all are zero. */
struct ablation {
    qsae_sae *sae;        /* NULL: zero */
};

static int32_t ablate(void *cookie, int32_t layer, int32_t site, qsae_rows *rows)
{
    const struct ablation *const a = cookie;
    float first[4][1024];
    float *const x = rows->data;
    (void)layer;
    (void)site;
    assert_true(rows->n_rows <= 4 * 256 && rows->n_cols <= 1024);
    for (int64_t c = 0; c < rows->n_rows / 256; c++)
        memcpy(first[c], x + c * 256 * rows->row_stride, (size_t)rows->n_cols * sizeof *x);
    if (!a->sae) {
        for (int64_t r = 0; r < rows->n_rows; r++)
            memset(x + r * rows->row_stride, 0, (size_t)rows->n_cols * sizeof *x);
        return QSAE_OK;
    }
    struct splice all = { .sae = a->sae };
    const int32_t st = edit(&all, layer, site, rows);
    for (int64_t c = 0; c < rows->n_rows / 256; c++)
        memcpy(x + c * 256 * rows->row_stride, first[c], (size_t)rows->n_cols * sizeof *x);
    return st;
}

/* Mean nll over positions that are scored: with a label, and not first. */
static double ablated(qsae_model *model, const qsae_corpus *corpus, int32_t layer,
                      struct ablation *a)
{
    qsae_corpus_info info = { .struct_size = sizeof info };
    qsae_tap tap = { .struct_size = sizeof tap, .layer = layer, .site = QSAE_SITE_RESID_POST,
                     .edit = ablate, .cookie = a };
    static float nll[256];
    double sum = 0;
    int64_t n = 0;
    assert_ok(qsae_corpus_get_info(corpus, &info));
    for (int64_t c = 0; c < info.chunks; c++) {
        const int32_t *ids, *labels;
        const int64_t *document;
        int64_t tokens;
        qsae_pass pass;
        qsae_pass_init(&pass, sizeof pass);
        assert_ok(qsae_corpus_chunk(corpus, c, &ids, &labels, &document, &tokens));
        assert_int_equal(tokens, 256);
        pass.ids = ids;
        pass.labels = labels;
        pass.n_seq = 1;
        pass.n_tokens = 256;
        pass.nll = nll;
        pass.taps = &tap;
        pass.n_taps = 1;
        assert_ok(qsae_model_forward(model, &pass));
        for (int64_t i = 1; i < 256; i++)
            if (!isnan(nll[i])) {
                sum += (double)nll[i];
                n++;
            }
    }
    return sum / (double)n;
}

static void test_audit_editors(void **state)
{
    (void)state;
    static const char *const specs[] = { "rtn:bits=4" };
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    qsae_tokenizer *tokenizer;
    qsae_corpus *corpus;
    qsae_corpus_settings cs;
    qsae_weights *weights;
    struct ablation zero = { NULL }, sae = { NULL };
    defaults(&s);
    s.profile = QSAE_PROFILE_DEFAULT;
    s.max_tokens = 5000;
    s.conditions = specs;
    s.n_conditions = 1;
    s.splice = 1;
    json_t *result = run(ctx, &s);
    qsae_corpus_settings_init(&cs, sizeof cs);
    cs.context = 256;
    cs.max_tokens = 5000;
    assert_ok(qsae_tokenizer_open(ctx, s.model, &tokenizer));
    assert_ok(qsae_corpus_open(ctx, tokenizer, s.text, &cs, &corpus));
    assert_ok(qsae_weights_open(ctx, s.model, &weights));
    assert_ok(qsae_sae_open(ctx, sae_path, NULL, &sae.sae));
    for (int i = 0; i < 2; i++) {
        const json_t *who = i ? condition_at(result, 0) : json_object_get(result, "reference");
        const json_t *o = json_array_get(json_object_get(who, "saes"), 0);
        const json_t *got = json_object_get(o, "splice");
        const int32_t layer = (int32_t)at(o, "layer");
        qsae_model *model;
        qsae_model_settings m;
        qsae_model_settings_init(&m, sizeof m);
        m.condition = i ? specs[0] : NULL;
        assert_ok(qsae_model_open(weights, &m, &model));
        near("ce_sae", at(got, "ce_sae"), ablated(model, corpus, layer, &sae), 1e-9);
        near("ce_zero", at(got, "ce_zero"), ablated(model, corpus, layer, &zero), 1e-9);
        assert_true(at(got, "ce") < at(got, "ce_sae") && at(got, "ce_sae") < at(got, "ce_zero"));
        qsae_model_close(&model);
    }
    json_decref(result);
    qsae_sae_close(&sae.sae);
    qsae_weights_close(&weights);
    qsae_corpus_close(&corpus);
    qsae_tokenizer_close(&tokenizer);
    qsae_context_close(&ctx);
}

/* Splices change no other figure, and a stopped run ends with the same document. */
static void test_audit_resume(void **state)
{
    (void)state;
    static const char *const specs[] = { "llm.int8@compute=bf16", "nf4@layers=1" };
    static const char *const slices[] = { "class", "length" };
    char path[] = "/tmp/qsae-splice-XXXXXX";
    const int fd = mkstemp(path);
    struct stop stop = { .at = 2048 };
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    qsae_audit *audit;
    assert_true(fd >= 0);
    close(fd);
    unlink(path);
    assert_ok(qsae_cancel_token_open(&stop.token));
    defaults(&s);
    s.max_tokens = 5000;
    s.conditions = specs;
    s.n_conditions = 2;
    s.slices = slices;
    s.n_slices = 2;
    json_t *plain = run(ctx, &s);
    s.splice = 1;
    json_t *whole = run(ctx, &s);
    s.state = path;
    s.cancel = stop.token;
    s.progress = stop_at;
    s.progress_cookie = &stop;
    assert_ok(qsae_audit_open(ctx, &s, &audit));
    assert_fails(qsae_audit_run(audit), QSAE_ECANCELED, "canceled");
    qsae_audit_close(&audit);
    qsae_cancel_token_reset(stop.token);
    stop.at = INT64_MAX;
    json_t *resumed = run(ctx, &s);
    strip(plain);
    strip(whole);
    strip(resumed);
    assert_true(json_equal(whole, resumed));
    s.splice = 0; /* another measurement: the state does not hold it */
    assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_EMISMATCH, "another measurement");
    json_object_del(plain, "fingerprint");
    json_object_del(whole, "fingerprint");
    for (int i = 0; i < 3; i++) {
        json_t *who = i ? condition_at(whole, (size_t)i - 1) : json_object_get(whole, "reference");
        json_t *sae = json_array_get(json_object_get(who, "saes"), 0);
        assert_true(json_is_object(json_object_get(sae, "splice")));
        json_object_set_new(sae, "splice", json_null());
    }
    assert_true(json_equal(plain, whole));
    s.splice = 1;
    s.n_saes = 0;
    assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_EINVAL, "splice");
    json_decref(plain);
    json_decref(whole);
    json_decref(resumed);
    unlink(path);
    qsae_cancel_token_close(&stop.token);
    qsae_context_close(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_splice),
        cmocka_unit_test(test_audit_golden),
        cmocka_unit_test(test_audit_editors),
        cmocka_unit_test(test_audit_resume),
    };
    return cmocka_run_group_tests_name("splice", tests, NULL, NULL);
}
