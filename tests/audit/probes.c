/* SPDX-License-Identifier: BSD-2-Clause */
/* Probe sets: tokens as lm-evaluation-harness has them, log-probabilities of transformers in
 * binary64, tests and intervals of SciPy and NumPy (tests/reference/probes.py). */
#include <unistd.h>

#include "audit/probed.h"
#include "document.h"
#include "text/probes.h"

#define STORIES QSAE_TEST_SHARED "/data/stories260k"

static char path[] = "/tmp/qsae-probes-XXXXXX";

static json_t *reference(void)
{
    json_error_t error;
    json_t *file = json_load_file(QSAE_TEST_DATA "/probes.json", JSON_ALLOW_NUL, &error);
    if (!file)
        fail_msg("%s", error.text);
    return file;
}

static void write_text(const char *text, size_t size)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}

static void put_text(FILE *f, const char *key, const json_t *row, size_t i)
{
    char *text = json_dumps(json_array_get(json_object_get(row, "text"), i), JSON_ENCODE_ANY);
    assert_non_null(text);
    fprintf(f, "\"%s\":%s,", key, text);
    free(text);
}

/* The rows as a probe set; blank lines between. */
static void write_rows(const json_t *rows)
{
    size_t i;
    const json_t *row;
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    json_array_foreach(rows, i, row) {
        fprintf(f, "{");
        put_text(f, "context", row, 0);
        put_text(f, "good", row, 1);
        put_text(f, "bad", row, 2);
        fprintf(f, "\"tags\":[\"%s\",\"all\"]}\n\n", i % 3 ? "a" : "b");
    }
    assert_int_equal(fclose(f), 0);
}

static void same_ids(const char *what, size_t row, const int32_t *got, int64_t n,
                     const json_t *want)
{
    if ((size_t)n != json_array_size(want))
        fail_msg("row %zu: %s: expected %zu ids, found %lld", row, what, json_array_size(want),
                 (long long)n);
    for (int64_t i = 0; i < n; i++)
        if (got[i] != json_integer_value(json_array_get(want, (size_t)i)))
            fail_msg("row %zu: %s: id %lld is %d", row, what, (long long)i, (int)got[i]);
}

static void check_tokens(const qsae_probes *p, const json_t *rows)
{
    size_t i;
    const json_t *row;
    json_array_foreach(rows, i, row) {
        qsae_probe k = { .struct_size = sizeof k };
        assert_ok(qsae_probes_item(p, (int64_t)i, &k));
        same_ids("context", i, k.context, k.n_context, json_object_get(row, "context"));
        same_ids("good", i, k.good, k.n_good, json_object_get(row, "good"));
        same_ids("bad", i, k.bad, k.n_bad, json_object_get(row, "bad"));
        assert_int_equal(k.good_bytes, json_integer_value(json_object_get(row, "good_bytes")));
        assert_int_equal(k.bad_bytes, json_integer_value(json_object_get(row, "bad_bytes")));
        assert_int_equal(k.line, 2 * i + 1);
        assert_int_equal(k.n_tags, 2);
        assert_string_equal(qsae_probes_tag(p, k.tags[0]), i % 3 && i ? "all" : "b");
    }
}

static void test_tokens(void **state)
{
    (void)state;
    json_t *file = reference();
    const char *name;
    const json_t *rows;
    qsae_context *ctx = open_context(NULL, 1);
    json_object_foreach(json_object_get(file, "tokenizers"), name, rows) {
        char tokenizer_path[600];
        qsae_tokenizer *t;
        qsae_probes *p;
        snprintf(tokenizer_path, sizeof tokenizer_path, "%s/tokenizers/%s.tokenizer.json",
                 QSAE_TEST_DATA, name);
        print_message("%s\n", name);
        write_rows(rows);
        assert_ok(qsae_tokenizer_open(ctx, tokenizer_path, &t));
        assert_ok(qsae_probes_open(ctx, t, path, NULL, &p));
        check_tokens(p, rows);
        qsae_probes_info info = { .struct_size = sizeof info };
        assert_ok(qsae_probes_get_info(p, &info));
        assert_int_equal(info.items, json_array_size(rows));
        assert_int_equal(info.tags, 3);
        assert_null(qsae_probes_tag(p, 3));
        qsae_probes_close(&p);
        qsae_tokenizer_close(&t);
    }
    qsae_context_close(&ctx);
    json_decref(file);
}

