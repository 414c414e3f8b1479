/* SPDX-License-Identifier: BSD-2-Clause */
#include "codecs/linear.h"

#include <stdatomic.h>
#include <string.h>

#include "codecs/act.h"
#include "codecs/apply.h"
#include "codecs/plain.h"

struct qsae__linear {
    qsae_context *ctx;
    qsae_qmatrix *q;             /* NULL: the weight as it is, or not loaded */
    qsae__decoded decoded;       /* of q */
    qsae__rows16 rows;           /* of q */
    qsae__dense dense;           /* of the weight in place */
    qsae__packed_weight *packed; /* or NULL */
    qsae__operand operand;
    float *bias;                 /* [n_out] or NULL */
    uint64_t bytes, held;
    bool quantized, owns, batch_dependent, loaded;
    bool kept;                   /* q is a file's, and there whether loaded or not */
    bool values;                 /* q's elements are multiplied as they are */
    bool rounds;                 /* a plain weight is rounded to a copy first */
    bool shares;                 /* packed is what w->shared keeps */
    atomic_llong *seen;          /* [3] LLM.int8: calls, those with outliers, columns; or NULL */
};

static int32_t check_weight(const qsae__linear_weight *w, int32_t dtype)
{
    if (!w->stored && w->dtype != QSAE_F32 && w->dtype != QSAE_BF16 && w->dtype != QSAE_F16)
        return qsae__fail(QSAE_EUNSUPPORTED, "weight of dtype %s; supported: F32, BF16, F16",
                          qsae_dtype_name(w->dtype));
    if (w->bias && w->bias_dtype != QSAE_F32 && w->bias_dtype != QSAE_BF16 &&
        w->bias_dtype != QSAE_F16)
        return qsae__fail(QSAE_EUNSUPPORTED, "bias of dtype %s; supported: F32, BF16, F16",
                          qsae_dtype_name(w->bias_dtype));
    if (dtype != QSAE_F32 && dtype != QSAE_BF16)
        return qsae__fail(QSAE_EINVAL, "activations of dtype %s; allowed: F32, BF16",
                          qsae_dtype_name(dtype));
    if (w->n_out < 1 || w->n_in < 1)
        return qsae__fail(QSAE_EINVAL, "weight: %lld x %lld, expected at least 1 x 1",
                          (long long)w->n_out, (long long)w->n_in);
    return QSAE_OK;
}

static int32_t copy_bias(qsae__linear *l, const qsae__linear_weight *w)
{
    l->bias = qsae__alloc_array(l->ctx, w->n_out, sizeof(float));
    if (!l->bias)
        return QSAE_ENOMEM;
    const qsae__fpenv env = qsae__fpenv_enter();
    (void)qsae__to_f32(w->bias_dtype, w->bias, w->n_out, l->bias);
    qsae__round(l->ctx, l->operand.dtype, l->bias, w->n_out);
    if (l->operand.compute != l->operand.dtype)
        qsae__round(l->ctx, l->operand.compute, l->bias, w->n_out);
    qsae__fpenv_leave(env);
    l->operand.bias = l->bias;
    return QSAE_OK;
}

/* The layer that computes with a matrix like q, which may be one that is not encoded yet. */
static int32_t plan_matrix(qsae__linear *l, const qsae_qmatrix *q)
{
    l->bytes = qsae__qmatrix_bytes(q);
    l->held = l->bytes;
    if (q->codec.codec == QSAE__RTN || q->codec.codec == QSAE__INT8) /* a byte per code */
        l->held = (uint64_t)q->n_out * (uint64_t)q->n_in;
    l->values = q->ops == &qsae__codec_none && q->dtype == l->operand.compute;
    if (l->values && l->operand.kind != QSAE__PRODUCT_F32)
        l->held = 2 * (uint64_t)q->n_out * (uint64_t)q->n_in;
    if (q->codec.codec != QSAE__INT8)
        return QSAE_OK;
    l->operand.kind = QSAE__PRODUCT_INT8;
    l->batch_dependent = q->codec.threshold > 0 && !q->codec.outliers_by_row;
    l->seen = qsae__calloc(l->ctx, 3, sizeof *l->seen);
    return l->seen ? QSAE_OK : QSAE_ENOMEM;
}

