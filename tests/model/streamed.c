/* SPDX-License-Identifier: BSD-2-Clause */
/* Streamed models against resident ones: the same bits, costs and refusals, in far less memory. */
#include "model_test.h"

#include <stdatomic.h>

#define N_SEQ 2
#define N_TOKENS 20
#define ROWS (N_SEQ * N_TOKENS)

static const char *const conditions[] = {
    NULL, "llm.int8:threshold=1", "nf4", "fp4:block=64,double=0", "rtn:bits=4",
    "rtn:bits=3,group=8,sym=0", "rtn:axis=tl", "ggml:q8_0", "ggml:q4_k,fallback=1",
    "none:weights=f16", "none:weights=bf16", "none+prune:sparsity=0.5", "nf4+prune:pattern=2:4",
    "control:gauss(nf4):seed=3", "control:permute(rtn:bits=3)", "control:null",
    "nf4@layers=1-1", "llm.int8@only=mlp", "nf4@with=embed|head", "none+kv:k=f16,v=int8",
};
#define N_CONDITIONS ((int)(sizeof conditions / sizeof conditions[0]))

static const char *const stored[] = {
    "bnb_nf4", "bnb_fp4", "bnb_int8", "gpt2_nf4", "gpt2_int8", "neox_nf4", "neox_int8",
    "stored_gptq", "stored_awq", "stored_fp8", "stored_int4_group", "stored_w8a8",
    "stored_fp8_tensor", "stored_nvfp4", "stored_mxfp4", "gguf_gemma2/model.gguf",
    "gguf_gemma3/model.gguf", "gguf_llama_mixed/model.gguf", "gguf_llama_q4_k_m/model.gguf",
    "gguf_qwen3/model.gguf",
};

static void fill_ids(int32_t *ids, int64_t n)
{
    uint32_t s = 99;
    for (int64_t i = 0; i < n; i++) {
        s = s * 1664525u + 1013904223u;
        ids[i] = (int32_t)(s >> 16) % 32;
    }
}

static int32_t open_model(qsae_weights *w, const char *condition, int compute, int32_t memory,
                          qsae_model **m)
{
    qsae_model_settings s;
    qsae_model_settings_init(&s, sizeof s);
    s.condition = condition;
    s.compute = compute;
    s.memory = memory;
    return qsae_model_open(w, &s, m);
}

static void compare_costs(const qsae_model *a, const qsae_model *b)
{
    qsae_model_cost x = { .struct_size = sizeof x }, y = { .struct_size = sizeof y };
    OK(qsae_model_get_cost(a, &x));
    OK(qsae_model_get_cost(b, &y));
    assert_string_equal(x.condition, y.condition);
    x.condition = y.condition = NULL;
    assert_memory_equal(&x, &y, sizeof x);
    for (int64_t i = 0; i < qsae__model_linears(a); i++) {
        const qsae__outliers p = qsae__model_outliers(a, i), q = qsae__model_outliers(b, i);
        assert_memory_equal(&p, &q, sizeof p);
        assert_int_equal(qsae__model_linear_inputs(a, i), qsae__model_linear_inputs(b, i));
    }
}

/* Nothing of a streamed model's layers is held between passes. */
static void check_dropped(const qsae_model *m)
{
    const int projs = qsae__projs(m->config);
    for (int64_t n = 0; n < m->config->layers; n++)
        assert_false(qsae__model_loaded(m, n));
    for (int64_t i = 0; i < m->config->layers * projs; i++)
        assert_null(m->weights->packed[i]);
}

/* What refuses a condition at open refuses it in both modes, in the same words. Returns whether it
 * ran. */
static bool compare(qsae_context *ctx, const char *path, const char *condition, int compute)
{
    int32_t ids[ROWS];
    char message[512];
    qsae_weights *w = NULL;
    qsae_model *a = NULL, *b = NULL;
    struct test_result want, have;
    fill_ids(ids, ROWS);
    OK(qsae_weights_open(ctx, path, &w));
    const int32_t st = open_model(w, condition, compute, QSAE_MEMORY_STREAMED, &b);
    if (st == QSAE_OK)
        check_dropped(b);
    snprintf(message, sizeof message, "%s", st == QSAE_OK ? "" : qsae_error_message());
    const int32_t resident = open_model(w, condition, compute, QSAE_MEMORY_RESIDENT, &a);
    if (st != resident)
        fail_msg("%s, %s: streamed %s (%s), resident %s", path, condition, qsae_status_name(st),
                 message, qsae_status_name(resident));
    if (st != QSAE_OK) {
        assert_string_equal(message, qsae_error_message());
        qsae_weights_close(&w);
        return false;
    }
    qsae_model_close(&a);
    test_run(b, ids, N_SEQ, N_TOKENS, &have); /* alone, before anything is shared */
    check_dropped(b);
    OK(open_model(w, condition, compute, QSAE_MEMORY_DEFAULT, &a));
    test_run(a, ids, N_SEQ, N_TOKENS, &want);
    if (!test_result_equal(&want, &have))
        fail_msg("%s, %s, compute %d: other bits", path, condition, compute);
    compare_costs(a, b);
    test_result_free(&have);
    test_run(b, ids, N_SEQ, N_TOKENS, &have); /* again, beside a resident one */
    assert_true(test_result_equal(&want, &have));
    test_result_free(&have);
    test_result_free(&want);
    qsae_model_close(&b);
    test_run(a, ids, N_SEQ, N_TOKENS, &have);
    test_result_free(&have);
    qsae_model_close(&a);
    qsae_weights_close(&w);
    return true;
}

