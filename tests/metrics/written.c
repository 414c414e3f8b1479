/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What surrounds a written state: every piece of memory that reading, merging, cutting and opening
 * takes fails; sums before a token; descriptions and states that do not fit each other, each field
 * by its message.
 */
#include "metrics_test.h"

#include "core/hash.h"
#include "metrics/llama.h"
#include "metrics/mass.h"
#include "metrics/parts.h"

#define ALL_KINDS 7 /* the five public ones, llama_cpp, mass */
#define HEAD 56     /* of a state: what its checksum does not cover */
#define BATCH_ROWS 65
enum { DIVERGENCE = 1, RECONSTRUCTION = 2, FEATURES = 3 };

/* Of the tree; of batches one is before the first batch. */
static const int64_t cuts[] = { 40, 100, 700, 1300 };
enum { CUTS = sizeof cuts / sizeof cuts[0], CUT = 700 };

static int64_t calls_left = INT64_MAX, blocks; /* of the allocator of the context below */

static void *counting_alloc(void *cookie, size_t size, size_t alignment)
{
    void *const p = failing_alloc(cookie, size, alignment);
    blocks += p != NULL;
    return p;
}

static void counting_free(void *cookie, void *p)
{
    blocks -= p != NULL;
    plain_free(cookie, p);
}

static qsae_context *open_failing(void)
{
    qsae_context_settings s;
    qsae_context *ctx = NULL;
    qsae_context_settings_init(&s, sizeof s);
    s.threads = 1;
    s.alloc = counting_alloc;
    s.free = counting_free;
    s.alloc_cookie = &calls_left;
    calls_left = INT64_MAX;
    assert_int_equal(blocks, 0);
    assert_ok(qsae_context_open(&s, &ctx));
    return ctx;
}

/* Nothing of it is left. */
static void close_failing(qsae_context **ctx)
{
    qsae_context_close(ctx);
    assert_int_equal(blocks, 0);
}

static qsae_metric *open_with(qsae_context *ctx, int kind, const qsae_metric_settings *s)
{
    qsae_metric *m = NULL;
    if (kind < KINDS)
        return open_kind(ctx, kind, s);
    if (kind == KINDS)
        assert_ok(qsae_metric_open_llama_cpp(ctx, s, &m));
    else
        assert_ok(qsae__mass_open(ctx, F, s, &m));
    return m;
}

static qsae_metric *open_any(qsae_context *ctx, int kind)
{
    qsae_metric_settings s = test_settings();
    s.batch_rows = BATCH_ROWS;
    s.memory = (uint64_t)80 << 10;
    s.prompt_tokens = 5;
    return open_with(ctx, kind, &s);
}

static qsae_metric *open_cut(qsae_context *ctx, int kind)
{
    qsae_metric *const m = open_any(ctx, kind);
    assert_ok(qsae__metric_set_cuts(m, cuts, CUTS));
    return m;
}

static void feed_any(qsae_metric *m, int kind, int64_t first, int64_t n)
{
    static qsae__llama_token tokens[N];
    const qsae_positions at = { .struct_size = sizeof at, .first_token = first, .n_rows = n };
    const qsae_sparse_rows r = { sizeof r, n, rows.ptr_r + first, rows.index_r, rows.value_r };
    for (int64_t i = 0; i < n; i++)
        tokens[i] = (qsae__llama_token){ .kl = (double)rows.kl[first + i], .nll = 2,
                                         .nll_base = 1 };
    if (kind < KINDS)
        assert_ok(feed(m, first, n, 0));
    else if (kind == KINDS)
        assert_ok(qsae__llama_add(m, &at, n, tokens));
    else
        assert_ok(qsae__mass_update(m, &at, &r));
}

/* ---- memory ---- */

struct box {
    qsae_context *ctx;
    int kind;
    int64_t end;                 /* of the tokens of `from` */
    qsae_metric *m, *from;       /* closed behind the call */
    qsae__strbuf state, description;
};

static int32_t run_read(struct box *b)
{
    return qsae__metric_read(b->m, b->state.data, (size_t)b->state.size);
}

static int32_t run_merge(struct box *b)
{
    return qsae_metric_merge(b->m, b->from);
}

static int32_t run_cut(struct box *b)
{
    return qsae__metric_set_cuts(b->m, cuts, CUTS);
}

