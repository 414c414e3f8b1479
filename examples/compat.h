/* SPDX-License-Identifier: BSD-2-Clause */
/* Figures of a result document under the names and definitions of other tools. */
#ifndef EXAMPLES_COMPAT_H
#define EXAMPLES_COMPAT_H

#include <jansson.h>

#include "layout.h"

/* Names of the tools, NULL-terminated. */
extern const char *const compat_names[];

/* Prints what tool `index` of compat_names would report of every model and SAE. */
void compat_print(const struct page *p, const json_t *result, int index);

#endif
