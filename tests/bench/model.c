/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Speed of whole forward passes with cross-entropy on a large checkpoint, beside the rate of the
 * f32 product alone in the same run. usage: bench_model FOLDER [SEQUENCES [TOKENS]]
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include <qsae/qsae.h>

#include "kernels/kernels.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void check(int32_t status)
{
    if (status == QSAE_OK)
        return;
    fprintf(stderr, "bench_model: %s\n", qsae_error_message());
    exit(1);
}

static double peak_mb(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)u.ru_maxrss / 1024;
}

static qsae_context *open_threads(int32_t threads)
{
    qsae_context_settings s;
    qsae_context *ctx;
    qsae_context_settings_init(&s, sizeof s);
    s.threads = threads;
    check(qsae_context_open(&s, &ctx));
    return ctx;
}

/* GFLOP/s of a[m, k] w[n, k]^T with an MLP's shape, best of five. */
static double sgemm_rate(qsae_context *ctx, int64_t m, int64_t n, int64_t k)
{
    float *a = qsae__alloc_array(ctx, m * k, 4), *w = qsae__alloc_array(ctx, n * k, 4);
    float *c = qsae__alloc_array(ctx, m * n, 4);
    uint32_t seed = 3;
    if (!a || !w || !c)
        exit(1);
    for (int64_t i = 0; i < m * k; i++)
        a[i] = (float)(int32_t)(seed = seed * 1664525u + 1013904223u) * 0x1p-31f;
    for (int64_t i = 0; i < n * k; i++)
        w[i] = (float)(int32_t)(seed = seed * 1664525u + 1013904223u) * 0x1p-31f;
    const qsae__dense d = { .data = w, .dtype = QSAE_F32, .level = ctx->level, .n_stride = k,
                            .k_stride = 1 };
    const qsae__panels p = qsae__panels_dense(&d, n, k);
    double best = INFINITY;
    for (int i = 0; i < 5; i++) {
        const double start = now();
        check(qsae__gemm(ctx, m, a, k, &p, c, n, NULL));
        best = fmin(best, now() - start);
    }
    qsae__free(ctx, a);
    qsae__free(ctx, w);
    qsae__free(ctx, c);
    return 2e-9 * (double)m * (double)n * (double)k / best;
}

/* Seconds of one pass, best of `runs`, and its cross-entropy. */
static double pass_seconds(qsae_model *model, const qsae_model_info *info, int64_t n_seq,
                           int64_t n_tokens, int runs, double *ce)
{
    const int64_t rows = n_seq * n_tokens;
    int32_t *ids = malloc((size_t)rows * sizeof *ids);
    float *nll = malloc((size_t)rows * sizeof *nll);
    uint32_t seed = 11;
    double best = INFINITY, sum = 0;
    if (!ids || !nll)
        exit(1);
    for (int64_t i = 0; i < rows; i++)
        ids[i] = (int32_t)((seed = seed * 1664525u + 1013904223u) % (uint32_t)info->vocab);
    qsae_pass pass;
    qsae_pass_init(&pass, sizeof pass);
    pass.ids = ids;
    pass.n_seq = n_seq;
    pass.n_tokens = n_tokens;
    pass.nll = nll;
    for (int i = 0; i < runs; i++) {
        const double start = now();
        check(qsae_model_forward(model, &pass));
        best = fmin(best, now() - start);
    }
    for (int64_t i = 0; i < rows; i++)
        sum += isnan(nll[i]) ? 0 : (double)nll[i];
    *ce = sum / (double)(n_seq * (n_tokens - 1));
    free(ids);
    free(nll);
    return best;
}

int main(int argc, char **argv)
{
    const int64_t n_seq = argc > 2 ? atoll(argv[2]) : 2, n_tokens = argc > 3 ? atoll(argv[3]) : 512;
    if (argc < 2 || n_seq < 1 || n_tokens < 2) {
        fprintf(stderr, "usage: %s FOLDER [SEQUENCES [TOKENS]]\n", argv[0]);
        return 2;
    }
    static const char *const specs[] = { "none", "none@compute=bf16", "llm.int8@compute=bf16",
                                         "nf4@compute=bf16" };
    double first[4] = { 0 };
    for (int32_t threads = 1; threads <= 2; threads++) {
        qsae_context *ctx = open_threads(threads);
        const double sgemm = sgemm_rate(ctx, n_seq * n_tokens, 6912, 1152);
        printf("threads %d, cpu %s, gemm %s, blis %s: sgemm %.0f GFLOP/s\n", (int)threads,
               qsae_context_cpu(ctx), qsae_context_gemm(ctx), qsae_context_blis(ctx), sgemm);
        for (int c = 0; c < 4; c++) {
            qsae_weights *weights;
            qsae_model *model;
            qsae_model_settings s;
            qsae_model_info info = { .struct_size = offsetof(qsae_model_info, hash) };
            double ce;
            qsae_model_settings_init(&s, sizeof s);
            s.condition = specs[c];
            const double start = now();
            check(qsae_weights_open(ctx, argv[1], &weights));
            check(qsae_model_open(weights, &s, &model));
            const double load = now() - start;
            check(qsae_model_get_info(model, &info));
            const double t = pass_seconds(model, &info, n_seq, n_tokens, 2, &ce);
            const double flops = 2e-9 * (double)info.parameters * (double)(n_seq * n_tokens) / t;
            printf("  %-24s load %6.2f s  pass %6.2f s  %7.1f tokens/s  %6.0f GFLOP/s (%3.0f%% of "
                   "sgemm)  x%.2f  CE %.5f  peak %.0f MB\n", specs[c], load, t,
                   (double)(n_seq * n_tokens) / t, flops, 100 * flops / sgemm,
                   threads == 1 ? 1.0 : first[c] / t, ce, peak_mb());
            fflush(stdout);
            if (threads == 1)
                first[c] = t;
            qsae_model_close(&model);
            qsae_weights_close(&weights);
        }
        qsae_context_close(&ctx);
    }
    return 0;
}
