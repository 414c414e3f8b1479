/* SPDX-License-Identifier: BSD-2-Clause */
#include "sae/rewrite.h"

#include <math.h>
#include <string.h>

#include "formats/set.h"
#include "kernels/kernels.h"

static int32_t rewrite_of(qsae_context *ctx, qsae__tensors **from, qsae__rewrite *r)
{
    *r = (qsae__rewrite){ .ctx = ctx, .from = *from };
    const int32_t st = qsae__set_new(ctx, (*from)->path, &r->to);
    if (st != QSAE_OK)
        qsae__tensors_unref(from);
    else
        r->to->parent = qsae__tensors_ref(*from);
    return st;
}

int32_t qsae__rewrite_open(qsae_context *ctx, const char *path, qsae__rewrite *r)
{
    qsae__tensors *from = NULL;
    const int32_t st = qsae__tensors_load(ctx, path, &from);
    return st == QSAE_OK ? rewrite_of(ctx, &from, r) : st;
}

int32_t qsae__rewrite_open_files(qsae_context *ctx, const char *folder, const char *const *names,
                                 int64_t count, qsae__rewrite *r)
{
    qsae__tensors *from = NULL;
    int32_t st = qsae__set_new(ctx, folder, &from);
    for (int64_t i = 0; i < count && st == QSAE_OK; i++) {
        char *const path = qsae__path_join(ctx, folder, names[i]);
        qsae__file *file = NULL;
        st = path ? qsae__file_open(ctx, path, &file) : QSAE_ENOMEM;
        qsae__free(ctx, path);
        if (st == QSAE_OK)
            st = qsae__set_add_file(from, &file);
        if (st == QSAE_OK)
            st = qsae__safetensors_read(from, from->files[from->n_files - 1]);
    }
    if (st == QSAE_OK)
        st = qsae__set_finish(from);
    if (st != QSAE_OK) {
        qsae__tensors_unref(&from);
        return st;
    }
    return rewrite_of(ctx, &from, r);
}

void qsae__rewrite_close(qsae__rewrite *r)
{
    qsae__tensors_unref(&r->to);
    qsae__tensors_unref(&r->from);
}

int32_t qsae__rewrite_finish(qsae__rewrite *r, qsae__tensors **out)
{
    const int32_t st = qsae__set_finish(r->to);
    if (st == QSAE_OK) {
        *out = r->to;
        r->to = NULL;
    }
    qsae__rewrite_close(r);
    return st;
}

bool qsae__rewrite_has(const qsae__rewrite *r, const char *source)
{
    return qsae__tensors_find(r->from, source) != NULL;
}

const char *qsae__rewrite_either(const qsae__rewrite *r, const char *a, const char *b)
{
    return !qsae__rewrite_has(r, a) && qsae__rewrite_has(r, b) ? b : a;
}

/* The set is sorted only when it is finished. */
static qsae__tensor *find_made(const qsae__rewrite *r, const char *name)
{
    for (int64_t i = 0; i < r->to->count; i++)
        if (strcmp(r->to->items[i].name, name) == 0)
            return &r->to->items[i];
    return NULL;
}

static bool is_float(int32_t dtype)
{
    return dtype == QSAE_F32 || dtype == QSAE_F16 || dtype == QSAE_BF16 || dtype == QSAE_F64;
}

int32_t qsae__rewrite_need(const qsae__rewrite *r, const char *source, int32_t rank,
                           const int64_t *shape, const qsae__tensor **out)
{
    const int32_t st = qsae__tensors_need(r->from, source, rank, shape, out);
    if (st == QSAE_OK && !is_float((*out)->dtype))
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: tensor \"%s\": expected F32, F16, BF16 or F64, "
                          "found %s", (*out)->file, source, qsae_dtype_name((*out)->dtype));
    return st;
}

/* Adds `t` under a name that outlives the call: names are string literals of the readers. */
static int32_t add(qsae__rewrite *r, qsae__tensor t, const char *name)
{
    t.name = name;
    return qsae__set_add(r->to, &t);
}

