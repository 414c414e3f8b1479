/* SPDX-License-Identifier: BSD-2-Clause */
/* Wrong arguments, one list per kind; b counts from 0, false beyond the last. */
#ifndef TESTS_MISUSE_MISUSE_H
#define TESTS_MISUSE_MISUSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NOT_NULL ((void *)1)

bool wrong_i32(int b, int32_t *v);
bool wrong_i64(int b, int64_t *v);
bool wrong_f64(int b, double *v);
bool wrong_f32(int b, float *v);
bool wrong_text(int b, const char **v);
bool wrong_pointer(int b, void **v);
/* Copies of a good one with one field wrong; of NULL: none. */
bool wrong_rows(int b, void **v, const void *good);
bool wrong_struct(int b, void **v, const void *good, size_t size);
bool wrong_info(int b, void **v, const void *good, size_t size);

/* What a call returned for wrong value b of a parameter. is_status: it must be an error; nulled:
 * its handle is NULL after that. */
void judge(const char *function, const char *parameter, int b, bool is_status, int64_t result,
           bool nulled);

#endif
