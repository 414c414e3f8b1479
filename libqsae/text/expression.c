/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Regular expressions of tokenizer.json are Oniguruma's with Ruby's syntax (doc/RE and
 * doc/SYNTAX.md of that library); PCRE2 runs them. What the two read differently is rewritten, or
 * refused where it cannot be.
 */
#include <ctype.h>
#include <string.h>

#include <utf8proc.h>

#include "core/regex.h"
#include "text/pattern.h"
#include "text/utf8.h"

/* PCRE2's \s also holds U+180E; the reference engine takes Unicode White_Space. */
#define SPACES "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}" \
               "\\x{202f}\\x{205f}\\x{3000}"
/* PCRE2's \w lacks marks, connectors and symbols that are Alphabetic. Outside of a class some of
 * Latin-1's numbers are words as well. */
#define WORDS "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}" \
              "\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}"
#define WORDS_OUTSIDE WORDS "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}"
#define WORD "[" WORDS_OUTSIDE "]"

#define NAME_MOST 128 /* bytes of a name or number in brackets, more than PCRE2 takes */
#define SEVERAL "option i and letters that fold to several"

struct reader {
    const char *regex, *where;
    const char *p;      /* what is read next */
    const char *bar;    /* the last '|' of the expression, or NULL */
    int64_t item;       /* where in out what a quantifier would repeat begins; -1: a group */
    qsae__strbuf *out;
    bool any_case;      /* an option i was met */
    char last;          /* the character before, if it stands for itself */
};

static int32_t refuse(const struct reader *r, const char *what)
{
    return qsae__fail(QSAE_EUNSUPPORTED, "%s: regular expression with %s: %s", r->where, what,
                      r->regex);
}

static int32_t refuse_escape(const struct reader *r)
{
    return qsae__fail(QSAE_EUNSUPPORTED, "%s: regular expression escape \\%.1s is not supported "
                      "there: %s", r->where, r->p + 1, r->regex);
}

/* What grows beyond the limit anyway does not fill the memory first. */
static void add(struct reader *r, const char *text, size_t n)
{
    qsae__strbuf_add(r->out, text, n);
    if (r->out->status == QSAE_OK && r->out->size > QSAE__REGEX_MOST)
        r->out->status = qsae__fail(QSAE_EUNSUPPORTED, "%s: regular expression: expected at most "
                                    "%d bytes for PCRE2, found more", r->where,
                                    QSAE__REGEX_MOST);
}

static void put(struct reader *r, const char *text)
{
    add(r, text, strlen(text));
}

static void copy(struct reader *r, size_t n)
{
    add(r, r->p, n);
    r->p += n;
}

/* An escape that both engines read alike: \x41, \x{41}, \p{L}, \101, \k<name>, \cA and one
 * character. */
static void copy_escape(struct reader *r)
{
    const char c = r->p[1];
    size_t n = 1 + qsae__utf8_len(c);

    if (strchr("xpPkg", c) != NULL && r->p[2] != '\0' && strchr("{<'", r->p[2]) != NULL) {
        const size_t most = strnlen(r->p + 3, NAME_MOST);
        size_t k = 0;
        while (k < most && strchr("}>'", r->p[3 + k]) == NULL)
            k++;
        n = k < most ? k + 4 : n;
    } else if (c == 'x') {
        for (int i = 0; i < 2 && isxdigit((unsigned char)r->p[n]); i++)
            n++;
    } else if (c >= '0' && c <= '9') {
        for (int i = 0; i < 2 && isdigit((unsigned char)r->p[n]); i++)
            n++;
    } else if (c == 'c' && r->p[n] != '\0') {
        n += qsae__utf8_len(r->p[n]);
    }
    copy(r, n);
}

