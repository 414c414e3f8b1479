/* SPDX-License-Identifier: BSD-2-Clause */
/* State files of audits, with the checksum made right: what a run may resume from. */
#include "fuzz.h"
#include "audit_states.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *const copy = fuzz_copy(data, size);
    fuzz_audit_sign(copy, size);
    const char *const path = fuzz_put("state", copy, size);
    for (int mode = 0; mode < FUZZ_MODES; mode++) {
        qsae_audit *audit = NULL;
        const char *json;
        const int32_t status = fuzz_audit_open(mode, path, &audit);
        if (status != QSAE_OK) {
            fuzz_refused(status, audit);
            continue;
        }
        fuzz_accepted();
        (void)qsae_audit_result(audit, &json, NULL);
        qsae_audit_close(&audit);
    }
    free(copy);
    return 0;
}
