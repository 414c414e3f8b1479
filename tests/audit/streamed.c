/* SPDX-License-Identifier: BSD-2-Clause */
/* Layer-streamed audits against resident ones: the same documents, whatever a slab holds, however
 * often they are stopped. */
#include <unistd.h>

#include "document.h"

#define MIB ((int64_t)1 << 20)

/* Bytes of a slab: as many batches as there are; a few; one condition at a time. */
static const int64_t slabs[] = { 0, 7 * MIB, 1 };

static json_t *stripped(qsae_context *ctx, const qsae_audit_settings *s, const char *memory)
{
    json_t *const result = run(ctx, s);
    const json_t *const mode = json_object_get(json_object_get(result, "timing"), "memory");
    assert_string_equal(json_string_value(mode), memory);
    strip(result);
    return result;
}

/* Fails unless streamed runs give the resident run's document. */
static void compare(qsae_context *ctx, qsae_audit_settings *s, const char *what)
{
    s->memory = QSAE_MEMORY_RESIDENT;
    json_t *const want = stripped(ctx, s, "resident");
    s->memory = QSAE_MEMORY_STREAMED;
    for (size_t i = 0; i < sizeof slabs / sizeof slabs[0]; i++) {
        if (!full_length() && s->compute == QSAE_COMPUTE_F32 && slabs[i] != 7 * MIB)
            continue; /* bf16 goes through all of them */
        s->stream_bytes = slabs[i];
        json_t *const have = stripped(ctx, s, "streamed");
        if (!json_equal(want, have))
            fail_msg("%s, slabs of %lld bytes: another document", what, (long long)slabs[i]);
        json_decref(have);
    }
    json_decref(want);
    s->memory = QSAE_MEMORY_DEFAULT;
    s->stream_bytes = 0;
}

static void test_same_document(void **state)
{
    static const char *const conditions[] = {
        "llm.int8:threshold=2", "none", "nf4@layers=2-3", "rtn:bits=4@layers=4-5",
        "none+prune:sparsity=0.3", "control:gauss(nf4)", "ggml:q8_0@only=mlp",
        "nf4@with=embed|head", "none+kv:k=q8_0,v=q4_0", "nf4@layers=4-4", DATA "/tiny-gemma3",
    };
    const char *const saes[] = { sae_path, DATA "/tiny-gemma3-sae@1", DATA "/tiny-gemma3-sae@5" };
    (void)state;
    for (int compute = QSAE_COMPUTE_F32; compute <= QSAE_COMPUTE_BF16; compute++) {
        qsae_context *ctx = open_context(NULL, 2);
        qsae_audit_settings s;
        defaults(&s);
        s.compute = compute;
        s.max_tokens = 2500; /* two batches and a shorter one */
        s.keep_tail = 1;
        s.saes = saes;
        s.n_saes = 3;
        s.conditions = conditions;
        s.n_conditions = sizeof conditions / sizeof conditions[0];
        compare(ctx, &s, compute == QSAE_COMPUTE_F32 ? "f32" : "bf16");
        qsae_context_close(&ctx);
    }
}

/* Few conditions: slabs of several batches, more than one slab. */
static void test_slabs(void **state)
{
    static const char *const conditions[] = { "llm.int8:threshold=2", "nf4" };
    (void)state;
    for (int n = 0; n <= 2; n++) {
        qsae_context *ctx = open_context(NULL, 3);
        qsae_audit_settings s;
        defaults(&s);
        s.compute = QSAE_COMPUTE_BF16;
        s.max_tokens = 7000;
        s.conditions = n ? conditions : (const char *const[]){ "none" };
        s.n_conditions = n ? n : 1;
        s.n_saes = n != 1;
        compare(ctx, &s, "slabs");
        qsae_context_close(&ctx);
    }
}

static void test_sweep(void **state)
{
    const char *const condition = "nf4";
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    (void)state;
    defaults(&s);
    s.max_tokens = 1500;
    s.conditions = &condition;
    s.n_conditions = 1;
    s.sweep = QSAE_SWEEP_MODULES;
    compare(ctx, &s, "sweep");
    qsae_context_close(&ctx);
}

static void test_match(void **state)
{
    const char *const condition = "none+prune:match=(rtn:bits=5),tokens=1024";
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    (void)state;
    defaults(&s);
    s.max_tokens = 3000;
    s.conditions = &condition;
    s.n_conditions = 1;
    compare(ctx, &s, "match");
    qsae_context_close(&ctx);
}

/* Cancels at the n-th call of a phase. */
struct halt {
    qsae_cancel_token *token;
    const char *phase;
    int64_t left;
};

static int32_t halt_at(void *cookie, int64_t done, int64_t total, const char *unit,
                       const char *phase)
{
    struct halt *const x = cookie;
    assert_true(done >= 0 && done <= total);
    if (strcmp(phase, "stream") == 0)
        assert_string_equal(unit, "layers");
    if (strcmp(phase, x->phase) == 0 && --x->left == 0)
        qsae_cancel_token_cancel(x->token);
    return 0;
}

/* Stopped in the layers of a slab and between its batches, resumed in the same handle or from the
 * state file, in either mode: the document of one go. */
