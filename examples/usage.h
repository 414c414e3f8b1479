/* SPDX-License-Identifier: BSD-2-Clause */
/* What evaluate --help prints. */
#ifndef QSAE_EXAMPLES_USAGE_H
#define QSAE_EXAMPLES_USAGE_H

#include <stdio.h>

void usage_print(FILE *out);

#endif
