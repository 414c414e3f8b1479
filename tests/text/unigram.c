/* SPDX-License-Identifier: BSD-2-Clause */
/* Unigram models: ties, unknown characters, scores, and files that are damaged. */
#include "text_test.h"

#define TOKENIZER(unk, more, vocab) \
    "{\"model\":{\"type\":\"Unigram\",\"unk_id\":" unk "," more "\"vocab\":[" vocab "]}}"

/* "1 2 3" of the text's ids. */
static const char *ids_of(const qsae_tokenizer *t, const char *text)
{
    static char out[512];
    int32_t ids[128];
    int64_t n = 0;
    size_t at = 0;

    if (qsae_tokenizer_encode(t, text, strlen(text), 0, ids, 128, &n) != QSAE_OK)
        return qsae_error_message();
    out[0] = '\0';
    for (int64_t i = 0; i < n && at < sizeof out; i++)
        at += (size_t)snprintf(out + at, sizeof out - at, i == 0 ? "%d" : " %d", ids[i]);
    return out;
}

static void check(const char *json, const char *text, const char *expected)
{
    qsae_tokenizer *t = NULL;

    if (test_open(json, &t) != QSAE_OK)
        fail_msg("%s: %s", json, qsae_error_message());
    assert_string_equal(ids_of(t, text), expected);
    qsae_tokenizer_close(&t);
}

static void test_words(void **state)
{
    (void)state;
    /* of equal sums the one whose last token starts first */
    check(TOKENIZER("0", "", "[\"?\",0],[\"a\",-1],[\"aa\",-1],[\"aaa\",-2]"), "aaa", "3");
    check(TOKENIZER("0", "", "[\"?\",0],[\"a\",-1],[\"aa\",-1.5],[\"b\",-9]"), "aaab", "1 2 3");
    /* without a type, and of equal tokens the last */
    check("{\"model\":{\"vocab\":[[\"a\",-1],[\"a\",-2],[\"b\",-1]]}}", "ab", "1 2");
    /* unknown characters in a row are one, also the token itself, unless they spell a token */
    check(TOKENIZER("0", "", "[\"?\",0],[\"a\",-1]"), "xyaz?za", "0 1 0 1");
    check(TOKENIZER("0", "", "[\"?\",0],[\"a\",99],[\"xy\",12]"), "xya", "2 1");
    /* bytes instead, if all are there */
    check(TOKENIZER("0", "\"byte_fallback\":true,",
                    "[\"?\",0],[\"<0x78>\",0],[\"<0x79>\",0]"), "xyx", "1 2 1");
    check(TOKENIZER("0", "\"byte_fallback\":true,", "[\"?\",0],[\"<0x78>\",0]"), "xyx", "0");
    check(TOKENIZER("null", "", "[\"a\",-1],[\"b\",-1]"), "ab", "0 1");
    check(TOKENIZER("null", "", "[\"a\",-1]"), "ax",
          "U+0078 is no token and there is no unknown token");
}

/* The reference reads -9.773894309997559 as 9773894309997559 / 10^15, not as the nearest number. */
static void test_scores(void **state)
{
    static const char json[] =
        TOKENIZER("0", "", "[\"a\",-9.773894309997559],[\"b\",-0.5],[\"c\",7],"
                  "[\"d\",-1.25e-07],[\"e\",0.1],[\"f\",123456.75]");
    static const double expected[] = {
        -9.77389430999756, -0.5, 7, -1.25e-07, 0.1, 123456.75,
    };
    qsae_tokenizer *t = NULL;

    (void)state;
    assert_int_equal(test_open(json, &t), QSAE_OK);
    for (int i = 0; i < 6; i++)
        assert_memory_equal(&t->unigram.scores[i], &expected[i], sizeof *expected);
    qsae_tokenizer_close(&t);
}

/* Two files are the same tokenizer only with the same scores and rules. */
static void test_compared(void **state)
{
    static const char *const files[] = {
        TOKENIZER("0", "", "[\"a\",-1],[\"b\",-2]"), TOKENIZER("0", "", "[\"a\",-1],[\"b\",-3]"),
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},\"merges\":[]}}",
    };
    qsae_tokenizer *t[3] = { NULL };
    char why[128];

    (void)state;
    for (int i = 0; i < 3; i++)
        assert_int_equal(test_open(files[i], &t[i]), QSAE_OK);
    assert_int_equal(qsae__tokenizer_compare(t[0], t[0], why, sizeof why), QSAE_OK);
    for (int i = 1; i < 3; i++) {
        assert_int_equal(qsae__tokenizer_compare(t[0], t[i], why, sizeof why), QSAE_EMISMATCH);
        assert_non_null(strstr(why, "scores"));
    }
    for (int i = 0; i < 3; i++)
        qsae_tokenizer_close(&t[i]);
}

