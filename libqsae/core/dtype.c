/* SPDX-License-Identifier: BSD-2-Clause */
#include <string.h>

#include <qsae/tensor.h>

const char *qsae_dtype_name(int32_t dtype)
{
    switch (dtype) {
#define NAME(name, number, text, bits) \
    case number: \
        return text;
        QSAE_DTYPE_MAP(NAME)
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

int32_t qsae_dtype_from_name(const char *name)
{
    if (!name)
        return 0;
#define FIND(id, number, text, bits) \
    if (strcmp(name, text) == 0) \
        return number;
    QSAE_DTYPE_MAP(FIND)
#undef FIND
    return 0;
}
