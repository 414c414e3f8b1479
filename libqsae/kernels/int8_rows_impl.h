/* SPDX-License-Identifier: BSD-2-Clause */
/* Rows of LLM.int8 for int8_impl.h, which includes this: each pass reads a row once and writes it
 * once, in blocks of BLOCK numbers. */
#include <math.h>

#define BLOCK (4 * WIDTH)
#define INFINITE 0x7f800000

INLINE vi larger(vi a, vi b)
{
#if defined(__AVX512BW__)
    return (vi)_mm512_max_epi32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (vi)_mm256_max_epi32((__m256i)a, (__m256i)b);
#else
    return pick(a > b, a, b);
#endif
}

/* Whether any of v is at least limit. */
INLINE bool any_from(vi v, int32_t limit)
{
#if defined(__AVX512BW__)
    return _mm512_cmpge_epi32_mask((__m512i)v, _mm512_set1_epi32(limit)) != 0;
#else
    const vi m = v >= limit;
#if defined(__AVX2__)
    return _mm256_movemask_epi8((__m256i)m) != 0;
#else
    return (m[0] | m[1] | m[2] | m[3]) != 0;
#endif
#endif
}

/* x[i..i+WIDTH] of f32 or bf16, zero from n on. */
INLINE vf load_row(const void *x, const bool bf16, int64_t i, int64_t n)
{
    typedef uint16_t v16 __attribute__((vector_size(2 * WIDTH)));
    if (!bf16)
        return load(x, i, n, 0.0f);
    v16 v = { 0 };
    if (i + WIDTH > n)
        memcpy(&v, (const uint16_t *)x + i, (size_t)(n - i) * sizeof(uint16_t));
    else
        memcpy(&v, (const uint16_t *)x + i, sizeof v);
    return (vf)(__builtin_convertvector(v, vu) << 16);
}

/* The smallest |x| that f16 takes to limit or beyond: halfway from the number below, or next to
 * that. As bits, which order like magnitudes. */
static int32_t f16_limit(float limit)
{
    if (!(limit > 0))
        return 0;
    uint16_t h = qsae__f32_to_f16(limit);
    if (qsae__f16_to_f32(h) < limit)
        h++;
    const float above = h < 0x7c00 ? qsae__f16_to_f32(h) : 65536.0f;
    const float middle = 0.5f * (qsae__f16_to_f32((uint16_t)(h - 1)) + above);
    return (int32_t)qsae__f32_bits(middle) + (qsae__round_f16(middle) < limit);
}

/* Elements i..i+WIDTH of which some are not below limit: marks outliers, sets *nan, returns the
 * rest. */
static vi set_apart(vi a, int64_t i, int64_t n, int32_t limit, uint8_t *outlier, bool *nan)
{
    const int64_t end = qsae__min_i64(WIDTH, n - i);
    int32_t v[WIDTH];
    memcpy(v, &a, sizeof v);
    for (int64_t j = 0; j < end; j++) {
        if (v[j] > INFINITE)
            *nan = true;
        else if (outlier && v[j] >= limit)
            outlier[i + j] = 1;
    }
    return a & (a < limit);
}

INLINE float scan_any(const void *x, const bool bf16, int64_t n, float below, uint8_t *outlier,
                      bool *nan)
{
    const int32_t limit = outlier ? f16_limit(below) : INFINITE + 1;
    vi most[4] = { { 0 }, { 0 }, { 0 }, { 0 } };
    int64_t i = 0;
    *nan = false;
    for (; i + BLOCK <= n; i += BLOCK) {
        vi a[4];
        for (int v = 0; v < 4; v++)
            a[v] = magnitude(load_row(x, bf16, i + v * WIDTH, n));
        if (any_from(larger(larger(a[0], a[1]), larger(a[2], a[3])), limit))
            for (int v = 0; v < 4; v++)
                if (any_from(a[v], limit))
                    a[v] = set_apart(a[v], i + v * WIDTH, n, limit, outlier, nan);
        for (int v = 0; v < 4; v++)
            most[v] = larger(most[v], a[v]);
    }
    for (; i < n; i += WIDTH) {
        vi a = magnitude(load_row(x, bf16, i, n));
        if (any_from(a, limit))
            a = set_apart(a, i, n, limit, outlier, nan);
        most[0] = larger(most[0], a);
    }
    const vi all = larger(larger(most[0], most[1]), larger(most[2], most[3]));
    /* Rounding keeps order: the largest is rounded for all. */
    return qsae__round_f16(qsae__f32_from_bits((uint32_t)largest(all)));
}

static float scan_row(const float *x, int64_t n, float limit, uint8_t *outlier, bool *nan)
{
    return scan_any(x, false, n, limit, outlier, nan);
}

static float scan_row16(const uint16_t *x, int64_t n, float limit, uint8_t *outlier, bool *nan)
{
    return scan_any(x, true, n, limit, outlier, nan);
}

/* The low byte of each element is its code: the sum's low bits are the nearest integer, ties to
 * even. */
INLINE vi code_of(vf x, float scale)
{
    const vf p = half(x) * scale;
    return (vi)((vu)(p + 12582912.0f) - 0x4b400000u) & (vi)(p == p);
}

