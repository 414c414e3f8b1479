/* SPDX-License-Identifier: BSD-2-Clause */
#include "text/bpe.h"

#include <string.h>

#include "text/utf8.h"

int32_t qsae__ids_add(qsae__ids *ids, const int32_t *more, int64_t n)
{
    const int32_t status = qsae__grow(ids->ctx, &ids->data, &ids->capacity, ids->count + n,
                                      sizeof *ids->data);

    if (status != QSAE_OK || n == 0)
        return status;
    memcpy(ids->data + ids->count, more, (size_t)n * sizeof *more);
    ids->count += n;
    return QSAE_OK;
}

void qsae__bpe_scratch_free(qsae__bpe_scratch *s)
{
    qsae__free(s->ctx, s->symbols);
    qsae__free(s->ctx, s->heap);
    s->symbols = NULL;
    s->heap = NULL;
}

const qsae__merge *qsae__bpe_find(const qsae__bpe *b, int32_t left, int32_t right)
{
    const uint64_t pair = qsae__pair(left, right), mask = (uint64_t)(b->n_merges - 1);

    for (uint64_t i = qsae__pair_hash(pair) & mask;; i = (i + 1) & mask) {
        if (b->merges[i].pair == pair)
            return &b->merges[i];
        if (b->merges[i].pair == UINT64_MAX)
            return NULL;
    }
}

static void sift_down(qsae__candidate *heap, int64_t n, int64_t i)
{
    const qsae__candidate top = heap[i];

    for (int64_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && heap[child + 1].order < heap[child].order)
            child++;
        if (heap[child].order >= top.order)
            break;
        heap[i] = heap[child];
    }
    heap[i] = top;
}

static void sift_up(qsae__candidate *heap, int64_t i)
{
    const qsae__candidate last = heap[i];

    for (int64_t parent; i > 0; i = parent) {
        parent = (i - 1) / 2;
        if (heap[parent].order <= last.order)
            break;
        heap[i] = heap[parent];
    }
    heap[i] = last;
}

/* Room was made for all pushes: n - 1 at the start, and 2 for each of at most n - 1 merges. */
static void push(qsae__bpe_scratch *s, const qsae__merge *m, int32_t at)
{
    s->heap[s->n_heap] = (qsae__candidate){ (uint64_t)m->rank << 32 | (uint32_t)at, m->id, 0 };
    sift_up(s->heap, s->n_heap++);
}

static void merge_at(const qsae__bpe *b, qsae__bpe_scratch *s, int32_t at, int32_t id)
{
    qsae__symbol *y = s->symbols, *left = &y[at], *right = &y[left->next];
    const qsae__merge *m;

    left->id = id;
    right->id = -1;
    left->next = right->next;
    if (left->next >= 0)
        y[left->next].prev = at;
    if (left->prev >= 0 && (m = qsae__bpe_find(b, y[left->prev].id, id)) != NULL)
        push(s, m, left->prev);
    if (left->next >= 0 && (m = qsae__bpe_find(b, id, y[left->next].id)) != NULL)
        push(s, m, at);
}

/* The byte tokens of a character, or the unknown token if one of them is missing. */
static int32_t emit_bytes(const qsae__bpe *b, const char *c, size_t size, qsae__ids *ids)
{
    int32_t out[4];

    for (size_t i = 0; i < size; i++) {
        out[i] = b->byte_ids[(uint8_t)c[i]];
        if (out[i] >= 0)
            continue;
        if (b->unk < 0)
            return qsae__fail(QSAE_EFORMAT, "U+%04X is no token, and neither are its bytes; there "
                              "is no unknown token", (unsigned)qsae__utf8_get(c));
        return qsae__ids_add(ids, &b->unk, 1);
    }
    return qsae__ids_add(ids, out, (int64_t)size);
}

/* Appends a merged symbol. */
static int32_t emit(const qsae__bpe *b, int32_t id, qsae__ids *ids)
{
    if (id < b->n_tokens)
        return qsae__ids_add(ids, &id, 1);
    return emit_bytes(b, b->vocab.bytes + b->vocab.offsets[id], b->vocab.sizes[id], ids);
}

