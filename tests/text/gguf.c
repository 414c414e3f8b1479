/* SPDX-License-Identifier: BSD-2-Clause */
/* Tokenizers in GGUF files, written here; ids of real ones are those of fixtures.c. */
#include <sys/stat.h>

#include "gguf_file.h"

static void expect(const qsae_tokenizer *t, const char *text, int32_t special, int64_t n,
                   const int32_t *ids)
{
    int32_t got[64];
    int64_t n_got = 0;

    if (qsae_tokenizer_encode(t, text, strlen(text), special, got, 64, &n_got) != QSAE_OK)
        fail_msg("\"%s\": %s", text, qsae_error_message());
    if (n_got != n || memcmp(got, ids, (size_t)n * sizeof *ids) != 0) {
        for (int64_t i = 0; i < n_got; i++)
            print_error("%d ", got[i]);
        fail_msg("\"%s\": other ids than expected", text);
    }
}

#define EXPECT(t, text, special, ...) \
    do { \
        static const int32_t ids_[] = { __VA_ARGS__ }; \
        expect(t, text, special, LEN(ids_), ids_); \
    } while (0)

static qsae_tokenizer *open_ok(const struct gguf_spec *s)
{
    qsae_tokenizer *t = NULL;

    if (gguf_open(s, &t) != QSAE_OK)
        fail_msg("%s", qsae_error_message());
    return t;
}

static void test_pieces(void **state)
{
    struct gguf_spec s = gguf_base();
    qsae_tokenizer *t = open_ok(&s);
    qsae_tokenizer_info info = { .struct_size = sizeof info };
    const char *bytes = NULL;
    size_t size = 0;

    (void)state;
    EXPECT(t, "ab", 0, 7, 8);
    EXPECT(t, "aabc", 1, 1, 11, 10);            /* "bc", then "abc" before the mark and "a" */
    EXPECT(t, "a<s>a  b", 0, 11, 1, 11, 13, 7, 5); /* a prefix after every added token */
    EXPECT(t, "<u>A\xc3\xa9", 0, 12, 7, 3, 14, 15);
    EXPECT(t, "xax", 0, 7, 16, 0);               /* "x" is only inside a token; no byte: unknown */
    EXPECT(t, "z", 0, 7, 0);
    expect(t, "", 0, 0, (const int32_t[1]){ 0 });
    assert_int_equal(qsae_tokenizer_get_info(t, &info), QSAE_OK);
    assert_int_equal(info.vocab, N_PIECES);
    assert_true(info.bos == 1 && info.eos == 2 && info.unk == 0 && info.pad == -1);
    assert_true(info.adds_bos == 1 && info.adds_eos == 0);
    assert_int_equal(qsae_tokenizer_token(t, 11, &bytes, &size), QSAE_OK);
    assert_true(size == 2 && memcmp(bytes, " a", 2) == 0);
    assert_int_equal(qsae_tokenizer_token(t, 15, &bytes, &size), QSAE_OK);
    assert_true(size == 1 && *bytes == '\xa9');
    assert_int_equal(qsae_tokenizer_token(t, 18, &bytes, &size), QSAE_OK);
    assert_true(size == 6 && memcmp(bytes, "<turn>", 6) == 0);
    assert_int_equal(qsae_tokenizer_token(t, N_PIECES, &bytes, &size), QSAE_ENOENT);
    assert_true(qsae_tokenizer_is_special(t, 18) && !qsae_tokenizer_is_special(t, 12));
    qsae_tokenizer_close(&t);
    s.prefix = 0;
    s.add_bos = 0;
    s.add_eos = 1;
    s.pad = 4000000000; /* beyond the vocabulary, as files in use have it */
    t = open_ok(&s);
    EXPECT(t, "abc a", 1, 10, 11, 2);
    assert_int_equal(qsae_tokenizer_get_info(t, &info), QSAE_OK);
    assert_true(info.adds_bos == 0 && info.adds_eos == 1 && info.pad == -1);
    qsae_tokenizer_close(&t);
    s = gguf_base();
    s.scores = NULL;
    s.bos = s.eos = s.unk = -1; /* 1, 2, 0 */
    t = open_ok(&s);
    EXPECT(t, "abc", 1, 1, 11, 9); /* leftmost */
    qsae_tokenizer_close(&t);
}

