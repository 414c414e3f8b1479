/* SPDX-License-Identifier: BSD-2-Clause */
#include "text/corpus.h"

#include <string.h>

static const char *const bos_names[] = { "default", "none", "stream_start", "doc_start",
                                         "chunk_start", "chunk_replace" };

const char *qsae_bos_name(int32_t policy)
{
    return policy >= QSAE_BOS_NONE && policy <= QSAE_BOS_CHUNK_REPLACE ? bos_names[policy] : NULL;
}

int32_t qsae_bos_from_name(const char *name)
{
    for (int32_t i = 0; name != NULL && i <= QSAE_BOS_CHUNK_REPLACE; i++)
        if (strcmp(name, bos_names[i]) == 0)
            return i;
    return -1;
}

static const char *const pack_names[] = { "default", "stream", "tl", "saelens", "tl2" };

const char *qsae_pack_name(int32_t pack)
{
    return pack >= QSAE_PACK_STREAM && pack <= QSAE_PACK_TL2 ? pack_names[pack] : NULL;
}

int32_t qsae_pack_from_name(const char *name)
{
    for (int32_t i = 0; name != NULL && i <= QSAE_PACK_TL2; i++)
        if (strcmp(name, pack_names[i]) == 0)
            return i;
    return -1;
}

void qsae_corpus_settings_init(qsae_corpus_settings *s, size_t size)
{
    qsae__settings_init(s, size);
}

static int32_t check_settings(qsae_corpus_settings *s, const qsae_tokenizer *t)
{
    if (s->context == 0)
        s->context = 512;
    if (s->context < 2 || s->context > INT32_MAX || s->max_tokens < 0)
        return qsae__fail(QSAE_EINVAL, "corpus: context %lld, max_tokens %lld: expected at least 2 "
                          "and 0", (long long)s->context, (long long)s->max_tokens);
    if (s->format < QSAE_TEXT_DEFAULT || s->format > QSAE_TEXT_WHOLE)
        return qsae__fail(QSAE_EINVAL, "corpus: format %d", s->format);
    if (s->bos_policy == QSAE_BOS_DEFAULT)
        s->bos_policy = t->bos >= 0 ? QSAE_BOS_CHUNK_START : QSAE_BOS_NONE;
    if (qsae_bos_name(s->bos_policy) == NULL)
        return qsae__fail(QSAE_EINVAL, "corpus: bos_policy %d", s->bos_policy);
    if (s->bos_policy != QSAE_BOS_NONE && t->bos < 0)
        return qsae__fail(QSAE_EINVAL, "corpus: bos_policy %s, but the tokenizer has no BOS token",
                          qsae_bos_name(s->bos_policy));
    return QSAE_OK;
}

/* What goes with rows as other libraries make them. */
static int32_t check_pack(qsae_corpus_settings *s, const qsae_tokenizer *t)
{
    if (s->pack == QSAE_PACK_DEFAULT)
        s->pack = QSAE_PACK_STREAM;
    if (qsae_pack_name(s->pack) == NULL)
        return qsae__fail(QSAE_EINVAL, "corpus: pack %d", s->pack);
    if (s->pack == QSAE_PACK_STREAM)
        return QSAE_OK;
    if (s->bos_policy != QSAE_BOS_CHUNK_START && s->bos_policy != QSAE_BOS_NONE)
        return qsae__fail(QSAE_EINVAL, "corpus: pack %s: expected BOS policy chunk_start or none, "
                          "found %s", qsae_pack_name(s->pack), qsae_bos_name(s->bos_policy));
    if (s->keep_tail != 0 || s->stride != 0 || s->cross_labels != 0)
        return qsae__fail(QSAE_EINVAL, "corpus: pack %s and %s exclude each other",
                          qsae_pack_name(s->pack), s->keep_tail ? "keep_tail"
                          : s->stride ? "stride" : "cross_labels");
    if (s->pack != QSAE_PACK_SAELENS && t->eos < 0)
        return qsae__fail(QSAE_EINVAL, "corpus: pack %s: the tokenizer has no EOS token to put "
                          "between documents", qsae_pack_name(s->pack));
    return QSAE_OK;
}

