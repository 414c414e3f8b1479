/* SPDX-License-Identifier: BSD-2-Clause */
/* Base-logit files for callers, and comparisons of whole logit rows as llama.cpp makes them. */
#include <string.h>

#include "metrics/llama.h"
#include "metrics/parts.h"

#define BLOCK_BYTES ((int64_t)1 << 24) /* of encoded rows at once */

struct qsae_logits_reader {
    qsae__handle base;
    qsae_context *ctx;
    qsae__logits_in in;
};

struct qsae_logits_writer {
    qsae__handle base;
    qsae_context *ctx;
    qsae__logits_out *out;       /* NULL once finished */
    qsae__logits_shape shape;
    int64_t rows;                /* added */
};

/* ---- reading ---- */

int32_t qsae_logits_reader_open(qsae_context *context, const char *path, qsae_logits_reader **out)
{
    QSAE__FPENV;
    if (qsae__need_out(out))
        return QSAE_EINVAL;
    if (qsae__enter(&context) != QSAE_OK)
        return QSAE_EINVAL;
    if (!path)
        return qsae__fail(QSAE_EINVAL, "qsae_logits_reader_open: path is NULL");
    qsae_logits_reader *const r = qsae__calloc(context, 1, sizeof *r);
    if (!r)
        return QSAE_ENOMEM;
    const int32_t st = qsae__logits_open(context, path, &r->in);
    if (st != QSAE_OK) {
        qsae__free(context, r);
        return st;
    }
    qsae__handle_init(r);
    r->ctx = qsae__context_ref(context);
    *out = r;
    return QSAE_OK;
}

void qsae_logits_reader_close(qsae_logits_reader **reader)
{
    if (!qsae__leave(reader, "reader"))
        return;
    qsae_context *const ctx = (*reader)->ctx;
    qsae__logits_close(&(*reader)->in);
    qsae__retire(ctx, *reader);
    qsae__context_unref(ctx);
    *reader = NULL;
}

int32_t qsae_logits_reader_get_info(const qsae_logits_reader *r, qsae_logits_info *info)
{
    if (qsae__need(r, "reader"))
        return QSAE_EINVAL;
    if (!info)
        return qsae__fail(QSAE_EINVAL, "qsae_logits_reader_get_info: info is NULL");
    const qsae__logits_shape *const s = &r->in.shape;
    const qsae_logits_info all = { .struct_size = sizeof all, .context = s->context,
                                   .vocab = s->vocab, .chunks = s->chunks,
                                   .first = qsae__logits_first(s), .rows = qsae__logits_rows(s) };
    return qsae__info_copy(info, &all, sizeof all, "qsae_logits_info");
}

static int32_t check_chunk(const qsae_logits_reader *r, int64_t chunk, const char *call)
{
    if (qsae__need(r, "reader"))
        return QSAE_EINVAL;
    if (chunk < 0 || chunk >= r->in.shape.chunks)
        return qsae__fail(QSAE_EINVAL, "%s: chunk %lld of %lld", call, (long long)chunk,
                          (long long)r->in.shape.chunks);
    return QSAE_OK;
}

int32_t qsae_logits_reader_tokens(const qsae_logits_reader *r, int64_t chunk, const int32_t **ids)
{
    int32_t st = check_chunk(r, chunk, "qsae_logits_reader_tokens");
    if (st == QSAE_OK)
        st = qsae__need_aligned(ids, "ids");
    if (st == QSAE_OK && !ids)
        st = qsae__fail(QSAE_EINVAL, "qsae_logits_reader_tokens: ids is NULL");
    if (st == QSAE_OK)
        *ids = r->in.tokens + chunk * r->in.shape.context;
    return st;
}

