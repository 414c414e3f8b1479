/* SPDX-License-Identifier: BSD-2-Clause */
/* Head outputs against sums over whole rows of logits. */
#include "model_test.h"

#include "kernels/nn.h"
#include "kernels/product.h"

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
        p[i] = (qsae__head_rows){ .model = m[i], .final = o[i].final, .nll = o[i].nll,
                                  .kl = o[i].kl, .top = o[i].top, .logits = o[i].logits };
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
            const qsae__head_rows one = { .model = m[i], .final = o[i].final + r * WIDTH,
                                          .nll = alone.nll + r, .top = alone.top + r };
            OK(qsae__head_run(ctx, 1, labels + r, 1, &one, NULL));
        }
        assert_memory_equal(alone.nll, o[i].nll, sizeof alone.nll);
        assert_memory_equal(alone.top, o[i].top, sizeof alone.top);
    }
    /* one output alone has the bits it has beside the others */
    for (int what = 0; what < 2; what++) {
        float kl[2][ROWS], entropy[2][ROWS];
        qsae__head_rows two[2] = { p[0], p[1] };
        for (int only = 0; only < 2; only++) {
            for (int i = 0; i < 2; i++) {
                two[i].nll = only ? NULL : o[i].nll;
                two[i].logits = NULL;
                two[i].top = NULL;
                two[i].kl = i == 1 && (!only || what == 0) ? kl[only] : NULL;
                two[i].entropy = i == 1 && (!only || what == 1) ? entropy[only] : NULL;
            }
            OK(qsae__head_run(ctx, ROWS, labels, 2, two, NULL));
        }
        assert_memory_equal(what ? entropy[0] : kl[0], what ? entropy[1] : kl[1], sizeof kl[0]);
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
    REFUSED(qsae__head_run(ctx, -1, NULL, 1, p, NULL), QSAE_EINVAL, "negative row count");
    qsae__head_rows some[2] = { p[0], p[0] };
    some[1].final = NULL;
    REFUSED(qsae__head_run(ctx, 1, NULL, 2, some, NULL), QSAE_EINVAL, "participant 1 is NULL");
    OK(qsae__head_run(ctx, 0, NULL, 2, some, NULL)); /* there is nothing to read */
    some[1] = p[0];
    some[1].model = NULL;
    REFUSED(qsae__head_run(ctx, 1, NULL, 2, some, NULL), QSAE_EINVAL, "participant 1 is NULL");
    float overlap[1];
    for (int64_t k = 0; k < 3; k++) { /* too few, too many, not that of the other */
        static const int64_t wrong[] = { 0, QSAE__OVERLAP_MOST + 1, 2 };
        for (int i = 0; i < 2; i++) {
            some[i] = p[0];
            some[i].overlap = overlap;
            some[i].overlap_k = i ? 3 : wrong[k];
        }
        REFUSED(qsae__head_run(ctx, 1, NULL, 2, some, NULL), QSAE_EINVAL, "overlap_k: expected 1");
    }
    OK(qsae__head_run(ctx, 0, NULL, 1, p, NULL));
    OK(qsae_cancel_token_open(&token));
    qsae_cancel_token_cancel(token);
    assert_int_equal(qsae__head_run(ctx, 1, NULL, 1, p, token), QSAE_ECANCELED);
    qsae_cancel_token_close(&token);
    qsae_model_close(&a);
    qsae_model_close(&b);
    qsae_context_close(&ctx);
}

static const char *const levels[] = { "c", "avx2", "avx512", "avx512bf16", "amx", NULL };

/* Values of any bits near the given scale. */
static void fill(float *x, int64_t n, float scale, bool bf16)
{
    for (int64_t i = 0; i < n; i++) {
        x[i] = (noise() + noise() / 1024) * scale;
        if (bf16)
            x[i] = qsae__round_bf16(x[i]);
    }
}

