/* SPDX-License-Identifier: BSD-2-Clause */
/* Body of sparse.h at one level; SPARSE is the name of the table. See lanes.h. */
#include "kernels/gemm_kernels.h"
#include "kernels/lanes.h"
#include "kernels/sparse.h"

/* Bit l is set where lane l of the mask (0 or -1) is. */
INLINE uint32_t v_bits(i16 mask)
{
#if defined(__AVX512F__)
    return _mm512_movepi32_mask((__m512i)mask);
#elif defined(__AVX2__)
    __m256 m[2];
    memcpy(m, &mask, sizeof mask);
    return (uint32_t)_mm256_movemask_ps(m[0]) | (uint32_t)_mm256_movemask_ps(m[1]) << 8;
#else
    uint64_t any[8], all = 0;
    uint32_t bits = 0;
    memcpy(any, &mask, sizeof mask);
    for (int i = 0; i < 8; i++)
        all |= any[i];
    for (int l = 0; all && l < LANES; l++)
        bits |= (uint32_t)(mask[l] & 1) << l;
    return bits;
#endif
}

/* n lanes, or all if n is LANES: then without a copy. */
INLINE v16 v_load_n(const float *p, int64_t n)
{
    return n == LANES ? v_load(p) : v_load_part(p, n, 0.0f);
}

INLINE uint32_t select_lanes(const qsae__select *s, const float *h, int64_t i, int64_t n)
{
    const v16 floor = v_set(s->floor);
    v16 v = v_load_n(h + i, n), limit = floor;
    if (s->p) {
        const v16 rest = v_fma(v_set(s->b), v_load_n(s->q + i, n), v_set(s->c));
        v += v_fma(v_set(s->a), v_load_n(s->p + i, n), rest);
    }
    v += v_load_n(s->bias + i, n);
    if (s->scale)
        v *= v_load_n(s->scale + i, n);
    if (s->absolute)
        v = v_select(v_less(v, v_set(0.0f)), -v, v);
    if (s->limit) {
        limit = v_load_n(s->limit + i, n);
        limit = v_select(v_less(limit, floor), floor, limit);
    }
    const uint32_t above = v_bits(v_less(limit, v));
    return s->p ? above | v_bits(v_nan(v)) : above;
}

INLINE int64_t take(uint32_t bits, int64_t i, int64_t count, int32_t *index)
{
    for (; bits; bits &= bits - 1)
        index[count++] = (int32_t)i + __builtin_ctz(bits);
    return count;
}

static int64_t op_select(const qsae__select *s, const float *h, int64_t n, int32_t *index)
{
    int64_t count = 0, i = 0;
    for (; i + LANES <= n; i += LANES)
        count = take(select_lanes(s, h, i, LANES), i, count, index);
    if (i < n)
        count = take(select_lanes(s, h, i, n - i) & ((1u << (n - i)) - 1), i, count, index);
    return count;
}

static void op_squares(const float *x, int64_t rows, double *sum, double *rest)
{
    d16 s[2] = { { 0 } }, t[2] = { { 0 } };
    for (int64_t r = 0; r < rows; r++)
        for (int h = 0; h < 2; h++) {
            const v16 v = v_load(x + 32 * r + 16 * h);
            v16 b = v_round_bf16(v);
            b = v_select(((i16)b & 0x7f800000) == 0, v_set(0.0f), b);
            const d16 wide = __builtin_convertvector(v, d16);
            const d16 lost = __builtin_convertvector(v - b, d16); /* exact */
            s[h] += wide * wide;
            t[h] += lost * lost;
        }
    for (int j = 0; j < 32; j++) {
        sum[j] += s[j / 16][j % 16];
        rest[j] += t[j / 16][j % 16];
    }
}

