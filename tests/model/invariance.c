/* SPDX-License-Identifier: BSD-2-Clause */
/* The same bits for any number of threads, any batch, any cut into calls and any kernel level. */
#include <math.h>

#include "../kernels/amx_emulate.h"
#include "model_test.h"

#include "../support.h"

#define N_SEQ 4
#define N_TOKENS 150

static void fill_ids(int32_t *ids, int64_t n)
{
    uint32_t s = 12345;
    for (int64_t i = 0; i < n; i++) {
        s = s * 1664525u + 1013904223u;
        ids[i] = (int32_t)(s >> 16) % 64;
    }
}

struct variant {
    const char *model, *condition;
    int compute, attention;
};

static const struct variant variants[] = {
    { "gemma3_pattern", NULL, QSAE_COMPUTE_F32, QSAE_ATTN_SDPA },
    { "gemma3_pattern", NULL, QSAE_COMPUTE_BF16, QSAE_ATTN_SDPA },
    { "gemma3_types", NULL, QSAE_COMPUTE_BF16, QSAE_ATTN_EAGER },
    { "llama_bias", NULL, QSAE_COMPUTE_F32, QSAE_ATTN_FP32 },
    { "llama_rope3", "nf4", QSAE_COMPUTE_BF16, QSAE_ATTN_SDPA },
    { "gemma3_cap", "rtn:bits=8", QSAE_COMPUTE_F32, QSAE_ATTN_SDPA },
    { "gemma2_cap", NULL, QSAE_COMPUTE_F32, QSAE_ATTN_SDPA },
    { "gemma2_cap", NULL, QSAE_COMPUTE_BF16, QSAE_ATTN_SDPA },
    { "gemma2_types", "nf4", QSAE_COMPUTE_BF16, QSAE_ATTN_DEFAULT },
    { "neox_parallel", "nf4", QSAE_COMPUTE_BF16, QSAE_ATTN_SDPA },
    { "neox_sequential", NULL, QSAE_COMPUTE_F32, QSAE_ATTN_SDPA },
    { "gpt2_layers", NULL, QSAE_COMPUTE_BF16, QSAE_ATTN_EAGER },
    { "gpt2_layers", "rtn:bits=6", QSAE_COMPUTE_F32, QSAE_ATTN_SDPA },
    { "gemma4_wrapper", NULL, QSAE_COMPUTE_F32, QSAE_ATTN_SDPA },
    { "gemma4_wrapper", "nf4", QSAE_COMPUTE_BF16, QSAE_ATTN_SDPA },
};
#define N_VARIANTS ((int)(sizeof variants / sizeof variants[0]))

static void run_variant(const struct variant *v, int threads, const char *cpu, const int32_t *ids,
                        int64_t n_seq, int64_t n_tokens, struct test_result *r)
{
    qsae_context *ctx = test_context(threads, cpu);
    qsae_model *m =
        test_model(ctx, test_model_path(v->model), v->condition, v->compute, v->attention);
    test_run(m, ids, n_seq, n_tokens, r);
    qsae_model_close(&m);
    qsae_context_close(&ctx);
}

static void test_threads(void **state)
{
    static const int threads[] = { 2, 3, 8 };
    int32_t ids[N_SEQ * N_TOKENS];
    (void)state;
    fill_ids(ids, N_SEQ * N_TOKENS);
    for (int i = 0; i < N_VARIANTS; i++) {
        struct test_result one, more;
        run_variant(&variants[i], 1, NULL, ids, N_SEQ, N_TOKENS, &one);
        for (int k = 0; k < 3; k++) {
            run_variant(&variants[i], threads[k], NULL, ids, N_SEQ, N_TOKENS, &more);
            if (!test_result_equal(&one, &more))
                fail_msg("%s %s: %d threads differ from 1", variants[i].model,
                         variants[i].condition, threads[k]);
            test_result_free(&more);
        }
        test_result_free(&one);
    }
}

