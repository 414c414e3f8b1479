/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What an audit gathers, saved and read back: states whose parts are others than it has, conditions
 * ahead of the others, ranges of chunks, snapshots. Every piece of memory that saving, loading and
 * merging take fails, jansson's too: functions of the C library are replaced.
 */
#include "failing.h"

#include <math.h>

#include <jansson.h>

#include "audit/audit.h"

static void audit_settings(qsae_audit_settings *s)
{
    static const char *const conditions[] = { "rtn:bits=4", "llm.int8:threshold=1" };
    static const int64_t contexts[] = { 4, 8 };
    static const char *const saes[] = { QSAE_FUZZ_FIXTURE "/sae@0" };
    qsae_audit_settings_init(s, sizeof *s);
    s->model = QSAE_FUZZ_FIXTURE;
    s->text = QSAE_FUZZ_FIXTURE "/text.jsonl";
    s->saes = saes;
    s->n_saes = 1;
    s->context = 8;
    s->batch = 2;
    s->conditions = conditions;
    s->n_conditions = 2;
    s->contexts = contexts;
    s->n_contexts = 2;
    s->state = in("audit");
}

static qsae_audit *open_audit(void)
{
    qsae_audit_settings s;
    qsae_audit *a = NULL;
    audit_settings(&s);
    assert_ok(qsae_audit_open(ctx, &s, &a));
    return a;
}

/* One that was measured and saved, and is read back. */
static qsae_audit *open_measured(void)
{
    unlink(in("audit"));
    qsae_audit *a = open_audit();
    assert_ok(qsae_audit_run(a));
    qsae_audit_close(&a);
    return open_audit();
}

/* Writes the state of `s` over the audit's file, with `more` parts (below 0: fewer). */
static void rewrite(const struct audit_state *s, int64_t more)
{
    struct audit_state head = *s;
    qsae__strbuf b;
    head.n_parts += more;
    qsae__strbuf_init(&b, ctx);
    qsae__state_put_head(&b, &head);
    for (int64_t i = 0; i < head.n_parts; i++)
        qsae__state_put_stored(&b, &s->parts[i < s->n_parts ? i : s->n_parts - 1]);
    assert_ok(qsae__state_finish(&b, in("audit")));
    qsae__strbuf_free(&b);
}

static struct state_part *part_of(const struct audit_state *s, const char *name)
{
    for (int64_t i = 0; i < s->n_parts; i++)
        if (strcmp(s->parts[i].name, name) == 0)
            return &s->parts[i];
    fail_msg("no part %s", name);
    return NULL;
}

