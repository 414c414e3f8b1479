/* SPDX-License-Identifier: BSD-2-Clause */
/* Published figures beside measured ones. See doc/reproduce.md. */
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <jansson.h>

#include "layout.h"
#include "options.h"
#include "program.h"

static const char *const operands[] = {
    "TABLE", "file of published figures (examples/published.json)",
    "STUDY", "article or paper",
    "RUN=RESULT.json", "a run of that study (gemma-3-4b-pt, pythia-70m-deduped, ...) and its "
    "result, of evaluate --json",
    NULL
};

static const char *const examples[] = {
    "every figure of the article that one run measured",
    "examples/published.json article gemma-3-4b-pt=result.json",
    NULL
};

static const char *const statuses[] = {
    "0", "no figure is outside its tolerance",
    "1", "one is",
    "2", "wrong usage, or a file that cannot be read",
    NULL
};

static const struct program program = {
    .name = "published",
    .summary = "Prints every figure of a study: published, measured, whether it is within the "
               "tolerance.",
    .synopsis = "TABLE STUDY RUN=RESULT.json...",
    .operands = operands,
    .options = NULL,
    .n_options = 0,
    .examples = examples,
    .statuses = statuses,
};

enum { RUNS_MOST = 32, PART = 64, TEXT = 40, DEPTH_MOST = 16,
       DOCUMENT_MOST = 64 << 20 };

struct runs {
    const char *name[RUNS_MOST];
    size_t name_size[RUNS_MOST];
    json_t *result[RUNS_MOST];
    size_t n;
};

struct counts {
    int64_t within, outside, unpublished, unmeasured, budget;
};

static const char *text_of(const json_t *o, const char *key)
{
    return json_string_value(json_object_get(o, key));
}

/* A document of a few megabytes at most: its tree takes up to 60 times that. */
static json_t *load(const char *path)
{
    struct stat s;
    json_error_t error;
    FILE *const f = file_open(path, "rb");
    json_t *o = NULL;
    json_needs_memory(true);
    if (!f || fstat(fileno(f), &s) != 0)
        complain("%s: %s", path, strerror(errno));
    else if (S_ISREG(s.st_mode) && s.st_size > DOCUMENT_MOST)
        complain("%s: expected at most %d bytes, found %lld", path, DOCUMENT_MOST,
                 (long long)s.st_size);
    else if (!(o = json_loadf(f, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error)))
        complain("%s: line %d: %s", path, error.line, error.text);
    json_needs_memory(false);
    if (f)
        fclose(f);
    return o;
}

static bool begins(const char *text, const char *prefix, size_t n)
{
    return text && strncmp(text, prefix, n) == 0;
}

/* Element of a list: by index, by a snapshot's budget, by the beginning of its label, or, with A&B,
 * of its two labels. */
static const json_t *element(const json_t *list, const char *key)
{
    size_t i;
    const json_t *v;
    char *end;
    const long long index = strtoll(key, &end, 10);
    const bool number = *key && *end == 0;
    const char *const both = strchr(key, '&');
    const size_t n = both ? (size_t)(both - key) : strlen(key);
    json_array_foreach(list, i, v) {
        const json_t *const budget = json_object_get(v, "budget");
        if (number && (budget ? json_integer_value(budget) == index : (long long)i == index))
            return v;
        if (!number && begins(text_of(v, both ? "label_a" : "label"), key, n) &&
            (!both || begins(text_of(v, "label_b"), both + 1, strlen(both + 1))))
            return v;
    }
    return NULL;
}

/* Follows a.b[key].c; NULL where it leads nowhere. */
static const json_t *follow(const json_t *o, const char *path)
{
    for (int depth = 0; o && *path && depth < DEPTH_MOST; depth++) {
        char part[PART];
        const bool in_list = *path == '[';
        const char *const from = path + in_list;
        const size_t n = strcspn(from, in_list ? "]" : ".[");
        if (n >= sizeof part)
            return NULL;
        memcpy(part, from, n);
        part[n] = 0;
        o = in_list ? element(o, part) : json_object_get(o, part);
        path = from + n;
        path += (in_list && *path == ']') ? 1 : 0;
        path += *path == '.';
    }
    return o;
}

static const json_t *run_of(const struct runs *runs, const char *name, size_t n)
{
    for (size_t i = 0; i < runs->n; i++)
        if (runs->name_size[i] == n && memcmp(runs->name[i], name, n) == 0)
            return runs->result[i];
    return NULL;
}

/* A figure of a snapshot that a shorter run never took: that of the whole run, to be shown. */
static const json_t *find(const json_t *result, const char *path)
{
    const json_t *const v = follow(result, path);
    const char *const rest = strncmp(path, "snapshots[", 10) == 0 ? strchr(path, '.') : NULL;
    return v || !rest ? v : follow(result, rest + 1);
}

