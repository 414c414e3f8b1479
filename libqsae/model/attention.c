/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Attention back ends (models.md B.4). One item of work is a range of query positions of all query
 * heads that share a key/value head: their rows are stacked, so that keys and values are packed
 * once for the group.
 *
 *   sdpa    keys in blocks of 512 with a running maximum and sum, as PyTorch's CPU kernel does
 *           (aten/src/ATen/native/cpu/FlashAttentionKernel.cpp, 2.13): the reciprocal of the sum
 *           comes last; in bf16, exponentials are rounded for the product with V only and the sum
 *           is of unrounded ones; whole vectors of 16 keys use its faster exponentials (nn.h)
 *   eager   whole rows; scores, scaled scores and probabilities rounded to bf16
 *   fp32    whole rows, nothing rounded but the result
 *
 * Products follow the order of kernels/gemm.h from key 0 (sdpa: of the block). Keys that no row of
 * the item sees are left out in whole steps of QSAE__GEMM_KB: they would add exact zeros. Hence no
 * result depends on how queries are cut into items.
 */
#include "model/attention.h"

#include <math.h>
#include <string.h>

#include <qsae/model.h>

#include "kernels/nn.h"

#define KEY_BLOCK 512
#define MAX_ROWS 256         /* stacked query rows of an item */
#define MAX_SCORES (1 << 18) /* floats of whole-row scores */

static int64_t align16(int64_t n)
{
    return (n + 15) / 16 * 16;
}

struct shape {
    int64_t group;       /* query heads per key/value head */
    int64_t queries;     /* positions of an item */
    int64_t rows;        /* group * queries */
    int64_t score_ld;    /* columns of the score buffer */
};

static struct shape shape_of(int64_t heads, int64_t kv_heads, int64_t n_tokens, int32_t mode)
{
    struct shape s = { .group = heads / kv_heads };
    s.score_ld = align16(mode == QSAE_ATTN_SDPA ? qsae__min_i64(KEY_BLOCK, n_tokens) : n_tokens);
    const int64_t fit = qsae__min_i64(MAX_ROWS, MAX_SCORES / s.score_ld);
    s.queries = qsae__min_i64(n_tokens, qsae__max_i64(1, fit / s.group));
    s.rows = s.group * s.queries;
    return s;
}

int64_t qsae__attention_floats(int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t n_tokens,
                               int32_t mode)
{
    const struct shape s = shape_of(heads, kv_heads, n_tokens, mode);
    return QSAE__GEMM_SCRATCH + s.rows * (3 * align16(head_dim) + s.score_ld) + 2 * align16(s.rows);
}

/* An item and its scratch. Row r is query q0 + r / group of head kv * group + r % group. */
struct item {
    const qsae__attention *a;
    qsae_context *ctx;
    const qsae__ops *ops;
    const qsae__nn *nn;
    struct shape s;
    int64_t seq, kv, q0, q1, rows;
    float *pack;    /* QSAE__GEMM_SCRATCH */
    float *q;       /* [rows, head_dim] */
    float *out;     /* [rows, head_dim] */
    float *part;    /* [rows, head_dim] */
    float *scores;  /* [rows, score_ld] */
    float *max, *sum; /* [rows] */
};

static const float *head_row(const qsae__attention *a, const float *base, int64_t heads,
                             int64_t seq, int64_t pos, int64_t head)
{
    return base + ((seq * a->n_tokens + pos) * heads + head) * a->head_dim;
}

/* c[rows, n1 - n0] = x[rows, k] W[n0..n1]^T in tiles the GEMM takes. */
static void product(const struct item *it, const qsae__dense *w, int64_t n, int64_t k,
                    const float *x, int64_t ldx, float *c, int64_t ldc)
{
    const qsae__panels p = qsae__panels_dense(w, n, k);
    for (int64_t n0 = 0; n0 < n; n0 += QSAE__GEMM_NB)
        qsae__gemm_tile(it->ctx, it->rows, x, ldx, &p, n0, qsae__min_i64(n, n0 + QSAE__GEMM_NB),
                        c + n0, ldc, it->pack);
}

