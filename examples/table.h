/* SPDX-License-Identifier: BSD-2-Clause */
/* The table that evaluate prints from a result document. */
#ifndef EXAMPLES_TABLE_H
#define EXAMPLES_TABLE_H

#include <stdio.h>

#include <jansson.h>

void table_print(FILE *out, const json_t *result);

#endif
