/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A model's log-probabilities of a probe set. Sequences of one length share a pass and none is
 * padded; where results depend on which sequences share a call, each has its own. Layers are the
 * outer loop, so that a streamed model reads its checkpoint once per lot of items.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "audit/probed.h"
#include "text/probes.h"

#define LOT_BYTES ((int64_t)512 << 20) /* residual rows of a lot */
#define GROUP_ROWS 2048                /* of a pass */

void qsae_probe_settings_init(qsae_probe_settings *s, size_t size)
{
    qsae__settings_init(s, size);
}

int32_t qsae_probes_open(qsae_context *context, qsae_tokenizer *tokenizer, const char *path,
                         const qsae_probe_settings *settings, qsae_probes **out)
{
    QSAE__FPENV;
    qsae_probe_settings s = { .struct_size = sizeof s };
    if (qsae__need_out(out))
        return QSAE_EINVAL;
    if (qsae__enter(&context) != QSAE_OK)
        return QSAE_EINVAL;
    if (qsae__need(tokenizer, "tokenizer"))
        return QSAE_EINVAL;
    if (!path)
        return qsae__fail(QSAE_EINVAL, "qsae_probes_open: NULL argument");
    const int32_t st =
        settings ? qsae__settings_copy(&s, sizeof s, settings, "qsae_probe_settings") : QSAE_OK;
    if (st != QSAE_OK)
        return st;
    if (!qsae_bos_name(s.bos_policy) && s.bos_policy != QSAE_BOS_DEFAULT)
        return qsae__fail(QSAE_EINVAL, "probes: bos_policy: expected QSAE_BOS_*, found %d",
                          (int)s.bos_policy);
    return qsae__probes_open(context, tokenizer, path, s.bos_policy, out);
}

void qsae_probes_close(qsae_probes **probes)
{
    if (qsae__leave(probes, "probes"))
        qsae__probes_close(probes);
}

int32_t qsae_probes_get_info(const qsae_probes *p, qsae_probes_info *info)
{
    if (qsae__need(p, "probes"))
        return QSAE_EINVAL;
    if (!info)
        return qsae__fail(QSAE_EINVAL, "qsae_probes_get_info: NULL argument");
    qsae_probes_info out = { .struct_size = sizeof out, .items = p->n, .tags = p->n_tags,
                             .longest = p->longest, .bos = p->bos, .bos_policy = p->bos_policy,
                             .hash = p->hash };
    for (int64_t i = 0; i < p->n; i++)
        out.scored_tokens += p->items[i].n_good + p->items[i].n_bad;
    return qsae__info_copy(info, &out, sizeof out, "qsae_probes_info");
}

const char *qsae_probes_tag(const qsae_probes *p, int64_t tag)
{
    return qsae__is_open(p) && tag >= 0 && tag < p->n_tags ? p->tags[tag] : NULL;
}

int32_t qsae_probes_item(const qsae_probes *p, int64_t i, qsae_probe *probe)
{
    if (qsae__need(p, "probes"))
        return QSAE_EINVAL;
    if (!probe || i < 0 || i >= p->n)
        return qsae__fail(QSAE_EINVAL, "qsae_probes_item: %s",
                          probe ? "no such item" : "NULL argument");
    const struct qsae__probe *const k = &p->items[i];
    const int32_t *const ids = qsae__probe_ids(p, i);
    const qsae_probe out = { .struct_size = sizeof out, .context = ids, .good = ids + k->n_context,
                             .bad = ids + k->n_context + k->n_good,
                             .tags = p->item_tags ? p->item_tags + k->first_tag : NULL,
                             .n_context = k->n_context, .n_good = k->n_good, .n_bad = k->n_bad,
                             .n_tags = k->n_tags, .good_bytes = k->good_bytes,
                             .bad_bytes = k->bad_bytes, .line = k->line };
    return qsae__info_copy(probe, &out, sizeof out, "qsae_probe");
}

/* ---- scoring ---- */

/* Context and one continuation, without its last token, which is only predicted. */
struct sequence {
    int64_t item;
    int32_t bad;                 /* 0: good */
    int64_t n_tokens, n_scored;
    int64_t first;               /* of its rows of the head */
};

