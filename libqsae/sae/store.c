/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Matrices kept in memory in fewer bits than the file has: bf16 or f16, or int8 with one scale for
 * each feature: scale = max |w| / 127, code = w / scale rounded to nearest even, value = scale *
 * code rounded to f32. Pages of the file are given back on the way.
 */
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "sae/encode.h"

/* Bytes of the file that may have come into memory after which pages are given back: a page brings
 * the piece of the page cache that it lies in, 2 MiB at most. */
#define GIVE_BACK ((int64_t)3 << 29)
#define PIECE ((int64_t)1 << 21)

struct qsae__stored {
    int8_t *enc, *dec;            /* [d_sae, d_in], [d_sae, d_out] codes */
    float *enc_scale, *dec_scale; /* [d_sae] */
    uint16_t *enc16, *dec16;      /* in the order of the file */
};

#define RELEASE ((int64_t)1 << 26) /* values of a matrix read from end to end */

typedef struct job {
    qsae_sae *sae;
    qsae__panels panels;
    int8_t *codes;
    float *scale, *panel;         /* panel: [threads, QSAE__GEMM_SCRATCH] */
    float *tile;                  /* [threads, QSAE__ENCODE_NB, k] */
} job;

void qsae__sae_store_close(qsae_sae *sae)
{
    struct qsae__stored *const s = sae->stored;
    if (!s)
        return;
    if (s->enc != s->dec)
        qsae__free(sae->ctx, s->enc);
    if (s->enc_scale != s->dec_scale)
        qsae__free(sae->ctx, s->enc_scale);
    qsae__free(sae->ctx, s->dec);
    qsae__free(sae->ctx, s->dec_scale);
    if (s->enc16 != s->dec16)
        qsae__free(sae->ctx, s->enc16);
    qsae__free(sae->ctx, s->dec16);
    qsae__free(sae->ctx, s);
    sae->stored = NULL;
}

/* Fills from a mapped file; pages are given back before they are too many. */
static void fill_mapped(const void *self, int64_t n0, int64_t n1, int64_t k0, int64_t k1,
                        float *tile, int64_t panel)
{
    const qsae__source *const s = self;
    s->from.fill(s->from.self, n0, n1, k0, k1, tile, panel);
    const int64_t bytes = (s->across ? k1 - k0 : 1) * s->piece;
    if (atomic_fetch_add(s->read, bytes) + bytes >= GIVE_BACK) {
        atomic_store(s->read, 0);
        qsae__tensor_release(s->sae->tensors, s->file);
    }
}

/* The same by reading: no page of a file that is wanted in narrow stripes comes into memory. What
 * cannot be read comes from the mapping. */
static void fill_read(const void *self, int64_t n0, int64_t n1, int64_t k0, int64_t k1, float *tile,
                      int64_t panel)
{
    const qsae__source *const s = self;
    const int64_t n = n1 - n0, kb = k1 - k0, size = qsae_dtype_bits(s->dense->dtype) / 8;
    char bytes[QSAE__GEMM_NB * 8];
    float row[QSAE__GEMM_NB];
    for (int64_t k = 0; k < kb; k++) {
        const int64_t at = ((k0 + k) * s->dense->k_stride + n0) * size;
        if (pread(s->fd, bytes, (size_t)(n * size), (off_t)(s->offset + (uint64_t)at)) != n * size)
            memcpy(bytes, (const char *)s->dense->data + at, (size_t)(n * size));
        qsae__to_f32(s->dense->dtype, bytes, n, row);
        if (s->dense->round)
            qsae__round(s->sae->ctx, s->dense->round, row, n);
        for (int64_t p = 0; p < n; p += panel) {
            const int64_t cols = qsae__min_i64(panel, n - p);
            float *const to = tile + p * kb + k * panel;
            memcpy(to, row + p, (size_t)cols * sizeof *to);
            memset(to + cols, 0, (size_t)(panel - cols) * sizeof *to);
        }
    }
}

void qsae__source_close(qsae__source *s)
{
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
}

