/* SPDX-License-Identifier: BSD-2-Clause */
/* Which fit of a result document is taken, and documents whose fits are wrong in one place. */
#include <unistd.h>

#include "document.h"

static char path[] = "/tmp/qsae-predictor-XXXXXX";

static int make_file(void **state)
{
    (void)state;
    const int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(path);
}

static void write_text(const char *text)
{
    FILE *const f = fopen(path, "wb");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

/* An SAE's object whose fit has an intercept alone; a NULL hash: it says none. */
static json_t *sae_of(const char *hash, double intercept)
{
    return json_pack("{s:s*,s:s,s:i,s:{s:{s:f,s:{s:[s],s:[i],s:[f],s:[i],s:f}}}}", "hash", hash,
                     "name", "an SAE", "layer", 3, "survival", "predictor", "auc", 0.75, "fit",
                     "inputs", "rarity", "means", 0, "sds", 1.0, "coefficients", 0, "intercept",
                     intercept);
}

/* The intercept of what is opened, by the probability of any active feature. */
static double chosen(qsae_context *ctx, const char *condition, const char *hash)
{
    const double one = 1;
    double p;
    qsae_predictor *predictor;
    assert_ok(qsae_predictor_open(ctx, path, condition, hash, &predictor));
    assert_ok(qsae_predictor_run(predictor, &one, &one, &one, 1, &p, NULL));
    qsae_predictor_close(&predictor);
    return log(p / (1 - p));
}

static void test_choice(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 1);
    qsae_predictor *p;
    const char *json;
    size_t size;
    json_t *const no_fit = json_pack("{s:s,s:{s:n}}", "hash", "b", "survival", "predictor");
    json_t *const document = json_pack(
        "{s:s,s:[{s:i},{s:s,s:[o]},{s:s,s:[O,o,o]},{s:s,s:[o,o]},{s:s,s:[o]},{s:s,s:[O]}]}",
        "format", "qsae-result", "conditions", "label", 3,
        "label", "nf4", "saes", sae_of("a", 1),
        "label", "rtn:bits=6,axis=tl", "saes", no_fit, sae_of(NULL, 2), sae_of("a", 3),
        "label", "rtn:bits=4", "saes", sae_of("b", 4), sae_of("c", 5),
        "label", "rtn:bits=4,axis=tl", "saes", sae_of("b", 6), "label", "none", "saes", no_fit);
    assert_non_null(document);
    assert_int_equal(json_dump_file(document, path, 0), 0);
    near("the paper's", chosen(ctx, NULL, NULL), 2, 1e-12);
    near("by hash", chosen(ctx, NULL, "a"), 3, 1e-12);
    near("no such hash", chosen(ctx, NULL, "c"), 2, 1e-12);
    near("a fit, not the hash", chosen(ctx, NULL, "b"), 2, 1e-12);
    near("by condition", chosen(ctx, "nf4", NULL), 1, 1e-12);
    near("the first of two", chosen(ctx, "rtn:bits=4", NULL), 4, 1e-12);
    near("both", chosen(ctx, "rtn:bits=4", "c"), 5, 1e-12);
    near("the whole label", chosen(ctx, "rtn:bits=4,", "c"), 6, 1e-12);
    assert_fails(qsae_predictor_open(ctx, path, "rtn:bits=5", NULL, &p), QSAE_EINVAL,
                 "no condition begins with \"rtn:bits=5\"");
    assert_fails(qsae_predictor_open(ctx, path, "none", NULL, &p), QSAE_EINVAL,
                 "no survival predictor");
    assert_null(p);
    /* What it is of: the fit, and where it comes from. */
    assert_ok(qsae_predictor_open(ctx, path, "nf4", NULL, &p));
    assert_ok(qsae_predictor_json(p, &json, &size));
    json_t *const got = json_loadb(json, size, 0, NULL);
    near("intercept", at(got, "intercept"), 1, 0);
    near("auc", at(got, "auc"), 0.75, 0);
    near("layer", at(got, "layer"), 3, 0);
    assert_string_equal(text_at(got, "hash"), "a");
    assert_string_equal(text_at(got, "name"), "an SAE");
    json_decref(got);
    assert_ok(qsae_predictor_json(p, &json, NULL));
    assert_fails(qsae_predictor_json(p, NULL, &size), QSAE_EINVAL, "json is NULL");
    qsae_predictor_close(&p);
    /* Without the paper's condition the first of all. */
    json_array_remove(json_object_get(document, "conditions"), 2);
    assert_int_equal(json_dump_file(document, path, 0), 0);
    near("the first", chosen(ctx, NULL, NULL), 1, 1e-12);
    json_decref(document);
    json_decref(no_fit);
    qsae_context_close(&ctx);
}

