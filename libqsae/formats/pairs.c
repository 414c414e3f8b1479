/* SPDX-License-Identifier: BSD-2-Clause */
/* Typed access to the pairs of a GGUF file. */
#include "formats/pairs.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/set.h"

static const char *const type_names[] = { "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool",
                                          "string", "array", "u64", "i64", "f64" };
static const uint8_t type_sizes[] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };

uint32_t qsae__pair_size(uint32_t type)
{
    return type_sizes[type];
}

int qsae__pair_order(const void *a, const void *b)
{
    return strcmp(((const qsae__pair *)a)->key, ((const qsae__pair *)b)->key);
}

size_t qsae__char_size(const void *text, uint64_t size)
{
    const uint8_t *const s = text;
    const uint8_t c = s[0];
    const int more = c < 0x80 ? 0 : c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;
    const uint8_t low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
    const uint8_t high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;

    if ((c >= 0x80 && c < 0xc2) || c > 0xf4 || size <= (uint64_t)more)
        return 0;
    for (int k = 1; k <= more; k++)
        if (s[k] < (k == 1 ? low : 0x80) || s[k] > (k == 1 ? high : 0xbf))
            return 0;
    return 1 + (size_t)more;
}

bool qsae__is_text(const void *text, uint64_t size)
{
    const uint8_t *const s = text;
    size_t n;

    for (uint64_t i = 0; i < size; i += n) {
        n = qsae__char_size(s + i, size - i);
        if (n == 0 || s[i] == 0)
            return false;
    }
    return true;
}

const qsae__gguf *qsae__tensors_gguf(const qsae__tensors *t)
{
    return t->gguf;
}

const char *qsae__gguf_path(const qsae__gguf *g)
{
    return g->path;
}

uint64_t qsae__gguf_size(const qsae__gguf *g)
{
    return g->size;
}

const char *qsae__gguf_key(const qsae__gguf *g, int64_t i)
{
    return i >= 0 && i < g->count ? g->pairs[i].key : NULL;
}

/* The pair, or NULL with *status. */
static const qsae__pair *find(const qsae__gguf *g, const char *key, bool required,
                               const char *expected, int32_t *present, int32_t *status)
{
    const qsae__pair wanted = { .key = key };
    const qsae__pair *pair = NULL;

    if (g->count > 0)
        pair = bsearch(&wanted, g->pairs, (size_t)g->count, sizeof wanted, qsae__pair_order);
    if (present != NULL)
        *present = pair != NULL;
    *status = QSAE_OK;
    if (pair == NULL && required)
        *status = qsae__fail(QSAE_EFORMAT, "%s: key \"%s\" (%s) is missing", g->path, key,
                             expected);
    return pair;
}

static int32_t wrong_type(const qsae__gguf *g, const qsae__pair *pair, const char *expected,
                          int32_t *present)
{
    if (present != NULL)
        *present = 0;
    return qsae__fail(QSAE_EFORMAT, "%s: %s: expected %s, found %s%s", g->path, pair->key, expected,
                      type_names[pair->type],
                      pair->type != QSAE__GGUF_ARRAY ? "" : pair->element == QSAE__GGUF_STRING
                      ? " of strings" : " of numbers");
}

/* An integer of any type; false if it lies beyond i64 or is none. */
static bool integer_at(const uint8_t *p, int32_t type, int64_t *out)
{
    const uint64_t wide = type == QSAE__GGUF_U64 || type == QSAE__GGUF_I64 ? qsae__read_u64(p) : 0;

    switch (type) {
    case QSAE__GGUF_U8:
        *out = p[0];
        return true;
    case QSAE__GGUF_I8:
        *out = (int8_t)p[0];
        return true;
    case QSAE__GGUF_U16:
        *out = p[0] | p[1] << 8;
        return true;
    case QSAE__GGUF_I16:
        *out = (int16_t)(p[0] | p[1] << 8);
        return true;
    case QSAE__GGUF_U32:
        *out = qsae__read_u32(p);
        return true;
    case QSAE__GGUF_I32:
        *out = (int32_t)qsae__read_u32(p);
        return true;
    case QSAE__GGUF_I64:
        *out = (int64_t)wide;
        return true;
    case QSAE__GGUF_U64:
        *out = (int64_t)wide;
        return wide <= INT64_MAX;
    default:
        return false;
    }
}

