/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_FUZZ_TENSORS_H
#define TESTS_FUZZ_TENSORS_H

#include "fuzz.h"

/* One file of tensors: refused or read to its last byte, mapped and copied alike. */
int fuzz_tensors(const char *name, const uint8_t *data, size_t size);

#endif
