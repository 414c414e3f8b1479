/* SPDX-License-Identifier: BSD-2-Clause */
/* What the rarer architectures do that fixtures do not show: ties, prefixes, zero rows, warnings,
 * and the same bits however rows and features are cut. */
#include "sae_test.h"

#include "sae/encode.h"

#define D 40
#define F 1100 /* more than two tiles */
#define N 130
#define CFG(rest) \
    "{\"d_in\": 40, \"d_sae\": 1100, \"metadata\": {\"sae_lens_version\": \"6.1\"}, " rest "}"
#define OLD(rest) "{\"d_in\": 40, \"d_sae\": 1100, " rest "}"

typedef struct sparse {
    int64_t indptr[N + 1];
    int32_t indices[N * F];
    float values[N * F];
    float state[N * 2];
    int64_t nnz;
} sparse;

static sparse a, b;
static float x[N * D], y[2][N * D];

static void make_x(void)
{
    uint32_t seed = 23;
    for (int i = 0; i < N * D; i++)
        x[i] = next_float(&seed);
}

static qsae_sae *open_with(qsae_context *ctx, const test_sae *s, const char *config)
{
    qsae_sae *sae = NULL;
    test_sae_save(ctx, s, config);
    assert_ok(qsae_sae_open(ctx, test_folder, NULL, &sae));
    return sae;
}

static void encode(qsae_sae *sae, int64_t first, int64_t n, sparse *out)
{
    const qsae_rows rx = test_rows(x + first * D, n, D);
    assert_ok(qsae_sae_encode_sparse(sae, &rx, out->indptr, out->indices, out->values, N * F,
                                     out->state, &out->nnz));
}

static const char *const configs[] = {
    CFG("\"architecture\": \"abstopk\", \"k\": 9"),
    CFG("\"architecture\": \"abstopk\", \"k\": 9, \"rescale_acts_by_decoder_norm\": true"),
    CFG("\"architecture\": \"groupmax\", \"k\": 11"), /* groups of 100 cross the tiles */
    CFG("\"architecture\": \"batchtopk\""),
    CFG("\"architecture\": \"matching_pursuit\", \"max_iterations\": 12"),
    OLD("\"activation_fn_str\": \"tanh-relu\""),
    CFG("\"normalize_activations\": \"constant_norm_rescale\""),
    OLD("\"model_from_pretrained_kwargs\": {\"center_writing_weights\": true}"),
};
#define CONFIGS (sizeof configs / sizeof configs[0])

/* W_dec of unit rows, as matching pursuit has it. */
static void make_unit(test_sae *s, uint32_t seed)
{
    test_sae_make(s, D, F, seed);
    for (int64_t f = 0; f < F; f++) {
        double sum = 0;
        for (int64_t i = 0; i < D; i++)
            sum += (double)s->w_dec[f * D + i] * s->w_dec[f * D + i];
        for (int64_t i = 0; i < D; i++)
            s->w_dec[f * D + i] /= (float)sqrt(sum);
    }
}

static void test_invariance(void **state)
{
    (void)state;
    make_x();
    test_sae s;
    make_unit(&s, 5);
    for (size_t c = 0; c < CONFIGS; c++)
        for (int32_t threads = 1; threads <= 3; threads++) {
            qsae_context *ctx = open_context(threads == 2 ? "c" : NULL, threads);
            qsae_sae *sae = open_with(ctx, &s, configs[c]);
            const qsae_rows rx = test_rows(x, N, D);
            qsae_rows ry = test_rows(y[threads > 1], N, D);
            sparse *const out = threads == 1 ? &a : &b;
            encode(sae, 0, N, out);
            assert_ok(qsae_sae_reconstruct(sae, &rx, &ry));
            assert_in_range(out->nnz, N, N * F);
            for (int64_t r = 0; r < N; r++)
                for (int64_t e = out->indptr[r] + 1; e < out->indptr[r + 1]; e++)
                    assert_true(out->indices[e - 1] < out->indices[e]);
            if (threads > 1) {
                assert_memory_equal(a.indptr, b.indptr, sizeof a.indptr);
                assert_memory_equal(a.indices, b.indices, (size_t)a.nnz * sizeof a.indices[0]);
                assert_memory_equal(a.values, b.values, (size_t)a.nnz * sizeof a.values[0]);
                assert_memory_equal(y[0], y[1], sizeof y[0]);
            }
            sae->order = QSAE__ORDER_FEATURES;
            encode(sae, 0, N, &b);
            assert_memory_equal(a.indptr, b.indptr, sizeof a.indptr);
            assert_memory_equal(a.indices, b.indices, (size_t)a.nnz * sizeof a.indices[0]);
            assert_memory_equal(a.values, b.values, (size_t)a.nnz * sizeof a.values[0]);
            sae->order = QSAE__ORDER_BY_SIZE;
            encode(sae, 100, 1, &b);
            assert_int_equal(b.nnz, a.indptr[101] - a.indptr[100]);
            assert_memory_equal(b.values, a.values + a.indptr[100], (size_t)b.nnz * 4);
            assert_memory_equal(b.indices, a.indices + a.indptr[100], (size_t)b.nnz * 4);
            qsae_sae_close(&sae);
            qsae_context_close(&ctx);
        }
    test_sae_free(&s);
}

