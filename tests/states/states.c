/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * State files as promises and as threats. Golden ones of earlier versions load and give the same
 * figures; a changed byte anywhere, a flipped bit of the head, every shorter length is refused; so
 * is a state of another measurement, by the name of the field; files cut off or cut under a run
 * never end the process. QSAE_LONG_TESTS=1: 10,000 cuts, 1,000 cuts in use, a state of 1 MiB.
 * usage: test_states [--write]      writes golden/, when the format has changed on purpose
 */
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "../fuzz/audit_states.h"
#include "audit/state.h"
#include "metrics/metrics.h"
#include "support.h"

#define LARGE ((size_t)1 << 20)
#define METRICS 10 /* kinds of metric_state.c: 5, each with a sample too */

qsae_metric *fuzz_metric_open(qsae_context *ctx, uint8_t kind);
size_t fuzz_metric_state_seed(int i, uint8_t **data);

static uint8_t *read_file(const char *path, size_t *size)
{
    FILE *const f = fopen(path, "rb");
    if (!f || fseek(f, 0, SEEK_END) != 0)
        fail_msg("%s: cannot be read", path);
    *size = (size_t)ftell(f);
    rewind(f);
    uint8_t *const data = malloc(*size + 1);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, *size, f), *size);
    fclose(f);
    return data;
}

static const char *golden(const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, QSAE_TEST_GOLDEN "/%s", name);
    return path;
}

static uint8_t kind_of(int i)
{
    return (uint8_t)(i % 10 < 5 ? i : i + 3);
}

/* ---- golden files ---- */

static void write_golden(void)
{
    FILE *const values = fopen(golden("values.txt"), "w");
    char name[32];
    assert_non_null(values);
    for (int i = 0; i < METRICS; i++) {
        uint8_t *data;
        const size_t n = fuzz_metric_state_seed(i, &data);
        snprintf(name, sizeof name, "metric%d.state", i);
        FILE *const f = fopen(golden(name), "wb");
        assert_non_null(f);
        assert_int_equal(fwrite(data + 1, 1, n - 1, f), n - 1);
        assert_int_equal(fclose(f), 0);
        free(data);
        qsae_metric *m = fuzz_metric_open(fuzz_context(1), kind_of(i));
        assert_ok(qsae_metric_load(m, golden(name)));
        for (int32_t k = 0; k < qsae_metric_count(m); k++) {
            qsae_value v = { .struct_size = sizeof v };
            assert_ok(qsae_metric_value(m, k, &v));
            fprintf(values, "%d %s %a\n", i, v.name, v.value);
        }
        qsae_metric_close(&m);
    }
    uint8_t *data;
    const size_t n = fuzz_audit_seed(2, &data);
    FILE *const f = fopen(golden("audit.state"), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
    free(data);
    qsae_audit *audit = NULL;
    const char *json;
    assert_ok(fuzz_audit_open(1, golden("audit.state"), &audit));
    assert_ok(qsae_audit_result(audit, &json, NULL));
    json_t *const o = json_loads(json, 0, NULL), *const c =
        json_array_get(json_object_get(o, "conditions"), 0);
    static const char *const keys[] = { "ce", "dce", "kl_mean", "top1_agreement" };
    for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++)
        fprintf(values, "audit %s %a\n", keys[k], json_number_value(json_object_get(c, keys[k])));
    json_decref(o);
    qsae_audit_close(&audit);
    assert_int_equal(fclose(values), 0);
}

static int near(double a, double b)
{
    return (isnan(a) && isnan(b)) || a == b || fabs(a - b) <= 1e-12 * fabs(b);
}

static void test_golden(void **state)
{
    FILE *const values = fopen(golden("values.txt"), "r");
    char which[16], name[64], text[64], file[32];
    int n = 0;
    (void)state;
    assert_non_null(values);
    while (fscanf(values, "%15s %63s %63s", which, name, text) == 3) {
        const double expected = strtod(text, NULL);
        double found = NAN;
        n++;
        if (strcmp(which, "audit") == 0) {
            qsae_audit *audit = NULL;
            const char *json;
            assert_ok(fuzz_audit_open(1, golden("audit.state"), &audit));
            assert_ok(qsae_audit_run(audit)); /* nothing is left to do */
            assert_ok(qsae_audit_result(audit, &json, NULL));
            json_t *const o = json_loads(json, 0, NULL);
            found = json_number_value(json_object_get(
                json_array_get(json_object_get(o, "conditions"), 0), name));
            json_decref(o);
            qsae_audit_close(&audit);
        } else {
            qsae_metric *m = fuzz_metric_open(fuzz_context(1), kind_of(atoi(which)));
            snprintf(file, sizeof file, "metric%s.state", which);
            assert_ok(qsae_metric_load(m, golden(file)));
            assert_ok(qsae_metric_get(m, name, &found));
            qsae_metric_close(&m);
        }
        if (!near(found, expected))
            fail_msg("%s, %s: %.17g, when it was written %.17g", which, name, found, expected);
    }
    fclose(values);
    assert_true(n > 100);
}

