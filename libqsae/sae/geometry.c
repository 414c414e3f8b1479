/* SPDX-License-Identifier: BSD-2-Clause */
/* Figures of the weights of each feature (sae.md C.1). Sums of squares and the products of a
 * feature's own two vectors are f64; largest cosines are f32 products of the library's GEMM. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "sae/parts.h"

#define TILE QSAE__GEMM_NB

enum side { ENCODER, DECODER };

typedef struct geometry {
    const qsae_sae *sae;
    qsae__panels side[2];    /* W_enc and W_dec, a row per feature; DECODER: n = 0 without one */
    double *squares[2];      /* [d_sae] |row|^2 */
    double *inner;           /* [d_sae] of the two rows, or NULL */
    enum side of;            /* for largest cosines */
    double *out;             /* [d_sae] */
    float *rows;             /* [threads, TILE, k] */
    float *product;          /* [threads, TILE, TILE] */
    float *scratch;          /* [threads, 2, QSAE__GEMM_SCRATCH] */
} geometry;

/* W_dec as panels. */
static void fill_decoder(const void *self, int64_t n0, int64_t n1, int64_t k0, int64_t k1,
                         float *tile, int64_t panel)
{
    float row[QSAE__GEMM_KB];
    const int64_t kb = k1 - k0;
    for (int64_t n = n0; n < n1; n += panel) {
        float *const p = tile + (n - n0) * kb;
        for (int64_t i = 0; i < panel; i++) {
            if (n + i < n1)
                qsae__sae_decoder_row(self, n + i, k0, kb, row);
            for (int64_t k = 0; k < kb; k++)
                p[k * panel + i] = n + i < n1 ? row[k] : 0;
        }
    }
}

static double product(int64_t n, const float *a, const float *b)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

/* squares and inner of a tile of features. */
static int32_t squares_tile(void *arg, int64_t tile, int32_t worker)
{
    const geometry *const g = arg;
    const int64_t n0 = tile * TILE, n1 = qsae__min_i64(n0 + TILE, g->sae->config.d_sae);
    float *const rows[2] = { g->scratch + (int64_t)worker * 2 * QSAE__GEMM_SCRATCH,
                             g->scratch + ((int64_t)worker * 2 + 1) * QSAE__GEMM_SCRATCH };
    const int64_t most = qsae__max_i64(g->side[ENCODER].k, g->side[DECODER].k);
    for (int64_t k0 = 0; k0 < most; k0 += QSAE__GEMM_KB) {
        for (int s = ENCODER; s <= DECODER; s++) {
            const qsae__panels *const w = &g->side[s];
            const int64_t k1 = qsae__min_i64(k0 + QSAE__GEMM_KB, w->k), kb = k1 - k0;
            if (w->n == 0 || kb <= 0)
                continue;
            w->fill(w->self, n0, n1, k0, k1, rows[s], 1);
            for (int64_t n = n0; n < n1; n++)
                g->squares[s][n] += product(kb, rows[s] + (n - n0) * kb, rows[s] + (n - n0) * kb);
        }
        const int64_t kb = qsae__min_i64(QSAE__GEMM_KB, most - k0);
        for (int64_t n = n0; g->inner && n < n1; n++)
            g->inner[n] += product(kb, rows[ENCODER] + (n - n0) * kb,
                                   rows[DECODER] + (n - n0) * kb);
    }
    return qsae__canceled(g->sae->cancel);
}

/* Rows n0..n1 of a side, divided by their norms: unit [n1 - n0, k]. */
static void unit_rows(const geometry *g, int64_t n0, int64_t n1, float *scratch, float *unit)
{
    const qsae__panels *const w = &g->side[g->of];
    for (int64_t k0 = 0; k0 < w->k; k0 += QSAE__GEMM_KB) {
        const int64_t kb = qsae__min_i64(QSAE__GEMM_KB, w->k - k0);
        w->fill(w->self, n0, n1, k0, k0 + kb, scratch, 1);
        for (int64_t n = n0; n < n1; n++) {
            const double norm = sqrt(g->squares[g->of][n]);
            float *const to = unit + (n - n0) * w->k + k0;
            for (int64_t k = 0; k < kb; k++)
                to[k] = norm > 0 ? (float)((double)scratch[(n - n0) * kb + k] / norm) : 0;
        }
    }
}

