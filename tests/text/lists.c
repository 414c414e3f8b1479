/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Vocabularies and merges as text, member by member: what is no list of that kind is refused in the
 * first of the two walks over it, whoever calls. Folders of files without tokenizer.json, and
 * post-processors with too many tokens.
 */
#include "text_test.h"

#include <unistd.h>

#include "formats/members.h"
#include "text/unigram.h"

#define CUT(s) { .outer = "vocab", .text = s, .size = sizeof s - 1 }

static void test_vocabularies(void **state)
{
    static const struct {
        const char *text;
        const char *part; /* NULL: two tokens */
    } cases[] = {
        { "{\"a\":0,\"b\":1}", NULL },
        { " { \"a\" : 1 , \"b\" : 0 } ", NULL },
        { "[1]", "expected object, found array" },
        { "", "'{' expected" },
        { "{\"a\":0,}", "string expected" },
        { "{\"a\" 0}", "':' expected" },
        { "{\"a\":0 \"b\":1}", "',' or '}' expected" },
        { "{\"a\":}", "value expected" },
        { "{\"a\":0} x", "end of file expected" },
        { "{\"a\":-1}", "expected an id of 0 to 9, found one outside" },
        { "{\"a\":10}", "found one outside" },
        { "{\"a\":9223372036854775808}", "found number" },
        { "{\"a\":92233720368547758080}", "found number" },
        { "{\"a\":-9223372036854775809}", "found number" },
        { "{\"a\":-}", "found number" },
        { "{\"a\":1.0}", "found number" },
        { "{\"a\":\"0\"}", "found string" },
        { "{\"a\\u0000\":0}", "with NUL" },
        { "{\"a\":0,\"\\u0061\":1}", "duplicate key \"a\"" },
        { "{\"a\":0,\"b\":0}", "id 0 belongs to two tokens" },
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        qsae__vocab v = { .ctx = test_ctx };
        const int32_t status = qsae__vocab_read(&v, test_ctx, cases[i].text, strlen(cases[i].text),
                                                "it.json", 10);
        if ((status == QSAE_OK) != (cases[i].part == NULL))
            fail_msg("%s: %s: %s", cases[i].text, qsae_status_name(status), qsae_error_message());
        if (cases[i].part != NULL)
            assert_true(status == QSAE_EFORMAT && test_message(cases[i].part) &&
                        test_message("it.json"));
        else
            assert_true(v.entries == 2 &&
                        qsae__vocab_find(&v, "a", 1) + qsae__vocab_find(&v, "b", 1) == 1);
        qsae__vocab_free(&v);
    }
}

static void test_integers(void **state)
{
    int64_t v = 7;
    (void)state;
    assert_true(qsae__json_integer("-9223372036854775808", 20, &v) && v == INT64_MIN);
    assert_true(qsae__json_integer("9223372036854775807", 19, &v) && v == INT64_MAX);
    assert_false(qsae__json_integer("", 0, &v));
    assert_false(qsae__json_integer("-", 1, &v));
    assert_false(qsae__json_integer("1/", 2, &v));
    assert_false(qsae__json_integer("1:", 2, &v));
    assert_int_equal(v, INT64_MAX);
}

static void test_merges(void **state)
{
    static const struct {
        const char *text;
        bool lines;
        const char *part;
    } cases[] = {
        { "[\"a b\"]", false, NULL },
        { "[[\"a\",\"b\"]]", false, NULL },
        { "#version: 1\r\na b\r\n", true, NULL },
        { "a b", true, NULL },
        { "a b\n\na b\n", true, "merges[1]: expected \"a b\"" },
        { "ab\n", true, "merges[0]: expected \"a b\"" },
        { "a b c\n", true, "merges[0]: expected \"a b\"" },
        { "{}", false, "expected array, found object" },
        { "[\"a b\",]", false, "value expected" },
        { "[\"a\"]", false, "merges[0]: expected \"a b\"" },
        { "[7]", false, "merges[0]: expected \"a b\"" },
        { "[\"a\\u0000 b\"]", false, "with NUL" },
        { "[[\"a\"]]", false, "merges[0]: expected \"a b\"" },
        { "[[\"a\",\"b\",\"c\"]]", false, "merges[0]: expected \"a b\"" },
        { "[[\"a\",7]]", false, "merges[0]: expected \"a b\"" },
        { "[[\"a\\u0000\",\"b\"]]", false, "with NUL" },
        { "[[\"a\" \"b\"]]", false, "',' or ']' expected" },
        { "[\"a c\"]", false, "merges[0]: token \"c\" is not in the vocabulary" },
        { "[[\"\",\"b\"]]", false, "merges[0]: token \"\" is not in the vocabulary" },
        { "[\"b a\"]", false, "merges[0]: token \"ba\" is not in the vocabulary" },
    };
    json_t *const model = json_object();
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const qsae__model_text text = {
            .vocab = CUT("{\"a\":0,\"b\":1,\"ab\":2}"), .lines = cases[i].lines,
            .merges = { .outer = "merges", .text = cases[i].text, .size = strlen(cases[i].text) },
        };
        qsae__bpe b;
        const int32_t status = qsae__bpe_read(&b, test_ctx, model, &text, "it.json", 10);
        if ((status == QSAE_OK) != (cases[i].part == NULL))
            fail_msg("%s: %s: %s", cases[i].text, qsae_status_name(status), qsae_error_message());
        if (cases[i].part != NULL)
            assert_true(status == QSAE_EFORMAT && test_message(cases[i].part) &&
                        test_message("it.json"));
        qsae__bpe_free(&b);
    }
    json_decref(model);
}