int32_t qsae__rewrite_same(qsae__rewrite *r, const char *source, const char *name, int32_t rank,
                           const int64_t *shape)
{
    const qsae__tensor *t;
    const int32_t st = qsae__rewrite_need(r, source, rank, shape, &t);
    return st == QSAE_OK ? add(r, *t, name) : st;
}

/* dst [k, n] = src [n, k], in squares that stay in the caches. */
static void turn(const char *src, int64_t n, int64_t k, size_t size, char *dst)
{
    enum { SIDE = 64 };
    for (int64_t i0 = 0; i0 < n; i0 += SIDE)
        for (int64_t j0 = 0; j0 < k; j0 += SIDE)
            for (int64_t i = i0; i < qsae__min_i64(n, i0 + SIDE); i++)
                for (int64_t j = j0; j < qsae__min_i64(k, j0 + SIDE); j++)
                    memcpy(dst + (size_t)(j * n + i) * size, src + (size_t)(i * k + j) * size,
                           size);
}

int32_t qsae__rewrite_turned(qsae__rewrite *r, const char *source, const char *name)
{
    const int64_t any[2] = { -1, -1 };
    const qsae__tensor *t;
    const int32_t st = qsae__rewrite_need(r, source, 2, any, &t);
    if (st != QSAE_OK)
        return st;
    qsae__tensor out = *t;
    char *const data = qsae__set_alloc(r->to, (size_t)t->bytes);
    if (!data)
        return QSAE_ENOMEM;
    out.shape[0] = t->shape[1];
    out.shape[1] = t->shape[0];
    out.data = data;
    turn(t->data, t->shape[0], t->shape[1], (size_t)qsae_dtype_bits(t->dtype) / 8, data);
    return add(r, out, name);
}

int32_t qsae__rewrite_slice(qsae__rewrite *r, const char *source, const char *name, int axis,
                            int64_t at)
{
    const qsae__tensor *t;
    const int32_t st = qsae__rewrite_need(r, source, -1, NULL, &t);
    if (st != QSAE_OK)
        return st;
    if (t->rank <= axis || at < 0 || at >= t->shape[axis])
        return qsae__fail(QSAE_EMISMATCH, "%s: tensor \"%s\": expected axis %d to have an element "
                          "%lld, found %lld", t->file, source, axis, (long long)at,
                          t->rank <= axis ? 0LL : (long long)t->shape[axis]);
    qsae__tensor out = *t;
    out.rank = t->rank - 1;
    for (int i = axis; i < out.rank; i++)
        out.shape[i] = t->shape[i + 1];
    out.bytes = t->bytes / (uint64_t)t->shape[axis];
    const int64_t outer = axis == 0 ? 1 : t->shape[0];
    const size_t inner = outer ? (size_t)(out.bytes / (uint64_t)outer) : 0;
    const char *const base = (const char *)t->data + (size_t)at * inner;
    out.data = base;
    if (outer > 1) { /* rows that do not lie one after the other */
        char *const data = qsae__set_alloc(r->to, (size_t)out.bytes);
        if (!data)
            return QSAE_ENOMEM;
        for (int64_t i = 0; i < outer; i++)
            memcpy(data + (size_t)i * inner, base + (size_t)(i * t->shape[axis]) * inner, inner);
        out.data = data;
    }
    return add(r, out, name);
}

static bool is_own(const qsae__rewrite *r, const qsae__tensor *t)
{
    for (int64_t i = 0; i < r->to->n_blocks; i++)
        if (r->to->blocks[i].data == t->data)
            return true;
    return false;
}

