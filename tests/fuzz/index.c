/* SPDX-License-Identifier: BSD-2-Clause */
/* A folder: model.safetensors.index.json and a.safetensors (inner files), b.safetensors. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = { data, size };
    const fuzz_input index = fuzz_part(&in), a = fuzz_part(&in);
    int32_t status[FUZZ_MODES];
    fuzz_put("model.safetensors.index.json", index.data, index.size);
    fuzz_put("a.safetensors", a.data, a.size);
    fuzz_put("b.safetensors", in.data, in.size);
    for (int mode = 0; mode < FUZZ_MODES; mode++) {
        qsae_tensors *t = NULL;
        status[mode] = qsae_tensors_open(fuzz_context(mode), fuzz_folder(), &t);
        if (status[mode] != QSAE_OK)
            fuzz_refused(status[mode], t);
        else
            fuzz_accepted();
        qsae_tensors_close(&t);
    }
    fuzz_check(status[0] == status[1]);
    return 0;
}