/* scores[rows, n] = q k^T for keys first..first+n-1 */
static void dot_keys(const struct item *it, int64_t first, int64_t n)
{
    const qsae__attention *const a = it->a;
    const qsae__dense keys = { .data = head_row(a, a->k, a->kv_heads, it->seq, first, it->kv),
                               .dtype = QSAE_F32,
                               .level = it->ctx->level,
                               .n_stride = a->kv_heads * a->head_dim,
                               .k_stride = 1 };
    product(it, &keys, n, a->head_dim, it->q, a->head_dim, it->scores, it->s.score_ld);
}

/* dst[rows, head_dim] = scores[rows, n] v for keys first..first+n-1 */
static void mix_values(const struct item *it, int64_t first, int64_t n, float *dst)
{
    const qsae__attention *const a = it->a;
    const qsae__dense values = { .data = head_row(a, a->v, a->kv_heads, it->seq, first, it->kv),
                                 .dtype = QSAE_F32,
                                 .level = it->ctx->level,
                                 .n_stride = 1,
                                 .k_stride = a->kv_heads * a->head_dim };
    product(it, &values, a->head_dim, n, it->scores, it->s.score_ld, dst, a->head_dim);
}

/* Scores of row r against keys first..first+n-1: scaled, -inf where the key is not seen. Returns
 * how many leading columns may hold something. */
static int64_t scale_and_mask(const struct item *it, int64_t r, int64_t first, int64_t n)
{
    const qsae__attention *const a = it->a;
    const int64_t pos = it->q0 + r / it->s.group;
    const int64_t end = qsae__max_i64(0, qsae__min_i64(n, pos + 1 - first));
    const int64_t begin = a->window ? qsae__min_i64(end, pos - a->window + 1 - first) : 0;
    float *const x = it->scores + r * it->s.score_ld;
    const int32_t eager = a->mode == QSAE_ATTN_EAGER && a->bf16;
    if (eager)
        it->ops->round_bf16(x, end);
    it->ops->scale(x, a->scale, x, end);
    if (eager)
        it->ops->round_bf16(x, end);
    for (int64_t j = 0; j < begin; j++)
        x[j] = -INFINITY;
    return end;
}

/* x[i] = exp(x[i] - m) for keys first..; returns their sum. */
static float exponentials(const struct item *it, float m, int64_t first, int64_t n, float *x)
{
    const int64_t block = first / KEY_BLOCK * KEY_BLOCK;
    const int64_t keys = qsae__min_i64(KEY_BLOCK, it->a->n_tokens - block);
    return (it->a->bf16 ? it->nn->exp_sum_coarse : it->nn->exp_sum_u20)(
        x, m, x, n, keys / 16 * 16 - (first - block));
}

/* One row of one key block of the running softmax; leaves exponentials in the scores. */
static void online_row(const struct item *it, int64_t r, int64_t first, int64_t n)
{
    float *const x = it->scores + r * it->s.score_ld, *const out = it->out + r * it->a->head_dim;
    const int64_t end = scale_and_mask(it, r, first, n);
    const float seen = it->ops->max(x, end);
    const float m = it->max[r] > seen ? it->max[r] : seen;
    if (m == -INFINITY) { /* nothing seen so far */
        memset(x, 0, (size_t)n * sizeof *x);
        return;
    }
    const float sum = exponentials(it, m, first, end, x);
    float shrink;
    const float shift = it->max[r] - m;
    it->ops->exp(&shift, &shrink, 1);
    if (it->a->bf16)
        it->ops->round_bf16(x, end);
    memset(x + end, 0, (size_t)(n - end) * sizeof *x);
    it->sum[r] = sum + shrink * it->sum[r];
    it->max[r] = m;
    it->ops->scale(out, shrink, out, it->a->head_dim);
}

static void run_online(const struct item *it, int64_t first_seen)
{
    const int64_t d = it->a->head_dim;
    memset(it->out, 0, (size_t)(it->rows * d) * sizeof *it->out);
    for (int64_t r = 0; r < it->rows; r++) {
        it->max[r] = -INFINITY;
        it->sum[r] = 0;
    }
    for (int64_t block = first_seen / KEY_BLOCK * KEY_BLOCK; block < it->q1; block += KEY_BLOCK) {
        const int64_t skip =
            qsae__max_i64(0, first_seen - block) / QSAE__GEMM_KB * QSAE__GEMM_KB;
        const int64_t first = block + skip;
        const int64_t n = qsae__min_i64(block + KEY_BLOCK, it->q1) - first;
        dot_keys(it, first, n);
        for (int64_t r = 0; r < it->rows; r++)
            online_row(it, r, first, n);
        mix_values(it, first, n, it->part);
        it->ops->add(it->out, it->part, it->out, it->rows * d, 0);
    }
    for (int64_t r = 0; r < it->rows; r++)
        it->ops->scale(it->out + r * d, 1.0f / it->sum[r], it->out + r * d, d);
}

