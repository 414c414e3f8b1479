/* SPDX-License-Identifier: BSD-2-Clause */
/* Scenarios of the parts: codecs, text, models, SAEs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "play.h"

qsae_context_settings play_settings(struct run *r)
{
    qsae_context_settings s;
    MAKE(qsae_context_settings_init(&s, sizeof s));
    s.threads = r->threads;
    if (r->hook) {
        s.alloc = hook_alloc;
        s.free = hook_free;
        s.alloc_cookie = &r->hook_blocks;
    }
    return s;
}

qsae_rows play_rows(float *data, int64_t n, int64_t cols, uint32_t seed)
{
    for (int64_t i = 0; i < n * cols; i++) {
        seed = seed * 1664525u + 1013904223u;
        data[i] = (float)(int32_t)seed * 0x1p-30f;
    }
    return (qsae_rows){ .struct_size = sizeof(qsae_rows), .data = data, .n_rows = n,
                        .n_cols = cols, .row_stride = cols, .dtype = QSAE_F32 };
}

void see_file(struct run *r, const char *path)
{
    static char data[1 << 16];
    inject_pause();
    FILE *const f = fopen(path, "rb");
    size_t n;
    while (f && (n = fread(data, 1, sizeof data, f)) > 0)
        see(r, data, n);
    if (f)
        fclose(f);
    else
        see_text(r, "(no file)");
    inject_resume();
}

const char *scratch(const struct run *r, const char *name, char path[256])
{
    snprintf(path, 256, "%s/%s", r->f->scratch, name);
    return path;
}

static void play_names(struct run *r)
{
    int64_t elements = 0, bytes = 0;
    int32_t layer = 0;
    see_text(r, MAKE(qsae_status_name(QSAE_EIO)));
    see_text(r, MAKE(qsae_status_message(QSAE_EIO)));
    see_number(r, MAKE(qsae_status_count()));
    see_text(r, MAKE(qsae_version()));
    see_number(r, MAKE(qsae_version_api()));
    qsae_layout_entry entry = { .struct_size = sizeof entry };
    see_number(r, MAKE(qsae_layout_get(MAKE(qsae_layout_count()) - 1, &entry)));
    see_text(r, entry.name);
    see_text(r, MAKE(qsae_cpu_best()));
    see_text(r, MAKE(qsae_dtype_name(QSAE_BF16)));
    see_number(r, MAKE(qsae_dtype_bits(QSAE_BF16)));
    see_number(r, MAKE(qsae_dtype_block(QSAE_Q4_K, &elements, &bytes)));
    see_number(r, MAKE(qsae_dtype_from_name("Q4_K")));
    see_text(r, MAKE(qsae_bos_name(QSAE_BOS_NONE)));
    see_number(r, MAKE(qsae_bos_from_name("none")));
    see_text(r, MAKE(qsae_pack_name(QSAE_PACK_TL)));
    see_number(r, MAKE(qsae_pack_from_name("tl")));
    see_text(r, MAKE(qsae_site_name(QSAE_SITE_Z)));
    see_number(r, MAKE(qsae_site_from_name("blocks.3.hook_resid_post", &layer)));
    see_number(r, MAKE(qsae_metric_leaf()));
    see_number(r, MAKE(qsae_metric_llama_line()));
    (void)MAKE(qsae_error_message());
}

static void play_codec(struct run *r, qsae_context *ctx, const char *spec)
{
    qsae_quantizer *q = NULL;
    qsae_qmatrix *m = NULL;
    float w[32 * 64], decoded[32 * 64], x[3 * 64], y[3 * 32];
    const qsae_rows weight = play_rows(w, 32, 64, 1), in = play_rows(x, 3, 64, 2);
    qsae_rows out = play_rows(decoded, 32, 64, 3), result = play_rows(y, 3, 32, 4);
    qsae_weight_error error = { .struct_size = sizeof error };
    qsae_field field = { .struct_size = sizeof field };
    TRY(qsae_quantizer_open(ctx, spec, &q));
    see_text(r, MAKE(qsae_quantizer_spec(q)));
    TRY(qsae_quantizer_encode(q, &weight, 0, 1, &m));
    TRY(qsae_qmatrix_decode(m, &out));
    see(r, decoded, sizeof decoded);
    TRY(qsae_qmatrix_error(m, &weight, &error));
    see_number(r, error.frobenius_relative);
    TRY(qsae_qmatrix_linear(m, &in, NULL, QSAE_F32, &result));
    see(r, y, sizeof y);
    see_number(r, (double)MAKE(qsae_qmatrix_rows(m)) + (double)MAKE(qsae_qmatrix_cols(m)) +
                      (double)MAKE(qsae_qmatrix_bytes(m)));
    for (int32_t i = 0; i < MAKE(qsae_qmatrix_field_count(m)); i++) {
        TRY(qsae_qmatrix_field(m, i, &field));
        see(r, field.data, field.bytes);
    }
end:
    MAKE(qsae_qmatrix_close(&m));
    MAKE(qsae_quantizer_close(&q));
}

void play_codecs(struct run *r)
{
    static const char *const specs[] = { "none", "nf4", "llm.int8:threshold=2", "rtn:bits=4",
                                         "ggml:q8_0", "control:gauss(rtn:bits=4)",
                                         "control:permute(nf4)" };
    qsae_context *ctx = NULL;
    qsae_cancel_token *token = NULL;
    qsae_tensors *tensors = NULL;
    qsae_qmatrix *m = NULL;
    qsae_tensor_info info = { .struct_size = sizeof info };
    float x[4 * 64], scales[4], decoded[4096];
    int8_t codes[4 * 64];
    uint8_t outliers[65]; /* misuse gives one column more */
    const qsae_rows rows = play_rows(x, 4, 64, 9);
    const qsae_context_settings s = play_settings(r);
    TRY(qsae_context_open(&s, &ctx));
    play_names(r);
    see_number(r, MAKE(qsae_context_threads(ctx)));
    see_text(r, MAKE(qsae_context_cpu(ctx)));
    see_text(r, MAKE(qsae_context_gemm(ctx)));
    see_text(r, MAKE(qsae_context_blis(ctx)));
    TRY(qsae_cancel_token_open(&token));
    MAKE(qsae_cancel_token_cancel(token));
    MAKE(qsae_cancel_token_reset(token));
    for (size_t i = 0; i < sizeof specs / sizeof specs[0] && !r->wrong[0]; i++)
        play_codec(r, ctx, specs[i]);
    TRY(qsae_int8_quantize(ctx, &rows, 1.5f, codes, scales, outliers));
    see(r, codes, sizeof codes);
    TRY(qsae_tensors_open(ctx, r->f->model, &tensors));
    for (int64_t i = 0; i < MAKE(qsae_tensors_count(tensors)); i++) {
        TRY(qsae_tensors_get(tensors, i, &info));
        see_text(r, info.name);
    }
    TRY(qsae_tensors_matrix(tensors, "gpt_neox.layers.0.mlp.dense_4h_to_h.weight", &m));
    qsae_rows out = play_rows(decoded, MAKE(qsae_qmatrix_rows(m)), MAKE(qsae_qmatrix_cols(m)), 1);
    TRY(qsae_qmatrix_decode(m, &out));
    see(r, decoded, (size_t)(out.n_rows * out.n_cols) * sizeof *decoded);
