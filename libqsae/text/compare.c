/* SPDX-License-Identifier: BSD-2-Clause */
/* Whether two tokenizers are the same one, and where they part. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer.h"
#include "text/utf8.h"

#define SHOWN 60 /* bytes of a token in a message */

/* What an id is. */
struct entry {
    const char *text;   /* NULL = no token */
    size_t size;
    bool special, unused;
};

static struct entry entry_of(const qsae_tokenizer *t, int64_t id)
{
    struct entry e = { 0 };

    if (id >= t->vocab || qsae_tokenizer_token(t, (int32_t)id, &e.text, &e.size) != QSAE_OK)
        return (struct entry){ 0 };
    e.special = t->known[id] == 2;
    e.unused = t->known[id] == 4;
    return e;
}

/* U+2581 stands for a space only where a token is not special. */
static bool same_marked(const struct entry *a, const struct entry *b)
{
    size_t i = 0, k = 0;

    while (i < a->size && k < b->size) {
        const bool mark_a = a->size - i >= 3 && memcmp(a->text + i, "\xe2\x96\x81", 3) == 0;
        const bool mark_b = b->size - k >= 3 && memcmp(b->text + k, "\xe2\x96\x81", 3) == 0;
        const char x = mark_a ? ' ' : a->text[i], y = mark_b ? ' ' : b->text[k];
        if (x != y)
            return false;
        i += mark_a ? 3 : 1;
        k += mark_b ? 3 : 1;
    }
    return i == a->size && k == b->size;
}

static bool same_entry(const struct entry *a, const struct entry *b)
{
    if (a->text == NULL || b->text == NULL) /* a filler for an id without token is none either */
        return (a->text == NULL || a->unused) && (b->text == NULL || b->unused);
    if (a->special != b->special)
        return same_marked(a, b);
    return a->size == b->size && memcmp(a->text, b->text, a->size) == 0;
}

static int shown(const struct entry *e)
{
    return (int)(e->size < SHOWN ? e->size : SHOWN);
}

/* The first id that differs. */
static int32_t compare_entries(const qsae_tokenizer *a, const qsae_tokenizer *b)
{
    const int64_t n = qsae__max_i64(a->vocab, b->vocab);

    for (int64_t id = 0; id < n; id++) {
        const struct entry x = entry_of(a, id), y = entry_of(b, id);
        if (same_entry(&x, &y))
            continue;
        if (x.text == NULL || y.text == NULL) {
            const struct entry *const e = x.text == NULL ? &y : &x;
            char sizes[80] = "";
            if (a->vocab != b->vocab)
                snprintf(sizes, sizeof sizes, "vocabulary size: %lld and %lld; ",
                         (long long)a->vocab, (long long)b->vocab);
            return qsae__fail(QSAE_EMISMATCH, "%stoken %lld, \"%.*s\", is only in the %s", sizes,
                              (long long)id, shown(e), e->text, e == &x ? "first" : "second");
        }
        return qsae__fail(QSAE_EMISMATCH, "token %lld is \"%.*s\" in the first and \"%.*s\" in the "
                          "second", (long long)id, shown(&x), x.text, shown(&y), y.text);
    }
    return QSAE_OK;
}

static bool adds(const qsae_tokenizer *t)
{
    return t->bos >= 0 && t->prefix.count > 0 && t->prefix.data[0] == t->bos;
}

static int32_t compare_bos(const qsae_tokenizer *a, const qsae_tokenizer *b)
{
    /* tokenizer.json alone may not name a BOS that no text gets */
    if (a->bos != b->bos && a->bos >= 0 && b->bos >= 0)
        return qsae__fail(QSAE_EMISMATCH, "BOS is token %d in the first and %d in the second",
                          a->bos, b->bos);
    if (adds(a) != adds(b) && (a->gguf == b->gguf || a->bos != b->bos))
        return qsae__fail(QSAE_EMISMATCH, "BOS is put in front of a text by the %s only",
                          adds(a) ? "first" : "second");
    return QSAE_OK;
}

static int by_rank(const void *a, const void *b)
{
    const qsae__merge *const x = a, *const y = b;

    if (x->rank != y->rank)
        return x->rank < y->rank ? -1 : 1;
    return x->pair < y->pair ? -1 : x->pair > y->pair;
}

