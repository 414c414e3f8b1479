/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The tokenizer in a GGUF file (tokenizer.ggml.*, ggml's docs/gguf.md), turned into the parts that
 * tokenizer.json is turned into, with the ids of llama.cpp where special tokens are parsed.
 */
#include "text/gguf.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "text/utf8.h"

#define KEY(name) "tokenizer.ggml." name
#define CHARACTERS(bytes) ((int64_t)((bytes) / 64) + 4096) /* that are no tokens */
#define MARK "\xe2\x96\x81" /* U+2581, a space in SentencePiece */

/* What is read before the tokenizer is built. */
struct source {
    const qsae__gguf *file;
    const char *path;
    qsae__gguf_kind kind;
    qsae__slice *texts;   /* [n + extra] tokens, then characters that only occur inside them */
    int32_t *types;       /* [n] */
    float *scores;        /* [n] or NULL */
    int64_t n;
    qsae__gguf_array merges; /* of strings; empty if the pieces' scores say what is merged */
    bool add_bos, add_eos, prefix;
    bool strip_right;     /* special tokens swallow the white space behind them (Phi 3) */
};

/* A short string; "" if there is none. */
static int32_t read_name(const struct source *s, const char *key, bool required, char name[64])
{
    const char *text = "";
    uint64_t size = 0;
    const int32_t status = qsae__gguf_str(s->file, key, required, &text, &size, NULL);

    name[0] = '\0';
    if (status != QSAE_OK)
        return status;
    if (size > 63)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: %s: \"%.63s...\" is not supported", s->path, key,
                          text);
    memcpy(name, text, (size_t)size);
    name[size] = '\0';
    return QSAE_OK;
}

static int32_t read_kind(struct source *s)
{
    char model[64], pre[64];
    int32_t status = read_name(s, KEY("model"), false, model);

    if (status == QSAE_OK && *model == '\0')
        return qsae__fail(QSAE_ENOENT, "%s: no tokenizer in this file (%s is missing)", s->path,
                          KEY("model"));
    if (status == QSAE_OK)
        status = read_name(s, KEY("pre"), false, pre);
    return status == QSAE_OK ? qsae__gguf_kind_of(model, pre, s->path, &s->kind) : status;
}

static int32_t read_texts(struct source *s, qsae_context *ctx)
{
    qsae__gguf_array a = { 0 };
    const uint8_t *at;
    int32_t status = qsae__gguf_get_array(s->file, KEY("tokens"), true, QSAE__GGUF_STRING, &a,
                                          NULL);

    if (status != QSAE_OK)
        return status;
    if (a.count < 1 || a.count >= INT32_MAX)
        return qsae__fail(QSAE_EFORMAT, "%s: " KEY("tokens") ": %lld tokens", s->path,
                          (long long)a.count);
    s->n = a.count;
    s->texts = qsae__alloc_array(ctx, s->n, sizeof *s->texts);
    if (s->texts == NULL)
        return QSAE_ENOMEM;
    at = a.data;
    for (int64_t i = 0; i < s->n; i++) {
        uint64_t size;
        size_t bad;
        qsae__gguf_next(&at, &s->texts[i].data, &size);
        s->texts[i].size = (size_t)size;
        if (!qsae__utf8_check(s->texts[i].data, s->texts[i].size, &bad))
            return qsae__fail(QSAE_EFORMAT, "%s: " KEY("tokens") ": token %lld is not UTF-8",
                              s->path, (long long)i);
    }
    return QSAE_OK;
}

/* An array with one number per token; a->data stays NULL if there is none. */
static int32_t read_numbers(const struct source *s, const char *key, int32_t type,
                            qsae__gguf_array *a)
{
    const int32_t status = qsae__gguf_get_array(s->file, key, false, type, a, NULL);

    if (status == QSAE_OK && a->data != NULL && a->count != s->n)
        return qsae__fail(QSAE_EFORMAT, "%s: %s: %lld numbers for %lld tokens", s->path, key,
                          (long long)a->count, (long long)s->n);
    return status;
}

