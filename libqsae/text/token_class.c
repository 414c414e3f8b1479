/* SPDX-License-Identifier: BSD-2-Clause */
#include "text/token_class.h"

#include <string.h>

#include <utf8proc.h>

#include "text/utf8.h"

#define LATIN_END 0x24f

const char *qsae__token_class_name(int32_t class)
{
    static const char *const names[QSAE__CLASS_COUNT] = { "whitespace", "numeral", "punctuation",
                                                          "code_symbol", "non_latin",
                                                          "numeral_mixed", "word", "other" };
    return names[class];
}

/* What the characters of a token are. */
struct kinds {
    int64_t n, spaces, numerals, marks, code, letters, far_letters;
};

static void count(uint32_t c, struct kinds *k)
{
    const utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    k->n++;
    if (qsae__is_space(c))
        k->spaces++;
    else if (qsae__is_numeric(c))
        k->numerals++;
    else if (category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_SO) {
        k->marks++;
        k->code += c < 0x80 && strchr("{}[]()<>;=+*/\\|&^%$#@~`", (int)c) != NULL;
    } else if (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO) {
        k->letters++;
        k->far_letters += c > LATIN_END;
    }
}

int32_t qsae__token_class(const char *text, size_t size)
{
    struct kinds k = { 0 };
    size_t bad;
    if (size == 0 || !qsae__utf8_check(text, size, &bad))
        return QSAE__CLASS_OTHER;
    for (size_t i = size > 1 && *text == ' '; i < size; i += qsae__utf8_len(text[i]))
        count(qsae__utf8_get(text + i), &k);
    if (k.spaces == k.n)
        return QSAE__CLASS_WHITESPACE;
    if (k.numerals == k.n)
        return QSAE__CLASS_NUMERAL;
    if (k.marks == k.n)
        return k.code ? QSAE__CLASS_CODE_SYMBOL : QSAE__CLASS_PUNCTUATION;
    if (k.far_letters)
        return QSAE__CLASS_NON_LATIN;
    if (k.numerals)
        return QSAE__CLASS_NUMERAL_MIXED;
    return k.letters ? QSAE__CLASS_WORD : QSAE__CLASS_OTHER;
}
