/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A product is cut into items: a block of rows times a block of columns of one right operand (two
 * with pair), all of k. An item goes through k in slabs that fit the caches, its sums staying in
 * the worker's scratch, and is then finished. A right operand that is packed on the way meets all
 * rows of a slab at once (up to ALL_ROWS), so that it is decoded once.
 */
#include "kernels/product.h"

#include <string.h>

#define ALL_ROWS 2048                /* of an item whose weight is packed on the way */
#define CELLS (ALL_ROWS * 256)       /* sums of an item, both of a pair */
#define MIN_COLUMNS 64
#define PAD 16                       /* columns: rows of a tile do not meet in one cache set */
#define START 2048                   /* int32: where int8 sums start; the most columns of an item */
#define BLOCK ((int64_t)1 << 20)     /* bytes of W packed on the way */

struct run {
    const qsae__product *p;
    const qsae__packed_kernel *kernel;
    int64_t slab;                    /* steps, evenly cut */
    int64_t rows, columns;           /* of an item */
    int64_t row_blocks;
    int64_t worker_bytes;
};

static int64_t width(const qsae__right *r)
{
    return r->packed ? r->packed->n : r->rows->n;
}

static size_t worker_bytes(void)
{
    return (size_t)(CELLS + 2 * ALL_ROWS * PAD) * 4 + START * 4 + (size_t)BLOCK;
}

size_t qsae__product_scratch(const qsae_context *ctx)
{
    return (size_t)ctx->threads * worker_bytes();
}

/* Cuts the item's share of worker scratch. */
struct scratch {
    uint8_t *c;
    int32_t *start;
    uint8_t *block;
};

static struct scratch scratch_of(const struct run *r, int32_t worker)
{
    uint8_t *const at = r->p->scratch + worker * r->worker_bytes;
    const size_t cells = (size_t)(CELLS + 2 * ALL_ROWS * PAD) * 4;
    return (struct scratch){ at, (int32_t *)(void *)(at + cells), at + cells + START * 4 };
}

/* Right operand `right`, columns n0..n1, steps t0..t0+steps; packs them to the block if needed. */
static const uint8_t *right_block(const struct run *r, const qsae__right *right, int64_t n0,
                                  int64_t n1, int64_t t0, int64_t steps, uint8_t *block,
                                  int64_t *panel)
{
    if (right->packed) {
        *panel = right->packed->panel;
        return right->packed->data + n0 / QSAE__COLUMNS * *panel + t0 * QSAE__PANEL_STEP;
    }
    *panel = steps * QSAE__PANEL_STEP;
    for (int64_t n = n0; n < n1; n += QSAE__COLUMNS)
        qsae__pack_block(r->kernel->pack, right->rows, n, qsae__min_i64(QSAE__COLUMNS, n1 - n), t0,
                         steps, block + (n - n0) / QSAE__COLUMNS * *panel);
    return block;
}

/* c[m1 - m0, ldc] = left rows times columns n0..n1 of one right operand. */
static void multiply(const struct run *r, const qsae__right *right, const qsae__tile *t,
                     const struct scratch *s, void *c)
{
    const qsae__left *const left = r->p->left;
    qsae__packed_product q = { .m = t->m1 - t->m0, .n = t->n1 - t->n0, .parts = left->parts,
                               .a_strip = left->strip, .a_part = left->part, .c = c,
                               .ldc = t->ldc };
    if (r->p->s8 && r->kernel->flipped) {
        for (int64_t n = t->n0; n < t->n1; n++)
            s->start[n - t->n0] = (int32_t)(-128u * (uint32_t)right->packed->sum[n]);
        q.start = s->start;
    }
    for (int64_t t0 = 0; t0 < left->steps; t0 += r->slab) {
        q.steps = qsae__min_i64(r->slab, left->steps - t0);
        q.add = t0 > 0;
        q.more = right->packed && t0 + r->slab < left->steps;
        q.a = left->data + t->m0 / QSAE__STRIP * left->strip + t0 * QSAE__STRIP_STEP;
        q.w = right_block(r, right, t->n0, t->n1, t0, q.steps, s->block, &q.w_panel);
        (r->p->s8 ? r->kernel->s8 : r->kernel->bf16)(&q);
    }
}

