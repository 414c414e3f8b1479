/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * bitsandbytes checkpoints, as transformers writes them. 4-bit: packed codes in module.weight, the
 * rest in module.weight.* with a JSON text as bytes; 8-bit: module.weight (I8), module.SCB.
 */
#include "codecs/bnb.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "codecs/nested.h"
#include "codecs/stored.h"
#include "codecs/tables.h"
#include "kernels/packed.h"

#define STATE_MAX 65536      /* bytes of the JSON text; bitsandbytes writes fewer than 200 */
#define THRESHOLD 6.0f       /* transformers' default */

struct params {
    float threshold;
    int32_t compute;         /* 0: the model's */
};

/* Numbers of the dtypes that the JSON texts name as torch does. */
static int32_t torch_dtype(const char *name)
{
    return strcmp(name, "float32") == 0    ? QSAE_F32
           : strcmp(name, "bfloat16") == 0 ? QSAE_BF16
           : strcmp(name, "float16") == 0  ? QSAE_F16
                                           : 0;
}

static const char *torch_name(int32_t dtype)
{
    return dtype == QSAE_F32 ? "float32" : dtype == QSAE_BF16 ? "bfloat16" : "float16";
}

/* quantization_config. Block size and number format are each weight's own matter. */
static int32_t read_params(const json_t *config, const char *where, struct params *p)
{
    static const char *const flags[] = { "load_in_4bit", "_load_in_4bit", "load_in_8bit",
                                         "_load_in_8bit" };
    bool flag[4] = { false }, fp16 = false, offload = false;
    double threshold = THRESHOLD;
    const char *compute = NULL, *kind = NULL, *storage = NULL;
    int32_t st = QSAE_OK;
    for (int i = 0; i < 4 && st == QSAE_OK; i++)
        st = qsae__json_bool(config, where, flags[i], false, &flag[i], NULL);
    if (st == QSAE_OK)
        st = qsae__json_f64(config, where, "llm_int8_threshold", false, &threshold, NULL);
    if (st == QSAE_OK)
        st = qsae__json_bool(config, where, "llm_int8_has_fp16_weight", false, &fp16, NULL);
    if (st == QSAE_OK)
        st = qsae__json_bool(config, where, "llm_int8_enable_fp32_cpu_offload", false, &offload,
                             NULL);
    if (st == QSAE_OK)
        st = qsae__json_str(config, where, "bnb_4bit_compute_dtype", false, &compute, NULL);
    if (st == QSAE_OK)
        st = qsae__json_str(config, where, "bnb_4bit_quant_type", false, &kind, NULL);
    if (st == QSAE_OK)
        st = qsae__json_str(config, where, "bnb_4bit_quant_storage", false, &storage, NULL);
    if (st != QSAE_OK)
        return st;
    if ((flag[0] || flag[1]) && (flag[2] || flag[3]))
        return qsae__fail(QSAE_EFORMAT, "%s: load_in_4bit and load_in_8bit: expected one of them, "
                          "found both true", where);
    if (fp16 && (flag[2] || flag[3]))
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: llm_int8_has_fp16_weight: true (weights encoded "
                          "anew at every call) is not supported", where);
    if (!(threshold >= 0 && threshold <= 65504))
        return qsae__fail(QSAE_EFORMAT, "%s: llm_int8_threshold: expected a number in 0..65504, "
                          "found %g", where, threshold);
    if (kind && strcmp(kind, "nf4") != 0 && strcmp(kind, "fp4") != 0)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: bnb_4bit_quant_type: expected nf4 or fp4, found "
                          "\"%.64s\"", where, kind);
    p->threshold = (float)threshold;
    p->compute = compute ? torch_dtype(compute) : 0;
    if (compute && !p->compute)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: bnb_4bit_compute_dtype: expected float32, "
                          "bfloat16 or float16, found \"%.64s\"", where, compute);
    return QSAE_OK;
}

static int32_t read(qsae_context *ctx, const json_t *config, const char *where, void *params)
{
    (void)ctx;
    return read_params(config, where, params);
}

/* The tensors found for a module; NULL where there is none. */
struct found {
    const qsae__tensor *weight, *absmax, *map, *nested_absmax, *nested_map, *nf4, *fp4, *scb,
        *format;
};

/* What the JSON text says. */
struct state {
    enum qsae__codec codec;
    int64_t block, nested_block;
    int32_t dtype;
    float offset;
};

