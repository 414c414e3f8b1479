/* SPDX-License-Identifier: BSD-2-Clause */
#include "core/output.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/checked.h"
#include "core/file.h"
#include "core/memory.h"
#include "core/status.h"

/* Six letters that other processes and threads are unlikely to choose, too. */
static void choose_letters(char *at)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    uint64_t x;
    struct timespec now;
    if (getrandom(&x, sizeof x, GRND_NONBLOCK) != (ssize_t)sizeof x) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        x = ((uint64_t)now.tv_nsec << 32 ^ (uint64_t)now.tv_sec << 20 ^ (uint64_t)getpid() ^
             (uint64_t)(uintptr_t)&x) * 0x9e3779b97f4a7c15u >> 16;
    }
    for (int i = 0; i < 6; i++, x /= sizeof letters - 1)
        at[i] = letters[x % (sizeof letters - 1)];
}

/* path + ".tmp-XXXXXX", NULL without memory. */
static char *temp_name(qsae_context *ctx, const char *path)
{
    const size_t n = strlen(path) + 32;
    char *const temp = qsae__alloc(ctx, n);
    if (temp)
        snprintf(temp, n, "%s.tmp-XXXXXX", path);
    return temp;
}

/* A new file (a descriptor) or folder (0) with other letters at the end of that name, its mode as
 * the process's umask has it; -1 with errno. */
static int make_new(char *temp, bool folder)
{
    int r = -1;
    for (int tries = 0; r < 0 && tries < 100; tries++) {
        choose_letters(temp + strlen(temp) - 6);
        r = folder ? mkdir(temp, 0777)
                   : open(temp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (r < 0 && errno != EEXIST && errno != EINTR)
            break;
    }
    return r;
}

int32_t qsae__output_open(qsae_context *ctx, const char *path, qsae__output **out)
{
    *out = NULL;
    if (!*path)
        return qsae__fail(QSAE_EINVAL, "a file to write: its name is empty");
    qsae__output *o = qsae__calloc(ctx, 1, sizeof *o);
    if (!o)
        return QSAE_ENOMEM;
    o->ctx = qsae__context_ref(ctx);
    o->fd = -1;
    int32_t st = QSAE_ENOMEM;
    o->path = qsae__strdup(ctx, path);
    o->temp = temp_name(ctx, path);
    o->kept = temp_name(ctx, path);
    if (!o->path || !o->temp || !o->kept)
        goto fail;
    o->fd = make_new(o->temp, false);
    if (o->fd < 0) {
        st = qsae__fail_errno(path, "create a temporary file beside it", errno);
        goto fail;
    }
    *out = o;
    return QSAE_OK;
fail:
    qsae__output_discard(&o);
    return st;
}

static int32_t write_at(qsae__output *o, uint64_t offset, const void *data, size_t size)
{
    const int e = qsae__write_all(o->fd, data, size, offset);
    return e ? qsae__fail_errno(o->path, "write", e) : QSAE_OK;
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
                          (unsigned long long)offset, (unsigned long long)offset + size);
    return write_at(o, offset, data, size);
}

/*
 * An interrupted sync has not run; any other failure is final: the kernel may have dropped what it
 * could not write, and a second sync would find nothing to do.
 */
static int sync_once(int fd)
{
    int r;
    do
        r = fsync(fd);
    while (r != 0 && errno == EINTR);
    return r;
}

/* The folder that holds path, opened before anything changes: then only its sync can fail. */
static int32_t open_parent(qsae_context *ctx, const char *path, int *fd)
{
    const char *const slash = strrchr(path, '/');
    const size_t n = slash == path ? 1 : slash ? (size_t)(slash - path) : 1;
    char *const folder = qsae__strndup(ctx, slash ? path : ".", n);
    if (!folder)
        return QSAE_ENOMEM;
    do
        *fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    while (*fd < 0 && errno == EINTR);
    const int32_t st = *fd < 0 ? qsae__fail_errno(folder, "open", errno) : QSAE_OK;
    qsae__free(ctx, folder);
    return st;
}

/* Some file systems cannot sync folders; that is not the caller's failure. */
static bool sync_parent(int fd)
{
    return sync_once(fd) == 0 || errno == EINVAL || errno == EROFS;
}

/* Gives the file at path a second name, kept, by which it can come back; kept is "" if there is
 * none or the file system has no such names. */
static void keep_old(const char *path, char *kept)
{
    int r = -1;
    for (int tries = 0; r != 0 && tries < 100; tries++) {
        choose_letters(kept + strlen(kept) - 6);
        r = link(path, kept);
        if (r != 0 && errno != EEXIST)
            break;
    }
    if (r != 0)
        kept[0] = '\0';
}

