/* SPDX-License-Identifier: BSD-2-Clause */
#include "formats_test.h"

#include <inttypes.h>
#include <unistd.h>

#include "formats/gguf.h"

/* A GGUF file under construction. */
struct out {
    uint8_t data[16384];
    size_t n;
};

static void put(struct out *o, const void *p, size_t n)
{
    assert_true(o->n + n <= sizeof o->data);
    memcpy(o->data + o->n, p, n);
    o->n += n;
}

static void put_int(struct out *o, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++) {
        const uint8_t b = (uint8_t)(v >> (8 * i));
        put(o, &b, 1);
    }
}

static void put_str(struct out *o, const char *s)
{
    put_int(o, strlen(s), 8);
    put(o, s, strlen(s));
}

static void begin(struct out *o, uint32_t version, uint64_t tensors, uint64_t pairs)
{
    o->n = 0;
    put(o, "GGUF", 4);
    put_int(o, version, 4);
    put_int(o, tensors, 8);
    put_int(o, pairs, 8);
}

static void put_key(struct out *o, const char *key, uint32_t type)
{
    put_str(o, key);
    put_int(o, type, 4);
}

static void put_u32(struct out *o, const char *key, uint32_t v)
{
    put_key(o, key, QSAE__GGUF_U32);
    put_int(o, v, 4);
}

static void put_array(struct out *o, const char *key, uint32_t type, uint64_t count)
{
    put_key(o, key, QSAE__GGUF_ARRAY);
    put_int(o, type, 4);
    put_int(o, count, 8);
}

static void put_info(struct out *o, const char *name, uint32_t rank, const uint64_t *dims,
                     uint32_t type, uint64_t offset)
{
    put_str(o, name);
    put_int(o, rank, 4);
    for (uint32_t i = 0; i < rank; i++)
        put_int(o, dims[i], 8);
    put_int(o, type, 4);
    put_int(o, offset, 8);
}

static void pad(struct out *o, size_t alignment)
{
    while (o->n % alignment != 0)
        put_int(o, 0, 1);
}

static void put_data(struct out *o, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        put_int(o, i * 7 + 1, 1);
}

static const char *save(const struct out *o, const char *name)
{
    test_write(name, o->data, o->n);
    return name;
}

/* Values of every kind, and three tensors: F32 [2, 3], Q8_0 [2, 64], I8 [5]. */
static void make(struct out *o, uint32_t version)
{
    const uint64_t f32[] = { 3, 2 }, q8[] = { 64, 2 }, i8[] = { 5 };
    begin(o, version, 3, 13);
    put_key(o, "u8", QSAE__GGUF_U8);
    put_int(o, 200, 1);
    put_key(o, "i8", QSAE__GGUF_I8);
    put_int(o, 200, 1);
    put_key(o, "u16", QSAE__GGUF_U16);
    put_int(o, 60000, 2);
    put_key(o, "i16", QSAE__GGUF_I16);
    put_int(o, 60000, 2);
    put_u32(o, "u32", 4000000000u);
    put_key(o, "i32", QSAE__GGUF_I32);
    put_int(o, 4000000000u, 4);
    put_key(o, "f32", QSAE__GGUF_F32);
    put_int(o, 0x3f000000, 4);
    put_key(o, "bool", QSAE__GGUF_BOOL);
    put_int(o, 1, 1);
    put_key(o, "str", QSAE__GGUF_STRING);
    put_str(o, "h\xc3\xa9llo");
    put_key(o, "u64", QSAE__GGUF_U64);
    put_int(o, UINT64_MAX, 8);
    put_key(o, "i64", QSAE__GGUF_I64);
    put_int(o, (uint64_t)-5, 8);
    put_array(o, "words", QSAE__GGUF_STRING, 3);
    put_str(o, "a");
    put_str(o, "");
    put_str(o, "\xff");
    put_array(o, "numbers", QSAE__GGUF_I16, 3);
    put_int(o, 1, 2);
    put_int(o, 65535, 2);
    put_int(o, 7, 2);
    put_info(o, "b.weight", 2, f32, 0, 0);
    put_info(o, "a.weight", 2, q8, 8, 32);
    put_info(o, "c", 1, i8, 24, 192);
    pad(o, 32);
    put_data(o, 197);
}

