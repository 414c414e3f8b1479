/* SPDX-License-Identifier: BSD-2-Clause */
#include "model/taps.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SITE "resid_post"

const char *qsae_site_name(int32_t site)
{
    return site == QSAE_SITE_RESID_POST ? SITE : NULL;
}

int32_t qsae_site_from_name(const char *name, int32_t *layer)
{
    const char *const full[][2] = { { "blocks.", ".hook_" SITE },
                                    { "model.layers.", ".output" },
                                    { "model.language_model.layers.", ".output" },
                                    { "language_model.model.layers.", ".output" } };
    if (!name)
        return 0;
    if (!strcmp(name, SITE) || !strcmp(name, "hook_" SITE))
        return QSAE_SITE_RESID_POST;
    for (size_t i = 0; i < sizeof full / sizeof full[0]; i++) {
        const size_t n = strlen(full[i][0]);
        if (strncmp(name, full[i][0], n) != 0)
            continue;
        const size_t digits = strspn(name + n, "0123456789");
        int32_t value = 0;
        if (digits < 1 || digits > 9 || strcmp(name + n + digits, full[i][1]) != 0)
            return 0;
        for (size_t k = 0; k < digits; k++)
            value = value * 10 + (name[n + k] - '0');
        if (layer)
            *layer = value;
        return QSAE_SITE_RESID_POST;
    }
    return 0;
}

static int32_t check_tap(const qsae_model *m, const qsae_tap *t, int64_t i)
{
    if (t->layer < 0 || t->layer >= m->config->layers)
        return qsae__fail(QSAE_EINVAL, "tap %" PRId64 ": layer %d: expected 0..%" PRId64, i,
                          (int)t->layer, m->config->layers - 1);
    if (!qsae_site_name(t->site))
        return qsae__fail(QSAE_EINVAL, "tap %" PRId64 ": site %d is not a QSAE_SITE_*", i,
                          (int)t->site);
    if (!t->observe && !t->edit)
        return qsae__fail(QSAE_EINVAL, "tap %" PRId64 ": neither observe nor edit is set", i);
    return QSAE_OK;
}

/* Stable insertion by (layer, site). */
static void insert(qsae__taps *taps, const qsae_tap *t)
{
    int64_t at = taps->n++;
    while (at > 0 &&
           (taps->list[at - 1].layer > t->layer ||
            (taps->list[at - 1].layer == t->layer && taps->list[at - 1].site > t->site))) {
        taps->list[at] = taps->list[at - 1];
        at--;
    }
    taps->list[at] = *t;
}

int32_t qsae__taps_open(const qsae_model *m, const qsae_pass *pass, qsae__taps *out)
{
    size_t stride;
    memset(out, 0, sizeof *out);
    if (pass->n_taps < 0 || (pass->n_taps > 0 && !pass->taps))
        return qsae__fail(QSAE_EINVAL, "qsae_pass: n_taps %" PRId64 " with taps %s", pass->n_taps,
                          pass->taps ? "set" : "NULL");
    if (pass->n_taps == 0)
        return QSAE_OK;
    memcpy(&stride, pass->taps, sizeof stride);
    if (stride % sizeof(void *) != 0)
        return qsae__fail(QSAE_EINVAL, "tap 0: struct_size is %zu; set it to sizeof(qsae_tap)",
                          stride);
    out->ctx = m->ctx;
    out->list = qsae__calloc(m->ctx, pass->n_taps, sizeof *out->list);
    if (!out->list)
        return QSAE_ENOMEM;
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
        insert(out, &t);
        out->layers = qsae__max_i64(out->layers, (int64_t)t.layer + 1);
    }
    return QSAE_OK;
}

void qsae__taps_close(qsae__taps *taps)
{
    if (taps->list)
        qsae__free(taps->ctx, taps->list);
    memset(taps, 0, sizeof *taps);
}

int32_t qsae__taps_call(qsae__taps *taps, const qsae_model *m, int64_t layer,
                        const qsae__slab *slab)
{
    for (; taps->next < taps->n && taps->list[taps->next].layer == layer; taps->next++) {
        const qsae_tap *const t = &taps->list[taps->next];
        qsae_rows rows = {
            .struct_size = sizeof rows,
            .data = slab->x,
            .n_rows = slab->n_seq * slab->n_tokens,
            .n_cols = slab->width,
            .row_stride = slab->width,
            .dtype = QSAE_F32,
        };
        int32_t st = QSAE_OK;
        if (t->edit) {
            qsae_rows edited = rows;
            st = t->edit(t->cookie, t->layer, t->site, &edited);
            if (st == QSAE_OK)
                qsae__model_round(m, slab->x, rows.n_rows * rows.n_cols);
        }
        if (st == QSAE_OK && t->observe)
            st = t->observe(t->cookie, t->layer, t->site, &rows);
        if (st != QSAE_OK)
            return st;
    }
    return QSAE_OK;
}
