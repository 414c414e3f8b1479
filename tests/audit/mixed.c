/* SPDX-License-Identifier: BSD-2-Clause */
/* Mixed-precision plans: within the budget, the best of all, and what they say they are. */
#include <sys/stat.h>
#include <unistd.h>

#include "document.h"

static const char *const candidates[] = { "rtn:bits=3", "rtn:bits=4", "rtn:bits=6" };

static void settings_of(qsae_audit_settings *s, const char *const *conditions, int64_t n,
                        int32_t by)
{
    defaults(s);
    s->profile = QSAE_PROFILE_DEFAULT;
    s->max_tokens = 1024;
    s->conditions = conditions;
    s->n_conditions = n;
    s->sweep = by;
}

/* Plans at several budgets from one sweep; [n] parsed. */
static void plans(qsae_context *ctx, const qsae_audit_settings *s, const double *bits, int n,
                  json_t **out, char **text)
{
    qsae_audit *audit;
    json_error_t error;
    assert_ok(qsae_audit_open(ctx, s, &audit));
    assert_ok(qsae_audit_run(audit));
    for (int i = 0; i < n; i++) {
        const char *json;
        assert_ok(qsae_audit_plan(audit, bits[i], 0, &json));
        out[i] = json_loads(json, JSON_REJECT_DUPLICATES, &error);
        assert_non_null(out[i]);
        if (text)
            text[i] = strdup(json);
    }
    qsae_audit_close(&audit);
}

static double cost_of(const json_t *option)
{
    return fmax(at(option, "kl_mean"), 0);
}

/* Every choice of every part: the least cost that fits the budget. */
static double best_of(const json_t *parts, size_t i, double bits_left)
{
    double best = INFINITY;
    const json_t *const part = json_array_get(parts, i), *option;
    size_t k;
    if (bits_left < 0)
        return INFINITY;
    if (!part)
        return 0;
    const double weights = at(part, "weights");
    best = best_of(parts, i + 1, bits_left - at(part, "kept_bits") * weights);
    json_array_foreach(json_object_get(part, "options"), k, option)
        best = fmin(best, cost_of(option) +
                              best_of(parts, i + 1, bits_left - at(option, "bits") * weights));
    return best;
}

/* A plan's own figures add up. */
static void check_sums(const json_t *plan, double budget)
{
    double cost = 0, bits = 0, weights = 0;
    size_t i, k;
    const json_t *part, *option;
    json_array_foreach(json_object_get(plan, "parts"), i, part) {
        const bool kept = null_at(part, "chosen");
        bool found = kept;
        weights += at(part, "weights");
        bits += at(part, "bits") * at(part, "weights");
        json_array_foreach(json_object_get(part, "options"), k, option)
            if (!kept && strcmp(text_at(option, "condition"), text_at(part, "chosen")) == 0) {
                cost += cost_of(option);
                near("bits", at(part, "bits"), at(option, "bits"), 0);
                found = true;
            }
        assert_true(found);
    }
    near("predicted", at(plan, "predicted"), cost, 1e-15);
    near("bits", at(plan, "bits"), bits / weights, 1e-9);
    near("weights", at(plan, "weights"), weights, 0);
    assert_true(at(plan, "bits") <= budget);
}

static void test_best(void **state)
{
    (void)state;
    static const double bits[] = { 3.209, 4, 4.7, 5.5, 8, 16 };
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    json_t *plan[6];
    double last = INFINITY;
    settings_of(&s, candidates, 3, QSAE_SWEEP_LAYERS);
    plans(ctx, &s, bits, 6, plan, NULL);
    for (int i = 0; i < 6; i++) {
        const json_t *const parts = json_object_get(plan[i], "parts");
        const double weights = at(plan[i], "weights"), room = bits[i] * weights;
        assert_int_equal(json_array_size(parts), 6);
        check_sums(plan[i], bits[i]);
        near("best", at(plan[i], "predicted"), best_of(parts, 0, room + 1e-3), 1e-15);
        assert_true(at(plan[i], "predicted") <= last);
        last = at(plan[i], "predicted");
    }
    near("all kept", at(plan[5], "predicted"), 0, 0);
    assert_string_equal(text_at(plan[5], "condition"), "none");
    for (int i = 0; i < 6; i++)
        json_decref(plan[i]);
    qsae_context_close(&ctx);
}

