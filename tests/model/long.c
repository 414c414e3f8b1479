/* SPDX-License-Identifier: BSD-2-Clause */
/* Windows of many thousand tokens: results against transformers in binary64, memory, rotary tables
 * at large positions (tests/reference/long.py). */
#include "model_test.h"

#include <stdatomic.h>

#define TOKENS 32768
#define STEP 64

struct allocator {
    atomic_llong live, peak;
};

/* The size lies before the memory. */
static void *allocate(void *cookie, size_t size, size_t alignment)
{
    struct allocator *a = cookie;
    char *const p = aligned_alloc(alignment, (size + 2 * alignment - 1) / alignment * alignment);
    if (!p)
        return NULL;
    memcpy(p, &size, sizeof size);
    const long long live = atomic_fetch_add(&a->live, (long long)size) + (long long)size;
    if (live > atomic_load(&a->peak))
        atomic_store(&a->peak, live); /* the library allocates on the caller's thread */
    return p + alignment;
}

static void release(void *cookie, void *p)
{
    struct allocator *a = cookie;
    size_t size;
    if (!p)
        return;
    memcpy(&size, (char *)p - 64, sizeof size);
    atomic_fetch_sub(&a->live, (long long)size);
    free((char *)p - 64);
}

/* nll [n] of one window; returns the most memory that was allocated meanwhile, weights left out. */
static long long run_window(const char *name, int mode, int64_t n, float *nll)
{
    struct allocator a = { 0 };
    qsae_context_settings s;
    qsae_context *ctx = NULL;
    qsae_pass p;
    qsae_context_settings_init(&s, sizeof s);
    s.alloc = allocate;
    s.free = release;
    s.alloc_cookie = &a;
    s.threads = 2;
    OK(qsae_context_open(&s, &ctx));
    qsae_model *m = test_model(ctx, test_model_path(name), NULL, QSAE_COMPUTE_F32, mode);
    int32_t *ids = malloc((size_t)n * sizeof *ids);
    assert_non_null(ids);
    for (int64_t i = 0; i < n; i++)
        ids[i] = (int32_t)(3 + i * i * 7 % (m->config->vocab - 3));
    const long long before = atomic_load(&a.live);
    qsae_pass_init(&p, sizeof p);
    p.ids = ids;
    p.n_seq = 1;
    p.n_tokens = n;
    p.nll = nll;
    OK(qsae_model_forward(m, &p));
    const long long peak = atomic_load(&a.peak) - before;
    free(ids);
    qsae_model_close(&m);
    qsae_context_close(&ctx);
    return peak;
}

/* f32 within twice torch's own distance from binary64; memory grows by what is kept per token. */
static void test_window(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    qsae_model *m = test_model(ctx, test_model_path("gemma3_sharded"), NULL, 0, 0);
    const qsae__config *const c = m->config;
    qsae__tensors *t = NULL;
    int64_t n;
    (void)state;
    OK(qsae__tensors_load(ctx, QSAE_TEST_DATA "/long/long.safetensors", &t));
    double *const want = test_values(t, "oracle.nll", &n), *const torch = test_values(t, "f32.nll",
                                                                                    &n);
    double *const got = malloc((size_t)n * sizeof *got);
    float *const nll = malloc(TOKENS * sizeof *nll);
    assert_true(got && nll && n == TOKENS / STEP);
    const long long few = run_window("gemma3_sharded", QSAE_ATTN_SDPA, TOKENS / 4, nll);
    const long long many = run_window("gemma3_sharded", QSAE_ATTN_SDPA, TOKENS, nll);
    for (int64_t i = 0; i < n; i++)
        got[i] = (double)nll[i * STEP];
    const double mine = test_rms(got, want, n), own = test_rms(torch, want, n);
    if (!(own > 0 && mine <= 2 * own))
        fail_msg("rms error %g, torch %g", mine, own);
    /* residual stream, norm, output; queries to outputs of heads or the MLP; rotary tables; rows of
     * a product as three bf16 parts; labels and sums of the head */
    const int64_t heads = 2 * (c->heads + c->kv_heads) * c->head_dim;
    const int64_t token = 4 * (3 * c->width + qsae__max_i64(heads, 2 * c->mlp_width) +
                               4 * qsae__rotary_pairs(c)) +
                          6 * qsae__max_i64(c->width, c->mlp_width) + 32;
    const double most = 1.2 * (double)few + (double)(TOKENS - TOKENS / 4) * (double)token;
    if (!((double)many <= most))
        fail_msg("%lld bytes for %d tokens, %lld for a quarter of them; expected at most %.0f",
                 many, TOKENS, few, most);
    free(want);
    free(torch);
    free(got);
    free(nll);
    qsae__tensors_unref(&t);
    qsae_model_close(&m);
    qsae_context_close(&ctx);
}

