/* SPDX-License-Identifier: BSD-2-Clause */
/* An SAE's folder: cfg.json (an inner file) and sae_weights.safetensors; opened and run. */
#include "fuzz.h"

#define ROWS 2
#define MOST 4096

static void run(qsae_sae *sae)
{
    qsae_sae_info info = { .struct_size = offsetof(qsae_sae_info, hash) };
    static float x[ROWS * MOST], y[ROWS * MOST];
    int64_t indptr[ROWS + 1], nnz;
    fuzz_accepted();
    fuzz_check(qsae_sae_get_info(sae, &info) == QSAE_OK);
    if (info.width > MOST || info.width_out > MOST)
        return;
    for (int i = 0; i < ROWS * MOST; i++)
        x[i] = (float)(i % 7 - 3);
    const qsae_rows in = { sizeof in, x, ROWS, info.width, info.width, QSAE_F32, 0 };
    qsae_rows out = { sizeof out, y, ROWS, info.width_out, info.width_out, QSAE_F32, 0 };
    (void)qsae_sae_encode_sparse(sae, &in, indptr, NULL, NULL, 0, NULL, &nnz);
    (void)qsae_sae_reconstruct(sae, &in, &out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = { data, size };
    const fuzz_input config = fuzz_part(&in);
    fuzz_put("cfg.json", config.data, config.size);
    fuzz_put("sae_weights.safetensors", in.data, in.size);
    int32_t status[FUZZ_MODES];
    for (int mode = 0; mode < FUZZ_MODES; mode++) {
        qsae_sae *sae = NULL;
        status[mode] = qsae_sae_open(fuzz_context(mode), fuzz_folder(), NULL, &sae);
        if (status[mode] != QSAE_OK)
            fuzz_refused(status[mode], sae);
        else
            run(sae);
        qsae_sae_close(&sae);
    }
    fuzz_check(status[0] == status[1]);
    return 0;
}