static void expect_rows(const int32_t *want, int64_t n, float sign)
{
    assert_int_equal(a.nnz, n * N);
    for (int64_t r = 0; r < N; r++) {
        assert_memory_equal(a.indices + n * r, want, (size_t)n * sizeof *want);
        for (int64_t i = 0; i < n; i++)
            assert_true(sign == 0 || a.values[n * r + i] * sign > 0);
    }
}

/* Features alike: the lowest index stays, whatever the sign. */
static void test_ties(void **state)
{
    static const int32_t lowest[] = { 0, 1, 2, 3, 4, 5, 6, 7, 8 };
    static const int32_t some[] = { 0, 1, 2, 3, 4, 5, 600, 601, 602 };
    static const int32_t groups[] = { 0, 100, 200, 300, 400, 510, 600, 700, 800, 900, 1000 };
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    test_sae s;
    make_x();
    test_sae_make(&s, D, F, 3);
    for (int64_t i = 0; i < D * F; i++)
        s.w_enc[i] = 0;
    for (int64_t f = 0; f < F; f++)
        s.b_enc[f] = -1;
    qsae_sae *sae = open_with(ctx, &s, configs[0]);
    encode(sae, 0, N, &a);
    expect_rows(lowest, 9, -1);
    qsae_sae_close(&sae);
    for (int64_t f = 600; f < 603; f++)
        s.b_enc[f] = 3;
    s.b_enc[5] = 1;
    sae = open_with(ctx, &s, configs[0]);
    encode(sae, 0, N, &a);
    expect_rows(some, 9, 0);
    qsae_sae_close(&sae);
    for (int64_t f = 0; f < F; f++)
        s.b_enc[f] = 1;
    s.b_enc[510] = s.b_enc[515] = 2; /* groups 500..599 lie in two tiles */
    sae = open_with(ctx, &s, configs[2]);
    encode(sae, 0, N, &a);
    expect_rows(groups, 11, 1);
    qsae_sae_close(&sae);
    test_sae_free(&s);
    qsae_context_close(&ctx);
}

