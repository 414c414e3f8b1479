/* SPDX-License-Identifier: BSD-2-Clause */
/* Tokenizers in GGUF files that are damaged or not supported. */
#include <math.h>

#include "gguf_file.h"

static void refuse(const struct gguf_spec *s, int32_t status, const char *part)
{
    qsae_tokenizer *t = (qsae_tokenizer *)&status;
    const int32_t got = gguf_open(s, &t);

    if (got != status)
        fail_msg("\"%s\": %s, expected %s (%s)", part, qsae_status_name(got),
                 qsae_status_name(status), qsae_error_message());
    assert_null(t);
    assert_true(test_message(part) && test_message("t.gguf"));
}

static void test_refused_names(void **state)
{
    static const char *const models[] = {
        "bert", "t5", "rwkv", "plamo2", "no_vocab", "llama2", "hybriddna", "whitespace",
        "a name that is longer than any name of a tokenizer model could be",
    };
    static const char *const pres[] = {
        "gpt-3", "deepseek-coder", "llama-bpe ", " ", "gpt-2 mpt", "bloom", "chameleon",
        "jina-v2-de",
        "a name that is longer than any name of a pre-tokenizer could ever be",
    };
    struct gguf_spec s = gguf_base();

    (void)state;
    for (int64_t i = 0; i < LEN(models); i++) {
        char part[64];
        s.model = models[i];
        snprintf(part, sizeof part, "\"%.50s", models[i]);
        refuse(&s, QSAE_EUNSUPPORTED, part);
    }
    s = gguf_byte_base();
    for (int64_t i = 0; i < LEN(pres); i++) {
        char part[64];
        s.pre = pres[i];
        snprintf(part, sizeof part, "\"%.50s", pres[i]);
        refuse(&s, QSAE_EUNSUPPORTED, part);
    }
    s.model = NULL;
    refuse(&s, QSAE_ENOENT, "tokenizer.ggml.model");
}

static void test_refused_lists(void **state)
{
    static const char *const repeated[] = { "a", "b", "a" };
    static const char *const torn[] = { "a", "\xc3", "b" };
    static const char *const zero[] = { "a", "<\0>", "b" };
    static const size_t sizes[] = { 1, 3, 1 };
    static const int32_t types[] = { 1, 3, 1 };
    int32_t wrong[N_PIECES];
    float nan[N_PIECES];
    char *longest = malloc(2000);
    const char *one[] = { "a", longest };
    struct gguf_spec s = gguf_base();

    (void)state;
    s.n_scores--;
    refuse(&s, QSAE_EFORMAT, "scores: 18 numbers for 19 tokens");
    s = gguf_base();
    s.n_types--;
    refuse(&s, QSAE_EFORMAT, "token_type: 18 numbers for 19 tokens");
    s = gguf_base();
    memcpy(wrong, gguf_piece_types, sizeof wrong);
    wrong[4] = 7;
    s.types = wrong;
    refuse(&s, QSAE_EFORMAT, "token 4: expected 0 to 6, found 7");
    wrong[4] = -1;
    refuse(&s, QSAE_EFORMAT, "found -1");
    s = gguf_base();
    memcpy(nan, gguf_piece_scores, sizeof nan);
    nan[5] = NAN;
    s.scores = nan;
    refuse(&s, QSAE_EFORMAT, "scores: token 5");
    s = gguf_base();
    s.tokens = NULL;
    refuse(&s, QSAE_EFORMAT, "tokens");
    s = gguf_base();
    s.n = s.n_types = s.n_scores = 0;
    refuse(&s, QSAE_EFORMAT, "0 tokens");
    s = (struct gguf_spec){ .model = "llama", .tokens = repeated, .n = 3, .bos = -1, .eos = -1,
                       .unk = -1, .pad = -1, .add_bos = -1, .add_eos = -1, .prefix = -1 };
    refuse(&s, QSAE_EFORMAT, "\"a\" is token 0 and token 2");
    s.tokens = torn;
    refuse(&s, QSAE_EFORMAT, "token 1 is not UTF-8");
    s.tokens = zero;
    s.sizes = sizes;
    s.types = types;
    s.n_types = 3;
    refuse(&s, QSAE_EUNSUPPORTED, "U+0000");
    assert_non_null(longest);
    memset(longest, 'a', 1999);
    longest[1999] = '\0';
    s.tokens = one;
    s.sizes = NULL;
    s.n = s.n_types = 2;
    refuse(&s, QSAE_EUNSUPPORTED, "token 1 has 1999 bytes");
    free(longest);
}

