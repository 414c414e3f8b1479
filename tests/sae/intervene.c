/* SPDX-License-Identifier: BSD-2-Clause */
/* Edited features: against decode of edited activations, and rows that stay as they are. */
#include "sae_test.h"

#define D 40
#define F 300
#define N 70

#define CONFIG(architecture, more) \
    "{\"d_in\": 40, \"d_sae\": 300, \"architecture\": \"" architecture "\", " more \
    "\"metadata\": {\"sae_lens_version\": \"6.1\"}}"

static const char *const configs[] = {
    CONFIG("jumprelu", ""),
    CONFIG("topk", "\"k\": 9, "),
    CONFIG("standard", "\"normalize_activations\": \"layer_norm\", "),
    CONFIG("standard", "\"normalize_activations\": \"constant_norm_rescale\", "),
};

static float x[N * D], y[N * D], want[N * D], acts[N * F];

static qsae_sae *make(qsae_context *ctx, const char *config)
{
    uint32_t seed = 17;
    qsae_sae *sae = NULL;
    test_sae s;
    test_sae_make(&s, D, F, 19);
    test_sae_save(ctx, &s, config);
    test_sae_free(&s);
    for (int i = 0; i < N * D; i++)
        x[i] = 3 * next_float(&seed);
    assert_ok(qsae_sae_open(ctx, test_folder, NULL, &sae));
    return sae;
}

static qsae_feature_edit edit(int64_t feature, int32_t operation, float value)
{
    return (qsae_feature_edit){ sizeof(qsae_feature_edit), feature, operation, value };
}

/* Nothing edited: x itself with the error kept, the reconstruction without. */
static void test_no_edit(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    for (size_t c = 0; c < sizeof configs / sizeof configs[0]; c++) {
        qsae_sae *sae = make(ctx, configs[c]);
        const qsae_rows rx = test_rows(x, N, D);
        qsae_rows ry = test_rows(y, N, D), rw = test_rows(want, N, D);
        const qsae_feature_edit same = edit(5, QSAE_FEATURE_SCALE, 1);
        assert_ok(qsae_sae_intervene(sae, &rx, NULL, 0, 1, &ry));
        assert_memory_equal(x, y, sizeof x);
        assert_ok(qsae_sae_intervene(sae, &rx, &same, 1, 1, &ry));
        assert_memory_equal(x, y, sizeof x);
        assert_ok(qsae_sae_reconstruct(sae, &rx, &rw));
        assert_ok(qsae_sae_intervene(sae, &rx, &same, 1, 0, &ry));
        assert_memory_equal(want, y, sizeof y);
        qsae_sae_close(&sae);
    }
    qsae_context_close(&ctx);
}

/* acts with the edits, one after the other; changed: rows they change. */
static void edit_acts(const qsae_feature_edit *edits, int n, bool *changed)
{
    for (int r = 0; r < N; r++) {
        static float before[F];
        float *const a = acts + r * F;
        memcpy(before, a, sizeof before);
        for (int e = 0; e < n; e++) {
            float *const v = a + edits[e].feature;
            *v = edits[e].operation == QSAE_FEATURE_SET   ? edits[e].value
                 : edits[e].operation == QSAE_FEATURE_ADD ? *v + edits[e].value
                                                          : *v * edits[e].value;
        }
        changed[r] = memcmp(before, a, sizeof before) != 0;
    }
}

