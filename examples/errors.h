/* SPDX-License-Identifier: BSD-2-Clause */
/* The table of weight errors that inspect prints. */
#ifndef EXAMPLES_ERRORS_H
#define EXAMPLES_ERRORS_H

#include <jansson.h>

#include <qsae/qsae.h>

/*
 * Errors of the weights of `other` (NULL: of the model itself) under a condition, against those of
 * the model at path; printed row by row if asked for. *out is the document of it, with an "error"
 * if something went wrong. 1 if nothing did.
 */
int errors_report(qsae_context *context, const char *path, const char *other, const char *condition,
                  int print, json_t **out);

#endif
