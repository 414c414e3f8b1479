/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Matrices that a checkpoint stores compressed: which storage format its configuration names, and
 * the encoded matrix of a module. A format is one qsae__store, listed in stored.c.
 */
#ifndef QSAE_CODECS_STORED_H
#define QSAE_CODECS_STORED_H

#include "codecs/qmatrix.h"

/* quantization_config of a checkpoint, read. */
typedef struct qsae__scheme qsae__scheme;

/*
 * config: the object, `where` names file and key in messages. A quant_method this library does not
 * run is QSAE_EUNSUPPORTED by name; so is an option that changes the values and is not handled.
 */
int32_t qsae__scheme_open(qsae_context *ctx, const json_t *config, const char *where,
                          qsae__scheme **out);
void qsae__scheme_close(qsae_context *ctx, qsae__scheme **scheme);
/* "bitsandbytes", "gptq", ... */
const char *qsae__scheme_name(const qsae__scheme *scheme);

/*
 * The matrix [n_out, n_in] of a module ("model.layers.0.self_attn.q_proj") if the file stores it
 * compressed, whatever the configuration says of it; *out NULL if it does not (a plain tensor
 * module.weight is then the caller's to find). scheme may be NULL: bitsandbytes' keys are known
 * without. Errors name file, key, expected and found.
 */
int32_t qsae__stored_open(qsae_context *ctx, const qsae__scheme *scheme, qsae__tensors *tensors,
                          const char *module, int64_t n_out, int64_t n_in, qsae_qmatrix **out);

/* The tensor that shows that a file holds a module's matrix, plain or encoded, or NULL. module: a
 * path of at most 200 bytes. */
const qsae__tensor *qsae__stored_key(const qsae__tensors *tensors, const char *module);

/* One tensor of a ggml block type, or F32, F16, BF16, as a matrix [n_out, n_in]. */
int32_t qsae__ggml_open(qsae_context *ctx, qsae__tensors *tensors, const qsae__tensor *tensor,
                        qsae_qmatrix **out);

/* A storage format. */
typedef struct qsae__store {
    const char *method;      /* quant_method in config.json */
    size_t size;             /* of its params */
    /* Reads and checks quantization_config into params, zeroed, which open gets; QSAE_EUNSUPPORTED
     * for what it cannot run. */
    int32_t (*read)(qsae_context *ctx, const json_t *config, const char *where, void *params);
    /* Frees what params point to, also after a failed read; or NULL. */
    void (*close)(qsae_context *ctx, void *params);
    /* As qsae__stored_open. */
    int32_t (*open)(qsae_context *ctx, const void *params, qsae__tensors *tensors,
                    const char *module, int64_t n_out, int64_t n_in, qsae_qmatrix **out);
} qsae__store;

extern const qsae__store qsae__store_bitsandbytes, qsae__store_gptq, qsae__store_awq,
    qsae__store_compressed_tensors, qsae__store_fp8;

#endif
