/* SPDX-License-Identifier: BSD-2-Clause */
/* One layer step by step in bf16: each step on the inputs torch had, compared with torch's result.
 */
#include "model_test.h"

#include "kernels/softmax.h"

struct layer {
    qsae_context *ctx;
    qsae__tensors *t;
    const char *prefix;
    qsae_model *m;
    qsae__slab slab;
    qsae__run run;
    int64_t rows;
};

static char key_buffer[160];

static const char *key(const struct layer *l, const char *name)
{
    snprintf(key_buffer, sizeof key_buffer, "%s%s", l->prefix, name);
    return key_buffer;
}

static float *load(const struct layer *l, const char *name)
{
    return test_floats(l->t, key(l, name), NULL);
}

/* Order of bf16 values as integers, so that neighbours differ by 1. */
static int32_t ordinal(float x)
{
    const int32_t u = qsae__f32_to_bf16(x);
    return u & 0x8000 ? -(u & 0x7fff) : u;
}

/* 99.9 % within 1 bf16 unit, `unequal`: most that may differ at all, as a share. */
static void compare(const struct layer *l, const char *name, const float *got, double unequal)
{
    int64_t n, off = 0, differ = 0;
    float *want = test_floats(l->t, key(l, name), &n);
    for (int64_t i = 0; i < n; i++) {
        const int32_t d = abs(ordinal(got[i]) - ordinal(want[i]));
        off += d > 1;
        differ += d > 0;
        assert_true(got[i] == qsae__round_bf16(got[i]));
    }
    if ((double)off > 0.001 * (double)n || (double)differ > unequal * (double)n)
        fail_msg("%s%s: of %lld elements %lld differ, %lld by more than a unit", l->prefix, name,
                 (long long)n, (long long)differ, (long long)off);
    free(want);
}

static void write_model(struct layer *l, const char *config)
{
    qsae__tensor list[32];
    char names[32][160];
    int64_t n = 0;
    const size_t skip = strlen(l->prefix) + strlen("weight.");
    for (int64_t i = 0; i < qsae__tensors_len(l->t); i++) {
        const qsae__tensor *t = qsae__tensors_at(l->t, i);
        if (strncmp(t->name, key(l, "weight."), skip) != 0)
            continue;
        const char *name = t->name + skip;
        if (!strcmp(name, "embed"))
            snprintf(names[n], sizeof names[n], "model.embed_tokens.weight");
        else if (!strcmp(name, "norm"))
            snprintf(names[n], sizeof names[n], "model.norm.weight");
        else
            snprintf(names[n], sizeof names[n], "model.layers.0.%s", name);
        list[n] = *t;
        list[n].name = names[n];
        assert_true(++n < 32);
    }
    char path[512];
    snprintf(path, sizeof path, "%s/model.safetensors", test_folder());
    OK(qsae__safetensors_write(l->ctx, path, list, n));
    test_write("config.json", config, strlen(config));
}

static void open_layer(struct layer *l, const char *prefix, const char *config)
{
    memset(l, 0, sizeof *l);
    l->ctx = test_context(2, NULL);
    l->prefix = prefix;
    OK(qsae__tensors_load(l->ctx, MODELS "operations.safetensors", &l->t));
    write_model(l, config);
    l->m = test_model(l->ctx, test_folder(), NULL, QSAE_COMPUTE_BF16, QSAE_ATTN_SDPA);
    l->rows = qsae__tensors_find(l->t, key(l, "x"))->shape[0];
    OK(qsae__slab_open(l->ctx, &l->m, 1, 1, l->rows, &l->slab));
    OK(qsae__run_init(l->m, &l->slab, &l->run));
}

static void close_layer(struct layer *l)
{
    qsae__slab_close(&l->slab);
    qsae_model_close(&l->m);
    qsae__tensors_unref(&l->t);
    qsae_context_close(&l->ctx);
}

