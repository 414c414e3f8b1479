/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Where pre-tokenizers cut. The pieces are those of the tokenizers package (0.23.3), whose regular
 * expressions are another library's (Oniguruma): most here are such that PCRE2 alone would find
 * something else.
 */
#include "text_test.h"

#include "text/pattern.h"
#include "text/pretokenize.h"
#include "text/utf8.h"

#define DIGITS(individual) "{\"type\":\"Digits\",\"individual_digits\":" individual "}"
#define PUNCTUATION(behavior) "{\"type\":\"Punctuation\",\"behavior\":\"" behavior "\"}"
#define SPLIT(kind, pattern, behavior, invert) \
    "{\"type\":\"Split\",\"pattern\":{\"" kind "\":\"" pattern "\"},\"behavior\":\"" behavior \
    "\",\"invert\":" invert "}"
#define LEVEL(prefix, regex) \
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":" prefix ",\"use_regex\":" regex "}"
#define META(scheme, split) \
    "{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"" scheme "\",\"split\":" \
    split "}"
#define SEQUENCE(list) "{\"type\":\"Sequence\",\"pretokenizers\":[" list "]}"

/* Pieces with '|' between them. */
static void pieces_of(const qsae__pretokenizer *p, const char *text, qsae__strbuf *out)
{
    qsae__pieces found;

    qsae__pieces_init(&found, test_ctx);
    assert_int_equal(qsae__pretokenize(p, text, strlen(text), true, &found), QSAE_OK);
    qsae__strbuf_add(out, "", 0);
    for (int64_t i = 0; i < found.count; i++) {
        qsae__strbuf_add(out, "|", i > 0);
        for (size_t k = found.spans[i].start; k < found.spans[i].end; k++) {
            char c[4] = { found.text[k] };
            const size_t n = found.bytes
                                 ? qsae__utf8_put(qsae__byte_char((uint8_t)found.text[k]), c) : 1;
            qsae__strbuf_add(out, c, n);
        }
    }
    assert_int_equal(out->status, QSAE_OK);
    qsae__pieces_free(&found);
}

static void check(const json_t *json, const char *name, const char *text, const char *expected)
{
    qsae__pretokenizer p = { .ctx = test_ctx };
    qsae__strbuf out;

    qsae__strbuf_init(&out, test_ctx);
    assert_non_null(json);
    if (qsae__pretokenizer_read(&p, json, "it.json") != QSAE_OK)
        fail_msg("%s: %s", name, qsae_error_message());
    pieces_of(&p, text, &out);
    if (strcmp(out.data, expected) != 0)
        fail_msg("%s: expected %s, found %s", name, expected, out.data);
    qsae__strbuf_free(&out);
    qsae__pretokenizer_free(&p);
}

