/* SPDX-License-Identifier: BSD-2-Clause */
/* The whole audit on the bundled model, against itself. */
#include <unistd.h>

#include "document.h"

static const char *const two[] = { "nf4", "rtn:bits=4" };

static const char *const levels[] = { "nf4@compute=f32", "llm.int8", "rtn:bits=4" };

static void test_same_bits(void **state)
{
    (void)state;
    json_t *first = NULL;
    const int32_t threads[] = { 1, 3, 8 };
    for (int i = 0; i < 3; i++) {
        qsae_context *ctx = open_context(NULL, threads[i]);
        qsae_audit_settings s;
        defaults(&s);
        s.max_tokens = 9000;
        s.conditions = two;
        s.n_conditions = 2;
        json_t *result = run(ctx, &s);
        strip(result);
        if (!first)
            first = json_incref(result);
        assert_true(json_equal(first, result));
        json_decref(result);
        qsae_context_close(&ctx);
    }
    json_decref(first);
}

/* Every CPU level below those with bf16 instructions gives the document of the others: all products
 * and sums are in a stated order. With them, sums have another order. */
static void test_levels(void **state)
{
    (void)state;
    json_t *first = NULL;
    for (int level = 0; level_name(level); level++) {
        qsae_context *ctx = open_context(level_name(level), 2);
        qsae_audit_settings s;
        defaults(&s);
        s.max_tokens = 500; /* level c calls a library function per multiply-add */
        s.batch = 1;
        s.compute = QSAE_COMPUTE_BF16;
        s.conditions = levels;
        s.n_conditions = 3;
        json_t *result = run(ctx, &s);
        strip(result);
        if (!first)
            first = json_incref(result);
        if (level < 3) /* c, avx2, avx512 */
            assert_true(json_equal(first, result));
        assert_true(fabs(reference_ce(first) - reference_ce(result)) < 2e-3);
        json_decref(result);
        qsae_context_close(&ctx);
    }
    json_decref(first);
}

/* Another batch: the same nll for every token, hence the same sums. */
static void test_batch(void **state)
{
    (void)state;
    json_t *results[2];
    for (int i = 0; i < 2; i++) {
        qsae_context *ctx = open_context(NULL, 2);
        qsae_audit_settings s;
        defaults(&s);
        s.max_tokens = 4096;
        s.batch = i ? 4 : 1;
        s.conditions = two;
        s.n_conditions = 2;
        results[i] = run(ctx, &s);
        qsae_context_close(&ctx);
    }
    for (size_t c = 0; c < 2; c++) {
        const json_t *a = json_array_get(json_object_get(results[0], "conditions"), c);
        const json_t *b = json_array_get(json_object_get(results[1], "conditions"), c);
        const json_t *sa = json_array_get(json_object_get(a, "saes"), 0);
        const json_t *sb = json_array_get(json_object_get(b, "saes"), 0);
        for (const char *const *k = (const char *const[]){ "ce", "dce", "kl_mean", "kl_max", NULL };
             *k; k++)
            assert_true(json_equal(json_object_get(a, *k), json_object_get(b, *k)));
        for (const char *const *k = (const char *const[]){ "fvu_dim", "l0", "survival", NULL }; *k;
             k++)
            assert_true(json_equal(json_object_get(sa, *k), json_object_get(sb, *k)));
    }
    json_decref(results[0]);
    json_decref(results[1]);
}

/* Stopped, resumed from the file in new handles, stopped again: the same document as in one go. */
static void test_resume(void **state)
{
    (void)state;
    char path[] = "/tmp/qsae-audit-XXXXXX";
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    unlink(path);
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    struct stop stop = { 0 };
    assert_ok(qsae_cancel_token_open(&stop.token));
    defaults(&s);
    s.max_tokens = 9000;
    s.conditions = two;
    s.n_conditions = 2;
    json_t *whole = run(ctx, &s), *resumed;
    s.state = path;
    s.cancel = stop.token;
    s.progress = stop_at;
    s.progress_cookie = &stop;
    for (int64_t at_token = 2048; at_token <= 6144; at_token += 4096) {
        qsae_audit *audit;
        stop.at = at_token;
        assert_ok(qsae_audit_open(ctx, &s, &audit));
        assert_fails(qsae_audit_run(audit), QSAE_ECANCELED, "canceled");
        qsae_audit_close(&audit);
        qsae_cancel_token_reset(stop.token);
    }
    stop.at = INT64_MAX;
    resumed = run(ctx, &s);
    strip(whole);
    strip(resumed);
    assert_true(json_equal(whole, resumed));
    /* The finished state: nothing left to measure, the same document again. */
    json_t *again = run(ctx, &s);
    strip(again);
    assert_true(json_equal(whole, again));
    json_decref(again);
    json_decref(resumed);
    json_decref(whole);
    qsae_audit *audit;
    s.max_tokens = 5000;
    assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_EMISMATCH, "another measurement");
    s.max_tokens = 9000;
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, 200, SEEK_SET);
    const int byte = fgetc(f);
    fseek(f, 200, SEEK_SET);
    fputc(byte ^ 1, f);
    fclose(f);
    assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_EFORMAT, "damaged");
    assert_null(audit);
    assert_int_equal(truncate(path, 60), 0);
    assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_EFORMAT, path);
    unlink(path);
    qsae_cancel_token_close(&stop.token);
    qsae_context_close(&ctx);
}

