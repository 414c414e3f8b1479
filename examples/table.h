/* SPDX-License-Identifier: BSD-2-Clause */
/* The table that evaluate prints from a result document. */
#ifndef EXAMPLES_TABLE_H
#define EXAMPLES_TABLE_H

#include <stdio.h>

#include <jansson.h>

void table_print(FILE *out, const json_t *result);

/* The part of a sweep that condition i is, or NULL. */
const json_t *sweep_part(const json_t *result, size_t i);

/* The parts of a sweep, ranked by what they cost; nothing without one. */
void sweep_print(FILE *out, const json_t *result);

/* Figures of each part of the tokens, where there are such (slices.c). */
void slices_print(FILE *out, const json_t *result);

/* A mixed-precision plan and what it came to; nothing without one (plan.c). */
void plan_print(FILE *out, const json_t *result);

/* Each condition beside its noise controls; nothing without a numeric floor (controls.c). */
void controls_print(FILE *out, const json_t *result);
/* What each model makes of a probe set, where there is one (probes.c). */
void probes_print(FILE *out, const json_t *result);
/* The tokens and documents that each condition hurts most, at most so many (worst.c). */
void worst_print(FILE *out, const json_t *result, size_t most);

/* The same tokens at several context lengths, where there are such (contexts.c). */
void contexts_print(FILE *out, const json_t *result);

#endif
