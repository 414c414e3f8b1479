/* SPDX-License-Identifier: BSD-2-Clause */
/* Folders with vocab.json and merges.txt and no tokenizer.json. Expected ids and names are those of
 * transformers' GPT2Tokenizer on the same folders. */
#include "text_test.h"

#include "text/tokenizer.h"

#define SPACE "\xc4\xa0" /* the byte-level character of a space */
#define VOCAB \
    "{\"a\":0,\"b\":1,\"ab\":2,\"" SPACE "\":3,\"" SPACE "a\":4,\"<|endoftext|>\":5,\"c\":6}"
#define MERGES "#version: 0.2\na b\r\n" SPACE " a\n"

static const char *const optional[] = {
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.json",
};

/* Writes the folder; NULL = no such file. */
static int32_t open_files(const char *vocab, const char *merges, const char *config,
                          const char *map, const char *added, qsae_tokenizer **out)
{
    const char *const texts[] = { config, map, added, NULL };

    for (int i = 0; i < 4; i++)
        if (texts[i] != NULL)
            test_write(optional[i], texts[i]);
        else
            remove(test_path(optional[i]));
    test_write("vocab.json", vocab);
    test_write("merges.txt", merges);
    return qsae_tokenizer_open(test_ctx, test_folder, out);
}

static void expect(const qsae_tokenizer *t, const char *text, int64_t n, const int32_t *expected)
{
    int32_t ids[64];
    int64_t got = 0;

    assert_int_equal(qsae_tokenizer_encode(t, text, strlen(text), 1, ids, 64, &got), QSAE_OK);
    for (int64_t i = 0; i < got && (got != n || ids[i] != expected[i]); i++)
        print_error("%d ", ids[i]);
    assert_int_equal(got, n);
    assert_memory_equal(ids, expected, (size_t)n * sizeof *ids);
}

#define EXPECT(t, text, ...) \
    do { \
        static const int32_t expected_[] = { __VA_ARGS__ }; \
        expect(t, text, sizeof expected_ / sizeof *expected_, expected_); \
    } while (0)

static void expect_names(const qsae_tokenizer *t, int32_t bos, int32_t eos, int32_t pad,
                         int32_t unk, int64_t vocab)
{
    qsae_tokenizer_info info = { .struct_size = sizeof info };

    assert_int_equal(qsae_tokenizer_get_info(t, &info), QSAE_OK);
    assert_int_equal(info.bos, bos);
    assert_int_equal(info.eos, eos);
    assert_int_equal(info.pad, pad);
    assert_int_equal(info.unk, unk);
    assert_int_equal(info.vocab, vocab);
    assert_int_equal(strlen(info.hash), 32);
}

static void test_plain(void **state)
{
    qsae_tokenizer *t = NULL, *u = NULL;
    const char *bytes;
    size_t size;

    (void)state;
    assert_int_equal(open_files(VOCAB, MERGES, NULL, NULL, NULL, &t), QSAE_OK);
    EXPECT(t, "ab a<|endoftext|> c", 2, 4, 5, 3, 6);
    expect_names(t, 5, 5, -1, 5, 7);
    assert_int_equal(qsae_tokenizer_token(t, 4, &bytes, &size), QSAE_OK);
    assert_true(size == 2 && memcmp(bytes, " a", 2) == 0);
    assert_int_equal(qsae_tokenizer_is_special(t, 5), 1);
    /* the same files elsewhere make the same tokenizer, another option another one */
    assert_int_equal(open_files(VOCAB, MERGES, "{\"errors\":\"replace\"}", NULL, NULL, &u),
                     QSAE_OK);
    assert_int_equal(qsae__tokenizer_compare(t, u, NULL, 0), QSAE_OK);
    assert_string_equal(t->hash, u->hash);
    qsae_tokenizer_close(&u);
    assert_int_equal(open_files(VOCAB, MERGES, "{\"add_prefix_space\":true}", NULL, NULL, &u),
                     QSAE_OK);
    EXPECT(u, "ab a", 3, 2, 4);
    assert_string_not_equal(t->hash, u->hash);
    assert_int_equal(qsae__tokenizer_compare(t, u, NULL, 0), QSAE_EMISMATCH);
    qsae_tokenizer_close(&u);
    qsae_tokenizer_close(&t);
    /* tokenizer.json wins */
    test_write("tokenizer.json", "{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]}}");
    assert_int_equal(qsae_tokenizer_open(test_ctx, test_folder, &t), QSAE_OK);
    EXPECT(t, "aa", 0, 0);
    qsae_tokenizer_close(&t);
}

