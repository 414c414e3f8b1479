/* SPDX-License-Identifier: BSD-2-Clause */
/* A subset of YAML 1.1 (https://yaml.org/spec/1.1/) as JSON values. */
#include "formats/yaml.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_SIZE (1 << 20)
#define MAX_LINE 4096
#define MAX_DEPTH 16

/* What the values may take (formats/json.h), and at most what a map and a key with its value take,
 * without their texts: jansson's blocks, the tables of the map around it as they grow. */
#define TREE_PER_BYTE 7
#define TREE_FREE ((uint64_t)3 << 18)
#define MAP_BYTES 224
#define KEY_BYTES 192

/* Maps that are open at a line, by the indentation of their keys. */
typedef struct level {
    json_t *map;
    int indent;
} level;

typedef struct parser {
    const char *name;
    int64_t line;
    level stack[MAX_DEPTH];
    int depth;
    json_t *wait_map;  /* where a key without a value stands: a deeper line opens its map */
    char wait_key[MAX_LINE];
    int wait_indent;   /* indentation of that key; -1 = none */
    uint64_t left;     /* memory that values may still take */
    int list_indent;   /* inside a list's item: deeper lines are read over; -1 = no */
} parser;

static int32_t fail(const parser *p, int32_t status, const char *what)
{
    return qsae__fail(status, "%s: line %lld: %s", p->name, (long long)p->line, what);
}

/* Cuts a comment: # at the start or after a blank, outside quotes. Then trailing blanks. */
static void strip(char *s)
{
    char quote = 0;
    size_t n = 0;
    for (; s[n]; n++) {
        if (quote ? s[n] == quote : (s[n] == '"' || s[n] == '\'')) {
            /* A quote opens a string only where a value or key begins. */
            if (quote)
                quote = 0;
            else if (n == 0 || strchr(" \t:[{,", s[n - 1]))
                quote = s[n];
        } else if (quote == '"' && s[n] == '\\' && s[n + 1]) {
            n++;
        } else if (!quote && s[n] == '#' && (n == 0 || s[n - 1] == ' ' || s[n - 1] == '\t')) {
            break;
        }
    }
    while (n > 0 && (s[n - 1] == ' ' || s[n - 1] == '\t' || s[n - 1] == '\r'))
        n--;
    s[n] = 0;
}

/* Reads a quoted string at s into out; *end is behind the closing quote. NULL: malformed. */
static char *unquote(char *s, char *out)
{
    const char quote = *s++;
    for (; *s; s++) {
        if (*s == quote && quote == '\'' && s[1] == '\'') {
            *out++ = *s++;
        } else if (*s == quote) {
            *out = 0;
            return s + 1;
        } else if (*s == '\\' && quote == '"') {
            static const char from[] = "nt\"\\/", to[] = "\n\t\"\\/";
            const char *const at = s[1] ? strchr(from, s[1]) : NULL;
            if (!at)
                return NULL;
            *out++ = to[at - from];
            s++;
        } else {
            *out++ = *s;
        }
    }
    return NULL;
}

static bool one_of(const char *s, const char *const *words, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(s, words[i]) == 0)
            return true;
    return false;
}

/* A plain scalar by the core types. NULL: a string of bytes that are no UTF-8, or no memory. */
static json_t *plain(const char *s)
{
    static const char *const nulls[] = { "", "~", "null", "Null", "NULL" };
    static const char *const yes[] = { "true", "True", "TRUE", "yes", "Yes", "on", "On" };
    static const char *const no[] = { "false", "False", "FALSE", "no", "No", "off", "Off" };
    char *end;
    if (one_of(s, nulls, sizeof nulls / sizeof nulls[0]))
        return json_null();
    if (one_of(s, yes, sizeof yes / sizeof yes[0]))
        return json_true();
    if (one_of(s, no, sizeof no / sizeof no[0]))
        return json_false();
    if (isdigit((unsigned char)s[0]) || (strchr("+-.", s[0]) && isdigit((unsigned char)s[1]))) {
        errno = 0;
        const long long i = strtoll(s, &end, 10);
        if (!*end && errno == 0)
            return json_integer(i);
        const double d = strtod(s, &end);
        if (!*end && isfinite(d) && !strpbrk(s, "xXpP"))
            return json_real(d);
    }
    return json_string(s);
}

