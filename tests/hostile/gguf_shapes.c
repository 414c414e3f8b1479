/* SPDX-License-Identifier: BSD-2-Clause */
/* Tokenizers of GGUF files that grow, for scale.c. */
#include "shapes.h"
#include "support.h"

static void put_string(struct out *o, const char *s, size_t n)
{
    put_int(o, n, 8);
    put(o, s, n);
}

static void put_key(struct out *o, const char *key, uint32_t type)
{
    put_string(o, key, strlen(key));
    put_int(o, type, 4);
}

static void put_list(struct out *o, const char *key, uint32_t type, int64_t n)
{
    put_key(o, key, 9);
    put_int(o, type, 4);
    put_int(o, (uint64_t)n, 8);
}

/* A file of n tokens, of which `token` writes the texts, without scores. */
static void put_tokens(struct out *o, const char *model, int64_t n, int64_t pairs,
                       void (*token)(struct out *o, int64_t i))
{
    put(o, "GGUF", 4);
    put_int(o, 3, 4);
    put_int(o, 0, 8);
    put_int(o, (uint64_t)pairs, 8);
    put_key(o, "tokenizer.ggml.model", 8);
    put_string(o, model, strlen(model));
    put_list(o, "tokenizer.ggml.tokens", 8, n);
    for (int64_t i = 0; i < n; i++)
        token(o, i);
}

static void put_scores(struct out *o, int64_t n)
{
    put_list(o, "tokenizer.ggml.scores", 6, n);
    for (int64_t i = 0; i < n; i++) {
        const float score = -(float)i;
        put(o, &score, 4);
    }
}

/* The shortest names, with all the ways to cut them, every third; the others share nothing. */
static void put_hex(struct out *o, int64_t i)
{
    char text[24];
    const unsigned long long v = (unsigned long long)i / 3;
    const int size = i % 3 ? snprintf(text, sizeof text, "%c%c%llx", i % 3 == 1 ? 'h' : 'i',
                                      "klmnopqrstuvwxyz"[v % 16], v)
                           : snprintf(text, sizeof text, "%llx", v);
    put_string(o, text, (size_t)size);
}

static void make_pieces(struct out *o, int64_t n)
{
    put_tokens(o, "llama", n, 3, put_hex);
    put_scores(o, n);
}

/* a, aa, aaa, ... up to 64, and over and over behind other letters: nearly every cut of a token is
 * a merge of two. */
static void put_run(struct out *o, int64_t i)
{
    char text[68];
    memset(text, 'a', sizeof text);
    for (int k = 0; k < 4; k++)
        text[k] = (char)('a' + (i / 64 >> 4 * k & 15));
    put_string(o, text, (size_t)(i % 64) + (i < 64 ? 1 : 5));
}

static void make_runs(struct out *o, int64_t n)
{
    put_tokens(o, "llama", n, 3, put_run);
    put_scores(o, n);
}

/* Tokens of two of 4,096 characters, which are tokens, too: a merge each, and no two alike. */
static void put_pair(struct out *o, int64_t i)
{
    char text[8];
    size_t n = 0;
    for (int k = 0; k < (i < 4096 ? 1 : 2); k++) {
        const unsigned c = 0x4e00 + (unsigned)(i < 4096 ? i : k ? i * 2654435761 >> 12 & 4095
                                                                : i & 4095);
        text[n++] = (char)(0xe0 | c >> 12);
        text[n++] = (char)(0x80 | (c >> 6 & 63));
        text[n++] = (char)(0x80 | (c & 63));
    }
    put_string(o, text, n);
}

static void put_apart(struct out *o, int64_t i)
{
    char text[32];
    const unsigned long long v = (unsigned long long)i * UINT64_C(0x9e3779b97f4a7c15);
    put_string(o, text, (size_t)snprintf(text, sizeof text, "%016llx%08llx", v, v >> 32));
}

static void put_number(struct out *o, int64_t i)
{
    char text[24];
    put_string(o, text, (size_t)snprintf(text, sizeof text, "%llx", (long long)i));
}

static void put_defined(struct out *o, int64_t n)
{
    put_list(o, "tokenizer.ggml.token_type", 5, n);
    for (int64_t i = 0; i < n; i++)
        put_int(o, 4, 4);
}

/* User-defined tokens, which are looked for in a text by a tree: that share nothing, and that are
 * as short as can be. */
static void make_defined(struct out *o, int64_t n)
{
    put_tokens(o, "gpt2", n, 4, put_apart);
    put_list(o, "tokenizer.ggml.merges", 8, 0);
    put_defined(o, n);
}

static void make_short(struct out *o, int64_t n)
{
    put_tokens(o, "gpt2", n, 4, put_number);
    put_list(o, "tokenizer.ggml.merges", 8, 0);
    put_defined(o, n);
}

static void make_two(struct out *o, int64_t n)
{
    put_tokens(o, "llama", n + 4096, 3, put_pair);
    put_scores(o, n + 4096);
}

/* Characters that are no tokens. */
static void put_far(struct out *o, int64_t i)
{
    char text[400];
    size_t n = 0;
    for (int k = 0; k < 100; k++) {
        const unsigned c = 0x10000 + (unsigned)(i * 100 + k) % 0xfffff;
        text[n++] = (char)(0xf0 | c >> 18);
        text[n++] = (char)(0x80 | (c >> 12 & 63));
        text[n++] = (char)(0x80 | (c >> 6 & 63));
        text[n++] = (char)(0x80 | (c & 63));
    }
    put_string(o, text, n);
}

static void make_far(struct out *o, int64_t n)
{
    put_tokens(o, "llama", n / 8, 3, put_far);
    put_scores(o, n / 8);
}

/* Byte-level: what merges, in the file. */
static void put_word(struct out *o, int64_t i)
{
    char text[24];
    put_string(o, text, (size_t)(i < 2 ? snprintf(text, sizeof text, "%s", i ? "<" : "!")
                                       : snprintf(text, sizeof text, i % 2 ? "<%llx" : "%llx",
                                                  (long long)i / 2)));
}

static void make_words(struct out *o, int64_t n)
{
    char text[24];
    put_tokens(o, "gpt2", n, 3, put_word);
    put_list(o, "tokenizer.ggml.merges", 8, n / 2 - 1);
    for (int64_t i = 1; i < n / 2; i++)
        put_string(o, text, (size_t)snprintf(text, sizeof text, "< %llx", (long long)i));
}

const struct shape gguf_shapes[] = {
    { "gguf tokenizer: pieces", "x.gguf", make_pieces, open_tokenizer, QSAE_OK, 0, 0 },
    { "gguf tokenizer: two", "x.gguf", make_two, open_tokenizer, QSAE_OK, 0, 0 },
    { "gguf tokenizer: runs", "x.gguf", make_runs, open_tokenizer, QSAE_EUNSUPPORTED, 0, 0 },
    { "gguf tokenizer: defined", "x.gguf", make_defined, open_tokenizer, QSAE_EFORMAT, 0, 0 },
    { "gguf tokenizer: short", "x.gguf", make_short, open_tokenizer, QSAE_OK, 0, 0 },
    { "gguf tokenizer: far", "x.gguf", make_far, open_tokenizer, QSAE_EFORMAT, 0, 0 },
    { "gguf tokenizer: words", "x.gguf", make_words, open_tokenizer, QSAE_OK, 0, 0 },
};
const size_t n_gguf_shapes = sizeof gguf_shapes / sizeof *gguf_shapes;
