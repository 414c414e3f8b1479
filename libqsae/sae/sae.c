/* SPDX-License-Identifier: BSD-2-Clause */
/* Public calls on an open SAE. */
#include <string.h>

#include "sae/parts.h"

#define INPUTS (1u << QSAE_F32 | 1u << QSAE_F16 | 1u << QSAE_BF16)
#define OUTPUTS (1u << QSAE_F32)
#define RELEASE ((int64_t)1 << 26) /* values read before pages are given back */

/* Values of a tensor in f32, row by row, into the hash. n_stride and k_stride address [rows,
 * cols]. */
static int32_t hash_matrix(const qsae_sae *sae, qsae__hasher *h, const char *name,
                           const qsae__tensor *t, bool turned)
{
    qsae__hasher_string(h, name);
    if (!t)
        return QSAE_OK;
    const int64_t rows = turned ? t->shape[1] : t->shape[0];
    const int64_t cols = turned ? t->shape[0] : t->shape[1];
    const size_t size = (size_t)qsae_dtype_bits(t->dtype) / 8;
    enum { STRIPE = 16 }; /* rows of a turned matrix that are gathered at once */
    float part[STRIPE];
    int64_t most;
    float *const row = qsae__mul_i64(cols, turned ? STRIPE : 1, &most) ?
                       qsae__alloc_array(sae->ctx, most, sizeof *row) : NULL;
    if (!row)
        return QSAE_ENOMEM;
    qsae__hasher_i64(h, rows);
    qsae__hasher_i64(h, cols);
    for (int64_t r = 0; r < rows; r += turned ? STRIPE : 1) {
        const char *const base = t->data;
        const int64_t n = turned ? qsae__min_i64(STRIPE, rows - r) : 1;
        if (!turned)
            qsae__to_f32(t->dtype, base + (size_t)(r * cols) * size, cols, row);
        for (int64_t c = 0; turned && c < cols; c++) {
            qsae__to_f32(t->dtype, base + (size_t)(c * rows + r) * size, n, part);
            for (int64_t i = 0; i < n; i++)
                row[i * cols + c] = part[i];
        }
        qsae__hasher_update(h, row, (size_t)(n * cols) * sizeof *row);
        if ((r + n) * cols / RELEASE != r * cols / RELEASE)
            qsae__tensor_release(sae->tensors, t);
    }
    qsae__free(sae->ctx, row);
    return QSAE_OK;
}

static void hash_vector(qsae__hasher *h, const char *name, const float *v, int64_t n)
{
    qsae__hasher_string(h, name);
    qsae__hasher_i64(h, v ? n : 0);
    if (v)
        qsae__hasher_update(h, v, (size_t)n * sizeof *v);
}

/* Options that few SAEs have; those without them keep the hash they had before these existed. */
static void hash_rare(const qsae_sae *sae, qsae__hasher *h)
{
    const qsae__sae_config *const c = &sae->config;
    const bool pursuit = c->activation == QSAE__PURSUIT;
    const struct {
        const char *name;
        int64_t value;
    } options[] = {
        { "tanh", c->activation == QSAE__TANH_RELU },
        { "norm_undone", c->norm_undone },
        { "keeps_negative", c->keeps_negative },
        { "center_input", c->center_input },
        { "max_iterations", pursuit ? c->max_iterations : 0 },
        { "stop_on_repeat", pursuit && c->stop_on_repeat },
        { "prefix", sae->prefix },
    };
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++)
        if (options[i].value) {
            qsae__hasher_string(h, options[i].name);
            qsae__hasher_i64(h, options[i].value);
        }
    if (pursuit)
        qsae__hasher_update(h, &c->residual_threshold, sizeof c->residual_threshold);
}

/* Equal for equal SAEs whatever the container and element type: what the module computes with, in
 * f32. */
