/* SPDX-License-Identifier: BSD-2-Clause */
/* Two tokenizers that part in one thing: what the comparison says of it, in either order. */
#include "gguf_file.h"

#include <unistd.h>

#include "text/tokenizer.h"
#include "text/utf8.h"

/* Letters, so that a difference in one place is a difference there alone. */
#define VOCAB "\"<u>\":0,\"a\":1,\"b\":2,\"ab\":3,\"" MARK "\":4,\"c\":5"
#define MODEL(vocab, more) "\"model\":{\"type\":\"BPE\"," more "\"vocab\":{" vocab "},"
#define WITH(parts) "{" parts MODEL(VOCAB, "") "\"merges\":[\"a b\"]}}"
#define VOCABULARY(vocab) "{" MODEL(vocab, "") "\"merges\":[]}}"
#define MERGES(vocab, merges) "{" MODEL(vocab, "") "\"merges\":[" merges "]}}"
#define ADDED(list) WITH("\"added_tokens\":[" list "],")
#define TOKEN(id, content, special, more) \
    "{\"id\":" id ",\"content\":\"" content "\",\"special\":" special more "}"
#define NORM(text) WITH("\"normalizer\":" text ",")
#define NAMED(type) "{\"type\":\"" type "\"}"
#define STRIP(left, right) \
    NORM("{\"type\":\"Strip\",\"strip_left\":" left ",\"strip_right\":" right "}")
#define REPLACE(pattern, content) \
    "{\"type\":\"Replace\",\"pattern\":{" pattern "},\"content\":\"" content "\"}"
#define PREPEND(text) NORM("{\"type\":\"Prepend\",\"prepend\":\"" text "\"}")
#define PRE(text) WITH("\"pre_tokenizer\":" text ",")
#define SPLIT(pattern, behavior, invert) \
    "{\"type\":\"Split\",\"pattern\":{" pattern "},\"behavior\":\"" behavior "\",\"invert\":" \
    invert "}"
#define DIGITS "{\"type\":\"Digits\",\"individual_digits\":true}"
#define META(mark, more) "{\"type\":\"Metaspace\",\"replacement\":\"" mark "\"" more "}"
#define POST(single, ids) \
    WITH("\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[" single "]," \
         "\"special_tokens\":{\"x\":{\"ids\":[" ids "]}}},")
#define TEXT "{\"Sequence\":{\"id\":\"A\"}}"
#define X "{\"SpecialToken\":{\"id\":\"x\"}}"
#define LONG "0123456789012345678901234567890123456789012345678901234567890"

struct side {
    const char *json, *config;
};

