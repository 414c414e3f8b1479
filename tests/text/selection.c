/* SPDX-License-Identifier: BSD-2-Clause */
/* Which documents are read, what is kept of them, and rows as other libraries pack them. */
#include "text_test.h"

static qsae_tokenizer *open_bundled(void)
{
    qsae_tokenizer *t = NULL;

    if (qsae_tokenizer_open(test_ctx, QSAE_TEST_EXAMPLES "/tiny-gemma3", &t) != QSAE_OK)
        fail_msg("%s", qsae_error_message());
    return t;
}

static qsae_corpus_settings settings(int32_t policy, int64_t context)
{
    qsae_corpus_settings s;

    qsae_corpus_settings_init(&s, sizeof s);
    s.bos_policy = policy;
    s.context = context;
    s.keep_tail = 1;
    return s;
}

static qsae_corpus *open_text(const char *name, const qsae_corpus_settings *s)
{
    qsae_tokenizer *t = open_bundled();
    qsae_corpus *c = NULL;

    if (qsae_corpus_open(test_ctx, t, test_path(name), s, &c) != QSAE_OK)
        fail_msg("%s", qsae_error_message());
    qsae_tokenizer_close(&t);
    return c;
}

static void refused(const char *name, const qsae_corpus_settings *s, int32_t status,
                    const char *part)
{
    qsae_tokenizer *t = open_bundled();

    test_corpus_refused(t, name, s, status, part);
    qsae_tokenizer_close(&t);
}

/* Lines of the documents that are read, "1 4 5"; "" if there is none. */
static void lines(const char *name, const qsae_corpus_settings *s, const char *expected)
{
    qsae_corpus *c = open_text(name, s);
    qsae_corpus_info info = { .struct_size = sizeof info };
    char got[128] = "";
    size_t n = 0;

    assert_int_equal(qsae_corpus_get_info(c, &info), QSAE_OK);
    for (int64_t i = 0; i < info.documents; i++) {
        qsae_document_info d = { .struct_size = sizeof d };
        assert_int_equal(qsae_corpus_document(c, i, &d), QSAE_OK);
        n += (size_t)snprintf(got + n, sizeof got - n, "%s%lld", i ? " " : "", (long long)d.line);
    }
    assert_string_equal(got, expected);
    qsae_corpus_close(&c);
}

static const char facts[] =
    "{\"text\":\"a cat\",\"set\":\"train\",\"n\":1,"
    "\"meta\":{\"from\":\"x\",\"tags\":[\"p\",\"q\"]}}\n"
    "{\"text\":\"a dog\",\"set\":\"test\",\"n\":2,\"ok\":true,\"meta\":{\"from\":\"y\"}}\n"
    "{\"text\":\" \",\"set\":\"test\"}\n"
    "{\"text\":\"a bird\",\"set\":\"test\",\"n\":-3.5,\"none\":null,\"meta\":{\"from\":\"a=b\"}}\n"
    "\n"
    "{\"text\":\"a fox\",\"set\":\"\xc3\xa9\",\"meta.from\":\"x\",\"meta\":5}\n";

static void test_where(void **state)
{
    static const struct {
        const char *where[3], *lines;
    } cases[] = {
        { { "set=test" }, "2 4" },
        { { "set=test", "set=train" }, "1 2 4" },
        { { "set=test", "n=2" }, "2" },
        { { "set!=test" }, "1 6" },
        { { "set!=test", "set!=train" }, "6" },
        { { "set=\xc3\xa9" }, "6" },
        { { "n=1", "n=-3.50" }, "1 4" },
        { { "n=2e0" }, "2" },
        { { "n!=1" }, "2 4 6" },
        { { "ok=true" }, "2" },
        { { "none=null" }, "4" },
        { { "none!=null" }, "1 2 6" },
        { { "meta.from=x" }, "1 6" },
        { { "meta.from=a=b" }, "4" },
        { { "meta.tags=q" }, "1" },
        { { "meta=5" }, "6" },
        { { "meta.from!=x", "n!=2" }, "4" },
    };
    qsae_corpus_settings s = settings(QSAE_BOS_NONE, 2);
    const char *both[] = { "set=test", NULL };

    (void)state;
    test_write("facts.jsonl", facts);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        s.where = cases[i].where;
        for (s.n_where = 0; s.n_where < 3 && s.where[s.n_where] != NULL; s.n_where++)
            continue;
        lines("facts.jsonl", &s, cases[i].lines);
    }
    s.where = both;
    s.n_where = 1;
    s.shuffle = "5"; /* of five in NumPy: 4 3 1 2 0 */
    lines("facts.jsonl", &s, "4 2");
    s.documents_from = 2;
    lines("facts.jsonl", &s, "2");
}

