/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The head as a driver of vocabulary tiles. An item of work is a block of rows times a group of
 * GROUP columns: for every tile of it the logits of all participants are made and folded into
 * running sums per row (sae.md C.3), and forgotten. The groups of a row are merged in ascending
 * order afterwards, so results depend neither on threads nor on how rows are cut.
 *
 * Where a head is packed, final rows are packed once, and tiles are made from a piece of the weight
 * that stays in the cache while all rows of the item meet it, a few strips at a time, so that
 * logits are folded from the cache too. Otherwise f32 panels are made for a tile; they
 * should serve many rows at once.
 */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "kernels/best.h"
#include "kernels/nn.h"
#include "kernels/product.h"
#include "model/internal.h"

#define GROUP 8192        /* columns whose sums are kept apart until the merge */
#define MOST QSAE__GEMM_NB /* columns of a tile */
#define PAD 16            /* columns: rows of a tile do not meet in one cache set */
#define STACKED_ROWS 768  /* f32 panels: rows of all participants in an item */
#define MAX_BLOCK 512     /* f32 panels: rows of an item */
#define BEST_PART 32      /* logits that are looked at together for a list */
#define STRIPS_ROWS 64    /* packed: rows of a tile; half of it from three participants on */

/* State of one row of one participant over some columns. */
struct fold {
    double sum;  /* of exp(z - max) */
    double diff; /* of exp(z0 - max0) (z0 - z) */
    double over; /* of exp(z - max) (z - max), for the entropy */
    float max;
    int32_t top; /* id of the maximum, the lowest of equals */
};

struct head_job {
    qsae_context *ctx;
    const qsae__ops *ops;
    const qsae__nn *nn;
    const qsae__packed_kernel *kernel;
    const qsae__head_rows *p; /* [k] */
    const int32_t *labels;
    const qsae_cancel_token *cancel;
    int64_t rows, k, vocab;
    int64_t width, widest;    /* of participant 0, of all */
    int64_t tile, ldc;        /* columns of a tile, its row stride */
    int64_t block;            /* rows of a tile */
    int64_t item_rows;        /* rows of an item, a multiple of block */
    int64_t groups;
    int64_t *order;           /* [k] participants, those with equal weights side by side */
    qsae__left *left;         /* [k] packed rows; parts is 0 where the head is not packed */
    bool sums;                /* whether anyone asks for nll or kl */
    bool kl;                  /* for kl */
    bool entropy;             /* for entropies */
    int64_t most;             /* logits of a list for overlaps; 0 = nobody asks */
    bool panels;              /* whether anyone's head is not packed */
    struct fold *folds;       /* [groups, rows, k] */
    float *label;             /* [rows, k] logit of the label */
    qsae__best *best;         /* [groups, rows, k, most] */
    uint8_t *strips;          /* of left */
    float *scratch;           /* [threads, floats] */
    int64_t floats;
};

/* One worker's share of an item. */
struct item {
    int64_t v0, v1;           /* columns of the tile */
    int64_t row0, n;          /* its rows */
    float *tile;              /* [k in order, n, ldc] */
    float *pack;              /* QSAE__GEMM_SCRATCH floats, if panels */
    float *stack;             /* [k, block, widest], if panels and k > 1 */
    const float *stacked;     /* rows of all participants if they share one weight, else NULL */
};

/* Whether two models make the same logits of the same rows but for the soft cap and rounding. */
static bool same_weight(const qsae_model *a, const qsae_model *b)
{
    return a->head_packed == b->head_packed && a->head_q == b->head_q &&
           a->head.data == b->head.data && a->head.round == b->head.round &&
           a->head_panels.fill == b->head_panels.fill;
}

/* exp(from - to); 1 between equal infinities. */
static double rescale(float from, float to)
{
    return from == to ? 1 : exp((double)from - (double)to);
}

/* What the sum of exp(z - from) (z - from) is from `to` on; sum: of exp(z - from). */
static double move_over(double over, double sum, float from, float to)
{
    if (from == to || !(sum > 0)) /* nothing so far but -inf: `from` is, too */
        return over;
    return rescale(from, to) * (over + ((double)from - (double)to) * sum);
}