static void test_parts(void **state)
{
    qsae_audit *a = open_measured();
    struct audit_state s;
    uint8_t longer[65536];
    (void)state;
    assert_ok(qsae__state_open(ctx, in("audit"), &s));
    struct state_part *const ce = part_of(&s, "reference.cross_entropy");
    char *const first = ce->name, other[] = "reference.other";
    ce->name = other;
    rewrite(&s, 0);
    assert_fails(qsae__state_load(a), QSAE_EFORMAT,
                 "audit: expected the part reference.cross_entropy, found reference.other");
    ce->name = first;
    ce->kind = QSAE__PART_SUMS;
    rewrite(&s, 0);
    assert_fails(qsae__state_load(a), QSAE_EFORMAT, "expected the part reference.cross_entropy");
    ce->kind = QSAE__PART_METRIC;
    ce->description_size--;
    rewrite(&s, 0);
    assert_fails(qsae__state_load(a), QSAE_EFORMAT,
                 "reference.cross_entropy: metric: its description is truncated");
    ce->description_size++;
    rewrite(&s, -1);
    assert_fails(qsae__state_load(a), QSAE_EFORMAT, "conditions[1].peak_rss, found none");
    rewrite(&s, 2);
    assert_fails(qsae__state_load(a), QSAE_EFORMAT, "audit: 2 parts too many");
    s.chunks++;
    rewrite(&s, 0);
    assert_fails(qsae__state_load(a), QSAE_EFORMAT, "its counts are not those");
    s.chunks--;
    s.tokens++;
    rewrite(&s, 0);
    assert_fails(qsae__state_load(a), QSAE_EFORMAT, "its counts are not those");
    s.tokens--;
    s.n_participants--;
    rewrite(&s, 0);
    assert_fails(qsae__state_load(a), QSAE_EFORMAT, "its counts are not those");
    s.n_participants++;
    s.fingerprint[0] ^= 1;
    rewrite(&s, 0);
    assert_fails(qsae__state_load(a), QSAE_EMISMATCH, "this one; use another file or delete it");
    s.fingerprint[0] ^= 1;
    struct state_part *const once = part_of(&s, "contexts");
    const struct state_part was = *once;
    assert_true(was.size > 0 && was.size < sizeof longer);
    memcpy(longer, was.data, (size_t)was.size);
    longer[was.size] = 0;
    once->data = longer;
    once->size++;
    rewrite(&s, 0);
    assert_fails(qsae__state_load(a), QSAE_EFORMAT, "audit: contexts: 1 bytes too many");
    *once = was;
    struct state_part *const sums = part_of(&s, "conditions[1].outliers");
    sums->size -= 8;
    rewrite(&s, 0);
    assert_fails(qsae__state_load(a), QSAE_EFORMAT, "conditions[1].outliers: expected ");
    sums->size += 8;
    struct state_part *const lines = part_of(&s, "run.numerics");
    lines->data = (const uint8_t *)"\xff";
    lines->size = 1;
    rewrite(&s, 0);
    assert_fails(qsae__state_load(a), QSAE_EFORMAT, "run.numerics: expected lines of text");
    unlink(in("audit"));
    assert_fails(qsae__state_load(a), QSAE_ENOENT, "audit");
    qsae__state_close(&s);
    qsae_audit_close(&a);
}

/* A condition that is ahead of the others goes on there, in the same part of the text. */
static void test_ahead(void **state)
{
    unlink(in("audit"));
    qsae_audit *a = open_audit();
    (void)state;
    a->participants[2].next_chunk = 2;
    assert_ok(qsae__state_save(a));
    a->participants[2].next_chunk = 0;
    assert_ok(qsae__state_load(a));
    assert_true(a->participants[1].next_chunk == 0 && a->participants[2].next_chunk == 2);
    assert_true(qsae__covered_by(a, &a->participants[2], 1));
    assert_false(qsae__covered_by(a, &a->participants[2], 2));
    assert_false(qsae__covered_by(a, &a->participants[1], 0));
    const int64_t all = a->to_chunk;
    a->to_chunk = 1;
    assert_fails(qsae__state_load(a), QSAE_EMISMATCH, "stopped in the middle of chunks 0 to 2");
    a->to_chunk = all;
    a->from_chunk = 1;
    assert_fails(qsae__state_load(a), QSAE_EMISMATCH, "stopped in the middle of chunks 0 to 2");
    a->from_chunk = 0;
    /* What it has scored counts for it alone. */
    int64_t none[3], ahead[3];
    assert_ok(qsae__state_load(a));
    assert_true(qsae__covered_scored(a, NULL, &none[0], &none[1], &none[2]));
    assert_true(qsae__covered_scored(a, &a->participants[1], &ahead[0], &ahead[1], &ahead[2]));
    assert_true(none[0] == 0 && ahead[0] == 0);
    assert_true(qsae__covered_scored(a, &a->participants[2], &ahead[0], &ahead[1], &ahead[2]));
    assert_true(ahead[0] > 0 && ahead[0] <= 16 && ahead[1] >= ahead[0]);
    qsae_audit_close(&a);
}

struct visits {
    int64_t at, seen;        /* the visit that fails */
    const char *looked;      /* name of the part that fails, or NULL */
    const char *name;        /* of a part to put words into, or NULL */
    const int64_t *words;
    int64_t n;
};

