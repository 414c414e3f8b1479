/* SPDX-License-Identifier: BSD-2-Clause */
/* evaluate --plan: a mixed-precision plan from a sweep, then its measurement. */
#ifndef EXAMPLES_PLAN_H
#define EXAMPLES_PLAN_H

#include <qsae/audit.h>

struct plan {
    double bits;                 /* budget per weight; 0: no plan */
    int by_dce;
    char *json;
    char *condition;
    char *state;                 /* of the sweep */
    const char **conditions;     /* [n_conditions + 1] */
};

/* Runs the sweep with the conditions of *s and puts the plan's condition behind them, the plan
 * itself into s->plan. */
int32_t plan_make(qsae_context *context, struct plan *p, qsae_audit_settings *s);

/* Its steps. The sweep of the same text and conditions, without what a plan does not need; its
 * state, if there is one, has a name of its own. */
void plan_sweep(struct plan *p, const qsae_audit_settings *s, qsae_audit_settings *sweep);
/* The plan of a sweep that has run, in p->json. */
int32_t plan_choose(qsae_audit *sweep, struct plan *p);
/* p->json and its condition into *s. */
int32_t plan_adopt(struct plan *p, qsae_audit_settings *s);
void plan_free(struct plan *p);

#endif
