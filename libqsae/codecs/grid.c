/* SPDX-License-Identifier: BSD-2-Clause */
#include "codecs/grid.h"

#include <stdio.h>
#include <string.h>

#include "kernels/blocks.h"
#include "kernels/requant.h"

#define PART 256 /* elements decoded at a time */
#define RUN 32   /* elements of one scale that pay a table of sixteen products */

static int32_t rule_dtype(int32_t rule, int32_t dtype)
{
    return rule == QSAE__GRID_TARGET ? dtype
           : rule == QSAE__GRID_HALF ? dtype == QSAE_BF16 ? QSAE_BF16 : QSAE_F16
                                     : rule;
}

/* Columns from c that share a scale, up to end; where their scale is. */
struct run {
    int64_t end, at;
};

static struct run run_at(const qsae_qmatrix *q, const qsae__grid *g, int64_t row, int64_t c,
                         int64_t end)
{
    const int64_t base = row / g->row_step * q->scale_cols;
    if (g->group) {
        int64_t e = c + 1;
        while (e < end && g->group[e] == g->group[c])
            e++;
        return (struct run){ e, base + g->group[c] };
    }
    const int64_t i = c / g->col_step;
    return (struct run){ qsae__min_i64(end, (i + 1) * g->col_step), base + i };
}

/* dst[n <= PART] = what the codes (row, c0..c0+n) stand for, integers without bias. */
static void load_values(const qsae_qmatrix *q, const qsae__grid *g, int64_t row, int64_t c0,
                        int64_t n, float *dst)
{
    const uint8_t *const codes = (const uint8_t *)q->codes + row * g->row_bytes;
    if (g->integers) {
        const float one = 1;
        const qsae__codes8 c = { .codes = codes + c0, .is_signed = g->is_signed, .scale = &one,
                                 .factor = 1 };
        qsae__blocks_get(q->ctx)->f32_8(&c, n, false, dst);
    } else if (g->bits == 8) { /* e4m3 */
        qsae__requant_get(q->ctx)->e4m3(codes + c0, n, dst);
    } else {
        int64_t i = 0;
        if (c0 % 2 && n > 0)
            dst[i++] = g->pair[codes[c0 / 2]][1];
        for (; i + 2 <= n; i += 2)
            memcpy(dst + i, g->pair[codes[(c0 + i) / 2]], 2 * sizeof *dst);
        if (i < n)
            dst[i] = g->pair[codes[(c0 + i) / 2]][0];
    }
}

/* Integers of 8 bits whose only rounding is to the result's dtype, f32 or bf16. */
static bool plain_integers(const qsae__grid *g, int32_t dtype)
{
    const int32_t to_product = rule_dtype(g->product_dtype, dtype);
    return g->integers && dtype != QSAE_F16 && (to_product == dtype || to_product == QSAE_F32);
}

/* As decode_runs. */
static void decode_integers(const qsae_qmatrix *q, const qsae__grid *g, int64_t row, int64_t c0,
                            int64_t n, int32_t dtype, float *wide, uint16_t *narrow)
{
    const qsae__block_ops *const ops = qsae__blocks_get(q->ctx);
    const uint8_t *const codes = (const uint8_t *)q->codes + row * g->row_bytes;
    for (int64_t c = c0; c < c0 + n;) {
        const struct run r = run_at(q, g, row, c, c0 + n);
        const float scale = qsae__round_to(rule_dtype(g->scale_dtype, dtype), q->scale[r.at]);
        const float zero = g->bias + (q->zero ? q->zero[r.at] : 0);
        const qsae__codes8 run = { .codes = codes + c, .is_signed = g->is_signed, .scale = &scale,
                                   .zero = &zero, .factor = 1 };
        if (narrow)
            ops->bf16_8(&run, r.end - c, narrow + (c - c0));
        else
            ops->f32_8(&run, r.end - c, dtype == QSAE_BF16, wide + (c - c0));
        c = r.end;
    }
}

static void decode_part(const qsae_qmatrix *q, const qsae__grid *g, int64_t row, int64_t c0,
                        int64_t n, int32_t dtype, float *dst)
{
    const int32_t to_scale = rule_dtype(g->scale_dtype, dtype);
    const int32_t to_product = rule_dtype(g->product_dtype, dtype);
    load_values(q, g, row, c0, n, dst);
    for (int64_t c = c0; c < c0 + n;) {
        const struct run r = run_at(q, g, row, c, c0 + n);
        const float scale = qsae__round_to(to_scale, q->scale[r.at]);
        const float zero = g->bias + (q->zero ? q->zero[r.at] : 0);
        for (; c < r.end; c++)
            dst[c - c0] = (dst[c - c0] - zero) * scale;
    }
    if (to_product != dtype)
        qsae__round(q->ctx, to_product, dst, n);
}