static int32_t make_hash(qsae_sae *sae)
{
    const qsae__sae_config *const c = &sae->config;
    qsae__hasher *h = NULL;
    int32_t st = qsae__hasher_open(sae->ctx, &h);
    if (st != QSAE_OK)
        return st;
    qsae__hasher_string(h, c->architecture);
    const int64_t options[] = { c->normalize, c->k, c->apply_b_dec, c->rescale_by_norm,
                                c->transcoder };
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++)
        qsae__hasher_i64(h, options[i]);
    hash_rare(sae, h);
    st = hash_matrix(sae, h, "W_enc", sae->w_enc, c->enc_turned);
    if (st == QSAE_OK)
        st = hash_matrix(sae, h, "W_dec", sae->w_dec, false);
    if (st == QSAE_OK)
        st = hash_matrix(sae, h, "W_skip", sae->w_skip, c->lower_case);
    hash_vector(h, "b_enc", sae->b_enc, c->d_sae);
    hash_vector(h, "b_dec", sae->b_dec, c->d_out);
    hash_vector(h, "threshold", sae->threshold, c->d_sae);
    hash_vector(h, "gain", sae->gain, c->d_sae);
    hash_vector(h, "b_mag", sae->b_mag, c->d_sae);
    hash_vector(h, "scaling_factor", sae->scale, c->d_sae);
    if (st == QSAE_OK)
        qsae__hasher_hex(h, sae->hash);
    qsae__hasher_close(sae->ctx, &h);
    return st;
}

int32_t qsae_sae_set_prefix(qsae_sae *sae, int64_t prefix)
{
    if (qsae__need(sae, "sae"))
        return QSAE_EINVAL;
    if (prefix < 0 || prefix > sae->config.d_sae)
        return qsae__fail(QSAE_EINVAL, "qsae_sae_set_prefix: expected 0 to %lld, found %lld",
                          (long long)sae->config.d_sae, (long long)prefix);
    if (prefix != sae->prefix)
        sae->hash[0] = '\0';
    sae->prefix = prefix;
    return QSAE_OK;
}

int32_t qsae_sae_get_info(const qsae_sae *sae, qsae_sae_info *info)
{
    static const char *const normalize[] = { "none", "layer_norm", "constant_norm_rescale",
                                             "expected_average_only_in" };
    if (qsae__need(sae, "sae"))
        return QSAE_EINVAL;
    if (!info)
        return qsae__fail(QSAE_EINVAL, "qsae_sae_get_info: info must not be NULL");
    if (!sae->hash[0]) {
        /* Reading every parameter takes time for a large file: only when asked for, and once. */
        union { const qsae_sae *in; qsae_sae *out; } handle = { sae };
        const int32_t st = make_hash(handle.out);
        if (st != QSAE_OK)
            return st;
    }
    const qsae__sae_config *const c = &sae->config;
    const qsae_sae_info all = {
        .struct_size = sizeof all, .architecture = c->architecture, .format = c->format,
        .hook = c->hook, .normalize = normalize[c->normalize], .hash = sae->hash, .path = sae->path,
        .width = c->d_in, .width_out = c->d_out, .features = c->d_sae,
        .k = c->k, .context_size = c->context_size,
        .min_threshold = sae->min_threshold, .prepend_bos = c->prepend_bos,
        .apply_b_dec = c->apply_b_dec, .skip = c->skip, .state_size = sae->state_size,
        .widths = c->widths, .n_widths = c->n_widths, .prefix = sae->prefix,
        .zero_rows = sae->zero_rows, .center_input = c->center_input,
        .hook_out = c->hook_out ? c->hook_out : c->hook, .model_name = c->model ? c->model : "",
        .neuronpedia_id = c->neuronpedia ? c->neuronpedia : "", .scale = c->scale,
        .norm_in = c->norm_in, .norm_out = c->norm_out, .encode_only = c->encode_only,
        .transcoder = c->transcoder, .head = c->one_head ? (int32_t)c->head : -1,
    };
    return qsae__info_copy(info, &all, sizeof all, "qsae_sae_info");
}

