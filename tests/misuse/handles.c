/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Handles that are given where they do not belong: a museum with an open and a closed one of each
 * kind, and what no single wrong argument makes: a pointer closed twice, parents closed first, calls
 * from inside callbacks, closed handles in numbers.
 */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include <qsae/qsae.h>

#include "../faults/fixture.h"
#include "misuse.h"

/* Type of a handle; open(f, ctx) and close make one. */
struct kind {
    const char *type;
    void *(*open)(const struct fixture *f, qsae_context *ctx);
    void (*close)(void *handle);
};

static qsae_context *context;

#define CLOSER(name) \
    static void close_##name(void *handle) \
    { \
        qsae_##name *h = handle; \
        qsae_##name##_close(&h); \
    }
CLOSER(context)
CLOSER(cancel_token)
CLOSER(tensors)
CLOSER(tokenizer)
CLOSER(corpus)
CLOSER(probes)
CLOSER(quantizer)
CLOSER(qmatrix)
CLOSER(weights)
CLOSER(model)
CLOSER(sae)
CLOSER(sae_layers)
CLOSER(metric)
CLOSER(logits_reader)
CLOSER(logits_writer)
CLOSER(audit)
CLOSER(predictor)

/* An opener whose call leaves the handle in h; f and ctx are its arguments. */
#define OPENER(name, call) \
    static void *open_##name(const struct fixture *f, qsae_context *ctx) \
    { \
        qsae_##name *h = NULL; \
        (void)f; \
        (void)ctx; \
        (void)(call); \
        return h; \
    }
OPENER(cancel_token, qsae_cancel_token_open(&h))
OPENER(tensors, qsae_tensors_open(ctx, f->model, &h))
OPENER(tokenizer, qsae_tokenizer_open(ctx, f->model, &h))
OPENER(quantizer, qsae_quantizer_open(ctx, "rtn:bits=4", &h))
OPENER(weights, qsae_weights_open(ctx, f->model, &h))
OPENER(sae, qsae_sae_open(ctx, f->sae, NULL, &h))
OPENER(sae_layers, qsae_sae_layers_open(ctx, f->layers, NULL, &h))
OPENER(metric, qsae_metric_open_cross_entropy(ctx, NULL, &h))
OPENER(logits_reader, qsae_logits_reader_open(ctx, f->base, &h))
OPENER(predictor, qsae_predictor_open(ctx, f->result, NULL, NULL, &h))

/* A context stays in memory while a handle of it is open. */
static qsae_quantizer *keeper;

static void *open_context(const struct fixture *f, qsae_context *ctx)
{
    qsae_context *h = NULL;
    (void)f;
    (void)ctx;
    if (qsae_context_open(NULL, &h) == QSAE_OK && !keeper)
        (void)qsae_quantizer_open(h, "none", &keeper);
    return h;
}