static void check_norm(const struct layer *l, const char *from, const char *to, const float *w)
{
    float *x = load(l, from);
    OK(qsae__norm_rows(&l->run, w, x, l->run.b.out));
    compare(l, to, l->run.b.out, 0.002);
    free(x);
}

static void check_linear(const struct layer *l, const char *from, const char *to, int p)
{
    const qsae__linear *w = l->m->layers[0].proj[p];
    float *x = load(l, from);
    float *y = malloc((size_t)(l->rows * qsae__linear_out(w)) * sizeof *y);
    assert_non_null(y);
    const qsae__linear_rows rows = { x, QSAE_F32, l->rows, qsae__linear_in(w) };
    const int64_t ldy = qsae__linear_out(w);
    OK(qsae__linear_apply(&w, 1, &rows, &y, &ldy, NULL, NULL));
    compare(l, to, y, 0.01);
    free(x);
    free(y);
}

static void check_add(const struct layer *l, const char *a, const char *b, const char *to)
{
    float *x = load(l, a), *y = load(l, b);
    OK(qsae__add_rows(&l->run, NULL, y, x));
    compare(l, to, x, 0);
    free(x);
    free(y);
}

/* [heads, T, h] of torch to [T, heads * h] of ours. */
static float *load_heads(const struct layer *l, const char *name, int64_t heads)
{
    const int64_t d = l->m->config->head_dim;
    float *x = load(l, name), *y = malloc((size_t)(l->rows * heads * d) * sizeof *y);
    assert_non_null(y);
    for (int64_t i = 0; i < heads; i++)
        for (int64_t t = 0; t < l->rows; t++)
            memcpy(y + (t * heads + i) * d, x + (i * l->rows + t) * d, (size_t)d * sizeof *y);
    free(x);
    return y;
}

static void check_qk(const struct layer *l, const char *plain, const char *normed,
                     const char *rotated, int64_t heads, const float *w, int type)
{
    const int64_t d = l->m->config->head_dim, n = heads * l->rows * d;
    float *x = w ? load(l, plain) : NULL; /* [T, heads * h] */
    float *y = malloc((size_t)n * sizeof *y);
    assert_non_null(y);
    for (int64_t i = 0; w && i < heads; i++)
        for (int64_t t = 0; t < l->rows; t++)
            qsae__norm_vector(&l->run, w, x + (t * heads + i) * d, y + (i * l->rows + t) * d, d);
    if (w)
        compare(l, normed, y, 0.002);
    free(x);
    x = w ? load(l, normed) : load(l, plain);
    for (int64_t i = 0; i < heads * l->rows; i++) {
        const int64_t t = w ? i % l->rows : i / heads;
        const int64_t to = w ? i : i % heads * l->rows + t;
        l->run.ops->rope(x + i * d, l->m->rope.cosine[type] + t * (d / 2),
                         l->m->rope.sine[type] + t * (d / 2), y + to * d, d / 2, 1);
    }
    compare(l, rotated, y, 0);
    free(x);
    free(y);
}

static void check_rope(const struct layer *l, int type)
{
    const int64_t half = l->m->config->head_dim / 2;
    float *c = load(l, "cos_f32"), *s = load(l, "sin_f32");
    float *mine = malloc((size_t)(2 * l->rows * half) * sizeof *mine);
    assert_non_null(mine);
    qsae__rope_table(&l->m->config->rope[type], 2 * half, l->rows, 0, mine, mine + l->rows * half);
    for (int64_t t = 0; t < l->rows; t++) {
        for (int64_t k = 0; k < half; k++) {
            /* one unit of the frequency moves the angle by its own unit */
            const float limit = 1.2e-7f + 1.2e-7f * (float)t;
            assert_float_equal(mine[t * half + k], c[t * 2 * half + k], limit);
            assert_float_equal(mine[(l->rows + t) * half + k], s[t * 2 * half + k], limit);
        }
    }
    free(c);
    free(s);
    free(mine);
}

