/* SPDX-License-Identifier: BSD-2-Clause */
/* Documents to one stream of ids: tokenized in parallel, appended in order. */
#include <stdlib.h>
#include <string.h>

#include "text/corpus.h"

#define WAVE 256 /* documents between two looks at cancellation and progress */

typedef struct wave {
    qsae_context *ctx;
    const qsae__documents *files;
    const char *field;
    const qsae__record *records;
    qsae__encoded *slots;
    qsae__encoder *encoders; /* [threads] */
    qsae__strbuf *scratch;   /* [threads] */
} wave;

/* The line without its text field, as compact JSON in our memory. */
static int32_t take_metadata(qsae_context *ctx, json_t *line, const char *field, char **out)
{
    char *text;

    json_object_del(line, field);
    if (json_object_size(line) == 0)
        return QSAE_OK;
    text = json_dumps(line, JSON_COMPACT);
    if (text == NULL)
        return qsae__fail(QSAE_ENOMEM, "out of memory: metadata");
    *out = qsae__strdup(ctx, text);
    free(text);
    return *out == NULL ? QSAE_ENOMEM : QSAE_OK;
}

/* Text of a JSON line: *line keeps it alive. */
static int32_t read_line(const wave *w, const qsae__record *r, const char *where, json_t **line,
                         const char **text, size_t *size)
{
    const json_t *v;
    int32_t status = qsae__json_parse_with(r->text, (size_t)r->size, where, QSAE__JSON_NUL, line);

    if (status != QSAE_OK)
        return status;
    v = json_object_get(*line, w->field);
    if (!json_is_object(*line))
        return qsae__fail(QSAE_EFORMAT, "%s: expected object, found %s", where,
                          qsae__json_type_name(*line));
    if (!json_is_string(v))
        return qsae__fail(QSAE_EFORMAT, "%s: key \"%s\": expected string, found %s", where,
                          w->field, qsae__json_type_name(v));
    *text = json_string_value(v);
    *size = json_string_length(v);
    return QSAE_OK;
}

static int32_t encode(const wave *w, const char *text, size_t size, int32_t worker,
                      qsae__encoded *out)
{
    qsae__encoder *e = &w->encoders[worker];
    int32_t status;

    status = qsae__encoder_run(e, text, size);
    if (status != QSAE_OK)
        return status;
    out->empty = e->ids.count == 0;
    out->count = e->ids.count;
    if (out->empty)
        return QSAE_OK;
    out->ids = qsae__alloc_array(w->ctx, e->ids.count, sizeof *out->ids);
    if (out->ids == NULL)
        return QSAE_ENOMEM;
    memcpy(out->ids, e->ids.data, (size_t)e->ids.count * sizeof *out->ids);
    out->extents = qsae__alloc_array(w->ctx, out->count, sizeof *out->extents);
    if (out->extents == NULL)
        return QSAE_ENOMEM;
    return qsae__extents_measure(e->tokenizer, out->ids, out->count, text, size, out->extents,
                                 &w->scratch[worker]);
}

static int32_t read_record(void *arg, int64_t tile, int32_t worker)
{
    const wave *w = arg;
    const qsae__record *r = &w->records[tile];
    qsae__encoded *out = &w->slots[tile];
    const char *text = r->text, *stripped;
    size_t size = (size_t)r->size, stripped_size;
    json_t *line = NULL;
    qsae__strbuf where;
    int32_t status = QSAE_OK;

    qsae__strbuf_init(&where, w->ctx);
    qsae__strbuf_addf(&where, r->jsonl ? "%s:%lld" : "%s: document %lld",
                      w->files->sources[r->source], (long long)r->line);
    if (where.status != QSAE_OK)
        return where.status;
    if (r->jsonl) {
        status = read_line(w, r, where.data, &line, &text, &size);
        if (status != QSAE_OK)
            goto fail;
    }
    stripped = text;
    stripped_size = size;
    status = qsae__strip(&stripped, &stripped_size);
    out->empty = stripped_size == 0;
    if (status == QSAE_OK && !out->empty)
        status = r->jsonl ? encode(w, text, size, worker, out)
                          : encode(w, stripped, stripped_size, worker, out);
    if (status != QSAE_OK)
        status = qsae__fail_in(status, "%s", where.data);
    else if (r->jsonl && !out->empty)
        status = take_metadata(w->ctx, line, w->field, &out->metadata);
fail:
    json_decref(line);
    qsae__strbuf_free(&where);
    return status;
}

