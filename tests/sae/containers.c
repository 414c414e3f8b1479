/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One SAE in files of other element types and spellings gives the same bits: weights that every
 * type holds, in F64, F16 and BF16 beside F32; matrices turned over; rows of norm 1 that are left
 * alone. A decoder too large to be gone through at once.
 */
#include "sae_test.h"

#include <unistd.h>

#include "kernels/convert.h"
#include "sae/encode.h"

enum { D = 40, F = 300, N = 70 };

typedef struct answers {
    int64_t nnz, indptr[N + 1];
    int32_t indices[N * F];
    float values[N * F], state[2 * N], y[N * D];
    double figures[3][F];
    char hash[64];
} answers;

static answers want, got;
static float x[N * D];

/* Multiples of 1/64 up to 1, which have 7 bits. */
static void coarsen(float *v, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        v[i] = roundf(v[i] * 64) / 64;
}

static void make(test_sae *s)
{
    uint32_t seed = 31;
    test_sae_make(s, D, F, 9);
    coarsen(s->w_enc, D * F);
    coarsen(s->w_dec, D * F);
    coarsen(s->b_enc, F);
    coarsen(s->b_dec, D);
    coarsen(s->threshold, F);
    for (int64_t i = 0; i < D; i++) /* a dead feature */
        s->w_dec[7 * D + i] = 0;
    for (int i = 0; i < N * D; i++)
        x[i] = next_float(&seed);
}

static void *as_type(const float *v, int64_t n, int32_t dtype)
{
    void *const out = calloc((size_t)n, 8);
    assert_non_null(out);
    for (int64_t i = 0; dtype == QSAE_F64 && i < n; i++)
        ((double *)out)[i] = v[i];
    if (dtype != QSAE_F64)
        assert_true(qsae__from_f32(dtype, v, n, out));
    return out;
}

static qsae__tensor tensor_of(const char *name, const float *v, int64_t rows, int64_t cols,
                              int32_t dtype)
{
    const int64_t n = rows * (cols ? cols : 1);
    return (qsae__tensor){ .name = name, .data = as_type(v, n, dtype), .dtype = dtype,
                           .shape = { rows, cols }, .rank = cols ? 2 : 1,
                           .bytes = (uint64_t)n * (uint64_t)qsae_dtype_bits(dtype) / 8 };
}

static void write_and_free(qsae_context *ctx, const char *name, qsae__tensor *t, int64_t n)
{
    assert_ok(qsae__safetensors_write(ctx, test_path(name), t, n));
    for (int64_t i = 0; i < n; i++)
        free((void *)(uintptr_t)t[i].data);
}

static void save(qsae_context *ctx, const test_sae *s, const char *config, int32_t dtype)
{
    qsae__tensor t[] = { tensor_of("W_enc", s->w_enc, D, F, dtype),
                         tensor_of("W_dec", s->w_dec, F, D, dtype),
                         tensor_of("b_enc", s->b_enc, F, 0, dtype),
                         tensor_of("b_dec", s->b_dec, D, 0, dtype),
                         tensor_of("threshold", s->threshold, F, 0, dtype),
                         { .name = NULL } };
    const bool skip = strstr(config, "skip") != NULL;
    if (skip)
        t[5] = tensor_of("W_skip", s->w_enc, D, D, dtype);
    write_and_free(ctx, "sae_weights.safetensors", t, skip ? 6 : 5);
    test_write("cfg.json", config, strlen(config));
}

/* Everything that is computed with the SAE of a folder. */
static void ask(qsae_context *ctx, int32_t dtype, answers *out)
{
    static const char *const figures[] = { "encoder_norm", "decoder_norm", "decoder_max_cosine" };
    qsae_sae *sae;
    qsae_sae_settings s;
    qsae_sae_info info = { .struct_size = sizeof info };
    const qsae_rows rx = test_rows(x, N, D);
    qsae_rows ry = test_rows(out->y, N, D);
    qsae_sae_settings_init(&s, sizeof s);
    s.dtype = dtype;
    assert_ok(qsae_sae_open(ctx, test_folder, &s, &sae));
    assert_ok(qsae_sae_get_info(sae, &info));
    snprintf(out->hash, sizeof out->hash, "%s", info.hash);
    assert_ok(qsae_sae_encode_sparse(sae, &rx, out->indptr, out->indices, out->values, N * F,
                                     out->state, &out->nnz));
    assert_ok(qsae_sae_reconstruct(sae, &rx, &ry));
    for (int i = 0; i < 3; i++)
        assert_ok(qsae_sae_features(sae, figures[i], out->figures[i], F));
    qsae_sae_close(&sae);
}

