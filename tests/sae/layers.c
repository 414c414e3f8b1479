/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * All layers of a folder at once against its layers one by one ("#l:m"), which formats.c compares
 * with their publishers' formulas; arguments and folders that are refused; changed files.
 */
#include "sae_test.h"

#include "kernels/convert.h"
#include "sae/parts.h"

#define FORMATS QSAE_TEST_DATA "/sae_formats/"
#define SCOPE FORMATS "gemma-scope-2-1b-pt/"

enum { N = 9, MOST = 6, WIDTH = 16, FEATURES = 64 };

/* Inputs of every layer, and room for outputs. */
struct rows {
    float x[MOST][N * WIDTH], y[MOST][N * WIDTH];
    qsae_rows vx[MOST], vy[MOST];
    const qsae_rows *px[MOST];
    qsae_rows *py[MOST];
};

static void make_rows(struct rows *r, const qsae_sae_layers_info *info, uint32_t seed)
{
    memset(r, 0, sizeof *r);
    for (int64_t l = 0; l < info->layers; l++) {
        for (int64_t i = 0; i < N * info->width; i++)
            r->x[l][i] = 3 * next_float(&seed);
        r->vx[l] = test_rows(r->x[l], N, info->width);
        r->vy[l] = test_rows(r->y[l], N, info->width_out);
        r->px[l] = &r->vx[l];
        r->py[l] = &r->vy[l];
    }
}

/* want += what layer `from` writes to layer `to`. */
static void add_one(qsae_context *ctx, const char *path, int64_t from, int64_t to,
                    const qsae_rows *x, double *want)
{
    char layer[32];
    float y[N * WIDTH];
    qsae_sae *sae;
    qsae_sae_settings s;
    qsae_sae_settings_init(&s, sizeof s);
    snprintf(layer, sizeof layer, "%lld:%lld", (long long)from, (long long)to);
    s.layer = layer;
    assert_ok(qsae_sae_open(ctx, path, &s, &sae));
    qsae_rows ry = test_rows(y, N, x->n_cols);
    assert_ok(qsae_sae_reconstruct(sae, x, &ry));
    for (int64_t i = 0; i < N * x->n_cols; i++)
        want[i] += (double)y[i];
    qsae_sae_close(&sae);
}

static void test_sums(void **state)
{
    static const struct {
        const char *path, *kind;
        int64_t layers;
    } cases[] = {
        { FORMATS "clt", "clt", 3 },
        { FORMATS "clt_relu", "clt", 3 },
        { FORMATS "openmoss_clt_jump", "clt", 3 },
        { FORMATS "openmoss_clt_relu", "clt", 3 },
        { SCOPE "clt/width_262k_l0_big_affine", "clt", 3 },
        { SCOPE "crosscoder/width_262k_l0_medium", "crosscoder", 3 },
        { FORMATS "set_jump", "transcoders", 2 },
        { FORMATS "set_topk", "transcoders", 2 },
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        qsae_context *ctx = open_context(NULL, 1 + (int32_t)i % 2);
        qsae_sae_layers *g;
        qsae_sae_layers_info info = { .struct_size = sizeof info };
        struct rows r;
        int64_t ids[MOST];
        assert_ok(qsae_sae_layers_open(ctx, cases[i].path, NULL, &g));
        assert_ok(qsae_sae_layers_get_info(g, &info));
        assert_string_equal(info.kind, cases[i].kind);
        assert_int_equal(info.layers, cases[i].layers);
        assert_in_range(info.width, 1, WIDTH);
        for (int64_t l = 0; l < info.layers; l++) {
            qsae_sae *sae;
            assert_ok(qsae_sae_layers_get(g, l, &ids[l], &sae));
        }
        make_rows(&r, &info, 7 + (uint32_t)i);
        assert_ok(qsae_sae_layers_reconstruct(g, r.px, r.py));
        for (int64_t m = 0; m < info.layers; m++) {
            double want[N * WIDTH] = { 0 };
            for (int64_t l = 0; l < info.layers; l++)
                if (l == m || (strcmp(info.kind, "clt") == 0 && l < m) ||
                    strcmp(info.kind, "crosscoder") == 0)
                    add_one(ctx, cases[i].path, ids[l], ids[m], &r.vx[l], want);
            for (int64_t k = 0; k < N * info.width_out; k++)
                if (!(fabs(r.y[m][k] - want[k]) <= 2e-6 * (1 + fabs(want[k]))))
                    fail_msg("%s to %lld: element %lld: expected %.9g, found %.9g", cases[i].path,
                             (long long)m, (long long)k, want[k], (double)r.y[m][k]);
        }
        qsae_sae_layers_close(&g);
        assert_null(g);
        qsae_context_close(&ctx);
    }
}

