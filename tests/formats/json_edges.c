/* SPDX-License-Identifier: BSD-2-Clause */
/* JSON: what escapes stand for, where a text is refused, cuts at every place of jansson's buffer,
 * bounds of memory; and JSON that is written. That the walk takes what jansson takes is seen in
 * tests/hostile/trees.c. */
#include "formats_test.h"

#include "formats/members.h"
#include "formats/walk.h"

static void says(const char *what, int32_t status, int32_t want, const char *part)
{
    if (status != want || strstr(qsae_error_message(), part) == NULL)
        fail_msg("%.60s: expected %s with \"%s\", found %s: %s", what, qsae_status_name(want), part,
                 qsae_status_name(status), qsae_error_message());
}

static void test_unquote(void **state)
{
    static const char *const good[][2] = {
        { "\"\"", "" }, { "\"a b\"", "a b" },
        { "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t" },
        { "\"\\u0041\\u007f\"", "A\x7f" }, { "\"\\u0080\\u07fF\"", "\xc2\x80\xdf\xbf" },
        { "\"\\u0800\\uD7fF\\ue000\\uFFFF\"", "\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf" },
        { "\"\\ud800\\udc00\\udbff\\udfff\"", "\xf0\x90\x80\x80\xf4\x8f\xbf\xbf" },
        { "\"\xc3\xa9\"", "\xc3\xa9" },
    };
    static const char *const bad[] = {
        "\"", "a\"", "\"a", "ab", "\"a\"b\"", "\"\n\"", "\"\x1f\"", "\"\\u0000\"", "\"\\a\"",
        "\"\\u00/0\"", "\"\\u00:0\"", "\"\\u00@0\"", "\"\\u00G0\"", "\"\\u00`0\"", "\"\\u00g0\"",
        "\"\\u004\"", "\"\\\"", "\"\\ud800\"", "\"\\ud800xudc00\"", "\"\\ud800\\ndc00\"",
        "\"\\ud800\\ud800\"", "\"\\ud800\\udbff\"", "\"\\ud800\\ue000\"", "\"\\udbff\\u0041\"",
        "\"\\udc00\"", "\"\\udfff\"", "\"\\udc00\\udc00\"", "\"\\udfff\\udfff\"",
    };
    char out[64];

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        if (!qsae__json_unquote(good[i][0], strlen(good[i][0]), out))
            fail_msg("refused: %s", good[i][0]);
        assert_string_equal(out, good[i][1]);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (qsae__json_unquote(bad[i], strlen(bad[i]), out))
            fail_msg("accepted: %s", bad[i]);
    assert_false(qsae__json_unquote("\"\\\0\"", 4, out));
}

static void test_places(void **state)
{
    static const char *const bad[][2] = {
        { "[\n\"\\u00g0\"]", "t:2: invalid escape" }, { "\"\\", "t:1: invalid escape" },
        { "\n\n\"a", "t:3: string without an end" }, { "\"\t\"", "t:1: control character" },
        { "\"\\u0000\"", "t:1: U+0000 is not allowed" }, { "[\n\"\xff\"]", "t:2: not UTF-8" },
        { "[-]", "t:1: invalid number" }, { "[1e]", "t:1: invalid number" },
        { "[nil]", "t:1: invalid token" }, { "[\t1,\r\n\t2 3]", "t:2: ',' or ']' expected" },
        { "{\"a\":1\n;}", "t:2: ',' or '}' expected" }, { "{a", "t:1: string or '}' expected" },
        { "{\"a\"", "t:1: ':' expected" }, { "{\"a\":", "t:1: unexpected end" },
        { "[]\n]", "t:2: end of file expected" },
    };
    char deep[64 * 2 + 2];
    qsae__walk w;
    json_t *v = NULL;

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const size_t n = strlen(bad[i][0]);
        says(bad[i][0], qsae__json_check(bad[i][0], n, "t"), QSAE_EFORMAT, bad[i][1]);
        says(bad[i][0], qsae__json_parse(bad[i][0], n, "t", &v), QSAE_EFORMAT, bad[i][1]);
        assert_null(v);
    }
    for (size_t n = 64; n <= 65; n++) {
        memset(deep, '[', n);
        memset(deep + n, ']', n);
        if (n == 64)
            assert_int_equal(qsae__json_check(deep, 2 * n, "t"), QSAE_OK);
        else
            says(deep, qsae__json_check(deep, 2 * n, "t"), QSAE_EFORMAT,
                 "t: JSON nested deeper than 64 levels");
    }
    qsae__json_walk("\"\\\0\"", 4, QSAE__JSON_NUL, UINT64_MAX, NULL, 0, &w);
    assert_string_equal(w.wrong, "invalid escape");
    /* What only the reading sees, with its line. */
    says("twice", qsae__json_parse("{\"a\":1,\n\"a\":2}", 14, "t", &v), QSAE_EFORMAT,
         "t:2: duplicate object key");
    says("large", qsae__json_parse("[1,\n\n1e999]", 11, "t", &v), QSAE_EFORMAT,
         "t:3: real number overflow");
}

