/* SPDX-License-Identifier: BSD-2-Clause */
#include "formats_test.h"

#include <math.h>

#include "formats/logits.h"

/* 2 chunks of 6 tokens with 3 logits: rows of positions 3 and 4, of 4 + 4 u16 each. */
#define CONTEXT 6
#define VOCAB 3
#define CHUNKS 2
#define WORDS 8
#define ROWS 2
#define SIZE (8 + 12 + 4 * CONTEXT * CHUNKS + 2 * WORDS * ROWS * CHUNKS)

static const qsae__logits_shape shape = { CONTEXT, VOCAB, CHUNKS };

struct image {
    char magic[8];
    int32_t counts[3];
    int32_t tokens[CHUNKS * CONTEXT];
    uint16_t rows[CHUNKS * ROWS][WORDS];
};

static struct image make(void)
{
    struct image m = { .magic = { '_', 'l', 'o', 'g', 'i', 't', 's', '_' },
                       .counts = { CONTEXT, VOCAB, CHUNKS } };
    const float head[2] = { 0.5f, -8 };

    assert_int_equal(sizeof m, SIZE);
    for (int i = 0; i < CHUNKS * CONTEXT; i++)
        m.tokens[i] = i % VOCAB;
    for (int r = 0; r < CHUNKS * ROWS; r++) {
        memcpy(m.rows[r], head, sizeof head);
        for (int k = 4; k < WORDS; k++)
            m.rows[r][k] = (uint16_t)(100 * r + k);
    }
    return m;
}

static void refused(const struct image *m, size_t size, const char *part)
{
    for (int mode = 0; mode < 2; mode++) {
        qsae__logits_in in;
        test_write("base", m, size);
        assert_int_equal(qsae__logits_open(test_contexts[mode], test_path("base"), &in),
                         QSAE_EFORMAT);
        assert_null(in.file);
        if (strstr(qsae_error_message(), part) == NULL ||
            strstr(qsae_error_message(), test_folder) == NULL)
            fail_msg("expected \"%s\" in \"%s\"", part, qsae_error_message());
        qsae__logits_close(&in);
    }
}

static void test_shapes(void **state)
{
    static const qsae__logits_shape bad[] = { { 2, 3, 1 }, { 3, 0, 1 }, { 3, 1, 0 },
                                              { (int64_t)INT32_MAX + 1, 1, 1 },
                                              { 3, (int64_t)INT32_MAX + 1, 1 },
                                              { 3, 1, (int64_t)INT32_MAX + 1 }, { -3, 1, 1 } };
    static const char *const names[] = { "n_ctx: expected 3..", "n_vocab: expected 1..",
                                         "n_chunk: expected 1..", "n_ctx", "n_vocab", "n_chunk",
                                         "found -3" };
    const qsae__logits_shape least = { 3, 1, 1 }, most = { INT32_MAX, INT32_MAX, INT32_MAX };

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(qsae__logits_check(&bad[i], "x"), QSAE_EINVAL);
        assert_non_null(strstr(qsae_error_message(), names[i]));
    }
    assert_int_equal(qsae__logits_check(&least, "x"), QSAE_OK);
    assert_int_equal(qsae__logits_check(&most, "x"), QSAE_OK);
    assert_int_equal(qsae__logits_first(&least), 1);
    assert_int_equal(qsae__logits_rows(&least), 1);
    assert_int_equal(qsae__logits_first(&shape), 3);
    assert_int_equal(qsae__logits_rows(&shape), ROWS);
    for (int64_t v = 1; v < 9; v++)
        assert_int_equal(qsae__logits_words(v), 4 + v + v % 2);
    qsae__logits_out *out = NULL;
    /* 4 bytes a token; the rows of all chunks; rows and tokens; those and the head */
    const qsae__logits_shape large[] = { most, { INT32_MAX, INT32_MAX, 3 },
                                         { INT32_MAX, INT32_MAX - 1, 2 },
                                         { INT32_MAX - 1, INT32_MAX - 3, 2 } };
    for (size_t i = 0; i < sizeof large / sizeof large[0]; i++) {
        assert_int_equal(qsae__logits_create(test_contexts[0], test_path("out"), &large[i], NULL,
                                             &out), QSAE_EOVERFLOW);
        assert_non_null(strstr(qsae_error_message(), "too large"));
        assert_null(out);
    }
    assert_int_equal(qsae__logits_create(test_contexts[0], test_path("out"), &bad[0], NULL, &out),
                     QSAE_EINVAL);
    assert_null(out);
}

