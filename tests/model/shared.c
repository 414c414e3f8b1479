/* SPDX-License-Identifier: BSD-2-Clause */
/* Models whose weights lie in a folder that contexts share: the bits of those that have their own,
 * one file for equal bytes, everything given back. */
#include "model_test.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { N_SEQ = 2, N_TOKENS = 12, ROWS = N_SEQ * N_TOKENS };

static const char *const conditions[] = {
    NULL, "nf4", "llm.int8:threshold=1", "rtn:bits=3,group=8,sym=0", "rtn:axis=column",
    "ggml:q8_0", "none:weights=f16", "none+prune:sparsity=0.5", "control:gauss(nf4):seed=3",
    "control:null", "fp4:double=0@with=embed|head", "nf4@with=head", "rtn:bits=8@layers=1-1",
};
enum { N_CONDITIONS = sizeof conditions / sizeof conditions[0] };

static const char *const stored[] = {
    "bnb_nf4", "bnb_fp4", "bnb_int8", "gpt2_nf4", "neox_int8", "stored_gptq", "stored_awq",
    "stored_fp8", "stored_int4_group", "stored_w8a8", "stored_fp8_tensor", "stored_nvfp4",
    "stored_mxfp4", "gguf_gemma2/model.gguf", "gguf_llama_mixed/model.gguf",
    "gguf_llama_q4_k_m/model.gguf", "gguf_neox/model.gguf", "gguf_qwen3/model.gguf",
};
enum { N_STORED = sizeof stored / sizeof stored[0] };

static bool full_length(void)
{
    const char *const v = getenv("QSAE_LONG_TESTS");
    return v && strcmp(v, "1") == 0;
}

static char shared[300];

static void count_line(void *cookie, int32_t level, const char *message)
{
    if (strstr(message, shared)) /* not what a checkpoint is warned of */
        ++*(int *)cookie;
    (void)level;
}

/* least: bytes of the smallest thing that is shared. */
static qsae_context *open_sharing(const char *cpu, size_t least, int *lines)
{
    qsae_context_settings s;
    qsae_context *ctx = NULL;
    qsae_context_settings_init(&s, sizeof s);
    s.threads = 2;
    s.cpu = cpu;
    s.share_folder = shared;
    s.log = count_line;
    s.log_cookie = lines;
    OK(qsae_context_open(&s, &ctx));
    qsae__shares_set_least(ctx, least);
    return ctx;
}

static void begin(void)
{
    snprintf(shared, sizeof shared, "/dev/shm/qsae-shared-XXXXXX"); /* or where there is no such */
    if (mkdtemp(shared))
        return;
    snprintf(shared, sizeof shared, "%s/shared", test_folder());
    assert_int_equal(mkdir(shared, 0700), 0);
}

/* change: of each file, else it is removed. Files there were. */
static int each_file(void (*change)(int folder, const char *name))
{
    DIR *const folder = opendir(shared);
    int n = 0;
    assert_non_null(folder);
    for (const struct dirent *e; (e = readdir(folder));)
        if (e->d_name[0] != '.') {
            assert_null(strstr(e->d_name, ".tmp-"));
            n++;
            if (change)
                change(dirfd(folder), e->d_name);
        }
    closedir(folder);
    return n;
}

static void remove_one(int folder, const char *name)
{
    assert_int_equal(unlinkat(folder, name, 0), 0);
}

static void end(void)
{
    each_file(remove_one);
    assert_int_equal(rmdir(shared), 0);
}

static void damage(int folder, const char *name)
{
    const int fd = openat(folder, name, O_RDWR | O_CLOEXEC);
    uint8_t first;
    assert_int_equal(pread(fd, &first, 1, 0), 1);
    first ^= 1;
    assert_int_equal(pwrite(fd, &first, 1, 0), 1);
    close(fd);
}

/* What the bits must be; false where the condition is refused. */
static bool run_one(qsae_context *ctx, const char *path, const char *condition, int compute,
                    const char *process, struct test_result *r)
{
    int32_t ids[ROWS];
    qsae_model_settings s;
    qsae_weights *w = NULL, *processed = NULL;
    qsae_model *m = NULL;
    for (int i = 0; i < ROWS; i++)
        ids[i] = (i * 7 + i / 5) % 32;
    OK(qsae_weights_open(ctx, path, &w));
    if (process) {
        OK(qsae_weights_process(w, process, &processed));
        qsae_weights_close(&w);
        w = processed;
    }
    qsae_model_settings_init(&s, sizeof s);
    s.condition = condition;
    s.compute = compute;
    const int32_t st = qsae_model_open(w, &s, &m);
    qsae_weights_close(&w);
    if (st == QSAE_OK)
        test_run(m, ids, N_SEQ, N_TOKENS, r);
    qsae_model_close(&m);
    return st == QSAE_OK;
}