static int32_t visit(void *self, const struct audit_part *part)
{
    struct visits *const v = self;
    if (v->seen++ == v->at)
        return qsae__fail(QSAE_ESTATE, "visit %lld", (long long)v->at);
    if (v->looked && strcmp(part->name, v->looked) == 0)
        return qsae__fail(QSAE_ESTATE, "%s", v->looked);
    if (v->name && strcmp(part->name, v->name) == 0)
        memcpy(part->words, v->words, (size_t)v->n * sizeof *v->words);
    return QSAE_OK;
}

/* The first visit that fails ends them. */
static void test_visits(void **state)
{
    unlink(in("audit"));
    qsae_audit *a = open_audit();
    struct visits all = { .at = -1 };
    (void)state;
    assert_ok(qsae__parts_visit(a, visit, &all));
    assert_true(all.seen > 20);
    for (int64_t i = 0; i < all.seen; i++) {
        struct visits v = { .at = i };
        char message[32];
        snprintf(message, sizeof message, "visit %lld", (long long)i);
        assert_fails(qsae__parts_visit(a, visit, &v), QSAE_ESTATE, message);
        assert_int_equal(v.seen, i + 1);
    }
    /* A condition without 8-bit matrices has no such part; probes are one, before the contexts. */
    const int64_t matrices = a->participants[1].n_outliers;
    struct visits fewer = { .at = -1 }, more = { .at = -1 };
    a->participants[1].n_outliers = 0;
    assert_ok(qsae__parts_visit(a, visit, &fewer));
    assert_int_equal(fewer.seen, all.seen - 1);
    a->participants[1].n_outliers = matrices;
    struct audit_probes *const none = a->probes;
    a->probes = (struct audit_probes *)a; /* not looked at */
    assert_ok(qsae__parts_visit(a, visit, &more));
    assert_int_equal(more.seen, all.seen + 1);
    struct visits probes = { .at = -1, .looked = "probes" };
    assert_fails(qsae__parts_visit(a, visit, &probes), QSAE_ESTATE, "probes");
    a->probes = none;
    struct audit_contexts *const contexts = a->contexts;
    struct visits shorter = { .at = -1 };
    a->contexts = NULL;
    assert_ok(qsae__parts_visit(a, visit, &shorter));
    assert_int_equal(shorter.seen, all.seen - 1);
    a->contexts = contexts;
    inject_arm(INJECT_MEMORY, 0, false, 0);
    struct visits without = { .at = -1 };
    assert_fails(qsae__parts_visit(a, visit, &without), QSAE_ENOMEM, "out of memory");
    inject_disarm();
    assert_int_equal(without.seen, 0);
    qsae_audit_close(&a);
}

static int64_t bits_of(double v)
{
    int64_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}

/* The result of a search for a sparsity. */
static void test_match(void **state)
{
    enum { WORDS = 5 + 2 * QSAE__MATCH_STEPS };
    struct {
        int at;
        int64_t value;
    } const bad[] = { { 0, 2 }, { 0, -1 }, { 2, -1 }, { 3, 2 },     { 3, -1 },
                      { 4, 0 }, { 4, 7 },  { 5, bits_of(-0.5) }, { 7, bits_of(1.5) },
                      { 7, bits_of(NAN) } };
    int64_t words[WORDS] = { 1, bits_of(12.5), 4096, 1, 2, bits_of(0), bits_of(20), bits_of(1),
                             bits_of(12) };
    struct audit_match m = { .done = false };
    struct visits v = { .at = -1, .name = "conditions[0].match", .words = words, .n = WORDS };
    unlink(in("audit"));
    qsae_audit *a = open_audit();
    (void)state;
    a->participants[1].match = &m;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const int64_t was = words[bad[i].at];
        words[bad[i].at] = bad[i].value;
        m = (struct audit_match){ .done = false };
        assert_fails(qsae__parts_visit(a, visit, &v), QSAE_EFORMAT,
                     bad[i].at < 5 ? "a search without its result" : "a sparsity out of 0..1");
        words[bad[i].at] = was;
    }
    struct visits fails = { .at = -1, .looked = "conditions[0].match" };
    m = (struct audit_match){ .done = false };
    assert_fails(qsae__parts_visit(a, visit, &fails), QSAE_ESTATE, "match");
    assert_false(m.done);
    assert_ok(qsae__parts_visit(a, visit, &v));
    assert_true(m.done && m.target == 12.5 && m.tokens == 4096 && m.chosen == 1 &&
                m.n_visited == 2 && m.visited[1].sparsity == 1 && m.visited[0].ppl == 20);
    /* Saved and read back; and one that is not known yet takes no bytes. */
    const struct audit_match known = m;
    assert_ok(qsae__state_save(a));
    m = (struct audit_match){ .done = false };
    assert_ok(qsae__state_load(a));
    assert_memory_equal(&m, &known, sizeof m);
    m = (struct audit_match){ .done = false };
    assert_ok(qsae__state_save(a));
    assert_ok(qsae__state_load(a));
    assert_false(m.done);
    struct audit_state s;
    assert_ok(qsae__state_open(ctx, in("audit"), &s));
    assert_int_equal(part_of(&s, "conditions[0].match")->size, 0);
    qsae__state_close(&s);
    a->participants[1].match = NULL;
    qsae_audit_close(&a);
}

