/* SPDX-License-Identifier: BSD-2-Clause */
/* A probe set that every model of an audit is asked after the text. */
#ifndef QSAE_AUDIT_PROBED_H
#define QSAE_AUDIT_PROBED_H

#include <qsae/probe.h>

#include "audit/audit.h"
#include "audit/bytes.h"

struct audit_probes {
    qsae_probes *set;
    int64_t n;                   /* items */
    double (*scores)[2];         /* [n_participants, n]: ln p of good and bad */
    bool *done;                  /* [n_participants] */
};

/* Refuses, naming the line, an id or an item too long for a model (probes.c). */
int32_t qsae__probes_check(const qsae_probes *p, const qsae_model_info *info, const char *who);

/* Reads the set and checks it against every checkpoint. path NULL: no probes. */
int32_t qsae__probed_open(qsae_audit *a, const char *path, int32_t bos_policy);
void qsae__probed_close(qsae_audit *a);
/* Scores those participants that have no scores yet, once all chunks have been measured: shards
 * leave it to the run that goes on from their merged states. */
int32_t qsae__probed_run(qsae_audit *a);
/* The scores for a state file: no bytes while there are none. */
void qsae__probed_write(const qsae_audit *a, qsae__strbuf *b);
int32_t qsae__probed_read(qsae_audit *a, struct qsae__taken *from);
/* The result's object; null without probes. */
int32_t qsae__probed_json(qsae_audit *a, json_t **out);

/* Two-sided exact McNemar test: that a pair falls to either side is equally likely. */
double qsae__mcnemar(int64_t a, int64_t b);

#endif
