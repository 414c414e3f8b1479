/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_FORMATS_WALK_H
#define QSAE_FORMATS_WALK_H

#include "formats/json.h"

/*
 * A look at all of a JSON text (RFC 8259) before anything is made of it: whether it is well-formed,
 * and what its tree would take. Only the size of numbers is left to those who read them. Takes no
 * memory. Hostile input.
 */
typedef struct qsae__walk {
    uint64_t tree;       /* at least the bytes that jansson 2.14 asks for, rounded as malloc does,
                          * for the values before `at`, a growing table included, but not for a
                          * token being read */
    size_t longest;      /* at least the bytes of a token that jansson reads */
    const char *at;      /* where the walk ended */
    const char *wrong;   /* what is wrong there; NULL: nothing, `at` is the end */
    bool too_much;       /* `wrong` is that the tree takes more than `most` bytes */
    bool too_deep;       /* ... or that it is deeper than QSAE__JSON_DEPTH */
} qsae__walk;

#define QSAE__JSON_DEPTH 64

/* text: [size]; flags: QSAE__JSON_*; cuts: [n_cuts], whose values count nothing. */
void qsae__json_walk(const char *text, size_t size, unsigned flags, uint64_t most, qsae__cut *cuts,
                     size_t n_cuts, qsae__walk *out);

/* The string that a JSON string in text stands for, [size] with its quotes: NUL-terminated, at most
 * size bytes with the NUL. False if it is none, or has U+0000. */
bool qsae__json_unquote(const char *text, size_t size, char *out);

#endif
