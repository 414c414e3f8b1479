/* SPDX-License-Identifier: BSD-2-Clause */
/* Models: rows at every site, logits and losses, under conditions; fixtures and random ones. */
#include <sys/stat.h>

#include "same.h"

#include "formats/formats.h"
#include "kernels/kernels.h"

#define SEQUENCES 7
#define FIXTURES QSAE_TEST_DATA "/models/"

typedef struct model_case {
    const char *path; /* a fixture, or a random model in same_folder */
    const char *condition;
    int32_t compute, attention;
} model_case;

static const model_case list[] = {
    { "=llama", NULL, QSAE_COMPUTE_F32, QSAE_ATTN_SDPA },
    { "=llama", NULL, QSAE_COMPUTE_BF16, QSAE_ATTN_SDPA },
    { "=llama", "nf4", QSAE_COMPUTE_BF16, QSAE_ATTN_EAGER },
    { "=llama", "llm.int8", QSAE_COMPUTE_BF16, QSAE_ATTN_SDPA },
    { "=llama", "rtn:bits=5,group=8", QSAE_COMPUTE_F32, QSAE_ATTN_FP32 },
    { "=llama", "none+kv:k=int8,v=int8", QSAE_COMPUTE_F32, QSAE_ATTN_SDPA },
    { "=gemma3", NULL, QSAE_COMPUTE_F32, QSAE_ATTN_SDPA },
    { "=gemma3", NULL, QSAE_COMPUTE_BF16, QSAE_ATTN_EAGER },
    { "=gemma3", "fp4:rules=torch,block=32", QSAE_COMPUTE_F32, QSAE_ATTN_EAGER },
    { "=gemma3", "llm.int8", QSAE_COMPUTE_F32, QSAE_ATTN_SDPA },
    { "=gemma3", "ggml:q8_0,fallback=1+prune:sparsity=0.3", QSAE_COMPUTE_F32, QSAE_ATTN_SDPA },
    { "=gpt2", NULL, QSAE_COMPUTE_F32, QSAE_ATTN_EAGER },
    { "=gpt2", NULL, QSAE_COMPUTE_BF16, QSAE_ATTN_SDPA },
    { "=gpt2", "nf4:double=0", QSAE_COMPUTE_F32, QSAE_ATTN_SDPA },
    { "gemma2_cap", NULL, QSAE_COMPUTE_F32, QSAE_ATTN_SDPA },
    { "gemma2_types", "nf4", QSAE_COMPUTE_BF16, QSAE_ATTN_EAGER },
    { "gemma4_experts", NULL, QSAE_COMPUTE_F32, QSAE_ATTN_SDPA },
    { "gemma4_wrapper", NULL, QSAE_COMPUTE_BF16, QSAE_ATTN_SDPA },
    { "neox_parallel", NULL, QSAE_COMPUTE_F32, QSAE_ATTN_SDPA },
    { "neox_sequential", "control:gauss(nf4)", QSAE_COMPUTE_F32, QSAE_ATTN_SDPA },
    { "qwen3_windows", NULL, QSAE_COMPUTE_BF16, QSAE_ATTN_SDPA },
    { "mistral_window", NULL, QSAE_COMPUTE_F32, QSAE_ATTN_SDPA },
    { "gguf_llama_q4_k_m/model.gguf", NULL, QSAE_COMPUTE_F32, QSAE_ATTN_SDPA },
    { "stored_w8a8", NULL, QSAE_COMPUTE_BF16, QSAE_ATTN_SDPA },
};
#define CASES (sizeof list / sizeof list[0])

/* --- random models ----------------------------------------------------------------------------*/

typedef struct writer {
    qsae__tensor t[64];
    char names[64][96];
    int n, power;
    int32_t dtype;
    uint32_t seed;
} writer;

/* A tensor of random values; rank 1: near `around`. */
static void put(writer *w, const char *name, int64_t rows, int64_t cols, int around)
{
    const int64_t n = rows * (cols ? cols : 1);
    const size_t size = w->dtype == QSAE_F32 ? 4 : 2;
    char *const data = malloc((size_t)n * size);
    assert_non_null(data);
    assert_true(w->n < 64);
    for (int64_t i = 0; i < n; i++) {
        const int power = cols ? w->power : -3;
        const float x = (w->dtype == QSAE_F32 ? same_number(&w->seed, power)
                                              : same_short(&w->seed, power)) + (float)around;
        qsae__from_f32(w->dtype, &x, 1, data + (size_t)i * size);
    }
    snprintf(w->names[w->n], sizeof w->names[0], "%s", name);
    w->t[w->n] = (qsae__tensor){ .name = w->names[w->n], .data = data, .bytes = (uint64_t)n * size,
                                 .shape = { rows, cols }, .rank = cols ? 2 : 1,
                                 .dtype = w->dtype };
    w->n++;
}