static void check_attention(const struct layer *l, int mode, const char *to, int64_t window,
                            double unequal)
{
    const qsae__config *c = l->m->config;
    float *q = load_heads(l, "q_rot", c->heads), *k = load_heads(l, "k_rot", c->kv_heads);
    float *v = load(l, "v");
    const int64_t floats =
        qsae__attention_floats(c->heads, c->kv_heads, c->head_dim, l->rows, mode);
    float *worker = qsae__alloc(l->ctx, (size_t)(2 * floats) * sizeof *worker);
    assert_non_null(worker);
    const qsae__attention a = {
        .q = q, .k = k, .v = v, .z = l->run.b.z, .n_seq = 1, .n_tokens = l->rows,
        .heads = c->heads, .kv_heads = c->kv_heads, .head_dim = c->head_dim, .window = window,
        .scale = (float)c->attn_scale, .mode = mode, .bf16 = 1,
        .worker = worker, .worker_floats = floats,
    };
    OK(qsae__attention_run(l->ctx, &a));
    compare(l, to, l->run.b.z, unequal);
    qsae__free(l->ctx, worker);
    free(q);
    free(k);
    free(v);
}

static void check_mlp(const struct layer *l)
{
    int64_t n;
    float *g = test_floats(l->t, key(l, "gate"), &n), *up = load(l, "up"), *act = load(l, "act");
    if (l->m->config->activation == QSAE__ACT_SILU)
        l->run.ops->silu(g, g, n);
    else
        l->run.ops->gelu_tanh(g, g, n);
    l->run.ops->round_bf16(g, n);
    compare(l, "act", g, 0.01);
    l->run.ops->mul(act, up, act, n, 1);
    compare(l, "act_up", act, 0);
    free(g);
    free(up);
    free(act);
}

static void check_ends(const struct layer *l)
{
    const int64_t d = l->m->config->width, vocab = l->m->config->vocab;
    const qsae__tensor *ids = qsae__tensors_find(l->t, key(l, "ids"));
    int32_t *copy = malloc((size_t)ids->bytes);
    float *logits = malloc((size_t)(l->rows * vocab) * sizeof *logits);
    float *final = load(l, "final_norm");
    qsae__slab slab = l->slab;
    assert_true(copy && logits);
    memcpy(copy, ids->data, (size_t)ids->bytes);
    slab.ids = copy;
    OK(qsae__model_embed(l->m, &slab));
    compare(l, "embed", slab.x, 0);
    const qsae__head_rows head = { .model = l->m, .final = final, .logits = logits };
    OK(qsae__head_run(l->ctx, l->rows, NULL, 1, &head, NULL));
    compare(l, "logits", logits, 0.01);
    float *y = load(l, "y");
    memcpy(slab.x, y, (size_t)(l->rows * d) * sizeof *y);
    OK(qsae__model_final(l->m, &slab, l->run.b.out));
    compare(l, "final_norm", l->run.b.out, 0.002);
    free(y);
    free(copy);
    free(logits);
    free(final);
}

static void check_layer(const char *prefix, const char *config, int type, int64_t window)
{
    struct layer l;
    open_layer(&l, prefix, config);
    const qsae__config *c = l.m->config;
    const float *const *norm = l.m->layers[0].norm;
    const bool gemma = norm[QSAE__NORM_Q] != NULL;
    check_norm(&l, "x", "norm1", norm[QSAE__NORM_ATTN_IN]);
    check_linear(&l, "norm1", "q", QSAE__Q_PROJ);
    check_linear(&l, "norm1", "k", QSAE__K_PROJ);
    check_linear(&l, "norm1", "v", QSAE__V_PROJ);
    check_rope(&l, type);
    check_qk(&l, "q", "q_norm", "q_rot", c->heads, norm[QSAE__NORM_Q], type);
    check_qk(&l, "k", "k_norm", "k_rot", c->kv_heads, norm[QSAE__NORM_K], type);
    check_attention(&l, QSAE_ATTN_EAGER, "eager.z", window, 0.01);
    check_attention(&l, QSAE_ATTN_SDPA, "sdpa.z", window, 0.03);
    check_linear(&l, "sdpa.z", "o", QSAE__O_PROJ);
    if (gemma)
        check_norm(&l, "o", "norm2", norm[QSAE__NORM_ATTN_OUT]);
    check_add(&l, "x", gemma ? "norm2" : "o", "mid");
    check_norm(&l, "mid", "norm3", norm[QSAE__NORM_MLP_IN]);
    check_linear(&l, "norm3", "gate", QSAE__GATE_PROJ);
    check_linear(&l, "norm3", "up", QSAE__UP_PROJ);
    check_mlp(&l);
    check_linear(&l, "act_up", "down", QSAE__DOWN_PROJ);
    if (gemma)
        check_norm(&l, "down", "norm4", norm[QSAE__NORM_MLP_OUT]);
    check_add(&l, "mid", gemma ? "norm4" : "down", "y");
    check_ends(&l);
    close_layer(&l);
}

