/* SPDX-License-Identifier: BSD-2-Clause */
/* Files that must be refused: the right status, a message that names the thing, nothing left
 * behind. */
#include "sae_test.h"

#define CFG(rest) \
    "{\"d_in\": 6, \"d_sae\": 10, \"metadata\": {\"sae_lens_version\": \"6.1\"}" rest "}"

static void refuses(qsae_context *ctx, const test_sae *s, const char *config, int32_t status,
                    const char *part)
{
    qsae_sae *sae = (qsae_sae *)(void *)&status;
    test_sae_save(ctx, s, config);
    assert_fails(qsae_sae_open(ctx, test_folder, NULL, &sae), status, part);
    assert_null(sae);
}

static void test_config(void **state)
{
    static const struct {
        const char *config;
        int32_t status;
        const char *part;
    } cases[] = {
        { CFG(", \"architecture\": \"temporal\""), QSAE_EUNSUPPORTED, "temporal" },
        { CFG(", \"architecture\": \"matryoshka_batchtopk\", \"matryoshka_widths\": [4, 3]"),
          QSAE_EFORMAT, "matryoshka_widths" },
        { "{\"d_in\": 6, \"d_sae\": 10, \"architecture\": \"matryoshka_batchtopk\", "
          "\"matryoshka_widths\": [4, 11]}", QSAE_EFORMAT, "matryoshka_widths" },
        { CFG(", \"architecture\": \"matryoshka_batchtopk\", \"matryoshka_widths\": [0.5]"),
          QSAE_EFORMAT, "matryoshka_widths" },
        { CFG(", \"architecture\": \"groupmax\", \"k\": 3"), QSAE_EMISMATCH, "3 equal groups" },
        { CFG(", \"architecture\": \"abstopk\", \"k\": 11"), QSAE_EMISMATCH, "k = 11" },
        { CFG(", \"architecture\": \"matching_pursuit\", \"max_iterations\": 0"), QSAE_EFORMAT,
          "max_iterations" },
        { CFG(", \"architecture\": 3"), QSAE_EFORMAT, "architecture" },
        { CFG(", \"normalize_activations\": \"constant_scalar_rescale\""), QSAE_EUNSUPPORTED,
          "only temporal" },
        { CFG(", \"normalize_activations\": \"covariance_whitening\""), QSAE_EUNSUPPORTED,
          "covariance_whitening" },
        { CFG(", \"normalize_activations\": 1"), QSAE_EFORMAT, "normalize_activations" },
        { CFG(", \"dtype\": \"int8\""), QSAE_EUNSUPPORTED, "dtype" },
        { CFG(", \"reshape_activations\": \"hook_q\""), QSAE_EUNSUPPORTED, "reshape_activations" },
        { CFG(", \"hook_head_index\": -1"), QSAE_EFORMAT, "hook_head_index" },
        { CFG(", \"hook_head_index\": \"2\""), QSAE_EFORMAT, "hook_head_index" },
        { CFG(", \"architecture\": \"topk\", \"k\": 11"), QSAE_EMISMATCH, "k = 11" },
        { CFG(", \"architecture\": \"topk\", \"k\": 0"), QSAE_EFORMAT, "k" },
        { CFG(", \"architecture\": \"transcoder\", \"apply_b_dec_to_input\": true"), QSAE_EFORMAT,
          "apply_b_dec_to_input" },
        { CFG(", \"architecture\": \"skip_transcoder\""), QSAE_ENOENT, "W_skip" },
        { CFG(", \"architecture\": \"gated\""), QSAE_ENOENT, "b_gate" },
        { "{\"d_in\": 7, \"d_sae\": 10}", QSAE_EMISMATCH, "d_in = 7" },
        { "{\"d_in\": 6, \"d_sae\": 11}", QSAE_EMISMATCH, "d_sae = 11" },
        { "{\"d_in\": 6, \"expansion_factor\": 2}", QSAE_EMISMATCH, "d_sae = 12" },
        { "{\"d_sae\": 10}", QSAE_EFORMAT, "d_in" },
        { "{\"d_in\": -1}", QSAE_EFORMAT, "d_in" },
        { "{\"d_in\": 6, \"activation_fn_str\": \"sigmoid\"}", QSAE_EUNSUPPORTED, "sigmoid" },
        { "{\"d_in\": 6, \"activation_fn_str\": \"topk\"}", QSAE_EFORMAT, "activation_fn_kwargs" },
        { "[]", QSAE_EFORMAT, "object" },
        { "{\"d_in\": 6", QSAE_EFORMAT, "cfg.json" },
        { "{\"d_in\": 6, \"d_in\": 6}", QSAE_EFORMAT, "cfg.json" },
    };
    (void)state;
    qsae_context *ctx = open_context("c", 1);
    test_sae s;
    test_sae_make(&s, 6, 10, 1);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        refuses(ctx, &s, cases[i].config, cases[i].status, cases[i].part);
    test_sae_free(&s);
    qsae_context_close(&ctx);
}

