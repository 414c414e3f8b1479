/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The paired pass over models that are larger than memory: a slab of several logical batches goes
 * through the models layer by layer, each layer's weights being made ready once per slab, then head
 * and metrics take the batches one after another as in pass.c. Batches are what they are there, so
 * every figure has the same bits.
 *
 * The models of a group take turns at a layer: what one of them read of the file the next finds in
 * memory, and those that leave the layer alone compute with the reference's copy of it. A condition
 * that changes no layer below n takes the reference's rows before n.
 *
 * Where the rows of all conditions do not fit, the slab is one batch and they go in groups, each
 * with the reference once more.
 */
#include <string.h>

#include "audit/pass.h"

#define STREAM_BYTES ((int64_t)1 << 30) /* rows kept at once */

/* A logical batch on its way. */
struct lot {
    struct audit_batch batch;
    int64_t chunk;               /* its first */
    struct rows_of *rows;        /* [1 + group] final: the residual rows until then; taps */
    qsae__outliers **outliers;   /* [1 + group] of [linears]: what this batch met */
};

struct stream {
    struct lot *lots;        /* [most] */
    int64_t most, n;             /* batches a slab may hold, and those in this one */
    int64_t at;                  /* the next to finish */
};

/* One group on its way: participants[member[j]] has rows[j] of each lot; member[0] is 0. */
struct group {
    qsae_audit *a;
    struct pass *p;
    struct stream *s;
    int64_t member[1 + QSAE__GROUP_MOST], layers[1 + QSAE__GROUP_MOST];
    int64_t n;
};

void qsae__stream_close(qsae_audit *a, struct pass *p)
{
    struct stream *const s = p->stream;
    if (!s)
        return;
    for (int64_t i = 0; s->lots && i < s->most; i++) {
        struct lot *const w = &s->lots[i];
        for (int64_t j = 0; w->rows && j <= p->group; j++) {
            qsae__free(a->ctx, w->rows[j].final);
            qsae__free(a->ctx, w->rows[j].kept);
            qsae__pass_free_taps(a, p, w->rows[j].taps);
        }
        for (int64_t j = 0; w->outliers && j <= p->group; j++)
            qsae__free(a->ctx, w->outliers[j]);
        qsae__free(a->ctx, w->rows);
        qsae__free(a->ctx, w->outliers);
        qsae__batch_close(a, &w->batch);
    }
    qsae__free(a->ctx, s->lots);
    qsae__free(a->ctx, s);
    p->stream = NULL;
}

static int32_t open_lot(qsae_audit *a, struct pass *p, struct lot *w)
{
    int64_t linears = 0;
    size_t kept = 0;
    for (int64_t i = 0; i < a->n_participants; i++) {
        const struct participant *const who = &a->participants[i];
        const size_t bytes = qsae__model_kept(who->model, p->batch.rows_max);
        linears = qsae__max_i64(linears, who->n_outliers);
        kept = bytes > kept ? bytes : kept;
    }
    w->rows = qsae__calloc(a->ctx, p->group + 1, sizeof *w->rows);
    w->outliers = qsae__calloc(a->ctx, p->group + 1, sizeof *w->outliers);
    if (!w->rows || !w->outliers)
        return QSAE_ENOMEM;
    int32_t st = qsae__batch_open(a, &w->batch);
    for (int64_t j = 0; j <= p->group && st == QSAE_OK; j++) {
        struct rows_of *const r = &w->rows[j];
        st = qsae__pass_open_taps(a, p, &r->taps);
        if (st != QSAE_OK)
            break;
        r->final = qsae__alloc_array(a->ctx, w->batch.rows_max * p->width_max, sizeof(float));
        w->outliers[j] = qsae__calloc(a->ctx, linears, sizeof **w->outliers);
        if (kept > 0)
            r->kept = qsae__alloc(a->ctx, kept);
        if (!r->final || !w->outliers[j] || (kept > 0 && !r->kept))
            st = QSAE_ENOMEM;
    }
    return st;
}

/* Batches of the whole text; a shorter last chunk is one of its own. */
static int64_t all_batches(const qsae_audit *a)
{
    return qsae__ceil_div(a->corpus_info.chunks, a->batch) + 1;
}

static int64_t fitting(const qsae_audit *a, int64_t bytes)
{
    const int64_t most = a->stream_bytes ? a->stream_bytes : STREAM_BYTES;
    return qsae__max_i64(1, most / qsae__max_i64(bytes, 1));
}

int64_t qsae__stream_fit(const qsae_audit *a, int64_t floats)
{
    return qsae__min_i64(all_batches(a), fitting(a, floats * (int64_t)sizeof(float)));
}