/* Why jansson did not take a string; errno was 0 before. */
static int32_t refused(const parser *p)
{
    return errno == ENOMEM ? fail(p, QSAE_ENOMEM, "out of memory")
                           : fail(p, QSAE_EFORMAT, "expected UTF-8");
}

/* The value text of a key; NULL with a status. */
static int32_t value_of(const parser *p, char *s, json_t **out)
{
    char text[MAX_LINE];
    errno = 0;
    if (*s == '"' || *s == '\'') {
        const char *const end = unquote(s, text);
        if (!end || *end)
            return fail(p, QSAE_EFORMAT, "a quoted string that does not end with the line");
        *out = json_string(text);
    } else if (*s == '[' || strcmp(s, "{}") == 0) {
        const size_t n = strlen(s);
        if (*s == '[' && s[n - 1] != ']')
            return fail(p, QSAE_EUNSUPPORTED, "a list over several lines");
        *out = json_null();
    } else if (*s == '{' || *s == '|' || *s == '>' || *s == '&' || *s == '*' || *s == '!' ||
               *s == '%' || *s == '@' || *s == '`') {
        return fail(p, QSAE_EUNSUPPORTED,
                    "flow maps, block scalars, anchors, aliases and tags are not read");
    } else {
        *out = plain(s);
    }
    return *out ? QSAE_OK : refused(p);
}

/* Splits "key: value" in place; the key into key. */
static int32_t split_key(const parser *p, char *s, char *key, char **value)
{
    char *end;
    if (*s == '"' || *s == '\'') {
        end = unquote(s, key);
        while (end && (*end == ' ' || *end == '\t'))
            end++;
        if (!end || *end != ':' || (end[1] && end[1] != ' ' && end[1] != '\t'))
            return fail(p, QSAE_EFORMAT, "expected \"key: value\"");
    } else {
        for (end = s; (end = strchr(end, ':')) != NULL; end++)
            if (!end[1] || end[1] == ' ' || end[1] == '\t')
                break;
        if (!end || end == s || strchr("{[&*!|>%@`?", *s))
            return fail(p, QSAE_EFORMAT, "expected \"key: value\"");
        size_t n = (size_t)(end - s);
        while (n > 0 && (s[n - 1] == ' ' || s[n - 1] == '\t'))
            n--;
        memcpy(key, s, n);
        key[n] = 0;
    }
    *value = end + 1;
    while (**value == ' ' || **value == '\t')
        (*value)++;
    return QSAE_OK;
}

static int32_t spend(parser *p, uint64_t bytes)
{
    if (bytes > p->left)
        return fail(p, QSAE_EFORMAT, "expected values that fit into 7 bytes per byte and 786432, "
                    "found more");
    p->left -= bytes;
    return QSAE_OK;
}

/* The map that a key of this indentation belongs to. */
static int32_t enter(parser *p, int indent)
{
    if (p->wait_indent >= 0 && indent > p->wait_indent) {
        const int32_t st = spend(p, MAP_BYTES);
        if (st != QSAE_OK)
            return st;
        json_t *const map = json_object();
        if (p->depth == MAX_DEPTH) {
            json_decref(map);
            return fail(p, QSAE_EFORMAT, "maps are nested too deeply");
        }
        if (!map || json_object_set_new(p->wait_map, p->wait_key, map) != 0)
            return fail(p, QSAE_ENOMEM, "out of memory");
        p->stack[p->depth++] = (level){ map, indent };
    }
    p->wait_indent = -1;
    while (p->depth > 1 && p->stack[p->depth - 1].indent > indent)
        p->depth--;
    if (p->stack[p->depth - 1].indent < 0)
        p->stack[0].indent = indent;
    return p->stack[p->depth - 1].indent == indent ? QSAE_OK :
           fail(p, QSAE_EFORMAT, "indentation that fits no map");
}

