/* SPDX-License-Identifier: BSD-2-Clause */
/* npy as a fixed grammar: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html */
#include <string.h>

#include <qsae/tensor.h>

#include "formats/set.h"

static const struct {
    const char *descr;
    int32_t dtype;
} descrs[] = {
    { "<f4", QSAE_F32 }, { "<f2", QSAE_F16 }, { "<f8", QSAE_F64 }, { "|i1", QSAE_I8 },
    { "|u1", QSAE_U8 },  { "<i2", QSAE_I16 }, { "<u2", QSAE_U16 }, { "<i4", QSAE_I32 },
    { "<u4", QSAE_U32 }, { "<i8", QSAE_I64 }, { "<u8", QSAE_U64 }, { "|b1", QSAE_BOOL },
};

typedef struct cursor {
    const uint8_t *p, *end;
} cursor;

static void skip_space(cursor *c)
{
    while (c->p < c->end && (*c->p == ' ' || *c->p == '\t' || *c->p == '\n'))
        c->p++;
}

static bool take(cursor *c, char expected)
{
    skip_space(c);
    if (c->p == c->end || *c->p != (uint8_t)expected)
        return false;
    c->p++;
    return true;
}

static bool take_word(cursor *c, const char *word)
{
    const size_t n = strlen(word);

    skip_space(c);
    if ((size_t)(c->end - c->p) < n || memcmp(c->p, word, n) != 0)
        return false;
    c->p += n;
    return true;
}

/* A quoted string without escapes, at most size - 1 bytes. */
static bool take_string(cursor *c, char *text, size_t size)
{
    uint8_t quote;
    size_t n = 0;

    skip_space(c);
    if (c->p == c->end || (*c->p != '\'' && *c->p != '"'))
        return false;
    quote = *c->p++;
    while (c->p < c->end && *c->p != quote) {
        if (*c->p < 0x20 || *c->p == '\\' || n + 1 >= size)
            return false;
        text[n++] = (char)*c->p++;
    }
    text[n] = '\0';
    return c->p++ < c->end;
}

static bool take_count(cursor *c, int64_t *v)
{
    const uint8_t *start;

    skip_space(c);
    start = c->p;
    *v = 0;
    while (c->p < c->end && *c->p >= '0' && *c->p <= '9')
        if (!qsae__mul_i64(*v, 10, v) || !qsae__add_i64(*v, *c->p++ - '0', v))
            return false;
    return c->p > start;
}

/* "()", "(3,)", "(3, 4)", "(3, 4,)". */
static int32_t take_shape(cursor *c, const char *name, qsae__npy *out)
{
    int64_t v;
    bool comma = true;

    if (!take(c, '('))
        return qsae__fail(QSAE_EFORMAT, "%s: npy header: shape: expected a tuple", name);
    while (!take(c, ')')) {
        if (!comma || !take_count(c, &v))
            return qsae__fail(QSAE_EFORMAT, "%s: npy header: shape: expected a tuple of counts",
                              name);
        if (out->rank == 8)
            return qsae__fail(QSAE_EUNSUPPORTED, "%s: rank above 8", name);
        out->shape[out->rank++] = v;
        comma = take(c, ',');
    }
    if (out->rank == 1 && !comma)
        return qsae__fail(QSAE_EFORMAT, "%s: npy header: shape: expected a tuple, found a number",
                          name);
    return QSAE_OK;
}

static int32_t take_descr(cursor *c, const char *name, qsae__npy *out)
{
    char text[32];

    if (take(c, '['))
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: structured arrays are not supported", name);
    if (!take_string(c, text, sizeof text))
        return qsae__fail(QSAE_EFORMAT, "%s: npy header: descr: expected a string", name);
    for (size_t i = 0; i < sizeof descrs / sizeof *descrs; i++)
        if (strcmp(text, descrs[i].descr) == 0) {
            out->dtype = descrs[i].dtype;
            return QSAE_OK;
        }
    if (strchr(text, 'O') != NULL)
        return qsae__fail(QSAE_EPICKLE, "%s: object arrays are pickles and are refused; save plain "
                          "numeric arrays", name);
    if (text[0] == '>')
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: big-endian dtype \"%s\"", name, text);
    if (strcmp(text, "|V2") == 0 || strcmp(text, "<V2") == 0)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: dtype \"%s\" says nothing about its content "
                          "(bf16?); save safetensors instead", name, text);
    return qsae__fail(QSAE_EUNSUPPORTED, "%s: dtype \"%s\" is not supported", name, text);
}

