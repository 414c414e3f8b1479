/* SPDX-License-Identifier: BSD-2-Clause */
/* Sharded safetensors: {"metadata": {"total_size": n}, "weight_map": {tensor: file}}. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/set.h"

/* The one kind of link that is followed: FILE -> ../../blobs/HASH, as the Hugging Face cache lays
 * out models--X--Y/snapshots/REVISION/FILE, if that is a regular file. */
static bool is_cache_link(qsae_context *ctx, const char *folder, const char *path)
{
    static const char blobs[] = "../../blobs/";
    char target[sizeof blobs + 64];
    struct stat st;
    const ssize_t n = readlink(path, target, sizeof target);
    const size_t prefix = sizeof blobs - 1;
    if (n < 0 || (size_t)n >= sizeof target || memcmp(target, blobs, prefix) != 0)
        return false;
    target[n] = 0;
    const size_t digits = strspn(target + prefix, "0123456789abcdef");
    if ((digits != 40 && digits != 64) || prefix + digits != (size_t)n)
        return false;
    char *const full = qsae__path_join(ctx, folder, target);
    const bool regular = full && lstat(full, &st) == 0 && S_ISREG(st.st_mode);
    qsae__free(ctx, full);
    return regular;
}

/* A name in an index may reach neither elsewhere nor through a link of its own making. */
int32_t qsae__set_open_beside(qsae__tensors *t, const char *folder, const char *index,
                              const char *name)
{
    qsae__file *file = NULL;
    struct stat st;
    char *path;
    int32_t status;

    if (!qsae__plain_name(name))
        return qsae__fail(QSAE_EFORMAT, "%s: shard \"%s\" is not a plain file name", index, name);
    path = qsae__path_join(t->ctx, folder, name);
    if (path == NULL)
        return QSAE_ENOMEM;
    if (lstat(path, &st) != 0)
        status = errno == ENOENT
                     ? qsae__fail(QSAE_ENOENT, "%s: shard \"%s\" is missing", index, name)
                     : qsae__fail(QSAE_EIO, "%s: cannot stat: %s", path, strerror(errno));
    else if (S_ISLNK(st.st_mode) && !is_cache_link(t->ctx, folder, path))
        status = qsae__fail(QSAE_EFORMAT,
                            "%s: shard \"%s\" is a symbolic link; only those of the Hugging Face "
                            "cache are followed, copy the files into the folder", index, name);
    else
        status = qsae__file_open(t->ctx, path, &file);
    qsae__free(t->ctx, path);
    if (status == QSAE_OK)
        status = qsae__set_add_file(t, &file);
    return status;
}

/* Reads a shard and checks that the index maps each of its tensors to it. */
static int32_t read_shard(qsae__tensors *t, const json_t *map, const char *index, const char *name)
{
    const int64_t first = t->count;
    const int32_t status = qsae__safetensors_read(t, t->files[t->n_files - 1]);

    if (status != QSAE_OK)
        return status;
    for (int64_t i = first; i < t->count; i++) {
        const char *mapped = json_string_value(json_object_get(map, t->items[i].name));
        if (mapped == NULL)
            return qsae__fail(QSAE_EFORMAT, "%s: tensor \"%s\" of shard \"%s\" is not in the index",
                              index, t->items[i].name, name);
        if (strcmp(mapped, name) != 0)
            return qsae__fail(QSAE_EFORMAT, "%s: tensor \"%s\" lies in shard \"%s\", expected "
                              "\"%s\"", index, t->items[i].name, name, mapped);
    }
    return QSAE_OK;
}

static int32_t read_map(qsae__tensors *t, const char *folder, const char *index, json_t *map)
{
    json_t *seen = json_object();
    const char *tensor;
    json_t *value;
    int32_t status = QSAE_OK;

    if (seen == NULL)
        return qsae__fail(QSAE_ENOMEM, "%s: out of memory", index);
    json_object_foreach(map, tensor, value) {
        const char *name = json_string_value(value);
        if (name == NULL)
            status = qsae__fail(QSAE_EFORMAT, "%s: weight_map \"%s\": expected string, found %s",
                                index, tensor, qsae__json_type_name(value));
        else if (json_object_get(seen, name) == NULL) {
            status = qsae__set_open_beside(t, folder, index, name);
            if (status == QSAE_OK)
                status = read_shard(t, map, index, name);
            if (status == QSAE_OK && json_object_set_new(seen, name, json_true()) != 0)
                status = qsae__fail(QSAE_ENOMEM, "%s: out of memory", index);
        }
        if (status != QSAE_OK)
            break;
    }
    json_decref(seen);
    if (status == QSAE_OK)
        status = qsae__set_finish(t);
    if (status == QSAE_OK && (size_t)t->count != json_object_size(map))
        json_object_foreach(map, tensor, value)
            if (qsae__tensors_find(t, tensor) == NULL)
                return qsae__fail(QSAE_EFORMAT, "%s: tensor \"%s\" is not in its shard \"%s\"",
                                  index, tensor, json_string_value(value));
    return status;
}

static void check_total(const qsae__tensors *t, const json_t *root, const char *index)
{
    const json_t *total = json_object_get(json_object_get(root, "metadata"), "total_size");
    uint64_t bytes = 0;

    for (int64_t i = 0; i < t->count; i++)
        bytes += t->items[i].bytes;
    if (json_is_number(total) && json_number_value(total) != (double)bytes)
        qsae__log(t->ctx, QSAE_LOG_WARNING, "%s: total_size is %.0f, the shards hold %llu bytes",
                  index, json_number_value(total), (unsigned long long)bytes);
}

int32_t qsae__index_read(qsae__tensors *t, const char *folder, const char *index_path)
{
    json_t *root = NULL;
    const json_t *map = NULL;
    int32_t status = qsae__json_load(t->ctx, index_path, &root);

    if (status == QSAE_OK)
        status = qsae__json_get(root, index_path, "weight_map", true, JSON_OBJECT, &map);
    if (status == QSAE_OK)
        status = read_map(t, folder, index_path, json_object_get(root, "weight_map"));
    t->metadata = NULL; /* that of one shard says nothing about the set */
    t->n_metadata = 0;
    if (status == QSAE_OK)
        check_total(t, root, index_path);
    json_decref(root);
    return status;
}
