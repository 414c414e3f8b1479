/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * quantization_config of compressed-tensors, one key wrong at a time: the status, and a message
 * that names file, key, what was expected and what was found; what is read from those that are
 * right; and the group that a module belongs to.
 */
#include "tests.h"

#include "../memory.h"
#include "../merge.h"
#include "codecs/compressed.h"

#define BASE "{\"format\":\"pack-quantized\",\"config_groups\":{\"g\":{\"targets\":[\"Linear\"]," \
             "\"weights\":{\"num_bits\":4,\"strategy\":\"group\",\"group_size\":32}}}}"
/* Changes of the group, of its weights, and activations on top of int8 weights. */
#define G(text) "{\"config_groups\":{\"g\":{" text "}}}"
#define W(text) G("\"weights\":{" text "}")
#define IN(text) "{\"format\":\"int-quantized\",\"config_groups\":{\"g\":{\"weights\":{" \
                 "\"num_bits\":8},\"input_activations\":{" text "}}}}"
#define FLOAT8 "\"num_bits\":8,\"type\":\"float\""
#define FLOAT4 "\"num_bits\":4,\"type\":\"float\""

static const struct {
    const char *change;
    int32_t status;
    const char *part; /* of the message; {"member": value} of what is right */
} cases[] = {
    { NULL, QSAE_OK, "{\"format\":0,\"bits\":4,\"group\":32,\"strategy\":2,\"symmetric\":1,"
      "\"float\":0,\"dynamic\":0,\"scales\":0,\"input\":0}" },
    { W("\"symmetric\":false,\"dynamic\":false,\"actorder\":\"weight\""), QSAE_OK,
      "{\"symmetric\":0}" },
    { W("\"dynamic\":null,\"actorder\":\"static\",\"scale_dtype\":null"), QSAE_OK,
      "{\"dynamic\":0}" },
    { W("\"actorder\":null"), QSAE_OK, "{}" },
    { W("\"actorder\":false"), QSAE_OK, "{}" },
    { W("\"-strategy\":0"), QSAE_OK, "{\"strategy\":2}" },
    { W("\"-strategy\":0,\"group_size\":-1"), QSAE_OK, "{\"strategy\":1}" },
    { W("\"-strategy\":0,\"-group_size\":0"), QSAE_OK, "{\"strategy\":0}" },
    { W("\"strategy\":\"channel\",\"symmetric\":false"), QSAE_OK, "{\"strategy\":1}" },
    { W("\"-num_bits\":0,\"type\":\"int\""), QSAE_OK, "{\"bits\":8}" },
    { W("\"num_bits\":2"), QSAE_OK, "{\"bits\":2}" },
    { "{\"quantization_status\":\"frozen\",\"kv_cache_scheme\":null,\"sparsity_config\":{\"format\""
      ":\"dense\"},\"ignore\":[]}", QSAE_OK, "{}" },
    { "{\"format\":\"float-quantized\",\"sparsity_config\":{},\"config_groups\":{\"g\":{"
      "\"weights\":{" FLOAT8 ",\"strategy\":\"block\",\"block_structure\":[2,3]}}}}", QSAE_OK,
      "{\"format\":1,\"rows\":2,\"cols\":3,\"float\":1}" },
    { "{\"format\":\"int-quantized\",\"config_groups\":{\"g\":{\"weights\":{\"strategy\":\"block\","
      "\"block_structure\":[1,1]}}}}", QSAE_OK, "{\"rows\":1,\"cols\":1}" },
    { G("\"format\":\"naive-quantized\""), QSAE_OK, "{\"format\":1}" },
    { "{\"format\":\"nvfp4-pack-quantized\",\"config_groups\":{\"g\":{\"weights\":{" FLOAT4
      ",\"strategy\":\"tensor_group\",\"group_size\":16}}}}", QSAE_OK, "{\"format\":2}" },
    { "{\"format\":\"mxfp4-pack-quantized\",\"config_groups\":{\"g\":{\"weights\":{" FLOAT4
      ",\"scale_dtype\":\"torch.uint8\"}}}}", QSAE_OK, "{\"format\":3,\"scales\":1}" },
    { "{\"format\":\"mxfp8-quantized\",\"config_groups\":{\"g\":{\"weights\":{" FLOAT8
      ",\"scale_dtype\":\"torch.float8_e4m3fn\"}}}}", QSAE_OK, "{\"format\":4,\"scales\":2}" },
    { IN("\"strategy\":\"token\",\"dynamic\":true"), QSAE_OK, "{\"input\":1,\"in_dynamic\":1}" },
    { IN("\"strategy\":\"tensor\""), QSAE_OK, "{\"in_dynamic\":0,\"in_strategy\":0}" },
    { IN(FLOAT4 ",\"strategy\":\"tensor_group\",\"group_size\":16,\"dynamic\":\"local\","
      "\"scale_dtype\":\"torch.float8_e4m3fn\""), QSAE_OK, "{\"in_dynamic\":2,\"in_scales\":2}" },
    { IN(FLOAT8 ",\"strategy\":\"group\",\"group_size\":32,\"dynamic\":true,\"scale_dtype\":"
      "\"torch.uint8\""), QSAE_OK, "{\"in_scales\":1}" },
    { IN(FLOAT4 ",\"strategy\":\"group\",\"group_size\":32,\"dynamic\":true,\"scale_dtype\":"
      "\"torch.uint8\""), QSAE_OK, "{\"in_scales\":1}" },
    { "=[]", QSAE_EFORMAT, "expected object, found array" },
    { "{\"format\":1}", QSAE_EFORMAT, "\"format\"" },
    { "{\"quantization_status\":1}", QSAE_EFORMAT, "\"quantization_status\"" },
    { "{\"quantization_status\":\"calibration\"}", QSAE_EUNSUPPORTED,
      "\"quantization_status\": \"calibration\"" },
    { "{\"kv_cache_scheme\":{\"x\":1}}", QSAE_EUNSUPPORTED, "\"kv_cache_scheme\"" },
    { "{\"transform_config\":[1]}", QSAE_EUNSUPPORTED, "\"transform_config\"" },
    { "{\"moe_sparsity_config\":true}", QSAE_EUNSUPPORTED, "\"moe_sparsity_config\"" },
    { "{\"sparsity_config\":1}", QSAE_EFORMAT, "\"sparsity_config\"" },
    { "{\"sparsity_config\":{\"format\":1}}", QSAE_EFORMAT, "\"format\"" },
    { "{\"sparsity_config\":{\"format\":\"x\"}}", QSAE_EUNSUPPORTED, "\"sparsity_config\": \"x\"" },
    { "{\"ignore\":1}", QSAE_EFORMAT, "\"ignore\"" },
    { "{\"ignore\":[\"a\",1]}", QSAE_EFORMAT, "\"ignore\": expected strings, found integer" },
    { "{\"ignore\":[\"re:(\",\"re:a\"]}", QSAE_EFORMAT, "regular expression \"(\"" },
    { "{\"config_groups\":1}", QSAE_EFORMAT, "\"config_groups\"" },
    { "{\"config_groups\":{\"g\":\"W8A8\",\"h\":3}}", QSAE_EUNSUPPORTED, "it.json: g: a preset" },
    { G("\"output_activations\":{\"x\":1}"), QSAE_EUNSUPPORTED, "\"output_activations\"" },
    { G("\"format\":1"), QSAE_EFORMAT, "\"format\"" },
    { G("\"format\":\"x\""), QSAE_EUNSUPPORTED, "\"format\": \"x\"" },
    { "{\"-format\":0}", QSAE_EUNSUPPORTED, "\"format\": \"dense\"" },
    { G("\"-targets\":0"), QSAE_EFORMAT, "\"targets\"" },
    { G("\"targets\":[1]"), QSAE_EFORMAT, "\"targets\": expected strings, found integer" },
    { G("\"targets\":[\"re:a\",\"re:[\"]"), QSAE_EFORMAT, "regular expression \"[\"" },
    { G("\"-weights\":0"), QSAE_EFORMAT, "\"weights\"" },
    { G("\"input_activations\":1"), QSAE_EFORMAT, "\"input_activations\"" },
    { W("\"num_bits\":0"), QSAE_EFORMAT, "\"num_bits\"" },
    { W("\"num_bits\":1"), QSAE_EUNSUPPORTED, "\"num_bits\": 1; supported: 2 to 8" },
    { W("\"num_bits\":9"), QSAE_EUNSUPPORTED, "\"num_bits\": 9" },
    { W("\"type\":\"float\",\"num_bits\":5"), QSAE_EUNSUPPORTED, "\"num_bits\": 5; supported: 4" },
    { W("\"type\":1"), QSAE_EFORMAT, "\"type\"" },
    { W("\"type\":\"x\""), QSAE_EUNSUPPORTED, "\"type\": \"x\"" },
    { W("\"symmetric\":1"), QSAE_EFORMAT, "\"symmetric\"" },
    { W(FLOAT8 ",\"symmetric\":false"), QSAE_EUNSUPPORTED, "asymmetric floats" },
    { W("\"strategy\":1"), QSAE_EFORMAT, "\"strategy\"" },
    { W("\"strategy\":\"x\""), QSAE_EUNSUPPORTED, "\"strategy\": \"x\"" },
    { W("\"group_size\":-2"), QSAE_EFORMAT, "\"group_size\"" },
    { W("\"group_size\":0"), QSAE_EFORMAT, "\"group_size\": expected at least 1, found 0" },
    { W("\"strategy\":\"tensor_group\",\"group_size\":-1"), QSAE_EFORMAT, "found -1" },
    { W("\"strategy\":\"channel\",\"group_size\":0"), QSAE_EFORMAT, "expected -1 or at least 1" },
    { W("\"strategy\":\"block\""), QSAE_EFORMAT, "\"block_structure\"" },
    { W("\"strategy\":\"block\",\"block_structure\":[1]"), QSAE_EFORMAT, "two positive integers" },
    { W("\"strategy\":\"block\",\"block_structure\":[1,2,3]"), QSAE_EFORMAT, "two positive" },
    { W("\"strategy\":\"block\",\"block_structure\":[\"1\",2]"), QSAE_EFORMAT, "two positive" },
    { W("\"strategy\":\"block\",\"block_structure\":[1,2.5]"), QSAE_EFORMAT, "two positive" },
    { W("\"strategy\":\"block\",\"block_structure\":[0,2]"), QSAE_EFORMAT, "two positive" },
    { W("\"strategy\":\"block\",\"block_structure\":[2147483648,2]"), QSAE_EFORMAT,
      "two positive" },
    { W("\"strategy\":\"block\",\"block_structure\":[1,0]"), QSAE_EFORMAT, "two positive" },
    { W("\"strategy\":\"block\",\"block_structure\":[1,2147483648]"), QSAE_EFORMAT,
      "two positive" },
    { W("\"dynamic\":1"), QSAE_EFORMAT, "\"dynamic\": expected boolean or \"local\"" },
    { W("\"dynamic\":\"x\""), QSAE_EFORMAT, "\"dynamic\"" },
    { W("\"scale_dtype\":1"), QSAE_EFORMAT, "\"scale_dtype\"" },
    { W("\"scale_dtype\":\"torch.int8\""), QSAE_EUNSUPPORTED, "\"scale_dtype\": \"torch.int8\"" },
    { W("\"actorder\":\"group\""), QSAE_EUNSUPPORTED, "\"actorder\": \"group\"" },
    { W("\"actorder\":true"), QSAE_EUNSUPPORTED, "\"actorder\"" },
    { W("\"dynamic\":true"), QSAE_EUNSUPPORTED, "dynamic quantization of weights" },
    { W("\"strategy\":\"token\""), QSAE_EUNSUPPORTED, "dynamic quantization of weights" },
    { W(FLOAT8), QSAE_EUNSUPPORTED, "pack-quantized of this type" },
    { W("\"strategy\":\"block\",\"block_structure\":[1,2]"), QSAE_EUNSUPPORTED, "pack-quantized" },
    { W("\"strategy\":\"tensor_group\""), QSAE_EUNSUPPORTED, "pack-quantized of this type" },
    { W("\"strategy\":\"tensor\",\"symmetric\":false"), QSAE_EUNSUPPORTED,
      "asymmetric quantization but by group or channel" },
    { "{\"format\":\"float-quantized\",\"config_groups\":{\"g\":{\"weights\":{" FLOAT4 "}}}}",
      QSAE_EUNSUPPORTED, "this type or strategy unpacked" },
    { "{\"format\":\"int-quantized\",\"config_groups\":{\"g\":{\"weights\":{\"strategy\":"
      "\"tensor_group\"}}}}", QSAE_EUNSUPPORTED, "this type or strategy unpacked" },
#define NVFP4(text) "{\"format\":\"nvfp4-pack-quantized\",\"config_groups\":{\"g\":{\"weights\":{" \
                    text "}}}}"
    { NVFP4("\"num_bits\":4"), QSAE_EUNSUPPORTED, "groups of 16 4-bit floats" },
    { NVFP4(FLOAT8), QSAE_EUNSUPPORTED, "groups of 16 4-bit floats" },
    { NVFP4(FLOAT4), QSAE_EUNSUPPORTED, "groups of 16 4-bit floats" },
    { NVFP4(FLOAT4 ",\"strategy\":\"tensor_group\""), QSAE_EUNSUPPORTED, "groups of 16" },
#define MXFP4(text) "{\"format\":\"mxfp4-pack-quantized\",\"config_groups\":{\"g\":{\"weights\":{" \
                    text "}}}}"
    { MXFP4("\"num_bits\":4"), QSAE_EUNSUPPORTED, "groups of 32 4-bit floats" },
    { MXFP4(FLOAT8), QSAE_EUNSUPPORTED, "groups of 32 4-bit floats" },
    { MXFP4(FLOAT4 ",\"strategy\":\"channel\""), QSAE_EUNSUPPORTED, "groups of 32 4-bit" },
    { MXFP4(FLOAT4 ",\"group_size\":16"), QSAE_EUNSUPPORTED, "groups of 32 4-bit floats" },
#define MXFP8(text) "{\"format\":\"mxfp8-quantized\",\"config_groups\":{\"g\":{\"weights\":{" text \
                    "}}}}"
    { MXFP8("\"num_bits\":8"), QSAE_EUNSUPPORTED, "groups of 32 8-bit floats" },
    { MXFP8(FLOAT4), QSAE_EUNSUPPORTED, "groups of 32 8-bit floats" },
    { MXFP8(FLOAT8 ",\"strategy\":\"channel\""), QSAE_EUNSUPPORTED, "groups of 32 8-bit" },
    { MXFP8(FLOAT8 ",\"group_size\":16"), QSAE_EUNSUPPORTED, "groups of 32 8-bit floats" },
    { IN("\"num_bits\":0"), QSAE_EFORMAT, "g: input_activations: key \"num_bits\"" },
    { IN("\"strategy\":\"channel\""), QSAE_EUNSUPPORTED, "this strategy for activations" },
    { IN("\"strategy\":\"block\",\"block_structure\":[1,2]"), QSAE_EUNSUPPORTED, "this strategy" },
    { IN("\"strategy\":\"tensor\",\"dynamic\":true"), QSAE_EUNSUPPORTED, "whole batch" },
    { IN("\"strategy\":\"token\""), QSAE_EUNSUPPORTED, "a static scale but one for the tensor" },
#define LOCAL(text) IN(text "\"strategy\":\"tensor_group\",\"group_size\":16,\"dynamic\":\"local\"")
    { IN("\"strategy\":\"token\",\"dynamic\":\"local\""), QSAE_EUNSUPPORTED, "tensor_group but" },
    { IN("\"strategy\":\"tensor_group\",\"group_size\":16,\"dynamic\":true"), QSAE_EUNSUPPORTED,
      "tensor_group but of 4-bit floats, dynamic \"local\"" },
    { LOCAL("\"num_bits\":4,"), QSAE_EUNSUPPORTED, "tensor_group but of 4-bit floats" },
    { LOCAL(FLOAT8 ","), QSAE_EUNSUPPORTED, "tensor_group but of 4-bit floats" },
    { LOCAL(FLOAT4 ",\"scale_dtype\":\"torch.uint8\","), QSAE_EUNSUPPORTED, "tensor_group but" },
    { IN(FLOAT4 ",\"strategy\":\"token\",\"dynamic\":true"), QSAE_EUNSUPPORTED,
      "4-bit floats without microscales" },
    { IN("\"num_bits\":8,\"strategy\":\"group\",\"group_size\":32,\"dynamic\":true,"
      "\"scale_dtype\":\"torch.uint8\""), QSAE_EUNSUPPORTED, "scale_dtype torch.uint8 but" },
    { IN(FLOAT8 ",\"strategy\":\"token\",\"dynamic\":true,\"scale_dtype\":\"torch.uint8\""),
      QSAE_EUNSUPPORTED, "scale_dtype torch.uint8 but for groups of 32 floats" },
    { IN(FLOAT8 ",\"strategy\":\"group\",\"group_size\":16,\"dynamic\":true,\"scale_dtype\":"
      "\"torch.uint8\""), QSAE_EUNSUPPORTED, "scale_dtype torch.uint8 but" },
    { IN("\"strategy\":\"token\",\"dynamic\":true,\"scale_dtype\":\"torch.float8_e4m3fn\""),
      QSAE_EUNSUPPORTED, "scale_dtype torch.float8_e4m3fn but for tensor_group" },
};

