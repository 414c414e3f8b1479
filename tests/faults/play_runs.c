/* SPDX-License-Identifier: BSD-2-Clause */
/* Scenarios of what gathers: metrics and their states, base-logit files, audits. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "play.h"

enum { N = 6, D = 8, F = 12, V = 16 };

static void see_metric(struct run *r, qsae_metric *m)
{
    qsae_value v = { .struct_size = sizeof v };
    see_text(r, MAKE(qsae_metric_kind(m)));
    for (int32_t i = 0; i < MAKE(qsae_metric_count(m)); i++) {
        TRY(qsae_metric_value(m, i, &v));
        see_text(r, v.name);
        see_number(r, v.value);
    }
end:;
}

/* Save, load, merge and reset of a metric; `part` is of the same kind and empty. */
static void play_state(struct run *r, qsae_metric *m, qsae_metric *part, const char *name)
{
    char path[256];
    scratch(r, name, path);
    ONCE(qsae_metric_save(m, path));
    see_file(r, path);
    TRY(qsae_metric_load(part, path));
    MAKE(qsae_metric_reset(m));
    TRY(qsae_metric_merge(m, part));
    see_metric(r, m);
end:;
}

static qsae_sparse_rows sparse(int64_t *indptr, int32_t *indices, float *values, float factor)
{
    for (int32_t i = 0; i < N; i++) {
        indptr[i] = 2 * i;
        indices[2 * i] = i % 5;
        indices[2 * i + 1] = 5 + i;
        values[2 * i] = factor * (float)(i + 1);
        values[2 * i + 1] = factor;
    }
    indptr[N] = 2 * N;
    return (qsae_sparse_rows){ .struct_size = sizeof(qsae_sparse_rows), .n = N, .indptr = indptr,
                               .indices = indices, .values = values };
}

void play_metrics(struct run *r)
{
    qsae_context *ctx = NULL;
    qsae_metric *ce = NULL, *ce2 = NULL, *d = NULL, *d2 = NULL, *drift = NULL, *drift2 = NULL;
    float nll[2][N], p[N * V], q[N * V], x[4][N * D];
    int32_t labels[N];
    double value;
    qsae_rows rows[4];
    const qsae_rows logits = play_rows(p, N, V, 1), other = play_rows(q, N, V, 2);
    const qsae_divergence_rows pairs = { .struct_size = sizeof pairs, .n = N, .nll_r = nll[0],
                                         .nll_q = nll[1] };
    const qsae_context_settings s = play_settings(r);
    for (int32_t i = 0; i < N; i++) {
        nll[0][i] = 0.5f * (float)(i + 1);
        nll[1][i] = 0.75f * (float)(i + 1);
        labels[i] = (3 * i) % V;
    }
    for (int i = 0; i < 4; i++)
        rows[i] = play_rows(x[i], N, D, (uint32_t)i);
    TRY(qsae_context_open(&s, &ctx));
    TRY(qsae_metric_open_cross_entropy(ctx, NULL, &ce));
    TRY(qsae_metric_open_cross_entropy(ctx, NULL, &ce2));
    TRY(qsae_metric_update_cross_entropy(ce, NULL, N, nll[0]));
    TRY(qsae_metric_update_cross_entropy_logits(ce, NULL, &logits, labels));
    TRY(qsae_metric_get(ce, "ce", &value));
    see_number(r, value);
    play_state(r, ce, ce2, "ce");
    if (r->again)
        goto end;
    TRY(qsae_metric_open_divergence(ctx, NULL, &d));
    TRY(qsae_metric_open_divergence(ctx, NULL, &d2));
    TRY(qsae_metric_update_divergence(d, NULL, &pairs));
    TRY(qsae_metric_update_divergence_logits(d, NULL, &logits, &other, labels));
    play_state(r, d, d2, "divergence");
    if (r->again)
        goto end;
    TRY(qsae_metric_open_drift(ctx, D, NULL, &drift));
    TRY(qsae_metric_open_drift(ctx, D, NULL, &drift2));
    TRY(qsae_metric_update_drift(drift, NULL, &rows[0], &rows[1], &rows[2], &rows[3]));
    play_state(r, drift, drift2, "drift");
end:
    MAKE(qsae_metric_close(&ce));
    MAKE(qsae_metric_close(&ce2));
    MAKE(qsae_metric_close(&d));
    MAKE(qsae_metric_close(&d2));
    MAKE(qsae_metric_close(&drift));
    MAKE(qsae_metric_close(&drift2));
    MAKE(qsae_context_close(&ctx));
}

