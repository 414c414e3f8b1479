/* SPDX-License-Identifier: BSD-2-Clause */
#include "options.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qsae/version.h>

#include "layout.h"
#include "program.h"

enum { TEXT_AT = 29, LINE = 99 };

void usage_error(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    fprintf(stderr, "%s: ", program_name());
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    vfprintf(stderr, format, list);
#pragma GCC diagnostic pop
    va_end(list);
    fprintf(stderr, "\nusage: %s --help shows all options\n", program_name());
    exit(EXIT_USAGE);
}

const char *option_alias(const struct option_row *row, size_t i, size_t *n)
{
    const char *at = row->aliases ? row->aliases : "";
    for (at += strspn(at, " "); *at && i > 0; i--) {
        at += strcspn(at, " ");
        at += strspn(at, " ");
    }
    *n = strcspn(at, " ");
    return *at ? at : NULL;
}

enum { HELP = 100000, VERSION, COMPLETION, MANUAL };

const struct option_row option_common[] = {
    { "help", "h", NULL, "all options, with examples", HELP },
    { "version", "V", NULL, "the library's version", VERSION },
    { "completion", NULL, "bash|zsh|fish", NULL, COMPLETION },
    { "manual", NULL, "BODY", NULL, MANUAL },
};

const struct option_row *option_at(const struct program *program, size_t i)
{
    if (i < program->n_options)
        return &program->options[i];
    i -= program->n_options;
    return i < OPTION_COMMON ? &option_common[i] : NULL;
}

/* ---- help ---- */

/* "-c, --context, --ctx-size N" */
static void print_names(FILE *out, const struct option_row *row)
{
    size_t n;
    const char *alias;
    for (size_t i = 0; (alias = option_alias(row, i, &n)); i++)
        if (n == 1)
            fprintf(out, "-%c, ", *alias);
    fprintf(out, "--%s", row->name);
    for (size_t i = 0; (alias = option_alias(row, i, &n)); i++)
        if (n > 1)
            fprintf(out, ", --%.*s", (int)n, alias);
    if (row->argument)
        fprintf(out, " %s", row->argument);
}

/* A name and what it means, side by side if the name is short. */
static void print_pair(const struct page *p, const char *name, const char *help)
{
    if (strlen(name) + 4 <= TEXT_AT)
        say(p, TEXT_AT, "  %-*s%s", TEXT_AT - 2, name, help);
    else {
        say(p, 6, "  %s", name);
        say(p, TEXT_AT, "%*s%s", TEXT_AT, "", help);
    }
}

static void print_row(const struct page *p, const struct option_row *row)
{
    char *text;
    size_t size;
    if (!row->name) {
        fprintf(p->out, "\n%s:\n", row->help);
        return;
    }
    FILE *const f = text_open(&text, &size);
    print_names(f, row);
    text_close(f, &text);
    print_pair(p, text, row->help);
    free(text);
}

static void help_print(const struct program *program)
{
    const struct page p = { stdout, LINE };
    const char *const *pair;
    say(&p, 8, "usage: %s %s", program_name(), program->synopsis);
    say(&p, 0, "%s", program->summary);
    fputc('\n', stdout);
    for (pair = program->operands; *pair; pair += 2)
        print_pair(&p, pair[0], pair[1]);
    const struct option_row *row;
    for (size_t i = 0; (row = option_at(program, i)); i++) {
        if (row == option_common)
            fputc('\n', stdout);
        print_row(&p, row);
    }
    fputs("\nexamples:\n", stdout);
    for (pair = program->examples; *pair; pair += 2) {
        say(&p, 4, "  # %s", pair[0]);
        say(&p, 6, "  %s %s", program_name(), pair[1]);
    }
    fputs("\nexit status:\n", stdout);
    for (pair = program->statuses; *pair; pair += 2)
        say(&p, 7, "  %-5s%s", pair[0], pair[1]);
}

/* ---- reading ---- */

/* '-' and '_' are the same. */
static bool same(const char *a, const char *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (a[i] != b[i] && !(a[i] == '_' && b[i] == '-'))
            return false;
    return true;
}

/* 0: text of n bytes is not a name of the row; 1: it begins one; 2: it is one. */
static int matches(const struct option_row *row, const char *text, size_t n)
{
    size_t size;
    const char *alias;
    if (!row->name)
        return 0;
    int best = strlen(row->name) >= n && same(text, row->name, n) ? 1 + !row->name[n] : 0;
    for (size_t i = 0; best < 2 && (alias = option_alias(row, i, &size)); i++)
        if (size > 1 && size >= n && same(text, alias, n))
            best = size == n ? 2 : 1;
    return best;
}

/* Edits (insert, remove, replace) that make b of a; both are short. */
static size_t distance(const char *a, const char *b)
{
    enum { MOST = 40 };
    size_t row[MOST + 1];
    const size_t n = strlen(a), m = strlen(b);
    if (n > MOST || m > MOST)
        return MOST;
    for (size_t j = 0; j <= m; j++)
        row[j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t corner = row[0];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            const size_t up = row[j];
            size_t v = corner + (a[i - 1] != b[j - 1]);
            v = v < up + 1 ? v : up + 1;
            row[j] = v < row[j - 1] + 1 ? v : row[j - 1] + 1;
            corner = up;
        }
    }
    return row[m];
}

