/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Magnitude pruning. Magnitudes are compared as the bits of |w| in f32, which widening from bf16
 * and f16 keeps in order: equal weights are equal bits, and the k-th smallest is found by counting.
 */
#include "codecs/prune.h"

#include <math.h>
#include <string.h>

#include "codecs/plain.h"

#define PART 1024
#define HALF_BINS 65536       /* of either half of a key */
#define DIGIT_BITS 11
#define DIGIT_BINS (1 << DIGIT_BITS)
#define GROUP_MAX 1024        /* of a pattern: each element meets each other of its group */
#define NAN_KEY 0x7fc00000u   /* above infinity */

struct job {
    const qsae__prune *p;
    const qsae__source *src;
    qsae_qmatrix *q;
    int64_t rows;         /* of the part at hand */
    int64_t run, step;    /* which are: `run` rows of each `step` from `first` on */
    int64_t first;
    int64_t k;            /* zeros per matrix or row */
    uint32_t high;        /* upper half of the limit, or HALF_BINS while that is looked for */
    uint32_t limit;       /* key of the k-th smallest */
    uint64_t *bins;       /* [threads, HALF_BINS] */
    int64_t *equal;       /* [n_out] keys equal to the limit: how many there are, then how many
                           * become zero */
    float *row;           /* [threads, n_in] */
};

/* Row of the matrix that is row i of the part. */
static int64_t row_of(const struct job *job, int64_t i)
{
    return i / job->run * job->step + job->first + i % job->run;
}

static uint32_t key_of(float x)
{
    const uint32_t key = qsae__f32_bits(x) & 0x7fffffffu;
    return key > 0x7f800000u ? NAN_KEY : key;
}

/* x[n] without what lies below the limit and the first *equal of what equals it. */
static void cut(float *x, int64_t n, uint32_t limit, int64_t *equal)
{
    for (int64_t j = 0; j < n; j++) {
        const uint32_t key = key_of(x[j]);
        if (key < limit || (key == limit && (*equal)-- > 0))
            x[j] = 0;
    }
}

static int32_t count_row(void *arg, int64_t i, int32_t worker)
{
    const struct job *job = arg;
    const int64_t row = row_of(job, i);
    uint64_t *const bins = job->bins + (int64_t)worker * HALF_BINS;
    float x[PART];
    for (int64_t c0 = 0; c0 < job->q->n_in; c0 += PART) {
        const int64_t n = qsae__min_i64(PART, job->q->n_in - c0);
        qsae__source_row(job->src, row, c0, n, x);
        for (int64_t j = 0; j < n; j++) {
            const uint32_t key = key_of(x[j]);
            if (job->high == HALF_BINS)
                bins[key >> 16]++;
            else if (key >> 16 == job->high)
                bins[key & 0xffff]++;
        }
    }
    return QSAE_OK;
}

static int32_t count_equal(void *arg, int64_t i, int32_t worker)
{
    const struct job *job = arg;
    const int64_t row = row_of(job, i);
    float x[PART];
    int64_t equal = 0;
    (void)worker;
    for (int64_t c0 = 0; c0 < job->q->n_in; c0 += PART) {
        const int64_t n = qsae__min_i64(PART, job->q->n_in - c0);
        qsae__source_row(job->src, row, c0, n, x);
        for (int64_t j = 0; j < n; j++)
            equal += key_of(x[j]) == job->limit;
    }
    job->equal[row] = equal;
    return QSAE_OK;
}

static int32_t cut_row(void *arg, int64_t i, int32_t worker)
{
    const struct job *job = arg;
    const int64_t row = row_of(job, i);
    int64_t equal = job->k == 0 ? 0 : job->equal ? job->equal[row] : INT64_MAX;
    float x[PART];
    (void)worker;
    for (int64_t c0 = 0; c0 < job->q->n_in; c0 += PART) {
        const int64_t n = qsae__min_i64(PART, job->q->n_in - c0);
        qsae__source_row(job->src, row, c0, n, x);
        cut(x, n, job->limit, &equal);
        qsae__plain_store(job->q, row, c0, n, x);
    }
    return QSAE_OK;
}

