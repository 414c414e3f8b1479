/* SPDX-License-Identifier: BSD-2-Clause */
#include "formats_test.h"

#include <time.h>
#include <unistd.h>

#include "formats/writer.h"

#define T(dtype, shape, begin, end) \
    "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"

/* Every line a file that must be refused: header, data bytes, status, part of the message. */
static const struct {
    const char *header;
    size_t data;
    int32_t status;
    const char *part;
} refused[] = {
    /* not a header */
    { "", 0, QSAE_EFORMAT, ":1:" },
    { "[]", 0, QSAE_EFORMAT, "expected object, found array" },
    { "\"a\"", 0, QSAE_EFORMAT, "expected object" },
    { "null", 0, QSAE_EFORMAT, "expected object" },
    { "{", 0, QSAE_EFORMAT, ":1:" },
    { "{}{}", 0, QSAE_EFORMAT, ":1:" },
    { "{}\xff", 0, QSAE_EFORMAT, "UTF-8" },
    { "{\"\xc3\x28\":" T("U8", "[4]", "0", "4") "}", 4, QSAE_EFORMAT, "UTF-8" },
    { "{\"a\\u0000\":" T("U8", "[4]", "0", "4") "}", 4, QSAE_EFORMAT, "NUL" },
    { "{\"a\":" T("U8", "[4]", "0", "4") ",}", 4, QSAE_EFORMAT, ":1:" },
    /* duplicate keys: checker and loader must not see different tensors */
    { "{\"a\":" T("U8", "[4]", "0", "4") ",\"a\":" T("F32", "[1]", "0", "4") "}", 4, QSAE_EFORMAT,
      "duplicate" },
    { "{\"a\":{\"dtype\":\"U8\",\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
      QSAE_EFORMAT, "duplicate" },
    { "{\"a\":" T("U8", "[2]", "0", "2") ",\"\\u0061\":" T("U8", "[2]", "2", "4") "}", 4,
      QSAE_EFORMAT, "duplicate" },
    { "{\"__metadata__\":{},\"__metadata__\":{}}", 0, QSAE_EFORMAT, "duplicate" },
    /* entries */
    { "{\"a\":7}", 0, QSAE_EFORMAT, "\"a\"" },
    { "{\"a\":{}}", 0, QSAE_EFORMAT, "\"a\"" },
    { "{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, QSAE_EFORMAT, "\"a\"" },
    { "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":1}}", 1, QSAE_EFORMAT,
      "\"a\"" },
    { "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"offsets\":[0,1]}}", 1, QSAE_EFORMAT,
      "data_offsets" },
    { "{\"a\":" T("F33", "[1]", "0", "4") "}", 4, QSAE_EFORMAT, "F33" },
    { "{\"a\":" T("f32", "[1]", "0", "4") "}", 4, QSAE_EFORMAT, "f32" },
    { "{\"a\":{\"dtype\":1,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, QSAE_EFORMAT, "dtype" },
    { "{\"a\":" T("U8", "4", "0", "4") "}", 4, QSAE_EFORMAT, "shape" },
    { "{\"a\":" T("U8", "[-4]", "0", "4") "}", 4, QSAE_EFORMAT, "shape[0]" },
    { "{\"a\":" T("U8", "[2,2.0]", "0", "4") "}", 4, QSAE_EFORMAT, "shape[1]" },
    { "{\"a\":" T("U8", "[\"4\"]", "0", "4") "}", 4, QSAE_EFORMAT, "shape[0]" },
    { "{\"a\":" T("U8", "[null]", "0", "4") "}", 4, QSAE_EFORMAT, "shape[0]" },
    { "{\"a\":" T("U8", "[[4]]", "0", "4") "}", 4, QSAE_EFORMAT, "shape[0]" },
    { "{\"a\":" T("U8", "[4e0]", "0", "4") "}", 4, QSAE_EFORMAT, "shape[0]" },
    { "{\"a\":" T("U8", "[9223372036854775808]", "0", "4") "}", 4, QSAE_EFORMAT, "integer" },
    { "{\"a\":" T("U8", "[1,1,1,1,1,1,1,1,4]", "0", "4") "}", 4, QSAE_EUNSUPPORTED, "rank 9" },
    /* sizes that wrap */
    { "{\"a\":" T("U8", "[4294967296,4294967296]", "0", "0") "}", 0, QSAE_EFORMAT, "overflow" },
    { "{\"a\":" T("U8", "[4294967296,4294967297]", "0", "4") "}", 4, QSAE_EFORMAT, "overflow" },
    { "{\"a\":" T("F64", "[2305843009213693952]", "0", "0") "}", 0, QSAE_EFORMAT, "overflow" },
    { "{\"a\":" T("F32", "[9223372036854775807]", "0", "4") "}", 4, QSAE_EFORMAT, "overflow" },
    { "{\"a\":" T("F64", "[4611686018427387904,4]", "0", "0") "}", 0, QSAE_EFORMAT, "overflow" },
    { "{\"a\":" T("F4", "[3]", "0", "1") "}", 1, QSAE_EFORMAT, "whole byte" },
    { "{\"a\":" T("F6_E2M3", "[2]", "0", "1") "}", 1, QSAE_EFORMAT, "whole byte" },
    /* offsets */
    { "{\"a\":" T("U8", "[4]", "0", "5") "}", 5, QSAE_EFORMAT, "data_offsets hold 5" },
    { "{\"a\":" T("U8", "[4]", "0", "3") "}", 3, QSAE_EFORMAT, "shape needs 4" },
    { "{\"a\":" T("U8", "[4]", "4", "0") "}", 4, QSAE_EFORMAT, "data_offsets" },
    { "{\"a\":" T("U8", "[4]", "-4", "0") "}", 4, QSAE_EFORMAT, "data_offsets" },
    { "{\"a\":" T("U8", "[4]", "0.0", "4.0") "}", 4, QSAE_EFORMAT, "data_offsets" },
    { "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4,8]}}", 8, QSAE_EFORMAT,
      "data_offsets" },
    { "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0]}}", 4, QSAE_EFORMAT,
      "data_offsets" },
    { "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":{}}}", 4, QSAE_EFORMAT,
      "data_offsets" },
    { "{\"a\":" T("U8", "[4]", "0", "4") "}", 3, QSAE_EFORMAT, "truncated" },
    { "{\"a\":" T("U8", "[4]", "0", "4") "}", 0, QSAE_EFORMAT, "truncated" },
    { "{\"a\":" T("U8", "[0]", "9223372036854775807", "9223372036854775807") "}", 0, QSAE_EFORMAT,
      "truncated" },
    /* holes, overlaps, trailing bytes */
    { "{\"a\":" T("U8", "[4]", "0", "4") "}", 5, QSAE_EFORMAT, "after the last tensor" },
    { "{}", 1, QSAE_EFORMAT, "after the last tensor" },
    { "{\"a\":" T("U8", "[4]", "1", "5") "}", 5, QSAE_EFORMAT, "hole" },
    { "{\"a\":" T("U8", "[2]", "0", "2") ",\"b\":" T("U8", "[2]", "3", "5") "}", 5, QSAE_EFORMAT,
      "hole" },
    { "{\"a\":" T("U8", "[3]", "0", "3") ",\"b\":" T("U8", "[2]", "2", "4") "}", 4, QSAE_EFORMAT,
      "overlap" },
    { "{\"a\":" T("U8", "[4]", "0", "4") ",\"b\":" T("I8", "[4]", "0", "4") "}", 4, QSAE_EFORMAT,
      "overlap" },
    { "{\"a\":" T("U8", "[0]", "2", "2") ",\"b\":" T("U8", "[4]", "0", "4") "}", 4, QSAE_EFORMAT,
      "overlap" },
    /* metadata */
    { "{\"__metadata__\":[]}", 0, QSAE_EFORMAT, "__metadata__" },
    { "{\"__metadata__\":{\"a\":1}}", 0, QSAE_EFORMAT, "__metadata__ \"a\"" },
    { "{\"__metadata__\":{\"a\":{\"b\":\"c\"}}}", 0, QSAE_EFORMAT, "found object" },
    { "{\"__metadata__\":null}", 0, QSAE_EFORMAT, "found null" },
};