static void compare(const json_t *got, const json_t *want)
{
    static const char *const keys[] = { "accuracy", "accuracy_per_token", "accuracy_per_byte",
                                        "margin", "margin_per_token", NULL };
    const json_t *intervals = json_object_get(got, "intervals"), *v;
    const char *key;
    for (int i = 0; keys[i]; i++)
        near(keys[i], at(got, keys[i]), at(want, keys[i]), 2e-5);
    if (at(got, "items") < 20) { /* too few */
        assert_int_equal(json_object_size(intervals), 0);
        return;
    }
    json_object_foreach(json_object_get(want, "intervals"), key, v)
        for (size_t side = 0; side < 2; side++)
            near(key, json_number_value(json_array_get(json_object_get(intervals, key), side)),
                 json_number_value(json_array_get(v, side)), 2e-5);
}

/* What a model makes of each item, by itself. */
struct scores {
    const json_t *want;
    int64_t next;
    double worst;
};

static int32_t on_score(void *cookie, const qsae_probe_score *s)
{
    struct scores *const c = cookie;
    const size_t i = (size_t)s->item;
    const double good = json_number_value(json_array_get(json_object_get(c->want, "good"), i)),
                 bad = json_number_value(json_array_get(json_object_get(c->want, "bad"), i));
    assert_int_equal(s->item, c->next++);
    c->worst = fmax(c->worst, fmax(fabs(s->good - good), fabs(s->bad - bad)));
    return 0;
}

static void run_alone(qsae_context *ctx, const char *folder, int32_t memory, const json_t *want)
{
    qsae_weights *w;
    qsae_model *m;
    qsae_tokenizer *t;
    qsae_probes *p;
    qsae_model_settings s;
    struct scores scores = { .want = want };
    qsae_model_settings_init(&s, sizeof s);
    s.memory = memory;
    assert_ok(qsae_weights_open(ctx, folder, &w));
    assert_ok(qsae_model_open(w, &s, &m));
    assert_ok(qsae_tokenizer_open(ctx, folder, &t));
    assert_ok(qsae_probes_open(ctx, t, path, NULL, &p));
    check_tokens(p, json_object_get(want, "rows"));
    assert_ok(qsae_probes_run(p, m, NULL, on_score, &scores));
    near("log-probability", scores.worst, 0, 3e-4);
    assert_int_equal(scores.next, json_array_size(json_object_get(want, "rows")));
    qsae_probes_close(&p);
    qsae_tokenizer_close(&t);
    qsae_model_close(&m);
    qsae_weights_close(&w);
}

static void check_model(const char *name, const char *folder, const char *text)
{
    json_t *file = reference();
    const json_t *want = json_object_get(json_object_get(file, "models"), name);
    const char *const conditions[] = { "none", "rtn:bits=3" };
    qsae_context *ctx = open_context(NULL, 2);
    write_rows(json_object_get(want, "rows"));
    run_alone(ctx, folder, QSAE_MEMORY_RESIDENT, want);
    run_alone(ctx, folder, QSAE_MEMORY_STREAMED, want);
    qsae_audit_settings s;
    qsae_audit_settings_init(&s, sizeof s);
    s.model = folder;
    s.text = text;
    s.context = 64;
    s.max_tokens = 256;
    s.conditions = conditions;
    s.n_conditions = 2;
    s.probes = path;
    json_t *result = run(ctx, &s);
    const json_t *probes = json_object_get(result, "probes"),
                 *r = json_object_get(probes, "reference"),
                 *list = json_object_get(probes, "conditions"),
                 *null = json_array_get(list, 0), *q = json_array_get(list, 1);
    compare(r, want);
    compare(null, want);
    near("null margin", at(null, "dmargin"), 0, 0);
    near("null flips", at(null, "right_to_wrong") + at(null, "wrong_to_right"), 0, 0);
    near("null p", at(null, "mcnemar_p"), 1, 0);
    assert_true(at(q, "dmargin") != 0);
    near("dmargin", at(q, "dmargin"), at(q, "margin") - at(r, "margin"), 1e-12);
    near("daccuracy", at(q, "daccuracy"), at(q, "accuracy") - at(r, "accuracy"), 1e-12);
    /* Every item has the tag "all". */
    const json_t *all = json_array_get(json_object_get(q, "tags"), 1);
    assert_string_equal(text_at(all, "tag"), "all");
    near("tag", at(all, "margin"), at(q, "margin"), 0);
    near("parts", at(json_array_get(json_object_get(q, "tags"), 0), "items") +
                      at(json_array_get(json_object_get(q, "tags"), 2), "items"),
         at(q, "items"), 0);
    json_decref(result);
    qsae_context_close(&ctx);
    json_decref(file);
}