static int64_t member(const qsae__ct_group *g, const char *key)
{
    const struct {
        const char *key;
        int64_t value;
    } all[] = {
        { "format", g->format }, { "bits", g->weights.bits }, { "group", g->weights.group },
        { "strategy", g->weights.strategy }, { "symmetric", g->weights.symmetric },
        { "float", g->weights.is_float }, { "dynamic", g->weights.dynamic },
        { "scales", g->weights.scales }, { "rows", g->weights.rows }, { "cols", g->weights.cols },
        { "input", g->has_input }, { "in_dynamic", g->input.dynamic },
        { "in_scales", g->input.scales }, { "in_strategy", g->input.strategy },
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (!strcmp(all[i].key, key))
            return all[i].value;
    fail_msg("no member %s", key);
    return 0;
}

static void test_keys(void **state)
{
    (void)state;
    qsae_context *ctx = test_context("c", 1);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *const change = cases[i].change ? cases[i].change : "";
        json_t *const config = merged_json(BASE, cases[i].change), *want, *v;
        const char *key;
        qsae__ct ct = { .config = NULL };
        const int32_t st = qsae__ct_read(ctx, config, "it.json", &ct);
        const char *const message = st == QSAE_OK ? "" : qsae_error_message();
        if (st != cases[i].status || (st != QSAE_OK && (!strstr(message, cases[i].part) ||
                                                        !strstr(message, "it.json: "))))
            fail_msg("%s: expected %s with \"%s\", found %s: %s", change,
                     qsae_status_name(cases[i].status), cases[i].part, qsae_status_name(st),
                     message);
        if (st == QSAE_OK) {
            want = json_loads(cases[i].part, 0, NULL);
            assert_non_null(want);
            assert_int_equal(ct.n_groups, 1);
            json_object_foreach(want, key, v)
                if (member(&ct.groups[0], key) != json_integer_value(v))
                    fail_msg("%s: %s: found %d", change, key, (int)member(&ct.groups[0], key));
            json_decref(want);
        }
        qsae__ct_close(ctx, &ct);
        json_decref(config);
    }
    qsae_context_close(&ctx);
}

