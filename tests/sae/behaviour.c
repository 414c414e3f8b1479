/* SPDX-License-Identifier: BSD-2-Clause */
/* Ties, capacity, threads, dtypes, non-finite rows. */
#include "sae_test.h"

#include "kernels/kernels.h"

#define D 40
#define F 1100 /* more than two tiles */
#define N 333

static const char topk[] = "{\"d_in\": 40, \"d_sae\": 1100, \"architecture\": \"topk\", \"k\": 7, "
                           "\"metadata\": {\"sae_lens_version\": \"6.1\"}}";
static const char jumprelu[] = "{\"d_in\": 40, \"d_sae\": 1100, \"architecture\": \"jumprelu\", "
                               "\"metadata\": {\"sae_lens_version\": \"6.1\"}}";
static const char layer_norm[] = "{\"d_in\": 40, \"d_sae\": 1100, \"architecture\": \"standard\", "
                                 "\"normalize_activations\": \"layer_norm\", "
                                 "\"metadata\": {\"sae_lens_version\": \"6.1\"}}";

typedef struct sparse {
    int64_t indptr[N + 1];
    int32_t indices[N * F];
    float values[N * F];
    float state[N * 2];
    int64_t nnz;
} sparse;

static sparse a, b;
static float x[N * D];

static void make_x(void)
{
    uint32_t seed = 11;
    for (int i = 0; i < N * D; i++)
        x[i] = next_float(&seed);
}

static qsae_sae *open_sae(qsae_context *ctx, int32_t dtype)
{
    qsae_sae *sae = NULL;
    qsae_sae_settings s;
    qsae_sae_settings_init(&s, sizeof s);
    s.dtype = dtype;
    assert_ok(qsae_sae_open(ctx, test_folder, &s, &sae));
    return sae;
}

static void encode(qsae_sae *sae, int64_t first, int64_t n, sparse *out)
{
    const qsae_rows rx = test_rows(x + first * D, n, D);
    assert_ok(qsae_sae_encode_sparse(sae, &rx, out->indptr, out->indices, out->values, N * F,
                                     out->state, &out->nnz));
}

/* The active set and values of one row recomputed from single dot products: the same bits. */
static void test_definition(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    test_sae s;
    test_sae_make(&s, D, F, 3);
    test_sae_save(ctx, &s, jumprelu);
    make_x();
    qsae_sae *sae = open_sae(ctx, 0);
    encode(sae, 0, N, &a);
    for (int64_t r = 0; r < N; r += 37) {
        float z[D];
        int64_t e = a.indptr[r];
        for (int64_t i = 0; i < D; i++)
            z[i] = x[r * D + i] - s.b_dec[i];
        for (int64_t f = 0; f < F; f++) {
            const float h = qsae__gemm_dot(D, z, s.w_enc + f, F) + s.b_enc[f];
            if (h > s.threshold[f] && h > 0) {
                assert_true(e < a.indptr[r + 1]);
                assert_int_equal(a.indices[e], f);
                assert_memory_equal(&a.values[e], &h, sizeof h);
                e++;
            }
        }
        assert_int_equal(e, a.indptr[r + 1]);
    }
    qsae_sae_close(&sae);
    test_sae_free(&s);
    qsae_context_close(&ctx);
}

/* Whatever the threads and however rows are cut, the same bits. */
static void test_invariance(void **state)
{
    static const char *const configs[] = { topk, jumprelu, layer_norm };
    (void)state;
    qsae_context *writer = open_context("c", 1);
    test_sae s;
    test_sae_make(&s, D, F, 5);
    make_x();
    for (size_t c = 0; c < 3; c++) {
        static float y[2][N * D];
        test_sae_save(writer, &s, configs[c]);
        for (int32_t threads = 1; threads <= 4; threads++) {
            sparse *const out = threads == 1 ? &a : &b;
            qsae_context *ctx = open_context(NULL, threads);
            qsae_sae *sae = open_sae(ctx, 0);
            const qsae_rows rx = test_rows(x, N, D);
            qsae_rows ry = test_rows(y[threads > 1], N, D);
            encode(sae, 0, N, out);
            assert_ok(qsae_sae_reconstruct(sae, &rx, &ry));
            if (threads > 1) {
                assert_memory_equal(a.indptr, b.indptr, sizeof a.indptr);
                assert_memory_equal(a.indices, b.indices, (size_t)a.nnz * sizeof a.indices[0]);
                assert_memory_equal(a.values, b.values, (size_t)a.nnz * sizeof a.values[0]);
                assert_memory_equal(y[0], y[1], sizeof y[0]);
            }
            encode(sae, 100, 1, &b);
            assert_int_equal(b.nnz, a.indptr[101] - a.indptr[100]);
            assert_memory_equal(b.values, a.values + a.indptr[100], (size_t)b.nnz * 4);
            assert_memory_equal(b.indices, a.indices + a.indptr[100], (size_t)b.nnz * 4);
            qsae_sae_close(&sae);
            qsae_context_close(&ctx);
        }
    }
    test_sae_free(&s);
    qsae_context_close(&writer);
}

