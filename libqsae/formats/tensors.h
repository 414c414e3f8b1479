/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_FORMATS_TENSORS_H
#define QSAE_FORMATS_TENSORS_H

#include <qsae/tensor.h>

#include "core/core.h"

/* One tensor, row-major, C order; data may have any alignment and belongs to the set. */
typedef struct qsae__tensor {
    const char *name;
    const char *file;      /* path of the file it lies in */
    const void *data;
    uint64_t bytes;
    int64_t shape[8];
    int32_t rank;
    int32_t dtype;         /* QSAE_* of tensor.h */
} qsae__tensor;

/* A set of named tensors, from one or several files. Reading is thread-safe. Reference-counted. */
typedef struct qsae__tensors qsae__tensors;

/* A safetensors file, a GGUF file, an npz, an npy (one tensor named "data"), or a folder:
 * model.safetensors.index.json with its shards, else model.safetensors, else the one *.safetensors,
 * *.npz or *.gguf in it (a split GGUF file counts as one). Pickles (torch zip with data.pkl, or
 * byte 0x80 and a protocol byte) are QSAE_EPICKLE. */
int32_t qsae__tensors_load(qsae_context *ctx, const char *path, qsae__tensors **out);
qsae__tensors *qsae__tensors_ref(qsae__tensors *t);
void qsae__tensors_unref(qsae__tensors **t);

/* qsae__share of data that were made when the set was read, while nobody knows where they are. */
int32_t qsae__tensors_share(qsae__tensors *t);

int64_t qsae__tensors_len(const qsae__tensors *t);
const qsae__tensor *qsae__tensors_at(const qsae__tensors *t, int64_t i); /* ordered by name */
const qsae__tensor *qsae__tensors_find(const qsae__tensors *t, const char *name); /* or NULL */

/* The tensor will not be read for a while: the pages of a mapped file that hold nothing else need
 * not stay in memory. Its data read the same afterwards. */
void qsae__tensor_release(const qsae__tensors *t, const qsae__tensor *x);

/* A descriptor of the file the tensor lies in, mapped, and where it begins there; see
 * qsae__file_reopen. -1: read its data. */
int qsae__tensor_reopen(const qsae__tensors *t, const qsae__tensor *x, uint64_t *offset);
/* The tensor will be read soon: the system may begin to fetch it from a mapped file. */
void qsae__tensor_expect(const qsae__tensors *t, const qsae__tensor *x);

/* The set behind a public handle. */
qsae__tensors *qsae__tensors_of(const qsae_tensors *t);
qsae_context *qsae__tensors_context(const qsae__tensors *t);

/* __metadata__ value of a safetensors file (single file only), or NULL. */
const char *qsae__tensors_metadata(const qsae__tensors *t, const char *key);

/* The tensor, or QSAE_ENOENT naming file and key; rank and shape checked against expected (-1 =
 * any), QSAE_EMISMATCH naming expected and found. */
int32_t qsae__tensors_need(const qsae__tensors *t, const char *name, int32_t rank,
                           const int64_t *shape, const qsae__tensor **out);

/* Writes a safetensors file (atomic). Used by tests and programs that save tensors. */
int32_t qsae__safetensors_write(qsae_context *ctx, const char *path, const qsae__tensor *tensors,
                                int64_t count);

#endif
