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
    const qsae__filter *filter; /* NULL = all documents */
    bool blank_too;             /* texts of white space alone are documents */
    bool keep_text;             /* instead of encoding it */
    bool as_is;                 /* plain text keeps its white space */
    const qsae__record *records;
    qsae__encoded *slots;
    qsae__encoder *encoders; /* [threads] */
    qsae__strbuf *scratch;   /* [threads] */
} wave;

/* A line of JSON: the object that holds the text under that name. */
struct line {
    json_t *root, *holder;
    const char *name;
};

/* The line, from which the text was taken, as compact JSON in our memory. */
static int32_t take_metadata(qsae_context *ctx, const json_t *line, char **out)
{
    char *text;

    if (json_object_size(line) == 0)
        return QSAE_OK;
    text = qsae__json_dumps(line, JSON_COMPACT);
    if (text == NULL)
        return qsae__fail(QSAE_ENOMEM, "out of memory: metadata");
    *out = qsae__strdup(ctx, text);
    free(text);
    return *out == NULL ? QSAE_ENOMEM : QSAE_OK;
}

/* Text of a JSON line, which keeps it alive. */
static int32_t read_line(const wave *w, const qsae__record *r, const char *where, struct line *line,
                         const char **text, size_t *size)
{
    const json_t *v;
    int32_t status = qsae__json_parse_with(r->text, (size_t)r->size, where,
                                           QSAE__JSON_NUL, &line->root);

    if (status != QSAE_OK)
        return status;
    if (!json_is_object(line->root))
        return qsae__fail(QSAE_EFORMAT, "%s: expected object, found %s", where,
                          qsae__json_type_name(line->root));
    v = qsae__field_find(line->root, w->field, &line->holder, &line->name);
    if (!json_is_string(v))
        return qsae__fail(QSAE_EFORMAT, "%s: key \"%s\": expected string, found %s", where,
                          w->field, qsae__json_type_name(v));
    *text = json_string_value(v);
    *size = json_string_length(v);
    return QSAE_OK;
}