/* rows fit: dtype, width and, where n >= 0, count. */
static int32_t check_rows(const qsae_sae *sae, const qsae_rows *rows, const char *what,
                          uint32_t dtypes, int64_t width, int64_t n)
{
    const int32_t st = qsae__rows_check(rows, what, dtypes);
    if (st != QSAE_OK)
        return st;
    if (rows->n_cols != width)
        return qsae__fail(QSAE_EMISMATCH, "%s: %s: expected rows of width %lld, found %lld",
                          sae->path, what, (long long)width, (long long)rows->n_cols);
    if (n >= 0 && rows->n_rows != n)
        return qsae__fail(QSAE_EINVAL, "%s: expected %lld rows, found %lld", what, (long long)n,
                          (long long)rows->n_rows);
    return QSAE_OK;
}

static int32_t check_state(const qsae_sae *sae, const float *state, int64_t n)
{
    if (sae->state_size && n > 0 && !state)
        return qsae__fail(QSAE_EINVAL,
                          "%s: state must not be NULL: normalisation needs %d floats per "
                          "row", sae->path, (int)sae->state_size);
    return QSAE_OK;
}

/* Checks x, the dense output if there is one, and state, and encodes; the caller frees the
 * blocks. */
static int32_t encode_checked(qsae_sae *sae, const qsae_rows *x, const qsae_rows *acts,
                              float *state, qsae__sae_blocks *blocks)
{
    int32_t st = check_rows(sae, x, "x", INPUTS, sae->config.d_in, -1);
    if (st == QSAE_OK && acts)
        st = check_rows(sae, acts, "acts", OUTPUTS, sae->config.d_sae, x->n_rows);
    if (st == QSAE_OK)
        st = check_state(sae, state, x->n_rows);
    if (st != QSAE_OK)
        return st;
    const qsae__fpenv env = qsae__fpenv_enter();
    st = qsae__sae_encode_blocks(sae, x, state, blocks);
    qsae__fpenv_leave(env);
    return st;
}

int32_t qsae_sae_encode_sparse(qsae_sae *sae, const qsae_rows *x, int64_t *indptr, int32_t *indices,
                               float *values, int64_t capacity, float *state, int64_t *nnz)
{
    QSAE__FPENV;
    if (qsae__need_aligned(nnz, "nnz"))
        return QSAE_EINVAL;
    if (nnz)
        *nnz = 0;
    if (qsae__need(sae, "sae"))
        return QSAE_EINVAL;
    if (qsae__need_aligned(indptr, "indptr") ||
        qsae__need_aligned(indices, "indices") ||
        qsae__need_aligned(values, "values") ||
        qsae__need_aligned(state, "state"))
        return QSAE_EINVAL;
    if (!x || !indptr || !nnz || capacity < 0 || (capacity > 0 && (!indices || !values)))
        return qsae__fail(QSAE_EINVAL,
                          "qsae_sae_encode_sparse: NULL argument or negative capacity");
    qsae__sae_blocks blocks;
    const int32_t st = encode_checked(sae, x, NULL, state, &blocks);
    if (st != QSAE_OK)
        return st;
    *nnz = blocks.nnz;
    indptr[0] = 0;
    const bool fits = blocks.nnz <= capacity;
    for (int64_t i = 0; i < blocks.n; i++) {
        const qsae__sae_block *const b = &blocks.block[i];
        if (fits && b->nnz) {
            memcpy(indices + indptr[b->row0], b->indices, (size_t)b->nnz * sizeof *indices);
            memcpy(values + indptr[b->row0], b->values, (size_t)b->nnz * sizeof *values);
        }
        for (int64_t r = 0; r < b->rows; r++)
            indptr[b->row0 + r + 1] = indptr[b->row0 + r] + b->count[r];
    }
    qsae__sae_blocks_free(&blocks);
    return fits ? QSAE_OK : qsae__fail(QSAE_ESPACE, "room for %lld entries, needed are %lld",
                                       (long long)capacity, (long long)*nnz);
}

