/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A program's command line as one table, from which reading it, --help, the completions of shells
 * and the manual page come.
 */
#ifndef EXAMPLES_OPTIONS_H
#define EXAMPLES_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * {"context", "c ctx-size", "N", "tokens per chunk", 'n'}: --context N, -c N, --ctx-size N. Without
 * a name the row is a heading. An argument "a|b" with small letters is a choice of words; one that
 * begins with FILE, OUT, MODEL, SAE, TEXT, RESULT or FOLDER is a path; SPEC a condition.
 */
struct option_row {
    const char *name;
    const char *aliases;  /* blanks between; of one letter: -l; NULL: none */
    const char *argument; /* NULL: takes none */
    const char *help;
    int id;               /* from 1 */
};

struct program {
    const char *name, *summary;
    const char *synopsis;               /* what follows the name */
    const char *const *operands;        /* pairs of a name and its help, then NULL */
    const struct option_row *options;   /* [n_options] */
    size_t n_options;
    const char *const *examples;        /* pairs of what it does and its arguments, then NULL */
    const char *const *statuses;        /* pairs of an exit status and its meaning, then NULL */
};

/* The command line as it is read. */
struct arguments {
    const struct program *program;
    char **argv;
    int argc, at;
    bool only_operands;
};

enum { ARGUMENT_END = 0, ARGUMENT_OPERAND = -1 };

/* Begins; answers --help and the like, and ends the program there. */
struct arguments arguments_begin(const struct program *program, int argc, char **argv);

/* The id of the next option, its argument in *value, or ARGUMENT_*. Does not return from a usage
 * error. */
int arguments_next(struct arguments *a, const char **value);

/* "NAME: ..." and a hint on standard error; ends the program with EXIT_USAGE. */
__attribute__((format(printf, 1, 2), noreturn)) void usage_error(const char *format, ...);

/* Values of an option; a bad one is a usage error. */
int64_t option_count(const char *option, const char *text, int64_t low);
int32_t option_threads(const char *text); /* of --threads: 1 to 1024 */
/* Index of text in names (NULL-terminated). */
int32_t option_choice(const char *option, const char *text, const char *const *names);

enum { OPTION_COMMON = 2 };
/* --help and --version, then what only builds use. */
extern const struct option_row option_common[];

/* Row i of a program's options and then of those that all have; NULL behind the last. */
const struct option_row *option_at(const struct program *program, size_t i);

/* Word i of the row's aliases, its length in *n; NULL behind the last. */
const char *option_alias(const struct option_row *row, size_t i, size_t *n);

/* completion.c: a script for bash, zsh or fish on standard output; -1: unknown shell. */
int completion_print(const struct program *program, const char *shell);
/* manual.c: the page, around the text of a file; -1 after a message. */
int manual_print(const struct program *program, const char *body);

#endif