void play_features(struct run *r)
{
    qsae_context *ctx = NULL;
    qsae_metric *f = NULL, *f2 = NULL, *e = NULL, *e2 = NULL;
    qsae_metric_settings ms;
    int64_t indptr[2][N + 1], tokens[4], n;
    int32_t indices[2][2 * N];
    float values[2][2 * N], x[2][N * D];
    double figures[F], tops[4];
    const qsae_sparse_rows a = sparse(indptr[0], indices[0], values[0], 1),
                           b = sparse(indptr[1], indices[1], values[1], 1.5f);
    const qsae_rows in = play_rows(x[0], N, D, 3), out = play_rows(x[1], N, D, 4);
    const qsae_context_settings s = play_settings(r);
    TRY(qsae_context_open(&s, &ctx));
    MAKE(qsae_metric_settings_init(&ms, sizeof ms));
    ms.top = 2;
    ms.prompt_tokens = N;
    TRY(qsae_metric_open_features(ctx, F, &ms, &f));
    TRY(qsae_metric_open_features(ctx, F, &ms, &f2));
    TRY(qsae_metric_update_features(f, NULL, &a, &b));
    TRY(qsae_metric_features(f, "r", figures, F));
    see(r, figures, sizeof figures);
    TRY(qsae_metric_top(f, 1, 0, tokens, tops, 4, &n));
    see(r, tops, (size_t)n * sizeof *tops);
    play_state(r, f, f2, "features");
    if (r->again)
        goto end;
    TRY(qsae_metric_open_reconstruction(ctx, D, F, NULL, &e));
    TRY(qsae_metric_open_reconstruction(ctx, D, F, NULL, &e2));
    TRY(qsae_metric_update_reconstruction(e, NULL, &in, &out, &a));
    play_state(r, e, e2, "reconstruction");
end:
    MAKE(qsae_metric_close(&f));
    MAKE(qsae_metric_close(&f2));
    MAKE(qsae_metric_close(&e));
    MAKE(qsae_metric_close(&e2));
    MAKE(qsae_context_close(&ctx));
}

void play_logits(struct run *r)
{
    enum { CONTEXT = 8, CHUNKS = 2, ROWS = 3, BASE_ROWS = 15, BASE_VOCAB = 61 };
    qsae_context *ctx = NULL;
    qsae_logits_reader *reader = NULL;
    qsae_logits_writer *writer = NULL;
    qsae_metric *m = NULL, *m2 = NULL;
    float x[CHUNKS * ROWS * V], y[ROWS * V], base[BASE_ROWS * BASE_VOCAB];
    int32_t tokens[CHUNKS * CONTEXT], labels[ROWS] = { 1, 2, 3 };
    const int32_t *ids;
    int64_t chunks[4], n;
    double lines[4 * QSAE_METRIC_LLAMA_LINE];
    char path[256];
    qsae_metric_settings ms;
    const qsae_rows rows = play_rows(x, CHUNKS * ROWS, V, 1), three = play_rows(y, ROWS, V, 2),
                    q = play_rows(base, BASE_ROWS, BASE_VOCAB, 3);
    const qsae_rows first = { .struct_size = sizeof first, .data = x, .n_rows = ROWS, .n_cols = V,
                              .row_stride = V, .dtype = QSAE_F32 };
    const qsae_logits_info shape = { .struct_size = sizeof shape, .context = CONTEXT, .vocab = V,
                                     .chunks = CHUNKS };
    qsae_logits_info info = { .struct_size = sizeof info };
    const qsae_context_settings s = play_settings(r);
    for (int i = 0; i < CHUNKS * CONTEXT; i++)
        tokens[i] = i % V;
    TRY(qsae_context_open(&s, &ctx));
    TRY(qsae_logits_writer_open(ctx, scratch(r, "base.kld", path), &shape, tokens, &writer));
    TRY(qsae_logits_writer_add(writer, &rows));
    ONCE(qsae_logits_writer_finish(writer));
    see_file(r, path);
    TRY(qsae_logits_reader_open(ctx, r->f->base, &reader));
    TRY(qsae_logits_reader_get_info(reader, &info));
    TRY(qsae_logits_reader_tokens(reader, 0, &ids));
    see(r, ids, (size_t)info.context * sizeof *ids);
    TRY(qsae_logits_reader_rows(reader, 1, base, BASE_ROWS * BASE_VOCAB));
    see(r, base, sizeof base);
    MAKE(qsae_metric_settings_init(&ms, sizeof ms));
    ms.batch_rows = info.context;
    TRY(qsae_metric_open_llama_cpp(ctx, &ms, &m));
    TRY(qsae_metric_update_llama_cpp_base(m, reader, 0, &q));
    TRY(qsae_metric_llama_lines(m, chunks, lines, 4, &n));
    see(r, lines, (size_t)n * QSAE_METRIC_LLAMA_LINE * sizeof *lines);
    TRY(qsae_metric_open_llama_cpp(ctx, &ms, &m2));
    TRY(qsae_metric_update_llama_cpp_logits(m2, NULL, &first, &three, labels));
    see_metric(r, m2);
end:
    MAKE(qsae_metric_close(&m));
    MAKE(qsae_metric_close(&m2));
    MAKE(qsae_logits_writer_close(&writer));
    MAKE(qsae_logits_reader_close(&reader));
    MAKE(qsae_context_close(&ctx));
}

