/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_TESTS_TEXT_TEST_H
#define QSAE_TESTS_TEXT_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <qsae/qsae.h>

#include "text/corpus.h"

extern char test_folder[256];
extern qsae_context *test_ctx; /* 2 threads */

int test_setup(void **state);
int test_teardown(void **state);
const char *test_path(const char *name);
void test_write(const char *name, const char *text);
void test_write_bytes(const char *name, const void *data, size_t size);

/* Writes text as NAME and opens it as a tokenizer. */
int32_t test_open(const char *json, qsae_tokenizer **out);

/* The same where "<s>" is the BOS; the test fails if it cannot be opened. */
qsae_tokenizer *test_open_bos(const char *json);

/* The test fails unless the corpus in NAME is refused with that status and message. */
void test_corpus_refused(qsae_tokenizer *t, const char *name, const qsae_corpus_settings *s,
                         int32_t status, const char *part);

/* An allocator whose cookie is the number of calls until it fails. */
void *test_failing_alloc(void *cookie, size_t size, size_t alignment);
void test_failing_free(void *cookie, void *p);

/* True if the present error message holds part. */
bool test_message(const char *part);

extern const struct CMUnitTest fixture_tests[], tokenizer_tests[], gguf_tests[],
    gguf_refused_tests[], corpus_tests[], source_tests[], shortcut_tests[], files_tests[],
    spelling_tests[], unigram_tests[], selection_tests[], edge_tests[], step_tests[],
    memory_tests[], list_tests[], difference_tests[], cut_tests[], input_tests[], map_tests[],
    shown_tests[], spelled_tests[];
extern const size_t n_fixture_tests, n_tokenizer_tests, n_gguf_tests, n_gguf_refused_tests,
    n_corpus_tests, n_source_tests, n_shortcut_tests, n_files_tests, n_spelling_tests,
    n_unigram_tests, n_selection_tests, n_edge_tests, n_step_tests, n_memory_tests, n_list_tests,
    n_difference_tests, n_cut_tests, n_input_tests, n_map_tests, n_shown_tests, n_spelled_tests;

#endif
