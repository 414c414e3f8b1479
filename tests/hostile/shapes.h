/* SPDX-License-Identifier: BSD-2-Clause */
/* Files that grow, for scale.c. */
#ifndef TESTS_HOSTILE_SHAPES_H
#define TESTS_HOSTILE_SHAPES_H

#include <stdint.h>

#include <qsae/qsae.h>

/* A file under construction, in one growing block. */
struct out {
    char *data;
    size_t n, room;
};

void put(struct out *o, const void *data, size_t n);
void put_text(struct out *o, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* bytes: of v, the lowest first */
void put_int(struct out *o, uint64_t v, int bytes);

struct shape {
    const char *name, *file;
    void (*make)(struct out *o, int64_t n);
    int32_t (*open)(qsae_context *ctx, const char *folder, const char *file); /* and close */
    int32_t status;
    double ratio;    /* of times for twice the keys; 0: MOST_RATIO */
    size_t per_byte; /* bytes of memory for one of the file; 0: 8 */
};

int32_t open_tokenizer(qsae_context *ctx, const char *folder, const char *file);

#define MOST_RATIO 2.3
#define TREE_RATIO 2.9 /* in the short form, where jansson's tree outgrows a cache on the way */

/* Tokenizers, configurations, archives, texts. */
extern const struct shape text_shapes[];
extern const size_t n_text_shapes;

/* Tokenizers of GGUF files. */
extern const struct shape gguf_shapes[];
extern const size_t n_gguf_shapes;

/* Texts. */
extern const struct shape corpus_shapes[];
extern const size_t n_corpus_shapes;

#endif