static int32_t run_save(void *cookie)
{
    return qsae__state_save(cookie);
}

static int32_t run_load(void *cookie)
{
    return qsae__state_load(cookie);
}

static int32_t run_merge_audit(void *cookie)
{
    const char *const files[] = { cookie };
    return qsae_audit_merge(ctx, files, 1, in("sum"), 0, NULL);
}

/* Every call for memory under a state that is saved, read and merged. */
static void test_memory(void **state)
{
    qsae_audit *a = open_measured();
    char copy[192];
    (void)state;
    snprintf(copy, sizeof copy, "%s", in("audit"));
    int64_t calls = fail_each("saving", "audit", run_save, a);
    /* Two ranges: as if the second batch had not been measured. */
    a->n_covered = 0;
    assert_ok(qsae__range_add(ctx, &a->covered, &a->n_covered, &a->covered_capacity, 0, 2));
    assert_ok(qsae__range_add(ctx, &a->covered, &a->n_covered, &a->covered_capacity, 4, 6));
    assert_ok(run_save(a));
    const uint64_t want = hash_of(in("audit"));
    calls += fail_each("merging", "sum", run_merge_audit, copy);
    int64_t loading = 1;
    for (int64_t at = 0; at <= loading; at++) {
        qsae__free(ctx, a->covered); /* no room for ranges either */
        a->covered = NULL;
        a->n_covered = a->covered_capacity = 0;
        inject_arm(INJECT_MEMORY, at, false, 0);
        const int32_t st = run_load(a);
        loading = inject_disarm();
        if (st != QSAE_OK && st != QSAE_ENOMEM)
            fail_msg("loading, call %lld: %s (%s)", (long long)at, qsae_status_name(st),
                     qsae_error_message());
        assert_true(st == QSAE_OK || at < loading);
        if (st == QSAE_OK) { /* the same */
            assert_ok(run_save(a));
            assert_true(hash_of(in("audit")) == want);
        }
    }
    for (int64_t at = calls; at >= 0; at--) { /* from then on */
        inject_arm(INJECT_MEMORY, at, true, 0);
        const int32_t st = run_save(a);
        assert_int_equal(st, inject_fired() == CALL_NONE ? QSAE_OK : QSAE_ENOMEM);
        inject_disarm();
        assert_true(hash_of(in("audit")) == want);
    }
    print_message("%lld calls\n", (long long)(calls + loading));
    qsae_audit_close(&a);
}

/* ---- ranges and snapshots ---- */