/* Decoding up to a width is b_dec and the features below it. */
static void test_prefix(void **state)
{
    static const char matryoshka[] = CFG("\"architecture\": \"matryoshka_batchtopk\", "
                                         "\"matryoshka_widths\": [100, 600]");
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    test_sae s;
    make_x();
    test_sae_make(&s, D, F, 3);
    qsae_sae *sae = open_with(ctx, &s, matryoshka);
    qsae_sae_info info = { .struct_size = sizeof info };
    assert_ok(qsae_sae_get_info(sae, &info));
    assert_int_equal(info.n_widths, 3);
    assert_int_equal(info.widths[1], 600);
    assert_int_equal(info.widths[2], F);
    char hash[40];
    snprintf(hash, sizeof hash, "%s", info.hash);
    encode(sae, 0, N, &a);
    const qsae_rows rx = test_rows(x, N, D);
    qsae_rows ry = test_rows(y[0], N, D), rz = test_rows(y[1], N, D);
    for (int64_t w = 0; w < 3; w++) {
        /* The same entries with those past the width at zero. */
        memcpy(&b, &a, sizeof a);
        for (int64_t e = 0; e < b.nnz; e++)
            if (b.indices[e] >= info.widths[w])
                b.values[e] = 0;
        assert_ok(qsae_sae_set_prefix(sae, 0));
        assert_ok(qsae_sae_decode_sparse(sae, N, b.indptr, b.indices, b.values, NULL, &ry));
        assert_ok(qsae_sae_set_prefix(sae, info.widths[w]));
        assert_ok(qsae_sae_reconstruct(sae, &rx, &rz));
        assert_memory_equal(y[0], y[1], sizeof y[0]);
        assert_ok(qsae_sae_decode_sparse(sae, N, a.indptr, a.indices, a.values, NULL, &rz));
        assert_memory_equal(y[0], y[1], sizeof y[0]);
        encode(sae, 0, N, &b);
        assert_int_equal(a.nnz, b.nnz);
        assert_ok(qsae_sae_get_info(sae, &info));
        assert_int_equal(info.prefix, info.widths[w]);
        assert_string_not_equal(info.hash, hash);
    }
    assert_fails(qsae_sae_set_prefix(sae, F + 1), QSAE_EINVAL, "1101");
    assert_fails(qsae_sae_set_prefix(sae, -1), QSAE_EINVAL, "-1");
    qsae_sae_close(&sae);
    qsae_sae_settings settings;
    qsae_sae_settings_init(&settings, sizeof settings);
    settings.prefix = F + 1;
    assert_fails(qsae_sae_open(ctx, test_folder, &settings, &sae), QSAE_EINVAL, "1101");
    settings.prefix = 600;
    assert_ok(qsae_sae_open(ctx, test_folder, &settings, &sae));
    assert_ok(qsae_sae_reconstruct(sae, &rx, &ry));
    assert_ok(qsae_sae_set_prefix(sae, F));
    assert_ok(qsae_sae_reconstruct(sae, &rx, &rz));
    assert_memory_not_equal(y[0], y[1], sizeof y[0]);
    qsae_sae_close(&sae);
    test_sae_free(&s);
    qsae_context_close(&ctx);
}

/* A row without a norm is left alone and counted. */
static void test_zero_rows(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    test_sae s;
    make_x();
    memset(x + 5 * D, 0, D * sizeof *x);
    memset(x + 90 * D, 0, D * sizeof *x);
    test_sae_make(&s, D, F, 3);
    qsae_sae *sae = open_with(ctx, &s, configs[6]);
    qsae_sae_info info = { .struct_size = sizeof info };
    encode(sae, 0, N, &a);
    assert_true(a.state[5] == 1);
    assert_ok(qsae_sae_get_info(sae, &info));
    assert_int_equal(info.zero_rows, 2);
    encode(sae, 90, 1, &a);
    assert_ok(qsae_sae_get_info(sae, &info));
    assert_int_equal(info.zero_rows, 3);
    qsae_sae_close(&sae);
    test_sae_free(&s);
    qsae_context_close(&ctx);
}

/* A centred SAE sees x - mean(x): adding a constant to a row changes next to nothing. */
static void test_centred(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    test_sae s;
    make_x();
    test_sae_make(&s, D, F, 3);
    qsae_sae *sae = open_with(ctx, &s, configs[7]);
    qsae_sae_info info = { .struct_size = sizeof info };
    const qsae_rows rx = test_rows(x, N, D);
    qsae_rows ry = test_rows(y[0], N, D), rz = test_rows(y[1], N, D);
    assert_ok(qsae_sae_get_info(sae, &info));
    assert_int_equal(info.center_input, 1);
    assert_ok(qsae_sae_reconstruct(sae, &rx, &ry));
    for (int i = 0; i < N * D; i++)
        x[i] += 2;
    assert_ok(qsae_sae_reconstruct(sae, &rx, &rz));
    for (int i = 0; i < N * D; i++)
        assert_true(fabsf(y[0][i] - y[1][i]) < 2e-3f);
    qsae_sae_close(&sae);
    sae = open_with(ctx, &s, OLD("\"activation_fn_str\": \"relu\""));
    assert_ok(qsae_sae_reconstruct(sae, &rx, &ry));
    int64_t far = 0;
    for (int i = 0; i < N * D; i++)
        far += fabsf(y[0][i] - y[1][i]) > 0.1f;
    assert_true(far > N);
    qsae_sae_close(&sae);
    test_sae_free(&s);
    qsae_context_close(&ctx);
}

