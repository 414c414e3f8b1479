/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Products y[m, n] = x[m, k] W[n, k]^T: f32 (gemm.h), f32 as three bf16 parts, bf16, int8 (packed
 * weight, product.h). Bringing the left operand into place and writing y are part of the time, as
 * they are in any layer; packing the weight is not: it is done once at load.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "kernels/kernels.h"
#include "kernels/blocks.h"
#include "kernels/product.h"

struct gemm_job {
    qsae_context *ctx;
    int64_t m, k, n;
    const void *x;           /* [m, k] f32, bf16 or int8 */
    float *y;                 /* [m, n] f32 or int32 */
    int32_t dtype;           /* of x, if not int8 */
    bool s8;
    qsae__panels panels;     /* of the weight in f32 */
    qsae__right right;       /* or packed */
    qsae__left left;
    uint8_t *strips, *scratch;
};

static int32_t run_f32(void *arg)
{
    const struct gemm_job *const j = arg;
    return qsae__gemm(j->ctx, j->m, j->x, j->k, &j->panels, j->y, j->n, NULL);
}

/* Results in what torch gives: bf16 of bf16, f32 or int32 of the others (often there already). */
static int32_t store(void *self, const qsae__tile *t)
{
    const struct gemm_job *const j = self;
    const bool half = !j->s8 && j->dtype == QSAE_BF16;
    for (int64_t i = t->m0; i < t->m1; i++) {
        const float *const c = (const float *)t->c + (i - t->m0) * t->ldc;
        float *const y = j->y + i * j->n + t->n0;
        if (half)
            qsae__blocks_get(j->ctx)->narrow(c, t->n1 - t->n0,
                                             (uint16_t *)j->y + i * j->n + t->n0);
        else if (c != y)
            memcpy(y, c, (size_t)(t->n1 - t->n0) * sizeof *y);
    }
    return QSAE_OK;
}

static int32_t pack_codes(void *arg, int64_t strip, int32_t worker)
{
    const struct gemm_job *const j = arg;
    const qsae__packed_kernel *const kernel = qsae__packed_get(j->ctx);
    const int64_t row = strip * QSAE__STRIP;
    (void)worker;
    kernel->pack->rows_s8((const int8_t *)j->x + row * j->k, j->k,
                          qsae__min_i64(QSAE__STRIP, j->m - row), j->k, kernel->flipped,
                          j->strips + strip * j->left.strip);
    return QSAE_OK;
}

static int32_t run_packed(void *arg)
{
    struct gemm_job *const j = arg;
    int32_t st;
    if (j->s8) {
        j->left.data = j->strips;
        st = qsae__parallel(j->ctx, qsae__ceil_div(j->m, QSAE__STRIP), pack_codes, j);
    } else {
        st = qsae__left_pack(j->ctx, &j->left, j->strips, j->dtype, j->x, j->k, j->k);
    }
    const qsae__product p = { .left = &j->left, .right = &j->right, .n_right = 1, .s8 = j->s8,
                              .y = j->s8 || j->dtype == QSAE_F32 ? &j->y : NULL, .ldy = &j->n,
                              .finish = store, .self = j, .scratch = j->scratch };
    return st == QSAE_OK ? qsae__product_run(j->ctx, &p) : st;
}

static void report(const bench *b, struct gemm_job *j, int32_t (*fn)(void *), const char *what)
{
    bench_rate(b, j->ctx, bench_time(b, fn, j), 2e-9 * (double)j->m * (double)j->k * (double)j->n,
               j->s8 ? "GOP/s" : "GFLOP/s", what, "\"m\": %lld, \"k\": %lld, \"n\": %lld",
               (long long)j->m, (long long)j->k, (long long)j->n);
}

/* Sizes the left operand and takes memory for it. */
static void open_left(const bench *b, struct gemm_job *j, int64_t size, int32_t parts)
{
    size_t bytes;
    bench_check(b, qsae__left_size(j->m, j->k, size, parts, &j->left, &bytes));
    j->strips = bench_alloc((int64_t)bytes, 1);
}

