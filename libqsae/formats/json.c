/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "formats/json.h"
#include "formats/walk.h"

/* What a document's values may take: with its own bytes, where they are read into memory, and what
 * is made of the values, no more than 8 bytes per byte and 1 MiB. */
#define TREE_PER_BYTE 7
#define TREE_FREE ((uint64_t)3 << 18)

/*
 * jansson gathers the bytes of a token in a buffer whose growth it does not check: without memory
 * bytes are lost, and a string that lost its closing quote is read beyond its end (2.14,
 * src/load.c, lex_save). So a number longer than any token of the text comes first, [0.000...0,
 * text]: after it the buffer does not grow. It may lose zeros, but not its end: the buffer doubles
 * from 16 bytes on, and before each time and at the end the memory for that is seen to be there, or
 * nothing follows.
 */
struct feed {
    const char *text;
    size_t size, at;         /* of the text */
    const qsae__cut *cuts;   /* [n_cuts], each of which is read as null and its line breaks */
    size_t n_cuts, lines;    /* lines: of the last cut, to be put */
    size_t digits, put;      /* of the number, "0." included */
    enum { FEED_NUMBER, FEED_TEXT, FEED_END } part;
    bool refused;
};

static size_t feed_number(struct feed *f, char *to, size_t most)
{
    size_t room = 16, n = 0;
    while (room - 1 <= f->put)
        room *= 2;
    if (f->put == 0) {
        memcpy(to, "[0.", 3);
        f->put = 2;
        n = 3;
    } else if (f->put == room / 2 - 1 || f->put == f->digits) {
        void *volatile trial = malloc(room); /* else compilers leave out the pair of calls */
        f->refused = !trial;
        free(trial);
        if (f->refused) {
            f->part = FEED_END;
            return 0;
        }
    }
    if (f->put == f->digits) {
        to[n++] = ',';
        f->part = FEED_TEXT;
    }
    for (; n < most && f->put < room - 1 && f->put < f->digits; f->put++)
        to[n++] = '0';
    return n;
}

/* The cut that begins here or next, or NULL. */
static const qsae__cut *next_cut(const struct feed *f)
{
    const qsae__cut *next = NULL;
    for (size_t i = 0; i < f->n_cuts; i++) {
        const qsae__cut *const c = &f->cuts[i];
        if (c->text && (size_t)(c->text - f->text) >= f->at && (!next || c->text < next->text))
            next = c;
    }
    return next;
}

static size_t lines_in(const char *text, size_t size)
{
    size_t n = 0;
    for (const char *p = text; (p = memchr(p, '\n', size - (size_t)(p - text))) != NULL; p++)
        n++;
    return n;
}

static size_t feed_text(struct feed *f, char *to, size_t most)
{
    static const char null[] = "null";
    size_t n = 0;
    while (f->at < f->size) { /* a cut ends before the text does */
        const qsae__cut *const cut = next_cut(f);
        const size_t stop = cut ? (size_t)(cut->text - f->text) : f->size;
        if (f->lines > 0 && n < most) {
            to[n++] = '\n';
            f->lines--;
        } else if (f->lines == 0 && f->at < stop && n < most) {
            const size_t part = stop - f->at < most - n ? stop - f->at : most - n;
            memcpy(to + n, f->text + f->at, part);
            f->at += part;
            n += part;
        } else if (f->lines == 0 && f->at == stop && most - n >= sizeof null - 1) {
            memcpy(to + n, null, sizeof null - 1);
            n += sizeof null - 1;
            f->lines = lines_in(cut->text, cut->size);
            f->at += cut->size;
        } else {
            break;
        }
    }
    return n;
}

static size_t feed_next(void *buffer, size_t most, void *data)
{
    struct feed *const f = data;
    char *const to = buffer;
    if (f->part == FEED_NUMBER)
        return feed_number(f, to, most);
    if (f->part == FEED_END)
        return 0;
    const size_t n = feed_text(f, to, most - 1);
    if (f->at < f->size)
        return n;
    to[n] = ']';
    f->part = FEED_END;
    return n + 1;
}

/* Digits of the number that makes room for tokens of `longest` bytes. */
static size_t feed_digits(size_t longest)
{
    size_t digits = 16;
    while (digits < longest + 16)
        digits *= 2;
    return digits;
}

/* False: there is no memory. *out: NULL if there is a number beyond 64 bits or a key twice in the
 * text, which is well-formed. */
