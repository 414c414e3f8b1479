/* SPDX-License-Identifier: BSD-2-Clause */
/* Pruning against torch (tests/reference/prune.py). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "codecs/prune.h"
#include "tests.h"

static qsae__source source_of(qsae_context *ctx, const void *data, int32_t dtype, int64_t rows,
                              int64_t cols)
{
    return (qsae__source){ .ctx = ctx, .data = data, .dtype = dtype, .n_out = rows, .n_in = cols,
                           .out_stride = cols, .in_stride = 1 };
}

/* "sparsity=0.5,scope=row,ties=all" or "pattern=2:4" */
static qsae__prune prune_of(const char *spec)
{
    qsae__prune p = { .kind = QSAE__PRUNE_PATTERN };
    char scope[8], ties[8];
    int keep, of;
    if (sscanf(spec, "pattern=%d:%d", &keep, &of) == 2) {
        p.keep = keep;
        p.of = of;
    } else {
        assert_int_equal(
            sscanf(spec, "sparsity=%lf,scope=%7[a-z],ties=%7[a-z]", &p.sparsity, scope, ties), 3);
        p.kind = strcmp(scope, "row") == 0 ? QSAE__PRUNE_ROW : QSAE__PRUNE_TENSOR;
        p.ties_first = strcmp(ties, "first") == 0;
    }
    return p;
}

/* The elements of w where zero is set become +0, the others keep their bits. */
static void check_case(qsae_context *ctx, const struct test_file *t, const json_t *c)
{
    const char *key = test_json_str(c, "key"), *spec = test_json_str(c, "spec");
    const qsae__tensor *w = test_tensor(t, 0, "%s.w", test_json_str(c, "matrix"));
    const uint8_t *zero = test_tensor(t, QSAE_U8, "%s.zero", key)->data;
    const size_t size = (size_t)qsae_dtype_bits(w->dtype) / 8;
    const qsae__source src = source_of(ctx, w->data, w->dtype, w->shape[0], w->shape[1]);
    const qsae__prune p = prune_of(spec);
    qsae_qmatrix *q;
    if (qsae__prune_encode(&p, &src, &q))
        fail_msg("%s: %s", spec, qsae_error_message());
    char *want = test_alloc(test_count(w), size);
    for (int64_t i = 0; i < test_count(w); i++)
        if (!zero[i])
            memcpy(want + (size_t)i * size, (const char *)w->data + (size_t)i * size, size);
    assert_int_equal(q->dtype, w->dtype);
    assert_true(qsae_qmatrix_bytes(q) == w->bytes);
    test_same_bytes(key, test_field(q, "weight").data, want, (size_t)w->bytes);
    test_release(want);
    qsae__qmatrix_unref(&q);
}

static void test_fixtures(void **state)
{
    qsae_context *ctx[TEST_CONTEXTS];
    const int64_t n = test_contexts(ctx);
    struct test_file *t = test_load(ctx[0], "prune.safetensors");
    json_t *j = test_json(ctx[0], "prune.json"), *c;
    size_t at;
    (void)state;
    assert_true(json_array_size(json_object_get(j, "prune")) > 100);
    for (int64_t i = 0; i < n; i++)
        json_array_foreach(json_object_get(j, "prune"), at, c)
            check_case(ctx[i], t, c);
    json_decref(j);
    test_unload(t);
    test_contexts_close(ctx, n);
}

