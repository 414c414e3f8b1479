/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernels/ggml.h"

extern const qsae__ggml_ops qsae__ggml_ops_avx512;
#define OPS qsae__ggml_ops_avx512
#include "kernels/ggml_impl.h"
#include "kernels/ggml_k_impl.h"
