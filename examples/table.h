/* SPDX-License-Identifier: BSD-2-Clause */
/* The tables that evaluate prints from a result document. */
#ifndef EXAMPLES_TABLE_H
#define EXAMPLES_TABLE_H

#include <stdbool.h>
#include <stdio.h>

#include <jansson.h>

#include "layout.h"

/* All of them but those that options ask for; wide: the main table has one line per condition and
 * SAE. */
void table_print(const struct page *p, const json_t *result, bool wide);

/* The main table in that form (wide.c). */
void wide_print(const struct page *p, const json_t *result);

/* The columns "#" and "condition" of a table: what stands in the list of models at the top. */
void model_columns(struct grid *g, const char *head);
/* The reference for i < 0, else condition i. */
void model_cells(struct grid *g, const json_t *result, long i);

/* The figures of an SAE, from FVU to the CE that its splice recovers. */
void sae_cells(struct grid *g, const json_t *sae);

/* Bytes as MB or GB. */
void grid_bytes(struct grid *g, double v);

/* The part of a sweep that condition i is, or NULL. */
const json_t *sweep_part(const json_t *result, size_t i);

/* The parts of a sweep, ranked by what they cost; nothing without one. */
void sweep_print(const struct page *p, const json_t *result);

/* Figures of each part of the tokens, where there are such (slices.c). */
void slices_print(const struct page *p, const json_t *result);

/* A mixed-precision plan and what it came to; nothing without one (plan.c). */
void plan_print(const struct page *p, const json_t *result);

/* Each condition beside its noise controls; nothing without a numeric floor (controls.c). */
void controls_print(const struct page *p, const json_t *result);
/* What each model makes of a probe set, where there is one (probes.c). */
void probes_print(const struct page *p, const json_t *result);
/* The tokens and documents that each condition hurts most, at most so many (worst.c). */
void worst_print(const struct page *p, const json_t *result, size_t most);

/* The same tokens at several context lengths, where there are such (contexts.c). */
void contexts_print(const struct page *p, const json_t *result);

#endif
