/* SPDX-License-Identifier: BSD-2-Clause */
#include <inttypes.h>
#include <string.h>

#include "model/block.h"
#include "model/taps.h"

void qsae_pass_init(qsae_pass *pass, size_t size)
{
    qsae__settings_init(pass, size);
}

#define NO_LABEL (-100)

/* Labels of the pass in labels[rows]; absent ones predict the next token of the sequence. */
static int32_t fill_labels(const qsae_model *m, const qsae_pass *p, int32_t *labels)
{
    for (int64_t s = 0; s < p->n_seq; s++) {
        for (int64_t t = 0; t < p->n_tokens; t++) {
            const int64_t i = s * p->n_tokens + t;
            labels[i] = p->labels             ? p->labels[i]
                        : t + 1 < p->n_tokens ? p->ids[i + 1]
                                              : NO_LABEL;
            if (labels[i] != NO_LABEL && (labels[i] < 0 || labels[i] >= m->config->vocab))
                return qsae__fail(QSAE_EINVAL,
                                  "label %" PRId32 " at sequence %" PRId64 ", position %" PRId64
                                  ": expected 0..%" PRId64 ", or -100 for none",
                                  labels[i], s, t, m->config->vocab - 1);
        }
    }
    return QSAE_OK;
}

/* Final norm, and what comes of it if the caller asks. */
static int32_t run_head(qsae_model *m, const qsae_pass *p, const qsae__slab *slab)
{
    const int64_t rows = p->n_seq * p->n_tokens;
    qsae__run run;
    int32_t st = qsae__run_init(m, slab, &run);
    if (st == QSAE_OK)
        st = qsae__model_final(m, slab, run.b.normed);
    if (st != QSAE_OK || (!p->nll && !p->logits))
        return st;
    int32_t *labels = qsae__alloc_array(m->ctx, rows, sizeof *labels);
    if (!labels)
        return QSAE_ENOMEM;
    const qsae__head_rows head = {
        .model = m,
        .final = run.b.normed,
        .nll = p->nll,
        .logits = p->logits,
    };
    st = fill_labels(m, p, labels);
    if (st == QSAE_OK)
        st = qsae__head_run(m->ctx, rows, labels, 1, &head, p->cancel);
    qsae__free(m->ctx, labels);
    return st;
}

/* Blocks, and the rows before the first one that does not run. */
static int32_t run_layers(qsae_model *m, const qsae_pass *p, qsae__slab *slab, int64_t layers)
{
    int32_t st;
    for (int64_t n = 0; n < layers; n++) {
        st = qsae__canceled(p->cancel);
        if (st == QSAE_OK)
            st = qsae__model_step(m, n, slab);
        if (st == QSAE_OK && p->progress)
            st = p->progress(p->progress_cookie, n + 1, layers, "layers", "forward");
        if (st != QSAE_OK)
            return st;
    }
    st = layers < m->config->layers ? qsae__model_enter(m, layers, slab) : QSAE_OK;
    return st == QSAE_OK ? qsae__canceled(p->cancel) : st;
}

/* Blocks to run. */
static int32_t count_layers(const qsae_model *m, const qsae_pass *p, const qsae__taps *taps,
                            int64_t *layers)
{
    const int64_t all = m->config->layers;
    const bool head = p->nll || p->logits;
    if (p->stop_layer < 0 || p->stop_layer > all || (head && p->stop_layer && p->stop_layer < all))
        return qsae__fail(QSAE_EINVAL, "qsae_pass.stop_layer: %d: expected 0..%" PRId64 "%s",
                          (int)p->stop_layer, all,
                          head ? ", and all layers where nll or logits are asked for" : "");
    *layers = head ? all : p->stop_layer ? p->stop_layer : taps->layers;
    if (*layers < taps->layers)
        return qsae__fail(QSAE_EINVAL, "qsae_pass.stop_layer: %d: a tap at layer %d (%s) would "
                          "never be called", (int)p->stop_layer,
                          (int)taps->list[taps->deepest].layer,
                          qsae_site_name(taps->list[taps->deepest].site));
    return QSAE_OK;
}

static int32_t check_pass(const qsae_model *m, const qsae_pass *p)
{
    int64_t rows, logits;
    if (!p->ids)
        return qsae__fail(QSAE_EINVAL, "qsae_pass.ids: NULL");
    if (qsae__need_aligned(p->ids, "qsae_pass.ids") ||
        qsae__need_aligned(p->labels, "qsae_pass.labels") ||
        qsae__need_aligned(p->nll, "qsae_pass.nll") ||
        qsae__need_aligned(p->logits, "qsae_pass.logits"))
        return QSAE_EINVAL;
    if (p->n_seq < 1 || p->n_tokens < 1 || !qsae__mul_i64(p->n_seq, p->n_tokens, &rows) ||
        !qsae__mul_i64(rows, m->config->vocab, &logits))
        return qsae__fail(QSAE_EINVAL, "qsae_pass: n_seq %" PRId64 ", n_tokens %" PRId64
                          ": expected at least 1 each, and a product that fits",
                          p->n_seq, p->n_tokens);
    return QSAE_OK;
}

static int32_t forward(qsae_model *m, const qsae_pass *p)
{
    qsae__slab *const slab = &m->slab;
    qsae__taps taps = { 0 };
    int64_t layers = 0;
    int32_t st = check_pass(m, p);
    if (st == QSAE_OK)
        st = qsae__taps_open(m, p, &taps);
    if (st == QSAE_OK)
        st = count_layers(m, p, &taps, &layers);
    /* Kept from pass to pass: touching fresh memory costs as much as a layer. */
    if (st == QSAE_OK && (slab->n_seq != p->n_seq || slab->n_tokens != p->n_tokens)) {
        qsae__slab_close(slab);
        st = qsae__slab_open(m->ctx, &m, 1, p->n_seq, p->n_tokens, slab);
    }
    slab->ids = p->ids;
    slab->watch = taps.n ? &taps.watch : NULL;
    slab->cancel = p->cancel;
    if (st == QSAE_OK)
        st = qsae__model_embed(m, slab);
    if (st == QSAE_OK)
        st = run_layers(m, p, slab, layers);
    if (st == QSAE_OK && (p->nll || p->logits || taps.final))
        st = run_head(m, p, slab);
    slab->watch = NULL;
    slab->cancel = NULL;
    qsae__taps_close(&taps);
    return st;
}

int32_t qsae_model_forward(qsae_model *model, const qsae_pass *pass)
{
    QSAE__FPENV;
    qsae_pass p;
    if (qsae__need(model, "model"))
        return QSAE_EINVAL;
    if (!pass)
        return qsae__fail(QSAE_EINVAL, "qsae_model_forward: pass is NULL");
    int32_t st = qsae__settings_copy(&p, sizeof p, pass, "qsae_pass");
    if (st != QSAE_OK)
        return st;
    if (qsae__begin_call(model, "qsae_model_forward") != QSAE_OK)
        return QSAE_EBUSY;
    st = forward(model, &p);
    qsae__end_call(model);
    return st;
}
