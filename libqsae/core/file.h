/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_CORE_FILE_H
#define QSAE_CORE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/context.h"

/* The one file reader: a regular file, mapped read-only or read whole
 * (qsae_context_settings.files). */
typedef struct qsae__file {
    const uint8_t *data;   /* any alignment is only by the operating system's page */
    uint64_t size;
    qsae_context *ctx;
    char *path;
    bool mapped;
    uint64_t device, inode; /* what was opened */
} qsae__file;

int32_t qsae__file_open(qsae_context *ctx, const char *path, qsae__file **out);
void qsae__file_close(qsae__file **file);

/* [at, at + size) of the file's data will not be used for a while: its whole pages need not stay in
 * memory. They read the same afterwards, from the file again. Nothing for a file read whole. */
void qsae__file_release(const qsae__file *f, const void *at, size_t size);

/* A descriptor to read a mapped file with where its pages should not come into memory at all; the
 * caller closes it. -1 where that is not the same file any more, or none that is mapped. */
int qsae__file_reopen(const qsae__file *f);
/* They will be used soon: the system may begin to read them. Nothing for a file read whole. */
void qsae__file_expect(const qsae__file *f, const void *at, size_t size);

/* "PATH: cannot WHAT: ...", what the system says of errno e, with its status. */
int32_t qsae__fail_errno(const char *path, const char *what, int e);

/* All of it, at an offset, through interruptions and short counts; 0 or an errno. */
int qsae__write_all(int fd, const void *data, size_t bytes, uint64_t at);

/* Writes data to path: temporary file in the same folder, fsync, rename, fsync of the folder. */
int32_t qsae__file_write(qsae_context *ctx, const char *path, const void *data, size_t size);

/* A regular file. True too where the system cannot tell (EIO, EACCES): opening it says why, while an
 * optional file taken for absent would be left out in silence. */
bool qsae__file_exists(const char *path);
bool qsae__folder_exists(const char *path);
/* Whether there is anything; an error where the system cannot tell. */
int32_t qsae__path_look(const char *path, bool *exists);

/* folder + "/" + name; NULL with ENOMEM. */
char *qsae__path_join(qsae_context *ctx, const char *folder, const char *name);

/* Names of the regular files in a folder, byte order; one allocation each. */
int32_t qsae__folder_list(qsae_context *ctx, const char *path, char ***names, int64_t *count);
void qsae__folder_list_free(qsae_context *ctx, char **names, int64_t count);

/* A plain name: not empty, no separator, not "." or "..", no NUL or control characters. */
bool qsae__plain_name(const char *name);

#endif