static void test_bytes(void **state)
{
    struct gguf_spec s = gguf_byte_base();
    qsae_tokenizer *t = open_ok(&s);
    qsae_tokenizer_info info = { .struct_size = sizeof info };

    (void)state;
    EXPECT(t, "abc a", 0, 5, 6);
    EXPECT(t, "abc<end>z'S", 1, 7, 5, 7, 10); /* BOS by the pre-tokenizer; "z" is no token */
    assert_int_equal(qsae_tokenizer_get_info(t, &info), QSAE_OK);
    assert_true(info.adds_bos == 1 && info.unk == -1);
    qsae_tokenizer_close(&t);
    s.pre = "gpt-2";
    t = open_ok(&s);
    EXPECT(t, "abc'S", 1, 5, 8, 9);
    qsae_tokenizer_close(&t);
    s.add_eos = 1;
    t = open_ok(&s);
    EXPECT(t, "abc", 1, 5, 7);
    assert_int_equal(qsae_tokenizer_get_info(t, &info), QSAE_OK);
    assert_true(info.adds_eos == 1 && info.eos == 7);
    qsae_tokenizer_close(&t);
    s.add_eos = -1;
    s.bos = s.eos = -1;
    s.pre = "llama3"; /* a BOS is asked for, but the file names none */
    t = open_ok(&s);
    EXPECT(t, "b", 1, 1);
    assert_int_equal(qsae_tokenizer_get_info(t, &info), QSAE_OK);
    assert_true(info.adds_bos == 0 && info.bos == -1 && info.eos == -1);
    qsae_tokenizer_close(&t);
}

/* Phi 3's special tokens take the white space behind them. */
static void test_name(void **state)
{
    struct gguf_spec s = gguf_base();
    qsae_tokenizer *t;

    (void)state;
    s.name = "Phi-3-mini";
    t = open_ok(&s);
    EXPECT(t, "<turn> \n a<s> a", 0, 18, 11, 1, 7, 11);
    qsae_tokenizer_close(&t);
    s.name = "Phi-2";
    t = open_ok(&s);
    EXPECT(t, "<turn> a", 0, 18, 7, 11);
    qsae_tokenizer_close(&t);
}

static void test_folders(void **state)
{
    static const char json[] = "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]}}";
    struct gguf_spec s = gguf_base();
    struct gguf_out o = { 0 };
    qsae_tokenizer *t = NULL;
    qsae_tokenizer_info info = { .struct_size = sizeof info };

    (void)state;
    gguf_make(&s, &o);
    mkdir(test_path("one"), 0777);
    assert_int_equal(qsae_tokenizer_open(test_ctx, test_path("one"), &t), QSAE_ENOENT);
    assert_true(test_message("tokenizer.json"));
    test_write_bytes("one/model.gguf", o.data, o.size);
    assert_int_equal(qsae_tokenizer_open(test_ctx, test_path("one"), &t), QSAE_OK);
    EXPECT(t, "abc", 0, 7, 10);
    qsae_tokenizer_close(&t);
    test_write("one/tokenizer.json", json); /* wins in a folder, not over the file itself */
    assert_int_equal(qsae_tokenizer_open(test_ctx, test_path("one"), &t), QSAE_OK);
    assert_int_equal(qsae_tokenizer_get_info(t, &info), QSAE_OK);
    assert_int_equal(info.vocab, 1);
    qsae_tokenizer_close(&t);
    assert_int_equal(qsae_tokenizer_open(test_ctx, test_path("one/model.gguf"), &t), QSAE_OK);
    EXPECT(t, "abc", 0, 7, 10);
    qsae_tokenizer_close(&t);
    mkdir(test_path("two"), 0777);
    test_write_bytes("two/a.gguf", o.data, o.size);
    test_write_bytes("two/b.gguf", o.data, o.size);
    assert_true(qsae_tokenizer_open(test_ctx, test_path("two"), &t) != QSAE_OK);
    assert_null(t);
    free(o.data);
}

