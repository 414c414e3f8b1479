/* SPDX-License-Identifier: BSD-2-Clause */
/* Decisions of the readers of tokenizers and filters that other tests leave open (tests/coverage).
 */
#include "text_test.h"

#include "text/corpus.h"
#include "text/tokenizer.h"
#include "text/unigram.h"
#include "text/vocab.h"

#define MODEL "\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"c\":3},\"merges\":[\"a b\"]"
#define BPE(more) "{\"model\":{" MODEL more "}}"
#define POST(text) "{\"model\":{" MODEL "},\"post_processor\":" text "}"

static void refused(const char *json, int32_t status, const char *part)
{
    qsae_tokenizer *t = NULL;
    const int32_t got = test_open(json, &t);

    if (got != status || !test_message(part))
        fail_msg("%s: expected %s, found %s: %s", json, qsae_status_name(status),
                 qsae_status_name(got), qsae_error_message());
    assert_null(t);
}

static void encodes(const char *json, const char *text, const char *ids)
{
    qsae_tokenizer *t = NULL;
    int32_t found[32];
    int64_t n = 0;
    char list[200] = "";

    if (test_open(json, &t) != QSAE_OK)
        fail_msg("%s: %s", json, qsae_error_message());
    assert_int_equal(qsae_tokenizer_encode(t, text, strlen(text), 1, found, 32, &n), QSAE_OK);
    for (int64_t i = 0; i < n; i++)
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%d", i > 0 ? " " : "",
                 found[i]);
    assert_string_equal(list, ids);
    qsae_tokenizer_close(&t);
}

static void test_bpe_flags(void **state)
{
    static const char *const flags[] = { "byte_fallback", "fuse_unk", "ignore_merges" };
    char json[300];

    (void)state;
    refused("{\"model\":{\"type\":7,\"vocab\":{\"a\":0},\"merges\":[]}}", QSAE_EFORMAT, "\"type\"");
    refused("{\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"a\":0},\"merges\":[]}}",
            QSAE_EUNSUPPORTED, "WordPiece");
    refused(BPE(",\"dropout\":\"x\""), QSAE_EFORMAT, "dropout");
    refused(BPE(",\"dropout\":0.5"), QSAE_EUNSUPPORTED, "dropout is not supported");
    refused(BPE(",\"continuing_subword_prefix\":\"##\""), QSAE_EUNSUPPORTED, "continuing_subword");
    refused(BPE(",\"continuing_subword_prefix\":7"), QSAE_EUNSUPPORTED, "continuing_subword");
    refused(BPE(",\"end_of_word_suffix\":\"</w>\""), QSAE_EUNSUPPORTED, "end_of_word_suffix");
    refused(BPE(",\"unk_token\":7"), QSAE_EFORMAT, "unk_token");
    for (size_t i = 0; i < 3; i++) {
        snprintf(json, sizeof json, "{\"model\":{" MODEL ",\"%s\":1}}", flags[i]);
        refused(json, QSAE_EFORMAT, flags[i]);
    }
    encodes(BPE(",\"dropout\":0,\"continuing_subword_prefix\":\"\",\"end_of_word_suffix\":null,"
                "\"unk_token\":null"), "abc", "2 3");
    encodes("{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]}}", "a", "0");
    refused("{\"model\":{\"type\":\"BPE\",\"vocab\":[],\"merges\":[]}}", QSAE_EFORMAT, "vocab");
    refused("{\"model\":{\"vocab\":{\"a\":0},\"merges\":{}}}", QSAE_EFORMAT, "merges");
    refused("{\"model\":{\"vocab\":{\"a\":0}}}", QSAE_EFORMAT, "merges");
}

static void test_bpe_merges(void **state)
{
    static const char *const bad[] = { "\"ab\"", "\"a b c\"", "\"a  b\"", "[\"a\"]", "[]",
                                       "[\"a\",\"b\",\"c\"]", "[\"a\",7]", "[7,\"b\"]", "7",
                                       "null" };
    char json[300];

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        snprintf(json, sizeof json, "{\"model\":{\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":["
                 "\"a b\",%s]}}", bad[i]);
        refused(json, QSAE_EFORMAT, "merges[1]: expected \"a b\" or [\"a\", \"b\"]");
    }
    encodes("{\"model\":{\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[[\"a\",\"b\"]]}}", "abba",
            "2 1 0");
    refused("{\"model\":{\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a c\"]}}", QSAE_EFORMAT,
            "merges[0]");
}