static void test_where_refused(void **state)
{
    static const char *const bad[] = { "set", "", "=a", "!=a" };
    const char *one[1] = { "set=tset" };
    qsae_corpus_settings s = settings(QSAE_BOS_NONE, 2);

    (void)state;
    test_write("facts.jsonl", facts);
    test_write("plain.txt", "a cat sat");
    s.where = one;
    s.n_where = 1;
    refused("facts.jsonl", &s, QSAE_EINVAL, "facts.jsonl: no document where set=tset");
    refused("plain.txt", &s, QSAE_EINVAL, "plain.txt: where: plain text has no metadata");
    s.format = QSAE_TEXT_IDS;
    refused("plain.txt", &s, QSAE_EINVAL, "plain.txt: where: token ids have no metadata");
    s.format = QSAE_TEXT_DEFAULT;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        one[0] = bad[i];
        refused("facts.jsonl", &s, QSAE_EINVAL, "where: expected KEY=VALUE or KEY!=VALUE");
    }
    one[0] = "set=\xff";
    refused("facts.jsonl", &s, QSAE_EINVAL, "where: not UTF-8 at offset 4");
    s.n_where = -1;
    refused("facts.jsonl", &s, QSAE_EINVAL, "where: expected 0..4096 strings, found -1");
    s.n_where = 2;
    s.where = NULL;
    refused("facts.jsonl", &s, QSAE_EINVAL, "their array is NULL");
}

static void test_range(void **state)
{
    static const struct {
        int64_t from, to;
        const char *lines;
    } cases[] = { { 0, 1, "1" }, { 1, 0, "2 4 6" }, { 1, 4, "2 4" }, { 3, 99, "4 6" } };
    qsae_corpus_settings s = settings(QSAE_BOS_NONE, 2);

    (void)state;
    test_write("facts.jsonl", facts);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        s.documents_from = cases[i].from;
        s.documents_to = cases[i].to;
        lines("facts.jsonl", &s, cases[i].lines);
    }
    s.documents_from = 2;
    s.documents_to = 3;
    refused("facts.jsonl", &s, QSAE_EINVAL, "no document with text");
    s.documents_from = 5;
    s.documents_to = 0;
    refused("facts.jsonl", &s, QSAE_EINVAL, "documents from 5 on: there are 5");
    s.documents_to = 5;
    refused("facts.jsonl", &s, QSAE_EINVAL, "documents 5 to 5: expected a range");
    s.documents_from = -1;
    refused("facts.jsonl", &s, QSAE_EINVAL, "documents -1 to 5");
}

/* What is left of a line is kept, whatever it is. */
static void test_metadata(void **state)
{
    static const struct {
        const char *line, *field, *metadata;
    } cases[] = {
        { "{\"text\":\"a cat\"}", NULL, "{}" },
        { "{\"a\":[1,{\"b\":null}],\"text\":\"a cat\",\"\xc3\xa9\":\"\xf0\x9f\x98\x80\"}", NULL,
          "{\"a\":[1,{\"b\":null}],\"\xc3\xa9\":\"\xf0\x9f\x98\x80\"}" },
        { "{\"text\":\"a cat\",\"n\":9223372036854775807,\"r\":0.5,\"z\":\"\\u0000\"}", NULL,
          "{\"n\":9223372036854775807,\"r\":0.5,\"z\":\"\\u0000\"}" },
        { "{\"doc\":{\"body\":\"a cat\",\"id\":7},\"k\":1}", "doc.body",
          "{\"doc\":{\"id\":7},\"k\":1}" },
        { "{\"doc.body\":\"a cat\",\"doc\":{\"body\":5}}", "doc.body", "{\"doc\":{\"body\":5}}" },
        { "{\"a\":{\"b\":{\"c\":\"a cat\"}}}", "a.b.c", "{\"a\":{\"b\":{}}}" },
    };
    static const struct {
        const char *line, *field, *part;
    } bad[] = {
        { "{\"a\":{\"b\":5}}", "a.b", "bad.jsonl:1: key \"a.b\": expected string, found integer" },
        { "{\"a\":5}", "a.b", "bad.jsonl:1: key \"a.b\": expected string, found nothing" },
        { "{\"a\":{}}", "a..b", "bad.jsonl:1: key \"a..b\": expected string" },
        { "{\"text\":\"a\",\"text\":\"b\"}", NULL, "bad.jsonl:1" },
        { "{\"text\":\"a\",\"n\":{\"k\":1,\"k\":2}}", NULL, "bad.jsonl:1" },
        { "{\"text\":\"a\",\"n\":9223372036854775808}", NULL, "bad.jsonl:1" },
        { "{\"text\":\"a\",\"n\":NaN}", NULL, "bad.jsonl:1" },
    };
    qsae_corpus_settings s = settings(QSAE_BOS_NONE, 2);

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qsae_document_info d = { .struct_size = sizeof d };
        qsae_corpus *c;
        test_write("m.jsonl", cases[i].line);
        s.text_field = cases[i].field;
        c = open_text("m.jsonl", &s);
        assert_int_equal(qsae_corpus_document(c, 0, &d), QSAE_OK);
        assert_string_equal(d.metadata, cases[i].metadata);
        qsae_corpus_close(&c);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        test_write("bad.jsonl", bad[i].line);
        s.text_field = bad[i].field;
        refused("bad.jsonl", &s, QSAE_EFORMAT, bad[i].part);
    }
}

