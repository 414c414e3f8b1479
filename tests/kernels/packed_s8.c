/* SPDX-License-Identifier: BSD-2-Clause */
/* The int8 product of every level against exact sums, and the row operations of LLM.int8 against
 * the steps they join. */
#include <math.h>
#include <stdlib.h>

#include "../support.h"
#include "kernels.h"

#include "kernels/half.h"
#include "kernels/int8.h"
#include "kernels/packed.h"

#define CANARY 0x5ca1ab1e
#define SEED 20240611u

struct problem {
    int64_t m, n, k, steps, ldc;
    int64_t a_strip, w_panel;  /* with a gap behind each strip and panel */
    int8_t *x, *w;             /* [m, k], [n, k] */
    uint8_t *a, *panels;       /* packed */
    int32_t *start, *c;        /* [n], [m, ldc] */
};

static void *aligned(int64_t size)
{
    void *p = aligned_alloc(64, (size_t)((size + 64) / 64 * 64));
    assert_non_null(p);
    return p;
}

/* Written here again from packed.h; gaps hold what must not be read as a code. */
static void pack(struct problem *p, bool flipped)
{
    const int64_t strips = (p->m + 15) / 16, panels = (p->n + 31) / 32;
    memset(p->a, 0x77, (size_t)(strips * p->a_strip));
    memset(p->panels, 0x77, (size_t)(panels * p->w_panel));
    for (int64_t s = 0; s < strips; s++)
        memset(p->a + s * p->a_strip, flipped ? 0x80 : 0, (size_t)p->steps * QSAE__STRIP_STEP);
    for (int64_t s = 0; s < panels; s++)
        memset(p->panels + s * p->w_panel, 0, (size_t)p->steps * QSAE__PANEL_STEP);
    for (int64_t i = 0; i < p->m; i++)
        for (int64_t k = 0; k < p->k; k++)
            p->a[i / 16 * p->a_strip + k / 64 * QSAE__STRIP_STEP + i % 16 * 64 + k % 64] =
                (uint8_t)((uint8_t)p->x[i * p->k + k] ^ (flipped ? 0x80 : 0));
    for (int64_t j = 0; j < p->n; j++) {
        int64_t sum = 0;
        for (int64_t k = 0; k < p->k; k++) {
            sum += p->w[j * p->k + k];
            p->panels[j / 32 * p->w_panel + k / 4 * 128 + j % 32 * 4 + k % 4] =
                (uint8_t)p->w[j * p->k + k];
        }
        p->start[j] = (int32_t)(uint32_t)(flipped ? -128 * sum : 0);
    }
}

/* extreme: 0 random codes, 1 all 127, 2 rows of 127 against columns of -127 */
static void make(struct problem *p, int64_t m, int64_t n, int64_t k, int extreme, uint32_t *seed)
{
    *p = (struct problem){ .m = m, .n = n, .k = k, .steps = qsae__steps(k, 1), .ldc = n + m % 7 };
    p->a_strip = p->steps * QSAE__STRIP_STEP + 64 * (n % 3);
    p->w_panel = p->steps * QSAE__PANEL_STEP + 64 * (m % 3);
    p->x = aligned(m * k);
    p->w = aligned(n * k);
    p->a = aligned((m + 15) / 16 * p->a_strip);
    p->panels = aligned((n + 31) / 32 * p->w_panel);
    p->start = malloc(sizeof(int32_t) * (size_t)n);
    p->c = malloc(sizeof(int32_t) * (size_t)(m * p->ldc));
    assert_true(p->start && p->c);
    for (int64_t i = 0; i < m * k; i++)
        p->x[i] = (int8_t)(extreme ? 127 : (int)(next_random(seed) % 255) - 127);
    for (int64_t i = 0; i < n * k; i++)
        p->w[i] = (int8_t)(extreme ? (extreme == 1 ? 127 : -127)
                                   : (int)(next_random(seed) % 255) - 127);
    for (int64_t i = 0; i < m * p->ldc; i++)
        p->c[i] = CANARY;
}

static void drop(struct problem *p)
{
    free(p->x);
    free(p->w);
    free(p->a);
    free(p->panels);
    free(p->start);
    free(p->c);
}