end:
    MAKE(qsae_qmatrix_close(&m));
    MAKE(qsae_tensors_close(&tensors));
    MAKE(qsae_cancel_token_close(&token));
    MAKE(qsae_context_close(&ctx));
}

/* Files that other libraries read, and those of several parts. */
void play_readers(struct run *r)
{
    qsae_context *ctx = NULL;
    qsae_sae *sae = NULL;
    qsae_tokenizer *t = NULL;
    qsae_weights *gguf = NULL, *shards = NULL;
    qsae_sae_info info = { .struct_size = sizeof info };
    qsae_model_info model = { .struct_size = sizeof model };
    int32_t ids[64];
    int64_t n = 0;
    const qsae_context_settings s = play_settings(r);
    TRY(qsae_context_open(&s, &ctx));
    TRY(qsae_sae_open(ctx, QSAE_TEST_DATA "/saes/gemma_scope_npz", NULL, &sae));
    TRY(qsae_sae_get_info(sae, &info));
    see_text(r, info.hash);
    TRY(qsae_tokenizer_open(ctx, QSAE_TEST_DATA "/tokenizers/gpt2.tokenizer.json", &t));
    TRY(qsae_tokenizer_encode(t, "it's 12 o'clock,\n\n ok", 21, 0, ids, 64, &n));
    see(r, ids, (size_t)n * sizeof *ids);
    TRY(qsae_weights_open(ctx, QSAE_TEST_DATA "/models/gguf_llama_q4_k_m/model.gguf",
                          &gguf));
    TRY(qsae_weights_get_info(gguf, &model));
    see_text(r, model.hash);
    TRY(qsae_weights_open(ctx, QSAE_TEST_DATA "/models/gemma3_sharded", &shards));
    TRY(qsae_weights_get_info(shards, &model));
    see_text(r, model.hash);
end:
    MAKE(qsae_weights_close(&shards));
    MAKE(qsae_weights_close(&gguf));
    MAKE(qsae_tokenizer_close(&t));
    MAKE(qsae_sae_close(&sae));
    MAKE(qsae_context_close(&ctx));
}

