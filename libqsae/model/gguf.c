/* SPDX-License-Identifier: BSD-2-Clause */
/* What llama.cpp's convert_hf_to_gguf.py does to a checkpoint, undone. */
#include "model/gguf_build.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "formats/set.h"
#include "kernels/half.h"

/* What no architecture says otherwise. */
static const qsae__gguf_row common_rows[] = {
    { "token_embd", "model.embed_tokens", QSAE__UNDO_NOTHING, false },
    { "output", "lm_head", QSAE__UNDO_NOTHING, false },
    { "blk.*.attn_v", "model.layers.*.self_attn.v_proj", QSAE__UNDO_NOTHING, true },
    { "blk.*.attn_output", "model.layers.*.self_attn.o_proj", QSAE__UNDO_NOTHING, true },
    { NULL, NULL, QSAE__UNDO_NOTHING, false },
};

/* Rows of q and k are as in the checkpoint. */
static const qsae__gguf_row plain_qk_rows[] = {
    { "blk.*.attn_q", "model.layers.*.self_attn.q_proj", QSAE__UNDO_NOTHING, true },
    { "blk.*.attn_k", "model.layers.*.self_attn.k_proj", QSAE__UNDO_NOTHING, true },
    { NULL, NULL, QSAE__UNDO_NOTHING, false },
};

static const qsae__gguf_row turned_qk_rows[] = {
    { "blk.*.attn_q", "model.layers.*.self_attn.q_proj", QSAE__UNDO_Q, true },
    { "blk.*.attn_k", "model.layers.*.self_attn.k_proj", QSAE__UNDO_K, true },
    { NULL, NULL, QSAE__UNDO_NOTHING, false },
};

static const qsae__gguf_row mlp_rows[] = {
    { "blk.*.ffn_gate", "model.layers.*.mlp.gate_proj", QSAE__UNDO_NOTHING, false },
    { "blk.*.ffn_up", "model.layers.*.mlp.up_proj", QSAE__UNDO_NOTHING, false },
    { "blk.*.ffn_down", "model.layers.*.mlp.down_proj", QSAE__UNDO_NOTHING, false },
    { NULL, NULL, QSAE__UNDO_NOTHING, false },
};

static const qsae__gguf_row biased_mlp_rows[] = {
    { "blk.*.ffn_gate", "model.layers.*.mlp.gate_proj", QSAE__UNDO_NOTHING, true },
    { "blk.*.ffn_up", "model.layers.*.mlp.up_proj", QSAE__UNDO_NOTHING, true },
    { "blk.*.ffn_down", "model.layers.*.mlp.down_proj", QSAE__UNDO_NOTHING, true },
    { NULL, NULL, QSAE__UNDO_NOTHING, false },
};

static const qsae__gguf_row llama_norm_rows[] = {
    { "output_norm", "model.norm", QSAE__UNDO_NOTHING, false },
    { "blk.*.attn_norm", "model.layers.*.input_layernorm", QSAE__UNDO_NOTHING, false },
    { "blk.*.ffn_norm", "model.layers.*.post_attention_layernorm", QSAE__UNDO_NOTHING, false },
    { NULL, NULL, QSAE__UNDO_NOTHING, false },
};

static const qsae__gguf_row gemma_norm_rows[] = {
    { "output_norm", "model.norm", QSAE__UNDO_ONE, false },
    { "blk.*.attn_norm", "model.layers.*.input_layernorm", QSAE__UNDO_ONE, false },
    { "blk.*.post_attention_norm", "model.layers.*.post_attention_layernorm", QSAE__UNDO_ONE,
      false },
    { "blk.*.ffn_norm", "model.layers.*.pre_feedforward_layernorm", QSAE__UNDO_ONE, false },
    { "blk.*.post_ffw_norm", "model.layers.*.post_feedforward_layernorm", QSAE__UNDO_ONE, false },
    { NULL, NULL, QSAE__UNDO_NOTHING, false },
};

static const qsae__gguf_row gemma3_rows[] = {
    { "blk.*.attn_q_norm", "model.layers.*.self_attn.q_norm", QSAE__UNDO_ONE, false },
    { "blk.*.attn_k_norm", "model.layers.*.self_attn.k_norm", QSAE__UNDO_ONE, false },
    { NULL, NULL, QSAE__UNDO_NOTHING, false },
};

