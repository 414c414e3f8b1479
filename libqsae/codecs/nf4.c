/* SPDX-License-Identifier: BSD-2-Clause */
/* NF4 and FP4 (arXiv 2305.14314), block-wise over the flat matrix, as bitsandbytes encodes them. */
#include <math.h>

#include "codecs/bnb.h"
#include "codecs/nested.h"
#include "codecs/qmatrix.h"
#include "codecs/tables.h"
#include "kernels/blocks.h"
#include "kernels/int8.h"

#define CHUNK 4096            /* the largest block: a chunk holds whole blocks */
#define TILE (16 * CHUNK)
#define NESTED_PART (64 * QSAE__NESTED_BLOCK)
#define TINY 1e-38f           /* the CPU build's least block maximum */

struct job {
    qsae_qmatrix *q;
    const qsae__source *src;
    const qsae__int8_ops *ops;
    const qsae__block_ops *blocks;
    qsae__coder4 coder;
    bool bf16;                /* encode_bf16 */
};

/*
 * NaN has code 0 on the GPU, and is above every threshold in the CPU build. The GPU's fp4 compares
 * magnitudes and looks at the sign: -u > -t is u >= -t for the ascending thresholds of negative u.
 */
static qsae__coder4 coder_of(const qsae_qmatrix *q)
{
    const bool nf4 = q->codec.codec == QSAE__NF4, cuda = q->codec.rules == QSAE__RULES_CUDA;
    const float *thresholds = nf4 ? qsae__nf4_thresholds : qsae__fp4_thresholds_torch;
    qsae__coder4 c;
    for (int i = 0; i < 16; i++) {
        c.thresholds[i] = i < 15 ? thresholds[i] : INFINITY;
        c.codes[i] = nf4 ? (uint8_t)i : qsae__fp4_order[i];
    }
    for (int i = 0; !nf4 && cuda && i < 8; i++) {
        const float t = i ? qsae__fp4_thresholds_cuda[i - 1] : 0;
        c.thresholds[7 - i] = nextafterf(-t, -INFINITY);
        if (i)
            c.thresholds[7 + i] = t;
        c.codes[7 - i] = qsae__fp4_magnitudes[i] | 8;
        c.codes[8 + i] = qsae__fp4_magnitudes[i];
    }
    c.nan = cuda ? 0 : c.codes[15];
    qsae__coder4_space(&c);
    return c;
}

/* Codes of a block by the GPU's rules; returns its maximum. */
static float encode_cuda(const struct job *job, const float *x, int64_t n, uint8_t *packed)
{
    const float m = job->ops->absmax(x, n);
    job->blocks->encode4(&job->coder, x, 1 / m, n, packed);
    return m;
}

/* The same by the CPU build's rules, in which a partial block divides and clamps its maximum. x is
 * scratch afterwards. */
static float encode_torch(const struct job *job, float *x, int64_t n, uint8_t *packed)
{
    float m = fmaxf(job->ops->absmax(x, n), 0), scale = 1;
    for (int64_t i = 0; i < n; i++)
        if (isnan(x[i]))
            m = NAN;
    if (n < job->q->codec.block) {
        m = m < TINY ? TINY : m;
        for (int64_t i = 0; i < n; i++)
            x[i] /= m;
    } else {
        scale = 1 / (m < TINY ? TINY : m);
    }
    job->blocks->encode4(&job->coder, x, scale, n, packed);
    return m;
}

/* The unused last nibble of an odd count: the code of 0 in that block. */
static uint8_t spare_code(const qsae_qmatrix *q, float m)
{
    if (q->codec.codec == QSAE__FP4 || (q->codec.rules == QSAE__RULES_CUDA && m == 0))
        return 0;
    return 7;
}