/* Largest cosine of each of a tile of features to any other one. */
static int32_t nearest_tile(void *arg, int64_t tile, int32_t worker)
{
    const geometry *const g = arg;
    const qsae__panels *const w = &g->side[g->of];
    const double *const squares = g->squares[g->of];
    const int64_t n0 = tile * TILE, n1 = qsae__min_i64(n0 + TILE, w->n);
    float *const scratch = g->scratch + (int64_t)worker * 2 * QSAE__GEMM_SCRATCH;
    float *const unit = g->rows + worker * TILE * w->k;
    float *const c = g->product + (int64_t)worker * TILE * TILE;
    int32_t st = QSAE_OK;
    unit_rows(g, n0, n1, scratch, unit);
    for (int64_t n = n0; n < n1; n++)
        g->out[n] = NAN;
    for (int64_t m0 = 0; m0 < w->n && st == QSAE_OK; m0 += TILE) {
        const int64_t m1 = qsae__min_i64(m0 + TILE, w->n);
        qsae__gemm_tile(g->sae->ctx, n1 - n0, unit, w->k, w, m0, m1, c, TILE, scratch);
        for (int64_t n = n0; n < n1; n++)
            for (int64_t m = m0; m < m1 && squares[n] > 0; m++) {
                const double v = (double)c[(n - n0) * TILE + m - m0] / sqrt(squares[m]);
                if (m != n && squares[m] > 0 && !(v <= g->out[n]))
                    g->out[n] = v;
            }
        st = qsae__canceled(g->sae->cancel);
    }
    return st;
}

static void geometry_close(geometry *g)
{
    void *const blocks[] = { g->squares[0], g->squares[1], g->inner, g->rows, g->product,
                             g->scratch };
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        qsae__free(g->sae->ctx, blocks[i]);
}

/* squares of both sides, inner where the two have one width. */
static int32_t geometry_open(const qsae_sae *sae, geometry *g)
{
    qsae_context *const ctx = sae->ctx;
    const qsae__sae_config *const c = &sae->config;
    *g = (geometry){ .sae = sae };
    g->side[ENCODER] = qsae__sae_panels(sae);
    if (!c->encode_only)
        g->side[DECODER] = (qsae__panels){ .fill = fill_decoder, .self = sae, .n = c->d_sae,
                                           .k = c->d_out };
    for (int s = ENCODER; s <= DECODER; s++)
        g->squares[s] = qsae__calloc(ctx, c->d_sae, sizeof *g->squares[s]);
    const bool both = !c->encode_only && c->d_in == c->d_out;
    if (both)
        g->inner = qsae__calloc(ctx, c->d_sae, sizeof *g->inner);
    g->scratch = qsae__alloc_array(ctx, (int64_t)ctx->threads * 2 * QSAE__GEMM_SCRATCH,
                                   sizeof *g->scratch);
    if (!g->squares[0] || !g->squares[1] || (both && !g->inner) || !g->scratch)
        return QSAE_ENOMEM;
    return qsae__parallel(ctx, qsae__ceil_div(c->d_sae, TILE), squares_tile, g);
}

static int32_t nearest(geometry *g, enum side of, double *out)
{
    qsae_context *const ctx = g->sae->ctx;
    const int64_t threads = ctx->threads;
    int64_t size;
    g->of = of;
    g->out = out;
    if (!qsae__mul_i64(threads * TILE, g->side[of].k, &size))
        return qsae__fail(QSAE_EOVERFLOW, "%s: too wide for cosines of features", g->sae->path);
    g->rows = qsae__alloc_array(ctx, size, sizeof *g->rows);
    g->product = qsae__alloc_array(ctx, threads * TILE * TILE, sizeof *g->product);
    if (!g->rows || !g->product)
        return QSAE_ENOMEM;
    return qsae__parallel(ctx, qsae__ceil_div(g->sae->config.d_sae, TILE), nearest_tile, g);
}

