/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The same bits, whatever runs them. A case computes something of seeded inputs under the settings
 * of a run and digests every value of it (XXH3-128). test_same compares digests between runs of one
 * process; same.sh and aarch64.sh compare those of builds, levels and architectures.
 */
#ifndef TESTS_SAME_H
#define TESTS_SAME_H

#include "../support.h"
#include "core/core.h"

/* Where the digests of a case are equal. */
enum {
    SAME_EVERYWHERE, /* on every CPU and architecture */
    SAME_F32,        /* at all levels up to avx512bf16, and on other architectures */
    SAME_BF16        /* at levels c, avx2 and avx512, and at a level from there on */
};

struct same_taken {
    void *base;
    size_t size;
};

typedef struct same_run {
    qsae_context *ctx;
    int64_t split;  /* rows or sequences of a call; 0 = all at once */
    size_t shift;   /* of the caller's arrays from an address of 64 bytes, in bytes */
    int32_t memory; /* QSAE_MEMORY_* of models */
    int32_t mode;   /* the caller's floating-point mode: same_mode_name() */
    /* of a case */
    qsae__hasher *hasher;
    int64_t values;
    struct same_taken *taken; /* [n_taken] arrays of the case */
    int n_taken, capacity;
} same_run;

typedef struct same_case {
    const char *name;
    int where;
    void (*compute)(same_run *r, const void *argument);
    const void *argument;
} same_case;

/* The cases; files of theirs lie in `folder`, made by setup. full: the long form. */
extern char same_folder[256];
extern int same_full;
size_t same_models(same_case *cases, size_t most);
size_t same_saes(same_case *cases, size_t most);
size_t same_codecs(same_case *cases, size_t most);
size_t same_metrics(same_case *cases, size_t most);
void same_models_setup(qsae_context *ctx);
void same_saes_setup(qsae_context *ctx);

/* An array of n elements at the run's shift, cut to whole elements; what lies around it is checked
 * when the case ends. */
void *same_array(same_run *r, int64_t n, size_t element);
/* Takes part in the digest. */
void same_add(same_run *r, const void *data, int64_t n, size_t element);
/* rows of a call */
int64_t same_step(const same_run *r, int64_t first, int64_t all);

/* Numbers made by integers alone, so that no floating-point mode changes them: multiples of 2^-23
 * in [-1, 1) times 2^power; a few are 0 or subnormal if odd. */
float same_number(uint32_t *seed, int power);
/* The same of 8 bits: exact in BF16 and F16. */
float same_short(uint32_t *seed, int power);
void same_numbers(uint32_t *seed, float *x, int64_t n, int power, bool odd);

/* Floating-point modes that a host may have set; 0 is the default one. */
#define SAME_MODES 8
const char *same_mode_name(int32_t mode);
void same_mode_set(int32_t mode);
/* Fails if the thread is not in this mode. */
void same_mode_check(int32_t mode, const char *after);

/* A call of the library that succeeds and leaves the caller's mode. */
#define SAME_CALL(r, call) \
    do { \
        const int32_t st_ = (call); \
        same_mode_check((r)->mode, #call); \
        if (st_ != QSAE_OK) \
            fail_msg("%s: %s: %s", #call, qsae_status_name(st_), qsae_error_message()); \
    } while (0)

#endif
