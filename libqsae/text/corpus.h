/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_TEXT_CORPUS_H
#define QSAE_TEXT_CORPUS_H

#include "text/documents.h"
#include "text/tokenizer.h"

typedef struct qsae__document {
    int64_t first_token;  /* in the stream */
    int64_t n_tokens;
    int64_t line;
    char *metadata;       /* NULL = "{}" */
    int32_t source;       /* -1 = none */
} qsae__document;

struct qsae_corpus {
    qsae_context *ctx;
    qsae__documents files;      /* sources */
    qsae__document *documents;  /* [n_documents] */
    int64_t n_documents, documents_capacity;
    int32_t *ids, *labels;      /* [tokens] chunk after chunk */
    int64_t *document;          /* [tokens] */
    int64_t tokens, stream_tokens, chunks, context, predicted;
    int32_t bos_policy, cross_labels;
    char hash[QSAE__HASH_SIZE];
};

/* The stream of all documents' ids, before it is cut. */
typedef struct qsae__stream {
    qsae__ids ids;
    int64_t *documents;   /* [ids.count] document of each token */
    int64_t documents_capacity;
} qsae__stream;

/* Tokenizes documents into the stream, in order, until `need` tokens are there (0 = all). */
int32_t qsae__stream_read(qsae_corpus *c, const qsae_tokenizer *t, const qsae_corpus_settings *s,
                          int64_t need, qsae__stream *stream);
void qsae__stream_free(qsae_context *ctx, qsae__stream *stream);

/* Cuts the stream into the corpus' chunks; bos: for QSAE_BOS_CHUNK_START, else -1. */
int32_t qsae__pack(qsae_corpus *c, const qsae__stream *stream, int32_t bos, int64_t max_tokens,
                   bool keep_tail);

/* Labels, predicted count and hash from ids; `next` is the stream's token after each chunk's last
 * one ([chunks], -100 = none) or NULL. */
void qsae__label(qsae_corpus *c, const int32_t *next);
int32_t qsae__corpus_hash(qsae_corpus *c);

#endif
