/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * All layers of a cross-layer transcoder or crosscoder at work. An output is
 * y_m = b_dec_m + sum over layers l, ascending, and their active features i, ascending, of
 * a_i W_dec_l[i, m, :]; products and their sum are f64, rounded to f32 once at the end, as in
 * decode.c.
 */
#include <string.h>

#include "kernels/sparse.h"
#include "sae/layers.h"

#define ROWS 32
#define MOST 64 /* active features that are handled at once */

bool qsae__sae_layers_writes(const qsae_sae_layers *g, int64_t from, int64_t to)
{
    return g->writes ? g->writes[from * g->n + to].data != NULL : from == to;
}

typedef struct job {
    qsae_sae_layers *g;
    const qsae__sparse_ops *ops;
    const qsae_sae_acts *acts; /* [layers] */
    int64_t to, n, ldy, row_tiles;
    float *y;
} job;

/* Adds what layer `from` writes to columns j0.. of row r. */
static void add_layer(const job *j, int64_t from, int64_t r, int64_t j0, int64_t cols, double *sum)
{
    const qsae__writes *const w = &j->g->writes[from * j->g->n + j->to];
    const qsae_sae_acts *const acts = &j->acts[from];
    const size_t size = (size_t)qsae_dtype_bits(w->dtype) / 8;
    const char *const base = (const char *)w->data + (size_t)j0 * size;
    for (int64_t e = acts->indptr[r]; e < acts->indptr[r + 1]; e += MOST) {
        const int64_t n = qsae__min_i64(MOST, acts->indptr[r + 1] - e);
        double a[MOST];
        for (int64_t k = 0; k < n; k++)
            a[k] = (double)acts->values[e + k] / w->divisor;
        if (w->dtype != QSAE_F64) {
            j->ops->rows(w->dtype, base, w->ld, acts->indices + e, a, n, cols, sum);
            continue;
        }
        for (int64_t k = 0; k < n; k++) { /* as f32, like the matrices of any SAE */
            static const int32_t first = 0;
            float row[QSAE__PIECE];
            qsae__to_f32(QSAE_F64, base + (size_t)(acts->indices[e + k] * w->ld) * size, cols, row);
            j->ops->rows(QSAE_F32, row, QSAE__PIECE, &first, a + k, 1, cols, sum);
        }
    }
}

static int32_t decode_tile(void *arg, int64_t tile, int32_t worker)
{
    const job *const j = arg;
    const qsae_sae *const own = j->g->saes[j->to];
    const int64_t r0 = tile % j->row_tiles * ROWS, j0 = tile / j->row_tiles * QSAE__PIECE;
    const int64_t cols = qsae__min_i64(QSAE__PIECE, own->config.d_out - j0);
    const int32_t st = qsae__canceled(j->g->cancel);
    (void)worker;
    for (int64_t r = r0; st == QSAE_OK && r < qsae__min_i64(r0 + ROWS, j->n); r++) {
        double sum[QSAE__PIECE] = { 0 };
        for (int64_t from = 0; from < j->g->n; from++)
            if (qsae__sae_layers_writes(j->g, from, j->to))
                add_layer(j, from, r, j0, cols, sum);
        for (int64_t i = 0; i < cols; i++)
            j->y[r * j->ldy + j0 + i] = (float)(sum[i] + own->b_dec[j0 + i]);
    }
    return st;
}

static int32_t decode(qsae_sae_layers *g, const qsae_sae_acts *acts, int64_t to, int64_t n,
                      float *y, int64_t ldy)
{
    qsae_sae *const own = g->saes[to];
    int32_t st;
    const qsae__fpenv env = qsae__fpenv_enter();
    if (!g->writes) {
        st = qsae__sae_decode(own, n, acts[to].indptr, acts[to].indices, acts[to].values, NULL, y,
                              ldy);
    } else {
        job j = { .g = g, .ops = qsae__sparse_get(g->ctx), .acts = acts, .to = to, .n = n,
                  .y = y, .ldy = ldy, .row_tiles = qsae__ceil_div(n, ROWS) };
        const int64_t pieces = qsae__ceil_div(own->config.d_out, QSAE__PIECE);
        st = qsae__parallel(g->ctx, j.row_tiles * pieces, decode_tile, &j);
    }
    qsae__fpenv_leave(env);
    return st;
}