/* `add`: what every element had before. */
static void check(const struct problem *p, int64_t add, int level, uint32_t seed)
{
    for (int64_t i = 0; i < p->m; i++) {
        for (int64_t j = 0; j < p->n; j++) {
            int64_t want = add;
            for (int64_t k = 0; k < p->k; k++)
                want += p->x[i * p->k + k] * p->w[j * p->k + k];
            if (p->c[i * p->ldc + j] != (int32_t)want)
                fail_msg("level %s, seed %u, %lldx%lldx%lld: [%lld, %lld] expected %lld, found %d",
                         level_name(level), seed, (long long)p->m, (long long)p->n,
                         (long long)p->k, (long long)i, (long long)j, (long long)want,
                         p->c[i * p->ldc + j]);
        }
        for (int64_t j = p->n; j < p->ldc; j++)
            if (p->c[i * p->ldc + j] != CANARY)
                fail_msg("level %s, seed %u: wrote beyond row %lld", level_name(level), seed,
                         (long long)i);
    }
}

static qsae__packed_product whole(const struct problem *p, bool flipped)
{
    return (qsae__packed_product){ .m = p->m, .n = p->n, .steps = p->steps, .a = p->a,
                                   .a_strip = p->a_strip, .parts = 1, .w = p->panels,
                                   .w_panel = p->w_panel, .c = p->c, .ldc = p->ldc,
                                   .start = flipped ? p->start : NULL };
}

void test_packed_s8(void **state)
{
    (void)state;
    static const int64_t sizes[] = { 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 40, 47, 50, 64, 70 };
    static const int64_t depths[] = { 1, 3, 4, 63, 64, 65, 130, 511, 512, 577, 1200 };
    const int n_sizes = sizeof sizes / sizeof sizes[0], n_k = sizeof depths / sizeof depths[0];
    for (int level = 0; level_name(level); level++) {
        const qsae__packed_kernel *kernel = qsae__packed_level(level);
        uint32_t seed = SEED;
        for (int im = 0; im < n_sizes; im++)
            for (int in = 0; in < n_sizes; in++) {
                const uint32_t began = seed;
                struct problem p;
                make(&p, sizes[im], sizes[in], depths[next_random(&seed) % (uint32_t)n_k],
                     (im + in) % 4 == 3 ? 1 + im % 2 : 0, &seed);
                pack(&p, kernel->flipped);
                qsae__packed_product call = whole(&p, kernel->flipped);
                kernel->s8(&call);
                check(&p, 0, level, began);
                /* once more on top: start must not count again */
                for (int64_t i = 0; i < p.m; i++)
                    for (int64_t j = 0; j < p.n; j++)
                        p.c[i * p.ldc + j] = 12345 + (kernel->flipped ? p.start[j] : 0);
                call.add = true;
                kernel->s8(&call);
                check(&p, 12345, level, began);
                drop(&p);
            }
    }
}

/* Sums start from `start` where nothing is flipped as well. */
void test_packed_s8_start(void **state)
{
    (void)state;
    uint32_t seed = SEED + 1;
    for (int level = 0; level_name(level); level++) {
        const qsae__packed_kernel *kernel = qsae__packed_level(level);
        struct problem p;
        make(&p, 21, 45, 100, 0, &seed);
        pack(&p, kernel->flipped);
        for (int64_t j = 0; j < p.n; j++)
            p.start[j] += 777;
        const qsae__packed_product call = whole(&p, true);
        kernel->s8(&call);
        check(&p, 777, level, SEED + 1);
        drop(&p);
    }
}

/* Rows cut at strips, columns at panels, k at steps, all at random. */
void test_packed_s8_cuts(void **state)
{
    (void)state;
    for (int level = 0; level_name(level); level++) {
        const qsae__packed_kernel *kernel = qsae__packed_level(level);
        uint32_t seed = SEED + 2;
        for (int round = 0; round < 12; round++) {
            const uint32_t began = seed;
            struct problem p;
            make(&p, 16 + next_random(&seed) % 70, 32 + next_random(&seed) % 100,
                 640 + next_random(&seed) % 1500, 0, &seed);
            pack(&p, kernel->flipped);
            int64_t i1, j1, t1;
            for (int64_t i = 0; i < p.m; i = i1) {
                i1 = qsae__min_i64(p.m, i + 16 * (1 + next_random(&seed) % 3));
                for (int64_t j = 0; j < p.n; j = j1) {
                    j1 = qsae__min_i64(p.n, j + 32 * (1 + next_random(&seed) % 2));
                    for (int64_t t = 0; t < p.steps; t = t1) {
                        t1 = qsae__min_i64(p.steps, t + 1 + next_random(&seed) % 20);
                        qsae__packed_product call = whole(&p, kernel->flipped);
                        call.m = i1 - i;
                        call.n = j1 - j;
                        call.steps = t1 - t;
                        call.a += i / 16 * p.a_strip + t * QSAE__STRIP_STEP;
                        call.w += j / 32 * p.w_panel + t * QSAE__PANEL_STEP;
                        call.c = p.c + i * p.ldc + j;
                        call.start = call.start ? call.start + j : NULL;
                        call.add = t > 0;
                        kernel->s8(&call);
                    }
                }
            }
            check(&p, 0, level, began);
            drop(&p);
        }
    }
}

