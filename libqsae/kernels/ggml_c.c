/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernels/ggml.h"

extern const qsae__ggml_ops qsae__ggml_ops_c;
#define OPS qsae__ggml_ops_c
#include "kernels/ggml_impl.h"
#include "kernels/ggml_k_impl.h"
