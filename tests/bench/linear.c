/* SPDX-License-Identifier: BSD-2-Clause */
/* One linear layer on bf16 rows: no codec, LLM.int8 without and with outlier columns, NF4. */
#include <stdlib.h>

#include "bench.h"
#include "codecs/codecs.h"

#define OUTLIERS 8

struct linear_job {
    const qsae__linear *linear;
    int64_t rows;
    const uint16_t *x; /* [rows, k] bf16 */
    float *y;          /* [rows, n] */
    int64_t n, k;
    void *scratch;
};

static int32_t apply(void *arg)
{
    struct linear_job *const j = arg;
    const qsae__linear_rows x = { .x = j->x, .dtype = QSAE_BF16, .rows = j->rows, .ldx = j->k };
    return qsae__linear_apply(&j->linear, 1, &x, &j->y, &j->n, NULL, j->scratch);
}

static void measure(const bench *b, qsae_context *ctx, const uint16_t *w, struct linear_job *j,
                    const char *spec, const char *what)
{
    const qsae__linear_weight weight = { .data = w, .dtype = QSAE_BF16, .n_out = j->n,
                                         .n_in = j->k, .out_stride = j->k, .in_stride = 1 };
    qsae__condition c;
    qsae__linear *linear;
    size_t bytes;
    bench_check(b, qsae__condition_parse(ctx, spec, &c));
    bench_check(b, qsae__linear_open(ctx, &c, &weight, QSAE_BF16, &linear));
    bench_check(b, qsae__linear_scratch(linear, j->rows, &bytes));
    j->linear = linear;
    j->scratch = bench_alloc((int64_t)bytes, 1);
    bench_rate(b, ctx, bench_time(b, apply, j), 2e-9 * (double)j->rows * (double)(j->n * j->k),
               "GFLOP/s", what, "\"m\": %lld, \"k\": %lld, \"n\": %lld", (long long)j->rows,
               (long long)j->k, (long long)j->n);
    free(j->scratch);
    qsae__linear_close(&linear);
    qsae__condition_free(ctx, &c);
}

int main(int argc, char **argv)
{
    bench b;
    bench_open(&b, "linear", argc, argv, "--m --k --n", "[--m ROWS] [--k INPUTS] [--n OUTPUTS]");
    struct linear_job j = { .rows = bench_number(&b, "--m", b.smoke ? 40 : 2048),
                            .k = bench_number(&b, "--k", b.smoke ? 96 : 2560),
                            .n = bench_number(&b, "--n", b.smoke ? 80 : 10240) };
    uint16_t *const w = bench_alloc(j.n * j.k, sizeof *w);
    uint16_t *const x = bench_alloc(j.rows * j.k, sizeof *x);
    uint16_t *const spiky = bench_alloc(j.rows * j.k, sizeof *spiky);
    j.y = bench_alloc(j.rows * j.n, sizeof *j.y);
    bench_normal_bf16(w, j.n * j.k, 0.02f, 3);
    /* No value passes 6, LLM.int8's threshold, but in the columns made larger. */
    bench_normal_bf16(x, j.rows * j.k, 1, 4);
    bench_normal_bf16(spiky, j.rows * j.k, 1, 4);
    for (int64_t r = 0; r < j.rows; r++)
        for (int64_t at = 0; at < j.k; at += j.k / OUTLIERS)
            bench_normal_bf16(spiky + r * j.k + at, 1, 15, (uint64_t)(r * j.k + at));
    for (int t = 0; t < b.n_threads; t++) {
        qsae_context *ctx = bench_context(&b, b.threads[t]);
        j.x = x;
        measure(&b, ctx, w, &j, "none", "bf16");
        measure(&b, ctx, w, &j, "llm.int8", "llm.int8");
        measure(&b, ctx, w, &j, "nf4", "nf4");
        j.x = spiky;
        measure(&b, ctx, w, &j, "llm.int8", "llm.int8 with outlier columns");
        qsae_context_close(&ctx);
    }
    free(w);
    free(x);
    free(spiky);
    free(j.y);
    return 0;
}
