/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef EXAMPLES_LLAMA_REPORT_H
#define EXAMPLES_LLAMA_REPORT_H

#include <stdio.h>

#include <jansson.h>

/* What llama-perplexity --kl-divergence prints, line by line, for each model of a result document
 * that was compared that way. */
void llama_report_print(FILE *f, const json_t *result);

#endif
