/* SPDX-License-Identifier: BSD-2-Clause */
/* Decisions of the readers of GGUF files, of indices and of folders that other tests leave open. */
#include "formats_test.h"

#include <sys/stat.h>
#include <unistd.h>

#include "formats/gguf.h"
#include "numpy_files.h"

#define INDEX "model.safetensors.index.json"
#define ONE(name, n) \
    "{\"" name "\":{\"dtype\":\"U8\",\"shape\":[" n "],\"data_offsets\":[0," n "]}}"

struct out {
    uint8_t *data;
    size_t n;
};

static void put(struct out *o, const void *p, size_t n)
{
    o->data = realloc(o->data, o->n + n + 1);
    assert_non_null(o->data);
    memcpy(o->data + o->n, p, n);
    o->n += n;
}

static void put_int(struct out *o, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++)
        put(o, &(uint8_t){ (uint8_t)(v >> (8 * i)) }, 1);
}

static void put_key(struct out *o, const char *key, uint32_t type)
{
    put_int(o, strlen(key), 8);
    put(o, key, strlen(key));
    put_int(o, type, 4);
}

static struct out begin(uint64_t tensors, uint64_t pairs)
{
    struct out o = { NULL, 0 };

    put(&o, "GGUF\3\0\0\0", 8);
    put_int(&o, tensors, 8);
    put_int(&o, pairs, 8);
    return o;
}

static void save(struct out *o, const char *name)
{
    test_write(name, o->data, o->n);
    free(o->data);
}

static void test_keys(void **state)
{
    char *const key = malloc(65537);

    (void)state;
    assert_non_null(key);
    memset(key, 'k', 65536);
    for (size_t n = 65535; n <= 65536; n++) {
        qsae__tensors *t = NULL;
        struct out o = begin(0, 1);
        key[n] = '\0';
        put_key(&o, key, QSAE__GGUF_U8);
        put_int(&o, 1, 1);
        save(&o, "k.gguf");
        if (n == 65536) {
            test_refused("k.gguf", QSAE_EFORMAT, "key at byte 32: expected 1 to 65535 bytes");
            continue;
        }
        assert_int_equal(qsae__tensors_load(test_contexts[0], test_path("k.gguf"), &t), QSAE_OK);
        assert_string_equal(qsae__gguf_key(qsae__tensors_gguf(t), 0), key);
        qsae__tensors_unref(&t);
        key[n] = 'k';
    }
    free(key);
}

/* Types of elements by their numbers in ggml.h. */
static void test_types(void **state)
{
    static const struct {
        uint32_t type;
        int32_t dtype;
        int bytes;
    } list[] = { { 0, QSAE_F32, 4 }, { 1, QSAE_F16, 2 }, { 24, QSAE_I8, 1 }, { 25, QSAE_I16, 2 },
                 { 26, QSAE_I32, 4 }, { 27, QSAE_I64, 8 }, { 28, QSAE_F64, 8 },
                 { 30, QSAE_BF16, 2 }, { 8, QSAE_Q8_0, 0 }, { 2, QSAE_Q4_0, 0 } };

    (void)state;
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        struct out o = begin(1, 0);
        qsae__tensors *t = NULL;
        const int bytes = list[i].type == 8 ? 34 : list[i].type == 2 ? 18 : 32 * list[i].bytes;
        put_int(&o, 1, 8);
        put(&o, "x", 1);
        put_int(&o, 1, 4);
        put_int(&o, 32, 8);
        put_int(&o, list[i].type, 4);
        put_int(&o, 0, 8);
        while (o.n % 32 != 0)
            put_int(&o, 0, 1);
        for (int k = 0; k < bytes; k++)
            put_int(&o, 0, 1);
        save(&o, "k.gguf");
        assert_int_equal(qsae__tensors_load(test_contexts[0], test_path("k.gguf"), &t), QSAE_OK);
        assert_int_equal(qsae__tensors_at(t, 0)->dtype, list[i].dtype);
        assert_int_equal(qsae__tensors_at(t, 0)->bytes, bytes);
        qsae__tensors_unref(&t);
    }
    test_remove("k.gguf");
}

