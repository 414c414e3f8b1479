/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Random numbers are Philox4x32-10 (Salmon et al., SC11) under the seed's key, counted by element
 * and stream, and the normal ones the inverse distribution function of them (Wichura, AS 241,
 * PPND7) with a logarithm of its own: only operations that IEEE 754 defines to the bit, so that the
 * noise is the same on every CPU.
 */
#include "codecs/control.h"

#include <math.h>
#include <string.h>

#include "codecs/plain.h"

#define PART 1024
#define LANES 4            /* words of a Philox block */
#define ROUNDS 8           /* of the permutation */
#define PASSES 5           /* most that are made to match a norm */
#define TOLERANCE 1e-6     /* of the squared norm */

struct job {
    const qsae__source *src;
    const qsae_qmatrix *encoded;
    qsae_qmatrix *q;
    uint64_t seed, stream;
    float *noise;          /* [n_out, n_in] */
    double *sum;           /* [n_out] squares of a row */
    double factor;         /* of the noise */
    uint64_t key[ROUNDS];  /* permutation of [0, high * low), walked until it is below n */
    uint64_t high, low, n;
    bool permute;
};

static void philox(uint64_t seed, uint64_t stream, uint64_t block, uint32_t out[LANES])
{
    uint32_t c0 = (uint32_t)block, c1 = (uint32_t)(block >> 32);
    uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int i = 0; i < 10; i++) {
        const uint64_t a = (uint64_t)0xd2511f53u * c0, b = (uint64_t)0xcd9e8d57u * c2;
        c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)b;
        c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)a;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* ln x for positive normal x, within 1e-13: x = 2^e m with m in (sqrt(1/2), sqrt(2)], and the
 * series of atanh. */
static double natural_log(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    double e = (double)((int64_t)(bits >> 52) - 1023);
    bits = (bits & 0xfffffffffffffu) | 0x3ff0000000000000u;
    memcpy(&x, &bits, sizeof x);
    if (x > 1.41421356237309504880) {
        x /= 2;
        e += 1;
    }
    const double s = (x - 1) / (x + 1), z = s * s;
    double p = 1.0 / 15;
    for (int k = 13; k >= 1; k -= 2)
        p = p * z + 1.0 / k;
    return 0.693147180559945309417 * e + 2 * s * p;
}

/* AS 241 for the outer parts; tail: the probability beyond the result, in (0, 0.075]. */
static double outer(double tail)
{
    double r = sqrt(-natural_log(tail));
    if (r <= 5) {
        r -= 1.6;
        return (((1.7023821103e-1 * r + 1.3067284816) * r + 2.7568153900) * r + 1.4234372777) /
               ((1.2021132975e-1 * r + 7.3700164250e-1) * r + 1);
    }
    r -= 5;
    return (((1.7337203997e-2 * r + 4.2868294337e-1) * r + 3.0812263860) * r + 6.6579051150) /
           ((1.2258202635e-2 * r + 2.4197894225e-1) * r + 1);
}

/* The normal number of a word: the quantile at (word + 1/2) / 2^32. */
static float normal(uint32_t word)
{
    const double q = (double)(int32_t)(word ^ 0x80000000u) * 0x1p-32 + 0x1p-33;
    if (fabs(q) > 0.425) {
        const double v = outer(0.5 - fabs(q));
        return (float)(q < 0 ? -v : v);
    }
    const double r = 0.180625 - q * q;
    const double top = ((5.9109374720e1 * r + 1.5929113202e2) * r + 5.0434271938e1) * r +
                       3.3871327179;
    const double bottom = ((6.7187563600e1 * r + 7.8757757664e1) * r + 1.7895169469e1) * r + 1;
    return (float)(q * top / bottom);
}

/* dst[n] = normal numbers first..first+n of a stream. */
static void normals(uint64_t seed, uint64_t stream, int64_t first, int64_t n, float *dst)
{
    uint32_t word[LANES];
    for (int64_t i = first; i < first + n; i++) {
        if (i == first || i % LANES == 0)
            philox(seed, stream, (uint64_t)(i / LANES), word);
        *dst++ = normal(word[i % LANES]);
    }
}

