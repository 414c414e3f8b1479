/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What measuring costs: reference and one condition through the model, with cross-entropy and the
 * SAE's encoder and nothing else, against an audit of the same tokens with everything on: default
 * metrics, KL, entropy, overlap of likely tokens, feature survival with the contexts of the largest
 * activations, slices, worst tokens and documents, then the result with its intervals. The two take
 * turns.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench.h"
#include "sae/sae.h"

struct cost {
    double cpu, wall;        /* seconds; cpu: of all threads, waiting ones too */
};

struct job {
    const bench *b;
    qsae_context *ctx;
    const char *text;
    char sae_place[1024];    /* FOLDER@LAYER */
    qsae_sae *sae;
    qsae__csr acts;
    int32_t *ids;            /* [batches, n_seq, n_tokens] */
    float *nll;              /* [n_seq, n_tokens] */
    int64_t n_seq, n_tokens, batches, layer;
    const char *condition;
    int64_t documents;
};

static struct cost now(void)
{
    struct timespec cpu;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    return (struct cost){ (double)cpu.tv_sec + 1e-9 * (double)cpu.tv_nsec, bench_now() };
}

static struct cost since(struct cost start)
{
    const struct cost end = now();
    return (struct cost){ end.cpu - start.cpu, end.wall - start.wall };
}

/* ---- the models alone ---- */

static int32_t observe(void *cookie, int32_t layer, int32_t site, const qsae_rows *x)
{
    struct job *const j = cookie;
    (void)layer;
    (void)site;
    return qsae__sae_encode_rows(j->sae, x->data, x->n_rows, x->row_stride, &j->acts);
}

static void run_model(struct job *j, qsae_model *model, int64_t batch)
{
    const qsae_tap tap = { .struct_size = sizeof tap, .layer = (int32_t)j->layer,
                           .site = QSAE_SITE_RESID_POST, .observe = observe, .cookie = j };
    qsae_pass pass;
    qsae_pass_init(&pass, sizeof pass);
    pass.ids = j->ids + batch * j->n_seq * j->n_tokens;
    pass.n_seq = j->n_seq;
    pass.n_tokens = j->n_tokens;
    pass.nll = j->nll;
    pass.taps = &tap;
    pass.n_taps = 1;
    bench_check(j->b, qsae_model_forward(model, &pass));
}

static qsae_model *open_model(struct job *j, qsae_weights *weights, const char *condition)
{
    qsae_model *model;
    qsae_model_settings s;
    qsae_model_settings_init(&s, sizeof s);
    s.condition = condition;
    s.compute = QSAE_COMPUTE_BF16;
    bench_check(j->b, qsae_model_open(weights, &s, &model));
    return model;
}

static struct cost time_models(struct job *j)
{
    qsae_weights *weights;
    bench_check(j->b, qsae_weights_open(j->ctx, j->b->argument, &weights));
    qsae_model *models[] = { open_model(j, weights, NULL), open_model(j, weights, j->condition) };
    run_model(j, models[0], 0); /* pages of the file, arenas */
    run_model(j, models[1], 0);
    const struct cost start = now();
    for (int64_t i = 0; i < j->batches; i++)
        for (int k = 0; k < 2; k++)
            run_model(j, models[k], i);
    const struct cost out = since(start);
    qsae_model_close(&models[1]);
    qsae_model_close(&models[0]);
    qsae_weights_close(&weights);
    return out;
}

/* ---- everything on ---- */

/* The first batch is over: what runs once is not counted. */
struct start {
    struct cost at;
    int64_t batch;
    bool set;
};

static int32_t mark(void *cookie, int64_t done, int64_t total, const char *unit, const char *phase)
{
    struct start *const s = cookie;
    (void)total;
    (void)unit;
    if (!s->set && done >= s->batch && strcmp(phase, "measure") == 0) {
        s->at = now();
        s->set = true;
    }
    return 0;
}

/* One batch more than is counted. *result: of the document, intervals with it. */
static struct cost time_audit(struct job *j, struct cost *result)
{
    static const char *const slices[] = { "position", "class", "script", "frequency", "length",
                                          "entropy", "class*entropy" };
    const char *const sae = j->sae_place, *text;
    size_t size;
    qsae_audit *audit;
    struct start first = { .batch = j->n_seq * j->n_tokens };
    qsae_audit_settings s;
    qsae_audit_settings_init(&s, sizeof s);
    s.model = j->b->argument;
    s.text = j->text;
    s.conditions = &j->condition;
    s.n_conditions = 1;
    s.saes = &sae;
    s.n_saes = 1;
    s.compute = QSAE_COMPUTE_BF16;
    s.context = j->n_tokens;
    s.batch = j->n_seq;
    s.max_tokens = (j->batches + 1) * j->n_seq * j->n_tokens;
    s.slices = slices;
    s.n_slices = sizeof slices / sizeof slices[0];
    s.top_contexts = 10;
    s.memory = QSAE_MEMORY_RESIDENT;
    s.progress = mark;
    s.progress_cookie = &first;
    bench_check(j->b, qsae_audit_open(j->ctx, &s, &audit));
    bench_check(j->b, qsae_audit_run(audit));
    const struct cost run = since(first.at);
    const struct cost start = now();
    bench_check(j->b, qsae_audit_result(audit, &text, &size));
    *result = since(start);
    if (!first.set || !strstr(text, "\"complete\": true")) {
        fprintf(stderr, "bench_overhead: fewer than %lld tokens in %s\n", (long long)s.max_tokens,
                j->text);
        exit(2);
    }
    qsae_audit_close(&audit);
    return run;
}

