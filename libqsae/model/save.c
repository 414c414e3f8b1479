/* SPDX-License-Identifier: BSD-2-Clause */
#include "model/save.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "codecs/bnb.h"
#include "formats/gguf.h"
#include "model/extras.h"

#define SHARD_BYTES 5000000000u     /* transformers' default */
#define PART ((int64_t)1 << 22)     /* elements converted at a time */
#define TILE ((int64_t)1 << 14)     /* of one worker */
#define SUFFIX_MOST 64              /* bytes that a part's name adds */

void qsae_save_settings_init(qsae_save_settings *s, size_t size)
{
    qsae__settings_init(s, size);
}

bool qsae__save_selects(const qsae__save *v, int64_t place)
{
    char path[512];
    const qsae__place seen = qsae__linear_place(v->w, place, path, sizeof path);
    return v->encodes && qsae__condition_selects(&v->c, &seen);
}

bool qsae__save_selects_vocabulary(const qsae__save *v, bool head)
{
    const qsae__matrix *const m = head ? qsae__weights_head(v->w) : &v->w->embed;
    const qsae__place place = { -1, m->name, NULL, head ? "head" : "embed" };
    return v->encodes && qsae__condition_selects(&v->c, &place);
}

int32_t qsae__save_dtype(const qsae__save *v, int32_t stored)
{
    const bool real = stored == QSAE_F32 || stored == QSAE_BF16 || stored == QSAE_F16;
    return real && v->s.dtype ? v->s.dtype : stored;
}

/* A matrix to encode, or NULL, and what it is encoded with. */
struct item {
    const qsae__matrix *matrix;
    int64_t heads, qkv_runs;
    uint64_t stream;
};

/* Streams are those of qsae_model_open: a saved model is the one that runs. */
static struct item find_item(const qsae__save *v, const qsae__tensor *t)
{
    const qsae_weights *const w = v->w;
    const qsae__config *const c = &w->config;
    const uint64_t vocabulary = (uint64_t)qsae__place_embed(c);
    for (int64_t i = 0; i < w->n_linears; i++) {
        const int64_t at = w->linears[i];
        const qsae__matrix *const m = qsae__linear_matrix(w, at);
        if (m->tensor != t)
            continue;
        if (!qsae__save_selects(v, at))
            break;
        return (struct item){ m, qsae__linear_heads(w, at), qsae__linear_qkv_runs(w, at),
                              (uint64_t)at };
    }
    if (t == w->embed.tensor && qsae__save_selects_vocabulary(v, false))
        return (struct item){ &w->embed, 0, 0, vocabulary };
    if (!c->tied && t == w->head.tensor && qsae__save_selects_vocabulary(v, true))
        return (struct item){ &w->head, 0, 0, vocabulary + 1 };
    return (struct item){ NULL, 0, 0, 0 };
}

static int32_t close_shard(qsae__save *v)
{
    return v->writer ? qsae__writer_commit(&v->writer) : QSAE_OK;
}

/* Room for that many bytes of tensors that stay together: in this shard or the next. */
static int32_t reserve(qsae__save *v, uint64_t bytes)
{
    char name[64];
    if (v->writer && (bytes <= v->s.max_shard_bytes - v->shard_bytes || v->shard_bytes == 0))
        return QSAE_OK;
    int32_t st = close_shard(v);
    if (st != QSAE_OK)
        return st;
    snprintf(name, sizeof name, "shard-%" PRId64, v->n_shards++);
    v->shard_bytes = 0;
    char *const path = qsae__path_join(v->ctx, v->temp, name);
    if (!path)
        return QSAE_ENOMEM;
    st = qsae__writer_open(v->ctx, path, v->room, &v->writer);
    qsae__free(v->ctx, path);
    return st;
}

static int32_t begin(qsae__save *v, const char *name, int32_t dtype, int32_t rank,
                     const int64_t *shape, uint64_t bytes)
{
    qsae__tensor t = { .name = name, .dtype = dtype, .rank = rank };
    memcpy(t.shape, shape, (size_t)rank * sizeof *shape);
    if (json_object_set_new(v->map, name, json_integer(v->n_shards - 1)) != 0)
        return qsae__fail(QSAE_ENOMEM, "%s: out of memory", name);
    /* never above max_shard_bytes + the one tensor that alone exceeds it */
    v->shard_bytes = bytes < v->s.max_shard_bytes - v->shard_bytes ? v->shard_bytes + bytes
                                                                   : v->s.max_shard_bytes;
    v->total_bytes += bytes;
    return qsae__writer_begin(v->writer, &t);
}

