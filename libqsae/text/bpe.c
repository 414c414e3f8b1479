/* SPDX-License-Identifier: BSD-2-Clause */
#include "text/bpe.h"

#include <string.h>

#include "text/pretokenize.h"
#include "text/utf8.h"

#define SHORT 24 /* symbols up to which searching the best pair anew is faster than a heap */

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
    qsae__free(s->ctx, s->cache);
    qsae__free(s->ctx, s->mapped);
    s->cache = NULL;
    s->mapped = NULL;
    s->cache_slots = s->mapped_capacity = 0;
    s->symbols = NULL;
    s->heap = NULL;
}

const qsae__merge *qsae__bpe_find(const qsae__bpe *b, int32_t left, int32_t right)
{
    const uint64_t pair = qsae__pair(left, right), mask = (uint64_t)(b->n_merges - 1);

    for (uint64_t i = qsae__seed_hash(&b->ctx->seed, pair) & mask;; i = (i + 1) & mask) {
        if (b->merges[i].pair == pair)
            return &b->merges[i];
        if (b->merges[i].pair == UINT64_MAX)
            return NULL;
    }
}

/* Rank and token of a pair; UINT32_MAX if it does not merge. */
static void look_up(const qsae__bpe *b, int32_t left, int32_t right, uint32_t *rank, int32_t *to)
{
    const qsae__merge *const m = qsae__bpe_find(b, left, right);

    *rank = m != NULL ? m->rank : UINT32_MAX;
    *to = m != NULL ? m->id : -1;
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

/* The same of few symbols: the best pair is searched again after every merge. */
static int32_t finish_short(const qsae__bpe *b, const qsae__symbol *y, int32_t n, qsae__ids *ids)
{
    int32_t id[SHORT], to[SHORT], status = QSAE_OK;
    uint32_t rank[SHORT];

    for (int32_t i = 0; i < n; i++)
        id[i] = y[i].id;
    for (int32_t i = 0; i + 1 < n; i++)
        look_up(b, id[i], id[i + 1], &rank[i], &to[i]);
    while (n > 1) {
        int32_t best = 0;
        for (int32_t i = 1; i + 1 < n; i++)
            if (rank[i] < rank[best])
                best = i;
        if (rank[best] == UINT32_MAX)
            break;
        id[best] = to[best];
        n--;
        for (int32_t i = best + 1; i < n; i++) {
            id[i] = id[i + 1];
            rank[i - 1] = rank[i];
            to[i - 1] = to[i];
        }
        if (best > 0)
            look_up(b, id[best - 1], id[best], &rank[best - 1], &to[best - 1]);
        if (best + 1 < n)
            look_up(b, id[best], id[best + 1], &rank[best], &to[best]);
    }
    for (int32_t i = 0; i < n && status == QSAE_OK; i++)
        status = emit(b, id[i], ids);
    return status;
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
    if (n <= SHORT)
        return finish_short(b, y, n, ids);
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
    for (uint32_t turn = 0; s->n_heap > 0; turn++) {
        if (turn % 1024 == 0 && (status = qsae__canceled(s->cancel)) != QSAE_OK)
            return status;
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

static int32_t add_symbol(qsae__bpe_scratch *s, int32_t id)
{
    int32_t status;

    if (s->n_symbols >= INT32_MAX / 2)
        return qsae__fail(QSAE_EOVERFLOW, "a word of more than %d symbols", INT32_MAX / 2);
    status = qsae__grow(s->ctx, &s->symbols, &s->symbols_capacity, s->n_symbols + 1,
                        sizeof *s->symbols);
    if (status == QSAE_OK)
        s->symbols[s->n_symbols++].id = id;
    return status;
}

/* True if no merge joins the last symbol and this one. */
static bool cut_before(const qsae__bpe *b, const qsae__bpe_scratch *s, int32_t id)
{
    return s->n_symbols == 0 ||
           !qsae__pair_set_has(&b->joints, qsae__pair(s->symbols[s->n_symbols - 1].id, id));
}

static int32_t next_symbol(const qsae__bpe *b, qsae__bpe_scratch *s, int32_t id, qsae__ids *ids)
{
    const int32_t status = s->n_symbols > 0 && cut_before(b, s, id) ? finish(b, s, ids) : QSAE_OK;

    return status == QSAE_OK ? add_symbol(s, id) : status;
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
        status = next_symbol(b, s, b->byte_ids[(uint8_t)c[i]], ids);
    return status;
}

static inline int32_t char_id(const qsae__bpe *b, uint32_t code, const char *c, size_t n)
{
    return code < QSAE__CHAR_IDS ? b->char_ids[code] : qsae__vocab_find(&b->vocab, c, n);
}

/* Bytes from text up to the first place that no merge crosses. 0 if a character without a token
 * comes first, unless that cuts by itself. */
static size_t segment(const qsae__bpe *b, const char *text, size_t size)
{
    uint32_t row = 0;
    int32_t last = -1;

    for (size_t i = 0, n; i < size; i += n) {
        const char *const c = text + i;
        const uint32_t code = qsae__utf8_get(c), column = qsae__bpe_near(code);
        int32_t id;
        n = qsae__utf8_len(*c);
        id = char_id(b, code, c, n);
        if (id < 0)
            return b->late_bytes ? i : 0;
        if (i > 0 && (row < QSAE__NEAR && column < QSAE__NEAR
                          ? (b->near[row][column / 64] >> column % 64 & 1) == 0
                          : !qsae__pair_set_has(&b->joints, qsae__pair(last, id))))
            return i;
        row = column;
        last = id;
    }
    return size;
}

/* Appends the ids of a segment: its characters are tokens, and it is merged by itself. */
static int32_t add_segment(const qsae__bpe *b, qsae__bpe_scratch *s, const char *text, size_t size,
                           bool cached, qsae__ids *ids)
{
    qsae__cached *const slot = cached ? qsae__bpe_cached(s, text, size) : NULL;
    const int64_t before = ids->count;
    int32_t status = QSAE_OK;

    if (qsae__bpe_cached_is(slot, text, size))
        return qsae__ids_add(ids, slot->ids, slot->n);
    for (size_t i = 0, n; i < size && status == QSAE_OK; i += n) {
        n = qsae__utf8_len(text[i]);
        status = add_symbol(s, char_id(b, qsae__utf8_get(text + i), text + i, n));
    }
    if (status == QSAE_OK)
        status = finish(b, s, ids);
    if (status == QSAE_OK)
        qsae__bpe_cached_set(slot, text, size, ids, before);
    return status;
}

/* Symbols of a word. An unknown token waits until a known character comes: so do the crate's. */
static int32_t add_word(const qsae__bpe *b, qsae__bpe_scratch *s, const char *text, size_t size,
                        bool cached, qsae__ids *ids)
{
    bool waiting = false, done;
    int32_t status = QSAE_OK;

    for (size_t i = 0, n; i < size && status == QSAE_OK; i += n) {
        const char *c = text + i;
        const uint32_t code = qsae__utf8_get(c);
        int32_t id;
        n = qsae__utf8_len(*c);
        id = char_id(b, code, c, n);
        if ((status = qsae__canceled(s->cancel)) != QSAE_OK)
            return status;
        if (id >= 0) {
            size_t whole = 0;
            if (waiting)
                status = next_symbol(b, s, b->unk, ids);
            waiting = false;
            if (status == QSAE_OK && cut_before(b, s, id))
                whole = segment(b, c, size - i);
            if (whole > 0) {
                n = whole;
                status = finish(b, s, ids);
                if (status == QSAE_OK)
                    status = add_segment(b, s, c, n, cached, ids);
            } else if (status == QSAE_OK) {
                status = next_symbol(b, s, id, ids);
            }
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
            status = next_symbol(b, s, b->unk, ids);
        waiting = true;
    }
    if (status == QSAE_OK && waiting)
        status = next_symbol(b, s, b->unk, ids);
    return status;
}

static int32_t word(const qsae__bpe *b, qsae__bpe_scratch *s, const char *text, size_t size,
                    bool cached, qsae__ids *ids)
{
    int32_t status;

    if (b->ignore_merges || (b->whole_newlines && size > 0 && text[0] == '\n')) {
        const int32_t id = qsae__vocab_find(&b->vocab, text, size);
        if (id >= 0 && id < b->n_tokens)
            return qsae__ids_add(ids, &id, 1);
    }
    s->n_symbols = 0;
    status = add_word(b, s, text, size, cached, ids);
    return status == QSAE_OK ? finish(b, s, ids) : status;
}

int32_t qsae__bpe_word(const qsae__bpe *b, qsae__bpe_scratch *s, const char *text, size_t size,
                       qsae__ids *ids)
{
    return word(b, s, text, size, true, ids);
}

int32_t qsae__bpe_map(qsae__bpe_scratch *s, const char *text, size_t size, size_t *n)
{
    int32_t status;

    *n = 0;
    if (size > INT64_MAX / 2)
        return qsae__fail(QSAE_EOVERFLOW, "a word of %zu bytes", size);
    status = qsae__grow(s->ctx, &s->mapped, &s->mapped_capacity, (int64_t)size * 2, 1);
    for (size_t i = 0; i < size && status == QSAE_OK; i++)
        *n += qsae__utf8_put(qsae__byte_char((uint8_t)text[i]), s->mapped + *n);
    return status;
}

int32_t qsae__bpe_bytes(const qsae__bpe *b, qsae__bpe_scratch *s, const char *text, size_t size,
                        qsae__ids *ids)
{
    qsae__cached *const slot = qsae__bpe_cached(s, text, size);
    const int64_t before = ids->count;
    size_t n;
    int32_t status;

    if (qsae__bpe_cached_is(slot, text, size))
        return qsae__ids_add(ids, slot->ids, slot->n);
    status = qsae__bpe_map(s, text, size, &n);
    if (status == QSAE_OK)
        status = word(b, s, s->mapped, n, false, ids);
    if (status == QSAE_OK)
        qsae__bpe_cached_set(slot, text, size, ids, before);
    return status;
}
