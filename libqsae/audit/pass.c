/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The paired pass over one logical batch. All models run first, then the head streams over all of
 * them, then the metrics are updated: what stops a pass early leaves no metric half updated.
 * Conditions go in groups that fit the memory for their rows; a group that is done stays done when
 * the next is stopped.
 *
 * A condition that leaves the first layers alone begins with the reference's rows below the first
 * one it changes: the same layers would give the same bits.
 */
#include <string.h>

#include "audit/contexts.h"
#include "audit/llama.h"
#include "audit/pass.h"

#define GROUP_BYTES ((int64_t)1 << 29) /* rows of the conditions kept at once */
#define BRANCH_BYTES ((int64_t)1 << 30) /* rows of the reference that conditions begin with */

void qsae__pass_free_taps(qsae_audit *a, const struct pass *p, float **taps)
{
    for (int64_t t = 0; taps && t < p->n_taps; t++)
        qsae__free(a->ctx, taps[t]);
    qsae__free(a->ctx, taps);
}

static void free_rows(qsae_audit *a, struct pass *p, struct rows_of *r)
{
    qsae__pass_free_taps(a, p, r->taps);
    qsae__free(a->ctx, r->final);
    qsae__free(a->ctx, r->nll);
    qsae__free(a->ctx, r->kl);
    qsae__free(a->ctx, r->entropy);
    qsae__free(a->ctx, r->overlap);
    qsae__free(a->ctx, r->top);
}

void qsae__pass_close(qsae_audit *a)
{
    struct pass *p = a->pass;
    if (!p)
        return;
    for (int64_t i = 0; i < p->n_slabs; i++)
        qsae__slab_close(&p->slabs[i]);
    for (int64_t i = 0; p->rows && i <= p->group; i++)
        free_rows(a, p, &p->rows[i]);
    for (int64_t i = 0; i < p->n_branches; i++)
        qsae__free(a->ctx, p->branches[i].x);
    for (int64_t i = 0; i < a->n_saes; i++) {
        if (p->csr_r)
            qsae__csr_free(&p->csr_r[i]);
        if (p->csr_set)
            qsae__csr_free(&p->csr_set[i]);
        if (p->y_r)
            qsae__free(a->ctx, p->y_r[i]);
        if (p->y_set)
            qsae__free(a->ctx, p->y_set[i]);
    }
    qsae__csr_free(&p->csr_q);
    qsae__splice_close(a, &p->splice);
    qsae__stream_close(a, p);
    qsae__inturn_close(a, p);
    qsae__batch_close(a, &p->batch);
    void *const blocks[] = { p->taps, p->sae_tap, p->sae_in, p->sae_entry, p->rows, p->csr_r,
                             p->csr_set, p->acts, p->y_r, p->y_q, p->y_set, p->spliced,
                             p->slabs, p->branches };
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        qsae__free(a->ctx, blocks[i]);
    qsae__free(a->ctx, p);
    a->pass = NULL;
}

/* Index of a tap, which is added if it is not there. */
static int64_t find_tap(struct pass *p, int32_t layer, int32_t site, int64_t cols)
{
    int64_t at = 0;
    while (at < p->n_taps && (p->taps[at].layer != layer || p->taps[at].site != site))
        at++;
    if (at == p->n_taps)
        p->taps[p->n_taps++] = (struct tap){ layer, site, cols };
    return at;
}

static int32_t plan_taps(qsae_audit *a, struct pass *p)
{
    p->taps = qsae__calloc(a->ctx, 3 * a->n_saes, sizeof *p->taps);
    p->sae_tap = qsae__calloc(a->ctx, a->n_saes, sizeof *p->sae_tap);
    p->sae_in = qsae__calloc(a->ctx, a->n_saes, sizeof *p->sae_in);
    p->sae_entry = qsae__calloc(a->ctx, a->n_saes, sizeof *p->sae_entry);
    if (!p->taps || !p->sae_tap || !p->sae_in || !p->sae_entry)
        return QSAE_ENOMEM;
    for (int64_t i = 0; i < a->n_saes; i++) {
        const struct audit_sae *const s = &a->saes[i];
        bool embedded;
        const int64_t first = qsae__layers_first(a, i, &embedded);
        const bool entry = a->splice && !embedded && qsae__stands_alone(a, i) &&
                           (s->of || s->site != QSAE_SITE_RESID_POST);
        p->sae_tap[i] = find_tap(p, s->layer, s->site, s->columns);
        p->sae_in[i] = find_tap(p, s->layer_in, s->site_in, s->columns_in);
        p->sae_entry[i] =
            entry ? find_tap(p, (int32_t)first, QSAE_SITE_RESID_PRE, p->width) : -1;
    }
    return QSAE_OK;
}

