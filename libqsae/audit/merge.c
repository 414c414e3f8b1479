/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * States of shards become one, from the files alone: neither model nor text is needed. Every kind
 * of part is merged by one rule (state.h), none of which depends on the order.
 */
#include <stdio.h>
#include <string.h>

#include "audit/state.h"
#include "core/inner.h"

static int32_t fail_in(int32_t st, const struct audit_state *s, const struct state_part *part)
{
    return st == QSAE_OK ? st : qsae__fail_in(st, "%s: %s", s->path, part->name);
}

static int32_t open_metric(qsae_context *ctx, const struct audit_state *s,
                           const struct state_part *part, qsae_metric **out)
{
    return fail_in(qsae__metric_open_written(ctx, part->description,
                                             (size_t)part->description_size, part->data,
                                             (size_t)part->size, out), s, part);
}

/* ---- parts: `to` takes in `from` ---- */

static int32_t merge_metric(struct audit_state *s, struct state_part *to,
                            const struct audit_state *other, const struct state_part *from)
{
    qsae_metric *m = NULL;
    int32_t st = open_metric(s->ctx, other, from, &m);
    if (st == QSAE_OK)
        st = fail_in(qsae_metric_merge(to->metric, m), other, from);
    qsae_metric_close(&m);
    return st;
}

static int32_t merge_words(struct audit_state *s, struct state_part *to,
                           const struct audit_state *other, const struct state_part *from)
{
    const int64_t n = (int64_t)(qsae__max_i64((int64_t)to->size, (int64_t)from->size) / 8);
    int64_t *const a = qsae__alloc_array(s->ctx, n, sizeof *a),
            *const b = qsae__alloc_array(s->ctx, n, sizeof *b);
    int32_t st = a && b ? qsae__state_get_words(to, s->path, a, n) : QSAE_ENOMEM;
    if (st == QSAE_OK)
        st = qsae__state_get_words(from, other->path, b, n);
    for (int64_t i = 0; i < n && st == QSAE_OK; i++) {
        if (to->kind == QSAE__PART_MOST)
            a[i] = qsae__max_i64(a[i], b[i]);
        else if (to->kind == QSAE__PART_SUMS && !qsae__add_i64(a[i], b[i], &a[i]))
            st = qsae__fail(QSAE_EOVERFLOW, "%s: %s: too large a sum", other->path, from->name);
        else if (to->kind == QSAE__PART_SAME && a[0] && b[0] && a[i] != b[i])
            st = qsae__fail(QSAE_EMISMATCH, "%s: %s: another result than in the other states",
                            other->path, from->name);
    }
    if (st == QSAE_OK && to->kind == QSAE__PART_SAME && n > 0 && !a[0])
        memcpy(a, b, (size_t)n * sizeof *a);
    qsae__free(s->ctx, b);
    if (st != QSAE_OK) {
        qsae__free(s->ctx, a);
        return st;
    }
    qsae__free(s->ctx, to->own);
    to->own = (uint8_t *)a; /* little-endian, as this machine is */
    to->data = to->own;
    to->size = to->kind == QSAE__PART_SAME && n > 0 && !a[0] ? 0 : (uint64_t)n * 8;
    return QSAE_OK;
}

static int32_t merge_lines(struct audit_state *s, struct state_part *to,
                           const struct audit_state *other, const struct state_part *from,
                           bool allowed)
{
    char *a = NULL, *b = NULL, *sum = NULL;
    int32_t st = qsae__state_get_text(s->ctx, to, s->path, &a);
    if (st == QSAE_OK)
        st = qsae__state_get_text(s->ctx, from, other->path, &b);
    if (st == QSAE_OK && !allowed && *a && *b && strcmp(a, b) != 0)
        st = qsae__fail(QSAE_EMISMATCH, "%s: %s: measured with other arithmetic: %.200s; %s has "
                        "%.200s (allow it to merge them all the same)", other->path, from->name, b,
                        s->path, a);
    if (st == QSAE_OK)
        st = qsae__lines_union(s->ctx, a, b, &sum);
    qsae__free(s->ctx, a);
    qsae__free(s->ctx, b);
    if (st != QSAE_OK)
        return st;
    qsae__free(s->ctx, to->own);
    to->own = (uint8_t *)sum;
    to->data = to->own;
    to->size = strlen(sum);
    return QSAE_OK;
}

