/* SPDX-License-Identifier: BSD-2-Clause */
/* ggml's block types as a codec, and tensors that a file stores so. Rows are whole blocks. */
#include <ctype.h>
#include <string.h>

#include "codecs/stored.h"
#include "kernels/blocks.h"
#include "kernels/ggml.h"

#define PART 4096          /* elements encoded at a time: whole blocks of every type */
#define TILE (16 * PART)
#define BLOCK_MAX 256
#define DECODE_PART 1024   /* elements decoded at a time on the way to bf16 */

struct block {
    int64_t elements, bytes;
};

static struct block block_of(int32_t dtype)
{
    struct block b = { 1, 1 };
    (void)qsae_dtype_block(dtype, &b.elements, &b.bytes);
    return b;
}

/* Names of the types that encode rows of n elements, as condition strings write them. */
static void names_for(int64_t n, char *text, size_t size)
{
    size_t at = 0;
    text[0] = 0;
#define NAME(name, number, string, elements, bytes) \
    if (qsae__ggml_encodes(number) && n % (elements) == 0 && at + sizeof string + 2 < size) { \
        if (at) \
            text[at++] = ' '; \
        for (const char *c = string; *c; c++) \
            text[at++] = (char)tolower((unsigned char)*c); \
        text[at] = 0; \
    }
    QSAE_BLOCK_DTYPE_MAP(NAME)
#undef NAME
}

/* Bytes of n_out rows of n_in elements; EINVAL if those are not whole blocks. */
static int32_t size_of(int32_t dtype, int64_t n_out, int64_t n_in, uint64_t *bytes)
{
    const struct block b = block_of(dtype);
    if (n_in % b.elements != 0) {
        char fit[256];
        names_for(n_in, fit, sizeof fit);
        return qsae__fail(QSAE_EINVAL, "weight: rows of %lld elements are not whole blocks of "
                          "ggml's %s, which have %lld (%s%s)", (long long)n_in,
                          qsae_dtype_name(dtype), (long long)b.elements,
                          fit[0] ? "these fit: " : "no ggml type fits", fit);
    }
    int64_t blocks;
    if (!qsae__mul_i64(n_out, n_in / b.elements, &blocks) ||
        !qsae__mul_u64((uint64_t)blocks, (uint64_t)b.bytes, bytes) || *bytes > SIZE_MAX)
        return qsae__fail(QSAE_EOVERFLOW, "weight: %lld x %lld elements", (long long)n_out,
                          (long long)n_in);
    return QSAE_OK;
}

int32_t qsae__ggml_fallback(int32_t dtype, int64_t n_in)
{
    static const int32_t instead[][2] = {
        { QSAE_Q2_K, QSAE_Q4_0 }, { QSAE_Q3_K, QSAE_Q4_0 },  { QSAE_Q4_K, QSAE_Q5_0 },
        { QSAE_Q5_K, QSAE_Q5_1 }, { QSAE_Q6_K, QSAE_Q8_0 },  { QSAE_IQ4_XS, QSAE_IQ4_NL },
        { QSAE_TQ1_0, QSAE_Q4_0 }, { QSAE_TQ2_0, QSAE_Q4_0 },
    };
    if (n_in % block_of(dtype).elements == 0)
        return dtype;
    for (size_t i = 0; i < sizeof instead / sizeof instead[0]; i++)
        if (instead[i][0] == dtype && n_in % block_of(instead[i][1]).elements == 0)
            return instead[i][1];
    return QSAE_F16;
}

static int32_t encode_tile(void *arg, int64_t tile, int32_t worker)
{
    qsae_qmatrix *const q = ((void **)arg)[0];
    const qsae__source *const src = ((void **)arg)[1];
    const struct block b = block_of(q->codec.ggml);
    const int64_t end = qsae__min_i64(q->n_out * q->n_in, (tile + 1) * TILE);
    float x[PART];
    (void)worker;
    for (int64_t i = tile * TILE; i < end; i += PART) {
        const int64_t n = qsae__min_i64(PART, end - i);
        qsae__source_flat(src, i, n, x);
        qsae__ggml_get(q->ctx)->encode(q->codec.ggml, x, n,
                                       (uint8_t *)q->codes + i / b.elements * b.bytes);
    }
    return QSAE_OK;
}

static int32_t plan(qsae_qmatrix *q)
{
    if (!qsae__ggml_encodes(q->codec.ggml))
        return qsae__fail(QSAE_EUNSUPPORTED, "ggml type %s is only decoded",
                          qsae_dtype_name(q->codec.ggml));
    return size_of(q->codec.ggml, q->n_out, q->n_in, &q->code_bytes);
}

static int32_t encode(qsae_qmatrix *q, const qsae__source *src)
{
    const int32_t status = plan(q);
    if (status)
        return status;
    q->codes = qsae__alloc(q->ctx, (size_t)q->code_bytes);
    if (!q->codes)
        return QSAE_ENOMEM;
    void *arg[2] = { q, (void *)(uintptr_t)src };
    return qsae__parallel(q->ctx, qsae__ceil_div(q->n_out * q->n_in, TILE), encode_tile, arg);
}

