/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Sums before given tokens, of a tree whose parts may come in any order. What lies before a cut is
 * a list of nodes: of each start the largest that ends by the cut. They are in the tree, or were kept
 * when the tree joined them to what lies beyond.
 */
#include <string.h>

#include "metrics/parts.h"

int32_t qsae__prefix_open(qsae__tree *t, const int64_t *cuts, int64_t n)
{
    qsae__prefix_free(t);
    t->cuts = cuts;
    t->n_cuts = n;
    if (n == 0)
        return QSAE_OK;
    t->whole = qsae__calloc(t->ctx, n, sizeof *t->whole);
    return t->whole ? QSAE_OK : QSAE_ENOMEM;
}

void qsae__prefix_clear(qsae__tree *t)
{
    for (int64_t k = 0; t->whole && k < t->n_cuts; k++) {
        qsae__free(t->ctx, t->whole[k]);
        t->whole[k] = NULL;
    }
    for (int64_t i = 0; i < t->n_kept; i++)
        qsae__free(t->ctx, t->kept[i].v);
    t->n_kept = 0;
}

void qsae__prefix_free(qsae__tree *t)
{
    qsae__prefix_clear(t);
    qsae__free(t->ctx, t->whole);
    qsae__free(t->ctx, t->kept);
    t->whole = NULL;
    t->kept = NULL;
    t->kept_capacity = 0;
}

static bool known(const qsae__tree *t, int64_t k)
{
    return t->whole[k] || t->cuts[k] == 0;
}

/* The first cut from a token on whose sums are not known; -1 if there is none. */
static int64_t open_cut(const qsae__tree *t, int64_t token)
{
    for (int64_t k = 0; k < t->n_cuts; k++)
        if (t->cuts[k] >= token && !known(t, k))
            return t->cuts[k];
    return -1;
}

static double *copy_of(const qsae__tree *t, const double *v)
{
    double *const copy = qsae__alloc_array(t->ctx, t->width, sizeof *copy);
    if (copy)
        memcpy(copy, v, (size_t)t->width * sizeof *copy);
    return copy;
}

int32_t qsae__prefix_insert(qsae__tree *t, const qsae__node *node)
{
    int32_t st = qsae__grow(t->ctx, &t->kept, &t->kept_capacity, t->n_kept + 1, sizeof *t->kept);
    double *const v = st == QSAE_OK ? copy_of(t, node->v) : NULL;
    int64_t i = t->n_kept;
    if (!v)
        return QSAE_ENOMEM;
    for (; i > 0 && (t->kept[i - 1].first > node->first ||
                     (t->kept[i - 1].first == node->first &&
                      t->kept[i - 1].tokens > node->tokens)); i--)
        t->kept[i] = t->kept[i - 1];
    t->kept[i] = (qsae__node){ node->first, node->tokens, v };
    t->n_kept++;
    return QSAE_OK;
}

void qsae__prefix_keep(qsae__tree *t, int64_t i, int64_t end)
{
    const int64_t cut = open_cut(t, t->node[i].first + t->node[i].tokens);
    if (cut >= 0 && cut < end)
        (void)qsae__prefix_insert(t, &t->node[i]); /* a failure shows when the sums are asked for */
}

/* The largest node that begins at a token and ends by `cut`; NULL if there is none. */
static const qsae__node *largest(const qsae__tree *t, int64_t token, int64_t cut)
{
    const qsae__node *best = NULL;
    const qsae__node *const lists[] = { t->node, t->kept };
    const int64_t counts[] = { t->n, t->n_kept };
    for (int l = 0; l < 2; l++)
        for (int64_t i = 0; i < counts[l] && lists[l][i].first <= token; i++) {
            const qsae__node *const node = &lists[l][i];
            if (node->first == token && node->tokens <= cut - token &&
                (!best || node->tokens > best->tokens))
                best = node;
        }
    return best;
}

/* Sums before a cut; NULL if tokens are missing, or memory. */
static double *fold_before(const qsae__tree *t, int64_t cut)
{
    double *v = NULL;
    for (int64_t at = 0; at < cut;) {
        const qsae__node *const node = largest(t, at, cut);
        if (!node)
            return NULL;
        at += node->tokens;
    }
    for (int64_t at = 0; at < cut;) {
        const qsae__node *const node = largest(t, at, cut);
        if (at == 0 && !(v = copy_of(t, node->v)))
            return NULL;
        if (at > 0)
            t->combine(t->metric, v, node->v);
        at += node->tokens;
    }
    return v;
}

/* Whether a kept node was joined to one that goes beyond a cut that is not known yet; of a part its
 * leaf, of a node its first half. So what is kept does not depend on when a cut before it was known. */
static bool needed(const qsae__tree *t, const qsae__node *node)
{
    const int64_t cut = open_cut(t, node->first + node->tokens);
    const int64_t end = node->tokens < t->leaf ? (node->first / t->leaf + 1) * t->leaf
                                               : node->first + 2 * node->tokens;
    return cut >= 0 && cut < end;
}

void qsae__prefix_settle(qsae__tree *t)
{
    int64_t left = 0;
    bool changed = false;
    for (int64_t k = 0; k < t->n_cuts; k++)
        if (!known(t, k) && t->n > 0 && (t->whole[k] = fold_before(t, t->cuts[k])))
            changed = true;
    if (!changed)
        return;
    for (int64_t i = 0; i < t->n_kept; i++) {
        if (needed(t, &t->kept[i]))
            t->kept[left++] = t->kept[i];
        else
            qsae__free(t->ctx, t->kept[i].v);
    }
    t->n_kept = left;
}

int32_t qsae__prefix_add(qsae__tree *t, const qsae__tree *from)
{
    int32_t st = QSAE_OK;
    for (int64_t k = 0; k < t->n_cuts && st == QSAE_OK; k++)
        if (from->whole[k] && !t->whole[k] && !(t->whole[k] = copy_of(t, from->whole[k])))
            st = QSAE_ENOMEM;
    for (int64_t i = 0; i < from->n_kept && st == QSAE_OK; i++)
        st = qsae__prefix_insert(t, &from->kept[i]);
    return st;
}

int32_t qsae__prefix_take(qsae__tree *t, const qsae__tree *from, int64_t k)
{
    qsae__node node = { .first = 0, .tokens = from->cuts[k] };
    if (from->cuts[k] == 0)
        return QSAE_OK;
    if (!from->whole[k])
        return qsae__fail(QSAE_ENOMEM, "the sums before token %lld are not known: tokens are "
                          "missing, or memory was", (long long)from->cuts[k]);
    const int32_t st = qsae__tree_reserve(t, 1);
    if (st != QSAE_OK || !(node.v = copy_of(t, from->whole[k])))
        return QSAE_ENOMEM;
    qsae__tree_insert(t, node);
    return QSAE_OK;
}
