/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * State of a run that was stopped, or of a shard, read as an untrusted file. Little-endian words of
 * 8 bytes; a block is its size and its bytes.
 *   "QSAEAU02", the fingerprint (32 hex digits), block: identity (JSON, keys sorted),
 *   chunks and tokens of the text; ranges: n, then from, to each;
 *   base, participants: n, then the first chunk that each has not seen,
 *   parts: n, then name (block), kind, description (block), data (block),
 *   XXH3-128 of all that (32 hex digits).
 * What a run took comes last (parts.c): all before it depends on what was measured alone.
 */
#include <stdlib.h>
#include <string.h>

#include "audit/state.h"
#include "text/utf8.h"

static const char magic[8] = "QSAEAU02";
#define MAGIC_COMMON 6           /* bytes that every version begins with */
#define HASH (QSAE__HASH_SIZE - 1)
#define NAME_MOST 160
#define LINES_MOST (1 << 16)
#define IDENTITY_MOST ((uint64_t)16 << 20)

/* ---- writing ---- */

static void put_u64(qsae__strbuf *b, uint64_t v)
{
    unsigned char bytes[8];
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)(v >> (8 * i));
    qsae__strbuf_add(b, bytes, sizeof bytes);
}

static void put_block(qsae__strbuf *b, const void *data, uint64_t size)
{
    put_u64(b, size);
    if (size)
        qsae__strbuf_add(b, data, size);
}

/* Keeps b failed if the part is. */
static void put_buffer(qsae__strbuf *b, const qsae__strbuf *part)
{
    if (part->status == QSAE_OK)
        put_block(b, part->data, (uint64_t)part->size);
    else if (b->status == QSAE_OK)
        b->status = part->status;
}

void qsae__state_put_head(qsae__strbuf *b, const struct audit_state *s)
{
    qsae__strbuf_add(b, magic, sizeof magic);
    qsae__strbuf_add(b, s->fingerprint, HASH);
    char *const text = qsae__json_dumps(s->identity, JSON_COMPACT | JSON_SORT_KEYS);
    if (text)
        put_block(b, text, strlen(text));
    else
        b->status = qsae__fail(QSAE_ENOMEM, "out of memory: a state");
    free(text);
    put_u64(b, (uint64_t)s->chunks);
    put_u64(b, (uint64_t)s->tokens);
    put_u64(b, (uint64_t)s->n_covered);
    for (int64_t i = 0; i < s->n_covered; i++) {
        put_u64(b, (uint64_t)s->covered[i].from);
        put_u64(b, (uint64_t)s->covered[i].to);
    }
    put_u64(b, (uint64_t)s->base);
    put_u64(b, (uint64_t)s->n_participants);
    for (int64_t i = 0; i < s->n_participants; i++)
        put_u64(b, (uint64_t)s->next[i]);
    put_u64(b, (uint64_t)s->n_parts);
}

void qsae__state_put_part(qsae__strbuf *b, const struct audit_part *part)
{
    qsae__strbuf description, data;
    qsae__strbuf_init(&description, b->ctx);
    qsae__strbuf_init(&data, b->ctx);
    if (part->kind == QSAE__PART_METRIC) {
        qsae__metric_describe(part->metric, &description);
        qsae__metric_write(part->metric, &data);
    } else if (part->kind == QSAE__PART_LINES) {
        qsae__strbuf_add(&data, *part->text, strlen(*part->text));
    } else if (part->kind == QSAE__PART_ONCE) {
        part->put(part->audit, &data);
    } else if (part->kind != QSAE__PART_SAME || part->words[0]) { /* nothing: it is not known */
        for (int64_t i = 0; i < part->n; i++)
            put_u64(&data, (uint64_t)part->words[i]);
    }
    put_block(b, part->name, strlen(part->name));
    put_u64(b, (uint64_t)part->kind);
    put_buffer(b, &description);
    put_buffer(b, &data);
    qsae__strbuf_free(&description);
    qsae__strbuf_free(&data);
}