/* The longest sums that fit int32, at their extremes. */
void test_packed_s8_longest(void **state)
{
    (void)state;
    uint32_t seed = SEED + 3;
    for (int level = 0; level_name(level); level++)
        for (int extreme = 1; extreme <= 2; extreme++) {
            const qsae__packed_kernel *kernel = qsae__packed_level(level);
            struct problem p;
            make(&p, 3, 34, QSAE__S8_MAX_K, extreme, &seed);
            pack(&p, kernel->flipped);
            const qsae__packed_product call = whole(&p, kernel->flipped);
            kernel->s8(&call);
            check(&p, 0, level, SEED + 3);
            drop(&p);
        }
}

#define MOST 70000

struct rows {
    float *x;          /* [MOST] */
    uint16_t *x16;     /* the values of x that are bf16, in step with x where bf16 is set */
    uint8_t *outlier, *want_outlier;
    int8_t *q;
};

/* One call of scan and quantize on n values at x, or on the same as bf16. */
static void check_row(const qsae__int8_ops *ops, const struct rows *r, int64_t at, int64_t n,
                      bool bf16, float limit, bool mark)
{
    const float *x = r->x + at;
    bool nan = false, want_nan = false;
    float want = 0;
    for (int64_t i = 0; i < n; i++) {
        const float v = fabsf(qsae__round_f16(x[i]));
        r->want_outlier[i] = mark && i % 11 == 5; /* set before: stays */
        r->outlier[i] = r->want_outlier[i];
        if (v != v)
            want_nan = true;
        else if (mark && v >= limit)
            r->want_outlier[i] = 1;
        else if (v > want)
            want = v;
    }
    r->outlier[n] = 0x5a;
    uint8_t *outlier = mark ? r->outlier : NULL;
    const float got = bf16 ? ops->scan_row16(r->x16 + at, n, limit, outlier, &nan)
                           : ops->scan_row(x, n, limit, outlier, &nan);
    assert_memory_equal(&got, &want, sizeof got);
    assert_int_equal(nan, want_nan);
    assert_memory_equal(r->outlier, r->want_outlier, (size_t)n);
    assert_int_equal(r->outlier[n], 0x5a);
    const float scales[] = { 127.0f * (1.0f / want), 0.37f, NAN };
    for (int s = 0; s < 3; s++) {
        memset(r->q, 0x5a, (size_t)n + 1);
        if (bf16)
            ops->quantize_row16(r->x16 + at, scales[s], outlier, r->q, n);
        else
            ops->quantize_row(x, scales[s], outlier, r->q, n);
        assert_int_equal(r->q[n], 0x5a);
        for (int64_t i = 0; i < n; i++) {
            const float v = qsae__round_f16(x[i]) * scales[s];
            if (!(fabsf(v) < 127.5f) && v == v && !(outlier && outlier[i]))
                continue; /* not defined */
            const int code = v != v || (outlier && outlier[i]) ? 0 : (int)nearbyintf(v);
            if (r->q[i] != code)
                fail_msg("%a * %a: expected %d, found %d", (double)x[i], (double)scales[s], code,
                         r->q[i]);
        }
    }
}

static void open_rows(struct rows *r)
{
    r->x = malloc(MOST * sizeof *r->x);
    r->x16 = malloc(MOST * sizeof *r->x16);
    r->outlier = malloc(MOST + 1);
    r->want_outlier = malloc(MOST + 1);
    r->q = malloc(MOST + 1);
    assert_true(r->x && r->x16 && r->outlier && r->want_outlier && r->q);
}

static void close_rows(struct rows *r)
{
    free(r->x);
    free(r->x16);
    free(r->outlier);
    free(r->want_outlier);
    free(r->q);
}

static void check_limits(const qsae__int8_ops *ops, const struct rows *r, int64_t at, int64_t n,
                         bool bf16)
{
    /* thresholds are f16 values in the codec; others must do as well */
    static const float limits[] = { 6, INFINITY, 0x1p-24f, 0x1.8p-15f, 65504, 1.0005f, 0, 2049 };
    check_row(ops, r, at, n, bf16, INFINITY, false);
    for (size_t l = 0; l < sizeof limits / sizeof limits[0]; l++)
        check_row(ops, r, at, n, bf16, limits[l], true);
}