int64_t qsae__pass_first(const qsae_audit *a, const struct participant *who)
{
    const struct participant *const r = &a->participants[0];
    qsae_model_info info = { .struct_size = offsetof(qsae_model_info, hash) };
    if (who == r || who->weights || qsae_model_get_info(r->model, &info) != QSAE_OK)
        return 0;
    const int64_t first = qsae__model_first_changed(r->model, who->model);
    return first < info.layers ? first : 0;
}

/*
 * Keeps the reference's rows before the layers where conditions begin; where memory does not hold
 * them all, before every second, third ... of them, and the others begin at the one below.
 */
static int32_t plan_branches(qsae_audit *a, struct pass *p, int64_t layers, int64_t floats)
{
    uint8_t *wanted = qsae__calloc(a->ctx, layers, 1);
    int64_t n = 0, kept = 0;
    if (!wanted)
        return QSAE_ENOMEM;
    for (int64_t i = 1; i < a->n_participants; i++) {
        struct participant *const who = &a->participants[i];
        who->start = qsae__pass_first(a, who);
        n += who->start > 0 && !wanted[who->start];
        wanted[who->start] = 1;
    }
    const int64_t most = qsae__max_i64(1, BRANCH_BYTES / (floats * (int64_t)sizeof(float)));
    const int64_t stride = qsae__ceil_div(n, most);
    p->branches = qsae__calloc(a->ctx, n, sizeof *p->branches);
    int32_t st = p->branches ? QSAE_OK : QSAE_ENOMEM;
    for (int64_t layer = 1, seen = 0; layer < layers && st == QSAE_OK; layer++) {
        if (!wanted[layer] || seen++ % stride != 0)
            continue;
        struct branch *const b = &p->branches[kept];
        b->layer = layer;
        if (!(b->x = qsae__alloc_array(a->ctx, floats, sizeof(float))))
            st = QSAE_ENOMEM;
        p->n_branches = ++kept;
    }
    for (int64_t i = 1; i < a->n_participants; i++) {
        struct participant *const who = &a->participants[i];
        int64_t start = 0;
        for (int64_t b = 0; b < kept && p->branches[b].layer <= who->start; b++)
            start = p->branches[b].layer;
        who->start = start;
    }
    qsae__free(a->ctx, wanted);
    return st;
}

int32_t qsae__pass_open_taps(qsae_audit *a, const struct pass *p, float ***taps)
{
    float **const list = *taps = qsae__calloc(a->ctx, p->n_taps, sizeof *list);
    if (!list)
        return QSAE_ENOMEM;
    for (int64_t t = 0; t < p->n_taps; t++)
        if (!(list[t] = qsae__alloc_array(a->ctx, p->batch.rows_max * p->taps[t].cols,
                                          sizeof(float))))
            return QSAE_ENOMEM;
    return QSAE_OK;
}

static int32_t open_rows(qsae_audit *a, struct pass *p, struct rows_of *r)
{
    const int64_t rows = p->batch.rows_max;
    r->nll = qsae__alloc_array(a->ctx, rows, sizeof(float));
    r->kl = qsae__alloc_array(a->ctx, rows, sizeof(float));
    r->top = qsae__alloc_array(a->ctx, rows, sizeof(int32_t));
    r->entropy = qsae__alloc_array(a->ctx, rows, sizeof(float));
    r->overlap = qsae__alloc_array(a->ctx, rows, sizeof(float));
    if (!r->nll || !r->kl || !r->top || !r->entropy || !r->overlap)
        return QSAE_ENOMEM;
    if (p->stream) /* a batch's rows are put in their place when it is finished */
        return QSAE_OK;
    r->final = qsae__alloc_array(a->ctx, rows * p->width_max, sizeof(float));
    return r->final ? qsae__pass_open_taps(a, p, &r->taps) : QSAE_ENOMEM;
}

