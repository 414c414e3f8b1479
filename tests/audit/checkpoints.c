/* SPDX-License-Identifier: BSD-2-Clause */
/* Another checkpoint as a condition: the same one elsewhere, students of another shape, models that
 * cannot be compared. */
#include <unistd.h>

#include "document.h"

/* A folder of its own under /tmp, with files to be removed at the end. */
struct folder {
    char path[64];
};

static struct folder make_folder(void)
{
    struct folder f = { "/tmp/qsae-checkpoint-XXXXXX" };
    assert_non_null(mkdtemp(f.path));
    return f;
}

static void put_file(const struct folder *f, const char *name, const void *data, size_t size)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", f->path, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static char *get_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    char *data = malloc(*size + 1);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, *size, file), *size);
    data[*size] = 0;
    fclose(file);
    return data;
}

/* A file of the bundled model. */
static void copy_file(const struct folder *f, const char *name)
{
    char path[256];
    size_t size;
    snprintf(path, sizeof path, DATA "/tiny-gemma3/%s", name);
    char *data = get_file(path, &size);
    put_file(f, name, data, size);
    free(data);
}

static void remove_folder(const struct folder *f)
{
    static const char *const names[] = { "config.json", "model.safetensors", "tokenizer.json",
                                         "tokenizer_config.json" };
    char path[128];
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", f->path, names[i]);
        unlink(path);
    }
    assert_int_equal(rmdir(f->path), 0);
}

static void put_json(const struct folder *f, const char *name, const json_t *json)
{
    char *text = json_dumps(json, JSON_COMPACT);
    assert_non_null(text);
    put_file(f, name, text, strlen(text));
    free(text);
}

static json_t *bundled_json(const char *name)
{
    char path[256];
    json_error_t error;
    snprintf(path, sizeof path, DATA "/tiny-gemma3/%s", name);
    json_t *json = json_load_file(path, 0, &error);
    assert_non_null(json);
    return json;
}

/* ---- a student: a small Llama with random weights and the bundled tokenizer ---- */

#define WIDTH 32
#define LAYERS 2
#define HEADS 4
#define MLP 48

struct writer {
    json_t *header;
    float *data;
    size_t n, capacity;
    uint32_t seed;
};

static void add_tensor(struct writer *w, const char *name, int64_t rows, int64_t cols)
{
    const size_t n = (size_t)(rows * (cols ? cols : 1));
    if (w->n + n > w->capacity) {
        w->capacity = 2 * (w->n + n);
        w->data = realloc(w->data, w->capacity * sizeof *w->data);
        assert_non_null(w->data);
    }
    for (size_t i = 0; i < n; i++)
        w->data[w->n + i] = cols ? 0.3f * next_float(&w->seed) : 1 + 0.2f * next_float(&w->seed);
    json_t *shape = cols ? json_pack("[I,I]", (json_int_t)rows, (json_int_t)cols)
                         : json_pack("[I]", (json_int_t)rows);
    json_object_set_new(w->header, name,
                        json_pack("{s:s,s:o,s:[I,I]}", "dtype", "F32", "shape", shape,
                                  "data_offsets", (json_int_t)(w->n * sizeof *w->data),
                                  (json_int_t)((w->n + n) * sizeof *w->data)));
    w->n += n;
}

static void put_u64(FILE *f, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++)
        fputc((int)(v >> (8 * i) & 255), f);
}

static void put_string(FILE *f, const char *s)
{
    put_u64(f, strlen(s), 8);
    fputs(s, f);
}

/* The name in a GGUF file; *heads: of a projection whose rows llama.cpp's converter reorders. */
static void gguf_name(const char *name, char out[64], int64_t *heads)
{
    static const char *const parts[][2] = {
        { "self_attn.q_proj", "attn_q" },   { "self_attn.k_proj", "attn_k" },
        { "self_attn.v_proj", "attn_v" },   { "self_attn.o_proj", "attn_output" },
        { "mlp.gate_proj", "ffn_gate" },    { "mlp.up_proj", "ffn_up" },
        { "mlp.down_proj", "ffn_down" },    { "input_layernorm", "attn_norm" },
        { "post_attention_layernorm", "ffn_norm" }
    };
    int layer;
    char part[64];
    *heads = 0;
    if (sscanf(name, "model.layers.%d.%63s", &layer, part) != 2) {
        snprintf(out, 64, "%s", strstr(name, "embed") ? "token_embd.weight" : "output_norm.weight");
        return;
    }
    *strstr(part, ".weight") = 0;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (strcmp(part, parts[i][0]) == 0)
            snprintf(out, 64, "blk.%d.%s.weight", layer, parts[i][1]);
    *heads = strstr(out, "attn_q") ? HEADS : strstr(out, "attn_k") ? HEADS / 2 : 0;
}

