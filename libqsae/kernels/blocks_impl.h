/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Body of blocks.h at one level; OPS is the name of the table. Sixteen products are rounded per
 * block of 4-bit codes and the codes look them up in registers, STEP16 (bf16) or STEP32 (f32) at a
 * time.
 */
#include <float.h>

#include "kernels/lanes.h"

/* Shorter runs are decoded to a buffer of a whole step. */
#define STEP16 32

typedef uint16_t h16 __attribute__((vector_size(32)));

#if defined(__AVX512BW__)
/* Nearest even; NaN keeps its upper half and becomes quiet. */
INLINE h16 to_bf16(v16 x)
{
    const __m512i u = (__m512i)x, top = _mm512_srli_epi32(u, 16);
    const __mmask16 nan = _mm512_cmp_ps_mask((__m512)x, (__m512)x, _CMP_UNORD_Q);
    const __m512i odd = _mm512_and_si512(top, _mm512_set1_epi32(1));
    const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
    const __m512i even = _mm512_srli_epi32(sum, 16);
    return (h16)_mm512_cvtepi32_epi16(
        _mm512_mask_or_epi32(even, nan, top, _mm512_set1_epi32(0x40)));
}

/* Sixteen codes of 8 bits in f32. */
INLINE v16 wide8(const void *p, bool is_signed)
{
    const __m128i b = _mm_loadu_si128(p);
    return (v16)_mm512_cvtepi32_ps(is_signed ? _mm512_cvtepi8_epi32(b) : _mm512_cvtepu8_epi32(b));
}

/* Eight bytes of the codes of sixteen values: a binary search, whose steps are lookups. The counts'
 * last step adds 1 to an even number. */
INLINE void codes_of(const qsae__coder4 *c, __m512 u, uint8_t *packed)
{
    const __m512 t = _mm512_loadu_ps(c->thresholds);
    const __m512i codes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)c->codes));
    const __m512i one = _mm512_set1_epi32(1);
    __mmask16 k = _mm512_cmp_ps_mask(u, _mm512_set1_ps(c->thresholds[7]), _CMP_GT_OQ);
    __m512i i = _mm512_mask_mov_epi32(_mm512_set1_epi32(3), k, _mm512_set1_epi32(11));
    k = _mm512_cmp_ps_mask(u, _mm512_permutexvar_ps(i, t), _CMP_GT_OQ);
    i = _mm512_sub_epi32(i, _mm512_set1_epi32(2));
    i = _mm512_mask_add_epi32(i, k, i, _mm512_set1_epi32(4));
    k = _mm512_cmp_ps_mask(u, _mm512_permutexvar_ps(i, t), _CMP_GT_OQ);
    i = _mm512_sub_epi32(i, one);
    i = _mm512_mask_add_epi32(i, k, i, _mm512_set1_epi32(2));
    k = _mm512_cmp_ps_mask(u, _mm512_permutexvar_ps(i, t), _CMP_GT_OQ);
    i = _mm512_permutexvar_epi32(_mm512_mask_add_epi32(i, k, i, one), codes);
    k = _mm512_cmp_ps_mask(u, u, _CMP_UNORD_Q);
    i = _mm512_mask_mov_epi32(i, k, _mm512_set1_epi32(c->nan));
    /* the even one 16 times plus the odd one */
    const __m128i pairs = _mm_maddubs_epi16(_mm512_cvtepi32_epi8(i), _mm_set1_epi16(0x0110));
    _mm_storel_epi64((__m128i *)(void *)packed, _mm_packus_epi16(pairs, pairs));
}

INLINE void codes16(const qsae__coder4 *c, const float *x, float scale, uint8_t *packed)
{
    codes_of(c, _mm512_mul_ps(_mm512_loadu_ps(x), _mm512_set1_ps(scale)), packed);
}

INLINE __m512 wide16(const void *x)
{
    return (__m512)_mm512_slli_epi32(
        _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x)), 16);
}

/* The largest magnitude of n bf16 values as bits, -1 if all are NaN. Magnitudes and infinity are
 * ordered as integers. */
