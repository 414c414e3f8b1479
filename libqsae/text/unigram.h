/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Unigram language models as the `tokenizers` crate runs them (models/unigram, after
 * sentencepiece's unigram_model.cc): of all ways to cut a word into tokens the one with the highest
 * sum of scores, found by the Viterbi algorithm (Kudo 2018, arXiv:1804.10959).
 */
#ifndef QSAE_TEXT_UNIGRAM_H
#define QSAE_TEXT_UNIGRAM_H

#include "text/bpe.h"

/* A node of the tree of tokens; its children are the nodes from `first` to the next node's. */
typedef struct qsae__branch {
    uint32_t first;
    int32_t id;           /* of the token that ends here, -1 = none */
} qsae__branch;

typedef struct qsae__unigram {
    qsae_context *ctx;    /* NULL: the model is not a Unigram one */
    qsae__branch *nodes;  /* [n_nodes + 1], level by level; node 0 is the root */
    uint8_t *labels;      /* [n_nodes] the byte that leads to a node */
    int64_t n_nodes;
    double *scores;       /* [n_scores], by id */
    int64_t n_scores;
    uint32_t roots[256];  /* the root's children by byte, 0 = none */
    double unknown;       /* score of a character that is no token */
} qsae__unigram;

/* Reads the "model" of tokenizer.json, without its vocab, whose text is `vocab`. Tokens go to
 * b->vocab, where the last of two equal ones counts; so do the unknown token and the byte tokens.
 * There are at most `most` nodes. */
int32_t qsae__unigram_read(qsae__unigram *u, qsae__bpe *b, qsae_context *ctx, const json_t *json,
                           const qsae__cut *vocab, const char *where, int64_t most);
void qsae__unigram_free(qsae__unigram *u);

/* The best way to a place in a word. */
typedef struct qsae__step {
    double score;         /* sum from the start of the word */
    uint32_t other;       /* where its last token starts, UINT32_MAX = no way yet */
    int32_t id;
} qsae__step;

/* Working memory of one thread. */
typedef struct qsae__lattice {
    qsae__step *steps;
    int64_t capacity;
} qsae__lattice;

/* Appends the ids of one word (well-formed UTF-8), which s remembers. QSAE_EFORMAT if a character
 * is no token and there is no unknown token. */
int32_t qsae__unigram_word(const qsae__unigram *u, const qsae__bpe *b, qsae__bpe_scratch *s,
                           qsae__lattice *l, const char *text, size_t size, qsae__ids *ids);

/* The same of a word whose bytes stand for byte-level characters. */
int32_t qsae__unigram_bytes(const qsae__unigram *u, const qsae__bpe *b, qsae__bpe_scratch *s,
                            qsae__lattice *l, const char *text, size_t size, qsae__ids *ids);

#endif
