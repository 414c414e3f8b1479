/* SPDX-License-Identifier: BSD-2-Clause */
/* Ways to divide the tokens of a corpus (methods.md section 8): by a field of the documents'
 * metadata, by their length, by position, by class or frequency of the token. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "audit/slices.h"
#include "text/token_class.h"

/* Bounds of buckets: a value lies in the last one whose bound it reaches. */
struct buckets {
    int64_t n, bound[8];
    const char *name[8];
};

static const struct buckets positions = {
    4, { 0, 256, 1024, 4096 }, { "0-255", "256-1023", "1024-4095", "4096+" }
};
static const struct buckets frequencies = {
    5, { 0, 10, 100, 1000, 10000 }, { "<10", "10-99", "100-999", "1000-9999", ">=10000" }
};

static int32_t bucket(const struct buckets *b, int64_t v)
{
    int32_t i = 0;
    while (i + 1 < b->n && v >= b->bound[i + 1])
        i++;
    return i;
}

static int32_t add_value(qsae_audit *a, struct slice_dimension *d, const char *value, int32_t *out)
{
    for (*out = 0; *out < d->n_values; ++*out)
        if (strcmp(d->values[*out], value) == 0)
            return QSAE_OK;
    if (d->n_values == QSAE__SLICE_VALUES)
        return qsae__fail(QSAE_EINVAL, "slice %s: more than %d values in the documents", d->name,
                          QSAE__SLICE_VALUES);
    if (!(d->values[*out] = qsae__strdup(a->ctx, value)))
        return QSAE_ENOMEM;
    d->n_values++;
    return QSAE_OK;
}

static int32_t name_buckets(qsae_audit *a, struct slice_dimension *d, const struct buckets *b)
{
    int32_t st = QSAE_OK, at;
    for (int64_t i = 0; i < b->n && st == QSAE_OK; i++)
        st = add_value(a, d, b->name[i], &at);
    return st;
}

static int32_t open_of(qsae_audit *a, struct slice_dimension *d, enum qsae__slice_kind kind,
                       int64_t n)
{
    d->kind = kind;
    d->n_of = n;
    d->of = qsae__calloc(a->ctx, n, sizeof *d->of);
    return d->of ? QSAE_OK : QSAE_ENOMEM;
}

/* The member at a dotted path. */
static const json_t *member(const json_t *o, const char *path)
{
    char key[256];
    while (o && *path) {
        const size_t n = strcspn(path, ".");
        snprintf(key, sizeof key, "%.*s", (int)n, path);
        o = json_object_get(o, key);
        path += n + (path[n] == '.');
    }
    return o;
}

/* A value as text: strings, numbers and booleans; "(none)" for anything else. */
static void value_text(const json_t *v, char *text, size_t size)
{
    if (json_is_string(v))
        snprintf(text, size, "%s", json_string_value(v));
    else if (json_is_integer(v))
        snprintf(text, size, "%lld", (long long)json_integer_value(v));
    else if (json_is_real(v))
        snprintf(text, size, "%.17g", json_real_value(v));
    else if (json_is_boolean(v))
        snprintf(text, size, "%s", json_is_true(v) ? "true" : "false");
    else
        snprintf(text, size, "(none)");
}

static int32_t by_metadata(qsae_audit *a, struct slice_dimension *d, const char *path)
{
    int32_t st = open_of(a, d, QSAE__SLICE_DOCUMENT, a->corpus_info.documents);
    bool any = false;
    for (int64_t i = 0; i < d->n_of && st == QSAE_OK; i++) {
        qsae_document_info info = { .struct_size = sizeof info };
        char text[256];
        if ((st = qsae_corpus_document(a->corpus, i, &info)) != QSAE_OK)
            return st;
        json_error_t error;
        json_t *const o = json_loads(info.metadata, 0, &error);
        const json_t *const v = member(o, path);
        any |= v != NULL;
        value_text(v, text, sizeof text);
        json_decref(o);
        st = add_value(a, d, text, &d->of[i]);
    }
    return st == QSAE_OK && !any
               ? qsae__fail(QSAE_EINVAL,
                            "slice %s: no document has it in its metadata; expected position, "
                            "class, frequency, length or a key of the JSON lines", d->name)
               : st;
}

static int32_t by_length(qsae_audit *a, struct slice_dimension *d)
{
    int32_t st = open_of(a, d, QSAE__SLICE_DOCUMENT, a->corpus_info.documents);
    if (st == QSAE_OK)
        st = name_buckets(a, d, &positions);
    for (int64_t i = 0; i < d->n_of && st == QSAE_OK; i++) {
        qsae_document_info info = { .struct_size = sizeof info };
        st = qsae_corpus_document(a->corpus, i, &info);
        d->of[i] = bucket(&positions, info.n_tokens);
    }
    return st;
}

static int32_t open_vocabulary(qsae_audit *a, struct slice_dimension *d)
{
    qsae_tokenizer_info info = { .struct_size = offsetof(qsae_tokenizer_info, hash) };
    const int32_t st = qsae_tokenizer_get_info(a->tokenizer, &info);
    return st == QSAE_OK ? open_of(a, d, QSAE__SLICE_TOKEN, info.vocab) : st;
}

