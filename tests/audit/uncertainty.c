/* SPDX-License-Identifier: BSD-2-Clause */
/* Intervals and verdicts of the result document; their figures: tests/metrics/intervals.c. */
#include <unistd.h>

#include "document.h"

#define CONDITIONS 3

static const json_t *in(const json_t *o, const char *key)
{
    const json_t *const v = json_object_get(o, key);
    if (!v)
        fail_msg("%s is missing", key);
    return v;
}

static double bound(const json_t *pair, size_t i)
{
    assert_int_equal(json_array_size(pair), 2);
    assert_true(json_is_number(json_array_get(pair, i)));
    return json_number_value(json_array_get(pair, i));
}

/* Each figure of the object has an interval about it and an error; exact: of no width. */
static void check_intervals(const json_t *o, const char *const *keys, bool errors, bool exact)
{
    assert_true(json_is_null(in(o, "intervals_reason")));
    for (; *keys; keys++) {
        const json_t *const pair = in(in(o, "intervals"), *keys),
                     *const se = in(in(o, "jackknife_se"), *keys);
        const double low = bound(pair, 0), high = bound(pair, 1), value = at(o, *keys);
        if (!(low <= value && value <= high) || (exact ? low != high : low >= high))
            fail_msg("%s: %.17g is not in [%.17g, %.17g]", *keys, value, low, high);
        if (errors)
            assert_true(json_number_value(se) > 0 || exact);
    }
}

static const char *const of_entry[] = { "ce", "ppl", NULL },
    *const of_pair[] = { "dce", "dce_percent", "ppl_ratio", "kl_mean", "same_top",
                         "top1_agreement", "right_to_wrong", "wrong_to_right", "dp_mean", "dp_rms",
                         NULL },
    *const of_sae[] = { "fvu_dim", "fvu_scalar", "fvu_raw", "mse", "mse_token", "l0", NULL },
    *const of_change[] = { "dfvu_dim", "dfvu_scalar", "dmse", "dl0", NULL },
    *const of_noise[] = { "P", "ratio", "ratio_residual_r", "ratio_squared", "p", NULL },
    *const of_error[] = { "R_q", "R_r", "r", NULL },
    *const of_median[] = { "ratio_token_median", NULL },
    *const of_survival[] = { "survived_percent", "degraded_percent", "mean_r", "median_r", NULL },
    *const of_splice[] = { "ce_sae", "dce_sae", "kl_sae", "top1_agreement_sae", "ce_mean",
                           "dce_mean", "kl_mean", "top1_agreement_mean", "ce_recovered",
                           "ce_recovered_mean", "kl_recovered", NULL };

/* The verdict follows from the intervals beside it. */
static void check_verdict(const json_t *c, const json_t *sae)
{
    const json_t *const v = in(sae, "verdict"), *const noise = in(sae, "noise"),
                 *const survived = in(in(in(sae, "survival"), "intervals"), "survived_percent"),
                 *const lost = in(v, "non_survivors_interval"),
                 *const none = in(v, "null_interval");
    const bool worse = bound(in(in(c, "intervals"), "dce"), 0) > 0;
    assert_true(bound(lost, 0) == 100 - bound(survived, 1));
    assert_true(bound(lost, 1) == 100 - bound(survived, 0));
    const bool damaged = bound(lost, 0) > bound(none, 1);
    const char *const word = worse ? damaged ? "damage" : "output_damage"
                             : damaged ? "hidden_damage" : "no_damage_seen";
    assert_string_equal(text_at(v, "verdict"), word);
    assert_string_equal(text_at(c, "verdict"), word);
    assert_true(json_is_boolean(in(v, "hidden_damage")));
    assert_int_equal(json_is_true(in(v, "hidden_damage")), !worse && damaged);
    assert_true(json_is_null(in(v, "reason")) && json_is_null(in(c, "verdict_reason")));
    const json_t *const energy = in(in(noise, "intervals"), "ratio"),
                 *const median = in(in(noise, "intervals"), "ratio_token_median");
    const char *flat = "interpret with care";
    if (bound(energy, 0) >= 1 && bound(median, 0) >= 1)
        flat = "informative";
    else if (bound(energy, 1) < 0.1 && bound(median, 1) < 0.1)
        flat = "uninformative";
    assert_string_equal(text_at(v, "flat_fvu"), flat);
}

