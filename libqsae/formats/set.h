/* SPDX-License-Identifier: BSD-2-Clause */
/* Inside of a set of tensors, for the readers of this folder. */
#ifndef QSAE_FORMATS_SET_H
#define QSAE_FORMATS_SET_H

#include <stdatomic.h>

#include "formats/json.h"
#include "formats/tensors.h"

/* A pair of strings. */
typedef struct qsae__note {
    const char *key, *value;
} qsae__note;

/* Memory of a set. */
typedef struct qsae__set_block {
    void *data;
    size_t size;
} qsae__set_block;

struct qsae__tensors {
    atomic_int refs;
    qsae_context *ctx;
    char *path;             /* as opened, for messages */
    qsae__tensor *items;    /* [count], by name once finished */
    int64_t count, capacity;
    qsae__file **files;     /* tensors point into these */
    int64_t n_files, files_capacity;
    qsae__set_block *blocks; /* own memory: names, decoded data */
    int64_t n_blocks, blocks_capacity;
    struct qsae__note *metadata; /* [n_metadata] __metadata__, by key, or NULL; in blocks */
    int64_t n_metadata;
    struct qsae__gguf *gguf; /* pairs of a GGUF file or NULL; freed with the set's blocks */
    qsae__tensors *parent;   /* whose files tensors point into too, or NULL; one reference */
};

int32_t qsae__set_new(qsae_context *ctx, const char *path, qsae__tensors **out);

/* Takes *file over, also on failure, and NULLs it. */
int32_t qsae__set_add_file(qsae__tensors *t, qsae__file **file);

/* Memory that belongs to the set; NULL with QSAE_ENOMEM. */
void *qsae__set_alloc(qsae__tensors *t, size_t size);

/* qsae__share of a tensor's data where they are a block of this set, which no other tensor of it
 * may point into; else nothing. */
int32_t qsae__set_share(qsae__tensors *t, qsae__tensor *tensor);

int32_t qsae__set_add(qsae__tensors *t, const qsae__tensor *tensor);

/* Sorts by name; two tensors of one name are QSAE_EFORMAT. */
int32_t qsae__set_finish(qsae__tensors *t);

/* Product of the shape times the element size; false if it overflows or is no whole byte, or rows
 * are no whole blocks. */
bool qsae__shape_bytes(const int64_t *shape, int32_t rank, int32_t dtype, uint64_t *bytes);

/* Adds the tensors of one file; `file` belongs to the set already. */
int32_t qsae__safetensors_read(qsae__tensors *t, const qsae__file *file);
int32_t qsae__npy_read(qsae__tensors *t, const qsae__file *file);
int32_t qsae__npz_read(qsae__tensors *t, const qsae__file *file);
/* gguf.c; also fills t->gguf, and adds the other parts of a split file. */
int32_t qsae__gguf_read(qsae__tensors *t, const qsae__file *file);
bool qsae__is_gguf(const qsae__file *file);

/* Opens and adds the file `name` of the folder, which `from` (for messages) speaks of. The name is
 * hostile: plain names only, and no links but those of the Hugging Face cache. */
int32_t qsae__set_open_beside(qsae__tensors *t, const char *folder, const char *from,
                              const char *name);

/* folder/model.safetensors.index.json and its shards. */
int32_t qsae__index_read(qsae__tensors *t, const char *folder, const char *index_path);

/* Fixed grammar of an npy header (numpy.lib.format). */
typedef struct qsae__npy {
    int64_t shape[8];
    uint64_t bytes;     /* of the data */
    int32_t rank;
    int32_t dtype;
    bool fortran;
} qsae__npy;

#define QSAE__NPY_PREFIX 12        /* bytes that tell the header length */
#define QSAE__NPY_HEADER_MAX 65536 /* NumPy itself refuses more than 10,000 */

/* From the first min(size, QSAE__NPY_PREFIX) bytes: where the data starts. */
int32_t qsae__npy_start(const uint8_t *data, uint64_t size, const char *name, uint64_t *start);

/* head: the first `start` bytes. */
int32_t qsae__npy_header(const uint8_t *head, uint64_t start, const char *name, qsae__npy *out);

/* Column-major src to row-major dst. */
void qsae__npy_transpose(const qsae__npy *h, const uint8_t *src, uint8_t *dst);

int32_t qsae__pickle_refused(const char *path);

#endif
