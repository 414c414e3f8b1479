/* SPDX-License-Identifier: BSD-2-Clause */
/* From files to logits: a byte that chooses a condition, config.json (an inner file) and
 * model.safetensors. */
#include "fuzz.h"

#define TOKENS 3

static void run(qsae_weights *weights, uint8_t how)
{
    static const char *const conditions[] = { "none", "llm.int8", "nf4", "rtn:bits=4,group=0",
                                              "ggml:q8_0", "none@compute=bf16",
                                              "none+prune:sparsity=0.5" };
    qsae_model_settings s;
    qsae_model *model = NULL;
    qsae_model_info info = { .struct_size = offsetof(qsae_model_info, hash) };
    qsae_model_settings_init(&s, sizeof s);
    s.condition = conditions[how % (sizeof conditions / sizeof conditions[0])];
    s.memory = how & 128 ? QSAE_MEMORY_STREAMED : QSAE_MEMORY_RESIDENT;
    fuzz_check(qsae_weights_get_info(weights, &info) == QSAE_OK);
    const int32_t status = qsae_model_open(weights, &s, &model);
    if (status != QSAE_OK) {
        fuzz_refused(status, model);
        return;
    }
    int32_t ids[TOKENS];
    float nll[TOKENS];
    for (int i = 0; i < TOKENS; i++)
        ids[i] = (int32_t)((i * 5 + 1) % info.vocab);
    qsae_pass pass;
    qsae_pass_init(&pass, sizeof pass);
    pass.ids = ids;
    pass.n_seq = 1;
    pass.n_tokens = TOKENS;
    pass.nll = nll;
    if (qsae_model_forward(model, &pass) == QSAE_OK)
        fuzz_accepted();
    qsae_model_close(&model);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = { data, size };
    const uint8_t how = fuzz_byte(&in);
    const fuzz_input config = fuzz_part(&in);
    fuzz_put("config.json", config.data, config.size);
    fuzz_put("model.safetensors", in.data, in.size);
    for (int mode = 0; mode < FUZZ_MODES; mode++) {
        qsae_weights *weights = NULL;
        const int32_t status = qsae_weights_open(fuzz_context(mode), fuzz_folder(), &weights);
        if (status != QSAE_OK)
            fuzz_refused(status, weights);
        else
            run(weights, how);
        qsae_weights_close(&weights);
    }
    return 0;
}
