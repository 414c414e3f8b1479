/* SPDX-License-Identifier: BSD-2-Clause */
#include "layout.h"

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "program.h"

enum { NARROWEST = 60, SHORTEST = 10, WRAPPED_LEAST = 24, DIVIDED = 20, GAP = 2 };

FILE *text_open(char **text, size_t *size)
{
    *text = NULL;
    return needed(open_memstream(text, size));
}

void text_close(FILE *f, char **text)
{
    const bool whole = fflush(f) == 0 && !ferror(f);
    const bool closed = fclose(f) == 0;
    needed(whole && closed ? *text : NULL);
}

struct page page_of(FILE *out, bool wide)
{
    struct page p = { out, wide ? SIZE_MAX : PAGE_WIDTH };
    struct winsize w;
    if (!wide && isatty(fileno(out)) && ioctl(fileno(out), TIOCGWINSZ, &w) == 0 && w.ws_col)
        p.width = w.ws_col > NARROWEST ? w.ws_col : NARROWEST;
    return p;
}

/* Characters of the first n bytes of UTF-8. */
static size_t characters(const char *text, size_t n)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += ((unsigned char)text[i] & 0xc0) != 0x80;
    return count;
}

static size_t width_of(const char *text)
{
    return characters(text, strlen(text));
}

/* Bytes of the first n characters. */
static size_t bytes_of(const char *text, size_t n)
{
    size_t i = 0;
    for (; text[i]; i++)
        if (((unsigned char)text[i] & 0xc0) != 0x80 && n-- == 0)
            break;
    return i;
}

static char *print_text(const char *format, va_list list)
{
    va_list again;
    va_copy(again, list);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    const int n = vsnprintf(NULL, 0, format, again);
    char *const text = needed(n < 0 ? NULL : malloc((size_t)n + 1));
    vsnprintf(text, (size_t)n + 1, format, list);
#pragma GCC diagnostic pop
    va_end(again);
    for (char *c = text; *c; c++) /* what a file says must not drive the terminal */
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '.';
    return text;
}

/* Bytes of the first line of a text within n characters: up to a blank, else behind a mark that
 * joins parts of labels and paths, else as many as there is room for. */
static size_t line_of(const char *text, size_t n)
{
    const size_t all = bytes_of(text, n);
    if (!text[all])
        return all;
    if (text[all] == ' ')
        return all;
    for (size_t i = all; i-- > 1;)
        if (text[i] == ' ')
            return i;
    for (size_t i = all; i-- > 1;)
        if (strchr(",:/+@)&", text[i]))
            return i + 1;
    return all;
}

/* Writes a text, n characters to a line; further lines after `indent` blanks. */
static void wrap(FILE *out, const char *text, size_t first, size_t n, size_t indent)
{
    for (size_t line = 0; line == 0 || *text; line++) {
        const size_t size = line_of(text, line ? n : first);
        if (line)
            fprintf(out, "\n%*s", (int)indent, "");
        size_t kept = size;
        while (kept && text[size] && text[kept - 1] == ' ')
            kept--;
        fwrite(text, 1, kept, out);
        text += size;
        text += strspn(text, " ");
    }
}

void say(const struct page *p, size_t indent, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    char *const text = print_text(format, list);
    va_end(list);
    /* Blanks in front belong to the paragraph. */
    const size_t lead = strspn(text, " ");
    fprintf(p->out, "%*s", (int)lead, "");
    wrap(p->out, text + lead, p->width - lead, p->width - indent, indent);
    fputc('\n', p->out);
    free(text);
}

/* ---- tables ---- */

enum { COLUMNS_MOST = 256 };

struct grid {
    size_t n_keys, n_columns, n_rows, next, capacity;
    enum column kind[COLUMNS_MOST];
    char *head[COLUMNS_MOST];
    size_t width[COLUMNS_MOST]; /* 0: the column is empty */
    char **cells;               /* [n_rows * n_columns] */
};

struct grid *grid_open(size_t n_keys)
{
    struct grid *const g = needed(calloc(1, sizeof *g));
    g->n_keys = n_keys;
    return g;
}