/* All features alike: topk keeps the lowest indices. */
static void test_ties(void **state)
{
    (void)state;
    qsae_context *ctx = open_context("c", 1);
    test_sae s;
    test_sae_make(&s, D, F, 3);
    for (int64_t i = 0; i < D * F; i++)
        s.w_enc[i] = 0;
    for (int64_t f = 0; f < F; f++)
        s.b_enc[f] = f % 3 == 2 ? 2 : 1;
    for (int64_t f = 12; f < F; f++)
        s.b_enc[f] = 1;
    test_sae_save(ctx, &s, topk);
    make_x();
    qsae_sae *sae = open_sae(ctx, 0);
    encode(sae, 0, N, &a);
    assert_int_equal(a.nnz, 7 * N);
    /* 2, 5, 8, 11 hold 2; of the rest 0, 1, 3 come first. */
    static const int32_t want[] = { 0, 1, 2, 3, 5, 8, 11 };
    for (int64_t r = 0; r < N; r++)
        assert_memory_equal(a.indices + 7 * r, want, sizeof want);
    qsae_sae_close(&sae);
    test_sae_free(&s);
    qsae_context_close(&ctx);
}

static void test_capacity(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    test_sae s;
    int64_t nnz = -1;
    test_sae_make(&s, D, F, 3);
    test_sae_save(ctx, &s, jumprelu);
    make_x();
    qsae_sae *sae = open_sae(ctx, 0);
    const qsae_rows rx = test_rows(x, N, D), wrong = test_rows(x, N, D - 1);
    encode(sae, 0, N, &a);
    assert_fails(qsae_sae_encode_sparse(sae, &rx, b.indptr, NULL, NULL, 0, NULL, &nnz), QSAE_ESPACE,
                 "needed");
    assert_int_equal(nnz, a.nnz);
    assert_memory_equal(a.indptr, b.indptr, sizeof a.indptr);
    assert_int_equal(qsae_sae_encode_sparse(sae, &rx, b.indptr, b.indices, b.values, nnz - 1, NULL,
                                            &nnz), QSAE_ESPACE);
    assert_ok(qsae_sae_encode_sparse(sae, &rx, b.indptr, b.indices, b.values, nnz, NULL, &nnz));
    assert_memory_equal(a.values, b.values, (size_t)nnz * sizeof a.values[0]);
    assert_fails(qsae_sae_encode_sparse(sae, &wrong, b.indptr, NULL, NULL, 0, NULL, &nnz),
                 QSAE_EMISMATCH, "width 40");
    assert_fails(qsae_sae_encode_sparse(sae, &rx, NULL, NULL, NULL, 0, NULL, &nnz), QSAE_EINVAL,
                 "");
    static float y[N * D];
    qsae_rows ry = test_rows(y, N, D);
    b.indices[5] = F;
    assert_fails(qsae_sae_decode_sparse(sae, N, b.indptr, b.indices, b.values, NULL, &ry),
                 QSAE_EINVAL,
                 "entry 5");
    b.indices[5] = -1;
    assert_fails(qsae_sae_decode_sparse(sae, N, b.indptr, b.indices, b.values, NULL, &ry),
                 QSAE_EINVAL, "entry 5: expected 0..1099, found -1");
    b.indices[5] = 0;
    assert_fails(qsae_sae_decode_sparse(sae, N, b.indptr, NULL, b.values, NULL, &ry), QSAE_EINVAL,
                 "indices and values must not be NULL");
    assert_fails(qsae_sae_decode_sparse(sae, N, b.indptr, b.indices, NULL, NULL, &ry), QSAE_EINVAL,
                 "indices and values must not be NULL");
    b.indptr[0] = -1;
    assert_fails(qsae_sae_decode_sparse(sae, N, b.indptr, b.indices, b.values, NULL, &ry),
                 QSAE_EINVAL, "row 0: expected ascending offsets, found -1");
    b.indptr[0] = 0;
    b.indptr[3] = b.indptr[2] - 1;
    assert_fails(qsae_sae_decode_sparse(sae, N, b.indptr, b.indices, b.values, NULL, &ry),
                 QSAE_EINVAL,
                 "indptr");
    qsae_sae_close(&sae);
    test_sae_free(&s);
    qsae_context_close(&ctx);
}

