/* SPDX-License-Identifier: BSD-2-Clause */
#include "formats/walk.h"

#include <string.h>

#include "formats/pairs.h"

#define NAME_MOST 64 /* bytes of a cut's names with the NUL */

struct level {
    bool object;
    uint64_t n, room; /* elements or members; for how many jansson's table is */
};

struct walker {
    const char *at, *end;
    unsigned flags;
    uint64_t most, tree, growing; /* growing: of the largest table, while it is copied */
    size_t longest;
    int depth;
    const char *wrong;
    bool too_much, too_deep;
    struct level levels[QSAE__JSON_DEPTH];
    char name[2][NAME_MOST];      /* of the members of the two outer objects; "" = longer */
    qsae__cut *cuts, *cut;        /* cut: the one being walked, or NULL */
    size_t n_cuts;
    int cut_depth;
};

static bool wrong(struct walker *w, const char *what)
{
    w->wrong = what;
    return false;
}

/* What a block of glibc's malloc holds: 8 bytes less than a multiple of 16; from 128 KiB on whole
 * pages. */
static uint64_t block(uint64_t size)
{
    const uint64_t steps = ((size + 23) & ~UINT64_C(15)) - 8;
    return size >= 1 << 17 ? size + 8192 : steps < 24 ? 24 : steps;
}

static bool take(struct walker *w, uint64_t bytes)
{
    if (w->cut != NULL)
        return true;
    w->tree += bytes; /* no wrap: a walk ends where it passes `most` */
    w->too_much = w->tree + w->growing > w->most;
    return w->too_much ? wrong(w, "more values than fit") : true;
}

/* One more element or member of the innermost container (jansson 2.14: value.c, hashtable.c). */
static bool count_one(struct walker *w)
{
    struct level *const l = &w->levels[w->depth - 1];
    const uint64_t each = l->object ? 16 : 8, old = l->room;

    if (w->cut != NULL || l->n++ < l->room)
        return true;
    l->room *= 2;
    if (block(old * each) > w->growing)
        w->growing = block(old * each);
    return take(w, block(l->room * each) - block(old * each));
}

static bool open_level(struct walker *w, bool object)
{
    if (w->depth > 0 && !w->levels[w->depth - 1].object && !count_one(w))
        return false;
    if (w->depth == QSAE__JSON_DEPTH) {
        w->too_deep = true;
        return wrong(w, "nested too deeply");
    }
    w->levels[w->depth++] = (struct level){ object, 0, 8 };
    w->at++;
    return take(w, object ? block(72) + block(8 * 16) : block(40) + block(8 * 8));
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10
         : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* \uXXXX at p; NULL if it is none. */
static const char *four_digits(const char *p, const char *end, uint32_t *code)
{
    *code = 0;
    if (end - p < 6 || p[0] != '\\' || p[1] != 'u')
        return NULL;
    for (int i = 2; i < 6; i++) {
        const int digit = hex_digit(p[i]);
        if (digit < 0)
            return NULL;
        *code = *code << 4 | (uint32_t)digit;
    }
    return p + 6;
}

/* The character that the escape at p stands for, and what follows it; NULL if it is none. */
static const char *read_escape(const char *p, const char *end, uint32_t *code)
{
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    const char *found;
    uint32_t low;

    if (end - p < 2)
        return NULL;
    if (p[1] != 'u') {
        found = p[1] != '\0' ? strchr(names, p[1]) : NULL;
        *code = found != NULL ? (uint32_t)values[found - names] : 0;
        return found != NULL ? p + 2 : NULL;
    }
    p = four_digits(p, end, code);
    if (p == NULL || *code < 0xd800 || *code > 0xdfff)
        return p;
    if (*code > 0xdbff)
        return NULL;
    p = four_digits(p, end, &low);
    *code = 0x10000 + ((*code & 0x3ff) << 10 | (low & 0x3ff));
    return p != NULL && low >= 0xdc00 && low <= 0xdfff ? p : NULL;
}

static size_t put_utf8(uint32_t c, char *out)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    const size_t more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    static const uint8_t lead[] = { 0, 0xc0, 0xe0, 0xf0 };
    out[0] = (char)(lead[more] | c >> (6 * more));
    for (size_t i = 1; i <= more; i++)
        out[i] = (char)(0x80 | (c >> (6 * (more - i)) & 0x3f));
    return more + 1;
}