void grid_column(struct grid *g, enum column kind, const char *head)
{
    if (g->n_columns == COLUMNS_MOST)
        return;
    g->kind[g->n_columns] = kind;
    g->head[g->n_columns++] = needed(strdup(head));
}

void grid_row(struct grid *g)
{
    const size_t n = g->n_columns;
    if (g->n_rows == g->capacity) {
        g->capacity = g->capacity ? 2 * g->capacity : 16;
        g->cells = needed(realloc(g->cells, g->capacity * n * sizeof *g->cells));
    }
    memset(g->cells + g->n_rows * n, 0, n * sizeof *g->cells);
    g->n_rows++;
    g->next = 0;
}

void grid_put(struct grid *g, const char *format, ...)
{
    va_list list;
    if (g->next == g->n_columns)
        return;
    char **const cell = &g->cells[(g->n_rows - 1) * g->n_columns + g->next++];
    va_start(list, format);
    *cell = print_text(format, list);
    va_end(list);
}

void grid_number(struct grid *g, const char *format, double v)
{
    if (isnan(v)) {
        grid_put(g, "-");
        return;
    }
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    grid_put(g, format, v);
#pragma GCC diagnostic pop
}

void grid_interval(struct grid *g, int digits, double v, const double interval[2])
{
    if (isnan(v))
        grid_put(g, "-");
    else if (interval)
        grid_put(g, "%+.*f [%+.*f, %+.*f]", digits, v, digits, interval[0], digits, interval[1]);
    else
        grid_put(g, "%+.*f", digits, v);
}

static const char *cell(const struct grid *g, size_t row, size_t column)
{
    const char *const text = g->cells[row * g->n_columns + column];
    return text ? text : "";
}

static bool gives(enum column kind)
{
    return kind == COLUMN_LABEL || kind == COLUMN_NAME;
}

static void measure(struct grid *g)
{
    for (size_t c = 0; c < g->n_columns; c++) {
        for (size_t r = 0; r < g->n_rows; r++)
            if (width_of(cell(g, r, c)) > g->width[c])
                g->width[c] = width_of(cell(g, r, c));
        if (g->width[c] && g->width[c] < width_of(g->head[c]))
            g->width[c] = width_of(g->head[c]);
    }
}

/* What a column takes at least, its gap included. */
static size_t taken(const struct grid *g, size_t c)
{
    const size_t w = g->width[c];
    if (w == 0)
        return 0;
    return (g->kind[c] == COLUMN_WRAPPED && w > WRAPPED_LEAST ? WRAPPED_LEAST : w) + GAP;
}

static size_t total(const struct grid *g, size_t from, size_t to)
{
    size_t sum = 0;
    for (size_t c = from; c < to; c++)
        sum += taken(g, c);
    return sum;
}

/* Names and labels of keys as wide as `most`, if they need it. */
static void widen(struct grid *g, size_t most)
{
    for (size_t c = 0; c < g->n_keys; c++)
        for (size_t r = 0; r < g->n_rows && gives(g->kind[c]); r++)
            while (g->width[c] < most && g->width[c] < width_of(cell(g, r, c)))
                g->width[c]++;
}

/* Names and labels give way, the widest first, until the table fits or they are short; then it is
 * divided, and there is room again. */
static void shrink(struct grid *g, size_t room)
{
    while (total(g, 0, g->n_columns) > room) {
        size_t widest = g->n_columns;
        for (size_t c = 0; c < g->n_columns; c++)
            if (gives(g->kind[c]) && g->width[c] > SHORTEST &&
                (widest == g->n_columns || g->width[c] > g->width[widest]))
                widest = c;
        if (widest == g->n_columns) {
            widen(g, DIVIDED);
            return;
        }
        g->width[widest]--;
    }
}

/* Bytes of a label's beginning that fit w characters, best without a part of an option. */
static size_t label_part(const char *text, size_t w, bool *whole)
{
    const size_t all = bytes_of(text, w + 1);
    for (size_t i = all; i-- > all / 2;)
        if (text[i] == ',') {
            *whole = true;
            return i;
        }
    *whole = false;
    return bytes_of(text, w - 2);
}