static qsae__panels source_of(const qsae_sae *sae, const qsae__dense *from,
                              const qsae__tensor *file, int64_t n, int64_t k, qsae__source *s)
{
    const int64_t size = qsae_dtype_bits(from->dtype) / 8;
    *s = (qsae__source){ .sae = sae, .file = file, .fd = -1, .dense = from,
                         .from = qsae__panels_dense(from, n, k),
                         .across = from->n_stride == 1 && from->k_stride != 1 };
    atomic_init(&s->count, 0);
    s->read = &s->count;
    /* Runs of a tile that lie further apart than a piece bring one each. */
    s->piece = s->across && from->k_stride < PIECE / size ? from->k_stride * size : PIECE;
    if (!file || from->data != file->data)
        return s->from;
    if (s->across)
        s->fd = qsae__tensor_reopen(sae->tensors, file, &s->offset);
    if (s->fd >= 0)
        return (qsae__panels){ .fill = fill_read, .self = s, .n = n, .k = k };
    return (qsae__panels){ .fill = fill_mapped, .self = s, .n = n, .k = k };
}

/* Codes of the features of a tile. */
static int32_t encode_tile(void *arg, int64_t tile, int32_t worker)
{
    const job *const j = arg;
    const int64_t k = j->panels.k, n0 = tile * QSAE__ENCODE_NB;
    const int64_t n1 = qsae__min_i64(n0 + QSAE__ENCODE_NB, j->panels.n);
    float *const panel = j->panel + (int64_t)worker * QSAE__GEMM_SCRATCH;
    float *const rows = j->tile + (int64_t)worker * QSAE__ENCODE_NB * k;
    for (int64_t k0 = 0; k0 < k; k0 += QSAE__GEMM_KB) {
        const int64_t k1 = qsae__min_i64(k, k0 + QSAE__GEMM_KB);
        j->panels.fill(j->panels.self, n0, n1, k0, k1, panel, QSAE__COLUMNS);
        for (int64_t n = 0; n < n1 - n0; n++) {
            const float *const from = panel + n / QSAE__COLUMNS * QSAE__COLUMNS * (k1 - k0);
            for (int64_t i = k0; i < k1; i++)
                rows[n * k + i] = from[(i - k0) * QSAE__COLUMNS + n % QSAE__COLUMNS];
        }
    }
    for (int64_t n = n0; n < n1; n++) {
        const float *const row = rows + (n - n0) * k;
        int8_t *const code = j->codes + n * k;
        float most = 0;
        bool finite = true;
        for (int64_t i = 0; i < k; i++) {
            finite &= isfinite(row[i]) != 0;
            most = fabsf(row[i]) > most ? fabsf(row[i]) : most;
        }
        if (!finite)
            return qsae__fail(QSAE_ENONFINITE, "%s: weights of feature %lld are not finite: they "
                              "have no int8 codes", j->sae->path, (long long)n);
        const float scale = most / 127;
        j->scale[n] = scale;
        for (int64_t i = 0; i < k; i++)
            code[i] = (int8_t)(scale > 0 ? fmaxf(-127, fminf(127, rintf(row[i] / scale))) : 0);
    }
    return qsae__canceled(j->sae->cancel);
}

/* Codes [n, k] and scales of a weight. */
static int32_t to_codes(qsae_sae *sae, const qsae__dense *from, const qsae__tensor *file,
                        int64_t n, int64_t k, int8_t **codes, float **scale)
{
    qsae_context *const ctx = sae->ctx;
    qsae__source source;
    int64_t size, tile;
    if (!qsae__mul_i64(n, k, &size) || !qsae__mul_i64(k, ctx->threads * QSAE__ENCODE_NB, &tile))
        return QSAE_ENOMEM;
    job j = { .sae = sae, .panels = source_of(sae, from, file, n, k, &source) };
    *codes = j.codes = qsae__alloc_array(ctx, size, sizeof *j.codes);
    *scale = j.scale = qsae__alloc_array(ctx, n, sizeof *j.scale);
    j.panel = qsae__alloc_array(ctx, (int64_t)ctx->threads * QSAE__GEMM_SCRATCH, sizeof *j.panel);
    j.tile = qsae__alloc_array(ctx, tile, sizeof *j.tile);
    int32_t st = j.codes && j.scale && j.panel && j.tile ? QSAE_OK : QSAE_ENOMEM;
    if (st == QSAE_OK)
        st = qsae__parallel(ctx, qsae__ceil_div(n, QSAE__ENCODE_NB), encode_tile, &j);
    qsae__source_close(&source);
    qsae__free(ctx, j.panel);
    qsae__free(ctx, j.tile);
    if (st == QSAE_OK)
        st = qsae__share(ctx, codes, (size_t)size);
    return st == QSAE_OK ? qsae__share(ctx, scale, (size_t)n * sizeof **scale) : st;
}