static void test_flags(void **state)
{
    static const struct {
        const char *json;
        int32_t status;
        const char *part;
    } cases[] = {
        { "{\"dropout\":null,\"continuing_subword_prefix\":\"\",\"end_of_word_suffix\":null}",
          QSAE_OK, NULL },
        { "{\"dropout\":0,\"unk_token\":\"a\",\"byte_fallback\":true,\"fuse_unk\":false,"
          "\"ignore_merges\":true}", QSAE_OK, NULL },
        { "{\"type\":7}", QSAE_EFORMAT, "\"type\"" },
        { "{\"dropout\":\"x\"}", QSAE_EFORMAT, "\"dropout\"" },
        { "{\"dropout\":0.5}", QSAE_EUNSUPPORTED, "dropout" },
        { "{\"continuing_subword_prefix\":\"x\"}", QSAE_EUNSUPPORTED, "continuing_subword_prefix" },
        { "{\"continuing_subword_prefix\":7}", QSAE_EUNSUPPORTED, "continuing_subword_prefix" },
        { "{\"end_of_word_suffix\":\"x\"}", QSAE_EUNSUPPORTED, "end_of_word_suffix" },
        { "{\"byte_fallback\":1}", QSAE_EFORMAT, "\"byte_fallback\"" },
        { "{\"fuse_unk\":1}", QSAE_EFORMAT, "\"fuse_unk\"" },
        { "{\"ignore_merges\":1}", QSAE_EFORMAT, "\"ignore_merges\"" },
        { "{\"unk_token\":1}", QSAE_EFORMAT, "\"unk_token\"" },
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const qsae__model_text text = { .vocab = CUT("{\"a\":0}"), .merges = CUT("[]") };
        json_t *const model = json_loads(cases[i].json, 0, NULL);
        qsae__bpe b;
        assert_non_null(model);
        const int32_t status = qsae__bpe_read(&b, test_ctx, model, &text, "it.json", 10);
        if (status != cases[i].status)
            fail_msg("%s: %s: %s", cases[i].json, qsae_status_name(status), qsae_error_message());
        if (status != QSAE_OK)
            assert_true(test_message(cases[i].part) && test_message("it.json"));
        qsae__bpe_free(&b);
        json_decref(model);
    }
}

static void test_scores(void **state)
{
    static const struct {
        const char *text;
        const char *part;
    } cases[] = {
        { "[[\"a\",-1],[\"b\",2.5e0]]", NULL },
        { "[[\"a\",0],[\"\",9]]", NULL },
        { "{}", "expected array, found object" },
        { "[[\"a\",-1],]", "value expected" },
        { "[7]", "vocab[0]: expected [token, score]" },
        { "[[\"a\"]]", "vocab[0]: expected [token, score]" },
        { "[[\"a\",1,2]]", "vocab[0]: expected [token, score]" },
        { "[[\"a\",1,2,3,4]]", "vocab[0]: expected [token, score]" },
        { "[[\"a\" 1]]", "',' or ']' expected" },
        { "[[1,1]]", "vocab[0]: expected [token, score]" },
        { "[[\"a\",\"1\"]]", "vocab[0]: expected [token, score]" },
        { "[[\"a\",true]]", "vocab[0]: expected [token, score]" },
        { "[[\"a\\u0000\",1]]", "with NUL" },
        { "[[\"a\",1x]]", "it.json" },
    };
    json_t *const model = json_object();
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const qsae__cut vocab = { .outer = "vocab", .text = cases[i].text,
                                  .size = strlen(cases[i].text) };
        qsae__unigram u = { .ctx = test_ctx };
        qsae__bpe b;
        const int32_t status = qsae__unigram_read(&u, &b, test_ctx, model, &vocab, "it.json",
                                                  1 << 20);
        if ((status == QSAE_OK) != (cases[i].part == NULL))
            fail_msg("%s: %s: %s", cases[i].text, qsae_status_name(status), qsae_error_message());
        if (cases[i].part != NULL)
            assert_true(status == QSAE_EFORMAT && test_message(cases[i].part) &&
                        test_message("it.json"));
        qsae__unigram_free(&u);
        qsae__bpe_free(&b);
    }
    json_decref(model);
}