/* What another tool must read first; the message says which. */
static void test_other_files(void **state)
{
    qsae_corpus_settings s = settings(QSAE_BOS_NONE, 2);

    (void)state;
    test_write("a.parquet", "PAR1");
    refused("a.parquet", &s, QSAE_EUNSUPPORTED, "a.parquet: a table; `qsae corpus`");
    test_write("a.jsonl.gz", "x");
    refused("a.jsonl.gz", &s, QSAE_EUNSUPPORTED, "a.jsonl.gz: compressed text");
}

/* A line of some megabytes. */
static void test_long_line(void **state)
{
    enum { WORDS = 1 << 20 };
    qsae_corpus_settings s = settings(QSAE_BOS_NONE, 512);
    qsae_corpus_info info = { .struct_size = sizeof info };
    char *line = malloc(8 * WORDS + 64);
    char *p = line;
    qsae_corpus *c;

    (void)state;
    assert_non_null(line);
    p += sprintf(p, "{\"k\":[");
    for (int i = 0; i < WORDS / 2; i++)
        p += sprintf(p, "%d,", 1000000 + i);
    p += sprintf(p, "0],\"text\":\"");
    for (int i = 0; i < WORDS / 2; i++)
        p += sprintf(p, "%s", i % 7 ? " cat" : "\\n");
    p += sprintf(p, "\"}");
    test_write_bytes("long.jsonl", line, (size_t)(p - line));
    free(line);
    c = open_text("long.jsonl", &s);
    assert_int_equal(qsae_corpus_get_info(c, &info), QSAE_OK);
    assert_int_equal(info.documents, 1);
    assert_int_equal(info.scored_bytes > WORDS, 1);
    qsae_corpus_close(&c);
}

/* A tree that is far larger than its line: what a list of so many lists, or of digits, would take
 * is not there, in any line. */
static void test_dense_line(void **state)
{
    enum { MANY = 1 << 16 };
    static const char *const values[] = { "[],", "{},", "0,", "\"\"," };
    qsae_corpus_settings s = settings(QSAE_BOS_NONE, 512);
    char *line = malloc(4 * MANY + 128);

    (void)state;
    assert_non_null(line);
    for (size_t k = 0; k < sizeof values / sizeof values[0]; k++) {
        char *p = line;
        p += sprintf(p, "{\"text\":\"the cat\"}\n{\"text\":\"the cat\",\"k\":[");
        for (int i = 0; i < MANY; i++)
            p += sprintf(p, "%s", values[k]);
        p += sprintf(p, "0]}\n");
        test_write_bytes("dense.jsonl", line, (size_t)(p - line));
        refused("dense.jsonl", &s, QSAE_EFORMAT, "dense.jsonl:2:1: expected values that fit");
    }
    free(line);
}

