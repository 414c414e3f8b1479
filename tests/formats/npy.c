/* SPDX-License-Identifier: BSD-2-Clause */
#include "formats_test.h"

#include <zip.h>

#include "numpy_files.h"

/* An npy file: version, dict text padded to 64 bytes, data bytes 0, 1, 2, ...; returns its size. */
static size_t make_npy(unsigned char *out, int version, const char *dict, size_t data)
{
    const size_t prefix = version == 1 ? 10 : 12, n = strlen(dict);
    const size_t head = (prefix + n + 1 + 63) / 64 * 64, length = head - prefix;

    memcpy(out, "\x93NUMPY", 6);
    out[6] = (unsigned char)version;
    out[7] = 0;
    for (size_t i = 8; i < prefix; i++)
        out[i] = (unsigned char)(length >> (8 * (i - 8)));
    memset(out + prefix, ' ', length);
    memcpy(out + prefix, dict, n);
    out[head - 1] = '\n';
    for (size_t i = 0; i < data; i++)
        out[head + i] = (unsigned char)i;
    return head + data;
}

#define DICT(descr, order, shape) \
    "{'descr': '" descr "', 'fortran_order': " order ", 'shape': " shape ", }"

static const struct {
    int version;
    const char *dict;
    size_t data;
    int32_t status;
    const char *part;
} refused[] = {
    { 1, DICT("<f4", "False", "(2,)"), 7, QSAE_EFORMAT, "needs 8 bytes" },
    { 1, DICT("<f4", "False", "(2,)"), 9, QSAE_EFORMAT, "needs 8 bytes" },
    { 1, DICT("<f4", "False", "(8589934592,)"), 8, QSAE_EFORMAT, "needs 34359738368" },
    { 1, DICT("<f4", "False", "(4611686018427387904, 4)"), 0, QSAE_EFORMAT, "overflow" },
    { 1, DICT("<f4", "False", "(9223372036854775808,)"), 0, QSAE_EFORMAT, "shape" },
    { 1, DICT("<f4", "False", "(99999999999999999999999,)"), 0, QSAE_EFORMAT, "shape" },
    { 1, DICT("<f4", "False", "(-1,)"), 0, QSAE_EFORMAT, "shape" },
    { 1, DICT("<f4", "False", "(2)"), 8, QSAE_EFORMAT, "shape" },
    { 1, DICT("<f4", "False", "2"), 8, QSAE_EFORMAT, "shape" },
    { 1, DICT("<f4", "False", "[2]"), 8, QSAE_EFORMAT, "shape" },
    { 1, DICT("<f4", "False", "(,)"), 8, QSAE_EFORMAT, "shape" },
    { 1, DICT("<f4", "False", "(2 1,)"), 8, QSAE_EFORMAT, "shape" },
    { 1, DICT("<f4", "False", "(1,1,1,1,1,1,1,1,2)"), 8, QSAE_EUNSUPPORTED, "rank" },
    { 1, DICT("<f4", "false", "(2,)"), 8, QSAE_EFORMAT, "npy header" },
    { 1, DICT("<f4", "1", "(2,)"), 8, QSAE_EFORMAT, "npy header" },
    { 1, DICT("|O", "False", "(1,)"), 8, QSAE_EPICKLE, "pickle" },
    { 1, DICT(">f4", "False", "(2,)"), 8, QSAE_EUNSUPPORTED, "big-endian" },
    { 1, DICT("|V2", "False", "(2,)"), 4, QSAE_EUNSUPPORTED, "(bf16?)" },
    { 1, DICT("<c16", "False", "(2,)"), 32, QSAE_EUNSUPPORTED, "<c16" },
    { 1, DICT("<U3", "False", "(2,)"), 24, QSAE_EUNSUPPORTED, "<U3" },
    { 1, "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", 4, QSAE_EUNSUPPORTED,
      "structured" },
    { 1, "{'descr': '<f4', 'fortran_order': False, }", 4, QSAE_EFORMAT, "npy header" },
    { 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'x': 1, }", 4, QSAE_EFORMAT,
      "\"x\"" },
    { 1, "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", 4,
      QSAE_EFORMAT, "\"descr\"" },
    { 1, "{'descr': '<f4' 'fortran_order': False, 'shape': (1,), }", 4, QSAE_EFORMAT,
      "npy header" },
    { 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), } x", 4, QSAE_EFORMAT,
      "npy header" },
    { 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), ", 4, QSAE_EFORMAT,
      "npy header" },
    { 1, "__import__('os').system('true')", 4, QSAE_EFORMAT, "npy header" },
    { 1, "{'descr': '<\\x66\\x34', 'fortran_order': False, 'shape': (1,), }", 4, QSAE_EFORMAT,
      "descr" },
    { 1, "", 4, QSAE_EFORMAT, "npy header" },
    { 4, DICT("<f4", "False", "(1,)"), 4, QSAE_EUNSUPPORTED, "version" },
};