/* Decoding given activations is the same output; only layers that write there are looked at. */
static void test_decode(void **state)
{
    qsae_context *ctx = open_context(NULL, 2);
    qsae_sae_layers *g;
    qsae_sae_layers_info info = { .struct_size = sizeof info };
    struct rows r;
    int64_t indptr[3][N + 1], nnz;
    int32_t indices[3][N * FEATURES];
    float values[3][N * FEATURES], y[N * WIDTH];
    qsae_sae_acts acts[3];
    (void)state;
    assert_ok(qsae_sae_layers_open(ctx, FORMATS "clt", NULL, &g));
    assert_ok(qsae_sae_layers_get_info(g, &info));
    make_rows(&r, &info, 3);
    r.px[2] = NULL; /* layer 2 is not wanted */
    r.py[2] = NULL;
    assert_ok(qsae_sae_layers_reconstruct(g, r.px, r.py));
    for (int64_t l = 0; l < 3; l++) {
        qsae_sae *sae;
        assert_ok(qsae_sae_layers_get(g, l, NULL, &sae));
        assert_ok(qsae_sae_encode_sparse(sae, &r.vx[l], indptr[l], indices[l], values[l],
                                         N * FEATURES, NULL, &nnz));
        acts[l] = (qsae_sae_acts){ sizeof *acts, indptr[l], indices[l], values[l] };
        qsae_rows ry = test_rows(y, N, info.width_out);
        assert_fails(qsae_sae_decode_sparse(sae, N, indptr[l], indices[l], values[l], NULL, &ry),
                     QSAE_EUNSUPPORTED, "cross-layer");
    }
    qsae_rows ry = test_rows(y, N, info.width_out), narrow = test_rows(y, N, 3);
    acts[2].indptr = NULL; /* writes to layer 2 alone */
    assert_ok(qsae_sae_layers_decode_sparse(g, acts, 1, N, &ry));
    assert_memory_equal(y, r.y[1], sizeof(float) * (size_t)(N * info.width_out));
    assert_fails(qsae_sae_layers_decode_sparse(g, acts, 2, N, &ry), QSAE_EINVAL, "layer 2: indptr");
    assert_fails(qsae_sae_layers_decode_sparse(g, acts, 3, N, &ry), QSAE_EINVAL, "not there");
    assert_fails(qsae_sae_layers_decode_sparse(g, acts, 1, N, &narrow), QSAE_EMISMATCH, "width");
    assert_fails(qsae_sae_layers_decode_sparse(g, acts, 1, N - 1, &ry), QSAE_EINVAL, "8 rows");
    const int32_t kept = indices[0][0];
    indices[0][0] = 10;
    assert_fails(qsae_sae_layers_decode_sparse(g, acts, 1, N, &ry), QSAE_EINVAL, "found 10");
    indices[0][0] = kept;
    indptr[1][4] = -1;
    assert_fails(qsae_sae_layers_decode_sparse(g, acts, 1, N, &ry), QSAE_EINVAL, "ascending");
    acts[0].struct_size = 8;
    assert_fails(qsae_sae_layers_decode_sparse(g, acts, 1, N, &ry), QSAE_EINVAL, "struct_size");
    r.px[0] = NULL;
    assert_fails(qsae_sae_layers_reconstruct(g, r.px, r.py), QSAE_EINVAL, "layer 0");
    r.px[0] = &narrow;
    assert_fails(qsae_sae_layers_reconstruct(g, r.px, r.py), QSAE_EMISMATCH, "layer 0");
    qsae_sae *sae;
    assert_fails(qsae_sae_layers_get(g, 3, NULL, &sae), QSAE_EINVAL, "0 to 2");
    qsae_sae_layers_close(&g);
    qsae_context_close(&ctx);
}

