/* SPDX-License-Identifier: BSD-2-Clause */
/* Writing small GGUF files that hold a tokenizer. */
#ifndef QSAE_TESTS_TEXT_GGUF_FILE_H
#define QSAE_TESTS_TEXT_GGUF_FILE_H

#include "text_test.h"

#define MARK "\u2581"
#define LEN(a) ((int64_t)(sizeof(a) / sizeof *(a)))

/* A file that grows. */
struct gguf_out {
    char *data;
    size_t size, room;
    uint64_t pairs;
};

/* What a file holds; -1: the key is not there. */
struct gguf_spec {
    const char *model, *pre, *name;
    const char *const *tokens;
    const size_t *sizes;
    const int32_t *types;
    const float *scores;
    const char *const *merges;
    int64_t n, n_types, n_scores, n_merges;
    int64_t bos, eos, unk, pad;
    int add_bos, add_eos, prefix;
};

#define N_PIECES 19

/* A SentencePiece vocabulary, and a byte-level one. */
extern const char *const gguf_pieces[N_PIECES];
extern const int32_t gguf_piece_types[N_PIECES];
extern const float gguf_piece_scores[N_PIECES];
struct gguf_spec gguf_base(void);
struct gguf_spec gguf_byte_base(void);

void gguf_put(struct gguf_out *o, const void *p, size_t n);
void gguf_put_u32(struct gguf_out *o, uint32_t v);
void gguf_put_array(struct gguf_out *o, const char *key, uint32_t type, int64_t n);

/* The whole file; the caller frees o->data. */
void gguf_make(const struct gguf_spec *s, struct gguf_out *o);

/* Opens it as t.gguf. */
int32_t gguf_open(const struct gguf_spec *s, qsae_tokenizer **out);

#endif
