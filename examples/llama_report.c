/* SPDX-License-Identifier: BSD-2-Clause */
#include "llama_report.h"

#include <math.h>
#include <string.h>

#include "number.h"

#define PLUS_MINUS "\xc2\xb1"
#define DELTA_P "\xce\x94p"
#define LEAST_TOKENS 100 /* for statistics */

static double error_of(const json_t *o, const char *key)
{
    char name[64];
    snprintf(name, sizeof name, "%s_se", key);
    return number(o, name);
}

static void print_lines(FILE *f, const json_t *lines)
{
    size_t i;
    const json_t *line;
    fprintf(f, "\nchunk             PPL               ln(PPL(Q)/PPL(base))          KL Divergence"
               "              " DELTA_P " RMS            Same top p\n");
    json_array_foreach(lines, i, line) {
        double v[11];
        for (size_t k = 0; k < 11; k++) {
            const json_t *const x = json_array_get(line, k);
            v[k] = json_is_number(x) ? json_number_value(x) : NAN;
        }
        fprintf(f, "%4.0f    %9.4f " PLUS_MINUS " %9.4f    %10.5f " PLUS_MINUS " %10.5f", v[0],
                v[1], v[2], v[3], v[4]);
        fprintf(f, "    %10.5f " PLUS_MINUS " %10.5f    %6.3f " PLUS_MINUS " %6.3f %%", v[5], v[6],
                100 * v[7], 100 * v[8]);
        fprintf(f, "    %6.3f " PLUS_MINUS " %6.3f %%\n", 100 * v[9], 100 * v[10]);
    }
    fprintf(f, "\n");
}

static void print_perplexity(FILE *f, const json_t *o)
{
    static const struct {
        const char *key, *label;
    } rows[] = {
        { "ppl_q", "Mean PPL(Q)                   " },
        { "ppl_base", "Mean PPL(base)                " },
        { NULL, "Cor(ln(PPL(Q)), ln(PPL(base)))" },
        { "ln_ppl_ratio", "Mean ln(PPL(Q)/PPL(base))     " },
        { "ppl_ratio", "Mean PPL(Q)/PPL(base)         " },
        { "ppl_difference", "Mean PPL(Q)-PPL(base)         " },
    };
    fprintf(f, "====== Perplexity statistics ======\n");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (rows[i].key)
            fprintf(f, "%s: %10.6f " PLUS_MINUS " %10.6f\n", rows[i].label, number(o, rows[i].key),
                    error_of(o, rows[i].key));
        else
            fprintf(f, "%s: %6.2f%%\n", rows[i].label, 100 * number(o, "ln_ppl_correlation"));
    fprintf(f, "\n");
}

/* Quantiles, largest first; those of KLD leave two out. */
static const struct {
    const char *key, *label;
    int both;
} quantiles[] = {
    { "max", "Maximum", 1 },   { "q99_9", "99.9%  ", 1 }, { "q99", "99.0%  ", 1 },
    { "q95", "95.0%  ", 1 },   { "q90", "90.0%  ", 1 },   { "q75", "75.0%  ", 0 },
    { "median", "Median ", 1 }, { "q25", "25.0%  ", 0 },  { "q10", "10.0%  ", 1 },
    { "q5", " 5.0%  ", 1 },    { "q1", " 1.0%  ", 1 },    { "q0_1", " 0.1%  ", 1 },
    { "min", "Minimum", 1 },
};

static void print_quantiles(FILE *f, const json_t *o, int kl)
{
    for (size_t i = 0; i < sizeof quantiles / sizeof quantiles[0]; i++) {
        char key[32];
        snprintf(key, sizeof key, "%s_%s", kl ? "kld" : "dp", quantiles[i].key);
        if (kl && quantiles[i].both)
            fprintf(f, "%s KLD: %10.6f\n", quantiles[i].label, number(o, key));
        else if (!kl)
            fprintf(f, "%s " DELTA_P ": %6.3f%%\n", quantiles[i].label, 100 * number(o, key));
    }
}

static void print_statistics(FILE *f, const json_t *o)
{
    print_perplexity(f, o);
    fprintf(f, "====== KL divergence statistics ======\n");
    fprintf(f, "Mean    KLD: %10.6f " PLUS_MINUS " %10.6f\n", number(o, "kld_mean"),
            number(o, "kld_mean_se"));
    print_quantiles(f, o, 1);
    fprintf(f, "\n====== Token probability statistics ======\n");
    fprintf(f, "Mean    " DELTA_P ": %6.3f " PLUS_MINUS " %5.3f %%\n", 100 * number(o, "dp_mean"),
            100 * number(o, "dp_mean_se"));
    print_quantiles(f, o, 0);
    fprintf(f, "RMS " DELTA_P "    : %6.3f " PLUS_MINUS " %5.3f %%\n", 100 * number(o, "dp_rms"),
            100 * number(o, "dp_rms_se"));
    fprintf(f, "Same top p: %6.3f " PLUS_MINUS " %5.3f %%\n", 100 * number(o, "same_top"),
            100 * number(o, "same_top_se"));
}

static void print_model(FILE *f, const json_t *model)
{
    const json_t *const o = json_object_get(model, "llama_cpp"),
                 *const lines = json_object_get(o, "lines");
    const double tokens = number(o, "tokens"), sample = number(o, "quantile_sample");
    if (!json_is_object(o))
        return;
    fprintf(f, "\n%s\n", json_string_value(json_object_get(model, "label")));
    if (json_array_size(lines) > 0)
        print_lines(f, lines);
    else
        fprintf(f, "\n(no running lines: memory does not hold all %.0f tokens)\n\n", tokens);
    if (!(tokens >= LEAST_TOKENS))
        return;
    print_statistics(f, o);
    if (sample < tokens)
        fprintf(f, "(quantiles of a sample of %.0f of the %.0f tokens)\n", sample, tokens);
}

void llama_report_print(FILE *f, const json_t *result)
{
    size_t i;
    const json_t *condition;
    print_model(f, json_object_get(result, "reference"));
    json_array_foreach(json_object_get(result, "conditions"), i, condition)
        print_model(f, condition);
}
