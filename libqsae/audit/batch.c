/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "audit/audit.h"

static int by_id(const void *a, const void *b)
{
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

int32_t qsae__batch_exclude(qsae_audit *a, const char *tokens)
{
    int64_t n = 1;
    if (!tokens || !*tokens)
        return QSAE_OK;
    if (!(a->exclude_tokens = qsae__strdup(a->ctx, tokens)))
        return QSAE_ENOMEM;
    if (strcmp(tokens, "special") == 0) {
        a->exclude_special = true;
        return QSAE_OK;
    }
    for (const char *c = tokens; *c; c++)
        n += *c == ',';
    if (!(a->excluded = qsae__calloc(a->ctx, n, sizeof *a->excluded)))
        return QSAE_ENOMEM;
    for (const char *at = tokens; a->n_excluded < n; a->n_excluded++) {
        char *end;
        errno = 0;
        const long id = strtol(at, &end, 10);
        const bool ok = end > at && *at >= '0' && *at <= '9' && !errno && id <= INT32_MAX &&
                        *end == (a->n_excluded + 1 < n ? ',' : 0);
        if (!ok)
            return qsae__fail(QSAE_EINVAL, "audit: exclude_tokens: \"%s\": expected \"special\" "
                              "or token ids between commas", tokens);
        a->excluded[a->n_excluded] = (int32_t)id;
        at = end + 1;
    }
    qsort(a->excluded, (size_t)n, sizeof *a->excluded, by_id);
    return QSAE_OK;
}

static bool excluded(const qsae_audit *a, int32_t id, bool special)
{
    return (a->exclude_special && special) ||
           (a->n_excluded && bsearch(&id, a->excluded, (size_t)a->n_excluded,
                                     sizeof *a->excluded, by_id));
}

int32_t qsae__batch_open(qsae_audit *a, struct audit_batch *b)
{
    qsae_context *const ctx = a->ctx;
    const int64_t context = a->corpus_info.context;
    const int64_t chunks = qsae__min_i64(a->batch, a->corpus_info.chunks);
    memset(b, 0, sizeof *b);
    if (!qsae__mul_i64(chunks, context, &b->rows_max))
        return qsae__fail(QSAE_EOVERFLOW, "a batch of %lld chunks of %lld tokens is too large",
                          (long long)chunks, (long long)context);
    const int64_t n = b->rows_max;
    b->ids = qsae__alloc_array(ctx, n, sizeof *b->ids);
    b->labels = qsae__alloc_array(ctx, n, sizeof *b->labels);
    b->position = qsae__alloc_array(ctx, n, sizeof *b->position);
    b->document = qsae__alloc_array(ctx, n, sizeof *b->document);
    b->mask = qsae__alloc_array(ctx, n, sizeof *b->mask);
    b->mask_features = qsae__alloc_array(ctx, n, sizeof *b->mask_features);
    if (b->ids && b->labels && b->position && b->document && b->mask && b->mask_features)
        return QSAE_OK;
    qsae__batch_close(a, b);
    return QSAE_ENOMEM;
}

void qsae__batch_close(qsae_audit *a, struct audit_batch *b)
{
    void *const blocks[] = { b->ids, b->labels, b->position, b->document, b->mask,
                             b->mask_features };
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        qsae__free(a->ctx, blocks[i]);
    memset(b, 0, sizeof *b);
}

/*
 * A shorter last chunk makes its own batch. Where only some positions are scored (windows that
 * overlap, score_from), they alone are counted, in every metric: each token once.
 */
int32_t qsae__batch_gather(qsae_audit *a, int64_t chunk, struct audit_batch *b)
{
    const bool first_out = a->profile->exclude_first,
               some = a->corpus_info.stride > 0 || a->corpus_info.score_from > 0;
    b->rows = b->n_seq = 0;
    b->first_token = chunk * a->corpus_info.context;
    while (b->n_seq < a->batch && chunk + b->n_seq < a->corpus_info.chunks) {
        const int32_t *ids, *labels;
        const int64_t *document;
        int64_t n;
        const int32_t st =
            qsae_corpus_chunk(a->corpus, chunk + b->n_seq, &ids, &labels, &document, &n);
        if (st != QSAE_OK)
            return st;
        if (b->n_seq > 0 && n != b->n_tokens)
            break;
        b->n_tokens = n;
        for (int64_t i = 0; i < n; i++) {
            const int64_t r = b->rows + i;
            const uint8_t first = i == 0 ? QSAE_MASK_FIRST : 0;
            const uint8_t out = some && labels[i] < 0 ? QSAE_MASK_EXCLUDED : 0;
            const bool special = qsae_tokenizer_is_special(a->tokenizer, ids[i]);
            b->ids[r] = ids[i];
            b->labels[r] = labels[i];
            b->document[r] = document[i];
            b->position[r] = (int32_t)i;
            b->mask[r] = (uint8_t)(first | out | (special ? QSAE_MASK_SPECIAL : 0));
            b->mask_features[r] =
                (uint8_t)(b->mask[r] | ((first && first_out) || excluded(a, ids[i], special)
                                            ? QSAE_MASK_EXCLUDED : 0));
        }
        b->rows += n;
        b->n_seq++;
    }
    return QSAE_OK;
}

qsae_positions qsae__batch_positions(const struct audit_batch *b, const uint8_t *mask)
{
    return (qsae_positions){ .struct_size = sizeof(qsae_positions),
                             .first_token = b->first_token,
                             .document = b->document,
                             .position = b->position,
                             .mask = mask,
                             .n_rows = b->rows };
}
