/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The paired pass over one logical batch. All models run first, then the head streams over all of
 * them, then the metrics are updated: what stops a pass early leaves no metric half updated.
 * Conditions go in groups that fit the memory for their rows; a group that is done stays done when
 * the next is stopped.
 */
#include <string.h>

#include "audit/audit.h"

#define GROUP_BYTES ((int64_t)1 << 29) /* rows of the conditions kept at once */

/* What a model leaves behind: [rows, width] each. */
struct rows_of {
    float *final;                /* final norm's output */
    float **taps;                /* [n_taps] residual rows */
    float *nll, *kl;
    int32_t *top;
};

struct pass {
    qsae__slab slab;
    int64_t rows_max, width_max, width;
    int32_t *tap_layer;          /* [n_taps] ascending */
    int64_t n_taps;
    int64_t *sae_tap;            /* [n_saes] index into the taps */
    int64_t group;               /* conditions at once */
    struct rows_of *rows;        /* [1 + group]; 0 is the reference */
    qsae__csr *csr_r;            /* [n_saes] */
    qsae__csr csr_q;
    float **y_r;                 /* [n_saes] of [rows, width] */
    float *y_q;
    int32_t *ids, *labels, *position;
    int64_t *document;
    uint8_t *mask, *mask_features;
    /* the batch at hand */
    int64_t rows_n, n_seq, n_tokens, first_token, chunks;
};

static void free_rows(qsae_audit *a, struct pass *p, struct rows_of *r)
{
    for (int64_t t = 0; r->taps && t < p->n_taps; t++)
        qsae__free(a->ctx, r->taps[t]);
    qsae__free(a->ctx, r->taps);
    qsae__free(a->ctx, r->final);
    qsae__free(a->ctx, r->nll);
    qsae__free(a->ctx, r->kl);
    qsae__free(a->ctx, r->top);
}

void qsae__pass_close(qsae_audit *a)
{
    struct pass *p = a->pass;
    if (!p)
        return;
    qsae__slab_close(&p->slab);
    for (int64_t i = 0; p->rows && i <= p->group; i++)
        free_rows(a, p, &p->rows[i]);
    for (int64_t i = 0; i < a->n_saes; i++) {
        if (p->csr_r)
            qsae__csr_free(&p->csr_r[i]);
        if (p->y_r)
            qsae__free(a->ctx, p->y_r[i]);
    }
    qsae__csr_free(&p->csr_q);
    void *const blocks[] = { p->tap_layer, p->sae_tap, p->rows, p->csr_r, p->y_r, p->y_q, p->ids,
                             p->labels, p->position, p->document, p->mask, p->mask_features };
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        qsae__free(a->ctx, blocks[i]);
    qsae__free(a->ctx, p);
    a->pass = NULL;
}

static int32_t plan_taps(qsae_audit *a, struct pass *p)
{
    p->tap_layer = qsae__calloc(a->ctx, a->n_saes, sizeof *p->tap_layer);
    p->sae_tap = qsae__calloc(a->ctx, a->n_saes, sizeof *p->sae_tap);
    if (!p->tap_layer || !p->sae_tap)
        return QSAE_ENOMEM;
    for (int64_t i = 0; i < a->n_saes; i++) {
        int64_t at = 0;
        while (at < p->n_taps && p->tap_layer[at] != a->saes[i].layer)
            at++;
        if (at == p->n_taps)
            p->tap_layer[p->n_taps++] = a->saes[i].layer;
        p->sae_tap[i] = at;
    }
    return QSAE_OK;
}

static int32_t open_rows(qsae_audit *a, struct pass *p, struct rows_of *r)
{
    int64_t floats;
    if (!qsae__mul_i64(p->rows_max, p->width_max, &floats))
        return qsae__fail(QSAE_EOVERFLOW, "a batch of %lld tokens is too large",
                          (long long)p->rows_max);
    r->final = qsae__alloc_array(a->ctx, floats, sizeof(float));
    r->nll = qsae__alloc_array(a->ctx, p->rows_max, sizeof(float));
    r->kl = qsae__alloc_array(a->ctx, p->rows_max, sizeof(float));
    r->top = qsae__alloc_array(a->ctx, p->rows_max, sizeof(int32_t));
    r->taps = qsae__calloc(a->ctx, p->n_taps, sizeof *r->taps);
    if (!r->final || !r->nll || !r->kl || !r->top || !r->taps)
        return QSAE_ENOMEM;
    for (int64_t t = 0; t < p->n_taps; t++)
        if (!(r->taps[t] = qsae__alloc_array(a->ctx, floats, sizeof(float))))
            return QSAE_ENOMEM;
    return QSAE_OK;
}