/* Measured by one of them, after the text. */
static int32_t merge_once(struct audit_state *s, struct state_part *to,
                          const struct audit_state *other, const struct state_part *from)
{
    if (from->size == 0 ||
        (to->size == from->size && !memcmp(to->data, from->data, (size_t)to->size)))
        return QSAE_OK;
    if (to->size > 0)
        return qsae__fail(QSAE_EMISMATCH, "%s: %s: another result than in the other states",
                          other->path, from->name);
    uint8_t *const own = qsae__alloc(s->ctx, (size_t)from->size); /* the other file is closed */
    if (!own)
        return QSAE_ENOMEM;
    memcpy(own, from->data, (size_t)from->size);
    qsae__free(s->ctx, to->own);
    to->own = own;
    to->data = own;
    to->size = from->size;
    return QSAE_OK;
}

/* ---- states ---- */

static int32_t check_whole_batches(const struct audit_state *s)
{
    for (int64_t i = 0; i < s->n_participants; i++)
        if (s->next[i] != s->base)
            return qsae__fail(QSAE_EINVAL, "%s: the run was stopped before all conditions had seen "
                              "chunks %lld to %lld: let it go on first", s->path,
                              (long long)s->base, (long long)s->next[i]);
    return QSAE_OK;
}

static int32_t check_same(const struct audit_state *a, const struct audit_state *b)
{
    if (strcmp(a->fingerprint, b->fingerprint) != 0)
        return qsae__identity_differ(b->identity, b->path, a->identity, a->path);
    bool same = json_equal(a->identity, b->identity) && a->chunks == b->chunks &&
                a->tokens == b->tokens && a->n_participants == b->n_participants &&
                a->n_parts == b->n_parts;
    for (int64_t i = 0; same && i < a->n_parts; i++)
        same = a->parts[i].kind == b->parts[i].kind &&
               strcmp(a->parts[i].name, b->parts[i].name) == 0;
    return same ? QSAE_OK
                : qsae__fail(QSAE_EFORMAT, "%s: its parts are not those of its measurement",
                             b->path);
}

static int32_t merge_ranges(struct audit_state *s, const struct audit_state *other)
{
    int32_t st = QSAE_OK;
    for (int64_t i = 0; i < other->n_covered; i++)
        for (int64_t k = 0; k < s->n_covered; k++) {
            const struct audit_range *const x = &other->covered[i], *const y = &s->covered[k];
            const int64_t from = qsae__max_i64(x->from, y->from),
                          to = qsae__min_i64(x->to, y->to);
            if (from < to)
                return qsae__fail(QSAE_EMISMATCH, "%s: chunks %lld to %lld are in another state "
                                  "already", other->path, (long long)from, (long long)to);
        }
    for (int64_t i = 0; i < other->n_covered && st == QSAE_OK; i++)
        st = qsae__range_add(s->ctx, &s->covered, &s->n_covered, &s->covered_capacity,
                             other->covered[i].from, other->covered[i].to);
    return st;
}

static int32_t merge_state(struct audit_state *s, const struct audit_state *other, int32_t flags)
{
    int32_t st = check_same(s, other);
    if (st == QSAE_OK)
        st = check_whole_batches(other);
    if (st == QSAE_OK)
        st = merge_ranges(s, other);
    for (int64_t i = 0; i < s->n_parts && st == QSAE_OK; i++) {
        struct state_part *const to = &s->parts[i];
        const struct state_part *const from = &other->parts[i];
        if (to->kind == QSAE__PART_METRIC)
            st = merge_metric(s, to, other, from);
        else if (to->kind == QSAE__PART_ONCE)
            st = merge_once(s, to, other, from);
        else if (to->kind == QSAE__PART_LINES)
            st = merge_lines(s, to, other, from, flags & QSAE_MERGE_NUMERICS);
        else
            st = merge_words(s, to, other, from);
    }
    return st;
}

