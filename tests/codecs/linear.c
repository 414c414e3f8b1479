/* SPDX-License-Identifier: BSD-2-Clause */
/* The layer model/ sees: every codec against its decoded weight, in the defined order of sums. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tests.h"

#define IN 300
#define OUT 70
#define ROWS 19

static float weight[OUT * IN], input[ROWS * IN], bias[OUT];

static int fill(void **state)
{
    (void)state;
    test_random(1, weight, OUT * IN);
    test_random(2, input, ROWS * IN);
    test_random(3, bias, OUT);
    for (int64_t i = 0; i < OUT * IN; i++)
        weight[i] *= 0.05f;
    for (int64_t i = 0; i < ROWS; i++)
        input[i * IN + 17] *= 10; /* an outlier column */
    return 0;
}

struct plan {
    const char *spec;
    int32_t dtype;     /* of the activations */
    int32_t compute;   /* dtype the weight is decoded to */
};

static const struct plan plans[] = {
    { "none", QSAE_F32, QSAE_F32 },
    { "none", QSAE_BF16, QSAE_BF16 },
    { "none:weights=bf16", QSAE_F32, QSAE_F32 },
    { "none:weights=f16", QSAE_BF16, QSAE_BF16 },
    { "nf4", QSAE_F32, QSAE_F32 },
    { "nf4", QSAE_BF16, QSAE_BF16 },
    { "nf4:compute=bf16", QSAE_F32, QSAE_BF16 },
    { "nf4:compute=f32,block=32,double=0", QSAE_BF16, QSAE_F32 },
    { "nf4:compute=f16,rules=torch", QSAE_BF16, QSAE_F16 },
    { "fp4:block=128", QSAE_BF16, QSAE_BF16 },
    { "rtn:bits=5", QSAE_F32, QSAE_F32 },
    { "rtn:bits=3,group=64,sym=0", QSAE_BF16, QSAE_BF16 },
    { "rtn:bits=8,axis=tl", QSAE_BF16, QSAE_BF16 },
    { "rtn:bits=6,axis=column", QSAE_F32, QSAE_F32 },
    { "rtn:bits=6,axis=tensor,sym=0", QSAE_BF16, QSAE_BF16 },
    { "llm.int8", QSAE_F32, 0 },
    { "llm.int8", QSAE_BF16, 0 },
    { "llm.int8:rules=torch,threshold=0", QSAE_BF16, 0 },
};

static qsae__linear_weight plain_weight(const void *data, int32_t dtype, int64_t heads)
{
    return (qsae__linear_weight){ .data = data, .dtype = dtype, .n_out = OUT, .n_in = IN,
                                  .out_stride = IN, .in_stride = 1, .bias = bias,
                                  .bias_dtype = QSAE_F32, .heads = heads };
}

static qsae__linear *open_linear(qsae_context *ctx, const char *spec, const qsae__linear_weight *w,
                                 int32_t dtype)
{
    qsae__condition c;
    qsae__linear *l = NULL;
    if (qsae__condition_parse(ctx, spec, &c) || qsae__linear_open(ctx, &c, w, dtype, &l))
        fail_msg("%s: %s", spec, qsae_error_message());
    qsae__condition_free(ctx, &c);
    return l;
}

/* Activations of dtype. */
static void activations(int32_t dtype, float *x)
{
    for (int64_t i = 0; i < ROWS * IN; i++)
        x[i] = qsae__round_to(dtype, input[i]);
}

/* Subnormals count as zero in the bf16 instructions. */
static float flushed(float v)
{
    return fabsf(v) < FLT_MIN ? copysignf(0, v) : v;
}

/* Steps of 32 values at level amx: two chains each, added to the sum. */
static float dot_amx(int64_t n, const float *x, const float *w, float sum)
{
    for (int64_t k0 = 0; k0 < n; k0 += 32) {
        float part[2] = { 0, 0 };
        for (int64_t k = k0; k < n && k < k0 + 32; k++)
            part[k % 2] = flushed(fmaf(flushed(x[k]), flushed(w[k]), part[k % 2]));
        sum = flushed(sum + flushed(part[0] + part[1]));
    }
    return sum;
}

