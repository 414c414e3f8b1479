/* SPDX-License-Identifier: BSD-2-Clause */
#include "plan.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "number.h"
#include "table.h"

enum { LINES = 40 };

static char *joined(const char *a, const char *b)
{
    char *const text = malloc(strlen(a) + strlen(b) + 1);
    if (text)
        sprintf(text, "%s%s", a, b);
    return text;
}

/* The sweep of the same text and conditions, without what a plan does not need. */
static int32_t run_sweep(qsae_context *context, struct plan *p, const qsae_audit_settings *s)
{
    qsae_audit_settings sweep = *s;
    qsae_audit *audit = NULL;
    const char *json;
    sweep.sweep = s->sweep ? s->sweep : QSAE_SWEEP_LAYERS;
    sweep.splice = 0;
    sweep.controls = 0;
    sweep.top_contexts = 0;
    sweep.n_slices = 0;
    if (s->state && !(sweep.state = p->state = joined(s->state, ".sweep")))
        return QSAE_ENOMEM;
    int32_t st = qsae_audit_open(context, &sweep, &audit);
    if (st == QSAE_OK)
        st = qsae_audit_run(audit);
    if (st == QSAE_OK)
        st = qsae_audit_plan(audit, p->bits, p->by_dce, &json);
    if (st == QSAE_OK && !(p->json = joined(json, "")))
        st = QSAE_ENOMEM;
    qsae_audit_close(&audit);
    return st;
}

int32_t plan_make(qsae_context *context, struct plan *p, qsae_audit_settings *s)
{
    json_error_t error;
    int32_t st = run_sweep(context, p, s);
    if (st != QSAE_OK)
        return st;
    json_t *const plan = json_loads(p->json, 0, &error);
    const char *const condition = json_string_value(json_object_get(plan, "condition"));
    p->condition = condition ? joined(condition, "") : NULL;
    p->conditions = calloc((size_t)s->n_conditions + 1, sizeof *p->conditions);
    json_decref(plan);
    if (!p->condition || !p->conditions)
        return QSAE_ENOMEM;
    for (int64_t i = 0; i < s->n_conditions; i++)
        p->conditions[i] = s->conditions[i];
    p->conditions[s->n_conditions++] = p->condition;
    s->conditions = p->conditions;
    s->sweep = QSAE_SWEEP_NONE;
    s->plan = p->json;
    return QSAE_OK;
}

void plan_free(struct plan *p)
{
    free(p->json);
    free(p->condition);
    free(p->state);
    free(p->conditions);
}

/* ---- the tables ---- */

static const char *text(const json_t *o, const char *key)
{
    const char *const v = json_string_value(json_object_get(o, key));
    return v ? v : "";
}

/* Figures of the first SAE, where there is one. */
static void features(FILE *out, const json_t *o)
{
    const json_t *const sae = json_array_get(json_object_get(o, "saes"), 0);
    if (sae)
        fprintf(out, "  %+9.5f  %7.1f%%", number(sae, "dfvu_dim"),
                number(sae, "survived_percent"));
}

static void part_name(char *name, size_t size, const json_t *part)
{
    const json_t *const layer = json_object_get(part, "layer");
    if (json_is_integer(layer))
        snprintf(name, size, "%lld %.20s", (long long)json_integer_value(layer),
                 text(part, "module"));
    else
        snprintf(name, size, "%.20s", text(part, "module"));
}

/* A line per part and condition that was tried on it; * marks the plan's. */
static void options(FILE *out, const json_t *plan)
{
    size_t i, k, lines = 0;
    const json_t *part, *o, *parts = json_object_get(plan, "parts");
    fprintf(out, "  %-24s %6s  %10s  %9s  %9s  %8s  condition\n", "part, the costliest first",
            "bits", "KL", "dCE", "dFVU", "survived");
    json_array_foreach(parts, i, part) {
        const char *const chosen = text(part, "chosen");
        char name[64];
        part_name(name, sizeof name, part);
        if (lines++ < LINES && !*chosen)
            fprintf(out, "* %-24s %6.3f  as it is\n", name, number(part, "bits"));
        json_array_foreach(json_object_get(part, "options"), k, o) {
            if (lines++ >= LINES)
                continue;
            fprintf(out, "%c %-24s %6.3f  %10.3e  %+9.5f",
                    strcmp(chosen, text(o, "condition")) == 0 ? '*' : ' ', name,
                    number(o, "bits"), number(o, "kl_mean"), number(o, "dce"));
            features(out, o);
            fprintf(out, "  %s\n", text(o, "condition"));
        }
    }
    if (lines > LINES)
        fprintf(out, "  and %zu more in the result document\n", lines - LINES);
}

static void outcome(FILE *out, const char *name, const json_t *o)
{
    const json_t *const interval = json_object_get(o, "dce_interval");
    char dce[64];
    if (!json_is_object(o))
        return;
    if (json_array_size(interval) == 2)
        snprintf(dce, sizeof dce, "%+.5f [%+.5f, %+.5f]", number(o, "dce"),
                 json_number_value(json_array_get(interval, 0)),
                 json_number_value(json_array_get(interval, 1)));
    else
        snprintf(dce, sizeof dce, "%+.5f", number(o, "dce"));
    fprintf(out, "  %6.3f  %9.5f  %-30s  %9.3e", number(o, "bits"), number(o, "ce"), dce,
            number(o, "kl_mean"));
    features(out, o);
    fprintf(out, "  %s\n", name);
}

void plan_print(FILE *out, const json_t *result)
{
    size_t i;
    const json_t *o, *plan = json_object_get(result, "plan");
    if (!json_is_object(plan))
        return;
    fprintf(out, "plan for %g bits per weight, by %s, least sum of %s (predicted %.3e):\n",
            number(plan, "budget_bits"), text(plan, "by"), text(plan, "figure"),
            number(plan, "predicted"));
    options(out, plan);
    fprintf(out, "measured:\n  %6s  %9s  %-30s  %9s  %9s  %8s\n", "bits", "CE",
            "dCE [95% interval]", "KL", "dFVU", "survived");
    outcome(out, "the plan", json_object_get(plan, "measured"));
    json_array_foreach(json_object_get(plan, "uniform"), i, o)
        outcome(out, text(o, "label"), o);
    fprintf(out, "  condition: %s\n", text(plan, "condition"));
}