/* Sequences of one length in one pass. */
struct group {
    int64_t first, n, n_tokens;  /* sequences */
    int32_t *ids;                /* [n, n_tokens] */
    float *x, *kept;             /* residual rows; what layers leave beside them */
    size_t kept_bytes;
};

struct lot {
    const qsae_probes *p;
    qsae_model *model;
    qsae_context *ctx;
    const qsae_cancel_token *cancel;
    int64_t width, layers;
    int64_t group_rows;          /* most of a group; 0: a sequence */
    struct sequence *sequences;  /* [n] ascending length */
    int64_t n, first_item, n_items;
    struct group *groups;        /* [n_groups] */
    int64_t n_groups;
    qsae__slab slab;             /* scratch for the largest group */
    int64_t rows;                /* of the head */
    float *final;                /* [rows, width] */
    float *nll;                  /* [rows] */
    int32_t *labels;             /* [rows] */
};

/* Ascending length; items in order, good before bad. */
static int by_length(const void *a, const void *b)
{
    const struct sequence *const x = a, *const y = b;
    if (x->n_tokens != y->n_tokens)
        return x->n_tokens < y->n_tokens ? -1 : 1;
    if (x->item != y->item)
        return x->item < y->item ? -1 : 1;
    return x->bad - y->bad;
}

static struct sequence sequence_of(const qsae_probes *p, int64_t i, int32_t bad)
{
    const struct qsae__probe *const k = &p->items[i];
    const int64_t scored = bad ? k->n_bad : k->n_good;
    return (struct sequence){ .item = i, .bad = bad, .n_tokens = k->n_context + scored - 1,
                              .n_scored = scored };
}

/* Ids of a sequence's continuation. */
static const int32_t *continuation(const qsae_probes *p, const struct sequence *s)
{
    const struct qsae__probe *const k = &p->items[s->item];
    return qsae__probe_ids(p, s->item) + k->n_context + (s->bad ? k->n_good : 0);
}

static void free_lot(struct lot *w)
{
    for (int64_t g = 0; w->groups && g < w->n_groups; g++) {
        qsae__free(w->ctx, w->groups[g].ids);
        qsae__free(w->ctx, w->groups[g].x);
        qsae__free(w->ctx, w->groups[g].kept);
    }
    qsae__slab_close(&w->slab);
    void *const blocks[] = { w->groups, w->sequences, w->final, w->nll, w->labels };
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        qsae__free(w->ctx, blocks[i]);
}

static int32_t open_group(struct lot *w, struct group *g)
{
    const int64_t rows = g->n * g->n_tokens;
    qsae__slab slab;
    g->ids = qsae__alloc_array(w->ctx, rows, sizeof *g->ids);
    g->x = qsae__alloc_array(w->ctx, rows * w->width, sizeof *g->x);
    g->kept_bytes = qsae__model_kept(w->model, rows);
    g->kept = qsae__alloc(w->ctx, g->kept_bytes);
    if (!g->ids || !g->x || !g->kept)
        return QSAE_ENOMEM;
    for (int64_t k = 0; k < g->n; k++) {
        const struct sequence *const s = &w->sequences[g->first + k];
        const int64_t context = w->p->items[s->item].n_context;
        int32_t *const to = g->ids + k * g->n_tokens;
        memcpy(to, qsae__probe_ids(w->p, s->item), (size_t)context * sizeof *to);
        memcpy(to + context, continuation(w->p, s), (size_t)(s->n_scored - 1) * sizeof *to);
    }
    const int32_t st = qsae__slab_open(w->ctx, &w->model, 1, g->n, g->n_tokens, &slab);
    if (st != QSAE_OK)
        return st;
    if (!w->slab.ctx || slab.scratch_bytes > w->slab.scratch_bytes) {
        qsae__slab_close(&w->slab);
        w->slab = slab;
    } else {
        qsae__slab_close(&slab);
    }
    return QSAE_OK;
}

