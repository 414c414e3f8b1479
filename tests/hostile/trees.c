/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * JSON before it is built: the walk takes and refuses the texts that jansson takes and refuses, and
 * what it says a tree takes is no less than what malloc gives for it. Texts written here, then
 * random ones; QSAE_LONG_TESTS=1 for more of them.
 */
#include "formats/walk.h"
#include "heap.h"
#include "support.h"

/* By RFC 8259; y: taken, n: refused, N: taken where U+0000 is. */
static const struct {
    char what;
    const char *text;
    size_t size; /* 0: up to the NUL */
} texts[] = {
    { 'y', "[]", 0 }, { 'y', "{}", 0 }, { 'y', " [ ] \r\n\t", 0 }, { 'y', "null", 0 },
    { 'y', "true", 0 }, { 'y', "false", 0 }, { 'y', "0", 0 }, { 'y', "-0", 0 }, { 'y', "1e5", 0 },
    { 'y', "1E+5", 0 }, { 'y', "-1.5e-7", 0 }, { 'y', "0.0", 0 }, { 'y', "\"\"", 0 },
    { 'y', "[\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\"]", 0 }, { 'y', "[\"\\ud83d\\ude00\"]", 0 },
    { 'y', "[\"\\uDBFF\\uDFFF\"]", 0 }, { 'y', "[\"\x7f\"]", 0 }, { 'y', "[\"\xc3\xa9\"]", 0 },
    { 'y', "[\"\xf0\x9f\x98\x80\"]", 0 }, { 'y', "[\"\xf4\x8f\xbf\xbf\"]", 0 },
    { 'y', "[\"\xef\xbb\xbf\"]", 0 }, { 'y', "{\"\":[],\"a\":{\"\":null}}", 0 },
    { 'y', "[1,[2,{\"a\":[]}],\"b\"]", 0 }, { 'y', "123456789012345678", 0 },
    { 'N', "[\"\\u0000\"]", 0 }, { 'N', "\"a\\u0000b\"", 0 }, { 'n', "{\"\\u0000\":1}", 0 },
    { 'n', "", 0 }, { 'n', " ", 0 }, { 'n', "[", 0 }, { 'n', "]", 0 }, { 'n', "{", 0 },
    { 'n', "}", 0 }, { 'n', "[1", 0 }, { 'n', "[1,", 0 }, { 'n', "[1,]", 0 }, { 'n', "[,1]", 0 },
    { 'n', "[1 2]", 0 }, { 'n', "[1}", 0 }, { 'n', "{]", 0 }, { 'n', "[:]", 0 },
    { 'n', "{\"a\"}", 0 }, { 'n', "{\"a\":}", 0 }, { 'n', "{\"a\"::1}", 0 },
    { 'n', "{\"a\":1,}", 0 },
    { 'n', "{a:1}", 0 }, { 'n', "{1:1}", 0 }, { 'n', "{\"a\" 1}", 0 }, { 'n', "{,}", 0 },
    { 'n', "{\"a\":1 \"b\":2}", 0 }, { 'n', "{\"a\":1:2}", 0 }, { 'n', "[]]", 0 },
    { 'n', "{}}", 0 },
    { 'n', "[][]", 0 }, { 'n', "1 2", 0 }, { 'n', "[]x", 0 }, { 'n', "[] \0", 4 },
    { 'n', "[\0]", 3 }, { 'n', "nul", 0 }, { 'n', "nulll", 0 }, { 'n', "True", 0 },
    { 'n', "NaN", 0 }, { 'n', "-Infinity", 0 }, { 'n', "+1", 0 }, { 'n', "01", 0 },
    { 'n', "-01", 0 }, { 'n', "-", 0 }, { 'n', ".5", 0 }, { 'n', "1.", 0 }, { 'n', "1.e1", 0 },
    { 'n', "1e", 0 }, { 'n', "1e+", 0 }, { 'n', "0x10", 0 }, { 'n', "1a", 0 }, { 'n', "- 1", 0 },
    { 'n', "1_0", 0 }, { 'n', "\xef\xbc\x91", 0 }, { 'n', "'a'", 0 }, { 'n', "\"", 0 },
    { 'n', "\"a", 0 }, { 'n', "\"\\\"", 0 }, { 'n', "\"\\", 0 }, { 'n', "\"\\a\"", 0 },
    { 'n', "\"\\U0041\"", 0 }, { 'n', "\"\\u004\"", 0 }, { 'n', "\"\\u004g\"", 0 },
    { 'n', "\"\\u\"", 0 }, { 'n', "\"\\x41\"", 0 }, { 'n', "\"\n\"", 0 }, { 'n', "\"\t\"", 0 },
    { 'n', "\"\x1f\"", 0 }, { 'n', "\"\0\"", 3 }, { 'n', "\"\\\0\"", 4 }, { 'n', "\"\\ud800\"", 0 },
    { 'n', "\"\\udc00\"", 0 }, { 'n', "\"\\ud800\\ud800\"", 0 }, { 'n', "\"\\ud800x\"", 0 },
    { 'n', "\"\\ud800\\u0041\"", 0 }, { 'n', "\"\\ud83d\\n\"", 0 }, { 'n', "\"\xff\"", 0 },
    { 'n', "\"\x80\"", 0 }, { 'n', "\"\xc0\x80\"", 0 }, { 'n', "\"\xc1\xbf\"", 0 },
    { 'n', "\"\xe0\x80\x80\"", 0 }, { 'n', "\"\xed\xa0\x80\"", 0 }, { 'n', "\"\xc3\"", 0 },
    { 'n', "\"\xe2\x82\"", 0 }, { 'n', "\"\xf0\x9f\x98\"", 0 }, { 'n', "\"\xf4\x90\x80\x80\"", 0 },
    { 'n', "\"\xf0\x8f\xbf\xbf\"", 0 }, { 'n', "\"\xf8\x88\x80\x80\x80\"", 0 },
    { 'n', "\xef\xbb\xbf[]", 0 }, { 'n', "[]\xc2\xa0", 0 }, { 'n', "[]\x0c", 0 },
    { 'n', "[1 // c\n]", 0 }, { 'n', "/* */[]", 0 }, { 'n', "# c\n[]", 0 }, { 'n', "(1)", 0 },
};