/* values[16], returns scale: the elements of a run are values[code] * scale, rounded to dtype. */
static float products(const qsae_qmatrix *q, const qsae__grid *g, int64_t at, int32_t dtype,
                      float *values)
{
    const int32_t to_product = rule_dtype(g->product_dtype, dtype);
    const float scale = qsae__round_to(rule_dtype(g->scale_dtype, dtype), q->scale[at]);
    const float zero = q->zero ? q->zero[at] : 0;
    for (int i = 0; i < 16; i++)
        values[i] = g->value[i] - zero;
    if (to_product == dtype || to_product == QSAE_F32)
        return scale;
    for (int i = 0; i < 16; i++)
        values[i] *= scale;
    qsae__round(q->ctx, to_product, values, 16);
    return 1;
}

static bool long_runs(const qsae__grid *g)
{
    return g->bits == 4 && !g->group && g->col_step >= RUN;
}

/* The bytes of the codes (row, c0..c0+n), n <= PART, the earlier code in the high half. */
static const uint8_t *high_first(const qsae_qmatrix *q, const qsae__grid *g, int64_t row,
                                 int64_t c0, int64_t n, uint8_t *buffer)
{
    const uint8_t *const codes = (const uint8_t *)q->codes + row * g->row_bytes + c0 / 2;
    if (g->high_first)
        return codes;
    const int64_t bytes = (c0 % 2 + n + 1) / 2;
    for (int64_t i = 0; i < bytes; i++)
        buffer[i] = (uint8_t)(codes[i] << 4 | codes[i] >> 4);
    return buffer;
}

/* Runs of 4-bit codes: their products are looked up. Exactly one of wide, narrow is written. */
static void decode_runs(const qsae_qmatrix *q, const qsae__grid *g, int64_t row, int64_t c0,
                        int64_t n, int32_t dtype, float *wide, uint16_t *narrow)
{
    const qsae__block_ops *const ops = qsae__blocks_get(q->ctx);
    uint8_t buffer[PART / 2 + 1];
    float values[16], scale;
    const qsae__codes4 codes = { high_first(q, g, row, c0, n, buffer), &scale, values,
                                 INT64_C(1) << 40 };
    for (int64_t c = c0; c < c0 + n;) {
        const struct run r = run_at(q, g, row, c, c0 + n);
        scale = products(q, g, r.at, dtype, values);
        if (narrow)
            ops->bf16_4(&codes, c - c0 + c0 % 2, r.end - c, narrow + (c - c0));
        else
            ops->f32_4(&codes, c - c0 + c0 % 2, r.end - c, dtype == QSAE_BF16,
                       wide + (c - c0));
        c = r.end;
    }
    if (wide && dtype == QSAE_F16)
        qsae__round(q->ctx, dtype, wide, n);
}

static void decode(const qsae_qmatrix *q, int64_t row, int64_t c0, int64_t n, int32_t dtype,
                   float *dst)
{
    const qsae__grid *const g = q->state;
    for (int64_t i = 0; i < n; i += PART) {
        const int64_t part = qsae__min_i64(PART, n - i);
        if (long_runs(g)) {
            decode_runs(q, g, row, c0 + i, part, dtype, dst + i, NULL);
        } else if (plain_integers(g, dtype)) {
            decode_integers(q, g, row, c0 + i, part, dtype, dst + i, NULL);
        } else {
            decode_part(q, g, row, c0 + i, part, dtype, dst + i);
            qsae__round(q->ctx, dtype, dst + i, part);
        }
    }
}

static void decode16(const qsae_qmatrix *q, int64_t row, int64_t c0, int64_t n, uint16_t *dst)
{
    const qsae__grid *const g = q->state;
    for (int64_t i = 0; i < n; i += PART) {
        const int64_t part = qsae__min_i64(PART, n - i);
        float wide[PART];
        if (long_runs(g)) {
            decode_runs(q, g, row, c0 + i, part, QSAE_BF16, NULL, dst + i);
        } else if (plain_integers(g, QSAE_BF16)) {
            decode_integers(q, g, row, c0 + i, part, QSAE_BF16, NULL, dst + i);
        } else {
            decode_part(q, g, row, c0 + i, part, QSAE_BF16, wide);
            qsae__blocks_get(q->ctx)->narrow(wide, part, dst + i);
        }
    }
}

