/* SPDX-License-Identifier: BSD-2-Clause */
/* Every SAE of tests/data/sae_formats, one or more of each file layout, against its publisher's
 * formula in f64 (tests/data/README.md); files of these layouts that must be refused. */
#include "sae_test.h"


static const json_t *get(const json_t *j, const char *key)
{
    return json_object_get(j, key);
}

static const double *text_or_number(const qsae_sae_info *info, const char *key, const char **text)
{
    static double number;
    const struct {
        const char *key, *text;
        double number;
    } members[] = {
        { "format", info->format, 0 },
        { "architecture", info->architecture, 0 },
        { "hook", info->hook, 0 },
        { "hook_out", info->hook_out, 0 },
        { "model_name", info->model_name, 0 },
        { "normalize", info->normalize, 0 },
        { "context_size", NULL, (double)info->context_size },
        { "prepend_bos", NULL, info->prepend_bos },
        { "skip", NULL, info->skip },
        { "apply_b_dec", NULL, info->apply_b_dec },
        { "encode_only", NULL, info->encode_only },
        { "scale", NULL, info->scale },
        { "norm_in", NULL, info->norm_in },
        { "norm_out", NULL, info->norm_out },
    };
    for (size_t i = 0; i < sizeof members / sizeof members[0]; i++)
        if (strcmp(key, members[i].key) == 0) {
            *text = members[i].text;
            number = members[i].number;
            return &number;
        }
    fail_msg("no member %s", key);
    return NULL;
}

static void check_info(const qsae_sae *sae, const json_t *want)
{
    qsae_sae_info info = { .struct_size = sizeof info };
    const char *key;
    json_t *v;
    assert_ok(qsae_sae_get_info(sae, &info));
    json_object_foreach((json_t *)(uintptr_t)want, key, v) {
        const char *text = NULL;
        const double *const number = text_or_number(&info, key, &text);
        if (json_is_string(v) && strcmp(text, json_string_value(v)) != 0)
            fail_msg("%s: %s: expected %s, found %s", info.path, key, json_string_value(v), text);
        if (!json_is_string(v) && !(fabs(*number - json_number_value(v)) <=
                                    1e-6 * fabs(json_number_value(v))))
            fail_msg("%s: %s: expected %g, found %g", info.path, key, json_number_value(v),
                     *number);
    }
}

static const void *data_of(qsae__tensors *t, const char *name, int64_t *rows, int64_t *cols)
{
    const qsae__tensor *const v = qsae__tensors_find(t, name);
    assert_non_null(v);
    assert_int_equal(v->rank, 2);
    *rows = v->shape[0];
    *cols = v->shape[1];
    return v->data;
}

/* Distance from want, as a part of max(1, |x|) of the row, must stay below limit; without limit
 * also the zeros must be those of want. */
static void check_rows(const char *path, const float *got, const double *want, const float *x,
                       int64_t n, int64_t cols, int64_t d, double limit, bool zeros)
{
    for (int64_t i = 0; i < n * cols; i++) {
        double norm = 0;
        for (int64_t j = 0; j < d; j++)
            norm += (double)x[i / cols * d + j] * x[i / cols * d + j];
        if (!(fabs(got[i] - want[i]) <= limit * fmax(1, sqrt(norm))) ||
            (zeros && (got[i] != 0) != (want[i] != 0)))
            fail_msg("%s: row %d, column %d: expected %g, found %g", path, (int)(i / cols),
                     (int)(i % cols), want[i], got[i]);
    }
}

static void check_values(qsae_context *ctx, const char *path, qsae_sae *sae, const json_t *j)
{
    char name[512];
    qsae__tensors *t = NULL;
    int64_t n, d, features, out;
    snprintf(name, sizeof name, "%s/sae_formats/%s.expected.safetensors", QSAE_TEST_DATA,
             json_string_value(get(j, "name")));
    assert_ok(qsae__tensors_load(ctx, name, &t));
    const void *const raw = data_of(t, "x", &n, &d);
    float *const x = malloc((size_t)(n * d) * sizeof *x);
    memcpy(x, raw, (size_t)(n * d) * sizeof *x);
    const double *const acts = data_of(t, "oracle.acts", &n, &features);
    const double *const recon = data_of(t, "oracle.recon", &n, &out);
    float *const a = calloc((size_t)(n * features), sizeof *a);
    float *const y = calloc((size_t)(n * out), sizeof *y);
    float *const state = calloc((size_t)n * 2, sizeof *state);
    qsae_rows rx = test_rows(x, n, d), ra = test_rows(a, n, features), ry = test_rows(y, n, out);

    assert_ok(qsae_sae_encode(sae, &rx, &ra, state));
    check_rows(path, a, acts, x, n, features, d,
               2 * json_real_value(get(j, "f32_error_acts")) + 1e-7, true);
    if (json_is_true(get(j, "decode"))) {
        assert_ok(qsae_sae_reconstruct(sae, &rx, &ry));
        check_rows(path, y, recon, x, n, out, d,
                   2 * json_real_value(get(j, "f32_error_recon")) + 1e-7, false);
    } else {
        assert_fails(qsae_sae_reconstruct(sae, &rx, &ry), QSAE_EUNSUPPORTED, "cross-layer");
        assert_fails(qsae_sae_decode(sae, &ra, state, &ry), QSAE_EUNSUPPORTED, "cross-layer");
    }
    free(x);
    free(a);
    free(y);
    free(state);
    qsae__tensors_unref(&t);
}