/* A row [heads, 2, half] of Hugging Face's order lies at [heads, half, 2]. */
static void put_rows(FILE *f, const float *x, int64_t rows, int64_t cols, int64_t heads)
{
    for (int64_t r = 0; r < rows; r++) {
        const int64_t dim = heads ? rows / heads : 1, half = dim / 2, in = r % dim;
        const int64_t from = heads ? r - in + in % 2 * half + in / 2 : r;
        fwrite(x + from * cols, sizeof *x, (size_t)cols, f);
    }
}

/* The same model as a GGUF file without a tokenizer. Every tensor fills whole 32 bytes. */
static void put_gguf(const char *path, const struct writer *w, int64_t vocab)
{
    static const struct {
        const char *key;
        uint32_t value;
    } keys[] = { { "llama.context_length", 512 },       { "llama.embedding_length", WIDTH },
                 { "llama.block_count", LAYERS },       { "llama.feed_forward_length", MLP },
                 { "llama.attention.head_count", HEADS },
                 { "llama.attention.head_count_kv", HEADS / 2 },
                 { "llama.rope.dimension_count", WIDTH / HEADS } };
    const uint32_t n_keys = sizeof keys / sizeof keys[0];
    const float eps = 1e-5f;
    const char *name;
    const json_t *t;
    char text[64];
    int64_t heads;
    uint32_t bits;
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fputs("GGUF", f);
    put_u64(f, 3, 4);
    put_u64(f, json_object_size(w->header), 8);
    put_u64(f, n_keys + 3, 8);
    put_string(f, "general.architecture");
    put_u64(f, 8, 4);
    put_string(f, "llama");
    put_string(f, "llama.attention.layer_norm_rms_epsilon");
    put_u64(f, 6, 4);
    memcpy(&bits, &eps, sizeof bits);
    put_u64(f, bits, 4);
    put_string(f, "llama.vocab_size");
    put_u64(f, 4, 4);
    put_u64(f, (uint64_t)vocab, 4);
    for (uint32_t i = 0; i < n_keys; i++) {
        put_string(f, keys[i].key);
        put_u64(f, 4, 4);
        put_u64(f, keys[i].value, 4);
    }
    json_object_foreach((json_t *)w->header, name, t) {
        const json_t *shape = json_object_get(t, "shape");
        const size_t rank = json_array_size(shape);
        gguf_name(name, text, &heads);
        put_string(f, text);
        put_u64(f, rank, 4);
        for (size_t d = rank; d-- > 0;)
            put_u64(f, (uint64_t)json_integer_value(json_array_get(shape, d)), 8);
        put_u64(f, 0, 4);
        put_u64(f, (uint64_t)json_integer_value(
                       json_array_get(json_object_get(t, "data_offsets"), 0)), 8);
    }
    while (ftell(f) % 32)
        fputc(0, f);
    json_object_foreach((json_t *)w->header, name, t) {
        const json_t *shape = json_object_get(t, "shape");
        const json_int_t at = json_integer_value(
            json_array_get(json_object_get(t, "data_offsets"), 0));
        const int64_t rows = json_integer_value(json_array_get(shape, 0));
        gguf_name(name, text, &heads);
        put_rows(f, w->data + (size_t)at / sizeof *w->data, rows,
                 json_array_size(shape) > 1 ? json_integer_value(json_array_get(shape, 1)) : 1,
                 heads);
    }
    assert_int_equal(fclose(f), 0);
}