static void test_values(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        struct out o;
        qsae__tensors *t = NULL;
        make(&o, i < 2 ? 2 : 3);
        assert_int_equal(qsae__tensors_load(test_contexts[i % 2], test_path(save(&o, "v.gguf")),
                                            &t), QSAE_OK);
        const qsae__gguf *const g = qsae__tensors_gguf(t);
        const size_t start = o.n - 197;
        assert_non_null(g);
        assert_string_equal(qsae__gguf_path(g), test_path("v.gguf"));
        assert_int_equal(qsae__tensors_len(t), 3);
        const qsae__tensor *x = qsae__tensors_find(t, "b.weight");
        assert_true(x && x->rank == 2 && x->shape[0] == 2 && x->shape[1] == 3);
        assert_true(x->dtype == QSAE_F32 && x->bytes == 24);
        assert_memory_equal(x->data, o.data + start, 24);
        x = qsae__tensors_find(t, "a.weight");
        assert_true(x && x->rank == 2 && x->shape[0] == 2 && x->shape[1] == 64);
        assert_true(x->dtype == QSAE_Q8_0 && x->bytes == 136);
        assert_memory_equal(x->data, o.data + start + 32, 136);
        x = qsae__tensors_find(t, "c");
        assert_true(x && x->rank == 1 && x->shape[0] == 5 && x->dtype == QSAE_I8 && x->bytes == 5);
        assert_memory_equal(x->data, o.data + start + 192, 5);

        static const struct {
            const char *key;
            int64_t value;
        } ints[] = { { "u8", 200 }, { "i8", -56 }, { "u16", 60000 }, { "i16", -5536 },
                     { "u32", 4000000000 }, { "i32", -294967296 }, { "i64", -5 } };
        for (size_t k = 0; k < sizeof ints / sizeof ints[0]; k++) {
            int64_t v = 0;
            int32_t present = 0;
            double d = 0;
            assert_int_equal(qsae__gguf_i64(g, ints[k].key, true, ints[k].value, ints[k].value, &v,
                                            &present), QSAE_OK);
            assert_true(present && v == ints[k].value);
            assert_int_equal(qsae__gguf_f64(g, ints[k].key, true, &d, NULL), QSAE_OK);
            assert_true(d == (double)v);
            v = 77;
            assert_int_equal(qsae__gguf_i64(g, ints[k].key, true, ints[k].value + 1, INT64_MAX, &v,
                                            &present), QSAE_EFORMAT);
            assert_true(!present && v == 77);
            assert_non_null(strstr(qsae_error_message(), ints[k].key));
        }
        qsae__tensors_unref(&t);
    }
}

