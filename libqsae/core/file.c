/* SPDX-License-Identifier: BSD-2-Clause */
#include "core/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/checked.h"
#include "core/memory.h"
#include "core/output.h"
#include "core/status.h"

#define AT_ONCE (1u << 24) /* bytes that are read at once */

#define MOST ((size_t)1 << 30) /* of one write */

int32_t qsae__fail_errno(const char *path, const char *what, int e)
{
    const int32_t st = e == ENOENT || e == ENOTDIR ? QSAE_ENOENT
                       : e == ENOMEM               ? QSAE_ENOMEM
                                                   : QSAE_EIO;
    return qsae__fail(st, "%s: cannot %s: %s", path, what, strerror(e));
}

int qsae__write_all(int fd, const void *data, size_t bytes, uint64_t at)
{
    const char *p = data;
    while (bytes > 0) {
        const ssize_t n = pwrite(fd, p, bytes < MOST ? bytes : MOST, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? errno : EIO;
        p += n;
        at += (uint64_t)n;
        bytes -= (size_t)n;
    }
    return 0;
}

static int32_t read_all(int fd, const char *path, uint8_t *data, uint64_t size)
{
    uint64_t done = 0;
    while (done < size) {
        const ssize_t n = read(fd, data + done, size - done < AT_ONCE ? size - done : AT_ONCE);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return qsae__fail_errno(path, "read", errno);
        if (n == 0)
            return qsae__fail(QSAE_EIO, "%s: file became shorter while it was read", path);
        done += (uint64_t)n;
    }
    return QSAE_OK;
}

static int open_to_read(const char *path)
{
    int fd;
    do
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    while (fd < 0 && errno == EINTR);
    return fd;
}

int32_t qsae__file_open(qsae_context *ctx, const char *path, qsae__file **out)
{
    *out = NULL;
    int32_t st = QSAE_OK;
    qsae__file *f = NULL;
    struct stat info;
    const int fd = open_to_read(path);
    if (fd < 0)
        return qsae__fail_errno(path, "open", errno);
    if (fstat(fd, &info) != 0) {
        st = qsae__fail_errno(path, "stat", errno);
        goto fail;
    }
    if (!S_ISREG(info.st_mode)) {
        st = qsae__fail(QSAE_EIO, "%s: expected a regular file", path);
        goto fail;
    }
    f = qsae__calloc(ctx, 1, sizeof *f);
    if (!f) {
        st = QSAE_ENOMEM;
        goto fail;
    }
    f->ctx = ctx;
    f->size = (uint64_t)info.st_size;
    f->device = (uint64_t)info.st_dev;
    f->inode = (uint64_t)info.st_ino;
    if (!(f->path = qsae__strdup(ctx, path))) {
        st = QSAE_ENOMEM;
        goto fail;
    }
    f->mapped = ctx->files == QSAE_FILES_MAP && f->size > 0;
    if (f->mapped) {
        void *p = mmap(NULL, f->size, PROT_READ, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED) {
            f->mapped = false;
            st = qsae__fail_errno(path, "map", errno);
            goto fail;
        }
        f->data = p;
    } else {
        uint8_t *p = qsae__alloc(ctx, f->size);
        f->data = p;
        st = p ? read_all(fd, path, p, f->size) : QSAE_ENOMEM;
        if (st != QSAE_OK)
            goto fail;
    }
    close(fd);
    qsae__context_ref(ctx);
    *out = f;
    return QSAE_OK;
fail:
    close(fd);
    if (f) {
        qsae__free(ctx, (void *)(uintptr_t)f->data); /* not mapped: nothing fails after that */
        qsae__free(ctx, f->path);
        qsae__free(ctx, f);
    }
    return st;
}

void qsae__file_close(qsae__file **file)
{
    if (!file || !*file)
        return;
    qsae__file *f = *file;
    qsae_context *ctx = f->ctx;
    if (f->mapped)
        munmap((void *)(uintptr_t)f->data, f->size);
    else
        qsae__free(ctx, (void *)(uintptr_t)f->data);
    qsae__free(ctx, f->path);
    qsae__free(ctx, f);
    qsae__context_unref(ctx);
    *file = NULL;
}

void qsae__file_expect(const qsae__file *f, const void *at, size_t size)
{
    const uintptr_t base = (uintptr_t)f->data, p = (uintptr_t)at;
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    if (!f->mapped || p < base || p - base >= f->size)
        return;
    const uint64_t offset = p - base, rest = f->size - offset, begin = offset - offset % page;
    const uint64_t end = offset + (size < rest ? size : rest);
    const int e = errno; /* a refusal only makes the first use slower */
    (void)madvise((void *)(uintptr_t)(f->data + begin), end - begin, MADV_WILLNEED);
    errno = e;
}

void qsae__file_release(const qsae__file *f, const void *at, size_t size)
{
    const uintptr_t base = (uintptr_t)f->data, p = (uintptr_t)at;
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    if (!f->mapped || p < base || p - base >= f->size)
        return;
    /* Inwards, so that neighbours stay; nothing shares the last page beyond the file's end. */
    const uint64_t offset = p - base, rest = f->size - offset;
    const uint64_t end = size < rest ? offset + size - (offset + size) % page : f->size;
    const uint64_t begin = offset + (page - offset % page) % page;
    const int e = errno; /* a refusal only leaves pages where they are */
    if (begin < end)
        (void)madvise((void *)(uintptr_t)(f->data + begin), end - begin, MADV_DONTNEED);
    errno = e;
}

int qsae__file_reopen(const qsae__file *f)
{
    struct stat info;
    const int e = errno;
    int fd = f->mapped ? open_to_read(f->path) : -1;
    if (fd >= 0 && (fstat(fd, &info) != 0 || (uint64_t)info.st_dev != f->device ||
                    (uint64_t)info.st_ino != f->inode || (uint64_t)info.st_size != f->size)) {
        close(fd);
        fd = -1;
    }
    errno = e;
    return fd;
}

int32_t qsae__file_write(qsae_context *ctx, const char *path, const void *data, size_t size)
{
    qsae__output *o = NULL;
    int32_t st = qsae__output_open(ctx, path, &o);
    if (st != QSAE_OK)
        return st;
    st = qsae__output_append(o, data, size);
    if (st == QSAE_OK)
        return qsae__output_commit(&o);
    qsae__output_discard(&o);
    return st;
}

/* Nothing is there; every other failure to look leaves that open. */
static bool is_absent(int e)
{
    return e == ENOENT || e == ENOTDIR || e == ENAMETOOLONG;
}

bool qsae__file_exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 ? S_ISREG(info.st_mode) : !is_absent(errno);
}

