/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Layers that are loaded one by one, for a checkpoint larger than memory. Encoding is a function of
 * the weight alone, so a layer that was dropped and loaded again computes the same bits.
 */
#include "model/internal.h"

bool qsae__model_loaded(const qsae_model *m, int64_t layer)
{
    for (int p = 0; p < qsae__projs(m->config); p++)
        if (qsae__has_proj(m->config, layer, p) &&
            !qsae__linear_loaded(m->layers[layer].proj[p]))
            return false;
    return true;
}

/* keep: for good, where other processes may have the same. */
static int32_t load_proj(qsae_model *m, int64_t layer, int p, bool keep)
{
    const qsae__matrix *const matrix = &m->weights->layers[layer].weight[p];
    if (!qsae__has_proj(m->config, layer, p))
        return QSAE_OK;
    const qsae__linear_weight w = qsae__model_weight(m, layer, p, NULL);
    qsae__linear *const linear = m->layers[layer].proj[p];
    pthread_mutex_lock(&m->weights->mutex);
    int32_t st = qsae__linear_load(linear, qsae__model_condition(m, layer, p), &w);
    if (st == QSAE_OK && keep)
        st = qsae__linear_share(linear);
    pthread_mutex_unlock(&m->weights->mutex);
    if (st != QSAE_OK)
        return qsae__fail_in(st, "%s", matrix->name);
    if (matrix->tensor && qsae__linear_owns(linear))
        qsae__tensor_release(m->weights->tensors, matrix->tensor);
    return QSAE_OK;
}

/* The file is read ahead while the layers before are computed. */
static void expect(const qsae_model *m, int64_t layer)
{
    for (int p = 0; layer < m->config->layers && p < qsae__projs(m->config); p++) {
        const qsae__tensor *const t = m->weights->layers[layer].weight[p].tensor;
        if (t)
            qsae__tensor_expect(m->weights->tensors, t);
    }
}

int32_t qsae__model_load(qsae_model *m, int64_t layer)
{
    int32_t st = QSAE_OK;
    if (m->streamed && !qsae__model_loaded(m, layer)) {
        expect(m, layer);
        expect(m, layer + 1);
    }
    const qsae__fpenv env = qsae__fpenv_enter();
    for (int p = 0; m->streamed && p < qsae__projs(m->config) && st == QSAE_OK; p++)
        st = load_proj(m, layer, p, false);
    qsae__fpenv_leave(env);
    if (st != QSAE_OK)
        qsae__model_drop(m, layer);
    return st;
}

/* The copy that models share goes with the last that has it loaded. */
static void drop_shared(qsae_weights *w, int64_t at)
{
    pthread_mutex_lock(&w->mutex);
    if (w->packed[at] && atomic_load(&w->packed[at]->refs) == 1)
        qsae__packed_close(&w->packed[at]);
    pthread_mutex_unlock(&w->mutex);
}

void qsae__model_drop(qsae_model *m, int64_t layer)
{
    const int projs = qsae__projs(m->config);
    for (int p = 0; m->streamed && p < projs; p++) {
        const qsae__matrix *const matrix = &m->weights->layers[layer].weight[p];
        if (!qsae__has_proj(m->config, layer, p))
            continue;
        qsae__linear_drop(m->layers[layer].proj[p]);
        drop_shared(m->weights, layer * projs + p);
        if (matrix->tensor)
            qsae__tensor_release(m->weights->tensors, matrix->tensor);
        else
            qsae__qmatrix_release(matrix->stored);
    }
}

int32_t qsae__model_keep(qsae_model *m, qsae_progress_callback progress, void *cookie,
                         const qsae_cancel_token *cancel)
{
    const int projs = qsae__projs(m->config);
    const int64_t total = m->config->layers * projs;
    const char *const phase = qsae__condition_encodes(&m->condition) ? "quantize" : "load";
    int32_t st = QSAE_OK;
    if (!m->streamed)
        return QSAE_OK;
    const qsae__fpenv env = qsae__fpenv_enter();
    for (int64_t i = 0; i < total && st == QSAE_OK; i++) {
        st = qsae__canceled(cancel);
        if (st == QSAE_OK)
            st = load_proj(m, i / projs, (int)(i % projs), true);
        if (st == QSAE_OK && progress)
            st = progress(cookie, i + 1, total, "tensors", phase);
    }
    qsae__fpenv_leave(env);
    for (int64_t n = 0; n < m->config->layers && st != QSAE_OK; n++)
        qsae__model_drop(m, n);
    m->streamed = st != QSAE_OK;
    return st;
}

uint64_t qsae__model_held(const qsae_model *m)
{
    const int projs = qsae__projs(m->config);
    uint64_t bytes = 0;
    for (int64_t i = 0; i < m->config->layers * projs; i++)
        if (qsae__has_proj(m->config, i / projs, (int)(i % projs)))
            bytes += qsae__linear_held(m->layers[i / projs].proj[i % projs]);
    return bytes;
}

bool qsae__model_shares(const qsae_model *a, const qsae_model *b, int64_t layer)
{
    if (a->weights != b->weights || a->bf16 != b->bf16)
        return false;
    for (int p = 0; p < qsae__projs(a->config); p++)
        if (qsae__model_changes(a, layer, p) || qsae__model_changes(b, layer, p))
            return false;
    return true;
}