static void keep_warning(void *cookie, int32_t level, const char *message)
{
    if (level == QSAE_LOG_WARNING)
        snprintf(cookie, 512, "%s", message);
}

/* A scale that is not in the file: said in the log and the description, never guessed. */
static void test_unscaled(void **state)
{
    static char message[512];
    (void)state;
    qsae_context_settings c;
    qsae_context *ctx = NULL;
    test_sae s;
    qsae_context_settings_init(&c, sizeof c);
    c.log = keep_warning;
    c.log_cookie = message;
    c.threads = 1;
    assert_ok(qsae_context_open(&c, &ctx));
    make_x();
    test_sae_make(&s, D, F, 3);
    qsae_sae *sae = open_with(ctx, &s, CFG("\"normalize_activations\": \"none\""));
    assert_string_equal(message, "");
    encode(sae, 0, N, &a);
    qsae_sae_close(&sae);
    sae = open_with(ctx, &s, CFG("\"normalize_activations\": \"expected_average_only_in\""));
    assert_non_null(strstr(message, "unscaled"));
    qsae_sae_info info = { .struct_size = sizeof info };
    assert_ok(qsae_sae_get_info(sae, &info));
    assert_string_equal(info.normalize, "expected_average_only_in");
    encode(sae, 0, N, &b);
    assert_int_equal(a.nnz, b.nnz);
    assert_memory_equal(a.values, b.values, (size_t)a.nnz * sizeof a.values[0]);
    qsae_sae_close(&sae);
    test_sae_free(&s);
    qsae_context_close(&ctx);
}

/* Atoms that are too long make the residual grow: encoding ends, with finite values. */
static void test_long_atoms(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    test_sae s;
    make_x();
    test_sae_make(&s, D, F, 3);
    for (int64_t i = 0; i < D * F; i++)
        s.w_dec[i] *= 1e6f;
    qsae_sae *sae = open_with(ctx, &s, CFG("\"architecture\": \"matching_pursuit\", "
                                           "\"stop_on_duplicate_support\": false"));
    encode(sae, 0, N, &a);
    assert_true(a.nnz > 0);
    for (int64_t e = 0; e < a.nnz; e++)
        assert_true(isfinite(a.values[e]) && a.values[e] > 0);
    qsae_sae_close(&sae);
    test_sae_free(&s);
    qsae_context_close(&ctx);
}

/* A wide SAE whose file is gone from its place reads on through its mapping. */
static void test_replaced(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    test_sae s;
    make_x();
    test_sae_make(&s, D, F, 3);
    qsae_sae *sae = open_with(ctx, &s, configs[6]);
    encode(sae, 0, N, &a);
    test_remove("sae_weights.safetensors");
    test_write("sae_weights.safetensors", "other", 5);
    sae->order = QSAE__ORDER_FEATURES;
    encode(sae, 0, N, &b);
    assert_int_equal(a.nnz, b.nnz);
    assert_memory_equal(a.indices, b.indices, (size_t)a.nnz * sizeof a.indices[0]);
    assert_memory_equal(a.values, b.values, (size_t)a.nnz * sizeof a.values[0]);
    qsae_sae_close(&sae);
    test_sae_free(&s);
    qsae_context_close(&ctx);
}

/* What int8 codes with a scale for each row [n, k] stand for; strides as of a dense weight. */
static void through_codes(float *w, int64_t n, int64_t k, int64_t n_stride, int64_t k_stride)
{
    for (int64_t i = 0; i < n; i++) {
        float most = 0;
        for (int64_t j = 0; j < k; j++)
            most = fmaxf(most, fabsf(w[i * n_stride + j * k_stride]));
        const float scale = most / 127;
        for (int64_t j = 0; j < k; j++) {
            float *const v = &w[i * n_stride + j * k_stride];
            *v = most > 0 ? scale * rintf(*v / scale) : 0;
        }
    }
}

/* An SAE kept in int8 computes what the f32 one of the decoded matrices does; the file is not
 * needed after open. */
