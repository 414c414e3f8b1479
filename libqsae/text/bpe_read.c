/* SPDX-License-Identifier: BSD-2-Clause */
#include <string.h>

#include "text/bpe.h"

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

/* The two sides of a merge: "a b" or ["a", "b"]. */
static bool sides(const json_t *merge, qsae__slice side[2])
{
    if (json_is_string(merge)) {
        const char *s = json_string_value(merge), *space = strchr(s, ' ');
        if (space == NULL || strchr(space + 1, ' ') != NULL)
            return false;
        side[0] = (qsae__slice){ s, (size_t)(space - s) };
        side[1] = (qsae__slice){ space + 1, strlen(space + 1) };
        return true;
    }
    for (size_t i = 0; i < 2; i++) {
        const json_t *v = json_array_get(merge, i);
        if (json_array_size(merge) != 2 || !json_is_string(v))
            return false;
        side[i] = (qsae__slice){ json_string_value(v), json_string_length(v) };
    }
    return true;
}

static int32_t read_merges(qsae__bpe *b, const json_t *list, const char *where)
{
    const int64_t n = (int64_t)json_array_size(list);
    qsae__strbuf joined;
    int32_t status = qsae__bpe_reserve(b, n, where);

    qsae__strbuf_init(&joined, b->ctx);
    for (int64_t i = 0; i < n && status == QSAE_OK; i++) {
        qsae__slice side[2];
        if (!sides(json_array_get(list, (size_t)i), side))
            status = qsae__fail(QSAE_EFORMAT, "%s: merges[%lld]: expected \"a b\" or [\"a\", "
                                "\"b\"]", where, (long long)i);
        else
            status = qsae__bpe_add_texts(b, side, (uint32_t)i, false, where, i, &joined);
    }
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
    b->n_tokens = (int32_t)b->vocab.count;
    qsae__bpe_fill_tables(b);
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