static void put_long(FILE *out, const char *text, size_t w, bool last)
{
    bool whole;
    const size_t size = label_part(text, w, &whole), n = characters(text, size) + (whole ? 0 : 2);
    fprintf(out, "%.*s%s%*s", (int)size, text, whole ? "" : "..", (int)(last ? 0 : w - n), "");
}

static void put_cell(FILE *out, const struct grid *g, size_t c, const char *text, bool last)
{
    const size_t n = width_of(text), w = g->width[c];
    if (g->kind[c] == COLUMN_NUMBER)
        fprintf(out, "%*s%s", (int)(w > n ? w - n : 0), "", text);
    else if (n > w)
        put_long(out, text, w, last);
    else
        fprintf(out, "%s%*s", text, (int)(last ? 0 : w - n), "");
}

/* Whether a name of the row does not fit: all of them stand above it then. */
static bool names_above(const struct page *p, size_t indent, const struct grid *g, size_t r)
{
    bool above = false;
    for (size_t c = 0; c < g->n_keys; c++)
        above |= g->kind[c] == COLUMN_NAME && width_of(cell(g, r, c)) > g->width[c];
    if (!above)
        return false;
    char *text;
    size_t size;
    FILE *const f = text_open(&text, &size);
    for (size_t c = 0; c < g->n_keys; c++)
        if (g->kind[c] == COLUMN_NAME)
            fprintf(f, "%s ", cell(g, r, c));
    text_close(f, &text);
    text[strlen(text) - 1] = '\0';
    say(p, indent + GAP, "%*s%s", (int)indent, "", text);
    free(text);
    return true;
}

/* A row, the heading for r = n_rows, of the key columns and those of [from, to). */
static void put_row(const struct page *p, size_t indent, const struct grid *g, size_t r,
                    size_t from, size_t to)
{
    size_t at = indent, last = 0;
    const bool head = r == g->n_rows, above = !head && names_above(p, indent, g, r);
    for (size_t c = 0; c < to; c++)
        if ((c < g->n_keys || c >= from) && g->width[c] && *(head ? g->head[c] : cell(g, r, c)))
            last = c;
    fprintf(p->out, "%*s", (int)indent, "");
    for (size_t c = 0, n = 0; c <= last && c < to; c++) {
        if (!g->width[c] || (c >= g->n_keys && c < from))
            continue;
        const bool blank = above && g->kind[c] == COLUMN_NAME;
        const char *const text = head ? g->head[c] : blank ? "" : cell(g, r, c);
        at += n ? GAP : 0;
        fprintf(p->out, "%*s", n++ ? GAP : 0, "");
        if (g->kind[c] == COLUMN_WRAPPED && p->width > at)
            wrap(p->out, text, p->width - at, p->width - at, at);
        else
            put_cell(p->out, g, c, text, c == last);
        at += g->width[c];
    }
    fputc('\n', p->out);
}

static void grid_close(struct grid **g)
{
    for (size_t i = 0; i < (*g)->n_rows * (*g)->n_columns; i++)
        free((*g)->cells[i]);
    for (size_t c = 0; c < (*g)->n_columns; c++)
        free((*g)->head[c]);
    free((*g)->cells);
    free(*g);
    *g = NULL;
}

void grid_print(const struct page *p, size_t indent, struct grid **grid)
{
    struct grid *const g = *grid;
    const size_t room = p->width == SIZE_MAX ? SIZE_MAX : p->width - indent + GAP;
    measure(g);
    shrink(g, room);
    const size_t keys = total(g, 0, g->n_keys);
    for (size_t from = g->n_keys, to; g->n_rows && from < g->n_columns; from = to) {
        size_t used = keys + taken(g, from);
        for (to = from + 1; to < g->n_columns && used + taken(g, to) <= room; to++)
            used += taken(g, to);
        if (used == keys)
            continue; /* empty columns alone */
        put_row(p, indent, g, g->n_rows, from, to);
        for (size_t r = 0; r < g->n_rows; r++)
            put_row(p, indent, g, r, from, to);
    }
    grid_close(grid);
}
