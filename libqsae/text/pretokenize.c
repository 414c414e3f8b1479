/* SPDX-License-Identifier: BSD-2-Clause */
#include "text/pretokenize.h"

#include <string.h>

#include "text/utf8.h"

/* A stretch of a span that matches the pattern or does not. */
typedef struct qsae__part {
    size_t start, end;
    bool match;
} part;

uint32_t qsae__byte_char(uint8_t b)
{
    if ((b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae)
        return b;
    if (b <= 0x20)
        return 0x100u + b;
    return b == 0xad ? 0x143 : 0x121u + (b - 0x7fu);
}

int32_t qsae__char_byte(uint32_t c)
{
    if (c < 0x100)
        return qsae__byte_char((uint8_t)c) == c ? (int32_t)c : -1;
    if (c <= 0x120)
        return (int32_t)(c - 0x100);
    if (c <= 0x142)
        return (int32_t)(c - 0x121 + 0x7f);
    return c == 0x143 ? 0xad : -1;
}

void qsae__pieces_init(qsae__pieces *p, qsae_context *ctx)
{
    memset(p, 0, sizeof *p);
    p->ctx = ctx;
    qsae__strbuf_init(&p->buffers[0], ctx);
    qsae__strbuf_init(&p->buffers[1], ctx);
}

void qsae__pieces_free(qsae__pieces *p)
{
    qsae__free(p->ctx, p->spans);
    qsae__free(p->ctx, p->next);
    qsae__free(p->ctx, p->parts);
    qsae__strbuf_free(&p->buffers[0]);
    qsae__strbuf_free(&p->buffers[1]);
}

static int32_t add_span(qsae__pieces *p, size_t start, size_t end)
{
    int32_t status;

    if (start == end)
        return QSAE_OK;
    if (p->next_count == p->next_capacity) {
        status = qsae__grow(p->ctx, &p->next, &p->next_capacity, p->next_count + 1,
                            sizeof *p->next);
        if (status != QSAE_OK)
            return status;
    }
    p->next[p->next_count++] = (qsae__span){ start, end };
    return QSAE_OK;
}

static int32_t add_part(qsae__pieces *p, int64_t *n, size_t start, size_t end, bool match)
{
    const int32_t status = qsae__grow(p->ctx, &p->parts, &p->parts_capacity, *n + 1,
                                      sizeof *p->parts);

    if (status == QSAE_OK)
        p->parts[(*n)++] = (part){ start, end, match };
    return status;
}

/* Parts of text[start..end) by a pattern; they tile it. */
static int32_t find_parts(qsae__pieces *p, const qsae__pre_step *step, const char *text,
                          size_t start, size_t end, int64_t *n)
{
    qsae__search s = { .pattern = step->pattern, .text = text + start, .size = end - start };
    size_t a, b, last = 0;
    int32_t found, status = QSAE_OK;

    *n = 0;
    while (status == QSAE_OK && (found = qsae__search_next(&s, &a, &b)) != 0) {
        if (found < 0) {
            status = found;
            break;
        }
        if (last != a)
            status = add_part(p, n, start + last, start + a, step->invert);
        if (status == QSAE_OK)
            status = add_part(p, n, start + a, start + b, !step->invert);
        last = b;
    }
    qsae__search_end(&s);
    if (status == QSAE_OK && start + last != end)
        status = add_part(p, n, start + last, end, step->invert);
    return status;
}

/* The same where every part becomes a piece. */
static int32_t isolate_parts(qsae__pieces *p, const qsae__pre_step *step, const char *text,
                             size_t start, size_t end)
{
    qsae__search s = { .pattern = step->pattern, .text = text + start, .size = end - start };
    size_t a, b, last = 0;
    int32_t found, status = QSAE_OK;

    while (status == QSAE_OK && (found = qsae__search_next(&s, &a, &b)) != 0) {
        if (found < 0) {
            status = found;
            break;
        }
        status = add_span(p, start + last, start + a);
        if (status == QSAE_OK)
            status = add_span(p, start + a, start + b);
        last = b;
    }
    qsae__search_end(&s);
    return status == QSAE_OK ? add_span(p, start + last, end) : status;
}

/* Whether a step matches a character. */
static bool matches(int32_t kind, uint32_t c)
{
    switch (kind) {
    case QSAE__PRE_DIGITS:
        return qsae__is_numeric(c);
    case QSAE__PRE_PUNCTUATION:
        return qsae__is_punctuation(c);
    default:
        return qsae__is_space(c);
    }
}

/* Parts by character: each one that matches is a part. */
static int32_t find_characters(qsae__pieces *p, int32_t kind, const char *text, size_t start,
                               size_t end, int64_t *n)
{
    int32_t status = QSAE_OK;

    *n = 0;
    while (start < end && status == QSAE_OK) {
        size_t stop = start;
        while (stop < end && !matches(kind, qsae__utf8_get(text + stop)))
            stop += qsae__utf8_len(text[stop]);
        if (stop > start)
            status = add_part(p, n, start, stop, false);
        if (stop < end && status == QSAE_OK) {
            start = stop;
            stop += qsae__utf8_len(text[stop]);
            status = add_part(p, n, start, stop, true);
        }
        start = stop;
    }
    return status;
}

/* Runs of letters and the like, of white space (which match) and of other characters. */
static int32_t find_words(qsae__pieces *p, const char *text, size_t start, size_t end, int64_t *n)
{
    int32_t status = QSAE_OK;

    *n = 0;
    while (start < end && status == QSAE_OK) {
        const uint32_t first = qsae__utf8_get(text + start);
        const bool space = qsae__is_space(first), word = qsae__is_word(first);
        size_t stop = start;
        while (stop < end && qsae__is_space(qsae__utf8_get(text + stop)) == space &&
               qsae__is_word(qsae__utf8_get(text + stop)) == word)
            stop += qsae__utf8_len(text[stop]);
        status = add_part(p, n, start, stop, space);
        start = stop;
    }
    return status;
}

/* NormalizedString::split of the tokenizers crate: merges parts by behavior. */
static int32_t emit_parts(qsae__pieces *p, int32_t behavior, int64_t n)
{
    const part *parts = p->parts;
    int32_t status = QSAE_OK;

    for (int64_t i = 0; i < n && status == QSAE_OK;) {
        int64_t j = i + 1; /* parts i..j-1 become one piece */
        switch (behavior) {
        case QSAE__CONTIGUOUS:
            while (j < n && parts[j].match == parts[i].match)
                j++;
            break;
        case QSAE__MERGED_WITH_PREVIOUS:
            if (!parts[i].match && j < n && parts[j].match)
                j++;
            break;
        case QSAE__MERGED_WITH_NEXT:
            if (parts[i].match && j < n && !parts[j].match)
                j++;
            break;
        default:
            break;
        }
        if (behavior != QSAE__REMOVED || !parts[i].match)
            status = add_span(p, parts[i].start, parts[j - 1].end);
        i = j;
    }
    return status;
}

/* Cuts all spans at the parts of a step. Only text before span 0 moves it away from the start. */
static int32_t run_split(qsae__pieces *p, const qsae__pre_step *step)
{
    const size_t first = p->count > 0 ? p->spans[0].start : 0;
    int32_t status = QSAE_OK;

    p->next_count = 0;
    for (int64_t i = 0; i < p->count && status == QSAE_OK; i++) {
        const qsae__span s = p->spans[i];
        int64_t n;
        if (step->pattern != NULL && step->behavior == QSAE__ISOLATED) {
            status = isolate_parts(p, step, p->text, s.start, s.end);
            continue;
        }
        if (step->kind == QSAE__PRE_WORDS)
            status = find_words(p, p->text, s.start, s.end, &n);
        else
            status = step->pattern == NULL
                         ? find_characters(p, step->kind, p->text, s.start, s.end, &n)
                         : find_parts(p, step, p->text, s.start, s.end, &n);
        if (status == QSAE_OK)
            status = emit_parts(p, step->behavior, n);
    }
    if (status == QSAE_OK && (p->next_count == 0 || p->next[0].start != first))
        p->at_start = false;
    return status;
}

static void swap_spans(qsae__pieces *p)
{
    qsae__span *spans = p->spans;
    const int64_t capacity = p->capacity;

    p->spans = p->next;
    p->count = p->next_count;
    p->capacity = p->next_capacity;
    p->next = spans;
    p->next_capacity = capacity;
}

static void begin_text(qsae__pieces *p)
{
    p->buffer = 1 - p->buffer;
    p->buffers[p->buffer].size = 0;
    p->next_count = 0;
}

/* The spans of `next` lie in the buffer written since begin_text. */
static int32_t end_text(qsae__pieces *p)
{
    if (p->buffers[p->buffer].status != QSAE_OK)
        return p->buffers[p->buffer].status;
    p->text = p->buffers[p->buffer].data;
    swap_spans(p);
    return QSAE_OK;
}

static int32_t run_metaspace(qsae__pieces *p, const qsae__pre_step *step)
{
    const size_t mark = strlen(step->mark);
    qsae__strbuf *b;
    int32_t status = QSAE_OK;

    begin_text(p);
    b = &p->buffers[p->buffer];
    for (int64_t i = 0; i < p->count && status == QSAE_OK; i++) {
        const char *s = p->text + p->spans[i].start, *end = p->text + p->spans[i].end;
        const size_t start = (size_t)b->size;
        const bool has =
            *s == ' ' || ((size_t)(end - s) >= mark && memcmp(s, step->mark, mark) == 0);
        if (!has && (step->prepend == QSAE__PREPEND_ALWAYS ||
                     (step->prepend == QSAE__PREPEND_FIRST && i == 0 && p->at_start)))
            qsae__strbuf_add(b, step->mark, mark);
        while (s < end) {
            const char *space = memchr(s, ' ', (size_t)(end - s));
            const char *stop = space != NULL ? space : end;
            qsae__strbuf_add(b, s, (size_t)(stop - s));
            if (space != NULL)
                qsae__strbuf_add(b, step->mark, mark);
            s = stop + (space != NULL);
        }
        status = add_span(p, start, (size_t)b->size);
    }
    if (status == QSAE_OK)
        status = end_text(p);
    if (status == QSAE_OK && step->split) {
        status = run_split(p, step);
        swap_spans(p);
    }
    return status;
}

/* ByteLevel: prefix space, regular expression, then every byte as its character unless `last`. */
static int32_t run_bytes(qsae__pieces *p, const qsae__pre_step *step, bool last)
{
    qsae__strbuf *b;
    int32_t status = QSAE_OK;

    if (step->prepend == QSAE__PREPEND_ALWAYS) {
        begin_text(p);
        b = &p->buffers[p->buffer];
        for (int64_t i = 0; i < p->count && status == QSAE_OK; i++) {
            const size_t start = (size_t)b->size;
            if (p->text[p->spans[i].start] != ' ')
                qsae__strbuf_add(b, " ", 1);
            qsae__strbuf_add(b, p->text + p->spans[i].start, p->spans[i].end - p->spans[i].start);
            status = add_span(p, start, (size_t)b->size);
        }
        if (status == QSAE_OK)
            status = end_text(p);
    }
    if (status == QSAE_OK && step->split) {
        status = run_split(p, step);
        swap_spans(p);
    }
    p->bytes = last;
    if (status != QSAE_OK || last)
        return status;
    begin_text(p);
    b = &p->buffers[p->buffer];
    for (int64_t i = 0; i < p->count && status == QSAE_OK; i++) {
        const size_t start = (size_t)b->size;
        char c[4];
        for (size_t k = p->spans[i].start; k < p->spans[i].end; k++)
            qsae__strbuf_add(b, c, qsae__utf8_put(qsae__byte_char((uint8_t)p->text[k]), c));
        status = add_span(p, start, (size_t)b->size);
    }
    return status == QSAE_OK ? end_text(p) : status;
}

int32_t qsae__pretokenize(const qsae__pretokenizer *p, const char *text, size_t size, bool at_start,
                          qsae__pieces *pieces)
{
    int32_t status;

    pieces->text = text;
    pieces->next_count = 0;
    pieces->at_start = at_start;
    pieces->bytes = false;
    status = add_span(pieces, 0, size);
    swap_spans(pieces);
    for (int64_t i = 0; i < p->count && status == QSAE_OK; i++) {
        const qsae__pre_step *step = &p->steps[i];
        if (step->kind == QSAE__PRE_METASPACE) {
            status = run_metaspace(pieces, step);
        } else if (step->kind == QSAE__PRE_BYTES) {
            status = run_bytes(pieces, step, i + 1 == p->count);
        } else {
            status = run_split(pieces, step);
            swap_spans(pieces);
        }
    }
    return status;
}
