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
 * A soft cap (Gemma 2) comes between scaling and mask; PyTorch's kernel has none, so that sdpa's
 * is ours: in f32, as its scaling is.
 *
 * Products follow the order of kernels/gemm.h from key 0 (sdpa: of the block). Keys that no row of
 * the item sees are left out in whole steps of QSAE__GEMM_KB: they would add exact zeros. Hence no
 * result depends on how queries are cut into items.
 *
 * With room for packed keys and values, sdpa in bf16 multiplies bf16 by bf16 (kernels/packed.h):
 * see run_packed.
 */
#include "model/attention.h"

#include <math.h>
#include <string.h>

#include <qsae/model.h>

#include "kernels/blocks.h"
#include "kernels/softmax.h"

#define KEY_BLOCK 512
#define MAX_ROWS 256         /* stacked query rows of an item */
#define MAX_SCORES (1 << 18) /* floats of whole-row scores, but for */
#define MIN_ROWS 64          /* rows: keys are packed anew for every item */

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

/* window: of the layer, 0 = none: an item's keys are those of it, from a whole step on. */
static struct shape shape_of(int64_t heads, int64_t kv_heads, int64_t n_tokens, int64_t window,
                             int32_t mode)
{
    struct shape s = { .group = heads / kv_heads };
    const int64_t seen = window && window < n_tokens ? window + MAX_ROWS + QSAE__GEMM_KB : n_tokens;
    s.score_ld = align16(qsae__min_i64(mode == QSAE_ATTN_SDPA ? KEY_BLOCK : seen, n_tokens));
    const int64_t fit = qsae__min_i64(MAX_ROWS, qsae__max_i64(MIN_ROWS, MAX_SCORES / s.score_ld));
    s.queries = qsae__min_i64(n_tokens, qsae__max_i64(1, fit / s.group));
    s.rows = s.group * s.queries;
    return s;
}

/* An item and its scratch. Row r is query q0 + r / group of head kv * group + r % group. */
struct item {
    const qsae__attention *a;
    qsae_context *ctx;
    const qsae__ops *ops;
    const qsae__softmax *soft;
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
    if (a->cap > 0)
        qsae__soft_cap(it->ops, a->cap, eager, x, end);
    for (int64_t j = 0; j < begin; j++)
        x[j] = -INFINITY;
    return end;
}

/*
 * One row of one key block of the running softmax: x holds products with keys first..first+n-1, of
 * which the query at pos sees some; a cap is applied in place. Exponentials go to y (may be x), or
 * as bf16 to a strip. *max, *sum and out[head_dim] take them in, before the product with V is
 * added.
 */
