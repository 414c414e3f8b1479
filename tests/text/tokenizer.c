/* SPDX-License-Identifier: BSD-2-Clause */
#include "text_test.h"

#define MARK "\xe2\x96\x81"

/* A tokenizer.json of parts; every character of a, b, c, space, mark is a piece, ab, abc, MARKa
 * too. */
#define VOCAB \
    "{\"<unk>\":0,\"<s>\":1,\"</s>\":2,\"a\":3,\"b\":4,\"c\":5," \
    "\" \":6,\"" MARK "\":7,\"ab\":8,\"abc\":9," \
    "\"" MARK "a\":10,\"<0x41>\":11,\"<0xC3>\":12,\"<0xA9>\":13,\"x\":14,\"1\":15,\"bc\":16}"
#define MERGES "[\"a b\",[\"ab\",\"c\"],[\"" MARK "\",\"a\"],\"b c\"]"
#define MODEL(extra) \
    "\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"unk_token\":\"<unk>\"," extra \
    "\"vocab\":" VOCAB ",\"merges\":" MERGES "}"
#define TOKEN(id, text, special, more) \
    "{\"id\":" id ",\"content\":\"" text "\",\"special\":" special more "}"
#define ADDED \
    "\"added_tokens\":[" TOKEN("1", "<s>", "true", "") "," TOKEN("2", "</s>", "true", "") "]"
#define FILE_OF(normalizer, pre, post) \
    "{" ADDED ",\"normalizer\":" normalizer ",\"pre_tokenizer\":" pre \
    ",\"post_processor\":" post "," MODEL("") "}"

static void expect(const char *json, const char *text, size_t size, int32_t special, int64_t n,
                   const int32_t *expected)
{
    qsae_tokenizer *t = NULL;
    int32_t ids[64];
    int64_t got = 0;

    if (test_open(json, &t) != QSAE_OK)
        fail_msg("%s", qsae_error_message());
    assert_int_equal(qsae_tokenizer_encode(t, text, size, special, ids, 64, &got), QSAE_OK);
    if (got != n || memcmp(ids, expected, (size_t)n * sizeof *ids) != 0) {
        for (int64_t i = 0; i < got; i++)
            print_error("%d ", ids[i]);
        fail_msg("\"%s\": other ids than expected", text);
    }
    qsae_tokenizer_close(&t);
}

#define EXPECT(json, text, special, ...) \
    do { \
        static const int32_t expected_[] = { __VA_ARGS__ }; \
        expect(json, text, sizeof(text) - 1, special, sizeof expected_ / sizeof *expected_, \
               expected_); \
    } while (0)

/* Nothing comes of a call whose token is set; without it, or with one that is not, the ids do. */
static void test_cancel(void **state)
{
    const char text[] = "abc bcab";
    qsae_tokenizer *t = NULL;
    qsae_cancel_token *token = NULL;
    int32_t ids[64] = { -7 }, other[64];
    int64_t n = 1, m = 0;

    (void)state;
    assert_int_equal(test_open(FILE_OF("null", "null", "null"), &t), QSAE_OK);
    assert_int_equal(qsae_cancel_token_open(&token), QSAE_OK);
    qsae_cancel_token_cancel(token);
    assert_int_equal(
        qsae_tokenizer_encode_cancelable(t, text, sizeof text - 1, 0, token, ids, 64, &n),
        QSAE_ECANCELED);
    assert_int_equal(n, 0);
    assert_int_equal(ids[0], -7);
    qsae_cancel_token_reset(token);
    assert_int_equal(
        qsae_tokenizer_encode_cancelable(t, text, sizeof text - 1, 0, token, ids, 64, &n),
        QSAE_OK);
    assert_int_equal(qsae_tokenizer_encode(t, text, sizeof text - 1, 0, other, 64, &m), QSAE_OK);
    assert_true(n > 0);
    assert_int_equal(n, m);
    assert_memory_equal(ids, other, (size_t)n * sizeof *ids);
    qsae_cancel_token_close(&token);
    qsae_tokenizer_close(&t);
}

