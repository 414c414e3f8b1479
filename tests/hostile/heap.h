/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Every allocation of the process is counted: the library's, jansson's, libzip's. glibc only, and
 * not under sanitizers, which have allocators of their own; then what passes a context's allocator
 * counts.
 */
#ifndef TESTS_HOSTILE_HEAP_H
#define TESTS_HOSTILE_HEAP_H

#include <stddef.h>

#include <qsae/qsae.h>

/* Peaks are counted from what is allocated now. */
void heap_start(void);
/* Most bytes above that since. */
size_t heap_peak(void);
/* Bytes above (or below) that now. */
long heap_now(void);
/* Whether all allocations are counted. */
int heap_counts_all(void);
/* An allocator that counts. */
void heap_settings(qsae_context_settings *s);

/* CPU seconds of this thread. */
double cpu_seconds(void);

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || \
    __has_feature(memory_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

#endif