int32_t qsae__stream_open(qsae_audit *a, struct pass *p, int64_t each)
{
    const int64_t conditions = a->n_participants - 1, fit = fitting(a, each);
    struct stream *const s = p->stream = qsae__calloc(a->ctx, 1, sizeof *s);
    if (!s)
        return QSAE_ENOMEM;
    p->group = qsae__min_i64(qsae__max_i64(fit - 1, 1),
                             qsae__min_i64(conditions, QSAE__GROUP_MOST));
    s->most = p->group < conditions ? 1 : qsae__max_i64(1, fit / (p->group + 1));
    s->most = qsae__min_i64(s->most, all_batches(a));
    for (int64_t i = 0; i < a->n_participants; i++)
        a->participants[i].start = qsae__pass_first(a, &a->participants[i]);
    s->lots = qsae__calloc(a->ctx, s->most, sizeof *s->lots);
    int32_t st = s->lots ? QSAE_OK : QSAE_ENOMEM;
    for (int64_t i = 0; i < s->most && st == QSAE_OK; i++)
        st = open_lot(a, p, &s->lots[i]);
    return st;
}

/* Whether a batch is still to be measured for a participant. The reference's rows are needed
 * whoever else runs. */
static bool due(const struct group *t, int64_t j, const struct lot *w)
{
    return j == 0 || t->a->participants[t->member[j]].next_chunk <= w->chunk;
}

/* What a slab has of its own. */
struct held {
    float *x, *kept;
};

/* The slab of participant j on the rows of a batch. */
static qsae__slab *enter(const struct group *t, int64_t j, const struct lot *w, struct held *own)
{
    qsae__slab *const slab = qsae__pass_slab(t->p, t->a->participants[t->member[j]].width);
    *own = (struct held){ slab->x, slab->kept };
    slab->x = w->rows[j].final;
    if (w->rows[j].kept)
        slab->kept = w->rows[j].kept;
    slab->ids = w->batch.ids;
    slab->n_seq = w->batch.n_seq;
    slab->n_tokens = w->batch.n_tokens;
    return slab;
}

/* One layer of participant j on a batch, and what LLM.int8 meets there; before its first the
 * embedding, after its last the final norm. */
static int32_t step(const struct group *t, int64_t j, int64_t layer, const struct lot *w)
{
    struct participant *const who = &t->a->participants[t->member[j]];
    const qsae__outliers none = { 0 };
    struct held own;
    qsae__slab *const slab = enter(t, j, w, &own);
    int32_t st = qsae__canceled(t->a->cancel);
    for (int64_t i = 0; i < who->n_outliers; i++)
        if (qsae__model_linear_layer(who->model, i) == layer)
            qsae__model_set_outliers(who->model, i, &none);
    if (st == QSAE_OK && layer == 0)
        st = qsae__pass_step(t->p, who, -1, slab, &w->rows[j], NULL);
    if (st == QSAE_OK)
        st = qsae__pass_step(t->p, who, layer, slab, &w->rows[j], NULL);
    for (int64_t i = 0; i < who->n_outliers; i++)
        if (qsae__model_linear_layer(who->model, i) == layer)
            w->outliers[j][i] = qsae__model_outliers(who->model, i);
    if (st == QSAE_OK && layer + 1 == t->layers[j]) {
        st = qsae__pass_step(t->p, who, layer + 1, slab, &w->rows[j], own.x);
        memcpy(slab->x, own.x, (size_t)(w->batch.rows * who->width) * sizeof *own.x);
    }
    slab->x = own.x;
    slab->kept = own.kept;
    return st;
}

/* One layer of participant j on all batches. The layer stays loaded. */
static int32_t run_layer(const struct group *t, int64_t j, int64_t layer)
{
    struct participant *const who = &t->a->participants[t->member[j]];
    const double start = qsae__now();
    int32_t st = qsae__canceled(t->a->cancel);
    if (st == QSAE_OK)
        st = qsae__model_load(who->model, layer);
    if (st != QSAE_OK && j > 0)
        st = qsae__fail_in(st, "condition %s", who->label);
    for (int64_t b = 0; b < t->s->n && st == QSAE_OK; b++)
        if (due(t, j, &t->s->lots[b]))
            st = step(t, j, layer, &t->s->lots[b]);
    const uint64_t rss = qsae__resident_bytes();
    who->peak_rss = rss > who->peak_rss ? rss : who->peak_rss;
    who->seconds += qsae__now() - start;
    return st;
}

/* Participants that begin at this layer, above the first, take the reference's rows. */
static void copy_reference(const struct group *t, int64_t layer)
{
    for (int64_t j = 1; j <= t->n && layer > 0; j++) {
        const struct participant *const who = &t->a->participants[t->member[j]];
        for (int64_t b = 0; b < t->s->n && who->start == layer; b++) {
            const struct lot *const w = &t->s->lots[b];
            memcpy(w->rows[j].final, w->rows[0].final,
                   (size_t)(w->batch.rows * who->width) * sizeof(float));
        }
    }
}

