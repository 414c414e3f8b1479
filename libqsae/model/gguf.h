/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_MODEL_GGUF_H
#define QSAE_MODEL_GGUF_H

#include "formats/formats.h"
#include "formats/gguf.h"

/*
 * A GGUF file as a Hugging Face checkpoint (doc/gguf.md): *config is what config.json would say,
 * for qsae__config_read, to be json_decref'ed by the caller; *renamed holds the same tensors under
 * their Hugging Face names, with what llama.cpp's converter changes undone, and keeps raw open.
 * raw: a set with qsae__tensors_gguf. An architecture, a key or a tensor that this library does not
 * run is QSAE_EUNSUPPORTED by name; QSAE_EFORMAT, QSAE_ENOMEM. Nothing is created on errors.
 */
int32_t qsae__gguf_model(qsae_context *ctx, qsae__tensors *raw, json_t **config,
                         qsae__tensors **renamed);

#endif