/* The new entry reaches the disk (or a crash could bring the old file back), else the old one
 * returns. */
static int32_t take_place(const qsae__output *o, int folder)
{
    const bool replaces = access(o->path, F_OK) == 0 || errno != ENOENT;
    keep_old(o->path, o->kept);
    if (rename(o->temp, o->path) != 0) {
        const int32_t st = qsae__fail_errno(o->path, "rename to", errno);
        if (o->kept[0])
            (void)unlink(o->kept);
        return st;
    }
    if (sync_parent(folder)) {
        if (o->kept[0])
            (void)unlink(o->kept);
        return QSAE_OK;
    }
    const int e = errno;
    if (o->kept[0])
        (void)rename(o->kept, o->path);
    else if (!replaces)
        (void)unlink(o->path);
    return qsae__fail_errno(o->path, "sync the folder of", e);
}

int32_t qsae__output_commit(qsae__output **output)
{
    qsae__output *const o = *output;
    int folder = -1;
    int32_t st = open_parent(o->ctx, o->path, &folder);
    if (st == QSAE_OK && sync_once(o->fd) != 0)
        st = qsae__fail_errno(o->path, "sync", errno);
    /* Linux closes a descriptor whatever close says, and all has been synced when it says EINTR. */
    if (close(o->fd) != 0 && errno != EINTR && st == QSAE_OK)
        st = qsae__fail_errno(o->path, "close", errno);
    o->fd = -1;
    if (st == QSAE_OK)
        st = take_place(o, folder);
    if (st != QSAE_OK)
        (void)unlink(o->temp);
    if (folder >= 0)
        close(folder);
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
    qsae__free(ctx, o->kept);
    qsae__free(ctx, o);
    qsae__context_unref(ctx);
}

int32_t qsae__folder_temp(qsae_context *ctx, const char *path, char **temp)
{
    *temp = temp_name(ctx, path);
    if (!*temp)
        return QSAE_ENOMEM;
    if (make_new(*temp, true) != 0) {
        const int32_t st = qsae__fail_errno(path, "create a temporary folder beside it", errno);
        qsae__free(ctx, *temp);
        *temp = NULL;
        return st;
    }
    return QSAE_OK;
}

int32_t qsae__folder_free(const char *path, bool *empty)
{
    DIR *const dir = opendir(path);
    *empty = !dir && errno == ENOENT;
    if (!dir)
        return *empty || errno == ENOTDIR ? QSAE_OK : qsae__fail_errno(path, "open", errno);
    *empty = true;
    errno = 0;
    for (const struct dirent *e; *empty && (e = readdir(dir));)
        *empty = !strcmp(e->d_name, ".") || !strcmp(e->d_name, "..");
    const int e = errno;
    closedir(dir);
    return *empty && e ? qsae__fail_errno(path, "read", e) : QSAE_OK;
}

int32_t qsae__folder_commit(qsae_context *ctx, const char *temp, const char *path)
{
    char *const inside = qsae__path_join(ctx, temp, ".");
    int own = -1, parent = -1;
    int32_t st = inside ? open_parent(ctx, inside, &own) : QSAE_ENOMEM;
    if (st == QSAE_OK)
        st = open_parent(ctx, path, &parent);
    if (st == QSAE_OK && !sync_parent(own))
        st = qsae__fail_errno(temp, "sync", errno);
    if (st == QSAE_OK && rename(temp, path) != 0)
        st = qsae__fail_errno(path, "rename to", errno);
    else if (st == QSAE_OK && !sync_parent(parent)) {
        st = qsae__fail_errno(path, "sync the folder of", errno);
        (void)rename(path, temp); /* where the caller removes it */
    }
    if (own >= 0)
        close(own);
    if (parent >= 0)
        close(parent);
    qsae__free(ctx, inside);
    return st;
}

/* Files of the folder, as far as one pass over it sees them; whether there were any. */
static bool remove_files(int folder)
{
    _Alignas(struct dirent64) char list[4096] = { 0 };
    bool any = false;
    ssize_t n;
    while ((n = getdents64(folder, list, sizeof list)) > 0)
        for (ssize_t at = 0; at < n;) {
            const struct dirent64 *const e = (const struct dirent64 *)(const void *)(list + at);
            any |= unlinkat(folder, e->d_name, 0) == 0; /* not of . and .. */
            at += e->d_reclen;
        }
    return any;
}

/* Takes no memory: there may be none. */
void qsae__folder_remove(const char *folder)
{
    int fd;
    do
        fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    while (fd < 0 && errno == EINTR);
    while (fd >= 0 && remove_files(fd))
        (void)lseek(fd, 0, SEEK_SET);
    if (fd >= 0)
        close(fd);
    (void)rmdir(folder);
}
