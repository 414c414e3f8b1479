/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * llama.cpp's comparison beside the audit's own: llama-perplexity's chunks and scored positions,
 * its base-logit files, its report of --kl-divergence (methods.md section 5).
 */
#ifndef QSAE_AUDIT_LLAMA_H
#define QSAE_AUDIT_LLAMA_H

#include "audit/audit.h"

struct pass;

/* Reads what the settings ask for, opens the file that is compared with, says how the text must be
 * cut. Nothing is asked for: a->llama stays NULL. */
int32_t qsae__llama_open(qsae_audit *a, const qsae_audit_settings *s);
int32_t qsae__llama_text(const qsae_audit *a, const qsae_audit_settings *s,
                         qsae_corpus_settings *c);
/* The corpus of the file's tokens, where there is no text; the text's is checked against it. */
int32_t qsae__llama_corpus(qsae_audit *a, bool text);
/* Checks models against the file. */
int32_t qsae__llama_check(qsae_audit *a);
/* Opens a participant's metric, if it is compared. */
int32_t qsae__llama_metric(qsae_audit *a, struct participant *p, const qsae_metric_settings *s);
void qsae__llama_close(qsae_audit *a);
/* What of it makes another measurement. */
void qsae__llama_fingerprint(const qsae_audit *a, qsae__hasher *h);

/* Compares a batch whose final rows are there; adds it to a participant's metric. */
int32_t qsae__llama_batch(qsae_audit *a, const struct pass *p, const int64_t *members, int64_t n);
int32_t qsae__llama_update(qsae_audit *a, const struct pass *p, struct participant *who,
                           int64_t member);
/* After the last batch: the file that is written takes its place. */
int32_t qsae__llama_finish(qsae_audit *a);

/* The result's object of a participant; null where it is not compared. */
json_t *qsae__llama_json(const qsae_audit *a, const struct participant *p);

#endif
