/* SPDX-License-Identifier: BSD-2-Clause */
#include "codecs/qmatrix.h"

#include <math.h>
#include <string.h>

#include "codecs/control.h"
#include "codecs/prune.h"
#include "kernels/blocks.h"

#define CHECK_PART 1024

static const void *element(const qsae__source *s, int64_t row, int64_t col)
{
    const size_t size = (size_t)qsae_dtype_bits(s->dtype) / 8;
    return (const char *)s->data + (size_t)(row * s->out_stride + col * s->in_stride) * size;
}

static void round_source(const qsae__source *s, int64_t n, float *dst)
{
    if (s->round && s->round != s->dtype)
        qsae__round(s->ctx, s->round, dst, n);
}

/* n elements side by side at src, widened. */
static void load(const qsae_context *ctx, int32_t dtype, const void *src, int64_t n, float *dst)
{
    if (dtype == QSAE_BF16)
        qsae__ops_get(ctx)->widen_bf16(src, dst, n);
    else
        (void)qsae__to_f32(dtype, src, n, dst);
}

void qsae__source_row(const qsae__source *s, int64_t row, int64_t c0, int64_t n, float *dst)
{
    if (s->stored)
        s->stored->ops->decode(s->stored, row, c0, n, s->stored->dtype, dst);
    else if (s->in_stride == 1)
        load(s->ctx, s->dtype, element(s, row, c0), n, dst);
    else
        for (int64_t i = 0; i < n; i++)
            (void)qsae__to_f32(s->dtype, element(s, row, c0 + i), 1, dst + i);
    round_source(s, n, dst);
}

void qsae__source_flat(const qsae__source *s, int64_t i0, int64_t n, float *dst)
{
    if (!s->stored && s->in_stride == 1 && s->out_stride == s->n_in) {
        load(s->ctx, s->dtype, element(s, 0, i0), n, dst);
        round_source(s, n, dst);
        return;
    }
    while (n > 0) {
        const int64_t row = i0 / s->n_in, col = i0 % s->n_in;
        const int64_t part = qsae__min_i64(n, s->n_in - col);
        qsae__source_row(s, row, col, part, dst);
        i0 += part;
        n -= part;
        dst += part;
    }
}

static int32_t check_row(void *arg, int64_t row, int32_t worker)
{
    const qsae__source *s = arg;
    float x[CHECK_PART];
    (void)worker;
    for (int64_t c0 = 0; c0 < s->n_in; c0 += CHECK_PART) {
        const int64_t n = qsae__min_i64(CHECK_PART, s->n_in - c0);
        qsae__source_row(s, row, c0, n, x);
        for (int64_t i = 0; i < n; i++)
            if (!isfinite(x[i]))
                return qsae__fail(QSAE_ENONFINITE, "weight: %s at row %lld, column %lld",
                                  isnan(x[i]) ? "NaN" : "infinity", (long long)row,
                                  (long long)(c0 + i));
    }
    return QSAE_OK;
}

int32_t qsae__source_check_finite(const qsae__source *s)
{
    qsae__source copy = *s;
    copy.round = 0; /* a value that overflows in a later cast is the codec's business */
    return qsae__parallel(s->ctx, s->n_out, check_row, &copy);
}

void qsae__field_set(qsae_field *f, const char *name, const void *data, int32_t dtype, int32_t rank,
                     int64_t rows, int64_t cols)
{
    f->name = name;
    f->data = data;
    f->dtype = dtype;
    f->rank = rank;
    f->shape[0] = rows;
    f->shape[1] = cols;
    f->bytes = (uint64_t)rows * (uint64_t)cols * (uint64_t)qsae_dtype_bits(dtype) / 8;
}

