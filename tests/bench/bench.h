/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the programs of this folder share: options, timing, random data, results as one JSON object
 * per line. Any failure ends the program with a message: they are tools, not tests.
 */
#ifndef QSAE_TESTS_BENCH_H
#define QSAE_TESTS_BENCH_H

#include <stdbool.h>
#include <stdint.h>

#include <qsae/qsae.h>

#include "core/core.h"

#define BENCH_THREADS 8

/*
 * Options of every program:
 *   --cpu LEVEL       highest kernel level
 *   --threads A,B     thread counts, one after the other (default 1,2)
 *   --seconds S       time spent on a figure after the warm-up (default 0.6)
 *   --repeats N       but at least so many calls (default 3)
 *   --smoke           tiny sizes, one call: shows that the program works
 */
typedef struct bench {
    const char *program;
    const char *cpu;
    int32_t threads[BENCH_THREADS];
    int n_threads;
    double seconds;
    int repeats;
    bool smoke;
    int argc;
    char **argv;
    const char *argument; /* the last argument that is no option, or NULL */
} bench;

/* options: the program's own, each "--name" taking a value, separated by spaces. usage: one line */
void bench_open(bench *b, const char *program, int argc, char **argv, const char *options,
                const char *usage);
const char *bench_option(const bench *b, const char *name, const char *fallback);
int64_t bench_number(const bench *b, const char *name, int64_t fallback);
/* Part i of a list, copied to part[size]; false beyond the last. */
bool bench_part(const char *list, char separator, int i, char *part, size_t size);

qsae_context *bench_context(const bench *b, int32_t threads);
void bench_check(const bench *b, int32_t status);
double bench_now(void);

/* Memory of malloc, 64-byte aligned, on huge pages where the system gives them. */
void *bench_alloc(int64_t count, size_t size);

/* Values of roughly normal distribution, and codes in [-127, 127]: zeros would run faster. */
void bench_normal(float *x, int64_t n, float scale, uint64_t seed);
void bench_normal_bf16(uint16_t *x, int64_t n, float scale, uint64_t seed);
void bench_codes(int8_t *x, int64_t n, uint64_t seed);

/* Peak and present resident memory, MiB; the peak starts anew after bench_reset_peak. */
double bench_peak_mb(void);
void bench_reset_peak(void);

typedef struct bench_stats {
    double median, best; /* seconds */
    int n;
} bench_stats;

/* Calls fn once unmeasured, then as often as the options say (at most 50 times). */
bench_stats bench_time(const bench *b, int32_t (*fn)(void *), void *arg);

/* One line: {"bench": program, "what": ..., FIELDS, "threads": ..., "level": ..., "median": ...,
 * "best": ..., "unit": ..., "repeats": n}. FIELDS: members made by printf, or "".
 * rate: work / seconds. cost: seconds * scale. */
void bench_rate(const bench *b, const qsae_context *ctx, bench_stats t, double work,
                const char *unit, const char *what, const char *fields, ...)
    __attribute__((format(printf, 7, 8)));
void bench_cost(const bench *b, const qsae_context *ctx, bench_stats t, double scale,
                const char *unit, const char *what, const char *fields, ...)
    __attribute__((format(printf, 7, 8)));

#endif
