/* SPDX-License-Identifier: BSD-2-Clause */
#include "text_test.h"

#include <sys/stat.h>

#ifdef QSAE_HAVE_ZSTD
#include <zstd.h>
#endif

#define STORIES QSAE_TEST_SHARED "/data/stories260k"

/* One token per letter; "<s>" is BOS where tokenizer_config.json says so. */
static const char letters[] =
    "{\"added_tokens\":[{\"id\":0,\"content\":\"<s>\",\"special\":true,\"normalized\":false}],"
    "\"model\":{\"type\":\"BPE\",\"vocab\":"
    "{\"a\":1,\"b\":2,\"c\":3,\"d\":4,\"e\":5,\"f\":6,\"g\":7,\" \":8},\"merges\":[]}}";

static qsae_tokenizer *open_letters(bool bos)
{
    qsae_tokenizer *t = NULL;

    if (bos)
        test_write("tokenizer_config.json", "{\"bos_token\":\"<s>\"}");
    else
        remove(test_path("tokenizer_config.json"));
    if (test_open(letters, &t) != QSAE_OK)
        fail_msg("%s", qsae_error_message());
    return t;
}

/* One character per id, 's' for BOS; chunks separated by '|'. '.' is -100. */
static void show(const qsae_corpus *c, char *ids, char *labels, char *documents)
{
    qsae_corpus_info info = { .struct_size = sizeof info };

    assert_int_equal(qsae_corpus_get_info(c, &info), QSAE_OK);
    for (int64_t chunk = 0; chunk < info.chunks; chunk++) {
        const int32_t *id, *label;
        const int64_t *document;
        int64_t n = 0;
        assert_int_equal(qsae_corpus_chunk(c, chunk, &id, &label, &document, &n), QSAE_OK);
        for (int64_t i = 0; i < n; i++) {
            *ids++ = "sabcdefg "[id[i]];
            *labels++ = label[i] == -100 ? '.' : "sabcdefg "[label[i]];
            *documents++ = (char)('0' + document[i]);
        }
        *ids++ = *labels++ = *documents++ = '|';
    }
    *ids = *labels = *documents = '\0';
}

static void pack(const char *name, const qsae_corpus_settings *s, bool bos, const char *ids,
                 const char *labels, const char *documents)
{
    qsae_tokenizer *t = open_letters(bos);
    qsae_corpus *c = NULL;
    char got[3][256];

    if (qsae_corpus_open(test_ctx, t, test_path(name), s, &c) != QSAE_OK)
        fail_msg("%s", qsae_error_message());
    qsae_tokenizer_close(&t);
    show(c, got[0], got[1], got[2]);
    assert_string_equal(got[0], ids);
    assert_string_equal(got[1], labels);
    assert_string_equal(got[2], documents);
    qsae_corpus_close(&c);
}

static qsae_corpus_settings settings(int32_t policy, int64_t context)
{
    qsae_corpus_settings s;

    qsae_corpus_settings_init(&s, sizeof s);
    s.bos_policy = policy;
    s.context = context;
    return s;
}