static void check_condition(const json_t *c, bool null)
{
    const json_t *const sae = json_array_get(in(c, "saes"), 0), *const noise = in(sae, "noise"),
                 *const survival = in(sae, "survival");
    check_intervals(c, of_entry, true, false);
    check_intervals(c, of_pair, true, null);
    check_intervals(sae, of_sae, true, false);
    check_intervals(sae, of_change, true, null);
    check_intervals(noise, of_noise, true, null);
    check_intervals(noise, of_error, true, false);
    check_intervals(noise, of_median, false, null);
    check_intervals(survival, of_survival, false, null);
    check_intervals(in(sae, "splice"), of_splice, true, false);
    check_verdict(c, sae);
    const double all = at(survival, "active"), n = at(survival, "undetermined");
    assert_true(n >= 0 && n <= all && fabs(at(survival, "undetermined_percent") - 100 * n / all) <
                                          1e-12);
    assert_true(at(survival, "undetermined_0p5") <= all);
    assert_true(at(survival, "undetermined_0p8") <= all);
    assert_true(at(survival, "undetermined_0p95") <= all);
    if (null)
        assert_true(at(sae, "dfvu_dim") == 0 && bound(in(in(survival, "intervals"),
                                                           "survived_percent"), 0) == 100);
    else
        assert_true(n > 0);
}

static void settings(qsae_audit_settings *s, int64_t documents)
{
    static const char *const conditions[CONDITIONS] = {
        "rtn:bits=2@layers=3@only=o_proj", "control:null", "rtn:bits=2",
    };
    defaults(s);
    s->context = 64;
    s->documents_to = documents;
    s->conditions = conditions;
    s->n_conditions = CONDITIONS;
    s->splice = 1;
}

/* 22 documents: everything has an interval, and every verdict follows from those beside it; the
 * null run is exact. */
static void test_intervals(void **state)
{
    (void)state;
    qsae_context *two = open_context(NULL, 2), *one = open_context(NULL, 1);
    qsae_audit_settings s;
    settings(&s, 22);
    json_t *const result = run(two, &s);
    s.n_conditions = 1;
    json_t *const single = run(one, &s);
    const json_t *const list = in(result, "conditions"), *const ref = in(result, "reference");
    check_intervals(ref, of_entry, true, false);
    check_intervals(json_array_get(in(ref, "saes"), 0), of_sae, true, false);
    for (size_t i = 0; i < CONDITIONS; i++)
        check_condition(json_array_get(list, i), i == 1);
    assert_string_equal(text_at(json_array_get(list, 1), "verdict"), "no_damage_seen");
    assert_string_equal(text_at(json_array_get(list, 2), "verdict"), "damage");
    const json_t *const of = json_array_get(in(result, "verdicts"), 0);
    assert_string_equal(text_at(of, "flat_fvu"), "interpret with care");
    /* One thread, no other conditions: the same. */
    const json_t *const a = json_array_get(in(single, "conditions"), 0),
                 *const b = json_array_get(list, 0);
    const char *const parts[] = { "intervals", "jackknife_se" };
    for (int i = 0; i < 2; i++) {
        assert_true(json_equal(in(a, parts[i]), in(b, parts[i])));
        const char *const objects[] = { "noise", "survival", "splice" };
        const json_t *const sa = json_array_get(in(a, "saes"), 0),
                     *const sb = json_array_get(in(b, "saes"), 0);
        assert_true(json_equal(in(sa, parts[i]), in(sb, parts[i])));
        for (int k = 0; k < 3; k++)
            assert_true(json_equal(in(in(sa, objects[k]), parts[i]),
                                   in(in(sb, objects[k]), parts[i])));
    }
    json_decref(result);
    json_decref(single);
    qsae_context_close(&one);
    qsae_context_close(&two);
}