/* ---- damage ---- */

/* The next place to look at: each of a short state, of a long one's head and end, or of all of it
 * in the long form; else every 251st. */
static size_t next_place(size_t i, size_t size)
{
    return i + (full_length() || i < 512 || i + 96 > size || size <= 2048 ? 1 : 251);
}

/* Bytes changed in two ways (of a large state in one), every bit of the head, shorter lengths.
 * read: of a copy of exactly that size, up to 64 KiB. */
static void damage(const uint8_t *good, size_t size, int32_t (*read)(void *cookie, const void *data,
                                                                     size_t size), void *cookie)
{
    uint8_t *const copy = malloc(size);
    assert_non_null(copy);
    memcpy(copy, good, size);
    assert_int_equal(read(cookie, copy, size), QSAE_OK);
    for (size_t i = 0; i < size; i = next_place(i, size)) {
        for (int k = 0; k < (i < 64 ? 8 : size < LARGE ? 2 : 1); k++) {
            copy[i] = (uint8_t)(good[i] ^ (i < 64 ? 1 << k : k ? 0xff : 1 << i % 8));
            if (read(cookie, copy, size) == QSAE_OK)
                fail_msg("byte %zu of %zu: a change is not seen", i, size);
        }
        copy[i] = good[i];
    }
    free(copy);
    for (size_t n = 0; n < size; n = next_place(n, size)) {
        uint8_t *const exact = n < 65536 ? malloc(n ? n : 1) : NULL;
        if (exact)
            memcpy(exact, good, n);
        if (read(cookie, exact ? exact : good, n) == QSAE_OK)
            fail_msg("the first %zu of %zu bytes are taken", n, size);
        free(exact);
    }
}

static int32_t read_metric(void *cookie, const void *data, size_t size)
{
    return qsae__metric_read(cookie, data, size);
}

static int32_t read_audit(void *cookie, const void *data, size_t size)
{
    struct audit_state s;
    const int32_t st = qsae__state_open(cookie, fuzz_put("damaged.state", data, size), &s);
    if (st == QSAE_OK)
        qsae__state_close(&s);
    return st;
}

static void test_damage(void **state)
{
    char name[32];
    size_t size;
    (void)state;
    for (int i = 0; i < METRICS; i++) {
        snprintf(name, sizeof name, "metric%d.state", i);
        uint8_t *const good = read_file(golden(name), &size);
        qsae_metric *m = fuzz_metric_open(fuzz_context(1), kind_of(i));
        damage(good, size, read_metric, m);
        qsae_metric_close(&m);
        free(good);
    }
    uint8_t *const good = read_file(golden("audit.state"), &size);
    damage(good, size, read_audit, fuzz_context(1));
    free(good);
}

/* A reconstruction metric with some 1 MiB of state: its sums are wide. */
static void test_large(void **state)
{
    enum { WIDTH = 4096, N = 16 };
    static float x[N * WIDTH], y[N * WIDTH];
    qsae_metric *m = NULL;
    qsae__strbuf b;
    (void)state;
    if (!full_length()) {
        print_message("skipped: only with QSAE_LONG_TESTS=1\n");
        skip();
    }
    for (int i = 0; i < N * WIDTH; i++) {
        x[i] = (float)(i % 101) - 50;
        y[i] = x[i] + (float)(i % 7);
    }
    const qsae_rows r = { sizeof r, x, N, WIDTH, WIDTH, QSAE_F32, 0 };
    const qsae_rows q = { sizeof q, y, N, WIDTH, WIDTH, QSAE_F32, 0 };
    assert_ok(qsae_metric_open_reconstruction(fuzz_context(1), WIDTH, 0, NULL, &m));
    assert_ok(qsae_metric_update_reconstruction(m, NULL, &r, &q, NULL));
    qsae__strbuf_init(&b, fuzz_context(1));
    qsae__metric_write(m, &b);
    assert_int_equal(b.status, QSAE_OK);
    assert_true((size_t)b.size >= LARGE);
    damage((const uint8_t *)b.data, (size_t)b.size, read_metric, m);
    qsae__strbuf_free(&b);
    qsae_metric_close(&m);
}