static void test_vocab(void **state)
{
    static const char *const bad[] = { "-1", "2.0", "\"0\"", "null", "9999999" };
    qsae__vocab v = { 0 };
    qsae__slice texts[3] = { { "a", 1 }, { "bc", SIZE_MAX }, { "d", 2 } };
    char json[300];

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        snprintf(json, sizeof json, "{\"model\":{\"vocab\":{\"a\":0,\"b\":%s},\"merges\":[]}}",
                 bad[i]);
        refused(json, QSAE_EFORMAT, "vocab \"b\": expected an id of 0 to");
    }
    refused("{\"model\":{\"vocab\":{\"a\":3,\"b\":3},\"merges\":[]}}", QSAE_EFORMAT,
            "id 3 belongs to two tokens");
    assert_int_equal(qsae__vocab_find(&v, "a", 1), -1);
    qsae__vocab_free(&v);
    static const char map[] = "{\"a\":2147483647}";
    assert_int_equal(qsae__vocab_read(&v, test_ctx, map, sizeof map - 1, "w", INT64_MAX),
                     QSAE_EFORMAT);
    assert_true(test_message("one outside"));
    qsae__vocab_free(&v);
    /* sizes that wrap, and 4 GiB */
    assert_int_equal(qsae__vocab_build(&v, test_ctx, texts, 3, false, "w"), QSAE_EOVERFLOW);
    assert_true(test_message("w: 3 tokens of"));
    texts[1].size = UINT32_MAX - 3;
    assert_int_equal(qsae__vocab_build(&v, test_ctx, texts, 3, false, "w"), QSAE_EOVERFLOW);
    texts[1].size = 2;
    texts[2] = texts[1];
    assert_int_equal(qsae__vocab_build(&v, test_ctx, texts, 3, false, "w"), QSAE_EFORMAT);
    assert_true(test_message("\"bc\" is token 1 and token 2"));
    qsae__vocab_free(&v);
    assert_int_equal(qsae__vocab_build(&v, test_ctx, texts, 3, true, "w"), QSAE_OK);
    assert_int_equal(qsae__vocab_find(&v, "bc", 2), 2); /* the last of equal texts */
    assert_int_equal(qsae__vocab_find(&v, "b", 1), -1);
    assert_int_equal(qsae__vocab_find(&v, "a", 1), 0);
    qsae__vocab_free(&v);
    /* many: every text is found again, others are not */
    enum { N = 3000 };
    qsae__slice *const many = calloc(N, sizeof *many);
    char (*const names)[8] = calloc(N, sizeof *names);
    assert_true(many != NULL && names != NULL);
    for (int i = 0; i < N; i++)
        many[i] = (qsae__slice){ names[i], (size_t)snprintf(names[i], 8, "%d", i * 3) };
    assert_int_equal(qsae__vocab_build(&v, test_ctx, many, N, false, "w"), QSAE_OK);
    for (int i = 0; i < N; i++) {
        char other[8];
        assert_int_equal(qsae__vocab_find(&v, names[i], many[i].size), i);
        assert_int_equal(qsae__vocab_find(&v, other, (size_t)snprintf(other, 8, "%d", i * 3 + 1)),
                         -1);
    }
    qsae__vocab_free(&v);
    assert_true(v.ctx == NULL && v.bytes == NULL && v.offsets == NULL && v.sizes == NULL &&
                v.slots == NULL && v.count == 0 && v.n_slots == 0);
    free(many);
    free(names);
}