INLINE int32_t magnitude16(const uint8_t *x, int64_t n)
{
    const __m512i sign = _mm512_set1_epi16(0x7fff), most = _mm512_set1_epi16(0x7f80);
    __m512i m = _mm512_set1_epi16(-1);
    for (int64_t i = 0; i < n; i += 32) {
        const __mmask32 k = n - i >= 32 ? 0xffffffffu : (1u << (n - i)) - 1;
        const __m512i v = _mm512_and_si512(_mm512_maskz_loadu_epi16(k, x + 2 * i), sign);
        m = _mm512_mask_max_epi16(m, _mm512_mask_cmple_epi16_mask(k, v, most), m, v);
    }
    const __m256i h = _mm256_max_epi16(_mm512_castsi512_si256(m), _mm512_extracti64x4_epi64(m, 1));
    const __m128i q = _mm_max_epi16(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
    /* the least of 0x7fff - q, which is not negative: the instruction compares without sign */
    const __m128i least = _mm_minpos_epu16(_mm_sub_epi16(_mm_set1_epi16(0x7fff), q));
    return 0x7fff - (int32_t)(uint16_t)_mm_extract_epi16(least, 0);
}

/* Codes of two times sixteen values by parts of [-1, 1]. */
INLINE void codes_spaced(const qsae__coder4 *c, const uint8_t *x, __m512 scale, uint8_t *packed)
{
    const __m512 middle = _mm512_set1_ps(15.5f);
    const __m512 t0 = _mm512_loadu_ps(c->part_threshold);
    const __m512 t1 = _mm512_loadu_ps(c->part_threshold + 16);
    const __m512i n0 = _mm512_loadu_si512(c->part_count);
    const __m512i n1 = _mm512_loadu_si512(c->part_count + 16);
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        const __m512 u = _mm512_mul_ps(wide16(x + 32 * half), scale);
        const __m512i part = _mm512_cvttps_epi32(_mm512_fmadd_ps(u, middle, middle));
        const __m512 t = _mm512_permutex2var_ps(t0, part, t1);
        const __m512i n = _mm512_permutex2var_epi32(n0, part, n1);
        const __mmask16 above = _mm512_cmp_ps_mask(u, t, _CMP_GT_OQ);
        const __m512i code = _mm512_mask_add_epi32(n, above, n, _mm512_set1_epi32(1));
        const __m512i pair = _mm512_or_si512(_mm512_slli_epi64(code, 4),
                                             _mm512_srli_epi64(code, 32));
        _mm_storel_epi64((__m128i *)(void *)(packed + 8 * half), _mm512_cvtepi64_epi8(pair));
    }
}

typedef __m512i table16;
typedef __m512 table32;
#define STEP32 16

/* The sixteen bf16 values twice: a lookup takes the low five bits of each word. */
INLINE table16 make16(const float *values, float scale)
{
    return _mm512_broadcast_i64x4((__m256i)to_bf16(v_load(values) * scale));
}

INLINE table32 make32(const float *values, float scale, bool bf16)
{
    const v16 p = v_load(values) * scale;
    return (__m512)(bf16 ? v_round_bf16(p) : p);
}

/* Each byte goes to two words, the earlier of which is moved down to the byte's high half. Bits
 * above the lowest four are whatever they are. */
INLINE void step16(const uint8_t *codes, table16 t, uint16_t *dst)
{
    const __m512i spread = _mm512_set_epi64(
        0x0f0f0f0f0e0e0e0e, 0x0d0d0d0d0c0c0c0c, 0x0b0b0b0b0a0a0a0a, 0x0909090908080808,
        0x0707070706060606, 0x0505050504040404, 0x0303030302020202, 0x0101010100000000);
    const __m512i down = _mm512_set1_epi32(4);
    const __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)codes);
    const __m512i index = _mm512_srlv_epi16(
        _mm512_shuffle_epi8(_mm512_broadcast_i32x4(bytes), spread), down);
    _mm512_storeu_si512(dst, _mm512_permutexvar_epi16(index, t));
}

