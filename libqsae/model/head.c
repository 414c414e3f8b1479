/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The head as a driver of vocabulary tiles. An item of work is a block of rows times a group of
 * GROUP columns: for every tile of it the logits of all participants are made and folded into
 * running sums per row (sae.md C.3), and forgotten. The groups of a row are merged in ascending
 * order afterwards, so results depend neither on threads nor on how rows are cut.
 */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "model/internal.h"

#define TILE QSAE__GEMM_NB
#define GROUP (16 * TILE) /* columns whose sums are kept apart until the merge */
#define STACKED_ROWS 768  /* rows of all participants in an item */
#define MAX_BLOCK 512     /* rows of an item: a packed tile of the weight serves them all */

/* State of one row of one participant over some columns. */
struct fold {
    double sum;  /* of exp(z - max) */
    double diff; /* of exp(z0 - max0) (z0 - z) */
    float max;
    float best;  /* largest logit and its id, the lowest of equals */
    int32_t top;
};

struct head_job {
    qsae_context *ctx;
    const qsae__ops *ops;
    const qsae__head_rows *p; /* [k] */
    const int32_t *labels;
    const qsae_cancel_token *cancel;
    int64_t rows, k, width, vocab;
    int64_t block;            /* rows of an item */
    int64_t groups;
    int64_t *order;           /* [k] participants, those with equal weights side by side */
    bool sums;                /* whether anyone asks for nll or kl */
    struct fold *folds;       /* [groups, rows, k] */
    float *label;             /* [rows, k] logit of the label */
    float *scratch;           /* [threads, floats] */
    int64_t floats;
};

/* Whether two models make the same logits of the same rows but for the soft cap and rounding. */
static bool same_weight(const qsae_model *a, const qsae_model *b)
{
    return a->head.data == b->head.data && a->head.round == b->head.round &&
           a->head_panels.fill == b->head_panels.fill;
}

/* z <- c tanh(z / c), each step rounded in bf16 (models.md B.2). */
static void cap_logits(const qsae__ops *ops, float cap, int32_t bf16, float *z, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        z[i] /= cap;
    if (bf16)
        ops->round_bf16(z, n);
    ops->tanh(z, z, n);
    if (bf16)
        ops->round_bf16(z, n);
    ops->scale(z, cap, z, n);
    if (bf16)
        ops->round_bf16(z, n);
}

/* Folds logits z[n] of columns v0.. into f. */
static void fold_sums(const qsae__ops *ops, const float *z, int64_t n, struct fold *f)
{
    const float m = ops->max(z, n);
    if (m > f->max) {
        const double shrink = exp((double)f->max - (double)m);
        f->sum *= shrink;
        f->diff *= shrink;
        f->max = m;
    }
    f->sum += ops->sum_exp(z, f->max, n);
}

static void fold_top(const qsae__ops *ops, const float *z, int64_t v0, int64_t n, struct fold *f)
{
    const float m = ops->max(z, n);
    if (!(m > f->best))
        return;
    for (int64_t i = 0; i < n; i++) {
        if (z[i] == m) {
            f->best = m;
            f->top = (int32_t)(v0 + i);
            return;
        }
    }
}

/* One row of one tile: z[k] points at each participant's n logits of columns v0... */
static void fold_row(const struct head_job *j, int64_t row, int64_t v0, int64_t n, float *tile,
                     int64_t stride, struct fold *f)
{
    const int32_t label = j->labels ? j->labels[row] : -1;
    const float *z0 = NULL;
    double shrink0 = 1;
    for (int64_t i = 0; i < j->k; i++) { /* participant 0 is first in order */
        const int64_t p = j->order[i];
        float *const z = tile + i * stride;
        if (j->p[p].model->bf16)
            j->ops->round_bf16(z, n);
        if (j->p[p].model->config->final_cap > 0)
            cap_logits(j->ops, (float)j->p[p].model->config->final_cap, j->p[p].model->bf16, z, n);
        if (j->p[p].logits)
            memcpy(j->p[p].logits + row * j->vocab + v0, z, (size_t)n * sizeof *z);
        if (label >= v0 && label < v0 + n)
            j->label[row * j->k + p] = z[label - v0];
        if (j->p[p].top)
            fold_top(j->ops, z, v0, n, &f[p]);
        if (!j->sums)
            continue;
        if (p == 0) {
            const float before = f[0].max;
            fold_sums(j->ops, z, n, &f[0]);
            shrink0 = f[0].max > before ? exp((double)before - (double)f[0].max) : 1;
            z0 = z;
        } else {
            const double diff = f[p].diff * shrink0;
            fold_sums(j->ops, z, n, &f[p]);
            f[p].diff = diff;
            if (j->p[p].kl)
                f[p].diff += j->ops->sum_exp_diff(z0, f[0].max, z, n);
        }
    }
}