int32_t qsae_sae_encode(qsae_sae *sae, const qsae_rows *x, qsae_rows *acts, float *state)
{
    QSAE__FPENV;
    if (qsae__need(sae, "sae"))
        return QSAE_EINVAL;
    if (qsae__need_aligned(state, "state"))
        return QSAE_EINVAL;
    if (!x || !acts)
        return qsae__fail(QSAE_EINVAL, "qsae_sae_encode: x and acts must not be NULL");
    qsae__sae_blocks blocks;
    const int32_t st = encode_checked(sae, x, acts, state, &blocks);
    if (st != QSAE_OK)
        return st;
    for (int64_t i = 0; i < blocks.n; i++) {
        const qsae__sae_block *const b = &blocks.block[i];
        int64_t e = 0;
        for (int64_t r = 0; r < b->rows; r++) {
            float *const row = (float *)acts->data + (b->row0 + r) * acts->row_stride;
            memset(row, 0, (size_t)acts->n_cols * sizeof *row);
            for (int64_t end = e + b->count[r]; e < end; e++)
                row[b->indices[e]] = b->values[e];
        }
    }
    qsae__sae_blocks_free(&blocks);
    return QSAE_OK;
}

int32_t qsae_sae_decode_sparse(qsae_sae *sae, int64_t n, const int64_t *indptr,
                               const int32_t *indices,
                               const float *values, const float *state, qsae_rows *y)
{
    if (qsae__need(sae, "sae"))
        return QSAE_EINVAL;
    if (qsae__need_aligned(indptr, "indptr") ||
        qsae__need_aligned(indices, "indices") ||
        qsae__need_aligned(values, "values") ||
        qsae__need_aligned(state, "state"))
        return QSAE_EINVAL;
    if (!indptr || !y || n < 0)
        return qsae__fail(QSAE_EINVAL, "qsae_sae_decode_sparse: NULL argument or negative count");
    int32_t st = check_rows(sae, y, "y", OUTPUTS, sae->config.d_out, n);
    if (st == QSAE_OK)
        st = check_state(sae, state, n);
    if (st != QSAE_OK)
        return st;
    for (int64_t r = 0; r < n; r++)
        if (indptr[r] < 0 || indptr[r + 1] < indptr[r])
            return qsae__fail(QSAE_EINVAL,
                              "indptr: row %lld: expected ascending offsets, found %lld, "
                              "%lld", (long long)r, (long long)indptr[r], (long long)indptr[r + 1]);
    if (n > 0 && indptr[n] > indptr[0] && (!indices || !values))
        return qsae__fail(QSAE_EINVAL, "indices and values must not be NULL");
    for (int64_t e = n > 0 ? indptr[0] : 0; n > 0 && e < indptr[n]; e++)
        if (indices[e] < 0 || indices[e] >= sae->config.d_sae)
            return qsae__fail(QSAE_EINVAL, "indices: entry %lld: expected 0..%lld, found %d",
                              (long long)e, (long long)sae->config.d_sae - 1, (int)indices[e]);
    const qsae__fpenv env = qsae__fpenv_enter();
    st = qsae__sae_decode(sae, n, indptr, indices, values, state, y->data, y->row_stride);
    qsae__fpenv_leave(env);
    return st;
}

/* Non-zero entries of dense rows. */
static int32_t compact(qsae_context *ctx, const qsae_rows *acts, qsae__csr *out)
{
    int32_t st = qsae__grow(ctx, &out->indptr, &out->rows_capacity, acts->n_rows + 1,
                            sizeof *out->indptr);
    for (int64_t r = 0; r < acts->n_rows && st == QSAE_OK; r++) {
        const float *const row = (const float *)acts->data + r * acts->row_stride;
        out->indptr[r] = out->nnz;
        for (int64_t f = 0; f < acts->n_cols && st == QSAE_OK; f++) {
            if (row[f] == 0)
                continue;
            st = qsae__grow(ctx, &out->indices, &out->index_capacity, out->nnz + 1,
                            sizeof *out->indices);
            if (st == QSAE_OK)
                st = qsae__grow(ctx, &out->values, &out->value_capacity, out->nnz + 1,
                                sizeof *out->values);
            if (st == QSAE_OK) {
                out->indices[out->nnz] = (int32_t)f;
                out->values[out->nnz++] = row[f];
            }
        }
    }
    if (st == QSAE_OK)
        out->indptr[acts->n_rows] = out->nnz;
    return st;
}

