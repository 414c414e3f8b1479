/* SPDX-License-Identifier: BSD-2-Clause */
/* The error report of an encoded weight. */
#include <math.h>
#include <string.h>

#include "tests.h"

static qsae_weight_error error_of(const qsae_qmatrix *q, const float *w, int64_t rows, int64_t cols)
{
    qsae_weight_error e = { .struct_size = sizeof e };
    const qsae_rows r = test_rows(w, QSAE_F32, rows, cols);
    if (qsae_qmatrix_error(q, &r, &e))
        fail_msg("%s", qsae_error_message());
    return e;
}

static void near(double got, double want)
{
    if (!(fabs(got - want) <= 1e-12 * fabs(want)))
        fail_msg("%.17g, expected %.17g", got, want);
}

/* Codes -1, 0, 1 with scale 4: 1 becomes 0, 3 becomes 4. */
static void test_by_hand(void **state)
{
    qsae_context *ctx = test_context(NULL, 2);
    const float w[6] = { 4, 1, 3, -4, 0, -3 };
    (void)state;
    qsae_qmatrix *q = test_encode(ctx, "rtn:bits=2,axis=tensor", w, QSAE_F32, 2, 3, 0);
    const qsae_weight_error e = error_of(q, w, 2, 3);
    assert_string_equal(e.module, "");
    assert_string_equal(e.format, "rtn");
    assert_int_equal(e.layer, -1);
    assert_int_equal(e.rows, 2);
    assert_int_equal(e.cols, 3);
    assert_int_equal(e.nonfinite, 0);
    assert_int_equal(e.bytes, 2 + 4); /* six codes of two bits, a scale */
    near(e.bits_per_weight, 8);
    near(e.frobenius_relative, sqrt(3.0 / 51));
    near(e.sqnr_db, 10 * log10(51.0 / 3));
    near(e.weight_norm, sqrt(51));
    near(e.max_abs, 1);
    near(e.mean_abs, 0.5);
    near(e.zeros, 2.0 / 6);
    qsae_qmatrix_close(&q);
    qsae_context_close(&ctx);
}

/* The same on any number of threads, near sums in another order. */
static void test_random_weight(void **state)
{
    enum { ROWS = 90, COLS = 2500, N = ROWS * COLS };
    static const char *const specs[] = { "nf4", "llm.int8", "rtn:bits=3,group=64" };
    float *w = test_alloc(N, sizeof *w);
    (void)state;
    test_random(8, w, N);
    for (int64_t s = 0; s < LENGTH(specs); s++) {
        qsae_weight_error first = { 0 };
        for (int32_t threads = 1; threads <= 3; threads++) {
            qsae_context *ctx = test_context(threads == 1 ? "c" : NULL, threads);
            qsae_qmatrix *q = test_encode(ctx, specs[s], w, QSAE_F32, ROWS, COLS, 0);
            const qsae_weight_error e = error_of(q, w, ROWS, COLS);
            float *back = test_decode(q, QSAE_F32);
            double weight = 0, error = 0, sum = 0, most = 0;
            for (int64_t i = N - 1; i >= 0; i--) {
                const double d = (double)back[i] - (double)w[i];
                weight += (double)w[i] * (double)w[i];
                error += d * d;
                sum += fabs(d);
                most = fmax(most, fabs(d));
            }
            near(e.frobenius_relative, sqrt(error / weight));
            near(e.sqnr_db, 10 * log10(weight / error));
            near(e.mean_abs, sum / N);
            assert_true(e.max_abs == most);
            near(e.bits_per_weight, 8 * (double)qsae_qmatrix_bytes(q) / N);
            if (threads == 1)
                first = e;
            assert_true(e.frobenius_relative == first.frobenius_relative &&
                        e.sqnr_db == first.sqnr_db && e.mean_abs == first.mean_abs);
            test_release(back);
            qsae_qmatrix_close(&q);
            qsae_context_close(&ctx);
        }
    }
    test_release(w);
}

