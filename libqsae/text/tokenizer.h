/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * text/: tokenizer.json, tokenizers of GGUF files, pre-tokenizers, corpus, packing. Includes
 * formats/, core/ and itself; never model/, sae/ or metrics/.
 */
#ifndef QSAE_TEXT_TOKENIZER_H
#define QSAE_TEXT_TOKENIZER_H

#include <qsae/text.h>

#include "formats/gguf.h"
#include "text/bpe.h"
#include "text/match.h"
#include "text/normalize.h"
#include "text/pretokenize.h"
#include "text/unigram.h"

struct qsae_tokenizer {
    qsae__handle base;
    qsae_context *ctx;
    char hash[QSAE__HASH_SIZE];
    qsae__bpe model;            /* of a Unigram model its vocabulary, unknown and byte tokens */
    qsae__unigram unigram;
    qsae__normalizer normalizer;
    qsae__pretokenizer pretokenizer;
    qsae__added *added;         /* [n_added] */
    char **contents;            /* [n_added], in contents_text */
    char *contents_text;
    int64_t n_added;
    qsae__matcher raw;          /* normalized = false: matched before the normalizer */
    qsae__matcher normalized;   /* normalized = true: after it */
    qsae__ids prefix, suffix;   /* the post-processor's template */
    char *views;                /* what tokens stand for in text */
    int64_t *view_at;           /* [vocab + 1] */
    uint8_t *known;             /* [vocab] 0 no token, 1 token, 2 special token, 3 byte token,
                                 * 4 token that a GGUF file calls unused */
    int64_t vocab;              /* highest id + 1 */
    int32_t bos, eos, pad, unk; /* -1 = none */
    bool gguf;                  /* read from a GGUF file */
};

/* Id of a token by its text, added tokens first; -1. */
int32_t qsae__token_id(const qsae_tokenizer *t, const char *content);

/* Parts of reading: the post_processor, and the views after everything else. */
int32_t qsae__template_read(qsae_tokenizer *t, const json_t *json, const char *where);
int32_t qsae__views_build(qsae_tokenizer *t, const json_t *decoder);

/* Once t->added, t->contents and t->vocab are there: the matchers and t->known. */
int32_t qsae__added_ready(qsae_tokenizer *t);

/* Ids of a tokenizer of so many bytes are below this: an id that no token has costs 25 bytes while
 * it is read. Real files stay far below. */
#define QSAE__ID_MOST(bytes) ((bytes) / 5 + 24576)
/* ... and nodes of the trees of added tokens, up to 100 bytes each. */
#define QSAE__ADDED_NODES(bytes) ((int64_t)((bytes) / 16) + 8192)

/* A tokenizer.json: what may be large as text, the rest as a tree. */
typedef struct qsae__tokenizer_source {
    const char *path;
    const json_t *root;        /* without these: */
    qsae__model_text model;    /* model.vocab, model.merges */
    qsae__cut added;           /* added_tokens */
    int64_t bytes;             /* of the files: what bounds ids and tables */
} qsae__tokenizer_source;

/* All of it but who is BOS, EOS, padding and unknown, from a tokenizer.json. Then these, from a
 * tokenizer_config.json; what it does not name stays. */
int32_t qsae__tokenizer_read_root(qsae_tokenizer *t, const qsae__tokenizer_source *source);
int32_t qsae__tokenizer_read_named(qsae_tokenizer *t, const json_t *config, const char *path);

/* All of it, from a folder with vocab.json and merges.txt. */
int32_t qsae__tokenizer_read_files(qsae_tokenizer *t, const char *folder);

/* All of it, from a GGUF file's keys. */
int32_t qsae__tokenizer_read_gguf(qsae_tokenizer *t, const qsae__gguf *file);

/*
 * Whether two tokenizers are the same for a model: every id stands for the same text (as
 * qsae_tokenizer_token shows it), and BOS is the same token if both name one, or one puts it in
 * front of a text. Two tokenizer.json, or two GGUF files, must also agree in whether BOS is put in
 * front, in merges, normalizer, pre-tokenizer and added tokens, in whatever spelling versions of
 * transformers save them; one of each need not, since they spell these differently.
 * QSAE_OK if so, and `why` names what else differs ("differ in: EOS") or is ""; else
 * QSAE_EMISMATCH, and `why` (also the error message) names the first difference: the size, an id
 * with both texts, the BOS rule, a part. Fillers for ids without token ("unused" in GGUF files) are
 * no tokens. QSAE_EINVAL, QSAE_ENOMEM.
 * why: [size] receives text, cut to fit; NULL if size is 0
 */
int32_t qsae__tokenizer_compare(const qsae_tokenizer *a, const qsae_tokenizer *b, char *why,
                                size_t size);

/* Working memory of one thread that encodes. */
typedef struct qsae__encoder {
    const qsae_tokenizer *tokenizer;
    qsae__strbuf buffers[2];
    qsae__pieces pieces;
    qsae__bpe_scratch scratch;
    qsae__lattice lattice;      /* of a Unigram model */
    qsae__ids ids;              /* result */
    const char *text;           /* present text of a walk over added tokens */
    bool at_start;
} qsae__encoder;

void qsae__encoder_init(qsae__encoder *e, const qsae_tokenizer *t);
void qsae__encoder_free(qsae__encoder *e);

/* Sets e->ids to the ids of text without special tokens. QSAE_EFORMAT if it is not UTF-8. */
int32_t qsae__encoder_run(qsae__encoder *e, const char *text, size_t size);

#endif