/* With a matrix of the file: it stays while the layer is not loaded. */
static int32_t plan_kept(qsae__linear *l)
{
    const int32_t st = plan_matrix(l, l->q);
    l->kept = true;
    if (!l->values)
        l->operand.q = l->q;
    if (l->operand.kind != QSAE__PRODUCT_INT8 &&
        !(l->values && l->operand.kind != QSAE__PRODUCT_F32))
        l->held = 0;
    return st;
}

/* LLM.int8 of a matrix that is stored by LLM.int8: its codes, under the condition's options. */
static int32_t reuse_codes(qsae__linear *l, const qsae__condition *c, const qsae_qmatrix *stored)
{
    const int64_t n = stored->n_out;
    const int32_t status =
        qsae__qmatrix_new(l->ctx, stored->ops, stored->dtype, n, stored->n_in, &l->q);
    if (status)
        return status;
    l->q->scale = qsae__alloc_array(l->ctx, n, sizeof(float));
    if (!l->q->scale)
        return QSAE_ENOMEM;
    memcpy(l->q->scale, stored->scale, (size_t)n * sizeof(float));
    l->q->codec.codec = QSAE__INT8;
    l->q->codec.threshold = c->threshold;
    l->q->codec.rules = c->rules;
    l->q->codec.outliers_by_row = c->outliers_by_row;
    l->q->codes = stored->codes;
    l->q->code_bytes = stored->code_bytes;
    l->q->scale_rows = n;
    l->q->scale_cols = 1;
    l->q->borrowed = true;
    l->q->file = qsae__tensors_ref(stored->file);
    return plan_kept(l);
}

static qsae__source source_of(const qsae__linear *l, const qsae__linear_weight *w, int32_t round)
{
    return (qsae__source){ .ctx = l->ctx, .data = w->data,
                           .dtype = w->stored ? w->stored->dtype : w->dtype, .round = round,
                           .n_out = w->n_out, .n_in = w->n_in, .out_stride = w->out_stride,
                           .in_stride = w->in_stride, .stored = w->stored, .stream = w->stream,
                           .qkv_runs = w->qkv_runs };
}

static int32_t plan_codec(qsae__linear *l, const qsae__condition *c, const qsae__linear_weight *w)
{
    const bool plain = c->prune.kind == QSAE__PRUNE_NONE && c->control == QSAE__CONTROL_NONE;
    if (plain && c->codec == QSAE__INT8 && w->stored && w->stored->codec.codec == QSAE__INT8)
        return reuse_codes(l, c, w->stored);
    const qsae__source src = source_of(l, w, l->operand.dtype);
    qsae_qmatrix *q;
    int32_t status = qsae__qmatrix_plan(l->ctx, c, &src, w->heads, &q);
    if (status)
        return status;
    l->owns = true;
    status = plan_matrix(l, q);
    qsae__qmatrix_unref(&q);
    /* Values without a code weigh what they would in the checkpoint. */
    if (c->codec == QSAE__NONE || c->control != QSAE__CONTROL_NONE)
        l->bytes = (uint64_t)w->n_out * (uint64_t)w->n_in *
                   (uint64_t)(qsae_dtype_bits(c->weights ? c->weights : src.dtype) / 8);
    return status;
}

/* Whether sums go over the inputs from the last to the first. LLM.int8's are of integers: their
 * order changes nothing. */
static bool reverses(const qsae__condition *c, const qsae__linear_weight *w)
{
    return c && c->control == QSAE__CONTROL_FLOOR &&
           !(w->stored && w->stored->codec.codec == QSAE__INT8);
}

/* A stored matrix in other order: its values in the dtype of the product. */
static int32_t plan_stored_reversed(qsae__linear *l, const qsae__linear_weight *w)
{
    const int32_t bits = qsae_dtype_bits(l->operand.compute);
    l->quantized = true;
    l->owns = true;
    l->operand.reverse = true;
    l->operand.q = w->stored; /* what it does to the rows */
    l->bytes = qsae__qmatrix_bytes(w->stored);
    l->held = (uint64_t)w->n_out * (uint64_t)w->n_in * (uint64_t)(bits / 8);
    return QSAE_OK;
}