#define GEMMA_KEYS                                                                                 \
    "{\"model_type\":\"gemma3_text\",\"vocab_size\":128,\"hidden_size\":40,\"intermediate_size\":" \
    "64,"                                                                                          \
    "\"num_hidden_layers\":1,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":16," \
    "\"query_pre_attn_scalar\":20,\"sliding_window\":8,"

static void test_gemma_sliding(void **state)
{
    (void)state;
    check_layer("gemma.sliding.", GEMMA_KEYS "\"layer_types\":[\"sliding_attention\"]}",
                QSAE__SLIDING, 8);
}

static void test_gemma_full(void **state)
{
    (void)state;
    check_layer("gemma.full.",
                GEMMA_KEYS "\"layer_types\":[\"full_attention\"],"
                           "\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":8.0}}",
                QSAE__FULL, 0);
}

static void test_llama(void **state)
{
    (void)state;
    check_layer("llama.",
                "{\"model_type\":\"llama\",\"vocab_size\":96,\"hidden_size\":48,"
                "\"intermediate_size\":48,\"num_hidden_layers\":1,\"num_attention_heads\":4,"
                "\"num_key_value_heads\":2,\"head_dim\":12,\"rms_norm_eps\":1e-5,"
                "\"attention_bias\":true,\"mlp_bias\":true,\"tie_word_embeddings\":true}",
                QSAE__FULL, 0);
}

/* z[T, heads * d] in f64, one key head; eager: rounded as transformers rounds (models.md B.2). */
static void capped_attention(const qsae__attention *a, bool eager, double *z)
{
    const int64_t n = a->n_tokens, d = a->head_dim;
    double *const p = malloc((size_t)n * sizeof *p);
    assert_non_null(p);
#define RB(x) (eager ? (double)qsae__round_bf16((float)(x)) : (x))
    for (int64_t row = 0; row < n * a->heads; row++) {
        const int64_t pos = row / a->heads;
        const int64_t first = a->window && pos >= a->window ? pos - a->window + 1 : 0;
        double max = -INFINITY, sum = 0;
        for (int64_t j = first; j <= pos; j++) {
            double s = 0;
            for (int64_t i = 0; i < d; i++)
                s += (double)a->q[row * d + i] * (double)a->k[j * d + i];
            s = RB(RB(s) * (double)a->scale);
            p[j] = RB(RB(tanh(RB(s / (double)a->cap))) * (double)a->cap);
            max = fmax(max, p[j]);
        }
        for (int64_t j = first; j <= pos; j++)
            sum += p[j] = exp(p[j] - max);
        for (int64_t i = 0; i < d; i++) {
            double v = 0;
            for (int64_t j = first; j <= pos; j++)
                v += RB(p[j] / sum) * (double)a->v[j * d + i];
            z[row * d + i] = v;
        }
    }
#undef RB
    free(p);
}