/* bf16 values as they lie, by the GPU's rules. */
static void encode_bf16(const struct job *job, int64_t i0, int64_t end)
{
    const qsae_qmatrix *const q = job->q;
    const int64_t block = q->codec.block;
    uint8_t *const packed = q->codes;
    float m = 0;
    for (int64_t i = i0; i < end; i += block) {
        m = job->blocks->encode4_16(&job->coder, (const char *)job->src->data + 2 * i,
                                    qsae__min_i64(block, end - i), packed + i / 2);
        q->scale[i / block] = m;
    }
    if (end % 2)
        packed[end / 2] |= spare_code(q, m);
}

static int32_t encode_tile(void *arg, int64_t tile, int32_t worker)
{
    const struct job *job = arg;
    const qsae_qmatrix *q = job->q;
    const int64_t total = q->n_out * q->n_in, block = q->codec.block;
    const int64_t end = qsae__min_i64(total, (tile + 1) * TILE);
    float x[CHUNK];
    uint8_t *packed = q->codes;
    (void)worker;
    if (job->bf16) {
        encode_bf16(job, tile * TILE, end);
        return QSAE_OK;
    }
    for (int64_t i0 = tile * TILE; i0 < end; i0 += CHUNK) {
        const int64_t n = qsae__min_i64(CHUNK, end - i0);
        float m = 0;
        qsae__source_flat(job->src, i0, n, x);
        for (int64_t i = 0; i < n; i += block) {
            const int64_t part = qsae__min_i64(block, n - i);
            uint8_t *const out = packed + (i0 + i) / 2;
            m = q->codec.rules == QSAE__RULES_CUDA ? encode_cuda(job, x + i, part, out)
                                                   : encode_torch(job, x + i, part, out);
            q->scale[(i0 + i) / block] = m;
        }
        if (n % 2)
            packed[(i0 + n) / 2] |= spare_code(q, m);
    }
    return QSAE_OK;
}

static int32_t nest_part(void *arg, int64_t i, int32_t worker)
{
    qsae_qmatrix *q = arg;
    const int64_t first = i * NESTED_PART, g = first / QSAE__NESTED_BLOCK;
    const int64_t n = qsae__min_i64(NESTED_PART, q->scale_rows - first);
    (void)worker;
    qsae__nested_encode(q->codec.rules, q->scale + first, n, q->offset, q->q_absmax + first,
                        q->nested_absmax + g);
    qsae__nested_decode(q->q_absmax + first, n, q->nested_absmax + g, q->offset, q->scale + first);
    return QSAE_OK;
}

/* Replaces the block maxima by their 8-bit codes; scale becomes what those decode to. */
static int32_t nest(qsae_qmatrix *q)
{
    const int64_t n = q->scale_rows;
    q->q_absmax = qsae__alloc_array(q->ctx, n, 1);
    q->nested_absmax = qsae__alloc_array(q->ctx, q->n_nested, sizeof(float));
    if (!q->q_absmax || !q->nested_absmax)
        return QSAE_ENOMEM;
    q->offset = qsae__nested_offset(q->codec.rules, q->scale, n);
    return qsae__parallel(q->ctx, qsae__ceil_div(n, NESTED_PART), nest_part, q);
}

static int32_t plan(qsae_qmatrix *q)
{
    const int64_t n = q->n_out * q->n_in;
    q->scale_rows = qsae__ceil_div(n, q->codec.block);
    q->scale_cols = 1;
    q->code_bytes = (uint64_t)qsae__ceil_div(n, 2);
    if (q->codec.nested)
        q->n_nested = qsae__ceil_div(q->scale_rows, QSAE__NESTED_BLOCK);
    return QSAE_OK;
}

