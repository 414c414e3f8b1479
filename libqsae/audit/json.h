/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Documents are built by many small calls of jansson, each of which may lack memory: then a key
 * would be missing in silence. The calls that put something in its place note that for the thread,
 * and who hands a document out asks. An object or array that could not be put stays alive until
 * then: whoever put it may go on to fill it.
 */
#ifndef QSAE_AUDIT_JSON_H
#define QSAE_AUDIT_JSON_H

#include "formats/json.h"

/* Forgets what was noted. */
void qsae__json_begin(void);

/* Notes that something was lost, by others than the calls below. */
void qsae__json_lose(void);

/* Ends what qsae__json_begin began. QSAE_ENOMEM if anything was not put since then, whatever that
 * led to, else the status. */
int32_t qsae__json_status(int32_t status);

/* As jansson's: a value of NULL stays out. Memory that anything on this thread lacked since
 * qsae__json_begin is noted, too: what was left out for it may look like a value that is none. */
int qsae__json_set(json_t *object, const char *key, json_t *value);
int qsae__json_append(json_t *array, json_t *value);
int qsae__json_update(json_t *object, json_t *other);
json_t *qsae__json_deep_copy(const json_t *value);

#ifndef QSAE_AUDIT_JSON_PLAIN
#define json_object_set_new(object, key, value) qsae__json_set(object, key, value)
#define json_object_set(object, key, value) qsae__json_set(object, key, json_incref(value))
#define json_array_append_new(array, value) qsae__json_append(array, value)
#define json_array_append(array, value) qsae__json_append(array, json_incref(value))
#define json_object_update(object, other) qsae__json_update(object, other)
#define json_deep_copy(value) qsae__json_deep_copy(value)
#endif

#endif
