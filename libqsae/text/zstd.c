/* SPDX-License-Identifier: BSD-2-Clause */
/* Zstandard files (RFC 8878), whole into memory. */
#include "text/documents.h"

#ifdef QSAE_HAVE_ZSTD

#include <zstd.h>
#include <zstd_errors.h>

/* Text shrinks to a fifth or so; a file that grows far beyond that was made to fill memory. */
#define GROWTH_MAX 256
#define GROWTH_FREE ((uint64_t)64 << 20)
#define SMALL ((uint64_t)1 << 16)

static int32_t refuse(const qsae__file *f, const char *why)
{
    return qsae__fail(QSAE_EFORMAT, "%s: expected Zstandard data, found: %s", f->path, why);
}

/* The four bytes that a frame begins with, one that is skipped included. */
static bool is_frame(const uint8_t *p)
{
    const uint32_t magic = (uint32_t)p[3] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[1] << 8 | p[0];

    return magic == ZSTD_MAGICNUMBER || (magic & 0xfffffff0) == 0x184d2a50;
}

/* Where to begin: what the first frame says it holds, if that is likely, else what texts often grow
 * to. */
static uint64_t first_guess(const qsae__file *f, uint64_t most)
{
    const uint64_t likely = f->size > UINT64_MAX / 16 - SMALL ? UINT64_MAX : 16 * f->size + SMALL;
    const unsigned long long said = ZSTD_getFrameContentSize(f->data, (size_t)f->size);
    const uint64_t guess = said != ZSTD_CONTENTSIZE_UNKNOWN && said != ZSTD_CONTENTSIZE_ERROR &&
                                   said > 0 && said <= likely
                               ? said
                               : f->size / 2 + SMALL; /* quadrupled below until it fits */
    return guess < most ? guess : most;
}

/*
 * All frames at once into one block, so that no window is allocated, however large a frame says
 * that its window is. A block that was too small is freed, and a larger one filled from the start.
 */
static int32_t decompress(const qsae__file *f, ZSTD_DCtx *z, char **out, uint64_t *out_size)
{
    uint64_t most;

    if (!qsae__mul_u64(f->size, GROWTH_MAX, &most) || !qsae__add_u64(most, GROWTH_FREE, &most) ||
        most > SIZE_MAX)
        return qsae__fail(QSAE_EOVERFLOW, "%s: too large", f->path);
    if (f->size < 4)
        return refuse(f, "the last frame ends early");
    if (!is_frame(f->data))
        return refuse(f, "Unknown frame descriptor");
    for (uint64_t capacity = first_guess(f, most);; capacity *= 4) {
        capacity = capacity < most ? capacity : most;
        *out = qsae__alloc(f->ctx, (size_t)capacity);
        if (*out == NULL)
            return QSAE_ENOMEM;
        const size_t n = ZSTD_decompressDCtx(z, *out, (size_t)capacity, f->data, (size_t)f->size);
        if (!ZSTD_isError(n)) {
            *out_size = n;
            return QSAE_OK;
        }
        if (ZSTD_getErrorCode(n) == ZSTD_error_srcSize_wrong)
            return refuse(f, "the last frame ends early");
        if (ZSTD_getErrorCode(n) != ZSTD_error_dstSize_tooSmall)
            return refuse(f, ZSTD_getErrorName(n));
        if (capacity == most)
            return qsae__fail(QSAE_EFORMAT, "%s: expected at most %llu bytes from %llu, found more",
                              f->path, (unsigned long long)most, (unsigned long long)f->size);
        qsae__free(f->ctx, *out);
        *out = NULL;
    }
}

int32_t qsae__zstd_read(const qsae__file *f, char **out, uint64_t *size)
{
    ZSTD_DCtx *z = ZSTD_createDCtx();
    int32_t status;

    *out = NULL;
    *size = 0;
    if (z == NULL)
        return qsae__fail(QSAE_ENOMEM, "out of memory: %s", f->path);
    status = decompress(f, z, out, size);
    ZSTD_freeDCtx(z);
    if (status != QSAE_OK) {
        qsae__free(f->ctx, *out);
        *out = NULL;
    }
    return status;
}

#else

int32_t qsae__zstd_read(const qsae__file *f, char **out, uint64_t *size)
{
    *out = NULL;
    *size = 0;
    return qsae__fail(QSAE_EUNSUPPORTED, "%s: this build has no zstd (meson option zstd, package "
                      "libzstd-dev); decompress it first", f->path);
}

#endif