static void test_policies(void **state)
{
    qsae_corpus_settings s = settings(QSAE_BOS_NONE, 3);

    (void)state;
    /* Surrounding space goes, empty documents too, a BOS in the text stays one. */
    test_write("t.txt", "  abc\n<|endoftext|> \t<|endoftext|><s>d\xc2\xa0<|endoftext|>efg a\n");
    pack("t.txt", &s, true, "abc|sde|fg |", "bc.|de.|g .|", "000|112|222|");
    s.keep_tail = 1;
    pack("t.txt", &s, true, "abc|sde|fg |a|", "bc.|de.|g .|.|", "000|112|222|2|");
    s.cross_labels = 1;
    pack("t.txt", &s, true, "abc|sde|fg |a|", "bcs|def|g a|.|", "000|112|222|2|");
    s.keep_tail = 0;
    pack("t.txt", &s, true, "abc|sde|fg |", "bcs|def|g a|", "000|112|222|");
    s = settings(QSAE_BOS_DOC_START, 4);
    pack("t.txt", &s, true, "sabc|sdse|fg a|", "abc.|dse.|g a.|", "0000|1122|2222|");
    s = settings(QSAE_BOS_STREAM_START, 4);
    pack("t.txt", &s, true, "sabc|sdef|", "abc.|def.|", "0000|1122|");
    s.cross_labels = 1;
    pack("t.txt", &s, true, "sabc|sdef|", "abcs|defg|", "0000|1122|");
    s = settings(QSAE_BOS_CHUNK_START, 4);
    pack("t.txt", &s, true, "sabc|ssde|sfg |", "abc.|sde.|fg .|", "0000|1112|2222|");
    s.cross_labels = s.keep_tail = 1;
    pack("t.txt", &s, true, "sabc|ssde|sfg |sa|", "abcs|sdef|fg a|a.|", "0000|1112|2222|22|");
    s = settings(QSAE_BOS_DEFAULT, 4);
    pack("t.txt", &s, true, "sabc|ssde|sfg |", "abc.|sde.|fg .|", "0000|1112|2222|");
    pack("t.txt", &s, false, "abcs|defg|", "bcs.|efg.|", "0001|1222|");
}

static void test_max_tokens(void **state)
{
    qsae_corpus_settings s = settings(QSAE_BOS_NONE, 3);
    qsae_tokenizer *t = open_letters(true);
    qsae_corpus *c = NULL;
    qsae_corpus_info info = { .struct_size = sizeof info };

    (void)state;
    test_write("m.txt", "ab|cd|ef|gab");
    s.separator = "|";
    s.max_tokens = 4; /* two chunks, full with the third document */
    assert_int_equal(qsae_corpus_open(test_ctx, t, test_path("m.txt"), &s, &c), QSAE_OK);
    assert_int_equal(qsae_corpus_get_info(c, &info), QSAE_OK);
    assert_int_equal(info.tokens, 6);
    assert_int_equal(info.stream_tokens, 6);
    assert_int_equal(info.documents, 3);
    assert_int_equal(info.chunks, 2);
    assert_int_equal(info.predicted_tokens, 4);
    qsae_corpus_close(&c);
    s.cross_labels = 1; /* the last label lies in the next document */
    assert_int_equal(qsae_corpus_open(test_ctx, t, test_path("m.txt"), &s, &c), QSAE_OK);
    assert_int_equal(qsae_corpus_get_info(c, &info), QSAE_OK);
    assert_int_equal(info.documents, 4);
    assert_int_equal(info.predicted_tokens, 6);
    qsae_corpus_close(&c);
    s.max_tokens = 1000;
    s.cross_labels = 0;
    s.keep_tail = 1;
    assert_int_equal(qsae_corpus_open(test_ctx, t, test_path("m.txt"), &s, &c), QSAE_OK);
    assert_int_equal(qsae_corpus_get_info(c, &info), QSAE_OK);
    assert_int_equal(info.tokens, 9);
    qsae_corpus_close(&c);
    qsae_tokenizer_close(&t);
}

