/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Many threads at once use what the headers allow them to share (one context, tokenizer, corpus,
 * checkpoint, codec, encoded matrix, predictor ...) and, on the same context, models, SAEs and
 * metrics of their own. Whatever a call computes must have the bytes that it has alone, every
 * failure must leave its own message in its own thread, and cancelling one thread's call must not
 * be felt by another. Under ThreadSanitizer (sh tests/tools/tools.sh BUILD tsan) every access is
 * watched too. Prints TAP lines. 8 threads x 20 rounds; QSAE_LONG_TESTS=1: 64 x 1,000.
 * usage: test_threads [THREADS [ROUNDS [race]]]
 * With "race" the threads also count without a lock, which ThreadSanitizer must report.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qsae/qsae.h>

#include "../faults/fixture.h"

enum { THREADS_MOST = 256, IDS = 64, ROWS = 4, ROOM = 4096, PASS = 9 };

/* What all threads use at the same time. */
struct shared {
    const struct fixture *f;
    qsae_context *ctx;
    qsae_tokenizer *tokenizer;
    qsae_corpus *corpus;
    qsae_probes *probes;
    qsae_tensors *tensors;
    qsae_weights *weights;
    qsae_quantizer *quantizer;
    qsae_qmatrix *matrix;
    qsae_predictor *predictor;
    qsae_logits_reader *logits;
    qsae_cancel_token *tokens[THREADS_MOST]; /* one per thread; its neighbour sets it */
    int threads;
};

/* What one thread uses alone. */
struct own {
    struct shared *s;
    int thread;
    int64_t round;
    qsae_model *model;
    qsae_sae *sae;
    char wrong[512];         /* "", or what went wrong */
};

static uint64_t mix(uint64_t h, const void *data, size_t size)
{
    const unsigned char *const p = data;
    for (size_t i = 0; i < size; i++)
        h = (h ^ p[i]) * 0x100000001b3u; /* FNV-1a */
    return h;
}

static void wrong(struct own *o, const char *what)
{
    if (!o->wrong[0])
        snprintf(o->wrong, sizeof o->wrong, "thread %d, round %" PRId64 ": %s: %s", o->thread,
                 o->round, what, qsae_error_message());
}