int32_t qsae__path_look(const char *path, bool *exists)
{
    struct stat info;
    *exists = stat(path, &info) == 0;
    return *exists || is_absent(errno) ? QSAE_OK : qsae__fail_errno(path, "stat", errno);
}

bool qsae__folder_exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

char *qsae__path_join(qsae_context *ctx, const char *folder, const char *name)
{
    const size_t a = strlen(folder), b = strlen(name), slash = a > 0 && folder[a - 1] != '/';
    char *path = qsae__alloc(ctx, a + slash + b + 1);
    if (!path)
        return NULL;
    memcpy(path, folder, a);
    if (slash)
        path[a] = '/';
    memcpy(path + a + slash, name, b + 1);
    return path;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int32_t qsae__folder_list(qsae_context *ctx, const char *path, char ***names, int64_t *count)
{
    *names = NULL;
    *count = 0;
    DIR *dir = opendir(path);
    if (!dir)
        return qsae__fail_errno(path, "open", errno);
    int32_t st = QSAE_OK;
    char **list = NULL;
    int64_t n = 0, capacity = 0;
    while (st == QSAE_OK) {
        errno = 0;
        const struct dirent *const e = readdir(dir);
        if (!e) {
            st = errno ? qsae__fail_errno(path, "read", errno) : QSAE_OK;
            break;
        }
        char *full = qsae__path_join(ctx, path, e->d_name);
        if (!full) {
            st = QSAE_ENOMEM;
        } else if (qsae__file_exists(full)) {
            st = qsae__grow(ctx, &list, &capacity, n + 1, sizeof *list);
            if (st == QSAE_OK && !(list[n] = qsae__strdup(ctx, e->d_name)))
                st = QSAE_ENOMEM;
            if (st == QSAE_OK)
                n++;
        }
        qsae__free(ctx, full);
    }
    closedir(dir);
    if (st != QSAE_OK) {
        qsae__folder_list_free(ctx, list, n);
        return st;
    }
    if (n)
        qsort(list, (size_t)n, sizeof *list, by_name);
    *names = list;
    *count = n;
    return QSAE_OK;
}

void qsae__folder_list_free(qsae_context *ctx, char **names, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        qsae__free(ctx, names[i]);
    qsae__free(ctx, names);
}

bool qsae__plain_name(const char *name)
{
    if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return false;
    for (const char *p = name; *p; p++)
        if (*p == '/' || *p == '\\' || (unsigned char)*p < 0x20 || *p == 0x7f)
            return false;
    return true;
}