/* Windows: each id of the stream but the first is a label once, where most of them come before. */
static void test_windows(void **state)
{
    qsae_corpus_settings s = settings(QSAE_BOS_NONE, 4);

    (void)state;
    test_write("w.txt", "abcdefga");
    s.stride = 2;
    pack("w.txt", &s, true, "abcd|cdef|efga|", "bcd.|.ef.|.ga.|", "0000|0000|0000|");
    s.stride = 1;
    pack("w.txt", &s, true, "abcd|bcde|cdef|defg|efga|", "bcd.|..e.|..f.|..g.|..a.|",
         "0000|0000|0000|0000|0000|");
    s.stride = 3; /* the last is shorter */
    pack("w.txt", &s, true, "abcd|defg|ga|", "bcd.|efg.|a.|", "0000|0000|00|");
    s.stride = 4;
    pack("w.txt", &s, true, "abcd|efga|", "bcd.|fga.|", "0000|0000|");
    s.context = 100; /* longer than the text */
    pack("w.txt", &s, true, "abcdefga|", "bcdefga.|", "00000000|");
    s = settings(QSAE_BOS_CHUNK_START, 4);
    s.stride = 2;
    pack("w.txt", &s, true, "sabc|scde|sefg|sga|", "abc.|.de.|.fg.|.a.|", "0000|0000|0000|000|");
    s.max_tokens = 4; /* of the text */
    pack("w.txt", &s, true, "sabc|scde|", "abc.|.de.|", "0000|0000|");
    s = settings(QSAE_BOS_STREAM_START, 4);
    s.stride = 2;
    s.score_from = 1;
    pack("w.txt", &s, true, "sabc|bcde|defg|fga|", ".bc.|.de.|.fg.|.a.|", "0000|0000|0000|000|");
    s = settings(QSAE_BOS_CHUNK_REPLACE, 4);
    s.score_from = 2;
    pack("w.txt", &s, true, "sabc|sefg|", "..c.|..g.|", "0000|0000|");
    s.score_from = 0;
    s.cross_labels = 1;
    pack("w.txt", &s, true, "sabc|sefg|", "abcd|efga|", "0000|0000|");
}

static void test_windows_refused(void **state)
{
    const struct {
        int64_t stride, score_from;
        int32_t policy, cross_labels;
        const char *part;
    } cases[] = {
        { 5, 0, QSAE_BOS_NONE, 0, "stride 5: expected 1..4" },
        { 4, 0, QSAE_BOS_CHUNK_START, 0, "stride 4: expected 1..3" },
        { -1, 0, QSAE_BOS_NONE, 0, "stride -1" },
        { 2, 0, QSAE_BOS_NONE, 1, "cross_labels" },
        { 0, 3, QSAE_BOS_NONE, 0, "score_from 3: expected 0..2" },
        { 0, -1, QSAE_BOS_NONE, 0, "score_from -1" },
    };
    qsae_tokenizer *t = open_letters(true);

    (void)state;
    test_write("w.txt", "abcdefga");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qsae_corpus_settings s = settings(cases[i].policy, 4);
        qsae_corpus *c = NULL;
        s.stride = cases[i].stride;
        s.score_from = cases[i].score_from;
        s.cross_labels = cases[i].cross_labels;
        assert_int_equal(qsae_corpus_open(test_ctx, t, test_path("w.txt"), &s, &c), QSAE_EINVAL);
        assert_true(test_message(cases[i].part));
    }
    qsae_tokenizer_close(&t);
}

/* Bytes and words of the labels: each document's first token and each run of white space. */
static void test_extents(void **state)
{
    const struct {
        int64_t context, stride, bytes, words;
        int32_t policy;
    } cases[] = {
        { 100, 100, 13, 6, QSAE_BOS_STREAM_START }, /* re.split: 3 words and 3 */
        { 100, 100, 13, 6, QSAE_BOS_DOC_START },
        { 100, 100, 12, 5, QSAE_BOS_NONE },         /* the first is no label */
        { 4, 2, 13, 6, QSAE_BOS_STREAM_START },
        { 4, 4, 10, 5, QSAE_BOS_STREAM_START },     /* not: "c", a "d" and a space */
    };
    qsae_tokenizer *t = open_letters(true);

    (void)state;
    test_write("e.txt", "ab c  dd|e f g");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qsae_corpus_settings s = settings(cases[i].policy, cases[i].context);
        qsae_corpus_info info = { .struct_size = sizeof info };
        qsae_corpus *c = NULL;
        s.stride = cases[i].stride;
        s.separator = "|";
        assert_int_equal(qsae_corpus_open(test_ctx, t, test_path("e.txt"), &s, &c), QSAE_OK);
        assert_int_equal(qsae_corpus_get_info(c, &info), QSAE_OK);
        assert_int_equal(info.scored_bytes, cases[i].bytes);
        assert_int_equal(info.scored_words, cases[i].words);
        qsae_corpus_close(&c);
    }
    qsae_tokenizer_close(&t);
}

