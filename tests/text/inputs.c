/* SPDX-License-Identifier: BSD-2-Clause */
/* What a corpus is read from: names of files, orders, limits at the ends of their ranges, chunks
 * that come from elsewhere; and which bytes are UTF-8. */
#include "text_test.h"

#include <sys/stat.h>
#include <unistd.h>

#include "text/utf8.h"

#ifdef QSAE_HAVE_ZSTD
#include <zstd.h>
#endif

static const char letters[] =
    "{\"added_tokens\":[{\"id\":0,\"content\":\"<s>\",\"special\":true,\"normalized\":false}],"
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1,\"b\":2,\"c\":3,\"d\":4,\"e\":5,\"\\n\":6},"
    "\"merges\":[]}}";

static qsae_tokenizer *open_letters(void)
{
    return test_open_bos(letters);
}

static qsae_corpus_settings settings(int64_t context)
{
    qsae_corpus_settings s;

    qsae_corpus_settings_init(&s, sizeof s);
    s.bos_policy = QSAE_BOS_NONE;
    s.context = context;
    s.keep_tail = 1;
    return s;
}

/* Letters of all chunks; a new document begins with '|'. */
static void letters_of(const qsae_corpus *c, char *out)
{
    qsae_corpus_info info = { .struct_size = sizeof info };
    int64_t last = -1;

    assert_int_equal(qsae_corpus_get_info(c, &info), QSAE_OK);
    for (int64_t k = 0; k < info.chunks; k++) {
        const int32_t *ids;
        const int64_t *document;
        int64_t n;
        assert_int_equal(qsae_corpus_chunk(c, k, &ids, NULL, &document, &n), QSAE_OK);
        for (int64_t i = 0; i < n; i++) {
            if (document[i] != last)
                *out++ = '|';
            last = document[i];
            *out++ = "sabcde$"[ids[i]];
        }
    }
    *out = '\0';
}

static void expect(const char *name, const qsae_corpus_settings *s, const char *expected)
{
    qsae_tokenizer *t = open_letters();
    qsae_corpus *c = NULL;
    char got[128];

    if (qsae_corpus_open(test_ctx, t, test_path(name), s, &c) != QSAE_OK)
        fail_msg("%s: %s", name, qsae_error_message());
    letters_of(c, got);
    assert_string_equal(got, expected);
    qsae_corpus_close(&c);
    qsae_tokenizer_close(&t);
}

static void refused(const char *name, const qsae_corpus_settings *s, int32_t status,
                    const char *part)
{
    qsae_tokenizer *t = open_letters();

    test_corpus_refused(t, name, s, status, part);
    qsae_tokenizer_close(&t);
}

static void test_names(void **state)
{
    qsae_corpus_settings s = settings(10);

    (void)state;
    test_write("x.ndjson", "{\"text\":\"ab\"}\n \t\r\n\t{\"text\":\"cd\"}\t\r\n");
    expect("x.ndjson", &s, "|ab|cd");
    test_write("x.arrow", "ab");
    refused("x.arrow", &s, QSAE_EUNSUPPORTED,
            "x.arrow: a table; `qsae corpus` makes JSON lines of it");
    test_write("x.parquet", "ab");
    refused("x.parquet", &s, QSAE_EUNSUPPORTED, "x.parquet: a table");
    test_write("x.txt.xz", "ab");
    refused("x.txt.xz", &s, QSAE_EUNSUPPORTED, "x.txt.xz: compressed text; decompress it first");
    s.format = QSAE_TEXT_PLAIN; /* a name says nothing where the format is given */
    test_write("x.arrow", "ab<|endoftext|>cd");
    expect("x.arrow", &s, "|ab|cd");
    s.format = QSAE_TEXT_WHOLE;
    assert_int_equal(mkdir(test_path("whole"), 0700), 0);
    test_write("whole/a.txt", "");
    test_write("whole/b.txt", "ab\n");
    test_write("whole/c.txt", "c");
    test_write("whole/d.txt", "\nde\n\n");
    expect("whole", &s, "|ab|c|$de$"); /* an end of the last line is none of the text */
    test_write("x.txt", "");
    refused("x.txt", &s, QSAE_EINVAL, "x.txt: no document with text");
}

