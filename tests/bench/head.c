/* SPDX-License-Identifier: BSD-2-Clause */
/* The head: nanoseconds per logit of nll alone (1 participant), of nll, KL and arg-max over 1 and 3
 * participants, and of these with entropies and overlaps of the 10 likeliest tokens, on final rows
 * as a norm leaves them. */
#include <stdio.h>
#include <stdlib.h>

#include "bench.h"
#include "model/model.h"

#define MAX_K 3

struct head_job {
    qsae_context *ctx;
    int64_t rows, k;
    const int32_t *labels;
    qsae__head_rows p[MAX_K];
};

static int32_t run_head(void *arg)
{
    struct head_job *const j = arg;
    return qsae__head_run(j->ctx, j->rows, j->labels, j->k, j->p, NULL);
}

enum what { NLL, KL, EVERYTHING };

static void measure(const bench *b, qsae_context *ctx, struct head_job *j, int64_t k,
                    enum what what, int64_t vocab, int64_t width)
{
    static const char *const names[] = { "nll", "nll, kl, arg-max",
                                         "nll, kl, arg-max, entropy, overlap" };
    const bool all = what >= KL, more = what == EVERYTHING;
    float *out[4 * MAX_K];
    int32_t *const top = bench_alloc(j->rows * MAX_K, sizeof *top);
    for (int i = 0; i < 4 * MAX_K; i++)
        out[i] = bench_alloc(j->rows, sizeof(float));
    for (int i = 0; i < MAX_K; i++) {
        j->p[i].nll = out[i];
        j->p[i].kl = all && i > 0 ? out[MAX_K + i] : NULL;
        j->p[i].top = all ? top + i * j->rows : NULL;
        j->p[i].entropy = more ? out[2 * MAX_K + i] : NULL;
        j->p[i].overlap = more ? out[3 * MAX_K + i] : NULL;
        j->p[i].overlap_k = 10;
    }
    j->k = k;
    const bench_stats t = bench_time(b, run_head, j);
    const double logits = (double)j->rows * (double)vocab * (double)k;
    bench_cost(b, ctx, t, 1e9 / logits, "ns/logit", names[what],
               "\"participants\": %lld, \"rows\": %lld, \"vocab\": %lld, \"width\": %lld, "
               "\"gflops\": %.1f", (long long)k, (long long)j->rows, (long long)vocab,
               (long long)width, 2e-9 * logits * (double)width / t.median);
    for (int i = 0; i < 4 * MAX_K; i++)
        free(out[i]);
    free(top);
}

static void run(const bench *b, qsae_context *ctx)
{
    qsae_weights *weights;
    qsae_model *model;
    qsae_model_settings s;
    qsae_model_info info = { .struct_size = offsetof(qsae_model_info, hash) };
    struct head_job j = { .ctx = ctx, .rows = bench_number(b, "--rows", b->smoke ? 20 : 2048) };
    int32_t *const labels = bench_alloc(j.rows, sizeof *labels);
    float *final[MAX_K];
    qsae_model_settings_init(&s, sizeof s);
    s.condition = bench_option(b, "--condition", "none@compute=bf16");
    bench_check(b, qsae_weights_open(ctx, b->argument, &weights));
    bench_check(b, qsae_model_open(weights, &s, &model));
    bench_check(b, qsae_model_get_info(model, &info));
    for (int i = 0; i < MAX_K; i++) {
        final[i] = bench_alloc(j.rows * info.width, sizeof(float));
        bench_normal(final[i], j.rows * info.width, 1, 9);
        /* Compressed rows are near the reference's. */
        for (int64_t at = 0; at < j.rows * info.width; at++)
            final[i][at] *= 1 + 0.01f * (float)(i * (at % 3));
        qsae__round(ctx, QSAE_BF16, final[i], j.rows * info.width);
        j.p[i] = (qsae__head_rows){ .model = model, .final = final[i] };
    }
    for (int64_t i = 0; i < j.rows; i++)
        labels[i] = (int32_t)((uint64_t)i * 7919 % (uint64_t)info.vocab);
    j.labels = labels;
    measure(b, ctx, &j, 1, NLL, info.vocab, info.width);
    measure(b, ctx, &j, 1, KL, info.vocab, info.width);
    measure(b, ctx, &j, MAX_K, KL, info.vocab, info.width);
    measure(b, ctx, &j, MAX_K, EVERYTHING, info.vocab, info.width);
    for (int i = 0; i < MAX_K; i++)
        free(final[i]);
    free(labels);
    qsae_model_close(&model);
    qsae_weights_close(&weights);
}

int main(int argc, char **argv)
{
    bench b;
    bench_open(&b, "head", argc, argv, "--rows --condition",
               "[--rows N] [--condition SPEC] MODEL");
    if (!b.argument) {
        fprintf(stderr, "bench_head: which model?\n");
        return 2;
    }
    for (int t = 0; t < b.n_threads; t++) {
        qsae_context *ctx = bench_context(&b, b.threads[t]);
        run(&b, ctx);
        qsae_context_close(&ctx);
    }
    return 0;
}