static void hash_of(const struct gguf_spec *s, char hash[33])
{
    qsae_tokenizer *t = open_ok(s);
    qsae_tokenizer_info info = { .struct_size = sizeof info };

    assert_int_equal(qsae_tokenizer_get_info(t, &info), QSAE_OK);
    memcpy(hash, info.hash, 33);
    qsae_tokenizer_close(&t);
}

static void test_hash(void **state)
{
    float scores[N_PIECES];
    struct gguf_spec s = gguf_base();
    char first[33], other[33];

    (void)state;
    hash_of(&s, first);
    s.name = "another model";
    s.add_bos = s.prefix = 1; /* what it is anyway */
    hash_of(&s, other);
    assert_string_equal(first, other);
    s.prefix = 0;
    hash_of(&s, other);
    assert_string_not_equal(first, other);
    s = gguf_base();
    memcpy(scores, gguf_piece_scores, sizeof scores);
    scores[8] = -1;
    s.scores = scores;
    hash_of(&s, other);
    assert_string_not_equal(first, other);
}

static void compare(const qsae_tokenizer *a, const qsae_tokenizer *b, int32_t status,
                    const char *part)
{
    char why[200] = "?", little[4] = "?";
    const int32_t got = qsae__tokenizer_compare(a, b, why, sizeof why);

    if (got != status || (*part == '\0' ? *why != '\0' : strstr(why, part) == NULL))
        fail_msg("%s (%s), expected %s (%s)", qsae_status_name(got), why, qsae_status_name(status),
                 part);
    assert_int_equal(qsae__tokenizer_compare(a, b, little, sizeof little), status);
    assert_memory_equal(little, why, strlen(little));
    assert_true(strlen(little) <= 3);
    assert_int_equal(qsae__tokenizer_compare(a, b, NULL, 0), status);
}

static void compare_with(const qsae_tokenizer *a, const struct gguf_spec *s, int32_t status,
                         const char *part)
{
    qsae_tokenizer *b = open_ok(s);

    compare(a, b, status, part);
    qsae_tokenizer_close(&b);
}

static void test_compare(void **state)
{
    const char *tokens[N_PIECES + 1];
    int32_t types[N_PIECES + 1];
    float scores[N_PIECES + 1];
    struct gguf_spec s = gguf_base();
    qsae_tokenizer *a = open_ok(&s);

    (void)state;
    memcpy(tokens, gguf_pieces, sizeof gguf_pieces);
    memcpy(types, gguf_piece_types, sizeof gguf_piece_types);
    memcpy(scores, gguf_piece_scores, sizeof gguf_piece_scores);
    compare_with(a, &s, QSAE_OK, "");
    s.eos = 4;
    compare_with(a, &s, QSAE_OK, "EOS");
    s = gguf_base();
    s.bos = 4;
    compare_with(a, &s, QSAE_EMISMATCH, "BOS is token 1 in the first and 4 in the second");
    s = gguf_base();
    s.add_bos = 0;
    compare_with(a, &s, QSAE_EMISMATCH, "BOS is put in front of a text by the first only");
    s = gguf_base();
    s.unk = 5;
    compare_with(a, &s, QSAE_OK, "differ in: unknown token");
    s = gguf_base();
    s.prefix = 0;
    compare_with(a, &s, QSAE_EMISMATCH, "normalizer");
    s = gguf_base();
    s.tokens = tokens;
    s.types = types;
    s.scores = scores;
    scores[8] = -1;
    compare_with(a, &s, QSAE_EMISMATCH, "merges");
    scores[8] = gguf_piece_scores[8];
    types[12] = 3; /* special */
    compare_with(a, &s, QSAE_EMISMATCH, "added tokens");
    types[12] = gguf_piece_types[12];
    tokens[8] = "aa";
    compare_with(a, &s, QSAE_EMISMATCH, "token 8 is \"ab\" in the first and \"aa\" in the second");
    tokens[8] = gguf_pieces[8];
    tokens[s.n] = "more";
    scores[s.n] = -20;
    types[s.n] = 1;
    s.n = s.n_types = s.n_scores = s.n + 1;
    compare_with(a, &s, QSAE_EMISMATCH, "vocabulary size: 19 and 20; token 19, \"more\"");
    types[s.n - 1] = 5; /* a filler */
    compare_with(a, &s, QSAE_OK, "");
    assert_int_equal(qsae__tokenizer_compare(a, NULL, NULL, 0), QSAE_EINVAL);
    qsae_tokenizer_close(&a);
}