static void play_corpus(struct run *r, qsae_corpus *c)
{
    qsae_corpus_info info = { .struct_size = sizeof info };
    qsae_document_info document = { .struct_size = sizeof document };
    const int32_t *ids, *labels;
    const int64_t *documents;
    int64_t n;
    TRY(qsae_corpus_get_info(c, &info));
    see_text(r, info.token_hash);
    TRY(qsae_corpus_chunk(c, 0, &ids, &labels, &documents, &n));
    see(r, ids, (size_t)n * sizeof *ids);
    TRY(qsae_corpus_document(c, 0, &document));
    see_text(r, document.metadata);
end:;
}

void play_text(struct run *r)
{
    qsae_context *ctx = NULL;
    qsae_tokenizer *t = NULL;
    qsae_corpus *corpus = NULL, *own = NULL, *plain = NULL;
    qsae_probes *probes = NULL;
    qsae_tokenizer_info info = { .struct_size = sizeof info };
    qsae_probes_info set = { .struct_size = sizeof set };
    qsae_probe item = { .struct_size = sizeof item };
    qsae_probe_settings ps;
    qsae_corpus_settings cs;
    static const char *const where[] = { "kind=1" };
    int32_t ids[64] = { 1, 2, 3, 4, 5, 6, 7, 8 };
    int64_t n = 0;
    const char *bytes;
    size_t size;
    const qsae_context_settings s = play_settings(r);
    TRY(qsae_context_open(&s, &ctx));
    TRY(qsae_tokenizer_open(ctx, r->f->model, &t));
    TRY(qsae_tokenizer_get_info(t, &info));
    see_text(r, info.hash);
    TRY(qsae_corpus_open_ids(ctx, ids, 2, 4, &own));
    play_corpus(r, own);
    TRY(qsae_tokenizer_encode(t, "abc cab<|endoftext|>xyz", 23, 1, ids, 64, &n));
    see(r, ids, (size_t)n * sizeof *ids);
    TRY(qsae_tokenizer_encode_cancelable(t, "abc cab", 7, 1, NULL, ids, 64, &n));
    see(r, ids, (size_t)n * sizeof *ids);
    TRY(qsae_tokenizer_token(t, ids[0], &bytes, &size));
    see(r, bytes, size);
    see_number(r, MAKE(qsae_tokenizer_is_special(t, 27)));
    MAKE(qsae_corpus_settings_init(&cs, sizeof cs));
    cs.context = 32;
    cs.where = where;
    cs.n_where = 1;
    cs.shuffle = "3";
    TRY(qsae_corpus_open(ctx, t, r->f->jsonl, &cs, &corpus));
    play_corpus(r, corpus);
    cs.n_where = 0;
    cs.shuffle = NULL;
    cs.pack = QSAE_PACK_TL;
    TRY(qsae_corpus_open(ctx, t, r->f->text, &cs, &plain));
    play_corpus(r, plain);
    MAKE(qsae_probe_settings_init(&ps, sizeof ps));
    TRY(qsae_probes_open(ctx, t, r->f->probes, &ps, &probes));
    TRY(qsae_probes_get_info(probes, &set));
    see_text(r, set.hash);
    see_text(r, MAKE(qsae_probes_tag(probes, 1)));
    TRY(qsae_probes_item(probes, 1, &item));
    see(r, item.good, (size_t)item.n_good * sizeof *item.good);
end:
    MAKE(qsae_probes_close(&probes));
    MAKE(qsae_corpus_close(&plain));
    MAKE(qsae_corpus_close(&corpus));
    MAKE(qsae_corpus_close(&own));
    MAKE(qsae_tokenizer_close(&t));
    MAKE(qsae_context_close(&ctx));
}