static void test_bpe(void **state)
{
    static const int32_t none[1] = { 0 };

    (void)state;
    EXPECT(FILE_OF("null", "null", "null"), "abc", 0, 9);
    EXPECT(FILE_OF("null", "null", "null"), "bcab", 0, 16, 8); /* rank before position */
    EXPECT(FILE_OF("null", "null", "null"), "A\xc3\xa9", 0, 11, 12, 13);
    EXPECT(FILE_OF("null", "null", "null"), "zz", 0, 0, 0);
    EXPECT(FILE_OF("null", "null", "null"), "a<s>b</s>", 0, 3, 1, 4, 2);
    expect(FILE_OF("null", "null", "null"), "", 0, 0, 0, none);
    /* an empty text gets no prefix */
    expect(FILE_OF("{\"type\":\"Prepend\",\"prepend\":\"x\"}", "null", "null"), "", 0, 0, 0, none);
    EXPECT(FILE_OF("{\"type\":\"Prepend\",\"prepend\":\"x\"}", "null", "null"), "a", 0, 14, 3);
    EXPECT(FILE_OF("null",
                   "{\"type\":\"Split\",\"pattern\":{\"String\":\"b\"},\"behavior\":\"Removed\"}",
                   "null"), "abc", 0, 3, 5);
    EXPECT(FILE_OF("null",
                   "{\"type\":\"Metaspace\",\"replacement\":\"" MARK "\","
                   "\"add_prefix_space\":false}", "null"), "a a", 0, 3, 10);
}

/* A word of one megabyte and 2^n repetitions: no quadratic time, no stack. */
static void test_long_word(void **state)
{
    const size_t n = 1 << 20;
    char *text = malloc(n);
    int32_t *ids = malloc(n * sizeof *ids);
    qsae_tokenizer *t = NULL;
    int64_t got = 0;

    (void)state;
    assert_true(text != NULL && ids != NULL);
    for (size_t i = 0; i < n; i++)
        text[i] = "abbc"[i % 4];
    assert_int_equal(test_open(FILE_OF("null", "null", "null"), &t), QSAE_OK);
    assert_int_equal(qsae_tokenizer_encode(t, text, n, 0, ids, (int64_t)n, &got), QSAE_OK);
    assert_int_equal(got, n / 2);
    for (int64_t i = 0; i < got; i++)
        assert_int_equal(ids[i], i % 2 == 0 ? 8 : 16);
    qsae_tokenizer_close(&t);
    free(text);
    free(ids);
}

static void test_template(void **state)
{
    static const char post[] =
        "{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\",\"add_prefix_space\":true,"
        "\"trim_offsets\":false},{\"type\":\"TemplateProcessing\",\"single\":["
        "{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},"
        "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}},"
        "{\"SpecialToken\":{\"id\":\"E\",\"type_id\":0}}],"
        "\"pair\":[],\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[1],"
        "\"tokens\":[\"<s>\"]},\"E\":{\"id\":\"E\",\"ids\":[3,2],\"tokens\":[\"a\",\"</s>\"]}}}]}";
    char json[4096];
    qsae_tokenizer *t = NULL;
    qsae_tokenizer_info info = { .struct_size = sizeof info };
    int32_t ids[8] = { -7, -7, -7, -7 };
    int64_t n = 0;

    (void)state;
    snprintf(json, sizeof json, "{" ADDED ",\"post_processor\":%s," MODEL("") "}", post);
    assert_int_equal(test_open(json, &t), QSAE_OK);
    assert_int_equal(qsae_tokenizer_encode(t, "b", 1, 1, ids, 8, &n), QSAE_OK);
    assert_int_equal(n, 4);
    assert_true(ids[0] == 1 && ids[1] == 4 && ids[2] == 3 && ids[3] == 2);
    ids[0] = -7;
    assert_int_equal(qsae_tokenizer_encode(t, "b", 1, 1, ids, 3, &n), QSAE_ESPACE);
    assert_int_equal(n, 4);
    assert_int_equal(ids[0], -7);
    assert_int_equal(qsae_tokenizer_encode(t, "b", 1, 1, NULL, 0, &n), QSAE_ESPACE);
    assert_int_equal(n, 4);
    assert_int_equal(qsae_tokenizer_encode(t, NULL, 0, 1, ids, 8, &n), QSAE_OK);
    assert_int_equal(n, 3);
    assert_int_equal(qsae_tokenizer_get_info(t, &info), QSAE_OK);
    assert_int_equal(info.bos, 1); /* no tokenizer_config.json: from the template */
    assert_int_equal(info.eos, 2);
    assert_int_equal(info.pad, -1);
    assert_int_equal(info.unk, 0);
    assert_int_equal(info.adds_bos, 1);
    assert_int_equal(info.adds_eos, 1);
    assert_int_equal(info.vocab, 17);
    assert_int_equal(strlen(info.hash), 32);
    qsae_tokenizer_close(&t);
}

