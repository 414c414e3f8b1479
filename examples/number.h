/* SPDX-License-Identifier: BSD-2-Clause */
/* Numbers of a result document. */
#ifndef EXAMPLES_NUMBER_H
#define EXAMPLES_NUMBER_H

#include <math.h>

#include <jansson.h>

/* NaN for null and for what is not there. */
static inline double number(const json_t *o, const char *key)
{
    const json_t *const v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

#endif
