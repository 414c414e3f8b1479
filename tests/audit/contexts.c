/* SPDX-License-Identifier: BSD-2-Clause */
/* The same tokens after contexts of several lengths: against transformers in binary64
 * (tests/reference/contexts.py), and against audits of rows that hold the same windows. */
#include <pthread.h>
#include <unistd.h>

#include "document.h"

#define TOKENS 6000 /* of more than 20 documents */

static const char *const conditions[] = { "rtn:bits=3", "none" };

static void settings(qsae_audit_settings *s, const int64_t *lengths, int64_t n)
{
    defaults(s);
    s->profile = QSAE_PROFILE_DEFAULT;
    s->context = 64;
    s->max_tokens = TOKENS;
    s->conditions = conditions;
    s->n_conditions = 2;
    s->contexts = lengths;
    s->n_contexts = n;
}

static void test_reference(void **state)
{
    (void)state;
    json_error_t error;
    json_t *file = json_load_file(QSAE_TEST_DATA "/contexts.json", 0, &error);
    assert_non_null(file);
    qsae_context *ctx = open_context(NULL, 2);
    size_t i, k;
    const json_t *c, *length;
    json_array_foreach(json_object_get(file, "cases"), i, c) {
        int64_t lengths[16];
        const json_t *list = json_object_get(c, "lengths");
        const int64_t n = (int64_t)json_array_size(list);
        qsae_audit_settings s;
        for (int64_t j = 0; j < n; j++) /* any order will do */
            lengths[j] = json_integer_value(json_array_get(list, (size_t)(n - 1 - j)));
        settings(&s, lengths, n);
        s.n_saes = 0;
        s.contexts_scored = (int64_t)at(c, "scored");
        s.contexts_stride = (int64_t)at(c, "stride");
        s.bos_policy = qsae_bos_from_name(text_at(c, "bos"));
        s.max_tokens = (int64_t)at(file, "tokens");
        json_t *result = run(ctx, &s);
        const json_t *got = json_object_get(result, "contexts"),
                     *want = json_object_get(c, "ce");
        assert_int_equal(json_array_size(got), n);
        json_array_foreach(got, k, length) {
            near("context", at(length, "context"), json_number_value(json_array_get(list, k)), 0);
            near("windows", at(length, "windows"), at(c, "windows"), 0);
            near("tokens", at(length, "tokens"), at(c, "windows") * at(c, "scored"), 0);
            near("ce", at(json_object_get(length, "reference"), "ce"),
                 json_number_value(json_array_get(want, k)), 2e-6);
        }
        json_decref(result);
    }
    qsae_context_close(&ctx);
    json_decref(file);
}

/* The last `length` ids of each chunk as an .npy file of rows. */
static void write_tails(qsae_context *ctx, const char *path, int64_t longest, int64_t length)
{
    qsae_tokenizer *t;
    qsae_corpus *c;
    qsae_corpus_settings s;
    qsae_corpus_info info = { .struct_size = sizeof info };
    qsae_corpus_settings_init(&s, sizeof s);
    s.context = longest;
    s.max_tokens = TOKENS;
    s.bos_policy = QSAE_BOS_DOC_START;
    assert_ok(qsae_tokenizer_open(ctx, DATA "/tiny-gemma3", &t));
    assert_ok(qsae_corpus_open(ctx, t, DATA "/eval.jsonl", &s, &c));
    assert_ok(qsae_corpus_get_info(c, &info));
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    char head[128] = "\x93NUMPY\x01\x00\x76\x00";
    const int used = snprintf(head + 10, 118, "{'descr': '<i4', 'fortran_order': False, 'shape': "
                              "(%lld, %lld)}", (long long)info.chunks, (long long)length);
    memset(head + 10 + used, ' ', (size_t)(117 - used));
    head[127] = '\n';
    fwrite(head, 1, sizeof head, f);
    for (int64_t k = 0; k < info.chunks; k++) {
        const int32_t *ids;
        assert_ok(qsae_corpus_chunk(c, k, &ids, NULL, NULL, NULL));
        fwrite(ids + longest - length, sizeof *ids, (size_t)length, f);
    }
    assert_int_equal(fclose(f), 0);
    qsae_corpus_close(&c);
    qsae_tokenizer_close(&t);
}

/* But for the order of sums, which an audit of its own cuts at 5,000 tokens, too. */
static void same(const char *key, const json_t *a, const json_t *b)
{
    near(key, at(a, key), at(b, key), 1e-14 * fabs(at(b, key)));
}