static const qsae__gguf_row qwen3_rows[] = {
    { "blk.*.attn_q_norm", "model.layers.*.self_attn.q_norm", QSAE__UNDO_NOTHING, false },
    { "blk.*.attn_k_norm", "model.layers.*.self_attn.k_norm", QSAE__UNDO_NOTHING, false },
    { NULL, NULL, QSAE__UNDO_NOTHING, false },
};

static const qsae__gguf_row llama_rows[] = {
    { "rope_freqs", NULL, QSAE__UNDO_FACTORS, false },
    { NULL, NULL, QSAE__UNDO_NOTHING, false },
};

static const qsae__gguf_row gpt_neox_rows[] = {
    { "token_embd", "gpt_neox.embed_in", QSAE__UNDO_NOTHING, false },
    { "output", "embed_out", QSAE__UNDO_NOTHING, false },
    { "output_norm", "gpt_neox.final_layer_norm", QSAE__UNDO_NOTHING, true },
    { "blk.*.attn_norm", "gpt_neox.layers.*.input_layernorm", QSAE__UNDO_NOTHING, true },
    { "blk.*.ffn_norm", "gpt_neox.layers.*.post_attention_layernorm", QSAE__UNDO_NOTHING, true },
    { "blk.*.attn_qkv", "gpt_neox.layers.*.attention.query_key_value", QSAE__UNDO_QKV, true },
    { "blk.*.attn_output", "gpt_neox.layers.*.attention.dense", QSAE__UNDO_NOTHING, true },
    { "blk.*.ffn_up", "gpt_neox.layers.*.mlp.dense_h_to_4h", QSAE__UNDO_NOTHING, true },
    { "blk.*.ffn_down", "gpt_neox.layers.*.mlp.dense_4h_to_h", QSAE__UNDO_NOTHING, true },
    { NULL, NULL, QSAE__UNDO_NOTHING, false },
};

/* The converter transposes the matrices of layers to [out, in]: so they are read (weights.c). */
static const qsae__gguf_row gpt2_rows[] = {
    { "token_embd", "transformer.wte", QSAE__UNDO_NOTHING, false },
    { "position_embd", "transformer.wpe", QSAE__UNDO_NOTHING, false },
    { "output", "lm_head", QSAE__UNDO_NOTHING, false },
    { "output_norm", "transformer.ln_f", QSAE__UNDO_NOTHING, true },
    { "blk.*.attn_norm", "transformer.h.*.ln_1", QSAE__UNDO_NOTHING, true },
    { "blk.*.ffn_norm", "transformer.h.*.ln_2", QSAE__UNDO_NOTHING, true },
    { "blk.*.attn_qkv", "transformer.h.*.attn.c_attn", QSAE__UNDO_NOTHING, true },
    { "blk.*.attn_output", "transformer.h.*.attn.c_proj", QSAE__UNDO_NOTHING, true },
    { "blk.*.ffn_up", "transformer.h.*.mlp.c_fc", QSAE__UNDO_NOTHING, true },
    { "blk.*.ffn_down", "transformer.h.*.mlp.c_proj", QSAE__UNDO_NOTHING, true },
    { NULL, NULL, QSAE__UNDO_NOTHING, false },
};

static const qsae__gguf_family architectures[] = {
    { "llama", "llama",
      { common_rows, turned_qk_rows, biased_mlp_rows, llama_norm_rows, llama_rows },
      qsae__gguf_llama, false },
    { "gemma3", "gemma3_text",
      { common_rows, plain_qk_rows, mlp_rows, gemma_norm_rows, gemma3_rows },
      qsae__gguf_gemma3, false },
    { "gemma2", "gemma2", { common_rows, plain_qk_rows, mlp_rows, gemma_norm_rows },
      qsae__gguf_gemma2, false },
    { "qwen3", "qwen3", { common_rows, plain_qk_rows, mlp_rows, llama_norm_rows, qwen3_rows },
      qsae__gguf_llama, false }, /* the same keys */
    { "gptneox", "gpt_neox", { gpt_neox_rows }, qsae__gguf_gpt_neox, true },
    { "gpt2", "gpt2", { gpt2_rows }, qsae__gguf_gpt2, true },
};

