/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_TEXT_TOKEN_CLASS_H
#define QSAE_TEXT_TOKEN_CLASS_H

#include <stddef.h>
#include <stdint.h>

/* What a token looks like (methods.md section 8). */
enum {
    QSAE__CLASS_WHITESPACE,
    QSAE__CLASS_NUMERAL,
    QSAE__CLASS_PUNCTUATION,
    QSAE__CLASS_CODE_SYMBOL,   /* punctuation with one of {}[]()<>;=+*\/|&^%$#@~` */
    QSAE__CLASS_NON_LATIN,     /* a letter above U+024F */
    QSAE__CLASS_NUMERAL_MIXED, /* numerals among other characters */
    QSAE__CLASS_WORD,          /* a Latin letter */
    QSAE__CLASS_OTHER,         /* also bytes that are no whole characters */
    QSAE__CLASS_COUNT
};

/* "whitespace", ... */
const char *qsae__token_class_name(int32_t class);

/* Class of a token's text; the space that marks the start of a word does not count. */
int32_t qsae__token_class(const char *text, size_t size);

#endif
