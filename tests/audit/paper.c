/* SPDX-License-Identifier: BSD-2-Clause */
/* The paper's sweep in one run, and the survival predictor that a result keeps. */
#include <unistd.h>

#include "document.h"

#include "audit/audit.h"

#define FEATURES 4096

static const char *const sweep[] = { "rtn:bits=8,axis=tl", "rtn:bits=7,axis=tl",
                                     "rtn:bits=6,axis=tl", "rtn:bits=5,axis=tl",
                                     "rtn:bits=4,axis=tl" };

static void paper(qsae_audit_settings *s)
{
    defaults(s);
    s->profile = QSAE_PROFILE_PAPER;
    s->max_tokens = 2000;
}

static void write_text(const char *path, const char *text, size_t size)
{
    FILE *const f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}

/* Without conditions the profile brings the paper's own, which are what they are when given. */
static void test_sweep(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    paper(&s);
    json_t *const whole = run(ctx, &s);
    assert_int_equal(json_array_size(json_object_get(whole, "conditions")), 6);
    for (size_t i = 0; i < 5; i++)
        assert_true(strncmp(text_at(condition_at(whole, i), "label"), sweep[i],
                            strlen(sweep[i])) == 0);
    const json_t *const pruned = condition_at(whole, 5),
                 *const match = json_object_get(pruned, "match");
    assert_non_null(strstr(text_at(pruned, "label"), "scope=tl,ties=all"));
    assert_int_equal(json_array_size(json_object_get(match, "visited")), 6);
    near("target", at(match, "target"), at(condition_at(whole, 2), "ppl"), 1e-9);
    near("sparsity", at(pruned, "sparsity"), at(match, "chosen"), 0);
    s.conditions = sweep;
    s.n_conditions = 5;
    json_t *const given = run(ctx, &s);
    strip(whole);
    strip(given);
    for (size_t i = 0; i < 5; i++)
        assert_true(json_equal(condition_at(whole, i), condition_at(given, i)));
    json_decref(given);
    s.n_conditions = 0;
    s.reference_only = 1;
    json_t *const alone = run(ctx, &s);
    assert_int_equal(json_array_size(json_object_get(alone, "conditions")), 0);
    near("ce", reference_ce(alone), reference_ce(whole), 0);
    json_decref(alone);
    json_decref(whole);
    qsae_context_close(&ctx);
}

/* Statistics of the reference that lines of features say. */
struct statistics {
    double rate[FEATURES], mean[FEATURES], max[FEATURES], r[FEATURES];
    int64_t n;
};

static int32_t take(void *cookie, const char *line, size_t n_bytes)
{
    struct statistics *const f = cookie;
    json_error_t error;
    json_t *const o = json_loadb(line, n_bytes, 0, &error);
    const json_t *const c = json_array_get(json_object_get(o, "conditions"), 0);
    assert_true(f->n < FEATURES);
    f->rate[f->n] = at(o, "density");
    f->mean[f->n] = at(o, "mean");
    f->max[f->n] = at(o, "max");
    f->r[f->n++] = c ? at(c, "r") : 0;
    json_decref(o);
    return 0;
}

static double item(const json_t *fit, const char *key, size_t i)
{
    return json_number_value(json_array_get(json_object_get(fit, key), i));
}

static double input(const json_t *fit, size_t j, const struct statistics *f, int64_t i)
{
    const char *const name =
        json_string_value(json_array_get(json_object_get(fit, "inputs"), j));
    const double mean = fmax(f->mean[i], 1e-8), max = fmax(f->max[i], 1e-8);
    return strcmp(name, "rarity") == 0     ? -log(f->rate[i])
           : strcmp(name, "log_mean") == 0 ? log(mean)
           : strcmp(name, "log_max") == 0  ? log(max)
                                           : log(fmax(max / mean, 1));
}

/* The optimality conditions of scikit-learn's LogisticRegression(C=1) on inputs of mean 0 and
 * deviation 1: weights = sum of (label - probability) times input, and that sum is 0 for 1. */
