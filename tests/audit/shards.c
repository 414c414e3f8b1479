/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Runs in parts: stopped and resumed, sharded and merged in any order, always the bytes of one go.
 * QSAE_LONG_TESTS=1 in the environment: 1,000 stops, all numbers of shards from 1 to 64.
 */
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/hash.h"
#include "document.h"
#include "folder.h"

#define SHARDS_MOST 64
#define HASH 32

static uint64_t seed = 20250731;

static int64_t draw(int64_t n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (int64_t)((seed >> 33) % (uint64_t)n);
}

static char *in_folder(char path[64], const char *name, int64_t i)
{
    snprintf(path, 64, "%s/%s%lld", folder, name, (long long)i);
    return path;
}

/* Batches of 180 tokens, which divide no leaf of sums; a shorter last chunk; one snapshot. */
static void settings(qsae_audit_settings *s)
{
    static const char *const conditions[] = { "llm.int8:threshold=2", "nf4@layers=2-3" };
    static const char *const slices[] = { "position", "class" };
    defaults(s);
    s->profile = QSAE_PROFILE_DEFAULT;
    s->context = 60;
    s->batch = 3;
    s->max_tokens = 5401;
    s->keep_tail = 1;
    s->conditions = conditions;
    s->n_conditions = 2;
    s->slices = slices;
    s->n_slices = 2;
    s->top_contexts = 3;
}

struct bytes {
    char *data;
    size_t size;
};

static struct bytes read_bytes(const char *path)
{
    struct bytes b = { NULL, 0 };
    FILE *const f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    b.size = (size_t)ftell(f);
    rewind(f);
    b.data = malloc(b.size + 1);
    assert_non_null(b.data);
    assert_int_equal(fread(b.data, 1, b.size, f), b.size);
    fclose(f);
    return b;
}

static void write_bytes(const char *path, const char *data, size_t size)
{
    FILE *const f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}

/* Size of a state without what the run took, which comes last. */
static size_t measured_size(const struct bytes *b)
{
    static const char name[] = "run.seconds";
    for (size_t i = b->size - sizeof name; i-- > 0;)
        if (memcmp(b->data + i, name, sizeof name - 1) == 0)
            return i;
    fail_msg("a state without run.seconds");
    return 0;
}

static void same_state(const char *what, const struct bytes *want, const char *path)
{
    struct bytes have = read_bytes(path);
    const size_t n = measured_size(want);
    if (measured_size(&have) != n || memcmp(want->data, have.data, n) != 0)
        fail_msg("%s: another state", what);
    free(have.data);
}

static json_t *stripped(qsae_context *ctx, const qsae_audit_settings *s)
{
    json_t *const result = run(ctx, s);
    strip(result);
    return result;
}

static void same_result(const char *what, const json_t *want, qsae_context *ctx,
                        const qsae_audit_settings *s)
{
    json_t *const have = stripped(ctx, s);
    if (!json_equal(want, have))
        fail_msg("%s: another result", what);
    json_decref(have);
}

/* One go. */
struct whole {
    char path[64];
    struct bytes state;
    json_t *result;
};

static void open_whole(qsae_context *ctx, qsae_audit_settings *s, struct whole *w)
{
    s->state = in_folder(w->path, "whole", 0);
    unlink(w->path);
    w->result = stripped(ctx, s);
    w->state = read_bytes(w->path);
    assert_true(json_is_true(json_object_get(w->result, "complete")));
    assert_int_equal(json_array_size(json_object_get(w->result, "gaps")), 0);
    assert_int_equal(json_array_size(json_object_get(w->result, "snapshots")),
                     s->max_tokens > 5000);
    s->state = NULL;
}

static void close_whole(struct whole *w)
{
    json_decref(w->result);
    free(w->state.data);
}

/* ---- stops ---- */