#define DECODE(acts, to, n) qsae_sae_layers_decode_sparse(g, acts, to, n, &ry)

/* Activations of three layers that a caller gives wrongly, and none at all. */
static void test_wrong_acts(void **state)
{
    qsae_context *ctx = open_context(NULL, 1);
    qsae_sae_layers *g;
    int64_t indptr[3] = { 0, 1, 2 };
    int32_t indices[2] = { 3, 4 };
    float values[2] = { 1, 2 }, y[2 * WIDTH], untouched[2 * WIDTH];
    qsae_sae_acts good[3], acts[3];
    qsae_sae_layers_info info = { .struct_size = sizeof info };
    (void)state;
    assert_ok(qsae_sae_layers_open(ctx, FORMATS "clt", NULL, &g));
    assert_ok(qsae_sae_layers_get_info(g, &info));
    qsae_rows ry = test_rows(y, 2, info.width_out);
    for (int l = 0; l < 3; l++)
        good[l] = (qsae_sae_acts){ sizeof *good, indptr, indices, values };
    assert_ok(DECODE(good, 1, 2));
    assert_fails(DECODE(NULL, 1, 2), QSAE_EINVAL, "NULL argument");
    assert_fails(DECODE(good, 1, -1), QSAE_EINVAL, "negative count");
    assert_fails(DECODE(good, -1, 2), QSAE_EINVAL, "a layer that is not there");
    memcpy(acts, good, sizeof acts);
    acts[1].indices = NULL;
    assert_fails(DECODE(acts, 1, 2), QSAE_EINVAL, "layer 1: indices and values must not be NULL");
    acts[1].indices = indices;
    acts[1].values = NULL;
    assert_fails(DECODE(acts, 1, 2), QSAE_EINVAL, "layer 1: indices and values must not be NULL");
    acts[1].values = values;
    acts[1].struct_size = sizeof *acts + 8;
    assert_fails(DECODE(acts, 1, 2), QSAE_EINVAL, "layer 1: struct_size is");
    acts[0].struct_size = acts[1].struct_size = 5000;
    assert_fails(DECODE(acts, 1, 2), QSAE_EINVAL, "struct_size: expected");
    indices[1] = -1;
    assert_fails(DECODE(good, 1, 2), QSAE_EINVAL, "layer 0: entry 1: expected 0..");
    indptr[0] = -1;
    assert_fails(DECODE(good, 1, 2), QSAE_EINVAL, "row 0: expected ascending offsets, found -1, 1");
    /* No rows: nothing is looked at, or written. */
    memset(y, 7, sizeof y);
    memcpy(untouched, y, sizeof y);
    ry.n_rows = 0;
    assert_ok(DECODE(good, 1, 0));
    assert_memory_equal(y, untouched, sizeof y);
    /* Rows that hold nothing: the bias alone. */
    ry.n_rows = 2;
    memset(indptr, 0, sizeof indptr);
    for (int l = 0; l < 3; l++)
        good[l].indices = NULL;
    assert_ok(DECODE(good, 1, 2));
    qsae_sae *own;
    assert_ok(qsae_sae_layers_get(g, 1, NULL, &own));
    for (int64_t i = 0; i < 2 * info.width_out; i++)
        assert_true(y[i] == own->b_dec[i % info.width_out]);
    qsae_sae_layers_close(&g);
    qsae_context_close(&ctx);
}