/* Rows against flat ids; `tokens` > 0: the first rows alone, as max_tokens cuts them. */
static void compare_rows(const char *name, int32_t pack, const json_t *row, const json_t *ids,
                         int64_t tokens)
{
    const int64_t context = json_integer_value(json_object_get(row, "context"));
    const bool bos = json_integer_value(json_object_get(row, "bos")) != 0;
    int64_t n = (int64_t)json_array_size(ids);
    qsae_corpus_settings s = settings(bos ? QSAE_BOS_CHUNK_START : QSAE_BOS_NONE, context);
    qsae_corpus_info info = { .struct_size = sizeof info };
    qsae_corpus *c;

    s.pack = pack;
    s.keep_tail = 0;
    s.max_tokens = tokens;
    if (n == 0) {
        refused(name, &s, QSAE_EINVAL, "less than one chunk");
        return;
    }
    c = open_text(name, &s);
    if (tokens > 0)
        n = qsae__min_i64(n, qsae__ceil_div(tokens, context) * context);
    assert_int_equal(qsae_corpus_get_info(c, &info), QSAE_OK);
    assert_int_equal(info.tokens, n);
    assert_int_equal(info.pack, pack);
    for (int64_t i = 0; i < n; i++) {
        const int32_t *got;
        const int64_t *document;
        assert_int_equal(qsae_corpus_chunk(c, i / context, &got, NULL, &document, NULL), QSAE_OK);
        assert_int_equal(got[i % context], json_integer_value(json_array_get(ids, (size_t)i)));
        assert_in_range(document[i % context], 0, info.documents - 1);
    }
    for (int64_t i = 0; i < info.documents; i++) {
        qsae_document_info d = { .struct_size = sizeof d };
        assert_int_equal(qsae_corpus_document(c, i, &d), QSAE_OK);
        assert_true(d.n_tokens >= 0 && d.first_token + d.n_tokens <= info.stream_tokens);
    }
    qsae_corpus_close(&c);
}

static void test_packing(void **state)
{
    json_t *cases = NULL, *v, *row;
    size_t i, k, compared = 0;

    (void)state;
    if (qsae__json_load(test_ctx, QSAE_TEST_DATA "/packing.json", &cases) != QSAE_OK)
        fail_msg("%s", qsae_error_message());
    json_array_foreach(cases, i, v) {
        FILE *f = fopen(test_path("p.jsonl"), "wb");
        json_t *text;
        assert_non_null(f);
        json_array_foreach(json_object_get(v, "texts"), k, text) {
            json_t *line = json_pack("{sO}", "text", text);
            assert_int_equal(json_dumpf(line, f, JSON_COMPACT), 0);
            fputc('\n', f);
            json_decref(line);
        }
        assert_int_equal(fclose(f), 0);
        json_array_foreach(json_object_get(v, "rows"), k, row) {
            for (int64_t tokens = 0; tokens < 200; tokens = 3 * tokens + 1) {
                compare_rows("p.jsonl", QSAE_PACK_TL, row, json_object_get(row, "tl"), tokens);
                compare_rows("p.jsonl", QSAE_PACK_SAELENS, row, json_object_get(row, "saelens"),
                             tokens);
                compare_rows("p.jsonl", QSAE_PACK_TL2, row, json_object_get(row, "tl2"), tokens);
            }
            compared++;
        }
    }
    assert_int_equal(compared, 14);
    json_decref(cases);
}

