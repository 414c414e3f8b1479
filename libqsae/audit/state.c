/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * State of a run that was stopped: magic, fingerprint of the measurement, position, snapshots and
 * the metrics' own states, then XXH3-128 of all that. Read as an untrusted file.
 */
#include <stdlib.h>
#include <string.h>

#include "audit/contexts.h"
#include "audit/probed.h"
#include "audit/slices.h"
#include "metrics/metrics.h"

static const char magic[8] = "QSAEAU01";

static void put_u64(qsae__strbuf *b, uint64_t v)
{
    unsigned char bytes[8];
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)(v >> (8 * i));
    qsae__strbuf_add(b, bytes, sizeof bytes);
}

static void put_f64(qsae__strbuf *b, double v)
{
    uint64_t u;
    memcpy(&u, &v, sizeof u);
    put_u64(b, u);
}

static void put_block(qsae__strbuf *b, const void *data, uint64_t size)
{
    put_u64(b, size);
    qsae__strbuf_add(b, data, size);
}

static void put_metric(qsae__strbuf *b, qsae_context *ctx, const qsae_metric *m)
{
    qsae__strbuf part;
    if (!m || b->status != QSAE_OK)
        return;
    qsae__strbuf_init(&part, ctx);
    qsae__metric_write(m, &part);
    const int32_t st = part.status;
    if (st == QSAE_OK)
        put_block(b, part.data, (uint64_t)part.size);
    else
        b->status = st;
    qsae__strbuf_free(&part);
}

/* What a search for a sparsity has found. */
static void put_match(qsae__strbuf *b, const struct audit_match *m)
{
    if (!m)
        return;
    put_u64(b, m->done);
    put_f64(b, m->target);
    put_u64(b, (uint64_t)m->tokens);
    put_u64(b, (uint64_t)m->chosen);
    put_u64(b, (uint64_t)m->n_visited);
    for (int64_t i = 0; i < m->n_visited; i++) {
        put_f64(b, m->visited[i].sparsity);
        put_f64(b, m->visited[i].ppl);
    }
}

int32_t qsae__state_save(qsae_audit *a)
{
    qsae__strbuf b;
    qsae__strbuf_init(&b, a->ctx);
    qsae__strbuf_add(&b, magic, sizeof magic);
    qsae__strbuf_add(&b, a->fingerprint, QSAE__HASH_SIZE - 1);
    put_u64(&b, (uint64_t)a->next_chunk);
    put_u64(&b, (uint64_t)a->tokens_done);
    put_u64(&b, (uint64_t)a->next_budget);
    put_f64(&b, a->seconds);
    char *snapshots = json_dumps(a->snapshots, JSON_COMPACT | JSON_REAL_PRECISION(17));
    if (!snapshots)
        b.status = qsae__fail(QSAE_ENOMEM, "out of memory: the snapshots");
    else
        put_block(&b, snapshots, strlen(snapshots));
    free(snapshots);
    for (int64_t i = 0; i < a->n_participants; i++) {
        const struct participant *p = &a->participants[i];
        put_match(&b, p->match);
        put_u64(&b, (uint64_t)p->next_chunk);
        put_f64(&b, p->seconds);
        for (int64_t o = 0; o < p->n_outliers; o++) {
            put_u64(&b, (uint64_t)p->outliers[o].calls);
            put_u64(&b, (uint64_t)p->outliers[o].with_outliers);
            put_u64(&b, (uint64_t)p->outliers[o].columns);
        }
        put_metric(&b, a->ctx, p->cross_entropy);
        put_metric(&b, a->ctx, p->divergence);
        put_metric(&b, a->ctx, p->llama);
        for (int64_t s = 0; s < a->n_saes; s++) {
            put_metric(&b, a->ctx, p->saes[s].reconstruction);
            put_metric(&b, a->ctx, p->saes[s].drift);
            put_metric(&b, a->ctx, p->saes[s].survival);
            for (int v = 0; v < QSAE__SPLICES; v++)
                put_metric(&b, a->ctx, p->saes[s].splice[v]);
        }
        qsae_metric *m;
        for (int64_t k = 0; qsae__slices_metric(a, p, k, &m); k++)
            put_metric(&b, a->ctx, m);
    }
    qsae__probed_write(a, &b);
    qsae__contexts_write(a, &b);
    int32_t st = b.status;
    if (st == QSAE_OK) {
        char hex[QSAE__HASH_SIZE];
        qsae__hash(b.data, (size_t)b.size, hex);
        qsae__strbuf_add(&b, hex, sizeof hex - 1);
        st = b.status;
    }
    if (st == QSAE_OK)
        st = qsae__file_write(a->ctx, a->state_path, b.data, (size_t)b.size);
    qsae__strbuf_free(&b);
    return st;
}