#define FIT(inputs, means, sds, coefficients, intercept) \
    "{\"inputs\":" inputs ",\"means\":" means ",\"sds\":" sds ",\"coefficients\":" coefficients \
    intercept "}"

static void test_wrong(void **state)
{
    static const struct {
        const char *fit;
        int32_t status;
        const char *part;
    } cases[] = {
        { FIT("[\"log_mean\"]", "[0]", "[1]", "[1]", ",\"intercept\":0"), QSAE_OK, NULL },
        { "3", QSAE_EINVAL, "no survival predictor" },
        { "{}", QSAE_EFORMAT, "inputs" },
        { FIT("3", "[0]", "[1]", "[1]", ",\"intercept\":0"), QSAE_EFORMAT, "inputs" },
        { FIT("[\"rarity\"]", "0", "[1]", "[1]", ",\"intercept\":0"), QSAE_EFORMAT, "means" },
        { FIT("[\"rarity\"]", "[0]", "{}", "[1]", ",\"intercept\":0"), QSAE_EFORMAT, "sds" },
        { FIT("[\"rarity\"]", "[0]", "[1]", "null", ",\"intercept\":0"), QSAE_EFORMAT,
          "coefficients" },
        { FIT("[\"rarity\"]", "[0]", "[1]", "[1]", ""), QSAE_EFORMAT, "intercept" },
        { FIT("[\"rarity\"]", "[0]", "[1]", "[1]", ",\"intercept\":\"0\""), QSAE_EFORMAT,
          "intercept" },
        { FIT("[]", "[]", "[]", "[]", ",\"intercept\":0"), QSAE_EFORMAT,
          "fit.inputs: expected 1 to 4, and as many means" },
        { FIT("[\"rarity\"]", "[0,0]", "[1]", "[1]", ",\"intercept\":0"), QSAE_EFORMAT,
          "expected 1 to 4, and as many means" },
        { FIT("[\"rarity\"]", "[0]", "[]", "[1]", ",\"intercept\":0"), QSAE_EFORMAT,
          "expected 1 to 4, and as many means" },
        { FIT("[\"rarity\"]", "[0]", "[1]", "[1,2]", ",\"intercept\":0"), QSAE_EFORMAT,
          "expected 1 to 4, and as many means" },
        { FIT("[\"rarity\",\"rarity\",\"rarity\",\"rarity\",\"rarity\"]", "[0,0,0,0,0]",
              "[1,1,1,1,1]", "[1,1,1,1,1]", ",\"intercept\":0"), QSAE_EFORMAT,
          "expected 1 to 4, and as many means" },
        { FIT("[\"Rarity\"]", "[0]", "[1]", "[1]", ",\"intercept\":0"), QSAE_EFORMAT,
          "fit.inputs[0]: expected rarity, log_mean" },
        { FIT("[3]", "[0]", "[1]", "[1]", ",\"intercept\":0"), QSAE_EFORMAT,
          "fit.inputs[0]: expected rarity, log_mean" },
        { FIT("[\"rarity\"]", "[\"0\"]", "[1]", "[1]", ",\"intercept\":0"), QSAE_EFORMAT,
          "fit.means[0]: expected a number" },
        { FIT("[\"rarity\"]", "[0]", "[null]", "[1]", ",\"intercept\":0"), QSAE_EFORMAT,
          "fit.sds[0]: expected a number" },
        { FIT("[\"rarity\",\"log_max\"]", "[0,0]", "[1,1]", "[1,true]", ",\"intercept\":0"),
          QSAE_EFORMAT, "fit.coefficients[1]: expected a number" },
        { FIT("[\"rarity\"]", "[0]", "[0]", "[1]", ",\"intercept\":0"), QSAE_EFORMAT,
          "fit.sds[0]: expected a number above 0, found 0" },
        { FIT("[\"rarity\",\"log_max\"]", "[0,0]", "[1,-2]", "[1,1]", ",\"intercept\":0"),
          QSAE_EFORMAT, "fit.sds[1]: expected a number above 0, found -2" },
    };
    static const struct {
        const char *text;
        int32_t status;
        const char *part;
    } documents[] = {
        { "{\"format\":\"qsae-result\"}", QSAE_EINVAL, "no survival predictor" },
        { "{\"format\":\"qsae-result\",\"conditions\":3}", QSAE_EINVAL, "no survival predictor" },
        { "{\"format\":\"qsae-result\",\"conditions\":[3,{\"saes\":[3]}]}", QSAE_EINVAL,
          "no survival predictor" },
        { "{\"format\":\"qsae-state\"}", QSAE_EFORMAT, "expected qsae-result, found qsae-state" },
        { "{\"format\":3}", QSAE_EFORMAT, "format" },
        { "[]", QSAE_EFORMAT, "" },
    };
    char text[1024];
    (void)state;
    qsae_context *ctx = open_context(NULL, 1);
    qsae_predictor *p;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        snprintf(text, sizeof text, "{\"format\":\"qsae-result\",\"conditions\":[{\"label\":\"a\","
                 "\"saes\":[{\"survival\":{\"predictor\":{\"fit\":%s}}}]}]}", cases[i].fit);
        write_text(text);
        if (cases[i].status == QSAE_OK)
            assert_ok(qsae_predictor_open(ctx, path, NULL, NULL, &p));
        else
            assert_fails(qsae_predictor_open(ctx, path, NULL, NULL, &p), cases[i].status,
                         cases[i].part);
        assert_int_equal(p != NULL, cases[i].status == QSAE_OK);
        qsae_predictor_close(&p);
    }
    for (size_t i = 0; i < sizeof documents / sizeof documents[0]; i++) {
        write_text(documents[i].text);
        assert_fails(qsae_predictor_open(ctx, path, NULL, NULL, &p), documents[i].status,
                     documents[i].part);
        assert_null(p);
    }
    assert_fails(qsae_predictor_open(ctx, NULL, NULL, NULL, &p), QSAE_EINVAL, "path is NULL");
    qsae_context_close(&ctx);
}

