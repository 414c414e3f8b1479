/* SPDX-License-Identifier: BSD-2-Clause */
/* Everything a run gathers, one part after another: what is saved, resumed and merged. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "audit/contexts.h"
#include "audit/probed.h"
#include "audit/state.h"

struct walk {
    qsae_audit *a;
    qsae__part_visit visit;
    void *self;
    char who[64];                /* "reference", "conditions[0]" */
};

static int32_t visit_metric(struct walk *w, const char *name, qsae_metric *m)
{
    char full[160];
    snprintf(full, sizeof full, "%s.%s", w->who, name);
    const struct audit_part part = { .name = full, .kind = QSAE__PART_METRIC, .metric = m };
    return m ? w->visit(w->self, &part) : QSAE_OK;
}

static int32_t visit_words(struct walk *w, const char *name, enum qsae__part_kind kind,
                           int64_t *words, int64_t n)
{
    char full[160];
    snprintf(full, sizeof full, "%s.%s", w->who, name);
    const struct audit_part part = { .name = full, .kind = kind, .words = words, .n = n };
    return w->visit(w->self, &part);
}

/* ---- a search for a sparsity ---- */

enum { M_DONE, M_TARGET, M_TOKENS, M_CHOSEN, M_VISITED, M_HEAD,
       M_WORDS = M_HEAD + 2 * QSAE__MATCH_STEPS };

static void put_f64(int64_t *word, double v)
{
    memcpy(word, &v, sizeof v);
}

static double get_f64(const int64_t *word)
{
    double v;
    memcpy(&v, word, sizeof v);
    return v;
}

static int32_t visit_match(struct walk *w, struct audit_match *m)
{
    int64_t words[M_WORDS] = { m->done };
    if (m->done) {
        put_f64(&words[M_TARGET], m->target);
        words[M_TOKENS] = m->tokens;
        words[M_CHOSEN] = m->chosen;
        words[M_VISITED] = m->n_visited;
        for (int64_t i = 0; i < m->n_visited; i++) {
            put_f64(&words[M_HEAD + 2 * i], m->visited[i].sparsity);
            put_f64(&words[M_HEAD + 2 * i + 1], m->visited[i].ppl);
        }
    }
    const int32_t st = visit_words(w, "match", QSAE__PART_SAME, words, M_WORDS);
    if (st != QSAE_OK || !words[M_DONE])
        return st;
    if (words[M_DONE] != 1 || words[M_TOKENS] < 0 || words[M_VISITED] < 1 ||
        words[M_VISITED] > QSAE__MATCH_STEPS || words[M_CHOSEN] < 0 ||
        words[M_CHOSEN] >= words[M_VISITED])
        return qsae__fail(QSAE_EFORMAT, "a search without its result");
    m->done = true;
    m->target = get_f64(&words[M_TARGET]);
    m->tokens = words[M_TOKENS];
    m->chosen = words[M_CHOSEN];
    m->n_visited = words[M_VISITED];
    for (int64_t i = 0; i < m->n_visited; i++) {
        m->visited[i].sparsity = get_f64(&words[M_HEAD + 2 * i]);
        m->visited[i].ppl = get_f64(&words[M_HEAD + 2 * i + 1]);
        if (!(m->visited[i].sparsity >= 0 && m->visited[i].sparsity <= 1))
            return qsae__fail(QSAE_EFORMAT, "a sparsity out of 0..1");
    }
    return QSAE_OK;
}

/* ---- a participant ---- */

#define MOST_CALLS ((int64_t)1 << 48) /* of 2^15 matrices that add up */

static int32_t visit_outliers(struct walk *w, struct participant *p)
{
    enum { CALLS, WITH, COLUMNS, EACH };
    if (p->n_outliers == 0)
        return QSAE_OK;
    int64_t *const words = qsae__calloc(w->a->ctx, p->n_outliers, EACH * sizeof *words);
    if (!words)
        return QSAE_ENOMEM;
    for (int64_t i = 0; i < p->n_outliers; i++) {
        words[EACH * i + CALLS] = p->outliers[i].calls;
        words[EACH * i + WITH] = p->outliers[i].with_outliers;
        words[EACH * i + COLUMNS] = p->outliers[i].columns;
    }
    int32_t st = visit_words(w, "outliers", QSAE__PART_SUMS, words, EACH * p->n_outliers);
    for (int64_t i = 0; i < EACH * p->n_outliers && st == QSAE_OK; i++)
        if (words[i] > MOST_CALLS)
            st = qsae__fail(QSAE_EFORMAT, "outliers: a count of %lld, expected at most %lld",
                            (long long)words[i], (long long)MOST_CALLS);
    for (int64_t i = 0; i < p->n_outliers && st == QSAE_OK; i++)
        p->outliers[i] = (qsae__outliers){ .calls = words[EACH * i + CALLS],
                                           .with_outliers = words[EACH * i + WITH],
                                           .columns = words[EACH * i + COLUMNS] };
    qsae__free(w->a->ctx, words);
    return st;
}