/* Row of one table for `rest` of a name, which in a block begins behind its number. */
static const qsae__gguf_row *find_in(const qsae__gguf_row *rows, const char *rest, bool in_block,
                                     const char **suffix)
{
    for (const qsae__gguf_row *r = rows; r->gguf; r++) {
        const char *const want = in_block ? strchr(r->gguf, '*') : r->gguf;
        const size_t n = want ? strlen(want + in_block) : 0;
        if (!want || strncmp(rest, want + in_block, n) != 0)
            continue;
        *suffix = rest + n;
        if (!strcmp(*suffix, ".weight") || (r->bias && !strcmp(*suffix, ".bias")))
            return r;
    }
    return NULL;
}

/* Row of a tensor's name, or NULL: *block is its number or -1, *suffix ".weight" or ".bias". */
static const qsae__gguf_row *find_row(const qsae__gguf_build *b, const char *name, int64_t *block,
                                      const char **suffix)
{
    const char *rest = name;
    *block = -1;
    if (!strncmp(name, "blk.", 4)) {
        *block = 0;
        for (rest = name + 4; *rest >= '0' && *rest <= '9' && *block < QSAE__GGUF_BLOCKS; rest++)
            *block = *block * 10 + (*rest - '0');
        if (rest == name + 4 || *rest != '.' || (name[4] == '0' && rest != name + 5))
            return NULL;
    }
    for (int i = 0; i < QSAE__GGUF_TABLES && b->arch->tables[i]; i++) {
        const qsae__gguf_row *const r = find_in(b->arch->tables[i], rest, *block >= 0, suffix);
        if (r)
            return r;
    }
    return NULL;
}

/* "model.layers.3.self_attn.q_proj" + suffix, in the set's memory. */
static char *hf_name(const qsae__gguf_build *b, const char *pattern, int64_t block,
                     const char *suffix)
{
    const size_t size = strlen(pattern) + strlen(suffix) + 24;
    const char *const star = strchr(pattern, '*');
    char *const name = qsae__set_alloc(b->out, size);
    if (name && star)
        snprintf(name, size, "%.*s%" PRId64 "%s%s", (int)(star - pattern), pattern, block, star + 1,
                 suffix);
    else if (name)
        snprintf(name, size, "%s%s", pattern, suffix);
    return name;
}

/* Whole rows of bytes: [rows, in] of any type, or [rows] of one that is not in blocks. */
static bool has_rows(const qsae__tensor *t)
{
    return t->rank <= 2 && (t->rank != 1 || qsae_dtype_bits(t->dtype) != 0);
}

static int32_t check_qkv(const qsae__tensor *t, int64_t rows)
{
    if (has_rows(t) && t->shape[0] == rows)
        return QSAE_OK;
    return qsae__fail(QSAE_EFORMAT, "%s: tensor \"%s\": expected %" PRId64 " rows, of q, k and v, "
                      "found %" PRId64 " (%s of rank %d)", t->file, t->name, rows, t->shape[0],
                      qsae_dtype_name(t->dtype), t->rank);
}

/* GGUF row 2 k + i of a head is row i * d / 2 + k of the checkpoint (i = 0, 1), whole rows of
 * bytes: [heads * d, in] of any type, or a bias [heads * d]. */
static int32_t interleaved(const qsae__gguf_build *b, int64_t heads, qsae__tensor *t)
{
    const int64_t rows = t->shape[0], d = rows / heads;
    if (!has_rows(t) || rows % heads != 0 || d % 2 != 0)
        return qsae__fail(QSAE_EFORMAT, "%s: tensor \"%s\": %" PRId64 " rows (%s of rank %d) are "
                          "no %" PRId64 " heads of even size", t->file, t->name, rows,
                          qsae_dtype_name(t->dtype), t->rank, heads);
    const uint64_t size = t->bytes / (uint64_t)rows;
    uint8_t *const copy = qsae__set_alloc(b->out, t->bytes);
    if (!copy)
        return QSAE_ENOMEM;
    for (int64_t r = 0; r < rows; r++) {
        const int64_t i = r % d, from = r - i + 2 * (i % (d / 2)) + i / (d / 2);
        memcpy(copy + (uint64_t)r * size, (const uint8_t *)t->data + (uint64_t)from * size, size);
    }
    t->data = copy;
    return QSAE_OK;
}