int32_t qsae__sae_layers_decode(qsae_sae_layers *g, const qsae__csr *const *acts, int64_t to,
                                int64_t n, float *y, int64_t ldy)
{
    qsae_sae_acts *const views = qsae__calloc(g->ctx, g->n, sizeof *views);
    if (!views)
        return QSAE_ENOMEM;
    for (int64_t l = 0; l < g->n; l++)
        if (qsae__sae_layers_writes(g, l, to))
            views[l] = (qsae_sae_acts){ sizeof *views, acts[l]->indptr, acts[l]->indices,
                                        acts[l]->values };
    const int32_t st = decode(g, views, to, n, y, ldy);
    qsae__free(g->ctx, views);
    return st;
}

/* Rows y that fit. */
static int32_t check_output(const qsae_sae_layers *g, const qsae_rows *y, int64_t n)
{
    const int32_t st = qsae__rows_check(y, "y", 1u << QSAE_F32);
    const int64_t width = g->saes[0]->config.d_out;
    if (st == QSAE_OK && y->n_cols != width)
        return qsae__fail(QSAE_EMISMATCH, "%s: y: expected rows of width %lld, found %lld", g->path,
                          (long long)width, (long long)y->n_cols);
    if (st == QSAE_OK && y->n_rows != n)
        return qsae__fail(QSAE_EINVAL, "y: expected %lld rows, found %lld", (long long)n,
                          (long long)y->n_rows);
    return st;
}

/* Activations that a caller gives of layer l. */
static int32_t check_acts(const qsae_sae_layers *g, int64_t l, const qsae_sae_acts *a, int64_t n)
{
    const int64_t features = g->saes[l]->config.d_sae;
    if (!a->indptr)
        return qsae__fail(QSAE_EINVAL, "acts: layer %lld: indptr must not be NULL", (long long)l);
    if (qsae__need_aligned(a->indptr, "acts: indptr") ||
        qsae__need_aligned(a->indices, "acts: indices") ||
        qsae__need_aligned(a->values, "acts: values"))
        return QSAE_EINVAL;
    for (int64_t r = 0; r < n; r++)
        if (a->indptr[r] < 0 || a->indptr[r + 1] < a->indptr[r])
            return qsae__fail(QSAE_EINVAL, "acts: layer %lld: row %lld: expected ascending "
                              "offsets, found %lld, %lld", (long long)l, (long long)r,
                              (long long)a->indptr[r], (long long)a->indptr[r + 1]);
    if (n > 0 && a->indptr[n] > a->indptr[0] && (!a->indices || !a->values))
        return qsae__fail(QSAE_EINVAL, "acts: layer %lld: indices and values must not be NULL",
                          (long long)l);
    for (int64_t e = n > 0 ? a->indptr[0] : 0; n > 0 && e < a->indptr[n]; e++)
        if (a->indices[e] < 0 || a->indices[e] >= features)
            return qsae__fail(QSAE_EINVAL, "acts: layer %lld: entry %lld: expected 0..%lld, found "
                              "%d", (long long)l, (long long)e, (long long)features - 1,
                              (int)a->indices[e]);
    return QSAE_OK;
}

int32_t qsae_sae_layers_decode_sparse(qsae_sae_layers *layers, const qsae_sae_acts *acts,
                                      int64_t to, int64_t n, qsae_rows *y)
{
    QSAE__FPENV;
    qsae_sae_layers *const g = layers;
    if (qsae__need(layers, "layers"))
        return QSAE_EINVAL;
    if (!acts || !y || n < 0 || to < 0 || to >= g->n)
        return qsae__fail(QSAE_EINVAL, "qsae_sae_layers_decode_sparse: NULL argument, negative "
                          "count, or a layer that is not there");
    if (qsae__alignment(acts, sizeof(size_t), "acts"))
        return QSAE_EINVAL;
    const size_t stride = acts->struct_size;
    int32_t st = check_output(g, y, n);
    if (st == QSAE_OK && (stride < sizeof *acts || stride > 4096))
        st = qsae__fail(QSAE_EINVAL, "qsae_sae_acts: struct_size: expected %zu, found %zu",
                        sizeof *acts, stride);
    if (st != QSAE_OK)
        return st;
    qsae_sae_acts *const own = qsae__calloc(g->ctx, g->n, sizeof *own);
    if (!own)
        return QSAE_ENOMEM;
    for (int64_t l = 0; l < g->n && st == QSAE_OK; l++) {
        if (!qsae__sae_layers_writes(g, l, to))
            continue;
        memcpy(&own[l], (const char *)acts + (size_t)l * stride, sizeof *own);
        st = own[l].struct_size == stride
                 ? check_acts(g, l, &own[l], n)
                 : qsae__fail(QSAE_EINVAL, "qsae_sae_acts: layer %lld: struct_size is %zu, that of "
                              "the first %zu", (long long)l, own[l].struct_size, stride);
    }
    if (st == QSAE_OK && g->saes[to]->state_size && !g->writes)
        st = qsae__fail(QSAE_EUNSUPPORTED, "%s: decoding needs the state of the rows: use "
                        "qsae_sae_decode_sparse", g->path);
    if (st == QSAE_OK)
        st = decode(g, own, to, n, y->data, y->row_stride);
    qsae__free(g->ctx, own);
    return st;
}

