/* SPDX-License-Identifier: BSD-2-Clause */
/* A folder of small things to open: models, a text, probes, an SAE, a result document. */
#ifndef TESTS_FAULTS_FIXTURE_H
#define TESTS_FAULTS_FIXTURE_H

#include <stdbool.h>
#include <stdint.h>

enum { FIXTURE_WIDTH = 24, FIXTURE_FEATURES = 48, FIXTURE_VOCAB = 48 };

struct fixture {
    char folder[64];
    char model[128];     /* GPT-NeoX of 2 layers with a tokenizer of letters */
    char sae[512];       /* of its layer 1 */
    char layers[512];    /* a set of transcoders */
    char jsonl[128], text[128], probes[128], result[128];
    char base[512];      /* base-logit file of llama.cpp */
    char scratch[128];   /* empty folder */
};

/* Makes it under /tmp (TMPDIR); false with a line on stderr if that fails. */
bool fixture_make(struct fixture *f);
void fixture_remove(const struct fixture *f);

/* Removes what is in a folder, and in its folders. */
void fixture_empty(const char *folder);

/* Files and folders in a folder. */
int64_t fixture_count(const char *folder);

/* Open descriptors below 256. */
int fixture_descriptors(void);

#endif
