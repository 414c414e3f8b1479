/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Every key of the configurations of models and SAEs, one at a time missing or with a value of each
 * kind: the folder opens, or is refused with a status that speaks of files and a message that names
 * the folder, or the module whose matrix does not fit. All of them with QSAE_LONG_TESTS=1, else
 * every third.
 */
#include <dirent.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "support.h"

struct target {
    const char *folder, *config; /* below tests/data */
    bool sae;
};

static const struct target targets[] = {
    { "models/llama_rope3", "config.json", false },
    { "models/gemma2_types", "config.json", false },
    { "models/gemma3_wrapper", "config.json", false },
    { "models/gemma4_dense", "config.json", false },
    { "models/qwen3_windows", "config.json", false },
    { "models/mistral_window", "config.json", false },
    { "models/neox_parallel", "config.json", false },
    { "models/gpt2_layers", "config.json", false },
    { "models/bnb_nf4", "config.json", false },
    { "models/stored_int4_group", "config.json", false },
    { "models/stored_awq", "config.json", false },
    { "models/stored_gptq", "config.json", false },
    { "models/stored_fp8", "config.json", false },
    { "models/stored_nvfp4", "config.json", false },
    { "models/stored_mxfp4", "config.json", false },
    { "models/stored_w8a8", "config.json", false },
    { "saes/jumprelu", "cfg.json", true },
    { "saes/gated", "cfg.json", true },
    { "saes/batchtopk_training", "cfg.json", true },
    { "saes/old_average", "cfg.json", true },
    { "saes/jumprelu_transcoder", "cfg.json", true },
    { "saes/gemma_scope_2/resid_post/layer_2_width_48_l0_small", "config.json", true },
};

static const char *const values[] = { NULL,    "null", "{}",  "[]",      "\"x\"",
                                      "\"\"",  "-1",   "0",   "true",    "1099511627776",
                                      "1e300", "0.5",  "[7]", "[\"x\"]", "{\"x\":7}" };
#define VALUES ((int)(sizeof values / sizeof values[0]))

static char folder[256];
static qsae_context *ctx;
static int64_t tried, opened, bad, turn;

static const char *path(const char *name)
{
    static char p[600];
    snprintf(p, sizeof p, "%s/%s", folder, name);
    return p;
}

static int32_t open_folder(bool sae)
{
    qsae_weights *w = NULL;
    qsae_sae *s = NULL;
    const int32_t st =
        sae ? qsae_sae_open(ctx, folder, NULL, &s) : qsae_weights_open(ctx, folder, &w);
    qsae_weights_close(&w);
    qsae_sae_close(&s);
    return st;
}

static void check(const struct target *t, json_t *root, const char *key, const char *value)
{
    assert_int_equal(json_dump_file(root, path(t->config), 0), 0);
    const int32_t st = open_folder(t->sae);
    tried++;
    opened += st == QSAE_OK;
    const bool fits = st == QSAE_EFORMAT || st == QSAE_EUNSUPPORTED || st == QSAE_EMISMATCH ||
                      st == QSAE_ENOENT || st == QSAE_EOVERFLOW;
    /* A stored matrix that is not as the configuration says is named by its module. */
    const bool module = (st == QSAE_EMISMATCH || st == QSAE_ENOENT) &&
                        strstr(qsae_error_message(), "model.layers.");
    if (st == QSAE_OK || (fits && (module || strstr(qsae_error_message(), folder))))
        return;
    bad++;
    printf("# %s: \"%s\": %s: %s: %s\n", t->folder, key, value ? value : "missing",
           qsae_status_name(st), qsae_error_message());
}

/* The members of an object of the document, and of those below. */
static void replace(const struct target *t, json_t *root, json_t *object, int depth)
{
    json_t *const before = json_deep_copy(object);
    const char *key;
    json_t *old;
    json_object_foreach(before, key, old) {
        for (int v = 0; v < VALUES; v++) {
            if (!full_length() && turn++ % 3)
                continue;
            if (values[v])
                json_object_set_new(object, key, json_loads(values[v], JSON_DECODE_ANY, NULL));
            else
                json_object_del(object, key);
            check(t, root, key, values[v]);
            json_object_set_new(object, key, json_deep_copy(old));
        }
        if (json_is_object(old) && depth < 4)
            replace(t, root, json_object_get(object, key), depth + 1);
    }
    json_decref(before);
}

static void run(const struct target *t)
{
    char from[600], to[600];
    const char *const names[] = { "model.safetensors", "sae_weights.safetensors",
                                  "params.safetensors", "sparsity.safetensors" };
    snprintf(from, sizeof from, QSAE_TEST_DATA "/%s/%s", t->folder, t->config);
    json_t *const root = json_load_file(from, 0, NULL);
    assert_non_null(root);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(from, sizeof from, QSAE_TEST_DATA "/%s/%s", t->folder, names[i]);
        snprintf(to, sizeof to, "%s", path(names[i]));
        unlink(to);
        if (access(from, R_OK) == 0)
            assert_int_equal(symlink(from, to), 0);
    }
    assert_int_equal(json_dump_file(root, path(t->config), 0), 0);
    assert_ok(open_folder(t->sae));
    replace(t, root, root, 0);
    json_decref(root);
    unlink(path(t->config));
}

int main(void)
{
    const char *const base = getenv("TMPDIR");
    const int n = (int)(sizeof targets / sizeof targets[0]);
    int failed = 0;
    snprintf(folder, sizeof folder, "%s/qsae-keys-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(folder))
        return 1;
    ctx = open_context(NULL, 1);
    printf("1..%d\n", n);
    for (int i = 0; i < n; i++) {
        tried = opened = bad = 0;
        run(&targets[i]);
        printf("%sok %d - %s: %lld documents, %lld open\n", bad ? "not " : "", i + 1,
               targets[i].folder, (long long)tried, (long long)opened);
        fflush(stdout);
        failed |= bad > 0;
    }
    qsae_context_close(&ctx);
    DIR *const dir = opendir(folder);
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (e->d_name[0] != '.')
            unlink(path(e->d_name));
    if (dir)
        closedir(dir);
    rmdir(folder);
    return failed;
}
