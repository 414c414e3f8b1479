/* SPDX-License-Identifier: BSD-2-Clause */
/* Completions of a program's options for bash, zsh and fish. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "options.h"
#include "program.h"

/* What conditions begin with. */
static const char *const conditions =
    "none llm.int8 llm.int8:threshold=6 nf4 nf4:block=64,double=1 fp4 rtn:bits=8 rtn:bits=6 "
    "rtn:bits=4 rtn:bits=3 rtn:bits=4,group=128 ggml:q4_0 ggml:q4_1 ggml:q5_0 ggml:q5_1 ggml:q8_0 "
    "ggml:q2_k ggml:q3_k ggml:q4_k ggml:q5_k ggml:q6_k ggml:iq4_nl ggml:iq4_xs "
    "none+prune:sparsity=0.5 none+prune:pattern=2:4 none+kv:k=q8_0,v=q4_0 control:null "
    "control:floor control:shuffle";

enum value { VALUE_NONE, VALUE_WORD, VALUE_CHOICE, VALUE_PATH, VALUE_FOLDER, VALUE_CONDITION };

static enum value value_of(const struct option_row *row)
{
    static const char *const paths[] = { "FILE", "OUT", "MODEL", "SAE", "TEXT", "RESULT", NULL };
    if (!row->argument)
        return VALUE_NONE;
    if (strncmp(row->argument, "SPEC", 4) == 0)
        return VALUE_CONDITION;
    if (strcmp(row->argument, "FOLDER") == 0)
        return VALUE_FOLDER;
    for (const char *const *p = paths; *p; p++)
        if (strncmp(row->argument, *p, strlen(*p)) == 0)
            return VALUE_PATH;
    return strchr(row->argument, '|') ? VALUE_CHOICE : VALUE_WORD;
}

static bool takes_condition(const struct program *program)
{
    for (const char *const *pair = program->operands; *pair; pair += 2)
        if (strcmp(pair[0], "CONDITION") == 0)
            return true;
    return false;
}

/* "a|b|c" with blanks between. */
static void print_choices(const char *text)
{
    for (; *text; text++)
        putchar(*text == '|' ? ' ' : *text);
}

/* The first clause of a help text, without what shells read as something else. */
static void print_brief(const char *help)
{
    for (size_t n = 0; n < 72 && help[n]; n++) {
        if (strchr(";(", help[n]) || (help[n] == ':' && help[n + 1] == ' '))
            break;
        if (!strchr("'\"[]\\`$:{}", help[n]))
            putchar(help[n]);
    }
}

static void print_identifier(void)
{
    for (const char *c = program_name(); *c; c++)
        putchar(isalnum((unsigned char)*c) ? *c : '_');
}

/* Every spelling of an option, `between` them. */
static void print_spellings(const struct option_row *row, const char *between)
{
    size_t n;
    const char *alias;
    printf("--%s", row->name);
    for (size_t i = 0; (alias = option_alias(row, i, &n)); i++)
        printf("%s%s%.*s", between, n == 1 ? "-" : "--", (int)n, alias);
}

/* ---- bash ---- */

static void bash_value(const struct option_row *row, enum value kind)
{
    printf("    ");
    print_spellings(row, "|");
    printf(") ");
    if (kind == VALUE_CHOICE) {
        printf("words='");
        print_choices(row->argument);
        printf("' ;;\n");
    } else {
        printf("%s ;;\n", kind == VALUE_CONDITION ? "words=$conditions files=-f"
                          : kind == VALUE_FOLDER  ? "files=-d"
                          : kind == VALUE_PATH    ? "files=-f"
                                                  : ":");
    }
}

/* The word is taken from the line: bash splits words at : and =, which conditions are full of. */
static const char bash_head[] =
    "{\n"
    "    local line=${COMP_LINE:0:COMP_POINT} words= files= value option= strip=\n"
    "    local conditions='%s'\n"
    "    local cur=${line##*[[:space:]]}\n"
    "    local before=${line%%\"$cur\"}\n"
    "    value=$cur\n"
    "    if [[ $cur == --*=* ]]; then\n"
    "        option=${cur%%%%=*} value=${cur#*=}\n"
    "    else\n"
    "        before=${before%%\"${before##*[![:space:]]}\"}\n"
    "        option=${before##*[[:space:]]}\n"
    "    fi\n"
    "    case $option in\n";