static int32_t run_before(struct box *b)
{
    return qsae__metric_before(b->from, CUT, &b->m);
}

static int32_t run_open(struct box *b)
{
    return qsae__metric_open_written(b->ctx, b->description.data, (size_t)b->description.size,
                                     b->state.data, (size_t)b->state.size, &b->m);
}

static int32_t run_save(struct box *b)
{
    return qsae_metric_save(b->from, "/dev/null/x");
}

enum ready { EMPTY, WITHOUT_CUTS, OTHER_PART, NONE };
static const struct {
    const char *name;
    int32_t (*run)(struct box *b);
    enum ready ready;        /* of m, before */
    int32_t end;             /* status with all the memory */
} calls[] = {
    { "read", run_read, EMPTY, QSAE_OK },      { "merge", run_merge, OTHER_PART, QSAE_OK },
    { "cuts", run_cut, WITHOUT_CUTS, QSAE_OK }, { "before", run_before, NONE, QSAE_OK },
    { "open", run_open, NONE, QSAE_OK },       { "save", run_save, NONE, QSAE_ENOENT },
};

static void get_ready(struct box *b, enum ready ready)
{
    b->m = ready == NONE           ? NULL
           : ready == WITHOUT_CUTS ? open_any(b->ctx, b->kind)
                                   : open_cut(b->ctx, b->kind);
    if (ready == OTHER_PART)
        feed_any(b->m, b->kind, b->end, 600);
}

/* A call that failed left the metric as it was; one that did not made what it makes with all the
 * memory, but that sums before a cut may be unknown: then they cannot be told. */
static void check(struct box *b, int32_t st, const qsae__strbuf *was, const qsae__strbuf *want)
{
    qsae__strbuf now;
    qsae_metric *before = NULL;
    if (!b->m)
        return;
    qsae__strbuf_init(&now, b->ctx);
    write_state(b->m, &now);
    const qsae__strbuf *const expected = st == QSAE_OK ? want : was;
    if (now.size != expected->size || memcmp(now.data, expected->data, (size_t)now.size) != 0) {
        assert_int_equal(st, QSAE_OK);
        int unknown = 0;
        for (int i = 0; i < CUTS; i++) {
            const int32_t told = qsae__metric_before(b->m, cuts[i], &before);
            assert_true(told == QSAE_OK || told == QSAE_ENOMEM);
            unknown += told == QSAE_ENOMEM;
            qsae_metric_close(&before);
        }
        assert_true(unknown > 0);
    }
    qsae__strbuf_free(&now);
}

/* Memory fails at every call under it; returns how often. */
static int64_t fail_each(struct box *b, size_t c)
{
    qsae__strbuf was, want;
    int32_t st = QSAE_OK;
    int64_t n = 0;
    qsae__strbuf_init(&was, b->ctx);
    qsae__strbuf_init(&want, b->ctx);
    get_ready(b, calls[c].ready);
    if (b->m)
        write_state(b->m, &was);
    assert_int_equal(calls[c].run(b), calls[c].end);
    if (b->m)
        write_state(b->m, &want);
    qsae_metric_close(&b->m);
    for (int64_t left = -1; left < 0; n++) {
        get_ready(b, calls[c].ready);
        calls_left = n;
        st = calls[c].run(b);
        left = calls_left; /* below 0: one of them failed */
        calls_left = INT64_MAX;
        if (st != calls[c].end && st != QSAE_ENOMEM)
            fail_msg("%s, kind %d, call %lld: %s", calls[c].name, b->kind, (long long)n,
                     qsae_error_message());
        if (calls[c].ready == NONE && st != QSAE_OK)
            assert_null(b->m);
        if (calls[c].ready == WITHOUT_CUTS && st != QSAE_OK) {
            assert_ok(run_cut(b)); /* a second time */
            st = QSAE_OK;
        }
        check(b, st, &was, &want);
        qsae_metric_close(&b->m);
    }
    assert_int_equal(st, calls[c].end);
    qsae__strbuf_free(&was);
    qsae__strbuf_free(&want);
    return n;
}