INLINE void step32(const uint8_t *codes, table32 t, float *dst)
{
    const __m512i spread = _mm512_set_epi64(
        0x0000000700000007, 0x0000000600000006, 0x0000000500000005, 0x0000000400000004,
        0x0000000300000003, 0x0000000200000002, 0x0000000100000001, 0x0000000000000000);
    const __m512i down = _mm512_set1_epi64(4);
    int64_t bytes;
    memcpy(&bytes, codes, sizeof bytes);
    const __m512i index = _mm512_srlv_epi32(
        _mm512_shuffle_epi8(_mm512_set1_epi64(bytes), spread), down);
    _mm512_storeu_ps(dst, _mm512_permutexvar_ps(index, t));
}
#elif defined(__AVX2__)
INLINE h16 to_bf16(v16 x)
{
    __m256i v[2];
    x = v_round_bf16(x);
    memcpy(v, &x, sizeof x);
    return (h16)_mm256_permute4x64_epi64(
        _mm256_packus_epi32(_mm256_srli_epi32(v[0], 16), _mm256_srli_epi32(v[1], 16)), 0xd8);
}

INLINE v16 wide8(const void *p, bool is_signed)
{
    __m256 y[2];
    v16 v;
    for (int i = 0; i < 2; i++) {
        const __m128i b = _mm_loadl_epi64((const __m128i *)(const void *)((const char *)p + 8 * i));
        y[i] = _mm256_cvtepi32_ps(is_signed ? _mm256_cvtepi8_epi32(b) : _mm256_cvtepu8_epi32(b));
    }
    memcpy(&v, y, sizeof v);
    return v;
}

typedef struct {
    __m256i low, high; /* bytes of the bf16 values, in both lanes */
} table16;
typedef struct {
    __m256 low, high;  /* values of codes 0 to 7, 8 to 15 */
} table32;
#define STEP32 8

INLINE table16 make16(const float *values, float scale)
{
    const __m256i w = (__m256i)to_bf16(v_load(values) * scale);
    const __m256i low = _mm256_and_si256(w, _mm256_set1_epi16(0xff));
    const __m256i both = _mm256_packus_epi16(low, _mm256_srli_epi16(w, 8));
    /* [low 0..7, high 0..7, low 8..15, high 8..15] */
    return (table16){ _mm256_permute4x64_epi64(both, 0x88), _mm256_permute4x64_epi64(both, 0xdd) };
}

INLINE table32 make32(const float *values, float scale, bool bf16)
{
    v16 p = v_load(values) * scale;
    table32 t;
    p = bf16 ? v_round_bf16(p) : p;
    memcpy(&t, &p, sizeof t);
    return t;
}

/* Codes of bytes 0-3 and 8-11 in the low lane, so that interleaving leaves them in order. */
INLINE void step16(const uint8_t *codes, table16 t, uint16_t *dst)
{
    const __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)codes);
    const __m256i word = _mm256_cvtepu8_epi16(_mm_shuffle_epi32(bytes, 0xd8));
    const __m256i index = _mm256_and_si256(
        _mm256_or_si256(_mm256_srli_epi16(word, 4), _mm256_slli_epi16(word, 8)),
        _mm256_set1_epi8(15));
    const __m256i low = _mm256_shuffle_epi8(t.low, index);
    const __m256i high = _mm256_shuffle_epi8(t.high, index);
    __m256i *out = (__m256i *)(void *)dst;
    _mm256_storeu_si256(out, _mm256_unpacklo_epi8(low, high));
    _mm256_storeu_si256(out + 1, _mm256_unpackhi_epi8(low, high));
}

INLINE void step32(const uint8_t *codes, table32 t, float *dst)
{
    const __m256i down = _mm256_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24);
    int32_t bytes;
    memcpy(&bytes, codes, sizeof bytes);
    const __m256i index = _mm256_srlv_epi32(_mm256_set1_epi32(bytes), down);
    const __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));
    _mm256_storeu_ps(dst, _mm256_blendv_ps(_mm256_permutevar8x32_ps(t.low, index),
                                           _mm256_permutevar8x32_ps(t.high, index), upper));
}
#else
INLINE h16 to_bf16(v16 x)
{
    uint32_t u[LANES];
    uint16_t h[LANES];
    h16 r;
    x = v_round_bf16(x);
    memcpy(u, &x, sizeof u);
    for (int i = 0; i < LANES; i++)
        h[i] = (uint16_t)(u[i] >> 16);
    memcpy(&r, h, sizeof r);
    return r;
}

