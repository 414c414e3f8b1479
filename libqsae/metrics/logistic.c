/* SPDX-License-Identifier: BSD-2-Clause */
/* Logistic regression by Newton's method; a handful of inputs, so the Hessian is tiny. */
#include <math.h>
#include <string.h>

#include "metrics/ranks.h"

#define P (QSAE__INPUTS_MOST + 1)

struct problem {
    const double *x;
    const uint8_t *positive, *use;
    int64_t n, k;
    double c;
};

static double margin(const struct problem *p, const double *w, int64_t i)
{
    double z = w[p->k];
    for (int64_t j = 0; j < p->k; j++)
        z += w[j] * p->x[i * p->k + j];
    return z;
}

/* w'w / 2 + c sum log(1 + exp(-y z)) */
static double loss(const struct problem *p, const double *w)
{
    double penalty = 0, sum = 0;
    for (int64_t j = 0; j < p->k; j++)
        penalty += w[j] * w[j];
    for (int64_t i = 0; i < p->n; i++) {
        if (p->use && !p->use[i])
            continue;
        const double z = margin(p, w, i), m = p->positive[i] ? z : -z;
        sum += m > 0 ? log1p(exp(-m)) : log1p(exp(m)) - m;
    }
    return penalty / 2 + p->c * sum;
}

static void derivatives(const struct problem *p, const double *w, double *g, double h[P][P])
{
    const int64_t k = p->k;
    memset(g, 0, P * sizeof *g);
    memset(h, 0, P * sizeof *h);
    for (int64_t i = 0; i < p->n; i++) {
        if (p->use && !p->use[i])
            continue;
        const double z = margin(p, w, i), s = 1 / (1 + exp(-z));
        const double slope = s - (p->positive[i] ? 1 : 0), curve = s * (1 - s);
        for (int64_t a = 0; a <= k; a++) {
            const double xa = a < k ? p->x[i * k + a] : 1;
            g[a] += p->c * slope * xa;
            for (int64_t b = 0; b <= a; b++)
                h[a][b] += p->c * curve * xa * (b < k ? p->x[i * k + b] : 1);
        }
    }
    for (int64_t a = 0; a < k; a++) {
        g[a] += w[a];
        h[a][a] += 1;
    }
    h[k][k] += 1e-300; /* a class whose curve underflows everywhere */
}

/* d = h^-1 g by Cholesky's decomposition; h is positive definite: the penalty sees to the weights,
 * the data to the intercept. */
static void solve(double h[P][P], const double *g, int64_t n, double *d)
{
    for (int64_t a = 0; a < n; a++)
        for (int64_t b = 0; b <= a; b++) {
            double s = h[a][b];
            for (int64_t j = 0; j < b; j++)
                s -= h[a][j] * h[b][j];
            h[a][b] = a == b ? sqrt(fmax(s, 1e-300)) : s / h[b][b];
        }
    for (int64_t a = 0; a < n; a++) {
        double s = g[a];
        for (int64_t j = 0; j < a; j++)
            s -= h[a][j] * d[j];
        d[a] = s / h[a][a];
    }
    for (int64_t a = n; a-- > 0;) {
        double s = d[a];
        for (int64_t j = a + 1; j < n; j++)
            s -= h[j][a] * d[j];
        d[a] = s / h[a][a];
    }
}

void qsae__logistic(const double *x, const uint8_t *positive, const uint8_t *use, int64_t n,
                    int64_t k, double c, double *w)
{
    const struct problem p = { x, positive, use, n, k, c };
    double g[P], d[P], trial[P], h[P][P];
    memset(w, 0, (size_t)(k + 1) * sizeof *w);
    double now = loss(&p, w);
    for (int step = 0; step < 100; step++) {
        double size = 0, length = 1, next = now;
        derivatives(&p, w, g, h);
        solve(h, g, k + 1, d);
        for (int half = 0; half < 60; half++, length /= 2) {
            for (int64_t j = 0; j <= k; j++)
                trial[j] = w[j] - length * d[j];
            next = loss(&p, trial);
            if (next <= now)
                break;
        }
        if (!(next <= now))
            break;
        for (int64_t j = 0; j <= k; j++) {
            size = fmax(size, fabs(trial[j] - w[j]) / (1 + fabs(w[j])));
            w[j] = trial[j];
        }
        now = next;
        if (size < 1e-12)
            break;
    }
}