static void test_special(void **state)
{
    qsae_context *ctx = test_context(NULL, 1);
    const float w[6] = { NAN, 1, -1, INFINITY, 2, -3 }, zero[6] = { 0 }, one[6] = { 1 };
    (void)state;
    qsae_qmatrix *q = test_encode(ctx, "none", w, QSAE_F32, 2, 3, 0);
    qsae_weight_error e = error_of(q, w, 2, 3);
    assert_int_equal(e.nonfinite, 2);
    assert_true(e.frobenius_relative == 0 && e.sqnr_db == (double)INFINITY && e.max_abs == 0);
    e = error_of(q, one, 2, 3); /* against another weight: NaN and infinity left out again */
    assert_int_equal(e.nonfinite, 2);
    assert_true(e.frobenius_relative == (double)INFINITY); /* 0 but for what is left out */
    const float nothing[6] = { NAN, INFINITY, -INFINITY, NAN, NAN, NAN };
    e = error_of(q, nothing, 2, 3); /* no number is left */
    assert_int_equal(e.nonfinite, 6);
    assert_true(e.frobenius_relative == 0 && e.mean_abs == 0 && e.zeros == 0 && e.max_abs == 0);
    qsae_qmatrix_close(&q);
    q = test_encode(ctx, "fp4", zero, QSAE_F32, 2, 3, 0);
    assert_string_equal(error_of(q, zero, 2, 3).format, "fp4");
    qsae_qmatrix_close(&q);
    q = test_encode(ctx, "nf4", zero, QSAE_F32, 2, 3, 0);
    e = error_of(q, zero, 2, 3);
    assert_true(e.frobenius_relative == 0 && e.sqnr_db == (double)INFINITY && e.zeros == 1);
    e = error_of(q, one, 2, 3);
    assert_true(e.frobenius_relative == 1 && e.sqnr_db == 0);
    qsae_qmatrix_close(&q);
    qsae_context_close(&ctx);
}

static void test_refused(void **state)
{
    qsae_context *ctx = test_context(NULL, 1);
    const float w[6] = { 1, 2, 3, 4, 5, 6 };
    (void)state;
    qsae_qmatrix *q = test_encode(ctx, "nf4", w, QSAE_F32, 2, 3, 0);
    qsae_weight_error e = { .struct_size = sizeof e };
    qsae_rows r = test_rows(w, QSAE_F32, 3, 2);
    assert_int_equal(qsae_qmatrix_error(q, &r, &e), QSAE_EMISMATCH);
    assert_non_null(strstr(qsae_error_message(), "[3, 2]"));
    r = test_rows(w, QSAE_F32, 2, 2);
    assert_int_equal(qsae_qmatrix_error(q, &r, &e), QSAE_EMISMATCH);
    assert_non_null(strstr(qsae_error_message(), "[2, 2], expected [2, 3]"));
    r = test_rows(w, QSAE_I8, 2, 3);
    assert_int_equal(qsae_qmatrix_error(q, &r, &e), QSAE_EINVAL);
    r = test_rows(w, QSAE_F32, 2, 3);
    assert_int_equal(qsae_qmatrix_error(NULL, &r, &e), QSAE_EINVAL);
    assert_int_equal(qsae_qmatrix_error(q, NULL, &e), QSAE_EINVAL);
    assert_int_equal(qsae_qmatrix_error(q, &r, NULL), QSAE_EINVAL);
    e.struct_size = 0;
    assert_int_equal(qsae_qmatrix_error(q, &r, &e), QSAE_EINVAL);
    qsae_qmatrix_close(&q);
    qsae_context_close(&ctx);
}

int run_error(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_hand),
        cmocka_unit_test(test_random_weight),
        cmocka_unit_test(test_special),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests_name("codecs/error", tests, NULL, NULL);
}
