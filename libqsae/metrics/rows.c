/* SPDX-License-Identifier: BSD-2-Clause */
#include <string.h>

#include "metrics/parts.h"

#define LANES 8

/* Row r in f64; scratch [n_cols] f32 is used for 16-bit types. */
void qsae__row_f64(const qsae_rows *rows, int64_t r, double *out, float *scratch)
{
    const int64_t d = rows->n_cols;
    const void *const at = qsae__rows_at(rows, r);
    if (rows->dtype == QSAE_F64) {
        memcpy(out, at, (size_t)d * sizeof *out);
        return;
    }
    if (rows->dtype == QSAE_F32)
        memcpy(scratch, at, (size_t)d * sizeof *scratch);
    else
        qsae__to_f32(rows->dtype, at, d, scratch);
    for (int64_t i = 0; i < d; i++)
        out[i] = scratch[i];
}

static double fold(const double *lane)
{
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) +
           ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

double qsae__dot(const double *x, const double *y, int64_t n)
{
    double lane[LANES] = { 0 };
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int64_t l = 0; l < LANES; l++)
            lane[l] += x[i + l] * y[i + l];
    for (int64_t l = 0; i + l < n; l++)
        lane[l] += x[i + l] * y[i + l];
    return fold(lane);
}

double qsae__sum(const double *x, int64_t n)
{
    double lane[LANES] = { 0 };
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int64_t l = 0; l < LANES; l++)
            lane[l] += x[i + l];
    for (int64_t l = 0; i + l < n; l++)
        lane[l] += x[i + l];
    return fold(lane);
}

void qsae__welford(double *restrict mean, double *restrict m2, const double *restrict x,
                   double inv_n, int64_t d)
{
    for (int64_t i = 0; i < d; i++) {
        const double delta = x[i] - mean[i];
        mean[i] += delta * inv_n;
        m2[i] += delta * (x[i] - mean[i]);
    }
}

double qsae__welford_sum(double *restrict mean, const double *restrict x, double inv_n, int64_t d)
{
    double lane[LANES] = { 0 };
    int64_t i = 0;
    for (; i + LANES <= d; i += LANES)
        for (int64_t l = 0; l < LANES; l++) {
            const double delta = x[i + l] - mean[i + l];
            mean[i + l] += delta * inv_n;
            lane[l] += delta * (x[i + l] - mean[i + l]);
        }
    for (int64_t l = 0; i + l < d; l++) {
        const double delta = x[i + l] - mean[i + l];
        mean[i + l] += delta * inv_n;
        lane[l] += delta * (x[i + l] - mean[i + l]);
    }
    return fold(lane);
}

double qsae__chan(double na, double *mean, double *m2, double nb, const double *mean_b,
                  const double *m2_b, int64_t d)
{
    if (nb == 0)
        return 0;
    if (na == 0) {
        memcpy(mean, mean_b, (size_t)d * sizeof *mean);
        if (m2)
            memcpy(m2, m2_b, (size_t)d * sizeof *m2);
        return 0;
    }
    const double n = na + nb, share = nb / n, weight = na * share;
    double grown = 0;
    for (int64_t i = 0; i < d; i++) {
        const double delta = mean_b[i] - mean[i], more = delta * delta * weight;
        mean[i] += delta * share;
        if (m2)
            m2[i] += m2_b[i] + more;
        grown += more;
    }
    return grown;
}
