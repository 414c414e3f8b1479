/* SPDX-License-Identifier: BSD-2-Clause */
/* Where SAEs belong, by what is told and what their files say; places that are refused. */
#include <sys/stat.h>
#include <unistd.h>

#include "document.h"

#define FILES QSAE_TEST_DATA "/transcoders"

static char folder[] = "/tmp/qsae-places-XXXXXX";
static char sae_folder[64]; /* with an @ in its name */

static int make_folder(void **state)
{
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    snprintf(sae_folder, sizeof sae_folder, "%s/sae@x", folder);
    return mkdir(sae_folder, 0700);
}

static void in(char path[128], const char *name)
{
    snprintf(path, 128, "%s/%s", sae_folder, name);
}

static int remove_folder(void **state)
{
    char path[128];
    (void)state;
    in(path, "cfg.json");
    unlink(path);
    in(path, "sae_weights.safetensors");
    unlink(path);
    return rmdir(sae_folder) | rmdir(folder);
}

/* What an SAE's files say. */
struct files {
    const char *weights;         /* of a folder */
    const char *architecture;
    const char *hook, *hook_out; /* NULL: not there */
    int head;                    /* -1: none */
    bool centred;
};

static void write_files(const struct files *f)
{
    char path[128], from[512];
    json_t *const more = json_pack("{s:s,s:s*,s:s*}", "sae_lens_version", "6.1", "hook_name",
                                   f->hook, "hook_name_out", f->hook_out);
    if (f->head >= 0)
        json_object_set_new(more, "hook_head_index", json_integer(f->head));
    if (f->centred)
        json_object_set_new(more, "model_from_pretrained_kwargs",
                            json_pack("{s:b}", "center_writing_weights", 1));
    json_t *const cfg = json_pack("{s:s,s:o}", "architecture", f->architecture, "metadata", more);
    assert_non_null(cfg);
    const int d = f->head >= 0 ? 32 : 128;
    json_object_set_new(cfg, "d_in", json_integer(d));
    in(path, "cfg.json");
    assert_int_equal(json_dump_file(cfg, path, 0), 0);
    json_decref(cfg);
    in(path, "sae_weights.safetensors");
    snprintf(from, sizeof from, "%s/sae_weights.safetensors", f->weights);
    unlink(path);
    assert_int_equal(symlink(from, path), 0);
}

static void settings(qsae_audit_settings *s, const char *const *sae)
{
    defaults(s);
    s->context = 64;
    s->max_tokens = 128;
    s->reference_only = 1;
    s->saes = sae;
}

#define SAE DATA "/tiny-gemma3-sae", "jumprelu"
#define SKIP FILES "/skip", "jumprelu_skip_transcoder"
#define HEAD FILES "/head", "jumprelu"
#define RESID "blocks.3.hook_resid_post"
#define MLP_IN "blocks.2.mlp.hook_in"
#define MLP_OUT "blocks.3.hook_mlp_out"

static void test_places(void **state)
{
    static const struct {
        struct files files;
        const char *told;        /* behind the folder's name */
        int input_layer;
        const char *input_site;
        int layer;
        const char *site;
    } cases[] = {
        { { SAE, RESID, NULL, -1, false }, "", 3, "resid_post", 3, "resid_post" },
        { { SAE, RESID, NULL, -1, false }, "@2", 2, "resid_post", 2, "resid_post" },
        { { SAE, RESID, NULL, -1, false }, "@0:resid_pre", 0, "resid_pre", 0, "resid_pre" },
        { { SAE, "blocks.4.hook_attn_out", NULL, -1, false }, "@2", 2, "attn_out", 2, "attn_out" },
        { { SAE, NULL, NULL, -1, false }, "@1", 1, "resid_post", 1, "resid_post" },
        { { SAE, "mystery", NULL, -1, false }, "@1", 1, "resid_post", 1, "resid_post" },
        { { SAE, "mystery", NULL, -1, false }, "@1:mlp_out", 1, "mlp_out", 1, "mlp_out" },
        { { SKIP, MLP_IN, MLP_OUT, -1, false }, "", 2, "mlp_in", 3, "mlp_out" },
        { { SKIP, MLP_IN, MLP_OUT, -1, false }, "@1", 1, "mlp_in", 2, "mlp_out" },
        { { SKIP, MLP_IN, MLP_OUT, -1, false }, "@4:attn_out", 4, "attn_out", 5, "mlp_out" },
        { { SKIP, MLP_IN, MLP_OUT, -1, false }, "@1:mlp_in:mlp_out", 1, "mlp_in", 1, "mlp_out" },
        { { SKIP, MLP_IN, MLP_OUT, -1, false }, "@1:mlp_in>blocks.4.hook_mlp_out", 1, "mlp_in", 4,
          "mlp_out" },
        { { SKIP, MLP_IN, "mlp_out", -1, false }, "", 2, "mlp_in", 2, "mlp_out" },
        { { SKIP, "mystery", MLP_OUT, -1, false }, "@1:mlp_in", 1, "mlp_in", 1, "mlp_out" },
        { { HEAD, "blocks.1.attn.hook_z", NULL, 3, false }, "@5", 5, "z", 5, "z" },
    };
    (void)state;
    qsae_context *ctx = open_context(NULL, 1);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char path[192];
        const char *const sae = path;
        qsae_audit_settings s;
        snprintf(path, sizeof path, "%s%s", sae_folder, cases[i].told);
        write_files(&cases[i].files);
        settings(&s, &sae);
        json_t *const result = run(ctx, &s);
        const json_t *const got = json_array_get(
            json_object_get(json_object_get(result, "reference"), "saes"), 0);
        near(cases[i].told, at(got, "input_layer"), cases[i].input_layer, 0);
        near(cases[i].told, at(got, "layer"), cases[i].layer, 0);
        assert_string_equal(text_at(got, "input_site"), cases[i].input_site);
        assert_string_equal(text_at(got, "site"), cases[i].site);
        json_decref(result);
    }
    qsae_context_close(&ctx);
}

