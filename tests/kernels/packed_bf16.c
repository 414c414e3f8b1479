/* SPDX-License-Identifier: BSD-2-Clause */
/* The bf16 product of AVX-512 BF16 against the order of sums that packed.h states, bit for bit, and
 * against f64. */
#include <math.h>
#include <stdlib.h>

#include "../support.h"
#include "kernels.h"

#include "kernels/kernels.h"
#include "kernels/packed.h"

#define GUARD 64 /* floats before and after c */

struct problem {
    qsae__packed_product p;
    uint8_t *a, *w;      /* p.a, p.w */
    float *memory, *c;   /* c at memory + GUARD: [m, ldc] */
    size_t count;        /* floats at memory */
};

static float flush(float x)
{
    return fabsf(x) < 0x1p-126f ? copysignf(0.0f, x) : x;
}

static float value(const uint8_t *at)
{
    uint16_t h;
    memcpy(&h, at, sizeof h);
    return flush(qsae__bf16_to_f32(h));
}

/* sum continued over the steps of one part. */
static float chain(const uint8_t *a, const uint8_t *w, int64_t steps, float sum)
{
    for (int64_t g = 0; g < steps * 16; g++) {
        const uint8_t *x = a + g / 16 * QSAE__STRIP_STEP + g % 16 * 4;
        const uint8_t *y = w + g * 4 * QSAE__COLUMNS;
        sum = flush(fmaf(value(x + 2), value(y + 2), flush(sum)));
        sum = flush(fmaf(value(x), value(y), sum));
    }
    return sum;
}

/* Element (i, j), which is c before. */
static float defined(const qsae__packed_product *p, int64_t i, int64_t j, float c)
{
    const uint8_t *a = p->a + i / QSAE__STRIP * p->a_strip + i % QSAE__STRIP * QSAE__STEP;
    const uint8_t *w = p->w + j / QSAE__COLUMNS * p->w_panel + j % QSAE__COLUMNS * 4;
    if (p->parts == 1)
        return chain(a, w, p->steps, p->add ? c : 0.0f);
    for (int64_t t = 0; t < p->steps; t += 8) {
        const int64_t steps = qsae__min_i64(8, p->steps - t);
        float sum = 0;
        for (int part = 2; part >= 0; part--)
            sum = chain(a + part * p->a_part + t * QSAE__STRIP_STEP, w + t * QSAE__PANEL_STEP,
                        steps, sum);
        c = t > 0 || p->add ? c + sum : sum;
    }
    return c;
}

/* Any bits; values near 1; all kinds of special values. */
static uint16_t next_value(int kind, uint32_t *seed)
{
    static const uint16_t special[] = { 0,      0x8000, 0x3f80, 0xbf80, 0x7f80, 0xff80, 0x7fc0,
                                        0xffc1, 0x0001, 0x807f, 0x0080, 0x8080, 0x7f7f, 0xff7f,
                                        0x1f80, 0x2000, 0x6000, 0x5f80 };
    const uint32_t r = next_random(seed);
    if (kind == 1)
        return (uint16_t)(r >> 8);
    if (kind == 2 && r % 4 == 0)
        return special[(r >> 8) % (sizeof special / sizeof special[0])];
    return (uint16_t)((r & 0x807f) | (118 + (r >> 16) % 10) << 7);
}

static void fill(uint8_t *at, int64_t bytes, int kind, uint32_t *seed)
{
    for (int64_t i = 0; i < bytes; i += 2) {
        const uint16_t h = next_value(kind, seed);
        memcpy(at + i, &h, sizeof h);
    }
}

static uint8_t *aligned(int64_t bytes)
{
    uint8_t *p = aligned_alloc(64, (size_t)((bytes + 63) / 64 * 64));
    assert_non_null(p);
    return p;
}

/* Rows, columns and gaps beyond the product hold numbers too: they must not matter. */
static void make(struct problem *q, int64_t m, int64_t n, int64_t steps, int kind, uint32_t *seed)
{
    const int64_t strips = (m + 15) / 16, panels = (n + 31) / 32;
    qsae__packed_product *p = &q->p;
    *p = (qsae__packed_product){ .m = m, .n = n, .steps = steps };
    p->more = next_random(seed) % 2; /* whatever is fetched, nothing changes */
    p->parts = next_random(seed) % 2 ? 1 : 3;
    p->a_part = steps * QSAE__STRIP_STEP + next_random(seed) % 3 * 64;
    p->a_strip = p->parts * p->a_part + next_random(seed) % 3 * 64;
    p->w_panel = steps * QSAE__PANEL_STEP + next_random(seed) % 3 * 64;
    p->ldc = n + next_random(seed) % 9;
    p->add = next_random(seed) % 2;
    p->a = q->a = aligned(strips * p->a_strip);
    p->w = q->w = aligned(panels * p->w_panel);
    fill(q->a, strips * p->a_strip, kind, seed);
    fill(q->w, panels * p->w_panel, kind, seed);
    q->count = (size_t)(m * p->ldc + 2 * GUARD);
    q->memory = malloc(q->count * sizeof(float));
    assert_non_null(q->memory);
    p->c = q->c = q->memory + GUARD;
    for (size_t i = 0; i < q->count; i++)
        q->memory[i] = kind == 1 ? qsae__f32_from_bits(next_random(seed)) : next_float(seed);
}