/* The plan as a condition, measured with the plan and by hand; by kinds, the head among them. */
static void test_measured(void **state)
{
    (void)state;
    static const char *const specs[] = { "rtn:bits=3@with=head", "nf4@with=head" };
    static const double bits = 6;
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    const char *list[3] = { specs[0], specs[1], NULL };
    json_t *plan;
    char *text;
    settings_of(&s, specs, 2, QSAE_SWEEP_KINDS);
    plans(ctx, &s, &bits, 1, &plan, &text);
    check_sums(plan, bits);
    list[2] = text_at(plan, "condition");
    s.sweep = QSAE_SWEEP_NONE;
    s.conditions = list;
    s.n_conditions = 3;
    s.plan = text;
    json_t *result = run(ctx, &s);
    const json_t *p = json_object_get(result, "plan"), *measured = json_object_get(p, "measured"),
                 *c = condition_at(result, 2);
    near("condition", at(measured, "condition"), 2, 0);
    near("bits", at(measured, "bits"), at(plan, "bits"), 1e-9);
    near("ce", at(measured, "ce"), at(c, "ce"), 0);
    near("kl", at(measured, "kl_mean"), at(c, "kl_mean"), 0);
    assert_int_equal(json_array_size(json_object_get(p, "uniform")), 2);
    const json_t *first = json_array_get(json_object_get(p, "uniform"), 0);
    near("bits of rtn", at(first, "bits"), at(condition_at(result, 0), "bits_per_weight"), 1e-9);
    assert_true(at(measured, "kl_mean") < at(first, "kl_mean"));
    strip(result);
    s.plan = NULL;
    s.conditions = &list[2];
    s.n_conditions = 1;
    json_t *alone = run(ctx, &s);
    strip(alone);
    assert_true(json_equal(condition_at(alone, 0), condition_at(result, 2)));
    assert_true(null_at(alone, "plan"));
    json_decref(alone);
    json_decref(result);
    json_decref(plan);
    free(text);
    qsae_context_close(&ctx);
}

/* ---- a layer that does nothing gets the fewest bits ---- */

static void copy_file(const char *name, const char *folder, const char *const *zeroed, int n)
{
    char path[512];
    static char data[8 << 20];
    snprintf(path, sizeof path, DATA "/tiny-gemma3/%s", name);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    const size_t size = fread(data, 1, sizeof data, f);
    assert_true(size > 8 && size < sizeof data);
    fclose(f);
    for (int i = 0; i < n; i++) {
        uint64_t head;
        json_error_t error;
        memcpy(&head, data, 8);
        json_t *header = json_loadb(data + 8, head, 0, &error);
        const json_t *const tensor = json_object_get(header, zeroed[i]),
                     *const offsets = json_object_get(tensor, "data_offsets");
        assert_string_equal(text_at(tensor, "dtype"), "BF16");
        const int64_t from = json_integer_value(json_array_get(offsets, 0)),
                      to = json_integer_value(json_array_get(offsets, 1));
        const uint16_t minus_one = 0xbf80; /* norms scale by 1 + w */
        for (int64_t k = from; k < to; k += 2)
            memcpy(data + 8 + head + k, &minus_one, 2);
        json_decref(header);
    }
    snprintf(path, sizeof path, "%s/%s", folder, name);
    f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}

static void test_idle_layer(void **state)
{
    (void)state;
    static const char *const norms[] = { "model.layers.2.post_attention_layernorm.weight",
                                         "model.layers.2.post_feedforward_layernorm.weight" };
    static const char *const files[] = { "config.json", "tokenizer.json", "tokenizer_config.json",
                                         "model.safetensors" };
    static const double bits = 4.5;
    char folder[256];
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/qsae-mixed-XXXXXX", base ? base : "/tmp");
    assert_non_null(mkdtemp(folder));
    for (int i = 0; i < 4; i++)
        copy_file(files[i], folder, norms, i == 3 ? 2 : 0);
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    json_t *plan;
    size_t i;
    const json_t *part;
    settings_of(&s, candidates, 3, QSAE_SWEEP_LAYERS);
    s.model = folder;
    s.n_saes = 0;
    plans(ctx, &s, &bits, 1, &plan, NULL);
    check_sums(plan, bits);
    json_array_foreach(json_object_get(plan, "parts"), i, part) {
        const bool idle = at(part, "layer") == 2;
        assert_true(idle == (i == 5)); /* ranked, the costliest first */
        if (idle)
            near("kl", at(json_array_get(json_object_get(part, "options"), 0), "kl_mean"), 0, 0);
        assert_true(idle ? at(part, "bits") < 3.5 : at(part, "bits") > 4);
    }
    json_decref(plan);
    qsae_context_close(&ctx);
    for (int k = 0; k < 4; k++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", folder, files[k]);
        unlink(path);
    }
    rmdir(folder);
}

