/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * llama.cpp runs the model, libqsae keeps the score: rows of the residual stream are taken out of
 * llama.cpp's graph by its public cb_eval callback (tensor "l_out-N" is the output of block N),
 * logits by llama_get_logits. See doc/howto-llama.md.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <ggml-backend.h>
#include <ggml.h>
#include <llama.h>

#include <qsae/qsae.h>

static const char usage[] =
    "usage: llama_residuals MODEL.gguf --sae SAE[@LAYER] --text FILE [options]\n"
    "  --sae SAE[@LAYER]     a sparse autoencoder on the output of a block; LAYER, from 0, may be\n"
    "                        left out where the SAE's files name their hook\n"
    "  --text FILE           plain text or JSON lines\n"
    "  --against OTHER.gguf  a compressed copy: CE, KL, noise floor and feature survival, too\n"
    "  --bos POLICY          as in evaluate (default: chunk_start if the model has a BOS)\n"
    "  --context N           tokens of a chunk (default: 512)\n"
    "  --batch N             chunks that llama.cpp runs as sequences of one batch (default: 1)\n"
    "  --ubatch N            tokens that it computes at once (default: 512)\n"
    "  --tokens N            stop after the chunk that reaches N tokens (default: all)\n"
    "  --gpu-layers N        layers on a GPU (default: 0)\n"
    "  --threads N           of both (default: as many as there are)\n"
    "  --version, --help\n"
    "Logits of a whole batch are held: batch x context x vocabulary x 4 bytes for each model.\n"
    "Exit status: 0, 1 on errors, 2 for wrong options.\n";

struct options {
    const char *model, *against, *sae, *text, *bos;
    int64_t context, batch, ubatch, tokens, threads, gpu_layers;
};

/* One model in llama.cpp, and the rows that its graph gave in the last batch. */
struct engine {
    const char *path;
    struct llama_model *model;
    struct llama_context *context;
    struct llama_batch batch;
    char tensor[32];         /* "l_out-N" */
    float *rows;             /* [capacity, width] in the order of the batch */
    int64_t n, capacity, width, vocab;
    char error[160];         /* of the callback, which cannot return one */
};

/* What libqsae makes of one model's rows. */
struct side {
    struct engine engine;
    float *y;                /* [capacity, width] reconstructions */
    int64_t *indptr;         /* [capacity + 1] sparse activations */
    int32_t *indices;        /* [entries] */
    float *values;           /* [entries] */
    float *state;            /* [capacity, state_size] */
    int64_t entries;
    qsae_metric *ce, *reconstruction;
};

struct run {
    struct options options;
    qsae_context *context;
    qsae_tokenizer *tokenizer;
    qsae_corpus *corpus;
    qsae_corpus_info text;
    qsae_sae *sae;
    qsae_sae_info info;
    int32_t layer;
    struct side side[2];     /* reference, compressed */
    int sides;
    qsae_metric *divergence, *drift, *features;
    /* One batch, [capacity]. */
    int32_t *labels, *position;
    int64_t *document;
    uint8_t *mask, *mask_features;
    int64_t capacity, n;
};

static int failed(const char *what)
{
    fprintf(stderr, "llama_residuals: %s\n", what);
    return 0;
}

static int ok(int32_t status)
{
    return status == QSAE_OK || failed(qsae_error_message());
}

/* NULL with a message; n elements of that size. */
static void *array(int64_t n, size_t size)
{
    void *const p = n >= 0 && (uint64_t)n < SIZE_MAX / size ? calloc((size_t)n + 1, size) : NULL;
    if (!p)
        failed("out of memory");
    return p;
}

/*
 * llama.cpp asks for each node of the graph whether it is wanted, and shows it once it has been
 * computed. A batch is computed in parts (ubatches), so the tensor comes several times, with some
 * rows each: with one KV buffer for all sequences they follow one another in the batch's order.
 * The tensor may lie on another device: ggml_backend_tensor_get copies it from wherever it is.
 */
static bool see(struct ggml_tensor *t, bool ask, void *cookie)
{
    struct engine *const e = cookie;
    const bool wanted = strcmp(ggml_get_name(t), e->tensor) == 0;
    if (ask || !wanted || *e->error)
        return ask ? wanted : true;
    const int64_t n = ggml_nrows(t);
    if (t->type != GGML_TYPE_F32 || !ggml_is_contiguous(t) || t->ne[0] != e->width)
        snprintf(e->error, sizeof e->error, "%s: expected [rows, %" PRId64 "] f32, found [%" PRId64
                 ", %" PRId64 "] %s", e->tensor, e->width, n, t->ne[0], ggml_type_name(t->type));
    else if (n > e->capacity - e->n)
        snprintf(e->error, sizeof e->error, "%s: expected %" PRId64 " rows, found more", e->tensor,
                 e->capacity);
    else {
        ggml_backend_tensor_get(t, e->rows + e->n * e->width, 0, ggml_nbytes(t));
        e->n += n;
    }
    return !*e->error;
}

