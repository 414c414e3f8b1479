/* SPDX-License-Identifier: BSD-2-Clause */
#include "metrics/llama.h"

#include <math.h>
#include <string.h>

#define SPAN 16.0f    /* nats below the largest logit that codes reach, and KL looks at */
#define CODES 65535.0f
#define HEAD 4        /* words before the codes */

/* Nearest whole number of 0 <= x <= CODES, halves to even: beside 1.5 x 2^23 no fraction stays. */
static uint16_t nearest(float x)
{
    const float shifted = x + 12582912.0f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    return (uint16_t)bits;
}

/* Sum of f32 terms in f64, in order. */
static double sum_exp(const float *x, int64_t n, float max)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)expf(x[i] - max);
    return sum;
}

bool qsae__llama_encode(const float *x, int64_t n, uint16_t *row)
{
    float max = x[0], low = x[0];
    bool plain = true;
    for (int64_t i = 0; i < n; i++) {
        plain = plain && x[i] < INFINITY; /* not NaN either */
        max = x[i] > max ? x[i] : max;
        low = x[i] < low ? x[i] : low;
    }
    if (!plain || !(max > -INFINITY))
        return false;
    low = low < max - SPAN ? max - SPAN : low;
    const float log_sum = (float)log(sum_exp(x, n, max));
    const float head[2] = { (max - low) / CODES, low - max - log_sum };
    uint16_t *const code = row + HEAD;
    memcpy(row, head, sizeof head);
    memset(code, 0, (size_t)(qsae__logits_words(n) - HEAD) * sizeof *code);
    if (!(head[0] > 0))
        return true;
    const float inverse = 1 / head[0];
    for (int64_t i = 0; i < n; i++)
        code[i] = x[i] > low ? nearest(inverse * (x[i] - low)) : 0;
    return true;
}

void qsae__llama_decode(const uint16_t *row, int64_t vocab, float *log_p)
{
    float head[2];
    memcpy(head, row, sizeof head);
    for (int64_t i = 0; i < vocab; i++)
        log_p[i] = head[0] * (float)row[HEAD + i] + head[1];
}

qsae__llama_token qsae__llama_compare(const uint16_t *base, const float *x, int64_t n,
                                      int32_t label)
{
    float head[2], max = x[0], best = 0;
    int64_t top = 0, top_base = -1;
    double kl = 0;
    memcpy(head, base, sizeof head);
    for (int64_t i = 1; i < n; i++)
        if (x[i] > max) {
            max = x[i];
            top = i;
        }
    const float log_sum = (float)log(sum_exp(x, n, max)), lse = max + log_sum;
    const uint16_t *const code = base + HEAD;
    for (int64_t i = 0; i < n; i++) {
        const float log_p = head[0] * (float)code[i] + head[1];
        if (i == 0 || log_p > best) {
            best = log_p;
            top_base = i;
        }
        if (log_p > -SPAN) {
            const float term = expf(log_p) * (log_p - x[i] + lse);
            kl += (double)term;
        }
    }
    qsae__llama_token t = { .kl = kl, .nll = lse - x[label], .same = top == top_base };
    t.nll_base = -(head[0] * (float)code[label] + head[1]);
    t.dp = expf(-t.nll) - expf(-t.nll_base);
    return t;
}