static void check_optimum(const json_t *fit, const struct statistics *f)
{
    const size_t k = json_array_size(json_object_get(fit, "inputs"));
    double slope[4] = { 0 }, total = 0, rows = 0, sum[4] = { 0 }, sum2[4] = { 0 };
    assert_true(k == 3 || k == 4);
    for (int64_t i = 0; i < f->n; i++) {
        double z[4], s = at(fit, "intercept");
        if (!(f->rate[i] > 0.001))
            continue;
        for (size_t j = 0; j < k; j++) {
            z[j] = (input(fit, j, f, i) - item(fit, "means", j)) / item(fit, "sds", j);
            s += item(fit, "coefficients", j) * z[j];
            sum[j] += z[j];
            sum2[j] += z[j] * z[j];
        }
        const double rest = (f->r[i] > 0.9) - 1 / (1 + exp(-s));
        for (size_t j = 0; j < k; j++)
            slope[j] += rest * z[j];
        total += rest;
        rows += 1;
    }
    for (size_t j = 0; j < k; j++) { /* lines of features have 9 digits */
        near("slope", slope[j], item(fit, "coefficients", j), 1e-5);
        near("mean", sum[j] / rows, 0, 1e-7);
        near("variance", sum2[j] / rows, 1, 1e-7);
    }
    near("intercept", total, 0, 1e-5);
}

/* Ranks are those of the probabilities, and the fit separates what it was fitted on. */
static void check_ranks(const qsae_predictor *p, const json_t *predictor,
                        const struct statistics *f)
{
    static double probability[FEATURES];
    static int64_t rank[FEATURES];
    double pairs = 0, right = 0;
    int64_t ranked = 0, inactive = 0;
    assert_ok(qsae_predictor_run(p, f->rate, f->mean, f->max, f->n, probability, rank));
    for (int64_t i = 0; i < f->n; i++) {
        inactive += !(f->rate[i] > 0.001);
        assert_true((rank[i] == 0) == isnan(probability[i]));
        assert_true(isnan(probability[i]) == !(f->rate[i] > 0.001));
        ranked += rank[i] > 0;
        for (int64_t k = 0; k < f->n && rank[i] > 0; k++) {
            if (rank[k] == 0)
                continue;
            assert_true(k == i || rank[k] != rank[i]);
            assert_true(rank[k] < rank[i] ? probability[k] <= probability[i]
                                          : probability[k] >= probability[i]);
            if (f->r[i] > 0.9 && !(f->r[k] > 0.9)) {
                pairs += 1;
                right += probability[i] > probability[k] ? 1
                         : probability[i] == probability[k] ? 0.5 : 0;
            }
        }
    }
    assert_int_equal(ranked + inactive, f->n);
    near("features", at(json_object_get(predictor, "fit"), "features"), (double)ranked, 0);
    /* All rows see the fit, so it does at least about as well as on those it has not seen. */
    assert_true(right / pairs > at(predictor, "auc") - 0.1);
}

/* Damaged documents are refused or read, and nothing else happens. */
static void check_hostile(qsae_context *ctx, const json_t *result, const char *path)
{
    json_t *const small = json_pack("{s:s, s:[{s:s, s:[{s:s, s:{s:O}}]}]}", "format", "qsae-result",
                                    "conditions", "label", "x", "saes", "hash", "y", "survival",
                                    "predictor", result);
    char *const text = json_dumps(small, JSON_COMPACT);
    const size_t size = strlen(text);
    const char *const put[] = { "", "0", "-", "9", "\"", "[", "null", "1e999", "{\"fit\":" };
    uint64_t seed = 3;
    int64_t read = 0;
    for (size_t i = 0; i < 600; i++) {
        char *const bad = malloc(size + 16);
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        const size_t where = (size_t)(seed >> 33) % size, cut = (size_t)(seed >> 20) % 3;
        const char *const what = put[(seed >> 50) % (sizeof put / sizeof put[0])];
        const size_t tail = where + cut < size ? where + cut : size;
        const int n = sprintf(bad, "%.*s%s", (int)where, text, what);
        memcpy(bad + n, text + tail, size - tail + 1);
        write_text(path, bad, strlen(bad));
        qsae_predictor *p;
        double one = 1, probability;
        const int32_t st = qsae_predictor_open(ctx, path, NULL, NULL, &p);
        assert_true(st == QSAE_OK || st == QSAE_EFORMAT || st == QSAE_EINVAL);
        if (st == QSAE_OK) {
            assert_ok(qsae_predictor_run(p, &one, &one, &one, 1, &probability, NULL));
            read++;
        } else {
            assert_null(p);
        }
        qsae_predictor_close(&p);
        free(bad);
    }
    assert_true(read > 20 && read < 590);
    free(text);
    json_decref(small);
}