static void test_refused_ids(void **state)
{
    static const char *const merges[][1] = { { "ab" }, { "a  b" }, { " b" }, { "a x" }, { "a c" } };
    static const char *const two[] = { "ab", "a b" };
    static const char *const parts[] = {
        "expected \"a b\"", "\" b\"", "expected \"a b\"", "\"x\"", "\"ac\"",
    };
    struct gguf_spec s = gguf_base();

    (void)state;
    s.bos = N_PIECES;
    refuse(&s, QSAE_EFORMAT, "bos_token_id");
    s = gguf_base();
    s.eos = 4000000000;
    refuse(&s, QSAE_EFORMAT, "eos_token_id");
    s = gguf_base();
    s.unk = N_PIECES;
    refuse(&s, QSAE_EFORMAT, "unknown_token_id");
    s = gguf_byte_base();
    s.eos = -1;
    s.add_eos = 1;
    refuse(&s, QSAE_EFORMAT, "add_eos_token");
    s = gguf_byte_base();
    s.bos = -1;
    s.add_bos = 1;
    refuse(&s, QSAE_EFORMAT, "add_bos_token");
    s = gguf_byte_base();
    s.merges = NULL;
    refuse(&s, QSAE_EFORMAT, "merges");
    for (int64_t i = 0; i < LEN(merges); i++) {
        s.merges = merges[i];
        s.n_merges = 1;
        refuse(&s, QSAE_EFORMAT, parts[i]);
    }
    s.merges = two;
    s.n_merges = 2;
    refuse(&s, QSAE_EFORMAT, "merges[0]: expected \"a b\"");
}

/* Values of another type than llama.cpp writes. */
static void test_refused_types(void **state)
{
    static const char *const keys[] = {
        "model", "pre", "tokens", "scores", "token_type", "merges", "bos_token_id", "add_bos_token",
    };

    (void)state;
    for (int64_t i = 0; i < LEN(keys); i++) {
        struct gguf_spec s = gguf_byte_base();
        struct gguf_out o = { 0 };
        qsae_tokenizer *t = NULL;
        const float f = 1;
        if (i == 0)
            s.model = NULL;
        if (i == 1)
            s.pre = NULL;
        if (i == 2)
            s.tokens = NULL;
        if (i == 4)
            s.types = NULL;
        if (i == 5)
            s.merges = NULL;
        if (i == 6)
            s.bos = -1;
        gguf_make(&s, &o);
        gguf_put_array(&o, keys[i], QSAE__GGUF_F64, 0);
        if (i > 5) { /* an array of nothing is no number either; try a float */
            o.size -= 16;
            gguf_put_u32(&o, QSAE__GGUF_F32);
            gguf_put(&o, &f, 4);
        }
        memcpy(o.data + 16, &o.pairs, 8);
        test_write_bytes("t.gguf", o.data, o.size);
        free(o.data);
        assert_int_equal(qsae_tokenizer_open(test_ctx, test_path("t.gguf"), &t), QSAE_EFORMAT);
        assert_true(test_message(keys[i]));
    }
}

static void check_damaged(const struct gguf_out *o)
{
    uint32_t seed = 7;
    char *copy = malloc(o->size);

    assert_non_null(copy);
    for (size_t n = 0; n < o->size; n++) {
        qsae_tokenizer *t = NULL;
        test_write_bytes("t.gguf", o->data, n);
        if (qsae_tokenizer_open(test_ctx, test_path("t.gguf"), &t) == QSAE_OK)
            fail_msg("the first %zu of %zu bytes are no tokenizer", n, o->size);
    }
    for (int round = 0; round < 1000; round++) {
        qsae_tokenizer *t = NULL;
        int32_t ids[64];
        int64_t n;
        memcpy(copy, o->data, o->size);
        for (int i = 0; i <= round % 3; i++) {
            seed = seed * 1664525u + 1013904223u;
            copy[4 + (seed >> 8) % (o->size - 4)] = (char)(seed >> (round % 2 ? 24 : 3));
        }
        test_write_bytes("t.gguf", copy, o->size);
        if (qsae_tokenizer_open(test_ctx, test_path("t.gguf"), &t) == QSAE_OK)
            (void)qsae_tokenizer_encode(t, "abc  a<s>\xc3\xa9x'S", 14, 1, ids, 64, &n);
        qsae_tokenizer_close(&t);
    }
    free(copy);
}

/* Cut anywhere a file is refused; with bytes changed it is read or refused, never worse. */
static void test_damaged(void **state)
{
    struct gguf_spec s = gguf_base();
    struct gguf_out o = { 0 }, b = { 0 };

    (void)state;
    gguf_make(&s, &o);
    check_damaged(&o);
    free(o.data);
    s = gguf_byte_base();
    gguf_make(&s, &b);
    check_damaged(&b);
    free(b.data);
}

const struct CMUnitTest gguf_refused_tests[] = {
    cmocka_unit_test(test_refused_names),
    cmocka_unit_test(test_refused_lists),
    cmocka_unit_test(test_refused_ids),
    cmocka_unit_test(test_refused_types),
    cmocka_unit_test(test_damaged),
};
const size_t n_gguf_refused_tests = sizeof gguf_refused_tests / sizeof *gguf_refused_tests;