/* An f32 from which rounding to bf16 or f16 gives what rounding v would: to odd if inexact. */
static float to_odd(double v)
{
    float f = (float)v;
    if ((double)f == v || isnan(f))
        return f;
    uint32_t bits = qsae__f32_bits(f);
    bits -= fabs((double)f) > fabs(v);
    return qsae__f32_from_bits(bits | 1);
}

static double squares(const float *x, const float *y, int64_t n)
{
    double sum = 0;
    for (int64_t j = 0; j < n; j++) {
        const double e = (double)x[j] - (double)y[j];
        sum += isfinite(e) ? e * e : 0;
    }
    return sum;
}

/* Row of encoded - src: its squares, and for permute itself. */
static int32_t error_row(void *arg, int64_t row, int32_t worker)
{
    const struct job *job = arg;
    const int64_t k = job->q->n_in;
    float x[PART], y[PART];
    double sum = 0;
    (void)worker;
    for (int64_t c0 = 0; c0 < k; c0 += PART) {
        const int64_t n = qsae__min_i64(PART, k - c0);
        qsae__source_row(job->src, row, c0, n, x);
        job->encoded->ops->decode(job->encoded, row, c0, n, job->q->dtype, y);
        sum += squares(y, x, n);
        for (int64_t j = 0; j < n && job->permute; j++)
            job->noise[row * k + c0 + j] = (float)((double)y[j] - (double)x[j]);
    }
    job->sum[row] = sum;
    return QSAE_OK;
}

static int32_t normal_row(void *arg, int64_t row, int32_t worker)
{
    const struct job *job = arg;
    const int64_t k = job->q->n_in;
    float *const g = job->noise + row * k;
    double sum = 0;
    (void)worker;
    normals(job->seed, job->stream, row * k, k, g);
    for (int64_t j = 0; j < k; j++)
        sum += (double)g[j] * (double)g[j];
    job->sum[row] = sum;
    return QSAE_OK;
}

/* splitmix64's finalizer. */
static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* Number in [0, n) from the upper half of a mixed word; n below 2^32. */
static uint64_t below(uint64_t word, uint64_t n)
{
    return (mix(word) >> 32) * n >> 32;
}

/*
 * Where element i of the result takes its error from. A Feistel network on the two digits of i in
 * base low is a permutation of [0, high * low); following a cycle of it until it is back below n
 * makes it one of [0, n) (Black & Rogaway, CT-RSA 2002).
 */
static uint64_t place(const struct job *job, uint64_t i)
{
    do {
        uint64_t a = i / job->low, b = i % job->low;
        for (int r = 0; r < ROUNDS; r += 2) {
            a += below(b + job->key[r], job->high);
            a -= a >= job->high ? job->high : 0;
            b += below(a + job->key[r + 1], job->low);
            b -= b >= job->low ? job->low : 0;
        }
        i = a * job->low + b;
    } while (i >= job->n);
    return i;
}

static void plan_places(struct job *job)
{
    uint32_t word[LANES];
    job->n = (uint64_t)(job->q->n_out * job->q->n_in);
    job->high = (uint64_t)sqrt((double)job->n);
    while (job->high * job->high < job->n)
        job->high++;
    job->low = (job->n + job->high - 1) / job->high;
    for (int r = 0; r < ROUNDS; r++) {
        philox(job->seed, job->stream, UINT64_MAX - (uint64_t)r, word); /* beyond all elements */
        job->key[r] = (uint64_t)word[0] << 32 | word[1];
    }
}

/* The n errors that come to elements first.. of the result. */
static void gather(const struct job *job, int64_t first, int64_t n, float *dst)
{
    uint64_t at[PART];
    for (int64_t j = 0; j < n; j++) /* apart, so that the loads below wait for nothing */
        at[j] = place(job, (uint64_t)(first + j));
    for (int64_t j = 0; j < n; j++)
        dst[j] = job->noise[at[j]];
}

/* Row of the result: src + noise * factor, or the errors from their new places; sum: the squares
 * of what was added. */
