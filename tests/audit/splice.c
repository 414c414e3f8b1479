/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Editors: the residual rows of layer 2 replaced by SAE(x), by zero and by their mean, against the
 * spliced cross-entropies of golden.json (transformers with a forward hook, SAELens).
 */
#include <math.h>
#include <stdlib.h>

#include <jansson.h>

#include "../support.h"

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

static double at(const json_t *o, const char *key)
{
    return json_number_value(json_object_get(o, key));
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
            snprintf(path, sizeof path, "%s/%s", SAES, names[k]);
            snprintf(key, sizeof key, "ce_sae_%s", names[k]);
            assert_ok(qsae_sae_open(ctx, path, NULL, &splice.sae));
            check(conditions[i].name, key, cross_entropy(model, corpus, &splice), c);
            qsae_sae_close(&splice.sae);
        }
        struct splice gather = { .sum = mean }, zero = { 0 }, middle = { .mean = mean };
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

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_splice) };
    return cmocka_run_group_tests_name("splice", tests, NULL, NULL);
}
