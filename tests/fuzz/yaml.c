/* SPDX-License-Identifier: BSD-2-Clause */
/* The part of YAML that SAEs' configurations use. */
#include "fuzz.h"

#include "formats/yaml.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *const copy = fuzz_copy(data, size);
    json_t *v = NULL;
    const int32_t status = qsae__yaml_parse((const char *)copy, size, "x", &v);
    if (status != QSAE_OK)
        fuzz_refused(status, v);
    else
        fuzz_accepted();
    json_decref(v);
    free(copy);
    return 0;
}