static void quiet(enum ggml_log_level level, const char *text, void *cookie)
{
    (void)cookie;
    if (level == GGML_LOG_LEVEL_ERROR)
        fputs(text, stderr);
}

static void engine_close(struct engine *e)
{
    if (e->batch.token)
        llama_batch_free(e->batch);
    if (e->context)
        llama_free(e->context);
    if (e->model)
        llama_model_free(e->model);
    free(e->rows);
}

static int engine_open(struct engine *e, const char *path, const struct options *o, int32_t layer,
                       int64_t rows, int64_t width)
{
    struct llama_model_params mp = llama_model_default_params();
    struct llama_context_params cp = llama_context_default_params();
    e->path = path;
    e->capacity = rows;
    e->width = width;
    snprintf(e->tensor, sizeof e->tensor, "l_out-%d", (int)layer);
    mp.n_gpu_layers = (int32_t)o->gpu_layers;
    if (!(e->model = llama_model_load_from_file(path, mp))) {
        fprintf(stderr, "llama_residuals: %s: llama.cpp cannot load it\n", path);
        return 0;
    }
    e->vocab = llama_vocab_n_tokens(llama_model_get_vocab(e->model));
    if (layer >= llama_model_n_layer(e->model) || llama_model_n_embd(e->model) != width) {
        fprintf(stderr, "llama_residuals: %s: expected rows of width %" PRId64 " in layer %d, found"
                " %d layers of width %d\n", path, width, (int)layer, llama_model_n_layer(e->model),
                llama_model_n_embd(e->model));
        return 0;
    }
    if (o->batch > 1 && (llama_model_is_recurrent(e->model) || llama_model_is_hybrid(e->model)))
        return failed("of models with a recurrent state, only --batch 1 keeps the order of rows");
    cp.n_ctx = cp.n_batch = (uint32_t)rows;
    cp.n_ubatch = (uint32_t)(o->ubatch < rows ? o->ubatch : rows);
    cp.n_seq_max = (uint32_t)o->batch;
    cp.kv_unified = true; /* ubatches are then cut from the batch in its order */
    cp.swa_full = true;
    cp.cb_eval = see;
    cp.cb_eval_user_data = e;
    if (o->threads > 0)
        cp.n_threads = cp.n_threads_batch = (int32_t)o->threads;
    if (!(e->context = llama_init_from_model(e->model, cp)))
        return failed("llama.cpp cannot make a context");
    e->batch = llama_batch_init((int32_t)rows, 0, 1);
    if (!e->batch.token || !e->batch.pos || !e->batch.seq_id || !e->batch.logits)
        return failed("out of memory: a batch of llama.cpp");
    return (e->rows = array(rows * width, sizeof *e->rows)) != NULL;
}

/* Runs the batch: rows into e->rows, logits stay in e->context. */
static int engine_run(struct engine *e)
{
    e->n = 0;
    *e->error = '\0';
    for (int32_t i = 0; i < e->batch.n_tokens; i++)
        if (e->batch.token[i] >= e->vocab) {
            fprintf(stderr, "llama_residuals: %s: token %d of the text is not in its vocabulary\n",
                    e->path, (int)e->batch.token[i]);
            return 0;
        }
    llama_memory_clear(llama_get_memory(e->context), true);
    const int32_t code = llama_decode(e->context, e->batch);
    if (*e->error)
        return failed(e->error);
    if (code != 0 || e->n != e->batch.n_tokens) {
        fprintf(stderr, "llama_residuals: %s: llama_decode returned %d; expected %d rows of %s, "
                "found %" PRId64 "\n", e->path, (int)code, (int)e->batch.n_tokens, e->tensor, e->n);
        return 0;
    }
    return 1;
}

/* The chunks of a batch, one sequence each, for libqsae and for llama.cpp. All tokens are outputs:
 * of the last block llama.cpp computes no other rows. */