/* Elements of a tensor or decoded matrix on their way into the file. */
struct convert {
    qsae_context *ctx;
    const qsae__tensor *tensor; /* or */
    const qsae_qmatrix *q;
    bool transposed;            /* q is written [in, out] */
    int32_t dtype;
    int64_t first, n;           /* elements of the flat array */
    char *dst;                  /* [n] of dtype */
};

static void read_values(const struct convert *c, int64_t first, int64_t n, float *x)
{
    if (c->tensor) {
        const size_t size = (size_t)qsae_dtype_bits(c->tensor->dtype) / 8;
        (void)qsae__to_f32(c->tensor->dtype, (const char *)c->tensor->data + (size_t)first * size,
                           n, x);
        return;
    }
    for (; c->transposed && n > 0; first++, n--, x++)
        c->q->ops->decode(c->q, first % c->q->n_out, first / c->q->n_out, 1, c->dtype, x);
    while (n > 0) {
        const int64_t row = first / c->q->n_in, col = first % c->q->n_in;
        const int64_t part = qsae__min_i64(n, c->q->n_in - col);
        c->q->ops->decode(c->q, row, col, part, c->dtype, x);
        first += part;
        n -= part;
        x += part;
    }
}

static int32_t convert_tile(void *arg, int64_t tile, int32_t worker)
{
    const struct convert *const c = arg;
    const int64_t at = tile * TILE, end = qsae__min_i64(c->n, at + TILE);
    float x[1024];
    (void)worker;
    for (int64_t i = at; i < end; i += 1024) {
        const int64_t n = qsae__min_i64(1024, end - i);
        read_values(c, c->first + i, n, x);
        (void)qsae__from_f32(c->dtype, x, n,
                             c->dst + (size_t)i * ((size_t)qsae_dtype_bits(c->dtype) / 8));
    }
    return QSAE_OK;
}

static int32_t put_converted(qsae__save *v, struct convert *c, int64_t n)
{
    const size_t size = (size_t)qsae_dtype_bits(c->dtype) / 8;
    int32_t st = QSAE_OK;
    c->ctx = v->ctx;
    c->dst = qsae__alloc_array(v->ctx, qsae__min_i64(n, PART), size);
    if (!c->dst)
        return QSAE_ENOMEM;
    for (c->first = 0; c->first < n && st == QSAE_OK; c->first += c->n) {
        c->n = qsae__min_i64(PART, n - c->first);
        st = qsae__parallel(v->ctx, qsae__ceil_div(c->n, TILE), convert_tile, c);
        if (st == QSAE_OK)
            st = qsae__writer_put(v->writer, c->dst, (size_t)c->n * size);
        if (st == QSAE_OK)
            st = qsae__canceled(v->s.cancel);
    }
    qsae__free(v->ctx, c->dst);
    return st;
}

/* As it is, or cast. */
static int32_t put_plain(qsae__save *v, const qsae__tensor *t)
{
    const int32_t dtype = qsae__save_dtype(v, t->dtype);
    const uint64_t bits = (uint64_t)qsae_dtype_bits(t->dtype);
    const uint64_t n = dtype == t->dtype ? 0 : t->bytes / (bits / 8);
    const uint64_t bytes = dtype == t->dtype ? t->bytes
                                             : n * (uint64_t)(qsae_dtype_bits(dtype) / 8);
    int32_t st = reserve(v, bytes);
    if (st == QSAE_OK)
        st = begin(v, t->name, dtype, t->rank, t->shape, bytes);
    if (st != QSAE_OK)
        return st;
    if (dtype == t->dtype)
        return qsae__writer_put(v->writer, t->data, (size_t)t->bytes);
    struct convert c = { .tensor = t, .dtype = dtype };
    return put_converted(v, &c, (int64_t)n);
}

