/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_TEXT_UTF8_H
#define QSAE_TEXT_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* True if text is well-formed UTF-8 (Unicode 15, table 3-7); else *bad is the first bad byte. */
bool qsae__utf8_check(const char *text, size_t size, size_t *bad);

/* Bytes of the character that starts with this byte; for well-formed text. */
static inline size_t qsae__utf8_len(char lead)
{
    const uint8_t c = (uint8_t)lead;
    return c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
}

/* Code point at p of well-formed text. */
static inline uint32_t qsae__utf8_get(const char *text)
{
    const uint8_t *p = (const uint8_t *)text;
    if (p[0] < 0x80)
        return p[0];
    if (p[0] < 0xe0)
        return (uint32_t)(p[0] & 0x1f) << 6 | (p[1] & 0x3f);
    if (p[0] < 0xf0)
        return (uint32_t)(p[0] & 0x0f) << 12 | (uint32_t)(p[1] & 0x3f) << 6 | (p[2] & 0x3f);
    return (uint32_t)(p[0] & 0x07) << 18 | (uint32_t)(p[1] & 0x3f) << 12 |
           (uint32_t)(p[2] & 0x3f) << 6 | (p[3] & 0x3f);
}

/* Start of the character that ends before p; for well-formed text with p > start of text. */
static inline const char *qsae__utf8_prev(const char *p)
{
    do
        p--;
    while (((uint8_t)*p & 0xc0) == 0x80);
    return p;
}

/* Writes a code point, returns its bytes. */
size_t qsae__utf8_put(uint32_t c, char out[4]);

bool qsae__is_space(uint32_t c);   /* Unicode White_Space */
bool qsae__is_word(uint32_t c);    /* \w of Unicode regular expressions */
bool qsae__is_numeric(uint32_t c); /* categories Nd, Nl, No */
bool qsae__is_punctuation(uint32_t c); /* categories P*, and the ASCII symbols */

/* Characters that the reference's tables for normalization, of Unicode 9, do not know (or, one,
 * know as no mark), while utf8proc's do. */
bool qsae__is_young(uint32_t c);

#endif