/* Counts and the limit on matrices larger than a histogram's parts, read transposed and rounded. */
static void test_large(void **state)
{
    enum { ROWS = 700, COLS = 1500, N = ROWS * COLS };
    const uint64_t seed = 11;
    qsae_context *ctx[2] = { test_context(NULL, 1), test_context(NULL, 3) };
    float *x = test_alloc(N, sizeof *x), *turned = test_alloc(N, sizeof *x);
    (void)state;
    test_random(seed, x, N);
    for (int64_t i = 0; i < N; i++)
        turned[i % COLS * ROWS + i / COLS] = x[i];
    for (int ties = 0; ties < 2; ties++)
        for (int round = 0; round < 2; round++) {
            const qsae__prune p = { .kind = QSAE__PRUNE_TENSOR, .sparsity = 0.3,
                                    .ties_first = ties };
            qsae_qmatrix *q[3];
            for (int i = 0; i < 3; i++) {
                qsae__source src = source_of(ctx[i % 2], x, QSAE_F32, ROWS, COLS);
                src.round = round ? QSAE_BF16 : 0;
                if (i == 2) {
                    src.data = turned;
                    src.out_stride = 1;
                    src.in_stride = ROWS;
                }
                assert_int_equal(qsae__prune_encode(&p, &src, &q[i]), QSAE_OK);
            }
            const size_t bytes = (size_t)q[0]->code_bytes;
            test_same_bytes("threads", q[1]->codes, q[0]->codes, bytes);
            test_same_bytes("transposed", q[2]->codes, q[0]->codes, bytes);
            float *back = test_decode(q[0], QSAE_F32), least = INFINITY, most = 0;
            int64_t zeros = 0;
            for (int64_t i = 0; i < N; i++) {
                const float w = fabsf(round ? qsae__round_bf16(x[i]) : x[i]);
                zeros += back[i] == 0;
                least = back[i] != 0 && w < least ? w : least;
                most = back[i] == 0 && w > most ? w : most;
            }
            if (ties)
                assert_int_equal(zeros, N * 3 / 10);
            else
                assert_true(zeros >= N * 3 / 10 && zeros < N * 31 / 100);
            if (ties ? least < most : least <= most)
                fail_msg("seed %llu: %g stays, %g does not", (unsigned long long)seed,
                         (double)least, (double)most);
            test_release(back);
            for (int i = 0; i < 3; i++)
                qsae__qmatrix_unref(&q[i]);
        }
    test_release(x);
    test_release(turned);
    qsae_context_close(&ctx[0]);
    qsae_context_close(&ctx[1]);
}

/* NaN is the largest magnitude, above infinity; -0 and 0 are equal. */
static void test_special(void **state)
{
    qsae_context *ctx = test_context(NULL, 1);
    const float w[8] = { NAN, -INFINITY, -0.0f, 3, -NAN, 0, 1, -1 };
    static const struct {
        qsae__prune p;
        const char *zero;
    } cases[] = {
        { { .kind = QSAE__PRUNE_TENSOR, .sparsity = 0.125 }, "00100100" },
        { { .kind = QSAE__PRUNE_TENSOR, .sparsity = 0.125, .ties_first = true }, "00100000" },
        { { .kind = QSAE__PRUNE_TENSOR, .sparsity = 0.374, .ties_first = true }, "00100100" },
        { { .kind = QSAE__PRUNE_TENSOR, .sparsity = 0.375, .ties_first = true }, "00100110" },
        { { .kind = QSAE__PRUNE_TENSOR, .sparsity = 0.75 }, "01110111" },
        { { .kind = QSAE__PRUNE_ROW, .sparsity = 0.75 }, "01110111" },
        { { .kind = QSAE__PRUNE_TENSOR, .sparsity = 0.875 }, "11111111" },
        { { .kind = QSAE__PRUNE_ROW, .sparsity = 0.875, .ties_first = true }, "11110111" },
        { { .kind = QSAE__PRUNE_TENSOR, .sparsity = 1 }, "11111111" },
        { { .kind = QSAE__PRUNE_PATTERN, .keep = 2, .of = 4 }, "00110101" },
        { { .kind = QSAE__PRUNE_PATTERN, .keep = 0, .of = 2 }, "11111111" },
        { { .kind = QSAE__PRUNE_PATTERN, .keep = 8, .of = 8 }, "00000000" },
        { { .kind = QSAE__PRUNE_PATTERN, .keep = 1, .of = 8 }, "01111111" },
    };
    (void)state;
    const qsae__source src = source_of(ctx, w, QSAE_F32, 1, 8);
    for (int64_t i = 0; i < LENGTH(cases); i++) {
        qsae_qmatrix *q;
        assert_int_equal(qsae__prune_encode(&cases[i].p, &src, &q), QSAE_OK);
        for (int j = 0; j < 8; j++) {
            const float *got = (const float *)q->codes + j;
            if (qsae__f32_bits(*got) != (cases[i].zero[j] == '1' ? 0 : qsae__f32_bits(w[j])))
                fail_msg("case %lld: element %d is %g", (long long)i, j, (double)*got);
        }
        qsae__qmatrix_unref(&q);
    }
    qsae_context_close(&ctx);
}