/* ---- */

/* Ids of the text in the audit's own chunks. */
static void read_ids(struct job *j)
{
    qsae_tokenizer *tokenizer;
    qsae_corpus *corpus;
    qsae_corpus_settings s;
    qsae_corpus_info info = { .struct_size = sizeof info };
    const int64_t rows = j->n_seq * j->n_tokens;
    qsae_corpus_settings_init(&s, sizeof s);
    s.context = j->n_tokens;
    s.max_tokens = (j->batches + 1) * rows;
    bench_check(j->b, qsae_tokenizer_open(j->ctx, j->b->argument, &tokenizer));
    bench_check(j->b, qsae_corpus_open(j->ctx, tokenizer, j->text, &s, &corpus));
    bench_check(j->b, qsae_corpus_get_info(corpus, &info));
    j->documents = info.documents;
    if (info.chunks < j->batches * j->n_seq) {
        fprintf(stderr, "bench_overhead: %s: fewer than %lld chunks\n", j->text,
                (long long)(j->batches * j->n_seq));
        exit(2);
    }
    for (int64_t i = 0; i < j->batches * j->n_seq; i++) {
        const int32_t *ids, *labels;
        const int64_t *document;
        int64_t n;
        bench_check(j->b, qsae_corpus_chunk(corpus, i, &ids, &labels, &document, &n));
        memcpy(j->ids + i * j->n_tokens, ids, (size_t)j->n_tokens * sizeof *ids);
    }
    qsae_corpus_close(&corpus);
    qsae_tokenizer_close(&tokenizer);
}

static void report(const struct job *j, const char *what, struct cost c, double per)
{
    const bench_stats cpu = { c.cpu, c.cpu, 1 };
    bench_cost(j->b, j->ctx, cpu, per, per == 1 ? "s" : "ms/token", what,
               "\"condition\": \"%s\", \"tokens\": %lld, \"documents\": %lld, \"wall_s\": %.3f",
               j->condition, (long long)(j->batches * j->n_seq * j->n_tokens),
               (long long)j->documents, c.wall);
}

/* CPU time; \"percent\": of the models' own. */
static void measure(struct job *j)
{
    const double per = 1e3 / (double)(j->batches * j->n_seq * j->n_tokens);
    for (int i = 0; i < j->b->repeats; i++) {
        struct cost result;
        const struct cost models = time_models(j), audit = time_audit(j, &result);
        const bench_stats percent = { audit.cpu / models.cpu - 1, audit.cpu / models.cpu - 1, 1 };
        report(j, "models", models, per);
        report(j, "audit", audit, per);
        report(j, "result", result, 1);
        bench_cost(j->b, j->ctx, percent, 100, "%", "overhead", "\"wall\": %.2f",
                   100 * (audit.wall / models.wall - 1));
    }
}

int main(int argc, char **argv)
{
    bench b;
    bench_open(&b, "overhead", argc, argv,
               "--sae --text --layer --condition --sequences --tokens --batches",
               "--sae FOLDER --text FILE [--layer N] [--condition SPEC] [--sequences N] "
               "[--tokens N] [--batches N] MODEL");
    const char *const sae = bench_option(&b, "--sae", NULL);
    struct job j = { .b = &b, .text = bench_option(&b, "--text", NULL),
                     .condition = bench_option(&b, "--condition", "llm.int8") };
    if (!b.argument || !sae || !j.text) {
        fprintf(stderr, "bench_overhead: expected --sae, --text and a model\n");
        return 2;
    }
    j.n_seq = bench_number(&b, "--sequences", 4);
    j.n_tokens = bench_number(&b, "--tokens", b.smoke ? 16 : 512);
    j.batches = bench_number(&b, "--batches", b.smoke ? 1 : 2);
    j.layer = bench_number(&b, "--layer", 0);
    j.ids = bench_alloc(j.batches * j.n_seq * j.n_tokens, sizeof *j.ids);
    j.nll = bench_alloc(j.n_seq * j.n_tokens, sizeof *j.nll);
    snprintf(j.sae_place, sizeof j.sae_place, "%s@%lld", sae, (long long)j.layer);
    for (int t = 0; t < b.n_threads; t++) {
        j.ctx = bench_context(&b, b.threads[t]);
        read_ids(&j);
        bench_check(&b, qsae_sae_open(j.ctx, sae, NULL, &j.sae));
        qsae__csr_init(&j.acts, j.ctx);
        measure(&j);
        qsae__csr_free(&j.acts);
        qsae_sae_close(&j.sae);
        qsae_context_close(&j.ctx);
    }
    free(j.ids);
    free(j.nll);
    return 0;
}
