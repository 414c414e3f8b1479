/* SPDX-License-Identifier: BSD-2-Clause */
/* The ends of a corpus' chunks as a corpus of shorter ones: the same tokens after less context. */
#include <string.h>

#include "text/corpus.h"

/* Copies the last tokens of a chunk; BOS that cutting put in front of it stays in front. */
static void copy_tail(const qsae_corpus *c, int64_t chunk, bool bos, qsae_corpus *to)
{
    const int64_t end = (chunk + 1) * c->context, from = end - to->context, n = to->context;
    int32_t *const ids = to->ids + chunk * n;

    memcpy(ids, c->ids + from, (size_t)n * sizeof *ids);
    memcpy(to->document + chunk * n, c->document + from, (size_t)n * sizeof *to->document);
    if (bos) {
        ids[0] = c->ids[chunk * c->context];
        to->document[chunk * n] = to->document[chunk * n + 1];
    }
}

int32_t qsae__corpus_tails(const qsae_corpus *c, int64_t context, int64_t scored, qsae_corpus **out)
{
    const bool bos =
        c->bos_policy == QSAE_BOS_CHUNK_START || c->bos_policy == QSAE_BOS_CHUNK_REPLACE;
    const int64_t chunks = c->tokens / c->context; /* whole ones */
    qsae_corpus *to = NULL;
    int32_t status;

    *out = NULL;
    if (context < 3 || context > c->context || scored < 1 || scored > context - 2 || chunks < 1)
        return qsae__fail(QSAE_EINVAL, "%lld tokens scored at the end of %lld in %lld whole chunks "
                          "of %lld", (long long)scored, (long long)context, (long long)chunks,
                          (long long)c->context);
    to = qsae__calloc(c->ctx, 1, sizeof *to);
    if (to == NULL)
        return QSAE_ENOMEM;
    qsae__handle_init(to);
    to->ctx = qsae__context_ref(c->ctx);
    to->n_documents = c->n_documents;
    to->chunks = chunks;
    to->context = context;
    to->score_from = context - 1 - scored;
    to->tokens = to->stream_tokens = chunks * context; /* at most as many as the corpus has */
    to->bos_policy = c->bos_policy;
    to->pack = c->pack;
    to->ids = qsae__alloc_array(to->ctx, to->tokens, sizeof *to->ids);
    to->labels = qsae__alloc_array(to->ctx, to->tokens, sizeof *to->labels);
    to->document = qsae__alloc_array(to->ctx, to->tokens, sizeof *to->document);
    status = to->ids == NULL || to->labels == NULL || to->document == NULL ? QSAE_ENOMEM : QSAE_OK;
    for (int64_t i = 0; i < chunks && status == QSAE_OK; i++)
        copy_tail(c, i, bos, to);
    if (status == QSAE_OK) {
        qsae__label(to, NULL);
        status = qsae__corpus_hash(to);
    }
    if (status == QSAE_OK) {
        *out = to;
    } else {
        qsae__unshare(to);
        qsae_corpus_close(&to);
    }
    return status;
}
