/* SPDX-License-Identifier: BSD-2-Clause */
/* One file per decision of the readers that the other tests leave open (tests/coverage). */
#include "formats_test.h"

#include <sys/stat.h>
#include <unistd.h>

#include <zip.h>

#include "formats/members.h"
#include "formats/set.h"
#include "numpy_files.h"

#define U8(shape, begin, end) \
    "{\"dtype\":\"U8\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"

static void refuse_header(const char *header, size_t data, int32_t status, const char *part)
{
    test_safetensors("edge", header, data);
    test_refused("edge", status, part);
}

static qsae__tensors *load(const char *name)
{
    qsae__tensors *t = NULL;

    if (qsae__tensors_load(test_contexts[1], test_path(name), &t) != QSAE_OK)
        fail_msg("%s: %s", name, qsae_error_message());
    return t;
}

static void test_members(void **state)
{
    static const struct {
        const char *header, *part;
    } bad[] = {
        { "{\"__metadata__\":{\"a\":\"b\" \"c\":\"d\"}}", "',' or '}' expected" },
        { "{\"__metadata__\":{\"a\":\"b\",\"a\":\"c\"}}", "__metadata__: duplicate key \"a\"" },
        { "{\"__metadata__\":{\"\\q\":\"b\"}}", "no JSON string" },
        { "{\"__metadata__\":{\"a\":\"\\q\"}}", "no JSON string" },
        { "{\"__metadata__\":{\"a\":\"\t\"}}", "no JSON string" },
        { "{\"__metadata__\":{\"a\":true}}", "found boolean" },
        { "{\"__metadata__\":{\"a\":false}}", "found boolean" },
        { "{\"__metadata__\":{\"a\":[]}}", "found array" },
        { "{\"__metadata__\":\"a\"}", "found string" },
        { "{\"a\":" U8("[1]", "0", "1"), "',' or '}' expected near end of file" },
        { "{\"a", "string expected as the name of a member near end of file" },
        { "{\"a\\", "string expected" },
        { "{\"a\\\"", "string expected" },
        { "{\"a\\\":1}", "string expected" },
        { "{a\":1}", "string expected" },
        { "{\"a\"", "':' expected near end of file" },
        { "{\"a\" \n 1}", ":2: ':' expected" },
        { "{\"a\":", "value without an end near end of file" },
        { "{\"a\":\"b", "string without an end" },
        { "{\"a\":[\"b", "string without an end" },
        { "{\"a\":[1", "value without an end" },
        { "{\"a\":1", "value without an end" },
        { "{\"a\":,\"b\":1}", "value expected" },
        { "{\"a\":]}", "value expected" },
        { "{\"a\":1,}", "string expected" },
        { "{\"__metadata__\":{\"a\":\"b\"x}}", "',' or '}' expected" },
        { "{\"__metadata__\":{\"a\":\"b\"\"x\"}}", "',' or '}' expected" },
        { "{\"a\":1 }\n\r\t x", ":2: end of file expected" },
        { " \n\t\r", ":2: '{' expected near end of file" },
        { "", ":1: '{' expected" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        refuse_header(bad[i].header, 1, QSAE_EFORMAT, bad[i].part);
    /* white space of every kind behind a value that is no string; numbers end there */
    for (const char *c = " \t\n\r"; *c != '\0'; c++) {
        char header[120];
        snprintf(header, sizeof header, "{\"a\":7%c}", *c);
        refuse_header(header, 0, QSAE_EFORMAT, "tensor \"a\": expected an object");
        snprintf(header, sizeof header, "{%c\"a\"%c:%c" U8("[1]", "0", "1") "%c}%c", *c, *c, *c, *c,
                 *c);
        test_safetensors("edge", header, 1);
        qsae__tensors *t = load("edge");
        assert_int_equal(qsae__tensors_len(t), 1);
        qsae__tensors_unref(&t);
    }
    refuse_header("{\"a\":7]", 0, QSAE_EFORMAT, "',' or '}' expected");
}

/* Escapes in names and metadata; the longest description that is read. */
static void test_descriptions(void **state)
{
    char header[5000];
    qsae__tensors *t;
    static const char entry[] = U8("[1]", "0", "1");

    (void)state;
    test_safetensors("edge",
                     "{\"__metadata__\":{\"\\u0061\\n\":\"\\\"x\\\\\",\"k\":\"v\",\"l\":\"w\"},"
                     "\"\\u0062\\/\":" U8("[1]", "0", "1") "}",
                     1);
    t = load("edge");
    assert_string_equal(qsae__tensors_metadata(t, "a\n"), "\"x\\");
    assert_string_equal(qsae__tensors_metadata(t, "k"), "v");
    assert_string_equal(qsae__tensors_metadata(t, "l"), "w");
    assert_string_equal(qsae__tensors_at(t, 0)->name, "b/");
    qsae__tensors_unref(&t);
    for (int more = 0; more < 2; more++) { /* 4,096 bytes of a description, 4,097 */
        const size_t length = (size_t)(4096 + more), n = sizeof entry - 1;
        int at = snprintf(header, sizeof header, "{\"a\":");
        memcpy(header + at, entry, n - 1);
        memset(header + (size_t)at + n - 1, ' ', length - n);
        strcpy(header + (size_t)at + length - 1, "}}");
        if (more)
            refuse_header(header, 1, QSAE_EFORMAT, "a description of 4097 bytes, at most 4096");
        else
            test_safetensors("edge", header, 1);
        if (!more) {
            t = load("edge");
            qsae__tensors_unref(&t);
        }
    }
    /* depth: 62 lists in an object in the header are the 64 levels of JSON */
    for (int depth = 62; depth <= 63; depth++) {
        char *p = header + sprintf(header, "{\"a\":{\"x\":");
        memset(p, '[', (size_t)depth);
        memset(p + depth, ']', (size_t)depth);
        strcpy(p + 2 * depth, "}}");
        refuse_header(header, 0, QSAE_EFORMAT, depth == 62 ? "tensor \"a\": expected an object"
                      : "deeper than 64");
    }
}

/* An npy file of exactly this header, and `data` zero bytes. */
static size_t raw_npy(unsigned char *out, int major, int minor, const char *dict, size_t data)
{
    const size_t n = strlen(dict), prefix = major == 1 ? 10 : 12;

    memcpy(out, "\x93NUMPY", 6);
    out[6] = (unsigned char)major;
    out[7] = (unsigned char)minor;
    memset(out + 8, 0, 4);
    out[8] = (unsigned char)n;
    memcpy(out + prefix, dict, n);
    memset(out + prefix + n, 0, data);
    return prefix + n + data;
}

#define DICT(descr, order, shape) \
    "{'descr': '" descr "', 'fortran_order': " order ", 'shape': " shape ", }"

static void test_npy_edges(void **state)
{
    static const struct {
        int major, minor;
        const char *dict;
        size_t data;
        int32_t status;
        const char *part;
    } bad[] = {
        { 0, 0, DICT("<f4", "False", "(1,)"), 4, QSAE_EUNSUPPORTED, "npy version 0.0" },
        { 1, 1, DICT("<f4", "False", "(1,)"), 4, QSAE_EUNSUPPORTED, "npy version 1.1" },
        { 1, 0, DICT("<V2", "False", "(1,)"), 4, QSAE_EUNSUPPORTED, "(bf16?)" },
        { 1, 0, "{'descr", 0, QSAE_EFORMAT, "expected a dict" },
        { 1, 0, "{'descr'", 0, QSAE_EFORMAT, "expected a dict" },
        { 1, 0, "{'descr' '<f4'}", 0, QSAE_EFORMAT, "expected a dict" },
        { 1, 0, "{'descr': '<f4", 0, QSAE_EFORMAT, "descr: expected a string" },
        { 1, 0, "{'descr': ", 0, QSAE_EFORMAT, "descr: expected a string" },
        { 1, 0, "{'descr': '<f4444444444444444444444444444444'", 0, QSAE_EFORMAT, "descr" },
        { 1, 0, "{'desc\nr': '<f4'}", 0, QSAE_EFORMAT, "expected a dict" },
        { 1, 0, "{'fortran_order': Tru", 0, QSAE_EFORMAT, "expected a dict" },
        { 1, 0, "{'fortran_order': Fals", 0, QSAE_EFORMAT, "expected a dict" },
        { 1, 0, "{'shape': ", 0, QSAE_EFORMAT, "shape: expected a tuple" },
        { 1, 0, "{'shape': (1", 0, QSAE_EFORMAT, "shape: expected a tuple of counts" },
        { 1, 0, "{'shape': (1,", 0, QSAE_EFORMAT, "shape: expected a tuple of counts" },
        { 1, 0, "{'shape': (1a,)}", 0, QSAE_EFORMAT, "shape: expected a tuple of counts" },
        { 1, 0, "{'shape': (:,)}", 0, QSAE_EFORMAT, "shape: expected a tuple of counts" },
        { 1, 0, "{'shape': (1,), 'shape': (1,)}", 0, QSAE_EFORMAT, "repeated key \"shape\"" },
        { 1, 0, "{'fortran_order': True, 'fortran_order': True}", 0, QSAE_EFORMAT,
          "repeated key \"fortran_order\"" },
        { 1, 0, "{'descr': '<f4', 'shape': (1,)}", 4, QSAE_EFORMAT, "expected a dict" },
        { 1, 0, "{'fortran_order': True, 'shape': (1,)}", 4, QSAE_EFORMAT, "expected a dict" },
        { 1, 0, "{'descr': '<f4', 'fortran_order': True}", 4, QSAE_EFORMAT, "expected a dict" },
        { 1, 0, "{}", 4, QSAE_EFORMAT, "expected a dict" },
        { 1, 0, DICT("<f4", "False", "(1,)") "\n\n}", 4, QSAE_EFORMAT, "expected a dict" },
        { 1, 0, DICT("<f8", "False", "(2305843009213693952,)"), 0, QSAE_EFORMAT, "overflows" },
    };
    static const char *const good[] = {
        "\t{\t'descr'\t:\t'<f4',\n'fortran_order':True,'shape':(2,)}\t\n",
        DICT("<f4", "True", "(0, 3)"), DICT("<f4", "True", "()"), DICT("<f4", "False", "(3,2,)"),
    };
    static const int64_t bytes[] = { 8, 0, 4, 24 };
    unsigned char file[512];

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        test_write("edge.npy", file, raw_npy(file, bad[i].major, bad[i].minor, bad[i].dict,
                                             bad[i].data));
        test_refused("edge.npy", bad[i].status, bad[i].part);
    }
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        test_write("edge.npy", file, raw_npy(file, 1 + (int)i % 3, 0, good[i], (size_t)bytes[i]));
        qsae__tensors *t = load("edge.npy");
        assert_int_equal(qsae__tensors_at(t, 0)->bytes, bytes[i]);
        assert_int_equal(qsae__tensors_at(t, 0)->dtype, QSAE_F32);
        qsae__tensors_unref(&t);
    }
    /* prefixes of every length */
    for (size_t n = 6; n < 12; n++) {
        test_write("edge.npy", "\x93NUMPY\2\0\0\0\0\0", n);
        test_refused("edge.npy", QSAE_EFORMAT, n < 10 ? "not an npy array" : "header is truncated");
    }
    test_write("edge.npy", "\x93NUMPY\2\0\0\0\0\0", 12);
    test_refused("edge.npy", QSAE_EFORMAT, "expected a dict");
    /* the longest header: 65,536 bytes are read, one more is refused */
    unsigned char *const wide = malloc(12 + 65537 + 4);
    const size_t n = strlen(DICT("<f4", "False", "(1,)"));
    assert_non_null(wide);
    memcpy(wide, "\x93NUMPY\2\0\0\0\1\0", 12);
    memset(wide + 12, ' ', 65537);
    memcpy(wide + 12, DICT("<f4", "False", "(1,)"), n);
    memset(wide + 12 + 65536, 0, 5);
    test_write("edge.npy", wide, 12 + 65536 + 4);
    qsae__tensors *t = load("edge.npy");
    qsae__tensors_unref(&t);
    wide[8] = 1;
    test_write("edge.npy", wide, 12 + 65537 + 4);
    test_refused("edge.npy", QSAE_EFORMAT, "header of 65537 bytes, at most 65536");
    free(wide);
}

