/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Whole passes over a checkpoint: forward with cross-entropy, and the same with an SAE on the
 * residual after the middle layer, its reconstruction and FVU. A condition is opened, measured and
 * closed before the next one.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "sae/sae.h"

struct pass_job {
    const bench *b;
    qsae_context *ctx;
    qsae_model *model;
    qsae_sae *sae;           /* or NULL */
    qsae_metric *metric;
    qsae__csr acts;
    float *y;                /* [rows, width] */
    const int32_t *ids;      /* [batches, n_seq, n_tokens] */
    int64_t n_seq, n_tokens, batches, batch;
    int64_t width, layer;
    float *nll;              /* [n_seq, n_tokens] */
    bool with_sae;
    double ce, fvu, l0, peak_mb; /* of the first round of the batches */
};

static int32_t observe(void *cookie, int32_t layer, int32_t site, const qsae_rows *x)
{
    struct pass_job *const j = cookie;
    (void)layer;
    (void)site;
    int32_t st = qsae__sae_encode_rows(j->sae, x->data, x->n_rows, x->row_stride, &j->acts);
    if (st == QSAE_OK)
        st = qsae__sae_decode_rows(j->sae, &j->acts, j->y, j->width);
    const qsae_rows y = { .struct_size = sizeof y, .data = j->y, .n_rows = x->n_rows,
                          .n_cols = j->width, .row_stride = j->width, .dtype = QSAE_F32 };
    const qsae_sparse_rows acts = { .struct_size = sizeof acts, .n = j->acts.n,
                                    .indptr = j->acts.indptr, .indices = j->acts.indices,
                                    .values = j->acts.values };
    return st == QSAE_OK ? qsae_metric_update_reconstruction(j->metric, NULL, x, &y, &acts) : st;
}

/* One batch; the batches take turns. */
static int32_t run_batch(void *arg)
{
    struct pass_job *const j = arg;
    const int64_t rows = j->n_seq * j->n_tokens;
    const qsae_tap tap = { .struct_size = sizeof tap, .layer = (int32_t)j->layer,
                           .site = QSAE_SITE_RESID_POST, .observe = observe, .cookie = j };
    qsae_pass pass;
    qsae_pass_init(&pass, sizeof pass);
    pass.ids = j->ids + j->batch++ % j->batches * rows;
    pass.n_seq = j->n_seq;
    pass.n_tokens = j->n_tokens;
    pass.nll = j->nll;
    pass.taps = &tap;
    pass.n_taps = j->with_sae;
    return qsae_model_forward(j->model, &pass);
}

static double result(const struct pass_job *j, const char *name)
{
    double v;
    bench_check(j->b, qsae_metric_get(j->metric, name, &v));
    return v;
}

/* Token ids from a raw int32 file, or random ones. */
static int32_t *read_ids(const bench *b, int64_t n, int64_t vocab)
{
    int32_t *const ids = bench_alloc(n, sizeof *ids);
    const char *const path = bench_option(b, "--ids", NULL);
    uint32_t seed = 11;
    FILE *f = NULL;
    if (path && (!(f = fopen(path, "rb")) || fread(ids, sizeof *ids, (size_t)n, f) != (size_t)n)) {
        fprintf(stderr, "bench_pass: %s: fewer than %lld ids\n", path, (long long)n);
        exit(2);
    }
    for (int64_t i = 0; i < n && !path; i++)
        ids[i] = (int32_t)((seed = seed * 1664525u + 1013904223u) >> 8) % (int32_t)vocab;
    if (f)
        fclose(f);
    return ids;
}

/* Each batch once: the numbers themselves, and what memory they took. */
static void first_round(const bench *b, struct pass_job *j)
{
    double sum = 0;
    int64_t count = 0;
    j->with_sae = j->sae != NULL;
    for (int64_t i = 0; i < j->batches; i++) {
        bench_check(b, run_batch(j));
        for (int64_t r = 0; r < j->n_seq * j->n_tokens; r++) {
            if (!isnan(j->nll[r])) {
                sum += (double)j->nll[r];
                count++;
            }
        }
    }
    j->ce = sum / (double)count;
    j->fvu = j->sae ? result(j, "fvu_dim") : 0;
    j->l0 = j->sae ? result(j, "l0") : 0;
    j->peak_mb = bench_peak_mb();
}

