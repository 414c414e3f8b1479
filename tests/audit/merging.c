/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * State files made by hand, part by part, and merged: the rule of each kind of part, and what
 * refuses to merge, by its message. Every piece of memory that writing and merging take fails,
 * jansson's too: functions of the C library are replaced.
 */
#include "failing.h"

#include <jansson.h>

#define IDENTITY_MOST ((size_t)16 << 20)

/* ---- by hand ---- */

/* Words or text of a part; those that are NULL or -1 end it. */
struct made_part {
    const char *name;
    enum qsae__part_kind kind;
    int64_t words[4];
    int n;
    const char *text;        /* instead of words */
    const qsae__strbuf *metric; /* [2] description and state, instead of both */
};

struct made {
    const char *identity;    /* "{}" */
    char print;              /* what the fingerprint consists of */
    int64_t chunks, tokens, from, to, base, next[2], participants;
    struct made_part parts[6];
    int n;
    int more;                /* ranges of one chunk from chunk 100 on, one apart */
};

#define MORE_MOST 40

/* Chunks 0..2 of 10, two participants, a part of each kind but a metric. */
static struct made usual(int64_t from, int64_t to)
{
    return (struct made){
        .identity = "{\"text\": \"a\"}", .print = '5', .chunks = 10, .tokens = 100, .from = from,
        .to = to, .participants = 2, .n = 5,
        .parts = { { .name = "sums", .kind = QSAE__PART_SUMS, .words = { 1, 20 }, .n = 2 },
                   { .name = "most", .kind = QSAE__PART_MOST, .words = { 3, 4 }, .n = 2 },
                   { .name = "same", .kind = QSAE__PART_SAME, .words = { 1, 7 }, .n = 2 },
                   { .name = "lines", .kind = QSAE__PART_LINES, .text = "b\nd" },
                   { .name = "once", .kind = QSAE__PART_ONCE, .text = "bytes" } },
    };
}

static int32_t write_made_status(const char *path, const struct made *m)
{
    struct state_part parts[6] = { { .name = NULL } };
    struct audit_range range[1 + MORE_MOST] = { { m->from, m->to } };
    int64_t next[2] = { m->next[0], m->next[1] };
    struct audit_state s = { .ctx = ctx, .chunks = m->chunks, .tokens = m->tokens,
                             .covered = range, .n_covered = (m->from < m->to) + m->more,
                             .base = m->base, .next = next,
                             .n_participants = m->participants, .n_parts = m->n };
    qsae__strbuf b;
    for (int i = 0; i < m->more; i++)
        range[1 + i] = (struct audit_range){ 100 + 2 * i, 101 + 2 * i };
    memset(s.fingerprint, m->print, QSAE__HASH_SIZE - 1);
    s.identity = json_loads(m->identity, JSON_DECODE_ANY, NULL);
    qsae__strbuf_init(&b, ctx);
    qsae__state_put_head(&b, &s);
    for (int i = 0; i < m->n; i++) {
        const struct made_part *const p = &m->parts[i];
        char name[32];
        snprintf(name, sizeof name, "%s", p->name);
        parts[i] = (struct state_part){ .name = name, .kind = p->kind,
                                        .data = p->text ? (const uint8_t *)p->text
                                                        : (const uint8_t *)p->words,
                                        .size = p->text ? strlen(p->text) : (size_t)p->n * 8 };
        if (p->metric) {
            parts[i].description = (const uint8_t *)p->metric[0].data;
            parts[i].description_size = (uint64_t)p->metric[0].size;
            parts[i].data = (const uint8_t *)p->metric[1].data;
            parts[i].size = (uint64_t)p->metric[1].size;
        }
        qsae__state_put_stored(&b, &parts[i]);
    }
    const int32_t st = qsae__state_finish(&b, path);
    qsae__strbuf_free(&b);
    json_decref(s.identity);
    return st;
}

static void write_made(const char *path, const struct made *m)
{
    assert_ok(write_made_status(path, m));
}

static int32_t merge_two(int32_t flags)
{
    const char *const files[] = { in("one"), in("two") };
    return qsae_audit_merge(ctx, files, 2, in("sum"), flags, NULL);
}

/* Part i of the sum has these words. */
static void expect_words(int i, int n, int64_t a, int64_t b)
{
    struct audit_state s;
    const int64_t want[2] = { a, b };
    assert_ok(qsae__state_open(ctx, in("sum"), &s));
    assert_int_equal(s.parts[i].size, (size_t)n * 8);
    assert_memory_equal(s.parts[i].data, want, (size_t)n * 8);
    qsae__state_close(&s);
}