static int32_t visit_sae(struct walk *w, const struct audit_features *f, int64_t sae)
{
    static const char *const splices[QSAE__SPLICES] = { "splice", "splice_zero", "splice_mean" };
    const struct {
        const char *name;
        qsae_metric *metric;
    } list[] = { { "reconstruction", f->reconstruction }, { "drift", f->drift },
                 { "survival", f->survival } };
    char name[64];
    int32_t st = QSAE_OK;
    for (size_t i = 0; i < sizeof list / sizeof list[0] && st == QSAE_OK; i++) {
        snprintf(name, sizeof name, "saes[%lld].%s", (long long)sae, list[i].name);
        st = visit_metric(w, name, list[i].metric);
    }
    for (int v = 0; v < QSAE__SPLICES && st == QSAE_OK; v++) {
        snprintf(name, sizeof name, "saes[%lld].%s", (long long)sae, splices[v]);
        st = visit_metric(w, name, f->splice[v]);
    }
    return st;
}

static int32_t visit_participant(struct walk *w, struct participant *p)
{
    qsae_audit *const a = w->a;
    qsae_metric *m;
    char name[64];
    int32_t st = p->match ? visit_match(w, p->match) : QSAE_OK;
    if (st == QSAE_OK)
        st = visit_outliers(w, p);
    if (st == QSAE_OK)
        st = visit_metric(w, "cross_entropy", p->cross_entropy);
    if (st == QSAE_OK)
        st = visit_metric(w, "divergence", p->divergence);
    if (st == QSAE_OK)
        st = visit_metric(w, "llama", p->llama);
    for (int64_t s = 0; s < a->n_saes && st == QSAE_OK; s++)
        st = visit_sae(w, &p->saes[s], s);
    for (int64_t k = 0; st == QSAE_OK && qsae__slices_metric(a, p, k, &m); k++) {
        snprintf(name, sizeof name, "slices[%lld]", (long long)k);
        st = visit_metric(w, name, m);
    }
    return st;
}

/* ---- what is measured once, when all chunks have been ---- */

static int32_t visit_once(struct walk *w)
{
    const struct audit_part probes = { .name = "probes", .kind = QSAE__PART_ONCE, .audit = w->a,
                                       .put = qsae__probed_write, .get = qsae__probed_read },
                            contexts = { .name = "contexts", .kind = QSAE__PART_ONCE,
                                         .audit = w->a, .put = qsae__contexts_write,
                                         .get = qsae__contexts_read };
    const int32_t st = w->a->probes ? w->visit(w->self, &probes) : QSAE_OK;
    return st == QSAE_OK && w->a->contexts ? w->visit(w->self, &contexts) : st;
}

/* ---- what a run took: last in the file, and no figure ---- */

static int32_t visit_seconds(struct walk *w, const char *name, double *seconds)
{
    int64_t ns = (int64_t)llround(fmin(*seconds * 1e9, 0x1p62)); /* add in any order */
    const int32_t st = visit_words(w, name, QSAE__PART_SUMS, &ns, 1);
    *seconds = (double)ns * 1e-9;
    return st;
}

static int32_t visit_costs(struct walk *w, struct participant *p)
{
    int64_t rss = (int64_t)p->peak_rss;
    int32_t st = visit_seconds(w, "seconds", &p->seconds);
    if (st == QSAE_OK)
        st = visit_seconds(w, "splice_seconds", &p->splice_seconds);
    if (st == QSAE_OK)
        st = visit_words(w, "peak_rss", QSAE__PART_MOST, &rss, 1);
    p->peak_rss = rss > 0 ? (uint64_t)rss : 0;
    return st;
}

static void name_participant(struct walk *w, int64_t i)
{
    if (i == 0)
        snprintf(w->who, sizeof w->who, "reference");
    else
        snprintf(w->who, sizeof w->who, "conditions[%lld]", (long long)i - 1);
}

int32_t qsae__parts_visit(qsae_audit *a, qsae__part_visit visit, void *self)
{
    struct walk w = { .a = a, .visit = visit, .self = self };
    int32_t st = QSAE_OK;
    for (int64_t i = 0; i < a->n_participants && st == QSAE_OK; i++) {
        name_participant(&w, i);
        st = visit_participant(&w, &a->participants[i]);
    }
    if (st == QSAE_OK)
        st = visit_once(&w);
    if (st != QSAE_OK)
        return st;
    snprintf(w.who, sizeof w.who, "run");
    const struct audit_part numerics = { .name = "run.numerics", .kind = QSAE__PART_LINES,
                                         .text = &a->measured_with };
    st = visit(self, &numerics);
    if (st == QSAE_OK)
        st = visit_seconds(&w, "seconds", &a->seconds);
    for (int64_t i = 0; i < a->n_participants && st == QSAE_OK; i++) {
        name_participant(&w, i);
        st = visit_costs(&w, &a->participants[i]);
    }
    return st;
}
