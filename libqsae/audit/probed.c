/* SPDX-License-Identifier: BSD-2-Clause */
#include "audit/probed.h"
#include "audit/state.h"

#include "text/probes.h"

void qsae__probed_close(qsae_audit *a)
{
    struct audit_probes *const p = a->probes;
    if (!p)
        return;
    qsae_probes_close(&p->set);
    qsae__free(a->ctx, p->scores);
    qsae__free(a->ctx, p->done);
    qsae__free(a->ctx, p);
    a->probes = NULL;
}

/* Refuses before the text is measured what no model could be asked afterwards. */
static int32_t check_models(const qsae_audit *a)
{
    int32_t st = QSAE_OK;
    for (int64_t i = 0; i < a->n_participants && st == QSAE_OK; i++) {
        const struct participant *const who = &a->participants[i];
        qsae_model_info info = { .struct_size = offsetof(qsae_model_info, hash) };
        if (i > 0 && !who->weights)
            continue;
        st = qsae_weights_get_info(who->weights, &info);
        if (st == QSAE_OK)
            st = qsae__probes_check(a->probes->set, &info, i ? who->label : "the model");
    }
    return st;
}

int32_t qsae__probed_open(qsae_audit *a, const char *path, int32_t bos_policy)
{
    if (!path)
        return QSAE_OK;
    struct audit_probes *const p = a->probes = qsae__calloc(a->ctx, 1, sizeof *p);
    if (!p)
        return QSAE_ENOMEM;
    const int32_t st = qsae__probes_open(a->ctx, a->tokenizer, path, bos_policy, &p->set);
    if (st != QSAE_OK)
        return st;
    p->n = p->set->n;
    int64_t cells;
    if (!qsae__mul_i64(p->n, a->n_participants, &cells))
        return qsae__fail(QSAE_EOVERFLOW, "%s: too many probes", path);
    p->scores = qsae__calloc(a->ctx, cells, sizeof *p->scores);
    p->done = qsae__calloc(a->ctx, a->n_participants, sizeof *p->done);
    return p->scores && p->done ? check_models(a) : QSAE_ENOMEM;
}

/* Where the scores of a model go. */
struct keeper {
    qsae_audit *a;
    int64_t participant, before, total; /* items scored before this model, and in all */
};

static int32_t keep(void *cookie, const qsae_probe_score *s)
{
    const struct keeper *const k = cookie;
    qsae_audit *const a = k->a;
    double *const to = a->probes->scores[k->participant * a->probes->n + s->item];
    to[0] = s->good;
    to[1] = s->bad;
    return a->progress ? a->progress(a->progress_cookie, k->before + s->item + 1, k->total,
                                     "items", "probe")
                       : QSAE_OK;
}

int32_t qsae__probed_run(qsae_audit *a)
{
    struct audit_probes *const p = a->probes;
    struct keeper k = { .a = a };
    int32_t st = QSAE_OK;
    if (!p || !qsae__covered_whole(a))
        return QSAE_OK;
    for (int64_t i = 0; i < a->n_participants; i++)
        k.total += p->done[i] ? 0 : p->n;
    for (int64_t i = 0; i < a->n_participants && st == QSAE_OK; i++) {
        if (p->done[i])
            continue;
        k.participant = i;
        st = qsae_probes_run(p->set, a->participants[i].model, a->cancel, keep, &k);
        p->done[i] = st == QSAE_OK;
        k.before += p->n;
    }
    return st;
}

/* Per participant whether it is done, then its scores if it is; nothing if none is. */
void qsae__probed_write(const qsae_audit *a, qsae__strbuf *b)
{
    const struct audit_probes *const p = a->probes;
    bool any = false;
    for (int64_t i = 0; p && i < a->n_participants; i++)
        any |= p->done[i];
    for (int64_t i = 0; any && i < a->n_participants; i++) {
        qsae__put_u64(b, p->done[i]);
        for (int64_t k = 0; k < 2 * p->n && p->done[i]; k++)
            qsae__put_f64(b, p->scores[i * p->n + k / 2][k % 2]);
    }
}

int32_t qsae__probed_read(qsae_audit *a, struct qsae__taken *from)
{
    struct audit_probes *const p = a->probes;
    int32_t st = QSAE_OK;
    for (int64_t i = 0; p && i < a->n_participants && st == QSAE_OK; i++) {
        uint64_t done = 0;
        st = qsae__take_u64(from, &done);
        if (st == QSAE_OK && done > 1)
            st = qsae__fail(QSAE_EFORMAT, "probes: expected 0 or 1");
        for (int64_t k = 0; k < 2 * p->n && done && st == QSAE_OK; k++)
            st = qsae__take_f64(from, &p->scores[i * p->n + k / 2][k % 2]);
        p->done[i] = p->done[i] || (done && st == QSAE_OK);
    }
    return st;
}
