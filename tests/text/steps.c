/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Steps of normalizers alone, names of GGUF pre-tokenizers and tokens, and probe sets: what each
 * makes of its input, and every key that is wrong with the status and the message it gives.
 */
#include "text_test.h"

#include <unistd.h>

#include "../memory.h"
#include "text/gguf.h"
#include "text/normalize.h"
#include "text/probes.h"

struct step {
    const char *json, *in, *out; /* in NULL: reading fails, with `out` in the message */
    int32_t status;
    bool cut;
};

#define REPLACE(pattern, content) \
    "{\"type\":\"Replace\",\"pattern\":" pattern ",\"content\":\"" content "\"}"
#define STRIP(left, right) "{\"type\":\"Strip\",\"strip_left\":" left ",\"strip_right\":" right "}"

static const struct step steps[] = {
    { "null", "a", "a", QSAE_OK, false },
    { "{\"type\":\"Sequence\",\"normalizers\":[]}", "a", "a", QSAE_OK, false },
    { "{\"type\":\"Prepend\",\"prepend\":\"_\"}", "a", "_a", QSAE_OK, false },
    { "{\"type\":\"Prepend\",\"prepend\":\"_\"}", "", "", QSAE_OK, false },
    { REPLACE("{\"String\":\"b\"}", "xy"), "abcb", "axycxy", QSAE_OK, false },
    { REPLACE("{\"String\":\"b\"}", ""), "abc", "ac", QSAE_OK, false },
    { REPLACE("{\"String\":\"b\"}", ""), "bbc", "c", QSAE_OK, true },
    { REPLACE("{\"String\":\"b\"}", "x"), "bc", "xc", QSAE_OK, false },
    { REPLACE("{\"Regex\":\"^(?=b)|c\"}", "x"), NULL, "matches the empty string",
      QSAE_EUNSUPPORTED, false },
    { "{\"type\":\"NFC\"}", "e\xcc\x81x", "\xc3\xa9x", QSAE_OK, false },
    { "{\"type\":\"NFKD\"}", "\xef\xac\x81", "fi", QSAE_OK, false },
    { "{\"type\":\"Lowercase\"}", "AbC\xc3\x89", "abc\xc3\xa9", QSAE_OK, false },
    { "{\"type\":\"Lowercase\"}", "\xc4\xb0", "i\xcc\x87", QSAE_OK, false },
    { STRIP("true", "true"), " \t a b \n", "a b", QSAE_OK, true },
    { STRIP("true", "false"), " a ", "a ", QSAE_OK, true },
    { STRIP("false", "true"), " a ", " a", QSAE_OK, false },
    { STRIP("false", "true"), "a", "a", QSAE_OK, false },
    { STRIP("true", "false"), "a ", "a ", QSAE_OK, false },
    { STRIP("true", "true"), "  ", "", QSAE_OK, true },
    { STRIP("false", "true"), "  ", "", QSAE_OK, false },
    { "{\"type\":\"StripAccents\"}", "e\xcc\x81x", "ex", QSAE_OK, false },
    { "{\"type\":\"StripAccents\"}", "\xcc\x81x", "x", QSAE_OK, true },
    { "{\"type\":\"StripAccents\"}", "a\xe0\xa4\x83", "a", QSAE_OK, false },         /* Mc */
    { "{\"type\":\"StripAccents\"}", "a\xe2\x83\x9d", "a", QSAE_OK, false },         /* Me */
    { "{\"type\":\"StripAccents\"}", "a\xe1\xb3\xb2\xe1\xb3\xb3", "a", QSAE_OK, false },
    { "{\"type\":\"StripAccents\"}", "a\xc3\xa9", "a\xc3\xa9", QSAE_OK, false },
    { "{\"type\":\"Nmt\"}", "\x01" "a\x08\x0b\x0e\x1f\x7f\xc2\x8f\xc2\x9f" "b", "ab", QSAE_OK,
      true },
    { "{\"type\":\"Nmt\"}", "a\tb\nc\x0c" "d\re", "a b c d e", QSAE_OK, false },
    { "{\"type\":\"Nmt\"}", "\xe1\x9a\x80\xe2\x80\x8b\xe2\x80\x8f\xe2\x80\xa8\xe2\x80\xa9"
      "\xe2\x96\x81\xef\xbb\xbf\xef\xbf\xbd", "        ", QSAE_OK, false },
    { "{\"type\":\"Nmt\"}", "\x1b \xe2\x80\x8a\xe2\x80\x90\xc2\x80", " \xe2\x80\x8a\xe2\x80\x90"
      "\xc2\x80", QSAE_OK, true },
    { "{}", NULL, "\"type\"", QSAE_EFORMAT, false },
    { "{\"type\":\"x\"}", NULL, "normalizer \"x\" is not supported", QSAE_EUNSUPPORTED, false },
    { "{\"type\":\"Sequence\"}", NULL, "\"normalizers\"", QSAE_EFORMAT, false },
    { "{\"type\":\"Sequence\",\"normalizers\":[{},{}]}", NULL, "\"type\"", QSAE_EFORMAT, false },
    { "{\"type\":\"Prepend\"}", NULL, "\"prepend\"", QSAE_EFORMAT, false },
    { "{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"}}", NULL, "\"content\"", QSAE_EFORMAT,
      false },
    { "{\"type\":\"Replace\",\"content\":\"\"}", NULL, "pattern", QSAE_EFORMAT, false },
    { "{\"type\":\"Strip\",\"strip_right\":true}", NULL, "\"strip_left\"", QSAE_EFORMAT, false },
    { "{\"type\":\"Strip\",\"strip_left\":true}", NULL, "\"strip_right\"", QSAE_EFORMAT, false },
    { "{\"type\":\"Precompiled\"}", NULL, "\"precompiled_charsmap\"", QSAE_EFORMAT, false },
};