/* ---- audits ---- */

/* A result document without what differs from run to run. */
static void see_result(struct run *r, const char *json)
{
    static const char *const own[] = { "seconds", "tokens_per_second", "peak_rss" };
    for (const char *p = json; *p;) {
        const size_t n = strcspn(p, "\n");
        bool differs = false;
        for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
            differs |= memmem(p, n, own[i], strlen(own[i])) != NULL;
        if (!differs)
            see(r, p, n);
        p += n + (p[n] == '\n');
    }
}

enum { LINES = 6 };

struct lines {
    size_t n, sum;
};

/* The first lines will do: the others are made as they are. */
static int32_t take_line(void *cookie, const char *line, size_t n)
{
    struct lines *const l = cookie;
    l->sum += n + (size_t)(unsigned char)line[n / 2];
    return ++l->n == LINES;
}

/* logits: it writes a file of base logits. */
static void see_audit(struct run *r, qsae_audit *a, bool logits)
{
    const char *json;
    size_t n = 0;
    cover("qsae_audit_run(");
    int32_t st = qsae_audit_run(a);
    if (st != QSAE_OK && !retry(r, st, "qsae_audit_run"))
        return;
    if (st != QSAE_OK && (st = qsae_audit_run(a)) == QSAE_EIO && logits) {
        r->again = true; /* a file of base logits that could not be finished takes a new audit */
        return;
    }
    if (st != QSAE_OK)
        wrong(r, "qsae_audit_run, the second time: %s", qsae_error_message());
    TRY(qsae_audit_result(a, &json, &n));
    see_result(r, json);
end:;
}

static void see_lines(struct run *r, qsae_audit *a)
{
    struct lines l = { 0 };
    cover("qsae_audit_features(");
    int32_t st = qsae_audit_features(a, 0, take_line, &l);
    if (st < 0 && retry(r, st, "qsae_audit_features")) {
        l = (struct lines){ 0 };
        st = qsae_audit_features(a, 0, take_line, &l);
    }
    if (st < 0 && !(r->abandon && r->failures))
        wrong(r, "qsae_audit_features, the second time: %s", qsae_error_message());
    see_number(r, (double)l.sum);
}

static void audit_settings(struct run *r, qsae_audit_settings *s, const char *saes[1])
{
    saes[0] = r->f->sae;
    MAKE(qsae_audit_settings_init(s, sizeof *s));
    s->model = r->f->model;
    s->text = r->f->jsonl;
    s->saes = saes;
    s->n_saes = 1;
    s->profile = QSAE_PROFILE_PAPER;
    s->context = 20;
    s->batch = 2;
    s->max_tokens = 160;
    s->top_contexts = 2;
}

void play_audit(struct run *r)
{
    static const char *const conditions[] = { "rtn:bits=4", "llm.int8:threshold=2" };
    static const char *const slices[] = { "position", "kind" };
    static const int64_t contexts[] = { 8, 16 };
    qsae_context *ctx = NULL;
    qsae_audit *a = NULL;
    qsae_audit_settings as;
    qsae_merge_info info = { .struct_size = sizeof info };
    const char *saes[1], *files[2];
    char state[2][256], merged[256];
    const qsae_context_settings s = play_settings(r);
    audit_settings(r, &as, saes);
    as.conditions = conditions;
    as.n_conditions = 2;
    as.slices = slices;
    as.n_slices = 2;
    as.splice = 1;
    as.probes = r->f->probes;
    as.contexts = contexts;
    as.n_contexts = 2;
    as.shard_count = 2;
    scratch(r, "merged", merged);
    TRY(qsae_context_open(&s, &ctx));
    for (int i = 0; i < 2; i++) {
        as.state = files[i] = scratch(r, i ? "one" : "none", state[i]);
        as.shard_index = i;
        TRY(qsae_audit_open(ctx, &as, &a));
        TRY(qsae_audit_run(a));
        MAKE(qsae_audit_close(&a));
        section(r);
    }
    TRY(qsae_audit_merge(ctx, files, 2, merged, 0, &info));
    section(r);
    as.state = merged;
    as.shard_count = as.shard_index = 0;
    TRY(qsae_audit_open(ctx, &as, &a));
    see_audit(r, a, false);
    if (!r->wrong[0] && !(r->abandon && r->failures))
        see_lines(r, a);
end:
    MAKE(qsae_audit_close(&a));
    MAKE(qsae_context_close(&ctx));
}