/* A sequence alone has the bits it has among others, and a prefix those it has in the whole. */
static void test_batch(void **state)
{
    int32_t ids[N_SEQ * N_TOKENS];
    (void)state;
    fill_ids(ids, N_SEQ * N_TOKENS);
    for (int i = 0; i < N_VARIANTS; i++) {
        struct test_result all, one, part;
        run_variant(&variants[i], 2, NULL, ids, N_SEQ, N_TOKENS, &all);
        for (int s = 0; s < N_SEQ; s += 3) {
            run_variant(&variants[i], 2, NULL, ids + s * N_TOKENS, 1, N_TOKENS, &one);
            const size_t n = (size_t)(N_TOKENS * all.vocab) * sizeof(float);
            assert_memory_equal(one.logits, all.logits + s * N_TOKENS * all.vocab, n);
            assert_memory_equal(one.nll, all.nll + s * N_TOKENS, N_TOKENS * sizeof(float));
            test_result_free(&one);
        }
        /* bf16 sdpa: torch's kernel treats the last keys % 16 apart, so cut at a multiple of 16
         * that leaves the same keys in whole vectors */
        run_variant(&variants[i], 2, NULL, ids, 1, 96, &part);
        assert_memory_equal(part.logits, all.logits, (size_t)(96 * all.vocab) * sizeof(float));
        test_result_free(&part);
        test_result_free(&all);
    }
}

/* |a - b| / |a| of the logits. */
static double distance(const struct test_result *a, const struct test_result *b)
{
    double d = 0, s = 0;
    for (int64_t i = 0; i < a->rows * a->vocab; i++) {
        d += ((double)a->logits[i] - b->logits[i]) * ((double)a->logits[i] - b->logits[i]);
        s += (double)a->logits[i] * a->logits[i];
    }
    return sqrt(d / s);
}

/* The f32 product is the same at all levels (but in parts at amx), that of bf16 differs from
 * avx512bf16 on: by rounding only. */
static void test_levels(void **state)
{
    static const char *const levels[] = { "c", "avx2", "avx512", "avx512bf16", "amx" };
    int32_t ids[N_SEQ * N_TOKENS];
    (void)state;
    fill_ids(ids, N_SEQ * N_TOKENS);
    for (int i = 0; i < N_VARIANTS; i++) {
        struct test_result plain, other;
        run_variant(&variants[i], 2, "c", ids, 2, 40, &plain);
        for (int k = 1; k < 5 && strcmp(levels[k - 1], qsae_cpu_best()) != 0; k++) {
            run_variant(&variants[i], 2, levels[k], ids, 2, 40, &other);
            const double gap = distance(&plain, &other);
            const bool bf16 = variants[i].compute == QSAE_COMPUTE_BF16;
            if (gap > (k < 3 || (k == 3 && !bf16) ? 0 : bf16 ? 0.02 : 1e-5))
                fail_msg("%s: level %s is %g from plain C", variants[i].model, levels[k], gap);
            test_result_free(&other);
        }
        test_result_free(&plain);
    }
}

/* Level amx, by emulation if need be: the same bits for any number of threads, close to plain C. */
static void test_amx(void **state)
{
    static const struct variant models[] = {
        { "gemma3_pattern", NULL, QSAE_COMPUTE_BF16, QSAE_ATTN_SDPA },
        { "gemma3_pattern", NULL, QSAE_COMPUTE_F32, QSAE_ATTN_SDPA },
        { "gemma3_pattern", "none:weights=bf16", QSAE_COMPUTE_F32, QSAE_ATTN_SDPA },
        { "llama_rope3", "nf4", QSAE_COMPUTE_BF16, QSAE_ATTN_SDPA },
        { "llama_bias", "llm.int8", QSAE_COMPUTE_BF16, QSAE_ATTN_EAGER },
    };
    int32_t ids[N_SEQ * N_TOKENS];
    (void)state;
    if (!amx_start()) {
        print_message("skipped: neither AMX nor AVX-512 to emulate it with\n");
        skip();
    }
    fill_ids(ids, N_SEQ * N_TOKENS);
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        const struct variant *const v = &models[i];
        struct test_result plain, one[2];
        run_variant(v, 2, "c", ids, 2, 20, &plain);
        const int64_t before = amx_count();
        for (int k = 0; k < 2; k++) {
            qsae_context *ctx = test_context(k ? 3 : 1, NULL);
            ctx->level = ctx->core->level = QSAE__LEVEL_AMX;
            qsae_model *m =
                test_model(ctx, test_model_path(v->model), v->condition, v->compute, v->attention);
            test_run(m, ids, 2, 20, &one[k]);
            qsae_model_close(&m);
            qsae_context_close(&ctx);
        }
        if (strcmp(qsae_cpu_best(), "amx") != 0)
            assert_true(amx_count() > before || v->compute == QSAE_COMPUTE_F32);
        assert_true(test_result_equal(&one[0], &one[1]));
        const double gap = distance(&plain, &one[0]);
        if (!(gap <= (v->compute == QSAE_COMPUTE_BF16 ? 0.02 : 1e-5)))
            fail_msg("%s %s: %g from plain C", v->model, v->condition, gap);
        test_result_free(&plain);
        test_result_free(&one[0]);
        test_result_free(&one[1]);
    }
    amx_stop();
}