/* Runs to the end with stops at random batches; returns how many. */
static int64_t run_with_stops(qsae_context *ctx, qsae_audit_settings *s, int64_t most)
{
    struct stop stop = { 0 };
    int64_t stops = 0;
    bool done = false;
    assert_ok(qsae_cancel_token_open(&stop.token));
    s->cancel = stop.token;
    s->progress = stop_at;
    s->progress_cookie = &stop;
    while (!done) {
        qsae_audit *audit;
        stop.at = stops < most ? stop.at + 180 * draw(3) + (stops == 0) : INT64_MAX;
        assert_ok(qsae_audit_open(ctx, s, &audit));
        const int32_t st = qsae_audit_run(audit);
        done = st == QSAE_OK;
        if (!done)
            assert_int_equal(st, QSAE_ECANCELED);
        stops += !done;
        qsae_cancel_token_reset(stop.token);
        qsae_audit_close(&audit);
    }
    qsae_cancel_token_close(&stop.token);
    s->cancel = NULL;
    s->progress = NULL;
    s->progress_cookie = NULL;
    return stops;
}

static void test_stops(void **state)
{
    qsae_context *ctx = open_context(NULL, 2), *other = open_context(NULL, 1);
    qsae_audit_settings s;
    struct whole w;
    char path[64];
    int64_t stops = 0;
    (void)state;
    settings(&s);
    s.max_tokens = full_length() ? s.max_tokens : 2701;
    open_whole(ctx, &s, &w);
    s.state = in_folder(path, "stopped", 0);
    while (stops < (full_length() ? 1000 : 6)) {
        unlink(path);
        s.memory = draw(3) == 0 ? QSAE_MEMORY_STREAMED : QSAE_MEMORY_DEFAULT;
        stops += run_with_stops(draw(2) ? ctx : other, &s, full_length() ? 40 : 10);
        s.memory = QSAE_MEMORY_DEFAULT;
        same_state("stopped and resumed", &w.state, path);
        same_result("stopped and resumed", w.result, ctx, &s);
    }
    close_whole(&w);
    qsae_context_close(&other);
    qsae_context_close(&ctx);
}

/* ---- shards ---- */

static void run_shard(qsae_context *ctx, qsae_audit_settings *s, int64_t i, int64_t n, char *path)
{
    qsae_audit *audit;
    s->state = in_folder(path, "shard", i);
    s->shard_index = i;
    s->shard_count = n;
    unlink(path);
    assert_ok(qsae_audit_open(ctx, s, &audit));
    assert_ok(qsae_audit_run(audit));
    qsae_audit_close(&audit);
    s->state = NULL;
    s->shard_index = s->shard_count = 0;
}

/* Merges the files in a random order, some of them by and by. */
static void merge_all(qsae_context *ctx, char (*paths)[64], int64_t n, const char *out)
{
    const char *left[SHARDS_MOST];
    qsae_merge_info info = { .struct_size = sizeof info };
    for (int64_t i = 0; i < n; i++)
        left[i] = paths[i];
    for (int64_t i = n - 1; i > 0; i--) {
        const int64_t k = draw(i + 1);
        const char *const swap = left[i];
        left[i] = left[k];
        left[k] = swap;
    }
    while (n > 1 && draw(3)) { /* the last few become one of them */
        const int64_t k = 2 + draw(n - 1);
        assert_ok(qsae_audit_merge(ctx, left + n - k, k, left[n - 1], 0, NULL));
        left[n - k] = left[n - 1];
        n -= k - 1;
    }
    assert_ok(qsae_audit_merge(ctx, left, n, out, 0, &info));
    assert_int_equal(info.gaps, 0);
    assert_int_equal(info.measured_chunks, info.chunks);
}

static void test_shards(void **state)
{
    const int64_t few = 17, kinds = full_length() ? SHARDS_MOST : 1; /* of 16 parts: one is empty */
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    struct whole w;
    char paths[SHARDS_MOST][64], merged[64];
    (void)state;
    settings(&s);
    s.batch = full_length() ? 3 : 6;
    open_whole(ctx, &s, &w);
    in_folder(merged, "merged", 0);
    for (int64_t k = 0; k < kinds; k++) {
        const int64_t n = full_length() ? k + 1 : few;
        for (int64_t i = 0; i < n; i++)
            run_shard(ctx, &s, i, n, paths[i]);
        merge_all(ctx, paths, n, merged);
        same_state("merged", &w.state, merged);
        s.state = merged;
        same_result("merged", w.result, ctx, &s);
        s.state = NULL;
        assert_ok(qsae_audit_merge(ctx, (const char *const[]){ merged }, 1, merged, 0, NULL));
        same_state("merged with nothing", &w.state, merged);
    }
    close_whole(&w);
    qsae_context_close(&ctx);
}