/* From the beginning, so that cuts are known; and with nodes that wait for what is before. */
static void test_without_memory(void **state)
{
    static const int64_t ranges[][3] = { { 0, 195, 845 }, { 455, 650, 1300 } };
    int64_t faults = 0;
    (void)state;
    make_rows(31);
    for (int kind = 0; kind < ALL_KINDS; kind++)
        for (int i = 0; i < 2; i++) {
            struct box b = { .ctx = open_failing(), .kind = kind, .end = ranges[i][2] };
            qsae__strbuf_init(&b.state, b.ctx);
            qsae__strbuf_init(&b.description, b.ctx);
            b.from = open_cut(b.ctx, kind);
            feed_any(b.from, kind, ranges[i][0], ranges[i][1] - ranges[i][0]);
            feed_any(b.from, kind, ranges[i][1], b.end - ranges[i][1]);
            write_state(b.from, &b.state);
            qsae__metric_describe(b.from, &b.description);
            for (size_t c = 0; c < sizeof calls / sizeof calls[0]; c++)
                if (i == 0 || calls[c].run != run_before)
                    faults += fail_each(&b, c);
            qsae_metric_close(&b.from);
            qsae__strbuf_free(&b.state);
            qsae__strbuf_free(&b.description);
            close_failing(&b.ctx);
        }
    print_message("%lld faults\n", (long long)faults);
}

/* ---- sums before a token ---- */

static void test_before(void **state)
{
    static const char *const names[] = { "fvu_dim", "fvu_scalar", "mse", "l0" };
    qsae_context *ctx = open_failing();
    qsae_metric *before = NULL;
    (void)state;
    make_rows(32);
    for (int kind = 0; kind < ALL_KINDS; kind++) {
        qsae_metric *whole = open_cut(ctx, kind);
        feed_any(whole, kind, 0, 1290); /* one cut is not reached */
        for (int i = 0; i < CUTS - 1; i++) {
            qsae_metric *part = open_any(ctx, kind);
            feed_any(part, kind, 0, cuts[i]);
            assert_ok(qsae__metric_before(whole, cuts[i], &before));
            assert_true(result(before, "tokens") == result(part, "tokens"));
            for (size_t k = 0; k < sizeof names / sizeof names[0] && kind == RECONSTRUCTION; k++)
                assert_near(before, names[k], result(part, names[k]), 1e-12);
            qsae_metric_close(&part);
            qsae_metric_close(&before);
        }
        assert_fails(qsae__metric_before(whole, 1300, &before), QSAE_ENOMEM, "before token 1300");
        assert_fails(qsae__metric_before(whole, 101, &before), QSAE_EINVAL, "101 is no cut");
        assert_null(before);
        qsae_metric_close(&whole);
    }
    close_failing(&ctx);
}

/* The batch that a cut is in is open: what is told has its rows before the cut, some, none or all
 * of them, and nothing of later batches. */
static void test_open_batch(void **state)
{
    static const int64_t ends[] = { 710, 140 }, at[] = { CUT, 40 };
    qsae_context *ctx = open_failing();
    (void)state;
    for (int masked = 0; masked < 3; masked++)
        for (int i = 0; i < 2; i++) {
            qsae_metric *m = open_cut(ctx, RECONSTRUCTION), *before = NULL;
            make_rows(36);
            for (int64_t k = 650; k < 715; k++)
                if (masked && (masked == 1) == (k < CUT))
                    rows.mask[k] = QSAE_MASK_EXCLUDED;
            feed_any(m, RECONSTRUCTION, 0, ends[i]);
            assert_int_equal(m->state.batches.n, 1);
            calls_left = 0;
            int64_t n = 0;
            while (qsae__metric_before(m, at[i], &before) == QSAE_ENOMEM) {
                assert_null(before);
                calls_left = ++n;
            }
            calls_left = INT64_MAX;
            assert_true(n > 0);
            const qsae__batches *const have = &before->state.batches,
                                *const from = &m->state.batches;
            assert_int_equal(have->n, i == 0);
            if (have->n) {
                assert_int_equal(have->open[0].seen, CUT - 650);
                assert_int_equal(have->open[0].index, 10);
                int64_t counted = 0;
                while (counted < from->open[0].n &&
                       from->open[0].rows[counted * (1 + 2 * D)] < (double)CUT)
                    counted++;
                assert_true(masked == 1   ? counted == 0
                            : masked == 2 ? counted > 0 && counted == from->open[0].n
                                          : counted > 0 && counted < from->open[0].n);
                assert_int_equal(have->open[0].n, counted);
                if (counted)
                    assert_memory_equal(have->open[0].rows, from->open[0].rows,
                                        (size_t)(counted * (1 + 2 * D)) * sizeof(double));
            }
            qsae_metric_close(&before);
            qsae_metric_close(&m);
        }
    close_failing(&ctx);
}

