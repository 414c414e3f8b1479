/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A mixed-precision plan from a sweep: for each part of the model one of the swept conditions, or
 * the weights as they are, so that the costs add up to the least within a budget of bits per
 * weight. That costs of parts add up is an assumption; what the plan really costs is measured.
 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "audit/audit.h"
#include "core/inner.h"

#define UNITS_MOST 65536         /* that a budget is divided into */
#define TABLE_MOST ((int64_t)1 << 26)
#define OPTIONS_MOST 254
#define NO_OPTION 255

struct option {
    const struct participant *who; /* NULL: kept as it is */
    double cost;                 /* at least 0 */
    int64_t bytes, units;
};

struct part {
    int64_t layer, weights, kept; /* kept: bytes as stored */
    const char *module;
    struct option *options;      /* [n] the first is to keep it */
    int64_t n, chosen;
};

struct mixed {
    qsae_audit *a;
    bool by_dce;
    struct part *parts;          /* [n] */
    int64_t n, weights, kept, budget, units;
};

static void close_mixed(struct mixed *m)
{
    for (int64_t i = 0; i < m->n; i++)
        qsae__free(m->a->ctx, m->parts[i].options);
    qsae__free(m->a->ctx, m->parts);
}

/* What the weights that a participant changes take as they are stored. */
static int64_t kept_bytes(const qsae_audit *a, const struct participant *p)
{
    return (int64_t)(a->participants[0].cost.weight_bytes + p->cost.quantized_bytes) -
           (int64_t)p->cost.weight_bytes;
}

static int32_t add_option(struct mixed *m, struct part *part, const struct participant *p)
{
    const double cost = qsae__value(p->divergence, m->by_dce ? "dce" : "kl_mean");
    if (p->cost.quantized_weights != part->weights)
        return qsae__fail(QSAE_EINVAL, "plan: layer %" PRId64 " %s: %s changes %" PRId64 " weights,"
                          " another condition %" PRId64 ": expected conditions that select the "
                          "same weights", part->layer, part->module, p->place->origin,
                          p->cost.quantized_weights, part->weights);
    if (part->n == OPTIONS_MOST)
        return qsae__fail(QSAE_EINVAL, "plan: at most %d conditions", OPTIONS_MOST - 1);
    if (!isfinite(cost)) /* nothing is known of it */
        return QSAE_OK;
    part->options[part->n++] = (struct option){ .who = p, .cost = fmax(cost, 0),
                                                .bytes = (int64_t)p->cost.quantized_bytes };
    return QSAE_OK;
}

static struct part *find_part(struct mixed *m, const struct audit_place *place)
{
    for (int64_t i = 0; i < m->n; i++)
        if (m->parts[i].layer == place->layer && strcmp(m->parts[i].module, place->module) == 0)
            return &m->parts[i];
    return NULL;
}

/* The parts of the sweep with their options, in its order. */
static int32_t collect(struct mixed *m)
{
    qsae_audit *const a = m->a;
    int32_t st = QSAE_OK;
    m->parts = qsae__calloc(a->ctx, a->n_participants, sizeof *m->parts);
    if (!m->parts)
        return QSAE_ENOMEM;
    for (int64_t i = 1; i < a->n_participants && st == QSAE_OK; i++) {
        const struct participant *const p = &a->participants[i];
        if (!p->place)
            continue;
        struct part *part = find_part(m, p->place);
        if (!part) {
            part = &m->parts[m->n++];
            *part = (struct part){ .layer = p->place->layer, .module = p->place->module,
                                   .weights = p->cost.quantized_weights,
                                   .kept = kept_bytes(a, p), .n = 1 };
            part->options = qsae__calloc(a->ctx, OPTIONS_MOST, sizeof *part->options);
            if (!part->options)
                return QSAE_ENOMEM;
            part->options[0].bytes = part->kept;
            m->weights += part->weights;
            m->kept += part->kept;
        }
        st = add_option(m, part, p);
    }
    if (st == QSAE_OK && m->n == 0)
        st = qsae__fail(QSAE_EINVAL, "plan: expected an audit with a sweep that has run");
    return st;
}

/* Sizes in units, rounded up: what fits in units fits in bytes, and what fits in bytes is at most a
 * unit per part larger. */