/* What is missing is said, and measured by a run that goes on from there. */
static void test_gaps(void **state)
{
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    struct whole w;
    char paths[5][64], merged[64];
    qsae_merge_info info = { .struct_size = sizeof info };
    (void)state;
    settings(&s);
    s.max_tokens = 1801;
    open_whole(ctx, &s, &w);
    in_folder(merged, "gaps", 0);
    for (int64_t i = 0; i < 5; i++)
        run_shard(ctx, &s, i, 5, paths[i]);
    assert_ok(qsae_audit_merge(ctx, (const char *const[]){ paths[3], paths[1] }, 2, merged, 0,
                               &info));
    assert_int_equal(info.gaps, 3);
    assert_int_equal(info.gap_from, 0);
    assert_int_equal(info.gap_to, 6);
    assert_fails(qsae_audit_merge(ctx, (const char *const[]){ merged, paths[0], paths[3] }, 3,
                                  merged, 0, NULL), QSAE_EMISMATCH, "chunks 18 to 24");
    qsae_audit *audit;
    s.state = merged;
    s.shard_index = 1; /* is there: nothing to do */
    s.shard_count = 5;
    json_t *const part = run(ctx, &s);
    assert_true(json_is_false(json_object_get(part, "complete")));
    json_t *const gaps = json_object_get(part, "gaps");
    assert_int_equal(json_array_size(gaps), 3);
    assert_int_equal(json_integer_value(json_array_get(json_array_get(gaps, 1), 0)), 12);
    assert_int_equal(json_integer_value(json_array_get(json_array_get(gaps, 1), 1)), 18);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(part, "corpus"), "chunks")),
                     12);
    assert_int_equal(json_array_size(json_object_get(part, "snapshots")), 0);
    json_decref(part);
    s.shard_index = s.shard_count = 0;
    assert_ok(qsae_audit_open(ctx, &s, &audit));
    assert_ok(qsae_audit_run(audit));
    qsae_audit_close(&audit);
    same_state("gaps filled", &w.state, merged);
    same_result("gaps filled", w.result, ctx, &s);
    close_whole(&w);
    qsae_context_close(&ctx);
}

/* Everything that is measured beside the usual: shards leave what is measured once to the run that
 * goes on from their merged states. Noise, entropies, scripts, another overlap, spliced SAEs. */
static void test_all(void **state)
{
    static const char *const slices[] = { "entropy", "script*position" }, *const probes =
        "{\"context\": \"The cat\", \"good\": \" sat\", \"bad\": \" blue\"}\n"
        "{\"context\": \"One and one are\", \"good\": \" two\", \"bad\": \" cold\"}\n";
    static const int64_t lengths[] = { 16, 40 };
    const char *const saes[] = { QSAE_TEST_DATA "/transcoders/skip",
                                 QSAE_TEST_DATA "/transcoders/clt" };
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    struct whole w;
    char paths[3][64], merged[64], set[64];
    (void)state;
    settings(&s);
    s.saes = saes;
    s.n_saes = 2;
    write_bytes(in_folder(set, "probes", 0), probes, strlen(probes));
    s.max_tokens = 500; /* three batches */
    s.n_conditions = 1;
    s.slices = slices;
    s.probes = set;
    s.contexts = lengths;
    s.n_contexts = 2;
    s.controls = 1;
    s.overlap_k = 3;
    s.splice = 1;
    open_whole(ctx, &s, &w);
    for (int64_t i = 0; i < 3; i++)
        run_shard(ctx, &s, i, 3, paths[i]);
    s.state = paths[1];
    s.shard_index = 1;
    s.shard_count = 3;
    json_t *const part = run(ctx, &s);
    assert_true(json_is_false(json_object_get(part, "complete")));
    json_decref(part);
    s.shard_index = s.shard_count = 0;
    merge_all(ctx, paths, 3, in_folder(merged, "all", 0));
    s.state = merged;
    same_result("merged", w.result, ctx, &s);
    same_state("merged, and the rest measured", &w.state, merged);
    const char *const both[] = { merged, paths[2] };
    assert_fails(qsae_audit_merge(ctx, both, 2, merged, 0, NULL), QSAE_EMISMATCH, "another state");
    close_whole(&w);
    qsae_context_close(&ctx);
}