static void test_special(void **state)
{
    qsae_tokenizer *t = NULL;

    (void)state;
    assert_int_equal(open_files(VOCAB, MERGES, "{\"add_bos_token\":true,\"add_eos_token\":true,"
                                "\"pad_token\":\"<pad>\",\"bos_token\":\"<s>\"}", NULL, NULL, &t),
                     QSAE_OK);
    EXPECT(t, "a<pad><s>", 7, 0, 8, 7, 5);
    expect_names(t, 7, 5, 8, 5, 9);
    qsae_tokenizer_close(&t);
    assert_int_equal(open_files(VOCAB, MERGES, "{\"add_bos_token\":true,\"bos_token\":null}",
                                "{\"pad_token\":\"<|endoftext|>\",\"mask_token\":{\"content\":"
                                "\"<m>\",\"lstrip\":true}}",
                                "{\"<y>\":8,\"<x>\":7}", &t), QSAE_OK);
    EXPECT(t, "a <m>b<x><y>", 0, 9, 1, 7, 8);
    expect_names(t, -1, 5, 5, 5, 10);
    assert_int_equal(qsae_tokenizer_is_special(t, 7), 0);
    assert_int_equal(qsae_tokenizer_is_special(t, 9), 1);
    qsae_tokenizer_close(&t);
    /* the configuration lists the added tokens: special_tokens_map.json does not count */
    assert_int_equal(open_files(VOCAB, MERGES, "{\"added_tokens_decoder\":{\"8\":{\"content\":"
                                "\"<y>\",\"rstrip\":true,\"normalized\":false},\"7\":{\"content\":"
                                "\"<x>\",\"special\":true}},\"additional_special_tokens\":"
                                "[\"<z>\"]}", "{\"pad_token\":\"<x>\"}", NULL, &t), QSAE_OK);
    EXPECT(t, "<x> a<y> a<z>", 7, 4, 8, 0, 9);
    expect_names(t, 5, 5, -1, 5, 10);
    qsae_tokenizer_close(&t);
}

/* The fixture of the tokenizers package for GPT-2, taken apart. */
static void test_fixture(void **state)
{
    json_t *file = NULL, *cases = NULL;
    const json_t *model, *list;
    qsae__strbuf vocab, merges;
    qsae_tokenizer *t = NULL;
    int32_t ids[4096];

    (void)state;
    assert_int_equal(qsae__json_load(test_ctx, QSAE_TEST_DATA "/tokenizers/gpt2.tokenizer.json",
                                     &file), QSAE_OK);
    assert_int_equal(qsae__json_load(test_ctx, QSAE_TEST_DATA "/tokenizers/gpt2.json", &cases),
                     QSAE_OK);
    model = json_object_get(file, "model");
    list = json_object_get(model, "merges");
    qsae__strbuf_init(&vocab, test_ctx);
    qsae__strbuf_init(&merges, test_ctx);
    assert_int_equal(qsae__json_write(&vocab, json_object_get(model, "vocab"), -1), QSAE_OK);
    for (size_t i = 0; i < json_array_size(list); i++)
        qsae__strbuf_addf(&merges, "%s\n", json_string_value(json_array_get(list, i)));
    if (open_files(vocab.data, merges.data, NULL, NULL, NULL, &t) != QSAE_OK)
        fail_msg("%s", qsae_error_message());
    list = json_object_get(cases, "cases");
    assert_true(json_array_size(list) >= 100);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *text = json_array_get(json_array_get(list, i), 0);
        const json_t *expected = json_array_get(json_array_get(list, i), 1);
        int64_t n = 0;
        assert_int_equal(qsae_tokenizer_encode(t, json_string_value(text),
                                               json_string_length(text), 1, ids, 4096, &n),
                         QSAE_OK);
        assert_int_equal(n, json_array_size(expected));
        for (int64_t k = 0; k < n; k++)
            assert_int_equal(ids[k], json_integer_value(json_array_get(expected, (size_t)k)));
    }
    qsae_tokenizer_close(&t);
    qsae__strbuf_free(&vocab);
    qsae__strbuf_free(&merges);
    json_decref(file);
    json_decref(cases);
}