static int32_t open_buffers(qsae_audit *a, struct pass *p)
{
    qsae_context *const ctx = a->ctx;
    const int64_t n = p->rows_max, saes = a->n_saes;
    p->ids = qsae__alloc_array(ctx, n, sizeof *p->ids);
    p->labels = qsae__alloc_array(ctx, n, sizeof *p->labels);
    p->position = qsae__alloc_array(ctx, n, sizeof *p->position);
    p->document = qsae__alloc_array(ctx, n, sizeof *p->document);
    p->mask = qsae__alloc_array(ctx, n, sizeof *p->mask);
    p->mask_features = qsae__alloc_array(ctx, n, sizeof *p->mask_features);
    p->csr_r = qsae__calloc(ctx, saes, sizeof *p->csr_r);
    p->y_r = qsae__calloc(ctx, saes, sizeof *p->y_r);
    p->y_q = qsae__alloc_array(ctx, n * p->width, sizeof(float));
    p->rows = qsae__calloc(ctx, p->group + 1, sizeof *p->rows);
    if (!p->ids || !p->labels || !p->position || !p->document || !p->mask || !p->mask_features ||
        !p->csr_r || !p->y_r || !p->y_q || !p->rows)
        return QSAE_ENOMEM;
    int32_t st = QSAE_OK;
    for (int64_t i = 0; i <= p->group && st == QSAE_OK; i++)
        st = open_rows(a, p, &p->rows[i]);
    qsae__csr_init(&p->csr_q, ctx);
    for (int64_t i = 0; i < saes && st == QSAE_OK; i++) {
        qsae__csr_init(&p->csr_r[i], ctx);
        p->y_r[i] = qsae__alloc_array(ctx, n * p->width, sizeof(float));
        if (!p->y_r[i])
            st = QSAE_ENOMEM;
    }
    return st;
}

int32_t qsae__pass_open(qsae_audit *a)
{
    struct pass *p = a->pass = qsae__calloc(a->ctx, 1, sizeof *p);
    if (!p)
        return QSAE_ENOMEM;
    const int64_t context = a->corpus_info.context;
    const int64_t batch = qsae__min_i64(a->batch, a->corpus_info.chunks);
    int32_t st =
        qsae__mul_i64(batch, context, &p->rows_max)
            ? QSAE_OK
            : qsae__fail(QSAE_EOVERFLOW, "a batch of %lld chunks of %lld tokens is too large",
                         (long long)batch, (long long)context);
    qsae_model **models = qsae__calloc(a->ctx, a->n_participants, sizeof *models);
    if (!models)
        st = QSAE_ENOMEM;
    for (int64_t i = 0; i < a->n_participants && st == QSAE_OK; i++) {
        qsae_model_info info = { .struct_size = offsetof(qsae_model_info, hash) };
        models[i] = a->participants[i].model;
        st = qsae_model_get_info(models[i], &info);
        a->participants[i].width = info.width;
        p->width_max = qsae__max_i64(p->width_max, info.width);
    }
    p->width = a->participants[0].width;
    if (st == QSAE_OK && (st = plan_taps(a, p)) == QSAE_OK) {
        const int64_t each = p->rows_max * p->width_max * (1 + p->n_taps) * (int64_t)sizeof(float);
        p->group = qsae__min_i64(a->n_participants - 1,
                                 qsae__max_i64(1, GROUP_BYTES / qsae__max_i64(each, 1)));
        st = open_buffers(a, p);
    }
    if (st == QSAE_OK)
        st = qsae__slab_open(a->ctx, models, a->n_participants, batch, context, &p->slab);
    qsae__free(a->ctx, models);
    if (st != QSAE_OK)
        qsae__pass_close(a);
    return st;
}

/* Gathers chunks next_chunk.. into the batch's arrays. A shorter last chunk makes its own. */
static int32_t gather(qsae_audit *a, struct pass *p)
{
    const int64_t context = a->corpus_info.context;
    const bool first_out = a->profile->exclude_first;
    p->rows_n = p->n_seq = 0;
    p->first_token = a->next_chunk * context;
    while (p->n_seq < a->batch && a->next_chunk + p->n_seq < a->corpus_info.chunks) {
        const int32_t *ids, *labels;
        const int64_t *document;
        int64_t n;
        const int32_t st = qsae_corpus_chunk(a->corpus, a->next_chunk + p->n_seq, &ids, &labels,
                                             &document, &n);
        if (st != QSAE_OK)
            return st;
        if (p->n_seq > 0 && n != p->n_tokens)
            break;
        p->n_tokens = n;
        for (int64_t i = 0; i < n; i++) {
            const int64_t r = p->rows_n + i;
            const uint8_t first = i == 0 ? QSAE_MASK_FIRST : 0;
            p->ids[r] = ids[i];
            p->labels[r] = labels[i];
            p->document[r] = document[i];
            p->position[r] = (int32_t)i;
            p->mask[r] = (uint8_t)(first | (qsae_tokenizer_is_special(a->tokenizer, ids[i])
                                                ? QSAE_MASK_SPECIAL : 0));
            p->mask_features[r] = (uint8_t)(p->mask[r] |
                                            (first && first_out ? QSAE_MASK_EXCLUDED : 0));
        }
        p->rows_n += n;
        p->n_seq++;
    }
    return QSAE_OK;
}

