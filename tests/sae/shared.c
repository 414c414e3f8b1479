/* SPDX-License-Identifier: BSD-2-Clause */
/* SAEs whose matrices lie in a folder that contexts share: the bits of those that have their own. */
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sae_test.h"

enum { N = 9, MOST = 128 };

static char shared[300];

static qsae_context *open_sharing(const char *cpu)
{
    qsae_context_settings s;
    qsae_context *ctx = NULL;
    qsae_context_settings_init(&s, sizeof s);
    s.threads = 2;
    s.cpu = cpu;
    s.share_folder = shared;
    assert_ok(qsae_context_open(&s, &ctx));
    qsae__shares_set_least(ctx, 1);
    return ctx;
}

static int files(bool away)
{
    DIR *const folder = opendir(shared);
    int n = 0;
    assert_non_null(folder);
    for (const struct dirent *e; (e = readdir(folder));)
        if (e->d_name[0] != '.') {
            n++;
            assert_true(!away || unlinkat(dirfd(folder), e->d_name, 0) == 0);
        }
    closedir(folder);
    return n;
}

struct result {
    bool opened;
    float acts[N * MOST], y[N * MOST], state[2 * N];
    char hash[40];
};

/* held: pieces that are shared while it is open. */
static void run_one(qsae_context *ctx, const char *path, int32_t dtype, struct result *r,
                    int64_t *held)
{
    qsae_sae_settings s;
    qsae_sae_info info = { .struct_size = sizeof info };
    qsae_sae *sae = NULL;
    float x[N * MOST];
    uint64_t bytes;
    uint32_t seed = 7;
    memset(r, 0, sizeof *r);
    qsae_sae_settings_init(&s, sizeof s);
    s.dtype = dtype;
    r->opened = qsae_sae_open(ctx, path, &s, &sae) == QSAE_OK;
    *held = qsae__shares_held(ctx, &bytes);
    if (!r->opened)
        return;
    assert_ok(qsae_sae_get_info(sae, &info));
    assert_true(info.width <= MOST && info.width_out <= MOST && info.features <= MOST);
    snprintf(r->hash, sizeof r->hash, "%s", info.hash);
    for (int64_t i = 0; i < N * info.width; i++)
        x[i] = 2 * next_float(&seed);
    qsae_rows in = test_rows(x, N, info.width), acts = test_rows(r->acts, N, info.features),
              out = test_rows(r->y, N, info.width_out);
    assert_ok(qsae_sae_encode(sae, &in, &acts, info.state_size ? r->state : NULL));
    if (!info.encode_only)
        assert_ok(qsae_sae_reconstruct(sae, &in, &out));
    qsae_sae_close(&sae);
}

static void compare(const char *path, int32_t dtype, const char *cpu, int *sharing)
{
    static struct result want, have;
    int64_t held = 0;
    int there = 0;
    qsae_context *ctx = open_context(cpu, 2);
    run_one(ctx, path, dtype, &want, &held);
    assert_int_equal(held, 0);
    qsae_context_close(&ctx);
    for (int i = 0; i < 2; i++) {
        uint64_t bytes;
        ctx = open_sharing(cpu);
        run_one(ctx, path, dtype, &have, &held);
        if (memcmp(&want, &have, sizeof want) != 0)
            fail_msg("%s, dtype %d, %s: other bits", path, (int)dtype, cpu);
        assert_int_equal(qsae__shares_held(ctx, &bytes), 0);
        qsae_context_close(&ctx);
        if (i == 0)
            there = files(false);
        assert_int_equal(files(i == 1), there); /* the second finds all it needs */
    }
    *sharing += held > 0;
}

/* Every SAE of a folder in every type, at the best level and one without bf16 products. */
static void compare_all(const char *path, int *all, int *sharing)
{
    static const int32_t dtypes[] = { 0, QSAE_BF16, QSAE_F16, QSAE_I8 };
    DIR *const folder = opendir(path);
    assert_non_null(folder);
    for (const struct dirent *e; (e = readdir(folder));) {
        char one[600];
        struct stat info;
        snprintf(one, sizeof one, "%s/%s", path, e->d_name);
        if (e->d_name[0] == '.' || stat(one, &info) != 0 || !S_ISDIR(info.st_mode))
            continue;
        for (int k = 0; k < 8; k++, ++*all)
            compare(one, dtypes[k / 2], k % 2 ? "avx2" : NULL, sharing);
    }
    closedir(folder);
}

static void test_same_bits(void **state)
{
    int all = 0, sharing = 0;
    (void)state;
    snprintf(shared, sizeof shared, "%s/shared", test_folder);
    assert_int_equal(mkdir(shared, 0700), 0);
    compare_all(QSAE_TEST_DATA "/saes", &all, &sharing);
    compare_all(QSAE_TEST_DATA "/saes/gemma_scope_2", &all, &sharing);
    print_message("%d of %d SAEs have something to share\n", sharing, all);
    assert_true(2 * sharing > all);
    assert_int_equal(rmdir(shared), 0);
}

const struct CMUnitTest shared_tests[] = { cmocka_unit_test(test_same_bits) };
const size_t n_shared_tests = sizeof shared_tests / sizeof shared_tests[0];