static void test_config(void **state)
{
    static const char good[] =
        "{\"bos_token\":{\"content\":\"<s>\",\"lstrip\":false},\"eos_token\":"
                               "\"</s>\",\"pad_token\":\"x\",\"unk_token\":null,"
                               "\"model_max_length\":1000000000000000019884624838656}";
    qsae_tokenizer *t = NULL;
    qsae_tokenizer_info info = { .struct_size = sizeof info };

    (void)state;
    test_write("tokenizer_config.json", good);
    assert_int_equal(test_open(FILE_OF("null", "null", "null"), &t), QSAE_OK);
    assert_int_equal(qsae_tokenizer_get_info(t, &info), QSAE_OK);
    assert_int_equal(info.bos, 1);
    assert_int_equal(info.eos, 2);
    assert_int_equal(info.pad, 14);
    assert_int_equal(info.unk, 0);
    assert_int_equal(info.adds_bos, 0);
    qsae_tokenizer_close(&t);
    assert_int_equal(qsae_tokenizer_open(test_ctx, test_path("tokenizer.json"), &t), QSAE_OK);
    assert_int_equal(qsae_tokenizer_get_info(t, &info), QSAE_OK);
    assert_int_equal(info.pad, 14); /* the file's folder is looked at as well */
    qsae_tokenizer_close(&t);
    test_write("tokenizer_config.json", "{\"bos_token\":\"<nope>\"}");
    assert_int_equal(qsae_tokenizer_open(test_ctx, test_folder, &t), QSAE_EFORMAT);
    assert_true(test_message("bos_token") && test_message("<nope>"));
    test_write("tokenizer_config.json", "{\"bos_token\":7}");
    assert_int_equal(qsae_tokenizer_open(test_ctx, test_folder, &t), QSAE_EFORMAT);
    assert_true(test_message("expected string"));
    test_write("tokenizer_config.json", "[]");
    assert_int_equal(qsae_tokenizer_open(test_ctx, test_folder, &t), QSAE_EFORMAT);
    assert_null(t);
    remove(test_path("tokenizer_config.json"));
}

static void expect_token(const qsae_tokenizer *t, int32_t id, const char *text, size_t size)
{
    const char *bytes = NULL;
    size_t n = 0;

    assert_int_equal(qsae_tokenizer_token(t, id, &bytes, &n), QSAE_OK);
    assert_int_equal(n, size);
    assert_memory_equal(bytes, text, size);
}

