/* SPDX-License-Identifier: BSD-2-Clause */
/* Figures of the weights of each feature, against f64 sums over the file's values. */
#include "sae_test.h"

#define D 300  /* more than a k block of the product */
#define F 1100 /* more than two of its tiles */
#define EMPTY 700

#define CONFIG(architecture, more) \
    "{\"d_in\": 300, \"d_sae\": 1100, \"architecture\": \"" architecture "\", " more \
    "\"metadata\": {\"sae_lens_version\": \"6.1\"}}"

static double found[F], want[F];

/* The vector of feature f in the parameters: side 0 = encoder, 1 = decoder. */
static void vector(const test_sae *s, int side, int64_t f, double *out)
{
    for (int64_t k = 0; k < D; k++)
        out[k] = (double)(side ? s->w_dec[f * D + k] : s->w_enc[k * F + f]);
}

static double dot(const double *a, const double *b)
{
    double sum = 0;
    for (int k = 0; k < D; k++)
        sum += a[k] * b[k];
    return sum;
}

static test_sae make(qsae_context *ctx, const char *config)
{
    test_sae s;
    test_sae_make(&s, D, F, 23);
    for (int64_t k = 0; k < D; k++) {
        s.w_enc[k * F + EMPTY] = 0;
        s.w_dec[5 * D + k] = 3 * s.w_dec[1000 * D + k]; /* cosine 1 */
    }
    test_sae_save(ctx, &s, config);
    return s;
}

static void compare(const qsae_sae *sae, const char *name, double tolerance)
{
    assert_ok(qsae_sae_features(sae, name, found, F));
    for (int i = 0; i < F; i++)
        if (isnan(want[i]) ? !isnan(found[i]) : !(fabs(found[i] - want[i]) <= tolerance))
            fail_msg("%s of %d: %.17g, expected %.17g", name, i, found[i], want[i]);
}

static void test_own(void **state)
{
    static double e[D], d[D];
    (void)state;
    for (int32_t threads = 1; threads <= 2; threads++) {
        qsae_context *ctx = open_context(NULL, threads);
        qsae_sae *sae = NULL;
        test_sae s = make(ctx, CONFIG("jumprelu", ""));
        assert_ok(qsae_sae_open(ctx, test_folder, NULL, &sae));
        for (int side = 0; side < 2; side++) {
            for (int i = 0; i < F; i++) {
                vector(&s, side, i, e);
                want[i] = sqrt(dot(e, e));
            }
            compare(sae, side ? "decoder_norm" : "encoder_norm", 1e-12);
        }
        for (int i = 0; i < F; i++) {
            vector(&s, 0, i, e);
            vector(&s, 1, i, d);
            want[i] = i == EMPTY ? (double)NAN : dot(e, d) / sqrt(dot(e, e) * dot(d, d));
        }
        compare(sae, "encoder_decoder_cosine", 1e-12);
        for (int i = 0; i < F; i++)
            want[i] = (double)s.b_enc[i];
        compare(sae, "encoder_bias", 0);
        qsae_sae_close(&sae);
        test_sae_free(&s);
        qsae_context_close(&ctx);
    }
}

/* Largest cosine of every feature to another by the definition. */
static void nearest(const test_sae *s, int side)
{
    double *const unit = malloc(sizeof(double) * F * D);
    assert_non_null(unit);
    for (int i = 0; i < F; i++) {
        double *const u = unit + i * D;
        vector(s, side, i, u);
        const double norm = sqrt(dot(u, u));
        for (int k = 0; k < D && norm > 0; k++)
            u[k] /= norm;
        want[i] = NAN;
    }
    for (int i = 0; i < F; i++)
        for (int j = 0; j < i; j++) {
            const double v = dot(unit + i * D, unit + j * D);
            if (side == 0 && (i == EMPTY || j == EMPTY))
                continue;
            if (!(v <= want[i]))
                want[i] = v;
            if (!(v <= want[j]))
                want[j] = v;
        }
    free(unit);
}

static void test_nearest(void **state)
{
    static double first[F];
    (void)state;
    for (int side = 0; side < 2; side++)
        for (int32_t threads = 1; threads <= 2; threads++) {
            const char *const name = side ? "decoder_max_cosine" : "encoder_max_cosine";
            qsae_context *ctx = open_context(NULL, threads);
            qsae_sae *sae = NULL;
            test_sae s = make(ctx, CONFIG("jumprelu", ""));
            assert_ok(qsae_sae_open(ctx, test_folder, NULL, &sae));
            if (threads == 1) {
                nearest(&s, side);
                compare(sae, name, 2e-6);
                memcpy(first, found, sizeof first);
            }
            assert_ok(qsae_sae_features(sae, name, found, F));
            assert_memory_equal(first, found, sizeof first);
            qsae_sae_close(&sae);
            test_sae_free(&s);
            qsae_context_close(&ctx);
        }
}