static void test_bundled(void **state)
{
    (void)state;
    check_model("bundled", DATA "/tiny-gemma3", DATA "/eval.jsonl");
    check_model("tiny", DATA "/tiny-gemma3", DATA "/eval.jsonl");
}

static void test_stories(void **state)
{
    (void)state;
    if (access(STORIES, R_OK) != 0) {
        print_message("skipped: no stories260k in ../shared\n");
        skip();
    }
    check_model("stories", STORIES, STORIES "/tinystories-valid.txt");
}

static void test_mcnemar(void **state)
{
    (void)state;
    size_t i;
    const json_t *row;
    json_t *file = reference();
    json_array_foreach(json_object_get(file, "mcnemar"), i, row) {
        const int64_t a = json_integer_value(json_array_get(row, 0)),
                      b = json_integer_value(json_array_get(row, 1));
        const double want = json_number_value(json_array_get(row, 2));
        near("p", qsae__mcnemar(a, b), want, 1e-11 * want + 1e-300);
        near("p", qsae__mcnemar(b, a), qsae__mcnemar(a, b), 0);
    }
    json_decref(file);
}

/* The bundled set on codecs of every kind. */
static void many(qsae_audit_settings *s)
{
    static const char *const conditions[] = { "llm.int8", "rtn:bits=3", "none+kv:k=q4_0,v=q4_0" };
    defaults(s);
    s->max_tokens = 1024;
    s->n_saes = 0;
    s->conditions = conditions;
    s->n_conditions = 3;
    s->probes = path;
}

static void write_first(int n)
{
    FILE *in = fopen(DATA "/probes.jsonl", "rb"), *out = fopen(path, "wb");
    int c;
    assert_true(in && out);
    while (n > 0 && (c = fgetc(in)) != EOF) {
        fputc(c, out);
        n -= c == '\n';
    }
    fclose(in);
    assert_int_equal(fclose(out), 0);
}

/* Threads and memory mode change nothing, and no item changes another. */
static void test_same_bits(void **state)
{
    (void)state;
    json_t *first = NULL;
    write_first(24);
    for (int i = 0; i < 3; i++) {
        qsae_context *ctx = open_context(NULL, 1 + i);
        qsae_audit_settings s;
        many(&s);
        s.memory = i == 2 ? QSAE_MEMORY_STREAMED : QSAE_MEMORY_RESIDENT;
        json_t *result = run(ctx, &s);
        strip(result);
        if (!first)
            first = json_incref(json_object_get(result, "probes"));
        assert_true(json_equal(first, json_object_get(result, "probes")));
        json_decref(result);
        qsae_context_close(&ctx);
    }
    json_decref(first);
}

static int32_t keep_score(void *cookie, const qsae_probe_score *s)
{
    double(*const to)[2] = cookie;
    to[s->item][0] = s->good;
    to[s->item][1] = s->bad;
    return 0;
}

static void test_alone(void **state)
{
    (void)state;
    static const char *const conditions[] = { "none", "llm.int8", "none+kv:k=q4_0" };
    double all[12][2], few[3][2];
    qsae_context *ctx = open_context(NULL, 2);
    qsae_tokenizer *t;
    qsae_weights *w;
    qsae_probes *p;
    assert_ok(qsae_tokenizer_open(ctx, DATA "/tiny-gemma3", &t));
    assert_ok(qsae_weights_open(ctx, DATA "/tiny-gemma3", &w));
    for (int c = 0; c < 3; c++) {
        qsae_model_settings s;
        qsae_model *m;
        qsae_model_settings_init(&s, sizeof s);
        s.condition = conditions[c];
        assert_ok(qsae_model_open(w, &s, &m));
        write_first(12);
        assert_ok(qsae_probes_open(ctx, t, path, NULL, &p));
        assert_ok(qsae_probes_run(p, m, NULL, keep_score, all));
        qsae_probes_close(&p);
        write_first(3);
        assert_ok(qsae_probes_open(ctx, t, path, NULL, &p));
        assert_ok(qsae_probes_run(p, m, NULL, keep_score, few));
        qsae_probes_close(&p);
        assert_memory_equal(all, few, sizeof few);
        qsae_model_close(&m);
    }
    qsae_weights_close(&w);
    qsae_tokenizer_close(&t);
    qsae_context_close(&ctx);
}