static void test_set_cuts(void **state)
{
    static const int64_t falling[] = { 5, 9, 9 }, none[] = { 0 };
    int64_t many[65];
    qsae_context *ctx = open_failing();
    qsae_metric *m = open_any(ctx, 0);
    (void)state;
    for (int i = 0; i < 65; i++)
        many[i] = 10 + i;
    assert_fails(qsae__metric_set_cuts(m, falling, -1), QSAE_EINVAL, "cuts: expected");
    assert_fails(qsae__metric_set_cuts(m, falling, 3), QSAE_EINVAL, "cuts: expected");
    assert_fails(qsae__metric_set_cuts(m, none, 1), QSAE_EINVAL, "cuts: expected");
    assert_fails(qsae__metric_set_cuts(m, many, 65), QSAE_EINVAL, "at most 64");
    assert_ok(qsae__metric_set_cuts(m, many, 64));
    assert_ok(qsae__metric_set_cuts(m, falling, 0));
    feed_any(m, 0, 0, 10);
    assert_fails(qsae__metric_set_cuts(m, many, 1), QSAE_EINVAL, "of an empty metric");
    qsae_metric_close(&m);
    close_failing(&ctx);
}

/* Nodes that wait lie by their first token, of equal ones the shorter before the longer. */
static void test_kept(void **state)
{
    static const qsae__node nodes[] = { { .first = 8, .tokens = 4 }, { .first = 0, .tokens = 4 },
                                        { .first = 0, .tokens = 2 }, { .first = 8, .tokens = 8 },
                                        { .first = 4, .tokens = 4 }, { .first = 8, .tokens = 2 } };
    static const int64_t want[][2] = { { 0, 2 }, { 0, 4 }, { 4, 4 }, { 8, 2 }, { 8, 4 }, { 8, 8 } };
    qsae_context *ctx = open_failing();
    qsae_metric *m = open_cut(ctx, 0), *other = open_cut(ctx, 0), *before = NULL;
    qsae__tree *const t = &m->state.tree;
    double v[64] = { 0 };
    (void)state;
    make_rows(33);
    assert_true(t->width <= 64);
    qsae__prefix_settle(t); /* nothing is known of an empty tree */
    assert_null(t->whole[0]);
    for (int i = 0; i < 6; i++) {
        qsae__node node = nodes[i];
        node.v = v;
        v[0] = i;
        assert_ok(qsae__prefix_insert(t, &node));
    }
    assert_int_equal(t->n_kept, 6);
    for (int i = 0; i < 6; i++)
        assert_true(t->kept[i].first == want[i][0] && t->kept[i].tokens == want[i][1]);
    assert_true(t->kept[0].v[0] == 2 && t->kept[5].v[0] == 3);
    qsae_metric_reset(m);
    assert_int_equal(t->n_kept, 0);
    /* What is known on both sides stays one's own. */
    feed_any(m, 0, 0, 845);
    feed_any(other, 0, 0, 845);
    double *const own = t->whole[2];
    own[0]++;
    assert_ok(qsae__prefix_add(t, &other->state.tree));
    assert_true(t->whole[2] == own && own[0] == other->state.tree.whole[2][0] + 1);
    assert_ok(qsae__metric_before(m, CUT, &before));
    assert_true(result(before, "tokens") == result(m, "tokens") || own[0] > 0);
    qsae_metric_close(&before);
    qsae_metric_close(&m);
    qsae_metric_close(&other);
    close_failing(&ctx);
}

/* ---- states that do not fit ---- */

static void sign(uint8_t *bytes, size_t size)
{
    const uint64_t n = size;
    char hash[QSAE__HASH_SIZE];
    memcpy(bytes + 16, &n, sizeof n);
    qsae__hash(bytes + HEAD, size - HEAD, hash);
    memcpy(bytes + 24, hash, 32);
}