static void measure(const bench *b, struct pass_job *j, const char *condition, double load)
{
    const double rows = (double)(j->n_seq * j->n_tokens);
    first_round(b, j);
    for (int sae = 0; sae <= (j->sae != NULL); sae++) {
        j->with_sae = sae;
        const bench_stats t = bench_time(b, run_batch, j);
        bench_rate(b, j->ctx, t, rows, "tokens/s", sae ? "whole" : "forward",
                   "\"condition\": \"%s\", \"load_s\": %.3f, \"ce\": %.6f, \"fvu\": %.6f, "
                   "\"l0\": %.3f, \"peak_mb\": %.0f", condition, load, j->ce, j->fvu, j->l0,
                   j->peak_mb);
    }
}

/* Opens what a condition needs, measures and closes it. */
static void run_condition(const bench *b, qsae_context *ctx, const char *folder,
                          const char *condition)
{
    struct pass_job j = { .b = b, .ctx = ctx };
    const char *const sae = bench_option(b, "--sae", NULL);
    qsae_weights *weights;
    qsae_model_settings s;
    qsae_model_info info = { .struct_size = offsetof(qsae_model_info, hash) };
    qsae_model_settings_init(&s, sizeof s);
    s.condition = condition;
    bench_reset_peak();
    const double start = bench_now();
    bench_check(b, qsae_weights_open(ctx, folder, &weights));
    bench_check(b, qsae_model_open(weights, &s, &j.model));
    const double load = bench_now() - start;
    bench_check(b, qsae_model_get_info(j.model, &info));
    j.n_seq = bench_number(b, "--sequences", b->smoke ? 2 : 4);
    j.n_tokens = bench_number(b, "--tokens", b->smoke ? 16 : 512);
    j.batches = bench_number(b, "--batches", b->smoke ? 1 : 2);
    j.width = info.width;
    j.layer = bench_number(b, "--layer", info.layers / 2);
    j.nll = bench_alloc(j.n_seq * j.n_tokens, sizeof *j.nll);
    int32_t *const ids = read_ids(b, j.batches * j.n_seq * j.n_tokens, info.vocab);
    j.ids = ids;
    if (sae) {
        qsae_sae_info si = { .struct_size = sizeof si };
        bench_check(b, qsae_sae_open(ctx, sae, NULL, &j.sae));
        bench_check(b, qsae_sae_get_info(j.sae, &si));
        bench_check(b, qsae_metric_open_reconstruction(ctx, j.width, si.features, NULL,
                                                       &j.metric));
        qsae__csr_init(&j.acts, ctx);
        j.y = bench_alloc(j.n_seq * j.n_tokens * j.width, sizeof *j.y);
    }
    measure(b, &j, condition, load);
    if (sae)
        qsae__csr_free(&j.acts);
    qsae_metric_close(&j.metric);
    qsae_sae_close(&j.sae);
    qsae_model_close(&j.model);
    qsae_weights_close(&weights);
    free(j.y);
    free(j.nll);
    free(ids);
}

int main(int argc, char **argv)
{
    bench b;
    char condition[512];
    bench_open(&b, "pass", argc, argv,
               "--sae --ids --conditions --sequences --tokens --batches --layer",
               "[--sae FOLDER] [--layer N] [--ids FILE] [--sequences N] [--tokens N] [--batches N] "
               "[--conditions \"SPEC;SPEC\"] MODEL");
    const char *const conditions = bench_option(&b, "--conditions",
                                                "none;none@compute=bf16;llm.int8@compute=bf16;"
                                                "nf4@compute=bf16");
    if (!b.argument) {
        fprintf(stderr, "bench_pass: which model?\n");
        return 2;
    }
    for (int t = 0; t < b.n_threads; t++) {
        qsae_context *ctx = bench_context(&b, b.threads[t]);
        for (int c = 0; bench_part(conditions, ';', c, condition, sizeof condition); c++)
            run_condition(&b, ctx, b.argument, condition);
        qsae_context_close(&ctx);
    }
    return 0;
}
