/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the scores of a probe set say: margin = ln p(good) - ln p(bad), right if it is above 0.
 * Intervals are percentiles of a bootstrap over items, in which all models meet the same resample;
 * flips are tested by McNemar's exact test.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "audit/probed.h"
#include "metrics/parts.h"
#include "text/probes.h"

#define REPLICATES 2000
#define LEAST_ITEMS 20           /* below it there are no intervals */

/* Means of a resample; changes against the reference. */
enum { I_ACCURACY, I_MARGIN, I_DACCURACY, I_DMARGIN, I_COUNT };

static const char *const interval_names[I_COUNT] = { "accuracy", "margin", "daccuracy", "dmargin" };

/* The items of a tag, or all. */
struct part {
    qsae_audit *a;
    const int64_t *items;        /* [n] */
    int64_t n;
    double (*low)[I_COUNT], (*high)[I_COUNT]; /* [n_participants] */
};

static double margin(const qsae_audit *a, int64_t who, int64_t item)
{
    const double *const s = a->probes->scores[who * a->probes->n + item];
    return s[0] - s[1];
}

/* 2 P(X <= min(a, b)) for X of a + b fair coins, at most 1: products with their exponent kept
 * apart, so that no power of 2 is out of range. */
double qsae__mcnemar(int64_t a, int64_t b)
{
    const int64_t n = a + b, k = a < b ? a : b;
    double term = 1, sum = 0;    /* C(n, k), times 2^exponent */
    int64_t exponent = 0;
    if (a == b)
        return 1;
    for (int64_t i = 1; i <= k; i++) {
        int e;
        term = frexp(term * ((double)(n - k + i) / (double)i), &e);
        exponent += e;
    }
    for (int64_t i = k; i >= 0 && term > 0; i--) {
        sum += term;
        term *= (double)i / (double)(n - i + 1);
    }
    exponent += 1 - n;
    return exponent < -1100 ? 0 : fmin(1, ldexp(sum, (int)exponent));
}