static void drop(struct problem *q)
{
    free(q->a);
    free(q->w);
    free(q->memory);
}

static bool same(float x, float y)
{
    return (x != x && y != y) || memcmp(&x, &y, sizeof x) == 0;
}

/* c was `before` and is q->c now. */
static void check(const struct problem *q, const float *before, uint32_t seed)
{
    const qsae__packed_product *p = &q->p;
    for (size_t i = 0; i < q->count; i++) {
        const int64_t at = (int64_t)i - GUARD, row = at / p->ldc, column = at % p->ldc;
        float want = before[i];
        if (at >= 0 && row < p->m && column < p->n)
            want = defined(p, row, column, want);
        else if (memcmp(&want, &q->memory[i], sizeof want) == 0)
            continue; /* canaries may be NaN, compared as bits */
        if (!same(want, q->memory[i]))
            fail_msg("seed %u: %lld x %lld x %lld steps, %d parts, add %d: [%lld, %lld] expected "
                     "%a, found %a", seed, (long long)p->m, (long long)p->n, (long long)p->steps,
                     p->parts, p->add, (long long)row, (long long)column, (double)want,
                     (double)q->memory[i]);
    }
}

static const qsae__packed_kernel *kernel_or_skip(void)
{
    if (!level_name(QSAE__LEVEL_AVX512BF16)) {
        printf("skipped: level avx512bf16 is not on this machine\n");
        skip();
    }
    const qsae__packed_kernel *k = qsae__packed_level(QSAE__LEVEL_AVX512BF16);
    assert_non_null(k->bf16);
    return k;
}

void test_packed_bf16_order(void **state)
{
    (void)state;
    const qsae__packed_kernel *k = kernel_or_skip();
    for (uint32_t round = 1; round <= 150; round++) {
        uint32_t seed = round * 2654435761u;
        const uint32_t first = seed;
        const int64_t m = 1 + next_random(&seed) % 40, n = 1 + next_random(&seed) % 70;
        const int64_t steps = 1 + next_random(&seed) % (round % 10 ? 6 : 20);
        struct problem q;
        make(&q, m, n, steps, (int)(round % 3), &seed);
        float *before = malloc(q.count * sizeof(float));
        assert_non_null(before);
        memcpy(before, q.memory, q.count * sizeof(float));
        k->bf16(&q.p);
        check(&q, before, first);
        free(before);
        drop(&q);
    }
}

/* Slabs of k, blocks of rows and of columns cut at random change no bit. */
void test_packed_bf16_cuts(void **state)
{
    (void)state;
    const qsae__packed_kernel *k = kernel_or_skip();
    for (uint32_t round = 1; round <= 60; round++) {
        uint32_t seed = round * 40503u + 7;
        const uint32_t first = seed;
        const int64_t m = 1 + next_random(&seed) % 100, n = 1 + next_random(&seed) % 200;
        struct problem q;
        make(&q, m, n, 1 + next_random(&seed) % 50, 0, &seed);
        const qsae__packed_product *p = &q.p;
        float *before = malloc(q.count * sizeof(float)), *whole = malloc(q.count * sizeof(float));
        assert_true(before && whole);
        memcpy(before, q.memory, q.count * sizeof(float));
        k->bf16(p);
        memcpy(whole, q.memory, q.count * sizeof(float));
        memcpy(q.memory, before, q.count * sizeof(float));
        const int64_t unit = p->parts == 1 ? 1 : QSAE__PARTS_BLOCK;
        const int64_t slab = unit * (1 + next_random(&seed) % 5);
        const int64_t rows = 16 * (1 + next_random(&seed) % 4);
        const int64_t columns = 32 * (1 + next_random(&seed) % 4);
        for (int64_t i = 0; i < m; i += rows)
            for (int64_t j = 0; j < n; j += columns)
                for (int64_t t = 0; t < p->steps; t += slab) {
                    qsae__packed_product part = *p;
                    part.m = qsae__min_i64(rows, m - i);
                    part.n = qsae__min_i64(columns, n - j);
                    part.steps = qsae__min_i64(slab, p->steps - t);
                    part.a += i / 16 * p->a_strip + t * QSAE__STRIP_STEP;
                    part.w += j / 32 * p->w_panel + t * QSAE__PANEL_STEP;
                    part.c = q.c + i * p->ldc + j;
                    part.add = p->add || t > 0;
                    part.more = t + slab < p->steps;
                    k->bf16(&part);
                }
        if (memcmp(whole, q.memory, q.count * sizeof(float)) != 0)
            fail_msg("seed %u: the cuts changed the product", first);
        free(before);
        free(whole);
        drop(&q);
    }
}

