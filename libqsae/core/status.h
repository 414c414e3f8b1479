/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_CORE_STATUS_H
#define QSAE_CORE_STATUS_H

#include <stdarg.h>

#include <qsae/common.h>

#define QSAE__MESSAGE_SIZE 1024

#if defined(__GNUC__) || defined(__clang__)
#define QSAE__PRINTF(a, b) __attribute__((format(printf, a, b)))
#else
#define QSAE__PRINTF(a, b)
#endif

/* Stores the formatted message in the thread's buffer (control characters replaced) and returns
 * status, so that `return qsae__fail(QSAE_EFORMAT, "%s: ...", path)` is one statement. */
int32_t qsae__fail(int32_t status, const char *format, ...) QSAE__PRINTF(2, 3);

/* Puts "prefix: " before the present message; returns status. For callers that know the file. */
int32_t qsae__fail_in(int32_t status, const char *format, ...) QSAE__PRINTF(2, 3);

/* Message of the thread, writable: moves worker errors to the calling thread. */
char *qsae__message(void);

#endif