/* A symbol, whatever number a character that is no token has. */
static int32_t symbol_of(const qsae__bpe *b, uint32_t id)
{
    if ((int64_t)id < b->n_tokens)
        return (int32_t)id;
    return (int32_t)(INT32_MAX - qsae__utf8_get(b->vocab.bytes + b->vocab.offsets[id]));
}

/* Merges by rank; *n of them. */
static qsae__merge *list_merges(const qsae__bpe *b, int64_t *n)
{
    qsae__merge *const list = qsae__alloc_array(b->ctx, b->n_merges, sizeof *list);

    *n = 0;
    for (int64_t i = 0; i < b->n_merges && list != NULL; i++)
        if (b->merges[i].pair != UINT64_MAX) {
            list[*n] = b->merges[i];
            list[(*n)++].pair = qsae__pair(symbol_of(b, (uint32_t)(b->merges[i].pair >> 32)),
                                           symbol_of(b, (uint32_t)b->merges[i].pair));
        }
    if (*n > 1)
        qsort(list, (size_t)*n, sizeof *list, by_rank);
    return list;
}

static int32_t compare_merges(const qsae_tokenizer *a, const qsae_tokenizer *b, bool *same)
{
    int64_t n = 0, m = 0;
    qsae__merge *const x = list_merges(&a->model, &n), *const y = list_merges(&b->model, &m);

    *same = x != NULL && y != NULL && n == m && a->model.ignore_merges == b->model.ignore_merges;
    for (int64_t i = 0; i < n && *same; i++)
        *same = x[i].pair == y[i].pair &&
                (i == 0 || (x[i].rank == x[i - 1].rank) == (y[i].rank == y[i - 1].rank));
    qsae__free(a->ctx, x);
    qsae__free(b->ctx, y);
    return x != NULL && y != NULL ? QSAE_OK : QSAE_ENOMEM;
}

static bool same_scores(const qsae__unigram *a, const qsae__unigram *b)
{
    if (a->ctx == NULL || b->ctx == NULL)
        return a->ctx == b->ctx;
    return a->n_scores == b->n_scores &&
           memcmp(a->scores, b->scores, (size_t)a->n_scores * sizeof *a->scores) == 0;
}

/* Of steps of one kind: both have a text, or none has. */
static bool same_string(const char *a, const char *b)
{
    return a == b || strcmp(a, b) == 0;
}

static bool same_normalizer(const qsae__normalizer *a, const qsae__normalizer *b)
{
    bool same = a->count == b->count;

    for (int64_t i = 0; i < a->count && same; i++) {
        const qsae__norm_step *x = &a->steps[i], *y = &b->steps[i];
        same = x->kind == y->kind && x->form == y->form && x->left == y->left &&
               x->right == y->right && same_string(x->content, y->content) &&
               qsae__pattern_equal(x->pattern, y->pattern) &&
               qsae__charsmap_equal(x->map, y->map);
    }
    return same;
}

static int by_id(const void *a, const void *b)
{
    const qsae__added *const x = *(const qsae__added *const *)a;
    const qsae__added *const y = *(const qsae__added *const *)b;

    if (x->id != y->id)
        return x->id < y->id ? -1 : 1;
    return (x > y) - (x < y); /* of one list: the order of the file */
}

/* Steps in one spelling, one after the other. */
struct cursor {
    const qsae_tokenizer *t;
    int64_t step;
    bool second;        /* of a ByteLevel step its cut was given */
    qsae__pre_step now;
    const char *regex;  /* instead of now.pattern */
};

/* Cutting at spaces where the normalizer has replaced them all (Gemma); what is no match may be
 * what goes. */
static bool cuts_nothing(const qsae_tokenizer *t, const qsae__pre_step *s)
{
    const int64_t n = t->normalizer.count;
    const qsae__norm_step *const last = n > 0 ? &t->normalizer.steps[n - 1] : NULL;

    return last != NULL && last->kind == QSAE__NORM_REPLACE && s->kind == QSAE__PRE_SPLIT &&
           !(s->behavior == QSAE__REMOVED && s->invert) &&
           qsae__pattern_is(last->pattern, " ") && qsae__pattern_is(s->pattern, " ") &&
           strchr(last->content, ' ') == NULL;
}

