/* SPDX-License-Identifier: BSD-2-Clause */
/* The tables of the two studies that profiles follow, in their own form. */
#ifndef EXAMPLES_PAPER_H
#define EXAMPLES_PAPER_H

#include <stdint.h>

#include <jansson.h>

#include <qsae/qsae.h>

#include "layout.h"

/* What the profile of a result prints after the main table; nothing for profile default. */
void paper_print(const struct page *p, const json_t *result);

/*
 * The second measurement of the paper: conditions of `main` that round to nearest, with a scale per
 * row, on another text in windows of 2048 tokens, 512 apart, one BOS at its start. *out receives
 * its result document.
 */
int32_t sliding_run(qsae_context *context, const qsae_audit_settings *main, const json_t *result,
                    const char *text, json_t **out);

#endif