/* "<0xHH>", as a token that stands for a byte is called where texts are characters. */
static bool names_byte(const qsae__slice *text)
{
    static const char digits[] = "0123456789abcdefABCDEF";

    return text->size == 6 && memcmp(text->data, "<0x", 3) == 0 && text->data[5] == '>' &&
           memchr(digits, text->data[3], sizeof digits - 1) != NULL &&
           memchr(digits, text->data[4], sizeof digits - 1) != NULL;
}

static int32_t read_types(struct source *s, qsae_context *ctx)
{
    static const char marker[] = "<|tool_response>"; /* with it "</s>" is no end token */
    qsae__gguf_array a = { 0 };
    bool normal_s = false;
    int32_t status = read_numbers(s, KEY("token_type"), QSAE__GGUF_I32, &a);

    if (status != QSAE_OK)
        return status;
    s->types = qsae__alloc_array(ctx, s->n, sizeof *s->types);
    if (s->types == NULL)
        return QSAE_ENOMEM;
    for (int64_t i = 0; i < s->n; i++) {
        const double type = a.data == NULL ? QSAE__TOKEN_NORMAL : qsae__gguf_element(&a, i);
        if (!(type >= QSAE__TOKEN_UNDEFINED && type <= QSAE__TOKEN_BYTE))
            return qsae__fail(QSAE_EFORMAT, "%s: " KEY("token_type") ": token %lld: expected 0 to "
                              "%d, found %.0f", s->path, (long long)i, QSAE__TOKEN_BYTE, type);
        if (type == QSAE__TOKEN_BYTE && !s->kind.bytes && !names_byte(&s->texts[i]))
            return qsae__fail(QSAE_EFORMAT, "%s: " KEY("tokens") ": token %lld is a byte by its "
                              "type, and not called <0xHH>", s->path, (long long)i);
        s->types[i] = (int32_t)type;
        normal_s |= s->texts[i].size == sizeof marker - 1 &&
                    memcmp(s->texts[i].data, marker, sizeof marker - 1) == 0;
    }
    for (int64_t i = 0; i < s->n; i++)
        s->types[i] = qsae__gguf_type_of(s->texts[i], s->types[i], normal_s);
    return QSAE_OK;
}

static int32_t read_scores(struct source *s, qsae_context *ctx)
{
    qsae__gguf_array a = { 0 };
    int32_t status = read_numbers(s, KEY("scores"), -1, &a);

    if (status != QSAE_OK || a.data == NULL)
        return status;
    if (a.type != QSAE__GGUF_F32 && a.type != QSAE__GGUF_I32)
        return qsae__fail(QSAE_EFORMAT, "%s: " KEY("scores") ": expected an array of f32 or i32",
                          s->path);
    s->scores = qsae__alloc_array(ctx, s->n, sizeof *s->scores);
    if (s->scores == NULL)
        return QSAE_ENOMEM;
    for (int64_t i = 0; i < s->n; i++) {
        s->scores[i] = (float)qsae__gguf_element(&a, i);
        if (isnan(s->scores[i]))
            return qsae__fail(QSAE_EFORMAT, "%s: " KEY("scores") ": token %lld has no number",
                              s->path, (long long)i);
    }
    return QSAE_OK;
}

/* One of the special tokens; `id` holds the default, which counts only if there is such a token. */
static int32_t read_id(const struct source *s, const char *key, int32_t *id)
{
    int64_t v = *id < s->n ? *id : -1;
    const int32_t status = qsae__gguf_i64(s->file, key, false, 0, s->n - 1, &v, NULL);

    *id = (int32_t)v;
    return status;
}

