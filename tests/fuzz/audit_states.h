/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_FUZZ_AUDIT_STATES_H
#define TESTS_FUZZ_AUDIT_STATES_H

#include "fuzz.h"

/* Gives the bytes the checksum of a state file. */
void fuzz_audit_sign(uint8_t *bytes, size_t size);

/* An audit of the model and SAE in fixture/ under rtn, on six lines of text. */
void fuzz_audit_settings(qsae_audit_settings *s);

/* Opens it with this state. */
int32_t fuzz_audit_open(int mode, const char *state, qsae_audit **out);

/* State i of a run of it: stopped at once, after a batch, at the end, or of a shard. */
size_t fuzz_audit_seed(int i, uint8_t **data);

#endif