static const struct {
    struct side a, b;
    int32_t status;
    const char *why, *other; /* of a and b, and of b and a (NULL: the same) */
} cases[] = {
    /* ids */
    { { VOCABULARY("\"a\":0"), NULL }, { VOCABULARY("\"a\":0,\"b\":1"), NULL }, QSAE_EMISMATCH,
      "vocabulary size: 1 and 2; token 1, \"b\", is only in the second",
      "vocabulary size: 2 and 1; token 1, \"b\", is only in the first" },
    { { VOCABULARY("\"a\":0,\"c\":2"), NULL }, { VOCABULARY("\"a\":0,\"b\":1,\"c\":2"), NULL },
      QSAE_EMISMATCH, "token 1, \"b\", is only in the second",
      "token 1, \"b\", is only in the first" },
    { { VOCABULARY("\"a\":0,\"" LONG "\":1"), NULL }, { VOCABULARY("\"a\":0"), NULL },
      QSAE_EMISMATCH, "vocabulary size: 2 and 1; token 1, \"01234567890123456789012345678901234567"
      "8901234567890123456789\", is only in the first",
      "vocabulary size: 1 and 2; token 1, \"01234567890123456789012345678901234567"
      "8901234567890123456789\", is only in the second" },
    { { VOCABULARY("\"a\":0,\"b\":1"), NULL }, { VOCABULARY("\"a\":0,\"bc\":1"), NULL },
      QSAE_EMISMATCH, "token 1 is \"b\" in the first and \"bc\" in the second",
      "token 1 is \"bc\" in the first and \"b\" in the second" },
    /* the beginning of a text */
    { { WITH(""), "{\"bos_token\":\"c\"}" }, { WITH(""), NULL }, QSAE_OK, "differ in: BOS", NULL },
    { { POST(X "," TEXT, "5"), NULL }, { WITH(""), NULL }, QSAE_EMISMATCH,
      "BOS is put in front of a text by the first only",
      "BOS is put in front of a text by the second only" },
    { { WITH(""), "{\"bos_token\":\"c\"}" }, { WITH(""), "{\"bos_token\":\"b\"}" },
      QSAE_EMISMATCH, "BOS is token 5 in the first and 2 in the second",
      "BOS is token 2 in the first and 5 in the second" },
    { { POST(X "," TEXT, "5"), "{\"bos_token\":\"c\"}" },
      { POST(X "," TEXT, "2"), "{\"bos_token\":\"c\"}" }, QSAE_EMISMATCH,
      "BOS is put in front of a text by the first only",
      "BOS is put in front of a text by the second only" },
    { { POST(X "," TEXT, "5,1"), NULL }, { POST(X "," TEXT, "5,2"), NULL }, QSAE_OK,
      "differ in: template", NULL },
    { { POST(X "," TEXT, "5,1"), NULL }, { POST(X "," TEXT, "5"), NULL }, QSAE_OK,
      "differ in: template", NULL },
    { { POST(TEXT "," X, "1"), NULL }, { POST(TEXT "," X, "2,1"), NULL }, QSAE_OK,
      "differ in: template", NULL },
    { { POST(TEXT "," X, "1,2"), NULL }, { POST(TEXT "," X, "3,2"), NULL }, QSAE_OK,
      "differ in: template", NULL },
    { { POST(TEXT "," X, "1"), NULL }, { POST(TEXT "," X, "2"), NULL }, QSAE_OK,
      "differ in: template, EOS", NULL },
    /* one tokenizer.json beside two tokenizer_config.json */
    { { WITH(""), "{\"eos_token\":\"c\"}" }, { WITH(""), "{\"eos_token\":\"b\"}" }, QSAE_OK,
      "differ in: EOS", NULL },
    { { WITH(""), "{\"pad_token\":\"c\"}" }, { WITH(""), NULL }, QSAE_OK,
      "differ in: padding token", NULL },
    { { WITH(""), "{\"unk_token\":\"c\"}" }, { WITH(""), NULL }, QSAE_OK,
      "differ in: unknown token", NULL },
    { { WITH(""), "{\"bos_token\":\"a\",\"eos_token\":\"b\",\"pad_token\":\"c\",\"unk_token\":"
        "\"<u>\"}" }, { WITH(""), "{}" }, QSAE_OK,
      "differ in: BOS, EOS, padding token, unknown token", NULL },
    { { WITH(""), "{\"eos_token\":\"c\"}" }, { WITH(""), "{ \"eos_token\" : \"c\" }" }, QSAE_OK,
      "", NULL },
    /* merges */
    { { MERGES(VOCAB ",\"bc\":6", "\"a b\""), NULL },
      { MERGES(VOCAB ",\"bc\":6", "\"a b\",\"b c\""), NULL }, QSAE_EMISMATCH,
      "the tokenizers' merges differ", NULL },
    { { MERGES(VOCAB ",\"bc\":6", "\"b c\",\"a b\""), NULL },
      { MERGES(VOCAB ",\"bc\":6", "\"a b\",\"b c\""), NULL }, QSAE_EMISMATCH,
      "the tokenizers' merges differ", NULL },
    /* normalizers */
    { { NORM(NAMED("NFC")), NULL }, { NORM(NAMED("Lowercase")), NULL }, QSAE_EMISMATCH,
      "the tokenizers' normalizer differ", NULL },
    { { NORM(NAMED("NFC")), NULL }, { NORM(NAMED("NFD")), NULL }, QSAE_EMISMATCH,
      "the tokenizers' normalizer differ", NULL },
    { { STRIP("true", "true"), NULL }, { STRIP("false", "true"), NULL }, QSAE_EMISMATCH,
      "the tokenizers' normalizer differ", NULL },
    { { STRIP("true", "true"), NULL }, { STRIP("true", "false"), NULL }, QSAE_EMISMATCH,
      "the tokenizers' normalizer differ", NULL },
    { { PREPEND("a"), NULL }, { PREPEND("b"), NULL }, QSAE_EMISMATCH,
      "the tokenizers' normalizer differ", NULL },
    { { NORM(REPLACE("\"String\":\"a\"", "c")), NULL },
      { NORM(REPLACE("\"String\":\"b\"", "c")), NULL }, QSAE_EMISMATCH,
      "the tokenizers' normalizer differ", NULL },
    { { NORM(REPLACE("\"String\":\"a\"", "b")), NULL },
      { NORM(REPLACE("\"String\":\"a\"", "c")), NULL }, QSAE_EMISMATCH,
      "the tokenizers' normalizer differ", NULL },
    { { NORM(REPLACE("\"String\":\"a\"", "b")), NULL },
      { NORM(REPLACE("\"Regex\":\"a\"", "b")), NULL }, QSAE_OK, "", NULL },
    /* pre-tokenizers: what is another spelling only where all is as it must be */
    { { PRE(DIGITS), NULL }, { PRE(SPLIT("\"Regex\":\"\\\\p{N}+\"", "Isolated", "false")), NULL },
      QSAE_EMISMATCH, "the tokenizers' pre-tokenizer differ", NULL },
    { { PRE(DIGITS), NULL }, { PRE(SPLIT("\"String\":\"\\\\p{N}\"", "Isolated", "false")), NULL },
      QSAE_EMISMATCH, "the tokenizers' pre-tokenizer differ", NULL },
    { { PRE(DIGITS), NULL }, { "{\"pre_tokenizer\":" DIGITS "," MODEL(VOCAB, "")
        "\"merges\":[\"a b\"]},\"truncation\":null}", NULL }, QSAE_OK, "", NULL },
    { { PRE(DIGITS), NULL }, { PRE(NAMED("Punctuation")), NULL }, QSAE_EMISMATCH,
      "the tokenizers' pre-tokenizer differ", NULL },
    { { PRE(NAMED("Punctuation")), NULL },
      { PRE("{\"type\":\"Punctuation\",\"behavior\":\"Removed\"}"), NULL }, QSAE_EMISMATCH,
      "the tokenizers' pre-tokenizer differ", NULL },
    { { PRE(SPLIT("\"String\":\"a\"", "Removed", "false")), NULL },
      { PRE(SPLIT("\"String\":\"a\"", "Removed", "true")), NULL }, QSAE_EMISMATCH,
      "the tokenizers' pre-tokenizer differ", NULL },
    { { PRE(SPLIT("\"String\":\"a\"", "Removed", "false")), NULL },
      { PRE("{\"type\":\"CharDelimiterSplit\",\"delimiter\":\"a\"}"), NULL }, QSAE_OK, "", NULL },
    { { PRE(META(MARK, "")), NULL }, { PRE(META(MARK, ",\"prepend_scheme\":\"first\"")), NULL },
      QSAE_EMISMATCH, "the tokenizers' pre-tokenizer differ", NULL },
    { { PRE(META(MARK, "")), NULL }, { PRE(META(MARK, ",\"split\":false")), NULL }, QSAE_EMISMATCH,
      "the tokenizers' pre-tokenizer differ", NULL },
    { { PRE(META("_", "")), NULL }, { PRE(META("-", "")), NULL }, QSAE_EMISMATCH,
      "the tokenizers' pre-tokenizer differ", NULL },
    /* a cut at spaces says nothing only where the last thing done was to replace them */
#define CUT "\"pre_tokenizer\":" SPLIT("\"String\":\" \"", "Removed", "false") ","
#define LAST(norm) \
    { WITH("\"normalizer\":" norm "," CUT), NULL }, { NORM(norm), NULL }
    { LAST(REPLACE("\"String\":\" \"", "_")), QSAE_OK, "", NULL },
    { { WITH("\"normalizer\":" REPLACE("\"String\":\" \"", "_") ",\"pre_tokenizer\":"
             SPLIT("\"String\":\" \"", "Removed", "true") ","), NULL },
      { NORM(REPLACE("\"String\":\" \"", "_")), NULL }, QSAE_EMISMATCH,
      "the tokenizers' pre-tokenizer differ", NULL },
    { { WITH("\"normalizer\":" REPLACE("\"String\":\" \"", "_") ",\"pre_tokenizer\":"
             SPLIT("\"String\":\" \"", "Isolated", "true") ","), NULL },
      { NORM(REPLACE("\"String\":\" \"", "_")), NULL }, QSAE_OK, "", NULL },
    { LAST(NAMED("NFC")), QSAE_EMISMATCH, "the tokenizers' pre-tokenizer differ", NULL },
    { LAST(REPLACE("\"String\":\"a\"", "_")), QSAE_EMISMATCH,
      "the tokenizers' pre-tokenizer differ", NULL },
    { LAST(REPLACE("\"String\":\" \"", "a b")), QSAE_EMISMATCH,
      "the tokenizers' pre-tokenizer differ", NULL },
    { { WITH("\"normalizer\":" REPLACE("\"String\":\" \"", "_") ",\"pre_tokenizer\":" DIGITS ","),
        NULL }, { NORM(REPLACE("\"String\":\" \"", "_")), NULL }, QSAE_EMISMATCH,
      "the tokenizers' pre-tokenizer differ", NULL },
    { { WITH("\"normalizer\":" REPLACE("\"String\":\" \"", "_") ",\"pre_tokenizer\":"
             SPLIT("\"String\":\"a\"", "Removed", "false") ","), NULL },
      { NORM(REPLACE("\"String\":\" \"", "_")), NULL }, QSAE_EMISMATCH,
      "the tokenizers' pre-tokenizer differ", NULL },
    /* added tokens */
    { { ADDED(TOKEN("6", "d", "true", "")), NULL },
      { ADDED(TOKEN("6", "d", "true", ",\"single_word\":true")), NULL }, QSAE_EMISMATCH,
      "the tokenizers' added tokens differ", NULL },
    { { ADDED(TOKEN("6", "d", "true", "")), NULL },
      { ADDED(TOKEN("6", "d", "true", ",\"rstrip\":true")), NULL }, QSAE_EMISMATCH,
      "the tokenizers' added tokens differ", NULL },
    { { ADDED(TOKEN("6", "d", "true", "")), NULL },
      { ADDED(TOKEN("6", "d", "true", ",\"normalized\":true")), NULL }, QSAE_EMISMATCH,
      "the tokenizers' added tokens differ", NULL },
    { { ADDED(TOKEN("5", "c", "false", "")), NULL }, { WITH(""), NULL }, QSAE_EMISMATCH,
      "the tokenizers' added tokens differ", NULL },
    { { ADDED(TOKEN("5", "c", "false", "")), NULL }, { ADDED(TOKEN("2", "b", "false", "")), NULL },
      QSAE_EMISMATCH, "the tokenizers' added tokens differ", NULL },
    { { ADDED(TOKEN("6", "d", "false", "") "," TOKEN("6", "d", "false", ",\"lstrip\":true")),
        NULL },
      { ADDED(TOKEN("6", "d", "false", ",\"lstrip\":true") "," TOKEN("6", "d", "false", "")),
        NULL }, QSAE_EMISMATCH, "the tokenizers' added tokens differ", NULL },
    { { WITH(""), NULL },
      { "{" MODEL(VOCAB, "\"byte_fallback\":true,") "\"merges\":[\"a b\"]}}", NULL },
      QSAE_EMISMATCH, "the tokenizers' unknown characters differ", NULL },
    /* U+2581 is a space in a token that is not special: the text is the same, the rules are not */
#define SPACED(content, special) \
    { WITH("\"pre_tokenizer\":" META(MARK, "") ",\"added_tokens\":[" \
           TOKEN("6", content, special, "") "],"), NULL }
    { SPACED("d" MARK "e", "true"), SPACED("d" MARK "e", "false"), QSAE_EMISMATCH,
      "the tokenizers' added tokens differ", NULL },
    { SPACED("d" MARK "e", "false"), SPACED("d e", "false"), QSAE_EMISMATCH,
      "the tokenizers' added tokens differ", NULL },
    { SPACED("d" MARK "e", "true"), SPACED("d f", "false"), QSAE_EMISMATCH,
      "token 6 is \"d" MARK "e\" in the first and \"d f\" in the second",
      "token 6 is \"d f\" in the first and \"d" MARK "e\" in the second" },
    { SPACED("d" MARK, "true"), SPACED("d", "false"), QSAE_EMISMATCH,
      "token 6 is \"d" MARK "\" in the first and \"d\" in the second",
      "token 6 is \"d\" in the first and \"d" MARK "\" in the second" },
};