static void put_layer(writer *w, const char *prefix, int layer, const char *name, int64_t rows,
                      int64_t cols, int around)
{
    char full[96];
    snprintf(full, sizeof full, "%s%d.%s", prefix, layer, name);
    put(w, full, rows, cols, around);
}

static void finish(qsae_context *ctx, writer *w, const char *name, const char *config)
{
    char path[400];
    snprintf(path, sizeof path, "%s/%s", same_folder, name);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof path, "%s/%s/config.json", same_folder, name);
    FILE *const f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(config, f) >= 0);
    assert_int_equal(fclose(f), 0);
    snprintf(path, sizeof path, "%s/%s/model.safetensors", same_folder, name);
    assert_ok(qsae__safetensors_write(ctx, path, w->t, w->n));
    for (int i = 0; i < w->n; i++)
        free((void *)(uintptr_t)w->t[i].data);
}

/* Llama's tensors, and Gemma 3's, which have four more norms each. */
static void put_llama(writer *w, int64_t d, int64_t q, int64_t kv, int64_t head, int64_t mlp,
                      int64_t vocab, bool gemma)
{
    const int one = gemma ? 0 : 1; /* Gemma adds 1 to its norms' weights */
    put(w, "model.embed_tokens.weight", vocab, d, 0);
    if (!gemma)
        put(w, "lm_head.weight", vocab, d, 0);
    put(w, "model.norm.weight", d, 0, one);
    for (int n = 0; n < 2; n++) {
        const char *const p = "model.layers.";
        put_layer(w, p, n, "input_layernorm.weight", d, 0, one);
        put_layer(w, p, n, "post_attention_layernorm.weight", d, 0, one);
        put_layer(w, p, n, "self_attn.q_proj.weight", q * head, d, 0);
        put_layer(w, p, n, "self_attn.k_proj.weight", kv * head, d, 0);
        put_layer(w, p, n, "self_attn.v_proj.weight", kv * head, d, 0);
        put_layer(w, p, n, "self_attn.o_proj.weight", d, q * head, 0);
        put_layer(w, p, n, "mlp.gate_proj.weight", mlp, d, 0);
        put_layer(w, p, n, "mlp.up_proj.weight", mlp, d, 0);
        put_layer(w, p, n, "mlp.down_proj.weight", d, mlp, 0);
        if (!gemma)
            continue;
        put_layer(w, p, n, "pre_feedforward_layernorm.weight", d, 0, one);
        put_layer(w, p, n, "post_feedforward_layernorm.weight", d, 0, one);
        put_layer(w, p, n, "self_attn.q_norm.weight", head, 0, one);
        put_layer(w, p, n, "self_attn.k_norm.weight", head, 0, one);
    }
}

static void make_llama(qsae_context *ctx, uint32_t seed, bool gemma)
{
    static const int32_t dtypes[] = { QSAE_F32, QSAE_BF16, QSAE_F16 };
    writer w = { .seed = seed, .power = -2 };
    char config[1200];
    w.dtype = dtypes[next_random(&w.seed) % 3];
    const int64_t scale = same_full ? 4 : 1;
    const int64_t kv = 1 + next_random(&w.seed) % 2, q = kv * (1 + next_random(&w.seed) % 3);
    const int64_t head = 8 * (1 + next_random(&w.seed) % 3);
    const int64_t d = 8 * q * (1 + next_random(&w.seed) % 2);
    const int64_t mlp = 16 + next_random(&w.seed) % 90 * scale;
    const int64_t vocab = 70 + next_random(&w.seed) % 200 * scale;
    put_llama(&w, d, q, kv, head, mlp, vocab, gemma);
    snprintf(config, sizeof config,
             "{\"architectures\": [\"%s\"], \"model_type\": \"%s\", \"attention_bias\": false, "
             "\"head_dim\": %d, \"%s\": \"%s\", \"hidden_size\": %d, \"intermediate_size\": %d, "
             "\"max_position_embeddings\": 512, \"num_attention_heads\": %d, "
             "\"num_hidden_layers\": 2, \"num_key_value_heads\": %d, \"rms_norm_eps\": 1.3e-06, "
             "\"tie_word_embeddings\": %s, \"vocab_size\": %d, %s}",
             gemma ? "Gemma3ForCausalLM" : "LlamaForCausalLM", gemma ? "gemma3_text" : "llama",
             (int)head, gemma ? "hidden_activation" : "hidden_act",
             gemma ? "gelu_pytorch_tanh" : "silu", (int)d, (int)mlp, (int)q, (int)kv,
             gemma ? "true" : "false", (int)vocab,
             gemma ? "\"query_pre_attn_scalar\": 17.3, \"sliding_window\": 9, "
                     "\"layer_types\": [\"sliding_attention\", \"full_attention\"], "
                     "\"rope_theta\": 999999.7, \"rope_local_base_freq\": 10000.1"
                   : "\"rope_theta\": 9999.3, \"mlp_bias\": false");
    finish(ctx, &w, gemma ? "gemma3" : "llama", config);
}

