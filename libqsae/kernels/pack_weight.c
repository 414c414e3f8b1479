/* SPDX-License-Identifier: BSD-2-Clause */
/* Weights and rows brought into the packed geometry over the context's threads. */
#include <string.h>

#include "kernels/convert.h"
#include "kernels/half.h"
#include "kernels/ops.h"
#include "kernels/product.h"

#define CHUNK_STEPS 8
#define CHUNK (CHUNK_STEPS * QSAE__STEP / 2) /* bf16 values of k handled at once */

static int32_t weight_new(qsae_context *ctx, int64_t n, int64_t k, int64_t size,
                          qsae__packed_weight **out)
{
    const int64_t panels = qsae__ceil_div(n, QSAE__COLUMNS), steps = qsae__steps(k, size);
    int64_t panel, bytes;
    *out = NULL;
    if (!qsae__mul_i64(steps, QSAE__PANEL_STEP, &panel) || !qsae__mul_i64(panel, panels, &bytes))
        return qsae__fail(QSAE_EOVERFLOW, "a weight of %lld x %lld is too large", (long long)n,
                          (long long)k);
    qsae__packed_weight *w = qsae__calloc(ctx, 1, sizeof *w);
    if (!w)
        return QSAE_ENOMEM;
    w->ctx = qsae__context_ref(ctx);
    atomic_init(&w->refs, 1);
    w->panel = panel;
    w->steps = steps;
    w->n = n;
    w->k = k;
    w->bytes = (uint64_t)bytes;
    w->data = qsae__alloc_array(ctx, bytes, 1);
    if (size == 1)
        w->sum = qsae__alloc_array(ctx, n, sizeof *w->sum);
    if (!w->data || (size == 1 && !w->sum)) {
        qsae__packed_close(&w);
        return QSAE_ENOMEM;
    }
    *out = w;
    return QSAE_OK;
}

qsae__packed_weight *qsae__packed_ref(qsae__packed_weight *w)
{
    atomic_fetch_add(&w->refs, 1);
    return w;
}

int32_t qsae__packed_share(qsae__packed_weight *w, int owners)
{
    if (!w || atomic_load(&w->refs) > owners)
        return QSAE_OK;
    const int32_t st = qsae__share(w->ctx, &w->data, (size_t)w->bytes);
    return st == QSAE_OK ? qsae__share(w->ctx, &w->sum, (size_t)w->n * sizeof *w->sum) : st;
}

void qsae__packed_close(qsae__packed_weight **weight)
{
    qsae__packed_weight *const w = *weight;
    *weight = NULL;
    if (!w || atomic_fetch_sub(&w->refs, 1) > 1)
        return;
    qsae_context *const ctx = w->ctx;
    qsae__free(ctx, w->data);
    qsae__free(ctx, w->sum);
    qsae__free(ctx, w);
    qsae__context_unref(ctx);
}

struct weight_job {
    qsae__packed_weight *w;
    const qsae__pack_ops *pack;
    const qsae__dense *dense;
    const qsae__rows16 *rows;
    const int8_t *codes;
};

void qsae__pack_block(const qsae__pack_ops *pack, const qsae__rows16 *src, int64_t n0,
                      int64_t columns, int64_t step0, int64_t steps, uint8_t *panel)
{
    uint16_t row[QSAE__COLUMNS * CHUNK];
    for (int64_t t = 0; t < steps; t += CHUNK_STEPS) {
        const int64_t k0 = (step0 + t) * (QSAE__STEP / 2);
        const int64_t cut = qsae__min_i64(CHUNK_STEPS, steps - t) * (QSAE__STEP / 2);
        const int64_t kb = qsae__min_i64(src->k - k0, cut);
        for (int64_t j = 0; j < columns; j++)
            src->row(src->self, n0 + j, k0, kb, row + j * CHUNK);
        pack->panel(row, CHUNK, columns, kb, panel + t * QSAE__PANEL_STEP);
    }
}

/* Rows of bf16 along k that need no rounding. */
static bool in_place(const qsae__dense *d)
{
    return d->dtype == QSAE_BF16 && d->k_stride == 1 && (d->round == 0 || d->round == QSAE_BF16);
}

/* dst[kb] = W[n, k0..k0+kb] as bf16. */
static void dense_row(const void *self, int64_t n, int64_t k0, int64_t kb, uint16_t *dst)
{
    const qsae__dense *const d = self;
    const int64_t size = qsae_dtype_bits(d->dtype) / 8;
    const char *const at = (const char *)d->data + (n * d->n_stride + k0 * d->k_stride) * size;
    if (in_place(d)) {
        memcpy(dst, at, (size_t)kb * 2);
        return;
    }
    for (int64_t k = 0; k < kb; k++) {
        float v;
        qsae__to_f32(d->dtype, at + k * d->k_stride * size, 1, &v);
        dst[k] = qsae__f32_to_bf16(d->round == QSAE_F16 ? qsae__round_f16(v) : v);
    }
}

