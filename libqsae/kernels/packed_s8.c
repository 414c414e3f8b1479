/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * int8 product in plain C: codes of a strip and a panel are widened to int16 along k, so that the
 * sums below become dot products of vectors (PMADDWD and its like) by the compiler's own hand.
 */
#include "kernels/packed_parts.h"

#define CHUNK 8                    /* steps widened at once */
#define MOST (CHUNK * QSAE__STEP)
#define ROWS 2                     /* of a register block */

/* rows [QSAE__STRIP, k] from a strip */
static void widen_strip(int64_t steps, const uint8_t *strip, int16_t *rows)
{
    const int64_t k = steps * QSAE__STEP;
    for (int64_t t = 0; t < steps; t++)
        for (int r = 0; r < QSAE__STRIP; r++) {
            const int8_t *src = (const int8_t *)strip + t * QSAE__STRIP_STEP + r * QSAE__STEP;
            for (int i = 0; i < QSAE__STEP; i++)
                rows[r * k + t * QSAE__STEP + i] = src[i];
        }
}

/* columns [QSAE__COLUMNS, k] from a panel */
static void widen_panel(int64_t steps, const uint8_t *panel, int16_t *columns)
{
    const int64_t k = steps * QSAE__STEP;
    for (int64_t g = 0; g < k / 4; g++)
        for (int j = 0; j < QSAE__COLUMNS; j++) {
            const int8_t *src = (const int8_t *)panel + (g * QSAE__COLUMNS + j) * 4;
            int16_t *dst = columns + j * k + g * 4;
            for (int i = 0; i < 4; i++)
                dst[i] = src[i];
        }
}

/* out[i][j] = a[i] . w[j], rows of k numbers, k a multiple of QSAE__STEP */
static void dots(int64_t k, const int16_t *a, const int16_t *w, int32_t out[ROWS][4])
{
    const int16_t *a0 = a, *a1 = a + k, *w0 = w, *w1 = w + k, *w2 = w + 2 * k, *w3 = w + 3 * k;
    int32_t s00 = 0, s01 = 0, s02 = 0, s03 = 0, s10 = 0, s11 = 0, s12 = 0, s13 = 0;
    for (int64_t i = 0; i < k; i++) {
        s00 += a0[i] * w0[i];
        s01 += a0[i] * w1[i];
        s02 += a0[i] * w2[i];
        s03 += a0[i] * w3[i];
        s10 += a1[i] * w0[i];
        s11 += a1[i] * w1[i];
        s12 += a1[i] * w2[i];
        s13 += a1[i] * w3[i];
    }
    out[0][0] = s00, out[0][1] = s01, out[0][2] = s02, out[0][3] = s03;
    out[1][0] = s10, out[1][1] = s11, out[1][2] = s12, out[1][3] = s13;
}

/* One strip (from row i0) against one panel (from column j0). */
static void cell(const qsae__packed_product *p, bool add, int64_t k, int64_t i0, int64_t j0,
                 const int16_t *rows, const int16_t *columns)
{
    const int64_t m = qsae__min_i64(p->m - i0, QSAE__STRIP);
    const int64_t n = qsae__min_i64(p->n - j0, QSAE__COLUMNS);
    for (int64_t i = 0; i < m; i += ROWS)
        for (int64_t j = 0; j < n; j += 4) {
            int32_t out[ROWS][4];
            dots(k, rows + i * k, columns + j * k, out);
            for (int64_t r = 0; r < ROWS && i + r < m; r++) {
                int32_t *c = (int32_t *)p->c + (i0 + i + r) * p->ldc + j0 + j;
                for (int64_t s = 0; s < 4 && j + s < n; s++) {
                    const int32_t start = p->start ? p->start[j0 + j + s] : 0;
                    /* may wrap on the way */
                    c[s] = (int32_t)((uint32_t)(add ? c[s] : start) + (uint32_t)out[r][s]);
                }
            }
        }
}

void qsae__packed_s8_c(const qsae__packed_product *p)
{
    int16_t rows[QSAE__STRIP * MOST], columns[QSAE__COLUMNS * MOST];
    int64_t t = 0;
    do {
        const int64_t steps = qsae__min_i64(CHUNK, p->steps - t), k = steps * QSAE__STEP;
        for (int64_t j = 0; j < p->n; j += QSAE__COLUMNS) {
            widen_panel(steps, p->w + j / QSAE__COLUMNS * p->w_panel + t * QSAE__PANEL_STEP,
                        columns);
            for (int64_t i = 0; i < p->m; i += QSAE__STRIP) {
                widen_strip(steps, p->a + i / QSAE__STRIP * p->a_strip + t * QSAE__STRIP_STEP,
                            rows);
                cell(p, p->add || t > 0, k, i, j, rows, columns);
            }
        }
        t += steps;
    } while (t < p->steps);
}