static void make_gpt2(qsae_context *ctx, uint32_t seed)
{
    writer w = { .seed = seed, .power = -2, .dtype = QSAE_F32 };
    char config[600];
    const int64_t heads = 2 + next_random(&w.seed) % 3;
    const int64_t d = heads * 4 * (2 + next_random(&w.seed) % 4);
    const int64_t mlp = 30 + next_random(&w.seed) % 70;
    const int64_t vocab = 70 + next_random(&w.seed) % 200 * (same_full ? 4 : 1);
    put(&w, "transformer.wte.weight", vocab, d, 0);
    put(&w, "transformer.wpe.weight", 512, d, 0);
    put(&w, "transformer.ln_f.weight", d, 0, 1);
    put(&w, "transformer.ln_f.bias", d, 0, 0);
    for (int n = 0; n < 2; n++) {
        const char *const p = "transformer.h.";
        put_layer(&w, p, n, "ln_1.weight", d, 0, 1);
        put_layer(&w, p, n, "ln_1.bias", d, 0, 0);
        put_layer(&w, p, n, "ln_2.weight", d, 0, 1);
        put_layer(&w, p, n, "ln_2.bias", d, 0, 0);
        put_layer(&w, p, n, "attn.c_attn.weight", d, 3 * d, 0);
        put_layer(&w, p, n, "attn.c_attn.bias", 3 * d, 0, 0);
        put_layer(&w, p, n, "attn.c_proj.weight", d, d, 0);
        put_layer(&w, p, n, "attn.c_proj.bias", d, 0, 0);
        put_layer(&w, p, n, "mlp.c_fc.weight", d, mlp, 0);
        put_layer(&w, p, n, "mlp.c_fc.bias", mlp, 0, 0);
        put_layer(&w, p, n, "mlp.c_proj.weight", mlp, d, 0);
        put_layer(&w, p, n, "mlp.c_proj.bias", d, 0, 0);
    }
    snprintf(config, sizeof config,
             "{\"architectures\": [\"GPT2LMHeadModel\"], \"model_type\": \"gpt2\", "
             "\"activation_function\": \"gelu_new\", \"layer_norm_epsilon\": 1.7e-05, "
             "\"n_embd\": %d, \"n_head\": %d, \"n_inner\": %d, \"n_layer\": 2, "
             "\"n_positions\": 512, \"tie_word_embeddings\": true, \"vocab_size\": %d}",
             (int)d, (int)heads, (int)mlp, (int)vocab);
    finish(ctx, &w, "gpt2", config);
}

void same_models_setup(qsae_context *ctx)
{
    make_llama(ctx, 101, false);
    make_llama(ctx, 202, true);
    make_gpt2(ctx, 303);
}

/* --- what they compute ------------------------------------------------------------------------*/

enum { SITES = 14, TAPS = 40 };

typedef struct seen {
    float *rows[TAPS];
    int64_t width[TAPS], first;
    qsae_tap taps[TAPS];
    int n;
} seen;

struct place {
    seen *all;
    int i;
};

static int32_t keep(void *cookie, int32_t layer, int32_t site, const qsae_rows *rows)
{
    const struct place *const p = cookie;
    seen *const s = p->all;
    (void)layer;
    (void)site;
    for (int64_t r = 0; r < rows->n_rows; r++)
        memcpy(s->rows[p->i] + (s->first + r) * s->width[p->i],
               (const float *)rows->data + r * rows->row_stride,
               (size_t)s->width[p->i] * sizeof(float));
    return 0;
}

