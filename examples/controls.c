/* SPDX-License-Identifier: BSD-2-Clause */
/* What noise controls say about each condition (doc/evaluate.md). */
#include <string.h>

#include "number.h"
#include "table.h"

static void row(struct grid *g, const char *name, const json_t *o, const json_t *sae,
                const json_t *survival)
{
    if (!json_is_object(o))
        return;
    grid_row(g);
    grid_put(g, "%s", name);
    grid_number(g, "%+.2e", number(o, "dce"));
    grid_number(g, "%.2e", number(o, "kl_mean"));
    if (sae) {
        grid_number(g, "%+.2e", number(sae, "dfvu_dim"));
        grid_number(g, "%.1f%%", number(survival, "survived_percent"));
        grid_number(g, "%.4f", number(survival, "median_r"));
    }
}

static const char *answer(const json_t *beyond)
{
    return json_is_true(beyond) ? "yes" : json_is_false(beyond) ? "no" : "";
}

static void condition(const struct page *p, const json_t *who, const json_t *c)
{
    static const char *const heads[] = { "dCE", "KL", "dFVU", "survived", "median r" };
    const json_t *const beyond = json_object_get(c, "beyond_floor"),
                 *const of_sae = json_array_get(json_object_get(beyond, "saes"), 0),
                 *const sae = json_array_get(json_object_get(who, "saes"), 0);
    struct grid *g = grid_open(1);
    grid_column(g, COLUMN_TEXT, " ");
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++)
        grid_column(g, COLUMN_NUMBER, heads[i]);
    fputc('\n', p->out);
    say(p, 2, "%s and its controls%s:", string_at(who, "label"), sae ? " (first SAE)" : "");
    row(g, "itself", who, sae, json_object_get(sae, "survival"));
    for (const char *const *k = (const char *const[]){ "gauss", "permute", "floor", "null",
                                                       "shuffle", NULL }; *k; k++) {
        const json_t *const control = json_object_get(c, *k),
                     *const its = json_array_get(json_object_get(control, "saes"), 0);
        row(g, *k, control, its, its);
    }
    grid_row(g);
    grid_put(g, "beyond the numeric floor");
    grid_put(g, "%s", answer(json_object_get(beyond, "dce")));
    grid_put(g, "%s", answer(json_object_get(beyond, "kl_mean")));
    grid_put(g, "%s", answer(json_object_get(of_sae, "dfvu_dim")));
    grid_put(g, "%s", answer(json_object_get(of_sae, "survived_percent")));
    grid_print(p, 2, &g);
}

void controls_print(const struct page *p, const json_t *result)
{
    size_t i;
    const json_t *who;
    json_array_foreach(json_object_get(result, "conditions"), i, who) {
        const json_t *const c = json_object_get(who, "controls");
        if (json_is_object(json_object_get(c, "floor")))
            condition(p, who, c);
    }
}
