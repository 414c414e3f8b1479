/* SPDX-License-Identifier: BSD-2-Clause */
/* Safetensors files written tensor by tensor: nothing but the header is kept in memory. */
#ifndef QSAE_FORMATS_WRITER_H
#define QSAE_FORMATS_WRITER_H

#include "formats/tensors.h"

typedef struct qsae__writer qsae__writer;

/* Most bytes of the header that a tensor of this name and rank takes. */
size_t qsae__writer_room(const char *name, int32_t rank);

/* room: for the header, at least the sum of the tensors' and 64; what is not needed becomes white
 * space. The file appears when it is committed. */
int32_t qsae__writer_open(qsae_context *ctx, const char *path, uint64_t room, qsae__writer **out);

/* Begins a tensor: name, dtype, shape and rank of t count. The one before must be complete. */
int32_t qsae__writer_begin(qsae__writer *w, const qsae__tensor *t);
/* The next bytes of its data. */
int32_t qsae__writer_put(qsae__writer *w, const void *data, size_t size);

/* Closes *writer whatever happens. */
int32_t qsae__writer_commit(qsae__writer **writer);
void qsae__writer_discard(qsae__writer **writer);

#endif