static void test_jsonl(void **state)
{
    static const char lines[] =
        "{\"text\": \" ab\\n\", \"meta\": {\"pile_set_name\": \"Pile-CC\"}, \"n\": 1}\r\n"
        "\n"
        "  {\"text\":\"\",\"x\":2}\n"
        "{\"text\":\"cd\"}\n"
        "{\"id\":\"q\\u0000\",\"text\":\"ef\\u0020g\"}";
    qsae_corpus_settings s = settings(QSAE_BOS_NONE, 2);
    qsae_tokenizer *t = open_letters(true);
    qsae_document_info d = { .struct_size = sizeof d };
    qsae_corpus *c = NULL;

    (void)state;
    test_write("t.jsonl", lines);
    s.keep_tail = 1;
    if (qsae_corpus_open(test_ctx, t, test_path("t.jsonl"), &s, &c) != QSAE_OK)
        fail_msg("%s", qsae_error_message());
    assert_int_equal(qsae_corpus_document(c, 0, &d), QSAE_OK);
    assert_int_equal(d.first_token, 0);
    assert_int_equal(d.n_tokens, 3); /* JSON text is taken as it is; "\n" is in no token */
    assert_int_equal(d.line, 1);
    assert_string_equal(d.source, test_path("t.jsonl"));
    assert_string_equal(d.metadata, "{\"meta\":{\"pile_set_name\":\"Pile-CC\"},\"n\":1}");
    assert_int_equal(qsae_corpus_document(c, 1, &d), QSAE_OK);
    assert_int_equal(d.line, 4);
    assert_string_equal(d.metadata, "{}");
    assert_int_equal(qsae_corpus_document(c, 2, &d), QSAE_OK);
    assert_int_equal(d.first_token, 5);
    assert_int_equal(d.n_tokens, 4);
    assert_string_equal(d.metadata, "{\"id\":\"q\\u0000\"}");
    assert_int_equal(qsae_corpus_document(c, 3, &d), QSAE_EINVAL);
    assert_int_equal(qsae_corpus_document(c, -1, &d), QSAE_EINVAL);
    qsae_corpus_close(&c);
    s.text_field = "id";
    s.format = QSAE_TEXT_JSONL;
    test_write("x.txt", "{\"id\":\"abcd\",\"text\":[]}\n");
    assert_int_equal(qsae_corpus_open(test_ctx, t, test_path("x.txt"), &s, &c), QSAE_OK);
    assert_int_equal(qsae_corpus_document(c, 0, &d), QSAE_OK);
    assert_string_equal(d.metadata, "{\"text\":[]}");
    qsae_corpus_close(&c);
    qsae_tokenizer_close(&t);
}

static void refused(const qsae_tokenizer *t, const char *name, const char *text, size_t size,
                    const qsae_corpus_settings *s, int32_t status, const char *part)
{
    qsae_corpus *c = (qsae_corpus *)&size;
    int32_t got;

    if (text != NULL)
        test_write_bytes(name, text, size);
    got = qsae_corpus_open(test_ctx, (qsae_tokenizer *)(uintptr_t)t, test_path(name), s, &c);
    if (got != status)
        fail_msg("%s: %s, expected %s (%s)", name, qsae_status_name(got), qsae_status_name(status),
                 qsae_error_message());
    assert_null(c);
    assert_true(test_message(part));
}

#define REFUSED(name, text, status, part) refused(t, name, text, strlen(text), &s, status, part)