/* A zip of members in the order of the list; data of `size` bytes. */
struct member {
    const char *name;
    const void *data;
    size_t size;
    zip_int32_t method;
};

static void make_zip(const char *file, const struct member *members, size_t n)
{
    zip_t *const zip = zip_open(test_path(file), ZIP_CREATE | ZIP_TRUNCATE, NULL);

    assert_non_null(zip);
    for (size_t i = 0; i < n; i++) {
        const zip_int64_t k = zip_file_add(
            zip, members[i].name, zip_source_buffer(zip, members[i].data, members[i].size, 0),
            ZIP_FL_ENC_UTF_8);
        assert_int_equal(k, (zip_int64_t)i);
        assert_int_equal(zip_set_file_compression(zip, i, members[i].method, 0), 0);
    }
    assert_int_equal(zip_close(zip), 0);
}

static unsigned char *read_back(const char *name, size_t *size)
{
    FILE *const f = fopen(test_path(name), "rb");
    unsigned char *const data = malloc(1 << 20);

    assert_true(f != NULL && data != NULL);
    *size = fread(data, 1, 1 << 20, f);
    fclose(f);
    return data;
}

/* Writes `bytes` at an offset of the local and of the central header of the only member. */
static void patch_zip(const char *name, size_t local, size_t central, const void *bytes, size_t n)
{
    size_t size, at = 0;
    unsigned char *const data = read_back(name, &size);

    for (size_t i = 0; i + 4 < size; i++)
        if (memcmp(data + i, "PK\1\2", 4) == 0)
            at = i;
    assert_true(at > 0);
    memcpy(data + local, bytes, n);
    memcpy(data + at + central, bytes, n);
    test_write(name, data, size);
    free(data);
}

