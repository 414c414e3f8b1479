/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * All layers of a folder at once against its layers one by one ("#l:m"), which formats.c compares
 * with their publishers' formulas; arguments and folders that are refused; changed files.
 */
#include "sae_test.h"

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
        for (int f = 0; f < 8 && cases[i].files[f]; f++)
            test_remove(cases[i].files[f]);
    }
    qsae_context_close(&ctx);
}

const struct CMUnitTest layer_tests[] = {
    cmocka_unit_test(test_sums),
    cmocka_unit_test(test_decode),
    cmocka_unit_test(test_refused),
    cmocka_unit_test(test_changed),
};
const size_t n_layer_tests = sizeof layer_tests / sizeof layer_tests[0];