/* Every model with every condition, at one of the levels and in one arithmetic each. */
static void test_same_bits(void **state)
{
    static const char *const levels[] = { NULL, "avx2" };
    int ran = 0;
    (void)state;
    for (int level = 0; level < 2; level++) {
        qsae_context *ctx = test_context(2, levels[level]);
        for (int i = 0; i < n_test_models; i++)
            for (int c = 0; c < N_CONDITIONS; c++)
                for (int bf16 = 0; bf16 < 2; bf16++)
                    if ((i + c) % 4 == 2 * level + bf16)
                        ran += compare(ctx, test_model_path(test_models[i]), conditions[c],
                                       bf16 ? QSAE_COMPUTE_BF16 : QSAE_COMPUTE_F32);
        qsae_context_close(&ctx);
    }
    assert_true(4 * ran > n_test_models * N_CONDITIONS * 3);
}

static void test_stored(void **state)
{
    qsae_context *ctx = test_context(2, NULL);
    int ran = 0;
    (void)state;
    for (size_t i = 0; i < sizeof stored / sizeof stored[0]; i++)
        for (int c = 0; c < N_CONDITIONS; c += 2)
            for (int compute = QSAE_COMPUTE_F32; compute <= QSAE_COMPUTE_BF16; compute++)
                ran += compare(ctx, test_model_path(stored[i]), conditions[c], compute);
    assert_true(ran > 100);
    qsae_context_close(&ctx);
}

/* Two streamed models use one packed copy of a layer that neither changes, while either has it. */
static void test_sharing(void **state)
{
    qsae_context *ctx = test_context(2, NULL);
    qsae_weights *w = NULL;
    qsae_model *a = NULL, *b = NULL;
    (void)state;
    if (!qsae__packed_get(ctx)->bf16) {
        qsae_context_close(&ctx);
        print_message("skipped: this machine has no bf16 product\n");
        skip();
    }
    OK(qsae_weights_open(ctx, test_model_path("llama_gqa"), &w));
    OK(open_model(w, NULL, QSAE_COMPUTE_BF16, QSAE_MEMORY_STREAMED, &a));
    OK(open_model(w, "nf4@layers=1-1", QSAE_COMPUTE_BF16, QSAE_MEMORY_STREAMED, &b));
    assert_true(qsae__model_shares(a, b, 0));
    assert_false(qsae__model_shares(a, b, 1));
    OK(qsae__model_load(a, 0));
    const qsae__packed_weight *const packed = w->packed[0];
    assert_non_null(packed);
    OK(qsae__model_load(b, 0));
    assert_ptr_equal(w->packed[0], packed);
    assert_int_equal(atomic_load(&packed->refs), 3);
    qsae__model_drop(a, 0);
    assert_ptr_equal(w->packed[0], packed);
    qsae__model_drop(b, 0);
    assert_null(w->packed[0]);
    qsae__model_drop(b, 0);
    OK(qsae__model_load(b, 0)); /* closed while a layer is loaded */
    qsae_model_close(&b);
    check_dropped(a);
    OK(qsae__model_keep(a, NULL, NULL, NULL));
    assert_non_null(w->packed[0]);
    qsae__model_drop(a, 0); /* resident now: stays */
    assert_true(qsae__model_loaded(a, 0));
    qsae_model_close(&a);
    qsae_weights_close(&w);
    qsae_context_close(&ctx);
}

struct allocator {
    atomic_llong live, peak, calls, fail_at;
};

