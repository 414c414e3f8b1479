/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Products on AMX tiles: 32 x 32 of c at a time in tiles 0 to 3, a step of two strips in tiles 4
 * and 5, of a panel in 6 and 7. Strip pairs are the outer loop: the pair's slab stays in the first
 * cache, the panels stream from the second. A TDP takes 16 cycles, its result 52, so four
 * accumulators keep the unit busy; a tile is loaded 8 cycles long, so four loads a step hide behind
 * the four TDPs if their lines are near. Hence a step also fetches
 *   - AHEAD steps of the panel to come, to the first cache,
 *   - a share of the next strip pair and, with `more`, of the next slab of W, to the second: both
 *     come from the third cache or memory, evenly instead of in bursts,
 *   - some rows of the next block of c.
 * The loads of a step stand behind the last use of the tiles in the step before, also from a
 * panel's last step to the next panel's first, so that storing c does not hold up the next loads.
 *
 * Tile instructions are written as assembly: intrinsics of gcc 12 do not tell the compiler that
 * they read memory, so that it drops stores in front of them. Tile registers belong to this file
 * alone; no compiler uses them by itself. The operands were written before configure(), which is a
 * barrier for the compiler; what is written between it and release() (`tails`) is fenced below.
 */
#include <string.h>

#include "kernels/packed_parts.h"

#define INLINE static inline __attribute__((always_inline))

#define AHEAD 4                              /* steps */
#define LINE 64
#define HALF (QSAE__COLUMNS / 2 * 4)         /* bytes from a panel's left tile to its right one */
#define W_STRIDE (QSAE__COLUMNS * 4)
#define LINES (QSAE__PANEL_STEP / LINE)      /* of a step of a panel or of two strips */

#define LOAD(tile, base, stride) \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile \
                     : : "r"(base), "r"((int64_t)(stride)))
#define STORE(tile, base, stride) \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" \
                     : : "r"(base), "r"((int64_t)(stride)) : "memory")
