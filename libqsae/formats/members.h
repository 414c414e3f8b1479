/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_FORMATS_MEMBERS_H
#define QSAE_FORMATS_MEMBERS_H

#include "formats/json.h"

/*
 * The members of one JSON object, or the elements of one array, in turn: for those with a million
 * of them, of which a tree in memory would take fifteen times their bytes. Hostile input.
 */
typedef struct qsae__members {
    const char *text, *at, *end;
    const char *name;         /* of the file, for messages */
    char close;               /* the bracket that ends it */
    bool begun;
} qsae__members;

/* A member: its name as it stands in the text, quotes included (NULL: an element), and the text of
 * its value, of which nothing but the brackets has been looked at. */
typedef struct qsae__member {
    const char *key, *value;
    size_t key_size, value_size;
} qsae__member;

/* text: [size]. QSAE_EFORMAT: not UTF-8, or no object. */
int32_t qsae__members_open(qsae__members *m, const char *text, size_t size, const char *name);
/* The same for the elements of an array. */
int32_t qsae__elements_open(qsae__members *m, const char *text, size_t size, const char *name);
/* *more false: there was no other one, and nothing but white space follows. QSAE_EFORMAT. */
int32_t qsae__members_next(qsae__members *m, qsae__member *out, bool *more);

/* How many members or elements the object or array text has, and the bytes of their names, quotes
 * included. */
int32_t qsae__json_count(const char *text, size_t size, const char *name, int64_t *n,
                         size_t *bytes);

/* The string that a JSON string in text stands for, [size] with its quotes: NUL-terminated, at most
 * size bytes with the NUL. QSAE_EFORMAT: none, or with U+0000. */
int32_t qsae__json_decode(const char *text, size_t size, const char *name, char *out);

/* False: no integer, or none of 64 bits. */
bool qsae__json_integer(const char *text, size_t size, int64_t *out);

/* QSAE_EFORMAT if the value that was cut out is missing, or does not begin with that bracket. */
int32_t qsae__cut_expect(const qsae__cut *cut, const char *where, char bracket);

/* What a value is by its first byte, as qsae__json_type_name. */
const char *qsae__json_kind(const char *value);

#endif