/* vocab.json, merges.txt and tokenizer_config.json. */
static void test_folders(void **state)
{
    static const struct {
        const char *vocab, *config;
        int32_t status;
        const char *part;
    } cases[] = {
        { " \t\r\n{\"a\":0}", "{\"tokenizer_class\":\"GPT2Tokenizer\"}", QSAE_OK, NULL },
        { "{\"a\":0", "{\"tokenizer_class\":\"GPT2Tokenizer\"}", QSAE_EFORMAT, "vocab.json" },
        { "", "{\"tokenizer_class\":\"GPT2Tokenizer\"}", QSAE_EFORMAT, "vocab.json" },
        { " [0]", "{\"tokenizer_class\":\"GPT2Tokenizer\"}", QSAE_EFORMAT,
          "vocab.json: expected object, found array" },
        { "{\"a\":0}", "{\"tokenizer_class\":\"GPT2Tokenizer\",\"additional_special_tokens\":[3,"
          "\"x\"]}", QSAE_EFORMAT, "\"additional_special_tokens\": expected string or object" },
        { "{\"a\":0}", "{\"tokenizer_class\":\"GPT2Tokenizer\",\"extra_special_tokens\":{\"x\":"
          "\"y\"}}", QSAE_EUNSUPPORTED, "\"extra_special_tokens\": an object" },
        { "{\"a\":0}", "{\"tokenizer_class\":\"GPT2Tokenizer\",\"extra_special_tokens\":{},"
          "\"additional_special_tokens\":null,\"eos_token\":null}", QSAE_OK, NULL },
        { "{\"a\":0}", "{\"tokenizer_class\":\"Qwen2TokenizerFast\",\"added_tokens_decoder\":"
          "{\"1\":{\"special\":true}},\"eos_token\":\"<e>\"}", QSAE_EFORMAT,
          "an object with content" },
    };
    (void)state;
    test_write("merges.txt", "");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        qsae_tokenizer *t = NULL;
        test_write("vocab.json", cases[i].vocab);
        test_write("tokenizer_config.json", cases[i].config);
        const int32_t status = qsae_tokenizer_open(test_ctx, test_folder, &t);
        if (status != cases[i].status)
            fail_msg("%s, %s: %s: %s", cases[i].vocab, cases[i].config, qsae_status_name(status),
                     qsae_error_message());
        if (status != QSAE_OK)
            assert_true(test_message(cases[i].part));
        qsae_tokenizer_close(&t);
    }
    unlink(test_path("vocab.json"));
    unlink(test_path("merges.txt"));
    unlink(test_path("tokenizer_config.json"));
}

/* "ids": 4096 times 0 before or behind the text, then [CLS] and [SEP] as well: one too many. */
static void test_templates(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) { /* i & 1: behind; i & 2: one less fits */
        qsae__strbuf s;
        qsae_tokenizer *t = NULL;
        qsae__strbuf_init(&s, test_ctx);
        qsae__strbuf_addf(&s, "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]},"
                          "\"post_processor\":{\"type\":\"Sequence\",\"processors\":[{\"type\":"
                          "\"TemplateProcessing\",\"single\":[%s{\"SpecialToken\":{\"id\":\"x\"}}"
                          "%s],\"special_tokens\":{\"x\":{\"ids\":[0", i & 1 ? "{\"Sequence\":{\"id"
                          "\":\"A\"}}," : "", i & 1 ? "" : ",{\"Sequence\":{\"id\":\"A\"}}");
        for (int k = 0; k < 4095 - (i >> 1); k++)
            qsae__strbuf_addf(&s, ",0");
        qsae__strbuf_addf(&s, "]}}},{\"type\":\"RobertaProcessing\",\"cls\":[\"a\",0],"
                          "\"sep\":[\"a\",0]}]}}");
        assert_int_equal(s.status, QSAE_OK);
        const int32_t status = test_open(s.data, &t);
        if (status != (i & 2 ? QSAE_OK : QSAE_EUNSUPPORTED))
            fail_msg("%d: %s", i, qsae_error_message());
        assert_true(i & 2 || test_message("at most 4096 tokens around a text"));
        qsae_tokenizer_close(&t);
        qsae__strbuf_free(&s);
    }
    unlink(test_path("tokenizer.json"));
}

const struct CMUnitTest list_tests[] = {
    cmocka_unit_test(test_vocabularies), cmocka_unit_test(test_integers),
    cmocka_unit_test(test_merges),       cmocka_unit_test(test_flags),
    cmocka_unit_test(test_scores),       cmocka_unit_test(test_folders),
    cmocka_unit_test(test_templates),
};
const size_t n_list_tests = sizeof list_tests / sizeof list_tests[0];