static void assert_same_answers(const char *what)
{
    const size_t n = (size_t)want.nnz;
    assert_in_range(want.nnz, N, N * F - 1);
    if (got.nnz != want.nnz || memcmp(want.indptr, got.indptr, sizeof want.indptr) != 0 ||
        memcmp(want.indices, got.indices, n * sizeof *want.indices) != 0)
        fail_msg("%s: other features are active", what);
    if (memcmp(want.values, got.values, n * sizeof *want.values) != 0)
        fail_msg("%s: other activations", what);
    if (memcmp(want.y, got.y, sizeof want.y) != 0)
        fail_msg("%s: another reconstruction", what);
    if (memcmp(want.figures, got.figures, sizeof want.figures) != 0)
        fail_msg("%s: other figures of features", what);
    if (strcmp(want.hash, got.hash) != 0)
        fail_msg("%s: another hash", what);
}

#define CFG(rest) "{\"metadata\": {\"sae_lens_version\": \"6.1\"}, \"d_in\": 40, " rest "}"

static void test_types(void **state)
{
    static const char *const configs[] = {
        CFG("\"architecture\": \"standard\""), CFG("\"architecture\": \"jumprelu\""),
        CFG("\"architecture\": \"topk\", \"k\": 9, \"rescale_acts_by_decoder_norm\": true"),
        CFG("\"architecture\": \"batchtopk\""),
        CFG("\"architecture\": \"skip_transcoder\""),
        CFG("\"architecture\": \"matching_pursuit\", \"max_iterations\": 5"),
    };
    static const int32_t types[] = { QSAE_F64, QSAE_F16, QSAE_BF16 };
    static const int32_t stored[] = { 0, QSAE_BF16, QSAE_F16, QSAE_I8 };
    test_sae s;
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    make(&s);
    for (size_t c = 0; c < sizeof configs / sizeof configs[0]; c++)
        for (int k = 0; k < 4; k++) {
            save(ctx, &s, configs[c], QSAE_F32);
            ask(ctx, stored[k], &want);
            for (int i = 0; i < 3; i++) {
                char what[160];
                snprintf(what, sizeof what, "%s in %s, stored as %s", configs[c],
                         qsae_dtype_name(types[i]), k ? qsae_dtype_name(stored[k]) : "it is");
                save(ctx, &s, configs[c], types[i]);
                ask(ctx, stored[k], &got);
                assert_same_answers(what);
            }
        }
    test_sae_free(&s);
    qsae_context_close(&ctx);
}

/* to [cols, rows] of from [rows, cols]. */
static float *turned(const float *from, int64_t rows, int64_t cols)
{
    float *const to = malloc((size_t)(rows * cols) * sizeof *to);
    assert_non_null(to);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++)
            to[c * rows + r] = from[r * cols + c];
    return to;
}

/* As dictionary_learning's AutoEncoder has it, in either spelling. */
static void save_dictionary(qsae_context *ctx, const test_sae *s, bool torch)
{
    static const char config[] = "{\"trainer\": {\"dict_class\": \"AutoEncoder\"}}";
    float *const enc = turned(s->w_enc, D, F), *const dec = turned(s->w_dec, F, D);
    qsae__tensor t[] = { torch ? tensor_of("encoder.weight", enc, F, D, QSAE_F32)
                               : tensor_of("W_enc", s->w_enc, D, F, QSAE_F32),
                         torch ? tensor_of("decoder.weight", dec, D, F, QSAE_F32)
                               : tensor_of("W_dec", s->w_dec, F, D, QSAE_F32),
                         tensor_of(torch ? "encoder.bias" : "b_enc", s->b_enc, F, 0, QSAE_F32),
                         tensor_of(torch ? "bias" : "b_dec", s->b_dec, D, 0, QSAE_F32) };
    write_and_free(ctx, "ae.safetensors", t, 4);
    test_write("config.json", config, strlen(config));
    free(enc);
    free(dec);
}