/* Everything the fold computes of n logits, to out; returns how much. */
static int64_t fold_ops(const qsae__nn *nn, const float *x, const float *y, int64_t n, float *out)
{
    double sums[7];
    float copy[200], terms[200];
    int32_t tame;
    const float m = nn->logit_max(x, n, &tame);
    assert_int_equal(tame, 1);
    memcpy(copy, x, (size_t)n * sizeof *x);
    memcpy(out, x, (size_t)n * sizeof *x);
    memcpy(out + n, x, (size_t)n * sizeof *x);
    sums[0] = nn->logit_sum(out, qsae__round_bf16(m), n, 1, NULL);
    sums[1] = nn->logit_sum(out + n, m, n, 0, out + 2 * n);
    sums[2] = nn->logit_diff(out + 2 * n, out + n, y, n);
    sums[3] = (double)m;
    sums[4] = (double)nn->find(x, m, n);
    /* the sum of both kinds is the same, bit by bit, and so are its terms */
    assert_true(nn->logit_sums(copy, m, n, 0, terms, &sums[5]) == sums[1]);
    assert_memory_equal(terms, out + 2 * n, (size_t)n * sizeof *terms);
    assert_true(nn->logit_sums(copy, qsae__round_bf16(m), n, 1, NULL, &sums[6]) == sums[0]);
    assert_memory_equal(copy, out, (size_t)n * sizeof *copy);
    memcpy(out + 3 * n, sums, sizeof sums);
    return 3 * n + 14;
}

/* The operations of the fold: right in f64, the same bits at every level, no writes beyond. */
static void test_fold_operations(void **state)
{
    enum { N = 200, OUT = 3 * N + 20 };
    static float x[N + 2], y[N + 2], first[OUT], out[OUT];
    (void)state;
    for (int64_t n = 1; n <= N; n++) {
        const float *const a = x + n % 3, *const b = y + n % 2;
        fill(x, N + 2, n % 7 ? 4 : 80, false);
        fill(y, N + 2, 4, false);
        for (int l = 0; levels[l]; l++) {
            qsae_context *ctx = test_context(1, levels[l]);
            memset(out, 0x5a, sizeof out);
            const int64_t used = fold_ops(qsae__nn_get(ctx), a, b, n, out);
            for (int64_t i = used; i < OUT; i++)
                assert_memory_equal(out + i, "ZZZZ", 4);
            if (l == 0)
                memcpy(first, out, sizeof out);
            if (memcmp(first, out, sizeof out) != 0)
                fail_msg("%d logits: level %s differs (seed %u)", (int)n, levels[l], seed);
            const bool best = !strcmp(levels[l], qsae_cpu_best());
            qsae_context_close(&ctx);
            if (best)
                break;
        }
        double sums[7], m = -INFINITY, sum[2] = { 0 }, diff = 0, over[2] = { 0 };
        memcpy(sums, first + 3 * n, sizeof sums);
        for (int64_t i = 0; i < n; i++)
            m = fmax(m, (double)a[i]);
        for (int64_t i = 0; i < n; i++) {
            const float r = qsae__round_bf16(a[i]);
            assert_true(first[i] == r && first[n + i] == a[i]);
            sum[0] += exp((double)r - (double)qsae__round_bf16((float)m));
            over[1] += exp((double)r - (double)qsae__round_bf16((float)m)) *
                       ((double)r - (double)qsae__round_bf16((float)m));
            over[0] += exp((double)a[i] - m) * ((double)a[i] - m);
            sum[1] += exp((double)a[i] - m);
            diff += exp((double)a[i] - m) * ((double)a[i] - (double)b[i]);
            if ((double)a[i] == m && sum[1] >= 1 && i < (int64_t)sums[4])
                fail_msg("logit %d is the maximum, not %g", (int)i, sums[4]);
        }
        assert_true(sums[3] == m && (double)a[(int64_t)sums[4]] == m);
        for (int i = 0; i < 2; i++)
            assert_true(fabs(sums[i] - sum[i]) < 2e-7 * sum[i]);
        for (int i = 0; i < 2; i++)
            assert_true(fabs(sums[5 + i] - over[i]) < 4e-7 * (fabs(over[i]) + sum[1]));
        assert_true(fabs(sums[2] - diff) < 2e-6 * sum[1] * (n % 7 ? 8 : 100));
    }
}

static void test_fold_special(void **state)
{
    static const float bad[] = { NAN, INFINITY, -INFINITY, 3e38f, -1e20f };
    float x[100], big[1];
    int32_t tame;
    (void)state;
    for (int l = 0; levels[l]; l++) {
        qsae_context *ctx = test_context(1, levels[l]);
        const qsae__nn *const nn = qsae__nn_get(ctx);
        for (int i = 0; i < 100; i++) {
            fill(x, 100, 1, false);
            x[i] = bad[i % 5];
            nn->logit_max(x, 100, &tame);
            assert_int_equal(tame, 0);
            assert_int_equal(nn->find(x, x[i], 100), isnan(x[i]) ? 100 : i);
        }
        assert_true(nn->logit_max(x, 0, &tame) == -INFINITY && tame);
        big[0] = -1e18f; /* far below the maximum: next to nothing */
        assert_true(nn->logit_sum(big, 1e18f, 1, 0, NULL) < 1e-36);
        const bool best = !strcmp(levels[l], qsae_cpu_best());
        qsae_context_close(&ctx);
        if (best)
            break;
    }
}

