/* SPDX-License-Identifier: BSD-2-Clause */
/* 8-bit block-wise codes of the 4-bit codecs' block maxima (double quantisation, 2305.14314). */
#include "codecs/nested.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "codecs/tables.h"
#include "kernels/kernels.h"

/* Width of torch's float vectors in a sum; the same with AVX2 and AVX-512. */
#define WIDTH 8
#define LEVELS 4

static int64_t ceil_log2(int64_t n)
{
    int64_t bits = 1;
    while (bits < 62 && (int64_t)1 << bits < n)
        bits++;
    return bits;
}

/*
 * Sums of `lanes` interleaved columns of x[size, lanes], as torch's cascade: runs of 16 or more are
 * added up, runs of runs likewise, on four levels.
 */
static void cascade(const float *x, int64_t size, int lanes, float sum[4 * WIDTH])
{
    const int64_t power = qsae__max_i64(4, ceil_log2(size) / LEVELS), step = (int64_t)1 << power;
    float acc[LEVELS][4 * WIDTH] = { { 0 } };
    int64_t i = 0;
    while (i + step <= size) {
        for (int64_t j = 0; j < step; j++, i++)
            for (int l = 0; l < lanes; l++)
                acc[0][l] += x[i * lanes + l];
        for (int level = 1; level < LEVELS; level++) {
            for (int l = 0; l < lanes; l++) {
                acc[level][l] += acc[level - 1][l];
                acc[level - 1][l] = 0;
            }
            if (i & (step - 1) << (level * power))
                break;
        }
    }
    for (; i < size; i++)
        for (int l = 0; l < lanes; l++)
            acc[0][l] += x[i * lanes + l];
    for (int level = 1; level < LEVELS; level++)
        for (int l = 0; l < lanes; l++)
            acc[0][l] += acc[level][l];
    memcpy(sum, acc[0], sizeof acc[0]);
}

/* torch.sum of contiguous f32 on one thread (ATen's SumKernel): four vectors side by side. */
static float torch_sum(const float *x, int64_t n)
{
    const int width = n < WIDTH ? 1 : WIDTH;
    const int64_t vectors = n / width, quads = vectors / 4;
    float part[4 * WIDTH], sum = 0;
    cascade(x, quads, 4 * width, part);
    for (int64_t v = quads * 4; v < vectors; v++)
        for (int l = 0; l < width; l++)
            part[l] += x[v * width + l];
    for (int k = 1; k < 4; k++)
        for (int l = 0; l < width; l++)
            part[l] += part[k * width + l];
    for (int64_t i = vectors * width; i < n; i++)
        sum += x[i];
    for (int l = 0; l < width; l++)
        sum += part[l];
    return sum;
}

float qsae__nested_offset(enum qsae__rules rules, const float *m, int64_t n)
{
    double sum = 0;
    if (n == 0)
        return 0;
    if (rules == QSAE__RULES_TORCH)
        return torch_sum(m, n) / (float)n;
    for (int64_t i = 0; i < n; i++)
        sum += m[i];
    return (float)(sum / (double)n);
}

/* Between codes j and j + 1; nothing equals the last. */
static void midpoints(float middle[256])
{
    for (int j = 0; j < 255; j++)
        middle[j] = (qsae__dynamic_map[j] + qsae__dynamic_map[j + 1]) * 0.5f;
    middle[255] = NAN;
}

#define KEY_SHIFT 18             /* a key: the exponent and five bits of the significand */
#define LOW (0x33800000 >> KEY_SHIFT)  /* of 2^-24 and all that is smaller */
#define HIGH (0x3f800000 >> KEY_SHIFT) /* of 1 */
#define KEYS (HIGH - LOW + 1)

/* Where a count begins: midpoints below every u of a key and sign. At most STEPS more may be: from
 * 0.5 on midpoints are 9/640 apart, keys 1/64; below 0.1 a key has fewer. */
#define STEPS 3
struct counter {
    float middle[256];
    uint8_t first[2][KEYS];
};

static float key_value(int key)
{
    return qsae__f32_from_bits((uint32_t)key << KEY_SHIFT);
}

static void counter_init(struct counter *c)
{
    int n = 127; /* map[127] is 0 */
    midpoints(c->middle);
    for (int k = 0; k < KEYS; k++) {
        while (k > 0 && c->middle[n] < key_value(LOW + k))
            n++;
        c->first[0][k] = (uint8_t)n;
    }
    n = 0;
    for (int k = KEYS - 1; k >= 0; k--) {
        while (k < KEYS - 1 && c->middle[n] < -key_value(LOW + k + 1))
            n++;
        c->first[1][k] = (uint8_t)n;
    }
}

/* Number of midpoints below u in [-1, 1], an ulp more or less; 0 for NaN. */
static int count_below(const struct counter *c, float u)
{
    const uint32_t bits = qsae__f32_bits(u);
    const int key = (int)((bits & 0x7fffffffu) >> KEY_SHIFT);
    if (u != u)
        return 0;
    int n = c->first[bits >> 31][key < LOW ? 0 : key > HIGH ? HIGH - LOW : key - LOW];
    for (int i = 0; i < STEPS; i++)
        n += c->middle[n] < u;
    return n;
}

static uint8_t code_of(enum qsae__rules rules, const struct counter *c, float u)
{
    if (rules == QSAE__RULES_TORCH) {
        /* The CPU library looks u up on a grid of 65536 points: 0 lies between two of them. */
        const float half = ((u == u ? u : 0) + 1) * 0.5f;
        const float k = truncf(fmaf(half, 65535, 0.5f));
        return (uint8_t)count_below(c, -1 + 2 * k / 65535);
    }
    /* The GPU's binary search ends on even codes when u is halfway. */
    const int j = count_below(c, u);
    return (uint8_t)(j + ((j & 1) & (c->middle[j] == u)));
}

uint8_t qsae__nested_code(enum qsae__rules rules, float u)
{
    struct counter c;
    counter_init(&c);
    return code_of(rules, &c, u);
}

void qsae__nested_encode(enum qsae__rules rules, const float *m, int64_t n, float offset,
                         uint8_t *q, float *absmax)
{
    struct counter c;
    counter_init(&c);
    for (int64_t i0 = 0; i0 < n; i0 += QSAE__NESTED_BLOCK) {
        const int64_t i1 = qsae__min_i64(n, i0 + QSAE__NESTED_BLOCK);
        float most = -FLT_MAX;
        for (int64_t i = i0; i < i1; i++) {
            const float a = fabsf(m[i] - offset);
            most = a > most ? a : most;
        }
        const float inverse = 1 / most;
        absmax[i0 / QSAE__NESTED_BLOCK] = most;
        for (int64_t i = i0; i < i1; i++)
            q[i] = most == 0 ? 0 : code_of(rules, &c, (m[i] - offset) * inverse);
    }
}

void qsae__nested_decode(const uint8_t *q, int64_t n, const float *absmax, float offset, float *m)
{
    for (int64_t i = 0; i < n; i++)
        m[i] = qsae__dynamic_map[q[i]] * absmax[i / QSAE__NESTED_BLOCK] + offset;
}
