/* SPDX-License-Identifier: BSD-2-Clause */
#define QSAE_AUDIT_JSON_PLAIN
#include "audit/json.h"

#include <errno.h>
#include <stdbool.h>

#include "core/status.h"

static _Thread_local bool lost;

void qsae__json_begin(void)
{
    lost = false;
    errno = 0;
}

void qsae__json_lose(void)
{
    lost = true;
}

int32_t qsae__json_status(int32_t status)
{
    return status == QSAE_OK && lost ? qsae__fail(QSAE_ENOMEM, "out of memory: a document")
                                     : status;
}

/* jansson's allocations leave errno; a NULL that means "none" does not. */
static int noted(int result, const json_t *to, const json_t *value)
{
    if (result != 0 && ((to && value) || errno == ENOMEM))
        lost = true;
    return result;
}

int qsae__json_set(json_t *object, const char *key, json_t *value)
{
    const json_t *const given = value; /* compared with NULL alone: the reference is gone */
    return noted(json_object_set_new(object, key, value), object, given);
}

int qsae__json_append(json_t *array, json_t *value)
{
    const json_t *const given = value;
    return noted(json_array_append_new(array, value), array, given);
}

int qsae__json_update(json_t *object, json_t *other)
{
    return noted(json_object_update(object, other), object, other);
}

/* jansson's own leaves out what it has no memory for. */
json_t *qsae__json_deep_copy(const json_t *value)
{
    json_t *const copy = json_deep_copy(value);
    if (value && !json_equal(copy, value))
        lost = true;
    return copy;
}