static void settings_of(const json_t *told, qsae_sae_settings *s)
{
    qsae_sae_settings_init(s, sizeof *s);
    s->scale = json_number_value(get(told, "scale"));
    s->activation = json_string_value(get(told, "activation"));
    s->center_input = (int32_t)json_integer_value(get(told, "center_input"));
}

static json_t *open_index(qsae_context *ctx)
{
    json_t *all = NULL;
    assert_ok(qsae__json_load(ctx, QSAE_TEST_DATA "/sae_formats/saes.json", &all));
    assert_true(json_array_size(get(all, "saes")) >= 50);
    return all;
}

static void test_formats(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    json_t *const all = open_index(ctx);
    size_t i;
    json_t *j;
    json_array_foreach(get(all, "saes"), i, j) {
        char path[512];
        qsae_sae *sae = NULL;
        qsae_sae_settings s;
        snprintf(path, sizeof path, "%s/sae_formats/%s", QSAE_TEST_DATA,
                 json_string_value(get(j, "path")));
        settings_of(get(j, "settings"), &s);
        assert_ok(qsae_sae_open(ctx, path, &s, &sae));
        check_info(sae, get(j, "info"));
        check_values(ctx, path, sae, j);
        qsae_sae_close(&sae);
    }
    json_decref(all);
    qsae_context_close(&ctx);
}

/* A scale that the files do not hold, given by the caller: the same as SAELens' folding. */
static void test_told_scale(void **state)
{
    static const char path[] = QSAE_TEST_DATA "/saes/old_average";
    (void)state;
    qsae_context *ctx = open_context(NULL, 1);
    qsae_sae *sae = NULL;
    qsae_sae_settings s;
    qsae__tensors *t = NULL;
    int64_t n, d, features;
    qsae_sae_settings_init(&s, sizeof s);
    s.scale = 0.37;
    assert_ok(qsae_sae_open(ctx, path, &s, &sae));
    assert_ok(qsae__tensors_load(ctx, QSAE_TEST_DATA
                                 "/saes/old_average_scaled.expected.safetensors", &t));
    const void *const raw = data_of(t, "x", &n, &d);
    const double *const acts = data_of(t, "oracle.acts", &n, &features);
    float *const x = malloc((size_t)(n * d) * sizeof *x);
    float *const a = calloc((size_t)(n * features), sizeof *a);
    memcpy(x, raw, (size_t)(n * d) * sizeof *x);
    qsae_rows rx = test_rows(x, n, d), ra = test_rows(a, n, features);
    assert_ok(qsae_sae_encode(sae, &rx, &ra, NULL));
    check_rows(path, a, acts, x, n, features, d, 4e-7, true);
    qsae_sae_close(&sae);
    s.scale = -1;
    assert_fails(qsae_sae_open(ctx, path, &s, &sae), QSAE_EINVAL, "scale");
    s.scale = 2;
    assert_fails(qsae_sae_open(ctx, QSAE_TEST_DATA "/saes/standard", &s, &sae), QSAE_EINVAL,
                 "scale");
    free(x);
    free(a);
    qsae__tensors_unref(&t);
    qsae_context_close(&ctx);
}