/* dst[n] = elements (row, c0..c0+n) in f32; a range may begin and end within a block. */
static void decode_f32(const qsae_qmatrix *q, int64_t row, int64_t c0, int64_t n, float *dst)
{
    const int32_t dtype = q->codec.ggml;
    const struct block b = block_of(dtype);
    const qsae__ggml_ops *const ops = qsae__ggml_get(q->ctx);
    const uint8_t *const codes = (const uint8_t *)q->codes + row * (q->n_in / b.elements) * b.bytes;
    while (n > 0) {
        const int64_t skip = c0 % b.elements;
        const uint8_t *const at = codes + c0 / b.elements * b.bytes;
        int64_t part = n - n % b.elements;
        if (skip == 0 && part > 0) {
            ops->decode(dtype, at, part, dst);
        } else {
            float whole[BLOCK_MAX];
            part = qsae__min_i64(n, b.elements - skip);
            ops->decode(dtype, at, b.elements, whole);
            memcpy(dst, whole + skip, (size_t)part * sizeof *dst);
        }
        c0 += part;
        n -= part;
        dst += part;
    }
}

static void decode(const qsae_qmatrix *q, int64_t row, int64_t c0, int64_t n, int32_t dtype,
                   float *dst)
{
    decode_f32(q, row, c0, n, dst);
    qsae__round(q->ctx, dtype, dst, n);
}

static void decode16(const qsae_qmatrix *q, int64_t row, int64_t c0, int64_t n, uint16_t *dst)
{
    const qsae__block_ops *const ops = qsae__blocks_get(q->ctx);
    float x[DECODE_PART];
    while (n > 0) {
        /* parts end where blocks do */
        const int64_t part = qsae__min_i64(n, DECODE_PART - c0 % BLOCK_MAX);
        decode_f32(q, row, c0, part, x);
        ops->narrow(x, part, dst);
        c0 += part;
        n -= part;
        dst += part;
    }
}

static bool field(const qsae_qmatrix *q, int32_t i, qsae_field *f)
{
    if (i != 0)
        return false;
    qsae__field_set(f, "weight", q->codes, QSAE_U8, 2, q->n_out,
                    (int64_t)(q->code_bytes / (uint64_t)q->n_out));
    return true;
}

static uint64_t bytes(const qsae_qmatrix *q)
{
    return q->code_bytes;
}

const qsae__codec_ops qsae__codec_ggml = { encode, decode, decode16, field, bytes, NULL,
                                          plan };

/* Bytes of the tensor, which it must have. */
static int32_t check_tensor(const qsae__tensor *t, uint64_t *bytes)
{
    const bool plain = t->dtype == QSAE_F32 || t->dtype == QSAE_F16 || t->dtype == QSAE_BF16;
    if (!plain && !qsae__ggml_known(t->dtype))
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: %s: type %s is not supported in a matrix "
                          "(F32, F16, BF16 and ggml's blocks are)", t->file, t->name,
                          qsae_dtype_name(t->dtype));
    if (t->rank != 2 || t->shape[0] < 1 || t->shape[1] < 1)
        return qsae__fail(QSAE_EMISMATCH, "%s: %s: expected a matrix, found %d dimensions%s",
                          t->file, t->name, t->rank, t->rank == 2 ? ", one of them empty" : "");
    const struct block b = block_of(t->dtype);
    if (t->shape[1] % b.elements != 0)
        return qsae__fail(QSAE_EFORMAT, "%s: %s: expected rows of whole %s blocks of %lld, found "
                          "%lld elements", t->file, t->name, qsae_dtype_name(t->dtype),
                          (long long)b.elements, (long long)t->shape[1]);
    const int32_t status = size_of(t->dtype, t->shape[0], t->shape[1], bytes);
    if (status)
        return status;
    if (t->bytes != *bytes || (!t->data && *bytes))
        return qsae__fail(QSAE_EFORMAT, "%s: %s: expected %llu bytes, found %llu", t->file, t->name,
                          (unsigned long long)*bytes, (unsigned long long)t->bytes);
    return QSAE_OK;
}

int32_t qsae__ggml_open(qsae_context *ctx, qsae__tensors *tensors, const qsae__tensor *tensor,
                        qsae_qmatrix **out)
{
    const bool blocks = qsae__ggml_known(tensor->dtype);
    uint64_t size = 0;
    *out = NULL;
    int32_t status = check_tensor(tensor, &size);
    if (status)
        return status;
    status = qsae__qmatrix_new(ctx, blocks ? &qsae__codec_ggml : &qsae__codec_none,
                               blocks ? QSAE_F32 : tensor->dtype, tensor->shape[0],
                               tensor->shape[1], out);
    if (status)
        return status;
    qsae_qmatrix *const q = *out;
    q->codec.codec = blocks ? QSAE__GGML : QSAE__NONE;
    q->codec.ggml = blocks ? tensor->dtype : 0;
    q->codes = (void *)(uintptr_t)tensor->data; /* read only */
    q->code_bytes = size;
    q->borrowed = true;
    q->file = qsae__tensors_ref(tensors);
    return QSAE_OK;
}