/* A run that was canceled goes on in the same handle. */
static void test_cancel(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    struct stop stop = { .at = 3000 };
    qsae_audit *audit;
    assert_ok(qsae_cancel_token_open(&stop.token));
    defaults(&s);
    s.max_tokens = 6000;
    s.conditions = two;
    s.n_conditions = 1;
    json_t *whole = run(ctx, &s);
    s.cancel = stop.token;
    s.progress = stop_at;
    s.progress_cookie = &stop;
    assert_ok(qsae_audit_open(ctx, &s, &audit));
    assert_fails(qsae_audit_run(audit), QSAE_ECANCELED, "canceled");
    json_t *part = result_of(audit);
    assert_true(json_is_false(json_object_get(part, "complete")));
    json_decref(part);
    stop.at = INT64_MAX;
    qsae_cancel_token_reset(stop.token);
    assert_ok(qsae_audit_run(audit));
    json_t *result = result_of(audit);
    strip(whole);
    strip(result);
    assert_true(json_equal(whole, result));
    json_decref(whole);
    json_decref(result);
    qsae_audit_close(&audit);
    qsae_cancel_token_close(&stop.token);
    qsae_context_close(&ctx);
}

static int32_t refuse(void *cookie, int64_t done, int64_t total, const char *unit,
                      const char *phase)
{
    (void)cookie;
    (void)total;
    (void)unit;
    return strcmp(phase, "measure") == 0 && done > 0 ? 77 : 0;
}

static void test_settings(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    qsae_audit *audit;
    defaults(&s);
    s.max_tokens = 3000;
    s.progress = refuse;
    assert_ok(qsae_audit_open(ctx, &s, &audit));
    assert_int_equal(qsae_audit_run(audit), 77); /* the callback's value, unchanged */
    qsae_audit_close(&audit);
    s.progress = NULL;

    const char *bad = "nf5";
    s.conditions = &bad;
    s.n_conditions = 1;
    assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_EINVAL, "nf5");
    assert_null(audit);
    s.n_conditions = 0;
    const char *no_sae = DATA "/tiny-gemma3-sae@6";
    s.saes = &no_sae;
    assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_EMISMATCH, "layer 6");
    no_sae = DATA "/nothing@3";
    assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_ENOENT, "nothing");
    no_sae = DATA "/tiny-gemma3-sae@3:hook_q";
    assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_EUNSUPPORTED, "hook_q");
    s.saes = &sae_path;
    s.model = DATA;
    assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_ENOENT, "json");
    s.model = NULL;
    assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_EINVAL, "model");
    defaults(&s);
    s.text = "/nowhere.txt";
    assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_ENOENT, "/nowhere.txt");
    defaults(&s);
    s.profile = 9;
    assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_EINVAL, "profile");
    defaults(&s);
    s.text_field = "story";
    assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_EFORMAT, "story");
    qsae_context_close(&ctx);
}

/* Another checkpoint as a condition; an article run without conditions brings its own. */
static void test_conditions(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    const char *folder = DATA "/tiny-gemma3";
    defaults(&s);
    s.max_tokens = 6000;
    s.conditions = &folder;
    s.n_conditions = 1;
    json_t *result = run(ctx, &s);
    const json_t *c = json_array_get(json_object_get(result, "conditions"), 0);
    assert_string_equal(json_string_value(json_object_get(c, "label")), folder);
    near("dce", at(c, "dce"), 0, 0);
    json_decref(result);
    s.n_conditions = 0;
    result = run(ctx, &s);
    const json_t *list = json_object_get(result, "conditions");
    assert_int_equal(json_array_size(list), 2);
    assert_true(json_is_true(json_object_get(json_array_get(list, 0), "batch_dependent")));
    assert_true(json_is_false(json_object_get(json_array_get(list, 1), "batch_dependent")));
    near("int8 bits", at(json_array_get(list, 0), "bits_per_weight"), 8, 0.5);
    near("nf4 bits", at(json_array_get(list, 1), "bits_per_weight"), 4.127, 0.01);
    assert_int_equal(json_array_size(json_object_get(result, "snapshots")), 1);
    json_decref(result);
    qsae_context_close(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bits), cmocka_unit_test(test_levels),
        cmocka_unit_test(test_batch),     cmocka_unit_test(test_resume),
        cmocka_unit_test(test_cancel),    cmocka_unit_test(test_settings),
        cmocka_unit_test(test_conditions),
    };
    return cmocka_run_group_tests_name("audit", tests, NULL, NULL);
}