/* What a folder of several layers asks for. */
static void test_layers(void **state)
{
    static const struct {
        const char *path, *layer;
        int32_t status;
        const char *part;
    } cases[] = {
        { "set_relu", NULL, QSAE_EINVAL, "layers (0 to 7)" },
        { "set_relu", "7", QSAE_OK, NULL },
        { "set_relu", "07", QSAE_OK, NULL },
        { "set_relu#0", NULL, QSAE_OK, NULL },
        { "set_relu/layer_7.safetensors", NULL, QSAE_OK, NULL },
        { "set_relu/layer_7.safetensors", "0", QSAE_EINVAL, "layer 7" },
        { "set_relu", "3", QSAE_ENOENT, "layer 3" },
        { "set_relu", "x", QSAE_EINVAL, "layer" },
        { "set_relu", "7:8", QSAE_EINVAL, "itself only" },
        { "set_relu#x", NULL, QSAE_ENOENT, "no such" },
        { "clt", "1:0", QSAE_EINVAL, "layers 1 to 2" },
        { "clt", "1:3", QSAE_EINVAL, "layers 1 to 2" },
        { "clt/W_enc_2.safetensors", NULL, QSAE_OK, NULL },
        { "dl_AutoEncoder", "1", QSAE_EINVAL, "one SAE" },
        { "openmoss_relu", "1", QSAE_EINVAL, "one SAE" },
        { "openmoss_clt_relu", NULL, QSAE_EINVAL, "3 layers" },
        { "openmoss_clt_relu", "2:1", QSAE_EINVAL, "3 layers" },
        { "openmoss_clt_relu", "2:3", QSAE_EINVAL, "3 layers" },
        { "dl_AutoEncoder/ae.safetensors", NULL, QSAE_OK, NULL },
        { "dl_unfitted", NULL, QSAE_EUNSUPPORTED, "never fitted" },
        { "openai_relu", NULL, QSAE_EUNSUPPORTED, "settings.activation" },
        { "llama_scope_unit/checkpoints/final.safetensors", NULL, QSAE_OK, NULL },
        { "gemma-scope-2-1b-pt/clt/width_262k_l0_big_affine", "1:0", QSAE_EINVAL, "not to 0" },
        { "gemma-scope-2-1b-pt/clt/width_262k_l0_big_affine", "1:3", QSAE_EMISMATCH,
          "3 layers" },
    };
    (void)state;
    qsae_context *ctx = open_context("c", 1);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char path[512];
        qsae_sae *sae = NULL;
        qsae_sae_settings s;
        qsae_sae_settings_init(&s, sizeof s);
        s.layer = cases[i].layer;
        snprintf(path, sizeof path, "%s/sae_formats/%s", QSAE_TEST_DATA, cases[i].path);
        if (cases[i].status == QSAE_OK)
            assert_ok(qsae_sae_open(ctx, path, &s, &sae));
        else
            assert_fails(qsae_sae_open(ctx, path, &s, &sae), cases[i].status, cases[i].part);
        qsae_sae_close(&sae);
    }
    qsae_context_close(&ctx);
}

static char *read_whole(const char *path, size_t *size)
{
    FILE *const f = fopen(path, "rb");
    assert_non_null(f);
    char *const data = malloc(1 << 20);
    *size = fread(data, 1, 1 << 20, f);
    assert_in_range(*size, 1, (1 << 20) - 1);
    fclose(f);
    return data;
}

/* What a folder of a known layout with a changed configuration or file of parameters is: an error
 * that names the thing, never a crash; where it opens, encoding runs. */
static void mutate(qsae_context *ctx, const char *source, const char *name,
                   const char *other_source, const char *other, const char *layer,
                   uint32_t seed, int rounds)
{
    size_t size, other_size;
    char *const data = read_whole(source, &size);
    char *const more = read_whole(other_source, &other_size);
    char *const copy = malloc(size);
    test_write(other, more, other_size);
    for (int i = 0; i < rounds; i++) {
        size_t n = size;
        memcpy(copy, data, size);
        for (int k = 0; k < 1 + i % 3; k++) {
            seed = seed * 1664525u + 1013904223u;
            /* Most of a file of tensors are values: the header is what must be read with care. */
            const size_t at = (seed >> 8) % (size < 900 ? size : 900);
            static const char bytes[] = "0189-.\"{}[]:,eEtnxX \x00\xff\x7f";
            copy[at] = seed & 64 ? bytes[(seed >> 3) % (sizeof bytes - 1)]
                                 : (char)(copy[at] ^ (1 << (seed & 7)));
        }
        if (i % 17 == 0)
            n = (seed >> 4) % size;
        test_write(name, copy, n);
        qsae_sae *sae = NULL;
        qsae_sae_info info = { .struct_size = sizeof info };
        qsae_sae_settings s;
        qsae_sae_settings_init(&s, sizeof s);
        s.activation = i % 2 ? "relu" : NULL;
        s.layer = layer;
        const int32_t st = qsae_sae_open(ctx, test_folder, &s, &sae);
        if (st == QSAE_OK) {
            assert_ok(qsae_sae_get_info(sae, &info));
            if (info.width <= 64 && info.features <= 64) {
                float x[64] = { 1, -2, 3 }, a[64];
                qsae_rows rx = test_rows(x, 1, info.width), ra = test_rows(a, 1, info.features);
                float sd[2];
                assert_ok(qsae_sae_encode(sae, &rx, &ra, sd));
            }
            qsae_sae_close(&sae);
        } else {
            assert_null(sae);
            assert_true(qsae_error_message()[0] != 0);
        }
    }
    test_remove(name);
    test_remove(other);
    free(data);
    free(more);
    free(copy);
}