static double number_at(const json_t *result, const char *path)
{
    const json_t *const v = path ? find(result, path) : NULL;
    return json_is_number(v) ? json_number_value(v) : NAN;
}

/* The smallest or largest of "RUN:PATH"s; NaN unless all are there. */
static double extreme(const struct runs *runs, const json_t *paths, bool largest)
{
    double best = NAN;
    size_t i;
    const json_t *p;
    json_array_foreach(paths, i, p) {
        const char *const text = json_string_value(p), *const colon = text ? strchr(text, ':') : 0;
        const double v =
            colon ? number_at(run_of(runs, text, (size_t)(colon - text)), colon + 1) : NAN;
        if (isnan(v))
            return NAN;
        best = i == 0 || (largest ? v > best : v < best) ? v : best;
    }
    return best;
}

/* path, less minus, then exp, or the rise of a perplexity in percent. */
static double measured(const struct runs *runs, const json_t *figure)
{
    const char *const run = text_of(figure, "run"), *const apply = text_of(figure, "apply"),
               *const minus = text_of(figure, "minus");
    const json_t *const low = json_object_get(figure, "smallest"),
                 *const high = json_object_get(figure, "largest"),
                 *const result = run ? run_of(runs, run, strlen(run)) : NULL;
    if (low || high)
        return extreme(runs, low ? low : high, !low);
    double v = number_at(result, text_of(figure, "path"));
    if (minus)
        v -= number_at(result, minus);
    if (apply && strcmp(apply, "exp") == 0)
        v = exp(v);
    else if (apply && strcmp(apply, "rise") == 0)
        v = 100 * expm1(v);
    return v;
}

/* Whether a run measured as many tokens as the study did; runs without a budget always. */
static bool at_budget(const json_t *table, const char *study, const char *run,
                      const json_t *result)
{
    const json_t *const list =
        json_object_get(json_object_get(json_object_get(table, "budgets"), study), run), *v;
    const double tokens = number_at(result, "corpus.tokens");
    size_t i;
    json_array_foreach(list, i, v)
        if (json_number_value(v) == tokens)
            return true;
    return !list;
}

/* "published" or the bounds, as text. */
static void published_text(const json_t *figure, char *text)
{
    const json_t *const v = json_object_get(figure, "published");
    const char *const words = text_of(figure, "text"), *const equals = text_of(figure, "equals");
    const json_t *const low = json_object_get(figure, "low"),
                 *const high = json_object_get(figure, "high");
    const double t = json_number_value(json_object_get(figure, "tolerance"));
    if (words || equals)
        snprintf(text, TEXT, "%s", words ? words : equals);
    else if (v && t > 0)
        snprintf(text, TEXT, "%.8g +- %.3g", json_number_value(v), t);
    else if (v)
        snprintf(text, TEXT, "%.10g", json_number_value(v));
    else if (low || high)
        snprintf(text, TEXT, "%.10g..%.10g", low ? json_number_value(low) : -INFINITY,
                 high ? json_number_value(high) : INFINITY);
    else
        snprintf(text, TEXT, "-");
}

/* Whether the measured value is what was published; bounds are part of it. */
static bool within(const json_t *figure, double v)
{
    const json_t *const p = json_object_get(figure, "published"),
                 *const low = json_object_get(figure, "low"),
                 *const high = json_object_get(figure, "high");
    /* The tolerance of a difference of decimals: their last bits are not meant. */
    const double t = json_number_value(json_object_get(figure, "tolerance")) * (1 + 1e-9);
    if (p)
        return fabs(v - json_number_value(p)) <= t;
    return (!low || v >= json_number_value(low)) && (!high || v <= json_number_value(high));
}

/* Whether a figure that a result lacks should be there: the study had it at this budget, and the
 * part of the run that it is in was measured. */
static bool owed(const json_t *table, const char *study, const char *run, const char *path,
                 const json_t *result)
{
    char part[PART];
    const size_t n = path ? strcspn(path, ".[") : 0;
    if (!result || n == 0 || n >= sizeof part || !at_budget(table, study, run, result))
        return false;
    memcpy(part, path, n);
    part[n] = 0;
    return json_object_get(result, part) != NULL;
}

static const char *judge(const struct runs *runs, const json_t *table, const char *study,
                         const json_t *figure, char *found, struct counts *c)
{
    const char *const run = text_of(figure, "run"), *const equals = text_of(figure, "equals"),
               *const path = text_of(figure, "path");
    const json_t *const result = run ? run_of(runs, run, strlen(run)) : NULL;
    const char *const word =
        equals && path ? json_string_value(follow(result, path)) : NULL;
    const double v = equals ? NAN : measured(runs, figure);
    const bool published = equals || json_object_get(figure, "published") ||
                           json_object_get(figure, "low") || json_object_get(figure, "high");
    snprintf(found, TEXT, "-");
    if (equals ? word != NULL : !isnan(v))
        equals ? snprintf(found, TEXT, "%.30s", word) : snprintf(found, TEXT, "%.8g", v);
    if (!published)
        return c->unpublished++, "not published";
    if ((equals ? !word : isnan(v)) && !owed(table, study, run, path, result))
        return c->unmeasured++, "not measured";
    if (!at_budget(table, study, run, result))
        return c->budget++, "not at published budget";
    if (equals ? word && strcmp(word, equals) == 0 : !isnan(v) && within(figure, v))
        return c->within++, "within";
    return c->outside++, "outside";
}

