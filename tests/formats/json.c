/* SPDX-License-Identifier: BSD-2-Clause */
#include "formats_test.h"

static void refused(const char *text, size_t size, const char *part)
{
    json_t *v = NULL;

    if (qsae__json_parse(text, size, "a.json", &v) != QSAE_EFORMAT)
        fail_msg("accepted: %.60s", text);
    assert_null(v);
    if (strstr(qsae_error_message(), part) == NULL ||
        strstr(qsae_error_message(), "a.json") == NULL) fail_msg("expected \"%s\" in \"%s\"", part,
                                                                 qsae_error_message());
}

static void test_json_strict(void **state)
{
    char deep[400];

    (void)state;
    refused("", 0, "a.json:");
    refused("{\"a\":1,\"a\":2}", 13, "duplicate");
    refused("{\"a\":}", 6, ":1:");
    refused("{\"a\"::1}", 8, ":1:");
    refused("[1,]", 4, ":1:");
    refused("[1]x", 4, ":1:");
    refused("[1]\0", 4, ":1:");
    refused("\n\n{\"a\" 1}", 10, ":3:");
    refused("[\"\xff\"]", 5, "UTF-8");
    refused("[\"\xc0\x80\"]", 6, "UTF-8");
    refused("[\"\\ud800\"]", 10, ":1:");
    refused("[\"\\u0000\"]", 10, "U+0000");
    refused("[NaN]", 5, ":1:");
    refused("[1e999]", 7, ":1:");
    refused("[99999999999999999999]", 22, "integer");
    refused("['a']", 5, ":1:");
    refused("[1 // c\n]", 9, ":1:");
    memset(deep, '[', sizeof deep);
    refused(deep, sizeof deep, "deeper");
    memset(deep, '[', 65);
    memset(deep + 65, ']', 65);
    refused(deep, 130, "deeper");
}

static void test_json_accepted(void **state)
{
    char deep[128], quoted[256];
    json_t *v = NULL;

    (void)state;
    memset(deep, '[', 64);
    memset(deep + 64, ']', 64);
    assert_int_equal(qsae__json_parse(deep, 128, "a", &v), QSAE_OK);
    json_decref(v);
    /* Brackets in strings do not count, nor do escaped quotes end them. */
    memset(quoted, '{', sizeof quoted);
    memcpy(quoted, "[\"\\\"", 4);
    memcpy(quoted + sizeof quoted - 2, "\"]", 2);
    assert_int_equal(qsae__json_parse(quoted, sizeof quoted, "a", &v), QSAE_OK);
    json_decref(v);
    assert_int_equal(qsae__json_parse_with("[\"a\\u0000b\"]", 12, "a", QSAE__JSON_NUL, &v),
                     QSAE_OK);
    assert_int_equal(json_string_length(json_array_get(v, 0)), 3);
    json_decref(v);
    assert_int_equal(qsae__json_parse_with("[1000000000000000019884624838656]", 33, "a",
                                           QSAE__JSON_REALS, &v), QSAE_OK);
    assert_true(json_real_value(json_array_get(v, 0)) == 1e30);
    json_decref(v);
}

static void test_json_access(void **state)
{
    static const char text[] = "{\"i\": 7, \"f\": 2.5, \"b\": true, \"s\": \"x\", \"n\": null, "
        "\"o\": {}}";
    json_t *v = NULL;
    const json_t *o = NULL;
    int64_t i = 1;
    double f = 0;
    bool b = false;
    const char *s = NULL;
    int32_t present = 9;

    (void)state;
    assert_int_equal(qsae__json_parse(text, sizeof text - 1, "c", &v), QSAE_OK);
    assert_int_equal(qsae__json_i64(v, "c", "i", true, 0, 7, &i, &present), QSAE_OK);
    assert_int_equal(i, 7);
    assert_int_equal(present, 1);
    assert_int_equal(qsae__json_i64(v, "c", "i", true, 8, 9, &i, NULL), QSAE_EFORMAT);
    assert_non_null(strstr(qsae_error_message(), "\"i\": expected integer 8 to 9, found 7"));
    assert_int_equal(qsae__json_i64(v, "c", "f", false, 0, 9, &i, &present), QSAE_EFORMAT);
    assert_int_equal(present, 0);
    assert_int_equal(qsae__json_i64(v, "c", "n", false, 0, 9, &i, &present), QSAE_OK);
    assert_int_equal(present, 0);
    assert_int_equal(i, 7);
    assert_int_equal(qsae__json_i64(v, "c", "n", true, 0, 9, &i, NULL), QSAE_EFORMAT);
    assert_int_equal(qsae__json_i64(v, "c", "zz", true, 0, 9, &i, NULL), QSAE_EFORMAT);
    assert_non_null(strstr(qsae_error_message(), "c: key \"zz\": expected integer, found nothing"));
    assert_int_equal(qsae__json_f64(v, "c", "f", true, &f, NULL), QSAE_OK);
    assert_true(f == 2.5);
    assert_int_equal(qsae__json_f64(v, "c", "i", true, &f, NULL), QSAE_OK);
    assert_true(f == 7.0);
    assert_int_equal(qsae__json_f64(v, "c", "s", true, &f, NULL), QSAE_EFORMAT);
    assert_int_equal(qsae__json_bool(v, "c", "b", true, &b, NULL), QSAE_OK);
    assert_true(b);
    assert_int_equal(qsae__json_bool(v, "c", "i", true, &b, NULL), QSAE_EFORMAT);
    assert_int_equal(qsae__json_str(v, "c", "s", true, &s, NULL), QSAE_OK);
    assert_string_equal(s, "x");
    assert_int_equal(qsae__json_str(v, "c", "o", true, &s, NULL), QSAE_EFORMAT);
    assert_int_equal(qsae__json_get(v, "c", "o", true, JSON_OBJECT, &o), QSAE_OK);
    assert_non_null(o);
    assert_int_equal(qsae__json_get(v, "c", "o", true, JSON_ARRAY, &o), QSAE_EFORMAT);
    assert_int_equal(qsae__json_get(v, "c", "zz", false, JSON_ARRAY, &o), QSAE_OK);
    assert_null(o);
    assert_int_equal(qsae__json_str(json_object_get(v, "i"), "c", "s", false, &s, NULL),
                     QSAE_EFORMAT);
    json_decref(v);
}

static void test_dtypes(void **state)
{
    (void)state;
    for (int32_t d = 1; d < QSAE_DTYPE_COUNT; d++) {
        assert_int_equal(qsae_dtype_from_name(qsae_dtype_name(d)), d);
        assert_true(qsae_dtype_bits(d) > 0);
    }
    assert_string_equal(qsae_dtype_name(0), "?");
    assert_string_equal(qsae_dtype_name(QSAE_DTYPE_COUNT), "?");
    assert_int_equal(qsae_dtype_bits(-1), 0);
    assert_int_equal(qsae_dtype_from_name("f32"), 0);
    assert_int_equal(qsae_dtype_from_name(NULL), 0);
    assert_int_equal(qsae_dtype_bits(QSAE_F4), 4);
}

const struct CMUnitTest json_tests[] = {
    cmocka_unit_test(test_json_strict),
    cmocka_unit_test(test_json_accepted),
    cmocka_unit_test(test_json_access),
    cmocka_unit_test(test_dtypes),
};
const size_t n_json_tests = sizeof json_tests / sizeof *json_tests;