struct reader {
    const uint8_t *data;
    uint64_t size, at;
    const char *path;
};

static int32_t get_u64(struct reader *r, uint64_t *v)
{
    if (!qsae__range_in(r->at, 8, r->size))
        return qsae__fail(QSAE_EFORMAT, "%s: the state ends early", r->path);
    *v = 0;
    for (int i = 0; i < 8; i++)
        *v |= (uint64_t)r->data[r->at + (uint64_t)i] << (8 * i);
    r->at += 8;
    return QSAE_OK;
}

/* A count in 0..high. */
static int32_t get_i64(struct reader *r, int64_t high, int64_t *out)
{
    uint64_t v;
    const int32_t st = get_u64(r, &v);
    if (st != QSAE_OK)
        return st;
    if (v > (uint64_t)high)
        return qsae__fail(QSAE_EFORMAT, "%s: a count of %llu, expected at most %lld", r->path,
                          (unsigned long long)v, (long long)high);
    *out = (int64_t)v;
    return QSAE_OK;
}

static int32_t get_f64(struct reader *r, double *out)
{
    uint64_t v;
    const int32_t st = get_u64(r, &v);
    if (st == QSAE_OK)
        memcpy(out, &v, sizeof v);
    return st;
}

static int32_t get_block(struct reader *r, const uint8_t **data, uint64_t *size)
{
    const int32_t st = get_u64(r, size);
    if (st != QSAE_OK)
        return st;
    if (!qsae__range_in(r->at, *size, r->size))
        return qsae__fail(QSAE_EFORMAT, "%s: the state ends early", r->path);
    *data = r->data + r->at;
    r->at += *size;
    return QSAE_OK;
}

static int32_t get_metric(struct reader *r, qsae_metric *m)
{
    const uint8_t *data = NULL;
    uint64_t size = 0;
    if (!m)
        return QSAE_OK;
    const int32_t st = get_block(r, &data, &size);
    return st == QSAE_OK ? qsae__metric_read(m, data, (size_t)size) : st;
}

static int32_t get_snapshots(qsae_audit *a, struct reader *r)
{
    const uint8_t *data = NULL;
    uint64_t size = 0;
    int32_t st = get_block(r, &data, &size);
    if (st != QSAE_OK)
        return st;
    json_error_t error;
    json_t *snapshots =
        json_loadb((const char *)data, (size_t)size, JSON_REJECT_DUPLICATES, &error);
    if (!json_is_array(snapshots)) {
        json_decref(snapshots);
        return qsae__fail(QSAE_EFORMAT, "%s: snapshots: %s", r->path, error.text);
    }
    json_decref(a->snapshots);
    a->snapshots = snapshots;
    return QSAE_OK;
}

static int32_t get_match(struct reader *r, struct audit_match *m)
{
    int64_t done = 0;
    int32_t st = get_i64(r, 1, &done);
    if (st != QSAE_OK || (st = get_f64(r, &m->target)) != QSAE_OK ||
        (st = get_i64(r, INT64_MAX, &m->tokens)) != QSAE_OK ||
        (st = get_i64(r, QSAE__MATCH_STEPS - 1, &m->chosen)) != QSAE_OK ||
        (st = get_i64(r, QSAE__MATCH_STEPS, &m->n_visited)) != QSAE_OK)
        return st;
    m->done = done;
    for (int64_t i = 0; i < m->n_visited && st == QSAE_OK; i++) {
        st = get_f64(r, &m->visited[i].sparsity);
        if (st == QSAE_OK)
            st = get_f64(r, &m->visited[i].ppl);
        if (st == QSAE_OK && !(m->visited[i].sparsity >= 0 && m->visited[i].sparsity <= 1))
            st = qsae__fail(QSAE_EFORMAT, "%s: a sparsity out of 0..1", r->path);
    }
    if (st == QSAE_OK && done && m->chosen >= m->n_visited)
        st = qsae__fail(QSAE_EFORMAT, "%s: a search without its result", r->path);
    return st;
}