static bool load_guarded(struct feed f, size_t longest, size_t flags, json_error_t *error,
                         json_t **out)
{
    f.digits = feed_digits(longest) + 8; /* some behind the last doubling */
    errno = 0; /* jansson has no code for a lack of memory while it reads (2.14, src/load.c) */
    json_t *const pair = json_load_callback(feed_next, &f, flags, error);
    const bool memory = pair || (!f.refused && errno != ENOMEM);
    *out = json_incref(json_array_get(pair, 1));
    json_decref(pair);
    return memory;
}

static int32_t refuse_at(const char *text, const char *at, const char *name, const char *what)
{
    return qsae__fail(QSAE_EFORMAT, "%s:%zu: %s", name,
                      1 + lines_in(text, (size_t)(at - text)), what);
}

/* The walk before anything is built: what it found is in *w. */
static int32_t walk(const char *text, size_t size, const char *name, unsigned flags,
                    qsae__cut *cuts, size_t n_cuts, qsae__walk *w)
{
    uint64_t most, need;

    if (!qsae__mul_u64(size, TREE_PER_BYTE, &most) || !qsae__add_u64(most, TREE_FREE, &most))
        return qsae__fail(QSAE_EOVERFLOW, "%s: too large", name);
    if (flags & QSAE__JSON_DATA)
        most = UINT64_MAX;
    qsae__json_walk(text, size, flags, most, cuts, n_cuts, w);
    /* The token buffer of twice the digits, and the token itself. */
    need = w->tree + 2 * (uint64_t)feed_digits(w->longest) + w->longest;
    if (w->too_deep)
        return qsae__fail(QSAE_EFORMAT, "%s: JSON nested deeper than %d levels", name,
                          QSAE__JSON_DEPTH);
    if (w->too_much || need > most)
        return qsae__fail(QSAE_EFORMAT, "%s:%zu: expected values that fit into %d bytes per byte "
                          "and %llu, found more", name, 1 + lines_in(text, (size_t)(w->at - text)),
                          TREE_PER_BYTE, (unsigned long long)TREE_FREE);
    return w->wrong ? refuse_at(text, w->at, name, w->wrong) : QSAE_OK;
}

int32_t qsae__json_check(const char *text, size_t size, const char *name)
{
    qsae__walk w;

    qsae__json_walk(text, size, 0, UINT64_MAX, NULL, 0, &w);
    if (w.too_deep)
        return qsae__fail(QSAE_EFORMAT, "%s: JSON nested deeper than %d levels", name,
                          QSAE__JSON_DEPTH);
    return w.wrong ? refuse_at(text, w.at, name, w.wrong) : QSAE_OK;
}

int32_t qsae__json_parse_cut(const char *text, size_t size, const char *name, unsigned flags,
                             qsae__cut *cuts, size_t n_cuts, json_t **out)
{
    json_error_t error;
    size_t decode = JSON_REJECT_DUPLICATES | JSON_DECODE_ANY;
    qsae__walk w;

    *out = NULL;
    const int32_t status = walk(text, size, name, flags, cuts, n_cuts, &w);
    if (status != QSAE_OK)
        return status;
    if (flags & QSAE__JSON_NUL)
        decode |= JSON_ALLOW_NUL;
    if (flags & QSAE__JSON_REALS)
        decode |= JSON_DECODE_INT_AS_REAL;
    const int before = errno;
    struct feed f = { .text = text, .size = size, .cuts = cuts, .n_cuts = n_cuts };
    const bool memory = load_guarded(f, w.longest, decode, &error, out);
    errno = before;
    if (!memory)
        return qsae__fail(QSAE_ENOMEM, "%s: out of memory while reading JSON", name);
    return *out ? QSAE_OK : qsae__fail(QSAE_EFORMAT, "%s:%d: %s", name, error.line, error.text);
}

int32_t qsae__json_parse_with(const char *text, size_t size, const char *name, unsigned flags,
                              json_t **out)
{
    return qsae__json_parse_cut(text, size, name, flags, NULL, 0, out);
}

int32_t qsae__json_parse(const char *text, size_t size, const char *name, json_t **out)
{
    return qsae__json_parse_with(text, size, name, 0, out);
}

int32_t qsae__json_load(qsae_context *ctx, const char *path, json_t **out)
{
    return qsae__json_load_with(ctx, path, 0, out);
}

int32_t qsae__json_load_with(qsae_context *ctx, const char *path, unsigned flags, json_t **out)
{
    qsae__file *file = NULL;
    int32_t status;

    *out = NULL;
    status = qsae__file_open(ctx, path, &file);
    if (status != QSAE_OK)
        return status;
    if (file->size > SIZE_MAX)
        status = qsae__fail(QSAE_EOVERFLOW, "%s: file too large", path);
    else
        status = qsae__json_parse_with((const char *)file->data, (size_t)file->size, path, flags,
                                       out);
    qsae__file_close(&file);
    return status;
}

