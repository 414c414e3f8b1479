/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Calls of the C library that fail on demand. A program that links inject.c has malloc, open,
 * write, ... of its own in place of the C library's, for itself and for every library it loads (not
 * under sanitizers, which have their own). While armed it counts the calls of one kind, and the
 * n-th of them (or all from the n-th on) fails.
 *
 * Calls that the C library makes inside itself (the stacks of threads, the open() in fopen) are
 * seen as the function that the caller called.
 */
#ifndef TESTS_FAULTS_INJECT_H
#define TESTS_FAULTS_INJECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum inject_kind {
    INJECT_NOTHING,
    INJECT_MEMORY,  /* malloc, calloc, realloc, posix_memalign, aligned_alloc */
    INJECT_HOOK,    /* the allocator of a context that was opened with hook_alloc */
    INJECT_MAP,     /* mmap */
    INJECT_THREAD,  /* pthread_create, pthread_mutex_init, pthread_cond_init */
    INJECT_IO       /* open, read, write, fsync, rename, close, stat, ... */
};

/* What a failing call of INJECT_IO does instead of its work: an errno, or half of it. */
#define INJECT_SHORT (-1) /* read, pread, write, pwrite: half the bytes; others: nothing */
#define INJECT_KILL (-2)  /* SIGKILL to this process before the call */
#define INJECT_ZERO (-3)  /* read, pread, write, pwrite: no byte, no error; others: nothing */

/* Calls that failed on demand, by what they were. */
enum inject_call { CALL_NONE, CALL_MEMORY, CALL_HOOK, CALL_MAP, CALL_THREAD, CALL_OPEN, CALL_READ,
                   CALL_WRITE, CALL_FSYNC, CALL_RENAME, CALL_CLOSE, CALL_STAT, CALL_UNLINK,
                   CALL_FOLDER, CALL_MODE };

/* Arms: call number `at` (from 0) fails, or with `onwards` all from it on. at < 0: only counts. */
void inject_arm(enum inject_kind kind, int64_t at, bool onwards, int what);

/* Until inject_disarm(), where `at` is < 0: asks at every call of the armed kind whether it fails,
 * and with *onwards all that follow. After a yes it is not asked again. */
typedef bool (*inject_decider)(void *cookie, int64_t call, bool *onwards);
void inject_at_calls(inject_decider decider, void *cookie);

/* Only calls count whose caller, an address of code, the counter says yes to; NULL: all. */
typedef bool (*inject_counter)(const void *caller);
void inject_callers(inject_counter counter);

/* Disarms. Returns the calls that were seen. */
int64_t inject_disarm(void);

/* Calls of the test's own: not counted between the two. */
void inject_pause(void);
void inject_resume(void);

/* Prints where the first failing call was made, on stderr. */
void inject_trace(bool on);

/* What failed first since armed; CALL_NONE: nothing did. */
enum inject_call inject_fired(void);

/* A failed fsync was followed by another one of the same file. */
bool inject_fsync_repeated(void);

/* Blocks that were allocated and not freed, by anyone in the process. 0 where not counted. */
int64_t inject_blocks(void);

/* Mappings of files made and not undone. */
int64_t inject_maps(void);

/* Whether malloc and its kin are replaced here: not under sanitizers, whose own they are. */
bool inject_has_memory(void);

/* For qsae_context_settings: fail as INJECT_HOOK. */
void *hook_alloc(void *cookie, size_t size, size_t alignment);
void hook_free(void *cookie, void *p);

/* Every change of files is told, in order, while set: for what a loss of power may leave. Paths and
 * data are valid during the call. offset: of a write. other: the new name of a rename. */
enum inject_event { EVENT_CREATE, EVENT_WRITE, EVENT_FSYNC, EVENT_FSYNC_FOLDER, EVENT_RENAME,
                    EVENT_UNLINK, EVENT_MKDIR, EVENT_RMDIR };
typedef void (*inject_listener)(void *cookie, enum inject_event event, const char *path,
                                const char *other, const void *data, size_t size, int64_t offset);
void inject_listen(inject_listener listener, void *cookie);

#endif
