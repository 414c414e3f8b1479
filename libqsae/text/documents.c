/* SPDX-License-Identifier: BSD-2-Clause */
#include "text/documents.h"

#include <string.h>

#include "text/utf8.h"

static bool has_ending(const char *name, const char *ending)
{
    const size_t n = strlen(name), m = strlen(ending);

    return n > m && strcmp(name + n - m, ending) == 0;
}

static int32_t add_record(qsae__documents *d, const char *text, uint64_t size, int64_t line,
                          bool jsonl)
{
    const int32_t status = qsae__widen(d->ctx, &d->records, &d->capacity, d->count + 1,
                                       sizeof *d->records);

    if (status == QSAE_OK)
        d->records[d->count++] = (qsae__record){ text, size, (int32_t)d->n_files - 1, jsonl, line };
    return status;
}

static int32_t find_lines(qsae__documents *d, const char *text, uint64_t size)
{
    const char *end = text + size;
    int32_t status = QSAE_OK;

    for (int64_t line = 1; text < end && status == QSAE_OK; line++) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        const char *next = stop == NULL ? end : stop + 1, *p = text;
        if (stop == NULL)
            stop = end;
        while (p < stop && (*p == ' ' || *p == '\t' || *p == '\r'))
            p++;
        if (p < stop)
            status = add_record(d, text, (uint64_t)(stop - text), line, true);
        text = next;
    }
    return status;
}

static int32_t find_separated(qsae__documents *d, const char *text, uint64_t size,
                              const char *separator)
{
    const size_t n = strlen(separator);
    const char *end = text + size;
    int32_t status = QSAE_OK;

    for (int64_t index = 1; text < end && status == QSAE_OK; index++) {
        const char *stop = n == 0 ? NULL : memmem(text, (size_t)(end - text), separator, n);
        status = add_record(d, text, (uint64_t)((stop == NULL ? end : stop) - text), index, false);
        text = stop == NULL ? end : stop + n;
    }
    return status;
}

/* Whether a file holds JSON lines, by its name; zst: whether it is compressed. */
static int32_t format_of(const char *path, int32_t format, bool *jsonl, bool *zst)
{
    *zst = has_ending(path, ".zst");
    *jsonl = format == QSAE_TEXT_JSONL;
    if (format != QSAE_TEXT_DEFAULT && format != QSAE_TEXT_WHOLE)
        return QSAE_OK;
    if (has_ending(path, ".parquet") || has_ending(path, ".arrow"))
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: a table; `qsae corpus` makes JSON lines of it",
                          path);
    if (has_ending(path, ".gz") || has_ending(path, ".xz"))
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: compressed text; decompress it first", path);
    *jsonl = has_ending(path, ".jsonl") || has_ending(path, ".ndjson") ||
             has_ending(path, ".jsonl.zst") || has_ending(path, ".ndjson.zst");
    return QSAE_OK;
}

/* Opens the file as number n_files. */
static int32_t open_file(qsae__documents *d, const char *path)
{
    qsae__file *file = NULL;
    int64_t capacity = d->files_capacity, buffers = capacity;
    int32_t status;

    if (d->n_files == INT32_MAX)
        return qsae__fail(QSAE_EOVERFLOW, "%s: too many files", path);
    status = qsae__grow(d->ctx, &d->files, &capacity, d->n_files + 1, sizeof *d->files);
    if (status == QSAE_OK)
        status = qsae__grow(d->ctx, &d->buffers, &buffers, d->n_files + 1, sizeof *d->buffers);
    if (status == QSAE_OK)
        status = qsae__grow(d->ctx, &d->sources, &d->files_capacity, d->n_files + 1,
                            sizeof *d->sources);
    if (status == QSAE_OK)
        status = qsae__file_open(d->ctx, path, &file);
    if (status != QSAE_OK)
        return status;
    d->files[d->n_files] = file;
    d->buffers[d->n_files] = NULL;
    d->sources[d->n_files] = NULL;
    d->n_files++;
    d->sources[d->n_files - 1] = qsae__strdup(d->ctx, path);
    return d->sources[d->n_files - 1] == NULL ? QSAE_ENOMEM : QSAE_OK;
}