/* A head without a model around it. */
struct head {
    qsae__config config;
    qsae_model model[3]; /* bf16, f32 over the same weight, bf16 without packed operands */
    uint16_t *w;         /* [vocab, width] bf16 */
};

static void head_open(qsae_context *ctx, int64_t vocab, int64_t width, struct head *h)
{
    memset(h, 0, sizeof *h);
    h->config.vocab = vocab;
    h->config.width = width;
    h->w = malloc((size_t)(vocab * width) * sizeof *h->w);
    assert_non_null(h->w);
    for (int64_t i = 0; i < vocab * width; i++)
        h->w[i] = qsae__f32_to_bf16(noise());
    for (int i = 0; i < 3; i++) {
        qsae_model *const m = &h->model[i];
        m->ctx = ctx;
        m->config = &h->config;
        m->bf16 = i != 1;
        m->head = (qsae__dense){ .data = h->w, .dtype = QSAE_BF16, .level = ctx->level,
                                 .n_stride = width, .k_stride = 1 };
        m->head_panels = qsae__panels_dense(&m->head, vocab, width);
    }
    if (!qsae__packed_get(ctx)->bf16)
        return;
    qsae_model *const m = h->model;
    OK(qsae__packed_dense(ctx, &m->head, vocab, width, &m[0].head_packed));
    m[1].head_packed = qsae__packed_ref(m[0].head_packed);
    m[0].head_parts = 1;
    m[1].head_parts = 3;
}

static void head_close(struct head *h)
{
    qsae__packed_close(&h->model[0].head_packed);
    qsae__packed_close(&h->model[1].head_packed);
    free(h->w);
}

/* Outputs of one participant. */
struct part {
    float *final, *nll, *kl, *logits, *entropy, *overlap;
    int32_t *top;
};

#define OVERLAP 5

static void part_open(int64_t rows, int64_t vocab, int64_t width, struct part *p)
{
    p->final = malloc((size_t)(rows * width) * sizeof(float));
    p->logits = malloc((size_t)(rows * vocab) * sizeof(float));
    p->nll = malloc((size_t)rows * 20);
    assert_true(p->final && p->logits && p->nll);
    p->kl = p->nll + rows;
    p->entropy = p->kl + rows;
    p->overlap = p->entropy + rows;
    p->top = (int32_t *)(void *)(p->overlap + rows);
}

static qsae__head_rows part_rows(const struct head *h, int i, const struct part *p)
{
    return (qsae__head_rows){ .model = (qsae_model *)(uintptr_t)&h->model[i], .final = p->final,
                              .nll = p->nll, .kl = p->kl, .top = p->top, .logits = p->logits,
                              .entropy = p->entropy, .overlap = p->overlap,
                              .overlap_k = OVERLAP };
}

/* Number of logits that go before logit c: larger, or equal with a lower id. */
static int64_t rank_of(const float *z, int64_t n, int64_t c)
{
    int64_t rank = 0;
    for (int64_t i = 0; i < n; i++)
        rank += z[i] > z[c] || (z[i] == z[c] && i < c);
    return rank;
}

/* Entropy and overlap against their definitions. */
static void check_shape(const float *z, const float *z0, int64_t v, float entropy, float overlap)
{
    const double lse = lse_of(z, v);
    double h = 0;
    int64_t both = 0;
    for (int64_t c = 0; c < v; c++) {
        h -= exp((double)z[c] - lse) * ((double)z[c] - lse);
        if (rank_of(z, v, c) < OVERLAP)
            both += rank_of(z0, v, c) < OVERLAP;
    }
    if (fabs((double)entropy - h) > 1e-6 * (1 + h) || overlap != (float)both / (float)OVERLAP)
        fail_msg("entropy %.9g overlap %g, expected %.9g %g (seed %u)", (double)entropy,
                 (double)overlap, h, (double)both / OVERLAP, seed);
}

static void part_close(struct part *p)
{
    free(p->final);
    free(p->logits);
    free(p->nll);
}