static void expect_text(int i, const char *text)
{
    struct audit_state s;
    assert_ok(qsae__state_open(ctx, in("sum"), &s));
    assert_int_equal(s.parts[i].size, strlen(text));
    assert_memory_equal(s.parts[i].data, text, strlen(text));
    qsae__state_close(&s);
}

enum { SUMS, MOST, SAME, LINES, ONCE };

static void test_rules(void **state)
{
    struct made a = usual(0, 2), b = usual(4, 6);
    (void)state;
    b.parts[SUMS].words[0] = 5;
    b.parts[MOST].words[0] = 2;
    b.parts[MOST].words[1] = 9;
    b.parts[LINES].text = "a\nd\ne";
    write_made(in("one"), &a);
    write_made(in("two"), &b);
    assert_ok(merge_two(QSAE_MERGE_NUMERICS));
    expect_words(SUMS, 2, 6, 40);
    expect_words(MOST, 2, 3, 9);
    expect_words(SAME, 2, 1, 7);
    expect_text(LINES, "a\nb\nd\ne");
    expect_text(ONCE, "bytes");
    qsae_merge_info info = { .struct_size = sizeof info };
    assert_ok(qsae_audit_merge(ctx, (const char *const[]){ in("one"), in("two") }, 2, in("sum"),
                               QSAE_MERGE_NUMERICS, &info));
    assert_true(info.chunks == 10 && info.measured_chunks == 4 && info.gaps == 2 &&
                info.gap_from == 2 && info.gap_to == 4);
    assert_fails(merge_two(0), QSAE_EMISMATCH, "two: lines: measured with other arithmetic: a");
    a.parts[LINES].text = ""; /* it measured nothing */
    write_made(in("one"), &a);
    assert_ok(merge_two(0));
    expect_text(LINES, "a\nd\ne");
    a.parts[LINES].text = "b\nd";
    b.parts[LINES].text = "";
    write_made(in("one"), &a);
    write_made(in("two"), &b);
    assert_ok(merge_two(0));
    expect_text(LINES, "b\nd");
    b.parts[LINES].text = "b\nd";
    write_made(in("two"), &b);
    assert_ok(merge_two(0));
    expect_text(LINES, "b\nd");
}

/* What is known of a result on the two sides, and of their sum; n 0: nothing was written. */
static void test_same(void **state)
{
    static const struct {
        int n_a, n_b;
        int64_t a[2], b[2];
        int n;
        int64_t sum[2];
    } cases[] = {
        { 0, 0, { 0 }, { 0 }, 0, { 0 } },
        { 2, 0, { 1, 7 }, { 0 }, 2, { 1, 7 } },
        { 0, 2, { 0 }, { 1, 7 }, 2, { 1, 7 } },
        { 2, 2, { 1, 7 }, { 1, 7 }, 2, { 1, 7 } },
        { 2, 2, { 1, 7 }, { 0, 8 }, 2, { 1, 7 } }, /* written, and not known */
        { 2, 2, { 0, 8 }, { 1, 7 }, 2, { 1, 7 } },
        { 2, 2, { 0, 8 }, { 0, 9 }, 0, { 0 } },
        { 0, 2, { 0 }, { 0, 9 }, 0, { 0 } },
    };
    struct made a = usual(0, 2), b = usual(4, 6);
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        a.parts[SAME].n = cases[i].n_a;
        b.parts[SAME].n = cases[i].n_b;
        memcpy(a.parts[SAME].words, cases[i].a, sizeof cases[i].a);
        memcpy(b.parts[SAME].words, cases[i].b, sizeof cases[i].b);
        write_made(in("one"), &a);
        write_made(in("two"), &b);
        assert_ok(merge_two(0));
        expect_words(SAME, cases[i].n, cases[i].sum[0], cases[i].sum[1]);
    }
    a = usual(0, 2);
    b = usual(4, 6);
    b.parts[SAME].words[1] = -8; /* any number: an f64 */
    write_made(in("one"), &a);
    write_made(in("two"), &b);
    assert_fails(merge_two(0), QSAE_EMISMATCH,
                 "two: same: another result than in the other states");
    b.parts[SAME].n = 1;
    write_made(in("two"), &b);
    assert_fails(merge_two(0), QSAE_EFORMAT, "two: same: expected 2 numbers, found 8 bytes");
    assert_int_equal(access(in("none"), F_OK), -1);
}