static int32_t put_parts(qsae__save *v, const char *module, int length, const qsae_qmatrix *q)
{
    qsae__bnb_parts parts;
    uint64_t bytes = 0;
    const size_t size = (size_t)length + SUFFIX_MOST;
    int32_t st = qsae__bnb_describe(q, &parts);
    for (int32_t i = 0; i < parts.n; i++)
        bytes += parts.part[i].field.bytes;
    if (st == QSAE_OK)
        st = reserve(v, bytes);
    char *const name = st == QSAE_OK ? qsae__alloc(v->ctx, size) : NULL;
    if (st == QSAE_OK && !name)
        st = QSAE_ENOMEM;
    for (int32_t i = 0; i < parts.n && st == QSAE_OK; i++) {
        const qsae_field *const f = &parts.part[i].field;
        snprintf(name, size, "%.*s%s", length, module, parts.part[i].suffix);
        st = begin(v, name, f->dtype, f->rank, f->shape, f->bytes);
        if (st == QSAE_OK)
            st = qsae__writer_put(v->writer, f->data, (size_t)f->bytes);
    }
    qsae__free(v->ctx, name);
    return st;
}

static int32_t put_encoded(qsae__save *v, const qsae__tensor *t, const struct item *item)
{
    const int32_t dtype = qsae__save_dtype(v, t->dtype);
    qsae__source src = qsae__matrix_source(v->w, item->matrix, dtype == t->dtype ? 0 : dtype);
    qsae_qmatrix *q = NULL;
    src.stream = item->stream;
    src.qkv_runs = item->qkv_runs;
    int32_t st = qsae__qmatrix_encode(v->ctx, &v->c, &src, item->heads, &q);
    if (st != QSAE_OK)
        return qsae__fail_in(st, "%s", t->name);
    const bool bnb = q->codec.codec == QSAE__INT8 || q->codec.codec == QSAE__NF4 ||
                     q->codec.codec == QSAE__FP4;
    if (bnb) {
        st = put_parts(v, t->name, (int)(strlen(t->name) - strlen(".weight")), q);
        if (st != QSAE_OK)
            st = qsae__fail_in(st, "%s", t->name);
    } else {
        const int64_t n = q->n_out * q->n_in;
        const uint64_t bytes = (uint64_t)n * (uint64_t)(qsae_dtype_bits(dtype) / 8);
        struct convert c = { .q = q, .transposed = item->matrix->transposed, .dtype = dtype };
        st = reserve(v, bytes);
        if (st == QSAE_OK)
            st = begin(v, t->name, dtype, t->rank, t->shape, bytes);
        if (st == QSAE_OK)
            st = put_converted(v, &c, n);
    }
    qsae__qmatrix_unref(&q);
    return st;
}

/* Of all tensors: how they fall into shards is not known yet. */
static uint64_t header_room(const qsae__save *v)
{
    uint64_t room = SUFFIX_MOST;
    for (int64_t i = 0; i < qsae__tensors_len(v->w->tensors); i++) {
        const qsae__tensor *const t = qsae__tensors_at(v->w->tensors, i);
        const uint64_t one = qsae__writer_room(t->name, t->rank);
        room += v->bnb && find_item(v, t).matrix ? (one + SUFFIX_MOST) * QSAE__BNB_PARTS : one;
    }
    return room;
}

static int32_t put_tensors(qsae__save *v)
{
    const qsae__tensors *const all = v->w->tensors;
    const int64_t total = qsae__tensors_len(all);
    v->room = header_room(v);
    for (int64_t i = 0; i < total; i++) {
        const qsae__tensor *const t = qsae__tensors_at(all, i);
        const struct item item = find_item(v, t);
        int32_t st = qsae__canceled(v->s.cancel);
        if (st == QSAE_OK)
            st = item.matrix ? put_encoded(v, t, &item) : put_plain(v, t);
        qsae__tensor_release(all, t);
        if (st == QSAE_OK && v->s.progress)
            st = v->s.progress(v->s.progress_cookie, i + 1, total, "tensors", "save");
        if (st != QSAE_OK)
            return st;
    }
    return close_shard(v);
}

static void shard_name(const qsae__save *v, int64_t i, char name[64])
{
    if (v->n_shards == 1)
        snprintf(name, 64, "model.safetensors");
    else
        snprintf(name, 64, "model-%05" PRId64 "-of-%05" PRId64 ".safetensors", i + 1, v->n_shards);
}