int32_t qsae_logits_reader_rows(const qsae_logits_reader *r, int64_t chunk, float *log_p,
                                int64_t capacity)
{
    QSAE__FPENV;
    const uint16_t *rows;
    int32_t st = check_chunk(r, chunk, "qsae_logits_reader_rows");
    if (st == QSAE_OK)
        st = qsae__need_aligned(log_p, "log_p");
    if (st != QSAE_OK)
        return st;
    const int64_t n = qsae__logits_rows(&r->in.shape), vocab = r->in.shape.vocab;
    if (capacity < n * vocab) /* a file of that size is mapped: no overflow */
        return qsae__fail(QSAE_ESPACE, "qsae_logits_reader_rows: capacity: expected %lld, found "
                          "%lld", (long long)(n * vocab), (long long)capacity);
    if (!log_p)
        return qsae__fail(QSAE_EINVAL, "qsae_logits_reader_rows: log_p is NULL");
    st = qsae__logits_chunk(&r->in, chunk, &rows);
    for (int64_t i = 0; i < n && st == QSAE_OK; i++)
        qsae__llama_decode(rows + i * qsae__logits_words(vocab), vocab, log_p + i * vocab);
    if (st == QSAE_OK)
        qsae__logits_release(&r->in, chunk);
    return st;
}

/* ---- rows in parallel ---- */

struct job {
    const qsae_rows *r, *q;      /* [n, vocab] f32; r NULL: base */
    const uint16_t *base;        /* [n, words] */
    const int32_t *label;
    int64_t row;                 /* first row of the block */
    int64_t words;
    uint16_t *codes;             /* encoded rows: of the block, or a row per thread */
    float *scratch;              /* [threads, vocab] aligned copies */
    qsae__llama_token *tokens;   /* [n] */
};

static const float *copy_row(const struct job *j, const qsae_rows *x, int64_t t, int32_t worker)
{
    float *const row = j->scratch + worker * x->n_cols;
    memcpy(row, qsae__rows_at(x, t), (size_t)x->n_cols * sizeof *row);
    return row;
}

static int32_t encode_row(void *arg, int64_t t, int32_t worker)
{
    const struct job *const j = arg;
    const float *const x = copy_row(j, j->r, j->row + t, worker);
    return qsae__llama_encode(x, j->r->n_cols, j->codes + t * j->words)
               ? QSAE_OK
               : qsae__fail(QSAE_EINVAL, "logits of row %lld: NaN, infinity, or nothing but "
                            "-infinity", (long long)(j->row + t));
}

/* A row without label, or one that is not finite, is told so to the metric. */
static int32_t compare_row(void *arg, int64_t t, int32_t worker)
{
    const struct job *const j = arg;
    const int64_t vocab = j->q->n_cols;
    const uint16_t *base = j->base ? j->base + t * j->words : NULL;
    qsae__llama_token *const out = &j->tokens[t];
    *out = (qsae__llama_token){ .kl = NAN, .same = j->label[t] < 0 ? -1 : 0 };
    if (j->label[t] < 0)
        return QSAE_OK;
    if (!base) {
        uint16_t *const codes = j->codes + worker * j->words;
        if (!qsae__llama_encode(copy_row(j, j->r, t, worker), vocab, codes))
            return QSAE_OK;
        base = codes;
    }
    *out = qsae__llama_compare(base, copy_row(j, j->q, t, worker), vocab, j->label[t]);
    return QSAE_OK;
}

/* ---- writing ---- */

int32_t qsae_logits_writer_open(qsae_context *context, const char *path,
                                const qsae_logits_info *info, const int32_t *tokens,
                                qsae_logits_writer **out)
{
    QSAE__FPENV;
    qsae_logits_info i;
    if (qsae__need_out(out))
        return QSAE_EINVAL;
    if (qsae__enter(&context) != QSAE_OK)
        return QSAE_EINVAL;
    if (qsae__need_aligned(tokens, "tokens"))
        return QSAE_EINVAL;
    if (!path || !info || !tokens)
        return qsae__fail(QSAE_EINVAL, "qsae_logits_writer_open: an argument is NULL");
    int32_t st = qsae__settings_copy(&i, sizeof i, info, "qsae_logits_info");
    if (st != QSAE_OK)
        return st;
    const qsae__logits_shape shape = { i.context, i.vocab, i.chunks };
    if ((st = qsae__logits_check(&shape, path)) != QSAE_OK)
        return st;
    for (int64_t t = 0; t < shape.chunks * shape.context; t++)
        if (tokens[t] < 0 || tokens[t] >= shape.vocab)
            return qsae__fail(QSAE_EINVAL, "qsae_logits_writer_open: token %lld: expected 0..%lld, "
                              "found %d", (long long)t, (long long)shape.vocab - 1,
                              (int)tokens[t]);
    qsae_logits_writer *w = qsae__calloc(context, 1, sizeof *w);
    if (!w)
        return QSAE_ENOMEM;
    qsae__handle_init(w);
    w->ctx = qsae__context_ref(context);
    w->shape = shape;
    st = qsae__logits_create(context, path, &shape, tokens, &w->out);
    if (st != QSAE_OK) {
        qsae__unshare(w);
        qsae_logits_writer_close(&w);
    }
    *out = w;
    return st;
}

