/* SPDX-License-Identifier: BSD-2-Clause */
/* Callers that are newer or older than the library, or that have changed how it rounds. */
#include <fenv.h>

#include "../support.h"
#include "tests.h"

#include "core/core.h"

void test_infos(void **state)
{
    (void)state;
    static const struct info {
        size_t struct_size;
        int64_t a, b;
    } full = { sizeof full, 7, 9 };
    union {
        struct info info;
        size_t struct_size;
        unsigned char bytes[64];
    } out;
    for (size_t given = sizeof(size_t); given <= sizeof out; given += 4) {
        memset(&out, 0xee, sizeof out);
        out.struct_size = given;
        assert_ok(qsae__info_copy(&out, &full, sizeof full, "some_info"));
        assert_int_equal(out.struct_size, given); /* the caller's stays */
        for (size_t i = sizeof(size_t); i < sizeof out; i++) {
            const unsigned char known = i < sizeof full ? ((const unsigned char *)&full)[i] : 0;
            assert_int_equal(out.bytes[i], i < given ? known : 0xee);
        }
    }
    out.struct_size = sizeof(size_t) - 1;
    assert_fails(qsae__info_copy(&out, &full, sizeof full, "some_info"), QSAE_EINVAL,
                 "some_info: struct_size is 7; set it to sizeof(some_info)");
    out.struct_size = 4097;
    assert_fails(qsae__info_copy(&out, &full, sizeof full, "some_info"), QSAE_EINVAL,
                 "some_info: struct_size is 4097");
    assert_fails(qsae__info_copy(out.bytes + 1, &full, sizeof full, "some_info"), QSAE_EINVAL,
                 "some_info: expected an address divisible by 8");
    assert_fails(qsae__info_copy(NULL, &full, sizeof full, "some_info"), QSAE_EINVAL,
                 "some_info: NULL");
}

/* Numbers outside of their ranges are refused by name. */
void test_ranges(void **state)
{
    (void)state;
    static const struct {
        int32_t threads, log_level, files, pin;
        const char *part; /* NULL: accepted */
    } cases[] = {
        { 1, 0, 0, 0, NULL },
        { 1, QSAE_LOG_DEBUG, QSAE_FILES_READ, 1, NULL },
        { -1, 0, 0, 0, "threads: expected 0..1024, found -1" },
        { 1025, 0, 0, 0, "threads: expected 0..1024, found 1025" },
        { 1, -1, 0, 0, "log_level: expected 0..5, found -1" },
        { 1, 6, 0, 0, "log_level: expected 0..5, found 6" },
        { 1, 0, -1, 0, "files: expected 0..2, found -1" },
        { 1, 0, 3, 0, "files: expected 0..2, found 3" },
        { 1, 0, 0, -1, "pin: expected 0 or 1, found -1" },
        { 1, 0, 0, 2, "pin: expected 0 or 1, found 2" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        qsae_context *ctx = NULL;
        qsae_context_settings s;
        qsae_context_settings_init(&s, sizeof s);
        s.threads = cases[i].threads;
        s.log_level = cases[i].log_level;
        s.files = cases[i].files;
        s.pin = cases[i].pin;
        if (cases[i].part)
            assert_fails(qsae_context_open(&s, &ctx), QSAE_EINVAL, cases[i].part);
        else
            assert_ok(qsae_context_open(&s, &ctx));
        qsae_context_close(&ctx);
    }
}

/* After a failure a string stays as it was, and says what failed first. */
void test_failed_string(void **state)
{
    (void)state;
    qsae_context *ctx = NULL;
    qsae__strbuf b;
    assert_ok(qsae_context_open(NULL, &ctx));
    qsae__strbuf_init(&b, ctx);
    qsae__strbuf_add(&b, "ab", 2);
    qsae__strbuf_add(&b, "cd", SIZE_MAX);
    assert_int_equal(b.status, QSAE_ENOMEM);
    assert_string_equal(qsae_error_message(),
                        "out of memory: a string of 18446744073709551615 bytes");
    qsae__strbuf_add(&b, "ef", 2);
    qsae__strbuf_addf(&b, "%d", 5);
    qsae__strbuf_addf(&b, "%1000d", 5);
    assert_int_equal(b.status, QSAE_ENOMEM);
    assert_int_equal(b.size, 2);
    assert_string_equal(b.data, "ab");
    qsae__strbuf_free(&b);
    assert_int_equal(b.status, QSAE_OK);
    qsae__strbuf_add(&b, "gh", 2);
    assert_string_equal(b.data, "gh");
    qsae__strbuf_free(&b);
    qsae_context_close(&ctx);
}

struct rounding {
    int found[4];
    double tenth[4];
};

static int32_t look_at_rounding(void *arg, int64_t tile, int32_t worker)
{
    struct rounding *const r = arg;
    (void)worker;
    r->found[tile] = fegetround();
    r->tenth[tile] = strtod("0.1", NULL);
    return QSAE_OK;
}

/* Inside an entry everything is rounded to nearest, text to numbers too (by the x87's mode as well
 * as by the vector unit's); the caller finds its own modes again. */
void test_rounding(void **state)
{
    (void)state;
    static const int modes[] = { FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO, FE_TONEAREST };
    for (int32_t threads = 1; threads <= 2; threads++)
        for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
            qsae_context *ctx = NULL;
            qsae_context_settings s;
            struct rounding r = { .found = { -1, -1, -1, -1 } };
            qsae_context_settings_init(&s, sizeof s);
            s.threads = threads;
            assert_ok(qsae_context_open(&s, &ctx));
            assert_int_equal(fesetround(modes[i]), 0);
            const int32_t st = qsae__parallel(ctx, 4, look_at_rounding, &r);
            const int after = fegetround();
            const qsae__fpenv env = qsae__fpenv_enter();
            const int inside = fegetround();
            qsae__fpenv_leave(env);
            const int last = fegetround();
            assert_int_equal(fesetround(FE_TONEAREST), 0);
            assert_ok(st);
            assert_true(after == modes[i] && inside == FE_TONEAREST && last == modes[i]);
            for (int k = 0; k < 4; k++)
                assert_true(r.found[k] == FE_TONEAREST && r.tenth[k] == 0.1);
            qsae_context_close(&ctx);
        }
}

/* A caller that has set 53-bit significands and unmasked a trap. */
void test_x87(void **state)
{
    (void)state;
#if defined(__x86_64__)
    const uint16_t own = 0x0277, usual = 0x037f;
    uint16_t inside = 0, after = 0;
    __asm__ volatile("fldcw %0" : : "m"(own));
    const qsae__fpenv env = qsae__fpenv_enter();
    __asm__ volatile("fnstcw %0" : "=m"(inside));
    qsae__fpenv_leave(env);
    __asm__ volatile("fnstcw %0" : "=m"(after));
    __asm__ volatile("fldcw %0" : : "m"(usual));
    assert_int_equal(inside, usual);
    assert_int_equal(after, own);
#else
    print_message("skipped: no x87 here\n");
    skip();
#endif
}