/* Row (j H + h) d + i of the file is row (3 h + j) d + i of the checkpoint: of head h entry i of q,
 * k or v (j = 0, 1, 2). */
static int32_t by_head(const qsae__gguf_build *b, qsae__tensor *t)
{
    const int64_t rows = t->shape[0], d = b->head_dim;
    const int32_t st = check_qkv(t, 3 * b->heads * d);
    if (st != QSAE_OK)
        return st;
    const uint64_t size = t->bytes / (uint64_t)rows * (uint64_t)d;
    uint8_t *const copy = qsae__set_alloc(b->out, t->bytes);
    if (!copy)
        return QSAE_ENOMEM;
    for (int64_t h = 0; h < b->heads; h++)
        for (int64_t j = 0; j < 3; j++)
            memcpy(copy + (uint64_t)(3 * h + j) * size,
                   (const uint8_t *)t->data + (uint64_t)(j * b->heads + h) * size, size);
    t->data = copy;
    return QSAE_OK;
}

/* The subtraction is in f32, as the converter's addition was. */
static int32_t minus_one(const qsae__gguf_build *b, qsae__tensor *t)
{
    if (t->rank != 1 || (t->dtype != QSAE_F32 && t->dtype != QSAE_F16 && t->dtype != QSAE_BF16))
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: tensor \"%s\": %s of rank %d is not supported in "
                          "a norm (F32, F16, BF16 vectors are)", t->file, t->name,
                          qsae_dtype_name(t->dtype), t->rank);
    float *const w = qsae__set_alloc(b->out, (size_t)t->shape[0] * sizeof *w);
    if (!w)
        return QSAE_ENOMEM;
    for (int64_t i = 0; i < t->shape[0]; i++) {
        uint16_t half = 0;
        if (t->dtype == QSAE_F32)
            memcpy(&w[i], (const uint8_t *)t->data + i * 4, 4);
        else
            memcpy(&half, (const uint8_t *)t->data + i * 2, 2);
        if (t->dtype == QSAE_F16)
            w[i] = qsae__f16_to_f32(half);
        else if (t->dtype == QSAE_BF16)
            w[i] = qsae__bf16_to_f32(half);
        w[i] -= 1.0f;
    }
    t->data = w;
    t->dtype = QSAE_F32;
    t->bytes = (uint64_t)t->shape[0] * sizeof *w;
    return QSAE_OK;
}

/* config.json can only say of all projections that they have biases: those the file lacks are zero.
 * weight: as the file has it. */
static int32_t fill_bias(qsae__gguf_build *b, const qsae__gguf_row *row, int64_t block,
                         const qsae__tensor *weight)
{
    const size_t n = strlen(weight->name) - strlen("weight");
    qsae__tensor t = { .file = weight->file, .rank = 1, .dtype = QSAE_F32 };
    char name[80];
    if (!(strstr(row->hf, ".self_attn.") ? b->attention_bias : b->mlp_bias) ||
        n + sizeof "bias" > sizeof name)
        return QSAE_OK;
    memcpy(name, weight->name, n);
    memcpy(name + n, "bias", sizeof "bias");
    if (qsae__tensors_find(b->raw, name))
        return QSAE_OK;
    t.name = hf_name(b, row->hf, block, ".bias");
    t.shape[0] = weight->shape[0];
    if (!t.name || !qsae__shape_bytes(t.shape, t.rank, t.dtype, &t.bytes))
        return qsae__fail(QSAE_ENOMEM, "%s: out of memory", b->path);
    void *const zeros = qsae__set_alloc(b->out, t.bytes);
    if (!zeros)
        return QSAE_ENOMEM;
    memset(zeros, 0, t.bytes);
    t.data = zeros;
    return qsae__set_add(b->out, &t);
}

