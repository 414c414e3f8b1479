/* SPDX-License-Identifier: BSD-2-Clause */
/* The f32 product of every level against its definition, bit for bit. */
#include <math.h>
#include <stdlib.h>

#include "../support.h"
#include "kernels.h"

#include "kernels/gemm_kernels.h"
#include "kernels/kernels.h"

#define CANARY 1234.5f

/* Written here again from the definition in gemm.h. */
static float defined(const float *a, const float *w, int64_t k)
{
    float sum = 0;
    for (int64_t b = 0; b * 256 < k; b++) {
        float part = 0;
        for (int64_t i = b * 256; i < k && i < (b + 1) * 256; i++)
            part = fmaf(a[i], w[i], part);
        sum = b ? sum + part : part;
    }
    return sum;
}

struct problem {
    int64_t m, n, k, lda, ldc;
    float *a, *w, *c;      /* a[m, lda], w[n, k], c[m, ldc] */
};

static void make(struct problem *p, int64_t m, int64_t n, int64_t k, uint32_t seed)
{
    *p = (struct problem){ .m = m, .n = n, .k = k, .lda = k + seed % 5, .ldc = n + seed % 7 };
    p->a = malloc(sizeof(float) * (size_t)(m * p->lda + 1));
    p->w = malloc(sizeof(float) * (size_t)(n * k + 1));
    p->c = malloc(sizeof(float) * (size_t)(m * p->ldc + 1));
    assert_true(p->a && p->w && p->c);
    for (int64_t i = 0; i < m * p->lda; i++)
        p->a[i] = next_float(&seed) * (i % 11 == 0 ? 100.0f : 1.0f);
    for (int64_t i = 0; i < n * k; i++)
        p->w[i] = next_float(&seed);
    for (int64_t i = 0; i < m * p->ldc; i++)
        p->c[i] = CANARY;
}

static void drop(struct problem *p)
{
    free(p->a);
    free(p->w);
    free(p->c);
}

static void check(const struct problem *p)
{
    for (int64_t i = 0; i < p->m; i++) {
        for (int64_t j = 0; j < p->n; j++) {
            const float want = defined(p->a + i * p->lda, p->w + j * p->k, p->k);
            if (memcmp(&want, &p->c[i * p->ldc + j], sizeof want) != 0)
                fail_msg("%lldx%lldx%lld: [%lld, %lld] expected %a, found %a", (long long)p->m,
                         (long long)p->n, (long long)p->k, (long long)i, (long long)j, (double)want,
                         (double)p->c[i * p->ldc + j]);
        }
        for (int64_t j = p->n; j < p->ldc; j++)
            assert_true(p->c[i * p->ldc + j] == CANARY); /* nothing written beyond a row */
    }
}

static const int64_t shapes[][3] = {
    { 1, 1, 1 },    { 1, 31, 7 },     { 3, 32, 256 },   { 5, 33, 257 },   { 6, 16, 64 },
    { 7, 48, 512 }, { 13, 65, 300 },  { 14, 64, 100 },  { 15, 40, 511 },  { 29, 700, 270 },
    { 2, 513, 33 }, { 40, 17, 1024 }, { 16, 96, 1024 }, { 28, 64, 2048 },
};

static void run_shapes(qsae_context *ctx)
{
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        struct problem p;
        make(&p, shapes[s][0], shapes[s][1], shapes[s][2], (uint32_t)s + 1);
        const qsae__dense d = { .data = p.w, .dtype = QSAE_F32, .level = ctx->level,
                                .n_stride = p.k, .k_stride = 1 };
        const qsae__panels w = qsae__panels_dense(&d, p.n, p.k);
        assert_ok(qsae__gemm(ctx, p.m, p.a, p.lda, &w, p.c, p.ldc, NULL));
        check(&p);
        assert_true(qsae__gemm_dot(p.k, p.a, p.w, 1) == p.c[0]);
        drop(&p);
    }
}

void test_gemm_levels(void **state)
{
    (void)state;
    for (int level = 0; level_name(level); level++) {
        qsae_context *ctx = open_context(level_name(level), 1);
        run_shapes(ctx);
        qsae_context_close(&ctx);
    }
}

