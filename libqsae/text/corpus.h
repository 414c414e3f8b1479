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

/* What a token adds to its document's text: bytes, and words that begin with it. */
typedef struct qsae__extent {
    int32_t bytes, words;
} qsae__extent;

struct qsae_corpus {
    qsae__handle base;
    qsae_context *ctx;
    qsae__documents files;      /* sources */
    qsae__document *documents;  /* [n_documents] */
    int64_t n_documents, documents_capacity;
    int32_t *ids, *labels;      /* [tokens] chunk after chunk */
    int64_t *document;          /* [tokens] */
    qsae__extent *extents;      /* [tokens] of the labels; NULL = not known */
    int64_t tokens, stream_tokens, chunks, context, predicted;
    int64_t stride;             /* of windows; 0 = chunks that do not overlap */
    int64_t score_from;         /* positions before it have no label */
    int32_t bos_policy, cross_labels, pack;
    char hash[QSAE__HASH_SIZE];
    int32_t *replaced;          /* [chunks] ids that BOS took the place of; NULL = none */
};

/* The stream of all documents' ids, before it is cut. */
typedef struct qsae__stream {
    qsae__ids ids;
    int64_t *documents;   /* [ids.count] document of each token */
    qsae__extent *extents; /* [ids.count] */
    int64_t documents_capacity, extents_capacity;
    /* QSAE_PACK_TL: the batch of documents that is being joined. */
    int64_t batch_first;  /* its first id */
    int64_t batch_rows;   /* documents in it, empty ones included */
    int64_t batch_document; /* index of its first one with text */
    /* QSAE_PACK_TL2: its text, and per document where that ends and which document it is. */
    char *text;
    int64_t *ends, *owners;
    int64_t text_size, text_capacity, ends_capacity, owners_capacity;
} qsae__stream;

/* One document while it is being read. */
typedef struct qsae__encoded {
    int32_t *ids;          /* [count] own memory, NULL if the document is empty */
    qsae__extent *extents; /* [count] own memory */
    int64_t count;
    char *metadata;        /* taken over */
    char *text;            /* [text_size] QSAE_PACK_TL2, instead of ids */
    int64_t text_size;
    bool empty;            /* without text: nothing but a place between others, if pack has such */
    bool left_out;         /* not what `where` wants */
} qsae__encoded;

/* Appends one document, with what the policies put in front of it. */
int32_t qsae__stream_append(qsae_corpus *c, const qsae_tokenizer *t, const qsae__record *r,
                            qsae__encoded *s, qsae__stream *out);
/* Appends ids of a document; extents NULL: they are none of its text. */
int32_t qsae__stream_add(qsae_corpus *c, qsae__stream *out, const int32_t *ids,
                         const qsae__extent *extents, int64_t n, int64_t document);

/* QSAE_PACK_TL2: a document's text joins the batch; the batch becomes ids (no text is left if it
 * was all white space); what its rows are cut to is measured, and the text let go. */
int32_t qsae__batch_add(qsae_corpus *c, const qsae_tokenizer *t, const qsae__encoded *s,
                        qsae__stream *out);
int32_t qsae__batch_encode(qsae_corpus *c, const qsae_tokenizer *t, qsae__stream *out);
int32_t qsae__batch_measure(qsae_corpus *c, const qsae_tokenizer *t, qsae__stream *out);

/* After the last document. */
int32_t qsae__stream_finish(qsae_corpus *c, const qsae_tokenizer *t, qsae__stream *out);

/* Ids of the stream in a whole chunk: all of it but a BOS that cutting puts in front. */
int64_t qsae__pack_content(int64_t context, int32_t bos_policy, int32_t pack);

/* What metadata must say: settings->where, parsed. */
typedef struct qsae__filter qsae__filter;
/* "WHAT: where: ..." if there cannot be that many conditions there. */
int32_t qsae__where_check(const char *what, const char *const *where, int64_t n);
int32_t qsae__filter_open(qsae_context *ctx, const qsae_corpus_settings *s, qsae__filter **out);
void qsae__filter_close(qsae_context *ctx, qsae__filter **f);
bool qsae__filter_matches(const qsae__filter *f, const json_t *metadata);