static int32_t read_flags(struct source *s, qsae_tokenizer *t)
{
    int64_t pad = -1;
    bool add_bos = s->kind.add_bos;
    int32_t said_bos = 0, status;

    t->bos = s->kind.bos;
    t->eos = s->kind.eos;
    t->unk = s->kind.unk;
    s->prefix = s->kind.prefix;
    s->add_eos = false;
    status = read_id(s, KEY("bos_token_id"), &t->bos);
    if (status == QSAE_OK)
        status = read_id(s, KEY("eos_token_id"), &t->eos);
    if (status == QSAE_OK)
        status = read_id(s, KEY("unknown_token_id"), &t->unk);
    if (status == QSAE_OK) /* often out of range in files in use, and never part of a text */
        status = qsae__gguf_i64(s->file, KEY("padding_token_id"), false, INT64_MIN, INT64_MAX, &pad,
                                NULL);
    t->pad = pad >= 0 && pad < s->n ? (int32_t)pad : -1;
    if (status == QSAE_OK)
        status = qsae__gguf_bool(s->file, KEY("add_bos_token"), false, &add_bos, &said_bos);
    if (status == QSAE_OK)
        status = qsae__gguf_bool(s->file, KEY("add_eos_token"), false, &s->add_eos, NULL);
    if (status == QSAE_OK && s->kind.prefix)
        status = qsae__gguf_bool(s->file, KEY("add_space_prefix"), false, &s->prefix, NULL);
    if (status != QSAE_OK)
        return status;
    if ((said_bos && add_bos && t->bos < 0) || (s->add_eos && t->eos < 0))
        return qsae__fail(QSAE_EFORMAT, "%s: %s is true, but there is no such token", s->path,
                          t->bos < 0 ? KEY("add_bos_token") : KEY("add_eos_token"));
    s->add_bos = (add_bos || s->kind.force_bos) && t->bos >= 0;
    return QSAE_OK;
}

/* llama.cpp knows Phi 3 by its name. */
static int32_t read_quirks(struct source *s)
{
    const char *text = "";
    uint64_t size = 0;
    char name[256];
    const int32_t status = qsae__gguf_str(s->file, "general.name", false, &text, &size, NULL);

    if (status != QSAE_OK)
        return status;
    snprintf(name, sizeof name, "%.*s", (int)qsae__min_i64((int64_t)size, 255), text);
    for (char *c = name; *c != '\0'; c++)
        if (*c >= 'A' && *c <= 'Z') /* whatever the host's locale */
            *c = (char)(*c + ('a' - 'A'));
    s->strip_right = strstr(name, "phi-3") != NULL || strstr(name, "phi3") != NULL;
    return QSAE_OK;
}

/* Merges "left right"; the space is not the first byte. */
static int32_t read_merges(const struct source *s, qsae__bpe *b)
{
    const uint8_t *at = s->merges.data;
    qsae__strbuf joined;
    int32_t status = qsae__bpe_reserve(b, s->merges.count, s->path);

    qsae__strbuf_init(&joined, b->ctx);
    for (int64_t i = 0; i < s->merges.count && status == QSAE_OK; i++) {
        const char *text, *space;
        uint64_t size;
        qsae__gguf_next(&at, &text, &size);
        space = size < 2 ? NULL : memchr(text + 1, ' ', (size_t)size - 1);
        if (space == NULL) {
            status = qsae__fail(QSAE_EFORMAT, "%s: " KEY("merges") "[%lld]: expected \"a b\"",
                                s->path, (long long)i);
        } else {
            const qsae__slice side[2] = {
                { text, (size_t)(space - text) },
                { space + 1, (size_t)(text + size - space) - 1 },
            };
            status = qsae__bpe_add_texts(b, side, (uint32_t)i, true, s->path, i, &joined);
        }
    }
    qsae__strbuf_free(&joined);
    return status;
}

static int32_t build_model(struct source *s, qsae_tokenizer *t)
{
    qsae__bpe *b = &t->model;
    qsae__slice *characters = NULL;
    int64_t n_characters = 0, capacity = s->n;
    int32_t status = QSAE_OK;

    b->ctx = b->joints.ctx = t->ctx;
    if (!s->kind.bytes)
        status = qsae__pieces_characters(t->ctx, s->texts, s->n,
                                         CHARACTERS(qsae__gguf_size(s->file)), s->path,
                                         &characters, &n_characters);
    if (status == QSAE_OK)
        status = qsae__widen(t->ctx, &s->texts, &capacity, s->n + n_characters, sizeof *s->texts);
    if (status == QSAE_OK && n_characters > 0)
        memcpy(s->texts + s->n, characters, (size_t)n_characters * sizeof *characters);
    qsae__free(t->ctx, characters);
    if (status == QSAE_OK)
        status = qsae__vocab_build(&b->vocab, t->ctx, s->texts, s->n + n_characters, false,
                                   s->path);
    if (status != QSAE_OK)
        return status;
    b->n_tokens = (int32_t)s->n;
    b->byte_fallback = b->late_bytes = !s->kind.bytes;
    b->ignore_merges = s->kind.ignore_merges;
    b->whole_newlines = s->kind.whole_newlines;
    qsae__bpe_fill_tables(b);
    b->unk = t->unk;
    return s->kind.pieces
               ? qsae__pieces_merges(b, s->scores, qsae__gguf_size(s->file), s->path)
               : read_merges(s, b);
}

