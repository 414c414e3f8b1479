/* SPDX-License-Identifier: BSD-2-Clause */
/* The pipeline: added tokens, normalizer, added tokens again, pre-tokenizer, model. */
#include <string.h>

#include "text/tokenizer.h"
#include "text/utf8.h"

void qsae__encoder_init(qsae__encoder *e, const qsae_tokenizer *t)
{
    memset(e, 0, sizeof *e);
    e->tokenizer = t;
    qsae__strbuf_init(&e->buffers[0], t->ctx);
    qsae__strbuf_init(&e->buffers[1], t->ctx);
    qsae__pieces_init(&e->pieces, t->ctx);
    e->scratch.ctx = t->ctx;
    e->ids.ctx = t->ctx;
}

void qsae__encoder_free(qsae__encoder *e)
{
    if (e->tokenizer == NULL)
        return;
    qsae__strbuf_free(&e->buffers[0]);
    qsae__strbuf_free(&e->buffers[1]);
    qsae__pieces_free(&e->pieces);
    qsae__bpe_scratch_free(&e->scratch);
    qsae__free(e->ids.ctx, e->lattice.steps);
    qsae__free(e->ids.ctx, e->ids.data);
    e->tokenizer = NULL;
}

static int32_t add_word(qsae__encoder *e, const char *word, size_t size)
{
    const qsae__bpe *const b = &e->tokenizer->model;
    const qsae__unigram *const u = &e->tokenizer->unigram;

    if (u->ctx != NULL)
        return e->pieces.bytes
                   ? qsae__unigram_bytes(u, b, &e->scratch, &e->lattice, word, size, &e->ids)
                   : qsae__unigram_word(u, b, &e->scratch, &e->lattice, word, size, &e->ids);
    return e->pieces.bytes ? qsae__bpe_bytes(b, &e->scratch, word, size, &e->ids)
                           : qsae__bpe_word(b, &e->scratch, word, size, &e->ids);
}

/* A part of the normalized text of one raw piece. */
static int32_t on_normalized(void *arg, size_t start, size_t end, const qsae__added *token)
{
    qsae__encoder *e = arg;
    const qsae_tokenizer *t = e->tokenizer;
    qsae__pieces *p = &e->pieces;
    int32_t status;

    if (token != NULL)
        return qsae__ids_add(&e->ids, &token->id, 1);
    status = qsae__pretokenize(&t->pretokenizer, e->text + start, end - start,
                               e->at_start && start == 0, p);
    if (status == QSAE_OK)
        status = qsae__canceled(e->scratch.cancel);
    for (int64_t i = 0; i < p->count && status == QSAE_OK; i++) {
        if (i % 1024 == 1023 && (status = qsae__canceled(e->scratch.cancel)) != QSAE_OK)
            return status;
        status = add_word(e, p->text + p->spans[i].start, p->spans[i].end - p->spans[i].start);
    }
    return status;
}

/* A part of the raw text. */
static int32_t on_raw(void *arg, size_t start, size_t end, const qsae__added *token)
{
    qsae__encoder *e = arg;
    const qsae_tokenizer *t = e->tokenizer;
    const char *raw = e->text, *text;
    size_t size;
    bool cut;
    int32_t status;

    if (token != NULL)
        return qsae__ids_add(&e->ids, &token->id, 1);
    status = qsae__normalize(&t->normalizer, raw + start, end - start, e->buffers, &text, &size,
                             &cut);
    if (status == QSAE_OK) {
        e->text = text;
        e->at_start = start == 0 && !cut;
        status = qsae__matcher_split(&t->normalized, text, size, on_normalized, e);
        e->text = raw;
    }
    return status;
}

int32_t qsae__encoder_run(qsae__encoder *e, const char *text, size_t size)
{
    size_t bad;
    int32_t status;

    e->ids.count = 0;
    if (!qsae__utf8_check(text, size, &bad))
        return qsae__fail(QSAE_EFORMAT, "text is not UTF-8: byte 0x%02x at offset %zu",
                          (unsigned)(uint8_t)text[bad], bad);
    status = qsae__bpe_scratch_expect(&e->scratch, size);
    if (status != QSAE_OK)
        return status;
    e->text = text;
    return qsae__matcher_split(&e->tokenizer->raw, text, size, on_raw, e);
}

int32_t qsae_tokenizer_encode(const qsae_tokenizer *t, const char *text, size_t n_bytes,
                              int32_t add_special, int32_t *ids, int64_t capacity, int64_t *n_ids)
{
    return qsae_tokenizer_encode_cancelable(t, text, n_bytes, add_special, NULL, ids, capacity,
                                            n_ids);
}

int32_t qsae_tokenizer_encode_cancelable(const qsae_tokenizer *t, const char *text, size_t n_bytes,
                                         int32_t add_special, const qsae_cancel_token *cancel,
                                         int32_t *ids, int64_t capacity, int64_t *n_ids)
{
    QSAE__FPENV;
    qsae__encoder e;
    int64_t prefix, suffix, n;
    int32_t status;

    if (qsae__need_aligned(n_ids, "n_ids") || qsae__need_aligned(ids, "ids"))
        return QSAE_EINVAL;
    if (n_ids != NULL)
        *n_ids = 0;
    if (qsae__need(t, "tokenizer"))
        return QSAE_EINVAL;
    if ((text == NULL && n_bytes > 0) || (ids == NULL && capacity != 0) ||
        capacity < 0 || n_ids == NULL)
        return qsae__fail(QSAE_EINVAL, "qsae_tokenizer_encode: a NULL or a negative capacity");
    qsae__encoder_init(&e, t);
    e.scratch.cancel = cancel;
    status = qsae__encoder_run(&e, text, n_bytes);
    if (status != QSAE_OK)
        goto fail;
    prefix = add_special ? t->prefix.count : 0;
    suffix = add_special ? t->suffix.count : 0;
    n = prefix + e.ids.count + suffix;
    *n_ids = n;
    if (n > capacity) {
        status = qsae__fail(QSAE_ESPACE, "%lld ids, room for %lld", (long long)n,
                            (long long)capacity);
        goto fail;
    }
    if (prefix > 0)
        memcpy(ids, t->prefix.data, (size_t)prefix * sizeof *ids);
    if (e.ids.count > 0)
        memcpy(ids + prefix, e.ids.data, (size_t)e.ids.count * sizeof *ids);
    if (suffix > 0)
        memcpy(ids + prefix + e.ids.count, t->suffix.data, (size_t)suffix * sizeof *ids);
fail:
    qsae__encoder_free(&e);
    return status;
}