/* A run stopped among the probes goes on from its state file and ends with the same document. */
static void test_resume(void **state)
{
    (void)state;
    json_t *results[2];
    qsae_context *ctx = open_context(NULL, 2);
    write_first(12);
    for (int stopped = 0; stopped < 2; stopped++) {
        char file[] = "/tmp/qsae-probes-state-XXXXXX";
        qsae_audit_settings s;
        qsae_audit *a;
        struct stop stop = { 30, "probe", NULL };
        assert_true(mkdtemp(file) != NULL);
        char name[64];
        snprintf(name, sizeof name, "%s/s", file);
        many(&s);
        s.state = name;
        if (stopped) {
            assert_ok(qsae_cancel_token_open(&stop.token));
            s.cancel = stop.token;
            s.progress = stop_at;
            s.progress_cookie = &stop;
            assert_ok(qsae_audit_open(ctx, &s, &a));
            assert_int_equal(qsae_audit_run(a), QSAE_ECANCELED);
            json_t *early = result_of(a);
            const json_t *list =
                json_object_get(json_object_get(early, "probes"), "conditions");
            assert_false(null_at(json_array_get(list, 0), "margin"));
            assert_true(null_at(json_array_get(list, 2), "margin"));
            json_decref(early);
            qsae_audit_close(&a);
            s.cancel = NULL;
            s.progress = NULL;
        }
        results[stopped] = run(ctx, &s);
        strip(results[stopped]);
        if (stopped) {
            /* Another set is another measurement. */
            write_first(11);
            assert_fails(qsae_audit_open(ctx, &s, &a), QSAE_EMISMATCH, "probes: ");
            qsae_cancel_token_close(&stop.token);
        }
        unlink(name);
        rmdir(file);
    }
    assert_true(json_equal(results[0], results[1]));
    json_decref(results[0]);
    json_decref(results[1]);
    qsae_context_close(&ctx);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *part;
    } cases[] = {
        { "", "found none" },
        { "\n \n", "found none" },
        { "[]", ":1: expected object, found array" },
        { "{\"context\":\"a\"}", "key \"good\": expected string" },
        { "{\"good\":\"a\",\"bad\":\"b\"}", "key \"context\": expected string" },
        { "\n{\"context\":\"a\",\"good\":\"\",\"bad\":\"b\"}", ":2: good: expected text" },
        { "{\"context\":\"a\",\"good\":\"b\",\"bad\":\"\"}", ":1: bad: expected text" },
        { "{\"context\":\"a\",\"good\":\"b\",\"bad\":\"b\"}", "same text" },
        { "{\"context\":\"a\",\"good\":\"b\",\"bad\":\" b\"}", "good: no token is left" },
        { "{\"context\":1,\"good\":\"b\",\"bad\":\"c\"}", "found integer" },
        { "{\"context\":\"a\",\"good\":\"b\",\"bad\":\"c\",\"tags\":7}", "tags: expected array" },
        { "{\"context\":\"a\",\"good\":\"b\",\"bad\":\"c\",\"tags\":[\"\"]}", "tags: expected" },
        { "{\"context\":\"a\",\"good\":\"b\",\"bad\":\"c\",\"tags\":[{}]}", "found object" },
        { "{\"context\":\"a\",\"good\":\"b\",\"bad\":\"c\",\"tags\":\"a\\u0000b\"}", "NUL" },
        { "{\"context\":\"a\",\"good\":\"b\",\"good\":\"c\",\"bad\":\"c\"}", "duplicate" },
        { "{\"context\":\"\xff\",\"good\":\"b\",\"bad\":\"c\"}", "UTF-8" },
        { "{\"context\":\"a\",\"good\":\"b\",\"bad\":\"c\"", ":1:" },
    };
    qsae_context *ctx = open_context(NULL, 1);
    qsae_tokenizer *t;
    qsae_probes *p;
    qsae_probe_settings s;
    assert_ok(qsae_tokenizer_open(ctx, DATA "/tiny-gemma3", &t));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_text(cases[i].text, strlen(cases[i].text));
        assert_fails(qsae_probes_open(ctx, t, path, NULL, &p), QSAE_EFORMAT, cases[i].part);
        assert_null(p);
    }
    assert_fails(qsae_probes_open(ctx, t, "/nowhere.jsonl", NULL, &p), QSAE_ENOENT, "nowhere");
    assert_fails(qsae_probes_open(ctx, t, "/tmp", NULL, &p), QSAE_EINVAL, "folder");
    qsae_probe_settings_init(&s, sizeof s);
    s.bos_policy = 99;
    assert_fails(qsae_probes_open(ctx, t, path, &s, &p), QSAE_EINVAL, "bos_policy");
    /* BOS only where it is wanted, and for an empty context. */
    const char *const text =
        "{\"context\":\"a\",\"good\":\" b\",\"bad\":\" c\",\"tags\":\"one\"}\n"
        "{\"context\":\"\",\"good\":\" b\",\"bad\":\" c\",\"tags\":null}\n";
    write_text(text, strlen(text));
    for (int32_t policy = 0; policy <= QSAE_BOS_NONE; policy++) {
        qsae_probe k = { .struct_size = sizeof k };
        s.bos_policy = policy;
        assert_ok(qsae_probes_open(ctx, t, path, &s, &p));
        assert_ok(qsae_probes_item(p, 0, &k));
        assert_int_equal(k.n_context, policy == QSAE_BOS_NONE ? 1 : 2);
        assert_int_equal(k.n_tags, 1);
        assert_ok(qsae_probes_item(p, 1, &k));
        assert_int_equal(k.n_context, 1);
        assert_int_equal(k.n_tags, 0);
        assert_fails(qsae_probes_item(p, 2, &k), QSAE_EINVAL, "no such item");
        qsae_probes_close(&p);
    }
    qsae_tokenizer_close(&t);
    qsae_context_close(&ctx);
}