static int32_t find(qsae_context *ctx, const qsae__tensors *t, const char *module, struct found *f)
{
    const struct {
        const char *suffix;
        const qsae__tensor **out;
    } keys[] = {
        { ".weight", &f->weight },
        { ".weight.absmax", &f->absmax },
        { ".weight.quant_map", &f->map },
        { ".weight.nested_absmax", &f->nested_absmax },
        { ".weight.nested_quant_map", &f->nested_map },
        { ".weight.quant_state.bitsandbytes__nf4", &f->nf4 },
        { ".weight.quant_state.bitsandbytes__fp4", &f->fp4 },
        { ".SCB", &f->scb },
        { ".weight_format", &f->format },
    };
    const size_t size = strlen(module) + 64;
    char *const name = qsae__alloc(ctx, size);
    if (!name)
        return QSAE_ENOMEM;
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        snprintf(name, size, "%s%s", module, keys[i].suffix);
        *keys[i].out = qsae__tensors_find(t, name);
    }
    qsae__free(ctx, name);
    return QSAE_OK;
}

/* The tensor has this dtype and shape (rank 1 or 2), or the message says what it has. */
static int32_t expect(const qsae__tensor *x, int32_t dtype, int32_t rank, int64_t rows,
                      int64_t cols)
{
    char want[64], have[128];
    size_t at = 0;
    if (x->dtype == dtype && x->rank == rank && x->shape[0] == rows &&
        (rank < 2 || x->shape[1] == cols))
        return QSAE_OK;
    if (rank == 2)
        snprintf(want, sizeof want, "[%lld, %lld]", (long long)rows, (long long)cols);
    else
        snprintf(want, sizeof want, "[%lld]", (long long)rows);
    have[0] = '\0';
    for (int32_t i = 0; i < x->rank && at < sizeof have - 24; i++)
        at += (size_t)snprintf(have + at, sizeof have - at, "%s%lld", i ? ", " : "",
                               (long long)x->shape[i]);
    return qsae__fail(QSAE_EMISMATCH, "%s: %s: expected %s %s, found %s [%s]", x->file, x->name,
                      qsae_dtype_name(dtype), want, qsae_dtype_name(x->dtype), have);
}

static int32_t missing(const qsae__tensor *there, const char *module, const char *suffix)
{
    return qsae__fail(QSAE_ENOENT, "%s: %s%s: missing; %s is there", there->file, module, suffix,
                      there->name);
}

static int32_t check_shape(const json_t *state, const char *where, int64_t n_out, int64_t n_in)
{
    const json_t *shape = NULL;
    const int32_t st = qsae__json_get(state, where, "shape", false, JSON_ARRAY, &shape);
    if (st != QSAE_OK || !shape)
        return st;
    const json_t *const rows = json_array_get(shape, 0), *const cols = json_array_get(shape, 1);
    if (json_array_size(shape) == 2 && json_is_integer(rows) && json_is_integer(cols) &&
        json_integer_value(rows) == n_out && json_integer_value(cols) == n_in)
        return QSAE_OK;
    if (json_array_size(shape) == 2 && json_is_integer(rows) && json_is_integer(cols))
        return qsae__fail(QSAE_EMISMATCH, "%s: shape: expected [%lld, %lld], found [%lld, %lld]",
                          where, (long long)n_out, (long long)n_in,
                          (long long)json_integer_value(rows), (long long)json_integer_value(cols));
    return qsae__fail(QSAE_EMISMATCH, "%s: shape: expected [%lld, %lld], found %zu entries that "
                      "are not two integers", where, (long long)n_out, (long long)n_in,
                      json_array_size(shape));
}

static int32_t read_nested(const json_t *json, const char *where, struct state *s)
{
    const char *dtype = "float32";
    double offset = 0;
    s->nested_block = QSAE__NESTED_BLOCK;
    int32_t st = qsae__json_i64(json, where, "nested_blocksize", true, 1, INT32_MAX,
                                &s->nested_block, NULL);
    if (st == QSAE_OK)
        st = qsae__json_str(json, where, "nested_dtype", false, &dtype, NULL);
    if (st == QSAE_OK)
        st = qsae__json_f64(json, where, "nested_offset", true, &offset, NULL);
    if (st != QSAE_OK)
        return st;
    /* After a run on a CPU with AVX512-BF16 it is bfloat16; layers decode to f32 all the same. */
    if (!torch_dtype(dtype))
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: nested_dtype: expected float32, bfloat16 or "
                          "float16, found \"%.64s\"", where, dtype);
    s->offset = (float)offset;
    return QSAE_OK;
}