/* Rows of several element types, of other counts than those beside them, and none. */
static void test_wrong_rows(void **state)
{
    qsae_context *ctx = open_context(NULL, 1);
    qsae_sae_layers *g;
    qsae_sae_layers_info info = { .struct_size = sizeof info };
    static struct rows r, narrow;
    static uint16_t half[N * WIDTH];
    (void)state;
    assert_ok(qsae_sae_layers_open(ctx, FORMATS "clt", NULL, &g));
    assert_ok(qsae_sae_layers_get_info(g, &info));
    make_rows(&r, &info, 12);
    for (int64_t l = 0; l < info.layers; l++)
        for (int64_t i = 0; i < N * info.width; i++)
            r.x[l][i] = roundf(r.x[l][i] * 16) / 16; /* as bf16 has it */
    narrow = r;
    assert_ok(qsae_sae_layers_reconstruct(g, r.px, r.py));
    for (int k = 0; k < 2; k++) {
        const int32_t dtype = k ? QSAE_BF16 : QSAE_F16;
        assert_true(qsae__from_f32(dtype, r.x[0], N * info.width, half));
        qsae_rows vx = test_rows(half, N, info.width);
        vx.dtype = dtype;
        for (int64_t l = 0; l < info.layers; l++) {
            narrow.px[l] = l ? &r.vx[l] : &vx;
            narrow.vy[l].data = narrow.y[l];
            narrow.py[l] = &narrow.vy[l];
        }
        assert_ok(qsae_sae_layers_reconstruct(g, narrow.px, narrow.py));
        assert_memory_equal(narrow.y, r.y, sizeof r.y);
    }
    r.vx[1].n_rows = N - 1;
    assert_fails(qsae_sae_layers_reconstruct(g, r.px, r.py), QSAE_EMISMATCH,
                 "as many as of other layers, found 8 of width");
    r.vx[1].n_rows = N;
    r.vy[1].n_rows = N - 1;
    assert_fails(qsae_sae_layers_reconstruct(g, r.px, r.py), QSAE_EINVAL, "y: expected 9 rows");
    assert_fails(qsae_sae_layers_reconstruct(g, NULL, r.py), QSAE_EINVAL, "must not be NULL");
    assert_fails(qsae_sae_layers_reconstruct(g, r.px, NULL), QSAE_EINVAL, "must not be NULL");
    narrow = r;
    for (int64_t l = 0; l < info.layers; l++)
        r.vx[l].n_rows = r.vy[l].n_rows = 0;
    assert_ok(qsae_sae_layers_reconstruct(g, r.px, r.py));
    assert_memory_equal(narrow.y, r.y, sizeof r.y);
    qsae_sae_layers_close(&g);
    qsae_context_close(&ctx);
}

static void test_refused(void **state)
{
    static const struct {
        const char *path;
        int32_t status;
        const char *part;
    } cases[] = {
        { FORMATS "set_jump#0", QSAE_ENOENT, "no such folder" },
        { FORMATS "goodfire", QSAE_EUNSUPPORTED, "no layers that belong together" },
        { FORMATS "openmoss_jump", QSAE_EUNSUPPORTED, "no layers that belong together" },
        { QSAE_TEST_DATA "/saes/standard", QSAE_EUNSUPPORTED, "no layers that belong together" },
        { QSAE_TEST_DATA "/nothing", QSAE_ENOENT, "no such folder" },
    };
    qsae_context *ctx = open_context(NULL, 1);
    qsae_sae_layers *g;
    qsae_sae_settings s;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_fails(qsae_sae_layers_open(ctx, cases[i].path, NULL, &g), cases[i].status,
                     cases[i].part);
        assert_null(g);
    }
    qsae_sae_settings_init(&s, sizeof s);
    s.layer = "0";
    assert_fails(qsae_sae_layers_open(ctx, FORMATS "clt", &s, &g), QSAE_EINVAL, "layer");
    s.layer = NULL;
    s.dtype = QSAE_I8;
    assert_fails(qsae_sae_layers_open(ctx, FORMATS "clt", &s, &g), QSAE_EINVAL, "dtype");
    s.dtype = 0;
    s.prefix = 3;
    assert_fails(qsae_sae_layers_open(ctx, FORMATS "clt", &s, &g), QSAE_EINVAL, "prefix");
    s.prefix = 0;
    s.dtype = QSAE_F32;
    assert_ok(qsae_sae_layers_open(ctx, FORMATS "clt", &s, &g));
    qsae_sae_layers_close(&g);
    qsae_sae_layers_close(NULL);
    qsae_context_close(&ctx);
}