/* Room for encoded rows and copies of rows. */
static int32_t open_job(qsae_context *ctx, struct job *j, int64_t rows, int64_t vocab)
{
    int64_t codes, copies;
    j->words = qsae__logits_words(vocab);
    if (!qsae__mul_i64(rows, j->words, &codes) || !qsae__mul_i64(ctx->threads, vocab, &copies))
        return qsae__fail(QSAE_EOVERFLOW, "logits: too many elements");
    j->codes = qsae__alloc_array(ctx, codes, sizeof *j->codes);
    j->scratch = qsae__alloc_array(ctx, copies, sizeof *j->scratch);
    return j->codes && j->scratch ? QSAE_OK : QSAE_ENOMEM;
}

static void close_job(qsae_context *ctx, struct job *j)
{
    qsae__free(ctx, j->codes);
    qsae__free(ctx, j->scratch);
    qsae__free(ctx, j->tokens);
}

static int32_t parallel(qsae_context *ctx, int64_t n, int32_t (*run)(void *, int64_t, int32_t),
                        struct job *j)
{
    const qsae__fpenv env = qsae__fpenv_enter();
    const int32_t st = qsae__parallel(ctx, n, run, j);
    qsae__fpenv_leave(env);
    return st;
}

int32_t qsae_logits_writer_add(qsae_logits_writer *w, const qsae_rows *logits)
{
    QSAE__FPENV;
    if (qsae__need(w, "writer"))
        return QSAE_EINVAL;
    if (!w->out)
        return qsae__fail(QSAE_EINVAL, "qsae_logits_writer_add: the file is finished");
    int32_t st = qsae__rows_check(logits, "logits", 1u << QSAE_F32);
    if (st != QSAE_OK)
        return st;
    if (logits->n_cols != w->shape.vocab)
        return qsae__fail(QSAE_EMISMATCH, "logits: expected %lld columns, found %lld",
                          (long long)w->shape.vocab, (long long)logits->n_cols);
    struct job j = { .r = logits };
    const int64_t n = logits->n_rows;
    const int64_t most = qsae__max_i64(
        1, qsae__min_i64(n, BLOCK_BYTES / (2 * qsae__logits_words(w->shape.vocab))));
    st = open_job(w->ctx, &j, most, w->shape.vocab);
    for (j.row = 0; j.row < n && st == QSAE_OK; j.row += most) {
        const int64_t block = qsae__min_i64(most, n - j.row);
        st = parallel(w->ctx, block, encode_row, &j);
        if (st == QSAE_OK)
            st = qsae__logits_put(w->out, w->rows + j.row, block, j.codes);
    }
    close_job(w->ctx, &j);
    w->rows += st == QSAE_OK ? n : 0; /* what was put after that is put again */
    return st;
}

int32_t qsae_logits_writer_finish(qsae_logits_writer *w)
{
    if (qsae__need(w, "writer"))
        return QSAE_EINVAL;
    if (!w->out)
        return qsae__fail(QSAE_EINVAL, "qsae_logits_writer_finish: the file is finished");
    const int64_t all = qsae__logits_rows(&w->shape) * w->shape.chunks;
    if (w->rows < all)
        return qsae__fail(QSAE_EINVAL, "qsae_logits_writer_finish: expected %lld rows, found %lld",
                          (long long)all, (long long)w->rows);
    return qsae__logits_commit(&w->out);
}

void qsae_logits_writer_close(qsae_logits_writer **writer)
{
    if (!qsae__leave(writer, "writer"))
        return;
    qsae_context *const ctx = (*writer)->ctx;
    qsae__logits_discard(&(*writer)->out);
    qsae__retire(ctx, *writer);
    qsae__context_unref(ctx);
    *writer = NULL;
}