static void online_row(const qsae__attention *a, const qsae__ops *ops, const qsae__softmax *soft,
                       int64_t pos, int64_t first, int64_t n, float *x, float *y,
                       uint8_t *strip, float *max, float *sum, float *out)
{
    const int64_t block = first / KEY_BLOCK * KEY_BLOCK;
    const int64_t keys = qsae__min_i64(KEY_BLOCK, a->n_tokens - block);
    qsae__softmax_row row = { .x = x, .n = n, .scale = a->scale };
    row.end = qsae__max_i64(0, qsae__min_i64(n, pos + 1 - first));
    row.begin = a->window ? pos - a->window + 1 - first : 0;
    row.begin = qsae__max_i64(0, qsae__min_i64(row.end, row.begin));
    row.n_coarse = keys / 16 * 16 - (first - block);
    if (a->cap > 0) {
        const int64_t seen = row.end - row.begin;
        ops->scale(x + row.begin, a->scale, x + row.begin, seen);
        qsae__soft_cap(ops, a->cap, 0, x + row.begin, seen);
        row.scale = 1;
    }
    const float seen = soft->max(x + row.begin, row.scale, row.end - row.begin);
    row.max = *max > seen ? *max : seen;
    if (row.max == -INFINITY) { /* nothing seen so far */
        row.end = row.begin = 0;
        row.max = 0;
    }
    const float add = strip     ? soft->strip(&row, strip)
                      : a->bf16 ? soft->bf16(&row, y)
                                : soft->f32(&row, y);
    if (row.end == 0)
        return;
    if (*max < row.max && *max != -INFINITY) { /* else sum and out are 0, or stay */
        float shrink;
        const float shift = *max - row.max;
        ops->exp(&shift, &shrink, 1);
        *sum *= shrink;
        ops->scale(out, shrink, out, a->head_dim);
    }
    *sum += add;
    *max = row.max;
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
        for (int64_t r = 0; r < it->rows; r++) {
            float *const x = it->scores + r * it->s.score_ld;
            online_row(it->a, it->ops, it->soft, it->q0 + r / it->s.group, first, n, x, x, NULL,
                       it->max + r, it->sum + r, it->out + r * d);
        }
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

/*
 * The packed path. Keys of a sequence and head lie in panels of 32 keys; values, whose k is the
 * keys, block by block: panels of 32 columns of the steps of KEY_BLOCK keys each. An item's queries
 * are packed; then, block by block and SUB rows at a time, products with keys go to scores, their
 * exponentials to strips, and the product of those with V is added to out.
 */
#define PACKED_ROWS 128
#define SUB 64
#define SUB_LD (KEY_BLOCK + 16) /* not a power of two: rows would share cache sets */
#define BLOCK_STEPS (KEY_BLOCK / 32)
#define STEP_FLOATS (QSAE__STEP / 4) /* of a row or column */

struct packed_shape {
    int64_t group, queries, rows; /* as in struct shape */
    int64_t steps_d, steps_t;     /* of head_dim, of the keys of a sequence */
    int64_t panel;                /* bytes of a panel of keys */
    int64_t half;                 /* bytes of the keys of a sequence and head, also of the values */
    int64_t q_floats, out_floats, score_floats;
};

static struct packed_shape packed_shape_of(int64_t heads, int64_t kv_heads, int64_t head_dim,
                                           int64_t n_tokens)
{
    struct packed_shape s = { .group = heads / kv_heads };
    s.queries = qsae__min_i64(n_tokens, qsae__max_i64(1, PACKED_ROWS / s.group));
    s.rows = s.group * s.queries;
    s.steps_d = qsae__steps(head_dim, 2);
    s.steps_t = qsae__steps(n_tokens, 2);
    s.panel = s.steps_d * QSAE__PANEL_STEP;
    s.half = s.steps_t * s.panel;
    s.q_floats = align16(s.rows) * s.steps_d * STEP_FLOATS;
    s.out_floats = s.rows * align16(head_dim);
    /* also a panel of keys as bf16, or a strip of queries */
    s.score_floats = qsae__max_i64(SUB * SUB_LD, 16 * align16(head_dim));
    return s;
}

static int64_t packed_floats(int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t n_tokens)
{
    const struct packed_shape s = packed_shape_of(heads, kv_heads, head_dim, n_tokens);
    return s.q_floats + s.out_floats + s.score_floats + SUB * BLOCK_STEPS * STEP_FLOATS +
           2 * align16(s.rows);
}

struct packed {
    const qsae__attention *a;
    const qsae__packed_kernel *kernel;
    const qsae__ops *ops;
    const qsae__softmax *soft;
    const qsae__block_ops *coder;
    struct packed_shape s;
    int64_t blocks, cuts; /* of keys, of queries, per sequence and key/value head */
};

/* Scratch of a worker; each part begins at a multiple of 64 bytes. */
struct packed_scratch {
    uint8_t *q;        /* strips */
    uint8_t *weights;  /* strips of exponentials, BLOCK_STEPS steps each */
    float *out;        /* [rows, head_dim] */
    float *scores;     /* [SUB, SUB_LD] */
    float *max, *sum;  /* [rows] */
};

static struct packed_scratch cut_scratch(const struct packed *j, int32_t worker)
{
    float *const at = j->a->worker + worker * j->a->worker_floats;
    struct packed_scratch w = { .q = (uint8_t *)at };
    w.out = at + j->s.q_floats;
    w.scores = w.out + j->s.out_floats;
    w.weights = (uint8_t *)(w.scores + j->s.score_floats);
    w.max = w.scores + j->s.score_floats + SUB * BLOCK_STEPS * STEP_FLOATS;
    w.sum = w.max + align16(j->s.rows);
    return w;
}

/* Keys and values of a pair of sequence and head. */
static uint8_t *panels_of(const struct packed *j, int64_t pair)
{
    return (uint8_t *)j->a->panels + pair * 2 * j->s.half;
}

/* Packs the keys and values of one block. */
static int32_t pack_block(void *arg, int64_t tile, int32_t worker)
{
    const struct packed *const j = arg;
    const qsae__attention *const a = j->a;
    const int64_t pair = tile / j->blocks, first = tile % j->blocks * KEY_BLOCK;
    const int64_t end = qsae__min_i64(a->n_tokens, first + KEY_BLOCK), d = a->head_dim;
    const int64_t ld = a->kv_heads * d, seq = pair / a->kv_heads, kv = pair % a->kv_heads;
    uint16_t *const rows = (void *)cut_scratch(j, worker).scores;
    uint8_t *const keys = panels_of(j, pair);
    for (int64_t k = first; k < end; k += QSAE__COLUMNS) {
        const int64_t columns = qsae__min_i64(QSAE__COLUMNS, end - k);
        const float *const from = head_row(a, a->k, a->kv_heads, seq, k, kv);
        for (int64_t r = 0; r < columns; r++)
            j->coder->narrow(from + r * ld, d, rows + r * d);
        j->kernel->pack->panel(rows, d, columns, d, keys + k / QSAE__COLUMNS * j->s.panel);
    }
    const int64_t steps = qsae__steps(end - first, 2), panel = steps * QSAE__PANEL_STEP;
    uint8_t *const values = keys + j->s.half + first / 32 * j->s.panel;
    if (d % QSAE__COLUMNS || (end - first) % 32) /* what pair leaves out */
        memset(values, 0, (size_t)(j->s.steps_d * panel));
    for (int64_t k = first; k < end; k += 2) {
        const float *const even = head_row(a, a->v, a->kv_heads, seq, k, kv);
        j->soft->pair(even, k + 1 < end ? even + ld : NULL, d,
                      values + (k - first) / 2 * (4 * QSAE__COLUMNS), panel);
    }
    return QSAE_OK;
}

/* Rows of queries q0.. of the heads that share kv, to strips. */
static void pack_queries(const struct packed *j, const struct packed_scratch *w, int64_t seq,
                         int64_t kv, int64_t q0, int64_t rows)
{
    const qsae__attention *const a = j->a;
    const int64_t d = a->head_dim, group = j->s.group;
    for (int64_t r = 0; r < rows; r += QSAE__STRIP) {
        const int64_t n = qsae__min_i64(QSAE__STRIP, rows - r);
        const float *from = head_row(a, a->q, a->heads, seq, q0, 0) + r * d;
        if (a->kv_heads > 1) { /* rows of a position are apart from those of the next */
            for (int64_t i = r; i < r + n; i++)
                memcpy(w->scores + (i - r) * d,
                       head_row(a, a->q, a->heads, seq, q0 + i / group, kv * group + i % group),
                       (size_t)d * sizeof *from);
            from = w->scores;
        }
        j->kernel->pack->rows(QSAE_F32, from, d, n, d,
                              w->q + r * j->s.steps_d * QSAE__STEP);
    }
}

/* Rows r0..r1 of an item (at most SUB) against the keys of a block that any of them sees. */
static void packed_sub(const struct packed *j, const struct packed_scratch *w, int64_t pair,
                       int64_t q0, int64_t r0, int64_t r1, int64_t block)
{
    const qsae__attention *const a = j->a;
    const int64_t low = q0 + r0 / j->s.group, high = q0 + (r1 - 1) / j->s.group;
    const int64_t unseen = a->window ? qsae__max_i64(0, low - a->window + 1 - block) : 0;
    const int64_t first = block + unseen / 32 * 32;
    const int64_t n = qsae__min_i64(block + KEY_BLOCK, high + 1) - first;
    if (n <= 0)
        return;
    const uint8_t *const keys = panels_of(j, pair);
    qsae__packed_product p = {
        .m = r1 - r0,
        .n = n,
        .steps = j->s.steps_d,
        .a = w->q + r0 * j->s.steps_d * QSAE__STEP,
        .a_strip = j->s.steps_d * QSAE__STRIP_STEP,
        .parts = 1,
        .w = keys + first / 32 * j->s.panel,
        .w_panel = j->s.panel,
        .c = w->scores,
        .ldc = SUB_LD,
    };
    j->kernel->bf16(&p);
    for (int64_t r = r0; r < r1; r++) {
        const int64_t i = r - r0;
        uint8_t *const strip = w->weights + i / 16 * (BLOCK_STEPS * QSAE__STRIP_STEP) +
                               i % 16 * QSAE__STEP;
        online_row(a, j->ops, j->soft, q0 + r / j->s.group, first, n, w->scores + i * SUB_LD, NULL,
                   strip, w->max + r, w->sum + r, w->out + r * a->head_dim);
    }
    p.n = a->head_dim;
    p.steps = qsae__steps(n, 2);
    p.a = w->weights;
    p.a_strip = BLOCK_STEPS * QSAE__STRIP_STEP;
    p.w = keys + j->s.half + block / 32 * j->s.panel + (first - block) / 32 * QSAE__PANEL_STEP;
    p.w_panel = qsae__steps(qsae__min_i64(KEY_BLOCK, a->n_tokens - block), 2) * QSAE__PANEL_STEP;
    p.c = w->out + r0 * a->head_dim;
    p.ldc = a->head_dim;
    p.add = true;
    j->kernel->bf16(&p);
}

static int32_t packed_item(void *arg, int64_t tile, int32_t worker)
{
    const struct packed *const j = arg;
    const qsae__attention *const a = j->a;
    const struct packed_scratch w = cut_scratch(j, worker);
    /* Late queries see the most keys: they go first. */
    const int64_t cut = j->cuts - 1 - tile / (a->n_seq * a->kv_heads);
    const int64_t pair = tile % (a->n_seq * a->kv_heads), d = a->head_dim, group = j->s.group;
    const int64_t seq = pair / a->kv_heads, kv = pair % a->kv_heads;
    const int64_t q0 = cut * j->s.queries, q1 = qsae__min_i64(a->n_tokens, q0 + j->s.queries);
    const int64_t rows = (q1 - q0) * group;
    pack_queries(j, &w, seq, kv, q0, rows);
    memset(w.out, 0, (size_t)(rows * d) * sizeof *w.out);
    memset(w.weights, 0, SUB * BLOCK_STEPS * QSAE__STEP); /* rows that a strip lacks */
    for (int64_t r = 0; r < rows; r++) {
        w.max[r] = -INFINITY;
        w.sum[r] = 0;
    }
    const int64_t seen = a->window ? qsae__max_i64(0, q0 - a->window + 1) : 0;
    for (int64_t block = seen / KEY_BLOCK * KEY_BLOCK; block < q1; block += KEY_BLOCK)
        for (int64_t r = 0; r < rows; r += SUB)
            packed_sub(j, &w, pair, q0, r, qsae__min_i64(rows, r + SUB), block);
    for (int64_t r = 0; r < rows; r++) {
        float *const z = a->z + ((seq * a->n_tokens + q0 + r / group) * a->heads + kv * group +
                                 r % group) * d;
        j->soft->finish(w.out + r * d, 1.0f / w.sum[r], z, d, true);
    }
    return QSAE_OK;
}

static int32_t run_packed(qsae_context *ctx, const qsae__attention *a)
{
    struct packed j = { .a = a,
                        .kernel = qsae__packed_get(ctx),
                        .ops = qsae__ops_get(ctx),
                        .soft = qsae__softmax_get(ctx),
                        .coder = qsae__blocks_get(ctx) };
    j.s = packed_shape_of(a->heads, a->kv_heads, a->head_dim, a->n_tokens);
    j.blocks = qsae__ceil_div(a->n_tokens, KEY_BLOCK);
    j.cuts = qsae__ceil_div(a->n_tokens, j.s.queries);
    const int64_t pairs = a->n_seq * a->kv_heads;
    const int32_t st = qsae__parallel(ctx, pairs * j.blocks, pack_block, &j);
    return st == QSAE_OK ? qsae__parallel(ctx, pairs * j.cuts, packed_item, &j) : st;
}

/* A window makes rows of scores shorter, and may make them more. */
int64_t qsae__attention_floats(int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t n_tokens,
                               int32_t mode)
{
    const struct shape s = shape_of(heads, kv_heads, n_tokens, 0, mode);
    const int64_t rows = qsae__min_i64(s.group * n_tokens, qsae__max_i64(MAX_ROWS, s.group));
    const int64_t scores = qsae__min_i64(rows * s.score_ld,
                                         qsae__max_i64(MAX_SCORES, s.rows * s.score_ld));
    const int64_t f32 =
        QSAE__GEMM_SCRATCH + rows * 3 * align16(head_dim) + scores + 2 * align16(rows);
    return qsae__max_i64(f32, packed_floats(heads, kv_heads, head_dim, n_tokens));
}

bool qsae__attention_panels(const qsae_context *ctx, int64_t kv_heads, int64_t head_dim,
                            int64_t n_tokens, int32_t mode, int32_t bf16, int64_t *floats)
{
    int64_t n;
    *floats = 0;
    if (mode != QSAE_ATTN_SDPA || !bf16 || !qsae__packed_get(ctx)->bf16)
        return true;
    return qsae__mul_i64(qsae__steps(n_tokens, 2) * qsae__steps(head_dim, 2), kv_heads, &n) &&
           qsae__mul_i64(n, 2 * QSAE__PANEL_STEP / (int64_t)sizeof(float), floats);
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
                       .soft = qsae__softmax_get(j->ctx), .s = j->s };
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
    if (a->panels)
        return run_packed(ctx, a);
    struct job job = { .a = a, .ctx = ctx };
    job.s = shape_of(a->heads, a->kv_heads, a->n_tokens, a->window, a->mode);
    job.cuts = qsae__ceil_div(a->n_tokens, job.s.queries);
    return qsae__parallel(ctx, a->n_seq * a->kv_heads * job.cuts, run_item, &job);
}
