/* SPDX-License-Identifier: BSD-2-Clause */
/* What the lengths show, and their part of a state file. */
#include <math.h>
#include <stdio.h>

#include "audit/contexts.h"
#include "audit/state.h"
#include "metrics/metrics.h"

/* ---- state ---- */

/* Metrics of a participant at a length: 2, then 2 for each SAE, then the changes. */
static qsae_metric *metric_of(const qsae_audit *a, const struct audit_length *l, int64_t who,
                              int64_t i)
{
    const struct participant *const p = &l->audit->participants[who];
    if (i < 2)
        return i ? p->divergence : p->cross_entropy;
    i -= 2;
    if (i < 2 * a->n_saes)
        return i % 2 ? p->saes[i / 2].drift : p->saes[i / 2].reconstruction;
    return l->changes[who][i - 2 * a->n_saes];
}

bool qsae__contexts_metric(const qsae_audit *a, int64_t i, qsae_metric **out)
{
    const struct audit_contexts *const c = a->contexts;
    const int64_t each = 2 + 2 * a->n_saes + QSAE__SINCE_COUNT, length = each * a->n_participants;
    if (!c || i >= length * c->n)
        return false;
    *out = metric_of(a, &c->lengths[i / length], i % length / each, i % each);
    return true;
}

static void put_metric(qsae__strbuf *b, qsae_context *ctx, const qsae_metric *m)
{
    qsae__strbuf part;
    if (!m || b->status != QSAE_OK)
        return;
    qsae__strbuf_init(&part, ctx);
    qsae__metric_write(m, &part);
    if (part.status == QSAE_OK) {
        qsae__put_u64(b, (uint64_t)part.size);
        qsae__strbuf_add(b, part.data, (size_t)part.size);
    } else {
        b->status = part.status;
    }
    qsae__strbuf_free(&part);
}

/* Whether a length is ahead of the others with the present batch, so that its rows are needed. */
static bool ahead(const struct audit_contexts *c, int64_t next)
{
    return next > c->next;
}

static bool begun(const qsae_audit *a)
{
    const struct audit_contexts *const c = a->contexts;
    for (int64_t i = 0; i < c->n; i++)
        for (int64_t w = 0; w < a->n_participants; w++)
            if (c->lengths[i].audit->participants[w].next_chunk > 0)
                return true;
    return false;
}

/* Nothing before the first window; positions, the rows of those that are ahead, the metrics. */
void qsae__contexts_write(const qsae_audit *a, qsae__strbuf *b)
{
    const struct audit_contexts *const c = a->contexts;
    qsae_metric *m;
    if (!c || !begun(a))
        return;
    qsae__put_u64(b, (uint64_t)c->next);
    for (int64_t i = 0; i < c->n; i++) {
        const struct audit_length *const l = &c->lengths[i];
        qsae__put_u64(b, (uint64_t)l->audit->next_chunk);
        for (int64_t w = 0; w < a->n_participants; w++) {
            const int64_t next = l->audit->participants[w].next_chunk;
            qsae__put_u64(b, (uint64_t)next);
            for (int64_t r = 0; r < c->batch * c->scored && ahead(c, next); r++) {
                qsae__put_f64(b, (double)l->rows[w].nll[r]);
                qsae__put_f64(b, (double)l->rows[w].kl[r]);
            }
        }
    }
    for (int64_t i = 0; qsae__contexts_metric(a, i, &m); i++)
        put_metric(b, a->ctx, m);
}

static int32_t take_count(struct qsae__taken *t, int64_t most, int64_t *out)
{
    uint64_t v;
    const int32_t st = qsae__take_u64(t, &v);
    if (st != QSAE_OK)
        return st;
    if (v > (uint64_t)most)
        return qsae__fail(QSAE_EFORMAT, "contexts: window %llu of %lld", (unsigned long long)v,
                          (long long)most);
    *out = (int64_t)v;
    return QSAE_OK;
}