/* Codec none. Its weights= is a rounding of its own, before the one to the activations' dtype. */
static int32_t plan_plain(qsae__linear *l, const qsae__condition *c, const qsae__linear_weight *w)
{
    const int32_t dtype = l->operand.dtype == QSAE_BF16 ? QSAE_BF16 : 0;
    const int32_t weights = c ? c->weights : 0;
    const uint64_t n = (uint64_t)w->n_out * (uint64_t)w->n_in;
    if (reverses(c, w) && w->stored)
        return plan_stored_reversed(l, w);
    if (w->stored && !weights) {
        l->q = qsae__qmatrix_ref(w->stored);
        l->quantized = true;
        return plan_kept(l);
    }
    l->rounds = (weights && dtype && weights != dtype) || w->stored;
    l->bytes = n * (uint64_t)(qsae_dtype_bits(weights ? weights : w->dtype) / 8);
    /* Values that bf16 holds exactly can be multiplied as such by f32 rows in three parts. */
    const bool exact = (w->dtype == QSAE_BF16 && !weights) || weights == QSAE_BF16;
    if (l->operand.dtype == QSAE_F32 && exact && l->ctx->level >= QSAE__LEVEL_AMX)
        l->operand.kind = QSAE__PRODUCT_SPLIT;
    l->owns = l->operand.kind != QSAE__PRODUCT_F32;
    l->operand.reverse = reverses(c, w);
    l->shares = l->owns && w->shared && !weights && !w->stored && !l->operand.reverse;
    if (!l->shares)
        l->held = l->owns ? 2 * n : l->rounds ? l->bytes : 0;
    return QSAE_OK;
}

int32_t qsae__linear_plan(qsae_context *ctx, const qsae__condition *c, const qsae__linear_weight *w,
                          int32_t dtype, qsae__linear **out)
{
    *out = NULL;
    int32_t status = check_weight(w, dtype);
    if (status)
        return status;
    qsae__linear *l = qsae__calloc(ctx, 1, sizeof *l);
    if (!l)
        return QSAE_ENOMEM;
    l->ctx = qsae__context_ref(ctx);
    l->quantized = c && qsae__condition_encodes(c);
    /* The options of a stored matrix hold while it is computed with as it is. */
    const qsae__condition *const options =
        !l->quantized && w->stored && !(c && c->weights) ? &w->stored->codec : c;
    l->operand = (qsae__operand){ .n = w->n_out, .k = w->n_in, .dtype = dtype,
                                  .compute = qsae__compute_of(options, dtype) };
    l->operand.kind = qsae__product_kind(ctx, l->operand.compute);
    status = l->quantized ? plan_codec(l, c, w) : plan_plain(l, c, w);
    if (!status && w->bias)
        status = copy_bias(l, w);
    if (status)
        qsae__linear_close(&l);
    *out = l;
    return status;
}

/* Packs the weight for the bf16 product, or takes the copy that another layer packed. */
static int32_t pack(qsae__linear *l, const qsae__linear_weight *w)
{
    if (l->shares && *w->shared) {
        l->packed = qsae__packed_ref(*w->shared);
    } else {
        const int32_t st = qsae__packed_dense(l->ctx, &l->dense, w->n_out, w->n_in, &l->packed);
        if (st != QSAE_OK)
            return st;
        if (l->shares)
            *w->shared = qsae__packed_ref(l->packed);
    }
    l->operand.packed = l->packed;
    return QSAE_OK;
}

/* LLM.int8 keeps its codes packed only, unless they are a file's. */
static int32_t pack_codes(qsae__linear *l)
{
    const int32_t st =
        qsae__packed_s8(l->ctx, l->q->codes, l->q->n_out, l->q->n_in, &l->packed);
    if (st != QSAE_OK)
        return st;
    l->operand.packed = l->packed;
    l->operand.q = l->q;
    if (!l->q->borrowed) {
        qsae__free(l->ctx, l->q->codes);
        l->q->codes = NULL;
    }
    return QSAE_OK;
}

