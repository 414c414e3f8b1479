/* SPDX-License-Identifier: BSD-2-Clause */
/* Folders that a test saves, reads and removes. */
#ifndef QSAE_TESTS_MODEL_FOLDERS_H
#define QSAE_TESTS_MODEL_FOLDERS_H

#include "model_test.h"

#include <dirent.h>
#include <unistd.h>

#include "formats/formats.h"

static inline void join(char path[600], const char *a, const char *b)
{
    if (snprintf(path, 600, "%s/%s", a, b) >= 600)
        fail_msg("%s: path too long", a);
}

static inline qsae__tensors *load(qsae_context *ctx, const char *folder, const char *file)
{
    char path[600];
    qsae__tensors *t = NULL;
    join(path, folder, file);
    OK(qsae__tensors_load(ctx, path, &t));
    return t;
}

/* Removes a folder of plain files. */
static inline void remove_folder(const char *folder)
{
    char path[600];
    DIR *const dir = opendir(folder);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        join(path, folder, e->d_name);
        unlink(path);
    }
    if (dir)
        closedir(dir);
    rmdir(folder);
}

static inline int64_t entries(const char *folder)
{
    int64_t n = 0;
    DIR *const dir = opendir(folder);
    for (struct dirent *e; dir && (e = readdir(dir));)
        n += e->d_name[0] != '.';
    if (dir)
        closedir(dir);
    return n;
}

static inline void save(qsae_context *ctx, const char *source, const char *condition,
                        const char *out, int32_t dtype, uint64_t shard)
{
    qsae_weights *w = NULL;
    qsae_save_settings s;
    OK(qsae_weights_open(ctx, source, &w));
    qsae_save_settings_init(&s, sizeof s);
    s.dtype = dtype;
    s.max_shard_bytes = shard;
    OK(qsae_weights_save(w, condition, out, &s));
    qsae_weights_close(&w);
}

static inline json_t *config_of(qsae_context *ctx, const char *folder)
{
    char path[600];
    json_t *j = NULL;
    join(path, folder, "config.json");
    OK(qsae__json_load(ctx, path, &j));
    return j;
}

#endif
