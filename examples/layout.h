/* SPDX-License-Identifier: BSD-2-Clause */
/* Text that fits a width: wrapped lines, and tables that are divided where they are too wide. */
#ifndef EXAMPLES_LAYOUT_H
#define EXAMPLES_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* Where text goes; SIZE_MAX columns: nothing is wrapped or divided. */
struct page {
    FILE *out;
    size_t width;
};

enum { PAGE_WIDTH = 100 };

/* The page of a stream: a terminal's width (60 at least), else 100 columns. */
struct page page_of(FILE *out, bool wide);

/* A paragraph; lines after its first one begin with `indent` blanks. Control characters become
 * dots. */
__attribute__((format(printf, 3, 4))) void say(const struct page *p, size_t indent,
                                               const char *format, ...);

/* A stream into memory, and its text, which the caller frees, as it is closed. Without memory the
 * program ends with a message. */
FILE *text_open(char **text, size_t *size);
void text_close(FILE *f, char **text);

/* How a column is set, and what gives where a table is too wide. */
enum column {
    COLUMN_NUMBER,  /* to the right */
    COLUMN_TEXT,    /* to the left */
    COLUMN_LABEL,   /* is cut: its full form is elsewhere */
    COLUMN_NAME,    /* stands on a line of its own above the row */
    COLUMN_WRAPPED, /* goes on below; the last one */
};

struct grid;

/* The first n_keys columns begin every part of a table that is divided. */
struct grid *grid_open(size_t n_keys);
void grid_column(struct grid *g, enum column kind, const char *head);
void grid_row(struct grid *g);
/* The next cell of the row. */
__attribute__((format(printf, 2, 3))) void grid_put(struct grid *g, const char *format, ...);
/* A number, "-" for NaN. */
void grid_number(struct grid *g, const char *format, double v);
/* A value with its interval [low, high] if there is one: "+0.01 [+0.00, +0.02]". */
void grid_interval(struct grid *g, int digits, double v, const double interval[2]);
/* Prints the columns that have any text, `indent` blanks in front, and closes the grid. */
void grid_print(const struct page *p, size_t indent, struct grid **g);

#endif