/* l->q holds plain values in the layer's dtype: pruned ones, or those of a control. */
static int32_t use_values(qsae__linear *l)
{
    const int64_t n = l->q->n_out, k = l->q->n_in;
    l->dense = (qsae__dense){ .data = l->q->codes, .dtype = l->q->dtype, .level = l->ctx->level,
                              .n_stride = k, .k_stride = 1 };
    l->operand.panels = qsae__panels_dense(&l->dense, n, k);
    if (l->operand.kind == QSAE__PRODUCT_F32)
        return QSAE_OK;
    const int32_t status = qsae__packed_dense(l->ctx, &l->dense, n, k, &l->packed);
    l->operand.packed = l->packed;
    if (!l->kept)
        qsae__qmatrix_unref(&l->q);
    return status;
}

/* The layer computes with l->q. */
static int32_t use_matrix(qsae__linear *l)
{
    if (l->operand.kind == QSAE__PRODUCT_INT8)
        return pack_codes(l);
    if (l->values)
        return use_values(l);
    l->decoded = (qsae__decoded){ l->q, l->operand.compute };
    l->operand.panels = qsae__panels_decoded(&l->decoded);
    l->rows = qsae__rows16_decoded(l->q);
    l->operand.rows = &l->rows;
    l->operand.q = l->q;
    return QSAE_OK;
}

struct copy {
    const qsae_qmatrix *from;
    qsae_qmatrix *to;
};

static int32_t copy_row(void *arg, int64_t row, int32_t worker)
{
    const struct copy *const c = arg;
    float part[1024];
    (void)worker;
    for (int64_t c0 = 0; c0 < c->to->n_in; c0 += 1024) {
        const int64_t n = qsae__min_i64(1024, c->to->n_in - c0);
        c->from->ops->decode(c->from, row, c0, n, c->to->dtype, part);
        qsae__plain_store(c->to, row, c0, n, part);
    }
    return QSAE_OK;
}

static int32_t use_stored_reversed(qsae__linear *l, const qsae__linear_weight *w)
{
    const int64_t n = w->n_out, k = w->n_in;
    const qsae__source src = { .ctx = l->ctx, .dtype = l->operand.compute, .n_out = n, .n_in = k };
    int32_t status = qsae__plain_new(&src, &l->q);
    struct copy copy = { w->stored, l->q };
    if (!status)
        status = qsae__parallel(l->ctx, n, copy_row, &copy);
    if (status)
        return status;
    const size_t size = (size_t)qsae_dtype_bits(l->q->dtype) / 8;
    l->dense = (qsae__dense){ .data = (const char *)l->q->codes + (size_t)(k - 1) * size,
                              .dtype = l->q->dtype, .level = l->ctx->level, .n_stride = k,
                              .k_stride = -1 };
    l->operand.panels = qsae__panels_dense(&l->dense, n, k);
    if (l->operand.kind == QSAE__PRODUCT_F32)
        return QSAE_OK;
    status = qsae__packed_dense(l->ctx, &l->dense, n, k, &l->packed);
    l->operand.packed = l->packed;
    qsae__qmatrix_unref(&l->q);
    return status;
}

/* The last input first. */
static void reverse_dense(qsae__dense *d, int64_t k)
{
    const int64_t size = qsae_dtype_bits(d->dtype) / 8;
    d->data = (const char *)d->data + (k - 1) * d->k_stride * size;
    d->k_stride = -d->k_stride;
}

static int32_t use_plain(qsae__linear *l, const qsae__condition *c, const qsae__linear_weight *w)
{
    const int32_t dtype = l->operand.dtype == QSAE_BF16 ? QSAE_BF16 : 0;
    const int32_t weights = c ? c->weights : 0;
    if (l->rounds) {
        const qsae__source src = source_of(l, w, 0);
        const int32_t status = qsae__qmatrix_encode(l->ctx, c, &src, 0, &l->q);
        if (status)
            return status;
        l->dense = (qsae__dense){ .data = l->q->codes, .dtype = l->q->dtype,
                                  .round = dtype == l->q->dtype ? 0 : dtype,
                                  .level = l->ctx->level, .n_stride = w->n_in, .k_stride = 1 };
    } else {
        l->dense = (qsae__dense){ .data = w->data, .dtype = w->dtype,
                                  .round = dtype ? dtype : weights, .level = l->ctx->level,
                                  .n_stride = w->out_stride, .k_stride = w->in_stride };
        if (l->dense.round == w->dtype)
            l->dense.round = 0;
    }
    if (l->operand.reverse)
        reverse_dense(&l->dense, w->n_in);
    l->operand.panels = qsae__panels_dense(&l->dense, w->n_out, w->n_in);
    if (l->operand.kind == QSAE__PRODUCT_F32)
        return QSAE_OK;
    const int32_t status = pack(l, w);
    qsae__qmatrix_unref(&l->q);
    return status;
}

