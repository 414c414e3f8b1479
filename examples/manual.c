/* SPDX-License-Identifier: BSD-2-Clause */
/* A program's manual page: the text of doc/man with what its options say in place of @WORDS@. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "options.h"
#include "program.h"

enum { LINE = 78 };

static void put_text(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (text[i] == '\\')
            printf("\\e");
        else
            putchar(text[i]);
}

/* Prose in lines of at most LINE bytes, none of which begins like a request. */
static void put_prose(const char *text)
{
    size_t used = 0;
    while (*text) {
        const size_t n = strcspn(text, " ");
        if (used && used + 1 + n > LINE) {
            putchar('\n');
            used = 0;
        } else if (used) {
            putchar(' ');
            used++;
        }
        if (!used && (*text == '.' || *text == '\''))
            printf("\\&");
        put_text(text, n);
        used += n;
        text += n;
        text += strspn(text, " ");
    }
    putchar('\n');
}

/* ".Fl -sae" and ".Ar SAE" of a word of the synopsis. */
static void put_word(const char *word, size_t n)
{
    if (n == 0)
        return;
    if (n > 2 && word[0] == '-')
        printf(".Fl %.*s\n", (int)(n - 1), word + 1);
    else
        printf(".Ar %.*s\n", (int)n, word);
}

static void put_synopsis(const struct program *program)
{
    printf(".Nm %s\n", program_name());
    for (const char *at = program->synopsis; *at;) {
        const size_t n = strcspn(at, " []");
        put_word(at, n);
        at += n;
        if (*at == '[')
            printf(".Oo\n");
        if (*at == ']')
            printf(".Oc%s\n", strncmp(at + 1, "...", 3) == 0 ? " Ns ..." : "");
        if (*at == ']' && at[1] == '.')
            at += 3;
        at += *at != '\0';
    }
}

static void put_option(const struct option_row *row)
{
    size_t n;
    const char *alias;
    printf(".It");
    for (size_t i = 0; (alias = option_alias(row, i, &n)); i++)
        if (n == 1)
            printf(" Fl %c ,", *alias);
    printf(" Fl -%s", row->name);
    for (size_t i = 0; (alias = option_alias(row, i, &n)); i++)
        if (n > 1)
            printf(" , Fl -%.*s", (int)n, alias);
    if (row->argument)
        printf(" Ar %s", row->argument);
    putchar('\n');
    put_prose(row->help);
}

/* A heading's list is open while `open`. */
static void put_options(const struct program *program)
{
    const struct option_row *row;
    bool open = false;
    for (size_t i = 0; (row = option_at(program, i)); i++) {
        const bool heading = !row->name || (row == option_common && !open);
        if (heading && open)
            printf(".El\n");
        if (!row->name)
            printf(".Ss %c%s\n", toupper((unsigned char)row->help[0]), row->help + 1);
        if (heading)
            printf(".Bl -tag -width Ds\n");
        open = true;
        if (row->name)
            put_option(row);
    }
    printf(".El\n");
}

static void put_pairs(const char *const *pair, const char *macro)
{
    printf(".Bl -tag -width Ds\n");
    for (; *pair; pair += 2) {
        printf(".It %s%s\n", macro, pair[0]);
        put_prose(pair[1]);
    }
    printf(".El\n");
}

static void put_examples(const struct program *program)
{
    for (const char *const *pair = program->examples; *pair; pair += 2) {
        if (pair != program->examples)
            printf(".Pp\n");
        printf("%c", toupper((unsigned char)pair[0][0]));
        put_prose(pair[0] + 1);
        printf(".Bd -literal -offset 2n\n%s ", program_name());
        put_text(pair[1], strlen(pair[1]));
        printf("\n.Ed\n");
    }
}

/* One line of the body; -1 if it names what there is not. */
static int put_line(const struct program *program, const char *line)
{
    if (strncmp(line, "@SYNOPSIS@", 10) == 0)
        put_synopsis(program);
    else if (strncmp(line, "@OPERANDS@", 10) == 0)
        put_pairs(program->operands, "Ar ");
    else if (strncmp(line, "@OPTIONS@", 9) == 0)
        put_options(program);
    else if (strncmp(line, "@EXAMPLES@", 10) == 0)
        put_examples(program);
    else if (strncmp(line, "@STATUSES@", 10) == 0)
        put_pairs(program->statuses, "");
    else if (*line == '@')
        return -1;
    else
        fputs(line, stdout);
    return 0;
}

int manual_print(const struct program *program, const char *body)
{
    FILE *const f = fopen(body, "r");
    char *line = NULL;
    size_t size = 0;
    int bad = 0;
    if (!f) {
        complain("%s: %s", body, strerror(errno));
        return -1;
    }
    while (!bad && getline(&line, &size, f) > 0) {
        bad = put_line(program, line);
        if (bad)
            complain("%s: unknown: %s", body, line);
    }
    bad |= !feof(f); /* it could not be read, or there is no memory for a line */
    free(line);
    fclose(f);
    return bad ? -1 : 0;
}