/* Items from w->first_item on, until their rows fill LOT_BYTES. */
static int32_t open_lot(struct lot *w)
{
    const int64_t most = LOT_BYTES / (w->width * (int64_t)sizeof(float));
    int64_t rows = 0, end = w->first_item;
    while (end < w->p->n) {
        const int64_t more = sequence_of(w->p, end, 0).n_tokens +
                             sequence_of(w->p, end, 1).n_tokens;
        if (end > w->first_item && rows + more > most)
            break;
        rows += more;
        end++;
    }
    w->n_items = end - w->first_item;
    w->sequences = qsae__calloc(w->ctx, 2 * w->n_items, sizeof *w->sequences);
    w->groups = qsae__calloc(w->ctx, 2 * w->n_items, sizeof *w->groups);
    if (!w->sequences || !w->groups)
        return QSAE_ENOMEM;
    for (int64_t i = w->first_item; i < end; i++)
        for (int32_t bad = 0; bad < 2; bad++)
            w->sequences[w->n++] = sequence_of(w->p, i, bad);
    qsort(w->sequences, (size_t)w->n, sizeof *w->sequences, by_length);
    for (int64_t k = 0; k < w->n; k++) {
        struct sequence *const s = &w->sequences[k];
        struct group *const last = w->n_groups ? &w->groups[w->n_groups - 1] : NULL;
        s->first = w->rows;
        w->rows += s->n_scored;
        if (last && last->n_tokens == s->n_tokens && (last->n + 1) * s->n_tokens <= w->group_rows)
            last->n++;
        else
            w->groups[w->n_groups++] = (struct group){ k, 1, s->n_tokens, NULL, NULL, NULL, 0 };
    }
    w->final = qsae__alloc_array(w->ctx, w->rows * w->width, sizeof *w->final);
    w->nll = qsae__alloc_array(w->ctx, w->rows, sizeof *w->nll);
    w->labels = qsae__alloc_array(w->ctx, w->rows, sizeof *w->labels);
    int32_t st = w->final && w->nll && w->labels ? QSAE_OK : QSAE_ENOMEM;
    for (int64_t g = 0; g < w->n_groups && st == QSAE_OK; g++)
        st = open_group(w, &w->groups[g]);
    return st;
}

/* Rows that predict a group's continuations, and what they predict. */
static int32_t take_final(struct lot *w, const struct group *g, const qsae__slab *slab)
{
    float *const rows = qsae__alloc_array(w->ctx, g->n * g->n_tokens * w->width, sizeof *rows);
    int32_t st = rows ? qsae__model_final(w->model, slab, rows) : QSAE_ENOMEM;
    for (int64_t k = 0; k < g->n && st == QSAE_OK; k++) {
        const struct sequence *const s = &w->sequences[g->first + k];
        const int64_t from = (k + 1) * g->n_tokens - s->n_scored;
        memcpy(w->final + s->first * w->width, rows + from * w->width,
               (size_t)(s->n_scored * w->width) * sizeof *rows);
        memcpy(w->labels + s->first, continuation(w->p, s), (size_t)s->n_scored * sizeof(int32_t));
    }
    qsae__free(w->ctx, rows);
    return st;
}

/* One layer on a group; the embedding before the first, the final norm after the last. */
static int32_t step(struct lot *w, const struct group *g, int64_t layer)
{
    qsae__slab slab = w->slab;
    slab.x = g->x;
    slab.kept = g->kept;
    slab.kept_bytes = g->kept_bytes;
    slab.ids = g->ids;
    slab.n_seq = g->n;
    slab.n_tokens = g->n_tokens;
    int32_t st = qsae__canceled(w->cancel);
    if (st == QSAE_OK && layer == 0)
        st = qsae__model_embed(w->model, &slab);
    if (st == QSAE_OK)
        st = qsae__model_step(w->model, layer, &slab);
    if (st == QSAE_OK && layer + 1 == w->layers)
        st = take_final(w, g, &slab);
    return st;
}

