/* SPDX-License-Identifier: BSD-2-Clause */
#include "formats_test.h"

#include "formats/set.h"
#include "formats/writer.h"

static const qsae__tensor four = { .name = "a", .data = "abcd", .bytes = 4, .shape = { 4 },
                                   .rank = 1, .dtype = QSAE_U8 };

static void fails(int32_t status, int32_t expected, const char *part)
{
    if (status != expected || strstr(qsae_error_message(), part) == NULL)
        fail_msg("expected %s with \"%s\", found %s: %s", qsae_status_name(expected), part,
                 qsae_status_name(status), qsae_error_message());
}

static void test_tensors_refused(void **state)
{
    qsae__tensor bad[9];

    (void)state;
    for (size_t i = 0; i < 9; i++)
        bad[i] = four;
    bad[0].name = NULL;
    bad[1].rank = -1;
    bad[2] = (qsae__tensor){ .name = "r", .rank = 9, .dtype = QSAE_U8 }; /* of no bytes */
    bad[3].dtype = QSAE_Q8_0;
    bad[4].shape[0] = -4;
    bad[5].bytes = 5;
    bad[6].data = NULL;
    bad[7].dtype = 0;
    bad[8].dtype = QSAE_F4, bad[8].shape[0] = 3;
    for (size_t i = 0; i < 9; i++) {
        const qsae__tensor list[2] = { four, bad[i] };
        fails(qsae__safetensors_write(test_contexts[0], test_path("w"), list, 2), QSAE_EINVAL,
              "safetensors: tensor 1 (\"");
        assert_false(qsae__file_exists(test_path("w")));
    }
    assert_int_equal(qsae__safetensors_write(test_contexts[0], test_path("w"), &four, 1), QSAE_OK);
    test_remove("w");
    fails(qsae__safetensors_write(test_contexts[0], "/nowhere/at/all", &four, 1), QSAE_ENOENT,
          "/nowhere");
}

static void test_begins_refused(void **state)
{
    qsae__tensor bad[6];
    qsae__writer *w = NULL;

    (void)state;
    for (size_t i = 0; i < 6; i++)
        bad[i] = four;
    bad[0].rank = -1;
    bad[1].rank = 9;
    bad[2].dtype = QSAE_Q8_0;
    bad[3].shape[0] = -1;
    bad[4].dtype = QSAE_F64, bad[4].shape[0] = INT64_MAX;
    bad[5].name = "\xff";
    assert_int_equal(qsae__writer_open(test_contexts[0], test_path("w"), 0, &w), QSAE_OK);
    for (size_t i = 0; i < 6; i++)
        fails(qsae__writer_begin(w, &bad[i]), QSAE_EINVAL,
              i < 5 ? "shape and dtype have no size" : "is not UTF-8");
    bad[0] = four;
    bad[0].name = "__metadata__";
    fails(qsae__writer_begin(w, &bad[0]), QSAE_EINVAL, "occurs twice or is reserved");
    assert_int_equal(qsae__writer_begin(w, &four), QSAE_OK);
    fails(qsae__writer_put(w, "abcde", 5), QSAE_EINTERNAL, "more data than the tensor has");
    assert_int_equal(qsae__writer_put(w, "abc", 3), QSAE_OK);
    fails(qsae__writer_put(w, "de", 2), QSAE_EINTERNAL, "more data than the tensor has");
    fails(qsae__writer_begin(w, &four), QSAE_EINTERNAL, "begins before another is complete");
    fails(qsae__writer_commit(&w), QSAE_EINTERNAL, "the last tensor is incomplete");
    assert_null(w);
    assert_false(qsae__file_exists(test_path("w")));
    /* room for less than the header needs; 64 bytes are the least */
    assert_int_equal(qsae__writer_open(test_contexts[0], test_path("w"), 0, &w), QSAE_OK);
    assert_int_equal(qsae__writer_begin(w, &four), QSAE_OK);
    assert_int_equal(qsae__writer_put(w, "abcd", 4), QSAE_OK);
    fails(qsae__writer_commit(&w), QSAE_EINTERNAL, "header of");
    qsae__writer_discard(&w);
    qsae__writer_discard(NULL);
}

/* Names that need escapes get room for them, many tensors more than is blanked at once. */
static void test_room(void **state)
{
    enum { N = 150 };
    qsae__tensor *const list = calloc(N, sizeof *list);
    char (*const names)[64] = calloc(N, sizeof *names);
    qsae__tensors *t = NULL;

    (void)state;
    assert_true(list != NULL && names != NULL);
    assert_true(qsae__writer_room("ab", 1) > qsae__writer_room("a", 1));
    assert_true(qsae__writer_room("a", 2) > qsae__writer_room("a", 1));
    for (const char *c = "\x01\x1f\"\\\x7f"; *c != '\0'; c++)
        assert_int_equal(qsae__writer_room((const char[]){ *c, 0 }, 0),
                         qsae__writer_room("a", 0) + 5);
    assert_int_equal(qsae__writer_room(" ", 0), qsae__writer_room("a", 0));
    for (int i = 0; i < N; i++) {
        snprintf(names[i], sizeof names[i], "\x01\x1f\"\\\x7f \n%d", i);
        list[i] = four;
        list[i].name = names[i];
    }
    assert_int_equal(qsae__safetensors_write(test_contexts[0], test_path("w"), list, N), QSAE_OK);
    assert_int_equal(qsae__tensors_load(test_contexts[0], test_path("w"), &t), QSAE_OK);
    assert_int_equal(qsae__tensors_len(t), N);
    for (int i = 0; i < N; i++) {
        const qsae__tensor *const x = qsae__tensors_find(t, names[i]);
        assert_non_null(x);
        assert_memory_equal(x->data, "abcd", 4);
    }
    assert_int_equal((uintptr_t)qsae__tensors_find(t, names[0])->data % 4, 0);
    qsae__tensors_unref(&t);
    test_remove("w");
    free(list);
    free(names);
}

const struct CMUnitTest writer_tests[] = {
    cmocka_unit_test(test_tensors_refused),
    cmocka_unit_test(test_begins_refused),
    cmocka_unit_test(test_room),
};
const size_t n_writer_tests = sizeof writer_tests / sizeof writer_tests[0];