/* The encoded rows of every layer that a wanted output depends on. */
static int32_t encode_needed(qsae_sae_layers *g, const qsae_rows *const *x, qsae_rows *const *y,
                             qsae__csr *csr, float **f32, int64_t *n)
{
    int32_t st = QSAE_OK;
    *n = -1;
    for (int64_t l = 0; l < g->n && st == QSAE_OK; l++) {
        bool needed = false;
        for (int64_t m = 0; m < g->n; m++)
            needed |= y[m] && qsae__sae_layers_writes(g, l, m);
        if (!needed)
            continue;
        if (!x[l])
            return qsae__fail(QSAE_EINVAL, "x: layer %lld must not be NULL: a wanted output "
                              "depends on it", (long long)l);
        const qsae__sae_config *const c = &g->saes[l]->config;
        const uint32_t inputs = 1u << QSAE_F32 | 1u << QSAE_F16 | 1u << QSAE_BF16;
        if ((st = qsae__rows_check(x[l], "x", inputs)) != QSAE_OK)
            return st;
        if (x[l]->n_cols != c->d_in || (*n >= 0 && x[l]->n_rows != *n))
            return qsae__fail(QSAE_EMISMATCH, "%s: x: layer %lld: expected rows of width %lld, as "
                              "many as of other layers, found %lld of width %lld", g->path,
                              (long long)l, (long long)c->d_in, (long long)x[l]->n_rows,
                              (long long)x[l]->n_cols);
        *n = x[l]->n_rows;
        int64_t size;
        if (!qsae__mul_i64(*n, c->d_in, &size))
            return qsae__fail(QSAE_EOVERFLOW, "x: too many elements");
        if (!(f32[l] = qsae__alloc_array(g->ctx, size, sizeof **f32)))
            return QSAE_ENOMEM;
        for (int64_t r = 0; r < *n; r++)
            qsae__to_f32(x[l]->dtype, qsae__rows_at(x[l], r), c->d_in, f32[l] + r * c->d_in);
        qsae__csr_init(&csr[l], g->ctx);
        st = qsae__sae_encode_rows(g->saes[l], f32[l], *n, c->d_in, &csr[l]);
    }
    return st;
}

int32_t qsae_sae_layers_reconstruct(qsae_sae_layers *layers, const qsae_rows *const *x,
                                    qsae_rows *const *y)
{
    QSAE__FPENV;
    qsae_sae_layers *const g = layers;
    int64_t n = 0;
    if (qsae__need(layers, "layers"))
        return QSAE_EINVAL;
    if (qsae__need_aligned(x, "x") ||
        qsae__need_aligned(y, "y"))
        return QSAE_EINVAL;
    if (!x || !y)
        return qsae__fail(QSAE_EINVAL, "qsae_sae_layers_reconstruct: x and y must not be NULL");
    qsae__csr *const csr = qsae__calloc(g->ctx, g->n, sizeof *csr);
    const qsae__csr **const acts = qsae__calloc(g->ctx, g->n, sizeof *acts);
    float **const f32 = qsae__calloc(g->ctx, g->n, sizeof *f32);
    int32_t st = csr && acts && f32 ? encode_needed(g, x, y, csr, f32, &n) : QSAE_ENOMEM;
    for (int64_t m = 0; m < g->n && st == QSAE_OK; m++)
        if (y[m])
            st = check_output(g, y[m], n);
    for (int64_t m = 0; m < g->n && st == QSAE_OK; m++) {
        const int64_t d = g->saes[m]->config.d_in;
        acts[m] = &csr[m];
        for (int64_t l = 0; l < g->n; l++)
            acts[l] = &csr[l];
        if (!y[m] || n == 0)
            continue;
        st = qsae__sae_layers_decode(g, acts, m, n, y[m]->data, y[m]->row_stride);
        if (st == QSAE_OK)
            st = qsae__sae_add_skip(g->saes[m], f32[m], n, d, y[m]->data, y[m]->row_stride);
    }
    for (int64_t l = 0; l < g->n; l++) {
        if (csr)
            qsae__csr_free(&csr[l]);
        if (f32)
            qsae__free(g->ctx, f32[l]);
    }
    qsae__free(g->ctx, csr);
    qsae__free(g->ctx, (void *)acts);
    qsae__free(g->ctx, f32);
    return st;
}