static void test_ranges(void **state)
{
    struct audit_range *list = NULL;
    int64_t n = 0, capacity = 0;
    (void)state;
    assert_ok(qsae__range_add(ctx, &list, &n, &capacity, 4, 4));
    assert_int_equal(n, 0);
    inject_arm(INJECT_MEMORY, 0, false, 0);
    assert_fails(qsae__range_add(ctx, &list, &n, &capacity, 4, 6), QSAE_ENOMEM, "out of memory");
    inject_disarm();
    assert_ok(qsae__range_add(ctx, &list, &n, &capacity, 4, 6));
    assert_ok(qsae__range_add(ctx, &list, &n, &capacity, 0, 2));
    assert_ok(qsae__range_add(ctx, &list, &n, &capacity, 8, 9));
    assert_int_equal(n, 3);
    qsae_audit a = { .ctx = ctx, .corpus_info = { .chunks = 10, .tokens = 77, .context = 8 },
                     .batch = 2, .to_chunk = 10, .covered = list, .n_covered = n,
                     .covered_capacity = capacity };
    struct participant p = { .next_chunk = 0 };
    qsae__coverage_next(&a);
    assert_true(a.next_chunk == 2 && a.end_chunk == 4 && a.tokens_done == 5 * 8);
    assert_true(qsae__covered_by(&a, &p, 4) && !qsae__covered_by(&a, &p, 6));
    assert_int_equal(qsae__covered_tokens(&a, 0, 5), 3 * 8);
    assert_int_equal(qsae__covered_tokens(&a, 2, 4), 0);
    a.from_chunk = 6; /* behind two of them */
    qsae__coverage_next(&a);
    assert_true(a.next_chunk == 6 && a.end_chunk == 8);
    assert_false(qsae__covered_whole(&a));
    a.from_chunk = 0;
    assert_false(qsae__covered_whole(&a));
    json_t *gaps = qsae__gaps_json(&a);
    char *const text = json_dumps(gaps, JSON_COMPACT);
    assert_string_equal(text, "[[2,4],[6,8],[9,10]]");
    free(text);
    json_decref(gaps);
    qsae__coverage_next(&a);
    qsae_audit full = a; /* no room for one more */
    full.covered_capacity = full.n_covered;
    inject_arm(INJECT_MEMORY, 0, false, 0);
    const int32_t st = qsae__cover(&full, 3);
    inject_disarm();
    assert_fails(st, QSAE_ENOMEM, "out of memory");
    assert_true(full.n_covered == 3 && full.next_chunk == 2);
    assert_ok(qsae__cover(&a, 3));
    assert_true(a.n_covered == 3 && a.covered[0].to == 3 && a.next_chunk == 3);
    assert_ok(qsae__cover(&a, 4)); /* the gap is closed */
    assert_true(a.n_covered == 2 && a.next_chunk == 6 && a.end_chunk == 8);
    assert_ok(qsae__cover(&a, 8));
    assert_ok(qsae__cover(&a, 10));
    assert_true(a.n_covered == 1 && qsae__covered_whole(&a));
    a.to_chunk = 9;
    assert_false(qsae__covered_whole(&a));
    qsae__free(ctx, a.covered);
}

/* Parts begin where batches fill whole leaves or, where none soon do, every 64 tokens or more; with
 * llama.cpp's comparison where its chunks do, too. */
static void test_units(void **state)
{
    static const struct {
        int64_t context, batch;
        bool llama;
        int64_t unit;
    } cases[] = { { 8, 2, false, 32 }, { 8, 2, true, 32 }, { 10, 3, false, 9 },
                  { 10, 3, true, 63 } };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const int64_t context = cases[i].context;
        qsae_audit a = { .ctx = ctx, .batch = cases[i].batch,
                         .corpus_info = { .chunks = 1000, .tokens = 1000 * context,
                                          .context = context } };
        a.llama = cases[i].llama ? (struct audit_llama *)&a : NULL; /* not looked at */
        int64_t end = 0;
        for (int64_t shard = 0; shard < 7; shard++) {
            qsae__coverage_open(&a, shard, 7);
            assert_int_equal(a.from_chunk, end);
            assert_true(a.to_chunk == 1000 || a.to_chunk % cases[i].unit == 0);
            end = a.to_chunk;
        }
        assert_int_equal(end, 1000);
        qsae__coverage_open(&a, 0, 1000 / cases[i].unit + 1); /* one unit each */
        assert_int_equal(a.to_chunk, cases[i].unit);
    }
}

