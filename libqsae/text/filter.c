/* SPDX-License-Identifier: BSD-2-Clause */
/* Which documents are read, by what their metadata says. */
#include <stdlib.h>
#include <string.h>

#include "text/corpus.h"
#include "text/utf8.h"

struct clause {
    char *key;         /* own memory; the value lies behind it */
    const char *value;
    bool not;
    bool whole, real;  /* the value is an integer, a number */
    int64_t integer;
    double number;
};

struct qsae__filter {
    struct clause *clauses; /* [n] */
    int64_t n;
};

/* Member with the first n bytes of name as its key (json_object_getn is newer than we need). */
static json_t *member(json_t *object, const char *name, size_t n)
{
    const char *key;
    json_t *v;

    json_object_foreach(object, key, v)
        if (strncmp(key, name, n) == 0 && key[n] == '\0')
            return v;
    return NULL;
}

json_t *qsae__field_find(json_t *object, const char *key, json_t **holder, const char **name)
{
    json_t *v = json_object_get(object, key);

    *holder = object;
    *name = key;
    for (const char *dot; v == NULL && (dot = strchr(*name, '.')) != NULL;) {
        *holder = member(*holder, *name, (size_t)(dot - *name));
        *name = dot + 1;
        if (!json_is_object(*holder))
            return NULL;
        if (strchr(*name, '.') == NULL)
            v = json_object_get(*holder, *name);
    }
    return v;
}

static int32_t parse_clause(qsae_context *ctx, const char *text, struct clause *c)
{
    char *equals, *end;
    size_t bad;

    if (text == NULL || (equals = strchr(text, '=')) == NULL || equals == text ||
        (equals == text + 1 && *text == '!'))
        return qsae__fail(QSAE_EINVAL, "corpus: where: expected KEY=VALUE or KEY!=VALUE, found "
                          "\"%s\"", text == NULL ? "" : text);
    if (!qsae__utf8_check(text, strlen(text), &bad))
        return qsae__fail(QSAE_EINVAL, "corpus: where: not UTF-8 at offset %zu", bad);
    c->key = qsae__strdup(ctx, text);
    if (c->key == NULL)
        return QSAE_ENOMEM;
    equals = c->key + (equals - text);
    c->value = equals + 1;
    c->not = equals[-1] == '!';
    equals[c->not ? -1 : 0] = '\0';
    if (*c->value == '\0' || strchr("-0123456789", *c->value) == NULL)
        return QSAE_OK;
    c->number = strtod(c->value, &end);
    c->real = *end == '\0';
    c->whole = c->real && strspn(c->value, "-0123456789") == strlen(c->value);
    c->integer = c->whole ? strtoll(c->value, NULL, 10) : 0;
    return QSAE_OK;
}

int32_t qsae__where_check(const char *what, const char *const *where, int64_t n)
{
    if (n < 0 || n > 4096 || (n > 0 && where == NULL))
        return qsae__fail(QSAE_EINVAL, "%s: where: expected 0..4096 strings, found %lld%s", what,
                          (long long)n, where == NULL ? ", and their array is NULL" : "");
    return QSAE_OK;
}

int32_t qsae__filter_open(qsae_context *ctx, const qsae_corpus_settings *s, qsae__filter **out)
{
    qsae__filter *f;
    int32_t status = QSAE_OK;

    *out = NULL;
    if (s->n_where == 0)
        return QSAE_OK;
    f = qsae__calloc(ctx, 1, sizeof *f);
    if (f == NULL)
        return QSAE_ENOMEM;
    f->clauses = qsae__calloc(ctx, s->n_where, sizeof *f->clauses);
    if (f->clauses == NULL)
        status = QSAE_ENOMEM;
    for (; status == QSAE_OK && f->n < s->n_where; f->n++)
        status = parse_clause(ctx, s->where[f->n], &f->clauses[f->n]);
    if (status != QSAE_OK)
        qsae__filter_close(ctx, &f);
    *out = f;
    return status;
}

void qsae__filter_close(qsae_context *ctx, qsae__filter **f)
{
    if (*f == NULL)
        return;
    for (int64_t i = 0; i < (*f)->n; i++)
        qsae__free(ctx, (*f)->clauses[i].key);
    qsae__free(ctx, (*f)->clauses);
    qsae__free(ctx, *f);
    *f = NULL;
}

static bool is_value(const json_t *v, const struct clause *c)
{
    size_t i;
    const json_t *entry;

    switch (json_typeof(v)) {
    case JSON_STRING:
        return strlen(c->value) == json_string_length(v) &&
               memcmp(c->value, json_string_value(v), json_string_length(v)) == 0;
    case JSON_INTEGER:
        return c->whole ? json_integer_value(v) == c->integer
                        : c->real && (double)json_integer_value(v) == c->number;
    case JSON_REAL:
        return c->real && json_real_value(v) == c->number;
    case JSON_TRUE:
        return strcmp(c->value, "true") == 0;
    case JSON_FALSE:
        return strcmp(c->value, "false") == 0;
    case JSON_NULL:
        return strcmp(c->value, "null") == 0;
    case JSON_ARRAY:
        json_array_foreach((json_t *)v, i, entry)
            if (!json_is_array(entry) && is_value(entry, c))
                return true;
        return false;
    default:
        return false;
    }
}

static bool holds(const struct clause *c, const json_t *metadata)
{
    json_t *holder;
    const char *name;
    const json_t *v = qsae__field_find((json_t *)metadata, c->key, &holder, &name);

    return v != NULL && is_value(v, c);
}

/* Whether a clause, or another one that asks the same of its key, holds. */
static bool some_holds(const qsae__filter *f, int64_t at, const json_t *metadata)
{
    for (int64_t i = 0; i < f->n; i++)
        if (!f->clauses[i].not && strcmp(f->clauses[i].key, f->clauses[at].key) == 0 &&
            holds(&f->clauses[i], metadata))
            return true;
    return false;
}

bool qsae__filter_matches(const qsae__filter *f, const json_t *metadata)
{
    for (int64_t i = 0; i < f->n; i++)
        if (f->clauses[i].not ? holds(&f->clauses[i], metadata) : !some_holds(f, i, metadata))
            return false;
    return true;
}
