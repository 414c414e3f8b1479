/* SPDX-License-Identifier: BSD-2-Clause */
/* SAEs of every kind: features, reconstructions, edits, figures of weights. */
#include <sys/stat.h>

#include "same.h"

#include "formats/formats.h"
#include "kernels/kernels.h"

#define D 40
#define F 700 /* more than a tile of features */
#define CFG(rest) \
    "{\"d_in\": 40, \"d_sae\": 700, \"metadata\": {\"sae_lens_version\": \"6.1\"}, " rest "}"
#define OLD(rest) "{\"d_in\": 40, \"d_sae\": 700, " rest "}"

typedef struct sae_case {
    const char *name, *config; /* NULL: the fixture of that name */
    int32_t dtype;             /* of the SAE */
    int32_t rows;              /* dtype of the rows */
} sae_case;

static const sae_case list[] = {
    { "standard", CFG("\"architecture\": \"standard\""), 0, QSAE_F32 },
    { "standard", CFG("\"architecture\": \"standard\""), QSAE_BF16, QSAE_BF16 },
    { "standard", CFG("\"architecture\": \"standard\""), QSAE_I8, QSAE_F16 },
    { "jumprelu", CFG("\"architecture\": \"jumprelu\""), 0, QSAE_F32 },
    { "jumprelu", CFG("\"architecture\": \"jumprelu\", \"normalize_activations\": \"layer_norm\""),
      QSAE_F16, QSAE_F32 },
    { "topk", CFG("\"architecture\": \"topk\", \"k\": 9"), 0, QSAE_F32 },
    { "topk", CFG("\"architecture\": \"topk\", \"k\": 9, \"rescale_acts_by_decoder_norm\": true"),
      0, QSAE_BF16 },
    { "topk", CFG("\"architecture\": \"topk\", \"k\": 31"), QSAE_I8, QSAE_F32 },
    { "abstopk", CFG("\"architecture\": \"abstopk\", \"k\": 9"), 0, QSAE_F32 },
    { "groupmax", CFG("\"architecture\": \"groupmax\", \"k\": 7"), 0, QSAE_F32 },
    { "batchtopk", CFG("\"architecture\": \"batchtopk\""), 0, QSAE_F32 },
    { "tanh-relu", OLD("\"activation_fn_str\": \"tanh-relu\""), 0, QSAE_F32 },
    { "rescale", CFG("\"normalize_activations\": \"constant_norm_rescale\""), 0, QSAE_F32 },
    { "pursuit", CFG("\"architecture\": \"matching_pursuit\", \"max_iterations\": 12"), 0,
      QSAE_F32 },
    { "saes/gated", NULL, 0, QSAE_F32 },
    { "saes/gated_layer_norm", NULL, 0, QSAE_F32 },
    { "saes/gemma_scope_npz", NULL, 0, QSAE_F32 },
    { "saes/jumprelu_skip_transcoder", NULL, 0, QSAE_F32 },
    { "saes/skip_transcoder", NULL, 0, QSAE_F32 },
    { "sae_kinds/matryoshka_bf16", NULL, 0, QSAE_F32 },
    { "sae_kinds/centred", NULL, 0, QSAE_F32 },
    { "sae_formats/llama_scope_norms", NULL, 0, QSAE_F32 },
    { "sae_formats/openmoss_topk", NULL, 0, QSAE_BF16 },
};
#define CASES (sizeof list / sizeof list[0])

static const float *matrix(uint32_t *seed, int64_t n, int power, qsae__tensor *t, const char *name,
                           int64_t rows, int64_t cols)
{
    float *const x = malloc((size_t)n * sizeof *x);
    assert_non_null(x);
    same_numbers(seed, x, n, power, false);
    *t = (qsae__tensor){ .name = name, .data = x, .bytes = (uint64_t)n * sizeof *x,
                         .shape = { rows, cols }, .rank = cols ? 2 : 1, .dtype = QSAE_F32 };
    return x;
}

