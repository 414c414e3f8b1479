/* SPDX-License-Identifier: BSD-2-Clause */
/* Small GGUF files, made key by key. */
#ifndef QSAE_TESTS_MODEL_GGUF_FILE_H
#define QSAE_TESTS_MODEL_GGUF_FILE_H

#include "model_test.h"

#include "formats/gguf.h"
#include "model/gguf.h"

struct file {
    uint8_t data[32768];
    size_t n;
    size_t body;        /* bytes of tensors so far */
    uint64_t tensors, pairs;
    uint8_t infos[8192];
    size_t n_infos;
};

static inline void put(uint8_t *data, size_t *at, size_t size, const void *p, size_t n)
{
    assert_true(*at + n <= size);
    memcpy(data + *at, p, n);
    *at += n;
}

static inline void put_int(struct file *f, bool info, uint64_t v, int bytes)
{
    uint8_t b[8];
    for (int i = 0; i < bytes; i++)
        b[i] = (uint8_t)(v >> (8 * i));
    put(info ? f->infos : f->data, info ? &f->n_infos : &f->n,
        info ? sizeof f->infos : sizeof f->data, b, (size_t)bytes);
}

static inline void put_str(struct file *f, bool info, const char *s)
{
    put_int(f, info, strlen(s), 8);
    put(info ? f->infos : f->data, info ? &f->n_infos : &f->n,
        info ? sizeof f->infos : sizeof f->data, s, strlen(s));
}

static inline void start(struct file *f)
{
    *f = (struct file){ .n = 24 };
}

static inline void add_int(struct file *f, const char *key, uint32_t v)
{
    put_str(f, false, key);
    put_int(f, false, QSAE__GGUF_U32, 4);
    put_int(f, false, v, 4);
    f->pairs++;
}

static inline void add_f32(struct file *f, const char *key, float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    put_str(f, false, key);
    put_int(f, false, QSAE__GGUF_F32, 4);
    put_int(f, false, bits, 4);
    f->pairs++;
}

static inline void add_str(struct file *f, const char *key, const char *s)
{
    put_str(f, false, key);
    put_int(f, false, QSAE__GGUF_STRING, 4);
    put_str(f, false, s);
    f->pairs++;
}

static inline void add_bool(struct file *f, const char *key, bool v)
{
    put_str(f, false, key);
    put_int(f, false, QSAE__GGUF_BOOL, 4);
    put_int(f, false, v, 1);
    f->pairs++;
}

static inline void add_ints(struct file *f, const char *key, const int32_t *v, int n)
{
    put_str(f, false, key);
    put_int(f, false, QSAE__GGUF_ARRAY, 4);
    put_int(f, false, QSAE__GGUF_I32, 4);
    put_int(f, false, (uint64_t)n, 8);
    for (int i = 0; i < n; i++)
        put_int(f, false, (uint64_t)v[i], 4);
    f->pairs++;
}

enum { TYPE_F32 = 0, TYPE_F16 = 1, TYPE_Q8_0 = 8, TYPE_I32 = 26, TYPE_BF16 = 30 };

/* Of a ggml type: [rows, cols], [rows] if cols is 0, [rows, cols, 1] of rank 3. */
static inline void add_typed(struct file *f, const char *name, uint32_t type, uint32_t rank,
                             uint64_t rows, uint64_t cols)
{
    const uint64_t n = rows * (cols ? cols : 1);
    put_str(f, true, name);
    put_int(f, true, rank, 4);
    if (rank == 3)
        put_int(f, true, 1, 8);
    if (cols)
        put_int(f, true, cols, 8);
    put_int(f, true, rows, 8);
    put_int(f, true, type, 4);
    put_int(f, true, f->body, 8);
    const uint64_t bytes = type == TYPE_Q8_0                          ? n / 32 * 34
                           : type == TYPE_F16 || type == TYPE_BF16 ? n * 2
                                                                      : n * 4;
    f->body += (bytes + 31) / 32 * 32;
    f->tensors++;
}

/* F32 [rows, cols], or [rows] if cols is 0. */
static inline void add_tensor(struct file *f, const char *name, uint64_t rows, uint64_t cols)
{
    add_typed(f, name, TYPE_F32, cols ? 2 : 1, rows, cols);
}

/* Writes the file; tensors hold 1, 2, 3, ... */
static inline const char *finish(struct file *f)
{
    static char path[600];
    size_t at = 0;
    uint8_t head[24] = "GGUF\3";
    for (int i = 0; i < 8; i++) {
        head[8 + i] = (uint8_t)(f->tensors >> (8 * i));
        head[16 + i] = (uint8_t)(f->pairs >> (8 * i));
    }
    put(f->data, &at, sizeof f->data, head, sizeof head);
    put(f->data, &f->n, sizeof f->data, f->infos, f->n_infos);
    f->n = (f->n + 31) / 32 * 32;
    for (size_t i = 0; i < f->body / 4; i++) {
        const float v = (float)(i + 1);
        put(f->data, &f->n, sizeof f->data, &v, sizeof v);
    }
    test_write("made.gguf", f->data, f->n);
    snprintf(path, sizeof path, "%s/made.gguf", test_folder());
    return path;
}

/* A llama of one block: width 4, 2 heads, 1 key head, MLP 8, 6 words; left open. */
static inline void start_llama(struct file *f)
{
    start(f);
    add_str(f, "general.architecture", "llama");
    add_int(f, "llama.block_count", 1);
    add_int(f, "llama.context_length", 16);
    add_int(f, "llama.embedding_length", 4);
    add_int(f, "llama.feed_forward_length", 8);
    add_int(f, "llama.attention.head_count", 2);
    add_int(f, "llama.attention.head_count_kv", 1);
    add_f32(f, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    add_tensor(f, "token_embd.weight", 6, 4);
    add_tensor(f, "output_norm.weight", 4, 0);
    add_tensor(f, "blk.0.attn_norm.weight", 4, 0);
    add_tensor(f, "blk.0.attn_q.weight", 4, 4);
    add_tensor(f, "blk.0.attn_k.weight", 2, 4);
    add_tensor(f, "blk.0.attn_v.weight", 2, 4);
    add_tensor(f, "blk.0.attn_output.weight", 4, 4);
    add_tensor(f, "blk.0.ffn_norm.weight", 4, 0);
    add_tensor(f, "blk.0.ffn_gate.weight", 8, 4);
    add_tensor(f, "blk.0.ffn_up.weight", 8, 4);
    add_tensor(f, "blk.0.ffn_down.weight", 4, 8);
}

static inline void start_gemma3(struct file *f)
{
    start(f);
    add_str(f, "general.architecture", "gemma3");
    add_int(f, "gemma3.block_count", 2);
    add_int(f, "gemma3.context_length", 16);
    add_int(f, "gemma3.embedding_length", 4);
    add_int(f, "gemma3.feed_forward_length", 8);
    add_int(f, "gemma3.attention.head_count", 2);
    add_int(f, "gemma3.attention.key_length", 4);
    add_f32(f, "gemma3.attention.layer_norm_rms_epsilon", 1e-6f);
    add_tensor(f, "token_embd.weight", 6, 4);
    add_tensor(f, "output_norm.weight", 4, 0);
}

static inline void refused(qsae_context *ctx, struct file *f, int32_t status, const char *part)
{
    qsae_weights *w = NULL;
    REFUSED(qsae_weights_open(ctx, finish(f), &w), status, part);
    assert_null(w);
    assert_non_null(strstr(qsae_error_message(), "made.gguf"));
}

#endif