static void test_tokens(void **state)
{
    static const char replace[] =
        "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"" MARK "\"}";
    char json[4096];
    const char *bytes = NULL;
    size_t n = 0;
    qsae_tokenizer *t = NULL;

    (void)state;
    snprintf(json, sizeof json, "{\"added_tokens\":[" TOKEN("1", "<s>", "true", "") ","
             TOKEN("40", MARK MARK, "false", "") "],\"normalizer\":%s," MODEL("") "}", replace);
    assert_int_equal(test_open(json, &t), QSAE_OK);
    expect_token(t, 10, " a", 2);
    expect_token(t, 11, "A", 1);
    expect_token(t, 12, "\xc3", 1);
    expect_token(t, 1, "<s>", 3);
    expect_token(t, 9, "abc", 3);
    expect_token(t, 40, "  ", 2);
    assert_int_equal(qsae_tokenizer_token(t, 39, &bytes, &n), QSAE_ENOENT);
    assert_int_equal(qsae_tokenizer_token(t, 41, &bytes, &n), QSAE_ENOENT);
    assert_int_equal(qsae_tokenizer_token(t, -1, &bytes, &n), QSAE_ENOENT);
    assert_int_equal(qsae_tokenizer_token(t, 1, NULL, &n), QSAE_EINVAL);
    assert_int_equal(qsae_tokenizer_is_special(t, 1), 1);
    assert_int_equal(qsae_tokenizer_is_special(t, 40), 0);
    assert_int_equal(qsae_tokenizer_is_special(t, 12), 0);
    assert_int_equal(qsae_tokenizer_is_special(t, 99), 0);
    assert_int_equal(qsae_tokenizer_is_special(NULL, 0), 0);
    qsae_tokenizer_close(&t);
}

#define RULES(text) "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"" text "\"}"
#define MODEL_ONLY(text) "{\"model\":" text "}"
#define WITH(key, text) "{\"" key "\":" text "," MODEL("") "}"
#define S_AND_A "{\"SpecialToken\":{\"id\":\"s\"}},{\"Sequence\":{\"id\":\"A\"}}"
#define SPECIAL_OF(ids) "\"special_tokens\":{\"s\":{\"id\":\"s\",\"ids\":" ids "}}}"