/* Logits against sums in f64, the rest against sums over the logits. */
static void check_part(const struct head *h, int i, const struct part *p, const struct part *ref,
                       int64_t rows, const int32_t *labels)
{
    const int64_t v = h->config.vocab, d = h->config.width;
    for (int64_t r = 0; r < rows; r++) {
        const float *const z = p->logits + r * v, *const z0 = ref->logits + r * v;
        const double lse = lse_of(z, v), lse0 = lse_of(z0, v);
        double kl = 0;
        int64_t top = 0;
        for (int64_t c = 0; c < v; c++) {
            double dot = 0, size = 0;
            for (int64_t k = 0; k < d; k++) {
                const double t = (double)p->final[r * d + k] *
                                 (double)qsae__bf16_to_f32(h->w[c * d + k]);
                dot += t;
                size += fabs(t);
            }
            const double slack = size * (double)d * 0x1p-24;
            if (!(fabs((double)z[c] - dot) <= slack + (i == 1 ? 0 : fabs(dot) * 0x1.02p-8)))
                fail_msg("logit %d of row %d: %g, expected %g (seed %u)", (int)c, (int)r,
                         (double)z[c], dot, seed);
            const double q = exp((double)z0[c] - lse0);
            kl += q * ((double)z0[c] - lse0 - ((double)z[c] - lse));
            if (z[c] > z[top])
                top = c;
        }
        assert_int_equal(p->top[r], top);
        if (v < 2000)
            check_shape(z, z0, v, p->entropy[r], p->overlap[r]);
        const double nll = lse - (double)z[labels[r]], size = 1 + fabs(lse);
        if (fabs((double)p->nll[r] - nll) > 2e-7 * size ||
            fabs((double)p->kl[r] - (p == ref ? 0 : kl)) > 1e-6 * size)
            fail_msg("row %d: nll %.9g kl %.9g, expected %.9g %.9g (seed %u)", (int)r,
                     (double)p->nll[r], (double)p->kl[r], nll, kl, seed);
    }
}

/* The participants by twos and one by one, rows in other blocks, on one thread: the same bits. */
static void check_cuts(const struct head *h, const struct part *p, int64_t rows,
                       const int32_t *labels, const char *level)
{
    const int64_t d = h->config.width, half = rows / 2 + 1;
    qsae_context *ctx = test_context(1, level);
    float nll[2][80], kl[80], entropy[80], overlap[80];
    int32_t top[80];
    for (int i = 0; i < 3; i++) {
        const qsae__head_rows one = { .model = (qsae_model *)(uintptr_t)&h->model[i],
                                      .final = p[i].final, .nll = nll[0], .top = top,
                                      .entropy = entropy };
        OK(qsae__head_run(ctx, rows, labels, 1, &one, NULL));
        assert_memory_equal(entropy, p[i].entropy, (size_t)rows * 4);
        assert_memory_equal(nll[0], p[i].nll, (size_t)rows * 4);
        assert_memory_equal(top, p[i].top, (size_t)rows * 4);
        for (int64_t r = 0; r < rows; r += half) {
            const int64_t n = rows - r < half ? rows - r : half;
            const qsae__head_rows two[] = {
                { .model = (qsae_model *)(uintptr_t)&h->model[0], .final = p[0].final + r * d,
                  .nll = nll[0] },
                { .model = (qsae_model *)(uintptr_t)&h->model[i], .final = p[i].final + r * d,
                  .nll = nll[1], .kl = kl, .top = top, .overlap = overlap,
                  .overlap_k = OVERLAP } };
            OK(qsae__head_run(ctx, n, labels + r, 2, two, NULL));
            assert_memory_equal(nll[0], p[0].nll + r, (size_t)n * 4);
            assert_memory_equal(nll[1], p[i].nll + r, (size_t)n * 4);
            assert_memory_equal(top, p[i].top + r, (size_t)n * 4);
            assert_memory_equal(overlap, p[i].overlap + r, (size_t)n * 4);
            if (i)
                assert_memory_equal(kl, p[i].kl + r, (size_t)n * 4);
        }
    }
    qsae_context_close(&ctx);
}