static int32_t open_buffers(qsae_audit *a, struct pass *p)
{
    qsae_context *const ctx = a->ctx;
    const int64_t n = p->batch.rows_max, saes = a->n_saes;
    p->csr_r = qsae__calloc(ctx, saes, sizeof *p->csr_r);
    p->csr_set = qsae__calloc(ctx, saes, sizeof *p->csr_set);
    p->acts = qsae__calloc(ctx, saes, sizeof *p->acts);
    p->y_r = qsae__calloc(ctx, saes, sizeof *p->y_r);
    p->y_set = qsae__calloc(ctx, saes, sizeof *p->y_set);
    p->spliced = qsae__calloc(ctx, saes, sizeof *p->spliced);
    int64_t widest = 0;
    for (int64_t i = 0; i < saes; i++)
        widest = qsae__max_i64(widest, a->saes[i].info.width_out);
    p->y_q = qsae__alloc_array(ctx, n * widest, sizeof(float));
    p->rows = qsae__calloc(ctx, p->group + 1, sizeof *p->rows);
    if (!p->csr_r || !p->csr_set || !p->acts || !p->y_r || !p->y_q || !p->y_set || !p->spliced ||
        !p->rows)
        return QSAE_ENOMEM;
    int32_t st = QSAE_OK;
    for (int64_t i = 0; i <= p->group && st == QSAE_OK; i++)
        st = open_rows(a, p, &p->rows[i]);
    qsae__csr_init(&p->csr_q, ctx);
    for (int64_t i = 0; i < saes && st == QSAE_OK; i++) {
        qsae__csr_init(&p->csr_r[i], ctx);
        qsae__csr_init(&p->csr_set[i], ctx);
        p->y_r[i] = qsae__alloc_array(ctx, n * a->saes[i].info.width_out, sizeof(float));
        const bool spliced = a->splice && a->saes[i].of && a->n_participants > 1;
        if (spliced)
            p->y_set[i] = qsae__alloc_array(ctx, n * a->saes[i].info.width_out, sizeof(float));
        if (!p->y_r[i] || (spliced && !p->y_set[i]))
            st = QSAE_ENOMEM;
    }
    if (st == QSAE_OK && a->splice)
        st = qsae__splice_open(a, p->group + 1, n, p->width, widest, &p->splice);
    return st;
}

qsae__slab *qsae__pass_slab(const struct pass *p, int64_t width)
{
    for (int64_t i = 0; i < p->n_slabs; i++)
        if (p->slabs[i].width == width)
            return &p->slabs[i];
    return NULL;
}

/* A slab for every width. */
static int32_t open_slabs(qsae_audit *a, struct pass *p)
{
    const int64_t n = a->n_participants, chunks = qsae__min_i64(a->batch, a->corpus_info.chunks);
    qsae_model **models = qsae__calloc(a->ctx, n, sizeof *models);
    p->slabs = qsae__calloc(a->ctx, n, sizeof *p->slabs);
    int32_t st = models && p->slabs ? QSAE_OK : QSAE_ENOMEM;
    for (int64_t i = 0; i < n && st == QSAE_OK; i++) {
        const int64_t width = a->participants[i].width;
        if (qsae__pass_slab(p, width))
            continue;
        for (int64_t k = 0; k < n; k++)
            models[k] = a->participants[k].width == width ? a->participants[k].model : NULL;
        st = qsae__slab_open(a->ctx, models, n, chunks, a->corpus_info.context,
                             &p->slabs[p->n_slabs]);
        p->n_slabs += st == QSAE_OK;
    }
    qsae__free(a->ctx, models);
    return st;
}