/* Pairs that were put in are there, the others are not. */
static void test_pair_set(void **state)
{
    qsae__pair_set s = { .ctx = test_ctx };

    (void)state;
    assert_false(qsae__pair_set_has(&s, 1));
    for (uint64_t i = 0; i < 2000; i++) {
        assert_int_equal(qsae__pair_set_add(&s, i * 2654435761u), QSAE_OK);
        assert_int_equal(qsae__pair_set_add(&s, i * 2654435761u), QSAE_OK);
    }
    assert_int_equal(s.count, 2000);
    assert_true(s.slots >= 4000);
    for (uint64_t i = 0; i < 2000; i++) {
        assert_true(qsae__pair_set_has(&s, i * 2654435761u));
        assert_false(qsae__pair_set_has(&s, i * 2654435761u + 1));
    }
    qsae__pair_set_free(&s);
    assert_int_equal(s.count, 0);
    s.ctx = NULL;
    qsae__pair_set_free(&s);
}

#define SINGLE(list, special) \
    POST("{\"type\":\"TemplateProcessing\",\"single\":[" list "],\"special_tokens\":{" special "}}")
#define A "{\"Sequence\":{\"id\":\"A\"}}"
#define X "{\"SpecialToken\":{\"id\":\"x\"}}"

static void test_templates(void **state)
{
    (void)state;
    encodes(SINGLE(X "," A "," X, "\"x\":{\"ids\":[3,0]}"), "b", "3 0 1 3 0");
    encodes(SINGLE(A, ""), "b", "1");
    encodes(POST("null"), "b", "1");
    encodes(POST("{\"type\":\"ByteLevel\"}"), "b", "1");
    encodes(POST("{\"type\":\"RobertaProcessing\",\"cls\":[\"a\",0],\"sep\":[\"c\",3]}"), "b",
            "0 1 3");
    encodes(
        POST(
            "{\"type\":\"Sequence\",\"processors\":[{\"type\":\"BertProcessing\",\"cls\":[\"a\",0],"
            "\"sep\":[\"c\",3]},{\"type\":\"ByteLevel\"}]}"),
        "b", "0 1 3");
    encodes(POST("{\"type\":\"Sequence\",\"processors\":[]}"), "b", "1");
    refused(SINGLE(X "," A, ""), QSAE_EFORMAT, "special_tokens \"x\": expected an object with ids");
    refused(SINGLE(X "," A, "\"x\":{\"ids\":3}"), QSAE_EFORMAT, "expected an object with ids");
    refused(SINGLE(X "," A, "\"x\":{\"ids\":[\"3\"]}"), QSAE_EFORMAT, "expected ids below 4");
    refused(SINGLE(X "," A, "\"x\":{\"ids\":[-1]}"), QSAE_EFORMAT, "expected ids below 4");
    refused(SINGLE(X "," A, "\"x\":{\"ids\":[0,4]}"), QSAE_EFORMAT, "expected ids below 4");
    refused(SINGLE("{\"Sequence\":{}}", ""), QSAE_EFORMAT, "single[0]: expected SpecialToken");
    refused(SINGLE(A ",{\"SpecialToken\":{\"id\":7}}", ""), QSAE_EFORMAT, "single[1]");
    refused(SINGLE("{\"Sequence\":{\"id\":\"B\"}}", ""), QSAE_EUNSUPPORTED, "only one Sequence");
    refused(SINGLE(A "," A, ""), QSAE_EUNSUPPORTED, "only one Sequence");
    refused(SINGLE(X, "\"x\":{\"ids\":[0]}"), QSAE_EUNSUPPORTED, "no Sequence \"A\"");
    refused(POST("{\"type\":\"TemplateProcessing\"}"), QSAE_EFORMAT, "single");
    refused(POST("{}"), QSAE_EFORMAT, "type");
    refused(POST("{\"type\":\"Other\"}"), QSAE_EUNSUPPORTED, "\"Other\" is not supported");
    refused(POST("{\"type\":\"Sequence\"}"), QSAE_EFORMAT, "processors");
    refused(POST("{\"type\":\"Sequence\",\"processors\":[{\"type\":\"Other\"},7]}"),
            QSAE_EUNSUPPORTED, "\"Other\" is not supported");
#define PAIR(cls, sep) POST("{\"type\":\"BertProcessing\",\"cls\":" cls ",\"sep\":" sep "}")
    refused(PAIR("[\"a\"]", "[\"c\",3]"), QSAE_EFORMAT, "\"cls\": expected [token, id below 4]");
    refused(PAIR("[7,0]", "[\"c\",3]"), QSAE_EFORMAT, "\"cls\"");
    refused(PAIR("[\"a\",\"0\"]", "[\"c\",3]"), QSAE_EFORMAT, "\"cls\"");
    refused(PAIR("[\"a\",-1]", "[\"c\",3]"), QSAE_EFORMAT, "\"cls\"");
    refused(PAIR("[\"a\",0]", "[\"c\",4]"), QSAE_EFORMAT, "\"sep\": expected [token, id below 4]");
}