/* Every tile width, odd sizes, labels at the borders of tiles and groups; each level. */
static void test_shapes(void **state)
{
    static const int64_t shapes[][3] = { /* rows, vocab, width */
        { 1, 1, 1 },     { 3, 31, 33 },    { 70, 33, 8 },   { 65, 1030, 32 },
        { 17, 700, 31 }, { 5, 8200, 65 },  { 18, 300, 701 }, { 33, 270, 2561 } };
    static const int32_t borders[] = { 0, 31, 32, 127, 128, 255, 256, 511, 512, 8191, 8192 };
    (void)state;
    for (int l = 0; levels[l]; l++) {
        qsae_context *ctx = test_context(3, levels[l]);
        for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
            const int64_t rows = shapes[s][0], v = shapes[s][1], d = shapes[s][2];
            struct head h;
            struct part p[3];
            int32_t labels[80];
            qsae__head_rows all[3];
            head_open(ctx, v, d, &h);
            for (int64_t r = 0; r < rows; r++)
                labels[r] = r % 12 == 11 ? (int32_t)v - 1 : borders[r % 12] % (int32_t)v;
            for (int i = 0; i < 3; i++) {
                part_open(rows, v, d, &p[i]);
                fill(p[i].final, rows * d, 3 / sqrtf((float)d), h.model[i].bf16);
                all[i] = part_rows(&h, i, &p[i]);
            }
            OK(qsae__head_run(ctx, rows, labels, 3, all, NULL));
            for (int i = 0; i < 3; i++)
                check_part(&h, i, &p[i], &p[0], rows, labels);
            check_cuts(&h, p, rows, labels, levels[l]);
            for (int i = 0; i < 3; i++)
                part_close(&p[i]);
            head_close(&h);
        }
        const bool best = !strcmp(levels[l], qsae_cpu_best());
        qsae_context_close(&ctx);
        if (best)
            break;
    }
}

/* Infinite and absent logits: ids below LOW, two groups and a tile, follow the last input. */
static void test_special_logits(void **state)
{
    enum { V = 17500, LOW = 17000, D = 8, R = 5 };
    static const float last[R] = { 0, 3e38f, -3e38f, NAN, 1 };
    (void)state;
    for (int l = 0; levels[l]; l++) {
        qsae_context *ctx = test_context(2, levels[l]);
        struct head h;
        struct part p[3];
        const int32_t labels[R] = { LOW - 1, LOW, V - 1, 4, 512 };
        qsae__head_rows all[3];
        head_open(ctx, V, D, &h);
        for (int64_t i = 0; i < V; i++)
            h.w[i * D + D - 1] = i < LOW ? 0xc080 /* -4 */ : 0;
        qsae__packed_close(&h.model[0].head_packed);
        qsae__packed_close(&h.model[1].head_packed);
        if (qsae__packed_get(ctx)->bf16) {
            OK(qsae__packed_dense(ctx, &h.model[0].head, V, D, &h.model[0].head_packed));
            h.model[1].head_packed = qsae__packed_ref(h.model[0].head_packed);
        }
        for (int i = 0; i < 3; i++) {
            part_open(R, V, D, &p[i]);
            fill(p[i].final, R * D, 1, true);
            for (int r = 0; r < R; r++)
                p[i].final[r * D + D - 1] = last[r];
            all[i] = part_rows(&h, i, &p[i]);
        }
        OK(qsae__head_run(ctx, R, labels, 3, all, NULL));
        for (int i = 0; i < 3; i++) {
            const float *const z = p[i].logits + V; /* row 1: -inf, then numbers */
            assert_true(isinf(z[LOW - 1]) && z[LOW - 1] < 0 && isfinite(z[LOW]));
            assert_true(fabs((double)p[i].nll[1] - (lse_of(z + LOW, V - LOW) - (double)z[LOW])) <
                        2e-6);
            assert_true(p[i].top[1] >= LOW && p[i].top[2] == 0 && p[i].top[3] == -1);
            assert_true(isnan(p[i].nll[2]) && isnan(p[i].nll[3]));
            assert_true(isnan(p[i].entropy[2]) && isnan(p[i].entropy[3]));
            check_shape(z + LOW, p[0].logits + V + LOW, V - LOW, p[i].entropy[1],
                        p[i].overlap[1]);
            assert_true(isfinite(p[i].nll[0]) && isfinite(p[i].nll[4]));
            if (i)
                assert_true(isfinite(p[i].kl[0]) && isnan(p[i].kl[2]) && isnan(p[i].kl[3]));
        }
        for (int i = 0; i < 3; i++)
            part_close(&p[i]);
        head_close(&h);
        const bool best = !strcmp(levels[l], qsae_cpu_best());
        qsae_context_close(&ctx);
        if (best)
            break;
    }
}

const struct CMUnitTest head_tests[] = {
    cmocka_unit_test(test_fold_operations),
    cmocka_unit_test(test_fold_special),
    cmocka_unit_test(test_shapes),
    cmocka_unit_test(test_special_logits),
    cmocka_unit_test(test_participants),
    cmocka_unit_test(test_errors),
};
const size_t n_head_tests = sizeof head_tests / sizeof head_tests[0];
