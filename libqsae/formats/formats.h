/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * formats/: untrusted files to typed tensors. safetensors (one file, or sharded with an index),
 * GGUF, npz and npy, strict JSON on jansson. Knows nothing about models. Includes core/,
 * kernels/half.h and itself.
 */
#ifndef QSAE_FORMATS_FORMATS_H
#define QSAE_FORMATS_FORMATS_H

#include "formats/gguf.h"
#include "formats/json.h"
#include "formats/tensors.h"
#include "formats/yaml.h"

#endif