/* SplitMix64 (Steele, Lea, Flood 2014) as a counter-based generator. */
static uint64_t mix(uint64_t z)
{
    z *= UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* A number below n for draw i of a replicate. */
static int64_t draw(uint64_t seed, int64_t replicate, int64_t i, int64_t n)
{
    const uint64_t at = ((uint64_t)replicate << 40) + (uint64_t)i + 1;
    return (int64_t)(((mix(at ^ (seed ? mix(seed) : 0)) >> 32) * (uint64_t)n) >> 32);
}

/* Adds a resampled item to the sums of a participant. */
static void add_item(const qsae_audit *a, int64_t who, int64_t item, double sums[I_COUNT])
{
    const double m = margin(a, who, item), r = margin(a, 0, item);
    sums[I_ACCURACY] += m > 0;
    sums[I_MARGIN] += m;
    sums[I_DACCURACY] += (m > 0) - (r > 0);
    sums[I_DMARGIN] += m - r;
}

static int32_t find_intervals(struct part *t)
{
    const int64_t who = t->a->n_participants, cells = who * I_COUNT;
    double *const means = qsae__alloc_array(t->a->ctx, cells * REPLICATES, sizeof *means);
    double(*const sums)[I_COUNT] = qsae__calloc(t->a->ctx, who, sizeof *sums);
    int32_t st = means && sums ? QSAE_OK : QSAE_ENOMEM;
    for (int64_t b = 0; b < REPLICATES && st == QSAE_OK; b++) {
        memset(sums, 0, (size_t)who * sizeof *sums);
        for (int64_t i = 0; i < t->n; i++) {
            const int64_t item = t->items[draw((uint64_t)t->a->seed, b, i, t->n)];
            for (int64_t w = 0; w < who; w++)
                if (t->a->probes->done[w])
                    add_item(t->a, w, item, sums[w]);
        }
        for (int64_t c = 0; c < cells; c++)
            means[c * REPLICATES + b] = sums[c / I_COUNT][c % I_COUNT] / (double)t->n;
    }
    for (int64_t c = 0; c < cells && st == QSAE_OK; c++) {
        double *const of = means + c * REPLICATES;
        bool finite = true;
        for (int64_t b = 0; b < REPLICATES; b++)
            finite = finite && isfinite(of[b]);
        if (finite)
            qsort(of, REPLICATES, sizeof *of, qsae__by_value);
        t->low[c / I_COUNT][c % I_COUNT] = finite ? qsae__quantile(of, REPLICATES, 0.025) : NAN;
        t->high[c / I_COUNT][c % I_COUNT] = finite ? qsae__quantile(of, REPLICATES, 0.975) : NAN;
    }
    qsae__free(t->a->ctx, means);
    qsae__free(t->a->ctx, sums);
    return st;
}

/* Sums of a model over the items, in their order. */
struct sums {
    double right, right_token, right_byte, margin, margin_token, good, bad, dmargin;
    int64_t right_to_wrong, wrong_to_right;
};

static struct sums sum_up(const struct part *t, int64_t who)
{
    struct sums s = { 0 };
    for (int64_t i = 0; i < t->n; i++) {
        const int64_t item = t->items[i];
        const struct qsae__probe *const k = &t->a->probes->set->items[item];
        const double *const lp = t->a->probes->scores[who * t->a->probes->n + item];
        const double m = margin(t->a, who, item), r = margin(t->a, 0, item),
                     token = lp[0] / (double)k->n_good - lp[1] / (double)k->n_bad,
                     byte = lp[0] / (double)k->good_bytes - lp[1] / (double)k->bad_bytes;
        s.right += m > 0;
        s.right_token += token > 0;
        s.right_byte += byte > 0;
        s.margin += m;
        s.margin_token += token;
        s.good += lp[0];
        s.bad += lp[1];
        s.dmargin += m - r;
        s.right_to_wrong += r > 0 && !(m > 0);
        s.wrong_to_right += !(r > 0) && m > 0;
    }
    return s;
}

static void set(json_t *o, const char *key, double v)
{
    json_object_set_new(o, key, qsae__number(v));
}

/* Figures of a model on a part; null for one that has not been asked yet. */
static void add_figures(json_t *o, const struct part *t, int64_t who)
{
    const bool done = t->a->probes->done[who] && t->a->probes->done[0];
    const struct sums s = sum_up(t, who);
    const double n = done ? (double)t->n : NAN;
    json_t *const intervals = json_object();
    json_object_set_new(o, "items", json_integer(t->n));
    set(o, "accuracy", s.right / n);
    set(o, "accuracy_per_token", s.right_token / n);
    set(o, "accuracy_per_byte", s.right_byte / n);
    set(o, "margin", s.margin / n);
    set(o, "margin_per_token", s.margin_token / n);
    set(o, "lp_good", s.good / n);
    set(o, "lp_bad", s.bad / n);
    for (int c = 0; c < (who ? I_COUNT : I_DACCURACY); c++)
        if (done && t->n >= LEAST_ITEMS && isfinite(t->low[who][c]))
            json_object_set_new(intervals, interval_names[c],
                                json_pack("[f,f]", t->low[who][c], t->high[who][c]));
    if (who) {
        const double flips = (double)(s.wrong_to_right - s.right_to_wrong);
        set(o, "daccuracy", flips / n);
        set(o, "dmargin", s.dmargin / n);
        json_object_set_new(o, "right_to_wrong",
                            done ? json_integer(s.right_to_wrong) : json_null());
        json_object_set_new(o, "wrong_to_right",
                            done ? json_integer(s.wrong_to_right) : json_null());
        set(o, "mcnemar_p", done ? qsae__mcnemar(s.right_to_wrong, s.wrong_to_right) : NAN);
    }
    json_object_set_new(o, "intervals", intervals);
}

/* Adds a part's figures to every model's entry: those of all items, or a member of its tags. */
static int32_t add_part(struct part *t, json_t *const *entries, const char *tag)
{
    const int64_t who = t->a->n_participants;
    t->low = qsae__calloc(t->a->ctx, who, sizeof *t->low);
    t->high = qsae__calloc(t->a->ctx, who, sizeof *t->high);
    int32_t st = t->low && t->high ? QSAE_OK : QSAE_ENOMEM;
    if (st == QSAE_OK && t->n >= LEAST_ITEMS && t->a->probes->done[0])
        st = find_intervals(t);
    for (int64_t w = 0; w < who && st == QSAE_OK; w++) {
        json_t *const o = tag ? json_pack("{s:s}", "tag", tag) : entries[w];
        add_figures(o, t, w);
        if (tag)
            json_array_append_new(json_object_get(entries[w], "tags"), o);
    }
    qsae__free(t->a->ctx, t->low);
    qsae__free(t->a->ctx, t->high);
    return st;
}

static bool has_tag(const qsae_probes *p, int64_t item, int64_t tag)
{
    const struct qsae__probe *const k = &p->items[item];
    for (int64_t i = 0; i < k->n_tags; i++)
        if (p->item_tags[k->first_tag + i] == tag)
            return true;
    return false;
}

/* All items (tag -1), then those of each tag. */
static int32_t add_parts(qsae_audit *a, json_t *const *entries)
{
    const qsae_probes *const p = a->probes->set;
    int64_t *const items = qsae__alloc_array(a->ctx, p->n, sizeof *items);
    int32_t st = items ? QSAE_OK : QSAE_ENOMEM;
    for (int64_t tag = -1; tag < p->n_tags && st == QSAE_OK; tag++) {
        struct part t = { .a = a, .items = items };
        for (int64_t i = 0; i < p->n; i++)
            if (tag < 0 || has_tag(p, i, tag))
                items[t.n++] = i;
        st = add_part(&t, entries, tag < 0 ? NULL : p->tags[tag]);
        for (int64_t w = 0; tag < 0 && w < a->n_participants; w++)
            json_object_set_new(entries[w], "tags", json_array());
    }
    qsae__free(a->ctx, items);
    return st;
}

int32_t qsae__probed_json(qsae_audit *a, json_t **out)
{
    qsae_probes_info info = { .struct_size = sizeof info };
    *out = json_null();
    if (!a->probes)
        return QSAE_OK;
    int32_t st = qsae_probes_get_info(a->probes->set, &info);
    json_t **const entries = qsae__calloc(a->ctx, a->n_participants, sizeof *entries);
    if (st != QSAE_OK || !entries) {
        qsae__free(a->ctx, entries);
        return st == QSAE_OK ? QSAE_ENOMEM : st;
    }
    json_t *const o = json_object(), *const list = json_array(), *const tags = json_array();
    const char *const policy = qsae_bos_name(info.bos_policy);
    json_object_set_new(o, "items", json_integer(info.items));
    json_object_set_new(o, "scored_tokens", json_integer(info.scored_tokens));
    json_object_set_new(o, "longest", json_integer(info.longest));
    json_object_set_new(o, "bos_policy", json_string(policy ? policy : "template"));
    json_object_set_new(o, "hash", json_string(info.hash));
    json_object_set_new(o, "tags", tags);
    for (int64_t i = 0; i < info.tags; i++)
        json_array_append_new(tags, json_string(qsae_probes_tag(a->probes->set, i)));
    for (int64_t w = 0; w < a->n_participants; w++) {
        entries[w] = json_object();
        json_object_set_new(entries[w], "label", json_string(a->participants[w].label));
        if (w)
            json_array_append_new(list, entries[w]);
    }
    json_object_set_new(o, "reference", entries[0]);
    json_object_set_new(o, "conditions", list);
    st = add_parts(a, entries);
    qsae__free(a->ctx, entries);
    if (st != QSAE_OK) {
        json_decref(o);
        return st;
    }
    *out = o;
    return QSAE_OK;
}