static void test_steps(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        const struct step *const s = &steps[i];
        qsae__normalizer n = { .ctx = test_ctx };
        qsae__strbuf buffers[2];
        const char *out;
        size_t size;
        bool cut = false;
        json_t *const json = json_loads(s->json, JSON_DECODE_ANY, NULL);
        assert_non_null(json);
        const int32_t status = qsae__normalizer_read(&n, json, "it.json");
        if (status != s->status)
            fail_msg("%s: found %s: %s", s->json, qsae_status_name(status), qsae_error_message());
        if (status != QSAE_OK) {
            assert_true(test_message(s->out) && test_message("it.json"));
        } else {
            for (int b = 0; b < 2; b++)
                qsae__strbuf_init(&buffers[b], test_ctx);
            assert_int_equal(qsae__normalize(&n, s->in, strlen(s->in), buffers, &out, &size, &cut),
                             QSAE_OK);
            if (size != strlen(s->out) || memcmp(out, s->out, size) != 0 || cut != s->cut)
                fail_msg("%s of \"%s\": expected \"%s\", found \"%.*s\", cut %d", s->json, s->in,
                         s->out, (int)size, out, cut);
            for (int b = 0; b < 2; b++)
                qsae__strbuf_free(&buffers[b]);
        }
        json_decref(json);
        qsae__normalizer_free(&n);
    }
}

/* Which steps may make a text longer; what grows beyond measure is refused, after one step of it
 * and after several. */