void qsae__state_put_stored(qsae__strbuf *b, const struct state_part *part)
{
    if (part->metric) {
        const struct audit_part metric = { .name = part->name, .kind = part->kind,
                                           .metric = part->metric };
        qsae__state_put_part(b, &metric);
        return;
    }
    put_block(b, part->name, strlen(part->name));
    put_u64(b, (uint64_t)part->kind);
    put_block(b, part->description, part->description_size);
    put_block(b, part->data, part->size);
}

int32_t qsae__state_finish(qsae__strbuf *b, const char *path)
{
    if (b->status != QSAE_OK)
        return b->status;
    char hex[QSAE__HASH_SIZE];
    qsae__hash(b->data, (size_t)b->size, hex);
    qsae__strbuf_add(b, hex, HASH);
    return b->status == QSAE_OK ? qsae__file_write(b->ctx, path, b->data, (size_t)b->size)
                                : b->status;
}

/* ---- the frame ---- */

static bool is_text(const uint8_t *data, uint64_t size, uint64_t most)
{
    size_t bad;
    return size <= most && !memchr(data, 0, (size_t)size) &&
           qsae__utf8_check((const char *)data, (size_t)size, &bad);
}

struct reader {
    const uint8_t *data;
    uint64_t size, at;
    const char *path;
};

static int32_t ends_early(const struct reader *r)
{
    return qsae__fail(QSAE_EFORMAT, "%s: the state ends early", r->path);
}