/* Rows that are not finite encode to nothing and leave their neighbours alone. */
static void test_nonfinite(void **state)
{
    static const char *const configs[] = { topk, layer_norm };
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    test_sae s;
    test_sae_make(&s, D, F, 3);
    for (size_t c = 0; c < 2; c++) {
        test_sae_save(ctx, &s, configs[c]);
        make_x();
        qsae_sae *sae = open_sae(ctx, 0);
        encode(sae, 0, N, &a);
        x[20 * D + 3] = NAN;
        x[21 * D] = INFINITY;
        encode(sae, 0, N, &b);
        assert_int_equal(b.indptr[20], a.indptr[20]);
        assert_int_equal(b.indptr[22], a.indptr[20]);
        assert_int_equal(b.nnz - b.indptr[22], a.nnz - a.indptr[22]);
        assert_memory_equal(b.values + b.indptr[22], a.values + a.indptr[22],
                            (size_t)(b.nnz - b.indptr[22]) * sizeof a.values[0]);
        qsae_sae_close(&sae);
    }
    test_sae_free(&s);
    qsae_context_close(&ctx);
}

/* dtype rounds the matrices only; 16-bit input is widened exactly. */
static void test_dtypes(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    test_sae s;
    static uint16_t half[N * D];
    test_sae_make(&s, D, F, 3);
    make_x();
    test_sae_save(ctx, &s, jumprelu);
    qsae_sae *rounded = open_sae(ctx, QSAE_BF16);
    for (int64_t i = 0; i < D * F; i++) {
        s.w_enc[i] = qsae__round_bf16(s.w_enc[i]);
        s.w_dec[i] = qsae__round_bf16(s.w_dec[i]);
    }
    static float y[2][N * D];
    qsae_rows rx = test_rows(x, N, D), ry = test_rows(y[0], N, D), rz = test_rows(y[1], N, D);
    assert_ok(qsae_sae_reconstruct(rounded, &rx, &ry));
    test_sae_save(ctx, &s, jumprelu);
    qsae_sae *plain = open_sae(ctx, 0);
    assert_ok(qsae_sae_reconstruct(plain, &rx, &rz));
    assert_memory_equal(y[0], y[1], sizeof y[0]);
    for (int64_t i = 0; i < N * D; i++) {
        half[i] = qsae__f32_to_bf16(x[i]);
        x[i] = qsae__bf16_to_f32(half[i]);
    }
    assert_ok(qsae_sae_reconstruct(plain, &rx, &ry));
    qsae_rows rh = rx;
    rh.data = half;
    rh.dtype = QSAE_BF16;
    assert_ok(qsae_sae_reconstruct(plain, &rh, &rz));
    assert_memory_equal(y[0], y[1], sizeof y[0]);
    qsae_sae_close(&plain);
    qsae_sae_close(&rounded);
    test_sae_free(&s);
    qsae_context_close(&ctx);
}