static double number_at(const uint8_t *p, int32_t type)
{
    int64_t i = 0;

    if (type == QSAE__GGUF_F32) {
        const uint32_t bits = qsae__read_u32(p);
        float v;
        memcpy(&v, &bits, sizeof v);
        return (double)v;
    }
    if (type == QSAE__GGUF_F64) {
        const uint64_t bits = qsae__read_u64(p);
        double v;
        memcpy(&v, &bits, sizeof v);
        return v;
    }
    if (type == QSAE__GGUF_U64)
        return (double)qsae__read_u64(p);
    if (type == QSAE__GGUF_BOOL)
        return p[0];
    (void)integer_at(p, type, &i);
    return (double)i;
}

static bool is_number(int32_t type)
{
    return type != QSAE__GGUF_BOOL && type != QSAE__GGUF_STRING && type != QSAE__GGUF_ARRAY;
}

int32_t qsae__gguf_i64(const qsae__gguf *g, const char *key, bool required, int64_t low,
                       int64_t high, int64_t *out, int32_t *present)
{
    int32_t status;
    const qsae__pair *const pair = find(g, key, required, "integer", present, &status);
    int64_t v = 0;
    bool fits;

    if (pair == NULL)
        return status;
    if (!is_number(pair->type) || pair->type == QSAE__GGUF_F32 || pair->type == QSAE__GGUF_F64)
        return wrong_type(g, pair, "an integer", present);
    fits = integer_at(pair->data, pair->type, &v);
    if (!fits || v < low || v > high) {
        if (present != NULL)
            *present = 0;
        return qsae__fail(QSAE_EFORMAT, "%s: %s: expected %" PRId64 " to %" PRId64 ", found %.20g",
                          g->path, key, low, high, number_at(pair->data, pair->type));
    }
    *out = v;
    return QSAE_OK;
}

int32_t qsae__gguf_f64(const qsae__gguf *g, const char *key, bool required, double *out,
                       int32_t *present)
{
    int32_t status;
    const qsae__pair *const pair = find(g, key, required, "number", present, &status);

    if (pair == NULL)
        return status;
    if (!is_number(pair->type))
        return wrong_type(g, pair, "a number", present);
    *out = number_at(pair->data, pair->type);
    return QSAE_OK;
}

int32_t qsae__gguf_bool(const qsae__gguf *g, const char *key, bool required, bool *out,
                        int32_t *present)
{
    int32_t status;
    const qsae__pair *const pair = find(g, key, required, "bool", present, &status);

    if (pair == NULL)
        return status;
    if (pair->type != QSAE__GGUF_BOOL)
        return wrong_type(g, pair, "a bool", present);
    *out = pair->data[0] != 0;
    return QSAE_OK;
}

int32_t qsae__gguf_str(const qsae__gguf *g, const char *key, bool required, const char **s,
                       uint64_t *n, int32_t *present)
{
    int32_t status;
    const qsae__pair *const pair = find(g, key, required, "string", present, &status);

    if (pair == NULL)
        return status;
    if (pair->type != QSAE__GGUF_STRING)
        return wrong_type(g, pair, "a string", present);
    if (!qsae__is_text(pair->data, pair->count)) {
        if (present != NULL)
            *present = 0;
        return qsae__fail(QSAE_EFORMAT, "%s: %s: not UTF-8", g->path, key);
    }
    *s = (const char *)pair->data;
    *n = pair->count;
    return QSAE_OK;
}

int32_t qsae__gguf_get_array(const qsae__gguf *g, const char *key, bool required, int32_t type,
                             qsae__gguf_array *out, int32_t *present)
{
    int32_t status;
    const qsae__pair *const pair = find(g, key, required, "array", present, &status);
    char expected[32] = "an array";

    if (pair == NULL)
        return status;
    if (type >= 0)
        snprintf(expected, sizeof expected, "an array of %s", type_names[type]);
    if (pair->type != QSAE__GGUF_ARRAY || (type >= 0 && pair->element != type))
        return wrong_type(g, pair, expected, present);
    *out = (qsae__gguf_array){ .data = pair->data,
                               .count = (int64_t)pair->count,
                               .type = pair->element };
    return QSAE_OK;
}

void qsae__gguf_next(const uint8_t **at, const char **s, uint64_t *n)
{
    *n = qsae__read_u64(*at);
    *s = (const char *)*at + 8;
    *at += 8 + *n;
}

double qsae__gguf_element(const qsae__gguf_array *a, int64_t i)
{
    return number_at(a->data + i * type_sizes[a->type], a->type);
}