/* At a backslash outside of a class. */
static int32_t read_escape(struct reader *r)
{
    const char *text = NULL;

    r->item = r->out->size;
    switch (r->p[1]) {
    case '\0': case 'h': case 'H': case 'Q': case 'E':
        return refuse_escape(r);
    case 's': text = "[" SPACES "]"; break;
    case 'S': text = "[^" SPACES "]"; break;
    case 'w': text = WORD; break;
    case 'W': text = "[^" WORDS_OUTSIDE "]"; break;
    case 'b': text = "(?:(?<=" WORD ")(?!" WORD ")|(?<!" WORD ")(?=" WORD "))"; break;
    case 'B': text = "(?:(?<=" WORD ")(?=" WORD ")|(?<!" WORD ")(?!" WORD "))"; break;
    case 'v': text = "\\x{b}"; break;
    default: break;
    }
    if (text == NULL) {
        copy_escape(r);
        return QSAE_OK;
    }
    put(r, text);
    r->p += 2;
    return QSAE_OK;
}

/* A class in place of n bytes inside of another. The last of its characters begins no range. */
static int32_t put_class(struct reader *r, const char *text, size_t n)
{
    put(r, text);
    r->p += n;
    return r->p[0] == '-' && r->p[1] != ']' ? refuse(r, "a range that begins with a class")
                                            : QSAE_OK;
}

/* The same inside of one. */
static int32_t read_class_escape(struct reader *r)
{
    const char *text = NULL;

    switch (r->p[1]) {
    case '\0': case 'h': case 'H': case 'Q': case 'E': case 'S': case 'W':
        return refuse_escape(r);
    case 's': text = SPACES; break;
    case 'w': text = WORDS; break;
    case 'v':
        put(r, "\\x{b}");
        r->p += 2;
        return QSAE_OK;
    default: break;
    }
    if (text != NULL)
        return put_class(r, text, 2);
    copy_escape(r);
    return QSAE_OK;
}

/* At "[:" in a class. */
static int32_t read_name(struct reader *r)
{
    static const struct {
        const char *name, *text; /* NULL: it stays */
    } names[] = {
        { "[:digit:]", NULL }, { "[:^digit:]", NULL }, { "[:ascii:]", NULL },
        { "[:^ascii:]", NULL }, { "[:cntrl:]", NULL }, { "[:^cntrl:]", NULL },
        { "[:space:]", SPACES }, { "[:word:]", WORDS }, { "[:punct:]", "\\p{P}\\p{S}" },
        { "[:xdigit:]", "0-9A-Fa-f" },
    };

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const size_t n = strlen(names[i].name);
        if (strncmp(r->p, names[i].name, n) != 0)
            continue;
        return put_class(r, names[i].text != NULL ? names[i].text : names[i].name, n);
    }
    return refuse(r, "a named class that is not supported");
}

/* At '['. */
static int32_t read_class(struct reader *r)
{
    int32_t status = QSAE_OK;

    r->item = r->out->size;
    copy(r, r->p[1] == '^' ? 2 : 1);
    if (*r->p == ']')
        return refuse(r, "an empty class");
    while (status == QSAE_OK && r->out->status == QSAE_OK && *r->p != '\0' && *r->p != ']') {
        if (*r->p == '\\')
            status = read_class_escape(r);
        else if (*r->p == '[' && r->p[1] == ':')
            status = read_name(r);
        else if (*r->p == '[')
            status = refuse(r, "nested classes");
        else if (r->p[0] == '&' && r->p[1] == '&')
            status = refuse(r, "class intersection");
        else
            copy(r, 1);
    }
    if (status == QSAE_OK && *r->p == ']')
        copy(r, 1);
    return status;
}

/* At '{': an interval is never possessive, and {n}? may be left out instead of being lazy; what is
 * no interval is text. */