static void test_once(void **state)
{
    static const struct {
        const char *a, *b, *sum; /* sum NULL: they differ */
    } cases[] = { { "", "", "" },     { "x", "", "x" },   { "", "xy", "xy" }, { "xy", "xy", "xy" },
                  { "x", "xy", NULL }, { "xy", "xz", NULL } };
    struct made a = usual(0, 2), b = usual(4, 6);
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        a.parts[ONCE].text = cases[i].a;
        b.parts[ONCE].text = cases[i].b;
        write_made(in("one"), &a);
        write_made(in("two"), &b);
        if (cases[i].sum) {
            assert_ok(merge_two(0));
            expect_text(ONCE, cases[i].sum);
        } else {
            assert_fails(merge_two(0), QSAE_EMISMATCH, "two: once: another result");
        }
    }
}

static int32_t run_merge(void *cookie)
{
    (void)cookie;
    return merge_two(QSAE_MERGE_NUMERICS);
}

/* These do not merge. */
static void refuse_these(const struct made *one, const struct made *two, int32_t status,
                         const char *part)
{
    unlink(in("sum"));
    write_made(in("one"), one);
    write_made(in("two"), two);
    assert_fails(merge_two(QSAE_MERGE_NUMERICS), status, part);
    assert_int_equal(access(in("sum"), F_OK), -1);
}

/* A metric of cross-entropy that has seen ten tokens, written. */
static void write_metric(int64_t first, qsae__strbuf b[2])
{
    float nll[10];
    const qsae_positions at = { .struct_size = sizeof at, .first_token = first, .n_rows = 10 };
    qsae_metric *m = NULL;
    for (int i = 0; i < 10; i++)
        nll[i] = (float)(first + i);
    assert_ok(qsae_metric_open_cross_entropy(ctx, NULL, &m));
    assert_ok(qsae_metric_update_cross_entropy(m, &at, 10, nll));
    for (int i = 0; i < 2; i++)
        qsae__strbuf_init(&b[i], ctx);
    qsae__metric_describe(m, &b[0]);
    qsae__metric_write(m, &b[1]);
    qsae_metric_close(&m);
}

/* Metrics are merged as metrics are. */
static void test_metrics(void **state)
{
    struct made a = usual(0, 2), b = usual(4, 6);
    qsae__strbuf first[2], second[2];
    struct audit_state s;
    qsae_metric *m = NULL;
    double ce = 0;
    (void)state;
    write_metric(0, first);
    write_metric(30, second);
    a.parts[ONCE] = (struct made_part){ .name = "metric", .kind = QSAE__PART_METRIC,
                                        .metric = first };
    b.parts[ONCE] = a.parts[ONCE];
    b.parts[ONCE].metric = second;
    write_made(in("one"), &a);
    write_made(in("two"), &b);
    assert_ok(merge_two(QSAE_MERGE_NUMERICS));
    assert_ok(qsae__state_open(ctx, in("sum"), &s));
    const struct state_part *const part = &s.parts[ONCE];
    assert_ok(qsae__metric_open_written(ctx, part->description, (size_t)part->description_size,
                                        part->data, (size_t)part->size, &m));
    assert_ok(qsae_metric_get(m, "ce", &ce));
    assert_true(ce == (4.5 + 34.5) / 2);
    qsae_metric_close(&m);
    qsae__state_close(&s);
    print_message("%lld calls\n", (long long)fail_each("merging", "sum", run_merge, NULL));
    b.parts[ONCE].metric = first;
    refuse_these(&a, &b, QSAE_EMISMATCH, "two: metric: ");
    qsae__strbuf cut[2] = { second[0], second[1] };
    cut[1].size -= 8;
    b.parts[ONCE].metric = cut;
    refuse_these(&a, &b, QSAE_EFORMAT, "two: metric: metric state: ");
    refuse_these(&b, &a, QSAE_EFORMAT, "one: metric: metric state: ");
    for (int i = 0; i < 2; i++) {
        qsae__strbuf_free(&first[i]);
        qsae__strbuf_free(&second[i]);
    }
}

/* ---- what refuses to merge ---- */

/* The second state is this one; or, turned, the first. */
static void refuse(const struct made *bad, bool turned, int32_t status, const char *part)
{
    const struct made good = usual(0, 2);
    unlink(in("sum"));
    write_made(in(turned ? "two" : "one"), &good);
    write_made(in(turned ? "one" : "two"), bad);
    assert_fails(merge_two(0), status, part);
    assert_int_equal(access(in("sum"), F_OK), -1);
}

