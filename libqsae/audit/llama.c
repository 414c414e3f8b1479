/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Whole logit rows, which the head does not keep, are made again for the scored positions, a block
 * of rows at a time: those of the reference are encoded as a base-logit file has them (or read from
 * one), and those of each condition compared with that.
 */
#include "audit/llama.h"

#include <math.h>
#include <string.h>

#include "audit/pass.h"
#include "audit/state.h"
#include "formats/logits.h"
#include "metrics/llama.h"

#define BLOCK_BYTES ((int64_t)1 << 25) /* of logits of one participant at once */
#define LEAST_ROWS 16

struct audit_llama {
    char *base_path, *save_path; /* or NULL */
    qsae__logits_in base;        /* compared with, if base_path */
    qsae__logits_out *out;       /* written, from the first batch to the end of the text */
    bool lost;                   /* it could not be finished */
    qsae__logits_shape shape;    /* of the text */
    bool report;                 /* conditions are compared */
    int64_t block;               /* rows */
    float *logits;               /* [block, vocab] */
    uint16_t *codes;             /* [block, words] */
    uint8_t *bad;                /* [block] rows that cannot be encoded */
    qsae__llama_token *tokens;   /* [1 + group, rows of a batch] */
};

/* ---- settings, text ---- */

static int32_t refuse(const char *what, const char *why)
{
    return qsae__fail(QSAE_EINVAL, "audit: llama.cpp's comparison and %s exclude each other: %s",
                      what, why);
}

static int32_t check_settings(const qsae_audit_settings *s)
{
    static const char cut[] = "it cuts the text as llama-perplexity does";
    if (s->stride)
        return refuse("stride", cut);
    if (s->cross_labels)
        return refuse("cross_labels", cut);
    if (s->keep_tail)
        return refuse("keep_tail", cut);
    if (s->pack > QSAE_PACK_STREAM)
        return refuse("pack", cut);
    if (s->score_from)
        return refuse("score_from", "it scores the second half of a chunk");
    if (s->bos_policy && s->bos_policy != QSAE_BOS_CHUNK_REPLACE)
        return refuse("another BOS policy than chunk_replace", cut);
    if (s->context && s->context < 3)
        return qsae__fail(QSAE_EINVAL, "audit: context: expected at least 3 tokens for "
                          "llama.cpp's comparison, found %lld", (long long)s->context);
    if (s->save_logits && s->state)
        return refuse("state with save_logits", "the file is written in one run");
    if (s->save_logits && s->shard_count)
        return refuse("shard_count with save_logits", "the file has the rows of all chunks");
    return QSAE_OK;
}

int32_t qsae__llama_open(qsae_audit *a, const qsae_audit_settings *s)
{
    if (!s->kl_divergence && !s->kl_divergence_base && !s->save_logits)
        return QSAE_OK;
    int32_t st = check_settings(s);
    if (st != QSAE_OK)
        return st;
    struct audit_llama *const l = a->llama = qsae__calloc(a->ctx, 1, sizeof *l);
    if (!l)
        return QSAE_ENOMEM;
    l->report = s->kl_divergence || s->kl_divergence_base;
    if (s->save_logits && !(l->save_path = qsae__strdup(a->ctx, s->save_logits)))
        return QSAE_ENOMEM;
    if (!s->kl_divergence_base)
        return QSAE_OK;
    if (!(l->base_path = qsae__strdup(a->ctx, s->kl_divergence_base)))
        return QSAE_ENOMEM;
    st = qsae__logits_open(a->ctx, l->base_path, &l->base);
    if (st == QSAE_OK && s->context && s->context != l->base.shape.context)
        st = qsae__fail(QSAE_EMISMATCH, "%s: n_ctx: the file has chunks of %lld tokens, context is "
                        "%lld", l->base_path, (long long)l->base.shape.context,
                        (long long)s->context);
    return st;
}

/* BOS that takes the place of chunks' first tokens; -1: none does. */
static int32_t bos_of(const qsae_audit *a)
{
    qsae_tokenizer_info info = { .struct_size = sizeof info };
    return qsae_tokenizer_get_info(a->tokenizer, &info) == QSAE_OK && info.adds_bos ? info.bos : -1;
}

