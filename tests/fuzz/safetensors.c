/* SPDX-License-Identifier: BSD-2-Clause */
#include "tensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return fuzz_tensors("x.safetensors", data, size);
}
