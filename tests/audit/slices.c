/* SPDX-License-Identifier: BSD-2-Clause */
/* Parts of the tokens, worst tokens and documents: the same document for any number of threads,
 * streamed or not, stopped anywhere; parts add up; what is listed is what the figures say. The
 * figures themselves against NumPy: tests/python/test_slices.py. */
#include <unistd.h>

#include "document.h"

#define TOKENS 2300

static char text_path[] = "/tmp/qsae-slices-XXXXXX.jsonl";
static const char *const slices[] = { "position", "entropy", "script", "class*entropy",
                                      "kind*position", "length" };
#define SLICES ((int64_t)(sizeof slices / sizeof slices[0]))

/* The beginnings of the bundled documents: many short ones. */
static int make_text(void **state)
{
    char *line = NULL;
    size_t size = 0;
    const int fd = mkstemps(text_path, 6);
    FILE *const in = fopen(DATA "/eval.jsonl", "rb"), *const out = fd < 0 ? NULL : fdopen(fd, "wb");
    (void)state;
    if (!in || !out)
        return -1;
    while (getline(&line, &size, in) > 0) {
        json_error_t error;
        json_t *const o = json_loads(line, 0, &error);
        const char *const text = json_string_value(json_object_get(o, "text"));
        size_t n = text && strlen(text) > 200 ? 200 : text ? strlen(text) : 0;
        while (n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80)
            n--;
        json_object_set_new(o, "text", json_stringn(text, n));
        char *const cut = json_dumps(o, JSON_COMPACT);
        fprintf(out, "%s\n", cut);
        free(cut);
        json_decref(o);
    }
    free(line);
    fclose(in);
    return fclose(out);
}

static int remove_text(void **state)
{
    (void)state;
    return unlink(text_path);
}

static void settings(qsae_audit_settings *s)
{
    static const char *const conditions[] = { "rtn:bits=3", "nf4@layers=4-5", DATA "/tiny-gemma3" };
    defaults(s);
    s->text = text_path;
    s->max_tokens = TOKENS;
    s->context = 128;
    s->batch = 2;
    s->keep_tail = 1;
    s->conditions = conditions;
    s->n_conditions = 3;
    s->slices = slices;
    s->n_slices = SLICES;
}

static json_t *stripped(qsae_context *ctx, const qsae_audit_settings *s)
{
    json_t *const result = run(ctx, s);
    strip(result);
    return result;
}

static void assert_same(json_t *want, json_t *got, const char *what)
{
    if (!json_equal(want, got))
        fail_msg("%s: another document", what);
    json_decref(got);
}

/* Stops after so many tokens and goes on, twice. */
static json_t *resumed(qsae_context *ctx, qsae_audit_settings *s, int64_t first, int64_t second)
{
    char path[] = "/tmp/qsae-slices-state-XXXXXX";
    const int fd = mkstemp(path);
    struct stop stop = { .at = first };
    qsae_audit *audit;
    assert_true(fd >= 0);
    close(fd);
    unlink(path);
    assert_ok(qsae_cancel_token_open(&stop.token));
    s->state = path;
    s->cancel = stop.token;
    s->progress = stop_at;
    s->progress_cookie = &stop;
    for (int i = 0; i < 2; i++) {
        assert_ok(qsae_audit_open(ctx, s, &audit));
        assert_fails(qsae_audit_run(audit), QSAE_ECANCELED, "canceled");
        json_decref(result_of(audit)); /* changes nothing of what comes after */
        qsae_audit_close(&audit);
        qsae_cancel_token_reset(stop.token);
        stop.at = second;
    }
    stop.at = INT64_MAX;
    json_t *const out = stripped(ctx, s);
    s->state = NULL;
    s->cancel = NULL;
    s->progress = NULL;
    unlink(path);
    qsae_cancel_token_close(&stop.token);
    return out;
}

static void test_same_document(void **state)
{
    (void)state;
    qsae_context *one = open_context(NULL, 1), *two = open_context(NULL, 2);
    qsae_audit_settings s;
    settings(&s);
    json_t *const want = stripped(one, &s);
    assert_same(want, stripped(two, &s), "two threads");
    s.memory = QSAE_MEMORY_STREAMED;
    s.stream_bytes = 1;
    assert_same(want, stripped(two, &s), "streamed");
    s.memory = QSAE_MEMORY_DEFAULT;
    assert_same(want, resumed(two, &s, 256, 1300), "stopped and resumed");
    json_decref(want);
    qsae_context_close(&one);
    qsae_context_close(&two);
}

