/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Encoding: h = x2 W_enc + b_enc by tiles of rows x features, activation and compaction on the
 * finished tile; a dense [rows, d_sae] matrix never exists. Where there is a bf16 product, tiles
 * are screened by it and only what may be active is computed in f32 (screen.c). No result depends
 * on that, on the number of threads or on how rows are cut into blocks: an element of the product
 * has the bits of kernels/gemm.h in any case.
 */
#include <math.h>
#include <string.h>

#include "sae/encode.h"

#define MAX_ROWS 256
#define MIN_ROWS 16
#define STRETCH 2048 /* rows whose candidates are computed together */
#define FIRST 64     /* topk: features of the first tile between two looks at the k-th value */

/* x - mean(x). */
static void center_row(float *x, int64_t d)
{
    double mean = 0;
    for (int64_t i = 0; i < d; i++)
        mean += x[i];
    mean /= (double)d;
    for (int64_t i = 0; i < d; i++)
        x[i] = (float)((double)x[i] - mean);
}

bool qsae__prepare_row(const qsae_sae *sae, float *x, float *state, bool *zero)
{
    const int64_t d = sae->config.d_in;
    bool finite = true;
    *zero = false;
    for (int64_t i = 0; i < d; i++)
        finite &= isfinite(x[i]) != 0;
    if (finite && sae->config.center_input)
        center_row(x, d);
    if (sae->config.normalize == QSAE__NORM_LAYER) {
        double mean = 0, sum = 0;
        for (int64_t i = 0; i < d && finite; i++)
            mean += x[i];
        mean /= (double)d;
        for (int64_t i = 0; i < d && finite; i++)
            sum += ((double)x[i] - mean) * ((double)x[i] - mean);
        const double sd = finite && d > 1 ? sqrt(sum / (double)(d - 1)) : 0;
        state[0] = (float)mean;
        state[1] = (float)sd;
        for (int64_t i = 0; i < d && finite; i++)
            x[i] = (float)(((double)x[i] - mean) / (sd + 1e-5));
    } else if (sae->config.normalize == QSAE__NORM_CONSTANT) {
        double sum = 0;
        for (int64_t i = 0; i < d && finite; i++)
            sum += (double)x[i] * x[i];
        *zero = finite && !(sum > 0);
        /* A zero row stays zero: upstream would multiply by infinity. */
        const double c = finite && sum > 0 ? sqrt((double)d) / sqrt(sum) : 1;
        state[0] = (float)c;
        for (int64_t i = 0; i < d && finite; i++)
            x[i] = (float)(x[i] * c);
    }
    if (!finite)
        memset(x, 0, (size_t)d * sizeof *x);
    else if (sae->config.apply_b_dec)
        for (int64_t i = 0; i < d; i++)
            x[i] -= sae->b_dec[i];
    return finite;
}

bool qsae__activate(const qsae_sae *sae, int64_t f, float h, float *value)
{
    const float v = h + sae->b_enc[f];
    *value = v;
    switch (sae->config.activation) {
    case QSAE__RELU:
    case QSAE__TANH_RELU: /* its tanh is taken at the end */
    case QSAE__GROUPMAX:
        return v > 0;
    case QSAE__JUMPRELU:
        if (sae->gate)
            *value = v * sae->gate[f];
        return *value > sae->threshold[f] &&
               (*value > 0 || (sae->config.keeps_negative && *value < 0));
    case QSAE__TOPK: /* values that are not positive become zero anyway */
        if (sae->gate)
            *value = v * sae->gate[f];
        return *value > 0;
    case QSAE__GATED:
        *value = (float)((double)sae->gain[f] * h + sae->b_mag[f]);
        return v > 0 && *value > 0;
    case QSAE__ABSTOPK:
        if (sae->gate)
            *value = v * sae->gate[f];
        return *value > 0 || *value < 0;
    case QSAE__PURSUIT:
        break;
    }
    return false;
}