/* ---- models ---- */

static int32_t take_score(void *cookie, const qsae_probe_score *score)
{
    double *const to = cookie;
    to[score->item] = score->good - score->bad;
    return 0;
}

static int32_t observe(void *cookie, int32_t layer, int32_t site, const qsae_rows *rows)
{
    float *const to = cookie;
    (void)layer;
    (void)site;
    memcpy(to, rows->data, (size_t)rows->n_cols * sizeof *to);
    return 0;
}

static int32_t edit(void *cookie, int32_t layer, int32_t site, qsae_rows *rows)
{
    (void)cookie;
    (void)layer;
    (void)site;
    ((float *)rows->data)[0] += 1;
    return 0;
}

static void play_pass(struct run *r, qsae_weights *w, const char *condition, int32_t memory,
                      const qsae_probes *probes)
{
    qsae_model *m = NULL;
    qsae_model_settings ms;
    qsae_model_info info = { .struct_size = sizeof info };
    qsae_model_cost cost = { .struct_size = sizeof cost };
    qsae_pass pass;
    float seen[FIXTURE_WIDTH], nll[2 * 9];
    double scores[2];
    int32_t layer;
    const int32_t ids[2 * 9] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 20, 21, 22, 23, 24, 25, 26, 27, 0 };
    const qsae_tap taps[] = {
        { .struct_size = sizeof *taps, .layer = 0, .site = QSAE_SITE_RESID_POST, .edit = edit },
        { .struct_size = sizeof *taps, .layer = 1, .site = QSAE_SITE_Z, .observe = observe,
          .cookie = seen },
    };
    MAKE(qsae_model_settings_init(&ms, sizeof ms));
    ms.condition = condition;
    ms.memory = memory;
    TRY(qsae_model_open(w, &ms, &m));
    TRY(qsae_model_get_info(m, &info));
    TRY(qsae_model_get_cost(m, &cost));
    see_text(r, cost.condition);
    see_number(r, MAKE(qsae_model_site(m, "gpt_neox.layers.1.mlp.output", &layer)));
    see_number(r, (double)MAKE(qsae_model_site_width(m, QSAE_SITE_Z)));
    see_number(r, (double)MAKE(qsae_model_site_width_at(m, QSAE_SITE_Z, 1)));
    MAKE(qsae_pass_init(&pass, sizeof pass));
    pass.ids = ids;
    pass.n_seq = 2;
    pass.n_tokens = 9;
    pass.nll = nll;
    pass.taps = taps;
    pass.n_taps = 2;
    TRY(qsae_model_forward(m, &pass));
    see(r, nll, sizeof nll);
    see(r, seen, sizeof seen);
    TRY(qsae_probes_run(probes, m, NULL, take_score, scores));
    see(r, scores, sizeof scores);
end:
    MAKE(qsae_model_close(&m));
}

