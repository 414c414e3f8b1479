/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Everything is opened, run and closed again and again, failing opens between: memory and
 * descriptors stay as they are (reliability target 18). Prints TAP lines.
 *
 *     test_soak [MINUTES]        a fraction is fine; 0.03 by default
 */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "scenario.h"

static struct fixture fixture;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* KiB in memory. */
static double resident(void)
{
    long long all, pages = 0;
    FILE *const f = fopen("/proc/self/statm", "r");
    if (!f || fscanf(f, "%lld %lld", &all, &pages) != 2)
        pages = 0;
    if (f)
        fclose(f);
    return (double)pages * (double)sysconf(_SC_PAGESIZE) / 1024;
}

/* Errors of every kind of file, and a handle that a failed open left would be seen as memory. */
static int fail_some(void)
{
    qsae_context *ctx = NULL;
    qsae_weights *w = NULL;
    qsae_sae *sae = NULL;
    qsae_tokenizer *t = NULL;
    qsae_predictor *p = NULL;
    int bad = qsae_context_open(NULL, &ctx) != QSAE_OK;
    bad += qsae_weights_open(ctx, fixture.jsonl, &w) == QSAE_OK;
    bad += qsae_sae_open(ctx, fixture.model, NULL, &sae) == QSAE_OK;
    bad += qsae_tokenizer_open(ctx, fixture.sae, &t) == QSAE_OK;
    bad += qsae_predictor_open(ctx, fixture.jsonl, NULL, NULL, &p) == QSAE_OK;
    qsae_context_close(&ctx);
    return bad;
}

/* Memory over time behind the warm-up: the line through it by least squares. */
struct trend {
    double n, t, y, tt, ty;
};

static void add_point(struct trend *s, double t, double y)
{
    s->n += 1;
    s->t += t;
    s->y += y;
    s->tt += t * t;
    s->ty += t * y;
}

/* KiB per second. */
static double slope(const struct trend *s)
{
    const double d = s->n * s->tt - s->t * s->t;
    return d > 0 ? (s->n * s->ty - s->t * s->y) / d : 0;
}

/* The C library's store of freed blocks (at most 7 of each of 64 sizes per thread) is seen as
 * memory in use while it fills, over hundreds of cycles. It is set up before main. */
static void without_store(char **argv)
{
    static const char name[] = "GLIBC_TUNABLES", off[] = "glibc.malloc.tcache_count=0";
    if (getenv(name))
        return;
    if (setenv(name, off, 1) == 0)
        execv("/proc/self/exe", argv);
}

/* All scenarios once, and the calls that fail. What went wrong. */
static int cycle(int64_t number)
{
    int bad = 0;
    for (int i = 0; i < n_scenarios; i++) {
        struct run r = { .f = &fixture, .kind = INJECT_NOTHING,
                         .threads = 1 + (int32_t)(number % 3) };
        scenarios[i].play(&r);
        if (r.wrong[0])
            printf("# %s: %s\n", scenarios[i].name, r.wrong);
        bad += r.wrong[0] != 0;
        fixture_empty(fixture.scratch);
    }
    return bad + fail_some();
}

int main(int argc, char **argv)
{
    const double minutes = argc > 1 ? atof(argv[1]) : 0.03;
    int64_t cycles = 0, blocks = 0;
    int bad = 0, descriptors = 0;
    double first = 0, most = 0;
    size_t used = 0;
    struct trend trend = { 0 };
    without_store(argv);
    if (!(minutes > 0) || !fixture_make(&fixture))
        return 1;
    const double start = now();
    while (!bad && (now() - start < 60 * minutes || cycles < 6)) {
        bad += cycle(cycles++);
        /* What the C library keeps for later is no growth; the first fifth, with every number of
         * threads, warms up. */
        malloc_trim(0);
        const double kib = resident();
        if (first == 0 && cycles >= 3 && now() - start >= 12 * minutes) {
            first = kib;
            descriptors = fixture_descriptors();
            blocks = inject_blocks();
            used = mallinfo2().uordblks;
        }
        if (first > 0)
            add_point(&trend, now() - start, kib);
        most = first > 0 && kib > most ? kib : most;
    }
    const double last = resident(), day = 86400 * slope(&trend);
    const long long more = inject_blocks() - blocks,
                    bytes = (long long)mallinfo2().uordblks - (long long)used;
    const int grown = fixture_descriptors() - descriptors;
    /* A page or two of noise is above 1% of nothing: 1 MiB is allowed to short runs. */
    const bool steady = last <= first * 1.01 || last - first <= (minutes < 1 ? 1024 : 0);
    printf("%sok 1 - %lld cycles in %.1f s: memory %.0f KiB, then %.0f (%+.2f%%, at most %.0f)\n",
           steady && !bad ? "" : "not ", (long long)cycles, now() - start, first, last,
           100 * (last - first) / first, most);
    if (minutes >= 1)
        printf("# trend %+.2f KiB an hour: %+.2f%% in 24 hours\n", day / 24, 100 * day / first);
    printf("%sok 2 - descriptors: %+d\n", grown == 0 ? "" : "not ", grown);
    printf("%sok 3 - blocks of memory: %+lld, %+lld bytes\n1..3\n", more <= 0 ? "" : "not ", more,
           bytes);
    fixture_remove(&fixture);
    return bad || !steady || grown != 0 || more > 0;
}
