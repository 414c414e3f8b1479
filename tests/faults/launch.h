/* SPDX-License-Identifier: BSD-2-Clause */
/* Runs a program under one fault. */
#ifndef TESTS_FAULTS_LAUNCH_H
#define TESTS_FAULTS_LAUNCH_H

#include <stdbool.h>
#include <stddef.h>

#include "inject.h"
#include "trace.h"

enum { LAUNCH_WORDS = 1 << 12, LAUNCH_SECONDS = 120 };

struct launch {
    const char *folder, *preload; /* of the programs; the library that has preload.c */
    const char *report;           /* a path for what preload.c tells */
    /* What counts: QSAE_INJECT_CALLERS of preload.c, `under` of trace_run; NULL: all. */
    const char *callers, *under;
    bool inner;                   /* within another launch, which hears it and has the clock */
};

struct fault {
    enum inject_kind kind;   /* through preload.c; INJECT_NOTHING: as trace says */
    struct trace trace;
    long file_size;          /* most bytes of a file, < 0: any; neither of the others then */
};

struct outcome {
    int status;              /* of wait(); -1: it did not run; SIGALRM: it took LAUNCH_SECONDS */
    int64_t calls;           /* seen of those that may fail */
    int left;                /* folders of random names, where preload.c was there to see */
    bool repeated;           /* an fsync that failed was made again */
    bool removing;           /* what failed may have been to take away a file */
    char words[LAUNCH_WORDS]; /* of standard error, the first of them */
};

/* arguments[0]: the program's name, or its path. out: where standard output goes, a file or device;
 * NULL: nowhere. */
struct outcome launch(const struct launch *l, char *const *arguments, const struct fault *fault,
                      const char *out);

#endif
