/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernels/gemm.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/convert.h"
#include "kernels/gemm_kernels.h"
#include "kernels/half.h"
#include "kernels/ops.h"

static const qsae__gemm_kernel *kernel_of(int32_t level)
{
#if defined(__x86_64__)
    if (level >= QSAE__LEVEL_AVX512)
        return &qsae__gemm_kernel_avx512;
    if (level >= QSAE__LEVEL_AVX2)
        return &qsae__gemm_kernel_avx2;
#endif
    (void)level;
    return &qsae__gemm_kernel_c;
}

int32_t qsae__gemm_select(qsae_context *ctx)
{
    int32_t level;
    snprintf(ctx->gemm_name, sizeof ctx->gemm_name, "%s",
             qsae__level_name((int32_t)qsae__min_i64(ctx->level, QSAE__LEVEL_AVX512)));
    snprintf(ctx->blis_name, sizeof ctx->blis_name, "not asked");
    if (!ctx->blis)
        return QSAE_OK;
    if (ctx->level == QSAE__LEVEL_C)
        return qsae__fail(QSAE_EENV, "cpu: c+blis: BLIS has our sums from level avx2 on");
    const int32_t st = qsae__blis_environment(ctx->level);
    if (st != QSAE_OK)
        return st;
    if (!qsae__blis_probe(ctx->blis_name, sizeof ctx->blis_name, &level) || level > ctx->level)
        return qsae__fail(QSAE_EENV, "cpu: %s+blis: BLIS takes a kernel that cannot serve: %s",
                          qsae__level_name(ctx->level), ctx->blis_name);
    snprintf(ctx->gemm_name, sizeof ctx->gemm_name, "%.47s", ctx->blis_name);
    return QSAE_OK;
}

int32_t qsae_context_open(const qsae_context_settings *settings, qsae_context **out)
{
    QSAE__FPENV;
    int32_t st = qsae__context_new(settings, out);
    if (st == QSAE_OK && (st = qsae__gemm_select(*out)) != QSAE_OK)
        qsae_context_close(out);
    if (st == QSAE_OK)
        *out = qsae__context_view(*out);
    return st;
}

float qsae__gemm_dot(int64_t k, const float *a, const float *w, int64_t w_stride)
{
    float sum = 0;
    for (int64_t k0 = 0; k0 < k; k0 += QSAE__GEMM_KB) {
        float part = 0;
        for (int64_t i = k0; i < k && i < k0 + QSAE__GEMM_KB; i++)
            part = fmaf(a[i], w[i * w_stride], part);
        sum = k0 ? sum + part : part;
    }
    return sum;
}

/* n values at element offset `at`, widened and rounded. */
static void dense_run(const qsae__dense *d, int64_t at, int64_t n, float *dst)
{
    const qsae__ops *const ops = qsae__ops_level(d->level);
    const char *src = (const char *)d->data + at * (qsae_dtype_bits(d->dtype) / 8);
    if (d->dtype == QSAE_BF16)
        ops->widen_bf16(src, dst, n);
    else
        (void)qsae__to_f32(d->dtype, src, n, dst);
    if (d->round == QSAE_BF16)
        ops->round_bf16(dst, n);
    else if (d->round == QSAE_F16)
        for (int64_t i = 0; i < n; i++)
            dst[i] = qsae__round_f16(dst[i]);
}

/* Rows along k (k_stride 1): eight rows at a time, transposed into the panel. */
static void fill_rows(const qsae__dense *d, int64_t n0, int64_t cols, int64_t k0, int64_t kb,
                      float *panel, int64_t stride)
{
    float rows[8][QSAE__GEMM_KB];
    const qsae__gemm_kernel *const kernel = kernel_of(d->level);
    for (int64_t j = 0; j < cols; j += 8) {
        const int64_t n = qsae__min_i64(8, cols - j);
        for (int64_t r = 0; r < n; r++)
            dense_run(d, (n0 + j + r) * d->n_stride + k0, kb, rows[r]);
        if (n == 8) {
            kernel->transpose8(rows[0], QSAE__GEMM_KB, kb, panel + j, stride);
            continue;
        }
        for (int64_t r = 0; r < n; r++)
            for (int64_t k = 0; k < kb; k++)
                panel[k * stride + j + r] = rows[r][k];
    }
}

static void dense_fill(const void *self, int64_t n0, int64_t n1, int64_t k0, int64_t k1,
                       float *tile, int64_t panel)
{
    const qsae__dense *const d = self;
    const int64_t kb = k1 - k0;
    for (int64_t n = n0; n < n1; n += panel) {
        const int64_t cols = qsae__min_i64(panel, n1 - n);
        float *const p = tile + (n - n0) * kb;
        for (int64_t k = 0; cols < panel && k < kb; k++)
            memset(p + k * panel + cols, 0, (size_t)(panel - cols) * sizeof *p);
        if (d->k_stride == 1) {
            fill_rows(d, n, cols, k0, kb, p, panel);
        } else if (d->n_stride == 1) {
            for (int64_t k = 0; k < kb; k++)
                dense_run(d, (k0 + k) * d->k_stride + n, cols, p + k * panel);
        } else {
            for (int64_t k = 0; k < kb; k++)
                for (int64_t j = 0; j < cols; j++)
                    dense_run(d, (k0 + k) * d->k_stride + (n + j) * d->n_stride, 1,
                              p + k * panel + j);
        }
    }
}

