/* SPDX-License-Identifier: BSD-2-Clause */
/* Precompiled maps of characters, made here unit by unit: what they replace, and hostile ones. */
#include "text_test.h"

#include <limits.h>

#include "text/charsmap.h"
#include "text/tokenizer.h"

#define UNITS 512
#define ROOT 256          /* the root's offset: a first byte c is unit ROOT ^ c */
#define LEAF (1u << 8)
#define NOWHERE (1u << 20)

/* A tree with a rule for one text of one or two bytes. */
struct map {
    const char *from;
    uint32_t value;       /* where its replacement begins */
    uint32_t leaf;        /* the unit that says so */
    const char *text;
    size_t text_size;
};

static uint32_t unit_of(uint8_t label, uint32_t offset)
{
    return offset << 10 | label;
}

static void put_u32(uint8_t *out, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        out[i] = (uint8_t)(v >> 8 * i);
}

static void base64(const uint8_t *data, size_t size, char *out)
{
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    for (size_t i = 0; i < size; i += 3) {
        const uint32_t bits = (uint32_t)data[i] << 16 |
                              (uint32_t)(i + 1 < size ? data[i + 1] : 0) << 8 |
                              (i + 2 < size ? data[i + 2] : 0);
        for (int k = 0; k < 4; k++)
            *out++ = letters[bits >> (18 - 6 * k) & 63];
        if (i + 2 >= size)
            out[-1] = '=';
        if (i + 1 >= size)
            out[-2] = '=';
    }
    *out = '\0';
}

/* The map in base64, in a static buffer. */
static const char *encoded(const struct map *m)
{
    static char out[4096];
    static uint8_t data[2300];
    uint32_t units[UNITS] = { unit_of(0, ROOT) };
    uint32_t at = ROOT ^ (uint8_t)m->from[0];
    const bool two = m->from[1] != '\0';

    if (two) { /* the first byte leads to unit 0 ^ the second */
        units[at] = unit_of((uint8_t)m->from[0], at);
        at = (uint8_t)m->from[1];
    }
    units[at] = unit_of((uint8_t)m->from[two], at ^ m->leaf) | LEAF;
    if (m->leaf < UNITS)
        units[m->leaf] = m->value;
    put_u32(data, sizeof units);
    for (size_t i = 0; i < UNITS; i++)
        put_u32(data + 4 + 4 * i, units[i]);
    memcpy(data + 4 + sizeof units, m->text, m->text_size);
    base64(data, 4 + sizeof units + m->text_size, out);
    return out;
}

static void test_replaced(void **state)
{
    static const struct {
        struct map map;
        const char *in, *out;
    } cases[] = {
        { { "a", 0, 1, "b", 2 }, "a-a", "b-b" },
        { { "a", 2, 1, "b\0cd", 5 }, "a-a", "cd-cd" },
        { { "a", 2, 1, "b\0cd", 4 }, "a-a", "cd-cd" },     /* up to the end of the texts */
        { { "a", 1, 1, "b", 1 }, "a-a", "-" },             /* at their end: nothing */
        { { "a", 1, 1, "b", 2 }, "a-a", "-" },
        { { "\u00e9", 0, 2, "e", 2 }, "a\u00e9", "ae" },
        { { "\u00e9", 0, 2, "\u00e8", 3 }, "\u00e9\u00ea\u0301", "\u00e8\u00ea\u0301" },
        { { "\r", 0, 1, "x", 2 }, "\r\n\r", "xx" },     /* \r\n is one cluster, which \r begins */
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        qsae__charsmap *m = NULL;
        qsae__strbuf out;
        if (qsae__charsmap_read(test_ctx, encoded(&cases[i].map), "it.json", &m) != QSAE_OK)
            fail_msg("%zu: %s", i, qsae_error_message());
        qsae__strbuf_init(&out, test_ctx);
        qsae__strbuf_add(&out, "", 0);
        assert_int_equal(qsae__charsmap_run(m, cases[i].in, strlen(cases[i].in), &out), QSAE_OK);
        if (strcmp(out.data, cases[i].out) != 0)
            fail_msg("%zu: expected \"%s\", found \"%s\"", i, cases[i].out, out.data);
        qsae__strbuf_free(&out);
        qsae__charsmap_close(test_ctx, &m);
    }
}

