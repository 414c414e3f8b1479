/* SPDX-License-Identifier: BSD-2-Clause */
/* Outlier statistics of LLM.int8, per linear layer. */
#include <stdio.h>
#include <string.h>

#include "model/internal.h"

int64_t qsae__model_linears(const qsae_model *m)
{
    return m->config->layers * qsae__projs(m->config);
}

static qsae__linear *linear_at(const qsae_model *m, int64_t i)
{
    const int projs = qsae__projs(m->config);
    return m->layers[i / projs].proj[i % projs];
}

void qsae__model_linear_name(const qsae_model *m, int64_t i, char *name, size_t size)
{
    const int projs = qsae__projs(m->config);
    const char *const weight = m->weights->layers[i / projs].weight[i % projs].name;
    snprintf(name, size, "%.*s", (int)(strlen(weight) - strlen(".weight")), weight);
}

int64_t qsae__model_linear_inputs(const qsae_model *m, int64_t i)
{
    return qsae__linear_in(linear_at(m, i));
}

qsae__outliers qsae__model_outliers(const qsae_model *m, int64_t i)
{
    return qsae__linear_outliers(linear_at(m, i));
}

void qsae__model_set_outliers(qsae_model *m, int64_t i, const qsae__outliers *o)
{
    qsae__linear_set_outliers(linear_at(m, i), o);
}