static void test_access(void **state)
{
    struct out o;
    qsae__tensors *t = NULL;
    int64_t i = 77;
    double d = 77;
    bool b = false;
    int32_t present = 1;
    const char *s = NULL;
    uint64_t n = 0;
    qsae__gguf_array a = { 0 };

    (void)state;
    make(&o, 3);
    assert_int_equal(qsae__tensors_load(test_contexts[0], test_path(save(&o, "v.gguf")), &t),
                     QSAE_OK);
    const qsae__gguf *const g = qsae__tensors_gguf(t);
    /* beyond i64 */
    assert_int_equal(qsae__gguf_i64(g, "u64", true, INT64_MIN, INT64_MAX, &i, &present),
                     QSAE_EFORMAT);
    assert_true(!present && i == 77);
    assert_int_equal(qsae__gguf_f64(g, "u64", true, &d, &present), QSAE_OK);
    assert_true(present && d == 18446744073709551616.0);
    assert_int_equal(qsae__gguf_f64(g, "f32", true, &d, NULL), QSAE_OK);
    assert_true(d == 0.5);
    assert_int_equal(qsae__gguf_bool(g, "bool", true, &b, NULL), QSAE_OK);
    assert_true(b);
    assert_int_equal(qsae__gguf_str(g, "str", true, &s, &n, &present), QSAE_OK);
    assert_true(present && n == 6);
    assert_memory_equal(s, "h\xc3\xa9llo", 6);
    assert_int_equal(qsae__gguf_get_array(g, "numbers", true, QSAE__GGUF_I16, &a, NULL), QSAE_OK);
    assert_true(a.count == 3 && qsae__gguf_element(&a, 0) == 1 && qsae__gguf_element(&a, 1) == -1 &&
                qsae__gguf_element(&a, 2) == 7);
    assert_int_equal(qsae__gguf_get_array(g, "words", true, -1, &a, NULL), QSAE_OK);
    assert_true(a.count == 3 && a.type == QSAE__GGUF_STRING);
    const uint8_t *at = a.data;
    const char *const words[] = { "a", "", "\xff" };
    for (int k = 0; k < 3; k++) {
        qsae__gguf_next(&at, &s, &n);
        assert_true(n == strlen(words[k]) && memcmp(s, words[k], n) == 0);
    }
    /* missing keys */
    i = 77;
    assert_int_equal(qsae__gguf_i64(g, "none", false, 0, 9, &i, &present), QSAE_OK);
    assert_true(!present && i == 77);
    assert_int_equal(qsae__gguf_i64(g, "none", true, 0, 9, &i, NULL), QSAE_EFORMAT);
    assert_non_null(strstr(qsae_error_message(), "v.gguf: key \"none\""));
    /* wrong types */
    assert_int_equal(qsae__gguf_i64(g, "str", true, 0, 9, &i, &present), QSAE_EFORMAT);
    assert_int_equal(present, 0);
    assert_non_null(strstr(qsae_error_message(), "str: expected an integer, found string"));
    assert_int_equal(qsae__gguf_i64(g, "f32", true, 0, 9, &i, NULL), QSAE_EFORMAT);
    assert_int_equal(qsae__gguf_i64(g, "bool", true, 0, 9, &i, NULL), QSAE_EFORMAT);
    assert_int_equal(qsae__gguf_f64(g, "bool", true, &d, NULL), QSAE_EFORMAT);
    assert_int_equal(qsae__gguf_f64(g, "words", true, &d, NULL), QSAE_EFORMAT);
    assert_int_equal(qsae__gguf_bool(g, "u8", true, &b, NULL), QSAE_EFORMAT);
    assert_int_equal(qsae__gguf_str(g, "words", true, &s, &n, NULL), QSAE_EFORMAT);
    assert_non_null(strstr(qsae_error_message(), "found array of strings"));
    assert_int_equal(qsae__gguf_get_array(g, "words", true, QSAE__GGUF_I16, &a, NULL),
                     QSAE_EFORMAT);
    assert_int_equal(qsae__gguf_get_array(g, "u8", true, -1, &a, NULL), QSAE_EFORMAT);
    /* the list of keys */
    int64_t keys = 0;
    for (; qsae__gguf_key(g, keys) != NULL; keys++)
        assert_true(keys == 0 || strcmp(qsae__gguf_key(g, keys - 1), qsae__gguf_key(g, keys)) < 0);
    assert_int_equal(keys, 13);
    assert_null(qsae__gguf_key(g, -1));
    qsae__tensors_unref(&t);
}

/* The public listing of a GGUF file. */
static void test_listing(void **state)
{
    struct out o;
    qsae_context *ctx = NULL;
    qsae_tensors *t = NULL;
    qsae_tensor_info info = { .struct_size = sizeof info };

    (void)state;
    make(&o, 3);
    assert_int_equal(qsae_context_open(NULL, &ctx), QSAE_OK);
    assert_int_equal(qsae_tensors_open(ctx, test_path(save(&o, "v.gguf")), &t), QSAE_OK);
    assert_int_equal(qsae_tensors_count(t), 3);
    assert_int_equal(qsae_tensors_get(t, 0, &info), QSAE_OK);
    assert_string_equal(info.name, "a.weight");
    assert_true(info.dtype == QSAE_Q8_0 && info.rank == 2 && info.shape[1] == 64 &&
                info.bytes == 136);
    assert_string_equal(qsae_dtype_name(info.dtype), "Q8_0");
    qsae_tensors_close(&t);
    qsae_context_close(&ctx);
}

/* One tensor after `pairs` pairs that the caller writes between begin and this. */
static void finish(struct out *o, const char *name, uint32_t rank, const uint64_t *dims,
                   uint32_t type, uint64_t offset, size_t data)
{
    put_info(o, name, rank, dims, type, offset);
    pad(o, 32);
    put_data(o, data);
}