static json_t *load_json(const char *path)
{
    json_t *root = NULL;

    assert_int_equal(qsae__json_load(test_ctx, path, &root), QSAE_OK);
    return root;
}

/* The bundled tokenizer.json as a GGUF file: scores from merges, as SentencePiece has them. */
static void convert(const char *path)
{
    json_t *root = load_json(path);
    json_t *model = json_object_get(root, "model"), *vocab = json_object_get(model, "vocab");
    const json_t *merges = json_object_get(model, "merges"), *added;
    const int64_t n = (int64_t)json_object_size(vocab);
    const char **tokens = calloc((size_t)n, sizeof *tokens), *key;
    int32_t *types = calloc((size_t)n, sizeof *types);
    float *scores = calloc((size_t)n, sizeof *scores);
    struct gguf_spec s = gguf_base();
    struct gguf_out o = { 0 };
    json_t *id;
    size_t i;

    assert_true(tokens != NULL && types != NULL && scores != NULL);
    json_object_foreach(vocab, key, id) {
        const int64_t at = json_integer_value(id);
        tokens[at] = key;
        types[at] = strlen(key) == 6 && memcmp(key, "<0x", 3) == 0 ? 6 : 1;
        scores[at] = -1e6f;
    }
    added = json_object_get(root, "added_tokens");
    for (i = 0; i < json_array_size(added); i++) {
        const json_t *a = json_array_get(added, i);
        types[json_integer_value(json_object_get(a, "id"))] =
            json_is_true(json_object_get(a, "special")) ? 3 : 4;
    }
    for (i = json_array_size(merges); i-- > 0;) { /* of several the first counts */
        const json_t *m = json_array_get(merges, i);
        char text[256];
        snprintf(text, sizeof text, "%s%s", json_string_value(json_array_get(m, 0)),
                 json_string_value(json_array_get(m, 1)));
        scores[json_integer_value(json_object_get(vocab, text))] = -(float)i;
    }
    s.tokens = tokens;
    s.types = types;
    s.scores = scores;
    s.n = s.n_types = s.n_scores = n;
    s.bos = 2;
    s.eos = 1;
    s.unk = 3;
    s.pad = 0;
    s.prefix = 0;
    gguf_make(&s, &o);
    test_write_bytes("t.gguf", o.data, o.size);
    free(o.data);
    free(tokens);
    free(types);
    free(scores);
    json_decref(root);
}

/* A GGUF file made from a tokenizer.json gives its ids, on 213 KB of text. */
static void test_converted(void **state)
{
    qsae_corpus_settings s;
    qsae_corpus_info info[2] = { { .struct_size = sizeof *info }, { .struct_size = sizeof *info } };
    qsae_tokenizer *t[2] = { NULL, NULL };
    qsae_corpus *c[2] = { NULL, NULL };

    (void)state;
    convert(QSAE_TEST_EXAMPLES "/tiny-gemma3/tokenizer.json");
    qsae_corpus_settings_init(&s, sizeof s);
    for (int i = 0; i < 2; i++) {
        const char *path = i == 0 ? QSAE_TEST_EXAMPLES "/tiny-gemma3" : test_path("t.gguf");
        if (qsae_tokenizer_open(test_ctx, path, &t[i]) != QSAE_OK ||
            qsae_corpus_open(test_ctx, t[i], QSAE_TEST_EXAMPLES "/eval.jsonl", &s,
                             &c[i]) != QSAE_OK)
            fail_msg("%s", qsae_error_message());
        assert_int_equal(qsae_corpus_get_info(c[i], &info[i]), QSAE_OK);
    }
    assert_true(info[0].tokens > 60000);
    assert_string_equal(info[0].token_hash, info[1].token_hash);
    compare(t[0], t[1], QSAE_OK, "differ in: merges");
    compare(t[1], t[0], QSAE_OK, "merges");
    for (int i = 0; i < 2; i++) {
        qsae_corpus_close(&c[i]);
        qsae_tokenizer_close(&t[i]);
    }
}