int32_t qsae__npy_start(const uint8_t *data, uint64_t size, const char *name, uint64_t *start)
{
    uint64_t n, prefix;

    if (size < 10 || memcmp(data, "\x93NUMPY", 6) != 0)
        return qsae__fail(QSAE_EFORMAT, "%s: not an npy array", name);
    if (data[6] < 1 || data[6] > 3 || data[7] != 0)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: npy version %d.%d", name, data[6], data[7]);
    prefix = data[6] == 1 ? 10 : 12;
    if (size < prefix)
        return qsae__fail(QSAE_EFORMAT, "%s: npy header is truncated", name);
    n = (uint64_t)data[8] | (uint64_t)data[9] << 8;
    if (prefix == 12)
        n |= (uint64_t)data[10] << 16 | (uint64_t)data[11] << 24;
    if (n > QSAE__NPY_HEADER_MAX)
        return qsae__fail(QSAE_EFORMAT, "%s: npy header of %llu bytes, at most %d", name,
                          (unsigned long long)n, QSAE__NPY_HEADER_MAX);
    *start = prefix + n;
    return QSAE_OK;
}

int32_t qsae__npy_header(const uint8_t *head, uint64_t start, const char *name, qsae__npy *out)
{
    cursor c = { head + (head[6] == 1 ? 10 : 12), head + start };
    bool comma = true, descr = false, order = false, shape = false, ok = take(&c, '{');
    char key[32];
    int32_t status;

    memset(out, 0, sizeof *out);
    while (ok && !take(&c, '}')) {
        ok = comma && take_string(&c, key, sizeof key) && take(&c, ':');
        if (!ok)
            break;
        if (strcmp(key, "descr") == 0 && !descr) {
            descr = true;
            status = take_descr(&c, name, out);
            if (status != QSAE_OK)
                return status;
        } else if (strcmp(key, "shape") == 0 && !shape) {
            shape = true;
            status = take_shape(&c, name, out);
            if (status != QSAE_OK)
                return status;
        } else if (strcmp(key, "fortran_order") == 0 && !order) {
            order = true;
            out->fortran = take_word(&c, "True");
            ok = out->fortran || take_word(&c, "False");
        } else {
            return qsae__fail(QSAE_EFORMAT, "%s: npy header: unexpected or repeated key \"%s\"",
                              name, key);
        }
        comma = take(&c, ',');
    }
    skip_space(&c);
    if (!ok || c.p != c.end || !descr || !order || !shape)
        return qsae__fail(QSAE_EFORMAT, "%s: npy header: expected a dict of descr, fortran_order "
                          "and shape", name);
    if (!qsae__shape_bytes(out->shape, out->rank, out->dtype, &out->bytes))
        return qsae__fail(QSAE_EFORMAT, "%s: npy header: the array's size overflows", name);
    return QSAE_OK;
}

void qsae__npy_transpose(const qsae__npy *h, const uint8_t *src, uint8_t *dst)
{
    const size_t size = (size_t)qsae_dtype_bits(h->dtype) / 8;
    int64_t index[8] = { 0 }, stride[8] = { 0 }, at = 0;
    uint64_t n = h->bytes / size;

    for (int64_t i = 0, step = 1; i < h->rank; i++) {
        stride[i] = step;
        step *= h->shape[i]; /* at most the element count, checked before */
    }
    for (uint64_t out = 0; out < n; out++) {
        memcpy(dst + out * size, src + (uint64_t)at * size, size);
        for (int32_t i = h->rank - 1; i >= 0; i--) {
            at += stride[i];
            if (++index[i] < h->shape[i])
                break;
            at -= stride[i] * h->shape[i];
            index[i] = 0;
        }
    }
}

int32_t qsae__npy_read(qsae__tensors *t, const qsae__file *file)
{
    qsae__tensor tensor = { .name = "data", .file = file->path };
    qsae__npy h;
    uint64_t start = 0;
    int32_t status = qsae__npy_start(file->data, file->size, file->path, &start);

    if (status != QSAE_OK)
        return status;
    if (start > file->size)
        return qsae__fail(QSAE_EFORMAT, "%s: npy header is truncated", file->path);
    status = qsae__npy_header(file->data, start, file->path, &h);
    if (status != QSAE_OK)
        return status;
    if (h.bytes != file->size - start)
        return qsae__fail(QSAE_EFORMAT, "%s: shape needs %llu bytes, the file holds %llu",
                          file->path, (unsigned long long)h.bytes,
                          (unsigned long long)(file->size - start));
    tensor.data = file->data + start;
    if (h.fortran && h.rank > 1 && h.bytes > 0) {
        uint8_t *copy = qsae__set_alloc(t, (size_t)h.bytes);
        if (copy == NULL)
            return QSAE_ENOMEM;
        qsae__npy_transpose(&h, file->data + start, copy);
        tensor.data = copy;
    }
    memcpy(tensor.shape, h.shape, sizeof tensor.shape);
    tensor.bytes = h.bytes;
    tensor.rank = h.rank;
    tensor.dtype = h.dtype;
    return qsae__set_add(t, &tensor);
}