static int gather(struct run *r, int64_t chunk)
{
    r->n = 0;
    for (int64_t s = 0; s < r->options.batch && chunk + s < r->text.chunks; s++) {
        const int32_t *ids, *labels;
        const int64_t *document;
        int64_t n;
        if (!ok(qsae_corpus_chunk(r->corpus, chunk + s, &ids, &labels, &document, &n)))
            return 0;
        for (int64_t i = 0; i < n; i++, r->n++) {
            const int special = qsae_tokenizer_is_special(r->tokenizer, ids[i]);
            r->labels[r->n] = labels[i];
            r->document[r->n] = document[i];
            r->position[r->n] = (int32_t)i;
            r->mask[r->n] =
                (uint8_t)((i == 0 ? QSAE_MASK_FIRST : 0) | (special ? QSAE_MASK_SPECIAL : 0));
            /* As evaluate: features are not counted where a chunk begins. */
            r->mask_features[r->n] = (uint8_t)(r->mask[r->n] | (i == 0 ? QSAE_MASK_EXCLUDED : 0));
            for (int k = 0; k < r->sides; k++) {
                struct llama_batch *const b = &r->side[k].engine.batch;
                b->token[r->n] = ids[i];
                b->pos[r->n] = (llama_pos)i;
                b->n_seq_id[r->n] = 1;
                b->seq_id[r->n][0] = (llama_seq_id)s;
                b->logits[r->n] = 1;
                b->n_tokens = (int32_t)(r->n + 1);
            }
        }
    }
    return 1;
}

/* Rows to sparse activations and reconstructions. */
static int encode(struct run *r, struct side *s, const qsae_rows *x, qsae_rows *y)
{
    int64_t nnz;
    int32_t st = qsae_sae_encode_sparse(r->sae, x, s->indptr, s->indices, s->values, s->entries,
                                        s->state, &nnz);
    if (st == QSAE_ESPACE) {
        free(s->indices);
        free(s->values);
        s->entries = nnz + nnz / 4;
        s->indices = array(s->entries, sizeof *s->indices);
        s->values = array(s->entries, sizeof *s->values);
        if (!s->indices || !s->values)
            return 0;
        st = qsae_sae_encode_sparse(r->sae, x, s->indptr, s->indices, s->values, s->entries,
                                    s->state, &nnz);
    }
    return ok(st) && ok(qsae_sae_reconstruct(r->sae, x, y));
}

static int measure(struct run *r, int64_t chunk)
{
    qsae_positions at = { sizeof at, chunk * r->text.context, r->document, r->position, r->mask,
                          r->n };
    qsae_positions at_features = at;
    qsae_rows x[2], y[2], logits[2];
    qsae_sparse_rows acts[2];
    at_features.mask = r->mask_features;
    for (int k = 0; k < r->sides; k++) {
        struct side *const s = &r->side[k];
        const struct engine *const e = &s->engine;
        if (!engine_run(&s->engine))
            return 0;
        x[k] = (qsae_rows){ sizeof *x, e->rows, r->n, e->width, e->width, QSAE_F32, 0 };
        y[k] = (qsae_rows){ sizeof *y, s->y, r->n, e->width, e->width, QSAE_F32, 0 };
        logits[k] = (qsae_rows){ sizeof *logits, llama_get_logits(e->context), r->n, e->vocab,
                                 e->vocab, QSAE_F32, 0 };
        if (!encode(r, s, &x[k], &y[k]))
            return 0;
        acts[k] = (qsae_sparse_rows){ sizeof *acts, r->n, s->indptr, s->indices, s->values };
        if (!ok(qsae_metric_update_reconstruction(s->reconstruction, &at_features, &x[k], &y[k],
                                                  &acts[k])) ||
            !ok(qsae_metric_update_cross_entropy_logits(s->ce, &at, &logits[k], r->labels)))
            return 0;
    }
    return r->sides < 2 ||
           (ok(qsae_metric_update_divergence_logits(r->divergence, &at, &logits[0], &logits[1],
                                                    r->labels)) &&
            ok(qsae_metric_update_drift(r->drift, &at_features, &x[0], &x[1], &y[0], &y[1])) &&
            ok(qsae_metric_update_features(r->features, &at_features, &acts[0], &acts[1])));
}

/* SAE[@LAYER], its hook if no layer is told. Only outputs of blocks are named l_out. */
static int open_sae(struct run *r)
{
    char path[4096];
    const char *const at = strrchr(r->options.sae, '@');
    char *end;
    const long told = at ? strtol(at + 1, &end, 10) : -1;
    const int has = at && end != at + 1 && *end == '\0' && told >= 0 && told < 100000;
    const size_t n = has ? (size_t)(at - r->options.sae) : strlen(r->options.sae);
    if (n >= sizeof path)
        return failed("the SAE's path is too long");
    memcpy(path, r->options.sae, n);
    path[n] = '\0';
    r->info.struct_size = sizeof r->info;
    if (!ok(qsae_sae_open(r->context, path, NULL, &r->sae)) ||
        !ok(qsae_sae_get_info(r->sae, &r->info)))
        return 0;
    r->layer = has ? (int32_t)told : -1;
    if (!has && qsae_site_from_name(r->info.hook, &r->layer) != QSAE_SITE_RESID_POST) {
        fprintf(stderr, "llama_residuals: %s: expected a hook on the output of a block, found "
                "\"%s\"; SAE@LAYER tells the layer\n", path, r->info.hook);
        return 0;
    }
    return !r->info.transcoder || failed("a transcoder reads another place than a block's output");
}