/* ---- comparing ---- */

static int32_t check_labels(const qsae_rows *x, const int32_t *label)
{
    if (x->n_rows > 0 && !label)
        return qsae__fail(QSAE_EINVAL, "label must not be NULL");
    for (int64_t i = 0; i < x->n_rows; i++)
        if (label[i] >= x->n_cols || (label[i] < 0 && label[i] != -100))
            return qsae__fail(QSAE_EINVAL, "label of row %lld: expected -100 or 0..%lld, found %d",
                              (long long)i, (long long)x->n_cols - 1, (int)label[i]);
    return QSAE_OK;
}

static int32_t check_shape(const qsae_rows *x, int64_t rows, int64_t cols, const char *what)
{
    const int32_t st = qsae__rows_check(x, what, 1u << QSAE_F32);
    if (st != QSAE_OK || (x->n_rows == rows && x->n_cols == cols))
        return st;
    return qsae__fail(QSAE_EMISMATCH, "%s: expected [%lld, %lld], found [%lld, %lld]", what,
                      (long long)rows, (long long)cols, (long long)x->n_rows,
                      (long long)x->n_cols);
}

static int32_t compare(qsae_metric *m, const qsae_positions *at, struct job *j)
{
    const int64_t n = j->q->n_rows;
    int32_t st = open_job(m->ctx, j, m->ctx->threads, j->q->n_cols);
    if (st == QSAE_OK && !(j->tokens = qsae__alloc_array(m->ctx, n, sizeof *j->tokens)))
        st = QSAE_ENOMEM;
    if (st == QSAE_OK)
        st = parallel(m->ctx, n, compare_row, j);
    if (st == QSAE_OK)
        st = qsae__llama_add(m, at, n, j->tokens);
    close_job(m->ctx, j);
    return st;
}

int32_t qsae_metric_update_llama_cpp_logits(qsae_metric *metric, const qsae_positions *at,
                                            const qsae_rows *logits_r, const qsae_rows *logits_q,
                                            const int32_t *label)
{
    QSAE__FPENV;
    struct job j = { .r = logits_r, .q = logits_q, .label = label };
    int32_t st = qsae__metric_check(metric, &qsae__kind_llama_cpp,
                                    "qsae_metric_update_llama_cpp_logits");
    if (st == QSAE_OK)
        st = qsae__need_aligned(label, "label");
    if (st == QSAE_OK)
        st = qsae__rows_check(logits_r, "logits_r", 1u << QSAE_F32);
    if (st == QSAE_OK)
        st = check_shape(logits_q, logits_r->n_rows, logits_r->n_cols, "logits_q");
    if (st == QSAE_OK)
        st = check_labels(logits_r, label);
    return st == QSAE_OK ? compare(metric, at, &j) : st;
}

int32_t qsae_metric_update_llama_cpp_base(qsae_metric *metric, const qsae_logits_reader *base,
                                          int64_t chunk, const qsae_rows *logits_q)
{
    QSAE__FPENV;
    int32_t st = qsae__metric_check(metric, &qsae__kind_llama_cpp,
                                    "qsae_metric_update_llama_cpp_base");
    if (st == QSAE_OK)
        st = check_chunk(base, chunk, "qsae_metric_update_llama_cpp_base");
    if (st != QSAE_OK)
        return st;
    const qsae__logits_shape *const s = &base->in.shape;
    const int64_t first = qsae__logits_first(s), rows = qsae__logits_rows(s);
    st = check_shape(logits_q, rows, s->vocab, "logits_q");
    struct job j = { .q = logits_q, .label = base->in.tokens + chunk * s->context + first + 1 };
    const qsae_positions at = { .struct_size = sizeof at, .n_rows = rows,
                                .first_token = chunk * s->context + first };
    if (st == QSAE_OK)
        st = qsae__logits_chunk(&base->in, chunk, &j.base);
    if (st == QSAE_OK)
        st = compare(metric, &at, &j);
    if (st == QSAE_OK)
        qsae__logits_release(&base->in, chunk);
    return st;
}
