/* SPDX-License-Identifier: BSD-2-Clause */
#include "formats_test.h"

#include "formats/yaml.h"

static void refused(const char *text, int32_t status, const char *part)
{
    json_t *v = (json_t *)text;
    const int32_t got = qsae__yaml_parse(text, strlen(text), "a.yaml", &v);

    if (got != status)
        fail_msg("\"%s\": expected %s, found %s", text, qsae_status_name(status),
                 qsae_status_name(got));
    assert_null(v);
    if (strstr(qsae_error_message(), part) == NULL ||
        strstr(qsae_error_message(), "a.yaml") == NULL)
        fail_msg("\"%s\": expected \"%s\" in \"%s\"", text, part, qsae_error_message());
}

static json_t *parse(const char *text)
{
    json_t *v = NULL;

    if (qsae__yaml_parse(text, strlen(text), "a.yaml", &v) != QSAE_OK)
        fail_msg("\"%s\": %s", text, qsae_error_message());
    return v;
}

/* The whole document as compact JSON, keys in the order of the file. */
static void equals(const char *text, const char *json)
{
    json_t *const v = parse(text);
    char *const found = json_dumps(v, JSON_COMPACT);

    assert_non_null(found);
    if (strcmp(found, json) != 0)
        fail_msg("\"%s\": expected %s, found %s", text, json, found);
    free(found);
    json_decref(v);
}

static void test_scalars(void **state)
{
    static const struct {
        const char *value, *json;
    } list[] = {
        { "", "null" }, { "~", "null" }, { "null", "null" }, { "Null", "null" }, { "NULL", "null" },
        { "nULL", "\"nULL\"" },
        { "true", "true" }, { "True", "true" }, { "TRUE", "true" }, { "yes", "true" },
        { "Yes", "true" }, { "on", "true" }, { "On", "true" },
        { "false", "false" }, { "False", "false" }, { "FALSE", "false" }, { "no", "false" },
        { "No", "false" }, { "off", "false" }, { "Off", "false" },
        { "7", "7" }, { "-7", "-7" }, { "+7", "7" }, { "007", "7" }, { "-0", "0" },
        { "9223372036854775807", "9223372036854775807" },
        { "-9223372036854775808", "-9223372036854775808" },
        { "9223372036854775808", "9.2233720368547758e18" },
        { "2.5", "2.5" }, { ".5", "0.5" }, { "-.5", "\"-.5\"" }, { "1e3", "1000.0" },
        { "1e999", "\"1e999\"" }, { "0x10", "\"0x10\"" }, { "0X10", "\"0X10\"" },
        { "0x1p3", "\"0x1p3\"" }, { "1a", "\"1a\"" }, { "-", "\"-\"" }, { "+a", "\"+a\"" },
        { ".a", "\".a\"" }, { "1.5.2", "\"1.5.2\"" }, { "nan", "\"nan\"" },
        { "\"a b\"", "\"a b\"" }, { "'it''s'", "\"it's\"" }, { "''", "\"\"" }, { "\"\"", "\"\"" },
        { "\"\\n\\t\\\"\\\\\\/\"", "\"\\n\\t\\\"\\\\/\"" }, { "'\\n'", "\"\\\\n\"" },
        { "a # b", "\"a\"" }, { "a#b", "\"a#b\"" }, { "a\t# b", "\"a\"" }, { "'#' # b", "\"#\"" },
        { "\"a\\\"#\" # b", "\"a\\\"#\"" }, { "it's # b", "\"it's\"" }, { "a \t \r", "\"a\"" },
        { "[]", "null" }, { "[1, 2]", "null" }, { "{}", "null" }, { "a: b", "\"a: b\"" },
        { "[ '#' ]", "null" }, { "h\xc3\xa9", "\"h\xc3\xa9\"" },
    };
    char text[256], json[256];

    (void)state;
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        snprintf(text, sizeof text, "k: %s\n", list[i].value);
        snprintf(json, sizeof json, "{\"k\":%s}", list[i].json);
        equals(text, json);
    }
}

