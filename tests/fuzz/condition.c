/* SPDX-License-Identifier: BSD-2-Clause */
/* Condition strings: refused, or their canonical form means itself. */
#include "fuzz.h"

#include "codecs/condition.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    qsae_context *const ctx = fuzz_context(0);
    char *const text = malloc(size + 1);
    qsae__condition c, again;
    qsae_quantizer *q = NULL;
    fuzz_check(text);
    if (size)
        memcpy(text, data, size);
    text[size] = 0;
    int32_t status = qsae__condition_parse(ctx, text, &c);
    if (status != QSAE_OK) {
        fuzz_refused(status, NULL);
    } else {
        fuzz_accepted();
        fuzz_check(c.canonical);
        fuzz_check(qsae__condition_parse(ctx, c.canonical, &again) == QSAE_OK);
        fuzz_check(strcmp(c.canonical, again.canonical) == 0);
        qsae__condition_free(ctx, &again);
        qsae__condition_free(ctx, &c);
    }
    status = qsae_quantizer_open(ctx, text, &q);
    if (status != QSAE_OK)
        fuzz_refused(status, q);
    qsae_quantizer_close(&q);
    free(text);
    return 0;
}