static void test_refused_tensors(void **state)
{
    static const struct {
        const char *name;
        uint32_t rank;
        uint64_t dims[4];
        uint32_t type;
        uint64_t offset;
        size_t data;
        int32_t status;
        const char *part;
    } bad[] = {
        { "t", 0, { 0 }, 0, 0, 64, QSAE_EFORMAT, "n_dims: expected 1 to 4, found 0" },
        { "t", 5, { 0 }, 0, 0, 64, QSAE_EFORMAT, "n_dims: expected 1 to 4, found 5" },
        { "t", 0xffffffff, { 0 }, 0, 0, 64, QSAE_EFORMAT, "n_dims" },
        { "", 1, { 4 }, 0, 0, 64, QSAE_EFORMAT, "tensor name" },
        { "a\xffz", 1, { 4 }, 0, 0, 64, QSAE_EFORMAT, "UTF-8" },
        { "\xc0\x80", 1, { 4 }, 0, 0, 64, QSAE_EFORMAT, "UTF-8" },
        { "\xed\xa0\x80", 1, { 4 }, 0, 0, 64, QSAE_EFORMAT, "UTF-8" },
        { "\xf4\x90\x80\x80", 1, { 4 }, 0, 0, 64, QSAE_EFORMAT, "UTF-8" },
        { "\xe2\x82", 1, { 4 }, 0, 0, 64, QSAE_EFORMAT, "UTF-8" },
        { "12345678901234567890123456789012345678901234567890123456789012345", 1, { 4 }, 0, 0, 64,
          QSAE_EFORMAT, "1 to 64 bytes" },
        { "t", 1, { 0 }, 0, 0, 64, QSAE_EFORMAT, "dims[0]" },
        { "t", 2, { 4, 0 }, 0, 0, 64, QSAE_EFORMAT, "dims[1]" },
        { "t", 1, { UINT64_MAX }, 0, 0, 64, QSAE_EFORMAT, "dims[0]" },
        { "t", 1, { INT64_MAX }, 0, 0, 64, QSAE_EFORMAT, "overflows" },
        { "t", 2, { INT64_MAX, INT64_MAX }, 24, 0, 64, QSAE_EFORMAT, "overflows" },
        { "t", 4, { 1ull << 32, 1ull << 31, 2, 1 }, 24, 0, 64, QSAE_EFORMAT, "overflows" },
        { "t", 2, { 32, 1ull << 58 }, 8, 0, 64, QSAE_EFORMAT, "overflows" },
        { "t", 1, { 17 }, 0, 0, 64, QSAE_EFORMAT, "reach beyond" },
        { "t", 1, { 1ull << 60 }, 24, 0, 64, QSAE_EFORMAT, "reach beyond" },
        { "t", 1, { 4 }, 0, 64, 64, QSAE_EFORMAT, "reach beyond" },
        { "t", 1, { 4 }, 0, UINT64_MAX - 31, 64, QSAE_EFORMAT, "reach beyond" },
        { "t", 1, { 4 }, 0, 8, 64, QSAE_EFORMAT, "no multiple of the alignment 32" },
        { "t", 1, { 33 }, 8, 0, 64, QSAE_EFORMAT, "no whole Q8_0 blocks of 32" },
        { "t", 2, { 128, 2 }, 12, 0, 512, QSAE_EFORMAT, "no whole Q4_K blocks of 256" },
        { "t.w", 1, { 32 }, 9, 0, 64, QSAE_EUNSUPPORTED, "\"t.w\": ggml type 9 (Q8_1)" },
        { "t.w", 1, { 32 }, 4, 0, 64, QSAE_EUNSUPPORTED, "removed from ggml" },
        { "t.w", 1, { 32 }, 3000, 0, 64, QSAE_EUNSUPPORTED, "ggml type 3000 (unknown)" },
        { "t.w", 1, { 32 }, 0x80000000, 0, 64, QSAE_EUNSUPPORTED, "unknown" },
        { "t.w", 1, { 32 }, 0xffffff9d, 0, 64, QSAE_EUNSUPPORTED, "unknown" },
    };
    struct out o;

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        begin(&o, 3, 1, 0);
        finish(&o, bad[i].name, bad[i].rank < 4 ? bad[i].rank : 4, bad[i].dims, bad[i].type,
               bad[i].offset, bad[i].data);
        if (bad[i].rank > 4)
            memcpy(o.data + 24 + 8 + strlen(bad[i].name), &bad[i].rank, 4);
        test_refused(save(&o, "bad.gguf"), bad[i].status, bad[i].part);
    }
}

