/* SPDX-License-Identifier: BSD-2-Clause */
#include "text/utf8.h"

#include <string.h>

#include <utf8proc.h>

static bool tail(uint8_t c)
{
    return (c & 0xc0) == 0x80;
}

/* Bytes of the well-formed character at p, 0 if there is none. */
static size_t one(const uint8_t *p, size_t left)
{
    if (p[0] < 0x80)
        return 1;
    if (p[0] < 0xc2 || p[0] > 0xf4)
        return 0;
    if (p[0] < 0xe0)
        return left >= 2 && tail(p[1]) ? 2 : 0;
    if (p[0] < 0xf0) {
        if (left < 3 || !tail(p[1]) || !tail(p[2]) || (p[0] == 0xe0 && p[1] < 0xa0) ||
            (p[0] == 0xed && p[1] > 0x9f))
            return 0;
        return 3;
    }
    if (left < 4 || !tail(p[1]) || !tail(p[2]) || !tail(p[3]) || (p[0] == 0xf0 && p[1] < 0x90) ||
        (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return 4;
}

bool qsae__utf8_check(const char *text, size_t size, size_t *bad)
{
    const uint8_t *p = (const uint8_t *)text;
    size_t i = 0;

    while (i < size) {
        uint64_t eight;
        if (size - i >= 8) {
            memcpy(&eight, p + i, 8);
            if ((eight & UINT64_C(0x8080808080808080)) == 0) {
                i += 8;
                continue;
            }
        }
        const size_t n = one(p + i, size - i);
        if (n == 0) {
            *bad = i;
            return false;
        }
        i += n;
    }
    return true;
}

size_t qsae__utf8_put(uint32_t c, char out[4])
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | ((c >> 6) & 0x3f));
        out[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | ((c >> 12) & 0x3f));
    out[2] = (char)(0x80 | ((c >> 6) & 0x3f));
    out[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}

bool qsae__is_space(uint32_t c)
{
    if (c < 0x80)
        return c == ' ' || (c >= 9 && c <= 13);
    return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
           c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool qsae__is_word(uint32_t c)
{
    if (c < 0x80)
        return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
               c == '_';
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default: /* Join_Control and the symbols that are Other_Alphabetic */
        return c == 0x200c || c == 0x200d || (c >= 0x24b6 && c <= 0x24e9) ||
               (c >= 0x1f130 && c <= 0x1f149) || (c >= 0x1f150 && c <= 0x1f169) ||
               (c >= 0x1f170 && c <= 0x1f189);
    }
}

bool qsae__is_numeric(uint32_t c)
{
    if (c < 0x80)
        return c >= '0' && c <= '9';
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
        return true;
    default:
        return false;
    }
}

bool qsae__is_punctuation(uint32_t c)
{
    if (c < 0x80)
        return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
               (c >= '{' && c <= '~');
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO:
        return true;
    default:
        return false;
    }
}

/* Those that have a decomposition or a combining class, or are marks. */
static const struct {
    uint32_t first, last;
} young[] = {
    { 0x7fd, 0x7fd }, { 0x898, 0x89f }, { 0x8ca, 0x8d3 }, { 0x9fe, 0x9fe }, { 0xafa, 0xaff },
    { 0xb55, 0xb55 }, { 0xc04, 0xc04 }, { 0xc3c, 0xc3c }, { 0xcf3, 0xd00 }, { 0xd3b, 0xd3c },
    { 0xd81, 0xd81 }, { 0xeba, 0xeba }, { 0xece, 0xece }, { 0x1715, 0x1715 }, { 0x180f, 0x180f },
    { 0x1abf, 0x1ace }, { 0x1cf7, 0x1cf7 }, { 0x1df6, 0x1dfa }, { 0x32ff, 0x32ff },
    { 0xa7f2, 0xa7f4 }, { 0xa82c, 0xa82c }, { 0xa8ff, 0xa8ff }, { 0xab69, 0xab69 },
    { 0x10781, 0x107ba }, { 0x10d24, 0x10d27 }, { 0x10eab, 0x10f85 }, { 0x11070, 0x11074 },
    { 0x110c2, 0x110c2 }, { 0x11145, 0x11146 }, { 0x111c9, 0x111c9 }, { 0x111ce, 0x111cf },
    { 0x11241, 0x11241 }, { 0x1133b, 0x1133b }, { 0x1145e, 0x1145e }, { 0x1182c, 0x1183a },
    { 0x11930, 0x11a99 }, { 0x11d31, 0x11f42 }, { 0x13440, 0x13455 }, { 0x16f4f, 0x16f4f },
    { 0x16f7f, 0x16f87 }, { 0x16fe4, 0x16ff1 }, { 0x1cf00, 0x1cf46 }, { 0x1e030, 0x1e4ef },
    { 0x1f16c, 0x1f16c }, { 0x1fbf0, 0x1fbf9 },
};

bool qsae__is_young(uint32_t c)
{
    if (c < young[0].first || (c >= 0x3300 && c < 0xa7f2) || (c >= 0xac00 && c < 0x10000) ||
        (c >= 0x1f200 && c < 0x1fb00))
        return false;
    for (size_t i = 0; i < sizeof young / sizeof *young && young[i].first <= c; i++)
        if (c <= young[i].last)
            return true;
    return false;
}
