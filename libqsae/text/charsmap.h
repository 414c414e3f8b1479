/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * SentencePiece's compiled normalization rules (the normalizer "Precompiled", key
 * precompiled_charsmap): a double-array tree of character sequences and what replaces them. Run as
 * the crate spm_precompiled 0.1 runs them, by grapheme clusters.
 */
#ifndef QSAE_TEXT_CHARSMAP_H
#define QSAE_TEXT_CHARSMAP_H

#include "formats/formats.h"

typedef struct qsae__charsmap qsae__charsmap;

/* Reads the base64 text of the rules. */
int32_t qsae__charsmap_read(qsae_context *ctx, const char *base64, const char *where,
                            qsae__charsmap **out);
void qsae__charsmap_close(qsae_context *ctx, qsae__charsmap **map);

bool qsae__charsmap_equal(const qsae__charsmap *a, const qsae__charsmap *b);

/* Appends the normal form of well-formed text. QSAE_EFORMAT if the rules lead out of the tree. */
int32_t qsae__charsmap_run(const qsae__charsmap *m, const char *text, size_t size,
                           qsae__strbuf *out);

#endif