/* Scratch is linear in the length of a window: every kernel, both arithmetics. */
static void test_scratch(void **state)
{
    static const char *const models[] = { "gemma3_sharded", "gemma2_cap", "mistral_window",
                                          "llama_gqa" };
    qsae_context *ctx = test_context(2, NULL);
    (void)state;
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++)
        for (int mode = QSAE_ATTN_EAGER; mode <= QSAE_ATTN_FP32; mode++)
            for (int compute = QSAE_COMPUTE_F32; compute <= QSAE_COMPUTE_BF16; compute++) {
                qsae_model *m = test_model(ctx, test_model_path(models[i]), NULL, compute, mode);
                int64_t floats[4];
                for (int k = 0; k < 4; k++)
                    OK(qsae__run_floats(m, 1, (int64_t)1 << (15 + k), &floats[k]));
                for (int k = 0; k < 2; k++) {
                    const double first = (double)(floats[k + 1] - floats[k]);
                    const double second = (double)(floats[k + 2] - floats[k + 1]);
                    if (!(first > 0 && second <= 2.01 * first))
                        fail_msg("%s, attention %d: %.0f more floats, then %.0f", models[i], mode,
                                 first, second);
                }
                qsae_model_close(&m);
            }
    qsae_context_close(&ctx);
}

/* 100,000 tokens; all layers slide, so that what a token sees lies near it. The same tokens at the
 * beginning of a window differ by the roundings of large angles only. */
static void test_far(void **state)
{
    enum { FAR = 100000 }; /* the ids repeat after 45, vocab - 3 */
    float *const nll = malloc(FAR * sizeof *nll);
    double sum = 0;
    (void)state;
    assert_non_null(nll);
    for (int mode = QSAE_ATTN_EAGER; mode <= QSAE_ATTN_FP32; mode++) {
        (void)run_window("mistral_window", mode, FAR, nll);
        for (int64_t i = 0; i + 1 < FAR; i++)
            assert_true(isfinite(nll[i]));
        for (int64_t i = 45 * 2000; i < 45 * 2200; i++) {
            const double d = fabs((double)(nll[i] - nll[i % 45 + 45]));
            assert_true(d < 0.05);
            sum += d;
        }
    }
    assert_true(sum > 0 && sum / (3 * 45 * 200) < 0.005);
    free(nll);
}

/* Within one unit in the last place of torch's. */
static void test_rope(void **state)
{
    static const char *const thetas[] = { "10000", "1000000" };
    qsae_context *ctx = test_context(1, NULL);
    qsae__tensors *t = NULL;
    int64_t n;
    (void)state;
    OK(qsae__tensors_load(ctx, QSAE_TEST_DATA "/long/long.safetensors", &t));
    const qsae__tensor *const at = qsae__tensors_find(t, "rope.positions");
    float *const table = malloc((size_t)2 * 131072 * 32 * sizeof *table);
    assert_true(at && table);
    for (int k = 0; k < 2; k++) {
        const qsae__rope rope = { .theta = k ? 1e6 : 1e4 };
        float *const part[2] = { table, table + 131072 * 32 };
        qsae__rope_table(&rope, 64, 131072, 0, part[0], part[1]);
        for (int s = 0; s < 2; s++) {
            char name[64];
            snprintf(name, sizeof name, "rope.%s.%s", thetas[k], s ? "sin" : "cos");
            float *const want = test_floats(t, name, &n);
            assert_int_equal(n, at->shape[0] * 32);
            for (int64_t i = 0; i < n; i++) {
                int32_t position;
                memcpy(&position, (const char *)at->data + i / 32 * 4, sizeof position);
                const float mine = part[s][(int64_t)position * 32 + i % 32];
                if (mine != want[i] && mine != nextafterf(want[i], mine))
                    fail_msg("%s: position %d, pair %d: %.9g, torch %.9g", name, position,
                             (int)(i % 32), (double)mine, (double)want[i]);
            }
            free(want);
        }
    }
    free(table);
    qsae__tensors_unref(&t);
    qsae_context_close(&ctx);
}

const struct CMUnitTest long_tests[] = {
    cmocka_unit_test(test_window),
    cmocka_unit_test(test_scratch),
    cmocka_unit_test(test_far),
    cmocka_unit_test(test_rope),
};
const size_t n_long_tests = sizeof long_tests / sizeof long_tests[0];