static void *allocate(void *cookie, size_t size, size_t alignment)
{
    struct allocator *const a = cookie;
    if (atomic_fetch_add(&a->calls, 1) == atomic_load(&a->fail_at))
        return NULL;
    char *const p = aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment + 64);
    if (!p)
        return NULL;
    memcpy(p, &size, sizeof size);
    const long long live = atomic_fetch_add(&a->live, (long long)size) + (long long)size;
    for (long long peak = atomic_load(&a->peak); live > peak;)
        if (atomic_compare_exchange_weak(&a->peak, &peak, live))
            break;
    return p + 64;
}

static void release(void *cookie, void *p)
{
    struct allocator *const a = cookie;
    size_t size;
    if (!p)
        return;
    memcpy(&size, (char *)p - 64, sizeof size);
    atomic_fetch_sub(&a->live, (long long)size);
    free((char *)p - 64);
}

static qsae_context *counting_context(struct allocator *a)
{
    qsae_context_settings s;
    qsae_context *ctx = NULL;
    atomic_store(&a->fail_at, -1);
    qsae_context_settings_init(&s, sizeof s);
    s.alloc = allocate;
    s.free = release;
    s.alloc_cookie = a;
    s.threads = 2;
    OK(qsae_context_open(&s, &ctx));
    return ctx;
}

/* Writes a Llama of `layers` layers whose weights outweigh everything else. */
static void write_wide(qsae_context *ctx, int64_t layers)
{
    enum { WIDTH = 128, MLP = 512, VOCAB = 64 };
    static const char *const names[] = { "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                         "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
                                         "mlp.down_proj" };
    const char config[] = "{\"model_type\": \"llama\", \"hidden_size\": 128, "
                          "\"intermediate_size\": 512, \"num_hidden_layers\": %d, "
                          "\"num_attention_heads\": 4, "
                          "\"num_key_value_heads\": 4, \"vocab_size\": 64, \"rms_norm_eps\": 1e-5, "
                          "\"max_position_embeddings\": 512, \"rope_theta\": 10000.0, "
                          "\"tie_word_embeddings\": true, \"hidden_act\": \"silu\"}";
    char text[sizeof config + 16], path[512];
    float *const values = malloc(WIDTH * MLP * sizeof(float));
    qsae__tensor *const t = calloc((size_t)layers * 9 + 2, sizeof *t);
    char(*name)[96] = calloc((size_t)layers * 9 + 2, sizeof *name);
    int64_t n = 0;
    assert_true(values && t && name);
    for (int i = 0; i < WIDTH * MLP; i++)
        values[i] = (float)((i * 7919 % 1999) - 999) / 20000;
    for (int64_t layer = 0; layer < layers; layer++)
        for (int p = 0; p < 9; p++) {
            const bool norm = p >= 7, up = p == 4 || p == 5;
            snprintf(name[n], sizeof name[n], "model.layers.%d.%s.weight", (int)layer,
                     p == 7   ? "input_layernorm"
                     : p == 8 ? "post_attention_layernorm"
                              : names[p]);
            t[n] = (qsae__tensor){ .name = name[n], .data = values, .dtype = QSAE_F32,
                                   .rank = norm ? 1 : 2,
                                   .shape = { up ? MLP : WIDTH, norm ? 0 : p == 6 ? MLP : WIDTH } };
            t[n].bytes = (uint64_t)(t[n].shape[0] * (norm ? 1 : t[n].shape[1])) * sizeof(float);
            n++;
        }
    t[n++] = (qsae__tensor){ .name = "model.norm.weight", .data = values, .dtype = QSAE_F32,
                             .rank = 1, .shape = { WIDTH }, .bytes = WIDTH * sizeof(float) };
    t[n++] = (qsae__tensor){ .name = "model.embed_tokens.weight", .data = values,
                             .dtype = QSAE_F32, .rank = 2, .shape = { VOCAB, WIDTH },
                             .bytes = VOCAB * WIDTH * sizeof(float) };
    snprintf(text, sizeof text, config, (int)layers);
    test_write("config.json", text, strlen(text));
    snprintf(path, sizeof path, "%s/model.safetensors", test_folder());
    OK(qsae__safetensors_write(ctx, path, t, n));
    free(name);
    free(t);
    free(values);
}

/* Most bytes of a model of `layers` layers while it is open and runs. */
static long long peak_of(int64_t layers, const char *condition, int32_t memory)
{
    struct allocator a = { 0 };
    qsae_context *ctx = counting_context(&a);
    qsae_weights *w = NULL;
    qsae_model *m = NULL;
    int32_t ids[ROWS];
    float nll[ROWS];
    qsae_pass p;
    write_wide(ctx, layers);
    fill_ids(ids, ROWS);
    OK(qsae_weights_open(ctx, test_folder(), &w));
    atomic_store(&a.peak, atomic_load(&a.live));
    const long long before = atomic_load(&a.live);
    OK(open_model(w, condition, QSAE_COMPUTE_BF16, memory, &m));
    qsae_pass_init(&p, sizeof p);
    p.ids = ids;
    p.n_seq = N_SEQ;
    p.n_tokens = N_TOKENS;
    p.nll = nll;
    OK(qsae_model_forward(m, &p));
    const long long peak = atomic_load(&a.peak) - before;
    qsae_model_close(&m);
    qsae_weights_close(&w);
    qsae_context_close(&ctx);
    assert_int_equal(atomic_load(&a.live), 0);
    return peak;
}

