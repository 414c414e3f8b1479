/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * State files of metrics: a byte that chooses the kind, then a state, whose size and checksum are
 * made right as a forger would. What loads can be read, continued, merged and written again.
 */
#include "fuzz.h"

#include "core/hash.h"
#include "core/strbuf.h"
#include "metrics/metrics.h"

qsae_metric *fuzz_metric_open(qsae_context *ctx, uint8_t kind);
size_t fuzz_metric_state_seed(int i, uint8_t **data);

#define HEAD 56 /* metrics/state.c: what the checksum does not cover */
#define D 3
#define F 4
#define ROWS 6

qsae_metric *fuzz_metric_open(qsae_context *ctx, uint8_t kind)
{
    qsae_metric_settings s;
    qsae_metric *m = NULL;
    int32_t st = QSAE_OK;
    qsae_metric_settings_init(&s, sizeof s);
    s.batch_rows = 4;
    s.memory = kind & 8 ? 400 : 0;
    s.fingerprint = "fuzz";
    s.top = kind % 5 == 3 ? 2 : 0;
    switch (kind % 5) {
    case 0: st = qsae_metric_open_cross_entropy(ctx, &s, &m); break;
    case 1: st = qsae_metric_open_divergence(ctx, &s, &m); break;
    case 2: st = qsae_metric_open_reconstruction(ctx, D, F, &s, &m); break;
    case 3: st = qsae_metric_open_features(ctx, F, &s, &m); break;
    default: st = qsae_metric_open_drift(ctx, D, &s, &m); break;
    }
    fuzz_check(st == QSAE_OK);
    return m;
}

/* ROWS more tokens from `first` on; may be refused where they overlap. */
static int32_t feed(qsae_metric *m, uint8_t kind, int64_t first)
{
    static float x[ROWS * D], y[ROWS * D], nll[ROWS], kl[ROWS], values[ROWS];
    static int64_t indptr[ROWS + 1], document[ROWS];
    static int32_t indices[ROWS], top[ROWS];
    for (int i = 0; i < ROWS * D; i++) {
        x[i] = (float)(i % 5) - 2.5f;
        y[i] = x[i] + 0.125f;
    }
    for (int i = 0; i < ROWS; i++) {
        nll[i] = 1 + (float)i;
        kl[i] = 0.25f * (float)i;
        values[i] = 1 + (float)i;
        indices[i] = i % F;
        indptr[i + 1] = i + 1;
        document[i] = i / 4;
        top[i] = i % 3;
    }
    const qsae_positions at = { .struct_size = sizeof at, .first_token = first,
                                .document = document, .n_rows = ROWS };
    const qsae_rows a = { sizeof a, x, ROWS, D, D, QSAE_F32, 0 };
    const qsae_rows b = { sizeof b, y, ROWS, D, D, QSAE_F32, 0 };
    const qsae_sparse_rows acts = { sizeof acts, ROWS, indptr, indices, values };
    const qsae_divergence_rows d = { .struct_size = sizeof d, .n = ROWS, .nll_r = nll, .nll_q = kl,
                                     .kl = kl, .top_r = top, .top_q = top, .label = top };
    switch (kind % 5) {
    case 0: return qsae_metric_update_cross_entropy(m, &at, ROWS, nll);
    case 1: return qsae_metric_update_divergence(m, &at, &d);
    case 2: return qsae_metric_update_reconstruction(m, &at, &a, &b, &acts);
    case 3: return qsae_metric_update_features(m, &at, &acts, &acts);
    default: return qsae_metric_update_drift(m, &at, &a, &b, &b, &a);
    }
}

static void sign(uint8_t *bytes, size_t size)
{
    const uint64_t n = size;
    char hash[QSAE__HASH_SIZE];
    if (size < HEAD)
        return;
    memcpy(bytes + 16, &n, sizeof n);
    qsae__hash(bytes + HEAD, size - HEAD, hash);
    memcpy(bytes + 24, hash, 32);
}

static void use(qsae_metric *m, uint8_t kind)
{
    qsae_context *const ctx = fuzz_context(1);
    qsae_metric *other = fuzz_metric_open(ctx, kind);
    qsae__strbuf b;
    double v;
    qsae__strbuf_init(&b, ctx);
    fuzz_accepted();
    fuzz_check(qsae_metric_get(m, "tokens", &v) == QSAE_OK);
    qsae__metric_write(m, &b);
    fuzz_check(b.status == QSAE_OK);
    fuzz_check(qsae__metric_read(other, b.data, (size_t)b.size) == QSAE_OK);
    (void)feed(other, kind, 512);
    (void)qsae_metric_merge(m, other);
    for (int32_t i = 0; i < qsae_metric_count(m); i++) {
        qsae_value value = { .struct_size = sizeof value };
        (void)qsae_metric_value(m, i, &value);
    }
    qsae__strbuf_free(&b);
    qsae_metric_close(&other);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = { data, size };
    const uint8_t kind = fuzz_byte(&in);
    uint8_t *const copy = fuzz_copy(in.data, in.size);
    qsae_metric *m = fuzz_metric_open(fuzz_context(1), kind);
    sign(copy, in.size);
    const int32_t status = qsae__metric_read(m, copy, in.size);
    if (status != QSAE_OK)
        fuzz_refused(status, NULL);
    else
        use(m, kind);
    qsae_metric_close(&m);
    free(copy);
    return 0;
}

size_t fuzz_metric_state_seed(int i, uint8_t **data)
{
    qsae_context *const ctx = fuzz_context(1);
    const uint8_t kind = (uint8_t)(i % 10 < 5 ? i : i + 3); /* from 5 on with bit 3 set */
    qsae_metric *m = fuzz_metric_open(ctx, kind);
    qsae__strbuf b;
    qsae__strbuf_init(&b, ctx);
    fuzz_check(feed(m, kind, 0) == QSAE_OK && feed(m, kind, 300) == QSAE_OK);
    qsae__metric_write(m, &b);
    fuzz_check(b.status == QSAE_OK && (*data = malloc((size_t)b.size + 1)));
    **data = kind;
    memcpy(*data + 1, b.data, (size_t)b.size);
    const size_t size = (size_t)b.size + 1;
    qsae__strbuf_free(&b);
    qsae_metric_close(&m);
    return size;
}