bool qsae__json_unquote(const char *text, size_t size, char *out)
{
    const char *p = text + 1, *const end = text + size - 1;

    if (size < 2 || *text != '"' || *end != '"')
        return false;
    while (p < end) {
        uint32_t code;
        if ((unsigned char)*p < 0x20 || *p == '"')
            return false;
        if (*p != '\\') {
            *out++ = *p++;
            continue;
        }
        p = read_escape(p, end, &code);
        if (p == NULL || code == 0)
            return false;
        out += put_utf8(code, out);
    }
    *out = '\0';
    return true;
}

static void note_token(struct walker *w, const char *from)
{
    if (w->cut == NULL && (size_t)(w->at - from) > w->longest)
        w->longest = (size_t)(w->at - from);
}

/* A string whose first quote is at w->at. name: of a member, where U+0000 may never be. */
static bool walk_string(struct walker *w, bool name)
{
    const char *const from = w->at++, *next;
    bool fine = true;

    while (fine && w->at < w->end && *w->at != '"') {
        const unsigned char c = (unsigned char)*w->at;
        uint32_t code;
        size_t n = 1;
        if (c == '\\') {
            next = read_escape(w->at, w->end, &code);
            if (next == NULL)
                fine = wrong(w, "invalid escape");
            else if (code == 0 && (name || !(w->flags & QSAE__JSON_NUL)))
                fine = wrong(w, "U+0000 is not allowed");
            n = fine ? (size_t)(next - w->at) : 0;
        } else if (c < 0x20) {
            fine = wrong(w, "control character in a string");
        } else if (c >= 0x80) {
            n = qsae__char_size(w->at, (uint64_t)(w->end - w->at));
            fine = n > 0 ? true : wrong(w, "not UTF-8");
        }
        w->at += fine ? n : 0;
    }
    if (fine && w->at == w->end)
        fine = wrong(w, "string without an end");
    w->at += fine;
    note_token(w, from);
    return fine;
}

static bool digits(struct walker *w)
{
    const char *const from = w->at;
    while (w->at < w->end && *w->at >= '0' && *w->at <= '9')
        w->at++;
    return w->at > from;
}

static bool is(const struct walker *w, char a, char b)
{
    return w->at < w->end && (*w->at == a || *w->at == b);
}

static bool walk_number(struct walker *w)
{
    const char *const from = w->at;
    bool fine = true;

    w->at += *w->at == '-';
    if (is(w, '0', '0'))
        w->at++;
    else
        fine = digits(w);
    if (fine && is(w, '.', '.')) {
        w->at++;
        fine = digits(w);
    }
    if (fine && is(w, 'e', 'E')) {
        w->at++;
        w->at += is(w, '+', '-');
        fine = digits(w);
    }
    note_token(w, from);
    return fine ? true : wrong(w, "invalid number");
}

static bool walk_word(struct walker *w)
{
    static const char *const words[] = { "true", "false", "null" };
    const char *const from = w->at;

    while (w->at < w->end && ((*w->at >= 'a' && *w->at <= 'z') || (*w->at >= 'A' && *w->at <= 'Z')))
        w->at++;
    note_token(w, from);
    for (int i = 0; i < 3; i++)
        if ((size_t)(w->at - from) == strlen(words[i]) &&
            memcmp(from, words[i], (size_t)(w->at - from)) == 0)
            return true;
    return wrong(w, "invalid token");
}

/* The blocks of a value that is no container; true, false and null take none. */
static bool walk_scalar(struct walker *w)
{
    const char *const from = w->at;

    if (w->depth > 0 && !w->levels[w->depth - 1].object && !count_one(w))
        return false;
    if (*from == '"')
        return walk_string(w, false) && take(w, block(32) + block((uint64_t)(w->at - from) + 1));
    if (*from == '-' || (*from >= '0' && *from <= '9'))
        return walk_number(w) && take(w, block(24));
    return walk_word(w);
}