/* Fewer bits: of the values the SAE computes with. */
static void test_stored(void **state)
{
    static const int32_t dtypes[] = { QSAE_BF16, QSAE_F16, QSAE_I8 };
    static const double tolerance[] = { 0x1p-8, 0x1p-11, 0x1p-6 };
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    test_sae s = make(ctx, CONFIG("jumprelu", ""));
    for (size_t c = 0; c < sizeof dtypes / sizeof dtypes[0]; c++) {
        static double exact[F];
        int differ = 0;
        qsae_sae *sae = NULL;
        qsae_sae_settings settings;
        assert_ok(qsae_sae_open(ctx, test_folder, NULL, &sae));
        assert_ok(qsae_sae_features(sae, "decoder_norm", exact, F));
        qsae_sae_close(&sae);
        qsae_sae_settings_init(&settings, sizeof settings);
        settings.dtype = dtypes[c];
        assert_ok(qsae_sae_open(ctx, test_folder, &settings, &sae));
        assert_ok(qsae_sae_features(sae, "decoder_norm", found, F));
        for (int i = 0; i < F; i++) {
            assert_true(fabs(found[i] - exact[i]) <= tolerance[c] * exact[i]);
            differ += found[i] != exact[i];
        }
        assert_true(differ > F / 2);
        qsae_sae_close(&sae);
    }
    test_sae_free(&s);
    qsae_context_close(&ctx);
}

/* A transcoder from one width to another, more than a k block apart: its sides have no cosine. */
static void test_widths(void **state)
{
    static const int64_t widths[2][2] = { { 300, 20 }, { 20, 300 } };
    (void)state;
    for (int c = 0; c < 2; c++) {
        const int64_t d_in = widths[c][0], d_out = widths[c][1];
        char config[160];
        double e[70];
        test_sae s, wide;
        qsae_sae *sae = NULL;
        qsae_context *ctx = open_context(NULL, 1);
        test_sae_make(&s, d_in, 70, 3);
        test_sae_make(&wide, d_out, 70, 4);
        free(s.w_dec);
        free(s.b_dec);
        s.w_dec = wide.w_dec;
        s.b_dec = wide.b_dec;
        s.d_out = d_out;
        snprintf(config, sizeof config, "{\"d_in\": %d, \"architecture\": \"jumprelu_transcoder\", "
                 "\"metadata\": {\"sae_lens_version\": \"6.1\"}}", (int)d_in);
        test_sae_save(ctx, &s, config);
        assert_ok(qsae_sae_open(ctx, test_folder, NULL, &sae));
        for (int side = 0; side < 2; side++) {
            const int64_t d = side ? d_out : d_in;
            assert_ok(qsae_sae_features(sae, side ? "decoder_norm" : "encoder_norm", e, 70));
            for (int64_t f = 0; f < 70; f++) {
                double sum = 0;
                for (int64_t k = 0; k < d; k++) {
                    const double v = (double)(side ? s.w_dec[f * d + k] : s.w_enc[k * 70 + f]);
                    sum += v * v;
                }
                assert_true(fabs(e[f] - sqrt(sum)) <= 1e-12);
            }
        }
        assert_ok(qsae_sae_features(sae, d_in < d_out ? "encoder_max_cosine"
                                                      : "decoder_max_cosine", e, 70));
        for (int f = 0; f < 70; f++)
            assert_true(e[f] > 0 && e[f] <= 1 + 1e-6);
        assert_fails(qsae_sae_features(sae, "encoder_decoder_cosine", e, 70), QSAE_EMISMATCH,
                     c ? "reads 20 dimensions, the decoder writes 300"
                       : "reads 300 dimensions, the decoder writes 20");
        qsae_sae_close(&sae);
        wide.w_dec = wide.b_dec = NULL;
        test_sae_free(&wide);
        test_sae_free(&s);
        qsae_context_close(&ctx);
    }
}

static void test_refused(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 1);
    qsae_sae *sae = NULL;
    qsae_sae_settings settings;
    qsae_cancel_token *cancel = NULL;
    test_sae s = make(ctx, CONFIG("jumprelu", ""));
    assert_ok(qsae_cancel_token_open(&cancel));
    qsae_sae_settings_init(&settings, sizeof settings);
    settings.cancel = cancel;
    assert_ok(qsae_sae_open(ctx, test_folder, &settings, &sae));
    assert_fails(qsae_sae_features(NULL, "decoder_norm", found, F), QSAE_EINVAL, "NULL");
    assert_fails(qsae_sae_features(sae, "norm", found, F), QSAE_ENOENT, "decoder_norm");
    assert_fails(qsae_sae_features(sae, "decoder_norm", found, F - 1), QSAE_EINVAL, "1100");
    qsae_cancel_token_cancel(cancel);
    assert_fails(qsae_sae_features(sae, "decoder_max_cosine", found, F), QSAE_ECANCELED, "");
    qsae_sae_close(&sae);
    qsae_cancel_token_close(&cancel);
    test_sae_free(&s);
    qsae_context_close(&ctx);
}

const struct CMUnitTest geometry_tests[] = {
    cmocka_unit_test(test_own),
    cmocka_unit_test(test_nearest),
    cmocka_unit_test(test_stored),
    cmocka_unit_test(test_widths),
    cmocka_unit_test(test_refused),
};
const size_t n_geometry_tests = sizeof geometry_tests / sizeof geometry_tests[0];