/* Sum of exp(z - max) (z - max) of any logits, a term with -inf being 0. */
static double sum_over(const float *z, float max, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        if (z[i] != -INFINITY)
            sum += exp((double)z[i] - (double)max) * ((double)z[i] - (double)max);
    return sum;
}

/* Folds logits z[n] into f, rounding them to bf16 first if asked. e: [n] terms exp(z - f->max), or
 * NULL. Returns whether the terms were written: not where a logit is NaN, infinite or huge. *grown:
 * whether the maximum has changed. */
static bool fold_sums(const struct head_job *j, float *z, int64_t n, int32_t bf16, bool sums,
                      float *e, struct fold *f, bool *grown, float *largest)
{
    int32_t tame;
    double over = 0;
    float m = j->nn->logit_max(z, n, &tame);
    if (!tame || !sums) {
        if (bf16)
            j->ops->round_bf16(z, n);
        m = j->ops->max(z, n);
    } else if (bf16) {
        m = qsae__round_bf16(m); /* rounding keeps the order */
    }
    *largest = m;
    *grown = m > f->max;
    if (*grown) {
        f->over = move_over(f->over, f->sum, f->max, m);
        f->sum *= rescale(f->max, m);
        f->max = m;
    }
    if (!sums)
        return false;
    if (tame && j->entropy)
        f->sum += j->nn->logit_sums(z, f->max, n, bf16, e, &over);
    else if (tame)
        f->sum += j->nn->logit_sum(z, f->max, n, bf16, e);
    else /* with nothing but -inf so far any finite reference gives the sum: 0, or NaN */
        f->sum += j->ops->sum_exp(z, isinf(f->max) && f->max < 0 ? 0 : f->max, n);
    if (!tame && j->entropy)
        over = sum_over(z, f->max, n);
    f->over += over;
    return tame;
}

/* Takes the largest logits of a tile into a list: parts of it that have none above the last are
 * passed over at the speed of a maximum. */
static void add_best(const struct head_job *j, qsae__best *list, const float *z, int64_t n,
                     int64_t v0, float largest)
{
    if (!(largest > list[j->most - 1].value))
        return;
    for (int64_t i = 0; i < n; i += BEST_PART) {
        const int64_t part = qsae__min_i64(BEST_PART, n - i);
        if (j->ops->max(z + i, part) > list[j->most - 1].value)
            qsae__best_add(list, j->most, z + i, part, (int32_t)(v0 + i));
    }
}

/* One row of one tile: participant order[i]'s n logits of columns v0.. are at tile + i * stride. */
static void fold_row(const struct head_job *j, int64_t row, int64_t v0, int64_t n, float *tile,
                     int64_t stride, struct fold *f, qsae__best *best)
{
    const int32_t label = j->labels ? j->labels[row] : -1;
    _Alignas(64) float e[MOST]; /* terms of participant 0, which is first in order */
    bool terms = false;
    double shrink0 = 1;
    for (int64_t i = 0; i < j->k; i++) {
        const int64_t p = j->order[i];
        const qsae_model *const m = j->p[p].model;
        const float cap = (float)m->config->final_cap, before = f[p].max;
        const double diff = f[p].diff * shrink0;
        float *const z = tile + i * stride;
        float largest;
        bool grown;
        if (m->head_bias)
            j->ops->add(z, m->head_bias + v0, z, n, 0);
        if (cap > 0) {
            if (m->bf16)
                j->ops->round_bf16(z, n);
            qsae__soft_cap(j->ops, cap, m->bf16, z, n);
        }
        const bool tame = fold_sums(j, z, n, m->bf16 && !(cap > 0), j->sums,
                                    p == 0 && j->kl ? e : NULL, &f[p], &grown, &largest);
        if (j->most)
            add_best(j, best + p * j->most, z, n, v0, largest);
        if (j->p[p].logits)
            memcpy(j->p[p].logits + row * j->vocab + v0, z, (size_t)n * sizeof *z);
        if (label >= v0 && label < v0 + n)
            j->label[row * j->k + p] = z[label - v0];
        if (grown && j->p[p].top)
            f[p].top = (int32_t)(v0 + j->nn->find(z, f[p].max, n));
        if (p == 0) {
            terms = tame;
            shrink0 = grown ? rescale(before, f[0].max) : 1;
        } else if (j->p[p].kl) {
            f[p].diff = diff + (terms && tame ? j->nn->logit_diff(e, tile, z, n)
                                              : j->ops->sum_exp_diff(tile, f[0].max, z, n));
        }
    }
}