static int32_t store_codes(qsae_sae *sae)
{
    const int64_t n = sae->config.d_sae, d_in = sae->config.d_in, d_out = sae->config.d_out;
    struct qsae__stored *const s = sae->stored;
    const qsae__dense dec = { .data = sae->w_dec->data, .dtype = sae->w_dec->dtype,
                              .level = sae->ctx->level, .n_stride = d_out, .k_stride = 1 };
    int32_t st = to_codes(sae, &dec, sae->w_dec, n, d_out, &s->dec, &s->dec_scale);
    if (st == QSAE_OK && sae->config.activation == QSAE__PURSUIT) {
        s->enc = s->dec; /* tied */
        s->enc_scale = s->dec_scale;
    } else if (st == QSAE_OK) {
        st = to_codes(sae, &sae->enc, sae->w_enc, n, d_in, &s->enc, &s->enc_scale);
    }
    sae->dec = s->dec;
    sae->dec_dtype = QSAE_I8;
    return st;
}

/* Copy of size values in 16 bits, row by row of cols. */
static int32_t to_half(qsae_sae *sae, int32_t dtype, const void *data, int32_t from, int64_t rows,
                       int64_t cols, uint16_t **out)
{
    qsae_context *const ctx = sae->ctx;
    const size_t bytes = (size_t)qsae_dtype_bits(from) / 8;
    int64_t size;
    if (!qsae__mul_i64(rows, cols, &size))
        return QSAE_ENOMEM;
    float *const row = qsae__alloc_array(ctx, cols, sizeof *row);
    uint16_t *const to = *out = qsae__alloc_array(ctx, size, sizeof *to);
    int32_t st = row && to ? QSAE_OK : QSAE_ENOMEM;
    for (int64_t r = 0; r < rows && st == QSAE_OK; r++) {
        qsae__to_f32(from, (const char *)data + (size_t)(r * cols) * bytes, cols, row);
        qsae__from_f32(dtype, row, cols, to + r * cols);
        if ((r + 1) * cols / RELEASE != r * cols / RELEASE) {
            if (sae->w_enc)
                qsae__tensor_release(sae->tensors, sae->w_enc);
            qsae__tensor_release(sae->tensors, sae->w_dec);
            st = qsae__canceled(sae->cancel);
        }
    }
    qsae__free(ctx, row);
    return st == QSAE_OK ? qsae__share(ctx, out, (size_t)size * sizeof *to) : st;
}

static bool is_wider(int32_t dtype)
{
    return dtype == QSAE_F32 || dtype == QSAE_F64;
}

static int32_t store_half(qsae_sae *sae, int32_t dtype)
{
    const qsae__sae_config *const c = &sae->config;
    struct qsae__stored *const s = sae->stored;
    int32_t st = QSAE_OK;
    if (is_wider(sae->w_dec->dtype)) {
        st = to_half(sae, dtype, sae->w_dec->data, sae->w_dec->dtype, c->d_sae, c->d_out,
                     &s->dec16);
        sae->dec = s->dec16;
        sae->dec_dtype = dtype;
    }
    if (st == QSAE_OK && is_wider(sae->enc.dtype)) {
        const bool across = sae->enc.n_stride == 1;
        if (c->activation == QSAE__PURSUIT)
            s->enc16 = s->dec16; /* tied */
        else
            st = to_half(sae, dtype, sae->enc.data, sae->enc.dtype, across ? c->d_in : c->d_sae,
                         across ? c->d_sae : c->d_in, &s->enc16);
        sae->enc.data = s->enc16;
        sae->enc.dtype = dtype;
    }
    return st;
}