static void test_int8(void **state)
{
    static const char *const some[] = {
        CFG("\"architecture\": \"topk\", \"k\": 9"), CFG("\"architecture\": \"jumprelu\""),
        CFG("\"architecture\": \"groupmax\", \"k\": 11"),
        CFG("\"architecture\": \"matching_pursuit\", \"max_iterations\": 12"),
    };
    (void)state;
    make_x();
    test_sae s, t;
    make_unit(&s, 5);
    make_unit(&t, 5);
    for (int64_t i = 0; i < D; i++)
        s.w_enc[i * F + 7] = t.w_enc[i * F + 7] = s.w_dec[9 * D + i] = t.w_dec[9 * D + i] = 0;
    through_codes(t.w_enc, F, D, 1, F);
    through_codes(t.w_dec, F, D, D, 1);
    for (size_t c = 0; c < sizeof some / sizeof some[0]; c++)
        for (int32_t threads = 1; threads <= 2; threads++) {
            qsae_context *ctx = open_context(NULL, threads);
            const qsae_rows rx = test_rows(x, N, D);
            qsae_rows ry = test_rows(y[0], N, D), rz = test_rows(y[1], N, D);
            qsae_sae *sae = open_with(ctx, &t, some[c]);
            encode(sae, 0, N, &a);
            assert_ok(qsae_sae_reconstruct(sae, &rx, &ry));
            qsae_sae_close(&sae);
            qsae_sae_settings settings;
            qsae_sae_settings_init(&settings, sizeof settings);
            settings.dtype = QSAE_I8;
            test_sae_save(ctx, &s, some[c]);
            assert_ok(qsae_sae_open(ctx, test_folder, &settings, &sae));
            encode(sae, 0, N, &b);
            assert_ok(qsae_sae_reconstruct(sae, &rx, &rz));
            assert_int_equal(a.nnz, b.nnz);
            assert_memory_equal(a.indices, b.indices, (size_t)a.nnz * sizeof a.indices[0]);
            assert_memory_equal(a.values, b.values, (size_t)a.nnz * sizeof a.values[0]);
            assert_memory_equal(y[0], y[1], sizeof y[0]);
            qsae_sae_close(&sae);
            const float kept = s.w_dec[3];
            s.w_dec[3] = INFINITY;
            test_sae_save(ctx, &s, some[c]);
            assert_fails(qsae_sae_open(ctx, test_folder, &settings, &sae), QSAE_ENONFINITE,
                         "feature 0");
            s.w_dec[3] = kept;
            settings.dtype = QSAE_U8;
            assert_fails(qsae_sae_open(ctx, test_folder, &settings, &sae), QSAE_EINVAL, "dtype");
            qsae_context_close(&ctx);
        }
    test_sae_free(&s);
    test_sae_free(&t);
}

/* Every allocation of a pursuit may fail. */
static void test_memory(void **state)
{
    int64_t calls_left = INT64_MAX;
    qsae_context_settings c;
    qsae_context *ctx = NULL;
    test_sae s;
    int32_t st = QSAE_ENOMEM;
    (void)state;
    qsae_context_settings_init(&c, sizeof c);
    c.threads = 1;
    c.alloc = failing_alloc;
    c.free = plain_free;
    c.alloc_cookie = &calls_left;
    assert_ok(qsae_context_open(&c, &ctx));
    make_x();
    make_unit(&s, 3);
    qsae_sae *sae = open_with(ctx, &s, CFG("\"architecture\": \"matching_pursuit\", "
                                           "\"max_iterations\": 3"));
    const qsae_rows rx = test_rows(x, 5, D);
    qsae_rows ry = test_rows(y[0], 5, D);
    for (int64_t n = 0; st != QSAE_OK; n++) {
        calls_left = n;
        st = qsae_sae_reconstruct(sae, &rx, &ry);
        assert_true(st == QSAE_OK || st == QSAE_ENOMEM);
    }
    calls_left = INT64_MAX;
    qsae_sae_close(&sae);
    test_sae_free(&s);
    qsae_context_close(&ctx);
}

const struct CMUnitTest kind_tests[] = {
    cmocka_unit_test(test_invariance), cmocka_unit_test(test_ties),
    cmocka_unit_test(test_prefix),     cmocka_unit_test(test_zero_rows),
    cmocka_unit_test(test_centred),    cmocka_unit_test(test_unscaled),
    cmocka_unit_test(test_long_atoms), cmocka_unit_test(test_int8),
    cmocka_unit_test(test_replaced),   cmocka_unit_test(test_memory),
};
const size_t n_kind_tests = sizeof kind_tests / sizeof kind_tests[0];
