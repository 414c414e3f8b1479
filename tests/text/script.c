/* SPDX-License-Identifier: BSD-2-Clause */
/* The script of a token's text: Unicode's property Script of the first character that has one. */
#include "../support.h"
#include "text/script.h"

static const struct {
    const char *text, *script;
} cases[] = {
    { "", "common" }, { " 12,3.4", "common" }, { "\n\t", "common" }, { "\xE3\x80\x82", "common" },
    { "a", "latin" }, { " Word", "latin" }, { "2nd", "latin" }, { "\xC3\xA9t\xC3\xA9", "latin" },
    { "\xE1\xBA\xBF", "latin" }, { "\xC2\xAA", "latin" }, { "e\xCC\x81", "latin" },
    { "\xCC\x81", "common" },                       /* a combining accent alone: Inherited */
    { "\xD0\x96", "cyrillic" }, { " \xD0\xBD\xD0\xB5", "cyrillic" }, { "\xCE\xBB", "greek" },
    { "\xC2\xB5", "common" },                       /* micro sign */
    { "\xE6\xBC\xA2\xE5\xAD\x97", "han" }, { "\xE3\x80\x85", "han" },
    { "\xF0\xA0\x80\x80", "han" },                  /* U+20000 */
    { "\xE3\x81\x82", "kana" }, { "\xE3\x82\xA2", "kana" }, { "\xEF\xBD\xB1", "kana" },
    { "\xE3\x83\xBC", "common" },                   /* prolonged sound mark: several scripts */
    { "\xED\x95\x9C", "hangul" }, { "\xE1\x84\x80", "hangul" }, { "\xD8\xB9", "arabic" },
    { "\xD9\xA3", "arabic" },
    { "\xD7\xA9", "hebrew" }, { "\xE0\xA4\x95", "devanagari" }, { "\xE0\xA6\x95", "bengali" },
    { "\xE0\xA8\x95", "gurmukhi" }, { "\xE0\xAA\x95", "gujarati" }, { "\xE0\xAE\x95", "tamil" },
    { "\xE0\xB0\x95", "telugu" }, { "\xE0\xB2\x95", "kannada" }, { "\xE0\xB4\x95", "malayalam" },
    { "\xE0\xB6\x9A", "sinhala" }, { "\xE0\xB8\x81", "thai" }, { "\xE0\xBA\x81", "lao" },
    { "\xE1\x9E\x80", "khmer" }, { "\xE1\x80\x80", "myanmar" }, { "\xE0\xBD\x80", "tibetan" },
    { "\xE1\x83\x90", "georgian" }, { "\xD4\xB1", "armenian" }, { "\xE1\x88\x80", "ethiopic" },
    { "\xE1\x8E\xA0", "other" },                    /* Cherokee */
    { "\xF0\x9F\x98\x80", "common" },               /* an emoji */
    { "\xE6\xBC\xA2 a", "han" }, { "a \xE6\xBC\xA2", "latin" }, /* the first one */
    { "\xE6\xBC", "bytes" }, { "\xFF", "bytes" }, { "a\x80", "bytes" },
    { "\xED\xA0\x80", "bytes" },                    /* a surrogate */
};

static void test_scripts(void **state)
{
    (void)state;
    qsae_context *ctx = open_context("c", 1);
    qsae__scripts *s;
    assert_ok(qsae__scripts_open(ctx, &s));
    for (int round = 0; round < 2; round++) /* asked for, then remembered */
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            int32_t got;
            assert_ok(qsae__script_of(s, cases[i].text, strlen(cases[i].text), &got));
            if (strcmp(qsae__script_name(got), cases[i].script) != 0)
                fail_msg("case %zu (\"%s\"): expected %s, found %s", i, cases[i].text,
                         cases[i].script, qsae__script_name(got));
        }
    qsae__scripts_close(ctx, &s);
    assert_null(s);
    qsae_context_close(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_scripts) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