int32_t qsae_sae_layers_get(const qsae_sae_layers *layers, int64_t i, int64_t *layer,
                            qsae_sae **sae)
{
    QSAE__FPENV;
    if (qsae__need(layers, "layers"))
        return QSAE_EINVAL;
    if (qsae__need_aligned(layer, "layer") ||
        qsae__need_aligned(sae, "sae"))
        return QSAE_EINVAL;
    if (!sae || i < 0 || i >= layers->n)
        return qsae__fail(QSAE_EINVAL, "qsae_sae_layers_get: expected sae and 0 to %lld, found "
                          "%lld", (long long)layers->n - 1, (long long)i);
    if (layer)
        *layer = layers->ids[i];
    *sae = layers->saes[i];
    return QSAE_OK;
}

/* Everything that is computed with: the layers' own hashes, and what they write elsewhere in f32,
 * whatever the container. */
static int32_t make_hash(qsae_sae_layers *g)
{
    qsae__hasher *h = NULL;
    const int64_t d = g->saes[0]->config.d_out;
    float *const row = qsae__alloc_array(g->ctx, d, sizeof *row);
    int32_t st = row ? qsae__hasher_open(g->ctx, &h) : QSAE_ENOMEM;
    if (st == QSAE_OK) {
        qsae__hasher_string(h, "layers");
        qsae__hasher_i64(h, g->kind);
        qsae__hasher_i64(h, g->n);
    }
    for (int64_t l = 0; l < g->n && st == QSAE_OK; l++) {
        qsae_sae_info info = { .struct_size = sizeof info };
        if ((st = qsae_sae_get_info(g->saes[l], &info)) != QSAE_OK)
            break;
        qsae__hasher_string(h, info.hash);
        for (int64_t i = 0; i < info.features && g->writes; i++)
            for (int64_t m = 0; m < g->n; m++) {
                const qsae__writes *const w = &g->writes[l * g->n + m];
                const size_t size = (size_t)qsae_dtype_bits(w->dtype) / 8;
                if (!w->data || m == l) /* its own are in info.hash */
                    continue;
                qsae__to_f32(w->dtype, (const char *)w->data + (size_t)(i * w->ld) * size, d, row);
                for (int64_t c = 0; c < d && w->divisor != 1; c++)
                    row[c] = (float)(row[c] / w->divisor);
                qsae__hasher_update(h, row, (size_t)d * sizeof *row);
            }
    }
    if (st == QSAE_OK)
        qsae__hasher_hex(h, g->hash);
    if (h)
        qsae__hasher_close(g->ctx, &h);
    qsae__free(g->ctx, row);
    return st;
}

int32_t qsae_sae_layers_get_info(const qsae_sae_layers *layers, qsae_sae_layers_info *info)
{
    static const char *const kinds[] = { "clt", "crosscoder", "transcoders" };
    int64_t features = 0;
    if (qsae__need(layers, "layers"))
        return QSAE_EINVAL;
    if (!info)
        return qsae__fail(QSAE_EINVAL, "qsae_sae_layers_get_info: info must not be NULL");
    if (!layers->hash[0]) {
        union { const qsae_sae_layers *in; qsae_sae_layers *out; } handle = { layers };
        const int32_t st = make_hash(handle.out);
        if (st != QSAE_OK)
            return st;
    }
    for (int64_t l = 0; l < layers->n; l++)
        features += layers->saes[l]->config.d_sae;
    const qsae__sae_config *const c = &layers->saes[0]->config;
    const qsae_sae_layers_info all = {
        .struct_size = sizeof all, .kind = kinds[layers->kind], .format = c->format,
        .hash = layers->hash, .path = layers->path, .model_name = c->model ? c->model : "",
        .layers = layers->n, .features = features, .width = c->d_in, .width_out = c->d_out,
    };
    return qsae__info_copy(info, &all, sizeof all, "qsae_sae_layers_info");
}