/* One length against the audit of its windows. */
static void compare(const json_t *length, const json_t *alone)
{
    static const char *const keys[] = { "dce", "kl_mean", "top1_agreement", NULL };
    const json_t *r = json_object_get(length, "reference");
    same("ce", r, json_object_get(alone, "reference"));
    same("fvu_dim", json_array_get(json_object_get(r, "saes"), 0),
         json_array_get(json_object_get(json_object_get(alone, "reference"), "saes"), 0));
    for (size_t i = 0; i < 2; i++) {
        const json_t *got = json_array_get(json_object_get(length, "conditions"), i),
                     *want = condition_at(alone, i),
                     *sae = json_array_get(json_object_get(got, "saes"), 0),
                     *wsae = json_array_get(json_object_get(want, "saes"), 0);
        assert_string_equal(text_at(got, "label"), text_at(want, "label"));
        for (int k = 0; keys[k]; k++)
            same(keys[k], got, want);
        same("fvu_dim", sae, wsae);
        same("dfvu_dim", sae, wsae);
        same("ratio", json_object_get(sae, "noise"), json_object_get(wsae, "noise"));
    }
}

static void check_changes(const json_t *list)
{
    const json_t *first = json_array_get(list, 0), *length;
    size_t k;
    json_array_foreach(list, k, length) {
        const json_t *now = json_array_get(json_object_get(length, "conditions"), 0),
                     *base = json_array_get(json_object_get(first, "conditions"), 0),
                     *null = json_array_get(json_object_get(length, "conditions"), 1),
                     *change = json_object_get(now, "change");
        assert_true(json_is_null(change) == (k == 0));
        if (!k)
            continue;
        const json_t *interval = json_object_get(json_object_get(change, "intervals"), "dce");
        const double d = at(change, "dce");
        near("from", at(change, "from"), at(first, "context"), 0);
        near("dce", d, at(now, "dce") - at(base, "dce"), 0);
        near("kl", at(change, "kl_mean"), at(now, "kl_mean") - at(base, "kl_mean"), 0);
        near("ce", at(change, "ce"), at(now, "ce") - at(base, "ce"), 0);
        assert_int_equal(json_array_size(interval), 2);
        assert_true(json_number_value(json_array_get(interval, 0)) < d);
        assert_true(json_number_value(json_array_get(interval, 1)) > d);
        near("null", at(json_object_get(null, "change"), "dce"), 0, 0);
        interval = json_object_get(json_object_get(json_object_get(null, "change"), "intervals"),
                                   "dce");
        near("null interval", json_number_value(json_array_get(interval, 1)), 0, 0);
    }
}

static void test_rows(void **state)
{
    (void)state;
    static const int64_t lengths[] = { 16, 24, 40 };
    char path[] = "/tmp/qsae-contexts-XXXXXX.npy";
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    const int fd = mkstemps(path, 4);
    assert_true(fd >= 0);
    close(fd);
    settings(&s, lengths, 3);
    s.contexts_scored = 10;
    s.bos_policy = QSAE_BOS_DOC_START;
    json_t *result = run(ctx, &s);
    const json_t *list = json_object_get(result, "contexts");
    check_changes(list);
    for (size_t k = 0; k < 3; k++) {
        write_tails(ctx, path, 40, lengths[k]);
        settings(&s, NULL, 0);
        s.text = path;
        s.context = lengths[k];
        s.score_from = lengths[k] - 11;
        s.bos_policy = QSAE_BOS_NONE;
        s.batch = (int64_t)at(json_array_get(list, k), "batch");
        json_t *alone = run(ctx, &s);
        compare(json_array_get(list, k), alone);
        assert_true(null_at(alone, "contexts"));
        json_decref(alone);
    }
    unlink(path);
    json_decref(result);
    qsae_context_close(&ctx);
}

/* Threads and memory mode change nothing. */
static void test_same_bits(void **state)
{
    (void)state;
    static const int64_t lengths[] = { 16, 40 };
    json_t *first = NULL;
    for (int i = 0; i < 3; i++) {
        qsae_context *ctx = open_context(NULL, 1 + i);
        qsae_audit_settings s;
        settings(&s, lengths, 2);
        s.max_tokens = 500;
        s.memory = i == 2 ? QSAE_MEMORY_STREAMED : QSAE_MEMORY_RESIDENT;
        s.stream_bytes = 300000;
        json_t *result = run(ctx, &s);
        if (!first)
            first = json_incref(json_object_get(result, "contexts"));
        assert_true(json_equal(first, json_object_get(result, "contexts")));
        json_decref(result);
        qsae_context_close(&ctx);
    }
    json_decref(first);
}

/* Cancels a run some time after it has come to the contexts. */
struct timer {
    qsae_cancel_token *token;
    useconds_t after;
    pthread_t thread;
    bool started;
};

static void *cancel_later(void *arg)
{
    const struct timer *t = arg;
    usleep(t->after);
    qsae_cancel_token_cancel(t->token);
    return NULL;
}

