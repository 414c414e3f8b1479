/* SPDX-License-Identifier: BSD-2-Clause */
#include "sae_test.h"

#include <dirent.h>
#include <unistd.h>

char test_folder[256];

const char *test_path(const char *name)
{
    static char paths[8][640];
    static int next;
    char *const p = paths[next++ % 8];
    snprintf(p, sizeof paths[0], "%s/%s", test_folder, name);
    return p;
}

void test_write(const char *name, const void *data, size_t size)
{
    FILE *const f = fopen(test_path(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}

void test_remove(const char *name)
{
    unlink(test_path(name));
}

static int setup(void **state)
{
    const char *const base = getenv("TMPDIR");
    (void)state;
    snprintf(test_folder, sizeof test_folder, "%s/qsae-sae-XXXXXX", base ? base : "/tmp");
    return mkdtemp(test_folder) == NULL;
}

static int teardown(void **state)
{
    DIR *const dir = opendir(test_folder);
    (void)state;
    for (struct dirent *e; dir && (e = readdir(dir)) != NULL;)
        if (e->d_name[0] != '.')
            test_remove(e->d_name);
    if (dir)
        closedir(dir);
    return rmdir(test_folder);
}

static float *random_floats(int64_t n, uint32_t *seed, float scale)
{
    float *const v = malloc((size_t)n * sizeof *v);
    assert_non_null(v);
    for (int64_t i = 0; i < n; i++)
        v[i] = scale * next_float(seed);
    return v;
}

void test_sae_make(test_sae *s, int64_t d_in, int64_t d_sae, uint32_t seed)
{
    *s = (test_sae){ .d_in = d_in, .d_sae = d_sae, .d_out = d_in };
    s->w_enc = random_floats(d_in * d_sae, &seed, 1);
    s->w_dec = random_floats(d_sae * d_in, &seed, 1);
    s->b_enc = random_floats(d_sae, &seed, 0.1f);
    s->b_dec = random_floats(d_in, &seed, 0.1f);
    s->threshold = random_floats(d_sae, &seed, 0.5f);
}

void test_sae_free(test_sae *s)
{
    free(s->w_enc);
    free(s->w_dec);
    free(s->b_enc);
    free(s->b_dec);
    free(s->threshold);
}

void test_sae_save(qsae_context *ctx, const test_sae *s, const char *config)
{
    const qsae__tensor t[] = {
        { .name = "W_enc", .data = s->w_enc, .bytes = (uint64_t)(s->d_in * s->d_sae * 4),
          .shape = { s->d_in, s->d_sae }, .rank = 2, .dtype = QSAE_F32 },
        { .name = "W_dec", .data = s->w_dec, .bytes = (uint64_t)(s->d_sae * s->d_out * 4),
          .shape = { s->d_sae, s->d_out }, .rank = 2, .dtype = QSAE_F32 },
        { .name = "b_dec", .data = s->b_dec, .bytes = (uint64_t)s->d_out * 4,
          .shape = { s->d_out }, .rank = 1, .dtype = QSAE_F32 },
        { .name = "b_enc", .data = s->b_enc, .bytes = (uint64_t)s->d_sae * 4,
          .shape = { s->d_sae }, .rank = 1, .dtype = QSAE_F32 },
        { .name = "threshold", .data = s->threshold, .bytes = (uint64_t)s->d_sae * 4,
          .shape = { s->d_sae }, .rank = 1, .dtype = QSAE_F32 },
    };
    assert_ok(qsae__safetensors_write(ctx, test_path("sae_weights.safetensors"), t,
                                      s->threshold ? 5 : 4));
    test_write("cfg.json", config, strlen(config));
}

qsae_rows test_rows(void *data, int64_t n, int64_t cols)
{
    return (qsae_rows){ .struct_size = sizeof(qsae_rows), .data = data, .n_rows = n, .n_cols = cols,
                        .row_stride = cols, .dtype = QSAE_F32 };
}

static void add(struct CMUnitTest *all, size_t *n, const struct CMUnitTest *some, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        all[*n] = some[i];
        all[*n].setup_func = setup;
        all[(*n)++].teardown_func = teardown;
    }
}

int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    struct CMUnitTest sae_tests[200];
    size_t n = 0;
    add(sae_tests, &n, fixture_tests, n_fixture_tests);
    add(sae_tests, &n, refused_tests, n_refused_tests);
    add(sae_tests, &n, behaviour_tests, n_behaviour_tests);
    add(sae_tests, &n, screen_tests, n_screen_tests);
    add(sae_tests, &n, intervene_tests, n_intervene_tests);
    add(sae_tests, &n, geometry_tests, n_geometry_tests);
    add(sae_tests, &n, kind_tests, n_kind_tests);
    add(sae_tests, &n, format_tests, n_format_tests);
    add(sae_tests, &n, layer_tests, n_layer_tests);
    add(sae_tests, &n, shared_tests, n_shared_tests);
    add(sae_tests, &n, key_tests, n_key_tests);
    add(sae_tests, &n, set_tests, n_set_tests);
    add(sae_tests, &n, file_tests, n_file_tests);
    add(sae_tests, &n, container_tests, n_container_tests);
    return _cmocka_run_group_tests("sae", sae_tests, n, NULL, NULL);
}