static void test_others(void **state)
{
    static const char parts[] = "two: its parts are not those of its measurement";
    struct made b = usual(4, 6);
    (void)state;
    b.print = '6';
    refuse(&b, false, QSAE_EMISMATCH, "other settings than");
    b.identity = "{\"text\": \"b\"}";
    refuse(&b, false, QSAE_EMISMATCH, "text: \"b\" here, \"a\" in");
    b.print = '5';
    refuse(&b, false, QSAE_EFORMAT, parts);
    b = usual(4, 6);
    b.chunks++;
    refuse(&b, false, QSAE_EFORMAT, parts);
    b.chunks--;
    b.tokens++;
    refuse(&b, false, QSAE_EFORMAT, parts);
    b.tokens--;
    b.participants--;
    refuse(&b, false, QSAE_EFORMAT, parts);
    b.participants++;
    b.n--;
    refuse(&b, false, QSAE_EFORMAT, parts);
    b.n++;
    b.parts[MOST].kind = QSAE__PART_SUMS;
    refuse(&b, false, QSAE_EFORMAT, parts);
    b.parts[MOST].kind = QSAE__PART_MOST;
    b.parts[ONCE].name = "twice";
    refuse(&b, false, QSAE_EFORMAT, parts);
    b.parts[ONCE].name = "once";
    b.next[1] = 2;
    for (int turned = 0; turned < 2; turned++)
        refuse(&b, turned, QSAE_EINVAL, "stopped before all conditions had seen chunks 0 to 2");
    b.next[1] = 0;
    b.from = 1;
    refuse(&b, false, QSAE_EMISMATCH, "two: chunks 1 to 2 are in another state already");
}

static void test_values(void **state)
{
    static const char bad_utf8[] = "a\xff";
    char *const longest = malloc((1 << 16) + 2);
    struct made b = usual(4, 6);
    (void)state;
    assert_non_null(longest);
    memset(longest, 'a', (1 << 16) + 1);
    longest[(1 << 16) + 1] = '\0';
    for (int turned = 0; turned < 2; turned++) {
        b = usual(4, 6);
        b.parts[SUMS].words[1] = -1;
        refuse(&b, turned, QSAE_EFORMAT, "sums: a count is negative");
        b = usual(4, 6);
        b.parts[MOST].n = 3;
        refuse(&b, turned, QSAE_EFORMAT, "most: expected 3 numbers, found 16 bytes");
        b = usual(4, 6);
        b.parts[LINES].text = bad_utf8;
        refuse(&b, turned, QSAE_EFORMAT, "lines: expected lines of text");
        b.parts[LINES].text = NULL; /* a byte 0 */
        b.parts[LINES].n = 1;
        refuse(&b, turned, QSAE_EFORMAT, "lines: expected lines of text");
        b.parts[LINES].text = longest;
        refuse(&b, turned, QSAE_EFORMAT, "lines: expected lines of text");
        b = usual(4, 6);
        b.parts[ONCE].kind = QSAE__PART_METRIC;
        refuse(&b, turned, QSAE_EFORMAT, turned ? "once: metric: its description is truncated"
                                                : "its parts are not those");
        b = usual(4, 6);
        b.identity = "[]";
        refuse(&b, turned, QSAE_EFORMAT, "identity: expected a JSON object");
        b = usual(4, 6);
        b.parts[SUMS].name = "\xff";
        refuse(&b, turned, QSAE_EFORMAT, "a part without a name");
    }
    b = usual(4, 6);
    b.parts[SUMS].words[1] = INT64_MAX;
    refuse(&b, false, QSAE_EOVERFLOW, "two: sums: too large a sum");
    longest[1 << 16] = '\0';
    b = usual(4, 6);
    b.parts[LINES].text = longest;
    write_made(in("two"), &b);
    assert_ok(merge_two(QSAE_MERGE_NUMERICS));
    free(longest);
    /* An identity larger than any; a name that is too long is one of a state that is damaged. */
    char *const large = malloc(IDENTITY_MOST + 16);
    assert_non_null(large);
    memset(large, ' ', IDENTITY_MOST + 16);
    memcpy(large, "{\"a\":\"", 6);
    memset(large + 6, 'b', IDENTITY_MOST);
    memcpy(large + 6 + IDENTITY_MOST, "\"}", 3);
    b = usual(4, 6);
    b.identity = large;
    refuse(&b, false, QSAE_EFORMAT, "two: identity: expected a JSON object");
    free(large);
}

