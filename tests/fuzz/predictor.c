/* SPDX-License-Identifier: BSD-2-Clause */
/* A predictor's fit out of a result document. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const double rate[3] = { 0, 0.1, 1 }, mean[3] = { 0, 1, 2 }, most[3] = { 0, 2, 9 };
    const char *const path = fuzz_put("result.json", data, size);
    for (int mode = 0; mode < FUZZ_MODES; mode++) {
        qsae_predictor *p = NULL;
        const char *json;
        double probability[3];
        int64_t rank[3];
        const int32_t status = qsae_predictor_open(fuzz_context(mode), path, NULL, NULL, &p);
        if (status != QSAE_OK) {
            fuzz_refused(status, p);
            continue;
        }
        fuzz_accepted();
        fuzz_check(qsae_predictor_json(p, &json, NULL) == QSAE_OK);
        if (qsae_predictor_run(p, rate, mean, most, 3, probability, rank) == QSAE_OK)
            for (int i = 0; i < 3; i++)
                fuzz_check(!(probability[i] < 0 || probability[i] > 1));
        qsae_predictor_close(&p);
    }
    return 0;
}
