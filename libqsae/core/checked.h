/* SPDX-License-Identifier: BSD-2-Clause */
/* Size arithmetic that cannot wrap. Everything a file or a caller controls goes through here. */
#ifndef QSAE_CORE_CHECKED_H
#define QSAE_CORE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool qsae__mul_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}

static inline bool qsae__add_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

static inline bool qsae__mul_i64(int64_t a, int64_t b, int64_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}

static inline bool qsae__add_i64(int64_t a, int64_t b, int64_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

static inline bool qsae__mul_size(size_t a, size_t b, size_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}

static inline bool qsae__add_size(size_t a, size_t b, size_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

/* count elements of size bytes; count < 0 fails. */
static inline bool qsae__bytes(int64_t count, size_t size, size_t *out)
{
    return count >= 0 && (uint64_t)count <= SIZE_MAX && qsae__mul_size((size_t)count, size, out);
}

/* [offset, offset + length) lies in [0, size). */
static inline bool qsae__range_in(uint64_t offset, uint64_t length, uint64_t size)
{
    return offset <= size && length <= size - offset;
}

static inline int64_t qsae__ceil_div(int64_t a, int64_t b)
{
    return a / b + (a % b != 0);
}

static inline int64_t qsae__min_i64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t qsae__max_i64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

#endif