int32_t qsae__stream_append(qsae_corpus *c, const qsae__record *r, qsae__encoded *s, int32_t bos,
                            qsae__stream *out)
{
    const bool want = c->bos_policy == QSAE_BOS_DOC_START ||
                      ((c->bos_policy == QSAE_BOS_STREAM_START ||
                        c->bos_policy == QSAE_BOS_CHUNK_REPLACE) && c->n_documents == 0);
    const int64_t first = out->ids.count;
    int64_t added;
    int32_t status = qsae__grow(c->ctx, &c->documents, &c->documents_capacity, c->n_documents + 1,
                                sizeof *c->documents);

    if (status == QSAE_OK && want && s->ids[0] != bos)
        status = qsae__ids_add(&out->ids, &bos, 1);
    if (status == QSAE_OK)
        status = qsae__ids_add(&out->ids, s->ids, s->count);
    if (status == QSAE_OK)
        status = qsae__grow(c->ctx, &out->documents, &out->documents_capacity, out->ids.count,
                            sizeof *out->documents);
    if (status == QSAE_OK)
        status = qsae__grow(c->ctx, &out->extents, &out->extents_capacity, out->ids.count,
                            sizeof *out->extents);
    if (status != QSAE_OK)
        return status;
    added = out->ids.count - first - s->count; /* BOS is no text */
    memset(out->extents + first, 0, (size_t)added * sizeof *out->extents);
    memcpy(out->extents + first + added, s->extents, (size_t)s->count * sizeof *out->extents);
    for (int64_t i = first; i < out->ids.count; i++)
        out->documents[i] = c->n_documents;
    c->documents[c->n_documents++] = (qsae__document){
        .first_token = first,
        .n_tokens = out->ids.count - first,
        .line = r->line,
        .metadata = s->metadata,
        .source = r->source,
    };
    s->metadata = NULL;
    return QSAE_OK;
}

static int32_t report(const qsae_corpus_settings *s, const qsae__documents *d, uint64_t done)
{
    int32_t status = qsae__canceled(s->cancel);

    if (status == QSAE_OK && s->progress != NULL)
        status = s->progress(s->progress_cookie, (int64_t)done, (int64_t)d->bytes, "bytes",
                             "tokenize");
    return status;
}

static int32_t read_waves(qsae_corpus *c, const qsae_corpus_settings *s, int32_t bos, int64_t need,
                          wave *w, qsae__stream *out)
{
    uint64_t done = 0;
    int32_t status = report(s, &c->files, 0);

    for (int64_t at = 0; at < c->files.count && status == QSAE_OK; at += WAVE) {
        const int64_t n = qsae__min_i64(WAVE, c->files.count - at);
        w->records = c->files.records + at;
        memset(w->slots, 0, WAVE * sizeof *w->slots);
        status = qsae__parallel(c->ctx, n, read_record, w);
        for (int64_t i = 0; i < n; i++) {
            qsae__encoded *k = &w->slots[i];
            done += w->records[i].size;
            if (status == QSAE_OK && !k->empty && (need == 0 || out->ids.count < need))
                status = qsae__stream_append(c, &w->records[i], k, bos, out);
            qsae__free(c->ctx, k->ids);
            qsae__free(c->ctx, k->extents);
            qsae__free(c->ctx, k->metadata);
        }
        if (need > 0 && out->ids.count >= need)
            break;
        if (status == QSAE_OK)
            status = report(s, &c->files, done);
    }
    if (status == QSAE_OK)
        status = report(s, &c->files, c->files.bytes);
    return status;
}

int32_t qsae__stream_read(qsae_corpus *c, const qsae_tokenizer *t, const qsae_corpus_settings *s,
                          int64_t need, qsae__stream *stream)
{
    const int32_t threads = qsae_context_threads(c->ctx);
    wave w = { .ctx = c->ctx, .files = &c->files };
    int32_t status = QSAE_ENOMEM;

    w.field = s->text_field == NULL ? "text" : s->text_field;
    w.slots = qsae__calloc(c->ctx, WAVE, sizeof *w.slots);
    w.encoders = qsae__calloc(c->ctx, threads, sizeof *w.encoders);
    w.scratch = qsae__calloc(c->ctx, threads, sizeof *w.scratch);
    stream->ids.ctx = c->ctx;
    if (w.slots != NULL && w.encoders != NULL && w.scratch != NULL) {
        for (int32_t i = 0; i < threads; i++) {
            qsae__encoder_init(&w.encoders[i], t);
            qsae__strbuf_init(&w.scratch[i], c->ctx);
        }
        status = read_waves(c, s, t->bos, need, &w, stream);
        for (int32_t i = 0; i < threads; i++) {
            qsae__encoder_free(&w.encoders[i]);
            qsae__strbuf_free(&w.scratch[i]);
        }
    }
    qsae__free(c->ctx, w.slots);
    qsae__free(c->ctx, w.encoders);
    qsae__free(c->ctx, w.scratch);
    return status;
}

void qsae__stream_free(qsae_context *ctx, qsae__stream *stream)
{
    qsae__free(ctx, stream->ids.data);
    qsae__free(ctx, stream->documents);
    qsae__free(ctx, stream->extents);
    memset(stream, 0, sizeof *stream);
}