/* What jansson says; the size of numbers is not the walk's to see. */
static bool jansson_takes(const char *text, size_t size, size_t flags, bool *number, size_t *heap)
{
    json_error_t error;
    heap_start();
    json_t *const v = json_loadb(text, size, JSON_DECODE_ANY | flags, &error);
    *heap = heap_peak();
    *number = !v && json_error_code(&error) == json_error_numeric_overflow;
    json_decref(v);
    return v != NULL;
}

/* Compares both on one text; *taken: what they say. False: the text is too deep for the walk. */
static bool compare(const char *text, size_t size, unsigned flags, bool *taken)
{
    qsae__walk w;
    bool number;
    size_t heap;

    *taken = jansson_takes(text, size, flags & QSAE__JSON_NUL ? JSON_ALLOW_NUL : 0, &number, &heap);
    qsae__json_walk(text, size, flags, UINT64_MAX, NULL, 0, &w);
    if (w.too_deep)
        return false;
    if (*taken != (w.wrong == NULL) && !number)
        fail_msg("jansson %s what the walk %s (%s at %zu): %.*s", *taken ? "takes" : "refuses",
                 w.wrong ? "refuses" : "takes", w.wrong ? w.wrong : "", (size_t)(w.at - text),
                 (int)size, text);
    /* A token's buffer doubles, and its old one is there while it is copied. And malloc hands out a
     * block whole where what would be left of it is too small for another one. */
    const uint64_t most = w.tree + w.tree / 64 + 4 * (uint64_t)w.longest + 256;
    if (heap_counts_all() && heap > most)
        fail_msg("a tree of %zu bytes, expected at most %llu, for %zu: %.*s", heap,
                 (unsigned long long)most, size, (int)(size < 200 ? size : 200), text);
    return true;
}

static void test_texts(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        const size_t size = texts[i].size ? texts[i].size : strlen(texts[i].text);
        bool taken;
        assert_true(compare(texts[i].text, size, 0, &taken));
        assert_int_equal(taken, texts[i].what == 'y');
        assert_true(compare(texts[i].text, size, QSAE__JSON_NUL, &taken));
        assert_int_equal(taken, texts[i].what != 'n');
        assert_int_equal(qsae__json_check(texts[i].text, size, "x"),
                         texts[i].what == 'y' ? QSAE_OK : QSAE_EFORMAT);
    }
}

static uint64_t seed = 1;
static uint32_t below(uint32_t n)
{
    seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (uint32_t)(seed >> 33) % n;
}

struct made {
    char text[1 << 13];
    size_t n;
};

static void add(struct made *m, const char *part)
{
    const size_t n = strlen(part);
    if (m->n + n < sizeof m->text) {
        memcpy(m->text + m->n, part, n);
        m->n += n;
    }
}

/* Names are all different: jansson is not asked about those that are not. */
static void add_value(struct made *m, int depth, int *name)
{
    static const char *const scalars[] = { "null", "true", "0", "-1.5e3", "\"\"", "\"a\\u00e9\\n\"",
        "\"\xe2\x82\xac\"", "12345678", "\"a string that is longer than most others are\"", "[]",
        "{}" };
    char text[32];
    if (depth == 0 || below(3) == 0) {
        add(m, scalars[below(sizeof scalars / sizeof scalars[0])]);
        return;
    }
    const bool object = below(2);
    const uint32_t n = below(below(8) ? 6 : 70);
    add(m, object ? "{" : "[");
    for (uint32_t i = 0; i < n; i++) {
        snprintf(text, sizeof text, "%s\"%x\":", i ? "," : "", (unsigned)(*name)++);
        add(m, object ? text : i ? "," : "");
        add_value(m, depth - 1, name);
    }
    add(m, object ? "}" : "]");
}