/* Final rows row0.. of the participants order[i0..i1): one matrix. Those of one participant lie as
 * they are, several are copied side by side. */
static const float *stack_rows(const struct head_job *j, int64_t i0, int64_t i1, int64_t row0,
                               int64_t n, float *buffer)
{
    if (i1 - i0 == 1)
        return j->p[j->order[i0]].final + row0 * j->width;
    for (int64_t i = i0; i < i1; i++)
        memcpy(buffer + (i - i0) * n * j->width, j->p[j->order[i]].final + row0 * j->width,
               (size_t)(n * j->width) * sizeof(float));
    return buffer;
}

/* End of the run of participants that share the weight of order[i]. */
static int64_t class_end(const struct head_job *j, int64_t i)
{
    int64_t e = i + 1;
    while (e < j->k && same_weight(j->p[j->order[i]].model, j->p[j->order[e]].model))
        e++;
    return e;
}

static int32_t head_item(void *arg, int64_t item, int32_t worker)
{
    const struct head_job *const j = arg;
    const int64_t group = item % j->groups, row0 = item / j->groups * j->block;
    const int64_t n = qsae__min_i64(j->block, j->rows - row0);
    const int64_t end = qsae__min_i64(j->vocab, (group + 1) * GROUP);
    struct fold *const folds = j->folds + (group * j->rows + row0) * j->k;
    float *const pack = j->scratch + worker * j->floats;
    float *const tile = pack + QSAE__GEMM_SCRATCH, *const rows = tile + j->k * j->block * TILE;
    const int32_t st = qsae__canceled(j->cancel);
    if (st != QSAE_OK)
        return st;
    for (int64_t i = 0; i < n * j->k; i++)
        folds[i] = (struct fold){ .max = -INFINITY, .best = -INFINITY, .top = -1 };
    /* Stacked rows stay in place over the tiles of an item if all participants share the weight. */
    const bool one = class_end(j, 0) == j->k;
    const float *a = one ? stack_rows(j, 0, j->k, row0, n, rows) : NULL;
    for (int64_t v0 = group * GROUP; v0 < end; v0 += TILE) {
        const int64_t v1 = qsae__min_i64(end, v0 + TILE);
        for (int64_t i = 0, e; i < j->k; i = e) {
            e = class_end(j, i);
            if (!one)
                a = stack_rows(j, i, e, row0, n, rows);
            qsae__gemm_tile(j->ctx, (e - i) * n, a, j->width, &j->p[j->order[i]].model->head_panels,
                            v0, v1, tile + i * n * TILE, TILE, pack);
        }
        for (int64_t r = 0; r < n; r++)
            fold_row(j, row0 + r, v0, v1 - v0, tile + r * TILE, n * TILE, folds + r * j->k);
    }
    return QSAE_OK;
}

/* f <- f with the columns of g, which come after those of f. f0, g0: maximum of participant 0
 * there. */
static void merge(struct fold *f, const struct fold *g, float f0, float g0)
{
    const float m = g->max > f->max ? g->max : f->max, m0 = g0 > f0 ? g0 : f0;
    /* exp(-inf - -inf) is NaN: nothing but NaN was seen, and NaN it stays */
    f->sum = f->sum * exp((double)f->max - (double)m) + g->sum * exp((double)g->max - (double)m);
    f->diff = f->diff * exp((double)f0 - (double)m0) + g->diff * exp((double)g0 - (double)m0);
    f->max = m;
    if (g->best > f->best) {
        f->best = g->best;
        f->top = g->top;
    }
}

static void finish_row(const struct head_job *j, int64_t row)
{
    struct fold *const f = j->folds + row * j->k;
    for (int64_t g = 1; g < j->groups; g++) {
        const struct fold *const next = j->folds + (g * j->rows + row) * j->k;
        const float f0 = f[0].max, g0 = next[0].max;
        for (int64_t p = 0; p < j->k; p++)
            merge(&f[p], &next[p], f0, g0);
    }
    const double lse0 = (double)f[0].max + log(f[0].sum);
    for (int64_t p = 0; p < j->k; p++) {
        const double lse = (double)f[p].max + log(f[p].sum);
        if (j->p[p].nll)
            j->p[p].nll[row] = !j->labels || j->labels[row] < 0
                                   ? NAN
                                   : (float)(lse - (double)j->label[row * j->k + p]);
        if (j->p[p].kl)
            j->p[p].kl[row] = p == 0 ? 0.0f : (float)(f[p].diff / f[0].sum - (lse0 - lse));
        if (j->p[p].top)
            j->p[p].top[row] = f[p].top;
    }
}