static void skip_space(struct walker *w)
{
    while (w->at < w->end &&
           (*w->at == ' ' || *w->at == '\t' || *w->at == '\n' || *w->at == '\r'))
        w->at++;
}

/* Whether a member's value, which comes next, is to be cut out. In a root that is an array none is:
 * there the outer name stays empty. */
static void look_for_cut(struct walker *w)
{
    for (size_t i = 0; i < w->n_cuts && w->cut == NULL; i++) {
        qsae__cut *const c = &w->cuts[i];
        if (c->text == NULL && strcmp(w->name[0], c->outer) == 0 &&
            (c->inner == NULL ? w->depth == 1
                              : w->depth == 2 && strcmp(w->name[1], c->inner) == 0)) {
            c->text = w->at;
            w->cut = c;
            w->cut_depth = w->depth;
        }
    }
}

/* A member's name, and the colon behind it. */
static bool walk_name(struct walker *w)
{
    const char *const from = w->at;
    const bool outer = w->cut == NULL && w->n_cuts > 0 && w->depth <= 2;

    if (*from != '"')
        return wrong(w, "string or '}' expected");
    if (!walk_string(w, true) || !count_one(w) || !take(w, block(55 + (uint64_t)(w->at - from))))
        return false;
    if (outer && w->at - from <= NAME_MOST) /* a string that was walked is one */
        (void)qsae__json_unquote(from, (size_t)(w->at - from), w->name[w->depth - 1]);
    else if (outer)
        w->name[w->depth - 1][0] = '\0';
    skip_space(w);
    if (!is(w, ':', ':'))
        return wrong(w, "':' expected");
    w->at++;
    skip_space(w);
    if (outer)
        look_for_cut(w);
    return true;
}

static void walk_all(struct walker *w)
{
    enum { VALUE, ITEM, NAME, MEMBER, AFTER } want = VALUE; /* ITEM, MEMBER: or the end */
    bool fine = true;

    while (fine) {
        if (want == AFTER && w->cut != NULL && w->depth == w->cut_depth) {
            w->cut->size = (size_t)(w->at - w->cut->text);
            w->cut = NULL;
        }
        skip_space(w);
        if (want == AFTER && w->depth == 0)
            break;
        const char c = w->at < w->end ? *w->at : '\0';
        const bool object = w->depth > 0 && w->levels[w->depth - 1].object;
        if (w->at == w->end) {
            fine = wrong(w, "unexpected end");
        } else if ((want == AFTER && c == (object ? '}' : ']')) || (want == ITEM && c == ']') ||
                   (want == MEMBER && c == '}')) {
            w->at++;
            w->depth--;
            want = AFTER;
        } else if (want == AFTER) {
            fine = c == ',' ? true
                 : wrong(w, object ? "',' or '}' expected" : "',' or ']' expected");
            w->at += fine;
            want = object ? NAME : VALUE;
        } else if (want == NAME || want == MEMBER) {
            fine = walk_name(w);
            want = VALUE;
        } else if (c == '[' || c == '{') {
            fine = open_level(w, c == '{');
            want = c == '{' ? MEMBER : ITEM;
        } else {
            fine = walk_scalar(w);
            want = AFTER;
        }
    }
    if (fine && w->at < w->end)
        (void)wrong(w, "end of file expected");
}

void qsae__json_walk(const char *text, size_t size, unsigned flags, uint64_t most, qsae__cut *cuts,
                     size_t n_cuts, qsae__walk *out)
{
    struct walker w = { .at = text, .end = text + size, .flags = flags, .most = most, .cuts = cuts,
                        .n_cuts = n_cuts };

    for (size_t i = 0; i < n_cuts; i++)
        cuts[i].text = NULL;
    walk_all(&w);
    *out = (qsae__walk){ .tree = w.tree + w.growing, .longest = w.longest, .at = w.at,
                         .wrong = w.wrong, .too_much = w.too_much, .too_deep = w.too_deep };
    if (w.cut != NULL)
        w.cut->text = NULL;
}
