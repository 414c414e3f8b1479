/* SPDX-License-Identifier: BSD-2-Clause */
/* Sharded safetensors: {"metadata": {"total_size": n}, "weight_map": {tensor: file}}. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/members.h"
#include "formats/set.h"

/* The one kind of link that is followed: FILE -> ../../blobs/HASH, as the Hugging Face cache lays
 * out models--X--Y/snapshots/REVISION/FILE, if that is a regular file. */
static int32_t find_cache_link(qsae_context *ctx, const char *folder, const char *path, bool *is)
{
    static const char blobs[] = "../../blobs/";
    char target[sizeof blobs + 64];
    struct stat st;
    const ssize_t n = readlink(path, target, sizeof target);
    const size_t prefix = sizeof blobs - 1;
    *is = false;
    if (n < (ssize_t)prefix || (size_t)n >= sizeof target || memcmp(target, blobs, prefix) != 0)
        return QSAE_OK;
    target[n] = 0;
    const size_t digits = strspn(target + prefix, "0123456789abcdef");
    if ((digits != 40 && digits != 64) || prefix + digits != (size_t)n)
        return QSAE_OK;
    char *const full = qsae__path_join(ctx, folder, target);
    if (!full)
        return QSAE_ENOMEM;
    *is = lstat(full, &st) == 0 && S_ISREG(st.st_mode);
    qsae__free(ctx, full);
    return QSAE_OK;
}

/* A name in an index may reach neither elsewhere nor through a link of its own making. */
int32_t qsae__set_open_beside(qsae__tensors *t, const char *folder, const char *index,
                              const char *name)
{
    qsae__file *file = NULL;
    struct stat st;
    char *path;
    bool followed = true;
    int32_t status = QSAE_OK;

    if (!qsae__plain_name(name))
        return qsae__fail(QSAE_EFORMAT, "%s: shard \"%s\" is not a plain file name", index, name);
    path = qsae__path_join(t->ctx, folder, name);
    if (path == NULL)
        return QSAE_ENOMEM;
    if (lstat(path, &st) != 0)
        status = errno == ENOENT
                     ? qsae__fail(QSAE_ENOENT, "%s: shard \"%s\" is missing", index, name)
                     : qsae__fail(QSAE_EIO, "%s: cannot stat: %s", path, strerror(errno));
    else if (S_ISLNK(st.st_mode))
        status = find_cache_link(t->ctx, folder, path, &followed);
    if (status == QSAE_OK && !followed)
        status = qsae__fail(QSAE_EFORMAT,
                            "%s: shard \"%s\" is a symbolic link; only those of the Hugging Face "
                            "cache are followed, copy the files into the folder", index, name);
    else if (status == QSAE_OK)
        status = qsae__file_open(t->ctx, path, &file);
    qsae__free(t->ctx, path);
    if (status == QSAE_OK)
        status = qsae__set_add_file(t, &file);
    return status;
}

/* weight_map: which shard holds a tensor. */
struct entry {
    const char *tensor, *shard; /* into struct map's text */
};

struct map {
    qsae_context *ctx;
    const char *index;          /* path, for messages */
    struct entry *entries;      /* [n] by tensor */
    int64_t n;
    char *text;                 /* all names; equal ones of shards in a row are one */
    const char **shards;        /* [n_shards] in the order of the file */
    int64_t n_shards, capacity;
};

static int by_tensor(const void *a, const void *b)
{
    return strcmp(((const struct entry *)a)->tensor, ((const struct entry *)b)->tensor);
}

static const struct entry *find_entry(const struct map *m, const char *tensor)
{
    const struct entry wanted = { .tensor = tensor };

    return bsearch(&wanted, m->entries, (size_t)m->n, sizeof wanted, by_tensor);
}

/* One member, whose names go to *text. */
static int32_t read_entry(struct map *m, const qsae__member *e, struct entry *out, char **text)
{
    const struct entry *const before = m->n > 0 ? out - 1 : NULL;
    char *const tensor = *text;
    int32_t status = qsae__json_decode(e->key, e->key_size, m->index, tensor);

    if (status == QSAE_OK && *e->value != '"')
        status = qsae__fail(QSAE_EFORMAT, "%s: weight_map \"%s\": expected string, found %s",
                            m->index, tensor, qsae__json_kind(e->value));
    if (status != QSAE_OK)
        return status;
    char *const shard = tensor + strlen(tensor) + 1;
    status = qsae__json_decode(e->value, e->value_size, m->index, shard);
    if (status != QSAE_OK)
        return status;
    const bool same = before != NULL && strcmp(before->shard, shard) == 0;
    *out = (struct entry){ tensor, same ? before->shard : shard };
    *text = same ? shard : shard + strlen(shard) + 1;
    return QSAE_OK;
}

/* The entries in the order of the file, then by tensor; no tensor occurs twice. */
static int32_t read_entries(struct map *m, const qsae__cut *cut)
{
    qsae__members list;
    qsae__member e;
    size_t names;
    int64_t most = 0;
    bool more;
    int32_t status = qsae__json_count(cut->text, cut->size, m->index, &most, &names);

    if (status != QSAE_OK)
        return status;
    m->entries = qsae__alloc_array(m->ctx, most, sizeof *m->entries);
    m->text = qsae__alloc(m->ctx, cut->size);
    if (m->entries == NULL || m->text == NULL)
        return QSAE_ENOMEM;
    char *text = m->text;
    status = qsae__members_open(&list, cut->text, cut->size, m->index);
    while (status == QSAE_OK &&
           (status = qsae__members_next(&list, &e, &more)) == QSAE_OK && more) {
        if (m->n == most || e.key_size + e.value_size > (size_t)(m->text + cut->size - text))
            return qsae__fail(QSAE_EIO, "%s: file changed while it was read", m->index);
        status = read_entry(m, &e, &m->entries[m->n], &text);
        m->n++;
    }
    return status;
}