static void test_mutations(void **state)
{
    static const char *const folders[][4] = { /* files and, of several layers, one */
        { "sparsify_topk/layers.3", "cfg.json", "sae.safetensors" },
        { "openmoss_jump", "config.json", "sae_weights.safetensors" },
        { "400M-Slimpajama-400M-OpenR1-Math-220k/L15R", "config.json", "sae_weights.safetensors" },
        { "dl_MatryoshkaBatchTopKSAE", "config.json", "ae.safetensors" },
        { "dl_GatedAutoEncoder", "config.json", "ae.safetensors" },
        { "set_jump", "config.yaml", "layer_7.safetensors" },
        { "saelens_checkpoint", "cfg.json", "sae_weights.safetensors" },
        { "openmoss_clt_jump", "config.json", "sae_weights.safetensors", "1:2" },
        { "gemma-scope-2-1b-pt/clt/width_262k_l0_big_affine", "params_layer_0.safetensors",
          "params_layer_1.safetensors", "1:2" },
        { "clt", "W_enc_1.safetensors", "W_dec_1.safetensors", "1:2" },
    };
    const char *const set = getenv("QSAE_TEST_MUTATIONS");
    const int rounds = set ? atoi(set) : 150;
    (void)state;
    qsae_context *ctx = open_context("c", 1);
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
        char a[512], b[512];
        snprintf(a, sizeof a, "%s/sae_formats/%s/%s", QSAE_TEST_DATA, folders[i][0], folders[i][1]);
        snprintf(b, sizeof b, "%s/sae_formats/%s/%s", QSAE_TEST_DATA, folders[i][0], folders[i][2]);
        const char *const layer = folders[i][3];
        mutate(ctx, a, folders[i][1], b, folders[i][2], layer, 7 + (uint32_t)i, rounds);
        mutate(ctx, b, folders[i][2], a, folders[i][1], layer, 99 + (uint32_t)i, rounds);
    }
    qsae_context_close(&ctx);
}

static void test_yaml(void **state)
{
    static const char good[] =
        "# head\n---\nname: \"a \\\"b\\\" # c\"\nplain: x#y # comment\nnumber: 12\nreal: -1.5e2\n"
        "yes: true\nnone: ~\nquoted: 'it''s'\nurl: http://a:b\r\nlist:\n- a: 1\n  b: 2\n- c\n"
        "flow: [1, 2]\nempty: {}\nmap:\n  inner:\n    value: 7\n  other: 3.0\nlast: .5\nid: 1_0\n";
    static const char *const bad[] = {
        "a: 1\na: 2\n", "a\n", "\ta: 1\n", "a: 'x\n", "a: {b: 1}\n", "a: |\n  x\n", "a: &x 1\n",
        "a: *x\n", "a: !!str 1\n", "a: [1,\n", "a: \"\\q\"\n", "- a\n", "a: 1\n  b: 2\n",
        "a:\n    b: 1\n  c: 2\n", ": 1\n", "a: \xff\n", "? a\n",
    };
    json_t *j = NULL;
    (void)state;
    assert_ok(qsae__yaml_parse(good, sizeof good - 1, "good", &j));
    assert_string_equal(json_string_value(get(j, "name")), "a \"b\" # c");
    assert_string_equal(json_string_value(get(j, "plain")), "x#y");
    assert_int_equal(json_integer_value(get(j, "number")), 12);
    assert_true(json_real_value(get(j, "real")) == -150);
    assert_true(json_is_null(get(j, "none")));
    assert_string_equal(json_string_value(get(j, "quoted")), "it's");
    assert_string_equal(json_string_value(get(j, "url")), "http://a:b");
    assert_true(json_is_null(get(j, "list")) && json_is_null(get(j, "flow")));
    assert_int_equal(json_integer_value(get(get(get(j, "map"), "inner"), "value")), 7);
    assert_true(json_real_value(get(get(j, "map"), "other")) == 3);
    assert_true(json_real_value(get(j, "last")) == 0.5);
    assert_string_equal(json_string_value(get(j, "id")), "1_0");
    json_decref(j);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const int32_t st = qsae__yaml_parse(bad[i], strlen(bad[i]), "bad.yaml", &j);
        if (st != QSAE_EFORMAT && st != QSAE_EUNSUPPORTED)
            fail_msg("%s: found status %d", bad[i], (int)st);
        assert_null(j);
        assert_non_null(strstr(qsae_error_message(), "bad.yaml: line "));
    }
}