/* Neighbouring layers with one choice are one part of the mix, and the sums are the mix's. */
static void test_layers(void **state)
{
    (void)state;
    static const double bits[] = { 4.21, 5 };
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    json_t *plan[2];
    char *text[2];
    settings_of(&s, &candidates[1], 2, QSAE_SWEEP_MODULES);
    s.max_tokens = 512;
    plans(ctx, &s, bits, 2, plan, text);
    s.sweep = QSAE_SWEEP_NONE;
    s.n_conditions = 1;
    for (int i = 0; i < 2; i++) {
        const char *const condition = text_at(plan[i], "condition");
        check_sums(plan[i], bits[i]);
        s.conditions = &condition;
        s.plan = text[i];
        json_t *result = run(ctx, &s);
        const json_t *measured = json_object_get(json_object_get(result, "plan"), "measured");
        near("bits", at(measured, "bits"), at(plan[i], "bits"), 1e-9);
        json_decref(result);
        if (i == 0) /* the same for all: seven kinds of modules */
            assert_non_null(strstr(condition, "@layers=0-5@only=q_proj)("));
        json_decref(plan[i]);
        free(text[i]);
    }
    qsae_context_close(&ctx);
}

/* A budget that the least plan alone fits, beside cheaper ones that are larger by less than the
 * unit in which sizes are added: a zero point per matrix. Of two that are as small the cheaper. */
static void test_least(void **state)
{
    (void)state;
    static const char *const three[] = { "rtn:bits=3,axis=tensor,sym=1",
                                         "rtn:bits=3,axis=tensor,sym=0",
                                         "rtn:bits=3,axis=tensor,sym=1+prune:sparsity=0.75" };
    const double much = 32;
    double least = 0, weights = 0, predicted = 0;
    int64_t cheaper = 0, differ = 0, second = 0;
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    json_t *plan;
    size_t i;
    const json_t *part;
    settings_of(&s, three, 3, QSAE_SWEEP_MODULES);
    s.n_saes = 0;
    s.max_tokens = 512;
    plans(ctx, &s, &much, 1, &plan, NULL);
    json_array_foreach(json_object_get(plan, "parts"), i, part) {
        const json_t *const options = json_object_get(part, "options"),
                     *const one = json_array_get(options, 0),
                     *const zero = json_array_get(options, 1),
                     *const two = json_array_get(options, 2);
        const double cost = fmin(cost_of(one), cost_of(two));
        assert_true(at(zero, "bits") > at(one, "bits") && at(two, "bits") == at(one, "bits"));
        cheaper += cost_of(zero) < cost;
        differ += cost_of(one) != cost_of(two);
        least += at(one, "bits") * at(part, "weights");
        predicted += cost;
        weights += at(part, "weights");
    }
    assert_true(i == 42 && cheaper > 15 && differ > 5);
    json_decref(plan);
    const double bits = least / weights * (1 + 1e-12);
    plans(ctx, &s, &bits, 1, &plan, NULL);
    json_array_foreach(json_object_get(plan, "parts"), i, part) {
        assert_non_null(strstr(text_at(part, "chosen"), "sym=1"));
        second += strcmp(text_at(part, "chosen"),
                         text_at(json_array_get(json_object_get(part, "options"), 2),
                                 "condition")) == 0;
    }
    assert_true(second > 0 && second < 42);
    near("bits", at(plan, "bits"), least / weights, 1e-12);
    near("predicted", at(plan, "predicted"), predicted, 1e-12);
    json_decref(plan);
    qsae_context_close(&ctx);
}

/* What is measured beside a plan's condition: uniform ones by their bits, then as they are given;
 * other checkpoints are not among them. */