static void test_refused_headers(void **state)
{
    static const struct {
        uint32_t version;
        int32_t status;
        const char *part;
    } versions[] = {
        { 0, QSAE_EUNSUPPORTED, "version 0 " },
        { 1, QSAE_EUNSUPPORTED, "version 1 is not supported (2 and 3 are)" },
        { 4, QSAE_EUNSUPPORTED, "version 4 " },
        { 0x03000000, QSAE_EUNSUPPORTED, "big-endian" },
        { 0x02000000, QSAE_EUNSUPPORTED, "big-endian" },
    };
    static const uint64_t counts[] = { 2, 1000, 1ull << 32, 1ull << 59, 1ull << 60, INT64_MAX,
                                       UINT64_MAX };
    const uint64_t four[] = { 4 };
    struct out o;

    (void)state;
    for (size_t i = 0; i < sizeof versions / sizeof versions[0]; i++) {
        begin(&o, versions[i].version, 1, 0);
        finish(&o, "t", 1, four, 0, 0, 16);
        test_refused(save(&o, "bad.gguf"), versions[i].status, versions[i].part);
    }
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        begin(&o, 3, counts[i], 0);
        finish(&o, "t", 1, four, 0, 0, 16);
        test_refused(save(&o, "bad.gguf"), QSAE_EFORMAT, "tensor");
        begin(&o, 3, 1, counts[i]);
        finish(&o, "t", 1, four, 0, 0, 16);
        test_refused(save(&o, "bad.gguf"), QSAE_EFORMAT, "");
    }
    begin(&o, 3, 2, 0);
    put_info(&o, "t", 1, four, 0, 0);
    finish(&o, "t", 1, four, 0, 32, 64);
    test_refused(save(&o, "bad.gguf"), QSAE_EFORMAT, "\"t\" occurs twice");
    begin(&o, 3, 2, 0);
    put_info(&o, "t", 1, four, 0, 0);
    finish(&o, "u", 1, four, 0, 0, 64);
    test_refused(save(&o, "bad.gguf"), QSAE_EFORMAT, "overlap");
    begin(&o, 3, 3, 0);
    put_info(&o, "t", 1, (const uint64_t[]){ 20 }, 0, 32);
    put_info(&o, "v", 1, four, 0, 0);
    finish(&o, "u", 1, four, 0, 96, 128);
    test_refused(save(&o, "bad.gguf"), QSAE_EFORMAT, "\"t\" and \"u\" overlap");
}

static void test_refused_pairs(void **state)
{
    static const uint64_t counts[] = { 3, 1ull << 31, 1ull << 61, INT64_MAX, 1ull << 63,
                                       UINT64_MAX };
    struct out o;
    char key[80];

    (void)state;
#define REFUSE(status, part, ...) \
    do { \
        begin(&o, 3, 0, 1); \
        __VA_ARGS__; \
        test_refused(save(&o, "bad.gguf"), status, part); \
    } while (0)
    REFUSE(QSAE_EFORMAT, "key at byte", put_u32(&o, "", 1));
    REFUSE(QSAE_EFORMAT, "UTF-8", put_u32(&o, "k\x80", 1));
    REFUSE(QSAE_EFORMAT, "value type 13", put_key(&o, "k", 13), put_int(&o, 0, 8));
    REFUSE(QSAE_EFORMAT, "value type", put_key(&o, "k", 0xffffffff), put_int(&o, 0, 8));
    REFUSE(QSAE_EFORMAT, "k: a bool is 0 or 1, found 2", put_key(&o, "k", QSAE__GGUF_BOOL),
           put_int(&o, 2, 1));
    REFUSE(QSAE_EFORMAT, "k: a bool", put_array(&o, "k", QSAE__GGUF_BOOL, 2),
           put_int(&o, 0x901, 2));
    REFUSE(QSAE_EUNSUPPORTED, "k: arrays of arrays", put_array(&o, "k", QSAE__GGUF_ARRAY, 1),
           put_int(&o, 0, 4), put_int(&o, 0, 8));
    REFUSE(QSAE_EFORMAT, "element type 13", put_array(&o, "k", 13, 0));
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
        for (uint32_t type = 0; type <= QSAE__GGUF_F64; type++)
            if (type != QSAE__GGUF_ARRAY)
                REFUSE(QSAE_EFORMAT, "truncated", put_array(&o, "k", type, counts[i]),
                       put_int(&o, 0, 2));
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        REFUSE(QSAE_EFORMAT, "truncated", put_key(&o, "k", QSAE__GGUF_STRING),
               put_int(&o, counts[i], 8), put_int(&o, 0, 2));
        REFUSE(QSAE_EFORMAT, "truncated", put_int(&o, counts[i] + 100, 8), put_int(&o, 0, 8));
    }
    begin(&o, 3, 0, 2);
    put_u32(&o, "twice", 1);
    put_u32(&o, "twice", 1);
    test_refused(save(&o, "bad.gguf"), QSAE_EFORMAT, "key \"twice\" occurs twice");
    begin(&o, 3, 0, 1);
    put_int(&o, 3, 8);
    put(&o, "a\0b", 3);
    put_int(&o, QSAE__GGUF_U8, 4);
    put_int(&o, 0, 1);
    test_refused(save(&o, "bad.gguf"), QSAE_EFORMAT, "UTF-8");
    static const uint32_t alignments[] = { 0, 1, 4, 7, 12, 24, 33, 48, 0x80000000, 0xffffffff };
    for (size_t i = 0; i < sizeof alignments / sizeof alignments[0]; i++)
        REFUSE(QSAE_EFORMAT, "general.alignment",
               put_u32(&o, "general.alignment", alignments[i]));
    REFUSE(QSAE_EFORMAT, "general.alignment: expected an integer",
           put_key(&o, "general.alignment", QSAE__GGUF_STRING), put_str(&o, "32"));
