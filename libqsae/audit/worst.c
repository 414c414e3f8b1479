/* SPDX-License-Identifier: BSD-2-Clause */
/* Where a condition hurts most: single tokens and documents (methods.md section 8). */
#include <math.h>
#include <stdlib.h>

#include "audit/worst.h"
#include "metrics/tails.h"

#define BEFORE 16 /* tokens of context */
#define AFTER 8
#define DOCUMENTS 20
#define LEAST_TOKENS 50 /* of a document, for its mean */

static json_t *token_text(qsae_audit *a, int32_t id)
{
    return id < 0 ? json_null() : qsae__text_json(a, &id, 1);
}

/* A token that was predicted, from the row that predicts it. */
static json_t *token_json(qsae_audit *a, const qsae__token *t)
{
    const int32_t *ids, *labels;
    const int64_t *document;
    int64_t n;
    const int64_t chunk = t->token / a->corpus_info.context, at = t->token % a->corpus_info.context;
    json_t *const o = json_object();
    json_object_set_new(o, "dnll", qsae__number((double)t->nll_q - (double)t->nll_r));
    json_object_set_new(o, "nll_r", qsae__number(t->nll_r));
    json_object_set_new(o, "nll_q", qsae__number(t->nll_q));
    json_object_set_new(o, "p_r", qsae__number(exp(-(double)t->nll_r)));
    json_object_set_new(o, "p_q", qsae__number(exp(-(double)t->nll_q)));
    json_object_set_new(o, "kl", qsae__number(t->kl));
    json_object_set_new(o, "entropy_r", qsae__number(t->entropy_r));
    json_object_set_new(o, "top_r", t->top_r < 0 ? json_null() : json_integer(t->top_r));
    json_object_set_new(o, "top_q", t->top_q < 0 ? json_null() : json_integer(t->top_q));
    json_object_set_new(o, "top_r_text", token_text(a, t->top_r));
    json_object_set_new(o, "top_q_text", token_text(a, t->top_q));
    if (chunk >= a->corpus_info.chunks ||
        qsae_corpus_chunk(a->corpus, chunk, &ids, &labels, &document, &n) != QSAE_OK || at >= n)
        return o; /* a state file may say what it likes */
    const int64_t from = qsae__max_i64(0, at + 1 - BEFORE), to = qsae__min_i64(n, at + 2 + AFTER);
    json_object_set_new(o, "document", json_integer(document[at]));
    json_object_set_new(o, "chunk", json_integer(chunk));
    json_object_set_new(o, "position", json_integer(at));
    json_object_set_new(o, "id", json_integer(labels[at]));
    json_object_set_new(o, "before", qsae__text_json(a, ids + from, at + 1 - from));
    json_object_set_new(o, "token", token_text(a, labels[at]));
    json_object_set_new(o, "after", at + 2 < to ? qsae__text_json(a, ids + at + 2, to - at - 2)
                                                : json_string(""));
    return o;
}

static json_t *tokens_json(qsae_audit *a, const struct participant *p)
{
    json_t *const list = json_array();
    for (int64_t i = 0; i < qsae__divergence_worst(p->divergence); i++) {
        const qsae__token t = qsae__divergence_worst_token(p->divergence, i);
        json_array_append_new(list, token_json(a, &t));
    }
    return list;
}

/* ---- documents ---- */

static double total(const qsae__document_sums *d)
{
    return d->nll_q - d->nll_r;
}

/* Larger first, of equal ones the earlier document. */
static int compare(double x, double y, const qsae__document_sums *a, const qsae__document_sums *b)
{
    if (x != y)
        return x < y ? 1 : -1;
    return (a->document > b->document) - (a->document < b->document);
}

static int by_total(const void *a, const void *b)
{
    return compare(total(a), total(b), a, b);
}

static int by_mean(const void *a, const void *b)
{
    const qsae__document_sums *const x = a, *const y = b;
    return compare(total(x) / x->tokens, total(y) / y->tokens, x, y);
}

static json_t *document_json(const qsae_audit *a, const qsae__document_sums *d)
{
    qsae_document_info info = { .struct_size = sizeof info };
    json_t *const o = json_object();
    json_object_set_new(o, "document", json_integer(d->document));
    json_object_set_new(o, "tokens", json_integer((json_int_t)d->tokens));
    json_object_set_new(o, "dce", qsae__number(total(d) / d->tokens));
    json_object_set_new(o, "dnll_total", qsae__number(total(d)));
    json_object_set_new(o, "kl_mean", d->kl_tokens > 0 ? qsae__number(d->kl / d->kl_tokens)
                                                       : json_null());
    if (d->document < 0 || qsae_corpus_document(a->corpus, d->document, &info) != QSAE_OK)
        return o;
    json_t *const source = info.source ? json_string(info.source) : NULL, *metadata = NULL;
    if (qsae__json_parse_with(info.metadata, strlen(info.metadata), "metadata",
                              QSAE__JSON_NUL | QSAE__JSON_DATA, &metadata) != QSAE_OK)
        qsae__json_lose();
    json_object_set_new(o, "source", source ? source : json_null());
    json_object_set_new(o, "line", json_integer(info.line));
    json_object_set_new(o, "metadata", metadata ? metadata : json_null());
    return o;
}

static json_t *documents_json(const qsae_audit *a, qsae__document_sums *list, int64_t n,
                              int (*order)(const void *, const void *))
{
    json_t *const out = json_array();
    qsort(list, (size_t)n, sizeof *list, order);
    for (int64_t i = 0; i < qsae__min_i64(n, DOCUMENTS); i++)
        json_array_append_new(out, document_json(a, &list[i]));
    return out;
}

/* Keeps the documents of at least so many tokens. */
static int64_t keep(qsae__document_sums *list, int64_t n, double least)
{
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++)
        if (list[i].tokens >= least && isfinite(total(&list[i])))
            list[kept++] = list[i];
    return kept;
}

static int32_t all_documents_json(qsae_audit *a, const struct participant *p, json_t **out)
{
    qsae__document_sums *list;
    int64_t n;
    *out = json_null();
    const int32_t st = qsae__divergence_documents(p->divergence, &list, &n);
    if (st == QSAE_OK) {
        n = keep(list, n, 1);
        json_t *const totals = documents_json(a, list, n, by_total);
        n = keep(list, n, LEAST_TOKENS);
        *out = json_pack("{s:o,s:o}", "by_total", totals, "by_mean",
                         documents_json(a, list, n, by_mean));
    }
    qsae__free(a->ctx, list);
    return st;
}

int32_t qsae__worst_json(qsae_audit *a, const struct participant *p, json_t *to)
{
    json_t *documents = json_null();
    const bool part = p->place != NULL;
    const int32_t st = part ? QSAE_OK : all_documents_json(a, p, &documents);
    json_object_set_new(to, "worst_tokens", part ? json_null() : tokens_json(a, p));
    json_object_set_new(to, "worst_documents", documents);
    return st;
}