/* Word `at` of a state (below 0: from its end) is another one, and `more` words 0 follow; `bytes`
 * fewer (below 0: more) than then. */
static void forged(qsae_metric *m, const qsae__strbuf *b, int64_t at, uint64_t value, int64_t bytes,
                   int32_t status, const char *part)
{
    const int64_t size = b->size - bytes;
    uint8_t *const copy = calloc(1, (size_t)(size > b->size ? size : b->size) + 8);
    assert_non_null(copy);
    memcpy(copy, b->data, (size_t)b->size);
    memcpy(copy + (at < 0 ? size + 8 * at : 8 * at), &value, sizeof value);
    sign(copy, (size_t)size);
    assert_fails(qsae__metric_read(m, copy, (size_t)size), status, part);
    assert_true(result(m, "tokens") == 0);
    free(copy);
}

enum { W_MAGIC, W_VERSION, W_KIND = 7, W_D, W_FEATURES, W_BATCH, W_MEMORY, W_RATE, W_LENGTH,
       W_PRINT };

static uint64_t word_of(const qsae__strbuf *b, int64_t at)
{
    uint64_t v;
    memcpy(&v, b->data + (at < 0 ? b->size + 8 * at : 8 * at), sizeof v);
    return v;
}

/* A metric of that kind with these settings, its state when it is empty. */
static qsae_metric *open_written_empty(qsae_context *ctx, int kind, const qsae_metric_settings *s,
                                       qsae__strbuf *b)
{
    qsae_metric *const m = open_with(ctx, kind, s);
    write_state(m, b);
    return m;
}

static void test_options(void **state)
{
    qsae_context *ctx = open_failing();
    qsae_metric_settings s = test_settings();
    qsae__strbuf b;
    char print[256];
    (void)state;
    qsae__strbuf_init(&b, ctx);
    s.top = s.documents_per_block = 0;
    qsae_metric *m = open_written_empty(ctx, FEATURES, &s, &b);
    forged(m, &b, -1, 0, -16, QSAE_EFORMAT, "more data than expected");
    qsae_metric_close(&m);
    s.top = 1;
    m = open_written_empty(ctx, FEATURES, &s, &b);
    forged(m, &b, -1, 0, -8, QSAE_EMISMATCH, "the metric has none, the file goes on");
    qsae_metric_close(&m);
    s.top = 0;
    s.prompt_tokens = 5;
    m = open_written_empty(ctx, FEATURES, &s, &b);
    assert_int_equal(word_of(&b, -1), 5);
    assert_ok(qsae__metric_read(m, b.data, (size_t)b.size));
    forged(m, &b, W_MAGIC, word_of(&b, W_MAGIC), 4, QSAE_EFORMAT, "truncated in prompt_tokens");
    forged(m, &b, -1, 6, 0, QSAE_EMISMATCH, "prompt_tokens: expected 5, found 6");
    qsae_metric_close(&m);
    s.prompt_tokens = 0;
    s.documents_per_block = 3;
    m = open_written_empty(ctx, FEATURES, &s, &b);
    assert_ok(qsae__metric_read(m, b.data, (size_t)b.size));
    const int64_t at = 8 * (1 + QSAE__BLOCKS + 1); /* per, rows, n */
    forged(m, &b, -1, 0, at, QSAE_EMISMATCH, "documents_per_block: the file has none");
    qsae_metric_close(&m);
    /* The fingerprint of the file is shown up to 200 bytes. */
    memset(print, 'a', 250);
    print[250] = '\0';
    s = test_settings();
    s.fingerprint = print;
    m = open_written_empty(ctx, 0, &s, &b);
    qsae_metric_close(&m);
    s.fingerprint = "b";
    m = open_kind(ctx, 0, &s);
    print[200] = '\0';
    assert_fails(qsae__metric_read(m, b.data, (size_t)b.size), QSAE_EMISMATCH, print);
    print[200] = 'a';
    print[201] = '\0';
    assert_null(strstr(qsae_error_message(), print));
    qsae_metric_close(&m);
    qsae__strbuf_free(&b);
    close_failing(&ctx);
}

