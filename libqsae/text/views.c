/* SPDX-License-Identifier: BSD-2-Clause */
/* What each token stands for in running text, built once so that it can be handed out as a view. */
#include <string.h>

#include "text/tokenizer.h"
#include "text/utf8.h"

/* The word-start mark: what the decoder turns into a space, NULL if nothing. */
static const char *decoder_mark(const json_t *decoder)
{
    const char *type = json_string_value(json_object_get(decoder, "type"));
    const char *mark = NULL;
    const json_t *pattern;

    if (type == NULL)
        return NULL;
    if (strcmp(type, "Metaspace") == 0)
        return json_string_value(json_object_get(decoder, "replacement"));
    if (strcmp(type, "Replace") == 0) {
        const char *content = json_string_value(json_object_get(decoder, "content"));
        pattern = json_object_get(json_object_get(decoder, "pattern"), "String");
        return content != NULL && strcmp(content, " ") == 0 ? json_string_value(pattern) : NULL;
    }
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = json_object_get(decoder, "decoders");
        for (size_t i = 0; i < json_array_size(list) && mark == NULL; i++)
            mark = decoder_mark(json_array_get(list, i)); /* as deep as the JSON may be */
    }
    return mark;
}

/* Without a decoder: what the normalizer or the pre-tokenizer put in place of a space. */
static const char *encoder_mark(const qsae_tokenizer *t)
{
    for (int64_t i = 0; i < t->normalizer.count; i++) {
        const qsae__norm_step *step = &t->normalizer.steps[i];
        if (step->kind == QSAE__NORM_REPLACE && qsae__pattern_is(step->pattern, " "))
            return step->content;
    }
    for (int64_t i = 0; i < t->pretokenizer.count; i++)
        if (t->pretokenizer.steps[i].kind == QSAE__PRE_METASPACE)
            return t->pretokenizer.steps[i].mark;
    return NULL;
}

static bool byte_level(const qsae_tokenizer *t)
{
    for (int64_t i = 0; i < t->pretokenizer.count; i++)
        if (t->pretokenizer.steps[i].kind == QSAE__PRE_BYTES)
            return true;
    return false;
}

/* Bytes of a byte-level token; a character outside the map stands for itself. */
static void add_byte_level(qsae__strbuf *out, const char *s, size_t size)
{
    for (size_t i = 0; i < size; i += qsae__utf8_len(s[i])) {
        const int32_t byte = qsae__char_byte(qsae__utf8_get(s + i));
        const char c = (char)byte;
        qsae__strbuf_add(out, byte < 0 ? s + i : &c, byte < 0 ? qsae__utf8_len(s[i]) : 1);
    }
}

static void add_marked(qsae__strbuf *out, const char *s, size_t size, const char *mark)
{
    const size_t n = mark == NULL ? 0 : strlen(mark);

    while (size > 0) {
        const char *hit = n == 0 ? NULL : memmem(s, size, mark, n);
        const size_t before = hit == NULL ? size : (size_t)(hit - s);
        qsae__strbuf_add(out, s, before);
        if (hit == NULL)
            return;
        qsae__strbuf_add(out, " ", 1);
        s = hit + n;
        size -= before + n;
    }
}

static void add_view(const qsae_tokenizer *t, int64_t id, const char *content, const char *mark,
                     bool bytes, qsae__strbuf *out)
{
    const qsae__vocab *v = &t->model.vocab;

    if (content != NULL) { /* added: special tokens by name, others as the decoder shows them */
        if (t->known[id] == 2)
            qsae__strbuf_add(out, content, strlen(content));
        else
            add_marked(out, content, strlen(content), mark);
        return;
    }
    if (bytes)
        add_byte_level(out, v->bytes + v->offsets[id], v->sizes[id]);
    else
        add_marked(out, v->bytes + v->offsets[id], v->sizes[id], mark);
}

int32_t qsae__views_build(qsae_tokenizer *t, const json_t *decoder)
{
    const char *mark = decoder_mark(decoder);
    const bool bytes = byte_level(t);
    const char **contents = qsae__calloc(t->ctx, t->vocab, sizeof *contents);
    qsae__strbuf out;
    int32_t status = QSAE_ENOMEM;

    qsae__strbuf_init(&out, t->ctx);
    t->view_at = qsae__alloc_array(t->ctx, t->vocab + 1, sizeof *t->view_at);
    if (contents == NULL || t->view_at == NULL)
        goto fail;
    if (mark == NULL && !bytes)
        mark = encoder_mark(t);
    for (int64_t i = 0; i < t->n_added; i++)
        contents[t->added[i].id] = t->contents[i];
    qsae__strbuf_add(&out, "", 0);
    for (int64_t id = 0; id < t->vocab; id++) {
        t->view_at[id] = out.size;
        if (t->known[id] != 0)
            add_view(t, id, contents[id], mark, bytes, &out);
    }
    t->view_at[t->vocab] = out.size;
    status = out.status;
    for (int i = 0; i < 256 && status == QSAE_OK; i++) {
        const int32_t id = t->model.byte_ids[i];
        if (id >= 0 && contents[id] == NULL) {
            /* "<0xHH>" is 6 bytes, its view is one: the rest is cut off by qsae_tokenizer_token. */
            out.data[t->view_at[id]] = (char)i;
            t->known[id] = 3;
        }
    }
    t->views = out.data;
    out.data = NULL;
fail:
    qsae__strbuf_free(&out);
    qsae__free(t->ctx, contents);
    return status;
}

int32_t qsae_tokenizer_token(const qsae_tokenizer *t, int32_t id, const char **bytes,
                             size_t *n_bytes)
{
    if (qsae__need(t, "tokenizer"))
        return QSAE_EINVAL;
    if (qsae__need_aligned(bytes, "bytes") ||
        qsae__need_aligned(n_bytes, "n_bytes"))
        return QSAE_EINVAL;
    if (bytes == NULL || n_bytes == NULL)
        return qsae__fail(QSAE_EINVAL, "qsae_tokenizer_token: a NULL");
    *bytes = NULL;
    *n_bytes = 0;
    if (id < 0 || id >= t->vocab || t->known[id] == 0)
        return qsae__fail(QSAE_ENOENT, "token %d is not in the vocabulary", id);
    *bytes = t->views + t->view_at[id];
    *n_bytes = t->known[id] == 3 ? 1 : (size_t)(t->view_at[id + 1] - t->view_at[id]);
    return QSAE_OK;
}