/* What a fold by decoder norms makes of it, in f32. */
static void fold(test_sae *s)
{
    for (int64_t f = 0; f < F; f++) {
        double sum = 0;
        for (int64_t i = 0; i < D; i++)
            sum += (double)s->w_dec[f * D + i] * s->w_dec[f * D + i];
        const float norm = fmaxf((float)sqrt(sum), 1e-8f);
        for (int64_t i = 0; i < D; i++) {
            s->w_dec[f * D + i] /= norm;
            s->w_enc[i * F + f] *= norm;
        }
        s->b_enc[f] *= norm;
    }
}

/* Both spellings of AutoEncoder are the SAE with decoder rows of norm 1; where they have it, no bit
 * is changed. */
static void test_spellings(void **state)
{
    static const char config[] = CFG("\"architecture\": \"standard\"");
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    for (int unit = 0; unit < 2; unit++) {
        test_sae s;
        make(&s);
        for (int64_t i = 0; unit && i < F * D; i++) /* of norm 1 within an ulp */
            s.w_dec[i] = i % D == i / D % D ? 0.6f : i % D == (i / D + 1) % D ? -0.8f : 0;
        for (int torch = 0; torch < 2; torch++) {
            save_dictionary(ctx, &s, torch);
            ask(ctx, 0, torch ? &got : &want);
            test_remove("ae.safetensors");
            test_remove("config.json");
        }
        assert_same_answers("two spellings");
        if (!unit)
            fold(&s);
        save(ctx, &s, config, QSAE_F32);
        ask(ctx, 0, &got);
        assert_same_answers("folded by hand");
        test_remove("sae_weights.safetensors");
        test_remove("cfg.json");
        test_sae_free(&s);
    }
    qsae_context_close(&ctx);
}

/* batchtopk: a decoder row of norm 0 counts as 1e-8, so its feature cannot reach the threshold. */
static void test_dead_row(void **state)
{
    static const char config[] = CFG("\"architecture\": \"batchtopk\"");
    test_sae s;
    (void)state;
    qsae_context *ctx = open_context(NULL, 1);
    make(&s);
    for (int64_t f = 0; f < F; f++)
        s.threshold[f] = 0x1p-20f;
    s.b_enc[7] = 60; /* the largest pre-activation of all, were its row not 0 */
    save(ctx, &s, config, QSAE_F32);
    ask(ctx, 0, &want);
    for (int64_t e = 0; e < want.nnz; e++)
        assert_int_not_equal(want.indices[e], 7);
    s.w_dec[7 * D] = 1;
    save(ctx, &s, config, QSAE_F32);
    ask(ctx, 0, &got);
    assert_int_equal(got.nnz, want.nnz + N);
    test_sae_free(&s);
    qsae_context_close(&ctx);
}

enum { WIDE = 131072 + 77, LONG = 600, PLACES = 7 };
static const int64_t columns[PLACES] = { 0, 1, 1023, 65536, 131071, 131072, WIDE - 1 };

/* A transcoder whose decoder [LONG, WIDE] is w in some columns and a hole in the file beside. */
static void save_wide(float w[LONG][PLACES])
{
    static const char config[] =
        "{\"d_in\": 4, \"d_out\": 131149, \"architecture\": \"transcoder\", "
        "\"apply_b_dec_to_input\": false, \"metadata\": {\"sae_lens_version\": \"6.1\"}}";
    const long long enc = 4 * LONG * 4, b_enc = enc + LONG * 4, b_dec = b_enc + WIDE * 4,
                    dec = b_dec + (long long)LONG * WIDE * 4;
    const uint64_t size = 504; /* of the header, filled up with spaces */
    char header[512] = "";
    const int used = snprintf(
        header + 8, sizeof header - 8,
        "{\"W_enc\":{\"dtype\":\"F32\",\"shape\":[4,600],\"data_offsets\":[0,%lld]},"
        "\"b_enc\":{\"dtype\":\"F32\",\"shape\":[600],\"data_offsets\":[%lld,%lld]},"
        "\"b_dec\":{\"dtype\":\"F32\",\"shape\":[131149],\"data_offsets\":[%lld,%lld]},"
        "\"W_dec\":{\"dtype\":\"F32\",\"shape\":[600,131149],\"data_offsets\":[%lld,%lld]}}",
        enc, enc, b_enc, b_enc, b_dec, b_dec, dec);
    assert_in_range(used, 100, 503);
    memset(header + 8 + used, ' ', size - (size_t)used);
    memcpy(header, &size, sizeof size);
    test_write("sae_weights.safetensors", header, sizeof header);
    assert_int_equal(truncate(test_path("sae_weights.safetensors"), 512 + dec), 0);
    FILE *const f = fopen(test_path("sae_weights.safetensors"), "r+b");
    assert_non_null(f);
    for (int64_t i = 0; i < LONG; i++)
        for (int c = 0; c < PLACES; c++) {
            const long at = (long)(512 + b_dec + (i * WIDE + columns[c]) * 4);
            assert_int_equal(fseek(f, at, SEEK_SET), 0);
            assert_int_equal(fwrite(&w[i][c], 4, 1, f), 1);
        }
    assert_int_equal(fclose(f), 0);
    test_write("cfg.json", config, strlen(config));
}

