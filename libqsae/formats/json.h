/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_FORMATS_JSON_H
#define QSAE_FORMATS_JSON_H

#include <jansson.h>

#include "core/core.h"

/*
 * Strict JSON: UTF-8, duplicate keys rejected, depth <= 64, nothing but white space after the
 * value, and values that take no more memory than 8 bytes per byte of the text and 1 MiB. Errors
 * name file, line and reason (QSAE_EFORMAT). The caller json_decref()s. `name` is used in messages
 * only.
 */
int32_t qsae__json_parse(const char *text, size_t size, const char *name, json_t **out);
int32_t qsae__json_load(qsae_context *ctx, const char *path, json_t **out);

#define QSAE__JSON_NUL 1   /* \u0000 may occur in string values (text; never in names) */
#define QSAE__JSON_REALS 2 /* every number is read as f64: for files with integers beyond 64 bits */
#define QSAE__JSON_DATA 4  /* metadata of a document, part of a line that was read within the bound:
                            * none of its own, for it is shorter than its line */
int32_t qsae__json_parse_with(const char *text, size_t size, const char *name, unsigned flags,
                              json_t **out);
int32_t qsae__json_load_with(qsae_context *ctx, const char *path, unsigned flags, json_t **out);

/* A value that is left out of the tree, where null stands for it, because it may be large: it is
 * read with formats/members.h. */
typedef struct qsae__cut {
    const char *outer;   /* name of a member of the root object, not empty, */
    const char *inner;   /* and of one of that member's; NULL: the former itself is cut out */
    const char *text;    /* out: the value, well-formed; NULL = there is none */
    size_t size;         /* out */
} qsae__cut;
int32_t qsae__json_parse_cut(const char *text, size_t size, const char *name, unsigned flags,
                             qsae__cut *cuts, size_t n_cuts, json_t **out);

/* The text is one JSON value by all of the rules but those for memory, duplicate keys and the size
 * of numbers. */
int32_t qsae__json_check(const char *text, size_t size, const char *name);

/*
 * Typed access with errors that name file, key, expected and found. `where` is the file or path
 * prefix. A missing key or null leaves *out untouched and returns QSAE_OK unless required, then
 * QSAE_EFORMAT. Found flags: present (may be NULL) receives 1 if a non-null value was read.
 */
int32_t qsae__json_i64(const json_t *object, const char *where, const char *key, bool required,
                       int64_t low, int64_t high, int64_t *out, int32_t *present);
int32_t qsae__json_f64(const json_t *object, const char *where, const char *key, bool required,
                       double *out, int32_t *present);
int32_t qsae__json_bool(const json_t *object, const char *where, const char *key, bool required,
                        bool *out, int32_t *present);
/* *out points into the object. */
int32_t qsae__json_str(const json_t *object, const char *where, const char *key, bool required,
                       const char **out, int32_t *present);
/* Member of a given JSON type (JSON_OBJECT, JSON_ARRAY); NULL if missing or null and not
 * required. */
int32_t qsae__json_get(const json_t *object, const char *where, const char *key, bool required,
                       json_type type, const json_t **out);

/* A member that is missing or null. */
static inline bool qsae__json_absent(const json_t *v)
{
    return !v || json_typeof(v) == JSON_NULL;
}

/* v, which may be NULL, has this type. One condition, where jansson's macros are two. */
static inline bool qsae__json_is(const json_t *v, json_type type)
{
    return v && json_typeof(v) == type;
}

const char *qsae__json_type_name(const json_t *v);

/* As json_dumps, to be freed with free; NULL without memory, where jansson's may leave keys out, or
 * for what its flags do not let it write. */
char *qsae__json_dumps(const json_t *value, size_t flags);

/*
 * Appends the value as Python's json.dumps lays it out: over lines with that many spaces of indent
 * per level, or on one line if indent < 0. Numbers in the fewest digits; keys keep their order.
 */
int32_t qsae__json_write(qsae__strbuf *out, const json_t *value, int indent);
/* text: v as above, at least 32 bytes; v is finite. */
void qsae__json_number(double v, char *text, size_t size);

#endif
