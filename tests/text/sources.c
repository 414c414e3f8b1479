/* SPDX-License-Identifier: BSD-2-Clause */
/* Arrays of ids, and documents in another order. */
#include "text_test.h"

/* Of every (seed, count): the first, and sum (i + 1) order[i] mod 2^64, as NumPy 2.4 gives them. */
static void test_shuffle(void **state)
{
    static const struct {
        const char *seed;
        int64_t n, first;
        uint64_t sum;
    } cases[] = {
        { "0", 10000, 3577, UINT64_C(248712267264) },
        { "0", 1, 0, UINT64_C(0) },
        { "0", 2, 0, UINT64_C(2) },
        { "1", 7, 5, UINT64_C(91) },
        { "12345", 1000, 279, UINT64_C(252433616) },
        { "4294967295", 500, 444, UINT64_C(31324089) },
        { "4294967296", 500, 344, UINT64_C(31446382) },
        { "18446744073709551615", 4097, 892, UINT64_C(17187811314) },
        { "7", 65536, 37075, UINT64_C(70245638291640) },
    };
    /* The article's pile-10k (methods.md 2.2). */
    static const int64_t pile[] = { 3577, 8925, 1634, 485, 4753, 726, 9505, 3650, 4703, 9428 };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qsae_corpus_settings s;
        int64_t *order, n;
        uint64_t sum = 0;
        qsae_corpus_settings_init(&s, sizeof s);
        s.shuffle = cases[i].seed;
        assert_int_equal(qsae__order_make(test_ctx, &s, cases[i].n, &order, &n), QSAE_OK);
        assert_int_equal(n, cases[i].n);
        assert_int_equal(order[0], cases[i].first);
        for (int64_t k = 0; k < n; k++)
            sum += (uint64_t)(k + 1) * (uint64_t)order[k];
        assert_true(sum == cases[i].sum);
        if (i == 0)
            assert_memory_equal(order, pile, sizeof pile);
        qsae__free(test_ctx, order);
    }
}

static const char letters[] =
    "{\"added_tokens\":[{\"id\":0,\"content\":\"<s>\",\"special\":true,\"normalized\":false}],"
    "\"model\":{\"type\":\"BPE\",\"vocab\":"
    "{\"a\":1,\"b\":2,\"c\":3,\"d\":4,\"e\":5,\"f\":6,\"g\":7,\" \":9},\"merges\":[]}}"; /* no 8 */

static qsae_tokenizer *open_letters(void)
{
    return test_open_bos(letters);
}

/* Ids of the first chunks, then documents; bytes and words of the labels. */
static void expect(const char *name, const qsae_corpus_settings *s, const char *ids,
                   const char *documents, int64_t bytes, int64_t words)
{
    qsae_tokenizer *t = open_letters();
    qsae_corpus *c = NULL;
    qsae_corpus_info info = { .struct_size = sizeof info };
    char got[2][64];
    int n = 0;

    if (qsae_corpus_open(test_ctx, t, test_path(name), s, &c) != QSAE_OK)
        fail_msg("%s", qsae_error_message());
    assert_int_equal(qsae_corpus_get_info(c, &info), QSAE_OK);
    for (int64_t k = 0; k < info.chunks; k++) {
        const int32_t *id;
        const int64_t *document;
        int64_t size;
        assert_int_equal(qsae_corpus_chunk(c, k, &id, NULL, &document, &size), QSAE_OK);
        for (int64_t i = 0; i < size; i++, n++) {
            got[0][n] = "sabcdefg? "[id[i]];
            got[1][n] = (char)('0' + document[i]);
        }
    }
    got[0][n] = got[1][n] = '\0';
    assert_string_equal(got[0], ids);
    assert_string_equal(got[1], documents);
    assert_int_equal(info.scored_bytes, bytes);
    assert_int_equal(info.scored_words, words);
    qsae_corpus_close(&c);
    qsae_tokenizer_close(&t);
}

/* Writes an npy file of version 1.0. */
static void write_npy(const char *name, const char *descr, const char *shape, const void *data,
                      size_t size)
{
    char file[512];
    int n;

    memcpy(file, "\x93NUMPY\1\0\x76\0", 10);
    n = 10 + snprintf(file + 10, 118, "{'descr': '%s', 'fortran_order': False, 'shape': (%s), }",
                      descr, shape);
    memset(file + n, ' ', (size_t)(127 - n));
    file[127] = '\n';
    memcpy(file + 128, data, size);
    test_write_bytes(name, file, 128 + size);
}

static qsae_corpus_settings settings(int32_t policy, int64_t context)
{
    qsae_corpus_settings s;

    qsae_corpus_settings_init(&s, sizeof s);
    s.bos_policy = policy;
    s.context = context;
    return s;
}

