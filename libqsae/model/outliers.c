/* SPDX-License-Identifier: BSD-2-Clause */
/* Outlier statistics of LLM.int8, per linear layer. */
#include <stdio.h>

#include "model/internal.h"

int64_t qsae__model_linears(const qsae_model *m)
{
    return m->config->layers * QSAE__PROJ_COUNT;
}

void qsae__model_linear_name(const qsae_model *m, int64_t i, char *name, size_t size)
{
    snprintf(name, size, "%slayers.%lld.%s", m->weights->prefix, (long long)(i / QSAE__PROJ_COUNT),
             qsae__proj_slots[i % QSAE__PROJ_COUNT].path);
}

int64_t qsae__model_linear_inputs(const qsae_model *m, int64_t i)
{
    return qsae__linear_in(m->layers[i / QSAE__PROJ_COUNT].proj[i % QSAE__PROJ_COUNT]);
}

qsae__outliers qsae__model_outliers(const qsae_model *m, int64_t i)
{
    return qsae__linear_outliers(m->layers[i / QSAE__PROJ_COUNT].proj[i % QSAE__PROJ_COUNT]);
}

void qsae__model_set_outliers(qsae_model *m, int64_t i, const qsae__outliers *o)
{
    qsae__linear_set_outliers(m->layers[i / QSAE__PROJ_COUNT].proj[i % QSAE__PROJ_COUNT], o);
}