/* gguf: path of the same model in that form, or NULL. */
static void put_student(const struct folder *f, int64_t vocab, const char *gguf)
{
    struct writer w = { .header = json_object(), .seed = 20261121 };
    const char *const names[] = { "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                  "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
                                  "mlp.down_proj" };
    const int64_t shapes[][2] = { { WIDTH, WIDTH }, { WIDTH / 2, WIDTH }, { WIDTH / 2, WIDTH },
                                  { WIDTH, WIDTH }, { MLP, WIDTH }, { MLP, WIDTH },
                                  { WIDTH, MLP } };
    char name[80];
    add_tensor(&w, "model.embed_tokens.weight", vocab, WIDTH);
    for (int layer = 0; layer < LAYERS; layer++) {
        for (int p = 0; p < 7; p++) {
            snprintf(name, sizeof name, "model.layers.%d.%s.weight", layer, names[p]);
            add_tensor(&w, name, shapes[p][0], shapes[p][1]);
        }
        snprintf(name, sizeof name, "model.layers.%d.input_layernorm.weight", layer);
        add_tensor(&w, name, WIDTH, 0);
        snprintf(name, sizeof name, "model.layers.%d.post_attention_layernorm.weight", layer);
        add_tensor(&w, name, WIDTH, 0);
    }
    add_tensor(&w, "model.norm.weight", WIDTH, 0);
    char *header = json_dumps(w.header, JSON_COMPACT);
    const size_t size = strlen(header), all = 8 + size + w.n * sizeof *w.data;
    unsigned char *file = malloc(all);
    assert_non_null(file);
    for (int i = 0; i < 8; i++)
        file[i] = (unsigned char)((uint64_t)size >> (8 * i));
    memcpy(file + 8, header, size);
    memcpy(file + 8 + size, w.data, w.n * sizeof *w.data);
    put_file(f, "model.safetensors", file, all);
    if (gguf)
        put_gguf(gguf, &w, vocab);
    free(file);
    free(header);
    free(w.data);
    json_decref(w.header);
    json_t *config = json_pack(
        "{s:s,s:i,s:i,s:i,s:i,s:i,s:I,s:i,s:f,s:s,s:b,s:i}", "model_type", "llama", "hidden_size",
        WIDTH, "intermediate_size", MLP, "num_hidden_layers", LAYERS, "num_attention_heads", HEADS,
        "num_key_value_heads", HEADS / 2, "vocab_size", (json_int_t)vocab,
        "max_position_embeddings", 512, "rms_norm_eps", 1e-5, "hidden_act", "silu",
        "tie_word_embeddings", 1, "bos_token_id", 2);
    assert_non_null(config);
    put_json(f, "config.json", config);
    json_decref(config);
    copy_file(f, "tokenizer.json");
    copy_file(f, "tokenizer_config.json");
}

/* ---- tests ---- */

struct log {
    int warnings;
    char last[1024];
};

static void on_log(void *cookie, int32_t level, const char *message)
{
    struct log *log = cookie;
    log->warnings += level == QSAE_LOG_WARNING;
    if (level == QSAE_LOG_WARNING)
        snprintf(log->last, sizeof log->last, "%s", message);
}

static qsae_context *logging_context(struct log *log)
{
    qsae_context_settings s;
    qsae_context *ctx;
    qsae_context_settings_init(&s, sizeof s);
    s.threads = 2;
    s.log = on_log;
    s.log_cookie = log;
    assert_ok(qsae_context_open(&s, &ctx));
    return ctx;
}

static json_t *run_pair(qsae_context *ctx, const char *path, int64_t tokens)
{
    qsae_audit_settings s;
    defaults(&s);
    s.max_tokens = tokens;
    s.conditions = &path;
    s.n_conditions = 1;
    return run(ctx, &s);
}

static void test_same_elsewhere(void **state)
{
    (void)state;
    for (int tokenizer = 1; tokenizer >= 0; tokenizer--) {
        struct log log = { 0 };
        qsae_context *ctx = logging_context(&log);
        const struct folder f = make_folder();
        copy_file(&f, "config.json");
        copy_file(&f, "model.safetensors");
        if (tokenizer)
            copy_file(&f, "tokenizer.json");
        json_t *result = run_pair(ctx, f.path, 3000);
        const json_t *c = condition_at(result, 0), *checkpoint = json_object_get(c, "checkpoint");
        const json_t *sae = json_array_get(json_object_get(c, "saes"), 0);
        near("kl", at(c, "kl_max"), 0, 0);
        near("dce", at(c, "dce"), 0, 0);
        near("top", at(c, "top1_agreement"), 1, 0);
        near("drift", at(json_object_get(sae, "noise"), "p"), 0, 0);
        assert_true(null_at(sae, "reason"));
        assert_string_equal(text_at(checkpoint, "path"), f.path);
        assert_string_equal(text_at(checkpoint, "type"), "gemma3_text");
        assert_string_equal(text_at(checkpoint, "storage"), "plain");
        assert_int_equal(strlen(text_at(checkpoint, "hash")), 32);
        assert_string_equal(text_at(checkpoint, "tokenizer"),
                            tokenizer ? "equal" : "not compared");
        assert_int_equal(json_array_size(json_object_get(checkpoint, "differences")), 0);
        assert_int_equal(log.warnings, !tokenizer);
        if (!tokenizer)
            assert_non_null(strstr(log.last, "2048"));
        json_decref(result);
        remove_folder(&f);
        qsae_context_close(&ctx);
    }
}

