/* SPDX-License-Identifier: BSD-2-Clause */
#include <stdlib.h>
#include <string.h>

#include "metrics/parts.h"

static int64_t group_of(const int64_t *group, int64_t batch_rows, int64_t first, int64_t r)
{
    return batch_rows ? (first + r) / batch_rows : group ? group[r] : 0;
}

/* Most runs that n tokens from `first` can add. batch_rows != 0: groups are batches. */
int64_t qsae__runs_count(const qsae__runs *t, int64_t first, int64_t n, const int64_t *group,
                         int64_t batch_rows)
{
    int64_t count = n > 0;
    for (int64_t r = 1; r < n; r++)
        count += (first + r) % QSAE_METRIC_LEAF == 0 || (t->cut && (first + r) % t->cut == 0) ||
                 group_of(group, batch_rows, first, r) != group_of(group, batch_rows, first, r - 1);
    return count;
}

static bool continues(const qsae__runs *t, const qsae__run *run, int64_t token, int64_t group)
{
    return run->group == group && run->first + run->tokens == token &&
           (!t->cut || token % t->cut != 0) &&
           run->first / QSAE_METRIC_LEAF == token / QSAE_METRIC_LEAF;
}

/* Adds one token (sum NULL: it counts for nothing). Room for a new run must have been reserved. */
void qsae__runs_token(qsae__runs *t, int64_t token, int64_t group, const double *sum, int64_t k)
{
    qsae__run *run = t->n ? &t->run[t->n - 1] : NULL;
    if (run && !continues(t, run, token, group)) {
        /* The first token of an update may go on where an earlier one ended. */
        int64_t a = 0, b = t->n;
        while (a < b) {
            const int64_t mid = a + (b - a) / 2;
            if (t->run[mid].first < token)
                a = mid + 1;
            else
                b = mid;
        }
        run = a > 0 && continues(t, &t->run[a - 1], token, group) ? &t->run[a - 1] : NULL;
    }
    if (!run) {
        run = &t->run[t->n++];
        memset(run, 0, sizeof *run);
        run->group = group;
        run->first = token;
    }
    run->tokens++;
    for (int64_t i = 0; sum && i < k; i++)
        run->sum[i] += sum[i];
}

static int by_first(const void *a, const void *b)
{
    const qsae__run *const p = a, *const q = b;
    return (p->first > q->first) - (p->first < q->first);
}

void qsae__runs_sort(qsae__runs *t)
{
    for (int64_t i = 1; i < t->n; i++)
        if (t->run[i].first < t->run[i - 1].first) {
            qsort(t->run, (size_t)t->n, sizeof *t->run, by_first);
            return;
        }
}

static int by_group(const void *a, const void *b)
{
    const qsae__run *const p = a, *const q = b;
    return p->group != q->group ? (p->group > q->group) - (p->group < q->group) : by_first(a, b);
}

int32_t qsae__runs_fold(qsae_context *ctx, const qsae__runs *t, double **groups, int64_t **ids,
                        int64_t *n)
{
    *n = 0;
    qsae__run *const sorted = qsae__alloc_array(ctx, t->n, sizeof *sorted);
    double *const out = qsae__calloc(ctx, qsae__max_i64(t->n, 1), sizeof *out * QSAE__RUN_SUMS);
    int64_t *const id = qsae__alloc_array(ctx, t->n, sizeof *id);
    if (!sorted || !out || !id) {
        qsae__free(ctx, sorted);
        qsae__free(ctx, out);
        qsae__free(ctx, id);
        return QSAE_ENOMEM;
    }
    if (t->n) {
        memcpy(sorted, t->run, (size_t)t->n * sizeof *sorted);
        qsort(sorted, (size_t)t->n, sizeof *sorted, by_group);
    }
    int64_t count = 0;
    for (int64_t i = 0; i < t->n;) {
        double *const sum = out + count * QSAE__RUN_SUMS;
        const int64_t group = sorted[i].group;
        memset(sum, 0, sizeof *sum * QSAE__RUN_SUMS);
        for (; i < t->n && sorted[i].group == group; i++)
            for (int64_t k = 0; k < QSAE__RUN_SUMS; k++)
                sum[k] += sorted[i].sum[k];
        id[count] = group;
        count += sum[0] > 0;
    }
    qsae__free(ctx, sorted);
    if (ids)
        *ids = id;
    else
        qsae__free(ctx, id);
    *groups = out;
    *n = count;
    return QSAE_OK;
}
