/* SPDX-License-Identifier: BSD-2-Clause */
/* Positions that hold some tokens are in no feature statistic: counted again, and added up. */
#include "document.h"

enum { VOCAB = 2048, TOKENS = 2560 };

static json_t *excluding(qsae_context *ctx, const char *tokens)
{
    qsae_audit_settings s;
    defaults(&s);
    s.max_tokens = TOKENS;
    s.reference_only = 1;
    s.exclude_tokens = tokens;
    return run(ctx, &s);
}

static const json_t *sae_of(const json_t *result)
{
    return json_array_get(json_object_get(json_object_get(result, "reference"), "saes"), 0);
}

/* How often every id stands in the text, and which are special. */
static void count(qsae_context *ctx, int64_t of[VOCAB], bool special[VOCAB])
{
    qsae_tokenizer *tokenizer;
    qsae_corpus *corpus;
    qsae_corpus_settings s;
    qsae_corpus_info info = { .struct_size = sizeof info };
    assert_ok(qsae_tokenizer_open(ctx, DATA "/tiny-gemma3", &tokenizer));
    qsae_corpus_settings_init(&s, sizeof s);
    s.context = 256;
    s.max_tokens = TOKENS;
    s.bos_policy = QSAE_BOS_DOC_START; /* of profile article */
    assert_ok(qsae_corpus_open(ctx, tokenizer, DATA "/eval.jsonl", &s, &corpus));
    assert_ok(qsae_corpus_get_info(corpus, &info));
    assert_int_equal(info.tokens, TOKENS);
    for (int64_t c = 0; c < info.chunks; c++) {
        const int32_t *ids;
        int64_t n;
        assert_ok(qsae_corpus_chunk(corpus, c, &ids, NULL, NULL, &n));
        for (int64_t i = 0; i < n; i++)
            of[ids[i]]++;
    }
    for (int32_t id = 0; id < VOCAB; id++)
        special[id] = qsae_tokenizer_is_special(tokenizer, id);
    qsae_corpus_close(&corpus);
    qsae_tokenizer_close(&tokenizer);
}

static void add_id(char *list, size_t size, int32_t id)
{
    const size_t n = strlen(list);
    snprintf(list + n, size - n, "%s%d", n ? "," : "", (int)id);
}

/* Leaving out some tokens, and all others: the sums of both are those of all. */
static void test_ids(void **state)
{
    static int64_t of[VOCAB];
    static bool special[VOCAB];
    static char others[16384];
    char some[64] = "";
    int64_t counts[2] = { 0 };
    (void)state;
    qsae_context *ctx = open_context(NULL, 1);
    count(ctx, of, special);
    for (int32_t id = VOCAB - 1; id >= 0; id--) { /* descending: the list need not be sorted */
        const bool out = of[id] > 100 || id == VOCAB - 1;
        counts[out] += of[id];
        add_id(out ? some : others, out ? sizeof some : sizeof others, id);
    }
    add_id(some, sizeof some, VOCAB - 1);     /* nor be of different ids, */
    add_id(some, sizeof some, INT32_MAX);     /* nor of the vocabulary */
    assert_true(counts[1] > TOKENS / 20 && counts[0] > TOKENS / 20);
    json_t *const all = excluding(ctx, NULL), *const empty = excluding(ctx, ""),
           *const a = excluding(ctx, some), *const b = excluding(ctx, others);
    near("tokens", at(sae_of(all), "tokens"), TOKENS, 0);
    near("tokens", at(sae_of(a), "tokens"), (double)counts[0], 0);
    near("excluded", at(sae_of(a), "excluded_tokens"), (double)counts[1], 0);
    near("excluded", at(sae_of(b), "excluded_tokens"), (double)counts[0], 0);
    near("l0", at(sae_of(a), "l0") * (double)counts[0] + at(sae_of(b), "l0") * (double)counts[1],
         at(sae_of(all), "l0") * TOKENS, 1e-6);
    assert_true(at(sae_of(a), "l0") != at(sae_of(b), "l0"));
    near("ce", reference_ce(a), reference_ce(all), 0); /* predictions count */
    assert_string_equal(text_at(json_object_get(a, "corpus"), "exclude_tokens"), some);
    assert_true(null_at(json_object_get(all, "corpus"), "exclude_tokens"));
    assert_string_equal(text_at(all, "fingerprint"), text_at(empty, "fingerprint"));
    assert_string_not_equal(text_at(all, "fingerprint"), text_at(a, "fingerprint"));
    assert_string_not_equal(text_at(b, "fingerprint"), text_at(a, "fingerprint"));
    json_decref(all);
    json_decref(empty);
    json_decref(a);
    json_decref(b);
    qsae_context_close(&ctx);
}

static void test_special(void **state)
{
    static int64_t of[VOCAB];
    static bool special[VOCAB];
    char list[256] = "";
    int64_t n = 0;
    (void)state;
    qsae_context *ctx = open_context(NULL, 1);
    count(ctx, of, special);
    for (int32_t id = 0; id < VOCAB; id++)
        if (special[id] && of[id] > 0) {
            n += of[id];
            add_id(list, sizeof list, id);
        }
    assert_true(n > 5);
    json_t *const named = excluding(ctx, "special"), *const listed = excluding(ctx, list);
    near("special", at(sae_of(named), "excluded_tokens"), (double)n, 0);
    near("special", at(sae_of(named), "tokens"), (double)(TOKENS - n), 0);
    assert_true(json_equal(sae_of(named), sae_of(listed)));
    json_decref(named);
    json_decref(listed);
    qsae_context_close(&ctx);
}

static void test_refused(void **state)
{
    static const char *const wrong[] = { "x", "5,", ",5", "5,,6", "-1", "+5", " 5", "5 ", "5;6",
                                         "2147483648", "99999999999999999999", "Special",
                                         "special,5", "5,special" };
    (void)state;
    qsae_context *ctx = open_context(NULL, 1);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        qsae_audit_settings s;
        qsae_audit *audit = NULL;
        char part[128];
        defaults(&s);
        s.exclude_tokens = wrong[i];
        snprintf(part, sizeof part, "exclude_tokens: \"%s\": expected \"special\" or token ids",
                 wrong[i]);
        assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_EINVAL, part);
        assert_null(audit);
    }
    qsae_context_close(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ids), cmocka_unit_test(test_special), cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests_name("excluded", tests, NULL, NULL);
}