static const struct {
    const char *json;
    int32_t status;
    const char *part;
} refused[] = {
    { "", QSAE_EFORMAT, "tokenizer.json" },
    { "[]", QSAE_EFORMAT, "model" },
    { "{}", QSAE_EFORMAT, "\"model\"" },
    { MODEL_ONLY("[]"), QSAE_EFORMAT, "expected object" },
    { MODEL_ONLY("{\"type\":\"Unigram\",\"vocab\":{}}"), QSAE_EFORMAT, "vocab" },
    { MODEL_ONLY("{\"type\":\"Unigram\",\"vocab\":[\"a\"]}"), QSAE_EFORMAT, "vocab[0]" },
    { MODEL_ONLY("{\"type\":\"Unigram\",\"vocab\":[[\"a\",0],[\"b\",\"0\"]]}"), QSAE_EFORMAT,
      "vocab[1]" },
    { MODEL_ONLY("{\"type\":\"Unigram\",\"vocab\":[[\"a\",0,0]]}"), QSAE_EFORMAT, "vocab[0]" },
    { MODEL_ONLY("{\"type\":\"Unigram\",\"unk_id\":1,\"vocab\":[[\"a\",0]]}"), QSAE_EFORMAT,
      "unk_id 1" },
    { MODEL_ONLY("{\"type\":\"Unigram\",\"unk_id\":-1,\"vocab\":[[\"a\",0]]}"), QSAE_EFORMAT,
      "unk_id" },
    { MODEL_ONLY("{\"type\":\"WordLevel\",\"vocab\":{}}"), QSAE_EUNSUPPORTED, "WordLevel" },
    { MODEL_ONLY("{\"type\":\"WordPiece\",\"vocab\":{}}"), QSAE_EUNSUPPORTED, "WordPiece" },
    { MODEL_ONLY("{\"type\":\"BPE\",\"merges\":[]}"), QSAE_EFORMAT, "vocab" },
    { MODEL_ONLY("{\"type\":\"BPE\",\"vocab\":{}}"), QSAE_EFORMAT, "merges" },
    { MODEL_ONLY("{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}"), QSAE_EFORMAT, "\"a\"" },
    { MODEL_ONLY("{\"type\":\"BPE\",\"vocab\":{\"a\":2147483647},\"merges\":[]}"), QSAE_EFORMAT,
      "\"a\"" },
    { MODEL_ONLY("{\"type\":\"BPE\",\"vocab\":{\"a\":1.5},\"merges\":[]}"), QSAE_EFORMAT, "\"a\"" },
    { MODEL_ONLY("{\"type\":\"BPE\",\"vocab\":{\"a\":1,\"b\":1},\"merges\":[]}"), QSAE_EFORMAT,
      "id 1" },
    { MODEL_ONLY("{\"type\":\"BPE\",\"vocab\":{\"a\":1,\"a\":2},\"merges\":[]}"), QSAE_EFORMAT,
      "duplicate" },
    { MODEL_ONLY("{\"type\":\"BPE\",\"vocab\":{\"a\":1},\"merges\":[\"a b\"]}"), QSAE_EFORMAT,
      "merges[0]" },
    { MODEL_ONLY("{\"type\":\"BPE\",\"vocab\":{\"a\":1},\"merges\":[\"a a\"]}"), QSAE_EFORMAT,
      "\"aa\"" },
    { MODEL_ONLY("{\"type\":\"BPE\",\"vocab\":{\"a\":1},\"merges\":[\"a\"]}"), QSAE_EFORMAT,
      "merges[0]" },
    { MODEL_ONLY("{\"type\":\"BPE\",\"vocab\":{\"a\":1},\"merges\":[[\"a\"]]}"), QSAE_EFORMAT,
      "merges[0]" },
    { MODEL_ONLY("{\"type\":\"BPE\",\"vocab\":{\"a\":1},\"merges\":[7]}"), QSAE_EFORMAT,
      "merges[0]" },
    { MODEL_ONLY("{\"type\":\"BPE\",\"vocab\":{\"a\":1,\"\":2},\"merges\":[[\"\",\"a\"]]}"),
      QSAE_EFORMAT, "merges[0]" },
    { "{" MODEL("\"dropout\":0.1,") "}", QSAE_EUNSUPPORTED, "dropout" },
    { "{" MODEL("\"continuing_subword_prefix\":\"##\",") "}", QSAE_EUNSUPPORTED,
      "continuing_subword_prefix" },
    { "{" MODEL("\"end_of_word_suffix\":\"</w>\",") "}", QSAE_EUNSUPPORTED, "end_of_word_suffix" },
    { "{" MODEL("\"fuse_unk\":1,") "}", QSAE_EFORMAT, "fuse_unk" },
    { WITH("normalizer", "{\"type\":\"BertNormalizer\"}"), QSAE_EUNSUPPORTED, "BertNormalizer" },
    { WITH("normalizer", "{\"type\":\"ByteLevel\"}"), QSAE_EUNSUPPORTED, "ByteLevel" },
    { WITH("normalizer", "{\"type\":\"Precompiled\"}"), QSAE_EFORMAT, "precompiled_charsmap" },
    { WITH("normalizer", RULES("")), QSAE_EFORMAT, "a tree of 0 bytes" },
    { WITH("normalizer", RULES("AAA")), QSAE_EFORMAT, "base64" },
    { WITH("normalizer", RULES("AA?=")), QSAE_EFORMAT, "base64" },
    { WITH("normalizer", RULES("AB==")), QSAE_EFORMAT, "base64" },
    { WITH("normalizer", RULES("CAAAAAAAAAA=")), QSAE_EFORMAT, "a tree of 8 bytes" },
    { WITH("normalizer", RULES("BAAAAAAEAAA=")), QSAE_EFORMAT, "unit" },
    { WITH("normalizer", RULES("BAAAAAAAAAD/")), QSAE_EFORMAT, "not UTF-8" },
    { WITH("normalizer", "{\"type\":\"Replace\",\"content\":\"\"}"), QSAE_EFORMAT, "pattern" },
    { WITH("normalizer", "{\"type\":\"Replace\",\"pattern\":{\"String\":\"\"},\"content\":\"\"}"),
      QSAE_EUNSUPPORTED, "empty string" },
    { WITH("normalizer", "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"(\"},\"content\":\"\"}"),
      QSAE_EUNSUPPORTED, "regular expression" },
    { WITH("normalizer",
           "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"[[a]]\"},\"content\":\"\"}"),
      QSAE_EUNSUPPORTED, "nested" },
    { WITH("normalizer",
           "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"\\\\h\"},\"content\":\"\"}"),
      QSAE_EUNSUPPORTED, "\\h" },
    { WITH("normalizer", "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\" *\"},\"content\":\"\"}"),
      QSAE_EUNSUPPORTED, "empty string" },
    { WITH("normalizer", "{\"type\":\"Sequence\"}"), QSAE_EFORMAT, "normalizers" },
    { WITH("normalizer", "[]"), QSAE_EFORMAT, "normalizer" },
    { WITH("pre_tokenizer", "{\"type\":\"BertPreTokenizer\"}"), QSAE_EUNSUPPORTED,
      "BertPreTokenizer" },
    { WITH("pre_tokenizer", "{\"type\":\"CharDelimiterSplit\",\"delimiter\":\"ab\"}"), QSAE_EFORMAT,
      "delimiter" },
    { WITH("pre_tokenizer", "{\"type\":\"Punctuation\",\"behavior\":\"x\"}"), QSAE_EFORMAT,
      "\"x\"" },
    { WITH("pre_tokenizer", "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\","
           "\"add_prefix_space\":false},{\"type\":\"Metaspace\",\"replacement\":\"_\","
           "\"prepend_scheme\":\"first\"}]}"), QSAE_EUNSUPPORTED, "first" },
    { WITH("pre_tokenizer", "{\"type\":\"UnicodeScripts\"}"), QSAE_EUNSUPPORTED, "UnicodeScripts" },
    { WITH("pre_tokenizer",
           "{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":\"x\"}"),
      QSAE_EFORMAT, "\"x\"" },
    { WITH("pre_tokenizer", "{\"type\":\"Split\",\"behavior\":\"Removed\"}"), QSAE_EFORMAT,
      "pattern" },
    { WITH("pre_tokenizer", "{\"type\":\"Metaspace\",\"replacement\":\"ab\"}"), QSAE_EFORMAT,
      "replacement" },
    { WITH("pre_tokenizer",
           "{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"x\"}"),
      QSAE_EFORMAT, "prepend_scheme" },
    { WITH("post_processor", "{\"type\":\"BertProcessing\"}"), QSAE_EFORMAT, "cls" },
    { WITH("post_processor",
           "{\"type\":\"RobertaProcessing\",\"cls\":[\"a\",1],\"sep\":[\"b\",99]}"),
      QSAE_EFORMAT, "sep" },
    { WITH("post_processor", "{\"type\":\"TemplateProcessing\",\"single\":[]}"), QSAE_EUNSUPPORTED,
      "Sequence" },
    { WITH("post_processor", "{\"type\":\"TemplateProcessing\",\"single\":[" S_AND_A "]}"),
      QSAE_EFORMAT, "\"s\"" },
    { WITH("post_processor", "{\"type\":\"TemplateProcessing\",\"single\":[" S_AND_A "],"
           SPECIAL_OF("[99]")), QSAE_EFORMAT, "below 17" },
    { WITH("post_processor", "{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":"
           "\"A\"}},{\"Sequence\":{\"id\":\"A\"}}]}"), QSAE_EUNSUPPORTED, "Sequence" },
    { WITH("added_tokens", "{}"), QSAE_EFORMAT, "added_tokens" },
    { WITH("added_tokens", "[{\"id\":1}]"), QSAE_EFORMAT, "content" },
    { WITH("added_tokens", "[{\"content\":\"q\"}]"), QSAE_EFORMAT, "\"id\"" },
    { WITH("added_tokens", "[{\"id\":1,\"content\":\"ab\"}]"), QSAE_EFORMAT,
      "in the vocabulary 8" },
    { WITH("added_tokens", "[{\"id\":8,\"content\":\"q\"}]"), QSAE_EFORMAT, "another token" },
    { WITH("added_tokens", "[{\"id\":2000000000,\"content\":\"q\"}]"), QSAE_EFORMAT, "\"id\"" },
};

static void test_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        qsae_tokenizer *t = (qsae_tokenizer *)&i;
        const int32_t got = test_open(refused[i].json, &t);
        if (got != refused[i].status)
            fail_msg("%s: %s, expected %s (%s)", refused[i].json, qsae_status_name(got),
                     qsae_status_name(refused[i].status), qsae_error_message());
        assert_null(t);
        assert_true(test_message(refused[i].part) && test_message("tokenizer.json"));
    }
}