static int32_t encode(qsae_qmatrix *q, const qsae__source *src)
{
    const int64_t n = q->n_out * q->n_in;
    struct job job = { q, src, qsae__int8_get(q->ctx), qsae__blocks_get(q->ctx), coder_of(q),
                       q->codec.rules == QSAE__RULES_CUDA && !src->stored &&
                           src->dtype == QSAE_BF16 && src->round != QSAE_F16 &&
                           src->in_stride == 1 && src->out_stride == src->n_in };
    int32_t status = plan(q);
    if (status)
        return status;
    q->codes = qsae__alloc_array(q->ctx, qsae__ceil_div(n, 2), 1);
    q->scale = qsae__alloc_array(q->ctx, q->scale_rows, sizeof(float));
    if (!q->codes || !q->scale)
        return QSAE_ENOMEM;
    status = qsae__parallel(q->ctx, qsae__ceil_div(n, TILE), encode_tile, &job);
    return status || !q->codec.nested ? status : nest(q);
}

/* A matrix from a file has the file's tables as its state. */
static qsae__codes4 codes_of(const qsae_qmatrix *q)
{
    const qsae__maps4 *const maps = q->state;
    return (qsae__codes4){
        .codes = q->codes,
        .scale = q->scale,
        .values = maps                            ? maps->values
                  : q->codec.codec == QSAE__NF4 ? qsae__nf4_codes
                                                : qsae__fp4_codes,
        .block = q->codec.block,
    };
}

static void decode(const qsae_qmatrix *q, int64_t row, int64_t c0, int64_t n, int32_t dtype,
                   float *dst)
{
    const qsae__codes4 c = codes_of(q);
    qsae__blocks_get(q->ctx)->f32_4(&c, row * q->n_in + c0, n, dtype == QSAE_BF16, dst);
    if (dtype == QSAE_F16)
        qsae__round(q->ctx, dtype, dst, n);
}

static void decode16(const qsae_qmatrix *q, int64_t row, int64_t c0, int64_t n, uint16_t *dst)
{
    const qsae__codes4 c = codes_of(q);
    qsae__blocks_get(q->ctx)->bf16_4(&c, row * q->n_in + c0, n, dst);
}

static bool field(const qsae_qmatrix *q, int32_t i, qsae_field *f)
{
    const qsae__maps4 *const maps = q->state;
    const float *const map = maps                            ? maps->map
                             : q->codec.codec == QSAE__NF4 ? qsae__nf4_codes
                                                           : qsae__fp4_map;
    const float *const nested = maps ? maps->nested_map : qsae__dynamic_map;
    if (i > 2 && !q->codec.nested)
        return false;
    switch (i) {
    case 0:
        qsae__field_set(f, "weight", q->codes, QSAE_U8, 2, (int64_t)q->code_bytes, 1);
        return true;
    case 1:
        if (q->codec.nested)
            qsae__field_set(f, "absmax", q->q_absmax, QSAE_U8, 1, q->scale_rows, 1);
        else
            qsae__field_set(f, "absmax", q->scale, QSAE_F32, 1, q->scale_rows, 1);
        return true;
    case 2:
        qsae__field_set(f, "quant_map", map, QSAE_F32, 1, 16, 1);
        return true;
    case 3:
        qsae__field_set(f, "nested_absmax", q->nested_absmax, QSAE_F32, 1, q->n_nested, 1);
        return true;
    case 4:
        qsae__field_set(f, "nested_quant_map", nested, QSAE_F32, 1, 256, 1);
        return true;
    case 5:
        qsae__field_set(f, "nested_offset", &q->offset, QSAE_F32, 1, 1, 1);
        return true;
    default:
        return false;
    }
}

/* Codes and scales; the code tables are constants. */
static uint64_t bytes(const qsae_qmatrix *q)
{
    const uint64_t n = (uint64_t)q->scale_rows;
    const uint64_t scales = q->codec.nested ? n + 4 * (uint64_t)q->n_nested + 4 : 4 * n;
    return q->code_bytes + scales;
}

static void close_maps(qsae_qmatrix *q)
{
    qsae__free(q->ctx, q->state);
}

const qsae__codec_ops qsae__codec_4bit = { encode, decode, decode16, field, bytes, close_maps,
                                          plan };