static void test_tensors(void **state)
{
    static const char config[] = CFG(", \"architecture\": \"jumprelu\"");
    qsae_sae *sae = NULL;
    (void)state;
    qsae_context *ctx = open_context("c", 1);
    test_sae s;
    test_sae_make(&s, 6, 10, 1);
    s.b_enc[3] = NAN;
    refuses(ctx, &s, config, QSAE_ENONFINITE, "b_enc");
    s.b_enc[3] = 0;
    float *const threshold = s.threshold;
    s.threshold = NULL;
    refuses(ctx, &s, config, QSAE_ENOENT, "threshold");
    s.threshold = threshold;
    s.d_out = 5;
    refuses(ctx, &s, config, QSAE_EMISMATCH, "W_dec");
    s.d_out = 6;
    /* Every truncation of the weights is refused. */
    test_sae_save(ctx, &s, config);
    assert_ok(qsae_sae_open(ctx, test_folder, NULL, &sae));
    qsae_sae_close(&sae);
    static char bytes[8192];
    FILE *const f = fopen(test_path("sae_weights.safetensors"), "rb");
    const size_t size = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    assert_in_range(size, 600, sizeof bytes - 1);
    for (size_t n = 0; n < size; n += n < 600 ? 1 : 31) {
        test_write("sae_weights.safetensors", bytes, n);
        assert_int_not_equal(qsae_sae_open(ctx, test_folder, NULL, &sae), QSAE_OK);
        assert_null(sae);
    }
    test_sae_free(&s);
    qsae_context_close(&ctx);
}

static void test_places(void **state)
{
    static const unsigned char pickle[] = { 0x80, 2, '}', 'q', 0, '.' };
    qsae_sae *sae = NULL;
    (void)state;
    qsae_context *ctx = open_context("c", 1);
    assert_fails(qsae_sae_open(ctx, test_path("nothing"), NULL, &sae), QSAE_ENOENT, "nothing");
    assert_fails(qsae_sae_open(ctx, test_folder, NULL, &sae), QSAE_ENOENT, "no SAE found");
    test_write("ae.pt", pickle, sizeof pickle);
    assert_fails(qsae_sae_open(ctx, test_folder, NULL, &sae), QSAE_EPICKLE,
                 "sae_weights.safetensors");
    assert_fails(qsae_sae_open(ctx, test_path("ae.pt"), NULL, &sae), QSAE_EPICKLE, "ae.pt");
    test_write("sae_weights.safetensors", pickle, sizeof pickle);
    assert_fails(qsae_sae_open(ctx, test_folder, NULL, &sae), QSAE_ENOENT, "cfg.json");
    test_write("cfg.json", "{}", 2);
    assert_fails(qsae_sae_open(ctx, test_folder, NULL, &sae), QSAE_EPICKLE, "sae_weights");
    assert_null(sae);
    test_remove("sae_weights.safetensors");
    test_write("hyperparams.json", "{}", 2);
    test_remove("ae.pt");
    assert_fails(qsae_sae_open(ctx, test_folder, NULL, &sae), QSAE_ENOENT,
                 "checkpoints/final.safetensors");
    assert_fails(qsae_sae_open(NULL, test_folder, NULL, &sae), QSAE_EINVAL, "context");
    assert_fails(qsae_sae_open(ctx, NULL, NULL, &sae), QSAE_EINVAL, "path");
    qsae_context_close(&ctx);
}

/* config.json of Gemma Scope 2. */
static void test_scope2(void **state)
{
    static const struct {
        const char *config;
        int32_t status;
        const char *part;
    } cases[] = {
        { "{\"architecture\": \"topk\"}", QSAE_EUNSUPPORTED, "jump_relu" },
        { "{\"type\": \"crosscoder\"}", QSAE_EUNSUPPORTED, "crosscoder" },
        { "{\"width\": 11}", QSAE_EMISMATCH, "d_sae = 11" },
        { "{\"affine_connection\": true}", QSAE_ENOENT, "affine_skip_connection" },
    };
    qsae_sae *sae = NULL;
    (void)state;
    qsae_context *ctx = open_context("c", 1);
    test_sae s;
    test_sae_make(&s, 6, 10, 1);
    test_sae_save(ctx, &s, "{}");
    assert_int_equal(rename(test_path("sae_weights.safetensors"), test_path("params.safetensors")),
                     0);
    test_remove("cfg.json");
    assert_ok(qsae_sae_open(ctx, test_folder, NULL, &sae));
    qsae_sae_close(&sae);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        test_write("config.json", cases[i].config, strlen(cases[i].config));
        assert_fails(qsae_sae_open(ctx, test_folder, NULL, &sae), cases[i].status, cases[i].part);
        assert_null(sae);
    }
    test_sae_free(&s);
    qsae_context_close(&ctx);
}

const struct CMUnitTest refused_tests[] = {
    cmocka_unit_test(test_config),
    cmocka_unit_test(test_tensors),
    cmocka_unit_test(test_places),
    cmocka_unit_test(test_scope2),
};
const size_t n_refused_tests = sizeof refused_tests / sizeof refused_tests[0];
