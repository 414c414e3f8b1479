/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The paper's rotation is drawn from all orthogonal matrices, not from Hadamard matrices with
 * random signs as in faster variants: then every vector's coordinates have exactly the law that the
 * values are best for, and any head width will do. The sketch projects the rotated residual, which
 * has the law of projecting the residual itself and saves a rotation.
 */
#include <math.h>
#include <string.h>

#include "codecs/kv_turbo.h"
#include "kernels/gemm.h"
#include "kernels/half.h"
#include "kernels/ops.h"

#define SEED_ROTATION 0x7475726271756e74u
#define SEED_SKETCH 0x716a6c736b657463u
#define ROOT_HALF_PI 1.2533141373155003 /* sqrt(pi / 2) */

/* ln x of a positive normal x within a few ulp, of exact operations only: a library's log differs
 * between CPUs. */
static double ln(double x)
{
    static const double ln2 = 0.6931471805599453;
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    int64_t e = (int64_t)(u >> 52) - 1023;
    u = (u & 0xfffffffffffffu) | 0x3ff0000000000000u;
    memcpy(&x, &u, sizeof x);
    if (x > 1.4142135623730951) {
        x /= 2;
        e++;
    }
    const double s = (x - 1) / (x + 1), q = s * s; /* ln x = 2 atanh s, s below 0.172 */
    double sum = 0;
    for (int k = 25; k >= 1; k -= 2)
        sum = sum * q + 1.0 / k;
    return (double)e * ln2 + 2 * s * sum;
}

/* splitmix64 (Steele, Lea and Flood, 2014) */
static uint64_t draw(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Two independent standard normal numbers: Marsaglia's polar method. */
static void draw_normal(uint64_t *state, double out[2])
{
    double a, b, r;
    do {
        a = (double)(draw(state) >> 11) * 0x1p-52 - 1;
        b = (double)(draw(state) >> 11) * 0x1p-52 - 1;
        r = a * a + b * b;
    } while (r >= 1 || r < 0x1p-100);
    const double f = sqrt(-2 * ln(r) / r);
    out[0] = a * f;
    out[1] = b * f;
}

/* In 8 lanes, folded in order. */
static double dot(const double *a, const double *b, int64_t n)
{
    double lane[8] = { 0 };
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int j = 0; j < 8; j++)
            lane[j] += a[i + j] * b[i + j];
    for (int j = 0; i < n; i++, j++)
        lane[j] += a[i] * b[i];
    for (int j = 1; j < 8; j++)
        lane[0] += lane[j];
    return lane[0];
}

/* Gram and Schmidt's, each row cleared of the finished ones in turn: the Q of a QR decomposition
 * whose R has a positive diagonal, so uniform over all orthogonal matrices. */
static void orthonormalize(int64_t n, double *m)
{
    for (int64_t i = 0; i < n; i++) {
        double *const row = m + i * n;
        const double scale = 1 / sqrt(dot(row, row, n));
        for (int64_t k = 0; k < n; k++)
            row[k] *= scale;
        for (int64_t j = i + 1; j < n; j++) {
            double *const later = m + j * n;
            const double share = dot(row, later, n);
            for (int64_t k = 0; k < n; k++)
                later[k] -= share * row[k];
        }
    }
}

void qsae__turbo_matrix(uint64_t seed, int64_t n, bool orthonormal, double *m)
{
    uint64_t state = seed + (uint64_t)n;
    double pair[2] = { 0 };
    for (int64_t i = 0; i < n * n; i++) {
        if (i % 2 == 0)
            draw_normal(&state, pair);
        m[i] = pair[i % 2];
    }
    if (orthonormal)
        orthonormalize(n, m);
}

/* *out and *transposed [n, n], rounded from a fresh matrix. */
static int32_t make_matrix(qsae_context *ctx, uint64_t seed, int64_t n, bool orthonormal,
                           float **out, float **transposed)
{
    double *const m = qsae__alloc_array(ctx, n * n, sizeof *m);
    *out = qsae__alloc_array(ctx, n * n, sizeof **out);
    *transposed = qsae__alloc_array(ctx, n * n, sizeof **transposed);
    const bool ok = m && *out && *transposed;
    if (ok) {
        qsae__turbo_matrix(seed, n, orthonormal, m);
        for (int64_t i = 0; i < n * n; i++)
            (*out)[i] = (*transposed)[i % n * n + i / n] = (float)m[i];
    }
    qsae__free(ctx, m);
    return ok ? QSAE_OK : QSAE_ENOMEM;
}

int32_t qsae__turbo_init(qsae_context *ctx, int64_t dim, int32_t bits, bool sketch, qsae__turbo *t)
{
    const int32_t n = 1 << bits;
    double value[1 << QSAE__TURBO_MAX_BITS];
    memset(t, 0, sizeof *t);
    t->ctx = ctx;
    t->dim = dim;
    t->bits = bits;
    const qsae__fpenv env = qsae__fpenv_enter();
    int32_t st = make_matrix(ctx, SEED_ROTATION, dim, true, &t->rotation, &t->rotation_t);
    if (st == QSAE_OK && sketch)
        st = make_matrix(ctx, SEED_SKETCH, dim, false, &t->sketch, &t->sketch_t);
    if (st == QSAE_OK) {
        qsae__turbo_codebook(dim, n, value);
        for (int32_t i = 0; i < n; i++) {
            t->value[i] = (float)value[i];
            t->middle[i] = i < n - 1 ? (float)((value[i] + value[i + 1]) / 2) : INFINITY;
        }
    }
    qsae__fpenv_leave(env);
    return st;
}

