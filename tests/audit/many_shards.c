/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Audits in many parts, with a snapshot inside of one: states of up to 1,024 processes, merged in
 * any order, in a line or as a tree, have the bytes and the result of one go. Counts that begin far
 * on. QSAE_LONG_TESTS=1: powers of two, primes, 1,024 parts.
 */
#include <unistd.h>

#include "core/hash.h"
#include "document.h"
#include "folder.h"

#define SHARDS_MOST 1024
#define FIRST_ID 3 /* of the model in tests/fuzz/fixture: some words */
#define IDS 8
#define UNIT 72 /* tokens between places where a part may begin: 4 batches of 2 chunks of 9 */

static uint32_t seed = 1024;

/* A .npy of so many random ids. */
static void write_text(const char *path, int64_t n)
{
    char head[128];
    FILE *const f = fopen(path, "wb");
    assert_non_null(f);
    memset(head, ' ', sizeof head);
    memcpy(head, "\x93NUMPY\x01\x00\x76\x00", 10);
    const int length = snprintf(head + 10, sizeof head - 10,
                                "{'descr': '<i4', 'fortran_order': False, 'shape': (%lld,), }",
                                (long long)n);
    head[10 + length] = ' ';
    head[127] = '\n';
    assert_int_equal(fwrite(head, 1, sizeof head, f), sizeof head);
    for (int64_t i = 0; i < n; i++) {
        const int32_t id = FIRST_ID + (int32_t)(next_random(&seed) % IDS);
        assert_int_equal(fwrite(&id, sizeof id, 1, f), 1);
    }
    assert_int_equal(fclose(f), 0);
}

static void settings(qsae_audit_settings *s, const char *text)
{
    static const char *const conditions[] = { "rtn:bits=4", "llm.int8:threshold=1" };
    static const char *const saes[] = { QSAE_FUZZ_FIXTURE "/sae@0" };
    static const char *const slices[] = { "position" };
    qsae_audit_settings_init(s, sizeof *s);
    s->model = QSAE_FUZZ_FIXTURE;
    s->text = text;
    s->conditions = conditions;
    s->n_conditions = 2;
    s->saes = saes;
    s->n_saes = 1;
    s->slices = slices;
    s->n_slices = 1;
    s->context = 9;
    s->batch = 2;
    s->bos_policy = QSAE_BOS_NONE;
    s->top_contexts = 2;
}

static char *name_of(char path[64], const char *what, int64_t i)
{
    snprintf(path, 64, "%s/%s%lld", folder, what, (long long)i);
    return path;
}

static char *read_state(const char *path, size_t *size)
{
    static const char name[] = "run.seconds"; /* what the run took comes last */
    FILE *const f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    *size = (size_t)ftell(f);
    rewind(f);
    char *const data = malloc(*size);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, *size, f), *size);
    fclose(f);
    for (size_t i = *size - sizeof name; i > 0; i--)
        if (memcmp(data + i, name, sizeof name - 1) == 0) {
            *size = i;
            return data;
        }
    fail_msg("a state without run.seconds");
    return data;
}

static json_t *result_with(qsae_context *ctx, qsae_audit_settings *s, const char *state)
{
    s->state = state;
    json_t *const result = run(ctx, s);
    s->state = NULL;
    strip(result);
    assert_true(json_is_true(json_object_get(result, "complete")));
    return result;
}

static void run_shards(qsae_context *ctx, qsae_audit_settings *s, int64_t n, char (*paths)[64])
{
    for (int64_t i = 0; i < n; i++) {
        qsae_audit *audit = NULL;
        s->state = name_of(paths[i], "shard", i);
        s->shard_index = i;
        s->shard_count = n;
        unlink(paths[i]);
        assert_ok(qsae_audit_open(ctx, s, &audit));
        assert_ok(qsae_audit_run(audit));
        qsae_audit_close(&audit);
    }
    s->state = NULL;
    s->shard_index = s->shard_count = 0;
}

/* In a random order: all at once, or `fan` files into one until one is left. */
static void merge_all(qsae_context *ctx, char (*paths)[64], int64_t n, int64_t fan,
                      const char *out)
{
    const char *left[SHARDS_MOST];
    qsae_merge_info info = { .struct_size = sizeof info };
    for (int64_t i = 0; i < n; i++)
        left[i] = paths[i];
    for (int64_t i = n - 1; i > 0; i--) {
        const int64_t k = next_random(&seed) % (uint32_t)(i + 1);
        const char *const swap = left[i];
        left[i] = left[k];
        left[k] = swap;
    }
    for (int64_t next; fan > 1 && n > fan; n = next) {
        next = 0;
        for (int64_t i = 0; i < n; i += fan) {
            const int64_t some = n - i < fan ? n - i : fan;
            assert_ok(qsae_audit_merge(ctx, left + i, some, left[i], 0, NULL));
            left[next++] = left[i];
        }
    }
    assert_ok(qsae_audit_merge(ctx, left, n, out, 0, &info));
    assert_int_equal(info.gaps, 0);
    assert_int_equal(info.measured_chunks, info.chunks);
}