static int32_t open_pass(qsae_audit *a, struct pass *p)
{
    qsae_model_info info = { .struct_size = offsetof(qsae_model_info, hash) };
    int64_t floats, each, cols;
    int32_t st = qsae__batch_open(a, &p->batch);
    for (int64_t i = a->n_participants - 1; i >= 0 && st == QSAE_OK; i--) {
        st = qsae_model_get_info(a->participants[i].model, &info);
        a->participants[i].width = info.width;
        p->width_max = qsae__max_i64(p->width_max, info.width);
    }
    p->width = a->participants[0].width;
    if (st != QSAE_OK || (st = plan_taps(a, p)) != QSAE_OK)
        return st;
    cols = p->width_max;
    for (int64_t t = 0; t < p->n_taps; t++)
        cols += p->taps[t].cols;
    if (!qsae__mul_i64(p->batch.rows_max, cols, &floats) ||
        !qsae__mul_i64(floats, (int64_t)sizeof(float), &each))
        return qsae__fail(QSAE_EOVERFLOW, "a batch of %lld tokens is too large",
                          (long long)p->batch.rows_max);
    p->group = qsae__min_i64(a->n_participants - 1, GROUP_BYTES / qsae__max_i64(each, 1));
    p->group = qsae__max_i64(qsae__min_i64(p->group, QSAE__GROUP_MOST), a->n_participants > 1);
    st = a->memory == QSAE_MEMORY_STREAMED
             ? qsae__stream_open(a, p, each)
         : a->memory == QSAE_MEMORY_IN_TURN
             ? qsae__inturn_open(a, p)
             : plan_branches(a, p, info.layers, p->batch.rows_max * p->width);
    if (st == QSAE_OK)
        st = open_buffers(a, p);
    return st == QSAE_OK ? open_slabs(a, p) : st;
}

int32_t qsae__pass_open(qsae_audit *a)
{
    a->pass = qsae__calloc(a->ctx, 1, sizeof *a->pass);
    const int32_t st = a->pass ? open_pass(a, a->pass) : QSAE_ENOMEM;
    if (st != QSAE_OK)
        qsae__pass_close(a);
    return st;
}

/* Where a participant begins, or what the reference leaves for others. */
static void branch(struct pass *p, const struct participant *who, int64_t layer, qsae__slab *slab,
                   bool leave)
{
    for (int64_t b = 0; b < p->n_branches; b++) {
        const size_t bytes = (size_t)(p->batch.rows * who->width) * sizeof(float);
        if (p->branches[b].layer != layer)
            continue;
        memcpy(leave ? p->branches[b].x : slab->x, leave ? slab->x : p->branches[b].x, bytes);
    }
}

/* Keeps the rows at the taps: a watch of the slab. */
struct collector {
    const struct pass *p;
    const struct rows_of *out;
};

static bool collects(void *self, int64_t layer, int32_t site)
{
    const struct collector *const c = self;
    for (int64_t t = 0; t < c->p->n_taps; t++)
        if (c->p->taps[t].layer == layer && c->p->taps[t].site == site)
            return true;
    return false;
}

static int32_t collect(void *self, int64_t layer, int32_t site, float *rows, int64_t n,
                       int64_t cols, int64_t ld)
{
    const struct collector *const c = self;
    for (int64_t t = 0; t < c->p->n_taps; t++)
        if (c->p->taps[t].layer == layer && c->p->taps[t].site == site)
            for (int64_t r = 0; r < n; r++)
                memcpy(c->out->taps[t] + r * cols, rows + r * ld, (size_t)cols * sizeof *rows);
    return QSAE_OK;
}

int32_t qsae__pass_step(const struct pass *p, struct participant *who, int64_t layer,
                        qsae__slab *slab, const struct rows_of *out, float *final)
{
    struct collector collector = { p, out };
    const qsae__watch watch = { &collector, collects, collect };
    slab->watch = qsae__participant_features(who) ? &watch : NULL;
    const int32_t st = layer < 0 ? qsae__model_embed(who->model, slab)
                       : final   ? qsae__model_final(who->model, slab, final)
                                 : qsae__model_step(who->model, layer, slab);
    slab->watch = NULL;
    return st;
}

int32_t qsae__pass_forward(qsae_audit *a, struct pass *p, struct participant *who,
                           struct rows_of *out)
{
    qsae_model_info info = { .struct_size = offsetof(qsae_model_info, hash) };
    const bool reference = who == a->participants;
    const double start = qsae__now();
    qsae__slab *const slab = qsae__pass_slab(p, who->width);
    /* A batch that was stopped midway is counted once. */
    for (int64_t i = 0; i < who->n_outliers; i++)
        qsae__model_set_outliers(who->model, i, &who->outliers[i]);
    slab->ids = p->batch.ids;
    slab->n_seq = p->batch.n_seq;
    slab->n_tokens = p->batch.n_tokens;
    int32_t st = qsae_model_get_info(who->model, &info);
    if (st == QSAE_OK && who->start == 0)
        st = qsae__pass_step(p, who, -1, slab, out, NULL);
    else if (st == QSAE_OK)
        branch(p, who, who->start, slab, false);
    for (int64_t layer = who->start; layer < info.layers && st == QSAE_OK; layer++) {
        if ((st = qsae__canceled(a->cancel)) != QSAE_OK)
            break;
        if (reference)
            branch(p, who, layer, slab, true);
        st = qsae__pass_step(p, who, layer, slab, out, NULL);
    }
    if (st == QSAE_OK)
        st = qsae__pass_step(p, who, info.layers, slab, out, out->final);
    who->seconds += qsae__now() - start;
    const uint64_t rss = qsae__resident_bytes();
    if (rss > who->peak_rss)
        who->peak_rss = rss;
    return st;
}

