/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The paired pass where memory holds one model at a time: the reference goes over the text first
 * and leaves what conditions are compared with, its rows at the SAEs' places and before the head,
 * in a temporary file; then each condition goes over the text by itself. The reference's logits are
 * computed again from its rows. Batches and what is computed of them are those of pass.c, so every
 * figure has the same bits.
 *
 * One call measures one batch of one model. A run that was stopped makes the file again, for the
 * batches that a condition still needs.
 */
#include <string.h>

#include "audit/pass.h"
#include "audit/state.h"
#include "core/spool.h"

/* A batch of the reference: its final rows and those at the taps, in one piece. */
struct inturn_batch {
    int64_t chunk;
    qsae__spooled rows;
    bool half;                   /* all values are bf16 */
};

struct inturn {
    qsae__spool *spool;
    struct inturn_batch *batches; /* [n] those of the gap, from its begin on */
    int64_t n, capacity;
    int64_t next;                /* first chunk that is not in the file */
    int64_t begin, end;          /* the gap that it is for */
    struct participant *loaded;  /* or NULL */
    void *buffer;                /* of a batch as it is written */
    char *folder;
};

void qsae__inturn_close(qsae_audit *a, struct pass *p)
{
    struct inturn *const t = p->inturn;
    if (!t)
        return;
    qsae__spool_close(&t->spool);
    qsae__free(a->ctx, t->batches);
    qsae__free(a->ctx, t->buffer);
    qsae__free(a->ctx, t->folder);
    qsae__free(a->ctx, t);
    p->inturn = NULL;
}

static int64_t floats_per_row(const struct pass *p)
{
    int64_t n = p->width;
    for (int64_t i = 0; i < p->n_taps; i++)
        n += p->taps[i].cols;
    return n;
}

/* The settings' folder, that of the state file, or the system's for large temporary files. */
static char *choose_folder(const qsae_audit *a)
{
    if (a->cache)
        return qsae__strdup(a->ctx, a->cache);
    const char *const slash = a->state_path ? strrchr(a->state_path, '/') : NULL;
    if (slash)
        return qsae__strndup(a->ctx, a->state_path,
                             slash == a->state_path ? 1 : (size_t)(slash - a->state_path));
    return qsae__strdup(a->ctx, a->state_path ? "." : "/var/tmp");
}

int32_t qsae__inturn_open(qsae_audit *a, struct pass *p)
{
    struct inturn *const t = p->inturn = qsae__calloc(a->ctx, 1, sizeof *t);
    if (!t)
        return QSAE_ENOMEM;
    p->group = a->n_participants > 1;
    for (int64_t i = 0; i < a->n_participants; i++)
        a->participants[i].start = 0;
    t->begin = -1;
    t->folder = choose_folder(a);
    t->buffer = qsae__alloc_array(a->ctx, p->batch.rows_max * floats_per_row(p), sizeof(float));
    return t->folder && t->buffer ? QSAE_OK : QSAE_ENOMEM;
}

/* Begins the file of the present gap. */
static int32_t begin(qsae_audit *a, struct pass *p)
{
    struct inturn *const t = p->inturn;
    uint64_t each = sizeof(float);
    int64_t values;
    if (a->participants[0].cost.compute == QSAE_COMPUTE_BF16)
        each = sizeof(uint16_t);
    for (int64_t i = 0; i < p->n_taps; i++)
        each = qsae__site_unrounded(p->taps[i].site) ? sizeof(float) : each;
    if (!qsae__mul_i64((a->end_chunk - a->next_chunk) * a->corpus_info.context, floats_per_row(p),
                       &values))
        return qsae__fail(QSAE_EOVERFLOW, "the rows of the reference are too many");
    qsae__spool_close(&t->spool);
    t->begin = -1; /* unless there is a file */
    const int32_t st = qsae__spool_open(a->ctx, t->folder, (uint64_t)values * each, &t->spool);
    if (st != QSAE_OK)
        return st;
    t->n = 0;
    t->begin = t->next = a->next_chunk;
    t->end = a->end_chunk;
    return QSAE_OK;
}

/* The model whose turn it is has its layers loaded, no other. */
static int32_t load(qsae_audit *a, struct inturn *t, struct participant *who)
{
    qsae_model_info info = { .struct_size = offsetof(qsae_model_info, hash) };
    int32_t st = QSAE_OK;
    if (t->loaded == who)
        return QSAE_OK;
    if (t->loaded && (st = qsae_model_get_info(t->loaded->model, &info)) == QSAE_OK)
        for (int64_t layer = 0; layer < info.layers; layer++)
            qsae__model_drop(t->loaded->model, layer);
    t->loaded = who;
    if (st == QSAE_OK)
        st = qsae_model_get_info(who->model, &info);
    for (int64_t layer = 0; layer < info.layers && st == QSAE_OK; layer++) {
        if ((st = qsae__canceled(a->cancel)) == QSAE_OK)
            st = qsae__model_load(who->model, layer);
        if (st == QSAE_OK && a->progress)
            st = a->progress(a->progress_cookie, layer + 1, info.layers, "layers", "load");
    }
    for (int64_t layer = 0; layer < info.layers && st != QSAE_OK; layer++)
        qsae__model_drop(who->model, layer);
    if (st != QSAE_OK)
        t->loaded = NULL;
    return st == QSAE_OK || who == a->participants ? st
                                                   : qsae__fail_in(st, "condition %s", who->label);
}