static void test_npy_refused(void **state)
{
    unsigned char file[1024];

    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        char name[32];
        snprintf(name, sizeof name, "bad-%zu.npy", i);
        test_write(name, file,
                   make_npy(file, refused[i].version, refused[i].dict, refused[i].data));
        test_refused(name, refused[i].status, refused[i].part);
    }
    test_write("long.npy", "\x93NUMPY\2\0\xff\xff\xff\xff{}", 14);
    test_refused("long.npy", QSAE_EFORMAT, "header of 4294967295");
    test_write("object.npy", npy_object, sizeof npy_object);
    test_refused("object.npy", QSAE_EPICKLE, "pickle");
    for (size_t n = 6; n < sizeof npy_fortran; n++) {
        test_write("cut.npy", npy_fortran, n);
        test_refused("cut.npy", QSAE_EFORMAT, "cut.npy");
    }
}

static void test_npy_good(void **state)
{
    static const char *const dicts[] = {
        DICT("<f4", "False", "(2, 1)"),
        "{\"shape\":(2,1,),\"fortran_order\":False,\"descr\":\"<f4\"}",
        "{ 'fortran_order' : True , 'descr' : '<f4' , 'shape' : ( 2 , 1 ) }",
    };
    unsigned char file[1024];

    (void)state;
    for (int version = 1; version <= 3; version++)
        for (size_t i = 0; i < 3; i++) {
            qsae__tensors *t = NULL;
            test_write("a.npy", file, make_npy(file, version, dicts[i], 8));
            assert_int_equal(qsae__tensors_load(test_contexts[i % 2], test_path("a.npy"), &t),
                             QSAE_OK);
            assert_int_equal(qsae__tensors_len(t), 1);
            assert_string_equal(qsae__tensors_at(t, 0)->name, "data");
            assert_int_equal(qsae__tensors_at(t, 0)->rank, 2);
            assert_int_equal(((const unsigned char *)qsae__tensors_at(t, 0)->data)[7], 7);
            qsae__tensors_unref(&t);
        }
}

static void check_fortran(const qsae__tensor *f)
{
    int16_t values[24];

    assert_non_null(f);
    assert_int_equal(f->rank, 3);
    assert_int_equal(f->shape[0], 2);
    assert_int_equal(f->shape[2], 4);
    assert_int_equal(f->bytes, 48);
    memcpy(values, f->data, 48);
    for (int i = 0; i < 24; i++)
        assert_int_equal(values[i], i);
}

static void test_numpy(void **state)
{
    (void)state;
    test_write("f.npy", npy_fortran, sizeof npy_fortran);
    test_write("d.npz", npz_deflated, sizeof npz_deflated);
    test_write("s.npz", npz_stored, sizeof npz_stored);
    for (int mode = 0; mode < 2; mode++) {
        qsae__tensors *t = NULL;
        double s;
        float a[6];
        assert_int_equal(qsae__tensors_load(test_contexts[mode], test_path("f.npy"), &t), QSAE_OK);
        check_fortran(qsae__tensors_find(t, "data"));
        qsae__tensors_unref(&t);
        assert_int_equal(qsae__tensors_load(test_contexts[mode], test_path("d.npz"), &t), QSAE_OK);
        assert_int_equal(qsae__tensors_len(t), 3);
        check_fortran(qsae__tensors_find(t, "f"));
        assert_int_equal(qsae__tensors_find(t, "s")->rank, 0);
        memcpy(&s, qsae__tensors_find(t, "s")->data, sizeof s);
        assert_true(s == 2.5);
        qsae__tensors_unref(&t);
        assert_int_equal(qsae__tensors_load(test_contexts[mode], test_path("s.npz"), &t), QSAE_OK);
        assert_int_equal(qsae__tensors_len(t), 2);
        assert_int_equal(qsae__tensors_find(t, "e")->bytes, 0);
        memcpy(a, qsae__tensors_find(t, "a")->data, sizeof a);
        assert_true(a[5] == 5);
        qsae__tensors_unref(&t);
    }
}