/* The figures of one run. */
static void print_run(const struct page *p, const char *run, struct grid **g, bool first)
{
    if (!*g)
        return;
    fprintf(p->out, "%s%s\n", first ? "" : "\n", run);
    grid_print(p, 2, g);
}

static struct grid *open_run(void)
{
    struct grid *const g = grid_open(1);
    grid_column(g, COLUMN_NAME, "");
    grid_column(g, COLUMN_TEXT, "published");
    grid_column(g, COLUMN_TEXT, "measured");
    grid_column(g, COLUMN_TEXT, "");
    return g;
}

static int compare(const struct page *p, const struct runs *runs, const json_t *table,
                   const char *study, struct counts *c)
{
    const json_t *const list = json_object_get(table, study), *figure;
    const char *shown = NULL;
    struct grid *g = NULL;
    bool first = true;
    size_t i;
    if (!json_is_array(list)) {
        complain("no study \"%s\"; expected article or paper", study);
        return -1;
    }
    json_array_foreach(list, i, figure) {
        char want[TEXT], found[TEXT];
        const char *const run = text_of(figure, "run"), *const name = text_of(figure, "figure");
        if (!run || !name) {
            complain("%s[%zu]: run or figure is missing", study, i);
            return -1;
        }
        if (!shown || strcmp(run, shown) != 0) {
            print_run(p, shown, &g, first);
            first = first && !shown;
            g = open_run();
        }
        shown = run;
        const char *const verdict = judge(runs, table, study, figure, found, c);
        published_text(figure, want);
        grid_row(g);
        grid_put(g, "%s", name);
        grid_put(g, "%s", want);
        grid_put(g, "%s", found);
        grid_put(g, "%s", verdict);
    }
    print_run(p, shown, &g, first);
    return 0;
}

static void reasons(const struct page *p, const json_t *table, const char *study)
{
    const char *key;
    json_t *why;
    const json_t *figure;
    size_t i;
    fprintf(p->out, "\ntolerances\n");
    json_object_foreach(json_object_get(table, "reasons"), key, why) {
        bool used = false;
        json_array_foreach(json_object_get(table, study), i, figure) {
            const char *const of = text_of(figure, "why");
            used = used || (of && strcmp(of, key) == 0);
        }
        if (used && json_string_value(why))
            say(p, 13, "  %-10s %s", key, json_string_value(why));
    }
}

static int take_run(const char *argument, struct runs *runs)
{
    const char *const equal = strchr(argument, '=');
    if (!equal || runs->n == RUNS_MOST) {
        usage_error("expected RUN=RESULT.json, found \"%s\"", argument);
    }
    runs->name[runs->n] = argument;
    runs->name_size[runs->n] = (size_t)(equal - argument);
    runs->result[runs->n] = load(equal + 1);
    if (!runs->result[runs->n])
        return -1;
    const char *const format = text_of(runs->result[runs->n++], "format");
    if (format && strcmp(format, "qsae-result") == 0)
        return 0;
    complain("%s: expected a qsae-result", equal + 1);
    return -1;
}

int main(int argc, char **argv)
{
    struct arguments arguments = arguments_begin(&program, argc, argv);
    struct runs runs = { .n = 0 };
    struct counts c = { 0 };
    const char *value, *study = NULL;
    json_t *table = NULL;
    bool ok = true;
    for (int n = 0; arguments_next(&arguments, &value) != ARGUMENT_END && ok; n++) {
        if (n == 0)
            ok = (table = load(value)) != NULL;
        else if (n == 1)
            study = value;
        else
            ok = take_run(value, &runs) == 0;
    }
    if (ok && !study)
        usage_error("expected TABLE and STUDY");
    const struct page page = page_of(stdout, false);
    int code = EXIT_USAGE;
    if (ok && compare(&page, &runs, table, study, &c) == 0) {
        reasons(&page, table, study);
        fputc('\n', stdout);
        say(&page, 2, "%lld within, %lld outside, %lld not at the published budget, %lld not "
            "measured, %lld not published", (long long)c.within, (long long)c.outside,
            (long long)c.budget, (long long)c.unmeasured, (long long)c.unpublished);
        code = c.outside > 0;
    }
    for (size_t i = 0; i < runs.n; i++)
        json_decref(runs.result[i]);
    json_decref(table);
    return program_end(code);
}