static qsae_tokenizer *open_side(const struct side *s)
{
    qsae_tokenizer *t = NULL;

    unlink(test_path("tokenizer_config.json"));
    if (s->config != NULL)
        test_write("tokenizer_config.json", s->config);
    if (test_open(s->json, &t) != QSAE_OK)
        fail_msg("%s: %s", s->json, qsae_error_message());
    return t;
}

static void check(const qsae_tokenizer *a, const qsae_tokenizer *b, int32_t status,
                  const char *expected)
{
    char why[300];
    const int32_t got = qsae__tokenizer_compare(a, b, why, sizeof why);

    if (got != status || strcmp(why, expected) != 0)
        fail_msg("expected %s (%s), found %s (%s)", qsae_status_name(status), expected,
                 qsae_status_name(got), why);
    if (status != QSAE_OK)
        assert_string_equal(qsae_error_message(), expected);
}

static void test_cases(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        qsae_tokenizer *a = open_side(&cases[i].a), *b = open_side(&cases[i].b);
        check(a, b, cases[i].status, cases[i].why);
        check(b, a, cases[i].status, cases[i].other != NULL ? cases[i].other : cases[i].why);
        qsae_tokenizer_close(&a);
        qsae_tokenizer_close(&b);
    }
    unlink(test_path("tokenizer_config.json"));
}