static void test_headers_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        char name[32];
        snprintf(name, sizeof name, "bad-%zu", i);
        test_safetensors(name, refused[i].header, refused[i].data);
        test_refused(name, refused[i].status, refused[i].part);
    }
}

static void test_files_refused(void **state)
{
    static const unsigned char huge[] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, '{',
      '}' };
    static const unsigned char wrap[] = { 0xf8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, '{',
      '}' };
    static const unsigned char cap[] = { 0x01, 0xe1, 0xf5, 0x05, 0, 0, 0, 0, '{', '}' };
    static const unsigned char over[] = { 3, 0, 0, 0, 0, 0, 0, 0, '{', '}' };
    char deep[8 + 200];

    (void)state;
    test_write("empty", "", 0);
    test_refused("empty", QSAE_EFORMAT, "too few");
    test_write("seven", "\0\0\0\0\0\0\0", 7);
    test_refused("seven", QSAE_EFORMAT, "too few");
    test_write("huge", huge, sizeof huge);
    test_refused("huge", QSAE_EFORMAT, "exceeds");
    test_write("wrap", wrap, sizeof wrap);
    test_refused("wrap", QSAE_EFORMAT, "exceeds");
    for (size_t i = 4; i < 8; i++) { /* each of the upper bytes alone */
        unsigned char length[10] = { 2, 0, 0, 0, 0, 0, 0, 0, '{', '}' };
        length[i] = 1;
        test_write("high", length, sizeof length);
        test_refused("high", QSAE_EFORMAT, "exceeds");
    }
    test_write("cap", cap, sizeof cap);
    test_refused("cap", QSAE_EFORMAT, "exceeds");
    test_write("over", over, sizeof over);
    test_refused("over", QSAE_EFORMAT, "truncated");
    memset(deep, 0, 8);
    deep[0] = (char)200;
    for (int i = 0; i < 200; i += 5)
        memcpy(deep + 8 + i, "{\"a\":", 5);
    memset(deep + 8 + 70, '[', 130);
    test_write("deep", deep, sizeof deep);
    test_refused("deep", QSAE_EFORMAT, "deeper");
    test_write("text", "Lorem ipsum dolor sit amet", 26);
    test_refused("text", QSAE_EFORMAT, "not a safetensors file");
    test_write("gguf", "GGUF\3\0\0\0\0\0\0\0\0\0\0\0", 16);
    test_refused("gguf", QSAE_EFORMAT, "header"); /* the other reader was chosen */
    test_refused("missing", QSAE_ENOENT, "missing");
}