static void test_steps(void **state)
{
    static const struct {
        const char *json, *text, *pieces;
    } cases[] = {
        { DIGITS("true"), "a12 \u0663\u00bdb7", "a|1|2| |\u0663|\u00bd|b|7" },
        { DIGITS("false"), "a12 \u0663\u00bdb7", "a|12| |\u0663\u00bd|b|7" },
        { DIGITS("false"), "12", "12" },
        { DIGITS("true"), "a\u2160\u3007\u2460b", "a|\u2160|\u3007|\u2460|b" },
        { PUNCTUATION("Isolated"), "a b\x7f \x1f!~c", "a b\x7f \x1f|!|~|c" },
        { PUNCTUATION("Contiguous"), "a,.b_-c", "a|,.|b|_-|c" },
        { PUNCTUATION("MergedWithPrevious"), ",a,.b", ",|a,|.|b" },
        { PUNCTUATION("MergedWithNext"), "a,.b,", "a|,|.b|," },
        { PUNCTUATION("Removed"), "a,.b,", "a|b" },
        { PUNCTUATION("Isolated"), "a,\u2014\u00ab\u201c\u201d\u00bb\u203f\u3008\u3009b\u20acc$d",
          "a|,|\u2014|\u00ab|\u201c|\u201d|\u00bb|\u203f|\u3008|\u3009|b\u20acc|$|d" },
        { SPLIT("String", "bb", "Contiguous", "false"), "abbbbc", "a|bbbb|c" },
        { SPLIT("String", "bb", "MergedWithPrevious", "true"), "bbabbbbc", "bba|bb|bbc" },
        { SPLIT("String", "bb", "MergedWithNext", "true"), "bbabbbbc", "bb|abb|bb|c" },
        { SPLIT("Regex", "b*", "Removed", "false"), "abbc\u00e9bb", "a|c|\u00e9" },
        { SPLIT("Regex", "b*", "Contiguous", "false"), "abbc", "a|bb|c" },
        { SPLIT("Regex", "(?=[A-Z])", "MergedWithNext", "false"), "aBcDD", "a|Bc|D|D" },
        { SEQUENCE(LEVEL("true", "false") "," DIGITS("true")), "a1\u00e9",
          "\u0120a|1|\u00c3\u00a9" },
        { SEQUENCE(LEVEL("false", "false") "," LEVEL("false", "false")), "a \u00e9",
          "a\u00c4\u0142\u00c3\u0125\u00c2\u00a9" },
        { SEQUENCE(SPLIT("String", " ", "MergedWithNext", "false") "," LEVEL("true", "false") ","
                   PUNCTUATION("Isolated")), "a b c", "\u0120a|\u0120b|\u0120c" },
        { SEQUENCE(SPLIT("String", " ", "Isolated", "false") ","
                   LEVEL("true", "false") ","
                   SPLIT("String", "a", "Removed", "false")), "ab b", "\u0120|b|\u0120|\u0120b" },
        { SEQUENCE(LEVEL("false", "true") "," META("always", "true")), "a b'll",
          "_a|_\u0120b|_'ll" },
        { SEQUENCE(DIGITS("false") "," META("first", "true")), "ab 12", "_ab|_|12" },
        { SEQUENCE(SPLIT("String", "a", "Removed", "false") "," META("first", "true")), "ab 12",
          "b|_12" },
        { SEQUENCE(SPLIT("String", "a", "Removed", "false") "," META("first", "true")), "a", "" },
        { META("always", "false"), "a b", "_a_b" },
        { META("first", "true"), "_a b", "_a|_b" },
        { "{\"type\":\"Whitespace\"}",
          "a_b\u0663 x\u0301\u0903\u20dd\u2160\u203f\u200c\u200d\u24b6\u24e9\u24ea\U0001f130"
          "\U0001f149\U0001f14a",
          "a_b\u0663|x\u0301\u0903\u20dd\u2160\u203f\u200c\u200d\u24b6\u24e9|\u24ea|\U0001f130"
          "\U0001f149|\U0001f14a" },
        { "{\"type\":\"Whitespace\"}",
          "\U0001f150\U0001f169\U0001f16a\U0001f170\U0001f189\U0001f18a",
          "\U0001f150\U0001f169|\U0001f16a|\U0001f170\U0001f189|\U0001f18a" },
        { "{\"type\":\"WhitespaceSplit\"}", "a\xc2\x85" "b\u00a0c\u180ed\u2028e\u200bf",
          "a|b|c\u180ed|e\u200bf" },
        { "{\"type\":\"CharDelimiterSplit\",\"delimiter\":\"" "\u00e9" "\"}", "a\u00e9\u00e9b",
          "a|b" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        json_t *const json = json_loads(cases[i].json, 0, NULL);
        check(json, cases[i].json, cases[i].text, cases[i].pieces);
        json_decref(json);
    }
}

static json_t *split_by(const char *regex)
{
    return json_pack("{ss s{ss} ss}", "type", "Split", "pattern", "Regex", regex, "behavior",
                     "Isolated");
}

static void test_expressions(void **state)
{
    static const struct {
        const char *regex, *text, *pieces;
    } cases[] = {
        { "\\w+", "a\u0301b-\u203fc\u0903-\u2160\u00bd-\u24b6-\u200d",
          "a\u0301b|-|\u203fc\u0903|-|\u2160\u00bd|-|\u24b6|-\u200d" },
        { "[\\w]+", "a\u0301b-\u2160\u00bd-\u24b6\U0001f130\u20dd-\u200d",
          "a\u0301b|-|\u2160|\u00bd-|\u24b6\U0001f130\u20dd|-\u200d" },
        { "\\W+", "a--\u0301-\u203f+\u00b2", "a|--|\u0301|-|\u203f|+|\u00b2" },
        { "[^\\w\\s]+", "a-\u00bd_ !", "a|-\u00bd|_ |!" },
        { "x\\b", "x x\u0301x\u00bdx\u203fx-", "x| x\u0301x\u00bdx\u203f|x|-" },
        { "\\Bx", "x xx\u00bdx-x", "x x|x|\u00bd|x|-x" },
        { "[\\b]", "a\x08" "b", "a|\x08|b" },
        { "[\\s,]+", "a ,\u1680b\u180ec", "a| ,\u1680|b\u180ec" },
        { "\\S+", "a \u180e b", "a| |\u180e| |b" },
        { "[[:space:]]+", "a \u180e\xc2\x85" "b", "a| |\u180e|\xc2\x85|b" },
        { "[[:punct:]]+", "a$\u20ac\u2014-b", "a|$\u20ac\u2014-|b" },
        { "[\\s-]+", "a -b", "a| -|b" },
        { "[\\v-z]+", "a\x0b-z{", "a\x0b-z|{" },
        { "[[:word:]-]+", "a\u0301b-\u203f \u00bd", "a\u0301b-\u203f| \u00bd" },
        { "[[:xdigit:]]+", "xaF0g\uff21", "x|aF0|g\uff21" },
        { "[[:digit:]]+", "a1\u0663\u00bdb", "a|1\u0663|\u00bdb" },
        { "[^[:digit:]a]+", "a12bb", "a12|bb" },
        { "[[:^ascii:]]+", "a\u00e9\u00e9b", "a|\u00e9\u00e9|b" },
        { "[[:cntrl:]]", "a\x01\xc2\x85" "b", "a|\x01|\xc2\x85|b" },
        { "\\v", "a\x0b\nb", "a|\x0b|\nb" },
        { "[\\v]", "a\x0b\nb", "a|\x0b|\nb" },
        { "^a", "a\na\nb\na", "a|\n|a|\nb\n|a" },
        { "a$", "a\nab\na", "a|\nab\n|a" },
        { "a.b", "a\nb-axb", "a\nb-|axb" },
        { "\\p{N}{1,3}+", "12345 6", "12345| |6" },
        { "\\p{N}{2}+", "12345", "1234|5" },
        { "a{1,}+a", "-aaa", "-|aaa" },
        { "x[ab]{1,2}+c", "-xababc", "-|xababc" },
        { "\u00e9{1,2}+b", "-\u00e9\u00e9\u00e9b", "-|\u00e9\u00e9\u00e9b" },
        { "\\\u00e9{1,2}+b", "-\u00e9\u00e9\u00e9b", "-|\u00e9\u00e9\u00e9b" },
        { "\\x{61}{1,2}+c", "-aaac", "-|aaac" },
        { "\\x61{1,2}+c", "-aaac", "-|aaac" },
        { "\\141{1,2}+c", "-aaac", "-|aaac" },
        { "\\cA{1,2}+c", "-\x01\x01\x01" "c", "-|\x01\x01\x01" "c" },
        { "(?<n>a)\\k<n>", "aab", "aa|b" },
        { "a{x}+", "aa{x}}", "a|a{x}}" },
        { "a{}", "a{}b", "a{}|b" },
        { "a{,}", "a{,}b", "a{,}|b" },
        { "a(?i)b", "aBcab", "aB|c|ab" },
        { "a{1,2", "aa{1,2", "a|a{1,2" },
        { "a{1,2}b", "aaab", "a|aab" },
        { "a{1,2}?b", "aaab", "a|aab" },
        { "a++b", "-aaab", "-|aaab" },
        { "(?i)k|L", "\u212akl", "\u212a|k|l" },
        { "ss|fi", "assb\u00df\ufb01fi", "a|ss|b\u00df\ufb01|fi" },
        { "ss(?i:s|s)[st]\\ss", "-sssTssSt s-", "-sssT|ssSt s|-" },
        { "(?i)[\u00e9\u03c3]s", "\u00c9S\u03c2\u017fa", "\u00c9S|\u03c2\u017f|a" },
        { "(?i:'s)|x", "'S'\u017fx", "'S|'\u017f|x" },
        { "(?=[A-Z])", "aBcDD", "a|Bc|D|D" },
        { "$", "a\nb", "a|\nb" },
        { "b*", "abbc\u00e9bb", "a|bb|c|\u00e9|bb" },
        { "a|(?<=a)", "baab", "b|a|a|b" },
        { "]|b", "a]b", "a|]|b" },
        { "[\\[\\]&]", "a]&[", "a|]|&|[" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        json_t *const json = split_by(cases[i].regex);
        check(json, cases[i].regex, cases[i].text, cases[i].pieces);
        json_decref(json);
    }
}

/* What PCRE2 would read in another way is refused by name where it is not rewritten. */
static void test_refused(void **state)
{
    static const struct {
        const char *regex, *part;
    } cases[] = {
        { "[[a]]", "with nested classes" },
        { "[a&&b]", "with class intersection" },
        { "[]a]", "with an empty class" },
        { "[^]a]", "with an empty class" },
        { "[[:alpha:]]", "with a named class that is not supported" },
        { "[[:^space:]]", "with a named class that is not supported" },
        { "[[:digit", "with a named class that is not supported" },
        { "\\h", "escape \\h is not supported" },
        { "\\H", "escape \\H is not supported" },
        { "[\\h]", "escape \\h is not supported" },
        { "[\\H]", "escape \\H is not supported" },
        { "[\\Q]", "escape \\Q is not supported" },
        { "[\\E]", "escape \\E is not supported" },
        { "\\Qa\\E", "escape \\Q is not supported" },
        { "a\\E", "escape \\E is not supported" },
        { "[\\S]", "escape \\S is not supported there" },
        { "[\\W]", "escape \\W is not supported there" },
        { "a\\", "escape \\ is not supported" },
        { "[a\\", "escape \\ is not supported" },
        { "a{2}?", "with {n}?" },
        { "a{,2}", "with {,n}" },
        { "(?:ab){1,2}+", "with {n,m}+ behind a group" },
        { "(?m)a.b", "with option m" },
        { "(?i-m:a)", "with option m" },
        { "a(?i)b|c", "with options inside of an alternative" },
        { "(?i)ss", "with option i and letters that fold to several" },
        { "a(?i:xFi)", "with option i and letters that fold to several" },
        { "(?i:a)sT", "with option i and letters that fold to several" },
        { "(?i:\u00df|a)", "with option i and letters that fold to several" },
        { "(?i)[\u0130]", "with option i and letters that fold to several" },
        { "[\\w-z]", "with a range that begins with a class" },
        { "[\\s-\u4e00]", "with a range that begins with a class" },
        { "[[:space:]-\u4e00]", "with a range that begins with a class" },
        { "[a", "missing terminating ]" },
        { "(", "missing closing parenthesis" },
        { "\\x{", "regular expression \"\\x{\"" },
        { "\\p", "regular expression \"\\p\"" },
        { "\\k<n", "regular expression \"\\k<n\"" },
        { "\\c", "regular expression \"\\c\"" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        qsae__pretokenizer p = { .ctx = test_ctx };
        json_t *const json = split_by(cases[i].regex);
        if (qsae__pretokenizer_read(&p, json, "it.json") != QSAE_EUNSUPPORTED)
            fail_msg("%s is not refused", cases[i].regex);
        assert_true(test_message(cases[i].part) && test_message("it.json"));
        qsae__pretokenizer_free(&p);
        json_decref(json);
    }
}

/* A few bytes that become many end before they fill the memory. */
static void test_growth(void **state)
{
    enum { TIMES = 2000000 };
    static const char *const parts[] = { "\\b", "\\w", "[\\w", "a", "{" };
    char *const regex = malloc(TIMES * 3 + 1);

    (void)state;
    assert_non_null(regex);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        qsae__strbuf out;
        const size_t n = strlen(parts[i]);
        for (size_t k = 0; k < TIMES; k++)
            memcpy(regex + k * n, parts[i], n + 1);
        if (parts[i][0] == '[') /* one class, not nested ones */
            for (size_t k = 1; k < TIMES; k++)
                regex[k * n] = 'a';
        qsae__strbuf_init(&out, test_ctx);
        assert_int_equal(qsae__expression_translate(regex, "it.json", &out), QSAE_EUNSUPPORTED);
        assert_true(test_message("it.json: regular expression: expected at most 65536 bytes for "
                                 "PCRE2, found more"));
        assert_true(out.capacity < 200000);
        qsae__strbuf_free(&out);
    }
    free(regex);
}

/* An expression that takes too long ends the call, whatever becomes of its matches. */
static void test_too_long(void **state)
{
    static const char *const splits[] = {
        SPLIT("Regex", "(?:a|a|aa)+[bc]", "Isolated", "false"),
        SPLIT("Regex", "(?:a|a|aa)+[bc]", "Removed", "false"),
        SEQUENCE(SPLIT("Regex", "(?:a|a|aa)+[bc]", "Contiguous", "true") "," DIGITS("true")),
    };
    char text[65];

    (void)state;
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    for (size_t i = 0; i < sizeof splits / sizeof splits[0]; i++) {
        qsae__pretokenizer p = { .ctx = test_ctx };
        qsae__pieces found;
        json_t *const json = json_loads(splits[i], 0, NULL);
        assert_int_equal(qsae__pretokenizer_read(&p, json, "it.json"), QSAE_OK);
        qsae__pieces_init(&found, test_ctx);
        assert_int_equal(qsae__pretokenize(&p, text, 64, true, &found), QSAE_EUNSUPPORTED);
        assert_true(test_message("a regular expression exceeds the match limits"));
        assert_int_equal(qsae__pretokenize(&p, text, 4, true, &found), QSAE_OK);
        assert_int_equal(found.count, 1);
        qsae__pieces_free(&found);
        qsae__pretokenizer_free(&p);
        json_decref(json);
    }
}

static void test_schemes(void **state)
{
    static const struct {
        const char *json, *part;
    } cases[] = {
#define MARKED(mark, more) "{\"type\":\"Metaspace\",\"replacement\":\"" mark "\"" more "}"
        { MARKED("_", ",\"add_prefix_space\":false,\"prepend_scheme\":\"always\""),
          "add_prefix_space and prepend_scheme contradict each other" },
        { MARKED("_", ",\"add_prefix_space\":false,\"prepend_scheme\":\"first\""),
          "add_prefix_space and prepend_scheme contradict each other" },
        { MARKED("_", ",\"prepend_scheme\":\"last\""), "unknown prepend_scheme \"last\"" },
        { MARKED("", ""), "replacement: expected one character, found \"\"" },
        { MARKED("ab", ""), "replacement: expected one character, found \"ab\"" },
        { "{\"type\":\"CharDelimiterSplit\",\"delimiter\":\"\"}",
          "delimiter: expected one character, found \"\"" },
        { "{\"type\":\"CharDelimiterSplit\",\"delimiter\":\"ab\"}",
          "delimiter: expected one character, found \"ab\"" },
        { PUNCTUATION("Kept"), "unknown behavior \"Kept\"" },
    };
    static const struct {
        const char *json, *pieces;
    } good[] = {
        { MARKED("_", ",\"add_prefix_space\":false,\"prepend_scheme\":\"never\""), "a|_b" },
        { MARKED("_", ",\"add_prefix_space\":true,\"prepend_scheme\":\"never\""), "a|_b" },
        { MARKED("_", ",\"add_prefix_space\":false"), "a|_b" },
        { MARKED("_", ",\"add_prefix_space\":true"), "_a|_b" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        qsae__pretokenizer p = { .ctx = test_ctx };
        json_t *const json = json_loads(cases[i].json, 0, NULL);
        assert_non_null(json);
        if (qsae__pretokenizer_read(&p, json, "it.json") != QSAE_EFORMAT)
            fail_msg("%s is not refused", cases[i].json);
        assert_true(test_message(cases[i].part) && test_message("it.json"));
        qsae__pretokenizer_free(&p);
        json_decref(json);
    }
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        json_t *const json = json_loads(good[i].json, 0, NULL);
        check(json, good[i].json, "a b", good[i].pieces);
        json_decref(json);
    }
}

const struct CMUnitTest cut_tests[] = {
    cmocka_unit_test(test_steps),
    cmocka_unit_test(test_expressions),
    cmocka_unit_test(test_refused),
    cmocka_unit_test(test_growth),
    cmocka_unit_test(test_too_long),
    cmocka_unit_test(test_schemes),
};
const size_t n_cut_tests = sizeof cut_tests / sizeof cut_tests[0];
