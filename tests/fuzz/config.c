/* SPDX-License-Identifier: BSD-2-Clause */
/* config.json of a model: what is read of it is sound. */
#include "fuzz.h"

#include "formats/json.h"
#include "model/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *const copy = fuzz_copy(data, size);
    json_t *json = NULL;
    if (qsae__json_parse((const char *)copy, size, "config.json", &json) == QSAE_OK) {
        qsae__config c;
        memset(&c, 0, sizeof c);
        const int32_t status = qsae__config_read(fuzz_context(1), json, "config.json", &c);
        if (status != QSAE_OK)
            fuzz_refused(status, NULL);
        else
            fuzz_accepted();
        if (status == QSAE_OK)
            fuzz_check(c.layers > 0 && c.width > 0 && c.vocab > 0 && c.heads > 0);
        qsae__config_free(fuzz_context(1), &c);
    }
    json_decref(json);
    free(copy);
    return 0;
}