static void test_arguments(void **state)
{
    qsae_tokenizer *t = NULL;
    qsae_tokenizer_info info = { .struct_size = sizeof info };
    int32_t ids[4];
    int64_t n = 0;

    (void)state;
    assert_int_equal(qsae_tokenizer_open(test_ctx, test_path("absent"), &t), QSAE_ENOENT);
    assert_int_equal(qsae_tokenizer_open(NULL, "x", &t), QSAE_EINVAL);
    assert_int_equal(qsae_tokenizer_open(test_ctx, NULL, &t), QSAE_EINVAL);
    assert_int_equal(qsae_tokenizer_open(test_ctx, "x", NULL), QSAE_EINVAL);
    assert_int_equal(test_open(FILE_OF("null", "null", "null"), &t), QSAE_OK);
    assert_int_equal(qsae_tokenizer_encode(t, "ab\xff", 3, 0, ids, 4, &n), QSAE_EFORMAT);
    assert_true(test_message("offset 2"));
    assert_int_equal(qsae_tokenizer_encode(t, "\xed\xa0\x80", 3, 0, ids, 4, &n), QSAE_EFORMAT);
    assert_int_equal(qsae_tokenizer_encode(t, "\xf4\x90\x80\x80", 4, 0, ids, 4, &n), QSAE_EFORMAT);
    assert_int_equal(qsae_tokenizer_encode(t, "\xc0\x80", 2, 0, ids, 4, &n), QSAE_EFORMAT);
    assert_int_equal(qsae_tokenizer_encode(t, "a\xe2\x96", 3, 0, ids, 4, &n), QSAE_EFORMAT);
    assert_true(test_message("offset 1"));
    assert_int_equal(qsae_tokenizer_encode(t, "a", 1, 0, ids, -1, &n), QSAE_EINVAL);
    assert_int_equal(qsae_tokenizer_encode(t, "a", 1, 0, NULL, 4, &n), QSAE_EINVAL);
    assert_int_equal(qsae_tokenizer_encode(t, NULL, 1, 0, ids, 4, &n), QSAE_EINVAL);
    assert_int_equal(qsae_tokenizer_encode(t, "a", 1, 0, ids, 4, NULL), QSAE_EINVAL);
    assert_int_equal(qsae_tokenizer_encode(NULL, "a", 1, 0, ids, 4, &n), QSAE_EINVAL);
    assert_int_equal(qsae_tokenizer_get_info(NULL, &info), QSAE_EINVAL);
    assert_int_equal(qsae_tokenizer_get_info(t, NULL), QSAE_EINVAL);
    qsae_tokenizer_close(&t);
    qsae_tokenizer_close(&t);
    qsae_tokenizer_close(NULL);
}