static char *read_whole(const char *path, size_t *size)
{
    char *const data = malloc(1 << 16);
    FILE *const f = fopen(path, "rb");
    assert_non_null(f);
    assert_non_null(data);
    *size = fread(data, 1, 1 << 16, f);
    assert_in_range(*size, 1, (1 << 16) - 1);
    fclose(f);
    return data;
}

static void copy_file(const char *folder, const char *name)
{
    char path[512];
    size_t size;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    char *const data = read_whole(path, &size);
    test_write(name, data, size);
    free(data);
}

/* Opens the test folder; where it opens, it runs. */
static int32_t try_folder(qsae_context *ctx)
{
    qsae_sae_layers *g;
    qsae_sae_layers_info info = { .struct_size = sizeof info };
    struct rows r;
    const int32_t st = qsae_sae_layers_open(ctx, test_folder, NULL, &g);
    if (st != QSAE_OK) {
        assert_null(g);
        return st;
    }
    assert_ok(qsae_sae_layers_get_info(g, &info));
    if (info.layers <= MOST && info.width <= WIDTH && info.width_out <= WIDTH) {
        make_rows(&r, &info, 5);
        assert_ok(qsae_sae_layers_reconstruct(g, r.px, r.py));
    }
    qsae_sae_layers_close(&g);
    return st;
}

/* Layers missing; headers changed in every file: errors, never a crash. */
static void test_changed(void **state)
{
    static const struct {
        const char *folder, *files[8];
    } cases[] = {
        { FORMATS "clt", { "config.yaml", "W_enc_0.safetensors", "W_enc_1.safetensors",
                           "W_enc_2.safetensors", "W_dec_0.safetensors", "W_dec_1.safetensors",
                           "W_dec_2.safetensors" } },
        { SCOPE "clt/width_262k_l0_big_affine",
          { "params_layer_0.safetensors", "params_layer_1.safetensors",
            "params_layer_2.safetensors" } },
        { FORMATS "openmoss_clt_jump", { "config.json", "sae_weights.safetensors" } },
    };
    qsae_context *ctx = open_context(NULL, 1);
    uint32_t seed = 99;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        for (int f = 0; f < 8 && cases[i].files[f]; f++)
            copy_file(cases[i].folder, cases[i].files[f]);
        assert_ok(try_folder(ctx));
        for (int round = 0; round < 150; round++) {
            int files = 0;
            while (files < 8 && cases[i].files[files])
                files++;
            const char *const name = cases[i].files[next_random(&seed) % (uint32_t)files];
            size_t size, head;
            char *const data = read_whole(test_path(name), &size);
            for (int k = 0; k < 1 + round % 3; k++) {
                static const char bytes[] = "0189-.\"{}[]:,eEtnxX \x00\xff\x7f";
                const uint32_t v = next_random(&seed);
                head = size < 700 ? size : 700;
                data[(v >> 8) % head] = v & 64 ? bytes[(v >> 3) % (sizeof bytes - 1)]
                                               : (char)(data[(v >> 8) % head] ^ (1 << (v & 7)));
            }
            test_write(name, data, round % 13 ? size : (next_random(&seed) >> 4) % size);
            (void)try_folder(ctx);
            free(data);
            copy_file(cases[i].folder, name);
        }
        if (i < 2) { /* a layer of several that is not there */
            test_remove(cases[i].files[i == 0 ? 1 : 0]);
            assert_int_equal(try_folder(ctx), QSAE_EMISMATCH);
        }
        if (i == 0) { /* one between others */
            copy_file(cases[i].folder, cases[i].files[1]);
            test_remove(cases[i].files[2]);
            assert_int_equal(try_folder(ctx), QSAE_EMISMATCH);
            assert_non_null(strstr(qsae_error_message(), "found 2 of them, layers 0 to 2"));
        }
        for (int f = 0; f < 8 && cases[i].files[f]; f++)
            test_remove(cases[i].files[f]);
    }
    qsae_context_close(&ctx);
}