static void test_places(void **state)
{
    qsae_context *ctx = open_failing();
    qsae_metric_settings s = test_settings();
    qsae__strbuf b;
    (void)state;
    qsae__strbuf_init(&b, ctx);
    /* tree: n, width; runs of documents, of batches; sample: n, words, stride */
    qsae_metric *m = open_written_empty(ctx, 0, &s, &b);
    const int64_t stride = W_PRINT + 1 + 2 + 1 + 1 + 2;
    assert_int_equal(word_of(&b, stride), 1);
    forged(m, &b, stride, (uint64_t)1 << 63, 0, QSAE_EFORMAT, "the sample does not fit the file");
    forged(m, &b, stride, 3, 0, QSAE_EFORMAT, "the sample does not fit the file");
    qsae_metric_close(&m);
    m = open_written_empty(ctx, DIVERGENCE, &s, &b); /* ends with the worst tokens, none */
    assert_int_equal(word_of(&b, -1), 0);
    forged(m, &b, -1, QSAE__WORST + 1, 0, QSAE_EFORMAT, "truncated in the worst tokens");
    forged(m, &b, -1, 1, 0, QSAE_EFORMAT, "truncated in the worst tokens");
    forged(m, &b, -1, 0, -4, QSAE_EFORMAT, "overlap_k out of place");
    forged(m, &b, -1, QSAE__OVERLAP_K_MOST + 1, -8, QSAE_EFORMAT, "overlap_k out of place");
    forged(m, &b, -1, QSAE__OVERLAP_K, -8, QSAE_EFORMAT, "overlap_k out of place");
    forged(m, &b, -1, 5, -8, QSAE_EMISMATCH, "overlap_k: expected 10, found 5");
    qsae_metric_close(&m);
    /* The open batch, none of its rows counted, is one that is finished. */
    s.batch_rows = BATCH_ROWS;
    m = open_kind(ctx, RECONSTRUCTION, &s);
    make_rows(34);
    memset(rows.mask, QSAE_MASK_EXCLUDED, sizeof rows.mask);
    assert_ok(feed(m, 0, BATCH_ROWS + 10, 0));
    write_state(m, &b);
    assert_true(word_of(&b, -4) == 1 && word_of(&b, -3) == 1 && word_of(&b, -2) == 10 &&
                word_of(&b, -1) == 0);
    qsae_metric_reset(m);
    assert_ok(qsae__metric_read(m, b.data, (size_t)b.size));
    qsae_metric_reset(m);
    forged(m, &b, -3, 0, 0, QSAE_EFORMAT, "an open batch is already finished");
    qsae_metric_close(&m);
    qsae__strbuf_free(&b);
    close_failing(&ctx);
}

/* ---- states and descriptions ---- */

struct described {
    qsae_context *ctx;
    qsae__strbuf state, description;
};

static void refused(const struct described *d, size_t size, size_t state_size, int32_t status,
                    const char *part)
{
    qsae_metric *m = NULL;
    assert_fails(qsae__metric_open_written(d->ctx, d->description.data, size, d->state.data,
                                           state_size, &m), status, part);
    assert_null(m);
}

/* Word `at` of the state is `value`. */
static void refused_word(struct described *d, int64_t at, uint64_t value, int32_t status,
                         const char *part)
{
    const uint64_t old = word_of(&d->state, at);
    memcpy(d->state.data + 8 * at, &value, sizeof value);
    sign((uint8_t *)d->state.data, (size_t)d->state.size);
    refused(d, (size_t)d->description.size, (size_t)d->state.size, status, part);
    memcpy(d->state.data + 8 * at, &old, sizeof old);
    sign((uint8_t *)d->state.data, (size_t)d->state.size);
}

/* So does a number of the description. */
static void refused_number(struct described *d, int64_t at, int64_t value, int32_t status,
                           const char *part)
{
    int64_t old;
    memcpy(&old, d->description.data + 8 * at, sizeof old);
    memcpy(d->description.data + 8 * at, &value, sizeof value);
    refused(d, (size_t)d->description.size, (size_t)d->state.size, status, part);
    memcpy(d->description.data + 8 * at, &old, sizeof old);
}

