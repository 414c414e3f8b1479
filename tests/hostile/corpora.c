/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Texts that grow, for scale.c. What a text becomes is data: of a token 24 bytes stay, of 40 while
 * it is read, of a document 40 of 72. The trees of lines are bounded as those of other JSON.
 */
#include "shapes.h"
#include "support.h"

static int32_t open_corpus(qsae_context *ctx, const char *folder, const char *file)
{
    char path[128];
    qsae_tokenizer *t = NULL;
    qsae_corpus *c = NULL;
    qsae_corpus_settings s;
    assert_ok(qsae_tokenizer_open(ctx, QSAE_FUZZ_FIXTURE, &t));
    qsae_corpus_settings_init(&s, sizeof s);
    s.context = 128;
    snprintf(path, sizeof path, "%s/%s", folder, file);
    const int32_t status = qsae_corpus_open(ctx, t, path, &s, &c);
    qsae_corpus_close(&c);
    qsae_tokenizer_close(&t);
    return status;
}

/* One document in which every byte is a token. */
static void make_letters(struct out *o, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        put_text(o, "bbbbbbbb");
}

/* Documents of a letter. */
static void make_lines(struct out *o, int64_t n)
{
    for (int64_t i = 0; i < 128 + n; i++)
        put_text(o, "{\"text\":\"b\"}\n");
}

/* Metadata that is kept at five times its size: 0.1 has 17 digits. */
static void make_numbers(struct out *o, int64_t n)
{
    for (int64_t i = 0; i < n; i += 100) {
        put_text(o, "{\"text\":\"ab te ab te ab te ab te ab te ab te ab te ab te\",\"x\":[0");
        for (int64_t k = 0; k < 100; k++)
            put_text(o, ",0.1");
        put_text(o, "]}\n");
    }
}

/* A line that is a list of empty lists: 20 bytes per byte as a tree. */
static void make_lists(struct out *o, int64_t n)
{
    put_text(o, "{\"text\":\"ab te\",\"x\":[");
    for (int64_t i = 0; i < 50000 + 4 * n; i++)
        put_text(o, "%s[]", i ? "," : "");
    put_text(o, "]}\n");
}

/* The same, few enough to be read, in many lines. */
static void make_few_lists(struct out *o, int64_t n)
{
    for (int64_t i = 0; i < n; i += 100) {
        put_text(o, "{\"text\":\"ab te ab te ab te ab te ab te ab te ab te ab te\",\"x\":[");
        for (int64_t k = 0; k < 100; k++)
            put_text(o, "%s[]", k ? "," : "");
        put_text(o, "]}\n");
    }
}

const struct shape corpus_shapes[] = {
    { "text: letters", "x.txt", make_letters, open_corpus, QSAE_OK, 0, 44 },
    { "text: lines", "x.jsonl", make_lines, open_corpus, QSAE_OK, 0, 16 },
    { "text: numbers", "x.jsonl", make_numbers, open_corpus, QSAE_OK, 0, 12 },
    { "text: lists", "x.jsonl", make_lists, open_corpus, QSAE_EFORMAT, 0, 0 },
    { "text: few lists", "x.jsonl", make_few_lists, open_corpus, QSAE_OK, 0, 0 },
};
const size_t n_corpus_shapes = sizeof corpus_shapes / sizeof *corpus_shapes;
