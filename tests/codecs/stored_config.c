/* SPDX-License-Identifier: BSD-2-Clause */
/* quantization_config of checkpoints: what is refused, and layouts that no fixture has. */
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "codecs/stored.h"
#include "tests.h"

#define CHECK(call) \
    do { \
        if ((call) != QSAE_OK) \
            fail_msg("%s: %s", #call, qsae_error_message()); \
    } while (0)

#define FP8(rest) "{\"quant_method\":\"fp8\"" rest "}"
#define CT(rest) "{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\"," rest "}"
#define GROUP(weights, rest) \
    CT("\"config_groups\":{\"g\":{\"targets\":[\"Linear\"],\"weights\":{" weights "}" rest "}}")
#define INT4 "\"num_bits\":4,\"group_size\":32,\"strategy\":\"group\""

static const struct {
    const char *text;
    int32_t status;
    const char *part;
} configs[] = {
    { "[]", QSAE_EFORMAT, "" },
    { "{\"quant_method\":\"mxfp4\"}", QSAE_EUNSUPPORTED, "mxfp4" },
    { "{\"quant_method\":\"quanto\"}", QSAE_EUNSUPPORTED, "quanto" },
    { "{\"quant_method\":\"gptq\"}", QSAE_EFORMAT, "bits" },
    { "{\"quant_method\":\"gptq\",\"bits\":\"4\"}", QSAE_EFORMAT, "bits" },
    { "{\"quant_method\":\"gptq\",\"bits\":5}", QSAE_EUNSUPPORTED, "bits" },
    { "{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":0}", QSAE_EFORMAT, "group_size" },
    { "{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":-2}", QSAE_EFORMAT, "group_size" },
    { "{\"quant_method\":\"gptq\",\"bits\":4,\"checkpoint_format\":\"marlin\"}",
      QSAE_EUNSUPPORTED, "marlin" },
    { "{\"quant_method\":\"gptq\",\"bits\":4,\"dynamic\":{\"a\":{}}}", QSAE_EUNSUPPORTED,
      "dynamic" },
    { "{\"quant_method\":\"gptq\",\"bits\":4,\"desc_act\":1}", QSAE_EFORMAT, "desc_act" },
    { "{\"quant_method\":\"awq\",\"bits\":3}", QSAE_EUNSUPPORTED, "bits" },
    { "{\"quant_method\":\"awq\",\"version\":\"gemv\"}", QSAE_EUNSUPPORTED, "gemv" },
    { "{\"quant_method\":\"awq\",\"zero_point\":false}", QSAE_EUNSUPPORTED, "zero_point" },
    { "{\"quant_method\":\"awq\",\"group_size\":0}", QSAE_EFORMAT, "group_size" },
    { "{\"quant_method\":\"fp8\",\"weight_block_size\":[128]}", QSAE_EFORMAT, "block" },
    { "{\"quant_method\":\"fp8\",\"weight_block_size\":[0,128]}", QSAE_EFORMAT, "block" },
    { "{\"quant_method\":\"fp8\",\"weight_block_size\":7}", QSAE_EFORMAT, "block" },
    { "{\"quant_method\":\"fp8\",\"fmt\":\"e5m2\"}", QSAE_EUNSUPPORTED, "e5m2" },
    { "{\"quant_method\":\"gptq\",\"bits\":33}", QSAE_EFORMAT, "bits" },
    { "{\"quant_method\":\"gptq\",\"bits\":4,\"format\":\"marlin\"}", QSAE_EUNSUPPORTED,
      "\"marlin\"; supported: gptq, gptq_v2" },
    { "{\"quant_method\":\"gptq\",\"bits\":4,\"pack_dtype\":\"int16\"}", QSAE_EUNSUPPORTED,
      "\"pack_dtype\": \"int16\"" },
    { "{\"quant_method\":\"gptq\",\"bits\":4,\"is_marlin_format\":true}", QSAE_EUNSUPPORTED,
      "is_marlin_format" },
    { "{\"quant_method\":\"awq\",\"w_bit\":8}", QSAE_EUNSUPPORTED, "bits" },
    { "{\"quant_method\":\"awq\",\"q_group_size\":0}", QSAE_EFORMAT, "group_size" },
    { "{\"quant_method\":\"awq\",\"format\":\"marlin\"}", QSAE_EUNSUPPORTED, "\"marlin\"" },
    { "{\"quant_method\":\"awq\",\"version\":\"gemm\",\"backend\":\"LLM-AWQ\"}",
      QSAE_EUNSUPPORTED, "\"LLM-AWQ\" is not supported" },
    { "{\"quant_method\":\"awq\",\"version\":\"gemm_fast\"}", QSAE_EUNSUPPORTED, "gemm_fast" },
    { "{\"quant_method\":\"awq\",\"version\":\"gem\"}", QSAE_EUNSUPPORTED, "\"gem\"" },
    { FP8(",\"weight_block_size\":[128,0]"), QSAE_EFORMAT, "two positive" },
    { FP8(",\"weight_block_size\":[128,2147483648]"), QSAE_EFORMAT, "two positive" },
    { FP8(",\"weight_block_size\":[2147483648,128]"), QSAE_EFORMAT, "two positive" },
    { FP8(",\"weight_block_size\":[128,1.5]"), QSAE_EFORMAT, "two positive" },
    { FP8(",\"weight_block_size\":[\"128\",128]"), QSAE_EFORMAT, "two positive" },
    { FP8(",\"activation_scheme\":\"block\""), QSAE_EUNSUPPORTED, "dynamic, static" },
    { FP8(",\"scale_fmt\":\"ue4m3\""), QSAE_EUNSUPPORTED, "float, ue8m0" },
    { CT("\"config_groups\":7"), QSAE_EFORMAT, "config_groups" },
    { CT("\"config_groups\":{\"W4A16\":[\"Linear\"]}"), QSAE_EUNSUPPORTED, "preset" },
    { CT("\"ignore\":[1],\"config_groups\":{}"), QSAE_EFORMAT, "ignore" },
    { CT("\"kv_cache_scheme\":{\"num_bits\":8}"), QSAE_EUNSUPPORTED, "kv_cache_scheme" },
    { CT("\"sparsity_config\":{\"format\":\"sparse-24-bitmask\"}"), QSAE_EUNSUPPORTED,
      "sparse-24-bitmask" },
    { CT("\"transform_config\":{\"a\":1}"), QSAE_EUNSUPPORTED, "transform_config" },
    { CT("\"quantization_status\":\"calibration\""), QSAE_EUNSUPPORTED, "calibration" },
    { GROUP(INT4, ",\"format\":\"marlin-24\""), QSAE_EUNSUPPORTED, "marlin-24" },
    { GROUP(INT4 ",\"actorder\":\"group\"", ""), QSAE_EUNSUPPORTED, "actorder" },
    { GROUP(INT4 ",\"actorder\":true", ""), QSAE_EUNSUPPORTED, "actorder" },
    { GROUP(INT4 ",\"dynamic\":true", ""), QSAE_EUNSUPPORTED, "dynamic" },
    { GROUP(INT4 ",\"dynamic\":3", ""), QSAE_EFORMAT, "dynamic" },
    { GROUP("\"num_bits\":9", ""), QSAE_EUNSUPPORTED, "num_bits" },
    { GROUP("\"num_bits\":4,\"group_size\":0,\"strategy\":\"group\"", ""), QSAE_EFORMAT,
      "group_size" },
    { GROUP("\"num_bits\":4,\"strategy\":\"attn_head\"", ""), QSAE_EUNSUPPORTED, "attn_head" },
    { GROUP("\"num_bits\":4,\"type\":\"float\"", ""), QSAE_EUNSUPPORTED, "pack-quantized" },
    { GROUP("\"num_bits\":8,\"strategy\":\"block\",\"block_structure\":[4,0]", ""), QSAE_EFORMAT,
      "block_structure" },
    { GROUP(INT4, ",\"output_activations\":{\"num_bits\":8}"), QSAE_EUNSUPPORTED,
      "output_activations" },
    { GROUP(INT4, ",\"input_activations\":{\"num_bits\":8,\"dynamic\":true}"), QSAE_EUNSUPPORTED,
      "batch" },
    { GROUP(INT4, ",\"input_activations\":{\"num_bits\":8,\"strategy\":\"token\"}"),
      QSAE_EUNSUPPORTED, "static" },
};

static void test_configs(void **state)
{
    qsae_context *ctx = test_context(NULL, 1);
    (void)state;
    for (int64_t i = 0; i < LENGTH(configs); i++) {
        json_t *json = NULL;
        qsae__scheme *scheme = NULL;
        CHECK(qsae__json_parse(configs[i].text, strlen(configs[i].text), "c", &json));
        const int32_t st = qsae__scheme_open(ctx, json, "c", &scheme);
        if (st != configs[i].status || !strstr(qsae_error_message(), configs[i].part))
            fail_msg("%s: %s: %s", configs[i].text, qsae_status_name(st), qsae_error_message());
        assert_null(scheme);
        json_decref(json);
    }
    qsae_context_close(&ctx);
}

/* Module "m" [n_out, n_in] of these tensors under a configuration. */
static int32_t open_made(qsae_context *ctx, const char *config, const qsae__tensor *list, int64_t n,
                         int64_t n_out, int64_t n_in, qsae_qmatrix **q)
{
    char path[] = "/tmp/qsae_stored_XXXXXX";
    json_t *json = NULL;
    qsae__scheme *scheme = NULL;
    qsae__tensors *t = NULL;
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    CHECK(qsae__json_parse(config, strlen(config), "c", &json));
    CHECK(qsae__scheme_open(ctx, json, "c", &scheme));
    CHECK(qsae__safetensors_write(ctx, path, list, n));
    CHECK(qsae__tensors_load(ctx, path, &t));
    const int32_t st = qsae__stored_open(ctx, scheme, t, "m", n_out, n_in, q);
    qsae__tensors_unref(&t);
    qsae__scheme_close(ctx, &scheme);
    json_decref(json);
    unlink(path);
    return st;
}

static void expect_values(const qsae_qmatrix *q, const float *want)
{
    float *const got = test_decode(q, QSAE_F32);
    test_same_f32("decoded", got, want, q->n_out * q->n_in);
    test_release(got);
}

/* One AWQ group of an odd number of inputs: output i of a word is its field order[i]. */
static void test_awq_odd(void **state)
{
    static const int field[8] = { 0, 4, 1, 5, 2, 6, 3, 7 };
    static const uint16_t scales[8] = { 0x3c00, 0x4000, 0x3800, 0x3c00, 0x4400, 0x3c00, 0xbc00,
                                        0x3555 }; /* 1, 2, 0.5, 1, 4, 1, -1, 1365 / 4096 */
    static const float factors[8] = { 1, 2, 0.5f, 1, 4, 1, -1, 0x1.554p-2f };
    qsae_context *ctx = test_context(NULL, 1);
    uint32_t words[5], zeros = 0x87654321;
    float want[8 * 5], bf16[8 * 5];
    qsae_qmatrix *q = NULL;
    (void)state;
    for (uint32_t k = 0; k < 5; k++)
        words[k] = 0x9b3d5f71u * (2 * k + 1);
    for (int o = 0; o < 8; o++)
        for (int k = 0; k < 5; k++) {
            const float steps = (float)((int)(words[k] >> 4 * field[o] & 15) -
                                        (int)(zeros >> 4 * field[o] & 15));
            want[o * 5 + k] = qsae__round_f16(steps * factors[o]);
            bf16[o * 5 + k] = qsae__round_bf16(steps * qsae__round_bf16(factors[o]));
        }
    qsae__tensor list[3] = {
        { .name = "m.qweight", .data = words, .bytes = 20, .shape = { 5, 1 }, .rank = 2,
          .dtype = QSAE_I32 },
        { .name = "m.qzeros", .data = &zeros, .bytes = 4, .shape = { 1, 1 }, .rank = 2,
          .dtype = QSAE_I32 },
        { .name = "m.scales", .data = scales, .bytes = 16, .shape = { 1, 8 }, .rank = 2,
          .dtype = QSAE_F16 },
    };
    static const char config[] =
        "{\"quant_method\":\"awq\",\"group_size\":-1,\"version\":\"GEMM\"}";
    CHECK(open_made(ctx, config, list, 3, 8, 5, &q));
    expect_values(q, want);
    /* for a bf16 model the scale is one of bf16 */
    for (int i = 0; i < 2; i++) {
        const int32_t dtype = i ? QSAE_F16 : QSAE_BF16;
        uint16_t out[8 * 5];
        float got[8 * 5];
        qsae_rows rows = test_rows(out, dtype, 8, 5);
        assert_int_equal(qsae_qmatrix_decode(q, &rows), QSAE_OK);
        assert_true(qsae__to_f32(dtype, out, 8 * 5, got));
        test_same_f32("halves", got, i ? want : bf16, 8 * 5);
        rows.data = (char *)out + 1;
        assert_int_equal(qsae_qmatrix_decode(q, &rows), QSAE_EINVAL);
        assert_non_null(strstr(qsae_error_message(), "aligned"));
    }
    qsae__qmatrix_unref(&q);
    assert_int_equal(open_made(ctx, config, list, 3, 9, 5, &q), QSAE_EMISMATCH);
    assert_non_null(strstr(qsae_error_message(), "9 x 5; expected a multiple of 8"));
    assert_int_equal(open_made(ctx, "{\"quant_method\":\"awq\",\"q_group_size\":2}", list, 3, 8, 5,
                               &q), QSAE_EMISMATCH);
    assert_non_null(strstr(qsae_error_message(), "group size 2"));
    qsae_context_close(&ctx);
}

/* Three bits a code across words; zeros as they are (gptq_v2) or one less (gptq), 8 being 0. */
static void test_gptq_three_bits(void **state)
{
    qsae_context *ctx = test_context(NULL, 1);
    uint32_t codes[3][32] = { { 0 } }, zeros[3] = { 0 };
    uint16_t scales[32];
    float want[32 * 32];
    qsae_qmatrix *q = NULL;
    (void)state;
    for (int o = 0; o < 32; o++) {
        scales[o] = 0x3c00;
        for (int k = 0; k < 32; k++)
            for (int b = 0; b < 3; b++)
                codes[(3 * k + b) / 32][o] |= (uint32_t)((5 * k + 3 * o) % 8 >> b & 1)
                                              << (3 * k + b) % 32;
        for (int b = 0; b < 3; b++)
            zeros[(3 * o + b) / 32] |= (uint32_t)(o % 8 >> b & 1) << (3 * o + b) % 32;
    }
    const qsae__tensor list[3] = {
        { .name = "m.qweight", .data = codes, .bytes = sizeof codes, .shape = { 3, 32 }, .rank = 2,
          .dtype = QSAE_I32 },
        { .name = "m.qzeros", .data = zeros, .bytes = 12, .shape = { 1, 3 }, .rank = 2,
          .dtype = QSAE_I32 },
        { .name = "m.scales", .data = scales, .bytes = 64, .shape = { 1, 32 }, .rank = 2,
          .dtype = QSAE_F16 },
    };
    for (int less = 0; less < 2; less++) {
        for (int i = 0; i < 32 * 32; i++)
            want[i] = (float)((5 * (i % 32) + 3 * (i / 32)) % 8 - (i / 32 + less) % 8);
        CHECK(open_made(ctx, less ? "{\"quant_method\":\"gptq\",\"bits\":3,\"group_size\":-1}"
                                  : "{\"quant_method\":\"gptq\",\"bits\":3,\"group_size\":-1,"
                                    "\"checkpoint_format\":\"gptq_v2\",\"pack_dtype\":\"int32\"}",
                        list, 3, 32, 32, &q));
        expect_values(q, want);
        qsae__qmatrix_unref(&q);
    }
    for (int64_t n = 0; n < 2; n++) {
        assert_int_equal(open_made(ctx, "{\"quant_method\":\"gptq\",\"bits\":3}", list, 3,
                                   n ? 33 : 32, n ? 32 : 33, &q), QSAE_EUNSUPPORTED);
        assert_non_null(strstr(qsae_error_message(), n ? "3-bit GPTQ of 33 x 32"
                                                       : "3-bit GPTQ of 32 x 33"));
    }
    qsae_context_close(&ctx);
}

/* Packed weights say their shape, in either integer type; inputs are whole groups, of weights and
 * of activations. */
static void test_shapes(void **state)
{
    static const char *const group = GROUP(INT4, "");
    static const struct {
        int64_t n_out, n_in; /* as weight_shape says it */
        int32_t dtype;
        const char *part;    /* NULL: opened */
    } cases[] = {
        { 2, 64, QSAE_I64, NULL },          { 2, 64, QSAE_I32, NULL },
        { 3, 64, QSAE_I64, "expected 2 x 64, found 3 x 64" },
        { 2, 65, QSAE_I32, "expected 2 x 64, found 2 x 65" },
        { -2, -64, QSAE_I32, "expected 2 x 64, found -2 x -64" },
    };
    static const int32_t codes[2 * 8];
    static const float scale[4] = { 1, 1, 1, 1 };
    qsae_context *ctx = test_context(NULL, 1);
    qsae_qmatrix *q = NULL;
    (void)state;
    qsae__tensor list[4] = {
        { .name = "m.weight_packed", .data = codes, .bytes = sizeof codes, .shape = { 2, 8 },
          .rank = 2, .dtype = QSAE_I32 },
        { .name = "m.weight_scale", .data = scale, .bytes = sizeof scale, .shape = { 2, 2 },
          .rank = 2, .dtype = QSAE_F32 },
        { .name = "m.weight_shape", .shape = { 2 }, .rank = 1 },
        { .name = "m.weight_g_idx", .data = codes, .bytes = 64 * 4, .shape = { 64 }, .rank = 1,
          .dtype = QSAE_I32 },
    };
    for (int64_t i = 0; i < LENGTH(cases); i++) {
        const int64_t wide[2] = { cases[i].n_out, cases[i].n_in };
        const int32_t narrow[2] = { (int32_t)wide[0], (int32_t)wide[1] };
        list[2].dtype = cases[i].dtype;
        list[2].data = cases[i].dtype == QSAE_I64 ? (const void *)wide : narrow;
        list[2].bytes = cases[i].dtype == QSAE_I64 ? sizeof wide : sizeof narrow;
        const int32_t st = open_made(ctx, group, list, 3, 2, 64, &q);
        assert_int_equal(st, cases[i].part ? QSAE_EMISMATCH : QSAE_OK);
        assert_true(!cases[i].part || strstr(qsae_error_message(), cases[i].part));
        qsae__qmatrix_unref(&q);
    }
    static const int64_t shape[2] = { 2, 64 };
    list[2].dtype = QSAE_I64;
    list[2].data = shape;
    list[2].bytes = sizeof shape;
    assert_int_equal(open_made(ctx, group, list, 3, 2, 65, &q), QSAE_EMISMATCH);
    assert_non_null(strstr(qsae_error_message(), "65 inputs; expected a multiple of the group"));
    static const int32_t index[64];
    list[3].data = index;
    assert_int_equal(open_made(ctx, group, list, 4, 2, 64, &q), QSAE_EUNSUPPORTED);
    assert_non_null(strstr(qsae_error_message(), "m.weight_g_idx: actorder"));
    /* activations in groups of 48 */
    static const int8_t bytes[64];
    const qsae__tensor plain[2] = {
        { .name = "m.weight", .data = bytes, .bytes = sizeof bytes, .shape = { 1, 64 }, .rank = 2,
          .dtype = QSAE_I8 },
        { .name = "m.weight_scale", .data = scale, .bytes = 4, .shape = { 1, 1 }, .rank = 2,
          .dtype = QSAE_F32 },
    };
    assert_int_equal(open_made(ctx, "{\"quant_method\":\"compressed-tensors\",\"format\":"
                               "\"int-quantized\",\"config_groups\":{\"g\":{\"targets\":"
                               "[\"Linear\"],\"weights\":{\"num_bits\":8,\"strategy\":"
                               "\"channel\"},\"input_activations\":{\"num_bits\":8,\"strategy\":"
                               "\"group\",\"group_size\":48,\"dynamic\":true}}}}", plain, 2, 1, 64,
                               &q), QSAE_EMISMATCH);
    assert_non_null(strstr(qsae_error_message(), "multiple of the activations' group size 48"));
    qsae_context_close(&ctx);
}

/* Powers of two: the type's last value is NaN, a plain byte's is 2^128. */
static void test_fp8_powers(void **state)
{
    static const uint8_t ones[4] = { 0x38, 0x38, 0x38, 0xb8 }; /* 1, 1, 1, -1 */
    static const uint8_t powers[4] = { 127, 0, 254, 255 };
    static const int32_t dtypes[] = { QSAE_F8_E8M0, QSAE_U8 };
    qsae_context *ctx = test_context(NULL, 1);
    (void)state;
    for (int i = 0; i < 2; i++) {
        const float want[4] = { 1, 0x1p-127f, 0x1p127f, i ? -INFINITY : NAN };
        const qsae__tensor list[2] = {
            { .name = "m.weight", .data = ones, .bytes = 4, .shape = { 2, 2 }, .rank = 2,
              .dtype = QSAE_F8_E4M3 },
            { .name = "m.weight_scale_inv", .data = powers, .bytes = 4, .shape = { 2, 2 },
              .rank = 2, .dtype = dtypes[i] },
        };
        qsae_qmatrix *q = NULL;
        CHECK(open_made(ctx, FP8(",\"weight_block_size\":[1,1],\"fmt\":\"float8_e4m3fn\","
                                 "\"scale_fmt\":\"ue8m0\",\"activation_scheme\":\"static\""),
                        list, 2, 2, 2, &q));
        expect_values(q, want);
        qsae__qmatrix_unref(&q);
    }
    qsae_context_close(&ctx);
}

int run_stored_config(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_configs),         cmocka_unit_test(test_awq_odd),
        cmocka_unit_test(test_gptq_three_bits), cmocka_unit_test(test_fp8_powers),
        cmocka_unit_test(test_shapes),
    };
    return cmocka_run_group_tests_name("stored configurations", tests, NULL, NULL);
}