/* Cut after every byte, a good file is refused at every length. */
static void test_every_truncation(void **state)
{
    static const char header[] = "{\"a\":" T("U8", "[2,3]", "0", "6") ",\"b\":" T("F32", "[1]", "6",
                                                                                  "10")
                                 "}";
    unsigned char file[8 + sizeof header - 1 + 10] = { sizeof header - 1 };

    (void)state;
    memcpy(file + 8, header, sizeof header - 1);
    for (size_t n = 0; n < sizeof file; n++) {
        test_write("cut", file, n);
        test_refused("cut", QSAE_EFORMAT, "cut");
    }
}

/* Any one damaged byte gives a set or an error, never a crash (run under a sanitizer). */
static void test_every_byte_damaged(void **state)
{
    static const char header[] = "{\"a\":" T("U8", "[2,3]", "0", "6") "}";
    static const unsigned char values[] = { 0, 0xff, '{', '"', '9', '-' };
    unsigned char file[8 + sizeof header - 1 + 6] = { sizeof header - 1 };

    (void)state;
    memcpy(file + 8, header, sizeof header - 1);
    for (size_t i = 0; i < sizeof file - 6; i++)
        for (size_t v = 0; v < sizeof values; v++) {
            const unsigned char keep = file[i];
            qsae__tensors *t = NULL;
            file[i] = values[v];
            test_write("flip", file, sizeof file);
            file[i] = keep;
            if (qsae__tensors_load(test_contexts[1], test_path("flip"), &t) == QSAE_OK)
                assert_int_equal(qsae__tensors_len(t), 1);
            qsae__tensors_unref(&t);
        }
}

