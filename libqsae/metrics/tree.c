/* SPDX-License-Identifier: BSD-2-Clause */
#include <string.h>

#include "metrics/parts.h"

void qsae__tree_free(qsae__tree *t)
{
    for (int64_t i = 0; i < t->n; i++)
        qsae__free(t->ctx, t->node[i].v);
    qsae__free(t->ctx, t->node);
    t->node = NULL;
    t->n = t->capacity = 0;
    qsae__prefix_free(t);
}

int64_t qsae__tree_end(const qsae__tree *t)
{
    return t->n ? t->node[t->n - 1].first + t->node[t->n - 1].tokens : 0;
}

int64_t qsae__tree_tokens(const qsae__tree *t)
{
    int64_t sum = 0;
    for (int64_t i = 0; i < t->n; i++)
        sum += t->node[i].tokens;
    return sum;
}

/* Index of the first node that begins at or after `first`. */
static int64_t lower_bound(const qsae__tree *t, int64_t first)
{
    int64_t a = 0, b = t->n;
    while (a < b) {
        const int64_t mid = a + (b - a) / 2;
        if (t->node[mid].first < first)
            a = mid + 1;
        else
            b = mid;
    }
    return a;
}

bool qsae__tree_overlaps(const qsae__tree *t, int64_t first, int64_t tokens)
{
    const int64_t i = lower_bound(t, first);
    if (i < t->n && t->node[i].first - first < tokens)
        return true;
    return i > 0 && t->node[i - 1].first + t->node[i - 1].tokens > first;
}

static bool is_part(const qsae__tree *t, const qsae__node *node)
{
    return node->tokens < t->leaf;
}

int64_t qsae__tree_bound(const qsae__tree *t, int64_t token)
{
    int64_t end = (token / t->leaf + 1) * t->leaf;
    if (t->cut)
        end = qsae__min_i64(end, (token / t->cut + 1) * t->cut);
    for (int64_t k = 0; k < t->n_cuts; k++)
        if (t->cuts[k] > token)
            return qsae__min_i64(end, t->cuts[k]);
    return end;
}

int64_t qsae__tree_part(const qsae__tree *t, int64_t first)
{
    const int64_t i = lower_bound(t, first) - 1;
    if (i < 0 || qsae__tree_bound(t, first - 1) == first)
        return -1;
    const qsae__node *const node = &t->node[i];
    return is_part(t, node) && node->first + node->tokens == first ? i : -1;
}

int32_t qsae__tree_reserve(qsae__tree *t, int64_t more)
{
    return qsae__grow(t->ctx, &t->node, &t->capacity, t->n + more, sizeof *t->node);
}

/* Node i takes in node i + 1. */
static void join(qsae__tree *t, int64_t i)
{
    t->combine(t->metric, t->node[i].v, t->node[i + 1].v);
    t->node[i].tokens += t->node[i + 1].tokens;
    qsae__free(t->ctx, t->node[i + 1].v);
    memmove(t->node + i + 1, t->node + i + 2, (size_t)(t->n - i - 2) * sizeof *t->node);
    t->n--;
}

/* If the parts around node i cover its leaf, folds them; returns the index of the leaf, or -1. */
static int64_t complete_leaf(qsae__tree *t, int64_t i)
{
    const int64_t leaf = t->node[i].first / t->leaf, begin = leaf * t->leaf;
    int64_t a = i, covered = t->node[i].tokens, end;
    while (a > 0 && t->node[a - 1].first >= begin)
        covered += t->node[--a].tokens;
    for (end = i + 1; end < t->n && t->node[end].first / t->leaf == leaf; end++)
        covered += t->node[end].tokens;
    if (covered != t->leaf)
        return -1;
    for (int64_t k = a; t->n_cuts > 0 && k < end; k++)
        qsae__prefix_keep(t, k, begin + t->leaf);
    while (t->node[a].tokens < t->leaf)
        join(t, a);
    return a;
}

/* Joins node i, which is no part, with its siblings. */
static void join_siblings(qsae__tree *t, int64_t i)
{
    for (;;) {
        const int64_t size = t->node[i].tokens;
        if (size > INT64_MAX / 4)
            return;
        const bool right = (t->node[i].first / size) & 1;
        const int64_t left = right ? i - 1 : i;
        if (left < 0 || left + 1 >= t->n || t->node[left].tokens != size ||
            t->node[left + 1].tokens != size ||
            t->node[left].first + size != t->node[left + 1].first)
            return;
        if (t->n_cuts > 0)
            qsae__prefix_keep(t, left, t->node[left].first + 2 * size);
        join(t, left);
        i = left;
    }
}

void qsae__tree_settle(qsae__tree *t, int64_t i)
{
    const int64_t leaf = is_part(t, &t->node[i]) ? complete_leaf(t, i) : i;
    if (leaf >= 0)
        join_siblings(t, leaf);
    if (t->n_cuts > 0)
        qsae__prefix_settle(t);
}

void qsae__tree_insert(qsae__tree *t, qsae__node node)
{
    const int64_t i = lower_bound(t, node.first);
    memmove(t->node + i + 1, t->node + i, (size_t)(t->n - i) * sizeof *t->node);
    t->node[i] = node;
    t->n++;
    qsae__tree_settle(t, i);
}

int32_t qsae__tree_fold(const qsae__tree *t, double **out)
{
    double *const v = qsae__calloc(t->ctx, t->width, sizeof *v);
    if (!v)
        return QSAE_ENOMEM;
    for (int64_t i = 0; i < t->n; i++) {
        if (i == 0)
            memcpy(v, t->node[0].v, (size_t)t->width * sizeof *v);
        else
            t->combine(t->metric, v, t->node[i].v);
    }
    *out = v;
    return QSAE_OK;
}

int32_t qsae__tree_add(qsae__tree *t, const qsae__tree *from)
{
    int32_t st = qsae__prefix_add(t, from);
    if (st == QSAE_OK)
        st = qsae__tree_reserve(t, from->n);
    for (int64_t i = 0; i < from->n && st == QSAE_OK; i++) {
        qsae__node node = from->node[i];
        node.v = qsae__alloc_array(t->ctx, t->width, sizeof *node.v);
        if (!node.v)
            return QSAE_ENOMEM;
        memcpy(node.v, from->node[i].v, (size_t)t->width * sizeof *node.v);
        qsae__tree_insert(t, node);
    }
    return st;
}