static int32_t check_choice(const qsae_corpus_settings *s)
{
    const int32_t status = qsae__where_check("corpus", s->where, s->n_where);
    if (status != QSAE_OK)
        return status;
    if (s->order != NULL && s->shuffle != NULL)
        return qsae__fail(QSAE_EINVAL, "corpus: order and shuffle exclude each other");
    if (s->documents_from < 0 || s->documents_to < 0 ||
        (s->documents_to != 0 && s->documents_from >= s->documents_to))
        return qsae__fail(QSAE_EINVAL, "corpus: documents %lld to %lld: expected a range from 0 on",
                          (long long)s->documents_from, (long long)s->documents_to);
    return QSAE_OK;
}

static int32_t check_windows(const qsae_corpus_settings *s)
{
    const int64_t content = qsae__pack_content(s->context, s->bos_policy, s->pack);

    if (s->stride < 0 || s->stride > content)
        return qsae__fail(QSAE_EINVAL, "corpus: stride %lld: expected 1..%lld (the text in a "
                          "window), or 0", (long long)s->stride, (long long)content);
    if (s->score_from < 0 || s->score_from > s->context - 2)
        return qsae__fail(QSAE_EINVAL, "corpus: score_from %lld: expected 0..%lld",
                          (long long)s->score_from, (long long)s->context - 2);
    if (s->stride != 0 && s->cross_labels != 0)
        return qsae__fail(QSAE_EINVAL, "corpus: stride and cross_labels exclude each other: the "
                          "next window scores that token");
    return QSAE_OK;
}

/* Stream tokens that fill the chunks of max_tokens; one more if the last label lies behind them. */
static int64_t stream_need(const qsae_corpus_settings *s)
{
    const int64_t content = qsae__pack_content(s->context, s->bos_policy, s->pack);
    int64_t need;

    if (s->max_tokens > 0 && s->stride > 0) { /* at most content, so that the product fits */
        const int64_t more = qsae__max_i64(s->max_tokens - content, 0);
        need = qsae__ceil_div(more, s->stride) * s->stride;
        return need <= INT64_MAX - content ? need + content : 0;
    }
    if (s->max_tokens == 0 ||
        !qsae__mul_i64(qsae__ceil_div(s->max_tokens, s->context), content, &need) ||
        !qsae__add_i64(need, s->cross_labels != 0, &need))
        return 0;
    return need;
}

/* The stream of a text's documents. */
static int32_t read_text(qsae_corpus *c, const qsae_tokenizer *t, const char *path,
                         const qsae_corpus_settings *s, qsae__stream *stream)
{
    const char *separator = s->separator == NULL ? "<|endoftext|>" : s->separator;
    int64_t *order = NULL, n;
    int32_t status;

    if (s->format == QSAE_TEXT_IDS ||
        ((s->format == QSAE_TEXT_DEFAULT || s->format == QSAE_TEXT_WHOLE) &&
         qsae__text_is_npy(path)))
        return s->n_where > 0 || s->pack == QSAE_PACK_TL2
                   ? qsae__fail(QSAE_EINVAL, "%s: %s", path, s->n_where > 0
                                ? "where: token ids have no metadata"
                                : "pack tl2: expected text, found token ids")
                   : qsae__stream_ids(c, t, path, s, stream_need(s), stream);
    status = qsae__documents_open(&c->files, c->ctx, path, s->format, separator);
    if (status == QSAE_OK)
        status = qsae__order_make(c->ctx, s, c->files.count, &order, &n);
    if (status == QSAE_OK && order != NULL)
        status = qsae__documents_order(&c->files, order, n);
    qsae__free(c->ctx, order);
    return status == QSAE_OK ? qsae__stream_read(c, t, s, stream_need(s), stream) : status;
}

static int32_t no_document(const char *path, const qsae_corpus_settings *s)
{
    if (s->n_where == 0)
        return qsae__fail(QSAE_EINVAL, "%s: no document with text", path);
    return qsae__fail(QSAE_EINVAL, "%s: no document where %s%s", path, s->where[0],
                      s->n_where > 1 ? " and what else is asked for" : "");
}

static int32_t read_corpus(qsae_corpus *c, const qsae_tokenizer *t, const char *path,
                           const qsae_corpus_settings *s)
{
    qsae__stream stream = { .documents = NULL };
    int32_t status;

    c->context = s->context;
    c->bos_policy = s->bos_policy;
    c->cross_labels = s->cross_labels != 0;
    c->stride = s->stride;
    c->score_from = s->score_from;
    c->pack = s->pack;
    status = read_text(c, t, path, s, &stream);
    if (status == QSAE_OK && c->n_documents == 0)
        status = no_document(path, s);
    if (status == QSAE_OK) {
        qsae__documents_close_files(&c->files);
        status = qsae__pack(c, &stream, s->bos_policy >= QSAE_BOS_CHUNK_START ? t->bos : -1,
                            s->max_tokens, s->keep_tail != 0);
        if (status == QSAE_EINVAL)
            status = qsae__fail_in(status, "%s", path);
    }
    qsae__stream_free(c->ctx, &stream);
    return status;
}

