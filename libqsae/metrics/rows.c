/* SPDX-License-Identifier: BSD-2-Clause */
#include <string.h>

#include "metrics/parts.h"

void qsae__row_f64(const qsae__sums_ops *ops, const qsae_rows *rows, int64_t r, double *out,
                   float *scratch)
{
    const int64_t d = rows->n_cols;
    const void *const at = qsae__rows_at(rows, r);
    if (rows->dtype == QSAE_F64) {
        memcpy(out, at, (size_t)d * sizeof *out);
        return;
    }
    if (rows->dtype == QSAE_F32 && (uintptr_t)at % sizeof *scratch == 0) {
        ops->widen(at, out, d);
        return;
    }
    qsae__to_f32(rows->dtype, at, d, scratch);
    ops->widen(scratch, out, d);
}

double qsae__dot(const double *x, const double *y, int64_t n)
{
    return qsae__sums_level(QSAE__LEVEL_C)->dot(x, y, n);
}

double qsae__sum(const double *x, int64_t n)
{
    return qsae__sums_level(QSAE__LEVEL_C)->sum(x, n);
}

double qsae__welford_sum(double *mean, const double *x, double inv_n, int64_t d)
{
    return qsae__sums_level(QSAE__LEVEL_C)->welford_sum(mean, x, inv_n, d);
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