static int32_t read_json(const json_t *json, const char *where, bool nested, int64_t n_out,
                         int64_t n_in, struct state *s)
{
    const char *kind = NULL, *dtype = NULL;
    if (!json_is_object(json))
        return qsae__fail(QSAE_EFORMAT, "%s: expected an object, found %s", where,
                          qsae__json_type_name(json));
    int32_t st = qsae__json_str(json, where, "quant_type", true, &kind, NULL);
    if (st == QSAE_OK)
        st = qsae__json_i64(json, where, "blocksize", true, 1, INT32_MAX, &s->block, NULL);
    if (st == QSAE_OK)
        st = qsae__json_str(json, where, "dtype", true, &dtype, NULL);
    if (st == QSAE_OK)
        st = check_shape(json, where, n_out, n_in);
    if (st != QSAE_OK)
        return st;
    const char *const want = s->codec == QSAE__NF4 ? "nf4" : "fp4";
    if (strcmp(kind, want) != 0)
        return qsae__fail(QSAE_EMISMATCH, "%s: quant_type: expected %s, found \"%.64s\"", where,
                          want, kind);
    if (s->block < 32 || s->block > 4096 || (s->block & (s->block - 1)) != 0)
        return qsae__fail(QSAE_EFORMAT, "%s: blocksize: expected 32, 64, 128, ..., 4096, found "
                          "%lld", where, (long long)s->block);
    s->dtype = torch_dtype(dtype);
    if (!s->dtype)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: dtype: expected float32, bfloat16 or float16, "
                          "found \"%.64s\"", where, dtype);
    const bool has_offset = json_object_get(json, "nested_offset") != NULL;
    if (has_offset != nested)
        return qsae__fail(QSAE_EMISMATCH, "%s: nested_offset: %s, but weight.nested_absmax is %s",
                          where, has_offset ? "there" : "missing", nested ? "there" : "missing");
    return nested ? read_nested(json, where, s) : QSAE_OK;
}

static int32_t read_state(const struct found *f, int64_t n_out, int64_t n_in, struct state *s)
{
    const qsae__tensor *const x = f->nf4 ? f->nf4 : f->fp4;
    char where[512];
    json_t *json = NULL;
    int32_t st = expect(x, QSAE_U8, 1, (int64_t)x->bytes, 0);
    if (st != QSAE_OK)
        return st;
    snprintf(where, sizeof where, "%s: %s", x->file, x->name);
    if (x->bytes > STATE_MAX)
        return qsae__fail(QSAE_EFORMAT, "%s: expected at most %d bytes, found %llu", where,
                          STATE_MAX, (unsigned long long)x->bytes);
    st = qsae__json_parse(x->data, (size_t)x->bytes, where, &json);
    if (st != QSAE_OK)
        return st;
    s->codec = f->nf4 ? QSAE__NF4 : QSAE__FP4;
    st = read_json(json, where, f->nested_absmax != NULL, n_out, n_in, s);
    json_decref(json);
    return st;
}

/* Codes are bytes whatever dtype they were stored as; a tensor of that dtype has [count, 1]. */
static int32_t check_codes(const qsae__tensor *w, int64_t bytes)
{
    const int64_t size = qsae_dtype_bits(w->dtype) / 8;
    switch (w->dtype) {
    case QSAE_U8:
    case QSAE_I8:
    case QSAE_F16:
    case QSAE_BF16:
    case QSAE_F32:
    case QSAE_F64:
        if (bytes % size == 0)
            return expect(w, w->dtype, 2, bytes / size, 1);
        break;
    default:
        break;
    }
    return expect(w, QSAE_U8, 2, bytes, 1);
}

/* Saved after a run on a CPU with AVX512-BF16: block maxima of bf16, transposed. */
static bool repacked(const struct found *f, const struct state *s, int64_t n_in)
{
    return !f->nested_absmax && f->absmax->dtype == QSAE_BF16 && f->absmax->rank == 2 &&
           n_in % s->block == 0;
}