int32_t qsae_sae_decode(qsae_sae *sae, const qsae_rows *acts, const float *state, qsae_rows *y)
{
    if (qsae__need(sae, "sae"))
        return QSAE_EINVAL;
    if (qsae__need_aligned(state, "state"))
        return QSAE_EINVAL;
    if (!acts || !y)
        return qsae__fail(QSAE_EINVAL, "qsae_sae_decode: acts and y must not be NULL");
    int32_t st = check_rows(sae, acts, "acts", OUTPUTS, sae->config.d_sae, -1);
    if (st == QSAE_OK)
        st = check_rows(sae, y, "y", OUTPUTS, sae->config.d_out, acts->n_rows);
    if (st == QSAE_OK)
        st = check_state(sae, state, acts->n_rows);
    if (st != QSAE_OK)
        return st;
    qsae__csr csr;
    qsae__csr_init(&csr, sae->ctx);
    const qsae__fpenv env = qsae__fpenv_enter();
    st = compact(sae->ctx, acts, &csr);
    if (st == QSAE_OK)
        st = qsae__sae_decode(sae, acts->n_rows, csr.indptr, csr.indices, csr.values, state,
                              y->data, y->row_stride);
    qsae__fpenv_leave(env);
    qsae__csr_free(&csr);
    return st;
}

/* The rows in f32: in place, or converted into *buffer. */
static int32_t as_f32(qsae_context *ctx, const qsae_rows *x, const float **rows, int64_t *stride,
                      float **buffer)
{
    *rows = x->data;
    *stride = x->row_stride;
    if (x->dtype == QSAE_F32)
        return QSAE_OK;
    int64_t size;
    if (!qsae__mul_i64(x->n_rows, x->n_cols, &size))
        return qsae__fail(QSAE_EOVERFLOW, "x: too many elements");
    if (!(*buffer = qsae__alloc_array(ctx, size, sizeof **buffer)))
        return QSAE_ENOMEM;
    for (int64_t r = 0; r < x->n_rows; r++)
        qsae__to_f32(x->dtype, qsae__rows_at(x, r), x->n_cols, *buffer + r * x->n_cols);
    *rows = *buffer;
    *stride = x->n_cols;
    return QSAE_OK;
}

int32_t qsae__sae_check_rows(const qsae_sae *sae, const qsae_rows *x, const qsae_rows *y)
{
    const int32_t st = check_rows(sae, x, "x", INPUTS, sae->config.d_in, -1);
    return st == QSAE_OK ? check_rows(sae, y, "y", OUTPUTS, sae->config.d_out, x->n_rows) : st;
}

int32_t qsae_sae_reconstruct(qsae_sae *sae, const qsae_rows *x, qsae_rows *y)
{
    QSAE__FPENV;
    if (qsae__need(sae, "sae"))
        return QSAE_EINVAL;
    if (!x || !y)
        return qsae__fail(QSAE_EINVAL, "qsae_sae_reconstruct: x and y must not be NULL");
    int32_t st = qsae__sae_check_rows(sae, x, y);
    if (st != QSAE_OK || x->n_rows == 0)
        return st;
    const float *rows = NULL;
    float *buffer = NULL;
    int64_t stride = 0;
    qsae__csr csr;
    qsae__csr_init(&csr, sae->ctx);
    st = as_f32(sae->ctx, x, &rows, &stride, &buffer);
    if (st == QSAE_OK)
        st = qsae__sae_encode_rows(sae, rows, x->n_rows, stride, &csr);
    if (st == QSAE_OK)
        st = qsae__sae_decode_rows(sae, &csr, y->data, y->row_stride);
    if (st == QSAE_OK)
        st = qsae__sae_add_skip(sae, rows, x->n_rows, stride, y->data, y->row_stride);
    qsae__csr_free(&csr);
    qsae__free(sae->ctx, buffer);
    return st;
}