/* The names of shards, each once: as many as there are files, so few that they may be compared. */
static int32_t note_shard(struct map *m, const char *shard)
{
    for (int64_t i = 0; i < m->n_shards; i++)
        if (strcmp(m->shards[i], shard) == 0)
            return QSAE_OK;
    const int32_t status = qsae__grow(m->ctx, &m->shards, &m->capacity, m->n_shards + 1,
                                      sizeof *m->shards);
    if (status == QSAE_OK)
        m->shards[m->n_shards++] = shard;
    return status;
}

/* Reads a shard and checks that the index maps each of its tensors to it. */
static int32_t read_shard(qsae__tensors *t, const struct map *map, const qsae__file *file,
                          const char *name)
{
    const int64_t first = t->count;
    const int32_t status = qsae__safetensors_read(t, file);

    if (status != QSAE_OK)
        return status;
    for (int64_t i = first; i < t->count; i++) {
        const struct entry *const e = find_entry(map, t->items[i].name);
        if (e == NULL)
            return qsae__fail(QSAE_EFORMAT, "%s: tensor \"%s\" of shard \"%s\" is not in the "
                              "index", map->index, t->items[i].name, name);
        if (strcmp(e->shard, name) != 0)
            return qsae__fail(QSAE_EFORMAT, "%s: tensor \"%s\" lies in shard \"%s\", expected "
                              "\"%s\"", map->index, t->items[i].name, name, e->shard);
    }
    return QSAE_OK;
}

/* Opens the shards and sorts the entries. */
static int32_t open_shards(qsae__tensors *t, const char *folder, struct map *m,
                           const qsae__cut *cut)
{
    int32_t status = read_entries(m, cut);

    for (int64_t i = 0; i < m->n && status == QSAE_OK; i++) {
        const int64_t known = m->n_shards;
        if (i > 0 && m->entries[i].shard == m->entries[i - 1].shard)
            continue;
        status = note_shard(m, m->entries[i].shard);
        /* A file that is not there ends it, so there are no more names than files. */
        if (status == QSAE_OK && m->n_shards > known)
            status = qsae__set_open_beside(t, folder, m->index, m->entries[i].shard);
    }
    if (m->n > 1 && status == QSAE_OK)
        qsort(m->entries, (size_t)m->n, sizeof *m->entries, by_tensor);
    for (int64_t i = 1; i < m->n && status == QSAE_OK; i++)
        if (strcmp(m->entries[i - 1].tensor, m->entries[i].tensor) == 0)
            status = qsae__fail(QSAE_EFORMAT, "%s: weight_map: duplicate key \"%s\"", m->index,
                                m->entries[i].tensor);
    return status;
}
static int32_t read_map(qsae__tensors *t, const char *folder, struct map *m, const qsae__cut *cut)
{
    const int64_t first = t->n_files;
    int32_t status = open_shards(t, folder, m, cut);

    for (int64_t i = 0; i < m->n_shards && status == QSAE_OK; i++)
        status = read_shard(t, m, t->files[first + i], m->shards[i]);
    if (status == QSAE_OK)
        status = qsae__set_finish(t);
    for (int64_t i = 0; i < m->n && status == QSAE_OK && t->count != m->n; i++)
        if (qsae__tensors_find(t, m->entries[i].tensor) == NULL)
            status = qsae__fail(QSAE_EFORMAT, "%s: tensor \"%s\" is not in its shard \"%s\"",
                                m->index, m->entries[i].tensor, m->entries[i].shard);
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

/* The document without weight_map, which is in *map. */
static int32_t parse(const qsae__file *file, qsae__cut *map, json_t **root)
{
    int32_t status = qsae__json_parse_cut((const char *)file->data, (size_t)file->size, file->path,
                                          0, map, 1, root);

    if (status == QSAE_OK && !json_is_object(*root))
        status = qsae__fail(QSAE_EFORMAT, "%s: expected object with key \"weight_map\", found %s",
                            file->path, qsae__json_type_name(*root));
    return status == QSAE_OK ? qsae__cut_expect(map, file->path, '{') : status;
}

int32_t qsae__index_read(qsae__tensors *t, const char *folder, const char *index_path)
{
    qsae__cut cut = { .outer = "weight_map" };
    struct map map = { .ctx = t->ctx, .index = index_path };
    qsae__file *file = NULL;
    json_t *root = NULL;
    int32_t status = qsae__file_open(t->ctx, index_path, &file);

    if (status == QSAE_OK)
        status = parse(file, &cut, &root);
    if (status == QSAE_OK)
        status = read_map(t, folder, &map, &cut);
    t->metadata = NULL; /* that of one shard says nothing about the set */
    t->n_metadata = 0;
    if (status == QSAE_OK)
        check_total(t, root, index_path);
    json_decref(root);
    qsae__free(t->ctx, map.entries);
    qsae__free(t->ctx, map.text);
    qsae__free(t->ctx, map.shards);
    qsae__file_close(&file);
    return status;
}
