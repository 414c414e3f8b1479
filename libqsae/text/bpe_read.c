/* SPDX-License-Identifier: BSD-2-Clause */
#include <stdio.h>
#include <string.h>

#include "text/bpe.h"
#include "text/utf8.h"

/* "" and null are fine, anything else is not run. */
static int32_t refuse_string(const json_t *json, const char *where, const char *key)
{
    const json_t *v = json_object_get(json, key);

    if (v == NULL || json_is_null(v) || (json_is_string(v) && json_string_length(v) == 0))
        return QSAE_OK;
    return qsae__fail(QSAE_EUNSUPPORTED, "%s: %s is not supported", where, key);
}

static int32_t read_flags(qsae__bpe *b, const json_t *json, const char *where)
{
    const char *type = "BPE", *unk = NULL;
    double dropout = 0;
    int32_t status = qsae__json_str(json, where, "type", false, &type, NULL);

    if (status == QSAE_OK && strcmp(type, "BPE") != 0)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: model type \"%s\", only BPE is supported", where,
                          type);
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

static void fill_tables(qsae__bpe *b)
{
    char text[8];

    for (int i = 0; i < 256; i++) {
        const int n = snprintf(text, sizeof text, "<0x%02X>", i);
        b->byte_ids[i] = b->byte_fallback ? qsae__vocab_find(&b->vocab, text, (size_t)n) : -1;
    }
    for (uint32_t c = 0; c < QSAE__CHAR_IDS; c++)
        b->char_ids[c] = qsae__vocab_find(&b->vocab, text, qsae__utf8_put(c, text));
    b->unk = b->unk_token == NULL ? -1
                                  : qsae__vocab_find(&b->vocab, b->unk_token, strlen(b->unk_token));
}

/* The two sides of a merge: "a b" or ["a", "b"]. */
static bool sides(const json_t *merge, const char *side[2], size_t size[2])
{
    if (json_is_string(merge)) {
        const char *s = json_string_value(merge), *space = strchr(s, ' ');
        if (space == NULL || strchr(space + 1, ' ') != NULL)
            return false;
        side[0] = s;
        size[0] = (size_t)(space - s);
        side[1] = space + 1;
        size[1] = strlen(space + 1);
        return true;
    }
    for (size_t i = 0; i < 2; i++) {
        const json_t *v = json_array_get(merge, i);
        if (json_array_size(merge) != 2 || !json_is_string(v))
            return false;
        side[i] = json_string_value(v);
        size[i] = json_string_length(v);
    }
    return true;
}

static void put_merge(qsae__bpe *b, uint64_t pair, uint32_t rank, int32_t id)
{
    const uint64_t mask = (uint64_t)(b->n_merges - 1);
    uint64_t i = qsae__pair_hash(pair) & mask;

    while (b->merges[i].pair != UINT64_MAX && b->merges[i].pair != pair)
        i = (i + 1) & mask;
    b->merges[i] = (qsae__merge){ pair, rank, id }; /* of repeated merges the last counts */
}

/* "<0xHH>" at s: the byte token, if the model has it; else -1. */
static int32_t byte_token(const qsae__bpe *b, const char *s)
{
    unsigned byte;
    char text[8];

    if (memcmp(s, "<0x", 3) != 0 || s[5] != '>' || sscanf(s + 3, "%2X", &byte) != 1)
        return -1;
    snprintf(text, sizeof text, "<0x%02X>", byte & 255);
    return memcmp(text, s, 6) == 0 ? b->byte_ids[byte & 255] : -1;
}

/*
 * Symbols that may be the outermost one of a token on one side: its character, or a byte token or
 * the unknown token spelled out there (a merged token's text is that of its symbols, joined). Up
 * to 3.
 */
static int ends_of(const qsae__bpe *b, const char *s, size_t size, bool last, int32_t out[3])
{
    const char *c = last ? qsae__utf8_prev(s + size) : s;
    const size_t unk = b->unk >= 0 ? strlen(b->unk_token) : 0;
    int n = 0;

    out[n] = qsae__vocab_find(&b->vocab, c, last ? (size_t)(s + size - c) : qsae__utf8_len(*s));
    n += out[n] >= 0;
    if (size >= 6) {
        out[n] = byte_token(b, last ? s + size - 6 : s);
        n += out[n] >= 0;
    }
    if (unk > 0 && size >= unk && memcmp(last ? s + size - unk : s, b->unk_token, unk) == 0)
        out[n++] = b->unk;
    return n;
}