static int32_t result_row(void *arg, int64_t row, int32_t worker)
{
    const struct job *job = arg;
    const int64_t k = job->q->n_in;
    const int32_t dtype = job->q->dtype;
    float x[PART], y[PART];
    double sum = 0;
    (void)worker;
    for (int64_t c0 = 0; c0 < k; c0 += PART) {
        const int64_t n = qsae__min_i64(PART, k - c0), first = row * k + c0;
        qsae__source_row(job->src, row, c0, n, x);
        if (job->permute)
            gather(job, first, n, y);
        else
            memcpy(y, job->noise + first, (size_t)n * sizeof *y);
        for (int64_t j = 0; j < n; j++) {
            const double e = (double)y[j] * job->factor, v = (double)x[j] + e;
            y[j] = e == 0 ? x[j] : dtype == QSAE_F32 ? (float)v : to_odd(v);
        }
        qsae__plain_store(job->q, row, c0, n, y);
        qsae__codec_none.decode(job->q, row, c0, n, QSAE_F32, y);
        sum += squares(y, x, n);
    }
    job->sum[row] = sum;
    return QSAE_OK;
}

/* Runs fn over the rows; the sum of their sums. */
static int32_t run(struct job *job, qsae__tile_fn fn, double *sum)
{
    const int32_t status = qsae__parallel(job->q->ctx, job->q->n_out, fn, job);
    *sum = 0;
    for (int64_t row = 0; row < job->q->n_out; row++)
        *sum += job->sum[row];
    return status;
}

/*
 * Rounding to bf16 adds to the noise, or swallows some: the factor is moved until the norm of what
 * was really added is the codec's. With f32 the first one does.
 */
static int32_t gauss(struct job *job, double want)
{
    double normal_sum, got, added;
    int32_t status = run(job, normal_row, &normal_sum);
    double square = want / normal_sum; /* of the factor */
    for (int pass = 0; pass < PASSES && !status; pass++) {
        job->factor = sqrt(square);
        status = run(job, result_row, &got);
        if (fabs(got - want) <= TOLERANCE * want)
            break;
        added = got - square * normal_sum; /* by rounding */
        square = added < want ? (want - added) / normal_sum : square * want / got;
    }
    return status;
}

int32_t qsae__control_encode(enum qsae__control control, uint64_t seed, const qsae__source *src,
                             const qsae_qmatrix *encoded, qsae_qmatrix **out)
{
    qsae_context *const ctx = src->ctx;
    struct job job = { .src = src, .encoded = encoded, .seed = seed, .stream = src->stream,
                       .factor = 1, .permute = control == QSAE__CONTROL_PERMUTE };
    double sum;
    *out = NULL;
    if (control != QSAE__CONTROL_GAUSS && control != QSAE__CONTROL_PERMUTE)
        return qsae__fail(QSAE_EINVAL, "control: unknown kind %d", (int)control);
    if (encoded->n_out != src->n_out || encoded->n_in != src->n_in)
        return qsae__fail(QSAE_EMISMATCH, "control: encoded weight [%lld, %lld], expected "
                          "[%lld, %lld]", (long long)encoded->n_out, (long long)encoded->n_in,
                          (long long)src->n_out, (long long)src->n_in);
    int32_t status = qsae__plain_new(src, &job.q);
    if (status)
        return status;
    job.noise = qsae__alloc_array(ctx, src->n_out * src->n_in, sizeof *job.noise);
    job.sum = qsae__alloc_array(ctx, src->n_out, sizeof *job.sum);
    if (!job.noise || !job.sum) {
        status = QSAE_ENOMEM;
        goto done;
    }
    plan_places(&job);
    status = run(&job, error_row, &sum);
    if (!status && !job.permute && sum > 0) {
        status = gauss(&job, sum);
    } else if (!status) {
        job.factor = job.permute; /* without an error: no noise */
        if (!job.permute)
            memset(job.noise, 0, (size_t)(src->n_out * src->n_in) * sizeof *job.noise);
        status = run(&job, result_row, &sum);
    }
done:
    qsae__free(ctx, job.noise);
    qsae__free(ctx, job.sum);
    if (status)
        qsae__qmatrix_unref(&job.q);
    *out = job.q;
    return status;
}