static int32_t read_interval(struct reader *r)
{
    const size_t low = strspn(r->p + 1, "0123456789");
    const bool range = r->p[1 + low] == ',';
    const size_t high = range ? strspn(r->p + 2 + low, "0123456789") : 0;
    const size_t n = 1 + low + range + high;

    if (r->p[n] != '}' || low + high == 0) {
        r->item = r->out->size;
        copy(r, 1);
        return QSAE_OK;
    }
    if (!range && r->p[n + 1] == '?')
        return refuse(r, "{n}?");
    if (low == 0)
        return refuse(r, "{,n}");
    copy(r, n + 1);
    if (*r->p != '+')
        return QSAE_OK;
    if (r->item < 0)
        return refuse(r, "{n,m}+ behind a group");
    qsae__strbuf_add(r->out, "(?:)", 4); /* room for the brackets, the last one in place */
    if (r->out->status == QSAE_OK) {
        char *const at = r->out->data + r->item;
        memmove(at + 3, at, (size_t)(r->out->size - 4 - r->item));
        memcpy(at, "(?:", 3);
    }
    return QSAE_OK;
}

/* PCRE2 folds case character by character; U+00DF and ss match each other as well. Whether one of
 * the expression's characters folds to several. */
static bool folds_to_several(const char *regex)
{
    utf8proc_int32_t to[4];
    int last = UTF8PROC_BOUNDCLASS_START;

    for (const char *p = regex; *p != '\0'; p += qsae__utf8_len(*p))
        if ((unsigned char)*p >= 0x80 &&
            utf8proc_decompose_char((utf8proc_int32_t)qsae__utf8_get(p), to, 4, UTF8PROC_CASEFOLD,
                                    &last) > 1)
            return true;
    return false;
}

/* ... and whether these are what some character folds to. */
static bool is_folded(char a, char b)
{
    static const char *const pairs[] = { "ss", "ff", "fi", "fl", "st" };

    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++)
        if ((a | 0x20) == pairs[i][0] && (b | 0x20) == pairs[i][1])
            return true;
    return false;
}

/* At "(?": Ruby's option m is PCRE2's s, and what follows an option, alternatives included, is a
 * group of its own there. */
static int32_t check_options(struct reader *r)
{
    const char *const p = r->p + 2;
    const size_t n = strspn(p, "-imsxWDSPaul");

    if (p[n] != ':' && p[n] != ')')
        return QSAE_OK;
    if (memchr(p, 'm', n) != NULL)
        return refuse(r, "option m");
    if (!r->any_case && memchr(p, 'i', n) != NULL) {
        r->any_case = true;
        if (folds_to_several(r->regex))
            return refuse(r, SEVERAL);
    }
    if (p[n] == ')' && r->p != r->regex && r->bar != NULL && r->bar > p)
        return refuse(r, "options inside of an alternative");
    return QSAE_OK;
}

int32_t qsae__expression_translate(const char *regex, const char *where, qsae__strbuf *out)
{
    struct reader r = { .regex = regex, .where = where, .p = regex, .bar = strrchr(regex, '|'),
                        .item = -1, .out = out };
    int32_t status = QSAE_OK;

    while (status == QSAE_OK && out->status == QSAE_OK && *r.p != '\0') {
        const char c = *r.p, last = r.last;
        r.last = 0;
        if (c == '\\') {
            status = read_escape(&r);
        } else if (c == '[') {
            status = read_class(&r);
        } else if (c == '{') {
            status = read_interval(&r);
        } else if (c == '^' || c == '$') { /* of lines */
            put(&r, c == '^' ? "(?m:^)" : "(?m:$)");
            r.p++;
        } else {
            status = c == '(' && r.p[1] == '?' ? check_options(&r) : QSAE_OK;
            if (r.any_case && is_folded(last, c))
                status = refuse(&r, SEVERAL);
            r.last = c;
            if (strchr("()|", c) != NULL)
                r.item = -1;
            else if (strchr("*+?", c) == NULL)
                r.item = out->size;
            copy(&r, qsae__utf8_len(c));
        }
    }
    return status == QSAE_OK ? out->status : status;
}