/* A file of the test folder with its tensors in another element type (of integers: zeros). */
static void retype(qsae_context *ctx, const char *name, int32_t dtype)
{
    qsae__tensors *from;
    qsae__tensor t[32];
    assert_ok(qsae__tensors_load(ctx, test_path(name), &from));
    const int64_t count = qsae__tensors_len(from);
    assert_in_range(count, 1, 32);
    for (int64_t i = 0; i < count; i++) {
        const qsae__tensor *const old = qsae__tensors_at(from, i);
        const int64_t n = (int64_t)(old->bytes * 8 / (uint64_t)qsae_dtype_bits(old->dtype));
        float *const values = malloc((size_t)n * sizeof *values);
        assert_true(qsae__to_f32(old->dtype, old->data, n, values));
        t[i] = *old;
        t[i].dtype = dtype;
        t[i].bytes = (uint64_t)n * (uint64_t)qsae_dtype_bits(dtype) / 8;
        double *const data = calloc((size_t)n, sizeof *data);
        for (int64_t k = 0; dtype == QSAE_F64 && k < n; k++)
            data[k] = values[k];
        free(values);
        t[i].data = data;
    }
    assert_ok(qsae__safetensors_write(ctx, test_path(name), t, count));
    for (int64_t i = 0; i < count; i++)
        free((void *)(uintptr_t)t[i].data);
    qsae__tensors_unref(&from);
}

/* Decoders in F64 are the same layers to the bit; integers are refused. */
static void test_types(void **state)
{
    static const struct {
        const char *folder, *files[8], *decoder;
    } cases[] = {
        { FORMATS "clt", { "config.yaml", "W_enc_0.safetensors", "W_enc_1.safetensors",
                           "W_enc_2.safetensors", "W_dec_0.safetensors", "W_dec_1.safetensors",
                           "W_dec_2.safetensors" }, "W_dec_1.safetensors" },
        { FORMATS "openmoss_clt_jump", { "config.json", "sae_weights.safetensors" },
          "sae_weights.safetensors" },
    };
    qsae_context *ctx = open_context(NULL, 1);
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        static struct rows r[2];
        qsae_sae_layers_info info[2] = { { .struct_size = sizeof *info } };
        qsae_sae_layers *g[2];
        info[1] = info[0];
        for (int f = 0; f < 8 && cases[i].files[f]; f++)
            copy_file(cases[i].folder, cases[i].files[f]);
        for (int k = 0; k < 2; k++) {
            if (k)
                retype(ctx, cases[i].decoder, QSAE_F64);
            assert_ok(qsae_sae_layers_open(ctx, test_folder, NULL, &g[k]));
            assert_ok(qsae_sae_layers_get_info(g[k], &info[k]));
            make_rows(&r[k], &info[k], 21);
            assert_ok(qsae_sae_layers_reconstruct(g[k], r[k].px, r[k].py));
        }
        assert_memory_equal(r[0].y, r[1].y, sizeof r[0].y);
        assert_string_equal(info[0].hash, info[1].hash);
        qsae_sae_layers_close(&g[0]);
        qsae_sae_layers_close(&g[1]);
        copy_file(cases[i].folder, cases[i].decoder);
        retype(ctx, cases[i].decoder, QSAE_I32);
        assert_int_equal(try_folder(ctx), QSAE_EUNSUPPORTED);
        assert_non_null(strstr(qsae_error_message(), "expected F32, F16, BF16 or F64, found I32"));
        for (int f = 0; f < 8 && cases[i].files[f]; f++)
            test_remove(cases[i].files[f]);
    }
    qsae_context_close(&ctx);
}