/* Q, K and V in one matrix, each by itself: what pruning each alone gives, whatever the layout. */
static void test_apart(void **state)
{
    enum { RUNS_MOST = 4, DIM = 6, COLS = 37, ROWS_MOST = 3 * RUNS_MOST * DIM };
    qsae_context *ctx[2] = { test_context(NULL, 1), test_context(NULL, 3) };
    static float x[ROWS_MOST * COLS], part[ROWS_MOST * COLS];
    const int64_t runs_of[] = { 1, 2, RUNS_MOST };
    int64_t differs = 0;
    (void)state;
    for (uint64_t seed = 0; seed < 24; seed++) {
        const int64_t runs = runs_of[seed % 3], rows = 3 * runs * DIM, own = runs * DIM;
        const qsae__prune p = { .kind = QSAE__PRUNE_TENSOR, .sparsity = (double)(seed % 5) / 6,
                                .ties_first = seed & 1, .apart = true };
        test_random(seed, x, rows * COLS);
        for (int64_t i = 0; i < rows * COLS; i++) {
            const int64_t which = i / COLS / DIM % 3; /* parts of different sizes, ties in one */
            x[i] = which == 1 ? roundf(4 * x[i]) : x[i] * (float)(1 + 3 * which);
        }
        qsae__source src = source_of(ctx[seed / 3 % 2], x, QSAE_F32, rows, COLS);
        src.qkv_runs = runs;
        qsae_qmatrix *all, *one;
        assert_int_equal(qsae__prune_encode(&p, &src, &all), QSAE_OK);
        const float *const got = all->codes;
        for (int64_t k = 0; k < 3; k++) {
            for (int64_t i = 0; i < own; i++)
                memcpy(part + i * COLS, x + (i / DIM * 3 * DIM + k * DIM + i % DIM) * COLS,
                       COLS * sizeof *x);
            const qsae__source alone = source_of(ctx[0], part, QSAE_F32, own, COLS);
            assert_int_equal(qsae__prune_encode(&p, &alone, &one), QSAE_OK);
            for (int64_t i = 0; i < own; i++)
                test_same_bytes("row", got + (i / DIM * 3 * DIM + k * DIM + i % DIM) * COLS,
                                (const float *)one->codes + i * COLS, COLS * sizeof *x);
            qsae__qmatrix_unref(&one);
        }
        src.qkv_runs = 0; /* not such a matrix: one limit */
        assert_int_equal(qsae__prune_encode(&p, &src, &one), QSAE_OK);
        differs += memcmp(one->codes, got, (size_t)(rows * COLS) * sizeof *x) != 0;
        qsae__qmatrix_unref(&one);
        qsae__qmatrix_unref(&all);
    }
    assert_true(differs >= 16); /* but where the sparsity is 0 */
    const qsae__prune p = { .kind = QSAE__PRUNE_TENSOR, .sparsity = 0.5, .apart = true };
    qsae__source src = source_of(ctx[0], x, QSAE_F32, 16, COLS);
    qsae_qmatrix *q;
    src.qkv_runs = 1;
    assert_int_equal(qsae__prune_encode(&p, &src, &q), QSAE_EINVAL);
    assert_non_null(strstr(qsae_error_message(), "scope=tl"));
    qsae_context_close(&ctx[0]);
    qsae_context_close(&ctx[1]);
}

static void test_refused(void **state)
{
    qsae_context *ctx = test_context(NULL, 1);
    const float w[8] = { 1 };
    static const struct {
        qsae__prune p;
        const char *part;
    } cases[] = {
        { { .kind = QSAE__PRUNE_PATTERN, .keep = 2, .of = 3 }, "8 inputs" },
        { { .kind = QSAE__PRUNE_PATTERN, .keep = 5, .of = 4 }, "5:4" },
        { { .kind = QSAE__PRUNE_PATTERN, .keep = 0, .of = 0 }, "0:0" },
        { { .kind = QSAE__PRUNE_PATTERN, .keep = 1, .of = 2048 }, "1:2048" },
        { { .kind = QSAE__PRUNE_TENSOR, .sparsity = -0.1 }, "sparsity" },
        { { .kind = QSAE__PRUNE_ROW, .sparsity = (double)NAN }, "sparsity" },
        { { .kind = QSAE__PRUNE_NONE }, "kind" },
    };
    (void)state;
    const qsae__source src = source_of(ctx, w, QSAE_F32, 1, 8);
    for (int64_t i = 0; i < LENGTH(cases); i++) {
        qsae_qmatrix *q = (qsae_qmatrix *)(uintptr_t)w;
        assert_int_equal(qsae__prune_encode(&cases[i].p, &src, &q), QSAE_EINVAL);
        assert_non_null(strstr(qsae_error_message(), cases[i].part));
        assert_null(q);
    }
    qsae_context_close(&ctx);
}

int run_prune(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fixtures),
        cmocka_unit_test(test_large),
        cmocka_unit_test(test_special),
        cmocka_unit_test(test_apart),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests_name("codecs/prune", tests, NULL, NULL);
}