/* What a file without the key, or with one of another type, answers. */
static void test_answers(void **state)
{
    struct out o = begin(0, 5);
    qsae__tensors *t = NULL;
    int64_t i = 77;
    double d = 77;
    bool b = true;
    const char *s = "77";
    uint64_t n = 77;
    int32_t present = 1;
    qsae__gguf_array a = { .count = 77 };

    (void)state;
    put_key(&o, "f64", QSAE__GGUF_F64);
    put_int(&o, 0x4004000000000000, 8); /* 2.5 */
    put_key(&o, "bools", QSAE__GGUF_ARRAY);
    put_int(&o, QSAE__GGUF_BOOL, 4);
    put_int(&o, 3, 8);
    put(&o, "\1\0\1", 3);
    put_key(&o, "false", QSAE__GGUF_BOOL);
    put_int(&o, 0, 1);
    put_key(&o, "bad", QSAE__GGUF_STRING);
    put_int(&o, 1, 8);
    put(&o, "\xff", 1);
    put_key(&o, "u64", QSAE__GGUF_U64);
    put_int(&o, INT64_MAX, 8);
    save(&o, "k.gguf");
    assert_int_equal(qsae__tensors_load(test_contexts[0], test_path("k.gguf"), &t), QSAE_OK);
    const qsae__gguf *const g = qsae__tensors_gguf(t);
    assert_int_equal(qsae__gguf_f64(g, "f64", true, &d, &present), QSAE_OK);
    assert_true(d == 2.5 && present == 1);
    assert_int_equal(qsae__gguf_i64(g, "f64", true, 0, 9, &i, &present), QSAE_EFORMAT);
    assert_true(i == 77 && present == 0);
    assert_int_equal(qsae__gguf_i64(g, "u64", true, INT64_MAX, INT64_MAX, &i, NULL), QSAE_OK);
    assert_true(i == INT64_MAX);
    assert_int_equal(qsae__gguf_i64(g, "u64", true, 0, INT64_MAX - 1, &i, NULL), QSAE_EFORMAT);
    assert_non_null(strstr(qsae_error_message(), "u64: expected 0 to 9223372036854775806, found"));
    assert_int_equal(qsae__gguf_get_array(g, "bools", true, QSAE__GGUF_BOOL, &a, NULL), QSAE_OK);
    assert_true(a.count == 3 && qsae__gguf_element(&a, 0) == 1 && qsae__gguf_element(&a, 1) == 0);
    assert_int_equal(qsae__gguf_bool(g, "false", true, &b, NULL), QSAE_OK);
    assert_false(b);
    present = 1;
    assert_int_equal(qsae__gguf_str(g, "bad", true, &s, &n, &present), QSAE_EFORMAT);
    assert_non_null(strstr(qsae_error_message(), "bad: not UTF-8"));
    assert_int_equal(present, 0);
    assert_int_equal(qsae__gguf_str(g, "bad", true, &s, &n, NULL), QSAE_EFORMAT);
    assert_int_equal(qsae__gguf_bool(g, "f64", true, &b, &present), QSAE_EFORMAT);
    assert_non_null(strstr(qsae_error_message(), "f64: expected a bool, found f64"));
    assert_int_equal(qsae__gguf_f64(g, "bools", true, &d, NULL), QSAE_EFORMAT);
    assert_non_null(strstr(qsae_error_message(), "expected a number, found array of numbers"));
    assert_int_equal(qsae__gguf_get_array(g, "bools", true, QSAE__GGUF_I16, &a, NULL),
                     QSAE_EFORMAT);
    assert_non_null(strstr(qsae_error_message(), "expected an array of i16, found array of num"));
    assert_int_equal(qsae__gguf_get_array(g, "bools", true, QSAE__GGUF_U8, &a, NULL), QSAE_EFORMAT);
    assert_non_null(strstr(qsae_error_message(), "expected an array of u8, found array of num"));
    assert_int_equal(qsae__gguf_get_array(g, "f64", true, -1, &a, NULL), QSAE_EFORMAT);
    assert_non_null(strstr(qsae_error_message(), "expected an array, found f64"));
    for (int required = 0; required < 2; required++) {
        const int32_t want = required ? QSAE_EFORMAT : QSAE_OK;
        d = 77;
        b = true;
        a.count = 77;
        assert_int_equal(qsae__gguf_f64(g, "no", required, &d, &present), want);
        assert_true(d == 77 && present == 0);
        assert_int_equal(qsae__gguf_bool(g, "no", required, &b, NULL), want);
        assert_true(b);
        assert_int_equal(qsae__gguf_str(g, "no", required, &s, &n, NULL), want);
        assert_true(n == 77);
        assert_int_equal(qsae__gguf_get_array(g, "no", required, -1, &a, NULL), want);
        assert_int_equal(a.count, 77);
    }
    assert_non_null(strstr(qsae_error_message(), "key \"no\" (array) is missing"));
    qsae__tensors_unref(&t);
}