static void test_refused(void **state)
{
    static const struct {
        const char *vocab, *merges, *config, *added;
        int32_t status;
        const char *part;
    } cases[] = {
        { "[]", MERGES, NULL, NULL, QSAE_EFORMAT, "vocab.json: expected object" },
        { "{\"a\":-1}", "", NULL, NULL, QSAE_EFORMAT, "\"a\"" },
        { VOCAB, "a b\n\nb a\n", NULL, NULL, QSAE_EFORMAT, "merges.txt:2: expected two tokens" },
        { VOCAB, "a\n", NULL, NULL, QSAE_EFORMAT, "merges[0]" },
        { VOCAB, "a b c\n", NULL, NULL, QSAE_EFORMAT, "merges[0]" },
        { VOCAB, "a z\n", NULL, NULL, QSAE_EFORMAT, "\"z\" is not in the vocabulary" },
        { VOCAB, "a \xff\n", NULL, NULL, QSAE_EFORMAT, "merges.txt:1: not UTF-8" },
        { VOCAB, MERGES, "[]", NULL, QSAE_EFORMAT, "tokenizer_config.json" },
        { VOCAB, MERGES, "{\"tokenizer_class\":\"RobertaTokenizer\"}", NULL, QSAE_EUNSUPPORTED,
          "RobertaTokenizer" },
        { VOCAB, MERGES, "{\"pad_token\":7}", NULL, QSAE_EFORMAT, "pad_token" },
        { VOCAB, MERGES, "{\"add_prefix_space\":1}", NULL, QSAE_EFORMAT, "add_prefix_space" },
        { VOCAB, MERGES, "{\"extra_special_tokens\":{\"x\":\"y\"}}", NULL, QSAE_EUNSUPPORTED,
          "extra_special_tokens" },
        { VOCAB, MERGES, "{\"added_tokens_decoder\":{\"x\":{\"content\":\"y\"}}}", NULL,
          QSAE_EFORMAT, "added_tokens_decoder: \"x\"" },
        { VOCAB, MERGES, "{\"added_tokens_decoder\":{\"1\":{\"content\":\"y\"}}}", NULL,
          QSAE_EFORMAT, "another token" },
        { VOCAB, MERGES, NULL, "{\"<x>\":\"7\"}", QSAE_EFORMAT, "added_tokens.json: \"<x>\"" },
        { VOCAB, MERGES, NULL, "{\"<x>\":2000000000}", QSAE_EFORMAT, "\"id\"" },
        { VOCAB, MERGES, NULL, "{\"a\":7}", QSAE_EFORMAT, "in the vocabulary 0" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qsae_tokenizer *t = NULL;
        const int32_t got = open_files(cases[i].vocab, cases[i].merges, cases[i].config, NULL,
                                       cases[i].added, &t);
        if (got != cases[i].status)
            fail_msg("case %zu: %s (%s)", i, qsae_status_name(got), qsae_error_message());
        assert_null(t);
        assert_true(test_message(cases[i].part) && test_message(test_folder));
    }
}

static void test_no_memory(void **state)
{
    int64_t countdown = 0, rounds = 0;
    int32_t status = QSAE_ENOMEM;
    qsae_tokenizer *t = NULL;

    (void)state;
    assert_int_equal(open_files(VOCAB, MERGES, "{\"add_bos_token\":true}", NULL,
                                "{\"<y>\":8,\"<x>\":7}", &t), QSAE_OK);
    qsae_tokenizer_close(&t);
    for (; status != QSAE_OK && rounds < 2000; rounds++) {
        qsae_context_settings s;
        qsae_context *ctx = NULL;
        qsae_context_settings_init(&s, sizeof s);
        s.threads = 1;
        s.alloc = test_failing_alloc;
        s.free = test_failing_free;
        s.alloc_cookie = &countdown;
        countdown = 1000000;
        assert_int_equal(qsae__context_new(&s, &ctx), QSAE_OK);
        countdown = rounds;
        status = qsae_tokenizer_open(ctx, test_folder, &t);
        if (status != QSAE_OK && status != QSAE_ENOMEM)
            fail_msg("%lld: %s", (long long)rounds, qsae_error_message());
        qsae_tokenizer_close(&t);
        qsae__context_unref(ctx);
    }
    assert_int_equal(status, QSAE_OK);
    assert_true(rounds > 40);
}

/* Classes with a normalizer, an expression and special tokens of their own. */
static void test_classes(void **state)
{
    static const char vocab[] = "{\"a\":0,\"1\":1,\"11\":2,\"\xc3\x83\":3,\"\xc2\xa9\":4,"
                                "\"<|endoftext|>\":5,\"" SPACE "\":6,\"e\":7}";
    static const char merges[] = "1 1\n";
    qsae_tokenizer *t = NULL;

    (void)state;
    /* NFC makes U+00E9 of e and U+0301; digits one by one; flags of special tokens do not count */
    assert_int_equal(open_files(vocab, merges, "{\"tokenizer_class\":\"Qwen2TokenizerFast\","
                                "\"eos_token\":{\"content\":\"<|endoftext|>\",\"rstrip\":true}}",
                                NULL, NULL, &t), QSAE_OK);
    EXPECT(t, "e\xcc\x81 11<|endoftext|> a", 3, 4, 6, 1, 1, 5, 6, 0);
    expect_names(t, -1, 5, 5, 5, 8);
    qsae_tokenizer_close(&t);
    assert_int_equal(open_files(vocab, merges, "{\"tokenizer_class\":\"GPTNeoXTokenizer\","
                                "\"eos_token\":{\"content\":\"<|endoftext|>\",\"rstrip\":true}}",
                                NULL, NULL, &t), QSAE_OK);
    EXPECT(t, "e\xcc\x81 11<|endoftext|> a<|padding|>", 3, 4, 6, 2, 5, 0, 8);
    expect_names(t, 5, 5, 8, 5, 9);
    qsae_tokenizer_close(&t);
    assert_int_equal(open_files(vocab, merges, "{\"tokenizer_class\":\"CodeGenTokenizer\"}", NULL,
                                NULL, &t), QSAE_OK);
    EXPECT(t, "11 11", 2, 6, 2);
    expect_names(t, 5, 5, -1, 5, 8);
    qsae_tokenizer_close(&t);
}

const struct CMUnitTest files_tests[] = {
    cmocka_unit_test(test_plain),   cmocka_unit_test(test_special),
    cmocka_unit_test(test_classes), cmocka_unit_test(test_fixture),
    cmocka_unit_test(test_refused), cmocka_unit_test(test_no_memory),
};
const size_t n_files_tests = sizeof files_tests / sizeof *files_tests;
