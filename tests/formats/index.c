/* SPDX-License-Identifier: BSD-2-Clause */
#include "formats_test.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/json.h"

#include "numpy_files.h"

#define INDEX "model.safetensors.index.json"
#define ONE(name, n) \
    "{\"" name "\":{\"dtype\":\"U8\",\"shape\":[" n "],\"data_offsets\":[0," n "]}}"

static int warnings;

static void count_warning(void *cookie, int32_t level, const char *message)
{
    (void)cookie;
    if (level == QSAE_LOG_WARNING && strstr(message, "total_size") != NULL)
        warnings++;
}

static void refused(const char *index, int32_t status, const char *part)
{
    test_write(INDEX, index, strlen(index));
    test_refused("", status, part);
}

static void test_shards(void **state)
{
    static const char good[] = "{\"metadata\":{\"total_size\":7},\"weight_map\":"
                               "{\"a\":\"s1.safetensors\",\"b\":\"s2.safetensors\"}}";
    static const char wrong[] = "{\"metadata\":{\"total_size\":8},\"weight_map\":"
                                "{\"a\":\"s1.safetensors\",\"b\":\"s2.safetensors\"}}";
    qsae_context_settings s;
    qsae_context *ctx = NULL;
    qsae__tensors *t = NULL;

    (void)state;
    qsae_context_settings_init(&s, sizeof s);
    s.log = count_warning;
    s.threads = 1;
    assert_int_equal(qsae__context_new(&s, &ctx), QSAE_OK);
    test_safetensors("s1.safetensors", ONE("a", "3"), 3);
    test_safetensors("s2.safetensors", ONE("b", "4"), 4);
    test_write(INDEX, good, sizeof good - 1);
    warnings = 0;
    assert_int_equal(qsae__tensors_load(ctx, test_folder, &t), QSAE_OK);
    assert_int_equal(qsae__tensors_len(t), 2);
    assert_non_null(strstr(qsae__tensors_find(t, "b")->file, "/s2.safetensors"));
    assert_null(qsae__tensors_metadata(t, "format"));
    assert_int_equal(warnings, 0);
    qsae__tensors_unref(&t);
    test_write(INDEX, wrong, sizeof wrong - 1);
    assert_int_equal(qsae__tensors_load(ctx, test_folder, &t), QSAE_OK);
    assert_int_equal(warnings, 1);
    qsae__tensors_unref(&t);
    qsae__context_unref(ctx);
}

static void test_index_refused(void **state)
{
    (void)state;
    test_safetensors("s1.safetensors", ONE("a", "3"), 3);
    test_safetensors("s2.safetensors", ONE("b", "4"), 4);
    test_safetensors("s3.safetensors", ONE("a", "4"), 4);
    refused("{", QSAE_EFORMAT, INDEX);
    refused("[]", QSAE_EFORMAT, "weight_map");
    refused("{}", QSAE_EFORMAT, "weight_map");
    refused("{\"weight_map\":[]}", QSAE_EFORMAT, "weight_map");
    refused("{\"weight_map\":{\"a\":1}}", QSAE_EFORMAT, "\"a\": expected string");
    refused("{\"weight_map\":{\"a\":\"s1.safetensors\",\"a\":\"s3.safetensors\"}}", QSAE_EFORMAT,
            "duplicate");
    refused("{\"weight_map\":{\"a\":\"../s1.safetensors\"}}", QSAE_EFORMAT, "plain file name");
    refused("{\"weight_map\":{\"a\":\"/etc/passwd\"}}", QSAE_EFORMAT, "plain file name");
    refused("{\"weight_map\":{\"a\":\"x/../s1.safetensors\"}}", QSAE_EFORMAT, "plain file name");
    refused("{\"weight_map\":{\"a\":\"..\"}}", QSAE_EFORMAT, "plain file name");
    refused("{\"weight_map\":{\"a\":\"\"}}", QSAE_EFORMAT, "plain file name");
    refused("{\"weight_map\":{\"a\":\"s1.safetensors\\n\"}}", QSAE_EFORMAT, "plain file name");
    refused("{\"weight_map\":{\"a\":\"s9.safetensors\"}}", QSAE_ENOENT, "s9.safetensors");
    refused("{\"weight_map\":{\"a\":\"s1.safetensors\",\"c\":\"s1.safetensors\"}}", QSAE_EFORMAT,
            "\"c\" is not in its shard");
    refused("{\"weight_map\":{\"c\":\"s1.safetensors\"}}", QSAE_EFORMAT, "\"a\" of shard");
    refused("{\"weight_map\":{\"a\":\"s1.safetensors\",\"b\":\"s1.safetensors\",\"c\":"
            "\"s2.safetensors\"}}", QSAE_EFORMAT, "\"b\" lies in shard \"s2.safetensors\"");
    refused("{\"weight_map\":{\"b\":\"s2.safetensors\",\"a\":\"s1.safetensors\",\"c\":"
            "\"s3.safetensors\"}}", QSAE_EFORMAT, "\"a\" lies in shard \"s3.safetensors\"");
    assert_int_equal(symlink("s1.safetensors", test_path("link.safetensors")), 0);
    refused("{\"weight_map\":{\"a\":\"link.safetensors\"}}", QSAE_EFORMAT, "symbolic link");
    test_remove(INDEX);
    test_remove("link.safetensors");
}

