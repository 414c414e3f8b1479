/* SPDX-License-Identifier: BSD-2-Clause */
/* State files: round trips, resuming, and damage of every sort. */
#include "metrics_test.h"

#include <unistd.h>

#include "core/hash.h"

static char path[256];

static void make_path(void)
{
    const char *const base = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/qsae-metrics-XXXXXX", base ? base : "/tmp");
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
}

static void write_bytes(const void *bytes, size_t size)
{
    FILE *const f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}

/* Interrupted anywhere, saved, loaded into a new metric and continued: the same bytes. */
static void test_resume(void **state)
{
    static const int64_t stops[] = { 0, 1, 255, 256, 600, 1111, N };
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    qsae_metric_settings s = test_settings();
    make_rows(6);
    make_path();
    for (int kind = 0; kind < KINDS; kind++)
        for (size_t i = 0; i < sizeof stops / sizeof stops[0]; i++) {
            s.memory = i % 2 ? 30000 : 0;
            qsae_metric *all = open_kind(ctx, kind, &s), *a = open_kind(ctx, kind, &s);
            qsae_metric *b = open_kind(ctx, kind, &s);
            assert_ok(feed(all, 0, N, 0));
            assert_ok(feed(a, 0, stops[i], 0));
            assert_ok(feed(b, 0, 10, 70000)); /* what it holds is replaced */
            assert_ok(qsae_metric_save(a, path));
            assert_ok(qsae_metric_load(b, path));
            assert_same_state(a, b);
            assert_ok(feed(b, stops[i], N - stops[i], 0));
            assert_same_state(all, b);
            qsae_metric_close(&all);
            qsae_metric_close(&a);
            qsae_metric_close(&b);
        }
    unlink(path);
    qsae_context_close(&ctx);
}

/* Gives the bytes a valid size and checksum again, as a careful forger would. */
static void sign(char *bytes, size_t size)
{
    const uint64_t n = size;
    char hash[QSAE__HASH_SIZE];
    if (size < 56)
        return;
    memcpy(bytes + 16, &n, sizeof n);
    qsae__hash(bytes + 56, size - 56, hash);
    memcpy(bytes + 24, hash, 32);
}

static void check_truncations(qsae_metric *m, const qsae__strbuf *good, char *copy)
{
    const size_t size = (size_t)good->size;
    for (size_t n = 0; n < size; n++) {
        char *const exact = malloc(n + 1); /* so that reading beyond it is seen */
        assert_non_null(exact);
        memcpy(exact, good->data, n);
        assert_int_not_equal(qsae__metric_read(m, exact, n), QSAE_OK);
        sign(exact, n);
        assert_int_not_equal(qsae__metric_read(m, exact, n), QSAE_OK);
        free(exact);
    }
    memcpy(copy, good->data, size);
    memset(copy + size, 0, 8);
    sign(copy, size + 8);
    assert_fails(qsae__metric_read(m, copy, size + 8), QSAE_EFORMAT, "more data");
}

/* Flipped bytes are found by the checksum. Where that is forged too the state may load, but a
 * loaded state can be read, written, merged and continued. */
static void check_flips(qsae_metric *m, const qsae__strbuf *good, char *copy, qsae_metric *other)
{
    const size_t size = (size_t)good->size;
    qsae__strbuf b;
    qsae_context *ctx = open_context("c", 1);
    qsae__strbuf_init(&b, ctx);
    for (size_t i = 0; i < size; i++) {
        memcpy(copy, good->data, size);
        copy[i] = (char)(copy[i] ^ (i % 3 ? 1 << i % 8 : 0xff));
        assert_int_not_equal(qsae__metric_read(m, copy, size), QSAE_OK);
        if (i < 56)
            continue;
        sign(copy, size);
        if (qsae__metric_read(m, copy, size) != QSAE_OK)
            continue;
        double v;
        assert_ok(qsae_metric_get(m, "tokens", &v));
        write_state(m, &b);
        (void)qsae_metric_merge(m, other);
        (void)feed(m, 400, 300, 0);
        assert_ok(qsae_metric_get(m, "tokens", &v));
    }
    qsae__strbuf_free(&b);
    qsae_context_close(&ctx);
}

static void test_damage(void **state)
{
    (void)state;
    qsae_context *ctx = open_context("c", 1);
    qsae_metric_settings s = test_settings();
    s.memory = 1000;
    s.batch_rows = 300;
    make_rows(7);
    for (int kind = 0; kind < KINDS; kind++) {
        qsae_metric *m = open_kind(ctx, kind, &s), *other = open_kind(ctx, kind, &s);
        qsae_metric *fresh = open_kind(ctx, kind, &s);
        qsae__strbuf good;
        qsae__strbuf_init(&good, ctx);
        assert_ok(feed(m, 0, 310, 0));
        assert_ok(feed(m, 350, 3, 0));
        assert_ok(feed(other, 800, 100, 0));
        write_state(m, &good);
        char *const copy = malloc((size_t)good.size + 8);
        assert_non_null(copy);
        check_truncations(m, &good, copy);
        /* Nothing of all that has changed it. */
        assert_ok(qsae__metric_read(fresh, good.data, (size_t)good.size));
        assert_same_state(fresh, m);
        check_flips(fresh, &good, copy, other);
        free(copy);
        qsae__strbuf_free(&good);
        qsae_metric_close(&m);
        qsae_metric_close(&other);
        qsae_metric_close(&fresh);
    }
    qsae_context_close(&ctx);
}

static void test_files(void **state)
{
    (void)state;
    qsae_context *ctx = open_context("c", 1);
    qsae_metric_settings s = test_settings(), other = s;
    qsae_metric *m = open_kind(ctx, 2, &s), *drift = open_kind(ctx, 4, &s);
    other.fingerprint = "another";
    qsae_metric *n = open_kind(ctx, 2, &other);
    make_rows(8);
    make_path();
    assert_ok(feed(m, 0, 100, 0));
    assert_ok(qsae_metric_save(m, path));
    assert_fails(qsae_metric_load(drift, path), QSAE_EMISMATCH, "kind");
    assert_fails(qsae_metric_load(n, path), QSAE_EMISMATCH, "fingerprint");
    write_bytes("hello", 5);
    assert_fails(qsae_metric_load(m, path), QSAE_EFORMAT, path);
    write_bytes("", 0);
    assert_fails(qsae_metric_load(m, path), QSAE_EFORMAT, "magic");
    assert_near(m, "tokens", 99, 0);
    unlink(path);
    assert_fails(qsae_metric_load(m, path), QSAE_ENOENT, path);
    assert_fails(qsae_metric_save(m, "/nonexistent/folder/state"), QSAE_ENOENT, "/nonexistent");
    assert_fails(qsae_metric_save(m, NULL), QSAE_EINVAL, "path");
    qsae_metric_close(&m);
    qsae_metric_close(&n);
    qsae_metric_close(&drift);
    qsae_context_close(&ctx);
}

const struct CMUnitTest state_tests[] = {
    cmocka_unit_test(test_resume),
    cmocka_unit_test(test_damage),
    cmocka_unit_test(test_files),
};
const size_t n_state_tests = sizeof state_tests / sizeof state_tests[0];