/* A cut whose bytes begin and end at every place of jansson's buffer of 1,024 bytes; the line of
 * what is wrong behind it counts the cut's own lines, more of them than the buffer holds. */
static void test_cut_places(void **state)
{
    static char text[8192];
    json_t *v = NULL;

    (void)state;
    for (int pad = 900; pad < 1100; pad++) {
        qsae__cut cut = { .outer = "w" };
        const int n = snprintf(text, sizeof text, "{\"a\":\"%0*d\",\"w\":[7],\"z\":8}", pad, 0);
        assert_int_equal(qsae__json_parse_cut(text, (size_t)n, "t", 0, &cut, 1, &v), QSAE_OK);
        assert_int_equal(cut.size, 3);
        assert_memory_equal(cut.text, "[7]", 3);
        assert_int_equal(json_string_length(json_object_get(v, "a")), pad);
        assert_true(json_is_null(json_object_get(v, "w")));
        assert_int_equal(json_integer_value(json_object_get(v, "z")), 8);
        json_decref(v);
    }
    for (int lines = 0; lines < 3000; lines += 999) {
        qsae__cut cut = { .outer = "w" };
        char part[64], *p = text + sprintf(text, "{\"w\":[");
        memset(p, '\n', (size_t)lines);
        strcpy(p + lines, "],\"a\":1,\"a\":2}");
        snprintf(part, sizeof part, "t:%d: duplicate", lines + 1);
        says(part, qsae__json_parse_cut(text, strlen(text), "t", 0, &cut, 1, &v), QSAE_EFORMAT,
             part);
    }
}

/* Which values are cut out: by two names of which 62 bytes are looked at, in objects only. */
static void test_cut_names(void **state)
{
    static const struct {
        const char *format, *outer, *inner;
        int width; /* of a name */
        bool found;
    } list[] = {
        { "{\"%0*d\":[]}", NULL, NULL, 62, true },  { "{\"%0*d\":[]}", NULL, NULL, 63, false },
        { "[{\"%0*d\":[]}]", "", NULL, 1, false },  { "[{\"%0*d\":[]}]", NULL, NULL, 1, false },
        { "{\"b\":{\"%0*d\":[]}}", NULL, NULL, 1, false },
        { "{\"b\":{\"%0*d\":[]}}", "b", NULL, 1, true },
        { "{\"b\":{\"%0*d\":[]}}", "b", "0", 1, true },
        { "{\"b\":{\"%0*d\":[]}}", "b", "0", 63, false },
        { "{\"b\":[{\"%0*d\":[]}]}", "b", "0", 1, false },
        { "{\"a\":{\"%0*d\":1},\"b\":[]}", "b", "0", 1, false },
        { "{\"b\":{\"c\":{\"%0*d\":[]}}}", "b", "0", 1, false },
    };
    char text[160], name[80];

    (void)state;
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        json_t *v = NULL;
        snprintf(name, sizeof name, "%0*d", list[i].width, 0);
        const int n = snprintf(text, sizeof text, list[i].format, list[i].width, 0);
        qsae__cut cut = { .outer = list[i].outer ? list[i].outer : name, .inner = list[i].inner };
        if (cut.outer[0] == '\0') /* a name within an array's object is no inner one */
            cut = (qsae__cut){ .outer = "b", .inner = name };
        assert_int_equal(qsae__json_parse_cut(text, (size_t)n, "t", 0, &cut, 1, &v), QSAE_OK);
        if ((cut.text != NULL) != list[i].found)
            fail_msg("%s: a cut is %s", text, cut.text ? "found" : "not found");
        json_decref(v);
    }
}

/* The walk ends where the tree passes what it may take, and no later: at names, at tables that
 * grow, at containers, strings and numbers. */
static void test_most(void **state)
{
    static const char text[] = "{\"a\":null,\"b\":null,\"c\":null,\"d\":null,\"e\":null,\"f\":null,"
                               "\"g\":null,\"h\":null,\"i\":null,\"j\":[{},\"x\",1,2,3,4,5,6,7]}";
    qsae__walk all, w;
    const char *before = text;
    int places = 0;

    (void)state;
    qsae__json_walk(text, sizeof text - 1, 0, UINT64_MAX, NULL, 0, &all);
    assert_null(all.wrong);
    assert_ptr_equal(all.at, text + sizeof text - 1);
    for (uint64_t most = 0; most <= all.tree; most++) {
        qsae__json_walk(text, sizeof text - 1, 0, most, NULL, 0, &w);
        assert_int_equal(w.too_much, most < all.tree);
        assert_true(w.too_much ? w.tree > most : w.tree == all.tree);
        assert_true(w.at >= before);
        places += w.at > before;
        before = w.at;
    }
    /* Behind each of three brackets, ten names, a string and seven numbers, before the ninth
     * element, for which the list's table grows, and at the end. */
    assert_int_equal(places, 23);
}

