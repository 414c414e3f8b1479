/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Body of a level's int8 product (packed.h). The including file defines
 *   KERNEL                   the function's name
 *   vec, WIDTH               a register of int32 sums and how many it holds
 *   ROWS                     rows of a register block, a divisor of QSAE__STRIP
 *   WIDE                     bytes of a left code as multiply_add reads it: 1 in the strip itself,
 *                            2 in a copy where a row's step is its half 0 and then its half 1
 *   load_right(p, half)      WIDTH columns of four codes, or (WIDE 2) half 0, the first and third
 *                            of each four, or half 1, the second and fourth, as int16
 *   multiply_add(c, a, w)    c and each column's products of w with four bytes of a left row, a
 *   spread                   four bytes to every column
 *   zero, add32, load32, store32
 * Sums are exact, so what c or start hold is added at the end of a block, when it has arrived.
 */
#include <string.h>

#include "kernels/packed.h"
#include "kernels/packed_parts.h"

#define GROUPS 16                    /* of a step */
#define GROUP (QSAE__COLUMNS * 4)    /* bytes of a group of a panel */
#define LEFT_ROW (QSAE__STEP * WIDE) /* bytes of a step of a row */
#define LEFT_STEP (QSAE__STRIP * LEFT_ROW)
#define PAIR (2 * WIDTH)             /* columns of a register block */

#if WIDE == 2
#define CHUNK 8                      /* steps of which a strip is widened at once: 16 KiB */
#else
#define CHUNK INT64_MAX
#endif

/* A register block: where its sums go. */
struct block {
    int32_t *c;
    int64_t ldc;
    int64_t rows, columns;           /* to be stored, at most ROWS and PAIR */
    const int32_t *start;            /* of these columns, or NULL */
    bool add;
};

/* The first n of WIDTH numbers, the rest zero; n may be out of range. */
INLINE vec load_first(const int32_t *p, int64_t n)
{
    int32_t t[WIDTH] = { 0 };
    if (n >= WIDTH)
        return load32(p);
    if (n > 0)
        memcpy(t, p, (size_t)n * sizeof *p);
    return load32(t);
}

INLINE void store_first(int32_t *p, int64_t n, vec v)
{
    int32_t t[WIDTH];
    if (n >= WIDTH) {
        store32(p, v);
    } else if (n > 0) {
        store32(t, v);
        memcpy(p, t, (size_t)n * sizeof *p);
    }
}

/* What the sums of row r start from. */
INLINE vec base(const struct block *b, int64_t r, int64_t column)
{
    if (b->add)
        return load_first(b->c + r * b->ldc + column, b->columns - column);
    if (b->start)
        return load_first(b->start + column, b->columns - column);
    return zero();
}

static void finish_part(const struct block *b, vec sum[ROWS][2])
{
    for (int64_t r = 0; r < b->rows; r++)
        for (int v = 0; v < 2; v++)
            store_first(b->c + r * b->ldc + v * WIDTH, b->columns - v * WIDTH,
                        add32(sum[r][v], base(b, r, v * WIDTH)));
}

INLINE void finish(const struct block *b, vec sum[ROWS][2])
{
    const bool start = b->start && !b->add;
    const vec s0 = start ? load32(b->start) : zero();
    const vec s1 = start ? load32(b->start + WIDTH) : zero();
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) {
        int32_t *c = b->c + r * b->ldc;
        store32(c, add32(sum[r][0], b->add ? load32(c) : s0));
        store32(c + WIDTH, add32(sum[r][1], b->add ? load32(c + WIDTH) : s1));
    }
}

/* ROWS x PAIR sums over `steps` steps of `a` (rows LEFT_ROW bytes apart) and w. next: a strip's
 * worth of memory that is needed soon. */