static void test_growth(void **state)
{
    static const struct {
        const char *json;
        bool expands;
    } kinds[] = {
        { "{\"type\":\"Prepend\",\"prepend\":\"_\"}", true }, { "{\"type\":\"NFC\"}", false },
        { "{\"type\":\"NFD\"}", true }, { REPLACE("{\"String\":\"b\"}", ""), false },
        { REPLACE("{\"String\":\"b\"}", "x"), false },
        { REPLACE("{\"String\":\"b\"}", "xy"), true },
        { REPLACE("{\"String\":\"b\"}", "\xc3\xa9"), false }, { STRIP("true", "true"), false },
    };
    static char text[4096];
    (void)state;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        qsae__normalizer n = { .ctx = test_ctx };
        json_t *const json = json_loads(kinds[i].json, 0, NULL);
        assert_int_equal(qsae__normalizer_read(&n, json, "it.json"), QSAE_OK);
        if (qsae__norm_expands(&n.steps[0]) != kinds[i].expands)
            fail_msg("%s", kinds[i].json);
        qsae__normalizer_free(&n);
        json_decref(json);
    }
    memset(text, 'b', sizeof text);
    qsae__normalizer n = { .ctx = test_ctx };
    qsae__strbuf buffers[2];
    const char *out;
    size_t size;
    json_t *const json = json_pack("{s:s,s:{s:s},s:s%}", "type", "Replace", "pattern", "String",
                                   "b", "content", text, (size_t)200);
    assert_int_equal(qsae__normalizer_read(&n, json, "it.json"), QSAE_OK);
    for (int b = 0; b < 2; b++)
        qsae__strbuf_init(&buffers[b], test_ctx);
    assert_int_equal(qsae__normalize(&n, text, sizeof text, buffers, &out, &size, NULL),
                     QSAE_EUNSUPPORTED);
    assert_true(test_message("more than 64 times its size"));
    assert_int_equal(qsae__normalize(&n, text, 300, buffers, &out, &size, NULL), QSAE_OK);
    assert_int_equal(size, 60000);
    for (int b = 0; b < 2; b++)
        qsae__strbuf_free(&buffers[b]);
    qsae__normalizer_free(&n);
    json_decref(json);
    json_t *const nmt = json_loads("{\"type\":\"Nmt\"}", 0, NULL);
    n = (qsae__normalizer){ .ctx = test_ctx };
    assert_int_equal(qsae__normalizer_read(&n, nmt, "it.json"), QSAE_OK);
    for (int b = 0; b < 2; b++)
        qsae__strbuf_init(&buffers[b], test_ctx);
    assert_int_equal(qsae__normalize(&n, "\0\1a", 3, buffers, &out, &size, NULL), QSAE_OK);
    assert_true(size == 2 && memcmp(out, "\0a", 2) == 0); /* U+0000 stays, as in the reference */
    for (int b = 0; b < 2; b++)
        qsae__strbuf_free(&buffers[b]);
    qsae__normalizer_free(&n);
    json_decref(nmt);
}

static qsae__slice slice(const char *s)
{
    return (qsae__slice){ s, strlen(s) };
}

static void test_kinds(void **state)
{
    static const char *const good[] = { "gpt-2", "default", "", "llama-bpe", "qwen2", "tekken" };
    static const char *const bad[] = { "llama", "bpe", " ", "gpt-2 phi-2", "gpt", "-2", "x",
                                       "granite-dockin", "ranite-docling" };
    qsae__gguf_kind kind;
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_int_equal(qsae__gguf_kind_of("gpt2", good[i], "it.gguf", &kind), QSAE_OK);
        assert_true(kind.bytes && kind.add_bos == (i == 3 || i == 5) && kind.regex[0] != NULL);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(qsae__gguf_kind_of("gpt2", bad[i], "it.gguf", &kind), QSAE_EUNSUPPORTED);
        assert_true(test_message("it.gguf: tokenizer.ggml.pre") && test_message(bad[i]));
    }
    assert_int_equal(qsae__gguf_kind_of("llama", "x", "it.gguf", &kind), QSAE_OK);
    assert_true(kind.pieces && kind.add_bos && !kind.force_bos && kind.eos == 2);
    assert_int_equal(qsae__gguf_kind_of("gemma4", "x", "it.gguf", &kind), QSAE_OK);
    assert_true(kind.force_bos && kind.whole_newlines);
    assert_int_equal(qsae__gguf_kind_of("bert", "x", "it.gguf", &kind), QSAE_EUNSUPPORTED);
    assert_true(test_message("tokenizer.ggml.model: \"bert\""));
}