/* One case: bf16 != 0 rounds the inputs; packed: by the packed kernel where there is one. */
static void check_capped(qsae_context *ctx, qsae__attention *a, const float *values, bool packed)
{
    const int64_t n = a->n_tokens, d = a->head_dim, rows = n * a->heads;
    const int64_t floats = qsae__attention_floats(a->heads, 1, d, n, a->mode);
    int64_t room = 0;
    if (packed)
        assert_true(qsae__attention_panels(ctx, 1, d, n, a->mode, a->bf16, &room));
    if (packed && room == 0)
        return;
    float *const worker = qsae__alloc(ctx, (size_t)(2 * floats + room) * sizeof *worker);
    float *const x = malloc((size_t)((2 * rows + 2 * n) * d) * sizeof *x);
    double *const want = malloc((size_t)(rows * d) * sizeof *want);
    assert_true(worker && x && want);
    for (int64_t i = 0; i < (rows + 2 * n) * d; i++)
        x[i] = a->bf16 ? qsae__round_bf16(values[i]) : values[i];
    a->q = x;
    a->k = x + rows * d;
    a->v = a->k + n * d;
    a->z = x + (rows + 2 * n) * d;
    a->worker = worker;
    a->worker_floats = floats;
    a->panels = packed ? worker + 2 * floats : NULL;
    OK(qsae__attention_run(ctx, a));
    const bool eager = a->bf16 && a->mode == QSAE_ATTN_EAGER;
    capped_attention(a, eager, want);
    int64_t off = 0, differ = 0;
    double gap = 0, size = 0;
    for (int64_t i = 0; i < rows * d; i++) {
        const float w = a->bf16 ? qsae__round_bf16((float)want[i]) : (float)want[i];
        const int64_t u = llabs((int64_t)ordinal(a->z[i]) - ordinal(w));
        off += u > 1;
        differ += u > 0;
        gap += ((double)a->z[i] - want[i]) * ((double)a->z[i] - want[i]);
        size += want[i] * want[i];
    }
    gap = sqrt(gap / size);
    if (!a->bf16)
        assert_true(gap < 1e-6);
    else if (a->mode == QSAE_ATTN_SDPA) /* probabilities rounded: not in the model above */
        assert_true(gap < 0.004);
    else /* sums near 0 are where an ulp is small */
        assert_true(gap < 0.002 && off <= rows * d / 500 && differ <= rows * d / 50);
    qsae__free(ctx, worker);
    free(x);
    free(want);
}

/* The soft cap, in every back end and path, with and without a window, beyond one block of keys. */
static void test_capped_attention(void **state)
{
    enum { N = 600, D = 12, HEADS = 3, VALUES = N * D * (HEADS + 2) };
    static const int modes[] = { QSAE_ATTN_EAGER, QSAE_ATTN_SDPA, QSAE_ATTN_FP32 };
    qsae_context *ctx = test_context(2, NULL);
    float *const values = malloc(VALUES * sizeof *values);
    uint32_t s = 7;
    (void)state;
    assert_non_null(values);
    for (int i = 0; i < VALUES; i++) {
        float sum = 0;
        for (int k = 0; k < 4; k++) {
            s = s * 1664525u + 1013904223u;
            sum += (float)(s >> 8) * 0x1p-24f - 0.5f;
        }
        values[i] = 3 * sum; /* of deviation 1.7: products with a scale of 1/2 go far beyond caps */
    }
    for (int i = 0; i < 3 * 2 * 2 * 2; i++) {
        qsae__attention a = { .n_seq = 1, .n_tokens = N, .heads = HEADS, .kv_heads = 1,
                              .head_dim = D, .window = i / 2 % 2 ? 33 : 0, .scale = 0.5f,
                              .cap = i / 4 % 2 ? 1.5f : 10, .mode = modes[i / 8], .bf16 = i % 2 };
        check_capped(ctx, &a, values, false);
        check_capped(ctx, &a, values, true);
    }
    free(values);
    qsae_context_close(&ctx);
}

