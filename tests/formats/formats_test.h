/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_TESTS_FORMATS_TEST_H
#define QSAE_TESTS_FORMATS_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <qsae/qsae.h>

#include "formats/formats.h"

/* A fresh folder for the running test, and a context per file mode. */
extern char test_folder[256];
extern qsae_context *test_contexts[2];

int test_setup(void **state);
int test_teardown(void **state);

/* folder/name in static storage (8 slots). */
const char *test_path(const char *name);
void test_write(const char *name, const void *data, size_t size);
void test_remove(const char *name);

/* Loads folder/name in both file modes and checks the status and that the message holds `part`. */
void test_refused(const char *name, int32_t status, const char *part);

/* length, header and `data_size` bytes 0, 1, 2, ... to folder/name. */
void test_safetensors(const char *name, const char *header, size_t data_size);

extern const struct CMUnitTest json_tests[], safetensors_tests[], npy_tests[], index_tests[],
    gguf_tests[], edge_tests[], yaml_tests[], logits_tests[], writer_tests[], part_tests[],
    many_tests[], block_tests[], json_edge_tests[];
extern const size_t n_json_tests, n_safetensors_tests, n_npy_tests, n_index_tests, n_gguf_tests,
    n_edge_tests, n_yaml_tests, n_logits_tests, n_writer_tests, n_part_tests, n_many_tests,
    n_block_tests, n_json_edge_tests;

#endif