/* ---- rows of the reference ---- */

/* Packs n values as bf16 from `at` on if all are; else as they are. */
static bool pack(const float *x, int64_t n, uint16_t *out)
{
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        if (bits & 0xffff)
            return false;
        out[i] = (uint16_t)(bits >> 16);
    }
    return true;
}

static void unpack(const uint16_t *x, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i++) {
        const uint32_t bits = (uint32_t)x[i] << 16;
        memcpy(&out[i], &bits, sizeof bits);
    }
}

/* Pieces of the reference's rows of a batch: final, then the taps. */
static float *piece(const struct pass *p, int64_t i, int64_t *n)
{
    *n = p->batch.rows * (i == 0 ? p->width : p->taps[i - 1].cols);
    return i == 0 ? p->rows[0].final : p->rows[0].taps[i - 1];
}

static int32_t put_rows(qsae_audit *a, struct pass *p, int64_t chunk)
{
    struct inturn *const t = p->inturn;
    int32_t st = qsae__grow(a->ctx, &t->batches, &t->capacity, t->n + 1, sizeof *t->batches);
    int64_t at = 0, n;
    if (st != QSAE_OK)
        return st;
    struct inturn_batch *const b = &t->batches[t->n];
    b->chunk = chunk;
    b->half = true;
    for (int64_t i = 0; i <= p->n_taps && b->half; i++, at += n) {
        const float *const x = piece(p, i, &n);
        b->half = pack(x, n, (uint16_t *)t->buffer + at);
    }
    at = b->half ? at : 0;
    for (int64_t i = 0; i <= p->n_taps && !b->half; i++, at += n) {
        const float *const x = piece(p, i, &n);
        memcpy((float *)t->buffer + at, x, (size_t)n * sizeof *x);
    }
    st = qsae__spool_append(t->spool, t->buffer,
                            (size_t)at * (b->half ? sizeof(uint16_t) : sizeof(float)), &b->rows);
    t->n += st == QSAE_OK;
    return st;
}

static int32_t get_rows(struct pass *p, int64_t chunk)
{
    const struct inturn *const t = p->inturn;
    const struct inturn_batch *b = t->batches;
    int64_t at = 0, n;
    while (b->chunk != chunk)
        b++;
    const int32_t st = qsae__spool_read(t->spool, &b->rows, t->buffer);
    for (int64_t i = 0; i <= p->n_taps && st == QSAE_OK; i++, at += n) {
        float *const x = piece(p, i, &n);
        if (b->half)
            unpack((const uint16_t *)t->buffer + at, n, x);
        else
            memcpy(x, (const float *)t->buffer + at, (size_t)n * sizeof *x);
    }
    return st;
}

/* ---- turns ---- */

/* A batch of the reference, measured unless it was before a stop. */
static int32_t reference_batch(qsae_audit *a, struct pass *p)
{
    struct inturn *const t = p->inturn;
    struct participant *const reference = &a->participants[0];
    const int64_t chunk = a->next_chunk;
    int32_t st = load(a, t, reference);
    if (st == QSAE_OK)
        st = qsae__batch_gather(a, chunk, &p->batch);
    if (st == QSAE_OK)
        st = qsae__pass_forward(a, p, reference, &p->rows[0]);
    if (st == QSAE_OK && reference->next_chunk == chunk) {
        st = qsae__pass_reference(a, p);
        if (st == QSAE_OK)
            st = qsae__pass_finish(a, p, NULL, 0);
    }
    if (st == QSAE_OK && a->n_participants > 1)
        st = put_rows(a, p, chunk);
    if (st == QSAE_OK)
        t->next = chunk + p->batch.n_seq;
    return st;
}

static int32_t condition_batch(qsae_audit *a, struct pass *p, int64_t i)
{
    struct participant *const who = &a->participants[i];
    int32_t st = load(a, p->inturn, who);
    if (st == QSAE_OK)
        st = qsae__batch_gather(a, a->next_chunk, &p->batch);
    if (st == QSAE_OK)
        st = get_rows(p, a->next_chunk);
    if (st == QSAE_OK)
        st = qsae__pass_reference(a, p);
    if (st == QSAE_OK)
        st = qsae__pass_forward(a, p, who, &p->rows[1]);
    return st == QSAE_OK ? qsae__pass_finish(a, p, &i, 1) : st;
}

int32_t qsae__inturn_batch(qsae_audit *a, struct pass *p)
{
    struct inturn *const t = p->inturn;
    const int64_t base = a->next_chunk;
    int32_t st = QSAE_OK;
    int64_t who = 0, least = a->end_chunk;
    if (t->begin < 0 || t->end != a->end_chunk || base < t->begin || base >= t->end)
        st = begin(a, p);
    if (st != QSAE_OK)
        return st;
    if (t->next >= t->end)
        while (a->participants[who].next_chunk >= t->end)
            who++;
    /* The batch at hand is what the shared parts of a pass call the next one. */
    a->next_chunk = t->next < t->end ? t->next : a->participants[who].next_chunk;
    st = t->next < t->end ? reference_batch(a, p) : condition_batch(a, p, who);
    a->next_chunk = base;
    for (int64_t i = 0; i < a->n_participants; i++)
        least = qsae__min_i64(least, a->participants[i].next_chunk);
    return st == QSAE_OK && least > base ? qsae__cover(a, least) : st;
}
