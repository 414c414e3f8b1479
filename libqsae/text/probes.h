/* SPDX-License-Identifier: BSD-2-Clause */
/* Probe sets: pairs of continuations of one context, read and tokenized. */
#ifndef QSAE_TEXT_PROBES_H
#define QSAE_TEXT_PROBES_H

#include "text/tokenizer.h"

#define QSAE__PROBE_TAGS 4096 /* most tags of a set */

/* One item: its ids lie one after another, context, good, bad. */
struct qsae__probe {
    int64_t line;             /* 1-based, of the file */
    int64_t first;            /* in the set's ids */
    int64_t n_context, n_good, n_bad; /* at least 1 each */
    int64_t good_bytes, bad_bytes; /* of the strings as they stand in the file, UTF-8 */
    int64_t first_tag, n_tags; /* in the set's item_tags */
};

struct qsae_probes {
    qsae__handle base;
    qsae_context *ctx;
    char *path;
    struct qsae__probe *items; /* [n] */
    int64_t n, capacity;
    qsae__ids ids;
    int32_t *item_tags;       /* indices of tags, ascending within an item */
    int64_t n_item_tags, item_tags_capacity;
    char **tags;              /* [n_tags] in the order of their first mention */
    int64_t n_tags, tags_capacity;
    int32_t bos_policy;       /* as given */
    int32_t bos;              /* the id in front of each context, -1: none */
    int64_t longest;          /* tokens a model reads of the longest item */
    char hash[QSAE__HASH_SIZE]; /* of ids, tags and lengths */
};

/*
 * Reads JSON lines {"context", "good", "bad", "tags"}. Errors name file, line and key. A pair is
 * tokenized as lm-evaluation-harness does (its TemplateLM._encode_pair): white space at the end of
 * the context moves to the continuation; context + continuation are tokenized as one string, and
 * what is beyond the number of tokens of the context alone is the continuation. Where the context
 * is left empty, BOS or else EOS stands for it.
 */
int32_t qsae__probes_open(qsae_context *ctx, const qsae_tokenizer *t, const char *path,
                          int32_t bos_policy, struct qsae_probes **out);
void qsae__probes_close(struct qsae_probes **probes);

/* Ids of item i: context, good, bad. */
static inline const int32_t *qsae__probe_ids(const struct qsae_probes *p, int64_t i)
{
    return p->ids.data + p->items[i].first;
}

#endif
