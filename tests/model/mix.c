/* SPDX-License-Identifier: BSD-2-Clause */
/* mix(SPEC)(SPEC)...: every layer as under the first condition that selects it. */
#include "model_test.h"

#define N_SEQ 2
#define N_TOKENS 16

static void run(qsae_weights *w, const char *condition, int memory, struct test_result *r,
                qsae_model_cost *cost)
{
    int32_t ids[N_SEQ * N_TOKENS];
    qsae_model_settings s;
    qsae_model *m;
    for (int i = 0; i < N_SEQ * N_TOKENS; i++)
        ids[i] = 3 + i * 7 % 29;
    qsae_model_settings_init(&s, sizeof s);
    s.condition = condition;
    s.memory = memory;
    OK(qsae_model_open(w, &s, &m));
    cost->struct_size = sizeof *cost;
    OK(qsae_model_get_cost(m, cost));
    cost->condition = NULL;
    test_run(m, ids, N_SEQ, N_TOKENS, r);
    qsae_model_close(&m);
}

static void same(qsae_weights *w, const char *a, const char *b, int memory)
{
    struct test_result ra, rb;
    qsae_model_cost ca, cb;
    run(w, a, QSAE_MEMORY_DEFAULT, &ra, &ca);
    run(w, b, memory, &rb, &cb);
    if (!test_result_equal(&ra, &rb))
        fail_msg("%s and %s: other bits", a, b);
    assert_int_equal(ca.quantized_bytes, cb.quantized_bytes);
    assert_int_equal(ca.quantized_weights, cb.quantized_weights);
    assert_int_equal(ca.weight_bytes, cb.weight_bytes);
    test_result_free(&ra);
    test_result_free(&rb);
}

static void test_parts(void **state)
{
    static const char *const first = "rtn:bits=3@layers=0", *const second = "rtn:bits=5@layers=1-9",
                      *const both = "mix(rtn:bits=3@layers=0)(rtn:bits=5@layers=1-9)";
    (void)state;
    qsae_context *ctx = test_context(2, NULL);
    for (int i = 0; i < n_test_models; i++) {
        qsae_weights *w;
        struct test_result a, m;
        qsae_model_cost ca, cb, cm;
        OK(qsae_weights_open(ctx, test_model_path(test_models[i]), &w));
        run(w, first, QSAE_MEMORY_DEFAULT, &a, &ca);
        run(w, both, QSAE_MEMORY_DEFAULT, &m, &cm);
        assert_memory_equal(a.resid[0], m.resid[0], (size_t)(a.rows * a.width) * sizeof(float));
        test_result_free(&a);
        run(w, second, QSAE_MEMORY_DEFAULT, &a, &cb);
        assert_false(test_result_equal(&a, &m));
        assert_int_equal(cm.quantized_bytes, ca.quantized_bytes + cb.quantized_bytes);
        assert_int_equal(cm.quantized_weights, ca.quantized_weights + cb.quantized_weights);
        test_result_free(&a);
        test_result_free(&m);
        same(w, both, both, QSAE_MEMORY_STREAMED);
        same(w, "rtn:bits=4", "mix(rtn:bits=4)(nf4)", QSAE_MEMORY_DEFAULT); /* the first has all */
        same(w, "rtn:bits=4@skip=mlp", "mix(rtn:bits=4@only=/./@skip=mlp)", QSAE_MEMORY_DEFAULT);
        same(w, "rtn:bits=4@with=embed|head", "mix(rtn:bits=4@with=embed|head)",
             QSAE_MEMORY_DEFAULT);
        same(w, "rtn:bits=4@only=head@with=head", "mix(rtn:bits=4@only=head@with=head)",
             QSAE_MEMORY_DEFAULT);
        qsae_weights_close(&w);
    }
    qsae_context_close(&ctx);
}

/* A tied matrix under two conditions is two. */
static void test_tied(void **state)
{
    (void)state;
    qsae_context *ctx = test_context(2, NULL);
    qsae_weights *w;
    struct test_result a, m;
    qsae_model_cost ca, cm;
    OK(qsae_weights_open(ctx, test_model_path("gemma3_types"), &w));
    run(w, "rtn:bits=3@only=embed@with=embed", QSAE_MEMORY_DEFAULT, &a, &ca);
    run(w, "mix(rtn:bits=3@only=embed@with=embed)(rtn:bits=8@only=head@with=head)",
        QSAE_MEMORY_DEFAULT, &m, &cm);
    for (int64_t n = 0; n < a.layers; n++)
        assert_memory_equal(a.resid[n], m.resid[n], (size_t)(a.rows * a.width) * sizeof(float));
    assert_false(test_result_equal(&a, &m));
    assert_true(cm.quantized_weights == 2 * ca.quantized_weights);
    test_result_free(&a);
    test_result_free(&m);
    qsae_weights_close(&w);
    qsae_context_close(&ctx);
}

static void test_elsewhere(void **state)
{
    static const char *const both = "mix(rtn:bits=3@layers=0)(rtn:bits=5@layers=1-9)";
    (void)state;
    qsae_context *ctx = test_context(2, NULL);
    qsae_weights *w;
    qsae_quantizer *q;
    OK(qsae_weights_open(ctx, test_model_path("llama_gqa"), &w));
    REFUSED(qsae_weights_save(w, both, test_folder(), NULL), QSAE_EUNSUPPORTED, "mix");
    REFUSED(qsae_quantizer_open(ctx, "mix(nf4)", &q), QSAE_EINVAL, "mix");
    /* What the weights lose is what they lose under their part. */
    for (int64_t i = 0; i < qsae_weights_matrix_count(w, NULL); i++) {
        qsae_weight_error mixed = { .struct_size = sizeof mixed }, own = mixed;
        OK(qsae_weights_error(w, NULL, both, i, &mixed));
        OK(qsae_weights_error(w, NULL, mixed.layer == 0 ? "rtn:bits=3@layers=0"
                                                        : "rtn:bits=5@layers=1-9", i, &own));
        assert_true(mixed.frobenius_relative == own.frobenius_relative);
        assert_int_equal(mixed.bytes, own.bytes);
    }
    qsae_weights_close(&w);
    qsae_context_close(&ctx);
}

const struct CMUnitTest mix_tests[] = { cmocka_unit_test(test_parts), cmocka_unit_test(test_tied),
                                        cmocka_unit_test(test_elsewhere) };
const size_t n_mix_tests = sizeof mix_tests / sizeof mix_tests[0];
