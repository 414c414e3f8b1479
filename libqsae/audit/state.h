/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a run has gathered, as a file: coverage.c (which chunks), parts.c (what is kept of them),
 * state.c (the file), identity.c (of which measurement), merge.c (states of shards become one).
 */
#ifndef QSAE_AUDIT_STATE_H
#define QSAE_AUDIT_STATE_H

#include "audit/bytes.h"
#include "audit/slices.h"
#include "metrics/metrics.h"

/* ---- coverage.c ---- */

/* Which chunks the run is to measure: all, or shard 0..shards - 1. */
void qsae__coverage_open(qsae_audit *a, int64_t shard, int64_t shards);
/* Sets next_chunk and end_chunk to the first gap of the run; equal: there is none. */
void qsae__coverage_next(qsae_audit *a);
/* Adds [from, to) to ranges that it does not overlap. */
int32_t qsae__range_add(qsae_context *ctx, struct audit_range **list, int64_t *n,
                        int64_t *capacity, int64_t from, int64_t to);
int64_t qsae__covered_chunks(const qsae_audit *a);
/* Whether a participant has seen a chunk. */
bool qsae__covered_by(const qsae_audit *a, const struct participant *p, int64_t chunk);
/* Whether the run is to measure all chunks, and has: what is measured once is measured then. */
bool qsae__covered_whole(const qsae_audit *a);

/* ---- parts.c ---- */

/* How a part is saved and what merging two of them means. Each is independent of the order. */
enum qsae__part_kind {
    QSAE__PART_METRIC, /* qsae_metric: described and written by metrics.h; merged as a metric */
    QSAE__PART_SUMS,   /* words [n]: counts at least 0, added */
    QSAE__PART_MOST,   /* words [n]: the larger ones */
    QSAE__PART_SAME,   /* words [n]: equal wherever words[0], "known", is not 0 */
    QSAE__PART_LINES,  /* text: lines, sorted, each once; the union */
    QSAE__PART_ONCE,   /* put, get: bytes, none while it is not measured; those that there are */
    QSAE__PART_KINDS
};

struct audit_part {
    const char *name;            /* unique in the state: "conditions[0].saes[1].drift" */
    enum qsae__part_kind kind;
    qsae_metric *metric;
    int64_t *words;
    int64_t n;
    char **text;
    qsae_audit *audit;           /* of put and get */
    void (*put)(const qsae_audit *a, qsae__strbuf *b);
    int32_t (*get)(qsae_audit *a, struct qsae__taken *from); /* hostile bytes, not none */
};

typedef int32_t (*qsae__part_visit)(void *self, const struct audit_part *part);
/* Calls visit for everything that a run gathers, in a fixed order; it may read or replace what it
 * is shown. Ends at the first failure. */
int32_t qsae__parts_visit(qsae_audit *a, qsae__part_visit visit, void *self);

/* ---- state.c: the file ---- */

struct state_part {
    char *name;
    enum qsae__part_kind kind;
    const uint8_t *description, *data;
    uint64_t description_size, size;
    qsae_metric *metric;         /* merge.c's, or NULL */
    uint8_t *own;                /* data where it is no longer the file's, or NULL */
};

struct audit_state {
    qsae_context *ctx;
    qsae__file *file;
    const char *path;            /* the caller's */
    json_t *identity;
    char fingerprint[QSAE__HASH_SIZE];
    int64_t chunks, tokens;      /* of the whole text */
    struct audit_range *covered;
    int64_t n_covered, covered_capacity;
    int64_t base;                /* chunk that participants are at, if none is ahead */
    int64_t *next;               /* [n_participants] first chunk each has not seen */
    int64_t n_participants;
    struct state_part *parts;    /* [n_parts] */
    int64_t n_parts;
};

/* Reads a state file; parts point into it. Checks its frame and checksum; what parts hold is
 * checked by those that read them. Hostile input. */
int32_t qsae__state_open(qsae_context *ctx, const char *path, struct audit_state *s);
void qsae__state_close(struct audit_state *s);

/* Appends the file's head and, one by one, its parts; the end. */
void qsae__state_put_head(qsae__strbuf *b, const struct audit_state *s);
void qsae__state_put_part(qsae__strbuf *b, const struct audit_part *part);
void qsae__state_put_stored(qsae__strbuf *b, const struct state_part *part);
int32_t qsae__state_finish(qsae__strbuf *b, const char *path);
/* A part's words or text out of a file, checked. */
int32_t qsae__state_get_words(const struct state_part *part, const char *path, int64_t *words,
                              int64_t n);
int32_t qsae__state_get_text(qsae_context *ctx, const struct state_part *part, const char *path,
                             char **text);

/* ---- identity.c: what two states must have in common, by name ---- */

json_t *qsae__identity_of(qsae_audit *a, const qsae_audit_settings *s);
/* QSAE_EMISMATCH, naming the first field that differs. */
int32_t qsae__identity_differ(const json_t *file, const char *path, const json_t *other,
                              const char *where);

/* The arithmetic of this process, as a line of LINES. */
void qsae__numerics_line(const qsae_audit *a, char *line, size_t size);
/* The union of two texts of lines. */
int32_t qsae__lines_union(qsae_context *ctx, const char *a, const char *b, char **out);

#endif
