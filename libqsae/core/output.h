/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_CORE_OUTPUT_H
#define QSAE_CORE_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/context.h"

/* The one file writer: a temporary file beside its place until it is complete. */
typedef struct qsae__output {
    qsae_context *ctx;
    char *path, *temp;
    char *kept;              /* name of the old file while the new one takes its place */
    uint64_t size;           /* appended so far */
    int fd;
} qsae__output;

int32_t qsae__output_open(qsae_context *ctx, const char *path, qsae__output **out);
int32_t qsae__output_append(qsae__output *o, const void *data, size_t size);
/* Writes over bytes appended before. */
int32_t qsae__output_patch(qsae__output *o, uint64_t offset, const void *data, size_t size);
/* fsync, rename, fsync of the folder; closes *output whatever happens. On error what was at the
 * path is there still, but where a file system has no hard links and its folder cannot be synced: then
 * the new file, whole. */
int32_t qsae__output_commit(qsae__output **output);
/* Closes *output and leaves no file. NULL is fine. */
void qsae__output_discard(qsae__output **output);

/* *empty: nothing is at path, or an empty folder. */
int32_t qsae__folder_free(const char *path, bool *empty);
/* "path.tmp-XXXXXX" as a new folder; the caller frees *temp. */
int32_t qsae__folder_temp(qsae_context *ctx, const char *path, char **temp);
/* The folder's entries reach the disk; it takes its place, where nothing or an empty folder is. */
int32_t qsae__folder_commit(qsae_context *ctx, const char *temp, const char *path);
/* Removes the regular files of a folder and the folder. */
void qsae__folder_remove(const char *folder);

#endif