/* Steps on a slab, one slab for two models, are the public pass. */
static void test_steps(void **state)
{
    int32_t ids[N_SEQ * N_TOKENS];
    qsae_context *ctx = test_context(2, NULL);
    qsae_model *m[2] = { test_model(ctx, test_model_path("gemma3_types"), NULL, 0, 0),
                         test_model(ctx, test_model_path("gemma3_pattern"), NULL, QSAE_COMPUTE_BF16,
                                    QSAE_ATTN_EAGER) };
    qsae__slab slab;
    (void)state;
    fill_ids(ids, N_SEQ * N_TOKENS);
    OK(qsae__slab_open(ctx, m, 2, 2, 50, &slab));
    slab.ids = ids;
    for (int i = 0; i < 4; i++) {
        struct test_result r;
        qsae_model *const one = m[i % 2];
        OK(qsae__model_embed(one, &slab));
        test_run(one, ids, 2, 50, &r);
        for (int64_t n = 0; n < r.layers; n++) {
            OK(qsae__model_step(one, n, &slab));
            assert_memory_equal(slab.x, r.resid[n], (size_t)(r.rows * r.width) * sizeof(float));
        }
        REFUSED(qsae__model_step(one, r.layers, &slab), QSAE_EINVAL, "layer");
        float *final = malloc((size_t)(r.rows * r.width) * sizeof *final);
        float *nll = malloc((size_t)r.rows * sizeof *nll);
        int32_t *labels = malloc((size_t)r.rows * sizeof *labels);
        assert_true(final && nll && labels);
        for (int64_t t = 0; t < r.rows; t++)
            labels[t] = t % 50 == 49 ? -100 : ids[t + 1];
        OK(qsae__model_final(one, &slab, final));
        const qsae__head_rows head = { .model = one, .final = final, .nll = nll };
        OK(qsae__head_run(ctx, r.rows, labels, 1, &head, NULL));
        assert_memory_equal(nll, r.nll, (size_t)r.rows * sizeof *nll);
        free(final);
        free(nll);
        free(labels);
        test_result_free(&r);
    }
    qsae__slab_close(&slab);
    /* a slab of another model's shape is refused */
    qsae_model *other = test_model(ctx, test_model_path("gemma3_wrapper"), NULL, 0, 0);
    OK(qsae__slab_open(ctx, m, 1, 1, 10, &slab));
    slab.ids = ids;
    REFUSED(qsae__model_embed(other, &slab), QSAE_EINVAL, "slab");
    REFUSED(qsae__model_step(other, 0, &slab), QSAE_EINVAL, "slab");
    qsae__slab_close(&slab);
    qsae_model *const two[2] = { m[0], other };
    REFUSED(qsae__slab_open(ctx, two, 2, 1, 10, &slab), QSAE_EMISMATCH, "width");
    qsae_model_close(&other);
    qsae_model_close(&m[0]);
    qsae_model_close(&m[1]);
    qsae_context_close(&ctx);
}

/* Each head alone, so that queries are cut into other items: the same bits. */
static void check_heads(qsae_context *ctx, const qsae__attention *all)
{
    const int64_t n = all->n_tokens, d = all->head_dim;
    float *q = malloc(sizeof(float) * (size_t)(2 * n * d)), *z = q + n * d;
    assert_non_null(q);
    for (int64_t h = 0; h < all->heads; h++) {
        qsae__attention one = *all;
        one.q = q;
        one.z = z;
        one.heads = 1;
        one.worker_floats = qsae__attention_floats(1, 1, d, n, all->mode);
        one.worker = qsae__alloc(ctx, (size_t)(2 * one.worker_floats) * sizeof(float));
        assert_non_null(one.worker);
        memset(one.worker, 0xff, (size_t)(2 * one.worker_floats) * sizeof(float));
        for (int64_t t = 0; t < n; t++)
            memcpy(q + t * d, all->q + (t * all->heads + h) * d, (size_t)d * sizeof *q);
        OK(qsae__attention_run(ctx, &one));
        for (int64_t t = 0; t < n; t++)
            assert_memory_equal(z + t * d, all->z + (t * all->heads + h) * d,
                                (size_t)d * sizeof *z);
        qsae__free(ctx, one.worker);
    }
    free(q);
}