/* A wrong rule for an ASCII character is found when the map is read, another one when it is met. */
static void test_outside(void **state)
{
    static const struct {
        struct map map;
        const char *in; /* NULL: refused at once */
        const char *part;
    } cases[] = {
        { { "a", 3, 1, "b", 2 }, NULL, "precompiled_charsmap: a replacement at 3 of 2 bytes" },
        { { "a", INT_MAX, 1, "b", 2 }, NULL, "a replacement at 2147483647 of 2 bytes" },
        { { "a", 1, 1, "\u00e9", 3 }, NULL, "a replacement at 1 of 3 bytes" },
        { { "a", 0, UNITS, "b", 2 }, NULL, "precompiled_charsmap: unit 512 of 512" },
        { { "a", 0, NOWHERE, "b", 2 }, NULL, "precompiled_charsmap: unit 1048576 of 512" },
        { { "a", 0, 1, "\xc3", 1 }, NULL, "replacements that are not UTF-8" },
        { { "\u00e9", 3, 2, "b", 2 }, "\u00e9", "a replacement at 3 of 2 bytes" },
        { { "\u00e9", 0, UNITS, "b", 2 }, "\u00e9", "unit 512 of 512" },
        { { "\u00e9", 0, NOWHERE, "b", 2 }, "a\u00e9b\u0301", "unit 1048576 of 512" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        qsae__charsmap *m = NULL;
        int32_t status = qsae__charsmap_read(test_ctx, encoded(&cases[i].map), "it.json", &m);
        if (cases[i].in != NULL) {
            qsae__strbuf out;
            assert_int_equal(status, QSAE_OK);
            qsae__strbuf_init(&out, test_ctx);
            assert_int_equal(qsae__charsmap_run(m, "a", 1, &out), QSAE_OK);
            status = qsae__charsmap_run(m, cases[i].in, strlen(cases[i].in), &out);
            qsae__strbuf_free(&out);
            qsae__charsmap_close(test_ctx, &m);
        } else {
            assert_null(m);
            assert_true(test_message("it.json: "));
        }
        if (status != QSAE_EFORMAT || !test_message(cases[i].part))
            fail_msg("%zu: %s: %s", i, qsae_status_name(status), qsae_error_message());
    }
}

static void test_base64(void **state)
{
    static const char *const bad[] = { "BAA{", "BAA~", "BA-A", "BA A", "====", "A===",
                                       "BAAAAAAAAAB=" };
    static const char *const short_[] = { "", "AAAA", "BAAAAA==", "BAAAAAAA" };

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        qsae__charsmap *m = NULL;
        assert_int_equal(qsae__charsmap_read(test_ctx, bad[i], "it.json", &m), QSAE_EFORMAT);
        if (!test_message("it.json: precompiled_charsmap: not base64"))
            fail_msg("%s", bad[i]);
    }
    for (size_t i = 0; i < sizeof short_ / sizeof short_[0]; i++) {
        qsae__charsmap *m = NULL;
        assert_int_equal(qsae__charsmap_read(test_ctx, short_[i], "it.json", &m), QSAE_EFORMAT);
        if (!test_message("it.json: precompiled_charsmap: a tree of"))
            fail_msg("%s", short_[i]);
    }
}

/* Two maps are the same one if all their bytes are. */
static void test_equal(void **state)
{
    static const struct map maps[] = {
        { "a", 0, 1, "b", 2 }, { "a", 0, 1, "c", 2 }, { "a", 0, 1, "b\0", 3 },
    };

    (void)state;
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 3; k++) {
            qsae__charsmap *a = NULL, *b = NULL;
            assert_int_equal(qsae__charsmap_read(test_ctx, encoded(&maps[i]), "a", &a), QSAE_OK);
            assert_int_equal(qsae__charsmap_read(test_ctx, encoded(&maps[k]), "b", &b), QSAE_OK);
            assert_int_equal(qsae__charsmap_equal(a, b), i == k);
            assert_false(qsae__charsmap_equal(a, NULL));
            assert_false(qsae__charsmap_equal(NULL, b));
            qsae__charsmap_close(test_ctx, &a);
            qsae__charsmap_close(test_ctx, &b);
        }
    assert_true(qsae__charsmap_equal(NULL, NULL));
}

/* ... and with them two tokenizers, whatever else the files hold. */
static void test_compared(void **state)
{
    static const struct map maps[] = { { "a", 0, 1, "b", 2 }, { "a", 0, 1, "c", 2 } };
    qsae_tokenizer *t[3] = { NULL };
    char json[4300], why[100];

    (void)state;
    for (int i = 0; i < 3; i++) {
        snprintf(json, sizeof json, "{\"version\":\"%d\",\"normalizer\":{\"type\":\"Precompiled\","
                 "\"precompiled_charsmap\":\"%s\"},\"model\":{\"vocab\":{\"a\":0},\"merges\":[]}}",
                 i, encoded(&maps[i == 2]));
        assert_int_equal(test_open(json, &t[i]), QSAE_OK);
    }
    assert_int_equal(qsae__tokenizer_compare(t[0], t[1], why, sizeof why), QSAE_OK);
    assert_string_equal(why, "");
    assert_int_equal(qsae__tokenizer_compare(t[0], t[2], why, sizeof why), QSAE_EMISMATCH);
    assert_string_equal(why, "the tokenizers' normalizer differ");
    for (int i = 0; i < 3; i++)
        qsae_tokenizer_close(&t[i]);
}

const struct CMUnitTest map_tests[] = {
    cmocka_unit_test(test_replaced), cmocka_unit_test(test_outside),
    cmocka_unit_test(test_base64),   cmocka_unit_test(test_equal),
    cmocka_unit_test(test_compared),
};
const size_t n_map_tests = sizeof map_tests / sizeof map_tests[0];