/* The turn of a layer: the reference, those that share its copy of the layer, the others. */
static int32_t turn(const struct group *t, int64_t layer)
{
    qsae_model *const reference = t->a->participants[0].model;
    int32_t st = QSAE_OK;
    copy_reference(t, layer);
    if (layer < t->layers[0])
        st = run_layer(t, 0, layer);
    for (int others = 0; others < 2; others++) {
        for (int64_t j = 1; j <= t->n && st == QSAE_OK; j++) {
            const struct participant *const who = &t->a->participants[t->member[j]];
            if (layer < who->start || layer >= t->layers[j] ||
                qsae__model_shares(reference, who->model, layer) == others)
                continue;
            st = run_layer(t, j, layer);
            qsae__model_drop(who->model, layer);
        }
        if (!others && layer < t->layers[0])
            qsae__model_drop(reference, layer);
    }
    return st;
}

/* All layers of a group on all batches of the slab. */
static int32_t run_layers(struct group *t)
{
    qsae_audit *const a = t->a;
    int64_t most = 0;
    int32_t st = QSAE_OK;
    for (int64_t j = 0; j <= t->n && st == QSAE_OK; j++) {
        qsae_model_info info = { .struct_size = offsetof(qsae_model_info, hash) };
        st = qsae_model_get_info(a->participants[t->member[j]].model, &info);
        t->layers[j] = info.layers;
        most = qsae__max_i64(most, info.layers);
    }
    for (int64_t layer = 0; layer < most && st == QSAE_OK; layer++) {
        st = turn(t, layer);
        if (st == QSAE_OK && a->progress)
            st = a->progress(a->progress_cookie, layer + 1, most, "layers", "stream");
    }
    return st;
}

/* Gathers a slab from the next chunk on and runs a group on it. */
static int32_t fill(struct group *t)
{
    struct stream *const s = t->s;
    int64_t n = 0;
    int32_t st = QSAE_OK;
    s->n = s->at = 0;
    for (int64_t chunk = t->a->next_chunk; n < s->most && chunk < t->a->end_chunk; n++) {
        st = qsae__batch_gather(t->a, chunk, &s->lots[n].batch);
        if (st != QSAE_OK)
            return st;
        s->lots[n].chunk = chunk;
        chunk += s->lots[n].batch.n_seq;
    }
    s->n = n;
    if ((st = run_layers(t)) != QSAE_OK)
        s->n = 0;
    return st;
}

/* Head and metrics of a batch for those of the group that have not seen it. */
static int32_t finish(const struct group *t, const struct lot *w, bool first)
{
    qsae_audit *const a = t->a;
    struct pass *const p = t->p;
    const struct audit_batch own = p->batch;
    int64_t members[QSAE__GROUP_MOST], n = 0;
    int32_t st = QSAE_OK;
    p->batch = w->batch;
    for (int64_t j = 0; j <= t->n; j++) {
        const struct participant *const who = &a->participants[t->member[j]];
        if (!due(t, j, w))
            continue;
        if (j > 0)
            members[n++] = t->member[j];
        p->rows[n].final = w->rows[j].final;
        p->rows[n].taps = w->rows[j].taps;
        for (int64_t i = 0; i < who->n_outliers; i++) {
            qsae__outliers sum = who->outliers[i];
            sum.calls += w->outliers[j][i].calls;
            sum.with_outliers += w->outliers[j][i].with_outliers;
            sum.columns += w->outliers[j][i].columns;
            qsae__model_set_outliers(who->model, i, &sum);
        }
    }
    if (first)
        st = qsae__pass_reference(a, p);
    if (st == QSAE_OK)
        st = qsae__pass_finish(a, p, members, n);
    for (int64_t k = 0; k <= n; k++) {
        p->rows[k].final = NULL;
        p->rows[k].taps = NULL;
    }
    p->batch = own;
    return st;
}

int32_t qsae__stream_batch(qsae_audit *a, struct pass *p)
{
    struct stream *const s = p->stream;
    const bool whole = p->group == a->n_participants - 1; /* one group: slabs of several batches */
    struct group t = { .a = a, .p = p, .s = s };
    int32_t st = QSAE_OK;
    int64_t next = 1;
    bool first = true;
    do {
        for (t.n = 0; next < a->n_participants && t.n < p->group; next++)
            if (whole || a->participants[next].next_chunk == a->next_chunk)
                t.member[++t.n] = next;
        if (!whole || s->at == s->n || s->lots[s->at].chunk != a->next_chunk)
            st = fill(&t);
        if (st == QSAE_OK)
            st = finish(&t, &s->lots[s->at], first);
        first = false;
    } while (st == QSAE_OK && next < a->n_participants);
    if (st != QSAE_OK)
        return st;
    return qsae__cover(a, a->next_chunk + s->lots[s->at++].batch.n_seq);
}
