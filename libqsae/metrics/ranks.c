/* SPDX-License-Identifier: BSD-2-Clause */
#include "metrics/ranks.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct item {
    double v;
    int64_t i;
};

static int by_value(const void *a, const void *b)
{
    const struct item *const x = a, *const y = b;
    if (x->v != y->v)
        return x->v < y->v ? -1 : 1;
    return (x->i > y->i) - (x->i < y->i);
}

/* v with its indices, sorted; NULL when out of memory. The caller frees it. */
static struct item *sorted(qsae_context *ctx, const double *v, int64_t n)
{
    struct item *const items = qsae__alloc_array(ctx, n, sizeof *items);
    if (!items)
        return NULL;
    for (int64_t i = 0; i < n; i++)
        items[i] = (struct item){ v[i], i };
    qsort(items, (size_t)n, sizeof *items, by_value);
    return items;
}

int32_t qsae__order(qsae_context *ctx, const double *v, int64_t n, int64_t *order)
{
    struct item *const items = sorted(ctx, v, n);
    if (!items)
        return QSAE_ENOMEM;
    for (int64_t i = 0; i < n; i++)
        order[i] = items[i].i;
    qsae__free(ctx, items);
    return QSAE_OK;
}

int32_t qsae__midranks(qsae_context *ctx, const double *v, int64_t n, double *ranks)
{
    struct item *const items = sorted(ctx, v, n);
    if (!items)
        return QSAE_ENOMEM;
    for (int64_t first = 0, end; first < n; first = end) {
        end = first + 1;
        while (end < n && items[end].v == items[first].v)
            end++;
        for (int64_t i = first; i < end; i++)
            ranks[items[i].i] = (double)(first + 1 + end) / 2;
    }
    qsae__free(ctx, items);
    return QSAE_OK;
}

double qsae__correlation(const double *a, const double *b, int64_t n)
{
    double ma = 0, mb = 0, aa = 0, bb = 0, ab = 0;
    for (int64_t i = 0; i < n; i++) {
        ma += a[i];
        mb += b[i];
    }
    ma /= (double)n;
    mb /= (double)n;
    for (int64_t i = 0; i < n; i++) {
        aa += (a[i] - ma) * (a[i] - ma);
        bb += (b[i] - mb) * (b[i] - mb);
        ab += (a[i] - ma) * (b[i] - mb);
    }
    return n > 1 && aa > 0 && bb > 0 ? ab / (sqrt(aa) * sqrt(bb)) : NAN;
}

int32_t qsae__spearman(qsae_context *ctx, const double *a, const double *b, int64_t n, double *out)
{
    double *const ra = qsae__alloc_array(ctx, n, sizeof *ra);
    double *const rb = qsae__alloc_array(ctx, n, sizeof *rb);
    int32_t st = ra && rb ? qsae__midranks(ctx, a, n, ra) : QSAE_ENOMEM;
    if (st == QSAE_OK)
        st = qsae__midranks(ctx, b, n, rb);
    if (st == QSAE_OK)
        *out = qsae__correlation(ra, rb, n);
    qsae__free(ctx, ra);
    qsae__free(ctx, rb);
    return st;
}

int32_t qsae__auc(qsae_context *ctx, const double *scores, const uint8_t *positive, int64_t n,
                  double *out)
{
    double *const ranks = qsae__alloc_array(ctx, n, sizeof *ranks);
    double sum = 0, n1 = 0;
    const int32_t st = ranks ? qsae__midranks(ctx, scores, n, ranks) : QSAE_ENOMEM;
    for (int64_t i = 0; i < n && st == QSAE_OK; i++)
        if (positive[i]) {
            sum += ranks[i];
            n1 += 1;
        }
    const double n0 = (double)n - n1;
    *out = n1 > 0 && n0 > 0 ? (sum - n1 * (n1 + 1) / 2) / (n1 * n0) : NAN;
    qsae__free(ctx, ranks);
    return st;
}

/* ---- NumPy's RandomState: MT19937, seeded by one 32-bit number ---- */

#define MT_N 624
#define MT_M 397

struct mt {
    uint32_t key[MT_N];
    int at;
};

static void mt_seed(struct mt *g, uint32_t seed)
{
    for (uint32_t i = 0; i < MT_N; i++) {
        g->key[i] = seed;
        seed = 1812433253u * (seed ^ seed >> 30) + i + 1;
    }
    g->at = MT_N;
}

static uint32_t mt_next(struct mt *g)
{
    if (g->at == MT_N) {
        for (int i = 0; i < MT_N; i++) {
            const uint32_t y = (g->key[i] & 0x80000000u) | (g->key[(i + 1) % MT_N] & 0x7fffffffu);
            g->key[i] = g->key[(i + MT_M) % MT_N] ^ y >> 1 ^ (y & 1 ? 0x9908b0dfu : 0);
        }
        g->at = 0;
    }
    uint32_t y = g->key[g->at++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9d2c5680u;
    y ^= y << 15 & 0xefc60000u;
    return y ^ y >> 18;
}

/* Fisher-Yates from the end, draws by bit mask and rejection, as RandomState.shuffle. */
static void shuffle(struct mt *g, uint8_t *v, int64_t n)
{
    for (int64_t i = n - 1; i > 0; i--) {
        uint32_t mask = (uint32_t)i, j;
        for (int s = 1; s < 32; s *= 2)
            mask |= mask >> s;
        do
            j = mt_next(g) & mask;
        while (j > (uint32_t)i);
        const uint8_t t = v[i];
        v[i] = v[j];
        v[j] = t;
    }
}

int32_t qsae__stratified_folds(qsae_context *ctx, const uint8_t *positive, int64_t n, uint32_t seed,
                               uint8_t *fold)
{
    uint8_t *const folds = qsae__alloc_array(ctx, n, 1);
    int64_t total[2] = { 0, 0 };
    /* Classes are numbered in the order in which they first appear. */
    const uint8_t first = n > 0 && positive[0];
    struct mt g;
    if (!folds)
        return QSAE_ENOMEM;
    mt_seed(&g, seed);
    for (int64_t i = 0; i < n; i++)
        total[(positive[i] != 0) != first]++;
    for (int k = 0; k < 2; k++) {
        /* Rows sorted by class are dealt out to the folds in turn. */
        const int64_t begin = k ? total[0] : 0, end = begin + total[k];
        int64_t at = 0;
        for (int64_t f = 0; f < QSAE__FOLDS; f++) {
            int64_t count = 0;
            for (int64_t i = f; i < end; i += QSAE__FOLDS)
                count += i >= begin;
            for (; count > 0; count--)
                folds[at++] = (uint8_t)f;
        }
        shuffle(&g, folds, total[k]);
        at = 0;
        for (int64_t i = 0; i < n; i++)
            if (((positive[i] != 0) != first) == k)
                fold[i] = folds[at++];
    }
    qsae__free(ctx, folds);
    return QSAE_OK;
}