/* ld: row stride. */
static qsae_rows rows_view(const struct pass *p, float *data, int64_t cols, int64_t ld)
{
    return (qsae_rows){ .struct_size = sizeof(qsae_rows), .data = data, .n_rows = p->batch.rows,
                        .n_cols = cols, .row_stride = ld, .dtype = QSAE_F32 };
}

static qsae_sparse_rows sparse_view(const qsae__csr *c)
{
    return (qsae_sparse_rows){ .struct_size = sizeof(qsae_sparse_rows), .n = c->n,
                               .indptr = c->indptr, .indices = c->indices, .values = c->values };
}

/* SAE i on a participant's rows. Equal rows have equal features: the reference's are taken. */
static int32_t update_sae(qsae_audit *a, struct pass *p, struct participant *who,
                          const struct rows_of *own, int64_t i)
{
    const struct participant *const reference = a->participants;
    const bool is_reference = who == reference, same = qsae__pass_same(a, who, i);
    const qsae_positions at = qsae__batch_positions(&p->batch, p->batch.mask_features);
    struct audit_features *const f = &who->saes[i];
    qsae__csr *const csr = qsae__pass_acts(a, p, who, i);
    float *const y = same ? p->y_r[i] : p->y_q;
    float *const x = qsae__pass_target(a, p, who, own, i),
          *const x_ref = qsae__pass_target(a, p, reference, &p->rows[0], i);
    const int64_t d = a->saes[i].info.width_out, ld = a->saes[i].columns;
    int32_t st = same ? QSAE_OK : qsae__pass_reconstruct(a, p, who, own, i, y);
    if (st != QSAE_OK)
        return st;
    const qsae_rows vx = rows_view(p, x, d, ld), vy = rows_view(p, y, d, d),
                    vxr = rows_view(p, x_ref, d, ld), vyr = rows_view(p, p->y_r[i], d, d);
    const qsae_sparse_rows acts = sparse_view(csr), acts_r = sparse_view(&p->csr_r[i]);
    st = qsae__batch_added(a, qsae_metric_update_reconstruction(f->reconstruction, &at, &vx, &vy,
                                                                &acts));
    if (st == QSAE_OK)
        st = qsae__slices_update_features(
            a, who, i, &p->batch,
            &(const struct slice_rows){ .x_r = &vxr, .x = &vx, .y_r = &vyr, .y = &vy,
                                        .acts_r = &acts_r });
    if (st == QSAE_OK && who->control == QSAE__CONTROL_SHUFFLE) {
        const struct shuffle_rows in = { .x_r = x_ref, .y_r = p->y_r[i], .x = x, .y = y,
                                         .ld = ld, .csr_r = &p->csr_r[i], .csr = csr };
        return qsae__shuffle_update(a, who, i, &p->batch, &in);
    }
    if (st == QSAE_OK && !is_reference)
        st = qsae__batch_added(a, qsae_metric_update_drift(f->drift, &at, &vxr, &vx, &vyr, &vy));
    if (st == QSAE_OK && f->survival)
        st = qsae__batch_added(a, qsae_metric_update_features(f->survival, &at, &acts_r, &acts));
    return st;
}