/* ---- other measurements ---- */

static void test_metric_fields(void **state)
{
    qsae_context *const ctx = fuzz_context(1);
    qsae_metric_settings base, s;
    qsae_metric *m = NULL, *other = NULL;
    const char *const path = fuzz_path("fields.state");
    (void)state;
    qsae_metric_settings_init(&base, sizeof base);
    base.fingerprint = "one";
    base.top = 2;
    base.prompt_tokens = 8;
    assert_ok(qsae_metric_open_features(ctx, 6, &base, &m));
    assert_ok(qsae_metric_save(m, path));
    for (int i = 0; i < 8; i++) {
        const char *field = "";
        int64_t features = 6;
        s = base;
        switch (i) {
        case 0: s.batch_rows = 7; field = "batch_rows"; break;
        case 1: s.memory = 4096; field = "memory"; break;
        case 2: s.fingerprint = "two"; field = "fingerprint"; break;
        case 3: s.active_rate = 0.25; field = "active_rate"; break;
        case 4: s.top = 3; field = "top"; break;
        case 5: s.prompt_tokens = 16; field = "prompt_tokens"; break;
        case 6: s.documents_per_block = 1; field = "documents_per_block"; break;
        default: features = 7; field = "features"; break;
        }
        assert_ok(qsae_metric_open_features(ctx, features, &s, &other));
        assert_fails(qsae_metric_load(other, path), QSAE_EMISMATCH, field);
        assert_fails(qsae_metric_merge(other, m), QSAE_EMISMATCH, field);
        qsae_metric_close(&other);
    }
    assert_ok(qsae_metric_open_drift(ctx, 6, &base, &other));
    assert_fails(qsae_metric_load(other, path), QSAE_EMISMATCH, "kind");
    qsae_metric_close(&other);
    qsae_metric_close(&m);
    assert_ok(qsae_metric_open_drift(ctx, 6, &base, &m));
    assert_ok(qsae_metric_save(m, path));
    assert_ok(qsae_metric_open_drift(ctx, 5, &base, &other));
    assert_fails(qsae_metric_load(other, path), QSAE_EMISMATCH, "d: ");
    qsae_metric_close(&other);
    qsae_metric_close(&m);
    base.top = base.prompt_tokens = 0;
    assert_ok(qsae_metric_open_divergence(ctx, &base, &m));
    assert_ok(qsae_metric_save(m, path));
    base.overlap_k = 5;
    assert_ok(qsae_metric_open_divergence(ctx, &base, &other));
    assert_fails(qsae_metric_load(other, path), QSAE_EMISMATCH, "overlap_k");
    qsae_metric_close(&other);
    qsae_metric_close(&m);
}

/* Copies fixture/NAME into the folder `to`, with a byte changed `back` bytes before the end, or as
 * it is. */
static void copy_fixture(const char *to, const char *name, long back)
{
    char path[512];
    size_t size;
    snprintf(path, sizeof path, QSAE_FUZZ_FIXTURE "/%s", name);
    uint8_t *const data = read_file(path, &size);
    if (back)
        data[size - (size_t)back] ^= 1;
    snprintf(path, sizeof path, "%s/%s", to, strrchr(name, '/') ? strrchr(name, '/') + 1 : name);
    FILE *const f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
    free(data);
}

static void remove_copies(const char *folder)
{
    static const char *const names[] = { "config.json", "model.safetensors", "tokenizer.json",
                                         "cfg.json", "sae_weights.safetensors" };
    char path[512];
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    assert_int_equal(rmdir(folder), 0);
}

