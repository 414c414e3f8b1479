/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * GGUF files, versions 2 and 3 (ggml's docs/gguf.md): tensors by their own names and shapes in row-
 * major order ([out, in]: the file's dims reversed), and the key/value pairs of the header.
 */
#ifndef QSAE_FORMATS_GGUF_H
#define QSAE_FORMATS_GGUF_H

#include "formats/tensors.h"

/* Value types, as the file numbers them. */
enum {
    QSAE__GGUF_U8, QSAE__GGUF_I8, QSAE__GGUF_U16, QSAE__GGUF_I16, QSAE__GGUF_U32, QSAE__GGUF_I32,
    QSAE__GGUF_F32, QSAE__GGUF_BOOL, QSAE__GGUF_STRING, QSAE__GGUF_ARRAY, QSAE__GGUF_U64,
    QSAE__GGUF_I64, QSAE__GGUF_F64
};

/* The header's pairs; belongs to the set. */
typedef struct qsae__gguf qsae__gguf;

/* NULL if the set is not of one GGUF file. */
const qsae__gguf *qsae__tensors_gguf(const qsae__tensors *t);

/* Path of the file, for messages. */
const char *qsae__gguf_path(const qsae__gguf *g);
uint64_t qsae__gguf_size(const qsae__gguf *g);

/*
 * Typed access. A missing key leaves *out untouched and is QSAE_OK unless required, then
 * QSAE_EFORMAT naming file and key; a value of another type is QSAE_EFORMAT, expected and found.
 * Integers of any width and sign are taken if they lie in [low, high]; numbers for f64 are floats
 * of either width or integers. present (may be NULL) receives 1 if a value was read.
 */
int32_t qsae__gguf_i64(const qsae__gguf *g, const char *key, bool required, int64_t low,
                       int64_t high, int64_t *out, int32_t *present);
int32_t qsae__gguf_f64(const qsae__gguf *g, const char *key, bool required, double *out,
                       int32_t *present);
int32_t qsae__gguf_bool(const qsae__gguf *g, const char *key, bool required, bool *out,
                        int32_t *present);
/* *s points to *n bytes (valid UTF-8, no NUL at the end) in the file. */
int32_t qsae__gguf_str(const qsae__gguf *g, const char *key, bool required, const char **s,
                       uint64_t *n, int32_t *present);

/* An array. Strings are read in order with qsae__gguf_next; the elements of the others lie side by
 * side at data, little-endian, of any alignment. Checked when the file was opened. */
typedef struct qsae__gguf_array {
    const uint8_t *data;
    int64_t count;
    int32_t type;            /* of the elements */
} qsae__gguf_array;

/* type: of the elements, -1 = any. */
int32_t qsae__gguf_get_array(const qsae__gguf *g, const char *key, bool required, int32_t type,
                             qsae__gguf_array *out, int32_t *present);
/* The string at *at (start with a->data), moving *at behind it: *n bytes that lie in the file;
 * whether they are UTF-8 was not looked at. */
void qsae__gguf_next(const uint8_t **at, const char **s, uint64_t *n);
/* Element i of a numeric array. */
double qsae__gguf_element(const qsae__gguf_array *a, int64_t i);

/* Pairs, for listing, by key: key i, or NULL beyond the last. */
const char *qsae__gguf_key(const qsae__gguf *g, int64_t i);

#endif