#undef REFUSE
    /* a string that is no text is found when it is asked for */
    qsae__tensors *t = NULL;
    const char *s = NULL;
    uint64_t n = 0;
    begin(&o, 3, 0, 1);
    put_key(&o, "k", QSAE__GGUF_STRING);
    put_str(&o, "\xfe");
    snprintf(key, sizeof key, "%s", save(&o, "ok.gguf"));
    assert_int_equal(qsae__tensors_load(test_contexts[0], test_path(key), &t), QSAE_OK);
    assert_int_equal(qsae__gguf_str(qsae__tensors_gguf(t), "k", true, &s, &n, NULL), QSAE_EFORMAT);
    assert_null(s);
    qsae__tensors_unref(&t);
}

static void test_alignments(void **state)
{
    (void)state;
    for (uint32_t a = 8; a <= 4096; a *= 2) {
        const uint64_t three[] = { 3 };
        struct out o;
        qsae__tensors *t = NULL;
        begin(&o, 3, 2, 1);
        put_u32(&o, "general.alignment", a);
        put_info(&o, "x", 1, three, 24, a);
        put_info(&o, "y", 1, three, 24, 0);
        pad(&o, a);
        const size_t start = o.n;
        put_data(&o, a + 3);
        assert_int_equal(qsae__tensors_load(test_contexts[1], test_path(save(&o, "a.gguf")), &t),
                         QSAE_OK);
        assert_memory_equal(qsae__tensors_find(t, "x")->data, o.data + start + a, 3);
        assert_memory_equal(qsae__tensors_find(t, "y")->data, o.data + start, 3);
        qsae__tensors_unref(&t);
        o.n--;
        test_refused(save(&o, "a.gguf"), QSAE_EFORMAT, "truncated");
    }
}

/* Reads everything a set offers. */
static uint64_t use(const qsae__tensors *t)
{
    const qsae__gguf *const g = qsae__tensors_gguf(t);
    uint64_t sum = 0;

    for (int64_t i = 0; i < qsae__tensors_len(t); i++) {
        const qsae__tensor *const x = qsae__tensors_at(t, i);
        for (uint64_t k = 0; k < x->bytes; k++)
            sum += ((const uint8_t *)x->data)[k];
        sum += strlen(x->name);
    }
    for (int64_t i = 0; g != NULL && qsae__gguf_key(g, i) != NULL; i++) {
        const char *const key = qsae__gguf_key(g, i), *s;
        qsae__gguf_array a;
        int64_t v;
        double d = 0;
        uint64_t n = 0;
        if (qsae__gguf_str(g, key, true, &s, &n, NULL) == QSAE_OK)
            sum += n > 0 ? (uint8_t)s[n - 1] : 0;
        (void)qsae__gguf_i64(g, key, true, INT64_MIN, INT64_MAX, &v, NULL);
        (void)qsae__gguf_f64(g, key, true, &d, NULL);
        if (qsae__gguf_get_array(g, key, true, -1, &a, NULL) != QSAE_OK)
            continue;
        const uint8_t *at = a.data;
        for (int64_t k = 0; k < a.count; k++)
            if (a.type == QSAE__GGUF_STRING) {
                qsae__gguf_next(&at, &s, &n);
                sum += n > 0 ? (uint8_t)s[n - 1] : 0;
            } else {
                sum += qsae__gguf_element(&a, k) > 0;
            }
    }
    return sum;
}