static void test_many(void **state)
{
    static const int64_t some[] = { 7 }, many[] = { 1, 2, 3, 17, 64, 127, 512, 1021, 1024 };
    static char paths[SHARDS_MOST][64];
    const int64_t *const counts = full_length() ? many : some;
    const size_t n_counts = full_length() ? sizeof many / sizeof *many : sizeof some / sizeof *some;
    qsae_context *ctx = open_context(NULL, 1);
    qsae_audit_settings s;
    char text[64], whole[64], merged[64];
    size_t size, other;
    (void)state;
    snprintf(text, sizeof text, "%s/text.npy", folder);
    write_text(text, UNIT * (full_length() ? SHARDS_MOST : 100));
    settings(&s, text);
    json_t *const want = result_with(ctx, &s, name_of(whole, "whole", 0));
    char *const bytes = read_state(whole, &size);
    for (size_t k = 0; k < n_counts; k++) {
        run_shards(ctx, &s, counts[k], paths);
        merge_all(ctx, paths, counts[k], k % 2 ? 0 : 2 + (int64_t)k, name_of(merged, "merged", 0));
        char *const have = read_state(merged, &other);
        if (other != size || memcmp(bytes, have, size) != 0)
            fail_msg("%lld parts: another state", (long long)counts[k]);
        json_t *const result = result_with(ctx, &s, merged);
        if (!json_equal(want, result))
            fail_msg("%lld parts: another result", (long long)counts[k]);
        print_message("%lld parts: the bytes and the result of one\n", (long long)counts[k]);
        json_decref(result);
        free(have);
    }
    free(bytes);
    json_decref(want);
    qsae_context_close(&ctx);
}

/* ---- counts ---- */

/* Sets word i of a part's data to `value`, and the checksum right. */
static void set_word(const char *path, const char *part, int64_t i, int64_t value)
{
    FILE *const f = fopen(path, "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    const size_t size = (size_t)ftell(f), hash = QSAE__HASH_SIZE - 1, length = strlen(part);
    char *const data = malloc(size), hex[QSAE__HASH_SIZE];
    size_t at = 0;
    rewind(f);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, size, f), size);
    while (at + length < size && memcmp(data + at, part, length) != 0)
        at++;
    at += length + 3 * 8 + 8 * (size_t)i; /* kind, no description, size of the data */
    assert_true(at + 8 < size);
    memcpy(data + at, &value, sizeof value);
    qsae__hash(data, size - hash, hex);
    memcpy(data + size - hash, hex, hash);
    rewind(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
    free(data);
}

/* Calls of linear layers that LLM.int8 counted. */
static int64_t calls_of(const json_t *result)
{
    const json_t *const c = json_array_get(json_object_get(result, "conditions"), 1);
    const json_t *const n = json_object_get(json_object_get(c, "outliers"), "linear_calls");
    assert_true(json_is_integer(n));
    return json_integer_value(n);
}

static void test_counts(void **state)
{
    static const int64_t starts[] = { (int64_t)UINT32_MAX, ((int64_t)1 << 48) - 1000 };
    static const char part[] = "conditions[1].outliers";
    qsae_context *ctx = open_context(NULL, 1);
    qsae_audit_settings s;
    qsae_audit *audit = NULL;
    char text[64], whole[64], paths[2][64];
    (void)state;
    snprintf(text, sizeof text, "%s/counts.npy", folder);
    write_text(text, UNIT * 4);
    settings(&s, text);
    unlink(name_of(whole, "counted", 0));
    json_t *const want = result_with(ctx, &s, whole);
    const int64_t matrices = 7; /* of the fixture's one layer, each called once a batch */
    assert_int_equal(calls_of(want), matrices * 16);
    for (size_t i = 0; i < sizeof starts / sizeof starts[0]; i++) {
        run_shards(ctx, &s, 2, paths);
        set_word(paths[0], part, 0, starts[i]); /* instead of 8 */
        assert_ok(qsae_audit_merge(ctx, (const char *const[]){ paths[1], paths[0] }, 2, whole, 0,
                                   NULL));
        json_t *const result = i == 0 ? result_with(ctx, &s, whole) : NULL;
        if (result)
            assert_int_equal(calls_of(result), starts[i] + matrices * 16 - 8);
        json_decref(result);
        json_t *const gone_on = result_with(ctx, &s, paths[0]); /* the run counts further */
        assert_int_equal(calls_of(gone_on), starts[i] + matrices * 16 - 8);
        json_decref(gone_on);
    }
    run_shards(ctx, &s, 2, paths);
    set_word(paths[0], part, 2, ((int64_t)1 << 48) + 1);
    s.state = paths[0];
    assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_EFORMAT, "outliers: a count of 2814749767");
    set_word(paths[0], part, 2, -1);
    assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_EFORMAT, "a count is negative");
    /* Two sums that 63 bits do not hold. */
    set_word(paths[0], part, 2, INT64_MAX);
    set_word(paths[1], part, 2, 1);
    assert_fails(qsae_audit_merge(ctx, (const char *const[]){ paths[0], paths[1] }, 2, whole, 0,
                                  NULL), QSAE_EOVERFLOW, "too large a sum");
    json_decref(want);
    qsae_context_close(&ctx);
}

