/* SPDX-License-Identifier: BSD-2-Clause */
/* Folders as transformers and bitsandbytes write them (tests/reference/bnb_models.py): read, and
 * written again. */
#include "folders.h"

struct folder {
    const char *name, *condition;
    bool int8;
    const char *source; /* NULL: bnb_source */
};

/* What each was made with; rules=torch where bitsandbytes ran, on a CPU. */
static const struct folder folders[] = {
    { "bnb_nf4", "nf4:compute=bf16,rules=torch", false, NULL },
    { "bnb_fp4", "fp4:double=0,compute=f32,rules=torch", false, NULL },
    { "bnb_storage", "nf4:compute=f32,rules=torch@skip=q_proj", false, NULL },
    { "bnb_int8", "llm.int8:threshold=1.5,rules=torch", true, NULL },
    { "neox_nf4", "nf4:compute=bf16,rules=torch", false, "neox_source" },
    { "neox_int8", "llm.int8:threshold=1.5,rules=torch", true, "neox_source" },
    { "gpt2_nf4", "nf4:compute=bf16,rules=torch", false, "gpt2_source" },
    { "gpt2_int8", "llm.int8:threshold=1.5,rules=torch", true, "gpt2_source" },
};
#define N_FOLDERS (sizeof folders / sizeof folders[0])

static const char *source_of(const struct folder *f)
{
    return test_model_path(f->source ? f->source : "bnb_source");
}

/* Largest difference of two arrays, and largest value. */
static double worst(const float *a, const float *b, int64_t n, double *size)
{
    double d = 0;
    *size = 0;
    for (int64_t i = 0; i < n; i++) {
        d = fmax(d, fabs((double)a[i] - (double)b[i]));
        *size = fmax(*size, fabs((double)b[i]));
    }
    return d;
}

static void run(qsae_context *ctx, const char *path, const char *condition, int compute,
                const qsae__tensor *ids, struct test_result *r)
{
    int32_t *const copy = malloc((size_t)ids->bytes);
    assert_non_null(copy);
    memcpy(copy, ids->data, (size_t)ids->bytes);
    qsae_model *m = test_model(ctx, path, condition, compute, QSAE_ATTN_SDPA);
    test_run(m, copy, ids->shape[0], ids->shape[1], r);
    qsae_model_close(&m);
    free(copy);
}

/* Logits of the stored model: transformers' to the last bit or two of bf16, those of LLM.int8 under
 * its CPU rules; and those of the source under the condition, exactly. */
static void check_logits(qsae_context *ctx, const struct folder *f)
{
    const char *const runs_as = f->int8 ? "llm.int8:threshold=1.5,rules=cuda" : f->condition;
    char path[600], source[600];
    struct test_result stored, made, cpu;
    double size;
    int64_t n;
    snprintf(path, sizeof path, "%s", test_model_path(f->name));
    qsae__tensors *ref = load(ctx, path, "reference.safetensors");
    const qsae__tensor *const ids = qsae__tensors_find(ref, "ids");
    float *const want = test_floats(ref, "logits", &n);
    snprintf(source, sizeof source, "%s", source_of(f));
    run(ctx, path, NULL, QSAE_COMPUTE_BF16, ids, &stored);
    run(ctx, source, runs_as, QSAE_COMPUTE_BF16, ids, &made);
    run(ctx, source, f->condition, QSAE_COMPUTE_BF16, ids, &cpu);
    assert_int_equal(stored.rows * stored.vocab, n);
    if (!test_result_equal(&stored, &made))
        fail_msg("%s: not the model that %s makes", f->name, runs_as);
    const double d = worst(f->int8 ? cpu.logits : stored.logits, want, n, &size);
    if (!(d <= size / 128))
        fail_msg("%s: logits differ from transformers' by %g of %g", f->name, d, size);
    test_result_free(&stored);
    test_result_free(&made);
    test_result_free(&cpu);
    free(want);
    qsae__tensors_unref(&ref);
}

static void test_read_folders(void **state)
{
    qsae_context *const ctx[2] = { test_context(2, NULL), test_context(1, "c") };
    (void)state;
    for (int k = 0; k < 2; k++) {
        for (size_t i = 0; i < N_FOLDERS; i++)
            check_logits(ctx[k], &folders[i]);
        qsae_context *c = ctx[k];
        qsae_context_close(&c);
    }
}