static int32_t run_lot(struct lot *w)
{
    int32_t st = QSAE_OK;
    for (int64_t layer = 0; layer < w->layers && st == QSAE_OK; layer++) {
        st = qsae__model_load(w->model, layer);
        for (int64_t g = 0; g < w->n_groups && st == QSAE_OK; g++)
            st = step(w, &w->groups[g], layer);
        qsae__model_drop(w->model, layer);
    }
    if (st != QSAE_OK)
        return st;
    const qsae__head_rows head = { .model = w->model, .final = w->final, .nll = w->nll };
    return qsae__head_run(w->ctx, w->rows, w->labels, 1, &head, w->cancel);
}

static int32_t hand_over(const struct lot *w, qsae_probe_callback callback, void *cookie)
{
    double (*const sums)[2] = qsae__calloc(w->ctx, w->n_items, sizeof *sums);
    int32_t st = sums ? QSAE_OK : QSAE_ENOMEM;
    for (int64_t k = 0; k < w->n && st == QSAE_OK; k++) {
        const struct sequence *const s = &w->sequences[k];
        for (int64_t r = 0; r < s->n_scored; r++)
            sums[s->item - w->first_item][s->bad] -= (double)w->nll[s->first + r];
    }
    for (int64_t i = 0; i < w->n_items && st == QSAE_OK; i++) {
        const qsae_probe_score score = { sizeof score, w->first_item + i, sums[i][0], sums[i][1] };
        st = callback(cookie, &score);
    }
    qsae__free(w->ctx, sums);
    return st;
}

int32_t qsae__probes_check(const qsae_probes *p, const qsae_model_info *info, const char *who)
{
    for (int64_t i = 0; i < p->n; i++) {
        const struct qsae__probe *const k = &p->items[i];
        const int32_t *const ids = qsae__probe_ids(p, i);
        const int64_t read = k->n_context - 1 + qsae__max_i64(k->n_good, k->n_bad);
        if (info->max_positions > 0 && read > info->max_positions)
            return qsae__fail(QSAE_EINVAL, "%s:%" PRId64 ": context and continuation: %" PRId64
                              " tokens to read, %s has max_positions %" PRId64, p->path, k->line,
                              read, who, info->max_positions);
        for (int64_t t = 0; t < k->n_context + k->n_good + k->n_bad; t++)
            if (ids[t] < 0 || ids[t] >= info->vocab)
                return qsae__fail(QSAE_EINVAL, "%s:%" PRId64 ": token %" PRId32 ": %s has %" PRId64
                                  " rows in its vocabulary", p->path, k->line, ids[t], who,
                                  info->vocab);
    }
    return QSAE_OK;
}

int32_t qsae_probes_run(const qsae_probes *p, qsae_model *model, const qsae_cancel_token *cancel,
                        qsae_probe_callback callback, void *cookie)
{
    QSAE__FPENV;
    qsae_model_info info = { .struct_size = offsetof(qsae_model_info, hash) };
    qsae_model_cost cost = { .struct_size = sizeof cost };
    if (qsae__need(p, "probes"))
        return QSAE_EINVAL;
    if (qsae__need(model, "model"))
        return QSAE_EINVAL;
    if (!callback)
        return qsae__fail(QSAE_EINVAL, "qsae_probes_run: callback is NULL");
    int32_t st = qsae_model_get_info(model, &info);
    if (st == QSAE_OK)
        st = qsae_model_get_cost(model, &cost);
    if (st == QSAE_OK)
        st = qsae__probes_check(p, &info, "the model");
    qsae_probes *const set = (qsae_probes *)(uintptr_t)p; /* only the count of calls changes */
    qsae__join_call(set);
    for (int64_t next = 0; next < p->n && st == QSAE_OK;) {
        struct lot w = { .p = p, .model = model, .ctx = p->ctx, .cancel = cancel,
                         .width = info.width, .layers = info.layers, .first_item = next,
                         .group_rows = cost.batch_dependent ? 0 : GROUP_ROWS };
        st = open_lot(&w);
        if (st == QSAE_OK)
            st = run_lot(&w);
        if (st == QSAE_OK)
            st = hand_over(&w, callback, cookie);
        next += w.n_items;
        free_lot(&w);
    }
    qsae__end_call(set);
    return st;
}