/* A model that knows all bytes never needs its unknown token, by either way of spelling them. */
static void test_unknown(void **state)
{
    static const char *const ways[] = {
        "\"byte_fallback\":true,\"vocab\":{", "\"vocab\":{",
    };

    (void)state;
    for (int way = 0; way < 2; way++)
        for (int all = 0; all < 2; all++) {
            qsae_tokenizer *t[2] = { NULL };
            for (int k = 0; k < 2; k++) {
                qsae__strbuf s;
                qsae__strbuf_init(&s, test_ctx);
                qsae__strbuf_addf(&s, "{%s\"model\":{\"type\":\"BPE\",\"unk_token\":\"<%c>\",%s"
                                  "\"<u>\":256,\"<v>\":257",
                                  way == 0 ? "" : "\"pre_tokenizer\":{\"type\":\"ByteLevel\","
                                                  "\"add_prefix_space\":false},",
                                  k == 0 ? 'u' : 'v', ways[way]);
                for (int i = 0; i < 255 + all; i++) {
                    char c[5] = "";
                    qsae__utf8_put(qsae__byte_char((uint8_t)i), c);
                    if (way == 0)
                        qsae__strbuf_addf(&s, ",\"<0x%02X>\":%d", i, i);
                    else
                        qsae__strbuf_addf(&s, ",\"%s%s\":%d", i == '"' || i == '\\' ? "\\" : "",
                                          c, i);
                }
                qsae__strbuf_addf(&s, "},\"merges\":[]}}");
                assert_int_equal(s.status, QSAE_OK);
                if (test_open(s.data, &t[k]) != QSAE_OK)
                    fail_msg("%s", qsae_error_message());
                qsae__strbuf_free(&s);
            }
            check(t[0], t[1], all ? QSAE_OK : QSAE_EMISMATCH,
                  all ? "differ in: unknown token" : "the tokenizers' unknown characters differ");
            qsae_tokenizer_close(&t[0]);
            qsae_tokenizer_close(&t[1]);
        }
}

