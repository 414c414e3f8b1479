/* SPDX-License-Identifier: BSD-2-Clause */
#include "model/taps.h"

#include <inttypes.h>
#include <string.h>

/* Why a model lacks a site. */
static const char *missing(int32_t site)
{
    return site == QSAE_SITE_RESID_MID
               ? "attention and MLP of this model read one residual stream, none lies between them"
               : "this model has no learned positions";
}

static int32_t check_tap(const qsae_model *m, const qsae_tap *t, int64_t i)
{
    const int32_t layers = (int32_t)m->config->layers;
    const char *const name = qsae_site_name(t->site);
    if (!name)
        return qsae__fail(QSAE_EINVAL, "tap %" PRId64 ": site %d is not a QSAE_SITE_*", i,
                          (int)t->site);
    const int32_t none = qsae__model_site_layer(m, t->site, -1); /* a site of no layer */
    if (none >= 0 ? t->layer != -1 && t->layer != none : t->layer < 0 || t->layer >= layers)
        return none >= 0 ? qsae__fail(QSAE_EINVAL, "tap %" PRId64 ": layer %d: expected -1 or %d "
                                      "for %s", i, (int)t->layer, (int)none, name)
                         : qsae__fail(QSAE_EINVAL, "tap %" PRId64 ": layer %d: expected 0..%d", i,
                                      (int)t->layer, (int)layers - 1);
    if (qsae_model_site_width(m, t->site) == 0)
        return qsae__fail(QSAE_EUNSUPPORTED, "tap %" PRId64 ": %s: %s", i, name, missing(t->site));
    if (!t->observe && !t->edit)
        return qsae__fail(QSAE_EINVAL, "tap %" PRId64 ": neither observe nor edit is set", i);
    return QSAE_OK;
}

/* Adds a checked tap. */
static void add(qsae__taps *taps, const qsae_tap *t)
{
    const int64_t i = taps->n++, all = taps->m->config->layers;
    qsae_tap *const own = &taps->list[i];
    *own = *t;
    taps->layer[i] = t->layer;
    own->layer = qsae__model_site_layer(taps->m, t->site, t->layer);
    const bool final = t->site == QSAE_SITE_FINAL_NORM || t->site == QSAE_SITE_FINAL_NORMALIZED;
    const bool embed = t->site == QSAE_SITE_EMBED || t->site == QSAE_SITE_POS_EMBED;
    const int64_t blocks = embed                             ? 0
                           : final                           ? all
                           : t->site == QSAE_SITE_RESID_PRE  ? own->layer
                                                             : own->layer + 1;
    taps->final |= final;
    if (blocks <= taps->layers)
        return;
    taps->layers = blocks;
    taps->deepest = i;
}

static bool wants(void *self, int64_t layer, int32_t site)
{
    const qsae__taps *const taps = self;
    for (int64_t i = 0; i < taps->n; i++)
        if (taps->list[i].layer == layer && taps->list[i].site == site)
            return true;
    return false;
}

static int32_t call(const qsae__taps *taps, int64_t i, const qsae_rows *rows)
{
    const qsae_tap *const t = &taps->list[i];
    float *const x = rows->data;
    int32_t st = QSAE_OK;
    if (t->edit) {
        qsae_rows edited = *rows;
        st = t->edit(t->cookie, taps->layer[i], t->site, &edited);
        const bool rounded = st == QSAE_OK && !qsae__site_unrounded(t->site);
        for (int64_t r = 0; r < rows->n_rows && rounded; r++)
            qsae__model_round(taps->m, x + r * rows->row_stride, rows->n_cols);
    }
    if (st == QSAE_OK && t->observe)
        st = t->observe(t->cookie, taps->layer[i], t->site, rows);
    return st;
}

static int32_t call_all(void *self, int64_t layer, int32_t site, float *x, int64_t n, int64_t cols,
                        int64_t ld)
{
    const qsae__taps *const taps = self;
    const qsae_rows rows = {
        .struct_size = sizeof rows,
        .data = x,
        .n_rows = n,
        .n_cols = cols,
        .row_stride = ld,
        .dtype = QSAE_F32,
    };
    int32_t st = QSAE_OK;
    for (int64_t i = 0; i < taps->n && st == QSAE_OK; i++)
        if (taps->list[i].layer == layer && taps->list[i].site == site)
            st = call(taps, i, &rows);
    return st;
}

int32_t qsae__taps_open(const qsae_model *m, const qsae_pass *pass, qsae__taps *out)
{
    size_t stride;
    *out = (qsae__taps){ .m = m, .watch = { out, wants, call_all } };
    if (pass->n_taps < 0 || (pass->n_taps > 0 && !pass->taps))
        return qsae__fail(QSAE_EINVAL, "qsae_pass: n_taps %" PRId64 " with taps %s", pass->n_taps,
                          pass->taps ? "set" : "NULL");
    if (pass->n_taps == 0)
        return QSAE_OK;
    memcpy(&stride, pass->taps, sizeof stride);
    if (stride % sizeof(void *) != 0)
        return qsae__fail(QSAE_EINVAL, "tap 0: struct_size is %zu; set it to sizeof(qsae_tap)",
                          stride);
    out->list = qsae__calloc(m->ctx, pass->n_taps, sizeof *out->list);
    out->layer = qsae__calloc(m->ctx, pass->n_taps, sizeof *out->layer);
    if (!out->list || !out->layer) {
        qsae__taps_close(out);
        return QSAE_ENOMEM;
    }
    for (int64_t i = 0; i < pass->n_taps; i++) {
        const char *const at = (const char *)pass->taps + (size_t)i * stride;
        size_t size;
        qsae_tap t;
        memcpy(&size, at, sizeof size);
        int32_t st =
            size == stride
                ? qsae__settings_copy(&t, sizeof t, at, "qsae_tap")
                : qsae__fail(QSAE_EINVAL, "tap %" PRId64 ": struct_size is %zu, that of tap 0 %zu",
                             i, size, stride);
        if (st == QSAE_OK)
            st = check_tap(m, &t, i);
        if (st != QSAE_OK) {
            qsae__taps_close(out);
            return st;
        }
        add(out, &t);
    }
    return QSAE_OK;
}

void qsae__taps_close(qsae__taps *taps)
{
    if (taps->m) {
        qsae__free(taps->m->ctx, taps->list);
        qsae__free(taps->m->ctx, taps->layer);
    }
    memset(taps, 0, sizeof *taps);
}
