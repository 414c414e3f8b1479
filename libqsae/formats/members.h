/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_FORMATS_MEMBERS_H
#define QSAE_FORMATS_MEMBERS_H

#include "formats/json.h"

/*
 * The members of one JSON object, in turn: for headers with a million of them, of which a tree in
 * memory would take fifteen times their bytes. Hostile input.
 */
typedef struct qsae__members {
    const char *text, *at, *end;
    const char *name;         /* of the file, for messages */
    bool begun;
} qsae__members;

/* A member: its name as it stands in the text, quotes included, and the text of its value, of which
 * nothing but the brackets has been looked at. */
typedef struct qsae__member {
    const char *key, *value;
    size_t key_size, value_size;
} qsae__member;

/* text: [size]. QSAE_EFORMAT: not UTF-8, or no object. */
int32_t qsae__members_open(qsae__members *m, const char *text, size_t size, const char *name);
/* *more false: there was no other one, and nothing but white space follows. QSAE_EFORMAT. */
int32_t qsae__members_next(qsae__members *m, qsae__member *out, bool *more);

/* The string that a JSON string in text stands for, [size] with its quotes: NUL-terminated, at most
 * size bytes with the NUL. QSAE_EFORMAT, QSAE_ENOMEM. */
int32_t qsae__json_decode(const char *text, size_t size, const char *name, char *out);

/* What a value is by its first byte, as qsae__json_type_name. */
const char *qsae__json_kind(const char *value);

#endif