static void test_good(void **state)
{
    /* Leading and trailing white space, unaligned data, zero size, scalar, sub-byte, metadata. */
    static const char header[] =
        " \n{\"z\":" T("F32", "[2]", "1", "9") ",\"__metadata__\":{\"format\":\"pt\"},\"a\":" T(
            "U8", "[]", "0", "1") ",\"e\":" T("F64", "[3,0,2]", "9", "9") ",\"q\":" T(
            "F4", "[2,2]", "9", "11") "}   ";

    (void)state;
    test_safetensors("good", header, 11);
    for (int mode = 0; mode < 2; mode++) {
        qsae__tensors *t = NULL, *second;
        const qsae__tensor *z;
        const int64_t two[] = { 2 }, three[] = { 3 }, any[] = { -1 };
        assert_int_equal(qsae__tensors_load(test_contexts[mode], test_path("good"), &t), QSAE_OK);
        assert_int_equal(qsae__tensors_len(t), 4);
        assert_string_equal(qsae__tensors_at(t, 0)->name, "a");
        assert_string_equal(qsae__tensors_at(t, 3)->name, "z");
        assert_null(qsae__tensors_at(t, 4));
        assert_null(qsae__tensors_at(t, -1));
        z = qsae__tensors_find(t, "z");
        assert_int_equal(z->dtype, QSAE_F32);
        assert_int_equal(((const unsigned char *)z->data)[7], 8);
        assert_string_equal(z->file, test_path("good"));
        assert_int_equal(qsae__tensors_find(t, "e")->bytes, 0);
        assert_int_equal(qsae__tensors_find(t, "q")->bytes, 2);
        assert_null(qsae__tensors_find(t, "zz"));
        assert_string_equal(qsae__tensors_metadata(t, "format"), "pt");
        assert_null(qsae__tensors_metadata(t, "none"));
        assert_int_equal(qsae__tensors_need(t, "z", 1, two, &z), QSAE_OK);
        assert_int_equal(qsae__tensors_need(t, "z", 1, any, &z), QSAE_OK);
        assert_int_equal(qsae__tensors_need(t, "z", -1, NULL, &z), QSAE_OK);
        assert_int_equal(qsae__tensors_need(t, "z", 1, three, &z), QSAE_EMISMATCH);
        assert_null(z);
        assert_non_null(strstr(qsae_error_message(), "\"z\": expected shape [3], found [2]"));
        assert_int_equal(qsae__tensors_need(t, "z", 2, NULL, &z), QSAE_EMISMATCH);
        assert_int_equal(qsae__tensors_need(t, "y", 1, two, &z), QSAE_ENOENT);
        assert_non_null(strstr(qsae_error_message(), "\"y\""));
        second = qsae__tensors_ref(t);
        qsae__tensors_unref(&t);
        assert_null(t);
        assert_int_equal(qsae__tensors_len(second), 4);
        qsae__tensors_unref(&second);
        qsae__tensors_unref(&second);
    }
}

static void test_no_tensors(void **state)
{
    qsae__tensors *t = NULL;

    (void)state;
    test_safetensors("none", "{}", 0);
    assert_int_equal(qsae__tensors_load(test_contexts[0], test_path("none"), &t), QSAE_OK);
    assert_int_equal(qsae__tensors_len(t), 0);
    assert_null(qsae__tensors_find(t, "a"));
    qsae__tensors_unref(&t);
}

/* A header whose length starts like a pickle (0x80, protocol) is still safetensors. */
static void test_length_like_pickle(void **state)
{
    char header[0x281];
    qsae__tensors *t = NULL;

    (void)state;
    memset(header, ' ', 0x280);
    header[0x280] = '\0';
    memcpy(header, "{\"p\":" T("U8", "[4]", "0", "4") "}",
           strlen("{\"p\":" T("U8", "[4]", "0", "4") "}"));
    test_safetensors("like-pickle", header, 4);
    assert_int_equal(qsae__tensors_load(test_contexts[0], test_path("like-pickle"), &t), QSAE_OK);
    qsae__tensors_unref(&t);
}

/* Of this process, whatever else the machine does. */
static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* 1e5 tensors: neither names nor spans may cost quadratic time. */
static void test_many_tensors(void **state)
{
    const size_t n = 100000, each = 96;
    char *header = malloc(n * each + 3), *p = header;
    qsae__tensors *t = NULL;
    double start;

    (void)state;
    assert_non_null(header);
    for (size_t i = 0; i < n; i++)
        p += sprintf(p, "%c\"model.layers.%zu.w\":" T("U8", "[1]", "%zu", "%zu"),
                     i == 0 ? '{' : ',', i, i, i + 1);
    strcpy(p, "}");
    test_safetensors("many", header, n);
    start = seconds();
    assert_int_equal(qsae__tensors_load(test_contexts[0], test_path("many"), &t), QSAE_OK);
    assert_int_equal(qsae__tensors_len(t), n);
    for (size_t i = 0; i < n; i += 997) {
        char name[40];
        snprintf(name, sizeof name, "model.layers.%zu.w", i);
        assert_int_equal(*(const unsigned char *)qsae__tensors_find(t, name)->data, i & 255);
    }
    assert_true(seconds() - start < 60); /* quadratic would take minutes; emulated CPUs are slow */
    qsae__tensors_unref(&t);
    free(header);
}

