/* SPDX-License-Identifier: BSD-2-Clause */
/* Head outputs against sums over whole rows of logits. */
#include "model_test.h"

#define VOCAB 20000 /* more than one group of columns, and not a whole number of tiles */
#define WIDTH 8
#define ROWS 21

static uint32_t seed = 99;

static float noise(void)
{
    seed = seed * 1664525u + 1013904223u;
    return (float)((int32_t)(seed >> 8) % 2001 - 1000) / 500.0f;
}

/* A one-layer Llama with a large vocabulary; ids 4711 and 19000 have the same row. */
static void write_model(qsae_context *ctx)
{
    static const char *const names[] = { "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                         "self_attn.o_proj", "mlp.gate_proj",    "mlp.up_proj",
                                         "mlp.down_proj",    "input_layernorm",
                                         "post_attention_layernorm" };
    static const char config[] =
        "{\"model_type\":\"llama\",\"vocab_size\":20000,\"hidden_size\":8,\"intermediate_size\":8,"
        "\"num_hidden_layers\":1,\"num_attention_heads\":2,\"tie_word_embeddings\":true}";
    float *embed = malloc(sizeof(float) * VOCAB * WIDTH), square[WIDTH * WIDTH];
    char full[9][80], path[512];
    qsae__tensor t[11] = { 0 };
    assert_non_null(embed);
    for (int64_t i = 0; i < VOCAB * WIDTH; i++)
        embed[i] = noise();
    for (int i = 0; i < WIDTH; i++)
        embed[4711 * WIDTH + i] = embed[19000 * WIDTH + i] = i ? 0.0f : 9.0f;
    for (int i = 0; i < WIDTH * WIDTH; i++)
        square[i] = noise() / 4;
    for (int i = 0; i < 9; i++) {
        snprintf(full[i], sizeof full[i], "model.layers.0.%s.weight", names[i]);
        t[i] = (qsae__tensor){ .name = full[i], .data = square, .dtype = QSAE_F32,
                               .rank = i < 7 ? 2 : 1, .shape = { WIDTH, WIDTH } };
        t[i].bytes = (i < 7 ? WIDTH * WIDTH : WIDTH) * sizeof(float);
    }
    t[9] = t[7];
    t[9].name = "model.norm.weight";
    t[10] = (qsae__tensor){ .name = "model.embed_tokens.weight", .data = embed, .dtype = QSAE_F32,
                            .rank = 2, .shape = { VOCAB, WIDTH },
                            .bytes = sizeof(float) * VOCAB * WIDTH };
    snprintf(path, sizeof path, "%s/model.safetensors", test_folder());
    OK(qsae__safetensors_write(ctx, path, t, 11));
    test_write("config.json", config, strlen(config));
    free(embed);
}

static double lse_of(const float *z, int64_t n)
{
    double m = (double)z[0], s = 0;
    for (int64_t i = 1; i < n; i++)
        m = fmax(m, (double)z[i]);
    for (int64_t i = 0; i < n; i++)
        s += exp((double)z[i] - m);
    return m + log(s);
}

struct outputs {
    float final[ROWS * WIDTH], nll[ROWS], kl[ROWS];
    int32_t top[ROWS];
    float *logits; /* [ROWS, VOCAB] */
};

static void check_row(const struct outputs *o, const struct outputs *ref, int64_t r, int32_t label)
{
    const float *z = o->logits + r * VOCAB, *z0 = ref->logits + r * VOCAB;
    const double lse = lse_of(z, VOCAB), lse0 = lse_of(z0, VOCAB);
    double kl = 0;
    int64_t top = 0;
    for (int64_t i = 0; i < VOCAB; i++) {
        const double p = exp((double)z0[i] - lse0);
        kl += p * ((double)z0[i] - lse0 - ((double)z[i] - lse));
        if (z[i] > z[top])
            top = i;
    }
    assert_int_equal(o->top[r], top);
    assert_true(label < 0 ? isnan(o->nll[r])
                          : fabs((double)o->nll[r] - (lse - (double)z[label])) < 2e-6);
    if (o == ref)
        assert_true(o->kl[r] == 0);
    else
        assert_true(fabs((double)o->kl[r] - kl) < 1e-6);
}

