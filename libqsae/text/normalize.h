/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_TEXT_NORMALIZE_H
#define QSAE_TEXT_NORMALIZE_H

#include "text/charsmap.h"
#include "text/pattern.h"

enum qsae__norm_kind {
    QSAE__NORM_PREPEND,
    QSAE__NORM_REPLACE,
    QSAE__NORM_UNICODE, /* NFC, NFD, NFKC, NFKD */
    QSAE__NORM_LOWERCASE,
    QSAE__NORM_STRIP,
    QSAE__NORM_ACCENTS,  /* StripAccents */
    QSAE__NORM_NMT,
    QSAE__NORM_CHARSMAP  /* Precompiled */
};

/* One step of the normalizer; nested sequences are flattened. */
typedef struct qsae__norm_step {
    int32_t kind;
    int32_t form;            /* utf8proc options */
    bool left, right;        /* strip */
    char *content;           /* prepend, replace */
    size_t content_size;
    qsae__pattern *pattern;  /* replace */
    qsae__charsmap *map;
} qsae__norm_step;

typedef struct qsae__normalizer {
    qsae_context *ctx;
    qsae__norm_step *steps;
    int64_t count, capacity;
} qsae__normalizer;

/* Adds the steps of a normalizer object of tokenizer.json (NULL or null: none). */
int32_t qsae__normalizer_read(qsae__normalizer *n, const json_t *json, const char *where);
void qsae__normalizer_free(qsae__normalizer *n);

/* True if a step can make several characters of one (NFC only of letters with marks). */
bool qsae__norm_expands(const qsae__norm_step *step);
/* ... and white space among them. */
bool qsae__norm_spaces(const qsae__norm_step *step);

/* Runs all steps over well-formed text; the result is *out with *size bytes, in one of the buffers
 * or the text itself. *cut (may be NULL): text at the start was deleted, so that the result no
 * longer begins where the text does (Metaspace asks for that). */
int32_t qsae__normalize(const qsae__normalizer *n, const char *text, size_t text_size,
                        qsae__strbuf buffers[2], const char **out, size_t *size, bool *cut);

#endif