/* Long sequences with windows: key blocks that are skipped change nothing. Compared with attention
 * computed plainly in f64. */
static void test_long_windows(void **state)
{
    enum { T = 1200, D = 8, H = 3 };
    qsae_context *ctx = test_context(2, NULL);
    float *q = malloc(sizeof(float) * T * D * (2 * H + 2)), *z = q + T * D * H;
    float *k = z + T * D * H, *v = k + T * D;
    (void)state;
    assert_non_null(q);
    uint32_t s = 7;
    for (int64_t i = 0; i < T * D * (2 * H + 2); i++) {
        s = s * 1664525u + 1013904223u;
        q[i] = (float)((int32_t)(s >> 8) % 2001 - 1000) / 400.0f;
    }
    const int64_t windows[] = { 0, 1, 100, 300, 700 };
    for (int w = 0; w < 5; w++) {
        for (int mode = QSAE_ATTN_EAGER; mode <= QSAE_ATTN_FP32; mode++) {
            const int64_t floats = qsae__attention_floats(H, 1, D, T, mode);
            float *worker = qsae__alloc(ctx, (size_t)(2 * floats) * sizeof *worker);
            assert_non_null(worker);
            const qsae__attention a = { .q = q, .k = k, .v = v, .z = z, .n_seq = 1, .n_tokens = T,
                                        .heads = H, .kv_heads = 1, .head_dim = D,
                                        .window = windows[w], .scale = 0.3f, .mode = mode,
                                        .worker = worker, .worker_floats = floats };
            OK(qsae__attention_run(ctx, &a));
            check_heads(ctx, &a);
            qsae__free(ctx, worker);
            for (int64_t p = 0; p < T; p += 37) {
                double sum = 0, mean[D] = { 0 };
                const float *x = q + p * H * D;
                for (int64_t j = windows[w] ? qsae__max_i64(0, p - windows[w] + 1) : 0; j <= p;
                     j++) {
                    double dot = 0;
                    for (int e = 0; e < D; e++)
                        dot += (double)x[e] * (double)k[j * D + e];
                    const double weight = exp(dot * (double)0.3f);
                    sum += weight;
                    for (int e = 0; e < D; e++)
                        mean[e] += weight * (double)v[j * D + e];
                }
                for (int e = 0; e < D; e++)
                    assert_true(fabs((double)z[p * H * D + e] - mean[e] / sum) < 2e-5);
            }
        }
    }
    free(q);
    qsae_context_close(&ctx);
}

/* Packed bf16 products: windows, odd shapes, shared heads. Each head alone and one thread give the
 * same bits; f32 products of the same values differ by rounding; nothing is written beyond. */
