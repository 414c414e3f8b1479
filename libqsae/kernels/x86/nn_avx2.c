/* SPDX-License-Identifier: BSD-2-Clause */
#define LEVEL(name) name##_avx2
#include "kernels/nn_impl.h"
