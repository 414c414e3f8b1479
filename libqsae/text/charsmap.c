/* SPDX-License-Identifier: BSD-2-Clause */
#include "text/charsmap.h"

#include <string.h>

#include <utf8proc.h>

#include "text/utf8.h"

#define CLUSTER 6 /* bytes from which a cluster is not looked up as one */

struct qsae__charsmap {
    uint8_t *data;        /* [size] the decoded file */
    size_t size;
    const uint8_t *units; /* [n_units] u32, little endian, inside data */
    size_t n_units;
    const char *text;     /* [text_size] replacements, each ended by U+0000 */
    size_t text_size;
    bool plain[128];      /* ASCII characters that no rule touches */
};

/* What replaces something; text is NULL if nothing does. */
struct result {
    const char *text;
    size_t size;
};

static int digit_of(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Base64 with padding (RFC 4648). */
static bool decode(const char *s, size_t n, uint8_t *out, size_t *size)
{
    size_t pad = 0;

    if (n % 4 != 0)
        return false;
    while (pad < 2 && pad < n && s[n - 1 - pad] == '=')
        pad++;
    *size = n / 4 * 3 - pad;
    for (size_t i = 0, at = 0; i < n; i += 4) {
        uint32_t bits = 0;
        for (size_t k = i; k < i + 4; k++) {
            const int d = k >= n - pad ? 0 : digit_of(s[k]);
            if (d < 0)
                return false;
            bits = bits << 6 | (uint32_t)d;
        }
        for (int shift = 16; shift >= 0 && at < *size; shift -= 8)
            out[at++] = (uint8_t)(bits >> shift);
        if (i + 4 == n && pad > 0 && (bits & (pad == 1 ? 0xffu : 0xffffu)) != 0)
            return false; /* bits beyond the last byte */
    }
    return true;
}

static uint32_t u32_at(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* The text of a replacement: up to the next U+0000. */
static int32_t replacement(const qsae__charsmap *m, size_t at, struct result *r)
{
    const char *end;

    if (at > m->text_size || (at < m->text_size && ((uint8_t)m->text[at] & 0xc0) == 0x80))
        return qsae__fail(QSAE_EFORMAT, "precompiled_charsmap: a replacement at %zu of %zu bytes",
                          at, m->text_size);
    end = at == m->text_size ? NULL : memchr(m->text + at, '\0', m->text_size - at);
    r->text = m->text + at;
    r->size = end == NULL ? m->text_size - at : (size_t)(end - r->text);
    return QSAE_OK;
}

/* Unit of a double array (darts-clone): bits 0-7 label, 8 a leaf hangs below, 9 and 10-31 offset;
 * of a leaf bits 0-30 its value. */
static uint32_t offset_of(uint32_t unit)
{
    return unit >> 10 << ((unit & 1u << 9) >> 6);
}

static int32_t outside(const qsae__charsmap *m, size_t at)
{
    return qsae__fail(QSAE_EFORMAT, "precompiled_charsmap: unit %zu of %zu", at, m->n_units);
}

/* The rule of the shortest beginning of s, whatever follows it: so the reference does. */
static int32_t look_up(const qsae__charsmap *m, const char *s, size_t size, struct result *r)
{
    uint32_t unit = u32_at(m->units);
    size_t at = offset_of(unit);

    *r = (struct result){ 0 };
    for (size_t i = 0; i < size && s[i] != '\0'; i++) {
        at ^= (uint8_t)s[i];
        if (at >= m->n_units)
            return outside(m, at);
        unit = u32_at(m->units + at * 4);
        if ((unit & (1u << 31 | 0xff)) != (uint8_t)s[i])
            break;
        at ^= offset_of(unit);
        if ((unit >> 8 & 1) == 0)
            continue;
        if (at >= m->n_units)
            return outside(m, at);
        return replacement(m, u32_at(m->units + at * 4) & 0x7fffffff, r);
    }
    return QSAE_OK;
}

static int32_t read_parts(qsae__charsmap *m, const char *where)
{
    const uint32_t bytes = m->size < 4 ? 0 : u32_at(m->data);
    struct result r;
    size_t bad;

    if (bytes < 4 || bytes > m->size - 4)
        return qsae__fail(QSAE_EFORMAT, "%s: precompiled_charsmap: a tree of %u bytes in %zu",
                          where, bytes, m->size);
    m->units = m->data + 4;
    m->n_units = bytes / 4;
    m->text = (const char *)m->units + m->n_units * 4;
    m->text_size = m->size - 4 - m->n_units * 4;
    if (!qsae__utf8_check(m->text, m->text_size, &bad))
        return qsae__fail(QSAE_EFORMAT, "%s: precompiled_charsmap: replacements that are not "
                          "UTF-8", where);
    for (int c = 0; c < 128; c++) {
        const char s = (char)c;
        const int32_t status = look_up(m, &s, 1, &r);
        if (status != QSAE_OK)
            return qsae__fail_in(status, "%s", where);
        m->plain[c] = r.text == NULL && c != '\r'; /* "\r\n" is one cluster */
    }
    return QSAE_OK;
}

int32_t qsae__charsmap_read(qsae_context *ctx, const char *base64, const char *where,
                            qsae__charsmap **out)
{
    const size_t n = strlen(base64);
    qsae__charsmap *m = qsae__calloc(ctx, 1, sizeof *m);
    int32_t status = QSAE_ENOMEM;

    *out = NULL;
    if (m != NULL)
        m->data = qsae__alloc(ctx, n / 4 * 3);
    if (m != NULL && m->data != NULL) {
        status = decode(base64, n, m->data, &m->size)
                     ? read_parts(m, where)
                     : qsae__fail(QSAE_EFORMAT, "%s: precompiled_charsmap: not base64", where);
    }
    if (status == QSAE_OK)
        *out = m;
    else
        qsae__charsmap_close(ctx, &m);
    return status;
}

void qsae__charsmap_close(qsae_context *ctx, qsae__charsmap **map)
{
    if (*map == NULL)
        return;
    qsae__free(ctx, (*map)->data);
    qsae__free(ctx, *map);
    *map = NULL;
}

bool qsae__charsmap_equal(const qsae__charsmap *a, const qsae__charsmap *b)
{
    if (a == NULL || b == NULL)
        return a == b;
    return a->size == b->size && memcmp(a->data, b->data, a->size) == 0;
}

/* Bytes of the grapheme cluster (UAX 29, extended) at s. */
static size_t cluster(const char *s, size_t size)
{
    utf8proc_int32_t state = 0, last = (utf8proc_int32_t)qsae__utf8_get(s);
    size_t n = qsae__utf8_len(*s);

    while (n < size) {
        const utf8proc_int32_t next = (utf8proc_int32_t)qsae__utf8_get(s + n);
        if (utf8proc_grapheme_break_stateful(last, next, &state))
            break;
        last = next;
        n += qsae__utf8_len(s[n]);
    }
    return n;
}

/* A cluster as one if it is short and there is a rule, else character by character. */
static int32_t add_cluster(const qsae__charsmap *m, const char *s, size_t size, qsae__strbuf *out)
{
    struct result r = { 0 };
    int32_t status = size < CLUSTER ? look_up(m, s, size, &r) : QSAE_OK;

    if (status == QSAE_OK && r.text != NULL) {
        qsae__strbuf_add(out, r.text, r.size);
        return out->status;
    }
    for (size_t i = 0, n; i < size && status == QSAE_OK; i += n) {
        n = qsae__utf8_len(s[i]);
        status = look_up(m, s + i, n, &r);
        if (status == QSAE_OK)
            qsae__strbuf_add(out, r.text != NULL ? r.text : s + i, r.text != NULL ? r.size : n);
    }
    return status == QSAE_OK ? out->status : status;
}

int32_t qsae__charsmap_run(const qsae__charsmap *m, const char *text, size_t size,
                           qsae__strbuf *out)
{
    int32_t status = QSAE_OK;

    for (size_t at = 0, n; at < size && status == QSAE_OK; at += n) {
        n = 0;
        while (at + n < size && (uint8_t)text[at + n] < 0x80 && m->plain[(uint8_t)text[at + n]])
            n++;
        if (n > 0 && at + n < size && (uint8_t)text[at + n] >= 0x80)
            n--; /* marks may follow and join it */
        if (n > 0) {
            qsae__strbuf_add(out, text + at, n);
            continue;
        }
        n = cluster(text + at, size - at);
        status = add_cluster(m, text + at, n, out);
    }
    return status == QSAE_OK ? out->status : status;
}