/* Bounded selection: a heap of the k largest with the least at the root. */
static void offer(float *heap, int64_t *size, int64_t k, float v)
{
    int64_t i;
    if (*size < k) {
        for (i = (*size)++; i > 0 && v < heap[(i - 1) / 2]; i = (i - 1) / 2)
            heap[i] = heap[(i - 1) / 2];
        heap[i] = v;
        return;
    }
    if (!(heap[0] < v))
        return;
    for (i = 0;;) {
        int64_t child = 2 * i + 1;
        if (child >= k)
            break;
        if (child + 1 < k && heap[child + 1] < heap[child])
            child++;
        if (!(heap[child] < v))
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = v;
}

static bool is_topk(const qsae_sae *sae)
{
    return sae->config.activation == QSAE__TOPK || sae->config.activation == QSAE__ABSTOPK;
}

/* What topk compares. */
static float rank_of(const qsae_sae *sae, float value)
{
    return sae->config.activation == QSAE__ABSTOPK ? fabsf(value) : value;
}

/* What a value of the row must at least be to be among the k largest; 0 if that is not known. */
static float least(const qsae_sae *sae, const qsae__encode_worker *w, int64_t row)
{
    const int64_t k = sae->config.k;
    return w->heap && w->heap_size[row] == k ? w->heap[row * k] : 0;
}

/* groupmax: features of a group; else 0. */
static int64_t group_size(const qsae_sae *sae)
{
    return sae->config.activation == QSAE__GROUPMAX ? sae->config.d_sae / sae->config.k : 0;
}

/* The last entry is of this row and group; of another tile or piece it may not be. */
static bool same_group(const qsae__encode_block *b, int64_t row, int64_t at, int64_t size)
{
    const qsae__entry *const last = b->n > b->tile_start ? &b->entry[b->n - 1] : NULL;
    return last && last->row == row && last->feature / size == at;
}

/* Entries of one row from the selected features. topk keeps the largest lower bounds in the heap;
 * all bounds are monotone functions of the product, rounded as the activation is. */
static void push(const qsae__encode_job *j, const struct qsae__screen *screen,
                 qsae__encode_block *b, qsae__encode_worker *w, int64_t row, const float *h,
                 int64_t n0, int64_t count)
{
    const qsae_sae *const sae = j->sae;
    const int64_t group = group_size(sae);
    for (int64_t i = 0; i < count; i++) {
        const int64_t f = n0 + w->index[i];
        float low, high = 0;
        if (screen && w->heap) {
            const float e = w->a[row] * screen->p[f] + (w->b[row] * screen->q[f] + screen->c);
            qsae__activate(sae, f, h[w->index[i]] + e, &high);
            if (qsae__activate(sae, f, h[w->index[i]] - e, &low))
                offer(w->heap + row * sae->config.k, &w->heap_size[row], sae->config.k, low);
        } else if (!screen) {
            if (!qsae__activate(sae, f, h[w->index[i]], &high))
                continue;
            if (w->heap)
                offer(w->heap + row * sae->config.k, &w->heap_size[row], sae->config.k,
                      rank_of(sae, high));
            if (group && same_group(b, row, f / group, group)) {
                qsae__entry *const last = &b->entry[b->n - 1];
                if (high > last->value)
                    *last = (qsae__entry){ (int32_t)row, (int32_t)f, high };
                continue;
            }
        }
        b->entry[b->n++] = (qsae__entry){ (int32_t)row, (int32_t)f, high };
    }
}

int32_t qsae__encode_tile(const qsae__encode_job *j, const struct qsae__screen *screen,
                          qsae__encode_block *b, qsae__encode_worker *w, int64_t n0, int64_t n1)
{
    const qsae_sae *const sae = j->sae;
    const int64_t piece = w->heap && n0 == 0 ? FIRST : n1 - n0;
    qsae__select s = { .bias = NULL };
    int32_t st = QSAE_OK;
    b->tile[n0 / QSAE__ENCODE_NB] = b->tile_start = b->n;
    s.absolute = sae->config.activation == QSAE__ABSTOPK;
    if (screen)
        s.c = screen->c;
    for (int64_t r = 0; r < b->rows && st == QSAE_OK; r++) {
        const float *const h = w->tile + r * QSAE__ENCODE_NB;
        if (screen) {
            s.a = w->a[r];
            s.b = w->b[r];
        }
        for (int64_t f = n0; f < n1 && st == QSAE_OK && !w->skip[r]; f += piece) {
            s.bias = sae->b_enc + f;
            s.scale = sae->gate ? sae->gate + f : NULL;
            s.limit = sae->threshold ? sae->threshold + f : NULL;
            s.p = screen ? screen->p + f : NULL;
            s.q = screen ? screen->q + f : NULL;
            /* As large is large enough. */
            s.floor = sae->config.keeps_negative ? -INFINITY : nextafterf(least(sae, w, r), 0);
            const int64_t n = qsae__min_i64(piece, n1 - f);
            const int64_t count = j->ops->select(&s, h + (f - n0), n, w->index);
            st = qsae__grow(sae->ctx, &b->entry, &b->capacity, b->n + count, sizeof *b->entry);
            if (st == QSAE_OK)
                push(j, screen, b, w, r, h + (f - n0), f, count);
        }
    }
    b->tile[n0 / QSAE__ENCODE_NB + 1] = b->n;
    return st;
}

void qsae__encode_thin(const qsae_sae *sae, qsae__encode_block *b, const qsae__encode_worker *w,
                       int64_t tiles)
{
    int64_t n = 0;
    for (int64_t t = 0, i = 0; w->heap && t < tiles; t++) {
        for (; i < b->tile[t + 1]; i++)
            if (!(rank_of(sae, b->entry[i].value) < least(sae, w, b->entry[i].row)))
                b->entry[n++] = b->entry[i];
        b->tile[t + 1] = n;
    }
    if (w->heap)
        b->n = n;
}

static int32_t plain_block(const qsae__encode_job *j, qsae__encode_block *b,
                           qsae__encode_worker *w)
{
    const int64_t d = j->sae->config.d_in, features = j->sae->config.d_sae;
    int32_t st = QSAE_OK;
    b->n = 0;
    b->screened = false;
    for (int64_t r = 0; w->heap && r < b->rows; r++)
        w->heap_size[r] = 0;
    for (int64_t n0 = 0; n0 < features && st == QSAE_OK; n0 += QSAE__ENCODE_NB) {
        const int64_t n1 = qsae__min_i64(n0 + QSAE__ENCODE_NB, features);
        qsae__gemm_tile(j->sae->ctx, b->rows, w->x, d, &j->panels, n0, n1, w->tile,
                        QSAE__ENCODE_NB, w->panels);
        st = qsae__encode_tile(j, NULL, b, w, n0, n1);
    }
    return st;
}

/* Rows prepared; entries or candidates of one block. */
static int32_t find_block(void *arg, int64_t tile, int32_t worker)
{
    const qsae__encode_job *const j = arg;
    const qsae_sae *const sae = j->sae;
    qsae__encode_worker *const w = &j->worker[worker];
    qsae__encode_block *const b = &j->block[tile];
    const int64_t d = sae->config.d_in;
    bool dense = true;
    int32_t st = qsae__canceled(sae->cancel);
    b->zeros = 0;
    for (int64_t r = 0; r < b->rows && st == QSAE_OK; r++) {
        bool zero;
        float none[2];
        float *const state = j->state ? j->state + (b->row0 + r) * sae->state_size : none;
        qsae__to_f32(j->rows->dtype, qsae__rows_at(j->rows, b->row0 + r), d, w->x + r * d);
        w->skip[r] = !qsae__prepare_row(sae, w->x + r * d, state, &zero);
        b->zeros += zero;
    }
    if (st == QSAE_OK && sae->screen)
        st = qsae__screen_block(j, b, w, &dense);
    if (st == QSAE_OK && dense)
        st = plain_block(j, b, w);
    if (st == QSAE_OK)
        qsae__encode_thin(sae, b, w, j->tiles);
    return st;
}

/* topk: of count entries of a row the k largest; of equal ones the first. The heap is scratch. */
static int64_t keep_largest(const qsae_sae *sae, float *heap, int32_t *indices, float *values,
                            int64_t count)
{
    const int64_t k = sae->config.k;
    int64_t size = 0, larger = 0, n = 0;
    if (count <= k)
        return count;
    for (int64_t i = 0; i < count; i++)
        offer(heap, &size, k, rank_of(sae, values[i]));
    for (int64_t i = 0; i < count; i++)
        larger += rank_of(sae, values[i]) > heap[0];
    for (int64_t i = 0, equal = k - larger; i < count; i++) {
        const float rank = rank_of(sae, values[i]);
        if (rank > heap[0] || (rank == heap[0] && equal-- > 0)) {
            indices[n] = indices[i];
            values[n++] = values[i];
        }
    }
    return n;
}

/* groupmax: of count entries of a row the largest of each group; of equal ones the first. */
static int64_t keep_group_maxima(int64_t group, int32_t *indices, float *values, int64_t count)
{
    int64_t n = 0;
    for (int64_t i = 0; i < count; i++) {
        const bool next = n == 0 || indices[n - 1] / group != indices[i] / group;
        if (next || values[i] > values[n - 1]) {
            indices[n - !next] = indices[i];
            values[n - !next] = values[i];
            n += next;
        }
    }
    return n;
}

int64_t qsae__sae_finish_row(const qsae_sae *sae, float *heap, int32_t *indices, float *values,
                             int64_t count)
{
    if (is_topk(sae))
        count = keep_largest(sae, heap, indices, values, count);
    else if (sae->config.activation == QSAE__GROUPMAX)
        count = keep_group_maxima(group_size(sae), indices, values, count);
    if (sae->config.activation == QSAE__TANH_RELU)
        qsae__ops_level(sae->ctx->level)->tanh(values, values, count);
    for (int64_t i = 0; sae->norms && sae->config.norm_undone && i < count; i++)
        values[i] /= sae->norms[indices[i]]; /* an active feature has a norm */
    return count;
}

/* Rows of a block from its entries. */
static int32_t finish_block(void *arg, int64_t tile, int32_t worker)
{
    const qsae__encode_job *const j = arg;
    const qsae_sae *const sae = j->sae;
    qsae__encode_block *const b = &j->block[tile];
    qsae__sae_block *const out = &j->out[tile];
    int64_t n = 0;
    for (int64_t i = 0; i < b->n; i++) {
        qsae__entry e = b->entry[i];
        if (!b->screened || qsae__activate(sae, e.feature, e.value, &e.value))
            b->entry[n++] = e;
    }
    out->row0 = b->row0;
    out->rows = b->rows;
    out->count = qsae__calloc(sae->ctx, b->rows + 1, sizeof *out->count);
    out->indices = qsae__alloc_array(sae->ctx, n, sizeof *out->indices);
    out->values = qsae__alloc_array(sae->ctx, n, sizeof *out->values);
    if (!out->count || !out->indices || !out->values)
        return QSAE_ENOMEM;
    int64_t *const at = out->count; /* starts of the rows, their ends, at last counts */
    for (int64_t i = 0; i < n; i++)
        at[b->entry[i].row + 1]++;
    for (int64_t r = 0; r < b->rows; r++)
        at[r + 1] += at[r];
    for (int64_t i = 0; i < n; i++) { /* stable: features ascend in a row */
        const qsae__entry *const e = &b->entry[i];
        out->indices[at[e->row]] = e->feature;
        out->values[at[e->row]++] = e->value;
    }
    for (int64_t r = 0, start = 0; r < b->rows; r++) {
        const int64_t end = at[r];
        int64_t count = end - start;
        count = qsae__sae_finish_row(sae, j->worker[worker].heap, out->indices + start,
                                     out->values + start, count);
        memmove(out->indices + out->nnz, out->indices + start,
                (size_t)count * sizeof *out->indices);
        memmove(out->values + out->nnz, out->values + start, (size_t)count * sizeof *out->values);
        out->nnz += count;
        out->count[r] = count;
        start = end;
    }
    return QSAE_OK;
}

static void job_close(qsae__encode_job *j)
{
    qsae_context *const ctx = j->sae->ctx;
    for (int32_t i = 0; j->worker && i < ctx->threads; i++) {
        qsae__encode_worker *const w = &j->worker[i];
        qsae__free(ctx, w->x);
        qsae__free(ctx, w->tile);
        qsae__free(ctx, w->panels);
        qsae__free(ctx, w->index);
        qsae__free(ctx, w->skip);
        qsae__free(ctx, w->heap);
        qsae__free(ctx, w->heap_size);
        qsae__screen_worker_close(ctx, w);
    }
    for (int64_t i = 0; j->block && i < j->n_blocks; i++) {
        qsae__free(ctx, j->block[i].entry);
        qsae__free(ctx, j->block[i].tile);
    }
    qsae__free(ctx, j->worker);
    qsae__free(ctx, j->block);
    qsae__free(ctx, j->x);
}

static int32_t worker_open(const qsae__encode_job *j, qsae__encode_worker *w)
{
    qsae_context *const ctx = j->sae->ctx;
    const int64_t rows = j->block_rows;
    int64_t size, heap;
    if (!qsae__mul_i64(rows, j->sae->config.d_in, &size) ||
        !qsae__mul_i64(rows, j->sae->config.k, &heap))
        return QSAE_ENOMEM;
    w->x = qsae__alloc_array(ctx, size, sizeof *w->x);
    w->tile = qsae__alloc_array(ctx, rows * QSAE__ENCODE_NB, sizeof *w->tile);
    w->panels = qsae__alloc_array(ctx, QSAE__GEMM_SCRATCH, sizeof *w->panels);
    w->index = qsae__alloc_array(ctx, QSAE__ENCODE_NB, sizeof *w->index);
    w->skip = qsae__alloc_array(ctx, rows, sizeof *w->skip);
    if (!w->x || !w->tile || !w->panels || !w->index || !w->skip)
        return QSAE_ENOMEM;
    if (is_topk(j->sae)) {
        w->heap = qsae__alloc_array(ctx, heap, sizeof *w->heap);
        w->heap_size = qsae__calloc(ctx, rows, sizeof *w->heap_size);
        if (!w->heap || !w->heap_size)
            return QSAE_ENOMEM;
    }
    return j->sae->screen ? qsae__screen_worker_open(j, w) : QSAE_OK;
}

static int32_t job_open(qsae__encode_job *j)
{
    qsae_context *const ctx = j->sae->ctx;
    j->worker = qsae__calloc(ctx, ctx->threads, sizeof *j->worker);
    j->block = qsae__calloc(ctx, j->n_blocks, sizeof *j->block);
    if (!j->worker || !j->block)
        return QSAE_ENOMEM;
    for (int64_t i = 0; i < j->n_blocks; i++) {
        j->block[i].tile = qsae__calloc(ctx, j->tiles + 1, sizeof *j->block[i].tile);
        if (!j->block[i].tile)
            return QSAE_ENOMEM;
    }
    int32_t st = j->sae->screen ? qsae__screen_job_open(j) : QSAE_OK;
    for (int32_t i = 0; i < ctx->threads && st == QSAE_OK; i++)
        st = worker_open(j, &j->worker[i]);
    return st;
}

/* Rows row0.. of the call, at most n_blocks blocks of them. */
static int32_t encode_stretch(qsae__encode_job *j, int64_t row0, int64_t blocks)
{
    qsae_sae *const sae = j->sae;
    int64_t screened = 0;
    for (int64_t i = 0; i < blocks; i++) {
        qsae__encode_block *const b = &j->block[i];
        b->row0 = row0 + i * j->block_rows;
        b->rows = qsae__min_i64(j->block_rows, j->rows->n_rows - b->row0);
    }
    j->n_found = blocks;
    int32_t st = qsae__parallel(sae->ctx, blocks, find_block, j);
    for (int64_t i = 0; st == QSAE_OK && i < blocks; i++)
        screened += j->block[i].screened ? j->block[i].rows : 0;
    if (st == QSAE_OK && screened)
        st = qsae__parallel(sae->ctx, j->tiles, qsae__screen_exact, j);
    sae->screened += screened;
    for (int64_t i = 0; i < blocks; i++)
        sae->zero_rows += j->block[i].zeros;
    return st == QSAE_OK ? qsae__parallel(sae->ctx, blocks, finish_block, j) : st;
}

void qsae__sae_blocks_free(qsae__sae_blocks *b)
{
    for (int64_t i = 0; b->block && i < b->n; i++) {
        qsae__free(b->ctx, b->block[i].count);
        qsae__free(b->ctx, b->block[i].indices);
        qsae__free(b->ctx, b->block[i].values);
    }
    qsae__free(b->ctx, b->block);
    memset(b, 0, sizeof *b);
}

int32_t qsae__sae_encode_blocks(qsae_sae *sae, const qsae_rows *x, float *state,
                                qsae__sae_blocks *out)
{
    qsae_context *const ctx = sae->ctx;
    memset(out, 0, sizeof *out);
    out->ctx = ctx;
    if (x->n_rows == 0)
        return QSAE_OK;
    if (sae->config.activation == QSAE__PURSUIT)
        return qsae__pursuit_blocks(sae, x, state, out);
    if (qsae__is_wide(sae))
        return qsae__wide_blocks(sae, x, state, out);
    int32_t st = qsae__screen_open(sae);
    if (st != QSAE_OK)
        return st;
    qsae__encode_job j = { .sae = sae, .rows = x, .state = state, .ops = qsae__sparse_get(ctx) };
    /* Blocks of equal size, as large as keeps every thread busy: each reads all of W_enc. */
    const int64_t share = qsae__ceil_div(x->n_rows, ctx->threads);
    const int64_t rows = qsae__ceil_div(share, qsae__ceil_div(share, MAX_ROWS));
    j.block_rows = qsae__max_i64(MIN_ROWS, qsae__ceil_div(rows, 16) * 16);
    j.block_rows = qsae__min_i64(j.block_rows, x->n_rows);
    j.panels = qsae__sae_panels(sae);
    j.tiles = qsae__ceil_div(sae->config.d_sae, QSAE__ENCODE_NB);
    out->n = qsae__ceil_div(x->n_rows, j.block_rows);
    j.n_blocks = qsae__max_i64(qsae__ceil_div(STRETCH, j.block_rows), ctx->threads);
    j.n_blocks = qsae__min_i64(j.n_blocks, out->n);
    out->block = qsae__calloc(ctx, out->n, sizeof *out->block);
    st = out->block ? job_open(&j) : QSAE_ENOMEM;
    if (st != QSAE_OK)
        st = qsae__fail(QSAE_ENOMEM, "out of memory for encoding with %s", sae->path);
    for (int64_t i = 0; i < out->n && st == QSAE_OK; i += j.n_blocks) {
        j.out = out->block + i;
        st = encode_stretch(&j, i * j.block_rows, qsae__min_i64(j.n_blocks, out->n - i));
    }
    job_close(&j);
    for (int64_t i = 0; st == QSAE_OK && i < out->n; i++)
        out->nnz += out->block[i].nnz;
    if (st != QSAE_OK)
        qsae__sae_blocks_free(out);
    return st;
}
