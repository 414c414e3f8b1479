/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_SAE_TEST_H
#define TESTS_SAE_TEST_H

#include <math.h>
#include <stdlib.h>

#include "../support.h"
#include "formats/formats.h"
#include "sae/sae.h"

/* A folder of the running test, made and removed by setup and teardown. */
extern char test_folder[256];
const char *test_path(const char *name); /* static storage, a few slots */
void test_write(const char *name, const void *data, size_t size);
void test_remove(const char *name);

/* A small SAE in memory: standard [d_in 6, d_sae 10] unless changed. */
typedef struct test_sae {
    int64_t d_in, d_sae, d_out;
    float *w_enc, *w_dec, *b_enc, *b_dec, *threshold;
    const char *config;
} test_sae;
void test_sae_make(test_sae *s, int64_t d_in, int64_t d_sae, uint32_t seed);
void test_sae_free(test_sae *s);
/* cfg.json and sae_weights.safetensors in the test folder. */
void test_sae_save(qsae_context *ctx, const test_sae *s, const char *config);

qsae_rows test_rows(void *data, int64_t n, int64_t cols);

extern const struct CMUnitTest fixture_tests[], refused_tests[], behaviour_tests[],
    screen_tests[], intervene_tests[], geometry_tests[], kind_tests[], format_tests[],
    layer_tests[], shared_tests[], key_tests[], set_tests[], file_tests[], container_tests[];
extern const size_t n_fixture_tests, n_refused_tests, n_behaviour_tests,
    n_screen_tests, n_intervene_tests, n_geometry_tests, n_kind_tests, n_format_tests,
    n_layer_tests, n_shared_tests, n_key_tests, n_set_tests, n_file_tests, n_container_tests;

#endif
