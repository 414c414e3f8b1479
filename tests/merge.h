/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_MERGE_H
#define TESTS_MERGE_H

#include <stdbool.h>

#include <jansson.h>

#include "support.h"

/* Members of `from` take the place of those of `to`, within objects too, but for an object that is
 * empty; "-KEY" takes KEY out, which must be there. */
static inline void merge_json(json_t *to, const json_t *from)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)from, key, v) {
        json_t *const old = json_object_get(to, key);
        if (key[0] == '-')
            assert_int_equal(json_object_del(to, key + 1), 0);
        else if (json_is_object(old) && json_is_object(v) && json_object_size(v) > 0)
            merge_json(old, v);
        else
            json_object_set(to, key, v);
    }
}

/* base with the members of change; change behind a '=' is the whole of it, NULL nothing. */
static inline json_t *merged_json(const char *base, const char *change)
{
    const bool whole = change && change[0] == '=';
    json_t *const to = json_loads(whole ? change + 1 : base, JSON_DECODE_ANY, NULL);
    assert_non_null(to);
    if (change && !whole) {
        json_t *const from = json_loads(change, 0, NULL);
        if (!from)
            fail_msg("no JSON: %s", change);
        merge_json(to, from);
        json_decref(from);
    }
    return to;
}

#endif
