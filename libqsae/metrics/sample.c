/* SPDX-License-Identifier: BSD-2-Clause */
#include <stdlib.h>
#include <string.h>

#include "metrics/parts.h"

/* Finalizer of SplitMix64 (Steele, Lea, Flood 2014): every input bit reaches the low bits. */
static uint64_t mix(uint64_t z)
{
    z += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

bool qsae__sample_wants(const qsae__sample *s, int64_t token)
{
    return s->words > 0 && (mix((uint64_t)token) & (s->stride - 1)) == 0;
}

/* Doubles, but not beyond the budget: the largest part of a metric's memory. */
int32_t qsae__sample_reserve(qsae_context *ctx, qsae__sample *s, int64_t more)
{
    const int64_t need = s->n + more;
    if (s->words == 0 || need <= s->capacity)
        return QSAE_OK;
    int64_t size;
    const int64_t doubled = qsae__min_i64(qsae__max_i64(2 * s->capacity, 16), s->limit);
    const int64_t capacity = qsae__max_i64(need, doubled);
    uint64_t *const data = qsae__mul_i64(capacity, s->words, &size)
                               ? qsae__alloc_array(ctx, size, sizeof *data) : NULL;
    if (!data)
        return qsae__fail(QSAE_ENOMEM, "out of memory: a sample of %lld tokens",
                          (long long)capacity);
    if (s->n)
        memcpy(data, s->data, (size_t)(s->n * s->words) * sizeof *data);
    qsae__free(ctx, s->data);
    s->data = data;
    s->capacity = capacity;
    return QSAE_OK;
}

uint64_t *qsae__sample_push(qsae__sample *s, int64_t token)
{
    uint64_t *const record = s->data + s->n++ * s->words;
    memset(record, 0, (size_t)s->words * sizeof *record);
    record[0] = (uint64_t)token;
    return record + 1;
}

static int by_token(const void *a, const void *b)
{
    const uint64_t *const p = a, *const q = b;
    return (p[0] > q[0]) - (p[0] < q[0]);
}

void qsae__sample_settle(qsae__sample *s)
{
    for (int64_t i = 1; i < s->n; i++)
        if (s->data[i * s->words] < s->data[(i - 1) * s->words]) {
            qsort(s->data, (size_t)s->n, (size_t)s->words * sizeof *s->data, by_token);
            break;
        }
    while (s->n > s->limit && s->stride < (uint64_t)1 << 62) {
        int64_t kept = 0;
        s->stride *= 2;
        for (int64_t i = 0; i < s->n; i++) {
            const uint64_t *const record = s->data + i * s->words;
            if (!qsae__sample_wants(s, (int64_t)record[0]))
                continue;
            memmove(s->data + kept * s->words, record, (size_t)s->words * sizeof *record);
            kept++;
        }
        s->n = kept;
    }
}

int qsae__by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double qsae__quantile(const double *sorted, int64_t n, double f)
{
    if (n < 1)
        return NAN;
    const double at = f * (double)(n - 1);
    const int64_t i = (int64_t)at;
    return i + 1 < n ? sorted[i] + (sorted[i + 1] - sorted[i]) * (at - (double)i) : sorted[n - 1];
}