static void test_npz_edges(void **state)
{
    static const char *const fortran[] = { DICT("<f4", "True", "(2,)"),
                                           DICT("<f4", "True", "(0, 2)"),
                                           DICT("<f4", "True", "(1, 2)") };
    unsigned char npy[256], other[256];
    size_t n;
    struct member one = { "a.npy", npy, 0, ZIP_CM_STORE };

    (void)state;
    for (int i = 0; i < 3; i++) {
        one.size = raw_npy(npy, 1, 0, fortran[i], i == 1 ? 0 : 8);
        make_zip("edge.npz", &one, 1);
        qsae__tensors *t = load("edge.npz");
        assert_int_equal(qsae__tensors_find(t, "a")->bytes, i == 1 ? 0 : 8);
        qsae__tensors_unref(&t);
    }
    /* headers of 0 and 1 bytes, shorter than what is read first */
    for (size_t length = 0; length < 2; length++) {
        memcpy(npy, "\x93NUMPY\1\0\0\0{}\0\0", 14);
        npy[8] = (unsigned char)length;
        one.size = 14;
        make_zip("edge.npz", &one, 1);
        test_refused("edge.npz", QSAE_EFORMAT, "npy header is truncated");
    }
    n = one.size = raw_npy(npy, 1, 0, DICT("<f4", "False", "(2,)"), 8);
    make_zip("edge.npz", &one, 1);
    patch_zip("edge.npz", 8, 10, "\x0c\0", 2);
    test_refused("edge.npz", QSAE_EUNSUPPORTED, "compression method 12");
    make_zip("edge.npz", &one, 1);
    patch_zip("edge.npz", 6, 8, "\1\0", 2);
    test_refused("edge.npz", QSAE_EUNSUPPORTED, "encrypted");
    make_zip("edge.npz", &one, 1);
    other[0] = (unsigned char)(n - 1);
    patch_zip("edge.npz", 22, 24, other, 1); /* stored: fewer bytes than are there */
    test_refused("edge.npz", QSAE_EFORMAT, "cannot hold");
    make_zip("edge.npz", &one, 1);
    other[0] = (unsigned char)(n + 1);
    patch_zip("edge.npz", 22, 24, other, 1);
    test_refused("edge.npz", QSAE_EFORMAT, "cannot hold");
    make_zip("edge.npz", &one, 1);
    patch_zip("edge.npz", 14, 16, "\0\0\0\0", 4); /* the checksum */
    test_refused("edge.npz", QSAE_EFORMAT, "member is damaged");
    /* names */
    one.name = ".npy";
    make_zip("edge.npz", &one, 1);
    qsae__tensors *t = load("edge.npz");
    assert_string_equal(qsae__tensors_at(t, 0)->name, "");
    qsae__tensors_unref(&t);
    one.name = "npy";
    make_zip("edge.npz", &one, 1);
    test_refused("edge.npz", QSAE_EFORMAT, "member \"npy\" is no .npy array");
    one.name = "x/data.pkl.npy";
    make_zip("edge.npz", &one, 1);
    t = load("edge.npz");
    assert_string_equal(qsae__tensors_at(t, 0)->name, "x/data.pkl");
    qsae__tensors_unref(&t);
}