static void f32_products(const bench *b, struct gemm_job *j, const char *types)
{
    float *const x = bench_alloc(j->m * j->k, sizeof *x), *const w = bench_alloc(j->n * j->k, 4);
    bench_normal(x, j->m * j->k, 1, 1);
    bench_normal(w, j->n * j->k, 0.02f, 2);
    const qsae__dense d = { .data = w, .dtype = QSAE_F32, .level = j->ctx->level,
                            .n_stride = j->k, .k_stride = 1 };
    j->panels = qsae__panels_dense(&d, j->n, j->k);
    j->x = x;
    j->dtype = QSAE_F32;
    if (strstr(types, "f32"))
        report(b, j, run_f32, "f32");
    if (strstr(types, "split") && qsae__packed_get(j->ctx)->bf16) {
        qsae__packed_weight *packed;
        bench_check(b, qsae__packed_dense(j->ctx, &d, j->n, j->k, &packed));
        j->right = (qsae__right){ .packed = packed };
        open_left(b, j, 2, 3);
        report(b, j, run_packed, "f32 in three parts by bf16");
        qsae__packed_close(&packed);
        free(j->strips);
    }
    free(x);
    free(w);
}

static void bf16_product(const bench *b, struct gemm_job *j)
{
    uint16_t *const x = bench_alloc(j->m * j->k, 2), *const w = bench_alloc(j->n * j->k, 2);
    qsae__packed_weight *packed;
    if (qsae__packed_get(j->ctx)->bf16) {
        bench_normal_bf16(x, j->m * j->k, 1, 1);
        bench_normal_bf16(w, j->n * j->k, 0.02f, 2);
        const qsae__dense d = { .data = w, .dtype = QSAE_BF16, .level = j->ctx->level,
                                .n_stride = j->k, .k_stride = 1 };
        bench_check(b, qsae__packed_dense(j->ctx, &d, j->n, j->k, &packed));
        j->right = (qsae__right){ .packed = packed };
        j->x = x;
        j->dtype = QSAE_BF16;
        open_left(b, j, 2, 1);
        report(b, j, run_packed, "bf16");
        qsae__packed_close(&packed);
        free(j->strips);
    }
    free(x);
    free(w);
}

static void s8_product(const bench *b, struct gemm_job *j)
{
    int8_t *const x = bench_alloc(j->m * j->k, 1), *const w = bench_alloc(j->n * j->k, 1);
    qsae__packed_weight *packed;
    bench_codes(x, j->m * j->k, 1);
    bench_codes(w, j->n * j->k, 2);
    bench_check(b, qsae__packed_s8(j->ctx, w, j->n, j->k, &packed));
    j->right = (qsae__right){ .packed = packed };
    j->x = x;
    j->s8 = true;
    open_left(b, j, 1, 1);
    report(b, j, run_packed, "int8");
    j->s8 = false;
    qsae__packed_close(&packed);
    free(j->strips);
    free(x);
    free(w);
}

int main(int argc, char **argv)
{
    bench b;
    char size[64];
    bench_open(&b, "gemm", argc, argv, "--sizes --types",
               "[--sizes MxKxN,...] [--types f32,split,bf16,int8]");
    const char *const sizes = bench_option(&b, "--sizes", b.smoke ? "33x70x40" :
                                           "512x640x2048,2048x640x2048,512x1152x6912,"
                                           "2048x1152x6912,512x2560x10240,2048x2560x10240,"
                                           "512x10240x2560,2048x10240x2560");
    const char *const types = bench_option(&b, "--types", "f32,split,bf16,int8");
    for (int t = 0; t < b.n_threads; t++) {
        struct gemm_job j = { .ctx = bench_context(&b, b.threads[t]) };
        j.scratch = bench_alloc((int64_t)qsae__product_scratch(j.ctx), 1);
        for (int i = 0; bench_part(sizes, ',', i, size, sizeof size); i++) {
            long long m, k, n;
            if (sscanf(size, "%lldx%lldx%lld", &m, &k, &n) != 3 || m < 1 || k < 1 || n < 1) {
                fprintf(stderr, "bench_gemm: not a size: %s\n", size);
                return 2;
            }
            j.m = m;
            j.k = k;
            j.n = n;
            j.y = bench_alloc(m * n, 4);
            if (strstr(types, "f32") || strstr(types, "split"))
                f32_products(&b, &j, types);
            if (strstr(types, "bf16"))
                bf16_product(&b, &j);
            if (strstr(types, "int8"))
                s8_product(&b, &j);
            free(j.y);
        }
        free(j.scratch);
        qsae_context_close(&j.ctx);
    }
    return 0;
}