/* models--X--Y/snapshots/REVISION/FILE -> ../../blobs/HASH opens; other links there do not. */
static void test_cache_links(void **state)
{
    (void)state;
    static const char *const hash = "0123456789abcdef0123456789abcdef01234567";
    char root[] = "/tmp/qsae-cache-XXXXXX", path[256], file[256], name[80];
    qsae__tensors *t = NULL;
    assert_non_null(mkdtemp(root));
    for (const char *const *d =
             (const char *const[]){ "blobs", "snapshots", "snapshots/main", NULL }; *d; d++) {
        snprintf(path, sizeof path, "%s/%s", root, *d);
        assert_int_equal(mkdir(path, 0700), 0);
    }
    snprintf(name, sizeof name, "../../blobs/%s", hash);
    const float value = 1;
    const qsae__tensor a = { .name = "a", .data = &value, .bytes = 4, .shape = { 1 }, .rank = 1,
                             .dtype = QSAE_F32 };
    snprintf(file, sizeof file, "%s/blobs/%s", root, hash);
    assert_int_equal(qsae__safetensors_write(test_contexts[0], file, &a, 1), QSAE_OK);
    snprintf(path, sizeof path, "%s/snapshots/main/model.safetensors.index.json", root);
    static const char index[] = "{\"weight_map\":{\"a\":\"s1.safetensors\"}}";
    assert_int_equal(qsae__file_write(test_contexts[0], path, index, sizeof index - 1), QSAE_OK);
    snprintf(path, sizeof path, "%s/snapshots/main", root);
    snprintf(file, sizeof file, "%s/snapshots/main/s1.safetensors", root);
    /* The first one is right; then too short ones, which tools that see unset memory look at. */
    const char *const links[] = { name, "../../blobs/../blobs/x", "../../blobs/", "../../blobs",
                                  "." };
    for (size_t i = 0; i < sizeof links / sizeof links[0]; i++) {
        assert_int_equal(symlink(links[i], file), 0);
        assert_int_equal(qsae__tensors_load(test_contexts[0], path, &t),
                         i == 0 ? QSAE_OK : QSAE_EFORMAT);
        qsae__tensors_unref(&t);
        unlink(file);
    }
    for (const char *const *f = (const char *const[]){
             "snapshots/main/model.safetensors.index.json", "snapshots/main", "snapshots",
             "blobs/0123456789abcdef0123456789abcdef01234567", "blobs", "", NULL }; *f; f++) {
        snprintf(path, sizeof path, "%s/%s", root, *f);
        assert_int_equal(remove(path), 0);
    }
}

static void test_folders(void **state)
{
    qsae__tensors *t = NULL;

    (void)state;
    for (int i = 1; i <= 3; i++) {
        char name[32];
        snprintf(name, sizeof name, "s%d.safetensors", i);
        test_remove(name);
    }
    test_remove(INDEX);
    test_refused("", QSAE_ENOENT, "no *.safetensors");
    test_write("notes.bin", "some text", 9);
    test_refused("", QSAE_ENOENT, "no *.safetensors");
    test_write("pytorch_model.bin", "\x80\2}q\0.", 6);
    test_refused("", QSAE_EPICKLE, "pytorch_model.bin");
    test_safetensors("x.safetensors", ONE("a", "3"), 3);
    assert_int_equal(qsae__tensors_load(test_contexts[0], test_folder, &t), QSAE_OK);
    qsae__tensors_unref(&t);
    test_safetensors("y.safetensors", ONE("b", "3"), 3);
    test_refused("", QSAE_EFORMAT, "without an index");
    test_safetensors("model.safetensors", ONE("m", "3"), 3);
    assert_int_equal(qsae__tensors_load(test_contexts[0], test_folder, &t), QSAE_OK);
    assert_non_null(qsae__tensors_find(t, "m"));
    qsae__tensors_unref(&t);
}

/* An allocator that fails at the countdown-th call and ever after. */
static void *failing_alloc(void *cookie, size_t size, size_t alignment)
{
    int64_t *countdown = cookie;
    void *p = NULL;

    return --*countdown < 0 || posix_memalign(&p, alignment, size) != 0 ? NULL : p;
}

static void failing_free(void *cookie, void *p)
{
    (void)cookie;
    free(p);
}

