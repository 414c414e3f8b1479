/* SPDX-License-Identifier: BSD-2-Clause */
/* Every allocation of open and forward fails once: a status, nothing leaked, nothing broken. */
#include "model_test.h"

#include <stdatomic.h>

struct allocator {
    atomic_llong calls, live, fail_at;
};

static void *allocate(void *cookie, size_t size, size_t alignment)
{
    struct allocator *a = cookie;
    if (atomic_fetch_add(&a->calls, 1) == atomic_load(&a->fail_at))
        return NULL;
    void *p = aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
    if (p)
        atomic_fetch_add(&a->live, 1);
    return p;
}

static void release(void *cookie, void *p)
{
    struct allocator *a = cookie;
    if (p)
        atomic_fetch_sub(&a->live, 1);
    free(p);
}

static int32_t forward(qsae_context *ctx, const char *model, const char *condition)
{
    static const int32_t ids[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
    qsae_weights *w = NULL;
    qsae_model *m = NULL;
    qsae_model_settings s;
    qsae_model_info info = { .struct_size = sizeof info };
    qsae_pass p;
    float nll[8];
    int32_t st = qsae_weights_open(ctx, test_model_path(model), &w);
    qsae_model_settings_init(&s, sizeof s);
    s.condition = condition;
    if (st == QSAE_OK)
        st = qsae_weights_get_info(w, &info);
    if (st == QSAE_OK)
        st = qsae_model_open(w, &s, &m);
    qsae_pass_init(&p, sizeof p);
    p.ids = ids;
    p.n_seq = 2;
    p.n_tokens = 4;
    p.nll = nll;
    if (st == QSAE_OK)
        st = qsae_model_forward(m, &p);
    if (st == QSAE_OK)
        assert_true(nll[0] > 0);
    if (st == QSAE_ENOMEM && m) { /* the model stays usable */
        if (qsae_model_forward(m, &p) != QSAE_OK)
            fail_msg("after a failure: %s", qsae_error_message());
        assert_true(nll[0] > 0);
    }
    qsae_model_close(&m);
    qsae_weights_close(&w);
    return st;
}

static void test_failures(void **state)
{
    static const struct {
        const char *model, *condition;
    } cases[] = { { "gemma3_cap", "none@compute=bf16" }, { "gemma3_cap", "nf4" },
                  { "gemma3_cap", "llm.int8" }, { "gemma4_wrapper", "rtn:bits=4@compute=bf16" } };
    struct allocator a = { 0 };
    qsae_context_settings s;
    qsae_context *ctx = NULL;
    (void)state;
    atomic_store(&a.fail_at, -1);
    qsae_context_settings_init(&s, sizeof s);
    s.alloc = allocate;
    s.free = release;
    s.alloc_cookie = &a;
    s.threads = 2;
    for (int c = 0; c < 4; c++) {
        int32_t st = QSAE_ENOMEM;
        long long n = 0;
        for (; st != QSAE_OK; n++) {
            atomic_store(&a.fail_at, -1);
            OK(qsae_context_open(&s, &ctx));
            atomic_store(&a.fail_at, atomic_load(&a.calls) + n);
            st = forward(ctx, cases[c].model, cases[c].condition);
            if (st != QSAE_OK && st != QSAE_ENOMEM)
                fail_msg("allocation %lld of %s: %s: %s", n, cases[c].condition,
                         qsae_status_name(st), qsae_error_message());
            qsae_context_close(&ctx); /* which keeps the structs of closed handles */
            if (atomic_load(&a.live) != 0)
                fail_msg("allocation %lld of %s: %lld pieces leaked", n, cases[c].condition,
                         atomic_load(&a.live));
            assert_true(n < 10000);
        }
        assert_true(n > 20);
    }
}

const struct CMUnitTest memory_tests[] = {
    cmocka_unit_test(test_failures),
};
const size_t n_memory_tests = sizeof memory_tests / sizeof memory_tests[0];