static void test_resume(void **state)
{
    static const struct {
        const char *phase;
        int64_t calls;
        bool same_handle;
        int32_t memory;
    } stops[] = {
        { "stream", 3, false, QSAE_MEMORY_STREAMED }, { "measure", 2, false, QSAE_MEMORY_STREAMED },
        { "measure", 3, true, QSAE_MEMORY_STREAMED }, { "stream", 8, true, QSAE_MEMORY_STREAMED },
        { "measure", 3, false, QSAE_MEMORY_RESIDENT },
    };
    static const char *const conditions[] = { "llm.int8:threshold=2", "nf4@layers=3-5" };
    (void)state;
    for (int groups = 0; groups < 2; groups++) {
        char path[] = "/tmp/qsae-streamed-XXXXXX";
        const int fd = mkstemp(path);
        assert_true(fd >= 0);
        close(fd);
        unlink(path);
        qsae_context *ctx = open_context(NULL, 2);
        qsae_audit_settings s;
        struct halt stop = { .phase = "" };
        qsae_audit *audit = NULL;
        assert_ok(qsae_cancel_token_open(&stop.token));
        defaults(&s);
        s.max_tokens = 10000;
        s.conditions = conditions;
        s.n_conditions = 2;
        s.memory = QSAE_MEMORY_RESIDENT;
        json_t *const want = stripped(ctx, &s, "resident");
        s.stream_bytes = groups ? 1 : 7 * MIB;
        s.state = path;
        s.cancel = stop.token;
        s.progress = halt_at;
        s.progress_cookie = &stop;
        for (size_t i = 0; i < sizeof stops / sizeof stops[0]; i++) {
            s.memory = stops[i].memory;
            stop.phase = stops[i].phase;
            stop.left = stops[i].calls;
            assert_ok(qsae_audit_open(ctx, &s, &audit));
            assert_fails(qsae_audit_run(audit), QSAE_ECANCELED, "canceled");
            qsae_cancel_token_reset(stop.token);
            if (stops[i].same_handle) {
                stop.left = 2;
                assert_fails(qsae_audit_run(audit), QSAE_ECANCELED, "canceled");
                qsae_cancel_token_reset(stop.token);
            }
            qsae_audit_close(&audit);
        }
        s.memory = QSAE_MEMORY_STREAMED;
        stop.phase = "";
        json_t *const have = stripped(ctx, &s, "streamed");
        assert_true(json_equal(want, have));
        json_decref(have);
        json_decref(want);
        unlink(path);
        qsae_cancel_token_close(&stop.token);
        qsae_context_close(&ctx);
    }
}

static void test_settings(void **state)
{
    qsae_context *ctx = open_context(NULL, 1);
    qsae_audit_settings s;
    qsae_audit *audit;
    (void)state;
    defaults(&s);
    s.memory = 4;
    assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_EINVAL, "memory");
    s.memory = 0;
    s.stream_bytes = -1;
    assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_EINVAL, "stream_bytes");
    s.stream_bytes = 0;
    s.max_tokens = 1000;
    json_decref(stripped(ctx, &s, "resident")); /* a small model is kept */
    qsae_context_close(&ctx);
}

static const char *const parts[] = { "tokenizer.json", "tokenizer_config.json",
                                     "model.safetensors", "config.json" };

/* The bundled model without its last layer. */
static void make_shorter(char folder[64])
{
    char path[128], from[512];
    snprintf(folder, 64, "/tmp/qsae-streamed-XXXXXX");
    assert_non_null(mkdtemp(folder));
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, parts[i]);
        snprintf(from, sizeof from, DATA "/tiny-gemma3/%s", parts[i]);
        assert_int_equal(symlink(from, path), 0);
    }
    json_t *const config = json_load_file(DATA "/tiny-gemma3/config.json", 0, NULL);
    json_object_set_new(config, "num_hidden_layers", json_integer(5));
    json_array_remove(json_object_get(config, "layer_types"), 5);
    snprintf(path, sizeof path, "%s/config.json", folder);
    assert_int_equal(json_dump_file(config, path, 0), 0);
    json_decref(config);
}

/* Checkpoints of fewer layers than the reference has, and of more. */
static void test_depths(void **state)
{
    char folder[64], path[128];
    const char *const fewer[] = { folder, "nf4", "rtn:bits=4@layers=4-5" },
               *const more[] = { DATA "/tiny-gemma3", "nf4", "rtn:bits=4@layers=3-4" };
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    (void)state;
    make_shorter(folder);
    defaults(&s);
    s.compute = QSAE_COMPUTE_BF16; /* all slabs */
    s.max_tokens = 2500;
    s.keep_tail = 1;
    s.conditions = fewer;
    s.n_conditions = 3;
    compare(ctx, &s, "fewer layers");
    s.model = folder;
    s.conditions = more;
    compare(ctx, &s, "more layers");
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, parts[i]);
        unlink(path);
    }
    rmdir(folder);
    qsae_context_close(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_document), cmocka_unit_test(test_slabs),
        cmocka_unit_test(test_sweep),         cmocka_unit_test(test_match),
        cmocka_unit_test(test_resume),        cmocka_unit_test(test_settings),
        cmocka_unit_test(test_depths),
    };
    return cmocka_run_group_tests_name("streamed", tests, NULL, NULL);
}