/* Every first byte of a UTF-8 sequence, and the least and greatest bytes behind it. */
static void test_texts(void **state)
{
    static const struct {
        const char *text;
        bool good;
    } list[] = {
        { "a", true }, { "\x7f", true }, { "\x80", false }, { "\xbf", false },
        { "\xc1\xbf", false }, { "\xc2\x80", true }, { "\xc2\x7f", false }, { "\xc2\xbf", true },
        { "\xc2\xc0", false }, { "\xdf\xbf", true }, { "\xe0\x9f\xbf", false },
        { "\xe0\xa0\x80", true }, { "\xe0\xbf\xbf", true }, { "\xe1\x80\x80", true },
        { "\xe1\x80\x7f", false }, { "\xe1\x80\xc0", false }, { "\xed\x9f\xbf", true },
        { "\xed\xa0\x80", false }, { "\xee\x80\x80", true }, { "\xef\xbf\xbf", true },
        { "\xf0\x8f\xbf\xbf", false }, { "\xf0\x90\x80\x80", true }, { "\xf3\xbf\xbf\xbf", true },
        { "\xf3\xbf\x7f\xbf", false }, { "\xf3\xbf\xbf\x7f", false }, { "\xf3\xbf\xbf\xc0", false },
        { "\xf4\x8f\xbf\xbf", true }, { "\xf4\x90\x80\x80", false }, { "\xf5\x80\x80\x80", false },
        { "\xe1\x80", false }, { "\xf1\x80\x80", false }, { "\xc2", false }, { "a\xc2\x80z", true },
    };

    (void)state;
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        struct out o = begin(0, 1);
        qsae__tensors *t = NULL;
        put_key(&o, list[i].text, QSAE__GGUF_U8);
        put_int(&o, 1, 1);
        save(&o, "k.gguf");
        if (!list[i].good) {
            test_refused("k.gguf", QSAE_EFORMAT, "bytes of UTF-8");
            continue;
        }
        assert_int_equal(qsae__tensors_load(test_contexts[0], test_path("k.gguf"), &t), QSAE_OK);
        assert_string_equal(qsae__gguf_key(qsae__tensors_gguf(t), 0), list[i].text);
        qsae__tensors_unref(&t);
    }
}

/* A part of a split file with one tensor; total < 0: it does not say how many there are. */
static void make_part(const char *name, int no, int count, int total, const char *tensor)
{
    struct out o = begin(1, total < 0 ? 2 : 3);

    put_key(&o, "split.no", QSAE__GGUF_U16);
    put_int(&o, (uint64_t)no, 2);
    put_key(&o, "split.count", QSAE__GGUF_U16);
    put_int(&o, (uint64_t)count, 2);
    if (total >= 0) {
        put_key(&o, "split.tensors.count", QSAE__GGUF_I32);
        put_int(&o, (uint64_t)total, 4);
    }
    put_int(&o, strlen(tensor), 8);
    put(&o, tensor, strlen(tensor));
    put_int(&o, 1, 4);
    put_int(&o, 4, 8);
    put_int(&o, 24, 4);
    put_int(&o, 0, 8);
    while (o.n % 32 != 0)
        put_int(&o, 0, 1);
    put(&o, "abcd", 4);
    save(&o, name);
}