static void test_write_and_read(void **state)
{
    static const float w[6] = { 1, 2, 3, 4, 5, 6 };
    static const unsigned char u[3] = { 7, 8, 9 };
    qsae__tensor list[3] = {
        { .name = "w \"\\\xc3\xa9\n", .data = w, .bytes = 24, .shape = { 2, 3 }, .rank = 2,
          .dtype = QSAE_F32 },
        { .name = "u", .data = u, .bytes = 3, .shape = { 3 }, .rank = 1, .dtype = QSAE_U8 },
        { .name = "e", .data = NULL, .bytes = 0, .shape = { 0, 5 }, .rank = 2, .dtype = QSAE_F64 },
    };
    qsae__tensors *t = NULL;
    const qsae__tensor *found;

    (void)state;
    assert_int_equal(qsae__safetensors_write(test_contexts[0], test_path("out"), list, 3), QSAE_OK);
    assert_int_equal(qsae__tensors_load(test_contexts[0], test_path("out"), &t), QSAE_OK);
    found = qsae__tensors_find(t, list[0].name);
    assert_non_null(found);
    assert_memory_equal(found->data, w, sizeof w);
    assert_int_equal((uintptr_t)found->data % 8, 0);
    assert_memory_equal(qsae__tensors_find(t, "u")->data, u, sizeof u);
    qsae__tensors_unref(&t);
    list[1].name = "e";
    assert_int_equal(qsae__safetensors_write(test_contexts[0], test_path("out"), list, 3),
                     QSAE_EINVAL);
    assert_non_null(strstr(qsae_error_message(), "\"e\""));
    list[1].name = "\xff";
    assert_int_equal(qsae__safetensors_write(test_contexts[0], test_path("out"), list, 3),
                     QSAE_EINVAL);
    list[1].name = "u";
    list[1].bytes = 4;
    assert_int_equal(qsae__safetensors_write(test_contexts[0], test_path("out"), list, 3),
                     QSAE_EINVAL);
    assert_int_equal(qsae__safetensors_write(test_contexts[0], test_path("no/out"), list, 1),
                     QSAE_ENOENT);
}

/* Tensor by tensor: data in pieces, nothing in excess, and no file before it is complete. */
static void test_writer(void **state)
{
    static const unsigned char bytes[100] = { 1, 2, 3 };
    const qsae__tensor a = { .name = "a", .shape = { 10, 10 }, .rank = 2, .dtype = QSAE_U8 };
    const qsae__tensor b = { .name = "__metadata__", .rank = 0, .dtype = QSAE_U8 };
    const qsae__tensor c = { .name = "c", .shape = { INT64_MAX, 2 }, .rank = 2, .dtype = QSAE_U8 };
    qsae_context *const ctx = test_contexts[0];
    qsae__writer *w = NULL;
    qsae__tensors *t = NULL;

    (void)state;
    unlink(test_path("w"));
    assert_int_equal(qsae__writer_open(ctx, test_path("w"), 500, &w), QSAE_OK);
    assert_int_equal(qsae__writer_begin(w, &a), QSAE_OK);
    for (int i = 0; i < 99; i += 33)
        assert_int_equal(qsae__writer_put(w, bytes + i, 33), QSAE_OK);
    assert_int_equal(qsae__writer_begin(w, &b), QSAE_EINTERNAL);
    assert_int_equal(qsae__writer_put(w, bytes, 2), QSAE_EINTERNAL);
    assert_int_not_equal(access(test_path("w"), F_OK), 0);
    assert_int_equal(qsae__writer_put(w, bytes + 99, 1), QSAE_OK);
    assert_int_equal(qsae__writer_begin(w, &a), QSAE_EINVAL);
    assert_int_equal(qsae__writer_begin(w, &b), QSAE_EINVAL);
    assert_int_equal(qsae__writer_begin(w, &c), QSAE_EINVAL);
    assert_int_equal(qsae__writer_commit(&w), QSAE_OK);
    assert_null(w);
    assert_int_equal(qsae__tensors_load(ctx, test_path("w"), &t), QSAE_OK);
    assert_memory_equal(qsae__tensors_find(t, "a")->data, bytes, sizeof bytes);
    assert_string_equal(qsae__tensors_metadata(t, "format"), "pt");
    qsae__tensors_unref(&t);
    unlink(test_path("w"));
    assert_int_equal(qsae__writer_open(ctx, test_path("w"), 0, &w), QSAE_OK);
    assert_int_equal(qsae__writer_begin(w, &a), QSAE_OK);
    assert_int_equal(qsae__writer_commit(&w), QSAE_EINTERNAL); /* incomplete */
    assert_int_not_equal(access(test_path("w"), F_OK), 0);
    assert_int_equal(qsae__writer_open(ctx, test_path("no/w"), 0, &w), QSAE_ENOENT);
}

