/* SPDX-License-Identifier: BSD-2-Clause */
#include "model_test.h"

#include <dirent.h>
#include <unistd.h>

static char folder[256];

const char *const test_models[] = { "llama_gqa",     "llama_bias",     "llama_rope3",
                                    "llama_linear",  "gemma3_types",   "gemma3_pattern",
                                    "gemma3_cap",    "gemma3_wrapper", "gemma3_wrapper_new",
                                    "gemma3_sharded", "gemma2_cap",    "gemma2_types",
                                    "gemma2_old",     "qwen3_windows", "qwen3_flat",
                                    "mistral_window", "mistral_full",  "neox_parallel",
                                    "neox_sequential", "neox_tied",    "gpt2_small",
                                    "gpt2_layers",   "gemma4_dense",   "gemma4_keys",
                                    "gemma4_shared", "gemma4_experts", "gemma4_wrapper" };
const int n_test_models = (int)(sizeof test_models / sizeof test_models[0]);

const char *test_folder(void)
{
    return folder;
}

const char *test_model_path(const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, MODELS "%s", name);
    return path;
}

void test_write(const char *name, const void *data, size_t size)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}

char *test_read(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    const long n = ftell(f);
    assert_true(n >= 0);
    rewind(f);
    char *data = malloc((size_t)n + 1);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, (size_t)n, f), n);
    data[n] = 0;
    fclose(f);
    *size = (size_t)n;
    return data;
}

qsae_context *test_context(int threads, const char *cpu)
{
    qsae_context_settings s;
    qsae_context *ctx = NULL;
    qsae_context_settings_init(&s, sizeof s);
    s.threads = threads;
    s.cpu = cpu;
    OK(qsae_context_open(&s, &ctx));
    return ctx;
}

qsae_model *test_model(qsae_context *ctx, const char *path, const char *condition, int compute,
                       int attention)
{
    qsae_model_settings s;
    qsae_weights *w = NULL;
    qsae_model *m = NULL;
    OK(qsae_weights_open(ctx, path, &w));
    qsae_model_settings_init(&s, sizeof s);
    s.condition = condition;
    s.compute = compute;
    s.attention = attention;
    OK(qsae_model_open(w, &s, &m));
    qsae_weights_close(&w); /* the model keeps it */
    return m;
}

double *test_values(const qsae__tensors *t, const char *name, int64_t *n)
{
    const qsae__tensor *x = qsae__tensors_find(t, name);
    if (!x)
        fail_msg("no tensor %s", name);
    int64_t count = 1;
    for (int i = 0; i < x->rank; i++)
        count *= x->shape[i];
    double *out = malloc((size_t)count * sizeof *out + 1);
    assert_non_null(out);
    if (x->dtype == QSAE_F64) {
        memcpy(out, x->data, (size_t)count * sizeof *out);
    } else {
        float *f = malloc((size_t)count * sizeof *f + 1);
        assert_non_null(f);
        assert_true(qsae__to_f32(x->dtype, x->data, count, f));
        for (int64_t i = 0; i < count; i++)
            out[i] = (double)f[i];
        free(f);
    }
    if (n)
        *n = count;
    return out;
}

float *test_floats(const qsae__tensors *t, const char *name, int64_t *n)
{
    int64_t count;
    double *d = test_values(t, name, &count);
    float *f = malloc((size_t)count * sizeof *f + 1);
    assert_non_null(f);
    for (int64_t i = 0; i < count; i++)
        f[i] = (float)d[i];
    free(d);
    if (n)
        *n = count;
    return f;
}

double test_rms(const double *a, const double *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (a[i] - b[i]) * (a[i] - b[i]);
    return sqrt(sum / (double)n);
}

static int32_t keep_rows(void *cookie, int32_t layer, int32_t site, const qsae_rows *rows)
{
    struct test_result *r = cookie;
    assert_int_equal(site, QSAE_SITE_RESID_POST);
    assert_int_equal(rows->n_rows, r->rows);
    memcpy(r->resid[layer], rows->data, (size_t)(r->rows * r->width) * sizeof(float));
    return 0;
}