void qsae__turbo_free(qsae__turbo *t)
{
    qsae__free(t->ctx, t->rotation);
    qsae__free(t->ctx, t->rotation_t);
    qsae__free(t->ctx, t->sketch);
    qsae__free(t->ctx, t->sketch_t);
}

int64_t qsae__turbo_floats(const qsae__turbo *t, int64_t n)
{
    return QSAE__GEMM_SCRATCH + n * (3 * t->dim + 2);
}

/* Index of the nearest value: of two equally near the smaller. */
static int32_t nearest(const qsae__turbo *t, float x)
{
    int32_t i = 0;
    for (int32_t step = 1 << (t->bits - 1); step > 0; step /= 2)
        i += x > t->middle[i + step - 1] ? step : 0;
    return i;
}

struct call {
    const qsae__turbo *t;
    const qsae__ops *ops;
    int64_t n;
    float *pack;          /* QSAE__GEMM_SCRATCH */
    float *a, *b, *c;     /* [n, dim] */
    float *norm, *rest;   /* [n] as stored: of the vectors, of what is left of their directions */
};

/* y[n, dim] = x w^T, w given transposed. */
static void multiply(const struct call *k, const float *x, const float *w_t, float *y)
{
    const int64_t d = k->t->dim;
    const qsae__dense w = { .data = w_t,
                            .dtype = QSAE_F32,
                            .level = k->t->ctx->level,
                            .n_stride = 1,
                            .k_stride = d };
    const qsae__panels p = qsae__panels_dense(&w, d, d);
    for (int64_t n0 = 0; n0 < d; n0 += QSAE__GEMM_NB)
        qsae__gemm_tile(k->t->ctx, k->n, x, d, &p, n0, qsae__min_i64(d, n0 + QSAE__GEMM_NB),
                        y + n0, d, k->pack);
}

/* a = directions of x, norm = norms of x. */
static void normalize(const struct call *k, const float *x)
{
    const int64_t d = k->t->dim;
    for (int64_t i = 0; i < k->n; i++) {
        const float norm = sqrtf(k->ops->sum_sq(x + i * d, d));
        k->norm[i] = qsae__round_f16(norm);
        const bool usable = k->norm[i] > 0 && k->norm[i] < INFINITY;
        k->ops->scale(x + i * d, usable ? 1 / norm : 0, k->a + i * d, d);
    }
}

/* a = values nearest to b, b = what is left. */
static void pick(const struct call *k)
{
    for (int64_t i = 0; i < k->n * k->t->dim; i++) {
        k->a[i] = k->t->value[nearest(k->t, k->b[i])];
        k->b[i] -= k->a[i];
    }
}

/* a += sqrt(pi/2) / dim * |b| * S^T sign(S b) */
static void add_sketch(const struct call *k)
{
    const int64_t d = k->t->dim;
    for (int64_t i = 0; i < k->n; i++)
        k->rest[i] = qsae__round_f16(sqrtf(k->ops->sum_sq(k->b + i * d, d)));
    multiply(k, k->b, k->t->sketch_t, k->c);
    for (int64_t i = 0; i < k->n * d; i++)
        k->c[i] = k->c[i] < 0 ? -1.0f : 1.0f;
    multiply(k, k->c, k->t->sketch, k->b);
    for (int64_t i = 0; i < k->n; i++) {
        const float f = (float)(ROOT_HALF_PI / (double)d) * k->rest[i];
        k->ops->scale(k->b + i * d, f, k->b + i * d, d);
    }
    k->ops->add(k->a, k->b, k->a, k->n * d, 0);
}

void qsae__turbo_apply(const qsae__turbo *t, float *x, int64_t n, float *scratch)
{
    const int64_t d = t->dim;
    struct call k = { .t = t, .ops = qsae__ops_get(t->ctx), .n = n, .pack = scratch };
    k.a = scratch + QSAE__GEMM_SCRATCH;
    k.b = k.a + n * d;
    k.c = k.b + n * d;
    k.norm = k.c + n * d;
    k.rest = k.norm + n;
    normalize(&k, x);
    multiply(&k, k.a, t->rotation_t, k.b);
    pick(&k);
    if (t->sketch)
        add_sketch(&k);
    multiply(&k, k.a, t->rotation, x);
    for (int64_t i = 0; i < n; i++) {
        float *const row = x + i * d;
        if (k.norm[i] > 0 && k.norm[i] < INFINITY)
            k.ops->scale(row, k.norm[i], row, d);
        else
            for (int64_t j = 0; j < d; j++)
                row[j] = k.norm[i] > 0 ? NAN : 0.0f;
    }
}
