/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A process whose system calls on files fail on demand, whoever makes them: stdio too, which
 * inject.h does not see. Calls of the dynamic loader and those on standard error are left alone.
 */
#ifndef TESTS_FAULTS_TRACE_H
#define TESTS_FAULTS_TRACE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Which calls are counted and fail. */
enum trace_calls {
    TRACE_FILES,   /* all on files: open, read, write, sync, close, rename, stat, ... */
    TRACE_WRITING, /* those that take room: open for a new file, write, rename, mkdir, sync, ... */
    TRACE_OPENING, /* open */
    TRACE_MOVING   /* read and write */
};

struct trace {
    enum trace_calls calls;
    int64_t at;      /* the call that fails, from 0; < 0: none */
    bool onwards;    /* and all after it */
    int what;        /* an errno, or INJECT_SHORT: half of the bytes */
};

struct traced {
    int64_t calls;   /* seen */
    bool removing;   /* a call failed that takes away a file, or lists a folder for that */
    bool repeated;   /* a failed fsync was followed by another one of that file */
};

/* In the child, before exec. */
void trace_me(void);

/* In the parent: runs the child to its end; its status as of wait(), or -1. Only calls on files
 * whose paths begin with one of those in `under`, "PATH:PATH...", count; NULL: all. */
int trace_run(pid_t child, const struct trace *t, const char *under, struct traced *seen);

/* "", or why this machine cannot do that. */
const char *trace_missing(void);

#endif