static void put32(unsigned char *p, size_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (unsigned char)(v >> (8 * i));
}

/* Two members whose bytes overlap: one lies in the other. Together they are larger than the file.
 */
static void test_npz_overlap(void **state)
{
    unsigned char npy[2048], *inner, file[8192], *p = file;
    size_t inner_size, n, directory;
    const struct member b = { "b.npy", npy, 0, ZIP_CM_STORE };
    struct member with = b;

    (void)state;
    with.size = raw_npy(npy, 1, 0, DICT("|u1", "False", "(1500,)"), 1500);
    make_zip("edge.npz", &with, 1);
    inner = read_back("edge.npz", &inner_size);
    n = 30 + 5 + with.size; /* its local header and data, which become the data of a.npy */
    memcpy(p, inner, 30);
    memset(p + 14, 0, 4);
    put32(p + 18, n);
    put32(p + 22, n);
    memcpy(p + 30, "a.npy", 5);
    memcpy(p + 35, inner, n);
    directory = 35 + n;
    p += directory;
    for (int i = 0; i < 2; i++) { /* b.npy first */
        memcpy(p, inner + n, 46);
        memcpy(p + 46, i == 0 ? "b.npy" : "a.npy", 5);
        if (i == 1) {
            memset(p + 16, 0, 4);
            put32(p + 20, n);
            put32(p + 24, n);
        }
        put32(p + 42, i == 0 ? 35 : 0);
        p += 46 + 5;
    }
    memcpy(p, "PK\5\6\0\0\0\0\2\0\2\0", 12);
    put32(p + 12, 2 * 51);
    put32(p + 16, directory);
    memset(p + 20, 0, 2);
    free(inner);
    test_write("edge.npz", file, (size_t)(p + 22 - file));
    test_refused("edge.npz", QSAE_EFORMAT, "members are larger than the file");
}