/* ---- the frame ---- */

static void write_signed(const char *path, char *data, size_t size)
{
    char hex[QSAE__HASH_SIZE];
    const size_t hash = QSAE__HASH_SIZE - 1;
    qsae__hash(data, size - hash, hex);
    memcpy(data + size - hash, hex, hash);
    FILE *const f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}

/* Merged and opened it is refused by a message that names the file, or it is a state. */
static void try_state(qsae_context *ctx, qsae_audit_settings *s, const char *path,
                      int64_t counts[2])
{
    char out[64];
    qsae_audit *audit = NULL;
    int32_t st = qsae_audit_merge(ctx, &path, 1, name_of(out, "forged", 1), 0, NULL);
    for (int k = 0; k < 2; k++) {
        counts[st == QSAE_OK]++;
        if (st != QSAE_OK && st != QSAE_EFORMAT && st != QSAE_EMISMATCH &&
            st != QSAE_EINVAL && st != QSAE_EUNSUPPORTED)
            fail_msg("%s (%s)", qsae_status_name(st), qsae_error_message());
        if (st != QSAE_OK && !strstr(qsae_error_message(), path))
            fail_msg("message \"%s\"", qsae_error_message());
        if (k == 0) {
            s->state = path;
            st = qsae_audit_open(ctx, s, &audit);
            s->state = NULL;
            assert_true((st == QSAE_OK) == (audit != NULL));
            qsae_audit_close(&audit);
        }
    }
}

/* Words before the first part's data, each another one with the checksum right; lengths there. */
static void test_frame(void **state)
{
    static const uint64_t values[] = { 0, 1, 3, 8, 9, (uint64_t)1 << 40, INT64_MAX, UINT64_MAX };
    qsae_context *ctx = open_context(NULL, 1);
    qsae_audit_settings s;
    char text[64], path[64], paths[2][64];
    int64_t counts[2] = { 0 };
    uint64_t identity;
    (void)state;
    snprintf(text, sizeof text, "%s/frame.npy", folder);
    write_text(text, UNIT * 4);
    settings(&s, text);
    s.n_conditions = 1;
    s.n_slices = 0;
    run_shards(ctx, &s, 2, paths);
    FILE *const f = fopen(paths[0], "rb");
    assert_non_null(f);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    const size_t size = (size_t)ftell(f);
    char *const good = malloc(size), *const bad = malloc(size);
    rewind(f);
    assert_true(good && bad && fread(good, 1, size, f) == size);
    fclose(f);
    memcpy(&identity, good + 40, sizeof identity);
    const size_t first = 48 + (size_t)identity; /* chunks, tokens, ranges, participants, parts */
    name_of(path, "forged", 0);
    for (size_t at = 40; at < first + 160; at = at < first ? first : at + 8)
        for (size_t v = 0; v < sizeof values / sizeof values[0]; v++) {
            memcpy(bad, good, size);
            memcpy(bad + at, &values[v], sizeof values[v]);
            write_signed(path, bad, size);
            try_state(ctx, &s, path, counts);
        }
    for (size_t length = 0; length < first + 160; length += length < 80 ? 1 : 8) {
        memcpy(bad, good, size);
        write_signed(path, bad, length + QSAE__HASH_SIZE - 1);
        const int64_t taken = counts[1];
        try_state(ctx, &s, path, counts);
        assert_int_equal(counts[1], taken);
    }
    print_message("%lld refused, %lld taken\n", (long long)counts[0], (long long)counts[1]);
    free(good);
    free(bad);
    qsae_context_close(&ctx);
}

/* The time a run took stays one that can be read. */
static void test_seconds(void **state)
{
    qsae_context *ctx = open_context(NULL, 1);
    qsae_audit_settings s;
    char text[64], paths[2][64];
    (void)state;
    snprintf(text, sizeof text, "%s/seconds.npy", folder);
    write_text(text, UNIT * 4);
    settings(&s, text);
    run_shards(ctx, &s, 2, paths);
    set_word(paths[0], "run.seconds", 0, INT64_MAX);
    json_decref(result_with(ctx, &s, paths[0]));
    json_decref(result_with(ctx, &s, paths[0]));
    qsae_context_close(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_many), cmocka_unit_test(test_counts),
                                        cmocka_unit_test(test_seconds),
                                        cmocka_unit_test(test_frame) };
    return cmocka_run_group_tests_name("many_shards", tests, make_folder, remove_folder);
}