static void test_refused(void **state)
{
    static const struct {
        struct files files;
        const char *told;
        int32_t status;
        const char *part;
    } cases[] = {
        { { SAE, NULL, NULL, -1, false }, "", QSAE_EINVAL, "its files name no hook; give " },
        { { SKIP, NULL, NULL, -1, false }, "@1", QSAE_EINVAL, "sae@x@LAYER:SITE:SITE_OUT" },
        { { SKIP, "mystery", MLP_OUT, -1, false }, "@1", QSAE_EINVAL,
          "its files name no hook of this model; give " },
        { { SAE, "mystery", NULL, -1, false }, "", QSAE_EUNSUPPORTED,
          "hook \"mystery\" is not available in this model" },
        { { SAE, "resid_post", NULL, -1, false }, "", QSAE_EUNSUPPORTED,
          "hook \"resid_post\" is not available" }, /* of which layer is not said */
        { { SAE, "blocks.6.hook_resid_post", NULL, -1, false }, "", QSAE_EMISMATCH,
          "layer 6, the model has layers 0..5" },
        { { SAE, RESID, NULL, -1, false }, "@99999999999999999999", QSAE_EMISMATCH,
          "layer 2147483647, the model has layers 0..5" },
        { { SAE, RESID, NULL, -1, false }, "@1:mystery", QSAE_EUNSUPPORTED,
          "site mystery: expected one that this model has" },
        { { SAE, RESID, NULL, -1, false }, "@1:", QSAE_EUNSUPPORTED, "site : expected one" },
        { { SAE, RESID, NULL, -1, false }, "@1:mlp_post", QSAE_EMISMATCH,
          "width 128 to 128, the model has 384 at mlp_post" },
        { { SAE, RESID, NULL, -1, false }, "@1:mlp_in:mlp_out", QSAE_EINVAL,
          "site mlp_out: only transcoders have a second one" },
        { { SAE, RESID, NULL, -1, false }, "@", QSAE_ENOENT, "sae@x@: no such file" },
        { { SAE, RESID, NULL, -1, false }, "@-1", QSAE_ENOENT, "sae@x@-1: no such file" },
        { { SAE, RESID, NULL, -1, false }, "@1x", QSAE_ENOENT, "sae@x@1x: no such file" },
        { { SAE, RESID, NULL, -1, true }, "", QSAE_EINVAL,
          "trained on a model with centred weights; process: expected" },
        { { SKIP, MLP_IN, MLP_IN, -1, false }, "", QSAE_EINVAL,
          "do not say where its output belongs; give " },
        { { SKIP, MLP_IN, "mystery", -1, false }, "", QSAE_EUNSUPPORTED,
          "output hook \"mystery\" is not available" },
        { { SKIP, MLP_IN, MLP_OUT, -1, false }, "@1:mlp_in:mystery", QSAE_EUNSUPPORTED,
          "site mystery: expected one" },
        { { SKIP, MLP_IN, MLP_OUT, -1, false }, "@5", QSAE_EMISMATCH, "layer 6, the model has" },
        { { HEAD, "blocks.1.attn.hook_z", NULL, 4, false }, "", QSAE_EMISMATCH,
          "attention head 4, the model has 4" },
        { { HEAD, "blocks.1.hook_attn_out", NULL, 0, false }, "", QSAE_EUNSUPPORTED,
          "it is of attention head 0; expected site z" },
    };
    (void)state;
    qsae_context *ctx = open_context(NULL, 1);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char path[192];
        const char *const sae = path;
        qsae_audit_settings s;
        qsae_audit *audit = NULL;
        snprintf(path, sizeof path, "%s%s", sae_folder, cases[i].told);
        write_files(&cases[i].files);
        settings(&s, &sae);
        assert_fails(qsae_audit_open(ctx, &s, &audit), cases[i].status, cases[i].part);
        assert_null(audit);
    }
    qsae_context_close(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_places), cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests_name("places", tests, make_folder, remove_folder);
}