void play_model(struct run *r)
{
    qsae_context *ctx = NULL;
    qsae_tokenizer *t = NULL;
    qsae_probes *probes = NULL;
    qsae_weights *w = NULL, *processed = NULL;
    qsae_qmatrix *m = NULL;
    qsae_model_info info = { .struct_size = sizeof info };
    qsae_weight_error error = { .struct_size = sizeof error };
    const qsae_context_settings s = play_settings(r);
    TRY(qsae_context_open(&s, &ctx));
    TRY(qsae_tokenizer_open(ctx, r->f->model, &t));
    TRY(qsae_probes_open(ctx, t, r->f->probes, NULL, &probes));
    TRY(qsae_weights_open(ctx, r->f->model, &w));
    TRY(qsae_weights_get_info(w, &info));
    see_text(r, info.hash);
    TRY(qsae_weights_process(w, "tl", &processed));
    see_text(r, MAKE(qsae_weights_processing(processed)));
    TRY(qsae_weights_matrix(w, "gpt_neox.layers.0.mlp.dense_4h_to_h", &m));
    see_number(r, (double)MAKE(qsae_weights_matrix_count(w, NULL)));
    TRY(qsae_weights_error(w, NULL, "nf4", 1, &error));
    see_number(r, error.sqnr_db);
    play_pass(r, w, "llm.int8:threshold=2", QSAE_MEMORY_RESIDENT, probes);
    if (!r->wrong[0] && !(r->abandon && r->failures))
        play_pass(r, processed, "nf4+prune:sparsity=0.2+kv:k=int8,v=int8", QSAE_MEMORY_STREAMED,
                  probes);
end:
    MAKE(qsae_qmatrix_close(&m));
    MAKE(qsae_weights_close(&processed));
    MAKE(qsae_weights_close(&w));
    MAKE(qsae_probes_close(&probes));
    MAKE(qsae_tokenizer_close(&t));
    MAKE(qsae_context_close(&ctx));
}

void play_save(struct run *r)
{
    qsae_context *ctx = NULL;
    qsae_weights *w = NULL;
    qsae_save_settings ss;
    char path[256], file[300];
    static const char *const files[] = { "config.json", "model.safetensors", "tokenizer.json" };
    const qsae_context_settings s = play_settings(r);
    TRY(qsae_context_open(&s, &ctx));
    TRY(qsae_weights_open(ctx, r->f->model, &w));
    MAKE(qsae_save_settings_init(&ss, sizeof ss));
    ONCE(qsae_weights_save(w, "nf4", scratch(r, "saved", path), &ss));
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        snprintf(file, sizeof file, "%s/%s", path, files[i]);
        see_file(r, file);
    }
end:
    MAKE(qsae_weights_close(&w));
    MAKE(qsae_context_close(&ctx));
}

/* ---- SAEs ---- */

static void play_rows_of(struct run *r, qsae_sae *sae)
{
    enum { N = 5, W = FIXTURE_WIDTH, F = FIXTURE_FEATURES };
    float x[N * W], y[N * W], acts[N * F], values[N * F];
    int32_t indices[N * F];
    int64_t indptr[N + 1], nnz;
    double norms[F];
    const qsae_rows in = play_rows(x, N, W, 5);
    qsae_rows out = play_rows(y, N, W, 0), dense = play_rows(acts, N, F, 0);
    const qsae_feature_edit e = { .struct_size = sizeof e, .feature = 3,
                                  .operation = QSAE_FEATURE_ADD, .value = 2 };
    TRY(qsae_sae_encode_sparse(sae, &in, indptr, indices, values, N * F, NULL, &nnz));
    see(r, values, (size_t)nnz * sizeof *values);
    TRY(qsae_sae_encode(sae, &in, &dense, NULL));
    see(r, acts, sizeof acts);
    TRY(qsae_sae_decode_sparse(sae, N, indptr, indices, values, NULL, &out));
    see(r, y, sizeof y);
    TRY(qsae_sae_decode(sae, &dense, NULL, &out));
    see(r, y, sizeof y);
    TRY(qsae_sae_set_prefix(sae, 40));
    TRY(qsae_sae_reconstruct(sae, &in, &out));
    see(r, y, sizeof y);
    TRY(qsae_sae_set_prefix(sae, 0));
    TRY(qsae_sae_intervene(sae, &in, &e, 1, 1, &out));
    see(r, y, sizeof y);
    TRY(qsae_sae_features(sae, "decoder_max_cosine", norms, F));
    see(r, norms, sizeof norms);
end:;
}

