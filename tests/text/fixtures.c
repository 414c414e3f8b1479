/* SPDX-License-Identifier: BSD-2-Clause */
/* tests/data/tokenizers against the ids of the tokenizers package and of llama.cpp. */
#include "text_test.h"

#define FOLDER QSAE_TEST_DATA "/tokenizers"

static void check_ids(const char *file, const qsae_tokenizer *t, const json_t *text,
                      const json_t *expected, int32_t special)
{
    int32_t ids[4096];
    int64_t n = 0;

    if (qsae_tokenizer_encode(t, json_string_value(text), json_string_length(text), special, ids,
                              4096, &n) != QSAE_OK)
        fail_msg("%s: \"%s\": %s", file, json_string_value(text), qsae_error_message());
    if (n != (int64_t)json_array_size(expected))
        fail_msg("%s: \"%s\": %lld ids, expected %zu", file, json_string_value(text), (long long)n,
                 json_array_size(expected));
    for (int64_t i = 0; i < n; i++)
        if (ids[i] != json_integer_value(json_array_get(expected, (size_t)i)))
            fail_msg("%s: \"%s\": id %lld is %d, expected %lld", file, json_string_value(text),
                     (long long)i, ids[i],
                     (long long)json_integer_value(json_array_get(expected, (size_t)i)));
}

/* One encoder for all texts, which remembers words: the same ids, also where a word comes again. */
static void check_remembered(const char *file, const qsae_tokenizer *t, const json_t *cases)
{
    qsae__encoder e;

    qsae__encoder_init(&e, t);
    assert_int_equal(qsae__bpe_scratch_expect(&e.scratch, 1 << 14), QSAE_OK);
    for (size_t i = 0; i < json_array_size(cases) * 2; i++) {
        const json_t *c = json_array_get(cases, i / 2), *text = json_array_get(c, 0);
        const json_t *expected = json_array_get(c, 1);
        assert_int_equal(qsae__encoder_run(&e, json_string_value(text), json_string_length(text)),
                         QSAE_OK);
        if (e.ids.count != (int64_t)json_array_size(expected))
            fail_msg("%s: \"%s\": other ids from memory", file, json_string_value(text));
        for (int64_t k = 0; k < e.ids.count; k++)
            if (e.ids.data[k] != json_integer_value(json_array_get(expected, (size_t)k)))
                fail_msg("%s: \"%s\": other ids from memory", file, json_string_value(text));
    }
    qsae__encoder_free(&e);
}

static json_t *load_cases(const char *path)
{
    qsae__file *file = NULL;
    json_t *root = NULL;

    assert_int_equal(qsae__file_open(test_ctx, path, &file), QSAE_OK);
    assert_int_equal(qsae__json_parse_with((const char *)file->data, (size_t)file->size, path,
                                           QSAE__JSON_NUL, &root), QSAE_OK);
    qsae__file_close(&file);
    return root;
}

static qsae_tokenizer *open_named(const char *folder, const char *name)
{
    char path[512];
    qsae_tokenizer *t = NULL;

    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (qsae_tokenizer_open(test_ctx, path, &t) != QSAE_OK)
        fail_msg("%s", qsae_error_message());
    return t;
}

static void walk(const char *folder, const char *name)
{
    char path[512];
    json_t *root;
    const json_t *cases;
    qsae_tokenizer *t;

    snprintf(path, sizeof path, "%s/%s", folder, name);
    root = load_cases(path);
    t = open_named(folder, json_string_value(json_object_get(root, "tokenizer")));
    cases = json_object_get(root, "cases");
    assert_true(json_array_size(cases) > 0);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *c = json_array_get(cases, i);
        check_ids(name, t, json_array_get(c, 0), json_array_get(c, 1), 0);
        check_ids(name, t, json_array_get(c, 0), json_array_get(c, 2), 1);
    }
    check_remembered(name, t, cases);
    qsae_tokenizer_close(&t);
    json_decref(root);
}

/* All files of cases in a folder; returns how many there were. */
static int64_t walk_all(const char *folder)
{
    char **names = NULL;
    int64_t n = 0, walked = 0;

    assert_int_equal(qsae__folder_list(test_ctx, folder, &names, &n), QSAE_OK);
    for (int64_t i = 0; i < n; i++)
        if (strstr(names[i], ".tokenizer.json") == NULL && strcmp(names[i], "nul.json") != 0 &&
            strstr(names[i], ".json") != NULL) {
            walk(folder, names[i]);
            walked++;
        }
    qsae__folder_list_free(test_ctx, names, n);
    return walked;
}

static void test_fixtures(void **state)
{
    (void)state;
    assert_true(walk_all(FOLDER) >= 25);
}

static void test_fixtures_gguf(void **state)
{
    (void)state;
    assert_true(walk_all(FOLDER "/gguf") >= 15);
}

static void test_fixtures_nul(void **state)
{
    json_t *root = load_cases(FOLDER "/nul.json");
    const json_t *cases = json_object_get(root, "cases");

    (void)state;
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *c = json_array_get(cases, i);
        qsae_tokenizer *t = open_named(FOLDER, json_string_value(json_array_get(c, 0)));
        check_ids("nul.json", t, json_array_get(c, 1), json_array_get(c, 2), 0);
        check_ids("nul.json", t, json_array_get(c, 1), json_array_get(c, 3), 1);
        qsae_tokenizer_close(&t);
    }
    json_decref(root);
}

const struct CMUnitTest fixture_tests[] = {
    cmocka_unit_test(test_fixtures),
    cmocka_unit_test(test_fixtures_gguf),
    cmocka_unit_test(test_fixtures_nul),
};
const size_t n_fixture_tests = sizeof fixture_tests / sizeof *fixture_tests;