static void test_beside(void **state)
{
    (void)state;
    static const char *const conditions[] = { DATA "/tiny-gemma3", "rtn:bits=6", "rtn:bits=4",
                                              "rtn:bits=3", "rtn:bits=3,arith=weight" };
    static const int64_t order[] = { 3, 4, 1 };
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    size_t i;
    const json_t *one;
    settings_of(&s, conditions, 5, QSAE_SWEEP_NONE);
    s.plan = "{\"condition\": \"rtn:bits=4,axis=row\", \"budget_bits\": 4, \"weights\": 1000, "
             "\"kept_bytes\": 500}";
    json_t *const first = run(ctx, &s);
    char text[256];
    snprintf(text, sizeof text, "{\"condition\": \"%s\", \"budget_bits\": 4, \"weights\": 1000, "
             "\"kept_bytes\": 500}", text_at(condition_at(first, 2), "label"));
    json_decref(first);
    s.plan = text;
    json_t *const result = run(ctx, &s);
    const json_t *const plan = json_object_get(result, "plan"),
                 *const measured = json_object_get(plan, "measured");
    const double reference = at(json_object_get(result, "reference"), "weight_bytes");
    near("condition", at(measured, "condition"), 2, 0);
    near("dce", at(measured, "dce"), at(condition_at(result, 2), "dce"), 0);
    assert_int_equal(json_array_size(json_object_get(plan, "uniform")), 3);
    json_array_foreach(json_object_get(plan, "uniform"), i, one) {
        const json_t *const c = condition_at(result, (size_t)order[i]);
        near("condition", at(one, "condition"), (double)order[i], 0);
        assert_string_equal(text_at(one, "label"), text_at(c, "label"));
        near("bits", at(one, "bits"), 8 * (500 + at(c, "weight_bytes") - reference) / 1000, 1e-9);
        assert_true(json_equal(json_object_get(one, "dce_interval"),
                               json_object_get(json_object_get(c, "intervals"), "dce")));
    }
    json_decref(result);
    qsae_context_close(&ctx);
}

static void test_refused(void **state)
{
    (void)state;
    static const char *const other[] = { "rtn:bits=3", "rtn:bits=4@only=mlp" };
    static const char *const texts[] = { "", "[]", "{", "{}", "{\"condition\":\"none\"}",
                                         ("{\"condition\":3,\"budget_bits\":4,\"weights\":1,"
                                          "\"kept_bytes\":1}"),
                                         ("{\"condition\":\"none\",\"budget_bits\":4,"
                                          "\"weights\":0,\"kept_bytes\":0}") };
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    qsae_audit *audit;
    const char *json;
    settings_of(&s, other, 2, QSAE_SWEEP_LAYERS);
    s.max_tokens = 512;
    assert_ok(qsae_audit_open(ctx, &s, &audit));
    assert_fails(qsae_audit_plan(audit, 4, 0, &json), QSAE_EINVAL, "has run");
    assert_ok(qsae_audit_run(audit));
    assert_fails(qsae_audit_plan(audit, 4, 0, &json), QSAE_EINVAL, "same weights");
    qsae_audit_close(&audit);
    s.n_conditions = 1;
    assert_ok(qsae_audit_open(ctx, &s, &audit));
    assert_ok(qsae_audit_run(audit));
    assert_fails(qsae_audit_plan(audit, 3, 0, &json), QSAE_EINVAL, "at least 3.2");
    assert_fails(qsae_audit_plan(audit, 0, 0, &json), QSAE_EINVAL, "budget");
    assert_fails(qsae_audit_plan(audit, NAN, 0, &json), QSAE_EINVAL, "budget");
    assert_fails(qsae_audit_plan(audit, 4, 0, NULL), QSAE_EINVAL, "json");
    assert_ok(qsae_audit_plan(audit, 4, 1, &json));
    assert_non_null(strstr(json, "\"figure\": \"dce\""));
    qsae_audit_close(&audit);
    s.sweep = QSAE_SWEEP_NONE;
    assert_ok(qsae_audit_open(ctx, &s, &audit));
    assert_ok(qsae_audit_run(audit));
    assert_fails(qsae_audit_plan(audit, 4, 0, &json), QSAE_EINVAL, "sweep");
    qsae_audit_close(&audit);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        s.plan = texts[i];
        assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_EINVAL, "plan");
    }
    qsae_context_close(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_best),
                                        cmocka_unit_test(test_measured),
                                        cmocka_unit_test(test_idle_layer),
                                        cmocka_unit_test(test_layers),
                                        cmocka_unit_test(test_least),
                                        cmocka_unit_test(test_beside),
                                        cmocka_unit_test(test_refused) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