static int32_t measure(struct mixed *m, double bits)
{
    int64_t least = 0;
    m->budget = (int64_t)(bits * (double)m->weights / 8);
    m->units = qsae__min_i64(UNITS_MOST, TABLE_MOST / m->n);
    for (int64_t i = 0; i < m->n; i++) {
        int64_t smallest = INT64_MAX;
        for (int64_t k = 0; k < m->parts[i].n; k++) {
            struct option *const o = &m->parts[i].options[k];
            int64_t scaled;
            smallest = qsae__min_i64(smallest, o->bytes);
            if (!qsae__mul_i64(o->bytes, m->units, &scaled))
                return qsae__fail(QSAE_EOVERFLOW, "plan: %" PRId64 " bytes in one part", o->bytes);
            o->units = m->budget > 0 ? qsae__ceil_div(scaled, m->budget) : INT64_MAX;
        }
        least += smallest;
    }
    if (m->budget < 1 || least > m->budget)
        return qsae__fail(QSAE_EINVAL, "plan: %g bits per weight: the conditions need at least "
                          "%.4f", bits, 8 * (double)least / (double)m->weights);
    return QSAE_OK;
}

/* best[s]: least cost of the parts so far within s units; the part's choice for each s. */
static void extend(const struct part *p, int64_t width, const double *before, double *best,
                   uint8_t *choice)
{
    for (int64_t s = 0; s < width; s++) {
        best[s] = INFINITY;
        choice[s] = NO_OPTION;
        for (int64_t k = 0; k < p->n; k++) {
            const struct option *const o = &p->options[k];
            if (o->units > s)
                continue;
            const double cost = before[s - o->units] + o->cost;
            const bool smaller = choice[s] != NO_OPTION && cost == best[s] &&
                                 o->bytes < p->options[choice[s]].bytes;
            if (cost < best[s] || smaller) {
                best[s] = cost;
                choice[s] = (uint8_t)k;
            }
        }
    }
}

/* The choices of the best plan within s units; whether it is within the budget in bytes. */
static bool follow(struct mixed *m, const uint8_t *choices, int64_t width, int64_t s)
{
    int64_t bytes = 0;
    for (int64_t i = m->n - 1; i >= 0; i--) {
        struct part *const p = &m->parts[i];
        const uint8_t chosen = choices[i * width + s];
        if (chosen == NO_OPTION)
            return false;
        p->chosen = chosen;
        bytes += p->options[chosen].bytes;
        s -= p->options[chosen].units;
    }
    return bytes <= m->budget;
}

static void take_smallest(struct mixed *m)
{
    for (int64_t i = 0; i < m->n; i++) {
        struct part *const p = &m->parts[i];
        p->chosen = 0;
        for (int64_t k = 1; k < p->n; k++) {
            const struct option *const o = &p->options[k], *const best = &p->options[p->chosen];
            if (o->bytes < best->bytes || (o->bytes == best->bytes && o->cost < best->cost))
                p->chosen = k;
        }
    }
}

/* The multiple-choice knapsack by dynamic programming over units. Plans that are within the budget
 * but for the rounding of their sizes are tried first, the cheapest first. */
static int32_t choose(struct mixed *m)
{
    const int64_t width = m->units + m->n + 1;
    double *const costs = qsae__alloc_array(m->a->ctx, 2 * width, sizeof *costs);
    uint8_t *const choices = qsae__alloc_array(m->a->ctx, m->n * width, 1);
    double *before = costs, *best = costs + width;
    int32_t st = costs && choices ? QSAE_OK : QSAE_ENOMEM;
    for (int64_t s = 0; st == QSAE_OK && s < width; s++)
        before[s] = 0;
    for (int64_t i = 0; st == QSAE_OK && i < m->n; i++) {
        extend(&m->parts[i], width, before, best, choices + i * width);
        double *const swap = before;
        before = best;
        best = swap;
    }
    int64_t s = width - 1;
    while (st == QSAE_OK && s >= 0 && !follow(m, choices, width, s))
        s--;
    if (s < 0) /* all that fits is next to the least there is */
        take_smallest(m);
    qsae__free(m->a->ctx, costs);
    qsae__free(m->a->ctx, choices);
    return st;
}

/* ---- what is said of it ---- */

static double largest_cost(const struct part *p)
{
    double most = 0;
    for (int64_t k = 0; k < p->n; k++)
        most = fmax(most, p->options[k].cost);
    return most;
}

