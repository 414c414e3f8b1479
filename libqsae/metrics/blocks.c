/* SPDX-License-Identifier: BSD-2-Clause */
#include "metrics/blocks.h"

#include <string.h>

#define BITS 40
#define TOP_LEAST (-9) /* squares of the smallest f32 lie above 2^(40 TOP_LEAST) */
#define TOP_MOST 6     /* and of the largest below 2^(40 (TOP_MOST + 1)) */
#define ROWS_MOST ((int64_t)1 << 22) /* of a block: digits stay below 2^62 */
#define MAX_ROWS ((int64_t)1 << 53)

static const qsae__cell empty = { .top = { QSAE__CELL_EMPTY, QSAE__CELL_EMPTY, QSAE__CELL_EMPTY,
                                           QSAE__CELL_EMPTY, QSAE__CELL_EMPTY } };

int32_t qsae__blocks_open(qsae_context *ctx, qsae__blocks *b, int64_t features, int64_t per)
{
    memset(b, 0, sizeof *b);
    b->features = features;
    b->per = per;
    if (per == 0)
        return QSAE_OK;
    b->index = qsae__calloc(ctx, features, QSAE__BLOCKS * sizeof *b->index);
    return b->index ? QSAE_OK : QSAE_ENOMEM;
}

void qsae__blocks_free(qsae_context *ctx, qsae__blocks *b)
{
    qsae__free(ctx, b->index);
    qsae__free(ctx, b->cell);
    memset(b, 0, sizeof *b);
}

void qsae__blocks_reset(qsae__blocks *b)
{
    if (b->per)
        memset(b->index, 0, (size_t)(b->features * QSAE__BLOCKS) * sizeof *b->index);
    memset(b->rows, 0, sizeof b->rows);
    b->n = 0;
}

/* ---- sums ---- */