static void test_described(void **state)
{
    static const char unfit[] = "its settings do not fit the state", longer[] = "another length";
    struct described d = { .ctx = open_failing() };
    qsae_metric *m = open_cut(d.ctx, FEATURES), *other = NULL;
    (void)state;
    make_rows(35);
    qsae__strbuf_init(&d.state, d.ctx);
    qsae__strbuf_init(&d.description, d.ctx);
    feed_any(m, FEATURES, 0, 300);
    write_state(m, &d.state);
    qsae__metric_describe(m, &d.description);
    const size_t size = (size_t)d.description.size, state_size = (size_t)d.state.size;
    assert_int_equal(size, 8 * (5 + CUTS));
    assert_ok(qsae__metric_open_written(d.ctx, d.description.data, size, d.state.data, state_size,
                                        &other));
    assert_same_state(m, other);
    qsae_metric_close(&other);
    refused(&d, 39, state_size, QSAE_EFORMAT, "its description is truncated");
    refused(&d, size - 8, state_size, QSAE_EFORMAT, longer);
    refused_number(&d, 4, -1, QSAE_EFORMAT, longer);
    refused_number(&d, 4, 65, QSAE_EFORMAT, longer);
    refused_number(&d, 4, CUTS - 1, QSAE_EFORMAT, longer);
    refused_number(&d, 6, cuts[0], QSAE_EFORMAT, "cuts are not ascending");
    refused_number(&d, 0, -1, QSAE_EFORMAT, unfit);
    refused_number(&d, 0, QSAE__TOP_MOST + 1, QSAE_EFORMAT, unfit);
    refused_number(&d, 0, (int64_t)state_size / 8 / (4 * F) + 1, QSAE_EFORMAT, unfit);
    refused_number(&d, 0, 8, QSAE_EMISMATCH, "top: expected 8, found 7");
    refused_number(&d, 1, -1, QSAE_EINVAL, "prompt_tokens");
    refused_word(&d, W_KIND, 99, QSAE_EUNSUPPORTED, "kind 99 is unknown");
    refused_word(&d, W_D, (uint64_t)INT32_MAX + 1, QSAE_EFORMAT, unfit);
    refused_word(&d, W_FEATURES, state_size / 8 + 1, QSAE_EFORMAT, unfit);
    refused_word(&d, W_BATCH, 0, QSAE_EFORMAT, unfit);
    refused_word(&d, W_BATCH, (uint64_t)INT32_MAX + 1, QSAE_EFORMAT, unfit);
    refused_word(&d, W_LENGTH, UINT64_MAX, QSAE_EFORMAT, "truncated in the settings");
    refused_word(&d, W_LENGTH, state_size, QSAE_EFORMAT, "truncated in the settings");
    /* Cuts are compared one by one where a state is read into a metric that there is. */
    assert_ok(qsae__metric_check_described(m, d.description.data, size));
    assert_fails(qsae__metric_check_described(m, d.description.data, size - 1), QSAE_EFORMAT,
                 longer);
    const int64_t top = 8;
    memcpy(d.description.data, &top, sizeof top);
    assert_fails(qsae__metric_check_described(m, d.description.data, size), QSAE_EMISMATCH,
                 "top: the file has 8, the metric 7");
    memcpy(d.description.data, &m->top, sizeof top);
    const int64_t moved = cuts[1] + 1;
    memcpy(d.description.data + 8 * 6, &moved, sizeof moved);
    assert_fails(qsae__metric_check_described(m, d.description.data, size), QSAE_EMISMATCH,
                 "cuts: the file has token 101, the metric 100");
    memcpy(d.description.data + 8 * 6, &cuts[1], sizeof moved);
    /* Shorter ones, signed. */
    for (size_t k = HEAD; k <= 8 * W_PRINT; k += 8) {
        sign((uint8_t *)d.state.data, k);
        refused(&d, size, k, QSAE_EFORMAT, "truncated in the settings");
    }
    refused(&d, size, 7, QSAE_EFORMAT, "expected a state file of a metric");
    qsae_metric_close(&m);
    qsae__strbuf_free(&d.state);
    qsae__strbuf_free(&d.description);
    close_failing(&d.ctx);
}

const struct CMUnitTest written_tests[] = {
    cmocka_unit_test(test_without_memory), cmocka_unit_test(test_before),
    cmocka_unit_test(test_set_cuts),       cmocka_unit_test(test_open_batch),
    cmocka_unit_test(test_kept),           cmocka_unit_test(test_options),
    cmocka_unit_test(test_places),         cmocka_unit_test(test_described),
};
const size_t n_written_tests = sizeof written_tests / sizeof written_tests[0];