int32_t qsae__llama_text(const qsae_audit *a, const qsae_audit_settings *s,
                         qsae_corpus_settings *c)
{
    const struct audit_llama *const l = a->llama;
    if (!l)
        return QSAE_OK;
    if (s->bos_policy && bos_of(a) < 0)
        return refuse("a BOS policy", "the tokenizer of this model adds no BOS");
    c->bos_policy = bos_of(a) >= 0 ? QSAE_BOS_CHUNK_REPLACE : QSAE_BOS_NONE;
    c->format = QSAE_TEXT_WHOLE;
    if (l->base_path) {
        c->context = l->base.shape.context;
        c->max_tokens = l->base.shape.chunks * l->base.shape.context;
    }
    c->score_from = c->context / 2;
    return QSAE_OK;
}

/* Tokens of the text against those of the file. */
static int32_t check_tokens(const qsae_audit *a)
{
    const qsae__logits_in *const base = &a->llama->base;
    const qsae__logits_shape *const s = &base->shape;
    if (a->corpus_info.chunks != s->chunks)
        return qsae__fail(QSAE_EMISMATCH, "%s: n_chunk: the file has %lld chunks, the text %lld",
                          a->llama->base_path, (long long)s->chunks,
                          (long long)a->corpus_info.chunks);
    for (int64_t chunk = 0; chunk < s->chunks; chunk++) {
        const int32_t *const want = base->tokens + chunk * s->context, *ids;
        const int32_t st = qsae_corpus_chunk(a->corpus, chunk, &ids, NULL, NULL, NULL);
        for (int64_t i = 0; i < s->context && st == QSAE_OK; i++) {
            const int32_t id = i ? ids[i] : qsae__corpus_original(a->corpus, chunk);
            if (id != want[i])
                return qsae__fail(QSAE_EMISMATCH, "%s: chunk %lld, position %lld: the file has "
                                  "token %d, the text %d", a->llama->base_path, (long long)chunk,
                                  (long long)i, (int)want[i], (int)id);
        }
        if (st != QSAE_OK)
            return st;
    }
    return QSAE_OK;
}

int32_t qsae__llama_corpus(qsae_audit *a, bool text)
{
    const qsae__logits_in *const base = &a->llama->base;
    const qsae__logits_shape *const s = &base->shape;
    qsae_tokenizer_info info = { .struct_size = sizeof info };
    if (text)
        return a->llama->base_path ? check_tokens(a) : QSAE_OK;
    int32_t st = qsae_tokenizer_get_info(a->tokenizer, &info);
    for (int64_t i = 0; i < s->chunks * s->context && st == QSAE_OK; i++)
        if (base->tokens[i] >= info.vocab)
            st = qsae__fail(QSAE_EMISMATCH, "%s: token %lld: expected an id of the tokenizer "
                            "(0..%lld), found %d", a->llama->base_path, (long long)i,
                            (long long)info.vocab - 1, (int)base->tokens[i]);
    if (st == QSAE_OK)
        st = qsae__corpus_from_chunks(a->ctx, base->tokens, s->chunks, s->context, bos_of(a),
                                      s->context / 2, &a->corpus);
    if (st != QSAE_OK)
        return st;
    a->corpus_info.struct_size = sizeof a->corpus_info;
    return qsae_corpus_get_info(a->corpus, &a->corpus_info);
}

static int32_t vocab_of(const struct participant *p, int64_t *vocab)
{
    qsae_model_info info = { .struct_size = sizeof info };
    const int32_t st = qsae_model_get_info(p->model, &info);
    *vocab = info.vocab;
    return st;
}

int32_t qsae__llama_check(qsae_audit *a)
{
    struct audit_llama *const l = a->llama;
    int64_t vocab;
    if (!l)
        return QSAE_OK;
    const int32_t st = vocab_of(&a->participants[0], &vocab);
    if (st != QSAE_OK)
        return st;
    if (l->base_path && vocab != l->base.shape.vocab)
        return qsae__fail(QSAE_EMISMATCH, "%s: n_vocab: the file has %lld tokens, the model %lld",
                          l->base_path, (long long)l->base.shape.vocab, (long long)vocab);
    l->shape = (qsae__logits_shape){ a->corpus_info.context, vocab, a->corpus_info.chunks };
    return qsae__logits_check(&l->shape, l->save_path ? l->save_path : "audit");
}