void test_int8_rows(void **state)
{
    (void)state;
    struct rows r;
    open_rows(&r);
    for (int level = 0; level_name(level); level++) {
        qsae_context *ctx = open_context(level_name(level), 1);
        const qsae__int8_ops *ops = qsae__int8_get(ctx);
        uint32_t seed = SEED;
        /* every bf16 value, together and in short rows */
        for (int64_t i = 0; i < 65536; i++) {
            r.x16[i] = (uint16_t)i;
            r.x[i] = qsae__bf16_to_f32((uint16_t)i);
        }
        for (int bf16 = 0; bf16 < 2; bf16++) {
            check_limits(ops, &r, 0, 65536, bf16);
            for (int64_t at = 0, n; at + 150 < 65536; at += n)
                check_row(ops, &r, at, n = 1 + next_random(&seed) % 149, bf16, 6, at % 2);
        }
        /* numbers around what f16 makes of them: halfway, next to it, and any bits at all */
        for (int64_t i = 0; i < 65536; i++) {
            const float v = qsae__f16_to_f32((uint16_t)i);
            const uint32_t u = qsae__f32_bits(v);
            r.x[i] = qsae__f32_from_bits(u + (uint32_t[]){ 0, 0xfff, 0x1000, 0x1001 }[i % 4]);
        }
        check_limits(ops, &r, 0, 65536, false);
        for (int round = 0; round < 4; round++) {
            for (int64_t i = 0; i < MOST; i++)
                r.x[i] = round < 2 ? qsae__f32_from_bits(next_random(&seed))
                                   : next_float(&seed) * (round == 2 ? 8.0f : 0x1p-13f);
            check_limits(ops, &r, 0, MOST, false);
        }
        /* lengths without bf16 or special values */
        for (int64_t n = 0; n < 200; n++)
            check_limits(ops, &r, n % 5, n, false);
        qsae_context_close(&ctx);
    }
    close_rows(&r);
}

/* The layer's own steps, one at a time. */
static float scale_one(int32_t sum, float row, float column, const float *bias, bool torch,
                       int32_t dtype)
{
    float y;
    if (torch) {
        y = (float)sum * (row * column) * 6.200124e-05f;
        if (bias)
            y += *bias;
        return dtype == QSAE_BF16 ? qsae__round_bf16(y)
                                  : dtype == QSAE_F16 ? qsae__round_f16(y) : y;
    }
    const float v = (float)sum * row * column;
    if (bias && dtype == QSAE_F16)
        return qsae__round_f16(fmaf(v, 6.200012e-05f, *bias));
    y = qsae__round_f16(v * 6.200012e-05f);
    if (bias)
        y = qsae__round_f16(y + *bias);
    return dtype == QSAE_BF16 ? qsae__round_bf16(y) : y;
}

void test_int8_scale(void **state)
{
    (void)state;
    enum { N = 203 };
    static const int32_t dtypes[] = { QSAE_F32, QSAE_BF16, QSAE_F16 };
    static const float rows[] = { 3.7f, 0, 1e-20f, 4e4f, INFINITY, NAN };
    int32_t sum[N];
    float column[N], bias[N], y[N + 1];
    for (int level = 0; level_name(level); level++) {
        qsae_context *ctx = open_context(level_name(level), 1);
        const qsae__int8_ops *ops = qsae__int8_get(ctx);
        uint32_t seed = SEED;
        for (int round = 0; round < 6 * 2 * 2 * 3 * 25; round++) {
            const bool torch = round & 1, add = round & 2;
            const int32_t dtype = dtypes[round / 4 % 3];
            const float row = rows[round / 12 % 6];
            const int64_t n = next_random(&seed) % (N + 1);
            for (int i = 0; i < N; i++) {
                sum[i] = (int32_t)next_random(&seed) >> (next_random(&seed) % 31);
                column[i] = next_float(&seed) * (i % 37 == 0 ? 1e-6f : 0.4f);
                bias[i] = i % 29 == 28 ? qsae__f32_from_bits(next_random(&seed))
                                       : next_float(&seed);
            }
            y[n] = -7;
            ops->scale_row(sum, row, column, add ? bias : NULL, n,
                           torch ? QSAE__SCALE_TORCH : QSAE__SCALE_CUDA, dtype, y);
            assert_true(y[n] == -7);
            for (int64_t i = 0; i < n; i++) {
                const float want =
                    scale_one(sum[i], row, column[i], add ? &bias[i] : NULL, torch, dtype);
                if (qsae__f32_bits(y[i]) != qsae__f32_bits(want) && !(isnan(y[i]) && isnan(want)))
                    fail_msg("level %s, round %d: %d * %a * %a expected %a, found %a",
                             level_name(level), round, sum[i], (double)row, (double)column[i],
                             (double)want, (double)y[i]);
            }
        }
        qsae_context_close(&ctx);
    }
}