/* Value of a key, and the object that holds it under *name: a key that is there as it is written
 * counts before its dots do. NULL if there is none. */
json_t *qsae__field_find(json_t *object, const char *key, json_t **holder, const char **name);

/* Whole numbers of an .npy file. */
typedef struct qsae__id_array {
    qsae__tensors *set;
    const uint8_t *data;
    int64_t rows, cols;    /* of 1 axis: 1 row */
    int32_t dtype, rank;   /* I32, I64, U16, U32; 1 or 2 */
} qsae__id_array;

bool qsae__text_is_npy(const char *path);
int32_t qsae__id_array_open(qsae_context *ctx, const char *path, qsae__id_array *a);
void qsae__id_array_close(qsae__id_array *a);
int64_t qsae__id_array_get(const qsae__id_array *a, int64_t i); /* row-major */

/* The stream of an array of ids: one document, or one per row. */
int32_t qsae__stream_ids(qsae_corpus *c, const qsae_tokenizer *t, const char *path,
                         const qsae_corpus_settings *s, int64_t need, qsae__stream *stream);

/* order [n]: indices of documents as the settings want them (order, shuffle, documents_from and
 * documents_to), NULL = as they are. */
int32_t qsae__order_make(qsae_context *ctx, const qsae_corpus_settings *s, int64_t documents,
                         int64_t **order, int64_t *n);

/* Tokenizes documents into the stream, in order, until `need` tokens are there (0 = all). */
int32_t qsae__stream_read(qsae_corpus *c, const qsae_tokenizer *t, const qsae_corpus_settings *s,
                          int64_t need, qsae__stream *stream);
void qsae__stream_free(qsae_context *ctx, qsae__stream *stream);

/* Cuts the stream into the corpus' chunks; bos: for QSAE_BOS_CHUNK_START, else -1. The stream keeps
 * its ids alone. */
int32_t qsae__pack(qsae_corpus *c, qsae__stream *stream, int32_t bos, int64_t max_tokens,
                   bool keep_tail);

/* As qsae_corpus_open_ids, of chunks whose first token BOS takes the place of (-1: none does) and
 * whose positions before score_from are not scored. */
int32_t qsae__corpus_from_chunks(qsae_context *ctx, const int32_t *ids, int64_t n_chunks,
                                 int64_t chunk, int32_t bos, int64_t score_from,
                                 qsae_corpus **out);
/* The first token of a chunk, whether or not BOS took its place. */
int32_t qsae__corpus_original(const qsae_corpus *c, int64_t chunk);

/* extents [n] of a document's ids; text is what they were made from,
 * NULL: not known. */
int32_t qsae__extents_measure(const qsae_tokenizer *t, const int32_t *ids, int64_t n,
                              const char *text, size_t text_size, qsae__extent *extents,
                              qsae__strbuf *scratch);

/*
 * The last `context` tokens of every whole chunk as a corpus, of which the last `scored` tokens are
 * labels. What cutting put in front of a chunk, BOS, is in front of the shorter one. It has no
 * documents' metadata, but their numbers.
 */
int32_t qsae__corpus_tails(const qsae_corpus *c, int64_t context, int64_t scored,
                           qsae_corpus **out);

/* Labels of the first chunks, and the bytes and words of their text; false: not known. */
bool qsae__corpus_scored(const qsae_corpus *c, int64_t chunks, int64_t *tokens, int64_t *bytes,
                         int64_t *words);

/* Labels, predicted count and hash from ids; `next` is the stream's token after each chunk's last
 * one ([chunks], -100 = none) or NULL. */
void qsae__label(qsae_corpus *c, const int32_t *next);
int32_t qsae__corpus_hash(qsae_corpus *c);

#endif