/* The same names, dtypes, shapes and bytes; storage: 4-bit codes may be stored as another dtype. */
static void same_tensors(const qsae__tensors *got, const qsae__tensors *want, bool storage)
{
    assert_int_equal(qsae__tensors_len(got), qsae__tensors_len(want));
    for (int64_t i = 0; i < qsae__tensors_len(want); i++) {
        const qsae__tensor *const a = qsae__tensors_at(got, i);
        const qsae__tensor *const b = qsae__tensors_at(want, i);
        assert_string_equal(a->name, b->name);
        if (a->bytes != b->bytes || memcmp(a->data, b->data, (size_t)a->bytes) != 0)
            fail_msg("%s differs", a->name);
        const bool codes = storage && a->dtype == QSAE_U8 && b->dtype == QSAE_BF16;
        if (!codes && (a->dtype != b->dtype || a->rank != b->rank ||
                       memcmp(a->shape, b->shape, (size_t)a->rank * sizeof *a->shape) != 0))
            fail_msg("%s has another dtype or shape", a->name);
    }
}

/* What we write is what transformers writes, tensor by tensor and option by option. */
static void test_write_folders(void **state)
{
    qsae_context *ctx = test_context(2, NULL);
    char out[600], source[600], path[600];
    (void)state;
    join(out, test_folder(), "saved");
    for (size_t i = 0; i < N_FOLDERS; i++) {
        const bool storage = !strcmp(folders[i].name, "bnb_storage");
        snprintf(source, sizeof source, "%s", source_of(&folders[i]));
        save(ctx, source, folders[i].condition, out, 0, 0);
        qsae__tensors *got = load(ctx, out, "model.safetensors");
        qsae__tensors *want = load(ctx, test_model_path(folders[i].name), "model.safetensors");
        same_tensors(got, want, storage);
        assert_string_equal(qsae__tensors_metadata(got, "format"), "pt");
        json_t *const a = config_of(ctx, out);
        json_t *const b = config_of(ctx, test_model_path(folders[i].name));
        json_t *const qa = json_object_get(a, "quantization_config");
        json_t *const qb = json_object_get(b, "quantization_config");
        if (storage) { /* one path for each module there, a common ending here */
            const json_t *const skip = json_object_get(qa, "llm_int8_skip_modules");
            assert_int_equal(json_array_size(skip), 3);
            assert_string_equal(json_string_value(json_array_get(skip, 0)),
                                "model.layers.0.self_attn.q_proj");
            assert_string_equal(json_string_value(json_array_get(skip, 2)), "lm_head");
            json_object_del(qa, "llm_int8_skip_modules");
            json_object_del(qb, "llm_int8_skip_modules");
            json_object_del(qa, "bnb_4bit_quant_storage");
            json_object_del(qb, "bnb_4bit_quant_storage");
        }
        if (!json_equal(qa, qb))
            fail_msg("%s: quantization_config differs", folders[i].name);
        assert_string_equal(json_string_value(json_object_get(a, "dtype")), "bfloat16");
        assert_non_null(json_object_get(a, "qsae_condition"));
        json_decref(a);
        json_decref(b);
        join(path, out, "generation_config.json");
        assert_int_equal(access(path, R_OK), folders[i].source ? -1 : 0);
        assert_int_equal(entries(out), folders[i].source ? 2 : 3);
        qsae__tensors_unref(&got);
        qsae__tensors_unref(&want);
        remove_folder(out);
    }
    qsae_context_close(&ctx);
}

/* none copies everything, config.json included; shards hold what one file does. */
static void test_copies_and_shards(void **state)
{
    qsae_context *ctx = test_context(2, NULL);
    char out[600], source[600], a[600], b[600];
    size_t na, nb;
    (void)state;
    join(out, test_folder(), "saved");
    snprintf(source, sizeof source, "%s", test_model_path("bnb_source"));
    qsae__tensors *want = load(ctx, source, "model.safetensors"), *got = NULL;
    save(ctx, source, NULL, out, 0, 0);
    OK(qsae__tensors_load(ctx, out, &got));
    same_tensors(got, want, false);
    qsae__tensors_unref(&got);
    join(a, source, "config.json");
    join(b, out, "config.json");
    char *const x = test_read(a, &na), *const y = test_read(b, &nb);
    assert_int_equal(na, nb);
    assert_memory_equal(x, y, na);
    free(x);
    free(y);
    remove_folder(out);

    static const uint64_t sizes[] = { 1, 5000, 20000, 60000 };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        int64_t shards = 0;
        save(ctx, source, "nf4:compute=bf16,rules=torch", out, 0, sizes[i]);
        qsae__tensors *one = load(ctx, test_model_path("bnb_nf4"), "model.safetensors");
        OK(qsae__tensors_load(ctx, out, &got));
        same_tensors(got, one, false);
        for (int64_t k = 0; k < qsae__tensors_len(got); k++)
            shards += k == 0 || strcmp(qsae__tensors_at(got, k)->file,
                                       qsae__tensors_at(got, k - 1)->file) != 0;
        assert_true(shards >= (i < 3 ? 2 : 1));
        qsae__tensors_unref(&one);
        qsae__tensors_unref(&got);
        qsae_model *m = test_model(ctx, out, NULL, 0, 0);
        qsae_model_close(&m);
        remove_folder(out);
    }
    qsae__tensors_unref(&want);
    qsae_context_close(&ctx);
}