static void test_refused(void **state)
{
    qsae_corpus_settings s = settings(QSAE_BOS_NONE, 2);
    qsae_tokenizer *t = open_letters(false);

    (void)state;
    REFUSED("r.jsonl", "{\"text\":\"abc\"}\n[1]\n", QSAE_EFORMAT, "r.jsonl:2: expected object");
    REFUSED("r.jsonl", "\n\n{\"text\":\"abc\"", QSAE_EFORMAT, "r.jsonl:3:");
    REFUSED("r.jsonl", "{\"txt\":\"abc\"}\n", QSAE_EFORMAT, "r.jsonl:1: key \"text\"");
    REFUSED("r.jsonl", "{\"text\":7}\n", QSAE_EFORMAT, "expected string, found integer");
    REFUSED("r.jsonl", "{\"text\":null}\n", QSAE_EFORMAT, "expected string, found null");
    REFUSED("r.jsonl", "{\"text\":\"a\",\"text\":\"b\"}\n", QSAE_EFORMAT, "duplicate");
    REFUSED("r.jsonl", "{\"text\":\"a\xff\"}\n", QSAE_EFORMAT, "UTF-8");
    REFUSED("r.jsonl", "{\"text\":\"abc\"} {\"text\":\"d\"}\n", QSAE_EFORMAT, "r.jsonl:1");
    REFUSED("r.jsonl", "{\"text\":\"\"}\n\n", QSAE_EINVAL, "no document");
    REFUSED("r.txt", "abc<|endoftext|>d\xff", QSAE_EFORMAT, "r.txt: document 2: text is not UTF-8");
    REFUSED("r.txt", "", QSAE_EINVAL, "no document");
    REFUSED("r.txt", " \n <|endoftext|>", QSAE_EINVAL, "no document");
    REFUSED("r.txt", "a", QSAE_EINVAL, "less than one chunk");
    REFUSED("r.txt.gz", "x", QSAE_EUNSUPPORTED, "compressed");
#ifndef QSAE_HAVE_ZSTD
    REFUSED("r.txt.zst", "(\xb5/\xfd", QSAE_EUNSUPPORTED, "zstd");
#endif
    refused(t, "absent", NULL, 0, &s, QSAE_ENOENT, "absent");
    s.context = 1;
    REFUSED("r.txt", "abc", QSAE_EINVAL, "context");
    s = settings(QSAE_BOS_DOC_START, 2);
    REFUSED("r.txt", "abc", QSAE_EINVAL, "no BOS");
    s = settings(9, 2);
    REFUSED("r.txt", "abc", QSAE_EINVAL, "bos_policy");
    s = settings(QSAE_BOS_NONE, 2);
    s.format = 9;
    REFUSED("r.txt", "abc", QSAE_EINVAL, "format");
    s = settings(QSAE_BOS_NONE, 2);
    s.max_tokens = -1;
    REFUSED("r.txt", "abc", QSAE_EINVAL, "max_tokens");
    s = settings(QSAE_BOS_NONE, 2);
    s.struct_size = 1;
    REFUSED("r.txt", "abc", QSAE_EINVAL, "struct_size");
    assert_int_equal(qsae_corpus_open(test_ctx, NULL, "x", NULL, &(qsae_corpus *){ NULL }),
                     QSAE_EINVAL);
    assert_int_equal(qsae_corpus_open(NULL, t, "x", NULL, &(qsae_corpus *){ NULL }), QSAE_EINVAL);
    assert_int_equal(qsae_corpus_open(test_ctx, t, "x", NULL, NULL), QSAE_EINVAL);
    qsae_tokenizer_close(&t);
}

