/* SPDX-License-Identifier: BSD-2-Clause */
/* Weight codecs: codes, decoded values, errors and products; token ids; LLM.int8's activations. */
#include "same.h"

#include "kernels/kernels.h"

typedef struct codec_case {
    const char *spec;
    int32_t dtype; /* of the weight */
} codec_case;

/* The fixed functions of their inputs, then those that have f32 sums. */
static const codec_case list[] = {
    { "none:weights=f16", QSAE_F32 }, { "none:weights=bf16", QSAE_F32 },
    { "nf4", QSAE_BF16 }, { "nf4:double=0,block=4096", QSAE_F32 }, { "nf4:rules=torch", QSAE_F16 },
    { "fp4", QSAE_F32 }, { "fp4:rules=torch,block=32", QSAE_BF16 },
    { "llm.int8", QSAE_F16 }, { "llm.int8:rules=torch", QSAE_F32 },
    { "rtn", QSAE_F32 }, { "rtn:axis=column,sym=0", QSAE_F32 },
    { "rtn:axis=tl,bits=4,group=8", QSAE_F32 }, { "rtn:axis=tensor,bits=2", QSAE_BF16 },
    { "rtn:bits=3,group=32,sym=0,arith=weight", QSAE_F16 },
    { "ggml:q4_0", QSAE_F32 }, { "ggml:q4_1", QSAE_F32 }, { "ggml:q5_0", QSAE_BF16 },
    { "ggml:q5_1", QSAE_F32 }, { "ggml:q8_0", QSAE_F16 }, { "ggml:q2_k", QSAE_F32 },
    { "ggml:q3_k", QSAE_F32 }, { "ggml:q4_k", QSAE_F32 }, { "ggml:q5_k", QSAE_BF16 },
    { "ggml:q6_k", QSAE_F32 }, { "ggml:iq4_nl", QSAE_F32 }, { "ggml:iq4_xs", QSAE_F32 },
    { "control:gauss(nf4)", QSAE_F32 }, { "control:permute(rtn:bits=4)", QSAE_F32 },
};
#define CASES (sizeof list / sizeof list[0])
#define COLS 512

static qsae_rows rows_of(void *data, int32_t dtype, int64_t n, int64_t cols)
{
    return (qsae_rows){ .struct_size = sizeof(qsae_rows), .data = data, .n_rows = n,
                        .n_cols = cols, .row_stride = cols, .dtype = dtype };
}

static void *weight_of(same_run *r, int32_t dtype, int64_t n)
{
    const size_t size = dtype == QSAE_F32 ? 4 : 2;
    char *const w = same_array(r, n, size);
    uint32_t seed = 4242;
    for (int64_t i = 0; i < n; i++) {
        /* a sum of four is nearly normal, and exact: 24 bits at most */
        int32_t sum = -(1 << 23);
        for (int k = 0; k < 4; k++)
            sum += (int32_t)(next_random(&seed) >> 10);
        const float x = (float)sum * (i % 97 == 13 ? 0x1p-20f : 0x1p-24f);
        const uint32_t bits = qsae__f32_bits(x);
        const uint16_t half = dtype == QSAE_BF16 ? (uint16_t)(bits >> 16)
                                                 : (uint16_t)(sum & 0xbfff);
        memcpy(w + (size_t)i * size, size == 4 ? (const void *)&x : &half, size);
    }
    return w;
}

/* Codes and decoded values. */
static void compute_codes(same_run *r, const void *argument)
{
    const codec_case *const c = argument;
    const int64_t n = same_full ? 1024 : 24;
    qsae_quantizer *z = NULL;
    qsae_qmatrix *m = NULL;
    const qsae_rows w = rows_of(weight_of(r, c->dtype, n * COLS), c->dtype, n, COLS);
    SAME_CALL(r, qsae_quantizer_open(r->ctx, c->spec, &z));
    SAME_CALL(r, qsae_quantizer_encode(z, &w, 0, 0, &m));
    for (int32_t i = 0; i < qsae_qmatrix_field_count(m); i++) {
        qsae_field f = { .struct_size = sizeof f };
        SAME_CALL(r, qsae_qmatrix_field(m, i, &f));
        same_add(r, f.data, (int64_t)f.bytes, 1);
    }
    static const int32_t dtypes[] = { QSAE_F32, QSAE_BF16, QSAE_F16 };
    for (int i = 0; i < 3; i++) {
        void *const y = same_array(r, n * COLS, i ? 2 : 4);
        qsae_rows out = rows_of(y, dtypes[i], n, COLS);
        SAME_CALL(r, qsae_qmatrix_decode(m, &out));
        same_add(r, y, n * COLS, i ? 2 : 4);
    }
    qsae_qmatrix_close(&m);
    qsae_quantizer_close(&z);
}