/* Versions of transformers spell a cut as ByteLevel's own or as a Split before it, digits as Digits
 * or as a Split, and the pieces to keep as Isolated or, inverted, as Removed. */
static bool next_step(struct cursor *c)
{
    const qsae__pretokenizer *const p = &c->t->pretokenizer;

    while (c->step < p->count && cuts_nothing(c->t, &p->steps[c->step]))
        c->step++;
    if (c->step >= p->count)
        return false;
    c->now = p->steps[c->step];
    c->regex = NULL;
    if (c->now.kind == QSAE__PRE_BYTES && c->now.split && c->now.prepend == QSAE__PREPEND_NEVER) {
        c->second = !c->second;
        c->now.split = false;
        if (c->second) {
            c->now.kind = QSAE__PRE_SPLIT;
            c->now.prepend = 0;
        } else {
            c->now.pattern = NULL;
        }
    } else if (c->now.kind == QSAE__PRE_DIGITS) {
        c->now.kind = QSAE__PRE_SPLIT;
        c->regex = "\\p{N}";
    }
    if (c->now.kind == QSAE__PRE_BYTES) /* how its own cut is emitted */
        c->now.behavior = 0;
    if (c->now.kind == QSAE__PRE_SPLIT && c->now.behavior == QSAE__REMOVED && c->now.invert &&
        qsae__pattern_tiles(c->now.pattern)) {
        c->now.behavior = QSAE__ISOLATED;
        c->now.invert = false;
    }
    if (c->now.behavior == QSAE__ISOLATED || c->now.behavior == QSAE__CONTIGUOUS)
        c->now.invert = false;
    if (!c->second)
        c->step++;
    return true;
}

/* Of steps of one kind: a cut that was spelled without an expression has it in regex. */
static bool same_pattern(const struct cursor *a, const struct cursor *b)
{
    if (a->regex != NULL && b->regex != NULL)
        return strcmp(a->regex, b->regex) == 0;
    if (a->regex != NULL)
        return qsae__pattern_is_regex(b->now.pattern, a->regex);
    if (b->regex != NULL)
        return qsae__pattern_is_regex(a->now.pattern, b->regex);
    return qsae__pattern_equal(a->now.pattern, b->now.pattern);
}

static bool same_pretokenizer(const qsae_tokenizer *a, const qsae_tokenizer *b)
{
    struct cursor x = { .t = a }, y = { .t = b };
    bool more = true;

    while (more) {
        more = next_step(&x);
        if (next_step(&y) != more)
            return false;
        if (more && (x.now.kind != y.now.kind || x.now.behavior != y.now.behavior ||
                     x.now.prepend != y.now.prepend || x.now.invert != y.now.invert ||
                     x.now.split != y.now.split || !same_string(x.now.mark, y.now.mark) ||
                     !same_pattern(&x, &y)))
            return false;
    }
    return true;
}

/* Whether a character can be in no token: not if all bytes are tokens, by either way. */
static bool knows_all(const qsae_tokenizer *t)
{
    const qsae__pretokenizer *const p = &t->pretokenizer;
    bool bytes = true, level = p->count > 0 && p->steps[p->count - 1].kind == QSAE__PRE_BYTES;

    for (int i = 0; i < 256; i++) {
        bytes &= t->model.byte_ids[i] >= 0;
        level &= t->model.char_ids[qsae__byte_char((uint8_t)i)] >= 0;
    }
    return bytes || level;
}

static bool same_unknown(const qsae_tokenizer *a, const qsae_tokenizer *b)
{
    if (a->gguf || b->gguf || (knows_all(a) && knows_all(b)))
        return true;
    return a->model.fuse_unk == b->model.fuse_unk && a->model.unk == b->model.unk &&
           a->model.byte_fallback == b->model.byte_fallback;
}

/* By id, whatever the order of the files. */
static const qsae__added **sorted_added(const qsae_tokenizer *t)
{
    const qsae__added **const list = qsae__alloc_array(t->ctx, t->n_added, sizeof *list);

    for (int64_t i = 0; i < t->n_added && list != NULL; i++)
        list[i] = &t->added[i];
    if (list != NULL && t->n_added > 1)
        qsort(list, (size_t)t->n_added, sizeof *list, by_id);
    return list;
}