static void check_none(const json_t *o, const char *const *keys)
{
    assert_string_equal(text_at(o, "intervals_reason"), "too few documents");
    for (; *keys; keys++) {
        assert_true(json_is_null(in(in(o, "intervals"), *keys)));
        assert_true(json_is_null(in(in(o, "jackknife_se"), *keys)));
    }
}

static void test_few_documents(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    settings(&s, 19);
    s.n_conditions = 1;
    s.context = 32;
    json_t *const result = run(ctx, &s);
    const json_t *const c = json_array_get(in(result, "conditions"), 0),
                 *const sae = json_array_get(in(c, "saes"), 0), *const v = in(sae, "verdict");
    check_none(c, of_entry);
    check_none(c, of_pair);
    check_none(sae, of_sae);
    check_none(sae, of_change);
    check_none(in(sae, "noise"), of_noise);
    check_none(in(sae, "noise"), of_median);
    check_none(in(sae, "survival"), of_survival);
    check_none(in(sae, "splice"), of_splice);
    assert_true(json_is_null(in(in(sae, "survival"), "undetermined")));
    assert_true(json_is_null(in(v, "verdict")) && json_is_null(in(v, "hidden_damage")));
    assert_true(json_is_null(in(v, "flat_fvu")) && json_is_null(in(c, "verdict")));
    assert_string_equal(text_at(v, "reason"), "too few documents");
    assert_string_equal(text_at(c, "verdict_reason"), "too few documents");
    json_decref(result);
    qsae_context_close(&ctx);
}

static const json_t *interval_of(const json_t *result, const char *object, const char *key)
{
    const json_t *const sae = json_array_get(in(condition_at(result, 0), "saes"), 0);
    return in(in(object ? in(sae, object) : sae, "intervals"), key);
}

/* Another seed: the same measurement, whose state it goes on with, and other draws. */
static void test_seed(void **state)
{
    static const char *const keys[][2] = {
        { NULL, "fvu_dim" }, { NULL, "no_sinks/fvu_dim" }, { NULL, "no_specials/fvu_raw" },
        { "noise", "ratio" }, { "noise", "share_E" }, { "survival", "mean_r" },
    };
    char path[] = "/tmp/qsae-seed-XXXXXX";
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    unlink(path);
    settings(&s, 24);
    s.splice = 0;
    s.state = path;
    s.n_conditions = 1;
    s.context = 32;
    json_t *const first = run(ctx, &s);
    s.seed = 6;
    json_t *const second = run(ctx, &s);
    assert_int_equal(json_integer_value(in(first, "interval_seed")), 0);
    assert_int_equal(json_integer_value(in(second, "interval_seed")), 6);
    assert_true(json_equal(in(first, "fingerprint"), in(second, "fingerprint")));
    assert_true(at(condition_at(first, 0), "dce") == at(condition_at(second, 0), "dce"));
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        const json_t *const a = interval_of(first, keys[i][0], keys[i][1]),
                     *const b = interval_of(second, keys[i][0], keys[i][1]);
        assert_true(bound(a, 0) < bound(a, 1) && bound(b, 0) < bound(b, 1));
        if (json_equal(a, b))
            fail_msg("%s: the same interval with another seed", keys[i][1]);
    }
    s.seed = -1;
    qsae_audit *audit;
    assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_EINVAL, "seed");
    unlink(path);
    json_decref(first);
    json_decref(second);
    qsae_context_close(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_intervals),
        cmocka_unit_test(test_few_documents),
        cmocka_unit_test(test_seed),
    };
    return cmocka_run_group_tests_name("uncertainty", tests, NULL, NULL);
}