static void test_split_parts(void **state)
{
    qsae__tensors *t = NULL;
    char here[512];

    (void)state;
    make_part("m-00001-of-00002.gguf", 0, 2, -1, "a");
    make_part("m-00002-of-00002.gguf", 1, 2, -1, "b");
    /* as a name in the folder we are in */
    assert_non_null(getcwd(here, sizeof here));
    assert_int_equal(chdir(test_folder), 0);
    assert_int_equal(qsae__tensors_load(test_contexts[0], "m-00001-of-00002.gguf", &t), QSAE_OK);
    assert_int_equal(qsae__tensors_len(t), 2);
    qsae__tensors_unref(&t);
    make_part("long-name-of-one-00003.gguf", 0, 2, -1, "a");
    assert_int_equal(qsae__tensors_load(test_contexts[0], "long-name-of-one-00003.gguf", &t),
                     QSAE_EFORMAT);
    assert_non_null(strstr(qsae_error_message(), "expected a name ending in -00001-of-00002.gguf"));
    assert_int_equal(chdir(here), 0);
    make_part("m-00002-of-00002.gguf", 0, 2, -1, "b");
    test_refused("m-00001-of-00002.gguf", QSAE_EFORMAT,
                 "expected part 1 of 2 (split.no, split.count), found part 0 of 2");
    make_part("m-00002-of-00002.gguf", 1, 2, -1, "a");
    test_refused("m-00001-of-00002.gguf", QSAE_EFORMAT, "m-00001-of-00002.gguf and ");
    make_part("s.gguf", 0, 1, 9, "a"); /* of one part: alone */
    assert_int_equal(qsae__tensors_load(test_contexts[0], test_path("s.gguf"), &t), QSAE_OK);
    qsae__tensors_unref(&t);
    struct out o = begin(0, 1);
    put_key(&o, "split.count", QSAE__GGUF_STRING);
    put_int(&o, 1, 8);
    put(&o, "2", 1);
    save(&o, "s.gguf");
    test_refused("s.gguf", QSAE_EFORMAT, "split.count: expected an integer, found string");
    o = begin(0, 2);
    put_key(&o, "split.count", QSAE__GGUF_U8);
    put_int(&o, 2, 1);
    put_key(&o, "split.no", QSAE__GGUF_STRING);
    put_int(&o, 1, 8);
    put(&o, "0", 1);
    save(&o, "s.gguf");
    test_refused("s.gguf", QSAE_EFORMAT, "split.no: expected an integer");
    static const char *const left[] = { "k.gguf", "s.gguf", "m-00001-of-00002.gguf",
                                        "m-00002-of-00002.gguf", "long-name-of-one-00003.gguf" };
    for (size_t i = 0; i < 5; i++)
        test_remove(left[i]);
}

/* Which names in a folder are later parts of the file before them. */
static void test_later_parts(void **state)
{
    static const struct {
        const char *first, *second;
        bool one; /* the second is a part of the first */
    } list[] = {
        { "m-00001-of-00002.gguf", "m-00002-of-00002.gguf", true },
        { "m-00001-of-00002.gguf", "m-00002-on-00002.gguf", false },
        { "m-00001-of-00002.gguf", "mm-00002-of-00002.gguf", false },
        { "m-00001-of-00002.gguf", "n-00002-of-00002.gguf", false },
        { "m-00001-of-00002.gguf", "m-00002-of-00003.gguf", false },
        { "m-00001-of-00002.gguf", "z.gguf", false },
    };
    qsae__tensors *t = NULL;

    (void)state;
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        make_part(list[i].first, 0, 2, 2, "a");
        make_part(list[i].second, 1, 2, 2, "b");
        if (list[i].one) {
            assert_int_equal(qsae__tensors_load(test_contexts[0], test_folder, &t), QSAE_OK);
            assert_int_equal(qsae__tensors_len(t), 2);
            qsae__tensors_unref(&t);
        } else {
            test_refused("", QSAE_EFORMAT, "without an index");
        }
        test_remove(list[i].first);
        test_remove(list[i].second);
    }
}