static int32_t compare_added(const qsae_tokenizer *a, const qsae_tokenizer *b, bool *same)
{
    const qsae__added **const list = sorted_added(a), **const other = sorted_added(b);
    const bool memory = list != NULL && other != NULL;

    *same = memory && a->n_added == b->n_added;
    for (int64_t i = 0; i < a->n_added && *same; i++) {
        const qsae__added *x = list[i], *y = other[i];
        *same = x->id == y->id && x->single_word == y->single_word && x->lstrip == y->lstrip &&
                x->rstrip == y->rstrip && x->normalized == y->normalized &&
                x->special == y->special &&
                strcmp(a->contents[x - a->added], b->contents[y - b->added]) == 0;
    }
    qsae__free(a->ctx, list);
    qsae__free(b->ctx, other);
    return memory ? QSAE_OK : QSAE_ENOMEM;
}

static bool same_ids(const qsae__ids *a, const qsae__ids *b)
{
    return a->count == b->count &&
           (a->count == 0 ||
            memcmp(a->data, b->data, (size_t)a->count * sizeof *a->data) == 0);
}

/* Names the parts that differ, separated by commas. Files of one kind must not differ in those that
 * make ids; between tokenizer.json and GGUF they are spelled differently anyway. */
static int32_t compare_parts(const qsae_tokenizer *a, const qsae_tokenizer *b, qsae__strbuf *out)
{
    bool merges = true, added = true;
    int32_t status = compare_merges(a, b, &merges);
    if (status == QSAE_OK)
        status = compare_added(a, b, &added);
    const struct {
        bool same, makes_ids;
        const char *name;
    } parts[] = {
        { merges, true, "merges" },
        { same_scores(&a->unigram, &b->unigram), true, "scores" },
        { same_normalizer(&a->normalizer, &b->normalizer), true, "normalizer" },
        { same_pretokenizer(a, b), true, "pre-tokenizer" },
        { same_unknown(a, b), true, "unknown characters" },
        { added, true, "added tokens" },
        { same_ids(&a->prefix, &b->prefix) && same_ids(&a->suffix, &b->suffix), false,
          "template" },
        { a->bos == b->bos, false, "BOS" },
        { a->eos == b->eos, false, "EOS" },
        { a->pad == b->pad, false, "padding token" },
        { a->unk == b->unk, false, "unknown token" },
    };

    for (size_t i = 0; i < sizeof parts / sizeof *parts && status == QSAE_OK; i++) {
        if (parts[i].same)
            continue;
        if (parts[i].makes_ids && a->gguf == b->gguf)
            return qsae__fail(QSAE_EMISMATCH, "the tokenizers' %s differ", parts[i].name);
        qsae__strbuf_addf(out, "%s%s", out->size > 0 ? ", " : "differ in: ", parts[i].name);
    }
    return status == QSAE_OK ? out->status : status;
}

int32_t qsae__tokenizer_compare(const qsae_tokenizer *a, const qsae_tokenizer *b, char *why,
                                size_t size)
{
    qsae__strbuf parts;
    int32_t status;

    if (a == NULL || b == NULL || (why == NULL && size > 0))
        return qsae__fail(QSAE_EINVAL, "qsae__tokenizer_compare: a NULL");
    if (size > 0)
        why[0] = '\0';
    /* one file, and beside it the same tokens named */
    if (strcmp(a->hash, b->hash) == 0 && a->bos == b->bos && a->eos == b->eos &&
        a->pad == b->pad && a->unk == b->unk)
        return QSAE_OK;
    qsae__strbuf_init(&parts, a->ctx);
    status = compare_entries(a, b);
    if (status == QSAE_OK)
        status = compare_bos(a, b);
    if (status == QSAE_OK)
        status = compare_parts(a, b, &parts);
    if (size > 0) {
        const char *const text = status != QSAE_OK ? qsae__message()
                                 : parts.size > 0 ? parts.data : "";
        const size_t n = strlen(text), kept = n < size ? n : size - 1;
        memcpy(why, text, kept);
        why[kept] = '\0';
    }
    qsae__strbuf_free(&parts);
    return status;
}
