/* SPDX-License-Identifier: BSD-2-Clause */
#include "model/family.h"

#include <string.h>

static const qsae__family *const families[] = {
    &qsae__family_llama,
    &qsae__family_gemma3_text,
    &qsae__family_gemma3,
    &qsae__family_gemma2,
    &qsae__family_qwen3,
    &qsae__family_mistral,
    &qsae__family_gpt_neox,
    &qsae__family_gpt2,
    &qsae__family_gemma4_text,
    &qsae__family_gemma4,
};

const qsae__family *qsae__family_find(const char *model_type)
{
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++)
        if (!strcmp(families[i]->model_type, model_type))
            return families[i];
    return NULL;
}

const qsae__family *qsae__family_at(size_t i)
{
    return i < sizeof families / sizeof families[0] ? families[i] : NULL;
}

const char *qsae__family_names(void)
{
    return "llama, gemma3_text, gemma3, gemma2, qwen3, mistral, gpt_neox, gpt2, "
           "gemma4_text, gemma4";
}