static void test_read(void **state)
{
    struct image m = make();

    (void)state;
    for (int mode = 0; mode < 2; mode++) {
        qsae__logits_in in;
        const uint16_t *rows = NULL;
        test_write("base", &m, SIZE);
        assert_int_equal(qsae__logits_open(test_contexts[mode], test_path("base"), &in), QSAE_OK);
        assert_int_equal(in.shape.context, CONTEXT);
        assert_int_equal(in.shape.vocab, VOCAB);
        assert_int_equal(in.shape.chunks, CHUNKS);
        assert_memory_equal(in.tokens, m.tokens, sizeof m.tokens);
        for (int64_t c = 0; c < CHUNKS; c++) {
            assert_int_equal(qsae__logits_chunk(&in, c, &rows), QSAE_OK);
            assert_memory_equal(rows, m.rows[c * ROWS], sizeof m.rows[0] * ROWS);
            qsae__logits_release(&in, c);
            assert_memory_equal(rows, m.rows[c * ROWS], sizeof m.rows[0] * ROWS);
        }
        qsae__logits_close(&in);
        qsae__logits_close(&in);
    }
    qsae__logits_in in;
    assert_int_equal(qsae__logits_open(test_contexts[0], test_path("none"), &in), QSAE_ENOENT);
}

static void test_files_refused(void **state)
{
    struct image m = make();

    (void)state;
    for (size_t n = 0; n < SIZE; n++)
        refused(&m, n, n < 20 ? "expected a base-logit file" : "cut off");
    m.magic[7] = 'x';
    refused(&m, SIZE, "magic");
    m = make();
    unsigned char longer[SIZE + 1] = { 0 };
    memcpy(longer, &m, SIZE);
    test_write("base", longer, sizeof longer);
    qsae__logits_in in;
    assert_int_equal(qsae__logits_open(test_contexts[0], test_path("base"), &in), QSAE_EFORMAT);
    assert_non_null(strstr(qsae_error_message(), "found 133"));
    assert_null(strstr(qsae_error_message(), "cut off"));
    for (int i = 0; i < 3; i++) {
        m = make();
        m.counts[i] = i == 0 ? 2 : 0;
        refused(&m, SIZE, i == 0 ? "n_ctx" : i == 1 ? "n_vocab" : "n_chunk");
        m.counts[i] = -1;
        refused(&m, SIZE, "found -1");
    }
    m.counts[0] = m.counts[1] = m.counts[2] = INT32_MAX;
    refused(&m, SIZE, "are no file");
    for (int i = 0; i < 2; i++) {
        m = make();
        m.tokens[CHUNKS * CONTEXT - 1] = i == 0 ? -1 : VOCAB;
        refused(&m, SIZE, i == 0 ? "token 11: expected 0..2, found -1" : "found 3");
    }
}