int32_t qsae__rewrite_f32(qsae__rewrite *r, const char *name, float **values, int64_t *count)
{
    qsae__tensor *const t = find_made(r, name);
    if (!t)
        return qsae__fail(QSAE_EINTERNAL, "%s: no tensor \"%s\" to change", r->to->path, name);
    const int64_t n = (int64_t)(t->bytes / ((uint64_t)qsae_dtype_bits(t->dtype) / 8));
    uint64_t bytes;
    if (count)
        *count = n;
    if (t->dtype != QSAE_F32 || !is_own(r, t)) {
        if (!qsae__mul_u64((uint64_t)n, sizeof(float), &bytes) || bytes > SIZE_MAX)
            return qsae__fail(QSAE_EOVERFLOW, "%s: tensor \"%s\" is too large", t->file, name);
        float *const copy = qsae__set_alloc(r->to, (size_t)bytes);
        if (!copy)
            return QSAE_ENOMEM;
        qsae__to_f32(t->dtype, t->data, n, copy);
        t->data = copy;
        t->dtype = QSAE_F32;
        t->bytes = bytes;
    }
    union { const void *in; float *out; } data = { t->data };
    *values = data.out;
    return QSAE_OK;
}

int32_t qsae__rewrite_fill(qsae__rewrite *r, const char *name, int64_t n, float value,
                           float **values)
{
    uint64_t bytes;
    if (n < 0 || !qsae__mul_u64((uint64_t)n, sizeof(float), &bytes) || bytes > SIZE_MAX)
        return qsae__fail(QSAE_EOVERFLOW, "%s: tensor \"%s\" is too large", r->to->path, name);
    float *const data = qsae__set_alloc(r->to, (size_t)bytes);
    if (!data)
        return QSAE_ENOMEM;
    for (int64_t i = 0; i < n; i++)
        data[i] = value;
    if (values)
        *values = data;
    return add(r, (qsae__tensor){ .file = r->to->path, .data = data, .bytes = bytes,
                                  .shape = { n }, .rank = 1, .dtype = QSAE_F32 }, name);
}

int32_t qsae__rewrite_scalar(const qsae__rewrite *r, const char *source, double *value)
{
    const qsae__tensor *t;
    float f = 0;
    const int32_t st = qsae__tensors_need(r->from, source, -1, NULL, &t);
    if (st != QSAE_OK)
        return st;
    if (t->rank > 1 || (t->rank == 1 && t->shape[0] != 1))
        return qsae__fail(QSAE_EMISMATCH, "%s: tensor \"%s\": expected one number, found rank %d",
                          t->file, source, (int)t->rank);
    if (t->dtype == QSAE_F64)
        memcpy(value, t->data, sizeof *value);
    else if (qsae__to_f32(t->dtype, t->data, 1, &f))
        *value = f;
    else
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: tensor \"%s\": expected a number, found %s",
                          t->file, source, qsae_dtype_name(t->dtype));
    if (!isfinite(*value))
        return qsae__fail(QSAE_ENONFINITE, "%s: tensor \"%s\" is not finite", t->file, source);
    return QSAE_OK;
}

bool qsae__rewrite_is_count(double value)
{
    return value >= 1 && value < 1e9 && value == floor(value);
}

int32_t qsae__rewrite_count(const qsae__rewrite *r, const char *source, int64_t *count)
{
    double value;
    const int32_t st = qsae__rewrite_scalar(r, source, &value);
    if (st != QSAE_OK)
        return st;
    if (!qsae__rewrite_is_count(value))
        return qsae__fail(QSAE_EFORMAT, "%s: tensor \"%s\": expected a positive integer, found %g",
                          qsae__tensors_find(r->from, source)->file, source, value);
    *count = (int64_t)value;
    return QSAE_OK;
}

int32_t qsae__rewrite_multiply(qsae__rewrite *r, const char *name, double factor)
{
    float *v;
    int64_t n;
    const int32_t st = qsae__rewrite_f32(r, name, &v, &n);
    for (int64_t i = 0; st == QSAE_OK && i < n; i++)
        v[i] *= (float)factor;
    return st;
}

int32_t qsae__rewrite_divide(qsae__rewrite *r, const char *name, double factor)
{
    float *v;
    int64_t n;
    const int32_t st = qsae__rewrite_f32(r, name, &v, &n);
    for (int64_t i = 0; st == QSAE_OK && i < n; i++)
        v[i] /= (float)factor;
    return st;
}