/* llama.cpp's comparison has chunks for batches: parts begin where those and the batches do. */
static void test_llama(void **state)
{
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings s;
    struct whole w;
    char paths[4][64], merged[64];
    (void)state;
    settings(&s);
    s.context = 20;
    s.max_tokens = 1400;
    s.keep_tail = 0;
    s.n_saes = s.n_slices = s.top_contexts = 0;
    s.kl_divergence = 1;
    open_whole(ctx, &s, &w);
    for (int64_t i = 0; i < 4; i++)
        run_shard(ctx, &s, i, 4, paths[i]);
    merge_all(ctx, paths, 4, in_folder(merged, "llama", 0));
    same_state("merged", &w.state, merged);
    s.state = merged;
    same_result("merged", w.result, ctx, &s);
    close_whole(&w);
    qsae_audit *audit;
    s.state = NULL;
    s.save_logits = merged;
    s.shard_count = 2;
    assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_EINVAL, "shard_count");
    qsae_context_close(&ctx);
}

/* ---- what does not belong together ---- */

static void test_foreign(void **state)
{
    static const char *const bits[] = { "llm.int8:threshold=2", "nf4@layers=2-4" },
                      *const slices[] = { "position", "length" },
                      *const more[] = { "llm.int8:threshold=2", "nf4@layers=2-3", "none" };
    const char *const elsewhere[] = { DATA "/tiny-gemma3-sae@2" };
    qsae_context *ctx = open_context(NULL, 2);
    qsae_audit_settings base, s;
    char one[64], two[64], merged[64];
    (void)state;
    settings(&base);
    base.max_tokens = 500;
    run_shard(ctx, &base, 0, 2, one);
    in_folder(merged, "foreign", 0);
    for (int i = 0; i < 12; i++) {
        const char *field = NULL;
        s = base;
        switch (i) {
        case 0: s.context = 45; field = "context: 45 here, 60 in"; break;
        case 1: s.batch = 6; field = "batch: 6 here, 3 in"; break;
        case 2: s.max_tokens = 1100; field = "chunks: "; break;
        case 3: s.conditions = bits; field = "conditions[1].condition: \"nf4"; break;
        case 4: s.compute = QSAE_COMPUTE_BF16; field = "compute: 2 here, 1 in"; break;
        case 5: s.profile = QSAE_PROFILE_PAPER; field = "profile: \"paper\""; break;
        case 6: s.slices = slices; field = "slices[1]: \"length\""; break;
        case 7: s.saes = elsewhere; field = "saes[0].layer: 2 here"; break;
        case 8: s.top_contexts = 4; field = "top_contexts: 4 here, 3 in"; break;
        case 10: s.overlap_k = 5; field = "overlap_k: 5 here, 10 in"; break;
        case 9: s.splice = 1; field = "splice: 1 here, 0 in"; break;
        default: s.conditions = more; s.n_conditions = 3; field = "conditions (how many): 3"; break;
        }
        run_shard(ctx, &s, 1, 2, two);
        assert_fails(qsae_audit_merge(ctx, (const char *const[]){ one, two }, 2, merged, 0, NULL),
                     QSAE_EMISMATCH, field);
        assert_int_not_equal(access(merged, F_OK), 0);
        qsae_audit *audit = NULL;
        base.state = two;
        assert_fails(qsae_audit_open(ctx, &base, &audit), QSAE_EMISMATCH, field);
        assert_null(audit);
        base.state = NULL;
    }
    assert_fails(qsae_audit_merge(ctx, (const char *const[]){ one, one }, 2, merged, 0, NULL),
                 QSAE_EMISMATCH, "chunks 0 to ");
    qsae_context_close(&ctx);
}

/* Other arithmetic is refused unless it is allowed, and then listed. */
static void test_numerics(void **state)
{
    qsae_context *ctx = open_context(NULL, 1), *plain = open_context("c", 1);
    qsae_audit_settings s;
    char one[64], two[64], merged[64];
    (void)state;
    if (strcmp(qsae_context_cpu(ctx), "c") == 0) {
        print_message("skipped: this machine has level c alone\n");
        skip();
    }
    settings(&s);
    s.max_tokens = 400;
    run_shard(plain, &s, 0, 2, one);
    run_shard(ctx, &s, 1, 2, two);
    in_folder(merged, "mixed", 0);
    const char *const both[] = { one, two };
    assert_fails(qsae_audit_merge(ctx, both, 2, merged, 0, NULL), QSAE_EMISMATCH, "arithmetic");
    assert_fails(qsae_audit_merge(ctx, both, 2, merged, 2, NULL), QSAE_EINVAL, "flags");
    assert_ok(qsae_audit_merge(ctx, both, 2, merged, QSAE_MERGE_NUMERICS, NULL));
    s.state = merged;
    json_t *const result = run(ctx, &s);
    const char *const with = text_at(json_object_get(result, "numerics"), "measured_with");
    assert_non_null(strstr(with, "cpu c,"));
    assert_non_null(strchr(with, '\n'));
    json_decref(result);
    qsae_context_close(&plain);
    qsae_context_close(&ctx);
}