int32_t qsae__linear_load(qsae__linear *l, const qsae__condition *c, const qsae__linear_weight *w)
{
    int32_t status = QSAE_OK;
    if (l->loaded)
        return QSAE_OK;
    const bool encodes = l->quantized && !l->kept && !l->operand.reverse;
    if (encodes) {
        const qsae__source src = source_of(l, w, l->operand.dtype);
        status = qsae__qmatrix_encode(l->ctx, c, &src, w->heads, &l->q);
    }
    if (!status && l->quantized && l->operand.reverse)
        status = use_stored_reversed(l, w);
    else if (!status)
        status = l->quantized ? use_matrix(l) : use_plain(l, c, w);
    l->loaded = true;
    if (status)
        qsae__linear_drop(l);
    return status;
}

void qsae__linear_drop(qsae__linear *l)
{
    if (!l)
        return;
    qsae__packed_close(&l->packed);
    l->operand.packed = NULL;
    l->loaded = false;
    if (l->kept)
        return;
    qsae__qmatrix_unref(&l->q);
    if (!l->operand.reverse) /* else it is the stored matrix */
        l->operand.q = NULL;
}

bool qsae__linear_loaded(const qsae__linear *l)
{
    return l->loaded;
}

int32_t qsae__linear_share(qsae__linear *l)
{
    /* of the copy that layers share: this one's reference and w->shared's */
    const int32_t st = qsae__packed_share(l->packed, l->shares ? 2 : 1);
    if (st != QSAE_OK || l->kept || !l->q)
        return st;
    const bool inside = l->dense.data && l->q->codes; /* multiplied from the codes */
    const ptrdiff_t at = inside ? (const char *)l->dense.data - (const char *)l->q->codes : 0;
    const int32_t status = qsae__qmatrix_share(l->q);
    if (inside)
        l->dense.data = (const char *)l->q->codes + at;
    return status;
}

int32_t qsae__linear_open(qsae_context *ctx, const qsae__condition *c, const qsae__linear_weight *w,
                          int32_t dtype, qsae__linear **out)
{
    int32_t status = qsae__linear_plan(ctx, c, w, dtype, out);
    if (!status)
        status = qsae__linear_load(*out, c, w);
    if (status)
        qsae__linear_close(out);
    return status;
}

void qsae__linear_close(qsae__linear **linear)
{
    if (!linear || !*linear)
        return;
    qsae_context *ctx = (*linear)->ctx;
    qsae__qmatrix_unref(&(*linear)->q);
    qsae__packed_close(&(*linear)->packed);
    qsae__free(ctx, (*linear)->bias);
    qsae__free(ctx, (*linear)->seen);
    qsae__free(ctx, *linear);
    qsae__context_unref(ctx);
    *linear = NULL;
}

int32_t qsae__linear_scratch(const qsae__linear *l, int64_t rows, size_t *bytes)
{
    return qsae__apply_scratch(l->ctx, &l->operand, rows, bytes);
}

/* Whether two layers can be multiplied in one call. */
static bool alike(const qsae__operand *a, const qsae__operand *b)
{
    return a->kind == b->kind && a->k == b->k && a->dtype == b->dtype && a->compute == b->compute &&
           a->reverse == b->reverse &&
           qsae__act_same(qsae__operand_act(a), qsae__operand_act(b)) &&
           (a->kind != QSAE__PRODUCT_INT8 ||
            (a->q->codec.rules == b->q->codec.rules &&
             a->q->codec.threshold == b->q->codec.threshold &&
             a->q->codec.outliers_by_row == b->q->codec.outliers_by_row));
}