static int32_t rename_tensor(qsae__gguf_build *b, const qsae__tensor *from)
{
    qsae__tensor t = *from;
    const char *suffix = NULL;
    int64_t block = -1;
    const qsae__gguf_row *const row = find_row(b, from->name, &block, &suffix);
    int32_t st = QSAE_OK;
    if (!row)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: tensor \"%s\" is not supported in architecture "
                          "\"%s\"", from->file, from->name, b->arch->name);
    if (block >= b->blocks)
        return qsae__fail(QSAE_EFORMAT, "%s: tensor \"%s\": the model has %" PRId64
                          " blocks (%s.block_count)", from->file, from->name, b->blocks,
                          b->arch->name);
    if (row->undo == QSAE__UNDO_FACTORS)
        return QSAE_OK;
    if (row->undo == QSAE__UNDO_Q || row->undo == QSAE__UNDO_K)
        st = interleaved(b, row->undo == QSAE__UNDO_Q ? b->heads : b->kv_heads, &t);
    else if (row->undo == QSAE__UNDO_QKV)
        st = by_head(b, &t);
    else if (row->undo == QSAE__UNDO_ONE)
        st = minus_one(b, &t);
    if (st != QSAE_OK)
        return st;
    t.name = hf_name(b, row->hf, block, suffix);
    if (!t.name)
        return QSAE_ENOMEM;
    st = qsae__set_add(b->out, &t);
    if (st == QSAE_OK && row->bias && !b->arch->layer_norm && !strcmp(suffix, ".weight"))
        st = fill_bias(b, row, block, from);
    return st;
}

/* blk.N.attn_qkv (converted with --fuse-qkv) is the rows of attn_q, attn_k and attn_v; suffix:
 * ".weight" or ".bias". */
static int32_t split_one(const qsae__gguf_build *b, qsae__tensors *out, const qsae__tensor *x,
                         const char *suffix)
{
    const int64_t rows[3] = { b->heads * b->head_dim, b->kv_heads * b->head_dim,
                              b->kv_heads * b->head_dim };
    const size_t stem = strlen(x->name) - strlen("qkv") - strlen(suffix);
    const uint8_t *data = x->data;
    int32_t st = check_qkv(x, rows[0] + 2 * rows[1]);
    for (int i = 0; i < 3 && st == QSAE_OK; i++) {
        const size_t size = stem + strlen(suffix) + 2;
        char *const name = qsae__set_alloc(out, size);
        qsae__tensor part = *x;
        if (!name)
            return QSAE_ENOMEM;
        snprintf(name, size, "%.*s%c%s", (int)stem, x->name, "qkv"[i], suffix);
        part.name = name;
        part.data = data;
        part.shape[0] = rows[i];
        part.bytes = x->bytes / (uint64_t)x->shape[0] * (uint64_t)rows[i];
        data += part.bytes;
        st = qsae__set_add(out, &part);
    }
    return st;
}

static const char *fused_suffix(const char *name)
{
    const char *const at = strstr(name, ".attn_qkv.");
    if (strncmp(name, "blk.", 4) != 0 || !at)
        return NULL;
    const char *const suffix = at + strlen(".attn_qkv");
    return !strcmp(suffix, ".weight") || !strcmp(suffix, ".bias") ? suffix : NULL;
}

/* b->raw with such tensors split, or as it is. */
static int32_t split_fused(qsae__gguf_build *b)
{
    const int64_t n = qsae__tensors_len(b->raw);
    int64_t fused = 0;
    qsae__tensors *out = NULL;
    for (int64_t i = 0; i < n; i++)
        fused += fused_suffix(qsae__tensors_at(b->raw, i)->name) != NULL;
    if (fused == 0)
        return QSAE_OK;
    int32_t st = qsae__set_new(b->ctx, b->path, &out);
    if (st != QSAE_OK)
        return st;
    out->parent = qsae__tensors_ref(b->raw);
    out->gguf = b->raw->gguf;
    for (int64_t i = 0; i < n && st == QSAE_OK; i++) {
        const qsae__tensor *const x = qsae__tensors_at(b->raw, i);
        const char *const suffix = fused_suffix(x->name);
        st = suffix ? split_one(b, out, x, suffix) : qsae__set_add(out, x);
    }
    if (st == QSAE_OK)
        st = qsae__set_finish(out);
    if (st != QSAE_OK) {
        qsae__tensors_unref(&out);
        return st;
    }
    qsae__tensors_unref(&b->raw);
    b->raw = out;
    return QSAE_OK;
}

