/* SPDX-License-Identifier: BSD-2-Clause */
/* Zstandard files (RFC 8878), whole into memory. */
#include "text/documents.h"

#ifdef QSAE_HAVE_ZSTD

#include <zstd.h>

/* Text shrinks to a fifth or so; a file that grows far beyond that was made to fill memory. */
#define GROWTH_MAX 256
#define GROWTH_FREE ((uint64_t)64 << 20)

static int32_t refuse(const qsae__file *f, const char *why)
{
    return qsae__fail(QSAE_EFORMAT, "%s: expected Zstandard data, found: %s", f->path, why);
}

static int32_t decompress(const qsae__file *f, ZSTD_DCtx *z, char **out, uint64_t *out_size)
{
    uint64_t most;
    int64_t capacity = 0;
    ZSTD_inBuffer in = { f->data, (size_t)f->size, 0 };
    size_t left = 1, done = 0;

    if (__builtin_mul_overflow(f->size, (uint64_t)GROWTH_MAX, &most) ||
        __builtin_add_overflow(most, GROWTH_FREE, &most))
        return qsae__fail(QSAE_EOVERFLOW, "%s: too large", f->path);
    for (bool more = true; more;) {
        ZSTD_outBuffer o;
        int32_t status;
        status = qsae__grow(f->ctx, out, &capacity, (int64_t)(done + ZSTD_DStreamOutSize()), 1);
        if (status != QSAE_OK)
            return status;
        o = (ZSTD_outBuffer){ *out, (size_t)capacity, done };
        left = ZSTD_decompressStream(z, &o, &in);
        if (ZSTD_isError(left))
            return refuse(f, ZSTD_getErrorName(left));
        /* With the input used up, only a full buffer can hide more. */
        more = in.pos < in.size || (left != 0 && o.pos == o.size);
        done = o.pos;
        if (done > most)
            return qsae__fail(QSAE_EFORMAT, "%s: expected at most %llu bytes from %llu, found more",
                              f->path, (unsigned long long)most, (unsigned long long)f->size);
    }
    *out_size = done;
    return left == 0 ? QSAE_OK : refuse(f, "the last frame ends early");
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