/* More than is read at once. */
static void test_npz_large(void **state)
{
    const size_t size = (1 << 20) + 7;
    unsigned char *const npy = malloc(size + 128);
    struct member one = { "a.npy", npy, 0, ZIP_CM_DEFLATE };

    (void)state;
    assert_non_null(npy);
    one.size = raw_npy(npy, 1, 0, DICT("|u1", "False", "(1048583,)"), size);
    npy[one.size - 1] = 7;
    npy[one.size - 8] = 9;
    make_zip("edge.npz", &one, 1);
    qsae__tensors *t = load("edge.npz");
    const unsigned char *const data = qsae__tensors_find(t, "a")->data;
    assert_int_equal(qsae__tensors_find(t, "a")->bytes, size);
    assert_true(data[0] == 0 && data[size - 1] == 7 && data[size - 8] == 9);
    qsae__tensors_unref(&t);
    free(npy);
}

static void test_sniff(void **state)
{
    static const char *const pickles[] = { "m.bin", "m.pt", "m.pth", "m.pkl", "m.ckpt" };

    (void)state;
    test_write("edge", "\x80\1\0\0\0\0\0\0\0", 9); /* protocols 2 to 5 are pickles */
    test_refused("edge", QSAE_EFORMAT, "header of 384 bytes");
    test_write("edge", "\x80\6\0\0\0\0\0\0\0", 9);
    test_refused("edge", QSAE_EFORMAT, "header of 1664 bytes");
    test_write("edge", "\x80\2\0\0\0\0\0\0x", 9);
    test_refused("edge", QSAE_EPICKLE, "pickle");
    test_write("edge", "\x80\2\0\0\0\0\0\0", 8);
    test_refused("edge", QSAE_EPICKLE, "pickle");
    test_write("edge", "\x80\2\0\0\1\0\0\0{", 9);
    test_refused("edge", QSAE_EPICKLE, "pickle");
    test_write("edge", "\x80\2\0\0\0\0\0\0{", 9);
    test_refused("edge", QSAE_EFORMAT, "header of 640 bytes");
    test_write("edge", "\x80", 1);
    test_refused("edge", QSAE_EFORMAT, "too few");
    test_write("edge", "GGU", 3);
    test_refused("edge", QSAE_EFORMAT, "too few");
    test_write("edge", "GGUF", 4);
    test_refused("edge", QSAE_EFORMAT, "header at byte 0");
    test_write("edge", "PK\3\4", 4);
    test_refused("edge", QSAE_EFORMAT, "zip");
    test_write("edge", "PK\3", 3);
    test_refused("edge", QSAE_EFORMAT, "too few");
    test_write("edge", "\x93NUMP", 5);
    test_refused("edge", QSAE_EFORMAT, "too few");
    static const char *const left[] = { "edge", "edge.npy", "edge.npz" };
    for (size_t i = 0; i < 3; i++)
        test_remove(left[i]);
    for (size_t i = 0; i < sizeof pickles / sizeof pickles[0]; i++) {
        test_write(pickles[i], "\x80\2}.", 4);
        test_refused("", QSAE_EPICKLE, pickles[i]);
        test_remove(pickles[i]);
        test_write(strrchr(pickles[i], '.'), "\x80\2}.", 4); /* an ending alone is no name */
        test_refused("", QSAE_ENOENT, "no *.safetensors");
        test_remove(strrchr(pickles[i], '.'));
    }
}