static int32_t add_joints(qsae__bpe *b, const char *const side[2], const size_t size[2])
{
    int32_t left[3], right[3], status = QSAE_OK;
    const int nl = ends_of(b, side[0], size[0], true, left);
    const int nr = ends_of(b, side[1], size[1], false, right);

    for (int i = 0; i < nl; i++)
        for (int k = 0; k < nr && status == QSAE_OK; k++)
            status = qsae__pair_set_add(&b->joints, qsae__pair(left[i], right[k]));
    return status;
}

static int32_t read_merge(qsae__bpe *b, const json_t *merge, size_t rank, const char *where,
                          qsae__strbuf *joined)
{
    const char *side[2];
    size_t size[2];
    int32_t id[2], merged;

    if (!sides(merge, side, size))
        return qsae__fail(QSAE_EFORMAT, "%s: merges[%zu]: expected \"a b\" or [\"a\", \"b\"]",
                          where, rank);
    joined->size = 0;
    for (int i = 0; i < 2; i++) {
        id[i] = size[i] == 0 ? -1 : qsae__vocab_find(&b->vocab, side[i], size[i]);
        if (id[i] < 0)
            return qsae__fail(QSAE_EFORMAT, "%s: merges[%zu]: token \"%.*s\" is not in the "
                              "vocabulary", where, rank, (int)qsae__min_i64((int64_t)size[i], 100),
                              side[i]);
        qsae__strbuf_add(joined, side[i], size[i]);
    }
    if (joined->status != QSAE_OK)
        return joined->status;
    merged = qsae__vocab_find(&b->vocab, joined->data, (size_t)joined->size);
    if (merged < 0)
        return qsae__fail(QSAE_EFORMAT, "%s: merges[%zu]: token \"%.100s\" is not in the "
                          "vocabulary", where, rank, joined->data);
    put_merge(b, qsae__pair(id[0], id[1]), (uint32_t)rank, merged);
    return add_joints(b, side, size);
}

static int32_t read_merges(qsae__bpe *b, const json_t *list, const char *where)
{
    const size_t n = json_array_size(list);
    qsae__strbuf joined;
    int32_t status = QSAE_OK;

    if (n >= INT32_MAX)
        return qsae__fail(QSAE_EOVERFLOW, "%s: %zu merges", where, n);
    b->n_merges = 16;
    while (b->n_merges < (int64_t)n * 2)
        b->n_merges *= 2;
    b->merges = qsae__alloc_array(b->ctx, b->n_merges, sizeof *b->merges);
    if (b->merges == NULL)
        return QSAE_ENOMEM;
    for (int64_t i = 0; i < b->n_merges; i++)
        b->merges[i] = (qsae__merge){ UINT64_MAX, 0, -1 };
    qsae__strbuf_init(&joined, b->ctx);
    for (size_t i = 0; i < n && status == QSAE_OK; i++)
        status = read_merge(b, json_array_get(list, i), i, where, &joined);
    qsae__strbuf_free(&joined);
    return status;
}

int32_t qsae__bpe_read(qsae__bpe *b, qsae_context *ctx, const json_t *json, const char *where,
                       int64_t file_size)
{
    const json_t *vocab = NULL, *merges = NULL;
    int32_t status;

    memset(b, 0, sizeof *b);
    b->ctx = b->joints.ctx = ctx;
    status = read_flags(b, json, where);
    if (status == QSAE_OK)
        status = qsae__json_get(json, where, "vocab", true, JSON_OBJECT, &vocab);
    if (status == QSAE_OK)
        status = qsae__json_get(json, where, "merges", true, JSON_ARRAY, &merges);
    if (status == QSAE_OK)
        status = qsae__vocab_read(&b->vocab, ctx, vocab, where, file_size);
    if (status != QSAE_OK)
        return status;
    fill_tables(b);
    return read_merges(b, merges, where);
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
