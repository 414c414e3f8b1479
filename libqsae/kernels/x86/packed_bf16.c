/* SPDX-License-Identifier: BSD-2-Clause */
/* bf16 product for AVX-512 BF16: 8 x 32 accumulators, half a strip by a panel. For a pair of k
 * eight broadcasts and two loads feed 16 VDPBF16PS; CPUs do as many loads a cycle as products. */
#include <immintrin.h>
#include <string.h>

#include "kernels/packed_parts.h"

#define MR (QSAE__STRIP / 2)
#define HALF (MR * QSAE__STEP) /* bytes from row 0 to row 8 of a step of a strip */
#define PAIRS (QSAE__STEP / 4)
#define LINE 64                          /* bytes of a cache line */
#define PIECES (QSAE__PANEL_STEP / LINE) /* micro products that fetch a panel's slab */

#define INLINE static inline __attribute__((always_inline))

/* The elements one micro product computes: rows <= MR, two vectors of columns under masks. */
typedef struct tile {
    float *c;
    int64_t ldc;
    int rows;
    __mmask16 m0, m1;
} tile;

INLINE void clear(__m512 acc[MR][2])
{
#pragma GCC unroll 8
    for (int r = 0; r < MR; r++)
        acc[r][0] = acc[r][1] = _mm512_setzero_ps();
}

INLINE void load(__m512 acc[MR][2], const tile *t)
{
#pragma GCC unroll 8
    for (int r = 0; r < MR; r++) {
        const bool in = r < t->rows;
        const float *c = t->c + (in ? r : 0) * t->ldc;
        acc[r][0] = _mm512_maskz_loadu_ps(in ? t->m0 : 0, c);
        acc[r][1] = _mm512_maskz_loadu_ps(in ? t->m1 : 0, c + 16);
    }
}

INLINE void store(__m512 acc[MR][2], const tile *t, const bool add)
{
#pragma GCC unroll 8
    for (int r = 0; r < MR; r++) {
        const bool in = r < t->rows;
        const __mmask16 m0 = in ? t->m0 : 0, m1 = in ? t->m1 : 0;
        float *c = t->c + (in ? r : 0) * t->ldc;
        if (add) {
            acc[r][0] = _mm512_add_ps(_mm512_maskz_loadu_ps(m0, c), acc[r][0]);
            acc[r][1] = _mm512_add_ps(_mm512_maskz_loadu_ps(m1, c + 16), acc[r][1]);
        }
        _mm512_mask_storeu_ps(c, m0, acc[r][0]);
        _mm512_mask_storeu_ps(c + 16, m1, acc[r][1]);
    }
}

/* Addresses that a micro product fetches for later ones, a line of each operand per step; with
 * stride 0 one line again and again. */
typedef struct ahead {
    uintptr_t a, w;
    int64_t a_stride, w_stride;
} ahead;

/* acc += the products of `steps` steps; a: row 0 of the half. */
INLINE void multiply(__m512 acc[MR][2], int64_t steps, const uint8_t *a, const uint8_t *w,
                     ahead f)
{
    for (int64_t t = 0; t < steps; t++) {
        _mm_prefetch((const char *)f.a, _MM_HINT_T0);
        _mm_prefetch((const char *)f.w, _MM_HINT_T1);
        f.a += (uintptr_t)f.a_stride;
        f.w += (uintptr_t)f.w_stride;
        for (int g = 0; g < PAIRS; g++) {
            const __m512bh w0 = (__m512bh)_mm512_load_si512((const void *)w);
            const __m512bh w1 = (__m512bh)_mm512_load_si512((const void *)(w + 64));
            w += 4 * QSAE__COLUMNS;
#pragma GCC unroll 8
            for (int r = 0; r < MR; r++) {
                int32_t pair;
                memcpy(&pair, a + r * QSAE__STEP + g * 4, sizeof pair);
                const __m512bh v = (__m512bh)_mm512_set1_epi32(pair);
                acc[r][0] = _mm512_dpbf16_ps(acc[r][0], v, w0);
                acc[r][1] = _mm512_dpbf16_ps(acc[r][1], v, w1);
            }
        }
        a += QSAE__STRIP_STEP;
    }
}