/* Final rows row0.. of the participants order[i0..i1): one matrix. Those of one participant lie as
 * they are, several are copied side by side. */
static const float *stack_rows(const struct head_job *j, int64_t i0, int64_t i1, int64_t row0,
                               int64_t n, float *buffer)
{
    const int64_t width = j->p[j->order[i0]].model->config->width; /* equal where weights are */
    if (i1 - i0 == 1)
        return j->p[j->order[i0]].final + row0 * width;
    for (int64_t i = i0; i < i1; i++)
        memcpy(buffer + (i - i0) * n * width, j->p[j->order[i]].final + row0 * width,
               (size_t)(n * width) * sizeof(float));
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

/* Logits of one participant from packed operands to c[n, ldc]. */
static void multiply_packed(const struct head_job *j, const struct item *it, int64_t p, float *c)
{
    const qsae__packed_weight *const w = j->p[p].model->head_packed;
    const qsae__left *const left = &j->left[p];
    const qsae__packed_product product = {
        .m = it->n, .n = it->v1 - it->v0, .steps = w->steps,
        .a = left->data + it->row0 / QSAE__STRIP * left->strip, .a_strip = left->strip,
        .parts = left->parts, .a_part = left->part,
        .w = w->data + it->v0 / QSAE__COLUMNS * w->panel, .w_panel = w->panel,
        .c = c, .ldc = j->ldc,
    };
    j->kernel->bf16(&product);
}

/* The logits of a tile, all participants. */
static void multiply(const struct head_job *j, const struct item *it)
{
    for (int64_t i = 0, end; i < j->k; i = end) {
        const qsae_model *const m = j->p[j->order[i]].model;
        end = class_end(j, i);
        if (m->head_packed) {
            for (int64_t k = i; k < end; k++)
                multiply_packed(j, it, j->order[k], it->tile + k * it->n * j->ldc);
            continue;
        }
        const float *const a =
            it->stacked ? it->stacked : stack_rows(j, i, end, it->row0, it->n, it->stack);
        qsae__gemm_tile(j->ctx, (end - i) * it->n, a, m->config->width, &m->head_panels, it->v0,
                        it->v1, it->tile + i * it->n * j->ldc, j->ldc, it->pack);
    }
}

static int32_t head_item(void *arg, int64_t index, int32_t worker)
{
    const struct head_job *const j = arg;
    const int64_t group = index % j->groups, first = index / j->groups * j->item_rows;
    const int64_t last = qsae__min_i64(j->rows, first + j->item_rows);
    const int64_t end = qsae__min_i64(j->vocab, (group + 1) * GROUP);
    struct fold *const folds = j->folds + group * j->rows * j->k;
    qsae__best *const best = j->best + group * j->rows * j->k * j->most;
    struct item it = { .tile = j->scratch + worker * j->floats };
    it.pack = it.tile + j->k * j->block * j->ldc;
    it.stack = it.pack + QSAE__GEMM_SCRATCH;
    for (int64_t i = first * j->k; i < last * j->k; i++)
        folds[i] = (struct fold){ .max = -INFINITY, .top = -1 };
    qsae__best_clear(best + first * j->k * j->most, (last - first) * j->k * j->most);
    /* Stacked rows stay in place over the tiles if all participants share the weight. */
    if (j->panels && class_end(j, 0) == j->k)
        it.stacked = stack_rows(j, 0, j->k, first, last - first, it.stack);
    for (it.v0 = group * GROUP; it.v0 < end; it.v0 = it.v1) {
        const int32_t st = qsae__canceled(j->cancel);
        if (st != QSAE_OK)
            return st;
        it.v1 = qsae__min_i64(end, it.v0 + j->tile);
        for (it.row0 = first; it.row0 < last; it.row0 += it.n) {
            it.n = qsae__min_i64(j->block, last - it.row0);
            multiply(j, &it);
            for (int64_t r = 0; r < it.n; r++)
                fold_row(j, it.row0 + r, it.v0, it.v1 - it.v0, it.tile + r * j->ldc, it.n * j->ldc,
                         folds + (it.row0 + r) * j->k, best + (it.row0 + r) * j->k * j->most);
        }
    }
    return QSAE_OK;
}

/* f <- f with the columns of g, which come after those of f. f0, g0: maximum of participant 0
 * there. */
static void merge(struct fold *f, const struct fold *g, float f0, float g0)
{
    const float m = g->max > f->max ? g->max : f->max, m0 = g0 > f0 ? g0 : f0;
    f->over = move_over(f->over, f->sum, f->max, m) + move_over(g->over, g->sum, g->max, m);
    f->sum = f->sum * rescale(f->max, m) + g->sum * rescale(g->max, m);
    f->diff = f->diff * rescale(f0, m0) + g->diff * rescale(g0, m0);
    if (g->max > f->max)
        f->top = g->top;
    f->max = m;
}

/* NaN stays. */
static double not_below_0(double x)
{
    return x < 0 ? 0 : x;
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
    qsae__best *const best = j->best + row * j->k * j->most;
    for (int64_t g = 1; g < j->groups && j->most; g++)
        for (int64_t p = 0; p < j->k; p++)
            qsae__best_merge(best + p * j->most,
                             j->best + ((g * j->rows + row) * j->k + p) * j->most, j->most);
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
        if (j->p[p].entropy) /* rounding can leave a certain prediction a little below 0 */
            j->p[p].entropy[row] = (float)not_below_0(log(f[p].sum) - f[p].over / f[p].sum);
        if (j->p[p].overlap)
            j->p[p].overlap[row] = qsae__best_overlap(best, best + p * j->most, j->most);
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
        if (p[i].model->config->vocab != p[0].model->config->vocab)
            return qsae__fail(QSAE_EMISMATCH,
                              "heads of %" PRId64 " and %" PRId64 " rows cannot be compared",
                              p[0].model->config->vocab, p[i].model->config->vocab);
    }
    for (int64_t i = 0; i < k; i++)
        if (p[i].overlap && (p[i].overlap_k < 1 || p[i].overlap_k > QSAE__OVERLAP_MOST ||
                             p[i].overlap_k != p[k - 1].overlap_k))
            return qsae__fail(QSAE_EINVAL, "overlap_k: expected 1..%d, the same of all, found "
                              "%" PRId64, QSAE__OVERLAP_MOST, p[i].overlap_k);
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

/*
 * Shapes of tiles and items. The columns of a tile depend on the width of participant 0 alone: sums
 * are rounded where tiles end, and must come out alike whoever takes part. Up to width 2560 a piece
 * of a packed weight is at most 1.3 MiB, which a level-2 cache can hold. All rows of a packed job
 * are one item unless that leaves threads idle.
 */
static void choose_shapes(struct head_job *j)
{
    j->groups = qsae__ceil_div(j->vocab, GROUP);
    j->tile = j->width <= 640 ? 512 : j->width <= 2560 ? 256 : 128;
    j->ldc = j->tile + PAD;
    for (int64_t i = 0; i < j->k; i++) {
        j->widest = qsae__max_i64(j->widest, j->p[i].model->config->width);
        j->sums = j->sums || j->p[i].nll || j->p[i].kl || j->p[i].entropy;
        j->entropy = j->entropy || j->p[i].entropy;
        j->most = j->p[i].overlap ? j->p[i].overlap_k : j->most;
        j->kl = j->kl || (i > 0 && j->p[i].kl);
        j->panels = j->panels || !j->p[i].model->head_packed;
    }
    if (j->panels) {
        j->block = qsae__max_i64(1, qsae__min_i64(MAX_BLOCK, STACKED_ROWS / j->k));
        j->block = qsae__min_i64(j->rows, j->block / QSAE__STRIP * QSAE__STRIP);
        j->item_rows = j->block = qsae__max_i64(j->block, 1);
        return;
    }
    j->block = j->k > 2 ? STRIPS_ROWS / 2 : STRIPS_ROWS;
    const int64_t blocks = qsae__ceil_div(j->rows, j->block), threads = j->ctx->threads;
    const int64_t cuts = threads > 1 ? qsae__ceil_div(4 * threads, j->groups) : 1;
    j->item_rows = qsae__ceil_div(blocks, qsae__min_i64(cuts, blocks)) * j->block;
}

static int32_t allocate(struct head_job *j)
{
    int64_t cells, best, stacked = 0;
    size_t strips = 0;
    if (!qsae__mul_i64(j->rows, j->k, &cells) || !qsae__mul_i64(cells, j->groups, &cells) ||
        !qsae__mul_i64(cells, j->most, &best) ||
        !qsae__mul_i64(j->k * j->block, j->widest, &stacked))
        return qsae__fail(QSAE_EOVERFLOW, "%" PRId64 " rows are too many", j->rows);
    j->left = qsae__calloc(j->ctx, j->k, sizeof *j->left);
    if (!j->left)
        return QSAE_ENOMEM;
    for (int64_t i = 0; i < j->k; i++) {
        const qsae_model *const m = j->p[i].model;
        size_t bytes;
        if (!m->head_packed)
            continue;
        const int32_t st =
            qsae__left_size(j->rows, m->config->width, 2, m->head_parts, &j->left[i], &bytes);
        if (st != QSAE_OK)
            return st;
        if (!qsae__add_size(strips, bytes, &strips))
            return qsae__fail(QSAE_EOVERFLOW, "%" PRId64 " rows are too many", j->rows);
    }
    j->floats = j->k * j->block * j->ldc;
    if (j->panels)
        j->floats += QSAE__GEMM_SCRATCH + (j->k > 1 ? stacked : 0);
    j->floats = qsae__ceil_div(j->floats, 16) * 16;
    j->order = qsae__alloc_array(j->ctx, j->k, sizeof *j->order);
    j->folds = qsae__alloc_array(j->ctx, cells, sizeof *j->folds);
    j->label = qsae__alloc_array(j->ctx, j->rows * j->k, sizeof *j->label);
    j->scratch = qsae__alloc_array(j->ctx, j->floats * j->ctx->threads, sizeof *j->scratch);
    j->strips = qsae__alloc(j->ctx, strips);
    j->best = qsae__alloc_array(j->ctx, best, sizeof *j->best);
    return j->order && j->folds && j->label && j->scratch && j->strips && j->best ? QSAE_OK
                                                                                  : QSAE_ENOMEM;
}

static int32_t pack_rows(struct head_job *j)
{
    uint8_t *at = j->strips;
    for (int64_t i = 0; i < j->k; i++) {
        qsae__left *const left = &j->left[i];
        if (!j->p[i].model->head_packed)
            continue;
        const int64_t width = j->p[i].model->config->width;
        const int32_t st =
            qsae__left_pack(j->ctx, left, at, QSAE_F32, j->p[i].final, width, width);
        if (st != QSAE_OK)
            return st;
        at += qsae__ceil_div(j->rows, QSAE__STRIP) * left->strip;
    }
    return QSAE_OK;
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
        .nn = qsae__nn_get(ctx),
        .kernel = qsae__packed_get(ctx),
        .p = participants,
        .labels = labels,
        .cancel = cancel,
        .rows = rows,
        .k = k,
        .width = participants[0].model->config->width,
        .vocab = participants[0].model->config->vocab,
    };
    choose_shapes(&j);
    st = allocate(&j);
    if (st == QSAE_OK) {
        const qsae__fpenv env = qsae__fpenv_enter();
        sort_participants(&j);
        st = pack_rows(&j);
        if (st == QSAE_OK)
            st = qsae__parallel(ctx, qsae__ceil_div(rows, j.item_rows) * j.groups, head_item, &j);
        if (st == QSAE_OK)
            st = qsae__parallel(ctx, qsae__ceil_div(rows, 32), finish_tile, &j);
        qsae__fpenv_leave(env);
    }
    qsae__free(ctx, j.order);
    qsae__free(ctx, j.folds);
    qsae__free(ctx, j.label);
    qsae__free(ctx, j.best);
    qsae__free(ctx, j.scratch);
    qsae__free(ctx, j.strips);
    qsae__free(ctx, j.left);
    return st;
}
