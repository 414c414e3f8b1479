/* SPDX-License-Identifier: BSD-2-Clause */
/* Added tokens in text: leftmost-longest matches of a set of strings. */
#ifndef QSAE_TEXT_MATCH_H
#define QSAE_TEXT_MATCH_H

#include "core/core.h"

typedef struct qsae__added {
    int32_t id;
    bool single_word, lstrip, rstrip, normalized, special;
} qsae__added;

/* A byte trie; edges in an open hash table keyed by node and byte. */
typedef struct qsae__matcher {
    qsae_context *ctx;
    const qsae__added **tokens; /* [nodes], NULL where no string ends */
    int64_t nodes, capacity;
    int64_t most;               /* of nodes; 0 = no limit */
    uint64_t *keys;             /* [slots] node << 8 | byte, plus 1; 0 = empty */
    uint32_t *children;         /* [slots] */
    int64_t slots, edges;
    uint32_t root[256];         /* children of node 0 */
} qsae__matcher;

void qsae__matcher_init(qsae__matcher *m, qsae_context *ctx);
void qsae__matcher_free(qsae__matcher *m);

/* Adds a string; the first of equal ones stays. Empty ones are ignored. */
int32_t qsae__matcher_add(qsae__matcher *m, const char *s, size_t size, const qsae__added *token);

/* Receives the parts of a text in order: between matches token is NULL. Non-zero ends the walk. */
typedef int32_t (*qsae__part_fn)(void *arg, size_t start, size_t end, const qsae__added *token);

int32_t qsae__matcher_split(const qsae__matcher *m, const char *text, size_t size, qsae__part_fn fn,
                            void *arg);

#endif