int32_t qsae_corpus_open(qsae_context *context, qsae_tokenizer *tokenizer, const char *path,
                         const qsae_corpus_settings *settings, qsae_corpus **out)
{
    QSAE__FPENV;
    qsae_corpus_settings s;
    qsae_corpus *c;
    int32_t status;

    if (qsae__need_out(out))
        return QSAE_EINVAL;
    if (qsae__enter(&context) != QSAE_OK)
        return QSAE_EINVAL;
    if (qsae__need(tokenizer, "tokenizer"))
        return QSAE_EINVAL;
    if (path == NULL)
        return qsae__fail(QSAE_EINVAL, "qsae_corpus_open: path is NULL");
    status = qsae__settings_copy(&s, sizeof s, settings, "qsae_corpus_settings");
    if (status == QSAE_OK)
        status = check_settings(&s, tokenizer);
    if (status == QSAE_OK)
        status = check_pack(&s, tokenizer);
    if (status == QSAE_OK)
        status = check_windows(&s);
    if (status == QSAE_OK)
        status = check_choice(&s);
    if (status != QSAE_OK)
        return status;
    c = qsae__calloc(context, 1, sizeof *c);
    if (c == NULL)
        return QSAE_ENOMEM;
    qsae__handle_init(c);
    c->ctx = qsae__context_ref(context);
    qsae__join_call(tokenizer);
    status = read_corpus(c, tokenizer, path, &s);
    qsae__end_call(tokenizer);
    if (status != QSAE_OK) {
        qsae__unshare(c);
        qsae_corpus_close(&c);
    }
    *out = c;
    return status;
}

static int32_t fill_rows(qsae_corpus *c, const int32_t *ids, int64_t n_chunks, int64_t chunk)
{
    int32_t status;

    c->chunks = c->n_documents = n_chunks;
    c->context = chunk;
    c->tokens = c->stream_tokens = n_chunks * chunk;
    c->bos_policy = QSAE_BOS_NONE;
    c->pack = QSAE_PACK_STREAM;
    c->documents = qsae__calloc(c->ctx, n_chunks, sizeof *c->documents);
    c->ids = qsae__alloc_array(c->ctx, c->tokens, sizeof *c->ids);
    c->labels = qsae__alloc_array(c->ctx, c->tokens, sizeof *c->labels);
    c->document = qsae__alloc_array(c->ctx, c->tokens, sizeof *c->document);
    if (c->documents == NULL || c->ids == NULL || c->labels == NULL || c->document == NULL)
        return QSAE_ENOMEM;
    memcpy(c->ids, ids, (size_t)c->tokens * sizeof *ids);
    for (int64_t i = 0; i < n_chunks; i++)
        c->documents[i] = (qsae__document){ i * chunk, chunk, i + 1, NULL, -1 };
    for (int64_t i = 0; i < c->tokens; i++)
        c->document[i] = i / chunk;
    qsae__label(c, NULL);
    status = qsae__corpus_hash(c);
    return status;
}

int32_t qsae_corpus_open_ids(qsae_context *context, const int32_t *ids, int64_t n_chunks,
                             int64_t chunk, qsae_corpus **out)
{
    qsae_corpus *c;
    int64_t n;
    size_t bytes;
    int32_t status;

    if (qsae__need_out(out))
        return QSAE_EINVAL;
    if (qsae__enter(&context) != QSAE_OK)
        return QSAE_EINVAL;
    if (qsae__need_aligned(ids, "ids"))
        return QSAE_EINVAL;
    if (ids == NULL || n_chunks < 1 || chunk < 2 || chunk > INT32_MAX)
        return qsae__fail(QSAE_EINVAL, "qsae_corpus_open_ids: expected ids of at least 1 chunk of "
                          "at least 2 tokens, found %lld of %lld", (long long)n_chunks,
                          (long long)chunk);
    if (!qsae__mul_i64(n_chunks, chunk, &n) || !qsae__bytes(n, sizeof *ids, &bytes))
        return qsae__fail(QSAE_EOVERFLOW, "qsae_corpus_open_ids: %lld chunks of %lld",
                          (long long)n_chunks, (long long)chunk);
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0)
            return qsae__fail(QSAE_EINVAL, "qsae_corpus_open_ids: id %d at %lld", ids[i],
                              (long long)i);
    c = qsae__calloc(context, 1, sizeof *c);
    if (c == NULL)
        return QSAE_ENOMEM;
    qsae__handle_init(c);
    c->ctx = qsae__context_ref(context);
    status = fill_rows(c, ids, n_chunks, chunk);
    if (status != QSAE_OK) {
        qsae__unshare(c);
        qsae_corpus_close(&c);
    }
    *out = c;
    return status;
}