static void test_types(void **state)
{
    static const struct {
        const char *text;
        bool normal_s;
        int32_t type;
    } cases[] = {
        { "</s>", true, QSAE__TOKEN_NORMAL }, { "</s>", false, QSAE__TOKEN_CONTROL },
        { "<s>", false, QSAE__TOKEN_BYTE }, { "<eos", true, QSAE__TOKEN_BYTE },
        { "<eos>", true, QSAE__TOKEN_CONTROL }, { "<|start|>", false, QSAE__TOKEN_USER_DEFINED },
        { "<|start_>", false, QSAE__TOKEN_BYTE }, { "aaaa", false, QSAE__TOKEN_BYTE },
        { "<0123456789012345678901234567890>", false, QSAE__TOKEN_BYTE },
        { "[PAD]", false, QSAE__TOKEN_CONTROL }, { "_<EOT>", false, QSAE__TOKEN_CONTROL },
        { "\xe2\x96\x81<PRE>", false, QSAE__TOKEN_CONTROL },
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (qsae__gguf_type_of(slice(cases[i].text), QSAE__TOKEN_BYTE, cases[i].normal_s) !=
            cases[i].type)
            fail_msg("%s: expected type %d", cases[i].text, (int)cases[i].type);
}

/* ---- probe sets ---- */

/* a 0, b 1, ab 2, space 3, space a 4, <s> 5, c 6, d goes, "ae" goes. */
#define VOCAB "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\" \":3,\" a\":4,\"<s>\":5,\"c\":6,\"e\":7}," \
              "\"merges\":[\"a b\",[\" \",\"a\"]]"
#define JSON "{\"added_tokens\":[{\"id\":5,\"content\":\"<s>\",\"special\":true}],\"normalizer\":" \
             "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Lowercase\"}," \
             REPLACE("{\"String\":\"d\"}", "") "," REPLACE("{\"String\":\"ae\"}", "") "]}," \
             "\"model\":{\"type\":\"BPE\"," VOCAB "}}"
#define ROW(context, good, bad) \
    "{\"context\":\"" context "\",\"good\":\"" good "\",\"bad\":\"" bad "\"}\n"

struct probe {
    const char *text;
    int32_t bos, status;
    const char *part;          /* of the message */
    int32_t ids[8], n_context, n_good, n_bad, n_tags; /* of the last item */
};

static const struct probe probes[] = {
    { ROW("a ", "a", "b"), QSAE_BOS_DOC_START, QSAE_OK, NULL, { 5, 0, 4, 3, 1 }, 2, 1, 2, 0 },
    { ROW("a ", "a", "b"), QSAE_BOS_NONE, QSAE_OK, NULL, { 0, 4, 3, 1 }, 1, 1, 2, 0 },
    { ROW("a ", "a", "b"), QSAE_BOS_DEFAULT, QSAE_OK, NULL, { 0, 4, 3, 1 }, 1, 1, 2, 0 },
    { ROW("<s>a", "c", "a"), QSAE_BOS_DOC_START, QSAE_OK, NULL, { 5, 0, 6, 0 }, 2, 1, 1, 0 },
    { ROW(" \\t", "c", "a"), QSAE_BOS_DOC_START, QSAE_OK, NULL, { 5, 3, 6, 4 }, 1, 2, 1, 0 },
    { ROW("", "c", "a"), QSAE_BOS_DOC_START, QSAE_OK, NULL, { 5, 6, 0 }, 1, 1, 1, 0 },
    { ROW("", "c", "ab"), QSAE_BOS_NONE, QSAE_OK, NULL, { 5, 6, 2 }, 1, 1, 1, 0 },
    { ROW("", "<s>c", "b"), QSAE_BOS_NONE, QSAE_OK, NULL, { 5, 6, 1 }, 1, 1, 1, 0 },
    { ROW("d", "c", "b"), QSAE_BOS_DOC_START, QSAE_OK, NULL, { 5, 6, 1 }, 1, 1, 1, 0 },
    { ROW("a", "b", "c"), QSAE_BOS_DOC_START, QSAE_EFORMAT, ":1: good: no token is left", { 0 }, 0,
      0, 0, 0 },
    { ROW("a", "c", "b"), QSAE_BOS_DOC_START, QSAE_EFORMAT, ":1: bad: no token is left", { 0 }, 0,
      0, 0, 0 },
    { ROW("", "d", "c"), QSAE_BOS_DOC_START, QSAE_EFORMAT, "good: no token", { 0 }, 0, 0, 0, 0 },
    { ROW("a", "e", "c"), QSAE_BOS_DOC_START, QSAE_EFORMAT, "good: no token", { 0 }, 0, 0, 0, 0 },
    { ROW("a", "c", "c"), QSAE_BOS_NONE, QSAE_EFORMAT, ":1: good and bad are the same text", { 0 },
      0, 0, 0, 0 },
    { ROW("a", "c", "C"), QSAE_BOS_NONE, QSAE_EFORMAT, "good and bad are the same tokens", { 0 }, 0,
      0, 0, 0 },
    { "{\"context\":\"a\",\"good\":\"c\",\"bad\":\" a\",\"tags\":null}", QSAE_BOS_NONE, QSAE_OK,
      NULL, { 0, 6, 4 }, 1, 1, 1, 0 },
    { "{\"context\":\"a\",\"good\":\"c\",\"bad\":\" a\",\"tags\":\"t\"}", QSAE_BOS_NONE, QSAE_OK,
      NULL, { 0, 6, 4 }, 1, 1, 1, 1 },
    { "{\"context\":\"a\",\"good\":\"c\",\"bad\":\" a\",\"tags\":[\"t\",\"u\"]}\n"
      "{\"context\":\"a\",\"good\":\"c\",\"bad\":\" a\",\"tags\":[\"u\",\"t\",\"u\"]}",
      QSAE_BOS_NONE, QSAE_OK, NULL, { 0, 6, 4 }, 1, 1, 1, 2 },
#define TAGS(v) "{\"context\":\"a\",\"good\":\"c\",\"bad\":\" a\",\"tags\":" v "}"
    { TAGS("[\"t\",\"\"]"), QSAE_BOS_NONE, QSAE_EFORMAT, ":1: tags: expected a string", { 0 }, 0, 0,
      0, 0 },
    { TAGS("3"), QSAE_BOS_NONE, QSAE_EFORMAT, "expected array of strings or string", { 0 }, 0, 0, 0,
      0 },
    { TAGS("[3,4]"), QSAE_BOS_NONE, QSAE_EFORMAT, "found integer", { 0 }, 0, 0, 0, 0 },
    { TAGS("\"a\\u0000\""), QSAE_BOS_NONE, QSAE_EFORMAT, "has no NUL", { 0 }, 0, 0, 0, 0 },
    { "[]\n", QSAE_BOS_NONE, QSAE_EFORMAT, ":1: expected object, found array", { 0 }, 0, 0, 0, 0 },
    { "\n{\n", QSAE_BOS_NONE, QSAE_EFORMAT, ":2", { 0 }, 0, 0, 0, 0 },
    { "", QSAE_BOS_NONE, QSAE_EFORMAT, "expected a probe per line, found none", { 0 }, 0, 0, 0, 0 },
    { "{\"good\":\"a\",\"bad\":\"b\"}", QSAE_BOS_NONE, QSAE_EFORMAT, "\"context\"", { 0 }, 0, 0, 0,
      0 },
    { "{\"context\":\"a\",\"good\":3,\"bad\":\"b\"}", QSAE_BOS_NONE, QSAE_EFORMAT,
      "key \"good\": expected string, found integer", { 0 }, 0, 0, 0, 0 },
    { "{\"context\":\"a\",\"good\":\"c\",\"bad\":\"\"}", QSAE_BOS_NONE, QSAE_EFORMAT,
      "bad: expected text, found \"\"", { 0 }, 0, 0, 0, 0 },
};

static int32_t open_probes(qsae_context *ctx, const qsae_tokenizer *t, const char *text,
                           int32_t bos, struct qsae_probes **p)
{
    test_write("probes.jsonl", text);
    return qsae__probes_open(ctx, t, test_path("probes.jsonl"), bos, p);
}

static void test_probes(void **state)
{
    qsae_tokenizer *t = NULL;
    (void)state;
    test_write("tokenizer_config.json", "{\"bos_token\":\"<s>\"}");
    assert_int_equal(test_open(JSON, &t), QSAE_OK);
    for (size_t i = 0; i < sizeof probes / sizeof probes[0]; i++) {
        const struct probe *const c = &probes[i];
        struct qsae_probes *p = NULL;
        const int32_t status = open_probes(test_ctx, t, c->text, c->bos, &p);
        if (status != c->status)
            fail_msg("%s: expected %s, found %s: %s", c->text, qsae_status_name(c->status),
                     qsae_status_name(status), qsae_error_message());
        if (status != QSAE_OK) {
            assert_true(test_message(c->part) && test_message("probes.jsonl"));
            assert_null(p);
            continue;
        }
        const struct qsae__probe *const k = &p->items[p->n - 1];
        const int32_t n = c->n_context + c->n_good + c->n_bad;
        if (k->n_context != c->n_context || k->n_good != c->n_good || k->n_bad != c->n_bad ||
            k->n_tags != c->n_tags ||
            memcmp(qsae__probe_ids(p, p->n - 1), c->ids, (size_t)n * 4) != 0)
            fail_msg("%s: %d %d %d ids, %d tags", c->text, (int)k->n_context, (int)k->n_good,
                     (int)k->n_bad, (int)k->n_tags);
        for (int64_t g = 1; g < k->n_tags; g++)
            assert_true(p->item_tags[k->first_tag + g - 1] < p->item_tags[k->first_tag + g]);
        qsae__probes_close(&p);
    }
    qsae_tokenizer_close(&t);
}

static void test_probe_sets(void **state)
{
    qsae_tokenizer *t = NULL;
    struct qsae_probes *p = NULL;
    qsae__strbuf many;
    (void)state;
    unlink(test_path("tokenizer_config.json"));
    assert_int_equal(test_open(JSON, &t), QSAE_OK);
    assert_int_equal(open_probes(test_ctx, t, ROW("a", "c", "a"), QSAE_BOS_DOC_START, &p),
                     QSAE_EINVAL);
    assert_true(test_message("the tokenizer has no BOS"));
    assert_int_equal(open_probes(test_ctx, t, ROW("", "c", "a"), QSAE_BOS_NONE, &p), QSAE_EFORMAT);
    assert_true(test_message("context: expected text, found none"));
    assert_int_equal(qsae__probes_open(test_ctx, t, test_folder, QSAE_BOS_NONE, &p), QSAE_EINVAL);
    assert_true(test_message("found a folder"));
    assert_int_equal(qsae__probes_open(test_ctx, t, test_path("none"), QSAE_BOS_NONE, &p),
                     QSAE_ENOENT);
    qsae__strbuf_init(&many, test_ctx);
    qsae__strbuf_addf(&many, "{\"context\":\"a\",\"good\":\"c\",\"bad\":\" a\",\"tags\":[\"x\"");
    for (int i = 0; i < QSAE__PROBE_TAGS; i++)
        qsae__strbuf_addf(&many, ",\"%d\"", i);
    qsae__strbuf_addf(&many, "]}");
    assert_int_equal(open_probes(test_ctx, t, many.data, QSAE_BOS_NONE, &p), QSAE_EFORMAT);
    assert_true(test_message("tags: more than 4096 different ones"));
    qsae__strbuf_free(&many);
    p = NULL;
    qsae__probes_close(&p);
    qsae_tokenizer_close(&t);
}

static int32_t open_set(qsae_context *ctx, const void *what)
{
    qsae_tokenizer *t = NULL;
    struct qsae_probes *p = NULL;
    int32_t status = qsae_tokenizer_open(ctx, test_folder, &t);

    (void)what;
    if (status == QSAE_OK)
        status = qsae__probes_open(ctx, t, test_path("probes.jsonl"), QSAE_BOS_DOC_START, &p);
    if (status == QSAE_OK)
        qsae__probes_close(&p);
    qsae_tokenizer_close(&t);
    return status;
}

static void test_probe_memory(void **state)
{
    (void)state;
    test_write("tokenizer.json", JSON);
    test_write("tokenizer_config.json", "{\"bos_token\":\"<s>\"}");
    test_write("probes.jsonl", TAGS("[\"t\",\"u\"]"));
    check_every_allocation(open_set, NULL, 10);
}

const struct CMUnitTest step_tests[] = {
    cmocka_unit_test(test_steps),  cmocka_unit_test(test_growth),
    cmocka_unit_test(test_kinds),  cmocka_unit_test(test_types),
    cmocka_unit_test(test_probes), cmocka_unit_test(test_probe_sets),
    cmocka_unit_test(test_probe_memory),
};
const size_t n_step_tests = sizeof step_tests / sizeof step_tests[0];
