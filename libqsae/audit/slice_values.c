/* SPDX-License-Identifier: BSD-2-Clause */
/* Ways to divide the tokens of a corpus (methods.md section 8): by a field of the documents'
 * metadata, by their length, by position, by class, script or frequency of the token, by the
 * entropy of the prediction, and products of these. */
#include <math.h>
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

static int32_t bucket(const struct buckets *b, int64_t v)
{
    int32_t i = 0;
    while (i + 1 < b->n && v >= b->bound[i + 1])
        i++;
    return i;
}

int32_t qsae__slices_add_value(qsae_audit *a, struct slice_dimension *d, const char *value,
                               int32_t *out)
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
        st = qsae__slices_add_value(a, d, b->name[i], &at);
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

/* The member at a dotted path, or NULL. */
static const json_t *member(const json_t *o, const char *path)
{
    char key[256];
    if (!*path)
        return NULL;
    while (o && *path) {
        const size_t n = strcspn(path, ".");
        if (n >= sizeof key)
            return NULL;
        snprintf(key, sizeof key, "%.*s", (int)n, path);
        o = json_object_get(o, key);
        path += n + (path[n] == '.');
    }
    return o;
}

/* As much of a string as fits, in whole characters. */
static void cut_text(const char *value, char *text, size_t size)
{
    size_t n = strlen(value);
    if (n >= size)
        for (n = size - 1; n > 0 && ((unsigned char)value[n] & 0xc0) == 0x80;)
            n--;
    snprintf(text, size, "%.*s", (int)n, value);
}

/* A value as text: strings, numbers and booleans; "(none)" for anything else. */
static void value_text(const json_t *v, char *text, size_t size)
{
    if (json_is_string(v))
        cut_text(json_string_value(v), text, size);
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
        json_t *o;
        if ((st = qsae__json_parse_with(info.metadata, strlen(info.metadata), "metadata",
                                        QSAE__JSON_NUL | QSAE__JSON_DATA, &o)) != QSAE_OK)
            return st;
        const json_t *const v = member(o, path);
        any |= v != NULL;
        value_text(v, text, sizeof text);
        json_decref(o);
        st = qsae__slices_add_value(a, d, text, &d->of[i]);
    }
    return st == QSAE_OK && !any
               ? qsae__fail(QSAE_EINVAL,
                            "slice %s: no document has it in its metadata; expected position, "
                            "class, script, frequency, length, entropy or a key of the JSON "
                            "lines", d->name)
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

int32_t qsae__slices_vocabulary(qsae_audit *a, struct slice_dimension *d)
{
    qsae_tokenizer_info info = { .struct_size = offsetof(qsae_tokenizer_info, hash) };
    const int32_t st = qsae_tokenizer_get_info(a->tokenizer, &info);
    return st == QSAE_OK ? open_of(a, d, QSAE__SLICE_TOKEN, info.vocab) : st;
}