static int by_cost(const void *a, const void *b)
{
    const struct part *const x = *(struct part *const *)a, *const y = *(struct part *const *)b;
    const double dx = largest_cost(x), dy = largest_cost(y);
    if (dx != dy)
        return dx < dy ? 1 : -1;
    return (x > y) - (x < y);
}

static json_t *option_json(const struct mixed *m, const struct part *part, const struct option *o)
{
    qsae_audit *const a = m->a;
    json_t *const v = json_object(), *const list = json_array();
    json_object_set_new(v, "condition", json_string(o->who->label));
    json_object_set_new(v, "bits",
                        qsae__number(8 * (double)o->bytes / (double)part->weights));
    json_object_set_new(v, "dce", qsae__number(qsae__value(o->who->divergence, "dce")));
    json_object_set_new(v, "kl_mean", qsae__number(qsae__value(o->who->divergence, "kl_mean")));
    json_object_set_new(v, "saes", list);
    for (int64_t i = 0; i < a->n_saes && qsae__participant_features(o->who); i++) {
        const struct audit_features *const f = &o->who->saes[i];
        json_t *const s = qsae__sae_head(&a->saes[i]);
        const double r = qsae__value(a->participants[0].saes[i].reconstruction, "fvu_dim");
        json_object_set_new(s, "dfvu_dim",
                            qsae__number(qsae__value(f->reconstruction, "fvu_dim") - r));
        json_object_set_new(s, "survived_percent",
                            qsae__number(qsae__value(f->survival, "survived_percent")));
        json_array_append_new(list, s);
    }
    return v;
}

static json_t *part_json(const struct mixed *m, const struct part *p)
{
    const struct option *const chosen = &p->options[p->chosen];
    json_t *const o = json_object(), *const list = json_array();
    json_object_set_new(o, "layer", p->layer >= 0 ? json_integer(p->layer) : json_null());
    json_object_set_new(o, "module", *p->module ? json_string(p->module) : json_null());
    json_object_set_new(o, "weights", json_integer(p->weights));
    json_object_set_new(o, "kept_bits", qsae__number(8 * (double)p->kept / (double)p->weights));
    json_object_set_new(o, "chosen",
                        chosen->who ? json_string(chosen->who->label) : json_null());
    json_object_set_new(o, "bits", qsae__number(8 * (double)chosen->bytes / (double)p->weights));
    json_object_set_new(o, "options", list);
    for (int64_t k = 1; k < p->n; k++)
        json_array_append_new(list, option_json(m, p, &p->options[k]));
    return o;
}

static const struct participant *chosen_of(const struct part *p)
{
    return p->options[p->chosen].who;
}

/* The part like p in a layer, if the same condition was chosen for it; NULL: there is none. */
static const struct part *like(const struct mixed *m, const struct part *p, int64_t layer)
{
    const struct participant *const who = chosen_of(p);
    for (int64_t i = 0; i < m->n && who && p->layer >= 0; i++) {
        const struct part *const o = &m->parts[i];
        if (o->layer == layer && strcmp(o->module, p->module) == 0)
            return chosen_of(o) && strcmp(chosen_of(o)->place->origin, who->place->origin) == 0
                       ? o : NULL;
    }
    return NULL;
}

/* A part's condition, its layer widened to `last`. */
static void add_condition(const struct part *p, int64_t last, qsae__strbuf *b)
{
    static const char mark[] = "@layers=";
    const char *const text = chosen_of(p)->cost.condition, *const at = strstr(text, mark);
    if (p->layer < 0 || !at) {
        qsae__strbuf_addf(b, "(%s)", text);
        return;
    }
    qsae__strbuf_addf(b, "(%.*s%s%" PRId64 "-%" PRId64 "%s)", (int)(at - text), text, mark,
                      p->layer, last, at + strlen(mark) + strspn(at + strlen(mark), "0123456789-"));
}

/* mix(...)(...) of what was chosen, neighbouring layers together; "none" where all is kept. */
static int32_t condition_of(const struct mixed *m, qsae__strbuf *b)
{
    int64_t n = 0;
    qsae__strbuf_init(b, m->a->ctx);
    for (int64_t i = 0; i < m->n; i++) {
        const struct part *const p = &m->parts[i];
        int64_t last = p->layer;
        if (!chosen_of(p) || like(m, p, p->layer - 1)) /* kept, or said already */
            continue;
        while (like(m, p, last + 1))
            last++;
        qsae__strbuf_addf(b, "%s", n++ ? "" : "mix");
        add_condition(p, last, b);
    }
    if (n == 0)
        qsae__strbuf_addf(b, "none");
    return b->status;
}