static bool field(const qsae_qmatrix *q, int32_t i, qsae_field *f)
{
    const qsae__grid *const g = q->state;
    if (i < 0 || i >= g->parts)
        return false;
    const qsae__tensor *const t = g->part[i];
    qsae__field_set(f, g->name[i], t->data, t->dtype, t->rank, t->rank > 0 ? t->shape[0] : 1,
                    t->rank > 1 ? t->shape[1] : 1);
    f->bytes = t->bytes;
    return true;
}

static uint64_t bytes(const qsae_qmatrix *q)
{
    const qsae__grid *const g = q->state;
    uint64_t sum = 0;
    for (int32_t i = 0; i < g->parts; i++)
        sum += g->part[i]->bytes;
    return sum;
}

static void close_grid(qsae_qmatrix *q)
{
    qsae__grid *const g = q->state;
    if (g)
        qsae__free(q->ctx, g->group);
    qsae__free(q->ctx, g);
    q->state = NULL;
    q->act = NULL;
}

const qsae__codec_ops qsae__codec_grid = {
    .decode = decode,
    .decode16 = decode16,
    .field = field,
    .bytes = bytes,
    .close = close_grid,
};

int32_t qsae__grid_new(qsae_context *ctx, qsae__tensors *tensors, int64_t n_out, int64_t n_in,
                       qsae_qmatrix **out)
{
    qsae_qmatrix *q = NULL;
    *out = NULL;
    const int32_t st = qsae__qmatrix_new(ctx, &qsae__codec_grid, QSAE_F32, n_out, n_in, &q);
    if (st != QSAE_OK)
        return st;
    q->codec.codec = QSAE__STORED;
    q->file = qsae__tensors_ref(tensors);
    qsae__grid *const g = qsae__calloc(ctx, 1, sizeof *g);
    if (!g) {
        qsae__qmatrix_unref(&q);
        return QSAE_ENOMEM;
    }
    g->row_step = g->col_step = 1;
    q->state = g;
    *out = q;
    return QSAE_OK;
}

int32_t qsae__grid_open(qsae_context *ctx, qsae__tensors *tensors, const char *module,
                        const char *key, int64_t n_out, int64_t n_in,
                        int32_t (*fill)(qsae_qmatrix *q, const void *params, const char *module),
                        const void *params, qsae_qmatrix **out)
{
    *out = NULL;
    if (!qsae__grid_find(tensors, module, key))
        return QSAE_OK;
    int32_t st = qsae__grid_new(ctx, tensors, n_out, n_in, out);
    if (st == QSAE_OK)
        st = fill(*out, params, module);
    if (st != QSAE_OK)
        qsae__qmatrix_unref(out);
    return st;
}

const qsae__tensor *qsae__grid_find(const qsae__tensors *tensors, const char *module,
                                    const char *name)
{
    char key[768];
    const int n = snprintf(key, sizeof key, "%s.%s", module, name);
    return n > 0 && (size_t)n < sizeof key ? qsae__tensors_find(tensors, key) : NULL;
}

/* "I32 or F16" of a set of dtypes. */
static void dtype_names(uint32_t dtypes, char *text, size_t size)
{
    size_t n = 0;
    text[0] = 0;
    for (int32_t d = 1; d < 32; d++)
        if (dtypes >> d & 1 && n < size)
            n += (size_t)snprintf(text + n, size - n, "%s%s", n ? " or " : "", qsae_dtype_name(d));
}

static void shape_text(const qsae__tensor *t, char *text, size_t size)
{
    size_t n = (size_t)snprintf(text, size, "[");
    for (int32_t i = 0; i < t->rank && n < size; i++)
        n += (size_t)snprintf(text + n, size - n, "%s%lld", i ? ", " : "",
                              (long long)t->shape[i]);
    if (n < size)
        snprintf(text + n, size - n, "]");
}

static bool shape_fits(const qsae__tensor *t, int32_t rank, int64_t rows, int64_t cols)
{
    if (rank == 0) {
        for (int32_t i = 0; i < t->rank; i++)
            if (t->shape[i] != 1)
                return false;
        return true;
    }
    return t->rank == rank && t->shape[0] == rows && (rank == 1 || t->shape[1] == cols);
}