__attribute__((noreturn)) static void unknown(const struct program *program, const char *text,
                                              size_t n)
{
    char name[64];
    const char *near = NULL;
    size_t best = n / 3 + 2;
    snprintf(name, sizeof name, "%.*s", (int)(n < sizeof name ? n : sizeof name - 1), text);
    const struct option_row *row;
    for (size_t i = 0; (row = option_at(program, i)); i++) {
        const char *const other = row->name;
        const size_t d = other ? distance(name, other) : best;
        if (d < best) {
            best = d;
            near = other;
        }
    }
    if (near)
        usage_error("option --%s is unknown; did you mean --%s?", name, near);
    usage_error("option --%s is unknown", name);
}

/* The row of --NAME: the name itself, an alias, or a beginning of one row's alone. */
static const struct option_row *long_row(const struct program *program, const char *text, size_t n)
{
    const struct option_row *found = NULL;
    for (size_t i = 0; i < sizeof option_common / sizeof option_common[0]; i++)
        if (matches(&option_common[i], text, n) == 2)
            return &option_common[i];
    for (size_t i = 0; i < program->n_options; i++) {
        const struct option_row *const row = &program->options[i];
        const int match = n ? matches(row, text, n) : 0;
        if (match == 2)
            return row;
        if (match == 1 && found)
            usage_error("option --%.*s is ambiguous: --%s, --%s", (int)n, text, found->name,
                        row->name);
        if (match == 1)
            found = row;
    }
    if (!found)
        unknown(program, text, n);
    return found;
}

static const struct option_row *short_row(const struct program *program, char letter)
{
    size_t n;
    const char *alias;
    const struct option_row *row;
    for (size_t i = 0; (row = option_at(program, i)); i++) {
        for (size_t k = 0; row->name && (alias = option_alias(row, k, &n)); k++)
            if (n == 1 && *alias == letter)
                return row;
    }
    usage_error("option -%c is unknown", letter);
}

/* What every program answers by itself. */
static void answer(const struct program *program, const struct option_row *row, const char *value)
{
    switch (row->id) {
    case HELP:
        help_print(program);
        exit(program_end(EXIT_DONE));
    case VERSION:
        printf("libqsae %s\n", qsae_version());
        exit(program_end(EXIT_DONE));
    case COMPLETION:
        if (completion_print(program, value) != 0)
            usage_error("--completion: \"%s\" is unknown; expected bash, zsh or fish", value);
        exit(program_end(EXIT_DONE));
    case MANUAL:
        exit(program_end(manual_print(program, value) == 0 ? EXIT_DONE : EXIT_FAILED));
    default:
        break;
    }
}

struct arguments arguments_begin(const struct program *program, int argc, char **argv)
{
    /* Called evaluate or qsae-evaluate; through any other name, its own. */
    const char *const slash = argc > 0 ? strrchr(argv[0], '/') : NULL;
    const char *name = slash ? slash + 1 : argc > 0 ? argv[0] : program->name;
    const size_t n = strlen(name), own = strlen(program->name);
    if (n < own || !same(program->name, name + n - own, own))
        name = program->name;
    program_begin(name);
    return (struct arguments){ .program = program, .argv = argv, .argc = argc, .at = 1 };
}

int arguments_next(struct arguments *a, const char **value)
{
    *value = NULL;
    if (a->at >= a->argc)
        return ARGUMENT_END;
    const char *const text = a->argv[a->at++];
    if (a->only_operands || text[0] != '-' || !text[1]) {
        *value = text;
        return ARGUMENT_OPERAND;
    }
    if (strcmp(text, "--") == 0) {
        a->only_operands = true;
        return arguments_next(a, value);
    }
    const bool is_long = text[1] == '-';
    const size_t n = is_long ? strcspn(text + 2, "=") : 1;
    const struct option_row *const row =
        is_long ? long_row(a->program, text + 2, n) : short_row(a->program, text[1]);
    const char *rest = is_long ? text + 2 + n : text + 2; /* "=VALUE", -xVALUE */
    if (*rest && !row->argument)
        usage_error("%s: this option takes no argument", text);
    if (*rest)
        *value = is_long || *rest == '=' ? rest + 1 : rest;
    else if (row->argument && a->at < a->argc)
        *value = a->argv[a->at++];
    else if (row->argument)
        usage_error("option %s needs an argument: %s", text, row->argument);
    answer(a->program, row, *value);
    return row->id;
}

int64_t option_count(const char *option, const char *text, int64_t low)
{
    char *end;
    errno = 0;
    const long long v = strtoll(text, &end, 10);
    if (errno || end == text || *end || v < low)
        usage_error("--%s: expected a whole number of at least %lld, found \"%s\"", option,
                    (long long)low, text);
    return v;
}

int32_t option_threads(const char *text)
{
    const int64_t v = option_count("threads", text, 1);
    if (v > 1024)
        usage_error("--threads: expected 1 to 1024, found \"%s\"", text);
    return (int32_t)v;
}

int32_t option_choice(const char *option, const char *text, const char *const *names)
{
    char list[256] = "";
    for (int32_t i = 0; names[i]; i++) {
        if (strcmp(text, names[i]) == 0)
            return i;
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? ", " : "", names[i]);
    }
    usage_error("--%s: \"%s\" is unknown; expected %s", option, text, list);
}
