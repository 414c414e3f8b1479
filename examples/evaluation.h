/* SPDX-License-Identifier: BSD-2-Clause */
/* What evaluate and evaluate_mpi do alike: the command line, and what becomes of a result. */
#ifndef EXAMPLES_EVALUATION_H
#define EXAMPLES_EVALUATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <qsae/qsae.h>

#include "evaluate_options.h"
#include "plan.h"
#include "predict.h"

enum { EVALUATION_CONTEXTS = 16 };

struct evaluation {
    qsae_audit_settings audit;
    qsae_context_settings context;
    const char **conditions, **saes, **slices, **where;
    const char *json, *features;
    const char *sliding;
    struct predict predict;
    int64_t contexts[EVALUATION_CONTEXTS];
    int compat; /* 1 + index into compat_names; 0 = none */
    bool quiet, wide;
    bool own_weights; /* --share-weights no */
    struct plan plan;
    size_t worst; /* tokens and documents to print */
    double save_every; /* seconds; 0 = as seldom as the library does */
};

/* Reads the command line into *o, which is zeros before; does not return from a usage error. */
void evaluation_parse(struct evaluation *o, const struct program *program, int argc, char **argv);
void evaluation_free(struct evaluation *o);

/* Prints the tables of an audit that has run and writes the files; an exit status. */
int evaluation_finish(struct evaluation *o, qsae_context *context, qsae_audit *audit);

/* Ranks lines of features (--predict-features): no model runs. An exit status. */
int evaluation_predict(struct evaluation *o, qsae_context *context);

#endif