/* Counts keys by one half; the bin that holds the *k-th smallest, *k counted within it then. */
static int32_t search_half(struct job *job, int64_t *k, uint32_t *bin)
{
    const qsae_context *const ctx = job->q->ctx;
    memset(job->bins, 0, (size_t)ctx->threads * HALF_BINS * sizeof *job->bins);
    const int32_t status = qsae__parallel(job->q->ctx, job->rows, count_row, job);
    if (status)
        return status;
    for (*bin = 0; *bin < HALF_BINS; (*bin)++) {
        int64_t n = 0;
        for (int64_t t = 0; t < ctx->threads; t++)
            n += (int64_t)job->bins[t * HALF_BINS + *bin];
        if (*k <= n)
            break;
        *k -= n;
    }
    return QSAE_OK;
}

/* Key of the k-th smallest of the part, k >= 1; *k: which one it is of those that equal it. */
static int32_t find_limit(struct job *job, int64_t *k)
{
    uint32_t low = 0;
    job->high = HALF_BINS;
    int32_t status = search_half(job, k, &job->limit);
    job->high = job->limit;
    if (!status && job->q->dtype != QSAE_BF16) /* whose lower half is 0 */
        status = search_half(job, k, &low);
    job->limit = job->high << 16 | low;
    return status;
}

/* One limit for the part. */
static int32_t prune_part(struct job *job)
{
    qsae_qmatrix *const q = job->q;
    int32_t status = QSAE_OK;
    int64_t k;
    job->k = k = (int64_t)floor(job->p->sparsity * (double)(job->rows * q->n_in));
    if (k > 0)
        status = find_limit(job, &k);
    if (!status && k > 0 && job->equal) {
        status = qsae__parallel(q->ctx, job->rows, count_equal, job);
        for (int64_t i = 0; i < job->rows && !status; i++) {
            int64_t *const equal = &job->equal[row_of(job, i)];
            *equal = qsae__min_i64(*equal, k);
            k -= *equal;
        }
    }
    return status ? status : qsae__parallel(q->ctx, job->rows, cut_row, job);
}

/* One limit for the whole matrix, or for each of the Q, K and V it is made of. */
static int32_t prune_tensor(struct job *job)
{
    qsae_qmatrix *const q = job->q;
    const int64_t runs = job->p->apart ? job->src->qkv_runs : 0, parts = runs ? 3 : 1;
    int32_t status = QSAE_OK;
    if (runs && q->n_out % (parts * runs))
        return qsae__fail(QSAE_EINVAL, "prune:scope=tl: %lld outputs are not %lld times q, k and v",
                          (long long)q->n_out, (long long)runs);
    job->bins = qsae__alloc_array(q->ctx, (int64_t)q->ctx->threads * HALF_BINS, sizeof *job->bins);
    if (job->bins && job->p->ties_first)
        job->equal = qsae__alloc_array(q->ctx, q->n_out, sizeof *job->equal);
    if (!job->bins || (job->p->ties_first && !job->equal))
        return QSAE_ENOMEM;
    job->rows = q->n_out / parts;
    job->run = runs ? job->rows / runs : q->n_out;
    job->step = parts * job->run;
    for (int64_t i = 0; i < parts && !status; i++) {
        job->first = i * job->run;
        status = prune_part(job);
    }
    return status;
}

/* Key of the k-th smallest of x[n], k >= 1; *rest: which one it is of those that equal it. */
static uint32_t select_key(const float *x, int64_t n, int64_t k, int64_t *rest)
{
    uint32_t key = 0, known = 0; /* bits of the key, and which of them are found */
    for (int shift = 2 * DIGIT_BITS; shift >= 0; shift -= DIGIT_BITS) {
        int64_t bins[DIGIT_BINS] = { 0 };
        uint32_t digit = 0;
        for (int64_t j = 0; j < n; j++) {
            const uint32_t other = key_of(x[j]);
            if ((other & known) == key)
                bins[other >> shift & (DIGIT_BINS - 1)]++;
        }
        for (; k > bins[digit]; digit++)
            k -= bins[digit];
        key |= digit << shift;
        known |= (uint32_t)(DIGIT_BINS - 1) << shift;
    }
    *rest = k;
    return key;
}

static int32_t prune_row(void *arg, int64_t row, int32_t worker)
{
    const struct job *job = arg;
    const int64_t n = job->q->n_in;
    float *const x = job->row + worker * n;
    int64_t equal;
    qsae__source_row(job->src, row, 0, n, x);
    if (job->k > 0) {
        const uint32_t limit = select_key(x, n, job->k, &equal);
        if (!job->p->ties_first)
            equal = INT64_MAX;
        cut(x, n, limit, &equal);
    }
    qsae__plain_store(job->q, row, 0, n, x);
    return QSAE_OK;
}