static const json_t *difference(const json_t *condition, const char *field)
{
    size_t i;
    const json_t *d;
    json_array_foreach(json_object_get(json_object_get(condition, "checkpoint"), "differences"), i,
                       d)
        if (strcmp(text_at(d, "field"), field) == 0)
            return d;
    fail_msg("no difference \"%s\"", field);
    return NULL;
}

/* Every key of the reference's SAE is there and null, but for what describes the SAE. */
static void check_no_features(const json_t *result, const json_t *condition)
{
    const json_t *ours = json_array_get(json_object_get(condition, "saes"), 0), *value;
    json_t *theirs = json_array_get(
        json_object_get(json_object_get(result, "reference"), "saes"), 0);
    const char *key;
    assert_non_null(strstr(text_at(ours, "reason"), "layers of width"));
    json_object_foreach(theirs, key, value) {
        const json_t *v = json_object_get(ours, key);
        if (!v)
            fail_msg("%s is missing", key);
        if (json_is_number(value) && !strstr(key, "layer") && strcmp(key, "features"))
            assert_true(json_is_null(v));
    }
    assert_true(null_at(ours, "fvu_dim"));
    assert_true(null_at(ours, "dfvu_dim"));
    assert_true(null_at(ours, "tokens"));
    assert_true(null_at(json_object_get(ours, "noise"), "ratio"));
    assert_true(null_at(json_object_get(ours, "noise"), "verdict"));
    assert_true(null_at(json_object_get(ours, "survival"), "active"));
    assert_int_equal(json_object_size(json_object_get(ours, "intervals")), 0);
}

/* KL(reference || other), mean over the labelled positions, from whole rows of logits in f64. */
static double brute_kl(qsae_context *ctx, const char *other, int64_t tokens)
{
    const char *const paths[2] = { DATA "/tiny-gemma3", other };
    qsae_tokenizer *t;
    qsae_corpus *corpus;
    qsae_corpus_settings cs;
    qsae_corpus_info ci = { .struct_size = sizeof ci };
    qsae_weights *w[2];
    qsae_model *m[2];
    qsae_model_info info = { .struct_size = offsetof(qsae_model_info, hash) };
    qsae_corpus_settings_init(&cs, sizeof cs);
    cs.context = 256;
    cs.max_tokens = tokens;
    cs.bos_policy = QSAE_BOS_DOC_START;
    assert_ok(qsae_tokenizer_open(ctx, paths[0], &t));
    assert_ok(qsae_corpus_open(ctx, t, DATA "/eval.jsonl", &cs, &corpus));
    assert_ok(qsae_corpus_get_info(corpus, &ci));
    float *logits[2];
    for (int i = 0; i < 2; i++) {
        assert_ok(qsae_weights_open(ctx, paths[i], &w[i]));
        assert_ok(qsae_model_open(w[i], NULL, &m[i]));
        assert_ok(qsae_model_get_info(m[i], &info));
        logits[i] = malloc((size_t)(256 * info.vocab) * sizeof(float));
    }
    double sum = 0, count = 0;
    for (int64_t c = 0; c < ci.chunks; c++) {
        const int32_t *ids, *labels;
        const int64_t *document;
        int64_t n;
        assert_ok(qsae_corpus_chunk(corpus, c, &ids, &labels, &document, &n));
        for (int i = 0; i < 2; i++) {
            qsae_pass p;
            qsae_pass_init(&p, sizeof p);
            p.ids = ids;
            p.n_seq = 1;
            p.n_tokens = n;
            p.logits = logits[i];
            assert_ok(qsae_model_forward(m[i], &p));
        }
        for (int64_t r = 0; r < n; r++) {
            const float *const z[2] = { logits[0] + r * info.vocab, logits[1] + r * info.vocab };
            double lse[2] = { 0 }, kl = 0;
            if (labels[r] < 0)
                continue;
            for (int i = 0; i < 2; i++) {
                for (int64_t v = 0; v < info.vocab; v++)
                    lse[i] += exp((double)z[i][v]);
                lse[i] = log(lse[i]);
            }
            for (int64_t v = 0; v < info.vocab; v++)
                kl += exp((double)z[0][v] - lse[0]) *
                      ((double)z[0][v] - lse[0] - ((double)z[1][v] - lse[1]));
            sum += kl;
            count++;
        }
    }
    for (int i = 0; i < 2; i++) {
        qsae_model_close(&m[i]);
        qsae_weights_close(&w[i]);
        free(logits[i]);
    }
    qsae_corpus_close(&corpus);
    qsae_tokenizer_close(&t);
    return sum / count;
}

