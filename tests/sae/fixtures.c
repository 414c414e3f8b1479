/* SPDX-License-Identifier: BSD-2-Clause */
/* Every SAE of tests/data/saes against SAELens in f32 and the f64 oracle (tests/data/README.md). */
#include "sae_test.h"

typedef struct fixture {
    const char *name, *path, *format, *architecture, *normalize;
    double error_acts, error_recon;
} fixture;

/* Largest distance from the oracle, divided by max(1, |x|) of the row. */
static double distance(const float *got, const double *want, const float *x, int64_t n,
                       int64_t cols,
                       int64_t d)
{
    double worst = 0;
    for (int64_t r = 0; r < n; r++) {
        double norm = 0;
        for (int64_t i = 0; i < d; i++)
            norm += (double)x[r * d + i] * x[r * d + i];
        norm = fmax(1, sqrt(norm));
        for (int64_t i = 0; i < cols; i++)
            worst = fmax(worst, fabs(got[r * cols + i] - want[r * cols + i]) / norm);
    }
    return worst;
}

static const void *tensor(qsae__tensors *t, const char *name, int64_t *rows, int64_t *cols)
{
    const qsae__tensor *const v = qsae__tensors_find(t, name);
    assert_non_null(v);
    assert_int_equal(v->rank, 2);
    *rows = v->shape[0];
    *cols = v->shape[1];
    void *const copy = malloc(v->bytes);
    assert_non_null(copy);
    memcpy(copy, v->data, v->bytes);
    return copy;
}

static void check_values(const fixture *f, qsae_sae *sae, qsae__tensors *t)
{
    int64_t n, d, features, out;
    float *const x = (float *)tensor(t, "x", &n, &d);
    double *const acts = (double *)tensor(t, "oracle.acts", &n, &features);
    double *const recon = (double *)tensor(t, "oracle.recon", &n, &out);
    float *const a = calloc((size_t)(n * features), sizeof *a);
    float *const y = calloc((size_t)(n * out), sizeof *y);
    float *const z = calloc((size_t)(n * out), sizeof *z);
    float *const state = calloc((size_t)n * 2, sizeof *state);
    qsae_rows rx = test_rows(x, n, d), ra = test_rows(a, n, features), ry = test_rows(y, n, out);
    qsae_rows rz = test_rows(z, n, out);

    assert_ok(qsae_sae_encode(sae, &rx, &ra, state));
    for (int64_t i = 0; i < n * features; i++)
        if ((a[i] != 0) != (acts[i] != 0))
            fail_msg("%s: row %d, feature %d: expected %g, found %g", f->name, (int)(i / features),
                     (int)(i % features), acts[i], a[i]);
    const double e_acts = distance(a, acts, x, n, features, d);
    if (!(e_acts <= 2 * f->error_acts + 1e-8))
        fail_msg("%s: activations differ by %g, SAELens by %g", f->name, e_acts, f->error_acts);
    assert_ok(qsae_sae_reconstruct(sae, &rx, &ry));
    const double e_recon = distance(y, recon, x, n, out, d);
    if (!(e_recon <= 2 * f->error_recon + 1e-8))
        fail_msg("%s: reconstructions differ by %g, SAELens by %g", f->name, e_recon,
                 f->error_recon);
    /* Encode and decode by hand give the same, but for the skip connection. */
    assert_ok(qsae_sae_decode(sae, &ra, state, &rz));
    assert_ok(qsae__sae_add_skip(sae, x, n, d, z, out));
    assert_memory_equal(y, z, (size_t)(n * out) * sizeof *y);
    free(x);
    free(acts);
    free(recon);
    free(a);
    free(y);
    free(z);
    free(state);
}

static void check_fixture(qsae_context *ctx, const char *set, const fixture *f, const json_t *j)
{
    char path[512], expected[512];
    qsae_sae *sae = NULL;
    qsae_sae_info info = { .struct_size = sizeof info };
    snprintf(path, sizeof path, "%s/%s/%s", QSAE_TEST_DATA, set, f->path);
    assert_ok(qsae_sae_open(ctx, path, NULL, &sae));
    assert_ok(qsae_sae_get_info(sae, &info));
    assert_string_equal(info.architecture, f->architecture);
    assert_string_equal(info.normalize, f->normalize);
    assert_int_equal(info.width, json_integer_value(json_object_get(j, "d_in")));
    assert_int_equal(info.features, json_integer_value(json_object_get(j, "d_sae")));
    assert_int_equal(info.width_out, json_integer_value(json_object_get(j, "d_out")));
    const json_t *const layer = json_object_get(j, "layer");
    if (layer) {
        char part[32];
        snprintf(part, sizeof part, "layers.%d.", (int)json_integer_value(layer));
        assert_non_null(strstr(info.hook, part));
    }
    snprintf(expected, sizeof expected, "%s/%s/%s.expected.safetensors", QSAE_TEST_DATA, set,
             f->name);
    qsae__tensors *t = NULL;
    assert_ok(qsae__tensors_load(ctx, expected, &t));
    check_values(f, sae, t);
    qsae__tensors_unref(&t);
    qsae_sae_close(&sae);
}

