/* SPDX-License-Identifier: BSD-2-Clause */
/* Texts: a byte that says which kind of file, one that says how it is cut, then the file. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = { "x.txt", "x.jsonl", "x.npy", "x.txt.zst", "x.jsonl.zst" };
    fuzz_input in = { data, size };
    const char *const name = names[fuzz_byte(&in) % (sizeof names / sizeof names[0])];
    const uint8_t how = fuzz_byte(&in);
    qsae_corpus_settings s;
    qsae_corpus_settings_init(&s, sizeof s);
    s.context = 2 + how % 7;
    s.bos_policy = how / 8 % 2 ? QSAE_BOS_NONE : QSAE_BOS_DEFAULT;
    s.keep_tail = how / 16 % 2;
    s.max_tokens = how / 32 % 2 ? 20 : 0;
    s.cross_labels = how / 64 % 2;
    const char *const path = fuzz_put(name, in.data, in.size);
    int32_t status[FUZZ_MODES];
    for (int mode = 0; mode < FUZZ_MODES; mode++) {
        qsae_corpus *c = NULL;
        qsae_corpus_info info = { .struct_size = sizeof info };
        status[mode] = qsae_corpus_open(fuzz_context(mode), fuzz_tokenizer(mode), path, &s, &c);
        if (status[mode] != QSAE_OK) {
            fuzz_refused(status[mode], c);
            continue;
        }
        fuzz_accepted();
        fuzz_check(qsae_corpus_get_info(c, &info) == QSAE_OK);
        int64_t sum = 0;
        for (int64_t i = 0; i < info.chunks; i++) {
            const int32_t *ids, *labels;
            const int64_t *document;
            int64_t n;
            fuzz_check(qsae_corpus_chunk(c, i, &ids, &labels, &document, &n) == QSAE_OK);
            sum += n;
            for (int64_t k = 0; k < n; k++)
                fuzz_check(ids[k] >= 0 && (labels[k] >= 0 || labels[k] == -100));
        }
        fuzz_check(sum == info.tokens);
        qsae_corpus_close(&c);
    }
    fuzz_check(status[0] == status[1]);
    fuzz_remove(name);
    return 0;
}