/* Random documents, then with bytes changed, left out and doubled. */
static void test_random(void **state)
{
    static const char odd[] = "[]{}:,\"\\u0ed89.-+e tfn\x80\xc3\xed\xf0\n";
    static struct made m, changed;
    const int n = full_length() ? 100000 : 600;
    int64_t taken[2] = { 0, 0 };

    (void)state;
    for (int i = 0; i < n; i++) {
        bool yes;
        int name = 0;
        m.n = 0;
        add_value(&m, 1 + (int)below(5), &name);
        (void)compare(m.text, m.n, below(2), &yes);
        for (int k = 0; k < 4 && m.n < 4096; k++) {
            memcpy(changed.text, m.text, m.n);
            for (uint32_t changes = 1 + below(3); changes > 0 && m.n > 0; changes--)
                changed.text[below((uint32_t)m.n)] = odd[below(sizeof odd - 1)];
            (void)compare(changed.text, below(8) ? m.n : below((uint32_t)m.n + 1), below(2), &yes);
            taken[yes]++;
        }
    }
    assert_true(taken[0] > n && taken[1] > n / 8); /* both happen */
}

/* The shapes that take most for their bytes, and each one's size at which a table has just
 * grown. */
static void test_dense(void **state)
{
    static const char *const parts[][3] = {
        { "[", "[]", "]" }, { "[", "{}", "]" }, { "[", "0", "]" }, { "[", "\"\"", "]" },
        { "[", "[0]", "]" }, { "[", "null", "]" }, { "[", "{\"a\":0}", "]" },
    };
    static struct made m;
    bool taken;

    (void)state;
    for (size_t p = 0; p < sizeof parts / sizeof parts[0]; p++)
        for (int n = 7; n < 900; n = n % 2 ? n + 2 : n % 8 ? n * 2 - 1 : n + 1) {
            m.n = 0;
            for (int i = 0; i < n; i++) {
                add(&m, i ? "," : parts[p][0]);
                add(&m, parts[p][1]);
            }
            add(&m, parts[p][2]);
            assert_true(compare(m.text, m.n, 0, &taken));
            assert_true(taken);
        }
}

/* Values cut out: the rest is as it was, lines included. */
static void test_cuts(void **state)
{
    static const char text[] = "{\"a\":1,\"mod\\u0065l\":{\"x\":[1,\n2],"
                               "\"vocab\":{\"b\":\n[3]},\"y\":4},\n"
                               "\"vocab\":5,\"list\":[\n\n]\n,\"z\":[{\"vocab\":6}]}";
    qsae__cut cuts[] = { { .outer = "model", .inner = "vocab" }, { .outer = "list" },
                         { .outer = "none" } };
    json_t *v = NULL;

    (void)state;
    assert_ok(qsae__json_parse_cut(text, sizeof text - 1, "t", 0, cuts, 3, &v));
    assert_int_equal(cuts[0].size, 10);
    assert_memory_equal(cuts[0].text, "{\"b\":\n[3]}", 10);
    assert_int_equal(cuts[1].size, 4);
    assert_memory_equal(cuts[1].text, "[\n\n]", 4);
    assert_null(cuts[2].text);
    char *const rest = json_dumps(v, JSON_COMPACT);
    assert_string_equal(rest, "{\"a\":1,\"model\":{\"x\":[1,2],\"vocab\":null,\"y\":4},\"vocab\":5,"
                              "\"list\":null,\"z\":[{\"vocab\":6}]}");
    free(rest);
    json_decref(v);
    /* Wrong behind a cut, in one, and twice. */
    static const char *const bad[][2] = {
        { "{\"list\":[\n1\n],\n\"a\":]}", "t:4:" },
        { "{\"list\":[\n1\n,\n}", "t:4:" },
        { "{\"list\":[\n1],\"list\":[2]}", "duplicate" },
        { "{\"list\":[\n\"\xff\"]}", "t:2: not UTF-8" },
        { "{\"list\":[1]", "t:1:" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_fails(qsae__json_parse_cut(bad[i][0], strlen(bad[i][0]), "t", 0, cuts, 3, &v),
                     QSAE_EFORMAT, bad[i][1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_dense),
        cmocka_unit_test(test_cuts),
    };
    return cmocka_run_group_tests_name("trees", tests, NULL, NULL);
}