/* Either refused, with a message and nothing left over, or all of it readable. */
static bool survives(const struct out *o, int mode)
{
    qsae__tensors *t = (qsae__tensors *)&mode;
    const int32_t status = qsae__tensors_load(test_contexts[mode], test_path(save(o, "h.gguf")),
                                              &t);

    if (status == QSAE_OK) {
        (void)use(t);
        qsae__tensors_unref(&t);
        return true;
    }
    assert_null(t);
    assert_true(status == QSAE_EFORMAT || status == QSAE_EUNSUPPORTED);
    assert_true(strlen(qsae_error_message()) > 0);
    return false;
}

static void test_truncated(void **state)
{
    struct out o;

    (void)state;
    make(&o, 3);
    for (size_t n = o.n; n-- > 0;) {
        o.n = n;
        if (survives(&o, (int)(n % 2)))
            fail_msg("%zu bytes were accepted", n);
    }
}

/* Bits and numbers of the header changed, one at a time. */
static void test_forged(void **state)
{
    struct out good, o;
    int64_t accepted = 0;

    (void)state;
    make(&good, 3);
    const size_t header = good.n - 197;
    for (size_t i = 0; i < header * 3; i++) { /* three of each byte's bits, in turn */
        o = good;
        o.data[i / 3] ^= (uint8_t)(1u << ((i / 3 + 3 * i) % 8));
        accepted += survives(&o, 1);
    }
    assert_true(accepted > 0); /* values of pairs may change */
    const uint64_t forged[] = { 0, 1, 0xff, 1ull << 16, 1ull << 31, 1ull << 32, good.n, 1ull << 62,
                                INT64_MAX, 1ull << 63, UINT64_MAX - 7, UINT64_MAX };
    for (size_t n = 0; n < 3 * (header - 12); n++) { /* three of them at each byte, in turn */
        const size_t at = 4 + n / 3, k = (n / 3 + 4 * n) % (sizeof forged / sizeof forged[0]);
        o = good;
        for (int i = 0; i < 8; i++)
            o.data[at + (size_t)i] = (uint8_t)(forged[k] >> (8 * i));
        (void)survives(&o, 1);
    }
}

/* Part i of n with one tensor; split.* as given. */
static void part(const char *name, int64_t no, int64_t count, int64_t tensors, const char *tensor)
{
    const uint64_t four[] = { 4 };
    struct out o;

    begin(&o, 3, 1, 3);
    put_key(&o, "split.no", QSAE__GGUF_U16);
    put_int(&o, (uint64_t)no, 2);
    put_key(&o, "split.count", QSAE__GGUF_U16);
    put_int(&o, (uint64_t)count, 2);
    put_key(&o, "split.tensors.count", QSAE__GGUF_I32);
    put_int(&o, (uint64_t)tensors, 4);
    finish(&o, tensor, 1, four, 0, 0, 16);
    save(&o, name);
}

static void three_parts(void)
{
    part("m-00001-of-00003.gguf", 0, 3, 3, "a");
    part("m-00002-of-00003.gguf", 1, 3, 3, "c");
    part("m-00003-of-00003.gguf", 2, 3, 3, "b");
}