static void test_arguments(void **state)
{
    qsae_context *ctx = open_context(NULL, 1);
    qsae_audit_settings s;
    qsae_audit *audit;
    char path[64];
    qsae_merge_info info = { .struct_size = 1 };
    (void)state;
    settings(&s);
    in_folder(path, "none", 0);
    const char *const files[] = { path, NULL };
    s.shard_count = -1;
    assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_EINVAL, "shard_index");
    s.shard_count = 3;
    s.shard_index = 3;
    assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_EINVAL, "shard_index");
    s.shard_count = 0;
    assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_EINVAL, "shard_index");
    assert_fails(qsae_audit_merge(ctx, files, 0, path, 0, NULL), QSAE_EINVAL, "no files");
    assert_fails(qsae_audit_merge(ctx, files, 2, path, 0, NULL), QSAE_EINVAL, "files[1]");
    assert_fails(qsae_audit_merge(NULL, files, 1, path, 0, NULL), QSAE_EINVAL, "NULL");
    assert_fails(qsae_audit_merge(ctx, files, 1, NULL, 0, NULL), QSAE_EINVAL, "NULL");
    assert_fails(qsae_audit_merge(ctx, files, 1, path, 0, &info), QSAE_EINVAL, "qsae_merge_info");
    assert_fails(qsae_audit_merge(ctx, files, 1, path, 0, NULL), QSAE_ENOENT, path);
    qsae_context_close(&ctx);
}

/* ---- damage ---- */

/* A small state: no slices. */
static struct bytes small_state(qsae_context *ctx, qsae_audit_settings *s, char path[64])
{
    settings(s);
    s->max_tokens = 400;
    s->n_slices = 0;
    s->n_conditions = 1;
    s->top_contexts = 0;
    run_shard(ctx, s, 0, 2, path);
    return read_bytes(path);
}

static void test_damaged(void **state)
{
    qsae_context *ctx = open_context(NULL, 1);
    qsae_audit_settings s;
    char path[64], merged[64];
    (void)state;
    const struct bytes b = small_state(ctx, &s, path);
    const char *const files[] = { path };
    in_folder(merged, "damaged", 0);
    for (int64_t i = 0; i < (full_length() ? 2000 : 100); i++) {
        const size_t at = (size_t)draw((int64_t)b.size);
        const char before = b.data[at];
        b.data[at] ^= (char)(1 + draw(255));
        write_bytes(path, b.data, b.size);
        const int32_t st = qsae_audit_merge(ctx, files, 1, merged, 0, NULL);
        assert_int_equal(st, at == 6 || at == 7 ? QSAE_EUNSUPPORTED : QSAE_EFORMAT);
        assert_non_null(strstr(qsae_error_message(), path));
        write_bytes(path, b.data, at);
        assert_int_equal(qsae_audit_merge(ctx, files, 1, merged, 0, NULL), QSAE_EFORMAT);
        b.data[at] = before;
    }
    assert_int_not_equal(access(merged, F_OK), 0);
    free(b.data);
    qsae_context_close(&ctx);
}

/* Damage whose checksums are right: anything but a crash; what merges loads or is refused. */
static void seal(struct bytes *b)
{
    char hex[QSAE__HASH_SIZE];
    for (size_t i = 0; i + 64 < b->size; i++) { /* of the metrics in it, too */
        uint64_t size;
        if (memcmp(b->data + i, "qsaemetr", 8) != 0)
            continue;
        memcpy(&size, b->data + i + 16, sizeof size);
        if (size < 56 || size > b->size - i)
            continue;
        qsae__hash(b->data + i + 56, (size_t)size - 56, hex);
        memcpy(b->data + i + 24, hex, HASH);
    }
    qsae__hash(b->data, b->size - HASH, hex);
    memcpy(b->data + b->size - HASH, hex, HASH);
}