#if defined(__AVX512F__)
/* 16 rows of 16 values, lanes beyond n zero: t[k] is column k. */
INLINE void transposed(const float *const *x, int64_t k0, __mmask16 mask, __m512 *t)
{
    __m512 r[16], u[16];
#pragma GCC unroll 16
    for (int l = 0; l < 16; l++)
        r[l] = _mm512_maskz_loadu_ps(mask, x[l] + k0);
#pragma GCC unroll 4
    for (int l = 0; l < 16; l += 4) {
        const __m512 a = _mm512_unpacklo_ps(r[l], r[l + 1]), b = _mm512_unpackhi_ps(r[l], r[l + 1]);
        const __m512 c = _mm512_unpacklo_ps(r[l + 2], r[l + 3]),
                     d = _mm512_unpackhi_ps(r[l + 2], r[l + 3]);
        u[l] = _mm512_shuffle_ps(a, c, 0x44);
        u[l + 1] = _mm512_shuffle_ps(a, c, 0xee);
        u[l + 2] = _mm512_shuffle_ps(b, d, 0x44);
        u[l + 3] = _mm512_shuffle_ps(b, d, 0xee);
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        const __m512 a = _mm512_shuffle_f32x4(u[j], u[j + 4], 0x88),
                     b = _mm512_shuffle_f32x4(u[j], u[j + 4], 0xdd),
                     c = _mm512_shuffle_f32x4(u[j + 8], u[j + 12], 0x88),
                     d = _mm512_shuffle_f32x4(u[j + 8], u[j + 12], 0xdd);
        t[j] = _mm512_shuffle_f32x4(a, c, 0x88);
        t[j + 8] = _mm512_shuffle_f32x4(a, c, 0xdd);
        t[j + 4] = _mm512_shuffle_f32x4(b, d, 0x88);
        t[j + 12] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
}

INLINE void pairs_step(const float *panel, __m512 x0, __m512 x1, const __m512i *at, __m512 *acc)
{
    const __m512 w0 = _mm512_loadu_ps(panel), w1 = _mm512_loadu_ps(panel + 16);
    acc[0] = _mm512_fmadd_ps(x0, _mm512_permutex2var_ps(w0, at[0], w1), acc[0]);
    acc[1] = _mm512_fmadd_ps(x1, _mm512_permutex2var_ps(w0, at[1], w1), acc[1]);
}

static void op_pairs(int64_t k0, int64_t kb, const float *const *x, const float *panel,
                     const int32_t *column, float *part)
{
    const __m512i at[2] = { _mm512_loadu_si512(column), _mm512_loadu_si512(column + 16) };
    __m512 acc[2] = { _mm512_loadu_ps(part), _mm512_loadu_ps(part + 16) }, a[16], b[16];
    int64_t k = 0;
    for (; k + 16 <= kb; k += 16) {
        transposed(x, k0 + k, 0xffff, a);
        transposed(x + 16, k0 + k, 0xffff, b);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++)
            pairs_step(panel + (k + i) * QSAE__PANEL, a[i], b[i], at, acc);
    }
    if (k < kb) {
        const __mmask16 mask = (__mmask16)((1u << (kb - k)) - 1);
        transposed(x, k0 + k, mask, a);
        transposed(x + 16, k0 + k, mask, b);
        for (int i = 0; i < kb - k; i++)
            pairs_step(panel + (k + i) * QSAE__PANEL, a[i], b[i], at, acc);
    }
    _mm512_storeu_ps(part, acc[0]);
    _mm512_storeu_ps(part + 16, acc[1]);
}
#else
static void op_pairs(int64_t k0, int64_t kb, const float *const *x, const float *panel,
                     const int32_t *column, float *part)
{
    for (int h = 0; h < QSAE__PAIRS; h += LANES) {
        v16 acc = v_load(part + h);
        for (int64_t k = 0; k < kb; k++) {
            v16 a, w;
            for (int l = 0; l < LANES; l++) {
                a[l] = x[h + l][k0 + k];
                w[l] = panel[k * QSAE__PANEL + column[h + l]];
            }
            acc = v_fma(a, w, acc);
        }
        v_store(part + h, acc);
    }
}
#endif

/* Vectors of f64 that fill one register, and of as many f32. */
typedef double dn __attribute__((vector_size(NATIVE)));
typedef float fn __attribute__((vector_size(NATIVE / 2)));
typedef uint16_t hn __attribute__((vector_size(NATIVE / 4)));
typedef uint32_t un __attribute__((vector_size(NATIVE / 2)));
#define WIDE (NATIVE / 8)

