/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Bytes and words of a document's text, token by token, so that a part of it can be counted. Summed
 * over a whole document they are len(text.encode()) and len(re.split(r"\s+", text)), what
 * lm-evaluation-harness divides by (lm_eval/api/task.py, word_perplexity and byte_perplexity).
 */
#include <string.h>

#include "text/corpus.h"
#include "text/utf8.h"

/* The tokens' texts one after the other; counts of bytes into extents. Among ids that come without
 * text special tokens are none of it. */
static int32_t join(const qsae_tokenizer *t, const int32_t *ids, int64_t n, qsae__extent *extents,
                    bool special, qsae__strbuf *out)
{
    for (int64_t i = 0; i < n; i++) {
        const char *bytes;
        size_t size;
        const int32_t status = qsae_tokenizer_token(t, ids[i], &bytes, &size);
        if (status != QSAE_OK)
            return status;
        if (!special && qsae_tokenizer_is_special(t, ids[i]))
            size = 0;
        extents[i] = (qsae__extent){ (int32_t)qsae__min_i64((int64_t)size, INT32_MAX), 0 };
        qsae__strbuf_add(out, bytes, size);
    }
    return out->status;
}

int32_t qsae__extents_measure(const qsae_tokenizer *t, const int32_t *ids, int64_t n,
                              const char *text, size_t text_size, qsae__extent *extents,
                              qsae__strbuf *scratch)
{
    size_t at = 0, size, bad;
    int64_t first = 0;
    bool space = false, valid;
    int32_t status;

    scratch->size = 0;
    status = join(t, ids, n, extents, text != NULL, scratch);
    if (status != QSAE_OK || n == 0)
        return status;
    size = (size_t)scratch->size;
    /* A space that the tokenizer put in front of the text is none of it. */
    if (text != NULL && size == text_size + 1 && extents[0].bytes > 0 && scratch->data[0] == ' ' &&
        memcmp(scratch->data + 1, text, text_size) == 0)
        at = 1;
    valid = qsae__utf8_check(scratch->data, size, &bad);
    for (int64_t i = 0, end = 0; i < n; i++) {
        end += extents[i].bytes;
        if (i == 0)
            extents[0].bytes -= (int32_t)at;
        while (at < (size_t)end) {
            const char *p = scratch->data + at;
            const bool now = (valid || (uint8_t)*p < 0x80) && qsae__python_space(qsae__utf8_get(p));
            extents[i].words += now && !space;
            space = now;
            at += valid ? qsae__utf8_len(*p) : 1;
        }
    }
    while (first + 1 < n && extents[first].bytes == 0)
        first++;
    extents[first].words++;
    return QSAE_OK;
}

bool qsae__corpus_scored(const qsae_corpus *c, int64_t chunks, int64_t *tokens, int64_t *bytes,
                         int64_t *words)
{
    const int64_t end = qsae__min_i64(chunks * c->context, c->tokens);

    *tokens = *bytes = *words = 0;
    if (c->extents == NULL)
        return false;
    for (int64_t i = 0; i < end; i++) {
        if (c->labels[i] < 0)
            continue;
        *tokens += 1;
        *bytes += c->extents[i].bytes;
        *words += c->extents[i].words;
    }
    return true;
}
