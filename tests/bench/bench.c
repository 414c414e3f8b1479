/* SPDX-License-Identifier: BSD-2-Clause */
#include "bench.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define MAX_CALLS 50
#define HUGE_PAGE ((size_t)2 << 20)

static _Noreturn void stop(const char *program, const char *message, const char *detail)
{
    fprintf(stderr, "bench_%s: %s%s\n", program, message, detail);
    exit(2);
}

/* Whether `name` is one of the words of `list`. */
static bool listed(const char *list, const char *name)
{
    const size_t n = strlen(name);
    for (const char *p = list; (p = strstr(p, name)) != NULL; p += n)
        if ((p == list || p[-1] == ' ') && (p[n] == ' ' || p[n] == 0))
            return true;
    return false;
}

void bench_open(bench *b, const char *program, int argc, char **argv, const char *options,
                const char *usage)
{
    *b = (bench){ .program = program, .seconds = 0.6, .repeats = 3, .argc = argc, .argv = argv };
    for (int i = 1; i < argc; i++) {
        const bool own = listed(options, argv[i]);
        if (strcmp(argv[i], "--smoke") == 0) {
            b->smoke = true;
        } else if (strncmp(argv[i], "--", 2) != 0) {
            b->argument = argv[i];
        } else if (!own && !listed("--cpu --threads --seconds --repeats", argv[i])) {
            fprintf(stderr, "usage: bench_%s [--cpu LEVEL] [--threads A,B] [--seconds S] "
                            "[--repeats N] [--smoke] %s\n", program, usage);
            exit(2);
        } else if (++i == argc) {
            stop(program, "a value is missing after ", argv[i - 1]);
        }
    }
    b->cpu = bench_option(b, "--cpu", NULL);
    b->seconds = b->smoke ? 0 : atof(bench_option(b, "--seconds", "0.6"));
    b->repeats = b->smoke ? 1 : (int)bench_number(b, "--repeats", 3);
    char part[16];
    const char *const threads = bench_option(b, "--threads", "1,2");
    while (b->n_threads < BENCH_THREADS &&
           bench_part(threads, ',', b->n_threads, part, sizeof part))
        b->threads[b->n_threads++] = (int32_t)atoi(part);
}

const char *bench_option(const bench *b, const char *name, const char *fallback)
{
    for (int i = 1; i + 1 < b->argc; i++)
        if (strcmp(b->argv[i], name) == 0)
            return b->argv[i + 1];
    return fallback;
}

int64_t bench_number(const bench *b, const char *name, int64_t fallback)
{
    const char *const s = bench_option(b, name, NULL);
    char *end;
    if (!s)
        return fallback;
    const long long v = strtoll(s, &end, 10);
    if (*end || end == s || v < 1)
        stop(b->program, "not a positive number: ", s);
    return v;
}

bool bench_part(const char *list, char separator, int i, char *part, size_t size)
{
    for (; i > 0; i--) {
        if (!(list = strchr(list, separator)))
            return false;
        list++;
    }
    const char *const end = strchr(list, separator);
    const size_t n = end ? (size_t)(end - list) : strlen(list);
    if (n == 0 || n >= size)
        return false;
    memcpy(part, list, n);
    part[n] = 0;
    return true;
}

qsae_context *bench_context(const bench *b, int32_t threads)
{
    qsae_context_settings s;
    qsae_context *ctx;
    qsae_context_settings_init(&s, sizeof s);
    s.threads = threads;
    s.cpu = b->cpu;
    bench_check(b, qsae_context_open(&s, &ctx));
    return ctx;
}

void bench_check(const bench *b, int32_t status)
{
    if (status != QSAE_OK)
        stop(b->program, "", qsae_error_message());
}

double bench_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void *bench_alloc(int64_t count, size_t size)
{
    const size_t bytes = (size_t)count * size;
    const bool huge = bytes >= HUGE_PAGE;
    const size_t align = huge ? HUGE_PAGE : 64;
    void *const p = aligned_alloc(align, (bytes + align - 1) / align * align + align);
    if (!p)
        stop("alloc", "out of memory", "");
    if (huge)
        madvise(p, bytes, MADV_HUGEPAGE);
    return p;
}

