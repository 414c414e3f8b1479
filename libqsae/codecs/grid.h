/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Matrices whose elements are (value of a code - zero) * scale, scales on a grid: what the formats
 * of quantized checkpoints have in common. A format's reader (gptq.c, awq.c, ...) fills the struct;
 * decoding is here.
 */
#ifndef QSAE_CODECS_GRID_H
#define QSAE_CODECS_GRID_H

#include "codecs/act.h"
#include "codecs/qmatrix.h"

#define QSAE__GRID_PARTS 8

/* Dtype that a step of decoding is rounded to: QSAE_F32 (not at all), QSAE_BF16, QSAE_F16, or */
#define QSAE__GRID_TARGET 0  /* that of the result */
#define QSAE__GRID_HALF (-1) /* bf16 if the result is, else f16 */

/* q->state. The codes are q->codes, the scales q->scale and the zeros q->zero (or NULL). */
typedef struct qsae__grid {
    const qsae__tensor *part[QSAE__GRID_PARTS]; /* read from the file */
    const char *name[QSAE__GRID_PARTS];         /* of static storage */
    int32_t parts;
    int64_t row_bytes;       /* of codes */
    int32_t bits;            /* 4: two to a byte; 8 */
    bool high_first;         /* 4: the earlier code is in the high half */
    bool integers;           /* 8: the values are the codes, as integers; else e4m3 */
    bool is_signed;          /* integers: two's complement */
    float bias;              /* integers: subtracted from the codes too */
    float value[16];         /* 4: what the codes stand for */
    float pair[256][2];      /* 4: of both halves of a byte, in order */
    int64_t row_step, col_step; /* elements that share one of scale [scale_rows, scale_cols] of q */
    int32_t *group;          /* [n_in] the scale of each column instead of col_step, or NULL */
    int32_t scale_dtype, product_dtype; /* what they are rounded to before the result */
    qsae__act act;           /* of q->act */
} qsae__grid;

extern const qsae__codec_ops qsae__codec_grid;

/* A matrix without codes over the tensors of a file, its state zeroed. */
int32_t qsae__grid_new(qsae_context *ctx, qsae__tensors *tensors, int64_t n_out, int64_t n_in,
                       qsae_qmatrix **out);

/*
 * The matrix of a module that has a tensor module.key: a new one that fill completes; *out NULL if
 * there is none.
 */
int32_t qsae__grid_open(qsae_context *ctx, qsae__tensors *tensors, const char *module,
                        const char *key, int64_t n_out, int64_t n_in,
                        int32_t (*fill)(qsae_qmatrix *q, const void *params, const char *module),
                        const void *params, qsae_qmatrix **out);

/* module.name, or NULL. */
const qsae__tensor *qsae__grid_find(const qsae__tensors *tensors, const char *module,
                                    const char *name);

/*
 * module.name of one of the dtypes (bit 1 << dtype) as an array of q. rank 2: of that shape; 1:
 * [rows]; 0: any shape with one element. name must be of static storage. QSAE_ENOENT,
 * QSAE_EMISMATCH.
 */
int32_t qsae__grid_part(qsae_qmatrix *q, const char *module, const char *name, uint32_t dtypes,
                        int32_t rank, int64_t rows, int64_t cols, const qsae__tensor **out);

/* Codes that lie in the file as they are. */
void qsae__grid_borrow(qsae_qmatrix *q, const qsae__tensor *t, int64_t row_bytes);

/* Room for codes of their own, row_bytes as bits need. QSAE_ENOMEM. */
int32_t qsae__grid_alloc(qsae_qmatrix *q);

/* q->scale or q->zero = the elements of t [rows, cols], or of its transpose. QSAE_ENOMEM. */
int32_t qsae__grid_scales(qsae_qmatrix *q, const qsae__tensor *t, bool transposed);

/* value = what E2M1 codes stand for. */
void qsae__grid_e2m1(qsae__grid *g);
/* value[i] = i - bias of 4-bit codes. */
void qsae__grid_integers4(qsae__grid *g, int32_t bias);

/* Code i of a stream of little-endian 32-bit words that lie `stride` bytes apart, `bits` each. */
static inline uint32_t qsae__grid_code(const void *words, int64_t stride, int64_t i, int32_t bits)
{
    const int64_t at = i * bits, shift = at % 32;
    const char *const p = (const char *)words + at / 32 * stride;
    uint32_t w, next = 0;
    memcpy(&w, p, sizeof w);
    if (shift + bits > 32)
        memcpy(&next, p + stride, sizeof next);
    return (uint32_t)((((uint64_t)next << 32 | w) >> shift) & ((1u << bits) - 1));
}

/* Words that n codes take. */
static inline int64_t qsae__grid_words(int64_t n, int32_t bits)
{
    return qsae__ceil_div(n, 32) * bits - (32 - (n % 32 ? n % 32 : 32)) * bits / 32;
}

#endif