const char *qsae__json_type_name(const json_t *v)
{
    if (v == NULL)
        return "nothing";
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        return "object";
    case JSON_ARRAY:
        return "array";
    case JSON_STRING:
        return "string";
    case JSON_INTEGER:
        return "integer";
    case JSON_REAL:
        return "real";
    case JSON_TRUE:
    case JSON_FALSE:
        return "boolean";
    default:
        return "null";
    }
}

/* The non-null member, or NULL; *status is an error if that is not allowed. */
static const json_t *member(const json_t *object, const char *where, const char *key, bool required,
                            const char *expected, int32_t *present, int32_t *status)
{
    const json_t *v;

    *status = QSAE_OK;
    if (present != NULL)
        *present = 0;
    if (!json_is_object(object)) {
        *status = qsae__fail(QSAE_EFORMAT, "%s: expected object with key \"%s\", found %s", where,
                             key, qsae__json_type_name(object));
        return NULL;
    }
    v = json_object_get(object, key);
    if (v != NULL && !json_is_null(v)) {
        if (present != NULL)
            *present = 1;
        return v;
    }
    if (required)
        *status = qsae__fail(QSAE_EFORMAT, "%s: key \"%s\": expected %s, found %s", where, key,
                             expected, qsae__json_type_name(v));
    return NULL;
}

static int32_t wrong_type(const char *where, const char *key, const char *expected, const json_t *v,
                          int32_t *present)
{
    if (present != NULL)
        *present = 0;
    return qsae__fail(QSAE_EFORMAT, "%s: key \"%s\": expected %s, found %s", where, key, expected,
                      qsae__json_type_name(v));
}

int32_t qsae__json_i64(const json_t *object, const char *where, const char *key, bool required,
                       int64_t low, int64_t high, int64_t *out, int32_t *present)
{
    int32_t status;
    const json_t *v = member(object, where, key, required, "integer", present, &status);

    if (v == NULL)
        return status;
    if (!json_is_integer(v))
        return wrong_type(where, key, "integer", v, present);
    if (json_integer_value(v) < low || json_integer_value(v) > high) {
        if (present != NULL)
            *present = 0;
        return qsae__fail(QSAE_EFORMAT, "%s: key \"%s\": expected integer %lld to %lld, found %lld",
                          where, key, (long long)low, (long long)high,
                          (long long)json_integer_value(v));
    }
    *out = json_integer_value(v);
    return QSAE_OK;
}

int32_t qsae__json_f64(const json_t *object, const char *where, const char *key, bool required,
                       double *out, int32_t *present)
{
    int32_t status;
    const json_t *v = member(object, where, key, required, "number", present, &status);

    if (v == NULL)
        return status;
    if (!json_is_number(v))
        return wrong_type(where, key, "number", v, present);
    *out = json_number_value(v);
    return QSAE_OK;
}

int32_t qsae__json_bool(const json_t *object, const char *where, const char *key, bool required,
                        bool *out, int32_t *present)
{
    int32_t status;
    const json_t *v = member(object, where, key, required, "boolean", present, &status);

    if (v == NULL)
        return status;
    if (!json_is_boolean(v))
        return wrong_type(where, key, "boolean", v, present);
    *out = json_is_true(v);
    return QSAE_OK;
}

int32_t qsae__json_str(const json_t *object, const char *where, const char *key, bool required,
                       const char **out, int32_t *present)
{
    int32_t status;
    const json_t *v = member(object, where, key, required, "string", present, &status);

    if (v == NULL)
        return status;
    if (!json_is_string(v))
        return wrong_type(where, key, "string", v, present);
    *out = json_string_value(v);
    return QSAE_OK;
}

int32_t qsae__json_get(const json_t *object, const char *where, const char *key, bool required,
                       json_type type, const json_t **out)
{
    const char *expected = type == JSON_OBJECT ? "object" : "array";
    int32_t status;
    const json_t *v = member(object, where, key, required, expected, NULL, &status);

    *out = NULL;
    if (v == NULL)
        return status;
    if (json_typeof(v) != type)
        return wrong_type(where, key, expected, v, NULL);
    *out = v;
    return QSAE_OK;
}

char *qsae__json_dumps(const json_t *value, size_t flags)
{
    const size_t size = json_dumpb(value, NULL, 0, flags);
    char *const text = size > 0 ? malloc(size + 1) : NULL;

    if (text != NULL && json_dumpb(value, text, size, flags) == size) {
        text[size] = '\0';
        return text;
    }
    free(text);
    return NULL;
}