struct error {
    double square, worst; /* sum of squares; largest in units of 2^-24 sum |a w| */
};

static void add_error(struct error *e, double got, double want, double size)
{
    e->square += (got - want) * (got - want);
    e->worst = fmax(e->worst, fabs(got - want) / size * 0x1p24);
}

/* f32 rows times bf16 columns: the three parts err no more than the f32 product. bf16 rows: within
 * the bound of a chain. */
void test_packed_bf16_accuracy(void **state)
{
    (void)state;
    enum { M = 48, N = 64, K = 2100 };
    const qsae__packed_kernel *k = kernel_or_skip();
    uint32_t seed = 77;
    const int64_t steps = qsae__steps(K, 2), part = M * steps * QSAE__STEP;
    uint8_t *a = aligned(4 * part), *w = aligned(N * steps * QSAE__STEP);
    float *x = malloc(M * K * sizeof(float)), *f = malloc(N * K * sizeof(float));
    float *c = malloc(3 * M * N * sizeof(float));
    uint16_t *h = malloc(N * K * sizeof(uint16_t));
    assert_true(x && f && c && h);
    for (int i = 0; i < M * K; i++)
        x[i] = next_float(&seed) * (i % 13 ? 1.0f : 30.0f);
    for (int i = 0; i < N * K; i++) {
        h[i] = qsae__f32_to_bf16(next_float(&seed));
        f[i] = qsae__bf16_to_f32(h[i]);
    }
    for (int64_t i = 0; i < M; i += 16) {
        k->pack->split(x + i * K, K, 16, K, a + i * steps * QSAE__STEP, part);
        k->pack->rows(QSAE_F32, x + i * K, K, 16, K, a + 3 * part + i * steps * QSAE__STEP);
    }
    for (int64_t j = 0; j < N; j += 32)
        k->pack->panel(h + j * K, K, 32, K, w + j * steps * QSAE__STEP);
    qsae__packed_product p = { .m = M, .n = N, .steps = steps, .a = a, .parts = 3, .a_part = part,
                               .a_strip = steps * QSAE__STRIP_STEP, .w = w, .c = c, .ldc = N,
                               .w_panel = steps * QSAE__PANEL_STEP };
    k->bf16(&p);
    p.a = a + 3 * part;
    p.parts = 1;
    p.c = c + M * N;
    k->bf16(&p);
    qsae_context *ctx = open_context(NULL, 1);
    const qsae__dense d = { .data = f, .dtype = QSAE_F32, .level = ctx->level, .n_stride = K,
                            .k_stride = 1 };
    const qsae__panels panels = qsae__panels_dense(&d, N, K);
    assert_ok(qsae__gemm(ctx, M, x, K, &panels, c + 2 * M * N, N, NULL));
    qsae_context_close(&ctx);
    struct error e[3] = { { 0, 0 }, { 0, 0 }, { 0, 0 } }; /* parts, bf16, f32 */
    for (int i = 0; i < M * N; i++) {
        double want[2] = { 0, 0 }, size[2] = { 0, 0 };
        for (int t = 0; t < K; t++) {
            const double v = x[i / N * K + t], y = f[i % N * K + t];
            const double r = qsae__round_bf16(x[i / N * K + t]);
            want[0] += v * y;
            size[0] += fabs(v * y);
            want[1] += r * y;
            size[1] += fabs(r * y);
        }
        add_error(&e[0], (double)c[i], want[0], size[0]);
        add_error(&e[1], (double)c[M * N + i], want[1], size[1]);
        add_error(&e[2], (double)c[2 * M * N + i], want[0], size[0]);
    }
    printf("rms error of three parts %.3f times that of the f32 product, worst %.1f and %.1f of "
           "2^-24 sum |a w|\n", sqrt(e[0].square / e[2].square), e[0].worst, e[2].worst);
    assert_true(e[0].square <= 1.1 * e[2].square);
    assert_true(e[0].worst < 256 + K / 256 + 8);
    assert_true(e[1].worst < K + 8);
    free(a);
    free(w);
    free(x);
    free(f);
    free(c);
    free(h);
}