int32_t qsae__grid_part(qsae_qmatrix *q, const char *module, const char *name, uint32_t dtypes,
                        int32_t rank, int64_t rows, int64_t cols, const qsae__tensor **out)
{
    qsae__grid *const g = q->state;
    const qsae__tensor *const t = qsae__grid_find(q->file, module, name);
    char want[96], found[128];
    *out = t;
    if (!t)
        return qsae__fail(QSAE_ENOENT, "%s.%s: expected a tensor, found nothing", module, name);
    if (t->dtype < 1 || t->dtype > 31 || !(dtypes >> t->dtype & 1)) {
        dtype_names(dtypes, want, sizeof want);
        return qsae__fail(QSAE_EMISMATCH, "%s: %s: expected dtype %s, found %s", t->file, t->name,
                          want, qsae_dtype_name(t->dtype));
    }
    if (!shape_fits(t, rank, rows, cols)) {
        shape_text(t, found, sizeof found);
        if (rank == 2)
            snprintf(want, sizeof want, "[%lld, %lld]", (long long)rows, (long long)cols);
        else if (rank == 1)
            snprintf(want, sizeof want, "[%lld]", (long long)rows);
        else
            snprintf(want, sizeof want, "one element");
        return qsae__fail(QSAE_EMISMATCH, "%s: %s: expected shape %s, found %s", t->file, t->name,
                          want, found);
    }
    if (g->parts < QSAE__GRID_PARTS) {
        g->part[g->parts] = t;
        g->name[g->parts++] = name;
    }
    return QSAE_OK;
}

void qsae__grid_borrow(qsae_qmatrix *q, const qsae__tensor *t, int64_t row_bytes)
{
    qsae__grid *const g = q->state;
    union {
        const void *in;
        void *out;
    } data = { t->data };
    g->row_bytes = row_bytes;
    q->codes = data.out; /* never written: borrowed */
    q->code_bytes = t->bytes;
    q->borrowed = true;
}

int32_t qsae__grid_alloc(qsae_qmatrix *q)
{
    qsae__grid *const g = q->state;
    int64_t size;
    g->row_bytes = g->bits == 4 ? q->n_in / 2 + q->n_in % 2 : q->n_in;
    g->high_first = true;
    if (!qsae__mul_i64(q->n_out, g->row_bytes, &size))
        return qsae__fail(QSAE_EOVERFLOW, "%lld x %lld codes", (long long)q->n_out,
                          (long long)q->n_in);
    q->codes = qsae__calloc(q->ctx, size, 1);
    q->code_bytes = (uint64_t)size;
    return q->codes ? QSAE_OK : QSAE_ENOMEM;
}

int32_t qsae__grid_scales(qsae_qmatrix *q, const qsae__tensor *t, bool transposed)
{
    const int64_t rows = t->rank > 1 ? t->shape[0] : 1;
    const int64_t cols = t->rank > 1 ? t->shape[1] : t->rank == 1 ? t->shape[0] : 1;
    const size_t size = (size_t)qsae_dtype_bits(t->dtype) / 8;
    q->scale_rows = transposed ? cols : rows;
    q->scale_cols = transposed ? rows : cols;
    q->scale = qsae__alloc_array(q->ctx, rows * cols, sizeof *q->scale);
    if (!q->scale)
        return QSAE_ENOMEM;
    if (!transposed) {
        (void)qsae__to_f32(t->dtype, t->data, rows * cols, q->scale);
        return QSAE_OK;
    }
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++)
            (void)qsae__to_f32(t->dtype, (const char *)t->data + (size_t)(i * cols + j) * size, 1,
                               q->scale + j * rows + i);
    return QSAE_OK;
}

/* pair from value. */
static void fill_pairs(qsae__grid *g)
{
    for (int i = 0; i < 256; i++) {
        g->pair[i][g->high_first ? 1 : 0] = g->value[i & 15];
        g->pair[i][g->high_first ? 0 : 1] = g->value[i >> 4];
    }
}

void qsae__grid_e2m1(qsae__grid *g)
{
    static const float values[8] = { 0, 0.5f, 1, 1.5f, 2, 3, 4, 6 };
    for (int i = 0; i < 16; i++)
        g->value[i] = i & 8 ? -values[i & 7] : values[i];
    fill_pairs(g);
}

void qsae__grid_integers4(qsae__grid *g, int32_t bias)
{
    for (int i = 0; i < 16; i++)
        g->value[i] = (float)(i - bias);
    fill_pairs(g);
}