static uint64_t u64_at(const uint8_t *p)
{
    uint64_t v = 0;
    for (int i = 0; i < 8; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

static int32_t get_u64(struct reader *r, uint64_t *v)
{
    if (!qsae__range_in(r->at, 8, r->size))
        return ends_early(r);
    *v = u64_at(r->data + r->at);
    r->at += 8;
    return QSAE_OK;
}

/* A number in low..high. */
static int32_t get_i64(struct reader *r, int64_t low, int64_t high, int64_t *out)
{
    uint64_t v = 0;
    const int32_t st = get_u64(r, &v);
    if (st != QSAE_OK)
        return st;
    if (v > (uint64_t)INT64_MAX || (int64_t)v < low || (int64_t)v > high)
        return qsae__fail(QSAE_EFORMAT, "%s: a number of %llu, expected %lld..%lld", r->path,
                          (unsigned long long)v, (long long)low, (long long)high);
    *out = (int64_t)v;
    return QSAE_OK;
}

/* A count of things that take `each` bytes or more. */
static int32_t get_count(struct reader *r, uint64_t each, int64_t *out)
{
    const int32_t st = get_i64(r, 0, INT64_MAX, out);
    return st == QSAE_OK && (uint64_t)*out > (r->size - r->at) / each ? ends_early(r) : st;
}

static int32_t get_block(struct reader *r, const uint8_t **data, uint64_t *size)
{
    const int32_t st = get_u64(r, size);
    if (st != QSAE_OK)
        return st;
    if (!qsae__range_in(r->at, *size, r->size))
        return ends_early(r);
    *data = r->data + r->at;
    r->at += *size;
    return QSAE_OK;
}

static int32_t check_whole(const struct reader *r)
{
    if (r->size < sizeof magic || memcmp(r->data, magic, MAGIC_COMMON) != 0)
        return qsae__fail(QSAE_EFORMAT, "%s: not a state file of an audit", r->path);
    if (memcmp(r->data, magic, sizeof magic) != 0)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: version of the state: expected %.2s, found %.2s",
                          r->path, magic + MAGIC_COMMON, (const char *)r->data + MAGIC_COMMON);
    if (r->size < sizeof magic + 2 * HASH)
        return ends_early(r);
    char hex[QSAE__HASH_SIZE];
    qsae__hash(r->data, (size_t)(r->size - HASH), hex);
    if (memcmp(hex, r->data + r->size - HASH, HASH) != 0)
        return qsae__fail(QSAE_EFORMAT, "%s: damaged (checksum differs)", r->path);
    return QSAE_OK;
}

static int32_t get_identity(struct reader *r, struct audit_state *s)
{
    const uint8_t *data = NULL;
    uint64_t size = 0;
    int32_t st = get_block(r, &data, &size);
    if (st == QSAE_OK && size <= IDENTITY_MOST)
        st = qsae__json_parse((const char *)data, (size_t)size, r->path, &s->identity);
    if (st != QSAE_OK)
        return st;
    return json_is_object(s->identity)
               ? QSAE_OK
               : qsae__fail(QSAE_EFORMAT, "%s: identity: expected a JSON object", r->path);
}

static int32_t get_ranges(struct reader *r, struct audit_state *s)
{
    int64_t n;
    int32_t st = get_count(r, 16, &n);
    int64_t end = -1; /* ranges do not touch each other */
    for (int64_t i = 0; i < n && st == QSAE_OK; i++) {
        int64_t from, to;
        if ((st = get_i64(r, end + 1, s->chunks, &from)) != QSAE_OK ||
            (st = get_i64(r, from + 1, s->chunks, &to)) != QSAE_OK)
            break;
        st = qsae__range_add(s->ctx, &s->covered, &s->n_covered, &s->covered_capacity, from, to);
        end = to;
    }
    return st;
}

static int32_t get_participants(struct reader *r, struct audit_state *s)
{
    int32_t st = get_i64(r, 0, s->chunks, &s->base);
    if (st == QSAE_OK)
        st = get_count(r, 8, &s->n_participants);
    if (st != QSAE_OK)
        return st;
    if (!(s->next = qsae__alloc_array(s->ctx, s->n_participants, sizeof *s->next)))
        return QSAE_ENOMEM;
    for (int64_t i = 0; i < s->n_participants && st == QSAE_OK; i++)
        st = get_i64(r, s->base, s->chunks, &s->next[i]);
    return st;
}

static int32_t get_part(struct reader *r, struct audit_state *s, struct state_part *part)
{
    const uint8_t *name = NULL;
    uint64_t size = 0;
    int64_t kind = 0;
    int32_t st = get_block(r, &name, &size);
    if (st == QSAE_OK && !is_text(name, size, NAME_MOST))
        st = qsae__fail(QSAE_EFORMAT, "%s: a part without a name", r->path);
    if (st == QSAE_OK && !(part->name = qsae__strndup(s->ctx, (const char *)name, (size_t)size)))
        st = QSAE_ENOMEM;
    if (st == QSAE_OK)
        st = get_i64(r, 0, QSAE__PART_KINDS - 1, &kind);
    if (st == QSAE_OK)
        st = get_block(r, &part->description, &part->description_size);
    if (st == QSAE_OK)
        st = get_block(r, &part->data, &part->size);
    part->kind = (enum qsae__part_kind)kind;
    return st;
}

static int32_t get_parts(struct reader *r, struct audit_state *s)
{
    int64_t n;
    int32_t st = get_count(r, 32, &n);
    if (st != QSAE_OK)
        return st;
    if (!(s->parts = qsae__calloc(s->ctx, n, sizeof *s->parts)))
        return QSAE_ENOMEM;
    for (s->n_parts = 0; s->n_parts < n && st == QSAE_OK; s->n_parts++)
        st = get_part(r, s, &s->parts[s->n_parts]);
    if (st == QSAE_OK && r->at != r->size)
        st = qsae__fail(QSAE_EFORMAT, "%s: %llu bytes too many", r->path,
                        (unsigned long long)(r->size - r->at));
    return st;
}

static int32_t read_frame(struct audit_state *s)
{
    struct reader r = { .data = s->file->data, .size = s->file->size, .path = s->path };
    int32_t st = check_whole(&r);
    if (st != QSAE_OK)
        return st;
    r.size -= HASH;
    memcpy(s->fingerprint, r.data + sizeof magic, HASH);
    r.at = sizeof magic + HASH;
    if ((st = get_identity(&r, s)) == QSAE_OK &&
        (st = get_i64(&r, 0, INT64_MAX, &s->chunks)) == QSAE_OK &&
        (st = get_i64(&r, 0, INT64_MAX, &s->tokens)) == QSAE_OK &&
        (st = get_ranges(&r, s)) == QSAE_OK && (st = get_participants(&r, s)) == QSAE_OK)
        st = get_parts(&r, s);
    return st;
}

int32_t qsae__state_open(qsae_context *ctx, const char *path, struct audit_state *s)
{
    memset(s, 0, sizeof *s);
    s->ctx = ctx;
    s->path = path;
    int32_t st = qsae__file_open(ctx, path, &s->file);
    if (st == QSAE_OK)
        st = read_frame(s);
    if (st != QSAE_OK)
        qsae__state_close(s);
    return st;
}

void qsae__state_close(struct audit_state *s)
{
    for (int64_t i = 0; s->parts && i < s->n_parts; i++) {
        qsae_metric_close(&s->parts[i].metric);
        qsae__free(s->ctx, s->parts[i].name);
        qsae__free(s->ctx, s->parts[i].own);
    }
    qsae__free(s->ctx, s->parts);
    qsae__free(s->ctx, s->covered);
    qsae__free(s->ctx, s->next);
    json_decref(s->identity);
    qsae__file_close(&s->file);
    memset(s, 0, sizeof *s);
}

int32_t qsae__state_get_words(const struct state_part *part, const char *path, int64_t *words,
                              int64_t n)
{
    const bool unknown = part->kind == QSAE__PART_SAME && part->size == 0;
    if (!unknown && part->size != (uint64_t)n * 8)
        return qsae__fail(QSAE_EFORMAT, "%s: %s: expected %lld numbers, found %llu bytes", path,
                          part->name, (long long)n, (unsigned long long)part->size);
    for (int64_t i = 0; i < n; i++) {
        words[i] = unknown ? 0 : (int64_t)u64_at(part->data + 8 * i);
        if (part->kind != QSAE__PART_SAME && words[i] < 0)
            return qsae__fail(QSAE_EFORMAT, "%s: %s: a count is negative", path, part->name);
    }
    return QSAE_OK;
}

int32_t qsae__state_get_text(qsae_context *ctx, const struct state_part *part, const char *path,
                             char **text)
{
    if (!is_text(part->data, part->size, LINES_MOST))
        return qsae__fail(QSAE_EFORMAT, "%s: %s: expected lines of text", path, part->name);
    *text = qsae__strndup(ctx, (const char *)part->data, (size_t)part->size);
    return *text ? QSAE_OK : QSAE_ENOMEM;
}

/* ---- an audit's ---- */

static int32_t count_part(void *self, const struct audit_part *part)
{
    (void)part;
    ++*(int64_t *)self;
    return QSAE_OK;
}

static int32_t save_part(void *self, const struct audit_part *part)
{
    qsae__strbuf *const b = self;
    qsae__state_put_part(b, part);
    return b->status;
}

int32_t qsae__state_save(qsae_audit *a)
{
    struct audit_state s = { .identity = a->identity, .chunks = a->corpus_info.chunks,
                             .tokens = a->corpus_info.tokens, .covered = a->covered,
                             .n_covered = a->n_covered, .base = a->next_chunk,
                             .n_participants = a->n_participants };
    qsae__strbuf b;
    memcpy(s.fingerprint, a->fingerprint, sizeof s.fingerprint);
    s.next = qsae__alloc_array(a->ctx, a->n_participants, sizeof *s.next);
    if (!s.next)
        return QSAE_ENOMEM;
    bool ahead = false;
    for (int64_t i = 0; i < a->n_participants; i++) {
        s.next[i] = a->participants[i].next_chunk;
        ahead |= s.next[i] != s.base;
    }
    for (int64_t i = 0; i < a->n_participants && !ahead; i++)
        s.next[i] = s.base = 0; /* where the run would go on is its own affair */
    int32_t st = qsae__parts_visit(a, count_part, &s.n_parts);
    qsae__strbuf_init(&b, a->ctx);
    qsae__state_put_head(&b, &s);
    qsae__free(a->ctx, s.next);
    if (st == QSAE_OK && b.status == QSAE_OK)
        st = qsae__parts_visit(a, save_part, &b);
    if (st == QSAE_OK)
        st = qsae__state_finish(&b, a->state_path);
    qsae__strbuf_free(&b);
    return st;
}

struct loading {
    qsae_audit *a;
    const struct audit_state *s;
    int64_t at;
    int32_t st;                  /* of the last part; its message names the file */
};

static int32_t load_once(const struct audit_part *part, const struct state_part *f,
                         const char *path)
{
    struct qsae__taken bytes = { .data = f->data, .size = f->size };
    int32_t st = f->size ? part->get(part->audit, &bytes) : QSAE_OK;
    if (st == QSAE_OK && bytes.at != bytes.size)
        st = qsae__fail(QSAE_EFORMAT, "%llu bytes too many",
                        (unsigned long long)(bytes.size - bytes.at));
    return st == QSAE_OK ? st : qsae__fail_in(st, "%s: %s", path, f->name);
}

static int32_t load_named(struct loading *l, const struct audit_part *part)
{
    const struct state_part *const f =
        l->at < l->s->n_parts ? &l->s->parts[l->at++] : NULL;
    if (!f || f->kind != part->kind || strcmp(f->name, part->name) != 0)
        return qsae__fail(QSAE_EFORMAT, "%s: expected the part %s, found %s", l->s->path,
                          part->name, f ? f->name : "none");
    int32_t st;
    if (part->kind == QSAE__PART_LINES) {
        qsae__free(l->a->ctx, *part->text);
        *part->text = NULL;
        return qsae__state_get_text(l->a->ctx, f, l->s->path, part->text);
    }
    if (part->kind == QSAE__PART_ONCE)
        return load_once(part, f, l->s->path);
    if (part->kind != QSAE__PART_METRIC)
        return qsae__state_get_words(f, l->s->path, part->words, part->n);
    st = qsae__metric_check_described(part->metric, f->description, (size_t)f->description_size);
    if (st == QSAE_OK)
        st = qsae__metric_read(part->metric, f->data, (size_t)f->size);
    return st == QSAE_OK ? st : qsae__fail_in(st, "%s: %s", l->s->path, f->name);
}

static int32_t load_part(void *self, const struct audit_part *part)
{
    struct loading *const l = self;
    return l->st = load_named(l, part);
}

/* Where the run goes on; participants may be ahead of it. */
static int32_t load_position(qsae_audit *a, const struct audit_state *s)
{
    int32_t st = QSAE_OK;
    int64_t furthest = s->base;
    a->n_covered = 0;
    for (int64_t i = 0; i < s->n_covered && st == QSAE_OK; i++)
        st = qsae__range_add(a->ctx, &a->covered, &a->n_covered, &a->covered_capacity,
                             s->covered[i].from, s->covered[i].to);
    qsae__coverage_next(a);
    for (int64_t i = 0; i < s->n_participants; i++)
        furthest = qsae__max_i64(furthest, s->next[i]);
    if (st != QSAE_OK || furthest == s->base)
        return st;
    if (s->base != a->next_chunk || furthest > a->end_chunk)
        return qsae__fail(QSAE_EMISMATCH, "%s: the run was stopped in the middle of chunks %lld to "
                          "%lld: end it before another part of the text", s->path,
                          (long long)s->base, (long long)furthest);
    for (int64_t i = 0; i < s->n_participants; i++)
        a->participants[i].next_chunk = s->next[i];
    return QSAE_OK;
}

int32_t qsae__state_load(qsae_audit *a)
{
    struct audit_state s;
    int32_t st = qsae__state_open(a->ctx, a->state_path, &s);
    if (st != QSAE_OK)
        return st;
    struct loading l = { .a = a, .s = &s };
    if (strcmp(s.fingerprint, a->fingerprint) != 0)
        st = qsae__identity_differ(s.identity, s.path, a->identity,
                                   "this one; use another file or delete it");
    else if (s.chunks != a->corpus_info.chunks || s.tokens != a->corpus_info.tokens ||
             s.n_participants != a->n_participants)
        st = qsae__fail(QSAE_EFORMAT, "%s: its counts are not those of its measurement", s.path);
    if (st == QSAE_OK)
        st = qsae__parts_visit(a, load_part, &l);
    if (st != QSAE_OK && l.st == QSAE_OK && l.at > 0) /* what was read is not taken */
        st = qsae__fail_in(st, "%s", s.path);
    if (st == QSAE_OK && l.at != s.n_parts)
        st = qsae__fail(QSAE_EFORMAT, "%s: %lld parts too many", s.path,
                        (long long)(s.n_parts - l.at));
    if (st == QSAE_OK)
        st = load_position(a, &s);
    qsae__state_close(&s);
    return st;
}
