/* SPDX-License-Identifier: BSD-2-Clause */
/* Numbers of a result document. */
#ifndef EXAMPLES_NUMBER_H
#define EXAMPLES_NUMBER_H

#include <math.h>
#include <stddef.h>

#include <jansson.h>

/* NaN for null and for what is not there. */
static inline double number(const json_t *o, const char *key)
{
    const json_t *const v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

/* A list of two numbers, in `interval`; NULL if it is something else. */
static inline const double *interval_of(const json_t *list, double interval[2])
{
    if (json_array_size(list) != 2)
        return NULL;
    interval[0] = json_number_value(json_array_get(list, 0));
    interval[1] = json_number_value(json_array_get(list, 1));
    return interval;
}

/* That of a figure among an object's "intervals". */
static inline const double *interval_at(const json_t *o, const char *key, double interval[2])
{
    return interval_of(json_object_get(json_object_get(o, "intervals"), key), interval);
}

/* "" for what is no string. */
static inline const char *string_at(const json_t *o, const char *key)
{
    const char *const text = json_string_value(json_object_get(o, key));
    return text ? text : "";
}

#endif
