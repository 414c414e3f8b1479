/* SPDX-License-Identifier: BSD-2-Clause */
/* Where the values to encode lie: tensors of a file begin at any byte, rows may have gaps, and a
 * transposed matrix is read down its columns. What comes of them is the same. */
#include <stdio.h>
#include <string.h>

#include "tests.h"

#define OUT 24
#define IN 256
#define GAP 5

/* The matrix at data + shift, element (row, col) at row * out_stride + col * in_stride. */
struct form {
    const char *name;
    size_t shift;
    int64_t out_stride, in_stride;
};

static const struct form forms[] = {
    { "rows", 0, IN, 1 },          { "rows at an odd address", 1, IN, 1 },
    { "rows with gaps", 0, IN + GAP, 1 }, { "rows with gaps at an odd address", 1, IN + GAP, 1 },
    { "columns", 0, 1, OUT },      { "columns at an odd address", 1, 1, OUT },
    { "rows at an even address", 2, IN, 1 },
};

static const char *const specs[] = {
    "none", "nf4", "nf4:double=0,rules=torch", "fp4:block=128", "llm.int8", "llm.int8:rules=torch",
    "rtn:bits=4", "rtn:bits=3,group=64,sym=0", "rtn:axis=column", "rtn:axis=tensor",
    "rtn:bits=6,axis=tl", "ggml:q8_0", "ggml:q4_k", "ggml:iq4_nl", "none+prune:sparsity=0.5",
    "none+prune:pattern=2:4", "none+prune:sparsity=0.3,scope=row,ties=first",
    "control:gauss(nf4)", "control:permute(rtn:bits=4)", "none:weights=bf16", "none:weights=f16",
};

static qsae_qmatrix *encode(qsae_context *ctx, const qsae__condition *c, int32_t dtype,
                            const char *data, const struct form *f)
{
    const qsae__source src = { .ctx = ctx, .data = data + f->shift, .dtype = dtype, .n_out = OUT,
                               .n_in = IN, .out_stride = f->out_stride,
                               .in_stride = f->in_stride };
    qsae_qmatrix *q = NULL;
    if (qsae__qmatrix_encode(ctx, c, &src, 3, &q) != QSAE_OK)
        fail_msg("%s, %s: %s", c->canonical, f->name, qsae_error_message());
    return q;
}

static void same(const qsae_qmatrix *a, const qsae_qmatrix *b, const char *what)
{
    const int32_t n = qsae_qmatrix_field_count(a);
    assert_int_equal(n, qsae_qmatrix_field_count(b));
    assert_true(n > 0);
    for (int32_t i = 0; i < n; i++) {
        qsae_field x = { .struct_size = sizeof x }, y = x;
        assert_int_equal(qsae_qmatrix_field(a, i, &x), QSAE_OK);
        assert_int_equal(qsae_qmatrix_field(b, i, &y), QSAE_OK);
        assert_string_equal(x.name, y.name);
        assert_int_equal(x.bytes, y.bytes);
        test_same_bytes(what, x.data, y.data, (size_t)x.bytes);
    }
}

static void test_forms(void **state)
{
    static const int32_t dtypes[] = { QSAE_F32, QSAE_BF16, QSAE_F16 };
    static float values[OUT * IN];
    static char plain[OUT * IN * 4];
    static _Alignas(64) char data[2 + OUT * (IN + GAP) * 4];
    qsae_context *ctx[TEST_CONTEXTS];
    const int64_t n = test_contexts(ctx);
    (void)state;
    test_random(77, values, OUT * IN);
    values[3 * IN + 7] = 9; /* an outlier */
    for (int64_t k = 0; k < n * LENGTH(dtypes); k++) {
        const int32_t dtype = dtypes[k / n];
        const size_t size = (size_t)qsae_dtype_bits(dtype) / 8;
        assert_true(qsae__from_f32(dtype, values, OUT * IN, plain));
        for (int64_t s = 0; s < LENGTH(specs); s++) {
            qsae__condition c;
            qsae_qmatrix *want = NULL;
            assert_int_equal(qsae__condition_parse(ctx[k % n], specs[s], &c), QSAE_OK);
            for (int64_t f = 0; f < LENGTH(forms); f++) {
                memset(data, 0x7f, sizeof data); /* what lies in gaps is NaN */
                for (int64_t r = 0; r < OUT; r++)
                    for (int64_t i = 0; i < IN; i++)
                        memcpy(data + forms[f].shift +
                                   (size_t)(r * forms[f].out_stride + i * forms[f].in_stride) *
                                       size, plain + (size_t)(r * IN + i) * size, size);
                char what[160];
                snprintf(what, sizeof what, "%s, %s, %s", specs[s], qsae_dtype_name(dtype),
                         forms[f].name);
                qsae_qmatrix *q = encode(ctx[k % n], &c, dtype, data, &forms[f]);
                if (f == 0)
                    want = q;
                else
                    same(q, want, what);
                if (f > 0)
                    qsae__qmatrix_unref(&q);
            }
            qsae__qmatrix_unref(&want);
            qsae__condition_free(ctx[k % n], &c);
        }
    }
    test_contexts_close(ctx, n);
}

int run_sources(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_forms) };
    return cmocka_run_group_tests_name("codecs/sources", tests, NULL, NULL);
}
