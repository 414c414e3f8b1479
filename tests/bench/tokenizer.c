/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Opening a tokenizer (seconds, and the peak of memory above what there was before) and encoding a
 * text with it (MB/s on one thread). Prints a hash of the ids, so that two builds can be compared.
 */
#include <stdlib.h>
#include <string.h>

#include "bench.h"

struct tokenizer_job {
    qsae_context *ctx;
    const char *path;
    qsae_tokenizer *tokenizer;
    const qsae__file *text;
    int32_t *ids;
    int64_t n_ids;
};

static int32_t load(void *arg)
{
    struct tokenizer_job *const j = arg;

    qsae_tokenizer_close(&j->tokenizer);
    return qsae_tokenizer_open(j->ctx, j->path, &j->tokenizer);
}

static int32_t encode(void *arg)
{
    struct tokenizer_job *const j = arg;

    return qsae_tokenizer_encode(j->tokenizer, (const char *)j->text->data, (size_t)j->text->size,
                                 0, j->ids, (int64_t)j->text->size * 2 + 16, &j->n_ids);
}

int main(int argc, char **argv)
{
    bench b;
    qsae__file *text = NULL;
    char hash[QSAE__HASH_SIZE];
    bench_open(&b, "tokenizer", argc, argv, "--text",
               "--text FILE TOKENIZER (a folder, tokenizer.json or GGUF file)");
    struct tokenizer_job j = { .ctx = bench_context(&b, 1), .path = b.argument };
    bench_check(&b, qsae__file_open(j.ctx, bench_option(&b, "--text", ""), &text));
    j.text = text;
    j.ids = bench_alloc((int64_t)text->size * 2 + 16, sizeof *j.ids);
    bench_reset_peak();
    const double before = bench_peak_mb();
    bench_check(&b, load(&j));
    const double peak = bench_peak_mb() - before;
    bench_cost(&b, j.ctx, bench_time(&b, load, &j), 1, "s", "open", "\"peak_mib\": %.0f", peak);
    bench_check(&b, encode(&j));
    qsae__hash(j.ids, (size_t)j.n_ids * sizeof *j.ids, hash);
    bench_rate(&b, j.ctx, bench_time(&b, encode, &j), 1e-6 * (double)text->size, "MB/s", "encode",
               "\"ids\": %lld, \"hash\": \"%s\"", (long long)j.n_ids, hash);
    qsae_tokenizer_close(&j.tokenizer);
    qsae__file_close(&text);
    free(j.ids);
    qsae_context_close(&j.ctx);
    return 0;
}