/* Valid sets with a few bytes changed are read or refused, nothing else. */
static void test_mutations(void **state)
{
    (void)state;
    uint32_t seed = 7;
    int64_t read = 0, refused = 0;
    char text[4096];
    qsae_context *ctx = open_context(NULL, 1);
    qsae_tokenizer *t;
    qsae_probes *p;
    FILE *f = fopen(DATA "/probes.jsonl", "rb");
    assert_non_null(f);
    size_t size = fread(text, 1, 1200, f);
    fclose(f);
    while (text[size - 1] != '\n')
        size--;
    assert_ok(qsae_tokenizer_open(ctx, DATA "/tiny-gemma3", &t));
    for (int i = 0; i < 1500; i++) {
        char copy[1200];
        size_t n = size;
        memcpy(copy, text, size);
        for (uint32_t k = next_random(&seed) % 3 + 1; k > 0; k--)
            copy[next_random(&seed) % size] =
                next_random(&seed) % 2 ? "\"{}[],:\\ \n"[next_random(&seed) % 10]
                                       : (char)next_random(&seed);
        if (next_random(&seed) % 4 == 0)
            n = next_random(&seed) % size;
        write_text(copy, n);
        const int32_t st = qsae_probes_open(ctx, t, path, NULL, &p);
        read += st == QSAE_OK;
        refused += st == QSAE_EFORMAT;
        if (st != QSAE_OK && st != QSAE_EFORMAT)
            fail_msg("%s", qsae_error_message());
        qsae_probes_close(&p);
    }
    print_message("%lld read, %lld refused\n", (long long)read, (long long)refused);
    assert_true(read > 20 && refused > 500);
    qsae_tokenizer_close(&t);
    qsae_context_close(&ctx);
}

/* What a model cannot be asked is refused before the text is measured, by line. */
static void test_too_long(void **state)
{
    (void)state;
    char *text = malloc(60000);
    assert_non_null(text);
    size_t n = (size_t)sprintf(text, "{\"context\":\"a\",\"good\":\" b\",\"bad\":\" c\"}\n"
                                     "{\"context\":\"");
    for (int i = 0; i < 9000; i++)
        n += (size_t)sprintf(text + n, "x%d ", i % 7);
    n += (size_t)sprintf(text + n, "\",\"good\":\"b\",\"bad\":\"c\"}\n");
    write_text(text, n);
    free(text);
    qsae_context *ctx = open_context(NULL, 1);
    qsae_audit_settings s;
    qsae_audit *a;
    many(&s);
    assert_fails(qsae_audit_open(ctx, &s, &a), QSAE_EINVAL, ":2: context and continuation");
    qsae_context_close(&ctx);
}

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tokens),    cmocka_unit_test(test_bundled),
        cmocka_unit_test(test_stories),   cmocka_unit_test(test_mcnemar),
        cmocka_unit_test(test_same_bits), cmocka_unit_test(test_alone),
        cmocka_unit_test(test_resume),    cmocka_unit_test(test_refused),
        cmocka_unit_test(test_mutations), cmocka_unit_test(test_too_long),
    };
    return cmocka_run_group_tests_name("probes", tests, make_file, remove_file);
}
