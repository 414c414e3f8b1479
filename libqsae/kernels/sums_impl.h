/* SPDX-License-Identifier: BSD-2-Clause */
/* Body of sums.h at one level; SUMS is the name of the table. See lanes.h. */
#include "kernels/lanes.h"
#include "kernels/sums.h"

typedef double d8 __attribute__((vector_size(64)));
typedef float f8 __attribute__((vector_size(32)));
#define WIDTH 8

INLINE d8 d8_load(const double *p)
{
    d8 v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void d8_store(double *p, d8 v)
{
    memcpy(p, &v, sizeof v);
}

/* What is left of a row fills up with zeros, which change no sum. */
INLINE d8 d8_load_part(const double *p, int64_t n)
{
    d8 v = { 0 };
    memcpy(&v, p, (size_t)n * sizeof *p);
    return v;
}

INLINE double d8_fold(d8 v)
{
    return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

static void op_widen(const float *x, double *y, int64_t n)
{
    int64_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH) {
        f8 v;
        memcpy(&v, x + i, sizeof v);
        d8_store(y + i, __builtin_convertvector(v, d8));
    }
    for (; i < n; i++)
        y[i] = x[i];
}

static void op_sub(const double *x, const double *y, double *z, int64_t n)
{
    int64_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH)
        d8_store(z + i, d8_load(x + i) - d8_load(y + i));
    for (; i < n; i++)
        z[i] = x[i] - y[i];
}

static void op_add_squares(const double *x, double *y, int64_t n)
{
    int64_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH)
        d8_store(y + i, d8_load(y + i) + d8_load(x + i) * d8_load(x + i));
    for (; i < n; i++)
        y[i] += x[i] * x[i];
}

static double op_sum(const double *x, int64_t n)
{
    d8 lane = { 0 };
    int64_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH)
        lane += d8_load(x + i);
    if (i < n)
        lane += d8_load_part(x + i, n - i);
    return d8_fold(lane);
}

static double op_dot(const double *x, const double *y, int64_t n)
{
    d8 lane = { 0 };
    int64_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH)
        lane += d8_load(x + i) * d8_load(y + i);
    if (i < n)
        lane += d8_load_part(x + i, n - i) * d8_load_part(y + i, n - i);
    return d8_fold(lane);
}

static void op_welford(double *mean, double *m2, const double *x, double inv_n, int64_t n)
{
    int64_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH) {
        const d8 v = d8_load(x + i), old = d8_load(mean + i), delta = v - old;
        const d8 now = old + delta * inv_n;
        d8_store(mean + i, now);
        d8_store(m2 + i, d8_load(m2 + i) + delta * (v - now));
    }
    for (; i < n; i++) {
        const double delta = x[i] - mean[i];
        mean[i] += delta * inv_n;
        m2[i] += delta * (x[i] - mean[i]);
    }
}

static double op_welford_sum(double *mean, const double *x, double inv_n, int64_t n)
{
    d8 lane = { 0 };
    int64_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH) {
        const d8 v = d8_load(x + i), old = d8_load(mean + i), delta = v - old;
        const d8 now = old + delta * inv_n;
        d8_store(mean + i, now);
        lane += delta * (v - now);
    }
    if (i < n) {
        const d8 v = d8_load_part(x + i, n - i), old = d8_load_part(mean + i, n - i);
        const d8 delta = v - old, now = old + delta * inv_n;
        memcpy(mean + i, &now, (size_t)(n - i) * sizeof *mean);
        lane += delta * (v - now);
    }
    return d8_fold(lane);
}

const qsae__sums_ops SUMS = {
    .widen = op_widen,
    .sub = op_sub,
    .add_squares = op_add_squares,
    .sum = op_sum,
    .dot = op_dot,
    .welford = op_welford,
    .welford_sum = op_welford_sum,
};