/* The features of a run with a condition that some survive. */
static void measure(qsae_context *ctx, json_t **result, struct statistics *f)
{
    static const char *const three[] = { "rtn:bits=3,axis=tl", "rtn:bits=8,axis=tl" };
    qsae_audit *audit;
    qsae_audit_settings s;
    paper(&s);
    s.conditions = three;
    s.n_conditions = 2;
    s.top_contexts = 1;
    f->n = 0;
    assert_ok(qsae_audit_open(ctx, &s, &audit));
    assert_ok(qsae_audit_run(audit));
    *result = result_of(audit);
    assert_ok(qsae_audit_features(audit, 0, take, f));
    qsae_audit_close(&audit);
}

/* The fit in the result is the optimum, and ranks features from a pass of the reference alone. */
static void test_predictor(void **state)
{
    (void)state;
    static struct statistics with, alone;
    char path[] = "/tmp/qsae-paper-XXXXXX";
    qsae_context *ctx = open_context(NULL, 2);
    json_t *result;
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    measure(ctx, &result, &with);
    json_t *const sae = json_array_get(json_object_get(condition_at(result, 0), "saes"), 0);
    json_t *const predictor = json_object_get(json_object_get(sae, "survival"), "predictor");
    json_t *const fit = json_object_get(predictor, "fit");
    check_optimum(fit, &with);
    check_optimum(json_object_get(predictor, "fit_paper"), &with);
    assert_string_equal(text_at(fit, "condition"), text_at(condition_at(result, 0), "label"));
    near("seed", at(fit, "seed"), 0, 0);
    near("survived", at(fit, "survived"), at(json_object_get(sae, "survival"), "survived"), 0);
    char *const text = json_dumps(result, JSON_REAL_PRECISION(17));
    write_text(path, text, strlen(text));
    free(text);

    qsae_audit_settings s;
    qsae_audit *audit;
    paper(&s);
    s.reference_only = 1;
    s.top_contexts = 1;
    assert_ok(qsae_audit_open(ctx, &s, &audit));
    assert_ok(qsae_audit_run(audit));
    alone.n = 0;
    assert_ok(qsae_audit_features(audit, 0, take, &alone));
    qsae_audit_close(&audit);
    assert_int_equal(alone.n, with.n);
    assert_memory_equal(alone.rate, with.rate, sizeof with.rate);
    assert_memory_equal(alone.mean, with.mean, sizeof with.mean);
    assert_memory_equal(alone.max, with.max, sizeof with.max);

    qsae_predictor *p, *other;
    const char *json, *const hash = text_at(sae, "hash");
    size_t size;
    assert_ok(qsae_predictor_open(ctx, path, NULL, hash, &p));
    assert_ok(qsae_predictor_json(p, &json, &size));
    assert_int_equal(strlen(json), size);
    assert_non_null(strstr(json, hash));
    check_ranks(p, predictor, &with);
    /* Of another SAE, or asked for by name: the same fit, as it is the only one. */
    assert_ok(qsae_predictor_open(ctx, path, "rtn:bits=3", "0123", &other));
    double a, b;
    int64_t i = 0;
    while (!(with.rate[i] > 0.001))
        i++;
    assert_ok(qsae_predictor_run(p, with.rate + i, with.mean + i, with.max + i, 1, &a, NULL));
    assert_ok(qsae_predictor_run(other, with.rate + i, with.mean + i, with.max + i, 1, &b, NULL));
    assert_true(a == b && a > 0 && a < 1);
    qsae_predictor_close(&other);
    assert_fails(qsae_predictor_open(ctx, path, "nf4", NULL, &other), QSAE_EINVAL, "nf4");
    assert_fails(qsae_predictor_open(ctx, path, "rtn:bits=8", NULL, &other), QSAE_EINVAL,
                 "at least 5");
    assert_fails(qsae_predictor_open(ctx, "/nowhere.json", NULL, NULL, &other), QSAE_ENOENT,
                 "nowhere");
    assert_fails(qsae_predictor_open(ctx, DATA "/reference.json", NULL, NULL, &other),
                 QSAE_EFORMAT, "format");
    assert_fails(qsae_predictor_run(p, NULL, &a, &a, 1, &b, NULL), QSAE_EINVAL, "NULL");
    assert_fails(qsae_predictor_run(p, &a, &a, &a, -1, &b, NULL), QSAE_EINVAL, "out of range");
    check_hostile(ctx, predictor, path);
    qsae_predictor_close(&p);
    qsae_predictor_close(&p);
    unlink(path);
    json_decref(result);
    qsae_context_close(&ctx);
}

