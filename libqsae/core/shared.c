/* SPDX-License-Identifier: BSD-2-Clause */
#include "core/shared.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/file.h"
#include "core/hash.h"
#include "core/memory.h"
#include "core/status.h"

#define PAGE ((uintptr_t)4096) /* mappings begin at multiples of it on every machine */

struct piece {
    uintptr_t at;
    size_t bytes;
};

struct qsae__shares {
    char *folder;
    size_t least;
    pthread_mutex_t mutex;     /* of what follows */
    struct piece *list;        /* [n] by address */
    int64_t n, capacity;
    bool full;                 /* no room was met: nothing more is written */
    bool gone;                 /* no folder was met, which is said once */
};

/* Whether nobody but this user can change it. */
static bool is_own(const struct stat *info)
{
    return info->st_uid == geteuid() && (info->st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

int32_t qsae__shares_open(qsae_context *ctx, const char *folder)
{
    struct stat info;
    if (stat(folder, &info) != 0)
        return qsae__fail_errno(folder, "look at the share_folder", errno);
    if (!S_ISDIR(info.st_mode) || !is_own(&info))
        return qsae__fail(QSAE_EINVAL, "share_folder: %s: expected a folder of this user that "
                          "nobody else can write, found %s", folder,
                          S_ISDIR(info.st_mode) ? "one that others can" : "something else");
    struct qsae__shares *const s = qsae__calloc(ctx, 1, sizeof *s);
    if (!s)
        return QSAE_ENOMEM;
    s->least = QSAE__SHARE_LEAST;
    s->mutex = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    s->folder = qsae__strdup(ctx, folder);
    if (!s->folder) {
        qsae__free(ctx, s);
        return QSAE_ENOMEM;
    }
    ctx->shares = s;
    return QSAE_OK;
}

void qsae__shares_close(qsae_context *ctx)
{
    struct qsae__shares *const s = ctx->shares;
    ctx->shares = NULL;
    if (!s)
        return;
    qsae__free(ctx, s->list);
    qsae__free(ctx, s->folder);
    qsae__free(ctx, s);
}

void qsae__shares_set_least(qsae_context *ctx, size_t bytes)
{
    ctx->shares->least = bytes;
}

int64_t qsae__shares_held(qsae_context *ctx, uint64_t *bytes)
{
    struct qsae__shares *const s = ctx->shares;
    *bytes = 0;
    if (!s)
        return 0;
    pthread_mutex_lock(&s->mutex);
    const int64_t n = s->n;
    for (int64_t i = 0; i < n; i++)
        *bytes += s->list[i].bytes;
    pthread_mutex_unlock(&s->mutex);
    return n;
}

/* ---- what is shared now ---- */

/* Where a piece at that address is in the list, or would be. */
static int64_t place_of(const struct qsae__shares *s, uintptr_t at)
{
    int64_t from = 0, to = s->n;
    while (from < to) {
        const int64_t middle = from + (to - from) / 2;
        if (s->list[middle].at < at)
            from = middle + 1;
        else
            to = middle;
    }
    return from;
}

static bool is_piece(struct qsae__shares *s, const void *p)
{
    pthread_mutex_lock(&s->mutex);
    const int64_t i = place_of(s, (uintptr_t)p);
    const bool found = i < s->n && s->list[i].at == (uintptr_t)p;
    pthread_mutex_unlock(&s->mutex);
    return found;
}

/* Not by qsae__grow: qsae__free would wait for the lock that is held here. */
static int32_t grow_list(qsae_context *ctx, struct qsae__shares *s)
{
    const int64_t capacity = s->capacity ? 2 * s->capacity : 64;
    struct piece *const list = qsae__alloc_array(ctx, capacity, sizeof *list);
    if (!list)
        return QSAE_ENOMEM;
    if (s->n)
        memcpy(list, s->list, (size_t)s->n * sizeof *list);
    if (s->list)
        ctx->free(ctx->alloc_cookie, s->list);
    s->list = list;
    s->capacity = capacity;
    return QSAE_OK;
}

static int32_t add_piece(qsae_context *ctx, const void *p, size_t bytes)
{
    struct qsae__shares *const s = ctx->shares;
    int32_t st = QSAE_OK;
    pthread_mutex_lock(&s->mutex);
    if (s->n == s->capacity)
        st = grow_list(ctx, s);
    if (st == QSAE_OK) {
        const int64_t i = place_of(s, (uintptr_t)p);
        memmove(s->list + i + 1, s->list + i, (size_t)(s->n - i) * sizeof *s->list);
        s->list[i] = (struct piece){ (uintptr_t)p, bytes };
        s->n++;
    }
    pthread_mutex_unlock(&s->mutex);
    return st;
}

bool qsae__share_end(qsae_context *ctx, void *p)
{
    struct qsae__shares *const s = ctx->shares;
    struct piece piece = { 0, 0 };
    if ((uintptr_t)p % PAGE != 0)
        return false;
    pthread_mutex_lock(&s->mutex);
    const int64_t i = place_of(s, (uintptr_t)p);
    if (i < s->n && s->list[i].at == (uintptr_t)p) {
        piece = s->list[i];
        s->n--;
        memmove(s->list + i, s->list + i + 1, (size_t)(s->n - i) * sizeof *s->list);
    }
    pthread_mutex_unlock(&s->mutex);
    if (piece.at)
        munmap(p, piece.bytes);
    return piece.at != 0;
}

/* ---- files ---- */

/* One line in the log, and the bytes stay with their process; once: the first time alone. */
static void leave(qsae_context *ctx, bool *once, const char *path, const char *why)
{
    bool said = false;
    if (once) {
        pthread_mutex_lock(&ctx->shares->mutex);
        said = *once;
        *once = true;
        pthread_mutex_unlock(&ctx->shares->mutex);
    }
    if (!said)
        qsae__log(ctx, once == &ctx->shares->gone ? QSAE_LOG_INFO : QSAE_LOG_WARNING,
                  "%s: %s: weights %s", path, why,
                  once ? "that come are this process's own" : "of this name are not shared");
}

static int32_t map(const char *path, int fd, size_t bytes, void **out)
{
    void *const p = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return qsae__fail_errno(path, "map", errno);
    *out = p;
    return QSAE_OK;
}

static void unmap(void **out, size_t bytes)
{
    munmap(*out, bytes);
    *out = NULL;
}

enum found { NONE, MAPPED, OTHER };

/* The file of that name, if it has these bytes. */
static int32_t take(qsae_context *ctx, const char *path, const void *data, size_t bytes,
                    enum found *found, void **out)
{
    struct stat info;
    int32_t st = QSAE_OK;
    int fd;
    *found = OTHER;
    do /* a symbolic link would lead out of the folder */
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    while (fd < 0 && errno == EINTR);
    if (fd < 0 && errno == ENOENT) {
        *found = NONE;
        return QSAE_OK;
    }
    if (fd < 0 && errno != ELOOP)
        return qsae__fail_errno(path, "open", errno);
    if (fd < 0) {
        leave(ctx, NULL, path, "is a symbolic link");
        return QSAE_OK;
    }
    if (fstat(fd, &info) != 0)
        st = qsae__fail_errno(path, "stat", errno);
    else if (!S_ISREG(info.st_mode) || !is_own(&info) || (uint64_t)info.st_size != bytes)
        leave(ctx, NULL, path, "is no file of its size that only this user can write");
    else if ((st = map(path, fd, bytes, out)) == QSAE_OK)
        *found = MAPPED;
    close(fd);
    if (*found == MAPPED && memcmp(*out, data, bytes) != 0) {
        unmap(out, bytes);
        *found = OTHER;
        leave(ctx, NULL, path, "has not the bytes of its name");
    }
    return st;
}

/* What a new file may fail in and the bytes stay as they are. */
static bool is_left(qsae_context *ctx, const char *path, int e)
{
    if (e == ENOSPC || e == EDQUOT)
        leave(ctx, &ctx->shares->full, path, "no room");
    else if (e == ENOENT)
        leave(ctx, &ctx->shares->gone, path, "the folder is gone");
    return e == ENOSPC || e == EDQUOT || e == ENOENT;
}

/* A file without that name yet; -1 with errno. */
static int new_file(char *temp)
{
    int fd;
    do {
        memset(temp + strlen(temp) - 6, 'X', 6);
        fd = mkostemp(temp, O_CLOEXEC);
    } while (fd < 0 && errno == EINTR);
    return fd;
}

/* The bytes in a new file, mapped; it gets the name unless another was faster (*found: OTHER). */
static int32_t make(qsae_context *ctx, const char *path, char *temp, const void *data,
                    size_t bytes, enum found *found, void **out)
{
    int32_t st = QSAE_OK;
    *found = NONE;
    const int fd = new_file(temp);
    if (fd < 0)
        return is_left(ctx, path, errno) ? QSAE_OK : qsae__fail_errno(path, "create", errno);
    const int e = qsae__write_all(fd, data, bytes, 0);
    if (e)
        st = is_left(ctx, path, e) ? QSAE_OK : qsae__fail_errno(path, "write", e);
    else if ((st = map(path, fd, bytes, out)) == QSAE_OK)
        *found = MAPPED;
    close(fd);
    if (*found == MAPPED && link(temp, path) != 0) {
        const int why = errno;
        unmap(out, bytes);
        *found = why == EEXIST ? OTHER : NONE;
        if (why != EEXIST && !is_left(ctx, path, why))
            st = qsae__fail_errno(path, "give a file that name", why);
    }
    (void)unlink(temp);
    return st;
}

static int32_t share(qsae_context *ctx, const char *path, char *temp, const void *data,
                     size_t bytes, void **out)
{
    struct qsae__shares *const s = ctx->shares;
    enum found found;
    int32_t st = take(ctx, path, data, bytes, &found, out);
    if (st != QSAE_OK || found != NONE)
        return st;
    pthread_mutex_lock(&s->mutex);
    const bool none = s->full;
    pthread_mutex_unlock(&s->mutex);
    if (none)
        return QSAE_OK;
    st = make(ctx, path, temp, data, bytes, &found, out);
    if (st == QSAE_OK && found == OTHER)
        st = take(ctx, path, data, bytes, &found, out);
    return st;
}

int32_t qsae__share(qsae_context *ctx, void *data, size_t bytes)
{
    struct qsae__shares *const s = ctx->shares;
    char hash[QSAE__HASH_SIZE], name[QSAE__HASH_SIZE + 32];
    void *own, *shared = NULL;
    memcpy(&own, data, sizeof own);
    if (!s || !own || bytes < s->least || bytes == 0 || is_piece(s, own))
        return QSAE_OK;
    qsae__hash(own, bytes, hash);
    snprintf(name, sizeof name, "%s-%zu", hash, bytes);
    char *const path = qsae__path_join(ctx, s->folder, name);
    snprintf(name, sizeof name, "%.8s.tmp-XXXXXX", hash);
    char *const temp = qsae__path_join(ctx, s->folder, name);
    int32_t st = path && temp ? share(ctx, path, temp, own, bytes, &shared) : QSAE_ENOMEM;
    qsae__free(ctx, path);
    qsae__free(ctx, temp);
    if (st == QSAE_OK && shared && (st = add_piece(ctx, shared, bytes)) != QSAE_OK)
        munmap(shared, bytes);
    if (st != QSAE_OK || !shared)
        return st;
    ctx->free(ctx->alloc_cookie, own);
    memcpy(data, &shared, sizeof shared);
    return QSAE_OK;
}