static void test_order(void **state)
{
    static const char *const bad[] = {
        "9223372036854775808\n", "92233720368547758070\n", "1:\n", "1\t0\n", "1/\n",
    };
    qsae_corpus_settings s = settings(10);
    char order[300];

    (void)state;
    test_write("o.txt", "ab|cd");
    s.separator = "|";
    test_write("order.txt", "\t1\t\r\n \t\r\n0 ");
    snprintf(order, sizeof order, "%s", test_path("order.txt"));
    s.order = order;
    expect("o.txt", &s, "|cd|ab");
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        test_write("order.txt", bad[i]);
        refused("o.txt", &s, QSAE_EFORMAT, "order.txt:1: expected the index of a document");
    }
    test_write("order.txt", "9223372036854775807\n");
    refused("o.txt", &s, QSAE_EFORMAT,
            "entry 0: expected a document 0..1, found 9223372036854775807");
}

/* An array as NumPy writes it, of whole numbers of 8 bytes. */
static void write_npy(const char *name, const char *shape, const int64_t *data, size_t n)
{
    char file[512];
    int used;

    memcpy(file, "\x93NUMPY\1\0\x76\0", 10);
    used = 10 + snprintf(file + 10, 118,
                         "{'descr': '<i8', 'fortran_order': False, 'shape': (%s), }", shape);
    memset(file + used, ' ', (size_t)(127 - used));
    file[127] = '\n';
    memcpy(file + 128, data, n * sizeof *data);
    test_write_bytes(name, file, 128 + n * sizeof *data);
}

static void test_order_arrays(void **state)
{
    static const int64_t two[] = { 1, 0 }, negative[] = { 1, -1 };
    qsae_corpus_settings s = settings(10);
    char order[300];

    (void)state;
    test_write("o.txt", "ab|cd");
    s.separator = "|";
    snprintf(order, sizeof order, "%s", test_path("order.npy"));
    s.order = order;
    write_npy("order.npy", "2,", two, 2);
    expect("o.txt", &s, "|cd|ab");
    write_npy("order.npy", "1, 2", two, 2);
    refused("o.txt", &s, QSAE_EFORMAT, "order.npy: expected 1 axis, found 2");
    write_npy("order.npy", "2,", negative, 2);
    refused("o.txt", &s, QSAE_EFORMAT, "entry 1: expected a document 0..1, found -1");
}

/* Rows behind the tokens that are asked for are not looked at. */
static void test_rows(void **state)
{
    static const int64_t rows[] = { 1, 2, 3, 4, 99, 5 };
    qsae_corpus_settings s = settings(2);

    (void)state;
    write_npy("rows.npy", "3, 2", rows, 6);
    refused("rows.npy", &s, QSAE_EFORMAT, "row 2, column 0: expected an id of the vocabulary");
    s.max_tokens = 4;
    expect("rows.npy", &s, "|ab|cd");
    s.max_tokens = 5; /* a third chunk */
    refused("rows.npy", &s, QSAE_EFORMAT, "row 2, column 0: expected an id of the vocabulary");
}

/* What a normalizer puts in front counts as text, but for a space. */
static void test_prefix(void **state)
{
    static const struct {
        const char *prefix;
        int64_t bytes;
    } cases[] = {
        { " ", 4 }, { "x", 5 }, /* of "ab" twice, whose first token no label has */
    };
    qsae_corpus_settings s = settings(6);

    (void)state;
    test_write("p.txt", "ab|ab");
    s.separator = "|";
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        qsae_tokenizer *t = NULL;
        qsae_corpus *c = NULL;
        qsae_corpus_info info = { .struct_size = sizeof info };
        char json[300];
        snprintf(json, sizeof json, "{\"normalizer\":{\"type\":\"Prepend\",\"prepend\":\"%s\"},"
                 "\"model\":{\"vocab\":{\"%s\":0,\"a\":1,\"b\":2},\"merges\":[]}}",
                 cases[i].prefix, cases[i].prefix);
        unlink(test_path("tokenizer_config.json"));
        assert_int_equal(test_open(json, &t), QSAE_OK);
        assert_int_equal(qsae_corpus_open(test_ctx, t, test_path("p.txt"), &s, &c), QSAE_OK);
        assert_int_equal(qsae_corpus_get_info(c, &info), QSAE_OK);
        assert_int_equal(info.tokens, 6);
        assert_int_equal(info.scored_bytes, cases[i].bytes);
        qsae_corpus_close(&c);
        qsae_tokenizer_close(&t);
    }
}

