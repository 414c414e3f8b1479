/* SPDX-License-Identifier: BSD-2-Clause */
/* The tokenizer inside a GGUF file (an inner file), then a text to encode. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = { data, size };
    const fuzz_input file = fuzz_part(&in);
    int32_t ids[256];
    int64_t n = 0;
    const size_t length = in.size < 4096 ? in.size : 4096;
    const char *const path = fuzz_put("t.gguf", file.data, file.size);
    uint8_t *const text = fuzz_copy(in.data, length);
    for (int mode = 0; mode < FUZZ_MODES; mode++) {
        qsae_tokenizer *t = NULL;
        const int32_t status = qsae_tokenizer_open(fuzz_context(mode), path, &t);
        if (status != QSAE_OK) {
            fuzz_refused(status, t);
            continue;
        }
        qsae_tokenizer_info info = { .struct_size = sizeof info };
        fuzz_accepted();
        fuzz_check(qsae_tokenizer_get_info(t, &info) == QSAE_OK);
        if (qsae_tokenizer_encode(t, (const char *)text, length, 1, ids, 256, &n) == QSAE_OK)
            for (int64_t i = 0; i < n; i++)
                fuzz_check(ids[i] >= 0 && ids[i] < info.vocab);
        qsae_tokenizer_close(&t);
    }
    free(text);
    return 0;
}