/* An index beside a snapshot's folder: which links it may name. */
static void test_links(void **state)
{
    static const char h40[] = "0123456789abcdef0123456789abcdef01234567";
    static const char h64[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    char folder[600], target[200], path[800], blob[800], *const name = target + 12;
    const struct {
        const char *digits, *more;
        int kind; /* of the blob: 0 none, 1 a file, 2 a folder */
        bool followed;
    } list[] = {
        { h40, "", 1, true }, { h64, "", 1, true }, { h40, "", 0, false }, { h40, "", 2, false },
        { h40 + 1, "", 1, false }, { h40, "0", 1, false }, { h64 + 1, "", 1, false },
        { h40, "x", 1, false }, { h64, "x", 1, false },
    };
    static const char index[] = "{\"weight_map\":{\"a\":\"s\"}}";

    (void)state;
    snprintf(path, sizeof path, "%s/blobs", test_folder);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof path, "%s/snapshots", test_folder);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(folder, sizeof folder, "%s/snapshots/main", test_folder);
    assert_int_equal(mkdir(folder, 0700), 0);
    snprintf(path, sizeof path, "%s/" INDEX, folder);
    assert_int_equal(qsae__file_write(test_contexts[0], path, index, sizeof index - 1), QSAE_OK);
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        qsae__tensors *t = NULL;
        snprintf(target, sizeof target, "../../blobs/%s%s", list[i].digits, list[i].more);
        snprintf(blob, sizeof blob, "blobs/%s", name);
        if (list[i].kind == 1)
            test_safetensors(blob, ONE("a", "3"), 3);
        snprintf(blob, sizeof blob, "%s/blobs/%s", test_folder, name);
        if (list[i].kind == 2)
            assert_int_equal(mkdir(blob, 0700), 0);
        snprintf(path, sizeof path, "%s/s", folder);
        assert_int_equal(symlink(target, path), 0);
        const int32_t status = qsae__tensors_load(test_contexts[0], folder, &t);
        assert_int_equal(status, list[i].followed ? QSAE_OK : QSAE_EFORMAT);
        if (!list[i].followed)
            assert_non_null(strstr(qsae_error_message(), "is a symbolic link"));
        qsae__tensors_unref(&t);
        unlink(path);
        remove(blob);
    }
    static const char *const made[] = { "snapshots/main/model.safetensors.index.json",
                                        "snapshots/main", "snapshots", "blobs" };
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(remove(test_path(made[i])), 0);
    /* a name that the system refuses to look up */
    char wide[400], map[500];
    memset(wide, 'w', 300);
    wide[300] = '\0';
    snprintf(map, sizeof map, "{\"weight_map\":{\"a\":\"%s\"}}", wide);
    test_write(INDEX, map, strlen(map));
    test_refused("", QSAE_EIO, "cannot stat");
    test_remove(INDEX);
}

/* An allocator that fails at the countdown-th call and ever after. */
static void *failing_alloc(void *cookie, size_t size, size_t alignment)
{
    int64_t *const countdown = cookie;
    void *p = NULL;

    return --*countdown < 0 || posix_memalign(&p, alignment, size) != 0 ? NULL : p;
}

static void plain_free(void *cookie, void *p)
{
    (void)cookie;
    free(p);
}

/* Whatever allocation fails, loading says so: tensors with metadata, split files, arrays that are
 * turned round, folders. */
static void test_memory(void **state)
{
    static const char *const names[] = { "one", "m-00001-of-00002.gguf", "f.npy", "f.npz", "" };
    int64_t countdown = 1000000;
    qsae_context_settings s;
    qsae_context *ctx = NULL;

    (void)state;
    qsae_context_settings_init(&s, sizeof s);
    s.threads = 1;
    s.alloc = failing_alloc;
    s.free = plain_free;
    s.alloc_cookie = &countdown;
    assert_int_equal(qsae__context_new(&s, &ctx), QSAE_OK);
    test_safetensors("one", "{\"__metadata__\":{\"k\":\"v\"},\"a\":{\"dtype\":\"U8\",\"shape\":[3],"
                     "\"data_offsets\":[0,3]}}", 3);
    make_part("m-00001-of-00002.gguf", 0, 2, 2, "a");
    make_part("m-00002-of-00002.gguf", 1, 2, 2, "b");
    test_write("f.npy", npy_fortran, sizeof npy_fortran);
    test_write("f.npz", npz_deflated, sizeof npz_deflated);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        int32_t status = QSAE_ENOMEM;
        int64_t rounds = 0;
        for (; status == QSAE_ENOMEM && rounds < 500; rounds++) {
            qsae__tensors *t = NULL;
            countdown = rounds;
            status = qsae__tensors_load(ctx, test_path(names[i]), &t);
            countdown = 1000000;
            if (status != QSAE_OK && status != QSAE_ENOMEM)
                fail_msg("%s %lld: %s", names[i], (long long)rounds, qsae_error_message());
            assert_true((t != NULL) == (status == QSAE_OK));
            qsae__tensors_unref(&t);
        }
        assert_int_equal(status, QSAE_OK);
        assert_true(rounds > 4);
        if (i == 3) /* the folder then has one file that counts */
            test_remove("f.npz");
    }
    qsae__context_unref(ctx);
}

const struct CMUnitTest part_tests[] = {
    cmocka_unit_test(test_keys),         cmocka_unit_test(test_answers),
    cmocka_unit_test(test_types),
    cmocka_unit_test(test_texts),        cmocka_unit_test(test_split_parts),
    cmocka_unit_test(test_later_parts),  cmocka_unit_test(test_links),
    cmocka_unit_test(test_memory),
};
const size_t n_part_tests = sizeof part_tests / sizeof part_tests[0];
