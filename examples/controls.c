/* SPDX-License-Identifier: BSD-2-Clause */
/* What noise controls say about each condition (doc/evaluate.md). */
#include <math.h>
#include <string.h>

#include "number.h"
#include "table.h"

static void line(FILE *out, const char *name, const json_t *o)
{
    const json_t *const sae = json_array_get(json_object_get(o, "saes"), 0);
    if (!json_is_object(o))
        return;
    fprintf(out, "  %-9s dCE %+.2e  KL %.2e", name, number(o, "dce"), number(o, "kl_mean"));
    if (sae)
        fprintf(out, "  dFVU %+.2e  survived %.1f%%  median r %.4f", number(sae, "dfvu_dim"),
                number(sae, "survived_percent"), number(sae, "median_r"));
    fprintf(out, "\n");
}

static void say(FILE *out, const char *name, const json_t *beyond)
{
    if (json_is_boolean(beyond))
        fprintf(out, " %s %s", name, json_is_true(beyond) ? "yes" : "no");
}

static void condition(FILE *out, const json_t *who, const json_t *c)
{
    const json_t *const beyond = json_object_get(c, "beyond_floor"),
                 *const sae = json_array_get(json_object_get(beyond, "saes"), 0);
    const json_t *const saes = json_array_get(json_object_get(who, "saes"), 0),
                 *const survival = json_object_get(saes, "survival");
    json_t *const own = json_object(), *const list = json_array(), *const s = json_object();
    json_object_set(own, "dce", json_object_get(who, "dce"));
    json_object_set(own, "kl_mean", json_object_get(who, "kl_mean"));
    json_object_set_new(own, "saes", list);
    json_object_set(s, "dfvu_dim", json_object_get(saes, "dfvu_dim"));
    json_object_set(s, "survived_percent", json_object_get(survival, "survived_percent"));
    json_object_set(s, "median_r", json_object_get(survival, "median_r"));
    if (saes)
        json_array_append(list, s);
    fprintf(out, "%.80s and its controls%s:\n", json_string_value(json_object_get(who, "label")),
            saes ? " (first SAE)" : "");
    line(out, "itself", own);
    for (const char *const *k = (const char *const[]){ "gauss", "permute", "floor", "null",
                                                       "shuffle", NULL }; *k; k++)
        line(out, *k, json_object_get(c, *k));
    fprintf(out, "  beyond the numeric floor:");
    say(out, "dCE", json_object_get(beyond, "dce"));
    say(out, "KL", json_object_get(beyond, "kl_mean"));
    say(out, "FVU", json_object_get(sae, "dfvu_dim"));
    say(out, "survival", json_object_get(sae, "survived_percent"));
    fprintf(out, "\n");
    json_decref(own);
    json_decref(s);
}

void controls_print(FILE *out, const json_t *result)
{
    size_t i;
    const json_t *who;
    json_array_foreach(json_object_get(result, "conditions"), i, who) {
        const json_t *const c = json_object_get(who, "controls");
        if (json_is_object(json_object_get(c, "floor")))
            condition(out, who, c);
    }
}
