/* SPDX-License-Identifier: BSD-2-Clause */
#include <string.h>

#include <qsae/tensor.h>

#include "core/handle.h"

const char *qsae_dtype_name(int32_t dtype)
{
    switch (dtype) {
#define NAME(name, number, text, bits) \
    case number: \
        return text;
        QSAE_DTYPE_MAP(NAME)
#undef NAME
#define NAME(name, number, text, elements, bytes) \
    case number: \
        return text;
        QSAE_BLOCK_DTYPE_MAP(NAME)
#undef NAME
    default:
        return "?";
    }
}

int32_t qsae_dtype_bits(int32_t dtype)
{
    switch (dtype) {
#define BITS(name, number, text, bits) \
    case number: \
        return bits;
        QSAE_DTYPE_MAP(BITS)
#undef BITS
    default:
        return 0;
    }
}

int32_t qsae_dtype_block(int32_t dtype, int64_t *elements, int64_t *bytes)
{
    int64_t n = 1, size = qsae_dtype_bits(dtype) / 8;
    switch (dtype) {
#define BLOCK(name, number, text, count, total) \
    case number: \
        n = count; \
        size = total; \
        break;
        QSAE_BLOCK_DTYPE_MAP(BLOCK)
#undef BLOCK
    default:
        if (qsae_dtype_bits(dtype) % 8 != 0)
            return 0;
    }
    if (size == 0 || !qsae__is_aligned(elements, sizeof *elements) ||
        !qsae__is_aligned(bytes, sizeof *bytes))
        return 0;
    *elements = n;
    *bytes = size;
    return 1;
}

int32_t qsae_dtype_from_name(const char *name)
{
    if (!name)
        return 0;
#define FIND(id, number, text, bits) \
    if (strcmp(name, text) == 0) \
        return number;
    QSAE_DTYPE_MAP(FIND)
#undef FIND
#define FIND(id, number, text, elements, bytes) \
    if (strcmp(name, text) == 0) \
        return number;
    QSAE_BLOCK_DTYPE_MAP(FIND)
#undef FIND
    return 0;
}
