/* SPDX-License-Identifier: BSD-2-Clause */
/* tokenizer.json and tokenizer_config.json (two inner files), then a text to encode. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = { data, size };
    const fuzz_input json = fuzz_part(&in), config = fuzz_part(&in);
    int32_t ids[256];
    fuzz_put("tokenizer.json", json.data, json.size);
    if (config.size)
        fuzz_put("tokenizer_config.json", config.data, config.size);
    else
        fuzz_remove("tokenizer_config.json");
    uint8_t *const text = fuzz_copy(in.data, in.size < 4096 ? in.size : 4096);
    for (int mode = 0; mode < FUZZ_MODES; mode++) {
        qsae_tokenizer *t = NULL;
        int64_t n = 0, again = 0;
        const int32_t status = qsae_tokenizer_open(fuzz_context(mode), fuzz_path("tokenizer.json"),
                                                   &t);
        if (status != QSAE_OK) {
            fuzz_refused(status, t);
            continue;
        }
        qsae_tokenizer_info info = { .struct_size = sizeof info };
        fuzz_accepted();
        fuzz_check(qsae_tokenizer_get_info(t, &info) == QSAE_OK);
        int32_t st = qsae_tokenizer_encode(t, (const char *)text,
                                           in.size < 4096 ? in.size : 4096, 1, ids, 256, &n);
        fuzz_check(st == QSAE_OK || st == QSAE_ESPACE || st == QSAE_EFORMAT ||
                   st == QSAE_EUNSUPPORTED || st == QSAE_EINVAL || st == QSAE_EOVERFLOW);
        for (int64_t i = 0; st == QSAE_OK && i < n; i++) {
            const char *bytes;
            size_t length;
            fuzz_check(ids[i] >= 0 && ids[i] < info.vocab);
            fuzz_check(qsae_tokenizer_token(t, ids[i], &bytes, &length) == QSAE_OK);
        }
        if (st == QSAE_OK) {
            st = qsae_tokenizer_encode(t, (const char *)text, in.size < 4096 ? in.size : 4096, 1,
                                       NULL, 0, &again);
            fuzz_check(n == again && (st == QSAE_OK || st == QSAE_ESPACE));
        }
        qsae_tokenizer_close(&t);
    }
    free(text);
    return 0;
}
