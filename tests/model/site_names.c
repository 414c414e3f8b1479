/* SPDX-License-Identifier: BSD-2-Clause */
/* Sites by name, and what a module's name means in each family. */
#include "model_test.h"

#define N_SITES 14

static void test_short_names(void **state)
{
    (void)state;
    int32_t layer = 5;
    for (int32_t site = 1; site <= N_SITES; site++) {
        const bool none = site == QSAE_SITE_EMBED || site == QSAE_SITE_POS_EMBED ||
                          site == QSAE_SITE_FINAL_NORM || site == QSAE_SITE_FINAL_NORMALIZED;
        assert_non_null(qsae_site_name(site));
        assert_int_equal(qsae_site_from_name(qsae_site_name(site), &layer), site);
        assert_int_equal(layer, none ? -1 : 5);
        layer = 5;
    }
    assert_null(qsae_site_name(0));
    assert_null(qsae_site_name(-1));
    assert_null(qsae_site_name(N_SITES + 1));
    assert_string_equal(qsae_site_name(QSAE_SITE_RESID_POST), "resid_post");
    assert_string_equal(qsae_site_name(QSAE_SITE_Z), "z");
}

struct named {
    const char *name;
    int32_t site, layer; /* 5: untouched */
};

static void test_full_names(void **state)
{
    static const struct named cases[] = {
        { "hook_resid_post", QSAE_SITE_RESID_POST, 5 },
        { "attn.hook_z", QSAE_SITE_Z, 5 },
        { "hook_z", QSAE_SITE_Z, 5 },
        { "blocks.3.hook_resid_pre", QSAE_SITE_RESID_PRE, 3 },
        { "blocks.3.hook_resid_mid", QSAE_SITE_RESID_MID, 3 },
        { "blocks.31.hook_resid_post", QSAE_SITE_RESID_POST, 31 },
        { "blocks.3.attn.hook_z", QSAE_SITE_Z, 3 },
        { "blocks.3.hook_attn_out", QSAE_SITE_ATTN_OUT, 3 },
        { "blocks.3.hook_mlp_out", QSAE_SITE_MLP_OUT, 3 },
        { "blocks.3.mlp.hook_in", QSAE_SITE_MLP_IN, 3 },
        { "blocks.3.hook_mlp_in", QSAE_SITE_RESID_MID, 3 },
        { "blocks.3.hook_in", QSAE_SITE_RESID_PRE, 3 },
        { "blocks.3.hook_out", QSAE_SITE_RESID_POST, 3 },
        { "blocks.3.ln2.hook_in", QSAE_SITE_RESID_MID, 3 },
        { "blocks.3.ln1.hook_normalized", QSAE_SITE_LN1_NORMALIZED, 3 },
        { "blocks.3.ln2.hook_normalized", QSAE_SITE_LN2_NORMALIZED, 3 },
        { "blocks.3.mlp.hook_post", QSAE_SITE_MLP_POST, 3 },
        { "hook_embed", QSAE_SITE_EMBED, -1 },
        { "hook_pos_embed", QSAE_SITE_POS_EMBED, -1 },
        { "ln_final.hook_normalized", QSAE_SITE_FINAL_NORMALIZED, -1 },
        { "model.layers.17.output", QSAE_SITE_RESID_POST, 17 },
        { "model.layers.3", QSAE_SITE_RESID_POST, 3 },
        { "model.layers.3.input", QSAE_SITE_RESID_PRE, 3 },
        { "model.layers.3.self_attn.o_proj.input", QSAE_SITE_Z, 3 },
        { "model.layers.3.post_feedforward_layernorm.output", QSAE_SITE_MLP_OUT, 3 },
        { "model.layers.3.pre_feedforward_layernorm.output", QSAE_SITE_MLP_IN, 3 },
        { "model.layers.3.pre_feedforward_layernorm.input", QSAE_SITE_RESID_MID, 3 },
        { "model.layers.3.mlp.output", QSAE_SITE_MLP_OUT, 3 },
        { "model.layers.3.mlp.input", QSAE_SITE_MLP_IN, 3 },
        { "model.layers.3.mlp.down_proj.input", QSAE_SITE_MLP_POST, 3 },
        { "model.language_model.layers.3.output", QSAE_SITE_RESID_POST, 3 },
        { "language_model.model.layers.3.output", QSAE_SITE_RESID_POST, 3 },
        { "gpt_neox.layers.3.output", QSAE_SITE_RESID_POST, 3 },
        { "gpt_neox.layers.3.attention.dense.input", QSAE_SITE_Z, 3 },
        { "gpt_neox.layers.3.attention.dense.output", QSAE_SITE_ATTN_OUT, 3 },
        { "gpt_neox.layers.3.mlp.act.output", QSAE_SITE_MLP_POST, 3 },
        { "transformer.h.3.input", QSAE_SITE_RESID_PRE, 3 },
        { "transformer.h.3.attn.c_proj.input", QSAE_SITE_Z, 3 },
        { "transformer.h.3.ln_2.input", QSAE_SITE_RESID_MID, 3 },
        { "transformer.h.3.mlp.c_proj.output", QSAE_SITE_MLP_OUT, 3 },
        { "layers.3", QSAE_SITE_RESID_POST, 3 },
        { "h.3", QSAE_SITE_RESID_POST, 3 },
        { "layers.3.mlp", QSAE_SITE_MLP_OUT, 3 },
        { "embed_tokens", QSAE_SITE_EMBED, -1 },
        { "model.embed_tokens.output", QSAE_SITE_EMBED, -1 },
        { "transformer.wpe.output", QSAE_SITE_POS_EMBED, -1 },
        { "gpt_neox.embed_in.output", QSAE_SITE_EMBED, -1 },
        { "model.norm.output", QSAE_SITE_FINAL_NORM, -1 },
        { "transformer.ln_f.output", QSAE_SITE_FINAL_NORM, -1 },
        { "lm_head.input", QSAE_SITE_FINAL_NORM, -1 },
        /* another thing in another family, or nothing */
        { "model.layers.3.post_attention_layernorm.output", 0, 5 },
        { "model.norm.input", 0, 5 },
        { "", 0, 5 },
        { "resid", 0, 5 },
        { "blocks.", 0, 5 },
        { "blocks.3", 0, 5 },
        { "blocks.3.", 0, 5 },
        { "blocks.3.hook_embed", 0, 5 },
        { "blocks..hook_resid_post", 0, 5 },
        { "blocks.x.hook_resid_post", 0, 5 },
        { "blocks.-1.hook_resid_post", 0, 5 },
        { "blocks.3.hook_resid_postx", 0, 5 },
        { "blocks.99999999999.hook_resid_post", 0, 5 },
        { "model.layers.3.", 0, 5 },
        { "model.layers.3x", 0, 5 },
        { "model.layers.3.outputs", 0, 5 },
        { "model.layers.3..output", 0, 5 },
        { "model.layers.3.self_attn.q_proj.input", 0, 5 },
        { "model.layers.3.self_attn.q_proj.output", 0, 5 },
        { "model.layers.3.mlp.gate_proj.output", 0, 5 },
        { "model.layers.3.self_attn.o_proj.inputoutput", 0, 5 },
        { "output", 0, 5 },
        { ".output", 0, 5 },
        { "model.", 0, 5 },
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int32_t layer = 5;
        const int32_t site = qsae_site_from_name(cases[i].name, &layer);
        if (site != cases[i].site || layer != cases[i].layer)
            fail_msg("%s: site %d layer %d, expected %d and %d", cases[i].name, (int)site,
                     (int)layer, (int)cases[i].site, (int)cases[i].layer);
        assert_int_equal(qsae_site_from_name(cases[i].name, NULL), site);
        /* Every beginning, in memory of its own size. */
        for (size_t n = 0; n < strlen(cases[i].name); n++) {
            char *const part = malloc(n + 1);
            assert_non_null(part);
            memcpy(part, cases[i].name, n);
            part[n] = 0;
            layer = 5;
            if (!qsae_site_from_name(part, &layer))
                assert_int_equal(layer, 5);
            free(part);
        }
    }
    assert_int_equal(qsae_site_from_name(NULL, NULL), 0);
}

