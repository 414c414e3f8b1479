/* SPDX-License-Identifier: BSD-2-Clause */
/* What a tokenizer says of its tokens and of itself, and folders that hold none. */
#include "text_test.h"

#include <sys/stat.h>
#include <unistd.h>

#define MODEL "\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"c\":3},\"merges\":[\"a b\"]"
#define A "{\"Sequence\":{\"id\":\"A\"}}"
#define X "{\"SpecialToken\":{\"id\":\"x\"}}"

/* What a token stands for is what the decoder makes of it, and what the normalizer or the
 * pre-tokenizer has made of a space where there is none. */
static void test_views(void **state)
{
    static const struct {
        const char *parts, *text; /* of the token "_a" */
    } cases[] = {
#define DECODER(text) "\"decoder\":" text ","
#define REPLACE(pattern, content) \
    "{\"type\":\"Replace\",\"pattern\":{" pattern "}" content "}"
        { "", "_a" },
        { DECODER("null"), "_a" },
        { DECODER("{}"), "_a" },
        { DECODER("{\"type\":\"Fuse\"}"), "_a" },
        { DECODER("{\"type\":\"Metaspace\",\"replacement\":\"_\"}"), " a" },
        { DECODER(REPLACE("\"String\":\"_\"", ",\"content\":\" \"")), " a" },
        { DECODER(REPLACE("\"String\":\"_\"", ",\"content\":\"\"")), "_a" },
        { DECODER(REPLACE("\"String\":\"_\"", "")), "_a" },
        { DECODER(REPLACE("\"Regex\":\"_\"", ",\"content\":\" \"")), "_a" },
        { DECODER("{\"type\":\"Sequence\",\"decoders\":[]}"), "_a" },
        { DECODER("{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},"
                  REPLACE("\"String\":\"_\"", ",\"content\":\" \"") "]}"), " a" },
        { "\"normalizer\":" REPLACE("\"String\":\" \"", ",\"content\":\"_\"") ",", " a" },
        { "\"normalizer\":" REPLACE("\"String\":\"b\"", ",\"content\":\"_\"") ",", "_a" },
        { "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\"},", " a" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        qsae_tokenizer *t = NULL;
        char json[600];
        const char *text = NULL;
        size_t size = 0;
        snprintf(json, sizeof json, "{%s\"added_tokens\":[{\"id\":3,\"content\":\"<0x41>\"}],"
                 "\"model\":{\"byte_fallback\":true,\"vocab\":{\"_\":0,\"a\":1,\"_a\":2,"
                 "\"<0x41>\":3,\"<0x42>\":4},\"merges\":[]}}", cases[i].parts);
        if (test_open(json, &t) != QSAE_OK)
            fail_msg("%s: %s", json, qsae_error_message());
        assert_int_equal(qsae_tokenizer_token(t, 2, &text, &size), QSAE_OK);
        if (size != strlen(cases[i].text) || memcmp(text, cases[i].text, size) != 0)
            fail_msg("%s: found \"%.*s\"", json, (int)size, text);
        /* a byte, unless it is an added token of that name */
        assert_int_equal(qsae_tokenizer_token(t, 3, &text, &size), QSAE_OK);
        assert_true(size == 6 && memcmp(text, "<0x41>", 6) == 0);
        assert_int_equal(qsae_tokenizer_token(t, 4, &text, &size), QSAE_OK);
        assert_true(size == 1 && *text == 'B');
        qsae_tokenizer_close(&t);
    }
}

/* BOS and EOS are added only where the template has these very tokens at its ends. */
static void test_added_ends(void **state)
{
    static const struct {
        const char *list, *config;
        int32_t bos, eos;
    } cases[] = {
        { X "," A "," X, "{\"bos_token\":\"c\",\"eos_token\":\"a\"}", 1, 1 },
        { X "," A "," X, "{\"bos_token\":\"a\",\"eos_token\":\"a\"}", 0, 1 },
        { X "," A "," X, "{\"bos_token\":\"c\",\"eos_token\":\"c\"}", 1, 0 },
        { A, "{\"bos_token\":\"c\",\"eos_token\":\"a\"}", 0, 0 },
        { X "," A, NULL, 1, 0 },
        { A "," X, NULL, 0, 1 },
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        qsae_tokenizer *t = NULL;
        qsae_tokenizer_info info = { .struct_size = sizeof info };
        char json[600];
        unlink(test_path("tokenizer_config.json"));
        if (cases[i].config != NULL)
            test_write("tokenizer_config.json", cases[i].config);
        snprintf(json, sizeof json, "{\"model\":{" MODEL "},\"post_processor\":{\"type\":"
                 "\"TemplateProcessing\",\"single\":[%s],\"special_tokens\":{\"x\":{\"ids\":"
                 "[3,0]}}}}", cases[i].list);
        assert_int_equal(test_open(json, &t), QSAE_OK);
        assert_int_equal(qsae_tokenizer_get_info(t, &info), QSAE_OK);
        if (info.adds_bos != cases[i].bos || info.adds_eos != cases[i].eos)
            fail_msg("%zu: adds_bos %d, adds_eos %d", i, info.adds_bos, info.adds_eos);
        qsae_tokenizer_close(&t);
    }
    unlink(test_path("tokenizer_config.json"));
}

/* Which piece is first where white space is cut off cannot be told if a step has made that space
 * out of the text's first character. */
static void test_first(void **state)
{
    static const struct {
        const char *normalizer;
        bool refused;
    } cases[] = {
#define PREPEND(text) "{\"type\":\"Prepend\",\"prepend\":\"" text "\"}"
#define LIST(text) "{\"type\":\"Sequence\",\"normalizers\":[" text "]}"
#define TO(content) REPLACE("\"String\":\"b\"", ",\"content\":\"" content "\"")
        { PREPEND(" "), true }, { PREPEND("x "), true }, { PREPEND("\u3000"), true },
        { PREPEND("x"), false }, { PREPEND(""), false }, { TO(" "), false }, { TO("  "), true },
        { TO("xy"), false }, { TO("x\u00a0"), true }, { "{\"type\":\"NFKC\"}", true },
        { "{\"type\":\"NFKD\"}", true }, { "{\"type\":\"NFD\"}", false },
        { "{\"type\":\"NFC\"}", false }, { LIST(TO(" ") "," PREPEND("x")), true },
        { "null", false },
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        qsae_tokenizer *t = NULL;
        char json[600];
        snprintf(json, sizeof json, "{\"normalizer\":%s,\"pre_tokenizer\":{\"type\":\"Sequence\","
                 "\"pretokenizers\":[{\"type\":\"WhitespaceSplit\"},{\"type\":\"Metaspace\","
                 "\"replacement\":\"_\",\"prepend_scheme\":\"first\"}]},\"model\":{" MODEL "}}",
                 cases[i].normalizer);
        const int32_t status = test_open(json, &t);
        if (status != (cases[i].refused ? QSAE_EUNSUPPORTED : QSAE_OK))
            fail_msg("%s: %s", cases[i].normalizer, qsae_status_name(status));
        assert_true(!cases[i].refused || test_message("prepend_scheme \"first\" behind steps"));
        qsae_tokenizer_close(&t);
    }
}

/* Added tokens that are named twice, not at all, or at a length that no file has. */
static void test_added(void **state)
{
    enum { LONG = 12000 };
    static const char *const twice[] = {
        "{\"id\":4,\"content\":\"d\",\"special\":true},{\"id\":4,\"content\":\"d\"}",
        "{\"id\":4,\"content\":\"d\"},{\"id\":4,\"content\":\"d\",\"special\":true}",
    };
    qsae_tokenizer *t = NULL;
    char json[600], *const text = malloc(LONG + 300);

    (void)state;
    assert_non_null(text);
    for (int i = 0; i < 2; i++) { /* special if any of the two is */
        snprintf(json, sizeof json, "{\"added_tokens\":[%s],\"model\":{" MODEL "}}", twice[i]);
        assert_int_equal(test_open(json, &t), QSAE_OK);
        assert_true(qsae_tokenizer_is_special(t, 4));
        qsae_tokenizer_close(&t);
    }
    assert_int_equal(test_open("{\"added_tokens\":null,\"model\":{" MODEL "}}", &t), QSAE_OK);
    qsae_tokenizer_close(&t);
    assert_int_equal(test_open("{\"added_tokens\":{},\"model\":{" MODEL "}}", &t), QSAE_EFORMAT);
    assert_true(test_message("expected array, found object"));
    for (int i = 0; i < 2; i++) {
        const int n = snprintf(text, 100, "{\"added_tokens\":[{\"id\":4,\"content\":\"");
        const int size = i == 0 ? LONG / 2 : LONG;
        memset(text + n, 'd', (size_t)size);
        snprintf(text + n + size, 200, "\"}],\"model\":{" MODEL "}}");
        const int32_t status = test_open(text, &t);
        assert_int_equal(status, i == 0 ? QSAE_OK : QSAE_EFORMAT);
        assert_true(i == 0 || test_message("added tokens: expected texts that make a tree of at "
                                           "most 8"));
        qsae_tokenizer_close(&t);
    }
    free(text);
}

/* Folders that hold no tokenizer, or half of one. */
static void test_no_tokenizer(void **state)
{
    static const uint8_t tensor[] =
        "\x38\0\0\0\0\0\0\0{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}  "
        "\0\0\0";
    qsae_tokenizer *t = NULL;
    char folder[300];

    (void)state;
    snprintf(folder, sizeof folder, "%s", test_path("half"));
    assert_int_equal(mkdir(folder, 0700), 0);
    assert_int_equal(qsae_tokenizer_open(test_ctx, folder, &t), QSAE_ENOENT);
    assert_true(test_message("half/tokenizer.json"));
    test_write("half/vocab.json", "{\"a\":0}"); /* merges.txt is not there */
    assert_int_equal(qsae_tokenizer_open(test_ctx, folder, &t), QSAE_ENOENT);
    assert_true(test_message("half/tokenizer.json"));
    unlink(test_path("half/vocab.json"));
    test_write("half/merges.txt", "");
    assert_int_equal(qsae_tokenizer_open(test_ctx, folder, &t), QSAE_ENOENT);
    assert_true(test_message("half/tokenizer.json"));
    test_write("half/.gguf", "x"); /* a name that is nothing but the ending */
    assert_int_equal(qsae_tokenizer_open(test_ctx, folder, &t), QSAE_ENOENT);
    assert_true(test_message("half/tokenizer.json"));
    test_write("half/m.gguf", "not one");
    test_write_bytes("half/model.safetensors", tensor, sizeof tensor);
    assert_int_equal(qsae_tokenizer_open(test_ctx, folder, &t), QSAE_ENOENT);
    assert_true(test_message("half: neither tokenizer.json nor a GGUF file as the model"));
    assert_null(t);
}

const struct CMUnitTest shown_tests[] = {
    cmocka_unit_test(test_views),
    cmocka_unit_test(test_added_ends),
    cmocka_unit_test(test_first),
    cmocka_unit_test(test_added),
    cmocka_unit_test(test_no_tokenizer),
};
const size_t n_shown_tests = sizeof shown_tests / sizeof shown_tests[0];