static void tap(same_run *r, const qsae_model *m, int layers, int64_t rows, seen *s,
                struct place *places)
{
    for (int layer = 0; layer < layers; layer++)
        for (int site = 1; site <= SITES; site++) {
            const bool once = site == QSAE_SITE_EMBED || site == QSAE_SITE_POS_EMBED;
            const bool last = site == QSAE_SITE_FINAL_NORM || site == QSAE_SITE_FINAL_NORMALIZED;
            const int64_t width = qsae_model_site_width_at(m, site, layer);
            if (width == 0 || s->n == TAPS || (once && layer) || (last && layer != layers - 1))
                continue;
            places[s->n] = (struct place){ s, s->n };
            s->width[s->n] = width;
            s->rows[s->n] = same_array(r, rows * width, sizeof(float));
            s->taps[s->n] = (qsae_tap){ .struct_size = sizeof(qsae_tap), .layer = layer,
                                        .site = site, .observe = keep, .cookie = &places[s->n] };
            s->n++;
        }
}

static void compute(same_run *r, const void *argument)
{
    const model_case *const c = argument;
    const int64_t n_tokens = same_full ? 61 : 13;
    char path[600];
    qsae_weights *w = NULL;
    qsae_model *m = NULL;
    qsae_model_settings s;
    qsae_model_info info = { .struct_size = sizeof info };
    qsae_model_cost cost = { .struct_size = sizeof cost };
    struct place places[TAPS];
    seen all = { .n = 0 };
    if (c->path[0] == '=')
        snprintf(path, sizeof path, "%s/%s", same_folder, c->path + 1);
    else
        snprintf(path, sizeof path, FIXTURES "%s", c->path);
    SAME_CALL(r, qsae_weights_open(r->ctx, path, &w));
    qsae_model_settings_init(&s, sizeof s);
    s.condition = c->condition;
    s.compute = c->compute;
    s.attention = c->attention;
    s.memory = r->memory;
    SAME_CALL(r, qsae_model_open(w, &s, &m));
    SAME_CALL(r, qsae_model_get_info(m, &info));
    SAME_CALL(r, qsae_model_get_cost(m, &cost));
    const int64_t rows = SEQUENCES * n_tokens;
    int32_t *const ids = same_array(r, rows, sizeof *ids);
    float *const logits = same_array(r, rows * info.vocab, sizeof *logits);
    float *const nll = same_array(r, rows, sizeof *nll);
    uint32_t seed = 77;
    for (int64_t i = 0; i < rows; i++)
        ids[i] = (int32_t)(next_random(&seed) % (uint32_t)info.vocab);
    tap(r, m, (int)info.layers, rows, &all, places);
    for (int64_t q = 0, n; q < SEQUENCES; q += n) {
        qsae_pass p;
        n = cost.batch_dependent ? SEQUENCES : same_step(r, q, SEQUENCES);
        qsae_pass_init(&p, sizeof p);
        p.ids = ids + q * n_tokens;
        p.n_seq = n;
        p.n_tokens = n_tokens;
        p.logits = logits + q * n_tokens * info.vocab;
        p.nll = nll + q * n_tokens;
        p.taps = all.taps;
        p.n_taps = all.n;
        all.first = q * n_tokens;
        SAME_CALL(r, qsae_model_forward(m, &p));
    }
    for (int i = 0; i < all.n; i++)
        same_add(r, all.rows[i], rows * all.width[i], sizeof(float));
    same_add(r, logits, rows * info.vocab, sizeof *logits);
    same_add(r, nll, rows, sizeof *nll);
    qsae_model_close(&m);
    qsae_weights_close(&w);
}

size_t same_models(same_case *cases, size_t most)
{
    static char names[CASES][120];
    assert_true(CASES <= most);
    for (size_t i = 0; i < CASES; i++) {
        const bool bf16 = list[i].compute == QSAE_COMPUTE_BF16;
        snprintf(names[i], sizeof names[0], "model:%s:%s:%s:%d", list[i].path,
                 list[i].condition ? list[i].condition : "none", bf16 ? "bf16" : "f32",
                 (int)list[i].attention);
        cases[i] = (same_case){ names[i], bf16 ? SAME_BF16 : SAME_F32, compute, &list[i] };
    }
    return CASES;
}
