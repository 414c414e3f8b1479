/* SPDX-License-Identifier: BSD-2-Clause */
/* Audits of one model at a time against resident ones: the same documents and states, however often
 * they are stopped and in whatever mode they go on. */
#include <dirent.h>
#include <unistd.h>

#include "core/machine.h"
#include "core/spool.h"
#include "document.h"
#include "folder.h"


static json_t *stripped(qsae_context *ctx, const qsae_audit_settings *s)
{
    json_t *const result = run(ctx, s);
    strip(result);
    return result;
}

static int entries(void)
{
    DIR *const dir = opendir(folder);
    int n = 0;
    assert_non_null(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n - 2;
}

/* files: how many lie in the folder before and after. */
static void compare(qsae_context *ctx, qsae_audit_settings *s, const char *what, int files)
{
    s->memory = QSAE_MEMORY_RESIDENT;
    json_t *const want = stripped(ctx, s);
    s->memory = QSAE_MEMORY_IN_TURN;
    s->cache = folder;
    json_t *const have = run(ctx, s);
    assert_string_equal(text_at(json_object_get(have, "timing"), "memory"), "in-turn");
    strip(have);
    if (!json_equal(want, have))
        fail_msg("%s: another document", what);
    assert_int_equal(entries(), files);
    json_decref(have);
    json_decref(want);
}

static void test_same_document(void **state)
{
    static const char *const conditions[] = {
        "llm.int8:threshold=2", "none", "nf4@layers=2-3", "none+prune:sparsity=0.3",
        "control:gauss(nf4)", "nf4@with=embed|head", "none+kv:k=q8_0,v=q4_0",
        "none+prune:match=(rtn:bits=5),tokens=256", DATA "/tiny-gemma3",
    };
    const char *const saes[] = { sae_path, DATA "/tiny-gemma3-sae@1:mlp_out",
                                 DATA "/tiny-gemma3-sae@5" };
    (void)state;
    for (int compute = QSAE_COMPUTE_F32; compute <= QSAE_COMPUTE_BF16; compute++) {
        qsae_context *ctx = open_context(NULL, 2);
        qsae_audit_settings s;
        defaults(&s);
        s.compute = compute;
        s.context = 128;
        s.batch = 3;
        s.max_tokens = 500; /* a batch and a shorter one */
        s.keep_tail = 1;
        s.saes = saes;
        s.n_saes = compute == QSAE_COMPUTE_F32 ? 1 : 3;
        s.splice = compute == QSAE_COMPUTE_F32;
        s.conditions = conditions;
        s.n_conditions = sizeof conditions / sizeof conditions[0];
        compare(ctx, &s, compute == QSAE_COMPUTE_F32 ? "f32" : "bf16", 0);
        s.n_conditions = 1; /* the reference alone beside it */
        s.conditions = (const char *const[]){ "control:null" };
        s.n_saes = s.splice = 0;
        compare(ctx, &s, "one", 0);
        qsae_context_close(&ctx);
    }
}

/* What is measured beside the usual: noise, entropies, another overlap, probes and lengths, which
 * come after the text, SAEs that write another place than they read and whole sets of them. */
static void test_all(void **state)
{
#define SETS QSAE_TEST_DATA "/transcoders"
    static const char *const conditions[] = { "nf4@layers=2-3", "rtn:bits=4" },
                      *const slices[] = { "entropy", "class" },
                      *const saes[] = { SETS "/skip", SETS "/head", SETS "/clt" };
    static const int64_t lengths[] = { 12, 24 };
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    char set[64];
    (void)state;
    snprintf(set, sizeof set, "%s/probes", folder);
    FILE *const f = fopen(set, "w");
    assert_non_null(f);
    fputs("{\"context\": \"The cat\", \"good\": \" sat\", \"bad\": \" blue\"}\n", f);
    fclose(f);
    defaults(&s);
    s.context = 32;
    s.batch = 3;
    s.max_tokens = 130; /* a batch, a chunk, a shorter one */
    s.keep_tail = 1;
    s.conditions = conditions;
    s.n_conditions = 2;
    s.saes = saes;
    s.n_saes = 3;
    s.splice = 1;
    s.controls = 1;
    s.overlap_k = 3;
    s.top_contexts = 2;
    s.slices = slices;
    s.n_slices = 2;
    s.probes = set;
    s.contexts = lengths;
    s.n_contexts = 2;
    compare(ctx, &s, "all", 1);
    unlink(set);
    qsae_context_close(&ctx);
}

/* llama.cpp's comparison and base logits, whose rows are written in the order of the text. */
static void test_llama(void **state)
{
    static const char *const conditions[] = { "nf4@layers=2-3", "rtn:bits=4" };
    static const int32_t modes[] = { QSAE_MEMORY_RESIDENT, QSAE_MEMORY_IN_TURN };
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    char path[2][64], command[256];
    (void)state;
    defaults(&s);
    s.profile = QSAE_PROFILE_DEFAULT;
    s.context = 32;
    s.batch = 3;
    s.max_tokens = 260;
    s.n_saes = 0;
    s.conditions = conditions;
    s.n_conditions = 2;
    s.kl_divergence = 1;
    compare(ctx, &s, "llama", 0);
    for (int i = 0; i < 2; i++) {
        snprintf(path[i], sizeof path[i], "%s/logits%d", folder, i);
        s.save_logits = path[i];
        s.memory = modes[i];
        json_decref(run(ctx, &s));
    }
    snprintf(command, sizeof command, "cmp %s %s", path[0], path[1]);
    assert_int_equal(system(command), 0);
    s.save_logits = NULL;
    s.kl_divergence_base = path[0];
    compare(ctx, &s, "base logits", 2);
    unlink(path[0]);
    unlink(path[1]);
    qsae_context_close(&ctx);
}

struct halt {
    qsae_cancel_token *token;
    int64_t left;
};

static int32_t halt_at(void *cookie, int64_t done, int64_t total, const char *unit,
                       const char *phase)
{
    struct halt *const x = cookie;
    assert_true(done >= 0 && done <= total);
    if (strcmp(phase, "measure") == 0)
        assert_string_equal(unit, "tokens");
    if (--x->left == 0)
        qsae_cancel_token_cancel(x->token);
    return 0;
}

/* Stopped again and again in any mode, each time after a few steps more. */
static void test_resume(void **state)
{
    static const char *const conditions[] = { "llm.int8:threshold=2", "nf4@layers=3-5" };
    static const int32_t modes[] = { QSAE_MEMORY_IN_TURN, QSAE_MEMORY_RESIDENT,
                                     QSAE_MEMORY_IN_TURN, QSAE_MEMORY_IN_TURN,
                                     QSAE_MEMORY_STREAMED };
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    struct halt stop = { .left = 0 };
    qsae_audit *audit = NULL;
    char path[64];
    (void)state;
    snprintf(path, sizeof path, "%s/state", folder);
    assert_ok(qsae_cancel_token_open(&stop.token));
    defaults(&s);
    s.context = 128;
    s.max_tokens = 3000;
    s.conditions = conditions;
    s.n_conditions = 2;
    s.memory = QSAE_MEMORY_RESIDENT;
    json_t *const want = stripped(ctx, &s);
    s.state = path;
    s.cancel = stop.token;
    s.progress = halt_at;
    s.progress_cookie = &stop;
    for (int only = 0; only < 2; only++) { /* in turn alone; any mode */
        int stops = 0;
        unlink(path);
        for (bool done = false; !done; stops++) {
            s.memory = only == 0 ? QSAE_MEMORY_IN_TURN : modes[stops % 5];
            assert_ok(qsae_audit_open(ctx, &s, &audit));
            stop.left = s.memory == QSAE_MEMORY_IN_TURN ? 8 + stops : 3;
            int32_t st = qsae_audit_run(audit);
            qsae_cancel_token_reset(stop.token);
            if (st == QSAE_ECANCELED && stops % 2) { /* on in the same handle */
                stop.left = s.memory == QSAE_MEMORY_IN_TURN ? 8 : 2;
                st = qsae_audit_run(audit);
                qsae_cancel_token_reset(stop.token);
            }
            assert_true(st == QSAE_OK || st == QSAE_ECANCELED);
            done = st == QSAE_OK;
            qsae_audit_close(&audit);
            assert_true(stops < 40);
        }
        assert_true(stops > 2);
        stop.left = 0;
        json_t *const have = stripped(ctx, &s);
        assert_true(json_equal(want, have));
        json_decref(have);
        assert_int_equal(entries(), 1); /* the state */
    }
    unlink(path);
    json_decref(want);
    qsae_cancel_token_close(&stop.token);
    qsae_context_close(&ctx);
}

static void test_folder(void **state)
{
    const char *const condition = "nf4";
    qsae_context *ctx = open_context(NULL, 1);
    qsae_audit_settings s;
    qsae_audit *audit;
    (void)state;
    defaults(&s);
    s.max_tokens = 600;
    s.conditions = &condition;
    s.n_conditions = 1;
    s.memory = QSAE_MEMORY_IN_TURN;
    s.cache = "/nowhere/at/all";
    assert_ok(qsae_audit_open(ctx, &s, &audit));
    assert_fails(qsae_audit_run(audit), QSAE_ENOENT, "/nowhere/at/all");
    qsae_audit_close(&audit);
    s.memory = 4;
    assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_EINVAL, "memory");
    qsae_context_close(&ctx);
}

