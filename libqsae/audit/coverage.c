/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Which chunks have been measured: ranges, for a run may have been stopped, may be a shard, or may
 * go on from merged shards with gaps. And the snapshots, which are what the sums say of the chunks
 * up to a budget: the metrics keep those apart (metrics.h, cuts).
 */
#include <string.h>

#include "audit/state.h"

static int64_t tokens_before(const qsae_audit *a, int64_t chunk)
{
    return qsae__min_i64(chunk * a->corpus_info.context, a->corpus_info.tokens);
}

int64_t qsae__covered_tokens(const qsae_audit *a, int64_t from, int64_t to)
{
    int64_t sum = 0;
    for (int64_t i = 0; i < a->n_covered; i++) {
        const int64_t x = qsae__max_i64(from, a->covered[i].from);
        const int64_t y = qsae__min_i64(to, a->covered[i].to);
        sum += x < y ? tokens_before(a, y) - tokens_before(a, x) : 0;
    }
    return sum;
}

int64_t qsae__covered_chunks(const qsae_audit *a)
{
    int64_t sum = 0;
    for (int64_t i = 0; i < a->n_covered; i++)
        sum += a->covered[i].to - a->covered[i].from;
    return sum;
}

bool qsae__covered_by(const qsae_audit *a, const struct participant *p, int64_t chunk)
{
    bool seen = chunk >= a->next_chunk && chunk < p->next_chunk; /* ahead of the others */
    for (int64_t i = 0; i < a->n_covered; i++)
        seen |= chunk >= a->covered[i].from && chunk < a->covered[i].to;
    return seen;
}

bool qsae__covered_whole(const qsae_audit *a)
{
    return a->from_chunk == 0 && a->to_chunk == a->corpus_info.chunks &&
           qsae__covered_chunks(a) == a->corpus_info.chunks;
}

/* Adds what is scored in [from, to); false where the text has no such numbers. */
static bool add_scored(const qsae_audit *a, int64_t from, int64_t to, int64_t sum[3])
{
    int64_t before[3], all[3];
    const bool known = qsae__corpus_scored(a->corpus, from, &before[0], &before[1], &before[2]);
    (void)qsae__corpus_scored(a->corpus, to, &all[0], &all[1], &all[2]); /* of the same text */
    for (int i = 0; i < 3; i++)
        sum[i] += all[i] - before[i];
    return known;
}

bool qsae__covered_scored(const qsae_audit *a, const struct participant *p, int64_t *tokens,
                          int64_t *bytes, int64_t *words)
{
    int64_t sum[3] = { 0 };
    const bool known = add_scored(a, 0, 0, sum);
    for (int64_t i = 0; i < a->n_covered; i++)
        (void)add_scored(a, a->covered[i].from, a->covered[i].to, sum);
    if (p && p->next_chunk > a->next_chunk)
        (void)add_scored(a, a->next_chunk, p->next_chunk, sum);
    *tokens = sum[0];
    *bytes = sum[1];
    *words = sum[2];
    return known;
}

/* Chunks of the smallest part that a process may measure by itself; parts begin at its multiples.
 * llama.cpp's comparison has chunks for batches. */
static int64_t unit_chunks(const qsae_audit *a)
{
    const int64_t context = a->corpus_info.context;
    const int64_t unit = qsae__metric_cut(a->batch * context) / context;
    const int64_t chunks = a->llama ? qsae__metric_cut(context) / context : 1;
    int64_t both = unit;
    while (both % chunks != 0)
        both += unit;
    return both;
}

void qsae__coverage_open(qsae_audit *a, int64_t shard, int64_t shards)
{
    const int64_t unit = unit_chunks(a), units = qsae__ceil_div(a->corpus_info.chunks, unit);
    a->from_chunk = 0;
    a->to_chunk = a->corpus_info.chunks;
    if (shards > 0) { /* units * i / n without overflow */
        const int64_t each = units / shards, more = units % shards;
        const int64_t from = each * shard + more * shard / shards;
        const int64_t to = each * (shard + 1) + more * (shard + 1) / shards;
        a->from_chunk = qsae__min_i64(from * unit, a->corpus_info.chunks);
        a->to_chunk = qsae__min_i64(to * unit, a->corpus_info.chunks);
    }
    qsae__coverage_next(a);
}

