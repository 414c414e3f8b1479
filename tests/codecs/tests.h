/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_CODECS_TESTS_H
#define TESTS_CODECS_TESTS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <qsae/quantizer.h>

#include "codecs/codecs.h"
#include "codecs/qmatrix.h"
#include "formats/formats.h"

#define LENGTH(a) ((int64_t)(sizeof(a) / sizeof(a)[0]))

int run_condition(void);
int run_examples(void);
int run_blocks(void);
int run_blockwise(void);
int run_bnb(void);
int run_int8(void);
int run_rtn(void);
int run_ggml(void);
int run_control(void);
int run_prune(void);
int run_error(void);
int run_kv(void);
int run_stored(void);
int run_stored_config(void);
int run_act(void);
int run_sources(void);
int run_linear(void);
int run_api(void);
int run_keys(void);

/* Kernel levels of this CPU, lowest first. */
int64_t test_levels(const char *names[QSAE__LEVEL_COUNT]);
qsae_context *test_context(const char *cpu, int32_t threads);

/* Contexts that every fixture runs on: each level, and several thread counts. */
#define TEST_CONTEXTS 9
int64_t test_contexts(qsae_context *ctx[TEST_CONTEXTS]);
void test_contexts_close(qsae_context **ctx, int64_t n);

qsae_rows test_rows(const void *data, int32_t dtype, int64_t rows, int64_t cols);
int32_t test_dtype(const char *name); /* "f32", "bf16", "f16" */

/* Encodes f32 values that are exact in dtype, stored in that dtype. */
qsae_qmatrix *test_encode(qsae_context *ctx, const char *spec, const float *x, int32_t dtype,
                          int64_t rows, int64_t cols, int64_t heads);
qsae_field test_field(const qsae_qmatrix *q, const char *name);

/* Decodes to dtype; test_release() the result. */
void *test_decode(const qsae_qmatrix *q, int32_t dtype);

void *test_alloc(int64_t count, size_t size);
void test_release(void *p);

/* Same bits; any NaN equals any NaN. `what` is in the message. */
void test_same_f32(const char *what, const float *got, const float *want, int64_t n);
void test_same_bytes(const char *what, const void *got, const void *want, size_t n);
uint32_t test_crc32(const void *data, size_t size);
/* CRC32 of the matrix decoded to dtype, after zeros (not those of an underflow) lost their sign. */
uint32_t test_crc32_decoded(const qsae_qmatrix *q, int32_t dtype);

/* A fixture file under tests/data/codecs, its tensors copied to aligned memory. */
struct test_file {
    int64_t n;
    qsae__tensor *tensors; /* ordered by name */
    qsae__tensors *file;   /* owner of the names */
};
struct test_file *test_load(qsae_context *ctx, const char *file);
void test_unload(struct test_file *f);
const qsae__tensor *test_find(const struct test_file *f, const char *name); /* or NULL */
json_t *test_json(qsae_context *ctx, const char *file);
const qsae__tensor *test_tensor(const struct test_file *f, int32_t dtype, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
int64_t test_count(const qsae__tensor *t);
int64_t test_json_int(const json_t *o, const char *key);
const char *test_json_str(const json_t *o, const char *key);

/* Reproducible values, about normal with unit variance. */
void test_random(uint64_t seed, float *x, int64_t n);

#endif
