/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_TEXT_SCRIPT_H
#define QSAE_TEXT_SCRIPT_H

#include "core/regex.h"

/* Writing systems that text is told apart by, as Unicode's property Script has them (PCRE2's
 * tables). */
enum {
    QSAE__SCRIPT_COMMON, /* no character of any script: digits, punctuation, spaces */
    QSAE__SCRIPT_BYTES,  /* no whole characters: part of one */
    QSAE__SCRIPT_OTHER,  /* a script that is not listed */
    QSAE__SCRIPT_LATIN,  /* and those listed in script.c */
    QSAE__SCRIPT_MOST = 32
};

typedef struct qsae__scripts qsae__scripts;

int32_t qsae__scripts_open(qsae_context *ctx, qsae__scripts **out);
void qsae__scripts_close(qsae_context *ctx, qsae__scripts **s);
/* Number of values; "common", "bytes", "other", "latin", ... */
int32_t qsae__scripts_count(void);
const char *qsae__script_name(int32_t script);

/* Script of the first character that has one. text [size]: QSAE_OK, or what regex.h returns. */
int32_t qsae__script_of(qsae__scripts *s, const char *text, size_t size, int32_t *out);

#endif
