/* SPDX-License-Identifier: BSD-2-Clause */
#include <string.h>

#include "formats/members.h"
#include "text/bpe.h"

/* "" and null are fine, anything else is not run. */
static int32_t refuse_string(const json_t *json, const char *where, const char *key)
{
    const json_t *v = json_object_get(json, key);
    const char *const text = json_string_value(v);

    if (qsae__json_absent(v) || (text != NULL && *text == '\0'))
        return QSAE_OK;
    return qsae__fail(QSAE_EUNSUPPORTED, "%s: %s is not supported", where, key);
}

static int32_t read_flags(qsae__bpe *b, const json_t *json, const char *where)
{
    const char *type = "BPE", *unk = NULL;
    double dropout = 0;
    int32_t status = qsae__json_str(json, where, "type", false, &type, NULL);

    if (status == QSAE_OK && strcmp(type, "BPE") != 0)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: model type \"%s\", only BPE and Unigram are "
                          "supported", where, type);
    if (status == QSAE_OK)
        status = qsae__json_f64(json, where, "dropout", false, &dropout, NULL);
    if (status == QSAE_OK && dropout != 0)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: dropout is not supported", where);
    if (status == QSAE_OK)
        status = refuse_string(json, where, "continuing_subword_prefix");
    if (status == QSAE_OK)
        status = refuse_string(json, where, "end_of_word_suffix");
    if (status == QSAE_OK)
        status = qsae__json_bool(json, where, "byte_fallback", false, &b->byte_fallback, NULL);
    if (status == QSAE_OK)
        status = qsae__json_bool(json, where, "fuse_unk", false, &b->fuse_unk, NULL);
    if (status == QSAE_OK)
        status = qsae__json_bool(json, where, "ignore_merges", false, &b->ignore_merges, NULL);
    if (status == QSAE_OK)
        status = qsae__json_str(json, where, "unk_token", false, &unk, NULL);
    if (status == QSAE_OK && unk != NULL) {
        b->unk_token = qsae__strdup(b->ctx, unk);
        if (b->unk_token == NULL)
            return QSAE_ENOMEM;
    }
    return status;
}

bool qsae__merge_line(const char **at, const char *end, qsae__slice *line)
{
    while (*at < end) {
        const char *const p = *at, *const stop = memchr(p, '\n', (size_t)(end - p));
        size_t n = (size_t)((stop != NULL ? stop : end) - p);
        *at = stop != NULL ? stop + 1 : end;
        n -= n > 0 && p[n - 1] == '\r';
        *line = (qsae__slice){ p, n };
        if (n < 8 || memcmp(p, "#version", 8) != 0)
            return true;
    }
    return false;
}

/* The two sides of "a b". */
static bool split_sides(const char *s, size_t n, qsae__slice side[2])
{
    const char *const space = memchr(s, ' ', n);
    const size_t left = space == NULL ? n : (size_t)(space - s);

    if (space == NULL || memchr(space + 1, ' ', n - left - 1) != NULL)
        return false;
    side[0] = (qsae__slice){ s, left };
    side[1] = (qsae__slice){ space + 1, n - left - 1 };
    return true;
}

/* Merges on the way from their text into the model. */
struct merges {
    const qsae__model_text *text;
    const char *at, *where;  /* at: of lines */
    qsae__members list;
    char *scratch;           /* what the strings of a merge stand for; [room] */
    size_t room;
    int64_t index;
};

static int32_t no_merge(const struct merges *r)
{
    return qsae__fail(QSAE_EFORMAT, "%s: merges[%lld]: expected \"a b\" or [\"a\", \"b\"]",
                      r->where, (long long)r->index);
}

/* The sides of an element: "a b" or ["a", "b"]; they lie in r->scratch. */
static int32_t read_sides(struct merges *r, const qsae__member *e, qsae__slice side[2])
{
    qsae__members two;
    qsae__member s;
    char *to = r->scratch;
    bool more;
    int32_t status = QSAE_OK;

    if (e->value_size > r->room)
        return qsae__fail(QSAE_EIO, "%s: file changed while it was read", r->where);
    if (*e->value == '"') {
        status = qsae__json_decode(e->value, e->value_size, r->where, to);
        return status != QSAE_OK || split_sides(to, strlen(to), side) ? status : no_merge(r);
    }
    if (*e->value != '[')
        return no_merge(r);
    status = qsae__elements_open(&two, e->value, e->value_size, r->where);
    for (int i = 0; i < 3 && status == QSAE_OK; i++) {
        status = qsae__members_next(&two, &s, &more);
        if (status != QSAE_OK)
            return status;
        if (more != (i < 2) || (more && *s.value != '"'))
            return no_merge(r);
        if (more && (status = qsae__json_decode(s.value, s.value_size, r->where, to)) == QSAE_OK) {
            side[i] = (qsae__slice){ to, strlen(to) };
            to += side[i].size + 1;
        }
    }
    return status;
}