/* Participants: two with one weight, one with its weight rounded; alone and together. */
static void test_participants(void **state)
{
    qsae_context *ctx = test_context(3, NULL);
    qsae_weights *w = NULL;
    qsae_model *m[3] = { NULL };
    struct outputs o[3], alone;
    int32_t labels[ROWS];
    qsae__head_rows p[3];
    const char *const conditions[] = { "none", "nf4", "none@compute=bf16" };
    (void)state;
    write_model(ctx);
    OK(qsae_weights_open(ctx, test_folder(), &w));
    for (int i = 0; i < 3; i++) {
        qsae_model_settings s;
        qsae_model_settings_init(&s, sizeof s);
        s.condition = conditions[i];
        OK(qsae_model_open(w, &s, &m[i]));
        o[i].logits = malloc(sizeof(float) * ROWS * VOCAB);
        assert_non_null(o[i].logits);
        for (int k = 0; k < ROWS * WIDTH; k++) {
            const float base = i ? o[0].final[k] + noise() / 10 : noise();
            o[i].final[k] = i == 2 ? qsae__round_bf16(base) : base;
        }
        o[i].final[0] = 3; /* row 0 favours the two equal rows */
        p[i] = (qsae__head_rows){ m[i], o[i].final, o[i].nll, o[i].kl, o[i].top, o[i].logits };
    }
    for (int r = 0; r < ROWS; r++)
        labels[r] = r % 5 == 4 ? -100 : (r * 977 + 3) % VOCAB;
    OK(qsae__head_run(ctx, ROWS, labels, 3, p, NULL));
    for (int i = 0; i < 3; i++)
        for (int r = 0; r < ROWS; r++)
            check_row(&o[i], &o[0], r, labels[r]);
    assert_int_equal(o[0].top[0], 4711); /* not 19000 */
    /* the same rows, alone, one by one: the same bits */
    for (int i = 0; i < 3; i++) {
        for (int r = 0; r < ROWS; r++) {
            const qsae__head_rows one = { m[i], o[i].final + r * WIDTH, alone.nll + r, NULL,
                                          alone.top + r, NULL };
            OK(qsae__head_run(ctx, 1, labels + r, 1, &one, NULL));
        }
        assert_memory_equal(alone.nll, o[i].nll, sizeof alone.nll);
        assert_memory_equal(alone.top, o[i].top, sizeof alone.top);
    }
    /* equal rows under another condition: divergence exactly 0 */
    p[1].final = o[0].final;
    OK(qsae__head_run(ctx, ROWS, NULL, 2, p, NULL));
    for (int r = 0; r < ROWS; r++)
        assert_true(o[1].kl[r] == 0 && isnan(o[1].nll[r]));
    for (int i = 0; i < 3; i++) {
        free(o[i].logits);
        qsae_model_close(&m[i]);
    }
    qsae_weights_close(&w);
    qsae_context_close(&ctx);
}

static void test_errors(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    qsae_model *a = test_model(ctx, test_model_path("llama_gqa"), NULL, 0, 0);
    qsae_model *b = test_model(ctx, test_model_path("gemma3_cap"), NULL, 0, 0);
    qsae_cancel_token *token = NULL;
    float final[64] = { 1 }, nll[1];
    int32_t label = 96;
    const qsae__head_rows p[2] = { { .model = a, .final = final, .nll = nll },
                                   { .model = b, .final = final, .nll = nll } };
    (void)state;
    REFUSED(qsae__head_run(ctx, 1, NULL, 2, p, NULL), QSAE_EMISMATCH, "96");
    REFUSED(qsae__head_run(ctx, 1, &label, 1, p, NULL), QSAE_EINVAL, "label 96 of row 0");
    REFUSED(qsae__head_run(ctx, 1, NULL, 0, p, NULL), QSAE_EINVAL, "participants");
    OK(qsae__head_run(ctx, 0, NULL, 1, p, NULL));
    OK(qsae_cancel_token_open(&token));
    qsae_cancel_token_cancel(token);
    assert_int_equal(qsae__head_run(ctx, 1, NULL, 1, p, token), QSAE_ECANCELED);
    qsae_cancel_token_close(&token);
    qsae_model_close(&a);
    qsae_model_close(&b);
    qsae_context_close(&ctx);
}

const struct CMUnitTest head_tests[] = {
    cmocka_unit_test(test_participants),
    cmocka_unit_test(test_errors),
};
const size_t n_head_tests = sizeof head_tests / sizeof head_tests[0];
