/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * States of every kind that were changed by someone who can make checksums: each word another one,
 * each length. They are refused with a message and leave the metric as it was, or they are states.
 * QSAE_LONG_TESTS=1: all words; else those at both ends and every 997th.
 */
#include "metrics_test.h"

#include "core/hash.h"
#include "metrics/llama.h"
#include "metrics/mass.h"

#define ALL_KINDS 7 /* the five public ones, llama_cpp, mass */
#define HEAD 56     /* of a state: what its checksum does not cover */
#define BATCH_ROWS 65

static const int64_t cuts[] = { 100, 1001, 1300 };

static qsae_metric *open_any(qsae_context *ctx, int kind, bool plain)
{
    qsae_metric_settings s = test_settings();
    qsae_metric *m = NULL;
    s.batch_rows = BATCH_ROWS;
    s.memory = (uint64_t)80 << 10;
    s.top = s.prompt_tokens = plain ? 0 : 1;
    s.documents_per_block = plain ? 0 : s.documents_per_block;
    if (kind < KINDS)
        m = open_kind(ctx, kind, &s);
    else if (kind == KINDS)
        assert_ok(qsae_metric_open_llama_cpp(ctx, &s, &m));
    else
        assert_ok(qsae__mass_open(ctx, F, &s, &m));
    if (!plain)
        assert_ok(qsae__metric_set_cuts(m, cuts, sizeof cuts / sizeof cuts[0]));
    return m;
}

static void feed_any(qsae_metric *m, int kind, int64_t first, int64_t n)
{
    static qsae__llama_token tokens[N];
    const qsae_positions at = { .struct_size = sizeof at, .first_token = first, .n_rows = n };
    const qsae_sparse_rows r = { sizeof r, n, rows.ptr_r + first, rows.index_r, rows.value_r };
    for (int64_t i = 0; i < n; i++)
        tokens[i] = (qsae__llama_token){ .kl = (double)rows.kl[first + i], .nll = 2, .nll_base = 1 };
    if (kind < KINDS)
        assert_ok(feed(m, first, n, 0));
    else if (kind == KINDS)
        assert_ok(qsae__llama_add(m, &at, n, tokens));
    else
        assert_ok(qsae__mass_update(m, &at, &r));
}

static void sign(uint8_t *bytes, size_t size)
{
    const uint64_t n = size;
    char hash[QSAE__HASH_SIZE];
    if (size < HEAD)
        return;
    memcpy(bytes + 16, &n, sizeof n);
    qsae__hash(bytes + HEAD, size - HEAD, hash);
    memcpy(bytes + 24, hash, 32);
}

/* Reads what may be a state; 1 if it is one. `m` has nothing before, and nothing after a refusal. */
static int try_read(qsae_metric *m, const uint8_t *bytes, size_t size, size_t word)
{
    const int32_t st = qsae__metric_read(m, bytes, size);
    if (st == QSAE_OK) {
        (void)result(m, "tokens");
        qsae_metric_reset(m);
        return 1;
    }
    if (st != QSAE_EFORMAT && st != QSAE_EMISMATCH && st != QSAE_EUNSUPPORTED)
        fail_msg("word %zu: %s (%s)", word, qsae_status_name(st), qsae_error_message());
    if (strncmp(qsae_error_message(), "metric state: ", 14) != 0)
        fail_msg("word %zu: message \"%s\"", word, qsae_error_message());
    return 0;
}

static bool chosen(size_t word, size_t n)
{
    return full_length() || word < 36 || word + 24 > n || word % 997 == 0;
}