/* What the fit has not seen has no probability. */
static void test_unseen(void **state)
{
    (void)state;
    static const char text[] =
        "{\"format\":\"qsae-result\",\"conditions\":[{\"label\":\"a\",\"saes\":[{\"survival\":"
        "{\"predictor\":{\"fit\":{\"inputs\":[\"log_max\",\"rarity\"],\"means\":[0,0],"
        "\"sds\":[1,2],\"coefficients\":[1,-2],\"intercept\":0.5}}}}]}]}";
    const double rate[] = { 0.5, 0.001, NAN, 0.5, 0.25, 0.5, 0.5 },
                 mean[] = { 1, 1, 1, NAN, 1, 1, 0 }, max[] = { 2, 2, 2, 2, 2, INFINITY, 2 };
    double probability[7];
    int64_t rank[7];
    char path[] = "/tmp/qsae-paper-XXXXXX";
    qsae_context *ctx = open_context(NULL, 1);
    qsae_predictor *p;
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    write_text(path, text, sizeof text - 1);
    assert_ok(qsae_predictor_open(ctx, path, NULL, NULL, &p));
    assert_ok(qsae_predictor_run(p, rate, mean, max, 7, probability, rank));
    /* s = 1/2 + ln 2 + ln rate: 1/2 for a rate of 1/2 */
    near("p", probability[0], 1 / (1 + exp(-0.5)), 1e-15);
    near("p", probability[4], 1 / (1 + exp(-0.5 + log(2))), 1e-15);
    near("p", probability[6], probability[0], 0);
    assert_true(rank[4] == 1 && rank[0] == 2 && rank[6] == 3);
    for (int i = 0; i < 7; i++)
        assert_true((rank[i] == 0) == (i == 1 || i == 2 || i == 3 || i == 5));
    qsae_predictor_close(&p);
    unlink(path);
    qsae_context_close(&ctx);
}

/* ---- the studies' own arithmetic (methods.md 11) ---- */

/* r of two conditions with so many features below the limit in one, the other and both. */
static void check_overlap(int64_t n, int64_t a, int64_t b, int64_t both, double limit,
                          const double *want)
{
    static double x[8192], y[8192];
    static const char *const keys[] = { "union", "jaccard", "ceiling", "chance" };
    assert_true(n <= 8192);
    for (int64_t i = 0; i < n; i++) {
        x[i] = i < a ? limit - 0.1 : 1;
        y[i] = i < both || (i >= a && i < a + b - both) ? limit - 0.1 : 1;
    }
    json_t *const o = qsae__overlap_json(x, y, n, limit, limit > 0.6);
    near("a", at(o, "a"), (double)a, 0);
    near("b", at(o, "b"), (double)b, 0);
    near("both", at(o, "both"), (double)both, 0);
    for (int k = 0; k < 4; k++)
        if (isnan(want[k]))
            assert_true(null_at(o, keys[k]));
        else
            near(keys[k], at(o, keys[k]), want[k], 5e-8);
    json_decref(o);
}

static void test_overlaps(void **state)
{
    (void)state;
    /* Pythia and Gemma, non-survivors and damaged, and none at all. */
    const double p = 2139.0 * 2220 / 5688, g = 3479.0 * 4388 / 7144, d = 58.0 * 17 / 5688;
    check_overlap(5688, 2139, 2220, 2016, 0.9,
                  (double[]){ 2343, 0.8604353, 2139.0 / 2220, p / (2139 + 2220 - p) });
    check_overlap(7144, 3479, 4388, 3478, 0.9,
                  (double[]){ 4389, 0.7924356, 3479.0 / 4388, g / (3479 + 4388 - g) });
    check_overlap(5688, 58, 17, 13, 0.5,
                  (double[]){ 62, 13.0 / 62, 17.0 / 58, d / (58 + 17 - d) });
    check_overlap(7144, 0, 17, 0, 0.5, (double[]){ 17, 0, 0, 0 });
    check_overlap(100, 0, 0, 0, 0.9, (double[]){ 0, NAN, NAN, NAN });
    near("chance, Pythia", p / (2139 + 2220 - p), 0.24, 0.005);
    near("chance, Gemma", g / (3479 + 4388 - g), 0.37, 0.005);
    near("Jaccard of the damaged", 13.0 / 62, 0.210, 5e-4);
}