qsae__panels qsae__panels_dense(const qsae__dense *d, int64_t n, int64_t k)
{
    return (qsae__panels){ .fill = dense_fill, .self = d, .n = n, .k = k };
}

void qsae__gemm_tile(const qsae_context *ctx, int64_t m, const float *a, int64_t lda,
                     const qsae__panels *w, int64_t n0, int64_t n1, float *c, int64_t ldc,
                     float *scratch)
{
    const int64_t n = n1 - n0;
    if (w->k == 0)
        for (int64_t i = 0; i < m; i++)
            memset(c + i * ldc, 0, (size_t)n * sizeof *c);
    const qsae__gemm_kernel *const kernel = kernel_of(ctx->level);
    for (int64_t k0 = 0; k0 < w->k; k0 += QSAE__GEMM_KB) {
        const int64_t k1 = qsae__min_i64(w->k, k0 + QSAE__GEMM_KB);
        if (ctx->blis) {
            w->fill(w->self, n0, n1, k0, k1, scratch, n);
            qsae__blis_block(m, n, k1 - k0, a + k0, lda, scratch, n, c, ldc, k0 > 0);
        } else {
            w->fill(w->self, n0, n1, k0, k1, scratch, QSAE__PANEL);
            kernel->block(m, n, k1 - k0, a + k0, lda, scratch, c, ldc, k0 > 0);
        }
    }
}

struct task {
    qsae_context *ctx;
    int64_t m, mb, nb, tiles_n;
    const float *a;
    int64_t lda;
    const qsae__panels *w;
    float *c;
    int64_t ldc;
    const qsae__epilogue *epilogue;
    float *scratch;        /* [threads, QSAE__GEMM_SCRATCH] */
};

static int32_t run_tile(void *arg, int64_t tile, int32_t worker)
{
    const struct task *const t = arg;
    const int64_t n0 = tile % t->tiles_n * t->nb, m0 = tile / t->tiles_n * t->mb;
    const int64_t n1 = qsae__min_i64(t->w->n, n0 + t->nb), m1 = qsae__min_i64(t->m, m0 + t->mb);
    float *const c = t->c + m0 * t->ldc + n0;
    qsae__gemm_tile(t->ctx, m1 - m0, t->a + m0 * t->lda, t->lda, t->w, n0, n1, c, t->ldc,
                    t->scratch + (int64_t)worker * QSAE__GEMM_SCRATCH);
    return t->epilogue ? t->epilogue->tile(t->epilogue->self, m0, m1, n0, n1, c, t->ldc, worker)
                       : QSAE_OK;
}

/* Tiles as wide as the scratch allows, but enough of them to keep the threads evenly busy. The
 * split changes no bit: a sum is never cut. */
static void choose_tiles(struct task *t, int64_t threads)
{
    const int64_t n = t->w->n, want = threads * 3;
    t->nb = QSAE__GEMM_NB;
    if (threads > 1 && n < want * QSAE__GEMM_NB)
        t->nb = qsae__max_i64(qsae__ceil_div(qsae__ceil_div(n, want), 32) * 32, 128);
    t->tiles_n = qsae__max_i64(qsae__ceil_div(n, t->nb), 1);
    t->mb = qsae__max_i64(t->m, 1);
    if (threads > 1 && t->tiles_n < want) {
        const int64_t cuts = qsae__ceil_div(want, t->tiles_n);
        t->mb = qsae__max_i64(qsae__ceil_div(qsae__ceil_div(t->m, cuts), 14) * 14, 56);
    }
}

int32_t qsae__gemm(qsae_context *ctx, int64_t m, const float *a, int64_t lda, const qsae__panels *w,
                   float *c, int64_t ldc, const qsae__epilogue *epilogue)
{
    if (m <= 0 || w->n <= 0)
        return QSAE_OK;
    struct task t = { .ctx = ctx, .m = m, .a = a, .lda = lda, .w = w, .c = c, .ldc = ldc,
                      .epilogue = epilogue };
    choose_tiles(&t, ctx->threads);
    t.scratch = qsae__alloc_array(ctx, (int64_t)ctx->threads * QSAE__GEMM_SCRATCH, sizeof(float));
    if (!t.scratch)
        return QSAE_ENOMEM;
    const int32_t st =
        qsae__parallel(ctx, t.tiles_n * qsae__ceil_div(m, t.mb), run_tile, &t);
    qsae__free(ctx, t.scratch);
    return st;
}