#define GROUP(name, targets) \
    "\"" name "\":{\"targets\":[" targets "],\"weights\":{\"num_bits\":4}}"

/* By name, then by expression, then by class; of several targets of a kind the first in order, of
 * groups with one target the last. */
static void test_groups(void **state)
{
    static const char config[] =
        "{\"format\":\"pack-quantized\",\"ignore\":[\"lm_head\",\"re:.*skipped\"],"
        "\"config_groups\":{" GROUP("a", "\"Linear\"") "," GROUP("b", "\"re:.*mlp\",\"m.one\"") ","
        GROUP("c", "\"re:.*mlp.up\"") "," GROUP("d", "\"Embedding\",\"re:.*slow.*(a+)+$\"") ","
        GROUP("e", "\"re:.*mlp\"") "}}";
    static const struct {
        const char *module, *group;
    } modules[] = {
        { "m.one", "b" }, { "m.two", "a" }, { "m.mlp", "e" }, { "m.mlp.up", "e" },
        { "embed_tokens", "d" }, { "m.embed_tokens", "d" }, { "embed", "a" }, { "lm_head", NULL },
        { "m.skipped", NULL },
    };
    static const char all[] = "{\"format\":\"pack-quantized\",\"ignore\":[\"re:.*(a+)+$\"],"
                              "\"config_groups\":{" GROUP("a", "\"Linear\",\"Module\"") "}}";
    const char *const slow = "slow.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab";
    const qsae__ct_group *g;
    (void)state;
    qsae_context *ctx = test_context("c", 1);
    json_t *json = json_loads(config, 0, NULL);
    qsae__ct ct = { .config = NULL };
    assert_int_equal(qsae__ct_read(ctx, json, "it.json", &ct), QSAE_OK);
    for (size_t i = 0; i < sizeof modules / sizeof modules[0]; i++) {
        assert_int_equal(qsae__ct_find(&ct, modules[i].module, &g), QSAE_OK);
        if ((g == NULL) != (modules[i].group == NULL) || (g && strcmp(g->name, modules[i].group)))
            fail_msg("%s: expected %s, found %s", modules[i].module, modules[i].group,
                     g ? g->name : "none");
    }
    assert_int_equal(qsae__ct_find(&ct, slow, &g), QSAE_EUNSUPPORTED);
    assert_non_null(strstr(qsae_error_message(), "match limits"));
    qsae__ct_close(ctx, &ct);
    json_decref(json);
    json = json_loads(all, 0, NULL);
    ct = (qsae__ct){ .config = NULL };
    assert_int_equal(qsae__ct_read(ctx, json, "it.json", &ct), QSAE_OK);
    assert_int_equal(qsae__ct_find(&ct, "x", &g), QSAE_OK);
    assert_string_equal(g->name, "a");
    assert_int_equal(qsae__ct_find(&ct, slow, &g), QSAE_EUNSUPPORTED);
    qsae__ct_close(ctx, &ct);
    json_decref(json);
    qsae_context_close(&ctx);
}

static int32_t read_once(qsae_context *ctx, const void *config)
{
    qsae__ct ct = { .config = NULL };
    const int32_t st = qsae__ct_read(ctx, config, "it.json", &ct);
    qsae__ct_close(ctx, &ct);
    return st;
}

static void test_memory(void **state)
{
    json_t *const config = merged_json(BASE, "{\"ignore\":[\"re:a\",\"re:b\"]}");
    (void)state;
    check_every_allocation(read_once, config, 2);
    json_decref(config);
}

int run_keys(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests_name("keys", tests, NULL, NULL);
}