static void test_arguments(void **state)
{
    const char *files[] = { in("one"), in("two") };
    const struct made a = usual(0, 2), b = usual(4, 6);
    qsae_merge_info info = { .struct_size = 3 };
    (void)state;
    write_made(files[0], &a);
    write_made(files[1], &b);
    assert_fails(qsae_audit_merge(NULL, files, 2, in("sum"), 0, NULL), QSAE_EINVAL, "context");
    assert_fails(qsae_audit_merge(ctx, files, 2, in("sum"), 0, &info), QSAE_EINVAL, "struct_size");
    assert_fails(qsae_audit_merge(ctx, NULL, 2, in("sum"), 0, NULL), QSAE_EINVAL, "a NULL");
    assert_fails(qsae_audit_merge(ctx, (const char *const *)(const void *)((const char *)files + 1),
                                  1, in("sum"), 0, NULL), QSAE_EINVAL, "files");
    assert_fails(qsae_audit_merge(ctx, files, 0, in("sum"), 0, NULL), QSAE_EINVAL, "no files");
    assert_fails(qsae_audit_merge(ctx, files, INT64_MAX, in("sum"), 0, NULL), QSAE_EINVAL,
                 "a NULL");
    assert_fails(qsae_audit_merge(ctx, files, 2, NULL, 0, NULL), QSAE_EINVAL, "a NULL");
    assert_fails(qsae_audit_merge(ctx, files, 2, in("sum"), 2, NULL), QSAE_EINVAL, "flags");
    assert_ok(qsae_audit_merge(ctx, files, 2, in("sum"), 0, NULL));
    unlink(files[1]);
    assert_fails(qsae_audit_merge(ctx, files, 2, in("sum"), 0, NULL), QSAE_ENOENT, "two");
    assert_fails(qsae_audit_merge(ctx, files, 1, in("no/sum"), 0, NULL), QSAE_ENOENT, "no/sum");
    expect_words(SUMS, 2, 2, 40);
    files[1] = NULL;
    assert_fails(qsae_audit_merge(ctx, files, 2, in("sum"), 0, NULL), QSAE_EINVAL, "files[1]");
}

static int32_t run_write(void *cookie)
{
    return write_made_status(in("sum"), cookie);
}

/* A state of two ranges into another, then a third. */
static int32_t run_merge_three(void *cookie)
{
    const char *const files[] = { in("two"), in("three"), in("one") };
    (void)cookie;
    return qsae_audit_merge(ctx, files, 3, in("sum"), QSAE_MERGE_NUMERICS, NULL);
}

/* The file's end, its checksum, is where more memory is needed for it. */
static void end_on_boundary(struct made *m, char text[1024])
{
    struct audit_state s;
    m->parts[ONCE].text = "";
    write_made(in("sum"), m);
    assert_ok(qsae__state_open(ctx, in("sum"), &s));
    const size_t before = (size_t)s.file->size - (QSAE__HASH_SIZE - 1);
    size_t full = 1024;
    while (full < before + 16)
        full *= 2;
    assert_true(full - before - 8 < 1024);
    memset(text, 'a', full - before - 8);
    text[full - before - 8] = '\0';
    m->parts[ONCE].text = text;
    qsae__state_close(&s);
}

static void test_memory(void **state)
{
    struct made a = usual(0, 2), b = usual(4, 6);
    char text[1024];
    (void)state;
    b.parts[LINES].text = "a\nc";
    write_made(in("one"), &a);
    write_made(in("two"), &b);
    int64_t calls = fail_each("writing", "sum", run_write, &a);
    calls += fail_each("merging", "sum", run_merge, NULL);
    a.parts[ONCE].text = ""; /* taken from the other */
    a.parts[SAME].n = 0;
    write_made(in("one"), &a);
    calls += fail_each("merging", "sum", run_merge, NULL);
    assert_ok(qsae_audit_merge(ctx, (const char *const[]){ in("one"), in("two") }, 2, in("three"),
                               QSAE_MERGE_NUMERICS, NULL));
    b.from = 8;
    b.to = 9;
    write_made(in("two"), &b);
    a.from = 2;
    a.to = 3;
    write_made(in("one"), &a);
    calls += fail_each("merging", "sum", run_merge_three, NULL);
    a.chunks = b.chunks = 1000; /* and ranges that there is no room for at first */
    b.more = MORE_MOST;
    write_made(in("one"), &a);
    write_made(in("two"), &b);
    calls += fail_each("merging", "sum", run_merge, NULL);
    end_on_boundary(&a, text);
    calls += fail_each("writing", "sum", run_write, &a);
    print_message("%lld calls\n", (long long)calls);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rules),  cmocka_unit_test(test_same),
        cmocka_unit_test(test_once),   cmocka_unit_test(test_others),
        cmocka_unit_test(test_values), cmocka_unit_test(test_arguments),
        cmocka_unit_test(test_memory), cmocka_unit_test(test_metrics),
    };
    return run_failing("merging", tests, sizeof tests / sizeof tests[0]);
}