/* Whether metadata pass a filter of up to two clauses. */
static bool passes(const char *metadata, const char *one, const char *two)
{
    const char *const where[2] = { one, two };
    qsae_corpus_settings s;
    qsae__filter *f = NULL;
    json_t *const v = json_loads(metadata, 0, NULL);

    assert_non_null(v);
    qsae_corpus_settings_init(&s, sizeof s);
    s.where = where;
    s.n_where = two == NULL ? 1 : 2;
    assert_int_equal(qsae__filter_open(test_ctx, &s, &f), QSAE_OK);
    const bool yes = qsae__filter_matches(f, v);
    qsae__filter_close(test_ctx, &f);
    qsae__filter_close(test_ctx, &f);
    json_decref(v);
    return yes;
}

static void test_filters(void **state)
{
    static const char data[] =
        "{\"s\":\"x\",\"e\":\"\",\"i\":7,\"r\":2.5,\"t\":true,\"f\":false,\"n\":null,"
        "\"o\":{\"k\":\"v\",\"p.q\":1,\"d\":{\"z\":1}},\"a.b\":\"dot\",\"l\":[1,\"two\",[3],"
        "false]}";
    static const char *const yes[] = {
        "s=x", "e=", "i=7", "i=7.0", "i=07", "r=2.5", "r=25e-1", "t=true", "f=false", "n=null",
        "o.k=v", "a.b=dot", "l=1", "l=two", "l=false", "o.d.z=1", "s!=y", "none!=1", "i!=8",
        "i!=7.5",
    };
    static const char *const no[] = {
        "s=y",   "s=",     "s=xx",       "e=x",      "i=8",    "i=7x",    "i=x", "i=",
        "i=7.5", "i=-",    "r=2",        "r=x",      "r=2.5x", "t=false", "t=1", "f=true",
        "n=0",   "o=v",    "o.k=w",      "o.none=v", "s.k=v",  "l=3",     "l=2", "none=1",
        "s!=x",  "l!=two", "o.d.none=1", "i=7-",     "n=nul",
    };
    static const char *const bad[] = { "s", "=x", "!=x", "", NULL, "s=\xff" };
    qsae_corpus_settings s;
    qsae__filter *f = (qsae__filter *)data;

    (void)state;
    for (size_t i = 0; i < sizeof yes / sizeof yes[0]; i++)
        if (!passes(data, yes[i], NULL))
            fail_msg("%s does not pass", yes[i]);
    for (size_t i = 0; i < sizeof no / sizeof no[0]; i++)
        if (passes(data, no[i], NULL))
            fail_msg("%s passes", no[i]);
    /* either of two values of a key; all of several keys; every != */
    assert_true(passes(data, "s=y", "s=x"));
    assert_true(passes(data, "s=x", "i=7"));
    assert_false(passes(data, "s=x", "i=8"));
    assert_false(passes(data, "s=x", "s!=x"));
    assert_true(passes(data, "s=x", "s!=y"));
    assert_true(passes(data, "s!=y", "s=x"));
    assert_false(passes(data, "s!=y", "s=z"));
    assert_false(passes(data, "s!=x", "s!=y"));
    qsae_corpus_settings_init(&s, sizeof s);
    assert_int_equal(qsae__filter_open(test_ctx, &s, &f), QSAE_OK);
    assert_null(f);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const char *const where[2] = { "a=b", bad[i] };
        s.where = where;
        s.n_where = 2;
        assert_int_equal(qsae__filter_open(test_ctx, &s, &f), QSAE_EINVAL);
        assert_null(f);
        assert_true(test_message(i < 5 ? "expected KEY=VALUE" : "not UTF-8 at offset 2"));
    }
}

