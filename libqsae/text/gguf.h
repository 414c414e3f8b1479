/* SPDX-License-Identifier: BSD-2-Clause */
/* Parts of reading the tokenizer of a GGUF file. */
#ifndef QSAE_TEXT_GGUF_H
#define QSAE_TEXT_GGUF_H

#include "formats/gguf.h"
#include "text/tokenizer.h"

/* Types of tokens, as the file numbers them. */
enum {
    QSAE__TOKEN_UNDEFINED, QSAE__TOKEN_NORMAL, QSAE__TOKEN_UNKNOWN, QSAE__TOKEN_CONTROL,
    QSAE__TOKEN_USER_DEFINED, QSAE__TOKEN_UNUSED, QSAE__TOKEN_BYTE
};

/* How a tokenizer.ggml.model, and for byte-level ones its tokenizer.ggml.pre, works. */
typedef struct qsae__gguf_kind {
    bool pieces;              /* SentencePiece: merges follow from scores */
    bool spaces;              /* a space is written as U+2581 */
    bool prefix;              /* ... and one is put in front */
    bool bytes;               /* byte-level: every byte is a character */
    bool ignore_merges, whole_newlines;
    bool add_bos, force_bos;
    int32_t bos, eos, unk;    /* where the file does not say; -1 = none */
    const char *regex[6];     /* cut words one after the other, each match a word; ends with NULL */
} qsae__gguf_kind;

/* QSAE_EUNSUPPORTED naming a model or pre-tokenizer that is not known. pre: "" = not given. */
int32_t qsae__gguf_kind_of(const char *model, const char *pre, const char *where,
                           qsae__gguf_kind *out);

/* Type of a token llama.cpp takes for another one than the file says, by its text; else type.
 * normal_s: "</s>" is an ordinary token. */
int32_t qsae__gguf_type_of(qsae__slice text, int32_t type, bool normal_s);

/*
 * The characters that occur in texts [count] and are none of them, as slices of them. *out
 * [*n_out] is the caller's to free. More than `most` are QSAE_EFORMAT.
 */
int32_t qsae__pieces_characters(qsae_context *ctx, const qsae__slice *texts, int64_t count,
                                int64_t most, const char *where, qsae__slice **out,
                                int64_t *n_out);

/*
 * The merges of SentencePiece: any two neighbours that make a token, of the highest score first,
 * the leftmost of equal ones. scores [b->n_tokens], or NULL = all equal. bytes: of the file; far
 * more merges than files of that size have are QSAE_EUNSUPPORTED.
 */
int32_t qsae__pieces_merges(qsae__bpe *b, const float *scores, uint64_t bytes, const char *where);

#endif