/* The first 8 bits of significand. */
static float truncated(float v)
{
    return qsae__f32_from_bits(qsae__f32_bits(v) & 0xffff0000u);
}

/* f32 rows in three bf16 parts, the smallest first, block by block. */
static float dot_split(const float *x, const float *w)
{
    float sum = 0, part[3][32 * QSAE__PARTS_BLOCK];
    for (int64_t k0 = 0; k0 < IN; k0 += 32 * QSAE__PARTS_BLOCK) {
        const int64_t n = qsae__min_i64(IN - k0, 32 * QSAE__PARTS_BLOCK);
        float block = 0;
        for (int64_t k = 0; k < n; k++) {
            part[0][k] = truncated(x[k0 + k]);
            part[1][k] = truncated(x[k0 + k] - part[0][k]);
            part[2][k] = x[k0 + k] - part[0][k] - part[1][k];
        }
        for (int i = 2; i >= 0; i--)
            block = dot_amx(n, part[i], w + k0, block);
        sum = k0 ? sum + block : block;
    }
    return sum;
}

/* One element of the product in the order of the level (gemm.h, packed.h). A layer knows that its
 * plain weights are bf16 values, a matrix of the public interface does not. */
static float dot(const qsae_context *ctx, const struct plan *p, bool layer, const float *x,
                 const float *w)
{
    float sum = 0;
    if (layer && ctx->level == QSAE__LEVEL_AMX && strcmp(p->spec, "none:weights=bf16") == 0)
        return dot_split(x, w);
    if (p->compute != QSAE_BF16 || ctx->level < QSAE__LEVEL_AVX512BF16)
        return qsae__gemm_dot(IN, x, w, 1);
    if (ctx->level == QSAE__LEVEL_AMX)
        return dot_amx(IN, x, w, 0);
    for (int64_t k = 0; k < IN; k += 2)
        for (int64_t i = k + 1; i >= k; i--)
            sum = flushed(fmaf(flushed(x[i]), flushed(w[i]), sum));
    return sum;
}

/* A call of one layer. */
static int32_t apply(const qsae__linear *l, int64_t rows, const float *x, int64_t ldx, float *y,
                     int64_t ldy)
{
    const qsae__linear_rows in = { x, QSAE_F32, rows, ldx };
    return qsae__linear_apply(&l, 1, &in, &y, &ldy, NULL, NULL);
}

/* y by the public encoder and decoder and one dot product per output. */
static void expect(qsae_context *ctx, const struct plan *p, bool layer, float *y)
{
    float *x = test_alloc(ROWS * IN, sizeof(float)), *w = test_alloc(OUT * IN, sizeof(float));
    for (int64_t i = 0; i < OUT * IN; i++)
        w[i] = strcmp(p->spec, "none:weights=f16") == 0 ? qsae__round_f16(weight[i]) : weight[i];
    for (int64_t i = 0; i < OUT * IN; i++)
        w[i] = qsae__round_to(p->dtype, w[i]);
    qsae_qmatrix *q = test_encode(ctx, p->spec, w, p->dtype, OUT, IN, 5);
    void *stored = test_decode(q, p->compute);
    assert_true(qsae__to_f32(p->compute, stored, OUT * IN, w));
    activations(p->dtype, x);
    for (int64_t i = 0; i < ROWS * IN; i++)
        x[i] = qsae__round_to(p->compute, x[i]);
    for (int64_t i = 0; i < ROWS; i++)
        for (int64_t o = 0; o < OUT; o++) {
            const float b = qsae__round_to(p->compute, qsae__round_to(p->dtype, bias[o]));
            const float s = dot(ctx, p, layer, x + i * IN, w + o * IN) + b;
            y[i * OUT + o] = qsae__round_to(p->dtype, qsae__round_to(p->compute, s));
        }
    qsae_qmatrix_close(&q);
    test_release(stored);
    test_release(w);
    test_release(x);
}