/* xorshift64*, 64 bits a call. */
static uint64_t next_bits(uint64_t *state)
{
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * 0x2545F4914F6CDD1Du;
}

/* The sum of four uniform numbers has variance 1/3. */
static float next_normal(uint64_t *state)
{
    const uint64_t r = next_bits(state);
    const int64_t sum = (int64_t)(r & 0xFFFF) + (int64_t)(r >> 16 & 0xFFFF) +
                        (int64_t)(r >> 32 & 0xFFFF) + (int64_t)(r >> 48);
    return (float)(sum - 131070) * (1.7320508f / 65536);
}

void bench_normal(float *x, int64_t n, float scale, uint64_t seed)
{
    uint64_t state = seed * 0x9E3779B97F4A7C15u + 1;
    for (int64_t i = 0; i < n; i++)
        x[i] = scale * next_normal(&state);
}

void bench_normal_bf16(uint16_t *x, int64_t n, float scale, uint64_t seed)
{
    uint64_t state = seed * 0x9E3779B97F4A7C15u + 1;
    for (int64_t i = 0; i < n; i++) {
        const float v = scale * next_normal(&state);
        uint32_t u;
        memcpy(&u, &v, sizeof u);
        x[i] = (uint16_t)((u + 0x7FFF + (u >> 16 & 1)) >> 16);
    }
}

void bench_codes(int8_t *x, int64_t n, uint64_t seed)
{
    uint64_t state = seed * 0x9E3779B97F4A7C15u + 1;
    for (int64_t i = 0; i < n; i++)
        x[i] = (int8_t)((int)(next_bits(&state) % 255) - 127);
}

double bench_peak_mb(void)
{
    FILE *const f = fopen("/proc/self/status", "r");
    char line[256];
    double kb = 0;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %lf", &kb) == 1)
            break;
    if (f)
        fclose(f);
    return kb / 1024;
}

void bench_reset_peak(void)
{
    FILE *const f = fopen("/proc/self/clear_refs", "w");
    if (!f)
        return;
    fputs("5", f);
    fclose(f);
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

bench_stats bench_time(const bench *b, int32_t (*fn)(void *), void *arg)
{
    double t[MAX_CALLS], total = 0;
    int n = 0;
    bench_check(b, fn(arg));
    while (n < MAX_CALLS && (n < b->repeats || total < b->seconds)) {
        const double start = bench_now();
        bench_check(b, fn(arg));
        t[n] = bench_now() - start;
        total += t[n++];
    }
    qsort(t, (size_t)n, sizeof t[0], ascending);
    return (bench_stats){ n % 2 ? t[n / 2] : (t[n / 2 - 1] + t[n / 2]) / 2, t[0], n };
}

static void line(const bench *b, const qsae_context *ctx, int n, double median, double best,
                 const char *unit, const char *what, const char *fields, va_list args)
{
    printf("{\"bench\": \"%s\", \"what\": \"%s\", ", b->program, what);
    vprintf(fields, args);
    printf("%s\"threads\": %d, \"level\": \"%s\", \"median\": %.6g, \"best\": %.6g, "
           "\"unit\": \"%s\", \"repeats\": %d}\n", fields[0] ? ", " : "",
           (int)qsae_context_threads(ctx), qsae_context_cpu(ctx), median, best, unit, n);
    fflush(stdout);
}

void bench_rate(const bench *b, const qsae_context *ctx, bench_stats t, double work,
                const char *unit, const char *what, const char *fields, ...)
{
    va_list args;
    va_start(args, fields);
    line(b, ctx, t.n, work / t.median, work / t.best, unit, what, fields, args);
    va_end(args);
}

void bench_cost(const bench *b, const qsae_context *ctx, bench_stats t, double scale,
                const char *unit, const char *what, const char *fields, ...)
{
    va_list args;
    va_start(args, fields);
    line(b, ctx, t.n, scale * t.median, scale * t.best, unit, what, fields, args);
    va_end(args);
}