static int32_t run_item(void *arg, int64_t item, int32_t worker)
{
    const struct run *const r = arg;
    const qsae__product *const p = r->p;
    const struct scratch s = scratch_of(r, worker);
    int64_t block = item / r->row_blocks;
    qsae__tile t = { .worker = worker, .ldc = r->columns + PAD };
    for (;; t.index++) { /* column blocks of the right operands in turn */
        const int64_t blocks = qsae__ceil_div(width(&p->right[t.index]), r->columns);
        if (block < blocks)
            break;
        block -= blocks;
    }
    t.n0 = block * r->columns;
    t.n1 = qsae__min_i64(width(&p->right[t.index]), t.n0 + r->columns);
    t.m0 = item % r->row_blocks * r->rows;
    t.m1 = qsae__min_i64(p->left->rows, t.m0 + r->rows);
    t.c = s.c;
    if (p->y && !p->pair && r->slab >= p->left->steps) {
        t.c = p->y[t.index] + t.m0 * p->ldy[t.index] + t.n0;
        t.ldc = p->ldy[t.index];
    }
    multiply(r, &p->right[t.index], &t, &s, t.c);
    if (p->pair) {
        t.c2 = s.c + (size_t)(r->rows * t.ldc) * 4;
        multiply(r, &p->right[1], &t, &s, t.c2);
    }
    return p->finish(p->self, &t);
}

/* Blocks that fit the caches, then smaller ones until every thread has some; the choice changes no
 * bit. */
static int64_t cut(struct run *r, const qsae_context *ctx)
{
    const qsae__product *const p = r->p;
    const int64_t lists = p->pair ? 1 : p->n_right, steps = p->left->steps, m = p->left->rows;
    bool packed = true;
    const int64_t slab = p->s8 ? r->kernel->slab_s8 : r->kernel->slab;
    const int64_t piece = p->s8 ? r->kernel->block_s8 : r->kernel->block;
    r->slab = qsae__ceil_div(steps, qsae__max_i64(1, qsae__ceil_div(steps, slab)));
    if (p->left->parts > 1)
        r->slab = qsae__ceil_div(r->slab, QSAE__PARTS_BLOCK) * QSAE__PARTS_BLOCK;
    for (int64_t i = 0; i < p->n_right; i++)
        packed = packed && p->right[i].packed;
    const int64_t tile = r->kernel->tile;
    r->rows = qsae__min_i64(packed ? tile : ALL_ROWS, qsae__ceil_div(m, 32) * 32);
    r->columns = qsae__min_i64(piece, BLOCK) / (r->slab * QSAE__STEP);
    const int64_t most = qsae__min_i64(tile, CELLS / r->rows);
    r->columns = qsae__min_i64(r->columns, most / (p->pair ? 2 : 1));
    r->columns = qsae__min_i64(r->columns, START) / QSAE__COLUMNS * QSAE__COLUMNS;
    r->columns = qsae__max_i64(r->columns, QSAE__COLUMNS);
    for (;;) {
        int64_t items = 0;
        r->row_blocks = qsae__ceil_div(m, r->rows);
        for (int64_t i = 0; i < lists; i++)
            items += qsae__ceil_div(width(&p->right[i]), r->columns) * r->row_blocks;
        if (ctx->threads == 1 || items >= 4 * ctx->threads)
            return items;
        if (packed && r->rows > 128)
            r->rows = qsae__ceil_div(r->rows / 2, 32) * 32;
        else if (r->columns > MIN_COLUMNS)
            r->columns = qsae__ceil_div(r->columns / 2, QSAE__COLUMNS) * QSAE__COLUMNS;
        else
            return items;
    }
}

int32_t qsae__product_run(qsae_context *ctx, const qsae__product *p)
{
    struct run r = { .p = p, .kernel = qsae__packed_get(ctx),
                     .worker_bytes = (int64_t)worker_bytes() };
    if (p->left->rows < 1 || p->n_right < 1)
        return QSAE_OK;
    return qsae__parallel(ctx, cut(&r, ctx), run_item, &r);
}