static int32_t add_file(qsae__documents *d, const char *path, int32_t format, const char *separator)
{
    const char *text;
    uint64_t size;
    bool jsonl, zst;
    int32_t status = format_of(path, format, &jsonl, &zst);

    if (status == QSAE_OK)
        status = open_file(d, path);
    if (status != QSAE_OK)
        return status;
    text = (const char *)d->files[d->n_files - 1]->data;
    size = d->files[d->n_files - 1]->size;
    if (zst) {
        status = qsae__zstd_read(d->files[d->n_files - 1], &d->buffers[d->n_files - 1], &size);
        text = d->buffers[d->n_files - 1];
        qsae__file_close(&d->files[d->n_files - 1]);
    }
    if (status != QSAE_OK)
        return status;
    d->bytes += size;
    if (!jsonl && format == QSAE_TEXT_WHOLE)
        return find_separated(d, text, size - (size > 0 && text[size - 1] == '\n'), "");
    return jsonl ? find_lines(d, text, size) : find_separated(d, text, size, separator);
}

static int32_t add_folder(qsae__documents *d, const char *folder, int32_t format,
                          const char *separator)
{
    char **names = NULL;
    int64_t n = 0;
    int32_t status = qsae__folder_list(d->ctx, folder, &names, &n);

    for (int64_t i = 0; i < n && status == QSAE_OK; i++) {
        char *path = qsae__path_join(d->ctx, folder, names[i]);
        status = path == NULL ? QSAE_ENOMEM : add_file(d, path, format, separator);
        qsae__free(d->ctx, path);
    }
    qsae__folder_list_free(d->ctx, names, n);
    return status;
}

int32_t qsae__documents_open(qsae__documents *d, qsae_context *ctx, const char *path,
                             int32_t format, const char *separator)
{
    int32_t status;

    memset(d, 0, sizeof *d);
    d->ctx = ctx;
    status = qsae__folder_exists(path) ? add_folder(d, path, format, separator)
                                       : add_file(d, path, format, separator);
    if (status != QSAE_OK)
        qsae__documents_free(d);
    return status;
}

int32_t qsae__documents_source(qsae__documents *d, qsae_context *ctx, const char *path)
{
    memset(d, 0, sizeof *d);
    d->ctx = ctx;
    return open_file(d, path);
}

int32_t qsae__documents_order(qsae__documents *d, const int64_t *order, int64_t n)
{
    qsae__record *records = qsae__alloc_array(d->ctx, n, sizeof *records);

    if (records == NULL)
        return QSAE_ENOMEM;
    for (int64_t i = 0; i < n; i++)
        records[i] = d->records[order[i]];
    qsae__free(d->ctx, d->records);
    d->records = records;
    d->count = d->capacity = n;
    return QSAE_OK;
}

void qsae__documents_close_files(qsae__documents *d)
{
    for (int64_t i = 0; i < d->n_files && d->files != NULL; i++)
        qsae__file_close(&d->files[i]);
    for (int64_t i = 0; i < d->n_files && d->buffers != NULL; i++)
        qsae__free(d->ctx, d->buffers[i]);
    qsae__free(d->ctx, d->files);
    qsae__free(d->ctx, d->buffers);
    qsae__free(d->ctx, d->records);
    d->files = NULL;
    d->buffers = NULL;
    d->records = NULL;
    d->count = d->capacity = 0;
}

void qsae__documents_free(qsae__documents *d)
{
    if (d->ctx == NULL)
        return;
    qsae__documents_close_files(d);
    for (int64_t i = 0; i < d->n_files; i++)
        qsae__free(d->ctx, d->sources[i]);
    qsae__free(d->ctx, d->sources);
    memset(d, 0, sizeof *d);
}

bool qsae__python_space(uint32_t c)
{
    return qsae__is_space(c) || (c >= 0x1c && c <= 0x1f);
}

int32_t qsae__strip(const char **text, size_t *size)
{
    const char *start = *text, *end;
    size_t bad;

    if (*size == 0) /* text may be NULL */
        return QSAE_OK;
    end = start + *size;
    if (!qsae__utf8_check(*text, *size, &bad))
        return qsae__fail(QSAE_EFORMAT, "text is not UTF-8: byte 0x%02x at offset %zu",
                          (unsigned)(uint8_t)(*text)[bad], bad);
    while (start < end && qsae__python_space(qsae__utf8_get(start)))
        start += qsae__utf8_len(*start);
    while (end > start && qsae__python_space(qsae__utf8_get(qsae__utf8_prev(end))))
        end = qsae__utf8_prev(end);
    *text = start;
    *size = (size_t)(end - start);
    return QSAE_OK;
}