static void test_edits(void **state)
{
    (void)state;
    static const struct {
        int n;
        qsae_feature_edit list[4];
    } cases[] = {
        { 1, { { sizeof(qsae_feature_edit), 7, QSAE_FEATURE_SET, 0 } } },
        { 1, { { sizeof(qsae_feature_edit), 299, QSAE_FEATURE_ADD, 2.5f } } },
        { 2, { { sizeof(qsae_feature_edit), 120, QSAE_FEATURE_SCALE, 3 },
               { sizeof(qsae_feature_edit), 0, QSAE_FEATURE_SET, 1 } } },
        { 4, { { sizeof(qsae_feature_edit), 41, QSAE_FEATURE_ADD, 1 },
               { sizeof(qsae_feature_edit), 9, QSAE_FEATURE_SET, -1 },
               { sizeof(qsae_feature_edit), 41, QSAE_FEATURE_SCALE, -2 },
               { sizeof(qsae_feature_edit), 41, QSAE_FEATURE_ADD, 0.25f } } },
    };
    qsae_context *ctx = open_context(NULL, 2);
    for (size_t c = 0; c < sizeof configs / sizeof configs[0]; c++) {
        qsae_sae *sae = make(ctx, configs[c]);
        qsae_sae_info info = { .struct_size = sizeof info };
        static float plain[N * D], norms[N * 2];
        const qsae_rows rx = test_rows(x, N, D);
        qsae_rows ra = test_rows(acts, N, F), rw = test_rows(want, N, D), ry = test_rows(y, N, D),
                  rp = test_rows(plain, N, D);
        assert_ok(qsae_sae_get_info(sae, &info));
        assert_ok(qsae_sae_reconstruct(sae, &rx, &rp));
        for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
            bool changed[N];
            int kept = 0;
            assert_ok(qsae_sae_encode(sae, &rx, &ra, info.state_size ? norms : NULL));
            edit_acts(cases[k].list, cases[k].n, changed);
            assert_ok(qsae_sae_decode(sae, &ra, info.state_size ? norms : NULL, &rw));
            assert_ok(qsae_sae_intervene(sae, &rx, cases[k].list, cases[k].n, 0, &ry));
            assert_memory_equal(want, y, sizeof y);
            memcpy(y, x, sizeof y); /* in place */
            assert_ok(qsae_sae_intervene(sae, &ry, cases[k].list, cases[k].n, 1, &ry));
            for (int r = 0; r < N; r++)
                for (int i = r * D; i < (r + 1) * D; i++) {
                    const float expected = changed[r] ? x[i] + (want[i] - plain[i]) : x[i];
                    assert_memory_equal(&expected, &y[i], sizeof expected);
                    kept += !changed[r];
                }
            if (k == 0) /* ablating a feature that does not fire changes nothing */
                assert_true(kept > 0);
        }
        qsae_sae_close(&sae);
    }
    qsae_context_close(&ctx);
}

static void test_refused(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 1);
    qsae_sae *sae = make(ctx, configs[0]);
    const qsae_rows rx = test_rows(x, N, D), narrow = test_rows(x, N, D - 1);
    qsae_rows ry = test_rows(y, N, D);
    qsae_feature_edit e[2] = { edit(1, QSAE_FEATURE_SET, 0), edit(F, QSAE_FEATURE_SET, 0) };
    assert_fails(qsae_sae_intervene(sae, &rx, e, 2, 1, &ry), QSAE_EINVAL, "feature 300");
    e[1].feature = -1;
    assert_fails(qsae_sae_intervene(sae, &rx, e, 2, 1, &ry), QSAE_EINVAL,
                 "edit 1: feature -1: expected 0..299");
    e[1] = edit(2, 0, 0);
    assert_fails(qsae_sae_intervene(sae, &rx, e, 2, 1, &ry), QSAE_EINVAL, "operation 0");
    e[1] = edit(2, 4, 0);
    assert_fails(qsae_sae_intervene(sae, &rx, e, 2, 1, &ry), QSAE_EINVAL, "operation 4");
    e[1] = edit(2, QSAE_FEATURE_ADD, (float)INFINITY);
    assert_fails(qsae_sae_intervene(sae, &rx, e, 2, 1, &ry), QSAE_EINVAL, "finite");
    e[0].struct_size = 4;
    assert_fails(qsae_sae_intervene(sae, &rx, e, 2, 1, &ry), QSAE_EINVAL, "struct_size");
    assert_fails(qsae_sae_intervene(sae, &rx, NULL, 1, 1, &ry), QSAE_EINVAL, "NULL");
    assert_fails(qsae_sae_intervene(sae, &narrow, e, 0, 1, &ry), QSAE_EMISMATCH, "width");
    qsae_sae_close(&sae);
    sae = make(ctx, CONFIG("transcoder", "\"d_out\": 40, \"apply_b_dec_to_input\": false, "));
    e[0] = edit(1, QSAE_FEATURE_SET, 0);
    assert_ok(qsae_sae_intervene(sae, &rx, e, 1, 0, &ry));
    assert_fails(qsae_sae_intervene(sae, &rx, e, 1, 1, &ry), QSAE_EINVAL, "transcoder");
    qsae_sae_close(&sae);
    qsae_context_close(&ctx);
}

const struct CMUnitTest intervene_tests[] = {
    cmocka_unit_test(test_no_edit),
    cmocka_unit_test(test_edits),
    cmocka_unit_test(test_refused),
};
const size_t n_intervene_tests = sizeof intervene_tests / sizeof intervene_tests[0];
