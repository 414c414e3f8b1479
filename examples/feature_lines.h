/* SPDX-License-Identifier: BSD-2-Clause */
/* What each feature of the SAEs does, one line each: JSON lines, or CSV without contexts. */
#ifndef EXAMPLES_FEATURE_LINES_H
#define EXAMPLES_FEATURE_LINES_H

#include <qsae/qsae.h>

/* Writes the features of all SAEs to a file that appears whole or not at all; a name in .csv means
 * CSV. Says what failed on stderr; 0, or -1. */
int features_write(qsae_audit *audit, int64_t n_saes, const char *path);

#endif