/* tokenizer.json cut anywhere, or with one byte changed, is read or refused, never worse. */
static void test_damaged(void **state)
{
    static const char json[] =
        FILE_OF("{\"type\":\"Replace\",\"pattern\":{\"Regex\":\" +\"},\"content\":\"x\"}",
                "{\"type\":\"Split\",\"pattern\":{\"String\":\" \"},\"behavior\":\"Isolated\"}",
                "null");
    char copy[sizeof json];
    uint32_t seed = 1;

    (void)state;
    for (size_t i = 0; i < sizeof json - 1; i += 3) {
        qsae_tokenizer *t = NULL;
        memcpy(copy, json, sizeof json);
        copy[i] = '\0';
        assert_int_equal(test_open(copy, &t), QSAE_EFORMAT);
        memcpy(copy, json, sizeof json);
        seed = seed * 1664525u + 1013904223u;
        copy[i] = (char)(32 + (seed >> 24) % 95);
        if (test_open(copy, &t) == QSAE_OK) {
            int32_t ids[64];
            int64_t n;
            assert_int_equal(qsae_tokenizer_encode(t, "abc  a<s>\xc3\xa9", 11, 1, ids, 64, &n),
                             QSAE_OK);
        }
        qsae_tokenizer_close(&t);
    }
}

