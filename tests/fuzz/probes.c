/* SPDX-License-Identifier: BSD-2-Clause */
/* Probe sets: a byte of settings, then JSON lines. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = { data, size };
    qsae_probe_settings s;
    qsae_probe_settings_init(&s, sizeof s);
    s.bos_policy = fuzz_byte(&in) % 2 ? QSAE_BOS_NONE : QSAE_BOS_DEFAULT;
    const char *const path = fuzz_put("probes.jsonl", in.data, in.size);
    for (int mode = 0; mode < FUZZ_MODES; mode++) {
        qsae_probes *p = NULL;
        qsae_probes_info info = { .struct_size = sizeof info };
        const int32_t status = qsae_probes_open(fuzz_context(mode), fuzz_tokenizer(mode), path, &s,
                                                &p);
        if (status != QSAE_OK) {
            fuzz_refused(status, p);
            continue;
        }
        fuzz_accepted();
        fuzz_check(qsae_probes_get_info(p, &info) == QSAE_OK);
        for (int64_t i = 0; i < info.items; i++) {
            qsae_probe probe = { .struct_size = sizeof probe };
            fuzz_check(qsae_probes_item(p, i, &probe) == QSAE_OK);
        }
        for (int64_t i = 0; i < info.tags; i++)
            fuzz_check(qsae_probes_tag(p, i));
        qsae_probes_close(&p);
    }
    return 0;
}