/* Blocks of one model, its rows at the taps and its final rows. */
static int32_t forward(qsae_audit *a, struct pass *p, struct participant *who, struct rows_of *out)
{
    qsae_model_info info = { .struct_size = offsetof(qsae_model_info, hash) };
    const double start = qsae__now();
    /* A batch that was stopped midway is counted once. */
    for (int64_t i = 0; i < who->n_outliers; i++)
        qsae__model_set_outliers(who->model, i, &who->outliers[i]);
    p->slab.ids = p->ids;
    p->slab.n_seq = p->n_seq;
    p->slab.n_tokens = p->n_tokens;
    int32_t st = qsae_model_get_info(who->model, &info);
    if (st == QSAE_OK)
        st = qsae__model_embed(who->model, &p->slab);
    for (int64_t layer = 0; layer < info.layers && st == QSAE_OK; layer++) {
        if ((st = qsae__canceled(a->cancel)) != QSAE_OK)
            break;
        st = qsae__model_step(who->model, layer, &p->slab);
        for (int64_t t = 0; t < p->n_taps && st == QSAE_OK; t++)
            if (p->tap_layer[t] == layer)
                memcpy(out->taps[t], p->slab.x,
                       (size_t)(p->rows_n * who->width) * sizeof(float));
    }
    if (st == QSAE_OK)
        st = qsae__model_final(who->model, &p->slab, out->final);
    who->seconds += qsae__now() - start;
    const uint64_t rss = qsae__resident_bytes();
    if (rss > who->peak_rss)
        who->peak_rss = rss;
    return st;
}

static qsae_positions positions(const struct pass *p, const uint8_t *mask)
{
    return (qsae_positions){ .struct_size = sizeof(qsae_positions),
                             .first_token = p->first_token,
                             .document = p->document,
                             .position = p->position,
                             .mask = mask,
                             .n_rows = p->rows_n };
}

static qsae_rows rows_view(const struct pass *p, float *data)
{
    return (qsae_rows){ .struct_size = sizeof(qsae_rows), .data = data, .n_rows = p->rows_n,
                        .n_cols = p->width, .row_stride = p->width, .dtype = QSAE_F32 };
}

static qsae_sparse_rows sparse_view(const qsae__csr *c)
{
    return (qsae_sparse_rows){ .struct_size = sizeof(qsae_sparse_rows), .n = c->n,
                               .indptr = c->indptr, .indices = c->indices, .values = c->values };
}

static int32_t reconstruct(const struct pass *p, qsae_sae *sae, const float *x, qsae__csr *csr,
                           float *y)
{
    int32_t st = qsae__sae_encode_rows(sae, x, p->rows_n, p->width, csr);
    if (st == QSAE_OK)
        st = qsae__sae_decode_rows(sae, csr, y, p->width);
    if (st == QSAE_OK)
        st = qsae__sae_add_skip(sae, x, p->rows_n, p->width, y, p->width);
    return st;
}