static int32_t take_length(qsae_audit *a, struct audit_length *l, struct qsae__taken *from)
{
    struct audit_contexts *const c = a->contexts;
    qsae_audit *const b = l->audit;
    int64_t seen = 0;
    int32_t st = take_count(from, c->windows, &seen);
    if (st == QSAE_OK) {
        b->n_covered = 0;
        st = qsae__range_add(a->ctx, &b->covered, &b->n_covered, &b->covered_capacity, 0, seen);
        qsae__coverage_next(b);
    }
    for (int64_t w = 0; w < a->n_participants && st == QSAE_OK; w++) {
        int64_t *const next = &l->audit->participants[w].next_chunk;
        st = take_count(from, c->windows, next);
        for (int64_t r = 0; st == QSAE_OK && r < c->batch * c->scored && ahead(c, *next); r++) {
            double nll = NAN, kl = NAN;
            st = qsae__take_f64(from, &nll);
            if (st == QSAE_OK)
                st = qsae__take_f64(from, &kl);
            l->rows[w].nll[r] = (float)nll;
            l->rows[w].kl[r] = (float)kl;
        }
    }
    return st;
}

int32_t qsae__contexts_read(qsae_audit *a, struct qsae__taken *from)
{
    struct audit_contexts *const c = a->contexts;
    qsae_metric *m;
    if (!c)
        return QSAE_OK;
    int32_t st = take_count(from, c->windows, &c->next);
    for (int64_t i = 0; i < c->n && st == QSAE_OK; i++)
        st = take_length(a, &c->lengths[i], from);
    for (int64_t i = 0; st == QSAE_OK && qsae__contexts_metric(a, i, &m); i++) {
        uint64_t size;
        if (!m || (st = qsae__take_u64(from, &size)) != QSAE_OK)
            continue;
        const uint8_t *const data = qsae__take(from, size);
        st = data ? qsae__metric_read(m, data, (size_t)size)
                  : qsae__fail(QSAE_EFORMAT, "contexts: the state ends early");
    }
    return st;
}

/* ---- the result ---- */

static qsae_value value_of(qsae_metric *m, const char *name)
{
    qsae_value v = { .struct_size = sizeof v };
    for (int32_t i = 0; m && i < qsae_metric_count(m); i++)
        if (qsae_metric_value(m, i, &v) == QSAE_OK && strcmp(v.name, name) == 0)
            return v;
    return (qsae_value){ .value = NAN, .low = NAN, .high = NAN };
}

/* A figure under `key`, and its interval if it has one. */
static void set(json_t *o, json_t *intervals, const char *key, double value, const qsae_value *v)
{
    json_object_set_new(o, key, qsae__number(value));
    if (intervals && isfinite(v->low) && isfinite(v->high))
        json_object_set_new(intervals, key, json_pack("[f,f]", v->low, v->high));
}

/* Change of a mean since the shortest length: the difference of the two figures as they stand,
 * with the interval of the differences by document. */
static void set_change(json_t *o, json_t *intervals, const char *key, qsae_metric *base,
                       qsae_metric *now, const char *name, qsae_metric *change)
{
    const qsae_value v = value_of(change, "dce");
    set(o, intervals, key, qsae__value(now, name) - qsae__value(base, name), &v);
}

static json_t *change_json(const qsae_audit *a, const struct audit_length *l, int64_t who)
{
    const struct audit_length *const first = &a->contexts->lengths[0];
    const struct participant *const base = &first->audit->participants[who],
                             *const now = &l->audit->participants[who];
    qsae_metric *const *const m = l->changes[who];
    if (l == first)
        return json_null();
    json_t *const o = json_object(), *const intervals = json_object();
    json_object_set_new(o, "from", json_integer(first->audit->corpus_info.context));
    set_change(o, intervals, "ce", base->cross_entropy, now->cross_entropy, "ce",
               m[QSAE__SINCE_CE]);
    if (who) {
        set_change(o, intervals, "dce", base->divergence, now->divergence, "dce",
                   m[QSAE__SINCE_DCE]);
        set_change(o, intervals, "kl_mean", base->divergence, now->divergence, "kl_mean",
                   m[QSAE__SINCE_KL]);
    }
    json_object_set_new(o, "intervals", intervals);
    return o;
}