static int32_t read_repacked(qsae_qmatrix *q, const qsae__tensor *absmax, int64_t block)
{
    const int64_t blocks = q->n_in / block;
    const int32_t st = expect(absmax, QSAE_BF16, 2, blocks, q->n_out);
    if (st != QSAE_OK)
        return st;
    for (int64_t row = 0; row < q->n_out; row++)
        for (int64_t b = 0; b < blocks; b++)
            (void)qsae__to_f32(QSAE_BF16, (const char *)absmax->data + 2 * (b * q->n_out + row), 1,
                               q->scale + row * blocks + b);
    return QSAE_OK;
}

/* Block maxima from their 8-bit codes: two roundings. */
static int32_t read_nested_scales(qsae_qmatrix *q, const struct found *f, const struct state *s,
                                  const float *map)
{
    const int64_t n = q->scale_rows, groups = qsae__ceil_div(n, s->nested_block);
    int32_t st = expect(f->absmax, QSAE_U8, 1, n, 0);
    if (st == QSAE_OK)
        st = expect(f->nested_absmax, QSAE_F32, 1, groups, 0);
    if (st != QSAE_OK)
        return st;
    q->n_nested = groups;
    q->offset = s->offset;
    q->q_absmax = qsae__alloc_array(q->ctx, n, 1);
    q->nested_absmax = qsae__alloc_array(q->ctx, groups, sizeof(float));
    if (!q->q_absmax || !q->nested_absmax)
        return QSAE_ENOMEM;
    memcpy(q->q_absmax, f->absmax->data, (size_t)n);
    memcpy(q->nested_absmax, f->nested_absmax->data, (size_t)groups * sizeof(float));
    for (int64_t i = 0; i < n; i++) {
        const float part = map[q->q_absmax[i]] * q->nested_absmax[i / s->nested_block];
        q->scale[i] = part + s->offset;
    }
    return QSAE_OK;
}

/* A zero of either sign in the file stands for ours, as in bitsandbytes' kernels. */
static int32_t read_maps(qsae_qmatrix *q, const struct found *f)
{
    const float *const own = q->codec.codec == QSAE__NF4 ? qsae__nf4_codes : qsae__fp4_codes;
    qsae__maps4 *const m = qsae__calloc(q->ctx, 1, sizeof *m);
    q->state = m;
    if (!m)
        return QSAE_ENOMEM;
    int32_t st = expect(f->map, QSAE_F32, 1, 16, 0);
    if (st == QSAE_OK && f->nested_absmax)
        st = expect(f->nested_map, QSAE_F32, 1, 256, 0);
    if (st != QSAE_OK)
        return st;
    memcpy(m->map, f->map->data, sizeof m->map);
    if (f->nested_map)
        memcpy(m->nested_map, f->nested_map->data, sizeof m->nested_map);
    for (int i = 0; i < 16; i++)
        m->values[i] = m->map[i] == own[i] ? own[i] : m->map[i];
    return QSAE_OK;
}

static int32_t check_keys4(const struct found *f, const char *module)
{
    const qsae__tensor *const there = f->nf4 ? f->nf4 : f->fp4 ? f->fp4 : f->absmax ? f->absmax
                                      : f->map                 ? f->map
                                      : f->nested_absmax       ? f->nested_absmax
                                                               : f->nested_map;
    if (f->nf4 && f->fp4)
        return qsae__fail(QSAE_EFORMAT, "%s: %s.weight.quant_state: expected one, found both nf4 "
                          "and fp4", f->nf4->file, module);
    if (f->scb)
        return qsae__fail(QSAE_EFORMAT, "%s: %s: expected the keys of one format, found both SCB "
                          "and %s", f->scb->file, module, there->name);
    if (!f->weight)
        return missing(there, module, ".weight");
    if (!f->nf4 && !f->fp4)
        return missing(there, module, ".weight.quant_state.bitsandbytes__nf4 (or __fp4)");
    if (!f->absmax)
        return missing(there, module, ".weight.absmax");
    if (!f->map)
        return missing(there, module, ".weight.quant_map");
    if (!f->nested_absmax != !f->nested_map)
        return missing(there, module, f->nested_map ? ".weight.nested_absmax"
                                                    : ".weight.nested_quant_map");
    return QSAE_OK;
}