static void compute(int64_t steps, const uint8_t *a, const uint8_t *w, const uint8_t *next,
                    const struct block *b)
{
    vec sum[ROWS][2];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
        sum[r][0] = sum[r][1] = zero();
    if (b->add)
        for (int64_t r = 0; r < b->rows; r++)
            for (int64_t j = 0; j < b->columns; j += 16)
                __builtin_prefetch(b->c + r * b->ldc + j, 1);
    for (int64_t t = 0; t < steps; t++) {
        for (int g = 0; g < GROUPS; g++) {
#pragma GCC unroll 2
            for (int half = 0; half < WIDE; half++) {
                const uint8_t *left = a + half * QSAE__STEP + g * 4;
                const vec w0 = load_right(w, half), w1 = load_right(w + sizeof(vec), half);
#pragma GCC unroll 8
                for (int r = 0; r < ROWS; r++) {
                    const vec v = spread(left + r * LEFT_ROW);
                    sum[r][0] = multiply_add(sum[r][0], v, w0);
                    sum[r][1] = multiply_add(sum[r][1], v, w1);
                }
            }
            w += GROUP;
            __builtin_prefetch(next + g * 64);
        }
        next += GROUPS * 64;
        a += LEFT_STEP;
    }
    if (b->rows == ROWS && b->columns == PAIR) {
        finish(b, sum);
        return;
    }
    /* A copy: sum, whose address nobody takes, stays in registers. */
    vec part[ROWS][2];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) {
        part[r][0] = sum[r][0];
        part[r][1] = sum[r][1];
    }
    finish_part(b, part);
}

#if WIDE == 2
/* steps of a strip to rows of 64 bytes half 0, 64 bytes half 1. */
static void widen(int64_t steps, const uint8_t *strip, uint8_t *wide)
{
    for (int64_t i = 0; i < steps * QSAE__STRIP; i++)
        for (size_t v = 0; v < QSAE__STEP; v += sizeof(vec))
            for (int half = 0; half < 2; half++) {
                const vec x = load_right(strip + i * QSAE__STEP + v, half);
                memcpy(wide + i * LEFT_ROW + half * QSAE__STEP + v, &x, sizeof x);
            }
}
#endif

/* `steps` steps of one strip, from step t0, against all panels. */
static void strip_product(const qsae__packed_product *p, int64_t i0, int64_t t0, int64_t steps)
{
    const uint8_t *a = p->a + i0 / QSAE__STRIP * p->a_strip + t0 * QSAE__STRIP_STEP;
    const uint8_t *following = i0 + QSAE__STRIP < p->m ? a + p->a_strip : a;
#if WIDE == 2
    uint8_t wide[CHUNK * LEFT_STEP] __attribute__((aligned(64)));
    widen(steps, a, wide);
    a = wide;
#endif
    const int64_t rows = qsae__min_i64(p->m - i0, QSAE__STRIP);
    for (int64_t j = 0; j < p->n; j += PAIR) {
        const uint8_t *w = p->w + j / QSAE__COLUMNS * p->w_panel + t0 * QSAE__PANEL_STEP +
                           j % QSAE__COLUMNS * 4;
        for (int64_t r = 0; r < rows; r += ROWS) {
            const struct block b = {
                .c = (int32_t *)p->c + (i0 + r) * p->ldc + j, .ldc = p->ldc,
                .rows = qsae__min_i64(rows - r, ROWS), .columns = qsae__min_i64(p->n - j, PAIR),
                .start = p->start ? p->start + j : NULL, .add = p->add || t0 > 0,
            };
            compute(steps, a + r * LEFT_ROW, w, j + PAIR < p->n ? w : following, &b);
        }
    }
}

void KERNEL(const qsae__packed_product *p)
{
    /* equal chunks: a last short one would cost as much per block as a long one */
    const int64_t chunks = qsae__max_i64(1, p->steps / CHUNK + (p->steps % CHUNK != 0));
    const int64_t chunk = p->steps / chunks + (p->steps % chunks != 0);
    int64_t t = 0;
    do {
        const int64_t steps = qsae__min_i64(chunk, p->steps - t);
        for (int64_t i = 0; i < p->m; i += QSAE__STRIP)
            strip_product(p, i, t, steps);
        t += steps;
    } while (t < p->steps);
}
