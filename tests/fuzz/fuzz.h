/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the fuzz targets share. A target is one file with LLVMFuzzerTestOneInput(); in a normal
 * build its name is FUZZ_NAME, and replay.c calls all of them. A target ends the process
 * (fuzz_check) when the library breaks a rule: that is what a fuzzer sees.
 */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qsae/qsae.h>

#ifdef FUZZ_NAME
#define LLVMFuzzerTestOneInput FUZZ_NAME
#endif
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define fuzz_check(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s (%s)\n", __FILE__, __LINE__, #condition, \
                    qsae_error_message()); \
            abort(); \
        } \
    } while (0)

/* How files are read: both ways, 0 mapped, 1 copied to a block of exactly their size. */
#define FUZZ_MODES 2

/* A context of one thread per mode, opened once. Its memory has no room behind a block. */
qsae_context *fuzz_context(int mode);

/* Writes a file into the process' folder in memory; its path, valid until the next 8 calls. */
const char *fuzz_put(const char *name, const void *data, size_t size);
const char *fuzz_path(const char *name);
const char *fuzz_folder(void);
void fuzz_remove(const char *name);
void fuzz_empty(void); /* removes all files */

/* The bytes in a block of exactly their size; the caller frees it. */
uint8_t *fuzz_copy(const void *data, size_t size);

/* What is left of an input. */
typedef struct fuzz_input {
    const uint8_t *data;
    size_t size;
} fuzz_input;

/* The next byte, 0 at the end. */
uint8_t fuzz_byte(fuzz_input *in);
/* An inner file: its size (4 bytes, little-endian), then its bytes; no more than there are. */
fuzz_input fuzz_part(fuzz_input *in);

/* The library took the input: replay.c wants that of a seed of each target. */
void fuzz_accepted(void);
long fuzz_count_accepted(void);

/* A refusal says why, and gives nothing. */
void fuzz_refused(int32_t status, const void *out);

/* A tokenizer of a few words and all bytes, opened once per mode. */
qsae_tokenizer *fuzz_tokenizer(int mode);

#endif
