/* SPDX-License-Identifier: BSD-2-Clause */
/* Which reader a path needs: by content, never by name. */
#include <string.h>

#include "formats/set.h"

enum kind { KIND_SAFETENSORS, KIND_NPY, KIND_ZIP, KIND_PICKLE, KIND_GGUF };

int32_t qsae__pickle_refused(const char *path)
{
    return qsae__fail(QSAE_EPICKLE, "%s: pickle files can run code and are refused; convert to "
                      "cfg.json + sae_weights.safetensors (or model.safetensors)", path);
}

static enum kind sniff(const qsae__file *f)
{
    const uint8_t *const p = f->data;
    const uint64_t size = f->size;

    if (qsae__is_gguf(f))
        return KIND_GGUF;
    if (size >= 6 && memcmp(p, "\x93NUMPY", 6) == 0)
        return KIND_NPY;
    if (size >= 4 && (memcmp(p, "PK\3\4", 4) == 0 || memcmp(p, "PK\5\6", 4) == 0))
        return KIND_ZIP;
    if (size >= 2 && p[0] == 0x80 && p[1] >= 2 && p[1] <= 5) {
        /* A safetensors header length may look the same: then 4 zero bytes and white space or a
         * brace follow, which no pickle has. */
        const bool header = size > 8 && memcmp(p + 4, "\0\0\0", 4) == 0 &&
                            memchr("{ \t\r\n", p[8], 5) != NULL;
        return header ? KIND_SAFETENSORS : KIND_PICKLE;
    }
    return KIND_SAFETENSORS;
}

static int32_t read_file(qsae__tensors *t, const char *path)
{
    qsae__file *file = NULL;
    const qsae__file *f;
    int32_t status = qsae__file_open(t->ctx, path, &file);

    if (status == QSAE_OK)
        status = qsae__set_add_file(t, &file);
    if (status != QSAE_OK)
        return status;
    f = t->files[t->n_files - 1];
    switch (sniff(f)) {
    case KIND_NPY:
        return qsae__npy_read(t, f);
    case KIND_ZIP:
        return qsae__npz_read(t, f);
    case KIND_PICKLE:
        return qsae__pickle_refused(path);
    case KIND_GGUF:
        return qsae__gguf_read(t, f);
    default:
        return qsae__safetensors_read(t, f);
    }
}

static bool has_ending(const char *name, const char *ending)
{
    const size_t n = strlen(name), m = strlen(ending);

    return n > m && strcmp(name + n - m, ending) == 0;
}

static bool pickle_name(const char *name)
{
    return has_ending(name, ".bin") || has_ending(name, ".pt") || has_ending(name, ".pth") ||
           has_ending(name, ".pkl") || has_ending(name, ".ckpt");
}

static int32_t read_named(qsae__tensors *t, const char *folder, const char *name)
{
    char *path = qsae__path_join(t->ctx, folder, name);
    int32_t status;

    if (path == NULL)
        return QSAE_ENOMEM;
    status = read_file(t, path);
    qsae__free(t->ctx, path);
    return status;
}

/* A later part of a split GGUF file whose first part comes right before it, or earlier, in the list
 * of names: NAME-00002-of-00003.gguf. */
static bool later_part(char *const *names, int64_t i)
{
    const size_t tail = strlen("00001-of-00001.gguf"), n = strlen(names[i]);

    if (i == 0 || n < tail || memcmp(names[i] + n - tail + 5, "-of-", 4) != 0 ||
        strlen(names[i - 1]) != n)
        return false;
    return memcmp(names[i], names[i - 1], n - tail) == 0 &&
           strcmp(names[i] + n - tail + 5, names[i - 1] + n - tail + 5) == 0;
}

/* The one file of the folder that can hold tensors; safetensors before npz before GGUF. */
static int32_t read_only_one(qsae__tensors *t, const char *folder)
{
    static const char *const endings[] = { ".safetensors", ".npz", ".gguf" };
    char **names = NULL;
    const char *pickle = NULL;
    int64_t n = 0;
    int32_t status = qsae__folder_list(t->ctx, folder, &names, &n);

    if (status != QSAE_OK)
        return status;
    for (size_t e = 0; e < 3; e++) {
        const char *found = NULL, *second = NULL;
        for (int64_t i = 0; i < n; i++) {
            if (has_ending(names[i], endings[e]) && !(e == 2 && later_part(names, i))) {
                second = found;
                found = names[i];
                if (second != NULL)
                    break;
            }
            if (pickle_name(names[i]))
                pickle = names[i];
        }
        if (found == NULL)
            continue;
        if (second != NULL)
            status = qsae__fail(QSAE_EFORMAT, "%s: \"%s\" and \"%s\" without an index: name one of "
                                "them", folder, second, found);
        else
            status = read_named(t, folder, found);
        goto done;
    }
    status = QSAE_ENOENT;
    if (pickle != NULL)
        status = read_named(t, folder, pickle);
    if (status != QSAE_EPICKLE)
        status = qsae__fail(QSAE_ENOENT, "%s: no *.safetensors, *.npz or *.gguf file in the "
                            "folder", folder);
done:
    qsae__folder_list_free(t->ctx, names, n);
    return status;
}

static int32_t read_folder(qsae__tensors *t, const char *folder)
{
    char *index = qsae__path_join(t->ctx, folder, "model.safetensors.index.json");
    char *single = qsae__path_join(t->ctx, folder, "model.safetensors");
    int32_t status = QSAE_ENOMEM;

    if (index != NULL && single != NULL) {
        if (qsae__file_exists(index))
            status = qsae__index_read(t, folder, index);
        else if (qsae__file_exists(single))
            status = read_file(t, single);
        else
            status = read_only_one(t, folder);
    }
    qsae__free(t->ctx, index);
    qsae__free(t->ctx, single);
    return status;
}

int32_t qsae__tensors_load(qsae_context *ctx, const char *path, qsae__tensors **out)
{
    qsae__tensors *t = NULL;
    int32_t status;

    *out = NULL;
    status = qsae__set_new(ctx, path, &t);
    if (status != QSAE_OK)
        return status;
    status = qsae__folder_exists(path) ? read_folder(t, path) : read_file(t, path);
    if (status == QSAE_OK)
        status = qsae__set_finish(t);
    if (status != QSAE_OK)
        qsae__tensors_unref(&t);
    *out = t;
    return status;
}
