/* SPDX-License-Identifier: BSD-2-Clause */
#include "core/spool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "core/checked.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/memory.h"
#include "core/status.h"

struct qsae__spool {
    qsae_context *ctx;
    char *folder;
    uint64_t size;
    int fd;
};

/* A file of that folder which no other process can open. */
static int open_nameless(qsae_context *ctx, const char *folder)
{
    char *const path = qsae__path_join(ctx, folder, "qsae-XXXXXX");
    int fd = path ? mkostemp(path, O_CLOEXEC) : -1;
    while (path && fd < 0 && errno == EINTR) {
        memset(path + strlen(path) - 6, 'X', 6);
        fd = mkostemp(path, O_CLOEXEC);
    }
    const int e = errno;
    if (fd >= 0)
        unlink(path);
    qsae__free(ctx, path);
    errno = path ? e : ENOMEM;
    return fd;
}

int32_t qsae__spool_open(qsae_context *ctx, const char *folder, uint64_t bytes, qsae__spool **out)
{
    struct statvfs info;
    *out = NULL;
    if (statvfs(folder, &info) != 0)
        return qsae__fail_errno(folder, "make a temporary file", errno);
    const double free_bytes = (double)info.f_bavail * (double)info.f_frsize;
    if ((double)bytes > free_bytes)
        return qsae__fail(QSAE_EIO, "%s: a temporary file of %.3f GB does not fit: %.3f GB are "
                          "free", folder, (double)bytes * 1e-9, free_bytes * 1e-9);
    qsae__spool *s = qsae__calloc(ctx, 1, sizeof *s);
    if (!s)
        return QSAE_ENOMEM;
    s->ctx = qsae__context_ref(ctx);
    s->fd = -1;
    s->folder = qsae__strdup(ctx, folder);
    if (!s->folder) {
        qsae__spool_close(&s);
        return QSAE_ENOMEM;
    }
    s->fd = open_nameless(ctx, folder);
    if (s->fd < 0) {
        const int32_t st = qsae__fail_errno(folder, "make a temporary file", errno);
        qsae__spool_close(&s);
        return st;
    }
    *out = s;
    return QSAE_OK;
}

void qsae__spool_close(qsae__spool **spool)
{
    qsae__spool *const s = *spool;
    if (!s)
        return;
    qsae_context *const ctx = s->ctx;
    if (s->fd >= 0)
        close(s->fd);
    qsae__free(ctx, s->folder);
    qsae__free(ctx, s);
    qsae__context_unref(ctx);
    *spool = NULL;
}

int32_t qsae__spool_append(qsae__spool *s, const void *data, size_t size, qsae__spooled *where)
{
    where->offset = s->size;
    where->size = size;
    qsae__hash(data, size, where->hash);
    const int e = qsae__write_all(s->fd, data, size, s->size);
    if (e)
        return qsae__fail_errno(s->folder, "write a temporary file", e);
    s->size += where->size;
    return QSAE_OK;
}

int32_t qsae__spool_read(const qsae__spool *s, const qsae__spooled *where, void *data)
{
    char *p = data, hex[QSAE__HASH_SIZE];
    size_t size = (size_t)where->size;
    for (uint64_t at = where->offset; size > 0;) {
        const ssize_t n = pread(s->fd, p, size, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? qsae__fail_errno(s->folder, "read a temporary file", errno)
                         : qsae__fail(QSAE_EIO, "%s: a temporary file has become shorter",
                                      s->folder);
        p += n;
        at += (uint64_t)n;
        size -= (size_t)n;
    }
    qsae__hash(data, (size_t)where->size, hex);
    return strcmp(hex, where->hash) == 0
               ? QSAE_OK
               : qsae__fail(QSAE_EIO, "%s: a temporary file has changed (checksum differs)",
                            s->folder);
}
