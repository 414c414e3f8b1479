/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Byte-pair encoding as the `tokenizers` crate does it (models/bpe): characters, byte fallback and
 * unknown tokens become symbols; the adjacent pair of lowest rank merges first, ties to the left.
 */
#ifndef QSAE_TEXT_BPE_H
#define QSAE_TEXT_BPE_H

#include "text/vocab.h"

#define QSAE__CHAR_IDS 0x3000 /* code points with a direct table */
#define QSAE__NEAR 129        /* ASCII and U+2581: a direct table of their joints */
#define QSAE__CACHED_TEXT 30  /* bytes of a word that is remembered, */
#define QSAE__CACHED_IDS 8    /* and its ids */

typedef struct qsae__merge {
    uint64_t pair;        /* UINT64_MAX = empty slot */
    uint32_t rank;
    int32_t id;           /* of the merged token */
} qsae__merge;

typedef struct qsae__bpe {
    qsae_context *ctx;
    qsae__vocab vocab;
    qsae__merge *merges;  /* [n_merges] slots, open addressing */
    int64_t n_merges;
    /* Pairs of symbols that lie side by side in some merged token. Elsewhere no merge ever crosses,
     * so a word is cut there and memory and cache stay small even if a word is a whole document. */
    qsae__pair_set joints;
    uint64_t near[QSAE__NEAR][3]; /* ... and by characters: bit right of row left */
    char *unk_token;      /* NULL = none */
    int32_t unk;          /* its id, -1 if not in the vocabulary */
    bool byte_fallback, fuse_unk, ignore_merges;
    /* SentencePiece: the bytes of a character that is in no token are no symbols, so they never
     * merge. Entries of the vocabulary from n_tokens on are characters that only occur inside
     * tokens: symbols while merging, bytes afterwards. */
    bool late_bytes;
    bool whole_newlines;  /* a word of newlines that is a token is that token */
    int32_t n_tokens;
    int32_t byte_ids[256];
    int32_t char_ids[QSAE__CHAR_IDS];
} qsae__bpe;

/* The parts of a model that may be large, as text: the vocabulary, an object, and the merges, an
 * array or the lines of merges.txt. */
typedef struct qsae__model_text {
    qsae__cut vocab, merges;
    bool lines;           /* merges are lines, of well-formed UTF-8 */
} qsae__model_text;

/* Reads the "model" of tokenizer.json, without its vocab and merges; ids are below limit. */
int32_t qsae__bpe_read(qsae__bpe *b, qsae_context *ctx, const json_t *json,
                       const qsae__model_text *text, const char *where, int64_t limit);

/* The next line of merges.txt that holds a merge, without its end; *at moves behind it. Lines that
 * begin with #version hold none. False: there is none. */
bool qsae__merge_line(const char **at, const char *end, qsae__slice *line);
void qsae__bpe_free(qsae__bpe *b);

/*
 * Parts of reading, once the vocabulary and the flags are there: tables by byte and character, room
 * for n merges, then the merges, by their texts or their ids. Of merges of one pair the last counts
 * or, with keep_first, the first. `where` and `at` (the merge's index) are for messages.
 */
void qsae__bpe_fill_tables(qsae__bpe *b);
int32_t qsae__bpe_reserve(qsae__bpe *b, int64_t n, const char *where);
int32_t qsae__bpe_add_texts(qsae__bpe *b, const qsae__slice side[2], uint32_t rank, bool keep_first,
                            const char *where, int64_t at, qsae__strbuf *joined);
int32_t qsae__bpe_add_ids(qsae__bpe *b, const qsae__merge *merge);

/* The last part, after all merges: tables made of them. */
void qsae__bpe_ready(qsae__bpe *b);

/* Row of a character in the table `near`, QSAE__NEAR if it has none. */
static inline uint32_t qsae__bpe_near(uint32_t code)
{
    return code < 128 ? code : code == 0x2581 ? 128 : QSAE__NEAR;
}

/* The merge of a pair, NULL if there is none. */
const qsae__merge *qsae__bpe_find(const qsae__bpe *b, int32_t left, int32_t right);

typedef struct qsae__ids {
    qsae_context *ctx;
    int32_t *data;
    int64_t count, capacity;
} qsae__ids;

int32_t qsae__ids_add(qsae__ids *ids, const int32_t *more, int64_t n);

typedef struct qsae__symbol {
    int32_t id;           /* -1: merged into its left neighbour */
    int32_t prev, next;   /* -1 at the ends */
} qsae__symbol;

typedef struct qsae__candidate {
    uint64_t order;       /* rank << 32 | position of the left symbol */
    int32_t id;
    int32_t reserved;
} qsae__candidate;

/* A word and its ids. */
typedef struct qsae__cached {
    uint8_t size, n;      /* size 0 = empty */
    char text[QSAE__CACHED_TEXT];
    int32_t ids[QSAE__CACHED_IDS];
} qsae__cached;

/* Working memory of one thread, for one model. */
typedef struct qsae__bpe_scratch {
    qsae_context *ctx;
    qsae__cached *cache;  /* [cache_slots] */
    int64_t cache_slots;
    char *mapped;         /* [mapped_capacity] a word of byte-level characters */
    int64_t mapped_capacity;
    qsae__symbol *symbols;
    qsae__candidate *heap;
    int64_t n_symbols, symbols_capacity;
    int64_t n_heap, heap_capacity;
    const qsae_cancel_token *cancel; /* looked at in long words; or NULL */
} qsae__bpe_scratch;

void qsae__bpe_scratch_free(qsae__bpe_scratch *s);

/* A text of so many bytes comes: makes room to remember its words. */
int32_t qsae__bpe_scratch_expect(qsae__bpe_scratch *s, size_t size);

/* Where a word (not empty) is remembered, NULL if it is not; whether it is the one that is there;
 * remembers it, if the ids, those from `first` on, are few. */
qsae__cached *qsae__bpe_cached(const qsae__bpe_scratch *s, const char *text, size_t size);
bool qsae__bpe_cached_is(const qsae__cached *c, const char *text, size_t size);
void qsae__bpe_cached_set(qsae__cached *c, const char *text, size_t size, const qsae__ids *ids,
                          int64_t first);

/* Sets s->mapped to the byte-level characters of bytes; *n: their bytes in UTF-8. */
int32_t qsae__bpe_map(qsae__bpe_scratch *s, const char *text, size_t size, size_t *n);

/* Appends the ids of one word (well-formed UTF-8). */
int32_t qsae__bpe_word(const qsae__bpe *b, qsae__bpe_scratch *s, const char *text, size_t size,
                       qsae__ids *ids);

/* The same of a word whose bytes stand for byte-level characters. One scratch is used for words of
 * one of the two kinds only. */
int32_t qsae__bpe_bytes(const qsae__bpe *b, qsae__bpe_scratch *s, const char *text, size_t size,
                        qsae__ids *ids);

#endif