/* Data of released tensors and of their neighbours read the same, wherever they come from. */
static void test_release(void **state)
{
    enum { N = 50001 };
    static float values[3][N];
    static const char *const names[] = { "a", "b", "c" };
    qsae__tensor x[3];

    (void)state;
    memset(x, 0, sizeof x);
    for (int i = 0; i < 3; i++) {
        for (int j = 0; j < N; j++)
            values[i][j] = (float)(i * N + j);
        x[i].name = names[i];
        x[i].data = values[i];
        x[i].bytes = sizeof values[i];
        x[i].shape[0] = N;
        x[i].rank = 1;
        x[i].dtype = QSAE_F32;
    }
    assert_int_equal(
        qsae__safetensors_write(test_contexts[0], test_path("r.safetensors"), x, 3), QSAE_OK);
    for (int mode = 0; mode < 2; mode++) {
        qsae__tensors *t;

        assert_int_equal(
            qsae__tensors_load(test_contexts[mode], test_path("r.safetensors"), &t), QSAE_OK);
        for (int round = 0; round < 4; round++) {
            for (int i = 0; i < 3; i++)
                assert_memory_equal(qsae__tensors_at(t, i)->data, values[i], sizeof values[i]);
            qsae__tensor_release(t, qsae__tensors_at(t, round % 3));
        }
        qsae__tensors_unref(&t);
    }
    test_remove("r.safetensors");
}

static void test_public(void **state)
{
    qsae_tensors *t = NULL;
    qsae_tensor_info info = { .struct_size = sizeof info };

    (void)state;
    test_safetensors("public", "{\"b\":" T("I8", "[2,2]", "0", "4") "}", 4);
    assert_int_equal(qsae_tensors_open(test_contexts[0], test_path("public"), &t), QSAE_OK);
    assert_int_equal(qsae_tensors_count(t), 1);
    assert_int_equal(qsae_tensors_get(t, 0, &info), QSAE_OK);
    assert_string_equal(info.name, "b");
    assert_int_equal(info.rank, 2);
    assert_int_equal(info.shape[1], 2);
    assert_int_equal(info.bytes, 4);
    assert_int_equal(info.dtype, QSAE_I8);
    assert_int_equal(qsae_tensors_get(t, 1, &info), QSAE_EINVAL);
    assert_int_equal(qsae_tensors_get(t, -1, &info), QSAE_EINVAL);
    assert_int_equal(qsae_tensors_get(NULL, 0, &info), QSAE_EINVAL);
    assert_int_equal(qsae_tensors_get(t, 0, NULL), QSAE_EINVAL);
    info.struct_size = 3;
    assert_int_equal(qsae_tensors_get(t, 0, &info), QSAE_EINVAL);
    qsae_tensors_close(&t);
    assert_null(t);
    qsae_tensors_close(&t);
    qsae_tensors_close(NULL);
    assert_int_equal(qsae_tensors_open(test_contexts[0], test_path("nothing"), &t), QSAE_ENOENT);
    assert_null(t);
    assert_int_equal(qsae_tensors_open(NULL, "a", &t), QSAE_EINVAL);
    assert_int_equal(qsae_tensors_open(test_contexts[0], NULL, &t), QSAE_EINVAL);
    assert_int_equal(qsae_tensors_open(test_contexts[0], "a", NULL), QSAE_EINVAL);
    assert_int_equal(qsae_tensors_count(NULL), 0);
}

const struct CMUnitTest safetensors_tests[] = {
    cmocka_unit_test(test_headers_refused),
    cmocka_unit_test(test_files_refused),
    cmocka_unit_test(test_every_truncation),
    cmocka_unit_test(test_every_byte_damaged),
    cmocka_unit_test(test_good),
    cmocka_unit_test(test_no_tensors),
    cmocka_unit_test(test_length_like_pickle),
    cmocka_unit_test(test_write_and_read),
    cmocka_unit_test(test_writer),
    cmocka_unit_test(test_release),
    cmocka_unit_test(test_public),
};
/* Apart: it looks at the clock. */
const struct CMUnitTest many_tests[] = { cmocka_unit_test(test_many_tensors) };
const size_t n_many_tests = 1;
const size_t n_safetensors_tests = sizeof safetensors_tests / sizeof *safetensors_tests;