/* No features, and those of no use to the fit beside others: no rank is theirs. */
static void test_few(void **state)
{
    const double rate[3] = { 0.5, INFINITY, 0.25 }, ones[3] = { 1, 1, 1 };
    double p[3] = { 7, 7, 7 };
    int64_t rank[3] = { 7, 7, 7 };
    (void)state;
    qsae_context *ctx = open_context(NULL, 1);
    qsae_predictor *predictor;
    write_text("{\"format\":\"qsae-result\",\"conditions\":[{\"saes\":[{\"survival\":{"
               "\"predictor\":{\"fit\":"
               FIT("[\"rarity\"]", "[0]", "[1]", "[-1]", ",\"intercept\":0")
               "}}}]}]}");
    assert_ok(qsae_predictor_open(ctx, path, NULL, NULL, &predictor));
    assert_ok(qsae_predictor_run(predictor, NULL, NULL, NULL, 0, NULL, rank));
    assert_true(p[0] == 7 && rank[0] == 7);
    assert_ok(qsae_predictor_run(predictor, rate, ones, ones, 3, p, rank));
    near("p", p[0], 1.0 / 3, 1e-15); /* 1 / (1 + exp(-ln rate)) */
    near("p", p[2], 1.0 / 5, 1e-15);
    assert_true(isnan(p[1]) && rank[0] == 2 && rank[1] == 0 && rank[2] == 1);
    assert_fails(qsae_predictor_run(predictor, rate, ones, ones, 3, NULL, NULL), QSAE_EINVAL,
                 "an argument is NULL");
    assert_fails(qsae_predictor_run(predictor, rate, ones, ones, INT64_MAX, p, NULL), QSAE_EINVAL,
                 "n is out of range");
    qsae_predictor_close(&predictor);
    qsae_context_close(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_choice), cmocka_unit_test(test_wrong), cmocka_unit_test(test_few),
    };
    return cmocka_run_group_tests_name("predictor", tests, make_file, remove_file);
}
