/* SPDX-License-Identifier: BSD-2-Clause */
/* Sliding windows, llama.cpp's ways and perplexity per byte and word against transformers in
 * binary64 (tests/reference/windows.py). */
#include <unistd.h>

#include "document.h"

#define STORIES QSAE_TEST_SHARED "/data/stories260k"

static void text_settings(qsae_audit_settings *s, const json_t *c)
{
    s->context = (int64_t)at(c, "window");
    s->stride = (int64_t)at(c, "stride");
    s->score_from = (int64_t)at(c, "score_from");
    s->max_tokens = (int64_t)at(c, "max_tokens");
    s->bos_policy = qsae_bos_from_name(text_at(c, "bos"));
}

/* f32 against binary64: 1e-6 of the mean is some ten times what the tokens' roundings leave. */
static void compare(const json_t *result, const json_t *want)
{
    const json_t *got = json_object_get(result, "reference"),
                 *corpus = json_object_get(result, "corpus");
    near("predicted", at(corpus, "predicted_tokens"), at(want, "predicted"), 0);
    near("ce", at(got, "ce"), at(want, "ce"), 1e-6);
    if (!json_object_get(want, "bytes"))
        return;
    near("bytes", at(corpus, "scored_bytes"), at(want, "bytes"), 0);
    near("words", at(corpus, "scored_words"), at(want, "words"), 0);
    near("byte_ppl", at(got, "byte_ppl"), at(want, "byte_ppl"), 1e-6);
    near("word_ppl", at(got, "word_ppl"), at(want, "word_ppl"), 1e-5);
    near("bits_per_byte", at(got, "bits_per_byte"), at(want, "bits_per_byte"), 1e-6);
}

static void run_cases(qsae_audit_settings *s, const char *name)
{
    json_error_t error;
    json_t *file = json_load_file(QSAE_TEST_DATA "/windows.json", 0, &error);
    assert_non_null(file);
    const json_t *model = json_object_get(file, name), *c;
    const char *key;
    qsae_context *ctx = open_context(NULL, 2);
    int n = 0;
    json_object_foreach(json_object_get(model, "cases"), key, c) {
        text_settings(s, c);
        json_t *result = run(ctx, s);
        print_message("%s %s\n", name, key);
        compare(result, c);
        json_decref(result);
        n++;
    }
    assert_true(n >= 3);
    qsae_context_close(&ctx);
    json_decref(file);
}

/* The first documents of the bundled text, in a file of their own. */
static void first_documents(const char *path, int n)
{
    FILE *in = fopen(DATA "/eval.jsonl", "rb"), *out = fopen(path, "wb");
    assert_non_null(in);
    assert_non_null(out);
    for (int c = fgetc(in); c != EOF && n > 0; c = fgetc(in)) {
        fputc(c, out);
        n -= c == '\n';
    }
    fclose(in);
    assert_int_equal(fclose(out), 0);
}

static void test_bundled(void **state)
{
    (void)state;
    char path[] = "/tmp/qsae-windows-XXXXXX.jsonl";
    const int fd = mkstemps(path, 6);
    assert_true(fd >= 0);
    close(fd);
    first_documents(path, 12);
    qsae_audit_settings s;
    defaults(&s);
    s.n_saes = 0;
    s.text = path;
    s.profile = QSAE_PROFILE_DEFAULT;
    run_cases(&s, "tiny-gemma3");
    unlink(path);
}

static void test_stories(void **state)
{
    (void)state;
    qsae_audit_settings s;
    if (access(STORIES "/config.json", R_OK) != 0) {
        print_message("skipped: no stories260k in ../shared\n");
        skip();
    }
    qsae_audit_settings_init(&s, sizeof s);
    s.model = STORIES;
    s.text = STORIES "/tinystories-valid.txt";
    s.compute = QSAE_COMPUTE_F32;
    run_cases(&s, "stories260k");
}

/* Every metric counts the scored positions and no other; no thread count, batch or stop shows. */
static void test_counts(void **state)
{
    (void)state;
    static const char *const nf4[] = { "nf4" };
    const int64_t batches[] = { 4, 3, 1 };
    json_t *first = NULL;
    for (int i = 0; i < 3; i++) {
        qsae_context *ctx = open_context(NULL, i + 1);
        qsae_audit_settings s;
        defaults(&s);
        s.profile = QSAE_PROFILE_PAPER;
        s.context = 128;
        s.stride = 48;
        s.max_tokens = 1500;
        s.batch = batches[i];
        s.conditions = nf4;
        s.n_conditions = 1;
        json_t *result = run(ctx, &s);
        const json_t *corpus = json_object_get(result, "corpus"), *c = condition_at(result, 0);
        const json_t *sae = json_array_get(json_object_get(c, "saes"), 0);
        const double scored = at(corpus, "predicted_tokens");
        near("stride", at(corpus, "stride"), 48, 0);
        near("scored", scored, 128 + 29 * 48 - 1, 0);
        near("windows", at(corpus, "chunks"), 30, 0);
        near("tokens", at(corpus, "tokens"), 30 * 128, 0);
        near("sae tokens", at(sae, "tokens"), scored, 0);
        near("excluded", at(sae, "excluded_tokens"), 30 * 128 - scored, 0);
        near("rows", at(c, "tokens"), scored, 0);
        json_t *ce = json_object_get(json_object_get(result, "reference"), "ce");
        if (!first)
            first = json_incref(ce);
        assert_true(json_equal(first, ce));
        json_decref(result);
        qsae_context_close(&ctx);
    }
    json_decref(first);
}

/* Another stride is another measurement. */
static void test_fingerprint(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 1);
    char seen[4][64];
    for (int i = 0; i < 4; i++) {
        qsae_audit_settings s;
        qsae_audit *audit;
        defaults(&s);
        s.max_tokens = 512;
        s.stride = i == 1 ? 128 : i == 2 ? 256 : 0;
        s.score_from = i == 3 ? 1 : 0;
        assert_ok(qsae_audit_open(ctx, &s, &audit));
        json_t *result = result_of(audit);
        assert_true(null_at(json_object_get(result, "reference"), "byte_ppl"));
        snprintf(seen[i], sizeof seen[i], "%s", text_at(result, "fingerprint"));
        for (int k = 0; k < i; k++)
            assert_string_not_equal(seen[i], seen[k]);
        json_decref(result);
        qsae_audit_close(&audit);
    }
    qsae_context_close(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bundled), cmocka_unit_test(test_stories),
        cmocka_unit_test(test_counts),  cmocka_unit_test(test_fingerprint),
    };
    return cmocka_run_group_tests_name("windows", tests, NULL, NULL);
}