int32_t qsae__llama_metric(qsae_audit *a, struct participant *p, const qsae_metric_settings *s)
{
    const struct audit_llama *const l = a->llama;
    qsae_metric_settings own = *s;
    if (!l || !l->report || (p == a->participants && !l->base_path) ||
        (p->checkpoint && p->checkpoint->no_kl))
        return QSAE_OK;
    own.batch_rows = a->corpus_info.context;
    return qsae_metric_open_llama_cpp(a->ctx, &own, &p->llama);
}

void qsae__llama_close(qsae_audit *a)
{
    struct audit_llama *const l = a->llama;
    if (!l)
        return;
    void *const blocks[] = { l->base_path, l->save_path, l->logits, l->codes, l->bad, l->tokens };
    qsae__logits_close(&l->base);
    qsae__logits_discard(&l->out);
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        qsae__free(a->ctx, blocks[i]);
    qsae__free(a->ctx, l);
    a->llama = NULL;
}

/* Of a file, which may be too large to be read twice: its tokens and the head of each chunk's first
 * row. */
void qsae__llama_fingerprint(const qsae_audit *a, qsae__hasher *h)
{
    const struct audit_llama *const l = a->llama;
    if (!l || !l->report)
        return;
    qsae__hasher_string(h, "llama_cpp");
    if (!l->base_path)
        return;
    const qsae__logits_shape *const s = &l->base.shape;
    const int64_t size = qsae__logits_rows(s) * qsae__logits_words(s->vocab);
    qsae__hasher_update(h, l->base.tokens, (size_t)(s->chunks * s->context) * sizeof(int32_t));
    for (int64_t i = 0; i < s->chunks; i++)
        qsae__hasher_update(h, l->base.rows + i * size, 2 * sizeof(float));
}

/* ---- the pass ---- */

static int32_t open_buffers(qsae_audit *a, const struct pass *p)
{
    struct audit_llama *const l = a->llama;
    const int64_t vocab = l->shape.vocab, words = qsae__logits_words(vocab);
    int64_t tokens;
    if (l->logits && l->codes && l->bad && l->tokens)
        return QSAE_OK;
    l->block = qsae__max_i64(LEAST_ROWS, BLOCK_BYTES / (vocab * (int64_t)sizeof(float)));
    l->block = qsae__min_i64(l->block, qsae__logits_rows(&l->shape));
    if (!qsae__mul_i64(p->group + 1, p->batch.rows_max, &tokens))
        return qsae__fail(QSAE_EOVERFLOW, "a batch of %lld tokens is too large",
                          (long long)p->batch.rows_max);
    /* A call before may have found memory for some of them. */
    if (!l->logits)
        l->logits = qsae__alloc_array(a->ctx, l->block * vocab, sizeof *l->logits);
    if (!l->codes)
        l->codes = qsae__alloc_array(a->ctx, l->block * words, sizeof *l->codes);
    if (!l->bad)
        l->bad = qsae__alloc_array(a->ctx, l->block, 1);
    if (!l->tokens)
        l->tokens = qsae__alloc_array(a->ctx, tokens, sizeof *l->tokens);
    return l->logits && l->codes && l->bad && l->tokens ? QSAE_OK : QSAE_ENOMEM;
}

/* The file to write, with the text's own tokens. */
static int32_t open_file(qsae_audit *a)
{
    struct audit_llama *const l = a->llama;
    const qsae__logits_shape *const s = &l->shape;
    if (!l->save_path || l->out)
        return QSAE_OK;
    int32_t *const tokens = qsae__alloc_array(a->ctx, s->chunks * s->context, sizeof *tokens);
    int32_t st = tokens ? QSAE_OK : QSAE_ENOMEM;
    for (int64_t i = 0; i < s->chunks && st == QSAE_OK; i++) {
        const int32_t *ids;
        st = qsae_corpus_chunk(a->corpus, i, &ids, NULL, NULL, NULL);
        if (st == QSAE_OK)
            memcpy(tokens + i * s->context, ids, (size_t)s->context * sizeof *tokens);
        tokens[i * s->context] = qsae__corpus_original(a->corpus, i);
    }
    if (st == QSAE_OK)
        st = qsae__logits_create(a->ctx, l->save_path, s, tokens, &l->out);
    qsae__free(a->ctx, tokens);
    return st;
}