/* Columns that lie side by side in memory: read along n, 32 at a time. */
static void pack_across(const struct weight_job *j, int64_t n0, int64_t columns, uint8_t *panel)
{
    const qsae__dense *const d = j->dense;
    const int64_t size = qsae_dtype_bits(d->dtype) / 8;
    uint16_t row[QSAE__COLUMNS * CHUNK];
    for (int64_t k0 = 0; k0 < j->w->k; k0 += CHUNK) {
        const int64_t kb = qsae__min_i64(CHUNK, j->w->k - k0);
        for (int64_t k = 0; k < kb; k++) {
            float v[QSAE__COLUMNS];
            qsae__to_f32(d->dtype,
                         (const char *)d->data + ((k0 + k) * d->k_stride + n0) * size, columns, v);
            for (int64_t c = 0; c < columns; c++)
                row[c * CHUNK + k] =
                    qsae__f32_to_bf16(d->round == QSAE_F16 ? qsae__round_f16(v[c]) : v[c]);
        }
        j->pack->panel(row, CHUNK, columns, kb,
                       panel + k0 / CHUNK * CHUNK_STEPS * QSAE__PANEL_STEP);
    }
}

static int32_t pack_panel(void *arg, int64_t p, int32_t worker)
{
    const struct weight_job *const j = arg;
    const int64_t n0 = p * QSAE__COLUMNS, columns = qsae__min_i64(QSAE__COLUMNS, j->w->n - n0);
    uint8_t *const panel = j->w->data + p * j->w->panel;
    (void)worker;
    if (j->codes)
        j->pack->panel_s8(j->codes + n0 * j->w->k, j->w->k, columns, j->w->k, panel,
                          j->w->sum + n0);
    else if (j->dense && in_place(j->dense))
        j->pack->panel((const uint16_t *)j->dense->data + n0 * j->dense->n_stride,
                       j->dense->n_stride, columns, j->w->k, panel);
    else if (j->dense && j->dense->n_stride == 1 && j->dense->k_stride != 1)
        pack_across(j, n0, columns, panel);
    else
        qsae__pack_block(j->pack, j->rows, n0, columns, 0, j->w->steps, panel);
    return QSAE_OK;
}

static int32_t pack_all(struct weight_job *j, int64_t n, int64_t k, int64_t size,
                        qsae_context *ctx, qsae__packed_weight **out)
{
    int32_t st = weight_new(ctx, n, k, size, &j->w);
    j->pack = qsae__packed_get(ctx)->pack;
    if (st == QSAE_OK)
        st = qsae__parallel(ctx, qsae__ceil_div(n, QSAE__COLUMNS), pack_panel, j);
    if (st != QSAE_OK)
        qsae__packed_close(&j->w);
    *out = j->w;
    return st;
}

int32_t qsae__packed_dense(qsae_context *ctx, const qsae__dense *d, int64_t n, int64_t k,
                           qsae__packed_weight **out)
{
    const qsae__rows16 rows = { dense_row, d, n, k };
    struct weight_job j = { .dense = d, .rows = &rows };
    return pack_all(&j, n, k, 2, ctx, out);
}

int32_t qsae__packed_rows16(qsae_context *ctx, const qsae__rows16 *src, qsae__packed_weight **out)
{
    struct weight_job j = { .rows = src };
    return pack_all(&j, src->n, src->k, 2, ctx, out);
}

int32_t qsae__packed_s8(qsae_context *ctx, const int8_t *codes, int64_t n, int64_t k,
                        qsae__packed_weight **out)
{
    struct weight_job j = { .codes = codes };
    return pack_all(&j, n, k, 1, ctx, out);
}

int32_t qsae__left_size(int64_t rows, int64_t k, int64_t size, int32_t parts, qsae__left *left,
                        size_t *bytes)
{
    const int64_t strips = qsae__ceil_div(rows, QSAE__STRIP);
    int64_t total;
    *left = (qsae__left){ .rows = rows, .steps = qsae__steps(k, size), .parts = parts };
    if (!qsae__mul_i64(left->steps, QSAE__STRIP_STEP, &left->part) ||
        !qsae__mul_i64(left->part, parts, &left->strip) ||
        !qsae__mul_i64(left->strip, strips, &total) || !qsae__bytes(total, 1, bytes))
        return qsae__fail(QSAE_EOVERFLOW, "%lld rows of %lld values are too many", (long long)rows,
                          (long long)k);
    return QSAE_OK;
}

struct left_job {
    const qsae__left *left;
    const qsae__pack_ops *pack;
    uint8_t *data;
    const char *x;
    int64_t ldx, k;
    int32_t dtype;
};

static int32_t pack_strip(void *arg, int64_t s, int32_t worker)
{
    const struct left_job *const j = arg;
    const int64_t r0 = s * QSAE__STRIP, rows = qsae__min_i64(QSAE__STRIP, j->left->rows - r0);
    const void *const x = j->x + r0 * j->ldx * (qsae_dtype_bits(j->dtype) / 8);
    uint8_t *const strip = j->data + s * j->left->strip;
    (void)worker;
    if (j->left->parts > 1)
        j->pack->split(x, j->ldx, rows, j->k, strip, j->left->part);
    else
        j->pack->rows(j->dtype, x, j->ldx, rows, j->k, strip);
    return QSAE_OK;
}

int32_t qsae__left_pack(qsae_context *ctx, qsae__left *left, uint8_t *data, int32_t dtype,
                        const void *x, int64_t ldx, int64_t k)
{
    struct left_job j = { left, qsae__packed_get(ctx)->pack, data, x, ldx, k, dtype };
    left->data = data;
    return qsae__parallel(ctx, qsae__ceil_div(left->rows, QSAE__STRIP), pack_strip, &j);
}