static bool is_text(qsae__slice text, const char *s)
{
    return text.size == strlen(s) && memcmp(text.data, s, text.size) == 0;
}

/* Control, unknown and user-defined tokens are found in the raw text. */
static int32_t add_tokens(const struct source *s, qsae_tokenizer *t)
{
    int64_t n = 0;
    size_t bytes = 0; /* no more than the file has, and a NUL each */
    char *to;

    t->vocab = s->n;
    t->raw.most = t->normalized.most = QSAE__ADDED_NODES(qsae__gguf_size(s->file));
    for (int64_t i = 0; i < s->n; i++)
        if (s->types[i] >= QSAE__TOKEN_UNKNOWN && s->types[i] <= QSAE__TOKEN_USER_DEFINED) {
            n++;
            bytes += s->texts[i].size + 1;
        }
    t->added = qsae__calloc(t->ctx, n, sizeof *t->added);
    t->contents = qsae__calloc(t->ctx, n, sizeof *t->contents);
    t->contents_text = to = qsae__alloc(t->ctx, bytes);
    if (t->added == NULL || t->contents == NULL || to == NULL)
        return QSAE_ENOMEM;
    for (int64_t i = 0; i < s->n; i++) {
        const qsae__slice text = s->texts[i];
        qsae__added *a = &t->added[t->n_added];
        if (s->types[i] < QSAE__TOKEN_UNKNOWN || s->types[i] > QSAE__TOKEN_USER_DEFINED)
            continue;
        if (text.size > 0 && memchr(text.data, '\0', text.size) != NULL)
            return qsae__fail(QSAE_EUNSUPPORTED, "%s: " KEY("tokens") ": special token %lld holds "
                              "U+0000", s->path, (long long)i);
        t->contents[t->n_added++] = to;
        if (text.size > 0)
            memcpy(to, text.data, text.size);
        to[text.size] = '\0';
        to += text.size + 1;
        a->id = (int32_t)i;
        a->special = s->types[i] != QSAE__TOKEN_USER_DEFINED;
        a->rstrip = s->strip_right && !is_text(text, "<unk>") && !is_text(text, "<s>") &&
                    !is_text(text, "<|endoftext|>");
    }
    const int32_t status = qsae__added_ready(t);
    return status == QSAE_OK ? status : qsae__fail_in(status, "%s", s->path);
}

/* The steps before the model, written as tokenizer.json has them. */
static int32_t build_steps(const struct source *s, qsae_tokenizer *t)
{
    json_t *normalizers = json_array(), *splits = json_array(), *normalizer, *splitter;
    int32_t status = QSAE_ENOMEM;
    int failed = normalizers == NULL || splits == NULL;

    if (s->kind.spaces && s->prefix)
        failed |= json_array_append_new(normalizers, json_pack("{ssss}", "type", "Prepend",
                                                               "prepend", MARK));
    if (s->kind.spaces)
        failed |= json_array_append_new(normalizers, json_pack(
            "{sss{ss}ss}", "type", "Replace", "pattern", "String", " ", "content", MARK));
    for (size_t i = 0; s->kind.regex[i] != NULL; i++)
        failed |= json_array_append_new(splits, json_pack(
            "{sss{ss}ss}", "type", "Split", "pattern", "Regex", s->kind.regex[i], "behavior",
            "Isolated"));
    if (s->kind.bytes)
        failed |= json_array_append_new(splits, json_pack(
            "{sssbsb}", "type", "ByteLevel", "add_prefix_space", 0, "use_regex", 0));
    normalizer = json_pack("{sssO?}", "type", "Sequence", "normalizers", normalizers);
    splitter = json_pack("{sssO?}", "type", "Sequence", "pretokenizers", splits);
    if (failed || normalizer == NULL || splitter == NULL) {
        qsae__fail(status, "%s: out of memory", s->path);
        goto fail;
    }
    status = qsae__normalizer_read(&t->normalizer, normalizer, s->path);
    if (status == QSAE_OK)
        status = qsae__pretokenizer_read(&t->pretokenizer, splitter, s->path);
fail:
    json_decref(normalizer);
    json_decref(splitter);
    json_decref(normalizers);
    json_decref(splits);
    return status;
}