static void test_audit_fields(void **state)
{
    static const char *const more[] = { "rtn:bits=4", "nf4" }, *const other[] = { "rtn:bits=5" };
    static const char *const where[] = { "position" };
    static const char *const site[] = { QSAE_FUZZ_FIXTURE "/sae@0:resid_pre" };
    char model[64], sae[64];
    const char *saes[1] = { sae };
    static const int64_t contexts[] = { 4, 8 };
    (void)state;
    snprintf(model, sizeof model, "%s-model", fuzz_folder());
    snprintf(sae, sizeof sae, "%s-sae", fuzz_folder());
    assert_int_equal(mkdir(model, 0700) | mkdir(sae, 0700), 0);
    copy_fixture(model, "config.json", 0);
    copy_fixture(model, "tokenizer.json", 0);
    copy_fixture(model, "model.safetensors", 1);
    copy_fixture(sae, "sae/cfg.json", 0);
    copy_fixture(sae, "sae/sae_weights.safetensors", 2);
    /* The first two documents change places: as many tokens, in another order. */
    size_t size;
    uint8_t *const lines = read_file(QSAE_FUZZ_FIXTURE "/text.jsonl", &size),
            *const turned = malloc(size);
    assert_non_null(turned);
    const size_t one = (size_t)((uint8_t *)memchr(lines, '\n', size) - lines) + 1,
                 two = (size_t)((uint8_t *)memchr(lines + one, '\n', size - one) - lines) + 1;
    memcpy(turned, lines + one, two - one);
    memcpy(turned + two - one, lines, one);
    memcpy(turned + two, lines + two, size - two);
    const char *const text = fuzz_put("other.jsonl", turned, size);
    free(lines);
    free(turned);
    for (int i = 0; i < 18; i++) {
        qsae_audit_settings s;
        qsae_audit *audit = NULL;
        const char *field = "";
        fuzz_audit_settings(&s);
        s.state = golden("audit.state");
        switch (i) {
        case 0: s.model = model; field = "model.weights"; break;
        case 1: saes[0] = sae; s.saes = saes; field = "saes[0].hash"; break;
        case 2: s.saes = site; field = "saes[0].site"; break;
        case 3: s.n_saes = 0; field = "saes (how many)"; break;
        case 4: s.text = text; field = "text"; break;
        case 5: s.context = 9; field = "context"; break;
        case 6: s.batch = 3; field = "batch"; break;
        case 7: s.bos_policy = QSAE_BOS_NONE; field = "bos_policy"; break;
        case 8: s.attention = QSAE_ATTN_FP32; field = "attention"; break;
        case 9: s.compute = QSAE_COMPUTE_BF16; field = "compute"; break;
        case 10: s.conditions = other; field = "conditions[0].condition"; break;
        case 11: s.conditions = more; s.n_conditions = 2; field = "conditions (how many)"; break;
        case 12: s.exclude_tokens = "5"; field = "exclude_tokens"; break;
        case 13: s.top_contexts = 3; field = "top_contexts"; break;
        case 14: s.slices = where; s.n_slices = 1; field = "slices"; break;
        case 15: s.overlap_k = 5; field = "overlap_k"; break;
        case 16: s.splice = 1; field = "splice"; break;
        default: s.contexts = contexts; s.n_contexts = 2; field = "contexts"; break;
        }
        assert_fails(qsae_audit_open(fuzz_context(0), &s, &audit), QSAE_EMISMATCH, field);
        assert_null(audit);
    }
    remove_copies(model);
    remove_copies(sae);
}

/* ---- files that are cut ---- */

/* Opens a file cut at n random places, from the end to the beginning. */
static void cut(const char *from, const char *name, int n, int32_t (*open)(qsae_context *ctx,
                                                                          const char *path))
{
    size_t size;
    uint8_t *const data = read_file(from, &size);
    const char *const path = fuzz_put(name, data, size);
    uint32_t random = 12345;
    for (int mode = 0; mode < FUZZ_MODES; mode++)
        assert_ok(open(fuzz_context(mode), path));
    for (int i = 0; i < n; i++) {
        /* Near the end, where little is missing, as often as anywhere. */
        const size_t length = i == 0 ? size - 1
                              : i % 2 ? next_random(&random) % size
                                      : size - 1 - next_random(&random) % (size < 64 ? size : 64);
        assert_int_equal(truncate(path, (off_t)length), 0);
        const int32_t st = open(fuzz_context(i / 2 % 2), path);
        if (st == QSAE_OK)
            fail_msg("%s: the first %zu of %zu bytes are taken", from, length, size);
        assert_true(st < 0 && st != QSAE_EINTERNAL && qsae_error_message()[0]);
        FILE *const f = fopen(path, "r+b"); /* whole again */
        assert_non_null(f);
        assert_int_equal(fseek(f, (long)length, SEEK_SET), 0);
        assert_int_equal(fwrite(data + length, 1, size - length, f), size - length);
        assert_int_equal(fclose(f), 0);
    }
    fuzz_remove(name);
    free(data);
}