enum figure { ENCODER_NORM, DECODER_NORM, ENCODER_BIAS, OWN_COSINE, ENCODER_MAX, DECODER_MAX };
static const char *const names[] = { "encoder_norm", "decoder_norm", "encoder_bias",
                                     "encoder_decoder_cosine", "encoder_max_cosine",
                                     "decoder_max_cosine" };
#define N_NAMES ((int)(sizeof names / sizeof names[0]))

static void copy_bias(const qsae_sae *sae, double *out)
{
    const float *const b = sae->config.activation == QSAE__GATED ? sae->b_mag : sae->b_enc;
    for (int64_t i = 0; i < sae->config.d_sae; i++)
        out[i] = b ? (double)b[i] : 0;
}

static int32_t compute(const qsae_sae *sae, enum figure what, double *out)
{
    geometry g;
    int32_t st = geometry_open(sae, &g);
    for (int64_t i = 0; i < sae->config.d_sae && st == QSAE_OK; i++) {
        const double e = g.squares[ENCODER][i], d = g.squares[DECODER][i];
        out[i] = what == ENCODER_NORM   ? sqrt(e)
                 : what == DECODER_NORM ? sqrt(d)
                 : what == OWN_COSINE && e > 0 && d > 0 ? g.inner[i] / (sqrt(e) * sqrt(d))
                                                        : NAN;
    }
    if (st == QSAE_OK && (what == ENCODER_MAX || what == DECODER_MAX))
        st = nearest(&g, what == ENCODER_MAX ? ENCODER : DECODER, out);
    geometry_close(&g);
    return st == QSAE_ENOMEM
               ? qsae__fail(QSAE_ENOMEM, "out of memory for %s of %s", names[what], sae->path)
               : st;
}

int32_t qsae_sae_features(const qsae_sae *sae, const char *name, double *out, int64_t n)
{
    int what = 0;
    if (qsae__need(sae, "sae"))
        return QSAE_EINVAL;
    if (qsae__need_aligned(out, "out"))
        return QSAE_EINVAL;
    if (!name || !out)
        return qsae__fail(QSAE_EINVAL, "qsae_sae_features: name and out must not be NULL");
    while (what < N_NAMES && strcmp(name, names[what]) != 0)
        what++;
    if (what == N_NAMES)
        return qsae__fail(QSAE_ENOENT, "\"%s\" is no figure of a feature: expected encoder_norm, "
                          "decoder_norm, encoder_bias, encoder_decoder_cosine, encoder_max_cosine "
                          "or decoder_max_cosine", name);
    if (n != sae->config.d_sae)
        return qsae__fail(QSAE_EINVAL, "qsae_sae_features: n is %" PRId64 "; expected %" PRId64
                          ", the features", n, sae->config.d_sae);
    const bool decoder = what == DECODER_NORM || what == OWN_COSINE || what == DECODER_MAX;
    if (decoder && sae->config.encode_only)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: one layer of a cross-layer transcoder has no "
                          "decoder; expected \"#layer:written\" for %s", sae->path, name);
    if (what == OWN_COSINE && sae->config.d_in != sae->config.d_out)
        return qsae__fail(QSAE_EMISMATCH, "%s: %s: the encoder reads %" PRId64 " dimensions, the "
                          "decoder writes %" PRId64, sae->path, name, sae->config.d_in,
                          sae->config.d_out);
    if (what == ENCODER_BIAS) {
        copy_bias(sae, out);
        return QSAE_OK;
    }
    const qsae__fpenv env = qsae__fpenv_enter();
    const int32_t st = compute(sae, what, out);
    qsae__fpenv_leave(env);
    return st;
}
