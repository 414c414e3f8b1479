/* SPDX-License-Identifier: BSD-2-Clause */
/* JSON text: refused, or written so that it reads as the same value. */
#include "fuzz.h"

#include "formats/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *const copy = fuzz_copy(data, size);
    for (unsigned flags = 0; flags < 4; flags++) {
        json_t *v = NULL, *again = NULL;
        const int32_t status = qsae__json_parse_with((const char *)copy, size, "x", flags, &v);
        if (status != QSAE_OK) {
            fuzz_refused(status, v);
            continue;
        }
        fuzz_accepted();
        qsae__strbuf b;
        qsae__strbuf_init(&b, fuzz_context(1));
        const int32_t written = qsae__json_write(&b, v, flags & 1 ? 2 : -1);
        if (written == QSAE_OK) {
            fuzz_check(qsae__json_parse_with(b.data, (size_t)b.size, "y", flags, &again)
                       == QSAE_OK);
            fuzz_check(json_equal(v, again));
        }
        json_decref(again);
        json_decref(v);
        qsae__strbuf_free(&b);
    }
    free(copy);
    return 0;
}
