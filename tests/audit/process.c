/* SPDX-License-Identifier: BSD-2-Clause */
/* Weight processing in an audit: what profiles and callers ask for, and what the document says. */
#include <unistd.h>

#include "document.h"

#define ALL "fold_ln,center_writing_weights,center_unembed,fold_value_biases"

static const char *const files[] = { "config.json", "model.safetensors", "tokenizer.json",
                                     "text.txt" };

static void write_file(const char *folder, const char *name, const char *text, size_t size)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}

/* A folder with a checkpoint of tests/data/models, a tokenizer of letters and a text of them. */
static void make_model(const char *name, char folder[64])
{
    char path[512], tokenizer[1024], text[1200];
    uint32_t seed = 5;
    snprintf(folder, 64, "/tmp/qsae-process-XXXXXX");
    assert_non_null(mkdtemp(folder));
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, QSAE_TEST_DATA "/models/%s/%s", name, files[i]);
        FILE *f = fopen(path, "rb");
        assert_non_null(f);
        char *const data = malloc(1 << 20);
        assert_non_null(data);
        write_file(folder, files[i], data, fread(data, 1, 1 << 20, f));
        free(data);
        fclose(f);
    }
    int n = snprintf(tokenizer, sizeof tokenizer,
                     "{\"added_tokens\":[],\"normalizer\":null,\"pre_tokenizer\":null,"
                     "\"post_processor\":null,\"decoder\":null,\"model\":{\"type\":\"BPE\","
                     "\"merges\":[],\"vocab\":{\" \":0");
    for (int i = 0; i < 26; i++)
        n += snprintf(tokenizer + n, sizeof tokenizer - (size_t)n, ",\"%c\":%d", 'a' + i, i + 1);
    n += snprintf(tokenizer + n, sizeof tokenizer - (size_t)n, "}}}");
    write_file(folder, files[2], tokenizer, (size_t)n);
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (char)('a' + next_random(&seed) % 26);
    write_file(folder, files[3], text, sizeof text);
}

static void remove_model(const char *folder)
{
    char path[256];
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, files[i]);
        assert_int_equal(unlink(path), 0);
    }
    assert_int_equal(rmdir(folder), 0);
}

static void settings_of(const char *folder, char text[128], qsae_audit_settings *s)
{
    snprintf(text, 128, "%s/text.txt", folder);
    qsae_audit_settings_init(s, sizeof *s);
    s->model = folder;
    s->text = text;
    s->profile = QSAE_PROFILE_PAPER;
    s->context = 40;
}

/* The profile processes a model with LayerNorm; its predictions stay, what a code does to it does
 * not. */
static void test_profile(void **state)
{
    static const char *const processes[] = { NULL, "tl", "none", "fold_ln" };
    static const char *const done[] = { ALL, ALL, "none", "fold_ln" };
    char folder[64], text[128], fingerprint[4][64];
    qsae_context *ctx = open_context(NULL, 2);
    double ce[4], dce[4];
    (void)state;
    make_model("neox_parallel", folder);
    const char *conditions[] = { "rtn:bits=4,axis=tl", folder };
    for (int i = 0; i < 4; i++) {
        qsae_audit_settings s;
        settings_of(folder, text, &s);
        s.conditions = conditions;
        s.n_conditions = 2;
        s.process = processes[i];
        json_t *const result = run(ctx, &s);
        assert_string_equal(text_at(result, "process"), done[i]);
        snprintf(fingerprint[i], sizeof fingerprint[i], "%s", text_at(result, "fingerprint"));
        ce[i] = reference_ce(result);
        dce[i] = at(condition_at(result, 0), "dce");
        /* The same checkpoint as a condition is processed too: nothing differs. */
        const json_t *const other = json_object_get(condition_at(result, 1), "checkpoint");
        assert_string_equal(text_at(other, "process"), done[i]);
        assert_int_equal(json_array_size(json_object_get(other, "differences")), 0);
        near("kl", at(condition_at(result, 1), "kl_max"), 0, 0);
        json_decref(result);
    }
    assert_true(ce[0] == ce[1] && dce[0] == dce[1]);
    assert_string_equal(fingerprint[0], fingerprint[1]);
    for (int i = 2; i < 4; i++) {
        near("ce", ce[i], ce[0], 1e-5);
        assert_true(fabs(dce[i] - dce[0]) > 1e-4);
        assert_string_not_equal(fingerprint[i], fingerprint[0]);
    }
    assert_string_not_equal(fingerprint[2], fingerprint[3]);
    remove_model(folder);
    qsae_context_close(&ctx);
}

/* Models with RMSNorm stay as they are unless the caller says so; other profiles process none. */
static void test_rms_norm(void **state)
{
    qsae_context *ctx = open_context(NULL, 2);
    const int32_t profiles[] = { QSAE_PROFILE_PAPER, QSAE_PROFILE_DEFAULT, QSAE_PROFILE_ARTICLE };
    (void)state;
    for (int i = 0; i < 4; i++) {
        qsae_audit_settings s;
        defaults(&s);
        s.profile = profiles[i % 3];
        s.process = i == 3 ? "tl" : NULL;
        s.max_tokens = 500;
        qsae_audit *audit;
        assert_ok(qsae_audit_open(ctx, &s, &audit));
        json_t *const result = result_of(audit);
        assert_string_equal(text_at(result, "process"), i == 3 ? "fold_ln,center_unembed" : "none");
        json_decref(result);
        qsae_audit_close(&audit);
    }
    qsae_context_close(&ctx);
}

static void test_refused(void **state)
{
    char folder[64], text[128];
    qsae_context *ctx = open_context(NULL, 1);
    qsae_audit_settings s;
    qsae_audit *audit;
    (void)state;
    make_model("neox_nf4", folder);
    settings_of(folder, text, &s);
    assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_EUNSUPPORTED, "process is \"none\"");
    s.process = "fold_ln";
    assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_EUNSUPPORTED, "(bitsandbytes)");
    s.process = "fold";
    assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_EINVAL, "\"fold\"");
    s.process = "none";
    assert_ok(qsae_audit_open(ctx, &s, &audit));
    qsae_audit_close(&audit);
    remove_model(folder);
    qsae_context_close(&ctx);
}

/* SAEs of models with centred weights, and one layer of a cross-layer transcoder. */
static void test_saes(void **state)
{
    (void)state;
    static const char *const centred = QSAE_TEST_DATA "/sae_kinds/centred@1";
    char folder[64], text[128];
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    qsae_audit *audit;
    make_model("neox_parallel", folder);
    settings_of(folder, text, &s);
    s.process = "none";
    s.saes = &centred;
    s.n_saes = 1;
    assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_EINVAL, "center_writing_weights");
    s.process = "tl";
    const int32_t st = qsae_audit_open(ctx, &s, &audit);
    if (st != QSAE_OK) /* then by its width alone */
        assert_non_null(strstr(qsae_error_message(), "width"));
    qsae_audit_close(&audit);
    remove_model(folder);
    qsae_context_close(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_profile),
        cmocka_unit_test(test_rms_norm),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_saes),
    };
    return cmocka_run_group_tests_name("process", tests, NULL, NULL);
}
