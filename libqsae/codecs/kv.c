/* SPDX-License-Identifier: BSD-2-Clause */
#include "codecs/kv.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "codecs/kv_turbo.h"
#include "kernels/convert.h"
#include "kernels/ggml.h"
#include "kernels/half.h"
#include "kernels/ops.h"

#define PIECE 256          /* values of a ggml encode and decode */
#define PIECE_BYTES 512    /* more than any type takes for them */
#define ROTATE_LEAST 64    /* llama.cpp rotates nothing narrower, and no head that is no multiple */

struct qsae__kv {
    qsae_context *ctx;
    qsae__kv_code code;
    int64_t dim;
    int64_t block, bytes;  /* ggml: values and bytes of a block */
    int64_t rotate;        /* values of a Hadamard rotation, 0 = none */
    qsae__turbo turbo;
};

static int32_t open_ggml(qsae__kv *kv)
{
    if (!qsae_dtype_block(kv->code.dtype, &kv->block, &kv->bytes) || PIECE % kv->block ||
        PIECE / kv->block * kv->bytes > PIECE_BYTES || !qsae__ggml_encodes(kv->code.dtype))
        return qsae__fail(QSAE_EINVAL, "kv: %s is not a code of the cache",
                          qsae_dtype_name(kv->code.dtype));
    if (kv->dim % kv->block)
        return qsae__fail(QSAE_EINVAL,
                          "kv: %s: expected a head dimension that is a multiple of %" PRId64
                          ", found %" PRId64,
                          qsae_dtype_name(kv->code.dtype), kv->block, kv->dim);
    if (kv->code.rotate == 0 || kv->dim % ROTATE_LEAST)
        return QSAE_OK;
    kv->rotate = ROTATE_LEAST;
    while (kv->code.rotate == QSAE__KV_ROTATE_WIDE && kv->dim % (2 * kv->rotate) == 0)
        kv->rotate *= 2;
    return QSAE_OK;
}

static int32_t open_turbo(qsae__kv *kv)
{
    const qsae__kv_code *const c = &kv->code;
    if (c->bits < 1 || c->bits > QSAE__TURBO_MAX_BITS)
        return qsae__fail(QSAE_EINVAL, "kv: turbo: expected 1 to %d bits, found %d",
                          QSAE__TURBO_MAX_BITS, (int)c->bits);
    if (kv->dim < QSAE__TURBO_MIN_DIM || kv->dim > QSAE__TURBO_MAX_DIM)
        return qsae__fail(QSAE_EINVAL,
                          "kv: turbo%d: expected a head dimension of %d to %d, found %" PRId64,
                          (int)c->bits, QSAE__TURBO_MIN_DIM, QSAE__TURBO_MAX_DIM, kv->dim);
    return qsae__turbo_init(kv->ctx, kv->dim, c->bits, c->sketch, &kv->turbo);
}

int32_t qsae__kv_open(qsae_context *ctx, const qsae__kv_code *code, int64_t head_dim,
                      qsae__kv **out)
{
    *out = NULL;
    if (code->kind == QSAE__KV_NONE || head_dim < 1)
        return qsae__fail(QSAE_EINVAL, "kv: no code, or head dimension %" PRId64, head_dim);
    qsae__kv *kv = qsae__calloc(ctx, 1, sizeof *kv);
    if (!kv)
        return QSAE_ENOMEM;
    kv->ctx = qsae__context_ref(ctx);
    kv->code = *code;
    kv->dim = head_dim;
    kv->turbo.ctx = ctx;
    const int32_t st = code->kind == QSAE__KV_GGML    ? open_ggml(kv)
                       : code->kind == QSAE__KV_TURBO ? open_turbo(kv)
                                                      : QSAE_OK;
    if (st == QSAE_OK)
        *out = kv;
    else
        qsae__kv_close(&kv);
    return st;
}

void qsae__kv_close(qsae__kv **kv)
{
    if (!kv || !*kv)
        return;
    qsae_context *const ctx = (*kv)->ctx;
    qsae__turbo_free(&(*kv)->turbo);
    qsae__free(ctx, *kv);
    qsae__context_unref(ctx);
    *kv = NULL;
}

int64_t qsae__kv_floats(const qsae__kv *kv)
{
    return kv->code.kind == QSAE__KV_TURBO ? qsae__turbo_floats(&kv->turbo, QSAE__KV_ROWS) : 0;
}