/* The published value of a figure; NaN: there is none. */
static double published(const json_t *list, const char *run, const char *figure)
{
    size_t i;
    const json_t *f;
    json_array_foreach(list, i, f)
        if (strcmp(text_at(f, "run"), run) == 0 && strcmp(text_at(f, "figure"), figure) == 0)
            return json_number_value(json_object_get(f, "published"));
    fail_msg("%s: no figure %s", run, figure);
    return NAN;
}

static double of_condition(const json_t *list, const char *run, const char *what, const char *name)
{
    char figure[64];
    snprintf(figure, sizeof figure, "%s, %s", what, name);
    return published(list, run, figure);
}

/* A row of the table agrees with itself: shares are of whole features and add up, the rise is that
 * of the perplexities. */
static void check_row(const json_t *list, const char *run, const char *name)
{
    static const char *const bands[] = { "survived%", "degraded%", "damaged%" };
    const double n = published(list, run, "active features"),
                 base = published(list, run, "PPL, reference");
    double sum = 0;
    for (int k = 0; k < 3; k++) {
        const double share = of_condition(list, run, bands[k], name), count = share * n / 100;
        near(bands[k], count, round(count), 0.0005 * n / 100 + 1e-9);
        sum += share;
    }
    near("bands", sum, 100, 0.0015);
    near("dPPL%", 100 * (of_condition(list, run, "PPL", name) / base - 1),
         of_condition(list, run, "dPPL%", name), 0.005 + 100 * 0.001 / base);
}

static void check_study(const json_t *list, const char *run)
{
    static const char *const rows[] = { "INT8", "INT7", "INT6", "INT5", "INT4", "pruned" };
    const double n = published(list, run, "active features"),
                 quantized = published(list, run, "non-survivors: INT6"),
                 pruned = published(list, run, "non-survivors: pruned"),
                 both = published(list, run, "non-survivors: both"),
                 either = published(list, run, "non-survivors: union"),
                 steps = 80 * published(list, run, "sparsity matched to INT6");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        check_row(list, run, rows[i]);
    near("union", either, quantized + pruned - both, 0);
    near("Jaccard", both / either, published(list, run, "non-survivors: Jaccard"), 5e-5);
    near("INT6", n - round(n * of_condition(list, run, "survived%", "INT6") / 100), quantized, 0);
    near("pruned", n - round(n * of_condition(list, run, "survived%", "pruned") / 100), pruned, 0);
    near("sparsity", steps, round(steps), 1e-9); /* one that bisection visits */
    near("PPL", exp(published(list, run, "CE, reference")), published(list, run, "PPL, reference"),
         0.00001 * published(list, run, "PPL, reference"));
}

static void test_published(void **state)
{
    (void)state;
    json_error_t error;
    json_t *const table = json_load_file(DATA "/../published.json", JSON_REJECT_DUPLICATES, &error);
    if (!table)
        fail_msg("published.json: line %d: %s", error.line, error.text);
    const json_t *const paper_list = json_object_get(table, "paper"),
                 *const article = json_object_get(table, "article");
    check_study(paper_list, "pythia-70m-deduped");
    check_study(paper_list, "gemma-2-2b");
    near("PPL", exp(4.217151797547633), 67.840, 5e-4);
    /* Snapshots: the first batch of 4 x 512 that reaches a budget; the corpus ends with a chunk. */
    static const int64_t targets[] = { 5000, 20000, 50000, 100000, 200000 };
    for (size_t i = 0; i < sizeof targets / sizeof targets[0]; i++) {
        char figure[32];
        snprintf(figure, sizeof figure, "tokens at %dk", (int)(targets[i] / 1000));
        near(figure, published(article, "gemma-3-4b-pt", figure),
             (double)((targets[i] + 2047) / 2048 * 2048), 0);
        assert_int_equal(qsae__profile_get(QSAE_PROFILE_ARTICLE)->budgets[i], targets[i]);
    }
    near("chunks", 500224, (500000 + 511) / 512 * 512, 0);
    near("predicted", published(article, "gemma-3-4b-pt", "predicted tokens at 200k"), 98 * 4 * 511,
         0);
    json_decref(table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_overlaps),
        cmocka_unit_test(test_published),
        cmocka_unit_test(test_sweep),
        cmocka_unit_test(test_predictor),
        cmocka_unit_test(test_unseen),
    };
    return cmocka_run_group_tests_name("paper", tests, NULL, NULL);
}