static void test_bounds(void **state)
{
    static const unsigned flags[] = { 0, QSAE__JSON_DATA };
    char *const text = malloc(200000), *p = text;
    json_t *v = NULL;

    (void)state;
    assert_non_null(text);
    says("7 times", qsae__json_parse("", SIZE_MAX / 2, "t", &v), QSAE_EOVERFLOW, "t: too large");
    says("and 768 KiB", qsae__json_parse("", SIZE_MAX / 7, "t", &v), QSAE_EOVERFLOW,
         "t: too large");
    /* Lists that take forty times their bytes; metadata has no bound of its own. */
    for (int i = 0; i < 40000; i++)
        p += sprintf(p, "%s", i == 0 ? "[[]" : ",[]");
    *p++ = ']';
    for (int i = 0; i < 2; i++) {
        const int32_t st = qsae__json_parse_with(text, (size_t)(p - text), "t", flags[i], &v);
        if (i == 0)
            says("lists", st, QSAE_EFORMAT, "t:1: expected values that fit into 7 bytes per byte");
        else
            assert_int_equal(st, QSAE_OK);
        assert_int_equal(json_array_size(v), i == 0 ? 0 : 40000);
        json_decref(v);
    }
    /* What jansson takes to read a string counts: the same bytes as one token, and as a hundred. */
    for (int parts = 1; parts <= 100; parts += 99) {
        p = text + sprintf(text, "[");
        for (int i = 0; i < parts; i++)
            p += sprintf(p, "\"%0*d\",", 100000 / parts, 0);
        for (int i = 0; i < 11000; i++)
            p += sprintf(p, "[],");
        p += sprintf(p, "[]]");
        const int32_t st = qsae__json_parse(text, (size_t)(p - text), "t", &v);
        if (parts == 1)
            says("one token", st, QSAE_EFORMAT, "t:1: expected values that fit");
        else
            assert_int_equal(st, QSAE_OK);
        assert_int_equal(json_array_size(v), parts == 1 ? 0 : 11101);
        json_decref(v);
    }
    free(text);
}

static void test_members(void **state)
{
    static const struct {
        const char *text;
        bool fine;
        int64_t value;
    } list[] = {
        { "0", true, 0 }, { "-7", true, -7 }, { "9223372036854775807", true, INT64_MAX },
        { "-9223372036854775808", true, INT64_MIN }, { "9223372036854775808", false, 0 },
        { "-9223372036854775809", false, 0 }, { "92233720368547758070", false, 0 },
        { "", false, 0 }, { "-", false, 0 }, { "1.", false, 0 }, { "/", false, 0 },
    };
    qsae__members m;
    json_t *v = NULL;
    const json_t *found = NULL;
    const char *text = NULL;
    int64_t value = 0;

    (void)state;
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        assert_int_equal(qsae__json_integer(list[i].text, strlen(list[i].text), &value),
                         list[i].fine);
        assert_true(!list[i].fine || value == list[i].value);
    }
    says("list", qsae__elements_open(&m, "\n ", 2, "t"), QSAE_EFORMAT, "t:2: '[' expected");
    says("map", qsae__members_open(&m, "\n ", 2, "t"), QSAE_EFORMAT, "t:2: '{' expected");
    assert_int_equal(qsae__json_parse("{\"a\":false,\"b\":true}", 20, "t", &v), QSAE_OK);
    says("list", qsae__json_get(v, "t", "a", true, JSON_ARRAY, &found), QSAE_EFORMAT,
         "\"a\": expected array, found boolean");
    says("map", qsae__json_get(v, "t", "a", true, JSON_OBJECT, &found), QSAE_EFORMAT,
         "\"a\": expected object, found boolean");
    says("text", qsae__json_str(v, "t", "b", true, &text, NULL), QSAE_EFORMAT,
         "\"b\": expected string, found boolean");
    json_decref(v);
}

