/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a file costs as it grows: memory at most 1 MiB + 8 bytes per byte of it, time at most 2.3
 * times as much for twice as many keys. 4,000 keys to 32,000 or 16,000, where a tree may take 2.9
 * times as much; with QSAE_LONG_TESTS=1 1,000 to a million. QSAE_TEST_SHOW=1 prints the figures.
 * test_scale PART: the shapes whose names have it.
 */
#include <unistd.h>

#include "heap.h"
#include "shapes.h"
#include "support.h"

/* Puts the length in front of a safetensors header, and `data` bytes behind it. */
static void finish_safetensors(struct out *o, size_t data)
{
    struct out whole = { 0 };
    char zeros[4096] = { 0 };
    put_int(&whole, o->n, 8);
    put(&whole, o->data, o->n);
    for (; data; data -= data < sizeof zeros ? data : sizeof zeros)
        put(&whole, zeros, data < sizeof zeros ? data : sizeof zeros);
    free(o->data);
    *o = whole;
}

static void make_safetensors(struct out *o, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        put_text(o, "%c\"m.%lld\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%lld,%lld]}",
                 i ? ',' : '{', (long long)i, (long long)i, (long long)i + 1);
    put_text(o, "}");
    finish_safetensors(o, (size_t)n);
}

/* The shortest pairs that a header may be made of. */
static void make_metadata(struct out *o, int64_t n)
{
    put_text(o, "{\"__metadata__\":");
    for (int64_t i = 0; i < n; i++)
        put_text(o, "%c\"%llx\":\"\"", i ? ',' : '{', (long long)i);
    put_text(o, "}}");
    finish_safetensors(o, 0);
}

/* A shape of n numbers. */
static void make_shape(struct out *o, int64_t n)
{
    put_text(o, "{\"a\":{\"dtype\":\"U8\",\"shape\":[");
    for (int64_t i = 0; i < n; i++)
        put_text(o, "%s    0", i ? "," : "");
    put_text(o, "],\"data_offsets\":[0,0]}}");
    finish_safetensors(o, 0);
}

/* n empty lists where a tensor's description should be. */
static void make_lists(struct out *o, int64_t n)
{
    put_text(o, "{\"a\":[");
    for (int64_t i = 0; i < n; i++)
        put_text(o, "%s[]", i ? "," : "");
    put_text(o, "]}");
    finish_safetensors(o, 0);
}

static void put_string(struct out *o, const char *s)
{
    put_int(o, strlen(s), 8);
    put(o, s, strlen(s));
}

static void make_gguf(struct out *o, int64_t n)
{
    char name[32];
    put(o, "GGUF", 4);
    put_int(o, 3, 4);
    put_int(o, (uint64_t)n / 2, 8);
    put_int(o, (uint64_t)(n - n / 2), 8);
    for (int64_t i = n / 2; i < n; i++) {
        snprintf(name, sizeof name, "k%lld", (long long)i);
        put_string(o, name);
        put_int(o, 0, 4);
        put_int(o, 1, 1);
    }
    for (int64_t i = 0; i < n / 2; i++) {
        snprintf(name, sizeof name, "t%lld", (long long)i);
        put_string(o, name);
        put_int(o, 1, 4);
        put_int(o, 1, 8);
        put_int(o, 24, 4); /* I8 */
        put_int(o, 32 * (uint64_t)i, 8);
    }
    while (o->n % 32)
        put_int(o, 0, 1);
    for (int64_t i = 0; i < 32 * (n / 2); i++)
        put_int(o, 0, 1);
}

static void make_words(struct out *o, int64_t n)
{
    put(o, "GGUF", 4);
    put_int(o, 3, 4);
    put_int(o, 0, 8);
    put_int(o, 1, 8);
    put_string(o, "words");
    put_int(o, 9, 4);
    put_int(o, 8, 4);
    put_int(o, (uint64_t)n, 8);
    for (int64_t i = 0; i < n; i++)
        put_int(o, 0, 8);
}

/* An index whose shard has no tensor of the names. */
static void make_index(struct out *o, int64_t n)
{
    put_text(o, "{\"weight_map\":");
    for (int64_t i = 0; i < n; i++)
        put_text(o, "%c\"model.layers.%lld.weight\":\"a.safetensors\"", i ? ',' : '{',
                 (long long)i);
    put_text(o, "}}");
}

static int32_t open_tensors(qsae_context *ctx, const char *folder, const char *file)
{
    char path[128];
    qsae_tensors *t = NULL;
    snprintf(path, sizeof path, "%s/%s", folder, strstr(file, ".index.json") ? "" : file);
    const int32_t status = qsae_tensors_open(ctx, path, &t);
    qsae_tensors_close(&t);
    return status;
}