/* A block of rows. */
struct block {
    struct audit_llama *l;
    const struct pass *p;
    const uint16_t *base;        /* [n, words] */
    qsae__llama_token *tokens;   /* [n] of a participant */
    const int32_t *labels;       /* [n] */
    int64_t first, n;            /* rows of the batch */
};

static int32_t encode_row(void *arg, int64_t i, int32_t worker)
{
    const struct block *const b = arg;
    const int64_t vocab = b->l->shape.vocab;
    (void)worker;
    b->l->bad[i] = !qsae__llama_encode(b->l->logits + i * vocab, vocab,
                                       b->l->codes + i * qsae__logits_words(vocab));
    return QSAE_OK;
}

static int32_t compare_row(void *arg, int64_t i, int32_t worker)
{
    const struct block *const b = arg;
    const int64_t vocab = b->l->shape.vocab;
    (void)worker;
    if (b->l->bad[i])
        b->tokens[i] = (qsae__llama_token){ .kl = NAN };
    else
        b->tokens[i] = qsae__llama_compare(b->base + i * qsae__logits_words(vocab),
                                           b->l->logits + i * vocab, vocab, b->labels[i]);
    return QSAE_OK;
}

/* Logits of a participant's block. */
static int32_t logits_of(qsae_audit *a, const struct block *b, struct participant *who,
                         const struct rows_of *rows)
{
    const qsae__head_rows head = { .model = who->model,
                                   .final = rows->final + b->first * who->width,
                                   .logits = b->l->logits };
    return qsae__head_run(a->ctx, b->n, NULL, 1, &head, a->cancel);
}

static int32_t in_parallel(qsae_audit *a, struct block *b,
                           int32_t (*run)(void *, int64_t, int32_t))
{
    const qsae__fpenv env = qsae__fpenv_enter();
    const int32_t st = qsae__parallel(a->ctx, b->n, run, b);
    qsae__fpenv_leave(env);
    return st;
}

/* Rows of the reference as a file has them, from row `row` of it; they go into the one written. */
static int32_t encode(qsae_audit *a, struct block *b, int64_t row, bool save)
{
    struct audit_llama *const l = a->llama;
    int32_t st = logits_of(a, b, &a->participants[0], &b->p->rows[0]);
    if (st == QSAE_OK)
        st = in_parallel(a, b, encode_row);
    b->base = l->codes;
    for (int64_t i = 0; i < b->n && st == QSAE_OK && save; i++)
        if (l->bad[i])
            st = qsae__fail(QSAE_EINVAL, "%s: chunk %lld, row %lld: logits that are NaN or "
                            "infinite cannot be stored", l->save_path,
                            (long long)((row + i) / qsae__logits_rows(&l->shape)),
                            (long long)((row + i) % qsae__logits_rows(&l->shape)));
    return st == QSAE_OK && save ? qsae__logits_put(l->out, row, b->n, l->codes) : st;
}

/* One block of all who are compared; stored: its rows in the file compared with, or NULL. */
static int32_t run_block(qsae_audit *a, struct block *b, const uint16_t *stored, int64_t row,
                         const int64_t *members, int64_t n)
{
    struct audit_llama *const l = a->llama;
    const bool first = a->participants[0].next_chunk == a->next_chunk, save = first && l->out;
    int32_t st = QSAE_OK;
    if (save || !stored)
        st = encode(a, b, row, save);
    if (stored) {
        b->base = stored;
        memset(l->bad, 0, (size_t)b->n);
    }
    for (int64_t j = first ? 0 : 1; j <= n && st == QSAE_OK; j++) {
        struct participant *const who = &a->participants[j ? members[j - 1] : 0];
        if (!who->llama)
            continue;
        b->tokens = l->tokens + j * b->p->batch.rows_max + b->first;
        st = logits_of(a, b, who, &b->p->rows[j]);
        if (st == QSAE_OK)
            st = in_parallel(a, b, compare_row);
    }
    return st;
}

