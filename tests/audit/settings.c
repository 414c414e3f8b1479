/* SPDX-License-Identifier: BSD-2-Clause */
/* Settings of an audit that are out of range or exclude each other, by field and message. */
#include "document.h"

static void refused(qsae_context *ctx, const qsae_audit_settings *s, const char *part)
{
    qsae_audit *audit = (qsae_audit *)(void *)ctx;
    assert_fails(qsae_audit_open(ctx, s, &audit), QSAE_EINVAL, part);
    assert_null(audit);
}

/* The good settings with one field changed. */
#define REFUSES(field, value, part) \
    do { \
        qsae_audit_settings s_ = good; \
        s_.field = (value); \
        refused(ctx, &s_, part); \
    } while (0)

static void test_ranges(void **state)
{
    qsae_audit_settings good;
    (void)state;
    qsae_context *ctx = open_context(NULL, 1);
    defaults(&good);
    REFUSES(model, NULL, "audit: model is missing");
    REFUSES(text, NULL, "audit: text is missing");
    REFUSES(profile, -1, "audit: profile: expected 0..2, found -1");
    REFUSES(profile, 3, "audit: profile: expected 0..2, found 3");
    REFUSES(compute, -1, "audit: compute: expected 0..2, found -1");
    REFUSES(compute, 3, "audit: compute: expected 0..2, found 3");
    REFUSES(sweep, -1, "audit: sweep: expected 0..3, found -1");
    REFUSES(sweep, 4, "audit: sweep: expected 0..3, found 4");
    REFUSES(attention, 9, "attention: 9 is not a QSAE_ATTN_*");
    REFUSES(top_contexts, -1, "audit: top_contexts: expected 0..1024, found -1");
    REFUSES(top_contexts, 1025, "audit: top_contexts: expected 0..1024, found 1025");
    REFUSES(seed, -1, "audit: seed: must not be negative, found -1");
    REFUSES(overlap_k, -1, "audit: overlap_k: expected 0..64, found -1");
    REFUSES(overlap_k, 65, "audit: overlap_k: expected 0..64, found 65");
    REFUSES(memory, -1, "audit: memory: expected 0..3, found -1");
    REFUSES(memory, 4, "audit: memory: expected 0..3, found 4");
    REFUSES(stream_bytes, -1, "audit: stream_bytes: expected at least 0, found -1");
    REFUSES(batch, -1, "audit: batch: expected 0..1048576, found -1");
    REFUSES(batch, 1048577, "audit: batch: expected 0..1048576, found 1048577");
    REFUSES(shard_count, -1, "audit: shard_index 0 of shard_count -1: expected");
    REFUSES(shard_index, -1, "audit: shard_index -1 of shard_count 0: expected");
    REFUSES(shard_index, 1, "audit: shard_index 1 of shard_count 0: expected");
    qsae_audit_settings s = good;
    s.shard_count = s.shard_index = 2;
    refused(ctx, &s, "audit: shard_index 2 of shard_count 2: expected 0..shard_count - 1");
    s = good;
    s.splice = 1;
    s.n_saes = 0;
    refused(ctx, &s, "audit: splice: there is no SAE to splice in");
    qsae_context_close(&ctx);
}

static void test_lists(void **state)
{
    static const char *many[4097], *const gap[] = { "nf4", NULL }, *const no_sae[] = { NULL },
                      *const slice[] = { "class" }, *const clause[] = { NULL };
    qsae_audit_settings good, s;
    (void)state;
    qsae_context *ctx = open_context(NULL, 1);
    defaults(&good);
    for (size_t i = 0; i < 4097; i++)
        many[i] = "nf4";
    REFUSES(n_conditions, -1, "audit: -1 conditions, 1 SAEs, or their array is NULL");
    REFUSES(n_conditions, 1, "audit: 1 conditions, 1 SAEs, or their array is NULL");
    REFUSES(n_saes, -1, "audit: 0 conditions, -1 SAEs, or their array is NULL");
    REFUSES(saes, NULL, "audit: 0 conditions, 1 SAEs, or their array is NULL");
    s = good;
    s.conditions = many;
    s.n_conditions = 4097;
    refused(ctx, &s, "audit: at most 4096 conditions and 4096 SAEs");
    s.n_conditions = 0;
    s.saes = many;
    s.n_saes = 4097;
    refused(ctx, &s, "audit: at most 4096 conditions and 4096 SAEs");
    s = good;
    s.conditions = gap;
    s.n_conditions = 2;
    refused(ctx, &s, "audit: conditions[1] is NULL");
    REFUSES(saes, no_sae, "audit: saes[0] is NULL");

    REFUSES(n_slices, -1, "audit: slices: expected 0..64 of them, found -1");
    REFUSES(n_slices, 1, "audit: slices: expected 0..64 of them, found 1 and NULL");
    s = good;
    s.slices = slice;
    s.n_slices = 65;
    refused(ctx, &s, "audit: slices: expected 0..64 of them, found 65");
    s.n_slices = 1;
    s.sweep = QSAE_SWEEP_LAYERS;
    refused(ctx, &s, "audit: slices: not with a sweep");
    s = good;
    s.controls = 1;
    s.sweep = QSAE_SWEEP_LAYERS;
    refused(ctx, &s, "audit: controls: not with a sweep");

    REFUSES(n_where, -1, "audit: where: expected 0..4096 strings, found -1");
    REFUSES(n_where, 1, "audit: where: expected 0..4096 strings, found 1, and their array is NULL");
    s = good;
    s.where = clause;
    s.n_where = 4097;
    refused(ctx, &s, "audit: where: expected 0..4096 strings, found 4097");
    s.n_where = 1;
    refused(ctx, &s, "where");
    qsae_context_close(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranges), cmocka_unit_test(test_lists),
    };
    return cmocka_run_group_tests_name("settings", tests, NULL, NULL);
}