static void test_limits(void **state)
{
    static const char *const where[] = { "set=x", "n=1" };
    qsae_corpus_settings s = settings((int64_t)INT32_MAX + 1);

    (void)state;
    test_write("l.txt", "abcdeabcde");
    refused("l.txt", &s, QSAE_EINVAL, "context 2147483648, max_tokens 0: expected at least 2");
    s = settings(2);
    s.format = -1;
    refused("l.txt", &s, QSAE_EINVAL, "corpus: format -1");
    s = settings(2);
    s.documents_to = -1;
    refused("l.txt", &s, QSAE_EINVAL, "corpus: documents 0 to -1: expected a range from 0 on");
    s = settings(2);
    s.where = where;
    s.n_where = 4097;
    refused("l.txt", &s, QSAE_EINVAL, "where: expected 0..4096 strings, found 4097");
    s.n_where = 2;
    test_write("l.jsonl", "{\"text\":\"ab\",\"set\":\"y\",\"n\":1}\n");
    refused("l.jsonl", &s, QSAE_EINVAL,
            "l.jsonl: no document where set=x and what else is asked for");
    s.n_where = 1;
    refused("l.jsonl", &s, QSAE_EINVAL, "l.jsonl: no document where set=x");
    assert_false(strstr(qsae_error_message(), "what else") != NULL);
    s = settings(2);
    s.stride = 1; /* a window of one token has no label */
    test_write("l.txt", "a");
    refused("l.txt", &s, QSAE_EINVAL, "l.txt: 1 tokens of text are less than one chunk of 2");
}

/* The greatest number of tokens is no limit, whatever it is rounded up to. */
static void test_all_tokens(void **state)
{
    static const struct {
        int64_t context, stride;
        int32_t cross;
        const char *expected;
    } cases[] = {
        { 2, 0, 0, "|abcdeabcde" }, { 7, 0, 1, "|abcdeabcde" }, { 3, 0, 1, "|abcdeabcde" },
        { 5, 4, 0, "|abcdeeabcdde" }, { 5, 5, 0, "|abcdeabcde" },
    };

    (void)state;
    test_write("l.txt", "abcdeabcde");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        qsae_corpus_settings s = settings(cases[i].context);
        s.stride = cases[i].stride;
        s.cross_labels = cases[i].cross;
        for (int k = 0; k < 2; k++) {
            s.max_tokens = k == 0 ? 0 : INT64_MAX;
            expect("l.txt", &s, cases[i].expected);
        }
    }
}

static void test_ids(void **state)
{
    static const int32_t ids[] = { 1, 2 };
    qsae_corpus *c = NULL;

    (void)state;
    assert_int_equal(qsae_corpus_open_ids(test_ctx, ids, INT64_MAX / 2, 2, &c), QSAE_EOVERFLOW);
    assert_true(test_message("qsae_corpus_open_ids: 4611686018427387903 chunks of 2"));
    assert_int_equal(qsae_corpus_open_ids(test_ctx, ids, INT64_MAX, 2, &c), QSAE_EOVERFLOW);
    assert_true(test_message("qsae_corpus_open_ids: 9223372036854775807 chunks of 2"));
    assert_int_equal(qsae_corpus_open_ids(test_ctx, ids, 1, (int64_t)INT32_MAX + 1, &c),
                     QSAE_EINVAL);
    assert_null(c);
}

