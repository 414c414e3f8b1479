/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Lloyd-Max values for one coordinate of a random unit vector in d dimensions, whose density is
 * proportional to (1 - x^2)^((d-3)/2) on [-1, 1] (arXiv 2504.19874, lemma 1). It is even and, for
 * d >= 3, log-concave: there is one optimum, and it is symmetric. So the half on [0, 1] is sought:
 * 0 < c_0 < c_1 < ... where each c is the mean of its cell and cells meet half way.
 */
#include <math.h>

#include "codecs/kv_turbo.h"

#define MOST 128   /* values of a half */
#define LLOYD 20   /* plain steps before Newton's */
#define STEPS 200  /* in all; quadratic convergence needs a handful */

/* Positive nodes and weights of Gauss and Legendre's rule with 8 points on [-1, 1]. */
static const double node[4] = { 0.1834346424956498, 0.5255324099163290, 0.7966664774136267,
                                0.9602898564975363 };
static const double weight[4] = { 0.3626837833783620, 0.3137066458778873, 0.2223810344533745,
                                  0.1012285362903763 };

struct law {
    int64_t dim;
    double piece; /* widest piece of an integral, in the variable of `moments` */
};

static double power(double x, int64_t n)
{
    double y = 1;
    for (; n > 0; n /= 2, x *= x)
        if (n & 1)
            y *= x;
    return y;
}

/* Up to a constant, the same as in moments. */
static double density(const struct law *l, double x)
{
    return power(sqrt((1 - x) * (1 + x)), l->dim - 3);
}

/*
 * Integrals of the density and of x times it over [a, b]. x = 2u / (1 + u^2) turns the root into a
 * rational function: (1 - x^2)^(1/2) = (1 - u^2) / (1 + u^2), dx = 2 (1 - u^2) / (1 + u^2)^2 du,
 * smooth up to the end of the range for any d.
 */
static void moments(const struct law *l, double a, double b, double m[2])
{
    const double u0 = a / (1 + sqrt((1 - a) * (1 + a))), u1 = b / (1 + sqrt((1 - b) * (1 + b)));
    const int64_t pieces = (int64_t)((u1 - u0) / l->piece) + 1;
    const double half = (u1 - u0) / (double)pieces / 2;
    m[0] = m[1] = 0;
    for (int64_t p = 0; p < pieces; p++) {
        const double middle = u0 + half * (double)(2 * p + 1);
        for (int i = 0; i < 8; i++) {
            const double u = middle + half * (i < 4 ? -node[3 - i] : node[i - 4]);
            const double w = half * (i < 4 ? weight[3 - i] : weight[i - 4]);
            const double q = 1 + u * u, root = (1 - u) * (1 + u) / q;
            const double f = w * power(root, l->dim - 2) * 2 / q;
            m[0] += f;
            m[1] += f * (2 * u / q);
        }
    }
}

/* Values of equal share under the density to the power 1/3, which is best for many values (Panter
 * and Dite); that power is the law of about a third of the dimensions. */
static void start(const struct law *l, int32_t n, double *c)
{
    enum { GRID = 1024 };
    const struct law wide = { 3 + (l->dim - 3 + 1) / 3, l->piece };
    double total[2], cell[2], sum = 0, before = 0;
    int32_t i = 0;
    moments(&wide, 0, 1, total);
    for (int g = 0; g < GRID && i < n; g++) {
        moments(&wide, (double)g / GRID, (double)(g + 1) / GRID, cell);
        before = sum;
        sum += cell[0];
        for (double want; i < n && (want = (i + 0.5) / n * total[0]) <= sum; i++)
            c[i] = ((double)g + (want - before) / cell[0]) / GRID;
    }
    for (; i < n; i++) /* lost to rounding */
        c[i] = 1 - (n - i) * 0x1p-20;
}

struct cells {
    double edge[MOST + 1];     /* cell i is [edge[i], edge[i + 1]] */
    double mass[MOST], first[MOST];
};

static void cut(const struct law *l, int32_t n, const double *c, struct cells *s)
{
    double m[2];
    for (int32_t i = 0; i <= n; i++)
        s->edge[i] = i == 0 ? 0 : i == n ? 1 : (c[i - 1] + c[i]) / 2;
    for (int32_t i = 0; i < n; i++) {
        moments(l, s->edge[i], s->edge[i + 1], m);
        s->mass[i] = m[0];
        s->first[i] = m[1];
    }
}

/*
 * to = c - J^-1 F with F_i = c_i mass_i - first_i and its symmetric tridiagonal derivative J. False
 * if the values would leave their order or the range.
 */
static bool newton(const struct law *l, int32_t n, const double *c, const struct cells *s,
                   double *to)
{
    double upper[MOST], right[MOST];
    for (int32_t i = 0; i < n; i++) {
        const double below = i == 0 ? 0 : (c[i] - s->edge[i]) * density(l, s->edge[i]) / 2;
        const double above =
            i == n - 1 ? 0 : (c[i] - s->edge[i + 1]) * density(l, s->edge[i + 1]) / 2;
        double diagonal = s->mass[i] + above - below;
        right[i] = c[i] * s->mass[i] - s->first[i];
        if (i > 0) {
            diagonal += below * upper[i - 1];
            right[i] += below * right[i - 1];
        }
        if (!(diagonal > 0))
            return false;
        upper[i] = above / diagonal;
        right[i] /= diagonal;
    }
    for (int32_t i = n - 1; i >= 0; i--) {
        if (i < n - 1)
            right[i] -= upper[i] * right[i + 1];
        to[i] = c[i] - right[i];
        if (!(to[i] > 0) || !(to[i] < (i < n - 1 ? to[i + 1] : 1)))
            return false;
    }
    return true;
}

void qsae__turbo_codebook(int64_t dim, int32_t n, double *value)
{
    const struct law l = { dim, 0.125 / sqrt((double)dim) };
    const int32_t half = n / 2;
    double c[MOST], next[MOST];
    struct cells s;
    start(&l, half, c);
    for (int step = 0; step < STEPS; step++) {
        double change = 0;
        cut(&l, half, c, &s);
        if (step < LLOYD || !newton(&l, half, c, &s, next))
            for (int32_t i = 0; i < half; i++)
                next[i] = s.mass[i] > 0 ? s.first[i] / s.mass[i] : c[i];
        for (int32_t i = 0; i < half; i++) {
            change = fmax(change, fabs(next[i] - c[i]) / next[i]);
            c[i] = next[i];
        }
        if (step >= LLOYD && change < 1e-14)
            break;
    }
    for (int32_t i = 0; i < half; i++) {
        value[half + i] = c[i];
        value[half - 1 - i] = -c[i];
    }
}