static int32_t rename_shards(const qsae__save *v)
{
    for (int64_t i = 0; i < v->n_shards; i++) {
        char from[64], to[64];
        snprintf(from, sizeof from, "shard-%" PRId64, i);
        shard_name(v, i, to);
        char *const a = qsae__path_join(v->ctx, v->temp, from);
        char *const b = qsae__path_join(v->ctx, v->temp, to);
        int32_t st = a && b ? QSAE_OK : QSAE_ENOMEM;
        if (st == QSAE_OK && rename(a, b) != 0)
            st = qsae__fail(QSAE_EIO, "%s: cannot rename to: %s", b, strerror(errno));
        qsae__free(v->ctx, a);
        qsae__free(v->ctx, b);
        if (st != QSAE_OK)
            return st;
    }
    return QSAE_OK;
}

/* model.safetensors.index.json, for more than one shard. */
static int32_t write_index(const qsae__save *v)
{
    const char *name;
    json_t *shard;
    qsae__strbuf text;
    if (v->n_shards == 1)
        return QSAE_OK;
    json_t *const files = json_object();
    json_object_foreach(v->map, name, shard) {
        char file[64];
        shard_name(v, json_integer_value(shard), file);
        json_object_set_new(files, name, json_string(file));
    }
    json_t *const index = json_pack("{s:{s:I}, s:o}", "metadata", "total_size",
                                    (json_int_t)v->total_bytes, "weight_map", files);
    char *const path = qsae__path_join(v->ctx, v->temp, "model.safetensors.index.json");
    qsae__strbuf_init(&text, v->ctx);
    int32_t st = path ? QSAE_OK : QSAE_ENOMEM;
    if (st == QSAE_OK && (!index || json_object_size(files) != json_object_size(v->map)))
        st = qsae__fail(QSAE_ENOMEM, "%s: out of memory", path);
    if (st == QSAE_OK)
        st = qsae__json_write(&text, index, 2);
    if (st == QSAE_OK) {
        qsae__strbuf_add(&text, "\n", 1);
        st = text.status;
    }
    if (st == QSAE_OK)
        st = qsae__file_write(v->ctx, path, text.data, (size_t)text.size);
    qsae__strbuf_free(&text);
    qsae__free(v->ctx, path);
    json_decref(index);
    return st;
}

/* A configuration may also be silent about weights that are stored compressed. */
static bool plain(const qsae_weights *w)
{
    bool stored = w->scheme || w->embed.stored || w->head.stored ||
                  (w->extras && w->extras->table.stored) || qsae__tensors_gguf(w->tensors);
    for (int64_t i = 0; i < w->n_linears && !stored; i++)
        stored = qsae__linear_matrix(w, w->linears[i])->stored != NULL;
    return !stored;
}

/* What a folder of this kind can hold. */
static int32_t check(const qsae__save *v)
{
    const qsae__condition *const c = &v->c;
    const bool tied = v->w->config.tied;
    const bool embed = qsae__save_selects_vocabulary(v, false);
    const bool head = qsae__save_selects_vocabulary(v, true);
    if (v->w->process[0])
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: its weights are processed (%s), which no folder "
                          "of this model type can hold", v->w->path, v->w->process);
    if (!plain(v->w))
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: its weights are stored compressed; only a "
                          "Hugging Face folder of plain ones can be saved", v->w->path);
    if (c->prune_match > 0 || c->prune_target)
        return qsae__fail(QSAE_EUNSUPPORTED, "condition %s: prune:match needs a search; save with "
                          "the sparsity it finds", c->canonical);
    if (c->kv_k.kind != QSAE__KV_NONE || c->kv_v.kind != QSAE__KV_NONE)
        return qsae__fail(QSAE_EUNSUPPORTED, "condition %s: how keys and values are cached is not "
                          "part of a checkpoint", c->canonical);
    if (v->bnb && (embed || (head && (tied || c->codec == QSAE__INT8))))
        return qsae__fail(QSAE_EUNSUPPORTED, "condition %s: bitsandbytes folders keep the "
                          "embedding, a head tied to it, and for LLM.int8 every head",
                          c->canonical);
    if (tied && embed != head)
        return qsae__fail(QSAE_EUNSUPPORTED, "condition %s: embedding and head are one tensor of "
                          "%s: both or none", c->canonical, v->w->path);
    if (c->weights && v->s.dtype && c->weights != v->s.dtype)
        return qsae__fail(QSAE_EINVAL, "condition %s: settings.dtype asks for %s", c->canonical,
                          qsae_dtype_name(v->s.dtype));
    return QSAE_OK;
}