/* A layer's weights take 512 KiB as int8 codes and 256 as nf4. Resident models grow by that with
 * each layer, streamed ones by their norms and tables. */
static void test_peak(void **state)
{
    (void)state;
    for (int c = 0; c < 2; c++) {
        const char *const condition = c ? "nf4" : "llm.int8";
        const long long layer = (4 * 128 * 128 + 3 * 128 * 512) / (c ? 2 : 1);
        const long long four = peak_of(4, condition, QSAE_MEMORY_STREAMED),
                        more = peak_of(24, condition, QSAE_MEMORY_STREAMED),
                        resident = peak_of(24, condition, QSAE_MEMORY_RESIDENT);
        if (more - four > layer || resident < more + 18 * layer)
            fail_msg("%s: %lld bytes at 4 layers, %lld at 24; resident %lld", condition, four, more,
                     resident);
    }
}

/* Every allocation of a streamed pass fails once; the next pass has the right bits. */
static void test_failures(void **state)
{
    static const char *const each[] = { "none@compute=bf16", "nf4", "llm.int8" };
    struct allocator a = { 0 };
    qsae_context *ctx = counting_context(&a);
    int32_t ids[ROWS];
    float want[ROWS], nll[ROWS];
    (void)state;
    fill_ids(ids, ROWS);
    for (int c = 0; c < 3; c++) {
        qsae_weights *w = NULL;
        qsae_model *m = NULL;
        qsae_pass p;
        OK(qsae_weights_open(ctx, test_model_path("gemma3_cap"), &w));
        OK(open_model(w, each[c], 0, QSAE_MEMORY_STREAMED, &m));
        qsae_pass_init(&p, sizeof p);
        p.ids = ids;
        p.n_seq = N_SEQ;
        p.n_tokens = N_TOKENS;
        p.nll = want;
        OK(qsae_model_forward(m, &p));
        p.nll = nll;
        int32_t st = QSAE_ENOMEM;
        long long n = 0;
        for (; st != QSAE_OK; n++) {
            const long long live = atomic_load(&a.live);
            atomic_store(&a.fail_at, atomic_load(&a.calls) + n);
            st = qsae_model_forward(m, &p);
            atomic_store(&a.fail_at, -1);
            assert_true(st == QSAE_OK || st == QSAE_ENOMEM);
            assert_int_equal(atomic_load(&a.live), live);
            check_dropped(m);
            assert_true(n < 10000);
        }
        assert_true(n > 20);
        OK(qsae_model_forward(m, &p));
        for (int i = 0; i < ROWS; i++)
            assert_true(nll[i] == want[i] || (isnan(nll[i]) && isnan(want[i])));
        qsae_model_close(&m);
        qsae_weights_close(&w);
    }
    qsae_context_close(&ctx);
    assert_int_equal(atomic_load(&a.live), 0);
}

static void test_refused(void **state)
{
    qsae_context *ctx = test_context(1, NULL);
    qsae_weights *w = NULL;
    qsae_model *m = NULL;
    (void)state;
    OK(qsae_weights_open(ctx, test_model_path("llama_gqa"), &w));
    REFUSED(open_model(w, NULL, 0, 3, &m), QSAE_EINVAL, "qsae_model_settings.memory: 3");
    REFUSED(open_model(w, NULL, 0, -1, &m), QSAE_EINVAL, "qsae_model_settings.memory: -1");
    REFUSED(open_model(w, "none+prune:pattern=5:7", 0, QSAE_MEMORY_STREAMED, &m), QSAE_EINVAL,
            "model.layers.0.self_attn.q_proj.weight: prune");
    assert_null(m);
    qsae_weights_close(&w);
    qsae_context_close(&ctx);
}

const struct CMUnitTest streamed_tests[] = {
    cmocka_unit_test(test_same_bits), cmocka_unit_test(test_stored),
    cmocka_unit_test(test_sharing),   cmocka_unit_test(test_peak),
    cmocka_unit_test(test_failures),  cmocka_unit_test(test_refused),
};
const size_t n_streamed_tests = sizeof streamed_tests / sizeof streamed_tests[0];