/* q has its shape. */
static int32_t fill4(qsae_qmatrix *q, const struct found *f, const struct state *s)
{
    const int64_t n = q->n_out * q->n_in, bytes = qsae__ceil_div(n, 2);
    q->codec.codec = s->codec;
    q->codec.block = (int32_t)s->block;
    q->codec.nested = f->nested_absmax != NULL;
    q->scale_rows = qsae__ceil_div(n, s->block);
    q->scale_cols = 1;
    int32_t st = check_codes(f->weight, bytes);
    if (st == QSAE_OK)
        st = read_maps(q, f);
    if (st != QSAE_OK)
        return st;
    q->scale = qsae__alloc_array(q->ctx, q->scale_rows, sizeof(float));
    if (!q->scale)
        return QSAE_ENOMEM;
    if (f->nested_absmax) {
        st = read_nested_scales(q, f, s, ((const qsae__maps4 *)q->state)->nested_map);
    } else if (repacked(f, s, q->n_in)) {
        st = read_repacked(q, f->absmax, s->block);
    } else {
        st = expect(f->absmax, QSAE_F32, 1, q->scale_rows, 0);
        if (st == QSAE_OK)
            memcpy(q->scale, f->absmax->data, (size_t)q->scale_rows * sizeof(float));
    }
    q->codes = (void *)(uintptr_t)f->weight->data; /* borrowed: only read */
    q->code_bytes = (uint64_t)bytes;
    return st;
}

static int32_t fill8(qsae_qmatrix *q, const struct found *f)
{
    int32_t st = expect(f->weight, QSAE_I8, 2, q->n_out, q->n_in);
    if (st == QSAE_OK)
        st = expect(f->scb, QSAE_F32, 1, q->n_out, 0);
    if (st == QSAE_OK && f->format) {
        if (f->format->rank != 0)
            st = expect(f->format, QSAE_U8, 1, 1, 0);
        else if (f->format->dtype != QSAE_U8)
            st = qsae__fail(QSAE_EMISMATCH, "%s: %s: expected U8, found %s", f->format->file,
                            f->format->name, qsae_dtype_name(f->format->dtype));
    }
    if (st != QSAE_OK)
        return st;
    const int format = f->format ? *(const uint8_t *)f->format->data : 0;
    if (format != 0)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: %s: expected 0 (rows), found %d (%s)",
                          f->format->file, f->format->name, format,
                          format == 1   ? "col32"
                          : format == 2 ? "col_turing"
                          : format == 3 ? "col_ampere"
                                        : "unknown");
    if (q->n_in > QSAE__S8_MAX_K)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: %s: %lld inputs; sums are exact in int32 up to "
                          "%d", f->weight->file, f->weight->name, (long long)q->n_in,
                          QSAE__S8_MAX_K);
    q->codec.codec = QSAE__INT8;
    q->scale_rows = q->n_out;
    q->scale_cols = 1;
    q->scale = qsae__alloc_array(q->ctx, q->n_out, sizeof(float));
    if (!q->scale)
        return QSAE_ENOMEM;
    memcpy(q->scale, f->scb->data, (size_t)q->n_out * sizeof(float));
    q->codes = (void *)(uintptr_t)f->weight->data; /* borrowed: only read */
    q->code_bytes = f->weight->bytes;
    return QSAE_OK;
}

static int32_t check_keys8(const struct found *f, const char *module)
{
    if (!f->weight)
        return missing(f->scb ? f->scb : f->format, module, ".weight");
    if (!f->scb)
        return missing(f->weight, module, ".SCB");
    return QSAE_OK;
}

static int32_t open_module(qsae_context *ctx, const void *params, qsae__tensors *tensors,
                           const char *module, int64_t n_out, int64_t n_in, qsae_qmatrix **out)
{
    static const struct params defaults = { THRESHOLD, 0 };
    const struct params *const p = params ? params : &defaults;
    struct found f = { .weight = NULL };
    struct state s = { 0 };
    qsae_qmatrix *q = NULL;
    *out = NULL;
    int32_t st = find(ctx, tensors, module, &f);
    if (st != QSAE_OK)
        return st;
    const bool four = f.nf4 || f.fp4 || f.absmax || f.map || f.nested_absmax || f.nested_map;
    const bool eight = f.scb || f.format || (f.weight && f.weight->dtype == QSAE_I8);
    if (!four && !eight)
        return QSAE_OK;
    st = four ? check_keys4(&f, module) : check_keys8(&f, module);
    if (st == QSAE_OK && four)
        st = read_state(&f, n_out, n_in, &s);
    if (st == QSAE_OK)
        st = qsae__qmatrix_new(ctx, four ? &qsae__codec_4bit : &qsae__codec_int8,
                               four ? s.dtype : QSAE_F32, n_out, n_in, &q);
    if (st != QSAE_OK)
        return st;
    q->borrowed = true;
    q->file = qsae__tensors_ref(tensors);
    q->codec.threshold = p->threshold;
    q->codec.compute = four ? p->compute : 0;
    q->codec.rules = QSAE__RULES_CUDA;
    const qsae__fpenv env = qsae__fpenv_enter();
    st = four ? fill4(q, &f, &s) : fill8(q, &f);
    qsae__fpenv_leave(env);
    if (st != QSAE_OK) {
        qsae__qmatrix_unref(&q);
        return st;
    }
    *out = q;
    return QSAE_OK;
}