static int32_t by_class(qsae_audit *a, struct slice_dimension *d)
{
    int32_t st = qsae__slices_vocabulary(a, d), at;
    for (int32_t c = 0; c < QSAE__CLASS_COUNT && st == QSAE_OK; c++)
        st = qsae__slices_add_value(a, d, qsae__token_class_name(c), &at);
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

/* Values are the quintiles; where they lie is known at the end. */
static int32_t by_entropy(qsae_audit *a, struct slice_dimension *d)
{
    static const char *const names[QSAE__QUINTILES] = { "q1", "q2", "q3", "q4", "q5" };
    int32_t st = QSAE_OK, at;
    d->kind = QSAE__SLICE_ENTROPY;
    d->late = true;
    for (int i = 0; i < QSAE__QUINTILES && st == QSAE_OK; i++)
        st = qsae__slices_add_value(a, d, names[i], &at);
    for (int i = 0; i < QSAE__QUINTILES - 1; i++)
        d->edges[i] = NAN;
    return st;
}

/* Borders as they are given: A,B,C, in nats. */
static int32_t by_edges(qsae_audit *a, struct slice_dimension *d, const char *text)
{
    int32_t st = QSAE_OK, at, n = 0;
    char name[80], last[32] = "", here[32];
    d->kind = QSAE__SLICE_ENTROPY;
    for (const char *from = text; from && st == QSAE_OK;) {
        char *end;
        const double v = strtod(from, &end);
        const bool digit = (*from >= '0' && *from <= '9') || *from == '.';
        snprintf(here, sizeof here, "%.6g", v);
        if (!digit || (*end && *end != ',') || !isfinite(v) || v <= 0 || n == QSAE__SLICE_EDGES ||
            (n > 0 && (v <= d->edges[n - 1] || strcmp(last, here) == 0)))
            return qsae__fail(QSAE_EINVAL, "slice %s: expected up to %d ascending borders in nats "
                              "that differ in six digits, as in entropy=0.1,1,3", d->name,
                              QSAE__SLICE_EDGES);
        snprintf(name, sizeof name, "%s%s%s", n ? last : "<", n ? "-" : "", here);
        memcpy(last, here, sizeof last);
        d->edges[n++] = v;
        st = qsae__slices_add_value(a, d, name, &at);
        from = *end ? end + 1 : NULL;
    }
    snprintf(name, sizeof name, ">=%s", last);
    return st == QSAE_OK ? qsae__slices_add_value(a, d, name, &at) : st;
}

static int32_t open_factor(qsae_audit *a, struct slice_dimension *d, const char *name)
{
    if (!*name)
        return qsae__fail(QSAE_EINVAL, "slice: expected a name");
    if (!(d->name = qsae__strdup(a->ctx, name)))
        return QSAE_ENOMEM;
    if (strcmp(name, "position") == 0) {
        d->kind = QSAE__SLICE_POSITION;
        return name_buckets(a, d, &positions);
    }
    if (strncmp(name, "entropy=", 8) == 0)
        return by_edges(a, d, name + 8);
    if (strncmp(name, "frequency=", 10) == 0)
        return qsae__slices_by_frequency(a, d, name + 10);
    return strcmp(name, "class") == 0       ? by_class(a, d)
           : strcmp(name, "script") == 0    ? qsae__slices_by_script(a, d)
           : strcmp(name, "frequency") == 0 ? qsae__slices_by_frequency(a, d, NULL)
           : strcmp(name, "length") == 0    ? by_length(a, d)
           : strcmp(name, "entropy") == 0   ? by_entropy(a, d)
                                            : by_metadata(a, d, name + (*name == '.'));
}

/* Names of a product: those of its factors with a * between. */
static int32_t name_products(qsae_audit *a, struct slice_dimension *d)
{
    int32_t n = 1;
    for (int32_t f = 0; f < d->n_factors; f++) {
        d->late |= d->factors[f].late;
        n *= (int32_t)qsae__max_i64(d->factors[f].n_values, 1);
        if (n > QSAE__SLICE_PAIRS)
            return qsae__fail(QSAE_EINVAL, "slice %s: more than %d combinations", d->name,
                              QSAE__SLICE_PAIRS);
    }
    for (int32_t v = 0; v < n; v++) {
        char text[3 * 256 + 8] = "";
        for (int32_t f = 0, left = v, below = n; f < d->n_factors; f++) {
            const struct slice_dimension *const of = &d->factors[f];
            below /= of->n_values;
            const size_t at = strlen(text);
            snprintf(text + at, sizeof text - at, "%s%s", f ? "*" : "", of->values[left / below]);
            left %= below;
        }
        if (!(d->values[d->n_values] = qsae__strdup(a->ctx, text)))
            return QSAE_ENOMEM;
        d->n_values++;
    }
    return QSAE_OK;
}

static int32_t open_product(qsae_audit *a, struct slice_dimension *d, const char *name)
{
    int32_t st = QSAE_OK;
    d->kind = QSAE__SLICE_PRODUCT;
    d->factors = qsae__calloc(a->ctx, QSAE__SLICE_FACTORS, sizeof *d->factors);
    if (!d->factors || !(d->name = qsae__strdup(a->ctx, name)))
        return QSAE_ENOMEM;
    for (const char *at = name; at && st == QSAE_OK;) {
        const char *const star = strchr(at, '*');
        char *const part = qsae__strndup(a->ctx, at, star ? (size_t)(star - at) : strlen(at));
        if (d->n_factors == QSAE__SLICE_FACTORS)
            st = qsae__fail(QSAE_EINVAL, "slice %s: more than %d factors", name,
                            QSAE__SLICE_FACTORS);
        else
            st = part ? open_factor(a, &d->factors[d->n_factors++], part) : QSAE_ENOMEM;
        qsae__free(a->ctx, part);
        at = star ? star + 1 : NULL;
    }
    return st == QSAE_OK ? name_products(a, d) : st;
}

static int32_t open_dimension(qsae_audit *a, struct slice_dimension *d, const char *name)
{
    if (!name || !*name)
        return qsae__fail(QSAE_EINVAL, "slice: expected a name");
    return strchr(name, '*') ? open_product(a, d, name) : open_factor(a, d, name);
}

static void close_dimension(qsae_audit *a, struct slice_dimension *d)
{
    for (int32_t f = 0; f < d->n_factors; f++)
        close_dimension(a, &d->factors[f]);
    for (int32_t v = 0; v < d->n_values; v++)
        qsae__free(a->ctx, d->values[v]);
    qsae__free(a->ctx, d->factors);
    qsae__free(a->ctx, d->name);
    qsae__free(a->ctx, d->of);
    qsae__free(a->ctx, d->counts);
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
        d->saes = d->n_values <= QSAE__SLICE_VALUES;
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
    qsae__slices_late_close(a);
    for (int64_t i = 0; i < s->n_dimensions; i++)
        close_dimension(a, &s->dimensions[i]);
    qsae__free(a->ctx, s->dimensions);
    qsae__free(a->ctx, s->mask);
    qsae__free(a->ctx, s);
    a->slices = NULL;
}

/* How many edges lie at or below it. */
static int32_t between_edges(const struct slice_dimension *d, float entropy)
{
    int32_t i = 0;
    if (isnan(entropy) || isnan(d->edges[0]))
        return -1;
    while (i < d->n_values - 1 && (double)entropy >= d->edges[i])
        i++;
    return i;
}

int32_t qsae__slice_value(const struct slice_dimension *d, const struct audit_batch *b, int64_t r,
                          bool label)
{
    if (d->kind == QSAE__SLICE_POSITION)
        return bucket(&positions, b->position[r]);
    if (d->kind == QSAE__SLICE_ENTROPY) /* what is not scored is in no part */
        return b->entropy && b->labels[r] >= 0 ? between_edges(d, b->entropy[r]) : -1;
    if (d->kind == QSAE__SLICE_PRODUCT) {
        int32_t value = 0;
        for (int32_t f = 0; f < d->n_factors && value >= 0; f++) {
            const int32_t v = qsae__slice_value(&d->factors[f], b, r, label);
            value = v < 0 ? -1 : value * d->factors[f].n_values + v;
        }
        return value;
    }
    const int64_t i = d->kind == QSAE__SLICE_DOCUMENT ? b->document[r]
                      : label                         ? b->labels[r]
                                                      : b->ids[r];
    return i >= 0 && i < d->n_of ? d->of[i] : -1;
}
