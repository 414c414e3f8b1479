/* SPDX-License-Identifier: BSD-2-Clause */
/* What is done faster than by the general way gives what the general way gives. */
#include "text_test.h"

#include <utf8proc.h>

#include "text/tokenizer.h"
#include "text/token_class.h"
#include "text/utf8.h"

static uint32_t next(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

/* Random text of few kinds of characters, so that runs and their ends meet. */
static size_t random_text(uint32_t *seed, const uint32_t *from, size_t n_from, char *text, size_t n)
{
    size_t size = 0;

    for (size_t i = 0; i < n; i++)
        size += qsae__utf8_put(from[next(seed) % n_from], text + size);
    return size;
}

#define END_ANY "(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
#define END_BOTH "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|"
#define REST(digits) \
    "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|" \
    "\\s+(?!\\S)|\\s+"
#define MARKED \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" \
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

static const char *const known[] = {
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
    END_ANY REST("\\p{N}{1,3}"), END_BOTH REST("\\p{N}{1,3}"), END_ANY REST("\\p{N}"),
    END_BOTH REST("\\p{N}"), END_ANY MARKED, END_BOTH MARKED,
};

static void read_split(qsae__pretokenizer *p, const char *before, const char *regex,
                       const char *after)
{
    char text[512];
    json_t *json;

    snprintf(text, sizeof text, "%s%s%s", before, regex, after);
    json = json_pack("{sss{ss}ss}", "type", "Split", "pattern", "Regex", text, "behavior",
                     "Isolated");
    assert_non_null(json);
    memset(p, 0, sizeof *p);
    p->ctx = test_ctx;
    assert_int_equal(qsae__pretokenizer_read(p, json, "test"), QSAE_OK);
    json_decref(json);
}

/* A well-known expression, and the same in parentheses, which is not known. */
static void test_words(void **state)
{
    static const uint32_t from[] = {
        'a', 'Z', 's', 'S', 't', 'l', 'L', 'r', 'e', 'v', 'm', 'd', '\'', '\'', '0', '7', ' ', ' ',
        '\n', '\r', '\t', 0x0b, 0x1c, 0x7f, 0, '!', '_', '[', '`', '{', '@', 0xe9, 0x301, 0xa0,
        0x17f, 0x660, 0x4e00, 0x1f600,
    };
    const size_t n_from = sizeof from / sizeof *from;
    uint32_t seed = 1;

    (void)state;
    for (size_t k = 0; k < sizeof known / sizeof *known; k++) {
        qsae__pretokenizer fast, slow;
        qsae__pieces a, b;
        read_split(&fast, "", known[k], "");
        read_split(&slow, "(?:", known[k], ")");
        qsae__pieces_init(&a, test_ctx);
        qsae__pieces_init(&b, test_ctx);
        for (int i = 0; i < 20000; i++) {
            char text[256];
            /* ASCII alone, or with others */
            const size_t size = random_text(&seed, from, i % 2 ? n_from : n_from - 7, text,
                                            1 + next(&seed) % 24);
            assert_int_equal(qsae__pretokenize(&fast, text, size, true, &a), QSAE_OK);
            assert_int_equal(qsae__pretokenize(&slow, text, size, true, &b), QSAE_OK);
            if (a.count != b.count ||
                memcmp(a.spans, b.spans, (size_t)a.count * sizeof *a.spans) != 0)
                fail_msg("expression %zu: \"%.*s\" is cut in another way", k, (int)size, text);
        }
        qsae__pieces_free(&a);
        qsae__pieces_free(&b);
        qsae__pretokenizer_free(&fast);
        qsae__pretokenizer_free(&slow);
    }
}

/* Normal forms by parts and of the whole text; characters of Unicode 9. */
static void test_forms(void **state)
{
    static const struct {
        const char *name;
        utf8proc_option_t options;
    } forms[] = {
        { "NFC", UTF8PROC_STABLE | UTF8PROC_COMPOSE },
        { "NFD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE },
        { "NFKC", UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT },
        { "NFKD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT },
    };
    static const uint32_t from[] = {
        'a', 'e', ' ', 'A', '<', 0x300, 0x301, 0x323, 0x307, 0x338, 0xe9, 0x1e69, 0xac00, 0x1100,
        0x1161, 0x11a8, 0x212b, 0x2126, 0x374, 0x37e, 0x387, 0x3099, 0x304b, 0x30cf, 0x309a, 0x958,
        0x915, 0x93c, 0xfb01, 0xff76, 0xff9e, 0x2adc, 0x2329, 0x2000, 0x9c7, 0x9be, 0x1f600,
    };
    uint32_t seed = 2;

    (void)state;
    for (size_t f = 0; f < 4; f++) {
        json_t *json = json_pack("{ss}", "type", forms[f].name);
        qsae__normalizer n = { .ctx = test_ctx };
        qsae__strbuf buffers[2];
        qsae__strbuf_init(&buffers[0], test_ctx);
        qsae__strbuf_init(&buffers[1], test_ctx);
        assert_int_equal(qsae__normalizer_read(&n, json, "test"), QSAE_OK);
        for (int i = 0; i < 50000; i++) {
            char text[256];
            const char *got;
            size_t got_size;
            bool cut;
            utf8proc_uint8_t *expected = NULL;
            uint32_t any[12];
            size_t size;
            for (int k = 0; k < 12; k++) /* one in four is any character */
                do
                    any[k] = next(&seed) % 4 ? from[next(&seed) % (sizeof from / sizeof *from)]
                                             : next(&seed) % 0x30000;
                while ((any[k] >= 0xd800 && any[k] < 0xe000) || qsae__is_young(any[k]));
            size = random_text(&seed, any, 12, text, 1 + next(&seed) % 16);
            const utf8proc_ssize_t e = utf8proc_map((const utf8proc_uint8_t *)text,
                                                    (utf8proc_ssize_t)size, &expected,
                                                    forms[f].options);
            assert_true(e >= 0);
            assert_int_equal(qsae__normalize(&n, text, size, buffers, &got, &got_size, &cut),
                             QSAE_OK);
            if (got_size != (size_t)e || memcmp(got, expected, got_size) != 0)
                fail_msg("%s of \"%.*s\" is \"%.*s\"", forms[f].name, (int)size, text,
                         (int)got_size, got);
            free(expected);
        }
        qsae__strbuf_free(&buffers[0]);
        qsae__strbuf_free(&buffers[1]);
        qsae__normalizer_free(&n);
        json_decref(json);
    }
}

/* What a token looks like: the first rule of methods.md section 8 that holds. */
static void test_token_classes(void **state)
{
    (void)state;
    static const struct {
        const char *text, *class;
    } cases[] = {
        { " ", "whitespace" },      { "\n\n", "whitespace" },   { " \t ", "whitespace" },
        { "\u3000", "whitespace" }, { "7", "numeral" },         { " 2024", "numeral" },
        { "\u0663", "numeral" },    { "\u00bd", "numeral" },    { ".", "punctuation" },
        { " --", "punctuation" },   { "\u300c", "punctuation" }, { "\u20ac", "punctuation" },
        { "();", "code_symbol" },   { " ->", "code_symbol" },   { "\u0416", "non_latin" },
        { " \u4e2d1", "non_latin" }, { "a\u03b1", "non_latin" }, { "x86", "numeral_mixed" },
        { "-1", "numeral_mixed" },  { " word", "word" },        { "don't", "word" },
        { "\u00e9", "word" },       { "a b", "word" },          { "\u0301", "other" },
        { "", "other" },            { "\xc3", "other" },        { "\x01", "other" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const int32_t c = qsae__token_class(cases[i].text, strlen(cases[i].text));
        if (strcmp(qsae__token_class_name(c), cases[i].class) != 0)
            fail_msg("\"%s\": expected %s, found %s", cases[i].text, cases[i].class,
                     qsae__token_class_name(c));
    }
}

const struct CMUnitTest shortcut_tests[] = {
    cmocka_unit_test(test_token_classes),
    cmocka_unit_test(test_words),
    cmocka_unit_test(test_forms),
};
const size_t n_shortcut_tests = sizeof shortcut_tests / sizeof *shortcut_tests;