static int32_t get_participant(qsae_audit *a, struct reader *r, struct participant *p)
{
    int32_t st = p->match ? get_match(r, p->match) : QSAE_OK;
    if (st == QSAE_OK)
        st = get_i64(r, a->corpus_info.chunks, &p->next_chunk);
    if (st == QSAE_OK)
        st = get_f64(r, &p->seconds);
    for (int64_t o = 0; o < p->n_outliers && st == QSAE_OK; o++)
        if ((st = get_i64(r, INT64_MAX, &p->outliers[o].calls)) == QSAE_OK &&
            (st = get_i64(r, INT64_MAX, &p->outliers[o].with_outliers)) == QSAE_OK)
            st = get_i64(r, INT64_MAX, &p->outliers[o].columns);
    if (st == QSAE_OK)
        st = get_metric(r, p->cross_entropy);
    if (st == QSAE_OK)
        st = get_metric(r, p->divergence);
    if (st == QSAE_OK)
        st = get_metric(r, p->llama);
    for (int64_t s = 0; s < a->n_saes && st == QSAE_OK; s++) {
        st = get_metric(r, p->saes[s].reconstruction);
        if (st == QSAE_OK)
            st = get_metric(r, p->saes[s].drift);
        if (st == QSAE_OK)
            st = get_metric(r, p->saes[s].survival);
        for (int v = 0; v < QSAE__SPLICES && st == QSAE_OK; v++)
            st = get_metric(r, p->saes[s].splice[v]);
    }
    qsae_metric *m;
    for (int64_t k = 0; st == QSAE_OK && qsae__slices_metric(a, p, k, &m); k++)
        st = get_metric(r, m);
    return st;
}

static int32_t check_whole(const struct reader *r, const char *fingerprint)
{
    const uint64_t hash = QSAE__HASH_SIZE - 1, head = sizeof magic + hash;
    if (r->size < head + hash || memcmp(r->data, magic, sizeof magic) != 0)
        return qsae__fail(QSAE_EFORMAT, "%s: not a state file of an audit", r->path);
    char hex[QSAE__HASH_SIZE];
    qsae__hash(r->data, (size_t)(r->size - hash), hex);
    if (memcmp(hex, r->data + r->size - hash, hash) != 0)
        return qsae__fail(QSAE_EFORMAT, "%s: damaged (checksum differs)", r->path);
    if (memcmp(fingerprint, r->data + sizeof magic, hash) != 0)
        return qsae__fail(
            QSAE_EMISMATCH,
            "%s: state of another measurement (fingerprint %.32s, this one has %s): model, "
            "SAE, text, conditions or settings differ; use another file or delete it",
            r->path, (const char *)r->data + sizeof magic, fingerprint);
    return QSAE_OK;
}

int32_t qsae__state_load(qsae_audit *a)
{
    qsae__file *file;
    int32_t st = qsae__file_open(a->ctx, a->state_path, &file);
    if (st != QSAE_OK)
        return st;
    struct reader r = { .data = file->data, .size = file->size, .path = a->state_path };
    if ((st = check_whole(&r, a->fingerprint)) != QSAE_OK)
        goto done;
    r.size -= QSAE__HASH_SIZE - 1;
    r.at = sizeof magic + QSAE__HASH_SIZE - 1;
    if ((st = get_i64(&r, a->corpus_info.chunks, &a->next_chunk)) != QSAE_OK ||
        (st = get_i64(&r, a->corpus_info.tokens, &a->tokens_done)) != QSAE_OK ||
        (st = get_i64(&r, QSAE__BUDGETS_MAX, &a->next_budget)) != QSAE_OK ||
        (st = get_f64(&r, &a->seconds)) != QSAE_OK || (st = get_snapshots(a, &r)) != QSAE_OK)
        goto done;
    for (int64_t i = 0; i < a->n_participants && st == QSAE_OK; i++)
        st = get_participant(a, &r, &a->participants[i]);
    struct qsae__taken rest = { r.data, r.size, r.at };
    if (st == QSAE_OK)
        st = qsae__probed_read(a, &rest);
    if (st == QSAE_OK)
        st = qsae__contexts_read(a, &rest);
    r.at = rest.at;
    if (st == QSAE_OK && r.at != r.size)
        st = qsae__fail(QSAE_EFORMAT, "%s: %llu bytes too many", r.path,
                        (unsigned long long)(r.size - r.at));
done:
    qsae__file_close(&file);
    return st;
}