/* As Python's repr; each also below zero. */
static void test_numbers(void **state)
{
    static const struct {
        double value;
        const char *text;
    } list[] = {
        { 0, "0.0" }, { 1, "1.0" }, { 100, "100.0" }, { 2.5, "2.5" }, { 0.1, "0.1" },
        { 0.1 + 0.2, "0.30000000000000004" }, { 123.456, "123.456" }, { 0.0001, "0.0001" },
        { 0.00012345, "0.00012345" }, { 0.00001, "1e-05" }, { 1.5e-7, "1.5e-07" },
        { 1e15, "1000000000000000.0" }, { 1e16, "1e+16" }, { 1e22, "1e+22" },
        { 9007199254740992.0, "9007199254740992.0" },
        { 1.2345678901234568e17, "1.2345678901234568e+17" },
        { 4.9406564584124654e-324, "5e-324" },
        { 1.7976931348623157e308, "1.7976931348623157e+308" },
        { 2.2250738585072014e-308, "2.2250738585072014e-308" },
    };
    char text[48];

    (void)state;
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        qsae__json_number(list[i].value, text, sizeof text);
        assert_string_equal(text, list[i].text);
        qsae__json_number(-list[i].value, text, sizeof text);
        assert_true(text[0] == '-');
        assert_string_equal(text + 1, list[i].text);
    }
}

static void written(const char *json, int indent, const char *want)
{
    qsae__strbuf b;
    json_t *v = NULL;

    qsae__strbuf_init(&b, test_contexts[0]);
    assert_int_equal(qsae__json_parse_with(json, strlen(json), "t", QSAE__JSON_NUL, &v), QSAE_OK);
    assert_int_equal(qsae__json_write(&b, v, indent), QSAE_OK);
    assert_string_equal(b.data, want);
    qsae__strbuf_free(&b);
    json_decref(v);
}

/* As Python's json.dumps(..., ensure_ascii=False). */
static void test_written(void **state)
{
    static const char json[] = "{\"b\":[1,-2.5,true,false,null,\"x\"],\"a\":{},\"c\":[],"
                               "\"d\":{\"e\":[[]]}}";

    (void)state;
    written("7", -1, "7");
    written("[]", 1, "[]");
    written("{}", 0, "{}");
    written(json, -1, "{\"b\": [1, -2.5, true, false, null, \"x\"], \"a\": {}, \"c\": [], "
                      "\"d\": {\"e\": [[]]}}");
    written(json, 2, "{\n  \"b\": [\n    1,\n    -2.5,\n    true,\n    false,\n    null,\n"
                     "    \"x\"\n  ],\n  \"a\": {},\n  \"c\": [],\n  \"d\": {\n"
                     "    \"e\": [\n      []\n    ]\n  }\n}");
    written("[1,{\"a\":2}]", 0, "[\n1,\n{\n\"a\": 2\n}\n]");
    written("\"\"", -1, "\"\"");
    written("[\"\\u0000\\u0001\\u001f \\u007f\",\"\\b\\t\\n\\u000b\\f\\r\"]", -1,
            "[\"\\u0000\\u0001\\u001f \x7f\", \"\\b\\t\\n\\u000b\\f\\r\"]");
    written("[\"\\\"\",\"a\\\\b/\"]", -1, "[\"\\\"\", \"a\\\\b/\"]");
    written("{\"\\u00e9\\n\":\"\\ud83d\\ude00\"}", -1, "{\"\xc3\xa9\\n\": \"\xf0\x9f\x98\x80\"}");
}

static void test_dumps(void **state)
{
    json_t *const v = json_pack("{s[if]sn}", "b", 7, 2.5, "a"), *const one = json_integer(7);
    char *text;

    (void)state;
    assert_true(v != NULL && one != NULL);
    text = qsae__json_dumps(v, JSON_COMPACT);
    assert_string_equal(text, "{\"b\":[7,2.5],\"a\":null}");
    free(text);
    text = qsae__json_dumps(v, JSON_SORT_KEYS | JSON_INDENT(1));
    assert_string_equal(text, "{\n \"a\": null,\n \"b\": [\n  7,\n  2.5\n ]\n}");
    free(text);
    assert_null(qsae__json_dumps(one, 0));
    text = qsae__json_dumps(one, JSON_ENCODE_ANY);
    assert_string_equal(text, "7");
    free(text);
    json_decref(v);
    json_decref(one);
}

const struct CMUnitTest json_edge_tests[] = {
    cmocka_unit_test(test_unquote),   cmocka_unit_test(test_places),
    cmocka_unit_test(test_cut_places), cmocka_unit_test(test_cut_names),
    cmocka_unit_test(test_most),      cmocka_unit_test(test_bounds),
    cmocka_unit_test(test_members),   cmocka_unit_test(test_numbers),
    cmocka_unit_test(test_written),    cmocka_unit_test(test_dumps),
};
const size_t n_json_edge_tests = sizeof json_edge_tests / sizeof json_edge_tests[0];