static void run_rows(const struct item *it, int64_t first_seen)
{
    const int64_t first = first_seen / QSAE__GEMM_KB * QSAE__GEMM_KB, n = it->q1 - first;
    dot_keys(it, first, n);
    for (int64_t r = 0; r < it->rows; r++) {
        float *const x = it->scores + r * it->s.score_ld;
        const int64_t end = scale_and_mask(it, r, first, n);
        const float sum = it->ops->exp_sum(x, it->ops->max(x, end), x, end);
        for (int64_t j = 0; j < end; j++)
            x[j] /= sum;
        if (it->a->bf16 && it->a->mode == QSAE_ATTN_EAGER)
            it->ops->round_bf16(x, end);
        memset(x + end, 0, (size_t)(n - end) * sizeof *x);
    }
    mix_values(it, first, n, it->out);
}

struct job {
    const qsae__attention *a;
    qsae_context *ctx;
    struct shape s;
    int64_t cuts; /* items per sequence and key/value head */
};

/* Cuts the worker's scratch; each part begins at a multiple of 64 bytes. */
static void lay_out(struct item *it, float *at)
{
    const int64_t rows = it->s.rows, d = align16(it->a->head_dim);
    it->pack = at;
    it->q = it->pack + QSAE__GEMM_SCRATCH;
    it->out = it->q + rows * d;
    it->part = it->out + rows * d;
    it->scores = it->part + rows * d;
    it->max = it->scores + rows * it->s.score_ld;
    it->sum = it->max + align16(rows);
}

static int32_t run_item(void *arg, int64_t tile, int32_t worker)
{
    const struct job *const j = arg;
    const qsae__attention *const a = j->a;
    /* Late queries see the most keys: they go first. */
    const int64_t cut = j->cuts - 1 - tile / (a->n_seq * a->kv_heads);
    const int64_t pair = tile % (a->n_seq * a->kv_heads);
    struct item it = { .a = a, .ctx = j->ctx, .ops = qsae__ops_get(j->ctx),
                       .nn = qsae__nn_get(j->ctx), .s = j->s };
    it.seq = pair / a->kv_heads;
    it.kv = pair % a->kv_heads;
    it.q0 = cut * j->s.queries;
    it.q1 = qsae__min_i64(a->n_tokens, it.q0 + j->s.queries);
    it.rows = (it.q1 - it.q0) * j->s.group;
    lay_out(&it, a->worker + worker * a->worker_floats);
    const size_t bytes = (size_t)(j->s.group * a->head_dim) * sizeof(float);
    const int64_t head = it.kv * j->s.group;
    for (int64_t p = it.q0; p < it.q1; p++)
        memcpy(it.q + (p - it.q0) * j->s.group * a->head_dim,
               head_row(a, a->q, a->heads, it.seq, p, head), bytes);
    const int64_t first_seen = a->window ? qsae__max_i64(0, it.q0 - a->window + 1) : 0;
    if (a->mode == QSAE_ATTN_SDPA)
        run_online(&it, first_seen);
    else
        run_rows(&it, first_seen);
    if (a->bf16)
        it.ops->round_bf16(it.out, it.rows * a->head_dim);
    for (int64_t p = it.q0; p < it.q1; p++)
        memcpy(a->z + ((it.seq * a->n_tokens + p) * a->heads + head) * a->head_dim,
               it.out + (p - it.q0) * j->s.group * a->head_dim, bytes);
    return QSAE_OK;
}

int32_t qsae__attention_run(qsae_context *ctx, const qsae__attention *a)
{
    struct job job = { .a = a, .ctx = ctx };
    job.s = shape_of(a->heads, a->kv_heads, a->n_tokens, a->mode);
    job.cuts = qsae__ceil_div(a->n_tokens, job.s.queries);
    return qsae__parallel(ctx, a->n_seq * a->kv_heads * job.cuts, run_item, &job);
}