static void test_unigram_scores(void **state)
{
    static const struct {
        const char *score;
        double value;
    } list[] = { { "-7", -7 },           { "-1.5", -1.5 }, { "0.0", 0 },
                 { "-1e-310", -1e-310 }, { "1e22", 1e22 }, { "-123.456", -123.456 },
                 { "-10.0", -10 },       { "2.5", 2.5 } };
    char text[100];

    (void)state;
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        qsae__unigram u = { 0 };
        qsae__bpe b;
        snprintf(text, sizeof text, "[[\"a\",%s],[\"b\",-9]]", list[i].score);
        const qsae__cut vocab = { "model", "vocab", text, strlen(text) };
        json_t *const v = json_pack("{s:i}", "unk_id", 0);
        assert_non_null(v);
        assert_int_equal(qsae__unigram_read(&u, &b, test_ctx, v, &vocab, "w", 1000), QSAE_OK);
        assert_true(u.scores[0] == list[i].value && u.scores[1] == -9);
        qsae__unigram_free(&u);
        qsae__bpe_free(&b);
        u = (qsae__unigram){ 0 };
        assert_int_equal(qsae__unigram_read(&u, &b, test_ctx, v, &vocab, "w", 1), QSAE_EFORMAT);
        assert_true(test_message("a tree of at most 1 nodes"));
        qsae__unigram_free(&u);
        qsae__bpe_free(&b);
        json_decref(v);
    }
}

/* A model's text that is written to while it is read, as a mapped file may be: at one of the
 * library's allocations, or at the first of jansson's. */
static struct {
    char *at, to;
    int left; /* allocations before; -1: it is done */
} change;

static void change_now(void)
{
    if (change.left >= 0 && change.left-- == 0)
        *change.at = change.to;
}

static void *changing_alloc(void *cookie, size_t size, size_t alignment)
{
    void *p = NULL;

    (void)cookie;
    change_now();
    return posix_memalign(&p, alignment, size) != 0 ? NULL : p;
}

static void *changing_malloc(size_t size)
{
    change_now();
    return malloc(size);
}

static void changing_free(void *cookie, void *p)
{
    (void)cookie;
    free(p);
}

static void test_changing_merges(void **state)
{
    static const char vocab[] = "{\"a\":0,\"b\":1,\"ab\":2}";
    char merges[] = "[\"a b\"]";
    qsae__model_text text = { { "model", "vocab", vocab, sizeof vocab - 1 },
                              { "model", "merges", merges, sizeof merges - 1 }, false };
    json_t *const v = json_object();
    qsae_context_settings s;
    qsae_context *ctx = NULL;
    qsae__bpe b;
    bool seen = false;

    (void)state;
    qsae_context_settings_init(&s, sizeof s);
    s.threads = 1;
    s.alloc = changing_alloc;
    s.free = changing_free;
    change.left = -1;
    assert_int_equal(qsae__context_new(&s, &ctx), QSAE_OK);
    for (int at = 0; change.left < 0; at++) { /* the quote that ends the merge goes */
        strcpy(merges, "[\"a b\"]");
        change.at = merges + 5;
        change.to = ' ';
        change.left = at;
        const int32_t status = qsae__bpe_read(&b, ctx, v, &text, "w", 10);
        if (status == QSAE_OK) {
            const qsae__merge *const merge = qsae__bpe_find(&b, 0, 1);
            assert_true(merge != NULL && merge->id == 2);
        } else if (status != QSAE_EFORMAT || !test_message("w:1: string without an end")) {
            fail_msg("%d: %s: %s", at, qsae_status_name(status), qsae_error_message());
        }
        seen = seen || status != QSAE_OK;
        qsae__bpe_free(&b);
    }
    assert_true(seen);
    change.left = -1;
    strcpy(merges, "[\"\xff b\"]");
    assert_int_equal(qsae__bpe_read(&b, ctx, v, &text, "w", 10), QSAE_EFORMAT);
    assert_true(test_message("w: not UTF-8"));
    qsae__bpe_free(&b);
    qsae__context_unref(ctx);
    json_decref(v);
}