/* Codec none: the elements themselves, in the dtype they are rounded to. */
static int32_t none_row(void *arg, int64_t row, int32_t worker)
{
    const qsae_qmatrix *q = ((void **)arg)[0];
    const qsae__source *s = ((void **)arg)[1];
    const size_t size = (size_t)qsae_dtype_bits(q->dtype) / 8;
    float x[CHECK_PART];
    (void)worker;
    for (int64_t c0 = 0; c0 < q->n_in; c0 += CHECK_PART) {
        const int64_t n = qsae__min_i64(CHECK_PART, q->n_in - c0);
        qsae__source_row(s, row, c0, n, x);
        (void)qsae__from_f32(q->dtype, x, n,
                             (char *)q->codes + (size_t)(row * q->n_in + c0) * size);
    }
    return QSAE_OK;
}

static int32_t none_plan(qsae_qmatrix *q)
{
    if (q->codec.weights)
        q->dtype = q->codec.weights;
    const size_t size = (size_t)qsae_dtype_bits(q->dtype) / 8;
    size_t bytes;
    if (!qsae__bytes(q->n_out * q->n_in, size, &bytes))
        return qsae__fail(QSAE_EOVERFLOW, "weight: %lld x %lld elements", (long long)q->n_out,
                          (long long)q->n_in);
    q->code_bytes = bytes;
    return QSAE_OK;
}

static int32_t none_encode(qsae_qmatrix *q, const qsae__source *src)
{
    qsae__source s = *src;
    const int32_t status = none_plan(q);
    if (status)
        return status;
    if (q->codec.weights)
        s.round = q->dtype;
    q->codes = qsae__alloc(q->ctx, (size_t)q->code_bytes);
    if (!q->codes)
        return QSAE_ENOMEM;
    void *arg[2] = { q, &s };
    return qsae__parallel(q->ctx, q->n_out, none_row, arg);
}

static void none_decode(const qsae_qmatrix *q, int64_t row, int64_t c0, int64_t n, int32_t dtype,
                        float *dst)
{
    const size_t size = (size_t)qsae_dtype_bits(q->dtype) / 8;
    load(q->ctx, q->dtype, (char *)q->codes + (size_t)(row * q->n_in + c0) * size, n, dst);
    if (dtype != q->dtype)
        qsae__round(q->ctx, dtype, dst, n);
}

static void none_decode16(const qsae_qmatrix *q, int64_t row, int64_t c0, int64_t n, uint16_t *dst)
{
    const size_t size = (size_t)qsae_dtype_bits(q->dtype) / 8;
    const char *src = (const char *)q->codes + (size_t)(row * q->n_in + c0) * size;
    if (q->dtype == QSAE_BF16) {
        memcpy(dst, src, (size_t)n * sizeof *dst);
    } else if (q->dtype == QSAE_F32) {
        qsae__blocks_get(q->ctx)->narrow(src, n, dst);
    } else {
        for (int64_t i = 0; i < n; i += CHECK_PART) {
            const int64_t part = qsae__min_i64(CHECK_PART, n - i);
            float x[CHECK_PART];
            (void)qsae__to_f32(q->dtype, src + (size_t)i * size, part, x);
            qsae__blocks_get(q->ctx)->narrow(x, part, dst + i);
        }
    }
}

static bool none_field(const qsae_qmatrix *q, int32_t i, qsae_field *f)
{
    if (i != 0)
        return false;
    qsae__field_set(f, "weight", q->codes, q->dtype, 2, q->n_out, q->n_in);
    return true;
}

static uint64_t none_bytes(const qsae_qmatrix *q)
{
    return q->code_bytes;
}

const qsae__codec_ops qsae__codec_none = { none_encode, none_decode, none_decode16, none_field,
                                           none_bytes, NULL, none_plan };

static const qsae__codec_ops *ops_of(enum qsae__codec codec)
{
    switch (codec) {
    case QSAE__INT8:
        return &qsae__codec_int8;
    case QSAE__NF4:
    case QSAE__FP4:
        return &qsae__codec_4bit;
    case QSAE__RTN:
        return &qsae__codec_rtn;
    case QSAE__GGML:
        return &qsae__codec_ggml;
    default:
        return &qsae__codec_none;
    }
}

