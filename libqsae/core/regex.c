/* SPDX-License-Identifier: BSD-2-Clause */
#include "core/regex.h"

#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "core/memory.h"
#include "core/status.h"

#define SHORT_STEPS 100000
#define SHORT_DEPTH 1000

struct qsae__regex {
    qsae_context *ctx;
    pcre2_general_context *general;
    pcre2_match_context *limits; /* NULL = PCRE2's own */
    pcre2_code *code;
};

/* Never made: what a room points to is PCRE2's. */
static pcre2_match_data *data_of(qsae__regex_room *room)
{
    return (pcre2_match_data *)(void *)room;
}

static void *regex_alloc(size_t size, void *ctx)
{
    return qsae__alloc(ctx, size);
}

static void regex_free(void *p, void *ctx)
{
    qsae__free(ctx, p);
}

static int32_t compile(qsae__regex *r, const char *pattern, size_t size, unsigned flags,
                       char reason[QSAE__REGEX_REASON])
{
    pcre2_compile_context *const context = pcre2_compile_context_create(r->general);
    uint32_t options = PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C;
    PCRE2_SIZE offset = 0;
    int error = 0;

    if (context == NULL)
        return QSAE_ENOMEM;
    if (flags & QSAE__REGEX_ANCHORED)
        options |= PCRE2_ANCHORED;
    if (flags & QSAE__REGEX_UNICODE)
        options |= PCRE2_UCP;
    pcre2_set_max_pattern_length(context, QSAE__REGEX_MOST);
    r->code = pcre2_compile((PCRE2_SPTR)pattern, size, options, &error, &offset, context);
    pcre2_compile_context_free(context);
    if (r->code != NULL)
        return QSAE_OK;
    if (error == PCRE2_ERROR_HEAP_FAILED) /* our allocator has set the message */
        return QSAE_ENOMEM;
    pcre2_get_error_message(error, (PCRE2_UCHAR *)reason, QSAE__REGEX_REASON);
    return QSAE_EFORMAT;
}

static int32_t set_limits(qsae__regex *r)
{
    r->limits = pcre2_match_context_create(r->general);
    if (r->limits == NULL)
        return QSAE_ENOMEM;
    pcre2_set_match_limit(r->limits, SHORT_STEPS);
    pcre2_set_depth_limit(r->limits, SHORT_DEPTH);
    return QSAE_OK;
}

int32_t qsae__regex_new(qsae_context *ctx, const char *pattern, size_t size, unsigned flags,
                        char reason[QSAE__REGEX_REASON], qsae__regex **out)
{
    qsae__regex *r = qsae__calloc(ctx, 1, sizeof *r);
    int32_t status = QSAE_ENOMEM;

    *out = NULL;
    reason[0] = '\0';
    if (r == NULL)
        return status;
    r->ctx = ctx;
    r->general = pcre2_general_context_create(regex_alloc, regex_free, ctx);
    if (r->general != NULL)
        status = compile(r, pattern, size, flags, reason);
    if (status == QSAE_OK && (flags & QSAE__REGEX_SHORT))
        status = set_limits(r);
    if (status != QSAE_OK) {
        qsae__regex_free(&r);
        return status;
    }
    if (flags & QSAE__REGEX_UNICODE) /* without it the interpreter runs */
        (void)pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE);
    *out = r;
    return QSAE_OK;
}

void qsae__regex_free(qsae__regex **regex)
{
    qsae__regex *const r = *regex;

    if (r == NULL)
        return;
    pcre2_code_free(r->code);
    pcre2_match_context_free(r->limits);
    pcre2_general_context_free(r->general);
    qsae__free(r->ctx, r);
    *regex = NULL;
}

bool qsae__regex_may_be_empty(const qsae__regex *r)
{
    uint32_t empty = 0;

    return pcre2_pattern_info(r->code, PCRE2_INFO_MATCHEMPTY, &empty) == 0 && empty != 0;
}

int32_t qsae__regex_find(const qsae__regex *r, qsae__regex_room **room, const char *text,
                         size_t size, size_t at, size_t *start, size_t *end)
{
    const PCRE2_SIZE *ends;
    int rc;

    if (*room == NULL)
        *room = (qsae__regex_room *)(void *)pcre2_match_data_create(1, r->general);
    if (*room == NULL)
        return qsae__fail(QSAE_ENOMEM, "out of memory: regular expression match");
    rc = pcre2_match(r->code, (PCRE2_SPTR)text, size, at,
                     r->limits != NULL ? 0 : PCRE2_NO_UTF_CHECK, data_of(*room), r->limits);
    if (rc == PCRE2_ERROR_NOMATCH)
        return 0;
    if (rc == PCRE2_ERROR_NOMEMORY)
        return qsae__fail(QSAE_ENOMEM, "out of memory: regular expression match");
    if (rc < 0)
        return qsae__fail(QSAE_EUNSUPPORTED, "a regular expression exceeds the match limits (%d)",
                          rc);
    ends = pcre2_get_ovector_pointer(data_of(*room));
    if (ends[1] < ends[0])
        return qsae__fail(QSAE_EUNSUPPORTED, "a regular expression moves its start");
    *start = ends[0];
    *end = ends[1];
    return 1;
}

void qsae__regex_room_free(qsae__regex_room **room)
{
    if (*room != NULL)
        pcre2_match_data_free(data_of(*room));
    *room = NULL;
}

int32_t qsae__regex_matches(const qsae__regex *r, const char *text, bool *out)
{
    qsae__regex_room *room = NULL;
    size_t start, end;
    const int32_t found = qsae__regex_find(r, &room, text, strlen(text), 0, &start, &end);

    qsae__regex_room_free(&room);
    *out = found == 1;
    return found < 0 ? found : QSAE_OK;
}