INLINE v16 wide8(const void *p, bool is_signed)
{
    float f[LANES];
    for (int i = 0; i < LANES; i++)
        f[i] = is_signed ? (float)((const int8_t *)p)[i] : (float)((const uint8_t *)p)[i];
    return v_load(f);
}

typedef struct {
    uint16_t value[16];
} table16;
typedef struct {
    float value[16];
} table32;
#define STEP32 2

INLINE table16 make16(const float *values, float scale)
{
    table16 t;
    for (int i = 0; i < 16; i++)
        t.value[i] = qsae__f32_to_bf16(values[i] * scale);
    return t;
}

INLINE table32 make32(const float *values, float scale, bool bf16)
{
    table32 t;
    const v16 p = v_load(values) * scale;
    v_store(t.value, bf16 ? v_round_bf16(p) : p);
    return t;
}

INLINE void step16(const uint8_t *codes, table16 t, uint16_t *dst)
{
    for (int i = 0; i < STEP16 / 2; i++) {
        dst[2 * i] = t.value[codes[i] >> 4];
        dst[2 * i + 1] = t.value[codes[i] & 15];
    }
}

INLINE void step32(const uint8_t *codes, table32 t, float *dst)
{
    dst[0] = t.value[codes[0] >> 4];
    dst[1] = t.value[codes[0] & 15];
}
#endif

#if !defined(__AVX512BW__)
#define PARTS (64 / NATIVE)

/* Counts up to 15, or 16 for NaN, to codes. */
#if defined(__AVX2__)
INLINE void pack_counts(const qsae__coder4 *c, const in count[PARTS], uint8_t *packed)
{
    const __m256i words = _mm256_permute4x64_epi64(
        _mm256_packs_epi32((__m256i)count[0], (__m256i)count[1]), 0xd8);
    const __m128i n = _mm_packs_epi16(_mm256_castsi256_si128(words),
                                      _mm256_extracti128_si256(words, 1));
    const __m128i codes = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)c->codes), n);
    const __m128i nan = _mm_cmpeq_epi8(n, _mm_set1_epi8(16));
    const __m128i all = _mm_blendv_epi8(codes, _mm_set1_epi8((char)c->nan), nan);
    const __m128i pairs = _mm_maddubs_epi16(all, _mm_set1_epi16(0x0110));
    _mm_storel_epi64((__m128i *)(void *)packed, _mm_packus_epi16(pairs, pairs));
}
#else
INLINE void pack_counts(const qsae__coder4 *c, const in count[PARTS], uint8_t *packed)
{
    uint8_t table[17];
    int32_t n[LANES];
    memcpy(table, c->codes, 16);
    table[16] = c->nan;
    memcpy(n, count, sizeof n);
    for (int i = 0; i < LANES / 2; i++)
        packed[i] = (uint8_t)(table[n[2 * i]] << 4 | table[n[2 * i + 1]]);
}
#endif

/* The same in registers of the level, which count the thresholds one by one. */

INLINE void codes16(const qsae__coder4 *c, const float *x, float scale, uint8_t *packed)
{
    in count[PARTS];
#pragma GCC unroll 4
    for (int v = 0; v < PARTS; v++) {
        vn u;
        memcpy(&u, x + v * (LANES / PARTS), sizeof u);
        u *= scale;
        in n = (in)(u != u) & 16;
#pragma GCC unroll 15
        for (int k = 0; k < 15; k++)
            n -= (in)(u > c->thresholds[k]);
        count[v] = n;
    }
    pack_counts(c, count, packed);
}
#endif

static void encode4(const qsae__coder4 *c, const float *x, float scale, int64_t n, uint8_t *packed)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        codes16(c, x + i, scale, packed + i / 2);
    if (i < n) {
        float rest[LANES] = { 0 };
        uint8_t part[LANES / 2];
        memcpy(rest, x + i, (size_t)(n - i) * sizeof *x);
        codes16(c, rest, scale, part);
        if (n % 2)
            part[(n - i) / 2] &= 0xf0;
        memcpy(packed + i / 2, part, (size_t)(n - i + 1) / 2);
    }
}

