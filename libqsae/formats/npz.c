/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <string.h>

#include <zip.h>

#include <qsae/tensor.h>

#include "formats/set.h"

/* Deflate cannot shrink data by more than this; a member that claims more is a bomb. */
#define DEFLATE_MAX 1040
#define AT_ONCE (1u << 20) /* bytes that libzip is asked for at once */

/* Without memory libzip also says that it is no archive, or nothing; errno was 0 when it began. */
static int32_t status_of(zip_error_t *error)
{
    return zip_error_code_zip(error) == ZIP_ER_MEMORY || errno == ENOMEM ? QSAE_ENOMEM
                                                                         : QSAE_EFORMAT;
}

static int32_t read_exact(zip_file_t *f, void *buffer, uint64_t size, const char *name)
{
    uint8_t *p = buffer;

    while (size > 0) {
        const uint64_t most = size < AT_ONCE ? size : AT_ONCE;
        const zip_int64_t n = zip_fread(f, p, most);
        if (n <= 0)
            return qsae__fail(n < 0 ? status_of(zip_file_get_error(f)) : QSAE_EFORMAT,
                              "%s: member is damaged: %s", name,
                              n < 0 ? zip_error_strerror(zip_file_get_error(f)) : "too short");
        p += n;
        size -= (uint64_t)n;
    }
    return QSAE_OK;
}

/* Checks what the directory says about a member before anything is allocated for it. */
static int32_t check_member(const zip_stat_t *st, uint64_t file_size, uint64_t *compressed,
                            const char *name)
{
    const zip_uint64_t need = ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE | ZIP_STAT_COMP_METHOD |
                              ZIP_STAT_ENCRYPTION_METHOD;
    uint64_t most;

    if ((st->valid & need) != need)
        return qsae__fail(QSAE_EFORMAT, "%s: incomplete zip directory", name);
    if (st->encryption_method != ZIP_EM_NONE)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: encrypted member", name);
    if (st->comp_method != ZIP_CM_STORE && st->comp_method != ZIP_CM_DEFLATE)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: compression method %d; stored and deflated "
                          "members are supported", name, st->comp_method);
    if (!qsae__add_u64(*compressed, st->comp_size, compressed) || *compressed > file_size)
        return qsae__fail(QSAE_EFORMAT, "%s: members are larger than the file", name);
    if (!qsae__mul_u64(st->comp_size, st->comp_method == ZIP_CM_STORE ? 1 : DEFLATE_MAX, &most) ||
        st->size > most || (st->comp_method == ZIP_CM_STORE && st->size != st->comp_size))
        return qsae__fail(QSAE_EFORMAT, "%s: %llu bytes cannot hold the declared %llu", name,
                          (unsigned long long)st->comp_size, (unsigned long long)st->size);
    return QSAE_OK;
}

static int32_t read_header(zip_file_t *f, uint64_t size, uint8_t *head, const char *name,
                           qsae__npy *h)
{
    uint64_t first = size < QSAE__NPY_PREFIX ? size : QSAE__NPY_PREFIX, start;
    int32_t status = read_exact(f, head, first, name);

    if (status == QSAE_OK)
        status = qsae__npy_start(head, first, name, &start);
    if (status != QSAE_OK)
        return status;
    if (start < first || start > size)
        return qsae__fail(QSAE_EFORMAT, "%s: npy header is truncated", name);
    status = read_exact(f, head + first, start - first, name);
    if (status == QSAE_OK)
        status = qsae__npy_header(head, start, name, h);
    if (status == QSAE_OK && h->bytes != size - start)
        status = qsae__fail(QSAE_EFORMAT, "%s: shape needs %llu bytes, the member holds %llu", name,
                            (unsigned long long)h->bytes, (unsigned long long)(size - start));
    return status;
}