static void check_public(qsae_context *ctx, const struct plan *p, const float *x, const float *want)
{
    float *w = test_alloc(OUT * IN, sizeof(float)), *y = test_alloc(ROWS * OUT, sizeof(float));
    for (int64_t i = 0; i < OUT * IN; i++)
        w[i] = qsae__round_to(p->dtype, weight[i]);
    qsae_qmatrix *q = test_encode(ctx, p->spec, w, p->dtype, OUT, IN, 5);
    const qsae_rows in = test_rows(x, QSAE_F32, ROWS, IN);
    qsae_rows out = test_rows(y, QSAE_F32, ROWS, OUT);
    assert_int_equal(qsae_qmatrix_linear(q, &in, bias, p->dtype, &out), QSAE_OK);
    test_same_f32(p->spec, y, want, ROWS * OUT);
    qsae_qmatrix_close(&q);
    test_release(y);
    test_release(w);
}

/* All codecs, levels and thread counts: the bits that the definition gives. */
static void test_codecs(void **state)
{
    qsae_context *ctx[TEST_CONTEXTS];
    const int64_t n = test_contexts(ctx);
    float *x = test_alloc(ROWS * IN, sizeof(float)), *want = test_alloc(ROWS * OUT, sizeof(float));
    float *y = test_alloc(ROWS * (OUT + 1), sizeof(float));
    const qsae__linear_weight w = plain_weight(weight, QSAE_F32, 5);
    (void)state;
    for (int64_t p = 0; p < LENGTH(plans); p++) {
        activations(plans[p].dtype, x);
        for (int64_t i = 0; i < n; i++) {
            qsae__linear *l = open_linear(ctx[i], plans[p].spec, &w, plans[p].dtype);
            assert_int_equal(apply(l, ROWS, x, IN, y, OUT + 1), QSAE_OK);
            for (int64_t r = 1; r < ROWS; r++)
                memmove(y + r * OUT, y + r * (OUT + 1), OUT * sizeof(float));
            if (plans[p].compute)
                expect(ctx[i], &plans[p], true, want);
            else if (i == 0)
                memcpy(want, y, ROWS * OUT * sizeof(float));
            test_same_f32(plans[p].spec, y, want, ROWS * OUT);
            qsae__linear_close(&l);
            if (plans[p].compute)
                expect(ctx[i], &plans[p], false, want);
            if (!strstr(plans[p].spec, "weights=f16"))
                check_public(ctx[i], &plans[p], x, want);
        }
    }
    test_release(y);
    test_release(want);
    test_release(x);
    test_contexts_close(ctx, n);
}

/* A Conv1D weight, [in, out], read with strides: the same layer. bf16 and f16 files too. */
static void test_strides(void **state)
{
    static const char *const specs[] = { "none", "nf4", "llm.int8", "rtn:bits=4,group=32",
                                         "rtn:axis=column" };
    static const int32_t dtypes[] = { QSAE_F32, QSAE_BF16, QSAE_F16 };
    qsae_context *ctx = test_context(NULL, 2);
    float *y = test_alloc(ROWS * OUT, sizeof(float)), *want = test_alloc(ROWS * OUT, sizeof(float));
    char *a = test_alloc(OUT * IN, sizeof(float)), *b = test_alloc(OUT * IN, sizeof(float));
    (void)state;
    for (int64_t d = 0; d < LENGTH(dtypes); d++) {
        const size_t size = d ? 2 : 4;
        assert_true(qsae__from_f32(dtypes[d], weight, OUT * IN, a));
        for (int64_t o = 0; o < OUT; o++)
            for (int64_t i = 0; i < IN; i++)
                memcpy(b + (size_t)(i * OUT + o) * size, a + (size_t)(o * IN + i) * size, size);
        for (int64_t s = 0; s < LENGTH(specs); s++) {
            qsae__linear_weight w = plain_weight(a, dtypes[d], 0);
            qsae__linear *l = open_linear(ctx, specs[s], &w, QSAE_BF16);
            assert_int_equal(apply(l, ROWS, input, IN, want, OUT), QSAE_OK);
            qsae__linear_close(&l);
            w.data = b;
            w.out_stride = 1;
            w.in_stride = OUT;
            l = open_linear(ctx, specs[s], &w, QSAE_BF16);
            assert_int_equal(apply(l, ROWS, input, IN, y, OUT), QSAE_OK);
            test_same_f32(specs[s], y, want, ROWS * OUT);
            qsae__linear_close(&l);
        }
    }
    test_release(a);
    test_release(b);
    test_release(y);
    test_release(want);
    qsae_context_close(&ctx);
}