/* Case i, with tensors that all kinds have; matching pursuit's decoder rows have norm 1. */
static void make(qsae_context *ctx, size_t i)
{
    char path[400];
    uint32_t seed = 900 + (uint32_t)i;
    qsae__tensor t[5];
    snprintf(path, sizeof path, "%s/sae%zu", same_folder, i);
    assert_int_equal(mkdir(path, 0700), 0);
    matrix(&seed, D * F, -2, &t[0], "W_enc", D, F);
    float *const dec = (float *)(uintptr_t)matrix(&seed, F * D, -2, &t[1], "W_dec", F, D);
    matrix(&seed, D, -3, &t[2], "b_dec", D, 0);
    matrix(&seed, F, -3, &t[3], "b_enc", F, 0);
    float *const threshold = (float *)(uintptr_t)matrix(&seed, F, -1, &t[4], "threshold", F, 0);
    for (int f = 0; f < F; f++)
        threshold[f] = threshold[f] < 0 ? -threshold[f] : threshold[f];
    if (strstr(list[i].config, "pursuit")) {
        memset(dec, 0, sizeof *dec * F * D);
        for (int f = 0; f < F; f++) { /* 0.6 and 0.8 are a unit vector, within SAELens' tolerance */
            dec[f * D + f % D] = 0.6f;
            dec[f * D + (f * 7 + 1 + f / D) % D] += 0.8f;
        }
    }
    snprintf(path, sizeof path, "%s/sae%zu/sae_weights.safetensors", same_folder, i);
    assert_ok(qsae__safetensors_write(ctx, path, t, 5));
    snprintf(path, sizeof path, "%s/sae%zu/cfg.json", same_folder, i);
    FILE *const f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(list[i].config, f) >= 0);
    assert_int_equal(fclose(f), 0);
    for (int k = 0; k < 5; k++)
        free((void *)(uintptr_t)t[k].data);
}

void same_saes_setup(qsae_context *ctx)
{
    for (size_t i = 0; i < CASES; i++)
        if (list[i].config)
            make(ctx, i);
}

/* --- what they compute ------------------------------------------------------------------------*/

typedef struct outputs {
    int64_t n, width_out, features, state_size;
    int64_t *indptr, nnz;
    int32_t *indices;
    float *values, *state, *acts, *y, *decoded, *edited;
} outputs;

static qsae_rows rows_at(void *data, int32_t dtype, int64_t first, int64_t n, int64_t cols)
{
    const size_t size = dtype == QSAE_F32 ? 4 : 2;
    return (qsae_rows){ .struct_size = sizeof(qsae_rows),
                        .data = (char *)data + (size_t)(first * cols) * size, .n_rows = n,
                        .n_cols = cols, .row_stride = cols, .dtype = dtype };
}

/* Rows [first, first + x->n_rows): one call of everything. */
static void compute_rows(same_run *r, qsae_sae *sae, const qsae_rows *x, int64_t first, outputs *o)
{
    static const qsae_feature_edit edits[] = {
        { sizeof edits[0], 3, QSAE_FEATURE_SET, 1.5f },
        { sizeof edits[0], 5, QSAE_FEATURE_ADD, -2 },
        { sizeof edits[0], 7, QSAE_FEATURE_SCALE, 0.25f }
    };
    const int64_t n = x->n_rows;
    int64_t nnz = 0;
    float *const state = o->state_size ? o->state + first * o->state_size : NULL;
    int64_t *const indptr = same_array(r, n + 1, sizeof *indptr);
    qsae_rows acts = rows_at(o->acts, QSAE_F32, first, n, o->features);
    qsae_rows y = rows_at(o->y, QSAE_F32, first, n, o->width_out);
    qsae_rows decoded = rows_at(o->decoded, QSAE_F32, first, n, o->width_out);
    qsae_rows edited = rows_at(o->edited, QSAE_F32, first, n, o->width_out);
    SAME_CALL(r, qsae_sae_encode_sparse(sae, x, indptr, o->indices + o->nnz, o->values + o->nnz,
                                        o->n * o->features - o->nnz, state, &nnz));
    SAME_CALL(r, qsae_sae_decode_sparse(sae, n, indptr, o->indices + o->nnz, o->values + o->nnz,
                                        state, &decoded));
    for (int64_t i = 0; i <= n; i++)
        o->indptr[first + i] = o->nnz + indptr[i];
    o->nnz += nnz;
    SAME_CALL(r, qsae_sae_encode(sae, x, &acts, state));
    SAME_CALL(r, qsae_sae_reconstruct(sae, x, &y));
    SAME_CALL(r, qsae_sae_intervene(sae, x, edits, 3, 0, &edited));
}