/* More keys than one block of the fused kernel: its running maximum is rescaled. */
static void test_long_attention(void **state)
{
    qsae_context *ctx = test_context(2, NULL);
    qsae__tensors *t = NULL;
    (void)state;
    OK(qsae__tensors_load(ctx, MODELS "operations.safetensors", &t));
    const int64_t n = 640, d = 8;
    float *q = test_floats(t, "long.q", NULL), *k = test_floats(t, "long.k", NULL);
    float *v = test_floats(t, "long.v", NULL), *want = test_floats(t, "long.z", NULL);
    float *rows = malloc((size_t)(4 * n * d) * sizeof *rows), *z = rows + 2 * n * d;
    assert_non_null(rows);
    for (int64_t i = 0; i < 2; i++)
        for (int64_t p = 0; p < n; p++)
            memcpy(rows + (p * 2 + i) * d, q + (i * n + p) * d, (size_t)d * sizeof *rows);
    const int64_t floats = qsae__attention_floats(2, 1, d, n, QSAE_ATTN_SDPA);
    int64_t room;
    assert_true(qsae__attention_panels(ctx, 1, d, n, QSAE_ATTN_SDPA, 1, &room));
    float *worker = qsae__alloc(ctx, (size_t)(2 * floats + room) * sizeof *worker);
    assert_non_null(worker);
    for (int packed = 0; packed <= (room > 0); packed++) {
        const qsae__attention a = { .q = rows, .k = k, .v = v, .z = z, .n_seq = 1, .n_tokens = n,
                                    .heads = 2, .kv_heads = 1, .head_dim = d,
                                    .scale = sqrtf(0.125f), .mode = QSAE_ATTN_SDPA, .bf16 = 1,
                                    .worker = worker, .worker_floats = floats,
                                    .panels = packed ? worker + 2 * floats : NULL };
        OK(qsae__attention_run(ctx, &a));
        int64_t off = 0, differ = 0;
        for (int64_t i = 0; i < 2; i++) {
            for (int64_t p = 0; p < n * d; p++) {
                const int32_t u =
                    abs(ordinal(z[(p / d * 2 + i) * d + p % d]) - ordinal(want[i * n * d + p]));
                off += u > 1;
                differ += u > 0;
            }
        }
        assert_true(off <= 2 * n * d / 1000);
        assert_true(differ <= 2 * n * d / 20);
    }
    qsae__free(ctx, worker);
    free(rows);
    free(q);
    free(k);
    free(v);
    free(want);
    qsae__tensors_unref(&t);
    qsae_context_close(&ctx);
}

/* The coarse exponential: within its bound, 0 at the low end, accurate past n_coarse. */
static void test_coarse_exponential(void **state)
{
    enum { N = 4992 + 11 };
    float x[N + 5], y[N + 5];
    (void)state;
    qsae_context *ctx = test_context(1, NULL);
    for (int i = 0; i < N + 5; i++)
        x[i] = -90.0f * (float)i / N;
    const qsae__softmax_row row = { .x = x, .n = N, .end = N, .scale = 1, .max = 0.25f,
                                    .n_coarse = 4800 };
    qsae__softmax_get(ctx)->bf16(&row, y);
    double worst = 0;
    for (int i = 0; i < N; i++) {
        const float z = x[i] - 0.25f;
        if (i < 4800 && z < -87.34f)
            assert_true(y[i] == 0);
        else if (z > -86)
            worst = fmax(worst, fabs((double)y[i] / exp((double)z) - 1));
    }
    assert_true(worst < 0x1p-8 + 1.5e-4); /* rounding to bf16, and its own */
    qsae_context_close(&ctx);
}

const struct CMUnitTest operation_tests[] = {
    cmocka_unit_test(test_gemma_sliding),
    cmocka_unit_test(test_gemma_full),
    cmocka_unit_test(test_llama),
    cmocka_unit_test(test_capped_attention), cmocka_unit_test(test_long_attention),
    cmocka_unit_test(test_coarse_exponential),
};
const size_t n_operation_tests = sizeof operation_tests / sizeof operation_tests[0];