#if defined(__AVX512BW__)
/* Runs of 32 by codes_spaced where it may be used; returns how many elements that were. */
INLINE int64_t encode_spaced(const qsae__coder4 *c, const uint8_t *x, float scale, int64_t n,
                             uint8_t *packed)
{
    const __m512 s = _mm512_set1_ps(scale);
    int64_t i = 0;
    /* a maximum of zero, or so small that its reciprocal overflows, leaves [-1, 1] */
    if (!c->spaced || !(scale <= FLT_MAX))
        return 0;
    for (; i + 32 <= n; i += 32)
        codes_spaced(c, x + 2 * i, s, packed + i / 2);
    return i;
}

INLINE void codes16_half(const qsae__coder4 *c, const uint8_t *x, float scale, uint8_t *packed)
{
    codes_of(c, _mm512_mul_ps(wide16(x), _mm512_set1_ps(scale)), packed);
}
#else
INLINE int32_t magnitude16(const uint8_t *x, int64_t n)
{
    int32_t m = -1;
    for (int64_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, x + 2 * i, sizeof h);
        const int32_t v = h & 0x7fff;
        m = v <= 0x7f80 && v > m ? v : m;
    }
    return m;
}

INLINE int64_t encode_spaced(const qsae__coder4 *c, const uint8_t *x, float scale, int64_t n,
                             uint8_t *packed)
{
    (void)c, (void)x, (void)scale, (void)n, (void)packed;
    return 0;
}

INLINE void codes16_half(const qsae__coder4 *c, const uint8_t *x, float scale, uint8_t *packed)
{
    float wide[LANES];
    v_store(wide, v_load_bf16(x));
    codes16(c, wide, scale, packed);
}
#endif

static float encode4_16(const qsae__coder4 *c, const void *src, int64_t n, uint8_t *packed)
{
    const uint8_t *const x = src;
    const int32_t bits = magnitude16(x, n);
    const float m = bits < 0 ? -FLT_MAX : qsae__f32_from_bits((uint32_t)bits << 16);
    const float scale = 1 / m;
    int64_t i = encode_spaced(c, x, scale, n, packed);
    for (; i + LANES <= n; i += LANES)
        codes16_half(c, x + 2 * i, scale, packed + i / 2);
    if (i < n) {
        float wide[LANES];
        uint16_t half[LANES] = { 0 };
        memcpy(half, x + 2 * i, (size_t)(n - i) * sizeof *half);
        v_store(wide, v_load_bf16(half));
        encode4(c, wide, scale, n - i, packed + i / 2);
    }
    return m;
}

/* Code of element i. */
INLINE int code4(const uint8_t *codes, int64_t i)
{
    return i % 2 ? codes[i / 2] & 15 : codes[i / 2] >> 4;
}

/* A row may begin and end anywhere in a block, also within a byte. */
static void bf16_4(const qsae__codes4 *c, int64_t first, int64_t n, uint16_t *dst)
{
    const int64_t end = first + n;
    int64_t i = first;
    for (int64_t b = first / c->block; i < end; b++) {
        const int64_t stop = qsae__min_i64(end, (b + 1) * c->block);
        const table16 t = make16(c->values, c->scale[b]);
        if (i % 2)
            *dst++ = qsae__f32_to_bf16(c->values[code4(c->codes, i++)] * c->scale[b]);
        for (; i + STEP16 <= stop; i += STEP16, dst += STEP16)
            step16(c->codes + i / 2, t, dst);
        if (i < stop) {
            uint8_t part[STEP16 / 2] = { 0 };
            uint16_t out[STEP16];
            memcpy(part, c->codes + i / 2, (size_t)(stop - i + 1) / 2);
            step16(part, t, out);
            memcpy(dst, out, (size_t)(stop - i) * sizeof *dst);
            dst += stop - i;
            i = stop;
        }
    }
}

static void f32_4(const qsae__codes4 *c, int64_t first, int64_t n, bool bf16, float *dst)
{
    const int64_t end = first + n;
    int64_t i = first;
    for (int64_t b = first / c->block; i < end; b++) {
        const int64_t stop = qsae__min_i64(end, (b + 1) * c->block);
        const table32 t = make32(c->values, c->scale[b], bf16);
        if (i % 2) {
            const float v = c->values[code4(c->codes, i++)] * c->scale[b];
            *dst++ = bf16 ? qsae__round_bf16(v) : v;
        }
        for (; i + STEP32 <= stop; i += STEP32, dst += STEP32)
            step32(c->codes + i / 2, t, dst);
        if (i < stop) {
            uint8_t part[STEP32 / 2] = { 0 };
            float out[STEP32];
            memcpy(part, c->codes + i / 2, (size_t)(stop - i + 1) / 2);
            step32(part, t, out);
            memcpy(dst, out, (size_t)(stop - i) * sizeof *dst);
            dst += stop - i;
            i = stop;
        }
    }
}

