/* SPDX-License-Identifier: BSD-2-Clause */
/* The post_processor of tokenizer.json, reduced to the ids in front of a text and behind it. */
#include <string.h>

#include "text/tokenizer.h"

#define IDS_MOST 4096 /* in front, and behind: a template can name a long list of ids many times */

static int32_t check_room(const qsae__ids *all, int64_t more)
{
    return all->count + more <= IDS_MOST
               ? QSAE_OK
               : qsae__fail(QSAE_EUNSUPPORTED, "post_processor: expected at most %d tokens around "
                            "a text, found more", IDS_MOST);
}

/* Ids of one special token of the template. */
static int32_t add_special(qsae_tokenizer *t, const json_t *json, const char *name,
                           const char *where, qsae__ids *to)
{
    const json_t *entry = json_object_get(json_object_get(json, "special_tokens"), name);
    const json_t *ids = json_object_get(entry, "ids");
    int32_t status = QSAE_OK;

    if (!json_is_array(ids))
        return qsae__fail(QSAE_EFORMAT, "%s: special_tokens \"%s\": expected an object with ids",
                          where, name);
    status = check_room(to, (int64_t)json_array_size(ids));
    for (size_t i = 0; i < json_array_size(ids) && status == QSAE_OK; i++) {
        const json_t *v = json_array_get(ids, i);
        int32_t id;
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= t->vocab)
            return qsae__fail(QSAE_EFORMAT, "%s: special_tokens \"%s\": expected ids below %lld",
                              where, name, (long long)t->vocab);
        id = (int32_t)json_integer_value(v);
        status = qsae__ids_add(to, &id, 1);
    }
    return status;
}

static int32_t put_in_front(qsae__ids *all, const qsae__ids *more)
{
    int32_t status = check_room(all, more->count);

    if (status == QSAE_OK)
        status = qsae__grow(all->ctx, &all->data, &all->capacity, all->count + more->count,
                            sizeof *all->data);
    if (status != QSAE_OK || more->count == 0)
        return status;
    memmove(all->data + more->count, all->data, (size_t)all->count * sizeof *all->data);
    memcpy(all->data, more->data, (size_t)more->count * sizeof *all->data);
    all->count += more->count;
    return QSAE_OK;
}

static int32_t read_single(qsae_tokenizer *t, const json_t *json, const char *where)
{
    const json_t *list = NULL;
    qsae__ids before = { .ctx = t->ctx };
    int sequences = 0;
    int32_t status = qsae__json_get(json, where, "single", true, JSON_ARRAY, &list);

    for (size_t i = 0; i < json_array_size(list) && status == QSAE_OK; i++) {
        const json_t *item = json_array_get(list, i);
        const json_t *special = json_object_get(item, "SpecialToken");
        const json_t *sequence = json_object_get(item, "Sequence");
        const char *id = json_string_value(json_object_get(special != NULL ? special : sequence,
                                                           "id"));
        if (id == NULL)
            status = qsae__fail(QSAE_EFORMAT, "%s: single[%zu]: expected SpecialToken or Sequence "
                                "with an id", where, i);
        else if (special != NULL)
            status = add_special(t, json, id, where, sequences == 0 ? &before : &t->suffix);
        else if (strcmp(id, "A") != 0 || ++sequences > 1)
            status = qsae__fail(QSAE_EUNSUPPORTED, "%s: single: only one Sequence \"A\" is "
                                "supported", where);
    }
    if (status == QSAE_OK && sequences != 1)
        status = qsae__fail(QSAE_EUNSUPPORTED, "%s: single: no Sequence \"A\"", where);
    if (status == QSAE_OK)
        status = put_in_front(&t->prefix, &before);
    qsae__free(t->ctx, before.data);
    return status;
}

/* "cls" in front and "sep" behind, each ["text", id]. */
static int32_t read_pair(qsae_tokenizer *t, const json_t *json, const char *where)
{
    int32_t id, status = QSAE_OK;

    for (int i = 0; i < 2 && status == QSAE_OK; i++) {
        const char *const key = i == 0 ? "cls" : "sep";
        const json_t *const list = json_object_get(json, key), *const v = json_array_get(list, 1);
        if (json_array_size(list) != 2 || !json_is_string(json_array_get(list, 0)) ||
            !json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= t->vocab)
            return qsae__fail(QSAE_EFORMAT, "%s: key \"%s\": expected [token, id below %lld]",
                              where, key, (long long)t->vocab);
        id = (int32_t)json_integer_value(v);
        if (i == 0)
            status = put_in_front(&t->prefix, &(qsae__ids){ .data = &id, .count = 1 });
        else
            status = check_room(&t->suffix, 1);
        if (i == 1 && status == QSAE_OK)
            status = qsae__ids_add(&t->suffix, &id, 1);
    }
    return status;
}

int32_t qsae__template_read(qsae_tokenizer *t, const json_t *json, const char *where)
{
    const json_t *list = NULL;
    const char *type = NULL;
    int32_t status;

    if (qsae__json_absent(json))
        return QSAE_OK;
    status = qsae__json_str(json, where, "type", true, &type, NULL);
    if (status != QSAE_OK)
        return status;
    if (strcmp(type, "ByteLevel") == 0) /* trims offsets only */
        return QSAE_OK;
    if (strcmp(type, "TemplateProcessing") == 0)
        return read_single(t, json, where);
    if (strcmp(type, "RobertaProcessing") == 0 || strcmp(type, "BertProcessing") == 0)
        return read_pair(t, json, where);
    if (strcmp(type, "Sequence") != 0)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: \"%s\" is not supported", where, type);
    status = qsae__json_get(json, where, "processors", true, JSON_ARRAY, &list);
    for (size_t i = 0; status == QSAE_OK && i < json_array_size(list); i++)
        /* as deep as JSON may be */
        status = qsae__template_read(t, json_array_get(list, i), where);
    return status;
}
