/* SPDX-License-Identifier: BSD-2-Clause */
/* Encode and decode of a bf16 weight [n, k] by each codec, GB/s of its 16-bit form. */
#include <stdlib.h>

#include "bench.h"

struct codec_job {
    qsae_quantizer *quantizer;
    qsae_qmatrix *matrix;
    qsae_rows weight, out;
};

static int32_t encode(void *arg)
{
    struct codec_job *const j = arg;
    qsae_qmatrix_close(&j->matrix);
    return qsae_quantizer_encode(j->quantizer, &j->weight, 0, 0, &j->matrix);
}

static int32_t decode(void *arg)
{
    struct codec_job *const j = arg;
    return qsae_qmatrix_decode(j->matrix, &j->out);
}

int main(int argc, char **argv)
{
    bench b;
    char spec[128];
    bench_open(&b, "codec", argc, argv, "--n --k --codecs",
               "[--n ROWS] [--k COLUMNS] [--codecs \"SPEC;SPEC\"]");
    const int64_t n = bench_number(&b, "--n", b.smoke ? 96 : 10240);
    const int64_t k = bench_number(&b, "--k", b.smoke ? 128 : 2560);
    const char *const codecs = bench_option(&b, "--codecs",
                                            "nf4:double=0;nf4;fp4:double=0;fp4;llm.int8;"
                                            "rtn:bits=8;rtn:bits=4,group=128");
    uint16_t *const w = bench_alloc(n * k, sizeof *w), *const out = bench_alloc(n * k, sizeof *out);
    const qsae_rows rows = { .struct_size = sizeof rows, .data = w, .n_rows = n, .n_cols = k,
                             .row_stride = k, .dtype = QSAE_BF16 };
    bench_normal_bf16(w, n * k, 0.02f, 7);
    for (int t = 0; t < b.n_threads; t++) {
        qsae_context *ctx = bench_context(&b, b.threads[t]);
        for (int c = 0; bench_part(codecs, ';', c, spec, sizeof spec); c++) {
            struct codec_job j = { .weight = rows, .out = rows };
            j.out.data = out;
            bench_check(&b, qsae_quantizer_open(ctx, spec, &j.quantizer));
            bench_rate(&b, ctx, bench_time(&b, encode, &j), 2e-9 * (double)(n * k), "GB/s",
                       "encode", "\"codec\": \"%s\", \"n\": %lld, \"k\": %lld", spec, (long long)n,
                       (long long)k);
            bench_rate(&b, ctx, bench_time(&b, decode, &j), 2e-9 * (double)(n * k), "GB/s",
                       "decode", "\"codec\": \"%s\", \"n\": %lld, \"k\": %lld", spec, (long long)n,
                       (long long)k);
            qsae_qmatrix_close(&j.matrix);
            qsae_quantizer_close(&j.quantizer);
        }
        qsae_context_close(&ctx);
    }
    free(w);
    free(out);
    return 0;
}