/* Values that no storage format of transformers has become plain weights: the saved model is the
 * one the condition makes. */
/* source: a folder of tests/data/models */
static void check_plain_values(qsae_context *ctx, const char *name)
{
    static const char *const conditions[] = {
        "rtn:bits=4,axis=tl", "rtn:bits=3,group=4", "rtn:bits=6,axis=column@only=mlp",
        "none+prune:sparsity=0.4", "control:gauss(nf4):seed=3", "control:permute(rtn:bits=4)",
        "rtn:bits=4@with=head|embed", "control:null",
    };
    const int32_t ids[8] = { 3, 9, 27, 33, 5, 15, 45, 41 };
    char out[600], source[600];
    join(out, test_folder(), "saved");
    snprintf(source, sizeof source, "%s", test_model_path(name));
    for (size_t i = 0; i < sizeof conditions / sizeof conditions[0]; i++) {
        struct test_result a, b;
        qsae_model *m = test_model(ctx, source, conditions[i], QSAE_COMPUTE_BF16, 0);
        test_run(m, ids, 1, 8, &a);
        qsae_model_close(&m);
        save(ctx, source, conditions[i], out, 0, 0);
        m = test_model(ctx, out, NULL, QSAE_COMPUTE_BF16, 0);
        test_run(m, ids, 1, 8, &b);
        qsae_model_close(&m);
        if (!test_result_equal(&a, &b))
            fail_msg("%s: %s: the saved model is another", name, conditions[i]);
        json_t *const config = config_of(ctx, out);
        assert_null(json_object_get(config, "quantization_config"));
        json_decref(config);
        test_result_free(&a);
        test_result_free(&b);
        remove_folder(out);
    }
}

static void test_plain_values(void **state)
{
    qsae_context *ctx = test_context(2, NULL);
    (void)state;
    check_plain_values(ctx, "bnb_source");
    check_plain_values(ctx, "neox_source");
    check_plain_values(ctx, "gpt2_source");
    qsae_context_close(&ctx);
}

/* A cast comes before the encoding, and config.json says it. */
static void test_cast(void **state)
{
    static const int32_t dtypes[] = { QSAE_F32, QSAE_F16, QSAE_BF16 };
    static const char *const names[] = { "float32", "float16", "bfloat16" };
    qsae_context *ctx = test_context(2, NULL);
    char out[600], again[600], source[600];
    (void)state;
    join(out, test_folder(), "saved");
    join(again, test_folder(), "again");
    snprintf(source, sizeof source, "%s", test_model_path("bnb_source"));
    for (int i = 0; i < 3; i++) {
        qsae__tensors *a = NULL, *b = NULL;
        save(ctx, source, "none", out, dtypes[i], 0);
        save(ctx, out, "nf4:double=0", again, 0, 0);
        OK(qsae__tensors_load(ctx, again, &a));
        remove_folder(out);
        save(ctx, source, "nf4:double=0", out, dtypes[i], 0);
        OK(qsae__tensors_load(ctx, out, &b));
        same_tensors(a, b, false);
        assert_int_equal(qsae__tensors_find(a, "model.norm.weight")->dtype, dtypes[i]);
        json_t *const config = config_of(ctx, out);
        assert_string_equal(json_string_value(json_object_get(config, "dtype")), names[i]);
        json_decref(config);
        qsae__tensors_unref(&a);
        qsae__tensors_unref(&b);
        remove_folder(out);
        remove_folder(again);
    }
    qsae_context_close(&ctx);
}

static int32_t stop_at(void *cookie, int64_t done, int64_t total, const char *unit,
                       const char *phase)
{
    assert_true(done >= 1 && done <= total);
    assert_string_equal(unit, "tensors");
    assert_string_equal(phase, "save");
    return done == *(const int64_t *)cookie ? 77 : 0;
}