/* Metrics of one participant; `reference` rows are pass->rows[0]. */
static int32_t update(qsae_audit *a, struct pass *p, struct participant *who, struct rows_of *own)
{
    const bool is_reference = who == a->participants;
    const qsae_positions at = positions(p, p->mask), at_features = positions(p, p->mask_features);
    const struct rows_of *const ref = &p->rows[0];
    int32_t st = qsae_metric_update_cross_entropy(who->cross_entropy, &at, p->rows_n, own->nll);
    if (st == QSAE_OK && !is_reference) {
        const qsae_divergence_rows d = { .struct_size = sizeof d, .n = p->rows_n, .nll_r = ref->nll,
                                         .nll_q = own->nll, .kl = own->kl, .top_r = ref->top,
                                         .top_q = own->top, .label = p->labels };
        st = qsae_metric_update_divergence(who->divergence, &at, &d);
    }
    for (int64_t i = 0; i < a->n_saes && st == QSAE_OK; i++) {
        struct audit_features *const f = &who->saes[i];
        qsae__csr *const csr = is_reference ? &p->csr_r[i] : &p->csr_q;
        float *const y = is_reference ? p->y_r[i] : p->y_q;
        float *const x = own->taps[p->sae_tap[i]], *const x_ref = ref->taps[p->sae_tap[i]];
        if (!is_reference && (st = reconstruct(p, a->saes[i].sae, x, csr, y)) != QSAE_OK)
            break;
        const qsae_rows vx = rows_view(p, x), vy = rows_view(p, y), vxr = rows_view(p, x_ref),
                        vyr = rows_view(p, p->y_r[i]);
        const qsae_sparse_rows acts = sparse_view(csr), acts_r = sparse_view(&p->csr_r[i]);
        st = qsae_metric_update_reconstruction(f->reconstruction, &at_features, &vx, &vy, &acts);
        if (st == QSAE_OK && !is_reference)
            st = qsae_metric_update_drift(f->drift, &at_features, &vxr, &vx, &vyr, &vy);
        if (st == QSAE_OK && !is_reference)
            st = qsae_metric_update_features(f->survival, &at_features, &acts_r, &acts);
    }
    if (st != QSAE_OK)
        return st;
    who->next_chunk = a->next_chunk + p->n_seq;
    for (int64_t i = 0; i < who->n_outliers; i++)
        who->outliers[i] = qsae__model_outliers(who->model, i);
    return QSAE_OK;
}

static int32_t timed_update(qsae_audit *a, struct pass *p, struct participant *who,
                            struct rows_of *own)
{
    const double start = qsae__now();
    const int32_t st = update(a, p, who, own);
    who->seconds += qsae__now() - start;
    return st;
}

/* Head and metrics for the reference and the conditions of a group (indices in members). */
static int32_t finish_group(qsae_audit *a, struct pass *p, const int64_t *members, int64_t n)
{
    qsae__head_rows *heads = qsae__calloc(a->ctx, n + 1, sizeof *heads);
    if (!heads)
        return QSAE_ENOMEM;
    const double start = qsae__now();
    for (int64_t j = 0; j <= n; j++) {
        struct rows_of *const r = &p->rows[j];
        heads[j] = (qsae__head_rows){ .model = a->participants[j ? members[j - 1] : 0].model,
                                      .final = r->final, .nll = r->nll, .kl = j ? r->kl : NULL,
                                      .top = r->top };
    }
    int32_t st = qsae__head_run(a->ctx, p->rows_n, p->labels, n + 1, heads, a->cancel);
    qsae__free(a->ctx, heads);
    const double share = (qsae__now() - start) / (double)(n + 1);
    struct participant *const reference = &a->participants[0];
    if (st == QSAE_OK && reference->next_chunk == a->next_chunk) {
        reference->seconds += share;
        st = timed_update(a, p, reference, &p->rows[0]);
    }
    for (int64_t j = 1; j <= n && st == QSAE_OK; j++) {
        struct participant *const who = &a->participants[members[j - 1]];
        who->seconds += share;
        st = timed_update(a, p, who, &p->rows[j]);
    }
    return st;
}

int32_t qsae__pass_batch(qsae_audit *a)
{
    struct pass *const p = a->pass;
    int64_t members[64];
    const int64_t group = qsae__min_i64(p->group, 64);
    int32_t st = gather(a, p);
    if (st == QSAE_OK)
        st = forward(a, p, &a->participants[0], &p->rows[0]);
    for (int64_t i = 0; i < a->n_saes && st == QSAE_OK; i++) {
        const double start = qsae__now();
        st =
            reconstruct(p, a->saes[i].sae, p->rows[0].taps[p->sae_tap[i]], &p->csr_r[i], p->y_r[i]);
        a->participants[0].seconds += qsae__now() - start;
    }
    int64_t next = 1;
    do {
        int64_t n = 0;
        for (; next < a->n_participants && n < group && st == QSAE_OK; next++) {
            struct participant *const who = &a->participants[next];
            if (who->next_chunk != a->next_chunk) /* done before an earlier stop */
                continue;
            members[n++] = next;
            st = forward(a, p, who, &p->rows[n]);
        }
        if (st == QSAE_OK)
            st = finish_group(a, p, members, n);
    } while (st == QSAE_OK && next < a->n_participants);
    if (st != QSAE_OK)
        return st;
    a->next_chunk += p->n_seq;
    a->tokens_done += p->rows_n;
    return QSAE_OK;
}