int32_t qsae__rewrite_fold_scale(qsae__rewrite *r, double s)
{
    if (!(s > 1e-30) || !(s < 1e30))
        return qsae__fail(QSAE_EINVAL, "%s: scale: expected a positive number, found %g",
                          r->to->path, s);
    int32_t st = qsae__rewrite_multiply(r, "W_enc", s);
    if (st == QSAE_OK)
        st = qsae__rewrite_divide(r, "W_dec", s);
    return st == QSAE_OK ? qsae__rewrite_divide(r, "b_dec", s) : st;
}

int32_t qsae__rewrite_norms(qsae__rewrite *r, float **norms, int64_t *count)
{
    const qsae__tensor *const t = find_made(r, "W_dec");
    const int64_t n = t->shape[0], d = t->shape[1];
    const size_t size = (size_t)qsae_dtype_bits(t->dtype) / 8;
    float *const row = qsae__alloc_array(r->ctx, d, sizeof *row);
    *count = n;
    *norms = qsae__alloc_array(r->ctx, n, sizeof **norms);
    for (int64_t i = 0; row && *norms && i < n; i++) {
        double sum = 0;
        qsae__to_f32(t->dtype, (const char *)t->data + (size_t)(i * d) * size, d, row);
        for (int64_t j = 0; j < d; j++)
            sum += (double)row[j] * row[j];
        (*norms)[i] = (float)sqrt(sum);
    }
    if (!row) {
        qsae__free(r->ctx, *norms);
        *norms = NULL;
    }
    qsae__free(r->ctx, row);
    return *norms ? QSAE_OK : QSAE_ENOMEM;
}

static int32_t scale_vector(qsae__rewrite *r, const char *name, const float *norms, int64_t n)
{
    float *v;
    int64_t count;
    if (!find_made(r, name))
        return QSAE_OK;
    const int32_t st = qsae__rewrite_f32(r, name, &v, &count);
    for (int64_t i = 0; st == QSAE_OK && i < qsae__min_i64(n, count); i++)
        v[i] *= norms[i];
    return st;
}

static int32_t scale_matrices(qsae__rewrite *r, bool turned, const float *norms, int64_t n)
{
    float *dec, *enc;
    int64_t n_dec, n_enc;
    int32_t st = qsae__rewrite_f32(r, "W_dec", &dec, &n_dec);
    if (st == QSAE_OK)
        st = qsae__rewrite_f32(r, "W_enc", &enc, &n_enc);
    if (st != QSAE_OK)
        return st;
    const int64_t d = n_dec / n, d_in = n_enc / n;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < d; j++)
            dec[i * d + j] /= norms[i];
    for (int64_t i = 0; turned && i < n; i++)
        for (int64_t j = 0; j < d_in; j++)
            enc[i * d_in + j] *= norms[i];
    for (int64_t j = 0; !turned && j < d_in; j++)
        for (int64_t i = 0; i < n; i++)
            enc[j * n + i] *= norms[i];
    return QSAE_OK;
}

int32_t qsae__rewrite_fold_norms(qsae__rewrite *r, bool turned, bool if_needed)
{
    static const char *const vectors[] = { "b_enc", "b_gate", "b_mag", "threshold" };
    float *norms;
    int64_t n;
    bool ones = true;
    int32_t st = qsae__rewrite_norms(r, &norms, &n);
    if (st != QSAE_OK)
        return st;
    for (int64_t i = 0; i < n; i++) {
        ones &= fabsf(norms[i] - 1.0f) <= 1e-5f;
        norms[i] = fmaxf(norms[i], 1e-8f);
    }
    if (n > 0 && !(ones && if_needed)) {
        st = scale_matrices(r, turned, norms, n);
        for (size_t i = 0; i < sizeof vectors / sizeof vectors[0] && st == QSAE_OK; i++)
            st = scale_vector(r, vectors[i], norms, n);
    }
    qsae__free(r->ctx, norms);
    return st;
}