static int32_t by_class(qsae_audit *a, struct slice_dimension *d)
{
    int32_t st = open_vocabulary(a, d), at;
    for (int32_t c = 0; c < QSAE__CLASS_COUNT && st == QSAE_OK; c++)
        st = add_value(a, d, qsae__token_class_name(c), &at);
    for (int64_t i = 0; i < d->n_of && st == QSAE_OK; i++) {
        const char *bytes;
        size_t size;
        d->of[i] = QSAE__CLASS_OTHER;
        if (qsae_tokenizer_token(a->tokenizer, (int32_t)i, &bytes, &size) == QSAE_OK &&
            !qsae_tokenizer_is_special(a->tokenizer, (int32_t)i))
            d->of[i] = qsae__token_class(bytes, size);
    }
    return st;
}

/* By how often the token stands in the chunks. */
static int32_t by_frequency(qsae_audit *a, struct slice_dimension *d)
{
    int32_t st = open_vocabulary(a, d);
    if (st == QSAE_OK)
        st = name_buckets(a, d, &frequencies);
    int64_t *const count = qsae__calloc(a->ctx, d->n_of, sizeof *count);
    if (!count)
        st = QSAE_ENOMEM;
    for (int64_t c = 0; c < a->corpus_info.chunks && st == QSAE_OK; c++) {
        const int32_t *ids, *labels;
        const int64_t *document;
        int64_t n;
        st = qsae_corpus_chunk(a->corpus, c, &ids, &labels, &document, &n);
        for (int64_t i = 0; i < n && st == QSAE_OK; i++)
            if (ids[i] >= 0 && ids[i] < d->n_of)
                count[ids[i]]++;
    }
    for (int64_t i = 0; i < d->n_of && st == QSAE_OK; i++)
        d->of[i] = bucket(&frequencies, count[i]);
    qsae__free(a->ctx, count);
    return st;
}

static int32_t open_dimension(qsae_audit *a, struct slice_dimension *d, const char *name)
{
    if (!name || !*name)
        return qsae__fail(QSAE_EINVAL, "slice: expected a name");
    if (!(d->name = qsae__strdup(a->ctx, name)))
        return QSAE_ENOMEM;
    if (strcmp(name, "position") == 0) {
        d->kind = QSAE__SLICE_POSITION;
        return name_buckets(a, d, &positions);
    }
    return strcmp(name, "class") == 0       ? by_class(a, d)
           : strcmp(name, "frequency") == 0 ? by_frequency(a, d)
           : strcmp(name, "length") == 0    ? by_length(a, d)
                                            : by_metadata(a, d, name + (*name == '.'));
}

int32_t qsae__slices_open(qsae_audit *a, const char *const *names, int64_t n)
{
    struct audit_slices *s;
    int64_t rows;
    if (n == 0)
        return QSAE_OK;
    if (!(s = a->slices = qsae__calloc(a->ctx, 1, sizeof *s)))
        return QSAE_ENOMEM;
    if (!(s->dimensions = qsae__calloc(a->ctx, n, sizeof *s->dimensions)))
        return QSAE_ENOMEM;
    for (; s->n_dimensions < n; s->n_dimensions++) {
        struct slice_dimension *const d = &s->dimensions[s->n_dimensions];
        const int32_t st = open_dimension(a, d, names[s->n_dimensions]);
        if (st != QSAE_OK) {
            s->n_dimensions++;
            return st;
        }
        d->first = s->n;
        s->n += d->n_values;
    }
    if (!qsae__mul_i64(a->batch, a->corpus_info.context, &rows) ||
        !(s->mask = qsae__alloc_array(a->ctx, rows, 1)))
        return QSAE_ENOMEM;
    return QSAE_OK;
}

void qsae__slices_close(qsae_audit *a)
{
    struct audit_slices *const s = a->slices;
    if (!s)
        return;
    for (int64_t i = 0; i < s->n_dimensions; i++) {
        struct slice_dimension *const d = &s->dimensions[i];
        for (int32_t v = 0; v < d->n_values; v++)
            qsae__free(a->ctx, d->values[v]);
        qsae__free(a->ctx, d->name);
        qsae__free(a->ctx, d->of);
    }
    qsae__free(a->ctx, s->dimensions);
    qsae__free(a->ctx, s->mask);
    qsae__free(a->ctx, s);
    a->slices = NULL;
}

int32_t qsae__slice_value(const struct slice_dimension *d, const struct audit_batch *b, int64_t r,
                          bool label)
{
    if (d->kind == QSAE__SLICE_POSITION)
        return bucket(&positions, b->position[r]);
    const int64_t i = d->kind == QSAE__SLICE_DOCUMENT ? b->document[r]
                      : label                         ? b->labels[r]
                                                      : b->ids[r];
    return i >= 0 && i < d->n_of ? d->of[i] : -1;
}