static int32_t finish_tile(void *arg, int64_t tile, int32_t worker)
{
    const struct head_job *const j = arg;
    (void)worker;
    for (int64_t r = tile * 32; r < qsae__min_i64(j->rows, (tile + 1) * 32); r++)
        finish_row(j, r);
    return QSAE_OK;
}

static int32_t check(qsae_context *ctx, int64_t rows, const int32_t *labels, int64_t k,
                     const qsae__head_rows *p)
{
    if (!ctx || !p || k < 1 || rows < 0)
        return qsae__fail(QSAE_EINVAL, "qsae__head_run: no participants or negative row count");
    for (int64_t i = 0; i < k; i++) {
        if (!p[i].model || (!p[i].final && rows > 0))
            return qsae__fail(QSAE_EINVAL, "qsae__head_run: participant %" PRId64 " is NULL", i);
        if (p[i].model->config->vocab != p[0].model->config->vocab ||
            p[i].model->config->width != p[0].model->config->width)
            return qsae__fail(QSAE_EMISMATCH,
                              "heads of [%" PRId64 ", %" PRId64 "] and [%" PRId64 ", %" PRId64
                              "] cannot be compared",
                              p[0].model->config->vocab, p[0].model->config->width,
                              p[i].model->config->vocab, p[i].model->config->width);
    }
    for (int64_t r = 0; labels && r < rows; r++)
        if (labels[r] >= p[0].model->config->vocab)
            return qsae__fail(QSAE_EINVAL,
                              "label %" PRId32 " of row %" PRId64 ": expected below %" PRId64,
                              labels[r], r, p[0].model->config->vocab);
    return QSAE_OK;
}

/* Participant 0 first, each followed by those that share its weight. */
static void sort_participants(struct head_job *j)
{
    int64_t n = 0;
    for (int64_t i = 0; i < j->k; i++) {
        bool placed = false;
        for (int64_t q = 0; q < i && !placed; q++)
            placed = same_weight(j->p[q].model, j->p[i].model);
        for (int64_t q = i; q < j->k && !placed; q++)
            if (same_weight(j->p[i].model, j->p[q].model))
                j->order[n++] = q;
    }
}

static int32_t allocate(struct head_job *j)
{
    int64_t cells;
    const int64_t fit = qsae__max_i64(1, qsae__min_i64(MAX_BLOCK, STACKED_ROWS / j->k));
    j->block = qsae__min_i64(j->rows, fit);
    j->groups = qsae__ceil_div(j->vocab, GROUP);
    /* scratch of a worker: packed weight, tiles, stacked rows */
    j->floats = QSAE__GEMM_SCRATCH + j->k * j->block * TILE +
                (j->k > 1 ? (j->k * j->block * j->width + 15) / 16 * 16 : 0);
    if (!qsae__mul_i64(j->rows, j->k, &cells) || !qsae__mul_i64(cells, j->groups, &cells))
        return qsae__fail(QSAE_EOVERFLOW, "%" PRId64 " rows are too many", j->rows);
    j->order = qsae__alloc_array(j->ctx, j->k, sizeof *j->order);
    j->folds = qsae__alloc_array(j->ctx, cells, sizeof *j->folds);
    j->label = qsae__alloc_array(j->ctx, j->rows * j->k, sizeof *j->label);
    j->scratch = qsae__alloc_array(j->ctx, j->floats * j->ctx->threads, sizeof *j->scratch);
    return j->order && j->folds && j->label && j->scratch ? QSAE_OK : QSAE_ENOMEM;
}

int32_t qsae__head_run(qsae_context *ctx, int64_t rows, const int32_t *labels, int64_t k,
                       const qsae__head_rows *participants, const qsae_cancel_token *cancel)
{
    int32_t st = check(ctx, rows, labels, k, participants);
    if (st != QSAE_OK || rows == 0)
        return st;
    struct head_job j = {
        .ctx = ctx,
        .ops = qsae__ops_get(ctx),
        .p = participants,
        .labels = labels,
        .cancel = cancel,
        .rows = rows,
        .k = k,
        .width = participants[0].model->config->width,
        .vocab = participants[0].model->config->vocab,
    };
    for (int64_t i = 0; i < k; i++)
        j.sums = j.sums || participants[i].nll || participants[i].kl;
    st = allocate(&j);
    if (st == QSAE_OK) {
        const qsae__fpenv env = qsae__fpenv_enter();
        sort_participants(&j);
        st = qsae__parallel(ctx, qsae__ceil_div(rows, j.block) * j.groups, head_item, &j);
        if (st == QSAE_OK)
            st = qsae__parallel(ctx, qsae__ceil_div(rows, 32), finish_tile, &j);
        qsae__fpenv_leave(env);
    }
    qsae__free(ctx, j.order);
    qsae__free(ctx, j.folds);
    qsae__free(ctx, j.label);
    qsae__free(ctx, j.scratch);
    return st;
}