/* A slab cut in two: no bit changes (but for LLM.int8's outliers). */
static void test_slabs(void **state)
{
    qsae_context *ctx = test_context(NULL, 2);
    float *y = test_alloc(ROWS * OUT, sizeof(float)), *z = test_alloc(ROWS * OUT, sizeof(float));
    const qsae__linear_weight w = plain_weight(weight, QSAE_F32, 0);
    (void)state;
    for (int64_t p = 0; p < LENGTH(plans); p++) {
        qsae__linear *l = open_linear(ctx, plans[p].spec, &w, QSAE_F32);
        assert_int_equal(apply(l, ROWS, input, IN, y, OUT), QSAE_OK);
        assert_int_equal(apply(l, 7, input, IN, z, OUT), QSAE_OK);
        assert_int_equal(apply(l, ROWS - 7, input + 7 * IN, IN, z + 7 * OUT, OUT),
                         QSAE_OK);
        if (!qsae__linear_batch_dependent(l))
            test_same_f32(plans[p].spec, y, z, ROWS * OUT);
        assert_int_equal(apply(l, 0, input, IN, z, OUT), QSAE_OK);
        qsae__linear_close(&l);
    }
    test_release(y);
    test_release(z);
    qsae_context_close(&ctx);
}

static void gate_product(const void *self, float *a, const float *b, int64_t n)
{
    const int32_t dtype = *(const int32_t *)self;
    for (int64_t i = 0; i < n; i++)
        a[i] = qsae__round_to(dtype, a[i] * b[i]);
}

/* Layers side by side, of one kind and of several, and a gate over two: the bits of single calls.
 */
static void check_group(qsae_context *ctx, const char *const *specs, int64_t n, int32_t dtype)
{
    qsae__linear *l[3];
    float *y[3], *want[3];
    const int64_t ldy[3] = { OUT, OUT + 2, OUT };
    float *x = test_alloc(ROWS * IN, sizeof(float)), *out = test_alloc(ROWS * OUT, sizeof(float));
    const qsae__linear_weight w = plain_weight(weight, QSAE_F32, 0);
    activations(dtype, x);
    const qsae__linear_rows in = { x, QSAE_F32, ROWS, IN };
    for (int64_t i = 0; i < n; i++) {
        l[i] = open_linear(ctx, specs[i], &w, dtype);
        y[i] = test_alloc(ROWS * (OUT + 2), sizeof(float));
        want[i] = test_alloc(ROWS * OUT, sizeof(float));
        assert_int_equal(apply(l[i], ROWS, x, IN, want[i], OUT), QSAE_OK);
    }
    const qsae__linear *const *const all = (const qsae__linear *const *)l;
    assert_int_equal(qsae__linear_apply(all, n, &in, y, ldy, NULL, NULL), QSAE_OK);
    for (int64_t i = 0; i < n; i++)
        for (int64_t r = 0; r < ROWS; r++)
            test_same_f32(specs[i], y[i] + r * ldy[i], want[i] + r * OUT, OUT);
    for (int half = 0; half <= (dtype == QSAE_BF16); half++) {
        const qsae__linear_gate gate = { gate_product, &dtype, y[0], half ? 2 * OUT : OUT,
                                         half ? QSAE_BF16 : QSAE_F32 };
        assert_int_equal(qsae__linear_apply(all, 2, &in, y, ldy, &gate, NULL), QSAE_OK);
        for (int64_t r = 0; r < ROWS; r++)
            assert_true(qsae__to_f32(gate.dtype, y[0] + r * OUT, OUT, out + r * OUT));
        for (int64_t i = 0; i < ROWS * OUT; i++)
            y[1][i] = qsae__round_to(dtype, want[0][i] * want[1][i]);
        test_same_f32(specs[0], out, y[1], ROWS * OUT);
    }
    for (int64_t i = 0; i < n; i++) {
        qsae__linear_close(&l[i]);
        test_release(y[i]);
        test_release(want[i]);
    }
    test_release(x);
    test_release(out);
}

