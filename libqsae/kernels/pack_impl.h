/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Body of qsae__pack_ops at one level; PACK_OPS is the name of the table. The level's file defines
 * before, for one step (64 bytes of k):
 *   round_step(x, dst)         32 f32 to bf16
 *   split_step(x, dst, part)   32 f32 to three times 32 bf16, `part` bytes apart
 *   transpose_step(w, ld, dst) 16 rows of 16 dwords, ld bytes apart, to 16 groups of 16 columns,
 *                              128 bytes apart
 *   sum_codes(x, n)            sum of n int8
 */
#include <string.h>

#include "kernels/packed_parts.h"

#define VALUES (QSAE__STEP / 2) /* bf16 values of a step */
#define SIDE 16                 /* rows of one transposition */

static void pack_rows(int32_t dtype, const void *x, int64_t ldx, int64_t rows, int64_t k,
                      uint8_t *strip)
{
    const int64_t size = dtype == QSAE_F32 ? 4 : 2;
    for (int64_t t = 0; t * VALUES < k; t++) {
        const int64_t left = qsae__min_i64(k - t * VALUES, VALUES);
        uint8_t *dst = strip + t * QSAE__STRIP_STEP;
        for (int64_t r = 0; r < rows; r++, dst += QSAE__STEP) {
            const char *src = (const char *)x + (r * ldx + t * VALUES) * size;
            float near[VALUES];
            if (left < VALUES) {
                memset(near, 0, sizeof near);
                memcpy(near, src, (size_t)(left * size));
                src = (const char *)near;
            }
            if (dtype == QSAE_F32)
                round_step((const float *)(const void *)src, dst);
            else
                memcpy(dst, src, QSAE__STEP);
        }
        memset(dst, 0, (size_t)((QSAE__STRIP - rows) * QSAE__STEP));
    }
}

static void pack_split(const float *x, int64_t ldx, int64_t rows, int64_t k, uint8_t *strip,
                       int64_t part)
{
    for (int64_t t = 0; t * VALUES < k; t++) {
        const int64_t left = qsae__min_i64(k - t * VALUES, VALUES);
        uint8_t *dst = strip + t * QSAE__STRIP_STEP;
        for (int64_t r = 0; r < rows; r++, dst += QSAE__STEP) {
            const float *src = x + r * ldx + t * VALUES;
            float near[VALUES];
            if (left < VALUES) {
                memset(near, 0, sizeof near);
                memcpy(near, src, (size_t)left * sizeof(float));
                src = near;
            }
            split_step(src, dst, part);
        }
        for (int i = 0; i < 3; i++)
            memset(dst + i * part, 0, (size_t)((QSAE__STRIP - rows) * QSAE__STEP));
    }
}

/* columns rows of `bytes` bytes of k, ld bytes apart, to a panel. */
static void pack_columns(const uint8_t *w, int64_t ld, int64_t columns, int64_t bytes,
                         uint8_t *panel)
{
    uint8_t near[QSAE__COLUMNS * QSAE__STEP];
    for (int64_t at = 0; at < bytes; at += QSAE__STEP) {
        const int64_t left = qsae__min_i64(bytes - at, QSAE__STEP);
        const uint8_t *src = w + at;
        int64_t stride = ld;
        if (left < QSAE__STEP || columns < QSAE__COLUMNS) {
            memset(near, 0, sizeof near);
            for (int64_t j = 0; j < columns; j++)
                memcpy(near + j * QSAE__STEP, src + j * ld, (size_t)left);
            src = near;
            stride = QSAE__STEP;
        }
        transpose_step(src, stride, panel);
        transpose_step(src + SIDE * stride, stride, panel + SIDE * 4);
        panel += QSAE__PANEL_STEP;
    }
}

static void pack_panel(const uint16_t *w, int64_t ldw, int64_t columns, int64_t k, uint8_t *panel)
{
    pack_columns((const uint8_t *)w, 2 * ldw, columns, 2 * k, panel);
}

static void pack_rows_s8(const int8_t *x, int64_t ldx, int64_t rows, int64_t k, bool flip,
                         uint8_t *strip)
{
    const uint8_t mask = flip ? 0x80 : 0;
    for (int64_t at = 0; at < k; at += QSAE__STEP) {
        const int64_t left = qsae__min_i64(k - at, QSAE__STEP);
        uint8_t *dst = strip + at * QSAE__STRIP;
        for (int64_t r = 0; r < rows; r++, dst += QSAE__STEP) {
            const int8_t *src = x + r * ldx + at;
            int8_t near[QSAE__STEP];
            if (left < QSAE__STEP) {
                memset(near, 0, sizeof near);
                memcpy(near, src, (size_t)left);
                src = near;
            }
            for (int i = 0; i < QSAE__STEP; i++)
                dst[i] = (uint8_t)src[i] ^ mask;
        }
        memset(dst, mask, (size_t)((QSAE__STRIP - rows) * QSAE__STEP));
    }
}

static void pack_panel_s8(const int8_t *w, int64_t ldw, int64_t columns, int64_t k, uint8_t *panel,
                          int32_t *sum)
{
    for (int64_t j = 0; sum && j < columns; j++)
        sum[j] = sum_codes(w + j * ldw, k);
    pack_columns((const uint8_t *)w, ldw, columns, k, panel);
}

const qsae__pack_ops PACK_OPS = {
    .rows = pack_rows,
    .split = pack_split,
    .panel = pack_panel,
    .rows_s8 = pack_rows_s8,
    .panel_s8 = pack_panel_s8,
};