/* y = x W^T and the error of the weight. */
static void compute_linear(same_run *r, const void *argument, int32_t dtype)
{
    const codec_case *const c = argument;
    const int64_t n_out = 40, n = same_full ? 200 : 17;
    qsae_quantizer *z = NULL;
    qsae_qmatrix *m = NULL;
    const qsae_rows w = rows_of(weight_of(r, c->dtype, n_out * COLS), c->dtype, n_out, COLS);
    qsae_weight_error e = { .struct_size = sizeof e };
    float *const x = same_array(r, n * COLS, sizeof *x), *const y = same_array(r, n * n_out, 4);
    float *const bias = same_array(r, n_out, sizeof *bias);
    uint32_t seed = 31;
    for (int64_t i = 0; i < n * COLS; i++) /* columns 3 and 200: outliers of LLM.int8 */
        x[i] = same_short(&seed, i % COLS == 3 || i % COLS == 200 ? 5 : 2);
    same_numbers(&seed, bias, n_out, 0, false);
    SAME_CALL(r, qsae_quantizer_open(r->ctx, c->spec, &z));
    SAME_CALL(r, qsae_quantizer_encode(z, &w, 0, 0, &m));
    SAME_CALL(r, qsae_qmatrix_error(m, &w, &e));
    const bool whole = strncmp(c->spec, "llm.int8", 8) == 0; /* columns are chosen from all rows */
    for (int64_t q = 0, k; q < n; q += k) {
        k = whole ? n : same_step(r, q, n);
        const qsae_rows in = rows_of(x + q * COLS, QSAE_F32, k, COLS);
        qsae_rows out = rows_of(y + q * n_out, QSAE_F32, k, n_out);
        SAME_CALL(r, qsae_qmatrix_linear(m, &in, bias, dtype, &out));
    }
    same_add(r, y, n * n_out, sizeof *y);
    const double figures[] = { e.frobenius_relative, e.sqnr_db, e.max_abs, e.mean_abs,
                               e.weight_norm, e.zeros, e.bits_per_weight };
    same_add(r, figures, 7, sizeof figures[0]);
    qsae_qmatrix_close(&m);
    qsae_quantizer_close(&z);
}

static void compute_f32(same_run *r, const void *argument)
{
    compute_linear(r, argument, QSAE_F32);
}

static void compute_bf16(same_run *r, const void *argument)
{
    compute_linear(r, argument, QSAE_BF16);
}

/* Row scales, codes and outlier columns of activations. */
static void compute_int8(same_run *r, const void *argument)
{
    const int64_t n = same_full ? 2000 : 33, cols = 300;
    float *const x = same_array(r, n * cols, sizeof *x), *const scales = same_array(r, n, 4);
    int8_t *const codes = same_array(r, n * cols, 1);
    uint8_t *const outlier = same_array(r, cols, 1);
    const qsae_rows rows = rows_of(x, QSAE_F32, n, cols);
    uint32_t seed = 71;
    (void)argument;
    same_numbers(&seed, x, n * cols, 2, true);
    for (int64_t i = 0; i < n; i += 5)
        x[i * cols + 7] *= 4;
    SAME_CALL(r, qsae_int8_quantize(r->ctx, &rows, 6, codes, scales, outlier));
    same_add(r, codes, n * cols, 1);
    same_add(r, scales, n, sizeof *scales);
    same_add(r, outlier, cols, 1);
}

/* Ids of a text by every kind of tokenizer. */
static void compute_ids(same_run *r, const void *argument)
{
    static const char *const words[] = { "The ", "quick", " brown fox", "\n\n", "  ", "12345.678 ",
                                         "na\xc3\xafve ", "\xe6\x97\xa5\xe6\x9c\xac", "don't ",
                                         "\xf0\x9f\x98\x80", "def f(x):\n\treturn x\n", "e" };
    const int64_t most = same_full ? 20000 : 300;
    char path[600];
    qsae_tokenizer *t = NULL;
    char *const text = same_array(r, most + 32, 1);
    int32_t *const ids = same_array(r, 4 * most, sizeof *ids);
    int64_t n = 0, count = 0;
    uint32_t seed = 17;
    while (n < most) {
        const char *const w = words[next_random(&seed) % (sizeof words / sizeof words[0])];
        memcpy(text + n, w, strlen(w));
        n += (int64_t)strlen(w);
    }
    snprintf(path, sizeof path, QSAE_TEST_DATA "/tokenizers/%s.tokenizer.json",
             (const char *)argument);
    SAME_CALL(r, qsae_tokenizer_open(r->ctx, path, &t));
    SAME_CALL(r, qsae_tokenizer_encode(t, text, (size_t)n, 1, ids, 4 * most, &count));
    same_add(r, ids, count, sizeof *ids);
    qsae_tokenizer_close(&t);
}

size_t same_codecs(same_case *cases, size_t most)
{
    static const char *const tokenizers[] = { "gemma", "gpt2", "llama3", "neox", "qwen",
                                              "unigram_albert", "unigram_bytes" };
    static char names[3 * CASES + 10][80];
    size_t n = 0;
    assert_true(3 * CASES + 10 <= most);
    for (size_t i = 0; i < CASES; i++) {
        const char *const dtype = qsae_dtype_name(list[i].dtype);
        snprintf(names[n], sizeof names[0], "codes:%s:%s", list[i].spec, dtype);
        cases[n] = (same_case){ names[n], SAME_EVERYWHERE, compute_codes, &list[i] };
        n++;
        snprintf(names[n], sizeof names[0], "linear:%s:%s:f32", list[i].spec, dtype);
        cases[n] = (same_case){ names[n], SAME_F32, compute_f32, &list[i] };
        n++;
        snprintf(names[n], sizeof names[0], "linear:%s:%s:bf16", list[i].spec, dtype);
        cases[n] = (same_case){ names[n], SAME_BF16, compute_bf16, &list[i] };
        n++;
    }
    cases[n++] = (same_case){ "int8_quantize", SAME_EVERYWHERE, compute_int8, NULL };
    for (size_t i = 0; i < sizeof tokenizers / sizeof tokenizers[0]; i++, n++) {
        snprintf(names[n], sizeof names[0], "ids:%s", tokenizers[i]);
        cases[n] = (same_case){ names[n], SAME_EVERYWHERE, compute_ids, tokenizers[i] };
    }
    return n;
}