static void test_groups(void **state)
{
    static const char *const specs[][3] = { { "none", "none", "none" },
                                            { "nf4", "nf4", "nf4" },
                                            { "llm.int8", "llm.int8", "llm.int8" },
                                            { "none", "nf4", "llm.int8" },
                                            { "llm.int8", "llm.int8:threshold=0", "none" },
                                            { "llm.int8", "llm.int8:rules=torch",
                                              "llm.int8:outliers=row" },
                                            { "llm.int8:outliers=row", "llm.int8",
                                              "llm.int8:threshold=5" },
                                            { "none+prune:sparsity=0.3", "none", "control:floor" },
                                            { "rtn:bits=4", "nf4:compute=f32", "fp4" } };
    qsae_context *ctx[TEST_CONTEXTS];
    const int64_t n = test_contexts(ctx);
    (void)state;
    for (int64_t i = 0; i < n; i++)
        for (int64_t s = 0; s < LENGTH(specs); s++) {
            check_group(ctx[i], specs[s], 3, QSAE_F32);
            check_group(ctx[i], specs[s], 3, QSAE_BF16);
        }
    test_contexts_close(ctx, n);
}

/* Rows that come as bf16 values; one packed copy for two layers. */
static void test_half_rows(void **state)
{
    static const char *const specs[] = { "none", "nf4", "llm.int8", "nf4:compute=f32" };
    qsae_context *ctx = test_context(NULL, 2);
    float *x = test_alloc(ROWS * IN, sizeof(float)), *y = test_alloc(ROWS * OUT, sizeof(float));
    float *want = test_alloc(ROWS * OUT, sizeof(float));
    uint16_t *half = test_alloc(ROWS * 2 * IN, sizeof *half);
    qsae__packed_weight *shared = NULL;
    qsae__linear_weight w = plain_weight(weight, QSAE_F32, 0);
    const int64_t ldy = OUT;
    (void)state;
    w.shared = &shared;
    activations(QSAE_BF16, x);
    for (int64_t r = 0; r < ROWS; r++)
        assert_true(qsae__from_f32(QSAE_BF16, x + r * IN, IN, half + r * 2 * IN));
    for (int64_t s = 0; s < LENGTH(specs); s++) {
        qsae__linear *l = open_linear(ctx, specs[s], &w, QSAE_BF16);
        const qsae__linear *const one = l;
        const qsae__linear_rows in = { half, QSAE_BF16, ROWS, 2 * IN };
        assert_int_equal(apply(l, ROWS, x, IN, want, OUT), QSAE_OK);
        assert_int_equal(qsae__linear_apply(&one, 1, &in, &y, &ldy, NULL, NULL), QSAE_OK);
        test_same_f32(specs[s], y, want, ROWS * OUT);
        if (s == 0 && shared) {
            qsae__linear *other = open_linear(ctx, "none", &w, QSAE_BF16);
            assert_int_equal(atomic_load(&shared->refs), 3);
            assert_true(qsae__linear_owns(other));
            assert_int_equal(apply(other, ROWS, x, IN, y, OUT), QSAE_OK);
            test_same_f32("shared", y, want, ROWS * OUT);
            qsae__linear_close(&other);
        }
        qsae__linear_close(&l);
    }
    qsae__packed_close(&shared);
    test_release(x);
    test_release(y);
    test_release(want);
    test_release(half);
    qsae_context_close(&ctx);
}