static json_t *saes_json(const qsae_audit *a, const struct audit_length *l, int64_t who)
{
    static const char *const keys[] = { "fvu_dim", "fvu_scalar", "l0", NULL };
    const struct participant *const p = &l->audit->participants[who];
    const bool defined = qsae__participant_features(p);
    json_t *const list = json_array();
    for (int64_t i = 0; i < a->n_saes; i++) {
        json_t *const o = qsae__sae_head(&a->saes[i]);
        qsae_metric *const r = l->audit->participants[0].saes[i].reconstruction;
        json_array_append_new(list, o);
        for (int k = 0; keys[k]; k++) {
            const double v = defined ? qsae__value(p->saes[i].reconstruction, keys[k]) : NAN;
            char change[32];
            snprintf(change, sizeof change, "d%s", keys[k]);
            json_object_set_new(o, keys[k], qsae__number(v));
            if (who)
                json_object_set_new(o, change, qsae__number(v - qsae__value(r, keys[k])));
        }
        if (who)
            json_object_set_new(o, "noise", defined ? qsae__noise_head(p->saes[i].drift)
                                                    : json_null());
    }
    return list;
}

static json_t *model_json(const qsae_audit *a, const struct audit_length *l, int64_t who)
{
    static const char *const keys[] = { "dce", "dce_percent", "kl_mean", "top1_agreement",
                                        "right_to_wrong", "wrong_to_right", NULL };
    const struct participant *const p = &l->audit->participants[who];
    json_t *const o = json_object(), *const intervals = json_object();
    const qsae_value ce = value_of(p->cross_entropy, "ce");
    json_object_set_new(o, "label", json_string(p->label));
    set(o, intervals, "ce", ce.value, &ce);
    json_object_set_new(o, "ppl", qsae__number(qsae__value(p->cross_entropy, "ppl")));
    for (int i = 0; who && keys[i]; i++) {
        const qsae_value v = value_of(p->divergence, keys[i]);
        set(o, intervals, keys[i], v.value, &v);
    }
    json_object_set_new(o, "intervals", intervals);
    json_object_set_new(o, "change", change_json(a, l, who));
    json_object_set_new(o, "saes", saes_json(a, l, who));
    return o;
}

static json_t *length_json(const qsae_audit *a, int64_t i)
{
    const struct audit_contexts *const c = a->contexts;
    const struct audit_length *const l = &c->lengths[i];
    const qsae_corpus_info *const info = &l->audit->corpus_info;
    qsae_metric *const m = l->audit->participants[0].cross_entropy;
    json_t *const o = json_object(), *const list = json_array();
    json_object_set_new(o, "context", json_integer(info->context));
    json_object_set_new(o, "scored", json_integer(c->scored));
    json_object_set_new(o, "stride", json_integer(c->stride));
    json_object_set_new(o, "windows", json_integer(l->audit->next_chunk));
    json_object_set_new(o, "available_windows", json_integer(c->windows));
    json_object_set_new(o, "batch", json_integer(c->batch));
    json_object_set_new(o, "tokens", qsae__named(m, "predicted"));
    json_object_set_new(o, "documents", qsae__named(m, "documents"));
    json_object_set_new(o, "within_document",
                        qsae__number((double)c->within[i] / (double)info->predicted_tokens));
    json_object_set_new(o, "token_hash", json_string(info->token_hash));
    json_object_set_new(o, "reference", model_json(a, l, 0));
    json_object_set_new(o, "conditions", list);
    for (int64_t w = 1; w < a->n_participants; w++)
        json_array_append_new(list, model_json(a, l, w));
    return o;
}

int32_t qsae__contexts_json(qsae_audit *a, json_t **out)
{
    *out = a->contexts ? json_array() : json_null();
    for (int64_t i = 0; a->contexts && i < a->contexts->n; i++)
        json_array_append_new(*out, length_json(a, i));
    return *out ? QSAE_OK : qsae__fail(QSAE_ENOMEM, "out of memory: the result document");
}
