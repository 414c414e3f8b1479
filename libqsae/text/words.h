/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The expressions by which GPT-2, Llama 3 and Qwen cut words, without a regular expression engine
 * where a word and the character behind it are ASCII: almost everywhere in most texts.
 */
#ifndef QSAE_TEXT_WORDS_H
#define QSAE_TEXT_WORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum qsae__words {
    QSAE__WORDS_OTHER,    /* any other expression */
    QSAE__WORDS_GPT2,
    QSAE__WORDS_LLAMA3,   /* up to three digits */
    QSAE__WORDS_QWEN      /* digits one by one; with marks among letters or not: none is ASCII */
};

/* Which of them a regular expression is. */
enum qsae__words qsae__words_kind(const char *regex);

/* Bytes of the match at the start of text [size], size > 0: there always is one. 0 if characters
 * beyond ASCII might matter. */
size_t qsae__words_next(enum qsae__words kind, const char *text, size_t size);

#endif