static int32_t open_first(qsae_context *ctx, const char *path, struct audit_state *s)
{
    int32_t st = qsae__state_open(ctx, path, s);
    if (st != QSAE_OK)
        return st;
    st = check_whole_batches(s);
    for (int64_t i = 0; i < s->n_participants; i++)
        s->next[i] = 0;
    s->base = 0;
    for (int64_t i = 0; i < s->n_parts && st == QSAE_OK; i++)
        if (s->parts[i].kind == QSAE__PART_METRIC)
            st = open_metric(ctx, s, &s->parts[i], &s->parts[i].metric);
    if (st != QSAE_OK)
        qsae__state_close(s);
    return st;
}

static int32_t write_state(const struct audit_state *s, const char *path)
{
    qsae__strbuf b;
    qsae__strbuf_init(&b, s->ctx);
    qsae__state_put_head(&b, s);
    for (int64_t i = 0; i < s->n_parts; i++)
        qsae__state_put_stored(&b, &s->parts[i]);
    const int32_t st = qsae__state_finish(&b, path);
    qsae__strbuf_free(&b);
    return st;
}

static int32_t tell(const struct audit_state *s, qsae_merge_info *out)
{
    qsae_merge_info info = { .struct_size = sizeof info, .chunks = s->chunks };
    int64_t at = 0;
    for (int64_t i = 0; i <= s->n_covered; i++) {
        const int64_t to = i < s->n_covered ? s->covered[i].from : s->chunks;
        if (at < to && info.gaps++ == 0) {
            info.gap_from = at;
            info.gap_to = to;
        }
        if (i < s->n_covered) {
            info.measured_chunks += s->covered[i].to - s->covered[i].from;
            at = s->covered[i].to;
        }
    }
    return qsae__info_copy(out, &info, sizeof info, "qsae_merge_info");
}

static int32_t merge_files(qsae_context *context, const char *const *files, int64_t n,
                           const char *out, int32_t flags, qsae_merge_info *info)
{
    struct audit_state s = { .chunks = 0 };
    int32_t st = info ? tell(&s, info) : QSAE_OK;
    if (st != QSAE_OK || (st = open_first(context, files[0], &s)) != QSAE_OK)
        return st;
    for (int64_t i = 1; i < n && st == QSAE_OK; i++) {
        struct audit_state other;
        if ((st = qsae__state_open(context, files[i], &other)) != QSAE_OK)
            break;
        st = merge_state(&s, &other, flags);
        qsae__state_close(&other);
    }
    if (st == QSAE_OK)
        st = write_state(&s, out);
    if (st == QSAE_OK && info)
        st = tell(&s, info);
    qsae__state_close(&s);
    return st;
}

int32_t qsae_audit_merge(qsae_context *context, const char *const *files, int64_t n,
                         const char *out, int32_t flags, qsae_merge_info *info)
{
    QSAE__FPENV;
    if (qsae__enter(&context) != QSAE_OK)
        return QSAE_EINVAL;
    if (qsae__need_aligned(files, "files"))
        return QSAE_EINVAL;
    size_t bytes;
    if (!files || n < 1 || !qsae__bytes(n, sizeof *files, &bytes) || !out)
        return qsae__fail(QSAE_EINVAL, "qsae_audit_merge: a NULL, or no files");
    if (flags & ~QSAE_MERGE_NUMERICS)
        return qsae__fail(QSAE_EINVAL, "qsae_audit_merge: flags: unknown bits in %d", (int)flags);
    for (int64_t i = 0; i < n; i++)
        if (!files[i])
            return qsae__fail(QSAE_EINVAL, "qsae_audit_merge: files[%lld] is NULL", (long long)i);
    qsae__inner_begin();
    const int32_t st = merge_files(context, files, n, out, flags, info);
    qsae__inner_end();
    return st;
}