/* Whatever allocation fails, loading says so and leaves nothing behind (under a leak checker). */
static void test_out_of_memory(void **state)
{
    static const char *const names[] = { "", "m.npz", "f.npy" };
    static const char index[] =
        "{\"weight_map\":{\"a\":\"s1.safetensors\",\"b\":\"s2.safetensors\"}}";

    (void)state;
    test_safetensors("s1.safetensors", ONE("a", "3"), 3);
    test_safetensors("s2.safetensors", ONE("b", "4"), 4);
    test_write("m.npz", npz_deflated, sizeof npz_deflated);
    test_write("f.npy", npy_fortran, sizeof npy_fortran);
    test_write(INDEX, index, sizeof index - 1);
    for (size_t i = 0; i < 3; i++) {
        int64_t countdown = 0, rounds = 0;
        int32_t status = QSAE_ENOMEM;
        for (; status != QSAE_OK && rounds < 500; rounds++) {
            qsae_context_settings s;
            qsae_context *ctx = NULL;
            qsae__tensors *t = NULL;
            qsae_context_settings_init(&s, sizeof s);
            s.threads = 1;
            s.alloc = failing_alloc;
            s.free = failing_free;
            s.alloc_cookie = &countdown;
            countdown = 1000000;
            assert_int_equal(qsae__context_new(&s, &ctx), QSAE_OK);
            countdown = rounds;
            status = qsae__tensors_load(ctx, test_path(names[i]), &t);
            if (status != QSAE_OK && status != QSAE_ENOMEM)
                fail_msg("%s %lld: %s", names[i], (long long)rounds, qsae_error_message());
            qsae__tensors_unref(&t);
            qsae__context_unref(ctx);
        }
        assert_int_equal(status, QSAE_OK);
        assert_true(rounds > 4);
    }
}

/* A file that is written to while it is read: at the first allocation of jansson's, or at one of
 * the library's. */
static struct {
    const char *text;      /* NULL: no more */
    int fd, left;
} change;

static void change_now(void)
{
    if (change.text && change.left-- == 0) {
        const size_t n = strlen(change.text);
        assert_int_equal(pwrite(change.fd, change.text, n, 0), n);
        change.text = NULL;
    }
}

static void *changing_malloc(size_t size)
{
    change_now();
    return malloc(size);
}

static void *changing_alloc(void *cookie, size_t size, size_t alignment)
{
    void *p = NULL;
    (void)cookie;
    change_now();
    return posix_memalign(&p, alignment, size) != 0 ? NULL : p;
}

static int32_t load_changing(qsae_context *ctx, const char *from, const char *to, int at)
{
    qsae__tensors *t = NULL;

    test_write(INDEX, from, strlen(from));
    change.fd = open(test_path(INDEX), O_WRONLY);
    assert_true(change.fd >= 0 && strlen(from) == strlen(to));
    change.text = to;
    change.left = at;
    const int32_t status = qsae__tensors_load(ctx, test_folder, &t);
    close(change.fd);
    qsae__tensors_unref(&t);
    return status;
}

/* Seen between the look at an index and its names, nothing of the change is trusted. */
static void test_changing(void **state)
{
#define MAP(entries) "{\"weight_map\":{" entries "}}"
    static const char good[] = MAP("\"aa\":\"s1.safetensors\"                       ");
    static const char more[] = MAP("\"aa\":\"s1.safetensors\",\"b\":\"s1.safetensors\"  ");
    static const char *const later[][2] = {
        { MAP("\"aa\":\"s1.safetensors                        "), "string without an end" },
        { MAP("\"\\q\":\"s1.safetensors\"                       "), "no JSON string" },
        { MAP("\"aa\":\"\\q.safetensors\"                       "), "no JSON string" },
    };
    qsae_context_settings s;
    qsae_context *ctx = NULL;
    bool seen = false;

    (void)state;
    test_safetensors("s1.safetensors", ONE("aa", "3"), 3);
    for (size_t i = 0; i < sizeof later / sizeof later[0]; i++) {
        json_set_alloc_funcs(changing_malloc, free);
        const int32_t status = load_changing(test_contexts[0], good, later[i][0], 0);
        json_set_alloc_funcs(malloc, free);
        assert_int_equal(status, QSAE_EFORMAT);
        assert_non_null(strstr(qsae_error_message(), later[i][1]));
        assert_null(change.text);
    }
    qsae_context_settings_init(&s, sizeof s);
    s.threads = 1;
    s.alloc = changing_alloc;
    s.free = failing_free;
    for (int at = 0; change.text == NULL; at++) {
        assert_int_equal(qsae__context_new(&s, &ctx), QSAE_OK);
        const int32_t status = load_changing(ctx, good, more, at);
        const char *const message = qsae_error_message();
        if (status == QSAE_EIO && strstr(message, INDEX ": file changed while it was read"))
            seen = true;
        else if (status != QSAE_OK)
            assert_non_null(strstr(message, "tensor \"b\" is not in its shard"));
        qsae__context_unref(ctx);
    }
    assert_true(seen);
    change.text = NULL;
}

const struct CMUnitTest index_tests[] = {
    cmocka_unit_test(test_shards),
    cmocka_unit_test(test_index_refused),
    cmocka_unit_test(test_cache_links),
    cmocka_unit_test(test_folders),
    cmocka_unit_test(test_changing),
    cmocka_unit_test(test_out_of_memory),
};
const size_t n_index_tests = sizeof index_tests / sizeof *index_tests;