int32_t qsae__qmatrix_new(qsae_context *ctx, const qsae__codec_ops *ops, int32_t dtype,
                          int64_t n_out, int64_t n_in, qsae_qmatrix **out)
{
    int64_t n;
    *out = NULL;
    if (n_out < 1 || n_in < 1)
        return qsae__fail(QSAE_EINVAL, "weight: %lld x %lld, expected at least 1 x 1",
                          (long long)n_out, (long long)n_in);
    if (!qsae__mul_i64(n_out, n_in, &n) || n > INT64_MAX / 16)
        return qsae__fail(QSAE_EOVERFLOW, "weight: %lld x %lld elements", (long long)n_out,
                          (long long)n_in);
    qsae_qmatrix *q = qsae__calloc(ctx, 1, sizeof *q);
    if (!q)
        return QSAE_ENOMEM;
    qsae__handle_set(&q->base, QSAE__A_QMATRIX, 0);
    atomic_init(&q->refs, 1);
    q->ctx = qsae__context_ref(ctx);
    q->ops = ops;
    q->codec.codec = QSAE__STORED;
    q->dtype = dtype;
    q->n_out = n_out;
    q->n_in = n_in;
    q->heads = q->parts = 1;
    *out = q;
    return QSAE_OK;
}

qsae_qmatrix *qsae__qmatrix_ref(const qsae_qmatrix *matrix)
{
    qsae_qmatrix *const q = (qsae_qmatrix *)(uintptr_t)matrix; /* only the count changes */
    if (q)
        atomic_fetch_add(&q->refs, 1);
    return q;
}

void qsae__qmatrix_release(const qsae_qmatrix *q)
{
    const qsae__tensor codes = { .data = q->codes, .bytes = q->code_bytes };
    if (q->borrowed && q->file)
        qsae__tensor_release(q->file, &codes);
}

int32_t qsae__qmatrix_share(qsae_qmatrix *q)
{
    if (!q)
        return QSAE_OK;
    const bool bytes = q->ops == &qsae__codec_rtn; /* one per code, however many bits count */
    const size_t codes = bytes ? (size_t)(q->n_out * q->n_in) : (size_t)q->code_bytes;
    const size_t scales = (size_t)(q->scale_rows * q->scale_cols);
    int32_t st = q->borrowed ? QSAE_OK : qsae__share(q->ctx, &q->codes, codes);
    if (st == QSAE_OK)
        st = qsae__share(q->ctx, &q->scale, scales * sizeof *q->scale);
    if (st == QSAE_OK)
        st = qsae__share(q->ctx, &q->zero, scales * sizeof *q->zero);
    if (st == QSAE_OK)
        st = qsae__share(q->ctx, &q->q_absmax, (size_t)q->scale_rows);
    return st;
}

/* A matrix for the codec of c, not encoded yet. */
static int32_t new_encoded(qsae_context *ctx, const qsae__condition *c, const qsae__source *src,
                           int64_t heads, qsae_qmatrix **out)
{
    qsae_qmatrix *q;
    qsae__condition fallback;
    *out = NULL;
    if (c->codec == QSAE__GGML && c->ggml_fallback) {
        fallback = *c;
        fallback.ggml = qsae__ggml_fallback(c->ggml, src->n_in);
        if (fallback.ggml == QSAE_F16) {
            fallback.codec = QSAE__NONE;
            fallback.weights = QSAE_F16;
        }
        c = &fallback;
    }
    const int32_t status = qsae__qmatrix_new(ctx, ops_of(c->codec),
                                             src->round ? src->round : src->dtype, src->n_out,
                                             src->n_in, &q);
    if (status)
        return status;
    q->codec = *c;
    q->codec.only = q->codec.skip = NULL;
    q->codec.prune_target = q->codec.canonical = q->codec.codec_canonical = NULL;
    q->parts = heads < 0 ? 3 : 1;
    q->heads = heads < 0 ? -heads : qsae__max_i64(heads, 1);
    *out = q;
    return QSAE_OK;
}

static int32_t encode_codec(qsae_context *ctx, const qsae__condition *c, const qsae__source *src,
                            int64_t heads, qsae_qmatrix **out)
{
    int32_t status = new_encoded(ctx, c, src, heads, out);
    if (!status)
        status = (*out)->ops->encode(*out, src);
    if (status)
        qsae__qmatrix_unref(out);
    return status;
}