/* WIDE values at p as f64, all exact. */
INLINE dn wide_load(int32_t dtype, const char *p)
{
    fn v;
    if (dtype == QSAE_F32) {
        memcpy(&v, p, sizeof v);
    } else if (dtype == QSAE_BF16) {
        hn h;
        memcpy(&h, p, sizeof h);
        v = (fn)(__builtin_convertvector(h, un) << 16);
    } else {
        uint16_t h[WIDE];
        memcpy(h, p, sizeof h);
#if defined(__AVX512F__)
        v = (fn)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)h));
#elif defined(__F16C__)
        v = (fn)_mm_cvtph_ps(_mm_loadl_epi64((const __m128i *)(const void *)h));
#else
        for (int l = 0; l < WIDE; l++)
            v[l] = qsae__f16_to_f32(h[l]);
#endif
    }
    return __builtin_convertvector(v, dn);
}

/* Lines that the row e is read from, while rows before it are being added. */
INLINE void fetch_row(const char *w, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 64)
        __builtin_prefetch(w + i);
}

/* Registers of sums, about half of the level's. */
#if defined(__AVX512F__)
#define HELD 16
#else
#define HELD 8
#endif
#define AHEAD 6

/* The columns of one set of registers; dtype and held are constants at every call. */
INLINE void add_rows(const int32_t dtype, const int held, const char *w, size_t stride,
                     const int32_t *index, const double *a, int64_t n, double *sum)
{
    const size_t size = dtype == QSAE_F32 ? 4 : 2;
    dn acc[HELD];
#pragma GCC unroll 16
    for (int i = 0; i < held; i++)
        memcpy(&acc[i], sum + i * WIDE, sizeof acc[i]);
    for (int64_t e = 0; e < n; e++) {
        const char *const row = w + (size_t)index[e] * stride;
        if (e + AHEAD < n)
            fetch_row(w + (size_t)index[e + AHEAD] * stride, (size_t)(held * WIDE) * size);
#pragma GCC unroll 16
        for (int i = 0; i < held; i++)
            acc[i] += a[e] * wide_load(dtype, row + (size_t)(i * WIDE) * size);
    }
#pragma GCC unroll 16
    for (int i = 0; i < held; i++)
        memcpy(sum + i * WIDE, &acc[i], sizeof acc[i]);
}

INLINE void rows_of(const int32_t dtype, const char *w, int64_t ldw, const int32_t *index,
                    const double *a, int64_t n, int64_t cols, double *sum)
{
    const size_t size = dtype == QSAE_F32 ? 4 : 2, stride = (size_t)ldw * size;
    int64_t j = 0;
    for (; j + HELD * WIDE <= cols; j += HELD * WIDE)
        add_rows(dtype, HELD, w + (size_t)j * size, stride, index, a, n, sum + j);
    for (; j + WIDE <= cols; j += WIDE)
        add_rows(dtype, 1, w + (size_t)j * size, stride, index, a, n, sum + j);
    for (; j < cols; j++)
        for (int64_t e = 0; e < n; e++) {
            float v;
            uint16_t h;
            const char *const p = w + (size_t)index[e] * stride + (size_t)j * size;
            if (dtype == QSAE_F32) {
                memcpy(&v, p, sizeof v);
            } else {
                memcpy(&h, p, sizeof h);
                v = dtype == QSAE_BF16 ? qsae__bf16_to_f32(h) : qsae__f16_to_f32(h);
            }
            sum[j] += a[e] * (double)v;
        }
}

static void op_rows(int32_t dtype, const void *w, int64_t ldw, const int32_t *index,
                    const double *a, int64_t n, int64_t cols, double *sum)
{
    if (dtype == QSAE_F32)
        rows_of(QSAE_F32, w, ldw, index, a, n, cols, sum);
    else if (dtype == QSAE_BF16)
        rows_of(QSAE_BF16, w, ldw, index, a, n, cols, sum);
    else
        rows_of(QSAE_F16, w, ldw, index, a, n, cols, sum);
}

const qsae__sparse_ops SPARSE = {
    .select = op_select,
    .squares = op_squares,
    .pairs = op_pairs,
    .rows = op_rows,
};