/* Runs a participant with each SAE spliced in; member: its place in the group. */
static int32_t splice(qsae_audit *a, struct pass *p, struct participant *who, int64_t member)
{
    const struct rows_of *const own = &p->rows[member];
    qsae__slab *const slab = qsae__pass_slab(p, who->width);
    qsae__outliers *const met = qsae__calloc(a->ctx, who->n_outliers, sizeof *met);
    int32_t st = met ? QSAE_OK : QSAE_ENOMEM;
    for (int64_t i = 0; met && i < who->n_outliers; i++)
        met[i] = qsae__model_outliers(who->model, i);
    slab->ids = p->batch.ids;
    slab->n_seq = p->batch.n_seq;
    slab->n_tokens = p->batch.n_tokens;
    const bool features = qsae__participant_features(who);
    if (st == QSAE_OK && features && who != a->participants)
        st = qsae__pass_encode_sets(a, p, who, own);
    for (int64_t i = 0; i < a->n_saes && st == QSAE_OK && features; i++) {
        const struct audit_layers *const set = a->saes[i].of;
        const bool same = qsae__pass_same(a, who, i);
        float *const y = same ? p->y_r[i] : set ? p->y_set[i] : p->y_q;
        if (!same)
            st = qsae__pass_reconstruct(a, p, who, own, i, y);
        const int64_t entry = p->sae_entry[i], first = set ? set->first : i;
        p->spliced[i] = (struct splice_rows){
            .x = qsae__pass_target(a, p, who, own, i),
            .y = y,
            .entry = entry >= 0 ? qsae__pass_rows(p, who, own, entry) : NULL,
            .width = a->saes[i].info.width_out,
            .ld = a->saes[i].columns,
        };
        if (st == QSAE_OK && (!set || i + 1 == first + set->info.layers))
            st = qsae__splice_run(a, p->splice, who, member, first, &p->batch, &p->spliced[first],
                                  own->final, slab);
    }
    /* What the model meets while it is left alone is what is reported. */
    for (int64_t i = 0; met && i < who->n_outliers; i++)
        qsae__model_set_outliers(who->model, i, &met[i]);
    qsae__free(a->ctx, met);
    return st;
}

/* Metrics of one participant, at its place in the group; the reference's is 0. */
static int32_t update(qsae_audit *a, struct pass *p, struct participant *who, int64_t member)
{
    struct rows_of *const own = &p->rows[member];
    const double start = qsae__now();
    const qsae_positions at = qsae__batch_positions(&p->batch, p->batch.mask);
    const int64_t n = p->batch.rows;
    const struct rows_of *const ref = &p->rows[0];
    int32_t st = qsae__batch_added(a, qsae_metric_update_cross_entropy(who->cross_entropy, &at, n,
                                                                       own->nll));
    if (st == QSAE_OK && who == a->participants)
        st = qsae__slices_update_predictions(a, who, &p->batch, NULL, own->nll);
    if (st == QSAE_OK && who != a->participants) {
        const bool kl = !who->checkpoint || !who->checkpoint->no_kl;
        const qsae_divergence_rows d = { .struct_size = sizeof d, .n = n, .nll_r = ref->nll,
                                         .nll_q = own->nll, .kl = kl ? own->kl : NULL,
                                         .top_r = ref->top, .top_q = own->top,
                                         .label = p->batch.labels, .entropy_r = ref->entropy,
                                         .entropy_q = own->entropy,
                                         .topk_overlap = kl ? own->overlap : NULL };
        st = qsae__batch_added(a, qsae_metric_update_divergence(who->divergence, &at, &d));
        if (st == QSAE_OK)
            st = qsae__slices_update_predictions(a, who, &p->batch, &d, NULL);
    }
    if (st == QSAE_OK)
        st = qsae__llama_update(a, p, who, member);
    const bool features = qsae__participant_features(who);
    if (st == QSAE_OK && features && who != a->participants)
        st = qsae__pass_encode_sets(a, p, who, own);
    for (int64_t i = 0; i < a->n_saes && st == QSAE_OK && features; i++) {
        st = update_sae(a, p, who, own, i);
        if (st == QSAE_OK && p->splice && qsae__stands_alone(a, i))
            st = qsae__splice_update(a, p->splice, who, member, i, &p->batch, own->nll, own->top);
    }
    who->seconds += qsae__now() - start;
    if (st != QSAE_OK) {
        a->half = true;
        return st;
    }
    if (a->length)
        qsae__contexts_keep(a, who - a->participants, own->nll,
                            who == a->participants ? NULL : own->kl);
    who->next_chunk = a->next_chunk + p->batch.n_seq;
    a->half = false;
    for (int64_t i = 0; i < who->n_outliers; i++)
        who->outliers[i] = qsae__model_outliers(who->model, i);
    return QSAE_OK;
}