/* An allocator that fails at the countdown-th call and ever after. */
void *test_failing_alloc(void *cookie, size_t size, size_t alignment)
{
    int64_t *countdown = cookie;
    void *p = NULL;

    return --*countdown < 0 || posix_memalign(&p, alignment, size) != 0 ? NULL : p;
}

void test_failing_free(void *cookie, void *p)
{
    (void)cookie;
    free(p);
}

/* Whatever allocation fails, the call says so and leaves nothing behind (under a leak checker). */
static void test_out_of_memory(void **state)
{
    int64_t countdown = 0, rounds = 0;
    int32_t status = QSAE_ENOMEM;

    (void)state;
    test_write("oom.json", FILE_OF("{\"type\":\"Replace\",\"pattern\":{\"Regex\":\" +\"},"
                                   "\"content\":\" \"}",
                                   "{\"type\":\"Metaspace\",\"replacement\":\"" MARK "\"}",
                                   "null"));
    test_write("oom.jsonl", "{\"text\":\"abc  a<s>b\",\"m\":1}\n{\"text\":\"bca\"}\n");
    for (; status != QSAE_OK && rounds < 2000; rounds++) {
        qsae_context_settings cs;
        qsae_corpus_settings s;
        qsae_context *ctx = NULL;
        qsae_tokenizer *t = NULL;
        qsae_corpus *c = NULL;
        qsae_context_settings_init(&cs, sizeof cs);
        qsae_corpus_settings_init(&s, sizeof s);
        s.context = 3;
        s.bos_policy = QSAE_BOS_NONE;
        cs.threads = 1;
        cs.alloc = test_failing_alloc;
        cs.free = test_failing_free;
        cs.alloc_cookie = &countdown;
        countdown = 1000000;
        assert_int_equal(qsae__context_new(&cs, &ctx), QSAE_OK);
        countdown = rounds;
        status = qsae_tokenizer_open(ctx, test_path("oom.json"), &t);
        if (status == QSAE_OK)
            status = qsae_corpus_open(ctx, t, test_path("oom.jsonl"), &s, &c);
        if (status != QSAE_OK && status != QSAE_ENOMEM)
            fail_msg("%lld: %s: %s", (long long)rounds, qsae_status_name(status),
                     qsae_error_message());
        qsae_corpus_close(&c);
        qsae_tokenizer_close(&t);
        qsae__context_unref(ctx);
    }
    assert_int_equal(status, QSAE_OK);
    assert_true(rounds > 40);
}

const struct CMUnitTest tokenizer_tests[] = {
    cmocka_unit_test(test_bpe),
    cmocka_unit_test(test_cancel),
    cmocka_unit_test(test_long_word),
    cmocka_unit_test(test_template),  cmocka_unit_test(test_config),
    cmocka_unit_test(test_tokens),    cmocka_unit_test(test_refused),
    cmocka_unit_test(test_arguments), cmocka_unit_test(test_damaged),
    cmocka_unit_test(test_out_of_memory),
};
const size_t n_tokenizer_tests = sizeof tokenizer_tests / sizeof *tokenizer_tests;