/* BLOCK codes, 0 where outlier (or NULL) is not. */
INLINE void store_codes(const vi code[4], const uint8_t *outlier, int8_t *q)
{
#if defined(__AVX512BW__)
    for (int v = 0; v < 4; v++) {
        __m128i b = _mm512_cvtepi32_epi8((__m512i)code[v]);
        if (outlier) {
            const __m128i o = _mm_loadu_si128((const void *)(outlier + v * WIDTH));
            b = _mm_maskz_mov_epi8(_mm_testn_epi8_mask(o, o), b);
        }
        _mm_storeu_si128((void *)(q + v * WIDTH), b);
    }
#elif defined(__AVX2__)
    const __m256i low = _mm256_set1_epi32(0xff);
    __m256i c[4];
    for (int v = 0; v < 4; v++)
        c[v] = _mm256_and_si256((__m256i)code[v], low);
    /* Packing works in halves of registers: quads come out as 0 2 4 6 1 3 5 7. */
    __m256i b = _mm256_packus_epi16(_mm256_packus_epi32(c[0], c[1]),
                                    _mm256_packus_epi32(c[2], c[3]));
    b = _mm256_permutevar8x32_epi32(b, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    if (outlier) {
        const __m256i o = _mm256_loadu_si256((const void *)outlier);
        b = _mm256_and_si256(b, _mm256_cmpeq_epi8(o, _mm256_setzero_si256()));
    }
    _mm256_storeu_si256((void *)q, b);
#else
    int32_t c[BLOCK];
    memcpy(c, code, sizeof c);
    for (int j = 0; j < BLOCK; j++)
        q[j] = (int8_t)c[j];
    for (int j = 0; outlier && j < BLOCK; j++)
        q[j] = outlier[j] ? 0 : q[j];
#endif
}

INLINE void quantize_any(const void *x, const bool bf16, float scale, const uint8_t *outlier,
                         int8_t *q, int64_t n)
{
    int64_t i = 0;
    vi code[4];
    for (; i + BLOCK <= n; i += BLOCK) {
        for (int v = 0; v < 4; v++)
            code[v] = code_of(load_row(x, bf16, i + v * WIDTH, n), scale);
        store_codes(code, outlier ? outlier + i : NULL, q + i);
    }
    for (; i < n; i += WIDTH) {
        store_bytes(q, i, n, code_of(load_row(x, bf16, i, n), scale));
        for (int64_t j = i; outlier && j < n && j < i + WIDTH; j++)
            q[j] = outlier[j] ? 0 : q[j];
    }
}

static void quantize_row(const float *x, float scale, const uint8_t *outlier, int8_t *q, int64_t n)
{
    quantize_any(x, false, scale, outlier, q, n);
}

static void quantize_row16(const uint16_t *x, float scale, const uint8_t *outlier, int8_t *q,
                           int64_t n)
{
    quantize_any(x, true, scale, outlier, q, n);
}

#define CUDA_SCALE 6.200012e-05f  /* 1 / 127^2 */
#define TORCH_SCALE 6.200124e-05f /* as the CPU build has it, a digit short */

INLINE vf fused(vf a, vf b, vf c)
{
#if defined(__AVX512BW__)
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    for (int j = 0; j < WIDTH; j++)
        a[j] = fmaf(a[j], b[j], c[j]);
    return a;
#endif
}

/* bf16(x), kept in f32 */
INLINE vf brief(vf x)
{
    const vu u = (vu)x;
    const vi rounded = (vi)((u + 0x7fffu + ((u >> 16) & 1u)) & 0xffff0000u);
    const vi nan = (vi)((u | 0x400000u) & 0xffff0000u);
    return (vf)pick(x != x, nan, rounded);
}

INLINE vf round_to(int32_t dtype, vf x)
{
    return dtype == QSAE_BF16 ? brief(x) : dtype == QSAE_F16 ? half(x) : x;
}

/* One register of outputs of scale_row. */
INLINE vf scaled(vi sum, float row, vf column, vf bias, const bool add, const bool torch,
                 int32_t dtype)
{
    const vf s = __builtin_convertvector(sum, vf);
    if (torch) {
        const vf y = s * (row * column) * TORCH_SCALE;
        return round_to(dtype, add ? y + bias : y);
    }
    vf y = s * row * column;
    if (add && dtype == QSAE_F16)
        return half(fused(y, (vf){ 0 } + CUDA_SCALE, bias));
    y = half(y * CUDA_SCALE);
    if (add)
        y = half(y + bias);
    return dtype == QSAE_BF16 ? brief(y) : y;
}

/* add, torch and dtype are constants at every call. */
INLINE void scale_any(const int32_t *sum, float row, const float *column, const float *bias,
                      int64_t n, const bool add, const bool torch, const int32_t dtype, float *y)
{
    for (int64_t i = 0; i < n; i += WIDTH) {
        const vf b = add ? load(bias, i, n, 0.0f) : (vf){ 0 };
        vi s = { 0 };
        if (i + WIDTH > n)
            memcpy(&s, sum + i, (size_t)(n - i) * sizeof *sum);
        else
            memcpy(&s, sum + i, sizeof s);
        store(y, i, n, scaled(s, row, load(column, i, n, 0.0f), b, add, torch, dtype));
    }
}

static void scale_row(const int32_t *sum, float row, const float *column, const float *bias,
                      int64_t n, int32_t rules, int32_t dtype, float *y)
{
#define CASE(add, torch, type) \
    if ((bias != NULL) == (add) && (rules == QSAE__SCALE_TORCH) == (torch) && dtype == (type)) \
        scale_any(sum, row, column, bias, n, add, torch, type, y)
#define TYPES(add, torch) \
    CASE(add, torch, QSAE_F32); \
    CASE(add, torch, QSAE_BF16); \
    CASE(add, torch, QSAE_F16)
    TYPES(false, false);
    TYPES(true, false);
    TYPES(false, true);
    TYPES(true, true);
#undef TYPES
#undef CASE
}