const qsae__store qsae__store_bitsandbytes = { "bitsandbytes", sizeof(struct params), read, NULL,
                                               open_module };

static void add_part(qsae__bnb_parts *p, const char *suffix, const void *data, int32_t dtype,
                     int32_t rank, int64_t rows, int64_t cols)
{
    qsae__bnb_part *const part = &p->part[p->n++];
    part->suffix = suffix;
    part->field.struct_size = sizeof part->field;
    qsae__field_set(&part->field, suffix, data, dtype, rank, rows, cols);
}

/* As Python's json.dumps of the dictionary that QuantState.as_dict makes. */
static int32_t state_text(const qsae_qmatrix *q, char *text, size_t size)
{
    char number[40];
    int n = snprintf(text, size,
                     "{\"quant_type\": \"%s\", \"blocksize\": %d, \"dtype\": \"%s\", "
                     "\"shape\": [%lld, %lld]",
                     q->codec.codec == QSAE__NF4 ? "nf4" : "fp4", (int)q->codec.block,
                     torch_name(q->dtype), (long long)q->n_out, (long long)q->n_in);
    if (q->codec.nested) {
        if (!isfinite(q->offset))
            return qsae__fail(QSAE_ENONFINITE, "the mean of the block maxima is no number: the "
                              "weight holds NaN or infinity");
        qsae__json_number(q->offset, number, sizeof number);
        n += snprintf(text + n, size - (size_t)n,
                      ", \"nested_blocksize\": %d, \"nested_dtype\": \"float32\", "
                      "\"nested_offset\": %s", QSAE__NESTED_BLOCK, number);
    }
    snprintf(text + n, size - (size_t)n, "}");
    return QSAE_OK;
}

int32_t qsae__bnb_describe(const qsae_qmatrix *q, qsae__bnb_parts *out)
{
    out->n = 0;
    if (q->codec.codec == QSAE__INT8) {
        out->format = 0;
        add_part(out, ".weight", q->codes, QSAE_I8, 2, q->n_out, q->n_in);
        add_part(out, ".SCB", q->scale, QSAE_F32, 1, q->n_out, 1);
        add_part(out, ".weight_format", &out->format, QSAE_U8, 0, 1, 1);
        return QSAE_OK;
    }
    const bool nf4 = q->codec.codec == QSAE__NF4;
    const int32_t st = state_text(q, out->state, sizeof out->state);
    if (st != QSAE_OK)
        return st;
    add_part(out, ".weight", q->codes, QSAE_U8, 2, (int64_t)q->code_bytes, 1);
    if (q->codec.nested)
        add_part(out, ".weight.absmax", q->q_absmax, QSAE_U8, 1, q->scale_rows, 1);
    else
        add_part(out, ".weight.absmax", q->scale, QSAE_F32, 1, q->scale_rows, 1);
    if (q->codec.nested) {
        add_part(out, ".weight.nested_absmax", q->nested_absmax, QSAE_F32, 1, q->n_nested, 1);
        add_part(out, ".weight.nested_quant_map", qsae__dynamic_map, QSAE_F32, 1, 256, 1);
    }
    add_part(out, ".weight.quant_map", nf4 ? qsae__nf4_codes : qsae__fp4_map, QSAE_F32, 1, 16, 1);
    add_part(out, nf4 ? ".weight.quant_state.bitsandbytes__nf4"
                      : ".weight.quant_state.bitsandbytes__fp4",
             out->state, QSAE_U8, 1, (int64_t)strlen(out->state), 1);
    return QSAE_OK;
}