/* A vocabulary of the size of Gemma 3's. */
static void test_large(void **state)
{
    enum { N = 262144 };
    static char texts[N][20];
    static const char *tokens[N];
    static float scores[N];
    struct gguf_spec s = gguf_base();
    qsae_tokenizer *t;

    (void)state;
    for (int i = 0; i < N; i++) {
        if (i < 4) {
            snprintf(texts[i], sizeof texts[i], "<%d>", i);
        } else if (i < 30) {
            snprintf(texts[i], sizeof texts[i], "%c", 'a' + i - 4);
        } else { /* the number in base 26, at least two letters */
            int at = 0;
            for (int k = i - 30; at < 2 || k > 0; k /= 26)
                texts[i][at++] = (char)('a' + k % 26);
        }
        tokens[i] = texts[i];
        scores[i] = -(float)i;
    }
    s.tokens = tokens;
    s.scores = scores;
    s.types = NULL;
    s.n = s.n_scores = N;
    s.prefix = s.add_bos = 0;
    t = open_ok(&s);
    EXPECT(t, "ab", 0, 30 + 26);
    EXPECT(t, "abcd", 0, 30 + 26 + 2 * 676 + 3 * 17576);
    qsae_tokenizer_close(&t);
}

/* Whatever allocation fails, the call says so and leaves nothing behind. */
static void test_out_of_memory(void **state)
{
    const struct gguf_spec specs[] = { gguf_base(), gguf_byte_base() };

    (void)state;
    for (int k = 0; k < 2; k++) {
        struct gguf_out o = { 0 };
        int64_t countdown, rounds = 0;
        int32_t status = QSAE_ENOMEM;
        gguf_make(&specs[k], &o);
        test_write_bytes("t.gguf", o.data, o.size);
        free(o.data);
        for (; status != QSAE_OK && rounds < 2000; rounds++) {
            qsae_context_settings cs;
            qsae_context *ctx = NULL;
            qsae_tokenizer *t = NULL, *u = NULL;
            char why[64];
            qsae_context_settings_init(&cs, sizeof cs);
            cs.threads = 1;
            cs.alloc = test_failing_alloc;
            cs.free = test_failing_free;
            cs.alloc_cookie = &countdown;
            countdown = 1000000;
            assert_int_equal(qsae__context_new(&cs, &ctx), QSAE_OK);
            countdown = rounds;
            status = qsae_tokenizer_open(ctx, test_path("t.gguf"), &t);
            if (status == QSAE_OK)
                status = qsae_tokenizer_open(ctx, test_path("t.gguf"), &u);
            if (status == QSAE_OK) {
                u->hash[0] ^= 1; /* so that everything is compared */
                status = qsae__tokenizer_compare(t, u, why, sizeof why);
            }
            if (status != QSAE_OK && status != QSAE_ENOMEM)
                fail_msg("%lld: %s: %s", (long long)rounds, qsae_status_name(status),
                         qsae_error_message());
            qsae_tokenizer_close(&t);
            qsae_tokenizer_close(&u);
            qsae__context_unref(ctx);
        }
        assert_int_equal(status, QSAE_OK);
        assert_true(rounds > 40);
    }
}

const struct CMUnitTest gguf_tests[] = {
    cmocka_unit_test(test_pieces),
    cmocka_unit_test(test_bytes),
    cmocka_unit_test(test_name),
    cmocka_unit_test(test_folders),
    cmocka_unit_test(test_hash),
    cmocka_unit_test(test_compare),
    cmocka_unit_test(test_converted),
    cmocka_unit_test(test_large),
    cmocka_unit_test(test_out_of_memory),
};
const size_t n_gguf_tests = sizeof gguf_tests / sizeof *gguf_tests;