/* Everything that decides about ids, however the file says it. */
static int32_t hash_source(const struct source *s, qsae_tokenizer *t)
{
    qsae__hasher *h = NULL;
    const uint8_t *at = s->merges.data;
    const int32_t status = qsae__hasher_open(t->ctx, &h);

    if (status != QSAE_OK)
        return status;
    qsae__hasher_string(h, "gguf");
    for (size_t i = 0; s->kind.regex[i] != NULL; i++)
        qsae__hasher_string(h, s->kind.regex[i]);
    qsae__hasher_i64(h, s->kind.pieces | s->kind.spaces << 1 | s->kind.bytes << 2 |
                     s->kind.ignore_merges << 3 | s->prefix << 4 | s->add_bos << 5 |
                     s->add_eos << 6 | s->strip_right << 7);
    qsae__hasher_i64(h, t->bos);
    qsae__hasher_i64(h, t->eos);
    qsae__hasher_i64(h, t->unk);
    qsae__hasher_i64(h, t->pad);
    qsae__hasher_i64(h, s->n);
    for (int64_t i = 0; i < s->n; i++) {
        qsae__hasher_i64(h, (int64_t)s->texts[i].size);
        qsae__hasher_update(h, s->texts[i].data, s->texts[i].size);
    }
    qsae__hasher_update(h, s->types, (size_t)s->n * sizeof *s->types);
    if (s->kind.pieces && s->scores != NULL)
        qsae__hasher_update(h, s->scores, (size_t)s->n * sizeof *s->scores);
    for (int64_t i = 0; i < s->merges.count; i++) {
        const char *text;
        uint64_t size;
        qsae__gguf_next(&at, &text, &size);
        qsae__hasher_i64(h, (int64_t)size);
        qsae__hasher_update(h, text, (size_t)size);
    }
    qsae__hasher_hex(h, t->hash);
    qsae__hasher_close(t->ctx, &h);
    return QSAE_OK;
}

int32_t qsae__tokenizer_read_gguf(qsae_tokenizer *t, const qsae__gguf *file)
{
    struct source s = { .file = file, .path = qsae__gguf_path(file) };
    int32_t status = read_kind(&s);

    t->gguf = true;
    if (status == QSAE_OK)
        status = read_texts(&s, t->ctx);
    if (status == QSAE_OK)
        status = read_types(&s, t->ctx);
    if (status == QSAE_OK)
        status = read_scores(&s, t->ctx);
    if (status == QSAE_OK)
        status = read_flags(&s, t);
    if (status == QSAE_OK)
        status = read_quirks(&s);
    if (status == QSAE_OK && !s.kind.pieces)
        status = qsae__gguf_get_array(file, KEY("merges"), true, QSAE__GGUF_STRING, &s.merges,
                                      NULL);
    if (status == QSAE_OK)
        status = hash_source(&s, t);
    if (status == QSAE_OK)
        status = build_model(&s, t);
    if (status == QSAE_OK)
        status = build_steps(&s, t);
    if (status == QSAE_OK)
        status = add_tokens(&s, t);
    if (status == QSAE_OK && s.add_bos)
        status = qsae__ids_add(&t->prefix, &t->bos, 1);
    if (status == QSAE_OK && s.add_eos)
        status = qsae__ids_add(&t->suffix, &t->eos, 1);
    for (int64_t i = 0; i < s.n && status == QSAE_OK; i++)
        if (s.types[i] == QSAE__TOKEN_UNUSED)
            t->known[i] = 4;
    if (status == QSAE_OK)
        status = qsae__views_build(t, NULL);
    qsae__free(t->ctx, s.texts);
    qsae__free(t->ctx, s.types);
    qsae__free(t->ctx, s.scores);
    return status;
}
