/* SPDX-License-Identifier: BSD-2-Clause */
/* Rows of any shape and dtype in every call that takes them: refused, or read within their memory,
 * which ends where the last row does. */
#include "fuzz.h"

#define MOST 65536

static int64_t number(fuzz_input *in)
{
    static const int64_t odd[] = { -1, INT64_MIN, INT64_MAX, INT64_MAX / 4, (int64_t)1 << 32 };
    const uint8_t b = fuzz_byte(in);
    return b < 251 ? b % 12 : odd[b - 251];
}

/* Room for a struct_size of a later library: the tail is read as far as it says. */
struct padded {
    qsae_rows rows;
    uint8_t tail[256];
};

/* Rows with memory of their own, [.data] freed by the caller; what cannot be allocated is NULL. */
static qsae_rows make_rows(fuzz_input *in)
{
    static const int32_t dtypes[] = { QSAE_F32, QSAE_F16, QSAE_BF16, QSAE_F64, QSAE_I8, 0, -7, 99 };
    qsae_rows r = { .struct_size = sizeof r, .n_rows = number(in), .n_cols = number(in),
                    .row_stride = number(in), .dtype = dtypes[fuzz_byte(in) % 8] };
    if (fuzz_byte(in) > 240)
        r.struct_size = fuzz_byte(in);
    const int64_t bits = qsae_dtype_bits(r.dtype);
    int64_t last, bytes;
    if (r.n_rows < 0 || r.n_cols < 0 || r.row_stride < r.n_cols || bits <= 0)
        return r;
    if (r.n_rows > MOST || r.row_stride > MOST) { /* must be refused: there is no such memory */
        r.n_rows = -1;
        return r;
    }
    last = r.n_rows ? (r.n_rows - 1) * r.row_stride + r.n_cols : 0;
    bytes = last * bits / 8;
    uint8_t *const p = malloc(bytes ? (size_t)bytes : 1);
    fuzz_check(p);
    for (int64_t i = 0; i < bytes; i++)
        p[i] = fuzz_byte(in);
    r.data = p;
    return r;
}

static struct padded make(fuzz_input *in)
{
    struct padded p;
    memset(&p, 0, sizeof p);
    p.rows = make_rows(in);
    p.tail[fuzz_byte(in)] = fuzz_byte(in) == 255;
    return p;
}

static void update(const qsae_rows *x, const qsae_rows *y, int64_t d)
{
    qsae_context *const ctx = fuzz_context(0);
    qsae_metric *m = NULL;
    if (qsae_metric_open_reconstruction(ctx, d, 0, NULL, &m) == QSAE_OK)
        (void)qsae_metric_update_reconstruction(m, NULL, x, y, NULL);
    qsae_metric_close(&m);
    if (qsae_metric_open_drift(ctx, d, NULL, &m) == QSAE_OK)
        (void)qsae_metric_update_drift(m, NULL, x, y, NULL, NULL);
    qsae_metric_close(&m);
    if (x->n_rows >= 0 && x->n_rows < 64) {
        int32_t labels[64];
        for (int i = 0; i < 64; i++)
            labels[i] = i % 3 ? i % 5 : -100;
        if (qsae_metric_open_cross_entropy(ctx, NULL, &m) == QSAE_OK)
            (void)qsae_metric_update_cross_entropy_logits(m, NULL, x, labels);
        qsae_metric_close(&m);
        if (qsae_metric_open_divergence(ctx, NULL, &m) == QSAE_OK)
            (void)qsae_metric_update_divergence_logits(m, NULL, x, y, labels);
        qsae_metric_close(&m);
    }
}

static void encode(const qsae_rows *x, const qsae_rows *y, uint8_t how)
{
    static const char *const specs[] = { "none", "llm.int8", "nf4", "fp4:block=64,double=0",
                                         "rtn:bits=3,group=0", "ggml:q8_0", "ggml:q4_k",
                                         "rtn:bits=8,axis=tl" };
    qsae_quantizer *q = NULL;
    qsae_qmatrix *m = NULL;
    fuzz_check(qsae_quantizer_open(fuzz_context(0), specs[how % 8], &q) == QSAE_OK);
    const int32_t status = qsae_quantizer_encode(q, x, 0, how / 8 % 2, &m);
    if (status == QSAE_OK) {
        fuzz_accepted();
        qsae_weight_error e = { .struct_size = sizeof e };
        fuzz_check(qsae_qmatrix_rows(m) == x->n_rows && qsae_qmatrix_cols(m) == x->n_cols);
        (void)qsae_qmatrix_error(m, y, &e);
        float out[144] = { 0 };
        qsae_rows to = { sizeof to, out, x->n_rows, x->n_cols, x->n_cols, QSAE_F32, 0 };
        fuzz_check(x->n_rows * x->n_cols <= 144 && qsae_qmatrix_decode(m, &to) == QSAE_OK);
        to.n_rows = y->n_rows;
        to.n_cols = to.row_stride = x->n_rows;
        if (y->n_rows >= 0 && y->n_rows <= 12)
            (void)qsae_qmatrix_linear(m, y, NULL, QSAE_F32, &to);
    } else {
        fuzz_refused(status, m);
    }
    qsae_qmatrix_close(&m);
    qsae_quantizer_close(&q);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = { data, size };
    const uint8_t how = fuzz_byte(&in);
    struct padded x = make(&in), y = make(&in);
    update(&x.rows, &y.rows, x.rows.n_cols);
    encode(&x.rows, &y.rows, how);
    free(x.rows.data);
    free(y.rows.data);
    return 0;
}