static int32_t start_timer(void *cookie, int64_t done, int64_t total, const char *unit,
                           const char *phase)
{
    struct timer *t = cookie;
    (void)done;
    (void)total;
    (void)unit;
    if (!t->started && strcmp(phase, "contexts") == 0) {
        t->started = true;
        assert_int_equal(pthread_create(&t->thread, NULL, cancel_later, t), 0);
    }
    return 0;
}

/* One run from the state file on; whether it came to the end. */
static bool run_on(qsae_context *ctx, qsae_audit_settings *s, useconds_t after, json_t **result)
{
    struct timer timer = { .after = after };
    qsae_audit *a;
    assert_ok(qsae_cancel_token_open(&timer.token));
    s->cancel = after ? timer.token : NULL;
    s->progress = after ? start_timer : NULL;
    s->progress_cookie = &timer;
    assert_ok(qsae_audit_open(ctx, s, &a));
    const int32_t st = qsae_audit_run(a);
    if (timer.started)
        pthread_join(timer.thread, NULL);
    if (st != QSAE_OK)
        assert_int_equal(st, QSAE_ECANCELED);
    *result = result_of(a);
    qsae_audit_close(&a);
    qsae_cancel_token_close(&timer.token);
    return st == QSAE_OK;
}

/* A run stopped anywhere, again and again, ends with the document of one that was not. */
static void test_resume(void **state)
{
    (void)state;
    static const int64_t lengths[] = { 16, 40, 120 };
    char folder[] = "/tmp/qsae-contexts-XXXXXX", file[64];
    uint32_t seed = 5;
    int stops = 0;
    qsae_context *ctx = open_context(NULL, 1);
    qsae_audit_settings s;
    settings(&s, lengths, 3);
    s.max_tokens = 1200;
    s.context = 120;
    s.batch = 2;
    json_t *whole = run(ctx, &s), *last;
    strip(whole);
    assert_non_null(mkdtemp(folder));
    snprintf(file, sizeof file, "%s/state", folder);
    s.state = file;
    while (!run_on(ctx, &s, stops < 8 ? 500 + next_random(&seed) % (6000u << stops) : 0, &last)) {
        json_decref(last);
        stops++;
    }
    print_message("stopped %d times\n", stops);
    strip(last);
    assert_true(stops > 0);
    assert_true(json_equal(whole, last));
    json_decref(whole);
    json_decref(last);
    unlink(file);
    rmdir(folder);
    qsae_context_close(&ctx);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        int64_t lengths[3], n, scored, stride;
        const char *part;
    } cases[] = {
        { { 16 }, 1, 0, 0, "2..16 lengths, found 1" },
        { { 16, 3 }, 2, 0, 0, "at least 4 tokens, found 3" },
        { { 16, 32, 16 }, 3, 0, 0, "16 twice" },
        { { 16, 32 }, 2, 15, 0, "contexts_scored: expected 1..14" },
        { { 16, 32 }, 2, 8, 7, "contexts_stride: expected 8" },
        { { 16, 32 }, 2, 8, 33, "to 32 (the longest" },
        { { 16, 20000000 }, 2, 0, 0, "max_positions" },
        { { 16, -4 }, 2, 0, 0, "at least 4 tokens" },
        { { 16, 3000000000 }, 2, 0, 0, "at most 2147483647 tokens, found 3000000000" },
        { { 16, 32 }, 2, -1, 0, "contexts_scored: expected 1..14" },
        { { 16, 32 }, 2, 0, -1, "contexts_stride: expected 8" },
        { { 16, 32, 64 }, -1, 0, 0, "2..16 lengths, found -1" },
        { { 16, 32, 64 }, 17, 0, 0, "2..16 lengths, found 17" },
    };
    qsae_context *ctx = open_context(NULL, 1);
    qsae_audit *a;
    qsae_audit_settings s;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        settings(&s, cases[i].lengths, cases[i].n);
        s.contexts_scored = cases[i].scored;
        s.contexts_stride = cases[i].stride;
        assert_fails(qsae_audit_open(ctx, &s, &a), QSAE_EINVAL, cases[i].part);
    }
    settings(&s, NULL, 2);
    assert_fails(qsae_audit_open(ctx, &s, &a), QSAE_EINVAL, "2..16 lengths, found 0");
    static const int64_t long_ones[] = { 16, 256 };
    settings(&s, long_ones, 2);
    s.context = 32;
    s.documents_to = 1; /* a text that is too short for them */
    assert_fails(qsae_audit_open(ctx, &s, &a), QSAE_EINVAL, "contexts");
    qsae_context_close(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference), cmocka_unit_test(test_rows),
        cmocka_unit_test(test_same_bits), cmocka_unit_test(test_resume),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests_name("contexts", tests, NULL, NULL);
}