static int open_text(struct run *r)
{
    const struct options *const o = &r->options;
    qsae_corpus_settings cs;
    qsae_corpus_settings_init(&cs, sizeof cs);
    cs.context = o->context;
    cs.max_tokens = o->tokens;
    r->text.struct_size = sizeof r->text;
    if (o->bos && (cs.bos_policy = qsae_bos_from_name(o->bos)) < 0)
        return failed("--bos: none, stream_start, doc_start, chunk_start or chunk_replace");
    return ok(qsae_tokenizer_open(r->context, o->model, &r->tokenizer)) &&
           ok(qsae_corpus_open(r->context, r->tokenizer, o->text, &cs, &r->corpus)) &&
           ok(qsae_corpus_get_info(r->corpus, &r->text));
}

static int open_sides(struct run *r)
{
    const struct options *const o = &r->options;
    const int64_t n = r->capacity = o->batch * r->text.context, d = r->info.width;
    qsae_metric_settings s;
    qsae_metric_settings_init(&s, sizeof s);
    s.batch_rows = n;
    for (int k = 0; k < r->sides; k++) {
        struct side *const side = &r->side[k];
        if (!engine_open(&side->engine, k ? o->against : o->model, o, r->layer, n, d) ||
            !ok(qsae_metric_open_cross_entropy(r->context, &s, &side->ce)) ||
            !ok(qsae_metric_open_reconstruction(r->context, d, r->info.features, &s,
                                                &side->reconstruction)) ||
            !(side->y = array(n * d, sizeof *side->y)) ||
            !(side->indptr = array(n + 1, sizeof *side->indptr)) ||
            !(side->state = array(n * r->info.state_size, sizeof *side->state)))
            return 0;
    }
    if (r->sides == 2 && r->side[0].engine.vocab != r->side[1].engine.vocab)
        return failed("the two models have vocabularies of different size");
    return (r->sides < 2 ||
            (ok(qsae_metric_open_divergence(r->context, &s, &r->divergence)) &&
             ok(qsae_metric_open_drift(r->context, d, &s, &r->drift)) &&
             ok(qsae_metric_open_features(r->context, r->info.features, &s, &r->features)))) &&
           (r->labels = array(n, sizeof *r->labels)) &&
           (r->position = array(n, sizeof *r->position)) &&
           (r->document = array(n, sizeof *r->document)) &&
           (r->mask = array(n, sizeof *r->mask)) &&
           (r->mask_features = array(n, sizeof *r->mask_features));
}

/* A line for each name of both sides, or one line of the pair. */
static int print(struct run *r)
{
    static const char *const pair[] = { "dce", "kl_mean", "top1_agreement" };
    static const char *const drift[] = { "P", "R_q", "ratio" };
    static const char *const features[] = { "active", "survived_percent", "median_r" };
    static const char *const sums[] = { "fvu_dim", "fvu_scalar", "l0" };
    double v[2] = { NAN, NAN };
    int good = 1;
    printf("%" PRId64 " tokens, layer %d\n", r->text.tokens, (int)r->layer);
    for (int i = -2; i < 3; i++) {
        const char *const name = i == -2 ? "ce" : i == -1 ? "ppl" : sums[i];
        for (int k = 0; k < r->sides; k++)
            good &= ok(qsae_metric_get(i < 0 ? r->side[k].ce : r->side[k].reconstruction, name,
                                       &v[k]));
        printf(r->sides == 2 ? "%-18s %14.8g %14.8g\n" : "%-18s %14.8g\n", name, v[0], v[1]);
    }
    for (int i = 0; i < 9 && r->sides == 2; i++) {
        const char *const name = i < 3 ? pair[i] : i < 6 ? drift[i - 3] : features[i - 6];
        good &= ok(qsae_metric_get(i < 3 ? r->divergence : i < 6 ? r->drift : r->features, name,
                                   v));
        printf("%-18s %14s %14.8g\n", name, "", v[0]);
    }
    return good;
}