/* What a module means depends on the family. */
static void test_model_names(void **state)
{
    static const char *const models[] = { "llama_bias", "gemma2_cap", "neox_parallel",
                                          "neox_sequential", "gpt2_layers" };
    static const struct {
        const char *name;
        int32_t site[5]; /* of these models */
    } cases[] = {
        { "model.layers.1.post_attention_layernorm.output",
          { QSAE_SITE_MLP_IN, QSAE_SITE_ATTN_OUT, QSAE_SITE_MLP_IN, QSAE_SITE_MLP_IN, 0 } },
        { "model.layers.1.post_attention_layernorm.input",
          { QSAE_SITE_RESID_MID, 0, QSAE_SITE_RESID_PRE, QSAE_SITE_RESID_MID, 0 } },
        { "model.layers.1.self_attn.o_proj.output", { QSAE_SITE_ATTN_OUT, 0, 0, 0, 0 } },
        { "model.layers.1.self_attn", { QSAE_SITE_ATTN_OUT, 0, 0, 0, 0 } },
        { "gpt_neox.layers.1.attention", { 0, 0, QSAE_SITE_ATTN_OUT, QSAE_SITE_ATTN_OUT, 0 } },
        { "layers.1.mlp",
          { QSAE_SITE_MLP_OUT, 0, QSAE_SITE_MLP_OUT, QSAE_SITE_MLP_OUT, QSAE_SITE_MLP_OUT } },
        { "layers.1.mlp.input",
          { QSAE_SITE_MLP_IN, QSAE_SITE_MLP_IN, QSAE_SITE_MLP_IN, QSAE_SITE_MLP_IN,
            QSAE_SITE_MLP_IN } },
        { "model.layers.1.post_feedforward_layernorm.output", { 0, QSAE_SITE_MLP_OUT, 0, 0, 0 } },
        { "blocks.1.attn.hook_z",
          { QSAE_SITE_Z, QSAE_SITE_Z, QSAE_SITE_Z, QSAE_SITE_Z, QSAE_SITE_Z } },
        { "h.1.attn.c_proj.input", { 0, 0, 0, 0, QSAE_SITE_Z } },
        { "model.layers.1.input_layernorm.input",
          { QSAE_SITE_RESID_PRE, QSAE_SITE_RESID_PRE, QSAE_SITE_RESID_PRE, QSAE_SITE_RESID_PRE,
            0 } },
        { "model.layers.1.input_layernorm.output", { 0, 0, 0, 0, 0 } },
        { "h.1.ln_1.input", { 0, 0, 0, 0, QSAE_SITE_RESID_PRE } },
        { "h.1.ln_2.output", { 0, 0, 0, 0, QSAE_SITE_MLP_IN } },
        { "model.layers.1.pre_feedforward_layernorm.output", { 0, QSAE_SITE_MLP_IN, 0, 0, 0 } },
        { "model.layers.1.post_feedforward_layernorm.input", { 0, 0, 0, 0, 0 } },
        { "layers.1.mlp.act.output",
          { 0, 0, QSAE_SITE_MLP_POST, QSAE_SITE_MLP_POST, QSAE_SITE_MLP_POST } },
        { "layers.1.mlp.act.input", { 0, 0, 0, 0, 0 } },
        { "layers.1.self_attn.input", { 0, 0, 0, 0, 0 } },
        { "layers.1.mlp.up_proj.input", { QSAE_SITE_MLP_IN, QSAE_SITE_MLP_IN, 0, 0, 0 } },
        { "layers.1.mlp.dense_h_to_4h.input", { 0, 0, QSAE_SITE_MLP_IN, QSAE_SITE_MLP_IN, 0 } },
        { "layers.1.mlp.dense_4h_to_h.input",
          { 0, 0, QSAE_SITE_MLP_POST, QSAE_SITE_MLP_POST, 0 } },
        { "layers.1.mlp.down_proj.act.input", { 0, 0, 0, 0, 0 } },
        { "blocks.1.mlp.hook_outer", { 0, 0, 0, 0, 0 } },
        { "blocks.1.mlp.hook_out",
          { QSAE_SITE_MLP_OUT, 0, QSAE_SITE_MLP_OUT, QSAE_SITE_MLP_OUT, QSAE_SITE_MLP_OUT } },
    };
    qsae_context *ctx = test_context(1, NULL);
    (void)state;
    for (int k = 0; k < 5; k++) {
        qsae_model *m = test_model(ctx, test_model_path(models[k]), NULL, 0, 0);
        qsae_model_info info = { .struct_size = offsetof(qsae_model_info, hash) };
        int32_t layer;
        OK(qsae_model_get_info(m, &info));
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            layer = 5;
            const int32_t site = qsae_model_site(m, cases[i].name, &layer);
            if (site != cases[i].site[k] || layer != (site ? 1 : 5))
                fail_msg("%s: %s: site %d layer %d", models[k], cases[i].name, (int)site,
                         (int)layer);
        }
        layer = 5;
        assert_int_equal(qsae_model_site(m, "z", &layer), QSAE_SITE_Z);
        assert_int_equal(layer, 5);
        assert_int_equal(qsae_model_site(m, "hook_embed", &layer), QSAE_SITE_EMBED);
        assert_int_equal(layer, 0);
        assert_int_equal(qsae_model_site(m, "final_norm", &layer), QSAE_SITE_FINAL_NORM);
        assert_int_equal(layer, info.layers - 1);
        /* modules of the model: what enters the final norm is what leaves the last block */
        static const char *const norms[] = { "model.norm", "norm", "gpt_neox.final_layer_norm",
                                             "final_layer_norm", "transformer.ln_f" };
        static const char *const none[] = { "embed_tokens.input", "embed_in.input", "wte.input",
                                            "wpe.input", "lm_head.output", "embed_out.output" };
        char name[64];
        snprintf(name, sizeof name, "%s.input", norms[k]);
        assert_int_equal(qsae_model_site(m, name, &layer), QSAE_SITE_RESID_POST);
        assert_int_equal(layer, info.layers - 1);
        assert_int_equal(qsae_model_site(m, norms[k], &layer), QSAE_SITE_FINAL_NORM);
        for (size_t i = 0; i < sizeof none / sizeof none[0]; i++)
            assert_int_equal(qsae_model_site(m, none[i], &layer), 0);
        assert_int_equal(qsae_model_site(m, "nonsense", &layer), 0);
        assert_int_equal(qsae_model_site(m, NULL, &layer), 0);
        assert_int_equal(qsae_model_site(NULL, "z", &layer), 0);
        assert_int_equal(qsae_model_site_width(m, QSAE_SITE_Z), info.heads * info.head_dim);
        assert_int_equal(qsae_model_site_width(m, QSAE_SITE_MLP_POST), info.mlp_width);
        assert_int_equal(qsae_model_site_width(m, QSAE_SITE_RESID_MID), k == 2 ? 0 : info.width);
        assert_int_equal(qsae_model_site_width(m, QSAE_SITE_POS_EMBED), k == 4 ? info.width : 0);
        assert_int_equal(qsae_model_site_width(m, 0), 0);
        assert_int_equal(qsae_model_site_width(m, 99), 0);
        assert_int_equal(qsae_model_site_width(NULL, 1), 0);
        qsae_model_close(&m);
    }
    qsae_context_close(&ctx);
}

const struct CMUnitTest site_name_tests[] = {
    cmocka_unit_test(test_short_names),
    cmocka_unit_test(test_full_names),
    cmocka_unit_test(test_model_names),
};
const size_t n_site_name_tests = sizeof site_name_tests / sizeof site_name_tests[0];