/* Its own cross-entropy, as the reference of a run of its own. */
static double own_ce(qsae_context *ctx, const char *path, int64_t tokens)
{
    qsae_audit_settings s;
    const char *const none[] = { "none" };
    defaults(&s);
    s.model = path;
    s.max_tokens = tokens;
    s.n_saes = 0;
    s.conditions = none;
    s.n_conditions = 1;
    json_t *result = run(ctx, &s);
    const double ce = reference_ce(result);
    json_decref(result);
    return ce;
}

/* A student without the last layer: the same width, so the same head rows, but other features. */
static void test_layer_removed(void **state)
{
    (void)state;
    struct log log = { 0 };
    qsae_context *ctx = logging_context(&log);
    const struct folder f = make_folder();
    json_t *config = bundled_json("config.json");
    json_object_set_new(config, "num_hidden_layers", json_integer(5));
    json_array_remove(json_object_get(config, "layer_types"), 5);
    put_json(&f, "config.json", config);
    json_decref(config);
    copy_file(&f, "model.safetensors");
    copy_file(&f, "tokenizer.json");
    json_t *result = run_pair(ctx, f.path, 3000);
    const json_t *c = condition_at(result, 0), *layers = difference(c, "layers");
    assert_string_equal(text_at(layers, "reference"), "6");
    assert_string_equal(text_at(layers, "condition"), "5");
    check_no_features(result, c);
    near("ce", at(c, "ce"), own_ce(ctx, f.path, 3000), 0);
    const double kl = brute_kl(ctx, f.path, 3000);
    assert_true(kl > 0.01);
    near("kl", at(c, "kl_mean"), kl, 1e-5 * kl);
    assert_true(null_at(json_object_get(c, "checkpoint"), "kl_reason"));
    assert_non_null(strstr(log.last, "no SAE figures"));
    json_decref(result);
    remove_folder(&f);
    qsae_context_close(&ctx);
}

/* Another family, depth and width: the head drives rows of both widths. */
static void test_other_width(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    const struct folder f = make_folder();
    put_student(&f, 2048, NULL);
    const char *const conditions[] = { "nf4", f.path, "rtn:bits=4" };
    qsae_audit_settings s;
    defaults(&s);
    s.max_tokens = 3000;
    s.conditions = conditions;
    s.n_conditions = 3;
    json_t *result = run(ctx, &s), *c = condition_at(result, 1);
    check_no_features(result, c);
    (void)difference(c, "type");
    (void)difference(c, "width");
    (void)difference(c, "rope");
    (void)difference(c, "window");
    (void)difference(c, "dtype");
    near("ce", at(c, "ce"), own_ce(ctx, f.path, 3000), 0);
    const double kl = brute_kl(ctx, f.path, 3000);
    near("kl", at(c, "kl_mean"), kl, 1e-5 * kl);
    /* Those beside it are what they are without it. */
    for (size_t i = 0; i < 3; i += 2) {
        json_t *alone = run_pair(ctx, conditions[i], 3000);
        strip(result);
        strip(alone);
        assert_true(json_equal(condition_at(alone, 0), condition_at(result, i)));
        json_decref(alone);
    }
    /* The verdict is over those that have one. */
    const json_t *verdict = json_array_get(json_object_get(result, "verdicts"), 0);
    assert_true(json_is_number(json_object_get(verdict, "min_ratio")));
    json_decref(result);
    remove_folder(&f);
    qsae_context_close(&ctx);
}