static void test_facts(void **state)
{
    qsae_context *ctx = test_context(NULL, 1);
    const qsae__linear_weight w = plain_weight(weight, QSAE_F32, 0);
    const uint64_t n = OUT * IN;
    (void)state;
    qsae__linear *l = open_linear(ctx, "nf4", &w, QSAE_BF16);
    assert_int_equal(qsae__linear_out(l), OUT);
    assert_int_equal(qsae__linear_in(l), IN);
    assert_int_equal(qsae__linear_quantized(l), 1);
    assert_int_equal(qsae__linear_batch_dependent(l), 0);
    assert_int_equal(qsae__linear_bytes(l), n / 2 + (n + 63) / 64 + 4 * 2 + 4);
    qsae__linear_close(&l);
    assert_null(l);
    qsae__linear_close(&l);
    l = open_linear(ctx, "llm.int8", &w, QSAE_BF16);
    assert_int_equal(qsae__linear_batch_dependent(l), 1);
    assert_int_equal(qsae__linear_bytes(l), n + 4 * OUT);
    qsae__linear_close(&l);
    l = open_linear(ctx, "llm.int8:threshold=0", &w, QSAE_F32);
    assert_int_equal(qsae__linear_batch_dependent(l), 0);
    qsae__linear_close(&l);
    l = open_linear(ctx, "none", &w, QSAE_F32);
    assert_int_equal(qsae__linear_quantized(l), 0);
    assert_int_equal(qsae__linear_bytes(l), 4 * n);
    qsae__linear_close(&l);
    l = open_linear(ctx, "none:weights=bf16", &w, QSAE_F32);
    assert_int_equal(qsae__linear_bytes(l), 2 * n);
    qsae__linear_close(&l);
    /* what has no code weighs what it would in a checkpoint of the dtype it is rounded to */
    l = open_linear(ctx, "none+prune:sparsity=0.5", &w, QSAE_F32);
    assert_int_equal(qsae__linear_quantized(l), 1);
    assert_int_equal(qsae__linear_bytes(l), 4 * n);
    qsae__linear_close(&l);
    l = open_linear(ctx, "none:weights=f16+prune:sparsity=0.5", &w, QSAE_F32);
    assert_int_equal(qsae__linear_bytes(l), 2 * n);
    qsae__linear_close(&l);
    assert_int_equal(qsae__linear_open(ctx, NULL, &w, QSAE_F32, &l), QSAE_OK);
    qsae__linear_close(&l);
    qsae_context_close(&ctx);
}

/* Values without a code are multiplied as those of a plain weight are. */
static void test_values(void **state)
{
    static const int32_t dtypes[] = { QSAE_F32, QSAE_BF16 };
    qsae_context *ctx[TEST_CONTEXTS];
    const int64_t n = test_contexts(ctx);
    float *y = test_alloc(ROWS * OUT, sizeof(float)), *want = test_alloc(ROWS * OUT, sizeof(float));
    float *w = test_alloc(OUT * IN, sizeof(float));
    (void)state;
    for (int d = 0; d < 2; d++) {
        for (int64_t i = 0; i < OUT * IN; i++)
            w[i] = qsae__round_to(dtypes[d], weight[i]);
        for (int64_t i = 0; i < OUT * IN; i += 4) { /* the later of equals go */
            float part[4];
            memcpy(part, w + i, sizeof part);
            for (int a = 0; a < 4; a++) {
                int larger = 0;
                for (int b = 0; b < 4; b++)
                    larger += fabsf(part[b]) > fabsf(part[a]) ||
                              (fabsf(part[b]) == fabsf(part[a]) && b < a);
                w[i + a] = larger < 2 ? part[a] : 0;
            }
        }
        const qsae__linear_weight from = plain_weight(weight, QSAE_F32, 0);
        const qsae__linear_weight thin = plain_weight(w, QSAE_F32, 0);
        for (int64_t k = 0; k < n; k++) {
            qsae__linear *l = open_linear(ctx[k], "none+prune:pattern=2:4", &from, dtypes[d]);
            assert_int_equal(apply(l, ROWS, input, IN, y, OUT), QSAE_OK);
            qsae__linear_close(&l);
            l = open_linear(ctx[k], "none", &thin, dtypes[d]);
            assert_int_equal(apply(l, ROWS, input, IN, want, OUT), QSAE_OK);
            qsae__linear_close(&l);
            test_same_f32("pruned", y, want, ROWS * OUT);
        }
    }
    test_release(y);
    test_release(want);
    test_release(w);
    test_contexts_close(ctx, n);
}

