/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Faults without running a scenario from its beginning for each of them: the scenario runs once,
 * and at every call that can fail this process is forked. In the children that call fails; each
 * goes on from there, says what came of it and ends, and the parent goes on without a fault. What
 * a child did to the files of one folder and to offsets of open files is undone. For scenarios of
 * one thread. Not under sanitizers, whose memory cannot be made to fail.
 */
#ifndef TESTS_FAULTS_BRANCH_H
#define TESTS_FAULTS_BRANCH_H

#include "inject.h"

struct branch {
    const char *folder;              /* flat, of small files */
    int modes;                       /* children of one call, one after another */
    int64_t first, stride;           /* the calls that are branched at */
    bool (*onwards)(int mode);       /* all calls from that one on fail */
    void (*began)(void *cookie, int64_t index, int mode);            /* in the child */
    void (*ended)(void *cookie, int64_t index, int mode, int status); /* in the parent; of wait() */
    void *cookie;
};

/* Until inject_disarm(): at calls of that kind. *b must last. */
void branch_arm(enum inject_kind kind, int what, const struct branch *b);

#endif