static void test_ids(void **state)
{
    static const int32_t i32[] = { 1, 2, 9, 3, 4, 5 };
    static const int64_t i64[] = { 0, 1, 2, 9, 3, 4 };
    static const uint16_t u16[] = { 1, 2, 9, 3, 4, 5 };
    static const uint32_t u32[] = { 7, 7, 1, 1, 3, 3 };
    qsae_corpus_settings s = settings(QSAE_BOS_NONE, 3);

    (void)state;
    write_npy("i.npy", "<i4", "6,", i32, sizeof i32);
    expect("i.npy", &s, "ab cde", "000000", 4, 1); /* "b ", "de" */
    s.stride = 2;
    expect("i.npy", &s, "ab  cdde", "00000000", 5, 1);
    s = settings(QSAE_BOS_NONE, 6);
    write_npy("i.npy", "<u2", "2, 3", u16, sizeof u16);
    expect("i.npy", &s, "ab cde", "000111", 5, 2); /* one word for the space, one for the row */
    s = settings(QSAE_BOS_DOC_START, 7);
    write_npy("i.npy", "<i8", "2, 3", i64, sizeof i64); /* the first begins with BOS */
    expect("i.npy", &s, "sabs cd", "0001111", 5, 3);
    s = settings(QSAE_BOS_NONE, 4);
    s.shuffle = "3"; /* of three in NumPy: 2, 1, 0 */
    write_npy("i.npy", "<u4", "3, 2", u32, sizeof u32);
    expect("i.npy", &s, "ccaa", "0011", 3, 1);
    s.format = QSAE_TEXT_IDS; /* whatever its name */
    write_npy("i.dat", "<u4", "3, 2", u32, sizeof u32);
    expect("i.dat", &s, "ccaa", "0011", 3, 1);
}

static void test_order(void **state)
{
    static const int32_t picked[] = { 3, 0 };
    qsae_corpus_settings s = settings(QSAE_BOS_NONE, 4);
    char order[300];

    (void)state;
    test_write("o.txt", "ab|cd||ef|g");
    s.separator = "|";
    test_write("order.txt", "3\n 0 \r\n\n2\n"); /* document 2 is empty */
    snprintf(order, sizeof order, "%s", test_path("order.txt"));
    s.order = order;
    expect("o.txt", &s, "efab", "0011", 3, 1);
    write_npy("order.npy", "<i4", "2,", picked, sizeof picked);
    snprintf(order, sizeof order, "%s", test_path("order.npy"));
    expect("o.txt", &s, "efab", "0011", 3, 1);
}

static void refused(const char *name, const qsae_corpus_settings *s, int32_t status,
                    const char *part)
{
    qsae_tokenizer *t = open_letters();

    test_corpus_refused(t, name, s, status, part);
    qsae_tokenizer_close(&t);
}

static void test_ids_refused(void **state)
{
    static const int64_t bad[][4] = { { 1, 2, 10, 1 }, { 1, 2, -1, 1 }, { 1, 2, 8, 1 },
                                      { 1, 2, INT64_C(1) << 32, 1 } };
    static const float floats[4] = { 1, 2, 3, 4 };
    qsae_corpus_settings s = settings(QSAE_BOS_NONE, 2);

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_npy("b.npy", "<i8", "2, 2", bad[i], sizeof bad[i]);
        refused("b.npy", &s, QSAE_EFORMAT, "b.npy: row 1, column 0: expected an id");
    }
    write_npy("b.npy", "<f4", "4,", floats, sizeof floats);
    refused("b.npy", &s, QSAE_EFORMAT, "expected int32, int64, uint16 or uint32, found F32");
    write_npy("b.npy", "<u2", "2, 2, 2", bad, 16);
    refused("b.npy", &s, QSAE_EFORMAT, "expected 1 or 2 axes, found 3");
    write_npy("b.npy", "<u2", "0,", bad, 0);
    refused("b.npy", &s, QSAE_EINVAL, "no document");
    write_npy("b.npy", "<i8", "5,", bad, 32); /* shorter than it says */
    refused("b.npy", &s, QSAE_EFORMAT, "b.npy");
    test_write("b.npy", "text");
    refused("b.npy", &s, QSAE_EFORMAT, "b.npy");
}

static void test_order_refused(void **state)
{
    static const struct {
        const char *text, *part;
    } cases[] = {
        { "0\n2\n", "entry 1: expected a document 0..1, found 2" },
        { "1\n0\n1\n", "entry 2: document 1 twice" },
        { "0\n-1\n", "order.txt:2: expected the index" },
        { "0 1\n", "order.txt:1: expected the index" },
        { "99999999999999999999\n", "order.txt:1: expected the index" },
    };
    static const char *const seeds[] = { "", "x", "-1", "18446744073709551616",
                                         "99999999999999999999" };
    qsae_corpus_settings s = settings(QSAE_BOS_NONE, 2);
    char order[300];

    (void)state;
    test_write("o.txt", "ab|cd");
    s.separator = "|";
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        test_write("order.txt", cases[i].text);
        snprintf(order, sizeof order, "%s", test_path("order.txt"));
        s.order = order;
        refused("o.txt", &s, QSAE_EFORMAT, cases[i].part);
    }
    s.shuffle = "0";
    refused("o.txt", &s, QSAE_EINVAL, "order and shuffle");
    s.order = NULL;
    for (size_t i = 0; i < sizeof seeds / sizeof *seeds; i++) {
        s.shuffle = seeds[i];
        refused("o.txt", &s, QSAE_EINVAL, "expected a seed");
    }
    s.shuffle = NULL;
    s.order = "/nonexistent/order.txt";
    refused("o.txt", &s, QSAE_ENOENT, "order.txt");
}

const struct CMUnitTest source_tests[] = {
    cmocka_unit_test(test_shuffle),       cmocka_unit_test(test_ids),
    cmocka_unit_test(test_order),         cmocka_unit_test(test_ids_refused),
    cmocka_unit_test(test_order_refused),
};
const size_t n_source_tests = sizeof source_tests / sizeof *source_tests;