static void close_run(struct run *r)
{
    for (int k = 0; k < 2; k++) {
        struct side *const s = &r->side[k];
        engine_close(&s->engine);
        free(s->y);
        free(s->indptr);
        free(s->indices);
        free(s->values);
        free(s->state);
        qsae_metric_close(&s->ce);
        qsae_metric_close(&s->reconstruction);
    }
    qsae_metric_close(&r->divergence);
    qsae_metric_close(&r->drift);
    qsae_metric_close(&r->features);
    free(r->labels);
    free(r->position);
    free(r->document);
    free(r->mask);
    free(r->mask_features);
    qsae_sae_close(&r->sae);
    qsae_corpus_close(&r->corpus);
    qsae_tokenizer_close(&r->tokenizer);
    qsae_context_close(&r->context);
}

static int go(struct run *r)
{
    qsae_context_settings cs;
    qsae_context_settings_init(&cs, sizeof cs);
    cs.threads = (int32_t)r->options.threads;
    r->sides = r->options.against ? 2 : 1;
    if (!ok(qsae_context_open(&cs, &r->context)) || !open_sae(r) || !open_text(r) || !open_sides(r))
        return 0;
    for (int64_t c = 0; c < r->text.chunks; c += r->options.batch)
        if (!gather(r, c) || !measure(r, c))
            return 0;
    return print(r);
}

/* A whole number of least to 1e9. */
static int number(const char *name, const char *text, int64_t least, int64_t *out)
{
    char *end;
    errno = 0;
    *out = strtoll(text, &end, 10);
    if (errno == 0 && end != text && *end == '\0' && *out >= least && *out <= 1000000000)
        return 1;
    fprintf(stderr, "llama_residuals: --%s: expected a whole number from %" PRId64 ", found %s\n",
            name, least, text);
    return 0;
}

/* 1: run; 0: wrong; -1: done. */
static int parse(int argc, char **argv, struct options *o)
{
    static const struct option list[] = {
        { "sae", required_argument, NULL, 's' },     { "text", required_argument, NULL, 't' },
        { "against", required_argument, NULL, 'a' }, { "bos", required_argument, NULL, 'b' },
        { "context", required_argument, NULL, 'c' }, { "batch", required_argument, NULL, 'B' },
        { "ubatch", required_argument, NULL, 'u' },  { "tokens", required_argument, NULL, 'n' },
        { "threads", required_argument, NULL, 'T' }, { "gpu-layers", required_argument, NULL, 'g' },
        { "version", no_argument, NULL, 'V' },       { "help", no_argument, NULL, 'h' },
        { NULL, 0, NULL, 0 }
    };
    int c, good = 1;
    while (good && (c = getopt_long(argc, argv, "", list, NULL)) != -1) {
        switch (c) {
        case 's': o->sae = optarg; break;
        case 't': o->text = optarg; break;
        case 'a': o->against = optarg; break;
        case 'b': o->bos = optarg; break;
        case 'c': good = number("context", optarg, 2, &o->context); break;
        case 'B': good = number("batch", optarg, 1, &o->batch); break;
        case 'u': good = number("ubatch", optarg, 1, &o->ubatch); break;
        case 'n': good = number("tokens", optarg, 1, &o->tokens); break;
        case 'T': good = number("threads", optarg, 1, &o->threads); break;
        case 'g': good = number("gpu-layers", optarg, 0, &o->gpu_layers); break;
        case 'V': printf("libqsae %s\n", qsae_version()); return -1;
        case 'h': fputs(usage, stdout); return -1;
        default: good = 0;
        }
    }
    if (good && optind == argc - 1 && o->sae && o->text) {
        o->model = argv[optind];
        if (o->batch <= 1024 && o->batch * o->context <= INT32_MAX / 4)
            return 1;
        fprintf(stderr, "llama_residuals: --batch: at most 1024, and not so many tokens\n");
        return 0;
    }
    fputs(usage, stderr);
    return 0;
}

/* The exit status: 1, after a message, where not all of the output could be written. */
static int finish(int status)
{
    errno = 0;
    const int lost = fflush(stdout) != 0 || ferror(stdout);
    if (lost)
        fprintf(stderr, "llama_residuals: standard output: %s\n", strerror(errno ? errno : EIO));
    return lost && status == 0 ? 1 : status;
}

int main(int argc, char **argv)
{
    struct run r = { .options = { .context = 512, .batch = 1, .ubatch = 512 } };
    const int parsed = parse(argc, argv, &r.options);
    if (parsed <= 0)
        return parsed < 0 ? finish(0) : 2;
    llama_log_set(quiet, NULL);
    llama_backend_init();
    const int good = go(&r);
    close_run(&r);
    llama_backend_free();
    return finish(good ? 0 : 1);
}