/* head: scratch of QSAE__NPY_PREFIX + QSAE__NPY_HEADER_MAX bytes. */
static int32_t read_array(qsae__tensors *t, zip_file_t *f, uint64_t size, uint8_t *head,
                          qsae__tensor *tensor)
{
    uint8_t *data, *raw = NULL, last;
    qsae__npy h;
    int32_t status = read_header(f, size, head, tensor->name, &h);

    if (status != QSAE_OK)
        return status;
    if (h.bytes > SIZE_MAX)
        return qsae__fail(QSAE_EOVERFLOW, "%s: array too large", tensor->name);
    data = qsae__set_alloc(t, (size_t)h.bytes);
    if (data == NULL)
        return QSAE_ENOMEM;
    if (h.fortran && h.rank > 1 && h.bytes > 0) {
        raw = qsae__alloc(t->ctx, (size_t)h.bytes);
        if (raw == NULL)
            return QSAE_ENOMEM;
    }
    status = read_exact(f, raw != NULL ? raw : data, h.bytes, tensor->name);
    /* Reading up to the end makes libzip compare the checksum. */
    if (status == QSAE_OK && zip_fread(f, &last, 1) != 0)
        status = qsae__fail(status_of(zip_file_get_error(f)), "%s: member is damaged: %s",
                            tensor->name,
                            zip_error_strerror(zip_file_get_error(f)));
    if (status == QSAE_OK && raw != NULL)
        qsae__npy_transpose(&h, raw, data);
    qsae__free(t->ctx, raw);
    tensor->data = data;
    memcpy(tensor->shape, h.shape, sizeof tensor->shape);
    tensor->bytes = h.bytes;
    tensor->rank = h.rank;
    tensor->dtype = h.dtype;
    return status;
}

static bool ends_with(const char *s, const char *end)
{
    const size_t n = strlen(s), m = strlen(end);

    return n >= m && strcmp(s + n - m, end) == 0;
}

static int32_t read_member(qsae__tensors *t, zip_t *zip, zip_uint64_t i, const qsae__file *file,
                           uint64_t *compressed, uint8_t *head)
{
    const char *member = zip_get_name(zip, i, 0);
    qsae__tensor tensor = { .file = file->path };
    zip_stat_t st;
    zip_file_t *f;
    char *name;
    int32_t status;

    if (member == NULL || !ends_with(member, ".npy"))
        return qsae__fail(QSAE_EFORMAT, "%s: member \"%s\" is no .npy array", file->path,
                          member == NULL ? "" : member);
    name = qsae__set_alloc(t, strlen(member) + 1);
    if (name == NULL)
        return QSAE_ENOMEM;
    memcpy(name, member, strlen(member) - 4);
    name[strlen(member) - 4] = '\0';
    tensor.name = name;
    zip_stat_init(&st);
    if (zip_stat_index(zip, i, 0, &st) != 0)
        return qsae__fail(status_of(zip_get_error(zip)), "%s: %s: %s", file->path, name,
                          zip_strerror(zip));
    status = check_member(&st, file->size, compressed, name);
    if (status != QSAE_OK)
        return qsae__fail_in(status, "%s", file->path);
    f = zip_fopen_index(zip, i, 0);
    if (f == NULL)
        return qsae__fail(status_of(zip_get_error(zip)), "%s: %s: %s", file->path, name,
                          zip_strerror(zip));
    status = read_array(t, f, st.size, head, &tensor);
    zip_fclose(f);
    if (status != QSAE_OK)
        return qsae__fail_in(status, "%s", file->path);
    return qsae__set_add(t, &tensor);
}

static int32_t read_all(qsae__tensors *t, zip_t *zip, const qsae__file *file)
{
    const zip_int64_t n = zip_get_num_entries(zip, 0);
    uint64_t compressed = 0;
    uint8_t *head;
    int32_t status = QSAE_OK;

    for (zip_int64_t i = 0; i < n; i++) {
        const char *name = zip_get_name(zip, (zip_uint64_t)i, 0);
        if (name != NULL && (strcmp(name, "data.pkl") == 0 || ends_with(name, "/data.pkl")))
            return qsae__pickle_refused(file->path);
    }
    head = qsae__alloc(t->ctx, QSAE__NPY_PREFIX + QSAE__NPY_HEADER_MAX);
    if (head == NULL)
        return QSAE_ENOMEM;
    for (zip_int64_t i = 0; i < n && status == QSAE_OK; i++)
        status = read_member(t, zip, (zip_uint64_t)i, file, &compressed, head);
    qsae__free(t->ctx, head);
    return status;
}

int32_t qsae__npz_read(qsae__tensors *t, const qsae__file *file)
{
    zip_source_t *source;
    zip_error_t error;
    zip_t *zip = NULL;
    int32_t status;

    zip_error_init(&error);
    errno = 0;
    source = zip_source_buffer_create(file->data, file->size, 0, &error);
    if (source != NULL)
        zip = zip_open_from_source(source, ZIP_RDONLY | ZIP_CHECKCONS, &error);
    if (zip == NULL) {
        status = qsae__fail(status_of(&error), "%s: zip: %s", file->path,
                            zip_error_strerror(&error));
        if (source != NULL)
            zip_source_free(source);
    } else {
        status = read_all(t, zip, file);
        zip_discard(zip);
    }
    zip_error_fini(&error);
    return status;
}