static void count_outliers(const qsae__linear *l, int64_t columns)
{
    if (!l->seen)
        return;
    atomic_fetch_add(&l->seen[0], 1);
    atomic_fetch_add(&l->seen[1], columns > 0);
    atomic_fetch_add(&l->seen[2], columns);
}

/* Runs of layers that can be multiplied side by side, one after another. */
static int32_t apply_runs(const qsae__linear *const *l, int64_t n, const qsae__linear_rows *x,
                          float *const *y, const int64_t *ldy, const qsae__linear_gate *gate,
                          uint8_t *scratch)
{
    int32_t st = QSAE_OK;
    for (int64_t i = 0, e; i < n && st == QSAE_OK; i = e) {
        const qsae__operand *operand[QSAE__APPLY_MOST];
        for (e = i; e < n && alike(&l[i]->operand, &l[e]->operand); e++)
            operand[e - i] = &l[e]->operand;
        qsae__apply_call call = { .ctx = l[0]->ctx, .operand = operand, .n = e - i, .x = *x,
                                  .y = y + i, .ldy = ldy + i, .gate = gate, .scratch = scratch };
        st = qsae__apply(&call);
        for (int64_t j = i; j < e && st == QSAE_OK; j++)
            count_outliers(l[j], call.outliers);
    }
    return st;
}

int32_t qsae__linear_apply(const qsae__linear *const *l, int64_t n, const qsae__linear_rows *x,
                           float *const *y, const int64_t *ldy, const qsae__linear_gate *gate,
                           void *scratch)
{
    qsae_context *const ctx = l[0]->ctx;
    uint8_t *own = NULL;
    int32_t st = QSAE_OK;
    if (n < 1 || n > QSAE__APPLY_MOST || (gate && n != 2))
        return qsae__fail(QSAE_EINVAL, "%lld layers in one call", (long long)n);
    if (!scratch) {
        size_t most = 0, bytes;
        for (int64_t i = 0; i < n && st == QSAE_OK; i++) {
            st = qsae__linear_scratch(l[i], x->rows, &bytes);
            most = bytes > most ? bytes : most;
        }
        if (st == QSAE_OK && !(own = qsae__alloc(ctx, most)))
            st = QSAE_ENOMEM;
        scratch = own;
    }
    const bool fused = gate && alike(&l[0]->operand, &l[1]->operand);
    if (st == QSAE_OK)
        st = apply_runs(l, n, x, y, ldy, fused ? gate : NULL, scratch);
    if (st == QSAE_OK && gate && !fused)
        st = qsae__apply_gate(ctx, x->rows, l[0]->operand.n, y, ldy, gate);
    qsae__free(ctx, own);
    return st;
}

bool qsae__linear_owns(const qsae__linear *l)
{
    return l->owns;
}

int64_t qsae__linear_out(const qsae__linear *l)
{
    return l->operand.n;
}

int64_t qsae__linear_in(const qsae__linear *l)
{
    return l->operand.k;
}

uint64_t qsae__linear_bytes(const qsae__linear *l)
{
    return l->bytes;
}

uint64_t qsae__linear_held(const qsae__linear *l)
{
    return l->held;
}

int32_t qsae__linear_quantized(const qsae__linear *l)
{
    return l->quantized;
}

int32_t qsae__linear_batch_dependent(const qsae__linear *l)
{
    return l->batch_dependent;
}

qsae__outliers qsae__linear_outliers(const qsae__linear *l)
{
    if (!l->seen)
        return (qsae__outliers){ 0 };
    return (qsae__outliers){ atomic_load(&l->seen[0]), atomic_load(&l->seen[1]),
                             atomic_load(&l->seen[2]) };
}

void qsae__linear_set_outliers(qsae__linear *l, const qsae__outliers *o)
{
    if (!l->seen)
        return;
    atomic_store(&l->seen[0], o->calls);
    atomic_store(&l->seen[1], o->with_outliers);
    atomic_store(&l->seen[2], o->columns);
}