/* One model at a time: the reference's rows go through a temporary file. */
void play_in_turn(struct run *r)
{
    static const char *const conditions[] = { "nf4", "ggml:q8_0+kv:k=q8_0,v=q8_0" };
    qsae_context *ctx = NULL;
    qsae_audit *a = NULL;
    qsae_audit_settings as;
    const char *saes[1];
    char logits[256];
    const qsae_context_settings s = play_settings(r);
    audit_settings(r, &as, saes);
    as.conditions = conditions;
    as.n_conditions = 1;
    as.memory = QSAE_MEMORY_IN_TURN;
    as.cache = r->f->scratch;
    as.controls = 1;
    as.kl_divergence = 1;
    as.save_logits = scratch(r, "logits", logits);
    TRY(qsae_context_open(&s, &ctx));
    TRY(qsae_audit_open(ctx, &as, &a));
    see_audit(r, a, true);
    if (!r->again)
        see_file(r, logits);
end:
    MAKE(qsae_audit_close(&a));
    MAKE(qsae_context_close(&ctx));
}

void play_sweep(struct run *r)
{
    static const char *const conditions[] = { "rtn:bits=4", "rtn:bits=8" };
    qsae_context *ctx = NULL;
    qsae_audit *a = NULL;
    qsae_audit_settings as;
    const char *saes[1], *json;
    const qsae_context_settings s = play_settings(r);
    audit_settings(r, &as, saes);
    as.conditions = conditions;
    as.n_conditions = 2;
    as.sweep = QSAE_SWEEP_LAYERS;
    as.max_tokens = 80;
    as.top_contexts = 0;
    TRY(qsae_context_open(&s, &ctx));
    TRY(qsae_audit_open(ctx, &as, &a));
    TRY(qsae_audit_run(a));
    TRY(qsae_audit_plan(a, 7, 1, &json));
    see_text(r, json);
end:
    MAKE(qsae_audit_close(&a));
    MAKE(qsae_context_close(&ctx));
}

void play_predictor(struct run *r)
{
    qsae_context *ctx = NULL;
    qsae_predictor *p = NULL;
    const double rate[3] = { 0.1, 0.2, 0.0001 }, mean[3] = { 1, 2, 3 }, max[3] = { 3, 4, 5 };
    double probability[3];
    int64_t rank[3];
    size_t n;
    const char *json;
    const qsae_context_settings s = play_settings(r);
    TRY(qsae_context_open(&s, &ctx));
    TRY(qsae_predictor_open(ctx, r->f->result, NULL, NULL, &p));
    TRY(qsae_predictor_json(p, &json, &n));
    see_text(r, json);
    TRY(qsae_predictor_run(p, rate, mean, max, 3, probability, rank));
    see(r, rank, sizeof rank);
end:
    MAKE(qsae_predictor_close(&p));
    MAKE(qsae_context_close(&ctx));
}

const struct scenario scenarios[] = {
    { .name = "codecs", .play = play_codecs },
    { .name = "readers", .play = play_readers, .kept = 1 /* libzip */ },
    { .name = "text", .play = play_text },
    { .name = "model", .play = play_model },
    { .name = "save", .play = play_save, .writes = true },
    { .name = "sae", .play = play_sae },
    { .name = "layers", .play = play_layers },
    { .name = "shared", .play = play_shared, .writes = true },
    { .name = "metrics", .play = play_metrics, .writes = true },
    { .name = "features", .play = play_features, .writes = true },
    { .name = "logits", .play = play_logits, .writes = true },
    { .name = "audit", .play = play_audit, .writes = true, .branches = true },
    { .name = "in-turn", .play = play_in_turn, .writes = true, .branches = true },
    { .name = "sweep", .play = play_sweep },
    { .name = "predictor", .play = play_predictor },
};
const int n_scenarios = sizeof scenarios / sizeof scenarios[0];