void qsae_corpus_close(qsae_corpus **corpus)
{
    qsae_corpus *c;
    qsae_context *ctx;

    if (!qsae__leave(corpus, "corpus"))
        return;
    c = *corpus;
    ctx = c->ctx;
    *corpus = NULL;
    qsae__documents_free(&c->files);
    for (int64_t i = 0; c->documents != NULL && i < c->n_documents; i++)
        qsae__free(ctx, c->documents[i].metadata);
    qsae__free(ctx, c->documents);
    qsae__free(ctx, c->ids);
    qsae__free(ctx, c->labels);
    qsae__free(ctx, c->document);
    qsae__free(ctx, c->extents);
    qsae__free(ctx, c->replaced);
    qsae__retire(ctx, c);
    qsae__context_unref(ctx);
}

int32_t qsae_corpus_get_info(const qsae_corpus *c, qsae_corpus_info *info)
{
    qsae_corpus_info full = { .struct_size = sizeof full };
    int64_t scored;

    if (qsae__need(c, "corpus"))
        return QSAE_EINVAL;
    if (info == NULL)
        return qsae__fail(QSAE_EINVAL, "qsae_corpus_get_info: a NULL");
    full.tokens = c->tokens;
    full.stream_tokens = c->stream_tokens;
    full.documents = c->n_documents;
    full.chunks = c->chunks;
    full.context = c->context;
    full.predicted_tokens = c->predicted;
    full.bos_policy = c->bos_policy;
    full.cross_labels = c->cross_labels;
    full.token_hash = c->hash;
    full.stride = c->stride;
    full.score_from = c->score_from;
    if (!qsae__corpus_scored(c, c->chunks, &scored, &full.scored_bytes, &full.scored_words))
        full.scored_bytes = full.scored_words = -1;
    full.pack = c->pack;
    return qsae__info_copy(info, &full, sizeof full, "qsae_corpus_info");
}

int32_t qsae_corpus_chunk(const qsae_corpus *c, int64_t chunk, const int32_t **ids,
                          const int32_t **labels, const int64_t **document, int64_t *n_tokens)
{
    int64_t from;

    if (qsae__need(c, "corpus"))
        return QSAE_EINVAL;
    if (qsae__need_aligned(ids, "ids") ||
        qsae__need_aligned(labels, "labels") ||
        qsae__need_aligned(document, "document") ||
        qsae__need_aligned(n_tokens, "n_tokens"))
        return QSAE_EINVAL;
    if (chunk < 0 || chunk >= c->chunks)
        return qsae__fail(QSAE_EINVAL, "qsae_corpus_chunk: chunk %lld of %lld", (long long)chunk,
                          (long long)c->chunks);
    from = chunk * c->context;
    if (ids != NULL)
        *ids = c->ids + from;
    if (labels != NULL)
        *labels = c->labels + from;
    if (document != NULL)
        *document = c->document + from;
    if (n_tokens != NULL)
        *n_tokens = qsae__min_i64(c->context, c->tokens - from);
    return QSAE_OK;
}

int32_t qsae_corpus_document(const qsae_corpus *c, int64_t document, qsae_document_info *info)
{
    qsae_document_info full = { .struct_size = sizeof full };
    const qsae__document *d;

    if (qsae__need(c, "corpus"))
        return QSAE_EINVAL;
    if (info == NULL || document < 0 || document >= c->n_documents)
        return qsae__fail(QSAE_EINVAL, "qsae_corpus_document: document %lld of %lld",
                          (long long)document, (long long)c->n_documents);
    d = &c->documents[document];
    full.first_token = d->first_token;
    full.n_tokens = d->n_tokens;
    full.source = d->source < 0 ? "" : c->files.sources[d->source];
    full.line = d->line;
    full.metadata = d->metadata == NULL ? "{}" : d->metadata;
    return qsae__info_copy(info, &full, sizeof full, "qsae_document_info");
}
