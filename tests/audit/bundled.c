/* SPDX-License-Identifier: BSD-2-Clause */
/* The whole audit on the bundled model and all of its text, against transformers' and SAELens'
 * figures. */
#include "document.h"

static void test_reference(void **state)
{
    (void)state;
    json_error_t error;
    json_t *reference = json_load_file(DATA "/reference.json", 0, &error);
    assert_non_null(reference);
    for (int bf16 = 0; bf16 < 2; bf16++) {
        const char *const null[] = { "none" };
        qsae_context *ctx = open_context(NULL, 2);
        qsae_audit_settings s;
        defaults(&s);
        s.compute = bf16 ? QSAE_COMPUTE_BF16 : QSAE_COMPUTE_F32;
        s.conditions = null;
        s.n_conditions = 1;
        json_t *result = run(ctx, &s);
        const json_t *want = json_object_get(reference, bf16 ? "bf16" : "f32");
        const json_t *wsae = json_object_get(want, "sae"),
                     *wc = json_object_get(reference, "corpus");
        const json_t *got = json_object_get(result, "reference"),
                     *gc = json_object_get(result, "corpus");
        const json_t *gsae = json_array_get(json_object_get(got, "saes"), 0);
        near("documents", at(gc, "documents"), at(wc, "documents"), 0);
        near("tokens", at(gc, "tokens"), at(wc, "chunk_tokens"), 0);
        near("stream", at(gc, "stream_tokens"), at(wc, "tokens"), 0);
        near("predicted", at(gc, "predicted_tokens"), at(wc, "predicted_tokens"), 0);
        near("ce", at(got, "ce"), at(want, "ce"), bf16 ? 2e-4 : 1e-6);
        near("fvu_dim", at(gsae, "fvu_dim"), at(wsae, "fvu_dim"), bf16 ? 1e-4 : 1e-6);
        near("fvu_scalar", at(gsae, "fvu_scalar"), at(wsae, "fvu_scalar"), bf16 ? 1e-4 : 1e-6);
        near("mse", at(gsae, "mse"), at(wsae, "mse"), bf16 ? 1e-3 : 1e-5);
        near("l0", at(gsae, "l0"), at(wsae, "l0"), bf16 ? 2e-2 : 1e-3);
        near("dead", at(gsae, "dead_features"), at(wsae, "dead_features"), 0);
        /* The null control is exact: the same weights give the same bits. */
        const json_t *same = json_array_get(json_object_get(result, "conditions"), 0);
        const json_t *ssae = json_array_get(json_object_get(same, "saes"), 0);
        const json_t *survival = json_object_get(ssae, "survival");
        near("null dce", at(same, "dce"), 0, 0);
        near("null kl", at(same, "kl_max"), 0, 0);
        near("null top-1", at(same, "top1_agreement"), 1, 0);
        near("null P", at(json_object_get(ssae, "noise"), "p"), 0, 0);
        near("null survival", at(survival, "survived"), at(survival, "active"), 0);
        near("null r", at(survival, "min_r"), 1, 1e-12);
        json_decref(result);
        qsae_context_close(&ctx);
    }
    json_decref(reference);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_reference) };
    return cmocka_run_group_tests_name("bundled", tests, NULL, NULL);
}