/* Writes a zip of one member. */
static void make_zip(const char *file, const char *member, const void *data, size_t size,
                     zip_int32_t method)
{
    int error = 0;
    zip_t *zip = zip_open(test_path(file), ZIP_CREATE | ZIP_TRUNCATE, &error);
    zip_int64_t i;

    assert_non_null(zip);
    i = zip_file_add(zip, member, zip_source_buffer(zip, data, size, 0), ZIP_FL_ENC_UTF_8);
    assert_true(i >= 0);
    assert_int_equal(zip_set_file_compression(zip, (zip_uint64_t)i, method, 0), 0);
    assert_int_equal(zip_close(zip), 0);
}

static void test_npz_refused(void **state)
{
    unsigned char npy[1024], zip[sizeof npz_deflated];
    size_t n = make_npy(npy, 1, DICT("<f4", "False", "(2,)"), 8);

    (void)state;
    make_zip("a.npz", "readme.txt", "hello", 5, ZIP_CM_STORE);
    test_refused("a.npz", QSAE_EFORMAT, "readme.txt");
    make_zip("a.npz", "a.npy", npy, n - 1, ZIP_CM_STORE);
    test_refused("a.npz", QSAE_EFORMAT, "shape needs 8 bytes");
    make_zip("a.npz", "a.npy", npy, n - 1, ZIP_CM_DEFLATE);
    test_refused("a.npz", QSAE_EFORMAT, "shape needs 8 bytes");
    make_zip("a.npz", "a.npy", npy, 20, ZIP_CM_STORE);
    test_refused("a.npz", QSAE_EFORMAT, "truncated");
    make_zip("a.npz", "a.npy", npy, 0, ZIP_CM_STORE);
    test_refused("a.npz", QSAE_EFORMAT, "not an npy");
    n = make_npy(npy, 1, DICT("|O", "False", "(1,)"), 8);
    make_zip("a.npz", "a.npy", npy, n, ZIP_CM_STORE);
    test_refused("a.npz", QSAE_EPICKLE, "pickle");
    n = make_npy(npy, 1, DICT("|u1", "False", "(1099511627776,)"), 8);
    make_zip("a.npz", "a.npy", npy, n, ZIP_CM_DEFLATE);
    test_refused("a.npz", QSAE_EFORMAT, "shape needs 1099511627776");
    /* torch files are zips with a pickle inside */
    make_zip("m.bin", "archive/data.pkl", "\x80\2}.", 4, ZIP_CM_STORE);
    test_refused("m.bin", QSAE_EPICKLE, "cfg.json + sae_weights.safetensors");
    make_zip("m.pt", "data.pkl", "\x80\2}.", 4, ZIP_CM_STORE);
    test_refused("m.pt", QSAE_EPICKLE, "refused");
    test_write("empty.npz", "PK\5\6\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 21);
    test_refused("empty.npz", QSAE_EFORMAT, "zip");
    for (size_t k = 4; k < sizeof npz_deflated; k += 7) {
        test_write("cut.npz", npz_deflated, k);
        test_refused("cut.npz", QSAE_EFORMAT, "cut.npz");
    }
    /* No damaged byte may go unnoticed where data lies, or crash anywhere. */
    for (size_t k = 4; k < sizeof zip; k++) {
        qsae__tensors *t = NULL;
        memcpy(zip, npz_deflated, sizeof zip);
        zip[k] ^= 0x11;
        test_write("flip.npz", zip, sizeof zip);
        if (qsae__tensors_load(test_contexts[k % 2], test_path("flip.npz"), &t) == QSAE_OK)
            assert_true(qsae__tensors_len(t) <= 3);
        qsae__tensors_unref(&t);
    }
}

/* A member that claims more than deflate can hold is refused before memory is taken for it. */
static void test_npz_bomb(void **state)
{
    unsigned char file[4096], npy[1024];
    const size_t n = make_npy(npy, 1, DICT("|u1", "False", "(64424509440,)"), 8);
    FILE *f;
    size_t size, at = 0;

    (void)state;
    make_zip("bomb.npz", "a.npy", npy, n, ZIP_CM_DEFLATE);
    f = fopen(test_path("bomb.npz"), "rb");
    assert_non_null(f);
    size = fread(file, 1, sizeof file, f);
    fclose(f);
    for (size_t i = 0; i + 4 < size; i++)
        if (memcmp(file + i, "PK\1\2", 4) == 0)
            at = i;
    assert_true(at > 0);
    memset(file + at + 24, 0xfe, 4); /* uncompressed size in the directory */
    memset(file + 22, 0xfe, 4);      /* and in the local header */
    test_write("bomb.npz", file, size);
    test_refused("bomb.npz", QSAE_EFORMAT, "cannot hold");
}

static void test_pickles(void **state)
{
    static const struct {
        const unsigned char *data;
        size_t size;
    } list[] = { { pickle_2, sizeof pickle_2 }, { pickle_3, sizeof pickle_3 },
                 { pickle_4, sizeof pickle_4 }, { pickle_5, sizeof pickle_5 } };

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        test_write("model.safetensors", list[i].data, list[i].size);
        test_refused("model.safetensors", QSAE_EPICKLE, "cfg.json + sae_weights.safetensors");
    }
    test_write("short", "\x80\4", 2);
    test_refused("short", QSAE_EPICKLE, "refused");
}