static void test_folder_input(void **state)
{
    qsae_corpus_settings s = settings(QSAE_BOS_NONE, 7);

    (void)state;
    assert_int_equal(mkdir(test_path("texts"), 0700), 0);
    test_write("texts/b.txt", "cd");
    test_write("texts/a.txt", "ab<|endoftext|>c");
    test_write("texts/c.jsonl", "{\"text\":\"ef\"}");
    pack("texts", &s, true, "abccdef|", "bccdef.|", "0012233|");
}

static int32_t count_progress(void *cookie, int64_t done, int64_t total, const char *unit,
                              const char *phase)
{
    int *calls = cookie;

    assert_true(done >= 0 && done <= total);
    assert_string_equal(unit, "bytes");
    assert_string_equal(phase, "tokenize");
    return ++*calls == 3 ? 77 : 0;
}

static void test_progress_and_cancel(void **state)
{
    qsae_corpus_settings s = settings(QSAE_BOS_NONE, 2);
    qsae_tokenizer *t = open_letters(true);
    qsae_corpus *c = NULL;
    char text[4001];
    int calls = 0;

    (void)state;
    for (int i = 0; i < 2000; i++)
        memcpy(text + 2 * i, "a|", 3);
    test_write("p.txt", text);
    s.separator = "|";
    s.progress = count_progress;
    s.progress_cookie = &calls;
    assert_int_equal(qsae_corpus_open(test_ctx, t, test_path("p.txt"), &s, &c), 77);
    assert_null(c);
    assert_int_equal(calls, 3);
    s.progress = NULL;
    assert_int_equal(qsae_cancel_token_open(&s.cancel), QSAE_OK);
    assert_int_equal(qsae_corpus_open(test_ctx, t, test_path("p.txt"), &s, &c), QSAE_OK);
    qsae_corpus_close(&c);
    qsae_cancel_token_cancel(s.cancel);
    assert_int_equal(qsae_corpus_open(test_ctx, t, test_path("p.txt"), &s, &c), QSAE_ECANCELED);
    assert_null(c);
    qsae_cancel_token_close(&s.cancel);
    qsae_tokenizer_close(&t);
}

static void test_open_ids(void **state)
{
    static const int32_t ids[] = { 5, 6, 7, 8, 9, 10 };
    qsae_corpus_info info = { .struct_size = sizeof info };
    qsae_document_info d = { .struct_size = sizeof d };
    const int32_t *id, *label;
    const int64_t *document;
    int64_t n;
    qsae_corpus *c = NULL;

    (void)state;
    assert_int_equal(qsae_corpus_open_ids(test_ctx, ids, 2, 3, &c), QSAE_OK);
    assert_int_equal(qsae_corpus_get_info(c, &info), QSAE_OK);
    assert_int_equal(info.tokens, 6);
    assert_int_equal(info.predicted_tokens, 4);
    assert_int_equal(info.documents, 2);
    assert_int_equal(qsae_corpus_chunk(c, 1, &id, &label, &document, &n), QSAE_OK);
    assert_true(n == 3 && id[0] == 8 && label[1] == 10 && label[2] == -100 && document[0] == 1);
    assert_int_equal(qsae_corpus_chunk(c, 1, NULL, NULL, NULL, NULL), QSAE_OK);
    assert_int_equal(qsae_corpus_chunk(c, 2, &id, &label, &document, &n), QSAE_EINVAL);
    assert_int_equal(qsae_corpus_chunk(c, -1, &id, &label, &document, &n), QSAE_EINVAL);
    assert_int_equal(qsae_corpus_document(c, 1, &d), QSAE_OK);
    assert_true(d.first_token == 3 && d.n_tokens == 3 && d.source[0] == '\0');
    qsae_corpus_close(&c);
    assert_int_equal(qsae_corpus_open_ids(test_ctx, ids, 0, 3, &c), QSAE_EINVAL);
    assert_int_equal(qsae_corpus_open_ids(test_ctx, ids, 3, 1, &c), QSAE_EINVAL);
    assert_int_equal(qsae_corpus_open_ids(test_ctx, NULL, 2, 3, &c), QSAE_EINVAL);
    assert_int_equal(qsae_corpus_open_ids(test_ctx, ids, INT64_MAX / 2, 3, &c), QSAE_EOVERFLOW);
    assert_int_equal(qsae_corpus_open_ids(test_ctx, (const int32_t[]){ 1, -1 }, 1, 2, &c),
                     QSAE_EINVAL);
    assert_null(c);
}

