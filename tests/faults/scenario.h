/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Sequences of calls that together make up all of the library, each written once and run with a
 * fault at every place. A call that fails is made again without the fault and must then succeed:
 * so its handles were not changed by the failure, and what follows has the same bytes.
 */
#ifndef TESTS_FAULTS_SCENARIO_H
#define TESTS_FAULTS_SCENARIO_H

#include <stdatomic.h>

#ifdef QSAE_TEST_MISUSE
#include "wrap.h"
#else
#include <qsae/qsae.h>
#endif

#include "fixture.h"
#include "inject.h"

struct run {
    const struct fixture *f;
    enum inject_kind kind;
    bool abandon;            /* after a failure everything is closed, while calls still fail */
    bool hook;               /* the context has hook_alloc */
    int32_t threads;
    /* out */
    atomic_llong hook_blocks; /* of hook_alloc, not freed */
    uint64_t hash;           /* of results */
    int64_t failures;        /* calls of the library that failed */
    int32_t status;          /* of the first of them */
    const char *call;
    char message[256];
    char wrong[512];         /* "", or what the library did wrong */
    bool again;              /* the scenario is to be run once more from its beginning */
    int sections;            /* that were ended */
    void (*section)(struct run *r); /* called where one ends; may be NULL */
    void *cookie;            /* of section */
};

struct scenario {
    const char *name;
    void (*play)(struct run *r);
    bool writes;             /* leaves files in the scratch folder */
    bool branches;           /* takes long, of one thread: see branch.h */
    int64_t kept;            /* blocks that may stay where a library that is used lacks memory */
};
extern const struct scenario scenarios[];
extern const int n_scenarios;

/* Text "qsae_x(...)" of a call that was made, for the list of what was. */
void cover(const char *call);
/* Functions of a version script that no call was made of; printed. Their number. */
int uncovered(const char *map);

/* Ends a section: nothing but the context is open, and the rest does not depend on it but through
 * files, whose bytes were seen. */
void section(struct run *r);

/* After a call failed: whether to make it again. */
bool retry(struct run *r, int32_t status, const char *call);
void wrong(struct run *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
void see(struct run *r, const void *data, size_t size);
void see_text(struct run *r, const char *text);
void see_number(struct run *r, double value);

/* Makes a call that returns a status; goes to `end` if everything is to be closed. */
#define TRY(call) \
    do { \
        cover(#call); \
        const int32_t st_ = (call); \
        if (st_ == QSAE_OK) \
            break; \
        if (!retry(r, st_, #call)) \
            goto end; \
        const int32_t again_ = (call); \
        if (again_ != QSAE_OK) { \
            wrong(r, "%s: the second time: %s", #call, qsae_error_message()); \
            goto end; \
        } \
    } while (0)

/* The same for a call that its failure ends: all begins anew. */
#define ONCE(call) \
    do { \
        cover(#call); \
        const int32_t st_ = (call); \
        if (st_ == QSAE_OK) \
            break; \
        r->again = retry(r, st_, #call); \
        goto end; \
    } while (0)

/* A call that cannot fail. */
#define MAKE(call) (cover(#call), (call))

#endif