/* A bias in half precision is that bias in f32. */
static void test_bias(void **state)
{
    static const int32_t dtypes[] = { QSAE_F16, QSAE_BF16 };
    qsae_context *ctx = test_context(NULL, 1);
    float *y = test_alloc(ROWS * OUT, sizeof(float)), *want = test_alloc(ROWS * OUT, sizeof(float));
    uint16_t half[OUT];
    float wide[OUT];
    (void)state;
    for (int i = 0; i < 2; i++) {
        qsae__linear_weight w = plain_weight(weight, QSAE_F32, 0);
        assert_true(qsae__from_f32(dtypes[i], bias, OUT, half));
        assert_true(qsae__to_f32(dtypes[i], half, OUT, wide));
        for (int k = 0; k < 2; k++) {
            w.bias = k ? (const void *)wide : half;
            w.bias_dtype = k ? QSAE_F32 : dtypes[i];
            qsae__linear *l = open_linear(ctx, "rtn", &w, QSAE_F32);
            assert_int_equal(apply(l, ROWS, input, IN, k ? want : y, OUT), QSAE_OK);
            qsae__linear_close(&l);
        }
        test_same_f32(qsae_dtype_name(dtypes[i]), y, want, ROWS * OUT);
        assert_true(memcmp(wide, bias, sizeof wide) != 0);
    }
    test_release(y);
    test_release(want);
    qsae_context_close(&ctx);
}

static void test_refused(void **state)
{
    qsae_context *ctx = test_context(NULL, 1);
    qsae__linear_weight w = plain_weight(weight, QSAE_F64, 0);
    qsae__condition c;
    qsae__linear *l = NULL;
    (void)state;
    assert_int_equal(qsae__linear_open(ctx, NULL, &w, QSAE_F32, &l), QSAE_EUNSUPPORTED);
    assert_non_null(strstr(qsae_error_message(), "F64"));
    w = plain_weight(weight, QSAE_F32, 0);
    assert_int_equal(qsae__linear_open(ctx, NULL, &w, QSAE_F16, &l), QSAE_EINVAL);
    w.bias_dtype = QSAE_I8;
    assert_int_equal(qsae__linear_open(ctx, NULL, &w, QSAE_F32, &l), QSAE_EUNSUPPORTED);
    w = plain_weight(weight, QSAE_F32, 0);
    w.n_in = 0;
    assert_int_equal(qsae__linear_open(ctx, NULL, &w, QSAE_F32, &l), QSAE_EINVAL);
    w = plain_weight(weight, QSAE_F32, 0);
    w.n_out = 0;
    assert_int_equal(qsae__linear_open(ctx, NULL, &w, QSAE_F32, &l), QSAE_EINVAL);
    assert_non_null(strstr(qsae_error_message(), "0 x 300, expected at least 1 x 1"));
    w = plain_weight(weight, QSAE_F32, 3);
    assert_int_equal(qsae__condition_parse(ctx, "rtn:axis=tl", &c), QSAE_OK);
    assert_int_equal(qsae__linear_open(ctx, &c, &w, QSAE_F32, &l), QSAE_EINVAL);
    qsae__condition_free(ctx, &c);
    assert_int_equal(qsae__condition_parse(ctx, "llm.int8", &c), QSAE_OK);
    w.n_in = 140000;
    w.n_out = 1;
    w.in_stride = 0; /* nothing is read before the refusal */
    assert_int_equal(qsae__linear_open(ctx, &c, &w, QSAE_F32, &l), QSAE_EUNSUPPORTED);
    assert_non_null(strstr(qsae_error_message(), "140000"));
    qsae__condition_free(ctx, &c);
    assert_null(l);
    qsae_context_close(&ctx);
}

int run_linear(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_codecs), cmocka_unit_test(test_strides), cmocka_unit_test(test_slabs),
        cmocka_unit_test(test_groups), cmocka_unit_test(test_half_rows),
        cmocka_unit_test(test_facts),  cmocka_unit_test(test_refused),
        cmocka_unit_test(test_bias),   cmocka_unit_test(test_values),
    };
    return cmocka_run_group_tests_name("codecs/linear", tests, fill, NULL);
}