static void test_names(void **state)
{
    (void)state;
    for (int32_t i = QSAE_BOS_NONE; i <= QSAE_BOS_CHUNK_REPLACE; i++)
        assert_int_equal(qsae_bos_from_name(qsae_bos_name(i)), i);
    assert_int_equal(qsae_bos_from_name("default"), 0);
    assert_int_equal(qsae_bos_from_name("x"), -1);
    assert_int_equal(qsae_bos_from_name(NULL), -1);
    assert_null(qsae_bos_name(0));
    assert_null(qsae_bos_name(6));
}

/* The whole recipe on real text. The hash belongs to ids whose SHA-256 is that of golden.json
 * (corpus.sha256_ids_u32le). */
static void test_stories(void **state)
{
    qsae_corpus_settings s = settings(QSAE_BOS_DOC_START, 0);
    qsae_tokenizer *t = NULL;
    qsae_corpus *c = NULL;
    qsae_corpus_info info = { .struct_size = sizeof info };

    (void)state;
    if (!qsae__folder_exists(STORIES)) {
        print_message("skipped: %s is absent\n", STORIES);
        skip();
    }
    assert_int_equal(qsae_tokenizer_open(test_ctx, STORIES, &t), QSAE_OK);
    assert_int_equal(qsae_corpus_open(test_ctx, t, STORIES "/tinystories-valid.txt", &s, &c),
                     QSAE_OK);
    assert_int_equal(qsae_corpus_get_info(c, &info), QSAE_OK);
    assert_int_equal(info.documents, 133);
    assert_int_equal(info.stream_tokens, 44239);
    assert_int_equal(info.tokens, 44032);
    assert_int_equal(info.chunks, 86);
    assert_int_equal(info.context, 512);
    assert_int_equal(info.predicted_tokens, 43946);
    assert_string_equal(info.token_hash, "a6a243202435a55d74544fff57b31ae2");
    qsae_corpus_close(&c);
    s.keep_tail = s.cross_labels = 1;
    assert_int_equal(qsae_corpus_open(test_ctx, t, STORIES "/tinystories-valid.txt", &s, &c),
                     QSAE_OK);
    assert_int_equal(qsae_corpus_get_info(c, &info), QSAE_OK);
    assert_int_equal(info.predicted_tokens, 44238);
    qsae_corpus_close(&c);
    qsae_tokenizer_close(&t);
}

/* One thread and several give the same stream; the bundled text and tokenizer. */
static void test_threads(void **state)
{
    const char *folder = QSAE_TEST_EXAMPLES "/tiny-gemma3";
    char hash[4][33];

    (void)state;
    for (int32_t threads = 1; threads <= 4; threads++) {
        qsae_corpus_settings s = settings(QSAE_BOS_DEFAULT, 128);
        qsae_context_settings cs;
        qsae_context *ctx = NULL;
        qsae_tokenizer *t = NULL;
        qsae_corpus *c = NULL;
        qsae_corpus_info info = { .struct_size = sizeof info };
        qsae_context_settings_init(&cs, sizeof cs);
        cs.threads = threads;
        assert_int_equal(qsae__context_new(&cs, &ctx), QSAE_OK);
        if (qsae_tokenizer_open(ctx, folder, &t) != QSAE_OK ||
            qsae_corpus_open(ctx, t, QSAE_TEST_EXAMPLES "/eval.jsonl", &s, &c) != QSAE_OK)
            fail_msg("%s", qsae_error_message());
        qsae__context_unref(ctx);
        qsae_tokenizer_close(&t);
        assert_int_equal(qsae_corpus_get_info(c, &info), QSAE_OK);
        assert_int_equal(info.bos_policy, QSAE_BOS_CHUNK_START);
        strcpy(hash[threads - 1], info.token_hash);
        assert_string_equal(hash[threads - 1], hash[0]);
        qsae_corpus_close(&c);
    }
}