/* folder without trailing slashes; QSAE_EINVAL if there is something at it. */
static int32_t check_folder(qsae_context *ctx, const char *folder, char **out)
{
    size_t n = strlen(folder);
    while (n > 1 && folder[n - 1] == '/')
        n--;
    *out = qsae__strndup(ctx, folder, n);
    if (!*out)
        return QSAE_ENOMEM;
    bool empty = false;
    const int32_t st = n > 0 ? qsae__folder_free(*out, &empty) : QSAE_OK;
    if (st == QSAE_OK && !empty)
        return qsae__fail(QSAE_EINVAL, "%s: expected a folder that is empty or does not exist",
                          folder);
    return st;
}

static int32_t save(qsae__save *v, const char *folder)
{
    char *temp = NULL;
    int32_t st = qsae__folder_temp(v->ctx, folder, &temp);
    if (st != QSAE_OK)
        return st;
    v->temp = temp;
    st = put_tensors(v);
    qsae__writer_discard(&v->writer);
    if (st == QSAE_OK)
        st = rename_shards(v);
    if (st == QSAE_OK)
        st = write_index(v);
    if (st == QSAE_OK)
        st = qsae__save_config(v);
    if (st == QSAE_OK)
        st = qsae__save_files(v);
    if (st == QSAE_OK)
        st = qsae__folder_commit(v->ctx, temp, folder);
    if (st != QSAE_OK)
        qsae__folder_remove(temp);
    qsae__free(v->ctx, temp);
    return st;
}

int32_t qsae_weights_save(qsae_weights *weights, const char *condition, const char *folder,
                          const qsae_save_settings *settings)
{
    QSAE__FPENV;
    qsae__save v = { .w = weights };
    char *path = NULL;
    if (qsae__need(weights, "weights"))
        return QSAE_EINVAL;
    if (!folder)
        return qsae__fail(QSAE_EINVAL, "qsae_weights_save: NULL argument");
    v.ctx = weights->ctx;
    int32_t st = qsae__settings_copy(&v.s, sizeof v.s, settings, "qsae_save_settings");
    if (st != QSAE_OK)
        return st;
    if (v.s.dtype != 0 && v.s.dtype != QSAE_F32 && v.s.dtype != QSAE_BF16 && v.s.dtype != QSAE_F16)
        return qsae__fail(QSAE_EINVAL, "qsae_save_settings.dtype: expected 0, QSAE_F32, QSAE_BF16 "
                          "or QSAE_F16, found %d", (int)v.s.dtype);
    if (v.s.max_shard_bytes == 0)
        v.s.max_shard_bytes = SHARD_BYTES;
    st = qsae__condition_parse(v.ctx, condition ? condition : "none", &v.c);
    if (st != QSAE_OK)
        return st;
    if (v.c.n_parts) {
        qsae__condition_free(v.ctx, &v.c);
        return qsae__fail(QSAE_EUNSUPPORTED, "qsae_weights_save: a mix of codecs is not stored; "
                          "expected a condition with one");
    }
    v.encodes = qsae__condition_encodes(&v.c) && v.c.control != QSAE__CONTROL_NULL;
    v.bnb = v.c.control == QSAE__CONTROL_NONE &&
            (v.c.codec == QSAE__INT8 || v.c.codec == QSAE__NF4 || v.c.codec == QSAE__FP4);
    st = check(&v);
    if (st == QSAE_OK && v.c.weights)
        v.s.dtype = v.c.weights;
    if (st == QSAE_OK)
        st = check_folder(v.ctx, folder, &path);
    if (st == QSAE_OK && !(v.map = json_object()))
        st = qsae__fail(QSAE_ENOMEM, "%s: out of memory", folder);
    qsae__join_call(weights);
    if (st == QSAE_OK)
        st = save(&v, path);
    qsae__end_call(weights);
    json_decref(v.map);
    qsae__free(v.ctx, path);
    qsae__condition_free(v.ctx, &v.c);
    return st;
}