void qsae__coverage_next(qsae_audit *a)
{
    a->next_chunk = a->from_chunk;
    a->end_chunk = a->to_chunk;
    for (int64_t i = 0; i < a->n_covered; i++) {
        const struct audit_range *const c = &a->covered[i];
        if (c->from <= a->next_chunk && c->to > a->next_chunk)
            a->next_chunk = qsae__min_i64(c->to, a->to_chunk);
        else if (c->from > a->next_chunk) {
            a->end_chunk = qsae__min_i64(c->from, a->to_chunk);
            break;
        }
    }
    for (int64_t i = 0; i < a->n_participants; i++)
        a->participants[i].next_chunk = a->next_chunk;
    a->tokens_done = qsae__covered_tokens(a, 0, a->corpus_info.chunks);
}

int32_t qsae__range_add(qsae_context *ctx, struct audit_range **list, int64_t *n,
                        int64_t *capacity, int64_t from, int64_t to)
{
    int64_t i = 0;
    if (from >= to)
        return QSAE_OK;
    const int32_t st = qsae__grow(ctx, list, capacity, *n + 1, sizeof **list);
    if (st != QSAE_OK)
        return st;
    struct audit_range *const r = *list;
    while (i < *n && r[i].to < from)
        i++;
    if (i < *n && r[i].to == from)
        r[i].to = to;
    else {
        memmove(r + i + 1, r + i, (size_t)(*n - i) * sizeof *r);
        r[i] = (struct audit_range){ from, to };
        ++*n;
    }
    if (i + 1 < *n && r[i].to == r[i + 1].from) {
        r[i].to = r[i + 1].to;
        memmove(r + i + 1, r + i + 2, (size_t)(*n - i - 2) * sizeof *r);
        --*n;
    }
    return QSAE_OK;
}

int32_t qsae__cover(qsae_audit *a, int64_t to)
{
    const int32_t st = qsae__range_add(a->ctx, &a->covered, &a->n_covered, &a->covered_capacity,
                                       a->next_chunk, to);
    if (st != QSAE_OK)
        return st;
    const int64_t gap = a->end_chunk;
    a->next_chunk = to;
    a->tokens_done = qsae__covered_tokens(a, 0, a->corpus_info.chunks);
    if (to >= gap)
        qsae__coverage_next(a);
    return QSAE_OK;
}

json_t *qsae__gaps_json(const qsae_audit *a)
{
    json_t *const list = json_array();
    int64_t at = 0;
    for (int64_t i = 0; i <= a->n_covered; i++) {
        const int64_t to = i < a->n_covered ? a->covered[i].from : a->corpus_info.chunks;
        if (at < to)
            json_array_append_new(list, json_pack("[I,I]", (json_int_t)at, (json_int_t)to));
        at = i < a->n_covered ? a->covered[i].to : at;
    }
    return list;
}

/* ---- snapshots ---- */

/* Chunks up to the end of the first logical batch that reaches a budget (methods.md 2.3); -1 where
 * the text is shorter. A shorter last chunk is a batch of its own. */
static int64_t budget_chunks(const qsae_audit *a, int64_t budget)
{
    const int64_t context = a->corpus_info.context, chunks = a->corpus_info.chunks;
    const int64_t full = a->corpus_info.tokens / context;
    if (budget > a->corpus_info.tokens)
        return -1;
    const int64_t needed = qsae__ceil_div(budget, context);
    const int64_t whole = qsae__ceil_div(needed, a->batch) * a->batch;
    return needed > full ? chunks : qsae__min_i64(whole, full);
}

int32_t qsae__snapshots_cut(const qsae_audit *a, qsae_metric *m)
{
    int64_t cuts[QSAE__BUDGETS_MAX], n = 0;
    for (int64_t i = 0; a->profile->budgets[i]; i++) {
        const int64_t chunk = budget_chunks(a, a->profile->budgets[i]);
        if (chunk > 0 && (n == 0 || tokens_before(a, chunk) > cuts[n - 1]))
            cuts[n++] = tokens_before(a, chunk);
    }
    return m ? qsae__metric_set_cuts(m, cuts, n) : QSAE_OK;
}

int32_t qsae__snapshots_take(qsae_audit *a)
{
    int32_t st = QSAE_OK;
    json_array_clear(a->snapshots);
    for (int64_t i = 0; a->profile->budgets[i] && st == QSAE_OK; i++) {
        json_t *snapshot;
        const int64_t chunks = budget_chunks(a, a->profile->budgets[i]);
        if (chunks < 0 || a->n_covered == 0 || a->covered[0].from > 0 || a->covered[0].to < chunks)
            break;
        st = qsae__result_snapshot(a, a->profile->budgets[i], chunks, tokens_before(a, chunks),
                                   &snapshot);
        if (st != QSAE_OK)
            break;
        if (json_array_append_new(a->snapshots, snapshot) != 0)
            st = qsae__fail(QSAE_ENOMEM, "out of memory: a snapshot");
    }
    return st;
}