static void test_maps(void **state)
{
    (void)state;
    equals("", "{}");
    equals("# nothing\n\n---\n%YAML 1.1\n", "{}");
    equals("a: 1\nb: 2", "{\"a\":1,\"b\":2}");
    equals("a:\n  b: 1\n  c:\n    d: 2\ne: 3\n", "{\"a\":{\"b\":1,\"c\":{\"d\":2}},\"e\":3}");
    equals("  a: 1\n  b: 2\n", "{\"a\":1,\"b\":2}");
    equals("a:\nb: 1\n", "{\"a\":null,\"b\":1}");
    equals("\"a b\" : 1\n'c'\t:\t2\nd e  : 3\nf\t: 4\n",
           "{\"a b\":1,\"c\":2,\"d e\":3,\"f\":4}");
    equals("a:b: 1\nc:\td\n\"e\":\n", "{\"a:b\":1,\"c\":\"d\",\"e\":null}");
    /* lists are read over, with whatever lies deeper */
    equals("a:\n- 1\n-\n  - 2\n  x: 3\nb: 4\n", "{\"a\":null,\"b\":4}");
    equals("a:\n  - x: 1\n    y: 2\n  - z\nb: 4\n", "{\"a\":null,\"b\":4}");
    equals("m:\n  a:\n  - 1\n  b: 2\n", "{\"m\":{\"a\":null,\"b\":2}}");
    equals("-a: 1\n", "{\"-a\":1}");
    equals("a:\n  ---: 1\n", "{\"a\":{\"---\":1}}");
    equals("a:\n  b: 1\n\n  # more\n  c: 2\n", "{\"a\":{\"b\":1,\"c\":2}}");
}

static void test_refusals(void **state)
{
    static const struct {
        const char *text;
        int32_t status;
        const char *part;
    } bad[] = {
        { "a", QSAE_EFORMAT, "line 1: expected \"key: value\"" },
        { "a:b", QSAE_EFORMAT, "key: value" },
        { ": 1", QSAE_EFORMAT, "key: value" },
        { "\n\"a\"", QSAE_EFORMAT, "line 2: expected \"key: value\"" },
        { "\"a\" 1", QSAE_EFORMAT, "key: value" },
        { "\"a\":1", QSAE_EFORMAT, "key: value" },
        { "\"a: 1", QSAE_EFORMAT, "key: value" },
        { "'a\": 1", QSAE_EFORMAT, "key: value" },
        { "\"\\x\": 1", QSAE_EFORMAT, "key: value" },
        { "\"\\", QSAE_EFORMAT, "key: value" },
        { "? a: 1", QSAE_EFORMAT, "key: value" },
        { "&x a: 1", QSAE_EFORMAT, "key: value" },
        { "a: 1\na: 2", QSAE_EFORMAT, "line 2: a key that occurs twice" },
        { "a: \"b", QSAE_EFORMAT, "does not end with the line" },
        { "a: \"b\" c", QSAE_EFORMAT, "does not end with the line" },
        { "a: 'b\" c", QSAE_EFORMAT, "does not end with the line" },
        { "a: \"\\q\"", QSAE_EFORMAT, "does not end with the line" },
        { "a: [1,\n2]", QSAE_EUNSUPPORTED, "a list over several lines" },
        { "a: {b: 1}", QSAE_EUNSUPPORTED, "flow maps" },
        { "a: |", QSAE_EUNSUPPORTED, "block scalars" },
        { "a: >", QSAE_EUNSUPPORTED, "block scalars" },
        { "a: &b", QSAE_EUNSUPPORTED, "anchors" },
        { "a: *b", QSAE_EUNSUPPORTED, "aliases" },
        { "a: !b", QSAE_EUNSUPPORTED, "tags" },
        { "a: %b", QSAE_EUNSUPPORTED, "tags" },
        { "a: @b", QSAE_EUNSUPPORTED, "tags" },
        { "a: `b", QSAE_EUNSUPPORTED, "tags" },
        { "a: \xff", QSAE_EFORMAT, "expected UTF-8" },
        { "a: \"\xff\"", QSAE_EFORMAT, "expected UTF-8" },
        { "\xff: 1", QSAE_EFORMAT, "expected UTF-8" },
        { "\ta: 1", QSAE_EFORMAT, "a tab in the indentation" },
        { "a: 1\n  b: 2", QSAE_EFORMAT, "line 2: indentation that fits no map" },
        { "a:\n    b: 1\n  c: 2", QSAE_EFORMAT, "line 3: indentation that fits no map" },
        { "  a: 1\nb: 2", QSAE_EFORMAT, "line 2: indentation that fits no map" },
        { "- 1", QSAE_EFORMAT, "a list where a key is expected" },
        { "a: 1\n- 1", QSAE_EFORMAT, "a list where a key is expected" },
        { "m:\n  a:\n- 1\n", QSAE_EFORMAT, "line 3: a list where a key is expected" },
    };
    json_t *v = NULL;

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        refused(bad[i].text, bad[i].status, bad[i].part);
    assert_int_equal(qsae__yaml_parse("a: 1\0b", 6, "a.yaml", &v), QSAE_EFORMAT);
    assert_non_null(strstr(qsae_error_message(), "not YAML"));
}