/* The next merge; *more false: there is none. */
static int32_t next_merge(struct merges *r, qsae__slice side[2], bool *more)
{
    const qsae__cut *const c = &r->text->merges;
    qsae__member e;
    qsae__slice line;
    int32_t status;

    if (r->text->lines) {
        *more = qsae__merge_line(&r->at, c->text + c->size, &line);
        return !*more || split_sides(line.data, line.size, side) ? QSAE_OK : no_merge(r);
    }
    status = qsae__members_next(&r->list, &e, more);
    return *more ? read_sides(r, &e, side) : status;
}

/* How many merges there are, and what the longest takes. */
static int32_t measure(struct merges *r, int64_t *n)
{
    const qsae__cut *const c = &r->text->merges;
    const char *at = c->text;
    qsae__members list;
    qsae__member e;
    qsae__slice line;
    bool more = true;
    int32_t status;

    *n = 0;
    r->room = 1;
    if (r->text->lines) {
        while (qsae__merge_line(&at, c->text + c->size, &line))
            ++*n;
        return QSAE_OK;
    }
    status = qsae__elements_open(&list, c->text, c->size, r->where);
    while (status == QSAE_OK &&
           (status = qsae__members_next(&list, &e, &more)) == QSAE_OK && more) {
        ++*n;
        r->room = e.value_size > r->room ? e.value_size : r->room;
    }
    return status;
}

static int32_t read_merges(qsae__bpe *b, const qsae__model_text *text, const char *where)
{
    struct merges r = { .text = text, .where = where, .at = text->merges.text };
    qsae__strbuf joined;
    int64_t n;
    bool more = true;
    int32_t status = measure(&r, &n);

    /* A merge is a place to cut a token, so of all that differ there are fewer than bytes. */
    if (status == QSAE_OK)
        status = qsae__bpe_reserve(b, qsae__min_i64(n, qsae__vocab_bytes(&b->vocab)), where);
    if (status == QSAE_OK && !text->lines)
        status = qsae__elements_open(&r.list, text->merges.text, text->merges.size, where);
    r.scratch = status == QSAE_OK ? qsae__alloc(b->ctx, r.room) : NULL;
    if (status == QSAE_OK && r.scratch == NULL)
        status = QSAE_ENOMEM;
    qsae__strbuf_init(&joined, b->ctx);
    for (; status == QSAE_OK; r.index++) {
        qsae__slice side[2];
        status = next_merge(&r, side, &more);
        if (status != QSAE_OK || !more)
            break;
        if (r.index == n)
            status = qsae__fail(QSAE_EIO, "%s: file changed while it was read", where);
        else
            status = qsae__bpe_add_texts(b, side, (uint32_t)r.index, false, where, r.index,
                                         &joined);
    }
    qsae__strbuf_free(&joined);
    qsae__free(b->ctx, r.scratch);
    return status;
}

int32_t qsae__bpe_read(qsae__bpe *b, qsae_context *ctx, const json_t *json,
                       const qsae__model_text *text, const char *where, int64_t limit)
{
    int32_t status;

    memset(b, 0, sizeof *b);
    b->ctx = b->joints.ctx = ctx;
    status = read_flags(b, json, where);
    if (status == QSAE_OK)
        status = qsae__cut_expect(&text->vocab, where, '{');
    if (status == QSAE_OK && !text->lines)
        status = qsae__cut_expect(&text->merges, where, '[');
    if (status == QSAE_OK)
        status = qsae__vocab_read(&b->vocab, ctx, text->vocab.text, text->vocab.size, where,
                                  limit);
    if (status != QSAE_OK)
        return status;
    b->n_tokens = (int32_t)b->vocab.count;
    qsae__bpe_fill_tables(b);
    return read_merges(b, text, where);
}

void qsae__bpe_free(qsae__bpe *b)
{
    if (b->ctx == NULL)
        return;
    qsae__vocab_free(&b->vocab);
    qsae__pair_set_free(&b->joints);
    qsae__free(b->ctx, b->merges);
    qsae__free(b->ctx, b->unk_token);
    b->ctx = NULL;
}