static int32_t read_line(parser *p, char *s)
{
    char key[MAX_LINE], *value = s;
    json_t *v = NULL;
    int indent = 0;
    strip(s);
    while (s[indent] == ' ')
        indent++;
    if (s[indent] == '\t')
        return fail(p, QSAE_EFORMAT, "a tab in the indentation");
    s += indent;
    if (!*s || (indent == 0 && (strcmp(s, "---") == 0 || strncmp(s, "%YAML", 5) == 0)))
        return QSAE_OK;
    if (p->list_indent >= 0 && indent > p->list_indent)
        return QSAE_OK;
    p->list_indent = -1;
    if (s[0] == '-' && (!s[1] || s[1] == ' ')) {
        /* The value of the key before, which stays null; deeper lines belong to the item. */
        if (p->wait_indent < 0 || indent < p->wait_indent)
            return fail(p, QSAE_EFORMAT, "a list where a key is expected");
        p->list_indent = indent;
        return QSAE_OK;
    }
    int32_t st = enter(p, indent);
    if (st == QSAE_OK)
        st = spend(p, KEY_BYTES + 2 * strlen(s));
    if (st == QSAE_OK)
        st = split_key(p, s, key, &value);
    json_t *const map = p->stack[p->depth - 1].map;
    if (st == QSAE_OK && json_object_get(map, key))
        st = fail(p, QSAE_EFORMAT, "a key that occurs twice");
    if (st == QSAE_OK)
        st = value_of(p, value, &v);
    errno = 0;
    if (st == QSAE_OK && json_object_set_new(map, key, v) != 0)
        st = refused(p);
    if (st == QSAE_OK && !*value) {
        p->wait_map = map;
        p->wait_indent = indent;
        memcpy(p->wait_key, key, strlen(key) + 1);
    }
    return st;
}

int32_t qsae__yaml_parse(const char *text, size_t size, const char *name, json_t **out)
{
    *out = NULL;
    if (size > MAX_SIZE || (size && memchr(text, 0, size)))
        return qsae__fail(QSAE_EFORMAT, "%s: not YAML, or larger than %d bytes", name, MAX_SIZE);
    json_t *const root = json_object();
    if (!root)
        return qsae__fail(QSAE_ENOMEM, "%s: out of memory", name);
    parser p = { .name = name, .stack = { { root, -1 } }, .depth = 1, .wait_indent = -1,
                 .list_indent = -1, .left = TREE_PER_BYTE * (uint64_t)size + TREE_FREE };
    int32_t st = QSAE_OK;
    for (size_t at = 0; at < size && st == QSAE_OK;) {
        const char *const end = memchr(text + at, '\n', size - at);
        const size_t n = end ? (size_t)(end - text) - at : size - at;
        char line[MAX_LINE];
        p.line++;
        if (n >= sizeof line) {
            st = fail(&p, QSAE_EFORMAT, "a line that is too long");
            break;
        }
        memcpy(line, text + at, n);
        line[n] = 0;
        st = read_line(&p, line);
        at += n + 1;
    }
    if (st == QSAE_OK)
        *out = root;
    else
        json_decref(root);
    return st;
}

int32_t qsae__yaml_load(qsae_context *ctx, const char *path, json_t **out)
{
    qsae__file *file = NULL;
    *out = NULL;
    int32_t st = qsae__file_open(ctx, path, &file);
    if (st != QSAE_OK)
        return st;
    st = qsae__yaml_parse((const char *)file->data, (size_t)file->size, path, out);
    qsae__file_close(&file);
    return st;
}