static void check_set(const char *set, size_t least)
{
    qsae_context *ctx = open_context(NULL, 2);
    json_t *all = NULL;
    char path[512];
    snprintf(path, sizeof path, "%s/%s/saes.json", QSAE_TEST_DATA, set);
    assert_ok(qsae__json_load(ctx, path, &all));
    const json_t *const list = json_object_get(all, "saes");
    assert_true(json_array_size(list) >= least);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *const j = json_array_get(list, i);
        if (json_object_get(j, "scale"))
            continue; /* a factor that the files do not hold */
        const fixture f = {
            .name = json_string_value(json_object_get(j, "name")),
            .path = json_string_value(json_object_get(j, "path")),
            .format = json_string_value(json_object_get(j, "format")),
            .architecture = json_string_value(json_object_get(j, "architecture")),
            .normalize = json_string_value(json_object_get(j, "normalize")),
            .error_acts = json_real_value(json_object_get(j, "f32_error_acts")),
            .error_recon = json_real_value(json_object_get(j, "f32_error_recon")),
        };
        check_fixture(ctx, set, &f, j);
    }
    json_decref(all);
    qsae_context_close(&ctx);
}

static void test_fixtures(void **state)
{
    (void)state;
    check_set("saes", 38);
}

static void test_kinds(void **state)
{
    (void)state;
    check_set("sae_kinds", 14);
}

static void open_shared(qsae_context *ctx, const char *name, qsae_sae **sae, qsae_sae_info *info)
{
    char path[512];
    snprintf(path, sizeof path, "%s/data/stories260k-saes/%s", QSAE_TEST_SHARED, name);
    *info = (qsae_sae_info){ .struct_size = sizeof *info };
    assert_ok(qsae_sae_open(ctx, path, NULL, sae));
    assert_ok(qsae_sae_get_info(*sae, info));
}

/* One SAE in three containers: the same hash and the same bits out. */
static void test_shared_containers(void **state)
{
    static const char *const names[] = { "jumprelu", "jumprelu-npz", "jumprelu-gemma-scope-2",
                                         "jumprelu-npz/params.npz",
                                         "jumprelu/sae_weights.safetensors",
                                         "jumprelu-gemma-scope-2/params.safetensors" };
    (void)state;
    if (!qsae__folder_exists(QSAE_TEST_SHARED "/data/stories260k-saes")) {
        print_message("skipped: no shared data beside the project\n");
        skip();
    }
    qsae_context *ctx = open_context(NULL, 2);
    static float x[100 * 64], y[2][100 * 64];
    char hash[64] = "";
    uint32_t seed = 7;
    for (size_t i = 0; i < sizeof x / sizeof x[0]; i++)
        x[i] = 2 * next_float(&seed);
    qsae_rows rx = test_rows(x, 100, 64);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        qsae_sae *sae = NULL;
        qsae_sae_info info;
        qsae_rows ry = test_rows(y[i != 0], 100, 64);
        open_shared(ctx, names[i], &sae, &info);
        assert_int_equal(info.features, 512);
        assert_int_equal(info.apply_b_dec, 0);
        if (i == 0)
            snprintf(hash, sizeof hash, "%s", info.hash);
        assert_string_equal(info.hash, hash);
        assert_ok(qsae_sae_reconstruct(sae, &rx, &ry));
        if (i)
            assert_memory_equal(y[0], y[1], sizeof y[0]);
        qsae_sae_close(&sae);
    }
    qsae_sae *sae = NULL;
    qsae_sae_info info;
    open_shared(ctx, "topk", &sae, &info);
    assert_int_equal(info.k, 16);
    assert_int_equal(info.apply_b_dec, 1);
    assert_int_equal(info.prepend_bos, 1);
    assert_int_equal(info.context_size, 512);
    assert_string_equal(info.hook, "blocks.2.hook_resid_post");
    assert_string_not_equal(info.hash, hash);
    qsae_sae_close(&sae);
    qsae_context_close(&ctx);
}

const struct CMUnitTest fixture_tests[] = {
    cmocka_unit_test(test_fixtures),
    cmocka_unit_test(test_kinds),
    cmocka_unit_test(test_shared_containers),
};
const size_t n_fixture_tests = sizeof fixture_tests / sizeof fixture_tests[0];
