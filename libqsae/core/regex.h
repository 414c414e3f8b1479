/* SPDX-License-Identifier: BSD-2-Clause */
/* Regular expressions (PCRE2) in memory of a context, with bounded work. */
#ifndef QSAE_CORE_REGEX_H
#define QSAE_CORE_REGEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/context.h"

enum {
    QSAE__REGEX_ANCHORED = 1, /* a match begins where the search does */
    QSAE__REGEX_UNICODE = 2,  /* classes by Unicode properties; compiled to machine code if that
                               * is possible */
    QSAE__REGEX_SHORT = 4     /* searches of names: 100,000 steps at most */
};

#define QSAE__REGEX_REASON 128

typedef struct qsae__regex qsae__regex;
typedef struct qsae__regex_room qsae__regex_room;

#define QSAE__REGEX_MOST 65536 /* bytes of a pattern */

/* Compiles a pattern of `size` bytes of UTF-8, at most QSAE__REGEX_MOST. QSAE_ENOMEM, or QSAE_EFORMAT without
 * a message: `reason` says what is wrong with it. */
int32_t qsae__regex_new(qsae_context *ctx, const char *pattern, size_t size, unsigned flags,
                        char reason[QSAE__REGEX_REASON], qsae__regex **out);
void qsae__regex_free(qsae__regex **regex);

/* True if it can match the empty string. */
bool qsae__regex_may_be_empty(const qsae__regex *r);

/*
 * The first match in text [size] (well-formed UTF-8; with QSAE__REGEX_SHORT that is checked) from
 * `at` on: 1 and [*start, *end), or 0.
 * QSAE_ENOMEM; QSAE_EUNSUPPORTED if it takes more work than is allowed, sets its own start, or the
 * text is not well-formed.
 * room: NULL at first, kept between searches of one thread, closed by qsae__regex_room_free
 */
int32_t qsae__regex_find(const qsae__regex *r, qsae__regex_room **room, const char *text,
                         size_t size, size_t at, size_t *start, size_t *end);
void qsae__regex_room_free(qsae__regex_room **room);

/* Whether there is a match at all; the same statuses. */
int32_t qsae__regex_matches(const qsae__regex *r, const char *text, bool *out);

#endif
