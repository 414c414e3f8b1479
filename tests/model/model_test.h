/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_TESTS_MODEL_TEST_H
#define QSAE_TESTS_MODEL_TEST_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <qsae/qsae.h>

#include "model/block.h"

#define MODELS QSAE_TEST_DATA "/models/"

extern const struct CMUnitTest gemma4_tests[], key_tests[];
extern const struct CMUnitTest compare_tests[], save_folder_tests[], open_tests[],
    gguf_refused_tests[], top_tests[];
extern const size_t n_compare_tests, n_save_folder_tests, n_open_tests, n_gguf_refused_tests,
    n_top_tests;
extern const size_t n_gemma4_tests, n_key_tests;
extern const struct CMUnitTest floor_tests[], mix_tests[];
extern const size_t n_floor_tests, n_mix_tests;
extern const struct CMUnitTest reference_tests[], operation_tests[], invariance_tests[],
    config_tests[], gguf_tests[], pass_tests[], encoded_tests[], stored_tests[], save_tests[],
    report_tests[], kv_tests[], head_tests[], memory_tests[], stories_tests[], process_tests[],
    long_tests[], site_tests[], site_name_tests[], streamed_tests[], shared_tests[];
extern const size_t n_reference_tests, n_operation_tests, n_invariance_tests, n_config_tests,
    n_gguf_tests, n_pass_tests, n_encoded_tests, n_stored_tests, n_save_tests, n_report_tests,
    n_kv_tests, n_head_tests, n_memory_tests, n_stories_tests, n_process_tests, n_long_tests,
    n_site_tests, n_site_name_tests, n_streamed_tests, n_shared_tests;

/* Fails with the library's message unless the status is QSAE_OK. */
#define OK(call) \
    do { \
        const int32_t ok_status = (call); \
        if (ok_status != QSAE_OK) \
            fail_msg("%s: %s: %s", #call, qsae_status_name(ok_status), qsae_error_message()); \
    } while (0)

/* Expects a status and a part of the message. */
#define REFUSED(call, expected, part) \
    do { \
        const int32_t got_status = (call); \
        if (got_status != (expected) || !strstr(qsae_error_message(), (part))) \
            fail_msg("%s: expected %s with \"%s\", got %s: %s", #call, qsae_status_name(expected), \
                     (part), qsae_status_name(got_status), qsae_error_message()); \
    } while (0)

qsae_context *test_context(int threads, const char *cpu);
qsae_model *test_model(qsae_context *ctx, const char *path, const char *condition, int compute,
                       int attention);

/* Names of the checkpoints in MODELS. */
extern const char *const test_models[];
extern const int n_test_models;
const char *test_model_path(const char *name);

/* Tensor of a reference file as f64; asserts that it is there. n receives the elements. free() it.
 */
double *test_values(const qsae__tensors *t, const char *name, int64_t *n);
float *test_floats(const qsae__tensors *t, const char *name, int64_t *n);
double test_rms(const double *a, const double *b, int64_t n);

/* A pass with everything on: resid [layers][rows * width], logits, nll. Freed by test_result_free.
 */
struct test_result {
    int64_t layers, rows, width, vocab;
    float **resid;
    float *logits, *nll;
};
void test_run(qsae_model *m, const int32_t *ids, int64_t n_seq, int64_t n_tokens,
              struct test_result *r);
void test_result_free(struct test_result *r);
bool test_result_equal(const struct test_result *a, const struct test_result *b);

/* A folder of its own for each test program. */
const char *test_folder(void);
void test_write(const char *name, const void *data, size_t size);
char *test_read(const char *path, size_t *size);

#endif
