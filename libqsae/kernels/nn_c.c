/* SPDX-License-Identifier: BSD-2-Clause */
#define LEVEL(name) name##_c
#include "kernels/nn_impl.h"
