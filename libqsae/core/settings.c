/* SPDX-License-Identifier: BSD-2-Clause */
#include "core/settings.h"

#include <stdbool.h>
#include <string.h>

#include "core/status.h"

static bool aligned(const void *p)
{
    return (uintptr_t)p % _Alignof(size_t) == 0;
}

void qsae__settings_init(void *s, size_t size)
{
    if (!s || size < sizeof(size_t))
        return;
    memset(s, 0, size);
    memcpy(s, &size, sizeof size);
}

int32_t qsae__settings_copy(void *dst, size_t size, const void *src, const char *what)
{
    qsae__settings_init(dst, size);
    if (!src)
        return QSAE_OK;
    if (!aligned(src))
        return qsae__fail(QSAE_EINVAL, "%s: expected an address divisible by %zu", what,
                          _Alignof(size_t));
    size_t given;
    memcpy(&given, src, sizeof given);
    if (given < sizeof given || given > 4096)
        return qsae__fail(
            QSAE_EINVAL,
            "%s: struct_size is %zu; call its _init function first (this library: %zu)", what,
            given, size);
    for (size_t i = size; i < given; i++)
        if (((const unsigned char *)src)[i])
            return qsae__fail(QSAE_EINVAL,
                              "%s: byte %zu is set, beyond the %zu bytes this library knows", what,
                              i, size);
    const size_t n = given < size ? given : size;
    memcpy((char *)dst + sizeof given, (const char *)src + sizeof given, n - sizeof given);
    return QSAE_OK;
}

int32_t qsae__info_copy(void *dst, const void *src, size_t size, const char *what)
{
    if (!dst)
        return qsae__fail(QSAE_EINVAL, "%s: NULL", what);
    if (!aligned(dst))
        return qsae__fail(QSAE_EINVAL, "%s: expected an address divisible by %zu", what,
                          _Alignof(size_t));
    size_t given;
    memcpy(&given, dst, sizeof given);
    if (given < sizeof given || given > 4096)
        return qsae__fail(QSAE_EINVAL, "%s: struct_size is %zu; set it to sizeof(%s)", what, given,
                          what);
    const size_t n = given < size ? given : size;
    memcpy((char *)dst + sizeof given, (const char *)src + sizeof given, n - sizeof given);
    if (given > size)
        memset((char *)dst + size, 0, given - size);
    return QSAE_OK;
}