/* Largest magnitude as bits of a f32: above those of infinity if there is a NaN. */
static uint32_t largest(const float *x, int64_t n)
{
    int32_t most = 0;
    for (int64_t i = 0; i < n; i++) {
        const int32_t a = (int32_t)(qsae__f32_bits(x[i]) & 0x7fffffffu);
        most = a > most ? a : most;
    }
    return (uint32_t)most;
}

/*
 * One scale for the vector, as vLLM's int8_per_token_head: max(absmax / 127, 1e-6); codes are
 * x * (1 / scale), halves to even. The product stays within 127.5, where adding and taking away
 * 1.5 * 2^23 rounds.
 */
static void int8_vector(float *x, int64_t n, float absmax)
{
    const float scale = absmax / 127 > 1e-6f ? absmax / 127 : 1e-6f, inverse = 1 / scale;
    for (int64_t i = 0; i < n; i++)
        x[i] = ((x[i] * inverse + 12582912.0f) - 12582912.0f) * scale;
}

/* x[n] times the Hadamard matrix of n / sqrt(n) rows, its own inverse: differences and sums at
 * distances 1, 2, 4, ... */
static void hadamard(float *x, int64_t n)
{
    for (int64_t step = 1; step < n; step *= 2)
        for (int64_t i = 0; i < n; i += 2 * step)
            for (int64_t j = i; j < i + step; j++) {
                const float a = x[j], b = x[j + step];
                x[j] = a + b;
                x[j + step] = a - b;
            }
    const float scale = (float)(1 / sqrt((double)n));
    for (int64_t i = 0; i < n; i++)
        x[i] *= scale;
}

static void ggml_vector(const qsae__kv *kv, float *x)
{
    const qsae__ggml_ops *const ops = qsae__ggml_get(kv->ctx);
    uint8_t blocks[PIECE_BYTES];
    for (int64_t i = 0; kv->rotate && i < kv->dim; i += kv->rotate)
        hadamard(x + i, kv->rotate);
    for (int64_t i = 0; i < kv->dim; i += PIECE) {
        const int64_t n = qsae__min_i64(PIECE, kv->dim - i);
        ops->encode_row(kv->code.dtype, x + i, n, blocks);
        ops->decode(kv->code.dtype, blocks, n, x + i);
    }
    for (int64_t i = 0; kv->rotate && i < kv->dim; i += kv->rotate)
        hadamard(x + i, kv->rotate);
}

/* Vectors of numbers only. */
static void apply_run(const qsae__kv *kv, float *x, int64_t n, float *scratch)
{
    if (n > 0 && kv->code.kind == QSAE__KV_TURBO)
        qsae__turbo_apply(&kv->turbo, x, n, scratch);
    else if (kv->code.kind == QSAE__KV_GGML)
        for (int64_t i = 0; i < n; i++)
            ggml_vector(kv, x + i * kv->dim);
    else
        for (int64_t i = 0; i < n; i++)
            int8_vector(x + i * kv->dim, kv->dim,
                        qsae__f32_from_bits(largest(x + i * kv->dim, kv->dim)));
}

void qsae__kv_apply(const qsae__kv *kv, float *x, int64_t n, bool bf16, float *scratch)
{
    const int64_t d = kv->dim;
    int64_t first = 0;
    if (kv->code.kind == QSAE__KV_F16 || kv->code.kind == QSAE__KV_BF16) {
        qsae__round(kv->ctx, kv->code.kind == QSAE__KV_F16 ? QSAE_F16 : QSAE_BF16, x, n * d);
        first = n;
    }
    while (first < n) {
        int64_t end = first;
        while (end < n && largest(x + end * d, d) < 0x7f800000u)
            end++;
        apply_run(kv, x + first * d, end - first, scratch);
        if (end < n)
            for (int64_t j = 0; j < d; j++)
                x[end * d + j] = NAN;
        first = end + 1;
    }
    if (bf16)
        qsae__ops_get(kv->ctx)->round_bf16(x, n * d);
}

double qsae__kv_bits(const qsae__kv *kv)
{
    if (!kv)
        return 16;
    switch (kv->code.kind) {
    case QSAE__KV_INT8:
        return 8 + 32 / (double)kv->dim;
    case QSAE__KV_GGML:
        return 8 * (double)kv->bytes / (double)kv->block;
    case QSAE__KV_TURBO:
        return kv->code.bits + (kv->code.sketch ? 1 + 32 / (double)kv->dim : 16 / (double)kv->dim);
    default:
        return 16;
    }
}