static int32_t open_tensors(qsae_context *ctx, const char *path)
{
    qsae_tensors *t = NULL;
    const int32_t st = qsae_tensors_open(ctx, path, &t);
    qsae_tensors_close(&t);
    return st;
}

static int32_t open_logits(qsae_context *ctx, const char *path)
{
    qsae_logits_reader *r = NULL;
    const int32_t st = qsae_logits_reader_open(ctx, path, &r);
    qsae_logits_reader_close(&r);
    return st;
}

static int32_t open_state(qsae_context *ctx, const char *path)
{
    struct audit_state s;
    const int32_t st = qsae__state_open(ctx, path, &s);
    if (st == QSAE_OK)
        qsae__state_close(&s);
    return st;
}

static void test_cuts(void **state)
{
    const int n = full_length() ? 10000 : 200;
    (void)state;
    cut(QSAE_FUZZ_FIXTURE "/model.safetensors", "cut.safetensors", n, open_tensors);
    cut(QSAE_TEST_DATA "/models/llama_gqa/model.safetensors", "cut.safetensors", n, open_tensors);
    cut(QSAE_FUZZ_FIXTURE "/../seeds/npz/stored", "cut.npz", n, open_tensors);
    cut(QSAE_FUZZ_FIXTURE "/../seeds/npy/a0", "cut.npy", n, open_tensors);
    cut(QSAE_FUZZ_FIXTURE "/../seeds/logits/two", "cut.kld", n, open_logits);
    cut(golden("audit.state"), "cut.state", n, open_state);
}

/* The file shrinks while a model or an SAE of a context that copies files is in use: the same
 * figures, no signal. */
static void test_cut_in_use(void **state)
{
    const int n = full_length() ? 1000 : 40;
    uint32_t random = 99;
    char folder[64], path[128];
    float first[8] = { 0 };
    (void)state;
    snprintf(folder, sizeof folder, "%s-use", fuzz_folder());
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    assert_int_equal(mkdir(folder, 0700), 0);
    copy_fixture(folder, "config.json", 0);
    for (int i = 0; i <= n; i++) {
        qsae_weights *w = NULL;
        qsae_model *m = NULL;
        qsae_model_settings s;
        qsae_pass pass;
        float nll[8];
        const int32_t ids[8] = { 1, 3, 5, 6, 9, 10, 4, 7 };
        copy_fixture(folder, "model.safetensors", 0);
        assert_ok(qsae_weights_open(fuzz_context(1), folder, &w));
        if (i > 0 && i % 2 == 0)
            assert_int_equal(truncate(path, next_random(&random) % 2000), 0);
        qsae_model_settings_init(&s, sizeof s);
        s.memory = i % 4 < 2 ? QSAE_MEMORY_RESIDENT : QSAE_MEMORY_STREAMED;
        assert_ok(qsae_model_open(w, &s, &m));
        if (i > 0)
            assert_int_equal(truncate(path, next_random(&random) % 1000), 0);
        qsae_pass_init(&pass, sizeof pass);
        pass.ids = ids;
        pass.n_seq = 1;
        pass.n_tokens = 8;
        pass.nll = nll;
        assert_ok(qsae_model_forward(m, &pass));
        if (i == 0)
            memcpy(first, nll, sizeof first);
        assert_memory_equal(first, nll, 7 * sizeof *nll);
        qsae_model_close(&m);
        qsae_weights_close(&w);
    }
    remove_copies(folder);
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),       cmocka_unit_test(test_metric_fields),
        cmocka_unit_test(test_audit_fields), cmocka_unit_test(test_cuts),
        cmocka_unit_test(test_cut_in_use),   cmocka_unit_test(test_large),
        cmocka_unit_test(test_damage),
    };
    if (argc > 1 && strcmp(argv[1], "--write") == 0) {
        write_golden();
        return 0;
    }
    return cmocka_run_group_tests_name("states", tests, NULL, NULL);
}