static void test_spool(void **state)
{
    qsae_context *ctx = open_context(NULL, 1);
    qsae__spool *s = NULL;
    qsae__spooled a, b;
    char out[6];
    (void)state;
    assert_fails(qsae__spool_open(ctx, folder, (uint64_t)1 << 62, &s), QSAE_EIO, "does not fit");
    assert_null(s);
    assert_ok(qsae__spool_open(ctx, folder, 100, &s));
    assert_int_equal(entries(), 0);
    assert_ok(qsae__spool_append(s, "hello", 6, &a));
    assert_ok(qsae__spool_append(s, "you", 4, &b));
    assert_ok(qsae__spool_read(s, &b, out));
    assert_string_equal(out, "you");
    assert_ok(qsae__spool_read(s, &a, out));
    assert_string_equal(out, "hello");
    a.hash[0] ^= 1;
    assert_fails(qsae__spool_read(s, &a, out), QSAE_EIO, "checksum");
    b.offset = 8;
    assert_fails(qsae__spool_read(s, &b, out), QSAE_EIO, "shorter");
    qsae__spool_close(&s);
    assert_null(s);
    qsae__spool_close(&s);
    qsae_context_close(&ctx);
}

static void write_text(const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *const f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

/* Limits of a process' control groups, its own and those above. */
static void test_cgroups(void **state)
{
    char list[64], command[256];
    (void)state;
    snprintf(list, sizeof list, "%s/list", folder);
    snprintf(command, sizeof command, "mkdir -p %s/a/b %s/memory/x/y", folder, folder);
    assert_int_equal(system(command), 0);
    assert_int_equal(qsae__cgroup_limit("/nowhere", folder), 0);
    write_text("list", "0::/a/b\n");
    assert_int_equal(qsae__cgroup_limit(list, folder), 0);
    write_text("a/b/memory.max", "max\n");
    assert_int_equal(qsae__cgroup_limit(list, folder), 0);
    write_text("a/memory.max", "3000000000\n");
    assert_int_equal(qsae__cgroup_limit(list, folder), 3000000000);
    write_text("a/b/memory.max", "2000000000\n");
    assert_int_equal(qsae__cgroup_limit(list, folder), 2000000000);
    write_text("list", "12:cpu,cpuacct:/x\n5:memory:/x/y\n0::/\n");
    write_text("memory/x/y/memory.limit_in_bytes", "700000000\n");
    write_text("memory/memory.limit_in_bytes", "9223372036854771712\n");
    assert_int_equal(qsae__cgroup_limit(list, folder), 700000000);
    assert_true(qsae__machine_memory() > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_document), cmocka_unit_test(test_resume),
        cmocka_unit_test(test_all),           cmocka_unit_test(test_llama),
        cmocka_unit_test(test_folder),        cmocka_unit_test(test_spool),
        cmocka_unit_test(test_cgroups),
    };
    return cmocka_run_group_tests_name("inturn", tests, make_folder, remove_folder);
}