static const char bash_tail[] =
    "    esac\n"
    "    local prefix=${cur%\"$value\"} IFS=$' \\t\\n'\n"
    "    COMPREPLY=($(compgen -W \"$words\" -- \"$value\"))\n"
    "    if [[ $files ]]; then\n"
    "        local IFS=$'\\n'\n"
    "        local -a found=($(compgen $files -- \"$value\"))\n"
    "        if (( ${#found[@]} )); then\n"
    "            compopt -o filenames 2>/dev/null\n"
    "            COMPREPLY+=(\"${found[@]}\")\n"
    "        fi\n"
    "    fi\n"
    "    # What stands before the last break of the line stays as it is.\n"
    "    local whole=$prefix$value\n"
    "    if [[ $COMP_WORDBREAKS == *:* && $COMP_WORDBREAKS == *=* ]]; then\n"
    "        strip=${whole%\"${whole##*[:=]}\"}\n"
    "    fi\n"
    "    local i\n"
    "    for i in \"${!COMPREPLY[@]}\"; do\n"
    "        COMPREPLY[i]=$prefix${COMPREPLY[i]}\n"
    "        COMPREPLY[i]=${COMPREPLY[i]#\"$strip\"}\n"
    "    done\n"
    "    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null\n"
    "    return 0\n"
    "}\n";

static void bash_print(const struct program *program)
{
    const struct option_row *row;
    printf("# bash completion of %s, written by it\n_", program_name());
    print_identifier();
    printf("()\n");
    printf(bash_head, conditions);
    for (size_t i = 0; (row = option_at(program, i)); i++)
        if (row->name && row->argument)
            bash_value(row, value_of(row));
    printf("    *)\n"
           "        if [[ $cur == -* ]]; then\n"
           "            words='");
    for (size_t i = 0; (row = option_at(program, i)); i++)
        if (row->name)
            printf("--%s ", row->name);
    printf("'\n"
           "        else\n"
           "            files=-f%s\n"
           "        fi ;;\n", takes_condition(program) ? " words=$conditions" : "");
    fputs(bash_tail, stdout);
    printf("complete -F _");
    print_identifier();
    printf(" %s\n", program_name());
}

/* ---- zsh ---- */

static void zsh_action(const struct option_row *row)
{
    switch (value_of(row)) {
    case VALUE_CHOICE:
        printf("(");
        print_choices(row->argument);
        printf(")");
        break;
    case VALUE_PATH: printf("_files"); break;
    case VALUE_FOLDER: printf("_files -/"); break;
    case VALUE_CONDITION: printf("_qsae_condition"); break;
    default: printf(" "); break;
    }
}

static void zsh_spelling(const struct option_row *row, const char *name, size_t n)
{
    printf("        '*%s%.*s%s[", n == 1 ? "-" : "--", (int)n, name,
           !row->argument ? "" : n == 1 ? "+" : "=");
    print_brief(row->help);
    printf("]");
    if (row->argument) {
        printf(":");
        print_brief(row->argument);
        printf(":");
        zsh_action(row);
    }
    printf("' \\\n");
}

static void zsh_print(const struct program *program)
{
    const struct option_row *row;
    printf("#compdef %s\n"
           "# zsh completion of %s, written by it\n"
           "_qsae_condition() {\n"
           "    local -a conditions=(%s)\n"
           "    compadd -a conditions\n"
           "    _files\n"
           "}\n_", program_name(), program_name(), conditions);
    print_identifier();
    printf("() {\n    _arguments \\\n");
    for (size_t i = 0; (row = option_at(program, i)); i++) {
        size_t n;
        const char *alias;
        if (!row->name)
            continue;
        zsh_spelling(row, row->name, strlen(row->name));
        for (size_t k = 0; (alias = option_alias(row, k, &n)); k++)
            if (n == 1)
                zsh_spelling(row, alias, n);
    }
    printf("        '*:file:%s'\n}\n_", takes_condition(program) ? "_qsae_condition" : "_files");
    print_identifier();
    printf(" \"$@\"\n");
}

/* ---- fish ---- */

static void fish_print(const struct program *program)
{
    const struct option_row *row;
    printf("# fish completion of %s, written by it\n", program_name());
    for (size_t i = 0; (row = option_at(program, i)); i++) {
        size_t n;
        const char *alias;
        if (!row->name)
            continue;
        printf("complete -c %s -l %s", program_name(), row->name);
        for (size_t k = 0; (alias = option_alias(row, k, &n)); k++)
            if (n == 1)
                printf(" -s %c", *alias);
        const enum value kind = value_of(row);
        if (kind == VALUE_PATH || kind == VALUE_FOLDER)
            printf(" -r -F");
        else if (kind == VALUE_CONDITION)
            printf(" -r -F -a '%s'", conditions);
        else if (kind == VALUE_WORD)
            printf(" -x");
        if (kind == VALUE_CHOICE) {
            printf(" -x -a '");
            print_choices(row->argument);
            printf("'");
        }
        printf(" -d '");
        print_brief(row->help);
        printf("'\n");
    }
    if (takes_condition(program))
        printf("complete -c %s -a '%s'\n", program_name(), conditions);
}

int completion_print(const struct program *program, const char *shell)
{
    static const struct {
        const char *name;
        void (*print)(const struct program *);
    } shells[] = { { "bash", bash_print }, { "zsh", zsh_print }, { "fish", fish_print } };
    for (size_t i = 0; i < sizeof shells / sizeof shells[0]; i++)
        if (strcmp(shell, shells[i].name) == 0) {
            shells[i].print(program);
            return 0;
        }
    return -1;
}