/* Head over the reference and the conditions of a group (indices in members). Those with another
 * number of rows have no divergence and run alone. */
static int32_t run_heads(qsae_audit *a, struct pass *p, const int64_t *members, int64_t n)
{
    qsae__head_rows *heads = qsae__calloc(a->ctx, n + 1, sizeof *heads);
    int64_t joint = 0;
    if (!heads)
        return QSAE_ENOMEM;
    const double start = qsae__now();
    int32_t st = QSAE_OK;
    for (int64_t j = 0; j <= n && st == QSAE_OK; j++) {
        struct participant *const who = &a->participants[j ? members[j - 1] : 0];
        struct rows_of *const r = &p->rows[j];
        const bool alone = who->checkpoint && who->checkpoint->no_kl;
        const qsae__head_rows head = { .model = who->model, .final = r->final, .nll = r->nll,
                                       .kl = j && !alone ? r->kl : NULL, .top = r->top,
                                       .entropy = r->entropy, .overlap_k = a->overlap_k,
                                       .overlap = j && !alone ? r->overlap : NULL };
        if (alone)
            st = qsae__head_run(a->ctx, p->batch.rows, p->batch.labels, 1, &head, a->cancel);
        else
            heads[joint++] = head;
    }
    if (st == QSAE_OK)
        st = qsae__head_run(a->ctx, p->batch.rows, p->batch.labels, joint, heads, a->cancel);
    qsae__free(a->ctx, heads);
    const double share = (qsae__now() - start) / (double)(n + 1);
    for (int64_t j = 0; j <= n; j++) {
        struct participant *const who = &a->participants[j ? members[j - 1] : 0];
        if (j || who->next_chunk == a->next_chunk)
            who->seconds += share;
    }
    return st;
}

int32_t qsae__pass_finish(qsae_audit *a, struct pass *p, const int64_t *members, int64_t n)
{
    struct participant *const reference = &a->participants[0];
    const int64_t first = reference->next_chunk == a->next_chunk ? 0 : 1;
    int32_t st = run_heads(a, p, members, n);
    if (st == QSAE_OK && a->llama)
        st = qsae__llama_batch(a, p, members, n);
    for (int64_t j = first; j <= n && st == QSAE_OK && p->splice; j++)
        st = splice(a, p, &a->participants[j ? members[j - 1] : 0], j);
    p->batch.entropy = p->rows[0].entropy;
    for (int64_t j = first; j <= n && st == QSAE_OK; j++)
        st = update(a, p, &a->participants[j ? members[j - 1] : 0], j);
    p->batch.entropy = NULL;
    return st;
}

int32_t qsae__pass_reference(qsae_audit *a, struct pass *p)
{
    const double start = qsae__now();
    int32_t st = qsae__pass_encode_sets(a, p, a->participants, &p->rows[0]);
    for (int64_t i = 0; i < a->n_saes && st == QSAE_OK; i++)
        st = qsae__pass_reconstruct(a, p, a->participants, &p->rows[0], i, p->y_r[i]);
    a->participants[0].seconds += qsae__now() - start;
    return st;
}

int32_t qsae__pass_batch(qsae_audit *a)
{
    struct pass *const p = a->pass;
    int64_t members[QSAE__GROUP_MOST];
    if (p->stream)
        return qsae__stream_batch(a, p);
    if (p->inturn)
        return qsae__inturn_batch(a, p);
    int32_t st = qsae__batch_gather(a, a->next_chunk, &p->batch);
    if (st == QSAE_OK)
        st = qsae__pass_forward(a, p, &a->participants[0], &p->rows[0]);
    if (st == QSAE_OK)
        st = qsae__pass_reference(a, p);
    int64_t next = 1;
    do {
        int64_t n = 0;
        for (; next < a->n_participants && n < p->group && st == QSAE_OK; next++) {
            struct participant *const who = &a->participants[next];
            if (who->next_chunk != a->next_chunk) /* done before an earlier stop */
                continue;
            members[n++] = next;
            st = qsae__pass_forward(a, p, who, &p->rows[n]);
        }
        if (st == QSAE_OK)
            st = qsae__pass_finish(a, p, members, n);
    } while (st == QSAE_OK && next < a->n_participants);
    if (st != QSAE_OK)
        return st;
    return qsae__cover(a, a->next_chunk + p->batch.n_seq);
}
