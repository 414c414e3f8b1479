/* SPDX-License-Identifier: BSD-2-Clause */
#include <string.h>

#include "formats/json.h"

#define MAX_DEPTH 64

/* jansson recurses up to 2048 levels; brackets outside strings bound the depth before it starts. */
static bool depth_ok(const char *text, size_t size)
{
    size_t depth = 0;

    for (size_t i = 0; i < size; i++) {
        switch (text[i]) {
        case '"':
            for (i++; i < size && text[i] != '"'; i++)
                if (text[i] == '\\')
                    i++;
            break;
        case '[':
        case '{':
            if (++depth > MAX_DEPTH)
                return false;
            break;
        case ']':
        case '}':
            if (depth > 0)
                depth--;
            break;
        default:
            break;
        }
    }
    return true;
}

int32_t qsae__json_parse_with(const char *text, size_t size, const char *name, unsigned flags,
                              json_t **out)
{
    json_error_t error;
    size_t decode = JSON_REJECT_DUPLICATES | JSON_DECODE_ANY;

    *out = NULL;
    if (!depth_ok(text, size))
        return qsae__fail(QSAE_EFORMAT, "%s: JSON nested deeper than %d levels", name, MAX_DEPTH);
    if (flags & QSAE__JSON_NUL)
        decode |= JSON_ALLOW_NUL;
    if (flags & QSAE__JSON_REALS)
        decode |= JSON_DECODE_INT_AS_REAL;
    *out = json_loadb(text, size, decode, &error);
    if (*out == NULL) {
        if (json_error_code(&error) == json_error_out_of_memory)
            return qsae__fail(QSAE_ENOMEM, "%s: out of memory while reading JSON", name);
        return qsae__fail(QSAE_EFORMAT, "%s:%d: %s%s", name, error.line,
                          json_error_code(&error) == json_error_invalid_utf8 ? "not UTF-8: " : "",
                          error.text);
    }
    return QSAE_OK;
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
    const char *expected = type == JSON_OBJECT ? "object" : type == JSON_ARRAY ? "array" : "value";
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