static const struct shape tensors[] = {
    { "safetensors: tensors", "x.safetensors", make_safetensors, open_tensors, QSAE_OK, 0, 0 },
    { "safetensors: metadata", "x.safetensors", make_metadata, open_tensors, QSAE_OK, 0, 0 },
    { "safetensors: a shape", "x.safetensors", make_shape, open_tensors, QSAE_EFORMAT, 0, 0 },
    { "safetensors: lists", "x.safetensors", make_lists, open_tensors, QSAE_EFORMAT, 0, 0 },
    { "gguf: pairs and tensors", "x.gguf", make_gguf, open_tensors, QSAE_OK, 0, 0 },
    { "gguf: words", "x.gguf", make_words, open_tensors, QSAE_OK, 0, 0 },
    { "index", "model.safetensors.index.json", make_index, open_tensors, QSAE_EFORMAT, 0, 0 },
};

static char folder[64];
static const char *part = "";

static void write_file(const char *name, const struct out *o)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *const f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(o->data, 1, o->n, f), o->n);
    assert_int_equal(fclose(f), 0);
}

/* CPU seconds of opening it: the least of a few. */
static double open_once(qsae_context *ctx, const struct shape *s, int64_t n, int times)
{
    struct out o = { 0 };
    char path[128];
    double least = 1e9;
    s->make(&o, n);
    write_file(s->file, &o);
    for (int i = 0; i < times; i++) {
        heap_start();
        const double start = cpu_seconds();
        const int32_t status = s->open(ctx, folder, s->file);
        const double took = cpu_seconds() - start;
        const size_t per_byte = s->per_byte ? s->per_byte : 8;
        const size_t peak = heap_peak(), most = (1 << 20) + per_byte * o.n;
        if (status != s->status)
            fail_msg("%s, %lld: expected %s, found %s: %s", s->name, (long long)n,
                     qsae_status_name(s->status), qsae_status_name(status), qsae_error_message());
        if (getenv("QSAE_TEST_SHOW") && i == 0)
            print_message("# %s, %lld keys: %zu bytes, peak %zu (%.2f of the file), %.2f ms%s%s\n",
                          s->name, (long long)n, o.n, peak, (double)peak / (double)o.n, 1e3 * took,
                          status ? ", " : "", status ? qsae_error_message() : "");
        if (peak > most)
            fail_msg("%s, %lld: %zu bytes of memory for a file of %zu, at most %zu", s->name,
                     (long long)n, peak, o.n, most);
        if (heap_counts_all() && heap_now() > 65536)
            fail_msg("%s, %lld: %ld bytes are left", s->name, (long long)n, heap_now());
        least = took < least ? took : least;
    }
    free(o.data);
    snprintf(path, sizeof path, "%s/%s", folder, s->file);
    unlink(path);
    return least;
}

/* Time over all doublings, for a single one is at the mercy of caches and neighbours; a second
 * chance for the same reason. From 1,000 to a million keys caches are outgrown but once, by a tree
 * as well. */
static void grow(qsae_context *ctx, const struct shape *s, int64_t from, int64_t to)
{
    const double ratio = s->ratio > 0 && !full_length() ? s->ratio : MOST_RATIO;
    if (!strstr(s->name, part))
        return;
    double first = 0, last = 0, most = 0;
    for (int chance = 0; chance < 2; chance++) {
        most = 1;
        for (int64_t n = from; n <= to; n *= 2) {
            last = open_once(ctx, s, n, 3);
            first = n == from ? last : first;
            most *= n == from ? 1 : ratio;
        }
        /* Below half a millisecond the clock and the first pages decide; sanitizers have costs of
         * their own. */
        if (first < 5e-4 || SANITIZED || last <= most * first)
            return;
    }
    fail_msg("%s: %.3f ms for %lld, %.3f ms for %lld, at most %.1f times as much", s->name,
             1e3 * first, (long long)from, 1e3 * last, (long long)to, most);
}

static void test_growth(void **state)
{
    const int all = full_length();
    qsae_context_settings settings;
    qsae_context *ctx = NULL;
    (void)state;
    qsae_context_settings_init(&settings, sizeof settings);
    settings.threads = 1;
    heap_settings(&settings);
    assert_ok(qsae_context_open(&settings, &ctx));
    strcpy(folder, "/tmp/qsae-scale-XXXXXX");
    assert_non_null(mkdtemp(folder));
    struct out none = { 0 };
    make_safetensors(&none, 1);
    write_file("a.safetensors", &none);
    free(none.data);
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++)
        grow(ctx, &tensors[i], all ? 1000 : 4000, all ? 1024000 : 32000);
    for (size_t i = 0; i < n_text_shapes; i++)
        grow(ctx, &text_shapes[i], all ? 1000 : 4000, all ? 1024000 : 16000);
    for (size_t i = 0; i < n_gguf_shapes; i++)
        grow(ctx, &gguf_shapes[i], all ? 1000 : 4000, all ? 1024000 : 16000);
    for (size_t i = 0; i < n_corpus_shapes; i++)
        grow(ctx, &corpus_shapes[i], all ? 1000 : 4000, all ? 1024000 : 16000);
    char path[128];
    snprintf(path, sizeof path, "%s/a.safetensors", folder);
    unlink(path);
    assert_int_equal(rmdir(folder), 0);
    qsae_context_close(&ctx);
}

int main(int argc, char **argv)
{
    part = argc > 1 ? argv[1] : part;
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_growth) };
    return cmocka_run_group_tests_name("scale", tests, NULL, NULL);
}
