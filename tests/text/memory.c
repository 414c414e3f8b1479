/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Every allocation fails under opening tokenizers and packing corpora; GGUF tokenizers whose keys
 * are wrong or rare; corpora of few or no texts by every packing.
 */
#include "gguf_file.h"

#include <unistd.h>

#include "../memory.h"

static int32_t open_folder(qsae_context *ctx, const void *what)
{
    qsae_tokenizer *t = NULL;
    const int32_t status = qsae_tokenizer_open(ctx, test_folder, &t);

    (void)what;
    qsae_tokenizer_close(&t);
    return status;
}

static int32_t open_gguf(qsae_context *ctx, const void *what)
{
    qsae_tokenizer *t = NULL;
    const int32_t status = qsae_tokenizer_open(ctx, test_path("t.gguf"), &t);

    (void)what;
    qsae_tokenizer_close(&t);
    return status;
}

#define ADDED "\"added_tokens\":[{\"id\":0,\"content\":\"<s>\",\"special\":true,\"lstrip\":true}]"
static const char letters[] =
    "{" ADDED ",\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},"
    "{\"type\":\"Prepend\",\"prepend\":\"g\"},{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"x+\"},"
    "\"content\":\"a\"}]},\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\" \"},"
    "\"behavior\":\"Isolated\"},\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":["
    "{\"SpecialToken\":{\"id\":\"<s>\"}},{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":"
    "{\"<s>\":{\"ids\":[0]}}},\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1,\"b\":2,\"c\":3,"
    "\"d\":4,\"e\":5,\"f\":6,\"g\":7,\" \":8,\"ab\":9},\"merges\":[\"a b\"]}}";

static void test_tokenizers(void **state)
{
    static const char unigram[] =
        "{" ADDED ",\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"<s>\",0],"
        "[\"a\",-1.5],[\"b\",-2.25],[\"ab\",-2.5]]}}";
    struct gguf_spec s = gguf_base();
    qsae_tokenizer *t = NULL;

    (void)state;
    assert_int_equal(gguf_open(&s, &t), QSAE_OK);
    qsae_tokenizer_close(&t);
    check_every_allocation(open_gguf, NULL, 10);
    s = gguf_byte_base();
    assert_int_equal(gguf_open(&s, &t), QSAE_OK);
    qsae_tokenizer_close(&t);
    check_every_allocation(open_gguf, NULL, 10);
    unlink(test_path("t.gguf"));
    test_write("tokenizer_config.json", "{\"bos_token\":\"<s>\",\"eos_token\":{\"content\":"
               "\"<s>\"},\"additional_special_tokens\":[\"<s>\"]}");
    test_write("tokenizer.json", letters);
    check_every_allocation(open_folder, NULL, 10);
    test_write("tokenizer.json", unigram);
    check_every_allocation(open_folder, NULL, 10);
    unlink(test_path("tokenizer.json"));
    test_write("vocab.json", "{\"a\":0,\"b\":1,\"ab\":2}");
    test_write("merges.txt", "#version: 0.2\r\na b\r\n");
    test_write("tokenizer_config.json", "{\"tokenizer_class\":\"GPT2Tokenizer\",\"eos_token\":"
               "{\"content\":\"<e>\",\"lstrip\":true},\"additional_special_tokens\":[\"<x>\"],"
               "\"unk_token\":\"a\"}");
    test_write("added_tokens.json", "{\"<x>\":3}");
    test_write("special_tokens_map.json", "{\"pad_token\":\"<x>\"}");
    check_every_allocation(open_folder, NULL, 10);
    unlink(test_path("vocab.json"));
    unlink(test_path("merges.txt"));
    unlink(test_path("tokenizer_config.json"));
    unlink(test_path("added_tokens.json"));
    unlink(test_path("special_tokens_map.json"));
}

/* ---- corpora ---- */

static qsae_corpus_settings packing;

static int32_t open_corpus(qsae_context *ctx, const void *what)
{
    qsae_tokenizer *t = NULL;
    qsae_corpus *c = NULL;
    int32_t status = qsae_tokenizer_open(ctx, test_folder, &t);

    (void)what;
    if (status == QSAE_OK)
        status = qsae_corpus_open(ctx, t, test_path("p.jsonl"), &packing, &c);
    qsae_corpus_close(&c);
    qsae_tokenizer_close(&t);
    return status;
}

static void test_packings(void **state)
{
    static const char plain[] =
        "{" ADDED ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1,\"b\":2,\"c\":3,\" \":4},"
        "\"merges\":[]}}";
    static const int32_t policies[][2] = {
        { QSAE_PACK_STREAM, QSAE_BOS_DOC_START }, { QSAE_PACK_STREAM, QSAE_BOS_STREAM_START },
        { QSAE_PACK_SAELENS, QSAE_BOS_CHUNK_START }, { QSAE_PACK_SAELENS, QSAE_BOS_NONE },
        { QSAE_PACK_TL, QSAE_BOS_NONE }, { QSAE_PACK_TL2, QSAE_BOS_NONE },
        { QSAE_PACK_TL2, QSAE_BOS_CHUNK_START },
    };
    static char lines[2048];
    static const char *const where[] = { "lang!=x", "n!=3" };

    (void)state;
    test_write("tokenizer.json", plain);
    test_write("tokenizer_config.json", "{\"bos_token\":\"<s>\",\"eos_token\":\"<s>\"}");
    for (size_t i = 0; i < 2 * (sizeof policies / sizeof policies[0]); i++) {
        const int32_t *const policy = policies[i / 2];
        char *to = lines + sprintf(lines, "{\"text\":\"abcab\"}\n{\"text\":\"<s>ab\"}\n"
                                          "{\"text\":\"\"}\n{\"text\":\"%s\"}\n",
                                   i % 2 ? "abc" : "ab");
        for (int k = 1; k < 40; k++) /* arrays grow at documents, or at what stands between them */
            to += sprintf(to, "{\"text\":\"c\"}\n");
        test_write("p.jsonl", lines);
        qsae_corpus_settings_init(&packing, sizeof packing);
        packing.context = 4;
        packing.pack = policy[0];
        packing.bos_policy = policy[1];
        packing.keep_tail = packing.pack == QSAE_PACK_STREAM;
        packing.where = where;
        packing.n_where = i < 2 ? 2 : 0;
        check_every_allocation(open_corpus, NULL, 10);
    }
}

/* Ids of the chunks, '|' behind each; the tokenizer may lack BOS. */
static void expect(const char *lines, bool bos, int32_t pack, int32_t policy, const char *want)
{
    qsae_corpus_settings s;
    qsae_corpus_info info = { .struct_size = sizeof info };
    qsae_tokenizer *t = NULL;
    qsae_corpus *c = NULL;
    char got[128], *to = got;

    test_write("tokenizer_config.json", bos ? "{\"bos_token\":\"<s>\",\"eos_token\":\"c\"}" :
               "{\"eos_token\":\"c\"}");
    test_write("p.jsonl", lines);
    qsae_corpus_settings_init(&s, sizeof s);
    s.context = 4;
    s.pack = pack;
    s.bos_policy = policy;
    s.keep_tail = 0;
    assert_int_equal(qsae_tokenizer_open(test_ctx, test_folder, &t), QSAE_OK);
    const int32_t status = qsae_corpus_open(test_ctx, t, test_path("p.jsonl"), &s, &c);
    qsae_tokenizer_close(&t);
    if (want == NULL) {
        assert_int_not_equal(status, QSAE_OK);
        assert_null(c);
        assert_true(test_message("p.jsonl"));
        return;
    }
    if (status != QSAE_OK)
        fail_msg("%s", qsae_error_message());
    assert_int_equal(qsae_corpus_get_info(c, &info), QSAE_OK);
    for (int64_t i = 0; i < info.chunks; i++, *to++ = '|') {
        const int32_t *ids;
        int64_t n = 0;
        assert_int_equal(qsae_corpus_chunk(c, i, &ids, NULL, NULL, &n), QSAE_OK);
        for (int64_t k = 0; k < n; k++)
            *to++ = "sabc "[ids[k]];
    }
    *to = '\0';
    assert_string_equal(got, want);
    qsae_corpus_close(&c);
}

static void test_few(void **state)
{
    static const char two[] = "{\"text\":\"abba\"}\n{\"text\":\"bb\"}\n{\"text\":\"aabbab\"}\n",
                      marked[] = "{\"text\":\"abb\"}\n{\"text\":\"<s>ab\"}\n{\"text\":\"baa\"}\n",
                      none[] = "{\"text\":\"\"}\n", blank[] = "{\"text\":\"  \"}\n";

    (void)state;
    expect(two, false, QSAE_PACK_SAELENS, QSAE_BOS_NONE, "abba|bbaa|bbab|");
    expect(two, true, QSAE_PACK_SAELENS, QSAE_BOS_NONE, "abba|bbsa|abba|");
    expect(two, true, QSAE_PACK_SAELENS, QSAE_BOS_CHUNK_START, "sabb|sasb|sbsa|sabb|");
    expect(marked, true, QSAE_PACK_SAELENS, QSAE_BOS_CHUNK_START, "sabb|sabs|sbaa|");
    expect(two, true, QSAE_PACK_TL, QSAE_BOS_NONE, "abba|cbbc|aabb|");
    expect(none, true, QSAE_PACK_TL, QSAE_BOS_NONE, NULL);
    expect(none, true, QSAE_PACK_TL2, QSAE_BOS_NONE, NULL);
    expect(blank, true, QSAE_PACK_TL2, QSAE_BOS_NONE, NULL);
    expect("\n", true, QSAE_PACK_TL, QSAE_BOS_NONE, NULL);
    expect("\n", true, QSAE_PACK_TL2, QSAE_BOS_NONE, NULL);
    expect(none, true, QSAE_PACK_SAELENS, QSAE_BOS_NONE, NULL);
}

/* ---- keys of GGUF tokenizers ---- */

/* The file of s with `size` bytes behind the only `find` changed. */
static int32_t open_patched(const struct gguf_spec *s, const char *find, size_t offset,
                            const char *bytes, size_t size)
{
    struct gguf_out o = { .data = NULL };
    qsae_tokenizer *t = NULL;

    gguf_make(s, &o);
    char *at = NULL;
    for (size_t i = 0; i + strlen(find) <= o.size && at == NULL; i++)
        if (memcmp(o.data + i, find, strlen(find)) == 0)
            at = o.data + i;
    assert_non_null(at);
    memcpy(at + strlen(find) + offset, bytes, size);
    test_write_bytes("t.gguf", o.data, o.size);
    free(o.data);
    const int32_t status = qsae_tokenizer_open(test_ctx, test_path("t.gguf"), &t);
    qsae_tokenizer_close(&t);
    return status;
}

static void test_keys(void **state)
{
    static const char *const merges[] = { "a" }, *const pairs[] = { "a b" };
    static const char *const marked[] = { "<|tool_response>", "</s>", "a", "abcdefghijklmnop" };
    static const char *const phi[] = { "<|endoftext|>", "<unk>", "<s>", "<x>", "a", " ", "" };
    static const int32_t types[] = { 3, 3, 3, 3, 1, 1, 3 };
    struct gguf_spec s = gguf_base();
    qsae_tokenizer *t = NULL;

    (void)state;
    assert_int_equal(open_patched(&s, "tokenizer.ggml.model", 12 + 2, "", 1), QSAE_EFORMAT);
    assert_true(test_message("tokenizer.ggml.model") && test_message("t.gguf"));
    assert_int_equal(open_patched(&s, "tokenizer.ggml.scores", 4, "\5", 1), QSAE_OK);
    assert_int_equal(open_patched(&s, "tokenizer.ggml.scores", 4, "\4", 1), QSAE_EFORMAT);
    assert_true(test_message("scores: expected an array of f32 or i32"));
    s.name = "";
    assert_int_equal(open_patched(&s, "general.name", 0, "\x0c", 1), QSAE_EFORMAT);
    assert_true(test_message("general.name"));
    s = gguf_byte_base();
    s.merges = merges;
    s.n_merges = 1;
    assert_int_equal(gguf_open(&s, &t), QSAE_EFORMAT);
    assert_true(test_message("merges[0]: expected \"a b\""));
    s = (struct gguf_spec){ .model = "llama", .tokens = marked, .n = 4, .bos = -1, .eos = -1,
                            .unk = -1, .pad = -1, .add_bos = -1, .add_eos = -1, .prefix = -1 };
    assert_int_equal(gguf_open(&s, &t), QSAE_OK);
    qsae_tokenizer_close(&t);
    for (int i = 0; i < 4; i++) { /* only Phi 3's special tokens take the space behind them */
        static const char *const names[] = { "phi-3", "Phi3 mini", "PHI-3", "phi-2" };
        s = (struct gguf_spec){ .name = names[i], .model = "llama", .tokens = phi, .types = types,
                                .n = 7, .n_types = 7, .bos = 2, .eos = 0, .unk = 1, .pad = -1,
                                .add_bos = 0, .add_eos = -1, .prefix = 0 };
        assert_int_equal(gguf_open(&s, &t), QSAE_OK);
        for (int64_t k = 0; k < t->n_added; k++)
            assert_int_equal(t->added[k].rstrip,
                             i < 3 && (t->added[k].id == 3 || t->added[k].id == 6));
        qsae_tokenizer_close(&t);
    }
    for (int i = 0; i < 2; i++) { /* Gemma 4 has BOS in front whatever the file says */
        qsae_tokenizer_info info = { .struct_size = sizeof info };
        s = gguf_base();
        s.model = i == 0 ? "gemma4" : "llama";
        s.merges = pairs;
        s.n_merges = 1;
        s.add_bos = 0;
        if (gguf_open(&s, &t) != QSAE_OK)
            fail_msg("%s", qsae_error_message());
        assert_int_equal(qsae_tokenizer_get_info(t, &info), QSAE_OK);
        assert_int_equal(info.adds_bos, i == 0);
        qsae_tokenizer_close(&t);
    }
    unlink(test_path("t.gguf"));
}

const struct CMUnitTest memory_tests[] = {
    cmocka_unit_test(test_tokenizers), cmocka_unit_test(test_packings),
    cmocka_unit_test(test_few),        cmocka_unit_test(test_keys),
};
const size_t n_memory_tests = sizeof memory_tests / sizeof memory_tests[0];
