/* SPDX-License-Identifier: BSD-2-Clause */
/* Chunks that were cut elsewhere, and the tokens that BOS took the place of. */
#include <string.h>

#include "text/corpus.h"

int32_t qsae__corpus_from_chunks(qsae_context *ctx, const int32_t *ids, int64_t n_chunks,
                                 int64_t chunk, int32_t bos, int64_t score_from, qsae_corpus **out)
{
    int32_t status = qsae_corpus_open_ids(ctx, ids, n_chunks, chunk, out);
    qsae_corpus *const c = *out;

    if (status != QSAE_OK)
        return status;
    c->score_from = score_from;
    if (bos >= 0) {
        c->bos_policy = QSAE_BOS_CHUNK_REPLACE;
        c->replaced = qsae__alloc_array(ctx, n_chunks, sizeof *c->replaced);
        status = c->replaced == NULL ? QSAE_ENOMEM : QSAE_OK;
    }
    for (int64_t i = 0; bos >= 0 && i < n_chunks && status == QSAE_OK; i++) {
        c->replaced[i] = c->ids[i * chunk];
        c->ids[i * chunk] = bos;
    }
    if (status == QSAE_OK) {
        qsae__label(c, NULL);
        status = qsae__corpus_hash(c);
    }
    if (status != QSAE_OK)
        qsae_corpus_close(out);
    return status;
}

int32_t qsae__corpus_original(const qsae_corpus *c, int64_t chunk)
{
    return c->replaced != NULL ? c->replaced[chunk] : c->ids[chunk * c->context];
}