/* Sixteen maps in each other are read, one more is not; lines of 4,095 bytes, 4,096; 1 MiB. */
static void test_limits(void **state)
{
    char *const text = malloc((1 << 20) + 2);
    json_t *v = NULL;

    (void)state;
    assert_non_null(text);
    for (int depth = 15; depth <= 16; depth++) {
        char *p = text;
        for (int i = 0; i <= depth; i++)
            p += sprintf(p, "%*sk:%s\n", i, "", i == depth ? " 1" : "");
        if (depth == 15) {
            json_decref(parse(text));
        } else {
            refused(text, QSAE_EFORMAT, "line 17: maps are nested too deeply");
        }
    }
    memset(text, 'x', 4096);
    memcpy(text, "k: ", 3);
    strcpy(text + 4095, "\nl: 1\n");
    v = parse(text);
    assert_int_equal(strlen(json_string_value(json_object_get(v, "k"))), 4092);
    json_decref(v);
    strcpy(text + 4095, "x\n");
    refused(text, QSAE_EFORMAT, "line 1: a line that is too long");
    for (int i = 0; i < 1 << 20; i++)
        text[i] = i % 128 == 127 ? '\n' : '#';
    text[1 << 20] = '\n';
    assert_int_equal(qsae__yaml_parse(text, 1 << 20, "a.yaml", &v), QSAE_OK);
    json_decref(v);
    assert_int_equal(qsae__yaml_parse(text, (1 << 20) + 1, "a.yaml", &v), QSAE_EFORMAT);
    assert_non_null(strstr(qsae_error_message(), "larger than 1048576 bytes"));
    free(text);
}

/* Values take no more than seven bytes per byte and 768 KiB: with more comments behind them more
 * fit, until all do. Both a key and the map that is opened for the line behind it may be too much.
 */
static void test_memory(void **state)
{
    enum { PAIRS = 1480 };
    char *const text = malloc(64 * PAIRS), *p = text;
    bool seen[2] = { false, false };
    long before = 0;

    (void)state;
    assert_non_null(text);
    for (int i = 0; i < PAIRS; i++)
        p += sprintf(p, "k%04d:\n a: 1\n", i);
    const size_t lines = (size_t)(p - text);
    memset(p, '#', 64 * PAIRS - lines);
    for (size_t pad = 0; pad < 8000; pad += 3) {
        json_t *v = NULL;
        const size_t n = lines + pad;
        for (size_t i = 0; i < pad; i++) /* no line is too long */
            p[i] = i % 4000 == 3999 ? '\n' : '#';
        if (qsae__yaml_parse(text, n, "a.yaml", &v) == QSAE_OK) {
            assert_true(before > 2 * PAIRS - 2);
            assert_int_equal(json_object_size(v), PAIRS);
            json_decref(v);
            break;
        }
        const char *const found = strstr(qsae_error_message(), "line ");
        assert_non_null(found);
        const long line = strtol(found + 5, NULL, 10);
        assert_non_null(strstr(found, "expected values that fit into 7 bytes per byte and 786432"));
        assert_true(line >= before && line <= before + 1 + 2 * PAIRS * (pad == 0));
        seen[line % 2] = true;
        before = line;
    }
    assert_true(seen[0] && seen[1] && before == 2 * PAIRS);
    free(text);
}

static void test_load(void **state)
{
    json_t *v = NULL;

    (void)state;
    test_write("a.yaml", "a: 1\n", 5);
    assert_int_equal(qsae__yaml_load(test_contexts[0], test_path("a.yaml"), &v), QSAE_OK);
    assert_int_equal(json_integer_value(json_object_get(v, "a")), 1);
    json_decref(v);
    assert_int_equal(qsae__yaml_load(test_contexts[0], test_path("none.yaml"), &v), QSAE_ENOENT);
    assert_null(v);
    assert_non_null(strstr(qsae_error_message(), "none.yaml"));
    test_write("a.yaml", "a", 1);
    assert_int_equal(qsae__yaml_load(test_contexts[1], test_path("a.yaml"), &v), QSAE_EFORMAT);
    assert_null(v);
}

const struct CMUnitTest yaml_tests[] = {
    cmocka_unit_test(test_scalars), cmocka_unit_test(test_maps), cmocka_unit_test(test_refusals),
    cmocka_unit_test(test_limits),  cmocka_unit_test(test_memory), cmocka_unit_test(test_load),
};
const size_t n_yaml_tests = sizeof yaml_tests / sizeof yaml_tests[0];