/* 2^(40 i) */
static double power(int i)
{
    const uint64_t bits = (uint64_t)(1023 + BITS * i) << 52;
    double v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

static void raise(qsae__cell *c, int s, int top)
{
    const int by = c->top[s] == QSAE__CELL_EMPTY ? 2 : top - c->top[s];
    c->digit[s][1] = by == 1 ? c->digit[s][0] : 0;
    c->digit[s][0] = 0;
    c->top[s] = (int8_t)top;
}

/* Digits of a damaged state may be anything: their sums wrap around. */
static void add_digit(int64_t *to, int64_t digit)
{
    *to = (int64_t)((uint64_t)*to + (uint64_t)digit);
}

static void add(qsae__cell *c, int s, double v)
{
    uint64_t bits;
    if (v == 0)
        return;
    memcpy(&bits, &v, sizeof bits);
    const int exponent = (int)(bits >> 52 & 0x7ff) - 1023;
    const int top = (exponent + 10 * BITS) / BITS - 10;
    if (top > c->top[s])
        raise(c, s, top);
    if (top < c->top[s] - 1)
        return;
    const int64_t high = (int64_t)(v * power(-c->top[s]));
    const double rest = v - (double)high * power(c->top[s]);
    add_digit(&c->digit[s][0], high);
    add_digit(&c->digit[s][1], (int64_t)(rest * power(1 - c->top[s])));
}

static qsae__cell *cell_at(const qsae__blocks *b, int64_t feature, int64_t block)
{
    const int32_t i = b->index[feature * QSAE__BLOCKS + block];
    return i ? &b->cell[i - 1] : NULL;
}

static int32_t cell_new(qsae_context *ctx, qsae__blocks *b, int64_t at)
{
    if (b->index[at])
        return QSAE_OK;
    if (b->n >= INT32_MAX - 1)
        return qsae__fail(QSAE_EOVERFLOW, "too many features and blocks of documents");
    if (b->n == b->capacity) {
        const int64_t wanted = qsae__max_i64(64, b->capacity + b->capacity / 2);
        const int32_t st = qsae__grow(ctx, &b->cell, &b->capacity, wanted, sizeof *b->cell);
        if (st != QSAE_OK)
            return st;
    }
    b->cell[b->n] = empty;
    b->index[at] = (int32_t)++b->n;
    return QSAE_OK;
}

static int32_t reserve_row(qsae_context *ctx, qsae__blocks *b, int64_t block,
                           const qsae_sparse_rows *s, int64_t t)
{
    int32_t st = QSAE_OK;
    for (int64_t e = s->indptr[t]; e < s->indptr[t + 1] && st == QSAE_OK; e++)
        if (s->values[e] != 0)
            st = cell_new(ctx, b, s->indices[e] * (int64_t)QSAE__BLOCKS + block);
    return st;
}

int32_t qsae__blocks_reserve(qsae_context *ctx, qsae__blocks *b, int64_t n, const int64_t *document,
                             const uint8_t *mask, const qsae_sparse_rows *r,
                             const qsae_sparse_rows *q)
{
    int32_t st = QSAE_OK;
    for (int64_t t = 0; t < n && document && b->per; t++)
        if (document[t] < 0 || document[t] / b->per >= QSAE__BLOCKS)
            return qsae__fail(QSAE_EINVAL, "document: expected 0..%lld (%d blocks of "
                              "documents_per_block), found %lld",
                              (long long)(QSAE__BLOCKS * b->per - 1), QSAE__BLOCKS,
                              (long long)document[t]);
    for (int64_t t = 0; t < n && b->per && st == QSAE_OK; t++) {
        const int64_t block = document ? document[t] / b->per : 0;
        if (mask && (mask[t] & QSAE_MASK_EXCLUDED))
            continue;
        st = reserve_row(ctx, b, block, r, t);
        if (st == QSAE_OK)
            st = reserve_row(ctx, b, block, q, t);
    }
    return st;
}

void qsae__blocks_add(qsae__blocks *b, int64_t document, const qsae_sparse_rows *r,
                      const qsae_sparse_rows *q, int64_t t)
{
    const int64_t block = document / b->per, end = q->indptr[t + 1];
    int64_t j = q->indptr[t];
    b->rows[block]++;
    for (int64_t e = r->indptr[t]; e < r->indptr[t + 1]; e++) {
        const double x = r->values[e];
        qsae__cell *const c = x != 0 ? cell_at(b, r->indices[e], block) : NULL;
        if (!c)
            continue;
        add(c, QSAE__CELL_X, x);
        add(c, QSAE__CELL_XX, x * x);
        while (j < end && q->indices[j] < r->indices[e])
            j++;
        if (j < end && q->indices[j] == r->indices[e])
            add(c, QSAE__CELL_XY, x * q->values[j]);
    }
    for (int64_t e = q->indptr[t]; e < end; e++) {
        const double y = q->values[e];
        qsae__cell *const c = y != 0 ? cell_at(b, q->indices[e], block) : NULL;
        if (!c)
            continue;
        add(c, QSAE__CELL_Y, y);
        add(c, QSAE__CELL_YY, y * y);
    }
}

static void add_cell(qsae__cell *to, const qsae__cell *from)
{
    for (int s = 0; s < QSAE__CELL_SUMS; s++) {
        if (from->top[s] == QSAE__CELL_EMPTY)
            continue;
        if (from->top[s] > to->top[s])
            raise(to, s, from->top[s]);
        const int below = to->top[s] - from->top[s];
        for (int i = 0; i + below < 2; i++)
            add_digit(&to->digit[s][i + below], from->digit[s][i]);
    }
}

int32_t qsae__blocks_merge(qsae_context *ctx, qsae__blocks *to, const qsae__blocks *from)
{
    int32_t st = QSAE_OK;
    for (int64_t i = 0; from->per && i < from->features * QSAE__BLOCKS && st == QSAE_OK; i++) {
        if (!from->index[i])
            continue;
        st = cell_new(ctx, to, i);
        if (st == QSAE_OK)
            add_cell(&to->cell[to->index[i] - 1], &from->cell[from->index[i] - 1]);
    }
    for (int g = 0; g < QSAE__BLOCKS; g++)
        to->rows[g] += from->rows[g];
    return st;
}

/* ---- state ---- */

static bool is_empty(const qsae__cell *c)
{
    return memcmp(c, &empty, sizeof empty) == 0;
}

void qsae__blocks_write(const qsae__blocks *b, qsae__strbuf *out)
{
    const int64_t places = b->per ? b->features * QSAE__BLOCKS : 0;
    int64_t n = 0;
    for (int64_t i = 0; i < places; i++)
        n += b->index[i] && !is_empty(&b->cell[b->index[i] - 1]);
    qsae__strbuf_add(out, &b->per, sizeof b->per);
    qsae__strbuf_add(out, b->rows, sizeof b->rows);
    qsae__strbuf_add(out, &n, sizeof n);
    for (int64_t i = 0; i < places; i++) {
        if (!b->index[i] || is_empty(&b->cell[b->index[i] - 1]))
            continue;
        qsae__strbuf_add(out, &i, sizeof i);
        qsae__strbuf_add(out, &b->cell[b->index[i] - 1], sizeof *b->cell);
    }
}

static bool cell_valid(const qsae__cell *c)
{
    for (int s = 0; s < QSAE__CELL_SUMS; s++) {
        const bool none = c->top[s] == QSAE__CELL_EMPTY;
        if (none ? c->digit[s][0] || c->digit[s][1]
                 : c->top[s] < TOP_LEAST || c->top[s] > TOP_MOST)
            return false;
    }
    return !c->zero[0] && !c->zero[1] && !c->zero[2] && !is_empty(c);
}

int32_t qsae__blocks_read(qsae_context *ctx, qsae__blocks *b, const uint8_t *data, size_t size,
                          size_t *used)
{
    const size_t head = sizeof b->per + sizeof b->rows + sizeof(int64_t),
                 each = sizeof(int64_t) + sizeof(qsae__cell);
    int64_t per, n, last = -1;
    *used = 0;
    if (size < head)
        return qsae__fail(QSAE_EFORMAT, "metric state: truncated in the blocks of documents");
    memcpy(&per, data, sizeof per);
    memcpy(b->rows, data + sizeof per, sizeof b->rows);
    memcpy(&n, data + head - sizeof n, sizeof n);
    if (per != b->per)
        return qsae__fail(QSAE_EMISMATCH, "metric state: documents_per_block: the file has %lld, "
                          "the metric %lld", (long long)per, (long long)b->per);
    for (int g = 0; g < QSAE__BLOCKS; g++)
        if (b->rows[g] < 0 || b->rows[g] > MAX_ROWS)
            return qsae__fail(QSAE_EFORMAT, "metric state: rows of a block of documents: expected "
                              "0..2^53, found %lld", (long long)b->rows[g]);
    if (n < 0 || (uint64_t)n > (size - head) / each)
        return qsae__fail(QSAE_EFORMAT, "metric state: the blocks of documents do not fit");
    for (int64_t i = 0; i < n; i++) {
        const uint8_t *const from = data + head + (size_t)i * each;
        qsae__cell c;
        int64_t at;
        memcpy(&at, from, sizeof at);
        memcpy(&c, from + sizeof at, sizeof c);
        if (at <= last || at >= b->features * QSAE__BLOCKS || b->rows[at % QSAE__BLOCKS] == 0 ||
            !cell_valid(&c))
            return qsae__fail(QSAE_EFORMAT, "metric state: a block of documents is out of place");
        const int32_t st = cell_new(ctx, b, at);
        if (st != QSAE_OK)
            return st;
        b->cell[b->index[at] - 1] = c;
        last = at;
    }
    *used = head + (size_t)n * each;
    return QSAE_OK;
}

/* ---- the jackknife ---- */

int64_t qsae__blocks_count(const qsae__blocks *b)
{
    int64_t n = 0;
    for (int g = 0; g < QSAE__BLOCKS; g++) {
        n += b->rows[g] > 0;
        if (b->rows[g] > ROWS_MOST)
            return 0;
    }
    return n >= QSAE__BLOCKS_LEAST ? n : 0;
}

double qsae__blocks_freedom(const qsae__blocks *b)
{
    double sum = 0, squares = 0;
    for (int g = 0; g < QSAE__BLOCKS; g++) {
        const double n = (double)b->rows[g];
        sum += n;
        squares += n * n;
    }
    return fmax(1, sum * sum / squares - 1);
}

static void sums_of(const qsae__cell *c, double *sum)
{
    for (int s = 0; s < QSAE__CELL_SUMS; s++) {
        const int top = c->top[s];
        sum[s] = top == QSAE__CELL_EMPTY ? 0
                                         : (double)c->digit[s][0] * power(top) +
                                               (double)c->digit[s][1] * power(top - 1);
    }
}

bool qsae__blocks_sums(const qsae__blocks *b, int64_t f,
                       double part[QSAE__BLOCKS][QSAE__CELL_SUMS])
{
    bool fired = false;
    for (int g = 0; g < QSAE__BLOCKS; g++) {
        const qsae__cell *const c = cell_at(b, f, g);
        sums_of(c ? c : &empty, part[g]);
        fired |= c && !is_empty(c);
    }
    return fired;
}

void qsae__blocks_left_out(const qsae__blocks *b, double part[QSAE__BLOCKS][QSAE__CELL_SUMS],
                           double *r)
{
    double total[QSAE__CELL_SUMS] = { 0 }, left[QSAE__CELL_SUMS], n = 0;
    for (int g = 0; g < QSAE__BLOCKS; g++) {
        n += (double)b->rows[g];
        for (int s = 0; s < QSAE__CELL_SUMS; s++)
            total[s] += part[g][s];
    }
    for (int g = 0; g < QSAE__BLOCKS; g++) {
        for (int s = 0; s < QSAE__CELL_SUMS; s++)
            left[s] = total[s] - part[g][s];
        r[g] = b->rows[g] > 0 ? qsae__pearson(left, n - (double)b->rows[g]) : NAN;
    }
}

double qsae__blocks_error(const double *left_out)
{
    double n = 0, mean = 0, m2 = 0;
    for (int g = 0; g < QSAE__BLOCKS; g++) {
        if (isnan(left_out[g]))
            continue;
        n += 1;
        const double at = left_out[g] - mean;
        mean += at / n;
        m2 += at * (left_out[g] - mean);
    }
    return sqrt(m2 * (n - 1) / n);
}

/* Of r = 1 as far as f64 goes. */
static double scale(double r)
{
    const double most = 0x1.fffffffffffffp-1;
    return atanh(fmax(-most, fmin(most, r)));
}

/* (sum of d^2)^2 / sum of d^4, d the deviations from the mean: 1 if one block has them all. */
static double spread(const double *z)
{
    double n = 0, mean = 0, squares = 0, fourth = 0;
    for (int g = 0; g < QSAE__BLOCKS; g++)
        if (!isnan(z[g])) {
            n += 1;
            mean += (z[g] - mean) / n;
        }
    for (int g = 0; g < QSAE__BLOCKS; g++)
        if (!isnan(z[g])) {
            const double d2 = (z[g] - mean) * (z[g] - mean);
            squares += d2;
            fourth += d2 * d2;
        }
    return fourth > 0 ? squares * squares / fourth : 1;
}

void qsae__blocks_interval(const double *left_out, double r, const qsae__blocks_t *t, double *low,
                           double *high)
{
    double z[QSAE__BLOCKS];
    for (int g = 0; g < QSAE__BLOCKS; g++)
        z[g] = isnan(left_out[g]) ? NAN : scale(left_out[g]);
    const double se = qsae__blocks_error(z);
    const double freedom = fmax(1, fmin(t->freedom, spread(z)));
    const int k = freedom < QSAE__BLOCKS ? (int)freedom : QSAE__BLOCKS;
    const double a = t->quantile[k], half = se * (a + (freedom - k) * (t->quantile[k + 1] - a));
    *low = se > 0 ? tanh(scale(r) - half) : r;
    *high = se > 0 ? tanh(scale(r) + half) : r;
}