static int32_t describe(struct mixed *m, double bits, const struct part **ranked, json_t **out)
{
    static const char *const names[] = { "", "layers", "modules", "kinds" };
    json_t *const o = *out = json_object(), *const list = json_array();
    qsae__strbuf condition;
    double predicted = 0;
    int64_t bytes = 0;
    const int32_t st = condition_of(m, &condition);
    for (int64_t i = 0; i < m->n; i++) {
        predicted += m->parts[i].options[m->parts[i].chosen].cost;
        bytes += m->parts[i].options[m->parts[i].chosen].bytes;
        ranked[i] = &m->parts[i];
    }
    qsort(ranked, (size_t)m->n, sizeof *ranked, by_cost);
    if (st == QSAE_OK)
        json_object_set_new(o, "condition", json_string(condition.data));
    json_object_set_new(o, "budget_bits", json_real(bits));
    json_object_set_new(o, "bits", qsae__number(8 * (double)bytes / (double)m->weights));
    json_object_set_new(o, "by", json_string(names[m->a->sweep]));
    json_object_set_new(o, "figure", json_string(m->by_dce ? "dce" : "kl_mean"));
    json_object_set_new(o, "predicted", qsae__number(predicted));
    json_object_set_new(o, "tokens", json_integer(m->a->tokens_done));
    json_object_set_new(o, "weights", json_integer(m->weights));
    json_object_set_new(o, "kept_bytes", json_integer(m->kept));
    json_object_set_new(o, "parts", list);
    for (int64_t i = 0; i < m->n; i++)
        json_array_append_new(list, part_json(m, ranked[i]));
    qsae__strbuf_free(&condition);
    return st;
}

static int32_t plan(qsae_audit *a, double bits, int32_t by_dce, const char **json)
{
    QSAE__FPENV;
    if (!json)
        return qsae__fail(QSAE_EINVAL, "qsae_audit_plan: json is NULL");
    *json = NULL;
    if (!(bits > 0 && bits <= 64))
        return qsae__fail(QSAE_EINVAL, "plan: expected a budget above 0 and at most 64 bits per "
                          "weight, found %g", bits);
    if (a->tokens_done == 0)
        return qsae__fail(QSAE_EINVAL, "plan: expected an audit with a sweep that has run");
    if (qsae__whole(a) != QSAE_OK)
        return QSAE_ESTATE;
    struct mixed m = { .a = a, .by_dce = by_dce != 0 };
    json_t *document = NULL;
    qsae__json_begin();
    int32_t st = collect(&m);
    const struct part **const ranked = qsae__calloc(a->ctx, m.n, sizeof *ranked);
    if (st == QSAE_OK && !ranked)
        st = QSAE_ENOMEM;
    if (st == QSAE_OK)
        st = measure(&m, bits);
    if (st == QSAE_OK)
        st = choose(&m);
    if (st == QSAE_OK)
        st = describe(&m, bits, ranked, &document);
    st = qsae__json_status(st);
    char *const text =
        st == QSAE_OK ? qsae__json_dumps(document, JSON_INDENT(1) | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(document);
    qsae__free(a->ctx, ranked);
    close_mixed(&m);
    if (st == QSAE_OK && !text)
        st = qsae__fail(QSAE_ENOMEM, "out of memory: a plan");
    if (st != QSAE_OK)
        return st;
    free(a->plan_json);
    a->plan_json = text;
    *json = text;
    return QSAE_OK;
}

int32_t qsae_audit_plan(qsae_audit *a, double bits, int32_t by_dce, const char **json)
{
    if (qsae__need(a, "audit"))
        return QSAE_EINVAL;
    if (qsae__need_aligned(json, "json"))
        return QSAE_EINVAL;
    if (qsae__begin_call(a, "qsae_audit_plan") != QSAE_OK)
        return QSAE_EBUSY;
    qsae__inner_begin();
    const int32_t st = plan(a, bits, by_dce, json);
    qsae__inner_end();
    qsae__end_call(a);
    return st;
}
