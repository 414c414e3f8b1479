/* SPDX-License-Identifier: BSD-2-Clause */
/* Outlier statistics of LLM.int8, per linear layer. */
#include <stdio.h>
#include <string.h>

#include "model/extras.h"

int64_t qsae__model_linear_layer(const qsae_model *m, int64_t i)
{
    return qsae__max_i64(0, qsae__linear_layer(m->weights, m->weights->linears[i]));
}

int64_t qsae__model_linears(const qsae_model *m)
{
    return m->weights->n_linears;
}

static qsae__linear *linear_at(const qsae_model *m, int64_t i)
{
    const int projs = qsae__projs(m->config);
    const int64_t at = m->weights->linears[i];
    return at < qsae__place_embed(m->config) ? m->layers[at / projs].proj[at % projs]
                                             : m->extras->projection;
}

void qsae__model_linear_name(const qsae_model *m, int64_t i, char *name, size_t size)
{
    const char *const weight = qsae__linear_matrix(m->weights, m->weights->linears[i])->name;
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