/* Twice in contexts that share, the second of which finds all it needs. Whether it ran. */
static bool compare(const char *path, const char *condition, int compute, const char *cpu,
                    const char *process)
{
    struct test_result want, have;
    uint64_t bytes;
    int lines = 0, files = 0;
    qsae_context *plain = test_context(2, cpu), *ctx[2];
    const bool ran = run_one(plain, path, condition, compute, process, &want);
    qsae_context_close(&plain);
    if (!ran)
        return false;
    for (int i = 0; i < 2; i++) {
        ctx[i] = open_sharing(cpu, 1, &lines);
        assert_true(run_one(ctx[i], path, condition, compute, process, &have));
        if (!test_result_equal(&want, &have))
            fail_msg("%s, %s, compute %d, %s: other bits", path, condition, compute, cpu);
        test_result_free(&have);
        assert_int_equal(qsae__shares_held(ctx[i], &bytes), 0);
        if (i == 0)
            files = each_file(NULL);
        qsae_context_close(&ctx[i]);
    }
    assert_int_equal(each_file(NULL), files);
    assert_int_equal(lines, 0);
    each_file(remove_one);
    test_result_free(&want);
    return true;
}

static void test_same_bits(void **state)
{
    static const char *const levels[] = { NULL, "avx2", "c" };
    const int models = n_test_models + N_STORED;
    const int each = full_length() ? 1 : 30;
    int ran = 0, all = 0;
    (void)state;
    begin();
    for (int i = 0; i < models * N_CONDITIONS * 6; i++) {
        const int model = i % models, c = i / models % N_CONDITIONS, rest = i / models / N_CONDITIONS;
        if ((model * 5 + c * 7 + rest * 11) % each != 0)
            continue;
        all++;
        ran += compare(test_model_path(model < n_test_models ? test_models[model]
                                                             : stored[model - n_test_models]),
                       conditions[c], rest % 2 ? QSAE_COMPUTE_BF16 : QSAE_COMPUTE_F32,
                       levels[rest / 2], NULL);
    }
    print_message("%d of %d models and conditions\n", ran, all);
    assert_true(4 * ran > 3 * all);
    end();
}

/* Processed weights are copies in f32. */
static void test_processed(void **state)
{
    static const char *const steps[] = { "fold_ln", "fold_ln,center_writing_weights,center_unembed" };
    static const char *const models[] = { "gpt2_small", "neox_tied", "llama_bias", "qwen3_flat" };
    (void)state;
    begin();
    for (int i = 0; i < 8; i++)
        assert_true(compare(test_model_path(models[i % 4]), i % 3 ? NULL : "nf4",
                            i % 2 ? QSAE_COMPUTE_BF16 : QSAE_COMPUTE_F32, NULL, steps[i / 4]));
    end();
}

/* Files that were changed are not used, and nothing else changes. */
static void test_damaged(void **state)
{
    const char *const path = test_model_path("gemma3_types");
    struct test_result want, have;
    int lines = 0, files;
    (void)state;
    begin();
    qsae_context *ctx = open_sharing(NULL, 1, &lines);
    assert_true(run_one(ctx, path, "nf4@with=embed|head", QSAE_COMPUTE_F32, NULL, &want));
    files = each_file(damage);
    assert_true(files > 0 && lines == 0);
    assert_true(run_one(ctx, path, "nf4@with=embed|head", QSAE_COMPUTE_F32, NULL, &have));
    assert_true(test_result_equal(&want, &have));
    assert_true(lines >= files);
    test_result_free(&want);
    test_result_free(&have);
    qsae_context_close(&ctx);
    end();
}

/* A packed copy that a model uses is not moved under it when another one is loaded for good. */
static void test_in_use(void **state)
{
    qsae_model_settings s;
    qsae_weights *w = NULL;
    qsae_model *a = NULL, *b = NULL;
    uint64_t bytes;
    int lines = 0;
    (void)state;
    begin();
    qsae_context *ctx = open_sharing(NULL, 1, &lines);
    if (!qsae__packed_get(ctx)->bf16) {
        qsae_context_close(&ctx);
        end();
        print_message("skipped: this machine has no bf16 product\n");
        skip();
    }
    OK(qsae_weights_open(ctx, test_model_path("llama_gqa"), &w));
    qsae_model_settings_init(&s, sizeof s);
    s.compute = QSAE_COMPUTE_BF16;
    s.memory = QSAE_MEMORY_STREAMED;
    OK(qsae_model_open(w, &s, &a));
    OK(qsae__model_load(a, 0)); /* as in a pass */
    const uint8_t *const data = w->packed[0]->data;
    s.memory = QSAE_MEMORY_RESIDENT;
    OK(qsae_model_open(w, &s, &b));
    assert_ptr_equal(w->packed[0]->data, data);
    const int64_t held = qsae__shares_held(ctx, &bytes);
    assert_true(held > 0); /* those of layer 1 and the head */
    qsae__model_drop(a, 0);
    qsae_model_close(&b);
    OK(qsae_model_open(w, &s, &b)); /* alone: all of it */
    assert_ptr_not_equal(w->packed[0]->data, data);
    assert_true(qsae__shares_held(ctx, &bytes) > held);
    qsae_model_close(&b);
    qsae_model_close(&a);
    qsae_weights_close(&w);
    qsae_context_close(&ctx);
    end();
}

const struct CMUnitTest shared_tests[] = {
    cmocka_unit_test(test_same_bits), cmocka_unit_test(test_processed),
    cmocka_unit_test(test_damaged), cmocka_unit_test(test_in_use),
};
const size_t n_shared_tests = sizeof shared_tests / sizeof shared_tests[0];
