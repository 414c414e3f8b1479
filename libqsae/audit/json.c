/* SPDX-License-Identifier: BSD-2-Clause */
#define QSAE_AUDIT_JSON_PLAIN
#include "audit/json.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#include "core/status.h"

enum { FEW = 64 };

/* Of a thread: whether something was lost, and the objects and arrays that were not put. Where
 * there is no memory for a longer list of them, hardly more than a few can have been made. */
static _Thread_local struct {
    bool begun, lost;
    int64_t n_few, n_more, room;
    json_t *few[FEW], **more;
} notes;

static void release(void)
{
    for (int64_t i = 0; i < notes.n_few; i++)
        json_decref(notes.few[i]);
    for (int64_t i = 0; i < notes.n_more; i++)
        json_decref(notes.more[i]);
    free(notes.more);
    notes.more = NULL;
    notes.n_few = notes.n_more = notes.room = 0;
}

void qsae__json_begin(void)
{
    release();
    notes.begun = true;
    notes.lost = false;
    errno = 0;
}

void qsae__json_lose(void)
{
    notes.lost = true;
}

int32_t qsae__json_status(int32_t status)
{
    release();
    notes.begun = false;
    return notes.lost && status != QSAE_ENOMEM
               ? qsae__fail(QSAE_ENOMEM, "out of memory: a document")
               : status;
}

/* Keeps one reference until release(). */
static void keep(json_t *value)
{
    if (notes.n_more == notes.room) {
        const int64_t room = notes.room ? 2 * notes.room : FEW;
        json_t **const more = realloc(notes.more, (size_t)room * sizeof(json_t *));
        if (more) {
            notes.more = more;
            notes.room = room;
        }
    }
    if (notes.n_more < notes.room)
        notes.more[notes.n_more++] = value;
    else if (notes.n_few < FEW)
        notes.few[notes.n_few++] = value;
    /* else it is never freed, which is better than freed while it is filled */
}

/* held: the container that was to be put, with a reference of ours. */
static int noted(int result, bool meant, json_t *held)
{
    if ((result != 0 && meant) || errno == ENOMEM)
        notes.lost = true;
    if (result != 0 && held && notes.begun)
        keep(held);
    else
        json_decref(held);
    return result;
}

/* Scalars that are not put are gone, and nobody looks at them. */
static json_t *hold(json_t *value)
{
    return json_is_object(value) || json_is_array(value) ? json_incref(value) : NULL;
}

int qsae__json_set(json_t *object, const char *key, json_t *value)
{
    const bool meant = object && value;
    json_t *const held = hold(value);
    return noted(json_object_set_new(object, key, value), meant, held);
}

int qsae__json_append(json_t *array, json_t *value)
{
    const bool meant = array && value;
    json_t *const held = hold(value);
    return noted(json_array_append_new(array, value), meant, held);
}

int qsae__json_update(json_t *object, json_t *other)
{
    return noted(json_object_update(object, other), object && other, NULL);
}

/* jansson's own leaves out what it has no memory for. */
json_t *qsae__json_deep_copy(const json_t *value)
{
    json_t *const copy = json_deep_copy(value);
    if (value && !json_equal(copy, value))
        notes.lost = true;
    return copy;
}