/* A decoder of more than 256 MiB: rows are decoded one by one, and pages given back; the definition
 * is the same sum. */
static void test_large_decoder(void **state)
{
    enum { ROWS = 50, EACH = 8 };
    static int32_t indices[ROWS * EACH];
    static float values[ROWS * EACH], w[LONG][PLACES];
    int64_t indptr[ROWS + 1];
    qsae_sae *sae;
    uint32_t seed = 5;
    (void)state;
    for (int i = 0; i < LONG * PLACES; i++)
        w[i / PLACES][i % PLACES] = next_float(&seed);
    save_wide(w);
    qsae_context *ctx = open_context(NULL, 2);
    assert_ok(qsae_sae_open(ctx, test_folder, NULL, &sae));
    assert_true(sae->w_dec->bytes > (uint64_t)1 << 28);
    for (int64_t r = 0; r <= ROWS; r++)
        indptr[r] = r * EACH;
    for (int64_t e = 0; e < ROWS * EACH; e++) {
        indices[e] = (int32_t)(e / EACH + 70 * (e % EACH)); /* ascending */
        values[e] = next_float(&seed);
    }
    float *const out = malloc((size_t)ROWS * WIDE * sizeof *out);
    qsae_rows ry = test_rows(out, ROWS, WIDE);
    assert_ok(qsae_sae_decode_sparse(sae, ROWS, indptr, indices, values, NULL, &ry));
    for (int64_t r = 0; r < ROWS; r++) {
        for (int c = 0; c < PLACES; c++) {
            double sum = 0;
            for (int64_t e = indptr[r]; e < indptr[r + 1]; e++)
                sum += (double)values[e] * w[indices[e]][c];
            assert_true(out[r * WIDE + columns[c]] == (float)sum);
        }
        for (int64_t i = 2; i < 1000; i++)
            assert_true(out[r * WIDE + i] == 0);
    }
    free(out);
    qsae_sae_close(&sae);
    qsae_context_close(&ctx);
}

static void test_settings(void **state)
{
    qsae_sae *sae = NULL;
    qsae_sae_settings s, plain;
    (void)state;
    qsae_context *ctx = open_context("c", 1);
    qsae_sae_settings_init(&plain, sizeof plain);
    s = plain;
    s.center_input = 2;
    assert_fails(qsae_sae_open(ctx, test_folder, &s, &sae), QSAE_EINVAL, "center_input -1");
    s.center_input = -2;
    assert_fails(qsae_sae_open(ctx, test_folder, &s, &sae), QSAE_EINVAL, "center_input -1");
    s = plain;
    s.reserved = 1;
    assert_fails(qsae_sae_open(ctx, test_folder, &s, &sae), QSAE_EINVAL, "reserved 0");
    s = plain;
    s.reserved2 = 1;
    assert_fails(qsae_sae_open(ctx, test_folder, &s, &sae), QSAE_EINVAL, "reserved 0");
    s = plain;
    s.dtype = QSAE_F64;
    assert_fails(qsae_sae_open(ctx, test_folder, &s, &sae), QSAE_EINVAL, "dtype must be 0, F32");
    assert_null(sae);
    qsae_context_close(&ctx);
}

const struct CMUnitTest container_tests[] = {
    cmocka_unit_test(test_types),
    cmocka_unit_test(test_spellings),
    cmocka_unit_test(test_dead_row),
    cmocka_unit_test(test_large_decoder),
    cmocka_unit_test(test_settings),
};
const size_t n_container_tests = sizeof container_tests / sizeof container_tests[0];