/* Weights along k, along n, with gaps; bf16 and f16; rounded on the way. */
void test_gemm_sources(void **state)
{
    (void)state;
    for (int level = 0; level_name(level); level++) {
        qsae_context *ctx = open_context(level_name(level), 1);
        struct problem p;
        make(&p, 9, 77, 290, 5);
        const int64_t total = p.n * p.k;
        float *t = malloc(sizeof(float) * (size_t)total * 2);
        uint16_t *half = malloc(sizeof(uint16_t) * (size_t)total);
        assert_true(t && half);
        for (int64_t n = 0; n < p.n; n++)
            for (int64_t k = 0; k < p.k; k++)
                t[k * p.n + n] = p.w[n * p.k + k];
        qsae__dense d = { .data = t, .dtype = QSAE_F32, .level = ctx->level, .n_stride = 1,
                          .k_stride = p.n };
        qsae__panels w = qsae__panels_dense(&d, p.n, p.k);
        assert_ok(qsae__gemm(ctx, p.m, p.a, p.lda, &w, p.c, p.ldc, NULL));
        check(&p);
        for (int64_t n = 0; n < p.n; n++)
            for (int64_t k = 0; k < p.k; k++)
                t[(k * p.n + n) * 2] = p.w[n * p.k + k];
        d.n_stride = 2;
        d.k_stride = 2 * p.n;
        assert_ok(qsae__gemm(ctx, p.m, p.a, p.lda, &w, p.c, p.ldc, NULL));
        check(&p);
        d = (qsae__dense){ .data = p.w, .dtype = QSAE_F32, .round = QSAE_BF16, .n_stride = p.k,
                           .k_stride = 1 };
        float *rounded = malloc(sizeof(float) * (size_t)(p.m * p.ldc));
        assert_non_null(rounded);
        assert_ok(qsae__gemm(ctx, p.m, p.a, p.lda, &w, rounded, p.ldc, NULL));
        for (int64_t i = 0; i < total; i++) {
            half[i] = qsae__f32_to_bf16(p.w[i]);
            p.w[i] = qsae__bf16_to_f32(half[i]);
        }
        d = (qsae__dense){ .data = half, .dtype = QSAE_BF16, .level = ctx->level, .n_stride = p.k,
                           .k_stride = 1 };
        assert_ok(qsae__gemm(ctx, p.m, p.a, p.lda, &w, p.c, p.ldc, NULL));
        check(&p);
        for (int64_t i = 0; i < p.m; i++)
            assert_memory_equal(rounded + i * p.ldc, p.c + i * p.ldc, sizeof(float) * (size_t)p.n);
        free(rounded);
        free(t);
        free(half);
        drop(&p);
        qsae_context_close(&ctx);
    }
}

static int32_t negate(void *self, int64_t m0, int64_t m1, int64_t n0, int64_t n1, float *c,
                      int64_t ldc, int32_t worker)
{
    (void)worker;
    for (int64_t i = 0; i < m1 - m0; i++)
        for (int64_t j = 0; j < n1 - n0; j++)
            c[i * ldc + j] = -c[i * ldc + j];
    return self && m0 <= *(int64_t *)self && *(int64_t *)self < m1
               ? qsae__fail(QSAE_EIO, "epilogue")
               : QSAE_OK;
}

void test_gemm_threads(void **state)
{
    (void)state;
    struct problem p;
    make(&p, 150, 650, 300, 9);
    float *one = malloc(sizeof(float) * (size_t)(p.m * p.ldc));
    assert_non_null(one);
    const int32_t counts[] = { 1, 2, 3, 8 };
    for (int t = 0; t < 4; t++) {
        qsae_context *ctx = open_context(NULL, counts[t]);
        const qsae__dense d = {
            .data = p.w, .dtype = QSAE_F32, .level = ctx->level, .n_stride = p.k, .k_stride = 1
        };
        const qsae__panels w = qsae__panels_dense(&d, p.n, p.k);
        const qsae__epilogue e = { .tile = negate };
        assert_ok(qsae__gemm(ctx, p.m, p.a, p.lda, &w, p.c, p.ldc, &e));
        if (t == 0)
            memcpy(one, p.c, sizeof(float) * (size_t)(p.m * p.ldc));
        assert_memory_equal(one, p.c, sizeof(float) * (size_t)(p.m * p.ldc));
        int64_t row = 70;
        const qsae__epilogue bad = { .tile = negate, .self = &row };
        assert_fails(qsae__gemm(ctx, p.m, p.a, p.lda, &w, p.c, p.ldc, &bad), QSAE_EIO, "epilogue");
        qsae_context_close(&ctx);
    }
    for (int64_t i = 0; i < p.m * p.ldc; i++)
        p.c[i] = one[i] == CANARY ? CANARY : -one[i];
    check(&p);
    free(one);
    drop(&p);
}

/* Asked for, BLIS computes the defined products, or no context opens. */
void test_gemm_blis(void **state)
{
    (void)state;
    if (!level_name(1)) {
        printf("skipped: BLIS is not used below AVX2\n");
        skip();
    }
    for (int level = 1; level_name(level); level++) {
        char cpu[32];
        qsae_context_settings s;
        qsae_context *ctx = NULL;
        qsae_context_settings_init(&s, sizeof s);
        snprintf(cpu, sizeof cpu, "%s+blis", level_name(level));
        s.cpu = cpu;
        s.threads = 2;
        const int32_t st = qsae_context_open(&s, &ctx);
        if (st != QSAE_OK) {
            assert_fails(st, QSAE_EENV, "blis");
            assert_null(ctx);
            printf("skipped: %s\n", qsae_error_message());
            skip();
        }
        assert_memory_equal(qsae_context_gemm(ctx), "blis-", 5);
        assert_string_equal(qsae_context_cpu(ctx), level_name(level));
        run_shapes(ctx);
        qsae_context_close(&ctx);
    }
}