static void check_packed(int64_t n_tokens, int64_t d, int64_t heads, int64_t kv_heads,
                         int64_t window)
{
    enum { N_SEQ_ = 2, GUARD = 16 };
    const int64_t n = N_SEQ_ * n_tokens;
    qsae_context *ctx = test_context(2, NULL), *single = test_context(1, NULL);
    const int64_t floats =
        qsae__max_i64(qsae__attention_floats(heads, kv_heads, d, n_tokens, QSAE_ATTN_SDPA),
                      qsae__attention_floats(1, 1, d, n_tokens, QSAE_ATTN_SDPA));
    int64_t room;
    assert_true(qsae__attention_panels(ctx, kv_heads, d, n_tokens, QSAE_ATTN_SDPA, 1, &room));
    if (room == 0) {
        print_message("skipped: this machine has no bf16 product\n");
        skip();
    }
    float *q = malloc(sizeof(float) * (size_t)(n * d * (4 * heads + 2 * kv_heads)));
    float *k = q + n * d * heads, *v = k + n * d * kv_heads, *z = v + n * d * kv_heads;
    float *z1 = z + n * d * heads, *f32 = z1 + n * d * heads;
    const int64_t all = 2 * floats + N_SEQ_ * room + GUARD;
    float *worker = qsae__alloc(ctx, (size_t)all * sizeof *worker);
    assert_true(q && worker);
    uint32_t seed = (uint32_t)(n_tokens * 31 + d);
    for (int64_t i = 0; i < n * d * (heads + 2 * kv_heads); i++)
        q[i] = qsae__round_bf16(4 * next_float(&seed));
    memset(worker, 0xff, (size_t)all * sizeof *worker);
    qsae__attention a = { .q = q, .k = k, .v = v, .z = z, .n_seq = N_SEQ_, .n_tokens = n_tokens,
                          .heads = heads, .kv_heads = kv_heads, .head_dim = d, .window = window,
                          .scale = 0.3f, .mode = QSAE_ATTN_SDPA, .bf16 = 1, .worker = worker,
                          .worker_floats = floats, .panels = worker + 2 * floats };
    OK(qsae__attention_run(ctx, &a));
    for (int i = 0; i < GUARD; i++) {
        uint32_t u;
        memcpy(&u, worker + all - GUARD + i, sizeof u);
        assert_int_equal(u, 0xffffffffu);
    }
    a.z = z1;
    OK(qsae__attention_run(single, &a));
    assert_memory_equal(z, z1, sizeof(float) * (size_t)(n * d * heads));
    /* one head of one sequence at a time */
    for (int64_t h = 0; h < heads; h++) {
        float *const kh = f32, *const vh = kh + n_tokens * d;
        const int64_t kv = h / (heads / kv_heads), s = h % N_SEQ_;
        for (int64_t t = 0; t < n_tokens; t++) {
            const int64_t row = s * n_tokens + t;
            memcpy(z1 + t * d, q + (row * heads + h) * d, sizeof(float) * (size_t)d);
            memcpy(kh + t * d, k + (row * kv_heads + kv) * d, sizeof(float) * (size_t)d);
            memcpy(vh + t * d, v + (row * kv_heads + kv) * d, sizeof(float) * (size_t)d);
        }
        qsae__attention one = a;
        one.q = z1;
        one.k = kh;
        one.v = vh;
        one.z = z1 + n_tokens * d;
        one.n_seq = one.heads = one.kv_heads = 1;
        OK(qsae__attention_run(ctx, &one));
        for (int64_t t = 0; t < n_tokens; t++)
            assert_memory_equal(one.z + t * d, z + ((s * n_tokens + t) * heads + h) * d,
                                sizeof(float) * (size_t)d);
    }
    a.z = f32;
    a.panels = NULL;
    OK(qsae__attention_run(ctx, &a));
    double error = 0, size = 0;
    for (int64_t i = 0; i < n * d * heads; i++) {
        error += ((double)z[i] - f32[i]) * ((double)z[i] - f32[i]);
        size += (double)f32[i] * f32[i];
    }
    if (!(error <= size * 1e-6))
        fail_msg("%lld tokens, head_dim %lld, window %lld: relative error %g", (long long)n_tokens,
                 (long long)d, (long long)window, sqrt(error / size));
    qsae__free(ctx, worker);
    free(q);
    qsae_context_close(&single);
    qsae_context_close(&ctx);
}

static void test_packed_attention(void **state)
{
    (void)state;
    check_packed(1, 8, 2, 1, 0);
    check_packed(77, 40, 4, 4, 0);
    check_packed(131, 64, 6, 2, 33);
    check_packed(512, 256, 4, 1, 512);
    check_packed(700, 34, 2, 2, 0);
    check_packed(1213, 16, 3, 1, 600);
    check_packed(1213, 16, 200, 1, 0);
}

const struct CMUnitTest invariance_tests[] = {
    cmocka_unit_test(test_threads), cmocka_unit_test(test_batch),
    cmocka_unit_test(test_levels),  cmocka_unit_test(test_amx),
    cmocka_unit_test(test_steps),   cmocka_unit_test(test_long_windows),
    cmocka_unit_test(test_packed_attention),
};
const size_t n_invariance_tests = sizeof invariance_tests / sizeof invariance_tests[0];