static void *open_corpus(const struct fixture *f, qsae_context *ctx)
{
    static const int32_t ids[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
    qsae_corpus *h = NULL;
    (void)f;
    (void)qsae_corpus_open_ids(ctx, ids, 2, 4, &h);
    return h;
}

static void *open_probes(const struct fixture *f, qsae_context *ctx)
{
    qsae_tokenizer *t = open_tokenizer(f, ctx);
    qsae_probes *h = NULL;
    (void)qsae_probes_open(ctx, t, f->probes, NULL, &h);
    qsae_tokenizer_close(&t);
    return h;
}

static void *open_qmatrix(const struct fixture *f, qsae_context *ctx)
{
    static float w[8 * 8];
    const qsae_rows rows = { .struct_size = sizeof rows, .data = w, .n_rows = 8, .n_cols = 8,
                             .row_stride = 8, .dtype = QSAE_F32 };
    qsae_quantizer *q = open_quantizer(f, ctx);
    qsae_qmatrix *h = NULL;
    w[3] = 1;
    (void)qsae_quantizer_encode(q, &rows, 0, 0, &h);
    qsae_quantizer_close(&q);
    return h;
}

static void *open_model(const struct fixture *f, qsae_context *ctx)
{
    qsae_weights *w = open_weights(f, ctx);
    qsae_model *h = NULL;
    (void)qsae_model_open(w, NULL, &h);
    qsae_weights_close(&w);
    return h;
}

static void *open_logits_writer(const struct fixture *f, qsae_context *ctx)
{
    const qsae_logits_info shape = { .struct_size = sizeof shape, .context = 4, .vocab = 9,
                                     .chunks = 1 };
    const int32_t ids[4] = { 1, 2, 3, 4 };
    char path[256];
    qsae_logits_writer *h = NULL;
    snprintf(path, sizeof path, "%s/museum.kld", f->folder);
    (void)qsae_logits_writer_open(ctx, path, &shape, ids, &h);
    return h;
}

static void *open_audit(const struct fixture *f, qsae_context *ctx)
{
    static const char *const conditions[] = { "rtn:bits=4" };
    qsae_audit_settings s;
    qsae_audit *h = NULL;
    qsae_audit_settings_init(&s, sizeof s);
    s.model = f->model;
    s.text = f->text;
    s.context = 16;
    s.max_tokens = 64;
    s.conditions = conditions;
    s.n_conditions = 1;
    (void)qsae_audit_open(ctx, &s, &h);
    return h;
}

#define KIND(name) { "qsae_" #name, open_##name, close_##name }
static const struct kind kinds[] = {
    KIND(context), KIND(cancel_token), KIND(tensors), KIND(tokenizer), KIND(corpus),
    KIND(probes), KIND(quantizer), KIND(qmatrix), KIND(weights), KIND(model), KIND(sae),
    KIND(sae_layers), KIND(metric), KIND(logits_reader), KIND(logits_writer), KIND(audit),
    KIND(predictor),
};
enum { N_KINDS = sizeof kinds / sizeof kinds[0], TOKEN = 1 };

static struct {
    void *open, *closed; /* no closed cancel token: such a one is not noticed */
} museum[N_KINDS];

bool museum_open(const struct fixture *f)
{
    bool good = qsae_context_open(NULL, &context) == QSAE_OK;
    for (int i = 0; i < N_KINDS && good; i++) {
        good = (museum[i].open = kinds[i].open(f, context)) != NULL;
        if (good && i != TOKEN) {
            museum[i].closed = i == 0 ? museum[i].open : kinds[i].open(f, context);
            good = museum[i].closed != NULL;
            kinds[i].close(museum[i].closed);
        }
        if (i == 0)
            museum[i].open = context;
        if (!good)
            fprintf(stderr, "%s: %s\n", kinds[i].type, qsae_error_message());
    }
    return good;
}

void museum_close(void)
{
    for (int i = N_KINDS - 1; i > 0; i--)
        kinds[i].close(museum[i].open);
    qsae_quantizer_close(&keeper);
    qsae_context_close(&context);
}

bool museum_whole(void)
{
    const int32_t ids[4] = { 1, 2, 3, 4 };
    const float nll[2] = { 1, 2 };
    float out[4];
    const char *json;
    int64_t n;
    qsae_tensor_info tensor = { .struct_size = sizeof tensor };
    qsae_sae_info sae = { .struct_size = sizeof sae };
    qsae_sae_layers_info layers = { .struct_size = sizeof layers };
    qsae_logits_info logits = { .struct_size = sizeof logits };
    qsae_probe probe = { .struct_size = sizeof probe };
    qsae_model_info info = { .struct_size = sizeof info };
    qsae_pass pass;
    qsae_pass_init(&pass, sizeof pass);
    pass.ids = ids;
    pass.n_seq = 1;
    pass.n_tokens = 4;
    pass.nll = out;
    pass.cancel = museum[1].open;
    return qsae_context_threads(museum[0].open) > 0 &&
           qsae_tensors_get(museum[2].open, 0, &tensor) == QSAE_OK &&
           qsae_tokenizer_encode(museum[3].open, "ab", 2, 0, NULL, 0, &n) == QSAE_ESPACE &&
           qsae_corpus_chunk(museum[4].open, 1, NULL, NULL, NULL, &n) == QSAE_OK &&
           qsae_probes_item(museum[5].open, 0, &probe) == QSAE_OK &&
           strncmp(qsae_quantizer_spec(museum[6].open), "rtn", 3) == 0 &&
           qsae_qmatrix_rows(museum[7].open) == 8 &&
           qsae_weights_get_info(museum[8].open, &info) == QSAE_OK &&
           qsae_model_forward(museum[9].open, &pass) == QSAE_OK &&
           qsae_sae_get_info(museum[10].open, &sae) == QSAE_OK &&
           qsae_sae_layers_get_info(museum[11].open, &layers) == QSAE_OK &&
           qsae_metric_update_cross_entropy(museum[12].open, NULL, 2, nll) == QSAE_OK &&
           qsae_logits_reader_get_info(museum[13].open, &logits) == QSAE_OK &&
           qsae_logits_writer_finish(museum[14].open) == QSAE_EINVAL /* rows are missing */ &&
           qsae_audit_run(museum[15].open) == QSAE_OK &&
           qsae_predictor_json(museum[16].open, &json, NULL) == QSAE_OK;
}

static int find(const char *type)
{
    int i = 0;
    while (i < N_KINDS - 1 && strcmp(kinds[i].type, type) != 0)
        i++;
    return i;
}

bool wrong_handle(int b, void **v, const void *good, const char *type)
{
    static _Alignas(64) unsigned char zeros[256], ones[256];
    const int own = find(type);
    void *const any = good ? (void *)(uintptr_t)good : museum[own].open;
    memset(ones, 0xff, sizeof ones);
    switch (b) {
    case 0:
        *v = NULL;
        break;
    case 1:
        *v = zeros;
        break;
    case 2:
        *v = ones;
        break;
    case 3:
        *v = (char *)any + 1;
        break;
    case 4: /* of another kind */
    case 5:
    case 6:
        *v = museum[(own + (b == 4 ? 1 : b == 5 ? 5 : 11)) % N_KINDS].open;
        break;
    case 7:
        *v = museum[own].closed ? museum[own].closed : museum[2].closed;
        break;
    case 8: /* closed, of another kind */
        *v = museum[own == 9 ? 12 : 9].closed;
        break;
    case 9:
        *v = (char *)any + 8;
        break;
    default:
        return false;
    }
    return true;
}

bool wrong_place(int b, void ***v, const char *type)
{
    static void *place[2];
    void *wrong = NULL;
    if (b == 0) {
        *v = NULL;
        return true;
    }
    if (b == 11) {
        *v = (void **)(void *)((char *)place + 1);
        return true;
    }
    if (!wrong_handle(b - 1, &wrong, NULL, type))
        return false;
    place[0] = wrong;
    *v = place;
    return true;
}

/* ---- checks ---- */

static bool says(const char *text)
{
    return strstr(qsae_error_message(), text) != NULL;
}

static bool closed_twice(const struct fixture *f)
{
    bool good = true;
    for (int i = 1; i < N_KINDS; i++) {
        if (i == TOKEN)
            continue;
        void *const h = kinds[i].open(f, context);
        kinds[i].close(h);
        kinds[i].close(h);
        good = good && h && says("found a closed ");
    }
    return good;
}

/* Everything goes on when what it was made from is closed. */
static bool parents_first(const struct fixture *f)
{
    qsae_context *ctx = NULL;
    qsae_weights *w = NULL, *same = NULL;
    qsae_model *m = NULL;
    qsae_qmatrix *q = NULL;
    qsae_model_info info = { .struct_size = sizeof info };
    qsae_quantizer *more = NULL;
    const int32_t ids[4] = { 1, 2, 3, 4 };
    float nll[4];
    qsae_pass pass;
    qsae_pass_init(&pass, sizeof pass);
    pass.ids = ids;
    pass.n_seq = 1;
    pass.n_tokens = 4;
    pass.nll = nll;
    bool good = qsae_context_open(NULL, &ctx) == QSAE_OK &&
                qsae_weights_open(ctx, f->model, &w) == QSAE_OK &&
                qsae_weights_process(w, NULL, &same) == QSAE_OK &&
                qsae_model_open(w, NULL, &m) == QSAE_OK &&
                qsae_weights_matrix(w, "gpt_neox.layers.0.mlp.dense_h_to_4h", &q) == QSAE_OK;
    qsae_weights *const copy = w;
    qsae_context *const old = ctx;
    qsae_weights_close(&w);
    good = good && !w && qsae_weights_get_info(same, &info) == QSAE_OK;
    qsae_weights_close(&same);
    qsae_context_close(&ctx);
    good = good && qsae_weights_get_info(copy, &info) == QSAE_EINVAL &&
           says("weights: expected an open checkpoint, found a closed checkpoint") &&
           qsae_quantizer_open(old, "none", &more) == QSAE_EINVAL && !more &&
           says("context: expected an open context, found a closed context") &&
           qsae_context_threads(old) == 0 && qsae_model_get_info(m, &info) == QSAE_OK &&
           qsae_model_forward(m, &pass) == QSAE_OK && qsae_qmatrix_rows(q) > 0;
    qsae_qmatrix_close(&q);
    qsae_model_close(&m);
    return good;
}

/* An SAE of a set is the set's. */
static bool lent(const struct fixture *f)
{
    qsae_sae_layers *layers = open_sae_layers(f, context);
    qsae_sae *sae = NULL;
    qsae_sae_info info = { .struct_size = sizeof info };
    bool good = qsae_sae_layers_get(layers, 0, NULL, &sae) == QSAE_OK;
    qsae_sae *const copy = sae;
    qsae_sae_close(&sae);
    good = good && sae == copy && says("its caller closes") &&
           qsae_sae_get_info(sae, &info) == QSAE_OK;
    qsae_sae_layers_close(&layers);
    return good && qsae_sae_get_info(copy, &info) == QSAE_EINVAL && says("found a closed SAE");
}

struct inner {
    qsae_model *model;
    const qsae_pass *pass;
    qsae_probes *probes;
    qsae_audit *audit;
    qsae_context *ctx;
    int32_t status[4];
    bool kept;
};

static int32_t inside_pass(void *cookie, int32_t layer, int32_t site, const qsae_rows *rows)
{
    struct inner *const in = cookie;
    qsae_model *model = in->model;
    (void)layer;
    (void)site;
    (void)rows;
    in->status[0] = qsae_model_forward(in->model, in->pass);
    qsae_model_close(&model);
    in->kept = model && says("while a call uses it");
    return 0;
}

/* A model is neither run nor closed by a callback of its own pass. */
static bool from_an_observer(const struct fixture *f)
{
    const int32_t ids[4] = { 1, 2, 3, 4 };
    struct inner in = { .model = open_model(f, context) };
    const qsae_tap tap = { .struct_size = sizeof tap, .site = QSAE_SITE_RESID_POST,
                           .observe = inside_pass, .cookie = &in };
    qsae_pass pass;
    qsae_pass_init(&pass, sizeof pass);
    pass.ids = ids;
    pass.n_seq = 1;
    pass.n_tokens = 4;
    pass.taps = &tap;
    pass.n_taps = 1;
    in.pass = &pass;
    const bool good = qsae_model_forward(in.model, &pass) == QSAE_OK &&
                      in.status[0] == QSAE_EBUSY && in.kept &&
                      qsae_model_forward(in.model, &pass) == QSAE_OK;
    qsae_model_close(&in.model);
    return good && !in.model;
}

static int32_t inside_run(void *cookie, int64_t done, int64_t total, const char *unit,
                          const char *phase)
{
    struct inner *const in = cookie;
    qsae_audit *audit = in->audit;
    const char *json;
    (void)done;
    (void)total;
    (void)unit;
    (void)phase;
    if (!audit) /* it is being opened */
        return 0;
    in->status[0] = qsae_audit_run(audit);
    in->status[1] = qsae_audit_result(audit, &json, NULL);
    qsae_audit_close(&audit);
    in->kept = audit && says("while a call uses it");
    qsae_context_close(&in->ctx); /* the audit holds what it needs */
    return 0;
}

static bool from_progress(const struct fixture *f)
{
    static const char *const conditions[] = { "rtn:bits=4" };
    struct inner in = { .model = NULL };
    const char *json = NULL;
    qsae_audit_settings s;
    qsae_audit_settings_init(&s, sizeof s);
    s.model = f->model;
    s.text = f->text;
    s.context = 16;
    s.max_tokens = 64;
    s.conditions = conditions;
    s.n_conditions = 1;
    s.progress = inside_run;
    s.progress_cookie = &in;
    qsae_audit *a = NULL;
    bool good = qsae_context_open(NULL, &in.ctx) == QSAE_OK &&
                qsae_audit_open(in.ctx, &s, &a) == QSAE_OK;
    in.audit = a;
    good = good && qsae_audit_run(a) == QSAE_OK && in.status[0] == QSAE_EBUSY &&
           in.status[1] == QSAE_EBUSY && in.kept && !in.ctx &&
           qsae_audit_result(a, &json, NULL) == QSAE_OK && json;
    qsae_audit_close(&a);
    qsae_context_close(&in.ctx);
    return good;
}

static int32_t inside_probes(void *cookie, const qsae_probe_score *score)
{
    struct inner *const in = cookie;
    qsae_probes *probes = in->probes;
    (void)score;
    qsae_probes_close(&probes);
    in->kept = probes && says("while a call uses it");
    return 0;
}

static bool from_a_score(const struct fixture *f)
{
    struct inner in = { .model = open_model(f, context), .probes = open_probes(f, context) };
    const bool good = qsae_probes_run(in.probes, in.model, NULL, inside_probes, &in) == QSAE_OK &&
                      in.kept;
    qsae_probes_close(&in.probes);
    qsae_model_close(&in.model);
    return good && !in.probes;
}

struct worker {
    qsae_model *model;
    int64_t ok, busy, other;
};

static void *work(void *arg)
{
    struct worker *const w = arg;
    const int32_t ids[4] = { 1, 2, 3, 4 };
    float nll[4];
    qsae_pass pass;
    qsae_pass_init(&pass, sizeof pass);
    pass.ids = ids;
    pass.n_seq = 1;
    pass.n_tokens = 4;
    pass.nll = nll;
    for (int i = 0; i < 200; i++) {
        const int32_t st = qsae_model_forward(w->model, &pass);
        w->ok += st == QSAE_OK;
        w->busy += st == QSAE_EBUSY;
        w->other += st != QSAE_OK && st != QSAE_EBUSY;
    }
    return NULL;
}

/* Two threads and one model: one runs, the other is told so. */
static bool two_threads(const struct fixture *f)
{
    struct worker w[2] = { { .model = open_model(f, context) } };
    pthread_t other;
    w[1] = w[0];
    if (!w[0].model || pthread_create(&other, NULL, work, &w[1]) != 0)
        return false;
    work(&w[0]);
    pthread_join(other, NULL);
    qsae_model_close(&w[0].model);
    return w[0].ok + w[1].ok > 0 && w[0].other + w[1].other == 0 &&
           w[0].ok + w[0].busy == 200 && w[1].ok + w[1].busy == 200;
}

/* The last 256 closed handles are remembered, and no more. */
static bool remembered(const struct fixture *f)
{
    enum { N = 300 };
    static qsae_quantizer *old[N];
    qsae_context *ctx = NULL;
    int found = 0;
    (void)f;
    if (qsae_context_open(NULL, &ctx) != QSAE_OK)
        return false;
    for (int i = 0; i < N; i++) {
        qsae_quantizer *q = NULL;
        if (qsae_quantizer_open(ctx, "none", &q) != QSAE_OK)
            return false;
        old[i] = q;
        qsae_quantizer_close(&q);
    }
    /* 256 KiB hold more than 16 of these; those before may be gone and are not looked at. */
    for (int i = N - 16; i < N; i++)
        found += qsae_quantizer_spec(old[i])[0] == '\0';
    qsae_context_close(&ctx);
    return found == 16;
}

const struct handle_check handle_checks[] = {
    { "a handle that is closed twice by copies of its pointer", closed_twice },
    { "handles whose parents and context are closed first", parents_first },
    { "an SAE that belongs to a set is not closed by its borrower", lent },
    { "a model that its observer runs and closes", from_an_observer },
    { "an audit that its progress callback runs, asks and closes", from_progress },
    { "probes that their callback closes", from_a_score },
    { "a model that two threads run at once", two_threads },
    { "closed handles are remembered", remembered },
};
const int n_handle_checks = sizeof handle_checks / sizeof handle_checks[0];