static void test_hostile(void **state)
{
    qsae_context *ctx = open_context(NULL, 1);
    qsae_audit_settings s;
    char path[64], bad[64], merged[64];
    int64_t taken = 0;
    (void)state;
    const struct bytes good = small_state(ctx, &s, path);
    struct bytes b = { malloc(good.size), good.size };
    assert_non_null(b.data);
    in_folder(bad, "hostile", 0);
    in_folder(merged, "hostile", 1);
    qsae_audit *audit = NULL;
    for (int64_t i = 0; i < (full_length() ? 20000 : 300); i++) {
        memcpy(b.data, good.data, good.size);
        for (int64_t k = 1 + draw(3); k > 0; k--) {
            /* Half of them in the words of small numbers, which counts are. */
            const size_t at = (size_t)draw((int64_t)good.size - HASH);
            const size_t word = at / 8 * 8;
            if (draw(2))
                b.data[at] ^= (char)(1 << draw(8));
            else
                memset(b.data + word, draw(2) ? 0xff : 0, 8);
        }
        seal(&b);
        write_bytes(bad, b.data, b.size);
        const char *const files[] = { bad };
        const int32_t st = qsae_audit_merge(ctx, files, 1, merged, 0, NULL);
        taken += st == QSAE_OK;
        if (i % 20 == 0) {
            s.state = bad;
            const int32_t opened = qsae_audit_open(ctx, &s, &audit);
            if (opened == QSAE_OK) {
                const char *text;
                size_t size;
                (void)qsae_audit_result(audit, &text, &size);
            }
            qsae_audit_close(&audit);
        }
    }
    assert_true(taken > 0); /* values of sums are anything finite */
    free(b.data);
    free(good.data);
    qsae_context_close(&ctx);
}

/* ---- killed while the state is written ---- */

static void test_killed(void **state)
{
    qsae_context *ctx = open_context(NULL, 1);
    qsae_audit_settings s;
    char one[64], two[64], target[64];
    (void)state;
    const struct bytes first = small_state(ctx, &s, one);
    run_shard(ctx, &s, 1, 2, two);
    const struct bytes second = read_bytes(two);
    in_folder(target, "killed", 0);
    int64_t seen[2] = { 0 };
    qsae_context_close(&ctx); /* a child opens its own */
    for (int64_t i = 0; i < (full_length() ? 400 : 20); i++) {
        int ready[2];
        char byte;
        assert_int_equal(pipe(ready), 0);
        write_bytes(target, first.data, first.size);
        const pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            qsae_context *own;
            const char *const files[][1] = { { one }, { two } };
            if (qsae_context_open(NULL, &own) != QSAE_OK || write(ready[1], "x", 1) != 1)
                _exit(1);
            for (int64_t k = 0;; k++) /* one, two, one, ... until it is killed */
                if (qsae_audit_merge(own, files[k % 2], 1, target, 0, NULL) != QSAE_OK)
                    _exit(1);
        }
        assert_int_equal(read(ready[0], &byte, 1), 1);
        usleep((useconds_t)draw(3000));
        assert_int_equal(kill(child, SIGKILL), 0);
        int how;
        assert_int_equal(waitpid(child, &how, 0), child);
        assert_true(WIFSIGNALED(how));
        struct bytes have = read_bytes(target);
        const bool is_second = have.size == second.size &&
                               memcmp(have.data, second.data, second.size) == 0;
        seen[is_second]++;
        if (!is_second && (have.size != first.size || memcmp(have.data, first.data, first.size)))
            fail_msg("killed: neither the previous state nor the next");
        free(have.data);
        close(ready[0]);
        close(ready[1]);
    }
    assert_true(seen[0] + seen[1] >= 20);
    free(first.data);
    free(second.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stops),    cmocka_unit_test(test_shards),
        cmocka_unit_test(test_all),      cmocka_unit_test(test_llama),
        cmocka_unit_test(test_gaps),     cmocka_unit_test(test_foreign),
        cmocka_unit_test(test_numerics), cmocka_unit_test(test_arguments),
        cmocka_unit_test(test_damaged),  cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_killed),
    };
    return cmocka_run_group_tests_name("shards", tests, make_folder, remove_folder);
}