/* Chunks that another program cut, with BOS in the place of the first token of each or without. */
static void test_chunks(void **state)
{
    static const int32_t ids[] = { 1, 2, 3, 4, 5, 1 };
    qsae_corpus *c = NULL;
    char got[32];

    (void)state;
    assert_int_equal(qsae__corpus_from_chunks(test_ctx, ids, 2, 3, 0, 1, &c), QSAE_OK);
    letters_of(c, got);
    assert_string_equal(got, "|sbc|sea");
    assert_true(qsae__corpus_original(c, 0) == 1 && qsae__corpus_original(c, 1) == 4);
    assert_true(c->bos_policy == QSAE_BOS_CHUNK_REPLACE && c->score_from == 1);
    qsae_corpus_close(&c);
    assert_int_equal(qsae__corpus_from_chunks(test_ctx, ids, 2, 3, -1, 1, &c), QSAE_OK);
    letters_of(c, got);
    assert_string_equal(got, "|abc|dea");
    assert_true(qsae__corpus_original(c, 0) == 1 && qsae__corpus_original(c, 1) == 4);
    assert_int_equal(c->bos_policy, QSAE_BOS_NONE);
    qsae_corpus_close(&c);
    assert_int_equal(qsae__corpus_from_chunks(test_ctx, ids, 0, 3, -1, 1, &c), QSAE_EINVAL);
    assert_null(c);
}

/* The ends of chunks: BOS that cutting put in front stays there, whichever way it came there. */
static void test_tails(void **state)
{
    static const struct {
        int32_t policy;
        int64_t context, scored;
        const char *expected;
    } cases[] = {
        { QSAE_BOS_NONE, 3, 1, "|cdecde" }, { QSAE_BOS_NONE, 5, 3, "|abcdeabcde" },
        { QSAE_BOS_CHUNK_START, 3, 1, "|scdsbc" }, { QSAE_BOS_CHUNK_REPLACE, 3, 1, "|scdscd" },
        { QSAE_BOS_DOC_START, 3, 1, "|bcdbcd" },
    };
    qsae_corpus_settings few = settings(5);
    qsae_corpus *small = NULL, *none = NULL;
    static const struct {
        int64_t context, scored;
    } bad[] = { { 2, 1 }, { 6, 1 }, { 3, 0 }, { 3, 2 }, { 5, 4 } };
    qsae_tokenizer *t = open_letters();

    (void)state;
    test_write("t.txt", "abcdeabcdea");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        qsae_corpus_settings s = settings(5);
        qsae_corpus *c = NULL, *to = NULL;
        qsae_corpus_info info = { .struct_size = sizeof info };
        char got[32];
        s.bos_policy = cases[i].policy;
        assert_int_equal(qsae_corpus_open(test_ctx, t, test_path("t.txt"), &s, &c), QSAE_OK);
        if (qsae__corpus_tails(c, cases[i].context, cases[i].scored, &to) != QSAE_OK)
            fail_msg("%s", qsae_error_message());
        letters_of(to, got);
        if (strcmp(got, cases[i].expected) != 0)
            fail_msg("%zu: %s", i, got);
        assert_int_equal(qsae_corpus_get_info(to, &info), QSAE_OK);
        assert_int_equal(info.predicted_tokens, 2 * cases[i].scored);
        qsae_corpus_close(&to);
        for (size_t k = 0; k < sizeof bad / sizeof bad[0]; k++) {
            char part[100];
            assert_int_equal(qsae__corpus_tails(c, bad[k].context, bad[k].scored, &to),
                             QSAE_EINVAL);
            snprintf(part, sizeof part, "%lld tokens scored at the end of %lld in 2 whole chunks",
                     (long long)bad[k].scored, (long long)bad[k].context);
            assert_true(test_message(part));
            assert_null(to);
        }
        qsae_corpus_close(&c);
    }
    test_write("t.txt", "abc"); /* no whole chunk */
    assert_int_equal(qsae_corpus_open(test_ctx, t, test_path("t.txt"), &few, &small), QSAE_OK);
    assert_int_equal(qsae__corpus_tails(small, 3, 1, &none), QSAE_EINVAL);
    assert_true(test_message("1 tokens scored at the end of 3 in 0 whole chunks of 5"));
    assert_null(none);
    qsae_corpus_close(&small);
    qsae_tokenizer_close(&t);
}