static double sum_of(const json_t *list, const char *dimension, const char *key)
{
    double sum = 0;
    size_t i;
    const json_t *part;
    json_array_foreach(list, i, part)
        if (strcmp(text_at(part, "dimension"), dimension) == 0)
            sum += at(part, key);
    return sum;
}

static void check_worst(const json_t *who, double predicted)
{
    const json_t *const tokens = json_object_get(who, "worst_tokens"), *v;
    const json_t *const documents = json_object_get(json_object_get(who, "worst_documents"),
                                                    "by_total");
    size_t i;
    double last = INFINITY, total = INFINITY;
    assert_int_equal(json_array_size(tokens), 50);
    near("dnll_max", at(json_array_get(tokens, 0), "dnll"), at(who, "dnll_max"), 0);
    json_array_foreach(tokens, i, v) {
        assert_true(at(v, "dnll") <= last);
        last = at(v, "dnll");
        near("dnll", last, at(v, "nll_q") - at(v, "nll_r"), 1e-12);
        near("p_r", at(v, "p_r"), exp(-at(v, "nll_r")), 1e-12);
        assert_non_null(text_at(v, "token"));
        assert_non_null(text_at(v, "top_q_text"));
    }
    assert_int_equal(json_array_size(documents), 20);
    json_array_foreach(documents, i, v) {
        assert_true(at(v, "dnll_total") <= total);
        total = at(v, "dnll_total");
        near("dce", at(v, "dce") * at(v, "tokens"), total, 1e-9);
        assert_true(at(v, "tokens") <= predicted);
        assert_int_equal((int64_t)at(v, "line"), (int64_t)at(v, "document") + 1);
        assert_non_null(text_at(json_object_get(v, "metadata"), "kind"));
    }
}

static void test_adds_up(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    settings(&s);
    json_t *const result = run(ctx, &s), *const parts = json_object_get(result, "slices");
    const json_t *const list = json_object_get(parts, "list"), *v;
    const double predicted = at(json_object_get(result, "reference"), "predicted");
    for (int64_t i = 0; i < SLICES; i++)
        near(slices[i], sum_of(list, slices[i], "tokens"), predicted, 0);
    size_t i;
    bool seen = false;
    json_array_foreach(list, i, v) {
        const json_t *const c = json_array_get(json_object_get(v, "conditions"), 0),
                     *const r = json_array_get(json_object_get(v, "conditions"), 2),
                     *const sae = json_array_get(json_object_get(c, "saes"), 0);
        if (strcmp(text_at(v, "dimension"), "position") != 0 ||
            strcmp(text_at(v, "value"), "0-255") != 0)
            continue;
        /* One part holds every token: its figures are those of all. */
        const json_t *const all = condition_at(result, 0);
        const json_t *const own = json_array_get(json_object_get(all, "saes"), 0);
        static const char *const keys[] = { "dce", "kl_mean", "kl_median", "kl_q99", "dnll_q99",
                                            "right_to_wrong", "top1_agreement" };
        seen = true;
        assert_true(json_is_true(json_object_get(v, "enough")));
        for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++)
            near(keys[k], at(c, keys[k]), at(all, keys[k]), 1e-15);
        near("fvu", at(sae, "fvu_dim"), at(own, "fvu_dim"), 1e-12);
        near("ratio", at(json_object_get(sae, "noise"), "ratio"),
             at(json_object_get(own, "noise"), "ratio"), 1e-12);
        near("features", at(json_object_get(sae, "survival"), "features"),
             at(json_object_get(own, "survival"), "active"), 0);
        near("survived", at(json_object_get(sae, "survival"), "survived_percent"),
             at(json_object_get(own, "survival"), "survived_percent"), 1e-12);
        near("a copy", at(r, "dce"), 0, 0);
    }
    assert_true(seen);
    check_worst(condition_at(result, 0), predicted);
    near("kl of a copy", at(json_array_get(json_object_get(condition_at(result, 2),
                                                           "worst_tokens"), 0), "dnll"), 0, 0);
    json_decref(result);
    /* Without conditions, and as parts of a sweep: nothing to list. */
    s.profile = QSAE_PROFILE_DEFAULT; /* which has none of its own */
    s.n_conditions = 0;
    json_t *const alone = run(ctx, &s);
    near("entropy alone", sum_of(json_object_get(json_object_get(alone, "slices"), "list"),
                                 "entropy", "tokens"), 0, 0);
    json_decref(alone);
    s.n_conditions = 1;
    s.n_slices = 0;
    s.sweep = QSAE_SWEEP_KINDS;
    s.max_tokens = 500;
    json_t *const swept = run(ctx, &s);
    assert_true(null_at(condition_at(swept, 0), "worst_tokens"));
    assert_true(null_at(condition_at(swept, 0), "worst_documents"));
    json_decref(swept);
    qsae_context_close(&ctx);
}