static void test_split(void **state)
{
    qsae__tensors *t = NULL;
    int64_t no = 9;
    struct out o;

    (void)state;
    for (int i = 0; i < 20; i++) { /* what other tests left */
        static const char *const names[] = { "v.gguf", "bad.gguf", "ok.gguf", "a.gguf", "h.gguf" };
        test_remove(names[i % 5]);
    }
    three_parts();
    for (int i = 0; i < 4; i++) { /* the first part, or the folder with all three */
        assert_int_equal(qsae__tensors_load(test_contexts[i % 2], i < 2
                                            ? test_path("m-00001-of-00003.gguf") : test_folder,
                                            &t), QSAE_OK);
        assert_int_equal(qsae__tensors_len(t), 3);
        assert_non_null(strstr(qsae__tensors_find(t, "b")->file, "m-00003-of-00003.gguf"));
        assert_int_equal(qsae__gguf_i64(qsae__tensors_gguf(t), "split.no", true, 0, 9, &no, NULL),
                         QSAE_OK);
        assert_int_equal(no, 0);
        qsae__tensors_unref(&t);
    }
    test_refused("m-00002-of-00003.gguf", QSAE_EFORMAT, "open the first one, *-00001-of-00003");
    part("m-00003-of-00003.gguf", 2, 3, 3, "a");
    test_refused("m-00001-of-00003.gguf", QSAE_EFORMAT, "\"a\" occurs twice");
    part("m-00003-of-00003.gguf", 1, 3, 3, "b");
    test_refused("m-00001-of-00003.gguf", QSAE_EFORMAT, "expected part 2 of 3");
    part("m-00003-of-00003.gguf", 2, 4, 3, "b");
    test_refused("m-00001-of-00003.gguf", QSAE_EFORMAT, "found part 2 of 4");
    make(&o, 3);
    save(&o, "m-00003-of-00003.gguf");
    test_refused("m-00001-of-00003.gguf", QSAE_EFORMAT, "found part 0 of 1");
    test_safetensors("m-00003-of-00003.gguf", "{}", 0);
    test_refused("m-00001-of-00003.gguf", QSAE_EFORMAT, "is no GGUF file");
    test_remove("m-00003-of-00003.gguf");
    test_refused("m-00001-of-00003.gguf", QSAE_ENOENT, "m-00003-of-00003.gguf");
    assert_int_equal(symlink("m-00002-of-00003.gguf", test_path("m-00003-of-00003.gguf")), 0);
    test_refused("m-00001-of-00003.gguf", QSAE_EFORMAT, "symbolic link");
    test_remove("m-00003-of-00003.gguf");
    three_parts();
    part("m-00001-of-00003.gguf", 0, 3, 4, "a");
    test_refused("m-00001-of-00003.gguf", QSAE_EFORMAT, "split.tensors.count: 4, the parts hold 3");
    part("m.gguf", 0, 3, 3, "a");
    test_refused("m.gguf", QSAE_EFORMAT, "expected a name ending in -00001-of-00003.gguf");
    part("m-00001-of-00003.gguf", 5, 3, 3, "a");
    test_refused("m-00001-of-00003.gguf", QSAE_EFORMAT, "split.no");
    for (int i = 1; i <= 3; i++) {
        char name[32];
        snprintf(name, sizeof name, "m-0000%d-of-00003.gguf", i);
        test_remove(name);
    }
    test_remove("m.gguf");
}

static void test_folder_choice(void **state)
{
    qsae__tensors *t = NULL;
    struct out o;

    (void)state;
    make(&o, 3);
    save(&o, "one.gguf");
    assert_int_equal(qsae__tensors_load(test_contexts[0], test_folder, &t), QSAE_OK);
    assert_non_null(qsae__tensors_gguf(t));
    qsae__tensors_unref(&t);
    save(&o, "two.gguf");
    test_refused("", QSAE_EFORMAT, "\"one.gguf\" and \"two.gguf\"");
    test_safetensors("x.safetensors", "{}", 0);
    assert_int_equal(qsae__tensors_load(test_contexts[0], test_folder, &t), QSAE_OK);
    assert_null(qsae__tensors_gguf(t));
    qsae__tensors_unref(&t);
    test_remove("x.safetensors");
    test_remove("one.gguf");
    test_remove("two.gguf");
}

/* A block type is none of safetensors'. */
static void test_safetensors_blocks(void **state)
{
    (void)state;
    test_safetensors("q.safetensors", "{\"a\":{\"dtype\":\"Q8_0\",\"shape\":[32],"
                     "\"data_offsets\":[0,34]}}", 34);
    test_refused("q.safetensors", QSAE_EFORMAT, "unknown dtype \"Q8_0\"");
    test_remove("q.safetensors");
}

const struct CMUnitTest gguf_tests[] = {
    cmocka_unit_test(test_values),
    cmocka_unit_test(test_access),
    cmocka_unit_test(test_listing),
    cmocka_unit_test(test_refused_tensors),
    cmocka_unit_test(test_refused_headers),
    cmocka_unit_test(test_refused_pairs),
    cmocka_unit_test(test_alignments),
    cmocka_unit_test(test_truncated),
    cmocka_unit_test(test_forged),
    cmocka_unit_test(test_split),
    cmocka_unit_test(test_folder_choice),
    cmocka_unit_test(test_safetensors_blocks),
};
const size_t n_gguf_tests = sizeof gguf_tests / sizeof gguf_tests[0];
