/* SPDX-License-Identifier: BSD-2-Clause */
/* Folders that a test saves, reads and removes. */
#ifndef QSAE_TESTS_MODEL_FOLDERS_H
#define QSAE_TESTS_MODEL_FOLDERS_H

#include "model_test.h"

#include <dirent.h>
#include <sys/stat.h>
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

/* "from" in the test's folder: a checkpoint with its configuration changed and tensors added, or
 * replaced by name. */
static inline void make_source(qsae_context *ctx, const char *model, json_t *config,
                               const qsae__tensor *extra, int64_t n_extra, char path[600])
{
    char file[600];
    qsae__tensor list[100];
    qsae__tensors *t = load(ctx, test_model_path(model), "model.safetensors");
    int64_t n = qsae__tensors_len(t);
    assert_true(n + n_extra <= 100);
    for (int64_t i = 0; i < n; i++)
        list[i] = *qsae__tensors_at(t, i);
    for (int64_t i = 0, at; i < n_extra; i++) {
        for (at = 0; at < n && strcmp(list[at].name, extra[i].name) != 0; at++)
            ;
        n += at == n;
        list[at] = extra[i];
    }
    join(path, test_folder(), "from");
    assert_int_equal(mkdir(path, 0777), 0);
    join(file, path, "model.safetensors");
    OK(qsae__safetensors_write(ctx, file, list, n));
    qsae__tensors_unref(&t);
    join(file, path, "config.json");
    assert_int_equal(json_dump_file(config, file, 0), 0);
    json_decref(config);
}

#endif
