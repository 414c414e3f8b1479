/* SPDX-License-Identifier: BSD-2-Clause */
/* A folder for the weights that the processes of a machine hold once (--share-weights). */
#ifndef EXAMPLES_SHARED_WEIGHTS_H
#define EXAMPLES_SHARED_WEIGHTS_H

#include <stddef.h>
#include <stdint.h>

#include "evaluation.h"

/* Bytes of the files that hold the weights of what is to be measured: a model for each condition.
 * What is made of them is rarely more. */
int64_t shared_weights_size(const struct evaluation *o);

/* Makes a folder that only this user can read, with room for that many bytes, in /dev/shm or else
 * in $TMPDIR (/tmp). 0 and its path; -1 and why there is none. */
int shared_weights_make(int64_t bytes, char *text, size_t size);

/* Removes a folder with the files in it; who has mapped them keeps them. */
void folder_remove(const char *folder);

#endif
