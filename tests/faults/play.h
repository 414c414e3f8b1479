/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_FAULTS_PLAY_H
#define TESTS_FAULTS_PLAY_H

#include "scenario.h"

void play_codecs(struct run *r);
void play_readers(struct run *r);
void play_text(struct run *r);
void play_model(struct run *r);
void play_save(struct run *r);
void play_sae(struct run *r);
void play_layers(struct run *r);
void play_shared(struct run *r);
void play_metrics(struct run *r);
void play_features(struct run *r);
void play_logits(struct run *r);
void play_audit(struct run *r);
void play_in_turn(struct run *r);
void play_sweep(struct run *r);
void play_predictor(struct run *r);

/* Settings of a scenario's context. */
qsae_context_settings play_settings(struct run *r);

/* Rows [n, cols] f32 of a seeded pattern, in data. */
qsae_rows play_rows(float *data, int64_t n, int64_t cols, uint32_t seed);

/* The bytes of a file into the hash. */
void see_file(struct run *r, const char *path);

/* A name in the scratch folder. */
const char *scratch(const struct run *r, const char *name, char path[256]);

#endif
