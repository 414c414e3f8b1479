/* SPDX-License-Identifier: BSD-2-Clause */
#include "core/output.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/checked.h"
#include "core/file.h"
#include "core/memory.h"
#include "core/status.h"

#define MOST ((size_t)1 << 30) /* of one write */

static int32_t fail_errno(const char *path, const char *what, int e)
{
    const int32_t st = e == ENOENT || e == ENOTDIR ? QSAE_ENOENT
                       : e == ENOMEM               ? QSAE_ENOMEM
                                                   : QSAE_EIO;
    return qsae__fail(st, "%s: cannot %s: %s", path, what, strerror(e));
}

static mode_t mode_mask(void)
{
    const mode_t mask = umask(0);
    umask(mask);
    return mask;
}

/* path + ".tmp-XXXXXX" */
static char *temp_name(qsae_context *ctx, const char *path)
{
    const size_t n = strlen(path) + 32;
    char *const temp = qsae__alloc(ctx, n);
    if (temp)
        snprintf(temp, n, "%s.tmp-XXXXXX", path);
    return temp;
}

int32_t qsae__output_open(qsae_context *ctx, const char *path, qsae__output **out)
{
    *out = NULL;
    qsae__output *o = qsae__calloc(ctx, 1, sizeof *o);
    if (!o)
        return QSAE_ENOMEM;
    o->ctx = qsae__context_ref(ctx);
    o->fd = -1;
    int32_t st = QSAE_ENOMEM;
    o->path = qsae__strdup(ctx, path);
    o->temp = temp_name(ctx, path);
    if (!o->path || !o->temp)
        goto fail;
    o->fd = mkostemp(o->temp, O_CLOEXEC);
    if (o->fd < 0) {
        st = fail_errno(path, "create a temporary file beside it", errno);
        goto fail;
    }
    (void)fchmod(o->fd, 0666 & ~mode_mask());
    *out = o;
    return QSAE_OK;
fail:
    qsae__output_discard(&o);
    return st;
}

static int32_t write_at(qsae__output *o, uint64_t offset, const void *data, size_t size)
{
    const char *p = data;
    while (size > 0) {
        const ssize_t n = pwrite(o->fd, p, size < MOST ? size : MOST, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail_errno(o->path, "write", errno);
        p += n;
        size -= (size_t)n;
        offset += (uint64_t)n;
    }
    return QSAE_OK;
}

int32_t qsae__output_append(qsae__output *o, const void *data, size_t size)
{
    uint64_t end;
    if (!qsae__add_u64(o->size, size, &end) || end > INT64_MAX)
        return qsae__fail(QSAE_EOVERFLOW, "%s: too large", o->path);
    const int32_t st = write_at(o, o->size, data, size);
    if (st == QSAE_OK)
        o->size = end;
    return st;
}

int32_t qsae__output_patch(qsae__output *o, uint64_t offset, const void *data, size_t size)
{
    if (!qsae__range_in(offset, size, o->size))
        return qsae__fail(QSAE_EINTERNAL, "%s: bytes %llu to %llu are not written yet", o->path,
                          (unsigned long long)offset, (unsigned long long)(offset + size));
    return write_at(o, offset, data, size);
}

static int32_t sync_folder(const char *folder)
{
    const int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return fail_errno(folder, "open", errno);
    const int r = fsync(fd), e = errno;
    close(fd);
    /* Some file systems cannot sync folders; that is not the caller's failure. */
    return r == 0 || e == EINVAL || e == EROFS ? QSAE_OK : fail_errno(folder, "sync", e);
}

/* The folder entry itself must reach the disk, or a crash brings the old file back (or none). */
static int32_t sync_parent(qsae_context *ctx, const char *path)
{
    const char *const slash = strrchr(path, '/');
    if (!slash)
        return sync_folder(".");
    char *const folder = qsae__strndup(ctx, path, slash == path ? 1 : (size_t)(slash - path));
    if (!folder)
        return QSAE_ENOMEM;
    const int32_t st = sync_folder(folder);
    qsae__free(ctx, folder);
    return st;
}

int32_t qsae__output_commit(qsae__output **output)
{
    qsae__output *const o = *output;
    int32_t st = QSAE_OK;
    if (fsync(o->fd) != 0)
        st = fail_errno(o->path, "sync", errno);
    if (close(o->fd) != 0 && st == QSAE_OK)
        st = fail_errno(o->path, "close", errno);
    o->fd = -1;
    if (st == QSAE_OK && rename(o->temp, o->path) != 0)
        st = fail_errno(o->path, "rename to", errno);
    if (st != QSAE_OK) {
        (void)unlink(o->temp);
    } else {
        o->temp[0] = '\0'; /* nothing to remove */
        st = sync_parent(o->ctx, o->path);
    }
    qsae__output_discard(output);
    return st;
}

void qsae__output_discard(qsae__output **output)
{
    if (!output || !*output)
        return;
    qsae__output *const o = *output;
    qsae_context *const ctx = o->ctx;
    *output = NULL;
    if (o->fd >= 0) {
        close(o->fd);
        (void)unlink(o->temp);
    }
    qsae__free(ctx, o->path);
    qsae__free(ctx, o->temp);
    qsae__free(ctx, o);
    qsae__context_unref(ctx);
}

int32_t qsae__folder_temp(qsae_context *ctx, const char *path, char **temp)
{
    *temp = temp_name(ctx, path);
    if (!*temp)
        return QSAE_ENOMEM;
    if (!mkdtemp(*temp)) {
        const int32_t st = fail_errno(path, "create a temporary folder beside it", errno);
        qsae__free(ctx, *temp);
        *temp = NULL;
        return st;
    }
    (void)chmod(*temp, 0777 & ~mode_mask());
    return QSAE_OK;
}

bool qsae__folder_free(const char *path)
{
    DIR *const dir = opendir(path);
    bool empty = true;
    if (!dir)
        return errno == ENOENT;
    for (const struct dirent *e; empty && (e = readdir(dir));)
        empty = !strcmp(e->d_name, ".") || !strcmp(e->d_name, "..");
    closedir(dir);
    return empty;
}

int32_t qsae__folder_commit(qsae_context *ctx, const char *temp, const char *path)
{
    const int32_t st = sync_folder(temp);
    if (st != QSAE_OK)
        return st;
    if (rename(temp, path) != 0)
        return fail_errno(path, "rename to", errno);
    return sync_parent(ctx, path);
}

void qsae__folder_remove(qsae_context *ctx, const char *folder)
{
    char **names = NULL;
    int64_t n = 0;
    if (qsae__folder_list(ctx, folder, &names, &n) == QSAE_OK) {
        for (int64_t i = 0; i < n; i++) {
            char *const path = qsae__path_join(ctx, folder, names[i]);
            if (path)
                (void)unlink(path);
            qsae__free(ctx, path);
        }
        qsae__folder_list_free(ctx, names, n);
    }
    (void)rmdir(folder);
}