/* Of x[n] the `keep` largest stay, the earlier of equals. */
static void thin(float *x, int32_t n, int32_t keep)
{
    uint32_t key[GROUP_MAX];
    for (int32_t i = 0; i < n; i++)
        key[i] = key_of(x[i]);
    for (int32_t i = 0; i < n; i++) {
        int32_t larger = 0;
        for (int32_t j = 0; j < i; j++)
            larger += key[j] >= key[i];
        for (int32_t j = i + 1; j < n; j++)
            larger += key[j] > key[i];
        if (larger >= keep)
            x[i] = 0;
    }
}

static int32_t thin_row(void *arg, int64_t row, int32_t worker)
{
    const struct job *job = arg;
    const int64_t n = job->q->n_in;
    const int32_t of = job->p->of, keep = job->p->keep;
    float *const x = job->row + worker * n;
    qsae__source_row(job->src, row, 0, n, x);
    if (of == 4) /* known to the compiler */
        for (int64_t j = 0; j < n; j += 4)
            thin(x + j, 4, keep);
    else
        for (int64_t j = 0; j < n; j += of)
            thin(x + j, of, keep);
    qsae__plain_store(job->q, row, 0, n, x);
    return QSAE_OK;
}

/* Each row by itself: one limit per row, or the pattern. */
static int32_t prune_rows(struct job *job)
{
    qsae_qmatrix *const q = job->q;
    int64_t work;
    if (!qsae__mul_i64(q->ctx->threads, q->n_in, &work))
        return qsae__fail(QSAE_EOVERFLOW, "%lld columns on %d threads", (long long)q->n_in,
                          q->ctx->threads);
    job->row = qsae__alloc_array(q->ctx, work, sizeof *job->row);
    if (!job->row)
        return QSAE_ENOMEM;
    if (job->p->kind == QSAE__PRUNE_PATTERN)
        return qsae__parallel(q->ctx, q->n_out, thin_row, job);
    job->k = (int64_t)floor(job->p->sparsity * (double)q->n_in);
    return qsae__parallel(q->ctx, q->n_out, prune_row, job);
}

int32_t qsae__prune_check(const qsae__prune *p, int64_t n_in)
{
    if (p->kind == QSAE__PRUNE_PATTERN) {
        if (p->keep < 0 || p->of < 1 || p->keep > p->of || p->of > GROUP_MAX)
            return qsae__fail(QSAE_EINVAL, "prune: pattern %d:%d; allowed: KEEP:OF with OF from 1 "
                              "to %d and KEEP from 0 to OF", p->keep, p->of, GROUP_MAX);
        if (n_in % p->of)
            return qsae__fail(QSAE_EINVAL, "prune: %lld inputs are no multiple of %d, which "
                              "pattern %d:%d needs", (long long)n_in, p->of, p->keep, p->of);
        return QSAE_OK;
    }
    if (p->kind != QSAE__PRUNE_TENSOR && p->kind != QSAE__PRUNE_ROW)
        return qsae__fail(QSAE_EINVAL, "prune: unknown kind %d", (int)p->kind);
    if (!(p->sparsity >= 0 && p->sparsity <= 1))
        return qsae__fail(QSAE_EINVAL, "prune: sparsity %g; allowed: 0 to 1", p->sparsity);
    return QSAE_OK;
}

int32_t qsae__prune_encode(const qsae__prune *p, const qsae__source *src, qsae_qmatrix **out)
{
    qsae_context *const ctx = src->ctx;
    struct job job = { .p = p, .src = src };
    *out = NULL;
    int32_t status = qsae__prune_check(p, src->n_in);
    if (!status)
        status = qsae__plain_new(src, &job.q);
    if (status)
        return status;
    status = p->kind == QSAE__PRUNE_TENSOR ? prune_tensor(&job) : prune_rows(&job);
    qsae__free(ctx, job.bins);
    qsae__free(ctx, job.equal);
    qsae__free(ctx, job.row);
    if (status)
        qsae__qmatrix_unref(&job.q);
    *out = job.q;
    return status;
}