static void compute(same_run *r, const void *argument)
{
    const sae_case *const c = argument;
    char path[600];
    qsae_sae *sae = NULL;
    qsae_sae_settings s;
    qsae_sae_info info = { .struct_size = sizeof info };
    if (c->config)
        snprintf(path, sizeof path, "%s/sae%d", same_folder, (int)(c - list));
    else
        snprintf(path, sizeof path, QSAE_TEST_DATA "/%s", c->name);
    qsae_sae_settings_init(&s, sizeof s);
    s.dtype = c->dtype;
    s.activation = strcmp(c->name, "batchtopk") ? NULL : "relu";
    SAME_CALL(r, qsae_sae_open(r->ctx, path, &s, &sae));
    SAME_CALL(r, qsae_sae_get_info(sae, &info));
    outputs o = { .n = same_full ? 400 : 37, .width_out = info.width_out,
                  .features = info.features, .state_size = info.state_size };
    const size_t size = c->rows == QSAE_F32 ? 4 : 2;
    void *const x = same_array(r, o.n * info.width, size);
    uint32_t seed = 5;
    for (int64_t i = 0; i < o.n * info.width; i++) {
        const float v = same_number(&seed, 1);
        const uint32_t bits = qsae__f32_bits(v);
        const uint16_t half = c->rows == QSAE_BF16 ? (uint16_t)(bits >> 16)
                                                   : (uint16_t)(next_random(&seed) % 0x4200);
        memcpy((char *)x + (size_t)i * size, size == 4 ? (const void *)&v : &half, size);
    }
    o.indptr = same_array(r, o.n + 1, sizeof *o.indptr);
    o.indices = same_array(r, o.n * o.features, sizeof *o.indices);
    o.values = same_array(r, o.n * o.features, sizeof *o.values);
    o.acts = same_array(r, o.n * o.features, sizeof *o.acts);
    o.y = same_array(r, o.n * o.width_out, sizeof *o.y);
    o.decoded = same_array(r, o.n * o.width_out, sizeof *o.decoded);
    o.edited = same_array(r, o.n * o.width_out, sizeof *o.edited);
    if (o.state_size)
        o.state = same_array(r, o.n * o.state_size, sizeof *o.state);
    for (int64_t q = 0, n; q < o.n; q += n) {
        n = same_step(r, q, o.n);
        const qsae_rows part = rows_at(x, c->rows, q, n, info.width);
        compute_rows(r, sae, &part, q, &o);
    }
    same_add(r, o.indptr, o.n + 1, sizeof *o.indptr);
    same_add(r, o.indices, o.nnz, sizeof *o.indices);
    same_add(r, o.values, o.nnz, sizeof *o.values);
    same_add(r, o.acts, o.n * o.features, sizeof *o.acts);
    same_add(r, o.y, o.n * o.width_out, sizeof *o.y);
    same_add(r, o.decoded, o.n * o.width_out, sizeof *o.decoded);
    same_add(r, o.edited, o.n * o.width_out, sizeof *o.edited);
    if (o.state_size)
        same_add(r, o.state, o.n * o.state_size, sizeof *o.state);
    const double read[] = { info.norm_in, info.norm_out, info.scale }; /* decimals of files */
    same_add(r, read, 3, sizeof read[0]);
    double *const norms = same_array(r, o.features, sizeof *norms);
    static const char *const figures[] = { "encoder_norm", "decoder_norm", "encoder_bias" };
    for (int i = 0; i < 3; i++) {
        SAME_CALL(r, qsae_sae_features(sae, figures[i], norms, o.features));
        same_add(r, norms, o.features, sizeof *norms);
    }
    qsae_sae_close(&sae);
}

size_t same_saes(same_case *cases, size_t most)
{
    static char names[CASES][60];
    assert_true(CASES <= most);
    for (size_t i = 0; i < CASES; i++) {
        snprintf(names[i], sizeof names[0], "sae:%s:%s:%s", list[i].name,
                 list[i].dtype ? qsae_dtype_name(list[i].dtype) : "F32",
                 qsae_dtype_name(list[i].rows));
        cases[i] = (same_case){ names[i], SAME_F32, compute, &list[i] };
    }
    return CASES;
}