/* Padding rows: the same ids, but distributions over different sets. */
static void test_other_rows(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    const struct folder f = make_folder();
    put_student(&f, 2112, NULL);
    json_t *result = run_pair(ctx, f.path, 2000), *c = condition_at(result, 0);
    near("ce", at(c, "ce"), own_ce(ctx, f.path, 2000), 0);
    assert_true(null_at(c, "kl_mean"));
    assert_true(null_at(c, "kl_max"));
    assert_non_null(strstr(text_at(json_object_get(c, "checkpoint"), "kl_reason"), "2112"));
    assert_true(at(c, "top1_agreement") >= 0);
    assert_true(at(c, "dce") > 0);
    json_decref(result);
    put_student(&f, 700, NULL); /* fewer than the text's ids */
    qsae_audit_settings s;
    qsae_audit *audit;
    const char *path = f.path;
    defaults(&s);
    s.max_tokens = 2000;
    s.conditions = &path;
    s.n_conditions = 1;
    assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_EMISMATCH, "700 rows has none for token");
    put_student(&f, 2112, NULL); /* without a tokenizer, rows are all there is to compare */
    char name[128];
    snprintf(name, sizeof name, "%s/tokenizer.json", f.path);
    unlink(name);
    assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_EMISMATCH, "2112 rows");
    remove_folder(&f);
    qsae_context_close(&ctx);
}

/* Two entries swapped: the difference is named. */
static void test_other_tokenizer(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    const struct folder f = make_folder();
    copy_file(&f, "config.json");
    copy_file(&f, "model.safetensors");
    json_t *tokenizer = bundled_json("tokenizer.json");
    json_t *vocab = json_object_get(json_object_get(tokenizer, "model"), "vocab"), *id;
    const char *key, *names[2] = { NULL, NULL };
    json_object_foreach(vocab, key, id)
        for (int i = 0; i < 2; i++)
            if (json_integer_value(id) == 1500 + i)
                names[i] = key;
    assert_non_null(names[0]);
    assert_non_null(names[1]);
    json_object_set_new(vocab, names[0], json_integer(1501));
    json_object_set_new(vocab, names[1], json_integer(1500));
    put_json(&f, "tokenizer.json", tokenizer);
    json_decref(tokenizer);
    qsae_audit_settings s;
    qsae_audit *audit;
    const char *path = f.path;
    defaults(&s);
    s.conditions = &path;
    s.n_conditions = 1;
    assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_EMISMATCH, "1500");
    assert_null(audit);
    remove_folder(&f);
    qsae_context_close(&ctx);
}

/* A GGUF file is a checkpoint like the folder it was made of, on either side. */
static void test_gguf(void **state)
{
    (void)state;
    struct log log = { 0 };
    qsae_context *ctx = logging_context(&log);
    const struct folder f = make_folder();
    char path[128];
    snprintf(path, sizeof path, "%s.gguf", f.path);
    put_student(&f, 2048, path);
    const char *const conditions[] = { f.path, path };
    qsae_audit_settings s;
    defaults(&s);
    s.max_tokens = 2000;
    s.conditions = conditions;
    s.n_conditions = 2;
    json_t *result = run(ctx, &s);
    json_t *folder = condition_at(result, 0), *file = condition_at(result, 1);
    assert_string_equal(text_at(json_object_get(file, "checkpoint"), "storage"), "gguf");
    assert_string_equal(text_at(json_object_get(file, "checkpoint"), "tokenizer"), "not compared");
    assert_true(log.warnings > 0);
    for (const char *const *k = (const char *const[]){ "ce", "dce", "kl_mean", "kl_max", NULL }; *k;
         k++)
        near(*k, at(file, *k), at(folder, *k), 0);
    assert_int_equal(unlink(path), 0);
    json_decref(result);
    remove_folder(&f);
    qsae_context_close(&ctx);
}

