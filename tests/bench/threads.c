/* SPDX-License-Identifier: BSD-2-Clause */
/* Cost of a parallel region whose tiles do nothing: the threads are awake in a loop of regions, or
 * have slept before each. */
#include <unistd.h>

#include "bench.h"

#define REGIONS 1000

struct regions {
    qsae_context *ctx;
    int64_t tiles;
};

static int32_t nothing(void *arg, int64_t tile, int32_t worker)
{
    (void)arg;
    (void)tile;
    (void)worker;
    return QSAE_OK;
}

static int32_t run_regions(void *arg)
{
    const struct regions *const r = arg;
    int32_t st = QSAE_OK;
    for (int i = 0; i < REGIONS && st == QSAE_OK; i++)
        st = qsae__parallel(r->ctx, r->tiles, nothing, NULL);
    return st;
}

/* Mean cost of a region after 20 ms of rest, of `n`. */
static bench_stats cold(const bench *b, struct regions *r, int n)
{
    double sum = 0, best = 1;
    for (int i = 0; i < n; i++) {
        usleep(20000);
        const double start = bench_now();
        bench_check(b, qsae__parallel(r->ctx, r->tiles, nothing, NULL));
        const double t = bench_now() - start;
        sum += t;
        best = t < best ? t : best;
    }
    return (bench_stats){ sum / n, best, n };
}

int main(int argc, char **argv)
{
    bench b;
    bench_open(&b, "threads", argc, argv, "", "");
    for (int t = 0; t < b.n_threads; t++) {
        qsae_context *ctx = bench_context(&b, b.threads[t]);
        for (int64_t tiles = 2; tiles <= 64; tiles *= 32) {
            struct regions r = { ctx, tiles };
            bench_cost(&b, ctx, bench_time(&b, run_regions, &r), 1e6 / REGIONS, "us", "region",
                       "\"tiles\": %lld", (long long)tiles);
            bench_cost(&b, ctx, cold(&b, &r, b.smoke ? 2 : 20), 1e6, "us", "region after rest",
                       "\"tiles\": %lld", (long long)tiles);
        }
        qsae_context_close(&ctx);
    }
    return 0;
}