void play_sae(struct run *r)
{
    static const int32_t dtypes[] = { 0, QSAE_BF16, QSAE_I8 };
    qsae_context *ctx = NULL;
    qsae_sae *sae[3] = { NULL };
    qsae_sae_settings ss;
    qsae_sae_info info = { .struct_size = sizeof info };
    const qsae_context_settings s = play_settings(r);
    TRY(qsae_context_open(&s, &ctx));
    MAKE(qsae_sae_settings_init(&ss, sizeof ss));
    for (int i = 0; i < 3 && !r->wrong[0]; i++) {
        ss.dtype = dtypes[i];
        TRY(qsae_sae_open(ctx, r->f->sae, &ss, &sae[i]));
        TRY(qsae_sae_get_info(sae[i], &info));
        see_text(r, info.hash);
        play_rows_of(r, sae[i]);
        if (r->abandon && r->failures)
            break;
    }
end:
    for (int i = 0; i < 3; i++)
        MAKE(qsae_sae_close(&sae[i]));
    MAKE(qsae_context_close(&ctx));
}

void play_layers(struct run *r)
{
    enum { N = 3, MOST = 64, LAYERS = 4 };
    static float x[LAYERS][N * MOST], y[LAYERS][N * MOST], values[LAYERS][N * 512];
    static int32_t indices[LAYERS][N * 512];
    int64_t indptr[LAYERS][N + 1], nnz, number;
    qsae_rows in[LAYERS], out[LAYERS];
    const qsae_rows *px[LAYERS];
    qsae_rows *py[LAYERS];
    qsae_sae_acts acts[LAYERS];
    qsae_context *ctx = NULL;
    qsae_sae_layers *layers = NULL;
    qsae_sae *sae = NULL;
    qsae_sae_layers_info info = { .struct_size = sizeof info };
    const qsae_context_settings s = play_settings(r);
    TRY(qsae_context_open(&s, &ctx));
    TRY(qsae_sae_layers_open(ctx, r->f->layers, NULL, &layers));
    TRY(qsae_sae_layers_get_info(layers, &info));
    see_text(r, info.hash);
    if (info.layers > LAYERS || info.width > MOST || info.features > 512) {
        wrong(r, "%s: larger than this scenario", r->f->layers);
        goto end;
    }
    for (int64_t l = 0; l < info.layers; l++) {
        in[l] = play_rows(x[l], N, info.width, (uint32_t)l);
        out[l] = play_rows(y[l], N, info.width_out, 0);
        px[l] = &in[l];
        py[l] = &out[l];
        TRY(qsae_sae_layers_get(layers, l, &number, &sae));
        TRY(qsae_sae_encode_sparse(sae, &in[l], indptr[l], indices[l], values[l], N * 512, NULL,
                                   &nnz));
        acts[l] = (qsae_sae_acts){ .struct_size = sizeof acts[l], .indptr = indptr[l],
                                   .indices = indices[l], .values = values[l] };
    }
    TRY(qsae_sae_layers_decode_sparse(layers, acts, 1, N, &out[0]));
    see(r, y[0], (size_t)(N * info.width_out) * sizeof(float));
    TRY(qsae_sae_layers_reconstruct(layers, px, py));
    for (int64_t l = 0; l < info.layers; l++)
        see(r, y[l], (size_t)(N * info.width_out) * sizeof(float));
end:
    MAKE(qsae_sae_layers_close(&layers));
    MAKE(qsae_context_close(&ctx));
}
