/* SPDX-License-Identifier: BSD-2-Clause */
#include "gguf_file.h"

void gguf_put(struct gguf_out *o, const void *p, size_t n)
{
    while (o->size + n > o->room) {
        o->room = o->room * 2 + 4096;
        o->data = realloc(o->data, o->room);
        assert_non_null(o->data);
    }
    memcpy(o->data + o->size, p, n);
    o->size += n;
}

void gguf_put_u32(struct gguf_out *o, uint32_t v)
{
    gguf_put(o, &v, 4);
}

static void put_u64(struct gguf_out *o, uint64_t v)
{
    gguf_put(o, &v, 8);
}

static void put_bytes(struct gguf_out *o, const char *s, size_t n)
{
    put_u64(o, n);
    gguf_put(o, s, n);
}

static void put_key(struct gguf_out *o, const char *key, uint32_t type)
{
    char name[64];

    snprintf(name, sizeof name, "%s%s", strchr(key, '.') != NULL ? "" : "tokenizer.ggml.", key);
    put_bytes(o, name, strlen(name));
    gguf_put_u32(o, type);
    o->pairs++;
}

static void put_string(struct gguf_out *o, const char *key, const char *s)
{
    put_key(o, key, QSAE__GGUF_STRING);
    put_bytes(o, s, strlen(s));
}

static void put_number(struct gguf_out *o, const char *key, int64_t v)
{
    put_key(o, key, QSAE__GGUF_U32);
    gguf_put_u32(o, (uint32_t)v);
}

static void put_bool(struct gguf_out *o, const char *key, int v)
{
    const uint8_t byte = (uint8_t)v;

    put_key(o, key, QSAE__GGUF_BOOL);
    gguf_put(o, &byte, 1);
}

void gguf_put_array(struct gguf_out *o, const char *key, uint32_t type, int64_t n)
{
    put_key(o, key, QSAE__GGUF_ARRAY);
    gguf_put_u32(o, type);
    put_u64(o, (uint64_t)n);
}

/* Strings of known sizes; sizes NULL: NUL-terminated. */
static void put_strings(struct gguf_out *o, const char *key, const char *const *s,
                        const size_t *sizes, int64_t n)
{
    gguf_put_array(o, key, QSAE__GGUF_STRING, n);
    for (int64_t i = 0; i < n; i++)
        put_bytes(o, s[i], sizes != NULL ? sizes[i] : strlen(s[i]));
}

void gguf_make(const struct gguf_spec *s, struct gguf_out *o)
{
    gguf_put(o, "GGUF", 4);
    gguf_put_u32(o, 3);
    put_u64(o, 0);
    put_u64(o, 0);
    if (s->name != NULL)
        put_string(o, "general.name", s->name);
    if (s->model != NULL)
        put_string(o, "model", s->model);
    if (s->pre != NULL)
        put_string(o, "pre", s->pre);
    if (s->tokens != NULL)
        put_strings(o, "tokens", s->tokens, s->sizes, s->n);
    if (s->scores != NULL) {
        gguf_put_array(o, "scores", QSAE__GGUF_F32, s->n_scores);
        gguf_put(o, s->scores, (size_t)s->n_scores * sizeof *s->scores);
    }
    if (s->types != NULL) {
        gguf_put_array(o, "token_type", QSAE__GGUF_I32, s->n_types);
        gguf_put(o, s->types, (size_t)s->n_types * sizeof *s->types);
    }
    if (s->merges != NULL)
        put_strings(o, "merges", s->merges, NULL, s->n_merges);
    if (s->bos >= 0)
        put_number(o, "bos_token_id", s->bos);
    if (s->eos >= 0)
        put_number(o, "eos_token_id", s->eos);
    if (s->unk >= 0)
        put_number(o, "unknown_token_id", s->unk);
    if (s->pad >= 0)
        put_number(o, "padding_token_id", s->pad);
    if (s->add_bos >= 0)
        put_bool(o, "add_bos_token", s->add_bos);
    if (s->add_eos >= 0)
        put_bool(o, "add_eos_token", s->add_eos);
    if (s->prefix >= 0)
        put_bool(o, "add_space_prefix", s->prefix);
    memcpy(o->data + 16, &o->pairs, 8);
}

int32_t gguf_open(const struct gguf_spec *s, qsae_tokenizer **out)
{
    struct gguf_out o = { 0 };

    gguf_make(s, &o);
    test_write_bytes("t.gguf", o.data, o.size);
    free(o.data);
    return qsae_tokenizer_open(test_ctx, test_path("t.gguf"), out);
}

const char *const gguf_pieces[N_PIECES] = {
    "<unk>", "<s>", "</s>", "<0x41>", "a", "b", "c", MARK, "ab", "bc", "abc", MARK "a", "<u>",
    "  ", "<0xC3>", "<0xA9>", "xa", "", "<turn>",
};
const int32_t gguf_piece_types[N_PIECES] = {
    2, 3, 3, 6, 1, 1, 1, 1, 1, 1, 1, 1, 4, 4, 6, 6, 1, 5, 3,
};
const float gguf_piece_scores[N_PIECES] = {
    0, 0, 0, 0, -9, -9, -9, -9, -3, -2, -4, -5, 0, 0, 0, 0, -6, 0, 0,
};

struct gguf_spec gguf_base(void)
{
    return (struct gguf_spec){
        .model = "llama", .tokens = gguf_pieces, .types = gguf_piece_types,
        .scores = gguf_piece_scores, .n = N_PIECES, .n_types = N_PIECES, .n_scores = N_PIECES,
        .bos = 1, .eos = 2, .unk = 0, .pad = -1, .add_bos = -1, .add_eos = -1, .prefix = -1,
    };
}

static const char *const byte_tokens[] = {
    "a", "b", "c", "\u0120", "ab", "abc", "\u0120a", "<end>", "'", "S", "'S",
};
static const int32_t byte_types[] = { 1, 1, 1, 1, 1, 1, 1, 3, 1, 1, 1 };
static const char *const byte_merges[] = { "a b", "ab c", "\u0120 a", "' S", "ab c" };

struct gguf_spec gguf_byte_base(void)
{
    return (struct gguf_spec){
        .model = "gpt2", .pre = "llama-bpe", .tokens = byte_tokens, .types = byte_types,
        .n = LEN(byte_tokens), .n_types = LEN(byte_types), .merges = byte_merges,
        .n_merges = LEN(byte_merges), .bos = 7, .eos = 7, .unk = -1, .pad = -1, .add_bos = -1,
        .add_eos = -1, .prefix = -1,
    };
}