static void test_changing_entries(void **state)
{
    char text[] = "[[\"a\",-1.5],[\"b\",-9.5]]";
    const qsae__cut vocab = { "model", "vocab", text, sizeof text - 1 };
    json_t *const v = json_pack("{s:i}", "unk_id", 0);
    qsae__unigram u = { 0 };
    qsae__bpe b;

    (void)state;
    change.at = strchr(text, 'b');
    change.to = '\xff';
    change.left = 0; /* the first score */
    json_set_alloc_funcs(changing_malloc, free);
    const int32_t status = qsae__unigram_read(&u, &b, test_ctx, v, &vocab, "w", 1000);
    json_set_alloc_funcs(malloc, free);
    assert_int_equal(change.left, -1);
    assert_int_equal(status, QSAE_EFORMAT);
    assert_true(test_message("w: not UTF-8"));
    qsae__unigram_free(&u);
    qsae__bpe_free(&b);
    json_decref(v);
}

static void test_file_entries(void **state)
{
    static const struct {
        const char *config, *added;
        int32_t status;
        const char *part;
    } list[] = {
        { "{\"added_tokens_decoder\":{\"\":{\"content\":\"x\"}}}", NULL, QSAE_EFORMAT,
          "\"\": expected an id" },
        { "{\"added_tokens_decoder\":{\"1x\":{\"content\":\"x\"}}}", NULL, QSAE_EFORMAT, "\"1x\"" },
        { "{\"added_tokens_decoder\":{\"-1\":{\"content\":\"x\"}}}", NULL, QSAE_EFORMAT, "\"-1\"" },
        { "{\"added_tokens_decoder\":{\"2147483647\":{\"content\":\"x\"}}}", NULL, QSAE_EFORMAT,
          "2147483647" },
        { "{\"added_tokens_decoder\":{\"99999999999999999999\":{\"content\":\"x\"}}}", NULL,
          QSAE_EFORMAT, "99999999999999999999" },
        { "{\"added_tokens_decoder\":{\"7\":\"x\"}}", NULL, QSAE_EFORMAT,
          "an object with content" },
        { "{\"added_tokens_decoder\":{\"7\":{}}}", NULL, QSAE_EFORMAT, "an object with content" },
        { "{\"added_tokens_decoder\":{\"7\":{\"content\":\"x\"}}}", NULL, QSAE_OK, "" },
        { NULL, "{\"x\":-1}", QSAE_EFORMAT, "added_tokens.json: \"x\": expected an id" },
        { NULL, "{\"x\":2147483647}", QSAE_EFORMAT, "\"x\"" },
        { NULL, "{\"x\":\"7\"}", QSAE_EFORMAT, "found string" },
        { NULL, "{\"x\":7}", QSAE_OK, "" },
        { "{\"tokenizer_class\":7}", NULL, QSAE_EFORMAT, "tokenizer_class" },
        { "{\"tokenizer_class\":\"GPT2TokenizerX\"}", NULL, QSAE_EUNSUPPORTED, "GPT2TokenizerX" },
        { "{\"tokenizer_class\":\"GPT2TokenizerFast\"}", NULL, QSAE_OK, "" },
        { "{\"tokenizer_class\":\"GPT2\"}", NULL, QSAE_EUNSUPPORTED, "\"GPT2\"" },
        { "{\"extra_special_tokens\":{}}", NULL, QSAE_OK, "" },
        { "{\"extra_special_tokens\":null}", NULL, QSAE_OK, "" },
        { "{\"extra_special_tokens\":7}", NULL, QSAE_OK, "" },
        { "{\"extra_special_tokens\":{\"a\":\"<x>\"}}", NULL, QSAE_EUNSUPPORTED, "an object" },
        { "{\"additional_special_tokens\":[7]}", NULL, QSAE_EFORMAT, "expected string or object" },
        { "{\"additional_special_tokens\":[null,\"<x>\",\"<x>\"]}", NULL, QSAE_OK, "" },
        { "{\"bos_token\":7}", NULL, QSAE_EFORMAT, "\"bos_token\": expected string or object" },
        { "{\"bos_token\":{\"content\":7}}", NULL, QSAE_EFORMAT, "\"bos_token\"" },
        { "{\"add_prefix_space\":1}", NULL, QSAE_EFORMAT, "add_prefix_space" },
        { "{\"add_bos_token\":1}", NULL, QSAE_EFORMAT, "add_bos_token" },
        { "{\"add_eos_token\":1}", NULL, QSAE_EFORMAT, "add_eos_token" },
        { "[]", NULL, QSAE_EFORMAT, "tokenizer_config.json: expected object, found array" },
        { "{", NULL, QSAE_EFORMAT, "tokenizer_config.json" },
        { NULL, "[]", QSAE_EFORMAT, "added_tokens.json: expected object" },
    };
    static const struct {
        const char *merges;
        size_t size;
        int32_t status;
        const char *part;
    } lines[] = {
        { "a b", 3, QSAE_OK, "" },
        { "a b\r\n", 5, QSAE_OK, "" },
        { "", 0, QSAE_OK, "" },
        { "#version: 0.2\na b\n", 18, QSAE_OK, "" },
        { "a b\n#versio\n", 12, QSAE_EFORMAT, "merges[1]" },
        { "#versiox\n", 9, QSAE_EFORMAT, "merges[0]" },
        { "\r\n", 2, QSAE_EFORMAT, "merges.txt:1: expected two tokens, found nothing" },
        { "a b\n\n", 5, QSAE_EFORMAT, "merges.txt:2: expected two tokens, found nothing" },
        { "a b\na\0b\n", 8, QSAE_EFORMAT, "merges.txt:2: expected two tokens, found U+0000" },
        { "a b\n\n\xff", 6, QSAE_EFORMAT, "merges.txt:2" },
        { "\xff", 1, QSAE_EFORMAT, "merges.txt:1: not UTF-8" },
    };
    qsae_tokenizer *t = NULL;

    (void)state;
    remove(test_path("tokenizer.json"));
    test_write("vocab.json", "{\"a\":0,\"b\":1,\"ab\":2,\"<|endoftext|>\":3}");
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        test_write_bytes("merges.txt", lines[i].merges, lines[i].size);
        const int32_t status = qsae_tokenizer_open(test_ctx, test_folder, &t);
        if (status != lines[i].status || (status != QSAE_OK && !test_message(lines[i].part)))
            fail_msg("merges %zu: %s: %s", i, qsae_status_name(status), qsae_error_message());
        qsae_tokenizer_close(&t);
    }
    test_write("merges.txt", "a b\n");
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        remove(test_path("tokenizer_config.json"));
        remove(test_path("added_tokens.json"));
        if (list[i].config != NULL)
            test_write("tokenizer_config.json", list[i].config);
        if (list[i].added != NULL)
            test_write("added_tokens.json", list[i].added);
        const int32_t status = qsae_tokenizer_open(test_ctx, test_folder, &t);
        if (status != list[i].status || (status != QSAE_OK && !test_message(list[i].part)))
            fail_msg("%s %s: %s: %s", list[i].config == NULL ? "" : list[i].config,
                     list[i].added == NULL ? "" : list[i].added, qsae_status_name(status),
                     qsae_error_message());
        qsae_tokenizer_close(&t);
    }
    static const char *const left[] = { "tokenizer_config.json", "added_tokens.json", "vocab.json",
                                        "merges.txt" };
    for (size_t i = 0; i < 4; i++)
        remove(test_path(left[i]));
}

const struct CMUnitTest edge_tests[] = {
    cmocka_unit_test(test_bpe_flags),      cmocka_unit_test(test_bpe_merges),
    cmocka_unit_test(test_vocab),          cmocka_unit_test(test_pair_set),
    cmocka_unit_test(test_templates),      cmocka_unit_test(test_filters),
    cmocka_unit_test(test_unigram_scores), cmocka_unit_test(test_file_entries),
    cmocka_unit_test(test_changing_merges), cmocka_unit_test(test_changing_entries),
};
const size_t n_edge_tests = sizeof edge_tests / sizeof edge_tests[0];