/* Figures of late parts are theirs, whatever divisions without figures of SAEs come first. */
static void test_late(void **state)
{
    static const char *const names[] = { "script*entropy", "entropy" };
    static const char *const conditions[] = { "rtn:bits=4" };
    json_t *lists[2];
    size_t shown = 0;
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    for (int k = 0; k < 2; k++) {
        qsae_audit_settings s;
        defaults(&s);
        s.context = 128;
        s.max_tokens = 12000;
        s.conditions = conditions;
        s.n_conditions = 1;
        s.slices = names + 1 - k;
        s.n_slices = 1 + k;
        json_t *const result = run(ctx, &s);
        lists[k] = json_incref(json_object_get(json_object_get(result, "slices"), "list"));
        json_decref(result);
    }
    const size_t skipped = json_array_size(lists[1]) - json_array_size(lists[0]);
    assert_int_equal(json_array_size(lists[0]), 5);
    assert_int_equal(skipped, 28 * 5);
    for (size_t i = 0; i < 5; i++) {
        json_t *const alone = json_array_get(lists[0], i),
               *const after = json_array_get(lists[1], skipped + i);
        json_t *const c = json_array_get(json_object_get(alone, "conditions"), 0);
        const json_t *const sae = json_array_get(json_object_get(c, "saes"), 0);
        shown += json_is_number(json_object_get(json_object_get(sae, "survival"), "features"));
        json_object_del(c, "q"); /* depends on how many parts are ranked */
        json_object_del(json_array_get(json_object_get(after, "conditions"), 0), "q");
        assert_true(json_equal(alone, after));
    }
    assert_true(shown >= 1);
    for (size_t i = 0; i < skipped; i++) { /* 140 parts are too many for figures of SAEs */
        const json_t *const c = json_array_get(
            json_object_get(json_array_get(lists[1], i), "conditions"), 0);
        const json_t *const sae = json_array_get(json_object_get(c, "saes"), 0);
        assert_true(null_at(sae, "fvu_dim"));
    }
    json_decref(lists[0]);
    json_decref(lists[1]);
    qsae_context_close(&ctx);
}

/* The rows that are kept of a transcoder are not those it reads: what is said of where its features
 * live is null, all else is there. */
static void test_transcoder(void **state)
{
    static const char *const saes[] = { DATA "/tiny-gemma3-sae",
                                        QSAE_TEST_DATA "/transcoders/skip" };
    static const char *const names[] = { "entropy", "position" }, *const conditions[] = { "nf4" };
    qsae_audit_settings s;
    size_t i, shown = 0;
    const json_t *part;
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    defaults(&s);
    s.context = 128;
    s.max_tokens = 12000;
    s.saes = saes;
    s.n_saes = 2;
    s.conditions = conditions;
    s.n_conditions = 1;
    s.slices = names;
    s.n_slices = 2;
    json_t *const result = run(ctx, &s);
    json_array_foreach(json_object_get(json_object_get(result, "slices"), "list"), i, part) {
        const bool late = strcmp(text_at(part, "dimension"), "entropy") == 0;
        const json_t *const list = json_object_get(
            json_array_get(json_object_get(part, "conditions"), 0), "saes");
        if (!json_is_true(json_object_get(part, "enough")))
            continue;
        for (size_t k = 0; k < 2; k++) {
            const json_t *const sae = json_array_get(list, k);
            near("noise", at(json_object_get(sae, "noise"), "ratio"), 1, 1);
            assert_true(at(sae, "fvu_dim") > 0);
            assert_int_equal(null_at(json_object_get(sae, "survival"), "features"), late && k == 1);
        }
        shown += late ? 1 : 16;
    }
    assert_true(shown % 16 >= 1 && shown / 16 >= 1); /* of both kinds */
    json_decref(result);
    qsae_context_close(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_document), cmocka_unit_test(test_adds_up),
        cmocka_unit_test(test_late),          cmocka_unit_test(test_transcoder),
    };
    return cmocka_run_group_tests(tests, make_text, remove_text);
}