/* W_enc times the norms, where it is what encodes. */
static int32_t share_folded(qsae_sae *sae)
{
    if (!sae->folded)
        return QSAE_OK;
    const size_t values = (size_t)(sae->config.d_in * sae->config.d_sae);
    const int32_t st = qsae__share(sae->ctx, &sae->folded, values * sizeof *sae->folded);
    sae->enc.data = sae->folded;
    return st;
}

int32_t qsae__sae_store(qsae_sae *sae, int32_t dtype)
{
    sae->dec = sae->w_dec->data;
    sae->dec_dtype = sae->w_dec->dtype;
    if (dtype != QSAE_I8 && dtype != QSAE_BF16 && dtype != QSAE_F16)
        return share_folded(sae);
    if (!(sae->stored = qsae__calloc(sae->ctx, 1, sizeof *sae->stored)))
        return QSAE_ENOMEM;
    const qsae__fpenv env = qsae__fpenv_enter();
    const int32_t st = dtype == QSAE_I8 ? store_codes(sae) : store_half(sae, dtype);
    qsae__fpenv_leave(env);
    if (st == QSAE_OK && sae->enc.data != sae->folded) {
        qsae__free(sae->ctx, sae->folded);
        sae->folded = NULL;
    }
    return st;
}

static void fill_codes(const void *self, int64_t n0, int64_t n1, int64_t k0, int64_t k1,
                       float *tile, int64_t panel)
{
    const qsae_sae *const sae = self;
    const int64_t d = sae->config.d_in, kb = k1 - k0;
    for (int64_t n = n0; n < n1; n += panel) {
        float *const p = tile + (n - n0) * kb;
        for (int64_t i = 0; i < panel; i++) {
            const bool there = n + i < n1;
            const int8_t *const code = there ? sae->stored->enc + (n + i) * d + k0 : NULL;
            const float scale = there ? sae->stored->enc_scale[n + i] : 0;
            for (int64_t k = 0; k < kb; k++)
                p[k * panel + i] = there ? scale * (float)code[k] : 0;
        }
    }
}

bool qsae__sae_has_codes(const qsae_sae *sae)
{
    return sae->stored && sae->stored->enc;
}

qsae__panels qsae__sae_panels(const qsae_sae *sae)
{
    if (qsae__sae_has_codes(sae))
        return (qsae__panels){ .fill = fill_codes, .self = sae, .n = sae->config.d_sae,
                               .k = sae->config.d_in };
    return qsae__panels_dense(&sae->enc, sae->config.d_sae, sae->config.d_in);
}

qsae__panels qsae__source_open(const qsae_sae *sae, qsae__source *s)
{
    s->fd = -1;
    if (qsae__sae_has_codes(sae))
        return qsae__sae_panels(sae);
    return source_of(sae, &sae->enc, sae->w_enc, sae->config.d_sae, sae->config.d_in, s);
}

void qsae__sae_decoder_row(const qsae_sae *sae, int64_t f, int64_t j0, int64_t cols, float *row)
{
    const int64_t at = f * sae->config.d_out + j0;
    if (sae->dec_dtype == QSAE_I8) {
        const int8_t *const code = sae->stored->dec + at;
        for (int64_t i = 0; i < cols; i++)
            row[i] = sae->stored->dec_scale[f] * (float)code[i];
        return;
    }
    const size_t size = (size_t)qsae_dtype_bits(sae->dec_dtype) / 8;
    qsae__to_f32(sae->dec_dtype, (const char *)sae->dec + (size_t)at * size, cols, row);
    if (sae->round && sae->round != sae->dec_dtype)
        qsae__round(sae->ctx, sae->round, row, cols);
}