/* Nothing is left of a folder that is not complete, and nothing is written over. */
static void test_refused(void **state)
{
    static const struct {
        const char *condition;
        int32_t status;
        const char *part;
    } bad[] = {
        { "nf9", QSAE_EINVAL, "nf9" },
        { "nf4+kv:k=q8_0", QSAE_EUNSUPPORTED, "cached" },
        { "nf4@with=embed", QSAE_EUNSUPPORTED, "embedding" },
        { "none+prune:match=80", QSAE_EUNSUPPORTED, "prune:match" },
    };
    qsae_context *ctx = test_context(2, NULL);
    qsae_weights *w = NULL, *stored = NULL;
    qsae_save_settings s;
    char out[600];
    int64_t stop = 5;
    (void)state;
    join(out, test_folder(), "saved");
    OK(qsae_weights_open(ctx, test_model_path("bnb_source"), &w));
    OK(qsae_weights_open(ctx, test_model_path("bnb_nf4"), &stored));
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        REFUSED(qsae_weights_save(w, bad[i].condition, out, NULL), bad[i].status, bad[i].part);
    REFUSED(qsae_weights_save(stored, "none", out, NULL), QSAE_EUNSUPPORTED, "compressed");
    REFUSED(qsae_weights_save(w, "nf4", test_model_path("bnb_nf4"), NULL), QSAE_EINVAL, "empty");
    REFUSED(qsae_weights_save(w, "nf4", "", NULL), QSAE_EINVAL, "folder");
    REFUSED(qsae_weights_save(w, "nf4", "/nowhere/at/all", NULL), QSAE_ENOENT, "/nowhere/at/all");
    REFUSED(qsae_weights_save(NULL, "nf4", out, NULL), QSAE_EINVAL, "NULL");
    qsae_save_settings_init(&s, sizeof s);
    s.dtype = QSAE_U8;
    REFUSED(qsae_weights_save(w, "nf4", out, &s), QSAE_EINVAL, "dtype");
    s.dtype = QSAE_F16;
    REFUSED(qsae_weights_save(w, "none:weights=bf16", out, &s), QSAE_EINVAL, "F16");
    s.dtype = 0;
    s.progress = stop_at;
    s.progress_cookie = &stop;
    assert_int_equal(qsae_weights_save(w, "nf4", out, &s), 77);
    s.progress = NULL;
    OK(qsae_cancel_token_open(&s.cancel));
    qsae_cancel_token_cancel(s.cancel);
    assert_int_equal(qsae_weights_save(w, "nf4", out, &s), QSAE_ECANCELED);
    qsae_cancel_token_close(&s.cancel);
    assert_int_equal(entries(test_folder()), 0);
    assert_int_equal(mkdir(out, 0777), 0); /* an empty folder is fine */
    s.cancel = NULL;
    OK(qsae_weights_save(w, "llm.int8", out, &s));
    assert_int_equal(entries(test_folder()), 1);
    remove_folder(out);
    qsae_weights_close(&w);
    qsae_weights_close(&stored);
    qsae_context_close(&ctx);
}

/* llm.int8 on a folder that is stored so takes its codes, with options of its own. */
static void test_stored_codes(void **state)
{
    static const char *const conditions[] = { "llm.int8", "llm.int8:rules=torch",
                                              "llm.int8:threshold=0,rules=torch",
                                              "llm.int8:threshold=2.5,outliers=row" };
    qsae_context *ctx = test_context(2, NULL);
    const int32_t ids[8] = { 3, 9, 27, 33, 5, 15, 45, 41 };
    (void)state;
    for (size_t i = 0; i < sizeof conditions / sizeof conditions[0]; i++)
        for (int32_t compute = QSAE_COMPUTE_F32; compute <= QSAE_COMPUTE_BF16; compute++) {
            struct test_result a, b;
            qsae_model *m =
                test_model(ctx, test_model_path("bnb_source"), conditions[i], compute, 0);
            test_run(m, ids, 1, 8, &a);
            qsae_model_close(&m);
            m = test_model(ctx, test_model_path("bnb_int8"), conditions[i], compute, 0);
            test_run(m, ids, 1, 8, &b);
            qsae_model_close(&m);
            if (!test_result_equal(&a, &b))
                fail_msg("%s: not the stored codes", conditions[i]);
            test_result_free(&a);
            test_result_free(&b);
        }
    qsae_context_close(&ctx);
}

const struct CMUnitTest save_tests[] = {
    cmocka_unit_test(test_read_folders), cmocka_unit_test(test_write_folders),
    cmocka_unit_test(test_copies_and_shards), cmocka_unit_test(test_plain_values),
    cmocka_unit_test(test_cast), cmocka_unit_test(test_refused),
    cmocka_unit_test(test_stored_codes),
};
const size_t n_save_tests = sizeof save_tests / sizeof save_tests[0];