/* Budgets that one batch reaches are one cut; those beyond the text are none. */
static void test_budgets(void **state)
{
    static const int64_t want[] = { 16, 64, 77 };
    struct qsae__profile profile = { .budgets = { 1, 16, 49, 75, 78, 100 } };
    qsae_audit a = { .ctx = ctx, .corpus_info = { .chunks = 10, .tokens = 77, .context = 8 },
                     .batch = 2, .profile = &profile };
    struct audit_range covered = { 2, 10 };
    qsae_metric *m = NULL, *before = NULL;
    float nll[77];
    (void)state;
    for (int i = 0; i < 77; i++)
        nll[i] = 1;
    assert_ok(qsae__snapshots_cut(&a, NULL));
    assert_ok(qsae_metric_open_cross_entropy(ctx, NULL, &m));
    assert_ok(qsae__snapshots_cut(&a, m));
    assert_ok(qsae_metric_update_cross_entropy(m, NULL, 77, nll));
    for (int64_t token = 1; token <= 77; token++) {
        const bool cut = token == want[0] || token == want[1] || token == want[2];
        assert_int_equal(qsae__metric_before(m, token, &before), cut ? QSAE_OK : QSAE_EINVAL);
        qsae_metric_close(&before);
    }
    qsae_metric_close(&m);
    /* Not without the beginning, or before a batch is whole. */
    a.snapshots = json_array();
    assert_ok(qsae__snapshots_take(&a));
    a.covered = &covered;
    a.n_covered = 1;
    assert_ok(qsae__snapshots_take(&a));
    covered = (struct audit_range){ 0, 1 };
    assert_ok(qsae__snapshots_take(&a));
    profile.budgets[0] = 78;
    covered.to = 10;
    assert_ok(qsae__snapshots_take(&a));
    assert_int_equal(json_array_size(a.snapshots), 0);
    json_decref(a.snapshots);
}

/* Memory fails at every call while snapshots are taken: all of them, or out of memory. */
static void test_snapshots(void **state)
{
    static struct qsae__profile profile;
    unlink(in("audit"));
    qsae_audit *a = open_audit();
    (void)state;
    profile = *a->profile;
    memset(profile.budgets, 0, sizeof profile.budgets);
    profile.budgets[0] = 16;
    profile.budgets[1] = 30;
    a->profile = &profile;
    for (int64_t i = 0; i < a->n_participants; i++) {
        struct participant *const p = &a->participants[i];
        assert_ok(qsae__snapshots_cut(a, p->cross_entropy));
        assert_ok(qsae__snapshots_cut(a, p->divergence));
        assert_ok(qsae__snapshots_cut(a, p->saes[0].reconstruction));
        assert_ok(qsae__snapshots_cut(a, p->saes[0].drift));
    }
    assert_ok(qsae_audit_run(a));
    assert_ok(qsae__snapshots_take(a));
    assert_int_equal(json_array_size(a->snapshots), 2);
    json_t *const want = json_deep_copy(a->snapshots);
    int64_t calls = 1, refused = 0;
    for (int64_t at = 0; at <= calls; at++) {
        inject_arm(INJECT_MEMORY, at, false, 0);
        qsae__json_begin(); /* as the result does, which they go into */
        const int32_t st = qsae__json_status(qsae__snapshots_take(a));
        calls = inject_disarm();
        refused += st != QSAE_OK;
        assert_true(st == QSAE_OK || st == QSAE_ENOMEM);
        if (st == QSAE_OK && !json_equal(a->snapshots, want))
            fail_msg("call %lld: other snapshots", (long long)at);
    }
    assert_true(refused > 0);
    json_decref(want);
    qsae_audit_close(&a);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts),        cmocka_unit_test(test_ahead),
        cmocka_unit_test(test_visits),       cmocka_unit_test(test_match),
        cmocka_unit_test(test_memory), cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_units),        cmocka_unit_test(test_budgets),
        cmocka_unit_test(test_snapshots),
    };
    return run_failing("gathered", tests, sizeof tests / sizeof tests[0]);
}