/* The growing buffers of the audit hold what the public call returns. */
static void test_csr(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    test_sae s;
    qsae__csr csr;
    static float y[2][N * D];
    test_sae_make(&s, D, F, 3);
    test_sae_save(ctx, &s, layer_norm);
    make_x();
    qsae_sae *sae = open_sae(ctx, 0);
    encode(sae, 0, N, &a);
    qsae__csr_init(&csr, ctx);
    for (int round = 0; round < 2; round++) {
        assert_ok(qsae__sae_encode_rows(sae, x, N, D, &csr));
        assert_int_equal(csr.n, N);
        assert_int_equal(csr.nnz, a.nnz);
        assert_memory_equal(csr.indptr, a.indptr, sizeof a.indptr);
        assert_memory_equal(csr.values, a.values, (size_t)a.nnz * sizeof a.values[0]);
        assert_memory_equal(csr.state, a.state, sizeof a.state);
        assert_ok(qsae__sae_encode_rows(sae, x, 0, D, &csr));
        assert_int_equal(csr.nnz, 0);
    }
    assert_ok(qsae__sae_encode_rows(sae, x, N, D, &csr));
    assert_ok(qsae__sae_decode_rows(sae, &csr, y[0], D));
    qsae_rows rx = test_rows(x, N, D), ry = test_rows(y[1], N, D);
    assert_ok(qsae_sae_reconstruct(sae, &rx, &ry));
    assert_memory_equal(y[0], y[1], sizeof y[0]);
    assert_fails(qsae_sae_decode_sparse(sae, N, a.indptr, a.indices, a.values, NULL, &ry),
                 QSAE_EINVAL,
                 "state");
    qsae__csr_free(&csr);
    qsae_sae_close(&sae);
    test_sae_free(&s);
    qsae_context_close(&ctx);
}

static void test_memory(void **state)
{
    int64_t calls_left = INT64_MAX;
    qsae_context_settings c;
    qsae_context *ctx = NULL;
    qsae_sae *sae = NULL;
    test_sae s;
    int32_t st = QSAE_ENOMEM;
    static float y[N * D];
    (void)state;
    qsae_context_settings_init(&c, sizeof c);
    c.threads = 1;
    c.alloc = failing_alloc;
    c.free = plain_free;
    c.alloc_cookie = &calls_left;
    assert_ok(qsae_context_open(&c, &ctx));
    test_sae_make(&s, D, F, 3);
    test_sae_save(ctx, &s, topk);
    make_x();
    for (int64_t n = 0; st != QSAE_OK; n++) {
        calls_left = n;
        st = qsae_sae_open(ctx, test_folder, NULL, &sae);
        assert_true((st == QSAE_OK) == (sae != NULL));
        assert_true(st == QSAE_OK || st == QSAE_ENOMEM);
    }
    const qsae_rows rx = test_rows(x, N, D);
    qsae_rows ry = test_rows(y, N, D);
    st = QSAE_ENOMEM;
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

/* Rows in which nothing fires at all: the bias of the decoder, whatever encodes. */
static void test_nothing(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    test_sae s;
    static float y[N * D];
    const qsae_rows rx = test_rows(x, N, D);
    qsae_rows ry = test_rows(y, N, D);
    make_x();
    test_sae_make(&s, D, F, 3);
    for (int64_t f = 0; f < F; f++)
        s.threshold[f] = 1e9f;
    for (int32_t dtype = 0; dtype <= QSAE_I8; dtype += QSAE_I8) {
        test_sae_save(ctx, &s, jumprelu);
        qsae_sae *sae = open_sae(ctx, dtype);
        encode(sae, 0, N, &a);
        assert_int_equal(a.nnz, 0);
        memset(y, 7, sizeof y);
        assert_ok(qsae_sae_reconstruct(sae, &rx, &ry));
        for (int64_t i = 0; i < N * D; i++)
            assert_true(y[i] == s.b_dec[i % D]);
        qsae_sae_close(&sae);
    }
    test_sae_free(&s);
    qsae_context_close(&ctx);
}

const struct CMUnitTest behaviour_tests[] = {
    cmocka_unit_test(test_nothing),
    cmocka_unit_test(test_definition), cmocka_unit_test(test_invariance),
    cmocka_unit_test(test_ties),       cmocka_unit_test(test_capacity),
    cmocka_unit_test(test_nonfinite),  cmocka_unit_test(test_dtypes),
    cmocka_unit_test(test_csr),        cmocka_unit_test(test_memory),
};
const size_t n_behaviour_tests = sizeof behaviour_tests / sizeof behaviour_tests[0];