/* Folder of the fixtures, name of its parameters and of the configuration. */
#define SPARSIFY "sparsify_topk/layers.3/sae.safetensors", "sae.safetensors", "cfg.json"
#define BATCHTOPK "dl_BatchTopKSAE/ae.safetensors", "ae.safetensors", "config.json"
#define OPENMOSS "openmoss_jump/sae_weights.safetensors", "sae_weights.safetensors", "config.json"
#define SET "set_jump/layer_7.safetensors", "layer_7.safetensors", "config.yaml"
#define TEMPORAL "set_jump/layer_7.safetensors", "latest_ckpt.safetensors", "conf.yaml"

/* Single keys and tensors of each layout that are wrong. */
static void test_wrong(void **state)
{
    static const struct {
        const char *source, *params, *config, *text;
        int32_t status;
        const char *part;
    } cases[] = {
        { SPARSIFY, "{\"k\": 4}", QSAE_EFORMAT, "d_in" },
        { SPARSIFY, "{\"d_in\": 8, \"num_latents\": 11}", QSAE_EMISMATCH, "d_sae = 11" },
        { SPARSIFY, "{\"d_in\": 8, \"num_latents\": 10, \"activation\": \"relu\"}",
          QSAE_EUNSUPPORTED,
          "groupmax" },
        { SPARSIFY, "{\"d_in\": 8, \"num_latents\": 10, \"activation\": \"groupmax\", \"k\": 3}",
          QSAE_EMISMATCH,
          "k = 3" },
        { SPARSIFY, "{\"d_in\": 8, \"num_latents\": 10, \"skip_connection\": true, \"k\": 3}",
          QSAE_ENOENT,
          "W_skip" },
        { BATCHTOPK, "{}", QSAE_EFORMAT, "trainer" },
        { BATCHTOPK, "{\"trainer\": {\"dict_class\": \"IdentityDict\"}}", QSAE_EUNSUPPORTED,
          "IdentityDict" },
        { BATCHTOPK, "{\"trainer\": {\"dict_class\": \"GatedAutoEncoder\"}}", QSAE_ENOENT,
          "gate_bias" },
        { BATCHTOPK, "{\"trainer\": {\"dict_class\": \"BatchTopKSAE\", \"dict_size\": 9}}",
          QSAE_EMISMATCH,
          "d_sae" },
        { OPENMOSS, "{}", QSAE_EFORMAT, "d_model" },
        { OPENMOSS, "{\"d_model\": 8, \"act_fn\": \"batchtopk\"}", QSAE_EUNSUPPORTED,
          "batchtopk" },
        { OPENMOSS, "{\"d_model\": 8, \"norm_activation\": \"batch-wise\"}", QSAE_EUNSUPPORTED,
          "batch-wise" },
        { OPENMOSS, "{\"d_model\": 8, \"use_glu_encoder\": true}", QSAE_EUNSUPPORTED,
          "use_glu_encoder" },
        { SET, "activation: relu\n", QSAE_EMISMATCH, "activation" },
        { SET, "k: [\n", QSAE_EUNSUPPORTED, "line 1" },
        { TEMPORAL, "a: 1\n", QSAE_EUNSUPPORTED, "temporal" },
    };
    (void)state;
    qsae_context *ctx = open_context("c", 1);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char path[512];
        size_t size;
        qsae_sae *sae = NULL;
        snprintf(path, sizeof path, "%s/sae_formats/%s", QSAE_TEST_DATA, cases[i].source);
        char *const data = read_whole(path, &size);
        test_write(cases[i].params, data, size);
        test_write(cases[i].config, cases[i].text, strlen(cases[i].text));
        assert_fails(qsae_sae_open(ctx, test_folder, NULL, &sae), cases[i].status, cases[i].part);
        assert_null(sae);
        test_remove(cases[i].params);
        test_remove(cases[i].config);
        free(data);
    }
    qsae_context_close(&ctx);
}

const struct CMUnitTest format_tests[] = {
    cmocka_unit_test(test_formats),   cmocka_unit_test(test_told_scale),
    cmocka_unit_test(test_layers),    cmocka_unit_test(test_wrong),
    cmocka_unit_test(test_mutations), cmocka_unit_test(test_yaml),
};
const size_t n_format_tests = sizeof format_tests / sizeof format_tests[0];