static int32_t rename_all(qsae__gguf_build *b)
{
    int32_t st = qsae__set_new(b->ctx, qsae__gguf_path(b->g), &b->out);
    if (st != QSAE_OK)
        return st;
    b->out->parent = qsae__tensors_ref(b->raw);
    b->out->gguf = b->raw->gguf;
    for (int64_t i = 0; i < qsae__tensors_len(b->raw) && st == QSAE_OK; i++)
        st = rename_tensor(b, qsae__tensors_at(b->raw, i));
    return st == QSAE_OK ? qsae__set_finish(b->out) : st;
}

static void find_biases(qsae__gguf_build *b)
{
    b->attention_bias = b->mlp_bias = b->arch->layer_norm;
    for (int64_t i = 0; i < qsae__tensors_len(b->raw); i++) {
        const char *suffix = NULL;
        int64_t block;
        const qsae__gguf_row *const row =
            find_row(b, qsae__tensors_at(b->raw, i)->name, &block, &suffix);
        if (!row || strcmp(suffix, ".bias") != 0)
            continue;
        if (strstr(row->hf, ".self_attn."))
            b->attention_bias = true;
        else
            b->mlp_bias = true;
    }
}

static int32_t find_architecture(qsae__gguf_build *b)
{
    const char *type = "model", *name = NULL;
    uint64_t n = 0, type_size = 5;
    int32_t st = qsae__gguf_str(b->g, "general.type", false, &type, &type_size, NULL);
    if (st == QSAE_OK && (type_size != 5 || memcmp(type, "model", 5) != 0))
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: general.type: \"%.*s\" is not supported (model "
                          "is)", b->path, (int)(type_size < 64 ? type_size : 64), type);
    if (st == QSAE_OK)
        st = qsae__gguf_str(b->g, "general.architecture", true, &name, &n, NULL);
    if (st != QSAE_OK)
        return st;
    for (size_t i = 0; i < sizeof architectures / sizeof architectures[0]; i++)
        if (strlen(architectures[i].name) == n && !memcmp(architectures[i].name, name, n)) {
            b->arch = &architectures[i];
            return QSAE_OK;
        }
    return qsae__fail(QSAE_EUNSUPPORTED, "%s: general.architecture: \"%.*s\" is not supported "
                      "(llama, gemma3, gemma2, qwen3, gptneox, gpt2 are)", b->path,
                      (int)(n < 64 ? n : 64), name);
}

int32_t qsae__gguf_model(qsae_context *ctx, qsae__tensors *raw, json_t **config,
                         qsae__tensors **renamed)
{
    qsae__gguf_build b = { .ctx = ctx, .g = qsae__tensors_gguf(raw) };
    *config = NULL;
    *renamed = NULL;
    if (!b.g)
        return qsae__fail(QSAE_EINVAL, "%s: not a GGUF file", raw->path);
    b.path = qsae__gguf_path(b.g);
    int32_t st = find_architecture(&b);
    if (st != QSAE_OK)
        return st;
    b.config = json_object();
    if (!b.config)
        return qsae__fail(QSAE_ENOMEM, "%s: out of memory", b.path);
    b.raw = qsae__tensors_ref(raw);
    st = qsae__gguf_sizes(&b);
    if (st == QSAE_OK && !b.arch->layer_norm)
        st = split_fused(&b);
    if (st == QSAE_OK) {
        find_biases(&b);
        st = qsae__gguf_common(&b);
    }
    if (st == QSAE_OK)
        st = b.arch->keys(&b);
    if (st == QSAE_OK)
        st = rename_all(&b);
    qsae__tensors_unref(&b.raw);
    if (st != QSAE_OK) {
        json_decref(b.config);
        qsae__tensors_unref(&b.out);
        return st;
    }
    *config = b.config;
    *renamed = b.out;
    return QSAE_OK;
}