/* Text of one letter shrinks to next to nothing: more than is likely, less than is refused. */
static void test_growth(void **state)
{
#ifndef QSAE_HAVE_ZSTD
    (void)state;
    print_message("skipped: built without zstd\n");
    skip();
#else
    enum { SIZE = 500000 };
    qsae_corpus_settings s = settings(1000);
    qsae_tokenizer *t = open_letters();
    qsae_corpus *c = NULL;
    qsae_corpus_info info = { .struct_size = sizeof info };
    char *const text = malloc(SIZE), packed[1000];

    (void)state;
    assert_non_null(text);
    memset(text, 'a', SIZE);
    const size_t n = ZSTD_compress(packed, sizeof packed, text, SIZE, 3);
    assert_true(!ZSTD_isError(n) && 16 * n + 65536 < SIZE);
    test_write_bytes("g.txt.zst", packed, n);
    if (qsae_corpus_open(test_ctx, t, test_path("g.txt.zst"), &s, &c) != QSAE_OK)
        fail_msg("%s", qsae_error_message());
    assert_int_equal(qsae_corpus_get_info(c, &info), QSAE_OK);
    assert_int_equal(info.tokens, SIZE);
    qsae_corpus_close(&c);
    static const char lines[] = "{\"text\":\"ab\"}\n{\"text\":\"cd\"}\n";
    const size_t m = ZSTD_compress(packed, sizeof packed, lines, sizeof lines - 1, 3);
    assert_false(ZSTD_isError(m));
    test_write_bytes("n.ndjson.zst", packed, m);
    s = settings(10);
    expect("n.ndjson.zst", &s, "|ab|cd");
    free(text);
    qsae_tokenizer_close(&t);
#endif
}

/* Whether bytes [n] are one character: it is well-formed if it spells a code point in the shortest
 * way, and no surrogate. */
static bool is_character(const uint8_t *p, size_t n)
{
    static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
    uint32_t c = n == 1 ? p[0] : p[0] & (0xffu >> (n + 1));

    if (n == 1)
        return c < 0x80;
    if ((uint32_t)p[0] >> (7 - n) != (1u << (n + 1)) - 2) /* 110, 1110, 11110 */
        return false;
    for (size_t i = 1; i < n; i++) {
        if (p[i] >> 6 != 2)
            return false;
        c = c << 6 | (p[i] & 0x3f);
    }
    return c >= least[n] && c <= 0x10ffff && (c < 0xd800 || c > 0xdfff);
}

/* All of two and three bytes, and of four with the ends of each range in the last two. */
static void test_utf8(void **state)
{
    static const uint8_t ends[] = { 0, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xff };
    enum { ENDS = sizeof ends };
    uint8_t p[4];
    size_t bad = 0;

    (void)state;
    for (uint32_t first = 0x80; first < 0x100; first++)
        for (uint32_t second = 0; second < 0x100; second++) {
            p[0] = (uint8_t)first;
            p[1] = (uint8_t)second;
            if (qsae__utf8_check((char *)p, 2, &bad) != is_character(p, 2))
                fail_msg("%02x %02x", p[0], p[1]);
            for (int i = 0; i < ENDS; i++)
                for (int k = 0; k < ENDS; k++) {
                    p[2] = ends[i];
                    p[3] = ends[k];
                    const bool three = is_character(p, 3) || (is_character(p, 2) && p[2] < 0x80);
                    if (qsae__utf8_check((char *)p, 3, &bad) != three)
                        fail_msg("%02x %02x %02x", p[0], p[1], p[2]);
                    const bool four = is_character(p, 4) || (three && p[3] < 0x80) ||
                                      (is_character(p, 2) && is_character(p + 2, 2));
                    if (qsae__utf8_check((char *)p, 4, &bad) != four)
                        fail_msg("%02x %02x %02x %02x", p[0], p[1], p[2], p[3]);
                }
        }
    assert_false(qsae__utf8_check("abcdefgh\u00e9\xed\xa0\x80", 13, &bad));
    assert_int_equal(bad, 10);
}

const struct CMUnitTest input_tests[] = {
    cmocka_unit_test(test_names),  cmocka_unit_test(test_order),
    cmocka_unit_test(test_order_arrays), cmocka_unit_test(test_rows),
    cmocka_unit_test(test_prefix), cmocka_unit_test(test_limits),
    cmocka_unit_test(test_all_tokens), cmocka_unit_test(test_ids), cmocka_unit_test(test_chunks),
    cmocka_unit_test(test_tails),  cmocka_unit_test(test_growth), cmocka_unit_test(test_utf8),
};
const size_t n_input_tests = sizeof input_tests / sizeof input_tests[0];
