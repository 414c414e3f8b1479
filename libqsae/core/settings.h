/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_CORE_SETTINGS_H
#define QSAE_CORE_SETTINGS_H

#include <stddef.h>
#include <stdint.h>

/* Zeroes size bytes at s and stores size in its first member. */
void qsae__settings_init(void *s, size_t size);

/*
 * Copies a caller's struct (first member: size_t struct_size) into dst of size bytes; what the
 * caller's struct lacks is zero. src NULL = all zero. A struct_size below sizeof(size_t), or a
 * non-zero byte beyond what this library knows, is QSAE_EINVAL naming `what`.
 */
int32_t qsae__settings_copy(void *dst, size_t size, const void *src, const char *what);

/* Copies a result struct out to the caller: as much as the caller's struct_size covers. */
int32_t qsae__info_copy(void *dst, const void *src, size_t size, const char *what);

#endif