static void forge(qsae_metric *m, const qsae__strbuf *b, int64_t counts[2])
{
    static const uint64_t values[] = {
        0, 1, 2, UINT64_MAX, INT64_MAX, (uint64_t)1 << 53, ((uint64_t)1 << 53) + 1,
        0x7ff8000000000000, /* NaN */ 0x3fe0000000000000, /* 0.5 */ 0xbff0000000000000, /* -1 */
        0x4340000000000001, /* 2^53 + 2 */ 0x0000000100000000,
    };
    const size_t size = (size_t)b->size, n = size / 8, n_values = sizeof values / sizeof values[0];
    uint8_t *const copy = malloc(size + 8);
    assert_non_null(copy);
    for (size_t w = 0; w < n; w++) {
        uint64_t old;
        memcpy(&old, b->data + 8 * w, sizeof old);
        for (size_t v = 0; chosen(w, n) && v < n_values + 2; v++) {
            const uint64_t value = v < n_values ? values[v] : v == n_values ? old + 1 : old - 1;
            memcpy(copy, b->data, size);
            memcpy(copy + 8 * w, &value, sizeof value);
            if (w >= HEAD / 8)
                sign(copy, size);
            counts[try_read(m, copy, size, w)]++;
        }
    }
    for (size_t length = 0; length <= size + 8; length += length < HEAD + 80 ? 1 : 8) {
        if (length == size || !chosen(length / 8, n))
            continue;
        memset(copy, 0, size + 8);
        memcpy(copy, b->data, length < size ? length : size);
        sign(copy, length);
        if (try_read(m, copy, length, length))
            fail_msg("%zu of %zu bytes are a state", length, size);
        counts[0]++;
    }
    free(copy);
    assert_true(result(m, "tokens") == 0);
}

/* Ranges that leave unknown cuts with nodes kept for them, known cuts, an open batch; and without
 * any of it. */
static void test_words(void **state)
{
    static const struct {
        int64_t first, n;
        bool plain;
    } ranges[] = { { 512, 600, false }, { 0, 700, false }, { 0, 300, true } };
    qsae_context *ctx = open_context("c", 1);
    int64_t counts[2] = { 0 };
    (void)state;
    make_rows(21);
    for (int kind = 0; kind < ALL_KINDS; kind++)
        for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
            qsae__strbuf b;
            qsae__strbuf_init(&b, ctx);
            qsae_metric *m = open_any(ctx, kind, ranges[i].plain);
            feed_any(m, kind, ranges[i].first, ranges[i].n);
            write_state(m, &b);
            qsae_metric_reset(m);
            forge(m, &b, counts);
            qsae__strbuf_free(&b);
            qsae_metric_close(&m);
        }
    print_message("%lld refused, %lld taken\n", (long long)counts[0], (long long)counts[1]);
    qsae_context_close(&ctx);
}

/* What fails around a state: arguments, files, other settings. */
static void test_around(void **state)
{
    qsae_context *ctx = open_context("c", 1);
    qsae_metric *m = open_any(ctx, 3, false), *plain = open_any(ctx, 3, true);
    qsae__strbuf b;
    (void)state;
    qsae__strbuf_init(&b, ctx);
    assert_fails(qsae_metric_save(NULL, "x"), QSAE_EINVAL, "found NULL");
    assert_fails(qsae_metric_save(m, NULL), QSAE_EINVAL, "must not be NULL");
    assert_fails(qsae_metric_load(NULL, "x"), QSAE_EINVAL, "found NULL");
    assert_fails(qsae_metric_load(m, NULL), QSAE_EINVAL, "must not be NULL");
    assert_fails(qsae_metric_load(m, "/nonexistent/x"), QSAE_ENOENT, "/nonexistent/x");
    assert_fails(qsae_metric_save(m, "/nonexistent/x"), QSAE_ENOENT, "/nonexistent/x");
    write_state(plain, &b);
    assert_fails(qsae__metric_read(m, b.data, (size_t)b.size), QSAE_EMISMATCH,
                 "counts: expected 180, found 120");
    write_state(m, &b);
    assert_fails(qsae__metric_read(plain, b.data, (size_t)b.size), QSAE_EMISMATCH, "expected");
    qsae__strbuf_free(&b);
    qsae_metric_close(&m);
    qsae_metric_close(&plain);
    qsae_context_close(&ctx);
}

const struct CMUnitTest forged_tests[] = { cmocka_unit_test(test_words),
                                           cmocka_unit_test(test_around) };
const size_t n_forged_tests = sizeof forged_tests / sizeof forged_tests[0];