#define OK(call) \
    do { \
        if ((call) != QSAE_OK) { \
            wrong(o, #call); \
            goto end; \
        } \
    } while (0)

static qsae_rows pattern(float *data, int64_t n, int64_t cols, uint32_t seed)
{
    for (int64_t i = 0; i < n * cols; i++) {
        seed = seed * 1664525u + 1013904223u;
        data[i] = (float)(int32_t)seed * 0x1p-30f;
    }
    return (qsae_rows){ .struct_size = sizeof(qsae_rows), .data = data, .n_rows = n,
                        .n_cols = cols, .row_stride = cols, .dtype = QSAE_F32 };
}

/* ---- shared ---- */

static uint64_t use_text(struct own *o)
{
    static const char text[] = "abc cab<|endoftext|>xyz";
    const struct shared *const s = o->s;
    qsae_document_info document = { .struct_size = sizeof document };
    qsae_probe item = { .struct_size = sizeof item };
    const int32_t *labels, *chunk;
    const int64_t *documents;
    int32_t ids[IDS];
    int64_t n = 0;
    uint64_t h = 1;
    OK(qsae_tokenizer_encode(s->tokenizer, text, sizeof text - 1, 1, ids, IDS, &n));
    h = mix(h, ids, (size_t)n * sizeof *ids);
    OK(qsae_corpus_chunk(s->corpus, 0, &chunk, &labels, &documents, &n));
    h = mix(h, chunk, (size_t)n * sizeof *chunk);
    OK(qsae_corpus_document(s->corpus, 0, &document));
    h = mix(h, document.metadata, strlen(document.metadata));
    OK(qsae_probes_item(s->probes, 1, &item));
    h = mix(h, item.good, (size_t)item.n_good * sizeof *item.good);
end:
    return h;
}

static uint64_t use_codec(struct own *o)
{
    const struct shared *const s = o->s;
    float w[32 * 64], decoded[32 * 64], x[3 * 64], y[3 * 32];
    const qsae_rows weight = pattern(w, 32, 64, 1), in = pattern(x, 3, 64, 2);
    qsae_rows out = pattern(decoded, 32, 64, 3), result = pattern(y, 3, 32, 4);
    qsae_qmatrix *m = NULL;
    uint64_t h = 2;
    OK(qsae_quantizer_encode(s->quantizer, &weight, 0, 1, &m));
    OK(qsae_qmatrix_decode(m, &out));
    h = mix(h, decoded, sizeof decoded);
    OK(qsae_qmatrix_linear(s->matrix, &in, NULL, QSAE_F32, &result));
    h = mix(h, y, sizeof y);
end:
    qsae_qmatrix_close(&m);
    return h;
}

static uint64_t use_files(struct own *o)
{
    enum { BASE_ROWS = 15, BASE_VOCAB = 61 };
    const struct shared *const s = o->s;
    qsae_tensor_info info = { .struct_size = sizeof info };
    qsae_model_info model = { .struct_size = sizeof model };
    float rows[BASE_ROWS * BASE_VOCAB];
    uint64_t h = 3;
    for (int64_t i = 0; i < qsae_tensors_count(s->tensors); i++) {
        OK(qsae_tensors_get(s->tensors, i, &info));
        h = mix(h, info.name, strlen(info.name));
    }
    OK(qsae_weights_get_info(s->weights, &model));
    h = mix(h, model.hash, strlen(model.hash));
    OK(qsae_logits_reader_rows(s->logits, 1, rows, BASE_ROWS * BASE_VOCAB));
    h = mix(h, rows, sizeof rows);
end:
    return h;
}

static uint64_t use_predictor(struct own *o)
{
    const double rate[3] = { 0.1, 0.2, 0.0001 }, mean[3] = { 1, 2, 3 }, max[3] = { 3, 4, 5 };
    double p[3];
    int64_t rank[3] = { 0 };
    OK(qsae_predictor_run(o->s->predictor, rate, mean, max, 3, p, rank));
end:
    return mix(4, rank, sizeof rank);
}

/* ---- its own, on the shared context ---- */

static int32_t forward(qsae_model *m, qsae_cancel_token *cancel, float nll[PASS])
{
    static const int32_t ids[PASS] = { 1, 2, 3, 4, 5, 6, 7, 8, 9 };
    qsae_pass pass;
    qsae_pass_init(&pass, sizeof pass);
    pass.ids = ids;
    pass.n_seq = 1;
    pass.n_tokens = PASS;
    pass.nll = nll;
    pass.cancel = cancel;
    memset(nll, 0, PASS * sizeof *nll);
    return qsae_model_forward(m, &pass);
}

static uint64_t use_model(struct own *o)
{
    float nll[PASS];
    OK(forward(o->model, NULL, nll));
end:
    return mix(5, nll, sizeof nll);
}

static uint64_t use_sae(struct own *o)
{
    float x[ROWS * FIXTURE_WIDTH], y[ROWS * FIXTURE_WIDTH];
    const qsae_rows in = pattern(x, ROWS, FIXTURE_WIDTH, 5);
    qsae_rows out = pattern(y, ROWS, FIXTURE_WIDTH, 0);
    OK(qsae_sae_reconstruct(o->sae, &in, &out));
end:
    return mix(6, y, sizeof y);
}

static uint64_t use_metric(struct own *o)
{
    float nll[ROWS] = { 0.5f, 1.5f, 2.5f, 4.0f };
    double value = 0;
    qsae_metric *m = NULL;
    OK(qsae_metric_open_cross_entropy(o->s->ctx, NULL, &m));
    OK(qsae_metric_update_cross_entropy(m, NULL, ROWS, nll));
    OK(qsae_metric_get(m, "ce", &value));
end:
    qsae_metric_close(&m);
    return mix(7, &value, sizeof value);
}

/* Another model of the shared checkpoint, opened and closed. */
static uint64_t use_open(struct own *o)
{
    qsae_model *m = NULL;
    qsae_model_settings ms;
    float nll[PASS] = { 0 };
    qsae_model_settings_init(&ms, sizeof ms);
    ms.condition = "llm.int8:threshold=2";
    OK(qsae_model_open(o->s->weights, &ms, &m));
    OK(forward(m, NULL, nll));
end:
    qsae_model_close(&m);
    return mix(8, nll, sizeof nll);
}

/* A context with threads of its own. */
static uint64_t use_context(struct own *o)
{
    qsae_context *ctx = NULL;
    qsae_tensors *t = NULL;
    qsae_context_settings cs;
    int64_t n = 0;
    qsae_context_settings_init(&cs, sizeof cs);
    cs.threads = 2;
    OK(qsae_context_open(&cs, &ctx));
    OK(qsae_tensors_open(ctx, o->s->f->model, &t));
    qsae_context_close(&ctx); /* the tensors still hold it */
    n = qsae_tensors_count(t);
end:
    qsae_tensors_close(&t);
    qsae_context_close(&ctx);
    return mix(9, &n, sizeof n);
}

/* A failure's message is that of the calling thread. */
static uint64_t use_failure(struct own *o)
{
    char spec[64], message[512];
    qsae_quantizer *q = NULL;
    snprintf(spec, sizeof spec, "thread%dround%" PRId64, o->thread, o->round);
    const int32_t st = qsae_quantizer_open(o->s->ctx, spec, &q);
    snprintf(message, sizeof message, "%s", qsae_error_message());
    if (st != QSAE_EINVAL || !strstr(message, spec))
        wrong(o, "another message");
    use_model(o); /* workers that had no error leave it alone */
    if (strcmp(message, qsae_error_message()) != 0)
        wrong(o, "the message has changed");
    qsae_quantizer_close(&q);
    return 10;
}

/* The neighbour's token is set at any time; a call of this thread that is ended leaves its model as
 * it was. */
static uint64_t use_cancel(struct own *o)
{
    struct shared *const s = o->s;
    qsae_cancel_token *const mine = s->tokens[o->thread];
    float nll[PASS], text[PASS];
    qsae_cancel_token_cancel(s->tokens[(o->thread + 1) % s->threads]);
    const int32_t st = forward(o->model, mine, nll);
    if (st != QSAE_OK && st != QSAE_ECANCELED)
        wrong(o, "a pass that may be cancelled");
    OK(forward(o->model, NULL, text));
    if (st == QSAE_OK && memcmp(nll, text, sizeof nll) != 0)
        wrong(o, "a pass that was not cancelled has other bytes");
    qsae_cancel_token_cancel(mine);
    if (forward(o->model, mine, nll) != QSAE_ECANCELED)
        wrong(o, "a pass that was cancelled before it began");
    qsae_cancel_token_reset(mine);
end:
    return 11;
}

static const struct {
    const char *name;
    uint64_t (*use)(struct own *o);
} uses[] = {
    { "text", use_text },       { "codec", use_codec },     { "files", use_files },
    { "predictor", use_predictor }, { "model", use_model }, { "sae", use_sae },
    { "metric", use_metric },   { "open", use_open },       { "context", use_context },
    { "failure", use_failure }, { "cancel", use_cancel },
};
enum { USES = sizeof uses / sizeof uses[0] };

/* ---- threads ---- */

static uint64_t expected[USES];
static atomic_llong calls;
static bool race;
static long long unlocked;

static bool own_open(struct own *o)
{
    qsae_model_settings ms;
    qsae_model_settings_init(&ms, sizeof ms);
    ms.condition = "nf4";
    OK(qsae_model_open(o->s->weights, &ms, &o->model));
    OK(qsae_sae_open(o->s->ctx, o->s->f->sae, NULL, &o->sae));
end:
    return !o->wrong[0];
}

static void own_close(struct own *o)
{
    qsae_model_close(&o->model);
    qsae_sae_close(&o->sae);
}

struct job {
    struct own own;
    int64_t rounds;
    pthread_barrier_t *start;
    pthread_t thread;
};

static void *work(void *arg)
{
    struct job *const j = arg;
    struct own *const o = &j->own;
    pthread_barrier_wait(j->start);
    if (!own_open(o))
        goto end;
    for (o->round = 0; o->round < j->rounds && !o->wrong[0]; o->round++) {
        const int u = (int)((o->round + 3 * o->thread) % USES);
        if (uses[u].use(o) != expected[u])
            wrong(o, uses[u].name);
        atomic_fetch_add(&calls, 1);
        if (race)
            unlocked++;
    }
end:
    own_close(o);
    return NULL;
}

static bool shared_open(struct shared *s, struct own *o)
{
    qsae_context_settings cs;
    float w[32 * 64];
    const qsae_rows weight = pattern(w, 32, 64, 7);
    qsae_context_settings_init(&cs, sizeof cs);
    cs.threads = 3;
    OK(qsae_context_open(&cs, &s->ctx));
    OK(qsae_tokenizer_open(s->ctx, s->f->model, &s->tokenizer));
    OK(qsae_corpus_open(s->ctx, s->tokenizer, s->f->jsonl, NULL, &s->corpus));
    OK(qsae_probes_open(s->ctx, s->tokenizer, s->f->probes, NULL, &s->probes));
    OK(qsae_tensors_open(s->ctx, s->f->model, &s->tensors));
    OK(qsae_weights_open(s->ctx, s->f->model, &s->weights));
    OK(qsae_quantizer_open(s->ctx, "nf4", &s->quantizer));
    OK(qsae_quantizer_encode(s->quantizer, &weight, 0, 1, &s->matrix));
    OK(qsae_predictor_open(s->ctx, s->f->result, NULL, NULL, &s->predictor));
    OK(qsae_logits_reader_open(s->ctx, s->f->base, &s->logits));
    for (int t = 0; t < s->threads; t++)
        OK(qsae_cancel_token_open(&s->tokens[t]));
end:
    return !o->wrong[0];
}

static void shared_close(struct shared *s)
{
    for (int t = 0; t < s->threads; t++)
        qsae_cancel_token_close(&s->tokens[t]);
    qsae_logits_reader_close(&s->logits);
    qsae_predictor_close(&s->predictor);
    qsae_qmatrix_close(&s->matrix);
    qsae_quantizer_close(&s->quantizer);
    qsae_weights_close(&s->weights);
    qsae_tensors_close(&s->tensors);
    qsae_probes_close(&s->probes);
    qsae_corpus_close(&s->corpus);
    qsae_tokenizer_close(&s->tokenizer);
    qsae_context_close(&s->ctx);
}

/* The jobs' number of failures, each printed. */
static int run_all(struct shared *s, struct job *jobs, int64_t rounds)
{
    pthread_barrier_t start;
    int bad = 0, started = 0;
    if (pthread_barrier_init(&start, NULL, (unsigned)s->threads) != 0)
        return 1;
    for (; started < s->threads; started++) {
        struct job *const j = &jobs[started];
        *j = (struct job){ .own = { .s = s, .thread = started }, .rounds = rounds,
                           .start = &start };
        if (pthread_create(&j->thread, NULL, work, j) != 0) {
            /* those that wait at the barrier never pass it: nothing to clean up in a test */
            printf("Bail out! thread %d does not start\n", started);
            exit(1);
        }
    }
    for (int t = 0; t < started; t++) {
        pthread_join(jobs[t].thread, NULL);
        if (jobs[t].own.wrong[0]) {
            printf("# %s\n", jobs[t].own.wrong);
            bad++;
        }
    }
    pthread_barrier_destroy(&start);
    return bad;
}

int main(int argc, char **argv)
{
    const char *const full = getenv("QSAE_LONG_TESTS");
    const bool is_long = full && strcmp(full, "1") == 0;
    const int threads = argc > 1 && atoi(argv[1]) > 0 ? atoi(argv[1]) : is_long ? 64 : 8;
    const int64_t rounds = argc > 2 && atoll(argv[2]) > 0 ? atoll(argv[2]) : is_long ? 1000 : 20;
    race = argc > 3 && strcmp(argv[3], "race") == 0;
    static struct job jobs[THREADS_MOST];
    struct fixture f;
    struct shared s = { .f = &f, .threads = threads };
    struct own alone = { .s = &s };
    if (threads < 1 || threads > THREADS_MOST || rounds < 1 || !fixture_make(&f)) {
        printf("Bail out! 1 to %d threads, 1 round or more, a folder\n", THREADS_MOST);
        return 2;
    }
    printf("1..2\n");
    if (shared_open(&s, &alone) && own_open(&alone))
        for (int u = 0; u < USES; u++)
            expected[u] = uses[u].use(&alone);
    own_close(&alone);
    printf("%sok 1 - alone\n", alone.wrong[0] ? "not " : "");
    if (alone.wrong[0])
        printf("# %s\n", alone.wrong);
    const int bad = alone.wrong[0] ? 1 : run_all(&s, jobs, rounds);
    printf("# %d threads, %" PRId64 " rounds: %lld uses of %d kinds\n", threads, rounds,
           (long long)atomic_load(&calls), USES);
    printf("%sok 2 - together as alone\n", bad ? "not " : "");
    shared_close(&s);
    fixture_remove(&f);
    return bad ? 1 : 0;
}