/* The same SAE, saved as npz and as safetensors. */
static void test_npz_equals_safetensors(void **state)
{
    static const char *const names[] = { "W_enc", "W_dec", "b_enc", "b_dec", "threshold" };
    const char *folder = QSAE_TEST_SHARED "/data/stories260k-saes";
    char a[512], b[512];
    qsae__tensors *x = NULL, *y = NULL;

    (void)state;
    snprintf(a, sizeof a, "%s/jumprelu/sae_weights.safetensors", folder);
    snprintf(b, sizeof b, "%s/jumprelu-npz", folder);
    if (!qsae__file_exists(a)) {
        print_message("skipped: %s is absent\n", a);
        skip();
    }
    assert_int_equal(qsae__tensors_load(test_contexts[0], a, &x), QSAE_OK);
    assert_int_equal(qsae__tensors_load(test_contexts[0], b, &y), QSAE_OK);
    assert_int_equal(qsae__tensors_len(y), 5);
    for (size_t i = 0; i < 5; i++) {
        const qsae__tensor *p = qsae__tensors_find(x, names[i]);
        const qsae__tensor *q = qsae__tensors_find(y, names[i]);
        assert_non_null(p);
        assert_non_null(q);
        assert_int_equal(p->dtype, q->dtype);
        assert_int_equal(p->bytes, q->bytes);
        assert_memory_equal(p->shape, q->shape, sizeof p->shape);
        assert_memory_equal(p->data, q->data, p->bytes);
    }
    qsae__tensors_unref(&x);
    qsae__tensors_unref(&y);
}

const struct CMUnitTest npy_tests[] = {
    cmocka_unit_test(test_npy_refused),  cmocka_unit_test(test_npy_good),
    cmocka_unit_test(test_numpy),        cmocka_unit_test(test_npz_refused),
    cmocka_unit_test(test_npz_bomb),     cmocka_unit_test(test_pickles),
    cmocka_unit_test(test_npz_equals_safetensors),
};
const size_t n_npy_tests = sizeof npy_tests / sizeof *npy_tests;