static qsae__file *read_fixture(const char *name)
{
    char path[512];
    qsae__file *file = NULL;

    snprintf(path, sizeof path, QSAE_TEST_DATA "/tokenizers/%s", name);
    assert_int_equal(qsae__file_open(test_ctx, path, &file), QSAE_OK);
    return file;
}

/* Files with some bytes changed are read or refused, never worse; as many more as
 * QSAE_TEST_MUTATIONS says. */
static void test_damaged(void **state)
{
    static const char *const names[] = {
        "unigram_xlmr.tokenizer.json", "unigram_albert.tokenizer.json",
        "unigram_nmt.tokenizer.json",
    };
    static const char text[] =
        "abc  a<s>\xc3\xa9 e\xcc\x81\r\n\xef\xac\x81\xcc\x81\x01 x\xe2\x96\x81";
    const char *const more = getenv("QSAE_TEST_MUTATIONS");
    const int rounds = more != NULL ? atoi(more) : 60;
    uint32_t seed = 7;
    int opened = 0;

    (void)state;
    for (size_t k = 0; k < 3; k++) {
        qsae__file *file = read_fixture(names[k]);
        char *const copy = malloc(file->size + 1);
        assert_non_null(copy);
        for (int i = 0; i < rounds; i++) {
            qsae_tokenizer *t = NULL;
            int32_t ids[256];
            int64_t n;
            memcpy(copy, file->data, file->size);
            copy[file->size] = '\0';
            for (int m = 0; m <= i % 3; m++) {
                seed = seed * 1664525u + 1013904223u;
                const size_t at = (seed >> 4) % file->size;
                seed = seed * 1664525u + 1013904223u;
                /* letters and digits become others: the rules stay base64 */
                copy[at] = copy[at] > '0' ? (char)('0' + (seed >> 24) % 75)
                                          : (char)(32 + (seed >> 24) % 95);
            }
            if (test_open(copy, &t) == QSAE_OK) {
                const int32_t got = qsae_tokenizer_encode(t, text, sizeof text - 1, 1, ids, 256,
                                                          &n);
                opened++;
                assert_true(got == QSAE_OK || got == QSAE_EFORMAT || got == QSAE_ESPACE);
            }
            qsae_tokenizer_close(&t);
        }
        free(copy);
        qsae__file_close(&file);
    }
    assert_true(opened > rounds / 4);
}

/* Whatever allocation fails, the call says so and leaves nothing behind (under a leak checker). */
static void test_out_of_memory(void **state)
{
    int64_t countdown, rounds = 0;
    int32_t status = QSAE_ENOMEM;

    (void)state;
    for (; status != QSAE_OK && rounds < 2000; rounds++) {
        qsae_context_settings cs;
        qsae_context *ctx = NULL;
        qsae_tokenizer *t = NULL;
        int32_t ids[64];
        int64_t n;
        qsae_context_settings_init(&cs, sizeof cs);
        cs.threads = 1;
        cs.alloc = test_failing_alloc;
        cs.free = test_failing_free;
        cs.alloc_cookie = &countdown;
        countdown = 1000000;
        assert_int_equal(qsae__context_new(&cs, &ctx), QSAE_OK);
        countdown = rounds;
        status = qsae_tokenizer_open(ctx, QSAE_TEST_DATA
                                     "/tokenizers/unigram_xlmr.tokenizer.json", &t);
        if (status == QSAE_OK)
            status = qsae_tokenizer_encode(t, "a\xcc\x81 xyz", 7, 1, ids, 64, &n);
        if (status != QSAE_OK && status != QSAE_ENOMEM)
            fail_msg("%lld: %s: %s", (long long)rounds, qsae_status_name(status),
                     qsae_error_message());
        qsae_tokenizer_close(&t);
        qsae__context_unref(ctx);
    }
    assert_int_equal(status, QSAE_OK);
    assert_true(rounds > 30);
}

const struct CMUnitTest unigram_tests[] = {
    cmocka_unit_test(test_words),       cmocka_unit_test(test_scores),
    cmocka_unit_test(test_compared),    cmocka_unit_test(test_damaged),
    cmocka_unit_test(test_out_of_memory),
};
const size_t n_unigram_tests = sizeof unigram_tests / sizeof *unigram_tests;