static int32_t keep(const wave *w, const char *text, size_t size, qsae__encoded *out)
{
    out->text = qsae__alloc_array(w->ctx, (int64_t)size, 1);
    if (out->text == NULL)
        return QSAE_ENOMEM;
    memcpy(out->text, text, size);
    out->text_size = (int64_t)size;
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

/* The document of a record whose text is known. */
static int32_t read_document(const wave *w, const qsae__record *r, const char *text, size_t size,
                             int32_t worker, qsae__encoded *out)
{
    const char *stripped = text;
    size_t stripped_size = size;
    const int32_t status = qsae__strip(&stripped, &stripped_size);

    if (status != QSAE_OK)
        return status;
    out->empty = w->blank_too && r->jsonl ? size == 0 : stripped_size == 0;
    if (out->empty)
        return QSAE_OK;
    if (!r->jsonl && !w->as_is) {
        text = stripped;
        size = stripped_size;
    }
    return w->keep_text ? keep(w, text, size, out) : encode(w, text, size, worker, out);
}

/* The document of a line; its text leaves the line before that becomes metadata. */
static int32_t read_json(const wave *w, const qsae__record *r, const char *where, int32_t worker,
                         qsae__encoded *out)
{
    struct line line = { .root = NULL };
    const char *text = NULL;
    size_t size = 0;
    json_t *kept = NULL;
    int32_t status = read_line(w, r, where, &line, &text, &size);

    if (status == QSAE_OK) {
        kept = json_incref(json_object_get(line.holder, line.name));
        json_object_del(line.holder, line.name);
        out->left_out = w->filter != NULL && !qsae__filter_matches(w->filter, line.root);
        if (!out->left_out) {
            status = read_document(w, r, text, size, worker, out);
            if (status != QSAE_OK)
                status = qsae__fail_in(status, "%s", where);
            else if (!out->empty)
                status = take_metadata(w->ctx, line.root, &out->metadata);
        }
    }
    json_decref(kept);
    json_decref(line.root);
    return status;
}

static int32_t read_record(void *arg, int64_t tile, int32_t worker)
{
    const wave *w = arg;
    const qsae__record *r = &w->records[tile];
    qsae__encoded *out = &w->slots[tile];
    qsae__strbuf where;
    int32_t status;

    qsae__strbuf_init(&where, w->ctx);
    qsae__strbuf_addf(&where, r->jsonl ? "%s:%lld" : "%s: document %lld",
                      w->files->sources[r->source], (long long)r->line);
    status = where.status;
    if (status == QSAE_OK && r->jsonl) {
        status = read_json(w, r, where.data, worker, out);
    } else if (status == QSAE_OK && w->filter != NULL) {
        status = qsae__fail(QSAE_EINVAL, "%s: where: plain text has no metadata",
                            w->files->sources[r->source]);
    } else if (status == QSAE_OK) {
        status = read_document(w, r, r->text, (size_t)r->size, worker, out);
        if (status != QSAE_OK)
            status = qsae__fail_in(status, "%s", where.data);
    }
    qsae__strbuf_free(&where);
    return status;
}

static int32_t report(const qsae_corpus_settings *s, const qsae__documents *d, uint64_t done)
{
    int32_t status = qsae__canceled(s->cancel);

    if (status == QSAE_OK && s->progress != NULL)
        status = s->progress(s->progress_cookie, (int64_t)done, (int64_t)d->bytes, "bytes",
                             "tokenize");
    return status;
}

static int32_t read_waves(qsae_corpus *c, const qsae_tokenizer *t, const qsae_corpus_settings *s,
                          int64_t need, wave *w, qsae__stream *out)
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
            if (status == QSAE_OK && !k->left_out && (need == 0 || out->ids.count < need))
                status = qsae__stream_append(c, t, &w->records[i], k, out);
            qsae__free(c->ctx, k->ids);
            qsae__free(c->ctx, k->extents);
            qsae__free(c->ctx, k->metadata);
            qsae__free(c->ctx, k->text);
        }
        if (need > 0 && out->ids.count >= need)
            break;
        if (status == QSAE_OK)
            status = report(s, &c->files, done);
    }
    if (status == QSAE_OK)
        status = qsae__stream_finish(c, t, out);
    if (status == QSAE_OK)
        status = report(s, &c->files, c->files.bytes);
    return status;
}

int32_t qsae__stream_read(qsae_corpus *c, const qsae_tokenizer *t, const qsae_corpus_settings *s,
                          int64_t need, qsae__stream *stream)
{
    const int32_t threads = qsae_context_threads(c->ctx);
    wave w = { .ctx = c->ctx, .files = &c->files, .blank_too = c->pack != QSAE_PACK_STREAM,
               .keep_text = c->pack == QSAE_PACK_TL2,
               .as_is = s->format == QSAE_TEXT_WHOLE };
    qsae__filter *filter = NULL;
    int32_t status = qsae__filter_open(c->ctx, s, &filter);

    if (status != QSAE_OK)
        return status;
    status = QSAE_ENOMEM;
    w.filter = filter;

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
        status = read_waves(c, t, s, need, &w, stream);
        for (int32_t i = 0; i < threads; i++) {
            qsae__encoder_free(&w.encoders[i]);
            qsae__strbuf_free(&w.scratch[i]);
        }
    }
    qsae__free(c->ctx, w.slots);
    qsae__free(c->ctx, w.encoders);
    qsae__free(c->ctx, w.scratch);
    qsae__filter_close(c->ctx, &filter);
    return status;
}

void qsae__stream_free(qsae_context *ctx, qsae__stream *stream)
{
    qsae__free(ctx, stream->ids.data);
    qsae__free(ctx, stream->documents);
    qsae__free(ctx, stream->extents);
    qsae__free(ctx, stream->text);
    qsae__free(ctx, stream->ends);
    qsae__free(ctx, stream->owners);
    memset(stream, 0, sizeof *stream);
}