/* Whether a control takes the encoded matrix's place. */
static bool is_noise(const qsae__condition *c)
{
    return c->control == QSAE__CONTROL_GAUSS || c->control == QSAE__CONTROL_PERMUTE;
}

/* Whether the codec has a say: pruning alone leaves plain values. */
static bool has_codec(const qsae__condition *c)
{
    return c->codec != QSAE__NONE || c->weights || c->prune.kind == QSAE__PRUNE_NONE;
}

/* Pruned, encoded, replaced by its control; each stage reads the one before it. */
static int32_t encode_stages(qsae_context *ctx, const qsae__condition *c, const qsae__source *src,
                             int64_t heads, qsae_qmatrix **out)
{
    const bool control = is_noise(c);
    qsae__source from = *src;
    qsae_qmatrix *pruned = NULL, *q = NULL;
    int32_t status = QSAE_OK;
    if (c->prune.kind != QSAE__PRUNE_NONE) {
        status = qsae__prune_encode(&c->prune, src, &pruned);
        from.stored = pruned;
    }
    if (!status && has_codec(c))
        status = encode_codec(ctx, c, &from, heads, &q);
    if (!status && control) {
        const qsae_qmatrix *const changed = q ? q : pruned;
        qsae_qmatrix *noise = NULL;
        status = qsae__control_encode(c->control, c->seed, src, changed, &noise);
        qsae__qmatrix_unref(&q);
        q = noise;
    }
    if (!status && !q) {
        q = pruned;
        pruned = NULL;
    }
    qsae__qmatrix_unref(&pruned);
    *out = q;
    return status;
}

int32_t qsae__qmatrix_encode(qsae_context *ctx, const qsae__condition *c, const qsae__source *src,
                             int64_t heads, qsae_qmatrix **out)
{
    *out = NULL;
    const qsae__fpenv env = qsae__fpenv_enter();
    const int32_t status = encode_stages(ctx, c, src, heads, out);
    qsae__fpenv_leave(env);
    return status;
}

int32_t qsae__qmatrix_plan(qsae_context *ctx, const qsae__condition *c, const qsae__source *src,
                           int64_t heads, qsae_qmatrix **out)
{
    const int32_t dtype = src->round ? src->round : src->dtype;
    int32_t status = QSAE_OK;
    *out = NULL;
    if (c->prune.kind != QSAE__PRUNE_NONE)
        status = qsae__prune_check(&c->prune, src->n_in);
    if (!status && has_codec(c)) {
        status = new_encoded(ctx, c, src, heads, out);
        if (!status)
            status = (*out)->ops->plan(*out);
    }
    if (!status && (!*out || is_noise(c))) { /* plain values */
        qsae__qmatrix_unref(out);
        status = qsae__qmatrix_new(ctx, &qsae__codec_none, dtype, src->n_out, src->n_in, out);
        if (!status) {
            (*out)->codec.codec = QSAE__NONE;
            status = none_plan(*out);
        }
    }
    if (status)
        qsae__qmatrix_unref(out);
    return status;
}

void qsae_qmatrix_close(qsae_qmatrix **matrix)
{
    if (qsae__leave(matrix, "matrix"))
        qsae__qmatrix_unref(matrix);
}

void qsae__qmatrix_unref(qsae_qmatrix **matrix)
{
    if (!*matrix)
        return;
    qsae_qmatrix *q = *matrix;
    qsae_context *ctx = q->ctx;
    *matrix = NULL;
    if (atomic_fetch_sub(&q->refs, 1) != 1)
        return;
    if (q->ops && q->ops->close)
        q->ops->close(q);
    if (!q->borrowed)
        qsae__free(ctx, q->codes);
    qsae__free(ctx, q->scale);
    qsae__free(ctx, q->zero);
    qsae__free(ctx, q->q_absmax);
    qsae__free(ctx, q->nested_absmax);
    qsae__free(ctx, q->act);
    qsae__tensors_unref(&q->file);
    qsae__retire(ctx, q);
    qsae__context_unref(ctx);
}
