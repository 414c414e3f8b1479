/* SPDX-License-Identifier: BSD-2-Clause */
/* Rows per second through SAE folders (tests/reference/random_sae.py makes some): encode, decode,
 * both. Rows are normal with deviation --rms. */
#include <stdio.h>
#include <stdlib.h>

#include "bench.h"
#include "sae/sae.h"

struct sae_job {
    qsae_sae *sae;
    const float *x;   /* [rows, width] */
    float *y;         /* [rows, width_out] */
    int64_t rows, width, width_out;
    qsae__csr acts;
};

static int32_t encode(void *arg)
{
    struct sae_job *const j = arg;
    return qsae__sae_encode_rows(j->sae, j->x, j->rows, j->width, &j->acts);
}

static int32_t decode(void *arg)
{
    struct sae_job *const j = arg;
    return qsae__sae_decode_rows(j->sae, &j->acts, j->y, j->width_out);
}

static int32_t both(void *arg)
{
    const int32_t st = encode(arg);
    return st == QSAE_OK ? decode(arg) : st;
}

static void measure(const bench *b, qsae_context *ctx, const char *folder)
{
    static const struct {
        const char *name;
        int32_t (*fn)(void *);
    } parts[] = { { "encode", encode }, { "decode", decode }, { "both", both } };
    qsae_sae_info info = { .struct_size = sizeof info };
    struct sae_job j = { .rows = bench_number(b, "--rows", b->smoke ? 48 : 2048) };
    bench_check(b, qsae_sae_open(ctx, folder, NULL, &j.sae));
    bench_check(b, qsae_sae_get_info(j.sae, &info));
    j.width = info.width;
    j.width_out = info.width_out;
    float *const x = bench_alloc(j.rows * j.width, sizeof *x);
    bench_normal(x, j.rows * j.width, (float)atof(bench_option(b, "--rms", "1")), 5);
    j.x = x;
    j.y = bench_alloc(j.rows * j.width_out, sizeof *j.y);
    qsae__csr_init(&j.acts, ctx);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        const bench_stats t = bench_time(b, parts[i].fn, &j);
        bench_rate(b, ctx, t, (double)j.rows, "rows/s", parts[i].name,
                   "\"architecture\": \"%s\", \"d\": %lld, \"features\": %lld, \"rows\": %lld, "
                   "\"l0\": %.2f", info.architecture, (long long)j.width,
                   (long long)info.features, (long long)j.rows,
                   (double)j.acts.nnz / (double)j.rows);
    }
    qsae__csr_free(&j.acts);
    qsae_sae_close(&j.sae);
    free(x);
    free(j.y);
}

int main(int argc, char **argv)
{
    bench b;
    bench_open(&b, "sae", argc, argv, "--rows --rms", "[--rows N] [--rms X] SAE");
    if (!b.argument) {
        fprintf(stderr, "bench_sae: which SAE?\n");
        return 2;
    }
    for (int t = 0; t < b.n_threads; t++) {
        qsae_context *ctx = bench_context(&b, b.threads[t]);
        measure(&b, ctx, b.argument);
        qsae_context_close(&ctx);
    }
    return 0;
}
