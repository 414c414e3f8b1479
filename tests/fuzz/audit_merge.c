/* SPDX-License-Identifier: BSD-2-Clause */
/* Two state files of audits (the first an inner file), checksums made right, merged. */
#include "fuzz.h"
#include "audit_states.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = { data, size };
    const fuzz_input first = fuzz_part(&in);
    uint8_t *const a = fuzz_copy(first.data, first.size), *const b = fuzz_copy(in.data, in.size);
    fuzz_audit_sign(a, first.size);
    fuzz_audit_sign(b, in.size);
    const char *const files[2] = { fuzz_put("a.state", a, first.size),
                                   fuzz_put("b.state", b, in.size) };
    int32_t status[FUZZ_MODES];
    for (int mode = 0; mode < FUZZ_MODES; mode++) {
        status[mode] = qsae_audit_merge(fuzz_context(mode), files, 2, fuzz_path("merged"),
                                        QSAE_MERGE_NUMERICS, NULL);
        if (status[mode] != QSAE_OK)
            fuzz_refused(status[mode], NULL);
        else
            fuzz_accepted();
    }
    fuzz_check(status[0] == status[1]);
    free(a);
    free(b);
    return 0;
}