/* Where the text of a batch is cut anywhere, each token still knows its document: one a letter. */
static void test_pieces(void **state)
{
    static const char letters[] =
        "{\"added_tokens\":[{\"id\":0,\"content\":\"<s>\",\"special\":true,"
        "\"normalized\":false}],\"model\":{\"type\":\"BPE\",\"vocab\":"
        "{\"a\":1,\"b\":2,\"c\":3,\"<\":4,\"s\":5,\">\":6},\"merges\":[]}}";
    qsae_corpus_settings s = settings(QSAE_BOS_NONE, 2);
    qsae_corpus_info info = { .struct_size = sizeof info };
    qsae_tokenizer *t = NULL;
    qsae_corpus *c = NULL;
    char text[400] = "", *p = text;
    int64_t seen[3] = { 0 };

    (void)state;
    for (int i = 0; i < 3; i++) { /* 21, 40 and 33 letters */
        p += sprintf(p, "{\"text\":\"");
        for (int k = 0; k < (i == 0 ? 21 : i == 1 ? 40 : 33); k++)
            *p++ = (char)('a' + i);
        p += sprintf(p, "\"}\n%s", i == 0 ? "{\"text\":\"\"}\n" : "");
    }
    test_write("l.jsonl", text);
    test_write("tokenizer_config.json", "{\"bos_token\":\"<s>\",\"eos_token\":\"<s>\"}");
    assert_int_equal(test_open(letters, &t), QSAE_OK);
    s.pack = QSAE_PACK_TL2;
    s.keep_tail = 0;
    if (qsae_corpus_open(test_ctx, t, test_path("l.jsonl"), &s, &c) != QSAE_OK)
        fail_msg("%s", qsae_error_message());
    assert_int_equal(qsae_corpus_get_info(c, &info), QSAE_OK);
    assert_int_equal(info.documents, 3);
    for (int64_t i = 0; i < info.chunks; i++) {
        const int32_t *ids;
        const int64_t *document;
        assert_int_equal(qsae_corpus_chunk(c, i, &ids, NULL, &document, NULL), QSAE_OK);
        for (int k = 0; k < 2; k++) {
            assert_int_not_equal(ids[k], 0); /* EOS is the padding here */
            if (ids[k] <= 3)
                assert_int_equal(document[k], ids[k] - 1);
            seen[document[k]] += ids[k] <= 3;
        }
    }
    assert_int_equal(seen[0], 21);
    assert_int_equal(seen[1], 40);
    assert_in_range(seen[2], 32, 33); /* an odd one is dropped */
    qsae_corpus_close(&c);
    qsae_tokenizer_close(&t);
}

static void test_packing_refused(void **state)
{
    static const char no_eos[] =
        "{\"added_tokens\":[{\"id\":0,\"content\":\"<s>\",\"special\":true,\"normalized\":false}],"
        "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1},\"merges\":[]}}";
    qsae_corpus_settings s = settings(QSAE_BOS_DOC_START, 4);
    qsae_tokenizer *t = NULL;
    qsae_corpus *c = NULL;

    (void)state;
    test_write("p.txt", "a cat sat down on a dog");
    s.pack = QSAE_PACK_TL;
    refused("p.txt", &s, QSAE_EINVAL, "pack tl: expected BOS policy chunk_start or none, found "
            "doc_start");
    s.bos_policy = QSAE_BOS_NONE;
    refused("p.txt", &s, QSAE_EINVAL, "pack tl and keep_tail");
    s.keep_tail = 0;
    s.stride = 2;
    s.pack = QSAE_PACK_SAELENS;
    refused("p.txt", &s, QSAE_EINVAL, "pack saelens and stride");
    s.stride = 0;
    s.cross_labels = 1;
    refused("p.txt", &s, QSAE_EINVAL, "pack saelens and cross_labels");
    s.cross_labels = 0;
    s.pack = 5;
    refused("p.txt", &s, QSAE_EINVAL, "pack 5");
    s.pack = QSAE_PACK_TL2;
    s.format = QSAE_TEXT_IDS;
    refused("p.txt", &s, QSAE_EINVAL, "p.txt: pack tl2: expected text, found token ids");
    s.format = QSAE_TEXT_DEFAULT;
    s.pack = QSAE_PACK_TL;
    test_write("tokenizer_config.json", "{\"bos_token\":\"<s>\"}");
    assert_int_equal(test_open(no_eos, &t), QSAE_OK);
    assert_int_equal(qsae_corpus_open(test_ctx, t, test_path("p.txt"), &s, &c), QSAE_EINVAL);
    assert_true(test_message("pack tl: the tokenizer has no EOS token"));
    qsae_tokenizer_close(&t);
    for (int32_t i = 1; i <= 4; i++)
        assert_int_equal(qsae_pack_from_name(qsae_pack_name(i)), i);
    assert_null(qsae_pack_name(0));
    assert_null(qsae_pack_name(5));
    assert_int_equal(qsae_pack_from_name("default"), 0);
    assert_int_equal(qsae_pack_from_name("x"), -1);
    assert_int_equal(qsae_pack_from_name(NULL), -1);
}

const struct CMUnitTest selection_tests[] = {
    cmocka_unit_test(test_where),    cmocka_unit_test(test_where_refused),
    cmocka_unit_test(test_range),    cmocka_unit_test(test_metadata),
    cmocka_unit_test(test_other_files), cmocka_unit_test(test_long_line),
    cmocka_unit_test(test_dense_line),
    cmocka_unit_test(test_packing),     cmocka_unit_test(test_pieces),
    cmocka_unit_test(test_packing_refused),
};
const size_t n_selection_tests = sizeof selection_tests / sizeof *selection_tests;