static void write_layer(qsae_context *ctx, const char *name, int64_t d, int64_t d_out)
{
    static const float zeros[64];
    const qsae__tensor t[] = {
        { .name = "W_enc", .data = zeros, .bytes = (uint64_t)d * 12, .shape = { 3, d }, .rank = 2,
          .dtype = QSAE_F32 },
        { .name = "W_dec", .data = zeros, .bytes = (uint64_t)d_out * 12, .shape = { 3, d_out },
          .rank = 2, .dtype = QSAE_F32 },
        { .name = "b_enc", .data = zeros, .bytes = 12, .shape = { 3 }, .rank = 1,
          .dtype = QSAE_F32 },
        { .name = "b_dec", .data = zeros, .bytes = (uint64_t)d_out * 4, .shape = { d_out },
          .rank = 1, .dtype = QSAE_F32 },
    };
    assert_ok(qsae__safetensors_write(ctx, test_path(name), t, 4));
}

/* Sets of transcoders: one alone is none; layers of another width, and more than there can be. */
static void test_sets(void **state)
{
    qsae_context *ctx = open_context(NULL, 1);
    qsae_sae_layers *g;
    bool there;
    char name[48];
    (void)state;
    write_layer(ctx, "layer_5.safetensors", 8, 8);
    assert_ok(qsae__sae_layers_there(ctx, test_folder, &there));
    assert_false(there);
    write_layer(ctx, "layer_07.safetensors", 8, 8);
    write_layer(ctx, "layer_1234567.safetensors", 8, 8); /* no layer: too many digits */
    assert_ok(qsae__sae_layers_there(ctx, test_folder, &there));
    assert_true(there);
    assert_ok(qsae_sae_layers_open(ctx, test_folder, NULL, &g));
    qsae_sae_layers_info info = { .struct_size = sizeof info };
    assert_ok(qsae_sae_layers_get_info(g, &info));
    assert_int_equal(info.layers, 2);
    qsae_sae_layers_close(&g);
    write_layer(ctx, "layer_07.safetensors", 8, 6);
    assert_fails(qsae_sae_layers_open(ctx, test_folder, NULL, &g), QSAE_EMISMATCH,
                 "layer 7: width 8 to 6, but layer 5 has 8 to 8");
    write_layer(ctx, "layer_07.safetensors", 6, 6);
    assert_fails(qsae_sae_layers_open(ctx, test_folder, NULL, &g), QSAE_EMISMATCH,
                 "layer 7: width 6 to 6, but layer 5 has 8 to 8");
    for (int i = 8; i < 8 + 1023; i++) {
        snprintf(name, sizeof name, "layer_%d.safetensors", i);
        test_write(name, "", 0);
    }
    assert_fails(qsae_sae_layers_open(ctx, test_folder, NULL, &g), QSAE_EFORMAT,
                 "expected at most 1024 layers, found 1025");
    assert_fails(qsae__sae_layers_there(ctx, test_folder, &there), QSAE_EFORMAT, "at most 1024");
    qsae_context_close(&ctx);
}

/* One file that says it holds more layers than there can be. */
static void test_many(void **state)
{
    static const float zeros[1025];
    const qsae__tensor t = { .name = "W_E", .data = zeros, .bytes = sizeof zeros,
                             .shape = { 1025, 1, 1 }, .rank = 3, .dtype = QSAE_F32 };
    qsae_context *ctx = open_context(NULL, 1);
    qsae_sae_layers *g;
    (void)state;
    assert_ok(qsae__safetensors_write(ctx, test_path("sae_weights.safetensors"), &t, 1));
    test_write("config.json", "{}", 2);
    assert_fails(qsae_sae_layers_open(ctx, test_folder, NULL, &g), QSAE_EFORMAT,
                 "\"W_E\": expected at most 1024 layers, found 1025");
    qsae_context_close(&ctx);
}

const struct CMUnitTest layer_tests[] = {
    cmocka_unit_test(test_sums),
    cmocka_unit_test(test_decode),
    cmocka_unit_test(test_refused),
    cmocka_unit_test(test_changed),
    cmocka_unit_test(test_wrong_acts),
    cmocka_unit_test(test_wrong_rows),
    cmocka_unit_test(test_types),
    cmocka_unit_test(test_sets),
    cmocka_unit_test(test_many),
};
const size_t n_layer_tests = sizeof layer_tests / sizeof layer_tests[0];
