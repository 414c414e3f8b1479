/* SPDX-License-Identifier: BSD-2-Clause */
/* llama.cpp's base-logit files. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *const path = fuzz_put("x.kld", data, size);
    int32_t status[FUZZ_MODES];
    for (int mode = 0; mode < FUZZ_MODES; mode++) {
        qsae_logits_reader *r = NULL;
        qsae_logits_info info = { .struct_size = sizeof info };
        status[mode] = qsae_logits_reader_open(fuzz_context(mode), path, &r);
        if (status[mode] != QSAE_OK) {
            fuzz_refused(status[mode], r);
            continue;
        }
        fuzz_accepted();
        fuzz_check(qsae_logits_reader_get_info(r, &info) == QSAE_OK);
        for (int64_t i = 0; i < info.chunks && i < 16; i++) {
            const int32_t *ids;
            const int64_t n = info.rows * info.vocab;
            fuzz_check(qsae_logits_reader_tokens(r, i, &ids) == QSAE_OK);
            for (int64_t k = 0; k < info.context; k++)
                fuzz_check(ids[k] >= 0 && ids[k] < info.vocab);
            float *const log_p = malloc((size_t)n * sizeof *log_p + 1);
            fuzz_check(log_p); /* the rows are in the file, so they fit here */
            (void)qsae_logits_reader_rows(r, i, log_p, n);
            fuzz_check(n == 0 || qsae_logits_reader_rows(r, i, log_p, n - 1) == QSAE_ESPACE);
            free(log_p);
        }
        qsae_logits_reader_close(&r);
    }
    fuzz_check(status[0] == status[1]);
    return 0;
}