/* The fit of a predictor says what condition it is of. */
static void forget_fit(json_t *condition)
{
    size_t i;
    json_t *sae;
    json_array_foreach(json_object_get(condition, "saes"), i, sae) {
        json_t *const predictor =
            json_object_get(json_object_get(sae, "survival"), "predictor");
        json_object_del(json_object_get(predictor, "fit"), "condition");
    }
}

/* A folder that bitsandbytes' formats are stored in gives what the condition gives. */
static void test_quantized_folder(void **state)
{
    (void)state;
    static const char *const specs[] = { "nf4@compute=bf16", "llm.int8@compute=bf16" };
    qsae_context *ctx = open_context(NULL, 2);
    for (int i = 0; i < 2; i++) {
        const struct folder f = make_folder();
        qsae_weights *weights;
        assert_ok(qsae_weights_open(ctx, DATA "/tiny-gemma3", &weights));
        assert_ok(qsae_weights_save(weights, specs[i], f.path, NULL));
        qsae_weights_close(&weights);
        const char *const conditions[] = { specs[i], f.path };
        qsae_audit_settings s;
        defaults(&s);
        s.max_tokens = 3000;
        s.compute = QSAE_COMPUTE_BF16;
        s.conditions = conditions;
        s.n_conditions = 2;
        json_t *result = run(ctx, &s);
        strip(result);
        json_t *spec = condition_at(result, 0), *folder = condition_at(result, 1);
        assert_string_equal(text_at(json_object_get(folder, "checkpoint"), "storage"),
                            "bitsandbytes");
        (void)difference(folder, "storage");
        forget_fit(spec);
        forget_fit(folder);
        for (const char *const *k = (const char *const[]){ "ce", "kl_mean", "kl_max", "saes",
                                                           "layers", "outliers", NULL }; *k; k++)
            assert_true(json_equal(json_object_get(spec, *k), json_object_get(folder, *k)));
        json_decref(result);
        remove_folder(&f);
    }
    qsae_context_close(&ctx);
}

static void test_missing(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    qsae_audit *audit;
    const char *path = "/tmp/no/such/model";
    defaults(&s);
    s.conditions = &path;
    s.n_conditions = 1;
    assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_ENOENT, "no such folder or file");
    path = "model.gguf";
    assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_ENOENT, "model.gguf");
    path = DATA "/eval.jsonl"; /* a file, but no model */
    assert_true(qsae_audit_open(ctx, &s, &audit) != QSAE_OK);
    assert_non_null(strstr(qsae_error_message(), "eval.jsonl"));
    const struct folder f = make_folder();
    path = f.path;
    assert_true(qsae_audit_open(ctx, &s, &audit) != QSAE_OK);
    remove_folder(&f);
    qsae_context_close(&ctx);
}

/* An SAE at the wrong layer, on longer chunks than it knows, without its BOS. */
static void test_sae_warnings(void **state)
{
    (void)state;
    static const char *const misplaced = DATA "/tiny-gemma3-sae@0";
    struct log log = { 0 };
    qsae_context *ctx = logging_context(&log);
    qsae_audit_settings s;
    defaults(&s);
    s.max_tokens = 1500;
    s.bos_policy = QSAE_BOS_CHUNK_START;
    json_decref(run(ctx, &s));
    assert_int_equal(log.warnings, 0);
    s.context = 300;
    json_decref(run(ctx, &s));
    assert_int_equal(log.warnings, 1);
    assert_non_null(strstr(log.last, "256"));
    s.context = 256;
    s.saes = &misplaced;
    json_decref(run(ctx, &s));
    assert_int_equal(log.warnings, 2);
    assert_non_null(strstr(log.last, "at layer 0"));
    s.saes = &sae_path;
    s.bos_policy = QSAE_BOS_NONE;
    json_decref(run(ctx, &s)); /* the tokenizer's BOS and the SAE's */
    assert_int_equal(log.warnings, 4);
    qsae_context_close(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_elsewhere),  cmocka_unit_test(test_layer_removed),
        cmocka_unit_test(test_other_width),     cmocka_unit_test(test_other_rows),
        cmocka_unit_test(test_other_tokenizer), cmocka_unit_test(test_gguf),
        cmocka_unit_test(test_quantized_folder), cmocka_unit_test(test_missing),
        cmocka_unit_test(test_sae_warnings),
    };
    return cmocka_run_group_tests_name("checkpoints", tests, NULL, NULL);
}