#ifdef QSAE_HAVE_ZSTD
static size_t frame(const char *text, size_t n, char *out, size_t size)
{
    const size_t got = ZSTD_compress(out, size, text, n, 3);

    assert_false(ZSTD_isError(got));
    return got;
}

/* The same documents with and without compression; several frames are one file. */
static void test_zstd(void **state)
{
    static const char one[] = "{\"text\":\"abc\",\"n\":1}\n{\"te", two[] = "xt\":\"defg\"}\n";
    qsae_corpus_settings s = settings(QSAE_BOS_NONE, 7);
    char data[512];
    size_t n = frame(one, strlen(one), data, sizeof data);

    (void)state;
    n += frame(two, strlen(two), data + n, sizeof data - n);
    test_write_bytes("z.jsonl.zst", data, n);
    pack("z.jsonl.zst", &s, true, "abcdefg|", "bcdefg.|", "0001111|");
    n = frame("ab <|endoftext|>cdefg", 21, data, sizeof data);
    test_write_bytes("z.txt.zst", data, n);
    pack("z.txt.zst", &s, true, "abcdefg|", "bcdefg.|", "0011111|");
    s.format = QSAE_TEXT_JSONL;
    n = frame("{\"text\":\"abcdefg\"}", 18, data, sizeof data);
    test_write_bytes("z.zst", data, n);
    pack("z.zst", &s, true, "abcdefg|", "bcdefg.|", "0000000|");
}

static void test_zstd_refused(void **state)
{
    enum { MANY = 100 << 20 };
    qsae_corpus_settings s = settings(QSAE_BOS_NONE, 2);
    qsae_tokenizer *t = open_letters(true);
    char data[512], *many = calloc(1, MANY), *packed = malloc(ZSTD_compressBound(MANY));
    const size_t n = frame("abcdefgabcdefgabcdefg", 21, data, sizeof data);

    (void)state;
    assert_non_null(many);
    assert_non_null(packed);
    for (size_t i = 0; i < n; i++) /* whatever is left of a frame */
        refused(t, "z.txt.zst", data, i, &s, QSAE_EFORMAT, "z.txt.zst: expected Zstandard data");
    refused(t, "z.txt.zst", "plain text", 10, &s, QSAE_EFORMAT, "Unknown frame descriptor");
    refused(t, "z.txt.zst", packed, frame(many, MANY, packed, ZSTD_compressBound(MANY)), &s,
            QSAE_EFORMAT, "found 104857600");
    free(many);
    free(packed);
    qsae_tokenizer_close(&t);
}
#endif

const struct CMUnitTest corpus_tests[] = {
    cmocka_unit_test(test_policies),
    cmocka_unit_test(test_max_tokens),
    cmocka_unit_test(test_windows),
    cmocka_unit_test(test_windows_refused),
    cmocka_unit_test(test_extents),
    cmocka_unit_test(test_jsonl),
#ifdef QSAE_HAVE_ZSTD
    cmocka_unit_test(test_zstd),
    cmocka_unit_test(test_zstd_refused),
#endif
    cmocka_unit_test(test_refused),
    cmocka_unit_test(test_folder_input),
    cmocka_unit_test(test_progress_and_cancel),
    cmocka_unit_test(test_open_ids),
    cmocka_unit_test(test_names),
    cmocka_unit_test(test_stories),
    cmocka_unit_test(test_threads),
};
const size_t n_corpus_tests = sizeof corpus_tests / sizeof *corpus_tests;