#define ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile : :)
/* c += a * w; s8 is a constant where this is used. */
#define TDP(c, a, w) \
    do { \
        if (s8) \
            __asm__ volatile("tdpbssd %%tmm" #w ", %%tmm" #a ", %%tmm" #c : :); \
        else \
            __asm__ volatile("tdpbf16ps %%tmm" #w ", %%tmm" #a ", %%tmm" #c : :); \
    } while (0)
#define FETCH(kind, p) __asm__ volatile("prefetch" #kind " %0" : : "m"(*(const char *)(p)))

/* LDTILECFG (Intel SDM volume 1, 18.3.2): palette 1, eight tiles of 16 rows of 64 bytes. Constant,
 * so there are no stores that could be taken for dead. */
static const struct config {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} whole_tiles = { 1, 0, { 0 }, { 64, 64, 64, 64, 64, 64, 64, 64 },
                  { 16, 16, 16, 16, 16, 16, 16, 16 } };

static void configure(void)
{
    __asm__ volatile("ldtilecfg %0" : : "m"(whole_tiles) : "memory");
}

static void release(void)
{
    __asm__ volatile("tilerelease" : : : "memory");
}

/* Lines a step fetches of what is needed later: `lines` from p on, then p goes a step further. */
typedef struct fetch {
    const uint8_t *p;
    int64_t lines;
} fetch;

/* Of the LINES lines of every step of an operand that n blocks fetch together, those of one block:
 * a power of two. */
INLINE int64_t share(int64_t n)
{
    int64_t lines = 1;
    while (lines * n < LINES)
        lines *= 2;
    return lines;
}

/* A strip pair, or a last strip alone, and one panel. */
typedef struct block {
    const qsae__packed_product *p;
    int64_t m, n;            /* rows <= 32 and columns <= 32 */
    const uint8_t *a, *w;
    const uint8_t *w_next;   /* where the block after this one begins */
    uint8_t *c;              /* first element */
    int64_t stride;          /* bytes of a row of c */
    const uint8_t *c_next;   /* of the block after this one; c_share of its c_rows rows are */
    int64_t c_rows, c_share; /* fetched at each step */
    fetch a_far, w_far;      /* to the second cache */
} block;

/* c of a block that is not whole: 32 rows of 32 elements. */
typedef struct tails {
    _Alignas(LINE) uint8_t c[2 * QSAE__STRIP * W_STRIDE];
} tails;

INLINE void load_c(const uint8_t *c, int64_t stride, bool two)
{
    __asm__ volatile("" : : : "memory"); /* what the compiler wrote is read below */
    LOAD(0, c, stride);
    LOAD(1, c + HALF, stride);
    if (two) {
        LOAD(2, c + QSAE__STRIP * stride, stride);
        LOAD(3, c + QSAE__STRIP * stride + HALF, stride);
    }
}

/* In the order in which the last step finishes them. */
INLINE void store_c(uint8_t *c, int64_t stride, bool two)
{
    STORE(0, c, stride);
    if (two)
        STORE(2, c + QSAE__STRIP * stride, stride);
    STORE(1, c + HALF, stride);
    if (two)
        STORE(3, c + QSAE__STRIP * stride + HALF, stride);
}

INLINE bool whole(const block *b, bool two)
{
    return b->n == QSAE__COLUMNS && b->m == (two ? 2 : 1) * QSAE__STRIP;
}

/* Tiles 0 to 3: c, start or zero. start points at the block's columns. */
INLINE void begin(const block *b, const int32_t *start, bool two, tails *t)
{
    if (b->p->add && whole(b, two)) {
        load_c(b->c, b->stride, two);
    } else if (b->p->add) {
        memset(t->c, 0, sizeof t->c);
        for (int64_t i = 0; i < b->m; i++)
            memcpy(t->c + i * W_STRIDE, b->c + i * b->stride, (size_t)b->n * 4);
        load_c(t->c, W_STRIDE, two);
    } else if (start) { /* every row of a tile from the same bytes */
        memset(t->c, 0, W_STRIDE);
        memcpy(t->c, start, (size_t)b->n * 4);
        __asm__ volatile("" : : : "memory");
        LOAD(0, t->c, 0);
        LOAD(1, t->c + HALF, 0);
        LOAD(2, t->c, 0);
        LOAD(3, t->c + HALF, 0);
    } else {
        ZERO(0);
        ZERO(1);
        ZERO(2);
        ZERO(3);
    }
}

INLINE void end(const block *b, bool two, tails *t)
{
    if (whole(b, two)) {
        store_c(b->c, b->stride, two);
        return;
    }
    store_c(t->c, W_STRIDE, two);
    for (int64_t i = 0; i < b->m; i++)
        memcpy(b->c + i * b->stride, t->c + i * W_STRIDE, (size_t)b->n * 4);
}

INLINE void fetch_eight(const uint8_t *p)
{
    FETCH(t0, p);
    FETCH(t0, p + LINE);
    FETCH(t0, p + 2 * LINE);
    FETCH(t0, p + 3 * LINE);
    FETCH(t0, p + 4 * LINE);
    FETCH(t0, p + 5 * LINE);
    FETCH(t0, p + 6 * LINE);
    FETCH(t0, p + 7 * LINE);
}

/* The TDPs of a step whose tiles are loaded, and the loads of the step after it at a_next and
 * w_next. Each tile of W serves two TDPs in a row. ahead: a step of W to fetch. */
INLINE void step(const qsae__packed_product *p, bool s8, bool two, const uint8_t *a_next,
                 const uint8_t *w_next, const uint8_t *ahead)
{
    TDP(0, 4, 6);
    fetch_eight(ahead);
    if (two)
        TDP(2, 5, 6);
    LOAD(6, w_next, W_STRIDE);
    fetch_eight(ahead + 8 * LINE);
    TDP(1, 4, 7);
    LOAD(4, a_next, QSAE__STEP);
    fetch_eight(ahead + 16 * LINE);
    if (two) {
        TDP(3, 5, 7);
        LOAD(5, a_next + p->a_strip, QSAE__STEP);
    }
    LOAD(7, w_next + HALF, W_STRIDE);
    fetch_eight(ahead + 24 * LINE);
}

static void far_lines(fetch *f, int64_t bytes)
{
#pragma GCC unroll 1
    for (int64_t i = 0; i < f->lines; i++)
        FETCH(t1, f->p + i * LINE);
    f->p += bytes;
}

/* What a step fetches of later blocks. Apart: its state would take registers from the steps. */
static __attribute__((noinline)) void fetch_far(block *b)
{
    far_lines(&b->a_far, QSAE__STRIP_STEP);
    far_lines(&b->w_far, QSAE__PANEL_STEP);
    const int64_t rows = qsae__min_i64(b->c_rows, b->c_share);
    const uint8_t *c = b->c_next;
    for (int64_t i = 0; i < rows; i++, c += b->stride) {
        FETCH(w, c);
        FETCH(w, c + LINE);
    }
    b->c_next = c;
    b->c_rows -= rows;
}

INLINE void multiply(block *b, bool s8, bool two)
{
    const int64_t steps = b->p->steps;
    const uint8_t *a = b->a, *w = b->w;
    const uint8_t *ahead = steps > AHEAD ? w + AHEAD * QSAE__PANEL_STEP : b->w_next;
    for (int64_t t = 0; t < steps; t++) {
        const bool last = t + 1 == steps;
        if (t + AHEAD == steps)
            ahead = b->w_next;
        step(b->p, s8, two, last ? b->a : a + QSAE__STRIP_STEP,
             last ? b->w_next : w + QSAE__PANEL_STEP, ahead);
        fetch_far(b);
        a += QSAE__STRIP_STEP;
        w += QSAE__PANEL_STEP;
        ahead += QSAE__PANEL_STEP;
    }
}

/* What the block in panel j fetches of the strips after s and s + 1: of the next ones, or with
 * `more` of the first ones' next slab. Of the lines of a step 16 belong to each strip. */
INLINE fetch far_strips(const qsae__packed_product *p, int64_t s, int64_t j, int64_t panels)
{
    const int64_t count = qsae__ceil_div(p->m, QSAE__STRIP), lines = share(panels);
    const int64_t take = qsae__min_i64(lines, QSAE__STRIP), strip = j * take / QSAE__STRIP;
    const bool wrap = s + 2 >= count;
    const int64_t first = wrap ? 0 : s + 2;
    if ((wrap && !p->more) || strip >= qsae__min_i64(count - first, 2))
        return (fetch){ p->a, 0 };
    return (fetch){ p->a + (first + strip) * p->a_strip + (wrap ? p->steps * QSAE__STRIP_STEP : 0) +
                        j * take % QSAE__STRIP * LINE, take };
}

/* The same of the next slab of the block's own panel, in strip pair `pair` of `pairs`. */
INLINE fetch far_panel(const qsae__packed_product *p, const uint8_t *w, int64_t pair, int64_t pairs)
{
    const int64_t lines = share(pairs);
    if (!p->more || pair * lines >= LINES)
        return (fetch){ w, 0 };
    return (fetch){ w + p->steps * QSAE__PANEL_STEP + pair * lines * LINE, lines };
}

/* Where the block after panel j of strips s and s + 1 lies in c. */
INLINE void next_c(block *b, int64_t left, bool last)
{
    const int64_t rows = last ? qsae__min_i64(left, 2 * QSAE__STRIP) : b->m;
    b->c_rows = rows;
    b->c_next = !last ? b->c + W_STRIDE : b->c;
    if (last && rows > 0)
        b->c_next = (uint8_t *)b->p->c + (b->p->m - left) * b->stride;
}

INLINE void first_tiles(const qsae__packed_product *p, bool two, const uint8_t *a, const uint8_t *w)
{
    LOAD(4, a, QSAE__STEP);
    LOAD(6, w, W_STRIDE);
    LOAD(7, w + HALF, W_STRIDE);
    if (two)
        LOAD(5, a + p->a_strip, QSAE__STEP);
}

/* Strips s and, with two, s + 1 times all panels. */
INLINE void strips(const qsae__packed_product *p, bool s8, bool two, int64_t s)
{
    const int64_t panels = qsae__ceil_div(p->n, QSAE__COLUMNS);
    const int64_t pairs = qsae__ceil_div(p->m, 2 * QSAE__STRIP), m0 = s * QSAE__STRIP;
    tails t;
    block b = { .p = p, .m = qsae__min_i64(p->m - m0, (two ? 2 : 1) * QSAE__STRIP),
                .a = p->a + s * p->a_strip, .stride = p->ldc * 4,
                .c_share = qsae__ceil_div(2 * QSAE__STRIP, p->steps) };
    first_tiles(p, two, b.a, p->w);
    for (int64_t j = 0; j < panels; j++) {
        const bool last = j + 1 == panels;
        b.w = p->w + j * p->w_panel;
        b.w_next = last ? p->w : b.w + p->w_panel;
        b.n = qsae__min_i64(p->n - j * QSAE__COLUMNS, QSAE__COLUMNS);
        b.c = (uint8_t *)p->c + m0 * b.stride + j * W_STRIDE;
        next_c(&b, p->m - m0 - b.m, last);
        b.a_far = far_strips(p, s, j, panels);
        b.w_far = far_panel(p, b.w, s / 2, pairs);
        begin(&b, s8 && p->start ? p->start + j * QSAE__COLUMNS : NULL, two, &t);
        multiply(&b, s8, two);
        end(&b, two, &t);
    }
}

/* Tiles 0 to 3 = the steps of one block of parts, the smallest parts first: what they round is then
 * nothing beside the rounding of the first part. The block of W stays in the first cache; while
 * part 2 passes, the block `next` is fetched. */
INLINE void parts_block(const qsae__packed_product *p, bool two, int64_t steps, const uint8_t *a,
                        const uint8_t *w, const uint8_t *next)
{
    ZERO(0);
    ZERO(1);
    ZERO(2);
    ZERO(3);
    first_tiles(p, two, a + (p->parts - 1) * p->a_part, w);
    for (int32_t part = p->parts - 1; part >= 0; part--) {
        const uint8_t *const rows = a + part * p->a_part;
        for (int64_t t = 0; t < steps; t++) {
            const bool last = t + 1 == steps;
            const uint8_t *const a_next = !last ? rows + (t + 1) * QSAE__STRIP_STEP
                                          : part > 0 ? rows - p->a_part : rows;
            step(p, false, two, a_next, last ? w : w + (t + 1) * QSAE__PANEL_STEP,
                 (part + 1 == p->parts ? next : w) + t * QSAE__PANEL_STEP);
        }
    }
}

/* Strips s and, with two, s + 1 in parts times all panels: block sums are added to c. */
INLINE void strips_in_parts(const qsae__packed_product *p, bool two, int64_t s)
{
    const int64_t panels = qsae__ceil_div(p->n, QSAE__COLUMNS), m0 = s * QSAE__STRIP;
    const int64_t m = qsae__min_i64(p->m - m0, (two ? 2 : 1) * QSAE__STRIP);
    tails t;
    for (int64_t j = 0; j < panels; j++) {
        const int64_t n = qsae__min_i64(p->n - j * QSAE__COLUMNS, QSAE__COLUMNS);
        float *const c = (float *)p->c + m0 * p->ldc + j * QSAE__COLUMNS;
        for (int64_t s0 = 0; s0 < p->steps; s0 += QSAE__PARTS_BLOCK) {
            const int64_t steps = qsae__min_i64(p->steps - s0, QSAE__PARTS_BLOCK);
            const uint8_t *const w = p->w + j * p->w_panel + s0 * QSAE__PANEL_STEP;
            const bool more = s0 + 2 * QSAE__PARTS_BLOCK <= p->steps;
            parts_block(p, two, steps, p->a + s * p->a_strip + s0 * QSAE__STRIP_STEP, w,
                        more ? w + QSAE__PARTS_BLOCK * QSAE__PANEL_STEP : w);
            store_c(t.c, W_STRIDE, two);
            for (int64_t i = 0; i < m; i++) {
                const float *const sum = (const float *)(const void *)(t.c + i * W_STRIDE);
                for (int64_t k = 0; k < n; k++)
                    c[i * p->ldc + k] = p->add || s0 > 0 ? c[i * p->ldc + k] + sum[k] : sum[k];
            }
        }
    }
}

INLINE void product(const qsae__packed_product *p, bool s8)
{
    const int64_t count = qsae__ceil_div(p->m, QSAE__STRIP);
    configure();
    for (int64_t s = 0; s + 1 < count; s += 2)
        strips(p, s8, true, s);
    if (count % 2)
        strips(p, s8, false, count - 1);
    release();
}

static void product_in_parts(const qsae__packed_product *p)
{
    const int64_t count = qsae__ceil_div(p->m, QSAE__STRIP);
    configure();
    for (int64_t s = 0; s + 1 < count; s += 2)
        strips_in_parts(p, true, s);
    if (count % 2)
        strips_in_parts(p, false, count - 1);
    release();
}

void qsae__packed_bf16_amx(const qsae__packed_product *p)
{
    if (p->parts > 1)
        product_in_parts(p);
    else
        product(p, false);
}

void qsae__packed_s8_amx(const qsae__packed_product *p)
{
    product(p, true);
}
