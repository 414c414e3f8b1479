/* SPDX-License-Identifier: BSD-2-Clause */
#include "text/words.h"

#include <string.h>

#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define ANY_CASE "(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
#define BOTH_CASES "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|"
#define REST(digits) \
    "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|" \
    "\\s+(?!\\S)|\\s+"
#define MARKED(digits) \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|" digits "| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" \
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

static const struct {
    const char *regex;
    enum qsae__words kind;
} known[] = {
    { GPT2, QSAE__WORDS_GPT2 },
    { ANY_CASE REST("\\p{N}{1,3}"), QSAE__WORDS_LLAMA3 },
    { BOTH_CASES REST("\\p{N}{1,3}"), QSAE__WORDS_LLAMA3 },
    { ANY_CASE REST("\\p{N}"), QSAE__WORDS_QWEN },
    { BOTH_CASES REST("\\p{N}"), QSAE__WORDS_QWEN },
    { ANY_CASE MARKED("\\p{N}"), QSAE__WORDS_QWEN },
    { BOTH_CASES MARKED("\\p{N}"), QSAE__WORDS_QWEN },
};

enum qsae__words qsae__words_kind(const char *regex)
{
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(regex, known[i].regex) == 0)
            return known[i].kind;
    return QSAE__WORDS_OTHER;
}

enum { LETTER = 'a', DIGIT = '0', SPACE = ' ', SIGN = '!', BEYOND = 0 };

/* Of every ASCII character. */
static const char classes[] =
    "!!!!!!!!!     !!" "!!!!!!!!!!!!!!!!" " !!!!!!!!!!!!!!!" "0000000000!!!!!!"
    "!aaaaaaaaaaaaaaa" "aaaaaaaaaaa!!!!!" "!aaaaaaaaaaaaaaa" "aaaaaaaaaaa!!!!!";

static inline char class_of(char c)
{
    return (uint8_t)c < 0x80 ? classes[(uint8_t)c] : BEYOND;
}

/* End of the run of one class; *open: a character beyond ASCII follows, and may belong to it. */
static size_t run(const char *text, size_t at, size_t size, char class, bool *open)
{
    while (at < size && class_of(text[at]) == class)
        at++;
    *open = at < size && class_of(text[at]) == BEYOND;
    return at;
}

/* Bytes of 's, 't, 're, 've, 'm, 'll, 'd; 0 if there is none. */
static size_t ending(const char *text, size_t size, char fold)
{
    char a, b;

    if (size < 2 || text[0] != '\'')
        return 0;
    a = (char)(text[1] | fold);
    if (a == 's' || a == 't' || a == 'm' || a == 'd')
        return 2;
    if (size < 3)
        return 0;
    b = (char)(text[2] | fold);
    return (b == 'e' && (a == 'r' || a == 'v')) || (b == 'l' && a == 'l') ? 3 : 0;
}

/* \s+(?!\S)|\s+ : all white space before the end, else all but the last character. */
static size_t spaces(size_t end, size_t size)
{
    return end == size || end == 1 ? end : end - 1;
}

static size_t next_gpt2(const char *text, size_t size)
{
    size_t end = ending(text, size, 0), at;
    bool open;
    char class;

    if (end > 0)
        return end;
    at = text[0] == ' ' && size > 1;
    class = class_of(text[at]);
    if (class == BEYOND)
        return 0;
    if (class == SPACE) {
        end = run(text, 0, size, SPACE, &open);
        return open ? 0 : spaces(end, size);
    }
    end = run(text, at, size, class, &open);
    return open ? 0 : end;
}

static size_t next_llama3(const char *text, size_t size, size_t digits)
{
    const char first = class_of(text[0]);
    const char second = size > 1 ? class_of(text[1]) : SPACE;
    size_t end = ending(text, size, 32), at;
    bool open;

    if (end > 0)
        return end;
    if (first == BEYOND)
        return 0;
    if (first == DIGIT) {
        end = run(text, 0, size < digits ? size : digits, DIGIT, &open);
        return open ? 0 : end;
    }
    if (second == BEYOND)
        return 0;
    if (first == LETTER || (second == LETTER && text[0] != '\r' && text[0] != '\n')) {
        end = run(text, 1, size, LETTER, &open);
        return open ? 0 : end;
    }
    at = text[0] == ' ' && second == SIGN;
    if (at > 0 || first == SIGN) {
        end = run(text, at, size, SIGN, &open);
        while (!open && end < size && (text[end] == '\r' || text[end] == '\n'))
            end++;
        return open ? 0 : end;
    }
    end = run(text, 0, size, SPACE, &open);
    if (open)
        return 0;
    for (at = end; at > 0; at--)
        if (text[at - 1] == '\r' || text[at - 1] == '\n')
            return at;
    return spaces(end, size);
}

size_t qsae__words_next(enum qsae__words kind, const char *text, size_t size)
{
    if (kind == QSAE__WORDS_GPT2)
        return next_gpt2(text, size);
    return next_llama3(text, size, kind == QSAE__WORDS_QWEN ? 1 : 3);
}