/* Elements i..i+n of n <= 16, the rest of no meaning. */
INLINE v16 element8(const qsae__codes8 *c, int64_t i, int64_t n, bool is_signed, bool vary)
{
    uint8_t part[LANES] = { 0 };
    const uint8_t *codes = (const uint8_t *)c->codes + i;
    v16 scale, zero;
    if (n < LANES)
        codes = memcpy(part, codes, (size_t)n);
    if (!vary) {
        scale = v_set(c->scale[0]);
        zero = v_set(c->zero ? c->zero[0] : 0);
    } else if (n < LANES) {
        scale = v_load_part(c->scale + i, n, 0);
        zero = c->zero ? v_load_part(c->zero + i, n, 0) : v_set(0);
    } else {
        scale = v_load(c->scale + i);
        zero = c->zero ? v_load(c->zero + i) : v_set(0);
    }
    return (wide8(codes, is_signed) - zero) * scale * c->factor;
}

INLINE void run8_bf16(const qsae__codes8 *c, int64_t n, bool is_signed, bool vary, uint16_t *dst)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const h16 h = to_bf16(element8(c, i, LANES, is_signed, vary));
        memcpy(dst + i, &h, sizeof h);
    }
    if (i < n) {
        const h16 h = to_bf16(element8(c, i, n - i, is_signed, vary));
        memcpy(dst + i, &h, (size_t)(n - i) * sizeof *dst);
    }
}

INLINE void run8_f32(const qsae__codes8 *c, int64_t n, bool is_signed, bool vary, bool bf16,
                     float *dst)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const v16 v = element8(c, i, LANES, is_signed, vary);
        v_store(dst + i, bf16 ? v_round_bf16(v) : v);
    }
    if (i < n) {
        const v16 v = element8(c, i, n - i, is_signed, vary);
        v_store_part(dst + i, bf16 ? v_round_bf16(v) : v, n - i);
    }
}

/* The flags are constants in each copy of the loops. */
static void bf16_8(const qsae__codes8 *c, int64_t n, uint16_t *dst)
{
    if (c->stride && c->is_signed)
        run8_bf16(c, n, true, true, dst);
    else if (c->stride)
        run8_bf16(c, n, false, true, dst);
    else if (c->is_signed)
        run8_bf16(c, n, true, false, dst);
    else
        run8_bf16(c, n, false, false, dst);
}

static void f32_8(const qsae__codes8 *c, int64_t n, bool bf16, float *dst)
{
    if (c->stride && c->is_signed)
        run8_f32(c, n, true, true, bf16, dst);
    else if (c->stride)
        run8_f32(c, n, false, true, bf16, dst);
    else if (c->is_signed)
        run8_f32(c, n, true, false, bf16, dst);
    else
        run8_f32(c, n, false, false, bf16, dst);
}

static void narrow(const void *src, int64_t n, uint16_t *dst)
{
    const char *x = src;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        v16 v;
        memcpy(&v, x + (size_t)i * sizeof(float), sizeof v);
        const h16 h = to_bf16(v);
        memcpy(dst + i, &h, sizeof h);
    }
    if (i < n) {
        v16 v = v_set(0);
        memcpy(&v, x + (size_t)i * sizeof(float), (size_t)(n - i) * sizeof(float));
        const h16 h = to_bf16(v);
        memcpy(dst + i, &h, (size_t)(n - i) * sizeof *dst);
    }
}

const qsae__block_ops OPS = {
    .bf16_4 = bf16_4,
    .f32_4 = f32_4,
    .bf16_8 = bf16_8,
    .f32_8 = f32_8,
    .encode4 = encode4,
    .encode4_16 = encode4_16,
    .narrow = narrow,
};
