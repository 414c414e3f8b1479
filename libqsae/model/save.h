/* SPDX-License-Identifier: BSD-2-Clause */
/* A checkpoint under a condition as a Hugging Face folder: what save.c and save_config.c share. */
#ifndef QSAE_MODEL_SAVE_H
#define QSAE_MODEL_SAVE_H

#include "formats/writer.h"
#include "model/internal.h"

typedef struct qsae__save {
    qsae_context *ctx;
    const qsae_weights *w;
    qsae_save_settings s;
    qsae__condition c;
    bool bnb;                /* encoded matrices are written as bitsandbytes stores them */
    bool encodes;            /* the condition changes weights */
    const char *temp;        /* folder being written */
    uint64_t room;           /* of a file's header */
    qsae__writer *writer;    /* of the present shard, or NULL */
    uint64_t shard_bytes, total_bytes;
    int64_t n_shards;
    json_t *map;             /* tensor name: number of its shard, from 0 */
} qsae__save;

/* Whether the condition replaces a linear layer, or the embedding, or the head. */
bool qsae__save_selects(const qsae__save *v, int64_t place);
bool qsae__save_selects_vocabulary(const qsae__save *v, bool head);

/* Dtype that a stored floating-point dtype is written as. */
int32_t qsae__save_dtype(const qsae__save *v, int32_t stored);

/* save_config.c: config.json, and the other files of the source. */
int32_t qsae__save_config(const qsae__save *v);
int32_t qsae__save_files(const qsae__save *v);

#endif