static void test_rows_refused(void **state)
{
    static const float bad[][2] = { { -0.5f, 0 }, { INFINITY, 0 }, { NAN, 0 }, { 1, INFINITY },
                                    { 1, NAN }, { 1e34f, 0 }, { 5.0e33f, 3.0e38f } };
    static const float good[][2] = { { 0, 0 }, { 0, -3e38f }, { 5e33f, 0 } };

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0] + sizeof good / sizeof good[0]; i++) {
        const size_t n_bad = sizeof bad / sizeof bad[0];
        struct image m = make();
        qsae__logits_in in;
        const uint16_t *rows = NULL;
        memcpy(m.rows[3], i < n_bad ? bad[i] : good[i - n_bad], 8);
        test_write("base", &m, SIZE);
        assert_int_equal(qsae__logits_open(test_contexts[0], test_path("base"), &in), QSAE_OK);
        assert_int_equal(qsae__logits_chunk(&in, 0, &rows), QSAE_OK);
        assert_int_equal(qsae__logits_chunk(&in, 1, &rows), i < n_bad ? QSAE_EFORMAT : QSAE_OK);
        if (i < n_bad)
            assert_non_null(strstr(qsae_error_message(), "chunk 1, position 4: expected a scale"));
        qsae__logits_close(&in);
    }
}

static void test_written(void **state)
{
    const struct image m = make();
    qsae__logits_out *out = NULL;
    qsae__file *file = NULL;

    (void)state;
    assert_int_equal(qsae__logits_create(test_contexts[0], test_path("out"), &shape, m.tokens,
                                         &out), QSAE_OK);
    static const int64_t wrong[][2] = { { -1, 1 }, { 1, 1 }, { 0, -1 }, { 0, 5 }, { 5, 0 } };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_int_equal(qsae__logits_put(out, wrong[i][0], wrong[i][1], m.rows[0]), QSAE_EINVAL);
        assert_non_null(strstr(qsae_error_message(), "expected up to 0 of 4"));
    }
    assert_int_equal(qsae__logits_put(out, 0, 0, m.rows[0]), QSAE_OK);
    assert_int_equal(qsae__logits_put(out, 0, 2, m.rows[1]), QSAE_OK); /* given again below */
    assert_int_equal(qsae__logits_put(out, 0, 1, m.rows[0]), QSAE_OK);
    assert_int_equal(qsae__logits_put(out, 1, 3, m.rows[1]), QSAE_OK);
    assert_int_equal(qsae__logits_put(out, 3, 2, m.rows[1]), QSAE_EINVAL);
    assert_non_null(strstr(qsae_error_message(), "rows 3 to 5: expected up to 4 of 4"));
    assert_false(qsae__file_exists(test_path("out")));
    assert_int_equal(qsae__logits_commit(&out), QSAE_OK);
    assert_null(out);
    assert_int_equal(qsae__file_open(test_contexts[0], test_path("out"), &file), QSAE_OK);
    assert_int_equal(file->size, SIZE);
    assert_memory_equal(file->data, &m, SIZE);
    qsae__file_close(&file);
    test_remove("out");
    /* rows are missing; thrown away */
    for (int i = 0; i < 2; i++) {
        assert_int_equal(qsae__logits_create(test_contexts[0], test_path("out"), &shape, m.tokens,
                                             &out), QSAE_OK);
        assert_int_equal(qsae__logits_put(out, 0, 3, m.rows[0]), QSAE_OK);
        if (i == 0) {
            assert_int_equal(qsae__logits_commit(&out), QSAE_EINVAL);
            assert_non_null(strstr(qsae_error_message(), "3 rows, expected 4"));
        } else {
            qsae__logits_discard(&out);
        }
        assert_null(out);
        assert_false(qsae__file_exists(test_path("out")));
    }
    qsae__logits_discard(&out);
    qsae__logits_discard(NULL);
    assert_int_equal(qsae__logits_create(test_contexts[0], "/nowhere/at/all", &shape, m.tokens,
                                         &out), QSAE_ENOENT);
    assert_null(out);
}

const struct CMUnitTest logits_tests[] = {
    cmocka_unit_test(test_shapes),       cmocka_unit_test(test_read),
    cmocka_unit_test(test_files_refused), cmocka_unit_test(test_rows_refused),
    cmocka_unit_test(test_written),
};
const size_t n_logits_tests = sizeof logits_tests / sizeof logits_tests[0];