/* Merges the symbols collected so far and appends their ids. */
static int32_t finish(const qsae__bpe *b, qsae__bpe_scratch *s, qsae__ids *ids)
{
    const int32_t n = (int32_t)s->n_symbols;
    qsae__symbol *y = s->symbols;
    const qsae__merge *m;
    int64_t room;
    int32_t status;

    s->n_symbols = 0;
    if (n <= 2) {
        if (n == 2 && (m = qsae__bpe_find(b, y[0].id, y[1].id)) != NULL)
            return emit(b, m->id, ids);
        status = n > 0 ? emit(b, y[0].id, ids) : QSAE_OK;
        return n == 2 && status == QSAE_OK ? emit(b, y[1].id, ids) : status;
    }
    if (!qsae__mul_i64(n, 3, &room))
        return qsae__fail(QSAE_EOVERFLOW, "a word of %d symbols", n);
    status = qsae__grow(s->ctx, &s->heap, &s->heap_capacity, room, sizeof *s->heap);
    if (status != QSAE_OK)
        return status;
    s->n_heap = 0;
    for (int32_t i = 0; i < n; i++) {
        y[i].prev = i - 1;
        y[i].next = i + 1 < n ? i + 1 : -1;
        if (i + 1 < n && (m = qsae__bpe_find(b, y[i].id, y[i + 1].id)) != NULL)
            s->heap[s->n_heap++] = (qsae__candidate){
                (uint64_t)m->rank << 32 | (uint32_t)i, m->id, 0,
            };
    }
    for (int64_t i = s->n_heap / 2 - 1; i >= 0; i--)
        sift_down(s->heap, s->n_heap, i);
    while (s->n_heap > 0) {
        const qsae__candidate top = s->heap[0];
        const int32_t at = (int32_t)(uint32_t)top.order;
        s->heap[0] = s->heap[--s->n_heap];
        if (s->n_heap > 0)
            sift_down(s->heap, s->n_heap, 0);
        /* Stale unless both symbols are still there and still merge to the same token. */
        if (y[at].id < 0 || y[at].next < 0 ||
            (m = qsae__bpe_find(b, y[at].id, y[y[at].next].id)) == NULL || m->id != top.id)
            continue;
        merge_at(b, s, at, top.id);
    }
    for (int32_t i = 0; i >= 0 && status == QSAE_OK; i = y[i].next)
        status = emit(b, y[i].id, ids);
    return status;
}

static int32_t add_symbol(const qsae__bpe *b, qsae__bpe_scratch *s, int32_t id, qsae__ids *ids)
{
    int32_t status = QSAE_OK;

    if (s->n_symbols > 0 &&
        !qsae__pair_set_has(&b->joints, qsae__pair(s->symbols[s->n_symbols - 1].id, id)))
        status = finish(b, s, ids);
    if (status == QSAE_OK && s->n_symbols >= INT32_MAX / 2)
        status = qsae__fail(QSAE_EOVERFLOW, "a word of more than %d symbols", INT32_MAX / 2);
    if (status == QSAE_OK)
        status = qsae__grow(s->ctx, &s->symbols, &s->symbols_capacity, s->n_symbols + 1,
                            sizeof *s->symbols);
    if (status == QSAE_OK)
        s->symbols[s->n_symbols++].id = id;
    return status;
}

/* One byte token per byte, if the model has all of them. */
static int32_t add_bytes(const qsae__bpe *b, qsae__bpe_scratch *s, const char *c, size_t size,
                         qsae__ids *ids, bool *done)
{
    int32_t status = QSAE_OK;

    *done = false;
    for (size_t i = 0; i < size; i++)
        if (b->byte_ids[(uint8_t)c[i]] < 0)
            return QSAE_OK;
    *done = true;
    for (size_t i = 0; i < size && status == QSAE_OK; i++)
        status = add_symbol(b, s, b->byte_ids[(uint8_t)c[i]], ids);
    return status;
}

/* Symbols of a word. An unknown token waits until a known character comes: so do the crate's. */
static int32_t add_word(const qsae__bpe *b, qsae__bpe_scratch *s, const char *text, size_t size,
                        qsae__ids *ids)
{
    bool waiting = false, done;
    int32_t status = QSAE_OK;

    for (size_t i = 0, n; i < size && status == QSAE_OK; i += n) {
        const char *c = text + i;
        const uint32_t code = qsae__utf8_get(c);
        int32_t id;
        n = qsae__utf8_len(*c);
        id = code < QSAE__CHAR_IDS ? b->char_ids[code] : qsae__vocab_find(&b->vocab, c, n);
        if (id >= 0) {
            if (waiting)
                status = add_symbol(b, s, b->unk, ids);
            waiting = false;
            if (status == QSAE_OK)
                status = add_symbol(b, s, id, ids);
            continue;
        }
        if (b->late_bytes) {
            status = finish(b, s, ids);
            if (status == QSAE_OK)
                status = emit_bytes(b, c, n, ids);
            continue;
        }
        status = add_bytes(b, s, c, n, ids, &done);
        if (done || b->unk_token == NULL || status != QSAE_OK)
            continue;
        if (b->unk < 0)
            return qsae__fail(QSAE_EFORMAT, "U+%04X is in no token and the unknown token \"%s\" is "
                              "not in the vocabulary", (unsigned)code, b->unk_token);
        if (waiting && !b->fuse_unk)
            status = add_symbol(b, s, b->unk, ids);
        waiting = true;
    }
    if (status == QSAE_OK && waiting)
        status = add_symbol(b, s, b->unk, ids);
    return status;
}

int32_t qsae__bpe_word(const qsae__bpe *b, qsae__bpe_scratch *s, const char *text, size_t size,
                       qsae__ids *ids)
{
    int32_t status;

    if (b->ignore_merges || (b->whole_newlines && size > 0 && text[0] == '\n')) {
        const int32_t id = qsae__vocab_find(&b->vocab, text, size);
        if (id >= 0 && id < b->n_tokens)
            return qsae__ids_add(ids, &id, 1);
    }
    s->n_symbols = 0;
    status = add_word(b, s, text, size, ids);
    return status == QSAE_OK ? finish(b, s, ids) : status;
}
