/* SPDX-License-Identifier: BSD-2-Clause */
/* Zstandard files (RFC 8878), whole into memory. */
#include "text/documents.h"

#ifdef QSAE_HAVE_ZSTD

#include <zstd.h>
#include <zstd_errors.h>

/* Text shrinks to a fifth or so; a file that grows far beyond that was made to fill memory. With
 * what zstd itself takes, 80 bytes stay below 1 MiB. */
#define GROWTH_MAX 256
#define GROWTH_FREE ((uint64_t)768 << 10)
#define SMALL ((uint64_t)1 << 16)

static int32_t refuse(const qsae__file *f, const char *why)
{
    return qsae__fail(QSAE_EFORMAT, "%s: expected Zstandard data, found: %s", f->path, why);
}

static int32_t refuse_code(const qsae__file *f, size_t code)
{
    return refuse(f, ZSTD_getErrorCode(code) == ZSTD_error_srcSize_wrong
                         ? "the last frame ends early" : ZSTD_getErrorName(code));
}

static int32_t refuse_growth(const qsae__file *f, uint64_t most, const char *more, uint64_t found)
{
    return qsae__fail(QSAE_EFORMAT, "%s: Zstandard data: expected at most %llu bytes (%d times the "
                      "file's %llu and %llu), found %s%llu; decompress it first", f->path,
                      (unsigned long long)most, GROWTH_MAX, (unsigned long long)f->size,
                      (unsigned long long)GROWTH_FREE, more, (unsigned long long)found);
}

/* The four bytes that a frame begins with, one that is skipped included. */
static bool is_frame(const uint8_t *p)
{
    const uint32_t magic = (uint32_t)p[3] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[1] << 8 | p[0];

    return magic == ZSTD_MAGICNUMBER || (magic & 0xfffffff0) == 0x184d2a50;
}

/* What the frames say that they hold: at least *said bytes, and no more if `*all` of them say it.
 * Nothing is decompressed. */
static int32_t look(const qsae__file *f, uint64_t most, uint64_t *said, bool *all)
{
    *said = 0;
    *all = true;
    for (size_t at = 0, n; at < f->size || at == 0; at += n) {
        const uint8_t *const frame = f->data + at;
        const size_t left = (size_t)f->size - at;
        if (left < 4)
            return refuse(f, "the last frame ends early");
        if (!is_frame(frame))
            return refuse(f, "Unknown frame descriptor");
        const unsigned long long size = ZSTD_getFrameContentSize(frame, left);
        if (size == ZSTD_CONTENTSIZE_ERROR)
            return refuse(f, "the last frame ends early, or its header is wrong");
        *all = *all && size != ZSTD_CONTENTSIZE_UNKNOWN;
        if (size != ZSTD_CONTENTSIZE_UNKNOWN && !qsae__add_u64(*said, size, said))
            *said = UINT64_MAX;
        if (*said > most)
            return refuse_growth(f, most, "", *said);
        n = ZSTD_findFrameCompressedSize(frame, left);
        if (ZSTD_isError(n))
            return refuse_code(f, n);
    }
    return QSAE_OK;
}

/* Where to begin, quadrupled until it fits: what the frames say they hold, if that is likely, else
 * what texts often grow to; less than the most that a file may grow to. */
static uint64_t first_guess(const qsae__file *f, uint64_t said, bool all)
{
    return all && said <= 16 * f->size + SMALL ? said : f->size / 2 + SMALL;
}

/*
 * All frames at once into one block, so that no window is allocated, however large a frame says
 * that its window is. A block that was too small is freed, and a larger one filled from the start.
 */
static int32_t decompress(const qsae__file *f, ZSTD_DCtx *z, char **out, uint64_t *out_size)
{
    uint64_t most, said;
    bool all;

    if (!qsae__mul_u64(f->size, GROWTH_MAX, &most) || !qsae__add_u64(most, GROWTH_FREE, &most) ||
        most > SIZE_MAX)
        return qsae__fail(QSAE_EOVERFLOW, "%s: too large", f->path);
    const int32_t status = look(f, most, &said, &all);
    if (status != QSAE_OK)
        return status;
    for (uint64_t capacity = first_guess(f, said, all);; capacity *= 4) {
        capacity = capacity < most ? capacity : most;
        *out = qsae__alloc(f->ctx, (size_t)capacity);
        if (*out == NULL)
            return QSAE_ENOMEM;
        const size_t n = ZSTD_decompressDCtx(z, *out, (size_t)capacity, f->data, (size_t)f->size);
        if (!ZSTD_isError(n)) {
            *out_size = n;
            return QSAE_OK;
        }
        if (ZSTD_getErrorCode(n) != ZSTD_error_dstSize_tooSmall)
            return refuse_code(f, n);
        if (all && capacity >= said)
            return refuse(f, "more than its frames say");
        if (capacity == most)
            return refuse_growth(f, most, "more than ", most);
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