#define UNIGRAM(parts, unk, vocab) \
    "{" parts "\"model\":{\"type\":\"Unigram\",\"unk_id\":" unk ",\"vocab\":[" vocab "]}}"

/* Models with scores: as many tokens or not, and other differences beside equal scores. */
static void test_scores(void **state)
{
    static const struct {
        const char *a, *b, *why;
    } pairs[] = {
        { UNIGRAM("", "0", "[\"a\",-1],[\"b\",-2]"),
          UNIGRAM("\"added_tokens\":[" TOKEN("1", "b", "false", "") "],", "0", "[\"a\",-1]"),
          "the tokenizers' scores differ" },
        { UNIGRAM("", "0", "[\"a\",-1],[\"b\",-2]"),
          UNIGRAM("\"normalizer\":{\"type\":\"NFC\"},", "0", "[\"a\",-1],[\"b\",-2]"),
          "the tokenizers' normalizer differ" },
        { UNIGRAM("", "0", "[\"a\",-1],[\"b\",-2]"), UNIGRAM("", "1", "[\"a\",-1],[\"b\",-2]"),
          "the tokenizers' unknown characters differ" },
        { UNIGRAM("", "0", "[\"a\",-1],[\"<0x41>\",-2]"),
          "{\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"byte_fallback\":true,\"vocab\":"
          "[[\"a\",-1],[\"<0x41>\",-2]]}}",
          "token 1 is \"<0x41>\" in the first and \"A\" in the second" },
        { UNIGRAM("", "null", ""), UNIGRAM("\"normalizer\":{\"type\":\"NFC\"},", "null", ""),
          "the tokenizers' normalizer differ" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        const struct side sides[2] = { { pairs[i].a, NULL }, { pairs[i].b, NULL } };
        qsae_tokenizer *a = open_side(&sides[0]), *b = open_side(&sides[1]);
        check(a, b, QSAE_EMISMATCH, pairs[i].why);
        qsae_tokenizer_close(&a);
        qsae_tokenizer_close(&b);
    }
}

static qsae_tokenizer *open_gguf(const struct gguf_spec *s)
{
    qsae_tokenizer *t = NULL;

    if (gguf_open(s, &t) != QSAE_OK)
        fail_msg("%s", qsae_error_message());
    return t;
}

/* Of equal scores the leftmost merge goes first, of unequal ones the better: the same list of
 * merges with and without a tie gives other ids. */
static void test_ties(void **state)
{
    static const char *const tokens[] = { "<unk>", "a", "b", "c", "ab", "bc" };
    static const int32_t types[] = { 2, 1, 1, 1, 1, 1 };
    static const float scores[2][6] = { { 0, -9, -9, -9, -2, -3 }, { 0, -9, -9, -9, -3, -3 } };
    struct gguf_spec s = {
        .model = "llama", .tokens = tokens, .types = types, .n = 6, .n_types = 6, .n_scores = 6,
        .bos = -1, .eos = -1, .unk = 0, .pad = -1, .add_bos = 0, .add_eos = -1, .prefix = 0,
    };
    qsae_tokenizer *t[2] = { NULL };

    (void)state;
    for (int i = 0; i < 2; i++) {
        s.scores = scores[i];
        t[i] = open_gguf(&s);
    }
    check(t[0], t[1], QSAE_EMISMATCH, "the tokenizers' merges differ");
    qsae_tokenizer_close(&t[0]);
    qsae_tokenizer_close(&t[1]);
}

/* tokenizer.json and GGUF: the same ids are enough, whoever of them calls a token special and
 * whichever of them has fillers. */
static void test_kinds(void **state)
{
    static const char *const tokens[] = { "<unk>", "a", "d" MARK "e", "[PAD3]", "b" };
    static const int32_t types[] = { 2, 1, 3, 5, 1 };
    static const float scores[] = { 0, -1, 0, 0, -2 };
    const struct gguf_spec s = {
        .model = "llama", .tokens = tokens, .types = types, .scores = scores, .n = 5, .n_types = 5,
        .n_scores = 5, .bos = -1, .eos = -1, .unk = 0, .pad = -1, .add_bos = 0, .add_eos = -1,
        .prefix = 0,
    };
    static const struct side json = {
        "{\"pre_tokenizer\":" META(MARK, "") ",\"added_tokens\":["
        TOKEN("2", "d" MARK "e", "false", "") "],\"model\":{\"type\":\"BPE\",\"unk_token\":"
        "\"<unk>\",\"vocab\":{\"<unk>\":0,\"a\":1,\"b\":4},\"merges\":[]}}", NULL };
    qsae_tokenizer *a = open_gguf(&s), *b = open_side(&json);
    const char *text;
    size_t size;

    (void)state;
    assert_int_equal(qsae_tokenizer_token(a, 2, &text, &size), QSAE_OK);
    assert_true(size == 5 && qsae_tokenizer_is_special(a, 2));
    assert_int_equal(qsae_tokenizer_token(b, 2, &text, &size), QSAE_OK);
    assert_true(size == 3 && !qsae_tokenizer_is_special(b, 2));
    check(a, b, QSAE_OK, "differ in: normalizer, pre-tokenizer, added tokens, BOS, EOS");
    check(b, a, QSAE_OK, "differ in: normalizer, pre-tokenizer, added tokens, BOS, EOS");
    qsae_tokenizer_close(&a);
    qsae_tokenizer_close(&b);
}

static void test_arguments(void **state)
{
    const struct side one = { WITH(""), NULL };
    qsae_tokenizer *t = open_side(&one);
    char why[8];

    (void)state;
    assert_int_equal(qsae__tokenizer_compare(NULL, t, why, sizeof why), QSAE_EINVAL);
    assert_int_equal(qsae__tokenizer_compare(t, NULL, why, sizeof why), QSAE_EINVAL);
    assert_int_equal(qsae__tokenizer_compare(t, t, NULL, 8), QSAE_EINVAL);
    assert_string_equal(qsae_error_message(), "qsae__tokenizer_compare: a NULL");
    assert_int_equal(qsae__tokenizer_compare(t, t, NULL, 0), QSAE_OK);
    qsae_tokenizer_close(&t);
}

const struct CMUnitTest difference_tests[] = {
    cmocka_unit_test(test_cases), cmocka_unit_test(test_unknown), cmocka_unit_test(test_scores),
    cmocka_unit_test(test_ties),  cmocka_unit_test(test_kinds),   cmocka_unit_test(test_arguments),
};
const size_t n_difference_tests = sizeof difference_tests / sizeof difference_tests[0];
