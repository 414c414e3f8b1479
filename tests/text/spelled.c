/* SPDX-License-Identifier: BSD-2-Clause */
/* Tokens that are spelled with bytes or with the unknown token, and unknown characters that another
 * token covers. The ids are those of the tokenizers package (0.23.3). */
#include "gguf_file.h"

static const char *ids_of(const qsae_tokenizer *t, const char *text)
{
    static char out[200];
    int32_t ids[32];
    int64_t n = 0;

    if (qsae_tokenizer_encode(t, text, strlen(text), 0, ids, 32, &n) != QSAE_OK)
        return qsae_error_message();
    out[0] = '\0';
    for (int64_t i = 0; i < n; i++)
        snprintf(out + strlen(out), sizeof out - strlen(out), i == 0 ? "%d" : " %d", ids[i]);
    return out;
}

/* Merges go on with what bytes and unknown characters became, as with any token. */
static void test_merged(void **state)
{
    static const struct {
        bool bytes, fuse;
        const char *text, *ids;
    } cases[] = {
        { true, false, "bc", "3" },       { true, false, "abca", "4 5" },
        { true, false, "bcbca", "3 5" },  { true, false, "axa", "6 4" },
        { true, false, "xa", "7" },       { true, false, "xxa", "0 7" },
        { true, false, "axxa", "6 7" },   { true, false, "bxc", "3 0" },
        { true, false, "ba<", "1 4 9" },  { true, false, "<0x62>", "9 10 0 0 0 0" },
        { true, true, "xxa", "7" },       { true, true, "axxa", "6 4" },
        { true, true, "<0x62>", "9 10 0" }, { true, true, "bxc", "3 0" },
        { false, false, "bc", "0 0" },    { false, false, "abca", "6 7" },
        { false, true, "bcbca", "7" },    { false, true, "abca", "6 4" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        qsae_tokenizer *t = NULL;
        char json[600];
        snprintf(json, sizeof json, "{\"model\":{\"unk_token\":\"<unk>\",\"byte_fallback\":%s,"
                 "\"fuse_unk\":%s,\"vocab\":{\"<unk>\":0,\"<0x62>\":1,\"<0x63>\":2,"
                 "\"<0x62><0x63>\":3,\"a\":4,\"<0x62><0x63>a\":5,\"a<unk>\":6,\"<unk>a\":7,"
                 "\"<0x62\":8,\"<\":9,\"0\":10},\"merges\":[\"<0x62> <0x63>\",\"<0x62><0x63> a\","
                 "\"a <unk>\",\"<unk> a\"]}}", cases[i].bytes ? "true" : "false",
                 cases[i].fuse ? "true" : "false");
        if (test_open(json, &t) != QSAE_OK)
            fail_msg("%s", qsae_error_message());
        if (strcmp(ids_of(t, cases[i].text), cases[i].ids) != 0)
            fail_msg("%d %d %s: %s", cases[i].bytes, cases[i].fuse, cases[i].text,
                     ids_of(t, cases[i].text));
        qsae_tokenizer_close(&t);
    }
}

/* A model of scores without an unknown token needs none where a longer token is better. */
static void test_covered(void **state)
{
#define NONE "U+0062 is no token and there is no unknown token"
    static const struct {
        const char *model, *text, *ids;
    } cases[] = {
        { "null,\"vocab\":[[\"a\",-1],[\"ab\",-2]]", "ab", "1" },
        { "null,\"vocab\":[[\"a\",-1],[\"ab\",-2]]", "aab", "0 1" },
        { "null,\"vocab\":[[\"a\",-1],[\"ab\",-2]]", "abb", NONE },
        { "null,\"vocab\":[[\"a\",100],[\"ab\",-200]]", "ab", NONE },
        { "0,\"vocab\":[[\"?\",0],[\"a\",-1],[\"xy\",12],[\"b\",-30]]", "xya", "2 1" },
        { "0,\"vocab\":[[\"?\",0],[\"a\",-1],[\"xy\",12],[\"b\",-30]]", "zxyz", "0 2 0" },
        { "0,\"vocab\":[[\"?\",0],[\"a\",-1],[\"xy\",12],[\"b\",-30]]", "bcb", "3 0 3" },
        /* two unknown characters are better than the token, and then spell it */
        { "0,\"vocab\":[[\"?\",30],[\"a\",31],[\"xy\",30]]", "axyxya", "1 0 1" },
        { "0,\"vocab\":[[\"?\",30],[\"a\",31],[\"xy\",30]]", "xya", "2 1" },
        { "0,\"vocab\":[[\"?\",30],[\"a\",31],[\"xy\",30]]", "yx", "0" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        qsae_tokenizer *t = NULL;
        char json[300];
        snprintf(json, sizeof json, "{\"model\":{\"type\":\"Unigram\",\"unk_id\":%s}}",
                 cases[i].model);
        assert_int_equal(test_open(json, &t), QSAE_OK);
        if (strcmp(ids_of(t, cases[i].text), cases[i].ids) != 0)
            fail_msg("%s: %s", cases[i].text, ids_of(t, cases[i].text));
        qsae_tokenizer_close(&t);
    }
}

/* Scores behind a pre-tokenizer that makes bytes of a text. */
static void test_byte_scores(void **state)
{
    static const struct {
        const char *text, *ids;
    } cases[] = {
        { "a a", "4 2" },      { " a", "2" },     { "\u00e9a", "3 4" },
        { "\u00c3", "5 0" }, { "a\n", "4 0" },
    };
    qsae_tokenizer *t = NULL;

    (void)state;
    assert_int_equal(test_open("{\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":"
                               "false},\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":["
                               "[\"?\",0],[\"\u0120\",-3],[\"\u0120a\",-1],[\"\u00c3\u00a9\",-2],"
                               "[\"a\",-2],[\"\u00c3\",-9]]}}", &t), QSAE_OK);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (strcmp(ids_of(t, cases[i].text), cases[i].ids) != 0)
            fail_msg("%s: %s", cases[i].text, ids_of(t, cases[i].text));
    qsae_tokenizer_close(&t);
}

/* A character that nothing stands for ends the call; without an unknown token it is left out. */
static void test_nothing(void **state)
{
    static const char *const tokens[] = { "a", "b" };
    static const int32_t types[] = { 1, 1 };
    const struct gguf_spec s = {
        .model = "gemma4", .tokens = tokens, .types = types, .n = 2, .n_types = 2, .bos = -1,
        .eos = -1, .unk = -1, .pad = -1, .add_bos = 0, .add_eos = -1, .prefix = -1,
        .merges = tokens,
    };
    qsae_tokenizer *t = NULL;

    (void)state;
    assert_int_equal(test_open("{\"model\":{\"unk_token\":\"<x>\",\"vocab\":{\"a\":0},"
                               "\"merges\":[]}}", &t), QSAE_OK);
    assert_string_equal(ids_of(t, "aza"), "U+007A is in no token and the unknown token \"<x>\" is "
                                          "not in the vocabulary");
    assert_string_equal(ids_of(t, "aa"), "0 0");
    qsae_tokenizer_close(&t);
    assert_int_equal(test_open("{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]}}", &t), QSAE_OK);
    assert_string_equal(ids_of(t, "aza"), "0 0");
    qsae_tokenizer_close(&t);
    if (gguf_open(&s, &t) != QSAE_OK)
        fail_msg("%s", qsae_error_message());
    assert_string_equal(ids_of(t, "ab"), "0 1");
    assert_string_equal(ids_of(t, "a\u00e9"), "U+00E9 is no token, and neither are its bytes; "
                                              "there is no unknown token");
    qsae_tokenizer_close(&t);
}

const struct CMUnitTest spelled_tests[] = {
    cmocka_unit_test(test_merged),
    cmocka_unit_test(test_covered),
    cmocka_unit_test(test_byte_scores),
    cmocka_unit_test(test_nothing),
};
const size_t n_spelled_tests = sizeof spelled_tests / sizeof spelled_tests[0];