void test_run(qsae_model *m, const int32_t *ids, int64_t n_seq, int64_t n_tokens,
              struct test_result *r)
{
    qsae_model_info info = { .struct_size = offsetof(qsae_model_info, hash) };
    qsae_pass p;
    OK(qsae_model_get_info(m, &info));
    *r = (struct test_result){ info.layers, n_seq * n_tokens, info.width, info.vocab, NULL, NULL,
                               NULL };
    qsae_tap *taps = calloc((size_t)info.layers, sizeof *taps);
    r->resid = calloc((size_t)info.layers, sizeof *r->resid);
    r->logits = malloc((size_t)(r->rows * r->vocab) * sizeof(float));
    r->nll = malloc((size_t)r->rows * sizeof(float));
    assert_true(taps && r->resid && r->logits && r->nll);
    for (int64_t i = 0; i < info.layers; i++) {
        r->resid[i] = malloc((size_t)(r->rows * r->width) * sizeof(float));
        assert_non_null(r->resid[i]);
        taps[i] = (qsae_tap){ .struct_size = sizeof taps[i],
                              .layer = (int32_t)i,
                              .site = QSAE_SITE_RESID_POST,
                              .observe = keep_rows,
                              .cookie = r };
    }
    qsae_pass_init(&p, sizeof p);
    p.ids = ids;
    p.n_seq = n_seq;
    p.n_tokens = n_tokens;
    p.nll = r->nll;
    p.logits = r->logits;
    p.taps = taps;
    p.n_taps = info.layers;
    OK(qsae_model_forward(m, &p));
    free(taps);
}

void test_result_free(struct test_result *r)
{
    for (int64_t i = 0; i < r->layers; i++)
        free(r->resid[i]);
    free(r->resid);
    free(r->logits);
    free(r->nll);
}

bool test_result_equal(const struct test_result *a, const struct test_result *b)
{
    bool same = a->layers == b->layers && a->rows == b->rows;
    for (int64_t i = 0; same && i < a->layers; i++)
        same = !memcmp(a->resid[i], b->resid[i], (size_t)(a->rows * a->width) * sizeof(float));
    return same && !memcmp(a->logits, b->logits, (size_t)(a->rows * a->vocab) * sizeof(float)) &&
           !memcmp(a->nll, b->nll, (size_t)a->rows * sizeof(float));
}

static int setup(void **state)
{
    const char *base = getenv("TMPDIR");
    (void)state;
    snprintf(folder, sizeof folder, "%s/qsae-model-XXXXXX", base ? base : "/tmp");
    return mkdtemp(folder) == NULL;
}

static int teardown(void **state)
{
    char path[1024];
    DIR *dir = opendir(folder);
    (void)state;
    for (struct dirent *e; dir && (e = readdir(dir));) {
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        unlink(path); /* fails for . and .. */
    }
    if (dir)
        closedir(dir);
    return rmdir(folder);
}

/* Only the groups that the command line names, if it names any. */
static int n_wanted;
static char **wanted;

static int run(const char *name, const struct CMUnitTest *tests, size_t n)
{
    bool runs = n_wanted == 0;
    for (int i = 0; i < n_wanted; i++)
        runs |= !strcmp(wanted[i], name);
    if (!runs)
        return 0;
    return _cmocka_run_group_tests(name, tests, n, setup, teardown);
}

int main(int argc, char **argv)
{
    int failed = 0;
    n_wanted = argc - 1;
    wanted = argv + 1;
    failed += run("configuration", config_tests, n_config_tests);
    failed += run("compare", compare_tests, n_compare_tests);
    failed += run("open", open_tests, n_open_tests);
    failed += run("gguf", gguf_tests, n_gguf_tests);
    failed += run("gguf", gguf_refused_tests, n_gguf_refused_tests);
    failed += run("keys", key_tests, n_key_tests);
    failed += run("gemma 4", gemma4_tests, n_gemma4_tests);
    failed += run("top", top_tests, n_top_tests);
    failed += run("operations", operation_tests, n_operation_tests);
    failed += run("reference", reference_tests, n_reference_tests);
    failed += run("invariance", invariance_tests, n_invariance_tests);
    failed += run("pass", pass_tests, n_pass_tests);
    failed += run("sites", site_tests, n_site_tests);
    failed += run("site names", site_name_tests, n_site_name_tests);
    failed += run("head", head_tests, n_head_tests);
    failed += run("encoded", encoded_tests, n_encoded_tests);
    failed += run("report", report_tests, n_report_tests);
    failed += run("save", save_tests, n_save_tests);
    failed += run("save folders", save_folder_tests, n_save_folder_tests);
    failed += run("key/value cache", kv_tests, n_kv_tests);
    failed += run("memory", memory_tests, n_memory_tests);
    failed += run("streamed", streamed_tests, n_streamed_tests);
    failed += run("shared", shared_tests, n_shared_tests);
    failed += run("floor", floor_tests, n_floor_tests);
    failed += run("mix", mix_tests, n_mix_tests);
    failed += run("stories", stories_tests, n_stories_tests);
    failed += run("stored", stored_tests, n_stored_tests);
    failed += run("processing", process_tests, n_process_tests);
    failed += run("long windows", long_tests, n_long_tests);
    return failed != 0;
}