/* One chain that continues from c. */
static void chain(const qsae__packed_product *p, const uint8_t *a, const uint8_t *w, const tile *t,
                  const ahead *f)
{
    __m512 acc[MR][2];
    if (p->add)
        load(acc, t);
    else
        clear(acc);
    multiply(acc, p->steps, a, w, *f);
    store(acc, t, false);
}

/* Blocks of k from zero, the smallest parts first, so that what they round is nothing beside the
 * rounding of the first part; block sums are added to c. */
static void blocks(const qsae__packed_product *p, const uint8_t *a, const uint8_t *w, const tile *t,
                  const ahead *f)
{
    for (int64_t s = 0; s < p->steps; s += QSAE__PARTS_BLOCK) {
        const int64_t steps = qsae__min_i64(p->steps - s, QSAE__PARTS_BLOCK);
        __m512 acc[MR][2];
        clear(acc);
        for (int32_t part = p->parts - 1; part >= 0; part--) {
            const ahead now = { f->a + (uintptr_t)(part * p->a_part + s * f->a_stride),
                                f->w + (uintptr_t)(s * f->w_stride), f->a_stride,
                                part == 0 ? f->w_stride : 0 };
            multiply(acc, steps, a + part * p->a_part + s * QSAE__STRIP_STEP,
                     w + s * QSAE__PANEL_STEP, now);
        }
        if (p->add || s > 0)
            store(acc, t, true);
        else
            store(acc, t, false);
    }
}

/* For micro product `micro` of strip s: its share of the next strip, which is needed soon, and of
 * the panels' next slab. A strip has 16 lines a step and 2 micro products a panel, panels have 32
 * lines a step, so that 256 x 256 elements fetch all of both. */
static ahead ahead_of(const qsae__packed_product *p, int64_t s, int64_t micro)
{
    const int64_t strips = qsae__ceil_div(p->m, QSAE__STRIP);
    const int64_t panels = qsae__ceil_div(p->n, QSAE__COLUMNS), share = p->steps * LINE;
    const uintptr_t a = (uintptr_t)p->a, w = (uintptr_t)p->w;
    ahead f = { a, w, 0, 0 };
    if (micro < QSAE__STRIP && (s + 1 < strips || p->more)) {
        f.a += (uintptr_t)(s + 1 < strips ? (s + 1) * p->a_strip : p->steps * QSAE__STRIP_STEP);
        f.a += (uintptr_t)(micro * share);
        f.a_stride = LINE;
    }
    const int64_t piece = s * 2 * panels + micro;
    if (p->more && piece < panels * PIECES) {
        f.w += (uintptr_t)(piece / PIECES * p->w_panel + p->steps * QSAE__PANEL_STEP +
                           piece % PIECES * share);
        f.w_stride = LINE;
    }
    return f;
}

static void strip_panel(const qsae__packed_product *p, int64_t i, int64_t j)
{
    const uint8_t *a = p->a + i / QSAE__STRIP * p->a_strip;
    const uint8_t *w = p->w + j / QSAE__COLUMNS * p->w_panel;
    const int64_t columns = p->n - j;
    const uint32_t mask = columns >= QSAE__COLUMNS ? 0xffffffffu : (1u << columns) - 1;
    for (int64_t h = 0; h < QSAE__STRIP && i + h < p->m; h += MR) {
        const tile t = {
            .c = (float *)p->c + (i + h) * p->ldc + j,
            .ldc = p->ldc,
            .rows = (int)qsae__min_i64(p->m - i - h, MR),
            .m0 = (__mmask16)mask,
            .m1 = (__mmask16)(mask >> 16),
        };
        const ahead f = ahead_of(p, i / QSAE__STRIP, j / QSAE__COLUMNS * 2 + h / MR);
        if (p->parts == 1)
            chain(p, a + h / MR * HALF, w, &t, &f);
        else
            blocks(p, a + h / MR * HALF, w, &t, &f);
    }
}

/* A strip stays in L1 while the panels' slab passes from L2. */
void qsae__packed_bf16_dp(const qsae__packed_product *p)
{
    for (int64_t i = 0; i < p->m; i += QSAE__STRIP)
        for (int64_t j = 0; j < p->n; j += QSAE__COLUMNS)
            strip_panel(p, i, j);
}
