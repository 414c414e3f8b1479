/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_TEXT_PRETOKENIZE_H
#define QSAE_TEXT_PRETOKENIZE_H

#include "text/pattern.h"

enum qsae__pre_kind {
    QSAE__PRE_SPLIT,
    QSAE__PRE_METASPACE,
    QSAE__PRE_BYTES, /* ByteLevel */
    QSAE__PRE_DIGITS,
    QSAE__PRE_SPACES,      /* WhitespaceSplit */
    QSAE__PRE_WORDS,       /* Whitespace: \w+|[^\w\s]+ */
    QSAE__PRE_PUNCTUATION
};

enum qsae__behavior {
    QSAE__REMOVED,
    QSAE__ISOLATED,
    QSAE__MERGED_WITH_PREVIOUS,
    QSAE__MERGED_WITH_NEXT,
    QSAE__CONTIGUOUS
};

enum qsae__prepend { QSAE__PREPEND_ALWAYS, QSAE__PREPEND_FIRST, QSAE__PREPEND_NEVER };

typedef struct qsae__pre_step {
    int32_t kind;
    int32_t behavior;        /* enum qsae__behavior */
    int32_t prepend;         /* enum qsae__prepend */
    bool invert;
    bool split;              /* Metaspace: cut; ByteLevel: use the regular expression */
    qsae__pattern *pattern;  /* Split; ByteLevel's expression; Metaspace's mark */
    char *mark;              /* Metaspace */
} qsae__pre_step;

typedef struct qsae__pretokenizer {
    qsae_context *ctx;
    qsae__pre_step *steps;
    int64_t count, capacity;
} qsae__pretokenizer;

int32_t qsae__pretokenizer_read(qsae__pretokenizer *p, const json_t *json, const char *where);
void qsae__pretokenizer_free(qsae__pretokenizer *p);

typedef struct qsae__span {
    size_t start, end;
} qsae__span;

/* Pieces of text and room for the next step's; reused from call to call. */
typedef struct qsae__pieces {
    qsae_context *ctx;
    const char *text;        /* the spans' text */
    qsae__span *spans, *next;
    int64_t count, next_count, capacity, next_capacity;
    qsae__strbuf buffers[2];
    int buffer;              /* which one holds text */
    struct qsae__part *parts; /* matches of one span */
    int64_t parts_capacity;
    bool at_start;           /* span 0 starts where the input starts */
    bool bytes;              /* result: the bytes of text stand for byte-level characters */
} qsae__pieces;

void qsae__pieces_init(qsae__pieces *p, qsae_context *ctx);
void qsae__pieces_free(qsae__pieces *p);

/* Cuts text into words: afterwards pieces->spans of pieces->text. `at_start`: text begins where the
 * whole input begins. If the last step is ByteLevel, its characters are not written out: see
 * pieces->bytes. */
int32_t qsae__pretokenize(const qsae__pretokenizer *p, const char *text, size_t size, bool at_start,
                          qsae__pieces *pieces);

/* Code point that stands for a byte in byte-level vocabularies, and back (-1: none). */
uint32_t qsae__byte_char(uint8_t byte);
int32_t qsae__char_byte(uint32_t c);

#endif