/* The pure parts of a set. */
static void test_sets(void **state)
{
    static const int64_t negative[] = { 2, -1 }, blocks[] = { 2, 64 }, odd[] = { 2, 65 },
                         huge[] = { INT64_MAX / 32, 32 }, wide[] = { -1, 7 };
    uint64_t bytes = 0;
    const qsae__tensor *x;
    qsae__tensors *t;

    (void)state;
    assert_false(qsae__shape_bytes(negative, 2, QSAE_F32, &bytes));
    assert_true(qsae__shape_bytes(blocks, 2, QSAE_Q8_0, &bytes));
    assert_int_equal(bytes, 136);
    assert_false(qsae__shape_bytes(odd, 2, QSAE_Q8_0, &bytes));
    assert_false(qsae__shape_bytes(NULL, 0, QSAE_Q8_0, &bytes));
    assert_true(qsae__shape_bytes(huge, 2, QSAE_Q8_0, &bytes)); /* beyond i64, not beyond u64 */
    assert_true(bytes == (uint64_t)(INT64_MAX / 32) * 34);
    assert_true(qsae__shape_bytes(NULL, 0, QSAE_F64, &bytes));
    assert_int_equal(bytes, 8);
    assert_null(qsae__tensors_ref(NULL));
    qsae__tensors_unref(NULL);
    test_safetensors("edge", "{\"a\":" U8("[2,3]", "0", "6") ",\"s\":" U8("[]", "6", "7")
                     ",\"z\":" U8("[0,5]", "7", "7") "}", 7);
    t = load("edge");
    assert_int_equal(qsae__tensors_need(t, "a", 2, wide, &x), QSAE_EMISMATCH);
    assert_non_null(strstr(qsae_error_message(), "expected shape [*, 7], found [2, 3]"));
    assert_int_equal(qsae__tensors_need(t, "z", 1, NULL, &x), QSAE_EMISMATCH);
    assert_non_null(strstr(qsae_error_message(), "found shape [0, 5]"));
    assert_int_equal(qsae__tensors_need(t, "s", 2, wide, &x), QSAE_EMISMATCH);
    assert_non_null(strstr(qsae_error_message(), "expected shape [*, 7], found []"));
    assert_int_equal(qsae__tensors_need(t, "s", 1, NULL, &x), QSAE_EMISMATCH);
    assert_non_null(strstr(qsae_error_message(), "expected rank 1, found shape []"));
    assert_int_equal(qsae__tensors_need(t, "a", 0, NULL, &x), QSAE_EMISMATCH);
    assert_non_null(strstr(qsae_error_message(), "found shape [2, 3]"));
    /* where the data of a tensor lie in a file that can be opened again; -1: in own memory */
    uint64_t at = 77;
    int fd;
    assert_int_equal(qsae__tensor_reopen(t, qsae__tensors_find(t, "s"), &at), -1); /* read whole */
    qsae__tensors_unref(&t);
    assert_int_equal(qsae__tensors_load(test_contexts[0], test_path("edge"), &t), QSAE_OK);
    fd = qsae__tensor_reopen(t, qsae__tensors_find(t, "s"), &at);
    assert_true(fd >= 0);
    assert_int_equal(lseek(fd, 0, SEEK_END), at + 1);
    close(fd);
    const qsae__tensor elsewhere[] = { { .data = NULL }, { .data = (void *)UINTPTR_MAX } };
    for (int i = 0; i < 2; i++)
        assert_int_equal(qsae__tensor_reopen(t, &elsewhere[i], &at), -1);
    qsae__tensor_expect(t, qsae__tensors_find(t, "a"));
    qsae__tensor_release(t, qsae__tensors_find(t, "a"));
    assert_int_equal(((const unsigned char *)qsae__tensors_find(t, "a")->data)[5], 5);
    qsae__tensors_unref(&t);
    test_write("edge", npy_fortran, sizeof npy_fortran);
    assert_int_equal(qsae__tensors_load(test_contexts[0], test_path("edge"), &t), QSAE_OK);
    assert_int_equal(qsae__tensor_reopen(t, qsae__tensors_at(t, 0), &at), -1);
    qsae__tensors_unref(&t);
    test_remove("edge");
}

const struct CMUnitTest edge_tests[] = {
    cmocka_unit_test(test_members),     cmocka_unit_test(test_descriptions),
    cmocka_unit_test(test_npy_edges),   cmocka_unit_test(test_npz_edges),
    cmocka_unit_test(test_npz_overlap), cmocka_unit_test(test_npz_large),
    cmocka_unit_test(test_sniff),       cmocka_unit_test(test_sets),
};
const size_t n_edge_tests = sizeof edge_tests / sizeof edge_tests[0];