int32_t qsae__llama_batch(qsae_audit *a, const struct pass *p, const int64_t *members, int64_t n)
{
    struct audit_llama *const l = a->llama;
    const qsae__logits_shape *const s = &l->shape;
    const int64_t rows = qsae__logits_rows(s), words = qsae__logits_words(s->vocab);
    int32_t st = open_buffers(a, p);
    if (st == QSAE_OK)
        st = open_file(a);
    for (int64_t q = 0; q < p->batch.n_seq && st == QSAE_OK; q++) {
        const int64_t chunk = a->next_chunk + q;
        const int64_t begin = q * s->context + qsae__logits_first(s);
        const uint16_t *stored = NULL;
        if (l->base_path)
            st = qsae__logits_chunk(&l->base, chunk, &stored);
        for (int64_t r = 0; r < rows && st == QSAE_OK; r += l->block) {
            struct block b = { .l = l, .p = p, .first = begin + r,
                               .labels = p->batch.labels + begin + r,
                               .n = qsae__min_i64(l->block, rows - r) };
            st = run_block(a, &b, stored ? stored + r * words : NULL, chunk * rows + r, members,
                           n);
        }
        if (stored)
            qsae__logits_release(&l->base, chunk);
    }
    return st;
}

int32_t qsae__llama_update(qsae_audit *a, const struct pass *p, struct participant *who,
                           int64_t member)
{
    const struct audit_llama *const l = a->llama;
    const qsae_positions at = qsae__batch_positions(&p->batch, p->batch.mask);
    if (!l || !who->llama)
        return QSAE_OK;
    return qsae__batch_added(a, qsae__llama_add(who->llama, &at, p->batch.rows,
                                          l->tokens + member * p->batch.rows_max));
}

int32_t qsae__llama_finish(qsae_audit *a)
{
    struct audit_llama *const l = a->llama;
    if (!l || (!l->out && !l->lost) || !qsae__covered_whole(a))
        return QSAE_OK;
    if (l->lost) /* its rows are gone with it */
        return qsae__fail(QSAE_EIO, "%s: could not be finished: open the audit again to write it",
                          l->save_path);
    const int32_t st = qsae__logits_commit(&l->out);
    l->lost = st != QSAE_OK;
    return st;
}

/* ---- the result ---- */

/* Running lines: the chunk from 1, then the values. */
static int32_t add_lines(const qsae_audit *a, qsae_metric *m, json_t *o)
{
    json_t *const list = json_array();
    int64_t n = 0;
    json_object_set_new(o, "lines", list);
    int32_t st = qsae_metric_llama_lines(m, NULL, NULL, 0, &n);
    double *const lines = qsae__alloc_array(a->ctx, n * QSAE_METRIC_LLAMA_LINE, sizeof *lines);
    int64_t *const chunks = qsae__alloc_array(a->ctx, n, sizeof *chunks);
    if (st == QSAE_OK && (!lines || !chunks))
        st = QSAE_ENOMEM;
    if (st == QSAE_OK && n > 0)
        st = qsae_metric_llama_lines(m, chunks, lines, n, &n);
    for (int64_t i = 0; i < n && st == QSAE_OK; i++) {
        json_t *const line = json_array();
        json_array_append_new(line, json_integer(chunks[i] + 1));
        for (int64_t k = 0; k < QSAE_METRIC_LLAMA_LINE; k++)
            json_array_append_new(line, qsae__number(lines[i * QSAE_METRIC_LLAMA_LINE + k]));
        json_array_append_new(list, line);
    }
    qsae__free(a->ctx, lines);
    qsae__free(a->ctx, chunks);
    return st;
}

json_t *qsae__llama_json(const qsae_audit *a, const struct participant *p)
{
    if (!a->llama || !p->llama)
        return json_null();
    json_t *const o = json_object();
    json_object_set_new(o, "base", a->llama->base_path ? json_string(a->llama->base_path)
                                                       : json_null());
    for (int32_t i = 0; i < qsae_metric_count(p->llama); i++) {
        qsae_value v = { .struct_size = sizeof v };
        if (qsae_metric_value(p->llama, i, &v) == QSAE_OK && strcmp(v.name, "documents") != 0)
            json_object_set_new(o, v.name, qsae__named(p->llama, v.name));
    }
    const int32_t st = add_lines(a, p->llama, o);
    if (st == QSAE_OK)
        return o;
    if (st == QSAE_ENOMEM)
        qsae__json_lose();
    json_decref(o);
    return json_null();
}
