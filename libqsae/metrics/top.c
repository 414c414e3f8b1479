/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The largest activations of each feature on both sides, with their tokens: lists of `top` entries,
 * larger values first, of equal ones the earlier token. Which entries are kept depends on what was
 * added, not on its order; so lists merge in any order.
 */
#include <string.h>

#include "metrics/parts.h"

/* Whether a comes before b. */
static bool before(const qsae__top *a, const qsae__top *b)
{
    return a->value > b->value || (a->value == b->value && a->token < b->token);
}

static void insert(qsae__top *list, int64_t n, const qsae__top *e)
{
    int64_t at = n;
    while (at > 0 && (list[at - 1].value == 0 || before(e, &list[at - 1])))
        at--;
    if (at == n)
        return;
    memmove(list + at + 1, list + at, (size_t)(n - at - 1) * sizeof *list);
    list[at] = *e;
}

void qsae__top_add(const qsae_metric *m, qsae__top *top, int64_t feature, int64_t side, float value,
                   int64_t token)
{
    const qsae__top e = { .token = token, .value = value };
    qsae__top *const list = top + (2 * feature + side) * m->top;
    if (value > 0 && (list[m->top - 1].value == 0 || before(&e, &list[m->top - 1])))
        insert(list, m->top, &e);
}

void qsae__top_merge(const qsae_metric *m, qsae__top *to, const qsae__top *from)
{
    for (int64_t i = 0; i < 2 * m->features; i++)
        for (int64_t k = 0; k < m->top && from[i * m->top + k].value > 0; k++)
            insert(to + i * m->top, m->top, &from[i * m->top + k]);
}

bool qsae__top_valid(const qsae_metric *m, const qsae__top *top, int64_t max_token)
{
    for (int64_t i = 0; i < 2 * m->features; i++) {
        const qsae__top *const list = top + i * m->top;
        for (int64_t k = 0; k < m->top; k++) {
            const bool empty = list[k].value == 0 && list[k].token == 0;
            if (list[k].zero != 0 || !isfinite(list[k].value) || list[k].value < 0 ||
                list[k].token < 0 || list[k].token > max_token || (list[k].value == 0 && !empty))
                return false;
            if (k > 0 && !empty && !before(&list[k - 1], &list[k]))
                return false;
        }
    }
    return true;
}

int32_t qsae_metric_top(const qsae_metric *metric, int64_t feature, int32_t side, int64_t *tokens,
                        double *values, int64_t capacity, int64_t *n)
{
    if (qsae__need(metric, "metric"))
        return QSAE_EINVAL;
    if (qsae__need_aligned(tokens, "tokens") ||
        qsae__need_aligned(values, "values") ||
        qsae__need_aligned(n, "n"))
        return QSAE_EINVAL;
    if (!n || (capacity > 0 && (!tokens || !values)) || capacity < 0)
        return qsae__fail(QSAE_EINVAL, "qsae_metric_top: NULL argument or negative capacity");
    *n = 0;
    if (metric->kind != &qsae__kind_features || metric->top == 0)
        return qsae__fail(QSAE_ENOENT, "this metric of kind %s keeps no largest activations",
                          metric->kind->name);
    if (feature < 0 || feature >= metric->features || side < 0 || side > 1)
        return qsae__fail(QSAE_EINVAL, "qsae_metric_top: feature %lld, side %d: expected 0..%lld "
                          "and 0 or 1", (long long)feature, (int)side,
                          (long long)metric->features - 1);
    const qsae__top *const list = metric->state.top + (2 * feature + side) * metric->top;
    while (*n < metric->top && list[*n].value > 0)
        ++*n;
    if (*n > capacity)
        return qsae__fail(QSAE_ESPACE, "room for %lld entries, needed are %lld",
                          (long long)capacity, (long long)*n);
    for (int64_t i = 0; i < *n; i++) {
        tokens[i] = list[i].token;
        values[i] = (double)list[i].value;
    }
    return QSAE_OK;
}
